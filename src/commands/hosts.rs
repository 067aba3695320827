//! `hosts`: the Docker hosts whose answers count, and what it means to add, replace or lose one.

use std::{collections::BTreeMap, process::ExitCode};

use chrono::{SubsecRound, Utc};
use futures_util::future::join_all;

use super::{
    docker,
    output::{confirm, require_terminal, say, write},
    read_only_store, require_schema, store,
};
use crate::{
    cleanup::{Identity, Mark, Origin, Scope, Threads, Volumes, absent},
    cli::HostsAction,
    config::{Config, DockerHost},
    failure::Failure,
    store::{PinnedDaemon, Store},
    sweep::pages,
    terminal::Plain,
    volume_name::ThreadId,
};

pub(super) async fn run(config: &Config, action: HostsAction) -> Result<ExitCode, Failure> {
    if matches!(action, HostsAction::Retire { yes: false, dry_run: false, .. }) {
        require_terminal("threads are marked whose volumes can't be looked at any more")?;
    }
    let only_looks = match &action {
        HostsAction::List => true,
        HostsAction::Adopt { dry_run, .. } | HostsAction::Retire { dry_run, .. } => *dry_run,
    };
    let store = if only_looks { read_only_store(config).await? } else { store(config).await? };
    require_schema(&store, config).await?;
    let done = match action {
        HostsAction::List => list(config, &store).await,
        HostsAction::Adopt { name, dry_run } => adopt(config, &store, name.as_deref(), dry_run).await,
        HostsAction::Retire { name, dry_run, yes } => retire(config, &store, &name, dry_run, yes).await,
    };
    store.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn list(config: &Config, store: &Store) -> Result<(), Failure> {
    let unmarked = store.unmarked_by_host().await?;
    let pinned = store.pinned_daemons().await?;
    let found = join_all(config.docker_hosts.iter().map(|host| look(config, host))).await;
    write(&listing(&config.docker_hosts, found, pinned, unmarked))
}

/// The hosts of the configuration with what was found there, and then what only the database knows.
fn listing(
    hosts: &[DockerHost],
    found: Vec<Result<(Identity, usize), Failure>>,
    pinned: Vec<PinnedDaemon>,
    mut unmarked: BTreeMap<Option<String>, u64>,
) -> String {
    let mut pinned: BTreeMap<_, _> = pinned.into_iter().map(|daemon| (daemon.name, daemon.identity)).collect();
    let mut lines = Vec::new();
    for (host, found) in hosts.iter().zip(found) {
        lines.push(format!("{}  {}", host.name, host.endpoint));
        lines.push(format!("  pinned     {}", pinned.remove(host.name.key()).as_deref().unwrap_or("none yet")));
        match found {
            Ok((identity, volumes)) => {
                lines.push(format!("  answering  {}", identity.as_str()));
                lines.push(format!("  volumes    {volumes} of ours"));
            }
            Err(failure) => lines.push(format!("  answering  nobody: {failure}")),
        }
        lines.extend(host.name.name().and_then(|name| unmarked.remove(&Some(name.to_owned()))).map(unmarked_line));
    }
    for (name, identity) in pinned {
        lines.push(format!("{}  pinned, and none of this configuration's", Plain(&name)));
        lines.push(format!("  pinned     {}", Plain(&identity)));
        lines.extend(unmarked.remove(&Some(name)).map(unmarked_line));
    }
    for (host, threads) in unmarked.into_iter().filter(|(_, threads)| *threads > 0) {
        lines.push(host.map_or_else(
            || format!("{threads} closed threads that name no host are not marked"),
            |host| format!("{}  {threads} closed threads name it, and nothing else knows it", Plain(&host)),
        ));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Who answers, and how many volumes of ours it has.
async fn look(config: &Config, host: &DockerHost) -> Result<(Identity, usize), Failure> {
    let docker = docker(config, host);
    let identity = docker.identify().await?;
    // Only for this look: what the database has pinned may be another one.
    docker.pin(identity.clone());
    Ok((identity, docker.inventory(&config.volume_names).await?.present.len()))
}

fn unmarked_line(threads: u64) -> String {
    format!("  unmarked   {threads} closed threads name this host")
}

async fn adopt(config: &Config, store: &Store, name: Option<&str>, dry_run: bool) -> Result<(), Failure> {
    let host = match (name, config.docker_hosts.as_slice()) {
        (None, [only]) => only,
        (Some(name), hosts) => {
            hosts.iter().find(|host| host.name.name() == Some(name)).ok_or_else(|| not_configured(name))?
        }
        (None, _) => return Err(Failure::permanent("there are several hosts: name the one that is meant")),
    };
    let (identity, present) = look(config, host).await?;
    let before = store.pinned_daemon(host.name.key()).await?;
    if before.as_ref() == Some(&identity) {
        return say(format!("{}  {} is pinned already", host.name, identity.as_str()));
    }
    let unmarked = threads_of(store, host).await?;
    say(format!(
        "{}  {} has {present} volumes of ours; {unmarked} closed threads may have theirs on this host: those whose \
         volume it lacks are marked as gone from here on",
        host.name,
        identity.as_str()
    ))?;
    if !host.name.is_only() {
        say("  that the volume of a thread without a host is nowhere needs this host's word too")?;
    }
    if dry_run {
        return Ok(());
    }
    store.adopt_daemon(host.name.key(), &identity).await?;
    let before = before.map_or("none".to_owned(), |identity| identity.as_str().to_owned());
    say(format!("{}  pinned {} in place of {before}", host.name, identity.as_str()))
}

/// Closed and unmarked threads whose volume may be on a host.
async fn threads_of(store: &Store, host: &DockerHost) -> Result<u64, Failure> {
    let by_host = store.unmarked_by_host().await?;
    let on = |name: Option<&String>| by_host.get(&name.cloned()).copied().unwrap_or_default();
    Ok(on(None) + on(host.name.name().map(str::to_owned).as_ref()))
}

async fn retire(config: &Config, store: &Store, name: &str, dry_run: bool, yes: bool) -> Result<(), Failure> {
    let by_host = store.unmarked_by_host().await?;
    let on = |name: Option<&str>| by_host.get(&name.map(str::to_owned)).copied().unwrap_or_default();
    let (of_it, of_any) = (on(Some(name)), on(None));
    let pinned = store.pinned_daemon(name).await?;
    if pinned.is_none() && of_it == 0 {
        let what =
            format!("no host {name:?} is pinned, and no closed thread names it: `volume-reaper hosts list` shows them");
        return Err(Failure::permanent(what));
    }
    let configured = config.docker_hosts.iter().find(|host| host.name.name() == Some(name));
    if let Some(host) = configured {
        refuse_if_in_use(config, host).await?;
    } else {
        say(format!("{name}  is none of this configuration's, so it can't be asked whether it is empty"))?;
    }
    let daemon = pinned.as_ref().map_or("no pinned daemon", |identity| identity.as_str());
    say(format!("{name}  {daemon} is forgotten, and with it what is still on it:"))?;
    say(format!("  {of_it} closed threads name this host: they are marked now, as gone with it"))?;
    say(format!(
        "  {of_any} closed threads name no host: those whose volume is on none of the others are marked by the next \
         sweep"
    ))?;
    if dry_run {
        return Ok(());
    }
    if !yes {
        let threads = usize::try_from(of_it).unwrap_or(usize::MAX);
        confirm("A volume that is still there is never removed after this", threads).await?;
    }
    let marked = mark_all_of(config, store, name).await?;
    store.unpin_daemon(name).await?;
    say(format!("{name}  retired; {marked} threads marked"))?;
    if configured.is_some() {
        say("Take it out of the configuration and restart, or it is pinned again as soon as it answers")?;
    }
    Ok(())
}

/// A host that answers is not lost, and one that has volumes of ours is not empty.
async fn refuse_if_in_use(config: &Config, host: &DockerHost) -> Result<(), Failure> {
    match look(config, host).await {
        Ok((_, 0)) => say(format!("{}  answers, and has no volume of ours", host.name)),
        Ok((_, present)) => Err(Failure::permanent(format!(
            "host {} answers and has {present} volumes of ours: they would stay there for ever. Let no new threads be \
             placed on it and wait until it is empty; if it is to be given up as it is, stop its daemon first",
            host.name,
        ))),
        Err(failure) => say(format!("{}  does not answer: {failure}", host.name)),
    }
}

async fn mark_all_of(config: &Config, store: &Store, name: &str) -> Result<usize, Failure> {
    let mut rows = pages(store, Scope::Host(name.to_owned()));
    let mut marked = 0;
    while let Some(page) = rows.next().await? {
        let at = Utc::now().trunc_subsecs(3);
        let receipts = page.into_iter().flat_map(|candidate| {
            let thread = ThreadId::parse(&candidate.id).ok();
            let receipts = |thread| absent(&config.volume_names, &thread, &candidate.close, &Origin::Retired, at);
            thread.map(receipts).unwrap_or_default()
        });
        let marks = store.mark(&receipts.collect::<Vec<_>>()).await?;
        marked += marks.values().filter(|mark| **mark == Mark::Set).count();
    }
    Ok(marked)
}

fn not_configured(name: &str) -> Failure {
    Failure::permanent(format!("there is no host {name:?} in VOLUME_REAPER_DOCKER_HOSTS or VOLUME_REAPER_HOST"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Endpoint, failure::Dependency, host::Host};

    fn host(name: &str, endpoint: &str) -> DockerHost {
        let endpoint = Endpoint::parse(endpoint, None).expect("valid");
        DockerHost { name: Host::from_key(name), endpoint, concurrency: 4 }
    }

    fn pinned(name: &str, identity: &str) -> PinnedDaemon {
        let pinned_at = chrono::DateTime::from_timestamp(1_800_000_000, 0).expect("valid");
        PinnedDaemon { name: name.to_owned(), identity: identity.to_owned(), pinned_at }
    }

    fn daemon(identity: &str, volumes: usize) -> (Identity, usize) {
        (Identity::from_text(identity.to_owned()), volumes)
    }

    #[test]
    fn the_list_of_the_only_host_reads_well() {
        let hosts = [host(Host::Only.key(), "unix:///var/run/docker.sock")];
        let unmarked = BTreeMap::from([(None, 2)]);
        insta::assert_snapshot!(
            "list_of_the_only_host",
            listing(&hosts, vec![Ok(daemon("ID", 3))], Vec::new(), unmarked)
        );
    }

    #[test]
    fn the_list_of_several_hosts_reads_well() {
        let hosts = [host("a", "tcp://10.0.0.1:2375"), host("b", "ssh://reaper@b"), host("c", "unix:///c.sock")];
        let down = Err(Failure::unavailable(Dependency::Docker, "docker at ssh://reaper@b: no answer within 10s"));
        let found = vec![Ok(daemon("ID-A", 12)), down, Ok(daemon("ID-C2", 0))];
        let pinned = vec![pinned("a", "ID-A"), pinned("b", "ID-B"), pinned("c", "ID-C1"), pinned("old", "ID\x1b[2J")];
        let unmarked = [(Some("a"), 7), (Some("b"), 1), (Some("old"), 5), (Some("typo"), 2), (None, 3)];
        let unmarked = unmarked.into_iter().map(|(host, threads)| (host.map(str::to_owned), threads)).collect();
        insta::assert_snapshot!("list_of_several_hosts", listing(&hosts, found, pinned, unmarked));
    }
}
