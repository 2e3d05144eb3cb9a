//! Runs in lists: another shape than the single run, in two variants, and previews.
//!
//! It must never know which runs belong in a list, nor their order. The invariant: both variants of the list have the
//! same values; they differ only in whether a null is written.

use super::agent::{Face, Voice, own_run};
use super::iso;
use super::run::{Shape, executor_run, without_nulls};
use outlive_core::{Timestamp, WorkflowRunOutput, content_text};
use serde_json::{Value, json};

/// Longest text of a preview, in characters.
pub const PREVIEW_CHARS_MAX: usize = 200;

/// Whether a list writes its nulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// `GET /workflows/{id}/runs` and `GET /sessions/{id}/runs/{run_id}`.
    Written,
    /// `GET /sessions/{id}/runs`.
    LeftOut,
}

/// A workflow run in a list.
pub fn workflow_run(run: &WorkflowRunOutput, nulls: Nulls) -> Value {
    let shape = match nulls {
        Nulls::Written => Shape::Polled,
        Nulls::LeftOut => Shape::Result,
    };
    let executors: Vec<_> = run.step_executor_runs.iter().map(|run| executor_run(run, shape)).collect();
    let media = |media: &Option<Vec<_>>| json!(media.as_deref().unwrap_or_default());
    let body = json!({
        "run_id": run.run_id,
        "run_input": run.input,
        "events": run.events,
        "workflow_id": run.workflow_id,
        "user_id": run.user_id.as_deref().unwrap_or_default(),
        "content": content(run),
        "content_type": run.content_type,
        "status": run.status,
        "cancellation_stage": run.cancellation_stage,
        "step_results": run.step_results,
        "step_executor_runs": executors,
        "step_requirements": run.step_requirements,
        "pause_kind": run.pause_kind,
        "paused_step_name": run.paused_step_name,
        "paused_step_index": run.paused_step_index,
        "metrics": run.metrics,
        "created_at": iso(seconds(run.created_at)),
        "reasoning_content": "",
        "reasoning_steps": [],
        "references": [],
        "citations": null,
        "reasoning_messages": [],
        "images": media(&run.images),
        "videos": media(&run.videos),
        "audio": media(&run.audio),
        "files": media(&run.files),
        "response_audio": null,
    });
    with(nulls, body)
}

/// The run of an agent or team served alone, in a list.
pub fn agent_run(run: &WorkflowRunOutput, face: &Face, nulls: Nulls) -> Value {
    let own = own_run(run);
    let own = own.as_ref();
    let is_team = face.voice == Voice::Team;
    let absent = if is_team { Value::Null } else { json!("") };
    let mut body = json!({
        "run_id": run.run_id,
        "parent_run_id": "",
        "user_id": run.user_id.as_deref().map_or(absent, Value::from),
        "status": run.status,
        "cancellation_stage": run.cancellation_stage,
        "run_input": run.input,
        "content": own.map_or_else(|| content(run), |own| own.content.clone().unwrap_or_else(|| json!(""))),
        "run_response_format": "text",
        "reasoning_content": own.and_then(|own| own.reasoning_content.as_deref()).unwrap_or_default(),
        "reasoning_steps": [],
        "metrics": own.map_or_else(|| json!({}), |own| json!(own.metrics)),
        "messages": own.map(|own| &own.messages),
        "tools": own.map(|own| &own.tools).filter(|tools| !tools.is_empty()),
        "events": null,
        "created_at": iso(seconds(run.created_at)),
        "references": [],
        "citations": null,
        "reasoning_messages": [],
        "session_state": own.and_then(|own| own.session_state.as_ref()).filter(|_| !is_team),
        "images": [],
        "videos": [],
        "audio": [],
        "files": [],
        "response_audio": null,
        "input_media": { "images": [], "videos": [], "audios": [], "files": [] },
        "followups": null,
        "forked_from_run_id": null,
        "forked_from_message_index": null,
        "forked_from_session_id": null,
        "regenerated_from": null,
        "last_checkpoint_at_message_index": null,
    });
    body[face.id_key()] = json!(face.id);
    let metadata = run.metadata.as_ref().filter(|metadata| **metadata != json!({}));
    // Where there is none, Agno writes a null for agents and nothing for teams.
    if metadata.is_some() || !is_team {
        body["metadata"] = json!(metadata);
    }
    with(nulls, body)
}

/// A run's summary. `face` for the runs of an agent or team served alone.
pub fn preview(run: &WorkflowRunOutput, face: Option<&Face>) -> Value {
    let (key, id) = face.map_or(("workflow_id", run.workflow_id.as_str()), |face| (face.id_key(), &face.id));
    let mut body = json!({
        "run_id": run.run_id,
        "user_id": run.user_id,
        "status": run.status,
        "run_input": short(&content_text(run.input.as_ref())),
        "content_preview": short(&content_text(run.content.as_ref())),
        "created_at": iso(seconds(run.created_at)),
    });
    body[key] = json!(id);
    without_nulls(body)
}

fn content(run: &WorkflowRunOutput) -> Value {
    run.content.clone().filter(|_| run.status.is_terminal()).unwrap_or_else(|| json!(""))
}

fn short(text: &str) -> &str {
    text.char_indices().nth(PREVIEW_CHARS_MAX).map_or(text, |(end, _)| &text[..end])
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(1_000_000))
}

fn with(nulls: Nulls, body: Value) -> Value {
    match nulls {
        Nulls::Written => body,
        Nulls::LeftOut => without_nulls(body),
    }
}
