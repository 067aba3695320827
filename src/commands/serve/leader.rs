//! Which replica sweeps: the holder of a lease, a row with an epoch and a time to live.
//!
//! The holder renews it well before it expires; when the holder dies, another replica takes it over within the time to
//! live, with the next epoch. A holder that wakes up late finds that its epoch is over and stops. Two sweeps at once
//! would be a waste and no harm: every mark is guarded by itself. What time it is the database says.

use std::time::Duration;

use chrono::Utc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    failure::{Failure, Verdict},
    health::Health,
    metrics,
    store::{Lease, Store},
};

/// How long a lease outlives its holder.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(30);
/// Two renewals may fail before the lease is lost.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the lease called `name` as `holder`, whenever nobody else does, until `stop` is cancelled; then gives it
/// up. `held` says whether this replica has it.
pub async fn keep(
    store: &Store,
    health: &Health,
    name: &str,
    holder: &str,
    held: &watch::Sender<bool>,
    stop: &CancellationToken,
) {
    let (mut lease, mut lead) = (None, Lead::Elsewhere);
    while !stop.is_cancelled() {
        let asked_at = Utc::now();
        let acquired = acquire(store, name, holder, lease).await;
        observe(health, name, acquired.as_ref().err());
        let now = Lead::of(&acquired);
        // One that could not be renewed is renewed later, unless somebody else has taken it by then.
        lease = acquired.unwrap_or(lease);
        let is_held = now == Lead::Here;
        metrics::leads(host_of(name), is_held.then(|| asked_at + TIME_TO_LIVE));
        held.send_if_modified(|held| std::mem::replace(held, is_held) != is_held);
        if let Some(news) = now.news_after(lead) {
            info!(lease = name, epoch = lease.map(|Lease { epoch }| epoch), "{news}");
        }
        lead = now;
        tokio::select! {
            () = tokio::time::sleep(RENEW_INTERVAL) => {}
            () = stop.cancelled() => {}
        }
    }
    held.send_replace(false);
    metrics::leads(host_of(name), None);
    if let Some(lease) = lease
        && let Err(error) = store.release_lease(name, holder, lease).await
    {
        warn!(%error, "the lease was not given up; it expires by itself");
    }
}

/// Who sweeps, as far as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// This replica.
    Here,
    /// Another one.
    Elsewhere,
    /// The database does not say.
    Unknown,
}

impl Lead {
    fn of(acquired: &Result<Option<Lease>, Failure>) -> Self {
        match acquired {
            Ok(Some(_)) => Self::Here,
            Ok(None) => Self::Elsewhere,
            Err(_) => Self::Unknown,
        }
    }

    /// What is said of it, after it was `before`.
    fn news_after(self, before: Self) -> Option<&'static str> {
        match (before, self) {
            (Self::Here, Self::Here)
            | (Self::Elsewhere, Self::Elsewhere | Self::Unknown)
            | (Self::Unknown, Self::Unknown) => None,
            (Self::Elsewhere | Self::Unknown, Self::Here) => Some("this replica sweeps now"),
            (Self::Here | Self::Unknown, Self::Elsewhere) => Some("another replica sweeps now"),
            (Self::Here, Self::Unknown) => Some("this replica sweeps no more, since it can't renew its lease"),
        }
    }
}

/// The host whose sweeps a lease is for; none if there is only one host, or it is for what is on none of several.
pub(super) fn host_of(lease: &str) -> Option<&str> {
    lease.split_once('/').map(|(_, host)| host)
}

/// Says so when the lease can't be had although the database answers: then nothing is swept here.
fn observe(health: &Health, name: &str, failure: Option<&Failure>) {
    match failure {
        None => {
            if health.degrade(name, None) {
                info!(lease = name, "the lease can be taken again");
            }
        }
        // What the database says is said by its probe.
        Some(Failure { verdict: Verdict::Unavailable(_), message }) => {
            debug!(error = message, "the lease can't be renewed");
        }
        Some(failure) => {
            metrics::lease_failure();
            if health.degrade(name, Some(&format!("this replica can't sweep: {failure}"))) {
                warn!(lease = name, error = %failure, "this replica can't sweep, since it can't take the lease; \
                    `volume-reaper doctor` looks for why");
            }
        }
    }
}

async fn acquire(store: &Store, name: &str, holder: &str, lease: Option<Lease>) -> Result<Option<Lease>, Failure> {
    if let Some(lease) = lease
        && store.renew_lease(name, holder, lease, TIME_TO_LIVE).await?
    {
        return Ok(Some(lease));
    }
    store.acquire_lease(name, holder, TIME_TO_LIVE).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Dependency;

    #[test]
    fn a_lease_that_the_database_does_not_give_is_nobody_elses() {
        let down = Err(Failure::unavailable(Dependency::Database, "database is locked"));
        let leads =
            [Ok(Some(Lease { epoch: 1 })), down.clone(), down, Ok(Some(Lease { epoch: 1 })), Ok(None), Ok(None)];
        let mut before = Lead::Elsewhere;
        let mut news = |acquired: &Result<Option<Lease>, Failure>| {
            let now = Lead::of(acquired);
            now.news_after(std::mem::replace(&mut before, now))
        };
        let (now, no_more) = ("this replica sweeps now", "this replica sweeps no more, since it can't renew its lease");
        let expected = [Some(now), Some(no_more), None, Some(now), Some("another replica sweeps now"), None];
        assert_eq!(leads.each_ref().map(&mut news), expected);
    }
}
