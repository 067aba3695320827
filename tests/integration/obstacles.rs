//! What speaks against a threads table, found before anything is changed.

use serde_json::Value;
use volume_reaper::{
    cleanup::{Scope, Threads},
    config::SecretUrl,
    store::Store,
};

use crate::{
    ownership::refusal,
    world::{On, World, eventually, world},
};

/// What of ours there is in PostgreSQL.
async fn ours(world: &World) -> Vec<String> {
    world.texts("SELECT relname::text FROM pg_class WHERE relname LIKE 'volume%'").await
}

/// What `doctor` says of one of its checks.
async fn check(world: &World, name: &str) -> (String, String) {
    let report = world.json(&["doctor", "--json"]).await;
    let mut checks = report["checks"].as_array().expect("checks").iter();
    let check = checks.rfind(|check| check["name"] == name).unwrap_or_else(|| panic!("{report}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&check["status"]), text(&check["why"]))
}

const PLAIN: &str = "CREATE TABLE threads (id text PRIMARY KEY, status text NOT NULL, closed_at timestamptz)";

#[tokio::test]
async fn a_table_that_can_not_be_used_is_refused_before_anything_is_changed() {
    let generated = "CREATE TABLE threads (id varchar(36) PRIMARY KEY, is_closed boolean NOT NULL, \
                     status varchar(9) GENERATED ALWAYS AS (CASE WHEN is_closed THEN 'closed' ELSE 'open' END) STORED, \
                     closed_at timestamp NULL)";
    let cases = [
        (
            On::Postgres,
            format!("{PLAIN}; CREATE TABLE threads_2025 () INHERITS (threads)"),
            "inherit from it (threads_2025)",
        ),
        (
            On::Postgres,
            "CREATE TABLE every_thread (id text PRIMARY KEY, status text NOT NULL, closed_at timestamptz) \
             PARTITION BY HASH (id); CREATE TABLE threads PARTITION OF every_thread FOR VALUES WITH (MODULUS 1, \
             REMAINDER 0)"
                .to_owned(),
            "is a partition of every_thread",
        ),
        (
            On::Postgres,
            format!("{PLAIN}; CREATE RULE nothing AS ON UPDATE TO threads DO INSTEAD NOTHING"),
            "has the rule nothing",
        ),
        (On::Postgres, generated.to_owned(), "has a status status that is generated"),
        (On::Mysql, generated.to_owned(), "has a status status that is generated"),
    ];
    for (on, tables, expected) in cases {
        let world = World::without_schema(on).await;
        world.execute(&tables).await;
        for arguments in [&["migrate"][..], &["migrate", "up", "--dry-run"], &["sweep"]] {
            let error = refusal(&world, arguments).await;
            assert!(error.contains(expected), "{on:?} {expected}: {error}");
        }
        let (status, why) = check(&world, "database.threads").await;
        assert!(status == "fail" && why.contains(expected), "{on:?} {expected}: {why}");
        let ours = match on {
            On::Postgres => ours(&world).await,
            On::Sqlite | On::Mysql => world.texts("SHOW TABLES LIKE 'volume%'").await,
        };
        assert_eq!(ours, [""; 0], "{on:?} {expected}: nothing was made");
    }
}

#[tokio::test]
async fn what_came_to_the_table_after_the_migration_is_refused_at_the_start_and_told_by_doctor() {
    let world = world(On::Postgres).await;
    world.execute("CREATE TABLE threads_2025 () INHERITS (threads)").await;
    assert!(refusal(&world, &["sweep"]).await.contains("inherit from it (threads_2025)"));
    let (status, why) = check(&world, "database.threads").await;
    assert!(status == "fail" && why.contains("inherit from it (threads_2025)"), "{why}");
}

/// A world that the program is a role without any privilege of its own in, besides all rights to all tables.
async fn as_role(world: &mut World) -> String {
    let role = format!("{}_role", world.name);
    world.execute(&format!("CREATE ROLE {role} LOGIN")).await;
    world.execute(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")).await;
    world.execute(&format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")).await;
    world.execute(&format!("GRANT CREATE ON SCHEMA public TO {role}")).await;
    let url = world.settings["DATABASE_URL"].replace("postgres@", &format!("{role}@"));
    world.set("DATABASE_URL", url);
    role
}

#[tokio::test]
async fn row_level_security_that_hides_rows_or_guards_marks_is_refused_and_told() {
    for policy in ["FOR SELECT USING (true)", "USING (id = current_setting('app.tenant', true))"] {
        let mut world = world(On::Postgres).await;
        world.create_volume("t1").await;
        world.execute("INSERT INTO threads (id, status) VALUES ('t1', 'closed')").await;
        let role = as_role(&mut world).await;
        world.execute("ALTER TABLE threads ENABLE ROW LEVEL SECURITY").await;
        world.execute(&format!("CREATE POLICY p ON threads {policy}")).await;
        let error = refusal(&world, &["sweep"]).await;
        assert!(error.contains(&format!("is under row-level security for {role}")), "{error}");
        assert_eq!(check(&world, "database.threads").await.0, "fail");
        assert!(world.has_volume("t1").await && world.receipts("t1").await.is_empty());
        world.execute(&format!("ALTER ROLE {role} BYPASSRLS")).await;
        assert_eq!(world.sweep().await["removed"], 1, "{policy}");
    }
}

#[tokio::test]
async fn row_level_security_that_comes_while_we_run_is_an_error_and_not_an_empty_table() {
    let mut world = world(On::Postgres).await;
    world.execute("INSERT INTO threads (id, status) VALUES ('t1', 'closed')").await;
    as_role(&mut world).await;
    let url = SecretUrl::parse(&world.settings["DATABASE_URL"], &["postgres"]).expect("valid");
    let store = Store::new(&url, migrations::ThreadsTable::default(), "replica-1".to_owned(), 2).await.expect("a pool");
    let page = store.candidates(&Scope::All, None, 9);
    assert_eq!(page.await.expect("a page").len(), 1);
    world.execute("ALTER TABLE threads ENABLE ROW LEVEL SECURITY").await;
    let page = store.candidates(&Scope::All, None, 9);
    let error = page.await.expect_err("no empty page");
    assert!(error.message.contains("row-level security"), "{error}");
}

#[tokio::test]
async fn nothing_is_called_an_orphan_while_rows_may_be_hidden() {
    let mut world = world(On::Postgres).await;
    world.create_volume("t1").await;
    world.execute("INSERT INTO threads (id, status) VALUES ('t1', 'open')").await;
    as_role(&mut world).await;
    assert!(world.run(&["orphans"]).await.status.success());
    world.execute("ALTER TABLE threads ENABLE ROW LEVEL SECURITY").await;
    for arguments in [&["orphans"][..], &["orphans", "remove", "--older-than", "0s", "--yes"]] {
        let error = refusal(&world, arguments).await;
        assert!(error.contains("row-level security"), "{arguments:?}: {error}");
    }
    assert!(world.has_volume("t1").await);
}

#[tokio::test]
async fn forced_row_level_security_counts_for_the_owner_too() {
    let mut world = World::without_schema(On::Postgres).await;
    world.execute(PLAIN).await;
    let role = as_role(&mut world).await;
    world.execute(&format!("ALTER TABLE threads OWNER TO {role}")).await;
    world.execute("ALTER TABLE threads ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY").await;
    assert!(refusal(&world, &["migrate"]).await.contains("is under row-level security"));
    assert_eq!(ours(&world).await, [""; 0]);
    world.execute("ALTER TABLE threads NO FORCE ROW LEVEL SECURITY").await;
    assert!(world.run(&["migrate"]).await.status.success());
}

#[tokio::test]
async fn who_may_not_change_the_table_is_told_so_before_anything_is_changed() {
    let mut world = World::without_schema(On::Postgres).await;
    world.execute(PLAIN).await;
    let role = as_role(&mut world).await;
    let error = refusal(&world, &["migrate"]).await;
    assert!(error.contains("belongs to postgres, and only its owner can add"), "{error}");
    assert!(error.contains(&format!("GRANT postgres TO {role}")), "{error}");
    assert_eq!(ours(&world).await, [""; 0]);
}

#[tokio::test]
async fn doctor_and_migrate_dry_run_list_the_same_obstacles_and_all_of_them() {
    let mut world = World::without_schema(On::Postgres).await;
    world.execute(&PLAIN.replace("PRIMARY KEY", "NOT NULL")).await;
    world.execute("CREATE TABLE threads_2025 () INHERITS (threads)").await;
    world.execute("CREATE RULE nothing AS ON UPDATE TO threads DO INSTEAD NOTHING").await;
    as_role(&mut world).await;
    world.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    let role = format!("{}_role", world.name);
    world.execute(&format!("REVOKE CREATE ON SCHEMA public FROM {role}")).await;
    world.execute("ALTER TABLE threads ENABLE ROW LEVEL SECURITY").await;
    let obstacles = [
        "is under row-level security",
        "inherit from it (threads_2025)",
        "has the rule nothing",
        "belongs to postgres",
        "GRANT CREATE ON SCHEMA public",
        "there is no index that says so",
    ];
    let refused = refusal(&world, &["migrate", "up", "--dry-run"]).await;
    let (status, why) = check(&world, "database.threads").await;
    assert_eq!(status, "fail");
    for obstacle in obstacles {
        assert!(refused.contains(obstacle), "{obstacle}: {refused}");
        assert!(why.contains(obstacle), "{obstacle}: {why}");
    }
    // Word for word, whatever stands before it.
    let list = &why[why.find("is under row-level").expect("the list")..];
    assert!(refused.contains(list), "{refused}\n{list}");
    assert_eq!(ours(&world).await, [""; 0]);
}

#[tokio::test]
async fn another_trigger_before_an_update_is_told() {
    let triggers = [
        (
            On::Postgres,
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
             CREATE TRIGGER keep BEFORE UPDATE ON threads FOR EACH ROW EXECUTE FUNCTION keep()",
        ),
        (On::Sqlite, "CREATE TRIGGER keep BEFORE UPDATE ON threads BEGIN SELECT RAISE(IGNORE); END"),
        (On::Mysql, "CREATE TRIGGER keep BEFORE UPDATE ON threads FOR EACH ROW SET NEW.closed_at = OLD.closed_at"),
    ];
    for (on, trigger) in triggers {
        let world = world(on).await;
        world.execute(trigger).await;
        let (status, why) = check(&world, "database.other-triggers").await;
        assert!(status == "warn" && why.contains("keep"), "{on:?}: {why}");
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_any_more_is_a_database_that_is_down_and_costs_no_attempt() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
        let serving = world.serve_idle().await;
        world.closed_with_volume("t1").await;
        world.execute("ALTER TABLE threads RENAME TO elsewhere").await;
        world.publish_closed("t1").await;
        eventually("the database is not the one that it was", async || {
            let (code, body) = serving.get("/readyz").await;
            (code == 503 && body.contains("database")).then_some(())
        })
        .await;
        assert!(world.has_volume("t1").await, "{on:?}");
        world.execute("ALTER TABLE elsewhere RENAME TO threads").await;
        world.until_marked("t1").await;
        assert_eq!(world.receipts("t1").await, ["removed/event"], "{on:?}");
        assert_eq!(serving.metric("volume_reaper_settlements_total{settlement=\"retry\"}").await, 0, "{on:?}");
        assert_eq!(world.messages(&world.dead_letter_queue()).await, 0, "{on:?}");
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn the_schema_of_the_url_is_the_one_that_is_used() {
    let mut world = World::without_schema(On::Postgres).await;
    world.execute(&format!("CREATE SCHEMA platform; {}", PLAIN.replace("threads", "platform.threads"))).await;
    world.execute("INSERT INTO platform.threads VALUES ('t1', 'closed')").await;
    // None of ours is made beside it.
    let error = refusal(&world, &["migrate"]).await;
    assert!(error.contains("there is platform.threads: name its schema"), "{error}");
    assert_eq!(ours(&world).await, [""; 0]);
    let url = format!("{}?schema=platform", world.settings["DATABASE_URL"]);
    world.set("DATABASE_URL", url);
    assert!(world.run(&["migrate"]).await.status.success());
    assert_eq!(world.sweep().await["not_found"], 1);
    let schemas = "SELECT DISTINCT nspname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
                   WHERE relname LIKE 'volume%'";
    assert_eq!(world.texts(schemas).await, ["platform"]);
}

#[tokio::test]
async fn a_time_that_nobody_can_hold_is_read_as_none() {
    let values = [
        (On::Postgres, "'infinity'"),
        (On::Postgres, "'-infinity'"),
        (On::Postgres, "'294276-12-31'"),
        (On::Postgres, "'0044-03-15 BC'"),
        (On::Sqlite, "'infinity'"),
        (On::Sqlite, "x'ff'"),
        (On::Sqlite, "9223372036854775807"),
        (On::Mysql, "'0000-00-00 00:00:00'"),
        (On::Mysql, "'2024-00-00 00:00:00'"),
    ];
    for (on, value) in values {
        let world = world(on).await;
        let mode = if matches!(on, On::Mysql) { "SET SESSION sql_mode = ''; " } else { "" };
        world
            .execute(&format!("{mode}INSERT INTO threads (id, status, closed_at) VALUES ('t1', 'closed', {value})"))
            .await;
        let explained = world.json(&["explain", "t1", "--json"]).await;
        assert_eq!(explained["thread"]["closed"], true, "{on:?} {value}: {explained}");
        assert_eq!(explained["thread"]["closed_at"], Value::Null, "{on:?} {value}: {explained}");
    }
}
