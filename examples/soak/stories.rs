//! What happened to a thread, told when something about it is not as it should be.

use std::{collections::HashMap, path::PathBuf};

use chrono::{DateTime, Duration, Utc};
use parking_lot::Mutex;

use crate::{Try, meanwhile::Meanwhile, plan::Thread};

/// More threads than these are wrong for the same reason.
const TOLD: usize = 5;
/// A fault is felt for a while.
const FELT: Duration = Duration::seconds(20);

/// What happened when.
type Story = Vec<(DateTime<Utc>, String)>;

/// What the platform did, by thread.
#[derive(Default)]
pub(crate) struct Stories(Mutex<HashMap<String, Story>>);

impl Stories {
    pub(crate) fn add(&self, thread: &str, what: &str) {
        self.0.lock().entry(thread.to_owned()).or_default().push((Utc::now(), format!("platform: {what}")));
    }

    /// Prints what the platform and the replicas did about the first threads that the incidents name, and the faults
    /// that there were in that time.
    pub(crate) fn tell(&self, incidents: &[String], threads: &[Thread], logs: &[PathBuf], faults: &Meanwhile) -> Try {
        let named = |thread: &&Thread| incidents.iter().any(|incident| incident.contains(&thread.id));
        for thread in threads.iter().filter(named).take(TOLD) {
            let mut story = self.0.lock().get(&thread.id).cloned().unwrap_or_default();
            for log in logs {
                let replica = log.file_stem().unwrap_or_default().to_string_lossy();
                for line in std::fs::read_to_string(log)?.lines().filter(|line| line.contains(&thread.id)) {
                    let told: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                    let at = told["timestamp"].as_str().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
                    story.push((at.unwrap_or_default().to_utc(), format!("{replica}: {line}")));
                }
            }
            let times = || story.iter().map(|(at, _)| *at);
            if let (Some(first), Some(last)) = (times().min(), times().max()) {
                story.extend(faults.between(first - FELT, last));
            }
            story.sort();
            println!("\n   {} ({:?}, on host {}):", thread.id, thread.fate, thread.host);
            for (at, what) in story {
                println!("   {} {what}", at.format("%H:%M:%S%.3f"));
            }
        }
        Ok(())
    }
}
