//! One turn of the model: let through the gate, recorded as intent, asked, retried where that may help, recorded with
//! its answer.
//!
//! All attempts at a model share one key; a failed attempt leaves nothing behind but the text it streamed. Before each, the call
//! passes the [`Gate`] of its model; where it is limited what may leave in a minute, it is counted there and, with the other
//! processes that share the limit, by the effects. The first time that is before its intent: a call that waits at the gate
//! is not in flight, and a crash meanwhile repeats nothing.

use super::afar::Afar;
use super::spend::{Tab, may_have_cost};
use super::{Chosen, Drive, Retrying, halted, read, result};
use crate::model::ModelEvent;
use crate::model::answer::check;
use crate::model::gate::{Gate, Pass};
use crate::model::rates::Rates;
use futures::future::{Either, select};
use futures::stream::StreamExt;
use outlive_core::port::{Admitted, Halt, Listener, RateLimit, Recall, SteeringMessage};
use outlive_core::{
    EventKind, Failure, FailureKind, FinishReason, Key, Message, Metrics, ModelDelta, ModelRequest, ModelRequestDone,
    ModelResponse, Record, Role, ToolSpec, content_text,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

/// How much of an answer that is only reasoning its failure shows, in characters.
const THOUGHTS_SHOWN: usize = 300;

impl Drive<'_> {
    /// One turn of the model, or of those that stand in for it, each asked once the one before has failed: the recorded
    /// answer, or a new one, and whose it is. All attempts at one model share one key.
    pub(super) async fn ask(&mut self) -> Result<(ModelResponse, usize), Failure> {
        let turn = self.place.base.turn(self.turns);
        // Before its first turn, it has its question to answer. What nobody has looked at is not heard by one whose hooks
        // look at what it is told: the message is a run of its own then, and they do.
        let may_hear = self.turns > 0 && !self.heard_before(&turn)? && self.profile.pre_hooks.is_empty();
        self.turns += 1;
        let models = self.models.clone();
        let mut number = 0;
        loop {
            let (chosen, next) = (&models[number], models.get(number + 1));
            match self.ask_one(chosen, next, turn.fallback(number), may_hear && number == 0).await? {
                Some(response) => return Ok((response, number)),
                None => number += 1,
            }
        }
    }

    /// One turn of this model; nothing when it has failed and the next is to be asked.
    async fn ask_one(
        &mut self,
        chosen: &Chosen,
        next: Option<&Chosen>,
        key: Key,
        may_hear: bool,
    ) -> Result<Option<ModelResponse>, Failure> {
        let recall = self.effects().recall(&key);
        if let Recall::Done(value) = &recall {
            return match fell_over(&key, value)? {
                None => read(&key, value).map(Some),
                Some(_) if next.is_some() => Ok(None),
                // Whoever changed the definition has taken it away.
                Some(failure) => Err(failure),
            };
        }
        let mut tab = None;
        match self.ask_now(chosen, &key, &recall, may_hear, &mut tab).await {
            Ok(response) => {
                if let Some(reason) = response.finish_reason.if_cut() {
                    let (model, how) = (&chosen.info.model, reason.as_words());
                    tracing::warn!(run_id = %self.run_id, model, "the model's answer was {how}");
                }
                let done = ModelRequestDone::new(&chosen.info, response.usage, response.time_to_first_token);
                let done = done.ended(response.finish_reason);
                self.tell(self.voice.request_completed(done), Some(result(key, &response)));
                Ok(Some(response))
            }
            Err(failure) => {
                self.unsettled(tab.as_deref(), &failure);
                match next.filter(|_| falls_over(&failure)) {
                    None => Err(failure),
                    Some(next) => {
                        self.fall_over(chosen, next, key, failure);
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Asks this model, which has not answered yet.
    async fn ask_now(
        &mut self,
        chosen: &Chosen,
        key: &Key,
        recall: &Recall,
        may_hear: bool,
        tab: &mut Option<Box<Tab>>,
    ) -> Result<ModelResponse, Failure> {
        let pass = self.leave(chosen).await?;
        let has_begun = !matches!(recall, Recall::Nothing);
        // As late as can be, and together with the intent.
        if may_hear && !has_begun {
            self.listen(key);
        }
        let started = || self.voice.request_started(chosen.info.clone());
        *tab = self.tab(chosen, key);
        match tab {
            // Boxed, as most runs have no budget.
            Some(tab) => {
                let told = if has_begun { Self::reserved_again(chosen) } else { started() };
                Box::pin(self.reserve(tab, told)).await?;
            }
            None if has_begun => {}
            None => self.tell(started(), Some(Record::Intent { key: key.clone(), name: None })),
        }
        let mut response = self.attempts(chosen, key, pass, tab).await?;
        self.settle(chosen, tab.as_deref(), &mut response);
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

    /// Records that this model has failed, and that the next is asked: whoever resumes the run does the same.
    fn fall_over(&self, chosen: &Chosen, next: &Chosen, key: Key, failure: Failure) {
        let fields = json!({
            "name": "ModelFallback",
            "model": chosen.info.model,
            "fallback": next.info.model,
            "error": failure.message,
            "error_type": failure.kind.code(),
        });
        let fields = fields.as_object().cloned().unwrap_or_default();
        let record = result(key, &FellOver { fell_over: failure });
        self.tell(EventKind::CustomEvent { fields }, Some(record));
    }

    async fn attempts(
        &self,
        chosen: &Chosen,
        key: &Key,
        mut pass: Option<Pass>,
        tab: &mut Option<Box<Tab>>,
    ) -> Result<ModelResponse, Failure> {
        let retry = &self.profile.retry;
        let (mut tries, mut spent, mut refused_since) = (1, 1, None);
        let mut afar = chosen.model.is_resumable().then(|| Afar::of(self, chosen, key));
        loop {
            self.durable().await?;
            let failure = match self.attempt(chosen, self.request(), afar.as_deref_mut()).await {
                Ok(response) => {
                    if let Some(afar) = &mut afar {
                        afar.is_whole();
                    }
                    if let Some((gate, pass)) = chosen.gate.as_ref().zip(pass) {
                        gate.answered(&pass);
                        if let Some((limit, call, used)) = gate.had(pass, response.usage) {
                            self.effects().admitted(&limit, call, Some(used));
                        }
                    }
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            if let Some(afar) = &mut afar
                && Box::pin(afar.failed(&failure)).await
            {
                continue;
            }
            let chance = self.effects().chance();
            let is_refused = failure.kind == FailureKind::RateLimit && failure.retryable;
            let stated = failure.retry_after_ms.map(Duration::from_millis);
            let gate = chosen.gate.as_ref().zip(pass.as_ref()).filter(|_| is_refused);
            let wait = match gate {
                Some((gate, pass)) => gate.refused(pass, stated, chance),
                None => retry.wait(tries, failure.retry_after_ms, chance),
            };
            let is_free = is_refused && {
                let since = *refused_since.get_or_insert_with(Instant::now);
                since.elapsed() + wait <= self.profile.rate_limit_budget
            };
            if !is_free && (!is_transient(&failure) || spent > retry.times) {
                if let Some(afar) = &mut afar {
                    Box::pin(afar.abandon()).await;
                }
                return Err(failure.context(format!("model {}", chosen.info.model)));
            }
            self.tell_retrying(Retrying::Model, tries, &failure, wait);
            if gate.is_none() {
                self.pause(wait).await?;
            }
            pass = self.leave(chosen).await?;
            let goes_on = afar.as_ref().is_some_and(|afar| afar.goes_on());
            if let Some(tab) = tab.as_deref_mut().filter(|_| may_have_cost(&failure) && !goes_on) {
                Box::pin(self.reserve(tab, Self::reserved_again(chosen))).await?;
            }
            tries += 1;
            spent += u32::from(!is_free);
        }
    }

    /// Lets a call through the gate of its model, behind the others that wait there.
    async fn leave(&self, chosen: &Chosen) -> Result<Option<Pass>, Failure> {
        let Some(gate) = &chosen.gate else { return Ok(None) };
        match gate.pass_unless(chosen.rates.is_some()) {
            Some(pass) => Ok(Some(pass)),
            // Boxed, because hardly any call needs the space.
            None => Box::pin(self.queue(chosen, gate)).await.map(Some),
        }
    }

    async fn queue(&self, chosen: &Chosen, gate: &Gate) -> Result<Pass, Failure> {
        // Without a budget every refusal uses up an attempt, until none is left.
        let budget = Some(self.profile.rate_limit_budget).filter(|budget| !budget.is_zero());
        let begun = Instant::now();
        let place = match select(pin!(gate.queue()), self.effects().halted()).await {
            Either::Left((place, _)) => place,
            Either::Right(_) => return Err(halted(Halt)),
        };
        let limited = chosen.rates.as_ref().map(|limit| (limit, chosen.model.rates(), self.call_tokens(chosen)));
        loop {
            let admitted = match limited {
                None => None,
                Some((limit, rates, tokens)) => match self.admit(gate, &place, limit, rates, tokens).await {
                    Ok(admitted) => admitted,
                    Err(wait) => {
                        self.pause(wait).await?;
                        continue;
                    }
                },
            };
            let next = gate.next(&place, self.effects().chance());
            if let (Err(_), Some((limit, call))) = (&next, &admitted) {
                self.effects().admitted(limit, *call, None);
            }
            match next {
                Ok(pass) => {
                    return Ok(match limited {
                        Some((_, rates, tokens)) => gate.count(&place, pass, rates, tokens, admitted),
                        None => pass,
                    });
                }
                Err(wait) => match budget.filter(|budget| gate.silence().min(begun.elapsed()) >= *budget) {
                    None => self.pause(wait).await?,
                    Some(budget) => {
                        let model = &chosen.info.model;
                        let message = format!("model {model}: its server has refused every call for {budget:?} (429)");
                        return Err(Failure::new(FailureKind::RateLimit, message));
                    }
                },
            }
        }
    }

    /// Has the next in line count by the minute: first among the calls of this process, then among those of all that share
    /// the limit.
    ///
    /// # Errors
    /// After which time to ask again.
    async fn admit(
        &self,
        gate: &Gate,
        place: &SemaphorePermit<'_>,
        limit: &Arc<RateLimit>,
        rates: Rates,
        tokens: u64,
    ) -> Result<Option<(Arc<RateLimit>, Admitted)>, Duration> {
        if let Some(wait) = gate.full(place, rates, tokens) {
            return Err(wait);
        }
        let call = self.effects().admit(limit, tokens).await?;
        Ok(call.map(|call| (limit.clone(), call)))
    }

    async fn attempt(
        &self,
        chosen: &Chosen,
        request: ModelRequest,
        afar: Option<&mut Afar<'_>>,
    ) -> Result<ModelResponse, Failure> {
        let Some(limit) = self.profile.timeout else {
            return self.call_model(chosen, request, afar).await;
        };
        match select(pin!(self.call_model(chosen, request, afar)), self.effects().sleep(limit)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => {
                let message = format!("no complete answer within {} s", limit.as_secs_f64());
                Err(Failure::new(FailureKind::Timeout, message))
            }
        }
    }

    async fn call_model(
        &self,
        chosen: &Chosen,
        request: ModelRequest,
        mut afar: Option<&mut Afar<'_>>,
    ) -> Result<ModelResponse, Failure> {
        let begun = self.effects().now();
        let seconds = || self.effects().now().since(begun).as_secs_f64();
        let mut first_token = None;
        let is_told = request.stream;
        let mut response = if request.stream || afar.is_some() {
            let mut stream = match afar.as_mut().and_then(|afar| afar.taken_up()) {
                Some(begun) => chosen.model.resume(request, begun),
                None => chosen.model.stream(request),
            };
            loop {
                match stream.next().await {
                    Some(Ok(ModelEvent::Delta(ModelDelta::Content(text) | ModelDelta::Reasoning(text))))
                        if text.is_empty() => {}
                    Some(Ok(ModelEvent::Delta(delta @ ModelDelta::Begun(_)))) => {
                        if let (Some(afar), ModelDelta::Begun(ids)) = (&mut afar, &delta) {
                            afar.begins(self, ids);
                            Box::pin(self.durable()).await?;
                        }
                        // Agno does not show the ids of a team's answers, and its clients count events.
                        if is_told && self.profile.members.is_none() {
                            self.effects().stream(self.piece(delta), &self.origin);
                        }
                    }
                    Some(Ok(ModelEvent::Delta(delta))) => {
                        first_token.get_or_insert_with(seconds);
                        if is_told && !self.withholds_text() {
                            self.effects().stream(self.piece(delta), &self.origin);
                        }
                    }
                    Some(Ok(ModelEvent::Done(response))) => break *response,
                    Some(Err(failure)) => return Err(failure),
                    None => return Err(Failure::new(FailureKind::Truncated, "the streamed answer broke off")),
                }
            }
        } else {
            chosen.model.respond(request).await?
        };
        refuse_empty(&response)?;
        check(&mut response, self.offered())
            .map_err(|problem| Failure::new(FailureKind::BadResponse, format!("the answer is malformed: {problem}")))?;
        response.time_to_first_token = response.time_to_first_token.or(first_token);
        response.duration = response.duration.or_else(|| Some(seconds()));
        Ok(response)
    }

    /// Counts an answer of the model with this number; returns what the message of this turn shows.
    pub(super) fn count(&mut self, response: &ModelResponse, model: usize) -> Metrics {
        let Chosen { model, info, .. } = &self.models[model];
        self.metrics.count(response.usage, response.cost, &info.model, &model.endpoint());
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

/// What is recorded of a model that failed when another was asked in its place.
#[derive(Serialize, Deserialize)]
struct FellOver {
    fell_over: Failure,
}

/// Why a model failed, if that is what was recorded of it.
fn fell_over(key: &Key, value: &RawValue) -> Result<Option<Failure>, Failure> {
    if !value.get().starts_with("{\"fell_over\":") {
        return Ok(None);
    }
    read::<FellOver>(key, value).map(|recorded| Some(recorded.fell_over))
}

/// Whether another model may well answer what this one did not: its server is in trouble, and not the request.
fn falls_over(failure: &Failure) -> bool {
    use FailureKind::{Quota, RateLimit, Timeout, Truncated, Unavailable};
    matches!(failure.kind, Unavailable | RateLimit | Quota | Timeout | Truncated)
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
