//! What a dry run would have done, one JSON object a line.

use std::io::Write;

use chrono::{SecondsFormat, Utc};
use parking_lot::Mutex;
use serde_json::Value;
use tracing::warn;

/// A journal of what would have been done.
pub struct Journal(Mutex<Box<dyn Write + Send>>);

impl Journal {
    /// A journal that is written to `out`.
    pub fn new(out: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(out)))
    }

    /// Writes an object, with the time.
    pub fn write(&self, mut entry: Value) {
        entry["at"] = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true).into();
        let mut out = self.0.lock();
        if let Err(error) = writeln!(out, "{entry}").and_then(|()| out.flush()) {
            warn!(%error, %entry, "the journal can't be written");
        }
    }
}
