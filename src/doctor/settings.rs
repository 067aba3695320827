//! Settings that are valid one by one, and do not go together.

use std::time::Duration;

use super::Check;
use crate::config::Config;

/// How long a broker lets a delivery go without an answer before it takes the consumer for stuck: RabbitMQ's default
/// (its documentation, "Consumers, delivery acknowledgement timeout").
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);

pub(super) fn verdicts(config: &Config) -> Vec<Check> {
    let rounds = u32::from(config.prefetch.div_ceil(config.concurrency));
    vec![longest_wait(config.docker_timeout.saturating_mul(rounds), config)]
}

/// The last of the deliveries that were handed over ahead waits for all the removals before it.
fn longest_wait(longest: Duration, config: &Config) -> Check {
    let (longest, limit) = (humantime::format_duration(longest), (longest, CONSUMER_TIMEOUT));
    let why = format!(
        "{} deliveries handed over ahead, {} removals at once of up to {}: the last one may wait {longest}",
        config.prefetch,
        config.concurrency,
        humantime::format_duration(config.docker_timeout)
    );
    if limit.0 < limit.1 {
        return Check::ok("settings.prefetch", why);
    }
    Check::warn(
        "settings.prefetch",
        format!("{why}; after 30 minutes RabbitMQ takes a consumer for stuck"),
        "lower VOLUME_REAPER_PREFETCH or VOLUME_REAPER_DOCKER_TIMEOUT",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::doctor::Status;

    fn status(docker_timeout: &str) -> Status {
        let flags = HashMap::from([("docker_timeout", docker_timeout.to_owned())]);
        let config = Config::load(|key| flags.get(key).cloned(), &HashMap::new(), None).expect("valid");
        verdicts(&config)[0].status
    }

    #[test]
    fn a_prefetch_that_outlasts_the_brokers_patience_is_told() {
        // 32 deliveries, 4 at once: eight rounds.
        assert_eq!(status("2m"), Status::Ok);
        assert_eq!(status("3m"), Status::Ok);
        assert_eq!(status("4m"), Status::Warn);
    }
}
