//! Guards, each broken on purpose, one at a time.

/// A guard that is missing. The first words say where: in the database's statements, at Docker's adapter, in the way of
/// a delivery, or in a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    // --- the statements of the database
    /// Rows are read, and not locked.
    NoRowLock,
    /// A mark is guarded by everything but the status.
    MarkWithoutStatus,
    /// A mark is guarded by everything but the time of the close.
    MarkWithoutClosedAt,
    /// A row that is marked is marked again.
    MarkTwice,
    /// Reopening leaves the mark.
    ReopenKeepsMark,
    /// The rows of a standby are locked as if they were the primary's.
    StandbyBelieved,
    /// Receipts are written outside of the transaction.
    ReceiptOutsideTransaction,
    /// The mark is written outside of the transaction.
    MarkOutsideTransaction,
    /// What was marked is returned, and not committed.
    AnswerBeforeCommit,
    /// Nobody is on hold.
    HoldIgnored,
    /// Nothing is paused.
    PauseIgnored,
    /// The count of an hour's removals is one too low.
    BudgetOffByOne,
    /// Removals of other processes, before and beside, are not counted.
    BudgetOwnOnly,
    /// Threads are read as those of the first host.
    HostOfRowIgnored,
    /// There seems to be no host that is not asked.
    UnservedHostIgnored,
    /// The locks of who has died are kept.
    DeadKeepLocks,
    /// A mark is not withdrawn when the volume is there.
    DriftIgnored,
    /// The lease is given to everybody.
    LeaseIgnored,
    /// A sweep reads only the two threads that were closed last.
    CandidatesNewest,
    /// Marked threads are read as unmarked.
    MarkedIgnored,
    // --- Docker's adapter
    /// As with force, what is not there is removed.
    Force,
    /// Containers that use it do not keep a volume.
    InUseIgnored,
    /// "Not there" of another daemon counts.
    OtherDaemonBelieved,
    /// The list of another daemon counts.
    OtherListBelieved,
    /// The list is older than the rows.
    ListBeforeRows,
    /// A list that may lack volumes has no warnings.
    WarningsIgnored,
    /// "Removed" is said when the removal is sent.
    MarkBeforeRemove,
    /// A removal is sent however late it is.
    SentLate,
    /// A removal is sent to a daemon that was not heard of just before.
    NotHeardFirst,
    /// An error is taken for "not there".
    ErrorIsNotFound,
    /// A host that can't be asked does not have the volume.
    DownIsAbsent,
    /// Volumes whose names begin alike are taken for one.
    NameByPrefix,
    // --- the way of a delivery
    /// The delivery is acknowledged before it is handled.
    AckFirst,
    /// The original is acknowledged before the retry is published.
    AckBeforeRetry,
    /// A retry is not published.
    RetryForgotten,
    /// What is given back is acknowledged.
    HandBackAcked,
    /// Dead letters are dropped.
    DeadLetterDropped,
    /// A tag is acknowledged on whatever channel there is.
    AckOnOtherChannel,
}

impl Mutant {
    pub(crate) const ALL: [Self; 38] = [
        Self::NoRowLock,
        Self::MarkWithoutStatus,
        Self::MarkWithoutClosedAt,
        Self::MarkTwice,
        Self::ReopenKeepsMark,
        Self::StandbyBelieved,
        Self::ReceiptOutsideTransaction,
        Self::MarkOutsideTransaction,
        Self::AnswerBeforeCommit,
        Self::HoldIgnored,
        Self::PauseIgnored,
        Self::BudgetOffByOne,
        Self::BudgetOwnOnly,
        Self::HostOfRowIgnored,
        Self::UnservedHostIgnored,
        Self::DeadKeepLocks,
        Self::DriftIgnored,
        Self::LeaseIgnored,
        Self::CandidatesNewest,
        Self::MarkedIgnored,
        Self::Force,
        Self::InUseIgnored,
        Self::OtherDaemonBelieved,
        Self::OtherListBelieved,
        Self::ListBeforeRows,
        Self::WarningsIgnored,
        Self::MarkBeforeRemove,
        Self::SentLate,
        Self::NotHeardFirst,
        Self::ErrorIsNotFound,
        Self::DownIsAbsent,
        Self::NameByPrefix,
        Self::AckFirst,
        Self::AckBeforeRetry,
        Self::RetryForgotten,
        Self::HandBackAcked,
        Self::DeadLetterDropped,
        Self::AckOnOtherChannel,
    ];
}
