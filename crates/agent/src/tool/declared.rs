//! Tools that are declared instead of programmed: a schema of their arguments, and a call over HTTP or of a program.
//!
//! It must never know where a declaration is written. The invariant: no call is made with arguments that do not fit.

#[cfg(feature = "commands")]
use super::CommandCall;
use super::{HttpCall, Tool, ToolContext, ToolError, ToolFunction};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, Secret, ToolEffect, ToolSpec, check};
use serde_json::{Map, Value, json};

/// What is called.
#[derive(Clone, Debug)]
pub enum Call {
    /// An address.
    Http(HttpCall),
    /// A program of this machine.
    #[cfg(feature = "commands")]
    Command(CommandCall),
}

impl Call {
    /// The arguments that it has places for.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Call::Http(call) => call.names().collect(),
            #[cfg(feature = "commands")]
            Call::Command(call) => call.names().collect(),
        }
    }

    /// What a repetition does when nothing is said: a GET reads.
    pub fn usual_effect(&self) -> Option<ToolEffect> {
        match self {
            Call::Http(call) => call.is_reading().then_some(ToolEffect::Read),
            #[cfg(feature = "commands")]
            Call::Command(_) => None,
        }
    }

    /// What would make every call fail.
    pub fn problems(&self) -> Vec<String> {
        match self {
            Call::Http(call) => call.problems(),
            #[cfg(feature = "commands")]
            Call::Command(call) => call.problems(),
        }
    }

    /// What must not be stored.
    pub fn secrets(&self) -> Vec<Secret> {
        match self {
            Call::Http(call) => call.secrets(),
            #[cfg(feature = "commands")]
            Call::Command(call) => call.secrets(),
        }
    }

    /// Makes the call. `input` is the body, or what the program is given.
    ///
    /// # Errors
    /// As [`HttpCall::call`] and [`CommandCall::call`].
    pub async fn make(
        &self,
        arguments: &Map<String, Value>,
        input: &Value,
        key: &str,
        run_id: &str,
    ) -> Result<String, Failure> {
        match self {
            Call::Http(call) => {
                let _ = run_id;
                call.call(arguments, input, key).await
            }
            #[cfg(feature = "commands")]
            Call::Command(call) => call.call(arguments, input, key, run_id).await,
        }
    }
}

impl Tool {
    /// A tool that makes a call. `arguments` is the JSON Schema of an object; those that the call has no place for are its
    /// body or what the program reads. Say with [`Tool::effect`] what a repetition does.
    ///
    /// ```
    /// use outlive_agent::tool::{Call, HttpCall, Tool};
    /// use serde_json::json;
    ///
    /// let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    /// let call = HttpCall::new("GET", "https://weather.example/{city}");
    /// let weather = Tool::calling("weather", "The weather in a city.", schema, Call::Http(call));
    /// assert_eq!(weather.spec().parameters["properties"]["city"]["type"], "string");
    /// ```
    pub fn calling(name: impl Into<String>, description: impl Into<String>, arguments: Value, call: Call) -> Self {
        let parameters = match arguments {
            Value::Object(mut fields) => {
                fields.entry("type").or_insert(json!("object"));
                fields.entry("properties").or_insert(json!({}));
                fields.entry("additionalProperties").or_insert(json!(false));
                Value::Object(fields)
            }
            other => other,
        };
        let spec = ToolSpec { name: name.into(), description: description.into(), parameters };
        Self::from_function(Declared { spec, call })
    }
}

struct Declared {
    spec: ToolSpec,
    call: Call,
}

impl ToolFunction for Declared {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self) -> ToolEffect {
        self.call.usual_effect().unwrap_or_default()
    }

    fn problems(&self) -> Vec<String> {
        self.call.problems()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.call.secrets()
    }

    fn check(&self, arguments: &Value) -> Result<(), String> {
        check(arguments, &self.spec.parameters).map_err(|unfit| unfit.to_string())
    }

    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        Box::pin(async move {
            let arguments = match arguments {
                Value::Null => Value::Object(Map::new()),
                arguments => arguments,
            };
            self.check(&arguments).map_err(ToolError::Arguments)?;
            let fields = arguments.as_object().ok_or_else(|| ToolError::Arguments("give an object".to_owned()))?;
            let (key, run_id) = (&context.idempotency_key, context.run_id.as_str());
            let made = self.call.make(fields, &arguments, key, run_id).await;
            made.map_err(|failure| match failure.kind {
                FailureKind::Truncated => {
                    ToolError::OutcomeUnknown(format!("lost its connection: {}", failure.message))
                }
                _ => ToolError::Failed(failure),
            })
        })
    }
}
