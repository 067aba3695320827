//! A message's properties, as bytes of a frame: read or refused, and what is read travels on within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use volume_reaper::queue::fuzzed;

fuzz_target!(|input: &[u8]| fuzzed::publisher(input));
