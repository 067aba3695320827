//! The file that says who may use the console and the API: one line for each person or program.
//!
//! Only digests of the tokens are kept. What a line says wrongly is refused with its number, and without the token.

use std::{fmt, fs, path::Path};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use utoipa::ToSchema;

/// The shortest token: 128 bits in Base64 have so many characters.
const SHORTEST: usize = 22;
/// The longest name, which is written into logs and pauses.
const LONGEST_NAME: usize = 64;

/// What somebody may do. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Pause, hold, release, clean up, sweep, replay.
    Operator,
    /// Delete messages, and resume what the breaker or the command line paused.
    Admin,
}

/// One line of the file.
#[derive(Clone)]
pub struct HttpToken {
    /// What its holder may do.
    pub role: Role,
    /// What its holder is called.
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
}

impl Role {
    /// The role in the file and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HttpToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpToken({}:{})", self.role, self.name)
    }
}

/// SHA-256 of a token.
#[must_use]
pub fn digest_of(token: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

/// Reads the file; an error names the line, and never what stands in it.
pub fn read_tokens(path: &Path) -> Result<Vec<HttpToken>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse_tokens(&text)
}

fn parse_tokens(text: &str) -> Result<Vec<HttpToken>, String> {
    let mut tokens: Vec<HttpToken> = Vec::new();
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).zip(1..);
    for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
        let refused = |what: &str| Err(format!("line {number}: {what}"));
        let mut parts = line.splitn(3, ':');
        let (Some(role), Some(name), Some(token)) = (parts.next(), parts.next(), parts.next()) else {
            return refused("must be role:name:token");
        };
        let Some(role) = Role::parse(role.trim()) else {
            return refused("the role must be viewer, operator or admin");
        };
        let (name, token) = (name.trim(), token.trim());
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            return refused("the name must have 1 to 64 characters");
        }
        if token.len() < SHORTEST || token.chars().any(|c| !c.is_ascii_graphic()) {
            return refused(
                "the token must have at least 22 characters without blanks, as `openssl rand -hex 16` makes",
            );
        }
        let digest = digest_of(token);
        if tokens.iter().any(|other| other.digest == digest || other.name == name) {
            return refused("its name or its token stands in a line before");
        }
        tokens.push(HttpToken { role, name: name.to_owned(), digest });
    }
    if tokens.is_empty() { Err("has no line role:name:token".to_owned()) } else { Ok(tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_file_has_a_line_for_each_person() {
        let text = format!("# who\n\nviewer:ann:{TOKEN}1\n admin : bob : {TOKEN}:2 \n");
        let tokens = parse_tokens(&text).expect("valid");
        assert_eq!(
            tokens.iter().map(|token| (token.role, token.name.as_str())).collect::<Vec<_>>(),
            [(Role::Viewer, "ann"), (Role::Admin, "bob")]
        );
        assert_eq!(tokens[1].digest, digest_of(&format!("{TOKEN}:2")), "a token may have colons");
    }

    #[test]
    fn what_a_line_says_wrongly_is_refused_without_the_token() {
        for (line, expected) in [
            (format!("viewer:{TOKEN}"), "line 1: must be role:name:token"),
            (format!("root:ann:{TOKEN}"), "line 1: the role must be"),
            (format!("viewer::{TOKEN}"), "line 1: the name must have"),
            ("viewer:ann:short".to_owned(), "line 1: the token must have"),
            (format!("viewer:ann:{TOKEN}\nadmin:bob:{TOKEN}"), "line 2: its name or its token"),
            ("# nobody".to_owned(), "has no line"),
        ] {
            let error = parse_tokens(&line).expect_err(&line);
            assert!(error.starts_with(expected) && !error.contains(TOKEN) && !error.contains("short"), "{error}");
        }
    }

    #[test]
    fn each_role_may_do_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
