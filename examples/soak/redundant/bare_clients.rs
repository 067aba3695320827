//! The cluster of brokers with nothing but a publisher and two consumers, which do with messages what the service does:
//! they acknowledge some, and hand on others by publishing a copy to a delay queue and then acknowledging. Again and
//! again something happens to the node that leads the queue. What is lost here is not lost by the service.
//!
//! `CHAOS_FAULTS` names what happens, one after the other: `cut_off` and `frozen` by default, `killed`, and `exchange`,
//! which is deleted and comes back without its binding. `CHAOS_SEED` decides on how long each lasts, `CHAOS_MINUTES`
//! (2) and `CHAOS_RATE` (100 messages a second) on the run.

use std::{
    collections::{BTreeSet, HashMap},
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{Nodes, base};
use crate::{
    LOOK_EVERY, SETTLE_DEADLINE, SOON, Try,
    account::{Notes, line},
    broker::{Broker, EXCHANGE},
    conclude, number,
    plan::Dice,
    servers::Proxy,
    some_seed, soon,
};

const CONSUMERS: usize = 2;
const PREFETCH: u16 = 64;
/// Of the exchange and of the queue in which handed on messages wait.
const LATER: &str = "later";
const WAITS_MS: i64 = 1000;
const WORK: &str = "work";
/// Every so many messages are handed on when they come first.
const HANDED_ON: usize = 3;
/// What becomes of a message takes so long.
const WORK_TAKES: Duration = Duration::from_millis(5);
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// For what consumers do in moments.
const EMPTY_DEADLINE: Duration = Duration::from_secs(25);
/// What is left in queues; `messages` are all, those included that are being dead-lettered.
const LIST: [&str; 6] =
    ["list_queues", "--no-table-headers", "name", "messages", "messages_ready", "messages_unacknowledged"];
/// Between the end of a fault and the next.
const CALM: Duration = Duration::from_secs(6);

struct Clients {
    url: String,
    events: Broker,
    copies: Broker,
    confirmed: Mutex<BTreeSet<String>>,
    /// How often each was acknowledged for good.
    done: Mutex<HashMap<String, usize>>,
    handed_on: AtomicUsize,
}

/// The whole run.
pub(crate) async fn part_brokers() -> Try {
    let seed = number("CHAOS_SEED", some_seed())?;
    let minutes = number("CHAOS_MINUTES", 2)?;
    let rate = number("CHAOS_RATE", 100)?;
    let faults = env::var("CHAOS_FAULTS").unwrap_or_else(|_| "cut_off,frozen".to_owned());
    let run = format!("CHAOS_SEED={seed} CHAOS_MINUTES={minutes} CHAOS_RATE={rate} CHAOS_FAULTS={faults}");
    println!("\n{run}");
    let (notes, base) = (Arc::new(Notes::new()), base()?);
    let cluster = Nodes::start(base.path()).await?;
    let door = Proxy::start("", Duration::ZERO).await?;
    door.swap(&cluster.addresses());
    let url = format!("amqp://guest:guest@{}/%2f", door.address);
    declare(&url).await?;
    cluster.write_down_queues().await?;
    println!("\nRabbitMQ {}, {rate} messages a second, {CONSUMERS} consumers", cluster.version().await?);
    let clients = Arc::new(Clients {
        events: Broker::new(url.clone(), EXCHANGE.to_owned()),
        copies: Broker::new(url.clone(), LATER.to_owned()),
        url,
        confirmed: Mutex::default(),
        done: Mutex::default(),
        handed_on: AtomicUsize::new(0),
    });
    let mut consumers: JoinSet<()> = (0..CONSUMERS).map(|_| Arc::clone(&clients).consume()).collect();
    let lasts = Duration::from_secs(minutes * 60);
    let messages = usize::try_from(minutes * 60 * rate)?;
    let publishing = tokio::spawn(Arc::clone(&clients).publish(messages, lasts));
    harm_in_turn(&cluster, &clients, &faults, Dice(seed), lasts, &notes).await?;
    timeout(SETTLE_DEADLINE, publishing).await??;
    notes.say(&format!("all {messages} messages are published and confirmed"));
    if timeout(EMPTY_DEADLINE, until_empty(&cluster)).await.is_err() {
        // A dead-letter worker that waits for an answer lost between two nodes begins anew with its queue's leader.
        let stuck = cluster.ask(&LIST).await?;
        notes.say(&format!("after {EMPTY_DEADLINE:?} there are still (name, all, ready, unacknowledged): {stuck:?}"));
        clients.account(&notes, "before the nodes are restarted");
        cluster.roll().await?;
        notes.say("the nodes are restarted");
        let emptied = timeout(SETTLE_DEADLINE, until_empty(&cluster)).await;
        notes.claim("the queues become empty", emptied.is_err().then(|| "queues".to_owned()).as_slice());
    }
    consumers.shutdown().await;
    let lost = clients.account(&notes, "in the end");
    notes.claim("every confirmed message is acknowledged by somebody", &lost);
    conclude(&notes, &run)
}

async fn harm_in_turn(
    cluster: &Nodes,
    clients: &Clients,
    faults: &str,
    mut dice: Dice,
    lasts: Duration,
    notes: &Notes,
) -> Try {
    let until = Instant::now() + lasts;
    let mut between = |shortest: u64, longest: u64| {
        Duration::from_secs(shortest) + dice.up_to(Duration::from_secs(longest - shortest))
    };
    for fault in faults.split(',').cycle() {
        sleep(CALM).await;
        if Instant::now() >= until {
            break;
        }
        let lasts = match fault {
            "cut_off" => between(10, 16),
            "frozen" => between(9, 14),
            "killed" | "exchange" => between(1, 4),
            other => return Err(format!("CHAOS_FAULTS: {other:?} is none of cut_off, frozen, killed, exchange").into()),
        };
        let leader = leader(cluster).await?;
        notes.say(&format!("{fault} for {lasts:?}; node {} leads", leader + 1));
        match fault {
            "cut_off" => cluster.cut_off(leader, lasts).await?,
            "frozen" => harm(cluster, leader, "pause", lasts).await?,
            "killed" => harm(cluster, leader, "kill", lasts).await?,
            _ => {
                clients.events.make_exchange_anew(lasts).await?;
                sleep(lasts).await;
                declare(&clients.url).await?;
            }
        }
    }
    Ok(())
}

/// The number of the node that leads the work queue.
async fn leader(cluster: &Nodes) -> Try<usize> {
    let leaders = cluster.ask(&["list_queues", "--no-table-headers", "name", "leader"]).await?;
    let leader = leaders.lines().find_map(|line| cluster.number(line.strip_prefix(WORK)?.trim()));
    leader.ok_or_else(|| format!("nobody leads {WORK}: {leaders}").into())
}

async fn harm(cluster: &Nodes, which: usize, action: &str, lasts: Duration) -> Try {
    cluster.control(which, action).await?;
    sleep(lasts).await;
    cluster.control(which, "start").await
}

async fn until_empty(cluster: &Nodes) {
    let mut looks_at_empty = 0;
    while looks_at_empty < 2 {
        let is_empty = cluster.ask(&LIST).await.is_ok_and(|listed| {
            let messages = listed.lines().map(|line| line.split_whitespace().nth(1));
            messages.clone().count() == 2 && messages.into_iter().all(|messages| messages == Some("0"))
        });
        looks_at_empty = if is_empty { looks_at_empty + 1 } else { 0 };
        sleep(LOOK_EVERY).await;
    }
}

async fn declare(url: &str) -> Try {
    let connection = soon("broker", Connection::connect(url, ConnectionProperties::default())).await?;
    let channel = soon("broker", connection.create_channel()).await?;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let quorum = ("x-queue-type", text("quorum"));
    let later = vec![
        quorum.clone(),
        ("x-message-ttl", AMQPValue::LongLongInt(WAITS_MS)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(WORK)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    for (exchange, queue, arguments) in [(EXCHANGE, WORK, vec![quorum]), (LATER, LATER, later)] {
        declare_bound(&channel, exchange, queue, arguments).await?;
    }
    Ok(())
}

async fn declare_bound(
    channel: &Channel,
    exchange: &str,
    queue: &str,
    arguments: Vec<(&'static str, AMQPValue)>,
) -> Try {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert(key.into(), value);
    }
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, table).await?;
    let bind = QueueBindOptions::default();
    Ok(channel.queue_bind(queue.into(), exchange.into(), "thread.closed".into(), bind, FieldTable::default()).await?)
}

impl Clients {
    /// Until each is confirmed.
    async fn publish(self: Arc<Self>, messages: usize, over: Duration) {
        let mut pace = tokio::time::interval(over / u32::try_from(messages).unwrap_or(u32::MAX));
        let mut publishing = JoinSet::new();
        for number in 0..messages {
            pace.tick().await;
            let clients = Arc::clone(&self);
            publishing.spawn(async move {
                let id = number.to_string();
                clients.events.publish(&id, b"").await;
                clients.confirmed.lock().insert(id);
            });
            while publishing.try_join_next().is_some() {}
        }
        publishing.join_all().await;
    }

    async fn consume(self: Arc<Self>) {
        loop {
            // Whatever ends it, there is a next one.
            let _ = self.receive().await;
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn receive(self: &Arc<Self>) -> Try {
        let connection = soon("broker", Connection::connect(&self.url, ConnectionProperties::default())).await?;
        let channel = soon("broker", connection.create_channel()).await?;
        soon("prefetch", channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let consume = channel.basic_consume(WORK.into(), "".into(), options, FieldTable::default());
        let mut deliveries = soon("subscribe", consume).await?;
        let mut work = JoinSet::new();
        while let Some(delivery) = deliveries.next().await {
            let (clients, delivery) = (Arc::clone(self), delivery?);
            work.spawn(async move { clients.handle(delivery).await });
            while work.try_join_next().is_some() {}
        }
        Ok(())
    }

    async fn handle(&self, delivery: Delivery) {
        sleep(WORK_TAKES).await;
        let id = delivery.properties.message_id().as_ref().map_or("", ShortString::as_str).to_owned();
        let has_waited = delivery.properties.headers().as_ref().is_some_and(|headers| headers.contains_key("x-death"));
        if is_handed_on(&id) && !has_waited {
            self.copies.publish(&id, b"").await;
            self.handed_on.fetch_add(1, Ordering::Relaxed);
        } else {
            *self.done.lock().entry(id).or_default() += 1;
        }
        // What is not acknowledged comes again.
        let _ = timeout(SOON, delivery.acker.ack(BasicAckOptions::default())).await;
    }

    /// Those that nobody has acknowledged for good.
    fn account(&self, notes: &Notes, when: &str) -> Vec<String> {
        notes.say(when);
        let (confirmed, done) = (self.confirmed.lock(), self.done.lock());
        let lost: Vec<_> = confirmed.iter().filter(|id| !done.contains_key(*id)).cloned().collect();
        println!();
        line("messages published and confirmed", confirmed.len());
        line("  published again", self.events.repeated.load(Ordering::Relaxed));
        line("  of these, returned by the broker", self.events.returned.load(Ordering::Relaxed));
        line("copies published and confirmed", self.handed_on.load(Ordering::Relaxed));
        line("  published again", self.copies.repeated.load(Ordering::Relaxed));
        line("duplicates acknowledged", done.values().sum::<usize>() - done.len());
        line("nowhere, of those acknowledged at once", lost.iter().filter(|id| !is_handed_on(id)).count());
        line("nowhere, of those handed on", lost.iter().filter(|id| is_handed_on(id)).count());
        println!();
        lost
    }
}

/// Whether a message waits in the delay queue before it is acknowledged for good.
fn is_handed_on(id: &str) -> bool {
    id.parse().is_ok_and(|number: usize| number.is_multiple_of(HANDED_ON))
}
