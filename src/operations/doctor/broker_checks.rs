//! What the facts about the broker mean.

use super::{
    findings::{Check, is_loopback, major_minor},
    message_checks::{backlog, dead_letters, message_size, policies, standing_still},
};
use crate::queue::{Answer, Contents, Hello, Inspection, LoginRefused, QueueFacts, Queues, Unreachable};

pub(super) fn verdicts(queues: &Queues, found: &Result<Inspection, Unreachable>) -> Vec<Check> {
    let mut checks = Vec::new();
    match found {
        Err(unreachable) => checks.push(unreachable_verdict(queues, unreachable)),
        Ok(Inspection { hello, login }) => {
            checks
                .push(Check::ok("broker.reachable", format!("{} {} at {}", hello.product, hello.version, queues.url)));
            checks.push(version(hello));
            checks.push(transport(queues));
            match login {
                Err(refused) => checks.push(login_refused(queues, refused)),
                Ok(contents) => {
                    checks.push(Check::ok("broker.login", format!("logged in at {}", queues.url)));
                    match contents {
                        Ok(contents) => checks.extend(contents_verdicts(queues, contents)),
                        Err(error) => checks.push(Check::fail(
                            "broker.topology",
                            format!("{error} (not checked: exchange, queues, permissions)"),
                            "look at the broker's load, alarms and log",
                        )),
                    }
                }
            }
        }
    }
    checks
}

fn unreachable_verdict(queues: &Queues, unreachable: &Unreachable) -> Check {
    let not_amqp;
    let (what, fix) = match unreachable {
        Unreachable::Url(error) => (error, "correct AMQP_URL: amqp://user:password@host:port/vhost"),
        Unreachable::Name(error) => (error, "correct the host in AMQP_URL, or this host's name resolution"),
        Unreachable::Connect(error) => {
            (error, "start the broker, correct host and port in AMQP_URL, or open the firewall")
        }
        Unreachable::Tls(error) => (
            error,
            "is it the broker's TLS port (5671)? Its authority's certificate goes into VOLUME_REAPER_AMQP_CA_FILE, \
             our own into VOLUME_REAPER_AMQP_CERT_FILE and VOLUME_REAPER_AMQP_KEY_FILE",
        ),
        Unreachable::NotAmqp(error) => {
            not_amqp = format!("who listens there does not greet as an AMQP 0-9-1 broker: {error}");
            (
                &not_amqp,
                "correct the port in AMQP_URL: 5672 for amqp://, 5671 (TLS) for amqps://, never 15672 (management)",
            )
        }
    };
    Check::fail(
        "broker.reachable",
        format!("{}: {what} (not checked: version, login, exchange, queues, permissions)", queues.url),
        fix,
    )
}

/// What goes wrong in each version, as it was measured; see the head of `queue/mod.rs`.
fn version(Hello { product, version }: &Hello) -> Check {
    let name = "broker.version";
    if product != "RabbitMQ" {
        let why = format!("{product} {version}: only RabbitMQ is known to do what we rely on");
        return Check::warn(name, why, "use RabbitMQ 3.10 or later, or run our tests against this broker first");
    }
    match major_minor(version) {
        None => Check::warn(
            name,
            format!("RabbitMQ {version}: not a version that we can read"),
            "see that it is 3.10 or later",
        ),
        Some(version_) if version_ < (3, 10) => Check::fail(
            name,
            format!("RabbitMQ {version} can't dead-letter at-least-once: waiting and rejected messages may be lost"),
            "use RabbitMQ 3.10 or later",
        ),
        Some(version_) if version_ < (4, 3) => Check::ok(
            name,
            format!(
                "RabbitMQ {version}; before 4.3 every requeue counts towards the delivery limit, so we hand back by \
                 publishing anew"
            ),
        ),
        Some(_) => Check::ok(name, format!("RabbitMQ {version}")),
    }
}

fn transport(queues: &Queues) -> Check {
    let name = "broker.tls";
    let host = queues.url.host().unwrap_or("localhost");
    if queues.url.scheme() == "amqps" {
        Check::ok(name, "encrypted")
    } else if is_loopback(host) {
        Check::ok(name, "not encrypted, and does not leave this host")
    } else {
        let why = format!("not encrypted: the password and every event can be read on the way to {host}");
        Check::warn(name, why, "use amqps:// (port 5671) in AMQP_URL")
    }
}

fn login_refused(queues: &Queues, refused: &LoginRefused) -> Check {
    let (error, fix) = match refused {
        LoginRefused::Credentials(error) => {
            (error, "correct user and password in AMQP_URL; the user guest may only log in from the broker's own host")
        }
        LoginRefused::VirtualHost(error) => (
            error,
            "correct the virtual host, the last part of AMQP_URL (%2f is /), or create it and give this user \
             permissions on it: rabbitmqctl add_vhost, set_permissions",
        ),
        LoginRefused::Other(error) => (error, "look into the broker's log"),
    };
    Check::fail("broker.login", format!("{}: {error} (not checked: exchange, queues, permissions)", queues.url), fix)
}

fn contents_verdicts(queues: &Queues, contents: &Contents) -> Vec<Check> {
    let mut checks = vec![exchange(queues, contents)];
    checks.extend(contents.queues.iter().map(|queue| queue_verdict(queues, queue)));
    checks.extend(binding(queues, contents));
    checks.extend(permissions(queues, contents));
    checks.push(message_size(contents));
    checks.push(policies(contents));
    checks.extend(standing_still(contents));
    checks.extend(backlog(queues, contents));
    checks.extend(dead_letters(queues, contents));
    checks
}

fn exchange(queues: &Queues, contents: &Contents) -> Check {
    let what = format!("exchange {:?}", queues.exchange);
    let fix = if queues.declared_by_us() {
        "start `volume-reaper serve`, which declares it, or correct VOLUME_REAPER_EXCHANGE"
    } else {
        "declare it on the broker as a durable topic exchange, or correct VOLUME_REAPER_EXCHANGE"
    };
    let anew = "correct VOLUME_REAPER_EXCHANGE, the name of the platform's exchange; if it is ours alone, delete it \
        and start `volume-reaper serve`";
    thing(
        "broker.exchange",
        &what,
        &contents.exchange,
        contents.exchange_as_ours.as_ref(),
        queues.declared_by_us(),
        &Remedies { if_missing: fix, if_different: anew },
    )
}

fn queue_verdict(queues: &Queues, queue: &QueueFacts) -> Check {
    let short = queue.name.strip_prefix(&queues.prefix).unwrap_or(&queue.name);
    let fix = if queues.declared_by_us() {
        "start `volume-reaper serve`, which declares it"
    } else {
        "declare it on the broker, or let serve do it: VOLUME_REAPER_TOPOLOGY=declare"
    };
    let what = format!("queue {:?}", queue.name);
    let anew = format!(
        "delete it once it is empty (stop serve, see that nothing is in it, `rabbitmqctl delete_queue --if-empty {}`) \
         and start `volume-reaper serve`, choose other names (VOLUME_REAPER_QUEUE_PREFIX)",
        queue.name
    );
    thing(
        &format!("broker.queue{short}"),
        &what,
        &queue.there,
        queue.as_ours.as_ref(),
        queues.declared_by_us(),
        &Remedies { if_missing: fix, if_different: &anew },
    )
}

/// What to do about an exchange or a queue.
struct Remedies<'a> {
    if_missing: &'a str,
    if_different: &'a str,
}

/// The verdict on an exchange or a queue: is it there, and is it what `serve` would declare?
fn thing<T>(
    name: &str,
    what: &str,
    there: &Answer<T>,
    as_ours: Option<&Answer<()>>,
    declared_by_us: bool,
    remedies: &Remedies<'_>,
) -> Check {
    let Remedies { if_missing, if_different } = remedies;
    match there {
        Answer::Yes(_) => {}
        Answer::Missing(_) => return Check::fail(name, format!("{what} is not there"), *if_missing),
        Answer::Forbidden(error) => {
            let fix = "give this user permissions on it: rabbitmqctl set_permissions";
            return Check::fail(name, format!("{what} can't be looked at: {error}"), fix);
        }
        Answer::Differs(error) | Answer::Unknown(error) => {
            return Check::fail(name, format!("{what}: {error}"), "look into the broker's log");
        }
    }
    let Some(as_ours) = as_ours else {
        return Check::ok(name, format!("{what} is there"));
    };
    match (as_ours, declared_by_us) {
        (Answer::Yes(()), _) => Check::ok(name, format!("{what} is there, with our arguments")),
        (Answer::Differs(error), true) => Check::fail(
            name,
            format!("{what} is there, but not as we would declare it: {error}"),
            format!("{if_different}, or use it as it is: VOLUME_REAPER_TOPOLOGY=check"),
        ),
        // A policy can't set a queue's type, and without it there is neither a limit nor at-least-once.
        (Answer::Differs(error), false) if error.contains("x-queue-type") => Check::fail(
            name,
            format!("{what} is no quorum queue, so that messages may be lost on their way: {error}"),
            "delete it once it is empty and declare it again with x-queue-type=quorum",
        ),
        (Answer::Differs(error), false) => Check::warn(
            name,
            format!("{what} is there, but not as we would declare it: {error}"),
            "see that a policy gives it delivery limit, dead-lettering, its strategy and time to live \
             (rabbitmqctl list_policies): AMQP does not show policies",
        ),
        (Answer::Forbidden(error), true) => Check::fail(
            name,
            format!("{what} is there, but this user may not declare it: {error}"),
            "give this user the configure permission on it, or set VOLUME_REAPER_TOPOLOGY=check",
        ),
        (Answer::Forbidden(_), false) => Check::ok(
            name,
            format!("{what} is there; its arguments were not compared, which takes the configure permission"),
        ),
        (Answer::Missing(error) | Answer::Unknown(error), _) => {
            let why = format!("{what} is there, but its arguments could not be compared: {error}");
            Check::warn(name, why, "run doctor again; if it stays so, look into the broker's log")
        }
    }
}

/// AMQP can't list bindings, and every way to try one out either makes it or sends a message through it.
fn binding(queues: &Queues, contents: &Contents) -> Option<Check> {
    let (name, exchange) = ("broker.binding", &queues.exchange);
    let key = queues.bound_by().iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" and ");
    let list = format!(
        "rabbitmqctl list_bindings, in which {exchange:?}, {key} and {:?} stand in one line each",
        queues.work()
    );
    let may_bind = contents.may_bind.as_ref()?;
    Some(match (may_bind, queues.declared_by_us()) {
        (Answer::Yes(()), true) => Check::ok(
            name,
            format!("not seen, since AMQP can't list bindings; serve binds {key} at every start, and may"),
        ),
        (Answer::Forbidden(error), true) => Check::fail(
            name,
            format!("this user may not bind the work queue: {error}"),
            "give it write permission on the queue and read permission on the exchange",
        ),
        (Answer::Missing(error) | Answer::Differs(error) | Answer::Unknown(error), true) => {
            Check::warn(name, format!("whether serve may bind could not be found out: {error}"), format!("see {list}"))
        }
        (_, false) => Check::warn(
            name,
            format!(
                "not checked: AMQP can't list bindings, and with VOLUME_REAPER_TOPOLOGY=check we make none; without \
                     the binding of {key} no event arrives, and only sweeps clean up"
            ),
            format!("see {list}"),
        ),
    })
}

fn permissions(queues: &Queues, contents: &Contents) -> Vec<Check> {
    let check = |name: &str, answer: &Answer<()>, what: &str, permission: &str| match answer {
        Answer::Yes(()) => Check::ok(name, format!("this user may {what}")),
        Answer::Forbidden(error) => Check::fail(
            name,
            format!("this user may not {what}: {error}"),
            format!("give it {permission}: rabbitmqctl set_permissions"),
        ),
        Answer::Missing(error) | Answer::Differs(error) | Answer::Unknown(error) => Check::warn(
            name,
            format!("whether this user may {what} could not be found out: {error}"),
            format!("see that it has {permission}: rabbitmqctl list_permissions"),
        ),
    };
    let work = queues.work();
    let consume = contents.may_consume.as_ref().map(|answer| {
        check("broker.consume", answer, &format!("consume {work:?}"), "read permission on the work queue")
    });
    let publish = check(
        "broker.publish",
        &contents.may_publish,
        "publish to our queues, as retries and dead letters need",
        "write permission on amq.default, the default exchange",
    );
    consume.into_iter().chain([publish]).collect()
}
