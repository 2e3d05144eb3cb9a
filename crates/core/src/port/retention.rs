//! Deleting what has ended, as a store does it: run by run, a little at a time.
//!
//! A store never chooses: it is told which runs, and refuses those that something still needs. So two processes that
//! delete the same runs do each other no harm, and a crash leaves what is to be deleted again. The invariant: a run goes
//! as a whole, at once, for everybody who reads; only the space of a long log is given back bit by bit.

use super::{Access, BoxFuture, DbError};
use crate::id::{RunId, WorkerId};
use crate::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Runs that one call deletes, at most.
pub const DELETED_RUNS_MAX: usize = 64;
/// Rows of their logs that one call deletes, at most.
pub const DELETED_ROWS_MAX: u64 = 1_024;
/// Bytes of their logs that one call deletes: it stops behind the row with which it reaches them.
pub const DELETED_BYTES_MAX: u64 = 4 << 20;

/// What one call has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Runs.
    pub runs: u64,
    /// What of their logs, inputs and outputs was deleted, in bytes.
    pub bytes: u64,
    /// Batches whose last run was among them.
    pub batches: u64,
    /// Whether there is more to do: the same call again goes on.
    pub more: bool,
}

/// The right to look for what is to be deleted, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// What it is about: a workflow's id, or nothing for the whole store. Each has its own turns.
    pub scope: Arc<str>,
    /// Who wants it.
    pub worker: WorkerId,
    /// For how long nobody else gets it.
    pub length: Duration,
    /// Now.
    pub at: Timestamp,
}

/// The longest turn. One that ends later than this from now on was taken by a clock that was ahead, and is over.
pub const TURN_MAX: Duration = Duration::from_secs(600);

/// What was deleted for one scope, since the store exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// A workflow's id, or nothing for the whole store.
    pub scope: Arc<str>,
    /// Runs.
    pub runs: u64,
    /// Bytes of their logs, inputs and outputs.
    pub bytes: u64,
    /// When somebody last had the turn.
    pub at: Timestamp,
}

/// Sessions that one look examines, at most.
pub const IDLE_SESSIONS_MAX: u32 = 256;

/// What one look for sessions without runs has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleSessions {
    /// How many were deleted.
    pub deleted: u64,
    /// Where the next look begins; none when this one came to the last session.
    pub next: Option<u64>,
}

/// Deleting what has ended.
pub trait RetentionStore: Send + Sync {
    /// How many bytes of log, input and output each of these runs takes; none where it cannot be deleted: it is not
    /// there for the caller, has not ended, has a webhook that is still to be told, is an item of a batch that takes more
    /// items or of which some have not ended, or an unfinished run of its session comes after it and may read it as
    /// history.
    fn run_sizes(&self, access: Access, run_ids: Vec<RunId>) -> BoxFuture<'_, Result<Vec<Option<u64>>, DbError>>;

    /// Deletes these runs, in this order, with all that belongs to them alone; leaves alone those that
    /// [`RetentionStore::run_sizes`] has no size for. Their sessions stay; their idempotency keys are free again. A batch
    /// goes with the last of its runs. Deletes no more than the limits above say, and then more is to do.
    ///
    /// With `scope`, what was deleted is added up there ([`RetentionStore::pruned`]).
    fn delete_runs(
        &self,
        access: Access,
        run_ids: Vec<RunId>,
        scope: Option<Arc<str>>,
    ) -> BoxFuture<'_, Result<Deleted, DbError>>;

    /// Deletes sessions without runs that have not changed since `before`, among the first [`IDLE_SESSIONS_MAX`] from
    /// `from` on (0 for the first).
    fn delete_idle_sessions(&self, before: Timestamp, from: u64) -> BoxFuture<'_, Result<IdleSessions, DbError>>;

    /// Deletes those of these batches that have no runs and have not changed since `before`; returns how many.
    fn delete_batches(
        &self,
        access: Access,
        ids: Vec<Arc<str>>,
        before: Timestamp,
    ) -> BoxFuture<'_, Result<u64, DbError>>;

    /// Takes the turn, or keeps it, unless somebody else has it.
    fn take_turn(&self, turn: Turn) -> BoxFuture<'_, Result<bool, DbError>>;

    /// How many bytes the store uses: all of it, without space that is free.
    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, DbError>>;

    /// What was deleted so far, by scope.
    fn pruned(&self) -> BoxFuture<'_, Result<Vec<Pruned>, DbError>>;
}
