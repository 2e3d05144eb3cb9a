//! An agent's machine and a team's behind one interface, so that one loop drives both.

use outlive_core::machine::{AgentCommand, AgentMachine, TeamCall, TeamCommand, TeamMachine};
use outlive_core::{Message, Metrics, ModelResponse, ToolResult};
use std::sync::Arc;

/// An agent's machine or a team's, behind one interface: an agent's calls are all to tools.
pub(super) enum Machine {
    Agent(AgentMachine),
    Team(TeamMachine),
}

impl Machine {
    pub(super) fn next(&self) -> TeamCommand {
        match self {
            Machine::Team(machine) => machine.next(),
            Machine::Agent(machine) => match machine.next() {
                AgentCommand::CallModel { turn } => TeamCommand::CallModel { turn },
                AgentCommand::CallTools { turn, calls } => {
                    let calls = calls.into_iter().map(|(place, call)| (place, TeamCall::Tool(call))).collect();
                    TeamCommand::Work { turn, calls }
                }
                AgentCommand::Done => TeamCommand::Done,
                AgentCommand::Failed(failure) => TeamCommand::Failed(failure),
            },
        }
    }

    pub(super) fn answered(&mut self, response: ModelResponse, metrics: Metrics, at: i64) {
        match self {
            Machine::Agent(machine) => machine.answered(response, metrics, at),
            Machine::Team(machine) => machine.answered(response, metrics, at),
        }
    }

    pub(super) fn result(&mut self, place: u32, result: ToolResult, at: i64) {
        match self {
            Machine::Agent(machine) => machine.tool_result(place, result, at),
            Machine::Team(machine) => machine.result(place, result, at),
        }
    }

    pub(super) fn told(&mut self, message: Message) {
        match self {
            Machine::Agent(machine) => machine.told(message),
            Machine::Team(machine) => machine.told(message),
        }
    }

    pub(super) fn ask_again(&mut self, text: String, at: i64) {
        match self {
            Machine::Agent(machine) => machine.ask_again(text, at),
            Machine::Team(machine) => machine.ask_again(text, at),
        }
    }

    /// Whether the answer is a member's.
    pub(super) fn is_routed(&self) -> bool {
        match self {
            Machine::Agent(_) => false,
            Machine::Team(machine) => machine.is_routed(),
        }
    }

    pub(super) fn messages(&self) -> &Arc<Vec<Message>> {
        match self {
            Machine::Agent(machine) => machine.messages(),
            Machine::Team(machine) => machine.messages(),
        }
    }

    pub(super) fn is_out_of_budget(&self) -> bool {
        match self {
            Machine::Agent(machine) => machine.is_out_of_budget(),
            Machine::Team(machine) => machine.is_out_of_budget(),
        }
    }
}
