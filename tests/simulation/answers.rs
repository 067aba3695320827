//! A property of the fleet: the answers of hosts are folded to "not there" only if every host was heard.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::{Instant, sleep};

use crate::{
    names::volume_of,
    plan::{Publish, Setup},
    platform,
    replica::start,
    world::World,
};

/// What a host says of the thread's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    No,
    Nothing,
    AnotherDaemon,
}

fn setup(has_unserved: bool) -> Setup {
    Setup {
        replicas: 1,
        threads: 3,
        hosts: vec!["a", "b"],
        has_unserved,
        locks_file: false,
        retention: Duration::ZERO,
        per_hour: None,
        per_sweep: None,
    }
}

/// Whether the thread that no row places is marked a minute after its close.
async fn is_marked(seed: u64, hosts: [Says; 2], has_unserved: bool) -> bool {
    let world = World::new(seed, setup(has_unserved), None, false);
    // The third is on no row's host, and its volume nowhere.
    let thread = platform::thread(&world, 2);
    platform::settle_in(&world);
    {
        let mut state = world.state();
        let until = Some(Instant::now() + Duration::from_mins(10));
        for (host, says) in ["a", "b"].into_iter().zip(hosts) {
            let daemon = state.daemons.at(host);
            daemon.volumes.remove(&volume_of(thread));
            match says {
                Says::No => {}
                Says::Nothing => daemon.down_until = until,
                Says::AnotherDaemon => daemon.swapped_until = until,
            }
        }
    }
    start(&world, 0);
    sleep(Duration::from_secs(1)).await;
    platform::close(Arc::clone(&world), thread, Publish::Once).await;
    sleep(Duration::from_mins(1)).await;
    let state = world.state();
    state.rows.threads[thread].mark.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_volume_is_absent_only_if_every_host_says_so(
        seed in any::<u64>(),
        one in prop::sample::select(vec![Says::No, Says::Nothing, Says::AnotherDaemon]),
        other in prop::sample::select(vec![Says::No, Says::Nothing, Says::AnotherDaemon]),
        has_unserved in any::<bool>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        let is_marked = runtime.block_on(is_marked(seed, [one, other], has_unserved));
        let is_proven = [one, other] == [Says::No, Says::No] && !has_unserved;
        prop_assert_eq!(is_marked, is_proven);
    }
}
