//! Removals that ask for a permit, are sent, end and are detached, in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokio::runtime::Builder;
use volume_reaper::cleanup::fuzzed_limiter::use_limiter;

fuzz_target!(|input: &[u8]| {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(use_limiter(input));
});
