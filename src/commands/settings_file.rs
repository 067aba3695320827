//! All settings as a file of `--config`, each with its explanation and commented out.

use super::init::Findings;
use crate::config::{SETTINGS, Setting};

/// No line of the file is longer.
const COLUMNS: usize = 100;

/// The file. What is commented out is the default, or an empty text where there is none; what was found is said above
/// its setting, and set where it is another than the default.
pub(super) fn commented(findings: &Findings) -> String {
    let mut text = String::from(
        "# The settings of Volume Reaper. What is commented out is the default; environment variables and\n\
         # flags win over this file. It may hold passwords: keep it from others (mode 0640).\n",
    );
    for Setting { key, env, default, help, .. } in SETTINGS.iter().copied() {
        text.push('\n');
        let found = findings.iter().find(|(of, _)| of == key).map(|(_, found)| found);
        let says = found.filter(|found| !found.says.is_empty()).map(|found| format!("Found: {}", found.says));
        for line in wrapped(&format!("{help} [{env}]")).into_iter().chain(says) {
            text.extend(["# ", &line, "\n"]);
        }
        match found.and_then(|found| found.value.as_deref()).filter(|value| value != default) {
            Some(other) => text.extend([key, " = ", &value(other), "\n"]),
            None => text.extend(["#", key, " = ", &value(default), "\n"]),
        }
    }
    text.push_str(
        "\n# In place of docker_host and docker_hosts, a table for each daemon; its last two lines may be left out.\n\
         #[[docker.hosts]]\n#name = \"docker-1\"\n#endpoint = \"tcp://docker-1:2376\"\n\
         #cert_path = \"/etc/volume-reaper/docker-1\"\n#concurrency = 4\n",
    );
    text
}

/// A default as TOML writes it.
fn value(default: &str) -> String {
    let is_number = !default.is_empty() && default.bytes().all(|byte| byte.is_ascii_digit());
    if is_number || ["true", "false"].contains(&default) { default.to_owned() } else { format!("{default:?}") }
}

/// The words of a text in lines of [`COLUMNS`] at most.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            word.clone_into(line);
        } else if line.len() + word.len() + 3 > COLUMNS {
            lines.push(word.to_owned());
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::PathBuf};

    use super::*;
    use crate::config::Config;

    /// The settings as a file with this text makes them.
    fn loaded(text: String) -> Config {
        let file = Some((PathBuf::from("config.toml"), text));
        Config::load(|_| None, &HashMap::new(), file).expect("valid")
    }

    #[test]
    fn it_changes_nothing_as_it_stands() {
        let defaults = Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
        assert_eq!(format!("{:?}", loaded(commented(&Vec::new()))), format!("{defaults:?}"));
    }

    #[test]
    fn nothing_changes_when_every_default_is_set() {
        let text = commented(&Vec::new());
        let (settings, _) = text.split_once("\n# In place of docker_host").expect("the hosts");
        let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        let set: Vec<_> = settings.lines().filter(is_setting).map(|line| &line[1..]).collect();
        assert_eq!(set.len(), SETTINGS.len());
        let defaults = Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
        assert_eq!(format!("{:?}", loaded(set.join("\n"))), format!("{defaults:?}"));
    }

    #[test]
    fn its_hosts_are_hosts() {
        let text = commented(&Vec::new());
        let (_, hosts) = text.split_once("may be left out.\n").expect("the hosts");
        // Those certificates are on the machine that it is written for.
        let lines = hosts.lines().filter(|line| !line.contains("cert_path"));
        let config = loaded(lines.map(|line| &line[1..]).collect::<Vec<_>>().join("\n"));
        assert_eq!(config.docker_hosts.len(), 1);
    }

    #[test]
    fn its_lines_are_short() {
        assert!(commented(&Vec::new()).lines().all(|line| line.len() <= COLUMNS + 10));
    }
}
