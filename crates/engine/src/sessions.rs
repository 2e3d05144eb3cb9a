//! Sessions as an engine changes them, within its access.
//!
//! It must never know more than the store tells it: another user's session is one that does not exist.

use crate::engine::Engine;
use crate::error::{Error, admit_given};
use outlive_core::SessionId;
use outlive_core::port::{Access, DbErrorKind, NewSession, Session, SessionPatch};
use serde_json::{Map, Value};

impl Engine {
    /// An id for a session that does not exist yet.
    pub fn new_session_id(&self) -> SessionId {
        let services = &self.inner().services;
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
        let at = self.inner().services.clock.now();
        let user_id = session.user_id.or_else(|| self.access().user().cloned());
        let created =
            self.inner().services.db.create_session(self.access().clone(), NewSession { user_id, at, ..session });
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
        let at = self.inner().services.clock.now();
        Ok(self.inner().services.db.update_session(self.access().clone(), session_id.clone(), patch, at).await?)
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
        let db = &self.inner().services.db;
        let deleted = db.delete_sessions(self.access().clone(), session_ids.clone(), force).await?;
        self.inner().services.hub.deleted();
        // Runs that execute elsewhere notice at their next commit; those that execute here need not get that far.
        for session_id in session_ids.iter().filter(|session_id| self.inner().executes_in(session_id)) {
            // Not every id that was given was deleted.
            if db.session(Access::All, session_id.clone()).await?.is_none() {
                self.inner().drop_runs_of(session_id);
            }
        }
        Ok(deleted)
    }
}

/// Refuses what is nested too deeply to be stored and read back.
fn check_depth(fields: &mut Map<String, Value>, what: &'static str) -> Result<(), Error> {
    fields.values_mut().try_for_each(|value| admit_given(what, value))
}
