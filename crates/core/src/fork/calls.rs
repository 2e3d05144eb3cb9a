//! The calls of a run that left its process, and which of them a fork makes again.
//!
//! It must never know what a call does: whether one may be made only once, its caller says.

use super::Cut;
use crate::event::EventKind;
use crate::log::{Entry, Key, Record};
use crate::step::ExecutorKind;
use crate::workflow::Node;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// A function step.
    Function,
    /// A call that a function named itself.
    Named,
    /// A request to a model.
    Model,
    /// A call of a tool.
    Tool,
}

impl CallKind {
    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Named => "named",
            Self::Model => "model",
            Self::Tool => "tool",
        }
    }
}

/// A call that a run made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkCall {
    /// Its key.
    pub key: Key,
    /// What it is.
    pub kind: CallKind,
    /// The step, the tool, the model, or the name that the function gave it.
    pub name: Arc<str>,
    /// The step it was made in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_name: Option<Arc<str>>,
    /// Whether it must not be made twice: a tool that is declared so, or a call that a function has named.
    pub is_once: bool,
    /// The tokens it used in the run that is forked.
    pub tokens: u64,
}

impl Cut {
    /// The calls of the run of which a fork keeps what came of them, and those it makes again as far as it comes to
    /// them. `is_once` says of a tool, by its key and name, whether it must not be called twice.
    pub fn calls(
        &self,
        log: &[Entry],
        nodes: &[Node],
        is_once: impl Fn(&Key, &str) -> bool,
    ) -> (Vec<ForkCall>, Vec<ForkCall>) {
        let mut is_kept = vec![false; log.len()];
        self.kept(log).for_each(|index| is_kept[index] = true);
        let mut calls: Vec<(ForkCall, bool)> = Vec::new();
        let mut places: BTreeMap<Key, usize> = BTreeMap::new();
        for (entry, is_kept) in log.iter().zip(is_kept) {
            let begun = match &entry.record {
                Some(Record::Intent { key, name }) => Some((key, name.as_ref())),
                Some(Record::Reserved { key, .. }) => Some((key, None)),
                _ => None,
            };
            match &entry.record {
                _ if let Some((key, name)) = begun => {
                    let Some((kind, name)) = kind_of(entry, key, name, nodes) else { continue };
                    if places.contains_key(&key.attempt(1)) {
                        continue;
                    }
                    let is_once = match kind {
                        CallKind::Tool => is_once(key, &name),
                        CallKind::Named => true,
                        CallKind::Function | CallKind::Model => false,
                    };
                    let step_name = entry.event.origin.step_name.clone();
                    let call = ForkCall { key: key.clone(), kind, name, step_name, is_once, tokens: 0 };
                    places.insert(key.attempt(1), calls.len());
                    calls.push((call, false));
                }
                Some(Record::Result { key, .. } | Record::Step { key, .. }) => {
                    let Some(place) = places.get(&key.attempt(1)) else { continue };
                    let (call, has_ended) = &mut calls[*place];
                    *has_ended = is_kept;
                    if let EventKind::ModelRequestCompleted(done) | EventKind::TeamModelRequestCompleted(done) =
                        &entry.event.kind
                    {
                        call.tokens = done.total_tokens;
                    }
                }
                _ => {}
            }
        }
        let (kept, again): (Vec<_>, Vec<_>) = calls.into_iter().partition(|(_, has_ended)| *has_ended);
        let only = |calls: Vec<(ForkCall, bool)>| calls.into_iter().map(|(call, _)| call).collect();
        (only(kept), only(again))
    }
}

/// What leaves the process here; none for what only other calls are made in.
fn kind_of(entry: &Entry, key: &Key, name: Option<&Arc<str>>, nodes: &[Node]) -> Option<(CallKind, Arc<str>)> {
    if let Some(name) = name {
        let is_function = match Node::find(nodes, key) {
            Some(Node::Step(step)) => step.executor_type == ExecutorKind::Function,
            _ => false,
        };
        return is_function.then(|| (CallKind::Function, name.clone()));
    }
    match &entry.event.kind {
        EventKind::ModelRequestStarted(model) | EventKind::TeamModelRequestStarted(model) => {
            Some((CallKind::Model, Arc::from(&*model.model)))
        }
        // A delegation is the member's run.
        EventKind::ToolCallStarted(call) | EventKind::TeamToolCallStarted(call) => {
            let is_tool = call.tool.child_run_id.is_none();
            is_tool.then(|| (CallKind::Tool, Arc::from(&*call.tool.tool_name)))
        }
        EventKind::CustomEvent { fields } if key.is_named() => {
            Some((CallKind::Named, Arc::from(fields.get("call")?.as_str()?)))
        }
        _ => None,
    }
}
