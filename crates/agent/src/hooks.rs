//! Hooks: what looks at a run's input before the run, or at its output after it, and lets it pass, changes or refuses it.
//!
//! A hook must never know the log: that what it said is kept, and that it is asked once, is the driver's business.

use futures::future::FutureExt;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, Media, Refusal, RunId, content_text, json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// What a hook is told beside what it looks at.
#[derive(Clone, Debug)]
pub struct HookContext {
    /// Whether it looks at an output; at an input otherwise.
    pub is_output: bool,
    /// The agent's or team's run.
    pub run_id: RunId,
    /// Whose run it is, if it is somebody's.
    pub user_id: Option<Arc<str>>,
    /// What the run was asked, as the hooks before have left it.
    pub input: Value,
    /// Images that come with it.
    pub images: Vec<Media>,
    /// Files that come with it.
    pub files: Vec<Media>,
    /// The session's state; to read.
    pub session_state: Map<String, Value>,
    /// What the caller notes about the run.
    pub metadata: Map<String, Value>,
    /// The same for every repetition after a crash, and for no other call of a hook.
    pub idempotency_key: Arc<str>,
}

/// A hook before or after the runs of an agent or a team: see [`Agent::pre_hook`](crate::Agent::pre_hook) and
/// [`Agent::post_hook`](crate::Agent::post_hook).
///
/// ```
/// use outlive_agent::model::ScriptedModel;
/// use outlive_agent::{Agent, CheckError, CheckTrigger, Hook, HookContext};
/// use outlive_core::ModelResponse;
/// use serde_json::Value;
///
/// let short = Hook::new("short", |input: Value, _: HookContext| async move {
///     match input.as_str() {
///         Some(text) if text.len() > 20 => Err(CheckError::new("ask in 20 bytes").trigger(CheckTrigger::InputNotAllowed)),
///         _ => Ok(()),
///     }
/// });
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let model = ScriptedModel::replies([ModelResponse::text("Yes.")]);
/// let agent = Agent::new("Terse").model(model).pre_hook(short);
/// assert_eq!(agent.run("Are you there?").await.unwrap().content, Some("Yes.".into()));
/// let refused = agent.run("Are you there, or somewhere else?").await.unwrap_err();
/// assert_eq!((refused.message.as_str(), refused.kind.code()), ("ask in 20 bytes", "input_check_error"));
/// # });
/// ```
#[derive(Clone)]
pub struct Hook {
    pub(crate) name: Arc<str>,
    call: Arc<Call>,
    /// Whether text is shown before this hook has seen the whole of it.
    pub(crate) streams: bool,
    /// What a guardrail does: it only computes, so nothing has to be on disk before it is asked.
    guard: Option<Arc<Guard>>,
    problem: Option<String>,
}

type Call = dyn Fn(Value, HookContext) -> BoxFuture<'static, Result<Passed, Failure>> + Send + Sync;
/// Looks at a content; the flag says whether it is an output.
type Guard = dyn Fn(&Value, bool) -> Result<Passed, CheckError> + Send + Sync;

/// What a hook lets pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// What it was given, as it is.
    Unchanged,
    /// This in its place.
    Changed(Value),
}

impl From<()> for Passed {
    fn from((): ()) -> Self {
        Self::Unchanged
    }
}

impl From<Value> for Passed {
    fn from(changed: Value) -> Self {
        Self::Changed(changed)
    }
}

impl From<String> for Passed {
    fn from(changed: String) -> Self {
        Self::Changed(changed.into())
    }
}

impl Hook {
    /// A hook of this name. Its function is given the run's input or its output (text, or what an output schema
    /// describes), and returns nothing to let it pass, or a value (or text) to take its place.
    ///
    /// With [`CheckError`] it refuses: the run ends ERROR in the check's words, with `error_type` `input_check_error` or
    /// `output_check_error`. With any other [`Failure`], and when it panics, the run ends ERROR too, and the error
    /// names the hook: what could not be checked does not pass.
    ///
    /// What it lets pass is recorded: after a crash it is asked again only if it had not answered, as
    /// [`HookContext::idempotency_key`] lets other services recognise.
    ///
    /// # Cancel safety
    /// The future is dropped when the run is cancelled or stops here, and made again where the run goes on.
    pub fn new<F, R, T, E>(name: impl AsRef<str>, function: F) -> Self
    where
        F: Fn(Value, HookContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, E>> + Send + 'static,
        T: Into<Passed>,
        E: Into<Failure>,
    {
        let call = move |content, context| -> BoxFuture<'static, Result<Passed, Failure>> {
            let asked = function(content, context);
            Box::pin(async move { asked.await.map(Into::into).map_err(Into::into) })
        };
        Self { name: Arc::from(name.as_ref()), call: Arc::new(call), streams: false, guard: None, problem: None }
    }

    /// A hook that only computes.
    pub(crate) fn pure(
        name: &str,
        problem: Option<String>,
        check: impl Fn(&Value, bool) -> Result<Passed, CheckError> + Send + Sync + 'static,
    ) -> Self {
        let guard: Arc<Guard> = Arc::new(check);
        let asked = guard.clone();
        let call = move |content: Value, context: HookContext| -> BoxFuture<'static, Result<Passed, Failure>> {
            let checked = asked(&content, context.is_output).map_err(Failure::from);
            Box::pin(async move { checked })
        };
        Self { name: Arc::from(name), call: Arc::new(call), streams: false, guard: Some(guard), problem }
    }

    /// After a run: whether the answer's text is streamed while this hook has not seen it yet. Off unless set: the text
    /// is shown, in one piece, once all hooks have let it pass.
    pub fn stream(self, wanted: bool) -> Self {
        Self { streams: wanted, ..self }
    }

    /// Whether the log should say that it is asked before it is.
    pub(crate) fn is_pure(&self) -> bool {
        self.guard.is_some()
    }

    /// Whether it is a guardrail that would not let these words out as they are.
    pub(crate) fn guards_against(&self, words: &str) -> bool {
        let passed = |guard: &Arc<Guard>| guard(&Value::String(words.to_owned()), true);
        self.guard.as_ref().is_some_and(|guard| passed(guard) != Ok(Passed::Unchanged))
    }

    /// These words as a guardrail lets them in; none where it would not.
    pub(crate) fn guarded(&self, words: String) -> Option<String> {
        let Some(guard) = &self.guard else { return Some(words) };
        match guard(&Value::String(words.clone()), false).ok()? {
            Passed::Unchanged => Some(words),
            Passed::Changed(changed) => Some(content_text(Some(&changed))),
        }
    }

    /// This input as a guardrail masks it; as it is where it masks nothing.
    pub(crate) fn masked(&self, input: Value) -> Value {
        match self.guard.as_ref().map(|guard| guard(&input, false)) {
            Some(Ok(Passed::Changed(masked))) => masked,
            Some(Ok(Passed::Unchanged) | Err(_)) | None => input,
        }
    }

    /// What would make every run fail.
    pub(crate) fn problem(&self) -> Option<String> {
        let nameless = || self.name.trim().is_empty().then(|| "it needs a name".to_owned());
        self.problem.clone().or_else(nameless).map(|problem| format!("its hook {:?}: {problem}", self.name))
    }

    /// Asks it.
    ///
    /// # Errors
    /// Why the content may not pass.
    pub(crate) async fn ask(&self, content: Value, context: HookContext) -> Result<Passed, Failure> {
        let kind = if context.is_output { FailureKind::OutputCheck } else { FailureKind::InputCheck };
        // Made inside, so that a panic before the first await is caught too.
        let asked = AssertUnwindSafe(async { (self.call)(content, context).await });
        match asked.catch_unwind().await {
            Ok(Ok(passed)) => Ok(passed),
            Ok(Err(refused)) if refused.refusal.is_some() => {
                let refusal = refused.refusal.map(|mut refusal| {
                    if refusal.error_id.is_empty() {
                        refusal.error_id = CheckTrigger::not_allowed(kind).as_str().to_owned();
                    }
                    let is_kept = refusal.additional_data.as_mut().is_some_and(|data| json::admit(data).is_ok());
                    refusal.additional_data = refusal.additional_data.filter(|_| is_kept);
                    refusal
                });
                Err(Failure { refusal, ..Failure::new(kind, refused.message) })
            }
            Ok(Err(failure)) => Err(failure.context(format!("the hook {}", self.name))),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                Err(Failure::new(FailureKind::Panic, format!("the hook {} panicked: {said}", self.name)))
            }
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What set a check off. Agno's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckTrigger {
    /// `off_topic`
    OffTopic,
    /// `input_not_allowed`
    InputNotAllowed,
    /// `output_not_allowed`
    OutputNotAllowed,
    /// `validation_failed`
    ValidationFailed,
    /// `prompt_injection`
    PromptInjection,
    /// `pii_detected`
    PiiDetected,
    /// One of your own, in a word.
    Other(String),
}

impl CheckTrigger {
    /// The word: the value of `error_id` on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            CheckTrigger::OffTopic => "off_topic",
            CheckTrigger::InputNotAllowed => "input_not_allowed",
            CheckTrigger::OutputNotAllowed => "output_not_allowed",
            CheckTrigger::ValidationFailed => "validation_failed",
            CheckTrigger::PromptInjection => "prompt_injection",
            CheckTrigger::PiiDetected => "pii_detected",
            CheckTrigger::Other(word) => word,
        }
    }

    fn not_allowed(kind: FailureKind) -> Self {
        match kind {
            FailureKind::OutputCheck => Self::OutputNotAllowed,
            _ => Self::InputNotAllowed,
        }
    }
}

/// Why a hook does not let an input or an output pass: Agno's `InputCheckError` and `OutputCheckError`, as it stands
/// before or after a run. Its message is shown to whoever started the run, so it should not repeat what was found.
// Not an error type: any of those becomes a failure without a refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckError {
    message: String,
    trigger: Option<CheckTrigger>,
    additional_data: Option<Value>,
}

impl CheckError {
    /// A refusal in these words, with the trigger `input_not_allowed` or `output_not_allowed`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), trigger: None, additional_data: None }
    }

    /// What set it off.
    pub fn trigger(self, trigger: CheckTrigger) -> Self {
        Self { trigger: Some(trigger), ..self }
    }

    /// What programs should know beside that: shown with the error. Left out if it is nested too deep to be kept.
    pub fn additional_data(self, data: impl Into<Value>) -> Self {
        Self { additional_data: Some(data.into()), ..self }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        let CheckError { message, trigger, additional_data } = error;
        // Without a trigger, the hook's place says which it is.
        let error_id = trigger.map(|trigger| trigger.as_str().to_owned()).unwrap_or_default();
        let refusal = Some(Box::new(Refusal { error_id, additional_data }));
        Failure { refusal, ..Failure::new(FailureKind::InputCheck, message) }
    }
}
