//! The platform's table of volumes, used in place: every shape that it may have, and what speaks against one.

use serde_json::Value;

use crate::{
    ownership::refusal,
    volumes_table::{UUID, adopting, counts},
    world::{On, World, connect, eventually},
};

/// A world with these tables, whose volumes table is called `volumes`.
async fn world_with(on: On, tables: &str) -> World {
    let mut world = World::without_schema(on).await;
    world.execute(tables).await;
    world.set("VOLUME_REAPER_VOLUMES_TABLE", "volumes");
    world.set("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "");
    world
}

async fn migrate(world: &World) {
    let output = world.run(&["migrate"]).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn ids_of_every_type_and_names_in_any_case_and_schema_are_cleaned_and_taken_back() {
    let unsigned = "bigint unsigned";
    for (on, id, text, schema) in [
        (On::Postgres, "uuid", "text", "app."),
        (On::Postgres, "bigint", "varchar(255)", ""),
        (On::Postgres, "char(40)", "varchar(200)", ""),
        (On::Sqlite, "integer", "text", ""),
        (On::Sqlite, "varchar(40)", "text", ""),
        (On::Mysql, unsigned, "varchar(255)", ""),
        (On::Mysql, "varchar(40)", "varchar(255) CHARACTER SET latin1", ""),
        (On::Mysql, "int", "char(200)", ""),
    ] {
        let quote = if matches!(on, On::Mysql) { '`' } else { '"' };
        let [threads, volumes] = ["Thread", "workspaceVolumes"].map(|table| format!("{schema}{quote}{table}{quote}"));
        let [key, thread, name, gone] =
            ["volumeKey", "threadId", "Name", "goneAt"].map(|it| format!("{quote}{it}{quote}"));
        let mut world = World::without_schema(on).await;
        if !schema.is_empty() {
            world.execute("CREATE SCHEMA app").await;
            world.set("VOLUME_REAPER_THREADS_SCHEMA", "app");
            world.set("VOLUME_REAPER_VOLUMES_SCHEMA", "app");
        }
        world.execute(&format!("CREATE TABLE {threads} (id {id} PRIMARY KEY, status varchar(9))")).await;
        let create = format!(
            "CREATE TABLE {volumes} ({key} {id} PRIMARY KEY, {thread} {id} NOT NULL, {name} {text} NOT NULL UNIQUE)"
        );
        world.execute(&create).await;
        for (setting, value) in [
            ("THREADS_TABLE", "Thread"),
            ("THREADS_CLOSED_AT_COLUMN", ""),
            ("VOLUMES_TABLE", "workspaceVolumes"),
            ("VOLUMES_ID_COLUMN", "volumeKey"),
            ("VOLUMES_THREAD_COLUMN", "threadId"),
            ("VOLUMES_NAME_COLUMN", "Name"),
            ("VOLUMES_MARK_COLUMN", "goneAt"),
        ] {
            world.set(&format!("VOLUME_REAPER_{setting}"), value);
        }
        migrate(&world).await;
        let ids: Vec<_> =
            (1..=3).map(|digit| if id == "uuid" { format!("{UUID}{digit}") } else { format!("{digit}") }).collect();
        for (thread_id, status) in ids.iter().zip(["closed", "closed", "open"]) {
            world.execute(&format!("INSERT INTO {threads} VALUES ('{thread_id}', '{status}')")).await;
            world.create_volume(&format!("of-{thread_id}")).await;
            let volume = world.volume(&format!("of-{thread_id}"));
            let insert = format!("INSERT INTO {volumes} ({key}, {thread}, {name})");
            world.execute(&format!("{insert} VALUES ('{thread_id}', '{thread_id}', '{volume}')")).await;
        }
        assert_eq!(counts(&world.sweep().await), serde_json::json!([2, 2, 0, 0, 0]), "{on:?} {id}");
        let mark = world.as_text(&gone);
        let marks = world.texts(&format!("SELECT {mark} FROM {volumes} ORDER BY {key}")).await;
        let are_marked: Vec<_> = marks.iter().map(|mark| !mark.is_empty()).collect();
        assert_eq!(are_marked, [true, true, false], "{on:?} {id}");
        assert!(world.has_volume(&format!("of-{}", ids[2])).await, "{on:?} {id}");
        assert_eq!(world.receipts(&ids[0]).await, ["removed/sweep"], "{on:?} {id}");
        let explained = world.json(&["explain", &ids[0], "--json"]).await;
        assert_eq!(explained["thread"]["marked"], true, "{on:?} {id} {explained}");
        assert!(world.run(&["migrate", "down", "--all"]).await.status.success(), "{on:?} {id}");
        let rows = world.texts(&format!("SELECT {} FROM {threads}", world.as_text("id"))).await;
        assert_eq!(rows.len(), 3, "{on:?} {id}");
        let mark = match on {
            On::Postgres => "SELECT attname::text FROM pg_attribute WHERE attname = 'goneAt'",
            On::Sqlite => "SELECT name FROM pragma_table_info('workspaceVolumes') WHERE name = 'goneAt'",
            On::Mysql => {
                "SELECT CAST(column_name AS char) FROM information_schema.columns \
                 WHERE table_schema = DATABASE() AND column_name = 'goneAt'"
            }
        };
        assert_eq!(world.texts(mark).await, [""; 0], "{on:?} {id}: the mark was ours");
    }
}

#[tokio::test]
async fn what_speaks_against_a_table_of_volumes_is_said_before_anything_is_changed() {
    let threads = "CREATE TABLE threads (id varchar(40) PRIMARY KEY, status varchar(9))";
    let columns =
        "id varchar(40) PRIMARY KEY, thread_id varchar(40), volume_name varchar(200) UNIQUE, removed_at timestamp NULL";
    let volumes = &format!("CREATE TABLE volumes ({columns})");
    let cases = [
        (
            On::Postgres,
            format!("{}; CREATE VIEW volumes AS SELECT * FROM kept", volumes.replace("volumes", "kept")),
            "is a view",
        ),
        (
            On::Postgres,
            format!("{volumes}; CREATE TABLE volumes_2025 () INHERITS (volumes)"),
            "inherit from it (volumes_2025)",
        ),
        (
            On::Postgres,
            format!("{volumes}; CREATE RULE nothing AS ON UPDATE TO volumes DO INSTEAD NOTHING"),
            "has the rule nothing",
        ),
        (On::Postgres, volumes.replace("thread_id varchar(40)", "thread_id bigint"), "the id of a thread has the type"),
        (On::Postgres, volumes.replace(" UNIQUE", ""), "no two rows may name the same volume"),
        (On::Postgres, volumes.replace("timestamp NULL", "timestamp DEFAULT now()"), "this column fills itself"),
        (
            On::Sqlite,
            format!("{}; CREATE VIEW volumes AS SELECT * FROM kept", volumes.replace("volumes", "kept")),
            "is a view",
        ),
        (On::Sqlite, volumes.replace(" UNIQUE", ""), "no two rows may name the same volume"),
        (
            On::Mysql,
            format!("{}; CREATE VIEW volumes AS SELECT * FROM kept", volumes.replace("volumes", "kept")),
            "is a view",
        ),
        (On::Mysql, format!("{volumes} ENGINE=MyISAM"), "is not InnoDB's"),
        (
            On::Mysql,
            volumes.replace("timestamp NULL", "timestamp NULL ON UPDATE CURRENT_TIMESTAMP"),
            "this column fills itself",
        ),
        (
            On::Mysql,
            volumes.replace("thread_id varchar(40)", "thread_id binary(16)"),
            "the id of a thread has the type",
        ),
    ];
    for (on, volumes, expected) in cases {
        let world = world_with(on, &format!("{threads}; {volumes}")).await;
        for arguments in [&["migrate"][..], &["migrate", "up", "--dry-run"], &["sweep"]] {
            let error = refusal(&world, arguments).await;
            assert!(error.contains(expected), "{on:?} {expected}: {error}");
        }
        let ours = match on {
            On::Postgres => "SELECT relname::text FROM pg_class WHERE relname LIKE 'volume\\_re%'",
            On::Sqlite => "SELECT name FROM sqlite_master WHERE name LIKE 'volume\\_re%' ESCAPE '\\'",
            On::Mysql => "SHOW TABLES LIKE 'volume\\_re%'",
        };
        assert_eq!(world.texts(ours).await, [""; 0], "{on:?} {expected}: nothing was made");
    }
}

#[tokio::test]
async fn row_level_security_over_volumes_is_refused_and_while_we_run_an_error() {
    let mut world = world_with(
        On::Postgres,
        "CREATE TABLE threads (id text PRIMARY KEY, status text); \
         CREATE TABLE volumes (id text PRIMARY KEY, thread_id text, volume_name text UNIQUE, removed_at timestamptz)",
    )
    .await;
    migrate(&world).await;
    world.create_volume("1").await;
    world.execute("INSERT INTO threads VALUES ('t1', 'closed')").await;
    world.execute(&format!("INSERT INTO volumes VALUES ('v1', 't1', '{}')", world.volume("1"))).await;
    let role = format!("{}_role", world.name);
    for grant in ["", "GRANT ALL ON ALL TABLES IN SCHEMA public TO", "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO"] {
        let sql = if grant.is_empty() { format!("CREATE ROLE {role} LOGIN") } else { format!("{grant} {role}") };
        world.execute(&sql).await;
    }
    let url = world.settings["DATABASE_URL"].replace("postgres@", &format!("{role}@"));
    world.set("DATABASE_URL", url);
    world.execute("ALTER TABLE volumes ENABLE ROW LEVEL SECURITY").await;
    let error = refusal(&world, &["sweep"]).await;
    assert!(error.contains(&format!("is under row-level security for {role}")), "{error}");
    assert!(world.has_volume("1").await && world.receipts("t1").await.is_empty());
    world.execute(&format!("ALTER ROLE {role} BYPASSRLS")).await;
    assert_eq!(world.sweep().await["removed"], 1);
}

#[tokio::test]
async fn the_plan_says_how_the_indexes_over_volumes_are_made_without_a_long_lock() {
    for (on, parts) in [
        (
            On::Postgres,
            &[
                "ALTER TABLE \"workspace_volumes\" ADD COLUMN \"gone_at\"",
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS",
                "ON \"workspace_volumes\"",
                "ON \"Thread\"",
                "SET LOCAL lock_timeout",
            ][..],
        ),
        (On::Sqlite, &["ALTER TABLE \"workspace_volumes\" ADD COLUMN \"gone_at\"", "ON \"workspace_volumes\""]),
        (On::Mysql, &["ALTER TABLE `workspace_volumes` ADD COLUMN `gone_at`", "LOCK=NONE", "lock_wait_timeout"]),
    ] {
        let mut world = adopting(on).await;
        world.set("VOLUME_REAPER_VOLUMES_MARK_COLUMN", "gone_at");
        let shown = world.run(&["migrate", "up", "--dry-run"]).await;
        let sql = String::from_utf8_lossy(&shown.stdout).into_owned();
        for part in parts {
            assert!(sql.contains(part), "{on:?} {part}: {sql}");
        }
        assert!(!sql.contains("ADD COLUMN \"workspace_volume_removed_at\""), "{on:?} {sql}");
        // Executed by hand, it leaves nothing that works otherwise.
        for statement in sql.lines().filter(|line| !line.starts_with("--") && !["BEGIN;", "COMMIT;"].contains(line)) {
            world.execute(statement).await;
        }
        migrate(&world).await;
    }
}

/// The grants of `docs/adopt.md` for the tables of the example, for a role of this test.
fn grants_of_the_page(world: &World, on: On) -> Vec<String> {
    let page = include_str!("../../docs/adopt.md");
    let (_, section) = page.split_once("## Volumes have a table of their own").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let grants = section.lines().map(str::trim).filter(|line| line.starts_with("GRANT "));
    let server = format!("{}_server", world.name);
    let is_of_this = |grant: &&str| grant.contains('`') == matches!(on, On::Mysql);
    let ours = |grant: &str| grant.replace("reaper_server", &server).replace("platform.", &format!("{}.", world.name));
    grants.filter(is_of_this).map(ours).collect()
}

/// The grants for our own tables, of the page about this database.
fn grants_of_our_tables(world: &World, on: On) -> Vec<String> {
    let server = format!("{}_server", world.name);
    let page = match on {
        On::Mysql => include_str!("../../docs/mysql.md"),
        On::Postgres | On::Sqlite => include_str!("../../docs/postgresql.md"),
    };
    let grants =
        page.lines().map(str::trim).filter(|line| line.starts_with("GRANT ") && line.ends_with("TO reaper_server;"));
    let of_ours = grants.filter(|line| line.contains("volume_re") && !line.contains("Thread"));
    of_ours.map(|it| it.replace("reaper_server", &server).replace("platform.", &format!("{}.", world.name))).collect()
}

#[tokio::test]
async fn the_rights_that_the_page_lists_for_a_table_of_volumes_are_enough_and_no_more() {
    for on in [On::Postgres, On::Mysql] {
        let quote = if matches!(on, On::Mysql) { '`' } else { '"' };
        let mut world = World::without_schema(on).await;
        let [text, time] =
            if matches!(on, On::Mysql) { ["varchar(64)", "datetime(3)"] } else { ["text", "timestamp(3)"] };
        let threads = format!("{quote}Thread{quote}");
        let closed_at = format!("{quote}closedAt{quote}");
        world
            .execute(&format!(
                "CREATE TABLE {threads} (id {text} PRIMARY KEY, status {text}, {closed_at} {time}, secret {text}); \
                 CREATE TABLE workspace_volumes (id {text} PRIMARY KEY, thread_id {text} NOT NULL, \
                 volume_name {text} NOT NULL UNIQUE, created_at {time}, removed_at {time})"
            ))
            .await;
        world.set("VOLUME_REAPER_THREADS_TABLE", "Thread");
        world.set("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "closedAt");
        world.set("VOLUME_REAPER_VOLUMES_TABLE", "workspace_volumes");
        migrate(&world).await;
        let server = format!("{}_server", world.name);
        let role = match on {
            On::Mysql => format!("CREATE USER {server} IDENTIFIED BY 's3cret'"),
            On::Postgres | On::Sqlite => format!("CREATE ROLE {server} LOGIN PASSWORD 's3cret'"),
        };
        world.execute(&role).await;
        let grants = grants_of_the_page(&world, on);
        assert_eq!(grants.len(), 2, "{on:?} {grants:?}");
        for grant in grants.iter().chain(&grants_of_our_tables(&world, on)) {
            world.execute(grant).await;
        }
        for (id, volume) in [("t1", "1"), ("t1", "2"), ("t2", "3")] {
            world.create_volume(volume).await;
            if volume != "2" {
                world.execute(&format!("INSERT INTO {threads} (id, status) VALUES ('{id}', 'closed')")).await;
            }
            let row = format!("('v{volume}', '{id}', '{}')", world.volume(volume));
            world.execute(&format!("INSERT INTO workspace_volumes (id, thread_id, volume_name) VALUES {row}")).await;
        }
        let mut url = url::Url::parse(&world.settings["DATABASE_URL"]).expect("a URL");
        url.set_username(&server).expect("a user");
        url.set_password(Some("s3cret")).expect("a password");
        world.set("DATABASE_URL", url.as_str());
        world.set("VOLUME_REAPER_MIGRATE", "false");
        let report = world.sweep().await;
        assert_eq!((&report["removed"], &report["failed"]), (&2.into(), &0.into()), "{on:?} {report}");
        let serving = world.serve().await;
        world.create_volume("4").await;
        world.execute(&format!("INSERT INTO {threads} (id, status) VALUES ('t4', 'closed')")).await;
        let row = format!("('v4', 't4', '{}')", world.volume("4"));
        world.execute(&format!("INSERT INTO workspace_volumes (id, thread_id, volume_name) VALUES {row}")).await;
        world.publish_closed("t4").await;
        eventually("its event is done", async || (!world.has_volume("4").await).then_some(())).await;
        assert_eq!(serving.stop().await, Some(0));
        let doctor = world.json(&["doctor", "--json"]).await;
        let checks = doctor["checks"].as_array().expect("checks").iter();
        let failed: Vec<_> = checks
            .filter(|check| {
                check["status"] == "fail" && check["name"].as_str().is_some_and(|it| it.starts_with("database."))
            })
            .collect();
        assert_eq!(failed, [&Value::Null; 0], "{on:?}");
        let connected = connect(url.as_str()).await;
        for denied in [
            format!("UPDATE {threads} SET status = 'open'"),
            format!("SELECT secret FROM {threads}"),
            "UPDATE workspace_volumes SET volume_name = 'x'".to_owned(),
            "DELETE FROM workspace_volumes".to_owned(),
        ] {
            let result = sea_orm::ConnectionTrait::execute_unprepared(&connected, &denied).await;
            assert!(result.expect_err("denied").to_string().contains("denied"), "{on:?} {denied}");
        }
    }
}
