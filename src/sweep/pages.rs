//! The closed and unmarked rows, a page after the other.

use super::PAGE_ROWS;
use crate::{
    cleanup::{Candidate, Scope, Threads},
    failure::Failure,
};

/// Pages of candidates in the order of their ids.
pub struct Pages<'a, T> {
    threads: &'a T,
    scope: Scope,
    after: Option<String>,
}

/// The pages of a scope. Each begins after the last id of the one before: what is marked meanwhile skips no row.
pub fn pages<T: Threads>(threads: &T, scope: Scope) -> Pages<'_, T> {
    Pages { threads, scope, after: None }
}

impl<T: Threads> Pages<'_, T> {
    /// The next page; none when there are no more rows, those included that came while pages were read.
    pub async fn next(&mut self) -> Result<Option<Vec<Candidate>>, Failure> {
        let page = self.threads.candidates(&self.scope, self.after.as_deref(), PAGE_ROWS as u64).await?;
        self.after = page.last().map(|last| last.id.clone()).or(self.after.take());
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}
