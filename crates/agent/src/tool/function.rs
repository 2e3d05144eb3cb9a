//! Tools made from a function: the argument schema comes from the argument type, and the model's JSON is checked
//! against it.
//!
//! It knows no model and no log. A function is never called with arguments that do not fit.

use super::{Tool, ToolContext, ToolError, ToolFunction, panicked};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, ToolSpec};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::task::JoinError;

impl Tool {
    /// A tool that runs an async function.
    ///
    /// The model sees the fields of `Args` with their doc comments; a tool without arguments takes `()`. A `String`
    /// goes to the model as it is, anything else as JSON. An error goes to the model as an error; it may be a
    /// [`Failure`] or anything that can be displayed. Unless [`Tool::effect`] says otherwise, the call is repeated with
    /// the same idempotency key after a crash. It may take a minute; see [`Tool::timeout`].
    ///
    /// Arguments are fitted to the schema where their meaning is clear ([`coerce`](outlive_core::coerce)): `"5"` is 5
    /// where a number is expected. Events and the log show them as the model wrote them.
    ///
    /// ```
    /// use outlive_agent::tool::{Tool, ToolContext};
    ///
    /// #[derive(serde::Deserialize, schemars::JsonSchema)]
    /// struct Distance {
    ///     /// How far, in miles.
    ///     miles: f64,
    /// }
    ///
    /// let tool = Tool::new("to_kilometres", "Converts miles.", |distance: Distance, _: ToolContext| async move {
    ///     Ok::<_, std::convert::Infallible>(distance.miles * 1.609)
    /// });
    /// assert_eq!(tool.spec().parameters["properties"]["miles"]["type"], "number");
    /// ```
    pub fn new<Args, Out, Error, Done>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: impl Fn(Args, ToolContext) -> Done + Send + Sync + 'static,
    ) -> Self
    where
        Args: DeserializeOwned + JsonSchema + Send + 'static,
        Out: Serialize,
        Error: Into<Failure>,
        Done: Future<Output = Result<Out, Error>> + Send + 'static,
    {
        let schema = parameters::<Args>();
        let call = move |arguments: Value, context: ToolContext| -> Outcome {
            match read::<Args>(arguments) {
                Ok(arguments) => {
                    let done = function(arguments, context);
                    Box::pin(async move { told(done.await) })
                }
                Err(problem) => Box::pin(async move { Err(ToolError::Arguments(problem)) }),
            }
        };
        let check = |arguments: &Value| read::<Args>(arguments.clone()).map(drop);
        let spec = spec(name.into(), description.into(), schema);
        Self::from_function(FunctionTool { spec, check, call: Box::new(call) })
    }

    /// A tool that runs a function that blocks its thread; it gets its own thread. For the rest see [`Tool::new`].
    ///
    /// # Cancel safety
    /// A function that has started runs to its end even if nobody waits for it any more, even past [`Tool::timeout`]:
    /// set a limit on what it calls too.
    pub fn blocking<Args, Out, Error>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: impl Fn(Args, ToolContext) -> Result<Out, Error> + Clone + Send + Sync + 'static,
    ) -> Self
    where
        Args: DeserializeOwned + JsonSchema + Send + 'static,
        Out: Serialize + Send + 'static,
        Error: Into<Failure> + Send + 'static,
    {
        Self::new(name, description, move |arguments: Args, context| {
            let function = function.clone();
            async move {
                let done = tokio::task::spawn_blocking(move || function(arguments, context).map_err(Into::into)).await;
                done.unwrap_or_else(|error| Err(not_returned(error)))
            }
        })
    }
}

type Outcome = BoxFuture<'static, Result<String, ToolError>>;

struct FunctionTool {
    spec: ToolSpec,
    check: fn(&Value) -> Result<(), String>,
    call: Box<dyn Fn(Value, ToolContext) -> Outcome + Send + Sync>,
}

impl ToolFunction for FunctionTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, arguments: &Value) -> Result<(), String> {
        (self.check)(arguments)
    }

    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        (self.call)(arguments, context)
    }
}

fn spec(name: String, description: String, parameters: Value) -> ToolSpec {
    ToolSpec { name, description, parameters }
}

fn told<Out: Serialize>(done: Result<Out, impl Into<Failure>>) -> Result<String, ToolError> {
    let out = done.map_err(|error| ToolError::Failed(error.into()))?;
    // Through text and not through a `Value`, which would sort the fields.
    let json = serde_json::to_string(&out).map_err(|error| ToolError::Failed(Failure::fatal(error)))?;
    Ok(serde_json::from_str::<String>(&json).unwrap_or(json))
}

fn not_returned(error: JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(panic) => Failure::new(FailureKind::Panic, panicked(&*panic)),
        Err(_) => Failure::new(FailureKind::Unavailable, "the tool was not started: the program is shutting down"),
    }
}

/// The arguments in the form the function takes, or what is wrong with them and where.
fn read<Args: DeserializeOwned + Send>(arguments: Value) -> Result<Args, String> {
    let arguments = match arguments {
        // Models call tools without arguments in all these ways.
        Value::Null => json!({}),
        Value::String(text) if text.trim().is_empty() => json!({}),
        arguments => arguments,
    };
    let is_empty = arguments.as_object().is_some_and(Map::is_empty);
    let fit = || fit(&arguments, is_empty);
    outlive_core::json::with_room_for(&arguments, fit).unwrap_or_else(|error| Err(error.to_string()))
}

fn fit<Args: DeserializeOwned>(arguments: &Value, is_empty: bool) -> Result<Args, String> {
    serde_path_to_error::deserialize(arguments).or_else(|error| {
        // `()` is null and not `{}`; for a struct null says less than the first error.
        let nothing = is_empty.then(|| serde_json::from_value(Value::Null).ok()).flatten();
        nothing.ok_or_else(|| {
            let path = error.path().to_string();
            let place = if path == "." { String::new() } else { format!("at {path}: ") };
            format!("{place}{}", error.inner())
        })
    })
}

/// The schema of the arguments in the subset that model servers accept: one object, without references where possible.
fn parameters<Args: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<Args>().to_value();
    tidy(&mut schema);
    if schema["type"] == "null" {
        return json!({"type": "object", "properties": {}, "additionalProperties": false});
    }
    if let Some(fields) = schema.as_object_mut() {
        // The comment on the type is for programmers; the tool has its own description.
        fields.remove("description");
        if fields.get("type").is_some_and(|kind| kind == "object") && !fields.contains_key("properties") {
            fields.insert("properties".into(), json!({}));
            fields.entry("additionalProperties").or_insert(json!(false));
        }
    }
    schema
}

/// Removes what is noise to a model, and closes objects. Leaves data alone: defaults, enumerations.
fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("title");
    // `uint32` and the like mean nothing to a model, and strict servers refuse them.
    if fields.get("format").and_then(Value::as_str).is_some_and(is_number_format) {
        fields.remove("format");
    }
    if fields.contains_key("properties") {
        fields.entry("additionalProperties").or_insert(json!(false));
    }
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("properties" | "$defs" | "patternProperties", Value::Object(children)) => {
                children.values_mut().for_each(tidy);
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(children)) => children.iter_mut().for_each(tidy),
            ("items" | "additionalProperties" | "not", child) => tidy(child),
            _ => {}
        }
    }
}

fn is_number_format(format: &str) -> bool {
    matches!(format, "float" | "double") || format.starts_with("int") || format.starts_with("uint")
}
