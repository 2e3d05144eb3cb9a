//! API keys: `olv_` and 43 random letters and digits, more than 256 bits. Only the SHA-256 of a key is kept.
//!
//! A fast hash is enough here, unlike for passwords: nobody can try 2²⁵⁶ keys.

use super::scope::Scopes;
use outlive_core::Secret;
use outlive_core::Timestamp;
use outlive_core::port::{BoxFuture, DbError};
use rand::RngExt;
use rand::distr::Alphanumeric;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// What every key begins with, so that scanners find keys that leaked.
pub const PREFIX: &str = "olv_";
const RANDOM_CHARS: usize = 43;
const ID_CHARS: usize = 16;
/// Letters of the random part that may be shown.
const SHOWN_CHARS: usize = 8;

/// The SHA-256 of a key. Two are compared in constant time.
#[derive(Clone, Copy, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of a key's whole text.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// From a store.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For a store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[digest]")
    }
}

/// A key to be made.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What its holder may do.
    pub scopes: Scopes,
    /// Whose data its holder can reach; absent: everybody's, within the scopes.
    pub user_id: Option<Arc<str>>,
    /// When it ends; absent: never.
    pub expires_at: Option<Timestamp>,
}

/// A key as it is stored.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Names the key without revealing it.
    pub id: Arc<str>,
    /// The beginning of the key, to recognise it by.
    pub prefix: Arc<str>,
    /// By which it is found.
    pub digest: KeyDigest,
    /// What it is and allows.
    pub key: NewKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last accepted, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Since when it is no longer accepted.
    pub revoked_at: Option<Timestamp>,
}

impl KeyRecord {
    /// Makes a key. The secret is shown to its owner once and kept nowhere.
    pub fn mint(key: NewKey, at: Timestamp) -> (Secret, KeyRecord) {
        let secret = Secret::new(format!("{PREFIX}{}", random_text(RANDOM_CHARS)));
        let record = KeyRecord {
            id: random_text(ID_CHARS).into(),
            prefix: public_part(secret.expose()).into(),
            digest: KeyDigest::of(secret.expose()),
            key,
            created_at: at,
            last_used_at: None,
            revoked_at: None,
        };
        (secret, record)
    }

    /// Whether it is accepted at this time.
    pub fn is_valid(&self, at: Timestamp) -> bool {
        self.revoked_at.is_none() && self.key.expires_at.is_none_or(|end| at < end)
    }
}

/// The beginning of a key, which may be shown and logged.
pub(super) fn public_part(key: &str) -> &str {
    let length = PREFIX.len() + SHOWN_CHARS;
    key.get(..length).unwrap_or(PREFIX)
}

fn random_text(chars: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(chars).map(char::from).collect()
}

/// Where keys are kept.
pub trait KeyStore: Send + Sync + 'static {
    /// Keeps a new key.
    fn add(&self, record: KeyRecord) -> BoxFuture<'_, Result<(), DbError>>;

    /// The key with this digest, even if it has expired or been revoked.
    fn find(&self, digest: KeyDigest) -> BoxFuture<'_, Result<Option<KeyRecord>, DbError>>;

    /// All keys, the oldest first.
    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, DbError>>;

    /// Revokes a key for good. False when there is none with this id.
    fn revoke<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<bool, DbError>>;

    /// Notes that a key was accepted.
    fn used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<(), DbError>>;
}

/// Keeps keys until the process ends.
#[derive(Default)]
pub struct MemoryKeyStore(Mutex<HashMap<Arc<str>, KeyRecord>>);

impl MemoryKeyStore {
    fn with<T>(&self, read: impl FnOnce(&mut HashMap<Arc<str>, KeyRecord>) -> T) -> BoxFuture<'_, Result<T, DbError>>
    where
        T: Send + 'static,
    {
        let answer = read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Box::pin(std::future::ready(Ok(answer)))
    }
}

impl KeyStore for MemoryKeyStore {
    fn add(&self, record: KeyRecord) -> BoxFuture<'_, Result<(), DbError>> {
        self.with(|keys| {
            keys.insert(record.id.clone(), record);
        })
    }

    fn find(&self, digest: KeyDigest) -> BoxFuture<'_, Result<Option<KeyRecord>, DbError>> {
        self.with(|keys| keys.values().find(|record| record.digest == digest).cloned())
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, DbError>> {
        self.with(|keys| {
            let mut records: Vec<KeyRecord> = keys.values().cloned().collect();
            records.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            records
        })
    }

    fn revoke<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<bool, DbError>> {
        self.with(|keys| match keys.get_mut(id) {
            Some(record) => {
                record.revoked_at.get_or_insert(at);
                true
            }
            None => false,
        })
    }

    fn used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<(), DbError>> {
        self.with(|keys| {
            if let Some(record) = keys.get_mut(id) {
                record.last_used_at = Some(at);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);

    #[test]
    fn a_key_is_random_and_only_its_digest_is_kept() {
        let (one, record) = KeyRecord::mint(NewKey::default(), NOW);
        let (two, _) = KeyRecord::mint(NewKey::default(), NOW);
        assert_ne!(one.expose(), two.expose());
        let random = one.expose().strip_prefix("olv_").expect("the prefix");
        assert!(random.len() == 43 && random.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_eq!(record.digest, KeyDigest::of(one.expose()));
        assert_eq!(&*record.prefix, &one.expose()[..12]);
        let printed = format!("{record:?}");
        assert!(!printed.contains(&random[8..]), "{printed}");
    }

    #[test]
    fn a_key_ends_with_its_time_or_its_revocation() {
        let (_, mut record) = KeyRecord::mint(NewKey { expires_at: Some(NOW), ..NewKey::default() }, NOW);
        assert!(record.is_valid(Timestamp::from_micros(999_999)) && !record.is_valid(NOW));
        record.key.expires_at = None;
        assert!(record.is_valid(NOW));
        record.revoked_at = Some(NOW);
        assert!(!record.is_valid(NOW));
    }

    #[test]
    fn the_public_part_of_a_short_or_odd_key_is_no_secret() {
        assert_eq!(public_part("olv_abc"), "olv_");
        assert_eq!(public_part("olv_aaaaaaaé"), "olv_");
        assert_eq!(public_part("olv_12345678secret"), "olv_12345678");
    }
}
