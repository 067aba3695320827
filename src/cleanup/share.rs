//! A host's share of a thread: which of its volumes are there, and which of them may be on others too.

use std::collections::HashSet;

use super::{NamedVolumes, Placement, Thread};
use crate::{
    host::Host,
    volume_name::{ThreadId, VolumeName, VolumeNames},
};

/// The volumes of a thread that a clean-up on one host is about.
pub(super) struct Share {
    pub(super) named: NamedVolumes,
    /// Those that may be on another host: that this one does not have them proves nothing.
    pub(super) unplaced: HashSet<VolumeName>,
}

impl Share {
    /// What is of a thread on `host`, or may be; otherwise, another host that it is on.
    pub(super) fn of(
        host: &Host,
        names: &VolumeNames,
        thread: &ThreadId,
        row: &Thread,
        claimed_host: Option<&str>,
    ) -> Result<Self, String> {
        let mut elsewhere = None;
        let (mut here, mut anywhere) = (row.clone(), row.clone());
        let placements = row.placements(host, claimed_host);
        let is_here = |placement: &Placement| match placement {
            Placement::Only | Placement::Unknown => true,
            Placement::On(name) => Some(&**name) == host.name(),
        };
        for placement in placements.iter().filter(|placement| !is_here(placement)) {
            if let Placement::On(name) = placement {
                elsewhere.get_or_insert_with(|| name.clone());
            }
        }
        if let Some(elsewhere) = elsewhere.filter(|_| !placements.iter().any(is_here)) {
            return Err(elsewhere);
        }
        here.keep_volumes(host, claimed_host, is_here);
        anywhere.keep_volumes(host, claimed_host, |placement| *placement == Placement::Unknown);
        let is_unknown = placements.contains(&Placement::Unknown);
        let unplaced = is_unknown.then(|| NamedVolumes::of(names, thread, anywhere.volumes.as_deref()).volumes);
        Ok(Self {
            named: NamedVolumes::of(names, thread, here.volumes.as_deref()),
            unplaced: unplaced.into_iter().flatten().collect(),
        })
    }
}

impl Thread {
    /// Where its volumes are, for who serves `host`: each place once. None if it has a table of volumes and none left.
    pub(super) fn placements(&self, host: &Host, claimed_host: Option<&str>) -> Vec<Placement> {
        let Some(volumes) = &self.volumes else {
            return vec![Placement::of(host, self.host.as_deref(), claimed_host)];
        };
        let mut placements = Vec::new();
        for volume in volumes {
            let placement = Placement::of(host, volume.host.as_deref(), claimed_host);
            if !placements.contains(&placement) {
                placements.push(placement);
            }
        }
        placements
    }

    /// Leaves out the volumes whose rows say that they are elsewhere than `kept`.
    pub(super) fn keep_volumes(&mut self, host: &Host, claimed_host: Option<&str>, kept: impl Fn(&Placement) -> bool) {
        if let Some(volumes) = &mut self.volumes {
            volumes.retain(|volume| kept(&Placement::of(host, volume.host.as_deref(), claimed_host)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanup::{Close, VolumeRow};

    /// What a thread with volumes on these hosts, or without rows of them, has on host `a`: all, and what is unplaced.
    fn share(hosts: Option<&[Option<&str>]>, of_thread: Option<&str>, claimed: Option<&str>) -> Result<String, String> {
        let row = |host: &Option<&str>| VolumeRow {
            name: format!("ha_ws_{}", host.unwrap_or("none")),
            id: String::new(),
            host: host.map(str::to_owned),
        };
        let thread = Thread {
            closed: true,
            marked: false,
            close: Close::default(),
            held: false,
            host: of_thread.map(str::to_owned),
            volumes: hosts.map(|hosts| hosts.iter().map(row).collect()),
        };
        let names = VolumeNames::of_prefix("ha_ws_").expect("valid");
        let names = if hosts.is_some() { names.in_rows() } else { names };
        let id = ThreadId::parse("t1").expect("valid");
        let share = Share::of(&Host::Named("a".to_owned()), &names, &id, &thread, claimed)?;
        let listed =
            |volumes: Vec<&VolumeName>| volumes.into_iter().map(VolumeName::as_str).collect::<Vec<_>>().join(" ");
        let (all, unplaced) = (share.named.volumes.iter().collect(), share.unplaced.iter().collect());
        Ok(format!("{} ({})", listed(all), listed(unplaced)))
    }

    #[test]
    fn a_host_has_what_rows_say_and_what_nobody_says() {
        let told = |text: &str| Ok(text.to_owned());
        let elsewhere = |host: &str| Err(host.to_owned());
        let mixed = [Some("b"), Some("a"), None];
        assert_eq!(share(Some(&mixed), None, None), told("ha_ws_a ha_ws_none (ha_ws_none)"));
        assert_eq!(share(Some(&mixed), None, Some("a")), told("ha_ws_a ha_ws_none ()"));
        assert_eq!(share(Some(&mixed), None, Some("b")), told("ha_ws_a ()"));
        assert_eq!(share(Some(&[Some("b"), Some("c")]), None, Some("a")), elsewhere("b"));
        assert_eq!(share(Some(&[None]), None, Some("b")), elsewhere("b"));
        assert_eq!(share(Some(&[]), Some("b"), None), told(" ()"));
    }

    #[test]
    fn without_rows_of_volumes_the_threads_row_says() {
        assert_eq!(share(None, Some("a"), Some("b")), Ok("ha_ws_t1 ()".to_owned()));
        assert_eq!(share(None, Some("b"), Some("a")), Err("b".to_owned()));
        assert_eq!(share(None, None, None), Ok("ha_ws_t1 (ha_ws_t1)".to_owned()));
    }
}
