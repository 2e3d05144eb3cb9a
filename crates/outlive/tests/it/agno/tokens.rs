//! The credentials that the recordings name by kind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outlive::engine::SystemClock;
use outlive::serving::auth::jwt::{JwtKey, JwtVerifier};
use outlive::serving::auth::{Auth, Secret};
use ring::hmac;
use serde_json::json;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const SECRET: &str = "a-secret-for-tests-of-32-bytes-or-more";
/// The key in the recordings about keys.
pub(crate) const KEY: &str = "sekret";

/// What the server asks for in this recording.
pub(crate) fn auth(recording: &str) -> Auth {
    let auth = Auth::new(Arc::new(SystemClock));
    match recording {
        "auth_jwt" => {
            let key = JwtKey::new("HS256", &Secret::new(SECRET)).unwrap();
            auth.jwt(JwtVerifier::new(vec![key]))
        }
        "auth_security_key" => auth.security_key(&Secret::new(KEY)),
        _ => auth,
    }
}

/// The token of this kind; on a socket the first one may read and each later one run.
pub(crate) fn token(credential: &str) -> String {
    let scopes: &[&str] = match credential {
        "workflows:read" => &["workflows:read"],
        "per-workflow scopes" | "scope for another workflow" => {
            &["workflows:fn-pipeline:read", "workflows:fn-pipeline:run"]
        }
        "run+read" => &["workflows:read", "workflows:run", "config:read", "sessions:read"],
        "admin" => &["agent_os:admin"],
        "first on the socket" => &["workflows:read"],
        "later on the socket" => &["workflows:run"],
        _ => &[],
    };
    let secret = if credential == "wrong signature" { "another-secret-for-tests-of-32-bytes" } else { SECRET };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let exp = if credential == "expired" { now - 600 } else { now + 600 };
    let claims = json!({ "sub": "u-1", "scopes": scopes, "exp": exp, "aud": "contract-os" });
    let [header, claims] =
        [json!({ "alg": "HS256", "typ": "JWT" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = format!("{header}.{claims}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}
