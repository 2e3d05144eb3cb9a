//! The engine's front: register definitions, submit, read, cancel, shut down.

use crate::clock::{SystemChance, SystemClock};
use crate::drive::{Control, Stop, drive};
use crate::error::Error;
use crate::events::EventStream;
use crate::finish::Finish;
use crate::handle::RunHandle;
use crate::heart::{self, End, Heart, Stopping};
use crate::hub::Hub;
use crate::journal::Services;
use crate::lease::LeaseClock;
use crate::options::Options;
use crate::queue::Queue;
use crate::room::LowWater;
use crate::stats::{self, Counters};
use crate::worker;
use outlive_core::json;
use outlive_core::port::{
    Accepted, Access, CancelIntent, Cancelled, Chance, Clock, Db, DbError, DbErrorKind, HookEvents, Lease, NewHook,
    NewRun, News, Observer, RequestOptions, Run, SessionKind, SessionPolicy, Unreadable, run_output,
};
use outlive_core::{
    Attachments, Definition, DefinitionId, Redactor, RunId, RunInfo, RunStatus, SessionId, WorkerId, WorkflowRunOutput,
};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

/// A request to run a workflow.
#[derive(Clone, Debug, Default)]
pub struct Submit {
    /// Text, an object, or nothing.
    pub input: Option<Value>,
    /// The caller's id for the run; made when absent.
    pub run_id: Option<String>,
    /// The session it belongs to; the run gets a new one when absent.
    pub session_id: Option<String>,
    /// Whose run it is. A restricted engine ([`Engine::for_user`]) fills in its own user and refuses another.
    pub user_id: Option<String>,
    /// What is laid over the session's state when the run begins, key by key; null removes.
    pub session_state: Option<Map<String, Value>>,
    /// The session's kind, if this run creates it.
    pub session_kind: SessionKind,
    /// The caller's own data, images, files: what steps see beside the input.
    pub attachments: Attachments,
    /// The same key and the same request again give the same run; the same key and another request are refused.
    pub idempotency_key: Option<String>,
    /// What to do when the session has an unfinished run.
    pub policy: SessionPolicy,
    /// Where to send the run's events, if anywhere. The sender asks [`Engine::due_hooks`].
    pub hook: Option<NewHook>,
    /// The run that this one starts again; stored and shown with it.
    pub rerun_of: Option<RunId>,
}

impl Submit {
    /// The same input, data and policy as a stored run's, for its user and in its session: what to submit to start it
    /// again. Timeouts and retries are those of the workflow version registered by then.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn again(run: &Run) -> Result<Self, Unreadable> {
        let RequestOptions { attachments, policy, session_state, .. } = run.request_options()?;
        Ok(Self {
            input: run.read_input()?,
            session_id: Some(run.info.session_id.to_string()),
            user_id: run.info.user_id.as_deref().map(str::to_owned),
            attachments,
            policy,
            session_state: Some(session_state).filter(|state| !state.is_empty()),
            rerun_of: Some(run.info.run_id.clone()),
            ..Self::default()
        })
    }

    /// Refuses what is nested too deeply to be stored and read back.
    fn check_depth(&mut self) -> Result<(), Error> {
        let too_deep = |what| move |problem| Error::TooDeep { what, problem };
        self.input.iter_mut().try_for_each(json::admit).map_err(too_deep("the input"))?;
        let mut data = self.attachments.additional_data.iter_mut();
        data.try_for_each(json::admit).map_err(too_deep("additional_data"))?;
        let mut state = self.session_state.iter_mut().flat_map(Map::values_mut);
        state.try_for_each(json::admit).map_err(too_deep("session_state"))
    }
}

/// Accepts, executes and reads runs. Cheap to clone; all clones are the same engine.
///
/// What a handle may see and change depends on its access: everything, or with [`Engine::for_user`] one user's runs and
/// sessions. For that handle, other users' do not exist.
///
/// Everything it does happens on the runtime it was started on; callers may use another. Dropping the last clone
/// without [`Engine::shutdown`] loses nothing: runs that execute here go on, no further ones are taken, and runs that
/// wait in the store are left for the next engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
    pub(crate) access: Access,
    _guard: Arc<StopGuard>,
}

pub(crate) struct Inner {
    pub(crate) services: Arc<Services>,
    pub(crate) options: Options,
    pub(crate) definitions: RwLock<HashMap<DefinitionId, Vec<Arc<Definition>>>>,
    worker: RwLock<WorkerId>,
    /// Where all of the engine's own work executes.
    pub(crate) runtime: Handle,
    /// Notified when there may be something to claim.
    pub(crate) wake: Notify,
    /// Notified when the runs held should be compared with those that execute.
    pub(crate) check: Notify,
    /// Notified when someone may want a run that executes here cancelled.
    pub(crate) news: Notify,
    /// Runs this worker held at the last comparison without executing them, by epoch.
    pub(crate) strays: Mutex<HashMap<RunId, u64>>,
    /// Runs submitted here that this process could not take at once.
    pub(crate) unleased: AtomicUsize,
    /// A run that crashed its workers executes here; the next of its kind waits.
    pub(crate) suspects: AtomicUsize,
    submit_places: Arc<Semaphore>,
    queue: Queue,
    low_water: LowWater,
    running: Mutex<HashMap<RunId, Running>>,
    /// Everything here has ended and is being given back: what is claimed from now on is released at once. Changes under
    /// the lock of `running`.
    is_closed: AtomicBool,
    emptied: Notify,
    failed: Mutex<Option<Arc<str>>>,
    pub(crate) stop: watch::Sender<Stopping>,
    /// Set when the heart has given everything back, or no longer waits for anything.
    pub(crate) ended: watch::Sender<Option<End>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    heart: Mutex<Option<Heart>>,
}

struct Running {
    session_id: SessionId,
    epoch: u64,
    control: Arc<Control>,
    abort: Option<AbortHandle>,
}

/// Takes no further runs once the last handle is gone.
struct StopGuard(Arc<Inner>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.stop_at_least(Stopping::Left);
    }
}

/// An engine under construction.
#[must_use]
pub struct EngineBuilder {
    db: Arc<dyn Db>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    observer: Option<Arc<dyn Observer>>,
    options: Options,
    definitions: Vec<Arc<Definition>>,
}

impl EngineBuilder {
    /// Registers a workflow.
    pub fn workflow(mut self, definition: Arc<Definition>) -> Self {
        self.definitions.push(definition);
        self
    }

    /// Uses another clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Uses another source of randomness.
    pub fn chance(mut self, chance: Arc<dyn Chance>) -> Self {
        self.chance = chance;
        self
    }

    /// Reports every commit to this observer.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Uses these options.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Opens the store, registers as a worker and begins to take over runs that nobody executes.
    ///
    /// # Cancel safety
    /// If the future is dropped, what was begun is undone: no worker is left in the store.
    ///
    /// # Errors
    /// Whatever keeps the store from opening.
    pub async fn start(self) -> Result<Engine, Error> {
        // If this future is dropped, nobody holds the engine any more: it then gives everything back.
        Finish::new(&Handle::current(), self.start_whole()).await
    }

    async fn start_whole(self) -> Result<Engine, Error> {
        self.db.open().await?;
        let now = self.clock.now();
        let worker = WorkerId::new(now, self.chance.wide_bits());
        let services = Services {
            db: self.db,
            clock: self.clock,
            chance: self.chance,
            hub: Arc::new(Hub::default()),
            lease_clock: Arc::new(LeaseClock::new(Instant::now() + self.options.lease_period)),
            stream_period: self.options.stream_period,
            park_after: self.options.park_after,
            commit_places: Semaphore::new(self.options.commits_max),
            counters: Counters::default(),
            redactor: RwLock::default(),
            observer: self.observer,
        };
        let submits_max = self.options.submits_max;
        let inner = Arc::new(Inner {
            services: Arc::new(services),
            options: self.options,
            definitions: RwLock::default(),
            worker: RwLock::new(worker),
            runtime: Handle::current(),
            wake: Notify::new(),
            check: Notify::new(),
            strays: Mutex::default(),
            submit_places: Arc::new(Semaphore::new(submits_max)),
            queue: Queue::default(),
            low_water: LowWater::default(),
            unleased: AtomicUsize::new(0),
            suspects: AtomicUsize::new(0),
            news: Notify::new(),
            running: Mutex::default(),
            is_closed: AtomicBool::new(false),
            emptied: Notify::new(),
            failed: Mutex::default(),
            stop: watch::Sender::new(Stopping::No),
            ended: watch::Sender::new(None),
            tasks: Mutex::default(),
            heart: Mutex::default(),
        });
        let engine = Engine { _guard: Arc::new(StopGuard(inner.clone())), inner, access: Access::All };
        for definition in self.definitions {
            engine.register(definition);
        }
        engine.watch_store();
        heart::renew(&engine.inner, engine.inner.worker()).await?;
        let heart = Heart::start(engine.inner.clone())?;
        *engine.inner.heart.lock().unwrap_or_else(PoisonError::into_inner) = Some(heart);
        let mut handles = vec![tokio::spawn(worker::attend(engine.inner.clone()))];
        if engine.inner.options.execute {
            handles.push(tokio::spawn(worker::take_over(engine.inner.clone())));
        }
        engine.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(handles);
        Ok(engine)
    }
}

impl Engine {
    /// Starts to build an engine on a store.
    pub fn builder(db: Arc<dyn Db>) -> EngineBuilder {
        EngineBuilder {
            db,
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            observer: None,
            options: Options::default(),
            definitions: Vec::new(),
        }
    }

    /// Registers another workflow, or another version of one; runs that wait for it are taken over.
    pub fn register(&self, definition: Arc<Definition>) {
        let mut definitions = self.inner.definitions.write().unwrap_or_else(PoisonError::into_inner);
        let versions = definitions.entry(definition.id.clone()).or_default();
        versions.retain(|known| known.hash != definition.hash);
        versions.push(definition);
        let of_models = definitions.values().flatten().flat_map(|definition| definition.secrets());
        let redactor = Redactor::new(self.inner.options.secrets.iter().cloned().chain(of_models));
        *self.inner.services.redactor.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(redactor);
        drop(definitions);
        self.inner.wake.notify_one();
    }

    /// The redactor that keeps secrets out of the store, for keeping the same secrets out of other places. It knows
    /// those of the options and of every workflow registered so far.
    pub fn redactor(&self) -> Arc<Redactor> {
        self.inner.services.redactor()
    }

    /// The same engine, restricted to one user's runs and sessions.
    ///
    /// ```
    /// # use outlive_core::{DefinitionBuilder, Failure, Step, StepInput};
    /// # use std::sync::Arc;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// # let db = Arc::new(outlive_db::InMemoryDb::new());
    /// # let engine = outlive_engine::Engine::builder(db).start().await.unwrap();
    /// let ada = engine.for_user("ada");
    /// let run_id = outlive_core::RunId::parse("somebody-elses").unwrap();
    /// assert!(ada.get_run(&run_id).await.unwrap().is_none());
    /// # }
    /// ```
    #[must_use]
    pub fn for_user(&self, user_id: impl Into<Arc<str>>) -> Self {
        Self { access: Access::User(user_id.into()), ..self.clone() }
    }

    /// The store, unrestricted: never answer a user from it.
    pub fn db(&self) -> &Arc<dyn Db> {
        &self.inner.services.db
    }

    /// Accepts a run. When this returns, the run is on stable storage and will be executed.
    ///
    /// # Cancel safety
    /// If the future is dropped the run may or may not have been accepted; repeat with the same idempotency key. One
    /// that was accepted is executed, whether or not anyone waits.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`], [`Error::Input`], [`Error::InputTooLong`], [`Error::TooDeep`],
    /// [`Error::InvalidId`], [`Error::QueueFull`],
    /// [`Error::SessionNotFound`] when the session or the run would belong to another user than this engine's,
    /// [`Error::Conflict`], [`Error::SessionBusy`], [`Error::DiskLow`], [`Error::Stopped`], or the store's error. No
    /// run exists then, unless the store says that the outcome is unknown.
    pub fn submit(
        &self,
        workflow_id: &DefinitionId,
        submit: Submit,
    ) -> impl Future<Output = Result<RunHandle, Error>> + Send {
        // Both are boxed, so that of ten thousand simultaneous callers only those whose turn it is hold more than their
        // request, and each holds that once.
        let submit = Box::new(submit);
        async move {
            let began = Instant::now();
            let place = self.inner.submit_places.clone().acquire_owned().await;
            let (engine, workflow_id) = (self.clone(), workflow_id.clone());
            let accepting = async move {
                let _place = place;
                let handle = engine.accept(&workflow_id, submit).await?;
                engine.inner.services.counters.submitted(began);
                Ok(handle)
            };
            self.finish(accepting).await
        }
    }

    async fn accept(&self, workflow_id: &DefinitionId, submit: Box<Submit>) -> Result<RunHandle, Error> {
        let mut submit = *submit;
        self.ready()?;
        submit.check_depth()?;
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = self.inner.newest(workflow_id).ok_or_else(unknown)?;
        let submit = Submit { input: definition.accept_input(submit.input)?, ..submit };
        self.inner.queue.admit(&*self.inner.services.db, self.inner.options.queued_max).await?;
        let is_own_session = submit.session_id.is_none();
        let own = self.access.user().map(|user_id| user_id.to_string());
        let new = self.inner.new_run(&definition, Submit { user_id: submit.user_id.or(own), ..submit })?;
        let state = Arc::new(new.session_state.clone().unwrap_or_default());
        let run = pending_run(&new);
        let worker = self.inner.has_room().then(|| self.inner.worker());
        let session_id = new.info.session_id.clone();
        let accepted = self.inner.create_run(self.access.clone(), new, worker).await.map_err(|error| {
            let is_foreign = error.kind() == DbErrorKind::NotFound;
            if is_foreign { Error::SessionNotFound(session_id) } else { error.into() }
        })?;
        let is_repeated = matches!(accepted, Accepted::Existing(_));
        if !is_repeated {
            stats::add(&self.inner.services.counters.runs_accepted);
            self.inner.services.hub.changed(&run.info.run_id);
        }
        let run_id = match accepted {
            Accepted::Existing(run_id) => run_id,
            Accepted::New { lease: Some(lease) } => {
                let run_id = lease.run_id.clone();
                let run = Run { epoch: lease.epoch, claims: 1, attempt: 1, worker: Some(lease.worker.clone()), ..run };
                self.inner.execute(run, lease, is_own_session.then_some(state), false);
                run_id
            }
            Accepted::New { lease: None } => {
                self.inner.queue.joined();
                self.inner.unleased.fetch_add(1, Ordering::Relaxed);
                self.inner.wake.notify_one();
                run.info.run_id
            }
        };
        Ok(self.attach(run_id).repeated(is_repeated))
    }

    /// A handle to a run, from its id alone. Whether the run exists shows when the handle is used.
    pub fn attach(&self, run_id: RunId) -> RunHandle {
        RunHandle::new(self.clone(), run_id)
    }

    /// The run as it is stored, whoever executes it; none when there is no such run.
    ///
    /// # Errors
    /// [`Error::Unreadable`], or the store's.
    pub async fn get_run(&self, run_id: &RunId) -> Result<Option<WorkflowRunOutput>, Error> {
        match self.stored_run(run_id).await? {
            Some(run) => self.output(&run).await.map(Some),
            None => Ok(None),
        }
    }

    /// A stored run, read with its payload, as [`Engine::get_run`] shows it.
    ///
    /// # Errors
    /// [`Error::Unreadable`], or the store's.
    pub async fn output(&self, run: &Run) -> Result<WorkflowRunOutput, Error> {
        Ok(run_output(&*self.inner.services.db, &self.access, run).await?)
    }

    pub(crate) async fn stored_run(&self, run_id: &RunId) -> Result<Option<Run>, Error> {
        Ok(self.inner.services.db.run(self.access.clone(), run_id.clone()).await?)
    }

    /// The run's events after index `after` (from the first when absent), first those stored, then live ones, until the
    /// run is at rest.
    pub fn events(&self, run_id: &RunId, after: Option<u64>) -> EventStream {
        EventStream::new(self.clone(), run_id.clone(), after)
    }

    /// Durably records the request to end a run, and makes sure it happens. Returns the status if the run was already
    /// over.
    ///
    /// # Cancel safety
    /// If the future is dropped the request may or may not have become durable; if it has, it is carried out.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or the store's.
    pub async fn cancel(&self, run_id: &RunId, reason: &str) -> Result<Option<RunStatus>, Error> {
        let (engine, run_id, reason) = (self.clone(), run_id.clone(), Arc::<str>::from(reason));
        self.finish(async move { engine.see_to_its_end(&run_id, reason).await }).await
    }

    async fn see_to_its_end(&self, run_id: &RunId, reason: Arc<str>) -> Result<Option<RunStatus>, Error> {
        let at = self.inner.services.clock.now();
        let intent = CancelIntent { at, reason };
        let db = &self.inner.services.db;
        let cancelled = db.request_cancel(self.access.clone(), run_id.clone(), intent.clone()).await;
        let cancelled = cancelled.map_err(|error| {
            let is_missing = error.kind() == DbErrorKind::NotFound;
            if is_missing { Error::RunNotFound(run_id.clone()) } else { error.into() }
        })?;
        match cancelled {
            Cancelled::Already(status) => return Ok(Some(status)),
            Cancelled::Requested => self.inner.stop_run(run_id, Stop::Cancel(intent.reason)),
            Cancelled::Unowned => {
                if let Some((run, lease)) = db.claim_run(run_id.clone(), self.inner.worker(), at).await? {
                    self.inner.execute(run, lease, None, false);
                }
            }
        }
        Ok(None)
    }

    /// Work that must not be left half done: once polled, it finishes on this engine's runtime, even if its caller goes
    /// away.
    pub fn finish<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Finish<T> {
        Finish::new(&self.inner.runtime, work)
    }

    /// Whether it accepts further runs.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::DiskLow`].
    pub fn ready(&self) -> Result<(), Error> {
        self.inner.check_running()?;
        self.inner.low_water.check(&*self.inner.services.db, &self.inner.options)
    }

    /// Why the engine has stopped by itself, if it has: the store failed and takes no more writes. The process should
    /// end; a new one recovers from what is on stable storage.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.inner.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this engine stops, by itself or because it is shut down, so that readers can stop with it. Returns
    /// at once when it has stopped.
    ///
    /// # Cancel safety
    /// Safe: waiting changes nothing.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.inner.stop.subscribe();
        async move {
            // An error means that the engine is gone.
            let _ = stop.wait_for(|stop| *stop != Stopping::No).await;
        }
    }

    /// Stops: takes nothing new, gives calls in flight up to [`Options::shutdown_grace`] to end, and releases every
    /// lease. Unfinished runs wait in the store for the next engine, which need not wait for a lease to expire.
    ///
    /// A run whose code cannot be dropped, because it blocks its thread, keeps its lease until it returns or the
    /// process ends; the shutdown does not wait for it.
    ///
    /// # Cancel safety
    /// Safe: once begun, the shutdown finishes whether or not anyone waits for it.
    ///
    /// # Errors
    /// The store's, when the leases could not be released.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let inner = &self.inner;
        inner.mark_stopped("it was shut down");
        inner.stop_at_least(Stopping::Drain);
        inner.stop_all(&Stop::Drain);
        let mut ended = inner.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        let heart = inner.heart.lock().unwrap_or_else(PoisonError::into_inner).take();
        let retired = match (end, heart) {
            (Some(End::Retired(retired)), Some(heart)) => {
                heart.join().await;
                retired
            }
            (Some(End::Retired(retired)), None) => retired,
            (Some(End::Stuck) | None, _) => Ok(()),
        };
        let tasks: Vec<_> = std::mem::take(&mut *inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            let _ = task.await;
        }
        if let Some(observer) = &inner.services.observer {
            observer.flush().await;
        }
        Ok(retired?)
    }

    /// Ends everything this engine does, as a crash would: nothing more is written, no lease is released.
    #[cfg(feature = "testing")]
    pub fn kill(&self) {
        let inner = &self.inner;
        inner.mark_stopped("it was killed");
        inner.stop_at_least(Stopping::Failed);
        if let Some(heart) = inner.heart.lock().unwrap_or_else(PoisonError::into_inner).take() {
            heart.kill();
        }
        for task in inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        for running in inner.running().values() {
            running.abort.iter().for_each(AbortHandle::abort);
        }
    }

    /// The worker that this engine is to its store.
    #[cfg(feature = "testing")]
    pub fn worker(&self) -> WorkerId {
        self.inner.worker()
    }

    fn watch_store(&self) {
        let inner = Arc::downgrade(&self.inner);
        self.inner.services.db.watch(Arc::new(move |news| {
            let Some(inner) = inner.upgrade() else { return };
            match news {
                News::Anything => {
                    inner.services.hub.publish_foreign();
                    inner.news.notify_one();
                }
                News::Run { by: Some(by), .. } | News::Free { by: Some(by) } if inner.is_worker(&by) => {}
                News::Run { run_id, .. } => {
                    inner.services.hub.publish_look(&run_id);
                    // A run that executes here was changed elsewhere: someone wants it cancelled, or has deleted it.
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
}

fn pending_run(new: &NewRun) -> Run {
    Run {
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
        due_at: None,
        is_behind: false,
        cancel: None,
        next_index: 0,
        progress: None,
        output: None,
    }
}

impl Inner {
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

    fn has_room(&self) -> bool {
        self.options.execute && self.running_len() < self.options.runs_max
    }

    fn newest(&self, id: &DefinitionId) -> Option<Arc<Definition>> {
        let definitions = self.definitions.read().unwrap_or_else(PoisonError::into_inner);
        definitions.get(id)?.last().cloned()
    }

    /// The definition a run was submitted to, or else the newest of its workflow: replay decides whether it fits.
    pub(crate) fn definition(&self, id: &DefinitionId, hash: &str) -> Option<Arc<Definition>> {
        let definitions = self.definitions.read().unwrap_or_else(PoisonError::into_inner);
        let versions = definitions.get(id)?;
        versions.iter().find(|version| &*version.hash == hash).or(versions.last()).cloned()
    }

    fn new_run(&self, definition: &Definition, submit: Submit) -> Result<NewRun, Error> {
        let at = self.services.clock.now();
        let run_id = match &submit.run_id {
            Some(text) => RunId::parse(text)?,
            None => RunId::new(at, self.services.chance.wide_bits()),
        };
        let session_id = match &submit.session_id {
            Some(text) => SessionId::parse(text)?,
            None => SessionId::new(at, self.services.chance.wide_bits()),
        };
        let input = submit.input.as_ref().map(|input| Arc::<str>::from(text(input)));
        let attached =
            (submit.attachments != Attachments::default()).then(|| serde_json::json!(submit.attachments).to_string());
        let rerun_of = submit.rerun_of.clone();
        let options = RequestOptions {
            attachments: submit.attachments,
            session_state: submit.session_state.clone().unwrap_or_default(),
            rerun_of: submit.rerun_of,
            policy: submit.policy,
        };
        let options =
            (options != RequestOptions::default()).then(|| Arc::<str>::from(serde_json::json!(options).to_string()));
        let bytes = input.as_ref().map_or(0, |text| text.len()) + options.as_ref().map_or(0, |text| text.len());
        let limit = self.options.input_bytes_max;
        if bytes > limit {
            return Err(Error::InputTooLong { bytes, limit });
        }
        let user_id: Option<Arc<str>> = submit.user_id.map(Arc::from);
        let asked = text(&(&definition.id, &submit.run_id, &submit.session_id, &user_id, &input, &attached));
        // A run with no hook, no state and no run to repeat keeps the fingerprint it has always had.
        let asked = match &submit.hook {
            Some(hook) => text(&(asked, &hook.url, hook.events == HookEvents::All)),
            None => asked,
        };
        let asked = match &submit.session_state {
            Some(state) => text(&(asked, state)),
            None => asked,
        };
        let asked = match &rerun_of {
            Some(rerun_of) => text(&(asked, "rerun_of", rerun_of)),
            None => asked,
        };
        let scope = |key: String| Arc::from(text(&(&definition.id, &user_id, key)));
        Ok(NewRun {
            fingerprint: fingerprint(&asked),
            idempotency_key: submit.idempotency_key.map(scope),
            info: RunInfo {
                run_id,
                workflow_id: definition.id.clone(),
                workflow_name: definition.name.clone(),
                session_id,
                user_id,
            },
            input,
            options,
            definition: definition.hash.clone(),
            policy: submit.policy,
            session_state: definition.initial_state(submit.session_state),
            session_kind: submit.session_kind,
            hook: submit.hook,
            at,
        })
    }

    #[cfg(not(feature = "sabotage-ack-before-commit"))]
    async fn create_run(&self, access: Access, new: NewRun, worker: Option<WorkerId>) -> Result<Accepted, DbError> {
        self.services.db.create_run(access, new, worker).await
    }

    /// The deliberate defect: confirms before the store has.
    #[cfg(feature = "sabotage-ack-before-commit")]
    async fn create_run(
        self: &Arc<Self>,
        access: Access,
        new: NewRun,
        _: Option<WorkerId>,
    ) -> Result<Accepted, DbError> {
        let inner = self.clone();
        tokio::spawn(async move { inner.services.db.create_run(access, new, None).await });
        Ok(Accepted::New { lease: None })
    }

    /// Executes a run this process holds the lease of.
    pub(crate) fn execute(
        self: &Arc<Self>,
        run: Run,
        lease: Lease,
        session: Option<Arc<Map<String, Value>>>,
        is_suspect: bool,
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
        let task = self.runtime.spawn(drive(place, run, lease, control, session));
        if let Some(running) = running.get_mut(&run_id) {
            running.abort = Some(task.abort_handle());
        }
    }

    pub(crate) fn stop_run(&self, run_id: &RunId, stop: Stop) {
        if let Some(running) = self.running().get(run_id) {
            running.control.stop(stop);
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

    pub(crate) fn check_running(&self) -> Result<(), Error> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Err(Error::Stopped(reason.clone())),
            None => Ok(()),
        }
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
        if std::thread::panicking() {
            // Nothing executes it now: the next comparison finds it.
            let mut strays = self.inner.strays.lock().unwrap_or_else(PoisonError::into_inner);
            strays.insert(self.run_id.clone(), self.epoch);
        }
        let mut running = self.inner.running();
        if running.get(&self.run_id).is_some_and(|running| running.epoch == self.epoch) {
            running.remove(&self.run_id);
        }
        let is_empty = running.is_empty();
        drop(running);
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

/// A hash of what was asked, to tell a repeated request from a different one under the same key.
fn fingerprint(asked: &str) -> Arc<str> {
    Arc::from(RunId::fingerprint(asked))
}

/// A value as JSON text.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings")
}
