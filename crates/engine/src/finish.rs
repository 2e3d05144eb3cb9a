//! Work that must not be left half done: its caller may go away, and the engine finishes it.
//!
//! It knows nothing about the work. As long as the caller waits, the work is polled in place at no extra cost. The
//! invariant: what was begun runs to its end, as long as the runtime does.

use outlive_core::port::BoxFuture;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// A future whose work survives being dropped. Dropped before it is first polled, it does nothing at all.
#[must_use = "it begins when it is awaited"]
pub struct Finish<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    is_begun: bool,
    runtime: Handle,
}

impl<T: Send + 'static> Finish<T> {
    /// `runtime` is where the work continues without its caller.
    pub(crate) fn new(runtime: &Handle, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), is_begun: false, runtime: runtime.clone() }
    }
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.is_begun = true;
        // Taken out while it is polled: work that panics is not polled again.
        let mut work = self.work.take().expect("a future is not polled after its end");
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> fmt::Debug for Finish<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finish").field("is_begun", &self.is_begun).finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take().filter(|_| self.is_begun) {
            self.runtime.spawn(async move { drop(work.await) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn begun_work_ends_without_its_caller_and_other_work_never_begins() {
        for is_polled in [true, false] {
            let (go, gate) = oneshot::channel::<()>();
            let (done, ended) = oneshot::channel();
            let mut work = Box::pin(Finish::new(&Handle::current(), async move {
                gate.await.ok();
                done.send(()).ok();
            }));
            if is_polled {
                assert!(poll!(&mut work).is_pending());
            }
            drop(work);
            drop(go);
            assert_eq!(ended.await.is_ok(), is_polled);
        }
    }

    #[tokio::test]
    async fn who_waits_gets_the_result() {
        assert_eq!(Finish::new(&Handle::current(), async { 7 }).await, 7);
    }
}
