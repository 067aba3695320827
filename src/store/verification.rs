//! Whether the receipts are as they were written: what their chains say.
//!
//! All receipts are read once, by their ids, and each is compared with the one before it in its chain. Receipts that
//! are written meanwhile become visible out of the order of their ids, so what looks wrong is looked at again, chain by
//! chain, and only what is wrong still is said.

use std::collections::{BTreeMap, HashMap};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde::Serialize;

use super::{
    PAGE_TIMEOUT, Store,
    chains::hash_of,
    entities::volume_removal::{Column, Entity, Model},
    history_entities::chain,
};
use crate::failure::Failure;

/// Receipts that are read at once.
const PAGE: u64 = 2000;
/// What is found in a chain is said so often; the rest of it is counted.
const MOST_IN_A_CHAIN: usize = 20;

/// What is wrong with receipts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "wrong", rename_all = "snake_case")]
pub enum Flaw {
    /// It was changed after it was written, or its hash was.
    Edited {
        /// The receipt.
        id: i64,
        /// Its thread.
        thread_id: String,
    },
    /// Receipts are not there any more, and no retention took them.
    Missing {
        /// Their chain.
        chain_id: String,
        /// The first of them, by its place in the chain.
        from: i64,
        /// The last of them.
        to: i64,
    },
    /// It was not written by a replica.
    Inserted {
        /// The receipt.
        id: i64,
        /// Its thread.
        thread_id: String,
    },
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Edited { id, thread_id } => write!(f, "receipt {id} (thread {thread_id}) was changed"),
            Self::Missing { chain_id, from, to } if from == to => {
                write!(f, "receipt {from} of chain {chain_id} is missing")
            }
            Self::Missing { chain_id, from, to } => {
                write!(f, "receipts {from} to {to} of chain {chain_id} are missing")
            }
            Self::Inserted { id, thread_id } => write!(f, "receipt {id} (thread {thread_id}) was put in by hand"),
        }
    }
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Whether nothing is wrong.
    pub whole: bool,
    /// How many receipts were looked at.
    pub receipts: u64,
    /// How many chains.
    pub chains: u64,
    /// What is wrong.
    pub flaws: Vec<Flaw>,
    /// The hash of each chain's latest receipt, by the chain: what is noted elsewhere can be compared.
    pub heads: BTreeMap<String, String>,
}

/// A chain that is gone along.
#[derive(Clone, Debug)]
struct Walk {
    chain_id: String,
    next: i64,
    /// The hash of the one before; none if that one is missing.
    head: Option<String>,
    /// How far the chain is known to go, and the hash there.
    length: i64,
    noted_head: String,
    is_closed: bool,
    flaws: Vec<Flaw>,
}

impl Walk {
    fn of(row: chain::Model) -> Self {
        Self {
            chain_id: row.id,
            next: row.kept_from,
            head: Some(row.kept_after),
            length: row.length,
            noted_head: row.head,
            is_closed: row.closed_at.is_some(),
            flaws: Vec::new(),
        }
    }

    fn step(&mut self, row: &Model) {
        let flaw = |inserted: bool| {
            let (id, thread_id) = (row.id, row.thread_id.clone());
            if inserted { Flaw::Inserted { id, thread_id } } else { Flaw::Edited { id, thread_id } }
        };
        let sequence = row.chain_sequence.unwrap_or_default();
        // A place that is taken, or behind the end.
        if sequence < self.next || (self.is_closed && sequence > self.length) {
            return self.flaws.push(flaw(true));
        }
        if sequence > self.next {
            self.miss(sequence - 1);
        }
        let is_noted_otherwise = sequence == self.length && row.chain_hash.as_ref() != Some(&self.noted_head);
        let is_right = self.head.as_ref().is_none_or(|head| row.chain_hash.as_ref() == Some(&hash_of(head, row)));
        if !is_right || is_noted_otherwise {
            self.flaws.push(flaw(false));
        }
        // From here on by what it says, so that one that was changed is one flaw.
        self.head.clone_from(&row.chain_hash);
        self.next = sequence + 1;
    }

    fn miss(&mut self, to: i64) {
        self.flaws.push(Flaw::Missing { chain_id: self.chain_id.clone(), from: self.next, to });
        self.head = None;
    }

    fn end(&mut self) {
        if self.next <= self.length {
            self.miss(self.length);
        }
    }
}

impl Store {
    /// Reads all receipts and says whether they are as they were written. `progress` hears how many were read.
    pub async fn verify_receipts(&self, progress: impl Fn(u64)) -> Result<Verification, Failure> {
        let mut walks = self.walks(None).await?;
        let mut found = Verification::default();
        let mut strays: HashMap<String, Vec<Model>> = HashMap::new();
        let mut after = 0;
        loop {
            let page = Entity::find().filter(Column::Id.gt(after)).order_by_asc(Column::Id).limit(PAGE);
            let page = self.bounded(PAGE_TIMEOUT, page.all(&self.db)).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            found.receipts += page.len() as u64;
            for row in page {
                match row.chain_id.as_ref().map(|id| (id.clone(), walks.get_mut(id))) {
                    None => found.flaws.push(Flaw::Inserted { id: row.id, thread_id: row.thread_id }),
                    Some((_, Some(walk))) => walk.step(&row),
                    Some((id, None)) => strays.entry(id).or_default().push(row),
                }
            }
            progress(found.receipts);
        }
        walks.values_mut().for_each(Walk::end);
        let doubted = walks.values().filter(|walk| !walk.flaws.is_empty()).map(|walk| walk.chain_id.clone());
        for id in doubted.collect::<Vec<String>>() {
            if let Some(walk) = self.walk_again(&id).await? {
                walks.insert(id, walk);
            }
        }
        // Chains that began meanwhile, or that nobody began.
        for (id, rows) in strays {
            match self.walk_again(&id).await? {
                Some(walk) => drop(walks.insert(id, walk)),
                None => found
                    .flaws
                    .extend(rows.into_iter().map(|row| Flaw::Inserted { id: row.id, thread_id: row.thread_id })),
            }
        }
        found.chains = walks.len() as u64;
        for walk in walks.into_values() {
            found.flaws.extend(walk.flaws.into_iter().take(MOST_IN_A_CHAIN));
            found.heads.extend(walk.head.filter(|head| !head.is_empty()).map(|head| (walk.chain_id, head)));
        }
        found.flaws.sort();
        found.whole = found.flaws.is_empty();
        Ok(found)
    }

    async fn walks(&self, only: Option<&str>) -> Result<HashMap<String, Walk>, Failure> {
        let mut select = chain::Entity::find();
        if let Some(only) = only {
            select = select.filter(chain::Column::Id.eq(only));
        }
        let rows = self.bounded(PAGE_TIMEOUT, select.all(&self.db)).await?;
        Ok(rows.into_iter().map(|row| (row.id.clone(), Walk::of(row))).collect())
    }

    /// Goes along one chain in the order of its places; `None` if there is no such chain.
    async fn walk_again(&self, id: &str) -> Result<Option<Walk>, Failure> {
        let Some(mut walk) = self.walks(Some(id)).await?.remove(id) else { return Ok(None) };
        let mut after = (i64::MIN, i64::MIN);
        loop {
            let behind = sea_orm::Condition::any()
                .add(Column::ChainSequence.gt(after.0))
                .add(sea_orm::Condition::all().add(Column::ChainSequence.eq(after.0)).add(Column::Id.gt(after.1)));
            let page = Entity::find()
                .filter(Column::ChainId.eq(id))
                .filter(behind)
                .order_by_asc(Column::ChainSequence)
                .order_by_asc(Column::Id)
                .limit(PAGE);
            let page = self.bounded(PAGE_TIMEOUT, page.all(&self.db)).await?;
            let Some(last) = page.last() else { break };
            after = (last.chain_sequence.unwrap_or_default(), last.id);
            for row in &page {
                walk.step(row);
            }
        }
        walk.end();
        Ok(Some(walk))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::chains::tests::receipt, *};

    fn row(id: i64, sequence: i64, before: &str) -> Model {
        let (chain_id, chain_sequence) = (Some("c".to_owned()), Some(sequence));
        let mut row = Model { id, chain_id, chain_sequence, ..receipt(&format!("t{id}")) };
        row.chain_hash = Some(hash_of(before, &row));
        row
    }

    /// Five receipts of one chain.
    fn rows() -> Vec<Model> {
        let mut rows = Vec::<Model>::new();
        for number in 1..=5 {
            let before = rows.last().and_then(|row| row.chain_hash.clone()).unwrap_or_default();
            rows.push(row(number, number, &before));
        }
        rows
    }

    fn flaws(rows: &[Model], length: i64) -> Vec<String> {
        let head = super::tests::rows()[4].chain_hash.clone().expect("a hash");
        let mut walk = Walk {
            chain_id: "c".to_owned(),
            next: 1,
            head: Some(String::new()),
            length,
            noted_head: head,
            is_closed: length == 5,
            flaws: Vec::new(),
        };
        for row in rows {
            walk.step(row);
        }
        walk.end();
        walk.flaws.iter().map(Flaw::to_string).collect()
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        assert_eq!(flaws(&rows(), 5), [""; 0]);
        assert_eq!(flaws(&rows(), 0), [""; 0], "and so is one of which more is there than was noted");
    }

    #[test]
    fn what_was_changed_taken_away_or_put_in_is_named_once() {
        let mut edited = rows();
        edited[1].outcome = "not_found".to_owned();
        assert_eq!(flaws(&edited, 5), ["receipt 2 (thread t2) was changed"]);
        let mut with_its_hash = edited.clone();
        let before = with_its_hash[0].chain_hash.clone().expect("a hash");
        with_its_hash[1].chain_hash = Some(hash_of(&before, &with_its_hash[1]));
        assert_eq!(flaws(&with_its_hash, 5), ["receipt 3 (thread t3) was changed"], "or the one before it");
        let mut shorter = rows();
        shorter.drain(1..3);
        assert_eq!(flaws(&shorter, 5), ["receipts 2 to 3 of chain c are missing"]);
        let mut without_its_end = rows();
        without_its_end.pop();
        assert_eq!(flaws(&without_its_end, 5), ["receipt 5 of chain c is missing"]);
        let mut longer = rows();
        let last = longer[4].chain_hash.clone().expect("a hash");
        longer.push(row(6, 6, &last));
        assert_eq!(flaws(&longer, 5), ["receipt 6 (thread t6) was put in by hand"], "the chain was closed");
        let mut doubled = rows();
        doubled.insert(3, row(9, 2, "x"));
        assert_eq!(flaws(&doubled, 5), ["receipt 9 (thread t9) was put in by hand"]);
    }

    #[test]
    fn a_chain_that_was_written_anew_from_somewhere_on_shows_at_what_was_noted() {
        let mut anew = rows();
        anew[2].thread_id = "another".to_owned();
        for index in 2..5 {
            let before = anew[index - 1].chain_hash.clone().expect("a hash");
            anew[index].chain_hash = Some(hash_of(&before, &anew[index]));
        }
        assert_eq!(flaws(&anew, 5), ["receipt 5 (thread t5) was changed"]);
    }
}
