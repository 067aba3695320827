//! The table of all settings.

mod clean_up;
mod connections;
mod names;
mod process;
mod tables;

use std::sync::LazyLock;

use self::{
    clean_up::OF_CLEAN_UP, connections::OF_CONNECTIONS, names::OF_NAMES, process::OF_PROCESS, tables::OF_TABLES,
};

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the TOML file; as a flag, with dashes.
    pub key: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// The value if nothing else is said; `""` is none.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Whether its value can hold a password: then it is never repeated.
    pub secret: bool,
}

const fn setting(key: &'static str, env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, env, default, help, secret: false }
}

const fn secret(key: &'static str, env: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, env, default, help, secret: true }
}

/// All settings. The table in `docs/settings.md` is checked against this one.
pub static SETTINGS: LazyLock<Vec<&Setting>> = LazyLock::new(|| {
    let groups = [OF_CONNECTIONS, OF_NAMES, OF_TABLES, OF_CLEAN_UP, OF_PROCESS];
    groups.into_iter().flatten().collect()
});

/// The flag of a setting, such as `--volume-prefix`.
#[must_use]
pub fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_about_settings_has_each_of_them_and_no_other() {
        let code = SETTINGS.iter().map(|Setting { key, env, default, help, .. }| {
            let default = if default.is_empty() { " ".to_owned() } else { format!(" `{default}` ") };
            format!("| `{env}` | `{key}` |{default}| {help} |")
        });
        let page = include_str!("../../../docs/settings.md");
        let table = page.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(table.collect::<Vec<_>>().join("\n"), code.collect::<Vec<_>>().join("\n"));
    }
}
