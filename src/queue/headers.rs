//! The headers that we set, and which of a message's own properties travel on with it.

use chrono::{DateTime, SecondsFormat, Utc};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Map, Value};

/// What the names of our headers begin with.
const OUR_PREFIX: &str = "volume-reaper-";
/// How often the delivery was tried; absent before the first retry.
pub(super) const ATTEMPT: &str = "volume-reaper-attempt";
/// Why it waits or is parked, for machines.
pub(super) const REASON: &str = "volume-reaper-reason";
/// Why, for people; at most [`MAX_ERROR_BYTES`].
pub(super) const ERROR: &str = "volume-reaper-error";
/// When we first gave it back or parked it, RFC 3339.
pub(super) const FIRST_SEEN: &str = "volume-reaper-first-seen";
/// When we parked it, RFC 3339.
pub(super) const PARKED_AT: &str = "volume-reaper-parked-at";
/// When it was last replayed, RFC 3339; stays on the message from then on.
pub(super) const REPLAYED: &str = "volume-reaper-replayed";
/// How often it was replayed; stays on the message too.
const REPLAYS: &str = "volume-reaper-replays";

/// Set on the event of a thread that was reopened, whose routing key is lost on its way: that is the delay queue's.
pub(super) const REOPENED: &str = "volume-reaper-reopened";
/// Set on the event of one host's thread that was handed back, whose routing key is lost likewise.
const HOST: &str = "volume-reaper-host";

/// All headers of a message are in one frame: if they are larger, the broker closes the connection.
pub(super) const MAX_ERROR_BYTES: usize = 1024;
/// The headers that we set.
pub(super) const OURS: [&str; 9] = [ATTEMPT, REASON, ERROR, FIRST_SEEN, PARKED_AT, REPLAYED, REPLAYS, REOPENED, HOST];
/// More attempts than any retry schedule has: what a forged header says beyond that changes nothing.
const MOST_ATTEMPTS: usize = 1000;
/// Persistent: a retry survives the broker's restart.
const PERSISTENT: u8 = 2;

/// How often the delivery was tried before; what is no sensible number counts as never.
pub(super) fn failed_attempts(properties: &BasicProperties) -> usize {
    let value = properties.headers().as_ref().and_then(|headers| headers.inner().get(ATTEMPT));
    value.and_then(integer).and_then(|attempts| usize::try_from(attempts).ok()).unwrap_or(0).min(MOST_ATTEMPTS)
}

/// How often the broker delivered the message before and had it back, as far as it says so.
pub(super) fn deliveries(properties: &BasicProperties) -> i64 {
    let count = properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count"));
    count.and_then(integer).unwrap_or(0)
}

/// The headers with text.
pub(super) fn texts(properties: &BasicProperties) -> Vec<(&str, &str)> {
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    headers.filter_map(|(key, value)| Some((key.as_str(), text(value)?))).collect()
}

/// Whether the message is known to us as the event of a thread that was reopened.
pub(super) fn is_reopened(properties: &BasicProperties) -> bool {
    properties.headers().as_ref().is_some_and(|headers| headers.contains_key(REOPENED))
}

/// A message, known from now on as the event of a thread that was reopened.
pub(super) fn reopened(properties: BasicProperties) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(REOPENED.into(), AMQPValue::Boolean(true));
    properties.with_headers(headers)
}

/// The host whose event the message is, if it was handed back and came by that host's routing key.
pub(super) fn host(properties: &BasicProperties) -> Option<&str> {
    text(properties.headers().as_ref()?.inner().get(HOST)?)
}

/// The properties of the same message for the end of the queue that it came from, with what its routing key said.
pub(super) fn handed_back(original: &BasicProperties, is_reopened: bool, host: Option<&str>) -> BasicProperties {
    let mut headers = headers_without(original, is_the_brokers);
    if is_reopened {
        headers.insert(REOPENED.into(), AMQPValue::Boolean(true));
    }
    if let Some(host) = host {
        headers.insert(HOST.into(), long(host));
    }
    same_message(original, headers)
}

/// The properties of the same message for its next stop: a delay queue or the dead-letter queue.
pub(super) fn onward(original: &BasicProperties, attempt: usize, reason: &str, error: &str) -> BasicProperties {
    let mut headers = headers_without(original, is_the_brokers);
    headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(i64::try_from(attempt).unwrap_or(i64::MAX)));
    headers.insert(REASON.into(), long(reason));
    headers.insert(ERROR.into(), long(cut(error, MAX_ERROR_BYTES)));
    if !headers.contains_key(FIRST_SEEN) {
        headers.insert(FIRST_SEEN.into(), now());
    }
    same_message(original, headers)
}

/// The properties of the same message for the dead-letter queue.
pub(super) fn parked(original: &BasicProperties, attempt: usize, reason: &str, error: &str) -> BasicProperties {
    let onward = onward(original, attempt, reason, error);
    let mut headers = onward.headers().clone().unwrap_or_default();
    headers.insert(PARKED_AT.into(), now());
    onward.with_headers(headers)
}

/// The properties of the same message for another beginning: nothing of ours is left but the mark that it is one, and
/// what it is.
pub(super) fn replay(original: &BasicProperties) -> BasicProperties {
    let is_past = |key: &str| key.starts_with(OUR_PREFIX) && ![REOPENED, HOST].contains(&key);
    let mut headers = headers_without(original, |key| is_the_brokers(key) || is_past(key));
    headers.insert(REPLAYED.into(), now());
    let replays = i64::try_from(replays(original)).unwrap_or(i64::MAX).saturating_add(1);
    headers.insert(REPLAYS.into(), AMQPValue::LongLongInt(replays));
    same_message(original, headers)
}

/// When the message was last replayed, if ever.
pub(super) fn replayed(properties: &BasicProperties) -> Option<&str> {
    text(properties.headers().as_ref()?.inner().get(REPLAYED)?)
}

/// How often the message was replayed; once, if it only says when.
pub(super) fn replays(properties: &BasicProperties) -> u64 {
    let said = properties.headers().as_ref().and_then(|headers| headers.inner().get(REPLAYS)).and_then(integer);
    let said = said.and_then(|replays| u64::try_from(replays).ok()).unwrap_or(0);
    said.max(u64::from(replayed(properties).is_some()))
}

/// Why and when the broker dead-lettered the message by itself, if it did. The newest death is the first of the list
/// (RabbitMQ, "Dead Letter Exchanges, effects on headers").
pub(super) fn last_death(properties: &BasicProperties) -> Option<(Option<&str>, Option<DateTime<Utc>>)> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    let reason = death.inner().get("reason").and_then(text);
    let time = death.inner().get("time").and_then(|time| {
        let AMQPValue::Timestamp(seconds) = time else { return None };
        DateTime::from_timestamp(i64::try_from(*seconds).ok()?, 0)
    });
    Some((reason, time))
}

/// Headers as JSON, for people and their programs.
pub(super) fn json(headers: &FieldTable) -> Map<String, Value> {
    headers.inner().iter().map(|(key, value)| (key.as_str().to_owned(), json_of(value))).collect()
}

fn json_of(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => format!("{}e-{}", value.value, value.scale).into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => String::from_utf8_lossy(value.as_bytes()).into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(json_of).collect(),
        AMQPValue::Timestamp(seconds) => {
            let time = i64::try_from(*seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
            time.map_or_else(|| (*seconds).into(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true).into())
        }
        AMQPValue::FieldTable(table) => json(table).into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::Void => Value::Null,
    }
}

fn headers_without(original: &BasicProperties, is_left: impl Fn(&str) -> bool) -> FieldTable {
    let mut headers = FieldTable::default();
    for (key, value) in original.headers().iter().flat_map(FieldTable::inner) {
        if !is_left(key.as_str()) {
            headers.insert(key.clone(), value.clone());
        }
    }
    headers
}

/// The properties of the same message with other headers.
///
/// Copied are the properties that describe the message. Left behind are those that would act on the broker: an
/// expiration would delete the message where it waits, a user id is refused from another user's connection, `CC` and
/// `BCC` would route copies, and `x-death` and its like are the broker's own.
fn same_message(original: &BasicProperties, headers: FieldTable) -> BasicProperties {
    let mut copy = BasicProperties::default().with_headers(headers).with_delivery_mode(PERSISTENT);
    if let Some(content_type) = original.content_type().clone() {
        copy = copy.with_content_type(content_type);
    }
    if let Some(content_encoding) = original.content_encoding().clone() {
        copy = copy.with_content_encoding(content_encoding);
    }
    if let Some(message_id) = original.message_id().clone() {
        copy = copy.with_message_id(message_id);
    }
    if let Some(correlation_id) = original.correlation_id().clone() {
        copy = copy.with_correlation_id(correlation_id);
    }
    if let Some(timestamp) = *original.timestamp() {
        copy = copy.with_timestamp(timestamp);
    }
    if let Some(kind) = original.kind().clone() {
        copy = copy.with_type(kind);
    }
    if let Some(app_id) = original.app_id().clone() {
        copy = copy.with_app_id(app_id);
    }
    copy
}

fn now() -> AMQPValue {
    long(&Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn is_the_brokers(key: &str) -> bool {
    matches!(key, "CC" | "BCC" | "x-delivery-count" | "x-acquired-count")
        || ["x-death", "x-first-death", "x-last-death"].iter().any(|prefix| key.starts_with(prefix))
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::ShortString(text) => Some(text.as_str()),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::Boolean(_)
        | AMQPValue::ShortShortInt(_)
        | AMQPValue::ShortShortUInt(_)
        | AMQPValue::ShortInt(_)
        | AMQPValue::ShortUInt(_)
        | AMQPValue::LongInt(_)
        | AMQPValue::LongUInt(_)
        | AMQPValue::LongLongInt(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::Boolean(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::ShortString(_)
        | AMQPValue::LongString(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

/// The beginning of a text, at most `limit` bytes, cut between characters.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers_of(properties: &BasicProperties) -> &FieldTable {
        properties.headers().as_ref().expect("headers are set")
    }

    #[test]
    fn the_attempt_is_counted_in_our_own_header() {
        let first = BasicProperties::default();
        assert_eq!(failed_attempts(&first), 0);
        let second = onward(&first, 1, "transient", "x");
        assert_eq!(failed_attempts(&second), 1);
        assert_eq!(failed_attempts(&onward(&second, 2, "transient", "x")), 2);
    }

    #[test]
    fn a_senseless_attempt_header_counts_as_none() {
        for value in [AMQPValue::LongLongInt(-1), AMQPValue::LongString("7".into()), AMQPValue::Void] {
            let mut headers = FieldTable::default();
            headers.insert(ATTEMPT.into(), value);
            assert_eq!(failed_attempts(&BasicProperties::default().with_headers(headers)), 0);
        }
    }

    #[test]
    fn only_text_is_handed_on_as_text() {
        let mut headers = FieldTable::default();
        headers.insert("long".into(), AMQPValue::LongString("l".into()));
        headers.insert("short".into(), AMQPValue::ShortString("s".into()));
        headers.insert("number".into(), AMQPValue::LongLongInt(1));
        headers.insert("no-text".into(), AMQPValue::LongString(vec![0xff].into()));
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(texts(&properties), [("long", "l"), ("short", "s")]);
        assert_eq!(texts(&BasicProperties::default()), []);
    }

    #[test]
    fn what_would_act_on_the_broker_is_left_behind() {
        let mut headers = FieldTable::default();
        for key in ["CC", "BCC", "x-death", "x-first-death-queue", "traceparent"] {
            headers.insert(key.into(), AMQPValue::LongString("v".into()));
        }
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_expiration("1000".into())
            .with_user_id("guest".into())
            .with_message_id("m-1".into());
        let onward = onward(&original, 1, "transient", "x");
        assert_eq!(onward.expiration(), &None);
        assert_eq!(onward.user_id(), &None);
        assert_eq!(onward.message_id().as_ref().map(lapin::types::ShortString::as_str), Some("m-1"));
        let mut kept: Vec<_> = headers_of(&onward).inner().keys().map(|key| key.as_str().to_owned()).collect();
        kept.retain(|key| !key.starts_with("volume-reaper-"));
        assert_eq!(kept, ["traceparent"]);
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let onward = onward(&BasicProperties::default(), 1, "transient", &"é".repeat(2000));
        let AMQPValue::LongString(error) = &headers_of(&onward).inner()[ERROR] else { panic!("a text") };
        assert_eq!(error.len(), 1024);
        assert_eq!(cut("aé", 2), "a");
    }

    fn values() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<i32>().prop_map(AMQPValue::LongInt),
            any::<u8>().prop_map(AMQPValue::ShortShortUInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            any::<f64>().prop_map(AMQPValue::Double),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| AMQPValue::LongString(bytes.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|values| AMQPValue::FieldArray(values.into())),
                prop::collection::vec(("[a-z-]{0,8}", inner), 0..4).prop_map(|fields| {
                    let mut table = FieldTable::default();
                    for (name, value) in fields {
                        table.insert(name.into(), value);
                    }
                    AMQPValue::FieldTable(table)
                }),
            ]
        })
    }

    proptest! {
        /// Whatever headers a publisher sets: they are read, counted within bounds, and travel on under our count.
        #[test]
        fn no_header_breaks_the_way_of_a_message(
            headers in prop::collection::vec(
                (
                    prop_oneof![
                        prop::sample::select(OURS.to_vec()).prop_map(str::to_owned),
                        "x-death|CC|[a-z-]{0,12}",
                    ],
                    values(),
                ),
                0..8,
            ),
            error in ".{0,2000}",
            attempt in 0usize..2000,
        ) {
            let mut table = FieldTable::default();
            for (name, value) in headers {
                table.insert(name.into(), value);
            }
            let original = BasicProperties::default().with_headers(table);
            prop_assert!(failed_attempts(&original) <= MOST_ATTEMPTS);
            let _ = (texts(&original), host(&original), replayed(&original));
            let _ = (last_death(&original), deliveries(&original));
            let _ = json(headers_of(&original));
            let moved = parked(&original, attempt, "exhausted", &error);
            prop_assert_eq!(failed_attempts(&moved), attempt.min(MOST_ATTEMPTS));
            prop_assert!(!headers_of(&moved).contains_key("x-death"));
            let error = headers_of(&moved).inner().get(ERROR).and_then(text).map_or(0, str::len);
            prop_assert!(error <= MAX_ERROR_BYTES, "{error}");
            prop_assert_eq!(failed_attempts(&replay(&moved)), 0);
        }
    }
}
