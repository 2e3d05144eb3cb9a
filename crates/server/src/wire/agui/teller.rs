//! A run's events in AG-UI's words.
//!
//! AG-UI tells of messages that begin, grow and end, of calls, of steps by their names, of subagents, and of one run at a
//! time, which ends when people are asked. It must never know where events come from, or to whom they go. Invariants:
//! what is told of an entry, and its place, follow from the log up to it; what begins, ends; nothing has the name of
//! something else that is open. That is what AG-UI's client insists on.

use super::{Event, Place, error, interrupts};
use outlive_core::{
    ContentDelta, EventKind, ModelRequestDone, Origin, Question, QuestionKind, RunEvent, StepIndex, StepOutput,
    ToolExecution, content_text,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The newest version of the protocol that is spoken.
const VERSION: &str = "1.0";

/// Tells one run. Give it the events in order.
#[derive(Clone, Debug)]
pub struct Teller {
    thread_id: String,
    /// What the client calls the run.
    run_id: String,
    /// What ids of messages begin with: the run's own id, which no other run has.
    prefix: String,
    /// The tools at the client.
    client_tools: BTreeSet<String>,
    /// The client knows every way in which a run ends, and subagents. Before 1.0 it knew two ways, and took others, and
    /// subagents, for mistakes.
    is_of_1_0: bool,
    at: Place,
    speakers: BTreeMap<Arc<str>, Speaker>,
    /// The steps that are open, in order.
    steps: Vec<Step>,
    /// The subagents that are at work, in the order in which they began, and those that have ended since the run began for
    /// the client.
    subagents: Vec<Subagent>,
    over: BTreeSet<Arc<str>>,
    /// The calls that delegate, by the run that each began, with their messages.
    delegations: BTreeMap<String, (String, String)>,
    /// By whose they are, and their ids there: a member may number its calls as its leader does.
    calls: BTreeMap<(Arc<str>, String), Call>,
    /// The last text that was told, whole.
    last_text: String,
    /// What agents were last known to see of the session's state.
    state: Option<Map<String, Value>>,
    usage: BTreeMap<(String, String), [u64; 5]>,
    cancelled: Option<String>,
    /// How the run ended, or paused, for the client. What follows begins it anew.
    end: Option<Event>,
}

/// An agent, a team or a function that says something.
#[derive(Clone, Debug, Default)]
struct Speaker {
    name: Option<Arc<str>>,
    step_id: Option<Arc<str>>,
    /// The subagent that it is, or is part of.
    by: By,
    /// The message that is open, and its text.
    text: Option<(String, String)>,
    reasoning: Option<String>,
    /// The message that the turn's calls stand with.
    turn: Option<String>,
    /// Whether it has said something since its model was last asked.
    has_spoken: bool,
}

/// A tool call.
#[derive(Clone, Debug)]
struct Call {
    /// Its id for the client.
    id: String,
    by: By,
    is_over: bool,
}

/// A step or a container.
#[derive(Clone, Debug)]
struct Step {
    id: Arc<str>,
    /// What it is called for the client.
    name: String,
    by: By,
}

impl Step {
    fn started(&self) -> Value {
        json!({ "type": "STEP_STARTED", "stepName": self.name })
    }
}

/// A run inside the run: a member's of a team, or a workflow's in a step or a call.
#[derive(Clone, Debug)]
struct Subagent {
    id: Arc<str>,
    step_id: Option<Arc<str>>,
    /// The subagent in which it is.
    parent: By,
    /// How its beginning is told.
    started: Value,
}

/// The subagent whose something is; the run's own when absent.
type By = Option<Arc<str>>;

/// How a subagent ends.
#[derive(Clone, Copy, Debug)]
enum Ending<'a> {
    Done(Option<&'a Value>),
    /// It goes on after these interrupts, each with whose it is.
    Suspended(&'a [(By, Value)]),
    Failed(&'a str, &'a str),
}

/// What is told of one entry.
type Told = Vec<Event>;

impl Teller {
    /// Tells this run to a client that calls it `run_id`.
    pub fn new(thread_id: &str, run_id: &str, own_id: &str) -> Self {
        Self {
            thread_id: thread_id.to_owned(),
            run_id: run_id.to_owned(),
            prefix: format!("{own_id}:"),
            client_tools: BTreeSet::new(),
            is_of_1_0: false,
            at: Place::START,
            speakers: BTreeMap::new(),
            steps: Vec::new(),
            subagents: Vec::new(),
            over: BTreeSet::new(),
            delegations: BTreeMap::new(),
            calls: BTreeMap::new(),
            last_text: String::new(),
            state: None,
            usage: BTreeMap::new(),
            cancelled: None,
            end: None,
        }
    }

    /// With these tools at the client: a run that waits for nothing but their results has not asked anybody.
    pub fn client_tools<'a>(self, names: impl Iterator<Item = &'a str>) -> Self {
        Self { client_tools: names.map(str::to_owned).collect(), ..self }
    }

    /// To a client that speaks this version of the protocol; before 1.0 it does not say.
    pub fn speaking(self, version: Option<&str>) -> Self {
        let is_of_1_0 = version.is_some_and(|version| !version.starts_with("0."));
        Self { is_of_1_0, ..self }
    }

    /// What ids of this run's messages begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How the run has ended for the client, until it goes on.
    pub fn end(&self) -> Option<&Event> {
        self.end.as_ref()
    }

    /// The place of what is told next.
    pub fn place(&self) -> Place {
        self.at
    }

    /// The run begins for the client, or goes on after it has ended for it. The steps that are under way begin again.
    pub fn begin(&mut self) -> Told {
        let mut told = Vec::new();
        self.end = None;
        self.over.clear();
        let started = self.started();
        self.say(&mut told, started);
        self.say(&mut told, json!({ "type": "STATE_SNAPSHOT" }));
        for subagent in self.subagents.clone() {
            self.say(&mut told, subagent.started);
        }
        for step in self.steps.clone() {
            self.say_by(&mut told, &step.by, step.started());
        }
        told
    }

    /// What a client has to be told that knows the messages so far, so that it can be told what follows.
    pub fn introduce(&self, messages: Vec<Value>) -> Vec<Value> {
        let mut told = vec![
            self.started(),
            json!({ "type": "STATE_SNAPSHOT" }),
            json!({ "type": "MESSAGES_SNAPSHOT", "messages": messages }),
        ];
        if self.end.is_some() {
            return told;
        }
        if self.is_of_1_0 {
            told.extend(self.subagents.iter().map(|subagent| subagent.started.clone()));
        }
        told.extend(self.steps.iter().map(|step| self.by(&step.by, step.started())));
        for speaker in self.speakers.values() {
            if let Some(id) = &speaker.reasoning {
                told.extend(reasoning_starts(id).map(|body| self.by(&speaker.by, body)));
            }
            if let Some((id, _)) = &speaker.text {
                told.push(self.by(&speaker.by, text_starts(id, speaker.name.as_deref())));
            }
        }
        told
    }

    /// What is told of an event. Of a pause, `open` are the questions that are open then.
    pub fn tell(&mut self, event: &RunEvent, open: &[Arc<Question>]) -> Told {
        let mut told = Vec::new();
        if self.end.is_some() {
            told = self.begin();
        }
        let index = event.event_index.and_then(|index| i64::try_from(index).ok()).unwrap_or(i64::MAX);
        self.at = Place { index, part: 0 };
        self.subagent_begins(&event.origin, &mut told);
        self.tell_kind(event, open, &mut told);
        self.subagent_ends(event, &mut told);
        told
    }

    fn tell_kind(&mut self, event: &RunEvent, open: &[Arc<Question>], told: &mut Told) {
        use EventKind::*;
        let origin = &event.origin;
        match &event.kind {
            WorkflowCompleted(_) | WorkflowError { .. } if !event.is_terminal() => {}
            WorkflowCompleted(done) => self.completed(done.content.as_ref(), told),
            WorkflowError { error: problem, error_type, .. } => {
                let code = error_type.as_deref().unwrap_or("run_failed");
                self.close_all(Ending::Failed(problem, code), told);
                let mut failed = error(problem, code);
                failed["usage"] = self.usage();
                self.finish(failed, told);
            }
            WorkflowCancelled { reason, .. } if origin.nested_depth == 0 => self.cancelled = Some(reason.clone()),
            WorkflowPaused { paused_step_name, .. } => self.paused(paused_step_name, open, told),
            StepStarted
            | StepsExecutionStarted { .. }
            | ParallelExecutionStarted { .. }
            | ConditionExecutionStarted { .. }
            | LoopExecutionStarted { .. }
            | RouterExecutionStarted { .. } => self.step_started(origin, told),
            StepCompleted { .. }
            | StepsExecutionCompleted { .. }
            | ParallelExecutionCompleted { .. }
            | ConditionExecutionCompleted { .. }
            | LoopExecutionCompleted { .. }
            | RouterExecutionCompleted { .. } => self.step_ended(origin, Ending::Done(None), told),
            StepOutput { step_output } => self.step_output(origin, step_output, told),
            StepError { error, .. } => {
                self.custom(event, event.name(), told);
                self.step_ended(origin, Ending::Failed(error, "step_failed"), told);
            }
            StepExecutorPaused { executor_requirements, executor_run_id, .. } => {
                for asked in executor_requirements {
                    let run_id = asked["member_run_id"].as_str().or(executor_run_id.as_deref());
                    let whose = run_id.map_or_else(|| key(origin), Arc::from);
                    if let Some(call) = asked.get("tool_execution") {
                        self.pending(whose, origin, call, told);
                    }
                }
                self.custom(event, event.name(), told);
            }
            CustomEvent { fields } => {
                let name = fields.get("name").and_then(Value::as_str).unwrap_or("CustomEvent");
                self.drop_unfinished(name, origin, told);
                self.custom(event, name, told);
            }
            StepPaused { .. }
            | StepContinued
            | StepOutputReview { .. }
            | StepExecutorContinued { .. }
            | RouterPaused { .. }
            | StepProgress { .. }
            | LoopIterationStarted { .. } => self.custom(event, event.name(), told),
            RunContent(piece) | TeamRunContent(piece) => self.piece(origin, piece, told),
            ModelRequestStarted(_) | TeamModelRequestStarted(_) => {
                self.close(&key(origin), told);
                let speaker = self.speaker(origin);
                speaker.turn = None;
                speaker.has_spoken = false;
            }
            ModelRequestCompleted(done) | TeamModelRequestCompleted(done) => {
                self.count(done);
                self.close(&key(origin), told);
            }
            RunContentCompleted | TeamRunContentCompleted => self.close(&key(origin), told),
            ToolCallStarted(call) | TeamToolCallStarted(call) => {
                self.close(&key(origin), told);
                self.call(origin, &call.tool, told);
            }
            ToolCallCompleted(call) | TeamToolCallCompleted(call) => self.result(origin, &call.tool, told),
            RunPaused(waits) | TeamRunPaused(waits) => {
                self.close(&key(origin), told);
                for tool in &waits.tools {
                    self.call(origin, tool, told);
                }
            }
            RunCompleted(done) | TeamRunCompleted(done) => {
                self.run_completed(origin, done.content.as_ref(), told);
                if is_at_top(origin) {
                    self.tell_state(done.session_state.as_ref(), told);
                }
            }
            RunError(_) | TeamRunError(_) => {
                self.close(&key(origin), told);
                self.custom(event, event.name(), told);
            }
            // Of no interest to a page, or told by what comes with it: a failed call by its result, an iteration's end
            // by the next one's beginning.
            WorkflowStarted
            | WorkflowCancelled { .. }
            | WorkflowAgentStarted
            | WorkflowAgentCompleted { .. }
            | LoopIterationCompleted { .. }
            | PreHookStarted(_)
            | PreHookCompleted(_)
            | PostHookStarted(_)
            | PostHookCompleted(_)
            | TeamPreHookStarted(_)
            | TeamPreHookCompleted(_)
            | TeamPostHookStarted(_)
            | TeamPostHookCompleted(_)
            | RunStarted(_)
            | TeamRunStarted(_)
            | RunContinued
            | TeamRunContinued
            | ToolCallError(_)
            | TeamToolCallError(_) => {}
        }
    }

    /// What is not for this client has its place all the same.
    fn say(&mut self, told: &mut Told, body: Value) {
        let is_of_subagents = body["type"].as_str().is_some_and(|kind| kind.starts_with("SUBAGENT_"));
        if self.is_of_1_0 || !is_of_subagents {
            told.push(Event { place: self.at, body });
        }
        self.at.part += 1;
    }

    fn say_by(&mut self, told: &mut Told, by: &By, body: Value) {
        let body = self.by(by, body);
        self.say(told, body);
    }

    /// Whose something is, for a client that knows subagents.
    fn by(&self, by: &By, mut body: Value) -> Value {
        if let Some(id) = by.as_ref().filter(|_| self.is_of_1_0) {
            body["subagentRunId"] = json!(id);
        }
        body
    }

    /// An id that nothing else has: of the place where it is first told.
    fn new_id(&self) -> String {
        format!("{}{}", self.prefix, self.at)
    }

    fn custom(&mut self, event: &RunEvent, name: &str, told: &mut Told) {
        let mut value = serde_json::to_value(event).expect("an event has string keys only");
        if let Some(fields) = value.as_object_mut() {
            fields.remove("event_index");
        }
        self.say_by(told, &subagent(&event.origin), json!({ "type": "CUSTOM", "name": name, "value": value }));
    }

    // Text.

    fn speaker(&mut self, origin: &Origin) -> &mut Speaker {
        let speaker = self.speakers.entry(key(origin)).or_default();
        if speaker.step_id.is_none() {
            speaker.name =
                [&origin.agent_name, &origin.team_name, &origin.step_name].into_iter().find_map(Clone::clone);
            speaker.step_id.clone_from(&origin.step_id);
            speaker.by = subagent(origin);
        }
        speaker
    }

    fn piece(&mut self, origin: &Origin, piece: &ContentDelta, told: &mut Told) {
        if !piece.reasoning_content.is_empty() {
            self.reason(origin, &piece.reasoning_content, told);
        }
        if let Some(text) = piece.content.as_deref().filter(|text| !text.is_empty()) {
            self.text(origin, text, told);
        }
    }

    fn reason(&mut self, origin: &Origin, delta: &str, told: &mut Told) {
        let id = match self.speaker(origin).reasoning.clone() {
            Some(id) => id,
            None => {
                self.close(&key(origin), told);
                let id = self.new_id();
                self.speaker(origin).reasoning = Some(id.clone());
                for body in reasoning_starts(&id) {
                    self.say_by(told, &subagent(origin), body);
                }
                id
            }
        };
        let body = json!({ "type": "REASONING_MESSAGE_CONTENT", "messageId": id, "delta": delta });
        self.say_by(told, &subagent(origin), body);
    }

    fn text(&mut self, origin: &Origin, delta: &str, told: &mut Told) {
        if self.speaker(origin).text.is_none() {
            self.close(&key(origin), told);
            let id = self.new_id();
            let speaker = self.speaker(origin);
            speaker.text = Some((id.clone(), String::new()));
            speaker.turn = Some(id.clone());
            let begun = text_starts(&id, speaker.name.as_deref());
            self.say_by(told, &subagent(origin), begun);
        }
        let speaker = self.speaker(origin);
        speaker.has_spoken = true;
        let Some((id, text)) = &mut speaker.text else { return };
        text.push_str(delta);
        let body = json!({ "type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": delta });
        self.say_by(told, &subagent(origin), body);
    }

    /// What a speaker has open ends.
    fn close(&mut self, key: &Arc<str>, told: &mut Told) {
        let Some(speaker) = self.speakers.get_mut(key) else { return };
        let (by, reasoning, text) = (speaker.by.clone(), speaker.reasoning.take(), speaker.text.take());
        if let Some(id) = reasoning {
            for body in reasoning_ends(&id) {
                self.say_by(told, &by, body);
            }
        }
        if let Some((id, text)) = text {
            self.say_by(told, &by, json!({ "type": "TEXT_MESSAGE_END", "messageId": id }));
            self.last_text = text;
        }
    }

    fn close_step(&mut self, step_id: &Arc<str>, told: &mut Told) {
        let of_step = |speaker: &Speaker| speaker.step_id.as_ref() == Some(step_id);
        let keys = self.speakers.iter().filter(|(_, speaker)| of_step(speaker)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            self.close(&key, told);
            self.speakers.remove(&key);
        }
    }

    /// A process has died, or an attempt failed: what it had not finished saying is said again.
    fn drop_unfinished(&mut self, name: &str, origin: &Origin, told: &mut Told) {
        let own = key(origin);
        let is_meant = |key: &Arc<str>, speaker: &Speaker| match name {
            "RunResumed" => true,
            "StepResumed" | "StepRetrying" => speaker.step_id == origin.step_id,
            "ModelRequestRetrying" | "ModelFallback" => *key == own,
            _ => false,
        };
        let mut unfinished = Vec::new();
        for (key, speaker) in &mut self.speakers {
            if is_meant(key, speaker) && (speaker.reasoning.is_some() || speaker.text.is_some()) {
                speaker.has_spoken = false;
                speaker.turn = None;
                unfinished.push((speaker.by.clone(), speaker.reasoning.take(), speaker.text.take()));
            }
        }
        let dropped = || json!({ "outlive": { "dropped": true } });
        for (by, reasoning, text) in &unfinished {
            for mut body in reasoning.iter().flat_map(|id| reasoning_ends(id)) {
                body["metadata"] = dropped();
                self.say_by(told, by, body);
            }
            if let Some((id, _)) = text {
                let body = json!({ "type": "TEXT_MESSAGE_END", "messageId": id, "metadata": dropped() });
                self.say_by(told, by, body);
            }
        }
        if !unfinished.is_empty() {
            self.say(told, json!({ "type": "MESSAGES_SNAPSHOT" }));
        }
        // The next attempt has runs of its own.
        if let Some(step_id) = origin.step_id.as_ref().filter(|_| name == "StepRetrying") {
            self.end_subagents_of(step_id, Ending::Failed("the step is tried again", "retrying"), told);
        }
    }

    fn run_completed(&mut self, origin: &Origin, content: Option<&Value>, told: &mut Told) {
        let has_spoken = self.speaker(origin).has_spoken;
        let text = content_text(content);
        if !has_spoken && !text.is_empty() {
            self.text(origin, &text, told);
        }
        self.close(&key(origin), told);
        self.speakers.remove(&key(origin));
    }

    // Calls.

    /// A call, told once however often it is made. Its id for the client.
    fn call(&mut self, origin: &Origin, tool: &ToolExecution, told: &mut Told) -> String {
        let whose = (key(origin), tool.tool_call_id.clone());
        let id = self.announce(whose, origin, &tool.tool_name, &tool.tool_args, told);
        if let Some(run_id) = tool.child_run_id.as_ref().filter(|run_id| !self.over.contains(run_id.as_str())) {
            let message = self.speaker(origin).turn.clone().unwrap_or_default();
            self.delegations.insert(run_id.clone(), (id.clone(), message));
        }
        id
    }

    fn announce(
        &mut self,
        whose: (Arc<str>, String),
        origin: &Origin,
        name: &str,
        args: &Value,
        told: &mut Told,
    ) -> String {
        if let Some(open) = self.calls.get(&whose).filter(|call| !call.is_over) {
            return open.id.clone();
        }
        // Servers may use an id again; a page must not.
        let own_id = &whose.1;
        let is_taken = self.calls.keys().any(|(_, known)| known == own_id);
        let id = if is_taken { format!("{own_id}:{}", self.at) } else { own_id.clone() };
        let by = subagent(origin);
        self.calls.insert(whose, Call { id: id.clone(), by: by.clone(), is_over: false });
        let new_id = self.new_id();
        let speaker = self.speaker(origin);
        speaker.has_spoken = false;
        let parent = speaker.turn.get_or_insert(new_id).clone();
        let args = match args {
            Value::String(text) => text.clone(),
            Value::Null => "{}".to_owned(),
            args => args.to_string(),
        };
        for body in [
            json!({ "type": "TOOL_CALL_START", "toolCallId": id, "toolCallName": name, "parentMessageId": parent }),
            json!({ "type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": args }),
            json!({ "type": "TOOL_CALL_END", "toolCallId": id }),
        ] {
            self.say_by(told, &by, body);
        }
        id
    }

    /// A call that waits for people, as a requirement has it.
    fn pending(&mut self, whose: Arc<str>, origin: &Origin, call: &Value, told: &mut Told) {
        let text = |name: &str| call[name].as_str().unwrap_or_default();
        let whose = (whose, text("tool_call_id").to_owned());
        self.announce(whose, origin, text("tool_name"), &call["tool_args"], told);
    }

    fn result(&mut self, origin: &Origin, tool: &ToolExecution, told: &mut Told) {
        let id = self.call(origin, tool, told);
        let call = self.calls.get_mut(&(key(origin), tool.tool_call_id.clone()));
        let by = call.and_then(|call| {
            call.is_over = true;
            call.by.clone()
        });
        let body = json!({
            "type": "TOOL_CALL_RESULT",
            "messageId": self.new_id(),
            "toolCallId": id,
            "content": tool.result.as_deref().unwrap_or_default(),
            "role": "tool",
        });
        self.say_by(told, &by, body);
    }

    // Steps.

    fn step_started(&mut self, origin: &Origin, told: &mut Told) {
        let Some((id, name)) = step(origin) else { return };
        if self.steps.iter().any(|open| open.id == id) {
            return;
        }
        let taken = |name: &str| self.steps.iter().any(|open| open.name == name);
        let mut shown = name.to_string();
        let mut count = 1;
        while taken(&shown) {
            count += 1;
            shown = format!("{name} ({count})");
        }
        let step = Step { id, name: shown, by: subagent(origin) };
        self.say_by(told, &step.by, step.started());
        self.steps.push(step);
    }

    fn step_ended(&mut self, origin: &Origin, ending: Ending<'_>, told: &mut Told) {
        let Some((id, _)) = step(origin) else { return };
        self.close_step(&id, told);
        self.end_subagents_of(&id, ending, told);
        if let Some(place) = self.steps.iter().position(|open| open.id == id) {
            let Step { name, by, .. } = self.steps.remove(place);
            self.say_by(told, &by, json!({ "type": "STEP_FINISHED", "stepName": name }));
        }
    }

    /// A failure that is skipped is told by the output alone.
    fn step_output(&mut self, origin: &Origin, output: &StepOutput, told: &mut Told) {
        if !output.success {
            let error = output.error.as_deref().unwrap_or("the step failed");
            self.step_ended(origin, Ending::Failed(error, "step_failed"), told);
        }
    }

    // Subagents.

    /// The subagent of an event begins, unless it has: where a workflow's events are not all streamed, its own beginning
    /// may not be told.
    fn subagent_begins(&mut self, origin: &Origin, told: &mut Told) {
        let Some(id) = subagent(origin) else { return };
        if self.over.contains(&id) || self.is_at_work(&id) {
            return;
        }
        let is_member = origin.parent_run_id.is_some();
        // A member is in its team's run, or else in the workflow's; a workflow is in the subagent whose step has it.
        let of_step = |step_id: &Arc<str>| self.steps.iter().find(|open| open.id == *step_id)?.by.clone();
        let team =
            origin.parent_run_id.as_ref().map(|run_id| Arc::from(run_id.as_str())).filter(|id| self.is_at_work(id));
        let parent = match is_member {
            true => team.or_else(|| workflow_inside(origin).filter(|id| self.is_at_work(id))),
            false => origin.parent_step_id.as_ref().and_then(of_step),
        };
        let names = [&origin.agent_name, &origin.team_name].into_iter().filter(|_| is_member);
        let name = names.chain([&origin.workflow_name]).find_map(Clone::clone).unwrap_or_else(|| id.clone());
        let mut started = json!({ "type": "SUBAGENT_STARTED", "subagentRunId": id, "name": name });
        if let Some(parent) = &parent {
            started["parentSubagentRunId"] = json!(parent);
        }
        if let Some((call, message)) = self.delegations.remove(&*id) {
            started["parentToolCallId"] = json!(call);
            started["parentMessageId"] = json!(message);
        }
        let step_id = if is_member { &origin.step_id } else { &origin.parent_step_id }.clone();
        self.say(told, started.clone());
        self.subagents.push(Subagent { id, step_id, parent, started });
    }

    fn is_at_work(&self, id: &Arc<str>) -> bool {
        self.subagents.iter().any(|open| open.id == *id)
    }

    /// A subagent has ended with this event.
    fn subagent_ends(&mut self, event: &RunEvent, told: &mut Told) {
        use EventKind::*;
        let Some(id) = subagent(&event.origin) else { return };
        let is_member = event.origin.parent_run_id.is_some();
        let ending = match &event.kind {
            RunCompleted(done) | TeamRunCompleted(done) if is_member => Ending::Done(done.content.as_ref()),
            RunError(failed) | TeamRunError(failed) if is_member => Ending::Failed(&failed.content, &failed.error_type),
            WorkflowCompleted(done) => Ending::Done(done.content.as_ref()),
            WorkflowError { error, error_type, .. } => {
                Ending::Failed(error, error_type.as_deref().unwrap_or("run_failed"))
            }
            _ => return,
        };
        self.end_subagent(&id, ending, told);
    }

    /// A subagent ends, after those in it.
    fn end_subagent(&mut self, id: &Arc<str>, ending: Ending<'_>, told: &mut Told) {
        let inside = |open: &&Subagent| open.parent.as_ref() == Some(id);
        while let Some(child) = self.subagents.iter().rfind(inside).map(|open| open.id.clone()) {
            self.end_subagent(&child, ending, told);
        }
        if let Some(place) = self.subagents.iter().position(|open| open.id == *id) {
            self.subagents.remove(place);
            self.over.insert(id.clone());
            self.say(told, ends(id, ending));
        }
    }

    /// What has not ended in a step by itself ends with it.
    fn end_subagents_of(&mut self, step_id: &Arc<str>, ending: Ending<'_>, told: &mut Told) {
        let of_step = |open: &&Subagent| open.step_id.as_ref() == Some(step_id);
        while let Some(id) = self.subagents.iter().rfind(of_step).map(|open| open.id.clone()) {
            self.end_subagent(&id, ending, told);
        }
    }

    // Ends.

    fn close_all(&mut self, ending: Ending<'_>, told: &mut Told) {
        for key in self.speakers.keys().cloned().collect::<Vec<_>>() {
            self.close(&key, told);
        }
        for Step { name, by, .. } in self.steps.clone().into_iter().rev() {
            self.say_by(told, &by, json!({ "type": "STEP_FINISHED", "stepName": name }));
        }
        for subagent in self.subagents.clone().iter().rev() {
            self.say(told, ends(&subagent.id, ending));
        }
    }

    fn finish(&mut self, body: Value, told: &mut Told) {
        self.say(told, body);
        self.end = told.last().cloned();
    }

    fn completed(&mut self, content: Option<&Value>, told: &mut Told) {
        let cancelled = self.cancelled.take();
        let ending = cancelled.as_deref().map_or(Ending::Done(None), |reason| Ending::Failed(reason, "cancelled"));
        self.close_all(ending, told);
        self.steps.clear();
        self.subagents.clear();
        if let Some(reason) = cancelled {
            let mut cancelled = error(&reason, "cancelled");
            if self.is_of_1_0 {
                cancelled = self.finished();
                cancelled["outcome"] = json!({ "type": "cancelled" });
            }
            cancelled["usage"] = self.usage();
            return self.finish(cancelled, told);
        }
        if let Some(content) = content.filter(|content| !self.was_told(content)) {
            let id = self.new_id();
            self.say(told, text_starts(&id, None));
            let text = content_text(Some(content));
            self.say(told, json!({ "type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": text }));
            self.say(told, json!({ "type": "TEXT_MESSAGE_END", "messageId": id }));
        }
        self.say(told, json!({ "type": "STATE_SNAPSHOT" }));
        let mut finished = self.finished();
        finished["outcome"] = json!({ "type": "success" });
        if let Some(content) = content {
            finished["result"] = content.clone();
        }
        finished["usage"] = self.usage();
        self.finish(finished, told);
    }

    /// Whether the result is what was said last, if perhaps with other white space.
    fn was_told(&self, content: &Value) -> bool {
        let text = content_text(Some(content));
        let is_same = || outlive_core::json::read(&self.last_text).is_ok_and(|said: Value| said == *content);
        text.is_empty() || text == self.last_text || (!content.is_string() && is_same())
    }

    fn started(&self) -> Value {
        let mut started = json!({ "type": "RUN_STARTED", "threadId": self.thread_id, "runId": self.run_id });
        if self.is_of_1_0 {
            started["protocolVersion"] = json!(VERSION);
        }
        started
    }

    fn finished(&self) -> Value {
        json!({ "type": "RUN_FINISHED", "threadId": self.thread_id, "runId": self.run_id })
    }

    fn paused(&mut self, step_name: &str, open: &[Arc<Question>], told: &mut Told) {
        let calls = open.iter().map(|question| {
            let tool = question.tool.as_ref()?;
            self.calls.get(&(tool.run_id.clone(), tool.execution.tool_call_id.clone())).cloned()
        });
        let calls: Vec<Option<Call>> = calls.collect();
        let asks = !self.is_of_client_tools(open);
        let mut asked: Vec<(By, Value)> = Vec::new();
        for (question, call) in open.iter().zip(&calls).filter(|_| asks) {
            let by = call.as_ref().and_then(|call| call.by.clone());
            let interrupt = interrupts::interrupt(question, call.as_ref().map(|call| &*call.id));
            asked.push((by.clone(), self.by(&by, interrupt)));
        }
        self.close_all(Ending::Suspended(&asked), told);
        self.say(told, json!({ "type": "STATE_SNAPSHOT" }));
        let mut asked: Vec<Value> = asked.into_iter().map(|(_, interrupt)| interrupt).collect();
        let mut finished = self.finished();
        if asks {
            if asked.is_empty() {
                let message = format!("The run is paused at {step_name}");
                asked.push(json!({ "id": self.new_id(), "reason": "outlive:paused", "message": message }));
            }
            finished["outcome"] = json!({ "type": "interrupt", "interrupts": asked });
        } else if self.is_of_1_0 {
            let calls: Vec<String> = calls.into_iter().flatten().map(|call| call.id).collect();
            finished["outcome"] = json!({ "type": "success", "pendingToolCallIds": calls });
        }
        self.finish(finished, told);
    }

    /// Whether all that the run waits for are results of tools that the client has. It knows from their calls.
    fn is_of_client_tools(&self, open: &[Arc<Question>]) -> bool {
        let is_of = |question: &Arc<Question>| {
            let tool = question.tool.as_ref().filter(|_| question.kind == QuestionKind::ToolResult);
            tool.is_some_and(|tool| self.client_tools.contains(&tool.execution.tool_name))
        };
        !open.is_empty() && open.iter().all(is_of)
    }

    // State and usage.

    /// What an agent saw of the session's state when it ended: what is different, or all of it at first and when
    /// something is gone. A page may have been told a newer state, which says so already.
    fn tell_state(&mut self, state: Option<&Value>, told: &mut Told) {
        let Some(state) = state.and_then(Value::as_object) else { return };
        match self.state.replace(state.clone()) {
            None if state.is_empty() => {}
            Some(before) if before.keys().all(|name| state.contains_key(name)) => {
                let delta = delta(&before, state);
                if !delta.is_empty() {
                    self.say(told, json!({ "type": "STATE_DELTA", "delta": delta }));
                }
            }
            None | Some(_) => self.say(told, json!({ "type": "STATE_SNAPSHOT", "snapshot": state })),
        }
    }

    fn count(&mut self, done: &ModelRequestDone) {
        let used = self.usage.entry((done.model_provider.clone(), done.model.clone())).or_default();
        let counts =
            [done.input_tokens, done.output_tokens, done.total_tokens, done.reasoning_tokens, done.cache_read_tokens];
        used.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    fn usage(&self) -> Value {
        let used = self.usage.iter().map(|((provider, model), [input, output, total, reasoning, cached])| {
            json!({
                "provider": provider,
                "model": model,
                "inputTokens": input,
                "outputTokens": output,
                "totalTokens": total,
                "reasoningTokens": reasoning,
                "cachedInputTokens": cached,
            })
        });
        used.collect()
    }
}

/// Who says something: an agent or a team in its run, a function in its step.
fn key(origin: &Origin) -> Arc<str> {
    let is_executors = origin.agent_id.is_some() || origin.team_id.is_some();
    let run_id = origin.run_id.as_ref().filter(|_| is_executors || origin.step_id.is_none());
    let own = run_id.map(|run_id| Arc::from(run_id.as_str())).or_else(|| origin.step_id.clone());
    own.unwrap_or_else(|| Arc::from(""))
}

/// The run inside the run that an event is of: a member's of a team, or else a workflow's in a step or a call.
fn subagent(origin: &Origin) -> By {
    let run_id = origin.run_id.as_ref().filter(|_| origin.parent_run_id.is_some());
    run_id.map(|run_id| Arc::from(run_id.as_str())).or_else(|| workflow_inside(origin))
}

/// The run of the workflow in a workflow that an event is of.
fn workflow_inside(origin: &Origin) -> By {
    let run_id = origin.workflow_run_id.as_ref().or(origin.run_id.as_ref());
    run_id.filter(|_| origin.nested_depth > 0).map(|run_id| Arc::from(run_id.as_str()))
}

/// How the end of a subagent is told.
fn ends(id: &Arc<str>, ending: Ending<'_>) -> Value {
    let mut finished = json!({ "type": "SUBAGENT_FINISHED", "subagentRunId": id });
    match ending {
        Ending::Done(result) => {
            if let Some(result) = result {
                finished["result"] = result.clone();
            }
        }
        Ending::Suspended(asked) => {
            let own = asked.iter().filter(|(by, _)| by.as_ref() == Some(id)).map(|(_, interrupt)| &interrupt["id"]);
            finished["outcome"] = json!({ "type": "suspended", "interruptIds": own.collect::<Vec<_>>() });
        }
        Ending::Failed(message, code) => {
            return json!({ "type": "SUBAGENT_ERROR", "subagentRunId": id, "message": message, "code": code });
        }
    }
    finished
}

fn step(origin: &Origin) -> Option<(Arc<str>, Arc<str>)> {
    let name = origin.step_name.clone()?;
    Some((origin.step_id.clone().unwrap_or_else(|| name.clone()), name))
}

/// Whether it is an agent's or team's own run in a step of the workflow itself: what happens elsewhere happens beside
/// other things, each of which sees its own state.
fn is_at_top(origin: &Origin) -> bool {
    let is_in_line = matches!(origin.step_index, Some(StepIndex::At(_)));
    is_in_line && origin.parent_run_id.is_none() && origin.nested_depth == 0
}

fn text_starts(id: &str, name: Option<&str>) -> Value {
    let mut body = json!({ "type": "TEXT_MESSAGE_START", "messageId": id, "role": "assistant" });
    if let Some(name) = name {
        body["name"] = json!(name);
    }
    body
}

fn reasoning_starts(id: &str) -> [Value; 2] {
    [
        json!({ "type": "REASONING_START", "messageId": id }),
        json!({ "type": "REASONING_MESSAGE_START", "messageId": id, "role": "reasoning" }),
    ]
}

fn reasoning_ends(id: &str) -> [Value; 2] {
    [json!({ "type": "REASONING_MESSAGE_END", "messageId": id }), json!({ "type": "REASONING_END", "messageId": id })]
}

/// A JSON Patch that sets what is different in `after`. `add` also replaces.
fn delta(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Value> {
    let path = |name: &str| format!("/{}", name.replace('~', "~0").replace('/', "~1"));
    let new = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    new.map(|(name, value)| json!({ "op": "add", "path": path(name), "value": value })).collect()
}
