//! What all handles of one engine share: its services and options, the workflows it knows, the runs that execute here,
//! and whether it is to stop.
//!
//! It must never know how a run is driven: whoever starts one brings the work. The invariant: a run executes here under
//! one lease at a time, and has a place among the running exactly as long as its task lives.

use crate::control::{Control, Stop};
use crate::definitions::Age;
use crate::error::Error;
use crate::options::Options;
use crate::queue::Queue;
use crate::room::LowWater;
use crate::services::Services;
use outlive_core::port::{DbError, Lease, News, Run};
use outlive_core::{Definition, DefinitionId, Redactor, RunId, SessionId, WorkerId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One engine, whoever holds it.
pub(crate) struct Inner {
    pub(crate) services: Arc<Services>,
    pub(crate) options: Options,
    worker: RwLock<WorkerId>,
    /// Where all of the engine's own work executes.
    pub(crate) runtime: Handle,
    /// Notified when there may be something to claim.
    pub(crate) wake: Notify,
    /// Notified when the runs held should be compared with those that execute.
    pub(crate) check: Notify,
    /// Notified when someone may want a run that executes here cancelled, or have answered a question of it.
    pub(crate) news: Notify,
    /// Notified when there may be other limits to what is kept.
    pub(crate) keeps: Notify,
    /// Runs this worker held at the last comparison without executing them.
    pub(crate) strays: Mutex<HashMap<RunId, Stray>>,
    /// Runs submitted here that this process could not take at once.
    pub(crate) unleased: AtomicUsize,
    /// A run that crashed its workers executes here; the next of its kind waits.
    pub(crate) suspects: AtomicUsize,
    pub(crate) submit_places: Arc<Semaphore>,
    pub(crate) queue: Queue,
    pub(crate) low_water: LowWater,
    running: Mutex<HashMap<RunId, Running>>,
    /// Everything here has ended and is being given back: what is claimed from now on is released at once. Changes under
    /// the lock of `running`.
    is_closed: AtomicBool,
    emptied: Notify,
    failed: Mutex<Option<Arc<str>>>,
    pub(crate) stop: watch::Sender<Stopping>,
    /// Set when the heart has given everything back, or no longer waits for anything.
    pub(crate) ended: watch::Sender<Option<End>>,
}

/// A run that is held and not executed here: its lease, and from when on it is driven anew. Until then a submit or a claim
/// may be about to start it.
#[derive(Clone, Copy)]
pub(crate) struct Stray {
    pub(crate) epoch: u64,
    pub(crate) due: Instant,
}

struct Running {
    session_id: SessionId,
    epoch: u64,
    control: Arc<Control>,
    abort: Option<AbortHandle>,
}

/// Takes no further runs once the last handle is gone.
pub(crate) struct StopGuard(pub(crate) Arc<Inner>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stop_at_least(Stopping::Left);
    }
}

/// How an engine ends. Later ones replace earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stopping {
    /// It does not.
    #[default]
    No,
    /// Nobody holds it any more: runs that execute go on, no others are taken.
    Left,
    /// It is shut down: calls in flight may end, within bounds.
    Drain,
    /// Its store has failed: nothing more may be written.
    Failed,
}

/// What a heart leaves behind.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It released everything, or could not.
    Retired(Result<(), DbError>),
    /// Something cannot be dropped and keeps its lease. It beats on, and nobody needs to wait.
    Stuck,
}

impl Inner {
    /// Nothing of it executes yet.
    pub(crate) fn new(services: Services, options: Options) -> Arc<Self> {
        let worker = WorkerId::new(services.clock.now(), services.chance.wide_bits());
        Arc::new(Self {
            services: Arc::new(services),
            worker: RwLock::new(worker),
            runtime: Handle::current(),
            wake: Notify::new(),
            check: Notify::new(),
            strays: Mutex::default(),
            submit_places: Arc::new(Semaphore::new(options.submits_max)),
            queue: Queue::default(),
            low_water: LowWater::default(),
            unleased: AtomicUsize::new(0),
            suspects: AtomicUsize::new(0),
            news: Notify::new(),
            keeps: Notify::new(),
            running: Mutex::default(),
            is_closed: AtomicBool::new(false),
            emptied: Notify::new(),
            failed: Mutex::default(),
            stop: watch::Sender::new(Stopping::No),
            ended: watch::Sender::new(None),
            options,
        })
    }

    /// Hears what others do to the store.
    pub(crate) fn watch_store(self: &Arc<Self>) {
        let inner = Arc::downgrade(self);
        self.services.db.watch(Arc::new(move |news| {
            let Some(inner) = inner.upgrade() else { return };
            match news {
                News::Anything => {
                    inner.services.hub.publish_foreign();
                    inner.news.notify_one();
                }
                News::Run { by: Some(by), .. } | News::Free { by: Some(by) } if inner.is_worker(&by) => {}
                News::Run { run_id, .. } => {
                    inner.services.hub.publish_look(&run_id);
                    // A run that executes here was changed elsewhere: someone wants it cancelled, has answered a question
                    // of it, or has deleted it.
                    if inner.is_running(&run_id) {
                        inner.check.notify_one();
                    }
                }
                News::Free { .. } => inner.wake.notify_one(),
                News::Failed(reason) => {
                    inner.mark_stopped(&reason);
                    inner.stop_at_least(Stopping::Failed);
                }
            }
        }));
    }

    pub(crate) fn worker(&self) -> WorkerId {
        self.worker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_worker(&self, worker: WorkerId) {
        *self.worker.write().unwrap_or_else(PoisonError::into_inner) = worker;
    }

    fn is_worker(&self, worker: &WorkerId) -> bool {
        *self.worker.read().unwrap_or_else(PoisonError::into_inner) == *worker
    }

    /// Stops, unless it has already stopped further.
    pub(crate) fn stop_at_least(&self, stopping: Stopping) {
        self.stop.send_if_modified(|current| {
            let is_further = *current < stopping;
            *current = stopping.max(*current);
            is_further
        });
    }

    /// Aborts every run's task, as a crash would.
    #[cfg(feature = "testing")]
    pub(crate) fn abort_all(&self) {
        for running in self.running().values() {
            running.abort.iter().for_each(AbortHandle::abort);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow() != Stopping::No
    }

    /// The heart has released everything, or has given up waiting.
    pub(crate) fn end(&self, end: End) {
        self.ended.send_replace(Some(end));
    }

    /// What executes here, and under which epoch.
    pub(crate) fn executing(&self) -> HashMap<RunId, u64> {
        self.running().iter().map(|(run_id, running)| (run_id.clone(), running.epoch)).collect()
    }

    pub(crate) fn running_len(&self) -> usize {
        self.running().len()
    }

    pub(crate) fn is_running(&self, run_id: &RunId) -> bool {
        self.running().contains_key(run_id)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<RunId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.options.execute && self.running_len() < self.options.runs_max
    }

    /// What new runs of a workflow are accepted with.
    pub(crate) fn newest(&self, id: &DefinitionId) -> Option<Arc<Definition>> {
        self.services.definitions.newest(id)
    }

    /// The definition a run was submitted to, or else the newest of its workflow: replay decides whether it fits.
    pub(crate) fn definition(&self, id: &DefinitionId, hash: &str) -> Option<Arc<Definition>> {
        self.services.definitions.of_run(id, hash)
    }

    /// Keeps a version of a workflow, and its secrets out of the store.
    pub(crate) fn keep(&self, definition: Arc<Definition>, age: Age) {
        let Some(of_models) = self.services.definitions.keep(definition, age) else { return };
        let redactor = Redactor::new(self.options.secrets.iter().cloned().chain(of_models));
        *self.services.redactor.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(redactor);
    }

    /// Starts `work` on a run that this process holds the lease of.
    pub(crate) fn start<W: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        run: Run,
        lease: Lease,
        is_suspect: bool,
        work: impl FnOnce(Place, Run, Lease, Arc<Control>) -> W,
    ) {
        let control = Arc::new(Control::default());
        let run_id = run.info.run_id.clone();
        let mut running = self.running();
        let (session_id, epoch) = (run.info.session_id.clone(), lease.epoch);
        // A task that was slower to register the same run, or holds an older lease of it, is too late.
        if running.get(&run_id).is_some_and(|running| running.epoch >= epoch) {
            return;
        }
        let replaced =
            running.insert(run_id.clone(), Running { session_id, epoch, control: control.clone(), abort: None });
        replaced.iter().for_each(|lost| lost.control.stop(Stop::Lost));
        let place = Place { inner: self.clone(), run_id: run_id.clone(), epoch, is_suspect };
        // Before it starts: it must not begin what it would have to drop, or what others will execute.
        if self.is_closed.load(Ordering::Relaxed) || self.check_running().is_err() {
            control.stop(Stop::Release);
        }
        let task = self.runtime.spawn(work(place, run, lease, control));
        if let Some(running) = running.get_mut(&run_id) {
            running.abort = Some(task.abort_handle());
        }
    }

    pub(crate) fn stop_run(&self, run_id: &RunId, stop: Stop) {
        if let Some(running) = self.running().get(run_id) {
            running.control.stop(stop);
        }
    }

    /// Tells a run that executes here of an answer.
    pub(crate) fn deliver(&self, run_id: &RunId) {
        if let Some(running) = self.running().get(run_id) {
            running.control.deliver();
        }
    }

    /// Drops a run that executes here under a lease that is gone.
    pub(crate) fn drop_lost(&self, run_id: &RunId, epoch: u64) {
        if let Some(running) = self.running().get(run_id).filter(|running| running.epoch == epoch) {
            running.control.stop(Stop::Lost);
        }
    }

    /// Whether a run of this session executes here.
    pub(crate) fn executes_in(&self, session_id: &SessionId) -> bool {
        self.running().values().any(|running| running.session_id == *session_id)
    }

    /// Drops the runs of a deleted session that execute here.
    pub(crate) fn drop_runs_of(&self, session_id: &SessionId) {
        for running in self.running().values().filter(|running| running.session_id == *session_id) {
            running.control.stop(Stop::Lost);
        }
    }

    pub(crate) fn stop_all(&self, stop: &Stop) {
        for running in self.running().values() {
            running.control.stop(stop.clone());
        }
    }

    /// Waits until nothing executes here; from then on nothing does.
    pub(crate) async fn closed(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let running = self.running();
                if running.is_empty() {
                    return self.is_closed.store(true, Ordering::Relaxed);
                }
            }
            emptied.await;
        }
    }

    /// Why it has stopped by itself, if it has.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn check_running(&self) -> Result<(), Error> {
        self.failure().map_or(Ok(()), |reason| Err(Error::Stopped(reason)))
    }

    pub(crate) fn mark_stopped(&self, reason: &str) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| Arc::from(reason));
    }

    /// The store takes no more writes: everything here stops, and nothing more is acknowledged.
    pub(crate) fn fail(&self, error: &DbError) {
        tracing::error!(%error, "the store failed; this engine stops");
        self.mark_stopped(&error.to_string());
        self.stop_all(&Stop::Lost);
        self.stop_at_least(Stopping::Failed);
    }
}

/// A run's place among those executing; released when its task ends, however it ends.
pub(crate) struct Place {
    inner: Arc<Inner>,
    run_id: RunId,
    epoch: u64,
    is_suspect: bool,
}

impl Place {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.inner.running();
        if running.get(&self.run_id).is_some_and(|running| running.epoch == self.epoch) {
            running.remove(&self.run_id);
        }
        let is_empty = running.is_empty();
        drop(running);
        if std::thread::panicking() {
            // Nobody is about to start it: the next comparison does.
            let mut strays = self.inner.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.insert(self.run_id.clone(), Stray { epoch: self.epoch, due: Instant::now() });
        }
        self.inner.services.hub.publish_gone(&self.run_id);
        if self.is_suspect {
            self.inner.suspects.fetch_sub(1, Ordering::Relaxed);
            self.inner.wake.notify_one();
        }
        if is_empty {
            self.inner.emptied.notify_waiters();
        }
        if self.inner.unleased.load(Ordering::Relaxed) > 0 {
            self.inner.wake.notify_one();
        }
    }
}
