//! The connections to the database, also through a pooler that hands them out by the transaction.
//!
//! PgBouncer in transaction mode gives each transaction another of the server's connections, with the prepared
//! statements that others left there under the names that the client library gives to ours. So behind one
//! (`pgbouncer=true` in the URL, as Prisma has it) every statement is part of a transaction that begins by forgetting
//! them. From version 1.21 on PgBouncer can keep them apart itself (`max_prepared_statements`), and none of this is needed.

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    IsolationLevel, QueryResult, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
    prelude::async_trait::async_trait, sqlx::Executor,
};

use super::connect_options;
use crate::config::SecretUrl;

/// Connections, opened as they are needed.
pub(super) struct Pool {
    connections: DatabaseConnection,
    /// Each transaction may have another of the server's connections.
    is_behind_pooler: bool,
}

impl Pool {
    /// At most `limit` connections to the database at `url`; on SQLite as `adapt` makes them.
    pub(super) async fn open(url: &SecretUrl, limit: u32, adapt: SqliteAdaptation) -> Result<Self, DbErr> {
        Self::open_with(url, connect_options(url, limit), adapt).await
    }

    /// The same, where the database refuses to be written to.
    pub(super) async fn open_read_only(url: &SecretUrl, limit: u32) -> Result<Self, DbErr> {
        let mut options = connect_options(url, limit);
        if !url.is_behind_pooler() {
            options.map_sqlx_postgres_opts(|postgres| postgres.options([("default_transaction_read_only", "on")]));
        }
        options.map_sqlx_mysql_pool_opts(|pool| {
            pool.after_connect(|connection, _| {
                Box::pin(async { connection.execute("SET SESSION TRANSACTION READ ONLY").await.map(drop) })
            })
        });
        Self::open_with(url, options, |sqlite| sqlite.create_if_missing(false).pragma("query_only", "ON")).await
    }

    async fn open_with(url: &SecretUrl, mut options: ConnectOptions, adapt: SqliteAdaptation) -> Result<Self, DbErr> {
        let is_behind_pooler = url.is_behind_pooler();
        options.map_sqlx_sqlite_opts(adapt);
        if is_behind_pooler {
            // PgBouncer refuses a connection that wants digits to be set.
            options.map_sqlx_postgres_opts(|postgres| postgres.statement_cache_capacity(0).extra_float_digits(None));
        }
        Ok(Self { connections: Database::connect(options).await?, is_behind_pooler })
    }

    pub(super) fn is_behind_pooler(&self) -> bool {
        self.is_behind_pooler
    }

    /// The connections themselves, for what can't be in a transaction.
    pub(super) fn connections(&self) -> &DatabaseConnection {
        &self.connections
    }

    pub(super) async fn ping(&self) -> Result<(), DbErr> {
        self.connections.ping().await
    }

    pub(super) async fn close(&self) -> Result<(), DbErr> {
        self.connections.close_by_ref().await
    }

    /// A transaction.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        let transaction = self.begin_with(TransactionOptions::default()).await?;
        if self.is_behind_pooler {
            transaction.execute_unprepared("DEALLOCATE ALL").await?;
        }
        Ok(transaction)
    }

    /// Begins a transaction in a task of its own, which is not dropped with its caller. Dropped between `BEGIN` and the
    /// answer, sqlx 0.9.0 would give the connection back to its pool with the transaction open (its issues 4385 and
    /// 4393): what was written on it next would never be committed, and its locks would be held for ever. A transaction
    /// that nobody waits for any more is dropped when it has begun, and that rolls it back.
    async fn begin_with(&self, options: TransactionOptions) -> Result<DatabaseTransaction, DbErr> {
        let connections = self.connections.clone();
        let begin = tokio::spawn(async move { connections.begin_with_options(options).await });
        begin.await.map_err(|error| DbErr::Custom(format!("begin: {error}")))?
    }

    /// A transaction in which what a statement only looked at stays free for the platform. It is what PostgreSQL has by
    /// default; MySQL's default would also keep others from inserting between the rows.
    pub(super) async fn begin_marking(&self) -> Result<DatabaseTransaction, DbErr> {
        if self.get_database_backend() == DbBackend::MySql {
            let isolation_level = Some(IsolationLevel::ReadCommitted);
            return self.begin_with(TransactionOptions { isolation_level, ..TransactionOptions::default() }).await;
        }
        self.begin().await
    }

    /// A transaction that writes: SQLite wants to know beforehand.
    pub(super) async fn begin_write(&self) -> Result<DatabaseTransaction, DbErr> {
        if self.get_database_backend() != DbBackend::Sqlite {
            return self.begin().await;
        }
        let immediate = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.begin_with(immediate).await
    }
}

type SqliteAdaptation = fn(sea_orm::sqlx::sqlite::SqliteConnectOptions) -> sea_orm::sqlx::sqlite::SqliteConnectOptions;

#[async_trait]
impl ConnectionTrait for Pool {
    fn get_database_backend(&self) -> DbBackend {
        self.connections.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        if !self.is_behind_pooler {
            return self.connections.execute_raw(statement).await;
        }
        let transaction = self.begin().await?;
        let result = transaction.execute_raw(statement).await?;
        transaction.commit().await?;
        Ok(result)
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.connections.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        if !self.is_behind_pooler {
            return self.connections.query_one_raw(statement).await;
        }
        let transaction = self.begin().await?;
        let row = transaction.query_one_raw(statement).await?;
        transaction.commit().await?;
        Ok(row)
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        if !self.is_behind_pooler {
            return self.connections.query_all_raw(statement).await;
        }
        let transaction = self.begin().await?;
        let rows = transaction.query_all_raw(statement).await?;
        transaction.commit().await?;
        Ok(rows)
    }
}
