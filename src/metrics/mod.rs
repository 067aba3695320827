//! The metrics, each in one place with its name, labels and meaning.
//!
//! The names are part of the public contract. No label is ever a thread's id: their number has no bound.

mod descriptions;

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use metrics::{Label, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;

use crate::{
    build_info::{REVISION, VERSION},
    failure::Dependency,
};

/// From an event in milliseconds to a volume that its container held for hours.
const CLOSE_TO_MARK_BUCKETS_SECS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
/// From an idle sweep to a first day with a million rows.
const SWEEP_BUCKETS_SECS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0];
/// From an empty volume to one with millions of files.
const REMOVAL_BUCKETS_SECS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// How often the histograms take in what they were told.
const UPKEEP: Duration = Duration::from_secs(5);

/// The gauges that only who sweeps can set.
const OF_LEADERS: [&str; 7] = [
    "volume_reaper_unmarked_threads",
    "volume_reaper_oldest_unmarked_seconds",
    "volume_reaper_oldest_due_seconds",
    "volume_reaper_orphan_volumes",
    "volume_reaper_threads",
    "volume_reaper_sweep_last_success_timestamp_seconds",
    "volume_reaper_queue_messages",
];

/// Spans could not be sent to the collector of traces.
pub fn trace_spans_dropped(spans: u64) {
    counter!("volume_reaper_trace_spans_dropped_total").increment(spans);
}

/// Until when this replica leads the sweeps of each host.
static LEADS: Mutex<BTreeMap<Option<String>, Option<DateTime<Utc>>>> = Mutex::new(BTreeMap::new());

/// Installs the recorder for this process; the handle writes what `/metrics` serves.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    begin();
    Ok(handle)
}

/// A recorder that has our histograms' buckets, and is nobody's yet.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("volume_reaper_close_to_mark_seconds".to_owned()),
            CLOSE_TO_MARK_BUCKETS_SECS,
        )?
        .set_buckets_for_metric(Matcher::Full("volume_reaper_sweep_seconds".to_owned()), SWEEP_BUCKETS_SECS)?
        .set_buckets_for_metric(Matcher::Full("volume_reaper_removal_seconds".to_owned()), REMOVAL_BUCKETS_SECS)?
        .build_recorder())
}

/// Says to a recorder what it will hear of.
pub fn begin() {
    descriptions::describe();
    gauge!("volume_reaper_build_info", "version" => VERSION, "revision" => REVISION).set(1.0);
}

/// Takes in, from time to time, what the histograms were told: it is kept sample by sample until then, or until
/// somebody scrapes them, which nobody may do.
pub async fn keep_up(recorder: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        recorder.run_upkeep();
    }
}

/// A clean-up ended.
pub fn cleanup(source: &'static str, outcome: &'static str) {
    cleanups(source, outcome, 1);
}

/// Several clean-ups ended alike.
pub fn cleanups(source: &'static str, outcome: &'static str, count: u64) {
    counter!("volume_reaper_cleanups_total", "source" => source, "outcome" => outcome).increment(count);
}

/// A container was removed for its volume's sake.
pub fn container_removed(source: &'static str) {
    counter!("volume_reaper_containers_removed_total", "source" => source).increment(1);
}

/// A delivery was settled.
pub fn settlement(settlement: &'static str) {
    counter!("volume_reaper_settlements_total", "settlement" => settlement).increment(1);
}

/// The handling of a delivery, or a sweep, panicked and was contained.
pub fn panic() {
    counter!("volume_reaper_panics_total").increment(1);
}

/// The lease of a sweep could not be taken although the database answers.
pub fn lease_failure() {
    counter!("volume_reaper_lease_failures_total").increment(1);
}

/// Docker answered, or did not. `host` is its name, unless there is only one.
pub fn docker_request(host: Option<&str>, operation: &'static str, status: &str) {
    let mut labels = vec![Label::new("operation", operation), Label::new("status", status.to_owned())];
    labels.extend(of_host(host));
    counter!("volume_reaper_docker_requests_total", labels).increment(1);
}

/// A thread that was closed then, if the platform says when, was marked now.
pub fn close_to_mark(closed_at: Option<DateTime<Utc>>, marked_at: DateTime<Utc>) {
    if let Some(elapsed) = closed_at.and_then(|closed_at| (marked_at - closed_at).to_std().ok()) {
        histogram!("volume_reaper_close_to_mark_seconds").record(elapsed);
    }
}

/// A sweep ended.
pub fn sweep(duration: Duration) {
    histogram!("volume_reaper_sweep_seconds").record(duration);
}

/// A thread was reopened while its volume was removed, after its row was no longer locked: that volume may be missed.
pub fn reopened_while_removing() {
    counter!("volume_reaper_reopened_while_removing_total").increment(1);
}

/// A removal took longer than its thread's row stays locked.
pub fn lock_given_up() {
    counter!("volume_reaper_locks_given_up_total").increment(1);
}

/// What is left to do now: `unmarked` closed threads, the first of which was closed at `oldest_closed_at`.
pub fn backlog(unmarked: u64, oldest_closed_at: Option<DateTime<Utc>>, now: DateTime<Utc>) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53 threads")]
    gauge!("volume_reaper_unmarked_threads").set(unmarked as f64);
    let oldest = oldest_closed_at.and_then(|closed_at| (now - closed_at).to_std().ok());
    gauge!("volume_reaper_oldest_unmarked_seconds").set(oldest.unwrap_or_default().as_secs_f64());
}

/// Closed and unmarked threads by why they were left. `host` is the host's name, unless there is only one.
pub fn threads(host: Option<&str>, states: impl IntoIterator<Item = (&'static str, u64)>) {
    for (state, threads) in states {
        let mut labels = vec![Label::new("state", state)];
        labels.extend(of_host(host));
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53 threads")]
        gauge!("volume_reaper_threads", labels).set(threads as f64);
    }
}

/// The longest closed thread that nobody holds was closed then, and its volume is kept for so long after that.
pub fn oldest_due(closed_at: Option<DateTime<Utc>>, kept: Duration, now: DateTime<Utc>) {
    let closed = closed_at.and_then(|closed_at| (now - closed_at).to_std().ok()).unwrap_or_default();
    gauge!("volume_reaper_oldest_due_seconds").set(closed.saturating_sub(kept).as_secs_f64());
}

/// A sweep was done to its end.
pub fn swept_well(host: Option<&str>, at: DateTime<Utc>) {
    #[expect(clippy::cast_precision_loss, reason = "exact for as long as there are such clocks")]
    gauge!("volume_reaper_sweep_last_success_timestamp_seconds", of_host(host)).set(at.timestamp() as f64);
}

/// Messages are ready in a queue of ours.
pub fn queue_messages(queue: &str, messages: u32) {
    gauge!("volume_reaper_queue_messages", "queue" => queue.to_owned()).set(f64::from(messages));
}

/// A daemon removed a volume.
pub fn removal(host: Option<&str>, took: Duration) {
    histogram!("volume_reaper_removal_seconds", of_host(host)).record(took);
}

/// So much was in a volume that was removed and whose thread is marked; none if that is unknown.
pub fn reclaimed(host: Option<&str>, bytes: Option<u64>) {
    match bytes {
        Some(bytes) => counter!("volume_reaper_reclaimed_bytes_total", of_host(host)).increment(bytes),
        None => counter!("volume_reaper_reclaimed_unknown_total", of_host(host)).increment(1),
    }
}

/// Volumes without a thread were counted on a host.
pub fn orphans(host: Option<&str>, count: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float, exact up to 2^53 volumes")]
    gauge!("volume_reaper_orphan_volumes", of_host(host)).set(count as f64);
}

/// Removal was paused, or resumed. `host` is the host's name, unless there is only one.
pub fn removal_paused(host: Option<&str>, paused: bool) {
    gauge!("volume_reaper_removal_paused", of_host(host)).set(if paused { 1.0 } else { 0.0 });
}

/// Somebody showed a token that is none.
pub fn http_auth_failure() {
    counter!("volume_reaper_http_auth_failures_total").increment(1);
}

/// A log line found no room: whoever reads standard error does not keep up.
pub fn log_line_dropped() {
    counter!("volume_reaper_log_lines_dropped_total").increment(1);
}

/// Until when this replica leads the sweeps of a host, if it does. `host` is its name, unless there is only one.
pub fn leads(host: Option<&str>, until: Option<DateTime<Utc>>) {
    LEADS.lock().insert(host.map(str::to_owned), until);
}

/// What `/metrics` serves.
///
/// What only a leader finds out is left out by all others. By the clock on the wall: it goes on while a process or its
/// machine is paused, and others have taken the lead by then.
pub fn render(handle: &PrometheusHandle) -> String {
    let now = Utc::now();
    let leads: BTreeMap<_, _> =
        LEADS.lock().iter().map(|(host, until)| (host.clone(), until.is_some_and(|until| now < until))).collect();
    for (host, leads) in &leads {
        gauge!("volume_reaper_sweep_leader", of_host(host.as_deref())).set(if *leads { 1.0 } else { 0.0 });
    }
    let is_served = |line: &&str| {
        let Some(labels) = OF_LEADERS.iter().find_map(|gauge| line.strip_prefix(gauge)) else { return true };
        leads.iter().any(|(host, leads)| {
            let is_of = |host: &String| !labels.starts_with('{') || labels.contains(&format!("host=\"{host}\""));
            *leads && host.as_ref().is_none_or(is_of)
        })
    };
    handle.render().split_inclusive('\n').filter(is_served).collect()
}

/// A dependency came or went.
pub fn dependency_up(dependency: Dependency, up: bool) {
    gauge!("volume_reaper_dependency_up", "dependency" => dependency.as_str()).set(if up { 1.0 } else { 0.0 });
}

/// The stream of a Docker host's events was opened, or broke.
pub fn docker_events_connected(host: Option<&str>, is_connected: bool) {
    gauge!("volume_reaper_docker_events_connected", of_host(host)).set(if is_connected { 1.0 } else { 0.0 });
}

/// A Docker host came or went. Of the only one, [`dependency_up`] says so.
pub fn host_up(host: Option<&str>, up: bool) {
    if let Some(host) = host {
        gauge!("volume_reaper_docker_host_up", "host" => host.to_owned()).set(if up { 1.0 } else { 0.0 });
    }
}

fn of_host(host: Option<&str>) -> Vec<Label> {
    host.map(|host| Label::new("host", host.to_owned())).into_iter().collect()
}
