//! TLS to a server: the files with the certificates that we trust and show, and what to say when a server is refused
//! or refuses us.
//!
//! The provider is ring, as everywhere in the program, and it is named here: nothing rests on a default of the process.

pub use rustls::pki_types::ServerName;
use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// Where the certificates are, all in PEM form. Read at every connect, so that renewed ones are used without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that are trusted, and no others; the system's if nothing is said.
    pub authorities: Option<PathBuf>,
    /// What we show to a server that asks who we are.
    pub identity: Option<Identity>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and behind it those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key, unencrypted.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads the files. An error says which one can't be used, and why.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.trusted()?);
        let Some(Identity { certificate, key }) = &self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let chain = certificates(certificate).map_err(|what| format!("{}: {what}", certificate.display()))?;
        let private = private_key(key).map_err(|what| format!("{}: {what}", key.display()))?;
        builder
            .with_client_auth_cert(chain, private)
            .map_err(|error| format!("{} and {} can't be used together: {error}", certificate.display(), key.display()))
    }

    fn trusted(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        if let Some(path) = &self.authorities {
            for authority in authorities(path).map_err(|what| format!("{}: {what}", path.display()))? {
                store.add(authority).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        } else {
            // A system's store may hold old ones that nobody can read any more.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(
                    "there is no file with authorities, and this system has none (Debian's: ca-certificates)".into()
                );
            }
        }
        Ok(store)
    }
}

/// The certificates of authorities in a PEM file.
pub fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let authorities = certificates(path)?;
    for (index, authority) in authorities.iter().enumerate() {
        let checked = RootCertStore::empty().add(authority.clone());
        checked.map_err(|error| format!("its certificate {} can't be read: {error}", index + 1))?;
    }
    Ok(authorities)
}

/// The certificates in a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("holds no certificates in PEM form: {}", without_content(&error))),
    }
}

/// The first private key in a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| format!("holds no unencrypted private key in PEM form: {}", without_content(&error)))
}

/// The parser's word, without the line that it did not understand: that may be part of a key.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add errors to its own")]
fn without_content(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section's first line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        pem::Error::NoItemsFound => "no section is one",
        _ => "it can't be read",
    }
}

/// What is wrong between a server's TLS and ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The authority of the server's certificate is not one that we trust.
    UnknownAuthority,
    /// The server asks for a client certificate, and we have none.
    NoClientCertificate,
    /// Anything else, in words.
    Other(String),
}

impl Problem {
    /// The problem that made a connection fail, if it failed because of TLS and not because of the line.
    pub fn of(error: &io::Error) -> Option<Self> {
        let mut cause: &(dyn Error + 'static) = error.get_ref()?;
        loop {
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(error));
            }
            // An I/O error in an I/O error names the inner one's source, and not the inner one.
            let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            cause = match inner {
                Some(inner) => inner,
                None => cause.source()?,
            };
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the library may add errors to its own")]
    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => Self::UnknownAuthority,
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Self::NoClientCertificate,
            rustls::Error::InvalidCertificate(error) => Self::Other(refusal(error)),
            rustls::Error::AlertReceived(alert) => {
                Self::Other(format!("the server refused the TLS connection: it sent the alert {alert:?}"))
            }
            rustls::Error::InvalidMessage(_) => Self::Other("what answers on this port does not speak TLS".to_owned()),
            other => Self::Other(format!("TLS failed: {other}")),
        }
    }
}

/// Why we refuse a server's certificate.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add errors to its own")]
fn refusal(error: &CertificateError) -> String {
    let what = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another host name"
        }
        _ => "can't be accepted",
    };
    format!("the server's certificate {what}: {error}")
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownAuthority => {
                f.write_str("the server's certificate is from an authority that is not trusted (unknown issuer)")
            }
            Self::NoClientCertificate => f.write_str("the server wants a client certificate, and got none"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_error_is_found_however_deep_it_is_wrapped() {
        let error = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error));
        assert_eq!(Problem::of(&error), Some(Problem::UnknownAuthority));
    }

    #[test]
    fn a_broken_line_is_no_problem_of_tls() {
        assert_eq!(Problem::of(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
        assert_eq!(Problem::of(&io::Error::other("closed")), None);
    }

    #[test]
    fn what_is_no_key_is_refused_without_repeating_it() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("key.pem");
        for text in ["s3cret", "-----BEGIN PRIVATE KEY-----\ns3cret!\n-----END PRIVATE KEY-----", "-----BEGIN s3cret"] {
            std::fs::write(&path, text).expect("written");
            let error = private_key(&path).expect_err("refused");
            assert!(error.starts_with("holds no unencrypted private key") && !error.contains("s3cret"), "{error}");
        }
    }
}
