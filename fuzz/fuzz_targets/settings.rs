//! A file of settings, and environment variables before it: taken, or refused with words.
#![no_main]

use std::{collections::HashMap, path::PathBuf};

use libfuzzer_sys::fuzz_target;
use volume_reaper::config::Config;

// Lines up to an empty one are variables, the rest is the file.
fuzz_target!(|input: &str| {
    let (variables, file) = input.split_once("\n\n").unwrap_or(("", input));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    // What names a file would have it read.
    let env: HashMap<_, _> = variables
        .filter(|(name, _)| !name.contains("FILE") && !name.contains("PATH"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if let Err(error) = Config::load(|_| None, &env, Some((PathBuf::from("reaper.toml"), file.to_owned()))) {
        assert!(!error.to_string().is_empty());
    }
});
