//! MySQL, which is MariaDB too.

mod connecting;
mod errors;
mod migrating;
mod schema_facts;
