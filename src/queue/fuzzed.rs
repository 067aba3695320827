//! What the fuzzer throws bytes at: what a publisher and a broker may send.

use lapin::types::FieldTable;

use super::{
    greeting::{greeting_length, read_greeting},
    header_size, headers,
    management::{answered, harms_of},
    properties::read_properties,
    raw_parts::delivered,
};

/// The smallest frame that RabbitMQ agrees on, in bytes, and its default.
const FRAMES: [u32; 2] = [4096, 131_072];

/// Properties as they stand in a frame: read or refused, and what is read travels on under our own count, and fits.
///
/// # Panics
///
/// If they do not.
pub fn publisher(bytes: &[u8]) {
    let Ok(mut properties) = read_properties(bytes) else { return };
    let _ = header_size::exceed_frames(&properties);
    header_size::take_deep(&mut properties);
    let attempt = headers::failed_attempts(&properties);
    let _ = (headers::texts(&properties), headers::host(&properties), headers::replayed(&properties));
    let _ = (headers::last_death(&properties), headers::deliveries(&properties));
    let _ = headers::json(properties.headers().as_ref().unwrap_or(&FieldTable::default()));
    let moved = headers::parked(&properties, attempt, "exhausted", "an error");
    assert_eq!(headers::failed_attempts(&moved), attempt);
    assert_eq!(headers::failed_attempts(&headers::replay(&moved)), 0);
    for frame_max in FRAMES {
        assert_eq!(headers::failed_attempts(&header_size::fitting(moved.clone(), frame_max)), attempt);
    }
}

/// What a broker says: its greeting, a method that delivers, and what its management API answers.
///
/// # Panics
///
/// If one is taken for what it is not.
pub fn broker(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        let _ = greeting_length(*head);
    }
    let _ = (read_greeting(bytes), delivered(bytes));
    if let Ok(facts) = answered(&String::from_utf8_lossy(bytes)) {
        for harm in harms_of("queue", bytes.len() % 2 == 0, &facts) {
            assert!(!harm.sets.is_empty());
        }
    }
}
