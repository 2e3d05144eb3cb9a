//! Teams: a leader that delegates tasks to members, which are agents or teams, and puts their answers together.
//!
//! A team is a value, and its leader works by the same loop as an agent. Members see only the task they are given; what
//! they say and use is recorded under their own keys.

use crate::agent::Agent;
use crate::profile::Profile;
use outlive_core::machine::TeamMode;
use std::sync::Arc;

/// A member of a team.
#[derive(Clone, Debug)]
pub enum Member {
    /// An agent.
    Agent(Agent),
    /// A team itself.
    Team(Team),
}

/// What can join a team: an agent, a team, or either as a [`Member`].
pub trait IntoMember {
    /// The member.
    fn into_member(self) -> Member;
}

impl IntoMember for Agent {
    fn into_member(self) -> Member {
        Member::Agent(self)
    }
}

impl IntoMember for Team {
    fn into_member(self) -> Member {
        Member::Team(self)
    }
}

impl IntoMember for Member {
    fn into_member(self) -> Member {
        self
    }
}

impl Member {
    fn into_profile(self) -> Arc<Profile> {
        match self {
            Member::Agent(agent) => agent.profile,
            Member::Team(team) => team.profile,
        }
    }
}

/// A team. Cheap to clone.
///
/// ```
/// use outlive_agent::model::ScriptedModel;
/// use outlive_agent::{Agent, Team};
/// use outlive_core::{ModelResponse, ToolCall};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let call = ToolCall::new("1", "delegate_task_to_member", r#"{"member_id":"finance-agent","task":"price of ACME?"}"#);
/// let leader = ScriptedModel::replies([ModelResponse::calls(vec![call]), ModelResponse::text("ACME is at 12.")]);
/// let finance = Agent::new("Finance Agent")
///     .model(ScriptedModel::replies([ModelResponse::text("12")]))
///     .role("Knows prices");
/// let team = Team::new("Research Team").model(leader).member(finance);
/// let run = team.run("How is ACME doing?").await.unwrap_or_else(|failure| panic!("{}", failure.message));
/// assert_eq!(run.content, Some("ACME is at 12.".into()));
/// assert_eq!(run.member_responses[0].content, Some("12".into()));
/// # });
/// ```
#[derive(Clone)]
pub struct Team {
    pub(crate) profile: Arc<Profile>,
}

impl Team {
    /// A team with this name, without members yet. Its id is the slug of the name unless set.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { profile: Arc::new(Profile::leader(name.as_ref())) }
    }

    /// Adds one member: an agent or a team.
    pub fn member(self, member: impl IntoMember) -> Self {
        self.with(|profile| profile.add_member(member.into_member().into_profile()))
    }

    /// Adds members.
    pub fn members(self, members: impl IntoIterator<Item = impl IntoMember>) -> Self {
        members.into_iter().fold(self, Team::member)
    }

    /// How leader and members work together; [`TeamMode::Coordinate`] unless set.
    ///
    /// | mode | the leader | the answer is |
    /// |---|---|---|
    /// | `Coordinate` | gives tasks to members, several in one turn side by side | the leader's |
    /// | `Route` | chooses one member | that member's, as it is; the leader's when it chooses nobody |
    /// | `Broadcast` | gives all members one task, side by side | the leader's |
    /// | `Tasks` | keeps a list of tasks that depend on each other, and has members work on them until all have ended | the leader's |
    ///
    /// ```
    /// use outlive_agent::model::ScriptedModel;
    /// use outlive_agent::{Agent, Team, TeamMode};
    /// use outlive_core::{ModelResponse, ToolCall};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let call = ToolCall::new("1", "delegate_task_to_member", r#"{"member_id":"french","task":"Say hello"}"#);
    /// let leader = ScriptedModel::replies([ModelResponse::calls(vec![call])]);
    /// let french = Agent::new("French").model(ScriptedModel::replies([ModelResponse::text("Bonjour")]));
    /// let team = Team::new("Languages").model(leader).member(french).mode(TeamMode::Route);
    /// assert_eq!(team.run("Say hello in French").await.unwrap().content, Some("Bonjour".into()));
    /// # });
    /// ```
    pub fn mode(self, mode: TeamMode) -> Self {
        self.with(|profile| profile.mode = mode)
    }

    /// With [`TeamMode::Tasks`]: how often the leader may answer while tasks are left; 10 unless set. It is shown what is
    /// left and asked to go on; after the last time, the run ends ERROR.
    pub fn max_iterations(self, times: u32) -> Self {
        self.with(|profile| profile.iterations_max = times)
    }
}
