//! A platform that writes to the database meanwhile, and how long it waits.

use std::{cell::Cell, error::Error, time::Duration};

use tokio::time::{Instant, interval};

use crate::setup::{Result, Setup};

/// Fifty rows a second.
const APART: Duration = Duration::from_millis(20);

/// What came of the `work`, and how long the platform's rows took to be written meanwhile, in words.
pub(crate) async fn beside<T>(setup: &Setup, work: impl Future<Output = Result<T>>) -> Result<(T, String)> {
    setup.execute("CREATE TABLE IF NOT EXISTS notes (number integer)").await?;
    let is_done = Cell::new(false);
    let work = async {
        let done = work.await;
        is_done.set(true);
        done
    };
    let write = async {
        let (mut pace, mut waits) = (interval(APART), Vec::new());
        while !is_done.get() {
            pace.tick().await;
            let asked = Instant::now();
            setup.execute("INSERT INTO notes VALUES (1)").await?;
            waits.push(asked.elapsed());
        }
        Ok::<_, Box<dyn Error>>(waits)
    };
    let (done, waits) = tokio::join!(work, write);
    Ok((done?, words(waits?)))
}

fn words(mut waits: Vec<Duration>) -> String {
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
    format!("{} rows, median {:.1?}, p99 {:.1?}, most {:.1?}", waits.len(), at(50), at(99), at(100))
}
