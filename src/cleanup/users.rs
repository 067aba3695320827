//! Which containers use whose volume, so that the end of a container is the beginning of a clean-up, and not the next
//! sweep.
//!
//! This is memory only, and may forget: whatever is missed here, the next sweep finds.

use std::collections::{HashMap, HashSet, VecDeque, hash_map::Entry};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::volume_name::{ThreadId, VolumeName};

/// Volumes that are remembered to be in use, some hundred bytes each. Those above wait for the sweep.
const MAX_IN_USE: usize = 100_000;
/// Containers that are remembered after their end: more than end between an answer that names one and its entry here.
const MAX_GONE: usize = 1_000;

/// The threads whose volumes are in use.
#[derive(Debug, Default)]
pub struct Users {
    state: Mutex<State>,
    is_freed: Notify,
    sweep_is_due: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The containers that use a volume, as far as they are known, and whose thread's it is.
    volumes: HashMap<VolumeName, (ThreadId, Vec<String>)>,
    /// The volumes that a container uses: what is above, the other way round.
    of_containers: HashMap<String, HashSet<VolumeName>>,
    /// The latest containers that ended.
    gone: VecDeque<String>,
    /// Threads whose volume may be free now.
    freed: Vec<ThreadId>,
}

impl State {
    fn insert(&mut self, thread: &ThreadId, volume: &VolumeName, containers: &[String]) {
        self.remove(volume.as_str());
        for container in containers {
            self.of_containers.entry(container.clone()).or_default().insert(volume.clone());
        }
        self.volumes.insert(volume.clone(), (thread.clone(), containers.to_vec()));
    }

    /// The thread whose volume it was, if it was there.
    fn remove(&mut self, volume: &str) -> Option<ThreadId> {
        let (thread, containers) = self.volumes.remove(volume)?;
        for container in containers {
            if let Entry::Occupied(mut volumes) = self.of_containers.entry(container) {
                volumes.get_mut().remove(volume);
                if volumes.get().is_empty() {
                    volumes.remove();
                }
            }
        }
        Some(thread)
    }
}

impl Users {
    /// This volume of the thread is in use by these containers.
    pub fn use_volume(&self, thread: &ThreadId, volume: &VolumeName, containers: &[String]) {
        let mut state = self.state.lock();
        // The container may have ended between the daemon's answer and now. Once: if it is named again, the daemon has
        // not let go of it, and asking again and again would not help.
        if let Some(index) = state.gone.iter().position(|gone| containers.contains(gone)) {
            state.gone.remove(index);
            state.freed.push(thread.clone());
            self.is_freed.notify_one();
        } else if state.volumes.len() < MAX_IN_USE {
            state.insert(thread, volume, containers);
        }
    }

    /// The container ended: whoever waited for it is freed.
    pub(super) fn container_gone(&self, container: String) {
        let mut state = self.state.lock();
        for volume in state.of_containers.remove(&container).unwrap_or_default() {
            let thread = state.remove(volume.as_str());
            state.freed.extend(thread);
        }
        if state.gone.len() == MAX_GONE {
            state.gone.pop_front();
        }
        state.gone.push_back(container);
        self.is_freed.notify_one();
    }

    /// The volume was unmounted: if a thread waited for that, it is freed.
    pub(super) fn unmounted(&self, volume: &str) {
        let mut state = self.state.lock();
        if let Some(thread) = state.remove(volume) {
            state.freed.push(thread);
            self.is_freed.notify_one();
        }
    }

    /// Nothing is known any more, since events may have been missed: a sweep is to look.
    pub(super) fn forget(&self) {
        *self.state.lock() = State::default();
        self.sweep_soon();
    }

    /// There is something that only a sweep takes care of.
    pub fn sweep_soon(&self) {
        self.sweep_is_due.notify_one();
    }

    /// Waits until there is something that only a sweep takes care of.
    pub async fn sweep_is_due(&self) {
        self.sweep_is_due.notified().await;
    }

    /// Waits until there are threads whose volume may be free now.
    pub(super) async fn freed(&self) -> Vec<ThreadId> {
        loop {
            let freed = std::mem::take(&mut self.state.lock().freed);
            if !freed.is_empty() {
                return freed;
            }
            self.is_freed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume_name::VolumeNames;

    fn thread(id: &str) -> ThreadId {
        ThreadId::parse(id).expect("valid")
    }

    fn volume(id: &str) -> VolumeName {
        VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&thread(id))
    }

    fn held(users: &Users, id: &str, container: &str) {
        users.use_volume(&thread(id), &volume(id), &[container.to_owned()]);
    }

    #[tokio::test]
    async fn the_end_of_a_container_makes_those_ready_that_it_held() {
        let users = Users::default();
        held(&users, "t1", "a");
        held(&users, "t2", "b");
        users.container_gone("a".to_owned());
        assert_eq!(users.freed().await, [thread("t1")]);
        users.container_gone("b".to_owned());
        assert_eq!(users.freed().await, [thread("t2")]);
        assert!(users.state.lock().volumes.is_empty());
    }

    #[tokio::test]
    async fn an_end_that_overtakes_the_answer_is_made_up_for_once() {
        let users = Users::default();
        users.container_gone("a".to_owned());
        held(&users, "t1", "a");
        assert_eq!(users.freed().await, [thread("t1")]);
        // The daemon names it again: now it waits.
        held(&users, "t1", "a");
        let state = users.state.lock();
        assert!(state.freed.is_empty() && state.volumes.len() == 1);
    }

    #[tokio::test]
    async fn an_unmounted_volume_concerns_only_who_waits_for_it() {
        let users = Users::default();
        users.unmounted("ha_ws_live");
        held(&users, "t1", "a");
        users.unmounted("ha_ws_t1");
        assert_eq!(users.freed().await, [thread("t1")]);
    }

    #[test]
    fn memory_is_bounded() {
        let users = Users::default();
        for number in 0..MAX_IN_USE + 10 {
            held(&users, &format!("t{number}"), "a");
        }
        for number in 0..MAX_GONE + 10 {
            users.container_gone(format!("c{number}"));
        }
        let state = users.state.lock();
        assert_eq!((state.volumes.len(), state.gone.len()), (MAX_IN_USE, MAX_GONE));
    }

    #[test]
    fn a_container_that_ended_leaves_nothing_behind() {
        let users = Users::default();
        users.use_volume(&thread("t1"), &volume("t1"), &["a".to_owned(), "b".to_owned()]);
        users.use_volume(&thread("t1"), &volume("t1"), &["b".to_owned(), "c".to_owned()]);
        users.container_gone("b".to_owned());
        let state = users.state.lock();
        assert!(state.volumes.is_empty() && state.of_containers.is_empty(), "{state:?}");
    }
}
