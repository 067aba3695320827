//! The rules of a clean-up: what may be removed, what was proven, and what is marked.

pub mod breaker;
mod coordinator;
pub mod failing;
pub mod fleet;
mod limiter;
mod outcome;
mod ports;
pub mod retention;
pub mod users;

pub(crate) use self::coordinator::settled;
pub use self::{
    coordinator::{Coordinator, ONLY_HOST, Policy, UnknownThreads},
    outcome::{Origin, Outcome},
    ports::{Backlog, Candidate, Inventory, Mark, Receipt, Removal, Report, Scope, Thread, Threads, Volumes},
};
