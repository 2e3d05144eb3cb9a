//! The vocabulary of outlive, the pure machines that decide what a run does next, and the ports to the world.
//!
//! Nothing here performs I/O, reads a clock or rolls dice: time, ids and randomness arrive as arguments, and what should
//! happen leaves as data. That is what lets every decision be tested as *log in, commands out*.

mod budget;
pub mod cel;
mod coerce;
mod event;
mod failure;
pub mod fork;
mod history;
mod id;
pub mod json;
pub mod log;
pub mod machine;
mod message;
mod metrics;
mod mistakes;
mod nearest;
mod outputs;
pub mod port;
mod price;
mod question;
mod redact;
mod retention;
mod retry;
mod run;
mod schema;
mod secret;
mod step;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod time;
pub mod trace;
mod waiting;
mod workflow;

pub use budget::{Allowance, Budget, BudgetDay, BudgetScope, BudgetUnit, Over, Spend, Spending};
pub use cel::{Cel, CelError};
pub use coerce::{Misfit, coerce};
pub use event::{
    ContentDelta, EventKind, ModelInfo, ModelRequestDone, Origin, PostHookEvent, PreHookEvent, RunDone, RunEvent,
    RunFailed, RunWaits, ToolErrorEvent, ToolEvent, WorkflowDone,
};
pub use failure::{Failure, FailureKind, InvalidId, Refusal};
pub use history::{HISTORY_RUNS, History, HistoryRun, history_context, tokens_of, within_tokens, without_history};
pub use id::{DefinitionId, ID_LEN_MAX, RunId, SessionId, WorkerId, slug};
pub use log::{Entry, Key, Page, Record, RunEnded};
pub use message::{
    FinishReason, FunctionCall, Media, Message, ModelDelta, ModelRequest, ModelResponse, ModelResult, OutputSchema,
    Role, ToolCall, ToolEffect, ToolExecution, ToolResult, ToolSpec,
};
pub use metrics::{Metrics, ModelUsage, RunMetrics, StepMetrics, Usage};
pub use mistakes::{SchemaMistake, schema_mistakes};
pub use nearest::nearest;
pub use outputs::Outputs;
pub use price::{LongPrice, Price, Prices};
pub use question::{ANSWER_LEN_MAX, Answer, Answered, AskingTeam, Follows, Question, QuestionKind, ToolAsked};
pub use redact::{Passage, REDACTED, Redactor, SECRET_LEN_MIN};
pub use retention::Retention;
pub use retry::Retry;
pub use run::{NestedWorkflow, NotCompleted, RunInfo, RunInput, RunOutput, RunStatus, WorkflowRunOutput, content_text};
pub use schema::{Unfit, check};
pub use secret::Secret;
pub use step::{Attachments, ExecutorKind, InputSchema, InvalidInput, StepIndex, StepInput, StepOutput, StepType};
pub use time::Timestamp;
pub use waiting::{Remedy, Waiting, WaitsFor};
pub use workflow::{
    Block, Blocking, Condition, ConditionNode, Definition, DefinitionBuilder, DefinitionSource, EventSettings,
    FieldType, ForEach, ForEachNode, Function, HumanReview, IntoVerdict, InvalidDefinition, Loop, LoopNode, Node,
    OnError, OnReject, OnTimeout, Parallel, ParallelNode, Registry, Router, RouterNode, Rule, Selection, Settings,
    Step, StepHistory, StepNode, Steps, StepsNode, Structure, UserInputField, Verdict, VerdictInput, WorkflowNode,
};
