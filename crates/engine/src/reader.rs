//! The reader: what a store says about runs, sessions and whatever else belongs to a user.
//!
//! It must never write, and never know more than the store tells it: what belongs to another user does not exist.

use crate::clock::{SystemChance, SystemClock};
use crate::ending::Ending;
use crate::error::Error;
use crate::hub::Changes;
use crate::inner::{Inner, StopGuard, Stopping};
use crate::options::Options;
use crate::services::Services;
use crate::stats::Stats;
use crate::waits::Look;
use outlive_core::port::{
    Access, AuditFilter, AuditPage, Db, DbError, HookHistory, LivingWorker, LogReader, Run, RunFilter, RunPage,
    Session, SessionFilter, SessionPage, run_output,
};
use outlive_core::{
    DefinitionId, Entry, EventSettings, Page, RunEvent, RunId, RunStatus, SessionId, Timestamp, Waiting, WorkerId,
    WorkflowRunOutput,
};
use std::sync::Arc;
use std::time::Duration;

/// How long a reader relies on notifications before it reads the store itself.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Bytes of log read at a time.
pub(crate) const READ_BYTES: usize = 256 << 10;

/// A caller's batch of events ends early once it has this many bytes.
const EVENTS_BYTES_MAX: usize = 16 << 20;

/// Where a run stands, without its input and output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunStanding {
    /// Its id.
    pub run_id: RunId,
    /// Its workflow.
    pub workflow_id: DefinitionId,
    /// Its session.
    pub session_id: SessionId,
    /// Whose run it is, if the caller said.
    pub user_id: Option<Arc<str>>,
    /// Its status.
    pub status: RunStatus,
    /// Length of its log: the index its next event gets.
    pub next_index: u64,
    /// The step it is at, for people: `1/2 Research Step`.
    pub progress: Option<Arc<str>>,
    /// How often it was claimed.
    pub attempt: u32,
    /// Who executes it; absent when nobody does.
    pub worker: Option<WorkerId>,
    /// Whether it is at rest ([`Run::is_at_rest`]).
    pub is_at_rest: bool,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl From<Run> for RunStanding {
    fn from(run: Run) -> Self {
        Self {
            is_at_rest: run.is_at_rest(),
            run_id: run.info.run_id,
            workflow_id: run.info.workflow_id,
            session_id: run.info.session_id,
            user_id: run.info.user_id,
            status: run.status,
            next_index: run.next_index,
            progress: run.progress,
            attempt: run.attempt,
            worker: run.worker,
            created_at: run.created_at,
            updated_at: run.updated_at,
        }
    }
}

/// Reads runs and sessions, whoever executes them, and changes nothing. Cheap to clone.
///
/// Like an engine, it sees everything or, with [`Reader::for_user`], one user's. An engine that has readers is still
/// held: it goes on taking runs.
///
/// ```
/// # use outlive_engine::{Options, Reader};
/// # use std::sync::Arc;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let reader = Reader::over(Arc::new(outlive_db::InMemoryDb::new()), Options::default());
/// let run_id = outlive_core::RunId::parse("nobodys").unwrap();
/// assert!(reader.get_run(&run_id).await.unwrap().is_none());
/// # }
/// ```
#[derive(Clone)]
pub struct Reader {
    pub(crate) inner: Arc<Inner>,
    pub(crate) access: Access,
    _guard: Arc<StopGuard>,
}

impl Reader {
    /// Reads everything an engine reads.
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { _guard: Arc::new(StopGuard(inner.clone())), inner, access: Access::All }
    }

    /// Reads a store, which is open, in a process that has no engine. Of `options`, only those that say why a run waits
    /// matter.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn over(db: Arc<dyn Db>, options: Options) -> Self {
        let services = Services::new(db, Arc::new(SystemClock), Arc::new(SystemChance), None, &options);
        let inner = Inner::new(services, options);
        inner.watch_store();
        Self::new(inner)
    }

    /// The same reader, restricted to one user's runs and sessions.
    #[must_use]
    pub fn for_user(&self, user_id: impl Into<Arc<str>>) -> Self {
        Self { access: Access::User(user_id.into()), ..self.clone() }
    }

    /// What the engine has done since it started, for all users together.
    pub fn stats(&self) -> Stats {
        self.inner.services.counters.read(self.inner.running_len())
    }

    /// Waits until the run is at rest: it has ended (COMPLETED, ERROR, CANCELLED), or it is PAUSED and none of it
    /// executes any more. The output's status says which.
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Unreadable`], the store's, or [`Error::Stopped`] when the store has failed.
    pub async fn wait(&self, run_id: &RunId) -> Result<WorkflowRunOutput, Error> {
        self.wait_for(run_id, None).await
    }

    /// The same for whoever may find the end of the run in `ending`.
    pub(crate) async fn wait_for(&self, run_id: &RunId, ending: Option<&Ending>) -> Result<WorkflowRunOutput, Error> {
        if let Some(output) = ending.and_then(|ending| ending.still(self.inner.services.hub.deletions())) {
            return self.with_events(output.clone()).await;
        }
        let mut ear = self.inner.services.hub.subscribe(run_id);
        // The owner must be checked before anyone waits: someone else's run does not exist here.
        let mut is_known = self.access == Access::All;
        let mut has_waited = false;
        loop {
            let mark = *ear.mark.borrow_and_update();
            // Of what has ended before, only the store knows whether it is still there.
            if has_waited && let Some(output) = ending.and_then(Ending::get) {
                return self.with_events(output.clone()).await;
            }
            let executes_here = self.inner.is_running(run_id) && !mark.rests;
            if !executes_here || !is_known {
                let found = self.record(run_id).await?;
                is_known = true;
                let run = found.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
                if run.is_at_rest() {
                    return self.output(&run).await;
                }
                self.inner.check_running()?;
            }
            let news = ear.mark.wait_for(|now| now.rests != mark.rests || now.looks != mark.looks);
            let _ = tokio::time::timeout(LOOK_PERIOD, news).await;
            has_waited = true;
        }
    }

    /// Waits until the engine stops, by itself or because it is shut down, so that readers can stop with it. Returns
    /// at once when it has stopped.
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.inner.stop.subscribe();
        async move {
            // An error means that the engine is gone.
            let _ = stop.wait_for(|stop| *stop != Stopping::No).await;
        }
    }

    /// The run as it is stored, whoever executes it; none when there is no such run.
    ///
    /// # Errors
    /// [`Error::Unreadable`], or the store's.
    pub async fn get_run(&self, run_id: &RunId) -> Result<Option<WorkflowRunOutput>, Error> {
        match self.record(run_id).await? {
            Some(run) => self.output(&run).await.map(Some),
            None => Ok(None),
        }
    }

    /// A stored run, read with its payload, as [`Reader::get_run`] shows it.
    ///
    /// # Errors
    /// [`Error::Unreadable`], or the store's.
    pub async fn output(&self, run: &Run) -> Result<WorkflowRunOutput, Error> {
        self.with_events(run_output(&*self.inner.services.db, &self.access, run).await?).await
    }

    /// The output with the events that its workflow has its runs have.
    async fn with_events(&self, mut output: WorkflowRunOutput) -> Result<WorkflowRunOutput, Error> {
        let settings = self.event_settings(&output.workflow_id);
        if settings.store_events {
            let events = self.events(&output.run_id, None).stored().await?;
            output.events = events.into_iter().filter_map(|event| settings.stored(event)).collect();
        }
        Ok(output)
    }

    /// Which events of a workflow's runs are shown: as its definition says, the usual ones if this process does not have
    /// it.
    pub fn event_settings(&self, workflow_id: &DefinitionId) -> EventSettings {
        self.inner.newest(workflow_id).map(|definition| definition.events.clone()).unwrap_or_default()
    }

    /// Hears of every change of any run from now on, whoever it belongs to. Not for answering a user.
    pub fn changes(&self) -> Changes {
        self.inner.services.hub.changes()
    }

    /// The workers that are alive as far as the store knows. A restricted reader counts only its own user's runs.
    ///
    /// # Errors
    /// The store's.
    pub async fn workers(&self) -> Result<Vec<LivingWorker>, Error> {
        Ok(self.inner.services.db.workers(Some(self.access.clone())).await?)
    }

    /// The run as it is stored, with its input and options; none when there is no such run.
    ///
    /// # Errors
    /// The store's.
    pub async fn record(&self, run_id: &RunId) -> Result<Option<Run>, Error> {
        Ok(self.inner.services.db.run(self.access.clone(), run_id.clone()).await?)
    }

    /// Up to `count` stored events from index `from` on, in order; fewer at the end of the log, or once they exceed
    /// 16 MiB together. Does not wait for more.
    ///
    /// # Errors
    /// [`Error::Damaged`], or the store's.
    pub async fn stored_events(&self, run_id: &RunId, from: u64, count: usize) -> Result<Vec<RunEvent>, Error> {
        let entries = self.stored_entries(run_id, from, count).await?;
        Ok(entries.into_iter().map(|entry| entry.event).collect())
    }

    /// The same, with what recovery knows of each.
    ///
    /// # Errors
    /// As [`Self::stored_events`].
    pub async fn stored_entries(&self, run_id: &RunId, from: u64, count: usize) -> Result<Vec<Entry>, Error> {
        let mut stored = Vec::new();
        let (mut next, mut bytes) = (from, 0);
        let Some(run) = self.record(run_id).await? else { return Ok(stored) };
        let mut reader = LogReader::new(&run.info, self.access.clone());
        while stored.len() < count && bytes <= EVENTS_BYTES_MAX {
            let pages = self.inner.services.db.read(self.access.clone(), run_id.clone(), next, READ_BYTES).await?;
            let Some(end) = pages.last().map(Page::end).filter(|end| *end > next) else { break };
            for page in pages {
                bytes += page.body.len();
                let entries = reader.entries(&*self.inner.services.db, &page).await?.into_iter();
                stored.extend(entries.filter(|entry| entry.event.event_index >= Some(next)));
            }
            next = end;
        }
        stored.truncate(count);
        Ok(stored)
    }

    /// Where a run stands; none when there is no such run. Reads no results: it takes the same for any run.
    ///
    /// # Errors
    /// The store's.
    pub async fn standing(&self, run_id: &RunId) -> Result<Option<RunStanding>, Error> {
        let line = self.inner.services.db.run_line(self.access.clone(), run_id.clone()).await?;
        Ok(line.map(RunStanding::from))
    }

    /// Why each of these runs is not over yet, as the store has it now; none for those that are over. For runs that
    /// execute it only names the step they are at; [`Reader::waiting`] says more about one run.
    ///
    /// # Errors
    /// The store's.
    pub async fn waitings(&self, runs: &[Run]) -> Result<Vec<Option<Waiting>>, Error> {
        if runs.iter().all(|run| run.status.is_terminal()) {
            return Ok(vec![None; runs.len()]);
        }
        Ok(self.look().await?.over(runs).await?)
    }

    /// Why this run is not over yet, down to the call in flight; none when it is over.
    ///
    /// # Errors
    /// The store's.
    pub async fn waiting(&self, run: &Run) -> Result<Option<Waiting>, Error> {
        if run.status.is_terminal() {
            return Ok(None);
        }
        Ok(self.look().await?.at(run).await?)
    }

    async fn look(&self) -> Result<Look<'_>, DbError> {
        let services = &self.inner.services;
        Look::new(&*services.db, self.access.clone(), services.clock.now(), &self.inner.options).await
    }

    /// Lists runs. The payload of a run, when asked for, is read with [`Reader::output`].
    ///
    /// # Errors
    /// The store's; `Storage` when the cursor did not come from a list.
    pub async fn runs(&self, filter: RunFilter) -> Result<RunPage, Error> {
        Ok(self.inner.services.db.runs(self.access.clone(), filter).await?)
    }

    /// The session; none when there is no such session.
    ///
    /// # Errors
    /// The store's.
    pub async fn session(&self, session_id: &SessionId) -> Result<Option<Session>, Error> {
        Ok(self.inner.services.db.session(self.access.clone(), session_id.clone()).await?)
    }

    /// Lists sessions.
    ///
    /// # Errors
    /// The store's.
    pub async fn sessions(&self, filter: SessionFilter) -> Result<SessionPage, Error> {
        Ok(self.inner.services.db.sessions(self.access.clone(), filter).await?)
    }

    /// A run's hook and its last deliveries, newest first; none when there is no such run or it has no hook.
    ///
    /// # Errors
    /// The store's.
    pub async fn hook(&self, run_id: &RunId) -> Result<Option<HookHistory>, Error> {
        Ok(self.inner.services.db.hook(self.access.clone(), run_id.clone()).await?)
    }

    /// A page of the audit log, newest first. A restricted reader shows what its own user did.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit(&self, filter: AuditFilter) -> Result<AuditPage, Error> {
        Ok(self.inner.services.db.audit(self.access.clone(), filter).await?)
    }
}
