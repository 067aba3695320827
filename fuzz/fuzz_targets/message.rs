//! Bytes of a message and of its headers: read or refused, and what is read has an id that is one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use volume_reaper::{
    delivery::{envelope, event::ThreadEvent},
    volume_name::ThreadId,
};

// The first line is the content type, the lines up to an empty one are headers, the rest is the body.
fuzz_target!(|input: &[u8]| {
    let at = input.windows(2).position(|two| two == b"\n\n");
    let (head, body) = at.map_or((&b""[..], input), |at| (&input[..at], &input[at + 2..]));
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let content_type = lines.next().filter(|line| !line.is_empty());
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
    let Ok(opened) = envelope::open(body, content_type, &headers) else { return };
    let _ = envelope::traceparents(&headers).count();
    let Ok(event) = ThreadEvent::read(&opened.data) else { return };
    assert!(ThreadId::parse(event.thread_id.as_str()).is_ok());
    let again = ThreadEvent::decode(&event.encode()).expect("what is written is read");
    assert_eq!(again.thread_id, event.thread_id);
});
