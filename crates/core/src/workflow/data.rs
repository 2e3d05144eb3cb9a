//! The tree as JSON, in the shape of Agno's `to_dict`: what is stored, hashed, and read again.
//!
//! Code is not in it: functions, agents and teams are named. It must never know the code those names stand for; the
//! registry does. The invariant: what is written is read as the same tree, and the same tree is written as the same text.

use super::node::Path;
use super::remember::HistoryWish;
use super::{
    ConditionNode, DEPTH_MAX, EventSettings, ForEachNode, HumanReview, InvalidDefinition, LoopNode, Node, OnError,
    ParallelNode, RouterNode, Rule, Settings, StepHistory, StepNode, StepsNode, WorkflowNode,
};
use crate::budget::Budget;
use crate::id::{DefinitionId, slug};
use crate::json;
use crate::port::SessionPolicy;
use crate::retry::Retry;
use crate::step::ExecutorKind;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A workflow without its code: what a run is pinned to.
///
/// ```
/// use outlive_core::{Definition, Failure, Step, Structure};
///
/// let step = Step::function("shout", |_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) });
/// let definition = Definition::builder("Loud").step(step).build().unwrap();
/// let structure = Structure::from_json(&definition.to_json()).unwrap();
/// assert_eq!(structure.hash, definition.hash);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Structure {
    /// Its id.
    pub id: DefinitionId,
    /// The tree.
    pub nodes: Arc<[Node]>,
    /// The agent that leads it, if one does.
    pub leader: Option<Arc<Node>>,
    /// Longest time for a whole run, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The text that it was read from, if it was.
    pub source: Option<Arc<str>>,
    /// Hash of its text.
    pub hash: Arc<str>,
    /// All of it, as JSON.
    pub text: Arc<str>,
}

/// What the text of a structure has, in this order.
#[derive(Serialize)]
struct Text<'a> {
    id: &'a DefinitionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Value>,
    steps: &'a [Node],
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

/// The agent that leads a workflow, as data.
pub(super) fn leader(node: &Node) -> Value {
    let Node::Step(step) = node else { return Value::Null };
    let id = step.executor_id.as_ref().unwrap_or(&step.executor_name);
    serde_json::json!({ "agent_id": id, "name": step.executor_name })
}

impl Structure {
    pub(super) fn new(
        id: DefinitionId,
        nodes: Arc<[Node]>,
        leader: Option<Arc<Node>>,
        timeout_ms: Option<u64>,
        source: Option<Arc<str>>,
    ) -> Self {
        let agent = leader.as_deref().map(self::leader);
        let text = Text { id: &id, timeout_ms, agent, steps: &nodes, source: source.as_deref() };
        let text: Arc<str> = Arc::from(serde_json::to_string(&text).expect("a tree has string keys only"));
        let hash = Arc::from(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string());
        Self { id, nodes, leader, timeout_ms, source, hash, text }
    }

    /// Reads what [`Definition::to_json`](super::Definition::to_json) gives, without the code.
    ///
    /// # Errors
    /// [`InvalidDefinition`] lists everything that is wrong with it, and where.
    pub fn from_json(value: &Value) -> Result<Self, InvalidDefinition> {
        let mut reader = Reader::default();
        let draft = reader.workflow(value);
        let unknown = draft
            .nodes
            .iter()
            .any(|node| node.any(&|node| matches!(node, Node::Workflow(workflow) if workflow.steps.is_empty())));
        if unknown {
            reader.problems.push("steps: a nested workflow has none, so nothing can be said about it".to_owned());
        }
        let id = DefinitionId::parse(&draft.id).map_err(|error| reader.problems.push(format!("id: {error}"))).ok();
        match id.filter(|_| reader.problems.is_empty()) {
            Some(id) => {
                let leader = draft.leader.map(|leader| Arc::new(Node::Step(leader)));
                Ok(Self::new(id, Arc::from(draft.nodes), leader, draft.timeout_ms, draft.source))
            }
            None => Err(InvalidDefinition { name: draft.name, problems: reader.problems }),
        }
    }

    /// As [`Structure::from_json`], from text.
    ///
    /// # Errors
    /// The same, and when it is not JSON.
    pub fn parse(text: &str) -> Result<Self, InvalidDefinition> {
        let no_json = |error: String| InvalidDefinition {
            name: Arc::from(""),
            problems: vec![format!("it is not JSON: {error}")],
        };
        let value = json::read(text).map_err(|error| no_json(error.to_string()))?;
        json::with_room_for(&value, || Self::from_json(&value)).unwrap_or_else(|error| Err(no_json(error.to_string())))
    }
}

// Writing.

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.type_name())?;
        map.serialize_entry("name", self.name())?;
        map.serialize_entry("description", &self.description())?;
        match self {
            Node::Step(step) => {
                let (key, what) = match (step.executor_type, &step.executor_id) {
                    (ExecutorKind::Agent, id) => ("agent_id", id.as_ref()),
                    (ExecutorKind::Team, id) => ("team_id", id.as_ref()),
                    _ => ("executor_ref", None),
                };
                map.serialize_entry(key, what.unwrap_or(&step.executor_name))?;
                if what.is_some_and(|what| *what != step.executor_name) {
                    map.serialize_entry("executor_name", &step.executor_name)?;
                }
                if !step.workflows.is_empty() {
                    map.serialize_entry("workflows", &step.workflows)?;
                }
            }
            Node::Steps(node) => map.serialize_entry("steps", &node.steps)?,
            Node::Parallel(node) => map.serialize_entry("steps", &node.steps)?,
            Node::Loop(node) => {
                map.serialize_entry("steps", &node.steps)?;
                map.serialize_entry("max_iterations", &node.max_iterations)?;
                write_rule(&mut map, ["end_condition", "end_condition_type"], node.until.as_ref())?;
                map.serialize_entry("forward_iteration_output", &node.forward_iteration_output)?;
            }
            Node::Condition(node) => {
                map.serialize_entry("steps", &node.steps)?;
                map.serialize_entry("else_steps", &node.else_steps)?;
                write_rule(&mut map, ["evaluator", "evaluator_type"], Some(&node.when))?;
            }
            Node::Router(node) => {
                map.serialize_entry("choices", &node.choices)?;
                write_rule(&mut map, ["selector", "selector_type"], node.select.as_ref())?;
            }
            Node::ForEach(node) => {
                map.serialize_entry("steps", &node.steps)?;
                write_rule(&mut map, ["items", "items_type"], Some(&node.items))?;
                map.serialize_entry("concurrency", &node.concurrency)?;
            }
            Node::Workflow(node) => {
                map.serialize_entry("workflow_id", &node.workflow_id)?;
                map.serialize_entry("workflow_name", &node.workflow_name)?;
                map.serialize_entry("steps", &node.steps)?;
            }
        }
        // Agno's containers have neither retries nor time limits.
        let (retry, unset, is_step) = (self.retry(), Retry::default(), self.type_name() == "Step");
        let is_skipped = self.on_error() == OnError::Skip;
        if is_step || retry.times > 0 {
            map.serialize_entry("max_retries", &retry.times)?;
        }
        if is_step || is_skipped {
            map.serialize_entry("skip_on_failure", &is_skipped)?;
        }
        if retry.backoff_ms != unset.backoff_ms {
            map.serialize_entry("backoff_ms", &retry.backoff_ms)?;
        }
        if retry.backoff_ms_max != unset.backoff_ms_max {
            map.serialize_entry("backoff_ms_max", &retry.backoff_ms_max)?;
        }
        if let Some(timeout_ms) = self.timeout_ms() {
            map.serialize_entry("timeout_ms", &timeout_ms)?;
        }
        if self.on_error() == OnError::Pause {
            map.serialize_entry("on_error", &OnError::Pause)?;
        }
        if let Some(review) = self.review() {
            map.serialize_entry("human_review", review)?;
        }
        match self {
            Node::Step(StepNode { history: Some(StepHistory::Hidden), .. }) => {
                map.serialize_entry("add_workflow_history", &false)?;
            }
            Node::Step(StepNode {
                history: Some(StepHistory::Shown { num_runs, max_tokens, is_summarized }), ..
            }) => {
                map.serialize_entry("add_workflow_history", &true)?;
                map.serialize_entry("num_history_runs", num_runs)?;
                if let Some(max_tokens) = max_tokens {
                    map.serialize_entry("history_max_tokens", max_tokens)?;
                }
                if *is_summarized {
                    map.serialize_entry("summarize_history", &true)?;
                }
            }
            _ => {}
        }
        map.end()
    }
}

fn write_rule<M: SerializeMap>(
    map: &mut M,
    [key, kind]: [&'static str; 2],
    rule: Option<&Rule>,
) -> Result<(), M::Error> {
    match rule {
        None => map.serialize_entry(key, &())?,
        Some(Rule::Function(text) | Rule::Cel(text) | Rule::Output(text)) => map.serialize_entry(key, text)?,
        Some(Rule::Always(verdict)) => map.serialize_entry(key, verdict)?,
    }
    map.serialize_entry(kind, &rule.map(Rule::kind))
}

impl Rule {
    fn kind(&self) -> &'static str {
        match self {
            Rule::Function(_) => "function",
            Rule::Always(_) => "bool",
            Rule::Cel(_) => "cel",
            Rule::Output(_) => "output",
        }
    }
}

// Reading.

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let mut reader = Reader::default();
        let node = reader.node(&value, &Path::default());
        match node.filter(|_| reader.problems.is_empty()) {
            Some(node) => Ok(node),
            None => Err(serde::de::Error::custom(reader.problems.join("; "))),
        }
    }
}

/// What Agno writes that changes nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "step_id",
    "num_history_runs",
    "confirmation_message",
    "user_input_message",
    "allow_multiple_selections",
    "on_reject",
    "user_id",
    "session_id",
    "overwrite_db_session_state",
    "db",
    "stream",
    "stream_events",
    "store_executor_outputs",
    "debug_mode",
    "telemetry",
];

/// What Agno writes that would change something, and is not there yet: fine as long as it is off.
const NOT_THERE_YET: &[&str] = &[
    "strict_input_validation",
    "add_dependencies_to_context",
    "add_session_state_to_context",
    "requires_confirmation",
    "requires_user_input",
    "user_input_schema",
    "metadata",
    "dependencies",
];

/// A workflow as it was read.
pub(super) struct Draft {
    pub(super) name: Arc<str>,
    pub(super) id: String,
    pub(super) description: Option<Arc<str>>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) concurrency: Option<u32>,
    pub(super) session_state: Map<String, Value>,
    pub(super) session_policy: SessionPolicy,
    pub(super) steer_to: Option<Arc<str>>,
    pub(super) input_schema: Option<Value>,
    pub(super) events: EventSettings,
    pub(super) budgets: Vec<Budget>,
    pub(super) is_function: bool,
    pub(super) leader: Option<StepNode>,
    pub(super) source: Option<Arc<str>>,
    pub(super) nodes: Vec<Node>,
}

/// Reads a tree, and notes what is wrong with it and where.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<String>,
}

impl Reader {
    pub(super) fn workflow(&mut self, value: &Value) -> Draft {
        let path = Path::default();
        let leader = value.get("agent").filter(|agent| !agent.is_null());
        let leader = leader.and_then(|agent| self.leader(agent));
        let mut fields = Fields::new(self, value, &path);
        fields.known.insert("agent");
        let name = fields.text("name");
        let id = fields.text("id");
        let wish = fields.history("add_workflow_history_to_steps");
        let draft = Draft {
            id: id.clone().map_or_else(|| slug(name.as_deref().unwrap_or_default()), |id| id.to_string()),
            name: name.or(id).unwrap_or_else(|| Arc::from("")),
            description: fields.text("description"),
            timeout_ms: fields.get("timeout_ms"),
            concurrency: fields.get("concurrency"),
            session_state: fields.object("session_state").unwrap_or_default(),
            session_policy: fields.get("session_policy").unwrap_or_default(),
            steer_to: fields.text("steer_to"),
            input_schema: fields.object("input_schema").map(Value::Object),
            events: EventSettings {
                stream_executor_events: fields.get("stream_executor_events").unwrap_or(true),
                store_events: fields.get("store_events").unwrap_or_default(),
                events_to_skip: fields.get("events_to_skip").unwrap_or_default(),
            },
            budgets: fields.budgets(),
            is_function: fields.get("is_function").unwrap_or_default(),
            leader,
            source: fields.text("source"),
            nodes: fields.nodes("steps"),
        };
        fields.end();
        if wish.add == Some(true) {
            return Draft { nodes: draft.nodes.into_iter().map(|node| node.remembering(wish)).collect(), ..draft };
        }
        draft
    }

    /// The agent that leads a workflow.
    fn leader(&mut self, value: &Value) -> Option<StepNode> {
        let path = Path::leader();
        let mut fields = Fields::new(self, value, &path);
        let (id, name) = (fields.text("agent_id"), fields.text("name"));
        let id = fields.needed("agent_id", id);
        fields.end();
        let id = id?;
        let executor_name = name.unwrap_or_else(|| id.clone());
        let Settings { name, description, retry, timeout_ms, on_error, review } = Settings::new(&executor_name);
        let (executor_type, executor_id) = (ExecutorKind::Agent, Some(id));
        Some(StepNode {
            name,
            description,
            executor_type,
            executor_name,
            starts_once: false,
            executor_id,
            retry,
            timeout_ms,
            on_error,
            review,
            workflows: Vec::new(),
            history: None,
        })
    }

    fn problem(&mut self, path: &Path, key: &str, what: impl fmt::Display) {
        let dot = if path.is_top() || key.is_empty() { "" } else { "." };
        let colon = if path.is_top() && key.is_empty() { "" } else { ": " };
        self.problems.push(format!("{path}{dot}{key}{colon}{what}"));
    }

    /// One node; none when nothing can be made of it.
    fn node(&mut self, value: &Value, path: &Path) -> Option<Node> {
        if path.depth() > DEPTH_MAX {
            let what = format!("containers are nested more than {DEPTH_MAX} deep: take some apart");
            self.problem(path, "", what);
            return None;
        }
        let mut fields = Fields::new(self, value, path);
        let kind = fields.text("type").unwrap_or_else(|| Arc::from("Step"));
        let settings = fields.settings();
        let node = match &*kind {
            "Step" => fields.step(settings),
            "Steps" => Some(Node::Steps(StepsNode { steps: fields.inside(&settings, "steps", "steps"), settings })),
            "Parallel" => {
                Some(Node::Parallel(ParallelNode { steps: fields.inside(&settings, "parallel", "steps"), settings }))
            }
            "Loop" => {
                let unset = super::repeat::MAX_ITERATIONS;
                let (max_iterations, until) =
                    (fields.get("max_iterations").unwrap_or(unset), fields.rule("end_condition", &["cel", "function"]));
                let forward_iteration_output = fields.get("forward_iteration_output").unwrap_or_default();
                let steps = fields.inside(&settings, "loop", "steps");
                Some(Node::Loop(LoopNode { settings, max_iterations, until, forward_iteration_output, steps }))
            }
            "Condition" => {
                let when = fields.rule("evaluator", &["bool", "cel", "function"]);
                let steps = fields.inside(&settings, "condition", "steps");
                let else_steps = fields.inside(&settings, "condition", "else_steps");
                // Agno's evaluator when none is given.
                let when = when.unwrap_or(Rule::Always(true));
                Some(Node::Condition(ConditionNode { settings, when, steps, else_steps }))
            }
            "Router" => {
                let select = fields.rule("selector", &["cel", "function"]);
                let choices = fields.inside(&settings, "router", "choices");
                let asks = settings.review.as_ref().is_some_and(|review| review.requires_user_input);
                let select = if asks { Some(select) } else { fields.needed("selector", select).map(Some) };
                select.map(|select| Node::Router(RouterNode { settings, select, choices }))
            }
            "ForEach" => {
                let items = fields.rule("items", &["cel", "function", "output"]);
                let concurrency = fields.get("concurrency").unwrap_or(super::for_each::CONCURRENCY);
                let steps = fields.inside(&settings, "for_each", "steps");
                let items = fields.needed("items", items);
                items.map(|items| Node::ForEach(ForEachNode { settings, items, concurrency, steps }))
            }
            other => {
                let known = "Step, Steps, Parallel, Loop, Condition, Router, ForEach";
                fields.problem("type", format!("there is no {other:?}: use one of {known}"));
                return None;
            }
        };
        fields.end();
        node
    }
}

impl Node {
    /// The same, where steps of which nothing is said see what their workflow says.
    fn remembering(mut self, wish: HistoryWish) -> Self {
        if let Node::Step(step) = &mut self {
            step.history = step.history.or_else(|| HistoryWish::default().within(wish));
        }
        for other in [false, true] {
            for child in self.children_mut(other) {
                *child = child.clone().remembering(wish);
            }
        }
        self
    }
}

/// The fields of one object.
struct Fields<'r, 'v> {
    reader: &'r mut Reader,
    path: &'r Path,
    all: Option<&'v Map<String, Value>>,
    /// What has been asked for.
    known: BTreeSet<&'static str>,
}

impl<'r, 'v> Fields<'r, 'v> {
    fn new(reader: &'r mut Reader, value: &'v Value, path: &'r Path) -> Self {
        let all = value.as_object();
        if all.is_none() {
            reader.problem(path, "", "it must be an object");
        }
        Self { reader, path, all, known: BTreeSet::new() }
    }

    fn problem(&mut self, key: &str, what: impl fmt::Display) {
        self.reader.problem(self.path, key, what);
    }

    /// The value under a key, unless it is null.
    fn value(&mut self, key: &'static str) -> Option<&'v Value> {
        self.known.insert(key);
        self.all?.get(key).filter(|value| !value.is_null())
    }

    fn get<T: Scalar>(&mut self, key: &'static str) -> Option<T> {
        let read = T::read(self.value(key)?);
        if read.is_none() {
            self.problem(key, format!("it must be {}", T::WHAT));
        }
        read
    }

    fn text(&mut self, key: &'static str) -> Option<Arc<str>> {
        self.get(key)
    }

    fn object(&mut self, key: &'static str) -> Option<Map<String, Value>> {
        self.get(key)
    }

    fn needed<T>(&mut self, key: &'static str, value: Option<T>) -> Option<T> {
        // One that is there has been complained about.
        if value.is_none() && self.value(key).is_none() {
            self.problem(key, "it is missing");
        }
        value
    }

    fn settings(&mut self) -> Settings {
        let (unset, name) = (Retry::default(), self.text("name"));
        Settings {
            name: self.needed("name", name).unwrap_or_else(|| Arc::from("")),
            description: self.text("description"),
            retry: Retry {
                times: self.get("max_retries").unwrap_or(unset.times),
                backoff_ms: self.get("backoff_ms").unwrap_or(unset.backoff_ms),
                backoff_ms_max: self.get("backoff_ms_max").unwrap_or(unset.backoff_ms_max),
            },
            timeout_ms: self.get("timeout_ms"),
            on_error: self.on_error(),
            review: self.review(),
        }
    }

    fn on_error(&mut self) -> OnError {
        let is_skipped = self.get("skip_on_failure").unwrap_or(false);
        // Agno has it among what people are asked.
        let asked = self.value("human_review").and_then(|review| review.get("on_error"));
        let word = self.value("on_error").or(asked).filter(|word| !word.is_null());
        match word.map(OnError::deserialize) {
            _ if is_skipped => OnError::Skip,
            None => OnError::Fail,
            Some(Ok(on_error)) => on_error,
            Some(Err(_)) => {
                self.problem("on_error", "it must be one of fail, skip, pause");
                OnError::Fail
            }
        }
    }

    fn review(&mut self) -> Option<Arc<HumanReview>> {
        let mut review = self.object("human_review")?;
        review.remove("on_error");
        // Agno's is in seconds.
        if let Some(timeout) = review.remove("timeout").and_then(|timeout| timeout.as_f64()) {
            review.insert("timeout_ms".to_owned(), Value::from((timeout.max(0.0) * 1_000.0) as u64));
        }
        review.retain(|_, value| !value.is_null());
        for field in review.get_mut("user_input_schema").and_then(Value::as_array_mut).into_iter().flatten() {
            field.as_object_mut().into_iter().for_each(|field| field.retain(|_, value| !value.is_null()));
        }
        match serde_json::from_value::<HumanReview>(Value::Object(review)) {
            Ok(review) => review.asks().then(|| Arc::new(review)),
            Err(error) => {
                self.problem("human_review", error);
                None
            }
        }
    }

    /// What is said about the session's history.
    fn history(&mut self, add: &'static str) -> HistoryWish {
        HistoryWish {
            add: self.get(add),
            num_runs: self.get("num_history_runs"),
            max_tokens: self.get("history_max_tokens"),
            is_summarized: self.get("summarize_history").unwrap_or_default(),
        }
    }

    fn budgets(&mut self) -> Vec<Budget> {
        let read = self.value("budgets").map(Vec::<Budget>::deserialize);
        read.transpose().map_err(|error| self.problem("budgets", error)).ok().flatten().unwrap_or_default()
    }

    /// Where a verdict comes from.
    fn rule(&mut self, key: &'static str, kinds: &[&str]) -> Option<Rule> {
        let kind_key = match key {
            "end_condition" => "end_condition_type",
            "evaluator" => "evaluator_type",
            "selector" => "selector_type",
            _ => "items_type",
        };
        let kind = self.text(kind_key);
        let value = self.value(key)?;
        let kind = match (&kind, value) {
            (Some(kind), _) => &**kind,
            (None, Value::Bool(_)) => "bool",
            (None, _) => "",
        };
        let rule = match (kind, value) {
            _ if !kinds.contains(&kind) => None,
            ("bool", Value::Bool(verdict)) => Some(Rule::Always(*verdict)),
            ("cel", Value::String(text)) => Some(Rule::Cel(Arc::from(text.as_str()))),
            ("function", Value::String(name)) => Some(Rule::Function(Arc::from(name.as_str()))),
            ("output", Value::String(step)) => Some(Rule::Output(Arc::from(step.as_str()))),
            _ => None,
        };
        if rule.is_none() {
            let kinds = kinds.join(", ");
            self.problem(key, format!("{kind_key} must say what it is ({kinds}), and it must be that"));
        }
        rule
    }

    /// The steps in a list of a container.
    fn inside(&mut self, settings: &Settings, container: &str, key: &'static str) -> Vec<Node> {
        let path = self.path.container(container, &settings.name);
        self.list(key, &path)
    }

    fn nodes(&mut self, key: &'static str) -> Vec<Node> {
        self.list(key, &Path::default())
    }

    fn list(&mut self, key: &'static str, path: &Path) -> Vec<Node> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.as_array() else {
            self.problem(key, "it must be a list");
            return Vec::new();
        };
        list.iter().enumerate().filter_map(|(place, value)| self.reader.node(value, &path.child(key, place))).collect()
    }

    fn step(&mut self, settings: Settings) -> Option<Node> {
        let kinds = [
            ("agent_id", ExecutorKind::Agent),
            ("team_id", ExecutorKind::Team),
            ("executor_ref", ExecutorKind::Function),
        ];
        let mut given: Vec<_> = kinds.iter().filter_map(|(key, kind)| Some((*kind, self.text(key)?))).collect();
        let (workflow, workflow_name) = (self.text("workflow_id"), self.text("workflow_name"));
        let history = self.history("add_workflow_history").within(HistoryWish::default());
        let executor_name = self.text("executor_name");
        let workflows = self.inside(&settings, "step", "workflows");
        match (given.pop(), given.is_empty(), workflow) {
            (Some((executor_type, id)), true, None) => {
                let executor_id = (executor_type != ExecutorKind::Function).then(|| id.clone());
                let Settings { name, description, retry, timeout_ms, on_error, review } = settings;
                let executor_name = executor_name.unwrap_or(id);
                let step = StepNode {
                    name,
                    description,
                    executor_type,
                    executor_name,
                    starts_once: false,
                    executor_id,
                    retry,
                    timeout_ms,
                    on_error,
                    review,
                    workflows,
                    history,
                };
                Some(Node::Step(step))
            }
            (None, _, Some(id)) => {
                let steps = self.inside(&settings, "workflow", "steps");
                let parsed = DefinitionId::parse(&id).map_err(|error| self.problem("workflow_id", error)).ok();
                parsed.map(|workflow_id| {
                    let workflow_name = workflow_name.unwrap_or(id);
                    Node::Workflow(WorkflowNode { settings, workflow_id, workflow_name, steps })
                })
            }
            _ => {
                self.problem("", "it must have one of agent_id, team_id, executor_ref, workflow_id");
                None
            }
        }
    }

    /// Complains about what nobody has asked for.
    fn end(&mut self) {
        let left = self.all.into_iter().flatten().filter(|(key, _)| !self.known.contains(key.as_str()));
        for (key, value) in left.collect::<Vec<_>>() {
            if WITHOUT_EFFECT.contains(&key.as_str()) {
                continue;
            }
            if !NOT_THERE_YET.contains(&key.as_str()) {
                self.problem(key, "nothing has this key here");
            } else if !is_off(value) {
                self.problem(key, "it is not there yet: leave it out");
            }
        }
    }
}

/// Whether a setting asks for nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        // Words that say what would happen, if something did.
        Value::Object(fields) => fields.values().all(|value| is_off(value) || value.is_string() || value.is_number()),
        _ => false,
    }
}

trait Scalar: Sized {
    const WHAT: &str;
    fn read(value: &Value) -> Option<Self>;
}

impl Scalar for Arc<str> {
    const WHAT: &str = "text";
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(Arc::from)
    }
}

impl Scalar for bool {
    const WHAT: &str = "true or false";
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Scalar for SessionPolicy {
    const WHAT: &str = "one of queue, reject, parallel, interrupt, steer";
    fn read(value: &Value) -> Option<Self> {
        Self::parse(value.as_str()?)
    }
}

impl Scalar for u32 {
    const WHAT: &str = "a whole number from 0 to 4294967295";
    fn read(value: &Value) -> Option<Self> {
        value.as_u64().and_then(|number| number.try_into().ok())
    }
}

impl Scalar for u64 {
    const WHAT: &str = "a whole number from 0 on";
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()
    }
}

impl Scalar for BTreeSet<Arc<str>> {
    const WHAT: &str = "a list of texts";
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(|text| text.as_str().map(Arc::from)).collect()
    }
}

impl Scalar for Map<String, Value> {
    const WHAT: &str = "an object";
    fn read(value: &Value) -> Option<Self> {
        value.as_object().cloned()
    }
}
