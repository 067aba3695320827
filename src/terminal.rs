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

/// How many columns the terminal has that standard output is; none if it is something else, which takes lines of any
/// length.
#[must_use]
pub fn columns() -> Option<usize> {
    let terminal = console::Term::stdout();
    terminal
        .is_term()
        .then(|| terminal.size_checked())
        .flatten()
        .map(|(_, columns)| columns.into())
        .filter(|it| *it > 0)
}

/// A line that is not longer than so many columns: what is over is an ellipsis.
#[must_use]
pub fn cut(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// So many bytes, in the unit that leaves at most four digits.
#[must_use]
pub fn amount(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut tenths, mut unit) = (u128::from(bytes) * 10, "bytes");
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1024, next);
    }
    match (unit, tenths % 10) {
        ("bytes", _) | (_, 0) => format!("{} {unit}", tenths / 10),
        (_, tenth) => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// What was in so many removed volumes, as far as it is known, to stand behind their number.
#[must_use]
pub fn amount_of(removed: u64, bytes: u64, unsized_volumes: u64) -> String {
    match (removed, bytes, unsized_volumes) {
        (0, ..) | (_, 0, 0) => String::new(),
        (_, bytes, 0) => format!(", {}", amount(bytes)),
        (_, 0, _) => ", sizes unknown".to_owned(),
        (_, bytes, unsized_volumes) => format!(", {} and {unsized_volumes} of unknown size", amount(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_ends_where_the_terminal_does() {
        let cuts =
            [("", 3), ("abc", 3), ("abcd", 3), ("äöüß", 3), ("abc", 1)].map(|(line, columns)| cut(line, columns));
        assert_eq!(cuts, ["", "abc", "ab…", "äö…", "…"]);
    }

    #[test]
    fn amounts_are_written_as_people_read_them() {
        let amounts = [0, 1023, 1024, 1536, 5 << 30, u64::MAX].map(amount);
        assert_eq!(amounts, ["0 bytes", "1023 bytes", "1 KiB", "1.5 KiB", "5 GiB", "16383.9 PiB"].map(str::to_owned));
        let of = |removed, bytes, unsized_volumes| amount_of(removed, bytes, unsized_volumes);
        let amounts = [of(0, 0, 0), of(2, 2048, 0), of(2, 0, 2), of(2, 1024, 1)];
        assert_eq!(amounts, ["", ", 2 KiB", ", sizes unknown", ", 1 KiB and 1 of unknown size"].map(str::to_owned));
    }

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
