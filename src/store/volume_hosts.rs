//! The Docker hosts of volumes that have rows of their own: as such a row says, or else its thread's.

use std::collections::BTreeMap;

use migrations::{Mapping, VolumesTable};
use sea_orm::{
    ConnectionTrait, DbErr, ExprTrait, QueryResult,
    sea_query::{Alias, Condition, Expr, Func, Query, SelectStatement},
};

use super::{Store, rows::host, threads::id, volume_rows::select_volumes};
use crate::cleanup::{Scope, VolumeRow};

/// Selects, beside volumes and their threads, what both say of a volume's host.
pub(super) fn select_hosts(threads: &Mapping, volumes: &VolumesTable, select: &mut SelectStatement) {
    let text = |column: Option<Expr>| column.map_or_else(Expr::null, |column| threads.as_text(column));
    let of_thread = threads.names.host.as_ref().map(|host| threads.qualified(host));
    let of_volume = volumes.host.as_ref().map(|host| volumes.column(host));
    select.expr_as(text(of_thread), "thread_host_text").expr_as(text(of_volume), "volume_host_text");
}

/// The host of a volume whose row was selected so.
pub(super) fn host_of(row: &QueryResult) -> Result<Option<String>, DbErr> {
    Ok(host(row, "volume_host_text")?.or(host(row, "thread_host_text")?))
}

/// Whether a volume is one of a scope.
pub(super) fn is_of_scope(volume: &VolumeRow, scope: &Scope) -> bool {
    match scope {
        Scope::All => true,
        Scope::Host(host) => volume.host.as_ref() == Some(host),
        Scope::Unplaced => volume.host.is_none(),
    }
}

/// The condition that a thread has an unmarked volume in a scope, by what its own row says; none if the row of the
/// thread alone says whether it is in that scope.
pub(super) fn has_volume_in_scope(
    threads: &Mapping,
    scope: &Scope,
    is_threads: Option<Condition>,
) -> Option<Condition> {
    let own = threads.names.volumes.as_ref()?.host.as_ref()?;
    let has_volume = |holds: Condition| threads.has_unmarked_volume_that(holds);
    // Inside, the column is the volume's, whatever the threads have by that name.
    let column = Expr::col(Alias::new(own));
    let says_nothing = || Condition::any().add(column.clone().is_null()).add(column.clone().eq(""));
    let as_thread = is_threads.map(|is_threads| is_threads.add_option(has_volume(says_nothing())));
    match scope {
        // Wherever its volumes are.
        Scope::All => None,
        Scope::Unplaced => as_thread,
        Scope::Host(host) => {
            let own = has_volume(Condition::all().add(threads.is_text(own, host)));
            Some(Condition::any().add_option(own).add_option(as_thread))
        }
    }
}

impl Store {
    /// Counts the closed threads with unmarked volumes by these volumes' hosts.
    pub(super) async fn count_by_host_of_volumes(
        &self,
        threads: &Mapping,
        volumes: &VolumesTable,
    ) -> Result<BTreeMap<Option<String>, u64>, DbErr> {
        let closed =
            Query::select().column(id(threads)).from(threads.table()).and_where(threads.is_closed()).to_owned();
        let mut unmarked = select_volumes(threads, volumes);
        unmarked
            .clear_selects()
            .expr_as(threads.qualified_id(), "thread_id")
            .expr_as(host_text(threads, volumes), "host_text")
            .and_where(volumes.column(&volumes.thread).in_subquery(closed))
            .cond_where(threads.is_unmarked_volume(volumes));
        // A thread counts once on each host that has some of its volumes.
        let count = Query::select()
            .column("host_text")
            .expr_as(Expr::col("thread_id").count_distinct(), "threads")
            .from_subquery(unmarked, Alias::new("unmarked"))
            .add_group_by([Expr::col("host_text")])
            .to_owned();
        let mut by_host = BTreeMap::new();
        for row in self.db.query_all(&count).await? {
            *by_host.entry(host(&row, "host_text")?).or_default() += row.try_get::<i64>("", "threads")?.unsigned_abs();
        }
        Ok(by_host)
    }
}

/// The host of a volume as its row says, or else its thread's; null if neither does.
fn host_text(threads: &Mapping, volumes: &VolumesTable) -> Expr {
    let of_volume = volumes.host.as_ref().map(|host| volumes.column(host));
    let of_thread = threads.names.host.as_ref().map(|host| threads.qualified(host));
    let said = [of_volume, of_thread].into_iter().flatten();
    // An empty text is none.
    let said = said.map(|column| Expr::from(Func::cust("nullif").args([threads.as_text(column), Expr::val("")])));
    // One value alone is too few to SQLite.
    Func::coalesce(said.chain([Expr::null()])).into()
}
