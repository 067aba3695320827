//! The one clean-up path, call by call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use volume_reaper::{
    cleanup::{
        Origin, Outcome, Policy, Removal,
        fleet::Fleet,
        policy::{Limits, Locking},
    },
    delivery::{
        consumer::{Consumer, Message},
        settlement::Settlement,
    },
    failure::{Dependency, Failure, Verdict},
    health::Health,
};

use crate::{
    fakes::{FakeCleaner, LIMITS, Row, calls, cleaner, cleaner_with, referenced, row, set_row, thread, under, volume},
    world::eventually,
};

#[tokio::test]
async fn the_cleaner_marks_on_success_and_on_not_found() {
    for (removal, outcome) in [(Removal::Removed, Outcome::Removed), (Removal::NotFound, Outcome::NotFound)] {
        let cleaner = Arc::new(cleaner(Ok(removal)));
        assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(outcome.clone()));
        assert_eq!(row(&cleaner, "t1").receipts, [outcome.as_str()]);
        assert!(row(&cleaner, "t1").mark.is_some());
    }
}

/// Cleans up after forty threads whose volumes are missing, the proof of the first of which comes after all are asked
/// for.
async fn clean_missing(prepare: impl Fn(&FakeCleaner)) -> (Vec<Result<Outcome, Failure>>, Arc<FakeCleaner>) {
    let cleaner = Arc::new(cleaner(Ok(Removal::Missing)));
    prepare(&cleaner);
    let ids: Vec<_> = (0..40).map(|number| format!("gone{number}")).collect();
    for id in &ids {
        set_row(&cleaner.threads().rows, id, Row { closed: true, ..Row::default() });
    }
    let proving = cleaner.volumes.proving.lock().await;
    let cleaning = join_all(ids.iter().map(|id| {
        let (cleaner, thread) = (Arc::clone(&cleaner), thread(id));
        async move { cleaner.clean(&thread, Origin::Sweep).await }
    }));
    let all_asked_for = eventually("all are asked for", async || {
        (calls(&cleaner).iter().filter(|call| call.starts_with("remove ")).count() == ids.len()).then_some(())
    });
    let (results, ()) = tokio::join!(cleaning, async {
        all_asked_for.await;
        drop(proving);
    });
    (results, cleaner)
}

#[tokio::test]
async fn volumes_that_are_missing_share_the_proof_of_who_says_so() {
    let (results, cleaner) = clean_missing(|_| ()).await;
    assert!(results.iter().all(|result| *result == Ok(Outcome::NotFound)), "{results:?}");
    for number in 0..40 {
        assert_eq!(row(&cleaner, &format!("gone{number}")).receipts, ["not_found"]);
    }
    let questions: Vec<_> = calls(&cleaner).into_iter().filter(|call| call.starts_with("have ")).collect();
    assert_eq!(questions, ["have 1", "have 39"]);
}

#[tokio::test]
async fn what_is_missing_at_an_unknown_daemon_or_there_again_is_not_marked() {
    let unknown = Failure::unavailable(Dependency::Docker, "another daemon answers");
    let (results, cleaner) = clean_missing(|cleaner| {
        *cleaner.volumes.identity.lock().expect("lock") = Err(unknown.clone());
    })
    .await;
    assert!(results.iter().all(|result| *result == Err(unknown.clone())), "{results:?}");
    assert!((0..40).all(|number| row(&cleaner, &format!("gone{number}")).mark.is_none()));

    let (results, cleaner) = clean_missing(|cleaner| {
        let again = volume("gone7");
        cleaner.volumes.inventory.lock().expect("lock").present.insert(again);
    })
    .await;
    let again = results[7].as_ref().expect_err("it is there");
    assert!(again.verdict == Verdict::Transient && again.message.contains("has it now"), "{again}");
    assert!(row(&cleaner, "gone7").mark.is_none());
    assert_eq!(results.iter().filter(|result| **result == Ok(Outcome::NotFound)).count(), 39);
}

#[tokio::test]
async fn the_cleaner_skips_marking_on_referenced() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Referenced { containers: vec![] })));
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(referenced()));
    assert!(row(&cleaner, "t1").mark.is_none());
}

#[tokio::test]
async fn the_cleaner_does_not_mark_on_error() {
    for failure in [
        Failure::transient("500"),
        Failure::permanent("outside of the local volume root"),
        Failure::unavailable(Dependency::Docker, "refused"),
    ] {
        let cleaner = Arc::new(cleaner(Err(failure.clone())));
        assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Err(failure));
        assert!(row(&cleaner, "t1").mark.is_none());
    }
}

#[tokio::test]
async fn docker_is_not_asked_about_a_thread_that_is_marked_open_or_unknown() {
    let cleaner = Arc::new(cleaner(Ok(Removal::Removed)));
    let marked = Row { closed: true, mark: Some(chrono::Utc::now()), ..Row::default() };
    set_row(&cleaner.threads().rows, "marked", marked);
    set_row(&cleaner.threads().rows, "open", Row::default());
    for (id, outcome) in
        [("marked", Outcome::AlreadyClean), ("open", Outcome::NotClosed), ("unknown", Outcome::UnknownThread)]
    {
        assert_eq!(cleaner.clean(&thread(id), Origin::Sweep).await, Ok(outcome));
    }
    assert_eq!(calls(&cleaner), [""; 0]);
}

#[tokio::test]
async fn a_failed_mark_is_a_failed_clean_up_and_the_next_try_marks() {
    let failures = [
        Failure::transient("serialization failure"),
        Failure::unavailable(Dependency::Database, "it died between Docker's answer and the mark"),
    ];
    for failure in failures {
        let (failed_once, verdict) = (AtomicBool::new(false), failure.verdict);
        let on_mark = move |_: &_| {
            if failed_once.swap(true, Ordering::Relaxed) { Ok(()) } else { Err(failure.clone()) }
        };
        let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), on_mark, |_| Ok(())));
        let first = cleaner.clean(&thread("t1"), Origin::Sweep).await;
        assert_eq!(first.map_err(|failure| failure.verdict), Err(verdict));
        assert!(row(&cleaner, "t1").mark.is_none());

        *cleaner.volumes.answer.lock().expect("lock") = Ok(Removal::NotFound);
        // It was us who removed it, and that is what its receipt says.
        assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::Removed));
        assert_eq!(row(&cleaner, "t1").receipts, ["removed"]);
    }
}

#[tokio::test]
async fn a_mark_that_does_nothing_on_a_locked_row_is_a_failure_that_says_why() {
    let keep = |rows: &_| {
        set_row(rows, "t1", Row { closed: true, held: true, closed_at: Some(chrono::Utc::now()), ..Row::default() });
        Ok(())
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), keep, |_| Ok(())));
    let failure = cleaner.clean(&thread("t1"), Origin::Sweep).await.expect_err("nothing was marked");
    assert_eq!(failure.verdict, Verdict::Transient);
    assert!(failure.message.contains("row-level security"), "{failure}");
}

/// What never locks, so that others can come between a removal and its mark.
fn without_locks(cleaner: FakeCleaner) -> FakeCleaner {
    let locking = Locking { limit: Duration::ZERO, ..LIMITS.locking };
    under(cleaner, Policy::default(), Limits { locking, ..LIMITS })
}

#[tokio::test]
async fn a_thread_that_is_reopened_between_removal_and_mark_is_not_marked() {
    let reopen = |rows: &_| {
        set_row(rows, "t1", Row::default());
        Ok(())
    };
    let cleaner = Arc::new(without_locks(cleaner_with(Ok(Removal::Removed), reopen, |_| Ok(()))));
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::Reopened));
    assert!(row(&cleaner, "t1").mark.is_none());
    assert!(row(&cleaner, "t1").receipts.is_empty());
}

#[tokio::test]
async fn who_loses_the_race_for_the_mark_finds_the_thread_already_clean() {
    let other_marks = |rows: &_| {
        let marked = Row { closed: true, mark: Some(chrono::Utc::now()), receipts: vec!["removed"], ..Row::default() };
        set_row(rows, "t1", marked);
        Ok(())
    };
    let cleaner = Arc::new(without_locks(cleaner_with(Ok(Removal::NotFound), other_marks, |_| Ok(()))));
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Ok(Outcome::AlreadyClean));
    assert_eq!(row(&cleaner, "t1").receipts, ["removed"]);
}

#[tokio::test]
async fn a_panic_in_the_handling_of_one_delivery_is_a_retry_and_takes_nothing_with_it() {
    // More panics than removals may be in flight: a place that was not given back would be missed.
    let panics = AtomicUsize::new(0);
    let on_mark = move |_: &_| {
        assert!(panics.fetch_add(1, Ordering::Relaxed) >= 10, "a bug");
        Ok(())
    };
    let cleaner = Arc::new(cleaner_with(Ok(Removal::Removed), on_mark, |_| Ok(())));
    let consumer = Consumer {
        fleet: Arc::new(Fleet::new(vec![Arc::clone(&cleaner)], &Health::new(), 32)),
        health: Arc::new(Health::new()),
        retry_delays: vec![Duration::from_secs(1)],
    };
    let message = Message {
        body: br#"{"thread_id": "t1"}"#,
        content_type: None,
        headers: Vec::new(),
        id: None,
        came_as_reopened: false,
        host: None,
        failed_attempts: 0,
    };
    for _ in 0..10 {
        assert!(matches!(consumer.handle(&message).await, Settlement::Retry { .. }));
    }
    assert_eq!(consumer.handle(&message).await, Settlement::Ack);
    assert!(row(&cleaner, "t1").mark.is_some());
}

#[tokio::test]
async fn a_volume_that_an_unknown_daemon_does_not_have_is_not_marked() {
    let cleaner = Arc::new(cleaner(Ok(Removal::NotFound)));
    let unknown = Failure::unavailable(Dependency::Docker, "another daemon answers");
    *cleaner.volumes.identity.lock().expect("lock") = Err(unknown.clone());
    assert_eq!(cleaner.clean(&thread("t1"), Origin::Sweep).await, Err(unknown));
    assert!(row(&cleaner, "t1").mark.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_is_stuck_keeps_nobody_waiting_and_is_asked_for_once() {
    let cleaner = Arc::new(under(
        cleaner(Ok(Removal::Removed)),
        Policy::default(),
        Limits { timeout: Duration::from_mins(1), ..LIMITS },
    ));
    let close = |id: &str| set_row(&cleaner.threads().rows, id, Row { closed: true, ..Row::default() });
    let clean = async |id: &str| cleaner.clean(&thread(id), Origin::Event(None)).await;
    let removals = || calls(&cleaner).len();
    cleaner.volumes.stuck.lock().expect("lock").push("stuck".to_owned());
    for number in 1..=8 {
        let (stuck, other) = (format!("{number}-stuck"), format!("{number}-other"));
        close(&stuck);
        close(&other);
        assert_eq!(clean(&stuck).await, Ok(Outcome::Removing));
        let before = removals();
        assert_eq!(clean(&stuck).await, Ok(Outcome::Removing));
        assert_eq!(removals(), before, "it is not asked for again");
        assert!(number == 8 || clean(&other).await == Ok(Outcome::Removed), "{other}");
    }
    // So many that the daemon itself is stuck: nothing more is sent, and nobody waits longer than that.
    let before = removals();
    assert_eq!(clean("8-other").await, Ok(Outcome::Deferred));
    // No sweep takes care of a thread that is not there.
    assert_eq!(clean("8-unknown").await, Ok(Outcome::UnknownThread));
    assert_eq!(removals(), before);
    assert!(row(&cleaner, "8-stuck").mark.is_none());
}
