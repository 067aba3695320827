//! The settings: one table of them, four places that a value can come from, and the checked result.
//!
//! Precedence: flag, environment, the TOML file of `--config`, default. What is unknown, malformed or unsafe is
//! refused with one line that says where it stands; a secret is never repeated in it.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use migrations::ThreadsTable;
use url::Url;

use crate::{
    breaker::Budgets,
    coordinator::{Policy, UnknownThreads},
    docker::Endpoint,
    retention::Retention,
    tls::{self, Identity, TlsFiles},
    volume_name::VolumePrefix,
};

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

/// All settings. The table in the README is checked against this one.
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
        "docker_timeout",
        "VOLUME_REAPER_DOCKER_TIMEOUT",
        "2m",
        "How long the removal of one volume may take before it is tried again later",
    ),
    setting("volume_prefix", "VOLUME_REAPER_VOLUME_PREFIX", "ha_ws_", "What a thread's volume is called before its id"),
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
        "32",
        "Deliveries that the broker hands over ahead of their settlement",
    ),
    setting("concurrency", "VOLUME_REAPER_CONCURRENCY", "4", "Removals in flight at once"),
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
        "An event about a thread without a row: reject: too early or a mistake; record: its row, as nobody else writes any",
    ),
    setting(
        "shutdown_grace",
        "VOLUME_REAPER_SHUTDOWN_GRACE",
        "25s",
        "How long work in flight may take to finish after SIGTERM or SIGINT",
    ),
    setting("http_addr", "VOLUME_REAPER_HTTP_ADDR", "127.0.0.1:9464", "Where /livez, /readyz and /metrics are served"),
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
        "log_filter",
        "RUST_LOG",
        "info,lapin=off",
        "What is logged: error, warn, info, debug, trace, or per module; lapin repeats what we say",
    ),
    setting("log_format", "VOLUME_REAPER_LOG_FORMAT", "pretty", "pretty or json"),
];

/// Where the environment names the TOML file.
pub const CONFIG_ENV: &str = "VOLUME_REAPER_CONFIG";

/// A URL that may hold a password: shown without it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

/// The parameter of a database's URL that says that a pooler stands before it; Prisma's name for it.
const POOLER: &str = "pgbouncer";

impl SecretUrl {
    /// Checks the form and the scheme.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if schemes.contains(&url.scheme()) {
            Ok(Self(url))
        } else {
            Err(format!("must begin with {}:", schemes.join(": or ")))
        }
    }

    /// The URL with its password, for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether a pooler stands before the database that hands out connections by the transaction.
    #[must_use]
    pub fn is_behind_pooler(&self) -> bool {
        self.0.query_pairs().any(|(key, value)| key == POOLER && value == "true")
    }

    /// The URL with its password, without what only we understand.
    #[must_use]
    pub fn for_driver(&self) -> String {
        if self.0.query_pairs().all(|(key, _)| key != POOLER) {
            return self.expose().to_owned();
        }
        let mut url = self.0.clone();
        let kept: Vec<_> = self.0.query_pairs().filter(|(key, _)| key != POOLER).collect();
        if kept.is_empty() {
            url.set_query(None);
        } else {
            url.query_pairs_mut().clear().extend_pairs(kept);
        }
        url.into()
    }

    /// The scheme, such as `postgres`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// The host, if the URL names one; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.0.host_str().filter(|host| !host.is_empty())
    }

    /// The port, if the URL names one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() {
            // A URL with a password has a host, so this can't fail; if it did, nothing at all would be shown.
            url.set_password(Some("***")).map_err(|()| fmt::Error)?;
        }
        // Parameters may hold secrets too (`sslpassword`), and none of them helps to recognise the server.
        url.set_query(None);
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether we create exchange and queues or only look that they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Create what is missing.
    Declare,
    /// The operator owns the broker's definitions; only check.
    Check,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The checked settings; see [`SETTINGS`] for what each does.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is described in SETTINGS")]
pub struct Config {
    pub database_url: SecretUrl,
    pub amqp_url: SecretUrl,
    pub amqp_tls: TlsFiles,
    pub docker_host: Endpoint,
    pub docker_timeout: Duration,
    pub volume_prefix: VolumePrefix,
    pub exchange: String,
    pub routing_key: String,
    pub reopened_routing_key: String,
    pub queue_prefix: String,
    pub topology: Topology,
    pub prefetch: u16,
    pub concurrency: u16,
    pub retry_delays: Vec<Duration>,
    pub reconcile_interval: Duration,
    pub reconcile_cooldown: Duration,
    pub policy: Policy,
    pub shutdown_grace: Duration,
    pub http_addr: SocketAddr,
    pub migrate: bool,
    pub replica: String,
    pub threads: ThreadsTable,
    pub log_filter: String,
    pub log_format: LogFormat,
}

/// Settings that can't be used: one line that says what is wrong and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the file of `--config`.
    pub fn read_file(path: &Path) -> Result<String, ConfigError> {
        std::fs::read_to_string(path).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
    }

    /// Puts the settings together.
    ///
    /// `flags` gives a flag's value by the setting's key, `env` is the whole environment, `file` the TOML file's path
    /// and text.
    pub fn load(
        flags: impl Fn(&str) -> Option<String>,
        env: &HashMap<String, String>,
        file: Option<(PathBuf, String)>,
    ) -> Result<Self, ConfigError> {
        refuse_unknown_variables(env)?;
        let file = file.map_or_else(|| Ok(FileValues::default()), |(path, text)| FileValues::parse(path, &text))?;
        Self::check(&Values { flags, env, file })
    }

    fn check<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<Self, ConfigError> {
        let docker_tls = docker_tls(values)?;
        let config = Self {
            database_url: values.get("database_url", |text| {
                let url = SecretUrl::parse(text, &["postgres", "postgresql", "mysql", "mariadb", "sqlite"])?;
                match url.scheme() {
                    "mysql" | "mariadb" => check_mysql(&url)?,
                    _ => check_postgres_tls(&url, values.env.get("PGSSLMODE").map_or("prefer", String::as_str))?,
                }
                Ok(url)
            })?,
            amqp_url: values.get("amqp_url", |text| SecretUrl::parse(text, &["amqp", "amqps"]))?,
            amqp_tls: TlsFiles {
                authorities: values.get("amqp_ca_file", |text| file(text, tls::authorities))?,
                identity: identity(
                    values.get("amqp_cert_file", |text| file(text, tls::certificates))?,
                    values.get("amqp_key_file", |text| file(text, tls::private_key))?,
                )?,
            },
            // Docker's own client takes an empty DOCKER_HOST for none.
            docker_host: values.get("docker_host", |text| match text {
                "" => Endpoint::parse("unix:///var/run/docker.sock", None),
                text => Endpoint::parse(text, docker_tls.as_ref()),
            })?,
            docker_timeout: values.get("docker_timeout", |text| duration(text, SECOND, HOUR))?,
            volume_prefix: values.get("volume_prefix", VolumePrefix::parse)?,
            exchange: values.get("exchange", amqp_name)?,
            routing_key: values.get("routing_key", amqp_name)?,
            reopened_routing_key: values.get("reopened_routing_key", amqp_name)?,
            queue_prefix: values.get("queue_prefix", amqp_name)?,
            topology: values.get("topology", |text| match text {
                "declare" => Ok(Topology::Declare),
                "check" => Ok(Topology::Check),
                _ => Err("must be declare or check".to_owned()),
            })?,
            prefetch: values.get("prefetch", |text| number(text, 1..=10_000))?,
            concurrency: values.get("concurrency", |text| number(text, 1..=256))?,
            retry_delays: values.get("retry_delays", retry_delays)?,
            reconcile_interval: values.get("reconcile_interval", |text| duration(text, SECOND, DAY))?,
            reconcile_cooldown: values.get("reconcile_cooldown", |text| duration(text, Duration::ZERO, DAY))?,
            policy: Policy {
                unknown_threads: values.get("unknown_threads", |text| match text {
                    "reject" => Ok(UnknownThreads::Reject),
                    "record" => Ok(UnknownThreads::Record),
                    _ => Err("must be reject or record".to_owned()),
                })?,
                retention: Retention(values.get("retention", |text| duration(text, Duration::ZERO, 3650 * DAY))?),
                budgets: Budgets {
                    per_sweep: values.get("budget_per_sweep", budget)?,
                    per_hour: values.get("budget_per_hour", budget)?,
                },
            },
            shutdown_grace: values.get("shutdown_grace", |text| duration(text, Duration::ZERO, HOUR))?,
            http_addr: values.get("http_addr", |text| {
                text.parse().map_err(|_| "must be an address with a port, as in 127.0.0.1:9464".to_owned())
            })?,
            migrate: values.get("migrate", boolean)?,
            replica: values.get("replica", |text| Ok(if text.is_empty() { host_name() } else { text.to_owned() }))?,
            threads: ThreadsTable {
                schema: values.get("threads_schema", optional)?,
                table: values.get("threads_table", not_empty)?,
                id: values.get("threads_id_column", not_empty)?,
                status: values.get("threads_status_column", not_empty)?,
                closed_value: values.get("threads_closed_value", not_empty)?,
                closed_at: values.get("threads_closed_at_column", optional)?,
                mark: values.get("threads_mark_column", not_empty)?,
            },
            log_filter: values.get("log_filter", |text| {
                let filter = tracing_subscriber::EnvFilter::try_new(text);
                filter.map(|_| text.to_owned()).map_err(|error| error.to_string())
            })?,
            log_format: values.get("log_format", |text| match text {
                "pretty" => Ok(LogFormat::Pretty),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be pretty or json".to_owned()),
            })?,
        };
        config.check_amqp_tls()?;
        config.check_record()?;
        if config.threads.closed_at.is_none() && config.policy.retention != Retention(Duration::ZERO) {
            return Err(ConfigError(
                "VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN is empty, so that nothing would ever be due under a \
                 VOLUME_REAPER_RETENTION: name the column, or set the retention to 0s"
                    .to_owned(),
            ));
        }
        if config.prefetch < config.concurrency {
            return Err(ConfigError(format!(
                "prefetch ({}) is below concurrency ({}), so that some of it could never be used: \
                 raise VOLUME_REAPER_PREFETCH or lower VOLUME_REAPER_CONCURRENCY",
                config.prefetch, config.concurrency
            )));
        }
        Ok(config)
    }

    fn check_record(&self) -> Result<(), ConfigError> {
        let is_record = self.policy.unknown_threads == UnknownThreads::Record;
        if is_record && self.threads != ThreadsTable::default() {
            return Err(ConfigError(
                "VOLUME_REAPER_UNKNOWN_THREADS=record writes threads, and only into a table of our own: leave it out, or \
                 leave out the names of the platform's table (VOLUME_REAPER_THREADS_...)"
                    .to_owned(),
            ));
        }
        if is_record && self.reopened_routing_key == self.routing_key {
            return Err(ConfigError(format!(
                "VOLUME_REAPER_ROUTING_KEY and VOLUME_REAPER_REOPENED_ROUTING_KEY are both {:?}: an event would be one of \
                 a thread that was closed and of one that was reopened",
                self.routing_key
            )));
        }
        Ok(())
    }

    fn check_amqp_tls(&self) -> Result<(), ConfigError> {
        if self.amqp_url.scheme() == "amqps" {
            let usable = self.amqp_tls.client_config().map(drop);
            return usable.map_err(|what| ConfigError(format!("TLS to the broker: {what}")));
        }
        if self.amqp_tls != TlsFiles::default() {
            return Err(ConfigError(format!(
                "there are certificates for the broker, but AMQP_URL is {}, without TLS: let it begin with amqps:, or \
                 leave out VOLUME_REAPER_AMQP_CA_FILE, VOLUME_REAPER_AMQP_CERT_FILE and VOLUME_REAPER_AMQP_KEY_FILE",
                self.amqp_url
            )));
        }
        Ok(())
    }
}

/// The values of one start, each with the place that it comes from.
struct Values<'a, F> {
    flags: F,
    env: &'a HashMap<String, String>,
    file: FileValues,
}

impl<F: Fn(&str) -> Option<String>> Values<'_, F> {
    /// The value of `key`, checked; an error names the place.
    fn get<T>(&self, key: &'static str, check: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("every key read is in SETTINGS");
        let (place, value) = if let Some(value) = (self.flags)(key) {
            (flag_of(key), value)
        } else if let Some(value) = self.env.get(setting.env) {
            (setting.env.to_owned(), value.clone())
        } else if let Some(value) = self.file.values.get(key) {
            (format!("{}: {key}", self.file.path.display()), value.clone())
        } else {
            (format!("the default of {key}"), setting.default.to_owned())
        };
        check(&value).map_err(|what| {
            let shown = if setting.secret { String::new() } else { format!(" {value:?}") };
            ConfigError(format!("{place}{shown}: {what}"))
        })
    }
}

/// The flag of a setting, such as `--volume-prefix`.
#[must_use]
pub fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// What a TOML file sets.
#[derive(Default)]
struct FileValues {
    path: PathBuf,
    values: HashMap<String, String>,
}

impl FileValues {
    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let refused = |what: String| ConfigError(format!("{}: {what}", path.display()));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // Only the message: the parser would show the line, and a password with it.
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            refused(format!("line {line}: {}", error.message()))
        })?;
        let mut values = HashMap::new();
        for (key, value) in table {
            if !SETTINGS.iter().any(|setting| setting.key == key) {
                return Err(refused(format!("{key}: there is no such setting")));
            }
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                    items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
                }
                toml::Value::Array(_) | toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
                    return Err(refused(format!(
                        "{key}: must be a text, a whole number, a boolean or a list of texts"
                    )));
                }
            };
            values.insert(key, value);
        }
        Ok(Self { path, values })
    }
}

/// A misspelt variable would otherwise be a setting that silently does nothing.
fn refuse_unknown_variables(env: &HashMap<String, String>) -> Result<(), ConfigError> {
    let unknown = env.keys().filter(|name| {
        name.starts_with("VOLUME_REAPER_")
            && *name != CONFIG_ENV
            && !is_service_link(name)
            && !SETTINGS.iter().any(|setting| setting.env == *name)
    });
    match unknown.min() {
        Some(name) => Err(ConfigError(format!("{name}: there is no such setting; `volume-reaper --help` lists them"))),
        None => Ok(()),
    }
}

/// Kubernetes sets such variables in every pod beside a Service called `volume-reaper`
/// (its documentation, "Services, environment variables").
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix("VOLUME_REAPER_").unwrap_or_default();
    rest == "PORT"
        || rest == "SERVICE_HOST"
        || rest.starts_with("SERVICE_PORT")
        || (rest.starts_with("PORT_") && rest.contains("_TCP"))
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
/// The longest ladder: each step is a queue on the broker.
const MAX_RETRY_DELAYS: usize = 16;

fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "is not a duration; write it with its unit, as in 500ms, 60s or 10m".to_owned())?;
    if duration < least || duration > most {
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        return Err(format!("must be between {least} and {most}"));
    }
    Ok(duration)
}

fn retry_delays(text: &str) -> Result<Vec<Duration>, String> {
    let delays = text
        .split(',')
        .map(|delay| duration(delay.trim(), Duration::from_millis(100), DAY))
        .collect::<Result<Vec<_>, _>>()?;
    if delays.len() > MAX_RETRY_DELAYS {
        return Err(format!("has {} delays, the most allowed are {MAX_RETRY_DELAYS}", delays.len()));
    }
    if delays.iter().any(|delay| delay.subsec_nanos() % 1_000_000 != 0) {
        return Err("has a delay that is no whole number of milliseconds".to_owned());
    }
    Ok(delays)
}

fn number(text: &str, range: std::ops::RangeInclusive<u16>) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A number of removals; `None` is any number. None at all is what `pause` is for.
fn budget(text: &str) -> Result<Option<u64>, String> {
    const MOST: u64 = 1_000_000_000;
    match text.parse() {
        _ if text == "off" => Ok(None),
        Ok(number) if (1..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(format!("must be a whole number from 1 to {MOST}, or off")),
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a check")]
fn optional(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The path of a file that `read` can use; nothing if it is empty.
fn file<R>(text: &str, read: impl FnOnce(&Path) -> Result<R, String>) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    read(&path)?;
    Ok(Some(path))
}

/// The certificates for TLS to the Docker daemon, where its own client looks for them.
fn docker_tls<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<Option<TlsFiles>, ConfigError> {
    if !values
        .get("docker_host", |text| Ok(["tcp://", "http://", "https://"].iter().any(|tcp| text.starts_with(tcp))))?
    {
        return Ok(None);
    }
    let wants_tls = values.get("docker_tls_verify", |text| Ok(!text.is_empty()))?;
    let home = values.env.get("HOME").map_or_else(PathBuf::new, PathBuf::from);
    values.get("docker_cert_path", |text| {
        let dir = if text.is_empty() { home.join(".docker") } else { PathBuf::from(text) };
        if !wants_tls {
            let unverified = "is set and DOCKER_TLS_VERIFY is not: Docker's own client would not ask for a proof of who \
                              answers, and we don't do without; set it to 1";
            return if text.is_empty() { Ok(None) } else { Err(unverified.to_owned()) };
        }
        let read = |name: &str, check: fn(&Path) -> Result<(), String>| {
            let path = dir.join(name);
            check(&path).map_err(|what| format!("{}: {what}", path.display()))?;
            Ok::<_, String>(path)
        };
        let files = TlsFiles {
            authorities: Some(read("ca.pem", |path| tls::authorities(path).map(drop))?),
            identity: Some(Identity {
                certificate: read("cert.pem", |path| tls::certificates(path).map(drop))?,
                key: read("key.pem", |path| tls::private_key(path).map(drop))?,
            }),
        };
        files.client_config()?;
        Ok(Some(files))
    })
}

fn identity(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Identity>, ConfigError> {
    let lacks = |given, missing| Err(ConfigError(format!("{given} is set and {missing} is not: both are needed")));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
        (Some(_), None) => lacks("VOLUME_REAPER_AMQP_CERT_FILE", "VOLUME_REAPER_AMQP_KEY_FILE"),
        (None, Some(_)) => lacks("VOLUME_REAPER_AMQP_KEY_FILE", "VOLUME_REAPER_AMQP_CERT_FILE"),
    }
}

/// Checks the parameters of a PostgreSQL URL that are about TLS (PostgreSQL's manual, "SSL Support" of libpq).
///
/// sqlx finds fault with them at the first connect only, without naming the file; it does not verify a certificate where
/// libpq does because there is an `sslrootcert`; and it logs the values of those that it does not know.
fn check_postgres_tls(url: &SecretUrl, default_mode: &str) -> Result<(), String> {
    let mut mode = default_mode.to_owned();
    let mut has_authorities = false;
    for (key, value) in url.0.query_pairs() {
        let file = |read: &dyn Fn(&Path) -> Result<(), String>| {
            // sqlx takes the PEM itself too.
            let is_inline = value.trim_start().starts_with("-----BEGIN");
            if is_inline { Ok(()) } else { read(Path::new(&*value)).map_err(|what| format!("{key} {value}: {what}")) }
        };
        match &*key {
            "sslmode" | "ssl-mode" => mode = value.to_ascii_lowercase(),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                has_authorities = true;
                file(&|path| tls::authorities(path).map(drop))?;
            }
            "sslcert" | "ssl-cert" => file(&|path| tls::certificates(path).map(drop))?,
            "sslkey" | "ssl-key" => file(&|path| tls::private_key(path).map(drop))?,
            POOLER if !["true", "false"].contains(&&*value) => return Err("pgbouncer must be true or false".to_owned()),
            "sslpassword" => return Err("sslpassword is not supported: sslkey must not be encrypted".to_owned()),
            _ => {}
        }
    }
    if !["disable", "allow", "prefer", "require", "verify-ca", "verify-full"].contains(&mode.as_str()) {
        return Err("sslmode must be disable, allow, prefer, require, verify-ca or verify-full".to_owned());
    }
    if has_authorities && !mode.starts_with("verify-") {
        return Err(format!("sslrootcert verifies nothing with sslmode={mode}: it needs verify-ca or verify-full"));
    }
    Ok(())
}

/// Checks a MySQL URL: the database, and the parameters that are about TLS (MySQL's manual, "Command Options for
/// Encrypted Connections").
///
/// sqlx finds fault with them at the first connect only, without naming the file; and it passes over those that it does
/// not know, such as an `sslrootcert` that was meant to verify something.
fn check_mysql(url: &SecretUrl) -> Result<(), String> {
    if url.0.path().trim_start_matches('/').is_empty() {
        return Err("names no database: it must end in /DATABASE".to_owned());
    }
    let mut mode = "PREFERRED".to_owned();
    let mut has_authorities = false;
    for (key, value) in url.0.query_pairs() {
        let file = |read: &dyn Fn(&Path) -> Result<(), String>| {
            // sqlx takes the PEM itself too.
            let is_inline = value.trim_start().starts_with("-----BEGIN");
            if is_inline { Ok(()) } else { read(Path::new(&*value)).map_err(|what| format!("{key} {value}: {what}")) }
        };
        match &*key {
            "ssl-mode" | "sslmode" => mode = value.to_ascii_uppercase(),
            "ssl-ca" | "sslca" => {
                has_authorities = true;
                file(&|path| tls::authorities(path).map(drop))?;
            }
            "ssl-cert" | "sslcert" => file(&|path| tls::certificates(path).map(drop))?,
            "ssl-key" | "sslkey" => file(&|path| tls::private_key(path).map(drop))?,
            POOLER => return Err("pgbouncer is a parameter for PostgreSQL".to_owned()),
            other if other.starts_with("ssl") => {
                return Err(format!("there is no parameter {other}, only ssl-mode, ssl-ca, ssl-cert and ssl-key"));
            }
            _ => {}
        }
    }
    if !["DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"].contains(&mode.as_str()) {
        return Err("ssl-mode must be DISABLED, PREFERRED, REQUIRED, VERIFY_CA or VERIFY_IDENTITY".to_owned());
    }
    if has_authorities && !mode.starts_with("VERIFY_") {
        return Err(format!("ssl-ca verifies nothing with ssl-mode={mode}: it needs VERIFY_CA or VERIFY_IDENTITY"));
    }
    Ok(())
}

/// AMQP 0-9-1 has at most 255 bytes for a name; our queues add a suffix to theirs.
fn amqp_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        return Err("must have 1 to 200 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// The host's name: in a container, the pod's or the container's.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "volume-reaper".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: &[(&str, &str)], env: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let owned = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let flags = owned(flags);
        Config::load(|key| flags.get(key).cloned(), &owned(env), Some((PathBuf::from("reaper.toml"), file.to_owned())))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_default_is_valid() {
        assert!(load(&[], &[], "").is_ok());
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let prefetch =
            |flags: &[(&str, &str)], env: &[(&str, &str)], file| load(flags, env, file).map(|config| config.prefetch);
        let (flag, env, file) = ([("prefetch", "41")], [("VOLUME_REAPER_PREFETCH", "42")], "prefetch = 43");
        assert_eq!(prefetch(&flag, &env, file), Ok(41));
        assert_eq!(prefetch(&[], &env, file), Ok(42));
        assert_eq!(prefetch(&[], &[], file), Ok(43));
        assert_eq!(prefetch(&[], &[], ""), Ok(32));
    }

    #[test]
    fn an_error_says_where_the_value_stands() {
        for (flags, env, file, expected) in [
            (&[("prefetch", "x")][..], &[][..], "", "--prefetch \"x\": must be a whole number from 1 to 10000"),
            (&[], &[("VOLUME_REAPER_MIGRATE", "yes")], "", "VOLUME_REAPER_MIGRATE \"yes\": must be true or false"),
            (&[], &[], "topology = 'x'", "reaper.toml: topology \"x\": must be declare or check"),
            (&[], &[], "a = 1", "reaper.toml: a: there is no such setting"),
            (&[], &[], "\nprefetch = = 1", "reaper.toml: line 2: "),
            (&[], &[("VOLUME_REAPER_PREFTECH", "1")], "", "VOLUME_REAPER_PREFTECH: there is no such setting"),
            (
                &[],
                &[("VOLUME_REAPER_VOLUME_PREFIX", "")],
                "",
                "VOLUME_REAPER_VOLUME_PREFIX \"\": a volume prefix has 3",
            ),
            (
                &[],
                &[("VOLUME_REAPER_RECONCILE_INTERVAL", "60")],
                "",
                "VOLUME_REAPER_RECONCILE_INTERVAL \"60\": is not a",
            ),
            (
                &[],
                &[("DOCKER_HOST", "tcp://h:2376"), ("DOCKER_CERT_PATH", "/c")],
                "",
                "DOCKER_CERT_PATH \"/c\": is set and DOCKER_TLS_VERIFY is not",
            ),
            (&[], &[("VOLUME_REAPER_RETENTION", "7")], "", "VOLUME_REAPER_RETENTION \"7\": is not a duration"),
            (&[], &[], "budget_per_hour = 0", "reaper.toml: budget_per_hour \"0\": must be a whole number from 1 to "),
            (&[("budget_per_sweep", "-1")], &[], "", "--budget-per-sweep \"-1\": must be a whole number from 1 to "),
            (&[], &[("VOLUME_REAPER_PREFETCH", "2")], "", "prefetch (2) is below concurrency (4)"),
            (
                &[],
                &[("VOLUME_REAPER_AMQP_CA_FILE", "/no/such.pem")],
                "",
                "VOLUME_REAPER_AMQP_CA_FILE \"/no/such.pem\": No such file",
            ),
            (
                &[],
                &[("VOLUME_REAPER_AMQP_KEY_FILE", "Cargo.toml")],
                "",
                "VOLUME_REAPER_AMQP_KEY_FILE \"Cargo.toml\": holds no unencrypted private key in PEM form",
            ),
            (
                &[],
                &[],
                "amqp_cert_file = 'Cargo.toml'",
                "reaper.toml: amqp_cert_file \"Cargo.toml\": holds no certificate in PEM form",
            ),
        ] {
            let error = load(flags, env, file).expect_err(expected);
            assert!(error.starts_with(expected), "{error}\n{expected}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_password_is_in_no_message_and_no_debug_output() {
        for (env, file) in [
            (&[("AMQP_URL", "http://u:s3cret@h")][..], ""),
            (&[("DATABASE_URL", "oracle://u:s3cret@h")], ""),
            (&[("DATABASE_URL", "mysql://u:s3cret@h")], ""),
            (&[("DATABASE_URL", "mysql://h/d?sslpassword=s3cret")], ""),
            (&[("DATABASE_URL", "s3cret")], ""),
            (&[("DATABASE_URL", "postgres://h/d?sslpassword=s3cret")], ""),
            (&[], "amqp_url = \"amqp://u:s3cret@h"),
            (&[], "amqp_url = 's3cret'"),
        ] {
            let error = load(&[], env, file).expect_err("refused");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let env = [("AMQP_URL", "amqp://u:s3cret@h"), ("DATABASE_URL", "postgres://u:s3cret@h/d?password=s3cret")];
        let config = format!("{:?}", load(&[], &env, "").expect("valid"));
        assert!(!config.contains("s3cret"), "{config}");
        assert!(config.contains("postgres://u:***@h/d"), "{config}");
    }

    #[test]
    fn parameters_for_tls_to_postgresql_that_would_not_do_what_they_say_are_refused() {
        let with = |parameters: &str| load(&[], &[("DATABASE_URL", &format!("postgres://h/d?{parameters}"))], "");
        for (parameters, expected) in [
            ("sslmode=verify", "sslmode must be disable, allow, prefer, "),
            ("sslmode=verify-full&sslrootcert=/no/such.pem", "sslrootcert /no/such.pem: No such file"),
            ("sslcert=/no/such.pem", "sslcert /no/such.pem: No such file"),
            ("sslkey=Cargo.toml", "sslkey Cargo.toml: holds no unencrypted private key"),
            ("sslmode=require&sslrootcert=-----BEGIN", "sslrootcert verifies nothing with sslmode=require: "),
            ("sslrootcert=-----BEGIN", "sslrootcert verifies nothing with sslmode=prefer: "),
        ] {
            let error = with(parameters).expect_err(parameters);
            assert!(error.starts_with(&format!("DATABASE_URL: {expected}")), "{error}");
        }
        assert!(with("sslmode=verify-full&sslrootcert=-----BEGIN").is_ok());
        let env = [("DATABASE_URL", "postgres://h/d?sslrootcert=-----BEGIN"), ("PGSSLMODE", "verify-ca")];
        assert!(load(&[], &env, "").is_ok());
    }

    #[test]
    fn a_mysql_url_without_a_database_or_with_parameters_that_would_not_do_what_they_say_is_refused() {
        let with = |url: &str| load(&[], &[("DATABASE_URL", url)], "");
        for (url, expected) in [
            ("mysql://h", "names no database"),
            ("mysql://h/d?ssl-mode=verify-full", "ssl-mode must be DISABLED, PREFERRED, "),
            ("mysql://h/d?ssl-mode=VERIFY_CA&ssl-ca=/no/such.pem", "ssl-ca /no/such.pem: No such file"),
            ("mysql://h/d?ssl-ca=-----BEGIN", "ssl-ca verifies nothing with ssl-mode=PREFERRED: "),
            ("mysql://h/d?pgbouncer=true", "pgbouncer is a parameter for PostgreSQL"),
            ("mariadb://h/d?sslrootcert=ca.pem", "there is no parameter sslrootcert, only ssl-mode, "),
        ] {
            let error = with(url).expect_err(url);
            assert!(error.starts_with(&format!("DATABASE_URL: {expected}")), "{error}");
        }
        assert!(with("mysql://h/d?ssl-mode=verify_identity&ssl-ca=-----BEGIN").is_ok());
        assert!(with("mariadb://h/d").is_ok());
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_of_our_name_are_not_ours() {
        let links = [
            ("VOLUME_REAPER_SERVICE_HOST", "10.0.0.1"),
            ("VOLUME_REAPER_SERVICE_PORT_HTTP", "9464"),
            ("VOLUME_REAPER_PORT", "tcp://10.0.0.1:9464"),
            ("VOLUME_REAPER_PORT_9464_TCP_ADDR", "10.0.0.1"),
        ];
        assert!(load(&[], &links, "").is_ok());
    }

    #[test]
    fn a_budget_is_a_number_or_off() {
        let config = load(&[], &[("VOLUME_REAPER_BUDGET_PER_SWEEP", "off")], "budget_per_hour = 7").expect("valid");
        assert_eq!(config.policy.budgets, Budgets { per_sweep: None, per_hour: Some(7) });
    }

    #[test]
    fn a_retention_without_a_time_of_close_is_refused() {
        let no_column = ("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "");
        assert!(load(&[], &[no_column], "").is_ok());
        let error = load(&[], &[no_column, ("VOLUME_REAPER_RETENTION", "7d")], "").expect_err("refused");
        assert!(error.contains("nothing would ever be due"), "{error}");
    }

    #[test]
    fn a_list_in_the_file_is_a_list() {
        let config = load(&[], &[], "retry_delays = ['1s', '2s']").expect("valid");
        assert_eq!(config.retry_delays, [Duration::from_secs(1), Duration::from_secs(2)]);
    }
}
