//! How the platform keeps its volumes, and on which database: what that means for names, tables and marks.

use std::env;

use chrono::{DateTime, NaiveDateTime, Utc};
use sea_orm::{ConnectionTrait, Database, DbBackend, QueryResult};

use crate::{Try, given};

/// The database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Postgres,
    MariaDb,
    Sqlite,
}

/// How volumes are named, and where their marks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One a thread, by a prefix.
    Prefix,
    /// Two a thread, by templates.
    Templates,
    /// Two a thread, each with a row in a table of their own.
    Table,
}

impl On {
    /// What `SOAK_DATABASE` says.
    pub(crate) fn given() -> Try<Self> {
        match env::var("SOAK_DATABASE").as_deref() {
            Err(_) | Ok("postgres") => Ok(Self::Postgres),
            Ok("mariadb") => Ok(Self::MariaDb),
            Ok("sqlite") => Ok(Self::Sqlite),
            Ok(other) => Err(format!("SOAK_DATABASE is postgres, mariadb or sqlite, and not {other:?}").into()),
        }
    }

    pub(crate) fn backend(self) -> DbBackend {
        match self {
            Self::Postgres => DbBackend::Postgres,
            Self::MariaDb => DbBackend::MySql,
            Self::Sqlite => DbBackend::Sqlite,
        }
    }

    pub(crate) fn now(self) -> &'static str {
        match self {
            Self::Postgres => "now()",
            Self::MariaDb => "now(3)",
            Self::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
        }
    }

    fn types(self) -> [&'static str; 2] {
        match self {
            Self::Postgres => ["text", "timestamptz"],
            Self::MariaDb => ["varchar(128)", "datetime(3)"],
            Self::Sqlite => ["text", "text"],
        }
    }
}

impl Shape {
    /// What `SOAK_SHAPE` says.
    pub(crate) fn given() -> Try<Self> {
        match env::var("SOAK_SHAPE").as_deref() {
            Err(_) | Ok("prefix") => Ok(Self::Prefix),
            Ok("templates") => Ok(Self::Templates),
            Ok("table") => Ok(Self::Table),
            Ok(other) => Err(format!("SOAK_SHAPE is prefix, templates or table, and not {other:?}").into()),
        }
    }

    /// The names of a thread's volumes.
    pub(crate) fn volumes(self, prefix: &str, id: &str) -> Vec<String> {
        let first = format!("{prefix}_ws_{id}");
        match self {
            Self::Prefix => vec![first],
            Self::Templates => vec![first, format!("{prefix}_cache_{id}")],
            Self::Table => vec![format!("{first}-cache"), first],
        }
    }

    pub(crate) fn per_thread(self) -> usize {
        self.volumes("", "").len()
    }

    /// Whether a volume may be called so.
    pub(crate) fn is_ours(prefix: &str, volume: &str) -> bool {
        ["ws", "cache"].iter().any(|kind| volume.starts_with(&format!("{prefix}_{kind}_")))
    }

    pub(crate) fn settings(self, prefix: &str) -> Vec<(&'static str, String)> {
        let of_prefix = ("VOLUME_REAPER_VOLUME_PREFIX", format!("{prefix}_ws_"));
        match self {
            Self::Prefix => vec![of_prefix],
            Self::Templates => {
                let names = format!("{prefix}_ws_{{id}},{prefix}_cache_{{id}}");
                vec![of_prefix, ("VOLUME_REAPER_VOLUME_NAMES", names)]
            }
            Self::Table => vec![of_prefix, ("VOLUME_REAPER_VOLUMES_TABLE", "workspace_volumes".to_owned())],
        }
    }

    /// The tables that the platform makes itself; all others the service does.
    pub(crate) async fn make_tables(self, on: On, db: &impl ConnectionTrait) -> Try {
        match self {
            Self::Prefix | Self::Templates => return Ok(()),
            Self::Table => {}
        }
        let [text, time] = on.types();
        for table in [
            format!("threads (id {text} PRIMARY KEY, status {text} NOT NULL, closed_at {time})"),
            format!(
                "workspace_volumes (id {text} PRIMARY KEY, thread_id {text} NOT NULL, \
                 volume_name {text} NOT NULL UNIQUE, removed_at {time}, \
                 FOREIGN KEY (thread_id) REFERENCES threads (id))"
            ),
        ] {
            db.execute_unprepared(&format!("CREATE TABLE {table}")).await?;
        }
        Ok(())
    }

    /// What puts open threads into the database; at most some hundred.
    pub(crate) fn insert_threads(self, prefix: &str, ids: &[&str]) -> Vec<String> {
        let threads: Vec<_> = ids.iter().map(|id| format!("('{id}', 'open')")).collect();
        let threads = format!("INSERT INTO threads (id, status) VALUES {}", threads.join(","));
        match self {
            Self::Prefix | Self::Templates => vec![threads],
            Self::Table => {
                let of_thread = |id: &&str| {
                    let volumes = self.volumes(prefix, id).into_iter();
                    volumes.map(|volume| format!("('{volume}', '{id}', '{volume}')")).collect::<Vec<_>>()
                };
                let volumes = ids.iter().flat_map(of_thread).collect::<Vec<_>>().join(",");
                let insert = "INSERT INTO workspace_volumes (id, thread_id, volume_name) VALUES";
                vec![threads, format!("{insert} {volumes}")]
            }
        }
    }

    /// When a thread's last volume was marked, in a query for threads; null if one is not.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Prefix | Self::Templates => "workspace_volume_removed_at",
            Self::Table => {
                "(SELECT CASE WHEN count(*) = count(removed_at) THEN max(removed_at) END FROM workspace_volumes \
                 WHERE thread_id = threads.id)"
            }
        }
    }

    /// The condition that something of a thread has a mark.
    pub(crate) fn has_a_mark(self) -> &'static str {
        match self {
            Self::Prefix | Self::Templates => "workspace_volume_removed_at IS NOT NULL",
            Self::Table => {
                "EXISTS (SELECT 1 FROM workspace_volumes WHERE thread_id = threads.id AND removed_at IS NOT NULL)"
            }
        }
    }
}

/// A moment, of whatever type the database has for it.
pub(crate) fn time(row: &QueryResult, index: usize) -> Option<DateTime<Utc>> {
    let naive = || row.try_get_by_index::<Option<NaiveDateTime>>(index).ok().flatten().map(|time| time.and_utc());
    row.try_get_by_index::<Option<DateTime<Utc>>>(index).unwrap_or_else(|_| naive())
}

/// A database of its own on a server; the address of that.
pub(crate) async fn new_database(variable: &str, name: &str) -> Try<String> {
    let server = given(variable)?;
    let admin = Database::connect(&server).await?;
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
    admin.close().await?;
    let (server, _) = server.rsplit_once('/').ok_or("no database in the URL")?;
    Ok(format!("{server}/{name}"))
}
