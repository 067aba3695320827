//! What the volumes of the simulation are called.

use volume_reaper::volume_name::{ThreadId, VolumeName, VolumeNames};

pub(crate) fn names() -> VolumeNames {
    VolumeNames::of_prefix("ha_ws_").expect("valid")
}

pub(crate) fn volume_of(thread: &str) -> String {
    names().volume_of(&id(thread)).as_str().to_owned()
}

pub(crate) fn thread_of(volume: &VolumeName) -> String {
    names().thread_of(volume.as_str()).expect("a name of ours").to_string()
}

pub(crate) fn id(thread: &str) -> ThreadId {
    ThreadId::parse(thread).expect("valid")
}
