//! Text from outside, for people: names, errors and headers that somebody else chose must not reach a terminal as
//! commands to it.

use std::fmt::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};

/// A text without its power over terminals: control characters, and those that turn or hide what stands beside them,
/// are written as `\u{1b}`.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            character if is_harmless(character) => f.write_char(character),
            character => write!(f, "{}", character.escape_unicode()),
        })
    }
}

/// Unicode's category Cc has the escapes. The others are the formatting characters that change the order of a line
/// ("Trojan Source", CVE-2021-42574), break it, or can't be seen.
fn is_harmless(character: char) -> bool {
    let is_format = matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    !character.is_control() && !is_format
}

/// A time as people and programs both read it: RFC 3339, UTC, whole seconds.
#[must_use]
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        for (text, plain) in [
            ("web-1 é 日本", "web-1 é 日本"),
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("a\nb\r\t", "a\\u{a}b\\u{d}\\u{9}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("a\u{202e}b\u{feff}", "a\\u{202e}b\\u{feff}"),
        ] {
            assert_eq!(Plain(text).to_string(), plain);
        }
    }
}
