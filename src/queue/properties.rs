//! Whether a message's properties can be read by the library, and read at once.

use lapin::{BasicProperties, protocol::basic::parse_properties};

/// Tables and lists within each other. The library's parser goes down level by level, and its time grows with their
/// square: 26,000 fit into a frame. The broker's own `x-death` has three.
const MOST_LEVELS: usize = 64;

/// As the library reads them, or why it does not.
pub(super) fn read_properties(bytes: &[u8]) -> Result<BasicProperties, &'static str> {
    if nests_too_deep(bytes).unwrap_or(false) {
        return Err("its headers nest too deep");
    }
    match parse_properties(bytes) {
        Ok(([], properties)) => Ok(properties),
        Ok(_) | Err(_) => {
            Err("its properties can't be read: message id, content type and the names of headers have to be UTF-8")
        }
    }
}

/// `None` for what is no list of properties; that is for the parser to say.
fn nests_too_deep(bytes: &[u8]) -> Option<bool> {
    let flags = u16::from_be_bytes(*bytes.first_chunk()?);
    let mut at = 2;
    // Content type and content encoding come before the headers.
    for flag in [0x8000, 0x4000] {
        if flags & flag != 0 {
            at += 1 + usize::from(*bytes.get(at)?);
        }
    }
    if flags & 0x2000 == 0 {
        return Some(false);
    }
    let length = |at: usize| usize::try_from(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?)).ok();
    // Where each open table or list ends, and whether it is a table.
    let mut open = vec![(at + 4 + length(at)?, true)];
    at += 4;
    while let Some(&(end, is_table)) = open.last() {
        if at >= end {
            open.pop();
            continue;
        }
        if is_table {
            at += 1 + usize::from(*bytes.get(at)?);
        }
        let kind = *bytes.get(at)?;
        at += 1;
        at += match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' => 4 + length(at)?,
            b'A' | b'F' => {
                open.push((at + 4 + length(at)?, kind == b'F'));
                4
            }
            _ => return None,
        };
        if open.len() > MOST_LEVELS {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Vec<u8> {
        let mut value = b"V".to_vec();
        for _ in 0..levels {
            let mut outer = b"A".to_vec();
            outer.extend(u32::try_from(value.len()).expect("32 bits").to_be_bytes());
            outer.extend(value);
            value = outer;
        }
        let mut table = b"\x01x".to_vec();
        table.extend(value);
        table.extend(b"\x01yt\x01");
        let mut bytes = vec![0xa0, 0, 4, b'a', b'/', b'b', b'c'];
        bytes.extend(u32::try_from(table.len()).expect("32 bits").to_be_bytes());
        bytes.extend(table);
        bytes
    }

    #[test]
    fn headers_that_nest_too_deep_are_told_without_being_parsed() {
        assert!(read_properties(&nested(MOST_LEVELS - 1)).is_ok());
        for levels in [MOST_LEVELS, 5000] {
            assert_eq!(read_properties(&nested(levels)), Err("its headers nest too deep"), "{levels}");
        }
    }

    #[test]
    fn properties_that_are_no_utf_8_are_told() {
        // A message id, and a content type.
        for bytes in [&[0, 0x80, 3, 0xff, 0xfe, 0xfa][..], &[0x80, 0, 3, 0xff, 0xfe, 0xfa], &[0x20, 0, 0, 0, 0, 9]] {
            assert!(read_properties(bytes).is_err(), "{bytes:?}");
        }
        // A header's value need not be.
        let header = [&[0x20, 0, 0, 0, 0, 12, 3][..], b"abcS", &[0, 0, 0, 3, 0xff, 0xfe, 0xfa]].concat();
        assert!(read_properties(&header).is_ok());
    }
}
