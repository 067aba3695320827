//! `doctor`: each thing that can silently be wrong, made wrong on real servers.

use std::time::{Duration, Instant};

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener, UnixStream},
};

use crate::world::{On, World, server, world};

/// What `doctor --json` said.
struct Diagnosis {
    code: Option<i32>,
    text: String,
    report: Value,
}

async fn doctor(world: &World) -> Diagnosis {
    let output = world.run(&["doctor", "--json"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    Diagnosis { code: output.status.code(), text, report }
}

impl Diagnosis {
    fn checks(&self) -> &[Value] {
        self.report["checks"].as_array().expect("checks")
    }

    fn named(&self, status: &str) -> Vec<&str> {
        let checks = self.checks().iter().filter(|check| check["status"] == status);
        checks.map(|check| check["name"].as_str().expect("a name")).collect()
    }

    fn check(&self, name: &str) -> &Value {
        let check = self.checks().iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("no {name}: {}", self.text))
    }

    fn fix(&self, name: &str) -> &str {
        self.check(name)["fix"].as_str().expect("how to fix it")
    }

    /// Only `name` failed, and `why` is in its reason.
    fn only_failure(&self, name: &str, why: &str) {
        assert_eq!(self.named("fail"), [name], "{}", self.text);
        assert_eq!((self.code, &self.report["ok"]), (Some(1), &json!(false)));
        let reason = self.check(name)["why"].as_str().expect("a reason");
        assert!(reason.contains(why), "{reason}");
        assert!(!self.fix(name).is_empty());
    }

    /// It did not fail for it.
    fn warning(&self, name: &str, why: &str) {
        assert_eq!((self.code, &self.report["ok"]), (Some(0), &json!(true)), "{}", self.text);
        let check = self.check(name);
        assert!(check["status"] == "warn" && check["why"].as_str().expect("a reason").contains(why), "{check}");
    }
}

/// A world in which `serve` ran once.
async fn served(on: On) -> World {
    let world = world(on).await;
    assert_eq!(world.serve().await.stop().await, Some(0));
    world
}

async fn broker() -> (Connection, Channel) {
    let connection = Connection::connect(&server("AMQP_URL"), ConnectionProperties::default()).await.expect("a broker");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

async fn delete_queue(queue: &str) {
    let (_connection, channel) = broker().await;
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
}

/// Declares the queue with the given arguments in place of the one that is there.
async fn replace_queue(queue: &str, arguments: FieldTable) {
    delete_queue(queue).await;
    let (_connection, channel) = broker().await;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, arguments).await.expect("declared");
}

async fn queue_is_there(queue: &str) -> bool {
    let (_connection, channel) = broker().await;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.is_ok()
}

fn rabbitmqctl(arguments: &[&str]) -> String {
    let output = std::process::Command::new(format!("{}/rabbitmqctl", server("VOLUME_REAPER_TEST_SERVERS")))
        .args(arguments)
        .output()
        .expect("rabbitmqctl");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A world with a database of which not even the file is there.
async fn without_file() -> World {
    let mut world = World::without_schema(On::Sqlite).await;
    world.set("DATABASE_URL", format!("sqlite://{}/none.db?mode=rwc", world.dir.path().display()));
    world
}

/// Gives the world a user of its own on the broker, with these permissions: configure, write, read.
fn as_user(world: &mut World, permissions: [&str; 3]) {
    rabbitmqctl(&["add_user", &world.name, "s3cret"]);
    let [configure, write, read] = permissions;
    rabbitmqctl(&["set_permissions", &world.name, configure, write, read]);
    let url = world.settings["AMQP_URL"].replace("guest:guest", &format!("{}:s3cret", world.name));
    world.set("AMQP_URL", url);
}

// --- All is well ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn after_serve_ran_once_all_is_well() {
    for on in On::ALL {
        let diagnosis = doctor(&served(on).await).await;
        assert_eq!(diagnosis.named("fail"), [""; 0], "{}", diagnosis.text);
        assert_eq!(diagnosis.named("warn"), [""; 0], "{}", diagnosis.text);
        assert_eq!((diagnosis.code, &diagnosis.report["ok"]), (Some(0), &json!(true)));
        for name in [
            "settings.docker_timeout",
            "broker.reachable",
            "broker.version",
            "broker.tls",
            "broker.login",
            "broker.exchange",
            "broker.queue.thread-closed",
            "broker.queue.retry.30s",
            "broker.queue.dead-letter",
            "broker.binding",
            "broker.consume",
            "broker.publish",
            "broker.backlog",
            "broker.dead-letters",
            "database.reachable",
            "database.migrations",
            "database.threads",
            "database.index",
            "database.trigger",
            "database.rights",
            "docker.reachable",
            "docker.version",
            "docker.identity",
            "docker.lists",
            "docker.remove",
            "docker.clock",
        ] {
            diagnosis.check(name);
        }
    }
}

#[tokio::test]
async fn all_is_well_while_serve_runs() {
    for on in On::ALL {
        let world = world(on).await;
        let serving = world.serve().await;
        let diagnosis = doctor(&world).await;
        assert_eq!(diagnosis.named("ok").len(), diagnosis.checks().len(), "{}", diagnosis.text);
        assert!(diagnosis.check("broker.backlog")["why"].as_str().expect("why").contains("1 consumers"));
        assert_eq!(serving.stop().await, Some(0));
    }
}

#[tokio::test]
async fn every_check_says_the_same_four_things() {
    let world = World::without_schema(On::Sqlite).await;
    let diagnosis = doctor(&world).await;
    assert_eq!(diagnosis.report.as_object().expect("an object").keys().collect::<Vec<_>>(), ["checks", "ok"]);
    for check in diagnosis.checks() {
        let keys = check.as_object().expect("an object").keys().collect::<Vec<_>>();
        assert_eq!(keys, ["fix", "name", "status", "why"]);
        assert!(["ok", "warn", "fail"].contains(&check["status"].as_str().expect("a status")), "{check}");
        assert_eq!(check["fix"].is_null(), check["status"] == "ok", "{check}");
    }
}

#[tokio::test]
async fn for_people_every_check_is_one_line() {
    let world = without_file().await;
    let output = world.run(&["doctor"]).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let (last, checks) = lines.split_last().expect("lines");
    assert!(last.contains(" ok, ") && last.ends_with(" failed"), "{last}");
    for line in checks {
        assert!(["ok ", "warn ", "fail "].iter().any(|status| line.starts_with(status)), "{line}");
    }
    assert!(checks.iter().any(|line| line.starts_with("fail  database.reachable ") && line.contains(" -> ")), "{text}");
    assert_eq!(checks.len(), doctor(&world).await.checks().len());
}

// --- It changes nothing ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn where_nothing_is_nothing_is_made() {
    for on in On::ALL {
        let world = match on {
            On::Sqlite => without_file().await,
            On::Postgres | On::Mysql => World::without_schema(on).await,
        };
        let diagnosis = doctor(&world).await;
        assert_eq!(diagnosis.code, Some(1));
        for queue in [world.work_queue(), world.dead_letter_queue(), format!("{}.retry.1s", world.name)] {
            assert!(!queue_is_there(&queue).await, "{queue}");
        }
        diagnosis.check("broker.exchange");
        assert!(diagnosis.named("fail").contains(&"broker.queue.thread-closed"));
        match on {
            On::Sqlite => {
                assert!(diagnosis.named("fail").contains(&"database.reachable"));
                assert!(!world.dir.path().join("none.db").exists(), "no file was made");
            }
            On::Postgres => {
                assert!(diagnosis.named("fail").contains(&"database.migrations"));
                let relations =
                    world.texts("SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace");
                assert_eq!(relations.await, [""; 0]);
            }
            On::Mysql => {
                assert!(diagnosis.named("fail").contains(&"database.migrations"));
                assert_eq!(world.texts("SHOW TABLES").await, [""; 0]);
            }
        }
    }
}

#[tokio::test]
async fn what_is_there_stays_as_it_is() {
    let world = served(On::Postgres).await;
    world.execute("DELETE FROM volume_reaper_daemons").await;
    world.closed_with_volume("t1").await;
    world.publish_closed("t1").await;
    let rows = async || {
        let mut rows = Vec::new();
        for table in
            ["threads", "volume_removals", "volume_reaper_daemons", "volume_reaper_leases", "volume_reaper_migrations"]
        {
            rows.extend(world.texts(&format!("SELECT row_to_json(t)::text FROM {table} t ORDER BY 1")).await);
        }
        rows.extend(world.texts("SELECT last_value::text || is_called::text FROM volume_removals_id_seq").await);
        rows
    };
    let definitions = || {
        let queues = rabbitmqctl(&["-q", "list_queues", "name", "arguments", "policy", "messages_unacknowledged"]);
        let bindings = rabbitmqctl(&["-q", "list_bindings"]);
        let ours = queues.lines().chain(bindings.lines()).filter(|line| line.contains(&world.name));
        let mut ours: Vec<_> = ours.map(str::to_owned).collect();
        ours.sort();
        ours
    };
    let before = (rows().await, definitions());
    doctor(&world).await.warning("docker.identity", "none is pinned yet");
    assert_eq!((rows().await, definitions()), before);
    assert!(world.has_volume("t1").await);
    let (_connection, channel) = broker().await;
    let get = channel.basic_get(world.work_queue().into(), lapin::options::BasicGetOptions { no_ack: true });
    let message = get.await.expect("the queue").expect("the event is still there");
    assert!(!message.delivery.redelivered, "nobody took it in between");
}

// --- The broker -----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_wrong_password_at_the_broker_is_told() {
    let mut world = served(On::Sqlite).await;
    let url = world.settings["AMQP_URL"].replace("guest:guest", "guest:s3cret");
    world.set("AMQP_URL", url);
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("broker.login", "ACCESS_REFUSED");
    assert!(diagnosis.fix("broker.login").contains("password"));
    assert!(!diagnosis.text.contains("s3cret"), "{}", diagnosis.text);
}

#[tokio::test]
async fn a_virtual_host_that_is_not_there_is_told() {
    let mut world = served(On::Sqlite).await;
    let url = world.settings["AMQP_URL"].replace("%2f", "nowhere");
    world.set("AMQP_URL", url);
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("broker.login", "vhost nowhere not found");
    assert!(diagnosis.fix("broker.login").contains("virtual host"));
}

#[tokio::test]
async fn who_is_no_broker_is_told() {
    let mut world = served(On::Sqlite).await;
    let postgres = server("DATABASE_URL");
    let (_, address) = postgres.rsplit_once('@').expect("an address");
    let (address, _) = address.split_once('/').expect("a path");
    world.set("AMQP_URL", format!("amqp://guest:s3cret@{address}/%2f"));
    doctor(&world).await.only_failure("broker.reachable", "does not greet as an AMQP 0-9-1 broker");
}

#[tokio::test]
async fn tls_to_a_port_without_is_told() {
    let mut world = served(On::Sqlite).await;
    let url = world.settings["AMQP_URL"].replace("amqp://", "amqps://");
    world.set("AMQP_URL", url);
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("broker.reachable", "amqps://");
    assert!(diagnosis.fix("broker.reachable").contains("TLS port"));
}

#[tokio::test]
async fn a_missing_queue_is_told_and_not_made() {
    let world = served(On::Sqlite).await;
    let queue = format!("{}.retry.30s", world.name);
    delete_queue(&queue).await;
    doctor(&world).await.only_failure("broker.queue.retry.30s", "is not there");
    assert!(!queue_is_there(&queue).await);
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_told_with_what_differs() {
    let world = served(On::Sqlite).await;
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    quorum.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(7));
    replace_queue(&world.work_queue(), quorum).await;
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("broker.queue.thread-closed", "not as we would declare it");
    let why = diagnosis.check("broker.queue.thread-closed")["why"].to_string();
    for difference in ["x-delivery-limit", "'20'", "'7'", "x-dead-letter-strategy"] {
        assert!(why.contains(difference), "{why}");
    }
    assert!(!why.contains("x-queue-type"), "{why}");
}

#[tokio::test]
async fn a_queue_without_our_arguments_may_have_them_by_policy_where_the_operator_declares() {
    let mut world = served(On::Sqlite).await;
    world.set("VOLUME_REAPER_TOPOLOGY", "check");
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    replace_queue(&world.work_queue(), quorum).await;
    let diagnosis = doctor(&world).await;
    diagnosis.warning("broker.queue.thread-closed", "x-delivery-limit");
    diagnosis.warning("broker.binding", "AMQP can't list bindings");
}

#[tokio::test]
async fn a_classic_queue_is_told_even_where_the_operator_declares() {
    let mut world = served(On::Sqlite).await;
    world.set("VOLUME_REAPER_TOPOLOGY", "check");
    replace_queue(&world.work_queue(), FieldTable::default()).await;
    doctor(&world).await.only_failure("broker.queue.thread-closed", "no quorum queue");
}

#[tokio::test]
async fn a_user_without_permissions_is_told_which_are_missing() {
    let mut world = served(On::Sqlite).await;
    as_user(&mut world, [".*", "^$", "^$"]);
    let diagnosis = doctor(&world).await;
    for name in ["broker.binding", "broker.consume", "broker.publish"] {
        assert!(diagnosis.named("fail").contains(&name), "{}", diagnosis.text);
        assert!(diagnosis.check(name)["why"].to_string().contains("ACCESS_REFUSED"), "{}", diagnosis.text);
    }
    assert!(!diagnosis.text.contains("s3cret"));
}

#[tokio::test]
async fn a_user_who_may_not_declare_is_told_to_check_only() {
    let mut world = served(On::Sqlite).await;
    as_user(&mut world, ["^$", ".*", ".*"]);
    let diagnosis = doctor(&world).await;
    assert!(diagnosis.named("fail").contains(&"broker.queue.thread-closed"), "{}", diagnosis.text);
    assert!(diagnosis.fix("broker.queue.thread-closed").contains("VOLUME_REAPER_TOPOLOGY=check"));
    world.set("VOLUME_REAPER_TOPOLOGY", "check");
    let diagnosis = doctor(&world).await;
    assert_eq!(diagnosis.named("fail"), [""; 0], "{}", diagnosis.text);
}

#[tokio::test]
async fn dead_letters_are_told() {
    let world = world(On::Sqlite).await;
    let serving = world.serve().await;
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    assert_eq!(serving.stop().await, Some(0));
    doctor(&world).await.warning("broker.dead-letters", "1 in ");
}

#[tokio::test]
async fn events_that_nobody_consumes_are_told() {
    let world = served(On::Sqlite).await;
    world.publish_closed("t1").await;
    doctor(&world).await.warning("broker.backlog", "1 messages wait");
}

// --- The database ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_schema_that_is_behind_is_told_with_what_is_pending() {
    for on in On::ALL {
        let world = served(on).await;
        assert!(world.run(&["migrate", "down"]).await.status.success());
        doctor(&world).await.only_failure("database.migrations", "m20261126_000006_reopen_trigger");
    }
}

#[tokio::test]
async fn a_database_or_a_user_that_is_not_there_is_told() {
    let mut world = served(On::Postgres).await;
    let url = world.settings["DATABASE_URL"].clone();
    world.set("DATABASE_URL", format!("{url}x"));
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("database.reachable", "does not exist");
    assert!(diagnosis.fix("database.reachable").contains("create it"));

    world.set("DATABASE_URL", url.replace("postgres@", "nobody:s3cret@"));
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("database.reachable", "nobody");
    assert!(diagnosis.fix("database.reachable").contains("password"));
    assert!(!diagnosis.text.contains("s3cret"));
}

#[tokio::test]
async fn a_disabled_trigger_is_told() {
    let world = served(On::Postgres).await;
    world.execute("ALTER TABLE threads DISABLE TRIGGER volume_reaper_clear_mark").await;
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("database.trigger", "disabled");
    assert!(diagnosis.fix("database.trigger").contains("ENABLE TRIGGER volume_reaper_clear_mark"));
}

#[tokio::test]
async fn a_missing_trigger_or_index_is_found_and_the_fix_that_is_named_works() {
    for on in On::ALL {
        let world = served(on).await;
        let (trigger, index) = match on {
            On::Sqlite => ("DROP TRIGGER volume_reaper_clear_mark", "DROP INDEX volume_reaper_unmarked_threads"),
            On::Postgres => {
                ("DROP TRIGGER volume_reaper_clear_mark ON threads", "DROP INDEX volume_reaper_unmarked_threads")
            }
            On::Mysql => {
                ("DROP TRIGGER volume_reaper_clear_mark", "DROP INDEX volume_reaper_unmarked_threads ON threads")
            }
        };
        for (name, drop) in [("database.trigger", trigger), ("database.index", index)] {
            world.execute(drop).await;
            let diagnosis = doctor(&world).await;
            diagnosis.only_failure(name, "is not there");
            let (_, sql) = diagnosis.fix(name).split_once('`').expect("SQL");
            let (sql, _) = sql.split_once('`').expect("its end");
            world.execute(sql).await;
            assert!(world.run(&["migrate", "up"]).await.status.success());
            assert_eq!(doctor(&world).await.code, Some(0));
        }
    }
}

#[tokio::test]
async fn an_index_whose_build_was_interrupted_is_told() {
    let world = served(On::Postgres).await;
    let break_it =
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'volume_reaper_unmarked_threads'::regclass";
    world.execute(break_it).await;
    doctor(&world).await.only_failure("database.index", "interrupted");
}

#[tokio::test]
async fn another_closed_value_than_the_schemas_is_told() {
    for on in On::ALL {
        let mut world = served(on).await;
        world.set("VOLUME_REAPER_THREADS_CLOSED_VALUE", "archived");
        let diagnosis = doctor(&world).await;
        let failed: &[_] = match on {
            On::Sqlite | On::Postgres => &["database.index", "database.trigger"],
            // Its index is over every status.
            On::Mysql => &["database.trigger"],
        };
        assert_eq!(diagnosis.named("fail"), failed, "{}", diagnosis.text);
    }
}

#[tokio::test]
async fn a_column_that_is_not_there_is_told() {
    for on in On::ALL {
        let mut world = served(on).await;
        world.set("VOLUME_REAPER_THREADS_CLOSED_AT_COLUMN", "ended_at");
        doctor(&world).await.only_failure("database.threads", "lacks ended_at");
    }
}

#[tokio::test]
async fn a_user_who_may_not_mark_is_told() {
    let mut world = served(On::Postgres).await;
    let user = format!("{}_reader", world.name);
    world.execute(&format!("CREATE ROLE {user} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")).await;
    let url = world.settings["DATABASE_URL"].replace("postgres@", &format!("{user}@"));
    world.set("DATABASE_URL", url);
    doctor(&world).await.only_failure("database.rights", "permission denied");

    let grant = "GRANT UPDATE ON threads TO {}; GRANT INSERT ON volume_removals TO {}; \
                 GRANT INSERT, UPDATE ON volume_reaper_daemons, volume_reaper_pauses TO {}; \
                 GRANT INSERT, UPDATE, DELETE ON volume_reaper_failures TO {}";
    world.execute(&grant.replace("{}", &user)).await;
    doctor(&world).await.only_failure("database.rights", "sequence");
    world.execute(&format!("GRANT USAGE ON SEQUENCE volume_removals_id_seq TO {user}")).await;
    // Without a lease there would be no sweep.
    doctor(&world).await.only_failure("database.rights", "permission denied for table volume_reaper_leases");
    world.execute(&format!("GRANT INSERT, UPDATE ON volume_reaper_leases TO {user}")).await;
    doctor(&world).await.only_failure("database.rights", "permission denied for table volume_reaper_chains");
    let grant = "GRANT INSERT, UPDATE, DELETE ON volume_reaper_sweeps, volume_reaper_stats TO {}; \
                 GRANT INSERT, UPDATE ON volume_reaper_chains, volume_reaper_rollups TO {}";
    world.execute(&grant.replace("{}", &user)).await;
    // Enough for `serve`, and not for all that people may ask.
    doctor(&world).await.warning("database.command-rights", "permission denied for table volume_reaper_holds");
    world.execute(&format!("GRANT INSERT, UPDATE, DELETE ON volume_reaper_holds TO {user}")).await;
    doctor(&world).await.warning("database.command-rights", "permission denied for table volume_reaper_actions");
    world.execute(&format!("GRANT INSERT ON volume_reaper_actions TO {user}")).await;
    doctor(&world).await.warning("database.command-rights", "permission denied for table volume_reaper_daemons");
    world.execute(&format!("GRANT DELETE ON volume_reaper_daemons TO {user}")).await;
    let diagnosis = doctor(&world).await;
    assert_eq!(diagnosis.code, Some(0));
    assert!(!diagnosis.named("warn").contains(&"database.command-rights"), "{}", diagnosis.text);
}

#[tokio::test]
async fn on_mysql_what_a_user_lacks_is_told() {
    let mut world = served(On::Mysql).await;
    let url = world.settings["DATABASE_URL"].clone();
    world.set("DATABASE_URL", format!("{url}x"));
    doctor(&world).await.only_failure("database.reachable", "Unknown database");

    let user = world.name.clone();
    world.set("DATABASE_URL", url.replace("root@", &format!("{user}:s3cret@")));
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("database.reachable", "Access denied");
    assert!(diagnosis.fix("database.reachable").contains("password"));
    assert!(!diagnosis.text.contains("s3cret"));

    world.execute(&format!("CREATE USER {user} IDENTIFIED BY 's3cret'")).await;
    world.execute(&format!("GRANT SELECT, TRIGGER ON {user}.* TO {user}")).await;
    doctor(&world).await.only_failure("database.rights", "UPDATE command denied");
    world.execute(&format!("GRANT INSERT, UPDATE, DELETE ON {user}.* TO {user}")).await;
    assert_eq!(doctor(&world).await.code, Some(0));
    // Nor is a trigger taken for missing whose statement this user may not see: the right to do so is one to change it.
    world.execute(&format!("REVOKE TRIGGER ON {user}.* FROM {user}")).await;
    assert_eq!(doctor(&world).await.code, Some(0));
    world.execute(&format!("DROP USER {user}")).await;
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_told() {
    let world = served(On::Postgres).await;
    world.execute(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", world.name)).await;
    doctor(&world).await.only_failure("database.rights", "read-only");
}

#[tokio::test]
async fn a_large_table_that_sweeps_would_read_as_a_whole_is_told() {
    let world = served(On::Postgres).await;
    world
        .execute(
            "ALTER TABLE threads SET (autovacuum_enabled = false); \
             INSERT INTO threads (id, status, workspace_volume_removed_at) \
             SELECT 't' || n, 'closed', now() FROM generate_series(1, 60000) n; ANALYZE threads",
        )
        .await;
    let diagnosis = doctor(&world).await;
    assert_eq!(diagnosis.check("database.plan")["status"], "ok", "{}", diagnosis.text);
    world.execute(&format!("ALTER DATABASE {} SET enable_indexscan = off", world.name)).await;
    world.execute(&format!("ALTER DATABASE {} SET enable_bitmapscan = off", world.name)).await;
    world.execute(&format!("ALTER DATABASE {} SET enable_indexonlyscan = off", world.name)).await;
    doctor(&world).await.warning("database.plan", "whole table");
}

// --- Docker ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_daemon_other_than_the_pinned_one_is_told() {
    let world = served(On::Sqlite).await;
    world.execute("UPDATE volume_reaper_daemons SET identity = 'the-old-host'").await;
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("docker.identity", "the-old-host is pinned");
    assert!(diagnosis.fix("docker.identity").contains("hosts adopt"));
    assert_eq!(world.texts("SELECT identity FROM volume_reaper_daemons").await, ["the-old-host"]);
}

#[tokio::test]
async fn a_daemon_that_is_down_is_one_failure() {
    let mut world = served(On::Sqlite).await;
    world.set("DOCKER_HOST", format!("unix://{}/no.sock", world.dir.path().display()));
    doctor(&world).await.only_failure("docker.reachable", "no.sock");
}

/// A socket before the daemon that refuses removals, as socket proxies do.
fn refusing_removals(world: &World) -> String {
    let socket = world.dir.path().join("refusing.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let daemon = server("DOCKER_HOST").trim_start_matches("unix://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let daemon = daemon.clone();
            tokio::spawn(async move {
                let Ok(server) = UnixStream::connect(daemon).await else { return };
                let (mut client_reads, mut client_writes) = client.split();
                let (mut server_reads, mut server_writes) = server.into_split();
                let answers = async { tokio::io::copy(&mut server_reads, &mut client_writes).await.map(drop) };
                let requests = async {
                    let mut head = vec![0; 4096];
                    // Requests come one after the other on a connection, each in one piece.
                    while let Ok(length @ 1..) = client_reads.read(&mut head).await {
                        if head.starts_with(b"DELETE") || server_writes.write_all(&head[..length]).await.is_err() {
                            break;
                        }
                    }
                };
                tokio::select! { _ = answers => return, () = requests => {} }
                let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = client_writes.write_all(refused).await;
            });
        }
    });
    format!("unix://{}", socket.display())
}

#[tokio::test]
async fn a_proxy_that_forbids_removals_is_told() {
    let mut world = served(On::Sqlite).await;
    let endpoint = refusing_removals(&world);
    world.set("DOCKER_HOST", endpoint);
    let diagnosis = doctor(&world).await;
    diagnosis.only_failure("docker.remove", "403");
    assert!(diagnosis.fix("docker.remove").contains("socket proxy"));
}

// --- Everything down ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn what_is_down_is_told_once_each_and_within_a_bounded_time() {
    // They accept and never answer, which is the slowest way to be down.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let mut world = World::without_schema(On::Sqlite).await;
    world.set("AMQP_URL", format!("amqp://u:s3cret@{address}/%2f"));
    world.set("DATABASE_URL", format!("postgres://u:s3cret@{address}/d"));
    world.set("DOCKER_HOST", format!("tcp://{address}"));
    let began = Instant::now();
    let diagnosis = doctor(&world).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(diagnosis.named("fail"), ["broker.reachable", "database.reachable", "docker.reachable"]);
    assert!(!diagnosis.text.contains("s3cret"), "{}", diagnosis.text);

    world.set("AMQP_URL", "amqp://u:s3cret@127.0.0.1:1/%2f");
    world.set("DATABASE_URL", "postgres://u:s3cret@127.0.0.1:1/d");
    world.set("DOCKER_HOST", "tcp://127.0.0.1:1");
    let diagnosis = doctor(&world).await;
    for name in ["broker.reachable", "database.reachable", "docker.reachable"] {
        assert!(diagnosis.check(name)["why"].to_string().contains("refused"), "{}", diagnosis.text);
    }
}
