//! Receiving: connect, subscribe, hand each delivery to the consumer, settle it, and do it all again when the
//! connection, the channel or the subscription is lost.
//!
//! Deliveries are taken only while database and Docker are up. When one goes down, the subscription is cancelled and
//! what is unacked is given back: first cancelled, then given back, or the broker would deliver it to us again at once.
//! A delivery is acknowledged on the channel that it came from, or not at all.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use lapin::{
    Consumer as Deliveries, Event,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Publisher, Queues,
    connection::{Link, REQUEST_TIMEOUT, bounded},
    handling::handle,
    isolate::{Held, isolate},
    lost::{Lost, connection_lost},
    received::REPEATS,
    settle::{give_back, returned},
    topology,
};
use crate::{
    cleanup::{Database, Volumes},
    delivery::consumer::Consumer,
    failure::{Dependency, Failure, Verdict},
    health::Health,
    reconnect::Delays,
};

/// What has to be up before deliveries are taken.
const NEEDED: [Dependency; 2] = [Dependency::Database, Dependency::Docker];
/// A connection that lasted so long is taken to be stable: the next loss begins with short waits again.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// For the broker to name the subscription. To a quorum queue, one with the name of an earlier one of the same channel
/// is that one: what of it is unacknowledged is delivered once more, and its numbers may be given to other messages.
const UNNAMED: &str = "";

/// A subscription to the work queue.
pub struct Subscription<V, T> {
    /// Where to receive from.
    pub queues: Queues,
    /// Moves deliveries to the delay queues and the dead-letter queue.
    pub publisher: Arc<Publisher>,
    /// Handles each message.
    pub consumer: Arc<Consumer<V, T>>,
    /// Which dependencies are up.
    pub health: Arc<Health>,
    /// How many deliveries the broker hands over ahead of their settlement, per Docker host.
    pub prefetch: u16,
}

/// Why deliveries are no longer taken, while the connection is fine.
#[rustfmt::skip]
enum Pause { Stopped, DependencyDown }

impl<V: Volumes, T: Database> Subscription<V, T> {
    /// Receives until `stop` is cancelled, then finishes what is in flight, or drops it when `abort` is cancelled.
    ///
    /// Fails only if the very first connection is refused for a reason that waiting will not fix, such as a wrong
    /// password or queues with other arguments than ours.
    pub async fn run(&self, stop: &CancellationToken, abort: &CancellationToken) -> Result<(), Failure> {
        let (mut work, mut holding) = (JoinSet::new(), JoinSet::new());
        let (mut delays, mut was_connected) = (Delays::new(), false);
        loop {
            let began = Instant::now();
            let lost = match self.connect(stop).await {
                Ok(None) => break,
                Ok(Some(link)) => {
                    was_connected = true;
                    let ended = tokio::select! {
                        ended = self.receive(&link, &mut work, stop) => ended,
                        never = topology::keep_bound(&self.queues) => match never {},
                        never = REPEATS.keep_summarising() => match never {},
                    };
                    if ended.is_ok() {
                        self.finish(&mut work, abort).await;
                    }
                    link.close().await;
                    match ended {
                        Ok(()) => break,
                        Err(lost) => lost,
                    }
                }
                Err(refused) if refused.verdict == Verdict::Permanent && !was_connected => return Err(refused),
                Err(refused) => refused.into(),
            };
            if lost.is_unreadable {
                let found = isolate(&self.queues, &self.publisher, stop).await;
                if found.is_something() {
                    self.hold(found.held, &mut holding, stop);
                    delays.reset();
                    continue;
                }
            }
            self.health.down(Dependency::Broker, &lost.failure.message);
            if began.elapsed() >= STABLE_AFTER {
                delays.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(delays.next_delay()) => {}
                () = stop.cancelled() => break,
            }
        }
        // Deliveries of a lost connection: the broker has them back, but a removal should not be cut in the middle.
        self.finish(&mut work, abort).await;
        REPEATS.summarise();
        self.publisher.close().await;
        Ok(())
    }

    async fn connect(&self, stop: &CancellationToken) -> Result<Option<Link>, Failure> {
        let connect = async {
            let link = Link::open(&self.queues, "volume-reaper consumer").await?;
            let qos = link.channel.basic_qos(self.consumer.fleet.prefetch(self.prefetch), BasicQosOptions::default());
            bounded(&self.queues.url, REQUEST_TIMEOUT, "prefetch", qos).await?;
            Ok(Some(link))
        };
        tokio::select! {
            link = connect => link,
            () = stop.cancelled() => Ok(None),
        }
    }

    /// Receives on one connection; an error means that it is lost.
    async fn receive(
        &self,
        link: &Link,
        work: &mut JoinSet<Option<Delivery>>,
        stop: &CancellationToken,
    ) -> Result<(), Lost> {
        let mut events = Box::pin(link.connection.events_listener());
        let prefetch = usize::from(self.consumer.fleet.prefetch(self.prefetch));
        // Otherwise the subscription decides: a broker can accept connections and serve no queue.
        if self.health.first_down(&NEEDED).is_some() {
            self.health.up(Dependency::Broker);
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                lost = connection_lost(&self.queues.url, &mut events) => return Err(lost),
                () = self.give_back_finished(work) => {}
                // To each subscription the broker hands over as many, whatever is left of the one before.
                () = self.health.until_up(&NEEDED), if work.len() <= prefetch => {
                    let mut deliveries = self.subscribe(link).await?;
                    let taking = self.take(&mut deliveries, &mut events, work, stop).await;
                    let (pause, unacked) = taking?;
                    tokio::select! {
                        // Otherwise it would wait for the answers of a broker that it has lost.
                        lost = connection_lost(&self.queues.url, &mut events) => return Err(lost),
                        unsubscribed = self.unsubscribe(link, deliveries, unacked) => unsubscribed?,
                    }
                    if matches!(pause, Pause::Stopped) {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn subscribe(&self, link: &Link) -> Result<Deliveries, Failure> {
        let consume = link.channel.basic_consume(
            self.queues.work().into(),
            UNNAMED.into(),
            // Acknowledged by us, when the mark is committed.
            BasicConsumeOptions { no_ack: false, ..BasicConsumeOptions::default() },
            FieldTable::default(),
        );
        let deliveries = bounded(&self.queues.url, REQUEST_TIMEOUT, "subscribe", consume).await?;
        self.health.up(Dependency::Broker);
        info!(queue = self.queues.work(), "receiving");
        Ok(deliveries)
    }

    /// Takes deliveries until there is a reason not to. Returns it with the deliveries that are to be given back.
    async fn take(
        &self,
        deliveries: &mut Deliveries,
        events: &mut (impl Stream<Item = Event> + Unpin),
        work: &mut JoinSet<Option<Delivery>>,
        stop: &CancellationToken,
    ) -> Result<(Pause, Vec<Delivery>), Lost> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok((Pause::Stopped, Vec::new())),
                () = self.health.until_down(&NEEDED) => return Ok((Pause::DependencyDown, Vec::new())),
                lost = connection_lost(&self.queues.url, events) => return Err(lost),
                Some(finished) = work.join_next() => if let Some(delivery) = returned(finished) {
                    if self.health.first_down(&NEEDED).is_some() {
                        return Ok((Pause::DependencyDown, vec![delivery]));
                    }
                    // What it missed is up again by now: it may come again at once.
                    self.have_given_back(delivery, work);
                },
                // The broker hands over no more than the prefetch before some are settled, which bounds what is in
                // work.
                delivery = deliveries.next() => match delivery {
                    Some(Ok(delivery)) => {
                        self.begin(delivery, work, stop);
                    }
                    Some(Err(error)) => return Err(Lost::of(&self.queues.url, "receive", &error)),
                    // The stream must not be asked again after its end: it would never answer.
                    None => return Err(Failure::unavailable(Dependency::Broker, format!(
                        "broker at {}: it cancelled the subscription to {:?}", self.queues.url, self.queues.work()
                    )).into()),
                },
            }
        }
    }

    /// Cancels the subscription, then gives back what is unacked and not begun.
    async fn unsubscribe(
        &self,
        link: &Link,
        mut deliveries: Deliveries,
        mut unacked: Vec<Delivery>,
    ) -> Result<(), Failure> {
        let cancel = link.channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default());
        bounded(&self.queues.url, REQUEST_TIMEOUT, "cancel the subscription", cancel).await?;
        // What the broker had sent before it heard of the cancellation still comes, and then the end.
        while let Ok(Some(Ok(delivery))) = timeout(REQUEST_TIMEOUT, deliveries.next()).await {
            unacked.push(delivery);
        }
        if !unacked.is_empty() {
            debug!(deliveries = unacked.len(), "giving back what was not begun");
        }
        give_back(&unacked, &self.queues, &self.publisher).await;
        Ok(())
    }

    /// Handles a delivery as work of its own.
    fn begin(&self, delivery: Delivery, work: &mut JoinSet<Option<Delivery>>, stop: &CancellationToken) {
        let (consumer, publisher) = (Arc::clone(&self.consumer), Arc::clone(&self.publisher));
        let (queues, stop) = (self.queues.clone(), stop.clone());
        work.spawn(async move { handle(delivery, &consumer, &queues, &publisher, &stop).await });
    }

    /// Waits for work to finish and has what comes of it given back; never returns while there is none.
    async fn give_back_finished(&self, work: &mut JoinSet<Option<Delivery>>) {
        match work.join_next().await {
            Some(finished) => {
                if let Some(delivery) = returned(finished) {
                    self.have_given_back(delivery, work);
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Gives a delivery back as work of its own: whoever waits here may wait for something else in the next moment, and
    /// a delivery that is dropped half way stays unacknowledged as long as the channel lasts.
    fn have_given_back(&self, delivery: Delivery, work: &mut JoinSet<Option<Delivery>>) {
        let (queues, publisher) = (self.queues.clone(), Arc::clone(&self.publisher));
        work.spawn(async move {
            give_back(&[delivery], &queues, &publisher).await;
            None
        });
    }

    /// Holds unreadable messages until they can be parked.
    fn hold(&self, held: Option<Held>, holding: &mut JoinSet<()>, stop: &CancellationToken) {
        // What has ended meanwhile.
        while holding.try_join_next().is_some() {}
        if let Some(held) = held {
            let (queues, publisher, stop) = (self.queues.clone(), Arc::clone(&self.publisher), stop.clone());
            holding.spawn(async move { held.park(&queues, &publisher, &stop).await });
        }
    }

    /// Finishes what is in flight, or drops it when `abort` is cancelled.
    async fn finish(&self, work: &mut JoinSet<Option<Delivery>>, abort: &CancellationToken) {
        while !work.is_empty() {
            tokio::select! {
                () = self.give_back_finished(work) => {}
                () = abort.cancelled() => {
                    warn!(deliveries = work.len(), "left unfinished; the broker delivers them again");
                    work.shutdown().await;
                }
            }
        }
    }
}
