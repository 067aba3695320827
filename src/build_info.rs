//! What this program was made of: its version, the revision of its source, and the machine that it is for.

/// The version, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision of the source, as who built it said by `BUILD_REVISION`.
pub const REVISION: &str = match option_env!("BUILD_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    Some(_) | None => "unknown",
};

/// One line for `--version`, behind the program's name.
#[must_use]
pub fn one_line() -> String {
    let library = if cfg!(target_env = "musl") { "static" } else { "dynamic" };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("{VERSION} (revision {REVISION}, {} {library} {profile})", std::env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_begins_with_the_version_alone() {
        let line = one_line();
        assert!(line.starts_with(&format!("{VERSION} (revision {REVISION}, ")), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
