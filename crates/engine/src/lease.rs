//! This process's right to execute: good until a local deadline, renewed by heartbeats.
//!
//! The deadline is measured on the monotonic clock from the moment a heartbeat was *sent*, so it passes here before any
//! other process may take the runs over. It is checked between the commit of an intent and the call itself: a worker
//! that wakes up late sends nothing.

use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::Notify;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct LeaseClock {
    deadline: Mutex<Instant>,
    renewed: Notify,
}

impl LeaseClock {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { deadline: Mutex::new(deadline), renewed: Notify::new() }
    }

    pub(crate) fn renew(&self, deadline: Instant) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        self.renewed.notify_waiters();
    }

    pub(crate) fn is_good(&self) -> bool {
        Instant::now() < *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the lease is good. Returns at once when it is.
    pub(crate) async fn good(&self) {
        loop {
            let renewed = self.renewed.notified();
            if self.is_good() {
                return;
            }
            renewed.await;
        }
    }
}
