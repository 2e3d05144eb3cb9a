//! Runs as the verbs see them, wherever they are: in a local database or behind a server.
//!
//! ```text
//! verb ──► Runs ──► Here: a reader, and an engine once one is needed
//!            └────► There: client of a server
//! ```
//! It must never print, except for the one line that says which of the two it is. The invariant: no verb asks which it
//! is; both give exactly the same output.

mod many;

use crate::cli::{Global, quoted};
use crate::cmd;
use crate::demo;
use crate::exit::{Exit, Problem};
use crate::files::Known;
use crate::output;
use crate::settings::{self, Settings, TOKEN};
use crate::store::{self, Store};
use crate::style;
use outlive::client::{
    self, Client, ClientError, ForkPreview, QuestionSummary, RunSummary, Submission, WorkflowSummary,
};
use outlive::core::port::{
    AuditKind, BudgetFilter, BudgetPage, BudgetRaise, QuestionFilter, RunFilter, ScheduleFilter, StoredBudget,
    StoredTick,
};
use outlive::core::{
    Answer, Definition, DefinitionId, Remedy, RunEvent, RunId, RunStatus, SessionId, WorkflowRunOutput,
};
use outlive::engine::{
    CreateSchedule, Engine, EngineBuilder, EventStream, Fork, Options, Prune, PruneReport, Reader, RunHandle, Schedule,
    SchedulesPage, Submit,
};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Minimum length of an id prefix.
const PREFIX_LEN_MIN: usize = 4;
/// How many runs an ambiguous prefix lists.
const CANDIDATES_MAX: u32 = 8;
/// How many questions are told of a run at most.
const OPEN_MAX: u32 = 50;
/// Events requested at a time. Each may be long.
const PAGE: u32 = 200;

/// What this process's engine is for, if the runs are local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Reads.
    Looks,
    /// Reads, cancels and answers.
    Steers,
    /// Accepts runs as well, for others to execute.
    Accepts,
    /// Executes what it accepts.
    Executes,
}

/// Where runs are.
pub(crate) enum Runs {
    /// In a database on this machine.
    Here(Box<Here>),
    /// Behind a server.
    There(Client),
}

/// A database, the reader of it, and the engine that is started when first needed.
pub(crate) struct Here {
    store: Store,
    role: Role,
    options: Options,
    /// The workflows of files that were named; else the demonstration's.
    definitions: Vec<Arc<Definition>>,
    reader: OnceLock<Reader>,
    engine: OnceCell<Engine>,
}

/// A page of runs.
pub(crate) struct Page {
    pub(crate) runs: Vec<RunSummary>,
    pub(crate) next: Option<String>,
    /// Runs that were left out because their rows are damaged: which, why, and what to do.
    pub(crate) unreadable: Vec<String>,
}

/// A run that was accepted.
pub(crate) struct Accepted {
    pub(crate) run_id: RunId,
    pub(crate) session_id: SessionId,
    pub(crate) is_repeated: bool,
    /// It had begun before, and the input was sent to it: the id under which that waits there.
    pub(crate) steering: Option<RunId>,
}

/// A run's events as they arrive.
pub(crate) enum Following {
    Here(EventStream),
    There(client::Following),
}

impl Following {
    /// The next event; nothing after the run's last.
    pub(crate) async fn next(&mut self) -> Result<Option<RunEvent>, Problem> {
        match self {
            Self::Here(events) => Ok(events.next().await?),
            Self::There(events) => Ok(events.next().await?),
        }
    }
}

impl Runs {
    /// Opens what the flags, the environment and `outlive.toml` name, for reading.
    ///
    /// # Errors
    /// When a setting is invalid, or there is no such database; none is created.
    pub(crate) async fn open(global: &Global) -> Result<Self, Problem> {
        Self::open_as(Role::Looks, global).await
    }

    /// The same, for a process of this role.
    ///
    /// # Errors
    /// As [`Runs::open`].
    pub(crate) async fn open_as(role: Role, global: &Global) -> Result<Self, Problem> {
        let settings = Settings::load(global)?;
        if settings.server.is_empty() {
            let store = match role {
                Role::Looks => Store::look_at(settings.db, global).await?,
                Role::Steers | Role::Accepts | Role::Executes => Store::open_at(settings.db, global).await?,
            };
            return Ok(Self::Here(Box::new(Here::new(store, role, settings.engine))));
        }
        Self::there(&settings, global)
    }

    /// The same, to start a run of this workflow: a missing database is created, if the workflow is known here.
    ///
    /// # Errors
    /// As [`Runs::open`].
    pub(crate) async fn open_to_start(
        workflow_id: &DefinitionId,
        role: Role,
        global: &Global,
    ) -> Result<Self, Problem> {
        let settings = Settings::load(global)?;
        if !settings.server.is_empty() {
            return Self::there(&settings, global);
        }
        let db = Arc::new(store::handle(&settings)?);
        let store = Store { db, path: settings.db };
        let known = demo::workflow(store.db.clone())?.definition().clone();
        if *workflow_id != known.id {
            return Err(outlive::engine::Error::UnknownWorkflow(workflow_id.to_shared()).into());
        }
        store.db.open().await?;
        Ok(Self::Here(Box::new(Here::new(store, role, settings.engine))))
    }

    /// The same as [`Runs::open_as`], where the workflows may be in files.
    ///
    /// # Errors
    /// As [`Runs::open_as`], and what is wrong with the files.
    pub(crate) async fn open_knowing(role: Role, known: &Known, global: &Global) -> Result<Self, Problem> {
        if known.files.is_empty() {
            return Self::open_as(role, global).await;
        }
        let (definitions, settings) = known.load(global)?;
        let store = Store::open_at(settings.db, global).await?;
        Ok(Self::Here(Box::new(Here { definitions, ..Here::new(store, role, settings.engine) })))
    }

    /// Opens the database of these settings to start runs of workflows in files; a missing one is created.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) async fn open_for(
        definitions: Vec<Arc<Definition>>,
        role: Role,
        settings: Settings,
    ) -> Result<Self, Problem> {
        let db = Arc::new(store::handle(&settings)?);
        let store = Store { db, path: settings.db };
        store.db.open().await?;
        Ok(Self::Here(Box::new(Here { definitions, ..Here::new(store, role, settings.engine) })))
    }

    fn there(settings: &Settings, global: &Global) -> Result<Self, Problem> {
        let client = client(settings)?;
        output::note(global, format_args!("Using server {}", client.server()));
        Ok(Self::There(client))
    }

    /// Begins to execute, where this process does; else the first use begins it.
    ///
    /// # Errors
    /// When the engine cannot be started.
    pub(crate) async fn begin(&self) -> Result<(), Problem> {
        match self {
            Self::Here(here) if here.role == Role::Executes => here.engine().await.map(drop),
            Self::Here(_) | Self::There(_) => Ok(()),
        }
    }

    /// The workflows of the server; none where there is no server.
    ///
    /// # Errors
    /// The server's.
    pub(crate) async fn served(&self) -> Result<Vec<WorkflowSummary>, Problem> {
        match self {
            Self::Here(_) => Ok(Vec::new()),
            Self::There(client) => Ok(client.workflows().await?),
        }
    }

    /// Where, for people.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Here(here) => here.store.path.display().to_string(),
            Self::There(client) => client.server().to_owned(),
        }
    }

    /// A command, looking where these runs are.
    fn command(&self, command: impl std::fmt::Display) -> String {
        match self {
            Self::Here(here) if here.store.path == Path::new(settings::DB) => command.to_string(),
            Self::Here(_) => format!("{command} --db {}", quoted(&self.place())),
            Self::There(_) => format!("{command} --server {}", quoted(&self.place())),
        }
    }

    /// Where else to look for runs when there are none.
    pub(crate) fn remark_on_nothing(&self, global: &Global) -> Result<Option<&'static str>, Problem> {
        Ok(match self {
            Self::Here(_) if global.session_table()?.is_none() => {
                Some("a program that chose its own sessions table keeps its runs apart: --session-table")
            }
            Self::Here(_) | Self::There(_) => None,
        })
    }

    /// Whether the end of this process interrupts what it has started.
    pub(crate) fn is_executing(&self) -> bool {
        matches!(self, Self::Here(here) if here.role == Role::Executes)
    }

    /// Whether they are in a database on this machine.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    /// The command that executes what this process has started, where it waits for another process to do so.
    pub(crate) fn awaited_worker(&self, global: &Global) -> Option<String> {
        match self {
            Self::Here(here) if here.role == Role::Accepts => Some(global.worker()),
            Self::Here(_) | Self::There(_) => None,
        }
    }

    /// The run that `text` names.
    ///
    /// # Errors
    /// When there is none, or more than one; the runs are then listed.
    pub(crate) async fn find(&self, text: &str) -> Result<RunSummary, Problem> {
        match text {
            "@last" => self.newest(RunFilter::default(), "no run yet").await,
            "@last-failed" => {
                let filter = RunFilter { statuses: vec![RunStatus::Error], ..RunFilter::default() };
                self.newest(filter, "no failed run").await
            }
            _ if text.starts_with('@') => {
                let problem = Problem::new(Exit::Usage, "usage", format!("{text} does not name a run"));
                Err(problem.hint("write @last or @last-failed"))
            }
            _ => self.find_by_id(text).await,
        }
    }

    async fn newest(&self, filter: RunFilter, none: &str) -> Result<RunSummary, Problem> {
        let page = self.list(RunFilter { limit: 1, ..filter }).await?;
        let missing = || Problem::new(Exit::NotFound, "run_not_found", format!("{none} in {}", self.place()));
        page.runs.into_iter().next().ok_or_else(missing)
    }

    async fn find_by_id(&self, text: &str) -> Result<RunSummary, Problem> {
        let id = RunId::parse(text).map_err(|error| Problem::new(Exit::Usage, "invalid_id", error))?;
        if let Some(run) = self.run(&id).await? {
            return Ok(run);
        }
        let missing = || {
            let message = format!("there is no run {text} in {}", self.place());
            Problem::new(Exit::NotFound, "run_not_found", message).hint(self.command("see them all with: outlive ls"))
        };
        if text.len() < PREFIX_LEN_MIN {
            return Err(missing().hint(format!("an id prefix needs at least {PREFIX_LEN_MIN} characters")));
        }
        let filter = RunFilter { id_prefix: Some(text.to_owned()), limit: CANDIDATES_MAX, ..RunFilter::default() };
        let mut page = self.list(filter).await?;
        match page.runs.len() {
            0 => Err(missing()),
            1 => Ok(page.runs.remove(0)),
            _ => Err(ambiguous(text, &page)),
        }
    }

    /// The run with this id.
    async fn run(&self, id: &RunId) -> Result<Option<RunSummary>, Problem> {
        match self {
            Self::Here(here) => match here.reader().record(id).await? {
                Some(run) => {
                    let waiting = here.reader().waiting(&run).await?;
                    Ok(Some(RunSummary::from(run).with_waiting(waiting)))
                }
                None => Ok(None),
            },
            Self::There(client) => match client.run(id).await {
                Ok(found) => Ok(Some(found.run)),
                Err(ClientError::NotFound(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// A page of runs.
    ///
    /// # Errors
    /// The store's or the server's, here and below.
    pub(crate) async fn list(&self, filter: RunFilter) -> Result<Page, Problem> {
        match self {
            Self::Here(here) => {
                let page = here.reader().runs(filter).await?;
                let unreadable = page.unreadable.iter().map(ToString::to_string).collect();
                let waitings = here.reader().waitings(&page.runs).await?;
                let summary = |(run, waiting)| RunSummary::from(run).with_waiting(waiting);
                let runs = page.runs.into_iter().zip(waitings).map(summary).collect();
                Ok(Page { runs, next: page.next, unreadable })
            }
            Self::There(client) => {
                let list = client.runs(&filter).await?;
                Ok(Page { runs: list.runs, next: list.next, unreadable: list.unreadable })
            }
        }
    }

    /// The run's current state, down to the call in flight.
    pub(crate) async fn standing(&self, id: &RunId) -> Result<RunSummary, Problem> {
        self.run(id).await?.ok_or_else(|| gone(id))
    }

    /// A run's current state.
    pub(crate) async fn status(&self, id: &RunId) -> Result<RunStatus, Problem> {
        Ok(self.standing(id).await?.status)
    }

    /// The run's result, as far as there is one.
    pub(crate) async fn output(&self, id: &RunId) -> Result<WorkflowRunOutput, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().get_run(id).await?.ok_or_else(|| gone(id))?),
            Self::There(client) => Ok(client.output(id).await?),
        }
    }

    /// The events stored so far, after index `after`.
    pub(crate) async fn events(&self, id: &RunId, after: Option<u64>) -> Result<Vec<RunEvent>, Problem> {
        match self {
            Self::Here(here) => {
                let entries = here.store.entries(id, after.map_or(0, |after| after.saturating_add(1))).await?;
                Ok(entries.into_iter().map(|entry| entry.event).collect())
            }
            Self::There(client) => {
                let (mut events, mut after) = (Vec::new(), after);
                loop {
                    let page = client.events(id, after, PAGE).await?;
                    events.extend(page.events);
                    match page.next_after {
                        Some(next) => after = Some(next),
                        None => return Ok(events),
                    }
                }
            }
        }
    }

    /// The events after index `after`: stored ones, then live ones.
    pub(crate) async fn follow(&self, id: &RunId, after: Option<u64>) -> Result<Following, Problem> {
        match self {
            Self::Here(here) => Ok(Following::Here(here.reader().events(id, after))),
            Self::There(client) => Ok(Following::There(client.follow(id, after))),
        }
    }

    /// The run's status once it is over, or its state after this time.
    pub(crate) async fn settled(&self, id: &RunId, patience: Duration) -> Result<RunStatus, Problem> {
        let over = async {
            match self {
                Self::Here(here) => Ok::<_, Problem>(here.reader().wait(id).await?),
                Self::There(client) => Ok(client.wait(id).await?),
            }
        };
        match tokio::time::timeout(patience, over).await {
            Ok(output) => Ok(output?.status),
            Err(_) => self.status(id).await,
        }
    }

    /// Durably requests the end of a run; returns its status if it was over already.
    pub(crate) async fn cancel(&self, id: &RunId, reason: &str) -> Result<Option<RunStatus>, Problem> {
        match self {
            Self::Here(here) => {
                let over = here.engine().await?.cancel(id, reason).await?;
                if over.is_none() {
                    here.note(AuditKind::RunCancel, "requested", "outlive cancel", id).await?;
                }
                Ok(over)
            }
            Self::There(client) => Ok(client.cancel(id, reason).await?),
        }
    }

    /// Starts a run.
    pub(crate) async fn submit(&self, workflow_id: &DefinitionId, submit: Submit) -> Result<Accepted, Problem> {
        match self {
            Self::Here(here) => here.submit(workflow_id, submit).await,
            Self::There(client) => Ok(client.submit(&submission(workflow_id, submit)).await?.into()),
        }
    }

    /// Starts a run with the input of this one.
    pub(crate) async fn rerun(&self, id: &RunId) -> Result<Accepted, Problem> {
        match self {
            Self::Here(here) => {
                let run = here.reader().record(id).await?.ok_or_else(|| gone(id))?;
                let accepted = here.submit(&run.info.workflow_id, Submit::again(&run)?).await?;
                here.note(AuditKind::RunRerun, "accepted", "outlive rerun", id).await?;
                Ok(accepted)
            }
            Self::There(client) => Ok(client.rerun(id, None).await?.into()),
        }
    }

    /// Deletes runs that have ended, or says which would be.
    pub(crate) async fn prune(&self, prune: Prune) -> Result<PruneReport, Problem> {
        match self {
            Self::Here(here) if prune.is_preview => Ok(here.reader().preview_prune(prune).await?),
            Self::Here(here) => {
                let report = here.engine().await?.prune(prune).await?;
                if report.runs + report.batches > 0 {
                    let what = report.to_string();
                    store::note(&*here.store.db, AuditKind::RunPrune, "done", "outlive prune", &what).await?;
                }
                Ok(report)
            }
            Self::There(client) => Ok(client.prune(&prune).await?),
        }
    }

    /// Starts a fork of this run.
    pub(crate) async fn fork(&self, id: &RunId, fork: &Fork, verb: &str) -> Result<Accepted, Problem> {
        match self {
            Self::Here(here) => {
                let engine = here.engine().await?;
                let handle = engine.fork(id, fork.clone()).await?;
                here.note(AuditKind::RunFork, "accepted", verb, id).await?;
                here.accepted(&handle).await
            }
            Self::There(client) => Ok(client.fork(id, fork).await?.into()),
        }
    }

    /// Which calls a fork would make again.
    pub(crate) async fn preview_fork(&self, id: &RunId, fork: &Fork) -> Result<ForkPreview, Problem> {
        match self {
            Self::Here(here) => Ok(here.engine().await?.preview_fork(id, fork).await?.into()),
            Self::There(client) => Ok(client.preview_fork(id, fork).await?),
        }
    }

    /// A page of questions, and where to continue.
    pub(crate) async fn questions(
        &self,
        filter: QuestionFilter,
    ) -> Result<(Vec<QuestionSummary>, Option<String>), Problem> {
        match self {
            Self::Here(here) => {
                let page = here.reader().questions(filter).await?;
                Ok((page.questions.into_iter().map(QuestionSummary::from).collect(), page.next))
            }
            Self::There(client) => {
                let list = client.questions(&filter).await?;
                Ok((list.questions, list.next))
            }
        }
    }

    /// The question with this id.
    async fn question(&self, id: &str) -> Result<Option<QuestionSummary>, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().question(id).await?.map(QuestionSummary::from)),
            Self::There(client) => match client.question(id).await {
                Ok(question) => Ok(Some(question)),
                Err(ClientError::NotFound(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// The questions whose answers let a run go on: its own, or the one that the run in front of it waits for. None when
    /// the caller may not read questions.
    pub(crate) async fn open_questions(&self, run: &RunSummary) -> Result<Vec<QuestionSummary>, Problem> {
        if run.status.is_terminal() {
            return Ok(Vec::new());
        }
        let filter =
            QuestionFilter { run_id: Some(run.info.run_id.clone()), limit: OPEN_MAX, ..QuestionFilter::default() };
        let open = async {
            let (mut open, _) = self.questions(filter).await?;
            let remedy = run.waiting.as_ref().and_then(|waiting| waiting.remedy.as_ref());
            if let (true, Some(Remedy::Answer { question_id })) = (open.is_empty(), remedy) {
                open.extend(self.question(question_id).await?.filter(QuestionSummary::is_open));
            }
            Ok::<_, Problem>(open)
        };
        match open.await {
            Err(problem) if matches!(problem.exit, Exit::NotAllowed) => Ok(Vec::new()),
            open => open,
        }
    }

    /// The question that `text` names: by its id or the beginning of it, or by its run if that asks only one.
    ///
    /// # Errors
    /// When there is none, or more than one; the questions are then listed.
    pub(crate) async fn find_question(&self, text: &str) -> Result<QuestionSummary, Problem> {
        if text.len() >= PREFIX_LEN_MIN
            && !text.starts_with('@')
            && let Some(question) = self.question(text).await?
        {
            return Ok(question);
        }
        match self.find(text).await {
            Ok(run) => self.only_question(&run).await,
            Err(problem) if problem.exit == Exit::NotFound && !text.starts_with('@') => {
                self.question_by_prefix(text).await
            }
            Err(problem) => Err(problem),
        }
    }

    /// The only open question of this run.
    async fn only_question(&self, run: &RunSummary) -> Result<QuestionSummary, Problem> {
        let id = &run.info.run_id;
        let filter = QuestionFilter { run_id: Some(id.clone()), limit: CANDIDATES_MAX, ..QuestionFilter::default() };
        let (mut open, next) = self.questions(filter).await?;
        match open.len() {
            0 => {
                let (_, word) = cmd::state(run);
                let problem =
                    Problem::new(Exit::WrongState, "no_open_question", format!("run {id} is {word} and asks nothing"));
                Err(problem.hint(self.command(format!("see what it asked: outlive questions --all --run {id}"))))
            }
            1 => Ok(open.remove(0)),
            _ => Err(ambiguous_question(&format!("run {id} asks several questions"), &open, next.is_some())),
        }
    }

    async fn question_by_prefix(&self, text: &str) -> Result<QuestionSummary, Problem> {
        let missing = || {
            let message = format!("there is no question {text} and no such run in {}", self.place());
            Problem::new(Exit::NotFound, "question_not_found", message)
                .hint(self.command("see them all with: outlive questions --all"))
        };
        if text.len() < PREFIX_LEN_MIN {
            return Err(missing().hint(format!("an id prefix needs at least {PREFIX_LEN_MIN} characters")));
        }
        // Open ones first: they are few, and what people mean.
        for with_settled in [false, true] {
            let id_prefix = Some(text.to_owned());
            let filter = QuestionFilter { id_prefix, with_settled, limit: CANDIDATES_MAX, ..QuestionFilter::default() };
            let (mut found, next) = self.questions(filter).await?;
            match found.len() {
                0 => {}
                1 => return Ok(found.remove(0)),
                _ => {
                    let message = format!("{text} matches several questions");
                    return Err(ambiguous_question(&message, &found, next.is_some()));
                }
            }
        }
        Err(missing())
    }

    /// Durably answers a question; returns it as it stands then.
    pub(crate) async fn answer(
        &self,
        id: &Arc<str>,
        answer: Answer,
        by: Option<Arc<str>>,
        action: &str,
    ) -> Result<QuestionSummary, Problem> {
        match self {
            Self::Here(here) => {
                let answered = here.engine().await?.answer([(id.clone(), answer)], by).await?;
                let question = answered.into_iter().next().map(QuestionSummary::from);
                let question = question.ok_or_else(|| outlive::engine::Error::QuestionNotFound(id.clone()))?;
                here.note(AuditKind::QuestionAnswer, "done", action, &question.run_id).await?;
                Ok(question)
            }
            Self::There(client) => Ok(client.answer(id, &answer).await?),
        }
    }

    /// Creates a schedule of this workflow.
    pub(crate) async fn create_schedule(
        &self,
        workflow_id: &DefinitionId,
        create: CreateSchedule,
    ) -> Result<Schedule, Problem> {
        match self {
            Self::Here(here) => {
                let created = here.engine().await?.create_schedule(workflow_id, create).await?;
                here.note_schedule("created", "outlive schedule add", &created).await?;
                Ok((*created).clone())
            }
            Self::There(client) => Ok(client.create_schedule(workflow_id, &create).await?),
        }
    }

    /// A page of schedules.
    pub(crate) async fn schedules(&self, filter: ScheduleFilter) -> Result<SchedulesPage, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().schedules(filter).await?),
            Self::There(client) => Ok(client.schedules(&filter).await?),
        }
    }

    /// The schedule with this id or name.
    pub(crate) async fn schedule(&self, name: &str) -> Result<Schedule, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().schedule(name).await?),
            Self::There(client) => client.schedule(name).await.map_err(|error| schedule_problem(name, error)),
        }
    }

    /// What came of a schedule's last times, newest first.
    pub(crate) async fn schedule_ticks(&self, id: &str, limit: u32) -> Result<Vec<StoredTick>, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().schedule_ticks(id, None, limit).await?),
            Self::There(client) => client.schedule_ticks(id, limit).await.map_err(|error| schedule_problem(id, error)),
        }
    }

    /// Keeps a schedule from making runs.
    pub(crate) async fn pause_schedule(&self, name: &str) -> Result<Schedule, Problem> {
        match self {
            Self::Here(here) => {
                let paused = here.engine().await?.schedule(name).await?.pause().await?;
                here.note_schedule("paused", "outlive schedule pause", &paused).await?;
                Ok(paused)
            }
            Self::There(client) => client.pause_schedule(name).await.map_err(|error| schedule_problem(name, error)),
        }
    }

    /// Lets it make runs again.
    pub(crate) async fn resume_schedule(&self, name: &str) -> Result<Schedule, Problem> {
        match self {
            Self::Here(here) => {
                let resumed = here.engine().await?.schedule(name).await?.resume().await?;
                here.note_schedule("resumed", "outlive schedule resume", &resumed).await?;
                Ok(resumed)
            }
            Self::There(client) => client.resume_schedule(name).await.map_err(|error| schedule_problem(name, error)),
        }
    }

    /// Makes a run of it now.
    pub(crate) async fn trigger_schedule(&self, name: &str) -> Result<Accepted, Problem> {
        match self {
            Self::Here(here) => {
                let schedule = here.engine().await?.schedule(name).await?;
                let handle = schedule.trigger().await?;
                here.note_schedule("triggered", "outlive schedule run", &schedule).await?;
                here.accepted(&handle).await
            }
            Self::There(client) => {
                let accepted = client.trigger_schedule(name).await.map_err(|error| schedule_problem(name, error))?;
                Ok(accepted.into())
            }
        }
    }

    /// Deletes it.
    pub(crate) async fn delete_schedule(&self, name: &str) -> Result<(), Problem> {
        match self {
            Self::Here(here) => {
                let schedule = here.engine().await?.schedule(name).await?;
                schedule.delete().await?;
                here.note_schedule("deleted", "outlive schedule rm", &schedule).await
            }
            Self::There(client) => client.delete_schedule(name).await.map_err(|error| schedule_problem(name, error)),
        }
    }

    /// A page of accounts of budgets.
    pub(crate) async fn budgets(&self, filter: BudgetFilter) -> Result<BudgetPage, Problem> {
        match self {
            Self::Here(here) => Ok(here.reader().budgets(filter).await?),
            Self::There(client) => Ok(client.budgets(&filter).await?),
        }
    }

    /// The account with this id.
    pub(crate) async fn budget(&self, id: &str) -> Result<StoredBudget, Problem> {
        let id: Arc<str> = Arc::from(id);
        let filter = BudgetFilter { id: Some(id.clone()), ..BudgetFilter::default() };
        let found = self.budgets(filter).await?.budgets.into_iter().next();
        found.ok_or_else(|| outlive::engine::Error::BudgetNotFound(id).into())
    }

    /// Adds to what an account has, unless somebody has since it was `seen`.
    pub(crate) async fn raise_budget(&self, seen: &StoredBudget, amount: u64) -> Result<StoredBudget, Problem> {
        match self {
            Self::Here(here) => {
                let id = seen.account.id.clone();
                let raise = BudgetRaise { id, amount, seen: Some(seen.standing.raised) };
                let raised = here.engine().await?.raise_budget(raise).await?;
                let outcome = format!("by {}", raised.account.unit.show(amount));
                let (kind, action) = (AuditKind::BudgetRaise, "outlive budgets raise");
                store::note(&*here.store.db, kind, &outcome, action, &raised.account.id).await?;
                Ok(raised)
            }
            Self::There(client) => Ok(client.raise_budget(seen, amount).await?),
        }
    }

    /// Takes up unfinished runs, if this process executes.
    pub(crate) async fn take_up(&self) -> Result<(), Problem> {
        match self {
            Self::Here(here) if here.role == Role::Executes => here.engine().await.map(drop),
            Self::Here(_) | Self::There(_) => Ok(()),
        }
    }

    /// Ends this process's work on it. Unfinished runs resume elsewhere.
    pub(crate) async fn close(&self) -> Result<(), Problem> {
        match self {
            Self::Here(here) => match here.engine.get() {
                Some(engine) => Ok(engine.shutdown().await?),
                None => Ok(()),
            },
            Self::There(_) => Ok(()),
        }
    }
}

impl Here {
    fn new(store: Store, role: Role, options: Options) -> Self {
        // Ctrl-C should not take half a minute.
        let shutdown_grace = Duration::from_secs(2);
        let options = Options { execute: role == Role::Executes, shutdown_grace, ..options };
        let definitions = Vec::new();
        Self { store, role, options, definitions, reader: OnceLock::new(), engine: OnceCell::new() }
    }

    /// Reads as the engine does if there is one; none is started to read.
    fn reader(&self) -> &Reader {
        let over_store = || Reader::over(self.store.db.clone(), self.options.clone());
        self.engine.get().map_or_else(|| self.reader.get_or_init(over_store), Engine::reader)
    }

    async fn engine(&self) -> Result<&Engine, Problem> {
        let start = || async {
            let builder = Engine::builder(self.store.db.clone()).options(self.options.clone());
            let builder = match self.role {
                Role::Looks | Role::Steers => builder,
                Role::Accepts | Role::Executes if self.definitions.is_empty() => {
                    builder.workflow(demo::workflow(self.store.db.clone())?.definition().clone())
                }
                Role::Accepts | Role::Executes => {
                    self.definitions.iter().cloned().fold(builder, EngineBuilder::workflow)
                }
            };
            Ok::<_, Problem>(builder.start().await?)
        };
        self.engine.get_or_try_init(start).await
    }

    /// A server records requests itself; actions done here would otherwise go unrecorded.
    async fn note(&self, kind: AuditKind, outcome: &str, action: &str, id: &RunId) -> Result<(), Problem> {
        Ok(store::note(&*self.store.db, kind, outcome, action, id.as_str()).await?)
    }

    async fn note_schedule(&self, outcome: &str, action: &str, schedule: &Schedule) -> Result<(), Problem> {
        Ok(store::note(&*self.store.db, AuditKind::ScheduleChange, outcome, action, &schedule.id).await?)
    }

    async fn submit(&self, workflow_id: &DefinitionId, submit: Submit) -> Result<Accepted, Problem> {
        let handle = self.engine().await?.submit(workflow_id, submit).await?;
        self.accepted(&handle).await
    }

    async fn accepted(&self, handle: &RunHandle) -> Result<Accepted, Problem> {
        let standing = self.reader().standing(handle.run_id()).await?.ok_or_else(|| gone(handle.run_id()))?;
        Ok(Accepted {
            run_id: standing.run_id,
            session_id: standing.session_id,
            is_repeated: handle.is_repeated(),
            steering: handle.steering_run_id().cloned(),
        })
    }
}

impl From<client::Accepted> for Accepted {
    fn from(accepted: client::Accepted) -> Self {
        Self {
            run_id: accepted.run_id,
            session_id: accepted.session_id,
            is_repeated: accepted.is_repeated,
            steering: accepted.steering_run_id,
        }
    }
}

/// A client for the server named in the settings, with the credential from the environment.
///
/// # Errors
/// When the address is invalid, or the credential cannot be sent.
pub(crate) fn client(settings: &Settings) -> Result<Client, Problem> {
    let token = match std::env::var(TOKEN) {
        Ok(token) => token,
        Err(std::env::VarError::NotPresent) => String::new(),
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(settings::configuration(format!("{TOKEN} is not valid UTF-8")));
        }
    };
    Ok(Client::builder(&settings.server).token(token).build()?)
}

/// The same request, for a server.
fn submission(workflow_id: &DefinitionId, submit: Submit) -> Submission {
    let submission = Submission::new(workflow_id.as_str());
    let with = |submission: Submission, value: Option<String>, set: fn(Submission, String) -> Submission| match value {
        Some(value) => set(submission, value),
        None => submission,
    };
    let submission = match submit.input {
        Some(input) => submission.input(input),
        None => submission,
    };
    let submission = with(submission, submit.run_id, Submission::run_id);
    let submission = with(submission, submit.session_id, Submission::session_id);
    let submission = with(submission, submit.user_id, Submission::user_id);
    let submission = with(submission, submit.steer_to, Submission::steer_to);
    let submission = match submit.policy {
        Some(policy) => submission.session_policy(policy),
        None => submission,
    };
    let submission = with(submission, submit.concurrency_key, Submission::concurrency_key);
    let submission = match submit.start_at {
        Some(time) => submission.start_at(time),
        None => submission,
    };
    let submission = if submit.priority == 0 { submission } else { submission.priority(submit.priority) };
    with(submission, submit.idempotency_key, Submission::idempotency_key)
}

/// The same as where there is no server.
fn schedule_problem(name: &str, error: ClientError) -> Problem {
    match error {
        ClientError::NotFound(refusal) if refusal.code != "unknown_component" => {
            outlive::engine::Error::ScheduleNotFound(Arc::from(name)).into()
        }
        error => error.into(),
    }
}

fn gone(id: &RunId) -> Problem {
    Problem::new(Exit::NotFound, "run_not_found", format!("run {id} is gone"))
}

fn ambiguous(text: &str, page: &Page) -> Problem {
    let line = |run: &RunSummary| {
        let (_, status) = cmd::state(run);
        format!("{}  {status}  {}", run.info.run_id, style::line(&run.info.workflow_name, 60))
    };
    let mut lines: Vec<_> = page.runs.iter().map(line).collect();
    if page.next.is_some() {
        lines.push("and more".to_owned());
    }
    let message = format!("{text} matches several runs");
    Problem::new(Exit::Usage, "run_ambiguous", message).hint(lines.join("\n"))
}

fn ambiguous_question(message: &str, questions: &[QuestionSummary], has_more: bool) -> Problem {
    let line = |question: &QuestionSummary| {
        let message = style::line(question.message.as_deref().unwrap_or(&question.kind), 60);
        format!("{}  {}: {message}", question.question_id, style::line(&question.step_name, 40))
    };
    let shown = CANDIDATES_MAX as usize;
    let mut lines: Vec<_> = questions.iter().take(shown).map(line).collect();
    if has_more || questions.len() > shown {
        lines.push("and more".to_owned());
    }
    Problem::new(Exit::Usage, "question_ambiguous", message).hint(format!("name one:\n{}", lines.join("\n")))
}
