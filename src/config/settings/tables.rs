//! The platform's tables.

use super::{Setting, setting};

pub(super) const OF_TABLES: &[Setting] = &[
    setting(
        "threads_schema",
        "VOLUME_REAPER_THREADS_SCHEMA",
        "",
        "The PostgreSQL schema of the threads table; found along the search path if empty",
    ),
    setting("threads_table", "VOLUME_REAPER_THREADS_TABLE", "threads", "The table with the threads"),
    setting(
        "threads_id_column",
        "VOLUME_REAPER_THREADS_ID_COLUMN",
        "id",
        "Its column with the id: text, a uuid or a whole number",
    ),
    setting(
        "threads_status_column",
        "VOLUME_REAPER_THREADS_STATUS_COLUMN",
        "status",
        "Its column with the status: text, an enum, a boolean or a whole number",
    ),
    setting("threads_closed_value", "VOLUME_REAPER_THREADS_CLOSED_VALUE", "closed", "The status that means closed"),
    setting(
        "threads_closed_at_column",
        "VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN",
        "closed_at",
        "Its column with the time of the close; empty if there is none",
    ),
    setting(
        "threads_mark_column",
        "VOLUME_REAPER_THREADS_MARK_COLUMN",
        "workspace_volume_removed_at",
        "Its column for our mark: when the volume was known to be gone",
    ),
    setting(
        "threads_host_column",
        "VOLUME_REAPER_THREADS_HOST_COLUMN",
        "",
        "Its column with the name of the Docker host that the volume is on; empty if there is none",
    ),
];
