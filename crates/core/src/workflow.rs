//! Workflows as data: a tree of steps, and the executors bound to its leaves.
//!
//! The tree is plain data, so it can be hashed, stored, drawn and compared; the executors are code and stay with the
//! process. A run is pinned to the hash of its tree. User functions are leaves, never orchestrators, so users have no
//! rules of determinism to keep.

use crate::failure::Failure;
use crate::id::{DefinitionId, slug};
use crate::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext, merge};
use crate::retry::Retry;
use crate::secret::Secret;
use crate::step::{ExecutorKind, InputSchema, InvalidInput, StepInput};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a failed step does to its run once its retries are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends ERROR.
    #[default]
    Fail,
    /// The step's output says that it failed, and the run goes on.
    Skip,
}

/// A leaf of the tree: one executor and how patiently it is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepNode {
    /// The step's name, unique among its siblings.
    pub name: Arc<str>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Arc<str>>,
    /// What runs inside.
    pub executor_type: ExecutorKind,
    /// Its name.
    pub executor_name: Arc<str>,
    /// How often it is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Longest time for one attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What its failure does.
    #[serde(default)]
    pub on_error: OnError,
}

/// A node of the tree: a step, or one of Agno's containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub enum Node {
    /// One step.
    Step(StepNode),
    /// A named sequence.
    Steps { name: Arc<str>, steps: Vec<Node> },
    /// Branches at the same time.
    Parallel { name: Arc<str>, steps: Vec<Node> },
    /// A sequence repeated until a verdict or `max_iterations`.
    Loop { name: Arc<str>, steps: Vec<Node>, max_iterations: u32 },
    /// One sequence or another, by a verdict.
    Condition { name: Arc<str>, steps: Vec<Node>, else_steps: Vec<Node> },
    /// Some of the choices, by a selection.
    Router { name: Arc<str>, choices: Vec<Node> },
    /// Another workflow.
    Workflow { name: Arc<str>, workflow_id: DefinitionId, steps: Vec<Node> },
}

impl Node {
    /// The node's name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Node::Step(StepNode { name, .. })
            | Node::Steps { name, .. }
            | Node::Parallel { name, .. }
            | Node::Loop { name, .. }
            | Node::Condition { name, .. }
            | Node::Router { name, .. }
            | Node::Workflow { name, .. } => name,
        }
    }

    /// Agno's word for the kind of node.
    pub fn kind(&self) -> &'static str {
        match self {
            Node::Step(_) => "Step",
            Node::Steps { .. } => "Steps",
            Node::Parallel { .. } => "Parallel",
            Node::Loop { .. } => "Loop",
            Node::Condition { .. } => "Condition",
            Node::Router { .. } => "Router",
            Node::Workflow { .. } => "Workflow",
        }
    }
}

/// An async function as an executor, under its own name; [`Step::function`] names it after its step.
///
/// ```
/// use outlive_core::{Failure, Function, Step};
/// let upper = Function::new("upper", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// let step = Step::new("first").executor(upper);
/// ```
pub struct Function<F> {
    name: Arc<str>,
    function: F,
}

impl<F, T, R> Function<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, Failure>> + Send + 'static,
    T: Into<crate::step::StepOutput> + 'static,
{
    /// The function, under the name that outputs and events give as `executor_name`.
    pub fn new(name: impl AsRef<str>, function: F) -> Self {
        Self { name: Arc::from(name.as_ref()), function }
    }
}

impl<F> fmt::Debug for Function<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F, T, R> Executor for Function<F>
where
    F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, Failure>> + Send + 'static,
    T: Into<crate::step::StepOutput>,
{
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Function, name: self.name.clone(), id: None }
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        let work = (self.function)(context, input);
        Box::pin(async move { Ok(Executed::from(work.await?.into())) })
    }
}

/// A step under construction: a name, one executor, and how patiently it is run.
///
/// A step whose output is stored is never executed again. A function step that was in flight at a crash is executed
/// again (at least once), so a side effect in it should carry [`StepContext::idempotency_key`]. Inside an agent or team
/// step every model call and every tool call is recorded on its own, so a crash repeats one call, not the conversation.
#[must_use]
pub struct Step {
    name: Arc<str>,
    description: Option<Arc<str>>,
    executors: Vec<Arc<dyn Executor>>,
    retry: Retry,
    timeout: Option<Duration>,
    on_error: OnError,
}

impl Step {
    /// A step of this name. Give it an agent, a team or a function.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: Arc::from(name.as_ref()),
            description: None,
            executors: Vec::new(),
            retry: Retry::default(),
            timeout: None,
            on_error: OnError::default(),
        }
    }

    /// A step that runs an async function over the step's context and input.
    ///
    /// ```
    /// use outlive_core::{Failure, Step};
    /// let shout = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
    /// ```
    pub fn function<F, T, R>(name: impl AsRef<str>, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<crate::step::StepOutput> + 'static,
    {
        let name: Arc<str> = Arc::from(name.as_ref());
        Self::new(&name).executor(Function { name, function })
    }

    /// What the step is for.
    pub fn description(mut self, text: impl AsRef<str>) -> Self {
        self.description = Some(Arc::from(text.as_ref()));
        self
    }

    /// Runs this agent.
    pub fn agent(self, agent: impl Executor) -> Self {
        self.executor(agent)
    }

    /// Runs this team.
    pub fn team(self, team: impl Executor) -> Self {
        self.executor(team)
    }

    /// Runs anything that can be run.
    pub fn executor(mut self, executor: impl Executor) -> Self {
        self.executors.push(Arc::new(executor));
        self
    }

    /// How often a failed attempt is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Longest time for one attempt; a longer one fails with a timeout, which counts as retryable.
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.timeout = Some(longest);
        self
    }

    /// What the step's failure does to the run.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A workflow as an engine runs it: the tree, its hash, and the executors of its leaves.
pub struct Definition {
    /// Its id.
    pub id: DefinitionId,
    /// Its name.
    pub name: Arc<str>,
    /// What it is for.
    pub description: Option<Arc<str>>,
    /// The tree.
    pub nodes: Arc<[Node]>,
    /// Longest time for a whole run, from its first claim on, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Hash of id, tree and time limit: a run is pinned to it.
    pub hash: Arc<str>,
    /// State new sessions start with.
    pub session_state: Map<String, Value>,
    /// What inputs must look like; when absent, anything will do.
    pub input_schema: Option<InputSchema>,
    /// The workflow was given as one function: its only step is that function, not a step the user named.
    pub is_function: bool,
    executors: Vec<Arc<dyn Executor>>,
}

impl Definition {
    /// Starts a definition.
    pub fn builder(name: impl AsRef<str>) -> DefinitionBuilder {
        DefinitionBuilder {
            name: Arc::from(name.as_ref()),
            id: None,
            description: None,
            timeout: None,
            session_state: Map::new(),
            input_schema: None,
            is_function: false,
            steps: Vec::new(),
        }
    }

    /// Starts the definition that runs an agent or a team by itself, as a workflow of one step: its name is the
    /// executor's, its id `agent:ID` or `team:ID`.
    pub fn of(executor: impl Executor) -> DefinitionBuilder {
        let info = executor.info();
        let builder = Self::builder(&info.name).step(Step::new(&info.name).executor(executor));
        match info.id {
            Some(id) => builder.id(format!("{}:{id}", info.kind.as_str())),
            // An executor without an id reports that among its problems, which `build()` returns.
            None => builder,
        }
    }

    /// The input as the steps are to see it: checked and read by the input schema if there is one, else as it is.
    ///
    /// # Errors
    /// [`InvalidInput`] when it does not fit; the run should be refused before it exists.
    pub fn accept_input(&self, input: Option<Value>) -> Result<Option<Value>, InvalidInput> {
        match &self.input_schema {
            Some(schema) => schema.read(input).map(Some),
            None => Ok(input),
        }
    }

    /// What a session starts with when a run of this workflow creates it: the workflow's state, with the run's `own`
    /// laid over it key by key; null removes. None when that leaves nothing.
    pub fn initial_state(&self, own: Option<Map<String, Value>>) -> Option<Map<String, Value>> {
        if self.session_state.is_empty() {
            return own;
        }
        let mut state = self.session_state.clone();
        merge(&mut state, &own.unwrap_or_default());
        Some(state)
    }

    /// The secrets its steps work with, which must not be stored.
    pub fn secrets(&self) -> impl Iterator<Item = Secret> {
        self.executors.iter().flat_map(|executor| executor.secrets())
    }

    /// The executor of the step at this place in the top-level sequence.
    pub fn executor(&self, step: usize) -> Option<&Arc<dyn Executor>> {
        self.executors.get(step)
    }
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Definition").field("id", &self.id).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// Everything wrong with a definition, at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workflow {name:?} cannot be built: {}", .problems.join("; "))]
pub struct InvalidDefinition {
    /// The workflow.
    pub name: Arc<str>,
    /// What is wrong, one line each.
    pub problems: Vec<String>,
}

/// A definition under construction.
#[must_use]
#[derive(Debug)]
pub struct DefinitionBuilder {
    name: Arc<str>,
    id: Option<String>,
    description: Option<Arc<str>>,
    timeout: Option<Duration>,
    session_state: Map<String, Value>,
    input_schema: Option<InputSchema>,
    is_function: bool,
    steps: Vec<Step>,
}

impl DefinitionBuilder {
    /// Chooses the id; otherwise it is made from the name.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// What the workflow is for.
    pub fn description(mut self, text: impl AsRef<str>) -> Self {
        self.description = Some(Arc::from(text.as_ref()));
        self
    }

    /// Longest time for a whole run, from its first claim on; a longer one ends ERROR.
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.timeout = Some(longest);
        self
    }

    /// State new sessions start with; a run's own is laid over it.
    pub fn session_state(mut self, state: Map<String, Value>) -> Self {
        self.session_state = state;
        self
    }

    /// What inputs must look like.
    pub fn input_schema(mut self, schema: InputSchema) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// Adds a step after the ones before.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Makes the whole workflow one async function, in one step named after the workflow.
    pub fn function<F, T, R>(mut self, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<crate::step::StepOutput> + 'static,
    {
        self.is_function = true;
        let step = Step::function(&self.name, function);
        self.step(step)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`InvalidDefinition`] lists every problem: no steps, a name given twice, a step with no executor or with two,
    /// steps besides the one function of a workflow, what an executor reports about itself (a missing key, an empty
    /// team).
    pub fn build(self) -> Result<Definition, InvalidDefinition> {
        let mut problems = Vec::new();
        let id = self.id.unwrap_or_else(|| slug(&self.name));
        let id = DefinitionId::parse(&id).map_err(|e| problems.push(e.to_string())).ok();
        if self.steps.is_empty() {
            problems.push("it has no steps: add one with .step(..)".to_owned());
        }
        if self.is_function && self.steps.len() > 1 {
            problems
                .push("it is one function and has steps too: make the function a step, or leave them out".to_owned());
        }
        let mut names = BTreeSet::new();
        let mut nodes = Vec::new();
        let mut executors = Vec::new();
        for step in self.steps {
            if step.name.trim().is_empty() {
                problems.push("a step has an empty name".to_owned());
            }
            if !names.insert(step.name.clone()) {
                problems.push(format!("two steps are named {:?}: names identify steps, give each its own", step.name));
            }
            let [executor] = step.executors.as_slice() else {
                let count = step.executors.len();
                problems
                    .push(format!("step {:?} has {count} executors: give it one agent, team or function", step.name));
                continue;
            };
            problems.extend(executor.problems().into_iter().map(|p| format!("step {:?}: {p}", step.name)));
            let info = executor.info();
            nodes.push(Node::Step(StepNode {
                name: step.name,
                description: step.description,
                executor_type: info.kind,
                executor_name: info.name,
                retry: step.retry,
                timeout_ms: step.timeout.map(millis),
                on_error: step.on_error,
            }));
            executors.push(executor.clone());
        }
        let (Some(id), true) = (id, problems.is_empty()) else {
            return Err(InvalidDefinition { name: self.name, problems });
        };
        let timeout_ms = self.timeout.map(millis);
        let hash = hash(&id, &nodes, timeout_ms);
        let nodes = Arc::from(nodes);
        Ok(Definition {
            id,
            name: self.name,
            description: self.description,
            nodes,
            timeout_ms,
            hash,
            session_state: self.session_state,
            input_schema: self.input_schema,
            is_function: self.is_function,
            executors,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn hash(id: &DefinitionId, nodes: &[Node], timeout_ms: Option<u64>) -> Arc<str> {
    let text = serde_json::to_string(&(id, nodes, timeout_ms)).expect("a tree has string keys only");
    Arc::from(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string())
}
