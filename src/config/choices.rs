//! Settings that are one of a few words.

/// Whether we create exchange and queues or only look that they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Create what is missing.
    Declare,
    /// The operator owns the broker's definitions; only check.
    Check,
}

/// What an event is to a thread that the database does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownThreads {
    /// Too early or a mistake: the platform writes the threads.
    Reject,
    /// The news: nobody but the events writes the threads.
    Record,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}
