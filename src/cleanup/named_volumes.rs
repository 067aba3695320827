//! Which volumes a thread has: by the templates, or by the rows of a table of volumes.

use super::{VolumeRow, Volumes};
use crate::{
    failure::Failure,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// The volumes of a thread that are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedVolumes {
    /// Those that may be asked for.
    pub volumes: Vec<VolumeName>,
    /// Why others may not, if there are any: their rows have names that are not ours, or no names at all.
    pub refused: Option<String>,
}

impl NamedVolumes {
    /// The volumes of a thread, which has these unmarked rows where rows have the names.
    #[must_use]
    pub fn of(names: &VolumeNames, thread: &ThreadId, rows: Option<&[VolumeRow]>) -> Self {
        if !names.are_in_rows() {
            return Self { volumes: names.volumes_of(thread), refused: None };
        }
        let (mut volumes, mut refused) = (Vec::new(), None);
        for VolumeRow { name, id, .. } in rows.unwrap_or_default() {
            match names.check(name) {
                Ok(volume) => volumes.push(volume),
                Err(why) => {
                    refused = refused.or_else(|| {
                        Some(format!(
                            "the row {id} of a volume of the thread can't be used: {why}. It is never removed: correct \
                             the row, or see that VOLUME_REAPER_VOLUME_PREFIX or VOLUME_REAPER_VOLUME_NAMES fit"
                        ))
                    });
                }
            }
        }
        Self { volumes, refused }
    }

    /// Whether a host has any of them.
    pub(super) async fn are_on(&self, host: &impl Volumes) -> Result<bool, Failure> {
        for volume in &self.volumes {
            if host.has(volume).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_names_somebody_elses_volume_is_refused_and_the_others_are_not() {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let thread = ThreadId::parse("t1").expect("valid");
        let row = |name: &str| VolumeRow { name: name.to_owned(), id: format!("id of {name}"), host: None };
        let rows = [row("ha_ws_9"), row("postgres_data"), row("ha_ws_../x")];
        let by_template = NamedVolumes::of(&names, &thread, None);
        assert_eq!(by_template, NamedVolumes { volumes: names.volumes_of(&thread), refused: None });
        let names = names.in_rows();
        let found = NamedVolumes::of(&names, &thread, Some(&rows));
        assert_eq!(found.volumes.iter().map(VolumeName::as_str).collect::<Vec<_>>(), ["ha_ws_9"]);
        assert!(found.refused.is_some_and(|why| why.contains("id of postgres_data") && why.contains("ha_ws_{id}")));
        assert_eq!(NamedVolumes::of(&names, &thread, None), NamedVolumes::default());
    }
}
