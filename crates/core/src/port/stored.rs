//! What a stored run says, read from the text that a store keeps: its input, its options, its output.
//!
//! It must never know a store. The invariant: what cannot be read is an error that names the run and the part, and
//! never passes for absent.

use super::batches::BatchItem;
use super::db::{DbError, DbErrorKind, RequestOptions, Run};
use crate::fork::ForkedFrom;
use crate::id::RunId;
use crate::json;
use crate::run::{RunStatus, WorkflowRunOutput, content_text};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
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

impl Run {
    /// The run that this one was forked from, if it was.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn forked_from(&self) -> Result<Option<ForkedFrom>, Unreadable> {
        /// Only this field, so that attachments are skipped.
        #[derive(Deserialize)]
        struct Forked {
            forked_from: Option<ForkedFrom>,
        }
        let options: Option<Forked> = self.read(self.options.as_deref(), "options")?;
        Ok(options.and_then(|options| options.forked_from))
    }

    /// The item of a batch as which it was accepted, if it was. After a retry the item's run is the new one.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn batch_item(&self) -> Result<Option<BatchItem>, Unreadable> {
        /// Only this field, so that attachments are skipped.
        #[derive(Deserialize)]
        struct Batched {
            batch: Option<BatchItem>,
        }
        let options: Option<Batched> = self.read(self.options.as_deref(), "options")?;
        Ok(options.and_then(|options| options.batch))
    }
}

/// A run's output as it is kept.
pub(super) enum Kept<'a> {
    /// As it was kept before [`Rest`](crate::log::Rest): all of it.
    Whole(Box<WorkflowRunOutput>),
    /// How the run came to rest, as [`crate::log::Writer::output`] wrote it.
    Rest(&'a str),
}

/// What is in both forms.
#[derive(Deserialize)]
struct Brief {
    status: RunStatus,
    /// Only in the older form.
    run_id: Option<IgnoredAny>,
    content: Option<Value>,
}

fn brief(run: &Run) -> Result<Option<Brief>, Unreadable> {
    // A run that goes on has no output, or one from a pause that is over.
    if !run.status.is_terminal() && run.status != RunStatus::Paused {
        return Ok(None);
    }
    let output: Option<Brief> = run.read(run.output.as_deref(), "output")?;
    match output {
        Some(output) if output.status == run.status => Ok(Some(output)),
        None if !run.status.is_terminal() => Ok(None),
        found => {
            let found = found.map_or("missing".to_owned(), |output| format!("from when the run was {}", output.status));
            Err(Unreadable::of_run(&run.info.run_id, "output", format_args!("it is {found}")))
        }
    }
}

/// The output of a run that has one.
pub(super) fn kept_output(run: &Run) -> Result<Option<Kept<'_>>, Unreadable> {
    let Some(brief) = brief(run)? else { return Ok(None) };
    if brief.run_id.is_none() {
        return Ok(run.output.as_deref().map(Kept::Rest));
    }
    Ok(run.read(run.output.as_deref(), "output")?.map(Box::new).map(Kept::Whole))
}

/// Why a run failed, if it did; found without its log.
///
/// # Errors
/// When its output cannot be read or, for a run that is over, is missing.
pub fn run_error(run: &Run) -> Result<Option<String>, Unreadable> {
    let brief = brief(run)?.filter(|brief| brief.status == RunStatus::Error);
    Ok(brief.map(|brief| content_text(brief.content.as_ref())))
}
