//! Takes the times at which schedules are due.
//!
//! The look at the store that finds runs tells which schedules are due; nothing else wakes for them. Each time is taken in
//! the transaction that accepts its run, by whoever comes first; the others find it taken. So there is no lease, and a crash
//! at any point leaves a time that is due, or one that was taken with its run. It must never know how a run is accepted.
//! The invariant: of each due time comes one run, or a record of why none does.

use crate::cron::Cron;
use crate::error::Error;
use crate::inner::Inner;
use crate::schedules::{CatchUp, Overlap, ScheduleSpec, owner, read_spec};
use crate::submit::Beginning;
use futures::StreamExt;
use outlive_core::port::{Access, DbErrorKind, NewTick, Order, RunFilter, StoredSchedule, TickOutcome};
use outlive_core::{RunId, RunStatus, SessionId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// How late a time may be taken and is not missed: as long as a process takes to be replaced.
const GRACE: Duration = Duration::from_secs(60);

/// The most times that are caught up with.
const CAUGHT_UP_MAX: usize = 100;

/// How far times that were missed are counted.
const MISSED_COUNTED_MAX: usize = 1_000;

/// The most runs of a schedule that wait for each other.
const QUEUED_MAX: usize = 100;

/// Schedules whose times are taken at once.
const SIDE_BY_SIDE: usize = 128;

/// When to try again with a schedule that this process cannot read, or whose clocks it does not know.
const UNREADABLE_PERIOD: Duration = Duration::from_secs(60);

/// Takes the times of these schedules, which are due. Gives how many of them are not due any more.
pub(crate) async fn take(inner: &Arc<Inner>, due: Vec<StoredSchedule>) -> usize {
    let taking = due.into_iter().map(|schedule| async move {
        let id = schedule.id.clone();
        match take_one(inner, schedule).await {
            Ok(()) => true,
            Err(error) if is_taken(&error) => true,
            Err(error) => {
                tracing::warn!(schedule_id = %id, %error, "a schedule is due and could not be followed yet");
                false
            }
        }
    });
    futures::stream::iter(taking).buffer_unordered(SIDE_BY_SIDE).filter(|done| std::future::ready(*done)).count().await
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Db(error) if error.kind() == DbErrorKind::Fenced)
}

async fn take_one(inner: &Arc<Inner>, schedule: StoredSchedule) -> Result<(), Error> {
    let Some(due_at) = schedule.next_due else { return Ok(()) };
    let now = inner.services.clock.now();
    let read = read_spec(&schedule).and_then(|spec| Ok((spec.times()?, spec)));
    let mut taker = Taker { inner, schedule, due_at };
    match read {
        Ok((times, spec)) => taker.take_all(&spec, &times, now).await,
        Err(problem) => {
            tracing::error!(schedule_id = %taker.schedule.id, error = %problem, "a schedule cannot be followed");
            taker.pass(due_at, now + UNREADABLE_PERIOD, TickOutcome::Failed, problem.to_string()).await
        }
    }
}

/// One schedule while its times are taken.
struct Taker<'a> {
    inner: &'a Arc<Inner>,
    schedule: StoredSchedule,
    /// When it is due as far as it has come.
    due_at: Timestamp,
}

impl Taker<'_> {
    /// Takes what is due by now.
    async fn take_all(&mut self, spec: &ScheduleSpec, times: &Cron, now: Timestamp) -> Result<(), Error> {
        let from = self.due_at;
        let on_time = Timestamp::from_micros(now.as_micros().saturating_sub(GRACE.as_micros().try_into().unwrap_or(0)));
        let is_late = from < on_time;
        let mut kept = match spec.catch_up {
            CatchUp::One if is_late => times.last(from, now, 1),
            CatchUp::All => times.last(from, now, CAUGHT_UP_MAX),
            CatchUp::Skip | CatchUp::One => times.last(from.max(on_time), now, CAUGHT_UP_MAX),
        };
        kept.make_contiguous();
        let after = times
            .next(now)
            .ok_or_else(|| Error::InvalidSchedule { field: "cron", problem: "it never comes again".to_owned() })?;
        let nexts: Vec<Timestamp> = kept.iter().skip(1).copied().chain([after]).collect();
        let first = kept.front().copied();
        if first.is_none_or(|first| from < first) {
            self.miss(times, first, first.unwrap_or(after), now).await?;
        }
        for (due_at, next) in kept.into_iter().zip(nexts) {
            self.run(spec, due_at, next).await?;
        }
        Ok(())
    }

    /// Records that the times before the first one that is kept were missed.
    async fn miss(
        &mut self,
        times: &Cron,
        kept: Option<Timestamp>,
        next: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let from = self.due_at;
        let end = kept.map_or(now, |kept| Timestamp::from_micros(kept.as_micros() - 1));
        let last = times.last(from, end, 1).front().copied().unwrap_or(from);
        let note = match times.count(from, end, MISSED_COUNTED_MAX) {
            0 | 1 => "nobody was there to take it".to_owned(),
            MISSED_COUNTED_MAX => {
                format!(
                    "nobody was there to take it and {MISSED_COUNTED_MAX} or more before, since {}",
                    from.to_rfc3339()
                )
            }
            count => format!("nobody was there to take it and {} before, since {}", count - 1, from.to_rfc3339()),
        };
        self.pass(last, next, TickOutcome::Missed, note).await
    }

    /// Makes a run, unless the one before is in its way.
    async fn run(&mut self, spec: &ScheduleSpec, due_at: Timestamp, next: Timestamp) -> Result<(), Error> {
        if let Some(why) = self.obstacle(spec).await? {
            return self.pass(due_at, next, TickOutcome::Skipped, why).await;
        }
        let workflow_id = &self.schedule.workflow_id;
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = self.inner.newest(workflow_id).ok_or_else(unknown)?;
        let key = format!("schedule:{}:{}", self.schedule.id, due_at.as_micros());
        let submit = spec.submit(&self.schedule, Some(key));
        let tick = Box::new(self.tick(due_at, next, TickOutcome::Ran, None));
        match self.inner.accept(&owner(&self.schedule), &definition, submit, Beginning::Tick(tick)).await {
            Ok(taken) => {
                tracing::info!(schedule_id = %self.schedule.id, run_id = %taken.run_id, "a schedule made a run");
                (self.due_at, self.schedule.last_run) = (next, Some(taken.run_id));
                Ok(())
            }
            Err(error) if is_final(&error) => self.pass(due_at, next, TickOutcome::Failed, error.to_string()).await,
            Err(error) => Err(error),
        }
    }

    /// Takes a time of which no run comes.
    async fn pass(
        &mut self,
        due_at: Timestamp,
        next: Timestamp,
        outcome: TickOutcome,
        note: String,
    ) -> Result<(), Error> {
        tracing::info!(schedule_id = %self.schedule.id, outcome = outcome.as_str(), note, "a schedule made no run");
        let tick = self.tick(due_at, next, outcome, Some(Arc::from(note)));
        self.inner.services.db.tick(tick, self.inner.services.clock.now()).await?;
        self.due_at = next;
        Ok(())
    }

    fn tick(&self, due_at: Timestamp, next_due: Timestamp, outcome: TickOutcome, note: Option<Arc<str>>) -> NewTick {
        let (schedule_id, expected) = (self.schedule.id.clone(), Some(self.due_at));
        NewTick { schedule_id, expected, next_due, due_at, outcome, note }
    }

    /// Why no run is made now, if that is so.
    async fn obstacle(&self, spec: &ScheduleSpec) -> Result<Option<String>, Error> {
        match (spec.overlap, &self.schedule.last_run) {
            (Overlap::Allow, _) | (_, None) => Ok(None),
            (Overlap::Skip, Some(last)) => self.unrested(last).await,
            (Overlap::Queue, Some(_)) => self.overcrowded(spec).await,
        }
    }

    async fn unrested(&self, last: &RunId) -> Result<Option<String>, Error> {
        let found = self.inner.services.db.run_line(Access::All, last.clone()).await?;
        let is_open = found.is_some_and(|run| !run.is_at_rest());
        Ok(is_open.then(|| format!("run {last}, which it made before, has not come to rest")))
    }

    async fn overcrowded(&self, spec: &ScheduleSpec) -> Result<Option<String>, Error> {
        let submit = spec.submit(&self.schedule, None);
        let filter = RunFilter {
            statuses: RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect(),
            session_id: submit.session_id.as_deref().map(SessionId::parse).transpose()?,
            order: Order::OldestFirst,
            limit: u32::try_from(QUEUED_MAX).unwrap_or(u32::MAX),
            ..RunFilter::default()
        };
        let unfinished = self.inner.services.db.runs(owner(&self.schedule), filter).await?.runs.len();
        let is_full = unfinished >= QUEUED_MAX;
        Ok(is_full.then(|| format!("{QUEUED_MAX} runs of its session have not ended, and that many may wait")))
    }
}

/// Whether the same run would be refused again.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Input(_)
        | Error::InputTooLong { .. }
        | Error::InvalidId(_)
        | Error::Conflict(_)
        | Error::SessionBusy(_)
        | Error::SessionNotFound(_)
        | Error::TooDeep { .. }
        | Error::Nul { .. }
        | Error::CannotBegin(_) => true,
        Error::UnknownWorkflow(_)
        | Error::QueueFull { .. }
        | Error::RunNotFound(_)
        | Error::QuestionNotFound(_)
        | Error::AlreadyAnswered(_)
        | Error::InvalidAnswer { .. }
        | Error::NotYoursToAnswer { .. }
        | Error::DamagedQuestion { .. }
        | Error::BudgetNotFound(_)
        | Error::BudgetChanged(_)
        | Error::ScheduleNotFound(_)
        | Error::InvalidSchedule { .. }
        | Error::DamagedSchedule { .. }
        | Error::BatchNotFound(_)
        | Error::InvalidBatch { .. }
        | Error::DamagedBatch { .. }
        | Error::Item { .. }
        | Error::ItemDeleted { .. }
        | Error::CannotFork(_)
        | Error::CannotPrune(_)
        | Error::DefinitionChanged(_)
        | Error::Unreadable(_)
        | Error::Damaged(_)
        | Error::Stopped(_)
        | Error::DiskLow { .. }
        | Error::NotCompleted(_)
        | Error::Db(_) => false,
    }
}
