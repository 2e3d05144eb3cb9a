//! The calls of one turn, to tools and to members, made concurrently: first those that need nobody, then, once people
//! have answered, the others.
//!
//! Invariant: intents are recorded before the first of their calls leaves; a call that must not run twice but may have run
//! is not made again unless a person says so.

use super::place::{Place, Task};
use super::{Drive, Retrying, drive, halted, read, result};
use crate::desk::Caller;
use crate::tool::{Asker, Reporter, Tool, ToolContext, ToolError, panicked};
use futures::future::{Either, FutureExt, join, select};
use futures::stream::{FuturesUnordered, StreamExt};
use outlive_core::machine::{Job, TeamCall};
use outlive_core::port::{Halt, Recall, SessionState};
use outlive_core::{
    Failure, FailureKind, Key, Record, Retry, RunEnded, RunOutput, ToolCall, ToolEffect, ToolErrorEvent, ToolEvent,
    ToolExecution, ToolResult, content_text,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest tool result shown to a model, in bytes; the rest is cut off, with a note.
const TOOL_RESULT_LEN_MAX: usize = 256 * 1024;

/// How a tool is called again after a passing failure.
const TOOL_RETRY: Retry = Retry { times: 3, backoff_ms: 500, backoff_ms_max: 8000 };

/// The longest wait before that, for a tool without a time limit.
const TOOL_WAIT_MAX: Duration = Duration::from_secs(60);

/// One call of a turn, with what the log has about it.
pub(super) struct Planned {
    place: u32,
    pub(super) key: Key,
    recall: Recall,
    pub(super) call: TeamCall,
    pub(super) execution: ToolExecution,
    pub(super) given: Given,
    /// Why nobody knows whether it ran.
    pub(super) unknown: Option<String>,
    /// How often people were asked what came of it.
    pub(super) asked: u32,
}

/// What people have said about a call.
#[derive(Debug)]
pub(super) enum Given {
    /// Nothing yet, and it needs them.
    Nothing,
    /// It may be made; with these arguments beside the model's.
    Allowed(Map<String, Value>),
    /// It is not made here: what the model is told of it.
    Ended(ToolResult),
}

/// The same with its result.
pub(super) struct Performed {
    place: u32,
    pub(super) execution: ToolExecution,
    done: CallDone,
    /// The runs of members it delegated to.
    members: Vec<Arc<RunOutput>>,
}

/// The calls of a turn that have ended.
#[derive(Default)]
pub(super) struct Done(Mutex<Vec<Performed>>);

impl Done {
    fn push(&self, done: Performed) {
        self.lock().push(done);
    }

    fn take(&self) -> Vec<Performed> {
        std::mem::take(&mut *self.lock())
    }

    /// Their entries with those of calls that wait, in the order the model asked for them.
    pub(super) fn with<'p>(&self, waiting: impl IntoIterator<Item = &'p Planned>) -> Vec<ToolExecution> {
        let done = self.lock();
        let waiting = waiting.into_iter().map(|call| (call.place, &call.execution));
        let mut all: Vec<_> = done.iter().map(|done| (done.place, &done.execution)).chain(waiting).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, execution)| execution.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Performed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a tool gave, or why nobody knows what it did.
type Told = Result<ToolResult, String>;

/// The record of a call: its result, what it changed in the session's state, and what people said about it.
#[derive(Serialize, Deserialize)]
struct CallDone {
    #[serde(flatten)]
    result: ToolResult,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<Box<ToolExecution>>,
}

impl CallDone {
    /// A call that failed has changed nothing.
    fn new(result: ToolResult, state: Option<Value>) -> Self {
        Self { state: state.filter(|_| !result.is_error), result, asked: None }
    }
}

impl From<ToolResult> for CallDone {
    fn from(result: ToolResult) -> Self {
        Self { result, state: None, asked: None }
    }
}

impl Drive<'_> {
    /// All calls of one turn, concurrently: those that need people as soon as they have answered.
    pub(super) async fn work(&mut self, calls: Vec<(u32, TeamCall)>) -> Result<Vec<(u32, ToolResult)>, Failure> {
        let turn = self.place.base.turn(self.turns - 1);
        let planned = calls.into_iter().map(|(place, call)| self.plan(place, call, &turn));
        let (asking, ready): (Vec<_>, Vec<_>) = planned.partition(|call| matches!(call.given, Given::Nothing));
        let performed = Done::default();
        if asking.is_empty() {
            self.perform_all(ready, &performed).await?;
        } else {
            // Boxed, because hardly any turn needs the space.
            Box::pin(self.work_and_ask(ready, asking, &turn, &performed)).await?;
        }
        let mut performed = performed.take();
        performed.sort_by_key(|done| done.place);
        Ok(performed.into_iter().map(|done| self.note(done)).collect())
    }

    async fn work_and_ask(
        &self,
        ready: Vec<Planned>,
        asking: Vec<Planned>,
        turn: &Key,
        performed: &Done,
    ) -> Result<(), Failure> {
        let desk = &self.place.desk;
        let is_first = AtomicBool::new(true);
        // The second to end leaves its hand to the run.
        let ends = || is_first.swap(false, Ordering::Relaxed).then(|| desk.ends());
        let needs_nobody = async {
            let ended = self.perform_all(ready, performed).await;
            ends();
            ended
        };
        let needs_people = async {
            let ended = match self.ask_people(asking, turn, performed).await {
                Ok(allowed) => self.perform_all(allowed, performed).await,
                Err(failure) => Err(failure),
            };
            ends();
            ended
        };
        desk.share(2);
        let (one, other) = join(needs_nobody, needs_people).await;
        one.and(other)
    }

    /// Makes these calls side by side. A call is announced when its turn has come, so after a crash nobody need ask about one
    /// that had not begun.
    async fn perform_all(&self, ready: Vec<Planned>, performed: &Done) -> Result<(), Failure> {
        let calls = ready.into_iter().map(|planned| {
            let planned = self.begin(planned);
            self.perform(planned, performed)
        });
        self.side_by_side(calls, |done| performed.push(done)).await
    }

    /// Does all this work: as much at once as may be, and more of it as some ends. What may begin at once is taken up before
    /// the first wait, so that it shares one commit with the answer that asked for it.
    async fn side_by_side<T>(
        &self,
        mut work: impl Iterator<Item = impl Future<Output = Result<T, Failure>>>,
        mut done: impl FnMut(T),
    ) -> Result<(), Failure> {
        let desk = &self.place.desk;
        let mut working: FuturesUnordered<_> = work.by_ref().take(self.profile.calls_at_once).collect();
        desk.share(working.len());
        // What cannot continue must not take the others with it, and leave more calls with an unknown outcome.
        let mut stopped = None;
        while let Some(ended) = working.next().await {
            match ended {
                Ok(ended) => done(ended),
                Err(failure) => drop(stopped.get_or_insert(failure)),
            }
            // Its hand goes to the next.
            let next = if stopped.is_none() { work.next() } else { None };
            match next {
                Some(next) => working.push(next),
                None if working.is_empty() => {}
                None => desk.ends(),
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    fn plan(&self, place: u32, call: TeamCall, turn: &Key) -> Planned {
        let key = turn.call(place);
        let mut execution = ToolExecution::started(tool_call(&call), self.now());
        if let TeamCall::Delegate { .. } = call {
            execution.child_run_id = Some(self.place.of_member(&key).run_id().to_string());
        }
        let recall = self.effects().recall(&key);
        let tool = match &call {
            TeamCall::Tool(call) => self.tool(&call.function.name),
            _ => None,
        };
        let (mut given, mut unknown) = (Given::Allowed(Map::new()), None);
        if let Some(tool) = tool.filter(|_| !matches!(recall, Recall::Done(_))) {
            if tool.needs.asks() {
                given = self.needs_people(tool, &mut execution);
            }
            let may_have_run = matches!(recall, Recall::Started)
                && !matches!(given, Given::Ended(_))
                && !tool.needs.external_execution;
            if may_have_run && tool.effect == ToolEffect::Once {
                unknown = Some("was in flight when its process ended".to_owned());
            }
        }
        let is_new = tool.is_some_and(|tool| !tool.needs.asks()) && !matches!(recall, Recall::Done(_));
        // What people said of it holds, also where its tool does not need them any more.
        let said = is_new.then(|| self.effects().answered(&key.question(0))).flatten();
        let planned = Planned { place, key, recall, call, execution, given, unknown, asked: 0 };
        match said {
            Some(said) => self.said_before(planned, said.answer),
            None => planned,
        }
    }

    /// Why nobody knows what came of a call, in words.
    pub(super) fn unknown_outcome(&self, call: &ToolCall, why: &str) -> Failure {
        let (name, arguments) = (&call.function.name, &call.function.arguments);
        let title = self.profile.title();
        let message = format!(
            "{title}: nobody knows whether the tool {name} ran with {arguments}: it {why}, and it must not run twice"
        );
        Failure::new(FailureKind::OutcomeUnknown, message)
    }

    /// Announces a call that is new, as of now.
    fn begin(&self, mut planned: Planned) -> Planned {
        if matches!(planned.recall, Recall::Nothing) {
            planned.execution.created_at = self.now();
            let started = ToolEvent { content: None, tool: Box::new(planned.execution.clone()) };
            self.tell(self.voice.tool_started(started), Some(Record::Intent { key: planned.key.clone(), name: None }));
        }
        planned
    }

    async fn perform(&self, mut planned: Planned, performed: &Done) -> Result<Performed, Failure> {
        loop {
            if planned.unknown.is_some() {
                // Boxed, because hardly any call needs the space.
                Box::pin(self.ask_what_came(&mut planned, performed)).await?;
            } else {
                match self.attempt_call(&planned).await? {
                    Ok(done) => return Ok(done),
                    Err(why) => planned.unknown = Some(why),
                }
            }
        }
    }

    /// Makes a call, unless its outcome is known. Gives back why its outcome is not known.
    async fn attempt_call(&self, planned: &Planned) -> Result<Result<Performed, String>, Failure> {
        let Planned { place, key, execution, .. } = planned;
        let (place, execution) = (*place, execution.clone());
        if let Recall::Done(value) = &planned.recall {
            let done: CallDone = read(key, value)?;
            let members = match &planned.call {
                TeamCall::Delegate { .. } => recall_member(&self.place.of_member(key)).into_iter().collect(),
                TeamCall::DelegateAll { jobs, .. } => {
                    let places = (0..).zip(jobs).map(|(number, _)| self.place.of_member_of(key, number));
                    places.filter_map(|place| recall_member(&place)).collect()
                }
                TeamCall::Tool(_) | TeamCall::Answer { .. } | TeamCall::Refuse { .. } => Vec::new(),
            };
            let execution = done.asked.clone().map_or(execution, |asked| *asked).completed(&done.result);
            self.tell_tool_error(key, &execution, &done.result);
            return Ok(Ok(Performed { place, execution, done, members }));
        }
        let begun = self.effects().now();
        let (mut done, members) = match (&planned.given, &planned.call) {
            (Given::Ended(result), _) => (result.clone().into(), Vec::new()),
            (_, TeamCall::Answer { content, .. }) => (ToolResult::ok(capped(content.clone())).into(), Vec::new()),
            (_, TeamCall::Refuse { reason, .. }) => (ToolResult::error(reason.clone()).into(), Vec::new()),
            (_, TeamCall::Delegate { member, task, .. }) => {
                let ended = self.delegate(*member, task.clone(), self.place.of_member(key)).await?;
                (CallDone::new(told(&ended), ended.state.clone()), vec![ended.run.clone()])
            }
            (_, TeamCall::Tool(call)) if self.leads(call) => (self.run_steps(call, key).await?.into(), Vec::new()),
            // Boxed, because hardly any call needs the space.
            (_, TeamCall::DelegateAll { jobs, .. }) => Box::pin(self.delegate_all(jobs, key)).await?,
            (given, TeamCall::Tool(call)) => match self.call_tool(call, given, key).await? {
                Ok(done) => (done, Vec::new()),
                Err(why) => return Ok(Err(why)),
            },
        };
        done.result.duration = Some(self.effects().now().since(begun).as_secs_f64());
        done.asked = has_asked(&execution).then(|| Box::new(execution.clone()));
        let execution = execution.completed(&done.result);
        let completed = ToolEvent { content: Some(summary(&execution)), tool: Box::new(execution.clone()) };
        self.tell(self.voice.tool_completed(completed), Some(result(key.clone(), &done)));
        self.tell_tool_error(key, &execution, &done.result);
        Ok(Ok(Performed { place, execution, done, members }))
    }

    fn tell_tool_error(&self, key: &Key, execution: &ToolExecution, result: &ToolResult) {
        if result.is_error {
            let event = || ToolErrorEvent { error: result.content.clone(), tool: Box::new(execution.clone()) };
            self.say_once(key.word("error"), || self.voice.tool_error(event()));
        }
    }

    fn note(&mut self, done: Performed) -> (u32, ToolResult) {
        self.tools.push(settled(done.execution));
        for member in done.members {
            self.metrics.absorb(&member.metrics.clone().unwrap_or_default());
            self.member_responses.push(member);
        }
        if let Some(changed) = &done.done.state {
            self.state.apply(changed);
        }
        (done.place, done.done.result)
    }

    async fn call_tool(&self, call: &ToolCall, given: &Given, key: &Key) -> Result<Result<CallDone, String>, Failure> {
        if let Some(workflow) = self.workflow_of(call) {
            // Boxed, because hardly any call needs the space.
            let (result, state) = Box::pin(self.run_workflow(workflow, call, given, key)).await?;
            return Ok(Ok(CallDone::new(result, state)));
        }
        let state = self.state.fork();
        let result = match self.tool_result(call, given, key, state.clone()).await? {
            Ok(result) => result,
            Err(why) => return Ok(Err(why)),
        };
        let result = state.check().map_or_else(|problem| ToolResult::error(problem.to_string()), |()| result);
        Ok(Ok(CallDone::new(result, state.patch())))
    }

    async fn tool_result(
        &self,
        call: &ToolCall,
        given: &Given,
        key: &Key,
        state: SessionState,
    ) -> Result<Told, Failure> {
        let name = &call.function.name;
        let Some(tool) = self.tool(name) else {
            let known: Vec<_> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            return Ok(Ok(ToolResult::error(format!("there is no tool {name:?}; the tools are: {known}"))));
        };
        let mut arguments = match call.arguments() {
            Ok(arguments) => arguments,
            Err(problem) => {
                return Ok(Ok(ToolResult::error(format!("the arguments are not a JSON object: {problem}"))));
            }
        };
        if let Given::Allowed(values) = given {
            tool.fill_in(&mut arguments, values);
        }
        self.durable().await?;
        let caller = self.place.desk.caller();
        let context = ToolContext::new(format!("{}/{key}", self.place.root), self.run_id.clone(), state);
        let reporter = Some(Arc::new(Reporter::new(self.place.desk.clone(), self.origin.clone(), call)));
        let context = ToolContext { reporter, ..context };
        let _leaving = caller.until_dropped();
        let (is_once, four_eyes) = (tool.effect == ToolEffect::Once, tool.needs.four_eyes);
        let asker = Asker { caller, key: key.clone(), is_once, four_eyes };
        match self.within(tool.timeout, &asker.caller, self.try_tool(tool, call, arguments, context, &asker)).await {
            Ok(told) => told,
            Err(limit) if asker.is_once => Ok(Err(format!("has not answered within {limit:?}"))),
            Err(limit) => Ok(Ok(ToolResult::error(format!("the tool {name} has not answered within {limit:?}")))),
        }
    }

    /// Calls a tool, and calls it again when the failure is a passing one and the wait fits into the time there is.
    async fn try_tool(
        &self,
        tool: &Tool,
        call: &ToolCall,
        arguments: Value,
        context: ToolContext,
        asker: &Asker,
    ) -> Result<Told, Failure> {
        let mut tries = 1;
        loop {
            let again = Asker { caller: asker.caller.again(), ..asker.clone() };
            let context = ToolContext { asker: Some(again), ..context.clone() };
            // Made inside, so that a panic before the first await is caught too.
            let called = AssertUnwindSafe(async { tool.call(arguments.clone(), context).await });
            let ended = called.catch_unwind().await;
            // Whatever the tool makes of it.
            if asker.caller.is_stopped() {
                return Err(halted(Halt));
            }
            let failure = match ended {
                Ok(Ok(text)) => return Ok(Ok(ToolResult::ok(capped(text)))),
                Ok(Err(ToolError::Arguments(problem))) => {
                    return Ok(Ok(ToolResult::error(capped(format!("the arguments do not fit: {problem}")))));
                }
                Ok(Err(ToolError::Failed(failure))) => failure,
                Ok(Err(ToolError::OutcomeUnknown(what))) if asker.is_once => return Ok(Err(what)),
                Ok(Err(ToolError::OutcomeUnknown(what))) => {
                    let name = &call.function.name;
                    Failure::new(FailureKind::Unavailable, format!("the tool {name} {what}"))
                }
                Err(panic) => return Ok(Ok(ToolResult::error(capped(panicked(&*panic))))),
            };
            let wait = TOOL_RETRY.wait(tries, failure.retry_after_ms, self.effects().chance());
            let left = |limit| asker.caller.left(limit).is_some_and(|left| wait < left);
            let has_time = tool.timeout.map_or(wait <= TOOL_WAIT_MAX, left);
            if tool.effect == ToolEffect::Once || !passes(&failure) || tries > TOOL_RETRY.times || !has_time {
                return Ok(Ok(ToolResult::error(capped(given_up(failure, tries)))));
            }
            self.tell_retrying(Retrying::Tool(call), tries, &failure, wait);
            self.pause(wait).await?;
            tries += 1;
        }
    }

    /// The outcome of `call`, or the limit it exceeded; no time passes while people are asked. A call that is ready at
    /// once needs no timer.
    pub(super) async fn within<T>(
        &self,
        limit: Option<Duration>,
        caller: &Caller,
        call: impl Future<Output = T>,
    ) -> Result<T, Duration> {
        let mut call = pin!(call);
        if let Some(done) = call.as_mut().now_or_never() {
            return Ok(done);
        }
        let Some(limit) = limit else { return Ok(call.await) };
        let mut left = limit;
        loop {
            match select(call.as_mut(), self.effects().sleep(left)).await {
                Either::Left((done, _)) => return Ok(done),
                Either::Right(((), _)) => left = caller.left(limit).ok_or(limit)?,
            }
        }
    }

    async fn delegate(&self, member: usize, task: String, place: Place<'_>) -> Result<Arc<RunEnded>, Failure> {
        let members = self.profile.members.as_deref().unwrap_or_default();
        let member = members.get(member).expect("the machine delegates to members of this team only");
        drive(member, place.with_state(self.state.fork(), self.changed()), Task::new(task)).await
    }

    /// Has several members work side by side.
    async fn delegate_all(&self, jobs: &[Job], key: &Key) -> Result<(CallDone, Vec<Arc<RunOutput>>), Failure> {
        let work = (0..).zip(jobs).map(|(number, job)| {
            let place = self.place.of_member_of(key, number);
            async move { Ok((number, self.delegate(job.member, job.task.clone(), place).await?)) }
        });
        let mut ended = Vec::with_capacity(jobs.len());
        self.side_by_side(work, |one| ended.push(one)).await?;
        ended.sort_by_key(|(number, _)| *number);
        let ended: Vec<_> = ended.into_iter().map(|(_, ended)| ended).collect();
        let parts: Vec<_> = ended.iter().map(|ended| told(ended)).collect();
        let lines = jobs.iter().zip(&parts).map(|(job, part)| {
            let how = if part.is_error { " failed" } else { "" };
            format!("{}{how}:\n{}", self.members[job.member], part.content)
        });
        let content = capped(lines.collect::<Vec<_>>().join("\n\n"));
        let result = ToolResult { is_error: parts.iter().all(|part| part.is_error), parts, ..ToolResult::ok(content) };
        // In the order of the jobs, whoever ended first.
        let state = self.state.fork();
        ended.iter().filter_map(|ended| ended.state.as_ref()).for_each(|changed| state.apply(changed));
        Ok((CallDone::new(result, state.patch()), ended.iter().map(|ended| ended.run.clone()).collect()))
    }
}

/// What the leader is told of a member's run.
fn told(ended: &RunEnded) -> ToolResult {
    let answer = match &ended.failure {
        None => ToolResult::ok(capped(content_text(ended.run.content.as_ref()))),
        Some(failure) => ToolResult::error(capped(failure.message.clone())),
    };
    ToolResult { child_run_id: Some(ended.run.run_id.clone()), ..answer }
}

/// The member's run behind a delegation whose result is in the log.
fn recall_member(place: &Place<'_>) -> Option<Arc<RunOutput>> {
    match place.effects.recall(&place.base.word("done")) {
        Recall::Run(ended) => Some(ended.run.clone()),
        Recall::Done(_) | Recall::Started | Recall::Nothing => None,
    }
}

/// Whether people had to do with a call.
fn has_asked(execution: &ToolExecution) -> bool {
    let flags = [execution.requires_confirmation, execution.requires_user_input, execution.external_execution_required];
    flags.iter().any(Option::is_some)
}

/// The entry of a call that has ended: it requires nothing of people any more.
fn settled(mut execution: ToolExecution) -> ToolExecution {
    for required in [&mut execution.requires_confirmation, &mut execution.requires_user_input] {
        *required = required.map(|_| false);
    }
    execution
}

pub(super) fn tool_call(call: &TeamCall) -> &ToolCall {
    match call {
        TeamCall::Tool(call)
        | TeamCall::Delegate { call, .. }
        | TeamCall::DelegateAll { call, .. }
        | TeamCall::Answer { call, .. }
        | TeamCall::Refuse { call, .. } => call,
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
pub(super) fn capped(mut text: String) -> String {
    let length = text.len();
    if length <= TOOL_RESULT_LEN_MAX {
        return text;
    }
    text.truncate(text.floor_char_boundary(TOOL_RESULT_LEN_MAX));
    text.push_str(&format!("\n[cut here: the result has {length} bytes, {TOOL_RESULT_LEN_MAX} are shown]"));
    text
}
