//! Whose tables they are: what has one of our names, and the database that was made for somebody else.

use crate::world::{On, World, world};

/// The one line of a command that is refused.
pub(crate) async fn refusal(world: &World, arguments: &[&str]) -> String {
    let output = world.run(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = error.lines().filter(|line| line.starts_with("volume-reaper: ")).collect();
    assert_eq!(lines.len(), 1, "{error}");
    lines[0].to_owned()
}

/// What there is in a database.
async fn tables(world: &World, on: On) -> Vec<String> {
    let sql = match on {
        On::Sqlite => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1",
        On::Postgres => "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
        On::Mysql => "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY 1",
    };
    world.texts(sql).await
}

#[tokio::test]
async fn a_table_with_one_of_our_names_that_is_not_ours_is_refused_and_never_dropped() {
    for on in On::ALL {
        for table in ["volume_removals", "volume_reaper_leases", "volume_reaper_migrations", "volume_reaper_additions"]
        {
            let world = World::without_schema(on).await;
            world.execute(&format!("CREATE TABLE {table} (flat varchar(9))")).await;
            world.execute(&format!("INSERT INTO {table} VALUES ('3b')")).await;
            let before = tables(&world, on).await;
            for arguments in [&["migrate"][..], &["migrate", "up", "--dry-run"], &["sweep"]] {
                let error = refusal(&world, arguments).await;
                let what = format!("{table} in this database was not made by volume-reaper");
                assert!(error.contains(&what), "{on:?} {arguments:?}: {error}");
            }
            // Whatever comes of it.
            world.run(&["migrate", "down", "--all"]).await;
            assert_eq!(world.texts(&format!("SELECT flat FROM {table}")).await, ["3b"], "{on:?} {table}");
            assert_eq!(tables(&world, on).await, before, "{on:?} {table}: nothing was made");
        }
    }
}

#[tokio::test]
async fn what_was_ours_and_is_somebody_elses_by_now_is_not_dropped() {
    for on in On::ALL {
        let world = world(on).await;
        assert!(world.run(&["migrate", "down", "--all"]).await.status.success(), "{on:?}");
        world.execute("CREATE TABLE volume_reaper_holds (flat varchar(9))").await;
        assert!(world.run(&["migrate", "down", "--all"]).await.status.success(), "{on:?}");
        assert_eq!(world.texts("SELECT flat FROM volume_reaper_holds").await, [""; 0], "{on:?}");
    }
}

#[tokio::test]
async fn a_database_of_a_version_before_the_first_release_is_told_what_to_do() {
    for on in On::ALL {
        let world = World::without_schema(on).await;
        world
            .execute("CREATE TABLE volume_reaper_migrations (version varchar(255) PRIMARY KEY, applied_at bigint)")
            .await;
        world.execute("INSERT INTO volume_reaper_migrations VALUES ('m20261123_000001_threads', 0)").await;
        world.execute("CREATE TABLE leases (flat varchar(9))").await;
        let before = tables(&world, on).await;
        for arguments in [&["migrate"][..], &["migrate", "down", "--all"], &["migrate", "status"], &["sweep"]] {
            let error = refusal(&world, arguments).await;
            for part in
                ["from before its first release (m20261123_000001_threads)", "migrate down --all", "drop the tables"]
            {
                assert!(error.contains(part), "{on:?} {arguments:?}: {error}");
            }
        }
        assert_eq!(tables(&world, on).await, before, "{on:?}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    for on in On::ALL {
        let world = world(on).await;
        world.execute("INSERT INTO volume_reaper_migrations VALUES ('m20991231_000001_more', 0)").await;
        for arguments in [&["migrate"][..], &["migrate", "down", "--all"], &["sweep"]] {
            let error = refusal(&world, arguments).await;
            assert!(error.contains("by a newer volume-reaper (m20991231_000001_more)"), "{on:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_second_service_for_another_threads_table_in_the_same_database_is_refused() {
    for on in On::ALL {
        let mut world = world(on).await;
        let columns = "id varchar(36) PRIMARY KEY, status varchar(9), closed_at timestamp NULL";
        world.execute(&format!("CREATE TABLE chats ({columns})")).await;
        world.execute("INSERT INTO chats (id, status) VALUES ('t1', 'closed')").await;
        world.set("VOLUME_REAPER_THREADS_TABLE", "chats");
        for arguments in [&["migrate"][..], &["migrate", "up", "--dry-run"], &["migrate", "down"], &["sweep"]] {
            let error = refusal(&world, arguments).await;
            for part in ["for the threads table", "chats", "a schema or a database of its own"] {
                assert!(error.contains(part), "{on:?} {arguments:?}: {error}");
            }
        }
        world.set("VOLUME_REAPER_MIGRATE", "false");
        assert!(refusal(&world, &["sweep"]).await.contains("a schema or a database of its own"), "{on:?}");
        assert_eq!(world.texts("SELECT status FROM chats").await, ["closed"], "{on:?}");
    }
}

#[tokio::test]
async fn a_threads_table_that_was_renamed_is_made_known_as_the_refusal_says() {
    for on in On::ALL {
        let mut world = world(on).await;
        world.execute("ALTER TABLE threads RENAME TO chats").await;
        world.set("VOLUME_REAPER_THREADS_TABLE", "chats");
        let error = refusal(&world, &["migrate"]).await;
        let (_, update) = error.split_once("only renamed: ").expect("what to do");
        world.execute(update).await;
        assert!(world.run(&["migrate"]).await.status.success(), "{on:?}");
        world.execute("INSERT INTO chats (id, status) VALUES ('t1', 'closed')").await;
        assert_eq!(world.sweep().await["not_found"], 1, "{on:?}");
        assert!(world.run(&["migrate", "down", "--all"]).await.status.success(), "{on:?}");
        assert_eq!(tables(&world, on).await.iter().filter(|table| table.starts_with("volume_removals")).count(), 0);
    }
}

#[tokio::test]
async fn on_postgresql_two_services_in_two_schemas_have_tables_of_their_own() {
    let mut world = World::without_schema(On::Postgres).await;
    for schema in ["one", "two"] {
        world.execute(&format!("CREATE SCHEMA {schema}")).await;
    }
    let url = world.settings["DATABASE_URL"].clone();
    for schema in ["one", "two"] {
        world.set("DATABASE_URL", format!("{url}?schema={schema}"));
        assert!(world.run(&["migrate"]).await.status.success(), "{schema}");
    }
    let leases = "SELECT nspname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
                  WHERE relname = 'volume_reaper_leases' ORDER BY 1";
    assert_eq!(world.texts(leases).await, ["one", "two"]);
}

#[tokio::test]
async fn every_table_of_ours_has_a_primary_key() {
    for on in On::ALL {
        let world = world(on).await;
        let without = match on {
            On::Sqlite => {
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' \
                 AND NOT EXISTS (SELECT 1 FROM pragma_table_info(sqlite_master.name) AS info WHERE info.pk > 0)"
            }
            On::Postgres => {
                "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' \
                 AND NOT EXISTS (SELECT 1 FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)"
            }
            On::Mysql => {
                "SELECT table_name FROM information_schema.tables AS t WHERE table_schema = DATABASE() \
                 AND NOT EXISTS (SELECT 1 FROM information_schema.statistics AS s WHERE s.table_schema = \
                 t.table_schema AND s.table_name = t.table_name AND s.index_name = 'PRIMARY')"
            }
        };
        assert_eq!(world.texts(without).await, [""; 0], "{on:?}");
        assert!(tables(&world, on).await.len() > 8, "{on:?}");
    }
}
