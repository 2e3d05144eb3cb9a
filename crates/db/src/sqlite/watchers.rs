//! What the handle and its threads share: who wants news, and whether the store has failed.

use outlive_core::port::{News, Watcher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Shared by a handle's clones and its threads.
#[derive(Default)]
pub(super) struct Watchers {
    list: Mutex<Vec<Watcher>>,
    has_any: AtomicBool,
    has_failed: AtomicBool,
    #[cfg(feature = "testing")]
    injected: Mutex<Option<Injected>>,
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

    pub(super) fn set_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
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
