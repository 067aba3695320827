//! The sweep's proof: what rows and a list that was asked for after them say together. Pure.

use tracing::debug;

use crate::{
    cleanup::{Candidate, Close, Inventory, NamedVolumes},
    volume_name::{ThreadId, VolumeName, VolumeNames},
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
    /// Its volumes.
    pub(super) volumes: Vec<VolumeName>,
}

/// Rows by what a list says of their volumes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Classified {
    /// The list lacks all their volumes. It proves their absence only if it has no warnings and is that of the pinned
    /// daemon.
    pub(super) absent: Vec<Row>,
    /// Containers use all that is there of their volumes.
    pub(super) referenced: Vec<Row>,
    /// A volume is there, and no container uses it.
    pub(super) present: Vec<Row>,
    /// Each volume that is in use, with the containers' ids.
    pub(super) users: Vec<(ThreadId, VolumeName, Vec<String>)>,
    /// How many rows have ids that can't name a volume, or rows of volumes with names that are refused and no others.
    pub(super) unnameable: usize,
}

/// Sorts rows by a list that was asked for after the last of them had been read.
#[must_use]
pub(super) fn classify(rows: Vec<Candidate>, names: &VolumeNames, inventory: &Inventory) -> Classified {
    let mut classified = Classified::default();
    for Candidate { id, close, held, volumes } in rows {
        let thread = ThreadId::parse(&id).map_err(|error| error.to_string());
        let owned = thread.and_then(|thread| names.owns(&thread).map(|()| thread));
        let thread = match owned {
            Ok(thread) => thread,
            Err(error) => {
                debug!(thread.id = id, %error, "a closed thread whose id can't name a volume");
                classified.unnameable += 1;
                continue;
            }
        };
        let NamedVolumes { volumes, refused } = NamedVolumes::of(names, &thread, volumes.as_deref());
        if let Some(why) = refused {
            debug!(thread.id = %thread, why, "a closed thread with a volume that is refused");
            classified.unnameable += usize::from(volumes.is_empty());
        }
        // Or its rows were marked since.
        if volumes.is_empty() {
            continue;
        }
        let (mut is_used, mut is_free) = (false, false);
        for volume in &volumes {
            if let Some(containers) = inventory.referenced.get(volume) {
                classified.users.push((thread.clone(), volume.clone(), containers.clone()));
                is_used = true;
            } else if inventory.present.contains(volume) {
                is_free = true;
            }
        }
        let class = match (is_free, is_used) {
            (true, _) => &mut classified.present,
            (false, true) => &mut classified.referenced,
            (false, false) => &mut classified.absent,
        };
        class.push(Row { thread, close, held, volumes });
    }
    classified
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cleanup::VolumeRow;

    fn candidate(id: &str) -> Candidate {
        Candidate { id: id.to_owned(), close: Close::default(), held: false, volumes: None }
    }

    #[test]
    fn every_row_is_in_one_class() {
        let names = VolumeNames::of_prefix("ha_ws_").and_then(|names| names.with_foreign("ha_ws_x_")).expect("valid");
        let volume = |id: &str| names.volume_of(&ThreadId::parse(id).expect("valid"));
        let inventory = Inventory {
            present: [volume("used"), volume("free")].into(),
            referenced: [(volume("used"), vec!["c".to_owned()])].into(),
            ..Inventory::default()
        };
        let rows = ["gone", "used", "free", "../x", "x_1"].map(candidate);
        let classified = classify(rows.to_vec(), &names, &inventory);
        let Classified { absent, referenced, present, unnameable, .. } = classified;
        let ids = |rows: Vec<Row>| rows.into_iter().map(|row| row.thread.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(absent), ["gone"]);
        assert_eq!(ids(present), ["free"]);
        assert_eq!(ids(referenced), ["used"]);
        assert_eq!(unnameable, 2);
    }

    #[test]
    fn a_thread_whose_rows_have_no_name_that_may_be_used_is_counted_and_in_no_class() {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid").in_rows();
        let candidate_of = |id: &str, volumes: &[&str]| {
            let row = |name: &&str| VolumeRow { name: (*name).to_owned(), id: "1".to_owned(), host: None };
            Candidate { volumes: Some(volumes.iter().map(row).collect()), ..candidate(id) }
        };
        let rows = vec![
            candidate_of("refused", &["postgres_data"]),
            candidate_of("one-is", &["x", "ha_ws_1"]),
            candidate_of("marked-since", &[]),
        ];
        let classified = classify(rows, &names, &Inventory::default());
        assert_eq!(classified.unnameable, 1);
        let absent: Vec<_> = classified.absent.iter().map(|row| row.thread.as_str()).collect();
        assert_eq!(absent, ["one-is"]);
    }

    #[test]
    fn a_thread_is_absent_with_its_last_volume_and_present_with_the_first_that_is_free() {
        let names = VolumeNames::of_templates("ha_ws_{id},ha_cache_{id}").expect("valid");
        let volume = |name: &str| names.find(name).expect("ours");
        let used = ["ha_ws_used", "ha_ws_both", "ha_cache_both", "ha_ws_half"].map(volume);
        let present: HashSet<_> = used.iter().cloned().chain(["ha_cache_half", "ha_cache_free"].map(volume)).collect();
        let referenced = used.into_iter().map(|volume| (volume, vec!["c".to_owned()])).collect();
        let inventory = Inventory { present, referenced, ..Inventory::default() };
        let rows = ["gone", "used", "both", "half", "free"].map(candidate);
        let Classified { absent, referenced, present, users, .. } = classify(rows.to_vec(), &names, &inventory);
        let ids = |rows: Vec<Row>| rows.into_iter().map(|row| row.thread.to_string()).collect::<Vec<_>>();
        assert_eq!(ids(absent), ["gone"]);
        assert_eq!(ids(referenced), ["used", "both"]);
        assert_eq!(ids(present), ["half", "free"]);
        let users: Vec<_> = users.iter().map(|(_, volume, _)| volume.as_str()).collect();
        assert_eq!(users, ["ha_ws_used", "ha_ws_both", "ha_cache_both", "ha_ws_half"]);
    }

    proptest! {
        /// Whatever the rows and the list: a row is in one class, and what the list has is never absent.
        #[test]
        fn what_the_list_has_is_never_absent(
            ids in prop::collection::btree_set("[a-c./]{1,2}", 0..12),
            listed in prop::collection::btree_map("[a-c]{1,2}", (any::<bool>(), any::<bool>(), any::<bool>()), 0..12),
        ) {
            let names = VolumeNames::of_templates("ha_ws_{id},ha_cache_{id}").expect("valid");
            let mut inventory = Inventory::default();
            for (id, (has_first, has_second, is_used)) in &listed {
                let volumes = names.volumes_of(&ThreadId::parse(id).expect("valid"));
                let kept = volumes.into_iter().zip([has_first, has_second]).filter(|(_, has)| **has);
                for (volume, _) in kept {
                    if *is_used {
                        inventory.referenced.insert(volume.clone(), vec!["c".to_owned()]);
                    }
                    inventory.present.insert(volume);
                }
            }
            let rows: Vec<_> = ids.iter().map(|id| candidate(id)).collect();
            let classified = classify(rows, &names, &inventory);
            for row in &classified.absent {
                for volume in names.volumes_of(&row.thread) {
                    prop_assert!(!inventory.present.contains(&volume), "{volume} is in the list");
                }
            }
            let classes = [&classified.absent, &classified.referenced, &classified.present];
            prop_assert_eq!(classes.iter().map(|rows| rows.len()).sum::<usize>() + classified.unnameable, ids.len());
        }
    }
}
