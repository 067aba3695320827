//! Headers that can't be sent on as they are: larger than a frame, or too deep.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString, generation::gen_field_table},
};
use tracing::warn;

use super::headers::{MAX_ERROR_BYTES, OURS};

/// What a frame with headers holds besides those of others, in bytes: its own head, ours with the error, and a dozen
/// properties of at most 256.
const RESERVED_FRAME_BYTES: usize = 5 * 1024;
/// One of that name that is larger was not set by us.
const MAX_OUR_BYTES: usize = 2 * MAX_ERROR_BYTES;
/// The largest frame that the library takes from RabbitMQ, by default 128 KiB, less what is in it besides headers.
const MOST_HEADER_BYTES: usize = 128 * 1024 - 64;
/// Levels of tables and lists within a header; the broker's own `x-death` has two.
const MOST_LEVELS: usize = 16;

/// Properties with headers that fit into a frame of `frame_max` bytes: what is not one of the few that we set
/// is left behind, the largest first, since the message matters more than they do.
pub(super) fn fitting(properties: BasicProperties, frame_max: u32) -> BasicProperties {
    let limit = usize::try_from(frame_max).unwrap_or(usize::MAX).saturating_sub(RESERVED_FRAME_BYTES);
    let Some(headers) = properties.headers() else { return properties };
    let is_ours = |key: &str, bytes: usize| OURS.contains(&key) && bytes <= MAX_OUR_BYTES;
    let mut others: Vec<_> = (headers.inner().iter())
        .map(|(key, value)| (encoded_bytes(key, value), key.clone()))
        .filter(|(bytes, key)| !is_ours(key.as_str(), *bytes))
        .collect();
    others.sort();
    let mut total: usize = others.iter().map(|(bytes, _)| bytes).sum();
    if total <= limit {
        return properties;
    }
    let mut kept = headers.inner().clone();
    while let Some((bytes, key)) = others.pop_if(|_| total > limit) {
        warn!(header = key.as_str(), bytes, "a header is too large to be sent on, and is left behind");
        kept.remove(&key);
        total -= bytes;
    }
    properties.with_headers(kept.into())
}

/// Whether the headers are larger than any frame that the library takes.
pub(super) fn exceed_frames(properties: &BasicProperties) -> bool {
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    headers.map(|(key, value)| encoded_bytes(key, value)).sum::<usize>() > MOST_HEADER_BYTES
}

/// Takes away the headers that nest deeper than anybody means: what is done with a header is done level by level, and a
/// frame has room for 26,000.
pub(super) fn take_deep(properties: &mut BasicProperties) {
    let Some(headers) = properties.headers() else { return };
    let deep: Vec<_> =
        headers.inner().iter().filter(|(_, value)| nests_deeper(value)).map(|(key, _)| key.clone()).collect();
    if deep.is_empty() {
        return;
    }
    let mut kept = headers.inner().clone();
    for key in deep {
        warn!(header = key.as_str(), "a header nests too deep to be sent on, and is left behind");
        kept.remove(&key);
    }
    *properties = std::mem::take(properties).with_headers(kept.into());
}

/// Whether a value has more than [`MOST_LEVELS`]; looks no deeper.
fn nests_deeper(value: &AMQPValue) -> bool {
    let mut level = vec![value];
    for _ in 0..MOST_LEVELS {
        if level.is_empty() {
            return false;
        }
        level = level.into_iter().flat_map(parts).collect();
    }
    !level.is_empty()
}

fn parts(value: &AMQPValue) -> Vec<&AMQPValue> {
    if let AMQPValue::FieldTable(table) = value {
        table.inner().values().collect()
    } else if let AMQPValue::FieldArray(array) = value {
        array.as_slice().iter().collect()
    } else {
        Vec::new()
    }
}

fn encoded_bytes(key: &ShortString, value: &AMQPValue) -> usize {
    let header = BTreeMap::from([(key.clone(), value.clone())]).into();
    gen_field_table(&header)(Vec::new().into()).map_or(usize::MAX, |written| written.write.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::headers::{ERROR, REASON, REPLAYED};

    fn long(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    fn headers_of(properties: &BasicProperties) -> &FieldTable {
        properties.headers().as_ref().expect("headers are set")
    }

    #[test]
    fn headers_of_others_that_fit_no_frame_are_left_behind_the_largest_first() {
        let mut headers = FieldTable::default();
        for (key, bytes) in [("small", 10), ("large", 100_000), ("larger", 120_000), (REASON, 10)] {
            headers.insert(key.into(), AMQPValue::LongString("x".repeat(bytes).into()));
        }
        let properties = BasicProperties::default().with_headers(headers);
        let kept = |frame_max| {
            let fitting = fitting(properties.clone(), frame_max);
            let kept: Vec<_> = headers_of(&fitting).inner().keys().map(|key| key.as_str().to_owned()).collect();
            kept.join(" ")
        };
        assert_eq!(kept(u32::MAX), "large larger small volume-reaper-reason");
        assert_eq!(kept(131_072), "large small volume-reaper-reason");
        assert_eq!(kept(8192), "small volume-reaper-reason");
        assert_eq!(kept(4096), "volume-reaper-reason");
    }

    #[test]
    fn a_large_header_with_our_prefix_is_left_behind_too() {
        for key in ["volume-reaper-junk", ERROR, REPLAYED] {
            let mut headers = FieldTable::default();
            headers.insert(key.into(), long(&"x".repeat(130_850)));
            headers.insert(REASON.into(), long("undecodable"));
            let fitting = fitting(BasicProperties::default().with_headers(headers), 131_072);
            assert_eq!(headers_of(&fitting).inner().len(), 1, "{key}");
            assert!(headers_of(&fitting).contains_key(REASON), "{key}");
        }
    }

    /// A header that takes so many bytes.
    fn of_bytes(key: &str, bytes: usize) -> FieldTable {
        let of = |text: usize| BTreeMap::from([(key.into(), long(&"x".repeat(text)))]);
        let (key, value) = of(0).pop_first().expect("there is one");
        of(bytes - encoded_bytes(&key, &value)).into()
    }

    #[test]
    fn a_frame_is_filled_to_its_last_byte() {
        let kept = |frame_max, headers: FieldTable| {
            let fitting = fitting(BasicProperties::default().with_headers(headers), frame_max);
            headers_of(&fitting).inner().keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        // 8 KiB, less what is kept free for the rest.
        assert_eq!(kept(8192, of_bytes("fits", 3072)), ["fits"]);
        assert_eq!(kept(8192, of_bytes("over", 3073)), [""; 0]);
        let both = of_bytes("fits", 3072).inner().clone().into_iter().chain(of_bytes("large", 3073).inner().clone());
        assert_eq!(kept(8192, both.collect::<BTreeMap<_, _>>().into()), ["fits"]);
        // Less than 1 KiB is left for those of others, and ours has room of its own.
        assert_eq!(kept(6143, of_bytes(ERROR, 2048)), [ERROR]);
        assert_eq!(kept(6143, of_bytes(ERROR, 2049)), [""; 0]);
    }

    #[test]
    fn headers_exceed_a_frame_by_one_byte() {
        let exceed = |bytes| exceed_frames(&BasicProperties::default().with_headers(of_bytes("k", bytes)));
        assert!(!exceed(131_008));
        assert!(exceed(131_009));
        assert!(!exceed_frames(&BasicProperties::default()));
    }

    #[test]
    fn headers_that_nest_too_deep_are_taken_away_and_no_others() {
        let nested = |levels: usize| {
            (0..levels).fold(AMQPValue::Void, |inner, level| {
                if level % 2 == 0 {
                    AMQPValue::FieldArray(vec![inner].into())
                } else {
                    AMQPValue::FieldTable(BTreeMap::from([("k".into(), inner)]).into())
                }
            })
        };
        let mut headers = FieldTable::default();
        headers.insert("flat".into(), long("x"));
        headers.insert("deep".into(), nested(MOST_LEVELS - 1));
        headers.insert("too-deep".into(), nested(MOST_LEVELS + 1));
        let mut properties = BasicProperties::default().with_headers(headers).with_message_id("m-1".into());
        take_deep(&mut properties);
        let kept: Vec<_> = headers_of(&properties).inner().keys().map(|key| key.as_str().to_owned()).collect();
        assert_eq!(kept, ["deep", "flat"]);
        assert!(properties.message_id().is_some());
    }
}
