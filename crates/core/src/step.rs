//! What goes into a step and what comes out, in Agno's shape.

use crate::coerce::coerce;
use crate::history::{History, HistoryRun};
use crate::json;
use crate::message::Media;
use crate::metrics::Metrics;
use crate::outputs::Outputs;
use crate::run::content_text;
use crate::schema::check;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// A step's place: a number at the top level, `[container, child]` inside a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StepIndex {
    /// At the top level, from 0.
    At(u32),
    /// Inside a container.
    Inside(Vec<u32>),
}

/// What runs inside a step. Agno's `executor_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// A user's function.
    Function,
    /// An agent.
    Agent,
    /// A team.
    Team,
    /// Another workflow.
    Workflow,
    /// The branches of a Parallel.
    Parallel,
}

impl ExecutorKind {
    /// Agno's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Agent => "agent",
            Self::Team => "team",
            Self::Workflow => "workflow",
            Self::Parallel => "parallel",
        }
    }
}

/// The kind of a step. Agno's `step_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are Agno's and say it")]
pub enum StepType {
    #[default]
    Step,
    Steps,
    Parallel,
    Loop,
    Condition,
    Router,
    Workflow,
}

/// What a run was given beside its input; every step sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachments {
    /// The caller's own data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub additional_data: Option<Value>,
    /// Images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<Media>>,
    /// Videos.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub videos: Option<Vec<Media>>,
    /// Audio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Vec<Media>>,
    /// Files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<Media>>,
    /// What the caller notes about the run; shown on it and on its last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Box<Map<String, Value>>>,
    /// What steps may need beside their input. Agno's `dependencies`, which its functions find in their run context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Box<Map<String, Value>>>,
}

/// The shape a workflow's input must have. Agno's `input_schema`.
#[derive(Clone)]
pub struct InputSchema {
    /// As JSON Schema, for clients that ask what to send.
    pub schema: Value,
    read: Arc<ReadInput>,
}

type ReadInput = dyn Fn(Value) -> Result<Value, String> + Send + Sync;

impl InputSchema {
    /// A schema, and the function that reads an input by it: it returns the value as steps will see it (defaults filled
    /// in), or what is wrong with it.
    pub fn new(schema: Value, read: impl Fn(Value) -> Result<Value, String> + Send + Sync + 'static) -> Self {
        Self { schema, read: Arc::new(read) }
    }

    /// A schema alone: inputs are fitted to it, and must fit it.
    pub fn json(schema: Value) -> Self {
        let known = schema.clone();
        Self::new(schema, move |value| check(&value, &known).map(|()| value).map_err(|unfit| unfit.to_string()))
    }

    /// Reads an input: text as JSON, anything else as it is, nothing as null; then fitted to the schema where that loses
    /// nothing, `"3"` and `2.0` to whole numbers for example.
    ///
    /// # Errors
    /// [`InvalidInput`] says what is wrong with it.
    pub fn read(&self, input: Option<Value>) -> Result<Value, InvalidInput> {
        let value = match input {
            Some(Value::String(text)) => match json::read(&text) {
                Ok(value) => value,
                // Where text is wanted, text that is no JSON is what is meant.
                Err(_) if self.schema.get("type").is_some_and(|kind| kind == "string") => Value::String(text),
                Err(error) => return Err(InvalidInput { problem: format!("it is not JSON: {error}") }),
            },
            other => other.unwrap_or_default(),
        };
        let fitted = coerce(value, &self.schema).map_err(|misfit| misfit.to_string());
        fitted.and_then(|value| (self.read)(value)).map_err(|problem| InvalidInput { problem })
    }
}

impl fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputSchema").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// An input that its workflow's schema does not allow. The sentence begins as Agno's does, for clients that show it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Input failed schema validation: {problem}")]
pub struct InvalidInput {
    /// What is wrong with it.
    pub problem: String,
}

/// What a step is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepInput {
    /// The run's input: text, an object, or null. All steps share it.
    pub input: Option<Arc<Value>>,
    /// Every earlier step's output, by step name.
    pub previous_step_outputs: Outputs,
    /// The content of the step before, absent for the first.
    pub previous_step_content: Option<Value>,
    /// The caller's own data.
    pub additional_data: Option<Value>,
    /// Images of the run and of the steps before.
    pub images: Option<Vec<Media>>,
    /// Videos of the run and of the steps before.
    pub videos: Option<Vec<Media>>,
    /// Audio of the run and of the steps before.
    pub audio: Option<Vec<Media>>,
    /// Files of the run and of the steps before.
    pub files: Option<Vec<Media>>,
    /// What the caller notes about the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Box<Map<String, Value>>>,
    /// What the caller gave for steps to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Box<Map<String, Value>>>,
    /// What earlier runs of the session were asked and came to, where the step is to see it.
    #[serde(skip)]
    pub history: Option<Arc<History>>,
}

impl StepInput {
    /// The earlier runs of the session that the step is shown, oldest first. Agno's `get_workflow_history`.
    pub fn workflow_history(&self) -> &[HistoryRun] {
        self.history.as_deref().map_or(&[], |history| &history.runs)
    }

    /// The same as the text that is put in front of an agent's message; none when there is nothing. Agno's
    /// `get_workflow_history_context`.
    pub fn workflow_history_context(&self) -> Option<String> {
        self.history.as_deref()?.context()
    }

    /// What people have said about the step, as the text that is put after an agent's message: the fields they filled in,
    /// or the output they did not take and why. None when nobody was asked.
    ///
    /// ```
    /// use outlive_core::StepInput;
    /// let additional_data = Some(serde_json::json!({ "user_input": { "colour": "red" } }));
    /// let input = StepInput { additional_data, ..StepInput::default() };
    /// assert_eq!(input.people_context().as_deref(), Some("User input:\n- colour: red"));
    /// ```
    pub fn people_context(&self) -> Option<String> {
        let said = self.additional_data.as_ref()?.as_object()?;
        let mut parts = Vec::new();
        if let Some(values) = said.get("user_input").and_then(Value::as_object) {
            let lines: Vec<_> =
                values.iter().map(|(name, value)| format!("- {name}: {}", content_text(Some(value)))).collect();
            parts.extend((!lines.is_empty()).then(|| format!("User input:\n{}", lines.join("\n"))));
        }
        let text = |name: &str| said.get(name).map(|value| content_text(Some(value))).filter(|text| !text.is_empty());
        parts.extend(text("previous_output").map(|output| format!("Your previous output:\n{output}")));
        parts.extend(text("rejection_feedback").map(|feedback| format!("Feedback of the reviewer:\n{feedback}")));
        (!parts.is_empty()).then(|| parts.join("\n\n"))
    }

    /// Adds the media that an earlier step made, and those inside it.
    pub(crate) fn add_media_of(&mut self, output: &StepOutput) {
        fn add(to: &mut Option<Vec<Media>>, more: &Option<Vec<Media>>) {
            if let Some(more) = more.as_deref().filter(|more| !more.is_empty()) {
                to.get_or_insert_default().extend_from_slice(more);
            }
        }
        add(&mut self.images, &output.images);
        add(&mut self.videos, &output.videos);
        add(&mut self.audio, &output.audio);
        add(&mut self.files, &output.files);
        let inside = output.steps.iter().filter(|step| step.error.is_none());
        inside.for_each(|step| self.add_media_of(step));
    }

    /// What the step should work on, as text: the content of the step before, for the first step the run's input.
    pub fn text(&self) -> String {
        content_text(self.previous_step_content.as_ref().or(self.input.as_deref()))
    }

    /// The output of an earlier step of this name, also of one inside a container. Where several have it, the one that
    /// stands least deep, and of these the last: what has ended last, and inside it what stands last in the definition.
    ///
    /// ```
    /// use outlive_core::StepInput;
    /// assert!(StepInput::default().output("Research").is_none());
    /// ```
    pub fn output(&self, name: &str) -> Option<&StepOutput> {
        if let Some(output) = self.previous_step_outputs.get(name) {
            return Some(output);
        }
        let mut level: Vec<&StepOutput> = self.previous_step_outputs.in_order().map(|(_, output)| &**output).collect();
        while !level.is_empty() {
            level = level.iter().flat_map(|output| output.steps.iter().map(|step| &**step)).collect();
            if let Some(found) = level.iter().rev().find(|output| output.step_name.as_deref() == Some(name)) {
                return Some(found);
            }
        }
        None
    }

    /// The run's input as text.
    pub fn input_text(&self) -> String {
        content_text(self.input.as_deref())
    }
}

/// What a step gave back. All keys but `steps` are always written, nulls too, as Agno does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepOutput {
    /// Text, an object, an array, or null.
    pub content: Option<Value>,
    /// The step's name.
    pub step_name: Option<Arc<str>>,
    /// The step's id, the one its events carry.
    pub step_id: Option<Arc<str>>,
    /// The kind of step.
    pub step_type: StepType,
    /// What ran inside.
    pub executor_type: Option<ExecutorKind>,
    /// Its name.
    pub executor_name: Option<Arc<str>>,
    /// The run of the agent, team or workflow inside.
    pub step_run_id: Option<Arc<str>>,
    /// Images it made.
    pub images: Option<Vec<Media>>,
    /// Videos it made.
    pub videos: Option<Vec<Media>>,
    /// Audio it made.
    pub audio: Option<Vec<Media>>,
    /// Files it made.
    pub files: Option<Vec<Media>>,
    /// What it used.
    pub metrics: Option<Box<Metrics>>,
    /// Whether it succeeded.
    pub success: bool,
    /// Why not.
    pub error: Option<String>,
    /// The workflow ends after this step.
    pub stop: bool,
    /// The step waits for a person.
    pub is_paused: bool,
    /// The children of a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Arc<StepOutput>>,
}

impl Default for StepOutput {
    fn default() -> Self {
        Self {
            content: None,
            step_name: None,
            step_id: None,
            step_type: StepType::Step,
            executor_type: None,
            executor_name: None,
            step_run_id: None,
            images: None,
            videos: None,
            audio: None,
            files: None,
            metrics: None,
            success: true,
            error: None,
            stop: false,
            is_paused: false,
            steps: Vec::new(),
        }
    }
}

impl StepOutput {
    /// A success with this content. The caller of the step fills in name, id and executor.
    pub fn new(content: impl Into<Value>) -> Self {
        Self { content: Some(content.into()), ..Self::default() }
    }

    /// A success after which the workflow ends.
    pub fn stop(content: impl Into<Value>) -> Self {
        Self { stop: true, ..Self::new(content) }
    }

    /// Adds images, for the steps after it and the run's result.
    ///
    /// ```
    /// use outlive_core::{Failure, Media, Step, StepOutput};
    ///
    /// let draw = Step::function("Draw", |_, _| async move {
    ///     let image = Media { url: Some("https://example.com/map.png".to_owned()), ..Media::default() };
    ///     Ok::<_, Failure>(StepOutput::new("a map").images([image]))
    /// });
    /// ```
    pub fn images(mut self, images: impl IntoIterator<Item = Media>) -> Self {
        self.images.get_or_insert_default().extend(images);
        self
    }

    /// Adds videos.
    pub fn videos(mut self, videos: impl IntoIterator<Item = Media>) -> Self {
        self.videos.get_or_insert_default().extend(videos);
        self
    }

    /// Adds audio clips.
    pub fn audio(mut self, audio: impl IntoIterator<Item = Media>) -> Self {
        self.audio.get_or_insert_default().extend(audio);
        self
    }

    /// Adds files.
    pub fn files(mut self, files: impl IntoIterator<Item = Media>) -> Self {
        self.files.get_or_insert_default().extend(files);
        self
    }

    /// Every image, video, audio clip and file of its own.
    pub fn media_mut(&mut self) -> impl Iterator<Item = &mut Media> {
        let all = [&mut self.images, &mut self.videos, &mut self.audio, &mut self.files];
        all.into_iter().flatten().flatten()
    }

    /// Whether it has media, or something inside it does.
    pub(crate) fn has_media(&self) -> bool {
        let own = [&self.images, &self.videos, &self.audio, &self.files];
        own.into_iter().flatten().any(|media| !media.is_empty()) || self.steps.iter().any(|step| step.has_media())
    }

    /// What is kept of a step that failed. Agno names no executor there.
    pub(crate) fn failed(name: Option<Arc<str>>, id: Option<Arc<str>>, content: &str, error: &str) -> Self {
        Self { step_name: name, step_id: id, success: false, error: Some(error.to_owned()), ..Self::new(content) }
    }

    /// The content as text.
    pub fn text(&self) -> String {
        content_text(self.content.as_ref())
    }

    /// What it gave back as text: of a container what the last step inside did, of a Parallel or a ForEach what all branches
    /// did, each under its name. None where nothing succeeded.
    pub fn given_back(&self) -> Option<String> {
        match self.step_type {
            StepType::Step => (self.success && self.content.is_some()).then(|| self.text()),
            StepType::Parallel => self.joined(),
            _ => self.steps.iter().rev().find_map(|step| step.given_back()),
        }
    }

    /// What the branches of the Parallel that it ends with gave back, in Agno's words.
    pub(crate) fn joined(&self) -> Option<String> {
        if self.step_type != StepType::Parallel {
            return self.steps.iter().rev().find(|step| step.given_back().is_some())?.joined();
        }
        let part = |branch: &Arc<StepOutput>| {
            let text = branch.given_back().filter(|text| !text.is_empty())?;
            Some(format!("=== {} ===\n{text}", branch.step_name.as_deref().unwrap_or_default()))
        };
        let parts: Vec<_> = self.steps.iter().filter_map(part).collect();
        (!parts.is_empty()).then(|| parts.join("\n\n"))
    }

    /// What is inside a container, by name, in the order of the definition: of a Parallel its branches.
    pub fn inside(&self) -> impl Iterator<Item = (&str, &StepOutput)> {
        self.steps.iter().map(|step| (step.step_name.as_deref().unwrap_or_default(), &**step))
    }
}

/// Agno's `content_type`: the Python class of the content.
pub(crate) fn content_type(content: Option<&Value>) -> &'static str {
    match content {
        None | Some(Value::Null | Value::String(_)) => "str",
        Some(Value::Object(_)) => "dict",
        Some(Value::Array(_)) => "list",
        Some(Value::Bool(_)) => "bool",
        Some(Value::Number(_)) => "float",
    }
}

impl From<String> for StepOutput {
    fn from(content: String) -> Self {
        Self::new(content)
    }
}

impl From<&str> for StepOutput {
    fn from(content: &str) -> Self {
        Self::new(content)
    }
}

impl From<Value> for StepOutput {
    fn from(content: Value) -> Self {
        Self::new(content)
    }
}

impl From<()> for StepOutput {
    fn from((): ()) -> Self {
        Self::default()
    }
}
