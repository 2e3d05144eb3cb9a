//! Tools that are not known before a run: whoever has them is asked for a list when an agent begins.
//!
//! It must never know a model, a log, or how a source is asked. The invariants: a tool made of a listing is the same
//! whatever its source says meanwhile; what a model is offered has a name that models accept, and no other tool has.

use super::{NAME_LEN_MAX, Tool, ToolContext, ToolError, ToolFunction};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, ToolEffect, ToolSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;

/// Whoever has tools to list.
pub(crate) trait ToolSource: Send + Sync + 'static {
    /// What people call it; no two of an agent's have one name.
    fn name(&self) -> &str;

    /// What it has now.
    ///
    /// # Errors
    /// When it cannot be asked, or what it lists cannot be used.
    fn list(&self) -> BoxFuture<'_, Result<Listing, Failure>>;

    /// One of its tools, as it was listed.
    fn tool(&self, listed: &ListedTool) -> Tool;

    /// What a repetition of a call does, by the name that models see; none for a tool that it has not listed here yet.
    fn effect(&self, tool: &str) -> Option<ToolEffect>;
}

/// What a source has listed, as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// [`ToolSource::name`].
    pub(crate) source: String,
    /// Of all that it said about its tools.
    pub(crate) hash: String,
    pub(crate) tools: Vec<ListedTool>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ListedTool {
    /// What the source calls it.
    pub(crate) name: String,
    /// What the model calls it, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) offered_as: Option<String>,
    pub(crate) description: String,
    /// JSON Schema of its arguments.
    pub(crate) parameters: Value,
    /// What a repetition of a call does, as far as the source says so.
    pub(crate) effect: ToolEffect,
}

impl ListedTool {
    /// What the model is shown.
    pub(crate) fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: self.offered_as.as_ref().unwrap_or(&self.name).clone(),
            description: self.description.clone(),
            parameters: self.parameters.clone(),
        }
    }

    /// Gives it a name that models accept and that nothing has yet.
    pub(crate) fn name_among(&mut self, taken: &mut BTreeSet<String>) {
        let wanted = legal(self.offered_as.as_ref().unwrap_or(&self.name));
        let numbered = |number: u32| match number {
            1 => wanted.clone(),
            _ => {
                let ending = format!("_{number}");
                let room = NAME_LEN_MAX - ending.len();
                format!("{}{ending}", &wanted[..wanted.len().min(room)])
            }
        };
        let free = (1..).map(numbered).find(|name| !taken.contains(name)).expect("there are more numbers than tools");
        taken.insert(free.clone());
        self.offered_as = Some(free).filter(|free| *free != self.name);
    }
}

/// The name with what models refuse replaced, and cut where it is too long for them. It is ASCII.
fn legal(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let legal: String = name.chars().map(legal).take(NAME_LEN_MAX).collect();
    if legal.is_empty() { "tool".to_owned() } else { legal }
}

/// A tool whose source is gone: it is offered as it was, and every call says so.
pub(crate) fn orphan(listed: &ListedTool, source: &str) -> Tool {
    Tool::from_function(Orphan { spec: listed.spec(), source: source.to_owned() }).effect(listed.effect)
}

struct Orphan {
    spec: ToolSpec,
    source: String,
}

impl ToolFunction for Orphan {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, _arguments: Value, _context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        let message =
            format!("the tool is gone: {:?}, which had it, is not among the agent's tools any more", self.source);
        Box::pin(async move { Err(ToolError::Failed(Failure::new(FailureKind::Definition, message))) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(names: &[&str], taken: &[&str]) -> Vec<String> {
        let mut taken = taken.iter().map(|name| (*name).to_owned()).collect();
        let named = names.iter().map(|name| {
            let (name, parameters) = ((*name).to_owned(), serde_json::json!({ "type": "object" }));
            let effect = ToolEffect::Read;
            let mut listed = ListedTool { name, offered_as: None, description: String::new(), parameters, effect };
            listed.name_among(&mut taken);
            assert_eq!(listed.offered_as.as_ref(), Some(&listed.spec().name).filter(|name| **name != listed.name));
            listed.spec().name
        });
        named.collect()
    }

    #[test]
    fn names_are_made_such_that_models_accept_them_and_no_two_are_alike() {
        assert_eq!(offered(&["get_time", "get-time"], &[]), ["get_time", "get-time"]);
        assert_eq!(offered(&["a.b", "a/b", "a b", "Zürich"], &[]), ["a_b", "a_b_2", "a_b_3", "Z_rich"]);
        assert_eq!(offered(&["think", "think"], &["think", "think_2"]), ["think_3", "think_4"]);
        assert_eq!(offered(&["", "日本"], &[]), ["tool", "__"]);
        let long = "x".repeat(100);
        let named = offered(&[&long, &long, &long], &[]);
        assert_eq!(named[0], "x".repeat(64));
        assert_eq!(named[2], format!("{}_3", "x".repeat(62)));
        assert!(named.iter().all(|name| crate::tool::name_problem(name).is_none()), "{named:?}");
    }
}
