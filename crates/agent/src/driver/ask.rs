//! One turn of the model: let through the gate, recorded as intent, asked, retried where that may help, recorded with
//! its answer.
//!
//! All attempts share one key; a failed attempt leaves nothing behind but the text it streamed. Before each, the call
//! passes the [`Gate`] of its model. The first time that is before its intent: a call that waits at the gate is not in
//! flight, and a crash meanwhile repeats nothing.

use super::spend::{Tab, may_have_cost};
use super::{Drive, Retrying, halted, read, result};
use crate::model::ModelEvent;
use crate::model::answer::check;
use crate::model::gate::{Gate, Pass};
use futures::future::{Either, select};
use futures::stream::StreamExt;
use outlive_core::port::{Halt, Listener, Recall, SteeringMessage};
use outlive_core::{
    Failure, FailureKind, FinishReason, Key, Message, Metrics, ModelDelta, ModelRequest, ModelRequestDone,
    ModelResponse, Record, Role, ToolSpec, content_text,
};
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// How much of an answer that is only reasoning its failure shows, in characters.
const THOUGHTS_SHOWN: usize = 300;

impl Drive<'_> {
    /// One turn of the model: the recorded answer, or a new one. All attempts share one key.
    pub(super) async fn ask(&mut self) -> Result<ModelResponse, Failure> {
        let key = self.place.base.turn(self.turns);
        // Before its first turn, it has its question to answer.
        let may_hear = self.turns > 0 && !self.heard_before(&key)?;
        self.turns += 1;
        let recall = self.effects().recall(&key);
        if let Recall::Done(value) = &recall {
            return read(&key, value);
        }
        let pass = self.leave().await?;
        let has_begun = !matches!(recall, Recall::Nothing);
        // As late as can be, and together with the intent.
        if may_hear && !has_begun {
            self.listen(&key);
        }
        let started = || self.voice.request_started(self.info.clone());
        let mut tab = self.tab(&key);
        match &mut tab {
            // Boxed, as most runs have no budget.
            Some(tab) => {
                let told = if has_begun { self.reserved_again() } else { started() };
                Box::pin(self.reserve(tab, told)).await?;
            }
            None if has_begun => {}
            None => self.tell(started(), Some(Record::Intent { key: key.clone(), name: None })),
        }
        let mut response = match self.attempts(pass, &mut tab).await {
            Ok(response) => response,
            Err(failure) => {
                self.unsettled(tab.as_deref(), &failure);
                return Err(failure);
            }
        };
        self.settle(tab.as_deref(), &mut response);
        if let Some(reason) = response.finish_reason.if_cut() {
            let (model, how) = (&self.info.model, reason.as_words());
            tracing::warn!(run_id = %self.run_id, model, "the model's answer was {how}");
        }
        let done = ModelRequestDone::new(&self.info, response.usage, response.time_to_first_token);
        let done = done.ended(response.finish_reason);
        self.tell(self.voice.request_completed(done), Some(result(key, &response)));
        Ok(response)
    }

    /// Continues the conversation with what was heard before this turn, as the log has it. False when it has nothing.
    fn heard_before(&mut self, turn: &Key) -> Result<bool, Failure> {
        let key = turn.word("steered");
        let Recall::Done(value) = self.effects().recall(&key) else { return Ok(false) };
        self.hear(read(&key, &value)?);
        Ok(true)
    }

    /// Continues the conversation with what people have said meanwhile.
    fn listen(&mut self, turn: &Key) {
        let leads = self.place.parent.is_none();
        let listener = Listener { id: self.id.as_str(), leads, origin: &self.origin };
        let messages = self.effects().take_in(&listener, &turn.word("steered"));
        self.hear(messages);
    }

    fn hear(&mut self, messages: Vec<SteeringMessage>) {
        for SteeringMessage { content, images, files, .. } in messages {
            let place = self.machine.messages().len();
            let message = self.message(Role::User, content_text(Some(&content)), place);
            self.machine.told(Message { images, files, ..message });
        }
    }

    async fn attempts(&self, mut pass: Option<Pass>, tab: &mut Option<Box<Tab>>) -> Result<ModelResponse, Failure> {
        let retry = &self.profile.retry;
        let (mut tries, mut spent, mut refused_since) = (1, 1, None);
        loop {
            self.durable().await?;
            let failure = match self.attempt(self.request()).await {
                Ok(response) => {
                    self.gate.iter().zip(pass).for_each(|(gate, pass)| gate.answered(pass));
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            let chance = self.effects().chance();
            let is_refused = failure.kind == FailureKind::RateLimit && failure.retryable;
            let stated = failure.retry_after_ms.map(Duration::from_millis);
            let gate = self.gate.as_ref().zip(pass).filter(|_| is_refused);
            let wait = match gate {
                Some((gate, pass)) => gate.refused(pass, stated, chance),
                None => retry.wait(tries, failure.retry_after_ms, chance),
            };
            let is_free = is_refused && {
                let since = *refused_since.get_or_insert_with(Instant::now);
                since.elapsed() + wait <= self.profile.rate_limit_budget
            };
            if !is_free && (!is_transient(&failure) || spent > retry.times) {
                return Err(failure.context(format!("model {}", self.info.model)));
            }
            self.tell_retrying(Retrying::Model, tries, &failure, wait);
            if gate.is_none() {
                self.pause(wait).await?;
            }
            pass = self.leave().await?;
            if let Some(tab) = tab.as_deref_mut().filter(|_| may_have_cost(&failure)) {
                Box::pin(self.reserve(tab, self.reserved_again())).await?;
            }
            tries += 1;
            spent += u32::from(!is_free);
        }
    }

    /// Lets a call through the gate of its model, behind the others that wait there.
    async fn leave(&self) -> Result<Option<Pass>, Failure> {
        let Some(gate) = &self.gate else { return Ok(None) };
        match gate.pass() {
            Some(pass) => Ok(Some(pass)),
            // Boxed, because hardly any call needs the space.
            None => Box::pin(self.queue(gate)).await.map(Some),
        }
    }

    async fn queue(&self, gate: &Gate) -> Result<Pass, Failure> {
        // Without a budget every refusal uses up an attempt, until none is left.
        let budget = Some(self.profile.rate_limit_budget).filter(|budget| !budget.is_zero());
        let begun = Instant::now();
        let place = match select(pin!(gate.queue()), self.effects().halted()).await {
            Either::Left((place, _)) => place,
            Either::Right(_) => return Err(halted(Halt)),
        };
        loop {
            match gate.next(&place, self.effects().chance()) {
                Ok(pass) => return Ok(pass),
                Err(wait) => match budget.filter(|budget| gate.silence().min(begun.elapsed()) >= *budget) {
                    None => self.pause(wait).await?,
                    Some(budget) => {
                        let model = &self.info.model;
                        let message = format!("model {model}: its server has refused every call for {budget:?} (429)");
                        return Err(Failure::new(FailureKind::RateLimit, message));
                    }
                },
            }
        }
    }

    async fn attempt(&self, request: ModelRequest) -> Result<ModelResponse, Failure> {
        let Some(limit) = self.profile.timeout else {
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
                        // Agno does not show the ids of a team's answers, and its clients count events.
                        if self.profile.members.is_none() {
                            self.effects().stream(self.piece(delta), &self.origin);
                        }
                    }
                    Some(Ok(ModelEvent::Delta(delta))) => {
                        first_token.get_or_insert_with(seconds);
                        if !self.withholds_text() {
                            self.effects().stream(self.piece(delta), &self.origin);
                        }
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
        check(&mut response, self.offered())
            .map_err(|problem| Failure::new(FailureKind::BadResponse, format!("the answer is malformed: {problem}")))?;
        response.time_to_first_token = response.time_to_first_token.or(first_token);
        response.duration = response.duration.or_else(|| Some(seconds()));
        Ok(response)
    }

    /// Counts an answer; returns what the message of this turn shows.
    pub(super) fn count(&mut self, response: &ModelResponse) -> Metrics {
        self.metrics.count(response.usage, response.cost, &self.info.model, &self.model.endpoint());
        if self.metrics.time_to_first_token.is_none() {
            self.metrics.time_to_first_token = response.time_to_first_token.or(response.duration);
        }
        self.model_provider_data.clone_from(&response.model_provider_data);
        self.finish_reason = response.finish_reason.if_cut();
        Metrics {
            usage: response.usage,
            time_to_first_token: response.time_to_first_token,
            duration: response.duration,
            cost: response.cost,
            ..Metrics::default()
        }
    }

    /// Why the run cannot continue with an answer that is empty, or cut in a way this agent does not accept. Asking
    /// again would cost as much and give the same.
    pub(super) fn refused(&self, response: &ModelResponse) -> Option<Failure> {
        let reason = response.finish_reason;
        let refuse = |kind, message| Some(Failure { retryable: false, ..Failure::new(kind, message) });
        let remedy = if reason == FinishReason::Length { ": allow more tokens" } else { "" };
        if self.profile.fail_on.contains(&reason) {
            let how = reason.as_words();
            return refuse(FailureKind::Truncated, format!("the answer was {how}, which is not accepted here{remedy}"));
        }
        if has_text(response) || !response.tool_calls.is_empty() {
            return None;
        }
        if reason.is_cut() {
            let how = reason.as_words();
            return refuse(FailureKind::BadResponse, format!("the answer was {how} before its first word{remedy}"));
        }
        let thoughts = response.reasoning_content.as_deref().unwrap_or_default().trim();
        let shown: String = thoughts.chars().take(THOUGHTS_SHOWN).collect();
        let more = if shown.len() < thoughts.len() { "…" } else { "" };
        let message = format!(
            "the answer is empty, all the model wrote is its reasoning, which is kept with the run: \"{shown}{more}\"; \
             if that is the answer, build the model with .reasoning_as_answer()"
        );
        refuse(FailureKind::BadResponse, message)
    }

    /// The tools offered to the model.
    pub(super) fn offered(&self) -> &[ToolSpec] {
        if self.machine.is_out_of_budget() { &[] } else { &self.specs }
    }

    fn request(&self) -> ModelRequest {
        ModelRequest {
            messages: self.machine.messages().clone(),
            tools: self.offered().to_vec(),
            output_schema: self.profile.output.as_ref().map(|shape| shape.schema.clone()),
            stream: self.profile.stream,
        }
    }
}

/// Whether the same request may well be answered a moment later.
fn is_transient(failure: &Failure) -> bool {
    use FailureKind::{BadResponse, RateLimit, Timeout, Truncated, Unavailable};
    failure.retryable && matches!(failure.kind, RateLimit | Unavailable | Timeout | Truncated | BadResponse)
}

/// Nothing at all, for no reason: a retry may bring more.
fn refuse_empty(response: &ModelResponse) -> Result<(), Failure> {
    let has_thoughts = response.reasoning_content.as_ref().is_some_and(|text| !text.trim().is_empty());
    let is_explained = matches!(response.finish_reason, FinishReason::Length | FinishReason::ContentFilter);
    if has_text(response) || !response.tool_calls.is_empty() || has_thoughts || is_explained {
        return Ok(());
    }
    Err(Failure::new(FailureKind::BadResponse, "the answer is empty: no text and no tool call"))
}

fn has_text(response: &ModelResponse) -> bool {
    response.content.as_ref().is_some_and(|text| !text.trim().is_empty())
}
