//! Volume Reaper: removes the Docker volumes of closed threads, once, and remembers it.
//!
//! The way of an event: [`queue`] receives a message, [`delivery`] reads it and decides what becomes of it, [`cleanup`]
//! has its volume removed by [`docker`] and its row marked by the [`store`]. A [`sweep`] asks the same clean-up for
//! what events missed.

pub mod build_info;
pub mod cleanup;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod console;
pub mod delivery;
pub mod docker;
pub mod failure;
pub mod health;
pub mod host;
pub mod journal;
pub mod logging;
pub mod metrics;
pub mod operations;
pub mod progress;
pub mod queue;
pub mod reconnect;
pub mod store;
pub mod sweep;
pub mod terminal;
pub mod tls;
pub mod traces;
pub mod volume_name;
