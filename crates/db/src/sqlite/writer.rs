//! The one thread that writes. What queued up while it was busy becomes one transaction, so that many commits share one
//! sync; when that has succeeded, and not before, everyone is answered.
//!
//! ```text
//! callers ──► mailbox ──► [ BEGIN IMMEDIATE, operation*, counts, COMMIT ] ──► are the files there? ──► answers ──► the copier
//!                │ idle: are the files there? has another process committed? ──► watchers ◄── what the group did
//! ```
//! It must never know what an operation does. The invariant: an answer `Ok`, and any news, is sent only after a
//! successful `COMMIT` into files that are still at their paths.

use super::copier::{self, Copier, Rest};
use super::failure::{Fail, Place, Stage, Verdict, verdict};
use super::mailbox::{Inbox, Mail};
use super::numbers::Numbers;
use super::presence::{Lost, Presence};
use super::tables::Tables;
use super::vacuum::Vacuum;
use super::watchers::Watchers;
use outlive_core::port::{DbError, News};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Operations in one transaction, at most.
const GROUP_MAX: usize = 512;
/// A pause in the arrivals this long, as a part of a sync, ends the gathering of a group.
const SYNC_PART: u32 = 16;
/// The longest gathering.
const PAUSE_MAX: Duration = Duration::from_micros(500);
/// It is quiet when no more calls than this were in progress at the end of a group.
const QUIET_CALLS: usize = 4;
/// How often to check whether another process committed; news is promised within 50 ms.
pub(super) const NEWS_INTERVAL: Duration = Duration::from_millis(20);

/// One call that waits in the mailbox.
pub(super) trait Operation: Send {
    /// Does it, and keeps the outcome under the port's rules. Can be repeated after a rollback.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), rusqlite::Error>;

    /// Tells the caller what was kept.
    fn answer(self: Box<Self>);

    /// Tells the caller that nothing was done.
    fn refuse(self: Box<Self>, error: DbError);
}

/// A call made from a closure and the place for its answer.
pub(super) struct Call<F, T> {
    pub(super) work: F,
    pub(super) result: Option<Result<T, DbError>>,
    pub(super) reply: oneshot::Sender<Result<T, DbError>>,
}

impl<F, T> Operation for Call<F, T>
where
    F: FnMut(&mut Tables<'_>) -> Result<T, Fail> + Send,
    T: Send,
{
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<(), rusqlite::Error> {
        self.result = match (self.work)(tables) {
            Ok(value) => Some(Ok(value)),
            Err(Fail::Said(error)) => Some(Err(error)),
            Err(Fail::Sqlite(error)) => return Err(error),
        };
        Ok(())
    }

    fn answer(self: Box<Self>) {
        if let Some(result) = self.result {
            // A caller that is gone needs no answer.
            drop(self.reply.send(result));
        }
    }

    fn refuse(self: Box<Self>, error: DbError) {
        drop(self.reply.send(Err(error)));
    }
}

type Group = Vec<Box<dyn Operation>>;

/// Why a group was not written, as far as is known.
enum Trouble {
    /// SQLite refused.
    Sqlite(Stage, rusqlite::Error),
    /// A file is not what it was.
    Lost(Lost),
}

/// The thread's state.
pub(super) struct Writer<'c> {
    pub(super) tables: Tables<'c>,
    pub(super) inbox: Inbox<Box<dyn Operation>>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) numbers: Arc<Numbers>,
    pub(super) place: Place,
    /// Length of the write-ahead log, kept by SQLite's hook.
    pub(super) log_pages: Arc<AtomicI32>,
    pub(super) copier: Copier,
    pub(super) presence: Presence,
    pub(super) vacuum: Vacuum,
    /// Changes when another process commits.
    pub(super) data_version: i64,
    pub(super) looked_at: Instant,
    /// How long the last `COMMIT` took.
    pub(super) sync_time: Duration,
    /// Calls that it answered, or that waited when it ended.
    pub(super) in_flight: usize,
}

impl Writer<'_> {
    /// Works until every handle is gone and everything is done.
    pub(super) fn run(mut self) {
        loop {
            let limit = self.watchers.has_any().then_some(NEWS_INTERVAL);
            match self.inbox.wait(limit) {
                Mail::Work => {
                    let group = self.gather();
                    self.execute(group);
                }
                Mail::Idle => self.give_back_pages(),
                Mail::Closed => break,
            }
            self.copy_log();
            self.look_for_news();
        }
        self.copier.close();
        if self.watchers.has_failed() {
            super::open::keep_log_on_close(self.tables.connection());
        } else {
            drop(copier::copy(self.tables.connection(), &self.numbers));
        }
    }

    /// Callers that were just answered often come back at once. Waiting a small part of a sync for them lets every sync
    /// serve all of them, not just every second one; a caller that is alone never waits.
    fn gather(&self) -> Group {
        let pause = (self.sync_time / SYNC_PART).min(PAUSE_MAX);
        self.inbox.wait_for(self.in_flight.min(GROUP_MAX), pause);
        self.inbox.take(GROUP_MAX)
    }

    fn execute(&mut self, mut group: Group) {
        if let Some(failure) = self.watchers.failure() {
            return self.refuse(group, &failure);
        }
        let Err(trouble) = self.attempt(&mut group) else {
            group.into_iter().for_each(Operation::answer);
            return self.tables.take_news().iter().for_each(|news| self.watchers.tell(news));
        };
        self.roll_back();
        match trouble {
            Trouble::Lost(lost) => {
                self.salvage(&lost);
                self.fail_for_good(group, self.place.lost(&lost));
            }
            Trouble::Sqlite(stage, error) => match verdict(stage, &error) {
                Verdict::FailForGood => {
                    // If a file was lost, that is the reason.
                    let lost = self.look_at_files().inspect_err(|lost| self.salvage(lost));
                    let lost = lost.map_err(|lost| self.place.lost(&lost));
                    self.fail_for_good(group, lost.err().unwrap_or_else(|| self.place.unsynced(&error)));
                }
                Verdict::OneByOne if group.len() > 1 => group.into_iter().for_each(|one| self.execute(vec![one])),
                Verdict::OneByOne | Verdict::RefuseAll => self.refuse(group, &self.place.error(&error)),
            },
        }
    }

    fn attempt(&mut self, group: &mut Group) -> Result<(), Trouble> {
        self.presence.look_at_log(self.log_len(), || log_len(self.tables.connection())).map_err(Trouble::Lost)?;
        self.write(group).map_err(|(stage, error)| Trouble::Sqlite(stage, error))?;
        self.look_at_files().map_err(Trouble::Lost)
    }

    fn write(&mut self, group: &mut Group) -> Result<(), (Stage, rusqlite::Error)> {
        self.statement(Stage::Begin, "BEGIN IMMEDIATE")?;
        for operation in group.iter_mut() {
            self.injected(Stage::Work)?;
            operation.apply(&mut self.tables).map_err(|error| (Stage::Work, error))?;
        }
        self.tables.write_counts().map_err(|error| (Stage::Work, error))?;
        let begun = Instant::now();
        self.statement(Stage::Commit, "COMMIT")?;
        self.sync_time = begun.elapsed();
        self.tables.committed();
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

    /// After a failed sync the kernel may have dropped what was to be written, and a later sync would not say so. What
    /// was written into a file that is gone is gone with it.
    fn fail_for_good(&self, group: Group, error: DbError) {
        self.watchers.fail(error);
        if let Some(failure) = self.watchers.failure() {
            self.refuse(group, &failure);
        }
    }

    fn salvage(&self, lost: &Lost) {
        copier::salvage(lost, self.tables.connection(), &self.presence, &self.numbers);
    }

    /// Pages of the log, as far as this process knows.
    fn log_len(&self) -> i32 {
        self.log_pages.load(Ordering::Relaxed)
    }

    fn look_at_files(&self) -> Result<(), Lost> {
        let (pages, connection) = (self.log_pages.load(Ordering::Relaxed), self.tables.connection());
        self.presence.look(pages, || log_len(connection))?;
        self.tables.look_at_locks()
    }

    fn copy_log(&mut self) {
        if self.watchers.has_failed() {
            return;
        }
        let log = self.log_len();
        let is_quiet = self.in_flight <= QUIET_CALLS;
        if self.copier.look(log, is_quiet) == Rest::Copy
            && let Err(error) = self.copier.copy_rest(self.tables.connection(), log)
        {
            self.report(&error);
        }
    }

    /// With nothing else to do, and if nobody needs the log, shortens the file by some of its free pages.
    fn give_back_pages(&mut self) {
        if self.watchers.has_failed() || self.copier.is_held() {
            return;
        }
        if let Err(error) = self.vacuum.step(self.tables.connection(), &self.numbers) {
            self.report(&error);
        }
    }

    fn report(&self, error: &rusqlite::Error) {
        let connection = self.tables.connection();
        copier::report(error, connection, &self.presence, &self.numbers, &self.place, &self.watchers);
    }

    fn look_for_news(&mut self) {
        if !self.watchers.has_any() || self.looked_at.elapsed() < NEWS_INTERVAL / 2 {
            return;
        }
        self.looked_at = Instant::now();
        if self.watchers.has_failed() {
            return;
        }
        if let Err(lost) = self.look_at_files() {
            self.salvage(&lost);
            return self.watchers.fail(self.place.lost(&lost));
        }
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

/// Pages of the log, as SQLite knows.
fn log_len(connection: &Connection) -> Option<i32> {
    copier::measure(connection).ok().flatten().map(|pass| pass.log)
}
