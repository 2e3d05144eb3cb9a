//! `/api`: what the dashboard and scripts call. Runs of every kind side by side, read and changed as the caller may.
//!
//! It adds no rules: the engine decides, and `Caller::engine` ensures that another user's run does not exist for the
//! caller. Errors carry `detail`, `error_code` and `request_id` in the body.

mod audit;
mod batches;
mod budgets;
mod bulk;
mod events;
mod feed;
mod forks;
mod prune;
mod questions;
mod range;
mod runs;
mod schedules;
pub(crate) mod shape;
mod steps;
mod stream;
mod workers;

use super::caller::Caller;
use super::{Table, field};
use crate::auth::{Doc, Field, Needs, Routes};
use crate::problem::Problem;
use crate::routes::runs::find;
use outlive_core::port::Run;
use outlive_engine::{BulkVerb, Reader};
pub(super) use runs::{component, may_run};
use std::sync::Arc;

const READ: Needs = Needs::scope("runs:read");
const WRITE: Needs = Needs::scope("runs:write");
const SCHEDULES_READ: Needs = Needs::scope("schedules:read");
const SCHEDULES_WRITE: Needs = Needs::scope("schedules:write");

const LIST_QUERY: &[Field] = &[
    field("status", "string", false, "Only runs of these statuses, separated by commas: RUNNING,ERROR"),
    field("workflow_id", "string", false, "Only runs of this workflow, agent:ID or team:ID"),
    field("session_id", "string", false, "Only runs of this session"),
    field("batch_id", "string", false, "Only items of this batch"),
    field("user_id", "string", false, "Only runs of this user; for administrators"),
    field("q", "string", false, "Only runs whose id begins with this"),
    field(
        "created_from",
        "string",
        false,
        "Only runs accepted at this time or later (RFC 3339, or seconds since 1970)",
    ),
    field("created_to", "string", false, "Only runs accepted before this time"),
    field("order", "string", false, "newest (first, default) or oldest"),
    field("preview", "boolean", false, "With the beginning of each input and error (default false)"),
    field("limit", "integer", false, "At most this many, 1 to 1000, with preview to 100 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const QUESTIONS_QUERY: &[Field] = &[
    field("q", "string", false, "Only questions whose id begins with this"),
    field("run_id", "string", false, "Only questions of this run"),
    field("workflow_id", "string", false, "Only questions of this workflow, agent:ID or team:ID"),
    field("all", "boolean", false, "Those that were answered or are void, too (default false)"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const SCHEDULES_QUERY: &[Field] = &[
    field("workflow_id", "string", false, "Only schedules of this workflow, agent:ID or team:ID"),
    field("name", "string", false, "Only schedules with this name"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const BATCHES_QUERY: &[Field] = &[
    field("workflow_id", "string", false, "Only batches of this workflow, agent:ID or team:ID"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const BATCH_QUERY: &[Field] =
    &[field("wait", "string", false, "Wait until it is at rest, at most this long: 30s, 500ms; up to a minute")];
const ITEMS_QUERY: &[Field] = &[
    field("status", "string", false, "Only items whose run has one of these statuses, separated by commas"),
    field("content", "boolean", false, "With what their runs came to (default false)"),
    field("limit", "integer", false, "At most this many, 1 to 1000, with content to 50 (default 100, or 50)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const BULK_KEY: &[Field] =
    &[field("Idempotency-Key", "string", false, "With rerun: the same request with the same key starts each run once")];
const BUDGETS_QUERY: &[Field] = &[
    field("budget_id", "string", false, "Only the account with this id"),
    field("workflow_id", "string", false, "Only accounts of this workflow's own budgets, agent:ID or team:ID"),
    field("shared", "string", false, "Only accounts that several workflows share under this name"),
    field("per", "string", false, "Only those of a run, session, user, or all"),
    field("subject", "string", false, "Only those of the run, session or user with this id"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const TICKS_QUERY: &[Field] = &[
    field("before", "string", false, "Only times before this one (RFC 3339, or seconds since 1970)"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
];
const EVENTS_QUERY: &[Field] = &[
    field("after", "integer", false, "Events after this index, the first of them first"),
    field("before", "integer", false, "The last events before this index"),
    field("kind", "string", false, "Only events of these names, separated by commas"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 200)"),
];
const STEPS_QUERY: &[Field] = &[
    field("parent", "string", false, "Only steps directly in this one; empty: only those in none"),
    field("status", "string", false, "Only steps of these statuses, separated by commas"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const OUTPUT_QUERY: &[Field] = &[field("format", "string", false, "json (default), md or text")];
const WAIT_QUERY: &[Field] =
    &[field("wait", "string", false, "Wait for the run's end, at most this long: 30s, 500ms; up to a minute")];
const STREAM_QUERY: &[Field] = &[field(
    "after",
    "integer",
    false,
    "Events after this index; a Last-Event-ID header takes precedence (default: from the first)",
)];
const DETAIL_QUERY: &[Field] =
    &[field("steps", "boolean", false, "false leaves them out, and the log unread (default true)")];
const KEY: &[Field] =
    &[field("Idempotency-Key", "string", false, "Repeating the request with the same key returns the same run")];
const PART: &[Field] = &[
    field("If-None-Match", "string", false, "Tags of what the client has"),
    field("Range", "string", false, "One range of bytes"),
];
const LAST: &[Field] = &[field("Last-Event-ID", "integer", false, "The index of the last event the client has")];
const AUDIT_QUERY: &[Field] = &[
    field("kind", "string", false, "Only records of this kind"),
    field("actor", "string", false, "Only by this actor, or by callers who are this user"),
    field("since", "string", false, "Only at this time or later (RFC 3339, or seconds since 1970)"),
    field("limit", "integer", false, "At most this many, 1 to 1000 (default 100)"),
    field("cursor", "string", false, "Continue after the page that returned this as `next_cursor`"),
];
const FEED_QUERY: &[Field] = &[field("topics", "string", false, "runs, workers, or both (default runs)")];

pub(super) fn routes() -> Table {
    let doc = |summary| Doc { summary, tag: "api", ..Doc::default() };
    let feeds = Arc::new(feed::Feeds::default());
    Routes::new()
        .get("/api/runs", READ, runs::list)
        .doc(Doc { query: LIST_QUERY, answer: Some("RunList"), ..doc("Runs, newest first, with counts by status") })
        .post("/api/runs", WRITE, runs::create)
        .doc(Doc { headers: KEY, body: Some("CreateRun"), answer: Some("AcceptedRun"), ..doc("Start a run") })
        .post("/api/runs/cancel", WRITE, |caller, headers, body| bulk::act(BulkVerb::Cancel, caller, headers, body))
        .doc(Doc {
            body: Some("BulkRuns"),
            answer: Some("BulkResult"),
            ..doc("Cancel all runs that match, a page at a time")
        })
        .post("/api/runs/rerun", WRITE, |caller, headers, body| bulk::act(BulkVerb::Rerun, caller, headers, body))
        .doc(Doc {
            headers: BULK_KEY,
            body: Some("BulkRuns"),
            answer: Some("BulkResult"),
            ..doc("Start all runs again that match, a page at a time")
        })
        .post("/api/runs/retry", WRITE, |caller, headers, body| bulk::act(BulkVerb::Retry, caller, headers, body))
        .doc(Doc {
            body: Some("BulkRuns"),
            answer: Some("BulkResult"),
            ..doc("Try all runs again that match and failed or were cancelled, each once, a page at a time")
        })
        .get("/api/runs/{run_id}", READ, runs::get)
        .doc(Doc {
            query: DETAIL_QUERY,
            answer: Some("RunDetail"),
            ..doc("A run with its steps, without their outputs")
        })
        .get("/api/runs/{run_id}/output", READ, runs::output)
        .doc(Doc {
            query: WAIT_QUERY,
            headers: PART,
            answer: Some("Run"),
            ..doc("A run's output, or its state until it has one; supports Range and ETag")
        })
        .get("/api/runs/{run_id}/steps", READ, steps::list)
        .doc(Doc {
            query: STEPS_QUERY,
            answer: Some("StepPage"),
            ..doc("Steps of a run, a page at a time: all, or those of one container, such as the items of a ForEach")
        })
        .get("/api/runs/{run_id}/steps/{step_id}/output", READ, steps::output)
        .doc(Doc {
            query: OUTPUT_QUERY,
            headers: PART,
            answer: Some("StepOutput"),
            ..doc("A step's output; supports Range and ETag")
        })
        .get("/api/runs/{run_id}/events", READ, events::list)
        .doc(Doc { query: EVENTS_QUERY, answer: Some("EventPage"), ..doc("A page of a run's log, by index") })
        .get("/api/runs/{run_id}/stream", READ, stream::run)
        .doc(Doc { query: STREAM_QUERY, headers: LAST, ..doc("A run's log as it grows, as Server-Sent Events") })
        .post("/api/runs/{run_id}/cancel", WRITE, runs::cancel)
        .doc(Doc {
            body: Some("CancelRun"),
            is_body_optional: true,
            answer: Some("CancelledRun"),
            ..doc("Cancel a run; 409 when it has already ended otherwise")
        })
        .post("/api/runs/{run_id}/rerun", WRITE, runs::rerun)
        .doc(Doc {
            headers: KEY,
            answer: Some("AcceptedRun"),
            ..doc("Start a new run with the same input in the same session")
        })
        .post("/api/runs/{run_id}/fork", WRITE, forks::fork)
        .doc(Doc {
            headers: KEY,
            body: Some("ForkRun"),
            answer: Some("AcceptedRun"),
            ..doc("Start a run that keeps what a run has done up to a place, and goes on from there")
        })
        .post("/api/runs/{run_id}/fork/preview", READ, forks::preview)
        .doc(Doc {
            body: Some("ForkRun"),
            answer: Some("ForkPreview"),
            ..doc("Which calls a fork would make again; executes nothing")
        })
        .post("/api/runs/{run_id}/retry", WRITE, forks::retry)
        .doc(Doc {
            headers: KEY,
            answer: Some("AcceptedRun"),
            ..doc("Start a run that goes on where a run failed, was cancelled, or skipped a failure; 409 when it has done none of that")
        })
        .post("/api/runs/{run_id}/retry/preview", READ, forks::preview_retry)
        .doc(Doc { answer: Some("ForkPreview"), ..doc("Which calls that would make again; executes nothing") })
        .post("/api/prune", Needs::scope("runs:delete"), prune::prune)
        .doc(Doc {
            body: Some("PruneRuns"),
            answer: Some("PrunedRuns"),
            ..doc("Delete runs that have ended, some thousand at a time; dry_run only says which")
        })
        .get("/api/questions", Needs::scope("questions:read"), questions::list)
        .doc(Doc {
            query: QUESTIONS_QUERY,
            answer: Some("QuestionList"),
            ..doc("What runs ask people, asked first first")
        })
        .get("/api/questions/{question_id}", Needs::scope("questions:read"), questions::get)
        .doc(Doc { answer: Some("Question"), ..doc("A question, open or answered") })
        .post("/api/questions/{question_id}/answer", Needs::scope("questions:answer"), questions::answer)
        .doc(Doc {
            body: Some("AnswerQuestion"),
            answer: Some("Question"),
            ..doc("Answer a question; 409 when somebody has answered it otherwise")
        })
        .get("/api/budgets", READ, budgets::list)
        .doc(Doc {
            query: BUDGETS_QUERY,
            answer: Some("BudgetList"),
            ..doc("What budgets have used and reserved, by run, session or user, and day")
        })
        .post("/api/budgets/raise", Needs::scope("budgets:raise"), budgets::raise)
        .doc(Doc {
            body: Some("RaiseBudget"),
            answer: Some("Budget"),
            ..doc("Add to what a budget has; 409 when it was raised since the caller has seen it")
        })
        .get("/api/schedules", SCHEDULES_READ, schedules::list)
        .doc(Doc { query: SCHEDULES_QUERY, answer: Some("ScheduleList"), ..doc("Schedules, created first first") })
        .post("/api/schedules", SCHEDULES_WRITE, schedules::create)
        .doc(Doc {
            body: Some("CreateSchedule"),
            answer: Some("Schedule"),
            ..doc("Create a schedule; the same again gives the one that is there, 409 when another has its name")
        })
        .get("/api/schedules/{schedule_id}", SCHEDULES_READ, schedules::get)
        .doc(Doc { answer: Some("Schedule"), ..doc("A schedule, by its id or name") })
        .delete("/api/schedules/{schedule_id}", SCHEDULES_WRITE, schedules::delete)
        .doc(doc("Delete a schedule; the runs it has made stay"))
        .post("/api/schedules/{schedule_id}/pause", SCHEDULES_WRITE, schedules::pause)
        .doc(Doc { answer: Some("Schedule"), ..doc("Pause a schedule: it makes no runs until it is resumed") })
        .post("/api/schedules/{schedule_id}/resume", SCHEDULES_WRITE, schedules::resume)
        .doc(Doc { answer: Some("Schedule"), ..doc("Resume a schedule, from its next time on") })
        .post("/api/schedules/{schedule_id}/trigger", SCHEDULES_WRITE, schedules::trigger)
        .doc(Doc { answer: Some("AcceptedRun"), ..doc("Start a run of a schedule now") })
        .get("/api/schedules/{schedule_id}/ticks", SCHEDULES_READ, schedules::ticks)
        .doc(Doc { query: TICKS_QUERY, answer: Some("TickList"), ..doc("What came of a schedule's last times") })
        .post("/api/workflows/{workflow_id}/batches", WRITE, batches::create)
        .doc(Doc {
            body: Some("CreateBatch"),
            answer: Some("Batch"),
            ..doc("Create a batch: many inputs, each a run of its own; 409 when another batch has its id")
        })
        .get("/api/batches", READ, batches::list)
        .doc(Doc { query: BATCHES_QUERY, answer: Some("BatchList"), ..doc("Batches, newest first") })
        .get("/api/batches/{batch_id}", READ, batches::get)
        .doc(Doc { query: BATCH_QUERY, answer: Some("Batch"), ..doc("A batch and how far it has come") })
        .get("/api/batches/{batch_id}/items", READ, batches::items)
        .doc(Doc {
            query: ITEMS_QUERY,
            answer: Some("ItemList"),
            ..doc("A batch's items, in order, each with its run")
        })
        .post("/api/batches/{batch_id}/items", WRITE, batches::add_items)
        .doc(Doc {
            body: Some("AddItems"),
            answer: Some("Batch"),
            ..doc("Add inputs to a batch; those that are there already with the same input stay as they are")
        })
        .get("/api/batches/{batch_id}/results", READ, batches::results)
        .doc(doc("What each item came to, in order, as lines of JSON"))
        .post("/api/batches/{batch_id}/cancel", WRITE, batches::cancel)
        .doc(Doc {
            body: Some("CancelRun"),
            is_body_optional: true,
            answer: Some("Batch"),
            ..doc("Cancel a batch: it takes no more items, and all its runs that have not ended are cancelled")
        })
        .post("/api/batches/{batch_id}/retry", WRITE, batches::retry)
        .doc(Doc {
            body: Some("RetryItems"),
            is_body_optional: true,
            answer: Some("BulkResult"),
            ..doc("Try a batch's failed items again, a page at a time; their new runs take their places")
        })
        .get("/api/stream", READ, move |caller, query| stream::lists(feeds.clone(), caller, query))
        .doc(Doc { query: FEED_QUERY, ..doc("Changes to runs, as Server-Sent Events") })
        .get("/api/workers", Needs::scope("workers:read"), workers::list)
        .doc(Doc { answer: Some("WorkerList"), ..doc("The processes that execute runs") })
        .get("/api/audit", Needs::scope("audit:read"), audit::list)
        .doc(Doc {
            query: AUDIT_QUERY,
            answer: Some("AuditList"),
            ..doc("Who was refused and who did what, newest first")
        })
}

/// The run, to be shown to this caller.
async fn show(caller: &Caller, reader: &Reader, run_id: &str) -> Result<Run, Problem> {
    let run = find(reader, run_id).await?;
    caller.sees(run.info.user_id.as_deref(), run.info.run_id.as_str());
    Ok(run)
}
