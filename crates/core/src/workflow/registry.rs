//! The code that a definition read from JSON is bound to, found by the names in it.
//!
//! A deep copy is made the same way: there the code is the original's, found by key. It must never know what a tree
//! means; whether one is sound is for `build()` to say.

use super::data::{Draft, Reader};
use super::judge::{Decider, IntoVerdict, Judge};
use super::node::Path;
use super::remember::{HistoryWish, Remembering};
use super::{
    Block, Code, Condition, Definition, DefinitionBuilder, DefinitionSource, ForEach, Function, Loop, Node, Parallel,
    Router, Rule, Selection, Settings, Step, StepNode, Steps, VerdictInput, WorkflowNode,
};
use crate::failure::{Failure, FailureKind};
use crate::id::slug;
use crate::log::Key;
use crate::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext};
use crate::retention::Retention;
use crate::step::{ExecutorKind, InputSchema, StepInput, StepOutput};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Agents, teams, functions and nested workflows by the names that JSON has for them. Agno's `Registry`.
///
/// Functions of steps go by their own name, or by their step's where they have none. Functions that decide go by their
/// container's name.
///
/// ```
/// use outlive_core::{Definition, Failure, Registry, Step};
///
/// let step = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// let json = Definition::builder("Loud").step(step).build().unwrap().to_json();
///
/// let registry = Registry::new()
///     .function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// assert_eq!(Definition::from_json(&json, &registry).unwrap().to_json(), json);
///
/// let problems = Definition::from_json(&json, &Registry::new()).unwrap_err().problems;
/// assert_eq!(problems, [r#"steps[0]: no function "shout" is registered: add it with .function("shout", ..)"#]);
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    executors: HashMap<(ExecutorKind, Arc<str>), Arc<dyn Executor>>,
    deciders: HashMap<(What, Arc<str>), Arc<Judge>>,
    workflows: HashMap<Arc<str>, Arc<Definition>>,
}

/// What a function decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Condition,
    Selector,
    Items,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            What::Condition => "condition",
            What::Selector => "selector",
            What::Items => "items",
        }
    }
}

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an agent, under its id.
    #[must_use]
    pub fn agent(self, agent: impl Executor) -> Self {
        self.executor(agent)
    }

    /// Adds a team, under its id.
    #[must_use]
    pub fn team(self, team: impl Executor) -> Self {
        self.executor(team)
    }

    /// Adds the function of a step.
    #[must_use]
    pub fn function<F, T, R>(self, name: impl AsRef<str>, function: F) -> Self
    where
        F: Fn(StepContext, Arc<StepInput>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Into<StepOutput> + 'static,
    {
        self.executor(Function::new(name, function))
    }

    /// Adds anything that a step can run: under its id, or its name where it has none.
    #[must_use]
    pub fn executor(mut self, executor: impl Executor) -> Self {
        let ExecutorInfo { kind, name, id } = executor.info();
        let name = id.filter(|_| kind != ExecutorKind::Function).map_or(name, |id| id.to_shared());
        self.executors.insert((kind, name), Arc::new(executor));
        self
    }

    /// What was added for steps of this kind under this name.
    pub fn get(&self, kind: ExecutorKind, name: &str) -> Option<Arc<dyn Executor>> {
        self.executors.get(&(kind, Arc::from(name))).cloned()
    }

    /// The names of what was added for steps of this kind.
    pub fn names(&self, kind: ExecutorKind) -> impl Iterator<Item = &str> {
        self.executors.keys().filter(move |(known, _)| *known == kind).map(|(_, name)| &**name)
    }

    /// Adds a workflow, under its id, for JSON that names a nested one without its steps.
    #[must_use]
    pub fn workflow(mut self, workflow: impl Into<Arc<Definition>>) -> Self {
        let workflow = workflow.into();
        self.workflows.insert(workflow.id.to_shared(), workflow);
        self
    }

    /// Adds what decides for a Condition, or ends a Loop.
    #[must_use]
    pub fn condition<A: IntoVerdict<bool>>(
        self,
        name: impl AsRef<str>,
        holds: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        self.decider(What::Condition, name, Decider::holds(holds))
    }

    /// As [`Registry::condition`], by an async function, which may fail.
    #[must_use]
    pub fn condition_async<F, R>(self, name: impl AsRef<str>, holds: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<bool, Failure>> + Send + 'static,
    {
        self.decider(What::Condition, name, Decider::holds_async(holds))
    }

    /// Adds what chooses for a Router.
    #[must_use]
    pub fn selector<A: IntoVerdict<Selection>>(
        self,
        name: impl AsRef<str>,
        select: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        self.decider(What::Selector, name, Decider::selects(select))
    }

    /// As [`Registry::selector`], by an async function, which may fail.
    #[must_use]
    pub fn selector_async<F, R, A>(self, name: impl AsRef<str>, select: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Failure>> + Send + 'static,
        A: IntoVerdict<Selection>,
    {
        self.decider(What::Selector, name, Decider::selects_async(select))
    }

    /// Adds what gives a `ForEach` its list.
    #[must_use]
    pub fn items<A: IntoVerdict<Vec<Value>>>(
        self,
        name: impl AsRef<str>,
        items: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        self.decider(What::Items, name, Decider::lists(items))
    }

    /// As [`Registry::items`], by an async function, which may fail.
    #[must_use]
    pub fn items_async<F, R, A>(self, name: impl AsRef<str>, items: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Failure>> + Send + 'static,
        A: IntoVerdict<Vec<Value>>,
    {
        self.decider(What::Items, name, Decider::lists_async(items))
    }

    fn decider(mut self, what: What, name: impl AsRef<str>, decider: Decider) -> Self {
        if let Decider::Function(judge, _) = decider {
            self.deciders.insert((what, Arc::from(name.as_ref())), judge);
        }
        self
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |name: &Arc<str>| name.clone();
        f.debug_struct("Registry")
            .field("executors", &self.executors.keys().collect::<Vec<_>>())
            .field("deciders", &self.deciders.keys().collect::<Vec<_>>())
            .field("workflows", &self.workflows.keys().map(names).collect::<Vec<_>>())
            .finish()
    }
}

/// Where the code of a tree comes from. What is missing is said in words for a person.
trait Source {
    fn executor(&self, key: &Key, step: &StepNode) -> Result<Arc<dyn Executor>, String>;
    fn judge(&self, key: &Key, what: What, name: &Arc<str>) -> Result<Arc<Judge>, String>;
    fn workflow(&self, id: &str) -> Result<Arc<Definition>, String>;
}

impl Source for Registry {
    fn executor(&self, _: &Key, step: &StepNode) -> Result<Arc<dyn Executor>, String> {
        let (kind, name) = (step.executor_type, step.executor_id.as_ref().unwrap_or(&step.executor_name));
        let (word, add) = match kind {
            ExecutorKind::Agent => ("agent", ".agent(..)".to_owned()),
            ExecutorKind::Team => ("team", ".team(..)".to_owned()),
            _ => ("function", format!(".function({name:?}, ..)")),
        };
        let found = self.executors.get(&(kind, name.clone())).cloned();
        found.ok_or_else(|| format!("no {word} {name:?} is registered: add it with {add}"))
    }

    fn judge(&self, _: &Key, what: What, name: &Arc<str>) -> Result<Arc<Judge>, String> {
        let (found, word) = (self.deciders.get(&(what, name.clone())).cloned(), what.word());
        found.ok_or_else(|| format!("no {word} {name:?} is registered: add it with .{word}({name:?}, ..)"))
    }

    fn workflow(&self, id: &str) -> Result<Arc<Definition>, String> {
        let found = self.workflows.get(id).cloned();
        found.ok_or_else(|| format!("no workflow {id:?} is registered: add it with .workflow(..), or give its steps"))
    }
}

/// The code of another definition, copied.
struct Original<'a>(&'a Definition);

impl Source for Original<'_> {
    fn executor(&self, key: &Key, _: &StepNode) -> Result<Arc<dyn Executor>, String> {
        let executor = self.0.executor(key).ok_or("it has no code")?;
        Ok(executor.deep_copy().unwrap_or_else(|| executor.clone()))
    }

    fn judge(&self, key: &Key, _: What, _: &Arc<str>) -> Result<Arc<Judge>, String> {
        match Code::find(&self.0.codes, key) {
            Some(Code::Container { judge: Some(judge), .. }) => Ok(judge.clone()),
            _ => Err("it has no code".to_owned()),
        }
    }

    fn workflow(&self, _: &str) -> Result<Arc<Definition>, String> {
        Err("it has no steps".to_owned())
    }
}

/// Stands where code is missing, so that everything else that is wrong is found too.
struct Missing(ExecutorInfo);

impl Executor for Missing {
    fn info(&self) -> ExecutorInfo {
        self.0.clone()
    }

    fn execute<'a>(&'a self, _: StepContext, _: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(std::future::ready(Err(Failure::new(FailureKind::Definition, "its code is missing"))))
    }
}

impl DefinitionBuilder {
    /// Reads what [`Definition::to_json`] gives, and binds it to code. What is wrong with it, or missing, is told by
    /// `build()`.
    pub fn from_json(value: &Value, registry: &Registry) -> Self {
        let mut reader = Reader::default();
        let Draft {
            name,
            id,
            description,
            timeout_ms,
            concurrency,
            session_state,
            session_policy,
            steer_to,
            input_schema,
            events,
            budgets,
            is_function,
            leader,
            source,
            nodes,
        } = reader.workflow(value);
        let mut binder = Binder { source: registry, problems: reader.problems, remembering: Remembering::default() };
        let leader = leader.map(|leader| binder.leader(&leader));
        let steps = binder.blocks(&nodes, &|place| Key::step(place), &Path::default(), "steps");
        Self {
            id: Some(id),
            name,
            description,
            timeout: timeout_ms.map(Duration::from_millis),
            concurrency,
            retention: Retention::new(),
            session_state,
            session_policy,
            steer_to,
            input_schema: input_schema.map(InputSchema::json),
            events,
            budgets,
            prices: None,
            is_function,
            leader,
            remembering: Remembering::default(),
            // Its code is the registry's, which reads no texts.
            source: source.map(|text| DefinitionSource::new(text, |_| Err("nothing reads its text here".to_owned()))),
            inspects: false,
            steps,
            problems: binder.problems,
        }
    }
}

impl Definition {
    /// Reads what [`Definition::to_json`] gives, and binds it to code.
    ///
    /// # Errors
    /// [`InvalidDefinition`](super::InvalidDefinition) lists everything that is wrong with it, and all code that is
    /// missing, each with its path.
    pub fn from_json(value: &Value, registry: &Registry) -> Result<Self, super::InvalidDefinition> {
        DefinitionBuilder::from_json(value, registry).build()
    }

    /// The same workflow under construction again, with copies of its agents and teams: whatever is changed there does
    /// not change this one. An id that was made from the name follows a new name. Agno's `deep_copy`.
    pub fn deep_copy(&self) -> DefinitionBuilder {
        let remembering = self.remembering.inside();
        let mut binder = Binder { source: &Original(self), problems: Vec::new(), remembering };
        let leader = match self.leader.as_deref() {
            Some(Node::Step(leader)) => Some(binder.leader(leader)),
            _ => None,
        };
        DefinitionBuilder {
            name: self.name.clone(),
            id: Some(self.id.to_string()).filter(|id| *id != slug(&self.name)),
            description: self.description.clone(),
            timeout: self.timeout_ms.map(Duration::from_millis),
            concurrency: self.concurrency,
            retention: self.retention,
            session_state: self.session_state.clone(),
            session_policy: self.session_policy,
            steer_to: self.steer_to.clone(),
            input_schema: self.input_schema.clone(),
            events: self.events.clone(),
            budgets: self.spending.iter().flat_map(|spending| spending.budgets.clone()).collect(),
            prices: self.spending.as_ref().and_then(|spending| spending.prices.clone()),
            is_function: self.is_function,
            leader,
            remembering: self.remembering.clone(),
            source: None,
            inspects: false,
            steps: binder.blocks(&self.nodes, &|place| Key::step(place), &Path::default(), "steps"),
            problems: binder.problems,
        }
    }
}

/// Makes builders of a tree and its code, and notes what is missing and where.
struct Binder<'a, S> {
    source: &'a S,
    problems: Vec<String>,
    /// Of nested workflows.
    remembering: Remembering,
}

impl<S: Source> Binder<'_, S> {
    fn note<T>(&mut self, path: &Path, found: Result<T, String>) -> Option<T> {
        found.map_err(|problem| self.problems.push(format!("{path}: {problem}"))).ok()
    }

    /// The agent that leads a workflow.
    fn leader(&mut self, step: &StepNode) -> Box<Step> {
        Box::new(self.step(step, &Key::leader(), &Path::leader()))
    }

    fn step(&mut self, step: &StepNode, key: &Key, path: &Path) -> Step {
        let found = self.source.executor(key, step);
        let info = || ExecutorInfo { kind: step.executor_type, name: step.executor_name.clone(), id: None };
        let executor = self.note(path, found).unwrap_or_else(|| Arc::new(Missing(info())));
        let Settings { name, description, retry, timeout_ms, on_error, review } = step.settings();
        let timeout = timeout_ms.map(Duration::from_millis);
        let (executors, workflows) = (vec![executor], Vec::new());
        let history = HistoryWish::of(step.history);
        Step { name, description, executors, workflows, retry, timeout, on_error, review, history }
    }

    fn blocks(&mut self, nodes: &[Node], key: &dyn Fn(u32) -> Key, path: &Path, list: &str) -> Vec<Block> {
        let block = |(place, node): (u32, &Node)| self.block(node, &key(place), &path.child(list, place as usize));
        (0..).zip(nodes).map(block).collect()
    }

    fn block(&mut self, node: &Node, key: &Key, path: &Path) -> Block {
        let inner = path.container(node.path_word(), node.name());
        let list = if matches!(node, Node::Router(_)) { "choices" } else { "steps" };
        let child = |place| node.child_key(key, false, place);
        let steps = self.blocks(node.children(false), &child, &inner, list);
        let settings = node.settings().cloned();
        let settings = || settings.clone().unwrap_or_else(|| Settings::new(node.name()));
        match node {
            Node::Step(step) => self.step(step, key, path).into(),
            Node::Workflow(nested) => {
                let Settings { name, description, retry, timeout_ms, on_error, review } = nested.settings.clone();
                let timeout = timeout_ms.map(Duration::from_millis);
                let (mut executors, mut workflows) = (Vec::new(), Vec::new());
                match self.nested(nested, steps, path) {
                    Some(workflow) => workflows.push(workflow),
                    None => {
                        let (kind, name) = (ExecutorKind::Workflow, nested.workflow_name.clone());
                        executors.push(Arc::new(Missing(ExecutorInfo { kind, name, id: None })) as Arc<dyn Executor>);
                    }
                }
                let history = HistoryWish::default();
                Step { name, description, executors, workflows, retry, timeout, on_error, review, history }.into()
            }
            Node::Steps(_) => Steps { settings: settings(), steps }.into(),
            Node::Parallel(_) => Parallel { settings: settings(), steps }.into(),
            Node::Loop(node) => {
                let (max_iterations, forward) = (node.max_iterations, node.forward_iteration_output);
                let until = node.until.as_ref().and_then(|rule| self.decider(rule, What::Condition, key, path));
                Loop { settings: settings(), max_iterations, until, forward, steps }.into()
            }
            Node::Condition(condition) => {
                let other = |place| node.child_key(key, true, place);
                let else_steps = self.blocks(&condition.else_steps, &other, &inner, "else_steps");
                let when = self.decider(&condition.when, What::Condition, key, path);
                Condition { settings: settings(), when, steps, else_steps }.into()
            }
            Node::Router(router) => {
                let select = router.select.as_ref().and_then(|rule| self.decider(rule, What::Selector, key, path));
                Router { settings: settings(), select, choices: steps }.into()
            }
            Node::ForEach(each) => {
                let items = self.decider(&each.items, What::Items, key, path);
                ForEach { settings: settings(), items, concurrency: each.concurrency, steps }.into()
            }
        }
    }

    /// What decides as the rule says. Code that is missing is stood in for, so that nobody complains twice.
    fn decider(&mut self, rule: &Rule, what: What, key: &Key, path: &Path) -> Option<Decider> {
        Some(match rule {
            Rule::Function(name) => {
                let found = self.source.judge(key, what, name);
                match self.note(path, found) {
                    Some(judge) => Decider::Function(judge, Some(name.clone())),
                    None => Decider::Always(false),
                }
            }
            Rule::Always(verdict) => Decider::Always(*verdict),
            Rule::Cel(text) => Decider::Cel(text.clone()),
            Rule::Output(step) => Decider::Output(step.clone()),
        })
    }

    fn nested(&mut self, node: &WorkflowNode, steps: Vec<Block>, path: &Path) -> Option<Arc<Definition>> {
        if steps.is_empty() {
            let found = self.source.workflow(node.workflow_id.as_str());
            return self.note(path, found);
        }
        let builder = Definition::builder(&node.workflow_name).id(node.workflow_id.as_str());
        let builder = DefinitionBuilder { remembering: self.remembering.clone(), ..builder };
        match steps.into_iter().fold(builder, DefinitionBuilder::step).build() {
            Ok(workflow) => Some(Arc::new(workflow)),
            Err(invalid) => {
                let problems = invalid.problems.into_iter().map(|problem| format!("{path}: {problem}"));
                self.problems.extend(problems);
                None
            }
        }
    }
}
