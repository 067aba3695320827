//! The names of a thread's volumes: each a configured template with the thread's id in it, mostly after a prefix.
//!
//! A [`VolumeName`] can only be made from valid [`VolumeNames`] and a valid [`ThreadId`], or a row's name that is like
//! one of theirs. None can hold a slash, a percent sign, a question mark or a space, so the name is safe to put into a
//! request path as it is: the Docker client does not escape it, and a daemon follows `..` to another endpoint.

mod template;

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use utoipa::ToSchema;

use self::template::{Template, is_name};

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

impl<'de> Deserialize<'de> for ThreadId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the volumes of a thread are called: one template for each, such as `ha_ws_{id}`.
///
/// A template never begins with less than [`VolumeNames::MIN_LEN`] characters before the id: an empty one would select
/// everything. No name is that of two threads, nor of two templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeNames {
    templates: Vec<Template>,
    /// Longer prefixes of somebody else's.
    foreign: Vec<String>,
    /// Rows of a table have the names, each of which only has to look like one of a template.
    are_in_rows: bool,
}

impl VolumeNames {
    /// The shortest prefix, in bytes. A shorter one would match volumes that are somebody else's by accident.
    pub const MIN_LEN: usize = 3;
    /// The longest prefix, in bytes, what is after the id included; see [`ThreadId::MAX_LEN`].
    pub const MAX_LEN: usize = 100;
    /// The most volumes that a thread may have by its id.
    pub const MOST: usize = 8;
    /// What stands for the id in a template.
    const ID: &str = "{id}";

    /// One volume a thread, called `prefix` and its id; the error says what is wrong.
    pub fn of_prefix(prefix: &str) -> Result<Self, String> {
        let template = Template::parse(prefix, "")?;
        Ok(Self { templates: vec![template], foreign: Vec::new(), are_in_rows: false })
    }

    /// One volume for each of these templates, which are separated by commas; the error says what is wrong.
    pub fn of_templates(text: &str) -> Result<Self, String> {
        let mut templates: Vec<Template> = Vec::new();
        for one in text.split(',').map(str::trim) {
            let Some((before, after)) = one.split_once(Self::ID).filter(|(_, after)| !after.contains('{')) else {
                return Err(format!("{one:?} has to have {} in it once, as in ha_ws_{}", Self::ID, Self::ID));
            };
            let template = Template::parse(before, after).map_err(|what| format!("{one:?}: {what}"))?;
            if let Some(other) = templates.iter().find(|other| other.overlaps(&template)) {
                return Err(format!(
                    "with {other} and {template}, one thread's volume could have the name of another's: let neither \
                     of the two begin as the other does, or let them end differently"
                ));
            }
            templates.push(template);
        }
        if templates.len() > Self::MOST {
            return Err(format!("a thread has at most {} volumes by its id", Self::MOST));
        }
        Ok(Self { templates, foreign: Vec::new(), are_in_rows: false })
    }

    /// These names, without what begins with one of these prefixes, which are separated by commas; the error says what
    /// is wrong.
    pub fn with_foreign(self, text: &str) -> Result<Self, String> {
        let foreign: Vec<_> = text.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        let is_all = |template: &Template| foreign.iter().find(|foreign| template.before.starts_with(*foreign));
        match self.templates.iter().find_map(|template| Some((template, is_all(template)?))) {
            None => Ok(Self { foreign, ..self }),
            Some((Template { before, .. }, all)) => {
                Err(format!("with {all:?}, all volumes that begin with {before:?} would be somebody else's"))
            }
        }
    }

    /// These names, where rows of a table say what each volume is called: the template then says what such a name may
    /// be, with anything in the place of the id.
    #[must_use]
    pub fn in_rows(self) -> Self {
        Self { are_in_rows: true, ..self }
    }

    /// Whether rows say what each volume is called.
    #[must_use]
    pub fn are_in_rows(&self) -> bool {
        self.are_in_rows
    }

    /// A name that a row has; the error says why no volume of ours may be called so.
    pub fn check(&self, volume: &str) -> Result<VolumeName, String> {
        if !VolumeName::is_legal(volume) {
            return Err(format!("{volume:?} is no name that a volume can have"));
        }
        if !self.templates.iter().any(|template| template.is_like(volume)) {
            let templates = self.templates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("{volume:?} is not like {templates}, so it may be somebody else's"));
        }
        match self.foreign.iter().find(|foreign| volume.starts_with(*foreign)) {
            None => Ok(VolumeName(volume.to_owned())),
            Some(foreign) => Err(format!("{volume:?} begins with {foreign:?}, so it is somebody else's")),
        }
    }

    /// The thread that a volume would belong to by its name, for people.
    #[must_use]
    pub fn thread_by_template(&self, volume: &str) -> Option<ThreadId> {
        self.templates.iter().find_map(|template| template.thread_of(volume))
    }

    /// Fails if a volume of the thread has a name that is somebody else's; the error says so.
    pub fn owns(&self, thread: &ThreadId) -> Result<(), String> {
        // A row's name is looked at by itself.
        if self.foreign.is_empty() || self.are_in_rows {
            return Ok(());
        }
        let foreign = |volume: &VolumeName| self.foreign.iter().find(|foreign| volume.0.starts_with(*foreign));
        match self.volumes_of(thread).iter().find_map(|volume| Some((volume, foreign(volume)?))) {
            None => Ok(()),
            Some((volume, foreign)) => Err(format!(
                "volume {volume} begins with {foreign:?}, so it is somebody else's (VOLUME_REAPER_FOREIGN_PREFIXES)"
            )),
        }
    }

    /// Whether one of the volumes is called this and the thread's id, and nothing more.
    #[must_use]
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.templates.iter().any(|template| template.before == prefix && template.after.is_empty())
    }

    /// What all names begin with, for a daemon's filter; may be empty.
    #[must_use]
    pub fn common_prefix(&self) -> &str {
        let mut common = self.templates.first().map_or("", |first| first.before.as_str());
        for Template { before, .. } in &self.templates {
            let alike = common.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count();
            common = &common[..alike];
        }
        common
    }

    /// How many volumes a thread has; at least so many where rows have them.
    #[must_use]
    pub fn per_thread(&self) -> usize {
        if self.are_in_rows { 1 } else { self.templates.len() }
    }

    /// The names of the thread's volumes, in the order of the templates. Rows that have them may say otherwise.
    #[must_use]
    pub fn volumes_of(&self, thread: &ThreadId) -> Vec<VolumeName> {
        self.templates.iter().map(|template| template.volume_of(thread)).collect()
    }

    /// The name of the thread's first volume.
    #[must_use]
    pub fn volume_of(&self, thread: &ThreadId) -> VolumeName {
        self.templates[0].volume_of(thread)
    }

    /// The thread that a volume of this name belongs to; `None` if the name is not made of a template and a valid id,
    /// or is somebody else's, or if only rows can say.
    #[must_use]
    pub fn thread_of(&self, volume: &str) -> Option<ThreadId> {
        if self.are_in_rows {
            return None;
        }
        let thread = self.thread_by_template(volume);
        thread.filter(|_| !self.foreign.iter().any(|foreign| volume.starts_with(foreign)))
    }

    /// The name, if it is one of ours.
    #[must_use]
    pub fn find(&self, volume: &str) -> Option<VolumeName> {
        if self.are_in_rows {
            return self.check(volume).ok();
        }
        self.thread_of(volume).map(|_| VolumeName(volume.to_owned()))
    }

    /// Whether a volume of this name is the thread's.
    #[must_use]
    pub fn is_volume_of(&self, volume: &str, thread: &ThreadId) -> bool {
        self.thread_of(volume).as_ref() == Some(thread)
    }
}

/// The full name of one volume of a thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
pub struct VolumeName(String);

impl VolumeName {
    /// The longest name, in bytes: a directory has it.
    pub const MAX_LEN: usize = 255;

    /// Whether Docker could call a volume so, whoever's it is.
    #[must_use]
    pub fn is_legal(text: &str) -> bool {
        is_name(text) && text.len() <= Self::MAX_LEN
    }

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

impl Borrow<str> for VolumeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_thread_has_as_many_volumes_as_may_be_and_no_more() {
        let templates =
            |many: usize| (0..many).map(|number| format!("ws{number}_{{id}}")).collect::<Vec<_>>().join(",");
        let names = VolumeNames::of_templates(&templates(VolumeNames::MOST)).expect("so many may be");
        assert_eq!(names.per_thread(), VolumeNames::MOST);
        assert!(VolumeNames::of_templates(&templates(VolumeNames::MOST + 1)).is_err());
    }

    #[test]
    fn what_begins_with_a_foreign_prefix_is_no_volume_of_ours() {
        let prefix =
            VolumeNames::of_prefix("ha_ws_").and_then(|prefix| prefix.with_foreign("ha_ws_x_, other_")).expect("valid");
        assert_eq!(prefix.thread_of("ha_ws_x_1"), None);
        assert_eq!(prefix.thread_of("ha_ws_x1"), ThreadId::parse("x1").ok());
        assert!(prefix.owns(&ThreadId::parse("x_1").expect("valid")).is_err());
        for all in ["ha_ws_", "ha_", "ha_ws_x_,ha"] {
            let prefix = VolumeNames::of_prefix("ha_ws_").expect("valid");
            assert!(prefix.with_foreign(all).is_err(), "{all}");
        }
    }

    #[test]
    fn names_in_rows_are_looked_at_one_by_one_and_not_by_templates() {
        let names = VolumeNames::of_prefix("ha_ws_").and_then(|names| names.with_foreign("ha_ws_x_")).expect("valid");
        let thread = ThreadId::parse("x_1").expect("valid");
        assert!(names.clone().owns(&thread).is_err());
        assert!(names.in_rows().owns(&thread).is_ok());
    }

    #[test]
    fn a_volume_is_the_thread_s_by_its_whole_name() {
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let [one, other] = ["1", "12"].map(|id| ThreadId::parse(id).expect("valid"));
        assert!(names.is_volume_of("ha_ws_1", &one) && names.is_volume_of("ha_ws_12", &other));
        assert!(!names.is_volume_of("ha_ws_12", &one) && !names.is_volume_of("ha_ws_1", &other));
    }

    #[test]
    fn a_prefix_is_one_of_the_templates_with_nothing_after_the_id() {
        let names = VolumeNames::of_templates("ha_cache_{id}-1,ha_ws_{id}").expect("valid");
        assert!(names.has_prefix("ha_ws_"));
        assert!(!names.has_prefix("ha_cache_") && !names.has_prefix("ha_"));
    }

    #[test]
    fn a_name_in_a_row_is_like_a_template_and_nobody_elses() {
        let names =
            VolumeNames::of_templates("ha_ws_{id},ha_u{id}-home").and_then(|names| names.with_foreign("ha_ws_x"));
        let names = names.expect("valid").in_rows();
        for ours in ["ha_ws_1", "ha_ws__a.b-c", "ha_u1-home"] {
            assert_eq!(names.check(ours).expect("ours").as_str(), ours);
            assert_eq!(names.find(ours).expect("ours").as_str(), ours);
            assert_eq!(names.thread_of(ours), None);
        }
        let long = format!("ha_ws_{}", "a".repeat(250));
        for other in
            ["", "ha_ws_", "ha_u-home", "postgres_data", "HA_WS_1", "ha_ws_x1", "ha_ws_../x", "ha_ws_a b", &long]
        {
            assert!(names.check(other).is_err() && names.find(other).is_none(), "{other}");
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
        let prefix = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let thread = ThreadId::parse("7f1c-b.2_Z").expect("valid");
        assert_eq!(prefix.volume_of(&thread).as_str(), "ha_ws_7f1c-b.2_Z");
        assert_eq!(prefix.thread_of("ha_ws_7f1c-b.2_Z"), Some(thread));
        for other in ["ha_ws_", "xha_ws_a", "ha_ws", "ha_ws_a/b", "HA_WS_a"] {
            assert_eq!(prefix.thread_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_thread_has_one_volume_for_each_template() {
        let names = VolumeNames::of_templates("ha_ws_{id}, ha_cache_{id},proj.{id}-home").expect("valid");
        let thread = ThreadId::parse("t-1").expect("valid");
        let volumes = names.volumes_of(&thread);
        assert_eq!(
            volumes.iter().map(VolumeName::as_str).collect::<Vec<_>>(),
            ["ha_ws_t-1", "ha_cache_t-1", "proj.t-1-home"]
        );
        for volume in volumes {
            assert_eq!(names.thread_of(volume.as_str()).as_ref(), Some(&thread), "{volume}");
        }
        for other in ["ha_cach_t-1", "ha_cache_", "proj.t-1", "proj.-home", "proj.t-1-homes"] {
            assert_eq!(names.thread_of(other), None, "{other}");
        }
        assert_eq!(names.common_prefix(), "");
        assert_eq!(VolumeNames::of_templates("ha_ws_{id},ha_cache_{id}").expect("valid").common_prefix(), "ha_");
    }

    #[test]
    fn templates_that_could_name_each_others_volumes_are_refused() {
        for text in ["ha_ws_{id},ha_ws_{id}", "ha_ws_{id},ha_ws_x_{id}", "ha_ws_x_{id},ha_ws_{id}", "ws_{id},ws_{id}_c"]
        {
            let error = VolumeNames::of_templates(text).expect_err(text);
            assert!(error.contains("could have the name of another's"), "{text}: {error}");
        }
        assert!(VolumeNames::of_templates("ws_{id}_a,ws_{id}_b").is_ok());
    }

    #[test]
    fn a_template_without_its_id_or_with_a_short_prefix_is_refused() {
        for text in
            ["", "ha_ws_", "{id}", "h{id}", "ha_ws_{id}{id}", "ha_ws_{id},", "ha/ws_{id}", "ha_ws_{id}/x", "_ws{id}"]
        {
            assert!(VolumeNames::of_templates(text).is_err(), "{text:?}");
        }
        assert!(
            VolumeNames::of_templates(
                &["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(|x| format!("v_{x}_{{id}}")).join(",")
            )
            .is_err()
        );
    }

    #[test]
    fn what_is_around_the_id_has_at_most_a_hundred_characters_together() {
        let of = |before: usize| VolumeNames::of_templates(&format!("{}{{id}}-x", "a".repeat(before)));
        assert!(of(98).is_ok());
        assert!(of(99).is_err());
    }

    #[test]
    fn a_prefix_that_would_match_too_much_is_refused() {
        for text in ["", "h", "ha", "_ha_", "ha ws", "ha/ws"] {
            assert!(VolumeNames::of_prefix(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        /// A name leads back to its thread, and to no other.
        #[test]
        fn names_lead_back_to_their_thread(
            id in "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}",
            templates in "[a-z]{3,6}_\\{id\\}(-x)?(,[a-z]{3,6}\\.\\{id\\}(_y)?)?",
            other in "[a-zA-Z0-9_./%?-]{0,20}",
        ) {
            let thread = ThreadId::parse(&id).expect("valid");
            let Ok(names) = VolumeNames::of_templates(&templates) else { return Ok(()) };
            for volume in names.volumes_of(&thread) {
                prop_assert_eq!(names.thread_of(volume.as_str()), Some(thread.clone()));
                prop_assert_eq!(names.find(volume.as_str()), Some(volume));
            }
            if let Some(thread) = names.thread_of(&other) {
                prop_assert!(names.volumes_of(&thread).iter().any(|volume| volume.as_str() == other));
            }
        }

        /// Whatever a text is: as an id it is refused, or it is safe in a path as it stands.
        #[test]
        fn an_id_is_safe_in_a_path(text in "\\PC{0,40}|[a-z./%?#-]{0,12}") {
            if let Ok(thread) = ThreadId::parse(&text) {
                let is_safe = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                prop_assert!(thread.as_str().chars().all(is_safe) && !thread.as_str().starts_with('.'));
            }
        }
    }
}
