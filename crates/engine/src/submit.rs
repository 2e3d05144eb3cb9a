//! Accepts runs: a request is checked, given its identity and stored before its caller has an answer.
//!
//! It must never know what a run does. The invariant: an id that was returned is on stable storage, and its run will be
//! executed.

use crate::drive;
use crate::ending::Ending;
use crate::engine::Engine;
use crate::error::{Error, admit_given};
use crate::handle::RunHandle;
use crate::inner::Inner;
use crate::stats;
use outlive_core::fork::ForkedFrom;
use outlive_core::port::{
    Accepted, Access, DbError, DbErrorKind, HookEvents, Lease, NewHook, NewItem, NewLog, NewRun, NewStart, NewTick,
    Order, RequestOptions, Run, RunFilter, RunLimit, SessionKind, SessionPolicy, Unreadable,
};
use outlive_core::{Attachments, Definition, DefinitionId, RunId, RunInfo, RunStatus, SessionId, Timestamp, WorkerId};
use serde::Serialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
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
    /// What is laid over the session's state when the run begins: objects are merged at every depth, anything else is
    /// replaced. Null removes; inside an object it is a value.
    pub session_state: Option<Map<String, Value>>,
    /// The session's kind, if this run creates it.
    pub session_kind: SessionKind,
    /// The caller's own data, images, files: what steps see beside the input.
    pub attachments: Attachments,
    /// The same key and the same request again give the same run; the same key and another request are refused.
    pub idempotency_key: Option<String>,
    /// What to do when the session has an unfinished run; absent, what its workflow says.
    pub policy: Option<SessionPolicy>,
    /// With the policy `Steer`: the id of the agent or the team that is to hear it; absent, whom its workflow says, or the
    /// agent, or the team's leader, that executes when it can be heard.
    pub steer_to: Option<String>,
    /// Where to send the run's events, if anywhere. The sender asks [`Engine::due_hooks`].
    pub hook: Option<NewHook>,
    /// The run that this one starts again; stored and shown with it.
    pub rerun_of: Option<RunId>,
    /// Not to begin before this.
    pub start_at: Option<Timestamp>,
    /// Not to begin before this has passed since it was accepted.
    pub delay: Option<Duration>,
    /// Of runs that wait for a process with room, those with a higher priority go first; among equals, those accepted
    /// first.
    pub priority: i8,
    /// Where the workflow limits how many of its runs execute at once: runs with the same key count together, apart from
    /// those with another key or none.
    pub concurrency_key: Option<String>,
}

/// What a run comes from.
pub(crate) enum Beginning {
    /// The request alone.
    Anew,
    /// Another run.
    Fork(Box<Copied>),
    /// A schedule, which was due.
    Tick(Box<NewTick>),
    /// An input of a batch.
    Item(Box<Placed>),
}

/// A place in a batch.
pub(crate) struct Placed {
    pub(crate) item: NewItem,
    /// Beside how many others of it the run may execute.
    pub(crate) limit: Option<Arc<RunLimit>>,
}

/// What a fork begins with.
pub(crate) struct Copied {
    /// Who it is.
    pub(crate) info: RunInfo,
    pub(crate) forked_from: ForkedFrom,
    pub(crate) log: Option<NewLog>,
    /// What its session begins with, if it is a new one.
    pub(crate) state: Option<Map<String, Value>>,
    /// What was asked, beside what the run itself says.
    pub(crate) asked: String,
    /// When its log was written.
    pub(crate) at: Timestamp,
    /// The place in a batch that it takes over.
    pub(crate) placed: Option<Placed>,
}

impl Submit {
    /// The same input, data and policy as a stored run's, for its user and in its session: what to submit to start it
    /// again. Timeouts and retries are those of the workflow version registered by then.
    ///
    /// # Errors
    /// When what is stored cannot be read.
    pub fn again(run: &Run) -> Result<Self, Unreadable> {
        let RequestOptions { attachments, policy, session_state, steer_to, .. } = run.request_options()?;
        Ok(Self {
            steer_to: steer_to.map(|id| id.to_string()),
            input: run.read_input()?,
            session_id: Some(run.info.session_id.to_string()),
            user_id: run.info.user_id.as_deref().map(str::to_owned),
            attachments,
            policy: Some(policy),
            session_state: Some(session_state).filter(|state| !state.is_empty()),
            rerun_of: Some(run.info.run_id.clone()),
            priority: run.priority,
            concurrency_key: run.limit.as_ref().and_then(|limit| limit.key_of(&run.info.workflow_id)),
            ..Self::default()
        })
    }

    /// Refuses what not everybody could store and read back.
    fn check_given(&mut self) -> Result<(), Error> {
        self.input.iter_mut().try_for_each(|input| admit_given("the input", input))?;
        self.attachments.additional_data.iter_mut().try_for_each(|data| admit_given("additional_data", data))?;
        let mut state = self.session_state.iter_mut().flat_map(Map::values_mut);
        state.try_for_each(|value| admit_given("session_state", value))
    }
}

impl Engine {
    /// Accepts a run. When this returns, the run is on stable storage and will be executed.
    ///
    /// # Cancel safety
    /// If the future is dropped the run may or may not have been accepted; repeat with the same idempotency key. One
    /// that was accepted is executed, whether or not anyone waits.
    ///
    /// # Errors
    /// [`Error::UnknownWorkflow`], [`Error::Input`], [`Error::InputTooLong`], [`Error::TooDeep`],
    /// [`Error::Nul`], [`Error::InvalidId`], [`Error::CannotBegin`], [`Error::QueueFull`],
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
            let place = self.inner().submit_places.clone().acquire_owned().await;
            let (engine, workflow_id) = (self.clone(), workflow_id.clone());
            let accepting = async move {
                let _place = place;
                let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
                let definition = engine.inner().newest(&workflow_id).ok_or_else(unknown)?;
                let handle = engine.accept(&definition, *submit, Beginning::Anew).await?;
                engine.inner().services.counters.submitted(began);
                Ok(handle)
            };
            self.finish(accepting).await
        }
    }

    pub(crate) async fn accept(
        &self,
        definition: &Arc<Definition>,
        submit: Submit,
        beginning: Beginning,
    ) -> Result<RunHandle, Error> {
        let taken = self.inner().accept(self.access(), definition, submit, beginning).await?;
        let Taken { run_id, is_repeated, ending, steers } = taken;
        Ok(self.attach(run_id).repeated(is_repeated).ending(ending).steered(steers))
    }
}

/// A run that was accepted.
pub(crate) struct Taken {
    pub(crate) run_id: RunId,
    pub(crate) is_repeated: bool,
    /// Of one that began here at once.
    ending: Option<Arc<Ending>>,
    /// The run that was accepted, where `run_id` is the one it steers.
    steers: Option<RunId>,
}

impl Inner {
    /// Whether further runs are accepted.
    pub(crate) fn ready(&self) -> Result<(), Error> {
        self.check_running()?;
        self.low_water.check(&*self.services.db, &self.options)
    }

    /// Accepts a run for whoever has this access.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        access: &Access,
        definition: &Arc<Definition>,
        mut submit: Submit,
        beginning: Beginning,
    ) -> Result<Taken, Error> {
        self.ready()?;
        submit.check_given()?;
        let submit = Submit { input: definition.accept_input(submit.input)?, ..submit };
        self.queue.admit(&*self.services.db, self.options.queued_max).await?;
        let is_own_session = submit.session_id.is_none();
        let own = access.user().map(|user_id| user_id.to_string());
        let mut new = self.new_run(definition, Submit { user_id: submit.user_id.or(own), ..submit }, beginning)?;
        let state = Arc::new(new.session_state.clone().unwrap_or_default());
        let is_message = new.policy == SessionPolicy::Steer;
        let mut run = Run::accepted(&new);
        let worker = self.has_room().then(|| self.worker());
        let session_id = new.info.session_id.clone();
        let ending = worker.as_ref().map(|_| Arc::<Ending>::default());
        let mut begun = None;
        if let (Some(worker), Some(ending), true) = (&worker, &ending, is_own_session && begins_at_once(&new)) {
            let lease = Lease { run_id: new.info.run_id.clone(), worker: worker.clone(), epoch: 1 };
            run = run.taken(&lease);
            let first = drive::begin(self, &run, lease, state.clone(), ending.clone(), definition);
            (new.start.first, begun) = first.map(|(page, begun)| (Box::new(page), begun)).unzip();
        }
        let accepted = self.create_run(access.clone(), new, worker).await.map_err(|error| {
            let is_foreign = error.kind() == DbErrorKind::NotFound;
            if is_foreign { Error::SessionNotFound(session_id) } else { error.into() }
        })?;
        let mut steers = matches!(accepted, Accepted::Steers { .. }).then(|| run.info.run_id.clone());
        let is_repeated = matches!(accepted, Accepted::Existing(_));
        if !is_repeated {
            stats::add(&self.services.counters.runs_accepted);
            self.services.hub.changed(&run.info.run_id);
        }
        let mut told = None;
        let run_id = match accepted {
            Accepted::Existing(run_id) => match is_message {
                true => match self.steered_by(access, &run_id).await? {
                    Some(into) => {
                        steers = Some(run_id);
                        into
                    }
                    None => run_id,
                },
                false => run_id,
            },
            Accepted::New { lease: Some(lease), has_begun } => {
                let (run_id, run) = (lease.run_id.clone(), run.taken(&lease));
                told = ending;
                match begun.filter(|_| has_begun) {
                    Some(begun) => drive::go_on(self, run, begun),
                    None => {
                        drive::start(self, run, lease, is_own_session.then_some(state), told.clone(), false);
                    }
                }
                run_id
            }
            Accepted::New { lease: None, .. } => {
                self.queue.joined();
                self.unleased.fetch_add(1, Ordering::Relaxed);
                self.wake.notify_one();
                run.info.run_id
            }
            Accepted::Steers { into } => {
                self.queue.joined();
                self.unleased.fetch_add(1, Ordering::Relaxed);
                into
            }
        };
        Ok(Taken { run_id, is_repeated, ending: told, steers })
    }

    /// The run that has heard this message, or may still hear it; none when it is a run of its own.
    async fn steered_by(&self, access: &Access, message: &RunId) -> Result<Option<RunId>, DbError> {
        let db = &self.services.db;
        let Some(run) = db.run_line(access.clone(), message.clone()).await? else { return Ok(None) };
        if run.status != RunStatus::Pending {
            return Ok(run.cancel.and_then(|cancel| cancel.taker()));
        }
        let filter = RunFilter {
            statuses: RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect(),
            session_id: Some(run.info.session_id.clone()),
            order: Order::OldestFirst,
            limit: 1,
            ..RunFilter::default()
        };
        let head = db.runs(access.clone(), filter).await?.runs.pop();
        let hears = |head: &Run| {
            head.cancel.is_none() && head.info.workflow_id == run.info.workflow_id && head.info.run_id != *message
        };
        Ok(head.filter(hears).map(|head| head.info.run_id))
    }

    fn new_run(&self, definition: &Definition, submit: Submit, beginning: Beginning) -> Result<NewRun, Error> {
        let (mut copied, mut tick, mut placed) = (None, None, None);
        match beginning {
            Beginning::Anew => {}
            Beginning::Fork(fork) => copied = Some(*fork),
            Beginning::Tick(due) => tick = Some(due),
            Beginning::Item(item) => placed = Some(*item),
        }
        let placed = placed.or_else(|| copied.as_mut().and_then(|copied| copied.placed.take()));
        let at = copied.as_ref().map_or_else(|| self.services.clock.now(), |copied| copied.at);
        let known = copied.as_ref().map(|copied| &copied.info);
        let run_id = match &submit.run_id {
            _ if let Some(known) = known => known.run_id.clone(),
            Some(text) => RunId::chosen(text)?,
            None => RunId::new(at, self.services.chance.wide_bits()),
        };
        let session_id = match &submit.session_id {
            _ if let Some(known) = known => known.session_id.clone(),
            Some(text) => SessionId::chosen(text)?,
            None => SessionId::new(at, self.services.chance.wide_bits()),
        };
        let input = submit.input.as_ref().map(|input| Arc::<str>::from(text(input)));
        let attached =
            (submit.attachments != Attachments::default()).then(|| serde_json::json!(submit.attachments).to_string());
        let rerun_of = submit.rerun_of.clone();
        // In a session of its own there is nothing that a workflow's policy could be about.
        let usual = submit.session_id.as_ref().map(|_| definition.session_policy);
        let policy = submit.policy.or(usual).unwrap_or_default();
        let steer_to = submit.steer_to.as_deref().map(Arc::from);
        let usual = definition.steer_to.clone().filter(|_| policy == SessionPolicy::Steer);
        let options = RequestOptions {
            attachments: submit.attachments,
            session_state: submit.session_state.clone().unwrap_or_default(),
            rerun_of: submit.rerun_of,
            forked_from: copied.as_ref().map(|copied| copied.forked_from.clone()),
            batch: placed.as_ref().map(|placed| placed.item.item.clone()),
            policy,
            steer_to: steer_to.clone().or(usual),
        };
        let kept =
            (options != RequestOptions::default()).then(|| Arc::<str>::from(serde_json::json!(options).to_string()));
        let bytes = input.as_ref().map_or(0, |text| text.len()) + kept.as_ref().map_or(0, |text| text.len());
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
        let asked = match &copied {
            Some(copied) => text(&(asked, "forked_from", &copied.asked)),
            None => asked,
        };
        let asked = match &steer_to {
            Some(steer_to) => text(&(asked, "steer_to", steer_to)),
            None => asked,
        };
        let key = submit.concurrency_key.as_deref();
        check_key(key)?;
        let limit = match &placed {
            Some(placed) => placed.limit.clone(),
            None => definition.concurrency.map(|max| Arc::new(RunLimit::of(&definition.id, key, max))),
        };
        let item = placed.map(|placed| Box::new(placed.item));
        let due_at = due(submit.start_at.max(submit.delay.map(|delay| at + delay)), at)?;
        if due_at.is_some() && policy == SessionPolicy::Steer {
            let problem = "what is sent to a run that executes cannot wait for a time: leave the time out, or queue it";
            return Err(Error::CannotBegin(problem.to_owned()));
        }
        let begins = (submit.start_at, submit.delay, submit.priority, &submit.concurrency_key);
        let asked = match begins {
            (None, None, 0, None) => asked,
            begins => text(&(asked, "begins", begins)),
        };
        let (log, state) = copied.map_or((None, None), |copied| (copied.log.map(Box::new), copied.state));
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
            options: kept,
            definition: definition.hash.clone(),
            structure: Some(definition.structure.clone()).filter(|text| text.len() <= STRUCTURE_BYTES_MAX),
            policy,
            session_state: state.or_else(|| definition.initial_state(submit.session_state)),
            session_kind: submit.session_kind,
            hook: submit.hook,
            start: NewStart { due_at, priority: submit.priority, limit, log, first: None, tick, item },
            at,
        })
    }

    async fn create_run(
        self: &Arc<Self>,
        access: Access,
        new: NewRun,
        worker: Option<WorkerId>,
    ) -> Result<Accepted, DbError> {
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is_on("ack-before-commit") {
            let inner = self.clone();
            tokio::spawn(async move { inner.services.db.create_run(access, new, None).await });
            return Ok(Accepted::New { lease: None, has_begun: false });
        }
        self.services.db.create_run(access, new, worker).await
    }
}

/// Whether nothing but a lack of room is in the way of a run in a session of its own.
fn begins_at_once(new: &NewRun) -> bool {
    let NewStart { due_at, limit, log, .. } = &new.start;
    due_at.is_none() && limit.is_none() && log.is_none()
}

/// When a run begins that is not to begin before this time: a time that has passed is now.
fn due(start_at: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, Error> {
    let due_at = start_at.filter(|due_at| *due_at > now);
    match due_at {
        Some(due_at) if due_at > START_MAX => {
            Err(Error::CannotBegin(format!("a run can begin until {}, not later", START_MAX.to_rfc3339())))
        }
        due_at => Ok(due_at),
    }
}

pub(crate) fn check_key(key: Option<&str>) -> Result<(), Error> {
    let is_key = |key: &str| (1..=KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control);
    match key {
        Some(key) if !is_key(key) => Err(Error::CannotBegin(format!(
            "a concurrency key has 1 to {KEY_BYTES_MAX} bytes and no control characters; this one has {}",
            key.len()
        ))),
        _ => Ok(()),
    }
}

/// The last hour that exists in every time zone before the year 10000, which RFC 3339 cannot name.
const START_MAX: Timestamp = Timestamp::from_seconds(253_402_207_200);

/// Longest concurrency key.
const KEY_BYTES_MAX: usize = 255;

/// Longest definition that is kept. Runs with a longer one are judged by their log alone.
const STRUCTURE_BYTES_MAX: usize = 4 << 20;

/// A hash of what was asked, to tell a repeated request from a different one under the same key.
fn fingerprint(asked: &str) -> Arc<str> {
    Arc::from(RunId::fingerprint(asked))
}

/// A value as JSON text.
fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings")
}
