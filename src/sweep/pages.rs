//! The closed and unmarked rows, a page after the other.

use super::PAGE_ROWS;
use crate::{
    cleanup::{Candidate, Scope, Threads},
    failure::Failure,
};

/// Pages of candidates in the order of their ids.
pub(super) struct Pages<'a, T> {
    threads: &'a T,
    scope: Scope,
    after: Option<String>,
    is_over: bool,
}

/// The pages of a scope. Each begins after the last id of the one before: what is marked meanwhile skips no row.
pub(super) fn pages<T: Threads>(threads: &T, scope: Scope) -> Pages<'_, T> {
    Pages { threads, scope, after: None, is_over: false }
}

impl<T: Threads> Pages<'_, T> {
    /// The next page; none after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Candidate>>, Failure> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.threads.candidates(&self.scope, self.after.as_deref(), PAGE_ROWS as u64).await?;
        self.is_over = page.len() < PAGE_ROWS;
        self.after = page.last().map(|last| last.id.clone()).or(self.after.take());
        Ok(Some(page))
    }

    /// Whether there is no further page.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
