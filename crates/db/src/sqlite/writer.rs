//! The one thread that writes. What has queued up while it was busy becomes one transaction, so that many commits share
//! one sync; when that has succeeded, and not before, everyone is answered.
//!
//! ```text
//! callers ──► mailbox ──► [ BEGIN IMMEDIATE, operation*, COMMIT ] ──► answers ──► the copier
//!                │ idle: has another process committed? ──► watchers ◄── what the group did
//! ```
//! It must never know what an operation does. The invariant: an answer `Ok` is sent only after a successful `COMMIT`, and
//! so is news.

use super::copier::{self, Copier, Rest};
use super::failure::{Fail, Place, Stage, Verdict, verdict};
use super::mailbox::{Inbox, Mail};
use super::numbers::Numbers;
use super::tables::Tables;
use super::watchers::Watchers;
use outlive_core::port::{DbError, News};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Operations in one transaction, at most.
const GROUP_MAX: usize = 512;
/// How long a pause in the arrivals ends the gathering of a group, as a part of a sync.
const SYNC_PART: u32 = 16;
/// And at most.
const PAUSE_MAX: Duration = Duration::from_micros(500);
/// It is quiet when no more calls than these were under way at the end of a group.
const QUIET_CALLS: usize = 4;
/// How often to look whether another process committed; news is promised within 50 ms.
const NEWS_INTERVAL: Duration = Duration::from_millis(20);

/// One call that waits in the mailbox.
pub(super) trait Operation: Send {
    /// Does it, and keeps what the port's rules made of it. Can be repeated after a rollback.
    fn apply(&mut self, tables: &mut Tables) -> Result<(), rusqlite::Error>;

    /// Tells the caller what was kept.
    fn answer(self: Box<Self>);

    /// Tells the caller that nothing was done.
    fn refuse(self: Box<Self>, error: DbError);
}

/// A call made of a closure and the place for its answer.
pub(super) struct Call<F, T> {
    pub(super) work: F,
    pub(super) result: Option<Result<T, DbError>>,
    pub(super) reply: oneshot::Sender<Result<T, DbError>>,
}

impl<F, T> Operation for Call<F, T>
where
    F: FnMut(&mut Tables) -> Result<T, Fail> + Send,
    T: Send,
{
    fn apply(&mut self, tables: &mut Tables) -> Result<(), rusqlite::Error> {
        self.result = match (self.work)(tables) {
            Ok(value) => Some(Ok(value)),
            Err(Fail::Said(error)) => Some(Err(error)),
            Err(Fail::Sqlite(error)) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(result) = self.result {
            // A caller that has gone needs no answer.
            drop(self.reply.send(result));
        }
    }

    fn refuse(self: Box<Self>, error: DbError) {
        drop(self.reply.send(Err(error)));
    }
}

type Group = Vec<Box<dyn Operation>>;

/// The thread's state.
pub(super) struct Writer {
    pub(super) tables: Tables,
    pub(super) inbox: Inbox<Box<dyn Operation>>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) numbers: Arc<Numbers>,
    pub(super) place: Place,
    /// Length of the write-ahead log, kept by SQLite's hook.
    pub(super) log_pages: Arc<AtomicI32>,
    pub(super) copier: Copier,
    /// Changes when another process commits.
    pub(super) data_version: i64,
    pub(super) looked_at: Instant,
    /// How long the last `COMMIT` took.
    pub(super) sync_time: Duration,
    /// Calls that were answered by it or waited at its end.
    pub(super) in_flight: usize,
}

impl Writer {
    /// Works until every handle is gone and everything is done.
    pub(super) fn run(mut self) {
        loop {
            let limit = self.watchers.has_any().then_some(NEWS_INTERVAL);
            match self.inbox.wait(limit) {
                Mail::Work => {
                    let group = self.gather();
                    self.execute(group);
                }
                Mail::Idle => {}
                Mail::Closed => break,
            }
            self.copy_log();
            self.look_for_news();
        }
        self.copier.close();
        if self.watchers.has_failed() {
            super::open::keep_log_on_close(self.tables.connection());
        } else {
            drop(copier::copy(self.tables.connection(), "PASSIVE", &self.numbers));
        }
    }

    /// Callers that were just answered often come back at once. Waiting a small part of a sync for them lets one sync
    /// serve all of them instead of every second one; a caller that is alone never waits.
    fn gather(&self) -> Group {
        let pause = (self.sync_time / SYNC_PART).min(PAUSE_MAX);
        self.inbox.wait_for(self.in_flight.min(GROUP_MAX), pause);
        self.inbox.take(GROUP_MAX)
    }

    fn execute(&mut self, mut group: Group) {
        if self.watchers.has_failed() {
            return self.refuse(group, &self.place.failed());
        }
        let Err((stage, error)) = self.attempt(&mut group) else {
            group.into_iter().for_each(Operation::answer);
            return self.tables.take_news().iter().for_each(|news| self.watchers.tell(news));
        };
        self.roll_back();
        match verdict(stage, &error) {
            Verdict::FailForGood => self.fail_for_good(group, &error),
            Verdict::OneByOne if group.len() > 1 => group.into_iter().for_each(|one| self.execute(vec![one])),
            Verdict::OneByOne | Verdict::RefuseAll => self.refuse(group, &self.place.error(&error)),
        }
    }

    fn attempt(&mut self, group: &mut Group) -> Result<(), (Stage, rusqlite::Error)> {
        self.statement(Stage::Begin, "BEGIN IMMEDIATE")?;
        for operation in group.iter_mut() {
            self.injected(Stage::Work)?;
            operation.apply(&mut self.tables).map_err(|error| (Stage::Work, error))?;
        }
        let begun = Instant::now();
        self.statement(Stage::Commit, "COMMIT")?;
        self.sync_time = begun.elapsed();
        self.numbers.grouped(group.len());
        self.in_flight = group.len() + self.inbox.len();
        Ok(())
    }

    fn statement(&self, stage: Stage, sql: &str) -> Result<(), (Stage, rusqlite::Error)> {
        self.injected(stage)?;
        let done = self.tables.connection().prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        done.map(drop).map_err(|error| (stage, error))
    }

    #[cfg(feature = "testing")]
    fn injected(&self, stage: Stage) -> Result<(), (Stage, rusqlite::Error)> {
        match self.watchers.take_injected(stage) {
            Some(code) => Err((stage, super::failure::with_code(code))),
            None => Ok(()),
        }
    }

    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests inject errors here")]
    fn injected(&self, _: Stage) -> Result<(), (Stage, rusqlite::Error)> {
        Ok(())
    }

    fn roll_back(&mut self) {
        self.tables.forget();
        let connection = self.tables.connection();
        // Some errors have rolled back already.
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            tracing::warn!(%error, "cannot roll back");
        }
    }

    fn refuse(&self, group: Group, error: &DbError) {
        self.numbers.failed(group.len());
        group.into_iter().for_each(|operation| operation.refuse(error.clone()));
    }

    /// After a failed sync the kernel may have dropped what was to be written, and a later sync would not say so.
    fn fail_for_good(&self, group: Group, error: &rusqlite::Error) {
        tracing::error!(%error, "the database takes no more writes: restart the process");
        self.watchers.set_failed();
        self.refuse(group, &self.place.failed());
        self.watchers.tell(&News::Failed);
    }

    fn copy_log(&mut self) {
        if self.watchers.has_failed() {
            return;
        }
        let log = self.log_pages.load(Ordering::Relaxed);
        let is_quiet = self.in_flight <= QUIET_CALLS;
        let mode = match self.copier.look(log, is_quiet) {
            Rest::Nothing => return,
            Rest::Copy => "PASSIVE",
            Rest::CopyAndWait => "RESTART",
        };
        if let Err(error) = copier::copy(self.tables.connection(), mode, &self.numbers) {
            copier::report(&error, &self.place, &self.watchers);
        }
        self.copier.rest_is_copied(log);
    }

    fn look_for_news(&mut self) {
        if !self.watchers.has_any() || self.looked_at.elapsed() < NEWS_INTERVAL / 2 {
            return;
        }
        self.looked_at = Instant::now();
        match super::open::data_version(self.tables.connection()) {
            Ok(version) if version != self.data_version => {
                self.data_version = version;
                self.watchers.tell(&News::Anything);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot look for news"),
        }
    }
}
