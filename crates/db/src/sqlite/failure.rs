//! What SQLite's errors mean to a caller, and what the writer does about them: a table, no action.

use outlive_core::port::{DbError, DbErrorKind};
use rusqlite::ErrorCode;
use rusqlite::ffi;
use std::path::Path;
use std::sync::Arc;

/// Why an operation did not end well.
#[derive(Debug)]
pub(super) enum Fail {
    /// The port's rules forbid it. Nothing was written.
    Said(DbError),
    /// The storage failed; something may have been written, so the transaction must go.
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
    /// Nothing happened; one operation is to blame, the others may succeed alone.
    OneByOne,
    /// Nobody knows what happened, and a later sync that succeeds would prove nothing: no more writes.
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

    /// The error a caller gets.
    pub(super) fn error(&self, error: &rusqlite::Error) -> DbError {
        let path = &self.0;
        let kind = kind_of(error);
        let message = match kind {
            DbErrorKind::Busy => format!("database {path} is locked by another process: try again"),
            DbErrorKind::Full => format!("the disk of database {path} is full: make space and try again"),
            DbErrorKind::Corrupt => format!("database {path} is damaged ({error}): restore it from a backup"),
            _ => format!("database {path}: {error}"),
        };
        DbError::new(kind, message)
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

    /// The file is not for us.
    pub(super) fn refused(&self, why: &str) -> DbError {
        DbError::new(DbErrorKind::Refused, format!("{} {why}", self.0))
    }

    pub(super) fn corrupt(&self, what: &str) -> DbError {
        let path = &self.0;
        let message = format!("database {path} is damaged ({what}): restore it from a backup");
        DbError::new(DbErrorKind::Corrupt, message)
    }

    /// What every write gets once the store has failed.
    pub(super) fn failed(&self) -> DbError {
        let path = &self.0;
        let message = format!("a write to database {path} has an unknown outcome: restart the process");
        DbError::new(DbErrorKind::OutcomeUnknown, message)
    }
}

fn kind_of(error: &rusqlite::Error) -> DbErrorKind {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, SqliteFailure, Utf8Error,
    };
    match error {
        SqliteFailure(failure, _) => match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => DbErrorKind::Busy,
            ErrorCode::DiskFull => DbErrorKind::Full,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => DbErrorKind::Corrupt,
            _ => DbErrorKind::Storage,
        },
        FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..) => {
            DbErrorKind::Corrupt
        }
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
        ];
        for (stage, code, expected, kind) in table {
            let error = with_code(code);
            assert_eq!(verdict(stage, &error), expected, "{stage:?} {error}");
            assert_eq!(kind_of(&error), kind, "{error}");
        }
    }
}
