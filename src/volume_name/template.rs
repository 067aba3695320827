//! What one volume of each thread is called, made of the thread's id, and back.

use std::fmt;

use super::{ThreadId, VolumeName, VolumeNames};

/// What one volume of each thread is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    /// What is before the id.
    pub(super) before: String,
    /// What is after it; mostly nothing.
    pub(super) after: String,
}

impl Template {
    pub(super) fn parse(before: &str, after: &str) -> Result<Self, String> {
        let (least, most) = (VolumeNames::MIN_LEN, VolumeNames::MAX_LEN);
        if before.len() < least || before.len() + after.len() > most {
            return Err(format!(
                "a volume prefix has {least} to {most} characters, so that it never matches volumes that are not ours"
            ));
        }
        if !is_name(&format!("{before}{after}")) {
            return Err("a volume prefix may hold only ASCII letters, digits, '_', '.' and '-', \
                 and begins with a letter or a digit"
                .to_owned());
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// Whether both may make the same name, of whatever ids.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let begins = self.before.starts_with(&other.before) || other.before.starts_with(&self.before);
        let ends = self.after.ends_with(&other.after) || other.after.ends_with(&self.after);
        begins && ends
    }

    pub(super) fn volume_of(&self, thread: &ThreadId) -> VolumeName {
        VolumeName(format!("{}{thread}{}", self.before, self.after))
    }

    /// Whether a name is made of this template, and of anything.
    pub(super) fn is_like(&self, volume: &str) -> bool {
        let rest = volume.strip_prefix(&self.before).and_then(|rest| rest.strip_suffix(&self.after));
        rest.is_some_and(|rest| !rest.is_empty())
    }

    pub(super) fn thread_of(&self, volume: &str) -> Option<ThreadId> {
        let id = volume.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        ThreadId::parse(id).ok()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.before, VolumeNames::ID, self.after)
    }
}

/// Docker's own rule for volume names (moby `daemon/names/names.go`).
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}
