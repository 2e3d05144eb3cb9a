//! Whether the files that this process has open are still the ones at their paths. What is written into a file that
//! nobody can open any more is lost, and SQLite does not notice.
//!
//! ```text
//! before a group: the log ──► BEGIN … COMMIT ──► all of them ──► answers
//! idle: all of them, each news interval
//! ```
//! It makes one file-system query for each file, and must never open a file that SQLite has open. The invariant: if a
//! file was lost before a group was written, this is noticed before that group is answered.

use super::header;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The size of the write-ahead log's header and of the header of each of its pages, in bytes.
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// How often, and how far apart, a file that looks wrong is checked again.
const WRONG_LOOKS: u32 = 20;
const WRONG_PAUSE: Duration = Duration::from_millis(5);

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing is at its path.
    Removed,
    /// Another file is at its path.
    Replaced,
    /// It is the same file with other content, as far as its header shows.
    Overwritten,
    /// It is shorter than what was written to it.
    Truncated,
    /// It is not writable by anybody.
    ReadOnly,
}

/// A file that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// The file beside the database; none when it is the database itself.
    pub(super) part: Option<PathBuf>,
    pub(super) fate: Fate,
}

/// Which file it is, whatever its name; always the same where the system does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(metadata.dev(), metadata.ino())
    }

    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Self {
        Self(0, 0)
    }
}

/// A path, and the file that was there.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    path: PathBuf,
    identity: Identity,
    /// As it was when last seen, by any of the threads that check.
    last: Arc<Mutex<Last>>,
}

#[derive(Debug, Default)]
struct Last {
    len: u64,
    modified: Option<SystemTime>,
    /// The database's own count of its changes.
    changes: u32,
}

impl Seen {
    /// The file that is at `path` now.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let metadata = std::fs::metadata(&path)?;
        let last = Last { len: metadata.len(), ..Last::default() };
        Ok(Self { path, identity: Identity::of(&metadata), last: Arc::new(Mutex::new(last)) })
    }

    /// An open file, which should be at `path`.
    pub(super) fn of(path: PathBuf, file: &File) -> Self {
        let identity = file.metadata().map_or(Identity(0, 0), |metadata| Identity::of(&metadata));
        Self { path, identity, last: Arc::default() }
    }

    /// What is known about it, if it still exists.
    pub(super) fn look(&self) -> Result<Option<Metadata>, Lost> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if Identity::of(&metadata) == self.identity => Ok(Some(metadata)),
            Ok(_) => Err(self.lost(Fate::Replaced)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(self.lost(Fate::Removed))
            }
            // Being denied access says nothing about the file.
            Err(_) => Ok(None),
        }
    }

    fn lost(&self, fate: Fate) -> Lost {
        Lost { part: Some(self.path.clone()), fate }
    }
}

/// The three files of an open database.
#[derive(Clone)]
pub(super) struct Presence {
    database: Seen,
    log: Seen,
    index: Seen,
    page_size: u64,
}

impl Presence {
    /// The files of the open database `path`, which the caller called `given`.
    pub(super) fn of(given: &Path, path: &Path, page_size: u64) -> io::Result<Self> {
        // A link may be changed to point elsewhere, and then the name means another file.
        let database = Seen::at(std::path::absolute(given)?)?;
        let (log, index) = (Seen::at(beside(path, "-wal"))?, Seen::at(beside(path, "-shm"))?);
        Ok(Self { database, log, index, page_size })
    }

    /// Checks all three. `pages` is the length of the log, as far as this process knows it; `ask` asks SQLite for it.
    pub(super) fn look(&self, pages: i32, ask: impl FnOnce() -> Option<i32>) -> Result<(), Lost> {
        self.look_at_database().map_err(|fate| Lost { part: None, fate })?;
        self.index.look()?;
        self.look_at_log(pages, ask)
    }

    fn look_at_database(&self) -> Result<(), Fate> {
        let Some(metadata) = self.database.look().map_err(|lost| lost.fate)? else { return Ok(()) };
        if is_read_only(&metadata) {
            return Err(Fate::ReadOnly);
        }
        let mut last = self.database.last.lock().unwrap_or_else(PoisonError::into_inner);
        if (metadata.len(), metadata.modified().ok()) == (last.len, last.modified) {
            return Ok(());
        }
        // With its beginning gone, it is no longer a database, whatever was written after it.
        let Some(told) = header::told(&self.database.path) else { return Err(Fate::Truncated) };
        // Copying the log makes the file shorter after pages were freed; then the header says so.
        if metadata.len() < last.len && self.stays(|told, len| told.len > len) {
            return Err(Fate::Truncated);
        }
        // Writers count on from there; the number does not wrap in any file's lifetime.
        if told.changes < last.changes && self.stays(|told, _| told.changes < last.changes) {
            return Err(Fate::Overwritten);
        }
        *last = Last { len: metadata.len(), modified: metadata.modified().ok(), changes: told.changes };
        Ok(())
    }

    /// Whether what this process wrote can still be copied from the log into the database, wherever that is now.
    pub(super) fn can_copy(&self, lost: &Lost) -> bool {
        match (&lost.part, lost.fate) {
            (None, fate) => matches!(fate, Fate::Removed | Fate::Replaced),
            (Some(part), fate) => fate == Fate::Removed && *part == self.log.path && self.look_at_database().is_ok(),
        }
    }

    /// Removes the log and the index beside a database that is gone: a file put in its place must not be read with
    /// them. A log that is still needed keeps its content under another name.
    pub(super) fn clear_away(&self, lost: &Lost, is_log_needed: bool) -> io::Result<()> {
        let is_gone = matches!(lost.fate, Fate::Removed | Fate::Replaced | Fate::Overwritten | Fate::Truncated);
        if lost.part.is_some() || !is_gone {
            return Ok(());
        }
        if self.index.look().is_ok() {
            std::fs::remove_file(&self.index.path)?;
        }
        match self.log.look() {
            Ok(_) if is_log_needed => std::fs::rename(&self.log.path, beside(&self.log.path, ".lost")),
            Ok(_) => std::fs::remove_file(&self.log.path),
            Err(_) => Ok(()),
        }
    }

    /// Checks only the log: if it were written to after it was cut short, it would have its old length again, with a
    /// hole in it.
    pub(super) fn look_at_log(&self, pages: i32, ask: impl FnOnce() -> Option<i32>) -> Result<(), Lost> {
        let Some(metadata) = self.log.look()? else { return Ok(()) };
        let len = metadata.len();
        let is_short = |pages: i32| len < self.log_len(pages);
        // Another process may have started it again.
        if is_short(pages) && ask().is_some_and(is_short) {
            return Err(self.log.lost(Fate::Truncated));
        }
        Ok(())
    }

    fn log_len(&self, pages: i32) -> u64 {
        match u64::try_from(pages) {
            Ok(pages) if pages > 0 => LOG_HEADER + pages * (self.page_size + FRAME_HEADER),
            _ => 0,
        }
    }

    /// Whether a problem with the header, or with the file's length, persists: the log may just be being copied.
    fn stays(&self, is_wrong: impl Fn(&header::Told, u64) -> bool) -> bool {
        (0..WRONG_LOOKS).all(|_| {
            let len = std::fs::metadata(&self.database.path).map_or(0, |metadata| metadata.len());
            let stays = header::told(&self.database.path).is_none_or(|told| is_wrong(&told, len));
            if stays {
                std::thread::sleep(WRONG_PAUSE);
            }
            stays
        })
    }
}

/// The path of a file that lies beside the database.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether a file is not writable by anybody. A privileged user could write anyway, but was told not to.
#[cfg(unix)]
pub(super) fn is_read_only(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o222 == 0
}

#[cfg(not(unix))]
pub(super) fn is_read_only(metadata: &Metadata) -> bool {
    metadata.permissions().readonly()
}
