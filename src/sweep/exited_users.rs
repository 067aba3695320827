//! Volumes that only containers use which have exited or were never started, where the operator lets these be removed.
//!
//! Most volumes in use are by containers that run: those are told by the list and cost nothing. The others' containers
//! are asked for one by one, since the list has neither the time of their end nor their restart policy. What stays is
//! not looked at again before that could change.

use std::collections::{BTreeSet, HashMap};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{
    Sweeper,
    retries::Retries,
    tally::{Fate, Tally},
};
use crate::{
    cleanup::{
        Cleaner, ContainerId, Database, Inventory, Volumes,
        exited::{ExitedRule, MayGo},
    },
    failure::{Failure, Verdict},
    volume_name::{ThreadId, VolumeName},
};

/// Threads whose containers are looked at, at once.
const LOOKS_IN_FLIGHT: usize = 8;
/// Threads whose containers are remembered to stay. Those of more are looked at again next time.
const MOST_STAYING: usize = 10_000;

/// A thread whose volumes can go once its containers are gone, which may go.
pub(super) struct ExitedUsers {
    pub(super) thread: ThreadId,
    /// Its volumes that they use.
    volumes: Vec<VolumeName>,
    containers: Vec<ContainerId>,
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Of threads whose volumes these containers use, those whose containers may all go now.
    pub(super) async fn exited_users(
        &self,
        users: &[(ThreadId, VolumeName, Vec<String>)],
        inventory: &Inventory,
    ) -> Result<HashMap<ThreadId, ExitedUsers>, Failure> {
        for (thread, volume, containers) in users {
            self.cleaner.users.use_volume(thread, volume, containers);
        }
        let Some(rule) = self.cleaner.policy().exited else { return Ok(HashMap::new()) };
        let asked: Vec<_> = {
            let mut staying = self.staying.lock();
            staying.retain(|_, until| *until > Instant::now());
            let of_threads = users.chunk_by(|(one, ..), (other, ..)| one == other);
            let have_exited = |of_thread: &&[(ThreadId, VolumeName, Vec<String>)]| {
                of_thread.iter().all(|(_, volume, _)| inventory.exited.contains(volume))
            };
            let ids = |of_thread: &[(ThreadId, VolumeName, Vec<String>)]| {
                let thread = &of_thread.first()?.0;
                let containers: BTreeSet<_> = of_thread.iter().flat_map(|(.., containers)| containers).collect();
                let containers = Cleaner::<V, T>::ids_of(containers)?;
                let volumes = of_thread.iter().map(|(_, volume, _)| volume.clone()).collect();
                (!staying.contains_key(thread)).then(|| ExitedUsers { thread: thread.clone(), volumes, containers })
            };
            of_threads.filter(have_exited).filter_map(ids).collect()
        };
        let look = async |users: ExitedUsers| {
            let may_go = self.cleaner.may_go(rule, &users.thread, &users.volumes, &users.containers).await;
            (users, may_go)
        };
        let mut looks = std::pin::pin!(stream::iter(asked).map(look).buffer_unordered(LOOKS_IN_FLIGHT));
        let mut may_go_now = HashMap::new();
        while let Some((users, may_go)) = looks.next().await {
            match may_go {
                Ok(may_go) if may_go.is_due(self.cleaner.context.clock.now()) => {
                    drop(may_go_now.insert(users.thread.clone(), users));
                }
                Ok(may_go) => self.stays(users.thread, rule, &may_go),
                Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
                Err(error) => debug!(thread.id = %users.thread, %error, "its containers can't be looked at; they stay"),
            }
        }
        Ok(may_go_now)
    }

    /// Sets those aside that failed before and whose time has not come.
    pub(super) async fn without_failed(
        &self,
        mut users: HashMap<ThreadId, ExitedUsers>,
        tally: &mut Tally,
    ) -> Result<Vec<ExitedUsers>, Failure> {
        let mut threads: Vec<_> = users.keys().cloned().collect();
        let mut retries = Retries::default();
        self.set_failed_aside(&mut threads, &mut retries, tally).await?;
        threads.extend(retries.threads());
        Ok(threads.iter().filter_map(|thread| users.remove(thread)).collect())
    }

    /// Removes these containers and volumes, as far as the sweep's budget goes and until `enough`.
    pub(super) async fn remove_exited(
        &self,
        mut users: Vec<ExitedUsers>,
        tally: &mut Tally,
        enough: &CancellationToken,
    ) -> Result<(), Failure> {
        while !users.is_empty() && !enough.is_cancelled() {
            let mut left = self.budget_left(tally);
            let volumes = self.per_thread(tally);
            let fits = |users: &&ExitedUsers| {
                let rest = left.checked_sub((users.containers.len() + volumes) as u64);
                left = rest.unwrap_or(left);
                rest.is_some()
            };
            let fitting = users.iter().take_while(fits).count();
            if fitting == 0 {
                self.use_up_budget().await?;
            }
            if self.cleaner.pause_reason().is_some() {
                tally.add(Fate::Paused, users.len());
                return Ok(());
            }
            let later = users.split_off(fitting);
            let threads = users.into_iter().map(|users| users.thread).collect();
            self.remove_at_once(threads, tally, enough).await?;
            users = later;
        }
        Ok(())
    }

    /// Counts what would be removed, and says so.
    pub(super) fn would_remove(users: &[ExitedUsers], would_be: Fate, tally: &mut Tally) {
        tally.add(would_be, users.len());
        if would_be != Fate::Removed {
            return;
        }
        for ExitedUsers { thread, containers, .. } in users {
            tally.containers_removed += containers.len() as u64;
            for container in containers {
                info!(thread.id = %thread, container.id = %container, "would remove the container, which has exited");
            }
        }
    }

    /// What keeps a container from its removal changes when somebody starts or replaces it, which the list shows, or by
    /// the time. Another restart policy is found after the cooldown.
    fn stays(&self, thread: ThreadId, rule: ExitedRule, may_go: &MayGo) {
        let wait = match may_go {
            MayGo::From(from) => {
                (*from - self.cleaner.context.clock.now()).to_std().unwrap_or_default().min(rule.grace)
            }
            MayGo::Kept(_) => self.cooldown,
        };
        debug!(thread.id = %thread, ?may_go, "its containers stay");
        let mut staying = self.staying.lock();
        if staying.len() < MOST_STAYING
            && let Some(until) = Instant::now().checked_add(wait)
        {
            staying.insert(thread, until);
        }
    }
}
