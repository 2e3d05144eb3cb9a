//! The store, cut by use: runs and leases, the run log, sessions.
//!
//! A store keeps text and never looks inside it (a session's state excepted, which it merges key by key). Every method
//! is one transaction: it happens wholly or not at all, and when it has returned `Ok` it is on stable storage.
//!
//! A method called on a caller's behalf is given the runs and sessions that caller may use ([`Access`]); for that
//! caller, no others exist. Methods that act by a lease need no access: the lease is the right.
//!
//! ```text
//! create_run ─► claim ─► commit* ─► commit(status terminal)
//!                 ▲          └─► release (stop, back-off, pause)
//!                 └── a lease that ended: any worker may claim again, with a higher epoch
//! ```

use super::{
    AuditStore, BatchItem, BatchStore, BoxFuture, BudgetChange, BudgetStore, HookStore, NewAnswer, NewHook, NewItem,
    NewQuestion, NewTick, OverBudget, QuestionPatch, QuestionStore, RateStore, RetentionStore, ScheduleStore,
    StoredSchedule,
};
use crate::fork::ForkedFrom;
use crate::id::{DefinitionId, RunId, SessionId, WorkerId};
use crate::log::Page;
use crate::run::{RunInfo, RunStatus};
use crate::step::Attachments;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Whose runs and sessions a caller may see and change. For that caller, other users' do not exist; runs and sessions
/// without a user belong to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Everyone's, and those that belong to nobody: the process itself, or an administrator.
    #[default]
    All,
    /// Only this user's.
    User(Arc<str>),
}

impl Access {
    /// The user it is restricted to, if it is.
    pub fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::All => None,
            Self::User(user_id) => Some(user_id),
        }
    }

    /// Whether something that belongs to `owner` may be seen.
    pub fn sees(&self, owner: Option<&str>) -> bool {
        self.user().is_none_or(|user_id| owner == Some(&**user_id))
    }
}

/// What went wrong in a store, classified by what a caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DbErrorKind {
    /// A newer lease exists, or this one was given up: stop at once, report nothing, change nothing.
    Fenced,
    /// No such run or session, or it is not the caller's.
    NotFound,
    /// The idempotency key, or the run's or session's id, is taken by another request. Nothing happened.
    Conflict,
    /// The session does not accept another run now (policy `reject`), or cannot be deleted now. Nothing happened.
    SessionBusy,
    /// The status table forbids the change. Nothing happened.
    IllegalStatus,
    /// The run cannot go on like this, because a request to cancel it, or a run that it takes in, became durable first.
    /// Nothing happened; begin again from the log.
    CancelRequested,
    /// A budget has too little left for what the commit reserves ([`DbError::over_budget`]). Nothing happened.
    OverBudget,
    /// The disk is full. Nothing happened; try again when there is space.
    Full,
    /// Locked or unreachable at the moment. Nothing happened; try again.
    Busy,
    /// The write may or may not have happened (a failed sync, a file that is gone). The store takes no more writes; restart
    /// the process.
    OutcomeUnknown,
    /// Stored bytes differ from what was written.
    Corrupt,
    /// The same, but only for the run or session that the message names. The others can be read.
    Unreadable,
    /// The database is not one of ours, is newer than this program, or is older and cannot be brought up to date now.
    /// Nothing was touched.
    Refused,
    /// It can be read but not changed: the file is read-only, was opened for reading only, or is a copy that nobody has
    /// adopted. Nothing happened.
    ReadOnly,
    /// Anything else the storage reported.
    Storage,
}

/// A store's error: a kind, and a message that names the object and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct DbError {
    kind: DbErrorKind,
    message: Arc<str>,
    over: Option<OverBudget>,
}

impl DbError {
    /// An error of this kind.
    pub fn new(kind: DbErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: Arc::from(message.to_string()), over: None }
    }

    /// A commit reserves more than there is.
    pub fn over(over: OverBudget, message: impl fmt::Display) -> Self {
        Self { over: Some(over), ..Self::new(DbErrorKind::OverBudget, message) }
    }

    /// Which reservation has no room.
    pub fn over_budget(&self) -> Option<OverBudget> {
        self.over
    }

    /// What kind.
    pub fn kind(&self) -> DbErrorKind {
        self.kind
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self.kind, DbErrorKind::Full | DbErrorKind::Busy)
    }
}

/// What happens to a run whose session already has an unfinished one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionPolicy {
    /// It waits; runs of a session execute in the order in which they were accepted.
    #[default]
    Queue,
    /// It is refused with [`DbErrorKind::SessionBusy`].
    Reject,
    /// It executes at once.
    Parallel,
    /// The session's unfinished runs are cancelled as it is accepted, and it begins when they have ended. What they had
    /// said by then is kept.
    Interrupt,
    /// It waits, and the run at the head of the line may take it in: then its input is a message to the agent or the team
    /// that executes there, and it ends CANCELLED without having begun. If nobody does, its turn comes as with `Queue`.
    Steer,
}

impl SessionPolicy {
    /// Every policy.
    pub const ALL: [SessionPolicy; 5] = [Self::Queue, Self::Reject, Self::Parallel, Self::Interrupt, Self::Steer];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Reject => "reject",
            Self::Parallel => "parallel",
            Self::Interrupt => "interrupt",
            Self::Steer => "steer",
        }
    }

    /// From the word for it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a session's conversation is held with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// A workflow.
    #[default]
    Workflow,
    /// An agent alone.
    Agent,
    /// A team alone.
    Team,
}

impl SessionKind {
    /// Every kind.
    pub const ALL: [SessionKind; 3] = [Self::Workflow, Self::Agent, Self::Team];
}

/// What a run's request keeps beside its input: the JSON of [`NewRun::options`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestOptions {
    /// What steps see beside the input.
    #[serde(flatten)]
    pub attachments: Attachments,
    /// What the run lays over its session's state when it begins, key by key; null removes.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub session_state: Map<String, Value>,
    /// The run that this one starts again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<RunId>,
    /// The run that this one was forked from, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_from: Option<ForkedFrom>,
    /// Which item of a batch it is. The batch may be gone, or another run may have taken its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchItem>,
    /// What was to happen if the session was busy.
    #[serde(skip_serializing_if = "SessionPolicy::is_default")]
    pub policy: SessionPolicy,
    /// With the policy `steer`: the id of the agent or the team that is to hear it. None: whoever executes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steer_to: Option<Arc<str>>,
}

/// A run to be accepted.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Who it is.
    pub info: RunInfo,
    /// The input as JSON text.
    pub input: Option<Arc<str>>,
    /// The caller's data and options as JSON text ([`RequestOptions`]); none when there are none.
    pub options: Option<Arc<str>>,
    /// Hash of the definition it was submitted to.
    pub definition: Arc<str>,
    /// The definition as JSON text, without its code. Kept once under its hash, as long as a run with that hash is; none
    /// when it is not to be kept.
    pub structure: Option<Arc<str>>,
    /// The same key and the same `fingerprint` again give the same run. Already scoped to user and workflow.
    pub idempotency_key: Option<Arc<str>>,
    /// Hash of what was asked; compared when the key is seen again.
    pub fingerprint: Arc<str>,
    /// What to do when the session is busy.
    pub policy: SessionPolicy,
    /// State a session starts with when this run creates it.
    pub session_state: Option<Map<String, Value>>,
    /// The session's kind when this run creates it.
    pub session_kind: SessionKind,
    /// Where to send its events, if anywhere; stored with it.
    pub hook: Option<NewHook>,
    /// When and with what it begins.
    pub start: NewStart,
    /// Now.
    pub at: Timestamp,
}

/// When and with what a run begins. `Default` is at once, with nothing.
#[derive(Clone, Debug, Default)]
pub struct NewStart {
    /// It must not be claimed before this.
    pub due_at: Option<Timestamp>,
    /// Of runs that may be claimed, those with a higher priority go first.
    pub priority: i8,
    /// Beside how many others it may execute.
    pub limit: Option<Arc<RunLimit>>,
    /// What its log begins with.
    pub log: Option<Box<NewLog>>,
    /// What it says first if it begins at once.
    pub first: Option<Box<FirstPage>>,
    /// The time of a schedule of which this run comes: taken in the same transaction.
    pub tick: Option<Box<NewTick>>,
    /// The item of a batch of which this run comes.
    pub item: Option<Box<NewItem>>,
}

/// How many runs may execute at once, over all workers of a store.
///
/// A run takes a place when it is let in, and keeps it until it has ended or is PAUSED: a crash, a back-off or a sleep
/// does not give it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunLimit {
    /// Runs with the same key share their places.
    pub key: Arc<str>,
    /// A run with this limit is let in as long as fewer of them have a place.
    pub max: u32,
}

impl RunLimit {
    /// That of a workflow's runs with this key, or of those without one.
    pub fn of(workflow_id: &DefinitionId, key: Option<&str>, max: u32) -> Self {
        let key = match key {
            Some(key) => format!("{workflow_id}/{key}"),
            None => workflow_id.to_string(),
        };
        Self { key: Arc::from(key), max }
    }

    /// The key that the caller gave to a run of this workflow.
    pub fn key_of(&self, workflow_id: &DefinitionId) -> Option<String> {
        self.key.strip_prefix(workflow_id.as_str())?.strip_prefix('/').map(str::to_owned)
    }
}

/// What the log of a run begins with when it is accepted: what a fork keeps of another run.
#[derive(Clone, Debug, Default)]
pub struct NewLog {
    /// The entries, from 0 on without a gap. They belong to no lease: their epoch is 0.
    pub pages: Vec<Page>,
    /// The questions among them that are open.
    pub questions: Vec<NewQuestion>,
    /// What is answered to one of those, as if it had been as soon as the run was accepted.
    pub answer: Option<NewAnswer>,
}

/// What a run says first. It is stored with the run if that comes with a lease, under its epoch, and makes it RUNNING;
/// otherwise it was never said.
#[derive(Clone, Debug)]
pub struct FirstPage {
    /// The entries, from 0 on. None of them is a result.
    pub page: Page,
    /// As [`RunPatch::progress`].
    pub progress: Option<Arc<str>>,
    /// When.
    pub at: Timestamp,
}

impl NewStart {
    /// The index that the run's next entry gets, unless it begins at once.
    pub fn next_index(&self) -> u64 {
        self.log.as_ref().and_then(|log| log.pages.last()).map_or(0, Page::end)
    }
}

/// The answer to [`RunStore::create_run`].
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is on stable storage. It comes with a lease when a worker was given and nothing is in the way: then the
    /// caller executes it.
    New {
        /// The right to execute it.
        lease: Option<Lease>,
        /// Whether what it says first is stored.
        has_begun: bool,
    },
    /// It is on stable storage, behind this run, which may take it in (policy `Steer`).
    Steers {
        /// The run at the head of the line.
        into: RunId,
    },
    /// The key was seen before with the same request: this is its run.
    Existing(RunId),
}

/// The right to execute a run, until a newer epoch exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The run.
    pub run_id: RunId,
    /// Who holds it.
    pub worker: WorkerId,
    /// The fencing number: every claim raises it by one, every write carries it.
    pub epoch: u64,
}

/// That someone asked for a run to be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelIntent {
    /// When.
    pub at: Timestamp,
    /// Why, in the asker's words.
    pub reason: Arc<str>,
}

/// Why a run is cancelled that another takes in.
const TAKEN_IN_BY: &str = "taken in by run ";

impl CancelIntent {
    /// The reason for which a run is cancelled that this one takes in.
    pub fn taken_in_by(run_id: &RunId) -> String {
        format!("{TAKEN_IN_BY}{run_id}")
    }

    /// The run that has taken in the one that is cancelled for this reason.
    pub fn taker(&self) -> Option<RunId> {
        RunId::parse(self.reason.strip_prefix(TAKEN_IN_BY)?).ok()
    }
}

/// One run as it is stored.
#[derive(Clone, Debug)]
pub struct Run {
    /// Who it is.
    pub info: RunInfo,
    /// Where it stands.
    pub status: RunStatus,
    /// The input as JSON text.
    pub input: Option<Arc<str>>,
    /// The caller's data and options, as JSON text.
    pub options: Option<Arc<str>>,
    /// Hash of its definition.
    pub definition: Arc<str>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The newest epoch; 0 when nobody has claimed it.
    pub epoch: u64,
    /// Who holds the lease; none when nobody does.
    pub worker: Option<WorkerId>,
    /// Claims since the last progress. Raised by a claim, reset by progress and by a graceful release.
    pub claims: u32,
    /// Claims in all.
    pub attempt: u32,
    /// It must not be claimed before this.
    pub due_at: Option<Timestamp>,
    /// Whether an earlier unfinished run of its session goes first.
    pub is_behind: bool,
    /// Of runs that may be claimed, those with a higher priority go first.
    pub priority: i8,
    /// Beside how many others it may execute.
    pub limit: Option<Arc<RunLimit>>,
    /// Whether it has not been let in under its limit yet.
    pub awaits_place: bool,
    /// Set once someone asked for it to be cancelled.
    pub cancel: Option<CancelIntent>,
    /// Length of its log: the index the next entry gets.
    pub next_index: u64,
    /// The step it is at, for people: `1/2 Research Step`.
    pub progress: Option<Arc<str>>,
    /// The output as JSON text ([`crate::WorkflowRunOutput`]), once there is one (at the end, or at a pause).
    pub output: Option<Arc<str>>,
}

impl Run {
    /// A run that has just been accepted, before anybody claims it.
    pub fn accepted(new: &NewRun) -> Self {
        Self {
            info: new.info.clone(),
            status: RunStatus::Pending,
            input: new.input.clone(),
            options: new.options.clone(),
            definition: new.definition.clone(),
            created_at: new.at,
            updated_at: new.at,
            epoch: 0,
            worker: None,
            claims: 0,
            attempt: 0,
            due_at: new.start.due_at,
            is_behind: false,
            priority: new.start.priority,
            limit: new.start.limit.clone(),
            awaits_place: false,
            cancel: None,
            next_index: new.start.next_index(),
            progress: None,
            output: None,
        }
    }

    /// The same, as it is when the lease that comes with it has been taken.
    #[must_use]
    pub fn taken(self, lease: &Lease) -> Self {
        Self { epoch: lease.epoch, claims: 1, attempt: 1, worker: Some(lease.worker.clone()), ..self }
    }

    /// Whether none of it executes, and none will until somebody acts: it has ended, or it is paused, its lease was
    /// released and nobody has asked for its cancellation.
    pub fn is_at_rest(&self) -> bool {
        let is_paused = self.status == RunStatus::Paused && self.worker.is_none() && self.cancel.is_none();
        self.status.is_terminal() || is_paused
    }
}

/// What a worker is willing to take.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who asks.
    pub worker: WorkerId,
    /// The workflows whose definitions it has. Runs with a cancel intent go to any worker.
    pub workflows: Arc<[DefinitionId]>,
    /// At most this many runs.
    pub limit: u32,
    /// Runs claimed this many times or more without progress are left alone, unless `suspects` allows one.
    pub suspect_claims: u32,
    /// Whether one suspect may be included.
    pub suspects: bool,
    /// Now.
    pub at: Timestamp,
}

/// The answer to [`RunStore::claim`].
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The runs, each with its lease; `epoch`, `claims` and `attempt` already raised, and that is durable.
    pub runs: Vec<(Run, Lease)>,
    /// Schedules of the asker's workflows that are due, the longest due first: whoever asked is to take their times. They
    /// are told until somebody has.
    pub schedules: Vec<StoredSchedule>,
    /// When the next run that waits for a time, or the next schedule, becomes due, or the time of the next open question is
    /// up.
    pub next_due: Option<Timestamp>,
    /// Whether there were more than `limit` allowed, or more questions whose time is up than one call answers, or more
    /// schedules than one call tells.
    pub more: bool,
}

/// What a commit changes in the run's row. `Default` changes nothing.
#[derive(Clone, Debug, Default)]
pub struct RunPatch {
    /// The new status; checked against the table.
    pub status: Option<RunStatus>,
    /// The new progress text.
    pub progress: Option<Arc<str>>,
    /// The new output as JSON text.
    pub output: Option<Arc<str>>,
    /// The run made progress: `claims` starts again at 0.
    pub is_progress: bool,
    /// Releases the lease with this commit.
    pub release: Option<Release>,
    /// What was asked, and what was answered or needs no answer any more.
    pub questions: Option<Box<QuestionPatch>>,
    /// Runs that steer this one and were taken in ([`RunStore::steering`]): a request to cancel each becomes durable with
    /// the commit. Where one is not there to be taken any more, the commit fails with [`DbErrorKind::CancelRequested`].
    pub taken_in: Vec<RunId>,
    /// What is reserved, spent and added, in this order; nothing where there are no budgets.
    pub budgets: Vec<BudgetChange>,
}

/// How a lease is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Release {
    /// The run must not be claimed before this.
    pub due_at: Option<Timestamp>,
}

/// Entries, run row and session, changed together under a lease.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The lease; a stale epoch fails with [`DbErrorKind::Fenced`] and changes nothing. A terminal status other than
    /// CANCELLED fails with [`DbErrorKind::CancelRequested`] when there is a [`CancelIntent`], and changes nothing.
    pub lease: Lease,
    /// Entries to append; `first_index` must be the run's `next_index`.
    pub page: Option<Page>,
    /// Changes to the run's row.
    pub patch: RunPatch,
    /// Changes to the session's state, key by key; null removes. Raises the session's version by one.
    pub session: Option<Map<String, Value>>,
    /// Now.
    pub at: Timestamp,
}

/// The answer to [`RunStore::request_cancel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The intent is durable. Someone holds the lease and will see it.
    Requested,
    /// The intent is durable and nobody holds the lease: claim the run to finish it.
    Unowned,
    /// The run was already over, with this status.
    Already(RunStatus),
}

/// The order of a list of runs: the order in which they were accepted, or its reverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// The last accepted first.
    #[default]
    NewestFirst,
    /// The first accepted first.
    OldestFirst,
}

/// What a store knows about a worker's process, apart from when it was last heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It is alive.
    Lives,
    /// It has ended.
    Gone,
    /// Nothing: only the lease period can tell.
    Unknown,
}

/// A worker that has not been declared dead. It may be dead all the same, if nobody was there to declare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingWorker {
    /// Who.
    pub worker: WorkerId,
    /// When its leases expire unless it renews them.
    pub good_until: Timestamp,
    /// How many runs it holds, of those the caller may see; 0 when they were not counted.
    pub runs: u64,
    /// The workflows it last asked for runs of; none when it has never asked for any and so executes nothing.
    pub workflows: Option<Arc<[DefinitionId]>>,
    /// What is known about its process.
    pub life: Life,
}

impl LivingWorker {
    /// Whether it is alive at this time, as far as can be told.
    pub fn lives_at(&self, now: Timestamp) -> bool {
        match self.life {
            Life::Lives => true,
            Life::Gone => false,
            Life::Unknown => self.good_until > now,
        }
    }

    /// Whether it executes runs of this workflow.
    pub fn executes(&self, workflow_id: &DefinitionId) -> bool {
        self.workflows.as_ref().is_some_and(|workflows| workflows.contains(workflow_id))
    }
}

/// Which runs to list, and which parts of them. `Default` is the newest 50.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only these statuses; empty means all.
    pub statuses: Vec<RunStatus>,
    /// Only this workflow.
    pub workflow_id: Option<DefinitionId>,
    /// Only this session.
    pub session_id: Option<SessionId>,
    /// Only this user.
    pub user_id: Option<Arc<str>>,
    /// Only items of this batch.
    pub batch_id: Option<Arc<str>>,
    /// Only ids with this prefix.
    pub id_prefix: Option<String>,
    /// Only runs accepted at this time or later.
    pub created_from: Option<Timestamp>,
    /// Only runs accepted before this time.
    pub created_to: Option<Timestamp>,
    /// Only runs accepted before this one; none at all when it does not exist.
    pub before: Option<RunId>,
    /// In which order.
    pub order: Order,
    /// Continue after this cursor, which came from a list in the same order.
    pub after: Option<String>,
    /// At most this many; 0 means 50, the most is 1000. A page ends earlier, with a cursor, once the texts of its runs
    /// exceed 16 MiB.
    pub limit: u32,
    /// Whether `input` and `output` are filled in.
    pub with_payload: bool,
    /// Whether to count the runs of each status as well.
    pub with_counts: bool,
}

/// A page of runs. Their `input` and `output` are filled in only when the filter asked for them.
#[derive(Clone, Debug, Default)]
pub struct RunPage {
    /// The runs, in the filter's order.
    pub runs: Vec<Run>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
    /// Runs left out because their rows cannot be read: each error names its run.
    pub unreadable: Vec<DbError>,
    /// When asked for: how many runs there are of each status, whatever the filter's `statuses`, `after` and `limit`.
    pub counts: Option<RunCounts>,
}

/// Longest count of what a store keeps no counts of.
pub const COUNT_MAX: u64 = 10_000;

/// How many runs there are of each status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCounts {
    /// In the order of [`RunStatus::ALL`]; statuses without runs are left out.
    pub by_status: Vec<(RunStatus, u64)>,
    /// Whether these are all. A store keeps counts by status, workflow and user; with any other filter it counts the
    /// first [`COUNT_MAX`] runs, in the filter's order, and no more.
    pub is_exact: bool,
}

/// How many unfinished runs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// PENDING, and nobody holds them.
    pub queued: u64,
    /// When the oldest of those was accepted that does not begin later.
    pub queued_since: Option<Timestamp>,
    /// RUNNING, whether or not somebody holds them.
    pub running: u64,
    /// PAUSED.
    pub paused: u64,
}

/// One session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Its id.
    pub session_id: SessionId,
    /// What it is held with; set when it is created.
    pub kind: SessionKind,
    /// What people call it; absent until someone names it.
    pub name: Option<Arc<str>>,
    /// Its state.
    pub state: Map<String, Value>,
    /// The caller's own data.
    pub metadata: Map<String, Value>,
    /// How many changes it has had.
    pub version: u64,
    /// Whose it is: its first run's user, or the user it was created with.
    pub user_id: Option<Arc<str>>,
    /// Its first run's workflow, or the one it was created with. For agents and teams, theirs.
    pub workflow_id: Option<DefinitionId>,
    /// When it began.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A session to be created before it has a run.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id.
    pub session_id: SessionId,
    /// What it is held with.
    pub kind: SessionKind,
    /// What people call it.
    pub name: Option<Arc<str>>,
    /// Whose it is.
    pub user_id: Option<Arc<str>>,
    /// The workflow, agent or team.
    pub workflow_id: Option<DefinitionId>,
    /// The state it starts with.
    pub state: Map<String, Value>,
    /// The caller's own data.
    pub metadata: Map<String, Value>,
    /// Now.
    pub at: Timestamp,
}

/// What to change in a session. `Default` changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionPatch {
    /// The new name.
    pub name: Option<Arc<str>>,
    /// Replaces the whole state.
    pub state: Option<Map<String, Value>>,
    /// Replaces the whole metadata.
    pub metadata: Option<Map<String, Value>>,
}

/// What a list of sessions is sorted by. Among equals, the one accepted first comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SessionSort {
    /// The order in which the store accepted them: that of `created_at`, as far as clocks agree.
    #[default]
    CreatedAt,
    /// When they last changed.
    UpdatedAt,
    /// By name, byte by byte; those without one first.
    Name,
}

/// Which sessions to list. `Default` is the oldest 20.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Only this kind.
    pub kind: Option<SessionKind>,
    /// Only those held with this workflow, agent or team.
    pub component_id: Option<DefinitionId>,
    /// Only this user's.
    pub user_id: Option<Arc<str>>,
    /// Only those whose name contains this text; ASCII letters match in either case.
    pub name: Option<String>,
    /// By what to sort.
    pub sort: SessionSort,
    /// Whether to reverse the order.
    pub descending: bool,
    /// At most this many; 0 means 20, the most is 1000.
    pub limit: u32,
    /// How many to skip at the beginning.
    pub offset: u64,
}

/// A page of sessions.
#[derive(Clone, Debug)]
pub struct SessionPage {
    /// The sessions, in the filter's order.
    pub sessions: Vec<Session>,
    /// Sessions left out because they cannot be read: each error names its session.
    pub unreadable: Vec<DbError>,
    /// How many there are in all, ignoring `limit` and `offset`.
    pub total: u64,
    /// Whether `total` is all of them. A store keeps counts by kind, component and user; with a name in the filter it
    /// counts as far as [`COUNT_MAX`], or one past the page if that is further.
    pub is_total_exact: bool,
}

/// Something changed in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Anything may have changed: another process, or another handle of this one, committed, or sessions or
    /// runs were deleted through this one.
    Anything,
    /// This run changed through this handle.
    Run {
        /// Which.
        run_id: RunId,
        /// The worker that did it; none when it was not done for a worker.
        by: Option<WorkerId>,
    },
    /// Through this handle a run became free to be claimed.
    Free {
        /// The worker that did it; none when it was not done for a worker.
        by: Option<WorkerId>,
    },
    /// The store failed and takes no more writes: what happened, and what to do.
    Failed(Arc<str>),
}

/// Called with [`News`], from any thread; must return at once.
pub type Watcher = Arc<dyn Fn(News) + Send + Sync>;

/// Runs and leases.
pub trait RunStore: Send + Sync {
    /// Accepts a run, and with it its session. With `worker`, claims it at once when nothing is in the way.
    ///
    /// # Errors
    /// `NotFound` when the run would belong to another user than the caller, or its session exists and is someone
    /// else's; `Conflict` when the idempotency key or the run id is taken by another request, or its batch takes
    /// no such item, `SessionBusy`, `Full`,
    /// `Busy`, and `OutcomeUnknown`, after which the caller repeats with the same key. `Fenced` when its schedule's time
    /// was taken by somebody else ([`ScheduleStore::tick`]).
    fn create_run(
        &self,
        access: Access,
        run: NewRun,
        worker: Option<WorkerId>,
    ) -> BoxFuture<'_, Result<Accepted, DbError>>;

    /// The run, if it exists.
    ///
    /// # Errors
    /// `Unreadable` when its row is damaged. Damage inside its texts shows only when they are read, through [`Run`]'s
    /// methods.
    fn run(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>>;

    /// The run, if it exists, without its `input` and `output`. A store that keeps them apart does not read them, so
    /// that this costs the same however long they are.
    ///
    /// # Errors
    /// As [`RunStore::run`].
    fn run_line(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>> {
        Box::pin(async move {
            let run = self.run(access, run_id).await?;
            Ok(run.map(|run| Run { input: None, output: None, ..run }))
        })
    }

    /// The definition with this hash ([`NewRun::structure`]); none when no run has brought it. It belongs to nobody:
    /// never answer a user from it.
    fn definition(&self, hash: Arc<str>) -> BoxFuture<'_, Result<Option<Arc<str>>, DbError>>;

    /// Lists runs.
    ///
    /// # Errors
    /// `Storage` when the cursor did not come from a list.
    fn runs(&self, access: Access, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, DbError>>;

    /// How many unfinished runs there are, each number counted up to `max`. Reads no input and no output.
    fn unfinished(&self, max: u64) -> BoxFuture<'_, Result<Unfinished, DbError>>;

    /// Registers a worker, or renews it, and notes which others have done so since the last time.
    ///
    /// A worker's leases are good for as long as it beats. It is declared dead when its process is known to be gone, or
    /// when a handle that kept watching without a gap, by a monotonic clock, has seen no beat from it for its whole
    /// `period`: a machine that slept, or a wall clock that was set, takes nothing from anyone.
    ///
    /// # Errors
    /// `Fenced` when the worker was declared dead meanwhile: it holds no lease any more.
    fn heartbeat(&self, worker: WorkerId, at: Timestamp, period: Duration) -> BoxFuture<'_, Result<(), DbError>>;

    /// Ends a worker: the leases it still holds are freed, and `claims` of those runs is reset.
    fn retire(&self, worker: WorkerId, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>>;

    /// Takes runs that are PENDING or RUNNING, due, not behind an earlier run of their session (policy `Queue`), and held
    /// by nobody or by a dead worker. A run with a limit ([`RunLimit`]) is let in before that, if there is a place. One
    /// with a cancel intent is taken whatever its workflow, its due time, its session and also when it is PAUSED. Raises
    /// `epoch`, `claims` and `attempt` of each. Higher priorities first, then oldest first.
    ///
    /// Before that, open questions whose time is up are answered with [`super::TIMED_OUT`].
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, DbError>>;

    /// Takes this one run if no living worker holds it, whatever its workflow, its due time and its session.
    fn claim_run(
        &self,
        run_id: RunId,
        worker: WorkerId,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>>;

    /// Durably records the request to end the run.
    ///
    /// # Errors
    /// `NotFound`.
    fn request_cancel(
        &self,
        access: Access,
        run_id: RunId,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Cancelled, DbError>>;

    /// Claims anew a run that the lease's worker holds but knows it is not executing: a claim like any other, so
    /// anything left of the earlier one is fenced.
    fn reclaim(&self, lost: Lease, at: Timestamp) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>>;

    /// The runs this worker holds, each with its epoch.
    fn held(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, u64)>, DbError>>;

    /// Runs this worker holds that someone wants cancelled.
    fn cancels(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, CancelIntent)>, DbError>>;

    /// The runs that steer this one: accepted with the policy `Steer` to the same workflow and session, behind it, not
    /// begun and not to be cancelled, in the order in which they were accepted. None unless it is at the head of the line.
    fn steering(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<Run>, DbError>>;

    /// The workers that have not been declared dead, by id, each with how many of the runs that `counted` may see it
    /// holds. Counting walks over all unfinished runs: without `counted` nothing is counted, and `runs` is 0.
    fn workers(&self, counted: Option<Access>) -> BoxFuture<'_, Result<Vec<LivingWorker>, DbError>>;
}

/// The run log.
pub trait LogStore: Send + Sync {
    /// Appends and changes everything in `commit`, or nothing. A run that comes to be PAUSED with an answer in its inbox
    /// is RUNNING instead, and one that is released with one is free to be claimed at once.
    ///
    /// # Errors
    /// `Fenced` on a stale epoch, `NotFound` when the run was deleted, `IllegalStatus`, `OverBudget`, `Full`, `Busy`, `OutcomeUnknown`.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), DbError>>;

    /// Pages from the one that holds `from` on, up to about `bytes_max` bytes of body, at least one page if there is any.
    fn read(
        &self,
        access: Access,
        run_id: RunId,
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Page>, DbError>>;
}

/// Sessions.
pub trait SessionStore: Send + Sync {
    /// The session, if it exists.
    ///
    /// # Errors
    /// `Unreadable` when its state or its metadata is damaged.
    fn session(&self, access: Access, session_id: SessionId) -> BoxFuture<'_, Result<Option<Session>, DbError>>;

    /// Lists sessions.
    fn sessions(&self, access: Access, filter: SessionFilter) -> BoxFuture<'_, Result<SessionPage, DbError>>;

    /// Creates a session without a run. Gives back what is stored.
    ///
    /// # Errors
    /// `NotFound` when it would belong to another user than the caller, `Conflict` when the id is taken.
    fn create_session(&self, access: Access, session: NewSession) -> BoxFuture<'_, Result<Session, DbError>>;

    /// Changes a session and raises its version by one. Gives back what is stored now; none when there is no such
    /// session. A run that executes meanwhile still changes the state key by key, whatever has replaced it.
    fn update_session(
        &self,
        access: Access,
        session_id: SessionId,
        patch: SessionPatch,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Session>, DbError>>;

    /// Deletes sessions with all their runs and logs, and returns how many there were; ids that do not exist are
    /// ignored. With `force`, unfinished runs too: a worker that executes one finds its lease gone (`NotFound`).
    ///
    /// # Errors
    /// `SessionBusy` when one of them has an unfinished run and `force` is not set; then nothing is deleted.
    fn delete_sessions(
        &self,
        access: Access,
        session_ids: Vec<SessionId>,
        force: bool,
    ) -> BoxFuture<'_, Result<u64, DbError>>;
}

/// A count, and the sum of what was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total<T> {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: T,
}

/// Space where a store keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// How a store is doing, in numbers for operators: since this handle opened it, by this process. What a store cannot
/// tell is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Space for further data.
    pub room: Option<Room>,
    /// Bytes of the write-ahead log on disk.
    pub log_bytes: Option<u64>,
    /// Since when a reader has kept the write-ahead log from starting again; absent when none does.
    pub log_pinned: Option<Duration>,
    /// Calls that the storage refused or failed, and copies that failed; refusals by the port's rules do not count.
    pub errors: u64,
    /// Transactions that were written, and the calls that shared them.
    pub groups: Total<u64>,
    /// Copies of the write-ahead log into the database.
    pub copies: Total<Duration>,
}

/// A store for runs. Cheap to clone behind its `Arc`; opened on first use.
pub trait Db:
    RunStore
    + LogStore
    + SessionStore
    + QuestionStore
    + ScheduleStore
    + BatchStore
    + BudgetStore
    + RateStore
    + RetentionStore
    + HookStore
    + AuditStore
    + 'static
{
    /// Where the data is, for people: a path, a URL without its password, `memory`.
    fn location(&self) -> String;

    /// Opens the store if it is not open yet, so that problems show before a run exists.
    ///
    /// # Errors
    /// `Refused`, `ReadOnly`, `Corrupt`, `Busy`, `Storage`.
    fn open(&self) -> BoxFuture<'_, Result<(), DbError>>;

    /// How it is doing. Never waits; asks the operating system only how much space there is.
    fn health(&self) -> Health {
        Health::default()
    }

    /// Calls `watcher` at once after a change through this handle ([`News::Run`], [`News::Free`]), within 50 ms of a
    /// commit by another process or handle, and when the store fails. Dropping the caller's clones of the watcher does
    /// not unsubscribe it; watchers live as long as the store.
    fn watch(&self, watcher: Watcher);
}
