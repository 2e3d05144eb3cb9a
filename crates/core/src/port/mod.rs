//! The ports: what the machines and the engine need from outside, as small object-safe traits.

mod audit;
mod batches;
mod block;
mod budgets;
mod clock;
mod db;
mod effects;
mod execution;
mod executor;
mod hooks;
mod observer;
mod questions;
mod rates;
mod reading;
mod retention;
mod schedules;
mod stored;
mod tether;

pub use audit::{AUDIT_LIMIT, AUDIT_LIMIT_MAX, AuditFilter, AuditKind, AuditPage, AuditRecord, AuditStore};
pub use batches::{
    BatchChange, BatchFilter, BatchItem, BatchPage, BatchStore, ITEMS_MAX, ItemFilter, ItemPage, NewBatch, NewItem,
    StoredBatch,
};
pub use block::block_on;
pub use budgets::{
    BUDGET_KEPT, BudgetAccount, BudgetChange, BudgetFilter, BudgetPage, BudgetRaise, BudgetStanding, BudgetStep,
    BudgetStore, OverBudget, StoredBudget,
};
pub use clock::{Chance, Clock};
pub use db::{
    Accepted, Access, COUNT_MAX, CancelIntent, Cancelled, Claim, Claimed, Commit, Db, DbError, DbErrorKind, FirstPage,
    Health, Lease, Life, LivingWorker, LogStore, NewLog, NewRun, NewSession, NewStart, News, Order, Release,
    RequestOptions, Room, Run, RunCounts, RunFilter, RunLimit, RunPage, RunPatch, RunStore, Session, SessionFilter,
    SessionKind, SessionPage, SessionPatch, SessionPolicy, SessionSort, SessionStore, Total, Unfinished, Watcher,
};
pub use effects::{Admitted, Effects, Halt, Listener, Recall, Refused, Reservation, SteeringMessage};
pub use execution::{Doing, Execution};
pub use executor::{Executed, Executor, ExecutorInfo, SessionState, StepContext, StepInfo, laid_over, merge};
pub use hooks::{
    DELIVERIES_MAX, Delivery, DeliveryOutcome, DueHooks, Failing, Hook, HookEvents, HookHistory, HookMove, HookState,
    HookStore, NewHook,
};
pub use observer::{Observer, Witness};
pub use questions::{
    Answering, NewAnswer, NewQuestion, QuestionFilter, QuestionPage, QuestionPatch, QuestionState, QuestionStore,
    StoredAnswer, StoredQuestion, TIMED_OUT,
};
pub use rates::{RateLimit, RateShare, RateStore, ShareRequest, ShareReturn, Sharing};
pub use reading::{LogError, LogReader, run_output};
pub use retention::{
    DELETED_BYTES_MAX, DELETED_ROWS_MAX, DELETED_RUNS_MAX, Deleted, IDLE_SESSIONS_MAX, IdleSessions, Pruned,
    RetentionStore, TURN_MAX, Turn,
};
pub use schedules::{
    NewSchedule, NewTick, SCHEDULES_MAX, ScheduleChange, ScheduleFilter, SchedulePage, ScheduleStore, StoredSchedule,
    StoredTick, TICKS_MAX, TickOutcome,
};
pub use stored::{Unreadable, run_error};
pub(crate) use tether::Tether;

/// A boxed future, the price of an object-safe async trait without a macro.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
