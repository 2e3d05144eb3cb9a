//! What an engine reads and changes apart from its own work, within its access: lists of runs, where a run stands,
//! sessions.
//!
//! It must never know more than the store tells it: another user's session is one that does not exist.

use crate::engine::Engine;
use crate::error::Error;
use crate::hub::Changes;
use crate::waits::Look;
use outlive_core::json;
use outlive_core::port::{
    Access, DbError, DbErrorKind, LivingWorker, LogReader, NewSession, Run, RunFilter, RunPage, Session, SessionFilter,
    SessionPage, SessionPatch,
};
use outlive_core::{DefinitionId, Page, RunEvent, RunId, RunStatus, SessionId, Timestamp, Waiting, WorkerId};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Bytes of log read at a time.
const READ_BYTES: usize = 256 << 10;

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
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl RunStanding {
    /// Whether none of it executes, and none will until somebody acts: it has ended, or it is paused and its lease was
    /// released.
    pub fn is_at_rest(&self) -> bool {
        self.status.is_terminal() || (self.status == RunStatus::Paused && self.worker.is_none())
    }
}

impl Engine {
    /// Hears of every change of any run from now on, whoever it belongs to. Not for answering a user.
    pub fn changes(&self) -> Changes {
        self.inner.services.hub.changes()
    }

    /// The workers that are alive as far as the store knows. A restricted engine counts only its own user's runs.
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
        self.stored_run(run_id).await
    }

    /// Up to `count` stored events from index `from` on, in order; fewer at the end of the log, or once they exceed
    /// 16 MiB together. Does not wait for more.
    ///
    /// # Errors
    /// [`Error::Damaged`], or the store's.
    pub async fn stored_events(&self, run_id: &RunId, from: u64, count: usize) -> Result<Vec<RunEvent>, Error> {
        let mut events = Vec::new();
        let (mut next, mut bytes) = (from, 0);
        let Some(run) = self.stored_run(run_id).await? else { return Ok(events) };
        let mut reader = LogReader::new(&run.info, self.access.clone());
        while events.len() < count && bytes <= EVENTS_BYTES_MAX {
            let pages = self.inner.services.db.read(self.access.clone(), run_id.clone(), next, READ_BYTES).await?;
            let Some(end) = pages.last().map(Page::end).filter(|end| *end > next) else { break };
            for page in pages {
                bytes += page.body.len();
                let entries = reader.entries(&*self.inner.services.db, &page).await?.into_iter();
                events.extend(entries.map(|entry| entry.event).filter(|event| event.event_index >= Some(next)));
            }
            next = end;
        }
        events.truncate(count);
        Ok(events)
    }

    /// Where a run stands; none when there is no such run.
    ///
    /// # Errors
    /// The store's.
    pub async fn standing(&self, run_id: &RunId) -> Result<Option<RunStanding>, Error> {
        let run = self.stored_run(run_id).await?;
        Ok(run.map(|run| RunStanding {
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
        }))
    }

    /// Why each of these runs is not over yet, as the store has it now; none for those that are over. For runs that
    /// execute it only names the step they are at; [`Engine::waiting`] says more about one run.
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

    /// Lists runs. The payload of a run, when asked for, is read with [`Engine::output`].
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

    /// An id for a session that does not exist yet.
    pub fn new_session_id(&self) -> SessionId {
        let services = &self.inner.services;
        SessionId::new(services.clock.now(), services.chance.wide_bits())
    }

    /// Creates a session without a run, now. A restricted engine fills in its own user.
    ///
    /// # Cancel safety
    /// If the future is dropped the session may or may not have been created.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the id is taken, [`Error::SessionNotFound`] when it would belong to another user than
    /// this engine's, or the store's.
    pub async fn create_session(&self, session: NewSession) -> Result<Session, Error> {
        let mut session = session;
        check_depth(&mut session.state, "session_state")?;
        check_depth(&mut session.metadata, "metadata")?;
        let session_id = session.session_id.clone();
        let at = self.inner.services.clock.now();
        let user_id = session.user_id.or_else(|| self.access.user().cloned());
        let created = self.inner.services.db.create_session(self.access.clone(), NewSession { user_id, at, ..session });
        created.await.map_err(|error| {
            let is_foreign = error.kind() == DbErrorKind::NotFound;
            if is_foreign { Error::SessionNotFound(session_id) } else { error.into() }
        })
    }

    /// Changes a session; returns what it is now, or none when there is no such session.
    ///
    /// # Cancel safety
    /// If the future is dropped the change may or may not have happened.
    ///
    /// # Errors
    /// The store's.
    pub async fn update_session(&self, session_id: &SessionId, patch: SessionPatch) -> Result<Option<Session>, Error> {
        let mut patch = patch;
        patch.state.iter_mut().try_for_each(|state| check_depth(state, "session_state"))?;
        patch.metadata.iter_mut().try_for_each(|metadata| check_depth(metadata, "metadata"))?;
        let at = self.inner.services.clock.now();
        Ok(self.inner.services.db.update_session(self.access.clone(), session_id.clone(), patch, at).await?)
    }

    /// Deletes sessions with all their runs and logs, and returns how many there were; ids that do not exist are
    /// ignored. With `force`, also runs that have not ended: what they were doing is dropped.
    ///
    /// # Cancel safety
    /// If the future is dropped they may or may not have been deleted; all of them or none.
    ///
    /// # Errors
    /// [`Error::SessionBusy`] when one of them has an unfinished run and `force` is not set; then none is deleted. The
    /// store's.
    pub async fn delete_sessions(&self, session_ids: Vec<SessionId>, force: bool) -> Result<u64, Error> {
        let engine = self.clone();
        self.finish(async move { engine.delete_and_drop(session_ids, force).await }).await
    }

    async fn delete_and_drop(&self, session_ids: Vec<SessionId>, force: bool) -> Result<u64, Error> {
        let db = &self.inner.services.db;
        let deleted = db.delete_sessions(self.access.clone(), session_ids.clone(), force).await?;
        // Runs that execute elsewhere notice at their next commit; those that execute here need not get that far.
        for session_id in session_ids.iter().filter(|session_id| self.inner.executes_in(session_id)) {
            // Not every id that was given was deleted.
            if db.session(Access::All, session_id.clone()).await?.is_none() {
                self.inner.drop_runs_of(session_id);
            }
        }
        Ok(deleted)
    }
}

/// Refuses what is nested too deeply to be stored and read back.
fn check_depth(fields: &mut Map<String, Value>, what: &'static str) -> Result<(), Error> {
    fields.values_mut().try_for_each(json::admit).map_err(|problem| Error::TooDeep { what, problem })
}
