//! What the threads count, and what the operating system says of the files. It decides nothing; counting takes no lock.

use outlive_core::port::{Health, Room, Total};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counted by a handle's threads.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    errors: AtomicU64,
    groups: AtomicU64,
    grouped: AtomicU64,
    copies: AtomicU64,
    copying_micros: AtomicU64,
}

impl Numbers {
    /// So many calls failed, or one copy.
    pub(super) fn failed(&self, calls: usize) {
        self.errors.fetch_add(calls as u64, Ordering::Relaxed);
    }

    /// A transaction was written that so many calls shared.
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

    /// All of it, of the database at `path`.
    pub(super) fn health(&self, path: &Path) -> Health {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Health {
            room: room(path),
            log_bytes: log_bytes(path),
            errors: read(&self.errors),
            groups: Total { count: read(&self.groups), sum: read(&self.grouped) },
            copies: Total { count: read(&self.copies), sum: Duration::from_micros(read(&self.copying_micros)) },
        }
    }
}

fn log_bytes(path: &Path) -> Option<u64> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(log).ok().map(|log| log.len())
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
