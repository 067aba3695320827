//! The command line: which command, and the flags that give settings.

mod command_actions;
mod receipts_selection;
mod selection;

use std::path::PathBuf;

use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use self::{
    command_actions::{DeadLettersAction, Direction, HostsAction, OrphansAction, ReceiptsAction},
    receipts_selection::ReceiptsSelection,
    selection::Selection,
};
use crate::{
    build_info,
    config::{CONFIG_ENV, Config, ConfigError, SETTINGS, environment, flag_of},
};

/// Removes the Docker volumes of closed threads, once, and remembers it.
#[derive(Debug, Parser)]
#[command(name = "volume-reaper", version = build_info::one_line(), max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume thread-closed events and sweep for what they missed, until SIGTERM or SIGINT
    Serve {
        /// Take a copy of the events, decide, and print what would be done, one JSON object a line; touch nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Bring the database's schema up to date, take it back, or show where it is
    Migrate {
        /// What to do; `up` if nothing is said
        #[command(subcommand)]
        direction: Option<Direction>,
    },
    /// Sweep once: clean up after every closed thread that is not marked. Exit code 1 if something failed
    Sweep {
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Publish thread-closed events and wait until the broker has them
    Publish {
        /// That the threads were reopened, for a service that knows of threads by events only
        #[arg(long)]
        reopened: bool,
        /// The threads; from standard input, one a line, if none is given
        #[arg(value_name = "THREAD_ID")]
        thread_ids: Vec<String>,
    },
    /// Say why a thread's volume is still there, or when and how it went. Exit code 1 if the database or Docker does
    /// not answer
    Explain {
        /// The thread
        #[arg(value_name = "THREAD_ID")]
        thread_id: String,
        /// Print the answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the backlog, outcomes, failing threads, queues, daemons and who sweeps. Exit code 1 if something can't be
    /// read
    Status {
        /// Print it as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Look for what can silently be wrong with broker, database and Docker, and say how to fix it. Changes nothing.
    /// Exit code 1 if a check failed
    Doctor {
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Ask a `serve` on this host whether it lives, for health checks. Exit code 1 if not
    Health {
        /// Whether it is ready, with the reasons if not
        #[arg(long)]
        ready: bool,
    },
    /// Volumes of ours that belong to no thread: list them, or remove them
    Orphans {
        /// What to do; list if nothing is said
        #[command(subcommand)]
        action: Option<OrphansAction>,
        /// Print the list as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// The messages that could not be settled and are parked in the dead-letter queue
    DeadLetters {
        /// What to do
        #[command(subcommand)]
        action: DeadLettersAction,
    },
    /// The receipts, the latest first: which volumes are gone, since when, and by whom. With --host, those of that host
    #[command(args_conflicts_with_subcommands = true)]
    Receipts {
        /// What to do; list if nothing is said
        #[command(subcommand)]
        action: Option<ReceiptsAction>,
        /// Which ones
        #[command(flatten)]
        selection: ReceiptsSelection,
    },
    /// The Docker hosts whose answers count: show them, replace a daemon, give one up
    Hosts {
        /// What to do
        #[command(subcommand)]
        action: HostsAction,
    },
    /// Keep a thread from being cleaned, by event, sweep or hand, until it is released. Replaces a hold before
    Hold {
        /// The thread; it need not be there yet
        thread_id: String,
        /// Why, for whoever finds the volume
        #[arg(long)]
        reason: String,
        /// When the hold ends by itself: a time, as in 2026-12-24T18:00:00Z, or a duration from now, as in 7d
        #[arg(long, value_name = "WHEN")]
        until: Option<String>,
    },
    /// End the hold on a thread; the next sweep cleans it. Exit code 1 if it was not held
    Release {
        /// The thread
        thread_id: String,
    },
    /// Pause all removal on all replicas until it is resumed: the emergency brake
    Pause {
        /// Why, for whoever finds the volumes
        #[arg(long)]
        reason: String,
        /// Only on this Docker host
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
    },
    /// Print a file for --config: all settings, explained, and what is found of threads, broker and Docker
    Init {
        /// Look for nothing: only the defaults, commented out
        #[arg(long)]
        blank: bool,
    },
    /// Print a shell's completions of this command line
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder, one for each command
    Man {
        /// The folder, which is made if it is not there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Resume removal, after a pause or after the breaker; the budgets are counted anew
    Resume {
        /// Only on this Docker host; without it, everywhere and on each
        #[arg(long, value_name = "HOST")]
        on: Option<String>,
    },
}

/// What was asked for: a command and its settings.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The checked settings.
    pub config: Config,
}

/// Reads the command line and the environment of this process. Exits with code 2 on a command line that clap refuses.
pub fn read() -> Result<Invocation, ConfigError> {
    let matches = command().get_matches();
    let mut command = match CommandLine::from_arg_matches(&matches) {
        Ok(line) => line.command,
        Err(error) => error.exit(),
    };
    let env = environment(std::env::vars_os())?;
    let given = [flag(&matches, "config"), env.get(CONFIG_ENV).cloned()].into_iter().flatten();
    let file = given.map(|path| path.trim().to_owned()).find(|path| !path.is_empty()).map(PathBuf::from);
    let file = file.map(|path| Config::read_file(&path).map(|text| (path, text))).transpose()?;
    // To `receipts` it is a condition, and names no host that this process would serve.
    let mut is_condition = false;
    if let Command::Receipts { selection, .. } = &mut command {
        selection.host = flag(&matches, "host");
        is_condition = true;
    }
    let flag = |key: &str| if is_condition && key == "host" { None } else { flag(&matches, key) };
    let config = Config::load(flag, &env, file)?;
    Ok(Invocation { command, config })
}

/// The whole command line, settings included.
#[must_use]
pub fn command() -> clap::Command {
    let config = Arg::new("config")
        .long("config")
        .global(true)
        .value_name("FILE")
        .help(format!("A TOML file with settings [env: {CONFIG_ENV}]"));
    let settings = SETTINGS.iter().map(|setting| {
        let default =
            if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
        Arg::new(setting.key)
            .long(flag_of(setting.key)[2..].to_owned())
            .global(true)
            .value_name("VALUE")
            .hide_short_help(true)
            .help_heading("Settings (flag, environment, --config file, default)")
            .help(format!("{} [env: {}]{default}", setting.help, setting.env))
    });
    CommandLine::command().arg(config).args(settings)
}

fn flag(matches: &ArgMatches, key: &str) -> Option<String> {
    matches.get_one::<String>(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_setting_may_stand_before_or_behind_the_command() {
        for line in [["volume-reaper", "--prefetch", "7", "serve"], ["volume-reaper", "serve", "--prefetch", "7"]] {
            let matches = command().try_get_matches_from(line).expect("valid");
            assert_eq!(flag(&matches, "prefetch").as_deref(), Some("7"), "{line:?}");
        }
    }

    /// The help of a command and of those below it, as `--help` prints it, each under its name.
    fn helps(command: &mut clap::Command, name: &str, helps: &mut Vec<(String, String)>) {
        helps.push((name.to_owned(), command.render_long_help().to_string()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            let name = format!("{name} {}", below.get_name());
            self::helps(below, &name, helps);
        }
    }

    #[test]
    fn the_help_reads_well() {
        const SETTINGS: &str = "\nSettings (flag, environment";
        let mut whole = command();
        whole.build();
        let mut all = Vec::new();
        helps(&mut whole, "volume-reaper", &mut all);
        let (_, program) = all.remove(0);
        let (_, settings) = program.split_once(SETTINGS).expect("the settings");
        let commands = all.iter().map(|(name, help)| {
            let (own, its_settings) = help.split_once(SETTINGS).expect("the settings");
            assert_eq!(its_settings, settings, "{name} has the settings of the whole program");
            format!("$ {name} --help\n{own}")
        });
        insta::assert_snapshot!("help_of_each_command", commands.collect::<String>());
        insta::assert_snapshot!("help", program);
    }
}
