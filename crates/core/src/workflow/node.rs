//! The tree of a workflow as plain data: what is hashed, stored, drawn and compared. Which node a key names is found by
//! walking down the key's parts.

use super::{
    ConditionNode, Container, ForEachNode, HumanReview, LoopNode, OnError, ParallelNode, RouterNode, StepNode,
    StepsNode, Verdict, WorkflowNode,
};
use crate::log::{Key, Part, Place};
use crate::retry::Retry;
use crate::step::{ExecutorKind, StepType};
use std::fmt;
use std::sync::Arc;

/// A node of the tree: a step, or one of Agno's containers.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// One step.
    Step(StepNode),
    /// A named sequence.
    Steps(StepsNode),
    /// Branches at the same time.
    Parallel(ParallelNode),
    /// A sequence repeated until a verdict or a number of times.
    Loop(LoopNode),
    /// One of two sequences, as a verdict decides.
    Condition(ConditionNode),
    /// The choices that a verdict names.
    Router(RouterNode),
    /// A body for each item of a list.
    ForEach(ForEachNode),
    /// Another workflow.
    Workflow(WorkflowNode),
}

/// What every container has, whatever it contains.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The container's name, unique among its siblings.
    pub name: Arc<str>,
    /// What it is for.
    pub description: Option<Arc<str>>,
    /// How often it is tried again as a whole.
    pub retry: Retry,
    /// Longest time for one attempt, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What its failure does.
    pub on_error: OnError,
    /// Where it asks a person.
    pub review: Option<Arc<HumanReview>>,
}

impl Node {
    /// The node's name.
    pub fn name(&self) -> &Arc<str> {
        match self {
            Node::Step(step) => &step.name,
            _ => &self.settings().expect("every other node is a container").name,
        }
    }

    /// What it is for.
    pub fn description(&self) -> Option<&Arc<str>> {
        match self {
            Node::Step(step) => step.description.as_ref(),
            _ => self.settings()?.description.as_ref(),
        }
    }

    /// How often it is tried again.
    pub fn retry(&self) -> Retry {
        match self {
            Node::Step(step) => step.retry,
            _ => self.settings().map(|settings| settings.retry).unwrap_or_default(),
        }
    }

    /// What its failure does.
    pub fn on_error(&self) -> OnError {
        match self {
            Node::Step(step) => step.on_error,
            _ => self.settings().map(|settings| settings.on_error).unwrap_or_default(),
        }
    }

    /// Where it asks a person.
    pub fn review(&self) -> Option<&Arc<HumanReview>> {
        match self {
            Node::Step(step) => step.review.as_ref(),
            _ => self.settings()?.review.as_ref(),
        }
    }

    /// Longest time for one attempt, in milliseconds.
    pub fn timeout_ms(&self) -> Option<u64> {
        match self {
            Node::Step(step) => step.timeout_ms,
            _ => self.settings()?.timeout_ms,
        }
    }

    /// Agno's word for the kind of node.
    pub fn kind(&self) -> StepType {
        match self {
            Node::Step(_) => StepType::Step,
            Node::Steps(_) => StepType::Steps,
            // Agno knows no ForEach.
            Node::Parallel(_) | Node::ForEach(_) => StepType::Parallel,
            Node::Loop(_) => StepType::Loop,
            Node::Condition(_) => StepType::Condition,
            Node::Router(_) => StepType::Router,
            Node::Workflow(_) => StepType::Workflow,
        }
    }

    /// What a container has; steps have none.
    pub fn settings(&self) -> Option<&Settings> {
        match self {
            Node::Step(_) => None,
            Node::Steps(node) => Some(&node.settings),
            Node::Parallel(node) => Some(&node.settings),
            Node::Loop(node) => Some(&node.settings),
            Node::Condition(node) => Some(&node.settings),
            Node::Router(node) => Some(&node.settings),
            Node::ForEach(node) => Some(&node.settings),
            Node::Workflow(node) => Some(&node.settings),
        }
    }

    /// Its children: those of a Condition's other sequence when `other` is set, which no other node has.
    pub fn children(&self, other: bool) -> &[Node] {
        match self {
            Node::Condition(node) if other => &node.else_steps,
            _ if other => &[],
            Node::Step(_) => &[],
            Node::Steps(node) => &node.steps,
            Node::Parallel(node) => &node.steps,
            Node::Loop(node) => &node.steps,
            Node::Condition(node) => &node.steps,
            Node::Router(node) => &node.choices,
            Node::ForEach(node) => &node.steps,
            Node::Workflow(node) => &node.steps,
        }
    }

    /// The workflows that calls inside it may have executed; only a step has some.
    pub fn workflows(&self) -> &[Node] {
        match self {
            Node::Step(step) => &step.workflows,
            _ => &[],
        }
    }

    pub(super) fn children_mut(&mut self, other: bool) -> &mut [Node] {
        match self {
            Node::Condition(ConditionNode { steps, else_steps, .. }) => {
                if other {
                    else_steps
                } else {
                    steps
                }
            }
            Node::Step(_) => &mut [],
            _ if other => &mut [],
            Node::Steps(node) => &mut node.steps,
            Node::Parallel(node) => &mut node.steps,
            Node::Loop(node) => &mut node.steps,
            Node::Router(node) => &mut node.choices,
            Node::ForEach(node) => &mut node.steps,
            Node::Workflow(node) => &mut node.steps,
        }
    }

    /// The key of a child, in a Loop without its iteration, in a ForEach of its first item; `key` is this node's.
    pub fn child_key(&self, key: &Key, other: bool, place: u32) -> Key {
        match self {
            Node::Parallel(_) => key.node(Place::Branch(place)),
            Node::Router(_) => key.node(Place::Choice(place)),
            Node::ForEach(_) => key.node(Place::Item(place)),
            Node::Condition(_) => key.sequence(if other { "else" } else { "if" }).node(Place::Step(place)),
            Node::Workflow(_) => key.sequence("w").node(Place::Step(place)),
            Node::Step(_) | Node::Steps(_) | Node::Loop(_) => key.node(Place::Step(place)),
        }
    }

    /// The word for it in JSON. A nested workflow is a step there.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Node::Step(_) | Node::Workflow(_) => "Step",
            Node::ForEach(_) => "ForEach",
            Node::Steps(_) => "Steps",
            Node::Parallel(_) => "Parallel",
            Node::Loop(_) => "Loop",
            Node::Condition(_) => "Condition",
            Node::Router(_) => "Router",
        }
    }

    /// The word for it in a path.
    pub(super) fn path_word(&self) -> &'static str {
        match self {
            Node::Step(_) => "step",
            Node::Steps(_) => "steps",
            Node::Parallel(_) => "parallel",
            Node::Loop(_) => "loop",
            Node::Condition(_) => "condition",
            Node::Router(_) => "router",
            Node::ForEach(_) => "for_each",
            Node::Workflow(_) => "workflow",
        }
    }

    /// What it is and its name, for people: `an agent step "HN"`.
    pub(crate) fn named(&self) -> String {
        match self {
            Node::Step(step) => Self::named_as(step.executor_type, &step.name),
            Node::Workflow(_) => Self::named_as(ExecutorKind::Workflow, self.name()),
            container => format!("a {} {:?}", container.type_name(), container.name()),
        }
    }

    /// A step of this kind and name.
    pub(crate) fn named_as(kind: ExecutorKind, name: &str) -> String {
        let article = if kind == ExecutorKind::Agent { "an" } else { "a" };
        format!("{article} {} step {name:?}", kind.as_str())
    }

    /// Whether a container could have begun with this verdict.
    ///
    /// # Errors
    /// What does not fit, in words for a person.
    pub(crate) fn admits(&self, verdict: Option<&Verdict>) -> Result<(), String> {
        let is_of_its_kind = match (self, verdict) {
            (Node::Condition(_), verdict) => matches!(verdict, Some(Verdict::Is(_))),
            (Node::Router(_), verdict) => matches!(verdict, Some(Verdict::Names(_))),
            (Node::ForEach(_), verdict) => matches!(verdict, Some(Verdict::Items { .. })),
            (_, verdict) => verdict.is_none(),
        };
        let refused = verdict.zip(self.container()).and_then(|(verdict, container)| container.refuse(verdict));
        match refused {
            _ if !is_of_its_kind => Err(self.named()),
            Some(problem) => Err(format!("{} to which {problem}", self.named())),
            None => Ok(()),
        }
    }

    /// Whether this node, or one inside it, is so.
    pub fn any(&self, is_so: &impl Fn(&Node) -> bool) -> bool {
        let inside = self.children(false).iter().chain(self.children(true)).chain(self.workflows());
        is_so(self) || inside.into_iter().any(|child| child.any(is_so))
    }

    /// How deep containers are nested in it: 0 for a step.
    pub(super) fn depth(&self) -> usize {
        let inside = self.children(false).iter().chain(self.children(true)).map(Node::depth).max();
        let called = self.workflows().iter().map(Node::depth).max().unwrap_or(0);
        self.settings().map_or(called, |_| 1 + inside.unwrap_or(0))
    }

    /// How many nodes it is, itself included.
    pub(super) fn count(&self) -> usize {
        let inside = self.children(false).iter().chain(self.children(true)).chain(self.workflows());
        1 + inside.map(Node::count).sum::<usize>()
    }

    pub(crate) fn container(&self) -> Option<&dyn Container> {
        match self {
            Node::Step(_) => None,
            Node::Steps(node) => Some(node),
            Node::Parallel(node) => Some(node),
            Node::Loop(node) => Some(node),
            Node::Condition(node) => Some(node),
            Node::Router(node) => Some(node),
            Node::ForEach(node) => Some(node),
            Node::Workflow(node) => Some(node),
        }
    }

    /// The node that a key names among these.
    pub fn find<'a>(nodes: &'a [Node], key: &Key) -> Option<&'a Node> {
        let called = |node: &'a Node| node.workflows();
        walk(nodes, key, |list: &'a [Node], place| list.get(place), |node, other| node.children(other), called)
    }
}

/// Follows a key down a tree: `child` gives the child at a place of a list, `children` a node's lists, `called` the
/// workflows that calls inside it have executed.
pub(super) fn walk<L: Copy, N: Copy>(
    top: L,
    key: &Key,
    child: impl Fn(L, usize) -> Option<N>,
    children: impl Fn(N, bool) -> L,
    called: impl Fn(N) -> L,
) -> Option<N> {
    let (mut list, mut found) = (top, None);
    for part in key.parts() {
        match part {
            Part::Node { place: Place::Step(place) | Place::Branch(place) | Place::Choice(place), .. } => {
                let node = child(list, usize::try_from(place).ok()?)?;
                (list, found) = (children(node, false), Some(node));
            }
            // Every item has the same body.
            Part::Node { place: Place::Item(_), .. } => {
                let node = child(list, 0)?;
                (list, found) = (children(node, false), Some(node));
            }
            Part::Sequence(name) => list = children(found?, name == "else"),
            Part::Iteration(_) => {}
            Part::Speaker(_) => (list, found) = (called(found?), None),
            Part::Turn(_) | Part::Call(_) | Part::Member => {}
            _ => return None,
        }
    }
    found
}

/// Where a node stands in a tree, for people: `steps[1].parallel["Research"].steps[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    text: String,
    depth: usize,
}

impl Path {
    /// Of the node that a key names. Where these nodes have none, its place alone is told.
    pub(crate) fn of(nodes: &[Node], key: &Key) -> Self {
        let (mut path, mut list, mut found, mut other) = (Self::default(), nodes, None::<&Node>, false);
        let mut field = "steps";
        for part in key.parts() {
            match part {
                Part::Node { place, .. } => {
                    let field = match found {
                        Some(Node::Router(_)) => "choices",
                        _ if other => "else_steps",
                        _ => std::mem::replace(&mut field, "steps"),
                    };
                    if let Some(outer) = found {
                        path = path.container(outer.path_word(), outer.name());
                    }
                    // Every item has the same body.
                    let place = if matches!(place, Place::Item(_)) { 0 } else { place.number() as usize };
                    path = path.child(field, place);
                    found = list.get(place);
                    list = found.map_or(&[], |node| node.children(false));
                    other = false;
                }
                Part::Speaker(_) => {
                    if let Some(step) = found.take() {
                        path = path.container(step.path_word(), step.name());
                        list = step.workflows();
                    }
                    field = "workflows";
                }
                Part::Sequence(name) => {
                    other = name == "else";
                    list = found.map_or(&[], |node| node.children(other));
                }
                _ => {}
            }
        }
        path
    }

    /// Of the agent that leads a workflow.
    pub(super) fn leader() -> Self {
        Self { text: "agent".to_owned(), depth: 0 }
    }

    /// Inside the container that stands here.
    pub(super) fn container(&self, word: &str, name: &str) -> Self {
        Self { text: format!("{}.{word}[{name:?}]", self.text), depth: self.depth + 1 }
    }

    /// The child at this place of a list.
    pub(super) fn child(&self, list: &str, place: usize) -> Self {
        let dot = if self.is_top() { "" } else { "." };
        Self { text: format!("{}{dot}{list}[{place}]", self.text), depth: self.depth }
    }

    /// Whether this is the workflow itself.
    pub(super) fn is_top(&self) -> bool {
        self.text.is_empty()
    }

    /// How many containers are around it.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
