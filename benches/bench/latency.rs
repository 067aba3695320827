//! From a thread's close to its mark, at some shares of what the machine can do: events come one by one, evenly, as a
//! platform sends them. What is told is the difference of the times in the rows, which this machine's clock gave both.

use std::time::{Duration, Instant};

use lapin::{BasicProperties, Connection, ConnectionProperties, options::BasicPublishOptions};

use crate::setup::{Result, Setup, create, docker, rate, stop, until, variable};

const EVENTS: usize = 1500;
/// Of the rate at which events get through when all are sent at once.
const SHARES: [(&str, f64); 3] = [("a tenth", 0.1), ("half", 0.5), ("nine tenths", 0.9)];
/// Far enough apart for each to be alone.
const LONELY: (usize, Duration) = (40, Duration::from_millis(250));

pub(crate) async fn run() -> Result<()> {
    println!("\nFrom close to mark, in milliseconds");
    for setup in Setup::both().await? {
        println!("  {}", setup.name);
        let full = full_rate(&setup).await?;
        println!("    the full rate          {full:.0} a second");
        let (times, _) = at(&setup, "lonely", LONELY.0, LONELY.1).await?;
        println!("    one at a time          {}", told(&times));
        for (name, share) in SHARES {
            // The slow ones would take long.
            let events = if share < 0.3 { EVENTS / 3 } else { EVENTS };
            let (times, _) =
                at(&setup, &name.replace(' ', "-"), events, Duration::from_secs_f64(1.0 / (full * share))).await?;
            println!("    {name:<15} of it  {}", told(&times));
        }
    }
    Ok(())
}

/// Events a second, closed and published as quickly as that goes: the publisher's own work is part of it here, as it is
/// below.
async fn full_rate(setup: &Setup) -> Result<f64> {
    let (_, took) = at(setup, "full", EVENTS, Duration::ZERO).await?;
    Ok(rate(EVENTS, took))
}

/// The time from close to mark of each event in milliseconds, the shortest first, and how long all of them took.
async fn at(setup: &Setup, round: &str, events: usize, apart: Duration) -> Result<(Vec<f64>, Duration)> {
    let ids: Vec<_> = (0..events).map(|number| format!("{round}-{number}")).collect();
    create(&docker()?, &ids.iter().map(|id| format!("ha_ws_{id}")).collect::<Vec<_>>()).await?;
    let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
    setup.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await?;
    let mut serve = setup.serve().await?;
    let broker = Connection::connect(&variable("AMQP_URL")?, ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    let began = Instant::now();
    for (number, id) in ids.iter().enumerate() {
        tokio::time::sleep_until((began + apart * u32::try_from(number)?).into()).await;
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        setup.execute(&format!("UPDATE threads SET status = 'closed', closed_at = '{now}' WHERE id = '{id}'")).await?;
        let body = format!(r#"{{"thread_id":"{id}"}}"#);
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default().with_delivery_mode(2);
        channel.basic_publish("threads".into(), "thread.closed".into(), options, body.as_bytes(), properties).await?;
    }
    let count = format!("SELECT CAST(count(*) AS text) FROM volume_removals WHERE thread_id LIKE '{round}-%'");
    until("every thread is marked", async || Ok(setup.text(&count).await? == events.to_string())).await?;
    let took = began.elapsed();
    stop(&mut serve)?;
    let seconds = if setup.is_postgres() {
        "extract(epoch FROM workspace_volume_removed_at - closed_at)"
    } else {
        "(julianday(workspace_volume_removed_at) - julianday(closed_at)) * 86400"
    };
    let times =
        setup.texts(&format!("SELECT CAST({seconds} AS text) FROM threads WHERE id LIKE '{round}-%'"), 0).await?;
    let mut times: Vec<f64> = times
        .iter()
        .map(|time| time.parse::<f64>().map(|time| time * 1000.0))
        .collect::<std::result::Result<_, _>>()?;
    times.sort_by(f64::total_cmp);
    Ok((times, took))
}

fn told(times: &[f64]) -> String {
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("median {:7.1}   p99 {:7.1}   longest {:7.1}", at(50), at(99), at(100))
}
