//! What ended removals mean: the receipts of what is gone, and the result where not everything is.

use chrono::{DateTime, Utc};
use tracing::debug;

use super::{
    Close, Database, Details, Gone, Origin, Outcome, Receipt, Removal, Volumes,
    batch::{Job, Removed},
    cleaner::Cleaner,
};
use crate::{
    failure::{Failure, Verdict},
    volume_name::{ThreadId, VolumeName},
};

/// What the removals of a thread came to, as far as this host goes.
pub(super) struct Judged {
    /// The receipts of what is gone: of all its volumes if there is no result yet, or else of what was removed, or is
    /// marked by itself.
    pub(super) receipts: Vec<Receipt>,
    /// The result of the clean-up, if not everything is gone.
    pub(super) result: Option<Result<Outcome, Failure>>,
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// What the ended removals of a thread mean.
    pub(super) fn judge(&self, job: &Job, removed: Vec<Removed>, at: DateTime<Utc>) -> Judged {
        let mut gone = Vec::new();
        let mut result = job.refused.clone().map(|why| Err(Failure::permanent(why)));
        let is_cut_off = removed.len() < job.volumes.len();
        let has_each_its_mark = self.context.names.are_in_rows();
        if has_each_its_mark && is_cut_off {
            result.get_or_insert(Ok(Outcome::Deferred));
        }
        for (volume, removed) in job.volumes.iter().zip(removed) {
            let other = match removed {
                Ok(Removal::Removed) => {
                    gone.push((volume, Gone::Removed));
                    continue;
                }
                Ok(Removal::NotFound) if self.remembered(volume, &job.close).is_some() => {
                    gone.push((volume, Gone::Removed));
                    continue;
                }
                Ok(Removal::NotFound) if !job.unplaced.contains(volume) => {
                    gone.push((volume, Gone::NotFound));
                    continue;
                }
                Ok(Removal::NotFound) => Ok(Outcome::NotHere),
                Ok(Removal::NotSent | Removal::Missing) => Ok(Outcome::Deferred),
                Ok(Removal::Referenced { containers }) => {
                    let thread = &job.request.thread;
                    debug!(thread.id = %thread, volume.name = %volume, ?containers, "the volume is referenced");
                    self.users.use_volume(thread, volume, &containers);
                    Ok(Outcome::Referenced { containers })
                }
                Err(failure) => Err(failure),
            };
            result = Some(match result {
                None => other,
                Some(before) => more_telling(before, other),
            });
        }
        let completes = has_each_its_mark || (result.is_none() && !is_cut_off);
        // Where they have one mark together, what was not there has its receipt when everything is gone: until then it
        // may come back.
        let receipts = gone.into_iter().filter(|(_, gone)| completes || *gone == Gone::Removed);
        let receipts = receipts.map(|(volume, gone)| self.receipt(job, volume, gone, at, completes)).collect();
        Judged { receipts, result }
    }

    pub(super) fn receipt(
        &self,
        job: &Job,
        volume: &VolumeName,
        gone: Gone,
        at: DateTime<Utc>,
        completes: bool,
    ) -> Receipt {
        Receipt {
            thread_id: job.request.thread.clone(),
            close: job.close.clone(),
            volume: volume.clone(),
            gone,
            origin: job.request.origin.clone(),
            at,
            is_written: self.remembered(volume, &job.close).is_some_and(|removal| removal.has_receipt),
            completes,
            details: self.details(job, volume, gone),
        }
    }

    /// What the audit trail says of this host.
    fn details(&self, job: &Job, volume: &VolumeName, gone: Gone) -> Details {
        let here = self.here();
        match gone {
            Gone::Removed => Details {
                bytes: self.volumes.take_size(volume),
                duration: Some(job.took.unwrap_or_else(|| job.began.elapsed())),
                ..here
            },
            Gone::NotFound => here,
        }
    }
}

/// The receipts of a thread whose volumes, which are these, are proven absent, by which host as far as that is one.
#[must_use]
pub fn absent(
    volumes: Vec<VolumeName>,
    thread: &ThreadId,
    close: &Close,
    origin: &Origin,
    found_by: &Details,
    at: DateTime<Utc>,
) -> Vec<Receipt> {
    let receipt = |volume| Receipt {
        thread_id: thread.clone(),
        close: close.clone(),
        volume,
        gone: Gone::NotFound,
        origin: origin.clone(),
        at,
        is_written: false,
        completes: true,
        details: found_by.clone(),
    };
    volumes.into_iter().map(receipt).collect()
}

/// Whether a thread comes again at once, since not all of its removals could be sent and none has failed.
pub(super) fn is_to_come_again(removed: &[Removed]) -> bool {
    removed.contains(&Ok(Removal::NotSent)) && removed.iter().all(Result::is_ok)
}

/// Of two results of one thread's removals the one that says more: what failed, or else what is to come again, or else
/// who uses a volume.
pub(super) fn more_telling(one: Result<Outcome, Failure>, other: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
    match (one, other) {
        (Err(one), Err(other)) => {
            let is_outage = |failure: &Failure| matches!(failure.verdict, Verdict::Unavailable(_));
            Err(if is_outage(&other) && !is_outage(&one) { other } else { one })
        }
        (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
        (Ok(Outcome::Busy), Ok(_)) | (Ok(_), Ok(Outcome::Busy)) => Ok(Outcome::Busy),
        (Ok(Outcome::Referenced { mut containers }), Ok(Outcome::Referenced { containers: more })) => {
            containers.extend(more);
            Ok(Outcome::Referenced { containers })
        }
        (Ok(referenced @ Outcome::Referenced { .. }), Ok(_)) | (Ok(_), Ok(referenced @ Outcome::Referenced { .. })) => {
            Ok(referenced)
        }
        // Of two hosts: one of them removed something.
        (Ok(Outcome::NotFound | Outcome::AlreadyClean), Ok(other)) => Ok(other),
        (Ok(one), Ok(_)) => Ok(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{failure::Dependency, volume_name::VolumeNames};

    #[test]
    fn each_absent_volume_has_a_receipt_that_marks_it_and_says_who_found_it_so() {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let thread = ThreadId::parse("t1").expect("valid");
        let found_by = Details { host: Some("a".to_owned()), ..Details::default() };
        let volumes = vec![names.volume_of(&thread)];
        let receipts =
            absent(volumes.clone(), &thread, &Close::default(), &Origin::Sweep, &found_by, DateTime::UNIX_EPOCH);
        let said: Vec<_> = receipts.iter().map(|it| (&it.volume, it.gone, it.completes, &it.details)).collect();
        assert_eq!(said, [(&volumes[0], Gone::NotFound, true, &found_by)]);
    }

    #[test]
    fn what_failed_says_more_than_who_uses_a_volume_and_that_more_than_that_it_is_elsewhere() {
        let uses = |container: &str| Ok(Outcome::Referenced { containers: vec![container.to_owned()] });
        let failed = Failure::transient("failed");
        let [down, database] = [Dependency::Docker, Dependency::Database].map(|it| Failure::unavailable(it, "down"));
        let both = Ok(Outcome::Referenced { containers: vec!["a".to_owned(), "b".to_owned()] });
        for (one, other, expected) in [
            (uses("a"), uses("b"), both),
            (Ok(Outcome::NotHere), uses("a"), uses("a")),
            (Ok(Outcome::Deferred), Ok(Outcome::NotHere), Ok(Outcome::Deferred)),
            (uses("a"), Ok(Outcome::Busy), Ok(Outcome::Busy)),
            (Ok(Outcome::NotFound), Ok(Outcome::Removed), Ok(Outcome::Removed)),
            (uses("a"), Err(failed.clone()), Err(failed.clone())),
            (Err(failed.clone()), Err(Failure::permanent("never")), Err(failed.clone())),
            (Err(failed), Err(down.clone()), Err(down.clone())),
            (Err(down.clone()), Err(database), Err(down)),
        ] {
            assert_eq!(more_telling(one, other), expected);
        }
    }

    #[test]
    fn a_thread_comes_again_if_nothing_failed_and_something_was_not_sent() {
        assert!(is_to_come_again(&[Ok(Removal::Removed), Ok(Removal::NotSent)]));
        assert!(!is_to_come_again(&[Ok(Removal::NotSent), Err(Failure::transient("failed"))]));
        assert!(!is_to_come_again(&[Ok(Removal::Removed)]));
    }
}
