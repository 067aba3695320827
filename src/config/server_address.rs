//! Which service a command asks in place of broker, database and daemon.

use std::fmt;

use url::Url;

use super::{ConfigError, checks::optional, sources::Values};

/// A running service, by its console's address.
#[derive(Clone, PartialEq, Eq)]
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

/// The service that the settings name, if they do.
pub(super) fn server<F: Fn(&str) -> Option<String>>(values: &Values<'_, F>) -> Result<Option<Server>, ConfigError> {
    let (url, token) = (values.get("server", server_url)?, values.get("server_token", optional)?);
    Ok(url.map(|url| Server { url, token }))
}

/// The address of a service; none if it is empty. What is wrong with it is said without repeating it: somebody may have
/// written the token into it.
fn server_url(text: &str) -> Result<Option<Url>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err("must begin with http: or https:, as in http://127.0.0.1:9464/".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password: the token belongs into VOLUME_REAPER_SERVER_TOKEN".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has something behind a ? or #: only the address and the path of its console".to_owned());
    }
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::config::Config;

    fn given(url: &str) -> Result<Config, String> {
        let env = [("VOLUME_REAPER_SERVER", url), ("VOLUME_REAPER_SERVER_TOKEN", "s3cret")];
        let env: HashMap<_, _> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Config::load(|_| None, &env, None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_is_named_by_its_address_and_its_token_is_not_shown() {
        let config = given("https://reaper.example/prefix/").expect("valid");
        assert!(!format!("{config:?}").contains("s3cret"));
        let server = config.server.expect("given");
        assert_eq!((server.url.path(), server.token.as_deref()), ("/prefix/", Some("s3cret")));
        assert_eq!(format!("{server:?}"), "Server(https://reaper.example/prefix/)");
        assert!(given("").expect("nothing").server.is_none());
        for (text, why) in [
            ("reaper:9464", "must begin with http:"),
            ("127.0.0.1:9464", "is not a URL"),
            ("http://ann:s3cret@reaper", "holds a user or a password"),
            ("http://reaper/?token=s3cret", "has something behind a ?"),
        ] {
            let error = given(text).expect_err(text);
            assert!(error.starts_with("VOLUME_REAPER_SERVER: ") && error.contains(why), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
