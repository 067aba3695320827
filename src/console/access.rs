//! Who may look and who may act.
//!
//! With tokens: who shows one, as its role allows. Without: nobody may change anything, and only who asks on the same
//! machine may look. That is decided by the address that the port is bound to, never by the peer's, since behind a
//! proxy on the same machine everybody comes from there; and by a `Host` that is this machine, so that no page of
//! somebody else's asks in a browser's name (DNS rebinding).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::{HeaderMap, StatusCode, header, uri::Authority};
use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use ring::hmac;
use subtle::ConstantTimeEq;
use tracing::{error, info, warn};

use super::problem::Problem;
use crate::{
    config::{HttpToken, Role, digest_of, read_tokens},
    metrics,
};

/// How long a browser stays logged in.
const SESSION: Duration = Duration::from_hours(12);
/// The cookie of a browser that is logged in.
const COOKIE: &str = "volume_reaper_session";
/// How long whoever guesses waits for each answer.
const DELAY_OF_GUESSES: Duration = Duration::from_millis(500);
/// Who looks without a token.
const NOBODY: &str = "local";

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Person {
    /// What the tokens file calls them.
    pub(super) name: String,
    pub(super) role: Role,
    /// By what they act: `api` or `console`.
    pub(super) via: &'static str,
    /// There are no tokens, so nobody may change anything.
    pub(super) is_nobody: bool,
}

/// What decides who may.
pub(super) struct Access {
    tokens: Option<TokensFile>,
    /// Whether the port can only be reached from this machine.
    is_local_port: bool,
}

impl Person {
    /// Fails unless they may what this role may.
    pub(super) fn require(&self, role: Role) -> Result<(), Problem> {
        if self.is_nobody {
            return Err(Problem::forbidden(
                "without VOLUME_REAPER_HTTP_TOKENS_FILE everything here is read-only: set it, or use the command line",
            ));
        }
        if self.role < role {
            let Self { name, role: has, .. } = self;
            return Err(Problem::forbidden(format!("this takes the role {role}, and {name} has {has}")));
        }
        Ok(())
    }

    /// Whether they may what this role may.
    pub(super) fn may(&self, role: Role) -> bool {
        self.require(role).is_ok()
    }
}

impl Access {
    pub(super) fn new(tokens: Option<&Path>, is_local_port: bool) -> Self {
        Self { tokens: tokens.map(TokensFile::new), is_local_port }
    }

    /// Who asks. A token that is none takes its time, is counted and logged.
    pub(super) async fn identify(&self, headers: &HeaderMap) -> Result<Person, Problem> {
        let Some(tokens) = &self.tokens else { return self.without_tokens(headers) };
        let tokens = tokens.current();
        if headers.contains_key(header::AUTHORIZATION) {
            let holder = token_of(headers).and_then(|token| holder_of(&tokens, &token));
            return match holder {
                Some(person) => Ok(person),
                None => Err(refused_guess("Authorization").await),
            };
        }
        match cookie(headers, COOKIE) {
            // An old one is no guess: browsers keep them.
            Some(session) => holder_of_session(&tokens, session, SystemTime::now())
                .ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, "the session is over: log in again")),
            None => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "show a token of VOLUME_REAPER_HTTP_TOKENS_FILE: Authorization: Bearer ..., or log in",
            )),
        }
    }

    fn without_tokens(&self, headers: &HeaderMap) -> Result<Person, Problem> {
        let refused = |why: &str| {
            Err(Problem::forbidden(format!(
                "without VOLUME_REAPER_HTTP_TOKENS_FILE only this machine may look, and {why}"
            )))
        };
        if !self.is_local_port {
            return refused("VOLUME_REAPER_HTTP_ADDR is not a loopback address");
        }
        if !headers.get(header::HOST).is_some_and(|host| is_loopback(host.as_bytes())) {
            return refused("the Host that is asked is not localhost");
        }
        if let Some(forwarding) = headers.keys().find(|name| is_forwarding(name.as_str())) {
            return refused(&format!("{forwarding} says that the request was forwarded"));
        }
        Ok(Person { name: NOBODY.to_owned(), role: Role::Viewer, via: "console", is_nobody: true })
    }

    /// The cookie for who shows this token.
    pub(super) async fn log_in(&self, token: &str, is_https: bool) -> Result<String, Problem> {
        let Some(tokens) = &self.tokens else {
            return Err(Problem::forbidden("there are no tokens to log in with: set VOLUME_REAPER_HTTP_TOKENS_FILE"));
        };
        let tokens = tokens.current();
        let Some(found) = find(&tokens, token.trim()) else { return Err(refused_guess("the login form").await) };
        info!(actor = found.name, role = %found.role, "logged in");
        let ends = seconds(SystemTime::now() + SESSION);
        Ok(set_cookie(&session(found, ends), SESSION.as_secs(), is_https))
    }

    /// The cookie for who leaves.
    pub(super) fn log_out() -> String {
        set_cookie("", 0, false)
    }
}

async fn refused_guess(place: &str) -> Problem {
    metrics::http_auth_failure();
    warn!(place, "a token that is not in VOLUME_REAPER_HTTP_TOKENS_FILE was shown");
    tokio::time::sleep(DELAY_OF_GUESSES).await;
    Problem::new(StatusCode::UNAUTHORIZED, "this token is not in VOLUME_REAPER_HTTP_TOKENS_FILE")
}

/// The token of a program.
fn token_of(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, token)| token.to_owned())
}

/// A cookie that a browser has of us.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value)
}

/// Without a path: it is for the pages beside the one that sets it, whatever prefix a proxy gives them.
fn set_cookie(value: &str, seconds: u64, is_https: bool) -> String {
    let secure = if is_https { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// All are compared, each in constant time: how long it takes says nothing.
fn find<'a>(tokens: &'a [HttpToken], token: &str) -> Option<&'a HttpToken> {
    let digest = digest_of(token);
    tokens.iter().fold(None, |found, known| if bool::from(known.digest.ct_eq(&digest)) { Some(known) } else { found })
}

fn holder_of(tokens: &[HttpToken], token: &str) -> Option<Person> {
    find(tokens, token).map(|token| person(token, "api"))
}

fn person(token: &HttpToken, via: &'static str) -> Person {
    Person { name: token.name.clone(), role: token.role, via, is_nobody: false }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A session: who, until when, and a proof that whoever made it knew the token's digest. It holds no token, needs no
/// memory of ours, is good at every replica, and ends with the token's line.
fn session(token: &HttpToken, ends: u64) -> String {
    let proof = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &token.digest), said(&token.name, ends).as_bytes());
    format!("{}.{ends}.{}", hex::encode(&token.name), hex::encode(proof))
}

fn holder_of_session(tokens: &[HttpToken], session: &str, now: SystemTime) -> Option<Person> {
    let mut parts = session.splitn(3, '.');
    let (name, ends, proof) = (parts.next()?, parts.next()?.parse::<u64>().ok()?, parts.next()?);
    let (name, proof) = (hex::decode(name).ok()?, hex::decode(proof).ok()?);
    let token = tokens.iter().find(|token| token.name.as_bytes() == name)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &token.digest);
    hmac::verify(&key, said(&token.name, ends).as_bytes(), &proof).ok()?;
    (ends > seconds(now)).then(|| person(token, "console"))
}

fn said(name: &str, ends: u64) -> String {
    format!("session of {name} until {ends}")
}

/// Whether a `Host` names this machine, whatever the port.
fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_address = name.parse().is_ok_and(|address: std::net::IpAddr| address.to_canonical().is_loopback());
    !authority.as_str().contains('@') && (is_address || name.eq_ignore_ascii_case("localhost"))
}

/// Whether a header says that somebody passed the request on.
fn is_forwarding(name: &str) -> bool {
    name.starts_with("x-forwarded-") || ["forwarded", "via", "x-real-ip", "x-client-ip"].contains(&name)
}

/// The tokens file, read again when it has changed.
struct TokensFile {
    path: PathBuf,
    read: Mutex<ReadTokens>,
}

struct ReadTokens {
    stamp: Option<Stamp>,
    tokens: Arc<Vec<HttpToken>>,
}

/// By what a changed file is known.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: u64,
}

impl TokensFile {
    fn new(path: &Path) -> Self {
        let read = Mutex::new(ReadTokens { stamp: None, tokens: Arc::default() });
        Self { path: path.to_owned(), read }
    }

    /// The tokens as the file has them now. While it can't be read, or holds nonsense, those that it had before.
    fn current(&self) -> Arc<Vec<HttpToken>> {
        let stamp = stamp(&self.path);
        let mut read = self.read.lock();
        if read.stamp != stamp || stamp.is_none() {
            let is_news = read.stamp != stamp;
            read.stamp = stamp;
            match read_tokens(&self.path) {
                Ok(tokens) => {
                    info!(tokens = tokens.len(), "read VOLUME_REAPER_HTTP_TOKENS_FILE");
                    read.tokens = Arc::new(tokens);
                }
                Err(error) if is_news => {
                    let file = self.path.display();
                    error!(error, %file, "the tokens file can't be used; the tokens from before count");
                }
                Err(_) => {}
            }
        }
        Arc::clone(&read.tokens)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let file = fs::metadata(path).ok()?;
    Some(Stamp { modified: file.modified().ok(), length: file.len(), file: file.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, role: Role) -> HttpToken {
        HttpToken { role, name: name.to_owned(), digest: digest_of(name) }
    }

    #[test]
    fn a_host_is_this_machine_only_by_a_loopback_name() {
        for host in ["localhost", "localhost:9464", "LOCALHOST", "127.0.0.1:1", "127.8.9.1", "[::1]:9464", "[::1]"] {
            assert!(is_loopback(host.as_bytes()), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1@evil.example", "0.0.0.0"] {
            assert!(!is_loopback(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_session_is_good_until_its_end_and_only_with_its_token() {
        let tokens = [token("ann", Role::Viewer), token("bob", Role::Admin)];
        let now = UNIX_EPOCH + Duration::from_hours(500_000);
        let ends = seconds(now) + 10;
        let of_bob = session(&tokens[1], ends);
        let holder = |tokens: &[HttpToken], session: &str, now| holder_of_session(tokens, session, now);
        assert_eq!(holder(&tokens, &of_bob, now).map(|person| person.role), Some(Role::Admin));
        assert!(holder(&tokens, &of_bob, now + Duration::from_secs(10)).is_none(), "it has ended");
        assert!(holder(&tokens[..1], &of_bob, now).is_none(), "the line is gone");
        let changed = [HttpToken { digest: digest_of("another"), ..token("bob", Role::Admin) }];
        assert!(holder(&changed, &of_bob, now).is_none(), "the token is another");
        let longer = of_bob.replace(&ends.to_string(), &(ends + 1).to_string());
        let as_ann = of_bob.replacen(&hex::encode("bob"), &hex::encode("ann"), 1);
        for forged in [longer.as_str(), as_ann.as_str(), "", "..", "626f62.9999999999.", "zz.1.aa", "é.1.é"] {
            assert!(holder(&tokens, forged, now).is_none(), "{forged}");
        }
    }

    #[test]
    fn a_token_comes_as_bearer_or_as_the_password_of_basic() {
        let of = |value: &str| {
            let headers = [(header::AUTHORIZATION, value.parse().expect("a header"))].into_iter().collect();
            token_of(&headers)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        assert_eq!(of(&format!("Basic {}", STANDARD.encode("ann:a:b"))).as_deref(), Some("a:b"));
        for nothing in ["abc", "Digest abc", "Basic !", "Bearer"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }
}
