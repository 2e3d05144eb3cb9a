//! Agents: a model with a role, instructions and tools, that works on a task until it answers in words.
//!
//! An agent is a value. It must never know a store or a workflow: as a step it is an
//! [`Executor`](outlive_core::port::Executor); on its own it runs with effects that keep nothing. Either way the same
//! loop does the work.

use crate::model::IntoModel;
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

    /// An agent that sums up the earlier runs of a session: what a workflow's `summarize_history` is given. It can be
    /// changed like any other.
    pub fn summarizer(model: impl IntoModel) -> Self {
        Self::new("Session Summarizer")
            .model(model)
            .description("You keep the memory of a conversation between a user and a workflow.")
            .instructions([
                "You are given the summary so far, if there is one, and the runs since: what was asked and answered",
                "Write one summary of all of it that takes the place of both",
                "Keep names, numbers, decisions, wishes and what is still open; leave out courtesies and repetitions",
                "Write at most 200 words, and nothing but the summary",
            ])
            .resolve_in_context(false)
            .stream(false)
    }
}
