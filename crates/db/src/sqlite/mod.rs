//! One file with full durability: `SqliteDb`.
//!
//! ```text
//!            ┌─ mailbox ─► writer thread ─► write connection ─┐
//! SqliteDb ──┼─ mailbox ─► reader thread ─► read connection ──┼─► the file, and its write-ahead log
//!            └─ mailbox ─► reader thread ─► read connection ──┤
//!               writer ──► copier thread ─► its connection ───┘
//! ```
//! A store that is only looked at has one thread, which reads (`look`).
//!
//! This is the one place with SQL. It keeps text, and must never know what is in a page, an input or an output. The
//! invariant: whatever a method has answered with `Ok` survives the loss of the process and of power.

mod audit;
mod batches;
mod budgets;
mod copier;
mod copy;
mod counts;
mod disk;
mod failure;
mod header;
mod hooks;
mod keys;
mod lists;
mod look;
mod mailbox;
mod migrate;
mod numbers;
mod open;
mod pin;
mod presence;
mod questions;
mod rates;
mod reader;
mod retention;
mod rows;
mod schedules;
mod schema;
mod statements;
mod tables;
mod vacuum;
mod watchers;
mod workers;
mod writer;

pub use copy::{Adopted, Backup};
pub use keys::{Inspection, LogInspection, StoredKey};
pub use migrate::Migrated;
pub use vacuum::Vacuumed;

#[cfg(feature = "testing")]
pub use failure::Stage;
#[cfg(feature = "testing")]
pub use watchers::Injected;

use copier::Copier;
use failure::{Fail, Place};
use look::{Looker, View};
use mailbox::{Mailbox, mailbox};
use numbers::Numbers;
use outlive_core::port::{
    Accepted, Access, BoxFuture, CancelIntent, Cancelled, Claim, Claimed, Commit, Db, DbError, DbErrorKind, Health,
    Lease, LivingWorker, LogStore, NewRun, NewSession, Run, RunFilter, RunPage, RunStore, Session, SessionFilter,
    SessionPage, SessionPatch, SessionStore, Unfinished, Watcher,
};
use outlive_core::{Page, RunId, SessionId, Timestamp, WorkerId};
use presence::Presence;
use reader::{Reader, Reading};
use schema::Sql;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tables::Tables;
use tokio::sync::{OnceCell, oneshot};
use vacuum::Vacuum;
use watchers::Watchers;
use workers::Locks;
use writer::{Call, Operation, Writer};

/// A store in one SQLite file. Cheap to clone; several processes may use one file at the same time.
///
/// The file, and the directories above it, are made at first use, for the owner only. While it is open, `-wal` and
/// `-shm` lie beside it, and a directory `-workers` with a lock file for each living worker. A file that is not ours is
/// refused and not touched. When the last clone is dropped, submitted work is finished and the file is closed.
///
/// # Cancel safety
/// A call whose future is dropped may still happen; repeat it, or read to find out. If the future is dropped before it
/// is first polled, nothing happens.
///
/// ```no_run
/// use outlive_core::port::Db;
/// use outlive_db::SqliteDb;
///
/// # async fn example() -> Result<(), outlive_core::port::DbError> {
/// let db = SqliteDb::new("tmp/workflow.db").session_table("workflow_session");
/// db.open().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteDb {
    handle: Arc<Handle>,
}

struct Handle {
    path: PathBuf,
    session_table: String,
    aim: Aim,
    watchers: Arc<Watchers>,
    numbers: Arc<Numbers>,
    threads: OnceCell<Threads>,
}

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// Reading and writing.
    Use,
    /// Reading only.
    Look,
}

/// The threads of an open store, and the mailboxes that lead to them.
struct Threads {
    writer: Option<Mailbox<Box<dyn Operation>>>,
    readers: Vec<Mailbox<Reading>>,
    next_reader: AtomicUsize,
    reader_joins: Vec<JoinHandle<()>>,
    writer_join: Option<JoinHandle<()>>,
}

/// Read connections.
const READERS: usize = 2;

impl fmt::Debug for SqliteDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteDb")
            .field("path", &self.handle.path)
            .field("session_table", &self.handle.session_table)
            .field("aim", &self.handle.aim)
            .finish_non_exhaustive()
    }
}

impl SqliteDb {
    /// The store at `path`. Nothing is opened or made yet; problems show at [`Db::open`] or at first use.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with(path.into(), schema::SESSION_TABLE.to_owned(), Aim::Use)
    }

    /// Keeps sessions in the table `name`, and runs in tables named after it; `outlive_sessions` by default. Letters,
    /// digits and `_`, 64 at most, no digit first; anything else is an error when the store is opened.
    #[must_use]
    pub fn session_table(self, name: impl Into<String>) -> Self {
        Self::with(self.handle.path.clone(), name.into(), self.handle.aim)
    }

    /// Only looks at a file, which must exist: nothing is made or changed, so neither the file nor its directory need
    /// be writable. Concurrent writes by others are seen. A write gets `ReadOnly`; a worker may register, and finds
    /// nothing to do.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self::with(self.handle.path.clone(), self.handle.session_table.clone(), Aim::Look)
    }

    /// The session tables the file holds, oldest first; the file must exist. Nothing is created.
    ///
    /// # Errors
    /// `Refused` when the file is not one of ours, `Corrupt`, `Busy`, `Storage`.
    pub fn session_tables(&self) -> Result<Vec<String>, DbError> {
        let view = View::open(self.path())?;
        schema::session_tables(&view.connection).map_err(|error| Place::new(self.path()).error(&error))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.handle.path
    }

    /// Lets this much time pass, as far as judging whether another worker has fallen silent.
    ///
    /// # Panics
    /// When the store cannot be opened.
    #[cfg(feature = "testing")]
    pub async fn skip(&self, time: Duration) {
        let skipped = self.write(move |tables| {
            tables.skip(time);
            Ok(())
        });
        skipped.await.expect("the store opens");
    }

    /// Makes the next transaction fail like this.
    #[cfg(feature = "testing")]
    pub fn inject(&self, injected: Injected) {
        self.handle.watchers.inject(injected);
    }

    /// Warns about a reader that has held the log for this long.
    #[cfg(feature = "testing")]
    pub fn warn_of_readers_after(&self, patience: Duration) {
        self.handle.watchers.set_patience(patience);
    }

    fn with(path: PathBuf, session_table: String, aim: Aim) -> Self {
        let (watchers, numbers) = (Arc::default(), Arc::default());
        Self { handle: Arc::new(Handle { path, session_table, aim, watchers, numbers, threads: OnceCell::new() }) }
    }

    async fn threads(&self) -> Result<&Threads, DbError> {
        self.handle.threads.get_or_try_init(|| self.handle.start()).await
    }

    /// Makes the writer do `work` in its next transaction.
    async fn write<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tables<'_>) -> Result<T, Fail> + Send + 'static,
    {
        let Some(writer) = self.threads().await?.writer.as_ref() else {
            let path = self.handle.path.display();
            let message = format!("database {path} was opened to look at it: open it to write, then do that again");
            return Err(DbError::new(DbErrorKind::ReadOnly, message));
        };
        let (reply, answer) = oneshot::channel();
        let result = None;
        let is_sent = writer.send(Box::new(Call { work, result, reply })).await;
        match answer.await {
            Ok(answer) if is_sent => answer,
            // The thread died while it held the call.
            _ => Err(Place::new(&self.handle.path).unanswered()),
        }
    }

    /// Makes a reader do `work`.
    async fn read_with<T, F>(&self, work: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&Reader) -> Result<T, Fail> + Send + 'static,
    {
        let threads = self.threads().await?;
        let next = threads.next_reader.fetch_add(1, Ordering::Relaxed) % threads.readers.len();
        let (reply, answer) = oneshot::channel();
        let reading: Reading = Box::new(move |reader| {
            // A caller that is gone needs no answer.
            drop(reply.send(work(reader).map_err(|fail| reader.failed(fail))));
        });
        let is_sent = threads.readers[next].send(reading).await;
        match answer.await {
            Ok(answer) if is_sent => answer,
            _ => {
                let path = self.handle.path.display();
                let message = format!("the reader of database {path} has died: restart the process");
                Err(DbError::new(DbErrorKind::Storage, message))
            }
        }
    }
}

impl Handle {
    /// Opens the file on the thread that will write to it, because opening blocks.
    async fn start(&self) -> Result<Threads, DbError> {
        let (path, watchers, numbers) = (self.path.clone(), self.watchers.clone(), self.numbers.clone());
        let sql = Arc::new(Sql::new(&self.session_table));
        if self.aim == Aim::Look {
            return look(path, sql, watchers, numbers).await;
        }
        let (report, opened) = oneshot::channel();
        let writer = move || {
            let mut report = Some(report);
            // If the caller was dropped, nobody waits any more; then the threads find their mailboxes closed.
            let tell = |threads| report.take().is_some_and(|report| report.send(Ok(threads)).is_ok());
            let written = write(&path, &sql, &watchers, &numbers, tell);
            if let (Err(error), Some(report)) = (written, report) {
                drop(report.send(Err(error)));
            }
        };
        let join = spawn("outlive-db-writer", writer)?;
        let mut threads = opened.await.map_err(|_| died())??;
        threads.writer_join = Some(join);
        Ok(threads)
    }
}

fn died() -> DbError {
    DbError::new(DbErrorKind::Storage, "the thread that opened the database has died: restart the process")
}

/// Does `work`, which blocks, on its own thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, DbError> + Send + 'static) -> Result<T, DbError> {
    let (reply, answer) = oneshot::channel();
    // A caller that is gone needs no answer.
    spawn("outlive-db-file", move || drop(reply.send(work())))?;
    answer.await.map_err(|_| died())?
}

/// Opens the file to look at it, on the thread that will read.
async fn look(
    path: PathBuf,
    sql: Arc<Sql>,
    watchers: Arc<Watchers>,
    numbers: Arc<Numbers>,
) -> Result<Threads, DbError> {
    let (sender, inbox) = mailbox();
    let (report, opened) = oneshot::channel();
    let work = move || match View::of_tables(&path, &sql) {
        Ok(view) => {
            let (place, locks) = (Place::new(&path), Locks::new(&path));
            let reader = |connection| Reader { connection, sql, place, locks, watchers, numbers };
            if report.send(Ok(())).is_ok() {
                Looker::new(view, reader).serve(&inbox);
            }
        }
        Err(error) => drop(report.send(Err(error))),
    };
    let join = spawn("outlive-db-looker", work)?;
    opened.await.map_err(|_| died())??;
    let (readers, reader_joins) = (vec![sender], vec![join]);
    Ok(Threads { writer: None, readers, next_reader: AtomicUsize::new(0), reader_joins, writer_join: None })
}

/// Opens the file, starts the other threads, tells of them, and if anybody hears of it, writes until every handle is gone.
fn write(
    path: &Path,
    sql: &Arc<Sql>,
    watchers: &Arc<Watchers>,
    numbers: &Arc<Numbers>,
    tell: impl FnOnce(Threads) -> bool,
) -> Result<(), DbError> {
    let given = path;
    let open::Opened { path, writer: mut connection } = open::open(path, sql)?;
    let place = Place::new(&path);
    let mut readers = Vec::new();
    let mut reader_joins = Vec::new();
    for _ in 0..READERS {
        let reader = Reader {
            connection: open::open_reader(&path)?,
            sql: sql.clone(),
            place: place.clone(),
            watchers: watchers.clone(),
            numbers: numbers.clone(),
            locks: Locks::new(&path),
        };
        let (sender, inbox) = mailbox();
        reader_joins.push(spawn("outlive-db-reader", move || reader.serve(&inbox))?);
        readers.push(sender);
    }
    let log_pages = Arc::new(AtomicI32::new(0));
    let noted = log_pages.clone();
    let note = move |_: &mut rusqlite::hooks::Wal, pages| {
        noted.store(pages, Ordering::Relaxed);
        Ok(())
    };
    connection.wal_hook(Some(note)).map_err(|error| place.error(&error))?;
    let data_version = open::data_version(&connection).map_err(|error| place.error(&error))?;
    let page_size = open::page_size(&connection).map_err(|error| place.error(&error))?;
    let vacuum = Vacuum::of(&connection).map_err(|error| place.error(&error))?;
    let presence = Presence::of(given, &path, page_size).map_err(|error| place.io("find", &error))?;
    let copier = Copier::start(
        open::open_copier(&path)?,
        path.clone(),
        presence.clone(),
        place.clone(),
        watchers.clone(),
        numbers.clone(),
    )?;
    let (sender, inbox) = mailbox();
    let writer = Writer {
        tables: Tables::new(&connection, sql.clone(), Locks::new(&path)),
        inbox,
        watchers: watchers.clone(),
        numbers: numbers.clone(),
        place,
        log_pages,
        copier,
        presence,
        vacuum,
        data_version,
        looked_at: Instant::now(),
        sync_time: Duration::ZERO,
        in_flight: 0,
    };
    let threads =
        Threads { writer: Some(sender), readers, next_reader: AtomicUsize::new(0), reader_joins, writer_join: None };
    if tell(threads) {
        writer.run();
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, DbError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    spawned.map_err(|error| DbError::new(DbErrorKind::Storage, format!("cannot start a thread: {error}")))
}

impl Drop for Threads {
    /// Closes the mailboxes and waits until their contents are done. The writer's goes last, so that its connection is
    /// the last to close, which empties the write-ahead log.
    fn drop(&mut self) {
        self.readers.clear();
        self.reader_joins.drain(..).for_each(join);
        self.writer = None;
        self.writer_join.take().into_iter().for_each(join);
    }
}

fn join(handle: JoinHandle<()>) {
    // A watcher may hold the last handle, and then this is the writer's own thread.
    if handle.thread().id() != thread::current().id() && handle.join().is_err() {
        tracing::error!("a database thread panicked");
    }
}

impl RunStore for SqliteDb {
    fn create_run(
        &self,
        access: Access,
        run: NewRun,
        worker: Option<WorkerId>,
    ) -> BoxFuture<'_, Result<Accepted, DbError>> {
        Box::pin(self.write(move |tables| tables.create_run(&access, &run, worker.as_ref())))
    }

    fn run(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.run(&access, &run_id)))
    }

    fn run_line(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.run_line(&access, &run_id)))
    }

    fn definition(&self, hash: Arc<str>) -> BoxFuture<'_, Result<Option<Arc<str>>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.definition(&hash)))
    }

    fn runs(&self, access: Access, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.runs(&access, &filter)))
    }

    fn unfinished(&self, max: u64) -> BoxFuture<'_, Result<Unfinished, DbError>> {
        Box::pin(self.read_with(move |reader| reader.unfinished(max)))
    }

    fn heartbeat(&self, worker: WorkerId, at: Timestamp, period: Duration) -> BoxFuture<'_, Result<(), DbError>> {
        // There is nothing to hold for a worker that only looks.
        if self.handle.aim == Aim::Look {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(self.write(move |tables| tables.heartbeat(&worker, at, period)))
    }

    fn retire(&self, worker: WorkerId, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        if self.handle.aim == Aim::Look {
            return Box::pin(async { Ok(()) });
        }
        Box::pin(self.write(move |tables| tables.retire(&worker, at)))
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, DbError>> {
        Box::pin(self.write(move |tables| tables.claim(&claim)))
    }

    fn claim_run(
        &self,
        run_id: RunId,
        worker: WorkerId,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        Box::pin(self.write(move |tables| tables.claim_run(&run_id, &worker, at)))
    }

    fn reclaim(&self, lost: Lease, at: Timestamp) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        Box::pin(self.write(move |tables| tables.reclaim(&lost, at)))
    }

    fn request_cancel(
        &self,
        access: Access,
        run_id: RunId,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Cancelled, DbError>> {
        Box::pin(self.write(move |tables| tables.request_cancel(&access, &run_id, &cancel)))
    }

    fn held(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, u64)>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.held(&worker)))
    }

    fn cancels(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, CancelIntent)>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.cancels(&worker)))
    }

    fn steering(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<Run>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.steering(&run_id)))
    }

    fn workers(&self, counted: Option<Access>) -> BoxFuture<'_, Result<Vec<LivingWorker>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.workers(counted.as_ref())))
    }
}

impl LogStore for SqliteDb {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.write(move |tables| tables.commit(&commit)))
    }

    fn read(
        &self,
        access: Access,
        run_id: RunId,
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Page>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.pages(&access, &run_id, from, bytes_max)))
    }
}

impl SessionStore for SqliteDb {
    fn session(&self, access: Access, session_id: SessionId) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        Box::pin(self.read_with(move |reader| reader.session(&access, &session_id)))
    }

    fn sessions(&self, access: Access, filter: SessionFilter) -> BoxFuture<'_, Result<SessionPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.sessions(&access, &filter)))
    }

    fn create_session(&self, access: Access, session: NewSession) -> BoxFuture<'_, Result<Session, DbError>> {
        Box::pin(self.write(move |tables| tables.create_session(&access, &session)))
    }

    fn update_session(
        &self,
        access: Access,
        session_id: SessionId,
        patch: SessionPatch,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        Box::pin(self.write(move |tables| tables.update_session(&access, &session_id, &patch, at)))
    }

    fn delete_sessions(
        &self,
        access: Access,
        session_ids: Vec<SessionId>,
        force: bool,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(self.write(move |tables| tables.delete_sessions(&access, &session_ids, force)))
    }
}

impl Db for SqliteDb {
    fn location(&self) -> String {
        self.handle.path.display().to_string()
    }

    fn open(&self) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            // A watcher added meanwhile must not wait for the first write.
            self.threads().await?.nudge();
            Ok(())
        })
    }

    fn health(&self) -> Health {
        self.handle.numbers.health(&self.handle.path)
    }

    fn watch(&self, watcher: Watcher) {
        self.handle.watchers.add(watcher);
        if let Some(threads) = self.handle.threads.get() {
            threads.nudge();
        }
    }
}

impl Threads {
    fn nudge(&self) {
        match &self.writer {
            Some(writer) => writer.nudge(),
            None => self.readers.iter().for_each(Mailbox::nudge),
        }
    }
}
