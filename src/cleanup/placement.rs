//! Where a thread's volume is, decided once from its row and its event.

use crate::host::Host;

/// Where a thread's volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On the only host that there is.
    Only,
    /// On this one of several.
    On(String),
    /// On any of several: nobody says.
    Unknown,
}

impl Placement {
    /// The placement of a thread for who serves `host`: what its row says, or else what its event claims.
    #[must_use]
    pub fn of(host: &Host, row: Option<&str>, claimed: Option<&str>) -> Self {
        match (host, row.or(claimed)) {
            (Host::Only, _) => Self::Only,
            (Host::Named(_), Some(name)) => Self::On(name.to_owned()),
            (Host::Named(_), None) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_believed_before_an_event_and_neither_where_there_is_only_one_host() {
        let one = Host::Named("a".to_owned());
        let on = |name: &str| Placement::On(name.to_owned());
        assert_eq!(Placement::of(&one, Some("b"), Some("c")), on("b"));
        assert_eq!(Placement::of(&one, None, Some("c")), on("c"));
        assert_eq!(Placement::of(&one, None, None), Placement::Unknown);
        assert_eq!(Placement::of(&Host::Only, Some("b"), Some("c")), Placement::Only);
    }
}
