//! Where database, broker and Docker are.

use super::{Setting, secret, setting};

pub(super) const OF_CONNECTIONS: &[Setting] = &[
    secret(
        "database_url",
        "DATABASE_URL",
        "sqlite://volume-reaper.db?mode=rwc",
        "The database with the threads: postgres://..., mysql://... (or mariadb://...) or sqlite://...",
    ),
    secret(
        "amqp_url",
        "AMQP_URL",
        "amqp://127.0.0.1:5672/%2f",
        "The message broker: amqp://user:password@host/vhost, or amqps://",
    ),
    setting(
        "amqp_ca_file",
        "VOLUME_REAPER_AMQP_CA_FILE",
        "",
        "For amqps://: the authorities to trust, PEM; the system's if empty",
    ),
    setting("amqp_cert_file", "VOLUME_REAPER_AMQP_CERT_FILE", "", "For amqps://: our client certificate, PEM"),
    setting("amqp_key_file", "VOLUME_REAPER_AMQP_KEY_FILE", "", "For amqps://: its private key, PEM, not encrypted"),
    setting(
        "management_url",
        "VOLUME_REAPER_MANAGEMENT_URL",
        "",
        "The broker's management API, http://host:15672: doctor asks it what AMQP does not show; not asked if empty",
    ),
    setting(
        "docker_host",
        "DOCKER_HOST",
        "unix:///var/run/docker.sock",
        "The Docker daemon: unix:///path, tcp://host:port or ssh://user@host",
    ),
    setting(
        "docker_tls_verify",
        "DOCKER_TLS_VERIFY",
        "",
        "For tcp://: TLS, as Docker's own client has it; any text is yes",
    ),
    setting(
        "docker_cert_path",
        "DOCKER_CERT_PATH",
        "",
        "For TLS to the Docker daemon: the folder with ca.pem, cert.pem and key.pem; ~/.docker if empty",
    ),
    setting(
        "docker_hosts",
        "VOLUME_REAPER_DOCKER_HOSTS",
        "",
        "Several Docker daemons in place of the one: name=endpoint,name=endpoint; in a file, [[docker.hosts]]",
    ),
    setting(
        "host",
        "VOLUME_REAPER_HOST",
        "",
        "One reaper per Docker host: the name of this one's, whose events and threads alone are its own",
    ),
    setting(
        "docker_timeout",
        "VOLUME_REAPER_DOCKER_TIMEOUT",
        "2m",
        "How long a delivery waits until its removal can be sent; then a sweep cleans up. A removal that takes longer \
         holds up no others",
    ),
    setting(
        "lock_limit",
        "VOLUME_REAPER_LOCK_LIMIT",
        "",
        "How long rows are locked, and deliveries wait, while volumes are removed; 0s never locks; 2s if empty, and \
         500ms on SQLite",
    ),
];
