//! The outbox: events about volumes that are gone, written in the transaction of their marks, and kept until the broker
//! has them.
//!
//! Two marks of one thread are written one after the other, since its row is locked: their ids are in that order.

use chrono::{SecondsFormat, SubsecRound, Utc};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};
use serde_json::json;

use super::{
    ROW_TIMEOUT, Store,
    history_entities::outbox::{ActiveModel, Column, Entity},
};
use crate::{cleanup::Receipt, failure::Failure};

/// The type of the CloudEvent.
const REMOVED: &str = "workspace.volume.removed";

/// An event that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its place in the outbox.
    pub id: i64,
    /// The thread.
    pub thread_id: String,
    /// A CloudEvent as JSON: what is published, each time alike.
    pub event: String,
}

impl Store {
    /// This store, which writes an event for each mark if somebody wants to hear of it.
    #[must_use]
    pub fn announcing(self, announces: bool) -> Self {
        Self { announces, ..self }
    }

    /// Writes the events of these marks.
    pub(super) async fn announce<'a>(
        &self,
        db: &impl ConnectionTrait,
        receipts: impl Iterator<Item = &'a Receipt>,
    ) -> Result<(), DbErr> {
        if !self.announces {
            return Ok(());
        }
        let made_at = Utc::now().trunc_subsecs(3);
        let row = |receipt: &Receipt| ActiveModel {
            id: NotSet,
            thread_id: Set(receipt.thread_id.to_string()),
            event: Set(event(receipt)),
            made_at: Set(made_at),
        };
        let rows: Vec<_> = receipts.map(row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        Entity::insert_many(rows).exec_without_returning(db).await.map(drop)
    }

    /// The oldest events that are to be published, in their order; at most `limit`.
    pub async fn announcements(&self, limit: u64) -> Result<Vec<Announcement>, Failure> {
        let select = Entity::find().order_by_asc(Column::Id).limit(limit);
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        let announcement = |row: super::history_entities::outbox::Model| Announcement {
            id: row.id,
            thread_id: row.thread_id,
            event: row.event,
        };
        Ok(rows.into_iter().map(announcement).collect())
    }

    /// Forgets events that the broker has.
    pub async fn announced(&self, ids: Vec<i64>) -> Result<(), Failure> {
        let delete = Entity::delete_many().filter(Column::Id.is_in(ids));
        self.bounded(ROW_TIMEOUT, delete.exec(&self.db)).await.map(drop)
    }
}

fn event(receipt: &Receipt) -> String {
    let at = receipt.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "specversion": "1.0",
        "id": uuid::Uuid::now_v7(),
        "source": "volume-reaper",
        "type": REMOVED,
        "subject": receipt.thread_id,
        "time": at,
        "datacontenttype": "application/json",
        "data": {
            "thread_id": receipt.thread_id,
            "volume_name": receipt.volume.to_string(),
            "outcome": receipt.gone.as_str(),
            "removed_at": at,
            "host": receipt.details.host,
            "bytes": receipt.details.bytes,
        },
    })
    .to_string()
}
