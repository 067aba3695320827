//! The settings: one table of them, four places that a value can come from, and the checked result.
//!
//! Precedence: flag, environment, the TOML file of `--config`, default. What is unknown, malformed or unsafe is
//! refused with one line that says where it stands; a secret is never repeated in it.

mod checks;
mod choices;
mod docker_hosts;
mod endpoint;
mod http_tokens;
mod naming;
mod secret_url;
mod server_address;
mod settings;
mod sources;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use migrations::ThreadsTable;

use self::{
    checks::{
        DAY, HOUR, SECOND, amqp_name, boolean, budget, check_mysql, check_postgres_tls, duration, exited_rule, file,
        host_name, identity, number, optional, receipts_keep, removed_exchange, retry_delays, size_interval,
        trace_relation,
    },
    docker_hosts::docker_hosts,
    naming::{threads_table, volume_names},
    server_address::server,
    sources::{FileValues, Values, refuse_unknown_variables},
};
pub use self::{
    choices::{LogFormat, Topology, UnknownThreads},
    docker_hosts::DockerHost,
    endpoint::Endpoint,
    http_tokens::{HttpToken, Role, digest_of, read_tokens},
    secret_url::SecretUrl,
    server_address::Server,
    settings::{SETTINGS, Setting, flag_of},
    sources::environment,
};
use crate::{
    cleanup::{Policy, breaker::Budgets, retention::Retention},
    host::Host,
    tls::{self, TlsFiles},
    traces::Relation,
    volume_name::VolumeNames,
};

/// Longer than this nobody would wait for a row.
const MOST_LOCKED: Duration = Duration::from_mins(1);

/// Where the environment names the TOML file.
pub const CONFIG_ENV: &str = "VOLUME_REAPER_CONFIG";

/// The checked settings; see [`SETTINGS`] for what each does.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is described in SETTINGS")]
pub struct Config {
    pub database_url: SecretUrl,
    pub amqp_url: SecretUrl,
    pub amqp_tls: TlsFiles,
    pub management_url: Option<SecretUrl>,
    pub docker_hosts: Vec<DockerHost>,
    pub host: Option<String>,
    pub docker_timeout: Duration,
    /// How long rows are locked while their volumes are removed; zero is never. If it is not given, the database
    /// decides.
    pub lock_limit: Option<Duration>,
    pub volume_names: VolumeNames,
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
    /// How long receipts are kept; for ever if nothing is said.
    pub receipts_keep: Option<Duration>,
    /// The exchange where others hear of removed volumes, if they are to.
    pub removed_exchange: Option<String>,
    /// How often the daemons are asked how much is in our volumes, at most; not at all if nothing is said.
    pub size_interval: Option<Duration>,
    pub unknown_threads: UnknownThreads,
    pub shutdown_grace: Duration,
    pub http_addr: SocketAddr,
    pub http_connections: u16,
    pub http_timeout: Duration,
    pub http_tokens_file: Option<PathBuf>,
    pub migrate: bool,
    pub replica: String,
    pub server: Option<Server>,
    pub threads: ThreadsTable,
    pub log_filter: String,
    pub log_format: LogFormat,
    pub trace_relation: Relation,
    /// What is to be logged of the settings themselves.
    pub warnings: Vec<String>,
}

/// Settings that can't be used: one line that says what is wrong and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads the file of `--config`.
    pub fn read_file(path: &Path) -> Result<String, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        Ok(text.trim_start_matches('\u{feff}').to_owned())
    }

    /// What the Docker hosts are called.
    #[must_use]
    pub fn host_names(&self) -> Vec<Host> {
        self.docker_hosts.iter().map(|host| host.name.clone()).collect()
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
        let file = file.map_or_else(|| Ok(FileValues::none()), |(path, text)| FileValues::parse(path, &text))?;
        Self::check(&Values { flags, env, file })
    }

    fn check<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<Self, ConfigError> {
        let concurrency = values.get("concurrency", |text| number(text, 1..=256))?;
        let names = volume_names(values)?;
        let mut config = Self {
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
            management_url: values.get("management_url", |text| match text {
                "" => Ok(None),
                url => SecretUrl::parse(url, &["http"]).map(Some),
            })?,
            docker_hosts: docker_hosts(values, concurrency)?,
            host: values.get("host", optional)?,
            docker_timeout: values.get("docker_timeout", |text| duration(text, SECOND, HOUR))?,
            lock_limit: values.get("lock_limit", |text| {
                optional(text)?.map(|text| duration(&text, Duration::ZERO, MOST_LOCKED)).transpose()
            })?,
            volume_names: values.get("foreign_prefixes", |text| names.clone().with_foreign(text))?,
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
            concurrency,
            retry_delays: values.get("retry_delays", retry_delays)?,
            reconcile_interval: values.get("reconcile_interval", |text| duration(text, SECOND, DAY))?,
            reconcile_cooldown: values.get("reconcile_cooldown", |text| duration(text, Duration::ZERO, DAY))?,
            policy: Policy {
                retention: Retention(values.get("retention", |text| duration(text, Duration::ZERO, 3650 * DAY))?),
                budgets: Budgets {
                    per_sweep: values.get("budget_per_sweep", budget)?,
                    per_hour: values.get("budget_per_hour", budget)?,
                },
                exited: exited_rule(values)?,
            },
            receipts_keep: values.get("receipts_keep", receipts_keep)?,
            removed_exchange: values.get("removed_exchange", removed_exchange)?,
            size_interval: values.get("size_interval", size_interval)?,
            unknown_threads: values.get("unknown_threads", |text| match text {
                "reject" => Ok(UnknownThreads::Reject),
                "record" => Ok(UnknownThreads::Record),
                _ => Err("must be reject or record".to_owned()),
            })?,
            shutdown_grace: values.get("shutdown_grace", |text| duration(text, Duration::ZERO, HOUR))?,
            http_addr: values.get("http_addr", |text| {
                text.parse().map_err(|_| "must be an address with a port, as in 127.0.0.1:9464".to_owned())
            })?,
            http_connections: values.get("http_connections", |text| number(text, 2..=10_000))?,
            http_timeout: values.get("http_timeout", |text| duration(text, SECOND, HOUR))?,
            http_tokens_file: values.get("http_tokens_file", |text| file(text, read_tokens))?,
            migrate: values.get("migrate", boolean)?,
            replica: values.get("replica", |text| Ok(if text.is_empty() { host_name() } else { text.to_owned() }))?,
            server: server(values)?,
            threads: threads_table(values)?,
            log_filter: values.get("log_filter", |text| {
                let filter = tracing_subscriber::EnvFilter::try_new(text);
                filter.map(|_| text.to_owned()).map_err(|error| error.to_string())
            })?,
            log_format: values.get("log_format", |text| match text {
                "pretty" => Ok(LogFormat::Pretty),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be pretty or json".to_owned()),
            })?,
            trace_relation: values.get("trace_relation", trace_relation)?,
            warnings: values.file.warning().into_iter().collect(),
        };
        if config.threads.volumes.is_some() {
            config.volume_names = config.volume_names.in_rows();
        }
        config.warnings.extend(config.database_url.warning());
        config.check_amqp_tls()?;
        config.check_record()?;
        config.check_hosts()?;
        if config.threads.closed_at.is_none() && config.policy.retention != Retention(Duration::ZERO) {
            return Err(ConfigError(
                "VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN is empty, so that nothing would ever be due under a \
                 VOLUME_REAPER_RETENTION: name the column, or set the retention to 0s"
                    .to_owned(),
            ));
        }
        Ok(config)
    }

    fn check_record(&self) -> Result<(), ConfigError> {
        let is_record = self.unknown_threads == UnknownThreads::Record;
        if is_record && !self.threads.is_ours() {
            return Err(ConfigError(
                "VOLUME_REAPER_UNKNOWN_THREADS=record writes threads, and only into a table of our own: leave it out, \
                 or leave out the names of the platform's tables (VOLUME_REAPER_THREADS_..., \
                 VOLUME_REAPER_VOLUMES_TABLE)"
                    .to_owned(),
            ));
        }
        if is_record && self.reopened_routing_key == self.routing_key {
            return Err(ConfigError(format!(
                "VOLUME_REAPER_ROUTING_KEY and VOLUME_REAPER_REOPENED_ROUTING_KEY are both {:?}: an event would be \
                 one of a thread that was closed and of one that was reopened",
                self.routing_key
            )));
        }
        Ok(())
    }

    /// What a host's own settings are checked against.
    fn check_hosts(&self) -> Result<(), ConfigError> {
        let is_only = self.docker_hosts.iter().any(|host| host.name.is_only());
        let of_volumes = self.threads.volumes.as_ref().and_then(|volumes| volumes.host.as_ref());
        let columns = [("THREADS", self.threads.host.as_ref()), ("VOLUMES", of_volumes)];
        if is_only && let Some((of, column)) = columns.iter().find_map(|(of, column)| Some((of, (*column)?))) {
            return Err(ConfigError(format!(
                "VOLUME_REAPER_{of}_HOST_COLUMN is {column:?}, and the Docker host has no name: name it in \
                 VOLUME_REAPER_HOST, or the hosts in VOLUME_REAPER_DOCKER_HOSTS"
            )));
        }
        match self.docker_hosts.iter().find(|host| self.prefetch < host.concurrency) {
            None => Ok(()),
            Some(host) => Err(ConfigError(format!(
                "prefetch ({}) is below concurrency ({}), so that some of it could never be used: \
                 raise VOLUME_REAPER_PREFETCH or lower VOLUME_REAPER_CONCURRENCY",
                self.prefetch, host.concurrency
            ))),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_replica_is_called_after_its_host_unless_it_is_set() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("readable here");
        assert_eq!(load(&[], &[], "").map(|config| config.replica), Ok(host.trim().to_owned()));
        let set = load(&[], &[("VOLUME_REAPER_REPLICA", "replica-1")], "");
        assert_eq!(set.map(|config| config.replica).as_deref(), Ok("replica-1"));
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default() {
        let prefetch =
            |flags: &[(&str, &str)], env: &[(&str, &str)], file| load(flags, env, file).map(|config| config.prefetch);
        let (flag, env, file) = ([("prefetch", "41")], [("VOLUME_REAPER_PREFETCH", "42")], "prefetch = 43");
        assert_eq!(prefetch(&flag, &env, file), Ok(41));
        assert_eq!(prefetch(&[], &env, file), Ok(42));
        assert_eq!(prefetch(&[], &[], file), Ok(43));
        assert_eq!(prefetch(&[], &[], ""), Ok(128));
    }

    #[test]
    fn what_editors_and_secrets_leave_around_a_value_is_no_part_of_it() {
        for setting in SETTINGS.iter() {
            for given in ["{}\n", "{}\r\n", " {}\t", "\u{feff}{}"] {
                let value = if setting.default.is_empty() { "" } else { setting.default };
                let given = given.replace("{}", value);
                assert!(load(&[], &[(setting.env, &given)], "").is_ok(), "{}={given:?}", setting.env);
                let file = format!("{} = {}", setting.key, serde_json::Value::from(&*given));
                assert!(load(&[], &[], &file).is_ok(), "{file}");
            }
            // Not read where there is no TLS to Docker.
            if ["DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"].contains(&setting.env) {
                continue;
            }
            for (wrong, told) in [("\"x\"\n", "is in quotes"), ("'x'", "is in quotes"), ("x\ny", "has a line break")] {
                let error = load(&[], &[(setting.env, wrong)], "").expect_err(setting.env);
                assert!(error.starts_with(setting.env) && error.contains(told), "{error}");
            }
        }
        let config = load(&[], &[("VOLUME_REAPER_AMQP_CA_FILE", "\n"), ("VOLUME_REAPER_EXCHANGE", "e\r\n")], "");
        let config = config.expect("valid");
        assert_eq!((config.amqp_tls.authorities, &*config.exchange), (None, "e"));
    }

    #[test]
    fn what_is_empty_is_unset_unless_that_says_something() {
        for setting in SETTINGS.iter() {
            let given = load(&[], &[(setting.env, "")], &format!("{} = ''", setting.key));
            assert_eq!(given.is_err(), setting.key == "volume_prefix", "{}: {given:?}", setting.env);
        }
        let config = load(&[("exchange", "")], &[("VOLUME_REAPER_EXCHANGE", " ")], "exchange = 'e'").expect("valid");
        assert_eq!(config.exchange, "e");
        let config = load(&[], &[("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "")], "").expect("valid");
        assert_eq!(config.threads.closed_at, None);
    }

    #[test]
    fn a_password_that_ends_the_host_is_told_how_to_write_it() {
        for variable in ["AMQP_URL", "DATABASE_URL"] {
            let scheme = if variable == "AMQP_URL" { "amqp" } else { "postgres" };
            for sign in ["#", "/", "?"] {
                for password in [format!("s3c{sign}ret"), format!("12{sign}34")] {
                    let url = format!("{scheme}://user:{password}@host/name");
                    let error = load(&[], &[(variable, &url)], "").expect_err("not a URL");
                    let is_told = error.starts_with(variable) && error.contains("%23") && !error.contains("user:");
                    assert!(is_told && !error.contains("s3c") && !error.contains("34"), "{url}: {error}");
                }
            }
            let url = format!("{scheme}://user:s%23c%2Fr%3Ft%40@host/name");
            assert!(load(&[], &[(variable, &url)], "").is_ok());
        }
    }

    #[test]
    fn a_parameter_that_nobody_knows_is_named_without_its_value_and_kept_from_who_would_log_it() {
        let url = "postgres://u@h/d?channel_binding=s3cret&sslmode=disable&pgbouncer=true";
        let config = load(&[], &[("DATABASE_URL", url)], "").expect("valid");
        assert_eq!(config.warnings, ["DATABASE_URL: parameters that we don't know count for nothing: channel_binding"]);
        assert_eq!(config.database_url.for_driver(), "postgres://u@h/d?sslmode=disable");
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
            ("mysql://h/d?schema=app", "schema is a parameter for PostgreSQL"),
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

    proptest! {
        /// Whatever is set: it is taken, or refused with one line.
        #[test]
        fn no_setting_breaks_the_start(
            key in prop::sample::select(
                ["DATABASE_URL", "AMQP_URL", "DOCKER_HOST"]
                    .into_iter()
                    .map(str::to_owned)
                    .chain([
                        "VOLUME_NAMES", "RETRY_DELAYS", "LOCK_LIMIT", "RECONCILE_INTERVAL", "HTTP_ADDR",
                        "THREADS_TABLE",
                        "DOCKER_HOSTS", "FOREIGN_PREFIXES", "VOLUME_PREFIX", "PREFETCH", "NONSENSE",
                    ].map(|name| format!("VOLUME_REAPER_{name}")))
                    .collect::<Vec<_>>(),
            ),
            value in prop_oneof![".{0,40}", "[a-z]{2,8}://[a-z0-9:@/%?=&.,-]{0,30}", "[0-9a-z,.{}_-]{0,20}"],
            file in prop::option::of("[a-z_]{2,12} = [\"0-9a-z\\[\\]]{0,12}\n?"),
        ) {
            let env = HashMap::from([(key, value)]);
            let file = file.map(|text| (PathBuf::from("reaper.toml"), text));
            if let Err(ConfigError(what)) = Config::load(|_| None, &env, file) {
                prop_assert!(!what.is_empty());
            }
        }
    }
}
