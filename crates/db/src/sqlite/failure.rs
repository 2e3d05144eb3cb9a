//! What SQLite's errors mean to a caller, and what the writer does about them: a table without actions.

use super::presence::{Fate, Lost};
use super::schema::USER_VERSION;
use outlive_core::WorkerId;
use outlive_core::port::{DbError, DbErrorKind};
use rusqlite::ErrorCode;
use rusqlite::ffi;
use std::path::Path;
use std::sync::Arc;

/// Why an operation failed.
#[derive(Debug)]
pub(super) enum Fail {
    /// The port's rules forbid it. Nothing was written.
    Said(DbError),
    /// The storage failed; something may have been written, so the transaction must be rolled back.
    Sqlite(rusqlite::Error),
}

impl From<DbError> for Fail {
    fn from(error: DbError) -> Self {
        Self::Said(error)
    }
}

impl From<rusqlite::Error> for Fail {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// How far a transaction had got.
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "tests name it to inject errors"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At `BEGIN`.
    Begin,
    /// At a statement in between.
    Work,
    /// At `COMMIT`.
    Commit,
}

/// What to do with a group of operations after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing happened; tell every operation.
    RefuseAll,
    /// Nothing happened; one operation is to blame, and the others may succeed without it.
    OneByOne,
    /// It is unknown what happened, and a later sync that succeeds would prove nothing: no more writes.
    FailForGood,
}

/// The one table of what follows from an error.
pub(super) fn verdict(stage: Stage, error: &rusqlite::Error) -> Verdict {
    let code = match error {
        rusqlite::Error::SqliteFailure(failure, _) => *failure,
        _ => return Verdict::OneByOne,
    };
    let is_sync = [ffi::SQLITE_IOERR_FSYNC, ffi::SQLITE_IOERR_DIR_FSYNC].contains(&code.extended_code);
    match (stage, code.code) {
        _ if is_sync => Verdict::FailForGood,
        (_, ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Verdict::RefuseAll,
        (Stage::Commit, ErrorCode::SystemIoFailure) => Verdict::FailForGood,
        (Stage::Work, _) => Verdict::OneByOne,
        (Stage::Begin | Stage::Commit, _) => Verdict::RefuseAll,
    }
}

/// The file, as errors name it.
#[derive(Clone)]
pub(super) struct Place(Arc<str>);

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self(Arc::from(path.display().to_string()))
    }

    /// The error a caller gets. SQLite's own text is not for people; its code helps those who support them.
    pub(super) fn error(&self, error: &rusqlite::Error) -> DbError {
        let path = &self.0;
        let kind = kind_of(error);
        let (code, extended) = match error {
            rusqlite::Error::SqliteFailure(failure, _) => (failure.code, failure.extended_code),
            _ => (ErrorCode::Unknown, 0),
        };
        let message = match (kind, code) {
            (DbErrorKind::Busy, _) => format!("database {path} is locked by another process: try again"),
            (DbErrorKind::Full, _) => format!("the disk of database {path} is full: make space and try again"),
            (DbErrorKind::ReadOnly, _)
                if [ffi::SQLITE_READONLY_ROLLBACK, ffi::SQLITE_READONLY_RECOVERY].contains(&extended) =>
            {
                format!(
                    "database {path} was left in the middle of a change: open it to write, for example with \
                     outlive serve, which completes or undoes that change"
                )
            }
            (DbErrorKind::ReadOnly, _) => return self.read_only(),
            (DbErrorKind::Corrupt, ErrorCode::NotADatabase) => {
                return self.corrupt("it does not begin like a database");
            }
            (DbErrorKind::Corrupt, ErrorCode::DatabaseCorrupt) => {
                return self.corrupt("its pages contradict each other; outlive doctor says more");
            }
            (DbErrorKind::Corrupt, _) => match missing(error) {
                Some(missing) => return self.lacks(missing),
                None => return self.corrupt(&error.to_string()),
            },
            (_, ErrorCode::CannotOpen) => format!(
                "cannot open database {path} or a file beside it: check that its directory exists and that this user \
                 may use it"
            ),
            (_, ErrorCode::PermissionDenied) => {
                format!("no permission to open database {path}: give this user the right to read and write it")
            }
            (_, ErrorCode::SystemIoFailure) => {
                format!("the disk failed at database {path} (SQLite's code {extended}): see the system's log")
            }
            (_, ErrorCode::OutOfMemory) => {
                format!("out of memory while using database {path}: free some and try again")
            }
            (_, ErrorCode::TooBig) => {
                format!("something is too long for database {path}: keep a reference to it instead")
            }
            _ => format!("database {path} refused what was asked of it ({error}): this is a bug, please report it"),
        };
        DbError::new(kind, message)
    }

    /// It can be read, but not written.
    pub(super) fn read_only(&self) -> DbError {
        let path = &self.0;
        let message = format!("database {path} is read-only: give this user the right to write it and its directory");
        DbError::new(DbErrorKind::ReadOnly, message)
    }

    /// A table is missing.
    fn lacks(&self, table: &str) -> DbError {
        self.corrupt(&format!("{table} is missing: it is part of a database, or was changed by another program"))
    }

    /// It is a copy, whose runs could repeat what the original does. `what` says which kind of copy.
    pub(super) fn copied(&self, what: &str) -> DbError {
        let path = &self.0;
        let message = format!(
            "{path} {what}, and executing its unfinished runs may do again what was done elsewhere: look at it \
             with ls and show, or take it into use with: outlive db adopt --db {path}"
        );
        DbError::new(DbErrorKind::ReadOnly, message)
    }

    /// A sync failed, or a write to a disk that does not answer.
    pub(super) fn unsynced(&self, error: &rusqlite::Error) -> DbError {
        let path = &self.0;
        let code = match error {
            rusqlite::Error::SqliteFailure(failure, _) => failure.extended_code,
            _ => 0,
        };
        let message = format!(
            "a write to database {path} failed (SQLite's code {code}), so it is unknown what is on disk: check the \
             disk, then restart the process"
        );
        DbError::new(DbErrorKind::OutcomeUnknown, message)
    }

    /// One of the database's files is not what it was.
    pub(super) fn lost(&self, lost: &Lost) -> DbError {
        let path = &self.0;
        let file = match &lost.part {
            None => format!("database {path}"),
            Some(part) => format!("{}, which belongs to database {path},", part.display()),
        };
        let message = match lost.fate {
            Fate::Removed => format!(
                "{file} was removed while it was in use, so nothing is acknowledged any more: put it or a backup back, \
                 then restart the process"
            ),
            Fate::Replaced => format!(
                "{file} was replaced by another file while it was in use, so nothing is acknowledged any more: restart the \
                 process to use the new one"
            ),
            Fate::Overwritten => format!(
                "{file} was overwritten with another while it was in use, so nothing is acknowledged any more: put a backup in \
                 its place, then restart the process"
            ),
            Fate::Truncated => format!(
                "{file} was cut short while it was in use, so nothing is acknowledged any more: restore a backup, then \
                 restart the process"
            ),
            Fate::ReadOnly => format!(
                "{file} was made read-only while it was in use, so nothing is acknowledged any more: make it writable, then \
                 restart the process"
            ),
        };
        DbError::new(DbErrorKind::OutcomeUnknown, message)
    }

    pub(super) fn fail(&self, fail: Fail) -> DbError {
        match fail {
            Fail::Said(error) => error,
            Fail::Sqlite(error) => self.error(&error),
        }
    }

    pub(super) fn io(&self, action: &str, error: &std::io::Error) -> DbError {
        let path = &self.0;
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull => DbErrorKind::Full,
            _ => DbErrorKind::Storage,
        };
        DbError::new(kind, format!("cannot {action} database {path}: {error}"))
    }

    /// The file is not ours to use.
    pub(super) fn refused(&self, why: &str) -> DbError {
        DbError::new(DbErrorKind::Refused, format!("{} {why}", self.0))
    }

    /// It was made by a newer program.
    pub(super) fn newer(&self, format: u32) -> DbError {
        let why = format!(
            "was made by a newer outlive (format {format}, this program knows {USER_VERSION}): upgrade outlive"
        );
        self.refused(&why)
    }

    /// It was made by an older program, and opened for reading only.
    pub(super) fn older(&self, format: u32) -> DbError {
        let why = format!(
            "was made by an older outlive (format {format}, this program reads {USER_VERSION}): open it once to write, \
             which brings it up to date, for example with: outlive db migrate --db {}",
            self.0
        );
        self.refused(&why)
    }

    /// It was made by an older program, of which a worker still lives.
    pub(super) fn in_use(&self, worker: &WorkerId, format: u32, what: &str) -> DbError {
        let why = format!(
            "was made by an older outlive (format {format}, this program writes {USER_VERSION}), and its worker {worker} \
             still executes there: {what}, then try again"
        );
        self.refused(&why)
    }

    pub(super) fn corrupt(&self, what: &str) -> DbError {
        let path = &self.0;
        let message = format!("database {path} is damaged ({what}): restore it from a backup");
        DbError::new(DbErrorKind::Corrupt, message)
    }

    /// The error for a write whose thread died with it.
    pub(super) fn unanswered(&self) -> DbError {
        let path = &self.0;
        let message = format!("a write to database {path} has an unknown outcome: restart the process");
        DbError::new(DbErrorKind::OutcomeUnknown, message)
    }
}

/// What a statement named and the file does not have.
fn missing(error: &rusqlite::Error) -> Option<&str> {
    let text = match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) => text,
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        _ => return None,
    };
    ["no such table: ", "no such column: ", "no such index: "].iter().find_map(|prefix| text.strip_prefix(prefix))
}

fn kind_of(error: &rusqlite::Error) -> DbErrorKind {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqlInputError, SqliteFailure, Utf8Error,
    };
    match error {
        SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DbErrorKind::Busy,
            ErrorCode::DiskFull => DbErrorKind::Full,
            ErrorCode::ReadOnly => DbErrorKind::ReadOnly,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => DbErrorKind::Corrupt,
            _ if missing(error).is_some() => DbErrorKind::Corrupt,
            _ => DbErrorKind::Storage,
        },
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
            DbErrorKind::Corrupt
        }
        SqlInputError { .. } if missing(error).is_some() => DbErrorKind::Corrupt,
        _ => DbErrorKind::Storage,
    }
}

/// An error of SQLite's with this extended code.
#[cfg(any(test, feature = "testing"))]
pub(super) fn with_code(code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_verdicts() {
        let table = [
            (Stage::Begin, ffi::SQLITE_BUSY, Verdict::RefuseAll, DbErrorKind::Busy),
            (Stage::Work, ffi::SQLITE_FULL, Verdict::RefuseAll, DbErrorKind::Full),
            (Stage::Commit, ffi::SQLITE_FULL, Verdict::RefuseAll, DbErrorKind::Full),
            (Stage::Commit, ffi::SQLITE_BUSY, Verdict::RefuseAll, DbErrorKind::Busy),
            (Stage::Work, ffi::SQLITE_CONSTRAINT_UNIQUE, Verdict::OneByOne, DbErrorKind::Storage),
            (Stage::Work, ffi::SQLITE_CORRUPT, Verdict::OneByOne, DbErrorKind::Corrupt),
            (Stage::Work, ffi::SQLITE_IOERR_READ, Verdict::OneByOne, DbErrorKind::Storage),
            (Stage::Work, ffi::SQLITE_IOERR_FSYNC, Verdict::FailForGood, DbErrorKind::Storage),
            (Stage::Commit, ffi::SQLITE_IOERR_FSYNC, Verdict::FailForGood, DbErrorKind::Storage),
            (Stage::Commit, ffi::SQLITE_IOERR_WRITE, Verdict::FailForGood, DbErrorKind::Storage),
            (Stage::Commit, ffi::SQLITE_NOTADB, Verdict::RefuseAll, DbErrorKind::Corrupt),
            (Stage::Begin, ffi::SQLITE_READONLY, Verdict::RefuseAll, DbErrorKind::ReadOnly),
        ];
        for (stage, code, expected, kind) in table {
            let error = with_code(code);
            assert_eq!(verdict(stage, &error), expected, "{stage:?} {error}");
            assert_eq!(kind_of(&error), kind, "{error}");
        }
    }
}
