//! The least that anybody has to do for an event: receive, lock, remove, mark, write a receipt, acknowledge; and for a
//! sweep: read the rows, list what there is, and then the same. No service needs less of daemon, broker and database.

use std::time::Instant;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use sea_orm::{
    ConnectionTrait, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait, Value,
    sea_query::ArrayType,
};

use crate::{
    bare_client::Connections,
    processes::Used,
    setup::{IN_FLIGHT, Result, Setup, docker, rate, variable},
};

/// As many as a batch has at most.
const BATCH: usize = 32;
/// As many deliveries are handed over ahead.
const AHEAD: u16 = 128;
/// Of the time that a batch took: how long SQLite's file is left to others after it.
const GAP_PERCENT: u32 = 33;

/// One batch commits while the next one removes, unless the lock is the whole database's.
fn at_once(setup: &Setup) -> usize {
    if setup.is_postgres() { 2 } else { 1 }
}

/// Cleans the waiting events of `volumes` threads: how many a second, and what it took.
pub(crate) async fn clean(setup: &Setup, volumes: usize) -> Result<(f64, Used)> {
    let broker = Connection::connect(&variable("AMQP_URL")?, ConnectionProperties::default()).await?;
    let channel = broker.create_channel().await?;
    channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
    let daemon = Connections::open().await?;

    let before = Used::now(&[std::process::id()])?;
    let began = Instant::now();
    let (queue, tag) = ("bench.thread-closed".into(), "".into());
    let deliveries = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default()).await?;
    let mut batches = std::pin::pin!(
        deliveries
            .ready_chunks(BATCH)
            .map(async |batch| clean_batch(setup, &daemon, batch.into_iter().collect::<lapin::Result<_>>()?).await)
            .buffered(at_once(setup))
    );
    let mut done = 0;
    while done < volumes {
        let batch = batches.next().await.ok_or("the broker ended the subscription")??;
        done += batch.len();
        let last = batch.last().ok_or("an empty batch")?;
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    let (took, used) = (began.elapsed(), Used::now(&[std::process::id()])?.since(before));
    broker.close(200, "done".into()).await?;
    Ok((rate(volumes, took), used))
}

/// Cleans the unmarked threads, without an event: how many a second, and what it took.
pub(crate) async fn sweep(setup: &Setup, volumes: usize) -> Result<(f64, Used)> {
    let daemon = Connections::open().await?;
    let before = Used::now(&[std::process::id()])?;
    let began = Instant::now();
    let page = "SELECT id FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL ORDER BY id";
    let rows = setup.db.query_all_raw(Statement::from_string(setup.db.get_database_backend(), page)).await?;
    let ids: Vec<String> = rows.iter().map(|row| row.try_get("", "id")).collect::<std::result::Result<_, _>>()?;
    let listing = docker()?;
    listing.list_volumes(None::<ListVolumesOptions>).await?;
    listing.list_containers(Some(ListContainersOptionsBuilder::default().all(true).build())).await?;
    let batches = stream::iter(ids.chunks(BATCH)).map(async |ids| clean_threads(setup, &daemon, ids, "sweep").await);
    batches.buffered(at_once(setup)).try_for_each(async |()| Ok(())).await?;
    let (took, used) = (began.elapsed(), Used::now(&[std::process::id()])?.since(before));
    if ids.len() != volumes {
        return Err(format!("{} of {volumes} threads were there to sweep", ids.len()).into());
    }
    Ok((rate(volumes, took), used))
}

async fn clean_batch(setup: &Setup, daemon: &Connections, batch: Vec<Delivery>) -> Result<Vec<Delivery>> {
    let bodies: Vec<serde_json::Value> =
        batch.iter().map(|delivery| serde_json::from_slice(&delivery.data)).collect::<serde_json::Result<_>>()?;
    let ids: Vec<_> = bodies.iter().filter_map(|body| body["thread_id"].as_str()).map(str::to_owned).collect();
    clean_threads(setup, daemon, &ids, "event").await?;
    Ok(batch)
}

async fn clean_threads(setup: &Setup, daemon: &Connections, ids: &[String], source: &str) -> Result<()> {
    let began = Instant::now();
    let (now, list, lock, mode) = if setup.is_postgres() {
        ("now()", "unnest($1) AS list(id)", "FOR NO KEY UPDATE SKIP LOCKED", None)
    } else {
        let list = "(SELECT value AS id FROM json_each($1))";
        ("CURRENT_TIMESTAMP", list, "", Some(SqliteTransactionMode::Immediate))
    };
    let of_ids = |sql: &str| {
        let ids = if setup.is_postgres() {
            let ids = ids.iter().map(|id| Value::from(id.as_str())).collect();
            Value::Array(ArrayType::String, Some(Box::new(ids)))
        } else {
            serde_json::json!(ids).to_string().into()
        };
        Statement::from_sql_and_values(setup.db.get_database_backend(), sql, [ids])
    };
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let rows = setup.db.begin_with_options(options).await?;
    rows.query_all_raw(of_ids(&format!(
        "SELECT id, status, closed_at, workspace_volume_removed_at FROM threads WHERE id IN (SELECT id FROM {list}) \
         {lock}"
    )))
    .await?;
    let removals = stream::iter(ids).map(async |id| daemon.remove(&format!("ha_ws_{id}")).await);
    removals.buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(())).await?;
    rows.execute_raw(of_ids(&format!(
        "UPDATE threads SET workspace_volume_removed_at = {now} WHERE id IN (SELECT id FROM {list})"
    )))
    .await?;
    rows.execute_raw(of_ids(&format!(
        "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at, host) SELECT id, \
         'ha_ws_' || id, 'removed', '{source}', 'replica-1', {now}, 'default' FROM {list}"
    )))
    .await?;
    rows.commit().await?;
    if !setup.is_postgres() {
        tokio::time::sleep(began.elapsed() * GAP_PERCENT / 100).await;
    }
    Ok(())
}
