//! The bodies about many runs: batches, and what is done to all that match. They know nothing else.

use crate::wire::iso_micros;
use outlive_core::port::Run;
use outlive_engine::{BatchCounts, BatchResult, BulkOutcome, BulkRun};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A batch to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateBatch {
    /// Its inputs, or the first of them, 1,000 at most: each a text, an object or null.
    #[serde(default)]
    pub(crate) inputs: Vec<Value>,
    /// Whether these are all (default true). If not, add the others, and say with the last that they are all.
    #[serde(default)]
    pub(crate) complete: Option<bool>,
    /// The batch's id; generated when absent. The same id with the same batch gives the one that is there.
    #[serde(default)]
    pub(crate) batch_id: Option<String>,
    /// How many of its runs execute at once (default 16, or the workflow's own limit).
    #[serde(default)]
    pub(crate) concurrency: Option<u32>,
    /// Runs with the same key count together, also those of other batches.
    #[serde(default)]
    pub(crate) concurrency_key: Option<String>,
    /// The priority of its runs (default 0).
    #[serde(default)]
    pub(crate) priority: i8,
    /// The user it belongs to, and its runs; a credential that names one takes precedence.
    #[serde(default)]
    pub(crate) user_id: Option<String>,
}

/// Further inputs of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddItems {
    /// The index of the first of them. Items that are there already with the same input stay as they are.
    pub(crate) from: u64,
    /// The inputs, 1,000 at most.
    #[serde(default)]
    pub(crate) inputs: Vec<Value>,
    /// Whether the last of them is the last of the batch (default false).
    #[serde(default)]
    pub(crate) complete: bool,
}

/// A batch: many inputs, each a run of its own.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Batch {
    /// Its id.
    pub(crate) batch_id: String,
    /// The workflow of its runs; `agent:ID` for an agent, `team:ID` for a team.
    pub(crate) workflow_id: String,
    /// Whose it is, and its runs.
    pub(crate) user_id: Option<String>,
    /// `accepting` while items may come, `running`, `paused` when what is left waits for people, `completed` when all items
    /// have, `failed` when some have not, or `cancelled`.
    #[schemars(extend("enum" = ["accepting", "running", "paused", "completed", "failed", "cancelled"]))]
    pub(crate) status: &'static str,
    /// How many items it has; null while more may come.
    pub(crate) items: Option<u64>,
    /// How many of them have a run now.
    pub(crate) accepted: u64,
    /// In which state those are.
    pub(crate) counts: Counts,
    /// How many of its runs execute at once, if it says.
    pub(crate) concurrency: Option<u32>,
    /// With which other runs they count together.
    pub(crate) concurrency_key: Option<String>,
    /// The priority of its runs.
    pub(crate) priority: i8,
    /// When somebody cancelled it.
    pub(crate) cancelled_at: Option<String>,
    /// When it was created.
    pub(crate) created_at: String,
    /// When somebody changed it last.
    pub(crate) updated_at: String,
}

/// How many items are in which state.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Counts {
    /// Accepted, and not begun.
    pub(crate) queued: u64,
    /// Begun.
    pub(crate) running: u64,
    /// Waiting for people.
    pub(crate) paused: u64,
    /// Completed.
    pub(crate) completed: u64,
    /// Failed.
    pub(crate) failed: u64,
    /// Cancelled.
    pub(crate) cancelled: u64,
    /// Deleted, with their runs.
    pub(crate) deleted: u64,
}

impl Batch {
    pub(in crate::routes::api) fn new(batch: &outlive_engine::Batch) -> Self {
        let BatchCounts { queued, running, paused, completed, failed, cancelled, deleted } = batch.counts;
        Self {
            batch_id: batch.id.to_string(),
            workflow_id: batch.workflow_id.to_string(),
            user_id: batch.user_id.as_deref().map(str::to_owned),
            status: batch.status(),
            items: batch.items,
            accepted: batch.accepted,
            counts: Counts { queued, running, paused, completed, failed, cancelled, deleted },
            concurrency: batch.spec.concurrency,
            concurrency_key: batch.spec.concurrency_key.clone(),
            priority: batch.spec.priority,
            cancelled_at: batch.cancelled_at.map(iso_micros),
            created_at: iso_micros(batch.created_at),
            updated_at: iso_micros(batch.updated_at),
        }
    }
}

/// A page of batches.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BatchList {
    /// The batches, newest first.
    pub(crate) batches: Vec<Batch>,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
}

/// A page of a batch's items.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ItemList {
    /// The items, in order.
    pub(crate) items: Vec<Item>,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
    /// Items left out because their runs are damaged: which, why, and what to do.
    pub(crate) unreadable: Vec<String>,
}

/// An item of a batch. As a line of its results, with what its run came to.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Item {
    /// The place of its input, from 0.
    pub(crate) index: u64,
    /// Its run: the last that was made of it. In the results null when it was deleted, or cannot be read.
    pub(crate) run_id: Option<String>,
    /// That run's status.
    pub(crate) status: Option<&'static str>,
    /// What the run came to: text or an object; null while it has nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<Value>,
    /// Why there is nothing to read of its run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Item {
    pub(in crate::routes::api) fn new(index: u64, run: &Run) -> Self {
        let (run_id, status) = (Some(run.info.run_id.to_string()), Some(run.status.as_str()));
        Self { index, run_id, status, content: None, error: None }
    }

    pub(in crate::routes::api) fn result(result: BatchResult) -> Self {
        let (content, error) = match result.output {
            Ok(output) => (output.content.map(|content| serde_json::json!(content)), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let (run_id, status) = result.run.map(|(run_id, status)| (run_id.to_string(), status.as_str())).unzip();
        Self { index: result.index, run_id, status, content: Some(content.unwrap_or_default()), error }
    }
}

/// Which failed items are tried again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetryItems {
    /// Whether those that were cancelled are, too (default false).
    pub(crate) cancelled: bool,
    /// At most this many in this request, 1 to 1000 (default 100).
    pub(crate) limit: Option<u64>,
    /// Continue after the request that returned this as `next_cursor`.
    pub(crate) cursor: Option<String>,
}

/// What is done to which runs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkRuns {
    /// Which: all that match. An empty one matches every run.
    #[serde(deserialize_with = "crate::json::object")]
    pub(crate) filter: BulkFilter,
    /// Only tells which runs these are (default false).
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// At most this many in this request, 1 to 1000 (default 100).
    #[serde(default)]
    pub(crate) limit: Option<u64>,
    /// Continue after the request that returned this as `next_cursor`. Runs are walked from the newest to the oldest, so
    /// what is started on the way is not among them.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
    /// Why runs are cancelled.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// Which runs.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BulkFilter {
    /// Of these statuses; of all others that this can be done to when absent. `INTERRUPTED` are those RUNNING that nobody
    /// executes; RUNNING without it are the others.
    pub(crate) status: Vec<String>,
    /// Of this workflow, `agent:ID` or `team:ID`.
    pub(crate) workflow_id: Option<String>,
    /// Of this session.
    pub(crate) session_id: Option<String>,
    /// Of this batch.
    pub(crate) batch_id: Option<String>,
    /// Of this user; for administrators.
    pub(crate) user_id: Option<String>,
    /// Whose id begins with this.
    pub(crate) q: Option<String>,
    /// Accepted at this time or later (RFC 3339, or seconds since 1970).
    pub(crate) created_from: Option<String>,
    /// Accepted before this time.
    pub(crate) created_to: Option<String>,
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BulkResult {
    /// Each run that matched.
    pub(crate) runs: Vec<BulkLine>,
    /// Where to continue; null when all were come to.
    pub(crate) next_cursor: Option<String>,
    /// Runs left out because they are damaged: which, why, and what to do.
    pub(crate) unreadable: Vec<String>,
}

/// What came of it for one run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BulkLine {
    /// Which.
    pub(crate) run_id: String,
    /// `matches` (nothing was done), `requested` (its end), `over` (it had ended before), `started` (a new run),
    /// `repeated` (that had been before) or `refused`.
    #[schemars(extend("enum" = ["matches", "requested", "over", "started", "repeated", "refused"]))]
    pub(crate) outcome: &'static str,
    /// Its status, where it matches or is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<&'static str>,
    /// The new run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) new_run_id: Option<String>,
    /// Why it was refused, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_code: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl BulkLine {
    fn of(run_id: String, outcome: &'static str) -> Self {
        Self { run_id, outcome, status: None, new_run_id: None, error_code: None, detail: None }
    }

    /// A run to which nothing was done.
    pub(in crate::routes::api) fn matching(run: &Run) -> Self {
        Self { status: Some(run.status.as_str()), ..Self::of(run.info.run_id.to_string(), "matches") }
    }

    pub(in crate::routes::api) fn refused(run_id: String, problem: &crate::problem::Problem) -> Self {
        let (error_code, detail) = (Some(problem.code), Some(problem.words()));
        Self { error_code, detail, ..Self::of(run_id, "refused") }
    }

    pub(in crate::routes::api) fn new(run: BulkRun) -> Self {
        let run_id = run.run_id.to_string();
        match run.outcome {
            Ok(BulkOutcome::Requested) => Self::of(run_id, "requested"),
            Ok(BulkOutcome::Over(status)) => Self { status: Some(status.as_str()), ..Self::of(run_id, "over") },
            Ok(BulkOutcome::Started { run_id: new, is_repeated }) => {
                let outcome = if is_repeated { "repeated" } else { "started" };
                Self { new_run_id: Some(new.to_string()), ..Self::of(run_id, outcome) }
            }
            Err(error) => Self::refused(run_id, &error.into()),
        }
    }
}
