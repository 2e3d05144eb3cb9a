//! JSON Web Tokens. What is accepted is fixed by the settings: keys, their algorithms, audience and issuer.
//!
//! Keys are given at startup, or are in a [`JwksFile`] that may change.
//!
//! The invariants: the token chooses neither algorithm nor key, only which of the configured keys to try; nothing is
//! ever fetched; nothing of a token is repeated; a token without an end is refused.

mod jwks;
mod signature;

use super::error::{AuthError, AuthErrorKind};
use super::principal::{Principal, PrincipalKind};
use super::scope::{SCOPES_MAX, Scopes};
use crate::names;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header};
use outlive_core::Secret;
use outlive_core::Timestamp;
use serde_json::{Map, Value};
use signature::is_signed;
use std::sync::Arc;
use std::time::Duration;

pub use jwks::{JWKS_BYTES_MAX, JwksFile};

/// The most that clocks may differ.
const LEEWAY_MAX: Duration = Duration::from_secs(30);
/// The shortest modulus of an RSA key: 2048 bits.
const RSA_BYTES_MIN: usize = 256;

/// Why the settings for tokens cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtConfigError {
    /// The algorithm is not one of ours.
    #[error("unknown algorithm {0:?} for tokens; use one of HS256, RS256, PS256, ES256 (or 384, 512) or EdDSA")]
    UnknownAlgorithm(String),
    /// The key does not fit the algorithm.
    #[error(
        "the key for {0} tokens cannot be used; give a shared secret for HS and a PEM public key for the others (RSA: \
         2048 bits or more)"
    )]
    UnusableKey(String),
    /// A file with keys cannot be used.
    #[error("the keys in {path} cannot be used: {why}")]
    UnusableKeySet {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

/// A key that verifies tokens, and the one algorithm it is for.
pub struct JwtKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtKey {
    /// A shared secret (`HS256`) or a public key in PEM (`RS256`, `PS256`, `ES256`, `EdDSA`, …); an RSA key
    /// of 2048 bits or more.
    ///
    /// # Errors
    /// When the algorithm is unknown or the key is not of its kind.
    pub fn new(algorithm: &str, key: &Secret) -> Result<Self, JwtConfigError> {
        let unknown = || JwtConfigError::UnknownAlgorithm(algorithm.to_owned());
        let parsed: Algorithm = algorithm.parse().map_err(|_| unknown())?;
        let key = decoding_key(parsed, key).ok_or_else(|| JwtConfigError::UnusableKey(algorithm.to_owned()))?;
        Ok(Self { id: None, algorithm: parsed, key })
    }

    /// Only for tokens that name this key in `kid`.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

fn decoding_key(algorithm: Algorithm, key: &Secret) -> Option<DecodingKey> {
    let bytes = key.expose().as_bytes();
    match algorithm.family() {
        // A public key as a shared secret would let anyone who knows it sign.
        AlgorithmFamily::Hmac if bytes.is_empty() || key.expose().contains("-----BEGIN") => None,
        AlgorithmFamily::Hmac => Some(DecodingKey::from_secret(bytes)),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(bytes).ok().filter(is_long),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(bytes).ok(),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(bytes).ok(),
    }
}

/// Whether an RSA key has at least 2048 bits. Beside its modulus it holds a few bytes more.
fn is_long(key: &DecodingKey) -> bool {
    key.try_get_as_bytes().is_ok_and(|key| key.len() > RSA_BYTES_MIN)
}

/// Verifies tokens.
pub struct JwtVerifier {
    keys: Vec<JwtKey>,
    file: Option<JwksFile>,
    audience: Option<String>,
    issuer: Option<String>,
    leeway: Duration,
}

impl JwtVerifier {
    /// Accepts tokens that one of these keys has signed.
    pub fn new(keys: Vec<JwtKey>) -> Self {
        Self { keys, file: None, audience: None, issuer: None, leeway: Duration::ZERO }
    }

    /// Accepts tokens that a key of this file has signed, too.
    pub fn jwks(mut self, file: JwksFile) -> Self {
        self.file = Some(file);
        self
    }

    /// Requires this audience in `aud`.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Requires this issuer in `iss`.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// How much clocks may differ: at most 30 s, more counts as 30 s.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway.min(LEEWAY_MAX);
        self
    }

    pub(super) async fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, AuthError> {
        let of_file = match &self.file {
            Some(file) => file.keys().await,
            None => Arc::default(),
        };
        let keys: Vec<&JwtKey> = self.keys.iter().chain(&*of_file).collect();
        let claims = verified_claims(&keys, token)?;
        let expires_at = self.check_times(&claims, now)?;
        self.check_audience(&claims)?;
        self.check_issuer(&claims)?;
        let user_id = Some(subject(&claims)?);
        Ok(Principal { kind: PrincipalKind::User, user_id, scopes: scopes(&claims)?, expires_at: Some(expires_at) })
    }

    /// Until when the token is good.
    fn check_times(&self, claims: &Map<String, Value>, now: Timestamp) -> Result<Timestamp, AuthError> {
        let end = time(claims, "exp")?.ok_or_else(|| AuthError::invalid_token("Token is missing the \"exp\" claim"))?;
        let end = end + self.leeway;
        if end <= now {
            return Err(AuthError::new(AuthErrorKind::Expired, "Token has expired"));
        }
        for name in ["nbf", "iat"] {
            if time(claims, name)?.is_some_and(|start| start > now + self.leeway) {
                return Err(AuthError::invalid_token(&format!("The token is not yet valid ({name})")));
            }
        }
        Ok(end)
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        let Some(audience) = self.audience.as_deref() else { return Ok(()) };
        let is_ours = |value: &Value| value.as_str() == Some(audience);
        match claims.get("aud") {
            Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => Ok(()),
            Some(value) if is_ours(value) => Ok(()),
            Some(_) | None => Err(AuthError::invalid_token("Audience doesn't match")),
        }
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), AuthError> {
        let Some(issuer) = self.issuer.as_deref() else { return Ok(()) };
        let is_ours = claims.get("iss").and_then(Value::as_str) == Some(issuer);
        if is_ours { Ok(()) } else { Err(AuthError::invalid_token("Invalid issuer")) }
    }
}

/// The claims of a token that one of these keys has signed.
fn verified_claims(keys: &[&JwtKey], token: &str) -> Result<Map<String, Value>, AuthError> {
    let unreadable = || AuthError::invalid_token("Invalid token encoding");
    if token.split('.').count() != 3 {
        return Err(AuthError::invalid_token("Not enough segments"));
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| unreadable())?;
    check_header(&header)?;
    let candidates = candidates(keys, &header)?;
    if candidates.is_empty() {
        return Err(AuthError::invalid_token("The specified alg value is not allowed"));
    }
    let (message, signature) = token.rsplit_once('.').ok_or_else(unreadable)?;
    let (_, claims) = message.split_once('.').ok_or_else(unreadable)?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| unreadable());
    let signature = decode(signature)?;
    if !candidates.iter().any(|key| is_signed(key.algorithm, &key.key, message.as_bytes(), &signature)) {
        return Err(AuthError::invalid_token("Signature verification failed"));
    }
    serde_json::from_slice(&decode(claims)?).map_err(|_| unreadable())
}

/// The keys to try: the one the token names, when keys have names; of those, the ones for its algorithm.
fn candidates<'a>(keys: &[&'a JwtKey], header: &Header) -> Result<Vec<&'a JwtKey>, AuthError> {
    let named = keys.iter().any(|key| key.id.is_some());
    let wanted = header.kid.as_deref().filter(|_| named);
    if wanted.is_some_and(|kid| keys.iter().all(|key| key.id.as_deref() != Some(kid))) {
        return Err(AuthError::invalid_token("Unknown key id"));
    }
    let fits = |key: &&JwtKey| key.algorithm == header.alg && (wanted.is_none() || key.id.as_deref() == wanted);
    Ok(keys.iter().copied().filter(fits).collect())
}

/// A token that brings its own key, says where to get one, or asks for what we do not know, is refused outright.
fn check_header(header: &Header) -> Result<(), AuthError> {
    let brought = [
        ("jku", header.jku.is_some()),
        ("jwk", header.jwk.is_some()),
        ("x5u", header.x5u.is_some()),
        ("x5c", header.x5c.is_some()),
        ("crit", header.crit.is_some()),
        ("zip", header.zip.is_some()),
    ];
    match brought.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(AuthError::invalid_token(&format!("Header parameter not allowed: {name}"))),
        None => Ok(()),
    }
}

/// A claim that is a time in seconds since 1970.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, AuthError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_i64().or_else(|| value.as_f64().map(whole));
    let seconds = seconds.ok_or_else(|| AuthError::invalid_token(&format!("The claim {name} must be a number")))?;
    Ok(Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000))))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast of a float saturates, and fractions of a second do not matter"
)]
fn whole(seconds: f64) -> i64 {
    seconds as i64
}

/// The user id. Without one there is no user whose data could be kept apart.
fn subject(claims: &Map<String, Value>) -> Result<Arc<str>, AuthError> {
    let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
    if !names::is_user(subject) {
        return Err(AuthError::invalid_token("The claim sub is missing or not allowed"));
    }
    Ok(subject.into())
}

/// The scopes: a list of texts, or one text with spaces. None when the claim is absent.
fn scopes(claims: &Map<String, Value>) -> Result<Scopes, AuthError> {
    let refused = || AuthError::invalid_token("The claim scopes must be a list of at most 256 texts");
    let texts: Vec<&str> = match claims.get("scopes") {
        None => Vec::new(),
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(values)) => values.iter().map(Value::as_str).collect::<Option<_>>().ok_or_else(refused)?,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(refused()),
    };
    if texts.len() > SCOPES_MAX { Err(refused()) } else { Ok(Scopes::parse(texts)) }
}
