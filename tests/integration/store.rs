//! The store and the migrations, on every database.

use std::collections::HashMap;
use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use chrono::{SubsecRound, TimeDelta, Utc};
use migrations::ThreadsTable;
use volume_reaper::{
    cleanup::Identity,
    cleanup::{Close, Details, Gone, Mark, Origin, Receipt, Scope, Threads},
    config::SecretUrl,
    failure::{Dependency, Verdict},
    store::Store,
    volume_name::{ThreadId, VolumeNames},
};

use crate::world::{On, World, numbers_of_digits, world};

async fn store(world: &World) -> Store {
    store_with(world, 8).await
}

async fn store_with(world: &World, connections: u32) -> Store {
    let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres", "sqlite", "mysql"]).expect("valid");
    Store::new(&url, ThreadsTable::default(), "replica-1".to_owned(), connections).await.expect("a pool")
}

fn thread(id: &str) -> ThreadId {
    ThreadId::parse(id).expect("valid")
}

fn receipt(id: &str) -> Receipt {
    Receipt {
        thread_id: thread(id),
        volume: VolumeNames::of_prefix("ha_ws_").expect("valid").volume_of(&thread(id)),
        close: Close::default(),
        gone: Gone::Removed,
        origin: Origin::Event(Some("message-1".to_owned())),
        at: Utc::now().trunc_subsecs(3),
        is_written: false,
        details: Details::default(),
        completes: true,
    }
}

/// What marking came to, by threads; each as its row is now.
async fn marks(store: &Store, ids: &[&str]) -> HashMap<ThreadId, Mark> {
    let threads: Vec<_> = ids.iter().map(|id| thread(id)).collect();
    let rows = store.read(&threads, None).await.expect("read").threads;
    let close = |id: &str| rows.get(&thread(id)).map(|row| row.close.clone()).unwrap_or_default();
    let receipts: Vec<_> = ids.iter().map(|id| Receipt { close: close(id), ..receipt(id) }).collect();
    store.mark(&receipts).await.expect("an answer")
}

async fn mark(store: &Store, id: &str) -> Mark {
    marks(store, &[id]).await[&thread(id)]
}

/// The threads that one call marks.
async fn mark_all(store: &Store, ids: &[&str]) -> Vec<ThreadId> {
    let marks = marks(store, ids).await;
    let mut marked: Vec<_> = marks.into_iter().filter(|(_, mark)| *mark == Mark::Set).map(|(id, _)| id).collect();
    marked.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    marked
}

async fn closed(world: &World, id: &str) {
    world.open_thread(id).await;
    world.close_thread(id).await;
}

#[tokio::test]
async fn the_migrations_go_up_and_down_and_up_again() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        closed(&world, "t1").await;
        store.migrate_down(None).await.expect("down");
        assert!(store.migration_status().await.expect("status").iter().all(|migration| !migration.applied));
        // The platform's rows are still there.
        assert_eq!(world.texts("SELECT status FROM threads").await, ["closed"], "{on:?}");
        store.migrate_up().await.expect("up");
        assert!(store.migration_status().await.expect("status").iter().all(|migration| migration.applied));
        assert_eq!(mark(&store, "t1").await, Mark::Set, "{on:?}");
    }
}

#[tokio::test]
async fn ten_replicas_may_migrate_at_once() {
    for on in On::ALL {
        let world = World::without_schema(on).await;
        let mut replicas = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let store = store(&world).await;
            replicas.spawn(async move { store.migrate_up().await });
        }
        for result in replicas.join_all().await {
            assert_eq!(result, Ok(()), "{on:?}");
        }
        let applied = world.texts("SELECT version FROM volume_reaper_migrations").await;
        assert_eq!(applied.len(), 6, "{on:?}: {applied:?}");
    }
}

#[tokio::test]
async fn a_threads_table_that_is_there_is_kept_and_gets_our_column() {
    for on in On::ALL {
        let world = World::without_schema(on).await;
        // MySQL has no keys over text without a limit.
        let columns = "id varchar(99) PRIMARY KEY, status text, closed_at timestamp NULL, owner text";
        world.execute(&format!("CREATE TABLE threads ({columns})")).await;
        world.execute("INSERT INTO threads VALUES ('t1', 'closed', NULL, 'somebody')").await;
        let store = store(&world).await;
        store.migrate_up().await.expect("up");
        assert_eq!(mark(&store, "t1").await, Mark::Set, "{on:?}");
        assert_eq!(world.texts("SELECT owner FROM threads").await, ["somebody"]);
    }
}

#[tokio::test]
async fn a_threads_table_that_is_misspelt_is_not_created() {
    for on in On::ALL {
        let mut world = World::without_schema(on).await;
        world.set("VOLUME_REAPER_THREADS_TABLE", "thraeds");
        let output = world.run(&["migrate"]).await;
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("there is no table \"thraeds\""), "{error}");
    }
}

#[tokio::test]
async fn the_guarded_mark_is_set_once_and_leaves_one_receipt() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        closed(&world, "t1").await;
        assert_eq!(mark(&store, "t1").await, Mark::Set, "{on:?}");
        let marked_at = world.mark("t1").await.expect("marked");
        assert_eq!(mark(&store, "t1").await, Mark::AlreadySet, "{on:?}");
        assert_eq!(world.mark("t1").await, Some(marked_at));
        assert_eq!(world.receipts("t1").await, ["removed/event"]);
        assert_eq!(world.texts("SELECT event_id FROM volume_removals").await, ["message-1"]);
        assert_eq!(world.texts("SELECT replica FROM volume_removals").await, ["replica-1"]);
    }
}

#[tokio::test]
async fn a_thread_that_is_not_closed_is_never_marked() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        world.open_thread("t1").await;
        assert_eq!(mark(&store, "t1").await, Mark::Reopened, "{on:?}");
        assert_eq!(mark(&store, "gone").await, Mark::NoRow, "{on:?}");
        assert_eq!(mark_all(&store, &["t1", "gone"]).await, [], "{on:?}");
        assert_eq!(world.mark("t1").await, None);
        assert!(world.texts("SELECT thread_id FROM volume_removals").await.is_empty(), "{on:?}");
    }
}

#[tokio::test]
async fn reopening_clears_the_mark_and_the_second_close_is_cleaned_again() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        closed(&world, "t1").await;
        assert_eq!(mark(&store, "t1").await, Mark::Set, "{on:?}");
        world.reopen_thread("t1").await;
        assert_eq!(world.mark("t1").await, None, "{on:?}");
        world.close_thread("t1").await;
        assert_eq!(mark(&store, "t1").await, Mark::Set, "{on:?}");
        assert_eq!(world.receipts("t1").await.len(), 2, "{on:?}");
    }
}

#[tokio::test]
async fn candidates_come_in_pages_by_key_and_are_exactly_the_closed_and_unmarked() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        for id in ["a", "b", "c", "d", "e"] {
            closed(&world, id).await;
        }
        world.open_thread("open").await;
        assert_eq!(mark(&store, "b").await, Mark::Set);

        let ids = async |after: Option<&str>, limit| -> Vec<String> {
            let page = store.candidates(&Scope::All, after, limit).await.expect("a page");
            page.into_iter().map(|candidate| candidate.id).collect()
        };
        assert_eq!(ids(None, 2).await, ["a", "c"], "{on:?}");
        // Rows that leave while we page do not make others be skipped.
        assert_eq!(mark(&store, "a").await, Mark::Set);
        assert_eq!(ids(Some("c"), 2).await, ["d", "e"], "{on:?}");
        assert_eq!(ids(Some("e"), 2).await, [""; 0], "{on:?}");
        assert_eq!(store.backlog().await.expect("counted").unmarked, 3, "{on:?}");
        assert!(store.backlog().await.expect("counted").oldest_closed_at.is_some(), "{on:?}");
    }
}

#[tokio::test]
async fn many_are_marked_at_once_and_only_those_that_this_call_marked_are_returned() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        for id in ["a", "b", "c"] {
            closed(&world, id).await;
        }
        assert_eq!(mark(&store, "b").await, Mark::Set);
        let marked = mark_all(&store, &["a", "b", "c"]).await;
        assert_eq!(marked, [thread("a"), thread("c")], "{on:?}");
        assert_eq!(world.texts("SELECT thread_id FROM volume_removals ORDER BY id").await, ["b", "a", "c"]);
    }
}

#[tokio::test]
async fn of_a_page_all_are_marked_but_what_is_not_the_close_that_was_read() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        let ids = ["a", "again", "b", "deleted", "open"];
        for id in ids {
            closed(&world, id).await;
        }
        let rows = store.read(&ids.map(thread), None).await.expect("read").threads;
        let receipts = ids.map(|id| Receipt { close: rows[&thread(id)].close.clone(), ..receipt(id) });
        for change in [
            "UPDATE threads SET closed_at = '2026-01-02 03:04:05' WHERE id = 'again'",
            "UPDATE threads SET status = 'open' WHERE id = 'open'",
            "DELETE FROM threads WHERE id = 'deleted'",
        ] {
            world.execute(change).await;
        }
        let marks = store.mark(&receipts).await.expect("an answer");
        let expected = [Mark::Set, Mark::Reopened, Mark::Set, Mark::NoRow, Mark::Reopened];
        assert_eq!(ids.map(|id| marks[&thread(id)]), expected, "{on:?}");
        for id in ["again", "open"] {
            assert!(world.mark(id).await.is_none(), "{on:?}: {id}");
        }
        assert_eq!(world.texts("SELECT thread_id FROM volume_removals ORDER BY id").await, ["a", "b"], "{on:?}");
    }
}

#[tokio::test]
async fn a_full_page_fits_into_one_statement() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        let ids: Vec<_> = (0..2000).map(|number| format!("t{number:05}")).collect();
        let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'closed')")).collect();
        world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        assert_eq!(mark_all(&store, &ids).await.len(), 2000, "{on:?}");
    }
}

#[tokio::test]
async fn finding_nothing_to_do_reads_only_the_partial_index() {
    let sqlite = world(On::Sqlite).await;
    let select = "SELECT id, closed_at FROM threads WHERE status = 'closed' \
                  AND workspace_volume_removed_at IS NULL AND id > 'a' ORDER BY id LIMIT 2000";
    let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, format!("EXPLAIN QUERY PLAN {select}"));
    let plan = sea_orm::ConnectionTrait::query_all_raw(&sqlite.db, statement).await.expect("a plan");
    let plan: Vec<String> = plan.iter().map(|row| row.try_get("", "detail").expect("text")).collect();
    assert!(plan[0].contains("INDEX volume_reaper_unmarked_threads"), "{plan:?}");

    let postgres = world(On::Postgres).await;
    postgres
        .execute(
            "INSERT INTO threads (id, status, workspace_volume_removed_at) \
             SELECT 't' || n, 'closed', now() FROM generate_series(1, 20000) n",
        )
        .await;
    postgres.execute("VACUUM ANALYZE threads").await;
    let plan = postgres.texts(&format!("EXPLAIN {select}")).await.join("\n");
    assert!(plan.contains("Index Only Scan using volume_reaper_unmarked_threads"), "{plan}");
}

#[tokio::test]
async fn on_mysql_finding_nothing_to_do_reads_only_our_index() {
    let world = world(On::Mysql).await;
    world
        .execute(&format!(
            "INSERT INTO threads (id, status, closed_at, workspace_volume_removed_at) \
             SELECT concat('t', n), 'closed', now(3), now(3) FROM {}",
            numbers_of_digits(4)
        ))
        .await;
    world.texts("ANALYZE TABLE threads").await;
    let select = "SELECT id, closed_at FROM threads WHERE status = 'closed' \
                  AND workspace_volume_removed_at IS NULL AND id > 'a' ORDER BY id LIMIT 2000";
    let statement =
        sea_orm::Statement::from_string(sea_orm::DbBackend::MySql, format!("EXPLAIN FORMAT=TRADITIONAL {select}"));
    let plan = sea_orm::ConnectionTrait::query_one_raw(&world.db, statement).await.expect("a plan").expect("a row");
    let of = |column: &str| plan.try_get::<String>("", column).expect("text");
    assert_eq!(of("key"), "volume_reaper_unmarked_threads");
    assert!(of("Extra").contains("Using index") && !of("Extra").contains("filesort"), "{}", of("Extra"));
}

#[tokio::test]
async fn on_mysql_ids_that_a_collation_takes_for_equal_are_not_the_same_thread() {
    let world = World::without_schema(On::Mysql).await;
    world
        .execute(
            "CREATE TABLE threads (id varchar(99) PRIMARY KEY, status varchar(9), closed_at datetime) \
             COLLATE utf8mb4_general_ci",
        )
        .await;
    let store = store(&world).await;
    store.migrate_up().await.expect("up");
    closed(&world, "lower").await;
    for other in ["LOWER", "Lower"] {
        assert!(store.read(&[thread(other)], None).await.expect("asked").threads.is_empty());
        assert_eq!(mark(&store, other).await, Mark::NoRow);
        assert_eq!(mark_all(&store, &[other]).await, []);
    }
    assert_eq!(world.mark("lower").await, None);
    assert_eq!(mark_all(&store, &["LOWER", "lower"]).await, [thread("lower")]);
    assert_eq!(store.unmark(&thread("LOWER"), &receipt("LOWER").volume).await, Ok(false));
    assert_eq!(world.receipts("lower").await.len(), 1);
}

#[tokio::test]
async fn on_mysql_a_migration_that_ended_in_its_middle_is_taken_up_again() {
    let world = world(On::Mysql).await;
    let store = store(&world).await;
    closed(&world, "t1").await;
    assert_eq!(mark(&store, "t1").await, Mark::Set);
    // A change of the schema is not taken back there: as if each had ended before it was written down.
    world.execute("DELETE FROM volume_reaper_migrations").await;
    store.migrate_up().await.expect("up");
    assert!(world.mark("t1").await.is_some());
    let versions = world.texts("SELECT version FROM volume_reaper_migrations").await;
    store.migrate_down(None).await.expect("down");
    for version in versions {
        world.execute(&format!("INSERT INTO volume_reaper_migrations VALUES ('{version}', 0)")).await;
    }
    store.migrate_down(None).await.expect("down again");
    store.migrate_up().await.expect("up again");
}

#[tokio::test]
async fn two_marks_at_the_same_moment_leave_one_receipt() {
    for on in On::ALL {
        let world = world(on).await;
        let store = Arc::new(store(&world).await);
        for round in 0..20 {
            let id = format!("t{round}");
            closed(&world, &id).await;
            let mut marks = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let (store, id) = (Arc::clone(&store), id.clone());
                marks.spawn(async move { mark(&store, &id).await });
            }
            let marks = marks.join_all().await;
            assert_eq!(marks.iter().filter(|mark| **mark == Mark::Set).count(), 1, "{on:?}: {marks:?}");
            assert!(
                marks.iter().all(|mark| matches!(mark, Mark::Set | Mark::AlreadySet | Mark::Busy)),
                "{on:?}: {marks:?}"
            );
            assert_eq!(world.receipts(&id).await.len(), 1, "{on:?}");
        }
    }
}

#[tokio::test]
async fn marks_of_a_page_and_of_its_threads_at_the_same_moment_leave_one_receipt_each() {
    for on in On::ALL {
        let world = world(on).await;
        let store = Arc::new(store(&world).await);
        let ids: Vec<_> = (0..200).map(|number| format!("t{number:03}")).collect();
        let rows: Vec<_> = ids.iter().map(|id| format!("('{id}', 'closed')")).collect();
        world.execute(&format!("INSERT INTO threads (id, status) VALUES {}", rows.join(","))).await;
        let mut marks = tokio::task::JoinSet::new();
        for id in ids.iter().rev() {
            let (store, receipt) = (Arc::clone(&store), receipt(id));
            marks.spawn(async move { store.mark(&[receipt]).await.map(drop) });
        }
        for page in ids.chunks(100) {
            let (store, receipts) = (Arc::clone(&store), page.iter().map(|id| receipt(id)).collect::<Vec<_>>());
            marks.spawn(async move { store.mark(&receipts).await.map(drop) });
        }
        for mark in marks.join_all().await {
            assert_eq!(mark, Ok(()), "{on:?}");
        }
        let receipts = world.texts("SELECT thread_id FROM volume_removals ORDER BY thread_id").await;
        assert_eq!(receipts, ids, "{on:?}");
    }
}

#[tokio::test]
async fn the_first_daemon_is_pinned_and_another_one_is_refused_until_it_is_adopted() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        let (first, second) = (Identity::from_text("first".to_owned()), Identity::from_text("second".to_owned()));
        assert_eq!(store.pin_daemon("default", &first).await, Ok(()), "{on:?}");
        assert_eq!(store.pin_daemon("default", &first).await, Ok(()), "{on:?}");
        let refused = store.pin_daemon("default", &second).await.expect_err("refused");
        assert_eq!(refused.verdict, Verdict::Unavailable(Dependency::Docker));
        assert!(refused.message.contains("hosts adopt"), "{refused}");
        assert_eq!(store.adopt_daemon("default", &second).await, Ok(Some(first)), "{on:?}");
        assert_eq!(store.pin_daemon("default", &second).await, Ok(()), "{on:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_down_and_its_password_is_not_told() {
    let url = SecretUrl::parse("postgres://user:s3cret@127.0.0.1:1/none", &["postgres"]).expect("valid");
    let store = Store::new(&url, ThreadsTable::default(), "replica-1".to_owned(), 8).await.expect("a pool");
    let failure = store.ping().await.expect_err("down");
    assert_eq!(failure.verdict, Verdict::Unavailable(Dependency::Database));
    assert!(failure.message.contains("127.0.0.1:1"), "{failure}");
    assert!(!failure.message.contains("s3cret"), "{failure}");
}

#[tokio::test]
async fn what_is_written_after_a_dropped_transaction_is_committed_wherever_it_was_dropped() {
    let world = world(On::Postgres).await;
    // One connection, so that it is the same one.
    let store = store_with(&world, 1).await;
    for polls in 1..=20 {
        // Answered on the one connection, which the pool has back by then.
        store.ping().await.expect("a connection");
        drop_after(polls, Box::pin(store.mark(&[receipt("t1")]))).await;
        let lease = format!("after {polls} polls");
        store.acquire_lease(&lease, "me", Duration::from_secs(30)).await.expect("a connection").expect("it is free");
        let seen = world.texts(&format!("SELECT holder FROM volume_reaper_leases WHERE name = '{lease}'")).await;
        assert_eq!(seen, ["me"], "{lease}");
    }
}

#[tokio::test]
async fn rows_are_read_and_locked_with_the_time_that_the_database_has() {
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        closed(&world, "t1").await;
        let read = store.read(&[thread("t1")], None).await.expect("read").said_at;
        let locked = store.lock(&[thread("t1")], None, Duration::from_secs(2)).await.expect("locked").rows.said_at;
        for said_at in [read, locked] {
            let is_now = said_at.map(|at| (at - Utc::now()).abs() < TimeDelta::minutes(1));
            assert_eq!(is_now, (!matches!(on, On::Sqlite)).then_some(true), "{on:?}: {said_at:?}");
        }
    }
}

#[tokio::test]
async fn a_lease_that_a_wrong_clock_made_last_for_hours_is_taken_over_at_once() {
    let half_a_minute = Duration::from_secs(30);
    for on in On::ALL {
        let world = world(on).await;
        let store = store(&world).await;
        let acquire = async |holder| store.acquire_lease("sweep", holder, half_a_minute).await.expect("an answer");
        let lease = acquire("one").await.expect("it is free");
        assert_eq!(acquire("another").await, None, "{on:?}: it is held");
        assert!(store.renew_lease("sweep", "one", lease, half_a_minute).await.expect("an answer"), "{on:?}");
        let ahead = (Utc::now() + TimeDelta::hours(2)).format("%Y-%m-%d %H:%M:%S");
        world.execute(&format!("UPDATE volume_reaper_leases SET expires_at = '{ahead}'")).await;
        let taken = acquire("another").await.expect("nobody's is good for so long");
        assert_eq!(taken.epoch, lease.epoch + 1, "{on:?}");
        assert!(!store.renew_lease("sweep", "one", lease, half_a_minute).await.expect("an answer"), "{on:?}");
    }
}

/// Drops `work` when it would go on for the time after so many.
async fn drop_after(mut polls: usize, mut work: impl Future + Unpin) {
    poll_fn(|context| match polls.checked_sub(1) {
        Some(left) => {
            polls = left;
            Pin::new(&mut work).poll(context).map(drop)
        }
        None => Poll::Ready(()),
    })
    .await;
}
