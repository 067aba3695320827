//! The platform and the people, who know nothing of the service: they close and reopen threads, make volumes, start
//! containers, and hold, pause and resume.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use volume_reaper::delivery::event::ThreadEvent;

use crate::{
    database::THREADS,
    mutants::Mutant,
    names::{id, volume_of},
    plan::Publish,
    world::{State, World, now},
};

/// Makes the volumes of all threads.
pub(crate) fn settle_in(world: &World) {
    let mut state = world.state();
    let threads: Vec<_> = state.rows.threads.iter().map(|(thread, row)| (thread.clone(), row.home)).collect();
    for (thread, home) in threads {
        state.daemons.at(home).volumes.insert(volume_of(&thread), BTreeSet::new());
    }
}

/// The thread of a number.
pub(crate) fn thread(world: &World, number: usize) -> &'static str {
    THREADS[number % world.setup.threads]
}

/// Begins to change a thread, unless it is being changed, or is not as it has to be.
fn begin(world: &World, thread: &str, has_to_be_closed: bool) -> bool {
    let mut state = world.state();
    let row = state.rows.threads.get_mut(thread).expect("a row");
    let may = !row.is_changing && row.closed == has_to_be_closed;
    row.is_changing |= may;
    may
}

fn end(world: &World, thread: &str) {
    world.state().rows.threads.get_mut(thread).expect("a row").is_changing = false;
}

/// Closes a thread, and says so to whom it concerns.
pub(crate) async fn close(world: Arc<World>, thread: &'static str, publish: Publish) {
    if begin(&world, thread, false) {
        close_begun(&world, thread, publish).await;
        end(&world, thread);
    }
}

async fn close_begun(world: &World, thread: &str, publish: Publish) {
    if publish == Publish::Early {
        say(world, thread, publish);
        let ms = world.state().rng.u64(1..3000);
        sleep(Duration::from_millis(ms)).await;
    }
    write(world, thread).await;
    {
        let mut state = world.state();
        state.note(|| format!("the platform closes {thread}"));
        let at = now();
        let row = state.rows.threads.get_mut(thread).expect("a row");
        (row.closed, row.closed_at, row.withdrawn, row.reappeared) = (true, Some(at), 0, false);
    }
    match publish {
        Publish::Early | Publish::Never => {}
        Publish::Once | Publish::Astray => say(world, thread, publish),
        Publish::Twice => {
            say(world, thread, publish);
            say(world, thread, publish);
        }
    }
}

/// Publishes the event of a close.
pub(crate) fn say(world: &World, thread: &str, publish: Publish) {
    {
        let mut state = world.state();
        let row = &state.rows.threads[thread];
        let hosts = &world.setup.hosts;
        let host = match (hosts.first(), publish) {
            (None, _) => None,
            (Some(_), Publish::Astray) => hosts.iter().find(|host| **host != row.home).map(|host| (*host).to_owned()),
            (Some(_), _) => row.host.map(str::to_owned),
        };
        // Of a thread that no row places, a wrong claim is a lie about where its volume is, and would be believed.
        let host = host.filter(|_| row.host.is_some());
        let event = ThreadEvent {
            thread_id: id(thread),
            closed_at: row.closed_at,
            reopened_at: None,
            unreadable: None,
            host,
            volumes: Vec::new(),
        };
        let number = state.publish(event.encode());
        state.note(|| format!("event {number} says that {thread} is closed"));
    }
    world.published.notify_waiters();
}

/// Reopens a thread: its row first, and then its volume, if that is gone.
pub(crate) async fn reopen(world: Arc<World>, thread: &'static str) {
    if begin(&world, thread, true) {
        reopen_begun(&world, thread).await;
        end(&world, thread);
    }
}

async fn reopen_begun(world: &World, thread: &str) {
    write(world, thread).await;
    let home = {
        let mut state = world.state();
        state.note(|| format!("the platform reopens {thread}"));
        let keeps_mark = state.is(Mutant::ReopenKeepsMark);
        let row = state.rows.threads.get_mut(thread).expect("a row");
        row.closed = false;
        // Our trigger does that.
        if !keeps_mark {
            row.mark = None;
        }
        row.home
    };
    make_volume(world, thread, home).await;
}

/// Closes and reopens a thread twice, at once.
pub(crate) async fn flap(world: Arc<World>, thread: &'static str) {
    if !begin(&world, thread, false) {
        return;
    }
    close_begun(&world, thread, Publish::Once).await;
    let ms = world.state().rng.u64(..40);
    sleep(Duration::from_millis(ms)).await;
    reopen_begun(&world, thread).await;
    sleep(Duration::from_millis(2)).await;
    close_begun(&world, thread, Publish::Never).await;
    end(&world, thread);
}

/// Waits until the thread's row can be written: nobody has locked it, and the server is there.
async fn write(world: &World, thread: &str) {
    world.until(|state| (!state.rows.is_down() && !state.rows.is_locked(thread)).then_some(())).await;
}

/// Makes a thread's volume at its host, unless it is there. The daemon has that wait for a removal under way.
async fn make_volume(world: &World, thread: &str, home: &'static str) {
    let volume = volume_of(thread);
    let is_there = |state: &mut State| {
        let daemon = state.daemons.at(home);
        (!daemon.is_down() && !daemon.is_swapped()).then_some(())
    };
    world.until(is_there).await;
    let name = world.take_name(home, &volume).await;
    let mut state = world.state();
    let daemon = state.daemons.at(home);
    if !daemon.volumes.contains_key(&volume) {
        daemon.volumes.insert(volume.clone(), BTreeSet::new());
        state.note(|| format!("the platform makes {volume} anew"));
    }
    state.give_name(home, &volume, name);
    drop(state);
    world.freed.notify_waiters();
}

/// Somebody else removes the volume of a closed thread, or makes it again.
pub(crate) fn meddle(world: &World, thread: &str, makes: bool) {
    let mut state = world.state();
    let row = &state.rows.threads[thread];
    let (home, is_meant) = (row.home, row.closed && !row.is_changing);
    let volume = volume_of(thread);
    let daemon = state.daemons.at(home);
    let is_used = daemon.volumes.get(&volume).is_some_and(|users| !users.is_empty());
    if !is_meant || is_used || daemon.names.contains_key(&volume) || daemon.is_down() || daemon.is_swapped() {
        return;
    }
    if makes {
        daemon.volumes.entry(volume).or_default();
        state.rows.threads.get_mut(thread).expect("a row").reappeared = true;
    } else {
        daemon.volumes.remove(&volume);
    }
    state.note(|| format!("somebody {} the volume of {thread}", if makes { "makes" } else { "removes" }));
}

/// A container is started with a thread's volume, if that is there, or all of them end.
pub(crate) fn contain(world: &World, thread: &str, starts: bool) {
    let mut state = world.state();
    let home = state.rows.threads[thread].home;
    let volume = volume_of(thread);
    let daemon = state.daemons.at(home);
    if daemon.names.contains_key(&volume) || daemon.is_down() || daemon.is_swapped() {
        return;
    }
    let Some(users) = daemon.volumes.get_mut(&volume) else { return };
    if starts {
        users.insert(format!("container-of-{thread}"));
    } else {
        users.clear();
    }
    state.note(|| format!("a container {} the volume of {thread}", if starts { "uses" } else { "leaves" }));
}

/// A person holds a thread, or releases it.
pub(crate) fn hold(world: &World, thread: &str, holds: bool) {
    let mut state = world.state();
    if holds {
        state.rows.holds.entry(thread.to_owned()).or_insert_with(Instant::now);
    } else {
        state.rows.holds.remove(thread);
    }
    state.note(|| format!("a person {} {thread}", if holds { "holds" } else { "releases" }));
}
