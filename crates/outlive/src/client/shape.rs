//! Types of requests and answers: the core's own where it has them.
//!
//! Anything more that a newer server sends is ignored.

use super::connection;
use super::error::ClientError;
use outlive_core::fork::{ForkCall, ForkEdit, ForkPoint, ForkedFrom};
use outlive_core::port::{
    BudgetAccount, BudgetFilter, BudgetPage, BudgetStanding, Life, LivingWorker, Order, QuestionFilter, QuestionState,
    Run, RunFilter, ScheduleFilter, SessionPolicy, StoredBudget, StoredTick, TickOutcome,
};
use outlive_core::{
    Answer, BudgetScope, BudgetUnit, DefinitionId, QuestionKind, Remedy, RunEvent, RunId, RunInfo, RunStatus,
    SessionId, Timestamp, Waiting, WaitsFor, WorkerId,
};
use outlive_engine::{AskedQuestion, CreateSchedule, Fork, Prune, PruneReport, Schedule, ScheduleSpec, SchedulesPage};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The default and the maximum number of runs in a list.
const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 1000;
const PREVIEW_MAX: u32 = 100;
/// The header that says whether an idempotency key was seen before.
const REPLAYED: &str = "idempotent-replay";

/// A run to be started.
///
/// ```
/// use outlive::client::Submission;
///
/// let submission = Submission::new("content-creation-demo")
///     .input("AI trends in 2024")
///     .session_id("session-1")
///     .idempotency_key("order-17");
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[must_use]
pub struct Submission {
    workflow_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_state: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_events: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_policy: Option<SessionPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steer_to: Option<String>,
    start_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency_key: Option<String>,
    #[serde(skip)]
    pub(super) idempotency_key: Option<String>,
}

impl Submission {
    /// A run of this workflow, or, with `agent:ID` or `team:ID`, of an agent or team served alone.
    pub fn new(workflow_id: impl Into<String>) -> Self {
        Self { workflow_id: workflow_id.into(), ..Self::default() }
    }

    /// The input: text or an object.
    pub fn input(mut self, input: impl Into<Value>) -> Self {
        self.input = Some(input.into()).filter(|input| !input.is_null());
        self
    }

    /// The session the run belongs to; a new one by default.
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = Some(id.into());
        self
    }

    /// The user the run belongs to. A credential that names a user takes precedence.
    pub fn user_id(mut self, id: impl Into<String>) -> Self {
        self.user_id = Some(id.into());
        self
    }

    /// What is laid over the session's state when the run begins: objects are merged at every depth, anything else is
    /// replaced. Null removes; inside an object it is a value.
    pub fn session_state(mut self, state: Map<String, Value>) -> Self {
        self.session_state = Some(state);
        self
    }

    /// The caller's own data; steps see it as `additional_data`.
    pub fn additional_data(mut self, data: impl Into<Value>) -> Self {
        self.additional_data = Some(data.into());
        self
    }

    /// Chooses the run's id.
    pub fn run_id(mut self, id: impl Into<String>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// Not to begin before this time.
    pub fn start_at(mut self, time: Timestamp) -> Self {
        self.start_at = Some(time.to_rfc3339());
        self
    }

    /// Of runs that wait for room, those with a higher priority go first; 0 by default.
    pub fn priority(mut self, priority: i8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Where the workflow limits how many of its runs execute at once: runs with the same key count together.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.concurrency_key = Some(key.into());
        self
    }

    /// Where the server posts the run's last event.
    pub fn webhook(mut self, url: impl Into<String>) -> Self {
        self.webhook_url = Some(url.into());
        self
    }

    /// Where the server posts each of the run's events.
    pub fn webhook_for_every_event(mut self, url: impl Into<String>) -> Self {
        (self.webhook_url, self.webhook_events) = (Some(url.into()), Some("all"));
        self
    }

    /// What to do when the session has an unfinished run; as its workflow says unless set.
    pub fn session_policy(mut self, policy: SessionPolicy) -> Self {
        self.session_policy = Some(policy);
        self
    }

    /// With [`SessionPolicy::Steer`]: the id of the agent or the team that is to hear the input.
    pub fn steer_to(mut self, id: impl Into<String>) -> Self {
        self.steer_to = Some(id.into());
        self
    }

    /// Repeating the same request with the same key returns the same run.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

/// The verb of the route that forks, and what it is sent.
pub(super) fn fork(fork: &Fork) -> (&'static str, Option<Value>) {
    let at = match &fork.at {
        ForkPoint::Failure => return ("retry", None),
        ForkPoint::Entry(index) => Value::from(*index),
        ForkPoint::At(place) => Value::from(place.to_string()),
    };
    let mut body = Map::from_iter([("at".to_owned(), at)]);
    let mut put = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    put("input", fork.input.clone());
    put("run_id", fork.run_id.clone().map(Value::from));
    put("session_id", fork.session_id.clone().map(Value::from));
    match &fork.edit {
        ForkEdit::Nothing => {}
        ForkEdit::Output(output) => put("output", Some(output.clone())),
        ForkEdit::Answer(answer) => put("answer", serde_json::to_value(answer).ok()),
    }
    ("fork", Some(Value::Object(body)))
}

/// What a fork keeps and what it does again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ForkPreview {
    /// Where the run is cut: the entries before this one are kept.
    pub forked_from: ForkedFrom,
    /// How many calls are not made again.
    pub kept_calls: u64,
    /// The tokens that those used.
    pub kept_tokens: u64,
    /// The calls that are made again, as far as the fork comes to them.
    pub again: Vec<ForkCall>,
}

/// The same for a run in a local store.
impl From<outlive_engine::ForkPreview> for ForkPreview {
    fn from(preview: outlive_engine::ForkPreview) -> Self {
        Self {
            kept_calls: preview.kept.len() as u64,
            kept_tokens: preview.kept.iter().map(|call| call.tokens).sum(),
            forked_from: preview.forked_from,
            again: preview.again,
        }
    }
}

/// A run that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Accepted {
    /// The run's id: all that another process needs.
    pub run_id: RunId,
    /// Its session.
    pub session_id: SessionId,
    /// Its status.
    pub status: RunStatus,
    /// The run whose input this one repeats.
    #[serde(default)]
    pub rerun_of: Option<RunId>,
    /// The input was sent to this run, which had begun before: the id of the run that it becomes if nobody takes it in.
    #[serde(default)]
    pub steering_run_id: Option<RunId>,
    /// The request was a repetition: its idempotency key was known, and this is that run.
    #[serde(skip)]
    pub is_repeated: bool,
}

pub(super) fn accepted(answer: &connection::Answer) -> Result<Accepted, ClientError> {
    let accepted: Accepted = answer.read()?;
    Ok(Accepted { is_repeated: answer.headers.contains_key(REPLAYED), ..accepted })
}

#[derive(Deserialize)]
struct Cancelled {
    outcome: String,
    status: RunStatus,
}

/// The run's status if it was over already.
pub(super) fn cancelled(answer: &connection::Answer) -> Result<Option<RunStatus>, ClientError> {
    let cancelled: Cancelled = answer.read()?;
    Ok((cancelled.outcome == "cancelled").then_some(cancelled.status))
}

/// A run without its input and output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct RunSummary {
    /// Who it is.
    #[serde(flatten)]
    pub info: RunInfo,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it is not over yet; absent once it is, or if this was not determined.
    #[serde(default, deserialize_with = "waiting")]
    pub waiting: Option<Waiting>,
    /// The current step, for people: `1/2 Research Step`.
    #[serde(default)]
    pub progress: Option<Arc<str>>,
    /// How often it was claimed.
    #[serde(default)]
    pub attempt: u32,
    /// The worker that executes it; absent when none does.
    #[serde(default, rename = "worker_id")]
    pub worker: Option<WorkerId>,
    /// When it was accepted.
    #[serde(deserialize_with = "instant")]
    pub created_at: Timestamp,
    /// When it last changed.
    #[serde(deserialize_with = "instant")]
    pub updated_at: Timestamp,
    /// When its cancellation was requested.
    #[serde(default, deserialize_with = "instant_if_any")]
    pub cancel_requested_at: Option<Timestamp>,
    /// Why.
    #[serde(default)]
    pub cancel_reason: Option<Arc<str>>,
    /// The run that this one repeats.
    #[serde(default)]
    pub rerun_of: Option<RunId>,
    /// The run that this one was forked from, and where.
    #[serde(default)]
    pub forked_from: Option<ForkedFrom>,
    /// The batch as whose item it was accepted.
    #[serde(default)]
    pub batch_id: Option<Arc<str>>,
    /// Which item of it, from 0.
    #[serde(default)]
    pub batch_item: Option<u64>,
    /// Its priority.
    #[serde(default)]
    pub priority: i8,
    /// Length of its log: the index of its next event.
    #[serde(default, rename = "seq", deserialize_with = "after_last")]
    pub next_index: u64,
    /// In a list, if requested: the beginning of its input, as text.
    #[serde(default)]
    pub input_preview: Option<String>,
    /// In a list, if requested: the first line of why it failed.
    #[serde(default)]
    pub error_preview: Option<String>,
    /// Which part of it cannot be read, why, and what to do; that part's fields are then absent, which says nothing
    /// about their values.
    #[serde(default)]
    pub unreadable: Option<String>,
}

impl RunSummary {
    /// The same, with why it is not over yet.
    #[must_use]
    pub fn with_waiting(self, waiting: Option<Waiting>) -> Self {
        Self { waiting, ..self }
    }

    /// Whether it had started and no process executes it now, whatever its status says.
    pub fn is_interrupted(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.is_interrupted)
    }
}

/// The same for a run in a local store, without why it is not over yet.
impl From<Run> for RunSummary {
    fn from(run: Run) -> Self {
        let (rerun_of, forked_from, item, unreadable) = match (run.rerun_of(), run.forked_from(), run.batch_item()) {
            (Ok(rerun_of), Ok(forked_from), Ok(item)) => (rerun_of, forked_from, item, None),
            (Err(unreadable), ..) | (_, Err(unreadable), _) | (.., Err(unreadable)) => {
                (None, None, None, Some(unreadable.to_string()))
            }
        };
        let (batch_id, batch_item) = item.map(|item| (item.batch_id, item.index)).unzip();
        Self {
            rerun_of,
            forked_from,
            batch_id,
            batch_item,
            priority: run.priority,
            unreadable,
            info: run.info,
            status: run.status,
            waiting: None,
            progress: run.progress,
            attempt: run.attempt,
            worker: run.worker,
            created_at: run.created_at,
            updated_at: run.updated_at,
            cancel_requested_at: run.cancel.as_ref().map(|cancel| cancel.at),
            cancel_reason: run.cancel.map(|cancel| cancel.reason),
            next_index: run.next_index,
            input_preview: None,
            error_preview: None,
        }
    }
}

/// A page of runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct RunList {
    /// The runs, in the requested order.
    pub runs: Vec<RunSummary>,
    /// The number of runs of each status, regardless of the filter's `statuses` and `after`; statuses without runs are
    /// left out.
    #[serde(default)]
    pub counts: BTreeMap<RunStatus, u64>,
    /// Whether these are all. Counts by status, workflow and user are; with any other filter, counting stops at 10,000
    /// runs, and false means that there are more.
    #[serde(default = "always")]
    pub counts_exact: bool,
    /// Where to continue (`RunFilter::after`), if there is more.
    #[serde(default, rename = "next_cursor")]
    pub next: Option<String>,
    /// Runs that are not in the list because their rows are damaged: which, why, and what to do.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// Servers that say nothing of it count all.
fn always() -> bool {
    true
}

/// A run with its steps.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct RunDetail {
    /// The run.
    #[serde(flatten)]
    pub run: RunSummary,
    /// Its input.
    #[serde(default)]
    pub input: Option<Value>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Hash of the definition it executes.
    pub definition: Arc<str>,
    /// The steps that have started, in order.
    pub steps: Vec<StepSummary>,
}

/// A step without its output.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct StepSummary {
    /// The step, within its run.
    pub step_id: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `running`, `waiting` for somebody to answer, `completed`, `error`, `cancelled`, or `skipped` because a person said
    /// no.
    pub status: String,
    /// How often it was started; 0 while it waits to begin.
    #[serde(default)]
    pub attempt: u32,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// Whether its output can be read.
    #[serde(default)]
    pub has_output: bool,
    /// Index of the event that started it.
    #[serde(default, rename = "first_seq")]
    pub first_index: u64,
}

/// A page of a run's events.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct EventPage {
    /// The events, in order of their index.
    pub events: Vec<RunEvent>,
    /// How many events the log has.
    pub total: u64,
    /// `after` of the next page; absent when nothing is stored beyond this one.
    #[serde(default)]
    pub next_after: Option<u64>,
}

/// A workflow that a server has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct WorkflowSummary {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
}

/// A question that a run asks people, or has asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct QuestionSummary {
    /// Its id: names it alone, without its run.
    pub question_id: Arc<str>,
    /// The run that waits.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is.
    #[serde(default)]
    pub user_id: Option<Arc<str>>,
    /// `open`, `answered`, or `void` once nobody needs an answer any more.
    pub state: String,
    /// What is asked: `confirmation`, `user_input` and so on, as [`QuestionKind::as_str`] writes them.
    pub kind: String,
    /// What may be answered, as [`Answer::as_str`] writes it.
    #[serde(default)]
    pub answers: Vec<String>,
    /// What people are told.
    #[serde(default)]
    pub message: Option<String>,
    /// The step that waits, or the container.
    #[serde(default)]
    pub step_name: String,
    /// Its place in the run.
    #[serde(default)]
    pub key: String,
    /// JSON Schema of the values to fill in: an object.
    #[serde(default)]
    pub schema: Option<Value>,
    /// What may be chosen.
    #[serde(default)]
    pub choices: Vec<String>,
    /// Whether several may be chosen.
    #[serde(default)]
    pub allows_several: bool,
    /// The output that is judged.
    #[serde(default)]
    pub output: Option<Value>,
    /// The tool call it is about.
    #[serde(default)]
    pub tool: Option<QuestionTool>,
    /// When it was asked.
    #[serde(deserialize_with = "instant")]
    pub asked_at: Timestamp,
    /// Until when it can be answered.
    #[serde(default, deserialize_with = "instant_if_any")]
    pub due_at: Option<Timestamp>,
    /// What follows when nobody has by then: `cancel`, `skip` or `approve`.
    #[serde(default)]
    pub on_timeout: String,
    /// What was answered; absent also when this version does not know such an answer.
    #[serde(default, deserialize_with = "answer_if_known")]
    pub answer: Option<Answer>,
    /// Who answered, as far as that was known.
    #[serde(default)]
    pub answered_by: Option<Arc<str>>,
    /// When it was answered.
    #[serde(default, deserialize_with = "instant_if_any")]
    pub answered_at: Option<Timestamp>,
}

/// A tool call that a question is about.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct QuestionTool {
    /// The tool's name.
    pub name: String,
    /// The arguments.
    #[serde(default)]
    pub arguments: Value,
    /// The agent that wants to call it.
    #[serde(default)]
    pub agent: String,
}

impl QuestionSummary {
    /// Whether it can be answered.
    pub fn is_open(&self) -> bool {
        self.state == QuestionState::Open.as_str()
    }
}

/// The same for a question in a local store.
impl From<AskedQuestion> for QuestionSummary {
    fn from(asked: AskedQuestion) -> Self {
        let AskedQuestion { question, run_id, workflow_id, session_id, user_id, asked_at, state, answered } = asked;
        let (answered_by, answered_at) =
            answered.as_ref().map_or((None, None), |answered| (answered.by.clone(), Some(answered.at)));
        let is_judged = matches!(question.kind, QuestionKind::OutputReview | QuestionKind::IterationReview);
        let output = question.output.as_ref().filter(|_| is_judged);
        Self {
            run_id,
            workflow_id,
            session_id,
            user_id,
            state: state.as_str().to_owned(),
            kind: question.kind.as_str().to_owned(),
            answers: question.kind.answers().iter().map(ToString::to_string).collect(),
            message: question.message.as_deref().map(str::to_owned),
            step_name: question.step_name.to_string(),
            key: question.key.to_string(),
            schema: question.schema(),
            choices: question.choices.iter().map(ToString::to_string).collect(),
            allows_several: question.allows_several,
            output: output.and_then(|output| output.content.clone()),
            tool: question.tool.as_deref().map(|tool| QuestionTool {
                name: tool.execution.tool_name.clone(),
                arguments: tool.execution.tool_args.clone(),
                agent: tool.agent_name.to_string(),
            }),
            asked_at,
            due_at: question.due_at,
            on_timeout: question.on_timeout.as_str().to_owned(),
            answer: answered.map(|answered| answered.answer),
            answered_by,
            answered_at,
            question_id: question.id,
        }
    }
}

/// A page of questions, those asked first first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct QuestionList {
    /// The questions.
    pub questions: Vec<QuestionSummary>,
    /// Where to continue ([`QuestionFilter::after`]), if there is more.
    #[serde(default, rename = "next_cursor")]
    pub next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct WorkerList {
    pub(super) workers: Vec<Worker>,
}

#[derive(Deserialize)]
pub(super) struct Worker {
    worker_id: WorkerId,
    #[serde(deserialize_with = "instant")]
    good_until: Timestamp,
    runs: u64,
    #[serde(default)]
    workflows: Option<Arc<[DefinitionId]>>,
    #[serde(default)]
    life: String,
}

impl From<Worker> for LivingWorker {
    fn from(worker: Worker) -> Self {
        let life = match worker.life.as_str() {
            "lives" => Life::Lives,
            "gone" => Life::Gone,
            _ => Life::Unknown,
        };
        let Worker { worker_id, good_until, runs, workflows, .. } = worker;
        Self { worker: worker_id, good_until, runs, workflows, life }
    }
}

/// A filter as the server reads it.
pub(super) fn query(filter: &RunFilter) -> Vec<(&'static str, String)> {
    let most = if filter.with_payload { PREVIEW_MAX } else { LIST_MAX };
    let limit = if filter.limit == 0 { LIST_DEFAULT } else { filter.limit };
    let mut query = vec![("limit", limit.min(most).to_string())];
    if !filter.statuses.is_empty() {
        let statuses: Vec<_> = filter.statuses.iter().map(|status| status.as_str()).collect();
        query.push(("status", statuses.join(",")));
    }
    query.extend(filter.workflow_id.as_ref().map(|id: &DefinitionId| ("workflow_id", id.to_string())));
    query.extend(filter.session_id.as_ref().map(|id| ("session_id", id.to_string())));
    query.extend(filter.batch_id.as_ref().map(|id| ("batch_id", id.to_string())));
    query.extend(filter.user_id.as_ref().map(|id| ("user_id", id.to_string())));
    query.extend(filter.id_prefix.clone().map(|prefix| ("q", prefix)));
    query.extend(filter.created_from.map(|at| ("created_from", shown(at))));
    query.extend(filter.created_to.map(|at| ("created_to", shown(at))));
    query.extend((filter.order == Order::OldestFirst).then(|| ("order", "oldest".to_owned())));
    query.extend(filter.with_payload.then(|| ("preview", "true".to_owned())));
    query.extend(filter.after.clone().map(|cursor| ("cursor", cursor)));
    query
}

/// The same for questions.
pub(super) fn question_query(filter: &QuestionFilter) -> Vec<(&'static str, String)> {
    let limit = if filter.limit == 0 { LIST_DEFAULT } else { filter.limit };
    let mut query = vec![("limit", limit.min(LIST_MAX).to_string())];
    query.extend(filter.id_prefix.clone().map(|prefix| ("q", prefix)));
    query.extend(filter.run_id.as_ref().map(|id| ("run_id", id.to_string())));
    query.extend(filter.workflow_id.as_ref().map(|id| ("workflow_id", id.to_string())));
    query.extend(filter.with_settled.then(|| ("all", "true".to_owned())));
    query.extend(filter.after.clone().map(|cursor| ("cursor", cursor)));
    query
}

/// What a server says of a schedule.
#[derive(Deserialize)]
pub(super) struct ScheduleShape {
    schedule_id: Arc<str>,
    name: Arc<str>,
    workflow_id: DefinitionId,
    #[serde(default)]
    user_id: Option<Arc<str>>,
    #[serde(flatten)]
    spec: ScheduleSpec,
    #[serde(default)]
    source: Option<Arc<str>>,
    #[serde(default, deserialize_with = "instant_if_any")]
    next_due: Option<Timestamp>,
    #[serde(default, deserialize_with = "instant_if_any")]
    last_due: Option<Timestamp>,
    #[serde(default)]
    last_run_id: Option<RunId>,
    #[serde(default)]
    runs: u64,
    #[serde(deserialize_with = "instant")]
    created_at: Timestamp,
    #[serde(deserialize_with = "instant")]
    updated_at: Timestamp,
}

impl From<ScheduleShape> for Schedule {
    fn from(shape: ScheduleShape) -> Self {
        Self {
            id: shape.schedule_id,
            name: shape.name,
            workflow_id: shape.workflow_id,
            user_id: shape.user_id,
            spec: shape.spec,
            source: shape.source,
            next_due: shape.next_due,
            last_due: shape.last_due,
            last_run: shape.last_run_id,
            runs: shape.runs,
            created_at: shape.created_at,
            updated_at: shape.updated_at,
        }
    }
}

/// A page of schedules.
#[derive(Deserialize)]
pub(super) struct ScheduleListShape {
    schedules: Vec<ScheduleShape>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl From<ScheduleListShape> for SchedulesPage {
    fn from(shape: ScheduleListShape) -> Self {
        Self { schedules: shape.schedules.into_iter().map(Into::into).collect(), next: shape.next_cursor }
    }
}

/// The last times of a schedule.
#[derive(Deserialize)]
pub(super) struct TickListShape {
    ticks: Vec<TickShape>,
}

#[derive(Deserialize)]
struct TickShape {
    #[serde(deserialize_with = "instant")]
    due_at: Timestamp,
    #[serde(deserialize_with = "instant")]
    at: Timestamp,
    outcome: String,
    #[serde(default)]
    run_id: Option<RunId>,
    #[serde(default)]
    note: Option<Arc<str>>,
}

impl From<TickListShape> for Vec<StoredTick> {
    /// Times of which something came that only a newer server knows are left out.
    fn from(shape: TickListShape) -> Self {
        let tick = |tick: TickShape| {
            let outcome = TickOutcome::ALL.into_iter().find(|known| known.as_str() == tick.outcome)?;
            Some(StoredTick { due_at: tick.due_at, at: tick.at, outcome, run_id: tick.run_id, note: tick.note })
        };
        shape.ticks.into_iter().filter_map(tick).collect()
    }
}

pub(super) fn schedule_query(filter: &ScheduleFilter) -> Vec<(&'static str, String)> {
    let limit = if filter.limit == 0 { LIST_DEFAULT } else { filter.limit };
    let mut query = vec![("limit", limit.min(LIST_MAX).to_string())];
    query.extend(filter.workflow_id.as_ref().map(|id| ("workflow_id", id.to_string())));
    query.extend(filter.name.as_ref().map(|name| ("name", name.to_string())));
    query.extend(filter.after.clone().map(|cursor| ("cursor", cursor)));
    query
}

/// Which runs to delete, as a server reads it.
pub(super) fn prune(prune: &Prune) -> Value {
    let Prune { retention, filter: which, is_preview, after } = prune;
    let mut filter_body = filter(which);
    let mut body = serde_json::json!({
        // Rounded up: less goes.
        "max_age_seconds": retention.max_age.map(|age| age.as_secs() + u64::from(age.subsec_nanos() > 0)),
        "max_runs": retention.max_runs,
        "max_bytes": retention.max_bytes,
        "dry_run": is_preview,
        "cursor": after,
    });
    let fields = filter_body.as_object_mut().into_iter().flatten();
    fields.for_each(|(name, value)| body[name] = value.take());
    body
}

/// Which runs, as a server reads it. What a filter says of order, cursor and limit is no part of it.
pub(super) fn filter(filter: &RunFilter) -> Value {
    let RunFilter { statuses, workflow_id, session_id, batch_id, user_id, id_prefix, created_from, created_to, .. } =
        filter;
    serde_json::json!({
        "status": statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>(),
        "workflow_id": workflow_id,
        "session_id": session_id,
        "batch_id": batch_id,
        "user_id": user_id,
        "q": id_prefix,
        "created_from": created_from.map(shown),
        "created_to": created_to.map(shown),
    })
}

/// What a server says was deleted.
#[derive(Deserialize)]
pub(super) struct PrunedShape {
    runs: u64,
    bytes: u64,
    in_use: u64,
    #[serde(default)]
    batches: u64,
    next_cursor: Option<String>,
}

impl From<PrunedShape> for PruneReport {
    fn from(shape: PrunedShape) -> Self {
        let PrunedShape { runs, bytes, in_use, batches, next_cursor } = shape;
        Self { runs, bytes, in_use, batches, next: next_cursor }
    }
}

/// A schedule to be created, as a server reads it.
pub(super) fn new_schedule(workflow_id: &DefinitionId, create: &CreateSchedule) -> Value {
    let mut body = serde_json::json!(create.spec);
    body["workflow_id"] = Value::from(workflow_id.as_str());
    body["replace"] = Value::from(create.replaces);
    for (field, value) in [("name", &create.name), ("user_id", &create.user_id)] {
        if let Some(value) = value {
            body[field] = Value::from(value.as_str());
        }
    }
    body
}

/// What a server says of an account.
#[derive(Deserialize)]
pub(super) struct BudgetShape {
    budget_id: Arc<str>,
    unit: BudgetUnit,
    per: BudgetScope,
    #[serde(default)]
    workflow_id: Option<Arc<str>>,
    #[serde(default)]
    shared: Option<Arc<str>>,
    #[serde(default)]
    subject: Option<Arc<str>>,
    #[serde(default)]
    day: Option<Arc<str>>,
    time_zone: Option<Arc<str>>,
    #[serde(default, deserialize_with = "instant_if_any")]
    ends_at: Option<Timestamp>,
    #[serde(default)]
    user_id: Option<Arc<str>>,
    limit: Value,
    raised: Value,
    used: Value,
    reserved: Value,
    #[serde(deserialize_with = "instant")]
    updated_at: Timestamp,
}

impl From<BudgetShape> for StoredBudget {
    fn from(shape: BudgetShape) -> Self {
        let amount = |number: &Value| shape.unit.amount(number).unwrap_or_default();
        let standing = BudgetStanding {
            raised: amount(&shape.raised),
            reserved: amount(&shape.reserved),
            settled: amount(&shape.used),
        };
        let shared = shape.shared.map(|name| Arc::from(format!("shared:{name}")));
        let account = BudgetAccount {
            limit: amount(&shape.limit),
            id: shape.budget_id,
            owner: shared.or(shape.workflow_id).unwrap_or_default(),
            unit: shape.unit,
            per: shape.per,
            subject: shape.subject.unwrap_or_default(),
            day: shape.day,
            time_zone: shape.time_zone.filter(|zone| &**zone != "UTC"),
            ends_at: shape.ends_at,
            user_id: shape.user_id,
        };
        Self { account, standing, updated_at: shape.updated_at }
    }
}

/// A page of accounts.
#[derive(Deserialize)]
pub(super) struct BudgetListShape {
    budgets: Vec<BudgetShape>,
    #[serde(default)]
    next_cursor: Option<Arc<str>>,
}

impl From<BudgetListShape> for BudgetPage {
    fn from(shape: BudgetListShape) -> Self {
        Self { budgets: shape.budgets.into_iter().map(Into::into).collect(), next: shape.next_cursor }
    }
}

pub(super) fn budget_query(filter: &BudgetFilter) -> Vec<(&'static str, String)> {
    let limit = if filter.limit == 0 { LIST_DEFAULT } else { filter.limit };
    let mut query = vec![("limit", limit.min(LIST_MAX).to_string())];
    query.extend(filter.id.as_ref().map(|id| ("budget_id", id.to_string())));
    query.extend(filter.owner.as_ref().map(|owner| match owner.strip_prefix("shared:") {
        Some(name) => ("shared", name.to_owned()),
        None => ("workflow_id", owner.to_string()),
    }));
    query.extend(filter.per.map(|per| ("per", per.as_str().to_owned())));
    query.extend(filter.subject.as_ref().map(|subject| ("subject", subject.to_string())));
    query.extend(filter.after.as_ref().map(|cursor| ("cursor", cursor.to_string())));
    query
}

/// What is added to an account, as a server reads it.
pub(super) fn budget_raise(seen: &StoredBudget, amount: u64) -> Value {
    let StoredBudget { account, standing, .. } = seen;
    serde_json::json!({
        "budget_id": account.id,
        "raise_by": account.unit.number(amount),
        "raised": account.unit.number(standing.raised),
    })
}

pub(super) fn shown(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::MAX).to_string()
}

fn parse<E: de::Error>(text: &str) -> Result<Timestamp, E> {
    let at = text.parse::<jiff::Timestamp>().map_err(|_| E::custom("a time is not in RFC 3339"))?;
    Ok(Timestamp::from_micros(at.as_microsecond()))
}

pub(super) fn instant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

pub(super) fn instant_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    Option::<String>::deserialize(deserializer)?.as_deref().map(parse).transpose()
}

/// One that only a newer server knows is absent.
fn answer_if_known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Answer>, D::Error> {
    Ok(Option::<Value>::deserialize(deserializer)?.and_then(|answer| serde_json::from_value(answer).ok()))
}

/// Values only a newer server knows become `Other`, or are absent.
fn waiting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Waiting>, D::Error> {
    #[derive(Deserialize)]
    struct Told {
        #[serde(rename = "for")]
        waits_for: WaitsFor,
        #[serde(default)]
        on: Option<Arc<str>>,
        #[serde(default, deserialize_with = "instant_if_any")]
        until: Option<Timestamp>,
        #[serde(default)]
        is_interrupted: bool,
        #[serde(default)]
        is_answered: bool,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        remedy: Option<Value>,
        #[serde(default)]
        hint: Option<String>,
    }
    let told = Option::<Told>::deserialize(deserializer)?;
    Ok(told.map(|told| Waiting {
        waits_for: told.waits_for,
        on: told.on,
        until: told.until,
        is_interrupted: told.is_interrupted,
        is_answered: told.is_answered,
        reason: told.reason,
        remedy: told.remedy.and_then(|remedy| serde_json::from_value::<Remedy>(remedy).ok()),
        hint: told.hint,
    }))
}

/// The server names the last event; the next index is one more.
fn after_last<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Option::<u64>::deserialize(deserializer)?.map_or(0, |last| last.saturating_add(1)))
}
