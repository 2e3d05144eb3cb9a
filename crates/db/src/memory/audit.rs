//! The audit log in memory: a list that only grows.

use super::{InMemoryDb, Operation, Tables};
use outlive_core::port::{Access, AuditFilter, AuditPage, AuditRecord, AuditStore, BoxFuture, DbError};

impl AuditStore for InMemoryDb {
    fn append_audit(&self, records: Vec<AuditRecord>) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            self.operate(Operation::AppendAudit, |tables| {
                tables.audit.extend(records);
                Ok(())
            })
        })
    }

    fn audit(&self, access: Access, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Audit, |tables| Ok(tables.audit(&access, &filter))) })
    }
}

impl Tables {
    fn audit(&self, access: &Access, filter: &AuditFilter) -> AuditPage {
        let newest_first = self.audit.iter().enumerate().rev();
        let mut wanted = newest_first.filter(|(number, record)| {
            filter.before.is_none_or(|before| (*number as u64) < before)
                && access.sees(record.user_id.as_deref())
                && filter.fits(record)
        });
        let found: Vec<_> = wanted.by_ref().take(filter.page_len()).collect();
        let last = found.last().map(|(number, _)| *number as u64);
        AuditPage {
            records: found.into_iter().map(|(_, record)| record.clone()).collect(),
            next: last.filter(|_| wanted.next().is_some()),
        }
    }
}
