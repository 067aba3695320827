//! What the facts about the database mean.

use migrations::{BOOKKEEPING_TABLE, REOPEN_TRIGGER};

use super::findings::{Check, clock_verdict, is_loopback};
use crate::{
    config::Config,
    failure::Failure,
    store::{Inspection, MigrationStatus, Part, Schema, Unreachable},
};

const MIGRATE: &str = "start `volume-reaper serve`, or run `volume-reaper migrate up`";
pub(super) fn verdicts(config: &Config, found: &Result<Inspection, Unreachable>) -> Vec<Check> {
    let found = match found {
        Err(unreachable) => return vec![unreachable_verdict(unreachable)],
        Ok(found) => found,
    };
    let mut checks = vec![Check::ok("database.reachable", format!("{} at {}", found.version, config.database_url))];
    checks.extend(found.encrypted.map(|encrypted| transport(config, encrypted, found.verifying_parameter)));
    checks.extend(found.clock.map(|clock| clock_verdict(clock, "database.clock", "the database's")));
    checks.push(migrations(config, &found.migrations));
    checks.extend(found.obstacles.as_ref().map(obstacles));
    checks.extend(found.schema.iter().flat_map(|schema| schema_verdicts(config, schema)));
    checks
}

fn unreachable_verdict(unreachable: &Unreachable) -> Check {
    let (why, fix) = match unreachable {
        Unreachable::Connect(why) => {
            (why, "start the database, correct host and port in DATABASE_URL, or open the firewall")
        }
        Unreachable::Login(why) => (
            why,
            "correct user and password in DATABASE_URL, or whom the server lets in (PostgreSQL's pg_hba.conf, MySQL's \
             users and grants)",
        ),
        Unreachable::NoDatabase(why) => (
            why,
            "correct the database in DATABASE_URL, or create it; `volume-reaper migrate` and `serve` make SQLite's \
             file",
        ),
        Unreachable::Other(why) => (why, "look into the database's log, and at DATABASE_URL"),
    };
    Check::fail("database.reachable", format!("{why} (not checked: schema, rights, clock, the pinned daemon)"), fix)
}

fn transport(config: &Config, encrypted: bool, parameter: &str) -> Check {
    let (name, host) = ("database.tls", config.database_url.host().unwrap_or("localhost"));
    if encrypted {
        Check::ok(name, "encrypted")
    } else if is_loopback(host) {
        Check::ok(name, "not encrypted, and does not leave this host")
    } else {
        let why = format!("not encrypted: every row can be read on the way to {host}");
        Check::warn(name, why, format!("turn TLS on at the server, and add ?{parameter} to DATABASE_URL"))
    }
}

fn migrations(config: &Config, migrations: &Result<Vec<MigrationStatus>, Failure>) -> Check {
    let name = "database.migrations";
    let all = match migrations {
        Ok(all) => all,
        Err(error) => {
            return Check::fail(name, format!("can't be read: {error}"), "give this user the right to read our tables");
        }
    };
    let pending: Vec<_> =
        all.iter().filter(|migration| !migration.applied).map(|migration| migration.name.as_str()).collect();
    if pending.is_empty() {
        return Check::ok(name, format!("all {} are applied", all.len()));
    }
    Check::fail(
        name,
        format!(
            "{} of {} are pending: {} (not checked: columns, index, trigger, rights, the pinned daemon)",
            pending.len(),
            all.len(),
            pending.join(", ")
        ),
        if config.migrate { MIGRATE } else { "run `volume-reaper migrate up`" },
    )
}

/// What `migrate up` would refuse.
fn obstacles(error: &Failure) -> Check {
    let fix = "do what it says, then see `volume-reaper migrate up --dry-run`";
    Check::fail("database.threads", format!("can't be used as it is: {error}"), fix)
}

fn schema_verdicts(config: &Config, schema: &Schema) -> Vec<Check> {
    let mut checks = vec![columns(config, &schema.missing_columns)];
    if !matches!(&schema.missing_columns, Ok(Some(missing)) if missing.is_empty()) {
        return checks;
    }
    checks.push(part(
        "database.index",
        "the index over closed and unmarked threads",
        "every sweep reads the whole table",
        &again(&schema.before_index_again, "m20261126_000005_unmarked_index"),
        &schema.index,
    ));
    checks.push(part(
        "database.trigger",
        "the trigger that clears a reopened thread's mark",
        "the volume of a thread that is closed a second time is never removed",
        &again("", "m20261126_000006_reopen_trigger"),
        &schema.trigger,
    ));
    checks.extend(other_triggers(config, &schema.other_triggers));
    checks.extend(plan(&schema.reads_whole_table));
    checks.push(match &schema.may_write {
        Ok(()) => Check::ok("database.rights", "marks and receipts can be written"),
        Err(error) => Check::fail(
            "database.rights",
            format!("marks and receipts can't be written: {error}"),
            "connect to a server and as a user that may SELECT and UPDATE the threads table, SELECT and INSERT in \
             volume_removals, SELECT in volume_reaper_migrations and volume_reaper_additions, and SELECT, INSERT and \
             UPDATE in the other tables volume_reaper_...; in volume_reaper_daemons, volume_reaper_holds, \
             volume_reaper_failures, volume_reaper_sweeps and volume_reaper_stats DELETE too",
        ),
    });
    checks.extend(schema.may_act.as_ref().err().filter(|_| schema.may_write.is_ok()).map(rights_of_commands));
    checks
}

/// Without them `serve` works, and does not what a person asks of it.
fn rights_of_commands(error: &Failure) -> Check {
    Check::warn(
        "database.command-rights",
        format!("holds, the audit trail of what people do, or `hosts retire` can't be written: {error}"),
        "let this user SELECT, INSERT, UPDATE and DELETE in volume_reaper_holds, SELECT and INSERT in \
         volume_reaper_actions, and DELETE in volume_reaper_daemons; or give commands another DATABASE_URL",
    )
}

fn columns(config: &Config, missing: &Result<Option<Vec<String>>, Failure>) -> Check {
    let (name, table) = ("database.threads", &config.threads);
    let fix = "correct the settings VOLUME_REAPER_THREADS_...; our own column comes back by \
                `volume-reaper migrate down --all` (which forgets all marks) and `migrate up`";
    match missing {
        Ok(Some(missing)) if missing.is_empty() => Check::ok(name, format!("table {table} has all columns")),
        Ok(Some(missing)) => {
            let missing = missing.join(", ");
            Check::fail(name, format!("table {table} lacks {missing} (not checked: index, trigger, rights)"), fix)
        }
        Ok(None) => Check::fail(name, format!("there is no table {table} (not checked: index, trigger, rights)"), fix),
        Err(error) => Check::fail(name, format!("can't be used (not checked: index, trigger, rights): {error}"), fix),
    }
}

/// How to have a migration applied again. Taking it back would take back those after it, and with them the receipts.
fn again(before: &str, migration: &str) -> String {
    format!(
        "have it made again: in the database `{before}DELETE FROM {BOOKKEEPING_TABLE} WHERE version = '{migration}'`, \
         then `volume-reaper migrate up`"
    )
}

fn part(name: &str, what: &str, consequence: &str, again: &str, found: &Result<Part, Failure>) -> Check {
    match found {
        Ok(Part::AsOurs) => Check::ok(name, format!("{what} is there")),
        Ok(Part::OutOfSight) => Check::ok(name, format!("{what} is not for this user to see, and was not looked at")),
        Ok(Part::Missing) => Check::fail(name, format!("{what} is not there: {consequence}"), again),
        Ok(Part::Disabled) => {
            let fix = format!("find out who disabled it, and run ALTER TABLE ... ENABLE TRIGGER {REOPEN_TRIGGER}");
            Check::fail(name, format!("{what} is disabled: {consequence}"), fix)
        }
        Ok(Part::Broken(how)) => Check::fail(name, format!("{what}: {how}"), again),
        Err(error) => Check::fail(name, format!("{what} can't be looked at: {error}"), "look into the database's log"),
    }
}

/// What such a trigger does can't be known: it may drop an update, or change what it writes.
fn other_triggers(config: &Config, found: &Result<Vec<String>, Failure>) -> Option<Check> {
    let name = "database.other-triggers";
    match found {
        Ok(triggers) if triggers.is_empty() => None,
        Ok(triggers) => Some(Check::warn(
            name,
            format!(
                "each update of table {} goes through {} first: if that drops it or changes {}, threads stay unmarked",
                config.threads,
                triggers.join(", "),
                config.threads.mark
            ),
            "see that it lets an update of that column pass as it is",
        )),
        Err(error) => Some(Check::warn(name, format!("can't be looked at: {error}"), "look into the database's log")),
    }
}

fn plan(reads_whole_table: &Result<Option<bool>, Failure>) -> Option<Check> {
    let name = "database.plan";
    match reads_whole_table {
        Ok(None) => None,
        Ok(Some(false)) => Some(Check::ok(name, "a sweep reads by an index")),
        Ok(Some(true)) => Some(Check::warn(
            name,
            "a sweep would read the whole table, since the database's statistics are old or most threads are unmarked",
            "run ANALYZE (on MySQL: ANALYZE TABLE) on the threads table",
        )),
        Err(error) => {
            Some(Check::warn(name, format!("can't be looked at: {error}"), "see EXPLAIN on the threads table"))
        }
    }
}
