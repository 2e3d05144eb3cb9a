//! The team loop as a machine: the leader's agent loop, in which some tool calls are delegations to members.
//!
//! ```text
//! coordinate   members work on what they are given, the leader answers
//! route        the member the leader chooses answers
//! broadcast    all members work on the same, the leader answers
//! tasks        the leader keeps a list of tasks until all of it is done, and answers
//! ```

use super::agent::{AgentCommand, AgentLimits, AgentMachine};
use super::tasks::{Arguments, Decided, Job, TASK_TOOLS, TaskList, member};
use crate::failure::{Failure, FailureKind};
use crate::id::{DefinitionId, RunId};
use crate::message::{Message, ModelResponse, ToolCall, ToolResult};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The name of the tool by which a leader delegates. Agno's.
pub const DELEGATE_TOOL: &str = "delegate_task_to_member";

/// The name of the tool by which a leader gives all members the same task. Agno's.
pub const DELEGATE_ALL_TOOL: &str = "delegate_task_to_members";

/// How a team's leader and its members work together. Agno's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeamMode {
    /// The leader gives tasks to members, and writes one answer of what they made.
    #[default]
    Coordinate,
    /// The leader chooses one member, whose answer is the team's as it is. When none fits, it answers itself.
    Route,
    /// All members work on the same task side by side, and the leader writes one answer of what they made.
    Broadcast,
    /// The leader keeps a list of tasks, has members work on them until all are done, and then answers.
    Tasks,
}

impl TeamMode {
    /// Its name in Agno's descriptions.
    pub fn as_str(self) -> &'static str {
        match self {
            TeamMode::Coordinate => "coordinate",
            TeamMode::Route => "route",
            TeamMode::Broadcast => "broadcast",
            TeamMode::Tasks => "tasks",
        }
    }

    /// The names of the tools by which its leader works with members.
    pub fn tools(self) -> &'static [&'static str] {
        match self {
            TeamMode::Coordinate | TeamMode::Route => &[DELEGATE_TOOL],
            TeamMode::Broadcast => &[DELEGATE_ALL_TOOL],
            TeamMode::Tasks => &TASK_TOOLS,
        }
    }
}

/// One thing a leader asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Have several members work side by side.
    DelegateAll {
        /// The call.
        call: ToolCall,
        /// Who does what.
        jobs: Vec<Job>,
    },
    /// The call is done with these words.
    Answer {
        /// The call.
        call: ToolCall,
        /// What the leader is told.
        content: String,
    },
    /// The call makes no sense; the leader is told why.
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
    mode: TeamMode,
    /// What the calls of the current turn come to.
    plans: Vec<Plan>,
    /// Route: what the chosen member answered.
    routed: Option<String>,
    /// Tasks: the list.
    tasks: Option<Box<Tasks>>,
}

/// What one call comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Plan {
    place: u32,
    call: TeamCall,
    /// The tasks of the list that it works on.
    tasks: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Tasks {
    list: TaskList,
    /// How often the leader has said that it is done.
    iterations: u32,
    iterations_max: u32,
}

impl TeamMachine {
    /// A run of a team with these members that begins with these messages. It coordinates.
    pub fn new(run_id: RunId, limits: AgentLimits, members: Arc<[DefinitionId]>, messages: Vec<Message>) -> Self {
        let leader = AgentMachine::new(run_id, limits, messages);
        Self { leader, members, mode: TeamMode::default(), plans: Vec::new(), routed: None, tasks: None }
    }

    /// The same in another mode. With tasks, the leader works on its list `iterations_max` times until it answers.
    pub fn mode(self, mode: TeamMode, iterations_max: u32) -> Self {
        let tasks = Tasks { list: TaskList::default(), iterations: 0, iterations_max };
        Self { mode, tasks: (mode == TeamMode::Tasks).then(|| Box::new(tasks)), ..self }
    }

    /// What is next.
    pub fn next(&self) -> TeamCommand {
        if let Some(failure) = self.out_of_iterations() {
            return TeamCommand::Failed(failure);
        }
        match self.leader.next() {
            AgentCommand::CallModel { turn } => TeamCommand::CallModel { turn },
            AgentCommand::CallTools { turn, calls } => {
                let planned = |(place, call): (u32, ToolCall)| {
                    let plan = self.plans.iter().find(|plan| plan.place == place);
                    (place, plan.map_or(TeamCall::Tool(call), |plan| plan.call.clone()))
                };
                TeamCommand::Work { turn, calls: calls.into_iter().map(planned).collect() }
            }
            AgentCommand::Done => TeamCommand::Done,
            AgentCommand::Failed(failure) => TeamCommand::Failed(failure),
        }
    }

    /// The leader's model answered.
    pub fn answered(&mut self, response: ModelResponse, metrics: crate::metrics::Metrics, at: i64) {
        self.leader.answered(response, metrics, at);
        self.plans.clear();
        for (place, call) in self.leader.open_calls() {
            let plan = self.plan(place, call);
            self.plans.push(plan);
        }
        if self.leader.has_answered()
            && let Some(tasks) = &mut self.tasks
            && !tasks.list.is_over()
            // Without tools it can do no more.
            && !self.leader.is_out_of_budget()
        {
            tasks.iterations += 1;
            if tasks.iterations < tasks.iterations_max {
                self.leader.ask_again(format!(
                    "Not all of your tasks are done yet:\n{}\n\nGo on with them: execute what is pending, mark what you \
                     did yourself or will not do, and answer once all of them have ended.",
                    tasks.list.text(&self.members)
                ), at);
            }
        }
    }

    /// The call at `place` of the current turn has this result.
    pub fn result(&mut self, place: u32, result: ToolResult, at: i64) {
        if let Some(plan) = self.plans.iter().find(|plan| plan.place == place) {
            if let Some(tasks) = &mut self.tasks {
                // Without a result for each, the call as a whole is the result of all.
                for (number, task) in plan.tasks.iter().enumerate() {
                    tasks.list.ended(*task, result.parts.get(number).unwrap_or(&result));
                }
            }
            if self.mode == TeamMode::Route && matches!(plan.call, TeamCall::Delegate { .. }) && !result.is_error {
                self.routed = Some(result.content.clone());
            }
        }
        self.leader.tool_result(place, result, at);
        if let Some(answer) = self.routed.clone().filter(|_| !self.leader.has_open_calls()) {
            self.leader.conclude(answer, at);
        }
    }

    /// The answer does not do: the leader is told why, and asked again.
    pub fn ask_again(&mut self, text: String, at: i64) {
        self.routed = None;
        self.leader.ask_again(text, at);
    }

    /// Somebody said something between two turns.
    pub fn told(&mut self, message: Message) {
        self.leader.told(message);
    }

    /// The leader's conversation so far.
    pub fn messages(&self) -> &Arc<Vec<Message>> {
        self.leader.messages()
    }

    /// Whether the answer is a member's.
    pub fn is_routed(&self) -> bool {
        self.routed.is_some()
    }

    /// Whether the budget of tool calls is spent, so that tools need not be offered any more.
    pub fn is_out_of_budget(&self) -> bool {
        self.leader.is_out_of_budget()
    }

    fn out_of_iterations(&self) -> Option<Failure> {
        let tasks = self.tasks.as_ref().filter(|_| self.leader.has_answered() && !self.leader.is_out_of_budget())?;
        let (left, most) = (tasks.list.left(), tasks.iterations_max);
        (tasks.iterations >= most && !tasks.list.is_over()).then(|| {
            let message = format!(
                "{left} of the team's tasks are not done after {most} iterations, its limit; raise max_iterations or \
                 change its instructions"
            );
            Failure::new(FailureKind::Limit, message)
        })
    }

    fn plan(&mut self, place: u32, call: ToolCall) -> Plan {
        if let Some(tasks) = &mut self.tasks
            && let Some(decided) = tasks.list.decide(&call, &self.members)
        {
            return match decided {
                Decided::Done(content) => Plan { place, call: TeamCall::Answer { call, content }, tasks: Vec::new() },
                Decided::Refused(reason) => Plan { place, call: TeamCall::Refuse { call, reason }, tasks: Vec::new() },
                Decided::Execute(jobs) => {
                    let is_one = call.function.name == "execute_task";
                    let (tasks, mut jobs): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
                    let call = match jobs.pop_if(|_| is_one) {
                        Some(Job { member, task }) => TeamCall::Delegate { call, member, task },
                        None => TeamCall::DelegateAll { call, jobs },
                    };
                    Plan { place, call, tasks }
                }
            };
        }
        let call = match (self.mode, call.function.name.as_str()) {
            (TeamMode::Coordinate | TeamMode::Route, DELEGATE_TOOL) => self.delegate(call),
            (TeamMode::Broadcast, DELEGATE_ALL_TOOL) => self.delegate_all(call),
            _ => TeamCall::Tool(call),
        };
        Plan { place, call, tasks: Vec::new() }
    }

    fn delegate(&self, call: ToolCall) -> TeamCall {
        let arguments = Arguments::of(&call);
        let task = arguments.text("task");
        let is_second = || self.plans.iter().any(|plan| matches!(plan.call, TeamCall::Delegate { .. }));
        match member(&arguments.text("member_id"), &self.members) {
            Err(reason) => TeamCall::Refuse { call, reason },
            Ok(_) if task.is_empty() => {
                TeamCall::Refuse { call, reason: "the task is empty: say what to do".to_owned() }
            }
            Ok(_) if self.mode == TeamMode::Route && is_second() => {
                let reason = "one member answers for this team: only the first call of a turn is made".to_owned();
                TeamCall::Refuse { call, reason }
            }
            Ok(member) => TeamCall::Delegate { call, member, task },
        }
    }

    fn delegate_all(&self, call: ToolCall) -> TeamCall {
        let task = Arguments::of(&call).text("task");
        if task.is_empty() {
            return TeamCall::Refuse { call, reason: "the task is empty: say what to do".to_owned() };
        }
        let jobs = (0..self.members.len()).map(|member| Job { member, task: task.clone() }).collect();
        TeamCall::DelegateAll { call, jobs }
    }
}
