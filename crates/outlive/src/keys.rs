//! API keys in the database file: the server's port over what `SqliteDb` stores.
//!
//! It only translates and adds no rules. Every check reads the file, so a key revoked by any process is refused by all
//! of them from their next request.

use outlive_core::Timestamp;
use outlive_core::port::{BoxFuture, DbError};
use outlive_db::{SqliteDb, StoredKey};
use outlive_server::auth::Scopes;
use outlive_server::auth::key::{KeyDigest, KeyRecord, KeyStore, NewKey};

/// The API keys of a database file, for [`outlive_server::auth::Auth::keys`].
#[derive(Clone, Debug)]
pub struct SqliteKeys(SqliteDb);

impl SqliteKeys {
    /// The keys kept in this file.
    pub fn new(db: SqliteDb) -> Self {
        Self(db)
    }
}

impl KeyStore for SqliteKeys {
    fn add(&self, record: KeyRecord) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.0.add_key(stored(&record)))
    }

    fn find(&self, digest: KeyDigest) -> BoxFuture<'_, Result<Option<KeyRecord>, DbError>> {
        Box::pin(async move { Ok(self.0.find_key(*digest.as_bytes()).await?.map(record)) })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, DbError>> {
        Box::pin(async move { Ok(self.0.keys().await?.into_iter().map(record).collect()) })
    }

    fn revoke<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(self.0.revoke_key(id.to_owned(), at))
    }

    fn used<'a>(&'a self, id: &'a str, at: Timestamp) -> BoxFuture<'a, Result<(), DbError>> {
        Box::pin(self.0.note_key_use(id.to_owned(), at))
    }
}

fn stored(record: &KeyRecord) -> StoredKey {
    StoredKey {
        id: record.id.to_string(),
        prefix: record.prefix.to_string(),
        digest: *record.digest.as_bytes(),
        name: record.key.name.clone(),
        scopes: record.key.scopes.to_string(),
        user_id: record.key.user_id.as_deref().map(str::to_owned),
        created_at: record.created_at,
        expires_at: record.key.expires_at,
        last_used_at: record.last_used_at,
        revoked_at: record.revoked_at,
    }
}

fn record(stored: StoredKey) -> KeyRecord {
    KeyRecord {
        id: stored.id.into(),
        prefix: stored.prefix.into(),
        digest: KeyDigest::from_bytes(stored.digest),
        key: NewKey {
            name: stored.name,
            scopes: Scopes::parse(stored.scopes.split(' ')),
            user_id: stored.user_id.map(Into::into),
            expires_at: stored.expires_at,
        },
        created_at: stored.created_at,
        last_used_at: stored.last_used_at,
        revoked_at: stored.revoked_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_revoked_by_one_handle_on_the_file_is_revoked_for_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let open = || SqliteKeys::new(SqliteDb::new(directory.path().join("keys.db")));
        let (one, other) = (open(), open());
        let at = Timestamp::from_micros(1_000_000);
        let scopes = Scopes::parse(["workflows:run", "sessions:read"]);
        let new = NewKey { name: "ci".into(), scopes, user_id: Some("ada".into()), expires_at: None };
        let (_, made) = KeyRecord::mint(new, at);
        one.add(made.clone()).await.expect("room for a key");
        one.add(made.clone()).await.expect_err("the same key again");

        let found = other.find(made.digest).await.expect("an answer").expect("the key");
        assert_eq!(stored(&found), stored(&made));
        other.used(&made.id, at).await.expect("a note");
        assert!(one.revoke(&made.id, at).await.expect("an answer"));
        assert!(!one.revoke("nobody", at).await.expect("an answer"));
        let found = other.find(made.digest).await.expect("an answer").expect("the key");
        assert!(!found.is_valid(at) && found.last_used_at == Some(at));
        assert_eq!(other.list().await.expect("an answer").len(), 1);
        assert!(other.find(KeyDigest::of("olv_else")).await.expect("an answer").is_none());
    }
}
