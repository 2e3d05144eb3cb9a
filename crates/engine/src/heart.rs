//! The heart: keeps this worker's leases until they are released.
//!
//! It beats on its own thread and runtime, so that nothing a step does on the caller's runtime can silence it. It must
//! never execute a run. The invariant: it beats as long as anything executes here, also while the engine shuts down;
//! once nothing does, it releases what is left before it stops.

use crate::control::Stop;
use crate::error::Error;
use crate::inner::{End, Inner, Stopping};
use crate::stats;
use outlive_core::WorkerId;
use outlive_core::port::{DbError, DbErrorKind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How long a shutdown waits for work that must drop everything: longer than one commit takes.
const DROP_PERIOD: Duration = Duration::from_secs(5);
/// How long it tries to release leases on a store that is full or busy, and longer where the calls in flight left some of
/// their grace.
const RETIRE_PERIOD: Duration = Duration::from_secs(5);

/// Where it beats.
pub(crate) enum Heart {
    /// On its own thread.
    Thread(thread::JoinHandle<()>),
    /// Among the tasks of the caller's runtime, whose time is simulated.
    Task(JoinHandle<()>),
}

impl Heart {
    /// Begins to beat; the first beat was the caller's.
    ///
    /// # Errors
    /// When the operating system cannot start a thread.
    pub(crate) fn start(inner: Arc<Inner>) -> Result<Self, Error> {
        if crate::clock::is_simulated() {
            return Ok(Self::Task(tokio::spawn(beat(inner))));
        }
        let failed = |error: std::io::Error| {
            let message = format!("the thread that keeps the leases cannot be started: {error}");
            Error::Db(DbError::new(DbErrorKind::Storage, message))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let thread = thread::Builder::new().name("outlive-heart".to_owned());
        thread.spawn(move || runtime.block_on(beat(inner))).map(Self::Thread).map_err(failed)
    }

    /// Waits until it holds nothing any more. It must have ended, or be about to.
    pub(crate) async fn join(self) {
        match self {
            Self::Thread(thread) => drop(thread.join()),
            Self::Task(task) => drop(task.await),
        }
    }

    /// Stops it where it is. Its end must have been set.
    #[cfg(feature = "testing")]
    pub(crate) fn kill(self) {
        match self {
            Self::Thread(thread) => drop(thread.join()),
            Self::Task(task) => task.abort(),
        }
    }
}

/// How far a shutdown has got.
#[derive(Clone, Copy)]
enum Drain {
    /// Calls in flight have until then to end.
    Grace(Instant),
    /// They were told to drop everything, and should have done so by then.
    Dropping(Instant),
    /// Something cannot be dropped. It holds its run until it returns or the process ends; nobody waits for that.
    Stuck,
}

async fn beat(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let mut drain = None;
    let mut next = Instant::now() + inner.options.heartbeat_period;
    loop {
        let stopping = *stop.borrow_and_update();
        if stopping == Stopping::Failed {
            return inner.end(End::Retired(Ok(())));
        }
        if stopping == Stopping::Drain && drain.is_none() {
            drain = Some(Drain::Grace(Instant::now() + inner.options.shutdown_grace));
        }
        let deadline = drain.and_then(Drain::deadline);
        tokio::select! {
            biased;
            _ = stop.changed() => {}
            () = inner.closed(), if stopping != Stopping::No => {
                let until = deadline.unwrap_or_else(Instant::now) + RETIRE_PERIOD;
                return inner.end(End::Retired(retire(&inner, until).await));
            }
            () = sleep_until(next) => {
                next = Instant::now() + inner.options.heartbeat_period;
                renew_or_start_over(&inner).await;
            }
            () = sleep_until(deadline.unwrap_or(next)), if deadline.is_some() => drain = drain.map(|drain| drain.on(&inner)),
        }
    }
}

impl Drain {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Grace(until) | Self::Dropping(until) => Some(until),
            Self::Stuck => None,
        }
    }

    fn on(self, inner: &Inner) -> Self {
        match self {
            Self::Grace(_) => {
                inner.stop_all(&Stop::Release);
                Self::Dropping(Instant::now() + DROP_PERIOD)
            }
            Self::Dropping(_) => {
                tracing::warn!("work that cannot be dropped goes on; its runs go to others when this process ends");
                inner.end(End::Stuck);
                Self::Stuck
            }
            Self::Stuck => Self::Stuck,
        }
    }
}

/// Registers or renews this worker.
///
/// # Errors
/// The store's; `Fenced` when this worker was declared dead.
pub(crate) async fn renew(inner: &Inner, worker: WorkerId) -> Result<(), DbError> {
    let sent = Instant::now();
    let period = inner.options.lease_period;
    inner.services.db.heartbeat(worker, inner.services.clock.now(), period).await?;
    // A tenth of the period is the margin for clocks that run at different speeds.
    inner.services.lease_clock.renew(sent + period - period / 10);
    Ok(())
}

async fn renew_or_start_over(inner: &Inner) {
    let renewed = match renew(inner, inner.worker()).await {
        Err(error) if error.kind() == DbErrorKind::Fenced => start_over(inner).await,
        renewed => renewed,
    };
    match renewed {
        Ok(()) => inner.check.notify_one(),
        Err(error) => {
            stats::add(&inner.services.counters.heartbeats_failed);
            tracing::warn!(%error, "heartbeat failed");
        }
    }
}

/// This worker was declared dead while it slept: its runs belong to others now.
async fn start_over(inner: &Inner) -> Result<(), DbError> {
    stats::add(&inner.services.counters.leases_lost);
    tracing::warn!("this worker's leases were taken over; its runs are dropped and it starts anew");
    inner.stop_all(&Stop::Lost);
    let worker = WorkerId::new(inner.services.clock.now(), inner.services.chance.wide_bits());
    renew(inner, worker.clone()).await?;
    inner.set_worker(worker);
    Ok(())
}

/// Releases whatever is still held.
async fn retire(inner: &Inner, until: Instant) -> Result<(), DbError> {
    let retiring = async {
        loop {
            match inner.services.db.retire(inner.worker(), inner.services.clock.now()).await {
                Err(error) if error.is_transient() => sleep(Duration::from_millis(100)).await,
                retired => return retired,
            }
        }
    };
    let late = || DbError::new(DbErrorKind::Busy, "the store took too long to give this worker's leases back");
    timeout_at(until, retiring).await.unwrap_or_else(|_| Err(late()))
}
