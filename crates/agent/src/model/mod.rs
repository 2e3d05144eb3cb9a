//! Models: one call, one answer. A model knows its wire format and nothing of loops, logs or retries.

use futures::Stream;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, ModelDelta, ModelInfo, ModelRequest, ModelResponse};
use std::pin::Pin;
use std::sync::Arc;

/// A piece of a streamed answer, or at the end the whole.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// More of the answer, as it comes.
    Delta(ModelDelta),
    /// The whole answer. Exactly one, last.
    Done(Box<ModelResponse>),
}

/// A streamed answer: deltas, then one [`ModelEvent::Done`], or an error. A stream that ends without either was cut off.
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

    /// What would make every call fail, in words for a person: a missing key. Asked once, before a run exists.
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    /// Asks and waits for the whole answer. Never retries by itself.
    ///
    /// # Errors
    /// A [`Failure`] whose kind says what can be done about it.
    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>>;

    /// Asks and passes the answer on as it comes. Never retries by itself.
    fn stream(&self, request: ModelRequest) -> ModelStream<'_>;
}

/// A model, shared.
pub type SharedModel = Arc<dyn Model>;
