//! Connections to MySQL.

use migrations::MySql;
use sea_orm::{ConnectOptions, IsolationLevel, TransactionOptions, sqlx::Executor};

use crate::{
    config::SecretUrl,
    store::engine::{Access, Connecting},
};

impl Connecting for MySql {
    /// The client knows MariaDB by the name of MySQL only.
    fn address(&self, url: &SecretUrl) -> String {
        let address = url.for_driver();
        address.strip_prefix("mariadb:").map_or_else(|| address.clone(), |rest| format!("mysql:{rest}"))
    }

    fn usual_port(&self) -> u16 {
        3306
    }

    /// Moments are in UTC by agreement, whatever the server's zone, and whatever the URL says.
    fn adapt(&self, options: &mut ConnectOptions, access: Access, _url: &SecretUrl) {
        options.map_sqlx_mysql_opts(|mysql| mysql.timezone(Some("+00:00".to_owned())));
        if access == Access::Read {
            options.map_sqlx_mysql_pool_opts(|pool| {
                pool.after_connect(|connection, _| {
                    Box::pin(async { connection.execute("SET SESSION TRANSACTION READ ONLY").await.map(drop) })
                })
            });
        }
    }

    /// The default would also keep others from inserting between the rows.
    fn marking(&self) -> TransactionOptions {
        TransactionOptions { isolation_level: Some(IsolationLevel::ReadCommitted), ..TransactionOptions::default() }
    }

    fn tls_parameters(&self) -> [&'static str; 3] {
        ["ssl-ca", "ssl-cert", "ssl-key"]
    }

    fn verifying_parameter(&self) -> &'static str {
        "ssl-mode=VERIFY_IDENTITY"
    }
}
