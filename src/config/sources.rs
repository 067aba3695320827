//! The four places that a value can come from.

use std::{collections::HashMap, path::PathBuf};

use super::{CONFIG_ENV, ConfigError, SETTINGS, flag_of};

/// The values of one start, each with the place that it comes from.
pub(super) struct Values<'a, F> {
    pub(super) flags: F,
    pub(super) env: &'a HashMap<String, String>,
    pub(super) file: FileValues,
}

impl<F: Fn(&str) -> Option<String>> Values<'_, F> {
    /// Whether `key` has a value that is not its default.
    pub(super) fn is_given(&self, key: &'static str) -> bool {
        self.get(key, |text| Ok(text != default_of(key))).unwrap_or(true)
    }

    /// An error about what the file says of a host.
    pub(super) fn refuse_host(&self, host: &str, what: &str) -> ConfigError {
        ConfigError(format!("{}: [[docker.hosts]] {host:?}: {what}", self.file.path.display()))
    }

    /// The value of `key`, checked; an error names the place.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
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

fn default_of(key: &str) -> &'static str {
    SETTINGS.iter().find(|setting| setting.key == key).map_or("", |setting| setting.default)
}

/// What a TOML file sets.
#[derive(Default)]
pub(super) struct FileValues {
    path: PathBuf,
    values: HashMap<String, String>,
    /// `[[docker.hosts]]`, which says the same as `docker_hosts` and more.
    pub(super) hosts: Vec<HostTable>,
}

/// The only table of the file.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DockerTable {
    hosts: Vec<HostTable>,
}

/// One of `[[docker.hosts]]`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostTable {
    pub(super) name: String,
    pub(super) endpoint: String,
    /// The folder with certificates; as `DOCKER_CERT_PATH` if there is none.
    pub(super) cert_path: Option<PathBuf>,
    /// As `concurrency` if there is none.
    pub(super) concurrency: Option<u16>,
}

impl FileValues {
    pub(super) fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let refused = |what: String| ConfigError(format!("{}: {what}", path.display()));
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            // Only the message: the parser would show the line, and a password with it.
            let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
            refused(format!("line {line}: {}", error.message()))
        })?;
        let mut values = HashMap::new();
        let mut hosts = Vec::new();
        for (key, value) in table {
            if key == "docker" {
                let read: Result<DockerTable, _> = value.try_into();
                hosts = read.map_err(|error| refused(format!("[[docker.hosts]]: {}", error.message())))?.hosts;
                if hosts.is_empty() {
                    return Err(refused("docker.hosts: there is none: name one, or leave it out".to_owned()));
                }
                continue;
            }
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
        Ok(Self { path, values, hosts })
    }
}

/// A misspelt variable would otherwise be a setting that silently does nothing.
pub(super) fn refuse_unknown_variables(env: &HashMap<String, String>) -> Result<(), ConfigError> {
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
