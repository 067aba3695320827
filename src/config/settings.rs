//! The table of all settings.

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the TOML file; as a flag, with dashes.
    pub key: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// The value if nothing else is said; `""` is none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether its value can hold a password: then it is never repeated.
    pub secret: bool,
}

const fn setting(key: &'static str, env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, env, default, help, secret: false }
}

const fn secret(key: &'static str, env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, env, default, help, secret: true }
}

/// All settings. The table in `docs/settings.md` is checked against this one.
pub const SETTINGS: &[Setting] = &[
    secret(
        "database_url",
        "DATABASE_URL",
        "sqlite://volume-reaper.db?mode=rwc",
        "The database with the threads: postgres://..., mysql://... (or mariadb://...) or sqlite://...",
    ),
    secret(
        "amqp_url",
        "AMQP_URL",
        "amqp://127.0.0.1:5672/%2f",
        "The message broker: amqp://user:password@host/vhost, or amqps://",
    ),
    setting(
        "amqp_ca_file",
        "VOLUME_REAPER_AMQP_CA_FILE",
        "",
        "For amqps://: the authorities to trust, PEM; the system's if empty",
    ),
    setting("amqp_cert_file", "VOLUME_REAPER_AMQP_CERT_FILE", "", "For amqps://: our client certificate, PEM"),
    setting("amqp_key_file", "VOLUME_REAPER_AMQP_KEY_FILE", "", "For amqps://: its private key, PEM, not encrypted"),
    setting(
        "management_url",
        "VOLUME_REAPER_MANAGEMENT_URL",
        "",
        "The broker's management API, http://host:15672: doctor asks it for policies; not asked if empty",
    ),
    setting(
        "docker_host",
        "DOCKER_HOST",
        "unix:///var/run/docker.sock",
        "The Docker daemon: unix:///path, tcp://host:port or ssh://user@host",
    ),
    setting(
        "docker_tls_verify",
        "DOCKER_TLS_VERIFY",
        "",
        "For tcp://: TLS, as Docker's own client has it; any text is yes",
    ),
    setting(
        "docker_cert_path",
        "DOCKER_CERT_PATH",
        "",
        "For TLS to the Docker daemon: the folder with ca.pem, cert.pem and key.pem; ~/.docker if empty",
    ),
    setting(
        "docker_hosts",
        "VOLUME_REAPER_DOCKER_HOSTS",
        "",
        "Several Docker daemons in place of the one: name=endpoint,name=endpoint; in a file, [[docker.hosts]]",
    ),
    setting(
        "host",
        "VOLUME_REAPER_HOST",
        "",
        "One reaper per Docker host: the name of this one's, whose events and threads alone are its own",
    ),
    setting(
        "docker_timeout",
        "VOLUME_REAPER_DOCKER_TIMEOUT",
        "2m",
        "How long a delivery waits until its removal can be sent; then a sweep cleans up. A removal that takes longer \
         holds up no others",
    ),
    setting(
        "lock_limit",
        "VOLUME_REAPER_LOCK_LIMIT",
        "",
        "How long rows are locked, and deliveries wait, while volumes are removed; 0s never locks; 2s if empty, and \
         500ms on SQLite",
    ),
    setting("volume_prefix", "VOLUME_REAPER_VOLUME_PREFIX", "ha_ws_", "What a thread's volume is called before its id"),
    setting(
        "volume_names",
        "VOLUME_REAPER_VOLUME_NAMES",
        "",
        "Several volumes a thread: what each is called, as in ha_ws_{id},ha_cache_{id}; the prefix and the id if empty",
    ),
    setting(
        "foreign_prefixes",
        "VOLUME_REAPER_FOREIGN_PREFIXES",
        "",
        "Longer prefixes that begin with ours and are somebody else's, as in ha_ws_x_: such volumes are left alone",
    ),
    setting("exchange", "VOLUME_REAPER_EXCHANGE", "threads", "The topic exchange that thread events are published to"),
    setting("routing_key", "VOLUME_REAPER_ROUTING_KEY", "thread.closed", "The routing key of thread-closed events"),
    setting(
        "reopened_routing_key",
        "VOLUME_REAPER_REOPENED_ROUTING_KEY",
        "thread.reopened",
        "The routing key of thread-reopened events; listened to only with unknown_threads=record",
    ),
    setting("queue_prefix", "VOLUME_REAPER_QUEUE_PREFIX", "volume-reaper", "What our queues are called before the dot"),
    setting(
        "topology",
        "VOLUME_REAPER_TOPOLOGY",
        "declare",
        "declare: create exchange and queues; check: only look that they are there",
    ),
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
        "unknown_threads",
        "VOLUME_REAPER_UNKNOWN_THREADS",
        "reject",
        "An event about a thread without a row: reject: too early or a mistake; record: its row, as nobody else \
         writes any",
    ),
    setting(
        "shutdown_grace",
        "VOLUME_REAPER_SHUTDOWN_GRACE",
        "25s",
        "How long work in flight may take to finish after SIGTERM or SIGINT",
    ),
    setting("http_addr", "VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:9464", "Where /livez, /readyz and /metrics are served"),
    setting(
        "http_connections",
        "VOLUME_REAPER_HTTP_CONNECTIONS",
        "256",
        "HTTP connections at once; the oldest is closed for a newer one",
    ),
    setting(
        "http_timeout",
        "VOLUME_REAPER_HTTP_TIMEOUT",
        "10s",
        "How long an HTTP connection may take, request and answer together",
    ),
    setting(
        "migrate",
        "VOLUME_REAPER_MIGRATE",
        "true",
        "Whether serve and sweep bring the schema up to date by themselves",
    ),
    setting(
        "replica",
        "VOLUME_REAPER_REPLICA",
        "",
        "This replica's name in receipts and logs; the host's name if empty",
    ),
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
        "log_filter",
        "RUST_LOG",
        "info,lapin=off",
        "What is logged: error, warn, info, debug, trace, or per module; lapin repeats what we say",
    ),
    setting("log_format", "VOLUME_REAPER_LOG_FORMAT", "pretty", "pretty or json"),
];

/// The flag of a setting, such as `--volume-prefix`.
#[must_use]
pub fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_settings_has_each_of_them_and_no_other() {
        let code = SETTINGS.iter().map(|Setting { key, env, default, help, .. }| {
            let default = if default.is_empty() { " ".to_owned() } else { format!(" `{default}` ") };
            format!("| `{env}` | `{key}` |{default}| {help} |")
        });
        let page = include_str!("../../docs/settings.md");
        let table = page.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(table.collect::<Vec<_>>().join("\n"), code.collect::<Vec<_>>().join("\n"));
    }
}
