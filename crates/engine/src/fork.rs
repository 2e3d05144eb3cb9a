//! Forks: a new run that begins with what another has done, up to an entry, and goes on from there.
//!
//! What is kept is copied into the new run's log when it is accepted, in the same transaction, so the fork needs the
//! other run no more. It executes like any run that is taken over. It must never know where a log may be cut: `core`
//! does. The invariant: a preview and a fork of the same run at the same place agree, and a preview changes nothing.

use crate::engine::Engine;
use crate::error::{Error, check_given};
use crate::fold;
use crate::handle::RunHandle;
use crate::questions::text_of;
use crate::reader::Reader;
use crate::submit::{Beginning, Copied, Placed, Submit};
use outlive_core::fork::{CannotFork, Cut, ForkCall, ForkEdit, ForkPoint, ForkedFrom};
use outlive_core::log::{Entry, Key, Writer};
use outlive_core::machine::WorkflowMachine;
use outlive_core::port::{
    Access, Db, DbError, NewAnswer, NewItem, NewLog, NewQuestion, Order, Run, RunFilter, SessionPolicy, merge,
};
use outlive_core::{Answer, Attachments, Definition, Question, RunId, RunInfo, SessionId, Timestamp, ToolEffect, json};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Entries that share a page of a copied log.
const PAGE_ENTRIES: usize = 256;

/// Earlier runs of a session that are searched for what its state was.
const EARLIER_RUNS_MAX: u32 = 100;

/// A request to fork a run, or to try it again.
#[derive(Clone, Debug)]
pub struct Fork {
    /// Where.
    pub at: ForkPoint,
    /// What is changed there.
    pub edit: ForkEdit,
    /// Another input; what was recorded before stays as it was.
    pub input: Option<Value>,
    /// Who changes something; kept with an answer. Under four eyes it must be somebody else than whose run it is, as for
    /// answering: for another answer, and for another input or output after one.
    pub by: Option<Arc<str>>,
    /// The caller's id for the fork; made when absent.
    pub run_id: Option<String>,
    /// The session that the fork belongs to: when absent, a new one; where a run is tried again, the run's own. One that
    /// the fork makes begins with the state as it was at that entry.
    pub session_id: Option<String>,
    /// The same key and the same request again give the same run.
    pub idempotency_key: Option<String>,
}

impl Fork {
    /// At this place, with nothing changed.
    pub fn at(point: impl Into<ForkPoint>) -> Self {
        Self {
            at: point.into(),
            edit: ForkEdit::Nothing,
            input: None,
            by: None,
            run_id: None,
            session_id: None,
            idempotency_key: None,
        }
    }

    /// Where the run failed, was cancelled, or first skipped a failure: see [`ForkPoint::Failure`].
    pub fn retry() -> Self {
        Self::at(ForkPoint::Failure)
    }
}

/// What a fork keeps and what it does again, as far as the run it is made from tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkPreview {
    /// Where it is cut: the entries before this one are kept.
    pub forked_from: ForkedFrom,
    /// Calls that are not made again: what came of them is kept.
    pub kept: Vec<ForkCall>,
    /// Calls of the run that are made again, as far as the fork comes to them.
    pub again: Vec<ForkCall>,
}

impl ForkPreview {
    /// Those made again that must not be made twice: the fork's have keys of their own, so nobody can recognize the
    /// repetition.
    pub fn once(&self) -> impl Iterator<Item = &ForkCall> {
        self.again.iter().filter(|call| call.is_once)
    }
}

/// A fork in the making: say what is changed, then look at it with [`ForkRequest::preview`], or start it with
/// [`ForkRequest::background`].
#[must_use]
#[derive(Clone)]
pub struct ForkRequest {
    reader: Reader,
    run_id: RunId,
    fork: Fork,
}

impl ForkRequest {
    pub(crate) fn new(reader: Reader, run_id: RunId, fork: Fork) -> Self {
        Self { reader, run_id, fork }
    }

    /// Another input for the steps to come.
    pub fn input(mut self, input: impl Into<Value>) -> Self {
        self.fork.input = Some(input.into());
        self
    }

    /// Another output of the step, the tool, the model or the named call that ended at this place.
    pub fn output(mut self, output: impl Into<Value>) -> Self {
        self.fork.edit = ForkEdit::Output(output.into());
        self
    }

    /// Another answer to the question that was answered at this place.
    pub fn answer(mut self, answer: Answer) -> Self {
        self.fork.edit = ForkEdit::Answer(answer);
        self
    }

    /// Who changes something, see [`Fork::by`].
    pub fn by(mut self, who: impl AsRef<str>) -> Self {
        self.fork.by = Some(Arc::from(who.as_ref()));
        self
    }

    /// The session that the fork belongs to, see [`Fork::session_id`].
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.fork.session_id = Some(id.into());
        self
    }

    /// Sets the fork's id.
    pub fn run_id(mut self, id: impl Into<String>) -> Self {
        self.fork.run_id = Some(id.into());
        self
    }

    /// Repeating the same request with the same key returns the same run.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.fork.idempotency_key = Some(key.into());
        self
    }

    /// Which calls will be made again; executes nothing.
    ///
    /// # Errors
    /// As [`Engine::fork`].
    pub async fn preview(&self) -> Result<ForkPreview, Error> {
        preview(&self.reader, &self.run_id, &self.fork).await
    }

    /// Starts the fork; it is on stable storage when the future is ready.
    ///
    /// # Cancel safety
    /// As [`Engine::submit`].
    ///
    /// # Errors
    /// As [`Engine::fork`].
    pub async fn background(self) -> Result<RunHandle, Error> {
        Engine::over(self.reader).fork(&self.run_id, self.fork).await
    }
}

impl RunHandle {
    /// A new run with what stands in this one's log before that place, which goes on from there: an entry's index, the
    /// key of a step or a call, or the name of a step. Recorded calls before it are not made again.
    ///
    /// ```
    /// # use outlive_engine::{Error, RunHandle};
    /// async fn ask_otherwise(run: &RunHandle) -> Result<RunHandle, Error> {
    ///     let fork = run.fork("Research").output("what a person found");
    ///     println!("{} calls will be made again", fork.preview().await?.again.len());
    ///     fork.background().await
    /// }
    /// ```
    pub fn fork(&self, at: impl Into<ForkPoint>) -> ForkRequest {
        ForkRequest::new(self.reader().clone(), self.run_id().clone(), Fork::at(at))
    }

    /// A new run in the same session that goes on where this one failed or was cancelled. A step that failed in a call it
    /// was making goes on with that call; any other step that failed is executed from its beginning. Of a run that
    /// completed with skipped failures, the items or branches that failed are executed again, and what came after.
    pub fn retry(&self) -> ForkRequest {
        ForkRequest::new(self.reader().clone(), self.run_id().clone(), Fork::retry())
    }

    /// Starts a new run with the same input, data and policy, in the same session.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], or as [`Engine::submit`].
    pub async fn rerun(&self) -> Result<RunHandle, Error> {
        let run = self.reader().record(self.run_id()).await?;
        let run = run.ok_or_else(|| Error::RunNotFound(self.run_id().clone()))?;
        Engine::over(self.reader().clone()).submit(&run.info.workflow_id, Submit::again(&run)?).await
    }
}

impl Engine {
    /// Accepts a run that begins with what another has done up to a place, and goes on from there as this engine's newest
    /// definition of the workflow says.
    ///
    /// # Cancel safety
    /// As [`Engine::submit`].
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::CannotFork`] when it cannot be cut or edited there,
    /// [`Error::DefinitionChanged`] names the first difference between what is kept and the definition,
    /// [`Error::InvalidAnswer`], [`Error::NotYoursToAnswer`], [`Error::Damaged`], or as [`Engine::submit`].
    pub fn fork(&self, run_id: &RunId, fork: Fork) -> impl Future<Output = Result<RunHandle, Error>> + Send + use<> {
        let (engine, run_id) = (self.clone(), run_id.clone());
        let forking = async move {
            let prepared = Prepared::new(engine.reader(), &run_id, &fork).await?;
            prepared.start(&engine, &fork).await
        };
        self.finish(forking)
    }

    /// Which calls a fork will make again; executes nothing.
    ///
    /// # Errors
    /// As [`Engine::fork`].
    pub async fn preview_fork(&self, run_id: &RunId, fork: &Fork) -> Result<ForkPreview, Error> {
        preview(self.reader(), run_id, fork).await
    }
}

async fn preview(reader: &Reader, run_id: &RunId, fork: &Fork) -> Result<ForkPreview, Error> {
    let prepared = Prepared::new(reader, run_id, fork).await?;
    // The same checks as before a fork, under an id that nobody gets.
    let at = reader.inner.services.clock.now();
    prepared.copy(reader, &prepared.parent.info, fork, at).await?;
    Ok(prepared.preview())
}

/// A run that is to be forked.
struct Prepared {
    parent: Run,
    log: Vec<Entry>,
    cut: Cut,
    definition: Arc<Definition>,
    /// What the fork works on, as its steps see it.
    input: Option<Value>,
}

impl Prepared {
    async fn new(reader: &Reader, run_id: &RunId, fork: &Fork) -> Result<Self, Error> {
        let parent = reader.record(run_id).await?.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
        let workflow_id = &parent.info.workflow_id;
        let unknown = || Error::UnknownWorkflow(workflow_id.to_shared());
        let definition = reader.inner.newest(workflow_id).ok_or_else(unknown)?;
        let limit = reader.inner.options.input_bytes_max;
        check(fork, limit)?;
        let input = match &fork.input {
            Some(input) => Some(input.clone()),
            None => parent.read_input()?,
        };
        let input = definition.accept_input(input)?;
        let bytes = input.as_ref().map_or(0, json::len);
        if bytes > limit {
            return Err(Error::InputTooLong { bytes, limit });
        }
        let log = read_log(&*reader.inner.services.db, &parent).await?;
        let mut cut = Cut::new(&log, parent.status, &fork.at, &fork.edit)?;
        if fork.input.is_some() {
            cut = cut.with_other_input();
        }
        Ok(Self { parent, log, cut, definition, input })
    }

    fn forked_from(&self) -> ForkedFrom {
        ForkedFrom { run_id: self.parent.info.run_id.clone(), at: self.cut.at() }
    }

    fn preview(&self) -> ForkPreview {
        let is_once = |key: &Key, tool: &str| self.effect(key, tool) == Some(ToolEffect::Once);
        let (kept, again) = self.cut.calls(&self.log, &self.definition.nodes, is_once);
        ForkPreview { forked_from: self.forked_from(), kept, again }
    }

    /// The effect of a tool that is called inside a step.
    fn effect(&self, call: &Key, tool: &str) -> Option<ToolEffect> {
        let outer = std::iter::successors(call.outer(), Key::outer);
        outer.filter_map(|key| self.definition.executor(&key)).last()?.tool_effect(tool)
    }

    async fn start(self, engine: &Engine, fork: &Fork) -> Result<RunHandle, Error> {
        let reader = engine.reader();
        let services = &reader.inner.services;
        let at = services.clock.now();
        let is_retry = fork.at == ForkPoint::Failure;
        let own_session = self.parent.info.session_id.to_string();
        let session_id = fork.session_id.clone().or_else(|| is_retry.then(|| own_session.clone()));
        let run_id = match &fork.run_id {
            Some(text) => RunId::chosen(text)?,
            None => RunId::new(at, services.chance.wide_bits()),
        };
        let info = RunInfo {
            run_id,
            session_id: match &session_id {
                Some(text) => SessionId::chosen(text)?,
                None => SessionId::new(at, services.chance.wide_bits()),
            },
            workflow_name: self.definition.name.clone(),
            ..self.parent.info.clone()
        };
        let again = Submit::again(&self.parent)?;
        let session = services.db.session(Access::All, self.parent.info.session_id.clone()).await?;
        let log = self.copy(reader, &info, fork, at).await?;
        let state = match &session {
            // It counts only where the fork makes its session.
            Some(session) if session_id.as_ref() != Some(&own_session) => {
                Some(self.state(&*services.db, &session.state).await?)
            }
            _ => None,
        };
        // What was asked, so that a key that is used again can be told from a repetition.
        let asked =
            serde_json::json!([self.forked_from(), format!("{:?}", fork.at), edit_text(&fork.edit)]).to_string();
        let submit = Submit {
            input: fork.input.clone().or(again.input),
            run_id: fork.run_id.clone(),
            session_id,
            session_kind: session.map(|session| session.kind).unwrap_or_default(),
            idempotency_key: fork.idempotency_key.clone(),
            rerun_of: None,
            // What goes on is no message, and nobody asked it to stop others.
            policy: again.policy.map(|policy| match policy {
                SessionPolicy::Steer | SessionPolicy::Interrupt => SessionPolicy::Queue,
                SessionPolicy::Queue | SessionPolicy::Reject | SessionPolicy::Parallel => policy,
            }),
            steer_to: None,
            ..again
        };
        // Whoever is tried again keeps its place in its batch.
        let item = if is_retry { self.parent.request_options()?.batch } else { None };
        let placed = item.map(|item| Placed {
            item: NewItem { item, replaces: Some(self.parent.info.run_id.clone()) },
            limit: self.parent.limit.clone(),
        });
        let copied = Copied { info, forked_from: self.forked_from(), log, state, asked, at, placed };
        engine.accept(&self.definition, submit, Beginning::Fork(Box::new(copied))).await
    }

    /// What is kept, as the log of run `to`; none when nothing is.
    async fn copy(&self, reader: &Reader, to: &RunInfo, fork: &Fork, at: Timestamp) -> Result<Option<NewLog>, Error> {
        let db = &*reader.inner.services.db;
        let parts = self.cut.copy(&self.log, (&self.parent.info, to), &fork.edit, at);
        let entries = parts.map_err(|error| {
            let problem = format!("what it has recorded cannot be copied: {error}");
            Error::CannotFork(CannotFork(problem))
        })?;
        let info = Arc::new(to.clone());
        let options = self.parent.request_options()?;
        let nodes = Some(self.definition.nodes.clone());
        let machine = WorkflowMachine::new(info.clone(), nodes, self.input.clone(), options.attachments, at);
        let mut machine = machine.with_leader(self.definition.leader.clone());
        let mut fit = fold::fit(db, &self.parent, Some(&self.definition.hash)).await?;
        for entry in &entries {
            fit.apply(&mut machine, entry)?;
        }
        fit.end(&machine)?;
        if fork.input.is_some() || fork.edit != ForkEdit::Nothing {
            // What a second person said of one thing is not said of another.
            self.cut.under_four_eyes(&self.log).try_for_each(|question| self.check_person(question, fork))?;
        }
        let questions = machine.questions();
        let answer = match (&fork.edit, self.cut.answered()) {
            (ForkEdit::Answer(answer), Some(key)) => {
                let question = questions.iter().find(|question| question.key == *key);
                let id = question.map_or_else(|| Arc::from(key.as_str()), |question| question.id.clone());
                let refused = |problem| Error::InvalidAnswer { id: id.clone(), problem };
                let Some(question) = question else { return Err(refused("it is not open there".to_owned())) };
                self.check_person(question, fork)?;
                question.check(answer).map_err(refused)?;
                let text = Arc::from(text_of(answer).map_err(refused)?);
                Some(NewAnswer { id, text, by: fork.by.clone() })
            }
            _ => None,
        };
        if entries.is_empty() {
            return Ok(None);
        }
        let (mut writer, mut pages, mut next) = (Writer::new(info), Vec::new(), 0);
        for part in entries.chunks(PAGE_ENTRIES) {
            let (page, _) = writer.page(next, part, &reader.inner.services.redactor());
            next = page.end();
            pages.push(page);
        }
        let questions = questions.iter().map(|question| NewQuestion {
            id: question.id.clone(),
            due_at: question.due_at,
            text: Arc::from(serde_json::to_string(&question.for_people()).expect("it is JSON")),
        });
        Ok(Some(NewLog { questions: questions.collect(), answer, pages }))
    }

    /// Refuses whoever must not answer a question, where forking comes to the same.
    fn check_person(&self, question: &Question, fork: &Fork) -> Result<(), Error> {
        let may = question.check_person(fork.by.as_deref(), self.parent.info.user_id.as_deref());
        may.map_err(|problem| Error::NotYoursToAnswer { id: question.id.clone(), problem })
    }

    /// What the session's state was when the run was at the place where it is cut: what is stored `now`, but each key that
    /// the run has changed as it was there.
    async fn state(&self, db: &dyn Db, now: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
        let own = self.parent.request_options()?.session_state;
        let (mut before, mut later) = (Map::new(), BTreeSet::new());
        for (index, changed) in changes(&self.parent, &self.log, own) {
            match index < self.cut.at() {
                true => before.extend(changed),
                false => later.extend(changed.into_iter().map(|(name, _)| name)),
            }
        }
        later.retain(|name| !before.contains_key(name));
        let mut state = now.clone();
        if !later.is_empty() {
            merge(&mut state, &self.earlier(db, later).await?);
        }
        merge(&mut state, &before);
        Ok(state)
    }

    /// What these names stood for before the run began: what an earlier run of its session made of them last, or what its
    /// sessions begin with; null for nothing.
    async fn earlier(&self, db: &dyn Db, mut names: BTreeSet<String>) -> Result<Map<String, Value>, Error> {
        let mut found = Map::new();
        let mut filter = RunFilter {
            session_id: Some(self.parent.info.session_id.clone()),
            before: Some(self.parent.info.run_id.clone()),
            order: Order::NewestFirst,
            limit: 1,
            with_payload: true,
            ..RunFilter::default()
        };
        for _ in 0..EARLIER_RUNS_MAX {
            let page = db.runs(Access::All, filter.clone()).await?;
            for run in &page.runs {
                let own = run.request_options()?.session_state;
                for (_, changed) in changes(run, &read_log(db, run).await?, own).into_iter().rev() {
                    found.extend(changed.into_iter().filter(|(name, _)| names.remove(name)));
                }
            }
            match page.next {
                Some(next) if !names.is_empty() => filter.after = Some(next),
                _ => break,
            }
        }
        for name in names {
            let initial = self.definition.session_state.get(&name).cloned().unwrap_or(Value::Null);
            found.insert(name, initial);
        }
        Ok(found)
    }
}

/// Refuses what cannot be kept.
fn check(fork: &Fork, limit: usize) -> Result<(), Error> {
    let refused = |problem: String| Error::CannotFork(CannotFork(problem));
    if let Some(input) = &fork.input {
        check_given("the input", input)?;
    }
    match &fork.edit {
        ForkEdit::Nothing | ForkEdit::Answer(_) => Ok(()),
        ForkEdit::Output(output) => {
            check_given("the output", output)?;
            let bytes = json::len(output);
            let too_long =
                || refused(format!("the output has {bytes} bytes, the limit is {limit}; pass a reference instead"));
            if bytes > limit { Err(too_long()) } else { Ok(()) }
        }
    }
}

fn edit_text(edit: &ForkEdit) -> Value {
    match edit {
        ForkEdit::Nothing => Value::Null,
        ForkEdit::Output(output) => serde_json::json!({ "output": output }),
        ForkEdit::Answer(answer) => serde_json::json!({ "answer": answer }),
    }
}

/// What a run has changed in its session's state, by the entries that say so.
fn changes(run: &Run, log: &[Entry], own: Map<String, Value>) -> Vec<(u64, Map<String, Value>)> {
    let info = Arc::new(run.info.clone());
    let mut machine = WorkflowMachine::new(info, None, None, Attachments::default(), run.created_at);
    let mut changes = vec![(0, own)];
    for (index, entry) in (0..).zip(log) {
        // Without a definition, everything fits.
        if let Ok(applied) = machine.apply(entry) {
            changes.push((index, applied.session));
        }
    }
    changes.retain(|(_, changed)| !changed.is_empty());
    changes
}

async fn read_log(db: &dyn Db, run: &Run) -> Result<Vec<Entry>, Error> {
    let mut log = Vec::new();
    let read = fold::read(db, run, |_, entries, _| {
        log.extend(entries);
        Ok(())
    });
    match read.await.map_err(|error: DbError| Error::from(error))? {
        Ok(()) => Ok(log),
        Err(fold::Unreadable::Damaged(damaged)) => Err(damaged.into()),
        Err(fold::Unreadable::Changed(mismatch)) => Err(mismatch.into()),
    }
}
