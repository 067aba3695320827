//! What becomes of events while something is down, stalls, or is cut: nothing is lost, and no attempt is counted for
//! what is nobody's fault.

use std::time::{Duration, Instant};

use crate::{
    fault_proxy::{FaultProxy, Mode},
    world::{On, PrivateBroker, Serving, World, eventually, world},
};

const ACKED: &str = "volume_reaper_settlements_total{settlement=\"ack\"}";
const RETRIED: &str = "volume_reaper_settlements_total{settlement=\"retry\"}";
const DOCKER_UP: &str = "volume_reaper_dependency_up{dependency=\"docker\"}";
const DATABASE_UP: &str = "volume_reaper_dependency_up{dependency=\"database\"}";

/// A retry schedule of a third of a second: an outage that lasts longer would use up every attempt if one was counted.
const SHORT_LADDER: &str = "100ms,200ms";
const LONGER_THAN_THE_LADDER: Duration = Duration::from_secs(2);

async fn close_threads(world: &World, ids: &[String]) {
    for id in ids {
        world.closed_with_volume(id).await;
    }
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("t{number}")).collect()
}

async fn publish(world: &World, ids: &[String]) {
    for id in ids {
        world.publish_closed(id).await;
    }
}

async fn until_down(serving: &Serving, dependency: &str) {
    eventually(&format!("{dependency} is known to be down"), async || {
        (serving.metric(dependency).await == 0).then_some(())
    })
    .await;
}

/// The outage has to be longer than the retry schedule, so here time really has to pass.
async fn outlast_the_ladder() {
    let began = Instant::now();
    eventually("the outage has lasted", async || (began.elapsed() > LONGER_THAN_THE_LADDER).then_some(())).await;
}

async fn everything_is_marked_and_nothing_dead_lettered(world: &World, serving: Serving, ids: &[String]) {
    for id in ids {
        world.until_marked(id).await;
        assert_eq!(world.receipts(id).await.len(), 1, "{id}");
    }
    eventually("the queue is empty", async || (world.messages(&world.work_queue()).await == 0).then_some(())).await;
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.work_queue()).await, 0);
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
}

#[tokio::test]
async fn an_outage_of_docker_costs_no_event_an_attempt() {
    // Q12
    for mode in [Mode::Refuse, Mode::Stall] {
        let mut world = world(On::Sqlite).await;
        let (docker, endpoint) = FaultProxy::docker().await;
        world.set("DOCKER_HOST", endpoint);
        world.set("VOLUME_REAPER_DOCKER_TIMEOUT", "1s");
        world.set("VOLUME_REAPER_RETRY_DELAYS", SHORT_LADDER);
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve().await;
        serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
        let ids = ids(40);
        close_threads(&world, &ids).await;
        docker.set(mode);
        // The connections that are kept too.
        docker.cut();
        publish(&world, &ids).await;
        until_down(&serving, DOCKER_UP).await;
        let (code, body) = serving.get("/readyz").await;
        assert!(code == 503 && body.contains("docker at tcp://"), "{body}");
        outlast_the_ladder().await;
        assert_eq!(serving.metric(RETRIED).await, 0, "{mode:?}");

        docker.cut();
        eventually("what was stalled is gone", async || (docker.open() == 0).then_some(())).await;
        docker.forget_busiest();
        docker.set(Mode::Pass);
        serving.until_ready().await;
        serving.until_metric(ACKED, 40).await;
        // Four removals at once, and now and then a question who the daemon is.
        assert!(docker.busiest() <= 4 + 2, "{mode:?}: a stampede of {}", docker.busiest());
        everything_is_marked_and_nothing_dead_lettered(&world, serving, &ids).await;
    }
}

#[tokio::test]
async fn what_is_being_given_back_when_docker_is_up_again_is_not_forgotten() {
    let mut world = world(On::Sqlite).await;
    let (docker, endpoint) = FaultProxy::docker().await;
    let (broker, url) = FaultProxy::url(&world.settings["AMQP_URL"]).await;
    world.set("DOCKER_HOST", endpoint);
    world.set("AMQP_URL", url);
    world.set("VOLUME_REAPER_RETRY_DELAYS", SHORT_LADDER);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    // The deliveries wait for their removals.
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    let serving = world.serve().await;
    serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
    let ids = ids(40);
    close_threads(&world, &ids).await;
    docker.set(Mode::StallRemovals);
    publish(&world, &ids).await;
    eventually("all are delivered", async || (world.messages(&world.work_queue()).await == 0).then_some(())).await;
    // One after the other, they would take longer than Docker is away.
    broker.set(Mode::Slow(Duration::from_millis(500)));
    docker.set(Mode::Refuse);
    docker.cut();
    until_down(&serving, DOCKER_UP).await;
    docker.set(Mode::Pass);
    serving.until_metric(ACKED, 40).await;
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &ids).await;
}

#[tokio::test]
async fn an_outage_of_the_database_costs_no_event_an_attempt() {
    for (mode, on) in
        [(Mode::Refuse, On::Postgres), (Mode::Stall, On::Postgres), (Mode::Refuse, On::Mysql), (Mode::Stall, On::Mysql)]
    {
        let mut world = world(on).await;
        let (database, url) = FaultProxy::url(&world.settings["DATABASE_URL"]).await;
        world.set("DATABASE_URL", url);
        world.set("VOLUME_REAPER_RETRY_DELAYS", SHORT_LADDER);
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve().await;
        serving.until_metric("volume_reaper_sweep_seconds_count", 1).await;
        let ids = ids(20);
        close_threads(&world, &ids).await;
        database.set(mode);
        database.cut();
        publish(&world, &ids).await;
        until_down(&serving, DATABASE_UP).await;
        outlast_the_ladder().await;
        assert_eq!(serving.metric(RETRIED).await, 0, "{mode:?} {on:?}");

        database.set(Mode::Pass);
        database.cut();
        serving.until_metric(ACKED, 20).await;
        everything_is_marked_and_nothing_dead_lettered(&world, serving, &ids).await;
    }
}

#[tokio::test]
async fn a_cut_connection_is_made_again_and_what_was_unacknowledged_comes_again() {
    let mut world = world(On::Sqlite).await;
    let (broker, url) = FaultProxy::url(&world.settings["AMQP_URL"]).await;
    world.set("AMQP_URL", url);
    let serving = world.serve().await;
    let ids = ids(30);
    close_threads(&world, &ids).await;
    for (number, id) in ids.iter().enumerate() {
        world.publish_closed(id).await;
        if number % 10 == 5 {
            broker.cut();
        }
    }
    serving.until_ready().await;
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &ids).await;
}

#[tokio::test]
async fn an_acknowledgement_that_is_lost_on_the_way_makes_a_duplicate_and_no_second_receipt() {
    // Q10
    let mut world = world(On::Sqlite).await;
    let (broker, url) = FaultProxy::url(&world.settings["AMQP_URL"]).await;
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("AMQP_URL", url);
    world.set("DOCKER_HOST", endpoint);
    // The delivery waits for its removal.
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    docker.set(Mode::StallRemovals);
    world.publish_closed("t1").await;
    eventually("the volume is gone, unknown to us", async || (!world.has_volume("t1").await).then_some(())).await;
    broker.set(Mode::StallToServer);
    docker.set(Mode::Pass);
    // To us it is acknowledged; the broker never heard of it.
    serving.until_metric(ACKED, 1).await;
    broker.cut();
    broker.set(Mode::Pass);
    let again = "volume_reaper_cleanups_total{source=\"event\",outcome=\"already_clean\"}";
    serving.until_metric(again, 1).await;
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &["t1".to_owned()]).await;
}

#[tokio::test]
async fn a_confirm_that_is_lost_on_the_way_leaves_the_original_unacknowledged() {
    let mut world = world(On::Sqlite).await;
    let (broker, url) = FaultProxy::url(&world.settings["AMQP_URL"]).await;
    let direct = std::mem::replace(world.settings.get_mut("AMQP_URL").expect("set"), url);
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1s");
    let serving = world.serve().await;
    // The thread is unknown at first, so the delivery is moved to the delay queue.
    broker.set(Mode::StallToClient);
    world.publish_closed("t1").await;
    let stalled_deliveries = world.messages(&world.work_queue()).await;
    assert_eq!(stalled_deliveries, 0, "the broker handed it over");
    broker.set(Mode::Pass);
    let retry_queue = format!("{}.retry.1s", world.name);
    eventually("it was moved to the delay queue", async || {
        (serving.metric(RETRIED).await >= 1 || world.messages(&retry_queue).await >= 1).then_some(())
    })
    .await;
    broker.set(Mode::StallToClient);
    broker.cut();
    broker.set(Mode::Pass);
    world.set("AMQP_URL", direct);
    let message = world.dead_letter().await;
    assert_eq!(crate::world::header(&message, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
    assert_eq!(serving.stop().await, Some(0));
    assert_eq!(world.messages(&world.work_queue()).await, 0);
}

#[tokio::test]
async fn a_broker_that_is_killed_and_restarted_is_consumed_from_again() {
    let broker = PrivateBroker::start().await;
    let mut world = world(On::Sqlite).await;
    world.use_broker(&broker);
    let serving = world.serve().await;
    // RabbitMQ 3.10 that is killed within a second of creating a quorum queue comes back without it. That is not what
    // is tested here, so it may put it on disk first.
    broker.rabbitmqctl(&["eval", "[dets:sync(T) || T <- dets:all()]."]).await;
    let ids = ids(10);
    close_threads(&world, &ids).await;
    publish(&world, &ids[..5]).await;
    broker.control("kill").await;
    eventually("the broker is known to be down", async || (serving.get("/readyz").await.0 == 503).then_some(())).await;
    broker.control("start").await;
    serving.until_ready().await;
    publish(&world, &ids[5..]).await;
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &ids).await;
}

#[tokio::test]
async fn a_broker_that_takes_no_messages_holds_retries_back_and_loses_none() {
    // Q18
    let broker = PrivateBroker::start().await;
    let mut world = world(On::Sqlite).await;
    world.use_broker(&broker);
    world.set("VOLUME_REAPER_RETRY_DELAYS", SHORT_LADDER);
    let serving = world.serve().await;
    world.publish_closed("nobody").await;
    world.dead_letter().await;
    world.closed_with_volume("t1").await;

    // Both events are there before the alarm; one needs a publish, the other does not.
    let (docker, endpoint) = FaultProxy::docker().await;
    assert_eq!(serving.stop().await, Some(0));
    world.set("DOCKER_HOST", endpoint);
    world.publish_closed("nobody").await;
    world.publish_closed("t1").await;
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.000001"]).await;
    let serving = world.serve().await;
    world.until_marked("t1").await;
    serving.until_metric(ACKED, 1).await;
    assert_eq!(serving.metric(RETRIED).await, 0, "nothing could be published");
    broker.rabbitmqctl(&["set_vm_memory_high_watermark", "0.6"]).await;
    let message = world.dead_letter().await;
    assert_eq!(crate::world::header(&message, "volume-reaper-reason").as_deref(), Some("unknown_thread"));
    assert_eq!(serving.stop().await, Some(0));
    drop(docker);
}

#[tokio::test]
async fn a_channel_that_the_broker_closes_for_its_consumer_timeout_is_opened_again() {
    let broker = PrivateBroker::start().await;
    // The broker looks once a minute whether a delivery is unacknowledged for too long; here every half second.
    let settings = "application:set_env(rabbit, consumer_timeout, 500), \
                    application:set_env(rabbit, channel_tick_interval, 500).";
    broker.rabbitmqctl(&["eval", settings]).await;
    let mut world = world(On::Sqlite).await;
    world.use_broker(&broker);
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("DOCKER_HOST", endpoint);
    // The delivery waits for its removal.
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    docker.set(Mode::StallRemovals);
    world.publish_closed("t1").await;
    eventually("the broker closes the channel", async || {
        let mut lines = serving.lines().into_iter();
        lines.any(|line| line["message"] == "down" && line["dependency"] == "broker").then_some(())
    })
    .await;
    docker.set(Mode::Pass);
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &["t1".to_owned()]).await;
}

#[tokio::test]
async fn a_stop_during_an_outage_of_the_broker_is_not_held_up() {
    // Q16
    for mode in [Mode::Refuse, Mode::Stall] {
        let mut world = world(On::Sqlite).await;
        let (broker, url) = FaultProxy::url(&world.settings["AMQP_URL"]).await;
        world.set("AMQP_URL", url);
        let serving = world.serve().await;
        broker.set(mode);
        if mode == Mode::Refuse {
            broker.cut();
        }
        let began = Instant::now();
        assert_eq!(serving.stop().await, Some(0));
        assert!(began.elapsed() < Duration::from_secs(25), "{mode:?}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_stop_with_a_removal_that_hangs_ends_with_the_grace_period_and_says_what_was_left() {
    let mut world = world(On::Sqlite).await;
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("DOCKER_HOST", endpoint);
    world.set("VOLUME_REAPER_SHUTDOWN_GRACE", "1s");
    // The delivery waits for its removal.
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    let mut serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    docker.set(Mode::StallRemovals);
    world.publish_closed("t1").await;
    eventually("the removal is under way", async || (!world.has_volume("t1").await).then_some(())).await;
    serving.signal("TERM");
    assert_eq!(serving.exit_code().await, Some(0));
    assert!(
        serving
            .lines()
            .iter()
            .any(|line| line["message"].as_str().is_some_and(|text| text.contains("left unfinished")))
    );
    // It takes it back when the connection is gone, which is a moment after the program.
    eventually("the broker has it back", async || (world.messages(&world.work_queue()).await == 1).then_some(())).await;

    docker.set(Mode::Pass);
    let serving = world.serve().await;
    everything_is_marked_and_nothing_dead_lettered(&world, serving, &["t1".to_owned()]).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut world = world(On::Sqlite).await;
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("DOCKER_HOST", endpoint);
    world.set("VOLUME_REAPER_SHUTDOWN_GRACE", "1h");
    // The delivery waits for its removal.
    world.set("VOLUME_REAPER_LOCK_LIMIT", "1m");
    let mut serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    docker.set(Mode::StallRemovals);
    world.publish_closed("t1").await;
    eventually("the removal is under way", async || (!world.has_volume("t1").await).then_some(())).await;
    serving.signal("TERM");
    eventually("the first signal is heard", async || {
        serving.lines().iter().any(|line| line["signal"] == "SIGTERM").then_some(())
    })
    .await;
    serving.signal("TERM");
    assert_eq!(serving.exit_code().await, Some(0));
    eventually("the broker has it back", async || (world.messages(&world.work_queue()).await == 1).then_some(())).await;
}

#[tokio::test]
async fn a_killed_replica_leaves_its_deliveries_to_the_next_one() {
    let world = world(On::Sqlite).await;
    let mut first = world.serve().await;
    let ids = ids(60);
    close_threads(&world, &ids).await;
    let arguments: Vec<_> = std::iter::once("publish").chain(ids.iter().map(String::as_str)).collect();
    assert!(world.run(&arguments).await.status.success());
    first.signal("KILL");
    assert_eq!(first.exit_code().await, None);
    let second = world.serve().await;
    everything_is_marked_and_nothing_dead_lettered(&world, second, &ids).await;
}

#[tokio::test]
async fn a_delay_queue_that_was_deleted_is_declared_again_before_the_original_is_acknowledged() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", SHORT_LADDER);
    let serving = world.serve().await;
    // Once through, so that the publisher's connection is open and has declared everything.
    world.publish_closed("nobody").await;
    world.dead_letter().await;
    world.delete_queue(&format!("{}.retry.100ms", world.name)).await;
    world.publish_closed("nobody").await;
    let unroutable = "can't move the delivery on; it stays where it is until that works";
    eventually("the unroutable retry is noticed", async || {
        serving.lines().iter().any(|line| line["message"] == unroutable).then_some(())
    })
    .await;
    let message = world.dead_letter().await;
    assert_eq!(crate::world::header(&message, "volume-reaper-attempt").as_deref(), Some("3"));
}

#[tokio::test]
async fn an_exchange_that_was_made_anew_and_a_binding_that_was_taken_away_are_bound_again() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let serving = world.serve().await;
    let exchange = world.settings["VOLUME_REAPER_EXCHANGE"].clone();
    let (connection, channel) = world.channel().await;
    channel
        .exchange_delete(exchange.as_str().into(), lapin::options::ExchangeDeleteOptions::default())
        .await
        .expect("deleted");
    eventually("the exchange is there again, and that is logged", async || {
        let expected = "the exchange was gone: it is declared and bound again";
        serving.lines().iter().any(|line| line["message"] == expected).then_some(())
    })
    .await;
    channel
        .queue_unbind(
            world.work_queue().into(),
            exchange.as_str().into(),
            "thread.closed".into(),
            lapin::types::FieldTable::default(),
        )
        .await
        .expect("unbound");
    eventually("an event that is published as the platform does is taken", async || {
        let properties = lapin::BasicProperties::default();
        let options = lapin::options::BasicPublishOptions::default();
        let body = br#"{"thread_id": "nobody"}"#;
        channel
            .basic_publish(exchange.as_str().into(), "thread.closed".into(), options, body, properties)
            .await
            .expect("published");
        (serving.metric(RETRIED).await >= 1).then_some(())
    })
    .await;
    connection.close(200, "done".into()).await.expect("closed");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn queues_of_an_earlier_version_are_used_as_they_are_and_told() {
    let world = world(On::Sqlite).await;
    let (connection, channel) = world.channel().await;
    let text = |text: &str| lapin::types::AMQPValue::LongString(text.into());
    let mut work = lapin::types::FieldTable::default();
    work.insert("x-queue-type".into(), text("quorum"));
    let mut parking = work.clone();
    parking.insert("x-delivery-limit".into(), lapin::types::AMQPValue::LongLongInt(1_000_000_000));
    work.insert("x-delivery-limit".into(), lapin::types::AMQPValue::LongLongInt(1000));
    work.insert("x-dead-letter-exchange".into(), text(""));
    work.insert("x-dead-letter-routing-key".into(), text(&world.dead_letter_queue()));
    work.insert("x-dead-letter-strategy".into(), text("at-least-once"));
    work.insert("x-overflow".into(), text("reject-publish"));
    for (queue, arguments) in [(world.work_queue(), work), (world.dead_letter_queue(), parking)] {
        let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(queue.into(), durable, arguments).await.expect("declared");
    }
    connection.close(200, "done".into()).await.expect("closed");
    let serving = world.serve().await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    let doctor = world.json(&["doctor", "--json"]).await;
    let checks = doctor["checks"].as_array().expect("checks").iter();
    let fixes: Vec<_> = checks.filter_map(|check| check["fix"].as_str()).collect();
    for queue in [world.work_queue(), world.dead_letter_queue()] {
        let command = format!("rabbitmqctl delete_queue --if-empty {queue}");
        assert!(fixes.iter().any(|fix| fix.contains(&command)), "{doctor}");
    }
    assert_eq!(serving.stop().await, Some(0));
}
