//! Where a Docker daemon listens, as `DOCKER_HOST` has it.

use crate::tls::TlsFiles;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The path of a socket.
    Unix(String),
    /// `host:port`, unencrypted.
    Tcp(String),
    /// `host:port` with TLS.
    Tls(String, TlsFiles),
    /// `user@host`, through the program `ssh` and its settings.
    Ssh(String),
}

impl Endpoint {
    /// Reads an endpoint as `DOCKER_HOST` has it: `unix:///path`, `tcp://host:port` or `ssh://user@host`. With `tls`,
    /// TCP is encrypted.
    pub fn parse(text: &str, tls: Option<&TlsFiles>) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.to_owned()))
            } else {
                Err("the path of the socket must be absolute, as in unix:///var/run/docker.sock".to_owned())
            };
        }
        if let Some(address) = text.strip_prefix("ssh://") {
            return ssh(address.trim_end_matches('/'));
        }
        let encrypted = text.strip_prefix("https://");
        let address = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")).or(encrypted);
        let Some(address) = address.map(|address| address.trim_end_matches('/')) else {
            return Err("a Docker host begins with unix://, tcp:// or ssh://".to_owned());
        };
        if !is_address(address) {
            return Err("the address must be host:port, as in tcp://127.0.0.1:2375".to_owned());
        }
        match (tls, encrypted) {
            (Some(files), _) => Ok(Self::Tls(address.to_owned(), files.clone())),
            (None, None) => Ok(Self::Tcp(address.to_owned())),
            (None, Some(_)) => Err("https:// needs DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH".to_owned()),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains(['/', '@']) && port.parse::<u16>().is_ok())
}

fn ssh(address: &str) -> Result<Endpoint, String> {
    let (user, host) = address.rsplit_once('@').unwrap_or(("", address));
    // What begins with a hyphen would be an option to `ssh`.
    let is_name = |text: &str| {
        !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    if user.contains(':') {
        return Err("it must not hold a password: ssh has keys, agents and a configuration for that".to_owned());
    }
    if host.contains(':') {
        // The client library takes it for a part of the name.
        return Err("the port is no part of it: name it in ~/.ssh/config, as Port of this Host".to_owned());
    }
    if host.is_empty() || !is_name(host) || !is_name(user) {
        return Err("must be user@host, as in ssh://reaper@docker-1.example".to_owned());
    }
    Ok(Endpoint::Ssh(address.to_owned()))
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
            Self::Ssh(address) => write!(f, "ssh://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_read_as_docker_writes_it() {
        let parse = |text| Endpoint::parse(text, None);
        assert_eq!(parse("unix:///run/d.sock"), Ok(Endpoint::Unix("/run/d.sock".to_owned())));
        assert_eq!(parse("tcp://127.0.0.1:2375"), Ok(Endpoint::Tcp("127.0.0.1:2375".to_owned())));
        assert_eq!(parse("http://[::1]:2375/"), Ok(Endpoint::Tcp("[::1]:2375".to_owned())));
        assert_eq!(parse("ssh://me@docker-1/"), Ok(Endpoint::Ssh("me@docker-1".to_owned())));
        assert_eq!(parse("ssh://docker-1"), Ok(Endpoint::Ssh("docker-1".to_owned())));
        for text in [
            "",
            "unix://",
            "unix://d.sock",
            "tcp://",
            "tcp://host",
            "tcp://:1",
            "tcp://u:p@h:1",
            "https://h:1",
            "ssh://",
            "ssh://me:s3cret@h",
            "ssh://me@h:22",
            "ssh://-oProxyCommand=x",
            "ssh://-x@h",
            "ssh://h/path",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn with_certificates_tcp_is_encrypted_and_a_socket_is_not() {
        let files = TlsFiles::default();
        let parse = |text| Endpoint::parse(text, Some(&files));
        let encrypted = Ok(Endpoint::Tls("docker-1:2376".to_owned(), files.clone()));
        assert_eq!(parse("tcp://docker-1:2376"), encrypted);
        assert_eq!(parse("https://docker-1:2376"), encrypted);
        assert_eq!(parse("unix:///run/d.sock"), Ok(Endpoint::Unix("/run/d.sock".to_owned())));
    }
}
