//! Schedules from outside: creating them, looking at them, pausing them, and asking for a run now.
//!
//! A schedule is a row that says of which workflow runs are made, with what, and when. It must never know when times are
//! taken, which [`crate::ticks`] does. The invariant: a schedule that is stored can be read, its times exist, and its
//! workflow accepted its input when it was created.

use crate::cron::{Cron, CronError};
use crate::engine::Engine;
use crate::error::{Error, admit_given};
use crate::handle::RunHandle;
use crate::reader::Reader;
use crate::submit::{Beginning, Submit, check_key};
use outlive_core::port::{
    Access, DbErrorKind, NewSchedule, NewTick, ScheduleChange, ScheduleFilter, SessionPolicy, StoredSchedule,
    StoredTick, TickOutcome,
};
use outlive_core::{Definition, DefinitionId, RunId, SessionId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The longest name, in characters.
const NAME_LEN_MAX: usize = 200;

/// What becomes of times that pass while nobody is there to take them. A time is missed once a minute has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing: only what is to come counts.
    Skip,
    /// One run for all of them.
    #[default]
    One,
    /// A run for each of the newest hundred, the oldest first.
    All,
}

/// What happens when a schedule is due and the run before has not come to rest. A run that is PAUSED has: it may wait for
/// people for days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// No run is made.
    #[default]
    Skip,
    /// A run is made, and waits until those before have ended: all are in one session. There, a run that is PAUSED holds
    /// up the others.
    Queue,
    /// A run is made.
    Allow,
}

impl CatchUp {
    /// Every policy.
    pub const ALL: [CatchUp; 3] = [Self::Skip, Self::One, Self::All];

    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::One => "one",
            Self::All => "all",
        }
    }
}

impl Overlap {
    /// Every policy.
    pub const ALL: [Overlap; 3] = [Self::Skip, Self::Queue, Self::Allow];

    /// The word programs read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Allow => "allow",
        }
    }
}

/// What a schedule says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// When: five fields, or six that begin with seconds, or a name such as `@daily`.
    pub cron: String,
    /// By whose clocks: a name of the IANA time zone database.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// The input of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The session of its runs; when absent, each has its own, or with [`Overlap::Queue`] all have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// What becomes of times that were missed.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// What happens while the run before has not come to rest.
    #[serde(default)]
    pub overlap: Overlap,
    /// That of its runs.
    #[serde(default)]
    pub priority: i8,
    /// That of its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

impl ScheduleSpec {
    /// At these times in UTC, with no input and the default policies.
    pub fn new(cron: impl Into<String>) -> Self {
        Self {
            cron: cron.into(),
            time_zone: utc(),
            input: None,
            session_id: None,
            catch_up: CatchUp::default(),
            overlap: Overlap::default(),
            priority: 0,
            concurrency_key: None,
        }
    }

    /// Its times.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`].
    pub fn times(&self) -> Result<Cron, Error> {
        Cron::parse(&self.cron, &self.time_zone).map_err(|error| match error {
            CronError::Cron(problem) => Error::InvalidSchedule { field: "cron", problem },
            CronError::Zone(problem) => Error::InvalidSchedule { field: "time_zone", problem },
        })
    }

    /// The run that it makes; `key` makes it once.
    pub(crate) fn submit(&self, schedule: &StoredSchedule, key: Option<String>) -> Submit {
        let shared = (self.overlap == Overlap::Queue).then(|| shared_session(&schedule.id));
        let policy = match self.overlap {
            Overlap::Allow => SessionPolicy::Parallel,
            Overlap::Skip | Overlap::Queue => SessionPolicy::Queue,
        };
        Submit {
            input: self.input.clone(),
            session_id: self.session_id.clone().or(shared),
            user_id: schedule.user_id.as_deref().map(str::to_owned),
            policy: Some(policy),
            priority: self.priority,
            concurrency_key: self.concurrency_key.clone(),
            idempotency_key: key,
            ..Submit::default()
        }
    }
}

/// The session of runs that wait for each other.
fn shared_session(id: &str) -> String {
    format!("schedule-{id}")
}

/// A schedule as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Its id.
    pub id: Arc<str>,
    /// What people call it.
    pub name: Arc<str>,
    /// Of which workflow it makes runs.
    pub workflow_id: DefinitionId,
    /// Whose it is, and its runs.
    pub user_id: Option<Arc<str>>,
    /// What it says.
    pub spec: ScheduleSpec,
    /// What declares it, such as the path of a file; none for one that somebody made.
    pub source: Option<Arc<str>>,
    /// When it is due next; none while it is paused.
    pub next_due: Option<Timestamp>,
    /// The last time of it that was taken.
    pub last_due: Option<Timestamp>,
    /// The last run it has made. The run may have been deleted.
    pub last_run: Option<RunId>,
    /// How many runs it has made.
    pub runs: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When somebody changed it last.
    pub updated_at: Timestamp,
}

impl Schedule {
    /// Whether it makes no runs until it is resumed.
    pub fn is_paused(&self) -> bool {
        self.next_due.is_none()
    }
}

impl TryFrom<StoredSchedule> for Schedule {
    type Error = Error;

    fn try_from(stored: StoredSchedule) -> Result<Self, Error> {
        Ok(Self {
            spec: read_spec(&stored)?,
            id: stored.id,
            name: stored.name,
            workflow_id: stored.workflow_id,
            user_id: stored.user_id,
            source: stored.source,
            next_due: stored.next_due,
            last_due: stored.last_due,
            last_run: stored.last_run,
            runs: stored.runs,
            created_at: stored.created_at,
            updated_at: stored.updated_at,
        })
    }
}

/// What a stored schedule says.
pub(crate) fn read_spec(stored: &StoredSchedule) -> Result<ScheduleSpec, Error> {
    serde_json::from_str(&stored.text)
        .map_err(|error| Error::DamagedSchedule { id: stored.id.clone(), problem: error.to_string() })
}

/// A page of schedules, those created first first.
#[derive(Clone, Debug, Default)]
pub struct SchedulesPage {
    /// The schedules.
    pub schedules: Vec<Schedule>,
    /// Where to continue, when there is more.
    pub next: Option<String>,
}

/// A schedule to be created.
#[derive(Clone, Debug)]
pub struct CreateSchedule {
    /// What people call it; made from the workflow's id and its times when absent.
    pub name: Option<String>,
    /// What it says.
    pub spec: ScheduleSpec,
    /// Whose it is. A restricted engine fills in its own user and refuses another.
    pub user_id: Option<String>,
    /// Whether it takes the place of the one with its name, if there is one.
    pub replaces: bool,
    /// What declares it, such as the path of a file; absent for one that somebody makes. A name belongs to one declared
    /// schedule of a workflow, and to one that somebody made.
    pub source: Option<Arc<str>>,
}

impl CreateSchedule {
    /// One that says this.
    pub fn new(spec: ScheduleSpec) -> Self {
        Self { name: None, spec, user_id: None, replaces: false, source: None }
    }
}

impl Reader {
    /// Lists schedules.
    ///
    /// # Errors
    /// [`Error::DamagedSchedule`], or the store's; `Storage` when the cursor did not come from a list.
    pub async fn schedules(&self, filter: ScheduleFilter) -> Result<SchedulesPage, Error> {
        let page = self.inner.services.db.schedules(self.access.clone(), filter).await?;
        let schedules = page.schedules.into_iter().map(Schedule::try_from).collect::<Result<_, _>>()?;
        Ok(SchedulesPage { schedules, next: page.next })
    }

    /// The schedule with this id or, if there is none, the only one with this name.
    ///
    /// # Errors
    /// [`Error::ScheduleNotFound`], [`Error::InvalidSchedule`] when several have this name,
    /// [`Error::DamagedSchedule`], or the store's.
    pub async fn schedule(&self, id_or_name: &str) -> Result<Schedule, Error> {
        self.stored_schedule(id_or_name).await?.try_into()
    }

    async fn stored_schedule(&self, id_or_name: &str) -> Result<StoredSchedule, Error> {
        let db = &self.inner.services.db;
        let text: Arc<str> = Arc::from(id_or_name);
        if let Some(found) = db.schedule(self.access.clone(), text.clone()).await? {
            return Ok(found);
        }
        let filter = ScheduleFilter { name: Some(text.clone()), limit: 2, ..ScheduleFilter::default() };
        let mut named = db.schedules(self.access.clone(), filter).await?.schedules;
        match (named.pop(), named.pop()) {
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => Err(Error::InvalidSchedule {
                field: "name",
                problem: format!("there are several schedules named {text:?}: give the id of one"),
            }),
            (None, _) => Err(Error::ScheduleNotFound(text)),
        }
    }

    /// What came of the last times of a schedule, newest first, before `before` if that is given. A thousand are kept.
    ///
    /// # Errors
    /// The store's.
    pub async fn schedule_ticks(
        &self,
        id: &str,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<StoredTick>, Error> {
        Ok(self.inner.services.db.ticks(self.access.clone(), Arc::from(id), before, limit).await?)
    }
}

impl Engine {
    /// Creates a schedule; it is on stable storage when this returns. The same schedule again gives the one that is there.
    /// Its times are taken by every engine that executes its workflow, each time by one of them.
    ///
    /// # Errors
    /// [`Error::InvalidSchedule`] says which field is wrong and how; [`Error::UnknownWorkflow`], [`Error::Input`],
    /// [`Error::InputTooLong`], [`Error::TooDeep`], [`Error::InvalidId`], [`Error::CannotBegin`]; [`Error::Conflict`] when
    /// another schedule has the name; [`Error::ScheduleNotFound`] when it would belong to another user than this engine's; or the store's.
    ///
    /// # Cancel safety
    /// If the future is dropped it may or may not have been created; create it again.
    pub async fn create_schedule(
        &self,
        workflow_id: &DefinitionId,
        create: CreateSchedule,
    ) -> Result<ScheduleHandle, Error> {
        let inner = self.inner();
        inner.check_running()?;
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = inner.newest(workflow_id).ok_or_else(unknown)?;
        let CreateSchedule { name, mut spec, user_id, replaces, source } = create;
        self.check_spec(&definition, &mut spec)?;
        let at = inner.services.clock.now();
        let next_due = spec.times()?.next(at).ok_or_else(|| Error::InvalidSchedule {
            field: "cron",
            problem: format!("{:?} never comes again", spec.cron),
        })?;
        let name = name.unwrap_or_else(|| default_name(workflow_id, &spec));
        check_name(&name)?;
        let id: Arc<str> = Arc::from(RunId::new(at, inner.services.chance.wide_bits()).as_str());
        let user_id = user_id.map(Arc::from).or_else(|| self.access().user().cloned());
        let new = NewSchedule {
            id: id.clone(),
            name: Arc::from(name),
            workflow_id: workflow_id.clone(),
            user_id,
            text: Arc::from(serde_json::json!(spec).to_string()),
            source,
            next_due,
            replaces,
            at,
        };
        let stored = inner.services.db.create_schedule(self.access().clone(), new).await;
        let stored = stored.map_err(|error| match error.kind() {
            DbErrorKind::NotFound => Error::ScheduleNotFound(id),
            _ => error.into(),
        })?;
        Ok(self.attach_schedule(stored.try_into()?))
    }

    /// Refuses what no run of this workflow could have.
    fn check_spec(&self, definition: &Definition, spec: &mut ScheduleSpec) -> Result<(), Error> {
        spec.cron = spec.cron.trim().to_owned();
        if let Some(input) = &mut spec.input {
            admit_given("the input", input)?;
        }
        let input = definition.accept_input(spec.input.clone())?;
        let bytes = input.map_or(0, |input| input.to_string().len());
        let limit = self.inner().options.input_bytes_max;
        if bytes > limit {
            return Err(Error::InputTooLong { bytes, limit });
        }
        spec.session_id.as_deref().map(SessionId::chosen).transpose()?;
        check_key(spec.concurrency_key.as_deref())
    }

    /// A handle on a schedule that was read.
    pub fn attach_schedule(&self, schedule: Schedule) -> ScheduleHandle {
        ScheduleHandle { engine: self.clone(), schedule }
    }

    /// The schedule with this id or name, to be changed.
    ///
    /// # Errors
    /// As [`Reader::schedule`].
    pub async fn schedule(&self, id_or_name: &str) -> Result<ScheduleHandle, Error> {
        Ok(self.attach_schedule(self.reader().schedule(id_or_name).await?))
    }
}

fn default_name(workflow_id: &DefinitionId, spec: &ScheduleSpec) -> String {
    let cron = spec.cron.split_whitespace().collect::<Vec<_>>().join(" ");
    match spec.time_zone.as_str() {
        "UTC" => format!("{workflow_id} {cron}"),
        zone => format!("{workflow_id} {cron} {zone}"),
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let length = name.chars().count();
    let problem = if name.trim().is_empty() {
        "it is empty: choose one".to_owned()
    } else if length > NAME_LEN_MAX {
        format!("it has {length} characters, the limit is {NAME_LEN_MAX}: choose a shorter one")
    } else if name.chars().any(char::is_control) {
        "it has control characters: choose one of plain text".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::InvalidSchedule { field: "name", problem })
}

/// A schedule, and the way to change it. It dereferences to the schedule as it was when it was read; dropping it changes
/// nothing.
#[derive(Clone)]
pub struct ScheduleHandle {
    engine: Engine,
    schedule: Schedule,
}

impl fmt::Debug for ScheduleHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScheduleHandle({})", self.schedule.id)
    }
}

impl Deref for ScheduleHandle {
    type Target = Schedule;

    fn deref(&self) -> &Schedule {
        &self.schedule
    }
}

/// What is done is on stable storage once the future is ready. Errors are [`Error::ScheduleNotFound`] when it has been
/// deleted, and the store's.
#[expect(clippy::missing_errors_doc, reason = "said once above, for all of them")]
impl ScheduleHandle {
    /// It makes no runs until it is resumed; those it has made go on. Times that pass meanwhile are not missed.
    pub async fn pause(&self) -> Result<Schedule, Error> {
        self.change(ScheduleChange::Pause).await
    }

    /// It makes runs again, from its next time on.
    pub async fn resume(&self) -> Result<Schedule, Error> {
        let now = self.engine.inner().services.clock.now();
        let next = self.schedule.spec.times()?.next(now);
        let never = || Error::InvalidSchedule { field: "cron", problem: "it never comes again".to_owned() };
        self.change(ScheduleChange::Resume(next.ok_or_else(never)?)).await
    }

    /// Makes a run now, also while it is paused and whatever its last run does. Its next time stays as it is.
    ///
    /// # Errors
    /// Those of [`Engine::submit`] too.
    pub async fn trigger(&self) -> Result<RunHandle, Error> {
        let engine = self.engine.clone();
        let id = self.schedule.id.clone();
        self.engine.finish(async move { trigger(&engine, id).await }).await
    }

    /// Deletes it. The runs it has made stay, and go on.
    pub async fn delete(&self) -> Result<(), Error> {
        let (db, id) = (&self.engine.inner().services.db, self.schedule.id.clone());
        let is_gone = db.delete_schedule(self.engine.access().clone(), id.clone()).await?;
        if is_gone { Ok(()) } else { Err(Error::ScheduleNotFound(id)) }
    }

    /// What came of its last times, newest first: as many as `limit`, of the thousand that are kept.
    pub async fn ticks(&self, limit: u32) -> Result<Vec<StoredTick>, Error> {
        self.engine.reader().schedule_ticks(&self.schedule.id, None, limit).await
    }

    async fn change(&self, change: ScheduleChange) -> Result<Schedule, Error> {
        let (services, id) = (&self.engine.inner().services, self.schedule.id.clone());
        let at = services.clock.now();
        let changed = services.db.change_schedule(self.engine.access().clone(), id.clone(), change, at).await?;
        changed.ok_or(Error::ScheduleNotFound(id))?.try_into()
    }
}

async fn trigger(engine: &Engine, id: Arc<str>) -> Result<RunHandle, Error> {
    let inner = engine.inner();
    let stored = inner.services.db.schedule(engine.access().clone(), id.clone()).await?;
    let stored = stored.ok_or_else(|| Error::ScheduleNotFound(id.clone()))?;
    let unknown = || Error::UnknownWorkflow(stored.workflow_id.to_shared());
    let definition = inner.newest(&stored.workflow_id).ok_or_else(unknown)?;
    let now = inner.services.clock.now();
    let tick = NewTick {
        schedule_id: id.clone(),
        expected: None,
        next_due: now,
        due_at: now,
        outcome: TickOutcome::Triggered,
        note: None,
    };
    let submit = read_spec(&stored)?.submit(&stored, None);
    let access = owner(&stored);
    let taken = inner.accept(&access, &definition, submit, Beginning::Tick(Box::new(tick))).await;
    let taken = taken.map_err(|error| match &error {
        Error::Db(refused) if refused.kind() == DbErrorKind::Fenced => Error::ScheduleNotFound(id),
        _ => error,
    })?;
    Ok(engine.attach(taken.run_id))
}

/// The rights of a schedule's runs: those of its user.
pub(crate) fn owner(stored: &StoredSchedule) -> Access {
    stored.user_id.clone().map_or(Access::All, Access::User)
}
