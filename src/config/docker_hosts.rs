//! Which Docker daemons there are: one without a name, one with a name, or several.

use std::path::{Path, PathBuf};

use super::{
    ConfigError,
    checks::number,
    endpoint::Endpoint,
    sources::{HostTable, Values},
};
use crate::{
    host::Host,
    tls::{self, Identity, TlsFiles},
};

/// Whose endpoints TLS can be for.
const TCP: [&str; 3] = ["tcp://", "http://", "https://"];
/// It becomes part of a queue's name and of a metric's label.
const LONGEST_NAME: usize = 63;

/// A Docker daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerHost {
    /// Which one it is.
    pub name: Host,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How many removals may be in flight there at once.
    pub concurrency: u16,
}

impl DockerHost {
    /// These hosts, for people.
    #[must_use]
    pub fn listed(hosts: &[Self]) -> String {
        let host = |Self { name, endpoint, .. }: &Self| {
            name.name().map_or_else(|| endpoint.to_string(), |name| format!("{name}={endpoint}"))
        };
        hosts.iter().map(host).collect::<Vec<_>>().join(",")
    }
}

/// The daemons; at least one.
pub(super) fn docker_hosts<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
    concurrency: u16,
) -> Result<Vec<DockerHost>, ConfigError> {
    let own_name = values.get("host", |text| if text.is_empty() { Ok(None) } else { host_name(text).map(Some) })?;
    let listed = values.get("docker_hosts", pairs)?;
    let tables = &values.file.hosts;
    if listed.is_empty() && tables.is_empty() {
        let tls = docker_tls(values, values.get("docker_host", |text| Ok(is_tcp(text)))?)?;
        let endpoint = values.get("docker_host", |text| match text {
            // Docker's own client takes an empty DOCKER_HOST for none.
            "" => Endpoint::parse("unix:///var/run/docker.sock", None),
            text => Endpoint::parse(text, tls.as_ref()),
        })?;
        let name = own_name.map_or(Host::Only, Host::Named);
        return Ok(vec![DockerHost { name, endpoint, concurrency }]);
    }
    let refuse = |what: &str| Err(ConfigError(what.to_owned()));
    if values.is_given("docker_host") {
        return refuse(
            "DOCKER_HOST is set, and so is VOLUME_REAPER_DOCKER_HOSTS: leave out the one, and name it among the others",
        );
    }
    if own_name.is_some() {
        return refuse(
            "VOLUME_REAPER_HOST is set, and so is VOLUME_REAPER_DOCKER_HOSTS: a reaper is of one host, whose daemon \
             DOCKER_HOST names, or of several",
        );
    }
    // In that order: what the environment says counts more than the file.
    let hosts = if listed.is_empty() {
        of_tables(values, tables, concurrency)?
    } else {
        of_pairs(values, listed, concurrency)?
    };
    for (index, host) in hosts.iter().enumerate() {
        let same = |what: &str, other: &DockerHost| {
            Err(ConfigError(format!(
                "VOLUME_REAPER_DOCKER_HOSTS: {what}: {:?} and {:?}",
                other.name.key(),
                host.name.key()
            )))
        };
        for other in &hosts[..index] {
            if other.name.key().eq_ignore_ascii_case(host.name.key()) {
                return same("two hosts have one name", other);
            }
            if other.endpoint == host.endpoint {
                return same("two hosts are one daemon", other);
            }
        }
    }
    Ok(hosts)
}

fn of_pairs<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
    pairs: Vec<(String, String)>,
    concurrency: u16,
) -> Result<Vec<DockerHost>, ConfigError> {
    let tls = docker_tls(values, pairs.iter().any(|(_, endpoint)| is_tcp(endpoint)))?;
    let host = |(name, endpoint): (String, String)| {
        let endpoint = Endpoint::parse(&endpoint, tls.as_ref());
        let endpoint =
            endpoint.map_err(|what| ConfigError(format!("VOLUME_REAPER_DOCKER_HOSTS: host {name:?}: {what}")))?;
        Ok(DockerHost { name: Host::Named(name), endpoint, concurrency })
    };
    pairs.into_iter().map(host).collect()
}

fn of_tables<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
    tables: &[HostTable],
    concurrency: u16,
) -> Result<Vec<DockerHost>, ConfigError> {
    let shared = docker_tls(values, tables.iter().any(|host| host.cert_path.is_none() && is_tcp(&host.endpoint)))?;
    let host = |table: &HostTable| {
        let refuse = |what: String| values.refuse_host(&table.name, &what);
        let own = table.cert_path.as_deref().map(certificates).transpose().map_err(refuse)?;
        Ok(DockerHost {
            name: Host::Named(host_name(&table.name).map_err(refuse)?),
            endpoint: Endpoint::parse(&table.endpoint, own.as_ref().or(shared.as_ref())).map_err(refuse)?,
            concurrency: table
                .concurrency
                .map_or(Ok(concurrency), |own| number(&own.to_string(), 1..=256))
                .map_err(|what| refuse(format!("concurrency {what}")))?,
        })
    };
    tables.iter().map(host).collect()
}

/// `name=endpoint,name=endpoint`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pair = |pair: &str| {
        let (name, endpoint) = pair.trim().split_once('=').ok_or_else(|| {
            format!("{pair:?} must be name=endpoint, as in docker-1=tcp://docker-1:2376,docker-2=ssh://docker-2")
        })?;
        Ok((host_name(name)?, endpoint.to_owned()))
    };
    if text.is_empty() { Ok(Vec::new()) } else { text.split(',').map(pair).collect() }
}

/// What a host may be called.
fn host_name(text: &str) -> Result<String, String> {
    let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= LONGEST_NAME
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if !is_name {
        return Err(format!(
            "{text:?} is no name for a host: it has 1 to {LONGEST_NAME} letters, digits, dots, hyphens and \
             underscores, and begins with a letter or digit"
        ));
    }
    if Host::from_key(text).is_only() {
        return Err(format!("a host can't be called {text:?}: that is what one without a name is called"));
    }
    Ok(text.to_owned())
}

fn is_tcp(endpoint: &str) -> bool {
    TCP.iter().any(|tcp| endpoint.starts_with(tcp))
}

/// The certificates for TLS to Docker daemons, where Docker's own client looks for them, if one is reached by TCP.
fn docker_tls<F: Fn(&str) -> Option<String>>(
    values: &Values<'_, F>,
    has_tcp: bool,
) -> Result<Option<TlsFiles>, ConfigError> {
    if !has_tcp {
        return Ok(None);
    }
    let wants_tls = values.get("docker_tls_verify", |text| Ok(!text.is_empty()))?;
    let home = values.env.get("HOME").map_or_else(PathBuf::new, PathBuf::from);
    values.get("docker_cert_path", |text| {
        if !wants_tls {
            let unverified = "is set and DOCKER_TLS_VERIFY is not: Docker's own client would not ask for a proof of \
                who answers, and we don't do without; set it to 1";
            return if text.is_empty() { Ok(None) } else { Err(unverified.to_owned()) };
        }
        let dir = if text.is_empty() { home.join(".docker") } else { PathBuf::from(text) };
        certificates(&dir).map(Some)
    })
}

/// A folder's ca.pem, cert.pem and key.pem.
fn certificates(dir: &Path) -> Result<TlsFiles, String> {
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
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::super::Config;

    fn load(env: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let env: HashMap<_, _> = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Config::load(|_| None, &env, Some((PathBuf::from("reaper.toml"), file.to_owned())))
            .map_err(|error| error.to_string())
    }

    fn hosts(env: &[(&str, &str)], file: &str) -> Vec<(String, String, u16)> {
        let config = load(env, file).expect("valid");
        let hosts = config.docker_hosts.into_iter();
        hosts.map(|host| (host.name.to_string(), host.endpoint.to_string(), host.concurrency)).collect()
    }

    fn host(name: &str, endpoint: &str, concurrency: u16) -> (String, String, u16) {
        (name.to_owned(), endpoint.to_owned(), concurrency)
    }

    #[test]
    fn one_daemon_needs_no_name_and_may_have_one() {
        assert_eq!(hosts(&[], ""), [host("default", "unix:///var/run/docker.sock", 4)]);
        assert_eq!(hosts(&[("DOCKER_HOST", "")], ""), [host("default", "unix:///var/run/docker.sock", 4)]);
        let env = [("DOCKER_HOST", "unix:///d.sock"), ("VOLUME_REAPER_HOST", "a")];
        assert_eq!(hosts(&env, "concurrency = 2"), [host("a", "unix:///d.sock", 2)]);
    }

    #[test]
    fn several_are_named_in_the_environment_or_in_the_file() {
        let env = [("VOLUME_REAPER_DOCKER_HOSTS", "a=unix:///a.sock, b=tcp://b:2375,c.example=ssh://me@c")];
        let named = [host("a", "unix:///a.sock", 4), host("b", "tcp://b:2375", 4), host("c.example", "ssh://me@c", 4)];
        assert_eq!(hosts(&env, ""), named);
        let list = "docker_hosts = ['a=unix:///a.sock', 'b=tcp://b:2375', 'c.example=ssh://me@c']";
        assert_eq!(hosts(&[], list), named);
        let tables = "prefetch = 64\n[[docker.hosts]]\nname = 'a'\nendpoint = 'unix:///a.sock'\n\
                      [[docker.hosts]]\nname = 'b'\nendpoint = 'tcp://b:2375'\nconcurrency = 9\n";
        assert_eq!(hosts(&[], tables), [host("a", "unix:///a.sock", 4), host("b", "tcp://b:2375", 9)]);
        // The environment counts more than the file.
        assert_eq!(hosts(&env, tables), named);
    }

    #[test]
    fn what_could_be_meant_in_two_ways_is_refused() {
        const HOSTS: &str = "VOLUME_REAPER_DOCKER_HOSTS";
        let table = |rest: &str| format!("[[docker.hosts]]\nname = 'a'\nendpoint = 'unix:///a.sock'\n{rest}");
        let column = ("VOLUME_REAPER_THREADS_HOST_COLUMN", "host");
        for (env, file, expected) in [
            (&[(HOSTS, "a=unix:///a"), ("DOCKER_HOST", "unix:///d")][..], "", "DOCKER_HOST is set, and so is"),
            (&[(HOSTS, "a=unix:///a"), ("VOLUME_REAPER_HOST", "a")], "", "VOLUME_REAPER_HOST is set, and so is"),
            (
                &[(HOSTS, "a=unix:///a,A=unix:///b")],
                "",
                "VOLUME_REAPER_DOCKER_HOSTS: two hosts have one name: \"a\" and",
            ),
            (
                &[(HOSTS, "a=unix:///a,b=unix:///a")],
                "",
                "VOLUME_REAPER_DOCKER_HOSTS: two hosts are one daemon: \"a\" and",
            ),
            (
                &[(HOSTS, "unix:///a")],
                "",
                "VOLUME_REAPER_DOCKER_HOSTS \"unix:///a\": \"unix:///a\" must be name=endpoint",
            ),
            (&[(HOSTS, "a=ftp://a")], "", "VOLUME_REAPER_DOCKER_HOSTS: host \"a\": a Docker host begins with"),
            (&[(HOSTS, "-a=unix:///a")], "", "VOLUME_REAPER_DOCKER_HOSTS \"-a=unix:///a\": \"-a\" is no name"),
            (&[("VOLUME_REAPER_HOST", "default")], "", "VOLUME_REAPER_HOST \"default\": a host can't be called"),
            (&[column], "", "VOLUME_REAPER_THREADS_HOST_COLUMN is \"host\", and the Docker host has no name"),
            (&[], &table("port = 1"), "reaper.toml: [[docker.hosts]]: unknown field `port`"),
            (&[], &table("concurrency = 0"), "reaper.toml: [[docker.hosts]] \"a\": concurrency must be a whole number"),
            (&[], &table("concurrency = 129"), "prefetch (128) is below concurrency (129)"),
            (&[], &table("cert_path = '/none'"), "reaper.toml: [[docker.hosts]] \"a\": /none/ca.pem: No such file"),
            (&[], "[docker]\nhosts = []", "reaper.toml: docker.hosts: there is none"),
            (&[], "[docker]\nhost = 'x'", "reaper.toml: [[docker.hosts]]: unknown field `host`"),
        ] {
            let error = load(env, file).expect_err(expected);
            assert!(error.starts_with(expected), "{error}\n{expected}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
