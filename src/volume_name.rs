//! The name of a thread's volume: the configured prefix followed by the thread's id.
//!
//! A [`VolumeName`] can only be made from a valid [`ThreadId`] and a valid [`VolumePrefix`]. Neither can hold a
//! slash, a percent sign, a question mark or a space, so the name is safe to put into a request path as it is: the
//! Docker client does not escape it, and a daemon follows `..` to another endpoint.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

/// The id of a thread, as the platform gives it: `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
pub struct ThreadId(String);

/// Why a text is not a thread id.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidThreadId {
    /// The text is empty; with an empty id the name would be the bare prefix.
    #[error("the thread id is empty")]
    Empty,
    /// The text is longer than [`ThreadId::MAX_LEN`]; the length in bytes.
    #[error("the thread id has {0} bytes, the longest allowed has {max}", max = ThreadId::MAX_LEN)]
    TooLong(usize),
    /// The text does not begin with a letter or a digit, or has a character that is none of letter, digit, `_.-`.
    #[error("the thread id may hold only ASCII letters, digits, '_', '.' and '-', and begins with a letter or a digit")]
    Character,
}

impl ThreadId {
    /// The longest id, in bytes: prefix and id together stay below the 255 bytes that a directory name may have.
    pub const MAX_LEN: usize = 128;

    /// Checks `text` and takes it as a thread id.
    pub fn parse(text: &str) -> Result<Self, InvalidThreadId> {
        if text.is_empty() {
            return Err(InvalidThreadId::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(InvalidThreadId::TooLong(text.len()));
        }
        if !is_name(text) {
            return Err(InvalidThreadId::Character);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every volume of ours begins with, `ha_ws_` by default. Never empty: an empty prefix would select everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePrefix {
    text: String,
    /// Longer prefixes of somebody else's.
    foreign: Vec<String>,
}

impl VolumePrefix {
    /// The shortest prefix, in bytes. A shorter one would match volumes that are somebody else's by accident.
    pub const MIN_LEN: usize = 3;
    /// The longest prefix, in bytes; see [`ThreadId::MAX_LEN`].
    pub const MAX_LEN: usize = 100;

    /// Checks `text` and takes it as a prefix; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() < Self::MIN_LEN || text.len() > Self::MAX_LEN {
            return Err(format!(
                "a volume prefix has {} to {} characters, so that it never matches volumes that are not ours",
                Self::MIN_LEN,
                Self::MAX_LEN
            ));
        }
        if !is_name(text) {
            return Err("a volume prefix may hold only ASCII letters, digits, '_', '.' and '-', \
                 and begins with a letter or a digit"
                .to_owned());
        }
        Ok(Self { text: text.to_owned(), foreign: Vec::new() })
    }

    /// This prefix, without what begins with one of these, which are separated by commas; the error says what is wrong.
    pub fn with_foreign(self, text: &str) -> Result<Self, String> {
        let foreign: Vec<_> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        match foreign.iter().find(|foreign| self.text.starts_with(*foreign)) {
            None => Ok(Self { foreign, ..self }),
            Some(all) => {
                Err(format!("with {all:?}, all volumes that begin with {:?} would be somebody else's", self.text))
            }
        }
    }

    /// Fails if the thread's volume has a name that is somebody else's; the error says so.
    pub fn owns(&self, thread: &ThreadId) -> Result<(), String> {
        let volume = self.volume_of(thread);
        match self.foreign.iter().find(|foreign| volume.0.starts_with(*foreign)) {
            None => Ok(()),
            Some(foreign) => Err(format!(
                "volume {volume} begins with {foreign:?}, so it is somebody else's (VOLUME_REAPER_FOREIGN_PREFIXES)"
            )),
        }
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the thread's volume.
    #[must_use]
    pub fn volume_of(&self, thread: &ThreadId) -> VolumeName {
        VolumeName(format!("{}{}", self.text, thread.0))
    }

    /// The thread that a volume of this name belongs to; `None` if the name is not prefix + valid id, or is somebody
    /// else's.
    #[must_use]
    pub fn thread_of(&self, volume: &str) -> Option<ThreadId> {
        let thread = volume.strip_prefix(&self.text).and_then(|id| ThreadId::parse(id).ok());
        thread.filter(|thread| self.owns(thread).is_ok())
    }

    /// Whether a volume of this name is the thread's.
    #[must_use]
    pub fn is_volume_of(&self, volume: &str, thread: &ThreadId) -> bool {
        self.thread_of(volume).as_ref() == Some(thread)
    }
}

/// The full name of one thread's volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
pub struct VolumeName(String);

impl VolumeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Docker's own rule for volume names (moby `daemon/names/names.go`).
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_foreign_prefix_is_no_volume_of_ours() {
        let prefix =
            VolumePrefix::parse("ha_ws_").and_then(|prefix| prefix.with_foreign("ha_ws_x_, other_")).expect("valid");
        assert_eq!(prefix.thread_of("ha_ws_x_1"), None);
        assert_eq!(prefix.thread_of("ha_ws_x1"), ThreadId::parse("x1").ok());
        assert!(prefix.owns(&ThreadId::parse("x_1").expect("valid")).is_err());
        for all in ["ha_ws_", "ha_", "ha_ws_x_,ha"] {
            let prefix = VolumePrefix::parse("ha_ws_").expect("valid");
            assert!(prefix.with_foreign(all).is_err(), "{all}");
        }
    }

    #[test]
    fn ids_that_could_leave_the_volumes_endpoint_are_refused() {
        for text in ["../x", "..", "a/b", "a b", "a\0b", "%2e%2e", "x?force=1", "é", "_x", "-x", ".x", "a\n"] {
            assert_eq!(ThreadId::parse(text), Err(InvalidThreadId::Character), "{text:?}");
        }
    }

    #[test]
    fn the_length_of_an_id_is_bounded() {
        assert_eq!(ThreadId::parse(""), Err(InvalidThreadId::Empty));
        assert!(ThreadId::parse(&"a".repeat(128)).is_ok());
        assert_eq!(ThreadId::parse(&"a".repeat(129)), Err(InvalidThreadId::TooLong(129)));
    }

    #[test]
    fn a_name_is_the_prefix_and_the_id_and_back() {
        let prefix = VolumePrefix::parse("ha_ws_").expect("valid");
        let thread = ThreadId::parse("7f1c-b.2_Z").expect("valid");
        assert_eq!(prefix.volume_of(&thread).as_str(), "ha_ws_7f1c-b.2_Z");
        assert_eq!(prefix.thread_of("ha_ws_7f1c-b.2_Z"), Some(thread));
        for other in ["ha_ws_", "xha_ws_a", "ha_ws", "ha_ws_a/b", "HA_WS_a"] {
            assert_eq!(prefix.thread_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_prefix_that_would_match_too_much_is_refused() {
        for text in ["", "h", "ha", "_ha_", "ha ws", "ha/ws"] {
            assert!(VolumePrefix::parse(text).is_err(), "{text:?}");
        }
    }
}
