//! What others do to the service while it works: they lock its rows, open connections and leave them, fill disks,
//! change the broker, and put wrong servers in the right ones' places.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection, TransactionTrait};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    time::{sleep, timeout},
};

use crate::{
    Try, authority,
    platform::{PREFIX, Platform},
    replica::Program,
    servers::{SCRIPT, Servers, control},
    shape::On,
    soon,
};

/// Rows that are locked at once.
const LOCKED_ROWS: usize = 50;
/// More connections than the service takes by default.
const HALF_OPEN: usize = 400;
/// What clients send that never send the rest.
const HALVES: [&str; 3] =
    ["", "GET /livez HTTP/1.1\r\nHo", "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"];
/// For `/livez`, whoever else is connected.
const LIVE_WITHIN: Duration = Duration::from_secs(5);
/// What the receipts' disk has, and what it has to spare when the ballast is off.
const DISK_MIB: usize = 64;

/// Locks rows, those that wait to be marked first, for so long.
pub(crate) async fn lock_rows(platform: &Platform, database_url: &str, lasts: Duration) -> Try {
    let db = soon("database", Database::connect(database_url)).await?;
    let lock = soon("database", db.begin()).await?;
    let chance = if platform.on == On::MariaDb { "rand()" } else { "random()" };
    let select = format!(
        "SELECT id FROM threads WHERE {} IS NULL ORDER BY status, {chance} LIMIT {LOCKED_ROWS} FOR UPDATE SKIP LOCKED",
        platform.shape.mark()
    );
    soon("database", lock.execute_unprepared(&select)).await?;
    sleep(lasts).await;
    soon("database", lock.rollback()).await?;
    Ok(())
}

/// Opens connections to a replica, and asks it meanwhile whether it lives. Fails if it took the question and gave no
/// answer; one that is away takes none.
pub(crate) async fn open_halves(http: &str, lasts: Duration) -> Try {
    let mut open = Vec::new();
    for half in HALVES.iter().cycle().take(HALF_OPEN) {
        let Ok(Ok(mut stream)) = timeout(LIVE_WITHIN, TcpStream::connect(http)).await else { return Ok(()) };
        if stream.write_all(half.as_bytes()).await.is_err() {
            return Ok(());
        }
        open.push(stream);
    }
    let Ok(Ok(mut stream)) = timeout(LIVE_WITHIN, TcpStream::connect(http)).await else { return Ok(()) };
    let mut answer = String::new();
    let asked = async {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        stream.read_to_string(&mut answer).await
    };
    match timeout(LIVE_WITHIN, asked).await {
        Err(_) => {
            return Err(format!("/livez of {http} gave no answer beside {HALF_OPEN} half-open connections").into());
        }
        // It was killed meanwhile.
        Ok(Err(_)) => {}
        Ok(Ok(_)) if answer.is_empty() || answer.starts_with("HTTP/1.1 200") => {}
        Ok(Ok(_)) => return Err(format!("/livez of {http} beside half-open connections: {answer}").into()),
    }
    sleep(lasts).await;
    Ok(())
}

/// Sets a policy that bounds the queues that messages are moved to, and takes it back some time later.
pub(crate) async fn bound_queues(servers: &Servers, lasts: Duration) -> Try {
    let queues = r"^volume-reaper\.(dead-letter|retry\..*)$";
    servers.rabbitmqctl(&["set_policy", "bound", queues, r#"{"max-length": 1}"#]).await?;
    sleep(lasts).await;
    servers.rabbitmqctl(&["clear_policy", "bound"]).await.map(drop)
}

/// Has the broker find its disk too full, which blocks all publishers.
pub(crate) async fn fill_broker(servers: &Servers, lasts: Duration) -> Try {
    servers.rabbitmqctl(&["set_disk_free_limit", "1000000000000000"]).await?;
    sleep(lasts).await;
    servers.rabbitmqctl(&["set_disk_free_limit", "10000000"]).await.map(drop)
}

/// A small disk of PostgreSQL's, on which the receipts lie.
pub(crate) struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    pub(crate) async fn mount(dir: &Path, db: &DatabaseConnection) -> Try<Self> {
        let place = PathBuf::from(format!("{}-disk", dir.display()));
        fs::create_dir_all(&place).await?;
        let disk = Self { place };
        let path = disk.place.display().to_string();
        as_root(&["mount", "-t", "tmpfs", "-o", &format!("size={DISK_MIB}m,mode=777"), "tmpfs", &path]).await?;
        let data = disk.place.join("receipts");
        as_root(&["install", "-d", "-m", "700", "-o", &owner_of(dir).await?, &data.display().to_string()]).await?;
        soon("tablespace", db.execute_unprepared(&format!("CREATE TABLESPACE small LOCATION '{}'", data.display())))
            .await?;
        soon("tablespace", db.execute_unprepared("ALTER TABLE volume_removals SET TABLESPACE small")).await?;
        Ok(disk)
    }

    pub(crate) async fn fill(&self, lasts: Duration) -> Try {
        let ballast = self.place.join("ballast");
        let filled = fs::write(&ballast, vec![0; DISK_MIB << 20]).await;
        if filled.is_ok() {
            return Err("the small disk takes more than it has".into());
        }
        sleep(lasts).await;
        Ok(fs::remove_file(&ballast).await?)
    }

    pub(crate) async fn unmount(&self, db: &DatabaseConnection) -> Try {
        soon("tablespace", db.execute_unprepared("ALTER TABLE volume_removals SET TABLESPACE pg_default")).await?;
        soon("tablespace", db.execute_unprepared("DROP TABLESPACE small")).await?;
        as_root(&["umount", &self.place.display().to_string()]).await?;
        Ok(fs::remove_dir(&self.place).await?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        let _ = umount.arg("--lazy").arg(&self.place).stderr(Stdio::null()).status();
        let _ = std::fs::remove_dir(&self.place);
    }
}

/// Whom PostgreSQL's files belong to.
async fn owner_of(dir: &Path) -> Try<String> {
    let output = Command::new("stat").args(["-c", "%U"]).arg(dir.join("postgres")).output().await?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

pub(crate) async fn as_root(command: &[&str]) -> Try {
    let is_root = Command::new("id").arg("-u").output().await?.stdout.starts_with(b"0\n");
    let command = if is_root { command.to_vec() } else { [&["sudo"][..], command].concat() };
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Servers that are up and are not the right ones: an empty daemon; a database that takes no writes and says of every
/// thread that it is closed; and one that has nothing.
pub(crate) struct WrongServers {
    dirs: [PathBuf; 2],
    /// The path of the daemon's socket.
    pub(crate) docker: String,
    /// Of PostgreSQL.
    pub(crate) databases: Option<WrongDatabases>,
}

pub(crate) struct WrongDatabases {
    /// `host:port` of the one that lies.
    pub(crate) lying: String,
    /// `host:port` of the empty one.
    pub(crate) empty: String,
}

impl WrongServers {
    async fn start(dir: &Path, program: &Program, platform: &Platform) -> Try<Self> {
        let dirs = ["wrong", "empty"].map(|name| PathBuf::from(format!("{}-{name}", dir.display())));
        let mut wrong = Self { dirs, docker: String::new(), databases: None };
        let has_databases = platform.on == On::Postgres;
        let servers = if has_databases { &["docker", "postgres"][..] } else { &["docker"] };
        control(&wrong.dirs[0], "start", servers).await?;
        exported(&wrong.dirs[0], "DOCKER_HOST").await?.trim_start_matches("unix://").clone_into(&mut wrong.docker);
        if has_databases {
            control(&wrong.dirs[1], "start", &["postgres"]).await?;
            let lying_url = exported(&wrong.dirs[0], "DATABASE_URL").await?;
            let empty_url = exported(&wrong.dirs[1], "DATABASE_URL").await?;
            wrong.databases = Some(WrongDatabases {
                lying: authority(&lying_url)?.to_owned(),
                empty: authority(&empty_url)?.to_owned(),
            });
            have_it_lie(&lying_url, program, platform).await?;
        }
        Ok(wrong)
    }
}

async fn have_it_lie(url: &str, program: &Program, platform: &Platform) -> Try {
    let db = soon("wrong database", Database::connect(url)).await?;
    platform.shape.make_tables(platform.on, &db).await?;
    let mut migrate = Command::new(&program.binary);
    migrate.arg("migrate").env_clear().env("DATABASE_URL", url).stdin(Stdio::null());
    migrate.envs(platform.shape.settings(PREFIX));
    if !migrate.output().await?.status.success() {
        return Err("the wrong database can't be migrated".into());
    }
    let ids: Vec<_> = platform.threads.iter().map(|thread| thread.id.as_str()).collect();
    for ids in ids.chunks(500) {
        for insert in platform.shape.insert_threads(PREFIX, ids) {
            soon("wrong database", db.execute_unprepared(&insert)).await?;
        }
    }
    for lie in [
        "UPDATE threads SET status = 'closed', closed_at = now()",
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
    ] {
        soon("wrong database", db.execute_unprepared(lie)).await?;
    }
    Ok(())
}

impl Drop for WrongServers {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = std::process::Command::new(SCRIPT).arg("remove").arg(dir).stderr(Stdio::null()).status();
        }
    }
}

/// What the servers in a directory export.
pub(crate) async fn exported(dir: &Path, name: &str) -> Try<String> {
    let text = fs::read_to_string(dir.join("env")).await?;
    let value = text.lines().find_map(|line| line.strip_prefix("export ")?.strip_prefix(name)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("{}: no {name}", dir.display()))?.to_owned())
}

/// All that they need.
pub(crate) struct Others {
    pub(crate) wrong: WrongServers,
    /// Only PostgreSQL can have the receipts on a disk of their own.
    pub(crate) disk: Option<SmallDisk>,
    pub(crate) database_url: String,
}

impl Others {
    pub(crate) async fn gather(
        servers: &Arc<Servers>,
        program: &Program,
        platform: &Platform,
        database_url: String,
    ) -> Try<Self> {
        let wrong = WrongServers::start(&servers.dir, program, platform).await?;
        let disk = match platform.on {
            On::Postgres => {
                let db = soon("database", Database::connect(&database_url)).await?;
                Some(SmallDisk::mount(&servers.dir, &db).await?)
            }
            On::MariaDb | On::Sqlite => None,
        };
        Ok(Self { wrong, disk, database_url })
    }

    pub(crate) async fn leave(&self) -> Try {
        let Some(disk) = &self.disk else { return Ok(()) };
        let db = soon("database", Database::connect(&self.database_url)).await?;
        disk.unmount(&db).await
    }
}
