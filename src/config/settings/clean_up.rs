//! How clean-up and sweeps go about it, and what they may remove.

use super::{Setting, setting};

pub(super) const OF_CLEAN_UP: &[Setting] = &[
    setting(
        "prefetch",
        "VOLUME_REAPER_PREFETCH",
        "128",
        "Deliveries that the broker hands over ahead of their settlement, per Docker host",
    ),
    setting("concurrency", "VOLUME_REAPER_CONCURRENCY", "4", "Removals in flight at once, per Docker host"),
    setting(
        "retry_delays",
        "VOLUME_REAPER_RETRY_DELAYS",
        "1s,5s,30s,2m,10m",
        "Waits before the second, third, ... attempt; after the last one a delivery is final",
    ),
    setting("reconcile_interval", "VOLUME_REAPER_RECONCILE_INTERVAL", "60s", "From one sweep to the next"),
    setting(
        "reconcile_cooldown",
        "VOLUME_REAPER_RECONCILE_COOLDOWN",
        "10m",
        "How long sweeps leave a volume alone that could not be removed",
    ),
    setting(
        "retention",
        "VOLUME_REAPER_RETENTION",
        "0s",
        "How long a thread's volume is kept after the close; 0s is not at all",
    ),
    setting(
        "budget_per_sweep",
        "VOLUME_REAPER_BUDGET_PER_SWEEP",
        "10000",
        "Volumes that one sweep may remove before all removal is paused, or off",
    ),
    setting(
        "budget_per_hour",
        "VOLUME_REAPER_BUDGET_PER_HOUR",
        "20000",
        "Volumes that all replicas may remove within an hour before all removal is paused, or off",
    ),
    setting(
        "exited_containers",
        "VOLUME_REAPER_EXITED_CONTAINERS",
        "off",
        "What becomes of containers that have exited and alone keep a closed thread's volume: off: they stay; remove: \
         they are removed, and the volume after them",
    ),
    setting(
        "exited_grace",
        "VOLUME_REAPER_EXITED_GRACE",
        "1h",
        "How long ago such a container has to have exited, or to have been created if it was never started",
    ),
    setting(
        "exited_managed",
        "VOLUME_REAPER_EXITED_MANAGED",
        "keep",
        "Such containers that Compose, Swarm, Kubernetes or systemd manage, by their labels: keep or remove",
    ),
    setting(
        "receipts_keep",
        "VOLUME_REAPER_RECEIPTS_KEEP",
        "",
        "How long receipts are kept, such as 365d; for ever if empty",
    ),
    setting(
        "size_interval",
        "VOLUME_REAPER_SIZE_INTERVAL",
        "off",
        "How often, at most, whoever sweeps a host asks its daemon how much is in our volumes, such as 6h, or off",
    ),
    setting(
        "unknown_threads",
        "VOLUME_REAPER_UNKNOWN_THREADS",
        "reject",
        "An event about a thread without a row: reject: too early or a mistake; record: its row, as nobody else \
         writes any",
    ),
];
