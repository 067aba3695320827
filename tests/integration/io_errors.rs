//! SQLite on a disk that is broken for a while: every read or every write of the file fails with EIO.
//!
//! No device does that on request here, so a library that is loaded before libc answers in the disk's place: the
//! program and SQLite are the real ones, and what they get is what a broken disk gives.

use std::process::Command;

use crate::world::{On, World, eventually, world};

/// A world whose program has a disk that can be broken.
async fn world_on_a_broken_disk() -> World {
    let mut world = world(On::Sqlite).await;
    let library = world.dir.path().join("io_errors.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration/io_errors.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]);
    assert!(compile.status().expect("a C compiler").success());
    world.set("LD_PRELOAD", library.to_str().expect("UTF-8"));
    let dir = world.dir.path().canonicalize().expect("it is there");
    world.set("FAILING_DISK", dir.to_str().expect("UTF-8"));
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    world.execute("CREATE TABLE notes (text text)").await;
    world
}

#[tokio::test]
async fn an_input_output_error_is_an_outage_and_when_it_is_over_everything_goes_on() {
    let world = world_on_a_broken_disk().await;
    let serving = world.serve_idle().await;
    // What can't be read is malformed to SQLite, whether the disk or the file is to blame.
    for (broken, said) in [("writes", "disk I/O error"), ("reads", "malformed"), ("writes", "disk I/O error")] {
        let switch = world.dir.path().join(broken);
        let round = world.texts("SELECT CAST(count(*) AS text) FROM threads").await.remove(0);
        let ids: Vec<_> = (0..6).map(|number| format!("r{round}-{number}")).collect();
        for id in &ids {
            world.closed_with_volume(id).await;
        }
        std::fs::write(&switch, "").expect("written");
        for id in &ids {
            world.publish_closed(id).await;
        }
        eventually("the database is said to be down", async || {
            let (code, body) = serving.get("/readyz").await;
            (code == 503 && body.contains(said)).then_some(())
        })
        .await;
        for id in &ids {
            assert_eq!(world.mark(id).await, None, "{broken}: nothing could be written");
        }
        std::fs::remove_file(&switch).expect("removed");
        world.execute("INSERT INTO notes VALUES ('it works again')").await;
        for id in &ids {
            world.until_marked(id).await;
            assert_eq!(world.receipts(id).await, ["removed/event"], "{broken}: {id}");
        }
        assert_eq!(world.texts("PRAGMA integrity_check").await, ["ok"], "{broken}");
    }
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
    assert!(world.run(&["receipts", "verify"]).await.status.success());
    assert_eq!(serving.stop().await, Some(0));
}
