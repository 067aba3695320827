//! `init`: a file of settings, with what was found where they point. It looks, and changes nothing.

use std::{path::Path, process::ExitCode, time::Duration};

use tokio::net::{TcpStream, UnixStream};

use super::{output::write, settings_file};
use crate::{
    config::{Config, Endpoint, SecretUrl},
    failure::Failure,
    operations,
    store::LookAlike,
};

/// Whoever does not answer within it is not there, to somebody who waits for a file.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Where Docker's and Podman's sockets are by default, for root.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// Where they are for others, below `XDG_RUNTIME_DIR`.
const OWN_SOCKETS: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// What was found about a setting.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Said above it.
    pub(super) says: String,
    /// Set to it, unless the default holds.
    pub(super) value: Option<String>,
}

/// What was found, by the keys of settings.
pub(super) type Findings = Vec<(&'static str, Found)>;

pub(super) async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mut findings = vec![("docker_host", docker(config).await), ("amqp_url", broker(&config.amqp_url).await)];
    findings.extend(database(config).await);
    write(&settings_file::commented(&findings))?;
    Ok(ExitCode::SUCCESS)
}

fn only(says: impl Into<String>) -> Found {
    Found { says: says.into(), value: None }
}

async fn docker(config: &Config) -> Found {
    let [host] = &config.docker_hosts[..] else { return only("docker_hosts is given in place of it") };
    let Endpoint::Unix(given) = &host.endpoint else { return only("given, and not asked") };
    if listens(given).await {
        return only(format!("{given} answers"));
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| OWN_SOCKETS.map(|socket| Path::new(&dir).join(socket)));
    let others = SOCKETS.iter().map(|path| Path::new(path).to_owned()).chain(own.into_iter().flatten());
    for path in others.map(|path| path.display().to_string()) {
        if listens(&path).await {
            return Found { says: format!("{path} answers"), value: Some(format!("unix://{path}")) };
        }
    }
    only(format!("nothing answers at {given}"))
}

async fn listens(socket: &str) -> bool {
    tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await.is_ok_and(|connected| connected.is_ok())
}

async fn broker(url: &SecretUrl) -> Found {
    let usual = if url.scheme() == "amqps" { 5671 } else { 5672 };
    let (host, port) = (url.host().unwrap_or("127.0.0.1"), url.port().unwrap_or(usual));
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await;
    let answers = connected.is_ok_and(|connected| connected.is_ok());
    only(if answers { format!("something listens on {host}:{port}") } else { format!("nothing on {host}:{port}") })
}

/// What is there of the threads. The address itself is not repeated: it may hold a password.
async fn database(config: &Config) -> Findings {
    let url = &config.database_url;
    let look_alikes = match operations::store_to_look_at(config).await {
        Ok(store) => store.look_alikes().await,
        Err(failure) => Err(failure),
    };
    let look_alikes = match look_alikes {
        Ok(found) => found,
        Err(failure) => return vec![("database_url", only(format!("not looked into: {}", failure.message)))],
    };
    let mut findings = vec![("database_url", only(format!("{url} answers")))];
    let [likeliest, others @ ..] = &look_alikes[..] else {
        findings.push(("threads_table", only("no table looks like it; `migrate` makes it as it stands here")));
        return findings;
    };
    findings.extend(settings_of(likeliest, others));
    findings
}

/// The settings that name a table as the threads table.
fn settings_of(table: &LookAlike, others: &[LookAlike]) -> Findings {
    let others: Vec<_> = others.iter().map(|other| other.table.as_str()).collect();
    let others = if others.is_empty() { String::new() } else { format!("; so do {}", others.join(", ")) };
    let set = |key, value: &str| (key, Found { says: String::new(), value: Some(value.to_owned()) });
    let table_found = Found { says: format!("it looks like it{others}"), value: Some(table.table.clone()) };
    let mut findings = vec![("threads_table", table_found)];
    findings.push(set("threads_id_column", &table.id));
    findings.push(set("threads_status_column", &table.status));
    findings.push(match &table.closed_value {
        Some(value) => set("threads_closed_value", value),
        None => ("threads_closed_value", only("no row has one that says it; please look")),
    });
    findings.push(set("threads_closed_at_column", table.closed_at.as_deref().unwrap_or_default()));
    // Not set: another column of that name would send threads to hosts that there are not.
    let may_be = |host| ("threads_host_column", only(format!("its column {host} may be it, with several hosts")));
    findings.extend(table.host.as_deref().map(may_be));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_the_default_names_sets_nothing() {
        let table = LookAlike {
            table: "threads".to_owned(),
            id: "id".to_owned(),
            status: "status".to_owned(),
            closed_value: Some("closed".to_owned()),
            closed_at: Some("closed_at".to_owned()),
            host: None,
        };
        let text = settings_file::commented(&settings_of(&table, &[]));
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        assert!(text.contains("# Found: it looks like it\n#threads_table = \"threads\"\n"), "{text}");
    }

    #[test]
    fn another_table_is_set_in_all_its_names() {
        let table = LookAlike {
            table: "Thread".to_owned(),
            id: "id".to_owned(),
            status: "threadStatus".to_owned(),
            closed_value: None,
            closed_at: None,
            host: Some("node".to_owned()),
        };
        let text =
            settings_file::commented(&settings_of(&table, &[LookAlike { table: "chats".to_owned(), ..table.clone() }]));
        let set: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        let expected = [
            "threads_table = \"Thread\"",
            "threads_status_column = \"threadStatus\"",
            "threads_closed_at_column = \"\"",
        ];
        assert_eq!(set, expected);
        assert!(text.contains("# Found: it looks like it; so do chats\n"), "{text}");
        assert!(
            text.contains("# Found: its column node may be it, with several hosts\n#threads_host_column"),
            "{text}"
        );
    }
}
