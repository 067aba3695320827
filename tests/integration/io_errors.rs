//! SQLite on a disk that is broken for a while: every read or every write of the file fails with EIO.
//!
//! No device does that on request here, so the kernel is told to, by strace: the program and SQLite are the real ones,
//! and what they get is what a broken disk gives.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::{
    transport::is_root,
    world::{On, Serving, World, eventually, world},
};

const READS: &str = "read,pread64";
const WRITES: &str = "write,pwrite64,fsync,fdatasync,ftruncate";

/// A program whose files of SQLite are on a disk that is broken for as long as this lives.
struct BrokenDisk {
    strace: Child,
    /// Without a reader, what it says of a new thread of the program would end it.
    _said: Lines<BufReader<ChildStderr>>,
}

impl BrokenDisk {
    async fn of(serving: &Serving, dir: &Path, broken: &str) -> Self {
        let process = serving.child.id().expect("it runs").to_string();
        let mut strace = as_root("strace");
        // With the names of what it follows, once it does.
        strace.args(["-f", "--output=/dev/null", "--trace", broken, "--inject", &format!("{broken}:error=EIO")]);
        for file in ["reaper.db", "reaper.db-wal", "reaper.db-shm"] {
            strace.arg("--trace-path").arg(dir.join(file));
        }
        let mut strace = strace.args(["-p", &process]).stderr(Stdio::piped()).spawn().expect("strace starts");
        let mut lines = BufReader::new(strace.stderr.take().expect("piped")).lines();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line().await.expect("readable") {
            if line.contains("attached") {
                return Self { strace, _said: lines };
            }
            said.push(line);
        }
        panic!("strace has not followed the program: {said:?}");
    }

    async fn mended(mut self) {
        let strace = self.strace.id().expect("it runs").to_string();
        // It lets go of the program, and ends by the same signal.
        assert!(as_root("kill").args(["-s", "TERM", &strace]).status().await.expect("it runs").success());
        self.strace.wait().await.expect("it ends");
    }
}

/// Only root may follow a process of another one.
fn as_root(program: &str) -> Command {
    let mut command = Command::new(if is_root() { program } else { "sudo" });
    if !is_root() {
        command.arg(program);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn world_that_retries() -> World {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    world.execute("CREATE TABLE notes (text text)").await;
    world
}

#[tokio::test]
async fn an_input_output_error_is_an_outage_and_when_it_is_over_everything_goes_on() {
    let world = world_that_retries().await;
    let dir = world.dir.path().canonicalize().expect("it is there");
    let serving = world.serve_idle().await;
    // What can't be read is malformed to SQLite, whether the disk or the file is to blame.
    for (broken, said) in [(WRITES, "disk I/O error"), (READS, "malformed"), (WRITES, "disk I/O error")] {
        let round = world.texts("SELECT CAST(count(*) AS text) FROM threads").await.remove(0);
        let ids: Vec<_> = (0..6).map(|number| format!("r{round}-{number}")).collect();
        for id in &ids {
            world.closed_with_volume(id).await;
        }
        let disk = BrokenDisk::of(&serving, &dir, broken).await;
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
        disk.mended().await;
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
