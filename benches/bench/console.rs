//! The console of a service that has much to show: how long each page takes beside those of an empty service, and what
//! fifty open pages cost the events.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::setup::{Result, Setup, create, docker, get, rate, send, spread, stop, until, variable};

const WAITING: u32 = 1_000_000;
const RECEIPTS: u32 = 1_000_000;
const LETTERS: usize = 100_000;
const VIEWERS: usize = 50;
/// Answers of each page that are timed.
const ANSWERS: usize = 30;
/// What is asked for.
const PAGES: [&str; 14] = [
    "/",
    "/threads",
    "/threads?waits_for=held",
    "/threads?waits_for=failing",
    "/threads/w500000",
    "/dead-letters",
    "/removals",
    "/removals?host=nowhere",
    "/sweeps",
    "/hosts",
    "/orphans",
    "/holds",
    "/activity",
    "/health",
];
/// Rounds of events, with and without viewers in turn.
const ROUNDS: usize = 5;
/// How soon a browser asks again after its stream has ended.
const AGAIN: Duration = Duration::from_millis(500);
const QUEUE: &str = "bench.dead-letter";
/// Events of a round: they take as long as several looks at what stands on a page.
const EVENTS: usize = 5_000;
/// What most pages may take as many times longer, and the share of events that must be left.
const MOST_TIMES: f64 = 2.0;
const LEAST_EVENTS: f64 = 0.95;

pub(crate) async fn run() -> Result<()> {
    println!(
        "\nConsole: {WAITING} waiting threads, {RECEIPTS} receipts, {LETTERS} dead letters; the milliseconds of a page"
    );
    let setup = Setup::postgres().await?;
    let mut serve = setup.serve().await?;
    let address = setup.address()?;
    let empty = pages(&address).await?;
    fill(&setup).await?;
    let full = pages(&address).await?;
    for (page, (empty, full)) in PAGES.into_iter().zip(empty.into_iter().zip(full)) {
        let ratio = full.median / empty.median;
        println!(
            "  {page:<26} empty {:7.1}   full {:7.1}   ratio {ratio:5.2}{}   the slowest {:7.1} and {:7.1}",
            empty.median,
            full.median,
            too(ratio > MOST_TIMES),
            empty.slowest,
            full.slowest,
        );
    }
    events(&setup, &serve, &address).await?;
    stop(&mut serve)
}

/// What is to be shown. The receipts are counted, as they are after a while.
async fn fill(setup: &Setup) -> Result<()> {
    let threads = "INSERT INTO threads (id, status, closed_at) SELECT 'w' || n, 'closed', now() - interval '1 day'";
    setup.execute(&format!("{threads} FROM generate_series(1, {WAITING}) n")).await?;
    setup
        .execute(&format!(
            "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at) \
             SELECT 'gone' || n, 'v', 'removed', 'event', 'r', now() - n * interval '5 seconds' \
             FROM generate_series(1, {RECEIPTS}) n"
        ))
        .await?;
    setup
        .execute(
            "INSERT INTO volume_reaper_rollups (name, receipt_id, rolled_at) SELECT 'stats', max(id), now() FROM \
             volume_removals ON CONFLICT (name) DO UPDATE SET receipt_id = excluded.receipt_id",
        )
        .await?;
    // As after a while: otherwise the server would do it by itself, beside what is measured.
    setup.execute("VACUUM (ANALYZE)").await?;
    park().await
}

/// Marks a figure that misses what it is to be.
fn too(misses: bool) -> &'static str {
    if misses { " (!)" } else { "    " }
}

struct Times {
    median: f64,
    slowest: f64,
}

/// How long each page takes, one after the other, while as many are open as may be.
async fn pages(address: &str) -> Result<Vec<Times>> {
    let _open = Viewers::open(address, VIEWERS);
    // What is found out once for all of them is found out, the long walk through the dead letters included.
    until("the dead letters were looked through", async || {
        let text = get(address, "/dead-letters")?;
        Ok(text.starts_with("HTTP/1.1 200") && !text.contains("data-again"))
    })
    .await?;
    let mut all = Vec::new();
    for page in PAGES {
        let mut times = Vec::new();
        get(address, page)?;
        for _ in 0..ANSWERS {
            let began = Instant::now();
            let text = get(address, page)?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
            if !text.starts_with("HTTP/1.1 200") {
                return Err(format!("{page}: {text}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        times.sort_by(f64::total_cmp);
        all.push(Times { median: times[times.len() / 2], slowest: times[times.len() - 1] });
    }
    Ok(all)
}

/// Pages that are open: each hears of news until they are dropped.
struct Viewers {
    is_over: Arc<AtomicBool>,
    watching: Vec<JoinHandle<()>>,
}

impl Viewers {
    fn open(address: &str, count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = |_| {
            let (address, is_over) = (address.to_owned(), Arc::clone(&is_over));
            std::thread::spawn(move || watch(&address, &is_over))
        };
        Self { watching: (0..count).map(watch).collect(), is_over }
    }
}

impl Drop for Viewers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for watching in self.watching.drain(..) {
            // One that failed has heard of no more.
            let _ = watching.join();
        }
    }
}

/// Listens as a browser does: again, when the stream has ended.
fn watch(address: &str, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let request = format!("GET /live?range=day HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let _ = stream.set_read_timeout(Some(AGAIN));
            let mut piece = [0; 4096];
            let mut has_ended = stream.write_all(request.as_bytes()).is_err();
            while !has_ended && !is_over.load(Ordering::Relaxed) {
                has_ended = match stream.read(&mut piece) {
                    Ok(read) => read == 0,
                    Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
                };
            }
        }
        std::thread::sleep(AGAIN);
    }
}

/// Events a second without viewers and with fifty of them, in turn, now the one and now the other first.
async fn events(setup: &Setup, serve: &Child, address: &str) -> Result<()> {
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let watched_first = round % 2 == 1;
        let (mut alone, mut watched) = (0.0, 0.0);
        for is_watched in [watched_first, !watched_first] {
            let open = is_watched.then(|| Viewers::open(address, VIEWERS));
            let rate = cleaned(setup, serve, &format!("{round}-{is_watched}")).await?;
            drop(open);
            if is_watched { watched = rate } else { alone = rate }
        }
        println!("  events a second            alone {alone:7.0}   with {VIEWERS} open pages {watched:7.0}");
        ratios.push(watched / alone);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("  ratio                      {}{}", spread(ratios), too(median < LEAST_EVENTS));
    Ok(())
}

/// Cleans up after so many threads, whose events wait when it begins; events a second.
async fn cleaned(setup: &Setup, serve: &Child, round: &str) -> Result<f64> {
    let ids: Vec<_> = (0..EVENTS).map(|number| format!("{round}-{number}")).collect();
    create(&docker()?, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;
    let before = setup.text("SELECT CAST(max(id) AS text) FROM volume_removals").await?;
    send(serve, "STOP")?;
    setup.execute(&format!("UPDATE threads SET status = 'closed' WHERE id LIKE '{round}-%'")).await?;
    setup.publish(&ids)?;
    let began = Instant::now();
    send(serve, "CONT")?;
    let count = format!("SELECT CAST(count(*) AS text) FROM volume_removals WHERE id > {before}");
    until("every thread is marked", async || Ok(setup.text(&count).await? == EVENTS.to_string())).await?;
    Ok(rate(EVENTS, began.elapsed()))
}

/// Puts events into the dead-letter queue, as they are after their last retry.
async fn park() -> Result<()> {
    let broker = Connection::connect(&variable("AMQP_URL")?, ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    for number in 0..LETTERS {
        let body = format!("{{\"thread_id\": \"w{number}\"}}");
        let error = format!("docker: volume ha_ws_w{number} can't be removed: its driver does not answer");
        let mut headers = FieldTable::default();
        for (name, value) in [("volume-reaper-reason", "exhausted"), ("volume-reaper-error", error.as_str())] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        channel.basic_publish("".into(), QUEUE.into(), options, body.as_bytes(), properties).await?;
    }
    until("all are parked", async || {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare(QUEUE.into(), options, FieldTable::default()).await?;
        Ok(queue.message_count() as usize == LETTERS)
    })
    .await?;
    broker.close(200, "done".into()).await?;
    Ok(())
}
