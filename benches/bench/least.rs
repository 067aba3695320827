//! The least that anybody has to do for an event: receive, lock, remove, mark, write a receipt, acknowledge; and for a
//! sweep: read the rows, list what there is, and then the same, or mark what is not in the list. No service needs less
//! of daemon, broker and database.

use std::{error::Error, time::Instant};

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptions};
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::{
    Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use sea_orm::{
    ConnectionTrait, DatabaseTransaction, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    Value, sea_query::ArrayType,
};
use sha2::{Digest, Sha256};

use crate::{
    bare_client::Connections,
    first_day::{CHAIN, DAEMON},
    processes::Used,
    setup::{IN_FLIGHT, Result, Setup, docker, rate, variable},
};

/// As many as a batch has at most.
const BATCH: usize = 32;
/// As many rows as a sweep marks at once.
const PAGE: usize = 2000;
/// As many deliveries are handed over ahead.
const AHEAD: u16 = 128;
/// Of the time that SQLite's file was locked: how long it is left to others after that.
const REST_PERCENT: u32 = 25;

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
    list().await?;
    let batches = stream::iter(ids.chunks(BATCH)).map(async |ids| clean_threads(setup, &daemon, ids, "sweep").await);
    batches.buffered(at_once(setup)).try_for_each(async |()| Ok(())).await?;
    let (took, used) = (began.elapsed(), Used::now(&[std::process::id()])?.since(before));
    if ids.len() != volumes {
        return Err(format!("{} of {volumes} threads were there to sweep", ids.len()).into());
    }
    Ok((rate(volumes, took), used))
}

/// Marks the unmarked threads, of which no volume is there, each with its receipt.
pub(crate) async fn mark_absent(setup: &Setup, threads: u32) -> Result<()> {
    let pages = stream::try_unfold(String::new(), async |after| {
        let page = page_after(setup, &after).await?;
        Ok::<_, Box<dyn Error>>(page.last().cloned().map(|last| (page, last)))
    });
    let marked = pages.map_ok(async |page| mark_page(setup, &page).await).try_buffered(at_once(setup));
    let marked = marked.try_fold(0, async |sum, marked| Ok(sum + marked)).await?;
    if marked == threads as usize { Ok(()) } else { Err(format!("{marked} of {threads} threads were marked").into()) }
}

async fn page_after(setup: &Setup, after: &str) -> Result<Vec<String>> {
    let page = "SELECT id, closed_at FROM threads WHERE status = 'closed' AND workspace_volume_removed_at IS NULL AND \
                id > $1 ORDER BY id LIMIT $2";
    let values = [after.into(), i64::try_from(PAGE)?.into()];
    let page = Statement::from_sql_and_values(setup.db.get_database_backend(), page, values);
    let rows = setup.db.query_all_raw(page).await?;
    let ids = rows.iter().map(|row| row.try_get("", "id")).collect::<std::result::Result<_, _>>()?;
    list().await?;
    Ok(ids)
}

async fn mark_page(setup: &Setup, ids: &[String]) -> Result<usize> {
    let (now, lock) =
        if setup.is_postgres() { ("now()", "FOR NO KEY UPDATE SKIP LOCKED") } else { ("CURRENT_TIMESTAMP", "") };
    let hashes = ids.iter().scan(String::new(), |before, id| {
        *before = hex(&Sha256::new().chain_update(&*before).chain_update(id).finalize());
        Some(before.clone())
    });
    let hashes: Vec<_> = hashes.collect();
    let list = list_of(setup);
    let began = Instant::now();
    let rows = begin(setup).await?;
    let lock = format!("SELECT id, closed_at FROM threads WHERE id IN (SELECT value FROM {list}) {lock}");
    rows.query_all_raw(with_lists(setup, &lock, &[ids])).await?;
    let mark = format!("UPDATE threads SET workspace_volume_removed_at = {now} WHERE id IN (SELECT value FROM {list})");
    let marked = rows.execute_raw(with_lists(setup, &mark, &[ids])).await?.rows_affected();
    rows.execute_raw(receipts_of(setup, ids, &hashes, now)).await?;
    rows.commit().await?;
    rest(setup, began).await;
    Ok(usize::try_from(marked)?)
}

/// Their receipts, with what is the same in all of them sent once.
fn receipts_of(setup: &Setup, ids: &[String], hashes: &[String], now: &str) -> Statement {
    let same = format!("'not_found', 'sweep', 'replica-1', {now}, 'default', '{DAEMON}', '{CHAIN}'");
    let insert = "INSERT INTO volume_removals (thread_id, volume_name, chain_sequence, chain_hash, outcome, source, \
                  replica, removed_at, host, daemon, chain_id)";
    if setup.is_postgres() {
        let rows = "unnest($1, $2) WITH ORDINALITY AS list(id, hash, number)";
        let sql = format!("{insert} SELECT id, 'ha_ws_' || id, number, hash, {same} FROM {rows}");
        return with_lists(setup, &sql, &[ids, hashes]);
    }
    let rows = vec!["(?, ?, ?)"; ids.len()].join(", ");
    let sql = format!("{insert} SELECT column1, 'ha_ws_' || column1, column2, column3, {same} FROM (VALUES {rows})");
    let row = |(number, (id, hash)): (i64, (&String, &String))| [id.into(), number.into(), hash.into()];
    let values: Vec<Value> = (1..).zip(ids.iter().zip(hashes)).flat_map(row).collect();
    Statement::from_sql_and_values(setup.db.get_database_backend(), sql, values)
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

async fn list() -> Result<()> {
    let listing = docker()?;
    listing.list_volumes(None::<ListVolumesOptions>).await?;
    listing.list_containers(Some(ListContainersOptionsBuilder::default().all(true).build())).await?;
    Ok(())
}

/// The first parameter as a table with a `value` in each row.
fn list_of(setup: &Setup) -> &'static str {
    if setup.is_postgres() { "unnest($1) AS list(value)" } else { "json_each($1)" }
}

/// A statement with lists of texts as its parameters.
fn with_lists(setup: &Setup, sql: &str, lists: &[&[String]]) -> Statement {
    let list = |texts: &&[String]| {
        if setup.is_postgres() {
            let texts = texts.iter().map(|text| Value::from(text.as_str())).collect();
            Value::Array(ArrayType::String, Some(Box::new(texts)))
        } else {
            serde_json::json!(texts).to_string().into()
        }
    };
    Statement::from_sql_and_values(setup.db.get_database_backend(), sql, lists.iter().map(list))
}

async fn begin(setup: &Setup) -> Result<DatabaseTransaction> {
    let mode = (!setup.is_postgres()).then_some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    Ok(setup.db.begin_with_options(options).await?)
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
    let (now, lock) =
        if setup.is_postgres() { ("now()", "FOR NO KEY UPDATE SKIP LOCKED") } else { ("CURRENT_TIMESTAMP", "") };
    let list = list_of(setup);
    let of_ids = |sql: &str| with_lists(setup, sql, &[ids]);
    let rows = begin(setup).await?;
    rows.query_all_raw(of_ids(&format!(
        "SELECT id, status, closed_at, workspace_volume_removed_at FROM threads WHERE id IN (SELECT value FROM {list}) \
         {lock}"
    )))
    .await?;
    let removals = stream::iter(ids).map(async |id| daemon.remove(&format!("ha_ws_{id}")).await);
    removals.buffer_unordered(IN_FLIGHT).try_for_each(async |()| Ok(())).await?;
    rows.execute_raw(of_ids(&format!(
        "UPDATE threads SET workspace_volume_removed_at = {now} WHERE id IN (SELECT value FROM {list})"
    )))
    .await?;
    rows.execute_raw(of_ids(&format!(
        "INSERT INTO volume_removals (thread_id, volume_name, outcome, source, replica, removed_at, host) SELECT \
         value, 'ha_ws_' || value, 'removed', '{source}', 'replica-1', {now}, 'default' FROM {list}"
    )))
    .await?;
    rows.commit().await?;
    rest(setup, began).await;
    Ok(())
}

/// Leaves the file to others after a transaction that `began` then.
async fn rest(setup: &Setup, began: Instant) {
    if !setup.is_postgres() {
        tokio::time::sleep(began.elapsed() * REST_PERCENT / 100).await;
    }
}
