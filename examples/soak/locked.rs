//! A row that somebody has locked for minutes, while an event comes each second: nobody else waits for it.
//!
//! On PostgreSQL and MariaDB, which lock rows, at the same time. The locked thread's own event comes again and again
//! meanwhile, and its volume goes when the row is unlocked.

use std::{
    collections::HashMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bollard::{Docker, models::VolumeCreateRequest};
use chrono::{DateTime, Utc};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement, TransactionTrait};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, timeout},
};

use crate::{
    Place, Try,
    account::{Notes, line},
    broker::Broker,
    given, percentile,
    race::{START_DEADLINE, get, until_ready},
    replica::{Order, Program, Replica},
    shape::new_database,
    soon,
};

/// Between two events.
const PACE: Duration = Duration::from_secs(1);
/// From the close of one of the others to its mark.
const WITHIN: Duration = Duration::from_secs(1);
/// From the unlock until the locked thread is marked, at most: its event waits for the first delay of the retry
/// schedule, and a sweep for its interval.
const AFTER_UNLOCK: Duration = Duration::from_secs(2);
const LOCKED: &str = "locked";

/// Locks a row for so long, on each database that can.
pub(crate) async fn lock_a_row(lasts: Duration, place: &Place, notes: &Arc<Notes>) -> Try {
    println!("\nOne row is locked for {lasts:?}, and an event comes each second");
    let on = async |name: &str, server: &str| Scene::set(name, server, place, notes).await;
    let postgres = on("locked_postgres", "DATABASE_URL").await?;
    let mariadb = on("locked_mariadb", "MYSQL_URL").await?;
    let (postgres, mariadb) = tokio::try_join!(postgres.play(lasts), mariadb.play(lasts))?;
    for (name, account) in [("PostgreSQL", postgres), ("MariaDB", mariadb)] {
        println!("\n   {name}");
        account.check(notes);
    }
    Ok(())
}

struct Scene {
    name: String,
    db: DatabaseConnection,
    docker: Docker,
    broker: Broker,
    replica: Replica,
    http: String,
}

/// What was seen.
struct Account {
    /// From close to mark, of the others.
    lags: Vec<Duration>,
    /// When the replica was not ready.
    not_ready: Vec<String>,
    /// Connections to the database, at each look.
    connections: Vec<usize>,
    unlocked_to_marked: Duration,
}

impl Scene {
    async fn set(name: &str, server: &str, place: &Place, notes: &Arc<Notes>) -> Try<Self> {
        let logs = place.logs.join(name);
        fs::create_dir(&logs)?;
        let database_url = new_database(server, name).await?;
        let (amqp_url, docker_host) = (given("AMQP_URL")?, given("DOCKER_HOST")?);
        let exchange = format!("{name}.threads");
        let text = str::to_owned;
        let settings = HashMap::from([
            ("AMQP_URL", amqp_url.clone()),
            ("DATABASE_URL", database_url.clone()),
            ("DOCKER_HOST", docker_host.clone()),
            ("VOLUME_REAPER_EXCHANGE", exchange.clone()),
            ("VOLUME_REAPER_QUEUE_PREFIX", text(name)),
            ("VOLUME_REAPER_VOLUME_PREFIX", prefix(name)),
            ("VOLUME_REAPER_HTTP_ADDR", text("127.0.0.1:0")),
            ("VOLUME_REAPER_LOG_FORMAT", text("json")),
            ("RUST_LOG", text("info,lapin=off")),
        ]);
        let program = Program { binary: place.binary.clone(), settings, logs };
        let log = program.logs.join("replica-1-001.log");
        let replica = Replica::start(1, program, Arc::clone(notes));
        let ready = timeout(START_DEADLINE, until_ready(&log)).await;
        let http = ready.map_err(|_| format!("a replica is not ready after {START_DEADLINE:?}"))?;
        let mut options = ConnectOptions::new(database_url);
        options.sqlx_logging(false).max_connections(8);
        Ok(Self {
            name: text(name),
            db: Database::connect(options).await?,
            docker: Docker::connect_with_unix(
                docker_host.trim_start_matches("unix://"),
                60,
                bollard::API_DEFAULT_VERSION,
            )?,
            broker: Broker::new(amqp_url, exchange),
            replica,
            http,
        })
    }

    async fn play(self, lasts: Duration) -> Try<Account> {
        let scene = Arc::new(self);
        scene.create_volume(LOCKED).await?;
        scene.insert(LOCKED).await?;
        let lock = scene.db.begin().await?;
        soon("the lock", lock.execute_unprepared("SELECT id FROM threads WHERE id = 'locked' FOR UPDATE")).await?;
        if scene.mark(LOCKED).await?.is_some() {
            return Err("a sweep was faster than the lock".into());
        }
        scene.broker.publish(LOCKED, br#"{"thread_id": "locked"}"#).await;

        let mut others = JoinSet::new();
        let (mut not_ready, mut connections) = (Vec::new(), Vec::new());
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (began, mut number) = (Instant::now(), 0);
        while began.elapsed() < lasts {
            pace.tick().await;
            let (scene, id) = (Arc::clone(&scene), format!("t{number}"));
            let asked = Arc::clone(&scene);
            others.spawn(async move { scene.close(&id).await });
            number += 1;
            let ready = soon("/readyz", get(&asked.http, "/readyz")).await?;
            if !ready.starts_with("HTTP/1.1 200") {
                not_ready.push(ready.lines().last().unwrap_or_default().to_owned());
            }
            connections.push(asked.connections().await?);
        }
        while let Some(closed) = others.join_next().await {
            closed??;
        }
        lock.rollback().await?;
        let unlocked = Instant::now();
        let marked = timeout(crate::SOON, async {
            while scene.mark(LOCKED).await?.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
        marked.await.map_err(|_| "the thread whose row was locked is not marked")??;
        let unlocked_to_marked = unlocked.elapsed();
        let mut lags = Vec::new();
        for number in 0..number {
            let id = format!("t{number}");
            let marked = scene.mark(&id).await?.ok_or_else(|| format!("{id} is not marked"))?;
            lags.push((marked.1 - marked.0).to_std().unwrap_or_default());
        }
        lags.sort();
        let scene = Arc::into_inner(scene).ok_or("nobody else plays any more")?;
        scene.replica.orders.send(Order::End).await?;
        scene.replica.life.await?;
        Ok(Account { lags, not_ready, connections, unlocked_to_marked })
    }

    /// A thread with a volume, which is closed with an event.
    async fn close(&self, id: &str) -> Try {
        self.create_volume(id).await?;
        self.insert(id).await?;
        self.broker.publish(id, format!(r#"{{"thread_id": "{id}"}}"#).as_bytes()).await;
        Ok(())
    }

    async fn create_volume(&self, id: &str) -> Try {
        let name = Some(format!("{}{id}", prefix(&self.name)));
        let request = VolumeCreateRequest { name, ..VolumeCreateRequest::default() };
        soon("docker", self.docker.create_volume(request)).await.map(drop)
    }

    /// A thread that is closed now.
    async fn insert(&self, id: &str) -> Try {
        let now = if self.is_mariadb() { "UTC_TIMESTAMP(3)" } else { "now()" };
        let insert = format!("INSERT INTO threads (id, status, closed_at) VALUES ('{id}', 'closed', {now})");
        soon("the thread", self.db.execute_unprepared(&insert)).await.map(drop)
    }

    fn is_mariadb(&self) -> bool {
        self.db.get_database_backend() == sea_orm::DbBackend::MySql
    }

    /// When a thread was closed and marked, if it is marked.
    async fn mark(&self, id: &str) -> Try<Option<(DateTime<Utc>, DateTime<Utc>)>> {
        let select = format!(
            "SELECT closed_at, workspace_volume_removed_at FROM threads \
             WHERE id = '{id}' AND workspace_volume_removed_at IS NOT NULL"
        );
        let statement = Statement::from_string(self.db.get_database_backend(), select);
        let Some(row) = soon("the mark", self.db.query_one_raw(statement)).await? else { return Ok(None) };
        Ok(Some((row.try_get_by_index(0)?, row.try_get_by_index(1)?)))
    }

    /// The replica's connections to its database.
    async fn connections(&self) -> Try<usize> {
        let select = if self.is_mariadb() {
            format!("SELECT CAST(count(*) AS char) FROM information_schema.processlist WHERE db = '{}'", self.name)
        } else {
            format!("SELECT CAST(count(*) AS text) FROM pg_stat_activity WHERE datname = '{}'", self.name)
        };
        let statement = Statement::from_string(self.db.get_database_backend(), select);
        let row = soon("the connections", self.db.query_one_raw(statement)).await?.ok_or("no count")?;
        Ok(row.try_get_by_index::<String>(0)?.parse()?)
    }
}

impl Account {
    fn check(&self, notes: &Notes) {
        line("events meanwhile", self.lags.len());
        for (what, percent) in [("median", 50), ("p99", 99), ("longest", 100)] {
            line(&format!("milliseconds from close to mark, {what}"), percentile(&self.lags, percent).as_millis());
        }
        line("milliseconds from the unlock to the locked one's mark", self.unlocked_to_marked.as_millis());
        let most = self.connections.iter().max().copied().unwrap_or_default();
        line("connections to the database at most, the platform's with them", most);
        let late: Vec<_> = self.lags.iter().filter(|lag| **lag > WITHIN).map(|lag| format!("{lag:?}")).collect();
        notes.claim(&format!("each of the others was marked within {WITHIN:?}"), &late);
        notes.claim("the replica was ready all the time", &self.not_ready);
        let slow = (self.unlocked_to_marked > AFTER_UNLOCK).then(|| format!("{:?}", self.unlocked_to_marked));
        notes.claim(&format!("the locked one was marked within {AFTER_UNLOCK:?} of the unlock"), slow.as_slice());
    }
}

/// What the volumes begin with.
fn prefix(name: &str) -> String {
    format!("{name}_ws_")
}
