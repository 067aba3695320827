//! The proof that a volume is not there. Whatever waits for it when the daemon is free to be asked is one question.
//!
//! That a daemon does not have a volume counts only once it has said who it is, and that costs it as much as many
//! removals: it counts all that it has for the answer. So threads whose volumes are gone already share it.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Database, Removal, Volumes, batch::Removed, cleaner::Cleaner};
use crate::{failure::Failure, metrics, volume_name::VolumeName};

/// So many volumes are asked for together. The daemon is asked for one after the other, and the first waits for the
/// last.
const MOST_AT_ONCE: usize = 64;

/// The volumes of a host that are waiting for the proof that they are not there.
#[derive(Default)]
pub(super) struct Absences {
    waiting: Mutex<Vec<Waiting>>,
    /// Acquired by whoever asks the daemon, for the others too.
    asking: tokio::sync::Mutex<()>,
}

struct Waiting {
    volume: VolumeName,
    proof: oneshot::Sender<Removed>,
}

impl<V: Volumes, T: Database> Cleaner<V, T> {
    /// Proves that a volume is not there, after the daemon said so.
    pub(super) async fn prove_absence(&self, volume: &VolumeName) -> Removed {
        let (proof, mut proven) = oneshot::channel();
        self.absences.waiting.lock().push(Waiting { volume: volume.clone(), proof });
        loop {
            tokio::select! {
                biased;
                proven = &mut proven => {
                    return proven.unwrap_or_else(|_| {
                        metrics::panic();
                        Err(Failure::transient("the question for absent volumes panicked; standard error says why"))
                    });
                }
                _asking = self.absences.asking.lock() => self.ask_for_absent().await,
            }
        }
    }

    /// Asks for those that are waiting, or as many as are asked for together.
    async fn ask_for_absent(&self) {
        let waiting: Vec<_> = {
            let mut waiting = self.absences.waiting.lock();
            let together = waiting.len().min(MOST_AT_ONCE);
            waiting.drain(..together).collect()
        };
        let volumes: Vec<_> = waiting.iter().map(|waiting| waiting.volume.clone()).collect();
        let found = self.volumes.have(&volumes).await;
        for (Waiting { volume, proof }, is_there) in waiting.into_iter().zip(found) {
            // Who has gone away meanwhile needs none.
            let _gone = proof.send(Removal::of_missing(&volume, is_there));
        }
    }
}
