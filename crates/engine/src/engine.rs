//! The engine's front: register definitions, submit, cancel, shut down. Reading is its reader's.

use crate::asked::AskedQuestion;
use crate::cancel::cancel;
use crate::control::Stop;
use crate::definitions::Age;
use crate::error::Error;
use crate::finish::Finish;
use crate::handle::RunHandle;
use crate::heart::Heart;
use crate::inner::{End, Inner, Stopping};
use crate::questions::answer;
use crate::reader::Reader;
use outlive_core::port::{Access, Db};
use outlive_core::{Answer, Definition, DefinitionId, Redactor, RunId, RunStatus};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinHandle;

/// Accepts, executes and reads runs. Cheap to clone; all clones are the same engine.
///
/// What a handle may see and change depends on its access: everything, or with [`Engine::for_user`] one user's runs and
/// sessions. For that handle, other users' do not exist.
///
/// Everything it does happens on the runtime it was started on; callers may use another. Dropping the last clone
/// without [`Engine::shutdown`] loses nothing: runs that execute here go on, no further ones are taken, and runs that
/// wait in the store are left for the next engine.
#[derive(Clone)]
pub struct Engine {
    reader: Reader,
    tasks: Arc<Tasks>,
}

/// What an engine does beside executing runs, so that a shutdown can wait for it.
#[derive(Default)]
pub(crate) struct Tasks {
    heart: Mutex<Option<Heart>>,
    others: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Nothing of it executes yet.
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { reader: Reader::new(inner), tasks: Arc::default() }
    }

    /// The engine that a reader is part of.
    pub(crate) fn over(reader: Reader) -> Self {
        Self { reader, tasks: Arc::default() }
    }

    /// Takes charge of what was started for it.
    pub(crate) fn keep(&self, heart: Heart, others: impl IntoIterator<Item = JoinHandle<()>>) {
        *self.tasks.heart.lock().unwrap_or_else(PoisonError::into_inner) = Some(heart);
        self.tasks.others.lock().unwrap_or_else(PoisonError::into_inner).extend(others);
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.reader.inner
    }

    pub(crate) fn access(&self) -> &Access {
        &self.reader.access
    }

    /// What reads as this engine does, and changes nothing.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Registers another workflow, or another version of one; runs that wait for it are taken over.
    pub fn register(&self, definition: Arc<Definition>) {
        self.inner().keep(definition, Age::Newest);
        self.inner().wake.notify_one();
        self.inner().keeps.notify_one();
    }

    /// Accepts no new runs of a workflow, until it is registered again: it is unknown to whoever submits one. Runs that were
    /// accepted are executed as before.
    pub fn retire(&self, workflow_id: &DefinitionId) {
        self.inner().services.definitions.retire(workflow_id);
    }

    /// The redactor that keeps secrets out of the store, for keeping the same secrets out of other places. It knows
    /// those of the options and of every workflow registered so far.
    pub fn redactor(&self) -> Arc<Redactor> {
        self.inner().services.redactor()
    }

    /// The same engine, restricted to one user's runs and sessions.
    ///
    /// ```
    /// # use outlive_core::{DefinitionBuilder, Failure, Step, StepInput};
    /// # use std::sync::Arc;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let db = Arc::new(outlive_db::InMemoryDb::new());
    /// # let engine = outlive_engine::Engine::builder(db).start().await.unwrap();
    /// let ada = engine.for_user("ada");
    /// let run_id = outlive_core::RunId::parse("somebody-elses").unwrap();
    /// assert!(ada.get_run(&run_id).await.unwrap().is_none());
    /// # }
    /// ```
    #[must_use]
    pub fn for_user(&self, user_id: impl Into<Arc<str>>) -> Self {
        Self { reader: self.reader.for_user(user_id), ..self.clone() }
    }

    /// The store, unrestricted: never answer a user from it.
    pub fn db(&self) -> &Arc<dyn Db> {
        &self.inner().services.db
    }

    /// A handle to a run, from its id alone. Whether the run exists shows when the handle is used.
    pub fn attach(&self, run_id: RunId) -> RunHandle {
        RunHandle::new(self.reader.clone(), run_id)
    }

    /// Durably records the request to end a run, and makes sure it happens. Returns the status if the run was already
    /// over.
    ///
    /// # Cancel safety
    /// If the future is dropped the request may or may not have become durable; if it has, it is carried out.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or the store's.
    pub async fn cancel(&self, run_id: &RunId, reason: &str) -> Result<Option<RunStatus>, Error> {
        cancel(&self.reader, run_id, reason).await
    }

    /// Answers questions, all of them or none. `by` is kept with the answers. The runs that wait go on wherever their
    /// workflows are executed; nobody needs to execute them now. The same answer by the same person again changes
    /// nothing. Returns the questions as they stand then.
    ///
    /// # Errors
    /// [`Error::QuestionNotFound`], [`Error::InvalidAnswer`], [`Error::AlreadyAnswered`] says by whom and when; then
    /// nothing happened. Or the store's.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out, also when its caller goes away.
    pub async fn answer(
        &self,
        answers: impl IntoIterator<Item = (Arc<str>, Answer)>,
        by: Option<Arc<str>>,
    ) -> Result<Vec<AskedQuestion>, Error> {
        answer(&self.reader, answers.into_iter().collect(), by).await
    }

    /// Work that must not be left half done: once polled, it finishes on this engine's runtime, even if its caller goes
    /// away.
    pub fn finish<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Finish<T> {
        Finish::new(&self.inner().runtime, work)
    }

    /// Whether it accepts further runs.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::DiskLow`].
    pub fn ready(&self) -> Result<(), Error> {
        self.inner().ready()
    }

    /// Why the engine has stopped by itself, if it has: the store failed and takes no more writes. The process should
    /// end; a new one recovers from what is on stable storage.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.inner().failure()
    }

    /// Stops: takes nothing new, gives calls in flight up to [`shutdown_grace`](crate::Options::shutdown_grace) to end,
    /// and releases every lease. Unfinished runs wait in the store for the next engine, which need not wait for a lease
    /// to expire.
    ///
    /// A run whose code cannot be dropped, because it blocks its thread, keeps its lease until it returns or the
    /// process ends; the shutdown does not wait for it.
    ///
    /// # Cancel safety
    /// Safe: once begun, the shutdown finishes whether or not anyone waits for it.
    ///
    /// # Errors
    /// The store's, when the leases could not be released.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let inner = self.inner();
        inner.mark_stopped("it was shut down");
        inner.stop_at_least(Stopping::Drain);
        inner.stop_all(&Stop::Drain);
        let mut ended = inner.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        let heart = self.tasks.heart.lock().unwrap_or_else(PoisonError::into_inner).take();
        let retired = match (end, heart) {
            (Some(End::Retired(retired)), Some(heart)) => {
                heart.join().await;
                retired
            }
            (Some(End::Retired(retired)), None) => retired,
            (Some(End::Stuck) | None, _) => Ok(()),
        };
        let tasks: Vec<_> = std::mem::take(&mut *self.tasks.others.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        if let Some(observer) = &inner.services.observer {
            observer.flush().await;
        }
        Ok(retired?)
    }

    /// Ends everything this engine does, as a crash would: nothing more is written, no lease is released.
    #[cfg(feature = "testing")]
    pub fn kill(&self) {
        let inner = self.inner();
        inner.mark_stopped("it was killed");
        inner.stop_at_least(Stopping::Failed);
        if let Some(heart) = self.tasks.heart.lock().unwrap_or_else(PoisonError::into_inner).take() {
            heart.kill();
        }
        for task in self.tasks.others.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        inner.abort_all();
    }

    /// The worker that this engine is to its store.
    #[cfg(feature = "testing")]
    pub fn worker(&self) -> outlive_core::WorkerId {
        self.inner().worker()
    }
}
