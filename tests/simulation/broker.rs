//! The broker in memory: a work queue, delay queues, a dead-letter queue, and channels whose unacked deliveries come
//! back when they are lost. It counts the copies of every event: none may go without an outcome.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use volume_reaper::{
    delivery::settlement::Settlement,
    failure::{Dependency, Failure},
};

use crate::{
    mutants::Mutant,
    plan::Fault,
    world::{Process, State, World, take},
};

/// How long nobody looks, if nothing is published and nothing is delayed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// One copy of an event.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) event: usize,
    pub(crate) body: Vec<u8>,
    pub(crate) attempts: usize,
    pub(crate) is_redelivered: bool,
}

/// A channel of a process, and the number of the delivery on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag {
    process: Process,
    channel: u64,
    number: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Broker {
    pub(crate) work: VecDeque<Copy>,
    /// With the times at which they go back to work.
    pub(crate) delayed: Vec<(Instant, Copy)>,
    pub(crate) dead: Vec<(Copy, String)>,
    pub(crate) unacked: BTreeMap<Tag, Copy>,
    channels: BTreeMap<Process, (u64, u64)>,
    pub(crate) down_until: Option<Instant>,
    pub(crate) faults: Vec<Fault>,
    /// What became of events, as far as anything did.
    pub(crate) outcomes: BTreeMap<usize, &'static str>,
    pub(crate) published: usize,
}

/// Where a copy goes.
enum Onward {
    Work,
    Delay(Duration),
    Dead(String),
}

impl Broker {
    pub(crate) fn is_down(&self) -> bool {
        self.down_until.is_some_and(|until| until > Instant::now())
    }

    /// How many copies there are of an event.
    fn copies(&self, event: usize) -> usize {
        let copies = self.work.iter().chain(self.delayed.iter().map(|(_, copy)| copy));
        let copies = copies.chain(self.dead.iter().map(|(copy, _)| copy)).chain(self.unacked.values());
        copies.filter(|copy| copy.event == event).count()
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.work.is_empty() && self.delayed.is_empty() && self.unacked.is_empty()
    }

    /// All channels of a process are lost, and its unacked deliveries come again, first in line.
    pub(crate) fn lose(&mut self, process: Process) {
        let lost: Vec<_> = self.unacked.keys().filter(|tag| tag.process == process).copied().collect();
        for tag in lost.into_iter().rev() {
            let mut copy = self.unacked.remove(&tag).expect("it is there");
            copy.is_redelivered = true;
            self.work.push_front(copy);
        }
        let (channel, number) = self.channels.entry(process).or_default();
        (*channel, *number) = (*channel + 1, 0);
    }

    /// How long nothing comes by itself.
    fn next_due(&self) -> Duration {
        let delayed = self.delayed.iter().map(|(at, _)| *at);
        let next = delayed.chain(self.down_until.filter(|_| self.is_down())).min();
        let wait = next.map_or(LOOK_AGAIN, |at| at.saturating_duration_since(Instant::now()));
        wait.max(Duration::from_millis(1))
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.delayed).into_iter().partition(|(at, _)| *at <= now);
        self.delayed = later;
        self.work.extend(due.into_iter().map(|(_, copy)| copy));
    }
}

impl State {
    pub(crate) fn publish(&mut self, body: Vec<u8>) -> usize {
        let event = self.broker.published;
        self.broker.published += 1;
        self.broker.work.push_back(Copy { event, body, attempts: 0, is_redelivered: false });
        event
    }
}

/// A delivery that is to be settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: Tag,
    pub(crate) copy: Copy,
}

/// The way of a process to the broker.
#[derive(Clone)]
pub(crate) struct Channel {
    pub(crate) world: Arc<World>,
    pub(crate) process: Process,
}

impl Channel {
    /// The next delivery.
    pub(crate) async fn next(&self) -> Delivery {
        loop {
            self.world.runs(self.process).await;
            let published = self.world.published.notified();
            let next = {
                let mut state = self.world.state();
                let broker = &mut state.broker;
                broker.expire();
                if broker.is_down() { None } else { broker.work.pop_front() }
            };
            if let Some(copy) = next {
                return self.deliver(copy);
            }
            let due = self.world.state().broker.next_due();
            let _ = tokio::time::timeout(due, published).await;
        }
    }

    fn deliver(&self, copy: Copy) -> Delivery {
        let mut state = self.world.state();
        let (channel, number) = state.broker.channels.entry(self.process).or_default();
        *number += 1;
        let tag = Tag { process: self.process, channel: *channel, number: *number };
        state.broker.unacked.insert(tag, copy.clone());
        Delivery { tag, copy }
    }

    fn is_usable(&self, tag: Tag) -> bool {
        self.world.state().broker.channels.get(&self.process).is_some_and(|(channel, _)| *channel == tag.channel)
    }

    /// Executes a settlement, as the queue's adapter does.
    pub(crate) async fn settle(&self, delivery: Delivery, settlement: &Settlement) {
        let Delivery { tag, copy } = delivery;
        let mutant = self.world.state().mutant;
        let is = |of: Mutant| mutant == Some(of);
        let next = |attempts| Copy { attempts, ..copy.clone() };
        let (onward, copy, is_forgotten) = match settlement {
            Settlement::Ack | Settlement::Stale => {
                self.world.state().broker.outcomes.insert(copy.event, settlement.as_str());
                return self.ack(tag).await;
            }
            Settlement::Retry { delay, .. } => {
                (Onward::Delay(*delay), next(copy.attempts + 1), is(Mutant::RetryForgotten))
            }
            Settlement::Busy { delay } => (Onward::Delay(*delay), next(copy.attempts), false),
            Settlement::DeadLetter { reason, .. } => {
                let dead = Onward::Dead(reason.as_str().to_owned());
                (dead, next(copy.attempts + 1), is(Mutant::DeadLetterDropped))
            }
            Settlement::HandBack { .. } => (Onward::Work, next(copy.attempts), is(Mutant::HandBackAcked)),
        };
        if is_forgotten {
            return self.ack(tag).await;
        }
        if is(Mutant::AckBeforeRetry) {
            self.ack(tag).await;
        }
        while self.publish(&onward, &copy).await.is_err() {
            if !self.is_usable(tag) {
                return;
            }
            sleep(Duration::from_millis(250)).await;
        }
        self.ack(tag).await;
    }

    async fn publish(&self, onward: &Onward, copy: &Copy) -> Result<(), Failure> {
        let refused = || Failure::unavailable(Dependency::Broker, "connection refused");
        self.world.runs(self.process).await;
        self.world.on_its_way().await;
        {
            let mut state = self.world.state();
            if !state.is_alive(self.process) || state.broker.is_down() || take(&mut state.broker.faults, Fault::Before)
            {
                return Err(refused());
            }
            match onward {
                Onward::Work => state.broker.work.push_back(copy.clone()),
                Onward::Delay(delay) => state.broker.delayed.push((Instant::now() + *delay, copy.clone())),
                Onward::Dead(reason) => state.broker.dead.push((copy.clone(), reason.clone())),
            }
        }
        self.world.published.notify_waiters();
        self.world.on_its_way().await;
        self.world.runs(self.process).await;
        if take(&mut self.world.state().broker.faults, Fault::After) { Err(refused()) } else { Ok(()) }
    }

    /// Acknowledges on the channel that the delivery came from, or not at all.
    pub(crate) async fn ack(&self, tag: Tag) {
        self.world.runs(self.process).await;
        let mut tag = tag;
        if self.world.is_mutant(Mutant::AckOnOtherChannel) {
            let state = self.world.state();
            tag.channel = state.broker.channels.get(&self.process).map_or(tag.channel, |(channel, _)| *channel);
        }
        if !self.is_usable(tag) {
            return;
        }
        self.world.on_its_way().await;
        let mut state = self.world.state();
        if state.broker.is_down() || !state.is_alive(self.process) {
            return;
        }
        let Some(copy) = state.broker.unacked.remove(&tag) else { return };
        if state.broker.copies(copy.event) == 0 && !state.broker.outcomes.contains_key(&copy.event) {
            state.violated(format!("no loss: event {} is acknowledged without an outcome", copy.event));
        }
    }
}
