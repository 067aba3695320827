//! Threads that are known from events alone: the row is opened, closed and reopened by what they say.
//!
//! Events come twice, late, and in any order. So each is one statement that writes only what is later than what the row
//! knows, and whatever the order, the row ends as the latest of them says.

use chrono::{DateTime, SubsecRound, Utc};
use sea_orm::{
    ConnectionTrait, ExprTrait,
    sea_query::{Alias, CaseStatement, Condition, Expr, InsertStatement, OnConflict, Query},
};

use super::{ROW_TIMEOUT, Store};
use crate::{
    cleanup::{StatusChange, StatusChanges},
    failure::Failure,
    volume_name::ThreadId,
};

/// When a thread was closed, in a table that we created.
const CLOSED_AT: &str = "closed_at";
/// When a thread was last reopened, as far as an event said so. Only a table that we created has it.
const REOPENED_AT: &str = "reopened_at";
/// The status of a thread that is not closed, in a table that we created.
const OPEN: &str = "open";

impl StatusChanges for Store {
    async fn record_change(&self, thread: &ThreadId, change: &StatusChange) -> Result<(), Failure> {
        let insert = match change {
            StatusChange::Closed { at: Some(at) } => self.record_close(thread, at.trunc_subsecs(3)),
            StatusChange::Closed { at: None } => self.record_first_close(thread),
            StatusChange::Reopened { at } => self.record_reopening(thread, at.trunc_subsecs(3)),
        };
        self.bounded(ROW_TIMEOUT, self.db.execute(&insert)).await.map(drop)
    }
}

impl Store {
    /// Fails unless threads can be recorded: the platform's own table is not ours to write.
    pub async fn can_record(&self) -> Result<(), Failure> {
        // With its table: by itself, SQLite takes the quoted name of a column that is not there for a text.
        let look = Query::select().expr(self.current(REOPENED_AT)).from(self.table()).limit(1).to_owned();
        let looked = self.bounded(ROW_TIMEOUT, async { Ok(self.db.query_one(&look).await.map(drop)) }).await?;
        looked.map_err(|error| {
            Failure::permanent(format!(
                "database at {}: threads can be recorded only in a table that `volume-reaper migrate` created, with \
                 the column {REOPENED_AT}, and {:?} is another one: leave out VOLUME_REAPER_UNKNOWN_THREADS=record, \
                 or use another database ({error})",
                self.url, self.threads.table
            ))
        })
    }

    /// A close without a time is believed of a thread that is new. Later it could be an old one that came twice, and
    /// the thread in use again.
    fn record_first_close(&self, thread: &ThreadId) -> InsertStatement {
        let row =
            [thread.as_str().into(), self.threads.closed_value.as_str().into(), Utc::now().trunc_subsecs(3).into()];
        Query::insert()
            .into_table(self.table())
            .columns([self.id(), self.status(), Alias::new(CLOSED_AT)])
            .values_panic(row)
            .on_conflict(OnConflict::column(self.id()).do_nothing_on([self.id()]).to_owned())
            .to_owned()
    }

    fn record_close(&self, thread: &ThreadId, at: DateTime<Utc>) -> InsertStatement {
        let closed = self.threads.closed_value.as_str();
        let is_news = self.is_none_or(REOPENED_AT, |reopened_at| reopened_at.lt(at));
        let is_news = is_news.add(self.is_none_or(CLOSED_AT, |closed_at| closed_at.lt(at)));
        Query::insert()
            .into_table(self.table())
            .columns([self.id(), self.status(), Alias::new(CLOSED_AT)])
            .values_panic([thread.as_str().into(), closed.into(), at.into()])
            // MySQL assigns from left to right, and the condition reads the time: it is the last to change.
            .on_conflict(self.update_if(
                &is_news,
                [(&self.threads.status, closed.into()), (&self.threads.mark, Expr::null()), (CLOSED_AT, at.into())],
            ))
            .to_owned()
    }

    fn record_reopening(&self, thread: &ThreadId, at: DateTime<Utc>) -> InsertStatement {
        let is_news = self.is_none_or(REOPENED_AT, |reopened_at| reopened_at.lt(at));
        let is_news = is_news.add(self.is_none_or(CLOSED_AT, |closed_at| closed_at.lte(at)));
        Query::insert()
            .into_table(self.table())
            .columns([self.id(), self.status(), Alias::new(REOPENED_AT)])
            .values_panic([thread.as_str().into(), OPEN.into(), at.into()])
            // As above; without the close, the condition holds as it did.
            .on_conflict(self.update_if(
                &is_news,
                [
                    (&self.threads.status, OPEN.into()),
                    (&self.threads.mark, Expr::null()),
                    (CLOSED_AT, Expr::null()),
                    (REOPENED_AT, at.into()),
                ],
            ))
            .to_owned()
    }

    /// The column of the row that is there already.
    fn current(&self, column: &str) -> Expr {
        Expr::col((self.table(), Alias::new(column)))
    }

    // Only a table of ours is recorded in, so that its names and types are known.

    fn table(&self) -> Alias {
        Alias::new(&self.threads.table)
    }

    fn id(&self) -> Alias {
        Alias::new(&self.threads.id)
    }

    fn status(&self) -> Alias {
        Alias::new(&self.threads.status)
    }

    fn is_none_or(&self, column: &str, condition: impl Fn(Expr) -> Expr) -> Condition {
        Condition::all().add(self.current(column).is_null().or(condition(self.current(column))))
    }

    /// `CASE` in each column, since MySQL has no condition for the whole of it.
    fn update_if<const N: usize>(&self, condition: &Condition, values: [(&str, Expr); N]) -> OnConflict {
        let values = values.map(|(column, value)| {
            let kept_or_new = CaseStatement::new().case(condition.clone(), value).finally(self.current(column));
            (Alias::new(column), kept_or_new.into())
        });
        OnConflict::column(self.id()).values(values).to_owned()
    }
}
