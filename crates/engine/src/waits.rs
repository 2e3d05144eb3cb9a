//! Why a run is not over yet: derived from its row, the queue of its session, the living workers, and the end of its
//! log.
//!
//! It knows no engine: every answer comes from the store, so any process gives the same one, even one that executes
//! nothing. It never changes anything. The invariant: an unfinished run always waits for something, and is called
//! interrupted exactly when it has begun, is not paused, was not answered after its pause, waits for no time, and no living
//! process holds it.

use crate::options::Options;
use outlive_core::log::{Entry, Record};
use outlive_core::port::{
    Access, Db, DbError, DbErrorKind, LivingWorker, LogReader, Order, QuestionFilter, Run, RunFilter, RunLimit,
};
use outlive_core::{
    EventKind, Key, Page, Question, QuestionKind, Remedy, RunStatus, SessionId, Timestamp, ToolEvent, Waiting, WaitsFor,
};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Entries at the end of a log that are searched for the call in flight.
const TAIL: u64 = 256;
/// Entries at the end of a log that say why it paused or backs off.
const END: u64 = 4;
/// Bytes of log read at a time.
const READ_BYTES: usize = 256 << 10;
/// The longest quotation of somebody else's text in a reason, in characters.
const QUOTE_CHARS: usize = 500;

/// One snapshot of a store: who is alive, and what time it is.
pub struct Look<'a> {
    db: &'a dyn Db,
    access: Access,
    now: Timestamp,
    suspect_claims: u32,
    workers: Vec<LivingWorker>,
}

/// Runs of a list whose logs are read; for the rest, their rows say what they wait for.
const LISTED_LOGS: usize = 100;

/// How much of a log is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// Nothing.
    Row,
    /// For a run at rest, why it rests. For one that executes nothing: its row says which step it is at.
    Rest,
    /// What is in flight as well.
    Calls,
}

/// Who is first in a session's queue; none when the caller may not see it.
type Heads = HashMap<SessionId, Option<Run>>;

impl<'a> Look<'a> {
    /// Takes a snapshot with the caller's access.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(db: &'a dyn Db, access: Access, now: Timestamp, options: &Options) -> Result<Self, DbError> {
        let workers = db.workers(None).await?;
        Ok(Self { db, access, now, suspect_claims: options.suspect_claims(), workers })
    }

    /// Why this run is not over yet, down to the call in flight; none when it is over.
    ///
    /// # Errors
    /// The store's.
    pub async fn at(&self, run: &Run) -> Result<Option<Waiting>, DbError> {
        self.explain(run, Depth::Calls, &mut Heads::new()).await
    }

    /// The same for a list, without the calls in flight.
    ///
    /// # Errors
    /// The store's.
    pub async fn over(&self, runs: &[Run]) -> Result<Vec<Option<Waiting>>, DbError> {
        let mut heads = Heads::new();
        let mut waitings = Vec::with_capacity(runs.len());
        for (place, run) in runs.iter().enumerate() {
            let depth = if place < LISTED_LOGS { Depth::Rest } else { Depth::Row };
            waitings.push(self.explain(run, depth, &mut heads).await?);
        }
        Ok(waitings)
    }

    async fn explain(&self, run: &Run, depth: Depth, heads: &mut Heads) -> Result<Option<Waiting>, DbError> {
        if run.status.is_terminal() {
            return Ok(None);
        }
        if !run.is_behind || self.holder(run).is_some() || run.cancel.is_some() {
            return self.alone(run, depth).await.map(Some);
        }
        let session_id = &run.info.session_id;
        if !heads.contains_key(session_id) {
            let head = self.head(session_id).await?;
            heads.insert(session_id.clone(), head);
        }
        let head = heads.get(session_id).and_then(Option::as_ref).filter(|head| head.info.run_id != run.info.run_id);
        let why = match head {
            Some(head) => Some((head, self.alone(head, depth.min(Depth::Rest)).await?)),
            None => None,
        };
        Ok(Some(behind(why)))
    }

    /// The first unfinished run of a session, among those the caller may see.
    async fn head(&self, session_id: &SessionId) -> Result<Option<Run>, DbError> {
        let filter = RunFilter {
            statuses: RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect(),
            session_id: Some(session_id.clone()),
            order: Order::OldestFirst,
            limit: 1,
            ..RunFilter::default()
        };
        Ok(self.db.runs(self.access.clone(), filter).await?.runs.into_iter().next())
    }

    /// The living worker that holds the run.
    fn holder(&self, run: &Run) -> Option<&LivingWorker> {
        let worker = run.worker.as_ref()?;
        self.workers.iter().find(|known| known.worker == *worker && known.lives_at(self.now))
    }

    /// Why a run that is behind no other is not over.
    async fn alone(&self, run: &Run, depth: Depth) -> Result<Waiting, DbError> {
        let holder = self.holder(run);
        let due_at = run.due_at.filter(|due_at| *due_at > self.now && run.worker.is_none());
        let is_unheld = run.status == RunStatus::Running && holder.is_none() && due_at.is_none();
        let is_answered = is_unheld && self.is_answered(run).await?;
        let waiting = match (holder, due_at) {
            _ if run.cancel.is_some() => self.cancelled(run, holder.is_some()),
            _ if run.status == RunStatus::Paused => paused(run, &self.open_questions(run, depth).await?),
            (Some(holder), _) => self.executing(run, holder, depth).await?,
            (None, Some(due_at)) if run.status == RunStatus::Pending && run.epoch == 0 => scheduled(due_at),
            (None, Some(due_at)) => backing_off(due_at, &self.entries(run, depth, END).await?),
            (None, None) => self.unheld(run, is_answered),
        };
        Ok(Waiting { is_interrupted: is_unheld && !is_answered, is_answered, ..waiting })
    }

    /// Whether a RUNNING run that no process holds was answered: its pause is the last that was written of it.
    async fn is_answered(&self, run: &Run) -> Result<bool, DbError> {
        if run.worker.is_some() || run.claims > 0 || run.cancel.is_some() {
            return Ok(false);
        }
        let last = self.entries(run, Depth::Rest, 1).await?.pop();
        Ok(last.is_some_and(|last| matches!(last.record, Some(Record::Rest(_)))))
    }

    fn cancelled(&self, run: &Run, is_held: bool) -> Waiting {
        let reason = run.cancel.as_ref().map(|cancel| quoted(&cancel.reason)).unwrap_or_default();
        let asked = format!("someone asked to cancel it ({reason})");
        if is_held {
            return waiting(WaitsFor::Cancel, format!("{asked}; the process that executes it is about to end it"));
        }
        Waiting {
            remedy: Some(Remedy::Cancel { run_id: run.info.run_id.clone() }),
            hint: Some("cancel it once more: while no process holds it, that ends it at once".to_owned()),
            ..waiting(WaitsFor::Cancel, format!("{asked}; no process is there to end it"))
        }
    }

    async fn executing(&self, run: &Run, holder: &LivingWorker, depth: Depth) -> Result<Waiting, DbError> {
        if holder.good_until <= self.now {
            let silent = self.now.since(holder.good_until).as_secs();
            let reason = format!("its process is alive, but its lease ran out {silent} s ago and has not been renewed");
            return Ok(Waiting {
                on: Some(holder.worker.to_shared()),
                hint: Some("let that process go on, or end it so that another takes the run over".to_owned()),
                ..waiting(WaitsFor::Worker, reason)
            });
        }
        let in_flight = match depth {
            Depth::Row | Depth::Rest => None,
            Depth::Calls => in_flight(&self.entries(run, depth, TAIL).await?, self.now),
        };
        Ok(in_flight.unwrap_or_else(|| match &run.progress {
            Some(progress) => {
                let reason = format!("a process is at step {progress}");
                Waiting { on: Some(progress.clone()), ..waiting(WaitsFor::Step, reason) }
            }
            None => waiting(WaitsFor::Step, "a process is about to begin".to_owned()),
        }))
    }

    /// It may be claimed, and nobody has claimed it.
    fn unheld(&self, run: &Run, is_answered: bool) -> Waiting {
        if let Some(limit) = run.limit.as_ref().filter(|_| run.awaits_place) {
            return limited(run, limit);
        }
        let workflow_id = &run.info.workflow_id;
        let executing: Vec<_> =
            self.workers.iter().filter(|known| known.workflows.is_some() && known.lives_at(self.now)).collect();
        let able = executing.iter().filter(|known| known.executes(workflow_id)).count();
        if able == 0 {
            let nobody = match executing.len() {
                0 => "no process executes runs of this database".to_owned(),
                1 => format!("the one process that executes runs does not have the workflow {workflow_id}"),
                n => format!("none of the {n} processes that execute runs has the workflow {workflow_id}"),
            };
            let reason = match (run.status, &run.worker) {
                (RunStatus::Pending, _) => nobody,
                _ if is_answered => format!("what it asked is answered, and {nobody}"),
                (_, Some(_)) => format!("its process ended before the run did, and {nobody}"),
                (_, None) => format!("no process executes it: its last one gave it back, and {nobody}"),
            };
            return Waiting {
                on: Some(workflow_id.to_shared()),
                remedy: Some(Remedy::StartWorker),
                hint: Some(format!(
                    "start a program that has the workflow {workflow_id}, or outlive worker with its file: the run then \
                     goes on by itself"
                )),
                ..waiting(WaitsFor::Worker, reason)
            };
        }
        if run.claims >= self.suspect_claims {
            let reason = format!(
                "{} workers were lost while executing it and it made no progress: such runs are tried one at a time, \
                 and this one ends ERROR if it takes one more worker with it",
                run.claims
            );
            return Waiting {
                remedy: Some(Remedy::Cancel { run_id: run.info.run_id.clone() }),
                hint: Some(
                    "check what its last step does to the process; cancel the run if it should not be tried again"
                        .into(),
                ),
                ..waiting(WaitsFor::Suspects, reason)
            };
        }
        let who =
            if able == 1 { "the process that has".to_owned() } else { format!("one of the {able} processes with") };
        waiting(WaitsFor::Room, format!("{who} its workflow takes it as soon as it has room"))
    }

    /// What a run asks people, the first of it.
    async fn open_questions(&self, run: &Run, depth: Depth) -> Result<Vec<Question>, DbError> {
        if depth == Depth::Row {
            return Ok(Vec::new());
        }
        let filter = QuestionFilter { run_id: Some(run.info.run_id.clone()), limit: 100, ..QuestionFilter::default() };
        let page = self.db.questions(self.access.clone(), filter).await?;
        // One that is damaged says nothing.
        Ok(page.questions.iter().filter_map(|stored| stored.question().ok()).collect())
    }

    /// The last `count` entries of the run's log, or those before the first damaged one.
    async fn entries(&self, run: &Run, depth: Depth, count: u64) -> Result<Vec<Entry>, DbError> {
        let mut entries = Vec::new();
        if depth == Depth::Row {
            return Ok(entries);
        }
        let mut reader = LogReader::new(&run.info, self.access.clone());
        let mut from = run.next_index.saturating_sub(count);
        while from < run.next_index {
            let pages = match self.db.read(self.access.clone(), run.info.run_id.clone(), from, READ_BYTES).await {
                Err(error) if error.kind() == DbErrorKind::Unreadable => return Ok(entries),
                pages => pages?,
            };
            let Some(end) = pages.last().map(Page::end).filter(|end| *end > from) else { break };
            for page in pages {
                match reader.entries(self.db, &page).await {
                    Ok(page) => entries.extend(page),
                    Err(_) => return Ok(entries),
                }
            }
            from = end;
        }
        Ok(entries)
    }
}

fn waiting(waits_for: WaitsFor, reason: String) -> Waiting {
    Waiting {
        waits_for,
        on: None,
        until: None,
        is_interrupted: false,
        is_answered: false,
        reason,
        remedy: None,
        hint: None,
    }
}

/// As much of a text as a reason quotes.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Behind the first of its session, or behind one that the caller may not see.
fn behind(head: Option<(&Run, Waiting)>) -> Waiting {
    let Some((head, why)) = head else {
        return waiting(WaitsFor::Session, "an earlier run of its session has to end first".to_owned());
    };
    let id = &head.info.run_id;
    let state = match head.status {
        RunStatus::Paused => "paused",
        _ if why.is_interrupted => "interrupted",
        _ if why.is_answered => "answered",
        RunStatus::Pending => "pending",
        _ => "running",
    };
    let reason = format!("run {id} of its session has to end first; that one is {state}: {}", quoted(&why.reason));
    let hint = match &why.remedy {
        Some(Remedy::Cancel { run_id }) => Some(format!("cancel run {run_id}, and this one goes on")),
        Some(Remedy::StartWorker | Remedy::Answer { .. }) => why.hint,
        None => None,
    };
    Waiting {
        on: Some(id.to_shared()),
        until: why.until,
        remedy: why.remedy,
        hint,
        ..waiting(WaitsFor::Session, reason)
    }
}

/// What people have to answer.
fn paused(run: &Run, open: &[Question]) -> Waiting {
    let Some(first) = open.first() else {
        return Waiting {
            remedy: Some(Remedy::Cancel { run_id: run.info.run_id.clone() }),
            hint: Some("cancel it, or leave it as it is".to_owned()),
            ..waiting(WaitsFor::Person, "it is paused; its log says why".to_owned())
        };
    };
    let tool = first.tool.as_ref().map(|tool| Arc::from(tool.execution.tool_name.as_str()));
    let on = tool.or_else(|| Some(first.step_name.clone())).filter(|on| !on.is_empty());
    let reason = match (&first.failure, &first.message) {
        (Some(failure), _) => quoted(&failure.message),
        (None, Some(message)) => format!("step {:?} asks: {}", first.step_name, quoted(message)),
        (None, None) => format!("step {:?} asks for {}", first.step_name, spaced(first.kind.as_str())),
    };
    let more = match open.len() {
        1 => String::new(),
        2 => "; 1 more question is open".to_owned(),
        count => format!("; {} more questions are open", count - 1),
    };
    let check = match first.kind {
        QuestionKind::Outcome => "check with the service behind it whether it ran; then ",
        QuestionKind::Definition => "serve the definition it began with, then ",
        _ => "",
    };
    let hint = format!("{check}answer question {} with one of {}", first.id, first.kind.answers().join(", "));
    Waiting {
        on,
        until: first.due_at,
        remedy: Some(Remedy::Answer { question_id: first.id.clone() }),
        hint: Some(hint),
        ..waiting(WaitsFor::Person, reason + &more)
    }
}

fn spaced(word: &str) -> String {
    word.replace('_', " ")
}

/// It has not begun, and is to begin later.
fn scheduled(due_at: Timestamp) -> Waiting {
    let reason = format!("it is to begin at {}", due_at.to_rfc3339());
    Waiting { until: Some(due_at), ..waiting(WaitsFor::Time, reason) }
}

/// As many as may execute at once do.
fn limited(run: &Run, limit: &RunLimit) -> Waiting {
    let key = limit.key_of(&run.info.workflow_id);
    let which = key.as_deref().map_or_else(String::new, |key| format!(" with the key {:?}", quoted(key)));
    let reason = match limit.max {
        1 => format!("another run of its workflow{which} has to end or pause first: one executes at a time"),
        max => format!("{max} runs of its workflow{which} execute, which is the limit: one has to end or pause first"),
    };
    Waiting { on: key.map(Arc::from), ..waiting(WaitsFor::Limit, reason) }
}

fn backing_off(due_at: Timestamp, entries: &[Entry]) -> Waiting {
    let retry = entries.iter().rev().find_map(|entry| retrying(entry).or_else(|| sleeping(entry)));
    let (on, reason) = retry.unwrap_or_else(|| (None, "it could not go on, and is tried again".to_owned()));
    Waiting { on, until: Some(due_at), ..waiting(WaitsFor::Time, reason) }
}

/// A call that failed and is made again, but not yet: its model server may have asked for hours.
fn asked_again(entry: &Entry, now: Timestamp) -> Option<Waiting> {
    let EventKind::CustomEvent { fields } = &entry.event.kind else { return None };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let (what, on) = match text("name")? {
        "ModelRequestRetrying" => ("the model".to_owned(), None),
        "ToolCallRetrying" => {
            let tool = text("tool_name").unwrap_or_default();
            (format!("the tool {tool}"), Some(Arc::from(tool)))
        }
        _ => return None,
    };
    let until = fields.get("due_at").and_then(Value::as_i64).map(Timestamp::from_seconds).filter(|due| *due > now)?;
    let origin = &entry.event.origin;
    let who = origin.agent_name.as_deref().or(origin.team_name.as_deref()).unwrap_or_default();
    let reason = format!("{who} asks {what} again after a failure: {}", quoted(text("error").unwrap_or_default()));
    Some(Waiting { on, until: Some(until), ..waiting(WaitsFor::Time, reason) })
}

/// After which failure a step is tried again.
fn retrying(entry: &Entry) -> Option<(Option<Arc<str>>, String)> {
    let (EventKind::CustomEvent { fields }, Some(Record::Retry { attempt, .. })) = (&entry.event.kind, &entry.record)
    else {
        return None;
    };
    let step = entry.event.origin.step_name.clone();
    let error = fields.get("error").and_then(Value::as_str).map(quoted).unwrap_or_default();
    let name = step.as_deref().unwrap_or_default();
    Some((
        step.clone(),
        format!("attempt {attempt} at step {name:?} failed ({error}); attempt {} follows", attempt + 1),
    ))
}

/// Which step's function sleeps, and what it calls that.
fn sleeping(entry: &Entry) -> Option<(Option<Arc<str>>, String)> {
    let EventKind::CustomEvent { fields } = &entry.event.kind else { return None };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let sleep = text("name").filter(|name| *name == "StepSleeping").and_then(|_| text("call"))?;
    let step = entry.event.origin.step_name.clone();
    let name = step.as_deref().unwrap_or_default().to_owned();
    Some((step, format!("step {name:?} sleeps ({})", quoted(sleep))))
}

/// What was begun and has not ended.
enum Call {
    Model { model: String, who: Arc<str> },
    Tool { name: Arc<str>, who: Arc<str> },
    Step { name: Arc<str> },
}

/// The calls with an intent among the entries but no result, in the order in which they were begun. Delegations are
/// left out: their member's own calls represent them.
fn open_calls(entries: &[Entry]) -> Vec<(Key, Call)> {
    let mut open: Vec<(Key, Call)> = Vec::new();
    for entry in entries {
        match &entry.record {
            Some(Record::Intent { key, .. } | Record::Reserved { key, .. }) => {
                open.extend(begun(entry).map(|call| (key.clone(), call)));
            }
            Some(Record::Result { key, .. }) => open.retain(|(known, _)| known != key),
            Some(Record::Step { key, .. } | Record::Failed { key, .. } | Record::Retry { key, .. }) => {
                open.retain(|(known, _)| known != key && !known.is_inside(key));
            }
            Some(
                Record::Claimed { .. }
                | Record::Begin { .. }
                | Record::Iteration { .. }
                | Record::Said { .. }
                | Record::Run { .. }
                | Record::Waiting { .. }
                | Record::Answered { .. }
                | Record::Rest(_),
            )
            | None => {}
        }
    }
    open
}

fn begun(entry: &Entry) -> Option<Call> {
    use EventKind::*;
    let origin = &entry.event.origin;
    let named = [&origin.agent_name, &origin.team_name, &origin.step_name].into_iter().flatten().next();
    let who = named.cloned().unwrap_or_else(|| Arc::from(""));
    let tool = |event: &ToolEvent| {
        let is_delegation = event.tool.child_run_id.is_some();
        (!is_delegation).then(|| Call::Tool { name: Arc::from(&*event.tool.tool_name), who: who.clone() })
    };
    match &entry.event.kind {
        ModelRequestStarted(model) | TeamModelRequestStarted(model) => {
            Some(Call::Model { model: model.model.clone(), who })
        }
        ToolCallStarted(event) | TeamToolCallStarted(event) => tool(event),
        StepStarted => Some(Call::Step { name: who }),
        _ => None,
    }
}

/// Whether an entry says that this, or what it is in, waits for somebody to answer.
fn waits_with(entry: &Entry, key: &Key) -> bool {
    matches!(&entry.record, Some(Record::Waiting { key: waits, .. }) if key == waits || key.is_inside(waits))
}

/// What a run that executes is doing.
fn in_flight(entries: &[Entry], now: Timestamp) -> Option<Waiting> {
    if let Some((on, reason)) = entries.last().and_then(retrying) {
        let due_at = entries.last().and_then(|entry| match &entry.record {
            Some(Record::Retry { due_at, .. }) => Some(*due_at),
            _ => None,
        });
        return Some(Waiting { on, until: due_at.filter(|due| *due > now), ..waiting(WaitsFor::Time, reason) });
    }
    if let Some(waiting) = entries.last().and_then(|entry| asked_again(entry, now)) {
        return Some(waiting);
    }
    let mut open = open_calls(entries);
    open.retain(|(key, _)| !entries.iter().any(|entry| waits_with(entry, key)));
    let calls = open.iter().filter(|(_, call)| !matches!(call, Call::Step { .. })).count();
    let others = match calls {
        0 | 1 => String::new(),
        2 => ", and one more call is in flight".to_owned(),
        n => format!(", and {} more calls are in flight", n - 1),
    };
    // Models and tools say more than the step they are in.
    let newest = open.iter().rev().find(|(_, call)| !matches!(call, Call::Step { .. })).or_else(|| open.last());
    if let Some((_, call)) = newest {
        let (waits_for, on, reason) = match call {
            Call::Model { model, who } => {
                (WaitsFor::Model, Arc::from(&**model), format!("{who} waits for the model {model}{others}"))
            }
            Call::Tool { name, who } => {
                (WaitsFor::Tool, name.clone(), format!("{who} waits for the tool {name}{others}"))
            }
            Call::Step { name } => (WaitsFor::Step, name.clone(), format!("step {name:?} executes")),
        };
        return Some(Waiting { on: Some(on), ..waiting(waits_for, reason) });
    }
    // The request may lie before what was read: a long answer is many entries.
    let last = &entries.last()?.event;
    let is_text = matches!(last.kind, EventKind::RunContent(_) | EventKind::TeamRunContent(_));
    let waiting = match last.origin.agent_name.as_deref().or(last.origin.team_name.as_deref()) {
        Some(who) => waiting(WaitsFor::Model, format!("the model of {who} is answering")),
        None => {
            let step = last.origin.step_name.clone();
            let reason = format!("step {:?} executes", step.as_deref().unwrap_or_default());
            Waiting { on: step, ..waiting(WaitsFor::Step, reason) }
        }
    };
    is_text.then_some(waiting)
}
