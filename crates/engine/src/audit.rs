//! The audit log for an engine's callers. The engine itself never writes to it: a run has no need to.

use crate::engine::Engine;
use outlive_core::port::{AuditRecord, DbError};

impl Engine {
    /// Appends to the audit log.
    ///
    /// # Cancel safety
    /// The records may or may not be appended.
    ///
    /// # Errors
    /// The store's.
    pub async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), DbError> {
        self.inner().services.db.append_audit(records).await
    }
}
