//! Answers that go on while nobody listens, as OpenAI's background mode keeps them.
//!
//! Nothing runs for them: an answer is a list of frames and the times at which they come, and whoever listens waits for
//! those.

use axum::body::Bytes;
use futures::stream::{self, Stream};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The answers that are kept, by their ids.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<String, Answer>>);

#[derive(Clone, Debug)]
struct Answer {
    /// Each with the time at which it comes, counted from the beginning.
    frames: Arc<Vec<(Duration, String)>>,
    whole: Value,
    begun: Instant,
    is_cancelled: bool,
}

impl Answer {
    fn is_over(&self) -> bool {
        self.is_cancelled || self.frames.last().is_none_or(|(due, _)| self.begun.elapsed() >= *due)
    }

    /// As it stands.
    fn shown(&self) -> Value {
        let mut shown = self.whole.clone();
        let status = match (self.is_cancelled, self.is_over()) {
            (true, _) => "cancelled",
            (false, true) => return shown,
            (false, false) => "in_progress",
        };
        shown["status"] = status.into();
        shown["output"] = Value::Array(Vec::new());
        shown["usage"] = Value::Null;
        shown
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer that begins now, its pieces this far apart. The same request has the same id: what was kept for it
    /// before is forgotten.
    pub(super) fn keep(&self, id: &str, frames: Vec<String>, whole: Value, apart: Duration) {
        let mut due = Duration::ZERO;
        let timed = frames.into_iter().map(|frame| {
            if frame.contains("\"delta\"") {
                due += apart;
            }
            (due, frame)
        });
        let frames = Arc::new(timed.collect());
        self.lock().insert(id.to_owned(), Answer { frames, whole, begun: Instant::now(), is_cancelled: false });
    }

    /// An answer as it stands.
    pub(super) fn shown(&self, id: &str) -> Option<Value> {
        self.lock().get(id).map(Answer::shown)
    }

    /// Ends an answer, unless it is whole; as it stands then.
    pub(super) fn cancel(&self, id: &str) -> Option<Value> {
        let mut answers = self.lock();
        let answer = answers.get_mut(id)?;
        answer.is_cancelled |= !answer.is_over();
        Some(answer.shown())
    }

    /// Whether the answer was cancelled.
    pub(super) fn is_cancelled(&self, id: &str) -> bool {
        self.lock().get(id).is_some_and(|answer| answer.is_cancelled)
    }

    /// Forgets all of them, as a provider does after some minutes.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    /// The frames from this number on, as they come. None any more once it is cancelled.
    pub(super) fn frames(self: Arc<Self>, id: &str, first: usize) -> impl Stream<Item = Bytes> + use<> {
        stream::unfold((self, id.to_owned(), first), |(kept, id, at)| async move {
            loop {
                let answer = kept.lock().get(&id).cloned()?;
                let (due, frame) = answer.frames.get(at)?;
                let left = due.saturating_sub(answer.begun.elapsed());
                if answer.is_cancelled {
                    return None;
                }
                if left.is_zero() {
                    return Some((Bytes::from(format!("{frame}\n\n")), (kept, id, at + 1)));
                }
                // A cancellation is noticed soon.
                tokio::time::sleep(left.min(Duration::from_millis(20))).await;
            }
        })
    }
}
