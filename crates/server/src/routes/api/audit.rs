//! The audit log, for callers who may read it.

use super::shape::AuditList;
use crate::audit::AuditLine;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use axum::Json;
use outlive_core::port::{AUDIT_LIMIT_MAX, AuditFilter, AuditKind};
use serde::Deserialize;
use std::sync::Arc;

/// The query of a page.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AuditQuery {
    kind: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

impl AuditQuery {
    fn filter(&self) -> Result<AuditFilter, Problem> {
        let limit = query::number("limit", self.limit.as_deref(), 1, u64::from(AUDIT_LIMIT_MAX))?;
        Ok(AuditFilter {
            kind: self.kind.as_deref().map(kind).transpose()?,
            actor: self.actor.as_deref().map(Arc::from),
            since: query::time("since", self.since.as_deref())?,
            before: query::index("cursor", self.cursor.as_deref())?,
            limit: limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or_default(),
        })
    }
}

fn kind(name: &str) -> Result<AuditKind, Problem> {
    let known = || format!("Input should be one of {}", AuditKind::ALL.map(AuditKind::as_str).join(", "));
    AuditKind::parse(name).ok_or_else(|| Problem::field("enum", "query", "kind", known()))
}

/// `GET /api/audit`.
pub(super) async fn list(caller: Caller, Query(query): Query<AuditQuery>) -> Result<Json<AuditList>, Problem> {
    let page = caller.reader().audit(query.filter()?).await?;
    Ok(Json(AuditList {
        records: page.records.iter().map(AuditLine::new).collect(),
        next_cursor: page.next.map(|next| next.to_string()),
    }))
}
