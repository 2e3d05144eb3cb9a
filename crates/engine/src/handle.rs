//! Handles: a run from outside. Holding one costs nothing and dropping one changes nothing.

use crate::engine::Engine;
use crate::error::Error;
use crate::events::EventStream;
use outlive_core::port::{Access, BoxFuture};
use outlive_core::{RunId, RunStatus, WorkflowRunOutput};
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

/// How long a waiter relies on notifications before it reads the store itself.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// A run, wherever it executes. Awaiting the handle waits for the run's result: [`RunHandle::wait`], and an error unless the
/// run is COMPLETED.
#[derive(Clone)]
pub struct RunHandle {
    engine: Engine,
    run_id: RunId,
    is_repeated: bool,
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHandle({})", self.run_id)
    }
}

impl RunHandle {
    pub(crate) fn new(engine: Engine, run_id: RunId) -> Self {
        Self { engine, run_id, is_repeated: false }
    }

    pub(crate) fn repeated(self, is_repeated: bool) -> Self {
        Self { is_repeated, ..self }
    }

    /// Whether the request that returned this handle was a repetition: its idempotency key was known, and this is that
    /// run.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// The run's id: all that another process needs.
    pub fn run_id(&self) -> &RunId {
        &self.run_id
    }

    /// The run as it is now; none when there is no such run.
    ///
    /// # Errors
    /// [`Error::Unreadable`], or the store's.
    pub async fn get(&self) -> Result<Option<WorkflowRunOutput>, Error> {
        self.engine.get_run(&self.run_id).await
    }

    /// The run's events after index `after`, from the first when absent: first those stored, then live ones, until the
    /// run is at rest.
    pub fn events(&self, after: Option<u64>) -> EventStream {
        self.engine.events(&self.run_id, after)
    }

    /// Asks for the run to end. See [`Engine::cancel`].
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or the store's.
    pub async fn cancel(&self, reason: &str) -> Result<Option<RunStatus>, Error> {
        self.engine.cancel(&self.run_id, reason).await
    }

    /// Waits until the run is at rest: it has ended (COMPLETED, ERROR, CANCELLED), or it is PAUSED and none of it
    /// executes any more. The output's status says which; to get the result or an error, await the handle itself.
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Unreadable`], the store's, or [`Error::Stopped`] when this engine's store has failed.
    pub async fn wait(&self) -> Result<WorkflowRunOutput, Error> {
        let mut ear = self.engine.inner.services.hub.subscribe(&self.run_id);
        // The owner must be checked before anyone waits: someone else's run does not exist here.
        let mut is_known = self.engine.access == Access::All;
        loop {
            let mark = *ear.mark.borrow_and_update();
            let executes_here = self.engine.inner.is_running(&self.run_id) && !mark.rests;
            if !executes_here || !is_known {
                let found = self.engine.stored_run(&self.run_id).await?;
                is_known = true;
                let run = found.ok_or_else(|| Error::RunNotFound(self.run_id.clone()))?;
                if run.is_at_rest() {
                    return self.engine.output(&run).await;
                }
                self.engine.inner.check_running()?;
            }
            let news = ear.mark.wait_for(|now| now.rests != mark.rests || now.looks != mark.looks);
            let _ = tokio::time::timeout(LOOK_PERIOD, news).await;
        }
    }
}

impl IntoFuture for RunHandle {
    type Output = Result<WorkflowRunOutput, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.wait().await?.into_result()?) })
    }
}
