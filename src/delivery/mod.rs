//! One message: read it, clean up, decide what becomes of it. Nothing here knows the broker.

pub mod consumer;
pub mod dead_letter;
pub mod envelope;
pub mod event;
pub mod settlement;
pub mod trace_context;
