//! The team loop as a machine: the leader's agent loop, in which some tool calls are delegations to members.

use super::agent::{AgentCommand, AgentLimits, AgentMachine};
use crate::coerce::coerce;
use crate::failure::Failure;
use crate::id::{DefinitionId, RunId};
use crate::message::{Message, ModelResponse, ToolCall, ToolResult};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// The name of the tool by which a leader delegates. Agno's.
pub const DELEGATE_TOOL: &str = "delegate_task_to_member";

/// One thing a leader asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum TeamCall {
    /// An ordinary tool call.
    Tool(ToolCall),
    /// Have the member at this place of the team do the task.
    Delegate {
        /// The call.
        call: ToolCall,
        /// The member's place.
        member: usize,
        /// What it is told; nothing else.
        task: String,
    },
    /// The delegation makes no sense; the leader is told why.
    Refuse {
        /// The call.
        call: ToolCall,
        /// Why.
        reason: String,
    },
}

/// What the team does next.
#[derive(Clone, Debug, PartialEq)]
pub enum TeamCommand {
    /// Send the conversation to the leader's model.
    CallModel {
        /// From 0.
        turn: u32,
    },
    /// Do these concurrently, and give back each result.
    Work {
        /// The turn that asked.
        turn: u32,
        /// What, with its place in the turn.
        calls: Vec<(u32, TeamCall)>,
    },
    /// The last message is the answer.
    Done,
    /// A limit was reached.
    Failed(Failure),
}

/// One run of one team.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TeamMachine {
    leader: AgentMachine,
    members: Arc<[DefinitionId]>,
}

impl TeamMachine {
    /// A run of a team with these members that begins with these messages.
    pub fn new(run_id: RunId, limits: AgentLimits, members: Arc<[DefinitionId]>, messages: Vec<Message>) -> Self {
        Self { leader: AgentMachine::new(run_id, limits, messages), members }
    }

    /// What is next.
    pub fn next(&self) -> TeamCommand {
        match self.leader.next() {
            AgentCommand::CallModel { turn } => TeamCommand::CallModel { turn },
            AgentCommand::CallTools { turn, calls } => {
                let calls = calls.into_iter().map(|(place, call)| (place, self.plan(call))).collect();
                TeamCommand::Work { turn, calls }
            }
            AgentCommand::Done => TeamCommand::Done,
            AgentCommand::Failed(failure) => TeamCommand::Failed(failure),
        }
    }

    /// The leader's model answered.
    pub fn answered(&mut self, response: ModelResponse, metrics: crate::metrics::Metrics, at: i64) {
        self.leader.answered(response, metrics, at);
    }

    /// The call at `place` of the current turn has this result.
    pub fn result(&mut self, place: u32, result: ToolResult, at: i64) {
        self.leader.tool_result(place, result, at);
    }

    /// Somebody said something between two turns.
    pub fn told(&mut self, message: Message) {
        self.leader.told(message);
    }

    /// The leader's conversation so far.
    pub fn messages(&self) -> &Arc<Vec<Message>> {
        self.leader.messages()
    }

    /// Whether the budget of tool calls is spent, so that tools need not be offered any more.
    pub fn is_out_of_budget(&self) -> bool {
        self.leader.is_out_of_budget()
    }

    fn plan(&self, call: ToolCall) -> TeamCall {
        if call.function.name != DELEGATE_TOOL {
            return TeamCall::Tool(call);
        }
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let arguments = call.arguments().ok().and_then(|arguments| coerce(arguments, &texts).ok()).unwrap_or_default();
        let text = |name: &str| arguments.get(name).and_then(Value::as_str).map(str::trim).unwrap_or_default();
        let (member_id, task) = (text("member_id"), text("task").to_owned());
        let member = self.members.iter().position(|member| member.as_str() == member_id);
        match member {
            Some(_) if task.is_empty() => {
                TeamCall::Refuse { call, reason: "the task is empty: say what to do".to_owned() }
            }
            Some(member) => TeamCall::Delegate { call, member, task },
            None => {
                let known: Vec<_> = self.members.iter().map(DefinitionId::as_str).collect();
                let reason = format!("there is no member {member_id:?}; the members are {}", known.join(", "));
                TeamCall::Refuse { call, reason }
            }
        }
    }
}
