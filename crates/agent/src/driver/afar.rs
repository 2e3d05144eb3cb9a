//! An answer that goes on at its provider while nobody listens: recorded before its first token, taken up by whoever
//! needs it next, and ended there when its run is over without it.
//!
//! It must never know a provider. Invariant: an answer that was recorded is taken up before another is asked for.

use super::{Chosen, Drive, result};
use crate::model::SharedModel;
use outlive_core::port::{Effects, Recall};
use outlive_core::{EventKind, Failure, FailureKind, Key};
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// The answers to one model call, of which the last goes on.
pub(super) struct Afar<'a> {
    model: SharedModel,
    effects: &'a dyn Effects,
    key: Key,
    /// How many have begun.
    number: u32,
    /// What finds the one that goes on.
    begun: Option<Value>,
    /// It was taken up, and not asked for, in the attempt under way.
    is_taken_up: bool,
}

impl<'a> Afar<'a> {
    /// What earlier processes have begun of this call.
    pub(super) fn of(drive: &'a Drive<'_>, chosen: &Chosen, key: &Key) -> Box<Self> {
        let effects = drive.effects();
        let (mut number, mut begun) = (0, None);
        while let Recall::Done(value) = effects.recall(&key.begun(number)) {
            begun = serde_json::from_str(value.get()).ok();
            number += 1;
        }
        Box::new(Self { model: chosen.model.clone(), effects, key: key.clone(), number, begun, is_taken_up: false })
    }

    /// An attempt begins: what it is to take up, if anything.
    pub(super) fn taken_up(&mut self) -> Option<Value> {
        self.is_taken_up = self.begun.is_some();
        self.begun.clone()
    }

    /// An answer has begun. Whoever calls this makes it durable before anything else.
    pub(super) fn begins(&mut self, drive: &Drive<'_>, ids: &Value) {
        if self.begun.is_some() {
            return;
        }
        let fields =
            json!({ "name": "ModelResponseBegun", "model": self.model.info().model, "model_provider_data": ids });
        let fields = fields.as_object().cloned().unwrap_or_default();
        drive.tell(EventKind::CustomEvent { fields }, Some(result(self.key.begun(self.number), ids)));
        self.number += 1;
        self.begun = Some(ids.clone());
    }

    /// The answer is there.
    pub(super) fn is_whole(&mut self) {
        self.begun = None;
    }

    /// Whether the next attempt takes up what has begun.
    pub(super) fn goes_on(&self) -> bool {
        self.begun.is_some()
    }

    /// An attempt has failed. Returns whether another answer is to be asked for at once: what was to be taken up is gone.
    pub(super) async fn failed(&mut self, failure: &Failure) -> bool {
        use FailureKind::{BadRequest, RateLimit, Timeout, Truncated, Unavailable};
        match failure.kind {
            BadRequest if self.is_taken_up => {
                self.begun = None;
                return true;
            }
            // One that was awaited in vain twice is stuck.
            Timeout if self.is_taken_up => self.abandon().await,
            Timeout | Truncated | Unavailable | RateLimit => {}
            _ => self.abandon().await,
        }
        false
    }

    /// Ends what goes on.
    pub(super) async fn abandon(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.model.abandon(begun).await;
        }
    }
}

impl Drop for Afar<'_> {
    /// Whoever waited has gone. The process may be leaving, and then another takes the answer up.
    fn drop(&mut self) {
        let Some(begun) = self.begun.take().filter(|_| self.effects.abandons()) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.model.abandon(begun));
        }
    }
}
