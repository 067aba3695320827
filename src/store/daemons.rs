//! The pinned identities of Docker daemons, by the names of their hosts: whose "not there" counts.

use chrono::{SubsecRound, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use super::{
    ROW_TIMEOUT, Store,
    entities::daemon::{ActiveModel, Column, Entity},
};
use crate::{
    coordinator::ONLY_HOST,
    docker::Identity,
    failure::{Dependency, Failure},
};

impl Store {
    /// Pins `identity` as the daemon called `name` if none is pinned yet, unless this store only reads. Fails if
    /// another one is, or if it is pinned under another name.
    pub async fn pin_daemon(&self, name: &str, identity: &Identity) -> Result<(), Failure> {
        if self.is_bare() {
            return Ok(());
        }
        if self.only_reads {
            return self.pinned_daemon(name).await?.map_or(Ok(()), |pinned| is_pinned(name, &pinned, identity));
        }
        if self.pinned_daemon(name).await?.is_none() {
            self.take_over_name(name, identity).await?;
        }
        let pinned = self.bounded(ROW_TIMEOUT, self.pin_if_absent(name, identity)).await?;
        is_pinned(name, &pinned, identity)
    }

    /// The daemon pinned as `name`.
    pub async fn pinned_daemon(&self, name: &str) -> Result<Option<Identity>, Failure> {
        let find = Entity::find_by_id(name).one(&self.db);
        let row = self.bounded(ROW_TIMEOUT, find).await?;
        Ok(row.map(|row| Identity::from_text(row.identity)))
    }

    /// Gives the daemon that was the only one the name that it has among others. Two names for one daemon are a
    /// mistake: a thread would be looked for twice at one place, and at another not at all.
    async fn take_over_name(&self, name: &str, identity: &Identity) -> Result<(), Failure> {
        let other = Entity::find().filter(Column::Identity.eq(identity.as_str())).filter(Column::Name.ne(name));
        let other = self.bounded(ROW_TIMEOUT, other.one(&self.db)).await?;
        match other {
            None => Ok(()),
            Some(row) if row.name == ONLY_HOST => {
                let rename = Entity::update_many()
                    .col_expr(Column::Name, Expr::value(name))
                    .filter(Column::Name.eq(ONLY_HOST))
                    .filter(Column::Identity.eq(identity.as_str()));
                self.bounded(ROW_TIMEOUT, rename.exec(&self.db)).await.map(drop)
            }
            Some(row) => Err(Failure::unavailable(
                Dependency::Docker,
                format!(
                    "the daemon that answers as host {name:?} is pinned as host {:?} already ({}): two names for one \
                     daemon. Correct its address, call it by that name, or `volume-reaper hosts retire {}` first",
                    row.name,
                    identity.as_str(),
                    row.name
                ),
            )),
        }
    }

    async fn pin_if_absent(&self, name: &str, identity: &Identity) -> Result<Identity, DbErr> {
        let find = || Entity::find_by_id(name).one(&self.db);
        if find().await?.is_none() {
            // Another replica may do the same in this moment: whoever is first counts.
            Entity::insert(daemon_row(name, identity))
                .on_conflict_do_nothing_on([Column::Name])
                .exec_without_returning(&self.db)
                .await?;
        }
        let row = find().await?.ok_or_else(|| DbErr::RecordNotFound(format!("volume_reaper_daemons {name}")))?;
        Ok(Identity::from_text(row.identity))
    }

    /// Pins `identity` as the daemon called `name`, whatever was pinned before. Returns the one before.
    pub async fn adopt_daemon(&self, name: &str, identity: &Identity) -> Result<Option<Identity>, Failure> {
        self.take_over_name(name, identity).await?;
        self.bounded(ROW_TIMEOUT, async {
            let before = Entity::find_by_id(name).one(&self.db).await?;
            let replace =
                OnConflict::column(Column::Name).update_columns([Column::Identity, Column::PinnedAt]).to_owned();
            Entity::insert(daemon_row(name, identity)).on_conflict(replace).exec_without_returning(&self.db).await?;
            Ok(before.map(|row| Identity::from_text(row.identity)))
        })
        .await
    }

    /// Forgets the daemon called `name`: its word is no longer needed for anything.
    pub async fn unpin_daemon(&self, name: &str) -> Result<(), Failure> {
        let delete = Entity::delete_by_id(name).exec(&self.db);
        self.bounded(ROW_TIMEOUT, delete).await.map(drop)
    }

    /// The first pinned daemon that this process does not ask, if there is one.
    pub async fn stranger(&self) -> Result<Option<String>, Failure> {
        if self.is_bare() {
            return Ok(None);
        }
        let first = Entity::find().filter(self.is_stranger()).order_by_asc(Column::Name).one(&self.db);
        Ok(self.bounded(ROW_TIMEOUT, first).await?.map(|row| row.name))
    }

    /// The same as a part of the statement that reads a thread's row. Who has the only host is not ready if there are
    /// others, and need not ask each time.
    pub(super) fn first_stranger(&self) -> Expr {
        if self.is_bare() || self.hosts == [ONLY_HOST] {
            return Expr::null();
        }
        let first = Entity::find().select_only().column_as(Column::Name.min(), "stranger").filter(self.is_stranger());
        Expr::from(first.into_query())
    }

    fn is_stranger(&self) -> Expr {
        Column::Name.is_not_in(self.hosts.iter().map(String::as_str))
    }
}

/// Fails unless the daemon that answers is the pinned one.
fn is_pinned(name: &str, pinned: &Identity, answering: &Identity) -> Result<(), Failure> {
    if pinned == answering {
        return Ok(());
    }
    Err(Failure::unavailable(
        Dependency::Docker,
        format!(
            "unknown daemon: the database knows daemon {name:?} as {}, but {} answers. A volume that this one \
             lacks may still be on the other. If the daemon was replaced for good, run `volume-reaper hosts adopt`",
            pinned.as_str(),
            answering.as_str()
        ),
    ))
}

fn daemon_row(name: &str, identity: &Identity) -> ActiveModel {
    ActiveModel {
        name: Set(name.to_owned()),
        identity: Set(identity.as_str().to_owned()),
        pinned_at: Set(Utc::now().trunc_subsecs(3)),
    }
}
