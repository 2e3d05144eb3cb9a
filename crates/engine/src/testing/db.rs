//! A store with trouble: its process dies at a chosen entry, or every call is slow.

use outlive_core::port::{
    Accepted, Access, Answering, AuditFilter, AuditPage, AuditRecord, AuditStore, BatchChange, BatchFilter, BatchPage,
    BatchStore, BoxFuture, BudgetFilter, BudgetPage, BudgetRaise, BudgetStore, CancelIntent, Cancelled, Claim, Claimed,
    Commit, Db, DbError, Deleted, DueHooks, Health, Hook, HookHistory, HookMove, HookStore, IdleSessions, ItemFilter,
    ItemPage, Lease, LivingWorker, LogStore, NewAnswer, NewBatch, NewRun, NewSchedule, NewSession, NewStart, NewTick,
    Pruned, QuestionFilter, QuestionPage, QuestionStore, RateStore, RetentionStore, Run, RunFilter, RunPage, RunStore,
    ScheduleChange, ScheduleFilter, SchedulePage, ScheduleStore, Session, SessionFilter, SessionPage, SessionPatch,
    SessionStore, ShareRequest, ShareReturn, Sharing, StoredBatch, StoredBudget, StoredQuestion, StoredSchedule,
    StoredTick, Turn, Unfinished, Watcher,
};
use outlive_core::{Page, RunId, SessionId, Timestamp, WorkerId};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// When, relative to the commit that holds the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The commit does not happen.
    Before,
    /// The commit is durable, but nobody hears of it.
    After,
}

/// A store with one kind of trouble.
pub struct TroubledDb {
    inner: Arc<dyn Db>,
    at: Mutex<Option<(u64, Moment)>>,
    crashed: Notify,
    yields: bool,
}

impl TroubledDb {
    /// Dies at the commit that holds entry `index` of any run: from then on no call is ever answered.
    pub fn crashing(inner: Arc<dyn Db>, index: u64, moment: Moment) -> Arc<Self> {
        Arc::new(Self { inner, at: Mutex::new(Some((index, moment))), crashed: Notify::new(), yields: false })
    }

    /// Yields to everyone else before each call and before each answer, so a caller can be dropped at all of those
    /// points.
    pub fn yielding(inner: Arc<dyn Db>) -> Arc<Self> {
        Arc::new(Self { inner, at: Mutex::default(), crashed: Notify::new(), yields: true })
    }

    /// A call, and what this store puts in its way.
    fn pass<'a, T: Send + 'a>(&self, call: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        if !self.yields {
            return call;
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            let answer = call.await;
            tokio::task::yield_now().await;
            answer
        })
    }

    /// Waits for the crash.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// Whether it has still to die, at a commit: what a run says first is one then, and not part of its creation.
    fn may_crash(&self) -> bool {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn crash_at(&self, page: Option<&Page>) -> Option<Moment> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let (index, moment) = (*at)?;
        let page = page?;
        (page.first_index..page.end()).contains(&index).then(|| {
            *at = None;
            moment
        })
    }
}

impl RunStore for TroubledDb {
    fn create_run(
        &self,
        access: Access,
        run: NewRun,
        worker: Option<WorkerId>,
    ) -> BoxFuture<'_, Result<Accepted, DbError>> {
        let first = run.start.first.filter(|_| !self.may_crash());
        let run = NewRun { start: NewStart { first, ..run.start }, ..run };
        self.pass(self.inner.create_run(access, run, worker))
    }
    fn run(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<Run>, DbError>> {
        self.pass(self.inner.run(access, run_id))
    }
    fn runs(&self, access: Access, filter: RunFilter) -> BoxFuture<'_, Result<RunPage, DbError>> {
        self.pass(self.inner.runs(access, filter))
    }
    fn definition(&self, hash: Arc<str>) -> BoxFuture<'_, Result<Option<Arc<str>>, DbError>> {
        self.pass(self.inner.definition(hash))
    }
    fn unfinished(&self, max: u64) -> BoxFuture<'_, Result<Unfinished, DbError>> {
        self.pass(self.inner.unfinished(max))
    }
    fn heartbeat(&self, worker: WorkerId, at: Timestamp, period: Duration) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.heartbeat(worker, at, period))
    }
    fn retire(&self, worker: WorkerId, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.retire(worker, at))
    }
    fn claim(&self, claim: Claim) -> BoxFuture<'_, Result<Claimed, DbError>> {
        self.pass(self.inner.claim(claim))
    }
    fn claim_run(
        &self,
        run_id: RunId,
        worker: WorkerId,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        self.pass(self.inner.claim_run(run_id, worker, at))
    }
    fn request_cancel(
        &self,
        access: Access,
        run_id: RunId,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Cancelled, DbError>> {
        self.pass(self.inner.request_cancel(access, run_id, cancel))
    }
    fn reclaim(&self, lost: Lease, at: Timestamp) -> BoxFuture<'_, Result<Option<(Run, Lease)>, DbError>> {
        self.pass(self.inner.reclaim(lost, at))
    }
    fn held(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, u64)>, DbError>> {
        self.pass(self.inner.held(worker))
    }
    fn cancels(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<(RunId, CancelIntent)>, DbError>> {
        self.pass(self.inner.cancels(worker))
    }
    fn steering(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<Run>, DbError>> {
        self.pass(self.inner.steering(run_id))
    }
    fn workers(&self, counted: Option<Access>) -> BoxFuture<'_, Result<Vec<LivingWorker>, DbError>> {
        self.pass(self.inner.workers(counted))
    }
}

impl LogStore for TroubledDb {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            match self.crash_at(commit.page.as_ref()) {
                None => return self.pass(self.inner.commit(commit)).await,
                Some(Moment::Before) => {}
                Some(Moment::After) => self.inner.commit(commit).await?,
            }
            self.crashed.notify_one();
            std::future::pending().await
        })
    }
    fn read(
        &self,
        access: Access,
        run_id: RunId,
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'_, Result<Vec<Page>, DbError>> {
        self.pass(self.inner.read(access, run_id, from, bytes_max))
    }
}

impl SessionStore for TroubledDb {
    fn session(&self, access: Access, session_id: SessionId) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        self.pass(self.inner.session(access, session_id))
    }
    fn sessions(&self, access: Access, filter: SessionFilter) -> BoxFuture<'_, Result<SessionPage, DbError>> {
        self.pass(self.inner.sessions(access, filter))
    }
    fn create_session(&self, access: Access, session: NewSession) -> BoxFuture<'_, Result<Session, DbError>> {
        self.pass(self.inner.create_session(access, session))
    }
    fn update_session(
        &self,
        access: Access,
        session_id: SessionId,
        patch: SessionPatch,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Session>, DbError>> {
        self.pass(self.inner.update_session(access, session_id, patch, at))
    }
    fn delete_sessions(
        &self,
        access: Access,
        session_ids: Vec<SessionId>,
        force: bool,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        self.pass(self.inner.delete_sessions(access, session_ids, force))
    }
}

impl BudgetStore for TroubledDb {
    fn budgets(&self, access: Access, filter: BudgetFilter) -> BoxFuture<'_, Result<BudgetPage, DbError>> {
        self.pass(self.inner.budgets(access, filter))
    }
    fn raise_budget(
        &self,
        access: Access,
        raise: BudgetRaise,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBudget>, DbError>> {
        self.pass(self.inner.raise_budget(access, raise, at))
    }
}

impl RateStore for TroubledDb {
    fn take_share(&self, request: ShareRequest) -> BoxFuture<'_, Result<Sharing, DbError>> {
        self.pass(self.inner.take_share(request))
    }
    fn return_shares(
        &self,
        key: Arc<str>,
        holder: Arc<str>,
        returned: Vec<ShareReturn>,
    ) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.return_shares(key, holder, returned))
    }
}

impl QuestionStore for TroubledDb {
    fn answer(
        &self,
        access: Access,
        answers: Vec<NewAnswer>,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Answering, DbError>> {
        self.pass(self.inner.answer(access, answers, at))
    }
    fn question(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredQuestion>, DbError>> {
        self.pass(self.inner.question(access, id))
    }
    fn questions(&self, access: Access, filter: QuestionFilter) -> BoxFuture<'_, Result<QuestionPage, DbError>> {
        self.pass(self.inner.questions(access, filter))
    }
    fn inbox(&self, run_id: RunId) -> BoxFuture<'_, Result<Vec<StoredQuestion>, DbError>> {
        self.pass(self.inner.inbox(run_id))
    }
    fn mail(&self, worker: WorkerId) -> BoxFuture<'_, Result<Vec<RunId>, DbError>> {
        self.pass(self.inner.mail(worker))
    }
}

impl ScheduleStore for TroubledDb {
    fn create_schedule(&self, access: Access, schedule: NewSchedule) -> BoxFuture<'_, Result<StoredSchedule, DbError>> {
        self.pass(self.inner.create_schedule(access, schedule))
    }
    fn schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        self.pass(self.inner.schedule(access, id))
    }
    fn schedules(&self, access: Access, filter: ScheduleFilter) -> BoxFuture<'_, Result<SchedulePage, DbError>> {
        self.pass(self.inner.schedules(access, filter))
    }
    fn change_schedule(
        &self,
        access: Access,
        id: Arc<str>,
        change: ScheduleChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        self.pass(self.inner.change_schedule(access, id, change, at))
    }
    fn delete_schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<bool, DbError>> {
        self.pass(self.inner.delete_schedule(access, id))
    }
    fn tick(&self, tick: NewTick, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.tick(tick, at))
    }
    fn ticks(
        &self,
        access: Access,
        id: Arc<str>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredTick>, DbError>> {
        self.pass(self.inner.ticks(access, id, before, limit))
    }
}

impl RetentionStore for TroubledDb {
    fn run_sizes(&self, access: Access, run_ids: Vec<RunId>) -> BoxFuture<'_, Result<Vec<Option<u64>>, DbError>> {
        self.pass(self.inner.run_sizes(access, run_ids))
    }
    fn delete_runs(
        &self,
        access: Access,
        run_ids: Vec<RunId>,
        scope: Option<Arc<str>>,
    ) -> BoxFuture<'_, Result<Deleted, DbError>> {
        self.pass(self.inner.delete_runs(access, run_ids, scope))
    }
    fn delete_batches(
        &self,
        access: Access,
        ids: Vec<Arc<str>>,
        before: Timestamp,
    ) -> BoxFuture<'_, Result<u64, DbError>> {
        self.pass(self.inner.delete_batches(access, ids, before))
    }

    fn delete_idle_sessions(&self, before: Timestamp, from: u64) -> BoxFuture<'_, Result<IdleSessions, DbError>> {
        self.pass(self.inner.delete_idle_sessions(before, from))
    }
    fn take_turn(&self, turn: Turn) -> BoxFuture<'_, Result<bool, DbError>> {
        self.pass(self.inner.take_turn(turn))
    }
    fn used_bytes(&self) -> BoxFuture<'_, Result<u64, DbError>> {
        self.pass(self.inner.used_bytes())
    }
    fn pruned(&self) -> BoxFuture<'_, Result<Vec<Pruned>, DbError>> {
        self.pass(self.inner.pruned())
    }
}

impl BatchStore for TroubledDb {
    fn create_batch(&self, access: Access, batch: NewBatch) -> BoxFuture<'_, Result<StoredBatch, DbError>> {
        self.pass(self.inner.create_batch(access, batch))
    }
    fn batch(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        self.pass(self.inner.batch(access, id))
    }
    fn batches(&self, access: Access, filter: BatchFilter) -> BoxFuture<'_, Result<BatchPage, DbError>> {
        self.pass(self.inner.batches(access, filter))
    }
    fn change_batch(
        &self,
        access: Access,
        id: Arc<str>,
        change: BatchChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBatch>, DbError>> {
        self.pass(self.inner.change_batch(access, id, change, at))
    }
    fn batch_items(
        &self,
        access: Access,
        id: Arc<str>,
        filter: ItemFilter,
    ) -> BoxFuture<'_, Result<ItemPage, DbError>> {
        self.pass(self.inner.batch_items(access, id, filter))
    }
    fn cancel_items(
        &self,
        access: Access,
        id: Arc<str>,
        from: u64,
        limit: u32,
        cancel: CancelIntent,
    ) -> BoxFuture<'_, Result<Option<u64>, DbError>> {
        self.pass(self.inner.cancel_items(access, id, from, limit, cancel))
    }
}

impl HookStore for TroubledDb {
    fn due_hooks(&self, at: Timestamp, limit: u32) -> BoxFuture<'_, Result<DueHooks, DbError>> {
        self.pass(self.inner.due_hooks(at, limit))
    }
    fn claim_hook(
        &self,
        run_id: RunId,
        at: Timestamp,
        period: Duration,
    ) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        self.pass(self.inner.claim_hook(run_id, at, period))
    }
    fn move_hook(&self, step: HookMove) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.move_hook(step))
    }
    fn hook(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<HookHistory>, DbError>> {
        self.pass(self.inner.hook(access, run_id))
    }
    fn rewind_hook(&self, access: Access, run_id: RunId, from: u64) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        self.pass(self.inner.rewind_hook(access, run_id, from))
    }
}

impl AuditStore for TroubledDb {
    fn append_audit(&self, records: Vec<AuditRecord>) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.append_audit(records))
    }
    fn audit(&self, access: Access, filter: AuditFilter) -> BoxFuture<'_, Result<AuditPage, DbError>> {
        self.pass(self.inner.audit(access, filter))
    }
}

impl Db for TroubledDb {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn open(&self) -> BoxFuture<'_, Result<(), DbError>> {
        self.pass(self.inner.open())
    }
    fn health(&self) -> Health {
        self.inner.health()
    }
    fn watch(&self, watcher: Watcher) {
        self.inner.watch(watcher);
    }
}
