//! What the handle and its threads share: who wants news, and whether the store has failed.

use outlive_core::port::{DbError, DbErrorKind, News, Watcher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Shared by a handle's clones and its threads.
#[derive(Default)]
pub(super) struct Watchers {
    list: Mutex<Vec<Watcher>>,
    has_any: AtomicBool,
    /// Why the store takes no more writes, once it does not.
    failure: OnceLock<Arc<str>>,
    #[cfg(feature = "testing")]
    injected: Mutex<Option<Injected>>,
    #[cfg(feature = "testing")]
    patience: Mutex<Option<Duration>>,
}

/// An error that the next transaction gets instead of SQLite's answer.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injected {
    /// Where.
    pub stage: super::Stage,
    /// SQLite's extended result code.
    pub code: i32,
}

impl Watchers {
    pub(super) fn add(&self, watcher: Watcher) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(watcher);
        self.has_any.store(true, Ordering::Release);
    }

    pub(super) fn has_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Calls every watcher, outside the lock.
    pub(super) fn tell(&self, news: &News) {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for watcher in list {
            watcher(news.clone());
        }
    }

    /// The store takes no more writes from now on, and everyone is told why, once.
    pub(super) fn fail(&self, error: DbError) {
        let reason: Arc<str> = error.to_string().into();
        if self.failure.set(reason.clone()).is_ok() {
            tracing::error!(%error, "the database takes no more writes");
            self.tell(&News::Failed(reason));
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// What every write gets once the store has failed.
    pub(super) fn failure(&self) -> Option<DbError> {
        self.failure.get().map(|reason| DbError::new(DbErrorKind::OutcomeUnknown, reason))
    }

    /// How long a reader may hold the log before it is worth a warning.
    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, reason = "tests shorten it here")]
    pub(super) fn patience(&self) -> Duration {
        super::pin::PATIENCE
    }

    #[cfg(feature = "testing")]
    pub(super) fn patience(&self) -> Duration {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(super::pin::PATIENCE)
    }

    #[cfg(feature = "testing")]
    pub(super) fn set_patience(&self, patience: Duration) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = Some(patience);
    }

    #[cfg(feature = "testing")]
    pub(super) fn inject(&self, injected: Injected) {
        *self.injected.lock().unwrap_or_else(PoisonError::into_inner) = Some(injected);
    }

    #[cfg(feature = "testing")]
    pub(super) fn take_injected(&self, stage: super::Stage) -> Option<i32> {
        let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = injected.take_if(|injected| injected.stage == stage);
        taken.map(|injected| injected.code)
    }
}
