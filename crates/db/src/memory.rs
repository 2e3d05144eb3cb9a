//! A store in memory: the port's rules and nothing else. It has no thread, no clock and no randomness, so a simulation
//! that uses it is deterministic; its futures are ready at the first poll. It must never know how runs are executed.
//!
//! One lock guards everything, and no callback runs under it. A method checks first and changes afterwards, so each
//! happens wholly or not at all.

mod audit;
mod batches;
mod budgets;
mod hooks;
mod questions;
mod rates;
mod retention;
mod schedules;

use crate::rules::{self, Earlier, Picker, Standing};
use crate::silence::Silence;
use batches::Batches;
use budgets::Budgets;
use hooks::HookRow;
use outlive_core::port::{
    Accepted, Access, AuditRecord, BoxFuture, COUNT_MAX, CancelIntent, Cancelled, Claim, Claimed, Commit, Db, DbError,
    DbErrorKind, FirstPage, Health, Lease, Life, LivingWorker, LogStore, NewRun, NewSession, News, Order,
    QuestionPatch, Run, RunCounts, RunFilter, RunPage, RunPatch, RunStore, Session, SessionFilter, SessionPage,
    SessionPatch, SessionPolicy, SessionSort, SessionStore, Unfinished, Watcher, merge,
};
use outlive_core::{DefinitionId, Page, RunId, RunStatus, SessionId, Timestamp, WorkerId};
use questions::Questions;
use rates::Rates;
use schedules::Schedules;
use serde_json::Map;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A method of the port, as a fault hook sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the port's methods")]
pub enum Operation {
    CreateRun,
    Run,
    Definition,
    Runs,
    Unfinished,
    Heartbeat,
    Retire,
    Claim,
    ClaimRun,
    RequestCancel,
    Reclaim,
    Held,
    Cancels,
    Steering,
    Workers,
    Commit,
    Read,
    Session,
    Sessions,
    CreateSession,
    UpdateSession,
    DeleteSessions,
    Answer,
    Question,
    Questions,
    Inbox,
    Mail,
    CreateSchedule,
    Schedule,
    Schedules,
    ChangeSchedule,
    DeleteSchedule,
    Tick,
    Ticks,
    CreateBatch,
    Batch,
    Batches,
    ChangeBatch,
    BatchItems,
    CancelItems,
    Budgets,
    RunSizes,
    DeleteRuns,
    DeleteIdleSessions,
    DeleteBatches,
    TakeTurn,
    UsedBytes,
    Pruned,
    RaiseBudget,
    TakeShare,
    ReturnShares,
    DueHooks,
    ClaimHook,
    MoveHook,
    Hook,
    RewindHook,
    AppendAudit,
    Audit,
}

/// What goes wrong in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens; the caller gets an error of this kind.
    Refuse(DbErrorKind),
    /// It happens, but the caller gets `OutcomeUnknown`.
    LoseReply,
}

/// Called before every call to decide whether it goes wrong. Must return at once and must not call the store.
pub type Faults = Arc<dyn Fn(Operation) -> Option<Fault> + Send + Sync>;

/// A store that forgets everything with its last clone.
///
/// ```
/// use outlive_core::port::Db;
/// use outlive_db::InMemoryDb;
///
/// assert_eq!(InMemoryDb::new().location(), "memory");
/// ```
#[derive(Clone)]
pub struct InMemoryDb {
    shared: Arc<Mutex<Shared>>,
    process: Arc<Process>,
}

/// One process's view of the store: what clones share.
struct Process {
    number: usize,
    faults: Mutex<Option<Faults>>,
    health: Mutex<Health>,
    others: Mutex<Others>,
}

struct Shared {
    tables: Tables,
    processes: usize,
    watchers: Vec<(usize, Watcher)>,
}

impl Default for InMemoryDb {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for InMemoryDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemoryDb").field("process", &self.process.number).finish_non_exhaustive()
    }
}

impl InMemoryDb {
    /// An empty store.
    pub fn new() -> Self {
        let shared = Shared { tables: Tables::default(), processes: 1, watchers: Vec::new() };
        Self { shared: Arc::new(Mutex::new(shared)), process: Process::numbered(0) }
    }

    /// The same data as another process would see it: what one does is [`News`] to the other's watchers. Clones belong
    /// to the process they were cloned from.
    pub fn another_process(&self) -> Self {
        let mut shared = lock(&self.shared);
        let number = shared.processes;
        shared.processes += 1;
        Self { shared: self.shared.clone(), process: Process::numbered(number) }
    }

    /// Calls `faults` before every later call of this process and its clones.
    #[cfg(feature = "testing")]
    pub fn faults(&self, faults: Faults) {
        *lock(&self.process.faults) = Some(faults);
    }

    /// Reports this as its health from now on, to this process and its clones.
    #[cfg(feature = "testing")]
    pub fn set_health(&self, health: Health) {
        *lock(&self.process.health) = health;
    }

    /// Makes the worker dead at once, as if its process had been killed: its leases are free, its heartbeat is fenced.
    /// `claims` of its runs stay as they are, unlike with `retire`.
    #[cfg(feature = "testing")]
    pub fn crash(&self, worker: &WorkerId) {
        self.telling(|tables| tables.bury(worker));
    }

    /// Lets this much time pass, as far as this process judges whether other workers have fallen silent.
    #[cfg(feature = "testing")]
    pub fn skip(&self, time: Duration) {
        lock(&self.process.others).silence.skip(time);
    }

    /// Runs one method: fault, work, news to the watchers.
    fn operate<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut Tables) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        // The hook is cloned out of its lock so that it may set another hook.
        let faults = lock(&self.process.faults).clone();
        let fault = faults.and_then(|faults| faults(operation));
        if let Some(Fault::Refuse(kind)) = fault {
            return Err(DbError::new(kind, format!("{operation:?} was refused by a fault")));
        }
        let result = self.telling(work);
        match fault {
            Some(Fault::LoseReply) => Err(DbError::new(
                DbErrorKind::OutcomeUnknown,
                format!("the reply to {operation:?} was lost by a fault"),
            )),
            _ => result,
        }
    }

    fn telling<T>(&self, work: impl FnOnce(&mut Tables) -> T) -> T {
        let mut shared = lock(&self.shared);
        let before = shared.tables.changes;
        let result = work(&mut shared.tables);
        let news = std::mem::take(&mut shared.tables.news);
        let has_changed = shared.tables.changes != before;
        let watchers = if has_changed || !news.is_empty() { shared.watchers.clone() } else { Vec::new() };
        drop(shared);
        for (process, watcher) in watchers {
            if process == self.process.number {
                news.iter().for_each(|news| watcher(news.clone()));
            } else if has_changed {
                watcher(News::Anything);
            }
        }
        result
    }
}

impl Process {
    fn numbered(number: usize) -> Arc<Self> {
        Arc::new(Self { number, faults: Mutex::new(None), health: Mutex::default(), others: Mutex::default() })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RunStore for InMemoryDb {
    fn create_run(
        &self,
        access: Access,
        run: NewRun,
        worker: Option<WorkerId>,
    ) -> BoxFuture<'_, Result<Accepted, DbError>> {
        Box::pin(async move { self.operate(Operation::CreateRun, |tables| tables.create_run(&access, run, worker)) })
    }

    fn run(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>> {
        Box::pin(async move {
            self.operate(Operation::Run, |tables| {
                let row = tables.find(&access, &run_id);
                Ok(row.map(|row| tables.shown(tables.run_by_id[&run_id], row)))
            })
        })
    }

    fn definition(&self, hash: Arc<str>) -> BoxFuture<'_, Result<Option<Arc<str>>, DbError>> {
        Box::pin(
            async move { self.operate(Operation::Definition, |tables| Ok(tables.definitions.get(&hash).cloned())) },
        )
    }

    fn runs(&self, access: Access, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Runs, |tables| tables.list(&access, &filter)) })
    }

    fn unfinished(&self, max: u64) -> BoxFuture<'_, Result<Unfinished, DbError>> {
        Box::pin(async move { self.operate(Operation::Unfinished, |tables| Ok(tables.unfinished(max))) })
    }

    fn heartbeat(&self, worker: WorkerId, at: Timestamp, period: Duration) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            self.operate(Operation::Heartbeat, |tables| {
                tables.heartbeat(&mut lock(&self.process.others), worker, at, period)
            })
        })
    }

    fn retire(&self, worker: WorkerId, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            self.operate(Operation::Retire, |tables| {
                tables.retire(&worker, at);
                Ok(())
            })
        })
    }

    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, DbError>> {
        Box::pin(async move {
            self.operate(Operation::Claim, |tables| tables.claim(&mut lock(&self.process.others), &claim))
        })
    }

    fn claim_run(
        &self,
        run_id: RunId,
        worker: WorkerId,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        Box::pin(async move {
            self.operate(Operation::ClaimRun, |tables| {
                tables.claim_run(&mut lock(&self.process.others), &run_id, &worker, at)
            })
        })
    }

    fn reclaim(&self, lost: Lease, at: Timestamp) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        Box::pin(async move { self.operate(Operation::Reclaim, |tables| tables.reclaim(&lost, at)) })
    }

    fn request_cancel(
        &self,
        access: Access,
        run_id: RunId,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Cancelled, DbError>> {
        Box::pin(async move {
            self.operate(Operation::RequestCancel, |tables| {
                tables.request_cancel(&mut lock(&self.process.others), &access, &run_id, cancel)
            })
        })
    }

    fn held(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, u64)>, DbError>> {
        Box::pin(async move { self.operate(Operation::Held, |tables| Ok(tables.held(&worker))) })
    }

    fn cancels(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, CancelIntent)>, DbError>> {
        Box::pin(async move { self.operate(Operation::Cancels, |tables| Ok(tables.cancels(&worker))) })
    }

    fn steering(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<Run>, DbError>> {
        Box::pin(async move {
            self.operate(Operation::Steering, |tables| {
                let steering = tables.steering(&run_id);
                Ok(steering.iter().map(|seq| tables.runs[seq].run.clone()).collect())
            })
        })
    }

    fn workers(&self, counted: Option<Access>) -> BoxFuture<'_, Result<Vec<LivingWorker>, DbError>> {
        Box::pin(async move { self.operate(Operation::Workers, |tables| Ok(tables.living_workers(counted.as_ref()))) })
    }
}

impl LogStore for InMemoryDb {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move { self.operate(Operation::Commit, |tables| tables.commit(commit)) })
    }

    fn read(
        &self,
        access: Access,
        run_id: RunId,
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Page>, DbError>> {
        Box::pin(
            async move { self.operate(Operation::Read, |tables| Ok(tables.read(&access, &run_id, from, bytes_max))) },
        )
    }
}

impl SessionStore for InMemoryDb {
    fn session(&self, access: Access, session_id: SessionId) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        Box::pin(async move {
            let read = |tables: &mut Tables| Ok(tables.session(&access, &session_id).map(|row| row.session.clone()));
            self.operate(Operation::Session, read)
        })
    }

    fn sessions(&self, access: Access, filter: SessionFilter) -> BoxFuture<'_, Result<SessionPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Sessions, |tables| Ok(tables.list_sessions(&access, &filter))) })
    }

    fn create_session(&self, access: Access, session: NewSession) -> BoxFuture<'_, Result<Session, DbError>> {
        Box::pin(
            async move { self.operate(Operation::CreateSession, |tables| tables.create_session(&access, session)) },
        )
    }

    fn update_session(
        &self,
        access: Access,
        session_id: SessionId,
        patch: SessionPatch,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        Box::pin(async move {
            let update = |tables: &mut Tables| Ok(tables.update_session(&access, &session_id, patch, at));
            self.operate(Operation::UpdateSession, update)
        })
    }

    fn delete_sessions(
        &self,
        access: Access,
        session_ids: Vec<SessionId>,
        force: bool,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        Box::pin(async move {
            self.operate(Operation::DeleteSessions, |tables| tables.delete_sessions(&access, session_ids, force))
        })
    }
}

impl Db for InMemoryDb {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn open(&self) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn health(&self) -> Health {
        *lock(&self.process.health)
    }

    fn watch(&self, watcher: Watcher) {
        lock(&self.shared).watchers.push((self.process.number, watcher));
    }
}

/// The data. Runs are numbered in the order in which they were accepted.
#[derive(Default)]
struct Tables {
    runs: BTreeMap<u64, RunRow>,
    accepted: u64,
    run_by_id: BTreeMap<RunId, u64>,
    run_by_key: BTreeMap<Arc<str>, u64>,
    unfinished: BTreeSet<u64>,
    /// By their hash.
    definitions: BTreeMap<Arc<str>, Arc<str>>,
    sessions: BTreeMap<SessionId, SessionRow>,
    sessions_created: u64,
    batches: Batches,
    budgets: Budgets,
    rates: Rates,
    questions: Questions,
    schedules: Schedules,
    retention: retention::Scopes,
    /// By the number of their run.
    hooks: BTreeMap<u64, HookRow>,
    open_hooks: BTreeSet<u64>,
    audit: Vec<AuditRecord>,
    workers: BTreeMap<WorkerId, Worker>,
    /// Counts the changes that another process would notice.
    changes: u64,
    /// What this call did that others in its process want to hear about.
    news: Vec<News>,
}

struct RunRow {
    run: Run,
    idempotency_key: Option<Arc<str>>,
    fingerprint: Arc<str>,
    policy: SessionPolicy,
    /// Whether it was let in under its limit; without a limit, always.
    has_place: bool,
    /// By their first index.
    pages: BTreeMap<u64, Page>,
}

struct SessionRow {
    /// Its place in the order of creation.
    seq: u64,
    session: Session,
    unfinished: BTreeSet<u64>,
}

struct Worker {
    good_until: Timestamp,
    period: Duration,
    beats: i64,
    is_dead: bool,
    workflows: Option<Arc<[DefinitionId]>>,
}

/// What one process has seen of other workers.
#[derive(Default)]
struct Others {
    silence: Silence<WorkerId>,
    /// The lease period of its own workers; none when it has none.
    period: Option<Duration>,
}

impl Tables {
    fn find(&self, access: &Access, run_id: &RunId) -> Option<&RunRow> {
        let row = self.run_by_id.get(run_id).and_then(|seq| self.runs.get(seq));
        row.filter(|row| access.sees(row.run.info.user_id.as_deref()))
    }

    fn row(&mut self, seq: u64) -> &mut RunRow {
        self.runs.get_mut(&seq).expect("a row goes together with everything that names it")
    }

    fn create_run(&mut self, access: &Access, new: NewRun, worker: Option<WorkerId>) -> Result<Accepted, DbError> {
        rules::check_owner(access, &new, None)?;
        rules::check_first(&new)?;
        let tick = new.start.tick.clone();
        tick.iter().try_for_each(|tick| self.check_due(tick))?;
        let by_key = new.idempotency_key.as_ref().and_then(|key| self.run_by_key.get(key));
        if let Some(seq) = by_key.or_else(|| self.run_by_id.get(&new.info.run_id)) {
            let row = &self.runs[seq];
            let earlier = Earlier {
                run_id: row.run.info.run_id.clone(),
                user_id: row.run.info.user_id.clone(),
                idempotency_key: row.idempotency_key.clone(),
                fingerprint: row.fingerprint.clone(),
            };
            let run_id = rules::repetition(access, &new, earlier)?;
            tick.iter().for_each(|tick| self.take_tick(tick, Some(&run_id), new.at));
            return Ok(Accepted::Existing(run_id));
        }
        let session_id = new.info.session_id.clone();
        let session = self.sessions.get(&session_id);
        rules::check_owner(access, &new, session.map(|row| row.session.user_id.as_deref()))?;
        let is_busy = session.is_some_and(|session| !session.unfinished.is_empty());
        if is_busy && new.policy == SessionPolicy::Reject {
            return Err(rules::session_busy(&session_id));
        }
        let is_behind = is_busy && rules::waits_in_line(new.policy);
        let batch = self.check_item(&new)?;
        let index = new.start.item.as_ref().map_or(0, |item| item.item.index);
        let is_alive = match &worker {
            Some(worker) => !self.workers.get(worker).ok_or_else(|| rules::unknown_worker(worker))?.is_dead,
            None => false,
        };

        let (at, policy, run_id, begins) = (new.at, new.policy, new.info.run_id.clone(), new.start.first.clone());
        let waits = is_behind || rules::waits_to_start(&new.start, at);
        self.ran(&run_id, worker.as_ref());
        if !is_behind && (!is_alive || waits) {
            self.freed(worker.as_ref());
        }
        tick.iter().for_each(|tick| self.take_tick(tick, Some(&new.info.run_id), at));
        if is_behind && policy == SessionPolicy::Interrupt {
            let reason = Arc::from(rules::interrupted_by(&run_id));
            self.interrupt(&session_id, &CancelIntent { at, reason });
        }
        let seq = self.insert(new);
        self.changes += 1;
        batch.into_iter().for_each(|batch| self.enter_batch(batch, index, seq));
        if policy == SessionPolicy::Steer
            && let Some(into) = self.steered_by(seq)
        {
            self.ran(&into, None);
            return Ok(Accepted::Steers { into });
        }
        let lease = worker.filter(|_| is_alive && !waits).map(|worker| self.take(seq, &worker, at).1);
        let has_begun = match (begins, &lease) {
            (Some(first), Some(lease)) => {
                let FirstPage { page, progress, at } = *first;
                let patch = RunPatch { status: Some(RunStatus::Running), progress, ..RunPatch::default() };
                let commit = Commit { lease: lease.clone(), page: Some(page), patch, session: None, at };
                self.commit(commit)?;
                true
            }
            _ => false,
        };
        Ok(Accepted::New { lease, has_begun })
    }

    /// Asks for every unfinished run of a session to be cancelled.
    fn interrupt(&mut self, session_id: &SessionId, intent: &CancelIntent) {
        let unfinished: Vec<u64> = self.sessions[session_id].unfinished.iter().copied().collect();
        unfinished.into_iter().for_each(|seq| self.wish_end(seq, intent));
    }

    fn wish_end(&mut self, seq: u64, intent: &CancelIntent) {
        let run = &mut self.row(seq).run;
        run.updated_at = intent.at;
        run.cancel.get_or_insert_with(|| intent.clone());
        let (run_id, is_free) = (run.info.run_id.clone(), run.worker.is_none());
        self.changes += 1;
        self.ran(&run_id, None);
        if is_free {
            self.freed(None);
        }
    }

    /// The run at the head of its session's line that this one steers.
    fn steered_by(&self, seq: u64) -> Option<RunId> {
        let head = *self.sessions[&self.runs[&seq].run.info.session_id].unfinished.first()?;
        let run = &self.runs[&head].run;
        (self.can_take_in(head, seq) && run.cancel.is_none()).then(|| run.info.run_id.clone())
    }

    fn can_take_in(&self, head: u64, seq: u64) -> bool {
        let (row, head_row) = (&self.runs[&seq], &self.runs[&head]);
        let run = &row.run;
        head < seq
            && row.policy == SessionPolicy::Steer
            && run.status == RunStatus::Pending
            && run.worker.is_none()
            && run.cancel.is_none()
            && run.info.session_id == head_row.run.info.session_id
            && run.info.workflow_id == head_row.run.info.workflow_id
    }

    /// The runs that steer this one, by their numbers.
    fn steering(&self, run_id: &RunId) -> Vec<u64> {
        let Some(&head) = self.run_by_id.get(run_id) else { return Vec::new() };
        let line = &self.sessions[&self.runs[&head].run.info.session_id].unfinished;
        let is_head = line.first() == Some(&head);
        line.iter().copied().filter(|seq| is_head && self.can_take_in(head, *seq)).collect()
    }

    fn insert(&mut self, new: NewRun) -> u64 {
        self.accepted += 1;
        let seq = self.accepted;
        self.run_by_id.insert(new.info.run_id.clone(), seq);
        if let Some(key) = &new.idempotency_key {
            self.run_by_key.insert(key.clone(), seq);
        }
        self.unfinished.insert(seq);
        let run = Run::accepted(&new);
        if let Some(structure) = new.structure {
            self.definitions.entry(new.definition.clone()).or_insert(structure);
        }
        if !self.sessions.contains_key(&new.info.session_id) {
            self.insert_session(NewSession {
                session_id: new.info.session_id.clone(),
                kind: new.session_kind,
                name: None,
                user_id: new.info.user_id.clone(),
                workflow_id: Some(new.info.workflow_id.clone()),
                state: new.session_state.unwrap_or_default(),
                metadata: Map::new(),
                at: new.at,
            });
        }
        if let Some(hook) = new.hook {
            self.insert_hook(seq, new.info.run_id.clone(), hook);
        }
        let session = self.sessions.get_mut(&new.info.session_id).expect("it was there or was made");
        session.unfinished.insert(seq);
        let row = RunRow {
            run,
            idempotency_key: new.idempotency_key,
            fingerprint: new.fingerprint,
            policy: new.policy,
            has_place: new.start.limit.is_none(),
            pages: BTreeMap::new(),
        };
        self.runs.insert(seq, row);
        if let Some(log) = new.start.log {
            self.row(seq).pages = log.pages.into_iter().map(|page| (page.first_index, page)).collect();
            self.patch_questions(seq, QuestionPatch { asked: log.questions, ..QuestionPatch::default() }, new.at);
            log.answer.into_iter().for_each(|answer| self.questions.give(answer, new.at));
        }
        seq
    }

    fn take(&mut self, seq: u64, worker: &WorkerId, at: Timestamp) -> (Run, Lease) {
        self.changes += 1;
        let run = &mut self.row(seq).run;
        run.worker = Some(worker.clone());
        run.epoch += 1;
        run.claims += 1;
        run.attempt += 1;
        run.updated_at = at;
        let lease = Lease { run_id: run.info.run_id.clone(), worker: worker.clone(), epoch: run.epoch };
        (run.clone(), lease)
    }

    fn list(&self, access: &Access, filter: &RunFilter) -> Result<RunPage, DbError> {
        let cursor = rules::parse_cursor(filter)?;
        let after = |cursor: Option<u64>| -> Box<dyn Iterator<Item = (&u64, &RunRow)>> {
            match filter.order {
                Order::NewestFirst => Box::new(self.runs.range(..cursor.unwrap_or(u64::MAX)).rev()),
                Order::OldestFirst => Box::new(self.runs.range(cursor.map_or(0, |cursor| cursor + 1)..)),
            }
        };
        let end = filter.before.as_ref().map_or(u64::MAX, |id| self.run_by_id.get(id).copied().unwrap_or_default());
        let of_batch = filter.batch_id.as_ref().map(|id| self.batches.runs_of(id));
        let is_listed = |run: &Run| {
            let seq = self.run_by_id[&run.info.run_id];
            fits(access, filter, run) && seq < end && of_batch.as_ref().is_none_or(|runs| runs.contains(&seq))
        };
        let has_status = |run: &Run| filter.statuses.is_empty() || filter.statuses.contains(&run.status);
        let mut fitting = after(cursor).filter(|(_, row)| is_listed(&row.run) && has_status(&row.run));
        let shown = |seq: u64, row: &RunRow| {
            let run = self.shown(seq, row);
            if filter.with_payload { run } else { Run { input: None, output: None, ..run } }
        };
        let (mut runs, mut last, mut bytes) = (Vec::new(), None, 0);
        while runs.len() < rules::list_limit(filter)
            && bytes <= rules::LIST_BYTES_MAX
            && let Some((seq, row)) = fitting.next()
        {
            let run = shown(*seq, row);
            bytes += rules::list_bytes(&run);
            runs.push(run);
            last = Some(seq);
        }
        let next = fitting.next().and(last).map(u64::to_string);
        let counts = filter.with_counts.then(|| {
            let most = if rules::are_counts_kept(filter) { u64::MAX } else { COUNT_MAX };
            let mut statuses = after(None).filter(|(_, row)| is_listed(&row.run)).map(|(_, row)| row.run.status);
            let mut counts = RunStatus::ALL.map(|status| (status, 0));
            let mut counted = 0;
            while counted < most
                && let Some(status) = statuses.next()
            {
                counted += 1;
                counts.iter_mut().filter(|(one, _)| *one == status).for_each(|(_, count)| *count += 1);
            }
            let by_status = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            RunCounts { by_status, is_exact: statuses.next().is_none() }
        });
        Ok(RunPage { runs, next, counts, unreadable: Vec::new() })
    }

    fn unfinished(&self, max: u64) -> Unfinished {
        let having = |status| self.runs.values().map(|row| &row.run).filter(move |run| run.status == status);
        let queued = || having(RunStatus::Pending).filter(|run| run.worker.is_none());
        Unfinished {
            queued: max.min(queued().count() as u64),
            queued_since: queued().find(|run| run.due_at.is_none()).map(|run| run.created_at),
            running: max.min(having(RunStatus::Running).count() as u64),
            paused: max.min(having(RunStatus::Paused).count() as u64),
        }
    }

    fn heartbeat(
        &mut self,
        silence: &mut Others,
        worker: WorkerId,
        at: Timestamp,
        period: Duration,
    ) -> Result<(), DbError> {
        silence.period = Some(period);
        self.look_around(silence);
        let good_until = at + period;
        match self.workers.get_mut(&worker) {
            Some(known) if known.is_dead => return Err(rules::dead_worker(&worker)),
            Some(known) => {
                known.good_until = good_until;
                known.beats += 1;
            }
            None => {
                self.workers.insert(worker, Worker { good_until, period, beats: 0, is_dead: false, workflows: None });
            }
        }
        Ok(())
    }

    fn retire(&mut self, worker: &WorkerId, at: Timestamp) {
        self.freed(Some(worker));
        for seq in self.bury(worker) {
            let run = &mut self.row(seq).run;
            run.claims = 0;
            run.updated_at = at;
        }
    }

    /// Declares the worker dead and frees its leases. Returns the runs it held.
    fn bury(&mut self, worker: &WorkerId) -> Vec<u64> {
        let Some(known) = self.workers.get_mut(worker) else {
            return Vec::new();
        };
        known.is_dead = true;
        let is_held = |seq: &u64| self.runs[seq].run.worker.as_ref() == Some(worker);
        let held: Vec<u64> = self.unfinished.iter().copied().filter(is_held).collect();
        for seq in &held {
            self.row(*seq).run.worker = None;
        }
        self.changes += held.len() as u64;
        held
    }

    /// Declares every worker dead that has been silent for its whole lease, but not the one that asks.
    fn bury_silent(&mut self, others: &mut Others, asks: Option<&WorkerId>) {
        self.look_around(others);
        let Some(period) = others.period else { return };
        let is_silent = |(id, worker): &(&WorkerId, &Worker)| {
            !worker.is_dead && asks != Some(*id) && others.silence.of(id) >= period.max(worker.period)
        };
        let silent: Vec<WorkerId> = self.workers.iter().filter(is_silent).map(|(id, _)| id.clone()).collect();
        for worker in silent {
            self.bury(&worker);
        }
    }

    /// Notes which workers have beaten since the last check.
    fn look_around(&self, others: &mut Others) {
        if let Some(period) = others.period {
            let living = self.workers.iter().filter(|(_, worker)| !worker.is_dead);
            others.silence.look(period, living.map(|(id, worker)| (id.clone(), worker.beats)));
        }
    }

    fn ran(&mut self, run_id: &RunId, by: Option<&WorkerId>) {
        self.news.push(News::Run { run_id: run_id.clone(), by: by.cloned() });
    }

    fn freed(&mut self, by: Option<&WorkerId>) {
        self.news.push(News::Free { by: by.cloned() });
    }

    fn check_alive(&self, worker: &WorkerId) -> Result<(), DbError> {
        match self.workers.get(worker) {
            None => Err(rules::unknown_worker(worker)),
            Some(known) if known.is_dead => Err(rules::dead_worker(worker)),
            Some(_) => Ok(()),
        }
    }

    fn is_behind(&self, seq: u64, row: &RunRow) -> bool {
        let session = &self.sessions[&row.run.info.session_id];
        let is_unfinished = session.unfinished.contains(&seq);
        is_unfinished
            && rules::waits_in_line(row.policy)
            && session.unfinished.first().is_some_and(|first| *first < seq)
    }

    fn shown(&self, seq: u64, row: &RunRow) -> Run {
        let is_behind = self.is_behind(seq, row);
        let is_open = matches!(row.run.status, RunStatus::Pending | RunStatus::Running);
        Run { is_behind, awaits_place: !row.has_place && is_open && !is_behind, ..row.run.clone() }
    }

    /// The unfinished runs, the first in line first.
    fn in_line(&self) -> Vec<u64> {
        let mut line: Vec<u64> = self.unfinished.iter().copied().collect();
        line.sort_by_key(|seq| (Reverse(self.runs[seq].run.priority), *seq));
        line
    }

    /// Lets runs of these workflows in under their limits, as far as there are places. Returns when the next one that
    /// waits for a place may be let in at the earliest.
    fn let_in(&mut self, workflows: &[DefinitionId], at: Timestamp) -> Option<Timestamp> {
        let is_open = |run: &Run| matches!(run.status, RunStatus::Pending | RunStatus::Running);
        let mut next_due: Option<Timestamp> = None;
        for seq in self.in_line() {
            let row = &self.runs[&seq];
            let Some(limit) = row.run.limit.clone() else { continue };
            let is_known = workflows.contains(&row.run.info.workflow_id);
            if row.has_place || !is_known || !is_open(&row.run) || self.is_behind(seq, row) {
                continue;
            }
            if let Some(due_at) = row.run.due_at.filter(|due_at| *due_at > at) {
                next_due = Some(next_due.map_or(due_at, |earliest| earliest.min(due_at)));
                continue;
            }
            let others = self.unfinished.iter().map(|seq| &self.runs[seq]);
            let is_placed = |row: &&RunRow| {
                let has_key = row.run.limit.as_ref().is_some_and(|other| other.key == limit.key);
                row.has_place && is_open(&row.run) && has_key
            };
            if others.filter(is_placed).count() < limit.max as usize {
                self.row(seq).has_place = true;
            }
        }
        next_due
    }

    fn claim(&mut self, others: &mut Others, claim: &Claim) -> Result<Claimed, DbError> {
        self.check_alive(&claim.worker)?;
        self.bury_silent(others, Some(&claim.worker));
        if let Some(worker) = self.workers.get_mut(&claim.worker) {
            worker.workflows = Some(claim.workflows.clone());
        }
        let mut next_due = self.time_out(claim.at);
        // More of them than one call may answer.
        let are_late = next_due.is_some_and(|due| due <= claim.at);
        let let_in = self.let_in(&claim.workflows, claim.at);
        let (mut schedules, next_schedule) = self.due_schedules(&claim.workflows, claim.at);
        let are_more_due = schedules.len() > rules::SCHEDULES_TOLD_MAX;
        schedules.truncate(rules::SCHEDULES_TOLD_MAX);
        next_due = [next_due, let_in, next_schedule].into_iter().flatten().min();
        let mut picker = Picker::new(claim);
        for seq in &self.in_line() {
            let row = &self.runs[seq];
            let run = &row.run;
            if run.cancel.is_some() && run.worker.is_none() {
                picker.offer(*seq, run.claims);
                continue;
            }
            let is_known = claim.workflows.contains(&run.info.workflow_id);
            let is_runnable = matches!(run.status, RunStatus::Pending | RunStatus::Running) && run.worker.is_none();
            if !is_known || !is_runnable || !row.has_place || self.is_behind(*seq, row) {
                continue;
            }
            match run.due_at.filter(|due| *due > claim.at) {
                Some(due) if Picker::is_eligible(claim, run.claims) => {
                    next_due = Some(next_due.map_or(due, |earliest: Timestamp| earliest.min(due)));
                }
                Some(_) => {}
                None => drop(picker.offer(*seq, run.claims)),
            }
        }
        let take = |(seq, _): &(u64, u32)| self.take(*seq, &claim.worker, claim.at);
        let runs = picker.picked.iter().map(take).collect();
        Ok(Claimed { runs, schedules, next_due, more: picker.more || are_late || are_more_due })
    }

    fn claim_run(
        &mut self,
        others: &mut Others,
        run_id: &RunId,
        worker: &WorkerId,
        at: Timestamp,
    ) -> Result<Option<(Run, Lease)>, DbError> {
        self.check_alive(worker)?;
        self.bury_silent(others, Some(worker));
        let Some(&seq) = self.run_by_id.get(run_id) else {
            return Ok(None);
        };
        let run = &self.runs[&seq].run;
        if run.status.is_terminal() || run.worker.is_some() {
            return Ok(None);
        }
        Ok(Some(self.take(seq, worker, at)))
    }

    fn reclaim(&mut self, lost: &Lease, at: Timestamp) -> Result<Option<(Run, Lease)>, DbError> {
        self.check_alive(&lost.worker)?;
        let Some(&seq) = self.run_by_id.get(&lost.run_id) else { return Ok(None) };
        let run = &self.runs[&seq].run;
        let is_held = run.worker.as_ref() == Some(&lost.worker) && run.epoch == lost.epoch;
        Ok(is_held.then(|| self.take(seq, &lost.worker, at)))
    }

    fn request_cancel(
        &mut self,
        others: &mut Others,
        access: &Access,
        run_id: &RunId,
        cancel: CancelIntent,
    ) -> Result<Cancelled, DbError> {
        let status = self.find(access, run_id).ok_or_else(|| rules::no_run(run_id))?.run.status;
        let seq = self.run_by_id[run_id];
        if status.is_terminal() {
            return Ok(Cancelled::Already(status));
        }
        self.bury_silent(others, None);
        self.ran(run_id, None);
        self.changes += 1;
        let run = &mut self.row(seq).run;
        run.updated_at = cancel.at;
        run.cancel.get_or_insert(cancel);
        Ok(match run.worker {
            Some(_) => Cancelled::Requested,
            None => Cancelled::Unowned,
        })
    }

    fn held(&self, worker: &WorkerId) -> Vec<(RunId, u64)> {
        let runs = self.unfinished.iter().map(|seq| &self.runs[seq].run);
        let held = runs.filter(|run| run.worker.as_ref() == Some(worker));
        held.map(|run| (run.info.run_id.clone(), run.epoch)).collect()
    }

    fn cancels(&self, worker: &WorkerId) -> Vec<(RunId, CancelIntent)> {
        let runs = self.unfinished.iter().map(|seq| &self.runs[seq].run);
        let held = runs.filter(|run| run.worker.as_ref() == Some(worker));
        held.filter_map(|run| Some((run.info.run_id.clone(), run.cancel.clone()?))).collect()
    }

    fn living_workers(&self, counted: Option<&Access>) -> Vec<LivingWorker> {
        let held = self.unfinished.iter().map(|seq| &self.runs[seq].run);
        let seen: Vec<&Run> =
            held.filter(|run| counted.is_some_and(|access| access.sees(run.info.user_id.as_deref()))).collect();
        let living = self.workers.iter().filter(|(_, worker)| !worker.is_dead);
        let standing = living.map(|(id, worker)| LivingWorker {
            worker: id.clone(),
            good_until: worker.good_until,
            runs: seen.iter().filter(|run| run.worker.as_ref() == Some(id)).count() as u64,
            workflows: worker.workflows.clone(),
            life: Life::Unknown,
        });
        standing.collect()
    }

    fn commit(&mut self, commit: Commit) -> Result<(), DbError> {
        let run_id = &commit.lease.run_id;
        let seq = *self.run_by_id.get(run_id).ok_or_else(|| rules::no_run(run_id))?;
        let run = &self.runs[&seq].run;
        let standing = Standing {
            is_holder: run.worker.as_ref() == Some(&commit.lease.worker),
            epoch: run.epoch,
            status: run.status,
            next_index: run.next_index,
            has_cancel: run.cancel.is_some(),
        };
        rules::admit(&commit, &standing)?;
        let mut taken_in = Vec::with_capacity(commit.patch.taken_in.len());
        for steering in &commit.patch.taken_in {
            let found = self.run_by_id.get(steering).copied().filter(|one| self.can_take_in(seq, *one));
            taken_in.push(found.ok_or_else(|| rules::not_there_to_take_in(steering))?);
        }
        let (session_id, status) = (run.info.session_id.clone(), run.status);
        if !commit.patch.budgets.is_empty() {
            self.change_budgets(&session_id, &commit.patch.budgets, commit.at)?;
        }
        let reason = Arc::from(CancelIntent::taken_in_by(run_id));
        let intent = CancelIntent { at: commit.at, reason };
        taken_in.into_iter().for_each(|one| self.wish_end(one, &intent));

        self.changes += 1;
        let mut patch = commit.patch;
        if let Some(questions) = patch.questions.take() {
            self.patch_questions(seq, *questions, commit.at);
        }
        let wanted = patch.status.unwrap_or(status);
        let has_mail = rules::looks_for_mail(&patch, wanted) && self.has_mail(seq);
        let (status, release) = rules::standing_after(&patch, wanted, has_mail);
        let row = self.row(seq);
        if let Some(page) = commit.page {
            row.run.next_index = page.end();
            row.pages.insert(page.first_index, page);
        }
        let run = &mut row.run;
        run.updated_at = commit.at;
        run.status = status;
        run.progress = patch.progress.or(run.progress.take());
        run.output = patch.output.or(run.output.take());
        if patch.is_progress || release.is_some() {
            run.claims = 0;
        }
        if let Some(release) = release {
            run.worker = None;
            run.due_at = release.due_at;
        }
        let is_over = run.status.is_terminal();
        // Whoever ends or pauses gives up its place.
        let leaves = run.limit.is_some() && (is_over || run.status == RunStatus::Paused);
        row.has_place &= !leaves;
        let run = &mut row.run;
        let is_given_back = release.is_some_and(|release| release.due_at.is_none());
        if is_over {
            run.worker = None;
            run.due_at = None;
            self.unfinished.remove(&seq);
        }
        let session = self.sessions.get_mut(&session_id).expect("a run has a session");
        if is_over {
            session.unfinished.remove(&seq);
        }
        if let Some(patch) = commit.session {
            merge(&mut session.session.state, &patch);
            session.session.version += 1;
            session.session.updated_at = commit.at;
        }
        let opens = is_given_back || leaves || (is_over && !session.unfinished.is_empty());
        self.ran(&commit.lease.run_id, Some(&commit.lease.worker));
        if opens {
            self.freed(Some(&commit.lease.worker));
        }
        Ok(())
    }

    fn read(&self, access: &Access, run_id: &RunId, from: u64, bytes_max: usize) -> Vec<Page> {
        let Some(row) = self.find(access, run_id).filter(|row| from < row.run.next_index) else {
            return Vec::new();
        };
        let first = row.pages.range(..=from).next_back().map_or(0, |(first, _)| *first);
        let mut bytes = 0;
        let fits = |page: &&Page| {
            let is_first = bytes == 0;
            bytes += page.body.len().max(1);
            is_first || bytes <= bytes_max
        };
        row.pages.range(first..).map(|(_, page)| page).take_while(fits).cloned().collect()
    }

    // Sessions.

    fn session(&self, access: &Access, session_id: &SessionId) -> Option<&SessionRow> {
        self.sessions.get(session_id).filter(|row| access.sees(row.session.user_id.as_deref()))
    }

    fn list_sessions(&self, access: &Access, filter: &SessionFilter) -> SessionPage {
        let fits = |row: &&SessionRow| session_fits(access, filter, &row.session);
        let mut rows: Vec<&SessionRow> = self.sessions.values().filter(fits).collect();
        rows.sort_by(|one, two| {
            let (a, b) = (&one.session, &two.session);
            let order = match filter.sort {
                SessionSort::CreatedAt => Ordering::Equal,
                SessionSort::UpdatedAt => a.updated_at.cmp(&b.updated_at),
                SessionSort::Name => a.name.cmp(&b.name),
            };
            order.then(one.seq.cmp(&two.seq))
        });
        if filter.descending {
            rows.reverse();
        }
        let offset = usize::try_from(filter.offset).unwrap_or(usize::MAX);
        let shown = rows.iter().skip(offset).take(rules::session_limit(filter));
        let (total, most) = (rows.len() as u64, rules::session_count_max(filter));
        let is_total_exact = rules::part_of_name(filter).is_none() || total < most;
        SessionPage {
            sessions: shown.map(|row| row.session.clone()).collect(),
            total: if is_total_exact { total } else { most },
            is_total_exact,
            unreadable: Vec::new(),
        }
    }

    fn create_session(&mut self, access: &Access, new: NewSession) -> Result<Session, DbError> {
        if !access.sees(new.user_id.as_deref()) {
            return Err(rules::no_session(&new.session_id));
        }
        if self.sessions.contains_key(&new.session_id) {
            return Err(rules::session_taken(&new.session_id));
        }
        self.changes += 1;
        Ok(self.insert_session(new).clone())
    }

    fn insert_session(&mut self, new: NewSession) -> &Session {
        self.sessions_created += 1;
        let session = Session {
            session_id: new.session_id.clone(),
            kind: new.kind,
            name: new.name,
            state: new.state,
            metadata: new.metadata,
            version: 0,
            user_id: new.user_id,
            workflow_id: new.workflow_id,
            created_at: new.at,
            updated_at: new.at,
        };
        let row = SessionRow { seq: self.sessions_created, session, unfinished: BTreeSet::new() };
        &self.sessions.entry(new.session_id).or_insert(row).session
    }

    fn update_session(
        &mut self,
        access: &Access,
        session_id: &SessionId,
        patch: SessionPatch,
        at: Timestamp,
    ) -> Option<Session> {
        let row = self.sessions.get_mut(session_id)?;
        let session = Some(&mut row.session).filter(|session| access.sees(session.user_id.as_deref()))?;
        self.changes += 1;
        session.name = patch.name.or(session.name.take());
        if let Some(state) = patch.state {
            session.state = state;
        }
        if let Some(metadata) = patch.metadata {
            session.metadata = metadata;
        }
        session.version += 1;
        session.updated_at = at;
        Some(session.clone())
    }

    fn delete_sessions(&mut self, access: &Access, session_ids: Vec<SessionId>, force: bool) -> Result<u64, DbError> {
        let found: BTreeSet<SessionId> =
            session_ids.into_iter().filter(|session_id| self.session(access, session_id).is_some()).collect();
        let busy = found.iter().find(|session_id| !self.sessions[*session_id].unfinished.is_empty());
        if let Some(busy) = busy.filter(|_| !force) {
            return Err(rules::session_in_use(busy));
        }
        self.changes += found.len() as u64;
        let unfinished = found.iter().flat_map(|session_id| &self.sessions[session_id].unfinished);
        let dropped: Vec<RunId> = unfinished.map(|seq| self.runs[seq].run.info.run_id.clone()).collect();
        dropped.iter().for_each(|run_id| self.ran(run_id, None));
        self.sessions.retain(|session_id, _| !found.contains(session_id));
        self.runs.retain(|_, row| !found.contains(&row.run.info.session_id));
        let runs = &self.runs;
        self.run_by_id.retain(|_, seq| runs.contains_key(seq));
        self.unfinished.retain(|seq| runs.contains_key(seq));
        self.delete_what_no_run_has();
        self.delete_budgets();
        self.news.extend((!found.is_empty()).then_some(News::Anything));
        Ok(found.len() as u64)
    }

    /// Deletes what belonged to runs that are gone.
    fn delete_what_no_run_has(&mut self) {
        let runs = &self.runs;
        self.run_by_key.retain(|_, seq| runs.contains_key(seq));
        let referred: BTreeSet<&str> = runs.values().map(|row| &*row.run.definition).collect();
        self.definitions.retain(|hash, _| referred.contains(&**hash));
        self.batches.retain(|seq| runs.contains_key(&seq));
        self.delete_hooks();
        self.delete_questions();
    }
}

/// Whether a run matches the filter, ignoring its status.
fn fits(access: &Access, filter: &RunFilter, run: &Run) -> bool {
    access.sees(run.info.user_id.as_deref())
        && filter.workflow_id.as_ref().is_none_or(|id| *id == run.info.workflow_id)
        && filter.session_id.as_ref().is_none_or(|id| *id == run.info.session_id)
        && filter.user_id.as_ref().is_none_or(|id| run.info.user_id.as_ref() == Some(id))
        && filter.id_prefix.as_ref().is_none_or(|prefix| run.info.run_id.as_str().starts_with(prefix))
        && filter.created_from.is_none_or(|from| run.created_at >= from)
        && filter.created_to.is_none_or(|to| run.created_at < to)
}

fn session_fits(access: &Access, filter: &SessionFilter, session: &Session) -> bool {
    let lower = |text: &str| text.to_ascii_lowercase();
    let is_named = |part: &str| session.name.as_deref().is_some_and(|name| lower(name).contains(&lower(part)));
    access.sees(session.user_id.as_deref())
        && filter.kind.is_none_or(|kind| kind == session.kind)
        && filter.component_id.as_ref().is_none_or(|id| session.workflow_id.as_ref() == Some(id))
        && filter.user_id.as_ref().is_none_or(|id| session.user_id.as_ref() == Some(id))
        && rules::part_of_name(filter).is_none_or(is_named)
}
