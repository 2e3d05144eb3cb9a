//! What a stored run says, read from the text that a store keeps: its input, its options, its output.
//!
//! It must never know a store. The invariant: what cannot be read is an error that names the run and the part, and
//! never passes for absent.

use super::db::{DbError, DbErrorKind, RequestOptions, Run};
use crate::id::RunId;
use crate::json;
use crate::run::{RunStatus, WorkflowRunOutput};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt;

/// A stored part of a run or a session that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {part} of {of} cannot be read ({problem}): restore the database from a backup")]
pub struct Unreadable {
    /// Which part: `output`, `input`, `options`, `state`, `metadata`.
    pub part: &'static str,
    /// Of what: `run 0193…`, `session 0193…`.
    pub of: String,
    /// What is wrong with it. Its text is never quoted.
    pub problem: String,
}

impl Unreadable {
    /// A part of a run.
    pub fn of_run(run_id: &RunId, part: &'static str, problem: impl fmt::Display) -> Self {
        Self { part, of: format!("run {run_id}"), problem: problem.to_string() }
    }

    /// Reads `text`, which is this part.
    ///
    /// # Errors
    /// When it is not JSON, or not a `T`.
    pub fn read<T: DeserializeOwned + Send>(text: &str, part: &'static str, of: impl fmt::Display) -> Result<T, Self> {
        let unreadable = |error| Self { part, of: of.to_string(), problem: json::problem(text, &error) };
        json::read_stored(text).map_err(unreadable)
    }
}

impl From<Unreadable> for DbError {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(DbErrorKind::Unreadable, unreadable)
    }
}

impl Run {
    fn read<T: DeserializeOwned + Send>(
        &self,
        text: Option<&str>,
        part: &'static str,
    ) -> Result<Option<T>, Unreadable> {
        let of = format_args!("run {}", self.info.run_id);
        text.map(|text| Unreadable::read(text, part, of)).transpose()
    }

    /// What was asked.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn read_input(&self) -> Result<Option<Value>, Unreadable> {
        self.read(self.input.as_deref(), "input")
    }

    /// What its request kept beside its input.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn request_options(&self) -> Result<RequestOptions, Unreadable> {
        self.read(self.options.as_deref(), "options").map(Option::unwrap_or_default)
    }

    /// What the caller noted about the run.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn metadata(&self) -> Result<Option<Map<String, Value>>, Unreadable> {
        /// Only this field, so that attachments are skipped.
        #[derive(Deserialize)]
        struct Noted {
            metadata: Option<Map<String, Value>>,
        }
        let options: Option<Noted> = self.read(self.options.as_deref(), "options")?;
        Ok(options.and_then(|options| options.metadata))
    }

    /// The run that this one starts again, if it does.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn rerun_of(&self) -> Result<Option<RunId>, Unreadable> {
        /// Only this field, so that attachments are skipped.
        #[derive(Deserialize)]
        struct RerunOf {
            rerun_of: Option<RunId>,
        }
        let options: Option<RerunOf> = self.read(self.options.as_deref(), "options")?;
        Ok(options.and_then(|options| options.rerun_of))
    }
}

/// A stored run as a poll shows it.
///
/// # Errors
/// When its output cannot be read or, for a run that is over, is missing; when there is no output and its input cannot
/// be read; when its options cannot be read, unless the run has failed.
pub fn run_output(run: &Run) -> Result<WorkflowRunOutput, Unreadable> {
    let output = stored_output(run)?;
    // The output does not repeat what the request holds.
    match run.metadata() {
        Ok(Some(metadata)) => Ok(WorkflowRunOutput { metadata: Some(Value::Object(metadata)), ..output }),
        Ok(None) => Ok(output),
        // A run whose options cannot be read fails, and its output says why.
        Err(_) if output.status == RunStatus::Error => Ok(output),
        Err(unreadable) => Err(unreadable),
    }
}

fn stored_output(run: &Run) -> Result<WorkflowRunOutput, Unreadable> {
    // A run that goes on has no output, or one from a pause that is over.
    if run.status.is_terminal() || run.status == RunStatus::Paused {
        let output: Option<WorkflowRunOutput> = run.read(run.output.as_deref(), "output")?;
        match output {
            Some(output) if output.status == run.status => return Ok(output),
            None if !run.status.is_terminal() => {}
            found => {
                let found =
                    found.map_or("missing".to_owned(), |output| format!("from when the run was {}", output.status));
                return Err(Unreadable::of_run(&run.info.run_id, "output", format_args!("it is {found}")));
            }
        }
    }
    let output = WorkflowRunOutput::pending(&run.info, run.read_input()?, run.created_at.as_seconds());
    Ok(WorkflowRunOutput { status: run.status, ..output })
}
