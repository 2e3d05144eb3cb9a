//! What a tool needs of people before a call is made, and a tool's own questions while it is.
//!
//! It must never know a model or a log. Invariant: the model never fills in what a person is asked for.

use super::{Tool, ToolContext};
use crate::desk::Caller;
use outlive_core::{
    Answer, Failure, FailureKind, FieldType, HumanReview, Key, Question, ToolEffect, ToolSpec, UserInputField,
};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// What a tool needs of people before a call is made; at most one of the three.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    pub(crate) confirmation: bool,
    pub(crate) user_input: bool,
    /// The arguments that a person fills in: all, when none is named.
    fields: Vec<Arc<str>>,
    pub(crate) external_execution: bool,
    pub(crate) is_silent: bool,
    /// Whether somebody else than whoever submitted the run must answer.
    pub(crate) four_eyes: bool,
    /// How long an answer is waited for.
    pub(crate) timeout: Option<Duration>,
}

impl Needs {
    pub(crate) fn asks(&self) -> bool {
        self.confirmation || self.user_input || self.external_execution
    }

    fn names(&self, field: &str) -> bool {
        self.user_input && (self.fields.is_empty() || self.fields.iter().any(|name| **name == *field))
    }
}

impl Tool {
    /// A tool that runs elsewhere: no call of it is made here. Its agent pauses, and whoever runs it hands in the result.
    ///
    /// ```
    /// use outlive_agent::tool::Tool;
    ///
    /// #[derive(serde::Deserialize, schemars::JsonSchema)]
    /// struct Print {
    ///     pages: u32,
    /// }
    ///
    /// let print = Tool::external::<Print>("print", "Prints at the desk.");
    /// assert_eq!(print.spec().parameters["properties"]["pages"]["type"], "integer");
    /// ```
    pub fn external<Args>(name: impl Into<String>, description: impl Into<String>) -> Self
    where
        Args: serde::de::DeserializeOwned + schemars::JsonSchema + Send + 'static,
    {
        let elsewhere = |_: Args, _: ToolContext| async { Err::<(), _>(Failure::fatal("this tool runs elsewhere")) };
        Self::new(name, description, elsewhere).external_execution()
    }

    /// A person must allow each call, with exactly the arguments that it is made with. Meanwhile the run is paused, for
    /// days if need be. A no is told to the model, with the person's note. Unless its [effect](Tool::effect) is chosen,
    /// such a tool is [`ToolEffect::Once`].
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    /// use std::convert::Infallible;
    ///
    /// let delete = Tool::new("delete", "Deletes all.", |(): (), _: ToolContext| async { Ok::<_, Infallible>("gone") });
    /// let delete = delete.requires_confirmation();
    /// # let _ = delete;
    /// ```
    pub fn requires_confirmation(mut self) -> Self {
        self.needs.confirmation = true;
        if !self.is_effect_chosen && self.effect == ToolEffect::default() {
            self.effect = ToolEffect::Once;
        }
        self
    }

    /// A person fills in all arguments of each call. The model is offered the tool without them.
    pub fn requires_user_input(mut self) -> Self {
        self.needs.user_input = true;
        self.shown = Some(Arc::new(self.without_input()));
        self
    }

    /// A person fills in these arguments of each call, and the model the others: it is offered the tool without them.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    ///
    /// #[derive(serde::Deserialize, schemars::JsonSchema)]
    /// struct Mail {
    ///     to: String,
    ///     subject: String,
    /// }
    ///
    /// let send = Tool::new("send", "Sends mail.", |mail: Mail, _: ToolContext| async move {
    ///     Ok::<_, std::convert::Infallible>(format!("{} for {}", mail.subject, mail.to))
    /// });
    /// let send = send.user_input_fields(["to"]);
    /// assert!(send.spec().parameters["properties"].get("to").is_none());
    /// ```
    pub fn user_input_fields(mut self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.needs.fields.extend(names.into_iter().map(|name| Arc::from(name.as_ref())));
        self.requires_user_input()
    }

    /// The tool runs elsewhere: its function is never called. Its agent pauses, and whoever runs it hands in the result.
    pub fn external_execution(mut self) -> Self {
        self.needs.external_execution = true;
        self
    }

    /// As [`Tool::external_execution`], and the agent does not say that it waits for it.
    pub fn external_execution_silent(mut self) -> Self {
        self.needs.is_silent = true;
        self.external_execution()
    }

    /// How long people may take to answer; for ever unless set. When nobody has by then, the model is told.
    pub fn answer_timeout(mut self, longest: Duration) -> Self {
        self.needs.timeout = Some(longest);
        self
    }

    /// Whoever submitted the run must not answer what is asked about calls of this tool, or what it asks itself.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    /// use std::convert::Infallible;
    ///
    /// let pay = Tool::new("pay", "Pays.", |(): (), _: ToolContext| async { Ok::<_, Infallible>("paid") });
    /// let pay = pay.requires_confirmation().four_eyes();
    /// # let _ = pay;
    /// ```
    pub fn four_eyes(mut self) -> Self {
        self.needs.four_eyes = true;
        self
    }

    /// The fields that a person fills in, as the schema of the arguments types them.
    pub(crate) fn input_fields(&self) -> Vec<UserInputField> {
        let parameters = &self.function.spec().parameters;
        let is_required = |name: &str| {
            parameters["required"].as_array().is_some_and(|all| all.iter().any(|required| required == name))
        };
        let properties = parameters["properties"].as_object().into_iter().flatten();
        let asked = properties.filter(|(name, _)| self.needs.names(name));
        asked
            .map(|(name, schema)| UserInputField {
                name: Arc::from(name.as_str()),
                field_type: field_type(schema),
                description: schema["description"].as_str().map(Arc::from),
                required: is_required(name),
                allowed_values: schema["enum"].as_array().cloned().unwrap_or_default(),
            })
            .collect()
    }

    /// The model's arguments, with what a person has filled in, and without what only a person may.
    pub(crate) fn fill_in(&self, arguments: &mut Value, values: &Map<String, Value>) {
        if let Some(arguments) = arguments.as_object_mut() {
            arguments.retain(|name, _| !self.needs.names(name));
            arguments.extend(values.clone());
        }
    }

    fn without_input(&self) -> ToolSpec {
        let mut spec = self.function.spec().clone();
        if let Some(properties) = spec.parameters["properties"].as_object_mut() {
            properties.retain(|name, _| !self.needs.names(name));
        }
        if let Some(required) = spec.parameters.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| !name.as_str().is_some_and(|name| self.needs.names(name)));
        }
        spec
    }

    /// What cannot be asked about calls of this tool.
    pub(super) fn people_problems(&self) -> Vec<String> {
        let (needs, name) = (&self.needs, &self.spec().name);
        let wishes = [
            (needs.confirmation, "confirmation"),
            (needs.user_input, "user input"),
            (needs.external_execution, "external execution"),
        ];
        let wishes: Vec<_> = wishes.iter().filter(|(is_wished, _)| *is_wished).map(|(_, wish)| *wish).collect();
        let mut problems = Vec::new();
        if wishes.len() > 1 {
            problems.push(format!("tool {name:?} requires {} at once: choose one", wishes.join(" and ")));
        }
        let known = &self.function.spec().parameters["properties"];
        for field in needs.fields.iter().filter(|field| known.get(&***field).is_none()) {
            problems.push(format!("tool {name:?} has no argument {field:?} that a person could fill in"));
        }
        problems
    }
}

impl ToolContext {
    /// Asks a person, and waits for the answer as long as it takes: days, while the process is down. The question is asked
    /// once under `name`, and so is its answer. When the run leaves memory meanwhile, the tool is called again from its
    /// beginning, with the same idempotency key, and gets the same answer; so a tool that is
    /// [`ToolEffect::Once`] cannot ask. The tool's time limit does not run while it waits.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    /// use outlive_core::{Answer, Failure, HumanReview};
    ///
    /// let order = Tool::new("order", "Orders lunch.", |(): (), context: ToolContext| async move {
    ///     match context.ask("budget", HumanReview::confirmation("More than 20 euros?")).await? {
    ///         Answer::Approve => Ok("ordered"),
    ///         _ => Err(Failure::fatal("too expensive")),
    ///     }
    /// });
    /// # let _ = order;
    /// ```
    ///
    /// # Errors
    /// [`FailureKind::Definition`] when the name is empty, longer than 128 bytes or used before in this call, when nothing
    /// is asked, when the tool is `Once`, or when nobody can be asked here.
    ///
    /// # Cancel safety
    /// The question stays asked.
    pub async fn ask(&self, name: &str, review: HumanReview) -> Result<Answer, Failure> {
        let Some(asker) = &self.asker else {
            let problem = "nobody can be asked here: only a tool that an agent calls can ask people";
            return Err(Failure::new(FailureKind::Definition, problem));
        };
        if asker.is_once {
            let problem = format!(
                "the tool asks {name:?} in the middle of a call that must not be made twice: \
                 let it require confirmation, or declare it idempotent"
            );
            return Err(Failure::new(FailureKind::Definition, problem));
        }
        asker.caller.names().take_name(name)?;
        let limit = review.timeout_ms.map(Duration::from_millis);
        let asked = Question::of_review(name, review)?;
        let four_eyes = asked.four_eyes || asker.four_eyes;
        let question = Question { key: asker.key.named(name), four_eyes, ..asked };
        let answered = asker.caller.ask(vec![(question, limit)], None).await?;
        answered.into_iter().next().map(|answered| answered.answer).ok_or_else(Failure::default)
    }

    /// Waits for [`ToolContext::ask`] in a tool that blocks ([`Tool::blocking`]), on its own thread. Anywhere else it would
    /// hold up the whole run. When the run leaves memory meanwhile, the wait ends here with an error that the tool hands on.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    /// use outlive_core::{Answer, Failure, HumanReview};
    ///
    /// let order = Tool::blocking("order", "Orders lunch.", |(): (), context: ToolContext| {
    ///     match context.block_on(context.ask("budget", HumanReview::confirmation("More than 20 euros?")))? {
    ///         Answer::Approve => Ok("ordered"),
    ///         _ => Err(Failure::fatal("too expensive")),
    ///     }
    /// });
    /// # let _ = order;
    /// ```
    pub fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        outlive_core::port::block_on(call)
    }
}

/// By whom and where a call asks.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) caller: Caller,
    pub(crate) key: Key,
    pub(crate) is_once: bool,
    pub(crate) four_eyes: bool,
}

/// What a property of an arguments' schema takes.
fn field_type(schema: &Value) -> FieldType {
    let variants = || schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    let word = match &schema["type"] {
        Value::String(word) => word.as_str(),
        Value::Array(words) => words.iter().filter_map(Value::as_str).find(|word| *word != "null").unwrap_or_default(),
        _ => "",
    };
    match word {
        "string" => FieldType::Str,
        "integer" => FieldType::Int,
        "number" => FieldType::Float,
        "boolean" => FieldType::Bool,
        "array" => FieldType::List,
        "object" => FieldType::Dict,
        _ => match variants().and_then(|all| all.iter().find(|variant| variant["type"] != "null")) {
            Some(variant) => field_type(variant),
            None if schema["enum"].is_array() => FieldType::Str,
            None => FieldType::Dict,
        },
    }
}
