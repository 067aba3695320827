//! What the fuzzer throws bytes at: what a daemon may answer to a removal.

use super::answers::{refused_container, refused_removal};
use crate::{
    cleanup::{ContainerId, ContainerRemoval, Removal},
    config::Endpoint,
    volume_name::{ThreadId, VolumeNames},
};

/// Only a 404 that names the volume, or nothing, says that it is not there, and only 409 and 500 that it is in use.
///
/// # Panics
///
/// If another answer does.
pub fn daemon(status_code: u16, message: &str) {
    let endpoint = Endpoint::Unix("/run/docker.sock".to_owned());
    let names = VolumeNames::of_prefix("ha_ws_").expect("a prefix");
    let volume = names.volume_of(&ThreadId::parse("t1").expect("an id"));
    match refused_removal(status_code, message, &volume, &endpoint) {
        Ok(Removal::Missing) => {
            assert!(status_code == 404 && (message.contains("ha_ws_t1") || message.trim() == "no such volume"));
        }
        Ok(Removal::Referenced { containers }) => {
            assert!([409, 500].contains(&status_code));
            assert!(containers.iter().all(|id| ContainerId::parse(id).is_some()));
        }
        Ok(removal @ (Removal::Removed | Removal::NotFound | Removal::NotSent)) => panic!("{removal:?}"),
        Err(failure) => assert!(failure.message.contains(&status_code.to_string())),
    }
    let container = ContainerId::parse(&"4f".repeat(32)).expect("an id");
    match refused_container(status_code, message.to_owned(), &container, &endpoint) {
        Ok(ContainerRemoval::NotFound) => assert_eq!(status_code, 404),
        Ok(ContainerRemoval::Refused(_)) => assert!([409, 500].contains(&status_code)),
        Ok(removal @ (ContainerRemoval::Removed | ContainerRemoval::NotSent)) => panic!("{removal:?}"),
        Err(failure) => assert!(failure.message.contains(&status_code.to_string())),
    }
}
