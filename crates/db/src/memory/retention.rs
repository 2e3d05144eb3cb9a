//! Deleting runs that have ended, in memory.

use super::{InMemoryDb, Operation, Tables};
use outlive_core::port::{
    Access, BoxFuture, DELETED_RUNS_MAX, DbError, Deleted, IDLE_SESSIONS_MAX, IdleSessions, News, Pruned,
    RetentionStore, TURN_MAX, Turn,
};
use outlive_core::{RunId, SessionId, Timestamp, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// By scope.
pub(super) type Scopes = BTreeMap<Arc<str>, Scope>;

/// Who has the turn there, and what was deleted.
#[derive(Default)]
pub(super) struct Scope {
    turn: Option<(WorkerId, Timestamp)>,
    runs: u64,
    bytes: u64,
    at: Timestamp,
}

impl RetentionStore for InMemoryDb {
    fn run_sizes(&self, access: Access, run_ids: Vec<RunId>) -> BoxFuture<'_, Result<Vec<Option<u64>>, DbError>> {
        Box::pin(async move {
            let size = |tables: &Tables, run_id| Some(tables.size(tables.deletable(&access, run_id)?));
            let read = |tables: &mut Tables| Ok(run_ids.iter().map(|run_id| size(tables, run_id)).collect());
            self.operate(Operation::RunSizes, read)
        })
    }

    fn delete_runs(
        &self,
        access: Access,
        run_ids: Vec<RunId>,
        scope: Option<Arc<str>>,
    ) -> BoxFuture<'_, Result<Deleted, DbError>> {
        Box::pin(async move {
            self.operate(Operation::DeleteRuns, |tables| Ok(tables.delete_runs(&access, &run_ids, scope)))
        })
    }

    fn delete_idle_sessions(&self, before: Timestamp, from: u64) -> BoxFuture<'_, Result<IdleSessions, DbError>> {
        Box::pin(async move {
            self.operate(Operation::DeleteIdleSessions, |tables| Ok(tables.delete_idle_sessions(before, from)))
        })
    }

    fn delete_batches(
        &self,
        access: Access,
        ids: Vec<Arc<str>>,
        before: Timestamp,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(async move {
            self.operate(Operation::DeleteBatches, |tables| Ok(tables.delete_batches(&access, &ids, before)))
        })
    }

    fn take_turn(&self, turn: Turn) -> BoxFuture<'_, Result<bool, DbError>> {
        Box::pin(async move { self.operate(Operation::TakeTurn, |tables| Ok(tables.take_turn(turn))) })
    }

    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(async move {
            let read = |tables: &mut Tables| Ok(tables.runs.keys().map(|seq| tables.size(*seq)).sum());
            self.operate(Operation::UsedBytes, read)
        })
    }

    fn pruned(&self) -> BoxFuture<'_, Result<Vec<Pruned>, DbError>> {
        Box::pin(async move {
            let read = |tables: &mut Tables| {
                let told = |(scope, one): (&Arc<str>, &Scope)| Pruned {
                    scope: scope.clone(),
                    runs: one.runs,
                    bytes: one.bytes,
                    at: one.at,
                };
                Ok(tables.retention.iter().map(told).collect())
            };
            self.operate(Operation::Pruned, read)
        })
    }
}

impl Tables {
    /// The number of a run that can be deleted.
    fn deletable(&self, access: &Access, run_id: &RunId) -> Option<u64> {
        let row = self.find(access, run_id)?;
        let seq = *self.run_by_id.get(run_id)?;
        let has_hook = self.open_hooks.contains(&seq);
        let session = &self.sessions[&row.run.info.session_id];
        let may_be_read = session.unfinished.last().is_some_and(|last| *last > seq);
        let is_in_use = has_hook || may_be_read || self.is_of_unfinished_batch(seq);
        (row.run.status.is_terminal() && !is_in_use).then_some(seq)
    }

    fn size(&self, seq: u64) -> u64 {
        let row = &self.runs[&seq];
        let texts = [&row.run.input, &row.run.options, &row.run.output];
        let texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        let log: usize = row.pages.values().map(|page| page.body.len()).sum();
        (texts + log) as u64
    }

    fn delete_runs(&mut self, access: &Access, run_ids: &[RunId], scope: Option<Arc<str>>) -> Deleted {
        let mut deleted = Deleted::default();
        for run_id in run_ids {
            if deleted.runs == DELETED_RUNS_MAX as u64 {
                deleted.more = true;
                break;
            }
            let Some(seq) = self.deletable(access, run_id) else { continue };
            deleted.runs += 1;
            deleted.bytes += self.size(seq);
            deleted.batches += self.leave_batch(seq);
            self.runs.remove(&seq);
            self.run_by_id.remove(run_id);
            self.delete_budgets_of_run(run_id);
            self.changes += 1;
            self.ran(run_id, None);
        }
        if deleted.runs > 0 {
            self.news.push(News::Anything);
            self.delete_what_no_run_has();
        }
        if let Some(scope) = scope.filter(|_| deleted.runs > 0) {
            let scope = self.retention.entry(scope).or_default();
            scope.runs += deleted.runs;
            scope.bytes += deleted.bytes;
        }
        deleted
    }

    fn delete_idle_sessions(&mut self, before: Timestamp, from: u64) -> IdleSessions {
        let mut by_seq: Vec<(u64, &SessionId)> = self.sessions.iter().map(|(id, row)| (row.seq, id)).collect();
        by_seq.retain(|(seq, _)| *seq >= from);
        by_seq.sort_unstable();
        let most = IDLE_SESSIONS_MAX as usize;
        let next = by_seq.get(most - 1).map(|(seq, _)| seq + 1);
        let used: BTreeSet<&SessionId> = self.runs.values().map(|row| &row.run.info.session_id).collect();
        let is_idle = |id: &SessionId| !used.contains(id) && self.sessions[id].session.updated_at < before;
        let idle = by_seq.into_iter().take(most).map(|(_, id)| id);
        let idle: BTreeSet<SessionId> = idle.filter(|id| is_idle(id)).cloned().collect();
        self.sessions.retain(|id, _| !idle.contains(id));
        self.delete_budgets();
        self.changes += idle.len() as u64;
        IdleSessions { deleted: idle.len() as u64, next }
    }

    fn take_turn(&mut self, turn: Turn) -> bool {
        let scope = self.retention.entry(turn.scope).or_default();
        let is_free = |(worker, until): &(WorkerId, Timestamp)| {
            *worker == turn.worker || *until <= turn.at || *until > turn.at + TURN_MAX
        };
        let takes = scope.turn.as_ref().is_none_or(is_free);
        if takes {
            (scope.turn, scope.at) = (Some((turn.worker, turn.at + turn.length)), turn.at);
        }
        takes
    }
}
