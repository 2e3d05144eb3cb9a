//! Workflows as data: a tree of steps and containers, and the code bound to it.
//!
//! ```text
//! Step, Steps, Parallel, ForEach, Loop, Condition, Router ──build()──► Node (data) + Code (executors, judges)
//! ```
//! The tree is plain data, so it can be hashed, stored, drawn and compared; executors and judges are code and stay with
//! the process. Both are found by the same keys. A run is pinned to the hash of its tree. User functions are leaves or
//! verdicts, never orchestrators, so users have no rules of determinism to keep.

mod condition;
mod container;
mod data;
mod for_each;
mod judge;
mod nested;
mod node;
mod parallel;
mod registry;
mod remember;
mod repeat;
mod review;
mod router;
mod shown;
mod source;
mod step;
mod steps;

pub use condition::{Condition, ConditionNode};
pub(crate) use container::{Container, Next};
pub use data::Structure;
pub use for_each::{ForEach, ForEachNode};
pub use judge::{IntoVerdict, Rule, Verdict, VerdictInput};
pub use nested::WorkflowNode;
pub(crate) use node::Path;
pub use node::{Node, Settings};
pub use parallel::{Parallel, ParallelNode};
pub use registry::Registry;
use remember::Remembering;
pub use remember::StepHistory;
pub use repeat::{Loop, LoopNode};
pub use review::{FieldType, HumanReview, OnReject, OnTimeout, UserInputField};
pub use router::{Router, RouterNode, Selection};
pub use shown::EventSettings;
pub use source::DefinitionSource;
pub use step::{Blocking, Function, OnError, Step, StepNode};
pub use steps::{Steps, StepsNode};

use crate::budget::{Budget, Spending};
use crate::cel::{Cel, Scope};
use crate::failure::Failure;
use crate::id::{DefinitionId, slug};
use crate::log::Key;
use crate::port::{BoxFuture, Executor, ExecutorInfo, SessionPolicy, StepContext, laid_over, merge};
use crate::price::Prices;
use crate::retention::Retention;
use crate::retry::Retry;
use crate::secret::Secret;
use crate::step::{ExecutorKind, InputSchema, InvalidInput, StepInput, StepOutput};
use judge::{Decider, Judge};
use node::walk;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Containers inside each other, at most.
const DEPTH_MAX: usize = 32;
/// Steps and containers of a workflow, with those of the workflows inside it: a few that have each other executed twice
/// would be more than any machine holds.
const NODES_MAX: usize = 10_000;

/// A step or a container under construction: what a workflow and every container is made of.
#[must_use]
#[derive(Debug)]
#[expect(missing_docs, reason = "the variants are the builders")]
pub enum Block {
    Step(Box<Step>),
    Steps(Steps),
    Parallel(Parallel),
    Loop(Loop),
    Condition(Condition),
    Router(Router),
    ForEach(ForEach),
}

/// Methods that every container has.
macro_rules! container_settings {
    () => {
        /// What it is for.
        pub fn description(mut self, text: impl AsRef<str>) -> Self {
            self.settings.description = Some(std::sync::Arc::from(text.as_ref()));
            self
        }

        /// How often it is tried again as a whole when something in it has failed for good. It then forgets what was
        /// done inside.
        pub fn retry(mut self, retry: $crate::Retry) -> Self {
            self.settings.retry = retry;
            self
        }

        /// Longest time for one attempt at it; what is then in progress inside is dropped.
        pub fn timeout(mut self, longest: std::time::Duration) -> Self {
            self.settings.timeout_ms = Some(super::millis(longest));
            self
        }

        /// What its failure does to what it is in.
        pub fn on_error(mut self, on_error: super::OnError) -> Self {
            self.settings.on_error = on_error;
            self
        }

        /// Where it asks a person.
        pub fn human_review(mut self, review: super::HumanReview) -> Self {
            self.settings.review = Some(std::sync::Arc::new(review));
            self
        }
    };
}
use container_settings;

impl Settings {
    fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: Arc::from(name.as_ref()),
            description: None,
            retry: Retry::default(),
            timeout_ms: None,
            on_error: OnError::default(),
            review: None,
        }
    }
}

impl From<Step> for Block {
    fn from(step: Step) -> Self {
        Self::Step(Box::new(step))
    }
}

impl From<Steps> for Block {
    fn from(steps: Steps) -> Self {
        Self::Steps(steps)
    }
}

impl From<Parallel> for Block {
    fn from(parallel: Parallel) -> Self {
        Self::Parallel(parallel)
    }
}

impl From<Loop> for Block {
    fn from(repeated: Loop) -> Self {
        Self::Loop(repeated)
    }
}

impl From<Condition> for Block {
    fn from(condition: Condition) -> Self {
        Self::Condition(condition)
    }
}

impl From<Router> for Block {
    fn from(router: Router) -> Self {
        Self::Router(router)
    }
}

impl From<ForEach> for Block {
    fn from(each: ForEach) -> Self {
        Self::ForEach(each)
    }
}

/// A workflow as a step of another, named after it.
impl From<Arc<Definition>> for Block {
    fn from(workflow: Arc<Definition>) -> Self {
        Step::new(&workflow.name).workflow(workflow).into()
    }
}

/// The code of a node, in a tree of the same shape.
#[derive(Clone)]
enum Code {
    Step { executor: Arc<dyn Executor>, workflows: Arc<[Code]> },
    Container { judge: Option<Arc<Judge>>, children: Arc<[Code]>, others: Arc<[Code]> },
}

impl Code {
    fn find<'a>(codes: &'a [Code], key: &Key) -> Option<&'a Code> {
        let called = |code: &'a Code| code.workflows();
        walk(codes, key, |list: &'a [Code], place| list.get(place), |code, other| code.children(other), called)
    }

    /// Of the workflows that calls inside a step may have executed.
    fn workflows(&self) -> &[Code] {
        match self {
            Code::Step { workflows, .. } => workflows,
            Code::Container { .. } => &[],
        }
    }

    fn children(&self, other: bool) -> &[Code] {
        match self {
            Code::Step { .. } => &[],
            Code::Container { others, .. } if other => others,
            Code::Container { children, .. } => children,
        }
    }

    fn executors<'a>(codes: &'a [Code]) -> Box<dyn Iterator<Item = &'a Arc<dyn Executor>> + 'a> {
        Box::new(codes.iter().flat_map(|code| {
            let own = match code {
                Code::Step { executor, .. } => Some(executor),
                Code::Container { .. } => None,
            };
            let inside = [code.children(false), code.children(true), code.workflows()];
            own.into_iter().chain(inside.into_iter().flat_map(Self::executors))
        }))
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
    /// The agent that leads it, if one does: a step beside the tree.
    pub leader: Option<Arc<Node>>,
    /// Longest time for a whole run, from its first claim on, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How many of its runs with the same key may execute at once, over all workers of a store.
    pub concurrency: Option<u32>,
    /// How long its runs that have ended are kept, beside what the database's own limits say.
    pub retention: Retention,
    /// Hash of id, tree and time limit: a run is pinned to it.
    pub hash: Arc<str>,
    /// What the hash covers, as JSON text.
    pub structure: Arc<str>,
    /// The text that it was read from, if it was.
    pub source: Option<DefinitionSource>,
    /// State new sessions start with.
    pub session_state: Map<String, Value>,
    /// What happens to a run that does not say itself, when its session has an unfinished one.
    pub session_policy: SessionPolicy,
    /// The id of the agent or the team that hears messages which do not say themselves who is to; none for whoever executes.
    pub steer_to: Option<Arc<str>>,
    /// What inputs must look like; when absent, anything will do.
    pub input_schema: Option<InputSchema>,
    /// Which events of its runs are shown.
    pub events: EventSettings,
    /// What its runs may use, and what models cost; none when nothing of it is limited or counted.
    pub spending: Option<Arc<Spending>>,
    /// The workflow was given as one function: its only step is that function, not a step the user named.
    pub is_function: bool,
    remembering: Remembering,
    codes: Arc<[Code]>,
    leads: Option<Arc<dyn Executor>>,
}

impl Definition {
    /// Starts a definition.
    pub fn builder(name: impl AsRef<str>) -> DefinitionBuilder {
        DefinitionBuilder {
            name: Arc::from(name.as_ref()),
            id: None,
            description: None,
            timeout: None,
            concurrency: None,
            retention: Retention::new(),
            session_state: Map::new(),
            session_policy: SessionPolicy::default(),
            steer_to: None,
            input_schema: None,
            events: EventSettings::default(),
            budgets: Vec::new(),
            prices: None,
            is_function: false,
            leader: None,
            remembering: Remembering::default(),
            source: None,
            inspects: false,
            steps: Vec::new(),
            problems: Vec::new(),
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

    /// Everything but the code, in the shape of Agno's `to_dict`: functions, agents and teams are named in it.
    /// [`Definition::from_json`] reads it.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        let mut put = |key: &str, value: Option<Value>| fields.extend(value.map(|value| (key.to_owned(), value)));
        put("name", Some(self.name.to_string().into()));
        put("id", Some(self.id.to_string().into()));
        put("description", self.description.as_ref().map(|text| text.to_string().into()));
        put("session_state", Some(self.session_state.clone()).filter(|state| !state.is_empty()).map(Value::Object));
        let policy = Some(self.session_policy).filter(|policy| *policy != SessionPolicy::default());
        put("session_policy", policy.map(|policy| policy.as_str().into()));
        put("steer_to", self.steer_to.as_ref().map(|id| id.to_string().into()));
        put("input_schema", self.input_schema.as_ref().map(|schema| schema.schema.clone()));
        put("timeout_ms", self.timeout_ms.map(Value::from));
        let EventSettings { stream_executor_events, store_events, events_to_skip } = &self.events;
        put("stream_executor_events", (!stream_executor_events).then_some(Value::Bool(false)));
        put("store_events", store_events.then_some(Value::Bool(true)));
        let skipped: Value = events_to_skip.iter().map(|name| Value::from(&**name)).collect();
        put("events_to_skip", Some(skipped).filter(|_| !events_to_skip.is_empty()));
        put("concurrency", self.concurrency.map(Value::from));
        let budgets = self.spending.iter().flat_map(|spending| &spending.budgets);
        let budgets: Value = budgets.map(|budget| serde_json::to_value(budget).expect("a budget is JSON")).collect();
        put("budgets", Some(budgets).filter(|budgets| budgets.as_array().is_some_and(|all| !all.is_empty())));
        put("is_function", self.is_function.then_some(Value::Bool(true)));
        put("source", self.source.as_ref().map(|source| source.text.to_string().into()));
        put("agent", self.leader.as_deref().map(data::leader));
        put("steps", Some(serde_json::to_value(&*self.nodes).expect("a tree has string keys only")));
        Value::Object(fields)
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
    /// [laid over](laid_over) it. None when that leaves nothing.
    pub fn initial_state(&self, own: Option<Map<String, Value>>) -> Option<Map<String, Value>> {
        let mut state = self.session_state.clone();
        let laid = laid_over(&state, &own.unwrap_or_default());
        merge(&mut state, &laid);
        Some(state).filter(|state| !state.is_empty())
    }

    /// The secrets its steps work with, which must not be stored.
    pub fn secrets(&self) -> impl Iterator<Item = Secret> {
        Code::executors(&self.codes).chain(&self.leads).flat_map(|executor| executor.secrets())
    }

    /// What a run was asked, with everything masked that a guardrail before one of its agents or teams would mask.
    pub fn masked(&self, input: Value) -> Value {
        Code::executors(&self.codes).chain(&self.leads).fold(input, |input, executor| executor.masked(input))
    }

    /// The steps of its tree, each with its executor; not those of workflows that calls inside a step may have executed.
    pub fn steps(&self) -> Vec<(&StepNode, &Arc<dyn Executor>)> {
        fn collect<'a>(nodes: &'a [Node], codes: &'a [Code], all: &mut Vec<(&'a StepNode, &'a Arc<dyn Executor>)>) {
            for (node, code) in nodes.iter().zip(codes) {
                match (node, code) {
                    (Node::Step(step), Code::Step { executor, .. }) => all.push((step, executor)),
                    _ => [false, true]
                        .into_iter()
                        .for_each(|other| collect(node.children(other), code.children(other), all)),
                }
            }
        }
        let mut all = Vec::new();
        collect(&self.nodes, &self.codes, &mut all);
        all
    }

    /// The executor of the step with this key, or of the leader.
    pub fn executor(&self, key: &Key) -> Option<&Arc<dyn Executor>> {
        if self.leads.is_some() && *key == Key::leader() {
            return self.leads.as_ref();
        }
        match Code::find(&self.codes, key)? {
            Code::Step { executor, .. } => Some(executor),
            Code::Container { .. } => None,
        }
    }

    /// Asks the code of the container with this key for its verdict; none when it has none.
    pub fn judge(&self, key: &Key, given: VerdictInput) -> Option<BoxFuture<'static, Result<Verdict, Failure>>> {
        match Code::find(&self.codes, key)? {
            Code::Container { judge, .. } => judge.as_ref().map(|judge| judge(given)),
            Code::Step { .. } => None,
        }
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
    concurrency: Option<u32>,
    retention: Retention,
    session_state: Map<String, Value>,
    session_policy: SessionPolicy,
    steer_to: Option<Arc<str>>,
    input_schema: Option<InputSchema>,
    events: EventSettings,
    budgets: Vec<Budget>,
    prices: Option<Arc<Prices>>,
    is_function: bool,
    leader: Option<Box<Step>>,
    remembering: Remembering,
    source: Option<DefinitionSource>,
    inspects: bool,
    steps: Vec<Block>,
    /// Known before it is built.
    problems: Vec<String>,
}

impl DefinitionBuilder {
    /// The name it has so far.
    pub fn current_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Gives it another name.
    pub fn name(mut self, name: impl AsRef<str>) -> Self {
        self.name = Arc::from(name.as_ref());
        self
    }

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

    /// At most this many of its runs execute at once, over all workers of a store; of runs with a key, this many with each
    /// key. The others wait until one has ended or is PAUSED: those with a higher priority go first, then those accepted
    /// first.
    pub fn concurrency(mut self, most: u32) -> Self {
        self.concurrency = Some(most);
        self
    }

    /// How long its runs that have ended are kept, by age and by count. The database's own limits hold as well. It is no
    /// part of what runs are pinned to: a new one applies to earlier runs too.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// State new sessions start with; a run's own is laid over it.
    pub fn session_state(mut self, state: Map<String, Value>) -> Self {
        self.session_state = state;
        self
    }

    /// What happens to a run that does not say itself, when its session has an unfinished one; it waits unless set. It is
    /// no part of what runs are pinned to.
    pub fn session_policy(mut self, policy: SessionPolicy) -> Self {
        self.session_policy = policy;
        self
    }

    /// The id of the agent or the team that hears messages which do not say themselves who is to hear them; the agent, or
    /// the team's leader, that executes unless set.
    pub fn steer_to(mut self, id: impl AsRef<str>) -> Self {
        self.steer_to = Some(Arc::from(id.as_ref()));
        self
    }

    /// What inputs must look like.
    pub fn input_schema(mut self, schema: InputSchema) -> Self {
        self.input_schema = Some(schema);
        self
    }

    /// Has an agent lead the workflow: it is asked first, and either answers itself, from what the session remembers, or
    /// has the steps executed on a query of its own. Agno's `agent`.
    pub fn agent(mut self, agent: impl Executor) -> Self {
        let name = agent.info().name;
        self.leader = Some(Box::new(Step::new(name).agent(agent)));
        self
    }

    /// Whether steps see what earlier runs of their session were asked and came to, unless they say otherwise; off
    /// unless set. Agents and teams are told in front of what they are asked, functions find it in their
    /// [input](StepInput::workflow_history). Steps of nested workflows that say nothing see it too.
    pub fn add_workflow_history_to_steps(mut self, wanted: bool) -> Self {
        self.remembering.wish.add = Some(wanted);
        self
    }

    /// How many earlier runs steps see; 3 unless set.
    pub fn num_history_runs(mut self, runs: u32) -> Self {
        self.remembering.wish.num_runs = Some(runs);
        self
    }

    /// About how many tokens the earlier runs that a step sees may take, at four bytes each: the oldest are left out
    /// first. No limit unless set.
    pub fn history_max_tokens(mut self, tokens: u32) -> Self {
        self.remembering.wish.max_tokens = Some(tokens);
        self
    }

    /// Has the runs that are too old to be shown, or do not fit, summed up by this executor: an agent that is given them
    /// and says what matters. The summary is kept in the session's state, as `session_summary`, so that each run adds only
    /// what is new.
    pub fn summarize_history(mut self, summarizer: impl Executor) -> Self {
        self.remembering.wish.is_summarized = true;
        self.remembering.summarizer = Some(Arc::new(summarizer));
        self
    }

    /// Which events of its runs are shown.
    pub fn events(mut self, change: impl FnOnce(&mut EventSettings)) -> Self {
        change(&mut self.events);
        self
    }

    /// Limits what its runs may use, beside the budgets before.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budgets.push(budget);
        self
    }

    /// What models cost: their answers' cost is counted. Unless given, a budget of money goes by [`Prices::built_in`].
    pub fn prices(mut self, prices: impl Into<Arc<Prices>>) -> Self {
        self.prices = Some(prices.into());
        self
    }

    /// The text that it is read from. It is part of the hash, and stored with it.
    pub fn source(mut self, source: DefinitionSource) -> Self {
        self.source = Some(source);
        self
    }

    /// For looking at it alone: whatever its executors report about themselves, they are never asked to work.
    pub fn inspect(mut self) -> Self {
        self.inspects = true;
        self
    }

    /// Adds a step or a container after the ones before.
    pub fn step(mut self, step: impl Into<Block>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// Makes the whole workflow one async function, in one step named after the workflow.
    pub fn function<F, T, R>(mut self, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<StepOutput> + 'static,
    {
        self.is_function = true;
        let step = Step::function(&self.name, function);
        self.step(step)
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`InvalidDefinition`] lists every problem: no steps, a name given twice, a step with no executor or with two,
    /// an empty container, one without anything that decides, a mistake in an expression, steps besides the one function of a workflow, what an
    /// executor reports about itself (a missing key, an empty team).
    pub fn build(self) -> Result<Definition, InvalidDefinition> {
        let mut problems = self.problems;
        let id = self.id.unwrap_or_else(|| slug(&self.name));
        let id = DefinitionId::chosen(&id).map_err(|e| problems.push(e.to_string())).ok();
        if self.steps.is_empty() {
            problems.push("it has no steps: add one with .step(..)".to_owned());
        }
        if self.concurrency == Some(0) {
            problems.push("it lets no run execute: allow at least one with .concurrency(..)".to_owned());
        }
        problems.extend(self.retention.problem_of_workflow().map(str::to_owned));
        if self.is_function && self.steps.len() > 1 {
            problems
                .push("it is one function and has steps too: make the function a step, or leave them out".to_owned());
        }
        if self.leader.is_some() && self.input_schema.is_some() {
            let remedy = "leave the schema out, and let the first step read the query";
            problems.push(format!("the queries of an agent that leads it follow no input schema: {remedy}"));
        }
        let mut builder = TreeBuilder {
            problems: &mut problems,
            inside: Vec::new(),
            nodes: 0,
            remembering: self.remembering.clone(),
            inspects: self.inspects,
        };
        if let Some(summarizer) = &self.remembering.summarizer {
            builder.own_problems("its summarizer", &**summarizer);
        }
        let (nodes, codes) = builder.sequence(self.steps);
        // Whoever leads remembers by itself.
        builder.remembering = Remembering::default();
        let leader = self.leader.and_then(|leader| builder.leader(*leader));
        let summarizer = &self.remembering.summarizer;
        let executors = Code::executors(&codes).chain(leader.iter().map(|(_, leads)| leads)).chain(summarizer);
        let models: Vec<_> = executors.flat_map(|executor| executor.models()).collect();
        let spending = Spending::new(self.budgets, self.prices, &models);
        let spending = spending.unwrap_or_else(|found| {
            problems.extend(found);
            None
        });
        let (Some(id), true) = (id, problems.is_empty()) else {
            return Err(InvalidDefinition { name: self.name, problems });
        };
        let timeout_ms = self.timeout.map(millis);
        let (leader, leads) = leader.unzip();
        let source = self.source.as_ref().map(|source| source.text.clone());
        let Structure { id, nodes, leader, timeout_ms, hash, text, .. } =
            Structure::new(id, Arc::from(nodes), leader, timeout_ms, source);
        Ok(Definition {
            id,
            name: self.name,
            description: self.description,
            nodes,
            leader,
            leads,
            timeout_ms,
            concurrency: self.concurrency,
            retention: self.retention,
            hash,
            structure: text,
            source: self.source,
            session_state: self.session_state,
            session_policy: self.session_policy,
            steer_to: self.steer_to,
            input_schema: self.input_schema,
            events: self.events,
            spending,
            is_function: self.is_function,
            remembering: self.remembering,
            codes,
        })
    }
}

/// The id under which an agent or a team is found again; functions have none.
fn executor_id(info: &ExecutorInfo) -> Option<Arc<str>> {
    let is_named = matches!(info.kind, ExecutorKind::Agent | ExecutorKind::Team);
    is_named.then(|| info.id.as_ref().map_or_else(|| info.name.clone(), DefinitionId::to_shared))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Builds a tree, and notes what is wrong with it and where.
struct TreeBuilder<'a> {
    problems: &'a mut Vec<String>,
    /// The containers around, outermost first.
    inside: Vec<String>,
    /// How many nodes there are so far.
    nodes: usize,
    remembering: Remembering,
    inspects: bool,
}

impl TreeBuilder<'_> {
    /// What an executor reports about itself.
    fn own_problems(&mut self, whose: &str, executor: &dyn Executor) {
        if !self.inspects {
            executor.problems().iter().for_each(|problem| self.problem(&format!("{whose}: {problem}")));
        }
    }

    fn problem(&mut self, text: &str) {
        let place: Vec<_> = self.inside.iter().map(|container| format!("{container}: ")).collect();
        self.problems.push(format!("{}{text}", place.concat()));
    }

    /// Siblings: each has a name of its own.
    fn sequence(&mut self, blocks: Vec<Block>) -> (Vec<Node>, Arc<[Code]>) {
        let mut names = BTreeSet::new();
        let (mut nodes, mut codes) = (Vec::new(), Vec::new());
        for block in blocks {
            let name = block.name().clone();
            if name.trim().is_empty() {
                self.problem(&format!("a {} has an empty name", block.kind()));
            }
            if !names.insert(name.clone()) {
                self.problem(&format!("two steps are named {name:?}: names identify steps, give each its own"));
            }
            if let Some((node, code)) = self.block(block) {
                nodes.push(node);
                codes.push(code);
            }
        }
        (nodes, Arc::from(codes))
    }

    /// Whether there is room for so many more. That there is none is told once.
    fn has_room(&mut self, count: usize) -> bool {
        let is_known = self.nodes > NODES_MAX;
        self.nodes = self.nodes.saturating_add(count);
        if self.nodes > NODES_MAX && !is_known {
            self.problem(&format!(
                "there are more than {NODES_MAX} steps, those of inner workflows included: take it apart"
            ));
        }
        self.nodes <= NODES_MAX
    }

    fn block(&mut self, block: Block) -> Option<(Node, Code)> {
        if !self.has_room(1) {
            return None;
        }
        if let Block::Step(step) = block {
            return self.step(*step);
        }
        if self.inside.len() >= DEPTH_MAX {
            let outermost = &self.inside[0];
            let problem = format!("{outermost}: containers are nested more than {DEPTH_MAX} deep: take some apart");
            self.problems.push(problem);
            return None;
        }
        self.inside.push(format!("{} {:?}", block.kind(), block.name()));
        let built = match block {
            Block::Step(_) => None,
            Block::Steps(Steps { settings, steps }) => {
                let (steps, children) = self.filled("steps: add one with .step(..)", steps);
                Some((Node::Steps(StepsNode { settings, steps }), children, None, Arc::from([])))
            }
            Block::Parallel(Parallel { settings, steps }) => {
                let (steps, children) = self.filled("branches: add one with .step(..)", steps);
                Some((Node::Parallel(ParallelNode { settings, steps }), children, None, Arc::from([])))
            }
            Block::Loop(Loop { settings, max_iterations, until, forward, steps }) => {
                if max_iterations == 0 {
                    self.problem("it has no iterations: allow at least one with .max_iterations(..)");
                }
                let (steps, children) = self.filled("steps: add one with .step(..)", steps);
                let until = until.and_then(|until| self.compiled(until, Scope::EndCondition, &settings.name));
                let (until, judge) = until.unzip();
                let node = LoopNode { settings, max_iterations, until, forward_iteration_output: forward, steps };
                Some((Node::Loop(node), children, judge, Arc::from([])))
            }
            Block::Condition(Condition { settings, when, steps, else_steps }) => {
                // Whoever confirms it decides.
                let asks = settings.review.as_ref().is_some_and(|review| review.requires_confirmation);
                let when = when.or_else(|| asks.then_some(Decider::Always(true)));
                let decider = self.decider(when, "when", Scope::Condition, &settings.name);
                let (steps, children) = self.filled("steps: add one with .step(..)", steps);
                let (else_steps, others) = self.sequence(else_steps);
                decider.map(|(rule, judge)| {
                    let node = ConditionNode { settings, when: rule, steps, else_steps };
                    (Node::Condition(node), children, Some(judge), others)
                })
            }
            Block::Router(Router { settings, select, choices }) => {
                let asks = settings.review.as_ref().is_some_and(|review| review.requires_user_input);
                self.choices(select.as_ref(), &choices);
                let decider = match select {
                    None if asks => Some(None),
                    select => self.decider(select, "select", Scope::Router, &settings.name).map(Some),
                };
                let (choices, children) = self.filled("choices: add one with .choice(..)", choices);
                decider.map(|decider| {
                    let (select, judge) = decider.unzip();
                    (Node::Router(RouterNode { settings, select, choices }), children, judge, Arc::from([]))
                })
            }
            Block::ForEach(ForEach { settings, items, concurrency, steps }) => {
                if concurrency == 0 {
                    self.problem("it works on no item: allow at least one at a time with .concurrency(..)");
                }
                if steps.len() > 1 {
                    self.problem("it has several bodies: put them into one Steps");
                }
                let decider = self.decider(items, "items", Scope::Items, &settings.name);
                let (steps, children) = self.filled("body: add one with .step(..)", steps);
                decider.map(|(rule, judge)| {
                    let node = ForEachNode { settings, items: rule, concurrency, steps };
                    (Node::ForEach(node), children, Some(judge), Arc::from([]))
                })
            }
        };
        if let Some(node) = built.as_ref().map(|(node, ..)| node) {
            self.review(node);
        }
        self.inside.pop();
        built.map(|(node, children, judge, others)| (node, Code::Container { judge, children, others }))
    }

    /// What a node asks a person must be something that can be asked there.
    fn review(&mut self, node: &Node) {
        let Some(review) = node.review() else { return };
        for problem in review.problems(node) {
            self.problem(&format!("{}: {problem}", node.named()));
        }
    }

    /// The children of a container that needs some.
    fn filled(&mut self, what: &str, blocks: Vec<Block>) -> (Vec<Node>, Arc<[Code]>) {
        if blocks.is_empty() {
            self.problem(&format!("it has no {what}"));
        }
        self.sequence(blocks)
    }

    /// Whatever a selector has written out must be a choice.
    fn choices(&mut self, select: Option<&Decider>, choices: &[Block]) {
        let Some(Decider::Cel(text)) = select else { return };
        let Ok(cel) = Cel::compile(text, Scope::Router) else { return };
        let known: Vec<&str> = choices.iter().map(|choice| &**choice.name()).collect();
        for name in cel.texts().into_iter().filter(|name| !known.contains(name) && !known.is_empty()) {
            self.problem(&format!("it may choose {name:?}, which is not among its choices: {}", known.join(", ")));
        }
    }

    fn decider(
        &mut self,
        decider: Option<Decider>,
        method: &str,
        scope: Scope,
        container: &Arc<str>,
    ) -> Option<(Rule, Arc<Judge>)> {
        if decider.is_none() {
            self.problem(&format!("nothing decides for it: say how with .{method}(..)"));
        }
        decider.and_then(|decider| self.compiled(decider, scope, container))
    }

    fn compiled(&mut self, decider: Decider, scope: Scope, container: &Arc<str>) -> Option<(Rule, Arc<Judge>)> {
        decider.build(scope, container).map_err(|error| self.problem(&error.to_string())).ok()
    }

    fn step(&mut self, step: Step) -> Option<(Node, Code)> {
        let name = step.name.clone();
        let executor = match (step.executors.as_slice(), step.workflows.as_slice()) {
            ([executor], []) => executor,
            ([], [workflow]) => return self.workflow(&step, workflow),
            (executors, workflows) => {
                let count = executors.len() + workflows.len();
                let what = "give it one agent, team, function or workflow";
                self.problem(&format!("step {name:?} has {count} executors: {what}"));
                return None;
            }
        };
        self.own_problems(&format!("step {name:?}"), &**executor);
        let info = executor.info();
        let (workflows, codes) = self.called(&name, executor.workflows());
        let history = step.history.within(self.remembering.wish);
        let shown = self.remembering.show(history, executor);
        if let Err(problem) = &shown {
            self.problem(&format!("step {name:?}: {problem}"));
        }
        let node = Node::Step(StepNode {
            name,
            description: step.description,
            executor_type: info.kind,
            executor_id: executor_id(&info),
            executor_name: info.name,
            starts_once: executor.starts_once(),
            retry: step.retry,
            timeout_ms: step.timeout.map(millis),
            on_error: step.on_error,
            review: step.review,
            workflows,
            history,
        });
        self.review(&node);
        Some((node, Code::Step { executor: shown.unwrap_or_else(|_| executor.clone()), workflows: codes }))
    }

    /// The workflows that calls inside a step may have executed, each named after itself.
    fn called(&mut self, step: &str, workflows: Vec<Arc<Definition>>) -> (Vec<Node>, Arc<[Code]>) {
        self.inside.push(format!("step {step:?}"));
        let built = workflows.into_iter().filter_map(|workflow| self.workflow(&Step::new(&workflow.name), &workflow));
        let (nodes, codes): (Vec<_>, Vec<_>) = built.collect::<Vec<_>>().into_iter().unzip();
        self.inside.pop();
        (nodes, Arc::from(codes))
    }

    /// The agent that leads the workflow.
    fn leader(&mut self, step: Step) -> Option<(Arc<Node>, Arc<dyn Executor>)> {
        match self.step(step)? {
            (node @ Node::Step(StepNode { executor_type: ExecutorKind::Agent, .. }), Code::Step { executor, .. }) => {
                Some((Arc::new(node), executor))
            }
            (node, _) => {
                self.problem(&format!("only an agent can lead it, not {}", node.named()));
                None
            }
        }
    }

    fn workflow(&mut self, step: &Step, workflow: &Definition) -> Option<(Node, Code)> {
        if workflow.leader.is_some() {
            let remedy = "an agent leads whole runs only: run it by itself, or leave its agent out";
            self.problem(&format!("step {:?}: its workflow is led by an agent: {remedy}", step.name));
            return None;
        }
        if workflow.nodes.iter().map(Node::depth).max().unwrap_or(0) + self.inside.len() >= DEPTH_MAX {
            let name = &step.name;
            self.problem(&format!("step {name:?}: containers are nested more than {DEPTH_MAX} deep: take some apart"));
            return None;
        }
        if !self.has_room(workflow.nodes.iter().map(Node::count).sum()) {
            return None;
        }
        if workflow.spending.as_ref().is_some_and(|spending| !spending.budgets.is_empty()) {
            let (name, inner) = (&step.name, &workflow.name);
            let what = "count for its own runs only: give them to the outer workflow instead";
            self.problem(&format!("step {name:?}: the budgets of workflow {inner:?} {what}"));
        }
        let mut steps = workflow.nodes.to_vec();
        let children = self.remembering.show_inside(&mut steps, &workflow.codes);
        let node = Node::Workflow(WorkflowNode {
            settings: Settings {
                name: step.name.clone(),
                description: step.description.clone(),
                retry: step.retry,
                timeout_ms: step.timeout.map(millis),
                on_error: step.on_error,
                review: step.review.clone(),
            },
            workflow_id: workflow.id.clone(),
            workflow_name: workflow.name.clone(),
            steps,
        });
        self.review(&node);
        let code = Code::Container { judge: None, children, others: Arc::from([]) };
        Some((node, code))
    }
}

impl Block {
    fn name(&self) -> &Arc<str> {
        match self {
            Block::Step(step) => &step.name,
            Block::Steps(steps) => &steps.settings.name,
            Block::Parallel(parallel) => &parallel.settings.name,
            Block::Loop(repeated) => &repeated.settings.name,
            Block::Condition(condition) => &condition.settings.name,
            Block::Router(router) => &router.settings.name,
            Block::ForEach(each) => &each.settings.name,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Block::Step(_) => "step",
            Block::Steps(_) => "Steps",
            Block::Parallel(_) => "Parallel",
            Block::Loop(_) => "Loop",
            Block::Condition(_) => "Condition",
            Block::Router(_) => "Router",
            Block::ForEach(_) => "ForEach",
        }
    }
}
