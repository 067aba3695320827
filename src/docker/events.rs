//! The daemon's events that free volumes.

use std::{collections::HashMap, future::ready};

use bollard::{
    models::{EventMessage, EventMessageTypeEnum},
    query_parameters::EventsOptionsBuilder,
};
use futures_util::{Stream, StreamExt, stream};

use super::{Docker, answers::cause};
use crate::{
    cleanup::{Freed, FreedVolumes},
    failure::Failure,
};

impl FreedVolumes for Docker {
    fn freed(&self) -> impl Stream<Item = Result<Freed, Failure>> + Send {
        let link = match self.link() {
            Ok(link) => link,
            Err(failure) => return stream::iter([Err(failure)]).left_stream(),
        };
        let filters =
            HashMap::from([("type", vec!["container", "volume"]), ("event", vec!["destroy", "remove", "unmount"])]);
        let events = link.events(Some(EventsOptionsBuilder::default().filters(&filters).build()));
        let releases = events.filter_map(move |event| {
            // They come over it for as long as anybody listens.
            let _ = &link;
            ready(match event {
                Ok(event) => release(event).map(Ok),
                Err(error) => Some(Err(self.lost(&format!("events: {}", cause(&error))))),
            })
        });
        releases.right_stream()
    }
}

/// What an event frees. Docker calls the end of a container `destroy`, Podman `remove`. The filters are for types and
/// for actions, each for itself, so that there are others too.
fn release(event: EventMessage) -> Option<Freed> {
    let id = event.actor?.id?;
    match (event.typ?, event.action?.as_str()) {
        (EventMessageTypeEnum::CONTAINER, "destroy" | "remove") => Some(Freed::Container(id)),
        (EventMessageTypeEnum::VOLUME, "unmount") => Some(Freed::Volume(id)),
        _ => None,
    }
}
