//! Volume Reaper: removes the Docker volumes of closed threads, once, and remembers it.
//!
//! The way of an event through the files: [`queue`] receives a message, [`cloud_event`] opens it, [`event`] reads it,
//! [`consumer`] asks the [`fleet`] for its host's [`coordinator`] to clean up, which calls [`docker`] and marks the row
//! in the [`store`]; [`settlement`] decides what becomes of the message. The [`reconciler`] calls the same coordinator for
//! what events missed.

mod body;
pub mod breaker;
pub mod cli;
pub mod cloud_event;
pub mod commands;
pub mod config;
pub mod consumer;
pub mod coordinator;
pub mod dead_letter;
pub mod docker;
pub mod doctor;
pub mod dry_run;
pub mod event;
mod event_time;
pub mod explain;
pub mod failed_cleanup;
pub mod failure;
pub mod fleet;
mod foreign_envelope;
pub mod health;
pub mod http;
pub mod lease;
mod limiter;
pub mod logging;
pub mod metrics;
pub mod orphans;
pub mod progress;
pub mod queue;
pub mod reconciler;
pub mod reconnect;
pub mod retention;
pub mod settlement;
pub mod status;
pub mod store;
pub mod terminal;
pub mod tls;
pub mod trace_context;
pub mod volume_name;
pub mod waiting;
