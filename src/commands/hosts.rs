//! `hosts`: the Docker hosts whose answers count, and what it means to add, replace or lose one.

use std::process::ExitCode;

use chrono::{SubsecRound, Utc};
use serde_json::json;

use super::{
    acting::{act, noted},
    output::{self, confirm, require_terminal, say},
};
use crate::{
    cleanup::{Details, Mark, NamedVolumes, Origin, Scope, Threads, absent},
    cli::HostsAction,
    config::{Config, DockerHost},
    failure::Failure,
    operations::{
        fleet_view::{self, Hosts, look},
        read_only_store, require_schema, store,
    },
    store::Store,
    sweep::pages,
    terminal::Plain,
    volume_name::ThreadId,
};

pub(super) async fn run(config: &Config, action: HostsAction) -> Result<ExitCode, Failure> {
    if matches!(action, HostsAction::Retire { yes: false, dry_run: false, .. }) {
        require_terminal("threads are marked whose volumes can't be looked at any more")?;
    }
    let only_looks = match &action {
        HostsAction::List { .. } => true,
        HostsAction::Adopt { dry_run, .. } | HostsAction::Retire { dry_run, .. } => *dry_run,
    };
    let store = if only_looks { read_only_store(config).await? } else { store(config).await? };
    require_schema(&store, config).await?;
    let done = match action {
        HostsAction::List { json } => list(config, &store, json).await,
        HostsAction::Adopt { name, dry_run } => adopt(config, &store, name.as_deref(), dry_run).await,
        HostsAction::Retire { name, dry_run, yes } => retire(config, &store, &name, dry_run, yes).await,
    };
    store.close().await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn list(config: &Config, store: &Store, as_json: bool) -> Result<(), Failure> {
    let hosts = fleet_view::hosts(config, store).await?;
    if as_json { say(output::json(&hosts)) } else { output::list(&listing(&hosts)) }
}

/// The hosts of the configuration with what was found there, and then what only the database knows.
pub(super) fn listing(hosts: &Hosts) -> String {
    let mut lines = Vec::new();
    for host in &hosts.hosts {
        let pinned = host.pinned.as_deref().map(Plain);
        let Some(endpoint) = &host.endpoint else {
            lines.push(if host.pinned.is_some() {
                format!("{}  pinned, and none of this configuration's", Plain(&host.name))
            } else {
                let threads = host.unmarked.unwrap_or_default();
                format!("{}  {threads} closed threads name it, and nothing else knows it", Plain(&host.name))
            });
            if let Some(pinned) = pinned {
                lines.push(format!("  pinned     {pinned}"));
                lines.extend(host.unmarked.map(unmarked_line));
            }
            continue;
        };
        lines.push(format!("{}  {endpoint}", host.name));
        lines.push(format!("  pinned     {}", host.pinned.as_deref().unwrap_or("none yet")));
        match (&host.answering, &host.error) {
            (Some(identity), _) => {
                lines.push(format!("  answering  {identity}"));
                lines.push(format!("  volumes    {} of ours", host.volumes.unwrap_or_default()));
            }
            (None, error) => lines.push(format!("  answering  nobody: {}", error.as_deref().unwrap_or_default())),
        }
        lines.extend(host.unmarked.map(unmarked_line));
    }
    if hosts.unmarked_without_host > 0 {
        lines.push(format!("{} closed threads that name no host are not marked", hosts.unmarked_without_host));
    }
    lines.into_iter().map(|line| line + "\n").collect()
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
    let done = store.adopt_daemon(host.name.key(), &identity).await;
    let before = before.map_or("none".to_owned(), |identity| identity.as_str().to_owned());
    let details = json!({ "identity": identity.as_str(), "before": before });
    noted(store, &act("hosts adopt", Some(host.name.key()), details), done).await?;
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
    let done = async {
        let marked = mark_all_of(config, store, name).await?;
        store.unpin_daemon(name).await?;
        Ok(marked)
    };
    let done = done.await;
    let details = json!({ "daemon": daemon, "marked": done.as_ref().ok() });
    let marked = noted(store, &act("hosts retire", Some(name), details), done).await?;
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
        let found_by = Details { host: Some(name.to_owned()), ..Details::default() };
        let receipts = page.into_iter().flat_map(|candidate| {
            let thread = ThreadId::parse(&candidate.id).ok();
            let receipts = |thread| {
                let named = NamedVolumes::of(&config.volume_names, &thread, candidate.volumes.as_deref());
                absent(named.volumes, &thread, &candidate.close, &Origin::Retired, &found_by, at)
            };
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::{cleanup::Identity, config::Endpoint, failure::Dependency, host::Host, store::PinnedDaemon};

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
            listing(&Hosts::new(&hosts, vec![Ok(daemon("ID", 3))], Vec::new(), unmarked))
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
        insta::assert_snapshot!("list_of_several_hosts", listing(&Hosts::new(&hosts, found, pinned, unmarked)));
    }
}
