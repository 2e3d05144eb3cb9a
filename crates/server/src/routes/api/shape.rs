//! The bodies of `/api`: their own types, converted by hand, so that a rename inside changes no key that a client reads.
//! OpenAPI's schemas come from them.

mod batches;

pub(crate) use batches::{
    AddItems, Batch, BatchList, BulkFilter, BulkLine, BulkResult, BulkRuns, CreateBatch, Item, ItemList, RetryItems,
};

use crate::audit::AuditLine;
use crate::problem::Problem;
use crate::wire::{iso, iso_micros};
use outlive_core::fork;
use outlive_core::port::{Life, LivingWorker, Run, StoredBudget, StoredTick, Unreadable, run_error};
use outlive_core::{Answer, DefinitionId, QuestionKind, Remedy, RunEvent, Timestamp, Waiting};
use outlive_engine::AskedQuestion;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Letters of an input or error in a preview.
const PREVIEW_CHARS: usize = 200;

/// The index of the last event of a log of this length.
pub(super) fn seq(next_index: u64) -> Option<u64> {
    next_index.checked_sub(1)
}

/// A run to be started.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateRun {
    /// The workflow; an agent is `agent:ID`, a team `team:ID`.
    pub(crate) workflow_id: String,
    /// Text or an object.
    #[serde(default)]
    pub(crate) input: Option<Value>,
    /// The session; created when absent.
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    /// The user; a credential that names one takes precedence.
    #[serde(default)]
    pub(crate) user_id: Option<String>,
    /// The run's id; generated when absent.
    #[serde(default)]
    pub(crate) run_id: Option<String>,
    /// State the session starts with, if this run creates it.
    #[serde(default)]
    pub(crate) session_state: Option<Map<String, Value>>,
    /// The caller's own data, which steps see.
    #[serde(default)]
    pub(crate) additional_data: Option<Value>,
    /// Where the run's events are posted.
    #[serde(default)]
    pub(crate) webhook_url: Option<String>,
    /// Which of them: `end` (the last one, default) or `all`.
    #[serde(default)]
    pub(crate) webhook_events: Option<String>,
    /// What to do when the session has an unfinished run: `queue`, `reject`, `parallel`, `interrupt` (cancel it) or `steer`
    /// (send the input to it); as its workflow says when absent, `queue` unless it says anything.
    #[serde(default)]
    #[schemars(extend("enum" = ["queue", "reject", "parallel", "interrupt", "steer"]))]
    pub(crate) session_policy: Option<String>,
    /// With `steer`: the id of the agent or team that is to hear the input; as its workflow says, or whoever executes, when absent.
    #[serde(default)]
    pub(crate) steer_to: Option<String>,
    /// Not to begin before this time (RFC 3339, or seconds since 1970).
    #[serde(default)]
    pub(crate) start_at: Option<String>,
    /// -128 to 127 (default 0): of runs that wait for room, those with a higher priority go first.
    #[serde(default)]
    pub(crate) priority: i8,
    /// Where the workflow limits how many of its runs execute at once: those with the same key count together.
    #[serde(default)]
    pub(crate) concurrency_key: Option<String>,
}

/// Where a run is forked, and what is changed there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForkRun {
    /// An entry: what stands before it is kept. Or the key of a step or a call, or the name of a step: where it began;
    /// with `output`, where it ended; with `answer`, where it was answered.
    pub(crate) at: ForkPlace,
    /// Another input for what comes after.
    #[serde(default)]
    pub(crate) input: Option<Value>,
    /// Another output of the step or the call.
    #[serde(default)]
    pub(crate) output: Option<Value>,
    /// Another answer.
    #[serde(default, deserialize_with = "crate::json::optional_object")]
    pub(crate) answer: Option<AnswerQuestion>,
    /// The session of the new run [default: a new one, with the state as it was there].
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    /// The id of the new run.
    #[serde(default)]
    pub(crate) run_id: Option<String>,
}

/// A place in a run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum ForkPlace {
    /// The index of an entry.
    Entry(u64),
    /// A key, or the name of a step; `key:1` or `step:1` where one has the key that is another's name.
    Name(String),
}

/// The run that another was forked from.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ForkedFrom {
    /// The run.
    pub(crate) run_id: String,
    /// What stood before this entry was kept.
    pub(crate) at: u64,
}

impl ForkedFrom {
    pub(super) fn new(from: &fork::ForkedFrom) -> Self {
        Self { run_id: from.run_id.to_string(), at: from.at }
    }
}

/// What a fork keeps and what it does again.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ForkPreview {
    /// Where the run is cut.
    pub(crate) forked_from: ForkedFrom,
    /// How many calls are not made again.
    pub(crate) kept_calls: u64,
    /// The tokens that those used.
    pub(crate) kept_tokens: u64,
    /// The calls that are made again, as far as the fork comes to them.
    pub(crate) again: Vec<ForkCall>,
}

impl ForkPreview {
    pub(super) fn new(preview: &outlive_engine::ForkPreview) -> Self {
        Self {
            forked_from: ForkedFrom::new(&preview.forked_from),
            kept_calls: preview.kept.len() as u64,
            kept_tokens: preview.kept.iter().map(|call| call.tokens).sum(),
            again: preview.again.iter().map(ForkCall::new).collect(),
        }
    }
}

/// A call that is made again.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ForkCall {
    /// Its key.
    pub(crate) key: String,
    /// What it is.
    #[schemars(extend("enum" = ["function", "named", "model", "tool"]))]
    pub(crate) kind: &'static str,
    /// The step, the tool, the model, or the name that a function gave it.
    pub(crate) name: String,
    /// The step it is made in.
    pub(crate) step_name: Option<String>,
    /// Whether it must not be made twice.
    pub(crate) is_once: bool,
    /// The tokens it used in the run that is forked.
    pub(crate) tokens: u64,
}

impl ForkCall {
    fn new(call: &fork::ForkCall) -> Self {
        Self {
            key: call.key.to_string(),
            kind: call.kind.as_str(),
            name: call.name.to_string(),
            step_name: call.step_name.as_deref().map(str::to_owned),
            is_once: call.is_once,
            tokens: call.tokens,
        }
    }
}

/// A run that was accepted, now or by an earlier request with the same Idempotency-Key.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AcceptedRun {
    /// The run.
    pub(crate) run_id: String,
    /// Its session.
    pub(crate) session_id: String,
    /// Its status.
    #[schemars(extend("enum" = ["PENDING", "RUNNING", "PAUSED", "COMPLETED", "CANCELLED", "ERROR"]))]
    pub(crate) status: &'static str,
    /// The run whose input this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rerun_of: Option<String>,
    /// The input was sent to this run, which had begun before: the id of the run that it becomes if nobody takes it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steering_run_id: Option<String>,
    /// The run that this one was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forked_from: Option<ForkedFrom>,
}

/// Why a run is to end.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelRun {
    /// For readers of the log, 1 to 1000 characters.
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// An answer to a question: `do` says what, and which of the other fields goes with it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AnswerQuestion {
    /// One of the question's `answers`.
    #[serde(rename = "do")]
    #[schemars(extend("enum" = ["approve", "reject", "input", "edit", "choose", "retry", "skip", "result"]))]
    pub(crate) action: String,
    /// With `reject`: why; an output that is made again is made with it.
    pub(crate) feedback: Option<String>,
    /// With `input`: the values, by the name of the field.
    pub(crate) values: Option<Map<String, Value>>,
    /// With `edit`: the output.
    pub(crate) output: Option<Value>,
    /// With `choose`: the names, in the order in which they are to be executed.
    pub(crate) choices: Option<Vec<String>>,
    /// With `result`: what came of it.
    pub(crate) result: Option<Value>,
}

impl AnswerQuestion {
    /// The answer.
    ///
    /// # Errors
    /// When a field is missing or does not belong to it.
    pub(super) fn into_answer(self) -> Result<Answer, Problem> {
        let wrong = |field: &str, msg: &str| Problem::field("value_error", "body", field, msg);
        let Self { action, feedback, values, output, choices, result } = self;
        let given = [
            ("feedback", feedback.is_some(), "reject"),
            ("values", values.is_some(), "input"),
            ("output", output.is_some(), "edit"),
            ("choices", choices.is_some(), "choose"),
            ("result", result.is_some(), "result"),
        ];
        if let Some((field, ..)) = given.iter().find(|(_, is_given, of)| *is_given && *of != action) {
            return Err(wrong(field, &format!("It does not go with {action}: leave it out")));
        }
        let needed = |field: &str| wrong(field, &format!("{action} needs it"));
        Ok(match action.as_str() {
            "approve" => Answer::Approve,
            "reject" => Answer::Reject { feedback },
            "input" => Answer::Input { values: values.ok_or_else(|| needed("values"))? },
            "edit" => Answer::Edit { output: output.ok_or_else(|| needed("output"))? },
            "choose" => Answer::choose(choices.ok_or_else(|| needed("choices"))?),
            "retry" => Answer::Retry,
            "skip" => Answer::Skip,
            "result" => Answer::Result { result: result.ok_or_else(|| needed("result"))? },
            _ => {
                let known = "approve, reject, input, edit, choose, retry, skip, result";
                return Err(wrong("do", &format!("Input should be one of {known}")));
            }
        })
    }
}

/// A question that a run asks people.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Question {
    /// Its id.
    pub(crate) question_id: String,
    /// The run that waits.
    pub(crate) run_id: String,
    /// Its workflow; `agent:ID` for an agent, `team:ID` for a team.
    pub(crate) workflow_id: String,
    /// Its session.
    pub(crate) session_id: String,
    /// Whose run it is.
    pub(crate) user_id: Option<String>,
    /// `open`, `answered`, or `void` once nobody needs an answer any more.
    #[schemars(extend("enum" = ["open", "answered", "void"]))]
    pub(crate) state: &'static str,
    /// What is asked.
    #[schemars(extend("enum" = [
        "confirmation", "user_input", "output_review", "iteration_review", "route_selection", "error", "outcome",
        "tool_confirmation", "tool_input", "tool_result", "definition"
    ]))]
    pub(crate) kind: &'static str,
    /// What may be answered, as `do`.
    pub(crate) answers: &'static [&'static str],
    /// What people are told.
    pub(crate) message: Option<String>,
    /// The step that waits.
    pub(crate) step_name: String,
    /// Its place in the run.
    pub(crate) key: String,
    /// JSON Schema of the values to fill in.
    pub(crate) schema: Option<Value>,
    /// What may be chosen.
    pub(crate) choices: Vec<String>,
    /// Whether several may be chosen.
    pub(crate) allows_several: bool,
    /// The output that is judged.
    pub(crate) output: Option<Value>,
    /// The tool that an agent wants to call, and its arguments.
    pub(crate) tool: Option<ToolLine>,
    /// When it was asked, in RFC 3339.
    pub(crate) asked_at: String,
    /// Until when it can be answered.
    pub(crate) due_at: Option<String>,
    /// What follows when nobody has: `cancel`, `skip` or `approve`.
    pub(crate) on_timeout: &'static str,
    /// What was answered.
    pub(crate) answer: Option<Value>,
    /// Who answered, as far as the caller was known.
    pub(crate) answered_by: Option<String>,
    /// When.
    pub(crate) answered_at: Option<String>,
}

/// A tool call that a question is about.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ToolLine {
    /// The tool's name.
    pub(crate) name: String,
    /// The arguments.
    pub(crate) arguments: Value,
    /// The agent that wants to call it.
    pub(crate) agent: String,
}

impl Question {
    pub(super) fn new(asked: &AskedQuestion) -> Self {
        let question = &asked.question;
        let is_judged = matches!(question.kind, QuestionKind::OutputReview | QuestionKind::IterationReview);
        let output = question.output.as_ref().filter(|_| is_judged);
        let answered = asked.answered.as_ref();
        Self {
            question_id: question.id.to_string(),
            run_id: asked.run_id.to_string(),
            workflow_id: asked.workflow_id.to_string(),
            session_id: asked.session_id.to_string(),
            user_id: asked.user_id.as_deref().map(str::to_owned),
            state: asked.state.as_str(),
            kind: question.kind.as_str(),
            answers: question.kind.answers(),
            message: question.message.as_deref().map(str::to_owned),
            step_name: question.step_name.to_string(),
            key: question.key.to_string(),
            schema: question.schema(),
            choices: question.choices.iter().map(ToString::to_string).collect(),
            allows_several: question.allows_several,
            output: output.and_then(|output| output.content.clone()),
            tool: question.tool.as_ref().map(|tool| ToolLine {
                name: tool.execution.tool_name.clone(),
                arguments: tool.execution.tool_args.clone(),
                agent: tool.agent_name.to_string(),
            }),
            asked_at: iso_micros(asked.asked_at),
            due_at: question.due_at.map(iso_micros),
            on_timeout: question.on_timeout.as_str(),
            answer: answered.and_then(|answered| serde_json::to_value(&answered.answer).ok()),
            answered_by: answered.and_then(|answered| answered.by.as_deref().map(str::to_owned)),
            answered_at: answered.map(|answered| iso_micros(answered.at)),
        }
    }
}

/// A page of questions.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct QuestionList {
    /// The questions, asked first first.
    pub(crate) questions: Vec<Question>,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
}

/// What became of a cancel request.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct CancelledRun {
    /// The run.
    pub(crate) run_id: String,
    /// `requested`: it will end. `cancelled`: it has ended as CANCELLED.
    #[schemars(extend("enum" = ["requested", "cancelled"]))]
    pub(crate) outcome: &'static str,
    /// Its status now.
    #[schemars(extend("enum" = ["PENDING", "RUNNING", "PAUSED", "COMPLETED", "CANCELLED", "ERROR"]))]
    pub(crate) status: &'static str,
}

/// Why a run is not over yet.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WaitingFor {
    /// What it is waiting for: an earlier run of its `session`; a `worker`, which is a process with its workflow; `room`
    /// in one; its turn among `suspects`, which crashed their workers; a `time`; a `person`; its end after a `cancel`; or
    /// what a process is doing: a `model`, a `tool`, a `step`. Lists say `step` for everything that executes.
    #[serde(rename = "for")]
    #[schemars(extend("enum" = [
        "session", "worker", "room", "suspects", "limit", "time", "person", "cancel", "model", "tool", "step"
    ]))]
    pub(crate) waits_for: &'static str,
    /// Whose name that is: the run in front, the workflow nobody has, the silent worker, the tool, the model, the step.
    pub(crate) on: Option<String>,
    /// Whether it was being executed and no process executes it now, whatever its status says.
    pub(crate) is_interrupted: bool,
    /// Whether people have answered what it paused for, and no process has taken it up since, whatever its status says.
    pub(crate) is_answered: bool,
    /// When it continues by itself, if known, in RFC 3339.
    pub(crate) until: Option<String>,
    /// The whole story on one line, for people.
    pub(crate) reason: String,
    /// What would end the wait; null when there is nothing to do.
    pub(crate) remedy: Option<RemedyLine>,
    /// The same in words.
    pub(crate) hint: Option<String>,
}

/// What would end a wait.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RemedyLine {
    /// `start_worker`: start a process that executes the run's workflow. `cancel`: cancel the run `run_id`. `answer`:
    /// answer the question `question_id`.
    #[serde(rename = "do")]
    #[schemars(extend("enum" = ["start_worker", "cancel", "answer"]))]
    pub(crate) action: &'static str,
    /// The run to cancel: the one that waits, or the one in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) run_id: Option<String>,
    /// The question to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) question_id: Option<String>,
}

impl WaitingFor {
    fn new(waiting: &Waiting) -> Self {
        Self {
            waits_for: waiting.waits_for.as_str(),
            on: waiting.on.as_deref().map(str::to_owned),
            is_interrupted: waiting.is_interrupted,
            is_answered: waiting.is_answered,
            until: waiting.until.map(iso_micros),
            reason: waiting.reason.clone(),
            remedy: waiting.remedy.as_ref().map(RemedyLine::new),
            hint: waiting.hint.clone(),
        }
    }
}

impl RemedyLine {
    fn new(remedy: &Remedy) -> Self {
        match remedy {
            Remedy::StartWorker => Self { action: "start_worker", run_id: None, question_id: None },
            Remedy::Cancel { run_id } => Self { action: "cancel", run_id: Some(run_id.to_string()), question_id: None },
            Remedy::Answer { question_id } => {
                Self { action: "answer", run_id: None, question_id: Some(question_id.to_string()) }
            }
        }
    }
}

/// A run without its payload.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunLine {
    /// The run.
    pub(crate) run_id: String,
    /// Its workflow; `agent:ID` for an agent, `team:ID` for a team.
    pub(crate) workflow_id: String,
    /// The workflow's name when the run was accepted.
    pub(crate) workflow_name: String,
    /// Its session.
    pub(crate) session_id: String,
    /// Whose run it is.
    pub(crate) user_id: Option<String>,
    /// Its status.
    #[schemars(extend("enum" = ["PENDING", "RUNNING", "PAUSED", "COMPLETED", "CANCELLED", "ERROR"]))]
    pub(crate) status: &'static str,
    /// Why it is not over yet; null once it is. `waiting.is_interrupted` marks a run that is RUNNING but executed by
    /// nobody.
    pub(crate) waiting: Option<WaitingFor>,
    /// The step it is at, for people: `1/2 Research Step`.
    pub(crate) progress: Option<String>,
    /// How often it was claimed.
    pub(crate) attempt: u32,
    /// Who executes it.
    pub(crate) worker_id: Option<String>,
    /// When it was accepted, in RFC 3339.
    pub(crate) created_at: String,
    /// When it last changed.
    pub(crate) updated_at: String,
    /// When its cancellation was requested.
    pub(crate) cancel_requested_at: Option<String>,
    /// Why.
    pub(crate) cancel_reason: Option<String>,
    /// The run that this one repeats.
    pub(crate) rerun_of: Option<String>,
    /// The run that this one was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forked_from: Option<ForkedFrom>,
    /// The batch as whose item it was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_id: Option<String>,
    /// Which item of it, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_item: Option<u64>,
    /// Its priority, if it has another than 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<i8>,
    /// Index of its last event; null while there is none.
    pub(crate) seq: Option<u64>,
    /// If requested: the beginning of its input, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_preview: Option<String>,
    /// If requested: the first line of why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error_preview: Option<String>,
    /// Which part of it cannot be read, why, and what to do; that part is then null, whatever its real value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unreadable: Option<String>,
}

impl RunLine {
    pub(super) fn new(run: &Run, waiting: Option<&Waiting>) -> Self {
        let mut unreadable = None;
        let rerun_of = readable(run.rerun_of(), &mut unreadable).flatten();
        let forked_from = readable(run.forked_from(), &mut unreadable).flatten();
        let (batch_id, batch_item) = readable(run.batch_item(), &mut unreadable)
            .flatten()
            .map(|item| (item.batch_id.to_string(), item.index))
            .unzip();
        Self {
            run_id: run.info.run_id.to_string(),
            workflow_id: run.info.workflow_id.to_string(),
            workflow_name: run.info.workflow_name.to_string(),
            session_id: run.info.session_id.to_string(),
            user_id: run.info.user_id.as_deref().map(str::to_owned),
            status: run.status.as_str(),
            waiting: waiting.map(WaitingFor::new),
            progress: run.progress.as_deref().map(str::to_owned),
            attempt: run.attempt,
            worker_id: run.worker.as_ref().map(ToString::to_string),
            created_at: iso_micros(run.created_at),
            updated_at: iso_micros(run.updated_at),
            cancel_requested_at: run.cancel.as_ref().map(|cancel| iso_micros(cancel.at)),
            cancel_reason: run.cancel.as_ref().map(|cancel| cancel.reason.to_string()),
            rerun_of: rerun_of.map(|run_id| run_id.to_string()),
            forked_from: forked_from.as_ref().map(ForkedFrom::new),
            batch_id,
            batch_item,
            priority: Some(run.priority).filter(|priority| *priority != 0),
            seq: seq(run.next_index),
            input_preview: None,
            error_preview: None,
            unreadable,
        }
    }

    /// With the beginning of input and error, which `run` must carry.
    pub(super) fn with_preview(run: &Run, waiting: Option<&Waiting>) -> Self {
        let mut line = Self::new(run, waiting);
        let input = readable(run.read_input(), &mut line.unreadable).flatten();
        let error = readable(run_error(run), &mut line.unreadable).flatten();
        line.input_preview = input.map(|input| begin(&outlive_core::content_text(Some(&input))));
        line.error_preview = error.map(|error| begin(error.lines().next().unwrap_or_default()));
        line
    }
}

fn begin(text: &str) -> String {
    text.chars().take(PREVIEW_CHARS).collect()
}

/// What was read, or why not: the first problem stands for all.
fn readable<T>(part: Result<T, Unreadable>, problem: &mut Option<String>) -> Option<T> {
    part.map_err(|error| *problem = problem.take().or_else(|| Some(error.to_string()))).ok()
}

/// A page of runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunList {
    /// The runs, newest first.
    pub(crate) runs: Vec<RunLine>,
    /// How many runs there are of each status, for the same filter without `status` and `cursor`.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Whether these are all. Counts by status, workflow and user are; with any other filter, counting stops at 10,000
    /// runs, and false means that there are more.
    pub(crate) counts_exact: bool,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
    /// Runs that are not in the list because their rows are damaged: which, why, and what to do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unreadable: Vec<String>,
}

/// A run with its steps. Follow it from `seq`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RunDetail {
    /// The run.
    #[serde(flatten)]
    pub(crate) line: RunLine,
    /// Its input.
    pub(crate) input: Option<Value>,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Hash of the definition it executes.
    pub(crate) definition: String,
    /// The steps that have started, in order, 1,000 at most; absent with `steps=false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<Vec<StepLine>>,
    /// Where there are more: the `cursor` with which `/api/runs/{run_id}/steps` goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_steps: Option<String>,
}

impl RunDetail {
    pub(super) fn new(run: &Run, waiting: Option<&Waiting>, steps: Option<(Vec<StepLine>, Option<String>)>) -> Self {
        let mut line = RunLine::new(run, waiting);
        let input = readable(run.read_input(), &mut line.unreadable).flatten();
        let error = readable(run_error(run), &mut line.unreadable).flatten();
        let (steps, next_steps) = steps.map_or((None, None), |(steps, next)| (Some(steps), next));
        Self { line, input, error, definition: run.definition.to_string(), steps, next_steps }
    }
}

/// A step without its output.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct StepLine {
    /// The step, within its run.
    pub(crate) step_id: String,
    /// Its name.
    pub(crate) name: String,
    /// Its place: a number at the top level, `[container, child]` inside a container.
    pub(crate) index: Value,
    /// Of an item of a ForEach: its place in the list, from 0.
    pub(crate) item: Option<u32>,
    /// The container it is in.
    pub(crate) parent_step_id: Option<String>,
    /// Depth: one more for each workflow that runs as a step of another.
    pub(crate) nested_depth: u32,
    /// `running`, `waiting` for somebody to answer, `completed`, `error`, `cancelled`, or `skipped` because of what a
    /// person said, or because nobody answered in time.
    #[schemars(extend("enum" = ["running", "waiting", "completed", "error", "cancelled", "skipped"]))]
    pub(crate) status: &'static str,
    /// `agent`, `team`, `function`, `workflow` or `parallel`; known once it has ended.
    pub(crate) executor_type: Option<&'static str>,
    /// The name of what ran inside.
    pub(crate) executor_name: Option<String>,
    /// When it began, in RFC 3339, to the second.
    pub(crate) started_at: String,
    /// When it ended.
    pub(crate) ended_at: Option<String>,
    /// How often it was started; 0 while it waits to begin.
    pub(crate) attempt: u32,
    /// Why it failed, or was skipped.
    pub(crate) error: Option<String>,
    /// Whether its output can be read.
    pub(crate) has_output: bool,
    /// Index of the event that started it.
    pub(crate) first_seq: u64,
}

/// A page of a run's steps.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StepPage {
    /// The steps, in the order in which they started.
    pub(crate) steps: Vec<StepLine>,
    /// How many of them there are by status, whatever the page and the status that was asked for.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// `cursor` of the next page; null when there is none yet.
    pub(crate) next_cursor: Option<String>,
}

/// The time of an event, which is whole seconds.
pub(super) fn event_time(event: &RunEvent) -> String {
    iso(Timestamp::from_micros(event.created_at.saturating_mul(1_000_000)))
}

/// A page of a run's log.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct EventPage {
    /// The events, in order of `event_index`.
    pub(crate) events: Vec<Value>,
    /// How many events the log has, whatever the filter.
    pub(crate) total: u64,
    /// `after` of the next page; null when nothing is stored beyond this one.
    pub(crate) next_after: Option<u64>,
    /// `before` of the previous page; null when this one begins the log.
    pub(crate) previous_before: Option<u64>,
}

/// The workers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WorkerList {
    /// By id, hence the oldest first.
    pub(crate) workers: Vec<Worker>,
}

/// A process that executes runs.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Worker {
    /// Its id.
    pub(crate) worker_id: String,
    /// Until when it counts as alive without a further heartbeat.
    pub(crate) good_until: String,
    /// How many runs it holds, of those the caller may see.
    pub(crate) runs: u64,
    /// The workflows it executes; null when it executes none, but only reads and accepts.
    pub(crate) workflows: Option<Vec<String>>,
    /// What is known of its process, whatever `good_until` says.
    #[schemars(extend("enum" = ["lives", "gone", "unknown"]))]
    pub(crate) life: &'static str,
}

impl Worker {
    pub(super) fn new(living: &LivingWorker) -> Self {
        let ids = |ids: &Arc<[DefinitionId]>| ids.iter().map(ToString::to_string).collect();
        Self {
            worker_id: living.worker.to_string(),
            good_until: iso_micros(living.good_until),
            runs: living.runs,
            workflows: living.workflows.as_ref().map(ids),
            life: match living.life {
                Life::Lives => "lives",
                Life::Gone => "gone",
                Life::Unknown => "unknown",
            },
        }
    }
}

/// A page of the audit log, the newest record first.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AuditList {
    /// The records.
    pub(crate) records: Vec<AuditLine>,
    /// For the next page, if there is more.
    pub(crate) next_cursor: Option<String>,
}

/// Which of the runs that have ended to delete. With limits: those that match and that the limits do not keep. Without
/// limits: all that match. One of the two must be said.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PruneRuns {
    /// Those that ended longer ago go.
    #[serde(default)]
    pub(crate) max_age_seconds: Option<u64>,
    /// Of those that match, the last accepted stay, this many.
    #[serde(default)]
    pub(crate) max_runs: Option<u64>,
    /// While the whole database takes more bytes, the runs accepted first go; not with a filter.
    #[serde(default)]
    pub(crate) max_bytes: Option<u64>,
    /// Only runs of these statuses; all that mean an end when empty.
    #[serde(default)]
    pub(crate) status: Vec<String>,
    /// Only runs of this workflow, `agent:ID` or `team:ID`.
    #[serde(default)]
    pub(crate) workflow_id: Option<String>,
    /// Only runs of this session.
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    /// Only runs of this batch. Without a limit, the batch itself goes if it has no runs.
    #[serde(default)]
    pub(crate) batch_id: Option<String>,
    /// Only runs of this user.
    #[serde(default)]
    pub(crate) user_id: Option<String>,
    /// Only runs whose id begins with this.
    #[serde(default)]
    pub(crate) q: Option<String>,
    /// Only runs accepted at this time or later (RFC 3339).
    #[serde(default)]
    pub(crate) created_from: Option<String>,
    /// Only runs accepted before this time.
    #[serde(default)]
    pub(crate) created_to: Option<String>,
    /// Whether to delete nothing and only say what would be (default false).
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Continue after the answer that gave this as `next_cursor`.
    #[serde(default)]
    pub(crate) cursor: Option<String>,
}

/// What was deleted, or would be.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PrunedRuns {
    /// Runs.
    pub(crate) runs: u64,
    /// Bytes of their logs, inputs and outputs.
    pub(crate) bytes: u64,
    /// Runs that match and stay: their webhook is still to be told, an unfinished run of their session may read them, or
    /// others of their batch have not ended.
    pub(crate) in_use: u64,
    /// Batches that had no runs. One whose last run is deleted goes with it, and is not counted.
    pub(crate) batches: u64,
    /// Whether nothing was deleted.
    pub(crate) dry_run: bool,
    /// Send the same request with this as `cursor` to go on; null when all runs were looked at.
    pub(crate) next_cursor: Option<String>,
}

/// A schedule to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateSchedule {
    /// The workflow of which it makes runs; an agent is `agent:ID`, a team `team:ID`.
    pub(crate) workflow_id: String,
    /// When: five fields, or six that begin with seconds, or a name such as `@daily`.
    pub(crate) cron: String,
    /// By whose clocks: a name such as `Europe/Berlin` (default `UTC`).
    #[serde(default)]
    pub(crate) time_zone: Option<String>,
    /// What people call it; made from the workflow and the times when absent.
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The input of its runs: text or an object.
    #[serde(default)]
    pub(crate) input: Option<Value>,
    /// The session of its runs; when absent, each has its own.
    #[serde(default)]
    pub(crate) session_id: Option<String>,
    /// The user it belongs to, and its runs; a credential that names one takes precedence.
    #[serde(default)]
    pub(crate) user_id: Option<String>,
    /// What becomes of times that nobody was there to take: `skip`, `one` run for all (default), or `all`.
    #[serde(default)]
    #[schemars(extend("enum" = ["skip", "one", "all"]))]
    pub(crate) catch_up: Option<String>,
    /// What happens while its run before has not come to rest: `skip` (default), `queue` or `allow`.
    #[serde(default)]
    #[schemars(extend("enum" = ["skip", "queue", "allow"]))]
    pub(crate) overlap: Option<String>,
    /// The priority of its runs (default 0).
    #[serde(default)]
    pub(crate) priority: i8,
    /// The concurrency key of its runs.
    #[serde(default)]
    pub(crate) concurrency_key: Option<String>,
    /// Whether it takes the place of the one with its name, if there is one (default false).
    #[serde(default)]
    pub(crate) replace: bool,
}

/// A schedule: when runs are made of a workflow.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Schedule {
    /// Its id.
    pub(crate) schedule_id: String,
    /// What people call it.
    pub(crate) name: String,
    /// The workflow; `agent:ID` for an agent, `team:ID` for a team.
    pub(crate) workflow_id: String,
    /// Whose it is, and its runs.
    pub(crate) user_id: Option<String>,
    /// When.
    pub(crate) cron: String,
    /// By whose clocks.
    pub(crate) time_zone: String,
    /// The input of its runs.
    pub(crate) input: Option<Value>,
    /// The session of its runs, if they share one.
    pub(crate) session_id: Option<String>,
    /// `skip`, `one` or `all`.
    #[schemars(extend("enum" = ["skip", "one", "all"]))]
    pub(crate) catch_up: &'static str,
    /// `skip`, `queue` or `allow`.
    #[schemars(extend("enum" = ["skip", "queue", "allow"]))]
    pub(crate) overlap: &'static str,
    /// The priority of its runs.
    pub(crate) priority: i8,
    /// The concurrency key of its runs.
    pub(crate) concurrency_key: Option<String>,
    /// What declares it, such as the path of a workflow file; null for one that somebody made.
    pub(crate) source: Option<String>,
    /// Whether it makes no runs until it is resumed.
    pub(crate) is_paused: bool,
    /// When it is due next; null while it is paused.
    pub(crate) next_due: Option<String>,
    /// The last time of it that was taken.
    pub(crate) last_due: Option<String>,
    /// The last run it has made, which may have been deleted.
    pub(crate) last_run_id: Option<String>,
    /// How many runs it has made.
    pub(crate) runs: u64,
    /// When it was created.
    pub(crate) created_at: String,
    /// When somebody changed it last.
    pub(crate) updated_at: String,
}

impl Schedule {
    pub(super) fn new(schedule: &outlive_engine::Schedule) -> Self {
        let spec = &schedule.spec;
        Self {
            schedule_id: schedule.id.to_string(),
            name: schedule.name.to_string(),
            workflow_id: schedule.workflow_id.to_string(),
            user_id: schedule.user_id.as_deref().map(str::to_owned),
            cron: spec.cron.clone(),
            time_zone: spec.time_zone.clone(),
            input: spec.input.clone(),
            session_id: spec.session_id.clone(),
            catch_up: spec.catch_up.as_str(),
            overlap: spec.overlap.as_str(),
            priority: spec.priority,
            concurrency_key: spec.concurrency_key.clone(),
            source: schedule.source.as_deref().map(str::to_owned),
            is_paused: schedule.is_paused(),
            next_due: schedule.next_due.map(iso_micros),
            last_due: schedule.last_due.map(iso_micros),
            last_run_id: schedule.last_run.as_ref().map(ToString::to_string),
            runs: schedule.runs,
            created_at: iso_micros(schedule.created_at),
            updated_at: iso_micros(schedule.updated_at),
        }
    }
}

/// A page of schedules.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ScheduleList {
    /// The schedules, created first first.
    pub(crate) schedules: Vec<Schedule>,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
}

/// The last times of a schedule that were taken.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TickList {
    /// The times, newest first.
    pub(crate) ticks: Vec<Tick>,
}

/// A time of a schedule, and what came of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Tick {
    /// Which time.
    pub(crate) due_at: String,
    /// When it was taken.
    pub(crate) at: String,
    /// `ran`, `triggered` (somebody asked for it), or why there is no run: `skipped`, `missed` or `failed`.
    #[schemars(extend("enum" = ["ran", "triggered", "skipped", "missed", "failed"]))]
    pub(crate) outcome: &'static str,
    /// The run.
    pub(crate) run_id: Option<String>,
    /// Why there is none.
    pub(crate) note: Option<String>,
}

impl TickList {
    pub(super) fn new(ticks: &[StoredTick]) -> Self {
        let tick = |tick: &StoredTick| Tick {
            due_at: iso_micros(tick.due_at),
            at: iso_micros(tick.at),
            outcome: tick.outcome.as_str(),
            run_id: tick.run_id.as_ref().map(ToString::to_string),
            note: tick.note.as_deref().map(str::to_owned),
        };
        Self { ticks: ticks.iter().map(tick).collect() }
    }
}

/// What a budget has used for one run, session or user, and one day.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Budget {
    /// Its id.
    pub(crate) budget_id: String,
    /// What is counted: `tokens`, `calls`, or a currency.
    pub(crate) unit: String,
    /// Whose use: that of a `run`, a `session`, a `user`, or `all` runs.
    #[schemars(extend("enum" = ["run", "session", "user", "all"]))]
    pub(crate) per: &'static str,
    /// The workflow whose budget it is; null when several share it.
    pub(crate) workflow_id: Option<String>,
    /// The name under which several share it.
    pub(crate) shared: Option<String>,
    /// Which run, session or user; null for all runs, and for runs without a user.
    pub(crate) subject: Option<String>,
    /// Which day, as `2026-11-27`; null when days are not counted by themselves.
    pub(crate) day: Option<String>,
    /// By whose clocks days begin.
    pub(crate) time_zone: Option<String>,
    /// When that is over.
    pub(crate) ends_at: Option<String>,
    /// Whose it is.
    pub(crate) user_id: Option<String>,
    /// How much there is, as the last call said: money in its currency, tokens or calls.
    pub(crate) limit: Value,
    /// What people have added to it.
    pub(crate) raised: Value,
    /// What calls that ended have used.
    pub(crate) used: Value,
    /// What calls may still use that have not ended, or were lost in a crash.
    pub(crate) reserved: Value,
    /// What is left.
    pub(crate) left: Value,
    /// When it last changed.
    pub(crate) updated_at: String,
}

impl Budget {
    pub(super) fn new(stored: &StoredBudget) -> Self {
        let StoredBudget { account, standing, updated_at } = stored;
        let number = |amount: u64| account.unit.number(amount);
        let shared = account.owner.strip_prefix("shared:");
        let limit = account.limit.saturating_add(standing.raised);
        Self {
            budget_id: account.id.to_string(),
            unit: account.unit.as_str().to_owned(),
            per: account.per.as_str(),
            workflow_id: shared.is_none().then(|| account.owner.to_string()),
            shared: shared.map(str::to_owned),
            subject: Some(account.subject.to_string()).filter(|subject| !subject.is_empty()),
            day: account.day.as_deref().map(str::to_owned),
            time_zone: account.day.as_ref().map(|_| account.time_zone.as_deref().unwrap_or("UTC").to_owned()),
            ends_at: account.ends_at.map(iso_micros),
            user_id: account.user_id.as_deref().map(str::to_owned),
            limit: number(account.limit),
            raised: number(standing.raised),
            used: number(standing.settled),
            reserved: number(standing.reserved),
            left: number(limit.saturating_sub(standing.used())),
            updated_at: iso_micros(*updated_at),
        }
    }
}

/// A page of accounts.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct BudgetList {
    /// The accounts, by their ids.
    pub(crate) budgets: Vec<Budget>,
    /// Where to continue; null when there is no more.
    pub(crate) next_cursor: Option<String>,
}

/// What is added to a budget.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RaiseBudget {
    /// Which account.
    pub(crate) budget_id: String,
    /// How much: money in its currency, tokens or calls.
    pub(crate) raise_by: Value,
    /// What had been added before, as the caller has seen it: when that has changed, nothing is added.
    #[serde(default)]
    pub(crate) raised: Option<Value>,
}
