//! What a dry run would do, thread by thread, for who asks for the list.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::Sweeper;
use crate::{
    cleanup::{Database, Volumes},
    volume_name::{ThreadId, VolumeName},
};

/// Lines of the list at most: a few tens of megabytes.
const MOST: usize = 200_000;

/// What would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Would {
    /// Its volume would be removed, and the thread marked.
    Remove,
    /// Its volume is absent: the thread would be marked.
    Mark,
}

/// A volume of a closed thread that a sweep would do something about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The Docker host; empty where there is only one.
    pub host: String,
    /// The thread.
    pub thread_id: ThreadId,
    /// Its volume.
    pub volume: String,
    /// What would be done.
    pub would: Would,
}

/// The list that a dry run writes.
#[derive(Clone, Debug, Default)]
pub struct PlannedList(Arc<Mutex<Vec<Planned>>>);

impl PlannedList {
    /// Adds a thread's volumes.
    pub(super) fn add(&self, host: Option<&str>, thread: &ThreadId, volumes: &[VolumeName], would: Would) {
        let mut list = self.0.lock();
        let room = MOST.saturating_sub(list.len());
        list.extend(volumes.iter().take(room).map(|volume| Planned {
            host: host.unwrap_or_default().to_owned(),
            thread_id: thread.clone(),
            volume: volume.to_string(),
            would,
        }));
    }

    /// What stands in it from a line on: at most so many lines.
    #[must_use]
    pub fn lines(&self, from: usize, most: usize) -> Vec<Planned> {
        self.0.lock().iter().skip(from).take(most).cloned().collect()
    }
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Writes into the list of a dry run what would be done to a thread and its volumes.
    pub(super) fn plan(&self, thread: &ThreadId, volumes: &[VolumeName], would: Would) {
        if let Some(planned) = &self.planned {
            planned.add(self.cleaner.host.name(), thread, volumes, would);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume_name::VolumeNames;

    #[test]
    fn each_volume_of_a_thread_has_a_line() {
        let (names, thread) = (VolumeNames::of_prefix("ha_ws_").expect("valid"), ThreadId::parse("t1").expect("valid"));
        let list = PlannedList::default();
        list.add(Some("a"), &thread, &names.volumes_of(&thread), Would::Remove);
        let line =
            Planned { host: "a".to_owned(), thread_id: thread, volume: "ha_ws_t1".to_owned(), would: Would::Remove };
        assert_eq!(list.lines(0, 2), [line]);
        assert_eq!(list.lines(1, 2), []);
    }
}
