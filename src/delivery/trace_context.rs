//! The trace that a message belongs to, read from a `traceparent` as
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header) has it.
//!
//! It is named in the log lines about the message. What does not fit the specification is ignored, as it demands.
//! `tracestate` is the tracing systems' own: it travels on with the message, unread.

/// Which trace, and which span of it sent the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext<'a> {
    /// 32 hexadecimal digits.
    pub trace_id: &'a str,
    /// 16 hexadecimal digits.
    pub parent_span_id: &'a str,
    /// Whether the sender's own span is recorded.
    pub is_sampled: bool,
}

impl<'a> TraceContext<'a> {
    /// Reads `VERSION-TRACE_ID-PARENT_ID-FLAGS`. A version after 00 may append to that; there is no version ff.
    #[must_use]
    pub fn parse(traceparent: &'a str) -> Option<Self> {
        let mut fields = traceparent.splitn(5, '-');
        let version = hexadecimal(fields.next()?, 2).filter(|version| *version != "ff")?;
        let trace_id = hexadecimal(fields.next()?, 32).filter(|id| !is_zero(id))?;
        let parent_span_id = hexadecimal(fields.next()?, 16).filter(|id| !is_zero(id))?;
        let flags = u8::from_str_radix(hexadecimal(fields.next()?, 2)?, 16).ok()?;
        if version == "00" && fields.next().is_some() {
            return None;
        }
        Some(Self { trace_id, parent_span_id, is_sampled: flags & 1 == 1 })
    }
}

/// In lower case only: two spellings of one id would be two ids to whoever searches for them.
fn hexadecimal(field: &str, digits: usize) -> Option<&str> {
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (field.len() == digits && field.bytes().all(is_digit)).then_some(field)
}

fn is_zero(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_trace_and_its_span_are_read() {
        let traceparent = format!("00-{TRACE}-{SPAN}-01");
        let context = TraceContext::parse(&traceparent).expect("valid");
        assert_eq!((context.trace_id, context.parent_span_id), (TRACE, SPAN));
    }

    #[test]
    fn a_later_version_may_say_more() {
        assert!(TraceContext::parse(&format!("cc-{TRACE}-{SPAN}-00")).is_some());
        assert!(TraceContext::parse(&format!("cc-{TRACE}-{SPAN}-00-what-the-future-brings")).is_some());
        assert!(TraceContext::parse(&format!("cc-{TRACE}-{SPAN}-00.what")).is_none());
    }

    #[test]
    fn what_does_not_fit_is_ignored() {
        for traceparent in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", "é".repeat(16)),
        ] {
            assert_eq!(TraceContext::parse(&traceparent), None, "{traceparent}");
        }
    }
}
