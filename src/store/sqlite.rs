//! SQLite.

mod connecting;
mod errors;
mod migrating;
mod schema_facts;
