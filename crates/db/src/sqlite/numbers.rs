//! What the threads count, and what the operating system says about the files. It decides nothing; what is counted on
//! each call takes no lock.

use super::presence::beside;
use outlive_core::port::{Health, Room, Total};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counted by a handle's threads.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    errors: AtomicU64,
    groups: AtomicU64,
    grouped: AtomicU64,
    copies: AtomicU64,
    copying_micros: AtomicU64,
    /// Since when a reader has held the write-ahead log.
    pinned: Mutex<Option<Instant>>,
}

impl Numbers {
    /// This many calls failed, or one copy.
    pub(super) fn failed(&self, calls: usize) {
        self.errors.fetch_add(calls as u64, Ordering::Relaxed);
    }

    /// A transaction was written that this many calls shared.
    pub(super) fn grouped(&self, calls: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.grouped.fetch_add(calls as u64, Ordering::Relaxed);
    }

    /// A copy of the write-ahead log took this long.
    pub(super) fn copied(&self, took: Duration) {
        self.copies.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.copying_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Since when a reader has held the write-ahead log, if one does.
    pub(super) fn pinned(&self, since: Option<Instant>) {
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// All the numbers of the database at `path`.
    pub(super) fn health(&self, path: &Path) -> Health {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Health {
            room: room(path),
            log_bytes: log_bytes(path),
            log_pinned: self.pinned.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed()),
            errors: read(&self.errors),
            groups: Total { count: read(&self.groups), sum: read(&self.grouped) },
            copies: Total { count: read(&self.copies), sum: Duration::from_micros(read(&self.copying_micros)) },
        }
    }
}

fn log_bytes(path: &Path) -> Option<u64> {
    std::fs::metadata(beside(path, "-wal")).ok().map(|log| log.len())
}

#[cfg(unix)]
fn room(path: &Path) -> Option<Room> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(Room {
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
    })
}

#[cfg(not(unix))]
fn room(_: &Path) -> Option<Room> {
    None
}
