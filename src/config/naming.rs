//! What the platform's tables and volumes are called.

use migrations::{ThreadsTable, VolumesTable};

use super::{
    ConfigError,
    checks::{not_empty, optional},
    sources::{Values, default_of},
};
use crate::volume_name::VolumeNames;

/// How the platform's table of threads is called, and its columns.
pub(super) fn threads_table<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
) -> Result<ThreadsTable, ConfigError> {
    Ok(ThreadsTable {
        schema: values.get("threads_schema", optional)?,
        table: values.get("threads_table", not_empty)?,
        id: values.get("threads_id_column", not_empty)?,
        status: values.get("threads_status_column", not_empty)?,
        closed_value: values.get("threads_closed_value", not_empty)?,
        closed_at: values.get("threads_closed_at_column", optional)?,
        mark: values.get("threads_mark_column", not_empty)?,
        host: values.get("threads_host_column", optional)?,
        volumes: volumes_table(values)?,
    })
}

/// How its table of volumes is called, if there is one, and its columns.
fn volumes_table<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<Option<VolumesTable>, ConfigError> {
    // Each is looked at, whether there is a table or not.
    let table = values.get("volumes_table", optional)?;
    let schema = values.get("volumes_schema", optional)?;
    let id = values.get("volumes_id_column", not_empty)?;
    let thread = values.get("volumes_thread_column", not_empty)?;
    let name = values.get("volumes_name_column", not_empty)?;
    let mark = values.get("volumes_mark_column", not_empty)?;
    let host = values.get("volumes_host_column", optional)?;
    Ok(table.map(|table| VolumesTable { schema, table, id, thread, name, mark, host }))
}

/// What the volumes of threads are called: by the templates, or else by the prefix.
pub(super) fn volume_names<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<VolumeNames, ConfigError> {
    let of_prefix = values.get("volume_prefix", VolumeNames::of_prefix)?;
    let templates =
        values.get("volume_names", |text| optional(text)?.map(|text| VolumeNames::of_templates(&text)).transpose())?;
    let Some(names) = templates else { return Ok(of_prefix) };
    let prefix = of_prefix.common_prefix();
    if prefix == default_of("volume_prefix") || names.has_prefix(prefix) {
        return Ok(names);
    }
    Err(ConfigError(format!(
        "VOLUME_REAPER_VOLUME_NAMES has no {prefix}{{id}}, and VOLUME_REAPER_VOLUME_PREFIX is {prefix:?}: let one of \
         the names be that, or leave the prefix out"
    )))
}
