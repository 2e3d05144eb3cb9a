//! Who is calling, and what they may see.

use crate::audit::Visit;
use crate::auth::{Access, AuthErrorKind, Principal, permit};
use crate::problem::Problem;
use crate::state::{Kind, Served, State};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use outlive_core::port::AuditKind;
use outlive_core::{Answer, DefinitionId, Question, RunInfo};
use outlive_engine::{Engine, Reader};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an open connection waits for the store of keys.
const RECHECK_PATIENCE: Duration = Duration::from_secs(3);

/// A caller, with the server's state.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) state: Arc<State>,
    /// What is served, as it was when the request came.
    pub(crate) served: Arc<Served>,
    pub(crate) principal: Principal,
    pub(crate) visit: Visit,
}

impl Caller {
    pub(crate) fn new(state: Arc<State>, principal: Principal, visit: Visit) -> Self {
        Self { served: state.served(), state, principal, visit }
    }

    /// What this caller may read.
    pub(crate) fn reader(&self) -> Reader {
        match self.principal.access() {
            Access::All => self.state.engine.reader().clone(),
            Access::User(user_id) => self.state.engine.reader().for_user(user_id),
        }
    }

    /// The engine as this caller may use it: with [`Caller::reader`] and [`Caller::desk`] the only way from a request to
    /// runs and sessions.
    pub(crate) fn engine(&self) -> Engine {
        self.engine_of(self.principal.access())
    }

    /// The engine as this caller may use it for questions. Never show anything else of a run that is found in it.
    pub(crate) fn desk(&self) -> Engine {
        self.engine_of(self.principal.access_to_questions())
    }

    fn engine_of(&self, access: Access) -> Engine {
        match access {
            Access::All => self.state.engine.clone(),
            Access::User(user_id) => self.state.engine.for_user(user_id),
        }
    }

    /// Whether a run is there for this caller, and not only what it asks.
    pub(crate) fn reaches(&self, run: &RunInfo) -> bool {
        self.principal.access().sees(run.user_id.as_deref())
    }

    /// Whether they may do this with what is stored under this id: the scope is that of the component it belongs to.
    pub(crate) fn may(&self, workflow_id: &DefinitionId, action: &str) -> bool {
        match self.served.component_of(workflow_id) {
            Some(component) => self.principal.may(component.kind.plural(), &component.id, action),
            // A component that is no longer served may have left runs behind.
            None => self.principal.may(Kind::Workflow.plural(), workflow_id.as_str(), action),
        }
    }

    /// Whether they may give this answer: what lifts a budget that runs share takes the scope for that as well.
    ///
    /// # Errors
    /// 403 that names the missing scope.
    pub(crate) fn may_answer(&self, question: &Question, answer: &Answer) -> Result<(), Problem> {
        let is_shared = question.over.as_ref().is_some_and(|over| !over.is_of_run());
        match answer {
            Answer::Reject { .. } => Ok(()),
            _ if is_shared => self.must_have("budgets:raise"),
            _ => Ok(()),
        }
    }

    /// Whether they have a scope that their route does not ask for by itself.
    ///
    /// # Errors
    /// 403 that names it.
    pub(crate) fn must_have(&self, scope: &str) -> Result<(), Problem> {
        permit(&self.principal, scope, &[])
    }

    /// Notes in the audit log what the caller did to `target`.
    pub(crate) fn did(&self, kind: AuditKind, outcome: &str, target: &str) {
        self.state.audit.deed(&self.visit, &self.principal, kind, outcome, target);
    }

    /// Notes that the caller is shown `target`, where it is another user's.
    pub(crate) fn sees(&self, owner: Option<&str>, target: &str) {
        self.state.audit.look(&self.visit, &self.principal, owner, target);
    }

    /// Whether the credential has ended, or was revoked, since it was shown. When that cannot be found out, or not soon
    /// enough for a stream that must not be silent, it has not: it is asked again.
    pub(crate) async fn is_expired(&self) -> bool {
        let checked = timeout(RECHECK_PATIENCE, self.state.auth.recheck(&self.principal)).await;
        checked.is_ok_and(|checked| checked.is_err_and(|error| error.kind() == AuthErrorKind::Expired))
    }
}

impl FromRequestParts<Arc<State>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Problem> {
        let principal = Principal::from_request_parts(parts, state).await?;
        let Ok(visit) = Visit::from_request_parts(parts, state).await;
        Ok(Self::new(state.clone(), principal, visit))
    }
}
