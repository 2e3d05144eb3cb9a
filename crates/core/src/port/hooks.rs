//! Hooks: where a run's events are sent, how far that has got, and who sends.
//!
//! The store keeps an address and a cursor. It must never know what is sent, how, or what was answered beyond a number
//! or a word. A hook is accepted together with its run and deleted with it.
//!
//! ```text
//! create_run ─► claim_hook ─► move_hook* ─► move_hook(state Done | GivenUp)
//!                   ▲             └─► move_hook(not_before: a back-off, or nothing to send for now)
//!                   └── a lease that ended: anyone may claim again, with a higher epoch
//! ```
//! Invariant: the cursor moves only under the newest epoch, so a stale sender cannot make the current one skip an
//! event.

use super::{Access, BoxFuture, DbError};
use crate::id::RunId;
use crate::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Deliveries of one hook that are kept; older ones are forgotten.
pub const DELIVERIES_MAX: usize = 50;

/// Which of a run's events are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HookEvents {
    /// The last one, once the run is over; before that, the one at which it pauses.
    #[default]
    End,
    /// Every one.
    All,
}

/// A hook to be accepted with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHook {
    /// Where to; the store never looks inside.
    pub url: Arc<str>,
    /// What.
    pub events: HookEvents,
}

/// Whether there is anything left to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HookState {
    /// There is, or will be.
    #[default]
    Open,
    /// Everything was sent.
    Done,
    /// The receiver did not take it, and nobody tries any more.
    GivenUp,
}

impl HookState {
    /// Every state.
    pub const ALL: [HookState; 3] = [Self::Open, Self::Done, Self::GivenUp];
}

/// The event at the cursor could not be delivered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// How often it was tried.
    pub attempts: u32,
    /// When it failed first.
    pub since: Timestamp,
}

/// A hook as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The run.
    pub run_id: RunId,
    /// Where to.
    pub url: Arc<str>,
    /// What.
    pub events: HookEvents,
    /// Whether there is anything left to send.
    pub state: HookState,
    /// The cursor: nothing before this index is left to send.
    pub next_index: u64,
    /// Present while delivery of the event at the cursor is failing.
    pub failing: Option<Failing>,
    /// It must not be claimed before this: somebody holds it until then, or it backs off.
    pub not_before: Option<Timestamp>,
    /// The newest epoch; 0 when nobody has claimed it.
    pub epoch: u64,
}

/// How one delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The receiver answered with this HTTP status.
    Answered(u16),
    /// There was no answer; why, in one word for programs.
    Failed(Arc<str>),
}

/// One attempt to deliver one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The event.
    pub event_index: u64,
    /// From 1.
    pub attempt: u32,
    /// When it began.
    pub at: Timestamp,
    /// How long it took, kept to the millisecond.
    pub took: Duration,
    /// How it ended.
    pub outcome: DeliveryOutcome,
}

/// What a sender changes of a hook it holds.
#[derive(Clone, Debug)]
pub struct HookMove {
    /// The run.
    pub run_id: RunId,
    /// The epoch it was claimed with; a stale one fails with `Fenced` and changes nothing.
    pub epoch: u64,
    /// The new cursor.
    pub next_index: u64,
    /// Whether delivery of the event at the cursor is failing.
    pub failing: Option<Failing>,
    /// The new state.
    pub state: HookState,
    /// Until when it is held or left alone; none releases it at once.
    pub not_before: Option<Timestamp>,
    /// For the log of deliveries.
    pub delivery: Option<Delivery>,
}

/// The answer to [`HookStore::due_hooks`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DueHooks {
    /// Runs whose hooks have something to send and are held by nobody, the longest waiting first.
    pub run_ids: Vec<RunId>,
    /// When the next hook that is held or backs off may be claimed.
    pub next_due: Option<Timestamp>,
    /// Whether any hook is open.
    pub has_open: bool,
}

/// A hook with its last deliveries, newest first.
pub type HookHistory = (Hook, Vec<Delivery>);

/// Hooks.
pub trait HookStore: Send + Sync {
    /// The hooks with something to send, at most `limit`. Writes nothing.
    fn due_hooks(&self, at: Timestamp, limit: u32) -> BoxFuture<'_, Result<DueHooks, DbError>>;

    /// Takes an open hook that nobody holds, until `at + period`. Raises its epoch. Nothing when there is none or somebody
    /// holds it.
    fn claim_hook(
        &self,
        run_id: RunId,
        at: Timestamp,
        period: Duration,
    ) -> BoxFuture<'_, Result<Option<Hook>, DbError>>;

    /// Moves the cursor of a hook that is held, and logs a delivery.
    ///
    /// # Errors
    /// `Fenced` on a stale epoch, `NotFound` when the run was deleted.
    fn move_hook(&self, step: HookMove) -> BoxFuture<'_, Result<(), DbError>>;

    /// A run's hook with its last [`DELIVERIES_MAX`] deliveries, the newest first; nothing when there is none.
    fn hook(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<HookHistory>, DbError>>;

    /// Sets the cursor back to `from` and opens the hook again; its current holder loses it. It never moves the cursor
    /// forward. None when there is no hook.
    fn rewind_hook(&self, access: Access, run_id: RunId, from: u64) -> BoxFuture<'_, Result<Option<Hook>, DbError>>;
}
