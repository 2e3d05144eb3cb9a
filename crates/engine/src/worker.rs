//! The worker: renews this process's leases and takes over runs that nobody executes.
//!
//! Recovery is not an event but a standing condition: whatever is unfinished, due and not held by a living worker is taken,
//! whether its last worker crashed a moment ago or the machine was off for a week.

use crate::drive::Stop;
use crate::engine::Inner;
use crate::error::Error;
use crate::stats;
use outlive_core::port::{BoxFuture, Claim, DbErrorKind};
use outlive_core::{Timestamp, WorkerId};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Runs taken in one transaction.
const CLAIM_BATCH: usize = 256;

/// Registers or renews this worker.
pub(crate) async fn heartbeat(inner: &Inner) -> Result<(), Error> {
    let sent = Instant::now();
    let period = inner.options.lease_period;
    inner.services.db.heartbeat(inner.worker(), inner.services.clock.now(), period).await?;
    // A tenth of the period is the margin for clocks that run at different speeds.
    inner.services.lease_clock.renew(sent + period - period / 10);
    Ok(())
}

/// Renews the lease until the engine stops.
pub(crate) fn keep_lease(inner: Arc<Inner>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut stop = inner.stop.subscribe();
        loop {
            let next = Instant::now() + inner.options.heartbeat_period;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep_until(next) => inner.services.counters.lateness.add(next.elapsed()),
            }
            match heartbeat(&inner).await {
                Ok(()) => {}
                Err(Error::Db(error)) if error.kind() == DbErrorKind::Fenced => start_over(&inner),
                Err(error) => {
                    stats::add(&inner.services.counters.heartbeats_failed);
                    tracing::warn!(%error, "heartbeat failed");
                }
            }
        }
    })
}

/// This worker was declared dead while it slept: what it executed belongs to others now.
fn start_over(inner: &Inner) {
    stats::add(&inner.services.counters.leases_lost);
    tracing::warn!("this worker's leases were taken over; its runs are dropped and it starts anew");
    inner.stop_all(&Stop::Lost);
    let worker = WorkerId::new(inner.services.clock.now(), inner.services.chance.wide_bits());
    *inner.worker.write().unwrap_or_else(PoisonError::into_inner) = worker;
}

/// Looks for cancel wishes whenever another process changed something.
pub(crate) fn follow_news(inner: Arc<Inner>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut stop = inner.stop.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = inner.news.notified() => {}
            }
            if inner.running_len() == 0 {
                continue;
            }
            match inner.services.db.cancels(inner.worker()).await {
                Ok(cancels) => {
                    for (run_id, intent) in cancels {
                        inner.stop_run(&run_id, Stop::Cancel(intent.reason));
                    }
                }
                Err(error) => tracing::warn!(%error, "cancel wishes could not be read"),
            }
        }
    })
}

/// Takes over runs until the engine stops.
pub(crate) fn take_over(inner: Arc<Inner>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let mut stop = inner.stop.subscribe();
        loop {
            let next = match claim(&inner).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(%error, "unfinished runs could not be claimed");
                    Instant::now() + inner.options.scan_period
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = inner.wake.notified() => {}
                () = sleep_until(next) => inner.services.counters.lateness.add(next.elapsed()),
            }
        }
    })
}

/// Takes what can be taken now; returns when to look again.
async fn claim(inner: &Arc<Inner>) -> Result<Instant, Error> {
    loop {
        let now = inner.services.clock.now();
        let later = Instant::now() + inner.options.scan_period;
        let room = inner.options.runs_max.saturating_sub(inner.running_len()).min(CLAIM_BATCH);
        if room == 0 {
            return Ok(later);
        }
        let workflows: Vec<_> = {
            let definitions = inner.definitions.read().unwrap_or_else(PoisonError::into_inner);
            definitions.keys().cloned().collect()
        };
        let suspect_claims = inner.options.claims_max.saturating_sub(1).max(1);
        let claim = Claim {
            worker: inner.worker(),
            workflows: Arc::from(workflows),
            limit: u32::try_from(room).unwrap_or(u32::MAX),
            suspect_claims,
            suspects: inner.suspects.load(Ordering::Relaxed) == 0,
            at: now,
        };
        let began = Instant::now();
        let claimed = inner.services.db.claim(claim).await?;
        let count = claimed.runs.len();
        inner.services.counters.claimed(began, count);
        let waiting = inner.unleased.load(Ordering::Relaxed);
        inner.unleased.store(waiting.saturating_sub(count), Ordering::Relaxed);
        for (run, lease) in claimed.runs {
            tracing::info!(run_id = %run.info.run_id, attempt = run.attempt, "run taken over");
            let is_suspect = run.claims > suspect_claims;
            inner.suspects.fetch_add(usize::from(is_suspect), Ordering::Relaxed);
            inner.execute(run, lease, None, is_suspect);
        }
        if !claimed.more || count == 0 {
            return Ok(claimed.next_due.map_or(later, |due| later.min(Instant::now() + until(due, now))));
        }
    }
}

fn until(due: Timestamp, now: Timestamp) -> Duration {
    due.since(now)
}
