//! Models: one call, one answer. A model knows its wire format, and nothing about loops, logs or retries.

pub(crate) mod answer;
#[cfg(feature = "models")]
mod anthropic;
pub(crate) mod gate;
#[cfg(feature = "models")]
mod gemini;
#[cfg(feature = "models")]
mod http_model;
#[cfg(feature = "models")]
mod openai;
#[cfg(feature = "models")]
mod profiles;
#[cfg(feature = "models")]
mod providers;
pub(crate) mod rates;
mod scripted;
#[cfg(feature = "models")]
mod wire;

#[cfg(feature = "models")]
pub use anthropic::Claude;
pub use gate::Limit;
#[cfg(feature = "models")]
pub use gemini::Gemini;
#[cfg(feature = "models")]
pub use http_model::HttpModel;
#[cfg(feature = "models")]
pub use openai::{OpenAIChat, OpenAIResponses};
#[cfg(feature = "models")]
pub use profiles::{ModelProfile, ModelProfiles, ResolvedModel, holds_secret, is_secret_name};
#[cfg(feature = "models")]
pub use providers::parse;
pub use rates::Rates;
pub use scripted::ScriptedModel;

use futures::Stream;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, ModelDelta, ModelInfo, ModelRequest, ModelResponse, Secret};
use serde_json::Value;
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

    /// Whether an answer goes on at its provider while nobody listens, so that it can be taken up. Its stream then has
    /// one [`ModelDelta::Begun`] before its first token, with what [`Model::resume`] needs to find it again.
    fn is_resumable(&self) -> bool {
        false
    }

    /// Takes up an answer that has begun, from its first token. Asks again where answers cannot be taken up.
    ///
    /// A failure of the kind [`FailureKind::BadRequest`](outlive_core::FailureKind) means that the answer is not there
    /// any more, or was never going to be whole.
    fn resume(&self, request: ModelRequest, begun: Value) -> ModelStream<'_> {
        drop(begun);
        self.stream(request)
    }

    /// Ends an answer at its provider that has begun and is for nobody any more. Says nothing of what comes of it.
    fn abandon(&self, begun: Value) -> BoxFuture<'static, ()> {
        drop(begun);
        Box::pin(async {})
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

/// Without providers, no name stands for a model.
///
/// # Errors
/// Always.
#[cfg(not(feature = "models"))]
pub fn parse(name: &str) -> Result<SharedModel, String> {
    Err(format!("model {name:?} cannot be asked: this program was built without the feature `models`"))
}
