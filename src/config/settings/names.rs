//! What volumes, queues and exchanges are called.

use super::{Setting, setting};

pub(super) const OF_NAMES: &[Setting] = &[
    setting("volume_prefix", "VOLUME_REAPER_VOLUME_PREFIX", "ha_ws_", "What a thread's volume is called before its id"),
    setting(
        "volume_names",
        "VOLUME_REAPER_VOLUME_NAMES",
        "",
        "Several volumes a thread: what each is called, as in ha_ws_{id},ha_cache_{id}; the prefix and the id if empty",
    ),
    setting(
        "foreign_prefixes",
        "VOLUME_REAPER_FOREIGN_PREFIXES",
        "",
        "Longer prefixes that begin with ours and are somebody else's, as in ha_ws_x_: such volumes are left alone",
    ),
    setting("exchange", "VOLUME_REAPER_EXCHANGE", "threads", "The topic exchange that thread events are published to"),
    setting("routing_key", "VOLUME_REAPER_ROUTING_KEY", "thread.closed", "The routing key of thread-closed events"),
    setting(
        "reopened_routing_key",
        "VOLUME_REAPER_REOPENED_ROUTING_KEY",
        "thread.reopened",
        "The routing key of thread-reopened events; listened to only with unknown_threads=record",
    ),
    setting(
        "removed_exchange",
        "VOLUME_REAPER_REMOVED_EXCHANGE",
        "",
        "The topic exchange where each mark is told, as a CloudEvent workspace.volume.removed; nothing is told if \
         empty",
    ),
    setting("queue_prefix", "VOLUME_REAPER_QUEUE_PREFIX", "volume-reaper", "What our queues are called before the dot"),
    setting(
        "topology",
        "VOLUME_REAPER_TOPOLOGY",
        "declare",
        "declare: create exchange and queues; check: only look that they are there",
    ),
];
