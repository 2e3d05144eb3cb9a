//! What one execution of a function has done so far: the names it gave, the calls it is making, its sleeps, its text.
//!
//! It must never know a log or an engine: the [`StepContext`](super::StepContext) notes things here, and whoever drives
//! the step looks after each poll. The invariant: what a future noted is gone when that future is.

use crate::failure::{Failure, FailureKind};
use crate::time::Timestamp;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest name of a call, a sleep or a question, in bytes.
const NAME_LEN_MAX: usize = 128;

/// What a function that is executed is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It works, or makes a call.
    Works,
    /// All it does is wait for people.
    Asks,
    /// It waits for people, or for this time.
    AsksUntil(Timestamp),
}

/// What one execution of a function has done so far. Copies are about the same execution.
#[derive(Clone, Debug, Default)]
pub struct Execution(Arc<Mutex<Notes>>);

#[derive(Debug, Default)]
struct Notes {
    /// Names of calls and sleeps.
    names: BTreeSet<String>,
    /// Calls being made.
    calls: usize,
    /// When those that sleep are due.
    sleeps: Vec<Timestamp>,
    /// Questions that are open.
    asks: usize,
    has_asked: bool,
    /// Since when.
    asking_since: Option<Timestamp>,
    /// How long it has waited for people before.
    waited: Duration,
    is_halted: bool,
    said: String,
}

impl Execution {
    /// When the function goes on, if all it does is sleep: as far as is known here, it may be dropped until then.
    pub fn asleep_until(&self) -> Option<Timestamp> {
        let notes = self.lock();
        notes.sleeps.iter().min().copied().filter(|_| notes.calls == 0)
    }

    /// What it is doing, as far as is known here; nothing to tell before it has asked people.
    pub fn doing(&self) -> Option<Doing> {
        let notes = self.lock();
        let waits = if notes.asks == 0 || notes.calls > 0 {
            Doing::Works
        } else {
            notes.sleeps.iter().min().copied().map_or(Doing::Asks, Doing::AsksUntil)
        };
        notes.has_asked.then_some(waits)
    }

    /// How long it has waited for people, and whether it does now.
    pub fn waited(&self, now: Timestamp) -> (Duration, bool) {
        let notes = self.lock();
        (notes.waited + notes.asking_since.map_or(Duration::ZERO, |since| now.since(since)), notes.asks > 0)
    }

    /// It waits for people from now on.
    pub fn asks(&self, now: Timestamp) {
        let mut notes = self.lock();
        notes.asks += 1;
        notes.has_asked = true;
        notes.asking_since.get_or_insert(now);
    }

    /// They have answered.
    pub fn is_answered(&self, now: Timestamp) {
        let mut notes = self.lock();
        notes.asks = notes.asks.saturating_sub(1);
        if notes.asks == 0
            && let Some(since) = notes.asking_since.take()
        {
            notes.waited += now.since(since);
        }
    }

    /// Whether it was told to stop because nothing new may start here: whatever it gives back then means nothing.
    pub fn is_halted(&self) -> bool {
        self.lock().is_halted
    }

    /// What it has said, all in one: the content of an output that has none. Nothing when it said nothing.
    pub fn take_said(&self) -> Option<String> {
        Some(std::mem::take(&mut self.lock().said)).filter(|said| !said.is_empty())
    }

    pub(super) fn say(&self, text: &str) {
        self.lock().said.push_str(text);
    }

    pub(super) fn halt(&self) {
        self.lock().is_halted = true;
    }

    /// Takes a name for a call, a sleep or a question.
    ///
    /// # Errors
    /// [`FailureKind::Definition`] when it is empty, longer than 128 bytes or was taken before.
    pub fn take_name(&self, name: &str) -> Result<(), Failure> {
        let refused =
            |problem: &str| Err(Failure::new(FailureKind::Definition, format!("the name {name:?} {problem}")));
        if name.is_empty() || name.len() > NAME_LEN_MAX || name.chars().any(char::is_control) {
            return refused("must have 1 to 128 bytes, none of them control characters");
        }
        if !self.lock().names.insert(name.to_owned()) {
            return refused("is used twice in one function: each call, each sleep and each question needs its own");
        }
        Ok(())
    }

    /// A call is being made until this is dropped.
    pub(super) fn calling(&self) -> impl Drop + use<> {
        self.lock().calls += 1;
        Noted { execution: self.clone(), sleep: None }
    }

    /// Somebody sleeps until this is dropped.
    pub(super) fn sleeping(&self, due_at: Timestamp) -> impl Drop + use<> {
        self.lock().sleeps.push(due_at);
        Noted { execution: self.clone(), sleep: Some(due_at) }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes back on drop what it stands for.
struct Noted {
    execution: Execution,
    /// When it is due; a call has none.
    sleep: Option<Timestamp>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut notes = self.execution.lock();
        match self.sleep {
            None => notes.calls -= 1,
            Some(due_at) => {
                let place = notes.sleeps.iter().position(|sleep| *sleep == due_at);
                place.map(|place| notes.sleeps.swap_remove(place));
            }
        }
    }
}
