//! Rows stay locked while their volumes are removed: who reopens a thread waits for that, and nobody else does.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};
use serde_json::json;

use crate::{
    fault_proxy::{FaultProxy, Mode},
    world::{On, Serving, World, connect, eventually, header, server, world},
};

/// The servers that lock rows, and not a whole file.
const WITH_ROW_LOCKS: [On; 2] = [On::Postgres, On::Mysql];

/// A service that locks rows for up to `limit`, whose daemon's answers can be held back, and that has nothing to do.
pub(crate) async fn serving(world: &mut World, limit: &str) -> (Serving, FaultProxy) {
    let (docker, endpoint) = FaultProxy::docker().await;
    world.set("DOCKER_HOST", endpoint);
    world.set("VOLUME_REAPER_LOCK_LIMIT", limit);
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = world.serve_idle().await;
    (serving, docker)
}

/// Publishes the event of a closed thread with a volume, and holds the daemon's answer back once that is removed.
pub(crate) async fn remove_without_answer(world: &World, docker: &FaultProxy, id: &str) {
    world.closed_with_volume(id).await;
    docker.set(Mode::StallRemovals);
    world.publish_closed(id).await;
    eventually("the volume is removed", async || (!world.has_volume(id).await).then_some(())).await;
}

/// Waits until an update of this thread's row waits for a lock.
pub(crate) async fn until_somebody_waits(world: &World, on: On, id: &str) {
    let waiting = match on {
        On::Postgres => format!(
            "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
             AND query LIKE '%{id}%'"
        ),
        On::Mysql | On::Sqlite => format!(
            "SELECT CAST(trx_id AS char) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' \
             AND trx_query LIKE '%{id}%'"
        ),
    };
    eventually("the update waits", async || {
        if matches!(on, On::Mysql) {
            // InnoDB shows again what it showed before to whoever looks again within a tenth of a second.
            world.execute("DO SLEEP(0.2)").await;
        }
        (!world.texts(&waiting).await.is_empty()).then_some(())
    })
    .await;
}

/// Publishes the event of a closed thread with two volumes, reopens it when one of them is gone, and has the daemon go
/// on once the platform's update waits; nothing may be marked until then.
pub(crate) async fn reopened_while_removing(
    world: &World,
    on: On,
    id: &str,
    docker: &FaultProxy,
    reopen: impl Future<Output = ()>,
    are_there: impl AsyncFn() -> [bool; 2],
    has_mark: impl AsyncFn() -> bool,
) {
    docker.set(Mode::StallRemovals);
    world.publish_closed(id).await;
    eventually("a volume is removed", async || are_there().await.contains(&false).then_some(())).await;
    tokio::join!(reopen, async {
        until_somebody_waits(world, on, id).await;
        assert!(!has_mark().await, "{on:?}");
        docker.set(Mode::Pass);
    });
    eventually("both are removed", async || (!are_there().await.contains(&true)).then_some(())).await;
}

/// Publishes the event of an open thread with two volumes, which stay.
pub(crate) async fn stays_when_its_event_comes_again(
    world: &World,
    serving: &Serving,
    id: &str,
    are_there: impl AsyncFn() -> [bool; 2],
) {
    world.publish_closed(id).await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"retry\"}", 1).await;
    assert_eq!(are_there().await, [true; 2]);
}

/// Locks a thread's row, as somebody else's transaction does.
pub(crate) async fn lock(world: &World, id: &str) -> DatabaseTransaction {
    let lock = connect(&world.settings["DATABASE_URL"]).await.begin().await.expect("a transaction");
    let select = format!("SELECT id FROM threads WHERE id = '{id}' FOR UPDATE");
    lock.execute_unprepared(&select).await.expect("locked");
    lock
}

#[tokio::test]
async fn a_reopening_waits_for_the_removal_and_no_longer() {
    for on in WITH_ROW_LOCKS {
        let mut world = world(on).await;
        let (serving, docker) = serving(&mut world, "30s").await;
        let id = format!("{}-reopened", world.name);
        remove_without_answer(&world, &docker, &id).await;
        tokio::join!(world.reopen_thread(&id), async {
            until_somebody_waits(&world, on, &id).await;
            assert_eq!(world.mark(&id).await, None, "{on:?}");
            docker.set(Mode::Pass);
        });
        // It was marked before it was reopened, and is open now, with a volume of its own to come.
        assert_eq!(world.receipts(&id).await, ["removed/event"], "{on:?}");
        assert_eq!(world.mark(&id).await, None, "{on:?}");
        world.create_volume(&id).await;
        world.publish_closed(&id).await;
        serving.until_metric("volume_reaper_settlements_total{settlement=\"retry\"}", 1).await;
        assert!(world.has_volume(&id).await, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn on_sqlite_a_reopening_waits_for_the_removal_and_after_the_limit_for_nothing() {
    let mut world = world(On::Sqlite).await;
    let (serving, docker) = serving(&mut world, "2s").await;
    remove_without_answer(&world, &docker, "t1").await;
    tokio::join!(world.reopen_thread("t1"), async { docker.set(Mode::Pass) });
    // It was marked before it was reopened: otherwise it would have no receipt.
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(world.mark("t1").await, None);
    remove_without_answer(&world, &docker, "t2").await;
    // The test's own writes wait for the file's lock as long as that is there.
    world.open_thread("t3").await;
    assert_eq!(world.mark("t2").await, None, "it was not waited for");
    docker.set(Mode::Pass);
    world.until_marked("t2").await;
    assert_eq!(world.receipts("t2").await, ["removed/event"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn who_writes_to_sqlite_s_file_during_a_sweep_never_finds_it_locked() {
    let world = world(On::Sqlite).await;
    world.execute("CREATE TABLE notes (number integer)").await;
    for number in 0..120 {
        world.create_volume(&format!("t{number}")).await;
    }
    let rows: Vec<_> = (0..120).map(|number| format!("('t{number}', 'closed')")).collect();
    world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
    let is_over = AtomicBool::new(false);
    let sweep = async {
        let report = world.sweep().await;
        is_over.store(true, Ordering::Relaxed);
        report
    };
    let write = async {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while !is_over.load(Ordering::Relaxed) {
            pace.tick().await;
            // Fails if the lock is not given within SQLite's busy timeout.
            world.execute("INSERT INTO notes VALUES (1)").await;
        }
    };
    let (report, ()) = tokio::join!(sweep, write);
    assert_eq!((&report["removed"], &report["failed"]), (&json!(120), &json!(0)), "{report}");
}

#[tokio::test]
async fn without_a_lock_limit_nobody_waits_for_a_removal() {
    for on in On::ALL {
        let mut world = world(on).await;
        let (serving, docker) = serving(&mut world, "0s").await;
        remove_without_answer(&world, &docker, "t1").await;
        world.reopen_thread("t1").await;
        docker.set(Mode::Pass);
        serving.until_metric("volume_reaper_reopened_while_removing_total", 1).await;
        assert_eq!(world.mark("t1").await, None, "{on:?}");
        assert_eq!(world.receipts("t1").await, [""; 0], "{on:?}");
        assert_eq!(serving.metric("volume_reaper_locks_given_up_total").await, 0, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn rows_that_refer_to_a_locked_thread_are_inserted_meanwhile() {
    let mut world = world(On::Postgres).await;
    world.execute("CREATE TABLE messages (thread_id text REFERENCES threads (id))").await;
    let (serving, docker) = serving(&mut world, "30s").await;
    remove_without_answer(&world, &docker, "t1").await;
    world.execute("INSERT INTO messages VALUES ('t1')").await;
    assert_eq!(world.mark("t1").await, None, "its removal is still under way");
    docker.set(Mode::Pass);
    world.until_marked("t1").await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn after_the_limit_the_lock_is_gone_and_the_removal_still_ends_marked() {
    for on in WITH_ROW_LOCKS {
        let mut world = world(on).await;
        let (serving, docker) = serving(&mut world, "200ms").await;
        remove_without_answer(&world, &docker, "t1").await;
        drop(lock(&world, "t1").await);
        assert_eq!(world.mark("t1").await, None, "{on:?}: it was not waited for");
        docker.set(Mode::Pass);
        world.until_marked("t1").await;
        assert_eq!(world.receipts("t1").await, ["removed/event"], "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn what_is_reopened_after_the_limit_is_not_marked_and_counted() {
    let mut world = world(On::Postgres).await;
    let (serving, docker) = serving(&mut world, "200ms").await;
    remove_without_answer(&world, &docker, "t1").await;
    world.reopen_thread("t1").await;
    docker.set(Mode::Pass);
    serving.until_metric("volume_reaper_reopened_while_removing_total", 1).await;
    serving.until_metric("volume_reaper_locks_given_up_total", 1).await;
    assert_eq!(world.mark("t1").await, None);
    assert_eq!(world.receipts("t1").await, [""; 0]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_removal_that_could_not_be_sent_while_the_row_was_locked_is_not_sent_after_it() {
    for on in WITH_ROW_LOCKS {
        let mut world = world(on).await;
        let (serving, docker) = serving(&mut world, "200ms").await;
        world.closed_with_volume("t1").await;
        // The daemon has to say who it is on a new connection, and does not.
        docker.set(Mode::StallToClient);
        docker.cut();
        world.publish_closed("t1").await;
        serving.until_metric("volume_reaper_locks_given_up_total", 1).await;
        drop(lock(&world, "t1").await);
        world.reopen_thread("t1").await;
        docker.set(Mode::Pass);
        serving.until_ready().await;
        assert_eq!(serving.stop().await, Some(0), "{on:?}: what was under way is over");
        assert!(world.has_volume("t1").await, "{on:?}: it is open, and nothing of it was removed");
        assert_eq!(world.receipts("t1").await, [""; 0], "{on:?}");
    }
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_delays_no_other_and_is_done_soon_after() {
    for on in WITH_ROW_LOCKS {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        world.closed_with_volume("locked").await;
        let lock = lock(&world, "locked").await;
        world.publish_closed("locked").await;
        serving.until_metric("volume_reaper_settlements_total{settlement=\"busy\"}", 1).await;
        for number in 0..5 {
            let id = format!("free{number}");
            world.closed_with_volume(&id).await;
            world.publish_closed(&id).await;
            world.until_marked(&id).await;
        }
        assert!(world.has_volume("locked").await, "{on:?}");
        lock.rollback().await.expect("unlocked");
        world.until_marked("locked").await;
        assert_eq!(world.receipts("locked").await, ["removed/event"], "{on:?}");
        assert_eq!(serving.metric("volume_reaper_dependency_up{dependency=\"database\"}").await, 1, "{on:?}");
        assert_eq!(world.messages(&world.dead_letter_queue()).await, 0, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_sweep_marks_all_but_the_one_that_is_locked() {
    for on in WITH_ROW_LOCKS {
        let world = world(on).await;
        let rows: Vec<_> = (0..200).map(|number| format!("('t{number:03}', 'closed')")).collect();
        world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
        let lock = lock(&world, "t100").await;
        let report = world.sweep().await;
        assert_eq!((&report["not_found"], &report["cooling_down"]), (&json!(199), &json!(1)), "{on:?}: {report}");
        assert_eq!(report["failed"], json!(0), "{on:?}: {report}");
        lock.rollback().await.expect("unlocked");
        assert_eq!(world.sweep().await["not_found"], json!(1), "{on:?}");
    }
}

#[tokio::test]
async fn a_mark_that_a_trigger_undoes_is_an_error_with_its_causes_and_one_receipt() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    world
        .execute(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER keep BEFORE UPDATE ON threads FOR EACH ROW EXECUTE FUNCTION keep()",
        )
        .await;
    world.publish_closed("t1").await;
    let parked = world.dead_letter().await;
    let error = header(&parked, "volume-reaper-error").expect("an error");
    assert!(error.contains("row-level security"), "{error}");
    assert!(!world.has_volume("t1").await);
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    world.execute("DROP TRIGGER keep ON threads").await;
    world.publish_closed("t1").await;
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/event"], "it was removed once");
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn nothing_is_removed_by_the_rows_of_a_server_that_can_not_be_written_to() {
    let mut world = world(On::Postgres).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let database = world.name.clone();
    let serving = world.serve_idle().await;
    world.closed_with_volume("t1").await;
    let read_only = |on: &str| format!("ALTER DATABASE {database} SET default_transaction_read_only = {on}");
    let end_others = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
    world.execute(&read_only("on")).await;
    world.texts(end_others).await;
    world.publish_closed("t1").await;
    eventually("the database is known not to take writes", async || {
        let (code, body) = serving.get("/readyz").await;
        (code == 503 && body.contains("database")).then_some(())
    })
    .await;
    assert!(world.has_volume("t1").await);
    // From another database, since sessions of this one can't write.
    let elsewhere = connect(&server("DATABASE_URL")).await;
    elsewhere.execute_unprepared(&read_only("off")).await.expect("set");
    world.texts(end_others).await;
    world.until_marked("t1").await;
    assert_eq!(world.receipts("t1").await, ["removed/event"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn threads_that_are_closed_and_reopened_all_the_time_lose_no_volume() {
    for (on, rounds) in [(On::Postgres, 60), (On::Mysql, 30), (On::Sqlite, 20)] {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
        let (first, second) = (world.serve().await, world.serve().await);
        let cycle = async |number: usize| {
            let id = format!("t{number}");
            world.open_thread(&id).await;
            for round in 0..rounds {
                world.create_volume(&id).await;
                world.close_thread(&id).await;
                world.publish_closed(&id).await;
                // From at once to later than a removal takes.
                for _ in 0..(number * 7 + round * 3) % 8 {
                    world.has_volume(&id).await;
                }
                world.reopen_thread(&id).await;
                // The platform makes sure of the workspace after it has reopened the thread.
                world.create_volume(&id).await;
                assert!(world.has_volume(&id).await, "{on:?}: {id} lost its volume in round {round}");
            }
        };
        futures_util::future::join_all((0..8).map(cycle)).await;
        for number in 0..8 {
            assert!(world.has_volume(&format!("t{number}")).await, "{on:?}: t{number}");
        }
        for serving in [first, second] {
            assert_eq!(serving.metric("volume_reaper_reopened_while_removing_total").await, 0, "{on:?}");
            assert_eq!(serving.stop().await, Some(0));
        }
    }
}
