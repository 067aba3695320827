//! The list of what people did.

use chrono::{DateTime, SubsecRound, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    ROW_TIMEOUT, Store,
    history_entities::action::{ActiveModel, Column, Entity, Model},
};
use crate::failure::Failure;

/// Of an error, in the list.
const ERROR_CHARACTERS: usize = 1000;

/// What a person did, for the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// By what: `command`, `api` or `console`.
    pub via: &'static str,
    /// The command's word, such as `hold`.
    pub action: &'static str,
    /// What it was done to, such as a thread's id.
    pub target: Option<String>,
    /// How, such as the reason of a hold.
    pub details: serde_json::Value,
}

/// What a person did, as it is in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct LoggedAct {
    /// Sorts by time.
    pub id: String,
    /// When it was done.
    pub done_at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// By what: `command`, `api` or `console`.
    pub via: String,
    /// The command's word, such as `hold`.
    pub action: String,
    /// What it was done to, such as a thread's id.
    pub target: Option<String>,
    /// How, such as the reason of a hold.
    pub details: Option<serde_json::Value>,
    /// Why it failed; none if it went well.
    pub error: Option<String>,
    /// The replica that wrote it.
    pub replica: String,
}

impl From<Model> for LoggedAct {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            done_at: row.done_at,
            actor: row.actor,
            via: row.via,
            action: row.action,
            target: row.target,
            details: row.details.and_then(|details| serde_json::from_str(&details).ok()),
            error: row.error,
            replica: row.replica,
        }
    }
}

impl Store {
    /// Writes down what `actor` did, and why it failed if it did.
    pub async fn note_act(&self, actor: &str, act: &Act, error: Option<&Failure>) -> Result<(), Failure> {
        let error = error.map(|error| error.message.chars().take(ERROR_CHARACTERS).collect());
        let row = ActiveModel {
            id: Set(uuid::Uuid::now_v7().to_string()),
            done_at: Set(Utc::now().trunc_subsecs(3)),
            actor: Set(actor.to_owned()),
            via: Set(act.via.to_owned()),
            action: Set(act.action.to_owned()),
            target: Set(act.target.clone()),
            details: Set((!act.details.is_null()).then(|| act.details.to_string())),
            error: Set(error),
            replica: Set(self.replica.clone()),
        };
        self.bounded(ROW_TIMEOUT, Entity::insert(row).exec_without_returning(&self.db)).await.map(drop)
    }

    /// The latest acts, or those before the one called `after`; at most `limit`.
    pub async fn acts(&self, after: Option<&str>, limit: u64) -> Result<Vec<LoggedAct>, Failure> {
        let mut select = Entity::find().order_by_desc(Column::Id).limit(limit);
        if let Some(after) = after {
            select = select.filter(Column::Id.lt(after));
        }
        let rows = self.bounded(ROW_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows.into_iter().map(LoggedAct::from).collect())
    }
}
