//! The report of `status`, for people.

use super::{
    BTreeMap, Dependency, Duration, Failing, FailingThread, FailingThreads, Host, HostReport, KnownDaemon, LeftToDo,
    Pause, PinnedDaemon, Plain, QueueCount, Removals, Report, Sweeper, Sweeping, fmt, time, times,
};
use crate::{cleanup::Gone, store::Reclaimed, terminal::amount_of};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for dependency in Dependency::ALL {
            match self.dependencies.get(dependency.as_str()).and_then(|answering| answering.error.as_deref()) {
                None => writeln!(f, "{:<9} answers", dependency.as_str())?,
                Some(error) => writeln!(f, "{:<9} does not answer: {}", dependency.as_str(), Plain(error))?,
            }
        }
        self.write_backlog(f)?;
        self.write_removals(f)?;
        self.write_failing(f)?;
        self.write_threads(f)?;
        self.write_pause(f)?;
        self.write_sweeper(f)?;
        self.write_hosts(f)?;
        self.write_daemons(f)?;
        self.write_queues(f)
    }
}

impl Report {
    /// The line of a section that could not be read.
    fn unread(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        let is_down = |error: &String| self.dependencies.values().any(|it| it.error.as_ref() == Some(error));
        match self.errors.get(name) {
            Some(error) if is_down(error) => writeln!(f, "{name:<9} unknown, see above"),
            Some(error) => writeln!(f, "{name:<9} unknown: {}", Plain(error)),
            None => Ok(()),
        }
    }

    fn write_backlog(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(LeftToDo { unmarked, and_more, oldest_closed_at, oldest_seconds }) = &self.backlog else {
            return self.unread(f, "backlog");
        };
        let more = if *and_more { "more than " } else { "" };
        write!(f, "{:<9} {more}{unmarked} closed threads are not marked", "backlog")?;
        if let (Some(at), Some(seconds)) = (oldest_closed_at, oldest_seconds) {
            write!(f, ", the oldest was closed at {}, {} ago", time(*at), age(*seconds))?;
        }
        writeln!(f)
    }

    fn write_removals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Removals { last_hour, last_day, reclaimed_last_hour, reclaimed_last_day, at_least }) = &self.removals
        else {
            return self.unread(f, "removals");
        };
        let least = if *at_least { "at least " } else { "" };
        let (hour, day) = (counts(last_hour, *reclaimed_last_hour), counts(last_day, *reclaimed_last_day));
        writeln!(f, "{:<9} last hour: {least}{hour}; last 24 hours: {least}{day}", "removals")
    }

    fn write_failing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(FailingThreads { threads, worst }) = &self.failing else {
            return self.unread(f, "failing");
        };
        writeln!(f, "{:<9} {threads} threads", "failing")?;
        for FailingThread { thread_id, failing: Failing { failed, next_try_at } } in worst {
            let (attempts, next) = (times(failed.attempts), time(*next_try_at));
            writeln!(f, "  {}  {attempts}, next try at {next}: {}", Plain(thread_id), Plain(&failed.error))?;
        }
        Ok(())
    }

    /// Nothing before the first sweep, and of what can't be read the backlog's line says so.
    fn write_threads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(threads) = &self.threads else { return Ok(()) };
        let states = threads.named().into_iter().filter(|(_, count)| *count > 0);
        let states: Vec<_> = states.map(|(state, count)| format!("{count} {}", state.replace('_', " "))).collect();
        if states.is_empty() {
            return Ok(());
        }
        writeln!(f, "{:<9} left by the last sweep: {}", "threads", states.join(", "))
    }

    fn write_pause(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = "removal";
        match &self.pause {
            Some(Pause { paused_at, reason, paused_by }) => {
                let (at, by, why) = (time(*paused_at), Plain(paused_by), Plain(reason));
                writeln!(f, "{name:<9} PAUSED since {at} by {by}: {why}; `volume-reaper resume` resumes it")
            }
            None if self.errors.contains_key("pause") => self.unread(f, "pause"),
            None => writeln!(f, "{name:<9} not paused"),
        }
    }

    fn write_sweeper(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = "sweeper";
        match &self.sweeper {
            Some(Sweeping { sweeper: Sweeper { holder, epoch, expires_at }, current: true }) => {
                let until = time(*expires_at);
                writeln!(f, "{name:<9} {}, epoch {epoch}, lease until {until}", Plain(holder))
            }
            Some(Sweeping { sweeper: Sweeper { holder, .. }, current: false }) => {
                writeln!(f, "{name:<9} nobody; the last one was {}", Plain(holder))
            }
            None if self.errors.contains_key(name) => self.unread(f, name),
            None => writeln!(f, "{name:<9} nobody"),
        }
    }

    fn write_hosts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for HostReport { name, answering, sweeper, pause } in &self.hosts {
            let swept = match sweeper {
                Some(Sweeping { sweeper, current: true }) => format!("swept by {}", Plain(&sweeper.holder)),
                Some(_) | None => "swept by nobody".to_owned(),
            };
            // That of everything has a line of its own.
            let paused = match pause {
                Some(pause) if self.pause.as_ref() != Some(pause) => {
                    format!(
                        ", PAUSED since {}: {}; `resume --on {name}` resumes it",
                        time(pause.paused_at),
                        Plain(&pause.reason)
                    )
                }
                Some(_) | None => String::new(),
            };
            let swept = format!("{swept}{paused}");
            match &answering.error {
                None => writeln!(f, "{:<9} {name}: answers, {swept}", "host")?,
                Some(error) => writeln!(f, "{:<9} {name}: DOES NOT ANSWER, {swept}: {}", "host", Plain(error))?,
            }
        }
        for (host, threads) in &self.unmarked_by_host {
            let whose = if host.is_empty() { "any host".to_owned() } else { format!("host {}", Plain(host)) };
            let is_ours = host.is_empty() || self.hosts.iter().any(|ours| ours.name == *host);
            let stays = if is_ours { "" } else { ", which is none of this service's" };
            writeln!(f, "{:<9} {threads} closed threads of {whose} are not marked{stays}", "backlog")?;
        }
        Ok(())
    }

    fn write_daemons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(daemons) = &self.daemons else {
            return self.unread(f, "daemons");
        };
        if daemons.is_empty() {
            writeln!(f, "{:<9} none is pinned yet", "daemons")?;
        }
        for KnownDaemon { pinned: PinnedDaemon { name, identity, pinned_at }, answers } in daemons {
            let answers = match answers {
                Some(true) => "answers",
                Some(false) => "ANOTHER ONE ANSWERS: nothing is removed or marked",
                None if self.is_asked(name) => "does not answer",
                None => "none of this configuration's hosts",
            };
            let (name, identity, at) = (Plain(name), Plain(identity), time(*pinned_at));
            writeln!(f, "{:<9} {name}: {identity}, pinned at {at}, {answers}", "daemons")?;
        }
        Ok(())
    }

    /// Whether the configuration has a host of this name.
    fn is_asked(&self, daemon: &str) -> bool {
        self.hosts.iter().any(|host| host.name == daemon) || (self.hosts.is_empty() && daemon == Host::Only.key())
    }

    fn write_queues(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(queues) = &self.queues else {
            return self.unread(f, "queues");
        };
        writeln!(f, "queues")?;
        let width = queues.iter().map(|queue| queue.name.len()).max().unwrap_or(0);
        for QueueCount { name, messages, consumers, error } in queues {
            match (messages, consumers) {
                (Some(messages), Some(consumers)) => {
                    writeln!(f, "  {name:<width$}  {messages} messages, {consumers} consumers")?;
                }
                _ => writeln!(f, "  {name:<width$}  unknown: {}", Plain(error.as_deref().unwrap_or_default()))?,
            }
        }
        Ok(())
    }
}

/// An age for people, the coarser the longer.
pub(super) fn age(seconds: u64) -> String {
    let unit = match seconds {
        0..3600 => 1,
        3600..86_400 => 60,
        86_400..604_800 => 3600,
        _ => 86_400,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % unit)).to_string()
}

/// Counts by outcome, such as `1 not_found, 3 removed, 5 GiB`.
fn counts(by_outcome: &BTreeMap<String, u64>, reclaimed: Reclaimed) -> String {
    if by_outcome.is_empty() {
        return "none".to_owned();
    }
    let counts: Vec<_> = by_outcome.iter().map(|(outcome, count)| format!("{count} {}", Plain(outcome))).collect();
    let Reclaimed { bytes, unsized_volumes } = reclaimed;
    let removed = by_outcome.get(Gone::Removed.as_str()).copied().unwrap_or_default();
    counts.join(", ") + &amount_of(removed, bytes, unsized_volumes)
}
