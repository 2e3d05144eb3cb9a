//! Agents: a model with a role, instructions and tools, that works on a task until it answers in words.
//!
//! An agent is a value. It must never know a store or a workflow: as a step it is an
//! [`Executor`](outlive_core::port::Executor); on its own it runs with effects that keep nothing. Either way the same
//! loop does the work.

use crate::profile::Profile;
use std::sync::Arc;

/// An agent. Cheap to clone.
///
/// ```
/// use outlive_agent::Agent;
/// use outlive_agent::model::ScriptedModel;
/// use outlive_core::ModelResponse;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let agent = Agent::new("Greeter")
///     .model(ScriptedModel::replies([ModelResponse::text("Hello, Ada.")]))
///     .instructions("Greet people by name");
/// let run = agent.run("I am Ada").await.unwrap_or_else(|failure| panic!("{}", failure.message));
/// assert_eq!(run.content, Some("Hello, Ada.".into()));
/// # });
/// ```
#[derive(Clone)]
pub struct Agent {
    pub(crate) profile: Arc<Profile>,
}

impl Agent {
    /// An agent with this name, without a model yet. Its id is the slug of the name unless set.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { profile: Arc::new(Profile::new(name.as_ref())) }
    }
}
