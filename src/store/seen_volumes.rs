//! What was seen of the hosts' volumes: in the rows of their daemons, and the doubt among the pauses.

use chrono::{DateTime, Utc};
use migrations::is_removal;
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, sea_query::Expr};

use super::{
    ROW_TIMEOUT, Store,
    entities::{daemon, pause, volume_removal},
};
use crate::{
    cleanup::{Gone, Seen, Sighting, Sightings},
    failure::Failure,
    host::Host,
};

/// What the rows of doubts begin with.
pub(super) const DOUBT: &str = "doubt/";

/// The row of the doubt about a host.
pub(super) fn row_of_doubt(host: &str) -> String {
    format!("{DOUBT}{host}")
}

impl Sightings for Store {
    async fn seen(&self, host: &Host) -> Result<Seen, Failure> {
        if self.is_bare() {
            return Ok(Seen::default());
        }
        self.bounded(ROW_TIMEOUT, async {
            let seen = daemon::Entity::find_by_id(host.key()).one(&self.db).await?;
            let pause = pause::Entity::find_by_id(row_of_doubt(host.key())).one(&self.db).await?;
            let (paused_at, reason, resumed_at) =
                pause.map_or((None, None, None), |row| (row.paused_at, row.reason, row.resumed_at));
            let latest = seen.and_then(|row| Some(Sighting { volumes: row.volumes?.unsigned_abs(), at: row.seen_at? }));
            Ok(Seen {
                // What is missing since before is right: a person said so.
                latest: latest.filter(|latest| resumed_at.is_none_or(|resumed_at| latest.at > resumed_at)),
                doubt: paused_at.map(|_| reason.unwrap_or_default()),
            })
        })
        .await
    }

    async fn saw(&self, host: &Host, sighting: &Sighting) -> Result<(), Failure> {
        let update = daemon::Entity::update_many()
            .col_expr(daemon::Column::Volumes, Expr::value(i64::try_from(sighting.volumes).unwrap_or(i64::MAX)))
            .col_expr(daemon::Column::SeenAt, Expr::value(sighting.at))
            .filter(daemon::Column::Name.eq(host.key()));
        self.bounded(ROW_TIMEOUT, update.exec(&self.db)).await.map(drop)
    }

    async fn doubt(&self, host: &Host, reason: &str) -> Result<bool, Failure> {
        self.set_pause_row(&row_of_doubt(host.key()), reason).await
    }

    async fn removed_since(&self, host: &Host, since: DateTime<Utc>) -> Result<u64, Failure> {
        let from = volume_removal::Column::Host;
        let from_here =
            host.name().map_or_else(Condition::all, |name| Condition::any().add(from.eq(name)).add(from.is_null()));
        let removals = volume_removal::Entity::find()
            .filter(from_here)
            .filter(Condition::all().add(is_removal()).add(volume_removal::Column::RemovedAt.gte(since)))
            .filter(volume_removal::Column::Outcome.eq(Gone::Removed.as_str()));
        self.bounded(ROW_TIMEOUT, removals.count(&self.db)).await
    }
}
