//! How many accepted runs wait for their turn, so that no more are accepted than the store is meant to hold.
//!
//! It knows no run. Other processes accept and execute runs of the same store, so what this one counts is no more than a
//! reason to look; the invariant: nobody is refused unless a look found as many waiting as there may be.

use crate::error::Error;
use outlive_core::RunStatus;
use outlive_core::port::{Access, Db, DbError, Order, RunFilter};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a look that found the queue full is good for: a flood must not be a flood of looks.
const FULL_PERIOD: Duration = Duration::from_secs(1);
/// Runs read at once, the most that a store lists.
const PAGE: u32 = 1000;

/// The queue of a store, as one process knows it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Those found by the last look, and those that have joined here since.
    waiting: AtomicUsize,
    full_until: Mutex<Option<Instant>>,
}

impl Queue {
    /// One more waits.
    pub(crate) fn joined(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more may wait, where at most `max` may.
    ///
    /// # Errors
    /// [`Error::QueueFull`], or the store's.
    ///
    /// # Cancel safety
    /// Safe: a look that is dropped is made again.
    pub(crate) async fn admit(&self, db: &dyn Db, max: usize) -> Result<(), Error> {
        if self.waiting.load(Ordering::Relaxed) < max {
            return Ok(());
        }
        let mut full_until = self.full_until.lock().await;
        if full_until.is_some_and(|until| Instant::now() < until) {
            return Err(Error::QueueFull { limit: max });
        }
        if self.waiting.load(Ordering::Relaxed) < max {
            return Ok(());
        }
        let found = look(db, max).await?;
        self.waiting.store(found, Ordering::Relaxed);
        *full_until = (found >= max).then(|| Instant::now() + FULL_PERIOD);
        if found >= max { Err(Error::QueueFull { limit: max }) } else { Ok(()) }
    }
}

/// How many wait, counted up to `max`.
async fn look(db: &dyn Db, max: usize) -> Result<usize, DbError> {
    let statuses = vec![RunStatus::Pending];
    let mut filter = RunFilter { statuses, order: Order::OldestFirst, limit: PAGE, ..RunFilter::default() };
    let mut found = 0;
    loop {
        let page = db.runs(Access::All, filter.clone()).await?;
        found += page.runs.iter().filter(|run| run.worker.is_none()).count();
        match page.next {
            Some(next) if found < max => filter.after = Some(next),
            _ => return Ok(found),
        }
    }
}
