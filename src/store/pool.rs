//! The connections to the database, also through a pooler that hands them out by the transaction.
//!
//! PgBouncer in transaction mode gives each transaction another of the server's connections, with the prepared
//! statements that others left there under the names that the client library gives to ours. So behind one
//! (`pgbouncer=true` in the URL, as Prisma has it) every statement is part of a transaction that begins by forgetting
//! them. From version 1.21 on PgBouncer can keep them apart itself (`max_prepared_statements`), and none of this is
//! needed.

use std::ops::Deref;

use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    QueryResult, Statement, TransactionOptions, TransactionTrait, prelude::async_trait::async_trait,
};
use tokio_util::task::TaskTracker;

use super::{
    CONNECT_TIMEOUT,
    engine::{Access, Engine},
    rests::{Rests, Work},
};
use crate::config::SecretUrl;

/// Connections, opened as they are needed.
pub(super) struct Pool {
    connections: DatabaseConnection,
    engine: &'static dyn Engine,
    access: Access,
    /// Each transaction may have another of the server's connections.
    is_behind_pooler: bool,
    /// Transactions that are about to begin.
    beginning: TaskTracker,
    /// Where the lock is everybody's.
    rests: Option<Rests>,
}

/// A transaction that locks rows, to mark them.
pub struct Marking {
    transaction: DatabaseTransaction,
    /// Ends after it.
    _work: Option<Work>,
}

impl Marking {
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.transaction.commit().await
    }

    pub(super) async fn rollback(self) -> Result<(), DbErr> {
        self.transaction.rollback().await
    }
}

impl Deref for Marking {
    type Target = DatabaseTransaction;

    fn deref(&self) -> &DatabaseTransaction {
        &self.transaction
    }
}

impl Pool {
    /// At most `limit` connections to the database at `url`.
    pub(super) async fn open(
        engine: &'static dyn Engine,
        url: &SecretUrl,
        access: Access,
        limit: u32,
    ) -> Result<Self, DbErr> {
        let mut options = ConnectOptions::new(engine.address(url));
        options
            .max_connections(engine.most_connections(limit))
            .connect_timeout(CONNECT_TIMEOUT)
            .acquire_timeout(CONNECT_TIMEOUT)
            // A connection that was just used is good; asking each time would double the round trips.
            .test_before_acquire_if_idle_for(CONNECT_TIMEOUT)
            .connect_lazy(true)
            // Statements of healthy work are nobody's business; what fails is logged where it is handled.
            .sqlx_logging(false);
        engine.adapt(&mut options, access, url);
        Ok(Self {
            connections: Database::connect(options).await?,
            engine,
            access,
            is_behind_pooler: url.is_behind_pooler(),
            beginning: TaskTracker::new(),
            rests: engine.locks_for_everybody().then(Rests::default),
        })
    }

    /// Nothing is to be written by these connections.
    pub(super) fn only_reads(&self) -> bool {
        match self.access {
            Access::Look | Access::Read => true,
            Access::Work => false,
        }
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
        self.beginning.close();
        self.beginning.wait().await;
        self.connections.close_by_ref().await
    }

    /// The rows of a query in SQL.
    pub(super) async fn rows(&self, sql: impl Into<String>) -> Result<Vec<QueryResult>, DbErr> {
        self.query_all_raw(Statement::from_string(self.get_database_backend(), sql.into())).await
    }

    /// A transaction.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.begin_with(TransactionOptions::default()).await
    }

    /// A transaction in which what a statement only looked at stays free for the platform.
    pub(super) async fn begin_marking(&self) -> Result<Marking, DbErr> {
        let work = match &self.rests {
            None => None,
            Some(rests) => Some(rests.work().await),
        };
        Ok(Marking { transaction: self.begin_with(self.engine.marking()).await?, _work: work })
    }

    /// A transaction that writes.
    pub(super) async fn begin_write(&self) -> Result<DatabaseTransaction, DbErr> {
        self.begin_with(self.engine.writing()).await
    }

    async fn begin_with(&self, options: TransactionOptions) -> Result<DatabaseTransaction, DbErr> {
        let transaction = self.begin_in_task(options).await?;
        if let Some(sql) = self.engine.after_begin_behind_pooler().filter(|_| self.is_behind_pooler) {
            transaction.execute_unprepared(sql).await?;
        }
        Ok(transaction)
    }

    /// Begins a transaction in a task of its own, which is not dropped with its caller. Dropped between `BEGIN` and the
    /// answer, sqlx 0.9.0 would give the connection back to its pool with the transaction open (its issues 4385 and
    /// 4393): what was written on it next would never be committed, and its locks would be held for ever. A transaction
    /// that nobody waits for any more is dropped when it has begun, and that rolls it back.
    async fn begin_in_task(&self, options: TransactionOptions) -> Result<DatabaseTransaction, DbErr> {
        let connections = self.connections.clone();
        let begin = self.beginning.spawn(async move { connections.begin_with_options(options).await });
        begin.await.map_err(|error| DbErr::Custom(format!("begin: {error}")))?
    }
}

/// The `answer` to a yes-or-no question that is asked in a transaction.
pub(super) async fn is_true(transaction: &DatabaseTransaction, question: &str) -> Result<bool, DbErr> {
    let statement = Statement::from_string(transaction.get_database_backend(), question);
    let answer = transaction.query_one_raw(statement).await?;
    Ok(answer.is_some_and(|row| row.try_get("", "answer").unwrap_or(false)))
}

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
