//! Where a workflow asks people: Agno's `HumanReview` as data, and its builder.
//!
//! It must never know who is asked. What is asked in a run is a [`Question`](crate::Question), made from this when the
//! run gets there.

use super::{Node, millis};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// What follows when a person says no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReject {
    /// The step is left out, and the run goes on.
    #[default]
    Skip,
    /// The run is cancelled.
    Cancel,
    /// An output is made again, with the person's feedback; a Loop goes on; anything else is asked again.
    Retry,
    /// A Condition takes its other branch; anything else is left out. In JSON `else`; Agno's `else_branch`.
    Else,
}

/// What follows when nobody answers in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The run is cancelled.
    #[default]
    Cancel,
    /// The step is left out.
    Skip,
    /// As if somebody had said yes. A Router takes its first choice.
    Approve,
}

impl OnTimeout {
    /// Agno's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Skip => "skip",
            Self::Approve => "approve",
        }
    }
}

/// What a field takes, in Agno's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FieldType {
    /// Text.
    #[default]
    #[serde(rename = "str", alias = "string")]
    Str,
    /// A whole number.
    #[serde(rename = "int", alias = "integer")]
    Int,
    /// Any number.
    #[serde(rename = "float", alias = "number")]
    Float,
    /// Yes or no.
    #[serde(rename = "bool", alias = "boolean")]
    Bool,
    /// A list.
    #[serde(rename = "list", alias = "array")]
    List,
    /// An object.
    #[serde(rename = "dict", alias = "object")]
    Dict,
}

impl FieldType {
    /// Agno's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::List => "list",
            Self::Dict => "dict",
        }
    }

    const fn in_schema(self) -> &'static str {
        match self {
            Self::Str => "string",
            Self::Int => "integer",
            Self::Float => "number",
            Self::Bool => "boolean",
            Self::List => "array",
            Self::Dict => "object",
        }
    }

    fn admits(self, value: &Value) -> bool {
        match self {
            Self::Str => value.is_string(),
            Self::Int => value.is_i64() || value.is_u64(),
            Self::Float => value.is_number(),
            Self::Bool => value.is_boolean(),
            Self::List => value.is_array(),
            Self::Dict => value.is_object(),
        }
    }
}

/// What a value is, in Agno's words.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// One field that a person is asked to fill in.
///
/// ```
/// use outlive_core::{FieldType, UserInputField};
///
/// let size = UserInputField::new("size").of(FieldType::Int).description("in cm").optional().allowed([38.into(), 40.into()]);
/// assert!(!size.required);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserInputField {
    /// Its name, unique among the fields.
    pub name: Arc<str>,
    /// What it takes.
    #[serde(default)]
    pub field_type: FieldType,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Arc<str>>,
    /// Whether it must be filled in.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub required: bool,
    /// What it may be; anything of its type when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_values: Vec<Value>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

impl UserInputField {
    /// A required field for text.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: Arc::from(name.as_ref()),
            field_type: FieldType::Str,
            description: None,
            required: true,
            allowed_values: Vec::new(),
        }
    }

    /// What it takes.
    #[must_use]
    pub fn of(self, field_type: FieldType) -> Self {
        Self { field_type, ..self }
    }

    /// What it is for.
    #[must_use]
    pub fn description(self, text: impl AsRef<str>) -> Self {
        Self { description: Some(Arc::from(text.as_ref())), ..self }
    }

    /// It may be left out.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// It takes these values only.
    #[must_use]
    pub fn allowed(self, values: impl IntoIterator<Item = Value>) -> Self {
        Self { allowed_values: values.into_iter().collect(), ..self }
    }

    /// As Agno's clients read it, with the value that was given.
    pub fn asked(&self, value: Option<&Value>) -> Value {
        let mut field = json!({
            "name": self.name,
            "field_type": self.field_type,
            "description": self.description,
            "value": value,
            "required": self.required,
        });
        if !self.allowed_values.is_empty() {
            field["allowed_values"] = json!(self.allowed_values);
        }
        field
    }

    /// JSON Schema of an object with these fields.
    pub(crate) fn schema(fields: &[Self]) -> Value {
        let mut properties = Map::new();
        for field in fields {
            let mut property = json!({ "type": field.field_type.in_schema() });
            if let Some(text) = &field.description {
                property["description"] = json!(text);
            }
            if !field.allowed_values.is_empty() {
                property["enum"] = json!(field.allowed_values);
            }
            properties.insert(field.name.to_string(), property);
        }
        let required: Vec<_> = fields.iter().filter(|field| field.required).map(|field| &field.name).collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    }

    /// Why these values do not fit these fields; all problems at once, in Agno's words.
    pub(crate) fn check_all(fields: &[Self], values: &Map<String, Value>) -> Result<(), String> {
        let mut problems: Vec<String> = Vec::new();
        for field in fields {
            let name = &field.name;
            match values.get(&**name).filter(|value| !value.is_null()) {
                None if field.required => problems.push(format!("Required field '{name}' is missing or empty")),
                None => {}
                Some(Value::String(text)) if text.is_empty() && field.required => {
                    problems.push(format!("Required field '{name}' is missing or empty"));
                }
                Some(value) if !field.field_type.admits(value) => {
                    let (wanted, given) = (field.field_type.as_str(), type_of(value));
                    problems.push(format!("Field '{name}' expected {wanted}, got {given}"));
                }
                Some(value) if !field.allowed_values.is_empty() && !field.allowed_values.contains(value) => {
                    let allowed = json!(field.allowed_values);
                    problems.push(format!("Field '{name}' must be one of {allowed}, got {value}"));
                }
                Some(_) => {}
            }
        }
        let is_known = |name: &&String| fields.is_empty() || fields.iter().any(|field| *field.name == ***name);
        for name in values.keys().filter(|name| !is_known(name)) {
            let known = fields.iter().map(|field| &*field.name).collect::<Vec<_>>().join(", ");
            problems.push(format!("Field '{name}' was not asked for: the fields are {known}"));
        }
        match problems.is_empty() {
            true => Ok(()),
            false => Err(format!("User input validation failed:\n  - {}", problems.join("\n  - "))),
        }
    }
}

/// Where a step or a container asks a person, and what follows. Agno's `HumanReview`.
///
/// ```
/// use outlive_core::{Failure, HumanReview, OnReject, Step};
/// use std::time::Duration;
///
/// let send = Step::function("Send", |_, input| async move { Ok::<_, Failure>(input.text()) }).human_review(
///     HumanReview::confirmation("Send it?").on_reject(OnReject::Cancel).timeout(Duration::from_secs(3 * 24 * 3600)),
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HumanReview {
    /// Whether it is asked before it begins.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_confirmation: bool,
    /// What people are told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmation_message: Option<Arc<str>>,
    /// Whether fields are to be filled in before it begins; of a Router, whether a person chooses.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_user_input: bool,
    /// What people are told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_input_message: Option<Arc<str>>,
    /// The fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_input_schema: Vec<UserInputField>,
    /// A Router: whether several may be chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_multiple_selections: bool,
    /// A step: whether its output is judged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_output_review: bool,
    /// What people are told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_review_message: Option<Arc<str>>,
    /// A Loop: whether a person says after each iteration that it is done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub requires_iteration_review: bool,
    /// What people are told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iteration_review_message: Option<Arc<str>>,
    /// What follows from a no; what is usual there when it is not said: a Router cancels, everything else is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_reject: Option<OnReject>,
    /// How often an output is made again; 3 when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// How long an answer is waited for, in milliseconds; for ever when it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What follows then.
    #[serde(skip_serializing_if = "is_cancel")]
    pub on_timeout: OnTimeout,
    /// Whether somebody else than whoever submitted the run must answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub four_eyes: bool,
}

fn is_cancel(on_timeout: &OnTimeout) -> bool {
    *on_timeout == OnTimeout::Cancel
}

impl HumanReview {
    /// Tries of an output when their number is not said.
    pub(crate) const MAX_RETRIES: u32 = 3;

    /// Asks before it begins, with this message.
    pub fn confirmation(message: impl AsRef<str>) -> Self {
        Self::default().confirm(message)
    }

    /// Has fields filled in before it begins; steps find them under `user_input` in their additional data.
    ///
    /// ```
    /// use outlive_core::{HumanReview, UserInputField};
    /// let review = HumanReview::user_input("Which colour?", [UserInputField::new("colour")]);
    /// ```
    pub fn user_input(message: impl AsRef<str>, fields: impl IntoIterator<Item = UserInputField>) -> Self {
        Self {
            requires_user_input: true,
            user_input_message: Some(Arc::from(message.as_ref())),
            user_input_schema: fields.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A Router: has a person choose.
    pub fn selection(message: impl AsRef<str>) -> Self {
        Self::user_input(message, [])
    }

    /// A step: has its output judged.
    pub fn output(message: impl AsRef<str>) -> Self {
        Self {
            requires_output_review: true,
            output_review_message: Some(Arc::from(message.as_ref())),
            ..Self::default()
        }
    }

    /// A Loop: asks after each iteration whether it is done. A yes ends it; a no with [`OnReject::Retry`] goes on.
    pub fn iterations(message: impl AsRef<str>) -> Self {
        Self {
            requires_iteration_review: true,
            iteration_review_message: Some(Arc::from(message.as_ref())),
            ..Self::default()
        }
    }

    /// Asks before it begins, too.
    #[must_use]
    pub fn confirm(self, message: impl AsRef<str>) -> Self {
        Self { requires_confirmation: true, confirmation_message: Some(Arc::from(message.as_ref())), ..self }
    }

    /// A Router: several may be chosen.
    #[must_use]
    pub fn several(self) -> Self {
        Self { allow_multiple_selections: true, ..self }
    }

    /// What follows from a no.
    #[must_use]
    pub fn on_reject(self, on_reject: OnReject) -> Self {
        Self { on_reject: Some(on_reject), ..self }
    }

    /// How often an output is made again.
    #[must_use]
    pub fn max_retries(self, times: u32) -> Self {
        Self { max_retries: Some(times), ..self }
    }

    /// How long an answer is waited for.
    #[must_use]
    pub fn timeout(self, longest: Duration) -> Self {
        Self { timeout_ms: Some(millis(longest)), ..self }
    }

    /// What follows when nobody has answered by then.
    #[must_use]
    pub fn on_timeout(self, on_timeout: OnTimeout) -> Self {
        Self { on_timeout, ..self }
    }

    /// Whoever submitted the run must not answer, only somebody else who is known by name. A run that does not say whose
    /// it is (its `user_id`) cannot be answered then.
    #[must_use]
    pub fn four_eyes(self) -> Self {
        Self { four_eyes: true, ..self }
    }

    /// What cannot be asked of such a node.
    pub(super) fn problems(&self, node: &Node) -> Vec<String> {
        let mut problems = Vec::new();
        let (is_step, is_router) = (matches!(node, Node::Step(_)), matches!(node, Node::Router(_)));
        let is_decided = matches!(node, Node::Condition(_) | Node::ForEach(_));
        if self.requires_output_review && !is_step {
            problems.push("only the output of a step can be judged: review a step in it".to_owned());
        }
        if self.requires_iteration_review && !matches!(node, Node::Loop(_)) {
            problems.push("only a Loop has iterations to judge".to_owned());
        }
        if self.requires_user_input && !is_step && !is_router {
            problems.push("only a step takes input from people, and a Router a choice".to_owned());
        }
        if self.requires_user_input && is_router && !self.user_input_schema.is_empty() {
            problems.push("a Router takes a choice, not fields: leave user_input_schema out".to_owned());
        }
        if self.requires_user_input && self.requires_confirmation {
            problems
                .push("it asks for confirmation and for input at once: who fills in the fields says yes".to_owned());
        }
        if self.four_eyes && self.on_timeout == OnTimeout::Approve {
            problems
                .push("four eyes are to see it, and it says yes when nobody has: choose another on_timeout".to_owned());
        }
        if self.on_reject == Some(OnReject::Else) && !is_decided {
            problems.push("only a Condition has another branch to take".to_owned());
        }
        let mut names = BTreeSet::new();
        for field in &self.user_input_schema {
            if field.name.trim().is_empty() {
                problems.push("a field has an empty name".to_owned());
            }
            if !names.insert(&field.name) {
                problems.push(format!("two fields are named {:?}: give each its own name", field.name));
            }
        }
        problems
    }

    /// What follows from a no at such a node.
    pub(crate) fn on_reject_at(&self, node: &Node) -> OnReject {
        let usual = if matches!(node, Node::Router(_)) { OnReject::Cancel } else { OnReject::Skip };
        self.on_reject.unwrap_or(usual)
    }

    /// Whether it asks anything.
    pub fn asks(&self) -> bool {
        self.requires_confirmation
            || self.requires_user_input
            || self.requires_output_review
            || self.requires_iteration_review
    }
}
