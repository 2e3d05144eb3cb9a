//! How many accepted runs wait for their turn, so that no more are accepted than the store is meant to hold.
//!
//! It knows no run. Other processes accept and execute runs of the same store, so what this one counts is only a reason
//! to query; the invariant: nobody is refused unless a query found the queue full.

use crate::error::Error;
use outlive_core::port::Db;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long the result of a query that found the queue full is cached, so that bursts of requests do not query.
const FULL_PERIOD: Duration = Duration::from_secs(1);

/// The queue of a store, as one process knows it.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Those the last query found, and those that have joined here since.
    waiting: AtomicUsize,
    full_until: Mutex<Option<Instant>>,
}

impl Queue {
    /// One more is waiting.
    pub(crate) fn joined(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more may wait, where at most `max` may.
    ///
    /// # Errors
    /// [`Error::QueueFull`], or the store's.
    ///
    /// # Cancel safety
    /// Safe: a dropped query is made again.
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
        let found = db.unfinished(max as u64).await?.queued;
        let found = usize::try_from(found).unwrap_or(usize::MAX);
        self.waiting.store(found, Ordering::Relaxed);
        *full_until = (found >= max).then(|| Instant::now() + FULL_PERIOD);
        if found >= max { Err(Error::QueueFull { limit: max }) } else { Ok(()) }
    }
}
