//! JSON as others write it: what decides nothing can't make a message unreadable.
//!
//! Kept are the fields that an event or a CloudEvent has, and the names by which other frameworks' envelopes are known.
//! All else is skipped, however deep it nests (without recursion), whatever its numbers are, and in whatever encoding:
//! half of a surrogate pair and bytes that are no UTF-8 become the replacement character, which no thread id may have.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What an event and a CloudEvent may say.
const FIELDS: [&str; 11] = [
    "thread_id",
    "closed_at",
    "reopened_at",
    "host",
    "specversion",
    "id",
    "source",
    "type",
    "datacontenttype",
    "traceparent",
    "data_base64",
];
/// Of these, those that may be of a form that we can't even parse, such as the number `1e400`.
const TIMES: [&str; 2] = ["closed_at", "reopened_at"];
/// The field whose list of texts is kept, as far as it goes.
const VOLUMES: &str = "volumes";
/// A list is kept no further: a hint for a log needs no more.
const MOST_TEXTS: usize = 16;
/// The field with an event inside.
const DATA: &str = "data";
/// Marks of others' envelopes, kept without their values.
const MARKS: [&str; 20] = [
    "args",
    "body",
    "detail",
    "detail-type",
    "displayName",
    "envelope",
    "job",
    "kwargs",
    "Message",
    "message",
    "messageType",
    "pattern",
    "payload",
    "task",
    "TopicArn",
    "thread",
    "threadId",
    "threadID",
    "ThreadId",
    "threadid",
];

/// Reads JSON. Of objects, only the fields that we know are there; of lists, nothing but the names of volumes. The
/// error says where it ends to be JSON, and repeats nothing of it.
pub(crate) fn read(text: &[u8]) -> Result<Value, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    let text = whole_characters(&text);
    // Position only: the parser's own message can quote the body, which is not ours to log.
    let place = |error: serde_json::Error| format!("it is not JSON (line {}, column {})", error.line(), error.column());
    let read = |are_times_read, are_volumes_read| {
        parse(&text, Lenient { kept: Kept::FieldsAndData, are_times_read, are_volumes_read })
    };
    // What can't be parsed in a hint takes no time with it.
    let without_hint = || read(true, false).or_else(|_| read(false, false));
    read(true, true).or_else(|error| without_hint().map_err(|_| place(error)))
}

fn parse(text: &str, lenient: Lenient) -> serde_json::Result<Value> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = lenient.deserialize(&mut parser)?;
    parser.end()?;
    Ok(value)
}

/// JSON with the replacement character for each half of a surrogate pair (`\ud83d` with no `\udc00` to
/// `\udfff` behind it, or one of those alone).
fn whole_characters(text: &str) -> Cow<'_, str> {
    let escape = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut whole = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(backslash) = text[at..].find('\\') {
        at += backslash;
        match (escape(at), escape(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at += 12,
            (Some(0xd800..=0xdfff), _) => {
                whole.push_str(&text[copied..at]);
                whole.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            // What is escaped may be a backslash itself.
            _ => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    whole.push_str(&text[copied..]);
    Cow::Owned(whole)
}

/// What is kept of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Our fields, and of an object in the field `data` its own.
    FieldsAndData,
    /// Our fields.
    Fields,
    /// That it is one: where a text or a number should be.
    Nothing,
    /// Of a list its texts; all else as above.
    Texts,
}

/// Reads a value of which only what is ours is kept.
#[derive(Clone, Copy)]
struct Lenient {
    kept: Kept,
    are_times_read: bool,
    are_volumes_read: bool,
}

impl<'de> DeserializeSeed<'de> for Lenient {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Lenient {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut texts = Vec::new();
        while self.kept == Kept::Texts && texts.len() < MOST_TEXTS {
            match list.next_element_seed(Self { kept: Kept::Nothing, ..self })? {
                Some(text @ Value::String(_)) => texts.push(text),
                Some(_) => {}
                None => return Ok(Value::Array(texts)),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let name = name.as_ref();
            let value = if matches!(self.kept, Kept::Nothing | Kept::Texts) {
                map.next_value::<IgnoredAny>()?;
                continue;
            } else if TIMES.contains(&name) && !self.are_times_read {
                map.next_value::<IgnoredAny>()?;
                // Something that is no time.
                Value::Bool(false)
            } else if FIELDS.contains(&name) {
                map.next_value_seed(Self { kept: Kept::Nothing, ..self })?
            } else if name == VOLUMES && self.are_volumes_read {
                map.next_value_seed(Self { kept: Kept::Texts, ..self })?
            } else if name == DATA && self.kept == Kept::FieldsAndData {
                map.next_value_seed(Self { kept: Kept::Fields, ..self })?
            } else {
                map.next_value::<IgnoredAny>()?;
                if !MARKS.contains(&name) {
                    continue;
                }
                Value::Null
            };
            fields.insert(name.to_owned(), value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_ours_is_skipped_whatever_it_is() {
        let deep = "[".repeat(30_000) + &"]".repeat(30_000);
        for ignored in ["\"\\ud83d\"", "1e400", "[[]]", r#"{"thread_id":"other"}"#, "-0.0e-999", deep.as_str()] {
            let body = format!("{{\"other\":{ignored},\"thread_id\":\"t-1\",\"other\":0,\"\\udc00\":1}}");
            assert_eq!(read(body.as_bytes()), Ok(json!({ "thread_id": "t-1" })), "{ignored:.50}");
        }
        assert_eq!(
            read(b"\xef\xbb\xbf{\"caf\xe9\":\"\xff\",\"thread_id\":\"t-1\"}"),
            Ok(json!({ "thread_id": "t-1" }))
        );
    }

    #[test]
    fn data_in_data_is_read_once() {
        let body = br#"{"data":{"thread_id":"t-1","data":{"thread_id":"t-2"},"id":{"a":1},"host":["a"]}}"#;
        let expected = json!({ "data": { "thread_id": "t-1", "id": {}, "host": [] } });
        assert_eq!(read(body), Ok(expected));
    }

    #[test]
    fn of_the_list_of_volumes_the_first_texts_are_kept() {
        let list =
            (0..40).map(|number| format!(r#""v{number}",{number},["x"],{{"a":"b"}}"#)).collect::<Vec<_>>().join(",");
        let kept = read(format!(r#"{{"thread_id":"t-1","volumes":[{list}]}}"#).as_bytes()).expect("JSON");
        let expected: Vec<_> = (0..16).map(|number| format!("v{number}")).collect();
        assert_eq!(kept, json!({ "thread_id": "t-1", "volumes": expected }));
        for (other, expected) in [(r#""v""#, json!("v")), ("{\"a\":1}", json!({})), ("7", json!(7))] {
            let kept = read(format!(r#"{{"volumes":{other}}}"#).as_bytes());
            assert_eq!(kept, Ok(json!({ "volumes": expected })));
        }
        // What can't be parsed in it decides nothing.
        let kept = read(br#"{"thread_id":"t-1","closed_at":"2026-01-01T00:00:00Z","volumes":["a",1e400]}"#);
        assert_eq!(kept, Ok(json!({ "thread_id": "t-1", "closed_at": "2026-01-01T00:00:00Z" })));
    }

    #[test]
    fn halves_of_characters_are_replaced_and_whole_ones_kept() {
        for (escaped, whole) in [
            (r"a\ud83d\ude00", r"a\ud83d\ude00"),
            (r"\ud83d", r"\ufffd"),
            (r"\ud83dx\ude00\n", r"\ufffdx\ufffd\n"),
            (r"\\ud83d", r"\\ud83d"),
            (r"\ud83d\ud83d\ude00", r"\ufffd\ud83d\ude00"),
            (r"\u00e9\", r"\u00e9\"),
            ("\\é", "\\é"),
        ] {
            assert_eq!(whole_characters(escaped), whole, "{escaped}");
        }
    }

    #[test]
    fn a_time_that_is_no_number_is_something_that_is_no_time() {
        let read = read(br#"{"thread_id":"t-1","closed_at":1e400}"#);
        assert_eq!(read, Ok(json!({ "thread_id": "t-1", "closed_at": false })));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, place) in [("{", "line 1, column 1"), ("{}\n x", "line 2, column 2"), ("nope", "line 1, column 2")] {
            assert_eq!(read(text.as_bytes()), Err(format!("it is not JSON ({place})")), "{text}");
        }
    }
}
