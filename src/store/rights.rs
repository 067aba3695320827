//! What is tried out to know whether this user may do all that `serve` does with rows.

use sea_orm::{
    ExprTrait,
    sea_query::{Alias, Expr, Query},
};

use super::Store;

impl Store {
    /// Statements that touch no row, each for a right that only a person's commands need, by whichever way they come.
    pub(super) fn tries_of_commands(&self) -> Vec<String> {
        let no_row = self.engine.dialect().no_row();
        let now = "CURRENT_TIMESTAMP";
        vec![
            format!("INSERT INTO volume_reaper_holds (thread_id, reason, held_at) SELECT '', '', {now} {no_row}"),
            "UPDATE volume_reaper_holds SET reason = reason WHERE 1 = 0".to_owned(),
            "DELETE FROM volume_reaper_holds WHERE 1 = 0".to_owned(),
            "SELECT 1 FROM volume_reaper_actions WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_reaper_actions (id, done_at, actor, via, action, replica) \
                 SELECT '', {now}, '', '', '', '' {no_row}"
            ),
            "DELETE FROM volume_reaper_daemons WHERE 1 = 0".to_owned(),
        ]
    }

    /// With a table of volumes, the threads are locked and never written.
    fn lock_of_no_row(&self) -> Option<String> {
        self.threads.volumes.as_ref()?;
        let id = Expr::col(Alias::new(&self.threads.id));
        let mut lock =
            Query::select().expr(id.clone()).from(self.threads.table_ref()).and_where(id.is_null()).to_owned();
        lock.and_where(Expr::cust("1 = 0"));
        self.engine.dialect().lock_free_rows(&mut lock);
        Some(self.backend().build(&lock).to_string())
    }

    /// Statements that touch no row, each for a right that is needed.
    pub(super) fn tries(&self) -> Vec<String> {
        let dialect = self.engine.dialect();
        let no_row = dialect.no_row();
        let marked = self.threads.marked();
        let (table, [id, mark]) =
            (marked.table_sql(dialect), [&marked.id, &marked.mark].map(|name| dialect.quoted(name)));
        let now = "CURRENT_TIMESTAMP";
        let tries = vec![
            format!("UPDATE {table} SET {mark} = {mark} WHERE {id} IS NULL AND 1 = 0"),
            "SELECT 1 FROM volume_removals WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at) \
                 SELECT '', '', '', '', '', {now} {no_row}"
            ),
            format!("INSERT INTO volume_reaper_daemons (name, identity, pinned_at) SELECT '', '', {now} {no_row}"),
            "UPDATE volume_reaper_daemons SET name = name WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_reaper_leases (name, holder, epoch, expires_at) SELECT '', '', 0, {now} {no_row}"
            ),
            "UPDATE volume_reaper_leases SET epoch = epoch WHERE 1 = 0".to_owned(),
            "SELECT 1 FROM volume_reaper_holds WHERE 1 = 0".to_owned(),
            "UPDATE volume_reaper_pauses SET reason = reason WHERE 1 = 0".to_owned(),
            format!("INSERT INTO volume_reaper_pauses (name) SELECT '' {no_row}"),
            format!(
                "INSERT INTO volume_reaper_failures (thread_id, attempts, first_failed_at, failed_at, error, replica) \
                 SELECT '', 0, {now}, {now}, '', '' {no_row}"
            ),
            "UPDATE volume_reaper_failures SET attempts = attempts WHERE 1 = 0".to_owned(),
            "DELETE FROM volume_reaper_failures WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_reaper_chains \
                 (id, replica, began_at, kept_from, kept_after, length, head, noted_at) \
                 SELECT '', '', {now}, 1, '', 0, '', {now} {no_row}"
            ),
            "UPDATE volume_reaper_chains SET length = length WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_reaper_sweeps (id, cause, replica, began_at) SELECT '', '', '', {now} {no_row}"
            ),
            "UPDATE volume_reaper_sweeps SET cause = cause WHERE 1 = 0".to_owned(),
            "DELETE FROM volume_reaper_sweeps WHERE 1 = 0".to_owned(),
            "UPDATE volume_reaper_stats SET bytes = bytes WHERE 1 = 0".to_owned(),
            format!(
                "INSERT INTO volume_reaper_stats \
                 (resolution, bucket, host, source, outcome, receipts, bytes, unsized_receipts) \
                 SELECT '', {now}, '', '', '', 0, 0, 0 {no_row}"
            ),
            "DELETE FROM volume_reaper_stats WHERE 1 = 0".to_owned(),
            format!("INSERT INTO volume_reaper_rollups (name, receipt_id, rolled_at) SELECT '', 0, {now} {no_row}"),
            "UPDATE volume_reaper_rollups SET name = name WHERE 1 = 0".to_owned(),
        ];
        self.lock_of_no_row().into_iter().chain(tries).collect()
    }
}
