//! Who a caller is, once the credential has been checked. Only this crate can make one.

use super::key::KeyDigest;
use super::scope::Scopes;
use crate::names;
use crate::problem::Problem;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use outlive_core::Timestamp;
use outlive_core::port::Access;
use std::sync::Arc;

/// How a caller is identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrincipalKind {
    /// The server requires no credentials.
    Anonymous,
    /// The server's one security key.
    SecurityKey,
    /// An API key.
    Key {
        /// The key's id, fit for logs.
        id: Arc<str>,
        /// By which the key is found again, to see whether it was revoked.
        digest: KeyDigest,
    },
    /// A user named by a token.
    User,
}

/// A caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// By what they are known.
    pub kind: PrincipalKind,
    /// The user. When present it replaces every user id that a request brings along.
    pub user_id: Option<Arc<str>>,
    /// What they may do.
    pub scopes: Scopes,
    /// When the credential ends; absent: never.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// The caller of a server without authentication, who may do everything.
    pub(crate) fn anonymous() -> Self {
        Self { kind: PrincipalKind::Anonymous, user_id: None, scopes: Scopes::admin(), expires_at: None }
    }

    /// The holder of the security key, who may do everything.
    pub(crate) fn security_key() -> Self {
        Self { kind: PrincipalKind::SecurityKey, ..Self::anonymous() }
    }

    /// How logs identify them. Never a credential, nor part of one.
    pub fn actor(&self) -> Arc<str> {
        match &self.kind {
            PrincipalKind::Anonymous => "anonymous".into(),
            PrincipalKind::SecurityKey => "security_key".into(),
            PrincipalKind::Key { id, .. } => format!("key:{id}").into(),
            PrincipalKind::User => format!("user:{}", self.user_id.as_deref().unwrap_or_default()).into(),
        }
    }

    /// Whose data they can reach: their own, or everybody's with the admin scope.
    pub fn access(&self) -> Access {
        match &self.user_id {
            Some(user_id) if !self.scopes.is_admin() => Access::User(user_id.clone()),
            Some(_) | None => Access::All,
        }
    }

    /// Whose questions they can reach: also everybody's with the scope for that.
    pub fn access_to_questions(&self) -> Access {
        if self.scopes.permits_for_all_users("questions") { Access::All } else { self.access() }
    }

    /// Whether they may do `action` on `id` of `resource`, for handlers that filter a list.
    pub fn may(&self, resource: &str, id: &str, action: &str) -> bool {
        self.scopes.permits(resource, Some(id), action)
    }

    /// The user a request acts for: the caller's own, or else the one it names.
    ///
    /// # Errors
    /// 422 when it names an invalid user id.
    pub fn acts_for<'a>(&'a self, named: Option<&'a str>) -> Result<Option<&'a str>, Problem> {
        match self.user_id.as_deref() {
            Some(own) => Ok(Some(own)),
            None => named.map(names::user).transpose(),
        }
    }
}

/// Fails with 401 on a route that is open and whose caller showed no credential.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", "Authorization header required");
        parts.extensions.get::<Principal>().cloned().ok_or_else(missing)
    }
}
