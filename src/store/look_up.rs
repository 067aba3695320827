//! What `explain` and `status` read: rows as they are, for people.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, Func, Query},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    PAGE_TIMEOUT, ROW_TIMEOUT, Store,
    entities::{daemon, lease, volume_removal},
    rows::{host, time},
    threads::host_column,
};
use crate::{failure::Failure, volume_name::ThreadId};

/// A thread closed and cleaned more often than this has older receipts that nobody asks for.
const MAX_RECEIPTS: u64 = 100;

/// A thread's row, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ThreadRow {
    /// Its status, in the platform's words.
    pub status: Option<String>,
    /// Whether that is the closed one.
    pub closed: bool,
    /// When it was closed, if the platform said so.
    pub closed_at: Option<DateTime<Utc>>,
    /// Whether its volume is known to be gone.
    pub marked: bool,
    /// Since when.
    pub marked_at: Option<DateTime<Utc>>,
    /// The Docker host that its volume is on, if the platform says so.
    pub host: Option<String>,
}

/// A receipt, as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct WrittenReceipt {
    /// `removed` or `not_found`; `container_removed` is about a container that was removed for the volume's sake.
    pub outcome: String,
    /// Who asked for it, such as `event` or `sweep`.
    pub source: String,
    /// The id of the event's message, if it had one.
    pub event_id: Option<String>,
    /// The replica that wrote it.
    pub replica: String,
    /// When.
    pub removed_at: DateTime<Utc>,
    /// The volume.
    pub volume_name: String,
    /// The container's id, if it is about one.
    pub container_id: Option<String>,
    /// The container's name, if it is about one.
    pub container_name: Option<String>,
}

/// Who sweeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Sweeper {
    /// The replica's name and an id of the process.
    pub holder: String,
    /// Counts the holders.
    pub epoch: i64,
    /// Until when nobody else may.
    pub expires_at: DateTime<Utc>,
}

/// A pinned daemon: its answers count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PinnedDaemon {
    /// What it is called in the database.
    pub name: String,
    /// Who it is.
    pub identity: String,
    /// Since when.
    pub pinned_at: DateTime<Utc>,
}

impl Store {
    /// A thread's row.
    pub async fn look_up_thread(&self, thread: &ThreadId) -> Result<Option<ThreadRow>, Failure> {
        self.bounded(ROW_TIMEOUT, self.select_thread_row(thread)).await
    }

    async fn select_thread_row(&self, thread: &ThreadId) -> Result<Option<ThreadRow>, DbErr> {
        let threads = self.mapping().await?;
        let Some(is_thread) = threads.is_thread(thread.as_str()) else {
            return Ok(None);
        };
        // Under other names than the columns', which some of these texts are not.
        let select = Query::select()
            .expr_as(threads.status_as_text(), "status_text")
            .expr_as(threads.is_closed(), "is_closed")
            .expr_as(threads.is_marked(), "is_marked")
            .expr_as(threads.read_closed_at(), "read_closed_at")
            .expr_as(threads.read_marked_at(), "read_marked_at")
            .expr_as(threads.as_text(threads.qualified_id()), "id_text")
            .expr_as(host_column(threads), "host_text")
            .from(threads.table())
            .cond_where(is_thread)
            .to_owned();
        let row = self.db.query_one(&select).await?;
        // As in `find`: what the database takes for the same id may be another volume's name.
        let row = row.filter(|row| row.try_get::<String>("", "id_text").is_ok_and(|id| id == thread.as_str()));
        let read = |row: sea_orm::QueryResult| {
            Ok(ThreadRow {
                status: row.try_get("", "status_text")?,
                closed: row.try_get::<Option<bool>>("", "is_closed")?.unwrap_or(false),
                marked: row.try_get("", "is_marked")?,
                closed_at: time(&row, "read_closed_at"),
                marked_at: time(&row, "read_marked_at"),
                host: host(&row, "host_text")?,
            })
        };
        row.map(read).transpose()
    }

    /// A thread's receipts, the latest first.
    pub async fn receipts(&self, thread: &ThreadId) -> Result<Vec<WrittenReceipt>, Failure> {
        let select = volume_removal::Entity::find()
            .filter(volume_removal::Column::ThreadId.eq(thread.as_str()))
            .order_by_desc(volume_removal::Column::Id)
            .limit(MAX_RECEIPTS);
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows
            .into_iter()
            .map(|row| WrittenReceipt {
                outcome: row.outcome,
                source: row.source,
                event_id: row.event_id,
                replica: row.replica,
                removed_at: row.removed_at,
                volume_name: row.volume_name,
                container_id: row.container_id,
                container_name: row.container_name,
            })
            .collect())
    }

    /// Who holds the lease called `name`, or held it last.
    pub async fn look_up_lease(&self, name: &str) -> Result<Option<Sweeper>, Failure> {
        let row = self.bounded(ROW_TIMEOUT, lease::Entity::find_by_id(name).one(&self.db)).await?;
        Ok(row.map(|row| Sweeper { holder: row.holder, epoch: row.epoch, expires_at: row.expires_at }))
    }

    /// All pinned daemons, by name.
    pub async fn pinned_daemons(&self) -> Result<Vec<PinnedDaemon>, Failure> {
        let select = daemon::Entity::find().order_by_asc(daemon::Column::Name);
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        let rows = rows.into_iter();
        Ok(rows.map(|row| PinnedDaemon { name: row.name, identity: row.identity, pinned_at: row.pinned_at }).collect())
    }

    /// Counts the closed and unmarked threads by the host that they are on; one of which several hosts have volumes
    /// counts on each.
    pub async fn unmarked_by_host(&self) -> Result<BTreeMap<Option<String>, u64>, Failure> {
        self.bounded(PAGE_TIMEOUT, async {
            let threads = self.mapping().await?;
            if let Some(volumes) = threads.names.volumes.as_ref().filter(|volumes| volumes.host.is_some()) {
                return self.count_by_host_of_volumes(threads, volumes).await;
            }
            if threads.names.host.is_none() {
                return Ok(BTreeMap::from([(None, self.count_backlog().await?.unmarked)]));
            }
            // By its place in the list: an expression that is grouped by has to be the same one, parameters included.
            let count = Query::select()
                .expr_as(host_column(threads), "host_text")
                .expr_as(Func::count(Expr::val(1)), "threads")
                .from(threads.table())
                .cond_where(threads.is_candidate())
                .add_group_by([Expr::cust("1")])
                .to_owned();
            let mut by_host = BTreeMap::new();
            for row in self.db.query_all(&count).await? {
                *by_host.entry(host(&row, "host_text")?).or_default() +=
                    row.try_get::<i64>("", "threads")?.unsigned_abs();
            }
            Ok(by_host)
        })
        .await
    }
}

impl Sweeper {
    /// Whether it still is the one who sweeps.
    #[must_use]
    pub fn is_current(&self, now: DateTime<Utc>) -> bool {
        self.expires_at > now
    }
}
