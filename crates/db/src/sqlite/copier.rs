//! Copies the write-ahead log into the database beside the writer, so that nobody's `COMMIT` waits for megabytes.
//!
//! SQLite lets one connection copy while another appends, but the log can start again from its beginning only when
//! nothing is left to copy. So the copier's thread does the bulk, and the writer the short rest, between two groups. A
//! log that starts again often also stays short, and a commit that overwrites a file is cheaper than one that extends it.

use super::failure::{Place, Stage, Verdict, verdict};
use super::numbers::Numbers;
use super::watchers::Watchers;
use outlive_core::port::{DbError, News};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

/// Pages to copy that make a pass worth its syncs while many write (16 MB).
const PASS_PAGES: i32 = 4000;
/// And while few do (2 MB): then syncs are to spare, and what counts is how long a lone commit takes.
const QUIET_PASS_PAGES: i32 = 500;
/// A rest this short is left to the writer (512 KB).
const REST_PAGES: i32 = 128;
/// Passes after which the writer takes the rest, however long: it writes faster than the copier copies.
const PASSES_MAX: u32 = 3;
/// Length of the log at which the writer waits for readers, so that it can start again (160 MB).
const RESTART_PAGES: i32 = 40_000;

/// Pages of the log, from its beginning.
type Pages = i32;
/// Stands for a pass that is under way.
const COPYING: Pages = -1;

/// The writer's view of the copying.
pub(super) struct Copier {
    /// None once it has been closed.
    requests: Option<SyncSender<()>>,
    /// What the last pass copied, or [`COPYING`].
    copied: Arc<AtomicI32>,
    /// Passes since all was last copied.
    passes: u32,
    /// How long the log was then.
    left: Pages,
    join: Option<JoinHandle<()>>,
}

/// What the writer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// Copy what is left, without waiting for anyone.
    Copy,
    /// Copy what is left and wait for readers.
    CopyAndWait,
}

impl Copier {
    /// Starts the thread, on a connection of its own.
    pub(super) fn start(
        connection: Connection,
        place: Place,
        watchers: Arc<Watchers>,
        numbers: Arc<Numbers>,
    ) -> Result<Self, DbError> {
        let (requests, inbox) = mpsc::sync_channel(1);
        let copied = Arc::new(AtomicI32::new(0));
        let noted = copied.clone();
        let work = move || {
            for () in inbox {
                let pages = copy(&connection, "PASSIVE", &numbers).unwrap_or_else(|error| {
                    report(&error, &place, &watchers);
                    0
                });
                noted.store(pages, Ordering::Release);
            }
        };
        let join = Some(super::spawn("outlive-db-copier", work)?);
        Ok(Self { requests: Some(requests), copied, passes: 0, left: 0, join })
    }

    /// Looks at a log of this length, between two groups: starts a pass when it is long, and says when the rest is due.
    pub(super) fn look(&mut self, log: Pages, is_quiet: bool) -> Rest {
        let copied = self.copied.load(Ordering::Acquire);
        if copied == COPYING {
            return Rest::Nothing;
        }
        self.left = self.left.min(log);
        if self.passes > 0 && log <= copied {
            self.rest_is_copied(log);
        }
        if self.passes > 0 && (log - copied <= REST_PAGES || self.passes >= PASSES_MAX) {
            return if log < RESTART_PAGES { Rest::Copy } else { Rest::CopyAndWait };
        }
        let pass = if is_quiet { QUIET_PASS_PAGES } else { PASS_PAGES };
        if self.passes > 0 || log - self.left >= pass {
            self.begin_pass();
        }
        Rest::Nothing
    }

    /// All of a log of this length is copied; if a reader still needs it, it goes on growing.
    pub(super) fn rest_is_copied(&mut self, log: Pages) {
        self.passes = 0;
        self.left = log;
    }

    fn begin_pass(&mut self) {
        self.copied.store(COPYING, Ordering::Relaxed);
        let begun = self.requests.as_ref().is_some_and(|requests| requests.try_send(()).is_ok());
        if begun {
            self.passes += 1;
        } else {
            self.copied.store(0, Ordering::Relaxed);
        }
    }

    /// Waits for a pass that is under way and closes the connection.
    pub(super) fn close(&mut self) {
        self.requests = None;
        self.join.take().into_iter().for_each(super::join);
    }
}

/// Copies what can be copied; gives how many pages of the log are in the database now.
pub(super) fn copy(connection: &Connection, mode: &str, numbers: &Numbers) -> rusqlite::Result<Pages> {
    let begun = Instant::now();
    let copied = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(2));
    match copied {
        Ok(_) => numbers.copied(begun.elapsed()),
        Err(_) => numbers.failed(1),
    }
    copied
}

/// A copy that failed loses nothing, unless its sync failed: then nobody knows what the disk holds.
pub(super) fn report(error: &rusqlite::Error, place: &Place, watchers: &Watchers) {
    if verdict(Stage::Commit, error) == Verdict::FailForGood {
        tracing::error!(%error, "the database takes no more writes: restart the process");
        watchers.set_failed();
        watchers.tell(&News::Failed);
    } else {
        tracing::warn!(error = %place.error(error), "the write-ahead log was not copied and grows");
    }
}
