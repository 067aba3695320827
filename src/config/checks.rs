//! What a value has to be: from its text to what it means, or why not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    ConfigError, SecretUrl,
    secret_url::{POOLER, SCHEMA},
    sources::Values,
};
use crate::{
    cleanup::exited::ExitedRule,
    tls::{self, Identity},
    traces::Relation,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_hours(1);
pub(super) const DAY: Duration = Duration::from_hours(24);
/// The longest retry schedule: each step is a queue on the broker.
const MAX_RETRY_DELAYS: usize = 16;

pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| "is not a duration; write it with its unit, as in 500ms, 60s or 10m".to_owned())?;
    if duration < least || duration > most {
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        return Err(format!("must be between {least} and {most}"));
    }
    Ok(duration)
}

pub(super) fn retry_delays(text: &str) -> Result<Vec<Duration>, String> {
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

pub(super) fn number(text: &str, range: std::ops::RangeInclusive<u16>) -> Result<u16, String> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A number of removals; `None` is any number. None at all is what `pause` is for.
pub(super) fn budget(text: &str) -> Result<Option<u64>, String> {
    const MOST: u64 = 1_000_000_000;
    match text.parse() {
        _ if text == "off" => Ok(None),
        Ok(number) if (1..=MOST).contains(&number) => Ok(Some(number)),
        _ => Err(format!("must be a whole number from 1 to {MOST}, or off")),
    }
}

/// Which containers that have exited are removed; `None` if they all stay.
pub(super) fn exited_rule<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
) -> Result<Option<ExitedRule>, ConfigError> {
    let rule = ExitedRule {
        grace: values.get("exited_grace", |text| duration(text, Duration::ZERO, 3650 * DAY))?,
        managed: values.get("exited_managed", |text| one_of_two(text, "keep", "remove"))?,
    };
    let is_on = values.get("exited_containers", |text| one_of_two(text, "off", "remove"))?;
    Ok(is_on.then_some(rule))
}

/// Whether it is the second of two words.
fn one_of_two(text: &str, first: &str, second: &str) -> Result<bool, String> {
    match text {
        _ if text == first => Ok(false),
        _ if text == second => Ok(true),
        _ => Err(format!("must be {first} or {second}")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "must be true or false".to_owned())
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a check")]
pub(super) fn optional(text: &str) -> Result<Option<String>, String> {
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

pub(super) fn receipts_keep(text: &str) -> Result<Option<Duration>, String> {
    optional(text)?.map(|text| duration(&text, DAY, 36_500 * DAY)).transpose()
}

pub(super) fn removed_exchange(text: &str) -> Result<Option<String>, String> {
    optional(text)?.map(|text| amqp_name(&text)).transpose()
}

pub(super) fn size_interval(text: &str) -> Result<Option<Duration>, String> {
    if text == "off" { Ok(None) } else { duration(text, Duration::from_mins(1), 30 * DAY).map(Some) }
}

pub(super) fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The path of a file that `read` can use; nothing if it is empty.
pub(super) fn file<R>(text: &str, read: impl FnOnce(&Path) -> Result<R, String>) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(text);
    read(&path)?;
    Ok(Some(path))
}

pub(super) fn identity(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<Identity>, ConfigError> {
    let lacks = |given, missing| Err(ConfigError(format!("{given} is set and {missing} is not: both are needed")));
    match (certificate, key) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity { certificate, key })),
        (Some(_), None) => lacks("VOLUME_REAPER_AMQP_CERT_FILE", "VOLUME_REAPER_AMQP_KEY_FILE"),
        (None, Some(_)) => lacks("VOLUME_REAPER_AMQP_KEY_FILE", "VOLUME_REAPER_AMQP_CERT_FILE"),
    }
}

pub(super) fn trace_relation(text: &str) -> Result<Relation, String> {
    match text {
        "link" => Ok(Relation::Link),
        "parent" => Ok(Relation::Parent),
        _ => Err("must be link or parent".to_owned()),
    }
}

/// Reads a file that a URL's parameter names; sqlx takes the PEM itself too.
fn check_pem(key: &str, value: &str, read: &dyn Fn(&Path) -> Result<(), String>) -> Result<(), String> {
    let is_inline = value.trim_start().starts_with("-----BEGIN");
    if is_inline { Ok(()) } else { read(Path::new(value)).map_err(|what| format!("{key} {value}: {what}")) }
}

/// Checks the parameters of a PostgreSQL URL that are about TLS (PostgreSQL's manual, "SSL Support" of libpq).
///
/// sqlx finds fault with them at the first connect only, without naming the file; it does not verify a certificate
/// where libpq does because there is an `sslrootcert`; and it logs the values of those that it does not know.
pub(super) fn check_postgres_tls(url: &SecretUrl, default_mode: &str) -> Result<(), String> {
    let mut mode = default_mode.to_owned();
    let mut has_authorities = false;
    for (key, value) in url.0.query_pairs() {
        let file = |read: &dyn Fn(&Path) -> Result<(), String>| check_pem(&key, &value, read);
        match &*key {
            "sslmode" | "ssl-mode" => mode = value.to_ascii_lowercase(),
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
                has_authorities = true;
                file(&|path| tls::authorities(path).map(drop))?;
            }
            "sslcert" | "ssl-cert" => file(&|path| tls::certificates(path).map(drop))?,
            "sslkey" | "ssl-key" => file(&|path| tls::private_key(path).map(drop))?,
            POOLER if !["true", "false"].contains(&&*value) => return Err("pgbouncer must be true or false".to_owned()),
            SCHEMA if value.is_empty() => return Err("schema must name a schema, or be left out".to_owned()),
            SCHEMA if url.is_behind_pooler() => {
                return Err("schema can't be set through a pooler: leave it out, and set it for the user instead \
                            (ALTER ROLE ... SET search_path = ...)"
                    .to_owned());
            }
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
pub(super) fn check_mysql(url: &SecretUrl) -> Result<(), String> {
    if url.0.path().trim_start_matches('/').is_empty() {
        return Err("names no database: it must end in /DATABASE".to_owned());
    }
    let mut mode = "PREFERRED".to_owned();
    let mut has_authorities = false;
    for (key, value) in url.0.query_pairs() {
        let file = |read: &dyn Fn(&Path) -> Result<(), String>| check_pem(&key, &value, read);
        match &*key {
            "ssl-mode" | "sslmode" => mode = value.to_ascii_uppercase(),
            "ssl-ca" | "sslca" => {
                has_authorities = true;
                file(&|path| tls::authorities(path).map(drop))?;
            }
            "ssl-cert" | "sslcert" => file(&|path| tls::certificates(path).map(drop))?,
            "ssl-key" | "sslkey" => file(&|path| tls::private_key(path).map(drop))?,
            POOLER => return Err("pgbouncer is a parameter for PostgreSQL".to_owned()),
            SCHEMA => {
                return Err(
                    "schema is a parameter for PostgreSQL: here it is the database that the URL names".to_owned()
                );
            }
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
pub(super) fn amqp_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        return Err("must have 1 to 200 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// The host's name: in a container, the pod's or the container's. The kernel is asked, since `/proc/sys` is hidden from
/// a unit of systemd with `ProcSubset=pid`.
pub(super) fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    if name.is_empty() { "volume-reaper".to_owned() } else { name.into_owned() }
}
