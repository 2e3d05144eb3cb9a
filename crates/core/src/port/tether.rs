//! Effects for work on a thread that nobody may be waiting for any more.
//!
//! It must never know what the work is. The invariant: once it is cut, nothing is told, and whoever waits for something
//! is turned away.

use super::{BoxFuture, Effects, Halt, Recall};
use crate::event::{EventKind, Origin};
use crate::failure::{Failure, FailureKind};
use crate::history::HistoryRun;
use crate::log::{Key, Record};
use crate::question::{Answered, Question};
use crate::time::Timestamp;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

/// A step's effects, until it is cut.
pub(crate) struct Tether {
    effects: Arc<dyn Effects>,
    end: End,
}

/// Cuts its tether when it is dropped.
pub(crate) struct Holder(End);

#[derive(Clone, Default)]
struct End(Arc<Mutex<Ending>>);

#[derive(Default)]
struct Ending {
    is_cut: bool,
    waiting: Vec<Waker>,
}

impl End {
    fn lock(&self) -> MutexGuard<'_, Ending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes of `work`; nothing when this is cut before.
    async fn before<T>(self, mut work: BoxFuture<'_, T>) -> Option<T> {
        poll_fn(|cx| {
            let mut ending = self.lock();
            if ending.is_cut {
                return Poll::Ready(None);
            }
            if !ending.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                ending.waiting.push(cx.waker().clone());
            }
            drop(ending);
            work.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Tether {
    pub(crate) fn new(effects: Arc<dyn Effects>) -> (Self, Holder) {
        let end = End::default();
        (Self { effects, end: end.clone() }, Holder(end))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut ending = self.0.lock();
        ending.is_cut = true;
        ending.waiting.drain(..).for_each(Waker::wake);
    }
}

fn nobody_waits() -> Failure {
    Failure::new(FailureKind::Cancelled, "nobody waits for this step any more")
}

impl Effects for Tether {
    fn now(&self) -> Timestamp {
        self.effects.now()
    }

    fn recall(&self, key: &Key) -> Recall {
        let ending = self.end.lock();
        if ending.is_cut { Recall::Nothing } else { self.effects.recall(key) }
    }

    fn tell(&self, kind: EventKind, origin: &Origin, record: Option<Record>) {
        // Held meanwhile: what is told is told before the cut.
        let ending = self.end.lock();
        if !ending.is_cut {
            self.effects.tell(kind, origin, record);
        }
    }

    fn stream(&self, kind: EventKind, origin: &Origin) {
        let ending = self.end.lock();
        if !ending.is_cut {
            self.effects.stream(kind, origin);
        }
    }

    fn durable(&self) -> BoxFuture<'_, Result<(), Halt>> {
        Box::pin(async { self.end.clone().before(self.effects.durable()).await.unwrap_or(Err(Halt)) })
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let (end, sleep) = (self.end.clone(), self.effects.sleep(wait));
        Box::pin(async { end.before(sleep).await.unwrap_or_default() })
    }

    fn halted(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.end.clone().before(self.effects.halted()).await.unwrap_or_default() })
    }

    fn ask<'a>(&'a self, step: &'a Key, questions: Vec<Question>) -> BoxFuture<'a, Result<Vec<Answered>, Failure>> {
        let asked = self.effects.ask(step, questions);
        Box::pin(async move { self.end.clone().before(asked).await.unwrap_or_else(|| Err(nobody_waits())) })
    }

    fn answered(&self, key: &Key) -> Option<Answered> {
        self.effects.answered(key)
    }

    fn chance(&self) -> u64 {
        self.effects.chance()
    }

    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryRun>, Failure>> {
        let history = self.effects.history(limit);
        Box::pin(async move { self.end.clone().before(history).await.unwrap_or_else(|| Err(nobody_waits())) })
    }

    fn on_thread(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), Failure>> {
        self.effects.on_thread(work)
    }
}
