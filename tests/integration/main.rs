//! The product against real servers: RabbitMQ, PostgreSQL, SQLite and a Docker daemon that `make test` started.

mod asyncapi;
mod cloudevents;
mod consumer;
mod coordinator;
mod dead_letters;
mod docker;
mod doctor;
mod event;
mod explain;
mod fakes;
mod fault_proxy;
mod faults;
mod holds;
mod orphans;
mod pauses;
mod pgbouncer;
mod process;
mod proxy;
mod reconciler;
mod retention;
mod starvation;
mod status;
mod store;
mod tls;
mod waiting;
mod world;
