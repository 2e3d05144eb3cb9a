//! A run's events in AG-UI's words.
//!
//! AG-UI tells of messages that begin, grow and end, of calls, of steps by their names, and of one run at a time, which
//! ends when people are asked. It must never know where events come from, or to whom they go. Invariants: what is told
//! of an entry, and its place, follow from the log up to it; what begins, ends; nothing has the name of something else
//! that is open. That is what AG-UI's client insists on.

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
    /// The client knows every way in which a run ends. Before 1.0 it knew two, and took others for mistakes.
    knows_all_ends: bool,
    at: Place,
    speakers: BTreeMap<Arc<str>, Speaker>,
    /// The steps that are open, in order, by their ids.
    steps: Vec<(Arc<str>, String)>,
    calls: BTreeMap<String, Call>,
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
    is_over: bool,
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
            knows_all_ends: false,
            at: Place::START,
            speakers: BTreeMap::new(),
            steps: Vec::new(),
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
        let knows_all_ends = version.is_some_and(|version| !version.starts_with("0."));
        Self { knows_all_ends, ..self }
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
        let started = self.started();
        self.say(&mut told, started);
        self.say(&mut told, json!({ "type": "STATE_SNAPSHOT" }));
        for (_, name) in self.steps.clone() {
            self.say(&mut told, json!({ "type": "STEP_STARTED", "stepName": name }));
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
        told.extend(self.steps.iter().map(|(_, name)| json!({ "type": "STEP_STARTED", "stepName": name })));
        for speaker in self.speakers.values() {
            if let Some(id) = &speaker.reasoning {
                told.extend(reasoning_starts(id));
            }
            if let Some((id, _)) = &speaker.text {
                told.push(text_starts(id, speaker.name.as_deref()));
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
        self.tell_kind(event, open, &mut told);
        told
    }

    fn tell_kind(&mut self, event: &RunEvent, open: &[Arc<Question>], told: &mut Told) {
        use EventKind::*;
        let origin = &event.origin;
        match &event.kind {
            WorkflowCompleted(_) | WorkflowError { .. } if !event.is_terminal() => {}
            WorkflowCompleted(done) => self.completed(done.content.as_ref(), told),
            WorkflowError { error: problem, error_type, .. } => {
                self.close_all(told);
                let code = error_type.as_deref().unwrap_or("run_failed");
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
            | RouterExecutionCompleted { .. } => self.step_ended(origin, told),
            StepOutput { step_output } => self.step_output(origin, step_output, told),
            StepError { .. } => {
                self.custom(event, event.name(), told);
                self.step_ended(origin, told);
            }
            StepExecutorPaused { executor_requirements, .. } => {
                for call in executor_requirements.iter().filter_map(|asked| asked.get("tool_execution")) {
                    self.pending(origin, call, told);
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

    fn say(&mut self, told: &mut Told, body: Value) {
        told.push(Event { place: self.at, body });
        self.at.part += 1;
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
        self.say(told, json!({ "type": "CUSTOM", "name": name, "value": value }));
    }

    // Text.

    fn speaker(&mut self, origin: &Origin) -> &mut Speaker {
        let speaker = self.speakers.entry(key(origin)).or_default();
        if speaker.step_id.is_none() {
            speaker.name =
                [&origin.agent_name, &origin.team_name, &origin.step_name].into_iter().find_map(Clone::clone);
            speaker.step_id.clone_from(&origin.step_id);
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
                    self.say(told, body);
                }
                id
            }
        };
        self.say(told, json!({ "type": "REASONING_MESSAGE_CONTENT", "messageId": id, "delta": delta }));
    }

    fn text(&mut self, origin: &Origin, delta: &str, told: &mut Told) {
        if self.speaker(origin).text.is_none() {
            self.close(&key(origin), told);
            let id = self.new_id();
            let speaker = self.speaker(origin);
            speaker.text = Some((id.clone(), String::new()));
            speaker.turn = Some(id.clone());
            let begun = text_starts(&id, speaker.name.as_deref());
            self.say(told, begun);
        }
        let speaker = self.speaker(origin);
        speaker.has_spoken = true;
        let Some((id, text)) = &mut speaker.text else { return };
        text.push_str(delta);
        let body = json!({ "type": "TEXT_MESSAGE_CONTENT", "messageId": id, "delta": delta });
        self.say(told, body);
    }

    /// What a speaker has open ends.
    fn close(&mut self, key: &Arc<str>, told: &mut Told) {
        let Some(speaker) = self.speakers.get_mut(key) else { return };
        let (reasoning, text) = (speaker.reasoning.take(), speaker.text.take());
        if let Some(id) = reasoning {
            for body in reasoning_ends(&id) {
                self.say(told, body);
            }
        }
        if let Some((id, text)) = text {
            self.say(told, json!({ "type": "TEXT_MESSAGE_END", "messageId": id }));
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
                unfinished.push((speaker.reasoning.take(), speaker.text.take()));
            }
        }
        let dropped = || json!({ "outlive": { "dropped": true } });
        for (reasoning, text) in &unfinished {
            for mut body in reasoning.iter().flat_map(|id| reasoning_ends(id)) {
                body["metadata"] = dropped();
                self.say(told, body);
            }
            if let Some((id, _)) = text {
                self.say(told, json!({ "type": "TEXT_MESSAGE_END", "messageId": id, "metadata": dropped() }));
            }
        }
        if !unfinished.is_empty() {
            self.say(told, json!({ "type": "MESSAGES_SNAPSHOT" }));
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
        self.announce(origin, &tool.tool_call_id, &tool.tool_name, &tool.tool_args, told)
    }

    fn announce(&mut self, origin: &Origin, own_id: &str, name: &str, args: &Value, told: &mut Told) -> String {
        let id = match self.calls.get(own_id) {
            Some(call) if !call.is_over => return call.id.clone(),
            // Servers may use an id again; a page must not.
            Some(_) => format!("{own_id}:{}", self.at),
            None => own_id.to_owned(),
        };
        self.calls.insert(own_id.to_owned(), Call { id: id.clone(), is_over: false });
        let new_id = self.new_id();
        let speaker = self.speaker(origin);
        speaker.has_spoken = false;
        let parent = speaker.turn.get_or_insert(new_id).clone();
        let args = match args {
            Value::String(text) => text.clone(),
            Value::Null => "{}".to_owned(),
            args => args.to_string(),
        };
        self.say(
            told,
            json!({ "type": "TOOL_CALL_START", "toolCallId": id, "toolCallName": name, "parentMessageId": parent }),
        );
        self.say(told, json!({ "type": "TOOL_CALL_ARGS", "toolCallId": id, "delta": args }));
        self.say(told, json!({ "type": "TOOL_CALL_END", "toolCallId": id }));
        id
    }

    /// A call that waits for people, as a requirement has it.
    fn pending(&mut self, origin: &Origin, call: &Value, told: &mut Told) {
        let text = |name: &str| call[name].as_str().unwrap_or_default();
        self.announce(origin, text("tool_call_id"), text("tool_name"), &call["tool_args"], told);
    }

    fn result(&mut self, origin: &Origin, tool: &ToolExecution, told: &mut Told) {
        let id = self.call(origin, tool, told);
        if let Some(call) = self.calls.get_mut(&tool.tool_call_id) {
            call.is_over = true;
        }
        let body = json!({
            "type": "TOOL_CALL_RESULT",
            "messageId": self.new_id(),
            "toolCallId": id,
            "content": tool.result.as_deref().unwrap_or_default(),
            "role": "tool",
        });
        self.say(told, body);
    }

    // Steps.

    fn step_started(&mut self, origin: &Origin, told: &mut Told) {
        let Some((id, name)) = step(origin) else { return };
        if self.steps.iter().any(|(open, _)| *open == id) {
            return;
        }
        let taken = |name: &str| self.steps.iter().any(|(_, open)| open == name);
        let mut shown = name.to_string();
        let mut count = 1;
        while taken(&shown) {
            count += 1;
            shown = format!("{name} ({count})");
        }
        self.steps.push((id, shown.clone()));
        self.say(told, json!({ "type": "STEP_STARTED", "stepName": shown }));
    }

    fn step_ended(&mut self, origin: &Origin, told: &mut Told) {
        let Some((id, _)) = step(origin) else { return };
        self.close_step(&id, told);
        if let Some(place) = self.steps.iter().position(|(open, _)| *open == id) {
            let (_, name) = self.steps.remove(place);
            self.say(told, json!({ "type": "STEP_FINISHED", "stepName": name }));
        }
    }

    /// A failure that is skipped is told by the output alone.
    fn step_output(&mut self, origin: &Origin, output: &StepOutput, told: &mut Told) {
        if !output.success {
            self.step_ended(origin, told);
        }
    }

    // Ends.

    fn close_all(&mut self, told: &mut Told) {
        for key in self.speakers.keys().cloned().collect::<Vec<_>>() {
            self.close(&key, told);
        }
        for (_, name) in self.steps.clone().into_iter().rev() {
            self.say(told, json!({ "type": "STEP_FINISHED", "stepName": name }));
        }
    }

    fn finish(&mut self, body: Value, told: &mut Told) {
        self.say(told, body);
        self.end = told.last().cloned();
    }

    fn completed(&mut self, content: Option<&Value>, told: &mut Told) {
        self.close_all(told);
        self.steps.clear();
        if let Some(reason) = self.cancelled.take() {
            let mut cancelled = error(&reason, "cancelled");
            if self.knows_all_ends {
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
        if self.knows_all_ends {
            started["protocolVersion"] = json!(VERSION);
        }
        started
    }

    fn finished(&self) -> Value {
        json!({ "type": "RUN_FINISHED", "threadId": self.thread_id, "runId": self.run_id })
    }

    fn paused(&mut self, step_name: &str, open: &[Arc<Question>], told: &mut Told) {
        self.close_all(told);
        self.say(told, json!({ "type": "STATE_SNAPSHOT" }));
        let mut finished = self.finished();
        let call = |question: &Question| {
            let own_id = &question.tool.as_ref()?.execution.tool_call_id;
            self.calls.get(own_id).map(|call| call.id.clone())
        };
        if self.is_of_client_tools(open) {
            if self.knows_all_ends {
                let calls: Vec<String> = open.iter().filter_map(|question| call(question)).collect();
                finished["outcome"] = json!({ "type": "success", "pendingToolCallIds": calls });
            }
        } else {
            let mut asked: Vec<Value> =
                open.iter().map(|question| interrupts::interrupt(question, call(question).as_deref())).collect();
            if asked.is_empty() {
                let message = format!("The run is paused at {step_name}");
                asked.push(json!({ "id": self.new_id(), "reason": "outlive:paused", "message": message }));
            }
            finished["outcome"] = json!({ "type": "interrupt", "interrupts": asked });
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
