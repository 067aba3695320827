//! What servers answer: a daemon to a removal, a broker to whoever greets it. Nothing is taken for what it is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use volume_reaper::{docker::fuzzed_answers, queue::fuzzed};

// A status, and the text.
fuzz_target!(|input: (u16, &[u8])| {
    let (status, text) = input;
    fuzzed_answers::daemon(status, &String::from_utf8_lossy(text));
    // Such as there are.
    fuzzed_answers::daemon([404, 409, 500][usize::from(status % 3)], &String::from_utf8_lossy(text));
    fuzzed::broker(text);
});
