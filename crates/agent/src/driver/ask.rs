//! One turn of the model: told, asked, asked again when that may help, recorded.
//!
//! All attempts stand under one key; an attempt that failed leaves nothing behind but the text it streamed.

use super::{Drive, read, result};
use crate::model::ModelEvent;
use futures::future::{Either, select};
use futures::stream::StreamExt;
use outlive_core::port::Recall;
use outlive_core::{
    EventKind, Failure, FailureKind, FinishReason, Metrics, ModelDelta, ModelRequest, ModelRequestDone, ModelResponse,
    Record, Timestamp,
};
use serde_json::{Map, json};
use std::pin::pin;

impl Drive<'_> {
    /// One turn of the model: the recorded answer, or a new one. All attempts stand under one key.
    pub(super) async fn ask(&mut self) -> Result<ModelResponse, Failure> {
        let key = self.key(&format!("t{}", self.turns));
        self.turns += 1;
        match self.effects().recall(&key) {
            Recall::Done(value) => return read(&key, &value),
            Recall::Started => {}
            Recall::Nothing => {
                let intent = Record::Intent { key: key.clone() };
                self.tell(self.voice.request_started(self.info.clone()), Some(intent));
            }
        }
        let response = self.attempts().await?;
        if response.finish_reason == FinishReason::Length {
            tracing::warn!(run_id = %self.run_id, model = self.info.model, "the model's answer was cut at its token limit");
        }
        let done = ModelRequestDone::new(&self.info, response.usage, response.time_to_first_token);
        self.tell(self.voice.request_completed(done), Some(result(key, &response)));
        Ok(response)
    }

    async fn attempts(&self) -> Result<ModelResponse, Failure> {
        let retry = &self.worker.profile.retry;
        let mut attempt = 1;
        loop {
            self.durable().await?;
            match self.attempt(self.request()).await {
                Ok(response) => return Ok(response),
                Err(failure) if is_transient(&failure) && attempt <= retry.times => {
                    let wait = retry.wait(attempt, failure.retry_after_ms, self.effects().chance());
                    let due_at = self.effects().now() + wait;
                    self.tell(retrying(attempt, &failure, due_at), None);
                    self.effects().sleep(wait).await;
                    attempt += 1;
                }
                Err(failure) => return Err(failure.context(format!("model {}", self.info.model))),
            }
        }
    }

    async fn attempt(&self, request: ModelRequest) -> Result<ModelResponse, Failure> {
        let Some(limit) = self.worker.profile.timeout else {
            return self.call_model(request).await;
        };
        match select(pin!(self.call_model(request)), self.effects().sleep(limit)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => {
                let message = format!("no complete answer within {} s", limit.as_secs_f64());
                Err(Failure::new(FailureKind::Timeout, message))
            }
        }
    }

    async fn call_model(&self, request: ModelRequest) -> Result<ModelResponse, Failure> {
        let begun = self.effects().now();
        let seconds = || self.effects().now().since(begun).as_secs_f64();
        let mut first_token = None;
        let mut response = if request.stream {
            let mut stream = self.model.stream(request);
            loop {
                match stream.next().await {
                    Some(Ok(ModelEvent::Delta(ModelDelta::Content(text) | ModelDelta::Reasoning(text))))
                        if text.is_empty() => {}
                    Some(Ok(ModelEvent::Delta(delta @ ModelDelta::Begun(_)))) => {
                        // Of a team's answers Agno does not tell the ids, and its clients count events.
                        if self.worker.members.is_none() {
                            self.effects().stream(self.voice.content(delta), &self.origin);
                        }
                    }
                    Some(Ok(ModelEvent::Delta(delta))) => {
                        first_token.get_or_insert_with(seconds);
                        self.effects().stream(self.voice.content(delta), &self.origin);
                    }
                    Some(Ok(ModelEvent::Done(response))) => break *response,
                    Some(Err(failure)) => return Err(failure),
                    None => return Err(Failure::new(FailureKind::Truncated, "the streamed answer broke off")),
                }
            }
        } else {
            self.model.respond(request).await?
        };
        refuse_empty(&response)?;
        response.time_to_first_token = response.time_to_first_token.or(first_token);
        response.duration = response.duration.or_else(|| Some(seconds()));
        Ok(response)
    }

    /// Counts an answer; gives what the message of this turn shows.
    pub(super) fn count(&mut self, response: &ModelResponse) -> Metrics {
        self.metrics.count(response.usage, &self.info.model, &self.model.endpoint());
        if self.metrics.time_to_first_token.is_none() {
            self.metrics.time_to_first_token = response.time_to_first_token.or(response.duration);
        }
        self.model_provider_data.clone_from(&response.model_provider_data);
        Metrics {
            usage: response.usage,
            time_to_first_token: response.time_to_first_token,
            duration: response.duration,
            ..Metrics::default()
        }
    }

    fn request(&self) -> ModelRequest {
        ModelRequest {
            messages: self.machine.messages().to_vec(),
            tools: if self.machine.is_out_of_budget() { Vec::new() } else { self.specs.clone() },
            output_schema: self.worker.profile.output.as_ref().map(|shape| shape.schema.clone()),
            stream: self.worker.profile.stream,
        }
    }
}

/// Whether the same request may well be answered a moment later.
fn is_transient(failure: &Failure) -> bool {
    use FailureKind::{BadResponse, RateLimit, Timeout, Truncated, Unavailable};
    failure.retryable && matches!(failure.kind, RateLimit | Unavailable | Timeout | Truncated | BadResponse)
}

/// What people see of a repeated attempt; it also ends the text that the failed one streamed.
fn retrying(attempt: u32, failure: &Failure, due_at: Timestamp) -> EventKind {
    let mut fields = Map::new();
    fields.insert("name".into(), json!("ModelRequestRetrying"));
    fields.insert("error".into(), json!(failure.message));
    fields.insert("error_type".into(), json!(failure.kind.code()));
    fields.insert("failed_attempt".into(), json!(attempt));
    fields.insert("due_at".into(), json!(due_at.as_seconds()));
    EventKind::CustomEvent { fields }
}

fn refuse_empty(response: &ModelResponse) -> Result<(), Failure> {
    let has_text = response.content.as_ref().is_some_and(|text| !text.trim().is_empty());
    if has_text || !response.tool_calls.is_empty() {
        return Ok(());
    }
    let message = match response.finish_reason {
        FinishReason::Length => "the answer was cut at its token limit before its first word: allow more tokens",
        FinishReason::ContentFilter => "the provider's filter left nothing of the answer",
        FinishReason::Stop | FinishReason::ToolCalls => "the answer is empty: no text and no tool call",
    };
    Err(Failure::new(FailureKind::BadResponse, message))
}
