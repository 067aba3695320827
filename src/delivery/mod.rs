//! One message: read it, clean up, decide what becomes of it. Nothing here knows the broker.

mod body;
pub mod consumer;
pub mod dead_letter;
pub mod envelope;
pub mod event;
mod event_time;
mod foreign_envelope;
pub mod settlement;
pub mod trace_context;
