//! The platform: it owns the threads and their volumes, closes and reopens them, and publishes what it did. It suffers
//! the same faults as the service, and does each thing again until it is done.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bollard::{
    Docker,
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{CreateContainerOptionsBuilder, ListVolumesOptions, RemoveContainerOptions},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Try,
    broker::{Broker, EXCHANGE},
    meanwhile::Meanwhile,
    plan::{Dice, Fate, Thread, garbage},
    poison::{Message, dressed, poison},
    shape::{On, Shape},
    soon,
    stories::Stories,
};

const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How far an event may be ahead of its commit, and a second close behind the reopening.
const A_WHILE: Duration = Duration::from_secs(4);
/// How often a thread that is to be reopened is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Volumes of our prefix that belong to no thread.
pub(crate) const ORPHANS: [&str; 3] = ["ha_ws_orphan-1", "ha_ws_orphan-2", "ha_ws_orphan-3"];
/// What the names of the volumes begin with.
pub(crate) const PREFIX: &str = "ha";

pub(crate) struct Platform {
    pub(crate) threads: Vec<Thread>,
    pub(crate) broker: Broker,
    pub(crate) meanwhile: Meanwhile,
    pub(crate) stories: Stories,
    pub(crate) on: On,
    pub(crate) shape: Shape,
    db: DatabaseConnection,
    /// One for each host.
    daemons: Vec<Docker>,
    published: Mutex<Vec<Published>>,
    /// Closes that are committed.
    pub(crate) closed: AtomicUsize,
}

/// A message that the broker has confirmed.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) id: String,
    pub(crate) thread: String,
    pub(crate) fate: Fate,
    /// The reason that the dead-letter queue has to give for it; `None` if it does not belong there.
    pub(crate) dead_letter: Option<&'static str>,
    /// What is odd about it.
    pub(crate) kind: Option<String>,
    /// The client library can't read it any more once the broker has added to its headers, or is not asked to when it
    /// lost its connection over another one.
    pub(crate) may_be_unreadable: bool,
}

impl Platform {
    /// With the sockets of its hosts' daemons.
    pub(crate) async fn new(
        threads: Vec<Thread>,
        (on, shape): (On, Shape),
        database_url: &str,
        broker_url: String,
        sockets: &[&str],
    ) -> Try<Self> {
        let mut options = ConnectOptions::new(database_url);
        options.sqlx_logging(false).max_connections(16).acquire_timeout(ATTEMPT_TIMEOUT).connect_lazy(true);
        Ok(Self {
            on,
            shape,
            threads,
            broker: Broker::new(broker_url, EXCHANGE.to_owned()),
            meanwhile: Meanwhile::default(),
            stories: Stories::default(),
            db: Database::connect(options).await?,
            daemons: sockets
                .iter()
                .map(|socket| Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION))
                .collect::<Result<_, _>>()?,
            published: Mutex::default(),
            closed: AtomicUsize::new(0),
        })
    }

    // --- Before the faults ---

    /// The tables that the service does not make.
    pub(crate) async fn make_tables(&self) -> Try {
        self.shape.make_tables(self.on, &self.db).await
    }

    /// The names of a thread's volumes.
    pub(crate) fn volumes_of(&self, thread: &Thread) -> Vec<String> {
        self.shape.volumes(PREFIX, &thread.id)
    }

    /// All threads, open, with their volumes, and the containers that hold some of them.
    pub(crate) async fn open_threads(&self) -> Try {
        let ids: Vec<_> = self.with_row().map(|thread| thread.id.as_str()).collect();
        for ids in ids.chunks(500) {
            for insert in self.shape.insert_threads(PREFIX, ids) {
                soon("database", self.db.execute_unprepared(&insert)).await?;
            }
        }
        let volumes = self.with_row().filter(|thread| thread.fate.has_volume());
        let on_daemon = |thread| self.volumes_of(thread).into_iter().map(move |volume| (self.daemon(thread), volume));
        let orphans = ORPHANS.map(|orphan| (&self.daemons[0], orphan.to_owned()));
        stream::iter(volumes.flat_map(on_daemon).chain(orphans).collect::<Vec<_>>())
            .map(|(daemon, volume)| soon("docker", daemon.create_volume(request(&volume))))
            .buffer_unordered(8)
            .try_for_each(async |_| Ok(()))
            .await?;
        for thread in self.with(Fate::Held) {
            let options = CreateContainerOptionsBuilder::default().name(&container(thread)).build();
            let body = ContainerCreateBody {
                image: Some("volume-reaper-empty:latest".to_owned()),
                cmd: Some(vec!["never-started".to_owned()]),
                host_config: Some(HostConfig {
                    binds: Some(vec![format!("{}:/workspace", self.held_volume(thread))]),
                    ..HostConfig::default()
                }),
                ..ContainerCreateBody::default()
            };
            soon("docker", self.daemon(thread).create_container(Some(options), body)).await?;
        }
        Ok(())
    }

    /// The volume of a thread's that a container holds.
    pub(crate) fn held_volume(&self, thread: &Thread) -> String {
        self.volumes_of(thread).swap_remove(0)
    }

    // --- During the faults ---

    /// Lets all threads live, one after the other begins at an even pace. Ends when the last one's story does.
    pub(crate) async fn live(self: Arc<Self>, mut dice: Dice, over: Duration) {
        let mut pace = tokio::time::interval(over / u32::try_from(self.threads.len()).unwrap_or(u32::MAX));
        let mut stories = JoinSet::new();
        for number in 0..self.threads.len() {
            pace.tick().await;
            let (platform, wait) = (Arc::clone(&self), dice.up_to(A_WHILE));
            stories.spawn(async move { platform.story(number, wait).await });
        }
        stories.join_all().await;
    }

    async fn story(&self, number: usize, wait: Duration) {
        let thread = &self.threads[number];
        match thread.fate {
            Fate::Removed | Fate::Absent | Fate::Held => {
                self.close(thread).await;
                self.publish_event(thread, 1).await;
            }
            Fate::Overtaken => {
                self.publish_event(thread, 1).await;
                tokio::time::sleep(wait).await;
                self.close(thread).await;
            }
            Fate::Repeated => {
                self.close(thread).await;
                tokio::join!(self.publish_event(thread, 1), self.publish_event(thread, 2));
            }
            Fate::EventLost => self.close(thread).await,
            Fate::Open | Fate::Unknown => self.publish_event(thread, 1).await,
            Fate::Reopened | Fate::ClosedAgain => self.close_and_reopen(thread, wait).await,
            Fate::Garbage => {
                let (body, reason) = garbage(number);
                self.publish(thread, 1, &body, Some(reason)).await;
            }
            Fate::Poison => {
                let (message, reason) = poison(number, &thread.id);
                self.publish_raw(thread, message, Some(reason)).await;
            }
            Fate::Dressed => {
                self.close(thread).await;
                self.publish_raw(thread, dressed(number, &thread.id), None).await;
            }
        }
    }

    async fn close_and_reopen(&self, thread: &Thread, wait: Duration) {
        self.close(thread).await;
        self.publish_event(thread, 1).await;
        while !self.is_marked(thread).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let id = &thread.id;
        self.execute(&format!("UPDATE threads SET status = 'open', closed_at = NULL WHERE id = '{id}'")).await;
        self.stories.add(id, "reopened");
        for volume in self.volumes_of(thread) {
            again(|| self.daemon(thread).create_volume(request(&volume))).await;
        }
        self.stories.add(id, "its volumes are there again");
        self.publish_event(thread, 2).await;
        if thread.fate == Fate::ClosedAgain {
            tokio::time::sleep(wait).await;
            self.close(thread).await;
            self.publish_event(thread, 3).await;
        }
    }

    /// Done again, it changes nothing: the time is that of the close, not of the last try.
    async fn close(&self, thread: &Thread) {
        let close = format!("UPDATE threads SET status = 'closed', closed_at = {}", self.on.now());
        self.execute(&format!("{close} WHERE id = '{}' AND status = 'open'", thread.id)).await;
        self.stories.add(&thread.id, "closed");
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    async fn publish_event(&self, thread: &Thread, number: usize) {
        let body = thread.event();
        let dead_letter = (thread.fate == Fate::Unknown).then_some("unknown_thread");
        self.publish(thread, number, body.as_bytes(), dead_letter).await;
    }

    async fn publish(&self, thread: &Thread, number: usize, body: &[u8], dead_letter: Option<&'static str>) {
        let id = format!("{}/{number}", thread.id);
        self.broker.publish(&id, body).await;
        self.note(thread, id, dead_letter, None, false);
    }

    async fn publish_raw(&self, thread: &Thread, message: Message, dead_letter: Option<&'static str>) {
        self.broker.publish_raw(&message.properties, &message.body).await;
        let kind = match dead_letter {
            Some(_) => format!("message: {}", message.kind),
            None => format!("event with {}", message.kind),
        };
        self.meanwhile.published(&kind);
        let may_be_unreadable = ["nested", "frame", "large"].iter().any(|word| message.kind.contains(word));
        self.note(thread, format!("{}/1", thread.id), dead_letter, Some(kind), may_be_unreadable);
    }

    fn note(
        &self,
        thread: &Thread,
        id: String,
        dead_letter: Option<&'static str>,
        kind: Option<String>,
        may_be_unreadable: bool,
    ) {
        self.stories.add(&thread.id, &format!("{id} is published: {}", kind.as_deref().unwrap_or("an event")));
        let (thread, fate) = (thread.id.clone(), thread.fate);
        self.published.lock().push(Published { id, thread, fate, dead_letter, kind, may_be_unreadable });
    }

    async fn is_marked(&self, thread: &Thread) -> bool {
        let select = format!("SELECT id FROM threads WHERE id = '{}' AND {} IS NOT NULL", thread.id, self.shape.mark());
        !again(|| self.query(&select)).await.is_empty()
    }

    async fn execute(&self, sql: &str) {
        again(|| self.db.execute_unprepared(sql)).await;
    }

    // --- After the faults, and to see how far it is ---

    pub(crate) fn published(&self) -> Vec<Published> {
        self.published.lock().clone()
    }

    pub(crate) async fn query(&self, sql: &str) -> Try<Vec<QueryResult>> {
        soon("database", self.db.query_all_raw(Statement::from_string(self.on.backend(), sql))).await
    }

    /// Closed threads that are not marked.
    pub(crate) async fn unmarked(&self) -> Try<BTreeSet<String>> {
        let select = format!("SELECT id FROM threads WHERE status = 'closed' AND {} IS NULL", self.shape.mark());
        self.query(&select).await?.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    /// The volumes with our prefix.
    pub(crate) async fn volumes(&self) -> Try<BTreeSet<String>> {
        let mut ours = BTreeSet::new();
        for daemon in &self.daemons {
            let volumes = soon("docker", daemon.list_volumes(None::<ListVolumesOptions>)).await?.volumes;
            let names = volumes.unwrap_or_default().into_iter().map(|volume| volume.name);
            ours.extend(names.filter(|name| Shape::is_ours(PREFIX, name)));
        }
        Ok(ours)
    }

    /// Removes the containers, so that nothing holds a volume any more.
    pub(crate) async fn let_go(&self) -> Try {
        for thread in self.with(Fate::Held) {
            let name = container(thread);
            let remove = self.daemon(thread).remove_container(&name, None::<RemoveContainerOptions>);
            soon("docker", remove).await?;
        }
        Ok(())
    }

    fn daemon(&self, thread: &Thread) -> &Docker {
        &self.daemons[thread.host]
    }

    pub(crate) fn with(&self, fate: Fate) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(move |thread| thread.fate == fate)
    }

    pub(crate) fn with_row(&self) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(|thread| thread.fate.has_row())
    }
}

fn request(volume: &str) -> VolumeCreateRequest {
    VolumeCreateRequest { name: Some(volume.to_owned()), ..VolumeCreateRequest::default() }
}

fn container(thread: &Thread) -> String {
    format!("workspace-{}", thread.id)
}

/// Tries until it works: the faults end, and the run has a deadline.
async fn again<T, E: Display, F: Future<Output = Result<T, E>>>(attempt: impl Fn() -> F) -> T {
    loop {
        if let Ok(Ok(result)) = timeout(ATTEMPT_TIMEOUT, attempt()).await {
            return result;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}
