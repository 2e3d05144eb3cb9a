//! A model that follows a script: for tests and for trying things out without a provider.
//!
//! The answer is a function of the request alone. If it depended on how often the model was asked, it would change when
//! a conversation is resumed after a crash.

use super::{Model, ModelEvent, ModelStream};
use futures::stream::{self, StreamExt};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, ModelDelta, ModelInfo, ModelRequest, ModelResponse, Role};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::sleep;

type Script = dyn Fn(&ModelRequest) -> Result<ModelResponse, Failure> + Send + Sync;

/// A model with a script. Clones share the count of calls.
///
/// ```
/// use outlive_agent::model::{Model, ScriptedModel};
/// use outlive_core::{ModelRequest, ModelResponse};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let model = ScriptedModel::replies([ModelResponse::text("hello")]);
/// let answer = model.respond(ModelRequest::default()).await.unwrap_or_else(|failure| panic!("{}", failure.message));
/// assert_eq!(answer.content.as_deref(), Some("hello"));
/// assert_eq!(model.calls(), 1);
/// # });
/// ```
#[derive(Clone)]
pub struct ScriptedModel {
    id: Arc<str>,
    script: Arc<Script>,
    calls: Arc<AtomicUsize>,
    chunks: usize,
    delay: Duration,
    chunk_delay: Duration,
    max_output_tokens: Option<u64>,
}

impl ScriptedModel {
    /// The same as [`ScriptedModel::replies`].
    pub fn new(replies: impl IntoIterator<Item = ModelResponse>) -> Self {
        Self::replies(replies)
    }

    /// Answers with the reply whose number is the count of assistant turns in the request. When the replies run out it
    /// fails with [`FailureKind::BadRequest`].
    pub fn replies(replies: impl IntoIterator<Item = ModelResponse>) -> Self {
        let replies: Vec<_> = replies.into_iter().collect();
        Self::from_fn("scripted", move |request| {
            let turn = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
            replies.get(turn).cloned().ok_or_else(|| {
                let (known, needed) = (replies.len(), turn + 1);
                let message =
                    format!("the script has {known} replies and this turn needs number {needed}: add replies");
                Failure::new(FailureKind::BadRequest, message)
            })
        })
    }

    /// Answers with what `script` returns for the request. To stay the same after a crash it must depend on nothing
    /// else.
    pub fn from_fn(
        id: impl Into<Arc<str>>,
        script: impl Fn(&ModelRequest) -> Result<ModelResponse, Failure> + Send + Sync + 'static,
    ) -> Self {
        Self {
            id: id.into(),
            script: Arc::new(script),
            calls: Arc::default(),
            chunks: 4,
            delay: Duration::ZERO,
            chunk_delay: Duration::ZERO,
            max_output_tokens: None,
        }
    }

    /// Streams a text in this many pieces, 4 unless set.
    pub fn chunks(mut self, pieces: usize) -> Self {
        self.chunks = pieces;
        self
    }

    /// Waits this long before the answer.
    pub fn delay(mut self, wait: Duration) -> Self {
        self.delay = wait;
        self
    }

    /// Waits this long before each streamed piece.
    pub fn chunk_delay(mut self, wait: Duration) -> Self {
        self.chunk_delay = wait;
        self
    }

    /// The most tokens that an answer may have, for budgets; the script may do otherwise.
    pub fn max_output_tokens(mut self, tokens: u64) -> Self {
        self.max_output_tokens = Some(tokens);
        self
    }

    /// How often this model and its clones were asked.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn answer(&self, request: &ModelRequest) -> Result<ModelResponse, Failure> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        pause(self.delay).await;
        (self.script)(request)
    }

    async fn begin(&self, request: ModelRequest) -> Result<std::vec::IntoIter<ModelEvent>, Failure> {
        let answer = self.answer(&request).await?;
        let mut events = Vec::new();
        events.extend(answer.reasoning_content.clone().map(|text| ModelEvent::Delta(ModelDelta::Reasoning(text))));
        let pieces = pieces(answer.content.as_deref().unwrap_or_default(), self.chunks);
        events.extend(pieces.into_iter().map(|piece| ModelEvent::Delta(ModelDelta::Content(piece))));
        events.push(ModelEvent::Done(Box::new(answer)));
        Ok(events.into_iter())
    }

    async fn paced(&self, event: ModelEvent) -> ModelEvent {
        if matches!(event, ModelEvent::Delta(_)) {
            pause(self.chunk_delay).await;
        }
        event
    }
}

/// A zero wait must not reach the timer: a script without waits runs on a runtime without one.
async fn pause(wait: Duration) {
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

/// The text in at most `count` pieces of about the same length.
fn pieces(text: &str, count: usize) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let size = characters.len().div_ceil(count.max(1)).max(1);
    characters.chunks(size).map(|piece| piece.iter().collect()).collect()
}

impl fmt::Debug for ScriptedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedModel").field("id", &self.id).field("calls", &self.calls()).finish_non_exhaustive()
    }
}

impl Model for ScriptedModel {
    fn info(&self) -> ModelInfo {
        ModelInfo { model: self.id.to_string(), model_provider: "Scripted".to_owned() }
    }

    fn max_output_tokens(&self) -> Option<u64> {
        self.max_output_tokens
    }

    fn endpoint(&self) -> String {
        "Scripted".to_owned()
    }

    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>> {
        Box::pin(async move { self.answer(&request).await })
    }

    fn stream(&self, request: ModelRequest) -> ModelStream<'_> {
        let begun = stream::once(self.begin(request)).map(move |begun| match begun {
            Ok(events) => stream::iter(events).then(|event| self.paced(event)).map(Ok).boxed(),
            Err(failure) => stream::once(async { Err(failure) }).boxed(),
        });
        Box::pin(begun.flatten())
    }
}
