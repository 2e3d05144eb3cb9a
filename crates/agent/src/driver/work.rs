//! The calls of one turn, to tools and to members, made concurrently.
//!
//! Invariant: every intent of a turn is recorded before the first of its calls leaves; a call that must not run twice
//! but may have run keeps its whole turn from starting.

use super::place::{Place, Task};
use super::{Drive, Retrying, drive, read, result};
use crate::tool::{Tool, ToolContext, ToolError, panicked};
use futures::future::{Either, FutureExt, select};
use futures::stream::{FuturesUnordered, StreamExt};
use outlive_core::machine::TeamCall;
use outlive_core::port::{Recall, SessionState};
use outlive_core::{
    Failure, FailureKind, Key, Record, Retry, RunOutput, ToolCall, ToolEffect, ToolErrorEvent, ToolEvent,
    ToolExecution, ToolResult, content_text,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest tool result shown to a model, in bytes; the rest is cut off, with a note.
const TOOL_RESULT_LEN_MAX: usize = 256 * 1024;

/// How a tool is called again after a passing failure.
const TOOL_RETRY: Retry = Retry { times: 3, backoff_ms: 500, backoff_ms_max: 8000 };

/// The longest wait before that, for a tool without a time limit.
const TOOL_WAIT_MAX: Duration = Duration::from_secs(60);

/// One call of a turn, with what the log has about it.
struct Planned {
    place: u32,
    key: Key,
    recall: Recall,
    call: TeamCall,
    execution: ToolExecution,
}

/// The same with its result.
struct Performed {
    place: u32,
    execution: ToolExecution,
    done: CallDone,
    member: Option<Arc<RunOutput>>,
}

/// The record of a call: its result, and what it changed in the session's state.
#[derive(Serialize, Deserialize)]
struct CallDone {
    #[serde(flatten)]
    result: ToolResult,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
}

impl CallDone {
    /// A call that failed has changed nothing.
    fn new(result: ToolResult, state: Option<Value>) -> Self {
        Self { state: state.filter(|_| !result.is_error), result }
    }
}

impl From<ToolResult> for CallDone {
    fn from(result: ToolResult) -> Self {
        Self { result, state: None }
    }
}

impl Drive<'_> {
    /// All calls of one turn, concurrently.
    pub(super) async fn work(&mut self, calls: Vec<(u32, TeamCall)>) -> Result<Vec<(u32, ToolResult)>, Failure> {
        let turn = self.place.base.turn(self.turns - 1);
        let planned: Vec<_> = calls.into_iter().map(|(place, call)| self.plan(place, call, &turn)).collect();
        // Checked before anything starts: when one call waits for a person, its whole turn waits.
        planned.iter().try_for_each(|planned| self.refuse_unknown_outcome(planned))?;
        // Recorded before the first wait, so that they share one commit with the answer that asked for them.
        planned.iter().filter(|planned| matches!(planned.recall, Recall::Nothing)).for_each(|new| self.announce(new));
        let mut working: FuturesUnordered<_> = planned.into_iter().map(|planned| self.perform(planned)).collect();
        let mut performed = Vec::new();
        // A call that cannot continue must not take the others with it, and leave more calls with an unknown outcome.
        let mut stopped = None;
        while let Some(done) = working.next().await {
            match done {
                Ok(done) => performed.push(done),
                Err(failure) => drop(stopped.get_or_insert(failure)),
            }
        }
        drop(working);
        if let Some(failure) = stopped {
            return Err(failure);
        }
        performed.sort_by_key(|done| done.place);
        Ok(performed.into_iter().map(|done| self.note(done)).collect())
    }

    fn plan(&self, place: u32, call: TeamCall, turn: &Key) -> Planned {
        let key = turn.call(place);
        let mut execution = ToolExecution::started(tool_call(&call), self.now());
        if let TeamCall::Delegate { .. } = call {
            execution.child_run_id = Some(self.place.of_member(&key).run_id().to_string());
        }
        Planned { place, recall: self.effects().recall(&key), key, call, execution }
    }

    fn refuse_unknown_outcome(&self, planned: &Planned) -> Result<(), Failure> {
        let (Recall::Started, TeamCall::Tool(call)) = (&planned.recall, &planned.call) else {
            return Ok(());
        };
        match self.profile.tool(&call.function.name).map(|tool| tool.effect) {
            Some(ToolEffect::Once) => Err(self.unknown_outcome(call, "was in flight when its process ended")),
            Some(ToolEffect::Read | ToolEffect::Idempotent) | None => Ok(()),
        }
    }

    fn unknown_outcome(&self, call: &ToolCall, why: &str) -> Failure {
        let (name, arguments) = (&call.function.name, &call.function.arguments);
        let title = self.profile.title();
        let message = format!(
            "{title}: nobody knows whether the tool {name} ran with {arguments}: it {why}, and it must not run twice"
        );
        Failure::new(FailureKind::OutcomeUnknown, message)
    }

    fn announce(&self, planned: &Planned) {
        let started = ToolEvent { content: None, tool: Box::new(planned.execution.clone()) };
        self.tell(self.voice.tool_started(started), Some(Record::Intent { key: planned.key.clone(), name: None }));
    }

    async fn perform(&self, planned: Planned) -> Result<Performed, Failure> {
        let Planned { place, key, recall, call, execution } = planned;
        if let Recall::Done(value) = recall {
            let done: CallDone = read(&key, &value)?;
            let member = match call {
                TeamCall::Delegate { .. } => recall_member(&self.place.of_member(&key)),
                TeamCall::Tool(_) | TeamCall::Refuse { .. } => None,
            };
            let execution = execution.completed(&done.result);
            self.tell_tool_error(&key, &execution, &done.result);
            return Ok(Performed { place, execution, done, member });
        }
        let begun = self.effects().now();
        let (mut done, member) = match call {
            TeamCall::Tool(call) => (self.call_tool(&call, &key).await?, None),
            TeamCall::Delegate { member, task, .. } => self.delegate(member, task, &key).await?,
            TeamCall::Refuse { reason, .. } => (ToolResult::error(reason).into(), None),
        };
        done.result.duration = Some(self.effects().now().since(begun).as_secs_f64());
        let execution = execution.completed(&done.result);
        let completed = ToolEvent { content: Some(summary(&execution)), tool: Box::new(execution.clone()) };
        self.tell(self.voice.tool_completed(completed), Some(result(key.clone(), &done)));
        self.tell_tool_error(&key, &execution, &done.result);
        Ok(Performed { place, execution, done, member })
    }

    fn tell_tool_error(&self, key: &Key, execution: &ToolExecution, result: &ToolResult) {
        if result.is_error {
            let event = || ToolErrorEvent { error: result.content.clone(), tool: Box::new(execution.clone()) };
            self.say_once(key.word("error"), || self.voice.tool_error(event()));
        }
    }

    fn note(&mut self, done: Performed) -> (u32, ToolResult) {
        self.tools.push(done.execution);
        if let Some(member) = done.member {
            self.metrics.absorb(&member.metrics.clone().unwrap_or_default());
            self.member_responses.push(member);
        }
        if let Some(changed) = &done.done.state {
            self.state.apply(changed);
        }
        (done.place, done.done.result)
    }

    async fn call_tool(&self, call: &ToolCall, key: &Key) -> Result<CallDone, Failure> {
        let state = self.state.fork();
        let result = self.tool_result(call, key, state.clone()).await?;
        let result = state.check().map_or_else(|problem| ToolResult::error(problem.to_string()), |()| result);
        Ok(CallDone::new(result, state.patch()))
    }

    async fn tool_result(&self, call: &ToolCall, key: &Key, state: SessionState) -> Result<ToolResult, Failure> {
        let name = &call.function.name;
        let Some(tool) = self.profile.tool(name) else {
            let known: Vec<_> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            return Ok(ToolResult::error(format!("there is no tool {name:?}; the tools are: {known}")));
        };
        let arguments = match call.arguments() {
            Ok(arguments) => arguments,
            Err(problem) => {
                return Ok(ToolResult::error(format!("the arguments are not a JSON object: {problem}")));
            }
        };
        self.durable().await?;
        let context = ToolContext {
            idempotency_key: Arc::from(format!("{}/{key}", self.place.root)),
            run_id: self.run_id.clone(),
            session_state: state,
        };
        let until = tool.timeout.map(|limit| Instant::now() + limit);
        match self.within(tool.timeout, self.try_tool(tool, call, arguments, context, until)).await {
            Ok(result) => result,
            Err(limit) if tool.effect == ToolEffect::Once => {
                Err(self.unknown_outcome(call, &format!("has not answered within {limit:?}")))
            }
            Err(limit) => Ok(ToolResult::error(format!("the tool {name} has not answered within {limit:?}"))),
        }
    }

    /// Calls a tool, and calls it again when the failure is a passing one and the wait fits into the time there is.
    async fn try_tool(
        &self,
        tool: &Tool,
        call: &ToolCall,
        arguments: Value,
        context: ToolContext,
        until: Option<Instant>,
    ) -> Result<ToolResult, Failure> {
        let mut tries = 1;
        loop {
            // Made inside, so that a panic before the first await is caught too.
            let called = AssertUnwindSafe(async { tool.call(arguments.clone(), context.clone()).await });
            let failure = match called.catch_unwind().await {
                Ok(Ok(text)) => return Ok(ToolResult::ok(capped(text))),
                Ok(Err(ToolError::Arguments(problem))) => {
                    return Ok(ToolResult::error(capped(format!("the arguments do not fit: {problem}"))));
                }
                Ok(Err(ToolError::Failed(failure))) => failure,
                Err(panic) => return Ok(ToolResult::error(capped(panicked(&*panic)))),
            };
            let wait = TOOL_RETRY.wait(tries, failure.retry_after_ms, self.effects().chance());
            let has_time = until.map_or(wait <= TOOL_WAIT_MAX, |until| Instant::now() + wait < until);
            if tool.effect == ToolEffect::Once || !passes(&failure) || tries > TOOL_RETRY.times || !has_time {
                return Ok(ToolResult::error(capped(given_up(failure, tries))));
            }
            self.tell_retrying(Retrying::Tool(call), tries, &failure, wait);
            self.pause(wait).await?;
            tries += 1;
        }
    }

    /// The outcome of `call`, or the limit it exceeded. A call that is ready at once needs no timer.
    async fn within<T>(&self, limit: Option<Duration>, call: impl Future<Output = T>) -> Result<T, Duration> {
        let mut call = pin!(call);
        if let Some(done) = call.as_mut().now_or_never() {
            return Ok(done);
        }
        let Some(limit) = limit else { return Ok(call.await) };
        match select(call, self.effects().sleep(limit)).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(((), _)) => Err(limit),
        }
    }

    async fn delegate(
        &self,
        member: usize,
        task: String,
        key: &Key,
    ) -> Result<(CallDone, Option<Arc<RunOutput>>), Failure> {
        let members = self.profile.members.as_deref().unwrap_or_default();
        let member = members.get(member).expect("the machine delegates to members of this team only");
        let place = self.place.of_member(key).with_state(self.state.fork());
        let ended = drive(member, place, Task::new(task)).await?;
        let mut answer = match &ended.failure {
            None => ToolResult::ok(capped(content_text(ended.run.content.as_ref()))),
            Some(failure) => ToolResult::error(capped(failure.message.clone())),
        };
        answer.child_run_id = Some(ended.run.run_id.clone());
        Ok((CallDone::new(answer, ended.state.clone()), Some(ended.run.clone())))
    }
}

/// The member's run behind a delegation whose result is in the log.
fn recall_member(place: &Place<'_>) -> Option<Arc<RunOutput>> {
    match place.effects.recall(&place.base.word("done")) {
        Recall::Run(ended) => Some(ended.run.clone()),
        Recall::Done(_) | Recall::Started | Recall::Nothing => None,
    }
}

fn tool_call(call: &TeamCall) -> &ToolCall {
    match call {
        TeamCall::Tool(call) | TeamCall::Delegate { call, .. } | TeamCall::Refuse { call, .. } => call,
    }
}

/// Whether the same call may well succeed a moment later: the tool says so, or the service it calls is in trouble.
fn passes(failure: &Failure) -> bool {
    use FailureKind::{RateLimit, Timeout, Truncated, Unavailable};
    let is_passing = matches!(failure.kind, RateLimit | Unavailable | Timeout | Truncated);
    failure.retryable && (is_passing || failure.retry_after_ms.is_some())
}

/// The failure's message, and what the model should know before it tries again itself.
fn given_up(failure: Failure, tries: u32) -> String {
    let mut message = failure.message;
    if tries > 1 {
        message.push_str(&format!("; tried {tries} times"));
    }
    if let Some(wait) = failure.retry_after_ms {
        message.push_str(&format!("; not before {:?} from now", Duration::from_millis(wait)));
    }
    message
}

/// One line for people: the call, and how long it took.
fn summary(execution: &ToolExecution) -> String {
    let arguments = match &execution.tool_args {
        Value::Object(arguments) => {
            let pairs = arguments.iter().map(|(name, value)| format!("{name}={}", short(content_text(Some(value)))));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => content_text(Some(other)),
    };
    let duration = execution.metrics.as_ref().and_then(|metrics| metrics.duration).unwrap_or_default();
    let how = if execution.tool_call_error == Some(true) { "failed after" } else { "completed in" };
    format!("{}({arguments}) {how} {duration:.4}s", execution.tool_name)
}

/// The beginning of a text; the whole text stands beside it in the event.
fn short(mut text: String) -> String {
    const SHOWN: usize = 200;
    if text.len() > SHOWN {
        text.truncate(text.floor_char_boundary(SHOWN));
        text.push('…');
    }
    text
}

/// The text, or as much of its beginning as a model is shown, with a note that something is missing.
fn capped(mut text: String) -> String {
    let length = text.len();
    if length <= TOOL_RESULT_LEN_MAX {
        return text;
    }
    text.truncate(text.floor_char_boundary(TOOL_RESULT_LEN_MAX));
    text.push_str(&format!("\n[cut here: the result has {length} bytes, {TOOL_RESULT_LEN_MAX} are shown]"));
    text
}
