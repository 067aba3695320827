//! The receipts as a person asks for them: between two points in time, as a table for other programs.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{failure::Failure, store::ListedReceipt};

/// What a table without rows has.
const COLUMNS: [&str; 18] = [
    "id",
    "removed_at",
    "thread_id",
    "volume_name",
    "outcome",
    "source",
    "event_id",
    "host",
    "daemon",
    "bytes",
    "duration_ms",
    "actor",
    "container_id",
    "container_name",
    "replica",
    "chain_id",
    "chain_sequence",
    "chain_hash",
];

/// A table in CSV that is written page by page, its columns' names first.
#[derive(Debug, Default)]
pub struct ReceiptTable {
    is_begun: bool,
}

impl ReceiptTable {
    /// The next page of it.
    pub fn page(&mut self, receipts: &[ListedReceipt]) -> Result<String, Failure> {
        let has_head = std::mem::replace(&mut self.is_begun, true);
        let mut csv = csv::WriterBuilder::new().has_headers(!has_head).from_writer(Vec::new());
        for receipt in receipts {
            csv.serialize(receipt).map_err(|error| unwritable(&error))?;
        }
        if receipts.is_empty() && !has_head {
            csv.write_record(COLUMNS).map_err(|error| unwritable(&error))?;
        }
        let bytes = csv.into_inner().map_err(|error| unwritable(&error))?;
        String::from_utf8(bytes).map_err(|error| unwritable(&error))
    }
}

/// Receipts can't be written in this form.
pub(crate) fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::permanent(format!("receipts: {error}"))
}

/// A time, or so long before `now`. `name` is how it is called where it was said.
pub fn point(name: &str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    match (DateTime::parse_from_rfc3339(text), humantime::parse_duration(text)) {
        (Ok(time), _) => Ok(time.to_utc()),
        (Err(_), Ok(ago)) => {
            let ago = TimeDelta::from_std(ago).ok();
            Ok(ago.and_then(|ago| now.checked_sub_signed(ago)).unwrap_or(DateTime::<Utc>::MIN_UTC))
        }
        (Err(_), Err(_)) => {
            Err(format!("{name} {text:?}: is neither a time, as in 2026-12-24T18:00:00Z, nor a duration ago, as in 7d"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_so_long_ago() {
        let now = "2026-11-23T12:00:00Z".parse().expect("a time");
        let at = |text| point("--since", text, now).map(|at| at.to_rfc3339());
        assert_eq!(at("7d").as_deref(), Ok("2026-11-16T12:00:00+00:00"));
        assert_eq!(at("2026-11-01T00:00:00+02:00").as_deref(), Ok("2026-10-31T22:00:00+00:00"));
        assert!(at("yesterday").expect_err("refused").starts_with("--since \"yesterday\": is neither a time"));
    }
}
