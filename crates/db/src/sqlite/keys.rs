//! API keys, and what a doctor asks about the file: whatever lies beside the runs and is shared by all table sets.
//!
//! A key is kept as its digest; the meaning of its scopes is not known here. The invariant: a revoked key stays
//! revoked, and stays visible.

use super::failure::Fail;
use super::rows::{count, damaged};
use super::{SqliteDb, open, pin, schema, vacuum};
use outlive_core::Timestamp;
use outlive_core::port::DbError;
use rusqlite::{Connection, OptionalExtension, Row, params};

const COLUMNS: &str = "SELECT key_id, prefix, digest, name, scopes, user_id, created_at, expires_at, last_used_at, revoked_at FROM outlive_keys";
/// How many faults of a damaged file are reported.
const FAULTS_MAX: u32 = 10;

/// An API key as the file keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// Identifies the key without revealing it.
    pub id: String,
    /// The beginning of the key, to recognise it by.
    pub prefix: String,
    /// The SHA-256 of the key.
    pub digest: [u8; 32],
    /// For people.
    pub name: String,
    /// What its holder may do, separated by spaces.
    pub scopes: String,
    /// Whose runs and sessions its holder can reach; absent: everybody's.
    pub user_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires; absent: never.
    pub expires_at: Option<Timestamp>,
    /// When it was last accepted.
    pub last_used_at: Option<Timestamp>,
    /// Since when it is no longer accepted.
    pub revoked_at: Option<Timestamp>,
}

/// What a file is, and whether it is intact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// SQLite's version in this program.
    pub sqlite_version: String,
    /// The format of the file: the number of its newest migration.
    pub format: u32,
    /// The size of the database without its write-ahead log.
    pub bytes: u64,
    /// Unused bytes in it.
    pub free_bytes: u64,
    /// Whether free pages are returned to the disk while it is in use.
    pub is_incremental: bool,
    /// Its write-ahead log.
    pub log: LogInspection,
    /// What is wrong with it, the first ten faults; empty when it is intact.
    pub faults: Vec<String>,
}

/// A database's write-ahead log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogInspection {
    /// Pages of it.
    pub pages: u64,
    /// How many of them are already in the database.
    pub copied: u64,
    /// Who has a read transaction open, for people; empty when nobody has, or the system does not say.
    pub readers: String,
}

impl SqliteDb {
    /// Stores a new key.
    ///
    /// # Errors
    /// `Conflict` when its id or digest is taken, or else the store's.
    pub async fn add_key(&self, key: StoredKey) -> Result<(), DbError> {
        self.write(move |tables| add(tables.connection(), &key)).await
    }

    /// The key with this digest, even if it has expired or was revoked.
    ///
    /// # Errors
    /// The store's.
    pub async fn find_key(&self, digest: [u8; 32]) -> Result<Option<StoredKey>, DbError> {
        self.read_with(move |reader| {
            let mut statement = reader.connection.prepare_cached(&format!("{COLUMNS} WHERE digest = ?1"))?;
            statement.query_row([&digest[..]], |row| Ok(key(row))).optional()?.transpose()
        })
        .await
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, DbError> {
        self.read_with(|reader| {
            let mut statement = reader.connection.prepare_cached(&format!("{COLUMNS} ORDER BY created_at, key_id"))?;
            let rows = statement.query_map([], |row| Ok(key(row)))?;
            rows.map(|row| row?).collect()
        })
        .await
    }

    /// Ends a key for good. False when no key has this id.
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke_key(&self, id: String, at: Timestamp) -> Result<bool, DbError> {
        let sql = "UPDATE outlive_keys SET revoked_at = coalesce(revoked_at, ?2) WHERE key_id = ?1";
        self.write(move |tables| Ok(tables.connection().prepare_cached(sql)?.execute(params![id, at.as_micros()])? > 0))
            .await
    }

    /// Notes that a key was accepted.
    ///
    /// # Errors
    /// The store's.
    pub async fn note_key_use(&self, id: String, at: Timestamp) -> Result<(), DbError> {
        let sql = "UPDATE outlive_keys SET last_used_at = max(coalesce(last_used_at, 0), ?2) WHERE key_id = ?1";
        self.write(move |tables| {
            tables.connection().prepare_cached(sql)?.execute(params![id, at.as_micros()])?;
            Ok(())
        })
        .await
    }

    /// Reads the whole file and reports whether it is intact. Takes as long as reading it takes.
    ///
    /// # Errors
    /// The store's, when it cannot even be read.
    pub async fn inspect(&self) -> Result<Inspection, DbError> {
        let path = self.path().to_owned();
        self.read_with(move |reader| {
            let connection = &reader.connection;
            // SQLite does not say where it may not write.
            let pages = super::copier::measure(connection).ok().flatten().unwrap_or_default();
            let mut statement = connection.prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?;
            let told = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            Ok(Inspection {
                sqlite_version: rusqlite::version().to_owned(),
                format: schema::USER_VERSION,
                bytes: open::len(connection)?,
                free_bytes: u64::from(vacuum::free_pages(connection)?) * open::page_size(connection)?,
                is_incremental: vacuum::is_incremental(connection)?,
                log: LogInspection {
                    pages: count(i64::from(pages.log))?,
                    copied: count(i64::from(pages.copied))?,
                    readers: pin::readers(&path),
                },
                faults: told.into_iter().filter(|line| line != "ok").collect(),
            })
        })
        .await
    }
}

fn add(connection: &Connection, key: &StoredKey) -> Result<(), Fail> {
    let sql = "INSERT INTO outlive_keys (key_id, prefix, digest, name, scopes, user_id, created_at, expires_at, \
        last_used_at, revoked_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING";
    let micros = |at: Option<Timestamp>| at.map(Timestamp::as_micros);
    let added = connection.prepare_cached(sql)?.execute(params![
        key.id,
        key.prefix,
        &key.digest[..],
        key.name,
        key.scopes,
        key.user_id,
        key.created_at.as_micros(),
        micros(key.expires_at),
        micros(key.last_used_at),
        micros(key.revoked_at),
    ])?;
    if added == 0 {
        let message = format!("api key {} exists already: make another", key.id);
        return Err(DbError::new(outlive_core::port::DbErrorKind::Conflict, message).into());
    }
    Ok(())
}

fn key(row: &Row<'_>) -> Result<StoredKey, Fail> {
    let time = |column: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros))
    };
    let digest: Vec<u8> = row.get(2)?;
    Ok(StoredKey {
        id: row.get(0)?,
        prefix: row.get(1)?,
        digest: digest.try_into().map_err(|_| damaged("a key's digest does not have 32 bytes".to_owned()))?,
        name: row.get(3)?,
        scopes: row.get(4)?,
        user_id: row.get(5)?,
        created_at: Timestamp::from_micros(row.get(6)?),
        expires_at: time(7)?,
        last_used_at: time(8)?,
        revoked_at: time(9)?,
    })
}
