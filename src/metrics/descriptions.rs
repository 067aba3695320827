//! What each metric says, for those who read `/metrics`.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Describes all of them to the recorder.
pub(super) fn describe() {
    describe_counter!("volume_reaper_cleanups_total", "Clean-ups, by who asked (source) and how they ended (outcome).");
    describe_counter!(
        "volume_reaper_containers_removed_total",
        "Containers that had exited and were removed for their volume's sake, by who asked (source)."
    );
    describe_counter!("volume_reaper_settlements_total", "Settled deliveries, by settlement.");
    describe_counter!("volume_reaper_docker_requests_total", "Requests to Docker, by operation and status.");
    describe_counter!(
        "volume_reaper_panics_total",
        "Panics in the handling of a delivery or in a sweep: bugs, contained and retried."
    );
    describe_counter!(
        "volume_reaper_lease_failures_total",
        "Failures to take the lease of a sweep although the database answers: nothing is swept here."
    );
    describe_gauge!("volume_reaper_unmarked_threads", "Closed threads that are not marked, at the last sweep's end.");
    describe_gauge!(
        "volume_reaper_oldest_unmarked_seconds",
        "Age of the longest closed thread that is not marked, at the last sweep's end."
    );
    describe_gauge!(
        "volume_reaper_orphan_volumes",
        "Volumes of ours that belong to no thread, at the last sweep's end."
    );
    describe_gauge!(
        "volume_reaper_threads",
        "Closed threads that are not marked, by why (state), at the last sweep's end."
    );
    describe_gauge!(
        "volume_reaper_oldest_due_seconds",
        "For how long a thread that nobody holds has been due and is not marked, at the last sweep's end."
    );
    describe_gauge!(
        "volume_reaper_sweep_last_success_timestamp_seconds",
        "When a sweep was last done to its end, in seconds since 1970."
    );
    describe_gauge!("volume_reaper_queue_messages", "Messages that are ready in one of our queues.");
    describe_histogram!("volume_reaper_removal_seconds", "From the request to the daemon's answer, of removals.");
    describe_counter!("volume_reaper_reclaimed_bytes_total", "What was in removed volumes, as far as it is known.");
    describe_counter!("volume_reaper_reclaimed_unknown_total", "Removed volumes of which it is not known.");
    describe_gauge!("volume_reaper_build_info", "Always 1; its labels say what runs.");
    describe_histogram!("volume_reaper_close_to_mark_seconds", "From a thread's close to its mark.");
    describe_histogram!("volume_reaper_sweep_seconds", "Duration of sweeps.");
    describe_counter!(
        "volume_reaper_reopened_while_removing_total",
        "Threads that were reopened while their volume was removed, after its row was no longer locked."
    );
    describe_counter!(
        "volume_reaper_log_lines_dropped_total",
        "Log lines that were dropped because whoever reads standard error did not keep up."
    );
    describe_counter!(
        "volume_reaper_trace_spans_dropped_total",
        "Spans that the collector of traces did not get: it is away or slow."
    );
    describe_counter!(
        "volume_reaper_locks_given_up_total",
        "Removals that took longer than the lock limit, so that their threads could be reopened meanwhile."
    );
    describe_gauge!("volume_reaper_sweep_leader", "Whether this replica leads the sweeps (1) or not (0), by host.");
    describe_gauge!("volume_reaper_removal_paused", "Whether removal is paused (1) or not (0).");
    describe_gauge!("volume_reaper_dependency_up", "Whether a dependency answers (1) or not (0).");
    describe_gauge!(
        "volume_reaper_docker_events_connected",
        "Whether Docker's events are followed (1); if not, volumes that a container held wait for the next sweep."
    );
    describe_counter!(
        "volume_reaper_http_auth_failures_total",
        "Requests to the console or the API with a token that is not in the tokens file."
    );
    describe_gauge!("volume_reaper_docker_host_up", "Whether a Docker host answers (1) or not (0), by host.");
}
