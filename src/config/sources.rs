//! The four places that a value can come from.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{CONFIG_ENV, ConfigError, SETTINGS, flag_of};

/// A secret that is no URL.
const SERVER_TOKEN: &str = "server_token";

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
        let file = || format!("{}: {key}", self.file.path.display());
        let given = [
            (self.flags)(key).map(|value| (flag_of(key), value)),
            self.env.get(setting.env).map(|value| (setting.env.to_owned(), value.clone())),
            self.file.values.get(key).map(|value| (file(), value.clone())),
        ];
        let says_something = |(_, value): &(_, String)| !trimmed(value).is_empty() || MAY_BE_EMPTY.contains(&key);
        let (place, value) = given
            .into_iter()
            .flatten()
            .find(says_something)
            .unwrap_or_else(|| (format!("the default of {key}"), setting.default.to_owned()));
        meant(&value).and_then(check).map_err(|what| {
            let shown = if setting.secret { String::new() } else { format!(" {value:?}") };
            ConfigError(format!("{place}{shown}: {what}"))
        })
    }
}

/// Settings that are not as good as unset if they are empty: one says that there is no such column, and the other would
/// select all volumes, which is refused.
const MAY_BE_EMPTY: [&str; 2] = ["threads_closed_at_column", "volume_prefix"];

/// A value without what files and editors leave around it: blanks, the ends of lines, a byte order mark.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// What a value says; quotes and line breaks, which no value has, are not taken for a part of it.
fn meant(text: &str) -> Result<&str, String> {
    let text = trimmed(text);
    let is_quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        return Err("is in quotes, which become a part of it: leave them out".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("has a line break or another control character in it".to_owned());
    }
    Ok(text)
}

pub(super) fn default_of(key: &str) -> &'static str {
    SETTINGS.iter().find(|setting| setting.key == key).map_or("", |setting| setting.default)
}

/// What a TOML file sets.
pub(super) struct FileValues {
    path: PathBuf,
    values: HashMap<String, String>,
    /// `[[docker.hosts]]`, which says the same as `docker_hosts` and more.
    pub(super) hosts: Vec<HostTable>,
    /// There is no file, or it holds no password, or others than its owner and group can't read it.
    pub(super) keeps_secrets: bool,
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
    /// There is no file.
    pub(super) fn none() -> Self {
        Self { path: PathBuf::new(), values: HashMap::new(), hosts: Vec::new(), keeps_secrets: true }
    }

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
                for host in &mut hosts {
                    host.name = trimmed(&host.name).to_owned();
                    host.endpoint = trimmed(&host.endpoint).to_owned();
                }
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
        let is_secret =
            |(key, value): (&String, &String)| (key == SERVER_TOKEN && !value.is_empty()) || holds_password(value);
        let keeps_secrets = !values.iter().any(is_secret) || !is_readable_by_all(&path);
        Ok(Self { path, values, hosts, keeps_secrets })
    }

    /// What is to be said of the file when there is a log.
    pub(super) fn warning(&self) -> Option<String> {
        let path = self.path.display();
        (!self.keeps_secrets).then(|| {
            format!("{path} holds a password, and everybody on this machine can read it: run `chmod 0640 {path}`")
        })
    }
}

fn holds_password(value: &str) -> bool {
    url::Url::parse(value).is_ok_and(|url| {
        url.password().is_some() || url.query_pairs().any(|(name, _)| name.to_ascii_lowercase().contains("password"))
    })
}

fn is_readable_by_all(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

/// The variables as text. One of ours that is not Unicode is refused.
pub fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<HashMap<String, String>, ConfigError> {
    let mut environment = HashMap::new();
    for (name, value) in variables {
        let Ok(name) = name.into_string() else { continue };
        if let Ok(value) = value.into_string() {
            environment.insert(name, value);
        } else if name == CONFIG_ENV || SETTINGS.iter().any(|setting| setting.env == name) {
            return Err(ConfigError(format!("{name}: is not Unicode text")));
        }
    }
    Ok(environment)
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
