//! What is served over HTTP: health and metrics, the API and the pages.
//!
//! The API and the pages answer with what the commands print, from [`crate::operations`]. They have connections to the
//! database of their own, and a share of the requests: whatever is asked here, health answers, and the work goes on.

mod access;
mod acts;
mod answer;
mod bodies;
mod done;
pub mod http;
mod lately;
mod long_acts;
pub mod openapi;
mod operation;
mod pages;
mod problem;
mod queries;
mod reading;
mod router;
mod snapshot;
mod told;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::{OnceCell, Semaphore},
};
use tokio_util::sync::CancellationToken;

use self::{access::Access, access::Person, operation::Operations, problem::Problem, snapshot::Snapshot};
use crate::{
    config::Config,
    failure::{Dependency, Failure},
    operations::{
        doctor, finding::Orphans, fleet_view::Hosts, parked::Parked, require_schema, status::overview::Report,
    },
    store::{LoggedSweep, Stats, Store},
};

/// Requests to the API and the pages that are answered at once. Health and metrics do not count.
const REQUESTS: usize = 32;
/// Pages that are kept up to date at once. Who comes later reloads them.
const VIEWERS: usize = 64;
/// Files that are downloaded at once.
const DOWNLOADS: usize = 2;
/// Connections to the database that they share.
const CONNECTIONS: u32 = 4;
/// Of what is found out from memory or a few rows.
const FRESH: Duration = Duration::from_secs(2);
/// Of what takes a walk through a queue, or lists of a daemon.
const RECENT: Duration = Duration::from_secs(10);
/// How long a page waits for a walk through the dead letters before it says that there is one.
const WAITED_FOR: Duration = Duration::from_millis(500);
/// What is left of a connection's time for the answer itself.
const TIME_TO_ANSWER: Duration = Duration::from_millis(1500);

/// What the API and the pages answer from.
pub struct Console {
    config: Arc<Config>,
    /// Nothing is changed: a dry run.
    only_looks: bool,
    access: Access,
    requests: Arc<Semaphore>,
    /// Pages that are kept up to date.
    viewers: Arc<Semaphore>,
    /// Files that are being downloaded.
    downloads: Arc<Semaphore>,
    store: OnceCell<Arc<Store>>,
    status: Snapshot<Arc<Report>>,
    doctor: Snapshot<Arc<doctor::findings::Report>>,
    hosts: Snapshot<Result<Hosts, Failure>>,
    orphans: Snapshot<Result<Arc<Orphans>, Failure>>,
    parked: Snapshot<Result<Arc<Parked>, Failure>>,
    /// By range.
    stats: Snapshot<Result<Arc<Vec<Stats>>, Failure>>,
    last_sweep: Snapshot<Result<Option<LoggedSweep>, Failure>>,
    latest_sweeps: Snapshot<Result<Arc<Vec<LoggedSweep>>, Failure>>,
    operations: Operations,
    /// The service ends: who waits for news is let go.
    closing: CancellationToken,
}

impl Console {
    /// The console of a service that listens here. Contacts nobody yet.
    #[must_use]
    pub fn new(config: Config, listener: &TcpListener, only_looks: bool) -> Self {
        let address = listener.local_addr().unwrap_or(config.http_addr);
        Self {
            access: Access::new(config.http_tokens_file.as_deref(), address.ip().to_canonical().is_loopback()),
            config: Arc::new(config),
            only_looks,
            requests: Arc::new(Semaphore::new(REQUESTS)),
            viewers: Arc::new(Semaphore::new(VIEWERS)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            store: OnceCell::new(),
            status: Snapshot::new(FRESH),
            doctor: Snapshot::new(RECENT),
            hosts: Snapshot::new(RECENT),
            orphans: Snapshot::new(RECENT),
            parked: Snapshot::new(RECENT),
            stats: Snapshot::new(RECENT),
            last_sweep: Snapshot::new(FRESH),
            latest_sweeps: Snapshot::new(FRESH),
            operations: Operations::default(),
            closing: CancellationToken::new(),
        }
    }

    /// How long an answer may be waited for.
    fn limit(&self) -> Duration {
        self.config.http_timeout.saturating_sub(TIME_TO_ANSWER).max(TIME_TO_ANSWER)
    }

    /// The database, to look at.
    async fn store(&self) -> Result<&Store, Problem> {
        Ok(self.opened_store().await?)
    }

    /// The database, to look at, for who goes on without us.
    async fn shared_store(&self) -> Result<Arc<Store>, Problem> {
        Ok(Arc::clone(self.opened_store().await?))
    }

    async fn opened_store(&self) -> Result<&Arc<Store>, Failure> {
        let open = async || {
            let config = &self.config;
            let store = Store::to_look_at_with(&config.database_url, config.threads.clone(), CONNECTIONS).await;
            store
                .map(|store| Arc::new(store.with_hosts(config.host_names())))
                .map_err(|error| Failure::unavailable(Dependency::Database, error.to_string()))
        };
        self.store.get_or_try_init(open).await
    }

    /// The database, to change what this person asks for.
    async fn store_of(&self, person: &Person) -> Result<Store, Problem> {
        let config = &self.config;
        let store = Store::new(&config.database_url, config.threads.clone(), over_http(person), 1).await?;
        let store = store.with_hosts(config.host_names()).acting_for(person.name.clone());
        require_schema(&store, config).await?;
        Ok(store)
    }

    async fn report(&self) -> Result<Arc<Report>, Problem> {
        let config = Arc::clone(&self.config);
        let take = || async move { Arc::new(crate::operations::status::at_a_glance(&config).await) };
        self.status.soon(self.limit(), take).await
    }

    async fn findings(&self) -> Result<Arc<doctor::findings::Report>, Problem> {
        let config = Arc::clone(&self.config);
        self.doctor.soon(self.limit(), || async move { Arc::new(doctor::examine(&config).await) }).await
    }

    async fn hosts(&self) -> Result<Hosts, Problem> {
        let config = Arc::clone(&self.config);
        let take = || async move { crate::operations::fleet_view::hosts_once(&config).await };
        Ok(self.hosts.soon(self.limit(), take).await??)
    }

    async fn orphans(&self) -> Result<Arc<Orphans>, Problem> {
        let config = Arc::clone(&self.config);
        let take = || async move { crate::operations::finding::orphans(&config).await.map(Arc::new) };
        Ok(self.orphans.soon(self.limit(), take).await??)
    }

    async fn parked(&self) -> Result<Arc<Parked>, Problem> {
        let config = Arc::clone(&self.config);
        let take = || async move { Parked::take(&config).await.map(Arc::new) };
        Ok(self.parked.soon(self.limit(), take).await??)
    }

    /// What is parked, if that is known or found out in a moment; a long queue takes its time.
    async fn parked_by_now(&self) -> Result<Option<Arc<Parked>>, Problem> {
        let config = Arc::clone(&self.config);
        let take = || async move { Parked::take(&config).await.map(Arc::new) };
        match self.parked.soon(WAITED_FOR, take).await {
            Ok(found) => Ok(Some(found?)),
            Err(_) => Ok(None),
        }
    }
}

/// How a person who acts here is called in pauses.
fn over_http(person: &Person) -> String {
    format!("{}{OVER_HTTP}", person.name)
}

/// What a pause that was made here is known by.
const OVER_HTTP: &str = " over HTTP";
