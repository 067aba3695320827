//! The platform: its threads, its database and its daemon.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    path::PathBuf,
    time::Duration,
};

use bollard::{
    Docker, body_full,
    models::{ContainerCreateBody, HostConfig, VolumeCreateRequest},
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptions,
        RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
    },
};
use chrono::{DateTime, SubsecRound, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, QueryResult, Statement, Value,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{ABSENT, CLOSED, CLOSES_PER_SECOND, EVENTS_LOST, FREE, HELD, OPEN, RECONCILE_INTERVAL, Try, soon};

const IMAGE: &str = "volume-reaper-demo";

/// What there is of a thread's volume, and what becomes of the thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    StaysOpen,
    Free,
    Absent,
    Held,
}

pub(crate) struct Thread {
    pub(crate) id: String,
    pub(crate) event_lost: bool,
    fate: Fate,
}

impl Thread {
    pub(crate) fn volume(&self) -> String {
        format!("ha_ws_{}", self.id)
    }

    pub(crate) fn container(&self) -> String {
        format!("workspace-{}", &self.id[..8])
    }
}

/// All threads, in the order of their random ids: fates and lost events are mixed.
fn threads() -> Vec<Thread> {
    let fates = [(Fate::StaysOpen, OPEN), (Fate::Free, FREE), (Fate::Absent, ABSENT), (Fate::Held, HELD)];
    let mut threads: Vec<_> = (fates.into_iter())
        .flat_map(|(fate, count)| std::iter::repeat_n(fate, count))
        .map(|fate| Thread { id: uuid::Uuid::new_v4().to_string(), event_lost: false, fate })
        .collect();
    threads.sort_by(|a, b| a.id.cmp(&b.id));
    for (index, thread) in threads.iter_mut().filter(|thread| thread.fate != Fate::StaysOpen).enumerate() {
        thread.event_lost = index * EVENTS_LOST / CLOSED != (index + 1) * EVENTS_LOST / CLOSED;
    }
    threads
}

/// A row of `volume_removals`, with the time since the thread's close.
pub(crate) struct Receipt {
    pub(crate) thread: String,
    pub(crate) outcome: String,
    pub(crate) source: String,
    pub(crate) close_to_mark: Duration,
}

pub(crate) struct Platform {
    pub(crate) threads: Vec<Thread>,
    dir: TempDir,
    db: DatabaseConnection,
    docker: Docker,
    /// The settings of the service, besides where to serve HTTP.
    settings: HashMap<&'static str, String>,
}

impl Platform {
    /// A platform without threads in its database yet, and without a schema: the service makes that.
    pub(crate) async fn new() -> Try<Self> {
        let given = |name| env::var(name).map_err(|_| format!("{name} is not set; `make demo` sets it"));
        let (amqp_url, docker_host) = (given("AMQP_URL")?, given("DOCKER_HOST")?);
        let dir = tempfile::Builder::new().prefix("volume-reaper-demo.").tempdir()?;
        let database_url = format!("sqlite://{}?mode=rwc", dir.path().join("demo.db").display());
        let mut options = ConnectOptions::new(&database_url);
        options.max_connections(2).connect_lazy(true).sqlx_logging(false);
        Ok(Self {
            threads: threads(),
            dir,
            db: Database::connect(options).await?,
            docker: Docker::connect_with_host(&docker_host)?,
            settings: HashMap::from([
                ("DATABASE_URL", database_url),
                ("AMQP_URL", amqp_url),
                ("DOCKER_HOST", docker_host),
                ("VOLUME_REAPER_RECONCILE_INTERVAL", RECONCILE_INTERVAL.to_owned()),
                ("VOLUME_REAPER_RECONCILE_COOLDOWN", "1s".to_owned()),
            ]),
        })
    }

    /// A command of the binary that was built along with this one.
    pub(crate) fn command(&self, command: &str) -> Try<Command> {
        let demo = env::current_exe()?;
        let target = demo.ancestors().nth(2).ok_or("the demo is not in cargo's target directory")?;
        let mut process = Command::new(target.join("volume-reaper"));
        // Settings of whoever runs the demo are meant for another service.
        process.arg(command).env_clear().envs(&self.settings).kill_on_drop(true);
        Ok(process)
    }

    /// Rows, volumes, and a container for each volume that is to be held.
    pub(crate) async fn open_threads(&self) -> Try {
        let rows: Vec<_> = self.threads.iter().map(|thread| format!("('{}', 'open')", thread.id)).collect();
        self.execute(format!("INSERT INTO threads (id, status) VALUES {}", rows.join(", ")), []).await?;

        let create = stream::iter(self.threads.iter().filter(|thread| thread.fate != Fate::Absent))
            .map(|thread| {
                let volume = VolumeCreateRequest { name: Some(thread.volume()), ..VolumeCreateRequest::default() };
                self.docker.create_volume(volume)
            })
            .buffer_unordered(8)
            .try_for_each(async |_| Ok(()));
        soon("docker", create).await?;

        // An empty tar is enough for an image: its containers are never started, and hold their volumes all the same.
        let import = CreateImageOptionsBuilder::default().from_src("-").repo(IMAGE).tag("latest").build();
        let tar = body_full(vec![0_u8; 1024].into());
        soon("docker", self.docker.create_image(Some(import), Some(tar), None).try_for_each(async |_| Ok(()))).await?;
        for thread in self.with(Fate::Held) {
            let options = CreateContainerOptionsBuilder::default().name(&thread.container()).build();
            let binds = Some(vec![format!("{}:/workspace", thread.volume())]);
            let container = ContainerCreateBody {
                image: Some(IMAGE.to_owned()),
                cmd: Some(vec!["/never-started".to_owned()]),
                host_config: Some(HostConfig { binds, ..HostConfig::default() }),
                ..ContainerCreateBody::default()
            };
            soon("docker", self.docker.create_container(Some(options), container)).await?;
        }
        Ok(())
    }

    /// What a platform does at a close: first the row is committed, then the event is published.
    pub(crate) async fn close_threads(&self) -> Try {
        let connect = Connection::connect(&self.settings["AMQP_URL"], ConnectionProperties::default());
        let connection = soon("broker", connect).await?;
        let channel = soon("broker", connection.create_channel()).await?;
        soon("broker", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let persistent = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());

        let mut confirmations = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_secs(1) / CLOSES_PER_SECOND);
        for thread in self.threads.iter().filter(|thread| thread.fate != Fate::StaysOpen) {
            pace.tick().await;
            let closed_at = Utc::now().trunc_subsecs(3);
            let close = "UPDATE threads SET status = 'closed', closed_at = ? WHERE id = ?";
            self.execute(close, [closed_at.into(), thread.id.as_str().into()]).await?;
            if !thread.event_lost {
                let event = json!({ "thread_id": thread.id, "closed_at": closed_at }).to_string();
                let (exchange, key) = ("threads".into(), "thread.closed".into());
                let publish = channel.basic_publish(exchange, key, mandatory, event.as_bytes(), persistent.clone());
                confirmations.push(soon("broker", publish).await?);
            }
        }
        for confirmation in confirmations {
            let confirmation = soon("broker", confirmation).await?;
            if !matches!(confirmation, Confirmation::Ack(None)) {
                return Err(format!("the broker did not take an event: {confirmation:?}").into());
            }
        }
        soon("broker", connection.close(200, "done".into())).await
    }

    pub(crate) async fn remove_container(&self, of: &Thread) -> Try {
        soon("docker", self.docker.remove_container(&of.container(), None::<RemoveContainerOptions>)).await
    }

    pub(crate) fn with(&self, fate: Fate) -> impl Iterator<Item = &Thread> {
        self.threads.iter().filter(move |thread| thread.fate == fate)
    }

    /// The volumes of our threads that Docker has, each with the container that holds it.
    pub(crate) async fn volumes(&self) -> Try<HashMap<String, Option<String>>> {
        let ours: BTreeSet<_> = self.threads.iter().map(Thread::volume).collect();
        let listed = soon("docker", self.docker.list_volumes(None::<ListVolumesOptions>)).await?.volumes;
        let names = listed.unwrap_or_default().into_iter().map(|volume| volume.name);
        let mut volumes: HashMap<_, _> = names.filter(|name| ours.contains(name)).map(|name| (name, None)).collect();
        let all = ListContainersOptionsBuilder::default().all(true).build();
        for container in soon("docker", self.docker.list_containers(Some(all))).await? {
            let name = container.names.unwrap_or_default().concat();
            for volume in container.mounts.unwrap_or_default().into_iter().filter_map(|mount| mount.name) {
                volumes.entry(volume).and_modify(|holder| *holder = Some(name.trim_start_matches('/').to_owned()));
            }
        }
        Ok(volumes)
    }

    /// The receipts that agree with their thread's mark; others are none.
    pub(crate) async fn receipts(&self) -> Try<Vec<Receipt>> {
        let rows = self.query(
            "SELECT thread_id, outcome, source, closed_at, removed_at FROM volume_removals JOIN threads \
             ON threads.id = thread_id AND workspace_volume_removed_at = removed_at",
        );
        let receipt = |row: &QueryResult| {
            let [closed_at, removed_at]: [DateTime<Utc>; 2] = [row.try_get_by_index(3)?, row.try_get_by_index(4)?];
            Ok(Receipt {
                thread: row.try_get_by_index(0)?,
                outcome: row.try_get_by_index(1)?,
                source: row.try_get_by_index(2)?,
                close_to_mark: (removed_at - closed_at).to_std().unwrap_or_default(),
            })
        };
        rows.await?.iter().map(receipt).collect()
    }

    /// The ids of the closed threads that are not marked.
    pub(crate) async fn unmarked(&self) -> Try<BTreeSet<String>> {
        let rows = self.query("SELECT id FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL");
        rows.await?.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    async fn query(&self, sql: &str) -> Try<Vec<QueryResult>> {
        soon("database", self.db.query_all_raw(Statement::from_string(DbBackend::Sqlite, sql))).await
    }

    async fn execute(&self, sql: impl Into<String>, values: impl IntoIterator<Item = Value>) -> Try {
        let statement = Statement::from_sql_and_values(DbBackend::Sqlite, sql, values);
        soon("database", self.db.execute_raw(statement)).await.map(drop)
    }

    /// Leaves nothing of ours in Docker. The directory goes when this is dropped.
    pub(crate) async fn clean_up(&self) -> Try {
        for (volume, holder) in self.volumes().await? {
            if let Some(holder) = holder {
                soon("docker", self.docker.remove_container(&holder, None::<RemoveContainerOptions>)).await?;
            }
            soon("docker", self.docker.remove_volume(&volume, None::<RemoveVolumeOptions>)).await?;
        }
        soon("docker", self.docker.remove_image(IMAGE, None::<RemoveImageOptions>, None)).await?;
        soon("database", self.db.close_by_ref()).await
    }

    /// What the service logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("volume-reaper.log")
    }

    /// Spares the directory, for who wants to know what went wrong. Returns the log's path.
    pub(crate) fn keep_log(self) -> PathBuf {
        let log = self.log();
        let _ = self.dir.keep();
        log
    }
}
