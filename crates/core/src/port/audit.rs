//! The audit log: who was refused, and who did what to somebody's runs, sessions and keys.
//!
//! It is for people who investigate later. A run never waits for it and never reads it. It must never hold a
//! credential, or a run's input or answer. The invariant: a store never changes or removes what was appended.

use super::{Access, BoxFuture, DbError};
use crate::time::Timestamp;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Records in a page, unless the filter says otherwise.
pub const AUDIT_LIMIT: u32 = 100;
/// The most records in a page.
pub const AUDIT_LIMIT_MAX: u32 = 1000;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuditKind {
    /// A credential was missing, wrong or no longer valid.
    AuthFailed,
    /// A caller, a host name or a web page was denied what it asked for.
    AccessDenied,
    /// Somebody with access to everything read a user's run or session.
    AdminRead,
    /// Somebody asked for a run to be cancelled.
    RunCancel,
    /// Somebody started a run again.
    RunRerun,
    /// Somebody forked a run, or tried it again where it failed.
    RunFork,
    /// Somebody deleted runs that had ended.
    RunPrune,
    /// Somebody answered a run's question.
    QuestionAnswer,
    /// Somebody created, changed or deleted a schedule, or asked for a run of it.
    ScheduleChange,
    /// Somebody created or cancelled a batch.
    BatchChange,
    /// Somebody added to a budget, other than by answering a question.
    BudgetRaise,
    /// Somebody deleted a session with its runs.
    SessionDelete,
    /// An API key was made.
    KeyMint,
    /// An API key was ended.
    KeyRevoke,
    /// A server began to serve without asking for a credential.
    ServerOpen,
}

impl AuditKind {
    /// Every kind.
    pub const ALL: [AuditKind; 15] = [
        Self::AuthFailed,
        Self::AccessDenied,
        Self::AdminRead,
        Self::RunCancel,
        Self::RunRerun,
        Self::RunFork,
        Self::RunPrune,
        Self::QuestionAnswer,
        Self::ScheduleChange,
        Self::BatchChange,
        Self::BudgetRaise,
        Self::SessionDelete,
        Self::KeyMint,
        Self::KeyRevoke,
        Self::ServerOpen,
    ];

    /// Its name for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthFailed => "auth_failed",
            Self::AccessDenied => "access_denied",
            Self::AdminRead => "admin_read",
            Self::RunCancel => "run_cancel",
            Self::RunRerun => "run_rerun",
            Self::RunFork => "run_fork",
            Self::RunPrune => "run_prune",
            Self::QuestionAnswer => "question_answer",
            Self::ScheduleChange => "schedule_change",
            Self::BatchChange => "batch_change",
            Self::BudgetRaise => "budget_raise",
            Self::SessionDelete => "session_delete",
            Self::KeyMint => "key_mint",
            Self::KeyRevoke => "key_revoke",
            Self::ServerOpen => "server_open",
        }
    }

    /// The kind with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it is about something that was denied. Strangers can cause any number of these.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::AuthFailed | Self::AccessDenied)
    }
}

impl fmt::Display for AuditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// What it is about.
    pub kind: AuditKind,
    /// How it ended, as a word for programs: `done`, `requested`, `insufficient_scope`.
    pub outcome: Arc<str>,
    /// How the caller is known: `key:ID`, `user:ID`, `security_key`, `anonymous`, `cli`. Absent when the caller is
    /// unknown.
    pub actor: Option<Arc<str>>,
    /// The user, where the caller is one.
    pub user_id: Option<Arc<str>>,
    /// The address at the other end of the connection; behind a proxy, the proxy's.
    pub address: Option<IpAddr>,
    /// The id returned to the client in `x-request-id`.
    pub request_id: Option<Arc<str>>,
    /// What was asked for: a route as the table of routes has it, or a command.
    pub action: Arc<str>,
    /// The run, session or key it was done to.
    pub target: Option<Arc<str>>,
}

/// Which records to list. `Default` is the newest [`AUDIT_LIMIT`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only of this kind.
    pub kind: Option<AuditKind>,
    /// Only by this actor, or by a caller who is this user.
    pub actor: Option<Arc<str>>,
    /// Only at this time or later.
    pub since: Option<Timestamp>,
    /// Continue after the page that gave this as `next`.
    pub before: Option<u64>,
    /// At most this many; 0 means [`AUDIT_LIMIT`], the most is [`AUDIT_LIMIT_MAX`].
    pub limit: u32,
}

impl AuditFilter {
    /// How many records a page holds.
    pub fn page_len(&self) -> usize {
        let limit = if self.limit == 0 { AUDIT_LIMIT } else { self.limit.min(AUDIT_LIMIT_MAX) };
        limit as usize
    }

    /// Whether a record matches, ignoring its place.
    pub fn fits(&self, record: &AuditRecord) -> bool {
        let is_by = |actor: &Arc<str>| [&record.actor, &record.user_id].into_iter().flatten().any(|who| who == actor);
        self.kind.is_none_or(|kind| kind == record.kind)
            && self.actor.as_ref().is_none_or(is_by)
            && self.since.is_none_or(|since| record.at >= since)
    }
}

/// A page of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// The records, newest first: the reverse of the order in which they were appended.
    pub records: Vec<AuditRecord>,
    /// Where the next page continues, if there is more.
    pub next: Option<u64>,
}

/// The audit log.
pub trait AuditStore: Send + Sync {
    /// Appends these records in this order, all or none.
    fn append_audit(&self, records: Vec<AuditRecord>) -> BoxFuture<'_, Result<(), DbError>>;

    /// A page, the newest first. A user sees what they did themselves.
    fn audit(&self, access: Access, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, DbError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for kind in AuditKind::ALL {
            assert_eq!(AuditKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(AuditKind::parse("auth-failed"), None);
    }
}
