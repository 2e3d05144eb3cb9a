//! The agent loop as a machine: call the model, call the tools it asked for, until it answers in words.
//!
//! ```text
//! CallModel(turn) ──answer with calls──► CallTools(turn) ──all results──► CallModel(turn + 1)
//!        └──answer in words──► Done
//! ```
//! Two limits stop a confused model: turns, and answers with calls that cannot be made as written (arguments that are
//! not JSON, or a call cut off in the middle).

use crate::failure::{Failure, FailureKind};
use crate::id::RunId;
use crate::json;
use crate::message::{FinishReason, Message, ModelResponse, Role, ToolCall, ToolResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// When an agent gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentLimits {
    /// Model calls in one run, at most.
    pub turns_max: u32,
    /// Tool calls in one run, at most; further calls are answered with a refusal and not executed.
    pub tool_calls_max: Option<u32>,
    /// Answers with malformed or cut-off tool calls, at most; each is sent back to the model to be repaired.
    pub repairs_max: u32,
}

impl Default for AgentLimits {
    /// 50 turns, no limit of tool calls, 3 repairs.
    fn default() -> Self {
        Self { turns_max: 50, tool_calls_max: None, repairs_max: 3 }
    }
}

/// What the agent does next.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentCommand {
    /// Send the conversation to the model.
    CallModel {
        /// From 0.
        turn: u32,
    },
    /// Make these calls concurrently, and give back each result.
    CallTools {
        /// The turn that asked.
        turn: u32,
        /// The calls without a result, with their place in the turn.
        calls: Vec<(u32, ToolCall)>,
    },
    /// The last message is the answer.
    Done,
    /// A limit was reached.
    Failed(Failure),
}

/// One run of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentMachine {
    run_id: RunId,
    limits: AgentLimits,
    /// Shared with the request in flight; alone again once that is answered, and then extended in place.
    messages: Arc<Vec<Message>>,
    turn: u32,
    tool_calls: u32,
    repairs: u32,
    open: Vec<(ToolCall, Option<ToolResult>)>,
    answered: bool,
    out_of_budget: bool,
    /// The newest answer hit its token limit in the middle of a call.
    #[serde(default)]
    cut: bool,
}

impl AgentMachine {
    /// A run that begins with these messages (instructions, history, the question).
    pub fn new(run_id: RunId, limits: AgentLimits, messages: Vec<Message>) -> Self {
        Self {
            run_id,
            limits,
            messages: Arc::new(messages),
            turn: 0,
            tool_calls: 0,
            repairs: 0,
            open: Vec::new(),
            answered: false,
            out_of_budget: false,
            cut: false,
        }
    }

    /// What to do next.
    pub fn next(&self) -> AgentCommand {
        if self.answered {
            return AgentCommand::Done;
        }
        if self.repairs > self.limits.repairs_max {
            let remedy = if self.cut { "; its answers are cut at their token limit: allow more tokens" } else { "" };
            let message = format!(
                "the model wrote malformed tool arguments in {} answers, the limit is {}{remedy}",
                self.repairs, self.limits.repairs_max
            );
            return AgentCommand::Failed(Failure::new(FailureKind::Limit, message));
        }
        let calls = self.open_calls();
        // Checked before the last turn's calls are made: no model would read their results.
        if self.turn >= self.limits.turns_max {
            let message = format!(
                "the model still asked for tools after {} turns, the limit of this agent; raise it or change its instructions",
                self.turn
            );
            return AgentCommand::Failed(Failure::new(FailureKind::Limit, message));
        }
        if !calls.is_empty() {
            return AgentCommand::CallTools { turn: self.turn - 1, calls };
        }
        AgentCommand::CallModel { turn: self.turn }
    }

    /// The model answered turn `turn`. `at` is seconds since 1970.
    pub fn answered(&mut self, response: ModelResponse, metrics: crate::metrics::Metrics, at: i64) {
        self.turn += 1;
        let mut message = Message::new(Role::Assistant, "", self.message_id(), at);
        message.content = response.content.filter(|text| !text.is_empty());
        message.reasoning_content = response.reasoning_content;
        message.tool_calls.clone_from(&response.tool_calls);
        message.provider_data = response.provider_data.or(response.model_provider_data);
        message.metrics = Some(metrics);
        self.say(message);
        self.answered = response.tool_calls.is_empty();
        let cut = response.finish_reason.if_cut().filter(|_| response.tool_calls.last().is_some_and(is_unfinished));
        self.cut = cut == Some(FinishReason::Length);
        let malformed = |call: &ToolCall| parse_arguments(call).is_err();
        self.repairs += u32::from(cut.is_some() || response.tool_calls.iter().any(malformed));
        self.open = response.tool_calls.into_iter().map(|call| (call, None)).collect();
        self.refuse_over_budget();
        if let Some(reason) = cut {
            self.refuse_cut(reason);
        }
        self.refuse_malformed();
        self.close_turn(at);
    }

    /// The call at `place` of the current turn has this result.
    pub fn tool_result(&mut self, place: u32, result: ToolResult, at: i64) {
        if let Some((_, slot)) = self.open.get_mut(place as usize) {
            *slot = Some(result);
        }
        self.close_turn(at);
    }

    /// Somebody said something between two turns.
    pub fn told(&mut self, message: Message) {
        self.say(message);
    }

    /// The answer does not do: the model is told why, and asked again.
    pub fn ask_again(&mut self, text: String, at: i64) {
        let message = Message::new(Role::User, text, self.message_id(), at);
        self.say(message);
        self.answered = false;
    }

    /// Ends the run with an answer that somebody else has given.
    pub(super) fn conclude(&mut self, answer: String, at: i64) {
        let message = Message::new(Role::Assistant, answer, self.message_id(), at);
        self.say(message);
        self.answered = true;
    }

    /// Whether the last message is an answer in words.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Whether calls of the current turn have no result yet.
    pub(super) fn has_open_calls(&self) -> bool {
        !self.open.is_empty()
    }

    /// The calls of the current turn without a result, with their places.
    pub(super) fn open_calls(&self) -> Vec<(u32, ToolCall)> {
        let open = (0..).zip(&self.open).filter(|(_, (_, result))| result.is_none());
        open.map(|(place, (call, _))| (place, call.clone())).collect()
    }

    /// The conversation so far.
    pub fn messages(&self) -> &Arc<Vec<Message>> {
        &self.messages
    }

    /// Whether the budget of tool calls is spent, so that tools need not be offered any more.
    pub fn is_out_of_budget(&self) -> bool {
        self.out_of_budget
    }

    fn refuse_over_budget(&mut self) {
        let Some(limit) = self.limits.tool_calls_max else {
            return;
        };
        for (_, result) in &mut self.open {
            if self.tool_calls < limit {
                self.tool_calls += 1;
            } else {
                self.out_of_budget = true;
                *result = Some(ToolResult::error(format!(
                    "not executed: the limit of {limit} tool calls is reached; answer with what you have"
                )));
            }
        }
    }

    /// The last call of a cut answer may lack arguments the model meant to write.
    fn refuse_cut(&mut self, reason: FinishReason) {
        if let Some((call, result @ None)) = self.open.last_mut() {
            *result = Some(ToolResult::error(format!(
                "not executed: the answer was {} before this call was complete; call {} again, and write less before it",
                reason.as_words(),
                call.function.name
            )));
        }
    }

    fn refuse_malformed(&mut self) {
        for (call, result) in self.open.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Err(problem) = parse_arguments(call) {
                *result = Some(ToolResult::error(format!(
                    "not executed: the arguments are not a JSON object ({problem}); call {} again with valid JSON",
                    call.function.name
                )));
            }
        }
    }

    /// Once every call of the turn has a result, the results join the conversation in the order of the calls.
    fn close_turn(&mut self, at: i64) {
        if self.open.iter().any(|(_, result)| result.is_none()) {
            return;
        }
        for (call, result) in std::mem::take(&mut self.open) {
            let Some(result) = result else { continue };
            let mut message = Message::new(Role::Tool, result.content, self.message_id(), at);
            message.tool_args = json::read(&call.function.arguments).ok();
            message.tool_name = Some(call.function.name);
            message.tool_call_id = Some(call.id);
            message.tool_call_error = Some(result.is_error);
            self.say(message);
        }
    }

    fn say(&mut self, message: Message) {
        Arc::make_mut(&mut self.messages).push(message);
    }

    fn message_id(&self) -> Arc<str> {
        Message::id_at(&self.run_id, self.messages.len())
    }
}

/// Whether an answer that was cut may have been cut inside this call: one with arguments is complete once its object is
/// closed.
fn is_unfinished(call: &ToolCall) -> bool {
    parse_arguments(call)
        .ok()
        .and_then(|arguments| arguments.as_object().map(|object| object.is_empty()))
        .unwrap_or(true)
}

/// A call's arguments as an object. An empty text counts as no arguments.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn parse_arguments(call: &ToolCall) -> Result<Value, String> {
    let text = call.function.arguments.trim();
    if text.is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match json::read(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("it is another kind of value".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl ToolCall {
    /// The arguments as a JSON object. An empty text counts as no arguments.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn arguments(&self) -> Result<Value, String> {
        parse_arguments(self)
    }
}
