//! The platform's own table, used in place: every shape that it may have.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{On, Serving, World, connect, eventually, numbers_of_digits};

/// A uuid as the databases write it, but for its last digit.
const UUID: &str = "7f1c2a30-9f55-4f0e-8a77-0f6f1f4f1b1";

/// A table as Prisma makes them on PostgreSQL: quoted names in mixed case, uuids, an enum, times without zone.
const PRISMA: &str = r#"
    CREATE TYPE "ThreadStatus" AS ENUM ('OPEN', 'CLOSED');
    CREATE TABLE "Thread" (
        "id" uuid PRIMARY KEY, "threadStatus" "ThreadStatus" NOT NULL DEFAULT 'OPEN',
        "closedAt" timestamp(3), "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE "Message" ("id" bigserial PRIMARY KEY, "threadId" uuid NOT NULL REFERENCES "Thread")"#;

/// A world with this table, described to the program by these settings.
async fn adopting(on: On, tables: &str, settings: &[(&str, &str)]) -> World {
    let mut world = World::without_schema(on).await;
    world.execute(tables).await;
    for (key, value) in settings {
        world.set(&format!("VOLUME_REAPER_THREADS_{key}"), *value);
    }
    world
}

/// A table in the words of MySQL and SQLite, as this database has it.
fn tables_on(on: On, tables: &str) -> String {
    match on {
        On::Postgres => tables.replace("datetime", "timestamp"),
        On::Sqlite | On::Mysql => tables.to_owned(),
    }
}

/// MariaDB has a type for uuids, MySQL has none.
async fn uuid_on_mysql() -> &'static str {
    if World::without_schema(On::Mysql).await.is_mariadb().await { "uuid" } else { "char(36)" }
}

async fn prisma() -> World {
    let names = [
        ("TABLE", "Thread"),
        ("STATUS_COLUMN", "threadStatus"),
        ("CLOSED_AT_COLUMN", "closedAt"),
        ("CLOSED_VALUE", "CLOSED"),
    ];
    adopting(On::Postgres, PRISMA, &names).await
}

async fn migrated(world: World) -> World {
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
    world
}

/// The one line of a `migrate` that is refused.
async fn refusal(world: &World) -> String {
    let output = world.run(&["migrate"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = error.lines().filter(|line| line.starts_with("volume-reaper: ")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    lines[0].to_owned()
}

/// How many volumes a sweep removed, and how many rows it marked because theirs were absent.
fn counts(report: &Value) -> (u64, u64) {
    (report["removed"].as_u64().expect("a number"), report["not_found"].as_u64().expect("a number"))
}

#[tokio::test]
async fn a_table_with_uuids_an_enum_and_mixed_case_is_cleaned_by_event_and_sweep() {
    let world = migrated(prisma().await).await;
    let ids: Vec<String> = (1..=3).map(|digit| format!("{UUID}{digit}")).collect();
    for id in &ids {
        world.create_volume(id).await;
        world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{id}', 'CLOSED')")).await;
    }
    world.execute(&format!("UPDATE \"Thread\" SET \"threadStatus\" = 'OPEN' WHERE id = '{}'", ids[2])).await;
    let serving = world.serve_idle().await;
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}4', 'CLOSED')")).await;
    world.create_volume(&format!("{UUID}4")).await;
    world.publish_closed(&format!("{UUID}4")).await;
    eventually("three are marked", async || {
        let marked = "SELECT CAST(count(*) AS text) FROM \"Thread\" WHERE workspace_volume_removed_at IS NOT NULL";
        (world.texts(marked).await == ["3"]).then_some(())
    })
    .await;
    assert!(!world.has_volume(&ids[0]).await && world.has_volume(&ids[2]).await);
    assert_eq!(world.receipts(&format!("{UUID}4")).await, ["removed/event"]);
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn every_type_of_id_and_status_is_swept_page_by_page_and_counted() {
    let shapes = [
        (On::Postgres, "id bigint PRIMARY KEY, status text", "('9', 'closed'), ('10', 'closed'), ('11', 'open')"),
        (
            On::Postgres,
            "id varchar(36) PRIMARY KEY, status varchar(9)",
            "('9', 'closed'), ('10', 'closed'), ('11', '')",
        ),
        (On::Postgres, "id char(36) PRIMARY KEY, status char(9)", "('9', 'closed'), ('10', 'closed'), ('11', 'open')"),
        (On::Sqlite, "id INTEGER PRIMARY KEY, status varchar(9)", "(9, 'closed'), (10, 'closed'), (11, NULL)"),
        (On::Sqlite, "id TEXT PRIMARY KEY, status TEXT", "('9', 'closed'), ('10', 'closed'), ('11', 'open')"),
        (On::Mysql, "id bigint PRIMARY KEY, status text", "('9', 'closed'), ('10', 'closed'), ('11', 'open')"),
        (
            On::Mysql,
            "id char(36) PRIMARY KEY, status enum('open', 'it''s over', 'closed')",
            "('9', 'closed'), ('10', 'closed'), ('11', 'open')",
        ),
        (
            On::Mysql,
            "id varchar(36) CHARACTER SET latin1 PRIMARY KEY, status varchar(9)",
            "('9', 'closed'), ('10', 'closed'), ('11', NULL)",
        ),
    ];
    for (on, columns, rows) in shapes {
        let tables = format!("CREATE TABLE threads ({columns}); INSERT INTO threads VALUES {rows}");
        let world = migrated(adopting(on, &tables, &[("CLOSED_AT_COLUMN", "")]).await).await;
        world.create_volume("9").await;
        world.create_volume("11").await;
        assert_eq!(counts(&world.sweep().await), (1, 1), "{columns}");
        assert!(world.has_volume("11").await, "{columns}");
        assert_eq!(world.sweep().await["candidates"], 0, "{columns}");
    }
}

#[tokio::test]
async fn a_boolean_that_is_true_or_false_when_closed_is_a_status() {
    let shapes = [
        (On::Postgres, "is_closed boolean", "true", "true", "false"),
        (On::Postgres, "is_open boolean", "false", "false", "true"),
        (On::Postgres, "state smallint", "2", "2", "1"),
        (On::Sqlite, "is_closed BOOLEAN", "true", "1", "0"),
        (On::Sqlite, "state INTEGER", "2", "2", "1"),
        (On::Mysql, "is_closed boolean", "true", "true", "false"),
        (On::Mysql, "is_open tinyint(1)", "false", "0", "1"),
        (On::Mysql, "is_closed bit(1)", "true", "1", "0"),
        (On::Mysql, "state smallint", "2", "2", "1"),
    ];
    for (on, column, setting, closed, open) in shapes {
        let name = column.split(' ').next().expect("a name");
        let tables = format!(
            "CREATE TABLE threads (id varchar(9) PRIMARY KEY, {column}); \
             INSERT INTO threads VALUES ('a', {closed}), ('b', {open}), ('c', NULL)"
        );
        let settings = [("CLOSED_AT_COLUMN", ""), ("STATUS_COLUMN", name), ("CLOSED_VALUE", setting)];
        let world = migrated(adopting(on, &tables, &settings).await).await;
        for id in ["a", "b", "c"] {
            world.create_volume(id).await;
        }
        assert_eq!(counts(&world.sweep().await), (1, 0), "{column}");
        assert!(!world.has_volume("a").await && world.has_volume("b").await && world.has_volume("c").await);
        // Reopening clears the mark.
        world.execute(&format!("UPDATE threads SET {name} = {open}")).await;
        assert_eq!(world.mark("a").await, None, "{column}");
        // What `doctor` looks at in the database is as it should be.
        let report = world.run(&["doctor", "--json"]).await;
        let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks").iter();
        let bad: Vec<_> = checks
            .filter(|check| {
                check["name"].as_str().expect("a name").starts_with("database.") && check["status"] == "fail"
            })
            .collect();
        assert!(bad.is_empty(), "{column}: {bad:?}");
    }
}

#[tokio::test]
async fn a_sweep_of_an_adopted_table_reads_only_the_partial_index() {
    let types = [("uuid", "gen_random_uuid()"), ("bigint", "n")];
    for (id, value) in types {
        for (status, closed) in [("\"Status\"", "CLOSED"), ("boolean", "true"), ("varchar(9)", "CLOSED")] {
            let tables = format!(
                "CREATE TYPE \"Status\" AS ENUM ('OPEN', 'CLOSED'); \
                 CREATE TABLE threads (id {id} PRIMARY KEY, status {status}, closed_at timestamp(3), \
                 workspace_volume_removed_at timestamp(3)); \
                 INSERT INTO threads SELECT {value}, '{closed}', now(), now() FROM generate_series(1, 20000) n"
            );
            let world = migrated(adopting(On::Postgres, &tables, &[("CLOSED_VALUE", closed)]).await).await;
            world.execute("VACUUM ANALYZE threads").await;
            let explain = format!(
                "EXPLAIN SELECT CAST(id AS text) AS thread_id_text, closed_at FROM threads WHERE status = '{closed}' \
                 AND workspace_volume_removed_at IS NULL ORDER BY id LIMIT 2000"
            );
            let plan = world.texts(&explain).await.join("\n");
            assert!(plan.contains("Index Only Scan using volume_reaper_unmarked_threads"), "{id} {status}: {plan}");
        }
    }
}

#[tokio::test]
async fn on_mysql_too_a_sweep_of_an_adopted_table_reads_only_the_index() {
    for (id, value) in [(uuid_on_mysql().await, "uuid()"), ("bigint", "n")] {
        for (status, closed) in
            [("enum('OPEN', 'CLOSED')", "'CLOSED'"), ("boolean", "true"), ("varchar(9)", "'CLOSED'")]
        {
            let tables = format!(
                "CREATE TABLE threads (id {id} PRIMARY KEY, status {status}, closed_at datetime(3), \
                 workspace_volume_removed_at datetime(3)); \
                 INSERT INTO threads SELECT {value}, {closed}, now(), now() FROM {}; ANALYZE TABLE threads",
                numbers_of_digits(4)
            );
            let setting = ("CLOSED_VALUE", closed.trim_matches('\''));
            let world = migrated(adopting(On::Mysql, &tables, &[setting]).await).await;
            let explain = format!(
                "EXPLAIN FORMAT=TRADITIONAL SELECT CAST(id AS char), closed_at FROM threads WHERE status = {closed} \
                 AND workspace_volume_removed_at IS NULL ORDER BY id LIMIT 2000"
            );
            let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::MySql, explain);
            let plan = sea_orm::ConnectionTrait::query_one_raw(&world.db, statement).await.expect("a plan");
            let of = |column: &str| plan.as_ref().expect("a row").try_get::<String>("", column).expect("text");
            let (key, extra) = (of("key"), of("Extra"));
            assert_eq!(key, "volume_reaper_unmarked_threads", "{id} {status}");
            assert!(extra.contains("Using index") && !extra.contains("filesort"), "{id} {status}: {extra}");
        }
    }
}

#[tokio::test]
async fn uuids_of_mariadb_are_cleaned_by_event_and_sweep() {
    let tables =
        "CREATE TABLE `Thread` (`id` uuid PRIMARY KEY, `threadStatus` enum('OPEN', 'CLOSED'), `closedAt` datetime(3))";
    let names = [
        ("TABLE", "Thread"),
        ("STATUS_COLUMN", "threadStatus"),
        ("CLOSED_AT_COLUMN", "closedAt"),
        ("CLOSED_VALUE", "CLOSED"),
    ];
    let world = World::without_schema(On::Mysql).await;
    if !world.is_mariadb().await {
        println!("MySQL has no type uuid");
        return;
    }
    let world = migrated(adopting(On::Mysql, tables, &names).await).await;
    for digit in 1..=3 {
        world.create_volume(&format!("{UUID}{digit}")).await;
        let status = if digit == 3 { "OPEN" } else { "CLOSED" };
        world.execute(&format!("INSERT INTO `Thread` (id, threadStatus) VALUES ('{UUID}{digit}', '{status}')")).await;
    }
    assert_eq!(counts(&world.sweep().await), (2, 0));
    let serving = world.serve().await;
    world.execute("UPDATE `Thread` SET `threadStatus` = 'CLOSED'").await;
    world.publish_closed(&format!("{UUID}3")).await;
    eventually("consumed", async || (!world.has_volume(&format!("{UUID}3")).await).then_some(())).await;
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn an_id_that_no_row_can_have_is_an_unknown_thread() {
    let mut world = migrated(prisma().await).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let upper = format!("{UUID}a").to_uppercase();
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{upper}', 'CLOSED')")).await;
    let serving = world.serve().await;
    // The second names a row in another spelling, and would name another volume.
    for id in ["not-a-uuid", &upper] {
        world.publish_closed(id).await;
        let letter = world.dead_letter().await;
        let reason = crate::world::header(&letter, "volume-reaper-reason");
        assert_eq!(reason.as_deref(), Some("unknown_thread"), "{id}");
    }
    assert_eq!(serving.stop().await, Some(0));
}

#[tokio::test]
async fn a_column_of_theirs_without_zone_is_used_as_it_is_and_stays() {
    let world = prisma().await;
    world.execute("ALTER TABLE \"Thread\" ADD workspace_volume_removed_at timestamp(3)").await;
    world.execute(&format!("ALTER DATABASE {} SET timezone = 'Asia/Tokyo'", world.name)).await;
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}1', 'CLOSED')")).await;
    let world = migrated(world).await;
    assert_eq!(counts(&world.sweep().await), (0, 1));
    let age = "SELECT CAST(abs(extract(epoch FROM (now() AT TIME ZONE 'UTC') - workspace_volume_removed_at)) < 60 AS \
        text) FROM \"Thread\"";
    assert_eq!(world.texts(age).await, ["true"], "UTC");
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    let kept = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute JOIN \"Thread\" ON \
        workspace_volume_removed_at IS NOT NULL WHERE attname = 'workspace_volume_removed_at'";
    assert_eq!(world.texts(kept).await, ["timestamp(3) without time zone"], "the column and its mark");
}

#[tokio::test]
async fn down_takes_away_exactly_what_up_added() {
    let shape = "SELECT name FROM (SELECT CAST(relname AS text) AS name FROM pg_class JOIN pg_namespace n \
                 ON n.oid = relnamespace WHERE nspname IN ('public', 'app') AND relname NOT LIKE \
                 'volume_reaper_migrations%' \
                 UNION ALL SELECT attname || ' ' || attnum FROM pg_attribute WHERE attrelid = \
                 'app.\"Thread\"'::regclass \
                 AND NOT attisdropped UNION ALL SELECT CAST(tgname AS text) FROM pg_trigger WHERE NOT tgisinternal \
                 UNION ALL SELECT CAST(proname AS text) FROM pg_proc WHERE proname LIKE 'volume%') AS shape ORDER BY 1";
    let tables =
        "CREATE SCHEMA app; CREATE TABLE app.\"Thread\" (id uuid PRIMARY KEY, status text, closed_at timestamptz)";
    let world = adopting(On::Postgres, tables, &[("TABLE", "Thread"), ("SCHEMA", "app")]).await;
    let before = world.texts(shape).await;
    let world = migrated(world).await;
    assert!(world.texts(shape).await.len() > before.len());
    world.execute(&format!("INSERT INTO app.\"Thread\" VALUES ('{UUID}1', 'closed')")).await;
    assert_eq!(counts(&world.sweep().await), (0, 1), "in its schema");
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    assert_eq!(world.texts(shape).await, before);
}

#[tokio::test]
async fn on_the_others_too_down_takes_away_exactly_what_up_added_and_leaves_a_column_of_theirs() {
    for (on, shape) in [
        (
            On::Mysql,
            "SELECT name FROM (SELECT table_name AS name FROM information_schema.tables WHERE table_schema = \
             DATABASE() UNION ALL SELECT CONCAT(table_name, column_name, column_type) FROM information_schema.columns \
             WHERE table_schema = DATABASE() UNION ALL SELECT CONCAT(index_name, column_name) \
             FROM information_schema.statistics WHERE table_schema = DATABASE() \
             UNION ALL SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = DATABASE()) AS \
             shape WHERE name NOT LIKE '%reaper_migrations%' AND name NOT LIKE 'PRIMARYversion%' ORDER BY 1",
        ),
        (
            On::Sqlite,
            "SELECT coalesce(sql, name) FROM sqlite_master WHERE tbl_name <> 'volume_reaper_migrations' \
             AND name NOT LIKE 'sqlite_%' ORDER BY 1",
        ),
    ] {
        for mark in ["", ", gone_at datetime"] {
            let tables =
                format!("CREATE TABLE threads (id varchar(36) PRIMARY KEY, status text, closed_at datetime{mark})");
            let world = adopting(on, &tables, &[("MARK_COLUMN", "gone_at")]).await;
            let before = world.texts(shape).await;
            let world = migrated(world).await;
            assert!(world.texts(shape).await.len() > before.len(), "{on:?}");
            world.execute("INSERT INTO threads (id, status) VALUES ('t1', 'closed')").await;
            assert_eq!(counts(&world.sweep().await), (0, 1), "{on:?}");
            assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
            assert_eq!(world.texts(shape).await, before, "{on:?}");
            let world = migrated(world).await;
            assert_eq!(world.sweep().await["candidates"], u64::from(mark.is_empty()), "{on:?}: a mark of theirs stays");
        }
    }
}

#[tokio::test]
async fn on_the_others_too_the_sql_of_a_dry_run_is_what_up_does() {
    for (on, parts) in [
        (
            On::Mysql,
            [
                "ALTER TABLE `Thread` ADD COLUMN `workspace_volume_removed_at`",
                "ALTER TABLE `Thread` ADD INDEX volume_reaper_unmarked_threads (`status`(64), \
                 `workspace_volume_removed_at`, \
                 `id`), ALGORITHM=INPLACE, LOCK=NONE",
                "SET SESSION lock_wait_timeout = 2",
            ],
        ),
        (
            On::Sqlite,
            [
                "ALTER TABLE \"Thread\" ADD COLUMN \"workspace_volume_removed_at\"",
                "CREATE INDEX IF NOT EXISTS \"volume_reaper_unmarked_threads\" ON \"Thread\" (\"id\")",
                "CREATE TRIGGER volume_reaper_clear_mark AFTER UPDATE ON \"Thread\"",
            ],
        ),
    ] {
        let tables = "CREATE TABLE Thread (id varchar(36) PRIMARY KEY, status text)";
        let world = adopting(on, tables, &[("TABLE", "Thread"), ("CLOSED_AT_COLUMN", "")]).await;
        let output = world.run(&["migrate", "up", "--dry-run"]).await;
        let sql = String::from_utf8_lossy(&output.stdout).into_owned();
        for part in parts {
            assert!(sql.contains(part), "{part}: {sql}");
        }
        for statement in sql.lines().filter(|line| !line.starts_with("--")) {
            world.execute(statement).await;
        }
        world.execute("INSERT INTO Thread (id, status) VALUES ('t1', 'closed')").await;
        assert_eq!(counts(&migrated(world).await.sweep().await), (0, 1), "{on:?}");
    }
}

#[tokio::test]
async fn a_dry_run_says_the_sql_and_executes_none() {
    let world = prisma().await;
    let output = world.run(&["migrate", "up", "--dry-run"]).await;
    let sql = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "ALTER TABLE \"Thread\" ADD COLUMN \"workspace_volume_removed_at\"",
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"volume_reaper_unmarked_threads\" ON \"Thread\" (\"id\", \
         \"closedAt\")",
        "CREATE TRIGGER volume_reaper_clear_mark BEFORE UPDATE ON \"Thread\"",
        "SET LOCAL lock_timeout",
    ] {
        assert!(sql.contains(part), "{part}: {sql}");
    }
    let ours = "SELECT CAST(relname AS text) FROM pg_class WHERE relname LIKE 'volume%'";
    assert!(world.texts(ours).await.is_empty(), "nothing was made");
    // What it says is what `up` does: executed by hand, it leaves nothing that works otherwise.
    for statement in sql.lines().filter(|line| !line.starts_with("--")) {
        if !["BEGIN;", "COMMIT;"].contains(&statement) {
            world.execute(statement).await;
        }
    }
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}1', 'CLOSED')")).await;
    assert_eq!(counts(&migrated(world).await.sweep().await), (0, 1));
}

#[tokio::test]
async fn a_mapping_that_does_not_fit_is_refused_with_what_was_found() {
    let table = "CREATE TYPE state AS ENUM ('open', 'done'); CREATE TABLE thread \
                 (id uuid PRIMARY KEY, state state, number real, closed_at text, kind text NOT NULL); \
                 CREATE VIEW threads_view AS SELECT * FROM thread";
    let cases: [(&[(&str, &str)], &str); 8] = [
        (&[("TABLE", "Thread")], "there is no table \"Thread\" in this database"),
        (&[("TABLE", "Thread")], "there are: thread"),
        (
            &[("TABLE", "thread")],
            "has no column \"status\" (VOLUME_REAPER_THREADS_STATUS_COLUMN); it has: id, state, number",
        ),
        (&[("TABLE", "threads_view")], "is a view"),
        (&[("TABLE", "thread"), ("CLOSED_AT_COLUMN", "")], "has no column \"status\""),
        (
            &[("TABLE", "thread"), ("CLOSED_AT_COLUMN", ""), ("STATUS_COLUMN", "state")],
            "it is never \"closed\" (VOLUME_REAPER_THREADS_CLOSED_VALUE), but open, done",
        ),
        (
            &[("TABLE", "thread"), ("CLOSED_AT_COLUMN", ""), ("ID_COLUMN", "number")],
            "column \"number\" of table \"thread\" is real: an id is text, a uuid or a whole number",
        ),
        (
            &[("TABLE", "thread"), ("CLOSED_AT_COLUMN", ""), ("ID_COLUMN", "kind")],
            "is text: an id is unique, and there is no index that says so",
        ),
    ];
    let mut world = adopting(On::Postgres, table, &[]).await;
    let untouched = world.settings.clone();
    for (settings, expected) in cases {
        world.settings.clone_from(&untouched);
        if expected.starts_with("has no column \"status\" (") {
            world.set("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "");
        }
        for (key, value) in settings {
            world.set(&format!("VOLUME_REAPER_THREADS_{key}"), *value);
        }
        let error = refusal(&world).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let ours = "SELECT CAST(relname AS text) FROM pg_class WHERE relname LIKE 'volume%' OR relname = 'threads'";
    assert!(world.texts(ours).await.is_empty(), "nothing of ours was made");
}

#[tokio::test]
async fn a_table_of_sqlite_that_does_not_fit_is_refused_too() {
    let table = "CREATE TABLE thread (id text, state text)";
    let world = adopting(On::Sqlite, table, &[("TABLE", "threads2")]).await;
    assert!(refusal(&world).await.contains("there are: thread"));
    let world =
        adopting(On::Sqlite, table, &[("TABLE", "thread"), ("CLOSED_AT_COLUMN", ""), ("STATUS_COLUMN", "state")]);
    assert!(refusal(&world.await).await.contains("an id is unique"));
    let world = adopting(On::Sqlite, table, &[("SCHEMA", "app")]).await;
    assert!(refusal(&world).await.contains("SQLite has no schemas"));
}

#[tokio::test]
async fn a_table_of_mysql_that_does_not_fit_is_refused_too() {
    let table = "CREATE TABLE thread (id binary(16) PRIMARY KEY, state enum('open', 'done'), name text, n int, \
                 key (name(20)), closed_at varchar(30)); CREATE VIEW threads_view AS SELECT * FROM thread";
    for (settings, expected) in [
        (&[("TABLE", "Thread")][..], "there are: thread"),
        (&[("TABLE", "threads_view")], "is a view"),
        (&[("TABLE", "thread"), ("SCHEMA", "app")], "name it in DATABASE_URL"),
        (&[("TABLE", "thread"), ("STATUS_COLUMN", "state")], "the time of a close is a timestamp"),
        (
            &[("TABLE", "thread"), ("STATUS_COLUMN", "state"), ("CLOSED_AT_COLUMN", "")],
            "column \"id\" of table \"thread\" is binary(16): an id is text, a uuid or a whole number",
        ),
        (
            &[("TABLE", "thread"), ("STATUS_COLUMN", "state"), ("CLOSED_AT_COLUMN", ""), ("ID_COLUMN", "name")],
            "is text: an id is unique, and there is no index that says so",
        ),
        (&[("TABLE", "thread"), ("CLOSED_AT_COLUMN", ""), ("ID_COLUMN", "uuid")], "it has: id, state, name"),
    ] {
        let world = adopting(On::Mysql, table, settings).await;
        let error = refusal(&world).await;
        assert!(error.contains(expected), "{expected}: {error}");
        let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1";
        let tables = world.texts(tables).await;
        assert!(tables.iter().all(|table| table != "threads" && table != "volume_removals"), "{tables:?}");
    }
}

#[tokio::test]
async fn marks_that_are_there_already_are_believed_and_an_open_threads_stale_one_is_not() {
    for on in On::ALL {
        let tables = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, status text, closed_at datetime, gone_at \
            datetime); INSERT INTO threads VALUES ('marked', 'closed', NULL, CURRENT_TIMESTAMP), \
                      ('stale', 'open', NULL, CURRENT_TIMESTAMP), ('left', 'closed', NULL, NULL)";
        let tables = tables_on(on, tables);
        let world = migrated(adopting(on, &tables, &[("MARK_COLUMN", "gone_at")]).await).await;
        for id in ["stale", "left"] {
            world.create_volume(id).await;
        }
        let report = world.sweep().await;
        assert_eq!((&report["candidates"], counts(&report)), (&Value::from(1), (1, 0)), "{on:?}");
        // Closed by a platform that never cleared what its former collector wrote.
        world.execute("UPDATE threads SET status = 'closed' WHERE id = 'stale'").await;
        assert_eq!(counts(&world.sweep().await), (1, 0), "{on:?}");
        assert!(!world.has_volume("stale").await, "{on:?}");
    }
}

#[tokio::test]
async fn an_id_that_others_refer_to_is_no_obstacle_to_sweep_or_down() {
    let world = migrated(prisma().await).await;
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}1', 'CLOSED')")).await;
    world.execute(&format!("INSERT INTO \"Message\" (\"threadId\") VALUES ('{UUID}1')")).await;
    assert_eq!(counts(&world.sweep().await), (0, 1));
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    assert_eq!(world.texts("SELECT CAST(\"threadId\" AS text) FROM \"Message\"").await, [format!("{UUID}1")]);

    for on in [On::Mysql, On::Sqlite] {
        let tables = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, status varchar(9), closed_at datetime); \
                      CREATE TABLE messages (id varchar(36) PRIMARY KEY, thread_id varchar(36) NOT NULL, \
                      FOREIGN KEY (thread_id) REFERENCES threads (id))";
        let world = migrated(adopting(on, tables, &[]).await).await;
        world.execute("INSERT INTO threads (id, status) VALUES ('t1', 'closed')").await;
        world.execute("INSERT INTO messages VALUES ('m1', 't1')").await;
        assert_eq!(counts(&world.sweep().await), (0, 1), "{on:?}");
        assert!(world.run(&["migrate", "down", "--all"]).await.status.success(), "{on:?}");
        assert_eq!(world.texts("SELECT thread_id FROM messages").await, ["t1"], "{on:?}");
    }
}

#[tokio::test]
async fn the_volume_of_a_row_that_was_deleted_is_an_orphan_and_stays() {
    for on in On::ALL {
        let tables = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, status text, closed_at datetime)";
        let tables = tables_on(on, tables);
        let tables = tables.as_str();
        let mut world = migrated(adopting(on, tables, &[]).await).await;
        world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
        for id in ["deleted", "swept"] {
            world.closed_with_volume(id).await;
        }
        // Deleted after its event was published and before anybody read it.
        world.execute("DELETE FROM threads WHERE id = 'deleted'").await;
        let report = world.sweep().await;
        assert_eq!((counts(&report), &report["orphans"]), ((1, 0), &Value::from(1)), "{on:?}");
        let serving = world.serve().await;
        world.publish_closed("deleted").await;
        world.dead_letter().await;
        assert_eq!(serving.stop().await, Some(0));
        assert!(world.has_volume("deleted").await, "{on:?}");
    }
}

#[tokio::test]
async fn rows_that_go_while_we_sweep_neither_fail_the_sweep_nor_lose_other_volumes() {
    for on in On::ALL {
        let world = migrated(adopting(on, &many(on, 20_000), &[]).await).await;
        world.create_volume("t40").await;
        world.create_volume("without-a-row").await;
        let delete = "DELETE FROM threads WHERE id LIKE '%00'";
        let (report, ()) = tokio::join!(world.sweep(), world.execute(delete));
        let counts = (&report["removed"], &report["failed"], &report["orphans"]);
        assert_eq!(counts, (&1.into(), &0.into(), &1.into()), "{on:?}: {report}");
        assert!(world.has_volume("without-a-row").await, "{on:?}: never guessed");
    }
}

/// A table with many rows, of which one in forty is left to clean.
fn many(on: On, rows: u64) -> String {
    let last = rows - 1;
    let (rows, id) = match on {
        On::Postgres => (format!("generate_series(0, {last}) AS rows(n)"), "'t' || n"),
        On::Mysql => (numbers_of_digits(last.ilog10() + 1), "CONCAT('t', n)"),
        On::Sqlite => {
            let numbers = format!("SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}");
            (format!("(WITH RECURSIVE numbers(n) AS ({numbers}) SELECT n FROM numbers)"), "'t' || n")
        }
    };
    let create = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, status varchar(9), closed_at datetime, owner text)";
    let insert = format!(
        "INSERT INTO threads SELECT {id}, CASE WHEN n % 40 = 0 THEN 'closed' ELSE 'open' END, NULL, '' FROM {rows}"
    );
    format!("{}; {insert}", tables_on(on, create))
}

/// The longest that an update of some row took while `work` was done, and how many there were.
async fn while_writing(world: &World, work: impl Future<Output = ()>) -> (Duration, u64) {
    let (mut longest, mut updates) = (Duration::ZERO, 0_u64);
    let mut work = std::pin::pin!(work);
    loop {
        let row = updates * 7919 % 100_000;
        let update = format!("UPDATE threads SET owner = 'user {updates}' WHERE id = 't{row}'");
        let began = Instant::now();
        tokio::select! {
            () = &mut work => return (longest, updates),
            () = world.execute(&update) => {
                longest = longest.max(began.elapsed());
                updates += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_table_with_a_million_rows_is_migrated_and_swept_while_the_platform_writes_to_it() {
    for on in On::ALL {
        let world = adopting(on, &many(on, 1_000_000), &[]).await;
        let migrate_and_sweep = async {
            let output = world.run(&["migrate"]).await;
            assert!(output.status.success(), "{on:?}: {output:?}");
            assert_eq!(counts(&world.sweep().await), (0, 25_000), "{on:?}");
        };
        let (longest, updates) = while_writing(&world, migrate_and_sweep).await;
        println!("{on:?}: {updates} updates, the longest took {longest:?}");
        assert!(updates > 10 && longest < Duration::from_secs(5), "{on:?}: {updates} updates, {longest:?}");
        assert_eq!(world.sweep().await["candidates"], 0, "{on:?}");
    }
}

#[tokio::test]
async fn a_long_transaction_on_the_table_delays_the_migration_and_nobody_else() {
    for (on, holder) in [(On::Postgres, "it is held by process"), (On::Mysql, "it is held by maybe process")] {
        let world = adopting(on, &many(on, 100_000), &[]).await;
        let reader = sea_orm::TransactionTrait::begin(&world.db).await.expect("a transaction");
        sea_orm::ConnectionTrait::execute_unprepared(&reader, "SELECT 1 FROM threads LIMIT 1").await.expect("read");
        let error = async { assert!(refusal(&world).await.contains(holder), "{on:?}") };
        let (longest, updates) = while_writing(&world, error).await;
        // Those that came while we waited for the lock, two seconds, waited with us.
        assert!(updates > 10 && longest < Duration::from_secs(6), "{on:?}: {updates} updates, {longest:?}");
        reader.rollback().await.expect("ended");
        migrated(world).await;
    }
}

/// The SQL of the section about rights in `docs/postgresql.md`, for roles and a table of this test.
fn grants(world: &World, part: &str) -> String {
    let page = include_str!("../../docs/postgresql.md");
    let (_, section) = page.split_once("## Rights").expect("the section");
    let (_, section) = section.split_once(part).expect("the part");
    let lines =
        section.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| line.starts_with("    "));
    let sql = lines.map(str::trim).collect::<Vec<_>>().join("\n");
    sql.replace("reaper_migrator", &format!("{}_migrator", world.name))
        .replace("reaper_server", &format!("{}_server", world.name))
        .replace("platform_owner", &format!("{}_owner", world.name))
        .replace("DATABASE platform", &format!("DATABASE {}", world.name))
}

fn url_of(world: &World, role: &str) -> String {
    let mut url = url::Url::parse(&world.settings["DATABASE_URL"]).expect("a URL");
    url.set_username(&format!("{}_{role}", world.name)).expect("a user");
    url.set_password(Some("s3cret")).expect("a password");
    url.into()
}

/// A world whose platform, migrator and server are roles of their own, with the grants of `docs/postgresql.md`.
async fn with_roles() -> World {
    let mut world = prisma().await;
    let name = world.name.clone();
    for role in ["owner", "migrator", "server"] {
        world.execute(&format!("CREATE ROLE {name}_{role} LOGIN PASSWORD 's3cret'")).await;
    }
    world
        .execute(&format!(
            "ALTER TABLE \"Thread\" OWNER TO {name}_owner; ALTER TABLE \"Message\" OWNER TO {name}_owner"
        ))
        .await;
    world.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC").await;
    world.execute(&format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await;
    world.execute(&format!("GRANT USAGE ON SCHEMA public TO {name}_owner")).await;
    world.execute(&grants(&world, "Before `migrate`")).await;
    world.set("DATABASE_URL", url_of(&world, "migrator"));
    let world = migrated(world).await;
    world.execute(&grants(&world, "After it")).await;
    world
}

async fn serve_as_server(world: &mut World) -> Serving {
    world.set("DATABASE_URL", url_of(world, "server"));
    world.set("VOLUME_REAPER_MIGRATE", "false");
    world.serve().await
}

#[tokio::test]
async fn the_rights_that_the_page_about_postgresql_lists_are_enough() {
    let mut world = with_roles().await;
    for digit in [1, 2] {
        world.create_volume(&format!("{UUID}{digit}")).await;
        let row = format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}{digit}', 'CLOSED')");
        world.execute(&row).await;
    }
    let hold = world.run(&["hold", &format!("{UUID}2"), "--reason", "test"]).await;
    assert!(hold.status.success(), "{hold:?}");
    let serving = serve_as_server(&mut world).await;
    eventually("swept", async || (!world.has_volume(&format!("{UUID}1")).await).then_some(())).await;
    assert!(world.run(&["release", &format!("{UUID}2")]).await.status.success());
    world.publish_closed(&format!("{UUID}2")).await;
    eventually("consumed", async || (!world.has_volume(&format!("{UUID}2")).await).then_some(())).await;
    assert!(world.run(&["pause", "--reason", "test"]).await.status.success());
    assert!(world.run(&["resume"]).await.status.success());
    assert!(world.run(&["hosts", "adopt"]).await.status.success());
    assert_eq!(counts(&world.sweep().await), (0, 0));
    assert_eq!(serving.stop().await, Some(0));
    let doctor = world.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let rights = report["checks"].as_array().expect("checks").iter().find(|check| check["name"] == "database.rights");
    assert_eq!(rights.expect("the check")["status"], "ok", "{rights:?}");
    // And they are not more than needed.
    let server = crate::world::connect(&url_of(&world, "server")).await;
    let update = "UPDATE \"Thread\" SET \"threadStatus\" = 'OPEN'";
    let denied = sea_orm::ConnectionTrait::execute_unprepared(&server, update);
    assert!(denied.await.expect_err("denied").to_string().contains("permission denied"));
}

#[tokio::test]
async fn the_rights_that_the_page_about_mysql_lists_are_enough() {
    let tables = "CREATE TABLE Thread (id varchar(36) PRIMARY KEY, threadStatus varchar(9), closedAt datetime(3), \
        secret text); CREATE TABLE Secret (id int)";
    let names = [("TABLE", "Thread"), ("STATUS_COLUMN", "threadStatus"), ("CLOSED_AT_COLUMN", "closedAt")];
    let mut world = adopting(On::Mysql, tables, &names).await;
    let page = include_str!("../../docs/mysql.md");
    let sql: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split_once("```").expect("an end").0).collect();
    let ours = |sql: &str| {
        let sql = sql.replace("reaper_migrator", &format!("{}_migrator", world.name));
        sql.replace("reaper_server", &format!("{}_server", world.name)).replace("platform", &world.name)
    };
    let [before, after] = [sql[0], sql[1]].map(ours);
    world.execute(&before.replace("'...'", "'s3cret'")).await;
    // One of the two remedies for error 1419, and the one that leaves the other tests alone.
    world.execute(&format!("GRANT SUPER ON *.* TO {}_migrator", world.name)).await;
    world.set("DATABASE_URL", url_of(&world, "migrator"));
    let world = migrated(world).await;
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    let mut world = migrated(world).await;
    world.execute(&after).await;
    world.create_volume("t1").await;
    world.execute("INSERT INTO Thread (id, threadStatus) VALUES ('t1', 'closed')").await;

    world.set("DATABASE_URL", url_of(&world, "server"));
    world.set("VOLUME_REAPER_MIGRATE", "false");
    let serving = world.serve().await;
    eventually("swept", async || (!world.has_volume("t1").await).then_some(())).await;
    assert_eq!(serving.stop().await, Some(0));
    for command in [&["hold", "t2", "--reason", "x"][..], &["release", "t2"], &["pause", "--reason", "x"], &["resume"]]
    {
        let output = world.run(command).await;
        assert!(output.status.success(), "{output:?}");
    }
    let doctor = world.run(&["doctor", "--json"]).await;
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks").iter();
    let of_database = |check: &&Value| check["name"].as_str().is_some_and(|name| name.starts_with("database."));
    let bad: Vec<_> = checks.filter(of_database).filter(|check| check["status"] == "fail").collect();
    assert!(bad.is_empty(), "{bad:?}");
    // And they are not more than needed.
    let migrator = connect(&url_of(&world, "migrator")).await;
    for denied in ["SELECT * FROM Secret", "DELETE FROM Thread", "DROP TABLE Thread"] {
        let result = sea_orm::ConnectionTrait::execute_unprepared(&migrator, denied).await;
        assert!(result.expect_err("denied").to_string().contains("denied"), "{denied}");
    }
    let server = connect(&url_of(&world, "server")).await;
    for denied in
        ["UPDATE Thread SET threadStatus = 'open'", "SELECT secret FROM Thread", "DELETE FROM volume_removals"]
    {
        let result = sea_orm::ConnectionTrait::execute_unprepared(&server, denied).await;
        assert!(result.expect_err("denied").to_string().contains("denied"), "{denied}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_one_clear_line() {
    let mut world = with_roles().await;
    let revoke = format!("REVOKE UPDATE (workspace_volume_removed_at) ON \"Thread\" FROM {}_server", world.name);
    world.execute(&revoke).await;
    world.execute(&format!("INSERT INTO \"Thread\" (id, \"threadStatus\") VALUES ('{UUID}1', 'CLOSED')")).await;
    world.set("DATABASE_URL", url_of(&world, "server"));
    world.set("VOLUME_REAPER_MIGRATE", "false");
    let output = world.run(&["sweep", "--json"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(text.contains("permission denied for table Thread"), "{text}");
}

#[tokio::test]
async fn doctor_says_of_a_column_that_no_longer_fits_what_it_is() {
    let world = migrated(prisma().await).await;
    world.execute("DROP TRIGGER volume_reaper_clear_mark ON \"Thread\"").await;
    world.execute("ALTER TABLE \"Thread\" ALTER \"closedAt\" TYPE text").await;
    let doctor = world.run(&["doctor", "--json"]).await;
    assert_eq!(doctor.status.code(), Some(1));
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        text.contains(r#"column \"closedAt\" of table \"Thread\" is text: the time of a close is a timestamp"#),
        "{text}"
    );
}

#[tokio::test]
async fn numbers_beyond_what_is_signed_are_ids_and_the_pages_end_with_them() {
    let tables = format!(
        "CREATE TABLE threads (id bigint unsigned PRIMARY KEY, status varchar(9)); \
         INSERT INTO threads SELECT 18446744073709549000 + n, 'closed' FROM {} WHERE n BETWEEN 1 AND 2500",
        numbers_of_digits(4)
    );
    let world = migrated(adopting(On::Mysql, &tables, &[("CLOSED_AT_COLUMN", "")]).await).await;
    world.create_volume("18446744073709551500").await;
    assert_eq!(counts(&world.sweep().await), (1, 2499));
}

#[tokio::test]
async fn texts_in_a_column_of_numbers_neither_keep_a_sweep_from_ending_nor_hide_the_numbers() {
    // SQLite does not mind what stands in a column.
    let tables = "CREATE TABLE threads (id integer UNIQUE, status text); \
                  INSERT INTO threads VALUES (7, 'closed'); \
                  WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 5000) \
                  INSERT INTO threads SELECT 't' || n, 'closed' FROM numbers";
    let world = migrated(adopting(On::Sqlite, tables, &[("CLOSED_AT_COLUMN", "")]).await).await;
    world.create_volume("7").await;
    assert_eq!(world.sweep().await["removed"], 1);
}

#[tokio::test]
async fn a_mark_that_the_database_sets_itself_or_that_can_not_be_kept_is_refused() {
    let cases = [
        (On::Postgres, "gone_at timestamptz DEFAULT now()", "", "this column fills itself"),
        (On::Sqlite, "gone_at timestamp DEFAULT CURRENT_TIMESTAMP", "", "this column fills itself"),
        (On::Mysql, "gone_at timestamp NULL ON UPDATE CURRENT_TIMESTAMP", "", "this column fills itself"),
        (On::Mysql, "gone_at timestamp NULL", "ENGINE=MyISAM", "is not InnoDB's"),
        (On::Mysql, "Gone_At timestamp NULL", "", "has a column \"Gone_At\": write VOLUME_REAPER_THREADS_MARK_COLUMN"),
        (On::Sqlite, "Gone_At timestamp NULL", "", "has a column \"Gone_At\": write VOLUME_REAPER_THREADS_MARK_COLUMN"),
    ];
    for (on, mark, engine, expected) in cases {
        let table = format!("CREATE TABLE threads (id varchar(36) PRIMARY KEY, status varchar(9), {mark}) {engine}");
        let settings = [("CLOSED_AT_COLUMN", ""), ("MARK_COLUMN", "gone_at")];
        let error = refusal(&adopting(on, &table, &settings).await).await;
        assert!(error.contains(expected), "{on:?} {expected}: {error}");
    }
}

#[tokio::test]
async fn a_column_of_ours_stays_ours_when_the_migration_ended_right_after_it() {
    // MySQL takes back none of it: as if the connection had been lost before the next statement.
    let tables = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, status varchar(9))";
    let world = adopting(On::Mysql, tables, &[("CLOSED_AT_COLUMN", "")]).await;
    let output = world.run(&["migrate", "up", "--dry-run"]).await;
    let plan = String::from_utf8_lossy(&output.stdout).into_owned();
    let (done, _) = plan.split_once("-- m20261126_000005").expect("the next migration");
    for statement in done.lines().filter(|line| !line.starts_with("--")) {
        world.execute(statement).await;
        if statement.contains("ADD COLUMN") {
            break;
        }
    }
    let world = migrated(world).await;
    assert!(world.run(&["migrate", "down", "--all"]).await.status.success());
    let columns = "SELECT CAST(column_name AS char) FROM information_schema.columns \
                   WHERE table_schema = DATABASE() AND table_name = 'threads' ORDER BY ordinal_position";
    assert_eq!(world.texts(columns).await, ["id", "status"]);
}

#[tokio::test]
async fn failures_of_an_adopted_tables_threads_back_off_and_are_forgotten_when_settled() {
    let shapes = [
        (On::Postgres, "bigint"),
        (On::Postgres, "varchar(9)"),
        (On::Mysql, "bigint"),
        (On::Mysql, "int unsigned"),
        (On::Mysql, "varchar(9)"),
        (On::Sqlite, "integer"),
    ];
    for (on, id) in shapes {
        let tables = format!(
            "CREATE TABLE threads (id {id} PRIMARY KEY, status varchar(9)); \
             INSERT INTO threads VALUES ('7', 'closed'), ('8', 'open'), ('0', 'closed')"
        );
        let world = migrated(adopting(on, &tables, &[("CLOSED_AT_COLUMN", "")]).await).await;
        world.create_volume("7").await;
        let now = world.moment(chrono::Utc::now());
        for failed in ["7", "8", "0", "gone"] {
            let failure = format!("'{failed}', 1, '{now}', '{now}', 'test', 'test'");
            let columns = "thread_id, attempts, first_failed_at, failed_at, error, replica";
            world.execute(&format!("INSERT INTO volume_reaper_failures ({columns}) VALUES ({failure})")).await;
        }
        assert_eq!(counts(&world.sweep().await), (0, 1), "{on:?} {id}");
        assert!(world.has_volume("7").await, "{on:?} {id}: not before its time");
        assert_eq!(world.texts("SELECT thread_id FROM volume_reaper_failures").await, ["7"], "{on:?} {id}");
    }
}

#[tokio::test]
async fn an_adopted_table_is_explained() {
    let shapes = [
        (On::Postgres, "uuid", "boolean", "true"),
        (On::Mysql, uuid_on_mysql().await, "bit(1)", "1"),
        (On::Mysql, "char(36)", "tinyint(1)", "1"),
        (On::Sqlite, "TEXT", "BOOLEAN", "1"),
    ];
    for (on, id, status, said) in shapes {
        let thread = format!("{UUID}1");
        let tables = format!(
            "CREATE TABLE threads (id {id} PRIMARY KEY, status {status}); INSERT INTO threads VALUES ('{thread}', true)"
        );
        let settings = [("CLOSED_AT_COLUMN", ""), ("CLOSED_VALUE", "true")];
        let world = migrated(adopting(on, &tables, &settings).await).await;
        world.create_volume(&thread).await;
        assert_eq!(counts(&world.sweep().await), (1, 0), "{on:?} {status}");
        let output = world.run(&["explain", &thread, "--json"]).await;
        let explained: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let row = &explained["thread"];
        let found = (&row["status"], &row["closed"], &row["marked"]);
        assert_eq!(found, (&said.into(), &true.into(), &true.into()), "{on:?} {status}: {explained}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_at_the_start_or_goes_later_is_said_and_heals() {
    let mut world = with_roles().await;
    let owner = connect(&url_of(&world, "migrator")).await;
    world.set("DATABASE_URL", url_of(&world, "server"));
    world.set("VOLUME_REAPER_MIGRATE", "false");
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1s");
    let leases = async |what: &str| {
        let sql = what.replace("{}", &format!("{}_server", world.name));
        sea_orm::ConnectionTrait::execute_unprepared(&owner, &sql).await.expect("done");
    };
    leases("REVOKE UPDATE ON volume_reaper_leases FROM {}").await;
    let serving = world.start().await;
    let unready = eventually("the start says what is missing", async || {
        let (code, body) = serving.get("/readyz").await;
        (code == 503 && body.contains("permission denied for table volume_reaper_leases")).then_some(body)
    })
    .await;
    assert!(unready.contains("volume-reaper doctor"), "{unready}");
    leases("GRANT UPDATE ON volume_reaper_leases TO {}").await;
    serving.until_ready().await;
    serving.until_line(|line| line["message"] == "this replica sweeps now").await;
    leases("REVOKE UPDATE ON volume_reaper_leases FROM {}").await;
    serving.until_metric("volume_reaper_lease_failures_total", 1).await;
    let (code, body) = serving.get("/readyz").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(code, 200, "others may sweep: {body}");
    let why = body["degraded"]["sweep"].as_str().expect("the part that can't work");
    assert!(why.contains("permission denied for table volume_reaper_leases"), "{why}");
    let warned = |line: &Value| {
        line["level"] == "WARN" && line["message"].as_str().is_some_and(|it| it.starts_with("this replica can't sweep"))
    };
    serving.until_line(warned).await;
    assert_eq!(serving.lines().iter().filter(|line| warned(line)).count(), 1);
    leases("GRANT UPDATE ON volume_reaper_leases TO {}").await;
    eventually("it heals", async || (!serving.get("/readyz").await.1.contains("degraded")).then_some(())).await;
    let said = |what: &str| serving.lines().iter().filter(|line| line["message"] == what).count();
    eventually("it sweeps", async || (said("this replica sweeps now") == 2).then_some(())).await;
    let no_more = said("this replica sweeps no more, since it can't renew its lease");
    assert_eq!((no_more, said("another replica sweeps now")), (1, 0));
    // It had not been anybody else's meanwhile.
    assert_eq!(world.texts("SELECT CAST(epoch AS text) FROM volume_reaper_leases").await, ["1"]);
    assert_eq!(serving.stop().await, Some(0));
}
