//! The process: its port, its end, its log.

use super::{Setting, secret, setting};

pub(super) const OF_PROCESS: &[Setting] = &[
    setting(
        "shutdown_grace",
        "VOLUME_REAPER_SHUTDOWN_GRACE",
        "25s",
        "How long work in flight may take to finish after SIGTERM or SIGINT",
    ),
    setting(
        "http_addr",
        "VOLUME_REAPER_HTTP_ADDR",
        "127.0.0.1:9464",
        "Where health, metrics, console and API are served",
    ),
    setting(
        "http_connections",
        "VOLUME_REAPER_HTTP_CONNECTIONS",
        "256",
        "HTTP connections at once; the oldest is closed for a newer one",
    ),
    setting(
        "http_timeout",
        "VOLUME_REAPER_HTTP_TIMEOUT",
        "10s",
        "How long an HTTP connection may take, request and answer together",
    ),
    setting(
        "http_tokens_file",
        "VOLUME_REAPER_HTTP_TOKENS_FILE",
        "",
        "Who may use console and API: lines role:name:token with the role viewer, operator or admin; without it they \
         are read-only, and for this machine alone",
    ),
    secret(
        "server",
        "VOLUME_REAPER_SERVER",
        "",
        "Ask the service whose console is at this http:// or https:// address, in place of broker, database and Docker",
    ),
    secret(
        "server_token",
        "VOLUME_REAPER_SERVER_TOKEN",
        "",
        "What that service is shown; others on this machine can read a flag",
    ),
    setting(
        "migrate",
        "VOLUME_REAPER_MIGRATE",
        "true",
        "Whether serve and sweep bring the schema up to date by themselves",
    ),
    setting(
        "replica",
        "VOLUME_REAPER_REPLICA",
        "",
        "This replica's name in receipts and logs; the host's name if empty",
    ),
    setting(
        "log_filter",
        "RUST_LOG",
        "info,lapin=off",
        "What is logged: error, warn, info, debug, trace, or per module; lapin repeats what we say",
    ),
    setting("log_format", "VOLUME_REAPER_LOG_FORMAT", "pretty", "pretty or json"),
    setting(
        "trace_relation",
        "VOLUME_REAPER_TRACE_RELATION",
        "link",
        "In traces (OTEL_EXPORTER_OTLP_ENDPOINT): how a delivery's span relates to its publisher's, link or parent",
    ),
];
