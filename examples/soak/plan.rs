//! What is to become of each thread, decided by the seed before anything begins.

use std::time::Duration;

/// What the daemons are called where there are several.
pub(crate) const HOSTS: [&str; 2] = ["docker-1", "docker-2"];

/// Chance with a seed: the same seed throws the same dice. `SplitMix64`, which is plenty for choosing faults.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.throw() % limit as u64).unwrap_or_default()
    }

    /// A part of `limit`.
    pub(crate) fn up_to(&mut self, limit: Duration) -> Duration {
        limit * u32::try_from(self.below(1001)).unwrap_or_default() / 1000
    }

    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}

/// What becomes of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Closes, with an event; its volume is free to go.
    Removed,
    /// Closes, with an event; there never was a volume.
    Absent,
    /// The event comes some seconds before the close is committed.
    Overtaken,
    /// The event is published twice.
    Repeated,
    /// Closes; the platform loses the event.
    EventLost,
    /// Closes, with an event, while a container holds the volume until after the faults.
    Held,
    /// Stays open, and an event says that it was closed.
    Open,
    /// Closes, is reopened with a new volume once it is marked, gets a late event, and stays open.
    Reopened,
    /// Closes, is reopened with a new volume once it is marked, gets a late event, and closes once more.
    ClosedAgain,
    /// There is no such thread, only an event.
    Unknown,
    /// No event, only a message.
    Garbage,
    /// No event, but a message that a client library chokes on, or almost an event.
    Poison,
    /// Closes, with an event that has odd headers, or odd fields that decide nothing.
    Dressed,
}

impl Fate {
    /// How many of a thousand events belong to threads of this fate; [`Fate::Absent`] has the rest.
    const SHARES: [(Self, usize); 12] = [
        (Self::Removed, 90),
        (Self::Overtaken, 30),
        (Self::Repeated, 80),
        (Self::EventLost, 40),
        (Self::Held, 4),
        (Self::Open, 40),
        (Self::Reopened, 20),
        (Self::ClosedAgain, 30),
        (Self::Unknown, 10),
        (Self::Garbage, 4),
        (Self::Poison, 9),
        (Self::Dressed, 10),
    ];

    /// How many messages are published about such a thread.
    pub(crate) fn messages(self) -> usize {
        match self {
            Self::EventLost => 0,
            Self::Repeated | Self::Reopened => 2,
            Self::ClosedAgain => 3,
            Self::Removed
            | Self::Absent
            | Self::Overtaken
            | Self::Held
            | Self::Open
            | Self::Unknown
            | Self::Garbage
            | Self::Poison
            | Self::Dressed => 1,
        }
    }

    pub(crate) fn has_row(self) -> bool {
        !matches!(self, Self::Unknown | Self::Garbage | Self::Poison)
    }

    pub(crate) fn has_volume(self) -> bool {
        self.has_row() && self != Self::Absent
    }

    pub(crate) fn is_open_at_the_end(self) -> bool {
        matches!(self, Self::Open | Self::Reopened)
    }

    /// How often it is closed, and so has to be marked.
    pub(crate) fn closes(self) -> usize {
        match self {
            Self::Open | Self::Unknown | Self::Garbage | Self::Poison => 0,
            Self::ClosedAgain => 2,
            Self::Removed
            | Self::Absent
            | Self::Overtaken
            | Self::Repeated
            | Self::EventLost
            | Self::Held
            | Self::Reopened
            | Self::Dressed => 1,
        }
    }
}

pub(crate) struct Thread {
    pub(crate) id: String,
    pub(crate) fate: Fate,
    /// Which daemon has its volumes.
    pub(crate) host: usize,
    /// Its events say so.
    pub(crate) names_host: bool,
}

impl Thread {
    pub(crate) fn event(&self) -> String {
        let id = &self.id;
        if self.names_host {
            return format!(r#"{{"thread_id": "{id}", "host": "{}"}}"#, HOSTS[self.host]);
        }
        format!(r#"{{"thread_id": "{id}"}}"#)
    }
}

/// Threads about which `events` messages are published, in random order, on one host or two.
pub(crate) fn threads(events: usize, hosts: usize, dice: &mut Dice) -> Vec<Thread> {
    let mut fates = Vec::new();
    for (fate, share) in Fate::SHARES {
        let each = fate.messages().max(1);
        fates.extend(std::iter::repeat_n(fate, (events * share).div_ceil(1000 * each)));
    }
    let messages: usize = fates.iter().map(|fate| fate.messages()).sum();
    fates.extend(std::iter::repeat_n(Fate::Absent, events.saturating_sub(messages)));
    dice.shuffle(&mut fates);
    let thread = |(number, fate): (usize, Fate)| Thread {
        id: format!("t{number:06}"),
        fate,
        host: number % hosts,
        names_host: hosts > 1 && (number / hosts).is_multiple_of(2),
    };
    fates.into_iter().enumerate().map(thread).collect()
}

/// A message that is no event, and the reason that the dead-letter queue is to give for it.
pub(crate) fn garbage(number: usize) -> (Vec<u8>, &'static str) {
    match number % 3 {
        0 => (b"{\"thread_id\": ".to_vec(), "undecodable"),
        1 => (br#"{"thread_id": "../containers/x"}"#.to_vec(), "invalid_thread_id"),
        _ => (vec![b' '; 64 * 1024 + 1], "too_large"),
    }
}
