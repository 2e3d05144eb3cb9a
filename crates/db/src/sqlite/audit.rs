//! The audit log in SQLite: a table that refuses to be changed.

use super::SqliteDb;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{count, damaged, int};
use super::tables::Tables;
use outlive_core::Timestamp;
use outlive_core::port::{Access, AuditFilter, AuditKind, AuditPage, AuditRecord, AuditStore, BoxFuture, DbError};
use rusqlite::{Row, params};
use std::sync::Arc;

impl AuditStore for SqliteDb {
    fn append_audit(&self, records: Vec<AuditRecord>) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.write(move |tables| tables.append_audit(&records)))
    }

    fn audit(&self, access: Access, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.audit(&access, &filter)))
    }
}

/// The statements.
pub(super) struct AuditSql {
    append: String,
    page: String,
}

impl AuditSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            append: sql(
                "INSERT INTO {T}_audit (at, kind, outcome, actor, user_id, address, request_id, action, target) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            ),
            page: sql(
                "SELECT seq, at, kind, outcome, actor, user_id, address, request_id, action, target FROM {T}_audit \
                WHERE seq < ?1 AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR actor = ?3 OR user_id = ?3) \
                AND (?4 IS NULL OR at >= ?4) AND (?5 IS NULL OR user_id = ?5) ORDER BY seq DESC LIMIT ?6",
            ),
        }
    }
}

impl Tables<'_> {
    fn append_audit(&mut self, records: &[AuditRecord]) -> Result<(), Fail> {
        for record in records {
            let columns = params![
                record.at.as_micros(),
                record.kind.as_str(),
                &*record.outcome,
                record.actor.as_deref(),
                record.user_id.as_deref(),
                record.address.map(|address| address.to_string()),
                record.request_id.as_deref(),
                &*record.action,
                record.target.as_deref(),
            ];
            self.execute(&self.sql().audit.append, columns)?;
        }
        Ok(())
    }
}

impl Reader {
    fn audit(&self, access: &Access, filter: &AuditFilter) -> Result<AuditPage, Fail> {
        let limit = filter.page_len();
        let columns = params![
            filter.before.map_or(i64::MAX, int),
            filter.kind.map(AuditKind::as_str),
            filter.actor.as_deref(),
            filter.since.map(Timestamp::as_micros),
            access.user().map(|user_id| &**user_id),
            // One more than requested tells whether there are more.
            int(limit as u64 + 1),
        ];
        let mut statement = self.connection.prepare_cached(&self.sql.audit.page)?;
        let mut rows = statement.query(columns)?;
        let mut page = AuditPage::default();
        let mut last = 0;
        while let Some(row) = rows.next()? {
            if page.records.len() == limit {
                page.next = Some(last);
                break;
            }
            last = count(row.get(0)?)?;
            page.records.push(read_record(row)?);
        }
        Ok(page)
    }
}

fn read_record(row: &Row<'_>) -> Result<AuditRecord, Fail> {
    let kind: Arc<str> = row.get(2)?;
    let address: Option<Arc<str>> = row.get(6)?;
    let address =
        address.map(|text| text.parse().map_err(|_| damaged(format!("{text:?} is not an address")))).transpose();
    Ok(AuditRecord {
        at: Timestamp::from_micros(row.get(1)?),
        kind: AuditKind::parse(&kind).ok_or_else(|| damaged(format!("a record has kind {kind:?}")))?,
        outcome: row.get(3)?,
        actor: row.get(4)?,
        user_id: row.get(5)?,
        address: address?,
        request_id: row.get(7)?,
        action: row.get(8)?,
        target: row.get(9)?,
    })
}
