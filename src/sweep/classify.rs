//! The sweep's proof: what rows and a list that was asked for after them say together. Pure.

use tracing::debug;

use crate::{
    cleanup::{Candidate, Close, Inventory},
    volume_name::{ThreadId, VolumePrefix},
};

/// A candidate whose id can name a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Its id.
    pub(super) thread: ThreadId,
    /// Its close, as it was read.
    pub(super) close: Close,
    /// A person holds it.
    pub(super) held: bool,
}

/// Rows by what a list says of their volumes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Classified {
    /// The list lacks them. It proves their absence only if it has no warnings and is that of the pinned daemon.
    pub(super) absent: Vec<Row>,
    /// Containers use them, with their ids.
    pub(super) referenced: Vec<(Row, Vec<String>)>,
    /// They are there, and no container uses them.
    pub(super) present: Vec<Row>,
    /// How many rows have ids that can't name a volume.
    pub(super) unnameable: usize,
}

/// Sorts rows by a list that was asked for after the last of them had been read.
#[must_use]
pub(super) fn classify(rows: Vec<Candidate>, prefix: &VolumePrefix, inventory: &Inventory) -> Classified {
    let mut classified = Classified::default();
    for Candidate { id, close, held } in rows {
        let thread = ThreadId::parse(&id).map_err(|error| error.to_string());
        let owned = thread.and_then(|thread| prefix.owns(&thread).map(|()| thread));
        let thread = match owned {
            Ok(thread) => thread,
            Err(error) => {
                debug!(thread.id = id, %error, "a closed thread whose id can't name a volume");
                classified.unnameable += 1;
                continue;
            }
        };
        let row = Row { thread, close, held };
        if let Some(containers) = inventory.referenced.get(&row.thread) {
            classified.referenced.push((row, containers.clone()));
        } else if inventory.present.contains(&row.thread) {
            classified.present.push(row);
        } else {
            classified.absent.push(row);
        }
    }
    classified
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str) -> Candidate {
        Candidate { id: id.to_owned(), close: Close::default(), held: false }
    }

    #[test]
    fn every_row_is_in_one_class() {
        let thread = |id: &str| ThreadId::parse(id).expect("valid");
        let inventory = Inventory {
            present: [thread("used"), thread("free")].into(),
            referenced: [(thread("used"), vec!["c".to_owned()])].into(),
            ..Inventory::default()
        };
        let prefix = VolumePrefix::parse("ha_ws_").and_then(|prefix| prefix.with_foreign("ha_ws_x_")).expect("valid");
        let rows = ["gone", "used", "free", "../x", "x_1"].map(candidate);
        let Classified { absent, referenced, present, unnameable } = classify(rows.to_vec(), &prefix, &inventory);
        let ids = |rows: Vec<Row>| rows.into_iter().map(|row| row.thread.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(absent), ["gone"]);
        assert_eq!(ids(present), ["free"]);
        assert_eq!(ids(referenced.into_iter().map(|(row, _)| row).collect()), ["used"]);
        assert_eq!(unnameable, 2);
    }
}
