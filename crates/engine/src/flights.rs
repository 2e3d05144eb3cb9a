//! What a run has in progress: steps being executed and verdicts being asked for, side by side in the run's one task.
//!
//! It must never know a machine. The invariant: what was dropped is never polled again, and nothing of it lands.

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use outlive_core::log::Key;
use outlive_core::machine::Execute;
use outlive_core::port::{BoxFuture, Executed};
use outlive_core::{Failure, Timestamp, Verdict};
use serde_json::Value;
use std::pin::Pin;
use std::task::{Context, Poll};

/// How one of them ended.
pub(crate) enum Landing {
    /// A step, with what it changed in the session.
    Executed(Box<Result<Executed, Failure>>, Option<Value>),
    /// A verdict.
    Decided(Result<Verdict, Failure>),
    /// A step whose function sleeps until then, and was dropped.
    Asleep(Timestamp, Box<Execute>),
    /// It was not begun, or broke off, because the run is to stop: it begins again elsewhere.
    Halted,
}

/// Everything a run has in progress.
#[derive(Default)]
pub(crate) struct Flights<'a>(FuturesUnordered<Flight<'a>>);

struct Flight<'a> {
    key: Key,
    work: BoxFuture<'a, Landing>,
}

impl<'a> Flights<'a> {
    pub(crate) fn start(&mut self, key: Key, work: BoxFuture<'a, Landing>) {
        self.0.push(Flight { key, work });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops what is in progress inside this, or for this itself.
    pub(crate) fn drop_of(&mut self, outer: &Key) {
        let all = std::mem::take(&mut self.0);
        self.0 = all.into_iter().filter(|flight| flight.key != *outer && !flight.key.is_inside(outer)).collect();
    }

    /// Waits for the next to end; for ever when there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost if dropped.
    pub(crate) async fn next(&mut self) -> (Key, Landing) {
        match self.0.next().await {
            Some(landed) => landed,
            None => std::future::pending().await,
        }
    }
}

impl Future for Flight<'_> {
    type Output = (Key, Landing);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.work.as_mut().poll(cx).map(|landing| (self.key.clone(), landing))
    }
}
