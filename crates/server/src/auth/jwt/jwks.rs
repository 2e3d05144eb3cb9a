//! Public keys in a file, as a JSON Web Key Set (RFC 7517), which may change while the server runs.
//!
//! ```text
//! a token comes ──► is it 30 s since the last look? ──► has the file changed? ──► read, check, replace
//!                              └─ no ─────────────────────────┴─ no, or broken ──► the keys there are
//! ```
//! It fetches nothing. The invariants: the file says which keys there are, never which algorithms are accepted; a file that
//! cannot be used changes nothing; no number of tokens makes it look at the file more often.

use super::{JwtConfigError, JwtKey, RSA_BYTES_MIN};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// Longest file in bytes.
pub const JWKS_BYTES_MAX: u64 = 256 << 10;
/// Time between two looks at the file.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// A file with public keys, for [`super::JwtVerifier::jwks`].
///
/// It is checked when a token arrives, at most every 30 s, and read again when it has changed. While it cannot be read,
/// or has no usable key, the previous keys stay in use and a warning is logged.
pub struct JwksFile {
    path: Arc<Path>,
    algorithms: Arc<[Algorithm]>,
    keys: RwLock<Arc<[JwtKey]>>,
    look: Mutex<Look>,
}

/// The last look at the file.
struct Look {
    at: Instant,
    seen: Option<Version>,
}

/// What shows that a file has changed.
type Version = (SystemTime, u64);

impl JwksFile {
    /// The keys of this file, each for those of these algorithms (`RS256`, `ES256`, `EdDSA`, …) that are of its kind. A key
    /// that names an algorithm of its own is for that one alone; keys for encryption, shared secrets and RSA keys of less
    /// than 2048 bits are passed over.
    ///
    /// # Errors
    /// When an algorithm is unknown or works with shared secrets, or the file cannot be read, is longer than
    /// [`JWKS_BYTES_MAX`] or has no key that can be used.
    pub fn open<'a>(
        path: impl Into<PathBuf>,
        algorithms: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, JwtConfigError> {
        let path: PathBuf = path.into();
        let algorithms: Arc<[Algorithm]> = algorithms.into_iter().map(public).collect::<Result<_, _>>()?;
        let (seen, keys) = read(&path, &algorithms)
            .map_err(|why| JwtConfigError::UnusableKeySet { path: path.display().to_string(), why })?;
        Ok(Self {
            path: path.into(),
            algorithms,
            keys: RwLock::new(keys),
            look: Mutex::new(Look { at: Instant::now(), seen: Some(seen) }),
        })
    }

    /// The keys as they are now. A look at the file is only as old as its period, and is not waited for twice.
    pub(super) async fn keys(&self) -> Arc<[JwtKey]> {
        if let Some(seen) = self.due() {
            self.refresh(seen).await;
        }
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was seen last, when it is time to check again. The first caller does the check.
    fn due(&self) -> Option<Option<Version>> {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        if look.at.elapsed() < LOOK_PERIOD {
            return None;
        }
        look.at = Instant::now();
        Some(look.seen)
    }

    async fn refresh(&self, seen: Option<Version>) {
        let (path, algorithms) = (self.path.clone(), self.algorithms.clone());
        let looked = spawn_blocking(move || {
            let now = version(&path).map_err(|error| error.to_string());
            match now {
                Ok(now) if seen == Some(now) => None,
                Ok(now) => Some((Some(now), read(&path, &algorithms).map(|(_, keys)| keys))),
                Err(error) => Some((None, Err(error))),
            }
        });
        // A look that panicked, or a runtime that ends, is none.
        let Ok(Some((seen, read))) = looked.await else { return };
        self.look.lock().unwrap_or_else(PoisonError::into_inner).seen = seen;
        match read {
            Ok(keys) => {
                tracing::info!(path = %self.path.display(), keys = keys.len(), "the token keys were read again");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, error, "the token keys cannot be used; the previous ones stay in use");
            }
        }
    }
}

/// An algorithm with public keys.
fn public(name: &str) -> Result<Algorithm, JwtConfigError> {
    let unknown = || JwtConfigError::UnknownAlgorithm(name.to_owned());
    let algorithm: Algorithm = name.parse().map_err(|_| unknown())?;
    if algorithm.family() == AlgorithmFamily::Hmac {
        return Err(JwtConfigError::UnusableKey(name.to_owned()));
    }
    Ok(algorithm)
}

fn version(path: &Path) -> io::Result<Version> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len()))
}

/// The keys of a file, or why it cannot be used.
fn read(path: &Path, algorithms: &[Algorithm]) -> Result<(Version, Arc<[JwtKey]>), String> {
    // Read before the content, so that a change in between is noticed at the next check.
    let version = version(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(JWKS_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > JWKS_BYTES_MAX {
        return Err(format!("it is longer than {JWKS_BYTES_MAX} bytes"));
    }
    let keys = parse(&text, algorithms)?;
    Ok((version, keys))
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

fn parse(text: &str, algorithms: &[Algorithm]) -> Result<Arc<[JwtKey]>, String> {
    // Without the parser's words, which may repeat what stands there.
    let set: KeySet = serde_json::from_str(text)
        .map_err(|error| format!("it is not a JSON Web Key Set (line {}, column {})", error.line(), error.column()))?;
    // The RFC says to ignore what is not understood.
    let known = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let keys: Arc<[JwtKey]> = known.flat_map(|key| usable(&key, algorithms)).collect();
    if keys.is_empty() { Err("it has no key for the accepted algorithms".to_owned()) } else { Ok(keys) }
}

/// The key, once for each algorithm it serves.
fn usable(key: &Jwk, algorithms: &[Algorithm]) -> Vec<JwtKey> {
    let common = &key.common;
    if common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return Vec::new();
    }
    let served = algorithms.iter().filter(|algorithm| {
        fits(&key.algorithm, **algorithm) && common.key_algorithm.is_none_or(|named| is_same(named, **algorithm))
    });
    let usable = served.filter_map(|algorithm| {
        let decoding = DecodingKey::from_jwk(key).ok()?;
        Some(JwtKey { id: common.key_id.clone(), algorithm: *algorithm, key: decoding })
    });
    usable.collect()
}

/// Whether such a key is of the algorithm's kind, and strong enough.
fn fits(key: &AlgorithmParameters, algorithm: Algorithm) -> bool {
    match key {
        // Base64 has four signs for three bytes.
        AlgorithmParameters::RSA(key) => {
            algorithm.family() == AlgorithmFamily::Rsa && key.n.len() * 3 / 4 >= RSA_BYTES_MIN
        }
        AlgorithmParameters::EllipticCurve(key) => matches!(
            (&key.curve, algorithm),
            (EllipticCurve::P256, Algorithm::ES256) | (EllipticCurve::P384, Algorithm::ES384)
        ),
        AlgorithmParameters::OctetKeyPair(key) => {
            key.curve == EllipticCurve::Ed25519 && algorithm.family() == AlgorithmFamily::Ed
        }
        // A shared secret, or what we do not know.
        _ => false,
    }
}

/// Both have the same names.
fn is_same(named: KeyAlgorithm, algorithm: Algorithm) -> bool {
    named.to_string() == format!("{algorithm:?}")
}
