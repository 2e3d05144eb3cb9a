//! What a run has in progress: steps being executed and verdicts being asked for, side by side in the run's one task.
//!
//! It must never know a machine. The invariant: what was dropped is never polled again, and nothing of it lands.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use outlive_core::log::Key;
use outlive_core::port::{BoxFuture, Executed};
use outlive_core::{Failure, Timestamp, Verdict};
use serde_json::Value;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// How one of them ended.
pub(crate) enum Landing {
    /// A step, with what it changed in the session.
    Executed(Box<Result<Executed, Failure>>, Option<Value>),
    /// A verdict.
    Decided(Result<Verdict, Failure>),
    /// A step whose function sleeps until then, and was dropped.
    Asleep(Timestamp),
    /// It was not begun, or broke off, because the run is to stop: it begins again elsewhere.
    Halted,
}

/// Everything a run has in progress. Most runs do one thing at a time, and that one is polled without ado.
#[derive(Default)]
pub(crate) struct Flights<'a> {
    alone: Option<Flight<'a>>,
    others: Option<Box<FuturesUnordered<Flight<'a>>>>,
}

struct Flight<'a> {
    key: Key,
    /// The id of the step that is executed.
    step_id: Option<Arc<str>>,
    work: BoxFuture<'a, Landing>,
}

impl<'a> Flights<'a> {
    pub(crate) fn start(&mut self, key: Key, step_id: Option<Arc<str>>, work: BoxFuture<'a, Landing>) {
        let flight = Flight { key, step_id, work };
        if self.is_empty() { self.alone = Some(flight) } else { self.others.get_or_insert_default().push(flight) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.alone.is_none() && self.others.as_ref().is_none_or(|others| others.is_empty())
    }

    /// Drops what is in progress inside this, or for this itself. Returns the ids of the steps that were executed.
    pub(crate) fn drop_of(&mut self, outer: &Key) -> Vec<Arc<str>> {
        let others = self.others.take().into_iter().flat_map(|others| (*others).into_iter());
        let all = self.alone.take().into_iter().chain(others);
        let is_in = |flight: &Flight<'_>| flight.key == *outer || flight.key.is_inside(outer);
        let (dropped, kept): (Vec<_>, Vec<_>) = all.partition(is_in);
        self.others = (!kept.is_empty()).then(|| Box::new(kept.into_iter().collect()));
        dropped.into_iter().filter_map(|flight| flight.step_id).collect()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.alone.is_some()) + self.others.as_ref().map_or(0, |others| others.len())
    }

    /// Waits for the next to end; for ever when there is none. None as soon as `is_called` away.
    ///
    /// # Cancel safety
    /// Nothing is lost if dropped.
    pub(crate) async fn next(&mut self, is_called: impl Fn() -> bool) -> Option<(Key, Landing)> {
        poll_fn(|cx| {
            if is_called() {
                return Poll::Ready(None);
            }
            if let Some(flight) = &mut self.alone
                && let Poll::Ready(landed) = Pin::new(flight).poll(cx)
            {
                self.alone = None;
                return Poll::Ready(Some(landed));
            }
            match self.others.as_mut().map(|others| others.poll_next_unpin(cx)) {
                Some(Poll::Ready(Some(landed))) => Poll::Ready(Some(landed)),
                // Asking costs something even when there are none.
                Some(Poll::Ready(None)) => {
                    self.others = None;
                    Poll::Pending
                }
                Some(Poll::Pending) | None => Poll::Pending,
            }
        })
        .await
    }
}

impl Future for Flight<'_> {
    type Output = (Key, Landing);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.work.as_mut().poll(cx).map(|landing| (self.key.clone(), landing))
    }
}
