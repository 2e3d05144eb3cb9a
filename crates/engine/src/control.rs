//! How other code stops a run that executes here.
//!
//! It must never know what the run is doing. The invariant: a reason to stop gives way only to a stronger one.

use crate::journal::Journal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// How other code stops a run that executes here.
#[derive(Debug, Default)]
pub(crate) struct Control {
    stop: Mutex<Option<Stop>>,
    has_mail: AtomicBool,
    changed: Notify,
}

/// Why a run is to stop. Later reasons replace weaker ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Start nothing new; release the lease once calls in flight have ended.
    Drain,
    /// Drop what is in flight and release the lease.
    Release,
    /// Drop what is in flight and end CANCELLED.
    Cancel(Arc<str>),
    /// The lease is lost: drop everything and write nothing.
    Lost,
}

impl Control {
    pub(crate) fn stop(&self, stop: Stop) {
        let mut current = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|current| *current < stop) {
            *current = Some(stop);
            self.changed.notify_one();
        }
    }

    /// Somebody answered a question of the run.
    pub(crate) fn deliver(&self) {
        self.has_mail.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    fn current(&self) -> Option<Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a reason to drop what is in flight; halts the journal when nothing new may start, and tells it of
    /// answers, and of what is for nobody any more.
    pub(crate) async fn stopped(&self, journal: &Journal) -> Stop {
        loop {
            if self.has_mail.swap(false, Ordering::Relaxed) {
                journal.expect_mail();
            }
            match self.current() {
                Some(Stop::Drain) => journal.halt(),
                Some(stop) => {
                    if matches!(stop, Stop::Cancel(_)) {
                        journal.abandon();
                    }
                    return stop;
                }
                None => {}
            }
            self.changed.notified().await;
        }
    }
}
