//! The pump: moves a run's entries to the store while its work goes on.
//!
//! One task polls work and writing in turn. Whenever the work rests and something is pending, a commit starts; when it
//! is durable the work is polled again, because it may have been waiting for just that.

use crate::journal::Journal;
use outlive_core::port::{BoxFuture, DbError};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep_until};

/// Moves one run's entries to the store.
pub(crate) struct Pump {
    journal: Arc<Journal>,
    writing: Option<BoxFuture<'static, Result<(), DbError>>>,
    stream_timer: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self { journal, writing: None, stream_timer: None }
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Polls `work`, and commits what it has appended whenever it rests.
    ///
    /// # Errors
    /// The store's, unless it was only full or busy: that is waited out.
    pub(crate) async fn run<T>(
        &mut self,
        mut work: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    ) -> Result<T, DbError> {
        poll_fn(|cx| {
            self.journal.poll_begins(cx.waker());
            let polled = self.poll_run(&mut work, cx);
            self.journal.poll_ends();
            polled
        })
        .await
    }

    fn poll_run<T>(
        &mut self,
        work: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, DbError>> {
        loop {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.writing.is_some() || !self.begin(false) {
                break;
            }
        }
        self.poll_stream_timer(cx);
        Poll::Pending
    }

    /// Commits everything that is left.
    ///
    /// # Errors
    /// As [`Pump::run`].
    pub(crate) async fn flush(&mut self) -> Result<(), DbError> {
        poll_fn(|cx| {
            loop {
                ready!(self.poll_write(cx))?;
                if !self.begin(true) {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }

    /// Starts a commit if there is something to commit.
    fn begin(&mut self, is_final: bool) -> bool {
        let wanted = self.journal.wants_commit(is_final);
        if wanted {
            self.writing = Some(Box::pin(self.journal.clone().write()));
            self.stream_timer = None;
        }
        wanted
    }

    /// Polls the commit in flight; ready when there is none any more.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DbError>> {
        let Some(writing) = &mut self.writing else { return Poll::Ready(Ok(())) };
        let written = ready!(writing.as_mut().poll(cx));
        self.writing = None;
        Poll::Ready(written)
    }

    /// Makes sure that streamed text wakes this task when it is due.
    fn poll_stream_timer(&mut self, cx: &mut Context<'_>) {
        let Some(due) = self.journal.stream_due() else { return };
        let timer = self.stream_timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.as_mut().poll(cx).is_ready() {
            self.stream_timer = None;
            cx.waker().wake_by_ref();
        }
    }
}
