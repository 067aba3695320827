//! SQLite on a disk that is full now and then, or takes no writes.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lapin::options::{BasicGetOptions, BasicNackOptions};
use sea_orm::ConnectionTrait;

use crate::world::{On, World, connect, eventually};

/// A little more than the database needs.
const SIZE: &str = "size=3m";
/// How long somebody else's write may take once there is space: its own wait for the file's lock is longer.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A small file system of a test's own.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Needs root, which means sudo for everybody else, as with the Docker daemon.
    fn mount(path: &Path) -> Self {
        std::fs::create_dir(path).expect("a directory");
        let disk = Self { path: path.to_owned() };
        disk.as_root(&["mount", "-t", "tmpfs", "-o", &format!("{SIZE},mode=0777"), "volume-reaper-test"]);
        disk
    }

    fn as_root(&self, command: &[&str]) {
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let words = if is_root { command.to_vec() } else { [&["sudo"], command].concat() };
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().expect("a program"));
        let status = command.args(words).arg(&self.path).stdin(Stdio::null()).status().expect("it runs");
        // A second panic would end all the other tests too.
        assert!(status.success() || std::thread::panicking(), "{command:?}");
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = File::create(self.path.join("filling")).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_space(&self) {
        std::fs::remove_file(self.path.join("filling")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: connections of the test may still be open.
        self.as_root(&["umount", "-l"]);
    }
}

async fn world_on_a_small_disk() -> (World, SmallDisk) {
    let mut world = World::without_schema(On::Sqlite).await;
    let disk = SmallDisk::mount(&world.dir.path().join("disk"));
    let url = format!("sqlite://{}?mode=rwc", disk.path.join("reaper.db").display());
    world.set("DATABASE_URL", url.clone());
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    world.db = connect(&url).await;
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
    world.execute("CREATE TABLE notes (text text)").await;
    (world, disk)
}

/// Fills the disk until nobody can write to the database. Its journal gives up the space first that it has to itself.
async fn fill(world: &World, disk: &SmallDisk) {
    let write = || world.db.execute_unprepared("INSERT INTO notes VALUES ('full?')");
    while write().await.is_ok() {
        world.execute("PRAGMA wal_checkpoint(TRUNCATE)").await;
        disk.fill();
    }
}

async fn close_with_events(world: &World, ids: &[String]) {
    for id in ids {
        world.closed_with_volume(id).await;
    }
    for id in ids {
        world.publish_closed(id).await;
    }
}

/// Threads that are closed and not marked.
async fn unmarked(world: &World) -> BTreeSet<String> {
    let select = "SELECT id FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL";
    world.texts(select).await.into_iter().collect()
}

/// Threads that events in the queues are about.
async fn waiting(world: &World) -> BTreeSet<String> {
    let mut threads = BTreeSet::new();
    for queue in [world.work_queue(), format!("{}.retry.100ms", world.name)] {
        let (connection, channel) = world.channel().await;
        while let Some(message) =
            channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.expect("the queue")
        {
            let event: serde_json::Value = serde_json::from_slice(&message.delivery.data).expect("an event");
            threads.insert(event["thread_id"].as_str().expect("a thread").to_owned());
        }
        let all = BasicNackOptions { multiple: true, requeue: true };
        channel.basic_nack(0, all).await.expect("given back");
        connection.close(200, "done".into()).await.expect("closed");
    }
    threads
}

#[tokio::test]
async fn after_a_full_disk_everything_goes_on_and_others_can_write_at_once() {
    // P11
    let (world, disk) = world_on_a_small_disk().await;
    let serving = world.serve_idle().await;
    world.open_thread("open").await;
    for round in 0..4 {
        let ids: Vec<_> = (0..12).map(|number| format!("r{round}-{number}")).collect();
        for id in &ids {
            world.closed_with_volume(id).await;
        }
        fill(&world, &disk).await;
        for id in &ids {
            world.publish_closed(id).await;
        }
        eventually("the database is said to be down", async || {
            let (code, body) = serving.get("/readyz").await;
            (code == 503 && body.contains("full")).then_some(())
        })
        .await;
        disk.make_space();
        let began = Instant::now();
        world.execute("INSERT INTO notes VALUES ('space')").await;
        assert!(began.elapsed() < AT_ONCE, "round {round}: {:?}", began.elapsed());
        // Its transaction is rolled back: it has nothing to mark.
        world.publish_closed("open").await;
        for id in &ids {
            world.until_marked(id).await;
            assert_eq!(world.receipts(id).await, ["removed/event"], "round {round}: {id}");
        }
    }
    assert_eq!(world.messages(&world.dead_letter_queue()).await, 0);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn what_is_acknowledged_is_in_the_file_whatever_the_disk_and_a_crash_do() {
    let (world, disk) = world_on_a_small_disk().await;
    for round in 0..3 {
        let mut serving = world.serve().await;
        let ids: Vec<_> = (0..16).map(|number| format!("r{round}-{number}")).collect();
        let (now, later) = ids.split_at(8);
        for id in later {
            world.closed_with_volume(id).await;
        }
        close_with_events(&world, now).await;
        // While some are being marked.
        fill(&world, &disk).await;
        for id in later {
            world.publish_closed(id).await;
        }
        if round == 2 {
            // With space again, in the middle of what there is to do.
            disk.make_space();
        } else {
            serving.until_metric("volume_reaper_dependency_up{dependency=\"database\"}", 0).await;
        }
        serving.signal("KILL");
        serving.exit_code().await;
        eventually("every thread that is not marked has its event", async || {
            (waiting(&world).await.is_superset(&unmarked(&world).await)).then_some(())
        })
        .await;
        if round != 2 {
            disk.make_space();
        }
        world.execute("INSERT INTO notes VALUES ('space')").await;
        assert_eq!(world.texts("PRAGMA integrity_check").await, ["ok"]);
        let serving = world.serve().await;
        for id in &ids {
            world.until_marked(id).await;
        }
        assert_eq!(serving.stop().await, Some(0));
    }
}
