//! The pinned identities of Docker daemons, by the names of their hosts: whose "not there" counts.

use chrono::{SubsecRound, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, OnConflict},
};

use super::{
    ROW_TIMEOUT, Store,
    entities::{
        daemon::{ActiveModel, Column, Entity},
        pause,
    },
    seen_volumes::row_of_doubt,
};
use crate::{
    cleanup::{Identity, Likeness, OTHER_ROOT},
    failure::{Dependency, Failure},
    host::Host,
};

impl Store {
    /// Pins `identity` as the daemon called `name` if none is pinned yet, unless this store only reads. Fails if
    /// another one is, or if it is pinned under another name.
    pub async fn pin_daemon(&self, name: &str, identity: &Identity) -> Result<(), Failure> {
        if self.is_bare() {
            return Ok(());
        }
        if self.db.only_reads() {
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
        let texts = || std::iter::once(identity.as_str()).chain(identity.id_alone());
        let other = Entity::find().filter(Column::Identity.is_in(texts())).filter(Column::Name.ne(name));
        let other = self.bounded(ROW_TIMEOUT, other.one(&self.db)).await?;
        match other {
            None => Ok(()),
            Some(row) if Host::from_key(&row.name).is_only() => {
                let rename = Entity::update_many()
                    .col_expr(Column::Name, Expr::value(name))
                    .filter(Column::Name.eq(Host::Only.key()))
                    .filter(Column::Identity.is_in(texts()));
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
        let missing = || DbErr::RecordNotFound(format!("volume_reaper_daemons {name}"));
        let pinned = Identity::from_text(find().await?.ok_or_else(missing)?.identity);
        if pinned.likeness(identity) != Likeness::SameId {
            return Ok(pinned);
        }
        // From before the data root was looked at: the daemon with the id adds it.
        Entity::update_many()
            .col_expr(Column::Identity, Expr::value(identity.as_str()))
            .filter(Column::Name.eq(name))
            .filter(Column::Identity.eq(pinned.as_str()))
            .exec(&self.db)
            .await?;
        Ok(Identity::from_text(find().await?.ok_or_else(missing)?.identity))
    }

    /// Pins `identity` as the daemon called `name`, whatever was pinned before. Returns the one before.
    pub async fn adopt_daemon(&self, name: &str, identity: &Identity) -> Result<Option<Identity>, Failure> {
        self.take_over_name(name, identity).await?;
        self.bounded(ROW_TIMEOUT, async {
            let before = Entity::find_by_id(name).one(&self.db).await?;
            let replace = OnConflict::column(Column::Name)
                .update_columns([Column::Identity, Column::PinnedAt, Column::Volumes, Column::SeenAt])
                .to_owned();
            Entity::insert(daemon_row(name, identity)).on_conflict(replace).exec_without_returning(&self.db).await?;
            Ok(before.map(|row| Identity::from_text(row.identity)))
        })
        .await
    }

    /// Forgets the daemon called `name`: its answers are no longer needed for anything.
    pub async fn unpin_daemon(&self, name: &str) -> Result<(), Failure> {
        self.bounded(ROW_TIMEOUT, async {
            Entity::delete_by_id(name).exec(&self.db).await?;
            // Nobody has the right to delete pauses.
            pause::Entity::update_many()
                .col_expr(pause::Column::PausedAt, Expr::null())
                .filter(pause::Column::Name.eq(row_of_doubt(name)))
                .exec(&self.db)
                .await
        })
        .await
        .map(drop)
    }

    /// The first pinned daemon that this process does not ask, if there is one.
    pub(super) async fn first_unserved_host(&self) -> Result<Option<String>, Failure> {
        if self.is_bare() {
            return Ok(None);
        }
        let first = Entity::find().filter(self.is_unserved()).order_by_asc(Column::Name).one(&self.db);
        Ok(self.bounded(ROW_TIMEOUT, first).await?.map(|row| row.name))
    }

    /// That daemon as a part of the statement that reads rows. Who has the only host is not ready if there are
    /// others, and need not ask each time.
    pub(super) fn unserved_host_column(&self) -> Expr {
        if self.is_bare() || self.hosts == [Host::Only] {
            return Expr::null();
        }
        let first =
            Entity::find().select_only().column_as(Column::Name.min(), "unserved_host").filter(self.is_unserved());
        Expr::from(first.into_query())
    }

    fn is_unserved(&self) -> Expr {
        Column::Name.is_not_in(self.hosts.iter().map(Host::key))
    }
}

/// Fails unless the daemon that answers is the pinned one.
fn is_pinned(name: &str, pinned: &Identity, answering: &Identity) -> Result<(), Failure> {
    let why = match pinned.likeness(answering) {
        Likeness::Same | Likeness::SameId => return Ok(()),
        Likeness::OtherRoot => format!("{OTHER_ROOT}. If its volumes were moved there for good"),
        Likeness::Other => {
            "a volume that this one lacks may still be on the other. If the daemon was replaced for good".to_owned()
        }
    };
    Err(Failure::unavailable(
        Dependency::Docker,
        format!(
            "unknown daemon: the database knows daemon {name:?} as {}, but {} answers: {why}, run \
             `volume-reaper hosts adopt`",
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
        volumes: Set(None),
        seen_at: Set(None),
    }
}
