//! Reads logs and outputs through a store: fetches the earlier entries to which later ones refer.
//!
//! It must never know which store it is.

use super::db::{Access, Db, DbError, DbErrorKind, Run};
use super::stored::{Kept, Unreadable, kept_output};
use crate::log::{self, Damaged, Entry, Page, Reader};
use crate::run::{RunInfo, RunStatus, WorkflowRunOutput};
use serde_json::Value;

/// Bytes of log fetched at first for what an entry refers to, mostly one page, and at most; each time doubled, because
/// the last entry of a long run refers to all of it.
const FETCH_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=1 << 20;

/// Why a log, or what belongs to it, cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// It is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A part of the run's row is not what was written.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The store cannot say.
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<LogError> for DbError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Damaged(damaged) => Self::new(DbErrorKind::Unreadable, damaged),
            LogError::Unreadable(unreadable) => unreadable.into(),
            LogError::Db(error) => error,
        }
    }
}

/// Reads one run's log, with what its entries refer to.
#[derive(Debug)]
pub struct LogReader {
    info: RunInfo,
    access: Access,
    reader: Reader,
}

impl LogReader {
    /// For this run, as this caller may see it.
    pub fn new(info: &RunInfo, access: Access) -> Self {
        Self { info: info.clone(), access, reader: Reader::new(info) }
    }

    /// A page's entries, with `event_index` filled in.
    ///
    /// # Cancel safety
    /// Safe: only what is known grows.
    ///
    /// # Errors
    /// When an entry is damaged, or the store's.
    pub async fn entries(&mut self, db: &dyn Db, page: &Page) -> Result<Vec<Entry>, LogError> {
        let mut bytes = *FETCH_BYTES.start();
        loop {
            match self.reader.read(page) {
                Ok(entries) => return Ok(entries),
                Err(log::Unreadable::Damaged(damaged)) => return Err(damaged.into()),
                Err(log::Unreadable::Missing(index)) => self.fetch(db, index, &mut bytes).await?,
            }
        }
    }

    /// The full text of an entry of the page read last.
    pub fn text(&self, index: u64) -> Option<&str> {
        self.reader.text(index)
    }

    async fn fetch(&mut self, db: &dyn Db, index: u64, bytes: &mut usize) -> Result<(), LogError> {
        let pages = db.read(self.access.clone(), self.info.run_id.clone(), index, *bytes).await?;
        *bytes = (*bytes * 2).min(*FETCH_BYTES.end());
        if !pages.first().is_some_and(|page| (page.first_index..page.end()).contains(&index)) {
            let (run_id, problem) = (self.info.run_id.clone(), "it is missing".to_owned());
            return Err(Damaged { run_id, event_index: index, problem }.into());
        }
        for page in &pages {
            match self.reader.learn(page) {
                // It matters only once something refers to it.
                Err(damaged) if damaged.event_index <= index => return Err(damaged.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A stored run as a poll shows it.
///
/// # Errors
/// When its output cannot be read or, for a run that is over, is missing; when there is no output and its input cannot
/// be read; when its options cannot be read, unless the run has failed; the store's.
pub async fn run_output(db: &dyn Db, access: &Access, run: &Run) -> Result<WorkflowRunOutput, LogError> {
    let output = stored_output(db, access, run).await?;
    // The output does not repeat what the request holds.
    match run.metadata() {
        Ok(Some(metadata)) => Ok(WorkflowRunOutput { metadata: Some(Value::Object(metadata)), ..output }),
        Ok(None) => Ok(output),
        // A run whose options cannot be read fails, and its output says why.
        Err(_) if output.status == RunStatus::Error => Ok(output),
        Err(unreadable) => Err(unreadable.into()),
    }
}

async fn stored_output(db: &dyn Db, access: &Access, run: &Run) -> Result<WorkflowRunOutput, LogError> {
    let created_at = run.created_at.as_seconds();
    let text = match kept_output(run)? {
        None => {
            let output = WorkflowRunOutput::pending(&run.info, run.read_input()?, created_at);
            return Ok(WorkflowRunOutput { status: run.status, ..output });
        }
        Some(Kept::Whole(output)) => return Ok(*output),
        Some(Kept::Rest(text)) => text,
    };
    let mut reader = LogReader::new(&run.info, access.clone());
    let mut bytes = *FETCH_BYTES.start();
    let rest = loop {
        match reader.reader.output(text) {
            Ok(rest) => break rest,
            Err(log::Unreadable::Damaged(damaged)) => {
                return Err(Unreadable::of_run(&run.info.run_id, "output", damaged.problem).into());
            }
            Err(log::Unreadable::Missing(index)) => reader.fetch(db, index, &mut bytes).await?,
        }
    };
    // A run whose input cannot be read fails, and its output says why; or it is cancelled.
    let input = match run.read_input() {
        Err(_) if matches!(rest.status, RunStatus::Error | RunStatus::Cancelled) => None,
        input => input?,
    };
    Ok(WorkflowRunOutput::at_rest(&run.info, input, created_at, rest))
}
