//! Removing a volume, and before it the containers that have exited and alone still reference it.
//!
//! The volume is asked for first: only if the daemon says that containers reference it are these looked at, all of them
//! before one is removed. Each is then looked at once more, right before its removal, which is without force: should
//! it have been started in that moment, the daemon refuses, and that is the last word. All of it happens while the
//! thread's row is locked, or is not sent any more.

use std::pin::{Pin, pin};

use chrono::SubsecRound;
use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use super::{
    Cleaner, ContainerId, ContainerReceipt, ContainerRemoval, Database, Origin, Removal, Volumes,
    batch::Removed,
    breaker::{Reservation, Reserved},
    exited::{ExitedRule, MayGo},
    limiter::Permit,
};
use crate::{
    failure::{Failure, Verdict},
    metrics,
    volume_name::{ThreadId, VolumeName},
};

/// A volume with more containers is left alone: no thread needs so many.
const MOST_CONTAINERS: usize = 32;

/// Whose volumes are to go, and who asks for it.
pub(super) struct Removals {
    pub(super) thread: ThreadId,
    pub(super) volumes: Vec<VolumeName>,
    pub(super) origin: Origin,
    /// Nothing is sent later.
    pub(super) latest: Instant,
}

/// One of these volumes, which containers reference.
struct Freeing<'a> {
    removals: &'a Removals,
    volume: &'a VolumeName,
    rule: ExitedRule,
}

/// What became of a container, or of all that reference a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freed {
    /// It is gone.
    Gone,
    /// It stays.
    Stays,
    /// There was no time left.
    NoTime,
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// Removes a volume, or proves that it is not there; nothing is sent after `latest`.
    pub(super) async fn remove(&self, volume: &VolumeName, latest: Option<Instant>, mut permit: Permit) -> Removed {
        let removal = self.permitted(volume, &mut permit, pin!(self.volumes.remove_by(volume, latest))).await?;
        // A question keeps nobody from removing.
        drop(permit);
        match removal {
            Removal::Missing => self.prove_absence(volume).await,
            other @ (Removal::Removed | Removal::NotFound | Removal::Referenced { .. } | Removal::NotSent) => Ok(other),
        }
    }

    /// Waits for a removal that is sent now. One that takes long no longer keeps others from their permits.
    async fn permitted<R>(
        &self,
        volume: &VolumeName,
        permit: &mut Permit,
        mut removal: Pin<&mut impl Future<Output = R>>,
    ) -> R {
        permit.sent();
        if let Ok(removed) = tokio::time::timeout(self.context.limits.timeout, &mut removal).await {
            return removed;
        }
        info!(volume.name = %volume, "the removal takes long; the daemon continues with it");
        permit.detach();
        removal.await
    }

    /// Removes the volumes of one thread side by side; the first has its permit already. Then, one after the other,
    /// those that containers reference which may go: one container may reference several.
    pub(super) async fn remove_each(&self, removals: Removals, permit: Permit) -> Vec<Removed> {
        let mut permit = Some(permit);
        let each = removals.volumes.iter().map(|volume| {
            let permit = permit.take();
            async {
                let Some(permit) = self.permit_or_none(permit, removals.latest).await else {
                    return Ok(Removal::NotSent);
                };
                self.remove(volume, Some(removals.latest), permit).await
            }
        });
        let mut removed = join_all(each).await;
        let Some(rule) = self.policy().exited else { return removed };
        for (volume, removal) in removals.volumes.iter().zip(&mut removed) {
            if let Ok(Removal::Referenced { containers }) = removal {
                let freeing = Freeing { removals: &removals, volume, rule };
                *removal = self.remove_freed(freeing, std::mem::take(containers)).await;
            }
        }
        removed
    }

    /// This permit, or else one that comes in time.
    async fn permit_or_none(&self, permit: Option<Permit>, latest: Instant) -> Option<Permit> {
        match permit {
            Some(permit) => Some(permit),
            None => timeout_at(latest, self.limiter.permit()).await.ok(),
        }
    }

    /// Removes a volume that containers reference, and before it the containers, if they may go.
    async fn remove_freed(&self, freeing: Freeing<'_>, containers: Vec<String>) -> Removed {
        let latest = freeing.removals.latest;
        let Some(mut permit) = self.permit_or_none(None, latest).await else { return Ok(Removal::NotSent) };
        match self.remove_containers(&freeing, &containers, &mut permit).await? {
            Freed::Gone => self.remove(freeing.volume, Some(latest), permit).await,
            Freed::Stays => Ok(Removal::Referenced { containers }),
            Freed::NoTime => Ok(Removal::NotSent),
        }
    }

    /// When the containers that reference volumes of a thread may go, all of them together; `volumes` are known to be
    /// its. With a container that is
    /// gone by now, the others decide.
    pub async fn may_go(
        &self,
        rule: ExitedRule,
        thread: &ThreadId,
        volumes: &[VolumeName],
        containers: &[ContainerId],
    ) -> Result<MayGo, Failure> {
        let found = try_join_all(containers.iter().map(|container| self.volumes.look_at(container))).await?;
        Ok(MayGo::all(found.iter().flatten().map(|container| self.verdict(rule, thread, volumes, container))))
    }

    /// Their ids, if these containers are few enough to be looked at, and are named by ids.
    #[must_use]
    pub fn ids_of<'a>(containers: impl IntoIterator<Item = &'a String>) -> Option<Vec<ContainerId>> {
        let ids: Option<Vec<_>> = containers.into_iter().map(|id| ContainerId::parse(id)).collect();
        ids.filter(|ids| (1..=MOST_CONTAINERS).contains(&ids.len()))
    }

    fn verdict(
        &self,
        rule: ExitedRule,
        thread: &ThreadId,
        volumes: &[VolumeName],
        container: &super::Container,
    ) -> MayGo {
        let names = &self.context.names;
        let is_one_of_these = |name: &str| volumes.iter().any(|volume| volume.as_str() == name);
        rule.may_go(container, |name| names.is_volume_of(name, thread) || is_one_of_these(name))
    }

    async fn remove_containers(
        &self,
        freeing: &Freeing<'_>,
        containers: &[String],
        permit: &mut Permit,
    ) -> Result<Freed, Failure> {
        let Some(ids) = Self::ids_of(containers) else { return Ok(Freed::Stays) };
        let may_go = match self.may_go(freeing.rule, &freeing.removals.thread, &freeing.removals.volumes, &ids).await {
            Ok(may_go) => may_go,
            Err(failure) if matches!(failure.verdict, Verdict::Unavailable(_)) => return Err(failure),
            Err(error) => {
                debug!(thread.id = %freeing.removals.thread, %error, "its containers can't be looked at; they stay");
                return Ok(Freed::Stays);
            }
        };
        if !may_go.is_due(self.context.clock.now()) {
            debug!(thread.id = %freeing.removals.thread, volume.name = %freeing.volume, ?may_go, "its containers stay");
            return Ok(Freed::Stays);
        }
        let reservations = match self.context.hour.reserve_at_once(ids.len()) {
            Reserved::Enough(reservations) => reservations,
            // The next batch counts anew, before it locks anything.
            Reserved::CountIsOld => return Ok(Freed::NoTime),
            Reserved::UsedUp => {
                self.container_receipts.over_budget();
                return Ok(Freed::Stays);
            }
        };
        for (container, reservation) in ids.iter().zip(reservations) {
            match self.remove_container(freeing, container, reservation, permit).await? {
                Freed::Gone => {}
                other @ (Freed::Stays | Freed::NoTime) => return Ok(other),
            }
        }
        Ok(Freed::Gone)
    }

    async fn remove_container(
        &self,
        freeing: &Freeing<'_>,
        container: &ContainerId,
        reservation: Reservation,
        permit: &mut Permit,
    ) -> Result<Freed, Failure> {
        // It was looked at together with the others, and may have been started since.
        let Some(found) = self.volumes.look_at(container).await? else { return Ok(Freed::Gone) };
        let Removals { thread, volumes, .. } = freeing.removals;
        if !self.verdict(freeing.rule, thread, volumes, &found).is_due(self.context.clock.now()) {
            return Ok(Freed::Stays);
        }
        let removal = pin!(self.volumes.remove_container_by(container, freeing.removals.latest));
        let removal = match self.permitted(freeing.volume, permit, removal).await {
            // The answer may have been lost, and the container all the same be gone: then it was our doing.
            Err(failure) if self.volumes.look_at(container).await != Ok(None) => return Err(failure),
            Err(_) => ContainerRemoval::Removed,
            Ok(removal) => removal,
        };
        match removal {
            ContainerRemoval::Removed => {}
            ContainerRemoval::NotFound => return Ok(Freed::Gone),
            ContainerRemoval::NotSent => return Ok(Freed::NoTime),
            ContainerRemoval::Refused(why) => {
                let thread = &freeing.removals.thread;
                debug!(thread.id = %thread, container.id = %container, why, "the daemon keeps the container");
                return Ok(Freed::Stays);
            }
        }
        reservation.removed();
        let source = freeing.removals.origin.as_str();
        metrics::container_removed(source);
        info!(
            thread.id = %freeing.removals.thread, container.id = %container, container.name = found.name,
            volume.name = %freeing.volume, source, "removed the container, which had exited"
        );
        self.container_receipts.add(ContainerReceipt {
            thread_id: freeing.removals.thread.clone(),
            volume: freeing.volume.clone(),
            container: container.clone(),
            name: found.name,
            origin: freeing.removals.origin.clone(),
            at: self.context.clock.now().trunc_subsecs(3),
        });
        Ok(Freed::Gone)
    }
}
