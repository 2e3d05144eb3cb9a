//! What an agent and a team's leader have in common: who they are, what they were told and how far they may go.
//!
//! It must never know what is running: a profile is a value, shared by every run made with it.

use crate::model::{IntoModel, SharedModel};
use crate::tool::Tool;
use outlive_core::machine::{AgentLimits, DELEGATE_TOOL};
use outlive_core::{DefinitionId, FinishReason, OutputSchema, Retry, Secret, json};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Instructions: one text, or a list of them.
pub trait IntoInstructions {
    /// The texts, in order.
    fn into_instructions(self) -> Vec<String>;
}

impl IntoInstructions for &str {
    fn into_instructions(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl IntoInstructions for String {
    fn into_instructions(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>> IntoInstructions for Vec<T> {
    fn into_instructions(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<String>, const N: usize> IntoInstructions for [T; N] {
    fn into_instructions(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl IntoInstructions for &[String] {
    fn into_instructions(self) -> Vec<String> {
        self.to_vec()
    }
}

/// The shape of the final answer, and how to check for it.
#[derive(Clone)]
pub(crate) struct OutputShape {
    pub(crate) schema: OutputSchema,
    check: Check,
}

#[derive(Clone, Copy)]
enum Check {
    Typed(fn(&Value) -> Result<(), String>),
    RequiredKeys,
}

impl OutputShape {
    pub(crate) fn of<T: JsonSchema + DeserializeOwned>() -> Self {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
        Self { schema: OutputSchema { name: schema_name(&T::schema_name()), schema }, check: Check::Typed(fits::<T>) }
    }

    pub(crate) fn json(name: &str, schema: Value) -> Self {
        Self { schema: OutputSchema { name: schema_name(name), schema }, check: Check::RequiredKeys }
    }

    /// The answer as the requested value.
    ///
    /// # Errors
    /// What is wrong with it, in words for the model.
    pub(crate) fn parse(&self, answer: &str) -> Result<Value, String> {
        let value = json::read(unfenced(answer)).map_err(|error| format!("it is not JSON: {error}"))?;
        match self.check {
            Check::Typed(fits) => fits(&value)?,
            Check::RequiredKeys => has_required_keys(&value, &self.schema.schema)?,
        }
        Ok(value)
    }
}

fn fits<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    let read = || {
        let read = serde_path_to_error::deserialize::<_, T>(value);
        read.map(drop).map_err(|error| match error.path().to_string().as_str() {
            "." => error.inner().to_string(),
            path => format!("at {path}: {}", error.inner()),
        })
    };
    json::with_room_for(value, read).unwrap_or_else(|error| Err(error.to_string()))
}

fn has_required_keys(value: &Value, schema: &Value) -> Result<(), String> {
    let is_object_wanted = schema.get("type").and_then(Value::as_str) == Some("object");
    if is_object_wanted && !value.is_object() {
        return Err("it is not an object".to_owned());
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let missing: Vec<_> = required.filter(|key| value.get(key).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("it lacks {}", missing.join(", ")))
}

/// The text inside a Markdown code fence, which models like to put around JSON; any other text unchanged.
fn unfenced(answer: &str) -> &str {
    let text = answer.trim();
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    match inside {
        Some(inside) => inside.split_once('\n').map_or(inside, |(_language, body)| body).trim(),
        None => text,
    }
}

fn schema_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// Who an agent or a team's leader is.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) name: Arc<str>,
    id: Option<Result<DefinitionId, String>>,
    pub(crate) model: Option<Result<SharedModel, String>>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) role: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) instructions: Vec<String>,
    pub(crate) expected_output: Option<String>,
    pub(crate) output: Option<OutputShape>,
    pub(crate) markdown: bool,
    pub(crate) limits: AgentLimits,
    pub(crate) stream: bool,
    pub(crate) history: bool,
    pub(crate) history_runs: u32,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    /// Ways for an answer to end that fail the run.
    pub(crate) fail_on: Vec<FinishReason>,
    pub(crate) rate_limit_budget: Duration,
}

impl Profile {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: Arc::from(name.trim()),
            id: None,
            model: None,
            tools: Vec::new(),
            role: None,
            description: None,
            instructions: Vec::new(),
            expected_output: None,
            output: None,
            markdown: false,
            limits: AgentLimits::default(),
            stream: true,
            history: false,
            history_runs: 3,
            retry: Retry::times(3),
            timeout: None,
            fail_on: Vec::new(),
            rate_limit_budget: Duration::from_secs(600),
        }
    }

    pub(crate) fn set_id(&mut self, id: &str) {
        self.id = Some(DefinitionId::parse(id).map_err(|invalid| invalid.to_string()));
    }

    pub(crate) fn set_model(&mut self, model: impl IntoModel) {
        self.model = Some(model.into_model());
    }

    /// The id that was set, or else the one made from the name.
    ///
    /// # Errors
    /// When it is not a valid id, in words.
    pub(crate) fn id(&self) -> Result<DefinitionId, String> {
        match &self.id {
            Some(id) => id.clone(),
            None => DefinitionId::from_name(&self.name).map_err(|_| {
                "its name has no letter or digit to make an id from: give it another name, or an id".to_owned()
            }),
        }
    }

    /// What would make every run fail, apart from the model.
    /// The key of its model.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.model.iter().flatten().flat_map(|model| model.secrets()).collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.id().err().into_iter().collect();
        if self.limits.turns_max == 0 {
            problems.push("its turns_max is 0: allow at least one model call".to_owned());
        }
        problems.extend(crate::tool::problems(&self.tools));
        if self.tool(DELEGATE_TOOL).is_some() {
            problems.push(format!("its tool {DELEGATE_TOOL:?} has the name teams delegate with: rename it"));
        }
        problems
    }

    /// The tool of this name.
    pub(crate) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.spec().name == name)
    }
}

/// What would make every call of this model fail.
pub(crate) fn model_problems(model: &Option<Result<SharedModel, String>>) -> Vec<String> {
    match model {
        None => vec!["it has no model: give it one with .model(..)".to_owned()],
        Some(Err(problem)) => vec![problem.clone()],
        Some(Ok(model)) => model.problems(),
    }
}
