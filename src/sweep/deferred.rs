//! The threads that a sweep finds closed and unmarked, and leaves alone: on hold, or not due yet.

use chrono::{DateTime, Utc};

use super::{
    Sweeper,
    classify::{Classified, Row, classify},
    tally::{Fate, Tally},
};
use crate::{
    cleanup::{
        Candidate, Database, Inventory, Volumes,
        retention::{Due, Retention},
    },
    failure::Failure,
    volume_name::{ThreadId, VolumeNames},
};

/// Held and not due threads that are looked up in the list of the last step. More are only counted; their memory has to
/// be bounded, and whatever is left is seen when it is due.
const MAX_DEFERRED: usize = 100_000;

/// Closed and unmarked threads that are not to be cleaned now, as a sweep found them.
#[derive(Default)]
pub(super) struct Deferred {
    /// As many as may be kept in memory.
    rows: Vec<Candidate>,
    /// The others that are held.
    more_held: usize,
    /// The others that are not due.
    more_not_due: usize,
}

impl Deferred {
    /// Takes up what has to wait, and leaves what is due.
    pub(super) fn take_from(
        &mut self,
        page: Vec<Candidate>,
        retention: Retention,
        now: DateTime<Utc>,
    ) -> Vec<Candidate> {
        let mut due = Vec::new();
        for candidate in page {
            if !candidate.held && retention.due(candidate.close.at, now) == Due::Now {
                due.push(candidate);
            } else if self.rows.len() < MAX_DEFERRED && ThreadId::parse(&candidate.id).is_ok() {
                self.rows.push(candidate);
            } else if candidate.held {
                self.more_held += 1;
            } else {
                self.more_not_due += 1;
            }
        }
        due
    }

    /// Counts all of them as waiting.
    pub(super) fn wait(self, tally: &mut Tally) {
        let held = self.rows.iter().filter(|row| row.held).count();
        tally.add(Fate::Held, self.more_held + held);
        tally.add(Fate::NotDue, self.more_not_due + self.rows.len() - held);
    }

    /// Counts those as waiting whose volume is in a list that was asked for after them, and returns the others.
    pub(super) fn wait_or_absent(self, names: &VolumeNames, inventory: &Inventory, tally: &mut Tally) -> Vec<Row> {
        let Classified { absent, referenced, present, .. } = classify(self.rows, names, inventory);
        let waiting = present.len() + referenced.len();
        let held = present.iter().chain(&referenced).filter(|row| row.held).count();
        tally.add(Fate::Held, self.more_held + held);
        tally.add(Fate::NotDue, self.more_not_due + waiting - held);
        absent
    }
}

impl<V: Volumes, T: Database> Sweeper<V, T> {
    /// Marks the deferred threads whose volume is gone by itself.
    pub(super) async fn sweep_deferred(
        &self,
        deferred: Deferred,
        inventory: &Inventory,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        // They are no failures: as long as they wait, nobody needs to know whether their volume is there.
        if !inventory.warnings.is_empty() || inventory.doubt.is_some() {
            deferred.wait(tally);
            return Ok(());
        }
        let absent = deferred.wait_or_absent(&self.cleaner.context.names, inventory, tally);
        let unmarked = self.mark_if_proven(absent, inventory, tally).await?;
        tally.add(Fate::Failed, unmarked.len());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::Close;

    /// One that is held and there, one that is held and absent, and one that is not due and has no valid id.
    fn deferred() -> Deferred {
        let row = |id: &str, held| Candidate { id: id.to_owned(), close: Close::default(), held, volumes: None };
        let mut deferred = Deferred::default();
        let retention = Retention(std::time::Duration::from_secs(1));
        let page = vec![row("there", true), row("absent", true), row("../x", false)];
        let due = deferred.take_from(page, retention, Utc::now());
        assert_eq!(due, []);
        deferred
    }

    #[test]
    fn what_is_absent_is_not_counted_as_waiting() {
        let mut tally = Tally::default();
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let present = [names.volume_of(&ThreadId::parse("there").expect("valid"))].into();
        let absent = deferred().wait_or_absent(&names, &Inventory { present, ..Inventory::default() }, &mut tally);
        assert_eq!(absent.iter().map(|row| row.thread.as_str()).collect::<Vec<_>>(), ["absent"]);
        assert_eq!((tally.of(Fate::Held), tally.of(Fate::NotDue)), (1, 1));
    }

    #[test]
    fn without_a_list_all_are_counted_as_waiting() {
        let mut tally = Tally::default();
        deferred().wait(&mut tally);
        assert_eq!((tally.of(Fate::Held), tally.of(Fate::NotDue)), (2, 1));
    }
}
