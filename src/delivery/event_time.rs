//! The forms in which publishers write a time.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Utc};
use serde_json::Value;

/// Earlier is no time of a thread: `0001-01-01` is how .NET and Go write "none".
const FIRST_YEAR: i32 = 1970;
/// Later does not fit into every database.
const LAST_YEAR: i32 = 9999;
/// From here on a number counts milliseconds, and before it seconds: it is 1973 in the one and 5138 in the other.
const FIRST_MILLISECONDS: f64 = 1e11;

/// RFC 3339, its near relatives (`+0000`, a space for the `T`, no zone, which is UTC), RFC 2822, a date, or the seconds
/// or milliseconds since 1970.
pub(crate) fn read(value: &Value) -> Option<DateTime<Utc>> {
    let time = match value {
        Value::String(text) => read_text(text.trim()),
        Value::Number(number) => number.as_f64().and_then(since_1970),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    time.filter(|time| (FIRST_YEAR..=LAST_YEAR).contains(&time.year()))
}

fn read_text(text: &str) -> Option<DateTime<Utc>> {
    let zoned = || {
        let forms = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z"];
        forms.into_iter().find_map(|form| DateTime::parse_from_str(text, form).ok())
    };
    let zoneless = || {
        let forms = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f UTC"];
        let time = forms.into_iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        time.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
    };
    let known = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_rfc2822(text)).ok();
    known
        .or_else(zoned)
        .map(|time| time.to_utc())
        .or_else(|| zoneless().map(|time| time.and_utc()))
        .or_else(|| since_1970(text.parse().ok()?))
}

#[expect(clippy::cast_possible_truncation, reason = "a number that is none becomes the largest, which is no time")]
fn since_1970(number: f64) -> Option<DateTime<Utc>> {
    let milliseconds = if number.abs() < FIRST_MILLISECONDS { number * 1000.0 } else { number };
    if milliseconds.is_finite() { DateTime::from_timestamp_millis(milliseconds as i64) } else { None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        let ten = "2026-11-26T10:00:00Z".parse::<DateTime<Utc>>().expect("valid");
        for form in [
            json!("2026-11-26T10:00:00Z"),
            json!("2026-11-26t10:00:00.000000000z"),
            json!("2026-11-26T11:00:00+01:00"),
            json!("2026-11-26T10:00:00+0000"),
            json!("2026-11-26T12:00:00.000+02"),
            json!("2026-11-26 10:00:00+00"),
            json!("2026-11-26 10:00:00 +0000"),
            json!("2026-11-26 10:00:00 UTC"),
            json!("2026-11-26T10:00:00"),
            json!("2026-11-26 10:00:00.000"),
            json!("2026-11-26T10:00"),
            json!(" 2026-11-26T10:00:00Z\n"),
            json!("Thu, 26 Nov 2026 10:00:00 GMT"),
            json!(1_795_687_200),
            json!(1_795_687_200.0),
            json!(1_795_687_200_000_i64),
            json!("1795687200"),
        ] {
            assert_eq!(read(&form), Some(ten), "{form}");
        }
        assert_eq!(read(&json!("2026-11-26")), Some(ten - chrono::TimeDelta::hours(10)));
        let year = |number: i64| read(&json!(number)).map(|time| time.year());
        assert_eq!((year(99_999_999_999), year(100_000_000_000)), (Some(5138), Some(1973)));
    }

    #[test]
    fn what_is_no_time_of_a_thread_is_not_read() {
        for form in [
            json!(""),
            json!("yesterday"),
            json!("infinity"),
            json!("-infinity"),
            json!("nan"),
            json!("0000-00-00 00:00:00"),
            json!("0001-01-01T00:00:00Z"),
            json!("294276-12-31T23:59:59Z"),
            json!("2026-02-30T00:00:00Z"),
            json!("1e400"),
            json!(1e300),
            json!(-1e300),
            json!(true),
            json!({}),
            json!([2026, 11, 26]),
        ] {
            assert_eq!(read(&form), None, "{form}");
        }
    }
}
