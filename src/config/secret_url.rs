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

impl SecretUrl {
    /// Checks the form and the scheme.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        if schemes.contains(&url.scheme()) {
            Ok(Self(url))
        } else {
            Err(format!("must begin with {}:", schemes.join(": or ")))
        }
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
        self.0.query_pairs().find(|(key, _)| key == SCHEMA).map(|(_, value)| value.into_owned())
    }

    /// The URL with its password, without what only we understand.
    #[must_use]
    pub fn for_driver(&self) -> String {
        let is_ours = |key: &str| [POOLER, SCHEMA].contains(&key);
        if self.0.query_pairs().all(|(key, _)| !is_ours(&key)) {
            return self.expose().to_owned();
        }
        let mut url = self.0.clone();
        let kept: Vec<_> = self.0.query_pairs().filter(|(key, _)| !is_ours(key)).collect();
        if kept.is_empty() {
            url.set_query(None);
        } else {
            url.query_pairs_mut().clear().extend_pairs(kept);
        }
        url.into()
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
