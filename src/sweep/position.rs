//! How far a sweep is.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tracing::info;

/// From one line about a sweep that takes long to the next.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How far the running sweep is.
#[derive(Debug)]
pub(super) struct Progress {
    /// Candidates that are done with.
    done: watch::Sender<u64>,
    /// When it was last said in the log.
    said: Mutex<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { done: watch::Sender::new(0), said: Mutex::new(Instant::now()) }
    }
}

impl Progress {
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    pub(super) fn begin(&self) {
        self.done.send_replace(0);
        *self.said.lock() = Instant::now();
    }

    /// Some more candidates are done with. A sweep that takes long says so now and then.
    pub(super) fn advance(&self, count: usize) {
        self.done.send_modify(|done| *done += count as u64);
        let mut said = self.said.lock();
        if said.elapsed() >= PROGRESS_INTERVAL {
            *said = Instant::now();
            info!(candidates = *self.done.borrow(), "sweeping");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;

    /// Log lines, in memory.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).expect("text")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_takes_long_says_now_and_then_how_far_it_is() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let progress = Progress::default();
        progress.begin();
        progress.advance(5);
        assert_eq!(lines.text(), "");
        tokio::time::advance(PROGRESS_INTERVAL).await;
        progress.advance(5);
        progress.advance(5);
        let text = lines.text();
        assert!(text.lines().count() == 1 && text.contains("sweeping candidates=10"), "{text}");
        assert_eq!(*progress.watch().borrow(), 15);
    }
}
