//! A local database: opened only if it exists, and read without an engine. Commands record what they do to it in its
//! audit log.

use crate::cli::{Global, quoted};
use crate::exit::{Exit, Problem};
use crate::files;
use crate::settings::Settings;
use crate::times;
use outlive::core::port::{Access, AuditKind, AuditRecord, AuditStore, Db, DbError, LogReader};
use outlive::core::{Entry, Record, RunId};
use outlive::db::SqliteDb;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The session table of a database whose workflow named none.
const DEFAULT_TABLE: &str = "outlive_sessions";

/// Bytes of log read at a time.
const READ_BYTES: usize = 1 << 20;

/// An open database.
pub(crate) struct Store {
    pub(crate) db: Arc<dyn Db>,
    pub(crate) path: PathBuf,
}

impl Store {
    /// Opens this file for writing.
    ///
    /// # Errors
    /// When there is no such file; none is created.
    pub(crate) async fn open_at(path: PathBuf, global: &Global) -> Result<Self, Problem> {
        Self::open(existing(&path, global)?, path).await
    }

    /// Opens this file for reading: neither it nor its directory need be writable, and nothing is created.
    ///
    /// # Errors
    /// As [`Store::open_at`].
    pub(crate) async fn look_at(path: PathBuf, global: &Global) -> Result<Self, Problem> {
        Self::open(existing(&path, global)?.read_only(), path).await
    }

    async fn open(db: SqliteDb, path: PathBuf) -> Result<Self, Problem> {
        db.open().await?;
        Ok(Self { db: Arc::new(db), path })
    }

    /// The run's log as stored now, from index `from`.
    ///
    /// # Errors
    /// When stored entries are damaged.
    pub(crate) async fn entries(&self, run_id: &RunId, from: u64) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        let mut next = from;
        let Some(run) = self.db.run(Access::All, run_id.clone()).await? else { return Ok(entries) };
        let mut reader = LogReader::new(&run.info, Access::All);
        loop {
            let pages = self.db.read(Access::All, run_id.clone(), next, READ_BYTES).await?;
            let before = next;
            for page in pages {
                next = page.end();
                let is_wanted = |entry: &Entry| entry.event.event_index.is_some_and(|index| index >= from);
                entries.extend(reader.entries(&*self.db, &page).await?.into_iter().filter(is_wanted));
            }
            if next <= before {
                return Ok(entries);
            }
        }
    }
}

/// A handle on a file that must exist; nothing is opened yet.
///
/// # Errors
/// When there is no such file, or a setting is invalid.
pub(crate) fn existing(path: &Path, global: &Global) -> Result<SqliteDb, Problem> {
    if !path.exists() {
        let message = format!("no database at {}", path.display());
        let problem = Problem::new(Exit::NotFound, "database_not_found", message);
        let elsewhere = if global.db.is_none() { files::stores_here() } else { Vec::new() };
        if let [(file, db), ..] = &elsewhere[..] {
            let db = db.display().to_string();
            return Err(problem.hint(format!("{file} keeps its runs in {db}: name it with --db {}", quoted(&db))));
        }
        let make = Global { db: Some(path.to_owned()), ..global.clone() }.command("demo");
        return Err(problem.hint(format!("name the file with --db, or make one: {make}")));
    }
    sqlite(path, &global.session_table()?.unwrap_or_default())
}

/// The file's session table: the only one, or the default one if it is among several.
fn the_session_table(path: &Path) -> Result<String, Problem> {
    let mut tables = SqliteDb::new(path).session_tables()?;
    match tables.len() {
        1 => Ok(tables.remove(0)),
        _ if tables.iter().any(|table| table == DEFAULT_TABLE) || tables.is_empty() => Ok(DEFAULT_TABLE.to_owned()),
        _ => {
            let message = format!("{} has several session tables: {}", path.display(), tables.join(", "));
            Err(Problem::new(Exit::Usage, "usage", message).hint("name one with --session-table"))
        }
    }
}

/// A handle on the file; nothing is opened yet.
///
/// # Errors
/// When a setting makes no sense.
pub(crate) fn database(path: &Path, global: &Global) -> Result<Arc<dyn Db>, Problem> {
    let db = SqliteDb::new(path);
    Ok(match global.session_table()? {
        Some(table) => Arc::new(db.session_table(table)),
        None => Arc::new(db),
    })
}

/// A handle on the file the settings name, which need not exist; nothing is opened yet.
///
/// # Errors
/// As [`Store::open_at`], except for a missing file.
pub(crate) fn handle(settings: &Settings) -> Result<SqliteDb, Problem> {
    sqlite(&settings.db, &settings.session_table)
}

/// With this session table, else the file's own, else the default one.
fn sqlite(path: &Path, table: &str) -> Result<SqliteDb, Problem> {
    let db = SqliteDb::new(path);
    Ok(match table {
        // An empty file will become a database.
        "" if path.metadata().is_ok_and(|file| file.len() > 0) => db.session_table(the_session_table(path)?),
        "" => db,
        table => db.session_table(table),
    })
}

/// Model calls in a run's log, and how many of them were in flight when a process was lost and so had to be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ModelCalls {
    /// Started before the last loss.
    pub(crate) before: usize,
    /// Started before a loss and not ended by then.
    pub(crate) repeated: usize,
}

/// Counts the log's model calls before its last "resumed" mark.
pub(crate) fn model_calls(entries: &[Entry]) -> ModelCalls {
    let mut calls = ModelCalls::default();
    let mut begun = 0;
    let mut open = std::collections::BTreeSet::new();
    for entry in entries {
        let is_request = matches!(entry.event.name(), "ModelRequestStarted" | "TeamModelRequestStarted");
        match &entry.record {
            Some(Record::Intent { key, .. } | Record::Reserved { key, .. }) if is_request => {
                begun += 1;
                open.insert(key.clone());
            }
            Some(Record::Result { key, .. }) => drop(open.remove(key)),
            Some(Record::Claimed { .. }) => {
                calls.before = begun;
                calls.repeated += open.len();
            }
            Some(
                Record::Intent { .. }
                | Record::Reserved { .. }
                | Record::Begin { .. }
                | Record::Iteration { .. }
                | Record::Said { .. }
                | Record::Run { .. }
                | Record::Step { .. }
                | Record::Failed { .. }
                | Record::Retry { .. }
                | Record::Waiting { .. }
                | Record::Answered { .. }
                | Record::Rest(_),
            )
            | None => {}
        }
    }
    calls
}

/// Records what a command of this program did to `target`.
///
/// # Errors
/// The store's errors. The action itself has already been done.
pub(crate) async fn note(
    db: &dyn AuditStore,
    kind: AuditKind,
    outcome: &str,
    action: &str,
    target: &str,
) -> Result<(), DbError> {
    let record = AuditRecord {
        at: times::now(),
        kind,
        outcome: outcome.into(),
        actor: Some("cli".into()),
        user_id: None,
        address: None,
        request_id: None,
        action: action.into(),
        target: Some(target.into()),
    };
    db.append_audit(vec![record]).await
}
