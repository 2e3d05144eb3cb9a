//! Copies the write-ahead log into the database alongside the writer, so that no `COMMIT` waits for megabytes.
//!
//! SQLite lets one connection copy while another appends, but the log can start again from its beginning only when
//! nothing is left to copy. So the copier's thread copies the bulk, and the writer the short rest, between two groups.
//! A log that often starts again also stays short, and a commit that overwrites a file is cheaper than one that extends
//! it. The invariant: no copy waits for a reader. What a reader still needs stays in the log, which grows meanwhile.

use super::failure::{Place, Stage, Verdict, verdict};
use super::numbers::Numbers;
use super::pin::{self, Pages, Pass, Pin};
use super::presence::{Lost, Presence};
use super::watchers::Watchers;
use outlive_core::port::DbError;
use rusqlite::{Connection, Row};
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The pages to copy that make a pass worth its syncs while there are many writes (16 MB).
const PASS_PAGES: Pages = 4000;
/// The same while there are few (2 MB): then syncs are cheap, and what counts is how long a lone commit takes.
const QUIET_PASS_PAGES: Pages = 500;
/// A rest this short is left to the writer (512 KB).
const REST_PAGES: Pages = 128;
/// After this many passes the writer takes the rest, however long: it writes faster than the copier copies.
const PASSES_MAX: u32 = 3;
/// How often to check whether a reader still holds the log. While it does, that costs no sync.
const HELD_INTERVAL: Duration = Duration::from_secs(1);

/// The writer's view of the copying.
pub(super) struct Copier {
    /// None once it has been closed.
    requests: Option<SyncSender<()>>,
    state: Arc<Mutex<State>>,
    watchers: Arc<Watchers>,
    numbers: Arc<Numbers>,
    path: PathBuf,
    /// The last pass that ended.
    last: Pass,
    /// When it had ended.
    looked_at: Instant,
    /// Passes since everything was last copied.
    passes: u32,
    /// How long the log was then.
    left: Pages,
    /// Nothing has been copied yet. The first pass comes early, so that the database itself gets its tables and its
    /// workers.
    is_new: bool,
    pin: Pin,
    join: Option<JoinHandle<()>>,
}

/// What the copier's thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Copying,
    /// What the last pass found, if it could copy; not looked at yet.
    Done(Option<Pass>),
}

/// What the writer is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing.
    Nothing,
    /// Copy what is left.
    Copy,
}

impl Copier {
    /// Starts the thread, on its own connection.
    pub(super) fn start(
        connection: Connection,
        path: PathBuf,
        presence: Presence,
        place: Place,
        watchers: Arc<Watchers>,
        numbers: Arc<Numbers>,
    ) -> Result<Self, DbError> {
        let (requests, inbox) = mpsc::sync_channel(1);
        let state = Arc::new(Mutex::new(State::Idle));
        let (noted, counted, told) = (state.clone(), numbers.clone(), watchers.clone());
        let work = move || {
            for () in inbox {
                let pass = copy(&connection, &counted).unwrap_or_else(|error| {
                    report(&error, &connection, &presence, &counted, &place, &told);
                    None
                });
                // This may have cut the file short and made it longer again.
                if let Err(lost) = presence.look(0, || None) {
                    salvage(&lost, &connection, &presence, &counted);
                    told.fail(place.lost(&lost));
                }
                set(&noted, State::Done(pass));
            }
        };
        let join = Some(super::spawn("outlive-db-copier", work)?);
        Ok(Self {
            requests: Some(requests),
            state,
            watchers,
            numbers,
            path,
            last: Pass::default(),
            looked_at: Instant::now(),
            passes: 0,
            left: 0,
            is_new: true,
            pin: Pin::default(),
            join,
        })
    }

    /// Takes a log of this length, between two groups: starts a pass when it is long, and says when the rest is due.
    pub(super) fn look(&mut self, log: Pages, is_quiet: bool) -> Rest {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state {
            State::Copying => return Rest::Nothing,
            State::Done(pass) => {
                set(&self.state, State::Idle);
                self.note(pass);
            }
            State::Idle => {}
        }
        self.left = self.left.min(log);
        let pass = if is_quiet { QUIET_PASS_PAGES } else { PASS_PAGES };
        if self.is_held() {
            if log - self.last.log >= PASS_PAGES || self.looked_at.elapsed() >= HELD_INTERVAL {
                self.begin_pass();
            }
            return Rest::Nothing;
        }
        let copied = self.last.copied;
        if self.passes > 0 && log <= copied {
            self.rest_is_copied(log);
        }
        if self.passes > 0 && (log - copied <= REST_PAGES || self.passes >= PASSES_MAX) {
            return Rest::Copy;
        }
        if self.passes > 0 || log - self.left >= pass || (self.is_new && log > 0) {
            self.begin_pass();
        }
        Rest::Nothing
    }

    /// Copies on the writer's connection what is left of a log of this length, or as much as readers allow.
    pub(super) fn copy_rest(&mut self, connection: &Connection, log: Pages) -> rusqlite::Result<()> {
        let pass = copy(connection, &self.numbers);
        self.rest_is_copied(log);
        self.note(pass?);
        Ok(())
    }

    /// Whether a reader keeps the log from starting again.
    pub(super) fn is_held(&self) -> bool {
        self.pin.since().is_some()
    }

    /// All of a log of this length is copied; if a reader still needs it, it keeps growing.
    fn rest_is_copied(&mut self, log: Pages) {
        self.passes = 0;
        self.left = log;
    }

    fn note(&mut self, pass: Option<Pass>) {
        let was_told = self.pin.is_told();
        self.looked_at = Instant::now();
        let Some(pass) = pass else { return };
        self.last = pass;
        if let Some(lasted) = self.pin.note(pass, self.looked_at, self.watchers.patience()) {
            self.warn(lasted);
        } else if was_told && !self.pin.is_told() {
            tracing::info!(database = %self.path.display(), "no reader holds the write-ahead log any more");
        }
        self.numbers.pinned(self.pin.since());
    }

    fn warn(&self, lasted: Duration) {
        let (path, seconds) = (self.path.display(), lasted.as_secs());
        let who = match pin::readers(&self.path) {
            readers if readers.is_empty() => "a reader".to_owned(),
            readers => readers,
        };
        tracing::warn!(
            pages = self.last.log,
            "the write-ahead log of database {path} has been held for {seconds} s by an open read transaction of {who}: \
             it grows until that transaction ends; no commit waits for it"
        );
    }

    fn begin_pass(&mut self) {
        set(&self.state, State::Copying);
        let begun = self.requests.as_ref().is_some_and(|requests| requests.try_send(()).is_ok());
        if begun {
            self.is_new = false;
            self.passes += 1;
        } else {
            set(&self.state, State::Idle);
        }
    }

    /// Waits for a pass in progress and closes the connection.
    pub(super) fn close(&mut self) {
        self.requests = None;
        self.join.take().into_iter().for_each(super::join);
    }
}

fn set(state: &Mutex<State>, to: State) {
    *state.lock().unwrap_or_else(PoisonError::into_inner) = to;
}

/// Copies what can be copied without waiting for anyone; nothing while another process copies.
pub(super) fn copy(connection: &Connection, numbers: &Numbers) -> rusqlite::Result<Option<Pass>> {
    let begun = Instant::now();
    let pass = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], pass);
    match pass {
        Ok(_) => numbers.copied(begun.elapsed()),
        Err(_) => numbers.failed(1),
    }
    pass
}

/// How long the log is, and how much of it is in the database, without copying anything.
pub(super) fn measure(connection: &Connection) -> rusqlite::Result<Option<Pass>> {
    connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], pass)
}

/// Both numbers are -1 where SQLite could not tell.
fn pass(row: &Row<'_>) -> rusqlite::Result<Option<Pass>> {
    let pass = Pass { log: row.get(1)?, copied: row.get(2)? };
    Ok(Some(pass).filter(|pass| pass.log >= 0))
}

/// Saves what was acknowledged but is only in the log, as long as this process has both files open: copies it into the
/// database, wherever that is now. Removes what would spoil a file put in the database's place.
pub(super) fn salvage(lost: &Lost, connection: &Connection, presence: &Presence, numbers: &Numbers) {
    let pass = if presence.can_copy(lost) { copy(connection, numbers).ok().flatten() } else { None };
    let is_whole = pass.is_some_and(|pass| pass.copied >= pass.log);
    if let Err(error) = presence.clear_away(lost, !is_whole) {
        tracing::error!(%error, "the log of a lost database stays beside its path: remove it before you restore another");
    }
}

/// A copy that failed loses nothing, unless its sync failed: then it is unknown what the disk holds. If a file was
/// lost, that is the reason.
pub(super) fn report(
    error: &rusqlite::Error,
    connection: &Connection,
    presence: &Presence,
    numbers: &Numbers,
    place: &Place,
    watchers: &Watchers,
) {
    if let Err(lost) = presence.look(Pages::MAX, || measure(connection).ok().flatten().map(|pass| pass.log)) {
        salvage(&lost, connection, presence, numbers);
        watchers.fail(place.lost(&lost));
    } else if verdict(Stage::Commit, error) == Verdict::FailForGood {
        watchers.fail(place.unsynced(error));
    } else {
        tracing::warn!(error = %place.error(error), "the write-ahead log was not copied and grows");
    }
}
