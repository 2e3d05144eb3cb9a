//! Who holds this credential? The schemes a server accepts, in one place for requests and sockets.

use super::error::{AuthError, AuthErrorKind};
use super::jwt::JwtVerifier;
use super::key::{self, KeyDigest, KeyRecord, KeyStore};
use super::limiter::{Limiter, Source};
use super::principal::{Principal, PrincipalKind};
use crate::urlencoded;
use axum::http::{HeaderMap, header};
use outlive_core::Secret;
use outlive_core::Timestamp;
use outlive_core::port::{Clock, DbError};
use outlive_engine::SystemClock;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Wrong credentials allowed per source and [`FAILURES_PERIOD`] before it must wait.
const FAILURES_MAX: u32 = 20;
const FAILURES_PERIOD: Duration = Duration::from_secs(60);
/// Longest credential in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// How precisely a key's last use is recorded.
const USED_PERIOD: Duration = Duration::from_secs(60);
/// Query parameters in which people send keys by mistake.
const QUERY_NAMES: [&str; 9] = [
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "auth_token",
    "authorization",
    "os_security_key",
    "token",
    "x-api-key",
];

/// The credentials a server accepts. Without any, every caller is anonymous and may do everything.
pub struct Auth {
    clock: Arc<dyn Clock>,
    security_key: Option<KeyDigest>,
    keys: Option<Arc<dyn KeyStore>>,
    jwt: Option<JwtVerifier>,
    limiter: Limiter<Source>,
}

/// Accepts and requires no credentials; uses the machine's clock.
impl Default for Auth {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl Auth {
    /// Accepts and requires no credentials.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, security_key: None, keys: None, jwt: None, limiter: Limiter::new(FAILURES_MAX, FAILURES_PERIOD) }
    }

    /// Accepts this one key, whose holder may do everything. An empty key is ignored.
    pub fn security_key(mut self, key: &Secret) -> Self {
        self.security_key = Some(key.expose()).filter(|key| !key.is_empty()).map(KeyDigest::of);
        self
    }

    /// Accepts the API keys of this store.
    pub fn keys(mut self, keys: Arc<dyn KeyStore>) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Accepts tokens.
    #[cfg(feature = "jwt")]
    pub fn jwt(mut self, verifier: JwtVerifier) -> Self {
        self.jwt = Some(verifier);
        self
    }

    /// Whether a credential is required. Users then see only what is theirs.
    pub fn is_on(&self) -> bool {
        self.security_key.is_some() || self.keys.is_some() || self.jwt.is_some()
    }

    /// Agno's word for the scheme: `none`, `security_key` or `jwt`; ours: `api_key`.
    pub fn mode(&self) -> &'static str {
        match (self.jwt.is_some(), &self.security_key, &self.keys) {
            (true, _, _) => "jwt",
            (false, Some(_), _) => "security_key",
            (false, None, Some(_)) => "api_key",
            (false, None, None) => "none",
        }
    }

    /// The caller of a server that requires no credentials.
    pub fn anonymous(&self) -> Option<Principal> {
        (!self.is_on()).then(Principal::anonymous)
    }

    /// Who holds this credential, sent from `peer`: a key or a token, alone as Agno takes it or behind `Bearer`.
    ///
    /// A valid credential is accepted however often others failed; a source that fails too often is told to wait.
    ///
    /// # Errors
    /// See [`AuthErrorKind`].
    ///
    /// # Cancel safety
    /// Safe: at most the record of a key's last use is lost.
    pub async fn authenticate(&self, token: &str, peer: IpAddr) -> Result<Principal, AuthError> {
        let token = without_scheme(token);
        let error = match self.identify(token).await {
            Ok(principal) => return Ok(principal),
            Err(error) => error,
        };
        // Only guesses count: an expired credential was once valid.
        if error.kind() != AuthErrorKind::Invalid {
            return Err(error);
        }
        if let Some(retry_after) = self.count_failure(token, peer) {
            return Err(throttled(retry_after));
        }
        // After the limiter, so that a flood of guesses does not flood the log.
        tracing::warn!(%peer, code = error.code(), "a credential was refused");
        Err(error)
    }

    /// Whether a caller's credential is still good, for connections that stay open.
    ///
    /// # Errors
    /// `Expired` when its time is over or it was revoked; `Unavailable` when that cannot be determined: try again.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn recheck(&self, principal: &Principal) -> Result<(), AuthError> {
        let now = self.clock.now();
        if principal.expires_at.is_some_and(|end| end <= now) {
            return Err(expired());
        }
        let (PrincipalKind::Key { digest, .. }, Some(keys)) = (&principal.kind, &self.keys) else { return Ok(()) };
        let record = keys.find(*digest).await.map_err(|error| unavailable(&error))?;
        if record.is_some_and(|record| record.is_valid(now)) { Ok(()) } else { Err(expired()) }
    }

    /// Who sent a request with these headers and this query string.
    pub(super) async fn authenticate_request(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        peer: IpAddr,
    ) -> Result<Principal, AuthError> {
        if let Some(anonymous) = self.anonymous() {
            return Ok(anonymous);
        }
        if query.is_some_and(has_credential) {
            return Err(self.missing());
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        // With two, this server and a proxy in front of it could read different ones.
        let (Some(value), None) = (values.next(), values.next()) else { return Err(self.missing()) };
        self.authenticate(value.to_str().map_err(|_| AuthError::invalid_key())?, peer).await
    }

    async fn identify(&self, token: &str) -> Result<Principal, AuthError> {
        if let Some(anonymous) = self.anonymous() {
            return Ok(anonymous);
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::invalid_key());
        }
        let digest = KeyDigest::of(token);
        if self.security_key == Some(digest) {
            return Ok(Principal::security_key());
        }
        if let Some(keys) = self.keys.as_deref().filter(|_| token.starts_with(key::PREFIX)) {
            return self.identify_key(keys, digest).await;
        }
        match &self.jwt {
            Some(verifier) => verifier.verify(token, self.clock.now()).await,
            None => Err(AuthError::invalid_key()),
        }
    }

    async fn identify_key(&self, keys: &dyn KeyStore, digest: KeyDigest) -> Result<Principal, AuthError> {
        let now = self.clock.now();
        let record = keys.find(digest).await.map_err(|error| unavailable(&error))?;
        let record = record.filter(|record| record.digest == digest).ok_or_else(AuthError::invalid_key)?;
        if !record.is_valid(now) {
            return Err(expired());
        }
        note_use(keys, &record, now).await;
        Ok(Principal {
            kind: PrincipalKind::Key { id: record.id, digest },
            user_id: record.key.user_id,
            scopes: record.key.scopes,
            expires_at: record.key.expires_at,
        })
    }

    /// Counts against the address and, for an API key, against the key it pretends to be.
    fn count_failure(&self, token: &str, peer: IpAddr) -> Option<Duration> {
        let by_address = self.limiter.count(Source::address(peer));
        let prefix = key::public_part(token).to_owned();
        let by_key = token.starts_with(key::PREFIX).then(|| self.limiter.count(Source::KeyPrefix(prefix.into())));
        by_address.max(by_key.flatten())
    }

    fn missing(&self) -> AuthError {
        let detail = if self.jwt.is_some() { "Authorization header missing" } else { "Authorization header required" };
        AuthError::new(AuthErrorKind::Missing, detail)
    }
}

/// The credential after its scheme, which is case-insensitive and followed by one or more blanks (RFC 9110, 11.4).
fn without_scheme(value: &str) -> &str {
    match value.split_once([' ', '\t']) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches([' ', '\t']),
        _ => value,
    }
}

/// Whether a query string contains what looks like a credential. Such a URL ends up in other programs' histories and
/// logs, so it is refused even when the header is right.
fn has_credential(query: &str) -> bool {
    urlencoded::pairs(query.as_bytes()).is_ok_and(|pairs| {
        let is_known = |name: &str| QUERY_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known));
        pairs.iter().any(|(name, value)| is_known(name) || value.contains(key::PREFIX))
    })
}

/// Failing to record it is not a reason to refuse the holder.
async fn note_use(keys: &dyn KeyStore, record: &KeyRecord, now: Timestamp) {
    if record.last_used_at.is_some_and(|last| now.since(last) < USED_PERIOD) {
        return;
    }
    if let Err(error) = keys.used(&record.id, now).await {
        tracing::warn!(key = &*record.id, %error, "the last use of an API key was not recorded");
    }
}

fn expired() -> AuthError {
    AuthError::new(AuthErrorKind::Expired, "Token has expired")
}

fn throttled(retry_after: Duration) -> AuthError {
    AuthError::new(AuthErrorKind::Throttled { retry_after }, "Too many failed authentication attempts")
}

fn unavailable(error: &DbError) -> AuthError {
    tracing::error!(%error, "the store of API keys does not answer");
    AuthError::new(AuthErrorKind::Unavailable, "Authentication is unavailable, try again")
}
