//! Handles: a run from outside. Holding one costs nothing and dropping one changes nothing.

use crate::cancel::cancel;
use crate::ending::Ending;
use crate::error::Error;
use crate::events::EventStream;
use crate::questions::OpenQuestion;
use crate::reader::Reader;
use outlive_core::port::BoxFuture;
use outlive_core::{RunId, RunStatus, WorkflowRunOutput};
use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;

/// A run, wherever it executes. Awaiting the handle waits for the run's result: [`RunHandle::wait`], and an error unless the
/// run is COMPLETED.
#[derive(Clone)]
pub struct RunHandle {
    reader: Reader,
    run_id: RunId,
    is_repeated: bool,
    /// Of a run that was submitted here and began at once.
    ending: Option<Arc<Ending>>,
    steers: Option<RunId>,
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunHandle({})", self.run_id)
    }
}

impl RunHandle {
    pub(crate) fn new(reader: Reader, run_id: RunId) -> Self {
        Self { reader, run_id, is_repeated: false, ending: None, steers: None }
    }

    pub(crate) fn repeated(self, is_repeated: bool) -> Self {
        Self { is_repeated, ..self }
    }

    pub(crate) fn ending(self, ending: Option<Arc<Ending>>) -> Self {
        Self { ending, ..self }
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Whether the request that returned this handle was a repetition: its idempotency key was known, and this is that
    /// run.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    pub(crate) fn steered(self, steers: Option<RunId>) -> Self {
        Self { steers, ..self }
    }

    /// The request that returned this handle was sent to this run, which had begun before (policy `Steer`): the id of the
    /// run that it becomes unless this one takes it in.
    pub fn steering_run_id(&self) -> Option<&RunId> {
        self.steers.as_ref()
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
        self.reader.get_run(&self.run_id).await
    }

    /// The run's events after index `after`, from the first when absent: first those stored, then live ones, until the
    /// run is at rest.
    pub fn events(&self, after: Option<u64>) -> EventStream {
        self.reader.events(&self.run_id, after)
    }

    /// Asks for the run to end. See [`Engine::cancel`](crate::Engine::cancel).
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or the store's.
    pub async fn cancel(&self, reason: &str) -> Result<Option<RunStatus>, Error> {
        cancel(&self.reader, &self.run_id, reason).await
    }

    /// What the run waits to hear from people, in the order in which it was asked; each can be answered there and then.
    ///
    /// ```
    /// # use outlive_engine::{Error, RunHandle};
    /// async fn approve_all(run: &RunHandle) -> Result<(), Error> {
    ///     for question in run.questions().await? {
    ///         println!("{}", question.question.message.as_deref().unwrap_or_default());
    ///         question.by("ada").approve().await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::DamagedQuestion`], or the store's.
    pub async fn questions(&self) -> Result<Vec<OpenQuestion>, Error> {
        let open = self.reader.questions_of(&self.run_id).await?;
        Ok(open.into_iter().map(|asked| OpenQuestion::new(asked, self.reader.clone())).collect())
    }

    /// Waits until the run is at rest: it has ended (COMPLETED, ERROR, CANCELLED), or it is PAUSED and none of it
    /// executes any more. The output's status says which; to get the result or an error, await the handle itself.
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Unreadable`], the store's, or [`Error::Stopped`] when this engine's store has
    /// failed.
    pub async fn wait(&self) -> Result<WorkflowRunOutput, Error> {
        self.reader.wait_for(&self.run_id, self.ending.as_deref()).await
    }
}

impl IntoFuture for RunHandle {
    type Output = Result<WorkflowRunOutput, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.wait().await?.into_result()?) })
    }
}
