//! The agent loop: carries out what an [`AgentMachine`] or a [`TeamMachine`] decides, through [`Effects`].
//!
//! ```text
//! machine.next() ──► recorded? ──yes──► the recorded answer
//!       ▲                └──no──► intent told ─ durable ─ call ─ result told
//!       └───────────────────── answer ◄──────────────────────────┘
//! ```
//! It must never know what keeps the log, or anything of a workflow beyond the ids its events carry. The one future it
//! returns polls everything: dropping that drops every call in flight.
//!
//! Invariant: the log is asked about each key once, before anything is written under it; a call whose result is in the
//! log is not made again, and what is in the log is not written again.

mod afar;
mod ask;
mod checks;
mod machine;
mod place;
mod questions;
mod spend;
mod tools;
mod voice;
mod work;
mod workflows;

use crate::desk::Caller;
use crate::model::SharedModel;
use crate::model::gate::Gate;
use crate::profile::{Profile, Shape};
use crate::prompt;
use crate::solo::Solo;
use crate::tool::Tool;
use futures::future::{Either, select};
use machine::Machine;
use outlive_core::json;
use outlive_core::machine::{AgentMachine, TeamCommand, TeamMachine};
use outlive_core::port::{BoxFuture, Effects, Executed, Halt, RateLimit, Recall, SessionState, StepContext};
use outlive_core::{
    DefinitionId, EventKind, Failure, FailureKind, FinishReason, HistoryRun, Key, Message, Metrics, ModelInfo, Origin,
    Record, Role, RunDone, RunEnded, RunEvent, RunFailed, RunId, RunInput, RunOutput, RunStatus, StepInput, StepOutput,
    Timestamp, ToolCall, ToolExecution, ToolSpec, content_text, history_context, without_history,
};
use place::{Place, Task};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use voice::Voice;

/// Makes one run, or resumes it where the log ends.
///
/// # Cancel safety
/// Dropping it drops every call in flight; the next process repeats them under the same keys.
///
/// # Errors
/// Only what must reach the caller of the whole run: the run may not continue here, a tool's outcome is unknown, a
/// record cannot be read. A run that failed is a [`RunEnded`].
fn drive<'a>(profile: &'a Profile, place: Place<'a>, task: Task) -> BoxFuture<'a, Result<Arc<RunEnded>, Failure>> {
    Box::pin(async move {
        let done = place.base.word("done");
        if let Recall::Run(ended) = place.effects.recall(&done) {
            return Ok(ended);
        }
        let mut drive = Drive::new(profile, place, task)?;
        match drive.run().await {
            Err(failure) if goes_up(&failure) => Err(failure),
            Err(failure) => Ok(drive.fail(failure, &done)),
            Ok(answer) => Ok(drive.complete(answer, &done)),
        }
    })
}

/// A run without a workflow.
///
/// # Errors
/// As [`drive`], or what made the run fail.
pub(crate) async fn run_alone(
    profile: &Profile,
    input: Value,
    listener: impl FnMut(RunEvent) + Send,
) -> Result<RunOutput, Failure> {
    let problems = profile.problems();
    if !problems.is_empty() {
        return Err(Failure::new(FailureKind::Definition, problems.join("; ")));
    }
    let effects = Solo::new(listener);
    let place = Place::alone(&effects, effects.run_id(), profile);
    let desk = place.desk.clone();
    let ended = desk.attend(&effects, &Key::run(), None, drive(profile, place, Task::new(input))).await?;
    Arc::unwrap_or_clone(ended).into_result().map(Arc::unwrap_or_clone)
}

/// A run as a step.
///
/// # Errors
/// As [`run_alone`].
pub(crate) async fn run_in_step(
    profile: &Profile,
    context: &StepContext,
    input: &StepInput,
) -> Result<Executed, Failure> {
    let place = Place::in_step(context, input, profile);
    let desk = place.desk.clone();
    let work = drive(profile, place, Task::of_step(input));
    let ended = desk.attend(&*context.effects, &context.step.key, Some(&context.execution), work).await?;
    let changed = ended.state.clone();
    let run = Arc::unwrap_or_clone(ended).into_result()?;
    if let Some(changed) = changed {
        context.state.apply(&changed);
    }
    let output = StepOutput {
        content: run.content.clone(),
        step_run_id: Some(run.run_id.to_shared()),
        metrics: run.metrics.clone().map(Box::new),
        ..StepOutput::default()
    };
    Ok(Executed { output, run: Some(run) })
}

/// Whether a failure must propagate: a leader cannot work around it.
fn goes_up(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Cancelled | FailureKind::OutcomeUnknown | FailureKind::Definition)
}

fn halted(_: Halt) -> Failure {
    Failure::new(FailureKind::Cancelled, "the run may not go on in this process")
}

/// A recorded value is never recomputed, so one that cannot be read stops the run.
fn read<T: DeserializeOwned + Send>(key: &Key, value: &RawValue) -> Result<T, Failure> {
    json::read_stored(value.get()).map_err(|error| {
        let message =
            format!("the record of {key} cannot be read ({error}): run the version of the program that wrote it");
        Failure::new(FailureKind::Definition, message)
    })
}

fn result(key: Key, value: &impl Serialize) -> Record {
    let value = to_raw_value(value).expect("results are plain data with string keys");
    Record::Result { key, value: Arc::from(value), sleeps: false }
}

/// What is being retried.
#[derive(Clone, Copy)]
enum Retrying<'a> {
    Model,
    Tool(&'a ToolCall),
}

/// A model, with what its calls need.
struct Chosen {
    model: SharedModel,
    /// The gate its calls must pass, where their limit is known.
    gate: Option<Arc<Gate>>,
    /// What it may be asked in a minute, where that is limited.
    rates: Option<Arc<RateLimit>>,
    info: ModelInfo,
}

impl Chosen {
    fn new(model: SharedModel) -> Self {
        let (info, rates) = (model.info(), model.rates());
        let limit = model.limit().map(|limit| if rates.limits() { limit.of_model(&info.model) } else { limit });
        let shared = limit.filter(|_| rates.limits()).map(|limit| rates.shared(&limit.shared_key()));
        Self { gate: limit.map(Gate::of), rates: shared, info, model }
    }
}

/// One run in progress.
struct Drive<'a> {
    profile: &'a Profile,
    voice: Voice,
    place: Place<'a>,
    task: Task,
    id: DefinitionId,
    run_id: RunId,
    origin: Origin,
    /// Its model, and those that stand in for it.
    models: Arc<[Chosen]>,
    specs: Vec<ToolSpec>,
    /// Tools that were listed when it began.
    listed: Box<[Tool]>,
    system: Option<String>,
    members: Arc<[DefinitionId]>,
    started_at: Timestamp,
    /// Model calls made or recalled so far: the number of the next turn.
    turns: u32,
    metrics: Metrics,
    machine: Machine,
    tools: Vec<ToolExecution>,
    member_responses: Vec<Arc<RunOutput>>,
    model_provider_data: Option<Value>,
    /// What cut the newest answer short.
    finish_reason: Option<FinishReason>,
    /// The session's state, including what the tools of earlier turns changed.
    state: SessionState,
    /// As whom it asks people.
    caller: Caller,
    /// It has been said that the answer's text is complete.
    has_ended_text: bool,
    /// Hooks have changed the input.
    is_input_changed: bool,
    /// Hooks have changed the answer.
    is_changed: bool,
}

impl<'a> Drive<'a> {
    fn new(profile: &'a Profile, place: Place<'a>, task: Task) -> Result<Self, Failure> {
        let refuse = |problem: String| Failure::new(FailureKind::Definition, problem).context(profile.title());
        let models = profile.all_models().map_err(refuse)?;
        let id = profile.id().map_err(refuse)?;
        let roster = profile.roster().map_err(refuse)?;
        let mut specs: Vec<_> = profile.own_tools().map(|tool| tool.spec().clone()).collect();
        let voice = Voice::of(profile);
        let system = match voice {
            Voice::Agent if profile.leads.is_some() => {
                specs.insert(0, prompt::run_workflow_tool());
                prompt::of_workflow_agent(profile)
            }
            Voice::Agent => prompt::of_agent(profile),
            Voice::Team => {
                specs.splice(0..0, prompt::team_tools(profile.mode, &roster));
                prompt::of_leader(profile, &roster)
            }
        };
        Ok(Self {
            voice,
            run_id: place.run_id(),
            origin: place.origin(profile, id.clone()),
            models: models.into_iter().map(Chosen::new).collect(),
            members: roster.into_iter().map(|member| member.id).collect(),
            started_at: place.effects.now(),
            turns: 0,
            metrics: Metrics::default(),
            machine: Machine::Agent(AgentMachine::new(place.run_id(), profile.limits, Vec::new())),
            tools: Vec::new(),
            member_responses: Vec::new(),
            model_provider_data: None,
            finish_reason: None,
            state: place.state.fork(),
            caller: place.desk.caller(),
            has_ended_text: false,
            is_input_changed: false,
            is_changed: false,
            profile,
            place,
            task,
            id,
            specs,
            listed: Box::default(),
            system,
        })
    }

    /// Its model; others only stand in for it.
    fn model(&self) -> &Chosen {
        &self.models[0]
    }

    fn effects(&self) -> &'a dyn Effects {
        self.place.effects
    }

    fn key(&self, word: &'static str) -> Key {
        self.place.base.word(word)
    }

    fn now(&self) -> i64 {
        self.effects().now().as_seconds()
    }

    fn tell(&self, kind: EventKind, record: Option<Record>) {
        self.effects().tell(kind, &self.origin, record);
    }

    fn say_once(&self, key: Key, kind: impl FnOnce() -> EventKind) {
        if matches!(self.effects().recall(&key), Recall::Nothing) {
            self.tell(kind(), Some(Record::Said { key }));
        }
    }

    async fn durable(&self) -> Result<(), Failure> {
        self.effects().durable().await.map_err(halted)
    }

    /// Waits, unless nothing new may start here any more: then another process continues.
    async fn pause(&self, wait: Duration) -> Result<(), Failure> {
        match select(self.effects().sleep(wait), self.effects().halted()).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => Err(halted(Halt)),
        }
    }

    /// Tells people what is retried and when; it also ends the text that a failed model call streamed.
    fn tell_retrying(&self, what: Retrying<'_>, tries: u32, failure: &Failure, wait: Duration) {
        let mut fields = Map::new();
        match what {
            Retrying::Model => drop(fields.insert("name".into(), json!("ModelRequestRetrying"))),
            Retrying::Tool(call) => {
                fields.insert("name".into(), json!("ToolCallRetrying"));
                fields.insert("tool_call_id".into(), json!(call.id));
                fields.insert("tool_name".into(), json!(call.function.name));
            }
        }
        fields.insert("error".into(), json!(failure.message));
        fields.insert("error_type".into(), json!(failure.kind.code()));
        fields.insert("failed_attempt".into(), json!(tries));
        fields.insert("due_at".into(), json!((self.effects().now() + wait).as_seconds()));
        self.tell(EventKind::CustomEvent { fields }, None);
    }

    /// The loop. Returns the answer; the conversation stays in the machine.
    async fn run(&mut self) -> Result<Value, Failure> {
        let is_answered = self.task.around.as_ref().is_some_and(|around| around.said.is_some());
        if is_answered || self.profile.input.is_some() || !self.profile.pre_hooks.is_empty() {
            // Boxed, as what follows the answer is: hardly any run needs the space.
            Box::pin(self.check_input()).await?;
        }
        let before = self.start().await?;
        if self.profile.sources().next().is_some() {
            // Boxed, because hardly any run needs the space.
            Box::pin(self.list_tools()).await?;
        }
        self.machine = self.machine(self.opening(before));
        let mut retries = 0;
        loop {
            match self.machine.next() {
                TeamCommand::CallModel { .. } => {
                    let (response, model) = self.ask().await?;
                    let metrics = self.count(&response, model);
                    // What was answered stays in the run, even where it is useless.
                    let refused = self.refused(&response);
                    self.machine.answered(response, metrics, self.now());
                    if let Some(failure) = refused {
                        return Err(failure);
                    }
                }
                TeamCommand::Work { calls, .. } => {
                    for (place, result) in self.work(calls).await? {
                        self.machine.result(place, result, self.now());
                    }
                }
                TeamCommand::Failed(failure) => return Err(failure),
                TeamCommand::Done => match self.answer() {
                    Ok(answer) if self.profile.post_hooks.is_empty() => return Ok(answer),
                    Ok(answer) => return Box::pin(self.check_output(answer)).await,
                    Err((shape, problem)) if retries < self.profile.output_retries => {
                        retries += 1;
                        self.machine.ask_again(prompt::mend(&problem, &shape.schema.schema), self.now());
                    }
                    Err((shape, problem)) => return Err(bad_shape(shape, retries, &problem)),
                },
            }
        }
    }

    /// Reports that the run has started. Returns what comes before the question: the system message, and what the session
    /// remembers. What the session contributes to it is read once, and recorded.
    async fn start(&self) -> Result<Vec<Message>, Failure> {
        let profile = self.profile;
        let started = || self.voice.started(self.model().info.clone());
        let plain = self.system.clone().map(|text| self.message(Role::System, text, 0));
        let may_vary = profile.shows_state
            || profile.leads.is_some_and(|runs| runs > 0)
            || (profile.resolves && plain.as_ref().is_some_and(has_brace));
        if !profile.history && !may_vary {
            self.say_once(self.key("started"), started);
            return Ok(plain.into_iter().collect());
        }
        let key = self.key("history");
        if let Recall::Done(value) = self.effects().recall(&key) {
            let recorded: Vec<Message> = read(&key, &value)?;
            let has_system = recorded.first().is_some_and(|first| first.role == Role::System);
            return Ok(plain.into_iter().filter(|_| !has_system).chain(recorded).collect());
        }
        let resolved = self.resolved().await?.filter(|text| Some(text) != self.system.as_ref());
        if !profile.history {
            // Nothing was recorded of a run that began with nothing of the session's.
            let has_begun = !matches!(self.effects().recall(&self.key("started")), Recall::Nothing);
            if has_begun || resolved.is_none() {
                if !has_begun {
                    self.tell(started(), Some(Record::Said { key: self.key("started") }));
                }
                return Ok(plain.into_iter().collect());
            }
        }
        let is_resolved = resolved.is_some();
        let mut messages: Vec<_> = resolved.map(|text| self.message(Role::System, text, 0)).into_iter().collect();
        if profile.history {
            let runs = self.effects().history(profile.history_runs).await?;
            for run in &runs {
                run.runs.iter().for_each(|ended| self.remember(ended, &mut messages));
                if run.speaker.as_ref() == Some(&profile.name) && run.runs.is_empty() {
                    self.remember_interrupted(run, &mut messages);
                }
            }
        }
        self.tell(started(), Some(result(key, &messages)));
        Ok(plain.into_iter().filter(|_| !is_resolved).chain(messages).collect())
    }

    /// The system message with what the session and the run say now.
    async fn resolved(&self) -> Result<Option<String>, Failure> {
        let profile = self.profile;
        let text = self.system.as_ref().map(|text| match profile.resolves {
            true => prompt::resolve(text, |name| self.place.variable(name)),
            false => text.clone(),
        });
        let state = profile.shows_state.then(|| prompt::state_block(self.state.all()));
        let history = match profile.leads {
            Some(runs) if runs > 0 => history_context(&self.effects().history(runs).await?, None),
            _ => None,
        };
        let history = history.and_then(|history| self.guarded(history));
        Ok(prompt::join(text.into_iter().chain(state).chain(history).collect()))
    }

    /// The question and the answer of an earlier run of this same agent or team, also where it ran as a member.
    fn remember(&self, run: &RunOutput, messages: &mut Vec<Message>) {
        let id = match self.voice {
            Voice::Agent => run.agent_id.as_ref(),
            Voice::Team => run.team_id.as_ref(),
        };
        if id == Some(&self.id) && run.status == RunStatus::Completed {
            let own = || run.messages.iter().filter(|message| !message.from_history);
            let asked = own().find(|message| message.role == Role::User);
            let answered = own().rfind(|message| message.role == Role::Assistant && message.content.is_some());
            // Without the history that was told then.
            let said = |message: &Message| message.content.as_deref().map(|text| without_history(text).to_owned());
            // There may have been other guardrails then.
            let question = asked.and_then(said).map(|question| self.guarded(question));
            let is_let_in = question != Some(None);
            let contents = [question.flatten(), answered.and_then(said)];
            let remembered = [asked, answered].into_iter().zip(contents).filter(|_| is_let_in);
            for (message, content) in remembered.filter_map(|(message, content)| Some((message?, content))) {
                // What a provider wants back with a turn belongs to the turns before it, which are not sent.
                messages.push(Message {
                    content,
                    from_history: true,
                    provider_data: None,
                    metrics: None,
                    tool_calls: Vec::new(),
                    ..message.clone()
                });
            }
        }
        run.member_responses.iter().for_each(|member| self.remember(member, messages));
    }

    /// The question of a run that was interrupted while this agent or team had it to answer, and the answer up to then.
    fn remember_interrupted(&self, run: &HistoryRun, messages: &mut Vec<Message>) {
        let mut say = |role, text: String| {
            let message = self.message(role, text, messages.len());
            messages.push(Message { from_history: true, ..message });
        };
        let Some(asked) = self.guarded(run.input_text()) else { return };
        say(Role::User, asked);
        say(Role::Assistant, format!("{}\n[interrupted]", run.text()).trim_start().to_owned());
    }

    /// The conversation up to the question.
    fn opening(&self, mut messages: Vec<Message>) -> Vec<Message> {
        let text = content_text(Some(&self.task.content));
        let history = self.task.around.as_ref().and_then(|around| around.history.clone());
        let history = history.and_then(|history| self.guarded(history));
        let text = history.into_iter().fold(text, |text, history| history + &text);
        let mut question = self.message(Role::User, text, messages.len());
        question.images.clone_from(&self.task.images);
        question.files.clone_from(&self.task.files);
        messages.push(question);
        messages
    }

    /// A message of ours, with the id its place in the conversation gives it, as the machine does for its own.
    fn message(&self, role: Role, text: String, place: usize) -> Message {
        Message::new(role, text, Message::id_at(&self.run_id, place), self.now())
    }

    /// A machine that begins with these messages.
    fn machine(&self, messages: Vec<Message>) -> Machine {
        let (profile, run_id) = (self.profile, self.run_id.clone());
        match self.voice {
            Voice::Agent => Machine::Agent(AgentMachine::new(run_id, profile.limits, messages)),
            Voice::Team => {
                let team = TeamMachine::new(run_id, profile.limits, self.members.clone(), messages);
                Machine::Team(team.mode(profile.mode, profile.iterations_max))
            }
        }
    }

    /// The member's run whose answer is the team's.
    fn routed(&self) -> Option<&Arc<RunOutput>> {
        let is_as_it_is = self.machine.is_routed() && self.profile.output.is_none();
        self.member_responses.last().filter(|_| is_as_it_is)
    }

    /// The last message as the requested answer.
    fn answer(&self) -> Result<Value, (&'a Shape, String)> {
        if let Some(member) = self.routed() {
            return Ok(member.content.clone().unwrap_or_default());
        }
        let text = self.machine.messages().last().and_then(|message| message.content.clone()).unwrap_or_default();
        match &self.profile.output {
            None => Ok(Value::String(text)),
            Some(shape) => shape.parse_answer(&text).map_err(|problem| (shape, problem)),
        }
    }

    fn complete(mut self, answer: Value, done: &Key) -> Arc<RunEnded> {
        self.end_text(&answer);
        let run = self.output(Some(answer), RunStatus::Completed);
        let run = match self.is_changed {
            true => checks::with_changed_answer(run),
            false => checks::with_guarded_words(run, &self.profile.post_hooks),
        };
        let event = self.voice.completed(RunDone::of(&run));
        self.end(event, RunEnded { run: Arc::new(run), failure: None, state: self.state.patch() }, done)
    }

    fn fail(self, failure: Failure, done: &Key) -> Arc<RunEnded> {
        // What a check says is for whoever asked, in its own words.
        let failure = if failure.refusal.is_some() { failure } else { failure.context(self.profile.title()) };
        let event = RunFailed::of(&failure);
        let run = self.output(Some(Value::String(failure.message.clone())), RunStatus::Error);
        let run = match failure.kind {
            FailureKind::InputCheck => checks::without_input(run),
            FailureKind::OutputCheck => checks::without_words(run),
            _ => run,
        };
        let ended = RunEnded { run: Arc::new(run), failure: Some(failure), state: None };
        self.end(self.voice.error(event), ended, done)
    }

    fn end(&self, event: EventKind, ended: RunEnded, done: &Key) -> Arc<RunEnded> {
        let ended = Arc::new(ended);
        self.tell(event, Some(Record::Run { key: done.clone(), ended: ended.clone() }));
        ended
    }

    fn output(&self, content: Option<Value>, status: RunStatus) -> RunOutput {
        let profile = self.profile;
        let shape = profile.output.as_ref().filter(|_| status == RunStatus::Completed);
        let workflow = self.place.workflow;
        let is_member = self.place.parent.is_some();
        let duration = self.effects().now().since(self.started_at).as_secs_f64();
        RunOutput {
            run_id: self.run_id.clone(),
            agent_id: self.origin.agent_id.clone(),
            agent_name: self.origin.agent_name.clone(),
            team_id: self.origin.team_id.clone(),
            team_name: self.origin.team_name.clone(),
            session_id: self.origin.session_id.clone(),
            parent_run_id: self.place.parent.clone().or_else(|| self.origin.workflow_run_id.clone()),
            user_id: workflow.and_then(|workflow| workflow.run.user_id.clone()),
            content,
            content_type: match (shape, self.routed().filter(|_| status == RunStatus::Completed)) {
                (Some(shape), _) => shape.schema.name.clone(),
                (None, Some(member)) => member.content_type.clone(),
                (None, None) => "str".to_owned(),
            },
            reasoning_content: self.machine.messages().last().and_then(|message| message.reasoning_content.clone()),
            model_provider_data: self.model_provider_data.clone(),
            model: Some(self.model().info.model.clone()),
            model_provider: Some(self.model().info.model_provider.clone()),
            session_state: workflow.map(|_| Value::Object(self.state.all())),
            created_at: self.started_at.as_seconds(),
            status,
            cancellation_stage: None,
            // The agent that leads a workflow is in no step.
            workflow_step_id: workflow
                .filter(|_| !is_member && profile.leads.is_none())
                .map(|workflow| workflow.step.step_id.clone()),
            metrics: Some(Metrics { duration: Some(duration), ..self.metrics.clone() }),
            events: Some(Vec::new()),
            messages: self.machine.messages().to_vec(),
            metadata: workflow.map(|_| Value::Object(self.task.metadata.clone())),
            tools: self.tools.clone(),
            input: Some(RunInput { input_content: self.task.content.clone() }),
            member_responses: self.member_responses.clone(),
            finish_reason: self.finish_reason,
            workflow: None,
        }
    }
}

fn has_brace(message: &Message) -> bool {
    message.content.as_ref().is_some_and(|text| text.contains('{'))
}

fn bad_shape(shape: &Shape, retries: u32, problem: &str) -> Failure {
    let name = &shape.schema.name;
    let message = match retries {
        0 => format!("the answer does not fit {name}: {problem}"),
        1 => format!("the answer still does not fit {name} after a request to correct it: {problem}"),
        _ => format!("the answer still does not fit {name} after {retries} requests to correct it: {problem}"),
    };
    Failure { retryable: false, ..Failure::new(FailureKind::BadResponse, message) }
}

#[cfg(test)]
mod tests;
