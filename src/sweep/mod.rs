//! The safety net: sweeps up the closed threads that no event took care of.
//!
//! A sweep reads the closed and unmarked rows by pages, and for each page *then* asks the daemon what it has. The
//! order is the proof: only a row that was read as closed before the list was asked for may be marked because the list
//! lacks its volume (`classify`). Absent volumes are marked many at once, while the next page is read and its list is
//! asked for; those that are there and unreferenced are cleaned like any other; referenced ones cost nothing, but for
//! those that only containers use which may go.
//!
//! Threads that are on hold or not due yet stay candidates for days. They cost no list of their own: the one that the
//! next step takes shows which of their volumes are gone by themselves, and those are marked like others, since nothing
//! is removed by that and it is true. The same goes for absent volumes while removal is paused.
//!
//! A volume whose clean-up failed before is left alone until its next try ([`crate::cleanup::failing`]). Those whose
//! time has come are tried after all others and for a limited time, so that rows that always fail, however slowly,
//! never delay the ones between.
//!
//! Then the other way round: volumes whose thread is marked are looked at afresh, and if they are still there, the mark
//! is withdrawn and the thread cleaned like any other. Volumes without a thread are counted and never touched. Where
//! threads are known from events alone, both may be workspaces in use: the former are only logged, the latter are not
//! even counted.
//!
//! Each of several hosts has a sweep of its own, of the rows that name it, and of those that name none as far as it has
//! their volumes. That a volume is nowhere is found out for all hosts at once ([`Unplaced`]).

mod absent;
mod classify;
mod deferred;
mod drift;
mod due_pages;
mod exited_users;
mod logged;
mod pages;
mod planned;
mod position;
mod removing;
mod report;
mod retries;
mod schedule;
mod stopping;
mod sweeper;
mod tally;
mod unnameable;
mod unplaced;

pub use self::{
    logged::observe_backlog,
    pages::pages,
    planned::{Planned, PlannedList, Would},
    report::{SweepReport, ThreadStates},
    schedule::Schedule,
    sweeper::Sweeper,
    unplaced::Unplaced,
};

/// Rows a page, which are looked for in one list: what proves a list costs the daemon some 10 ms.
const PAGE_ROWS: usize = 12_000;
/// Rows that are marked at once: few round trips, and a statement that is over in a moment.
const ROWS_AT_ONCE: usize = 1500;
