//! A URL that may hold a password.

use std::fmt;

use url::Url;

/// A URL that may hold a password: shown without it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(pub(super) Url);

/// The parameter of a database's URL that says that a pooler stands before it; Prisma's name for it.
pub(super) const POOLER: &str = "pgbouncer";
/// The parameter of a URL that names a schema, as Prisma has it.
pub(super) const SCHEMA: &str = "schema";

/// What sqlx 0.9 understands in a PostgreSQL URL. It logs all others with their values.
const POSTGRES_PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// What is wrong with most URLs that can't be read.
const ENCODE: &str = "in a user name or password, # is written %23, / is %2F, ? is %3F and @ is %40";

impl SecretUrl {
    /// Checks the form and the scheme.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| {
            let hint = if text.contains('@') { format!("; {ENCODE}") } else { String::new() };
            format!("is not a URL: {error}{hint}")
        })?;
        if !schemes.contains(&url.scheme()) {
            return Err(format!("must begin with {}:", schemes.join(": or ")));
        }
        // SQLite's has a path and no user.
        if url.scheme() != "sqlite" && ends_within_password(&url) {
            return Err(format!("its host ends before an @ or a #; {ENCODE}"));
        }
        Ok(Self(url))
    }

    /// The URL with its password, for the client that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether a pooler stands before the database that hands out connections by the transaction.
    #[must_use]
    pub fn is_behind_pooler(&self) -> bool {
        self.0.query_pairs().any(|(key, value)| key == POOLER && value == "true")
    }

    /// The schema that PostgreSQL shall look in, and make our tables in, as Prisma's URLs say it.
    #[must_use]
    pub fn schema(&self) -> Option<String> {
        self.parameter(SCHEMA)
    }

    /// The value of a parameter, if there is one.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.0.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The URL with its password, without what only we understand.
    #[must_use]
    pub fn for_driver(&self) -> String {
        if self.0.query_pairs().all(|(key, _)| self.is_for_driver(&key)) {
            return self.expose().to_owned();
        }
        let mut url = self.0.clone();
        let kept: Vec<_> = self.0.query_pairs().filter(|(key, _)| self.is_for_driver(key)).collect();
        if kept.is_empty() {
            url.set_query(None);
        } else {
            url.query_pairs_mut().clear().extend_pairs(kept);
        }
        url.into()
    }

    /// What is to be said of parameters that nobody understands; their values may be secrets.
    pub(super) fn warning(&self) -> Option<String> {
        let parameters = self.0.query_pairs().map(|(key, _)| key);
        let unknown: Vec<_> =
            parameters.filter(|key| !self.is_for_driver(key) && ![POOLER, SCHEMA].contains(&&**key)).collect();
        (!unknown.is_empty())
            .then(|| format!("DATABASE_URL: parameters that we don't know count for nothing: {}", unknown.join(", ")))
    }

    /// Whether the client library understands a parameter. That of MySQL and SQLite says nothing of what it does not
    /// know.
    fn is_for_driver(&self, key: &str) -> bool {
        match self.scheme() {
            "postgres" | "postgresql" => POSTGRES_PARAMETERS.contains(&key) || key.starts_with("options["),
            _ => ![POOLER, SCHEMA].contains(&key),
        }
    }

    /// The scheme, such as `postgres`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// The host, if the URL names one; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.0.host_str().filter(|host| !host.is_empty())
    }

    /// The port, if the URL names one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }
}

/// Whether the host ended within what was meant to be a password: a `#`, `/` or `?` in it begins the next part.
fn ends_within_password(url: &Url) -> bool {
    let has_at = |text: &str| text.contains('@');
    url.fragment().is_some()
        || has_at(url.path())
        || url.query().is_some_and(|query| has_at(query) && !query.contains('='))
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() {
            // A URL with a password has a host, so this can't fail; if it did, nothing at all would be shown.
            url.set_password(Some("***")).map_err(|()| fmt::Error)?;
        }
        // Parameters may hold secrets too (`sslpassword`), and none of them helps to recognise the server.
        url.set_query(None);
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
