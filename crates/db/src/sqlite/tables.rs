//! The port's writing methods as statements. Every method runs inside a transaction that the writer opens and ends.
//!
//! The invariant: a method that refuses has written nothing, so the others of its transaction are undisturbed. (One
//! exception refuses *because* of what it wrote: a heartbeat that finds its own process declared gone.)

use super::batches::Place;
use super::counts::Changes;
use super::failure::Fail;
use super::presence::Lost;
use super::rows::{self, count, due_column, first, id, int, kind_column, status_column, value};
use super::schema::Sql;
use super::statements::Statements;
use super::workers::Locks;
use crate::rules::{self, Earlier, Picker, Standing};
use crate::silence::Silence;
use outlive_core::port::{
    Accepted, Access, CancelIntent, Cancelled, Claim, Claimed, Commit, DbError, DbErrorKind, Lease, Life, NewRun,
    NewSession, News, QuestionPatch, Run, Session, SessionPatch, SessionPolicy, merge,
};
use outlive_core::{DefinitionId, RunId, RunStatus, SessionId, Timestamp, WorkerId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row, params};
use serde_json::{Map, Value};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The write connection and what it remembers.
pub(super) struct Tables<'c> {
    connection: &'c Connection,
    statements: Statements<'c>,
    sql: Arc<Sql>,
    locks: Locks,
    /// Numbers of workers, which never change. Forgotten with a rollback, which may undo one.
    numbers: HashMap<WorkerId, i64>,
    /// Which workflows workers have said they execute. Forgotten likewise.
    told: HashMap<i64, Arc<[DefinitionId]>>,
    /// How long other workers have been silent.
    silence: Silence<i64>,
    /// The lease period of this handle's own workers; none when it has no worker, and then it judges nobody by silence.
    period: Option<Duration>,
    /// What this transaction did that others in this process want to hear about.
    news: Vec<News>,
    /// Workers that this transaction declared dead. Their files go once that is durable: a worker that lives without one
    /// would be taken for another machine's.
    buried: Vec<WorkerId>,
    /// What it did that is counted.
    changes: Changes,
}

/// The epoch of a lease that comes with its run.
const FIRST_EPOCH: u64 = 1;

/// What a run has for its place: none goes before it; an earlier one of its session does; one does, and may take it in;
/// or it has not been let in under its limit.
const FREE: i64 = 0;
const BEHIND: i64 = 1;
const STEERING: i64 = 2;
pub(super) const AWAITING: i64 = 3;

/// A worker's row.
#[derive(Clone, Copy)]
struct Worker {
    seq: i64,
    is_dead: bool,
}

/// A worker that has not been declared dead.
struct Living {
    seq: i64,
    worker: WorkerId,
    good_until: i64,
}

/// A session's number and its owner.
struct Owned {
    seq: i64,
    user_id: Option<Arc<str>>,
}

/// What is there already when a run is to be accepted.
#[derive(Default)]
struct Surroundings {
    /// A run with its id.
    earlier: Option<Earlier>,
    session: Option<Owned>,
    /// None when there is no such worker.
    is_worker_dead: Option<bool>,
    /// Not remembered from run to run: another process may have deleted it meanwhile.
    has_definition: bool,
}

/// A run's holder and state.
struct Held {
    seq: i64,
    session_seq: i64,
    status: RunStatus,
    epoch: u64,
    worker: Option<i64>,
    next_index: u64,
    has_cancel: bool,
    workflow_id: Arc<str>,
    user_id: Option<Arc<str>>,
    /// Whether it has or needs a place under a limit.
    is_limited: bool,
    /// The number of the batch whose item it is.
    batch: Option<i64>,
}

impl<'c> Tables<'c> {
    pub(super) fn new(connection: &'c Connection, sql: Arc<Sql>, locks: Locks) -> Self {
        let (numbers, told, silence) = (HashMap::new(), HashMap::new(), Silence::default());
        let (news, changes, buried) = (Vec::new(), Changes::default(), Vec::new());
        let statements = Statements::new(connection);
        Self { connection, statements, sql, locks, numbers, told, silence, period: None, news, changes, buried }
    }

    pub(super) fn connection(&self) -> &'c Connection {
        self.connection
    }

    /// Whether other processes can still see that this one is alive.
    pub(super) fn look_at_locks(&self) -> Result<(), Lost> {
        self.locks.look()
    }

    pub(super) fn sql(&self) -> &Sql {
        &self.sql
    }

    /// Must be called when a transaction was committed.
    pub(super) fn committed(&mut self) {
        for worker in std::mem::take(&mut self.buried) {
            self.locks.remove(&worker);
        }
    }

    /// Must be called when a transaction was rolled back.
    pub(super) fn forget(&mut self) {
        self.buried.clear();
        self.numbers.clear();
        self.told.clear();
        self.news.clear();
        self.changes.clear();
    }

    /// Must be called before a transaction is committed.
    pub(super) fn write_counts(&mut self) -> Result<(), rusqlite::Error> {
        self.changes.write(self.connection, &self.sql.counts)
    }

    /// What the transactions since the last call did.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// What this transaction did that is counted.
    pub(super) fn changes(&mut self) -> &mut Changes {
        &mut self.changes
    }

    pub(super) fn changed(&self) -> &Changes {
        &self.changes
    }

    pub(super) fn ran(&mut self, run_id: &RunId, by: Option<&WorkerId>) {
        self.news.push(News::Run { run_id: run_id.clone(), by: by.cloned() });
    }

    /// Whoever knows how a run ended asks again whether it is there.
    pub(super) fn deleted(&mut self) {
        self.news.push(News::Anything);
    }

    /// Once is enough for everything one transaction frees.
    pub(super) fn freed(&mut self, by: Option<&WorkerId>) {
        let news = News::Free { by: by.cloned() };
        if !self.news.contains(&news) {
            self.news.push(news);
        }
    }

    /// Lets this much time pass for those that watch others.
    #[cfg(feature = "testing")]
    pub(super) fn skip(&mut self, time: Duration) {
        self.silence.skip(time);
    }

    pub(super) fn execute(&self, sql: &str, params: impl Params) -> Result<(), Fail> {
        self.statements.with(sql, |statement| Ok(statement.execute(params).map(drop)?))
    }

    pub(super) fn execute_and_number(&self, sql: &str, params: impl Params) -> Result<i64, Fail> {
        self.statements.with(sql, |statement| Ok(statement.insert(params)?))
    }

    // Workers.

    fn number(&mut self, worker: &WorkerId) -> Result<Option<i64>, Fail> {
        if let Some(&seq) = self.numbers.get(worker) {
            return Ok(Some(seq));
        }
        let found = value(self.connection, &self.sql.worker_by_id, [worker.as_str()])?;
        if let Some(seq) = found {
            self.numbers.insert(worker.clone(), seq);
        }
        Ok(found)
    }

    fn worker(&mut self, worker: &WorkerId) -> Result<Option<Worker>, Fail> {
        let Some(seq) = self.number(worker)? else { return Ok(None) };
        let is_dead = value(self.connection, &self.sql.worker_is_dead, [seq])?.unwrap_or(true);
        Ok(Some(Worker { seq, is_dead }))
    }

    fn living_worker(&mut self, worker: &WorkerId) -> Result<i64, Fail> {
        match self.worker(worker)? {
            None => Err(rules::unknown_worker(worker).into()),
            Some(known) if known.is_dead => Err(rules::dead_worker(worker).into()),
            Some(known) => Ok(known.seq),
        }
    }

    pub(super) fn heartbeat(&mut self, worker: &WorkerId, at: Timestamp, period: Duration) -> Result<(), Fail> {
        self.period = Some(period);
        self.look_around()?;
        let good_until = at + period;
        match self.worker(worker)? {
            None => self.register(worker, good_until, period),
            Some(known) if known.is_dead => {
                self.locks.remove(worker);
                Err(rules::dead_worker(worker).into())
            }
            Some(known) if self.locks.life(worker) == Life::Gone => {
                self.bury(known.seq, worker)?;
                Err(rules::dead_worker(worker).into())
            }
            Some(known) => self.execute(&self.sql.renew_worker, params![known.seq, good_until.as_micros()]),
        }
    }

    fn register(&mut self, worker: &WorkerId, good_until: Timestamp, period: Duration) -> Result<(), Fail> {
        // When another handle has the lock, that handle's process is alive, which is all the lock has to show.
        self.locks.take(worker, period).map_err(|error| {
            let message = format!("cannot lock a file for worker {worker}: {error}");
            DbError::new(DbErrorKind::Storage, message)
        })?;
        self.execute(&self.sql.insert_worker, params![worker.as_str(), good_until.as_micros()])?;
        let mut statement =
            self.connection.prepare_cached("SELECT worker_id FROM outlive_workers WHERE is_dead = 0")?;
        let mut rows = statement.query([])?;
        let mut living = std::collections::HashSet::new();
        while let Some(row) = rows.next()? {
            living.insert(id(&row.get::<_, Arc<str>>(0)?)?);
        }
        living.extend(self.buried.iter().cloned());
        self.locks.sweep(&living);
        Ok(())
    }

    pub(super) fn retire(&mut self, worker: &WorkerId, at: Timestamp) -> Result<(), Fail> {
        let Some(known) = self.worker(worker)? else {
            return Ok(());
        };
        self.execute(&self.sql.retire_runs, params![known.seq, at.as_micros()])?;
        self.freed(Some(worker));
        self.bury(known.seq, worker)
    }

    /// Declares a worker dead and frees what it holds.
    fn bury(&mut self, seq: i64, worker: &WorkerId) -> Result<(), Fail> {
        self.execute(&self.sql.bury_worker, [seq])?;
        self.execute(&self.sql.free_runs, [seq])?;
        self.execute(&self.sql.forget_workflows, [seq])?;
        self.told.remove(&seq);
        self.buried.push(worker.clone());
        Ok(())
    }

    /// Declares every worker dead whose process is gone or which has been silent for its whole lease, except the one
    /// that asks.
    fn bury_the_dead(&mut self, at: Timestamp, asks: Option<i64>) -> Result<(), Fail> {
        let living = self.look_around()?;
        let others = living.into_iter().filter(|other| Some(other.seq) != asks);
        let dead: Vec<Living> = others.filter(|other| self.is_dead(other, at)).collect();
        dead.iter().try_for_each(|dead| self.bury(dead.seq, &dead.worker))
    }

    fn is_dead(&self, other: &Living, at: Timestamp) -> bool {
        match self.locks.life(&other.worker) {
            Life::Gone => true,
            Life::Lives => self.period.is_some_and(|period| {
                let silence = self.silence.of(&other.seq);
                silence >= period && silence >= self.locks.period(&other.worker).unwrap_or(period)
            }),
            Life::Unknown => other.good_until <= at.as_micros(),
        }
    }

    /// The workers that have not been declared dead; notes which of them have beaten since the last check.
    fn look_around(&mut self) -> Result<Vec<Living>, Fail> {
        let mut living: Vec<Living> = Vec::new();
        {
            let mut statement = self.connection.prepare_cached(&self.sql.living_workers)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let worker = id(&row.get::<_, Arc<str>>(1)?)?;
                living.push(Living { seq: row.get(0)?, worker, good_until: row.get(2)? });
            }
        }
        if let Some(period) = self.period {
            self.silence.look(period, living.iter().map(|one| (one.seq, one.good_until)));
        }
        Ok(living)
    }

    // Runs.

    pub(super) fn create_run(
        &mut self,
        access: &Access,
        new: &NewRun,
        worker: Option<&WorkerId>,
    ) -> Result<Accepted, Fail> {
        rules::check_owner(access, new, None)?;
        rules::check_first(new)?;
        let number = worker.map(|worker| self.number(worker)).transpose()?.flatten();
        let there = self.surroundings(new, number)?;
        let tick = new.start.tick.as_deref().map(|tick| Ok::<_, Fail>((self.due_schedule(tick)?, tick))).transpose()?;
        if let Some(earlier) = self.with_key(new)?.or(there.earlier) {
            let run_id = rules::repetition(access, new, earlier)?;
            if let Some((schedule, tick)) = tick {
                self.take_tick(schedule, tick, Some(&run_id), new.at)?;
            }
            return Ok(Accepted::Existing(run_id));
        }
        let session = there.session;
        rules::check_owner(access, new, session.as_ref().map(|session| session.user_id.as_deref()))?;
        let item = self.batch_place(new)?;
        let session = session.map(|session| session.seq);
        let head = session.map(|session| self.first_unfinished(session)).transpose()?.flatten();
        let is_busy = head.is_some();
        if is_busy && new.policy == SessionPolicy::Reject {
            return Err(rules::session_busy(&new.info.session_id).into());
        }
        let is_behind = is_busy && rules::waits_in_line(new.policy);
        let waits = is_behind || rules::waits_to_start(&new.start, new.at);
        let holder = match worker {
            Some(worker) => {
                let is_dead = there.is_worker_dead.ok_or_else(|| rules::unknown_worker(worker))?;
                number.filter(|_| !is_dead && !waits)
            }
            None => None,
        };

        let (is_steering, interrupts) = match new.policy {
            SessionPolicy::Steer => (is_behind, false),
            SessionPolicy::Interrupt => (false, is_behind),
            SessionPolicy::Queue | SessionPolicy::Reject | SessionPolicy::Parallel => (false, false),
        };
        let mut into = None;
        if let Some(head) = head.filter(|_| is_steering) {
            let columns = params![head, new.info.workflow_id.as_str()];
            into = first(self.connection, &self.sql.steered_by, columns, |row| id(&row.get::<_, Arc<str>>(0)?))?;
        }
        if let Some(session) = session.filter(|_| interrupts) {
            self.interrupt(session, new)?;
        }
        let place = match (is_behind, &new.start.limit) {
            (true, _) if is_steering => STEERING,
            (true, _) => BEHIND,
            (false, Some(_)) => AWAITING,
            (false, None) => FREE,
        };
        self.insert(new, session, (place, item.as_ref()), holder, there.has_definition)?;
        if let Some((schedule, tick)) = tick {
            self.take_tick(schedule, tick, Some(&new.info.run_id), new.at)?;
        }
        self.ran(&new.info.run_id, worker);
        if let Some(into) = into {
            self.ran(&into, None);
            return Ok(Accepted::Steers { into });
        }
        if holder.is_none() && !is_behind {
            self.freed(worker);
        }
        let lease = worker.filter(|_| holder.is_some()).map(|worker| Lease {
            run_id: new.info.run_id.clone(),
            worker: worker.clone(),
            epoch: FIRST_EPOCH,
        });
        let has_begun = lease.is_some() && new.start.first.is_some();
        Ok(Accepted::New { lease, has_begun })
    }

    /// What is asked before anything is written; `number` is the worker's.
    fn surroundings(&self, new: &NewRun, number: Option<i64>) -> Result<Surroundings, Fail> {
        let ids = (new.info.run_id.as_str(), new.info.session_id.as_str());
        let columns = params![ids.0, ids.1, number, &*new.definition];
        let found = self.statements.first(&self.sql.surroundings, columns, |row| {
            let has_request = row.get_ref(3)? != ValueRef::Null;
            let session: Option<i64> = row.get(4)?;
            let user_id = row.get(5)?;
            Ok(Surroundings {
                earlier: has_request.then(|| earlier(row)).transpose()?,
                session: session.map(|seq| Owned { seq, user_id }),
                is_worker_dead: row.get(6)?,
                has_definition: row.get(7)?,
            })
        })?;
        Ok(found.unwrap_or_default())
    }

    fn with_key(&self, new: &NewRun) -> Result<Option<Earlier>, Fail> {
        let Some(key) = &new.idempotency_key else { return Ok(None) };
        first(self.connection, &self.sql.request_by_key, [&**key], earlier)
    }

    fn insert(
        &mut self,
        new: &NewRun,
        session: Option<i64>,
        (place, item): (i64, Option<&Place>),
        holder: Option<i64>,
        has_definition: bool,
    ) -> Result<(), Fail> {
        let (info, at) = (&new.info, new.at.as_micros());
        let session = match session {
            Some(session) => session,
            None => self.insert_session(&NewSession {
                session_id: info.session_id.clone(),
                kind: new.session_kind,
                name: None,
                user_id: info.user_id.clone(),
                workflow_id: Some(info.workflow_id.clone()),
                state: new.session_state.clone().unwrap_or_default(),
                metadata: Map::new(),
                at: new.at,
            })?,
        };
        let (run_id, workflow_id) = (info.run_id.as_str(), info.workflow_id.as_str());
        let claims = i64::from(holder.is_some());
        let user_id = info.user_id.as_deref();
        let start = &new.start;
        let first = start.first.as_deref().filter(|_| holder.is_some());
        let status = if first.is_some() { RunStatus::Running } else { RunStatus::Pending };
        let next_index = first.map_or(start.next_index(), |first| first.page.end());
        let (due_at, next_index) = (due_column(start.due_at), int(next_index));
        let (limit_key, limit_max) =
            (start.limit.as_ref().map(|limit| &*limit.key), start.limit.as_ref().map(|limit| limit.max));
        item.map_or(Ok(()), |item| self.enter_batch(item))?;
        let columns = params![
            run_id,
            session,
            workflow_id,
            place,
            claims,
            holder,
            first.map_or(at, |first| first.at.as_micros()),
            user_id,
            due_at,
            next_index,
            start.priority,
            limit_key,
            limit_max,
            item.map(|item| item.batch),
            item.map(|item| item.item),
            status_column(status),
            first.and_then(|first| first.progress.as_deref()),
        ];
        let seq = self.execute_and_number(&self.sql.insert_run, columns)?;
        let columns = params![
            seq,
            &*info.workflow_name,
            user_id,
            &*new.definition,
            &*new.fingerprint,
            new.idempotency_key.as_deref(),
            at,
            new.options.as_deref(),
            new.input.as_deref(),
        ];
        self.execute(&self.sql.insert_request, columns)?;
        if let Some(structure) = &new.structure
            && !has_definition
        {
            self.execute(&self.sql.insert_definition, params![&*new.definition, seq, &**structure])?;
        }
        if let Some(log) = &start.log {
            for (first_index, count, body) in log.pages.iter().flat_map(|page| page.rows()) {
                self.execute(&self.sql.append, params![seq, int(first_index), count, 0, body])?;
            }
            let patch = QuestionPatch { asked: log.questions.clone(), ..QuestionPatch::default() };
            self.patch_questions(seq, &patch, new.at)?;
            log.answer.iter().try_for_each(|answer| self.give(answer, new.at))?;
        }
        for (first_index, count, body) in first.iter().flat_map(|first| first.page.rows()) {
            self.execute(&self.sql.append, params![seq, int(first_index), count, int(FIRST_EPOCH), body])?;
        }
        self.changes.runs(Arc::from(workflow_id), info.user_id.clone(), status, 1);
        if let Some(item) = item.filter(|_| status != RunStatus::Pending) {
            self.changes.batch(item.batch, RunStatus::Pending, -1);
            self.changes.batch(item.batch, status, 1);
        }
        new.hook.as_ref().map_or(Ok(()), |hook| self.insert_hook(seq, hook))
    }

    /// Workers that execute a run of this session must hear that it is gone, or is to end.
    fn tell_runs_of(&mut self, session: i64) -> Result<(), Fail> {
        let mut unfinished = Vec::new();
        {
            let mut statement = self.connection.prepare_cached(&self.sql.unfinished_of)?;
            let mut rows = statement.query([session])?;
            while let Some(row) = rows.next()? {
                unfinished.push(id(&row.get::<_, Arc<str>>(0)?)?);
            }
        }
        unfinished.iter().for_each(|run_id| self.ran(run_id, None));
        Ok(())
    }

    /// Asks for the session's unfinished runs to be cancelled, for a new one.
    fn interrupt(&mut self, session: i64, new: &NewRun) -> Result<(), Fail> {
        let reason = rules::interrupted_by(&new.info.run_id);
        self.execute(&self.sql.interrupt, params![session, new.at.as_micros(), reason])?;
        self.tell_runs_of(session)?;
        self.freed(None);
        Ok(())
    }

    /// The numbers of the runs that the commit takes in.
    fn taken_in(&self, run_seq: i64, commit: &Commit) -> Result<Vec<i64>, Fail> {
        let find = |run_id: &RunId| {
            let found = value(self.connection, &self.sql.can_take_in, params![run_seq, run_id.as_str()])?;
            found.ok_or_else(|| rules::not_there_to_take_in(run_id).into())
        };
        commit.patch.taken_in.iter().map(find).collect()
    }

    fn first_unfinished(&self, session: i64) -> Result<Option<i64>, Fail> {
        self.statements.first(&self.sql.first_unfinished, [session], |row| Ok(row.get(0)?))
    }

    fn row(&self, run_id: &RunId) -> Result<Option<Held>, Fail> {
        self.statements.first(&self.sql.standing, [run_id.as_str()], |row| {
            Ok(Held {
                seq: row.get(0)?,
                session_seq: row.get(1)?,
                status: rows::status(row.get(2)?)?,
                epoch: count(row.get(3)?)?,
                worker: row.get(4)?,
                next_index: count(row.get(5)?)?,
                has_cancel: row.get(6)?,
                workflow_id: row.get(7)?,
                user_id: row.get(8)?,
                is_limited: row.get(9)?,
                batch: row.get(10)?,
            })
        })
    }

    // Claims.

    pub(super) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Fail> {
        let worker = self.living_worker(&claim.worker)?;
        self.bury_the_dead(claim.at, Some(worker))?;
        self.note_workflows(worker, &claim.workflows)?;
        let mut candidates = Candidates { next_due: self.time_out(claim.at)?, ..Candidates::default() };
        // More of them than one call may answer.
        let are_late = candidates.next_due.is_some_and(|due| due <= claim.at.as_micros());
        let mut workflows: Vec<&str> = claim.workflows.iter().map(|workflow| workflow.as_str()).collect();
        workflows.sort_unstable();
        workflows.dedup();
        let Marks { some_await, some_schedules } = self.to_cancel(claim, &mut candidates)?;
        let mut due_schedules = Vec::new();
        for workflow in workflows {
            if some_await {
                self.let_in(claim.at, workflow, &mut candidates)?;
            }
            if some_schedules {
                let most = rules::SCHEDULES_TOLD_MAX + 1;
                let next = self.due_schedules(workflow, claim.at, most, &mut due_schedules)?;
                next.into_iter().for_each(|next| candidates.wait_for(next));
            }
            self.claimable(claim, workflow, &mut candidates)?;
        }
        due_schedules.sort_unstable();
        let are_more_due = due_schedules.len() > rules::SCHEDULES_TOLD_MAX;
        due_schedules.truncate(rules::SCHEDULES_TOLD_MAX);
        let mut schedules = Vec::with_capacity(due_schedules.len());
        for (_, seq) in due_schedules {
            match self.schedule_by_seq(seq) {
                Ok(schedule) => schedules.extend(schedule),
                // It stays as it is; others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a schedule cannot be followed"),
                Err(fail) => return Err(fail),
            }
        }

        let (picked, more) = candidates.pick(claim);
        let mut runs = Vec::with_capacity(picked.len());
        for seq in picked {
            match self.take(seq, worker, &claim.worker, claim.at) {
                Ok(taken) => runs.push(taken),
                // It stays where it is; others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a run cannot be executed"),
                Err(fail) => return Err(fail),
            }
        }
        let more = more || are_late || are_more_due;
        Ok(Claimed { runs, schedules, next_due: candidates.next_due.map(Timestamp::from_micros), more })
    }

    /// Remembers which workflows a worker executes, so that others can say what a run waits for. Written only when it
    /// changes.
    fn note_workflows(&mut self, worker: i64, workflows: &Arc<[DefinitionId]>) -> Result<(), Fail> {
        if self.told.get(&worker).is_some_and(|told| told == workflows) {
            return Ok(());
        }
        let ids: Vec<&str> = workflows.iter().map(|workflow| workflow.as_str()).collect();
        self.execute(&self.sql.note_workflows, params![worker, ids.join(" ")])?;
        self.told.insert(worker, workflows.clone());
        Ok(())
    }

    /// Runs of one workflow: those due at any time, those whose time has come, and when the next one is due.
    fn claimable(&self, claim: &Claim, workflow: &str, candidates: &mut Candidates) -> Result<(), Fail> {
        let at = claim.at.as_micros();
        let mut statement = self.connection.prepare_cached(&self.sql.ready)?;
        candidates.offer(claim, statement.query(params![workflow])?)?;
        let mut statement = self.connection.prepare_cached(&self.sql.due)?;
        candidates.offer(claim, statement.query(params![workflow, at])?)?;
        let mut statement = self.connection.prepare_cached(&self.sql.not_due)?;
        let mut rows = statement.query(params![workflow, at])?;
        while let Some(row) = rows.next()? {
            if Picker::is_eligible(claim, claims(row)?) {
                candidates.wait_for(row.get(0)?);
                break;
            }
        }
        Ok(())
    }

    /// Runs someone wants cancelled, of any workflow, due or not, paused or behind others. They are few.
    /// Returns what else there is to look for.
    fn to_cancel(&self, claim: &Claim, candidates: &mut Candidates) -> Result<Marks, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.to_cancel)?;
        let mut rows = statement.query([])?;
        let mut picker = Picker::with_one_more(claim);
        let mut marks = Marks::default();
        while let Some(row) = rows.next()? {
            match row.get(0)? {
                Some(seq) => drop(candidates.pick_one(&mut picker, seq, row)?),
                None if row.get::<_, i64>(1)? == 0 => marks.some_await = true,
                None => marks.some_schedules = true,
            }
        }
        Ok(marks)
    }

    /// Lets runs of one workflow in under their limits, as far as there are places.
    fn let_in(&self, at: Timestamp, workflow: &str, candidates: &mut Candidates) -> Result<(), Fail> {
        let keys: Vec<Arc<str>> = {
            let mut statement = self.connection.prepare_cached(&self.sql.limit_keys)?;
            let keys = statement.query_map([workflow], |row| row.get(0))?;
            keys.collect::<Result<_, _>>()?
        };
        for key in keys {
            let mut placed: i64 = value(self.connection, &self.sql.placed, [&*key])?.unwrap_or_default();
            let mut statement = self.connection.prepare_cached(&self.sql.awaiting)?;
            let mut rows = statement.query(params![workflow, &*key])?;
            let mut entering = Vec::new();
            while let Some(row) = rows.next()? {
                let (seq, max, due_at): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if due_at > at.as_micros() {
                    candidates.wait_for(due_at);
                } else if placed < max {
                    entering.push(seq);
                    placed += 1;
                } else {
                    break;
                }
            }
            entering.into_iter().try_for_each(|seq| self.execute(&self.sql.let_in, [seq]))?;
        }
        Ok(())
    }

    fn take(&self, seq: i64, number: i64, worker: &WorkerId, at: Timestamp) -> Result<(Run, Lease), Fail> {
        // The run is read before anything is written, because reading it can fail.
        let run = rows::run_by_seq(self.connection, &self.sql.run_by_seq, seq)?;
        self.execute(&self.sql.take, params![seq, number, at.as_micros()])?;
        let run = Run {
            worker: Some(worker.clone()),
            epoch: run.epoch + 1,
            claims: run.claims + 1,
            attempt: run.attempt + 1,
            updated_at: at,
            ..run
        };
        let lease = Lease { run_id: run.info.run_id.clone(), worker: worker.clone(), epoch: run.epoch };
        Ok((run, lease))
    }

    pub(super) fn claim_run(
        &mut self,
        run_id: &RunId,
        worker: &WorkerId,
        at: Timestamp,
    ) -> Result<Option<(Run, Lease)>, Fail> {
        let number = self.living_worker(worker)?;
        self.bury_the_dead(at, Some(number))?;
        match self.row(run_id)? {
            Some(row) if row.worker.is_none() && !row.status.is_terminal() => {
                self.take(row.seq, number, worker, at).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn reclaim(&mut self, lost: &Lease, at: Timestamp) -> Result<Option<(Run, Lease)>, Fail> {
        let number = self.living_worker(&lost.worker)?;
        match self.row(&lost.run_id)? {
            Some(row) if row.worker == Some(number) && row.epoch == lost.epoch => {
                self.take(row.seq, number, &lost.worker, at).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(super) fn request_cancel(
        &mut self,
        access: &Access,
        run_id: &RunId,
        cancel: &CancelIntent,
    ) -> Result<Cancelled, Fail> {
        let owner: Option<Arc<str>> = value(self.connection, &self.sql.run_owner, [run_id.as_str()])?.flatten();
        if !access.sees(owner.as_deref()) {
            return Err(rules::no_run(run_id).into());
        }
        let row = self.row(run_id)?.ok_or_else(|| rules::no_run(run_id))?;
        if row.status.is_terminal() {
            return Ok(Cancelled::Already(row.status));
        }
        self.bury_the_dead(cancel.at, None)?;
        self.execute(&self.sql.set_cancel, params![row.seq, cancel.at.as_micros(), &*cancel.reason])?;
        let row = self.row(run_id)?.ok_or_else(|| rules::no_run(run_id))?;
        self.ran(run_id, None);
        Ok(match row.worker {
            Some(_) => Cancelled::Requested,
            None => Cancelled::Unowned,
        })
    }

    // Commits.

    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), Fail> {
        let lease = &commit.lease;
        let row = self.row(&lease.run_id)?.ok_or_else(|| rules::no_run(&lease.run_id))?;
        // No need to ask whether the holder was declared dead: that would have freed the run.
        let is_holder = row.worker.is_some() && row.worker == self.number(&lease.worker)?;
        let Held { epoch, status, next_index, has_cancel, .. } = row;
        let standing = Standing { is_holder, epoch, status, next_index, has_cancel };
        rules::admit(commit, &standing)?;
        let taken_in = self.taken_in(row.seq, commit)?;
        // The session is read before anything is written, because reading it can fail.
        let session = commit.session.as_ref().map(|patch| self.merged(row.session_seq, patch)).transpose()?;

        let patch = &commit.patch;
        if !patch.budgets.is_empty() {
            self.change_budgets(row.session_seq, &patch.budgets, commit.at)?;
        }
        if let Some(questions) = &patch.questions {
            self.patch_questions(row.seq, questions, commit.at)?;
        }
        let wanted = patch.status.unwrap_or(row.status);
        let has_mail = rules::looks_for_mail(patch, wanted) && self.has_mail(row.seq)?;
        let (status, release) = rules::standing_after(patch, wanted, has_mail);
        let is_over = status.is_terminal();
        let frees = is_over || release.is_some();
        let next_index = int(commit.page.as_ref().map_or(row.next_index, |page| page.end()));
        let (at, progress) = (commit.at.as_micros(), patch.progress.as_deref());
        let clears_claims = patch.is_progress || release.is_some();
        if status == row.status && !frees {
            self.execute(&self.sql.extend_run, params![row.seq, next_index, at, progress, clears_claims])?;
        } else {
            let due_at = release.filter(|_| !is_over).and_then(|release| release.due_at);
            let due_at = frees.then(|| due_column(due_at));
            let status = status_column(status);
            let columns = params![row.seq, status, next_index, at, progress, clears_claims, frees, due_at];
            self.execute(&self.sql.update_run, columns)?;
        }
        if let Some(page) = &commit.page {
            for (first_index, count, body) in page.rows() {
                let columns = params![row.seq, int(first_index), count, int(lease.epoch), body];
                self.execute(&self.sql.append, columns)?;
            }
        }
        if let Some(output) = &patch.output {
            self.execute(&self.sql.set_output, params![row.seq, &**output])?;
        }
        if let Some(state) = session {
            self.execute(&self.sql.update_session, params![row.session_seq, state, commit.at.as_micros()])?;
        }
        if status != row.status {
            self.changes.runs(row.workflow_id.clone(), row.user_id.clone(), row.status, -1);
            self.changes.runs(row.workflow_id, row.user_id, status, 1);
            if let Some(batch) = row.batch {
                self.changes.batch(batch, row.status, -1);
                self.changes.batch(batch, status, 1);
            }
        }
        for (seq, run_id) in taken_in.into_iter().zip(&patch.taken_in) {
            let reason = CancelIntent::taken_in_by(&lease.run_id);
            self.execute(&self.sql.set_cancel, params![seq, commit.at.as_micros(), reason])?;
            self.ran(run_id, None);
            self.freed(None);
        }
        self.ran(&lease.run_id, Some(&lease.worker));
        // Whoever ends or pauses gives up its place.
        let leaves = row.is_limited && (is_over || status == RunStatus::Paused);
        let mut opens = leaves || release.is_some_and(|release| release.due_at.is_none());
        if is_over && let Some(next) = self.first_unfinished(row.session_seq)? {
            self.execute(&self.sql.next_in_line, [next])?;
            opens = true;
        }
        if opens {
            self.freed(Some(&lease.worker));
        }
        Ok(())
    }

    fn merged(&self, session: i64, patch: &Map<String, Value>) -> Result<String, Fail> {
        let state = first(self.connection, &self.sql.session_by_seq, [session], rows::state)?;
        let mut state = state.ok_or_else(|| rows::damaged(format!("session number {session} is missing")))?;
        merge(&mut state, patch);
        Ok(json(&state))
    }

    // Sessions.

    fn owned(&self, session_id: &SessionId) -> Result<Option<Owned>, Fail> {
        let read = |row: &Row<'_>| Ok(Owned { seq: row.get(0)?, user_id: row.get(1)? });
        first(self.connection, &self.sql.session_owner, [session_id.as_str()], read)
    }

    fn session(&self, access: &Access, session_id: &SessionId) -> Result<Option<Session>, Fail> {
        let columns = params![session_id.as_str(), access.user().map(|user_id| &**user_id)];
        first(self.connection, &self.sql.session, columns, rows::session)
    }

    pub(super) fn create_session(&mut self, access: &Access, new: &NewSession) -> Result<Session, Fail> {
        let session_id = &new.session_id;
        if !access.sees(new.user_id.as_deref()) {
            return Err(rules::no_session(session_id).into());
        }
        if self.owned(session_id)?.is_some() {
            return Err(rules::session_taken(session_id).into());
        }
        self.insert_session(new)?;
        let stored = self.session(access, session_id)?;
        stored.ok_or_else(|| rows::damaged(format!("session {session_id} is not where it was put")))
    }

    fn insert_session(&mut self, new: &NewSession) -> Result<i64, Fail> {
        let columns = params![
            new.session_id.as_str(),
            kind_column(new.kind),
            new.user_id.as_deref(),
            new.workflow_id.as_ref().map(|workflow_id| workflow_id.as_str()),
            new.at.as_micros(),
            new.name.as_deref(),
            json(&new.metadata),
            json(&new.state),
        ];
        let seq = self.execute_and_number(&self.sql.insert_session, columns)?;
        let component_id = new.workflow_id.as_ref().map(|id| Arc::from(id.as_str()));
        self.changes.session(component_id, new.user_id.clone(), kind_column(new.kind), 1);
        Ok(seq)
    }

    pub(super) fn update_session(
        &mut self,
        access: &Access,
        session_id: &SessionId,
        patch: &SessionPatch,
        at: Timestamp,
    ) -> Result<Option<Session>, Fail> {
        let user_id = access.user().map(|user_id| &**user_id);
        // What stays must be readable before anything is written; what is replaced need not be.
        first(self.connection, &self.sql.session, params![session_id.as_str(), user_id], |row| {
            patch.metadata.is_none().then(|| rows::metadata(row)).transpose()?;
            patch.state.is_none().then(|| rows::state(row)).transpose()
        })?;
        let columns = params![
            session_id.as_str(),
            user_id,
            patch.name.as_deref(),
            patch.state.as_ref().map(json),
            patch.metadata.as_ref().map(json),
            at.as_micros(),
        ];
        self.execute(&self.sql.patch_session, columns)?;
        self.session(access, session_id)
    }

    pub(super) fn delete_sessions(
        &mut self,
        access: &Access,
        session_ids: &[SessionId],
        force: bool,
    ) -> Result<u64, Fail> {
        let mut found = BTreeSet::new();
        for session_id in session_ids.iter().collect::<BTreeSet<_>>() {
            let session = self.owned(session_id)?.filter(|session| access.sees(session.user_id.as_deref()));
            let Some(Owned { seq, .. }) = session else { continue };
            if !force && self.first_unfinished(seq)?.is_some() {
                return Err(rules::session_in_use(session_id).into());
            }
            found.insert(seq);
        }
        found.iter().try_for_each(|seq| self.delete_session(*seq))?;
        if !found.is_empty() {
            self.deleted();
        }
        Ok(found.len() as u64)
    }

    /// Deletes a session with all that belongs to it.
    pub(super) fn delete_session(&mut self, seq: i64) -> Result<(), Fail> {
        self.tell_runs_of(seq)?;
        let batches = self.count_out(seq)?;
        let definitions = self.definitions_of(seq)?;
        self.sql.delete_session.iter().try_for_each(|sql| self.execute(sql, [seq]))?;
        for (hash, last) in definitions {
            self.execute(&self.sql.delete_definition, params![&*hash, last])?;
        }
        batches.into_iter().try_for_each(|batch| self.delete_batch_that_is_over(batch).map(drop))?;
        self.delete_what_numbers_could_mean()
    }

    /// The definitions of a session's runs, each with the last run that has it.
    fn definitions_of(&self, session: i64) -> Result<Vec<(Arc<str>, i64)>, Fail> {
        let mut statement = self.connection.prepare_cached(&self.sql.definitions_of)?;
        let found = statement.query_map([session], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// Takes a session and its runs, which are about to be deleted, out of the counts; gives the batches of the runs.
    fn count_out(&mut self, session: i64) -> Result<BTreeSet<i64>, Fail> {
        let mut batches = BTreeSet::new();
        let mut statement = self.connection.prepare_cached(&self.sql.runs_of_counts)?;
        let mut rows = statement.query([session])?;
        while let Some(row) = rows.next()? {
            let batch: Option<i64> = row.get(4)?;
            batches.extend(batch);
            // A run with a damaged status can be deleted all the same.
            if let Ok(status) = rows::status(row.get(2)?) {
                let count: i64 = row.get(3)?;
                self.changes.runs(row.get(0)?, row.get(1)?, status, -count);
                batch.into_iter().for_each(|batch| self.changes.batch(batch, status, -count));
            }
        }
        let mut statement = self.connection.prepare_cached(&self.sql.session_of_counts)?;
        let mut rows = statement.query([session])?;
        while let Some(row) = rows.next()? {
            self.changes.session(row.get(0)?, row.get(1)?, row.get(2)?, -1);
        }
        Ok(batches)
    }
}

/// An earlier request, from a row that begins with its columns.
fn earlier(row: &Row<'_>) -> Result<Earlier, Fail> {
    Ok(Earlier {
        run_id: id(&row.get::<_, Arc<str>>(0)?)?,
        user_id: row.get(1)?,
        idempotency_key: row.get(2)?,
        fingerprint: row.get(3)?,
    })
}

fn json(object: &Map<String, Value>) -> String {
    serde_json::to_string(object).expect("an object with string keys is JSON")
}

/// The claims of a candidate. An invalid number is found when the run itself is read: here it would hold up the others.
fn claims(row: &Row<'_>) -> Result<u32, Fail> {
    Ok(u32::try_from(row.get::<_, i64>(1)?).unwrap_or_default())
}

/// What a claim need not look for when there is none.
#[derive(Clone, Copy, Default)]
struct Marks {
    /// Whether some runs wait for a place under their limit.
    some_await: bool,
    /// Whether some schedules are not paused.
    some_schedules: bool,
}

/// What a claim could take, gathered from several queries.
#[derive(Default)]
struct Candidates {
    /// Priority, accept number and claims.
    found: Vec<(i64, i64, u32)>,
    next_due: Option<i64>,
}

impl Candidates {
    /// Keeps as many of `rows`, which come first in line first, as the claim could take at most, and one more.
    fn offer(&mut self, claim: &Claim, mut rows: rusqlite::Rows<'_>) -> Result<(), Fail> {
        let mut picker = Picker::with_one_more(claim);
        while let Some(row) = rows.next()?
            && self.pick_one(&mut picker, row.get(0)?, row)?
        {}
        Ok(())
    }

    /// Keeps one, if its picker takes it. False when no more can be taken.
    fn pick_one(&mut self, picker: &mut Picker, seq: i64, row: &Row<'_>) -> Result<bool, Fail> {
        let (claims, before) = (claims(row)?, picker.picked.len());
        let goes_on = picker.offer(count(seq)?, claims);
        if picker.picked.len() > before {
            self.found.push((row.get(2)?, seq, claims));
        }
        Ok(goes_on)
    }

    fn wait_for(&mut self, due_at: i64) {
        self.next_due = Some(self.next_due.map_or(due_at, |earliest| earliest.min(due_at)));
    }

    /// What the claim takes, the first in line first, and whether there was more.
    fn pick(&mut self, claim: &Claim) -> (Vec<i64>, bool) {
        self.found.sort_unstable_by_key(|(priority, seq, _)| (Reverse(*priority), *seq));
        self.found.dedup_by_key(|(_, seq, _)| *seq);
        let mut picker = Picker::new(claim);
        for (_, seq, claims) in &self.found {
            if !picker.offer(seq.unsigned_abs(), *claims) {
                break;
            }
        }
        (picker.picked.iter().map(|(seq, _)| int(*seq)).collect(), picker.more)
    }
}
