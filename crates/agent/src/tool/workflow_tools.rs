//! `WorkflowTools`: a workflow as a tool of an agent, with two more to think before and after.
//!
//! In a step, the workflow is executed inside the run, under the call's key; an agent that runs alone starts a run of the
//! workflow's own, where it was given with its database. It must never know how either is done.

use super::{IntoTools, Tool, ToolContext, ToolError, ToolFunction};
use outlive_core::port::BoxFuture;
use outlive_core::{Definition, Failure, FailureKind, ToolSpec};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where thoughts are kept in the session's state.
const THOUGHTS: &str = "workflow_thoughts";

/// Starts a run of a workflow by itself: what it is asked, its `additional_data`, and a key that is the same for every
/// repetition of the call.
type Runner =
    dyn Fn(Value, Option<Value>, Arc<str>) -> BoxFuture<'static, Result<String, Failure>> + Send + Sync + 'static;

/// A workflow that a tool stands for.
#[derive(Clone)]
pub struct CalledWorkflow {
    definition: Arc<Definition>,
    runner: Option<Arc<Runner>>,
}

impl CalledWorkflow {
    /// Has `runner` run it where an agent that runs alone calls it; without one, such a call is an error.
    #[must_use]
    pub fn with_runner<R>(self, runner: impl Fn(Value, Option<Value>, Arc<str>) -> R + Send + Sync + 'static) -> Self
    where
        R: Future<Output = Result<String, Failure>> + Send + 'static,
    {
        let runner = move |input, data, key| -> BoxFuture<'static, _> { Box::pin(runner(input, data, key)) };
        Self { runner: Some(Arc::new(runner)), ..self }
    }
}

impl From<Arc<Definition>> for CalledWorkflow {
    fn from(definition: Arc<Definition>) -> Self {
        Self { definition, runner: None }
    }
}

impl fmt::Debug for CalledWorkflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CalledWorkflow").field("id", &self.definition.id).finish_non_exhaustive()
    }
}

/// A workflow as a tool of an agent: `run_workflow`, with `think` before and `analyze` after, named and taking what
/// Agno's do.
///
/// In a step, the workflow is executed inside the run, as a workflow in a step is: its steps are recorded one by one, its
/// questions pause the run, a cancel reaches it, and its outputs stand inside the step's. What it changes in the
/// session's state is the call's. When something in it fails for good, the model is told why. An agent that runs alone
/// starts a run of the workflow's own, if the workflow was given with its database.
///
/// ```
/// use outlive_agent::tool::{IntoTools, WorkflowTools};
/// use outlive_core::{Definition, Failure, Step};
/// use std::sync::Arc;
///
/// let shout = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// let workflow = Arc::new(Definition::builder("Shouting").description("Shouts.").step(shout).build().unwrap());
/// assert_eq!(WorkflowTools::new(workflow.clone()).into_tools().len(), 3);
/// assert_eq!(WorkflowTools::new(workflow).enable_think(false).enable_analyze(false).into_tools().len(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct WorkflowTools {
    workflow: CalledWorkflow,
    thinks: bool,
    runs: bool,
    analyzes: bool,
    few_shot: Option<String>,
    timeout: Option<Duration>,
}

impl WorkflowTools {
    /// Tools for this workflow: a definition, or a workflow with its database.
    pub fn new(workflow: impl Into<CalledWorkflow>) -> Self {
        let workflow = workflow.into();
        Self { workflow, thinks: true, runs: true, analyzes: true, few_shot: None, timeout: None }
    }

    /// Whether there is a tool to think in before a call; on unless set.
    pub fn enable_think(self, wanted: bool) -> Self {
        Self { thinks: wanted, ..self }
    }

    /// Whether there is the tool that has the workflow executed; on unless set.
    pub fn enable_run_workflow(self, wanted: bool) -> Self {
        Self { runs: wanted, ..self }
    }

    /// Whether there is a tool to judge in what came of a call; on unless set.
    pub fn enable_analyze(self, wanted: bool) -> Self {
        Self { analyzes: wanted, ..self }
    }

    /// Examples of how to use the tools, shown to the model with them. Agno's `add_few_shot` and `few_shot_examples`.
    pub fn few_shot_examples(self, examples: impl Into<String>) -> Self {
        Self { few_shot: Some(examples.into()), ..self }
    }

    /// How long the workflow may take; no limit unless set.
    pub fn timeout(self, longest: Duration) -> Self {
        Self { timeout: Some(longest), ..self }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Thought {
    /// What you think: what is asked, what the workflow needs to know, what to do next.
    thought: String,
}

#[derive(Deserialize, JsonSchema)]
struct Analysis {
    /// What you make of the result: whether it is complete and right, and what to do next.
    analysis: String,
}

impl IntoTools for WorkflowTools {
    fn into_tools(self) -> Vec<Tool> {
        let mut tools = Vec::new();
        if self.thinks {
            let about = "Thinks before the workflow is run, and between runs. Nobody but you reads it.";
            tools.push(Tool::new("think", about, |given: Thought, context: ToolContext| async move {
                Ok::<_, Failure>(noted(&context, "thought", given.thought))
            }));
        }
        if self.runs {
            let timeout = self.timeout;
            tools.push(Tool::from_function(RunWorkflow::new(self.workflow, self.few_shot)).timeout(timeout));
        }
        if self.analyzes {
            let about = "Judges what a run of the workflow came to. Nobody but you reads it.";
            tools.push(Tool::new("analyze", about, |given: Analysis, context: ToolContext| async move {
                Ok::<_, Failure>(noted(&context, "analysis", given.analysis))
            }));
        }
        tools
    }
}

/// Keeps a thought in the session, and shows all that are there.
fn noted(context: &ToolContext, kind: &str, text: String) -> Value {
    let mut thoughts = match context.session_state.get(THOUGHTS) {
        Some(Value::Array(thoughts)) => thoughts,
        _ => Vec::new(),
    };
    thoughts.push(json!({ kind: text }));
    context.session_state.set(THOUGHTS, thoughts.clone());
    Value::Array(thoughts)
}

struct RunWorkflow {
    workflow: CalledWorkflow,
    spec: ToolSpec,
}

impl RunWorkflow {
    fn new(workflow: CalledWorkflow, few_shot: Option<String>) -> Self {
        let Definition { name, description, input_schema, .. } = &*workflow.definition;
        let about = description.as_deref().map(|about| format!(": {about}")).unwrap_or_default();
        let examples = few_shot.map(|examples| format!("\n\n{examples}")).unwrap_or_default();
        let input = match input_schema {
            Some(schema) => schema.schema.clone(),
            None => json!({ "type": "string", "description": "What the workflow is to work on: it sees nothing else" }),
        };
        let data = json!({
            "type": ["object", "null"],
            "description": "More for its steps to know, by name",
            "additionalProperties": true,
        });
        let spec = ToolSpec {
            name: "run_workflow".to_owned(),
            description: format!("Runs the workflow {name:?}{about}, and returns its result.{examples}"),
            parameters: json!({
                "type": "object",
                "properties": { "input_data": input, "additional_data": data },
                "required": ["input_data"],
                "additionalProperties": false,
            }),
        };
        Self { workflow, spec }
    }
}

impl ToolFunction for RunWorkflow {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn workflow(&self) -> Option<Arc<Definition>> {
        Some(self.workflow.definition.clone())
    }

    fn asks_workflow(&self, arguments: &Value) -> Result<(Value, Option<Value>), String> {
        let input = arguments.get("input_data").filter(|input| !input.is_null()).ok_or("input_data is missing")?;
        let data = arguments.get("additional_data").filter(|data| !data.is_null());
        Ok((input.clone(), data.cloned()))
    }

    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        Box::pin(async move {
            let (input, data) = self.asks_workflow(&arguments).map_err(ToolError::Arguments)?;
            let Some(runner) = &self.workflow.runner else {
                let problem =
                    "the workflow has no database to run in: give it as a Workflow, or the agent to a workflow";
                return Err(ToolError::Failed(Failure::new(FailureKind::Definition, problem)));
            };
            runner(input, data, context.idempotency_key).await.map_err(ToolError::Failed)
        })
    }
}
