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
    setting(
        "volumes_table",
        "VOLUME_REAPER_VOLUMES_TABLE",
        "",
        "The table with a row for each volume of a thread, which has its name and our mark; empty if there is none",
    ),
    setting(
        "volumes_schema",
        "VOLUME_REAPER_VOLUMES_SCHEMA",
        "",
        "The PostgreSQL schema of the volumes table; found along the search path if empty",
    ),
    setting("volumes_id_column", "VOLUME_REAPER_VOLUMES_ID_COLUMN", "id", "Its column with the id of the row"),
    setting(
        "volumes_thread_column",
        "VOLUME_REAPER_VOLUMES_THREAD_COLUMN",
        "thread_id",
        "Its column with the id of the thread, of the same type as there",
    ),
    setting(
        "volumes_name_column",
        "VOLUME_REAPER_VOLUMES_NAME_COLUMN",
        "volume_name",
        "Its column with the name of the volume: unique, and like the prefix or one of the names says",
    ),
    setting(
        "volumes_mark_column",
        "VOLUME_REAPER_VOLUMES_MARK_COLUMN",
        "removed_at",
        "Its column for our mark: when the volume was known to be gone",
    ),
    setting(
        "volumes_host_column",
        "VOLUME_REAPER_VOLUMES_HOST_COLUMN",
        "",
        "Its column with the name of the Docker host that the volume is on, which counts more than its thread's; empty \
         if there is none",
    ),
];
