//! Schedules as a store keeps them: when each is due next, and what became of the times that have passed.
//!
//! A store never looks inside a schedule's text and knows no calendar: whoever takes a due time says which comes next. The
//! invariant: a due time is taken once, in the transaction that records what came of it. Where that is a run, it is the
//! one that accepts the run ([`super::NewStart::tick`]).

use super::{Access, BoxFuture, DbError};
use crate::id::{DefinitionId, RunId};
use crate::time::Timestamp;
use std::sync::Arc;

/// A schedule to be stored.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    /// Its id.
    pub id: Arc<str>,
    /// What people call it. No other of its user's that somebody made has this name, and where it belongs to nobody, no other
    /// of nobody's; no other of its workflow's that is declared.
    pub name: Arc<str>,
    /// Of which workflow it makes runs.
    pub workflow_id: DefinitionId,
    /// Whose it is, and its runs.
    pub user_id: Option<Arc<str>>,
    /// What it says, as JSON text.
    pub text: Arc<str>,
    /// What declares it, such as the path of a file; none for one that somebody made.
    pub source: Option<Arc<str>>,
    /// When it is due first.
    pub next_due: Timestamp,
    /// Whether it takes the place of the one with its name, if there is one: that one keeps its id, its ticks, and whether
    /// it is paused.
    pub replaces: bool,
    /// Now.
    pub at: Timestamp,
}

/// One schedule as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredSchedule {
    /// Its id.
    pub id: Arc<str>,
    /// What people call it.
    pub name: Arc<str>,
    /// Of which workflow it makes runs.
    pub workflow_id: DefinitionId,
    /// Whose it is.
    pub user_id: Option<Arc<str>>,
    /// What it says, as JSON text.
    pub text: Arc<str>,
    /// What declares it, such as the path of a file; none for one that somebody made.
    pub source: Option<Arc<str>>,
    /// When it is due next; none while it is paused.
    pub next_due: Option<Timestamp>,
    /// The last time of it that was taken.
    pub last_due: Option<Timestamp>,
    /// The last run it has made. The run may have been deleted.
    pub last_run: Option<RunId>,
    /// How many runs it has made.
    pub runs: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody changed it last.
    pub updated_at: Timestamp,
}

/// What came of a time at which a schedule was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TickOutcome {
    /// A run.
    Ran,
    /// A run, because somebody asked for one now.
    Triggered,
    /// Nothing: the run before it had not come to rest.
    Skipped,
    /// Nothing: it passed while nobody was there to take it.
    Missed,
    /// Nothing: the run was refused.
    Failed,
}

impl TickOutcome {
    /// Every outcome.
    pub const ALL: [TickOutcome; 5] = [Self::Ran, Self::Triggered, Self::Skipped, Self::Missed, Self::Failed];

    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Triggered => "triggered",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
            Self::Failed => "failed",
        }
    }
}

/// A time of a schedule, to be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTick {
    /// Whose.
    pub schedule_id: Arc<str>,
    /// When the schedule must be due next for this to happen; none when somebody asks for a run now, which moves nothing.
    pub expected: Option<Timestamp>,
    /// When it is due after that.
    pub next_due: Timestamp,
    /// Which time this is.
    pub due_at: Timestamp,
    /// What came of it.
    pub outcome: TickOutcome,
    /// Why, or what else there is to say.
    pub note: Option<Arc<str>>,
}

/// A time that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTick {
    /// Which time.
    pub due_at: Timestamp,
    /// When it was taken.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: TickOutcome,
    /// The run.
    pub run_id: Option<RunId>,
    /// Why, or what else there is to say.
    pub note: Option<Arc<str>>,
}

/// What to change in a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleChange {
    /// It makes no runs until it is resumed.
    Pause,
    /// It is due next at this time, if it was paused.
    Resume(Timestamp),
}

/// Which schedules to list. `Default` is the first 50 by creation.
#[derive(Clone, Debug, Default)]
pub struct ScheduleFilter {
    /// Only those of this workflow.
    pub workflow_id: Option<DefinitionId>,
    /// Only those with this name.
    pub name: Option<Arc<str>>,
    /// Continue after this cursor, which came from a list.
    pub after: Option<String>,
    /// At most this many; 0 means 50, the most is 1000. A page ends earlier, with a cursor, once its texts exceed 16 MiB.
    pub limit: u32,
}

/// A page of schedules, those created first first.
#[derive(Clone, Debug, Default)]
pub struct SchedulePage {
    /// The schedules.
    pub schedules: Vec<StoredSchedule>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

/// The most schedules of one user, and of nobody.
pub const SCHEDULES_MAX: u64 = 10_000;

/// The most ticks of a schedule that are kept; older ones are deleted.
pub const TICKS_MAX: u32 = 1_000;

/// Schedules. Those that are due are told by [`super::RunStore::claim`].
pub trait ScheduleStore: Send + Sync {
    /// Creates a schedule. Gives back what is stored: the one that is there already if it has the same name, workflow and
    /// text.
    ///
    /// # Errors
    /// `NotFound` when it would belong to another user than the caller; `Conflict` when another one has its name, or there
    /// are [`SCHEDULES_MAX`].
    fn create_schedule(&self, access: Access, schedule: NewSchedule) -> BoxFuture<'_, Result<StoredSchedule, DbError>>;

    /// The schedule, if it exists.
    ///
    /// # Errors
    /// `Unreadable` when its row is damaged.
    fn schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>>;

    /// Lists schedules.
    ///
    /// # Errors
    /// `Storage` when the cursor did not come from a list.
    fn schedules(&self, access: Access, filter: ScheduleFilter) -> BoxFuture<'_, Result<SchedulePage, DbError>>;

    /// Pauses or resumes a schedule. Gives back what is stored now; none when there is no such schedule.
    fn change_schedule(
        &self,
        access: Access,
        id: Arc<str>,
        change: ScheduleChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>>;

    /// Deletes a schedule and its ticks; the runs it has made stay. Gives back whether it was there.
    fn delete_schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<bool, DbError>>;

    /// Takes a time of which no run comes.
    ///
    /// # Errors
    /// `Fenced` when the schedule is not due at the expected time any more: somebody else has taken it, has paused or
    /// deleted the schedule, or has changed it.
    fn tick(&self, tick: NewTick, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>>;

    /// The last times of a schedule that were taken, newest first, before `before` if that is given.
    fn ticks(
        &self,
        access: Access,
        id: Arc<str>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredTick>, DbError>>;
}
