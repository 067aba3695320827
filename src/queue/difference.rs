//! What the broker says of a queue that is there with other arguments than ours.

use lapin::types::AMQPValue;

/// An argument that differs, read from the broker's text, such as `PRECONDITION_FAILED - inequivalent arg
/// 'x-delivery-limit' for queue 'q' in vhost '/': received the value '1000' of type 'long' but current is none`.
pub(super) struct Difference {
    pub(super) argument: String,
    /// What is there; `None` if the argument is not.
    pub(super) current: Option<AMQPValue>,
    /// For people.
    pub(super) text: String,
}

impl Difference {
    pub(super) fn read(text: &str) -> Option<Self> {
        let (argument, rest) = text.split_once("inequivalent arg '")?.1.split_once('\'')?;
        let (_, values) = rest.split_once(": received ")?;
        let (received, current) = values.split_once(" but current is ")?;
        let value = if current == "none" {
            None
        } else {
            let (value, kind) = current.strip_prefix("the value '")?.rsplit_once("' of type '")?;
            Some(match kind.trim_end_matches('\'') {
                "longstr" => AMQPValue::LongString(value.into()),
                "bool" => AMQPValue::Boolean(value == "true"),
                _ => AMQPValue::LongLongInt(value.parse().ok()?),
            })
        };
        let text = format!("{argument} would be {received} but is {current}");
        Some(Self { argument: argument.to_owned(), current: value, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_read_from_the_brokers_text() {
        let read = |values: &str| {
            let text = format!("PRECONDITION_FAILED - inequivalent arg 'x-a' for queue 'q: b' in vhost '/': {values}");
            Difference::read(&text).map(|difference| (difference.argument, difference.current, difference.text))
        };
        let (number, text) = ("the value '7' of type 'signedint'", "the value 'it's' of type 'longstr'");
        assert_eq!(
            read(&format!("received none but current is {number}")),
            Some(("x-a".to_owned(), Some(AMQPValue::LongLongInt(7)), format!("x-a would be none but is {number}")))
        );
        assert_eq!(
            read(&format!("received {number} but current is {text}")).and_then(|(_, current, _)| current),
            Some(AMQPValue::LongString("it's".into()))
        );
        assert_eq!(read(&format!("received {number} but current is none")).map(|(_, current, _)| current), Some(None));
        assert_eq!(read("received 'true' but current is 'false'"), None);
    }
}
