//! Background execution of AI-agent workflows that outlives its process.
//!
//! Compose [`Agent`]s, [`Team`]s and function steps into a [`Workflow`] with a database, start a run in the background,
//! get its `run_id` at once, poll [`Workflow::get_run`] or follow its events, and print the result. Every model call
//! and every tool call is recorded before anyone sees it: when the process dies, the next one resumes after the last
//! recorded call, and repeats at most the calls that were in flight.
//!
//! ```
//! use outlive::prelude::*;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> outlive::Result<()> {
//! let workflow = Workflow::builder("Greeting")
//!     .db(InMemoryDb::new())
//!     .step(Step::function("greet", |_, input| async move { Ok::<_, Failure>(format!("Hello, {}", input.text())) }))
//!     .build()?;
//!
//! let run = workflow.run("world").background().await?; // stored when this returns
//! let found = workflow.get_run(run.run_id()).await?.expect("the id is known from the moment of its answer");
//! assert_eq!(found.run_id, *run.run_id());
//! assert_eq!(run.await?.text(), "Hello, world");
//! # Ok(())
//! # }
//! ```

mod batches;
#[cfg(feature = "client")]
pub mod client;
mod error;
#[cfg(feature = "files")]
mod file;
mod input;
mod invalid;
#[cfg(all(feature = "server", feature = "sqlite"))]
mod keys;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "pprint")]
mod pprint;
mod schedules;
#[cfg(feature = "server")]
mod server;
mod sessions;
mod workflow;

pub use batches::BatchRequest;
#[cfg(feature = "client")]
pub use client::{Client, ClientError};
pub use error::{Error, Result};
#[cfg(feature = "files")]
pub use file::{File, FileSchedule, FileSchedules, McpProfile};
pub use invalid::{FileProblem, FileProblemKind, InvalidFile};
#[cfg(all(feature = "server", feature = "sqlite"))]
pub use keys::SqliteKeys;
#[cfg(feature = "otlp")]
pub use otlp::Otlp;
pub use outlive_agent as agent;
pub use outlive_agent::model::parse as model;
pub use outlive_agent::{
    Agent, CheckError, CheckTrigger, Hook, HookContext, PiiGuardrail, PromptInjectionGuardrail, Team, TeamMode,
    WorkflowAgent,
};
pub use outlive_core as core;
pub use outlive_core::{
    Allowance, Answer, Blocking, Budget, BudgetScope, BudgetUnit, Condition, EventSettings, Failure, FailureKind,
    FieldType, FinishReason, ForEach, Function, HistoryRun, HumanReview, Loop, Media, NotCompleted, OnError, OnReject,
    OnTimeout, Parallel, Prices, Question, QuestionKind, Registry, Retention, Retry, Router, RunEvent, RunId,
    RunOutput, RunStatus, Step, StepInput, StepOutput, Steps, UserInputField, VerdictInput, WorkflowRunOutput,
};
pub use outlive_db as db;
pub use outlive_engine as engine;
pub use outlive_engine::{
    AskedQuestion, Batch, BatchCounts, BatchHandle, BatchResult, BatchResults, CatchUp, Engine, EventStream,
    ForkPreview, ForkRequest, OpenQuestion, Options, Overlap, Prune, PruneReport, Reader, RunHandle, Schedule,
    ScheduleHandle,
};
#[cfg(feature = "server")]
pub use outlive_server as serving;
#[cfg(feature = "pprint")]
pub use pprint::{Markdown, pprint_run_response, render_run_response};
pub use schedules::ScheduleRequest;
#[cfg(feature = "server")]
pub use server::{Server, ServerBuilder};
pub use workflow::{RunRequest, Workflow, WorkflowBuilder};

/// What most programs need, for `use outlive::prelude::*`. It does not include `Result` or `Error`.
pub mod prelude {
    pub use crate::core::port::{SessionPolicy, StepContext};
    pub use crate::core::{ModelResponse, ToolCall, ToolEffect};
    pub use crate::{
        Agent, Answer, Budget, CatchUp, CheckError, CheckTrigger, Condition, Engine, Failure, FinishReason, ForEach,
        Hook, HookContext, HumanReview, Loop, OnError, OnReject, OnTimeout, Overlap, Parallel, PiiGuardrail,
        PromptInjectionGuardrail, Registry, Retention, Retry, Router, RunHandle, RunStatus, Step, StepInput,
        StepOutput, Steps, Team, TeamMode, UserInputField, VerdictInput,
    };
    #[cfg(feature = "pprint")]
    pub use crate::{Markdown, pprint_run_response};
    pub use crate::{Workflow, WorkflowAgent, WorkflowRunOutput};
    pub use outlive_agent::model::ScriptedModel;
    #[cfg(feature = "models")]
    pub use outlive_agent::model::{Claude, Gemini, OpenAIChat, OpenAIResponses};
    #[cfg(feature = "mcp")]
    pub use outlive_agent::tool::MCPTools;
    #[cfg(feature = "http-tools")]
    pub use outlive_agent::tool::{HackerNewsTools, YFinanceTools};
    pub use outlive_agent::tool::{Tool, ToolContext, WorkflowTools};
    pub use outlive_db::InMemoryDb;
    #[cfg(feature = "sqlite")]
    pub use outlive_db::SqliteDb;
}

/// The README's Rust is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

/// So is that of the page about agents and teams.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/agents.md")]
pub struct Agents;

/// So is that of the page about models.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/models.md")]
pub struct Models;

/// So is that of the page about questions.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/questions.md")]
pub struct Questions;

/// So is that of the page about sessions.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/sessions.md")]
pub struct Sessions;
/// So is that of the page about controlling runs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/control.md")]
pub struct Control;

/// So is that of the page about schedules.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/schedules.md")]
pub struct Schedules;

/// So is that of the page about batches.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/batches.md")]
pub struct Batches;

/// So is that of the page about budgets.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/budgets.md")]
pub struct Budgets;

/// So is that of the page about retention.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/retention.md")]
pub struct Retained;

/// So is that of the page about definitions.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/definitions.md")]
pub struct Definitions;

/// So is that of the page about MCP.
#[cfg(all(doctest, feature = "mcp"))]
#[doc = include_str!("../../../docs/mcp.md")]
pub struct Mcp;

/// So is that of the page about workflows in files.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../../../docs/files.md")]
pub struct Files;
