//! The worker: takes over runs that nobody executes, and looks after those it holds.
//!
//! Recovery is not an event but a standing condition: whatever is unfinished, due and not held by a living worker is
//! taken, whether its last worker crashed a moment ago or the machine was off for a week.

use crate::control::Stop;
use crate::drive;
use crate::error::Error;
use crate::inner::{Inner, Stopping, Stray};
use crate::{rates, ticks};
use outlive_core::port::{BoxFuture, Claim, DbError, Lease, Run};
use outlive_core::{RunId, Timestamp, WorkerId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Runs taken in one transaction.
const CLAIM_BATCH: usize = 256;

/// Looks after the runs this worker holds until all of them are released: those to be cancelled or with an answer, those that nobody
/// drives, and those no longer its own.
pub(crate) fn attend(inner: Arc<Inner>) -> BoxFuture<'static, ()> {
    let home = Home(inner.clone());
    Box::pin(async move {
        let mut ended = inner.ended.subscribe();
        let mut next = Instant::now() + inner.options.heartbeat_period;
        loop {
            let checked = tokio::select! {
                biased;
                () = async { drop(ended.wait_for(Option::is_some).await) } => break,
                () = inner.check.notified() => compare(&inner).await,
                () = inner.news.notified() => read_wishes(&inner).await,
                () = inner.services.shares.has_much.notified() => rates::give_back(&inner.services).await,
                () = sleep_until(next) => {
                    inner.services.counters.lateness.add(next.elapsed());
                    next = Instant::now() + inner.options.heartbeat_period;
                    Ok(())
                }
            };
            if let Err(error) = checked {
                tracing::warn!(%error, "the runs this worker holds could not be read");
            }
        }
        drop(home);
    })
}

/// The runtime that everything executes on. It may end before its engine does.
struct Home(Arc<Inner>);

impl Drop for Home {
    fn drop(&mut self) {
        if self.0.ended.borrow().is_none() {
            self.0.mark_stopped("the runtime it was started on has ended; start another engine");
            self.0.stop_at_least(Stopping::Left);
        }
    }
}

/// Stops the runs that someone wants cancelled, and tells others that something was sent to them.
async fn read_wishes(inner: &Inner) -> Result<(), DbError> {
    if inner.running_len() == 0 {
        return Ok(());
    }
    for (run_id, intent) in inner.services.db.cancels(inner.worker()).await? {
        inner.stop_run(&run_id, Stop::Cancel(intent.reason));
    }
    for run_id in inner.services.db.mail(inner.worker()).await? {
        inner.deliver(&run_id);
    }
    Ok(())
}

/// Compares what the store says this worker holds with what it executes.
///
/// A run that has been held for a heartbeat's period without executing is a stray: its submit was lost track of, its driver
/// panicked, or it could not be released. It is claimed anew, so that nothing left of its driver can write, and driven. A
/// run that executes and is no longer held was taken or deleted.
async fn compare(inner: &Arc<Inner>) -> Result<(), DbError> {
    read_wishes(inner).await?;
    rates::give_back(&inner.services).await?;
    let worker = inner.worker();
    // Asked before the store: the store's answer may miss what is registered after this.
    let executing = inner.executing();
    let held: HashMap<RunId, u64> = inner.services.db.held(worker.clone()).await?.into_iter().collect();
    for (run_id, epoch) in &executing {
        if held.get(run_id) != Some(epoch) && inner.worker() == worker {
            inner.drop_lost(run_id, *epoch);
        }
    }
    for lost in strays(inner, worker, held) {
        let run_id = lost.run_id.clone();
        if let Some((run, lease)) = inner.services.db.reclaim(lost, inner.services.clock.now()).await? {
            tracing::warn!(%run_id, attempt = run.attempt, "no task executed this run; it goes on");
            adopt(inner, run, lease);
        }
    }
    Ok(())
}

/// What has been held without executing since a comparison that was a heartbeat's period ago; newer cases are noted. News
/// make comparisons follow each other at once, so their number says nothing.
fn strays(inner: &Inner, worker: WorkerId, held: HashMap<RunId, u64>) -> Vec<Lease> {
    if inner.is_stopping() {
        return Vec::new();
    }
    let (executing, now) = (inner.executing(), Instant::now());
    let mut noted = inner.strays.lock().unwrap_or_else(PoisonError::into_inner);
    let before = std::mem::take(&mut *noted);
    let mut strays = Vec::new();
    for (run_id, epoch) in held {
        if executing.contains_key(&run_id) {
            continue;
        }
        let known = before.get(&run_id).filter(|stray| stray.epoch == epoch);
        let stray = known.copied().unwrap_or(Stray { epoch, due: now + inner.options.heartbeat_period });
        if stray.due <= now {
            strays.push(Lease { run_id, worker: worker.clone(), epoch });
        } else {
            noted.insert(run_id, stray);
        }
    }
    strays
}

/// Takes over runs until the engine stops.
pub(crate) fn take_over(inner: Arc<Inner>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut stop = inner.stop.subscribe();
        loop {
            let next = match claim(&inner).await {
                Ok(next) => next,
                Err(error) => {
                    // A shutdown may retire the worker while it claims; that is not a fault.
                    if *stop.borrow() == Stopping::No {
                        tracing::warn!(%error, "unfinished runs could not be claimed");
                    }
                    Instant::now() + inner.options.scan_period
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop != Stopping::No) => return,
                () = inner.wake.notified() => {}
                () = sleep_until(next) => inner.services.counters.lateness.add(next.elapsed()),
            }
        }
    })
}

/// Takes what can be taken now; returns when to check again.
async fn claim(inner: &Arc<Inner>) -> Result<Instant, Error> {
    loop {
        let now = inner.services.clock.now();
        let later = Instant::now() + inner.options.scan_period;
        let room = inner.options.runs_max.saturating_sub(inner.running_len()).min(CLAIM_BATCH);
        // Without room it asks for no runs, but still tells the store which workflows it executes.
        let workflows = inner.services.definitions.ids();
        let claim = Claim {
            worker: inner.worker(),
            workflows: Arc::from(workflows),
            limit: u32::try_from(room).unwrap_or(u32::MAX),
            suspect_claims: inner.options.suspect_claims(),
            suspects: inner.suspects.load(Ordering::Relaxed) == 0,
            at: now,
        };
        let began = Instant::now();
        let claimed = inner.services.db.claim(claim).await?;
        let count = claimed.runs.len();
        inner.services.counters.claimed(began, count);
        let waiting = inner.unleased.load(Ordering::Relaxed);
        inner.unleased.store(waiting.saturating_sub(count), Ordering::Relaxed);
        let has_resumed = claimed.runs.iter().any(|(run, _)| run.next_index > 0);
        for (run, lease) in claimed.runs {
            tracing::info!(run_id = %run.info.run_id, attempt = run.attempt, "run taken over");
            adopt(inner, run, lease);
        }
        if has_resumed {
            // Something may have been sent to them while nobody executed them.
            inner.news.notify_one();
        }
        // Those whose times were taken are due again, at times that the store has not told yet.
        let taken = ticks::take(inner, claimed.schedules).await;
        if taken == 0 && (!claimed.more || count == 0) {
            return Ok(claimed.next_due.map_or(later, |due| later.min(Instant::now() + until(due, now))));
        }
    }
}

/// Executes a run that was claimed.
fn adopt(inner: &Arc<Inner>, run: Run, lease: Lease) {
    let is_suspect = run.claims > inner.options.suspect_claims();
    inner.suspects.fetch_add(usize::from(is_suspect), Ordering::Relaxed);
    drive::start(inner, run, lease, None, None, is_suspect);
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    due.since(now)
}
