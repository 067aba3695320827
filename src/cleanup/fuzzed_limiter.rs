//! What the fuzzer and a property throw steps at: removals that ask, are sent, end and are detached in any order.

use std::time::Duration;

use tokio::time::advance;

use super::limiter::{Limiter, Permit};

const MOST: u16 = 4;

struct Removal {
    permit: Permit,
    is_detached: bool,
}

/// Never are more removals in flight than there may be, and when all have ended there is a permit to be had. In a
/// runtime whose time is paused; each byte is a step.
///
/// # Panics
///
/// If it is otherwise.
pub async fn use_limiter(steps: &[u8]) {
    let limiter = Limiter::new(MOST);
    let mut removals: Vec<Removal> = Vec::new();
    for step in steps {
        let which = usize::from(step >> 3);
        let number = which.checked_rem(removals.len());
        match (step & 7, number.map(|number| &mut removals[number])) {
            (0..=2, _) => {
                let permit = limiter.permit();
                let permit = tokio::select! { biased; it = permit => Some(it), () = std::future::ready(()) => None };
                if let Some(permit) = permit {
                    removals.push(Removal { permit, is_detached: false });
                }
            }
            (3, Some(removal)) => removal.permit.sent(),
            (4, Some(removal)) if !removal.is_detached => {
                removal.permit.detach();
                removal.is_detached = true;
            }
            (5, Some(_)) => drop(removals.swap_remove(number.unwrap_or_default())),
            (6, _) => advance(Duration::from_millis(1 << (which % 24))).await,
            _ => advance(Duration::from_millis(1)).await,
        }
        let in_flight = removals.iter().filter(|removal| !removal.is_detached).count();
        assert!(in_flight <= usize::from(MOST), "{in_flight} in flight");
    }
    removals.clear();
    let permit = limiter.permit();
    let is_free = tokio::select! { biased; _ = permit => true, () = std::future::ready(()) => false };
    assert!(is_free, "all have ended, and there is no permit");
}
