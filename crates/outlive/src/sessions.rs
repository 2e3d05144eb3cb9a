//! What a workflow's user asks about a session: its state, its name, what its runs used.
//!
//! It must never know how a store keeps them: everything goes through the engine and its reader.

use crate::error::Result;
use crate::workflow::Workflow;
use outlive_core::port::{RunFilter, SessionPatch};
use outlive_core::{Metrics, SessionId};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Runs read at a time.
const PAGE: u32 = 100;

impl Workflow {
    /// A session's state as stored: what steps and tools have set in it. Empty when there is no such session.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database fails.
    pub async fn get_session_state(&self, session_id: impl AsRef<str>) -> Result<Map<String, Value>> {
        let id = parse(session_id)?;
        Ok(self.engine().await?.reader().session(&id).await?.map(|session| session.state).unwrap_or_default())
    }

    /// What people call a session; `None` until it is named, or when there is no such session.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database fails.
    pub async fn get_session_name(&self, session_id: impl AsRef<str>) -> Result<Option<Arc<str>>> {
        let id = parse(session_id)?;
        Ok(self.engine().await?.reader().session(&id).await?.and_then(|session| session.name))
    }

    /// Names a session; `false` when there is no such session.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database fails.
    pub async fn set_session_name(&self, session_id: impl AsRef<str>, name: impl AsRef<str>) -> Result<bool> {
        let id = parse(session_id)?;
        let patch = SessionPatch { name: Some(Arc::from(name.as_ref())), ..SessionPatch::default() };
        Ok(self.engine().await?.update_session(&id, patch).await?.is_some())
    }

    /// The tokens that the agents and teams of all runs of a session used, together and for each model; what failed,
    /// was tried again or was rejected counts too. It has no times, and nothing when there is no such session. A run
    /// that is still going counts as far as its agents and teams have ended.
    ///
    /// # Errors
    /// When the text is not a valid id, or the database fails.
    pub async fn get_session_metrics(&self, session_id: impl AsRef<str>) -> Result<Metrics> {
        let reader = self.engine().await?.reader();
        let session_id = Some(parse(session_id)?);
        let mut filter = RunFilter { session_id, with_payload: true, limit: PAGE, ..RunFilter::default() };
        let mut used = Metrics::default();
        loop {
            let page = reader.runs(filter.clone()).await?;
            for run in &page.runs {
                let output = reader.output(run).await?;
                if let Some(total) = output.used() {
                    used.absorb(&total);
                }
            }
            if page.next.is_none() {
                return Ok(used);
            }
            filter.after = page.next;
        }
    }
}

fn parse(session_id: impl AsRef<str>) -> Result<SessionId> {
    Ok(SessionId::parse(session_id.as_ref()).map_err(outlive_engine::Error::from)?)
}
