//! Models: one call, one answer. A model knows its wire format, and nothing about loops, logs or retries.

pub(crate) mod answer;
pub(crate) mod gate;
#[cfg(feature = "openai")]
mod openai;
pub(crate) mod rates;
mod scripted;
#[cfg(feature = "openai")]
mod wire;

pub use gate::Limit;
#[cfg(feature = "openai")]
pub use openai::{OpenAI, OpenAIChat, OpenAIResponses};
pub use rates::Rates;
pub use scripted::ScriptedModel;

use futures::Stream;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, ModelDelta, ModelInfo, ModelRequest, ModelResponse, Secret};
use std::pin::Pin;
use std::sync::Arc;

/// A piece of a streamed answer, or at the end the whole answer.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// More of the answer, as it comes.
    Delta(ModelDelta),
    /// The whole answer. Exactly one, last.
    Done(Box<ModelResponse>),
}

/// A streamed answer: deltas, then one [`ModelEvent::Done`], or an error. A stream that ends with neither was cut off.
pub type ModelStream<'a> = Pin<Box<dyn Stream<Item = Result<ModelEvent, Failure>> + Send + 'a>>;

/// A language model.
///
/// # Cancel safety
/// Dropping a future or a stream drops the HTTP request at once.
pub trait Model: Send + Sync + 'static {
    /// The model's id and its provider as events show them (`gpt-5.2`, `OpenAI`).
    fn info(&self) -> ModelInfo;

    /// The provider and its endpoint as metrics show them, for example `OpenAI Responses`.
    fn endpoint(&self) -> String;

    /// What would make every call fail, in words for a person: a missing key. Asked for once, before a run exists.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// What must not be stored: its key.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }

    /// What it may be asked in a minute, by all of this process together, and by all processes whose runs are in one
    /// database. Counts only where [`Model::limit`] says whose limit that is.
    fn rates(&self) -> Rates {
        Rates::default()
    }

    /// The most tokens that an answer may have, where that is known: budgets reserve so many.
    fn max_output_tokens(&self) -> Option<u64> {
        None
    }

    /// Whose limit its calls count against, where that is known: all models of the process that return the same limit
    /// are slowed down together when one of them is refused with [`FailureKind::RateLimit`](outlive_core::FailureKind). Those
    /// that have [rates](Model::rates) are counted, and slowed down, with others of their name only.
    fn limit(&self) -> Option<Limit> {
        None
    }

    /// Asks, and waits for the whole answer. Never retries by itself.
    ///
    /// # Errors
    /// A [`Failure`] whose kind says what can be done about it.
    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>>;

    /// Asks, and passes the answer on as it comes. Never retries by itself.
    fn stream(&self, request: ModelRequest) -> ModelStream<'_>;
}

/// A model, shared.
pub type SharedModel = Arc<dyn Model>;

/// What can be given as a model: a model, a shared one, or a name that [`parse`] understands.
pub trait IntoModel {
    /// The model.
    ///
    /// # Errors
    /// When a name is not that of a model; the message says which names are.
    fn into_model(self) -> Result<SharedModel, String>;
}

impl<M: Model> IntoModel for M {
    fn into_model(self) -> Result<SharedModel, String> {
        Ok(Arc::new(self))
    }
}

impl IntoModel for SharedModel {
    fn into_model(self) -> Result<SharedModel, String> {
        Ok(self)
    }
}

impl IntoModel for &str {
    fn into_model(self) -> Result<SharedModel, String> {
        parse(self)
    }
}

impl IntoModel for String {
    fn into_model(self) -> Result<SharedModel, String> {
        parse(&self)
    }
}

/// The model that a name stands for: `openai:ID` (Responses), `openai-chat:ID` (Chat Completions) or `ollama:ID` (on
/// this machine or at `OLLAMA_HOST`). No server is contacted; see [`Model::problems`] for what may be missing.
///
/// # Errors
/// When the provider is not known or the id is empty, in words that name the providers.
///
/// ```
/// let model = outlive_agent::model::parse("openai:gpt-5.2").unwrap();
/// assert_eq!(model.info().model, "gpt-5.2");
/// assert!(outlive_agent::model::parse("gpt-5.2").is_err());
/// ```
pub fn parse(name: &str) -> Result<SharedModel, String> {
    const KNOWN: &str = "write openai:ID, openai-chat:ID or ollama:ID, for example openai:gpt-5.2";
    let Some((provider, id)) = name.trim().split_once(':') else {
        return Err(format!("model {name:?} names no provider: {KNOWN}"));
    };
    let id = id.trim();
    if id.is_empty() {
        return Err(format!("model {name:?} names no id: {KNOWN}"));
    }
    match provider.trim() {
        #[cfg(feature = "openai")]
        "openai" => OpenAIResponses::new(id).into_model(),
        #[cfg(feature = "openai")]
        "openai-chat" => OpenAIChat::new(id).into_model(),
        #[cfg(feature = "openai")]
        "ollama" => OpenAIChat::ollama(id).into_model(),
        other => Err(format!("model {name:?} names the unknown provider {other:?}: {KNOWN}")),
    }
}
