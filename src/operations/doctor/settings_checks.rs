//! Settings that are valid by themselves, and do not go together with what is outside.

use std::time::Duration;

use super::findings::Check;
use crate::{config::Config, store::locking};

/// How long a broker lets a delivery go without an answer before it takes the consumer for stuck: RabbitMQ's default
/// (its documentation, "Consumers, delivery acknowledgement timeout").
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);

pub(super) fn verdicts(config: &Config) -> Vec<Check> {
    vec![longest_wait(config.docker_timeout, locking(&config.database_url, config.lock_limit).limit)]
}

/// A delivery waits until its removal can be sent, and then for the removal as long as its row stays locked.
fn longest_wait(docker_timeout: Duration, lock_limit: Duration) -> Check {
    let name = "settings.docker_timeout";
    let longest = docker_timeout.saturating_add(lock_limit);
    let why = format!("a delivery may wait {} for Docker", humantime::format_duration(longest));
    if longest < CONSUMER_TIMEOUT {
        return Check::ok(name, why);
    }
    Check::warn(
        name,
        format!("{why}; after 30 minutes RabbitMQ takes a consumer for stuck"),
        "lower VOLUME_REAPER_DOCKER_TIMEOUT",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::operations::doctor::findings::Status;

    fn status(docker_timeout: &str) -> Status {
        let flags = HashMap::from([("docker_timeout", docker_timeout.to_owned())]);
        let config = Config::load(|key| flags.get(key).cloned(), &HashMap::new(), None).expect("valid");
        verdicts(&config)[0].status
    }

    #[test]
    fn a_wait_that_is_longer_than_the_brokers_timeout_is_a_warning() {
        assert_eq!(status("29m"), Status::Ok);
        assert_eq!(status("30m"), Status::Warn);
    }
}
