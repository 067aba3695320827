//! Why a thread's volume is still there, or when it went. Looks, and changes nothing.

pub mod explanation;
pub mod testimony;
pub mod why;
pub(super) mod words;

use chrono::Utc;
use futures_util::future::join_all;

use self::{
    explanation::Explanation,
    testimony::HostTestimony,
    why::{Daemon, Facts, Rows},
};
use super::{docker, sweep_lease};
use crate::{
    cleanup::{Container, Failures, Pauses, failing::Failing},
    config::{Config, DockerHost},
    docker::SeenVolume,
    failure::Failure,
    host::Host,
    store::{NamedVolume, PinnedDaemon, Store, ThreadRow},
    volume_name::{ThreadId, VolumeName},
};

/// Why the volumes of a thread are still there, or when and how they went.
pub async fn explain(config: &Config, thread: ThreadId) -> Explanation {
    let (rows, daemon) = found(config, &thread).await;
    let by_template = config.volume_names.volume_of(&thread);
    Explanation::new(Facts {
        volume: daemon
            .as_ref()
            .map_or(&by_template, |daemon| &SeenVolume::most_telling(&daemon.volumes).volume)
            .clone(),
        thread,
        now: Utc::now(),
        database: rows.map_err(|failure| failure.message),
        docker: daemon,
    })
}

impl Explanation {
    /// Whether database and Docker both answered, as far as it matters.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.errors.database.is_none() && self.errors.docker.is_none()
    }
}

/// What the database says of the thread, and the host that has its volume.
async fn found(config: &Config, thread: &ThreadId) -> (Result<Rows, Failure>, Result<Daemon, String>) {
    let by_template = |host: Option<String>| vec![(host, config.volume_names.volumes_of(thread))];
    let store = match super::store_to_look_at(config).await {
        Ok(store) => store,
        Err(down) => return (Err(down), all_daemons(config, &[], thread, by_template(None)).await),
    };
    let (volumes, refused) = match store.named_volumes(thread).await {
        Ok(Some(named)) => checked(config, named),
        Ok(None) | Err(_) => (Vec::new(), None),
    };
    let row = store.look_up_thread(thread).await;
    let host = row.as_ref().ok().and_then(|row| row.as_ref()?.host.clone());
    let volumes = if volumes.is_empty() { by_template(host) } else { volumes };
    let pinned = store.pinned_daemons().await.unwrap_or_default();
    let daemon = all_daemons(config, &pinned, thread, volumes).await;
    let rows = match row {
        Ok(row) => read_rows(&store, config, thread, row, daemon.as_ref().ok()).await,
        Err(down) => Err(down),
    };
    let rows = rows.map(|rows| Rows { refused, ..rows });
    // Everything is known; a database that does not say goodbye holds up nobody.
    let _ = store.close().await;
    (rows, daemon)
}

/// Volumes by the hosts that are said to have them.
type ByHost = Vec<(Option<String>, Vec<VolumeName>)>;

/// The volumes that rows name, those without a mark first, and why one may not be looked at.
fn checked(config: &Config, named: Vec<NamedVolume>) -> (ByHost, Option<String>) {
    let (mut volumes, mut refused) = (ByHost::new(), None);
    for NamedVolume { name, marked, host } in named {
        match config.volume_names.check(&name) {
            Ok(volume) => match volumes.iter_mut().find(|(of, _)| *of == host) {
                Some((_, others)) => others.push(volume),
                None => volumes.push((host, vec![volume])),
            },
            Err(why) if !marked => refused = refused.or(Some(why)),
            Err(_) => {}
        }
    }
    (volumes, refused)
}

/// What hosts say that some of a thread's volumes may be on.
struct Heard {
    /// The one that says most, of those that answer.
    most_relevant: Option<Daemon>,
    hosts: Vec<HostTestimony>,
}

/// Looks at the hosts that volumes of the thread are on, at least one: the daemon of that volume which says most, with
/// what the others have. An error if none answers.
async fn all_daemons(
    config: &Config,
    pinned: &[PinnedDaemon],
    thread: &ThreadId,
    volumes: ByHost,
) -> Result<Daemon, String> {
    let look =
        async |(host, volumes): (Option<String>, Vec<VolumeName>)| daemon(config, host, pinned, thread, &volumes).await;
    let (mut all, mut hosts) = (Vec::new(), Vec::new());
    for heard in join_all(volumes.into_iter().map(look)).await {
        all.extend(heard.most_relevant);
        hosts.extend(heard.hosts);
    }
    if all.is_empty() {
        return Err(HostTestimony::errors(&hosts));
    }
    let seen: Vec<_> = all.iter().flat_map(|daemon| daemon.volumes.clone()).collect();
    let telling = &SeenVolume::most_telling(&seen).volume;
    let has_it = |daemon: &Daemon| daemon.volumes.iter().any(|seen| seen.volume == *telling);
    let main = all.iter().position(has_it).unwrap_or(0);
    let mut main = all.swap_remove(main);
    main.volumes.extend(all.into_iter().flat_map(|daemon| daemon.volumes));
    if hosts.iter().any(|host| host.error.is_some()) {
        main.hosts = hosts;
    }
    Ok(main)
}

async fn read_rows(
    store: &Store,
    config: &Config,
    thread: &ThreadId,
    row: Option<ThreadRow>,
    daemon: Option<&Daemon>,
) -> Result<Rows, Failure> {
    let is_candidate = row.as_ref().is_some_and(|row| row.closed && !row.marked);
    let failed = store.failed(std::slice::from_ref(thread)).await?.remove(thread);
    let now = Utc::now();
    let named = daemon.and_then(|daemon| daemon.host.clone());
    let host = &named.map_or_else(|| config.docker_hosts[0].name.clone(), Host::Named);
    Ok(Rows {
        due: config.policy.retention.due(row.as_ref().and_then(|row| row.closed_at), now),
        hold: store.hold_of(thread).await?.filter(|hold| hold.is_in_force(now)),
        pause: store.pause(daemon.and_then(|daemon| daemon.host.as_deref())).await?,
        row,
        receipts: store.receipts(thread).await?,
        refused: None,
        // Of any other it is history that the next sweep forgets.
        failure: failed.filter(|_| is_candidate).map(|failed| Failing::new(failed, config.reconcile_cooldown, now)),
        pinned: store.pinned_daemon(host.key()).await?.map(|identity| identity.as_str().to_owned()),
        sweeper: store.look_up_lease(&sweep_lease(host)).await?,
    })
}

/// Looks at the host that the thread is on. If nobody says which one that is: at the one that has a volume of it, or
/// else one that can't say, or else any.
async fn daemon(
    config: &Config,
    host: Option<String>,
    pinned: &[PinnedDaemon],
    thread: &ThreadId,
    volumes: &[VolumeName],
) -> Heard {
    let asked: Vec<_> = match &host {
        None => config.docker_hosts.iter().collect(),
        Some(host) => config.docker_hosts.iter().filter(|each| each.name.name() == Some(host)).collect(),
    };
    if asked.is_empty() {
        let host = host.unwrap_or_default();
        let error = format!("its row names host {host:?}, which is none of VOLUME_REAPER_DOCKER_HOSTS");
        return Heard { most_relevant: None, hosts: vec![HostTestimony::new(&host, volumes, Err(&error))] };
    }
    let all = join_all(asked.iter().map(|host| look(config, host, thread, volumes))).await;
    let testimony = |(host, answer): (&&DockerHost, &Result<Daemon, Failure>)| {
        HostTestimony::new(host.name.key(), volumes, answer.as_ref().map_err(|failure| failure.message.as_str()))
    };
    let hosts = asked.iter().zip(&all).map(testimony).collect();
    let mut answering: Vec<_> = all.into_iter().flatten().collect();
    let is_pinned = |daemon: &Daemon| {
        let name = daemon.host.as_deref().unwrap_or(Host::Only.key());
        pinned.iter().any(|pinned| pinned.name == name && pinned.identity == daemon.identity)
    };
    let has_it = |daemon: &Daemon| SeenVolume::most_telling(&daemon.volumes).found.is_some();
    let most_relevant =
        answering.iter().position(has_it).or_else(|| answering.iter().position(|each| !is_pinned(each))).unwrap_or(0);
    let most_relevant = (!answering.is_empty()).then(|| answering.swap_remove(most_relevant));
    Heard { most_relevant, hosts }
}

async fn look(
    config: &Config,
    host: &DockerHost,
    thread: &ThreadId,
    volumes: &[VolumeName],
) -> Result<Daemon, Failure> {
    let docker = docker(config, host);
    let look = async {
        let names = &config.volume_names;
        let is_of_thread =
            |name: &str| names.is_volume_of(name, thread) || volumes.iter().any(|volume| volume.as_str() == name);
        let mut volumes = docker.look_at_volumes(volumes).await?;
        // After what it is to prove.
        let identity = docker.identify().await?;
        if let Some(rule) = config.policy.exited {
            for user in volumes.iter_mut().flat_map(|seen| &mut seen.users) {
                user.exited = user.found.as_ref().map(|found| {
                    let found = Container { is_podmans: identity.is_podmans(), ..found.clone() };
                    rule.may_go(&found, is_of_thread)
                });
            }
        }
        let name = host.name.name().map(str::to_owned);
        for seen in &mut volumes {
            seen.host.clone_from(&name);
        }
        Ok(Daemon { host: name, identity: identity.as_str().to_owned(), volumes, hosts: Vec::new() })
    };
    look.await.map_err(|failure: Failure| match host.name.name() {
        None => failure,
        Some(name) => Failure { message: format!("host {name}: {}", failure.message), ..failure },
    })
}
