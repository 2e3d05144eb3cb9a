//! Answers that a provider pauses, to be asked to go on: its own tools take longer than it lets a request take.
//!
//! It must never know a format: a [`Dialect`] says whether an answer is paused. Invariant: whoever asked gets one answer,
//! with all that its parts said and used.

use super::stream::{respond, stream};
use super::{Dialect, wording};
use crate::model::{ModelEvent, ModelStream};
use futures::stream::{StreamExt, try_unfold};
use outlive_core::{Failure, Message, ModelRequest, ModelResponse, Role};
use std::sync::Arc;

/// How often an answer may be paused.
const PAUSES_MAX: usize = 10;

/// An answer that may be paused, so far.
struct Parts<'a, D> {
    dialect: &'a D,
    request: ModelRequest,
    so_far: Option<ModelResponse>,
    pauses: usize,
}

impl<'a, D: Dialect> Parts<'a, D> {
    fn new(dialect: &'a D, request: ModelRequest) -> Self {
        Self { dialect, request, so_far: None, pauses: 0 }
    }

    /// Takes in a part. The whole answer, unless there is more to ask for.
    fn take(&mut self, part: ModelResponse) -> Result<Option<ModelResponse>, Failure> {
        let turn = self.dialect.is_paused(&part).then(|| Message {
            content: part.content.clone(),
            provider_data: part.provider_data.clone(),
            ..Message::new(Role::Assistant, "", Arc::from("paused"), 0)
        });
        let whole = match self.so_far.take() {
            None => part,
            Some(before) => self.dialect.joined(before, part),
        };
        let Some(turn) = turn else { return Ok(Some(whole)) };
        self.pauses += 1;
        if self.pauses > PAUSES_MAX {
            return Err(wording(self.dialect).garbage(&format!("an answer that it paused {PAUSES_MAX} times")));
        }
        Arc::make_mut(&mut self.request.messages).push(turn);
        self.so_far = Some(whole);
        Ok(None)
    }
}

/// Asks until the answer is whole.
pub(crate) async fn respond_whole<D: Dialect>(dialect: &D, request: ModelRequest) -> Result<ModelResponse, Failure> {
    let mut parts = Parts::new(dialect, request);
    loop {
        let part = respond(dialect, parts.request.clone()).await?;
        if let Some(whole) = parts.take(part)? {
            return Ok(whole);
        }
    }
}

/// The same, passed on as it comes.
pub(crate) fn stream_whole<D: Dialect>(dialect: &D, request: ModelRequest) -> ModelStream<'_> {
    let events = stream(dialect, request.clone());
    Box::pin(try_unfold((Parts::new(dialect, request), events), |(mut parts, mut events)| async move {
        loop {
            match events.next().await.transpose()? {
                None => return Ok(None),
                Some(ModelEvent::Done(part)) => match parts.take(*part)? {
                    Some(whole) => return Ok(Some((ModelEvent::Done(Box::new(whole)), (parts, events)))),
                    None => events = stream(parts.dialect, parts.request.clone()),
                },
                Some(delta) => return Ok(Some((delta, (parts, events)))),
            }
        }
    }))
}
