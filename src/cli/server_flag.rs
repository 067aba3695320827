//! Which service a command asks in place of broker, database and daemon.

use std::{collections::HashMap, fmt};

use url::Url;

use crate::config::{ConfigError, SERVER_ENV, SERVER_TOKEN_ENV};

/// A running service, by its console's address.
#[derive(Clone)]
pub struct Server {
    /// Where it is; its path is the prefix of all others.
    pub url: Url,
    /// What it is shown.
    pub token: Option<String>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is nobody's affair.
        write!(f, "Server({})", self.url)
    }
}

impl Server {
    /// The service that the flag or the environment names, if one does.
    pub(super) fn given(
        flag: impl Fn(&str) -> Option<String>,
        env: &HashMap<String, String>,
    ) -> Result<Option<Self>, ConfigError> {
        let one = |key: &str, name: &str| {
            let given = flag(key).or_else(|| env.get(name).cloned());
            given.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let Some(text) = one("server", SERVER_ENV) else { return Ok(None) };
        let wrong = |why: &str| ConfigError::new(format!("--server ({SERVER_ENV}): {why}"));
        let url = Url::parse(&text).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
        if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(wrong("must begin with http: or https:, as in http://127.0.0.1:9464/"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(&format!("holds a user or a password: the token belongs into {SERVER_TOKEN_ENV}")));
        }
        Ok(Some(Self { url, token: one("server_token", SERVER_TOKEN_ENV) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Option<Server>, ConfigError> {
        let env = [(SERVER_ENV, text), (SERVER_TOKEN_ENV, "s3cret")];
        Server::given(|_| None, &env.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    #[test]
    fn a_service_is_named_by_its_address_and_its_token_is_not_shown() {
        let server = given("https://reaper.example/prefix/").expect("valid").expect("given");
        assert_eq!((server.url.path(), server.token.as_deref()), ("/prefix/", Some("s3cret")));
        assert_eq!(format!("{server:?}"), "Server(https://reaper.example/prefix/)");
        assert!(given("").expect("nothing").is_none());
        for (text, why) in [
            ("reaper:9464", "must begin with http:"),
            ("127.0.0.1:9464", "is not a URL"),
            ("http://ann:s3cret@reaper", "holds a user or a password"),
        ] {
            let error = given(text).expect_err(text).to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{error}");
        }
    }
}
