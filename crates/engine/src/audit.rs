//! The audit log for an engine's callers. The engine itself never writes to it: a run has no need to.

use crate::engine::Engine;
use crate::error::Error;
use outlive_core::port::{AuditFilter, AuditPage, AuditRecord, DbError};

impl Engine {
    /// Appends to the audit log.
    ///
    /// # Cancel safety
    /// The records may or may not be appended.
    ///
    /// # Errors
    /// The store's.
    pub async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), DbError> {
        self.inner.services.db.append_audit(records).await
    }

    /// A page of the audit log, newest first. A restricted engine shows what its own user did.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit(&self, filter: AuditFilter) -> Result<AuditPage, Error> {
        Ok(self.inner.services.db.audit(self.access.clone(), filter).await?)
    }
}
