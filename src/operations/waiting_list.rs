//! The closed threads that are not marked, page by page, each with why it waits as far as the database knows.
//!
//! Whether a container uses a volume is asked of Docker for one thread at a time: see [`super::explain`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    cleanup::{Failures, Scope, failing::Failing, retention::Due},
    config::Config,
    failure::Failure,
    store::{Notes, Store, WaitingRow},
    volume_name::ThreadId,
};

/// Rows that are looked through for one page: a filter that nothing meets must not read the whole table.
const MOST_ROWS: u64 = 10_000;
/// Rows that are read at once.
const CHUNK: u64 = 1000;

/// Why a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// A person holds it.
    Held,
    /// Its retention is not over.
    NotDue,
    /// Cleaning up failed.
    Failing,
    /// The next sweep, or the end of a container that uses its volume.
    Sweep,
}

/// A closed and unmarked thread.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WaitingThread {
    /// Its id as it is in the row; it need not be a valid one.
    pub thread_id: String,
    /// Why it waits.
    pub waits_for: WaitsFor,
    /// When it was closed, if the platform said so.
    pub closed_at: Option<DateTime<Utc>>,
    /// When its volume may go, if that is not yet.
    pub due_at: Option<DateTime<Utc>>,
    /// The Docker host that its row names.
    pub host: Option<String>,
    /// Its failed clean-ups.
    pub failure: Option<Failing>,
}

/// A page of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WaitingPage {
    /// In the order of their ids.
    pub threads: Vec<WaitingThread>,
    /// Where the next page begins, if there may be one. A page can be short, or empty, and have a next one: what a
    /// filter leaves out is looked through a piece at a time.
    pub next: Option<String>,
}

/// Which of them are meant: those for which all that is set is true.
#[derive(Clone, Debug, Default)]
pub struct WaitingFilter {
    /// Waiting for this.
    pub waits_for: Option<WaitsFor>,
    /// On this host, by their rows.
    pub host: Option<String>,
    /// Closed before.
    pub closed_before: Option<DateTime<Utc>>,
    /// With an id that begins so.
    pub prefix: Option<String>,
}

/// The next page after a thread's id; at most `limit` threads.
pub async fn page(
    store: &Store,
    config: &Config,
    filter: &WaitingFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<WaitingPage, Failure> {
    let scope = filter.host.clone().map_or(Scope::All, Scope::Host);
    let (mut threads, mut after, mut looked_at) = (Vec::new(), after.map(str::to_owned), 0);
    if filter.waits_for == Some(WaitsFor::NotDue) && config.policy.retention.0.is_zero() {
        return Ok(WaitingPage { threads, next: None });
    }
    loop {
        // One more than fits, which says whether there is a next page.
        let wanted = if filter.is_open() { (limit - threads.len()) as u64 + 1 } else { CHUNK };
        let piece = filter.read(store, &scope, after.as_deref(), wanted).await?;
        looked_at += piece.looked_at;
        let asked = piece.rows.iter().filter(|row| filter.may_mean(row));
        let ids: Vec<_> = asked.filter_map(|row| ThreadId::parse(&row.thread_id).ok()).collect();
        let mut failures = store.failed(&ids).await?;
        let now = Utc::now();
        for row in piece.rows {
            if threads.len() == limit {
                return Ok(WaitingPage { threads, next: after });
            }
            after = Some(row.thread_id.clone());
            if filter.may_mean(&row) {
                let failure = ThreadId::parse(&row.thread_id).ok().and_then(|id| failures.remove(&id));
                let failure = failure.map(|failed| Failing::new(failed, config.reconcile_cooldown, now));
                let thread = WaitingThread::new(row, failure, config, now);
                threads.extend(Some(thread).filter(|thread| filter.matches(thread)));
            }
        }
        if piece.looked_at < wanted {
            return Ok(WaitingPage { threads, next: None });
        }
        after = piece.last;
        if looked_at >= MOST_ROWS {
            return Ok(WaitingPage { threads, next: after });
        }
    }
}

/// Rows that were read at once.
struct Piece {
    rows: Vec<WaitingRow>,
    /// How many threads were looked at for them.
    looked_at: u64,
    /// The last of these.
    last: Option<String>,
}

impl WaitingThread {
    fn new(row: WaitingRow, failure: Option<Failing>, config: &Config, now: DateTime<Utc>) -> Self {
        let due = config.policy.retention.due(row.closed_at, now);
        let waits_for = match due {
            _ if row.held => WaitsFor::Held,
            Due::At(_) | Due::Never => WaitsFor::NotDue,
            Due::Now if failure.is_some() => WaitsFor::Failing,
            Due::Now => WaitsFor::Sweep,
        };
        let due_at = match due {
            Due::At(at) => Some(at),
            Due::Now | Due::Never => None,
        };
        let WaitingRow { thread_id, closed_at, host, held: _ } = row;
        Self { thread_id, waits_for, closed_at, due_at, host, failure }
    }
}

impl WaitingFilter {
    /// Whether it leaves nothing out that the database gives.
    fn is_open(&self) -> bool {
        self.waits_for.is_none() && self.closed_before.is_none() && self.prefix.is_none()
    }

    /// What is written down of the threads that are meant, where that is the short way to them.
    fn notes(&self) -> Option<Notes> {
        match self.waits_for? {
            WaitsFor::Held => Some(Notes::Holds),
            WaitsFor::Failing => Some(Notes::Failures),
            WaitsFor::NotDue | WaitsFor::Sweep => None,
        }
    }

    /// The next rows after a thread's id, from among so many threads.
    async fn read(&self, store: &Store, scope: &Scope, after: Option<&str>, wanted: u64) -> Result<Piece, Failure> {
        let Some(notes) = self.notes() else {
            let rows = store.waiting(scope, after, wanted).await?;
            let last = rows.last().map(|row| row.thread_id.clone());
            return Ok(Piece { looked_at: rows.len() as u64, last, rows });
        };
        let ids = store.noted_threads(notes, after, wanted).await?;
        let rows = store.waiting_of(scope, &ids).await?;
        Ok(Piece { rows, looked_at: ids.len() as u64, last: ids.into_iter().next_back() })
    }

    /// Whether a row may be meant, by what it says itself.
    fn may_mean(&self, row: &WaitingRow) -> bool {
        self.closed_before.is_none_or(|before| row.closed_at.is_some_and(|at| at < before))
            && self.prefix.as_ref().is_none_or(|prefix| row.thread_id.starts_with(prefix))
    }

    fn matches(&self, thread: &WaitingThread) -> bool {
        self.waits_for.is_none_or(|wanted| wanted == thread.waits_for)
    }
}
