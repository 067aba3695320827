//! The chains of the receipts: each receipt has a hash over itself and over the hash of the one before, so that one
//! that is changed, taken away or put in later shows.
//!
//! There is no chain of all receipts: every commit would wait for the one before. A transaction takes a chain of its
//! replica's that is free, or begins one, and gives it back when its commit was confirmed. So a replica has as many
//! chains as it ever had transactions at once, and within a chain receipts are written in their order. After a commit
//! whose end is unknown the chain is left as it is: whether its latest receipts are there or not, it is whole.
//!
//! That a chain begins is written with its first receipts. How far it goes is noted from time to time, not with every
//! receipt; what was taken from its end before it was noted does not show.

use std::fmt::Write;

use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::Mutex;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, QueryFilter,
    sea_query::Expr,
};
use sha2::{Digest, Sha256};

use super::{
    ROW_TIMEOUT, Store,
    entities::volume_removal,
    history_entities::chain::{ActiveModel, Column, Entity},
};
use crate::failure::Failure;

/// Chains of failed transactions whose known length was not noted yet. More are not noted at all: nothing is wrong with
/// them, only what is taken from their end does not show.
const MOST_LEFT: usize = 1000;

/// A chain, as far as this replica knows that it goes.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) id: String,
    /// Its receipts, and the hash of the latest.
    length: i64,
    head: String,
    noted: i64,
}

impl Chain {
    fn begin() -> Self {
        Self { id: uuid::Uuid::now_v7().to_string(), length: 0, head: String::new(), noted: 0 }
    }
}

/// The chains of this replica.
#[derive(Default)]
pub(super) struct Chains {
    free: Mutex<Vec<Chain>>,
    /// Chains that got no further.
    left: Mutex<Vec<Chain>>,
}

impl Chains {
    fn take(&self) -> Chain {
        self.free.lock().pop().unwrap_or_else(Chain::begin)
    }

    fn leave(&self, chain: Chain) {
        let mut left = self.left.lock();
        if chain.length > chain.noted && left.len() < MOST_LEFT {
            left.push(chain);
        }
    }

    /// Links receipts to a chain that is free. They count as written when that is confirmed.
    pub(super) fn link(&self, receipts: &mut [volume_removal::Model]) -> Linked<'_> {
        let before = self.take();
        let mut chain = before.clone();
        for receipt in receipts {
            chain.length += 1;
            receipt.chain_id = Some(chain.id.clone());
            receipt.chain_sequence = Some(chain.length);
            chain.head = hash_of(&chain.head, receipt);
            receipt.chain_hash = Some(chain.head.clone());
        }
        Linked { chains: self, before: Some(before), chain }
    }
}

/// Receipts that are linked to a chain, and of whose commit nothing is known yet.
pub(super) struct Linked<'a> {
    chains: &'a Chains,
    before: Option<Chain>,
    chain: Chain,
}

impl Linked<'_> {
    /// They are committed: the chain may be continued.
    pub(super) fn committed(mut self) {
        self.before = None;
        self.chains.free.lock().push(self.chain.clone());
    }

    /// None of them was sent to the database: the chain may be continued from where it was.
    pub(super) fn withdrawn(mut self) {
        self.before.take().into_iter().for_each(|before| self.chains.free.lock().push(before));
    }

    /// The row of a chain that begins with these.
    pub(super) fn row_if_new(&self, replica: &str, at: DateTime<Utc>) -> Option<ActiveModel> {
        let is_new = self.before.as_ref().is_some_and(|before| before.length == 0);
        is_new.then(|| ActiveModel {
            id: Set(self.chain.id.clone()),
            replica: Set(replica.to_owned()),
            began_at: Set(at),
            kept_from: Set(1),
            kept_after: Set(String::new()),
            length: Set(0),
            head: Set(String::new()),
            noted_at: Set(at),
            closed_at: NotSet,
        })
    }
}

impl Drop for Linked<'_> {
    /// The commit failed, or nobody knows.
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            self.chains.leave(before);
        }
    }
}

impl Store {
    /// Notes how far this replica's chains go; with `closing`, that nothing is added to those that are free.
    pub async fn note_chains(&self, closing: bool) -> Result<(), Failure> {
        let free: Vec<_> = if closing { std::mem::take(&mut *self.chains.free.lock()) } else { self.free_chains() };
        let left = std::mem::take(&mut *self.chains.left.lock());
        for (chain, closes) in
            left.into_iter().map(|chain| (chain, false)).chain(free.into_iter().map(|it| (it, closing)))
        {
            if chain.length > chain.noted || closes {
                self.bounded(ROW_TIMEOUT, note(&self.db, &chain, closes)).await?;
                let mut free = self.chains.free.lock();
                if let Some(noted) = free.iter_mut().find(|free| free.id == chain.id) {
                    noted.noted = chain.length;
                }
            }
        }
        Ok(())
    }

    fn free_chains(&self) -> Vec<Chain> {
        self.chains.free.lock().clone()
    }
}

async fn note(db: &impl ConnectionTrait, chain: &Chain, closes: bool) -> Result<(), DbErr> {
    let now = Utc::now().trunc_subsecs(3);
    let mut update = Entity::update_many()
        .col_expr(Column::Length, Expr::value(chain.length))
        .col_expr(Column::Head, Expr::value(chain.head.as_str()))
        .col_expr(Column::NotedAt, Expr::value(now));
    if closes {
        update = update.col_expr(Column::ClosedAt, Expr::value(now));
    }
    // What was noted of a longer one stays.
    let update = update.filter(Column::Id.eq(chain.id.as_str())).filter(Column::Length.lte(chain.length));
    update.exec(db).await.map(drop)
}

/// The hash that a receipt has after the one before, of these fields in this order.
pub(super) fn hash_of(before: &str, row: &volume_removal::Model) -> String {
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let (sequence, bytes, duration) = (number(row.chain_sequence), number(row.bytes), number(row.duration_ms));
    let removed_at = row.removed_at.timestamp_millis().to_string();
    let fields = [
        row.chain_id.as_deref(),
        sequence.as_deref(),
        Some(&row.thread_id),
        Some(&row.volume_name),
        Some(&row.outcome),
        Some(&row.source),
        row.event_id.as_deref(),
        Some(&row.replica),
        Some(&removed_at),
        row.host.as_deref(),
        row.daemon.as_deref(),
        bytes.as_deref(),
        duration.as_deref(),
        row.actor.as_deref(),
        row.container_id.as_deref(),
        row.container_name.as_deref(),
    ];
    hash(before, &fields)
}

/// Each field with its length, so that no two lists of fields are the same text; none is not the empty text.
fn hash(before: &str, fields: &[Option<&str>]) -> String {
    // One text: a sweep may write a million of them.
    let mut text = String::with_capacity(before.len() + fields.iter().flatten().map(|it| it.len() + 4).sum::<usize>());
    text.push_str(before);
    for field in fields {
        match field {
            None => text.push('-'),
            Some(field) => {
                let _ = write!(text, "{}:{field}", field.len());
            }
        }
    }
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A receipt that is in no chain yet.
    pub(in crate::store) fn receipt(thread: &str) -> volume_removal::Model {
        volume_removal::Model {
            id: 0,
            thread_id: thread.to_owned(),
            volume_name: format!("ha_ws_{thread}"),
            outcome: "removed".to_owned(),
            source: "event".to_owned(),
            event_id: None,
            replica: "r1".to_owned(),
            removed_at: DateTime::UNIX_EPOCH,
            host: None,
            daemon: None,
            bytes: None,
            duration_ms: None,
            actor: None,
            container_id: None,
            container_name: None,
            chain_id: None,
            chain_sequence: None,
            chain_hash: None,
        }
    }

    #[test]
    fn a_chain_is_continued_after_a_commit_and_left_after_anything_else() {
        let chains = Chains::default();
        let chain_of = |receipts: &[volume_removal::Model]| receipts[0].chain_id.clone();
        let mut first = [receipt("a"), receipt("b")];
        chains.link(&mut first).committed();
        let mut second = [receipt("c")];
        drop(chains.link(&mut second));
        assert_eq!(chain_of(&first), chain_of(&second));
        assert_eq!(second[0].chain_sequence, Some(3));
        let mut third = [receipt("c")];
        chains.link(&mut third).committed();
        assert_ne!(chain_of(&second), chain_of(&third), "nobody knows whether the second is there");
        assert_eq!(third[0].chain_sequence, Some(1));
        let left: Vec<_> = chains.left.lock().iter().map(|chain| chain.length).collect();
        assert_eq!(left, [2], "as far as it is known to go");
        let mut fourth = [receipt("d")];
        chains.link(&mut fourth).withdrawn();
        chains.link(&mut second).committed();
        assert_eq!((chain_of(&third), Some(2)), (chain_of(&second), second[0].chain_sequence), "it was never sent");
    }

    #[test]
    fn transactions_at_once_have_chains_of_their_own() {
        let chains = Chains::default();
        let (mut one, mut other) = ([receipt("a")], [receipt("b")]);
        let linked = (chains.link(&mut one), chains.link(&mut other));
        assert_ne!(one[0].chain_id, other[0].chain_id);
        linked.0.committed();
        linked.1.committed();
        assert_eq!(chains.free.lock().len(), 2);
    }

    #[test]
    fn no_two_lists_of_fields_have_the_same_hash() {
        let text = Some::<&'static str>;
        let lists = [
            vec![text("ab"), text("c")],
            vec![text("a"), text("bc")],
            vec![text("a"), text(""), text("bc")],
            vec![text("a"), None, text("bc")],
            vec![text("a1:b"), text("c")],
        ];
        let hashes: std::collections::HashSet<_> = lists.iter().map(|list| hash("", list)).collect();
        assert_eq!(hashes.len(), lists.len());
        assert_ne!(hash("", &lists[0]), hash("x", &lists[0]), "the one before counts");
    }
}
