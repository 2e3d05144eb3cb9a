//! The journal: one run's log while this process writes it.
//!
//! Everything a run says is appended here first and becomes durable with the next commit. A commit starts when somebody
//! waits for it or when the run has nothing else to do ([`Journal::wants_commit`] is asked whenever the run's task
//! comes to rest), so a result and the intent of the next call share a commit. At most one commit is in flight.
//!
//! Invariant: the machine is the fold of everything appended, committed or not.

use crate::ending::{Ended, Ending};
use crate::history::{read_history, unfinished_before};
use crate::ledger::{Ledger, Posting};
use crate::rates;
use crate::services::Services;
use crate::streams::{Streams, is_one_speaker};
use crate::tally::{Count, Tally};
use outlive_core::log::{Called, Entry, Key, Record, Writer};
use outlive_core::machine::{CalledEnd, Decision, Fit, Mismatch, WorkflowMachine, with_branches};
use outlive_core::port::{
    Admitted, BoxFuture, Commit, DbError, DbErrorKind, Effects, Execution, FirstPage, Halt, Lease, Listener,
    NewQuestion, OverBudget, QuestionPatch, RateLimit, Recall, Refused, Release, Reservation, RunPatch,
    SteeringMessage, StepInfo, Witness, merge,
};
use outlive_core::{
    Answered, Definition, EventKind, Failure, FailureKind, HistoryRun, Origin, Question, QuestionKind, RunEvent, RunId,
    RunStatus, Spend, Spending, Timestamp,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Streamed pieces that one commit keeps separate; further ones are merged.
const STREAMED_MAX: usize = 32;

/// One run's log while this process writes it.
pub(crate) struct Journal {
    services: Arc<Services>,
    lease: Lease,
    state: Mutex<State>,
    /// For whoever submitted the run here.
    ending: Option<Arc<Ending>>,
    /// Somebody answered a question of the run.
    has_mail: AtomicBool,
    /// A step in progress asks people: the machine is to be asked what follows.
    has_asked: AtomicBool,
    /// What the run may use, if that is limited or counted.
    spending: Option<Arc<Spending>>,
}

struct State {
    machine: WorkflowMachine,
    writer: Writer,
    status: RunStatus,
    /// Index of the first pending entry.
    next_index: u64,
    pending: Vec<Entry>,
    /// Pending entries are more than streamed text, or somebody waits.
    is_urgent: bool,
    /// When streamed text must be committed at the latest.
    stream_due: Option<Instant>,
    /// Everything before this index is on stable storage.
    durable_end: u64,
    is_committing: bool,
    waiting: Vec<Waker>,
    /// The task that polls the run's work.
    driver: Option<Waker>,
    /// The thread on which it is doing so.
    polling: Option<ThreadId>,
    halted: bool,
    /// What the run has begun elsewhere is for nobody.
    abandons: bool,
    /// What an earlier process recorded.
    recorded: BTreeMap<Key, Recall>,
    /// What was answered to questions of steps in progress.
    answers: BTreeMap<Key, Answered>,
    /// Questions of which the store is told with the next commit that they are settled.
    settled: Vec<Arc<str>>,
    /// What functions of steps in progress recorded under names of their own, here or in an earlier process.
    named: BTreeMap<Key, Recall>,
    /// What the next commit changes in the session's state.
    session: Option<Map<String, Value>>,
    /// The session's state with everything appended so far.
    session_now: Arc<Map<String, Value>>,
    dropped: Vec<Key>,
    progress: Option<Arc<str>>,
    release: Option<Release>,
    /// What its calls reserve and use, where budgets limit that.
    ledger: Option<Box<Ledger>>,
    /// Answers that are streaming.
    streams: Streams,
    /// Hears what is durable.
    witness: Option<Box<dyn Witness>>,
    count: Count,
    /// What is stored is not all that was appended: it had secrets in it.
    is_redacted: bool,
    /// What only runs have that share a session with others.
    session_mates: Option<Box<Mates>>,
}

/// What only runs have that share a session with others.
#[derive(Default)]
struct Mates {
    /// Earlier runs of the session that had not ended when this one first asked for its history; none before it has.
    beside: Option<Box<[RunId]>>,
    /// What was said to it, and nobody has heard yet.
    said: Vec<SteeringMessage>,
    /// What was heard, of which the store is told with the next commit.
    heard: Vec<RunId>,
    /// Everything that was heard, in which attempt at a step.
    kept: Vec<(Attempt, SteeringMessage)>,
}

/// An attempt at a step, as the beginning of the keys inside.
#[derive(Clone, PartialEq, Eq)]
struct Attempt(String);

impl Attempt {
    /// The one that a key of an agent or a team is inside of.
    fn of(key: &Key) -> Self {
        let is_outside = |part: &&str| !matches!(*part, "agent" | "team");
        Self(key.as_str().split('/').take_while(is_outside).collect::<Vec<_>>().join("/"))
    }

    /// Whether both are attempts at one step, in one iteration of what is around it.
    fn is_at_step_of(&self, other: &Self) -> bool {
        fn parts(attempt: &Attempt) -> impl Iterator<Item = &str> {
            attempt.0.split('/').map(|part| part.split('~').next().unwrap_or(part))
        }
        parts(self).eq(parts(other))
    }
}

impl Mates {
    /// What this listener heard in other attempts at the step, and has not in this one.
    fn heard_before(&self, attempt: &Attempt, listener: &str) -> Vec<SteeringMessage> {
        let is_same = |message: &SteeringMessage| message.heard_by.as_deref() == Some(listener);
        let is_known = |message: &SteeringMessage| {
            self.kept.iter().any(|(known, kept)| known == attempt && kept.run_id == message.run_id)
        };
        let mut before: Vec<SteeringMessage> = Vec::new();
        for (other, message) in &self.kept {
            let is_new = before.iter().all(|known| known.run_id != message.run_id) && !is_known(message);
            if other != attempt && other.is_at_step_of(attempt) && is_same(message) && is_new {
                before.push(message.clone());
            }
        }
        before
    }
}

/// What is needed to finish a commit.
pub(crate) struct InFlight {
    end: u64,
    /// The run has ended, or is paused.
    rests: bool,
    /// The run as it has ended, if anybody waits for it.
    ended: Option<Ended>,
    /// What was written, if anybody wants to hear it.
    entries: Vec<Entry>,
    tally: Option<Box<Tally>>,
    /// What it does to budgets, if anything.
    posting: Option<Box<InPosting>>,
}

/// What is needed to finish a commit that may be refused for a budget, and to write it without what was refused.
struct InPosting {
    posting: Posting,
    /// All that it writes.
    entries: Vec<Entry>,
    first_index: u64,
    /// What stood in the log before it.
    writer: Writer,
}

impl Journal {
    pub(crate) fn new(
        services: Arc<Services>,
        lease: Lease,
        machine: WorkflowMachine,
        status: RunStatus,
        ending: Option<Arc<Ending>>,
        spending: Option<Arc<Spending>>,
    ) -> Self {
        let witness = services.observer.as_ref().and_then(|observer| observer.witness(machine.info()));
        let limited = spending.clone().filter(|spending| !spending.budgets.is_empty());
        let ledger = limited.map(|spending| Box::new(Ledger::new(spending, machine.info().clone())));
        let state = State {
            ledger,
            writer: Writer::new(machine.info().clone()),
            machine,
            status,
            next_index: 0,
            pending: Vec::new(),
            is_urgent: false,
            stream_due: None,
            durable_end: 0,
            is_committing: false,
            waiting: Vec::new(),
            driver: None,
            polling: None,
            halted: false,
            abandons: false,
            recorded: BTreeMap::new(),
            answers: BTreeMap::new(),
            settled: Vec::new(),
            named: BTreeMap::new(),
            session: None,
            session_now: Arc::default(),
            dropped: Vec::new(),
            progress: None,
            release: None,
            streams: Streams::default(),
            witness,
            count: Count::default(),
            is_redacted: false,
            session_mates: None,
        };
        Self {
            services,
            lease,
            state: Mutex::new(state),
            ending,
            has_mail: AtomicBool::new(false),
            has_asked: AtomicBool::new(false),
            spending,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    async fn read_history(&self, limit: u32) -> Result<Vec<HistoryRun>, DbError> {
        let (db, info) = (&*self.services.db, self.machine(|machine| machine.info().clone()));
        let beside = match self.beside() {
            Some(beside) => beside,
            None => {
                self.note_beside(unfinished_before(db, &info).await?);
                self.beside().unwrap_or_default()
            }
        };
        read_history(db, &self.services.definitions, &info, limit, &beside).await
    }

    /// The earlier runs that are no history of this one, because they had not ended when it first asked; none when it has
    /// not asked yet.
    fn beside(&self) -> Option<Box<[RunId]>> {
        let mut state = self.lock();
        let known = state.session_mates.as_ref().and_then(|mates| mates.beside.clone());
        if known.is_some() {
            return known;
        }
        let Some(Recall::Done(recorded)) = state.recorded.remove(&Key::run().word("history")) else { return None };
        let beside: Box<[RunId]> = serde_json::from_str(recorded.get()).ok()?;
        state.mates().beside = Some(beside.clone());
        Some(beside)
    }

    /// The run asks for its history for the first time, while these have not ended. Where there are none, there will never
    /// be one, and nothing needs to be recorded.
    fn note_beside(&self, unfinished: Box<[RunId]>) {
        let origin = Origin::workflow(&self.machine(|machine| machine.info().clone()));
        let mut state = self.lock();
        // Of two steps side by side, the first has asked.
        if state.mates().beside.is_some() {
            return;
        }
        state.mates().beside = Some(unfinished.clone());
        if unfinished.is_empty() {
            return;
        }
        let at = self.services.clock.now();
        let fields = Map::from_iter([("name".to_owned(), Value::from("HistoryRead"))]);
        let event = self.event(EventKind::CustomEvent { fields }, &origin, at);
        let value = serde_json::value::to_raw_value(&unfinished).expect("ids are text");
        let record = Record::Result { key: Key::run().word("history"), value: Arc::from(value), sleeps: false };
        state.append(Entry::recorded(event, record).at(at));
        state.is_urgent = true;
        state.rouse();
    }

    /// What was said to the run, all that nobody has heard yet.
    pub(crate) fn set_said(&self, said: Vec<SteeringMessage>) {
        let mut state = self.lock();
        if state.session_mates.is_none() && said.is_empty() {
            return;
        }
        let mates = state.mates();
        // What was heard is there until the commit that says so.
        let is_new = |message: &SteeringMessage| mates.kept.iter().all(|(_, kept)| kept.run_id != message.run_id);
        mates.said = said.into_iter().filter(is_new).collect();
    }

    /// Reports to the witness entries that an earlier process wrote.
    pub(crate) fn recount(&self, entries: &[Entry]) {
        if let Some(witness) = &mut self.lock().witness {
            witness.replayed(entries);
        }
    }

    /// Folds an entry that an earlier process wrote; `text` is its full text.
    pub(crate) fn replay(&self, fit: &mut Fit, entry: Entry, text: &str) -> Result<(), Mismatch> {
        let mut state = self.lock();
        // What it changed in the session is there already, and nothing is in progress yet.
        fit.apply(&mut state.machine, &entry)?;
        let index = state.next_index;
        state.writer.note(index, &entry, text);
        state.next_index += 1;
        state.durable_end = state.next_index;
        if state.note_named(&entry) {
            return Ok(());
        }
        match entry.record {
            Some(Record::Intent { key, .. } | Record::Reserved { key, .. } | Record::Said { key }) => {
                drop(state.recorded.insert(key, Recall::Started))
            }
            Some(Record::Result { key, value, .. }) => {
                if key.as_str().ends_with("/steered")
                    && let Ok(heard) = serde_json::from_str::<Vec<SteeringMessage>>(value.get())
                {
                    let attempt = Attempt::of(&key);
                    state.mates().kept.extend(heard.into_iter().map(|message| (attempt.clone(), message)));
                }
                drop(state.recorded.insert(key, Recall::Done(value)));
            }
            Some(Record::Run { key, ended }) => drop(state.recorded.insert(key, Recall::Run(ended))),
            Some(Record::Answered { key, answered }) => drop(state.answers.insert(key, answered)),
            Some(
                Record::Claimed { .. }
                | Record::Begin { .. }
                | Record::Iteration { .. }
                | Record::Step { .. }
                | Record::Failed { .. }
                | Record::Retry { .. }
                | Record::Waiting { .. }
                | Record::Rest(_),
            )
            | None => {}
        }
        Ok(())
    }

    /// Continues after a log that cannot be folded.
    pub(crate) fn skip_to(&self, next_index: u64) {
        let mut state = self.lock();
        state.next_index = next_index;
        state.durable_end = next_index;
    }

    /// Asks the machine.
    pub(crate) fn machine<T>(&self, ask: impl FnOnce(&WorkflowMachine) -> T) -> T {
        ask(&self.lock().machine)
    }

    /// The session's state as it is stored; from here on it is kept up to date with what is appended. What was appended
    /// before, and is not stored yet, counts.
    pub(crate) fn set_session(&self, stored: Arc<Map<String, Value>>) {
        let mut state = self.lock();
        state.session_now = stored;
        if let Some(patch) = state.session.clone() {
            merge(Arc::make_mut(&mut state.session_now), &patch);
        }
        let State { machine, session_now, .. } = &mut *state;
        machine.begins_with(session_now);
    }

    /// The session's state with what branches have changed.
    pub(crate) fn session_with(&self, branches: &Map<String, Value>) -> Arc<Map<String, Value>> {
        with_branches(&self.lock().session_now, branches)
    }

    /// Asks the machine what is next until it has nothing more to say, and appends what it says.
    pub(crate) fn decide(&self, claim: &Record, at: Timestamp) -> Decision {
        let mut all = Decision::default();
        loop {
            let chance = self.services.chance.bits();
            let Decision { say, session, start, wake, end } = self.lock().machine.next(claim, chance, at);
            let is_idle = say.is_empty() && start.is_empty();
            if !say.is_empty() {
                self.append(say);
                self.lock().change_session(session);
            }
            all.start.extend(start);
            (all.wake, all.end) = (wake, end);
            if is_idle {
                let mut state = self.lock();
                if state.machine.calls_back() {
                    state.wake();
                }
                return all;
            }
        }
    }

    /// Appends what the machine makes of the end of a step or a verdict.
    pub(crate) fn conclude(&self, conclude: impl FnOnce(&mut WorkflowMachine) -> Vec<Entry>) {
        let entries = conclude(&mut self.lock().machine);
        self.append(entries);
    }

    /// Has the machine asked what follows, although nothing in progress has ended.
    fn call(&self, state: &mut State) {
        state.is_urgent = true;
        self.has_asked.store(true, Ordering::Relaxed);
        state.driver.iter().for_each(Waker::wake_by_ref);
    }

    /// What the function of a step is doing: asked for after each poll.
    pub(crate) fn note_doing(&self, step: &Key, execution: &Execution) {
        let Some(doing) = execution.doing() else { return };
        let mut state = self.lock();
        if state.machine.is_doing(step, doing) {
            self.call(&mut state);
        }
    }

    /// A function sleeps so long that it was dropped.
    pub(crate) fn falls_asleep(&self, step: &Key, due_at: Timestamp) {
        self.lock().machine.falls_asleep(step, due_at);
    }

    /// Waits for what the machine has for a call in progress.
    ///
    /// # Errors
    /// When the run stops here.
    async fn until<T>(&self, find: impl Fn(&WorkflowMachine) -> Option<T>) -> Result<T, Failure> {
        poll_fn(|cx| {
            let mut state = self.lock();
            match find(&state.machine) {
                _ if state.halted => Poll::Ready(Err(stopping())),
                Some(found) => Poll::Ready(Ok(found)),
                None => {
                    state.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Somebody answered a question of the run: its inbox is to be read.
    pub(crate) fn expect_mail(&self) {
        self.has_mail.store(true, Ordering::Relaxed);
    }

    /// Whether the machine is to be asked what follows, although nothing in progress has ended.
    pub(crate) fn is_called(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed) || self.has_asked.load(Ordering::Relaxed)
    }

    /// It is about to be. Returns whether the inbox is to be read before.
    pub(crate) fn answers_call(&self) -> bool {
        if !self.is_called() {
            return false;
        }
        self.has_asked.store(false, Ordering::Relaxed);
        self.has_mail.swap(false, Ordering::Relaxed)
    }

    /// Writes down an answer. One that comes too late is taken out of the inbox all the same.
    pub(crate) fn answer(&self, question: &Question, answered: &Answered) {
        let entries = self.machine(|machine| machine.answer(&question.key, answered));
        if entries.is_empty() {
            self.settle(question.id.clone());
        }
        self.append(entries);
        self.lock().wake();
    }

    /// Writes down an answer of a run whose log cannot be folded now.
    pub(crate) fn keep_answer(&self, question: &Question, answered: &Answered) {
        self.append([self.machine(|machine| machine.keep(question, answered))]);
    }

    /// Tells the store that a question needs no answer any more.
    pub(crate) fn settle(&self, id: Arc<str>) {
        self.lock().settled.push(id);
    }

    /// Nodes whose work in progress is to be dropped: it counts as abandoned from now on.
    pub(crate) fn take_dropped(&self) -> Vec<Key> {
        let mut state = self.lock();
        let dropped = std::mem::take(&mut state.dropped);
        let abandoned = dropped.iter().map(|key| state.count.abandon(key)).sum();
        self.services.counters.models_aborted.fetch_add(abandoned, Ordering::Relaxed);
        dropped
    }

    /// Forgets what a step that failed or was dropped was saying: its next attempt begins anew.
    pub(crate) fn forget_texts(&self, step_id: &str) {
        self.lock().streams.forget(step_id);
    }

    /// A step whose function was dropped while it slept is executed again from its beginning: it says again what it said.
    pub(crate) fn wake_step(&self, step: &StepInfo) {
        self.forget_texts(&step.step_id);
        let fields = Map::from_iter([("name".to_owned(), Value::from("StepResumed"))]);
        self.tell(EventKind::CustomEvent { fields }, &step.origin, None);
    }

    /// Tells what was held back of a text that a step's function has said: it is complete.
    pub(crate) fn end_text(&self, step: &StepInfo) {
        let at = self.services.clock.now();
        let mut state = self.lock();
        if let Some(rest) = state.streams.end(&step.origin, || self.services.redactor()) {
            state.append(Entry::event(self.event(rest, &step.origin, at)));
        }
    }

    /// Appends entries of the workflow itself.
    pub(crate) fn append(&self, entries: impl IntoIterator<Item = Entry>) {
        let at = self.services.clock.now();
        let mut state = self.lock();
        for entry in entries {
            state.append(entry.at(at));
            state.is_urgent = true;
        }
    }

    /// Shows this progress text from the next commit on.
    pub(crate) fn set_progress(&self, progress: String) {
        self.lock().progress = Some(Arc::from(progress));
    }

    /// Releases the lease with the next commit.
    pub(crate) fn release(&self, due_at: Option<Timestamp>) {
        let mut state = self.lock();
        state.release = Some(Release { due_at });
        state.is_urgent = true;
    }

    /// From now on nothing new may start: anyone who waits for durability is turned away.
    pub(crate) fn halt(&self) {
        let mut state = self.lock();
        state.halted = true;
        state.wake();
    }

    /// The run is about to end without what it has begun elsewhere.
    pub(crate) fn abandon(&self) {
        self.lock().abandons = true;
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.lock().halted
    }

    /// The text of answers that were streaming when the run was stopped, by the ids of their steps.
    pub(crate) fn partial_texts(&self) -> HashMap<Arc<str>, String> {
        self.lock().streams.texts()
    }

    /// The run's work is polled from here on, by the task with this waker.
    pub(crate) fn poll_begins(&self, driver: &Waker) {
        let mut state = self.lock();
        state.polling = Some(thread::current().id());
        if !state.driver.as_ref().is_some_and(|known| known.will_wake(driver)) {
            state.driver = Some(driver.clone());
        }
    }

    /// Up to here.
    pub(crate) fn poll_ends(&self) {
        self.lock().polling = None;
    }

    /// When streamed text is due, if nothing more urgent is pending.
    pub(crate) fn stream_due(&self) -> Option<Instant> {
        self.lock().stream_due
    }

    /// Whether it is time for a commit and none is in flight.
    pub(crate) fn wants_commit(&self, is_final: bool) -> bool {
        let state = self.lock();
        let is_due = state.stream_due.is_some_and(|due| due <= Instant::now());
        !state.is_committing && state.has_pending() && (state.is_urgent || is_due || is_final)
    }

    /// Commits everything pending. A full or busy store does not fail a run: the run stalls, and continues by itself.
    ///
    /// # Cancel safety
    /// The commit may or may not happen. Only drop this when giving the run up.
    /// Takes what a new run says first, to be stored with it; none when more than entries follows from it.
    pub(crate) fn begin_first(&self) -> Option<(FirstPage, InFlight)> {
        let (Commit { page, patch, session, at, .. }, in_flight) = self.begin_commit()?;
        let RunPatch { status, progress, output, is_progress, release, questions, taken_in, budgets } = patch;
        let is_plain = status == Some(RunStatus::Running) && !is_progress && taken_in.is_empty() && budgets.is_empty();
        let is_more = session.is_some() || output.is_some() || release.is_some() || questions.is_some();
        let page = page.filter(|_| is_plain && !is_more && in_flight.posting.is_none())?;
        Some((FirstPage { page, progress, at }, in_flight))
    }

    pub(crate) async fn write(self: Arc<Self>) -> Result<(), DbError> {
        // Entries are encoded only once there is room: ten thousand runs that wake at once would otherwise hold ten
        // thousand encoded pages. Boxed for the same reason.
        let _place = self.services.commit_places.acquire().await;
        Box::pin(self.write_now()).await
    }

    async fn write_now(&self) -> Result<(), DbError> {
        let Some((mut commit, mut in_flight)) = self.begin_commit() else { return Ok(()) };
        loop {
            let written = self.services.commit(&commit).await;
            let over = written.as_ref().err().and_then(DbError::over_budget);
            let posting = over.zip(in_flight.posting.as_deref_mut());
            if !posting.is_some_and(|(over, posting)| self.refuse(&mut commit, posting, over)) {
                written?;
                self.end_commit(in_flight);
                return Ok(());
            }
        }
    }

    /// Has the next commit reserve what a call may use. Returns the number under which the ledger knows it; none where
    /// nothing is limited, and its intent is told like any other.
    fn hold(&self, call: Reservation) -> Result<Option<u64>, Halt> {
        let at = self.services.clock.now();
        let mut state = self.lock();
        if state.halted {
            return Err(Halt);
        }
        let place = state.pending.len();
        let number = state.ledger.as_mut().map(|ledger| ledger.reserve(&call, place, at));
        let record = Record::Reserved { key: call.key, spend: call.spend };
        let entry = Entry { event: self.event(call.told, &call.origin, at), at: Some(at), record: Some(record) };
        match number {
            // It is no fact before its commit: until then, nothing but its place is taken.
            Some(_) => state.pending.push(entry),
            None => state.append(entry),
        }
        state.is_urgent = true;
        state.rouse();
        Ok(number)
    }

    /// A reservation has no room: puts that it has none into the commit instead.
    fn refuse(&self, commit: &mut Commit, posting: &mut InPosting, over: OverBudget) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(ledger) = &mut state.ledger else { return false };
        let InPosting { posting, entries, first_index, writer } = posting;
        let Some(place) = posting.place(over) else { return false };
        let Some(refusal) = ledger.refuse(posting, over, &entries[place]) else { return false };
        entries[place] = refusal;
        // Both entries have the same index, so nothing that came after is moved.
        state.writer = writer.clone();
        let redactor = self.services.redactor();
        commit.page = Some(state.writer.page(*first_index, entries, &redactor).0);
        commit.patch.budgets = posting.changes();
        if commit.patch.output.is_some() {
            commit.patch.output =
                state.machine.at_rest_as().map(|rest| redactor.shared_json(state.writer.output(rest)));
        }
        true
    }

    /// Puts everything pending into one commit.
    fn begin_commit(&self) -> Option<(Commit, InFlight)> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if !state.has_pending() {
            return None;
        }
        let mut pending = std::mem::take(&mut state.pending);
        state.is_urgent = false;
        state.stream_due = None;
        let redactor = self.services.redactor();
        let posting = state.ledger.as_mut().filter(|ledger| ledger.has_steps()).map(|ledger| ledger.post());
        // Where something is reserved, the page may have to be written anew.
        let before = posting.as_ref().filter(|posting| !posting.holds.is_empty()).map(|_| state.writer.clone());
        let first_index = state.next_index;
        let page = (!pending.is_empty()).then(|| {
            let (page, has_secrets) = state.writer.page(state.next_index, &pending, &redactor);
            state.is_redacted |= has_secrets;
            if has_secrets && state.witness.is_some() {
                pending.iter_mut().for_each(|entry| *entry = redactor.entry(entry));
            }
            page
        });
        state.next_index += pending.len() as u64;
        state.is_committing = true;
        let mut patch = RunPatch {
            is_progress: pending.iter().filter_map(|e| e.record.as_ref()).any(Record::is_progress),
            progress: state.progress.take().map(|text| match redactor.text(&text) {
                Cow::Borrowed(_) => text.clone(),
                Cow::Owned(redacted) => Arc::from(redacted),
            }),
            release: state.release.take(),
            budgets: posting.as_ref().map(Posting::changes).unwrap_or_default(),
            ..RunPatch::default()
        };
        if let Some(mates) = &mut state.session_mates {
            patch.taken_in = std::mem::take(&mut mates.heard);
        }
        let ended = state.machine.ended();
        patch.questions = state.question_patch(&pending, ended, |text| redactor.shared_json(text));
        let status = ended.unwrap_or(RunStatus::Running);
        if state.status != status {
            patch.status = Some(status);
            state.status = status;
            patch.output = state.machine.at_rest_as().map(|rest| redactor.shared_json(state.writer.output(rest)));
        }
        let is_wanted =
            status.is_terminal() && !state.is_redacted && self.ending.as_ref().is_some_and(Ending::is_wanted);
        let mut session = state.session.take();
        if let Some(fields) = &mut session {
            redactor.map(fields);
        }
        let commit = Commit { lease: self.lease.clone(), page, patch, session, at: self.services.clock.now() };
        #[cfg(feature = "sabotage")]
        if crate::sabotage::is_on("publish-before-append") {
            state.durable_end = state.next_index;
            state.wake();
        }
        let posting = posting.map(|posting| {
            let entries = if before.is_some() { pending.clone() } else { Vec::new() };
            let writer = before.unwrap_or_else(|| Writer::new(state.machine.info().clone()));
            Box::new(InPosting { posting, entries, first_index, writer })
        });
        let entries = if state.witness.is_some() { pending } else { Vec::new() };
        let in_flight = InFlight {
            end: state.next_index,
            rests: ended.is_some(),
            ended: is_wanted
                .then(|| Ended { output: Box::new(state.machine.output()), deletions: self.services.hub.deletions() }),
            entries,
            tally: state.count.take(),
            posting,
        };
        Some((commit, in_flight))
    }

    /// The commit is durable: notifies those who waited for it, then everyone else.
    pub(crate) fn end_commit(&self, mut in_flight: InFlight) {
        if let Some(tally) = &in_flight.tally {
            self.services.counters.tallied(tally);
        }
        let mut state = self.lock();
        state.is_committing = false;
        state.durable_end = in_flight.end;
        if let Some(posting) = in_flight.posting {
            let InPosting { posting, entries, .. } = *posting;
            posting.holds.iter().for_each(|hold| state.count.note(&entries[hold.place]));
            if !in_flight.entries.is_empty() && !entries.is_empty() {
                in_flight.entries = entries;
            }
            if let Some(ledger) = &mut state.ledger {
                ledger.posted(posting);
            }
        }
        state.wake();
        drop(state);
        if let (Some(ending), Some(ended)) = (&self.ending, in_flight.ended) {
            ending.set(ended);
        }
        self.services.hub.publish(&self.lease.run_id, in_flight.end, in_flight.rests);
        if let Some(witness) = &mut self.lock().witness {
            witness.committed(&in_flight.entries);
        }
    }

    fn event(&self, kind: EventKind, origin: &Origin, at: Timestamp) -> RunEvent {
        RunEvent { created_at: at.as_seconds(), kind, origin: origin.clone(), event_index: None }
    }
}

impl Drop for Journal {
    /// Calls in flight are dropped with the run's work.
    fn drop(&mut self) {
        let open = self.lock().count.open();
        self.services.counters.models_aborted.fetch_add(open, Ordering::Relaxed);
    }
}

impl State {
    fn append(&mut self, entry: Entry) {
        self.note_named(&entry);
        if let Some(Record::Answered { key, answered }) = &entry.record {
            self.answers.insert(key.clone(), answered.clone());
        }
        let applied = self.machine.apply(&entry).expect("entries made here speak of this definition");
        self.change_session(applied.session);
        self.dropped.extend(applied.dropped);
        self.count.note(&entry);
        self.pending.push(entry);
    }

    /// Keeps what a function recorded under a name of its own for as long as its step is in progress.
    fn note_named(&mut self, entry: &Entry) -> bool {
        match &entry.record {
            Some(Record::Intent { key, .. }) if key.is_named() => {
                self.named.insert(key.clone(), Recall::Started);
                true
            }
            Some(Record::Result { key, value, .. }) if key.is_named() => {
                self.named.insert(key.clone(), Recall::Done(value.clone()));
                true
            }
            Some(Record::Step { key, .. }) if !self.named.is_empty() || !self.answers.is_empty() => {
                let first = key.attempt(1);
                self.named.retain(|named, _| !named.is_inside(&first));
                self.answers.retain(|asked, _| !asked.is_inside(key) && !asked.is_inside(&first));
                false
            }
            _ => false,
        }
    }

    /// Changes the session's state with the next commit.
    fn change_session(&mut self, patch: Map<String, Value>) {
        if !patch.is_empty() {
            merge(Arc::make_mut(&mut self.session_now), &patch);
            self.session.get_or_insert_default().extend(patch);
        }
    }

    /// What a commit of these entries does to the run's questions; nothing, most of the time.
    fn question_patch(
        &mut self,
        pending: &[Entry],
        ended: Option<RunStatus>,
        redact: impl Fn(Arc<str>) -> Arc<str>,
    ) -> Option<Box<QuestionPatch>> {
        let mut patch = QuestionPatch { settled: std::mem::take(&mut self.settled), ..QuestionPatch::default() };
        patch.settled.extend(self.machine.take_void());
        for record in pending.iter().filter_map(|entry| entry.record.as_ref()) {
            match record {
                Record::Waiting { questions, .. } => patch.asked.extend(questions.iter().map(|question| NewQuestion {
                    id: question.id.clone(),
                    due_at: question.due_at,
                    text: redact(Arc::from(serde_json::to_string(&question.for_people()).expect("it is JSON"))),
                })),
                Record::Answered { key, .. } => {
                    patch.settled.push(self.machine.info().run_id.derive(key.as_str()));
                }
                _ => {}
            }
        }
        if ended.is_some_and(RunStatus::is_terminal) {
            patch.settled.extend(self.machine.open_questions().cloned());
        }
        (patch != QuestionPatch::default()).then(|| Box::new(patch))
    }

    fn mates(&mut self) -> &mut Mates {
        self.session_mates.get_or_insert_default()
    }

    fn end(&self) -> u64 {
        self.next_index + self.pending.len() as u64
    }

    fn has_pending(&self) -> bool {
        let is_plain = self.pending.is_empty() && self.release.is_none() && self.session.is_none();
        !is_plain || !self.settled.is_empty() || self.ledger.as_ref().is_some_and(|ledger| ledger.has_steps())
    }

    /// Has the run's task look at what was said outside of it, on a thread or in a task of a function's own.
    fn rouse(&self) {
        if self.polling != Some(thread::current().id()) {
            self.driver.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// Merges streamed text into the last piece of the same answer, if nothing but pieces of other answers came after
    /// it, it is not yet written, and much is pending: readers see a model's pieces as they came, but a flood of tiny pieces does not become a flood of
    /// entries.
    fn merge_stream(&mut self, event: &RunEvent) -> bool {
        if self.pending.len() < STREAMED_MAX {
            return false;
        }
        let is_piece = |entry: &&mut Entry| {
            let is_text = matches!(entry.event.kind, EventKind::RunContent(_) | EventKind::TeamRunContent(_));
            is_text && entry.record.is_none()
        };
        let mut pieces = self.pending.iter_mut().rev().take(STREAMED_MAX).take_while(is_piece);
        let Some(last) = pieces.find(|entry| is_one_speaker(&entry.event.origin, &event.origin)) else {
            return false;
        };
        match (&mut last.event.kind, &event.kind) {
            (EventKind::RunContent(text), EventKind::RunContent(more))
            | (EventKind::TeamRunContent(text), EventKind::TeamRunContent(more)) => {
                text.reasoning_content.push_str(&more.reasoning_content);
                match (&mut text.content, &more.content) {
                    (Some(content), Some(more)) => content.push_str(more),
                    (content, more) => *content = content.take().or_else(|| more.clone()),
                }
                true
            }
            _ => false,
        }
    }
}

impl Effects for Journal {
    fn now(&self) -> Timestamp {
        self.services.clock.now()
    }

    fn recall(&self, key: &Key) -> Recall {
        let mut state = self.lock();
        let recorded = if key.is_named() { state.named.get(key).cloned() } else { state.recorded.remove(key) };
        recorded.unwrap_or(Recall::Nothing)
    }

    fn tell(&self, kind: EventKind, origin: &Origin, record: Option<Record>) {
        let at = self.services.clock.now();
        let event = self.event(kind, origin, at);
        let mut state = self.lock();
        if state.halted && record.as_ref().is_none_or(|record| !record.is_progress()) {
            return;
        }
        // An answer that ended, or one that broke off and is being asked for again. What a function reports between two
        // pieces of its text ends nothing: the text goes on until its step ends.
        let is_answer = origin.agent_id.is_some() || origin.team_id.is_some();
        if let Some(rest) = is_answer.then(|| state.streams.end(origin, || self.services.redactor())).flatten() {
            state.append(Entry::event(self.event(rest, origin, at)));
        }
        state.append(Entry { event, at: Some(at), record });
        state.is_urgent = true;
        state.rouse();
    }

    fn stream(&self, kind: EventKind, origin: &Origin) {
        let mut event = self.event(kind, origin, self.services.clock.now());
        let mut state = self.lock();
        if !state.streams.pass(&mut event, &self.services.redactor()) {
            return;
        }
        if !state.merge_stream(&event) {
            state.append(Entry::event(event));
        }
        if state.stream_due.is_none() {
            state.stream_due = Some(Instant::now() + self.services.stream_period);
            state.rouse();
        }
    }

    fn durable(&self) -> BoxFuture<'_, Result<(), Halt>> {
        Box::pin(async move {
            let end = {
                let mut state = self.lock();
                if state.durable_end < state.end() {
                    state.is_urgent = true;
                    state.rouse();
                }
                state.end()
            };
            poll_fn(|cx| {
                let mut state = self.lock();
                if state.halted {
                    return Poll::Ready(Err(Halt));
                }
                if state.durable_end >= end {
                    return Poll::Ready(Ok(()));
                }
                state.waiting.push(cx.waker().clone());
                Poll::Pending
            })
            .await?;
            // The commit may have taken longer than the lease lasts: another process may execute this run by now.
            let is_good = self.services.lease_clock.is_good();
            #[cfg(feature = "sabotage")]
            let is_good = is_good || crate::sabotage::is_on("skip-lease-check");
            if !is_good {
                self.services.lease_clock.good().await;
            }
            if self.is_halted() { Err(Halt) } else { Ok(()) }
        })
    }

    fn spending(&self) -> Option<&Arc<Spending>> {
        self.spending.as_ref()
    }

    fn reserve(&self, call: Reservation) -> BoxFuture<'_, Result<(), Refused>> {
        Box::pin(async move {
            let Some(number) = self.hold(call).map_err(Refused::Halted)? else {
                return self.durable().await.map_err(Refused::Halted);
            };
            let decided = poll_fn(|cx| {
                let mut state = self.lock();
                let decided = state.ledger.as_mut().and_then(|ledger| ledger.decided(number));
                match decided {
                    Some(decided) => Poll::Ready(Ok(decided)),
                    None if state.halted => Poll::Ready(Err(Refused::Halted(Halt))),
                    None => {
                        state.waiting.push(cx.waker().clone());
                        Poll::Pending
                    }
                }
            });
            decided.await?.map_err(Refused::Over)
        })
    }

    fn settle(&self, key: &Key, spent: Spend) {
        if let Some(ledger) = &mut self.lock().ledger {
            ledger.settle(key, spent);
        }
    }

    fn raise(&self, name: &str, amount: u64) {
        let now = self.services.clock.now();
        if let Some(ledger) = &mut self.lock().ledger {
            ledger.raise(name, amount, now);
        }
    }

    fn admit<'a>(
        &'a self,
        limit: &'a Arc<RateLimit>,
        tokens: u64,
    ) -> BoxFuture<'a, Result<Option<Admitted>, Duration>> {
        Box::pin(rates::admit(&self.services, limit, tokens))
    }

    fn admitted(&self, limit: &Arc<RateLimit>, call: Admitted, used: Option<u64>) {
        self.services.shares.settle(limit, call, used);
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }

    fn abandons(&self) -> bool {
        self.lock().abandons
    }

    fn halted(&self) -> BoxFuture<'_, ()> {
        Box::pin(poll_fn(|cx| {
            let mut state = self.lock();
            if state.halted {
                return Poll::Ready(());
            }
            // Called whenever anything in the run moves.
            if !state.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        }))
    }

    fn on_thread(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let stops = |_| Failure::new(FailureKind::Cancelled, "the run is stopping here");
            let place = tokio::select! {
                biased;
                () = self.halted() => return Err(stops(Halt)),
                place = self.services.threads.clone().acquire_owned() => place.expect("nobody closes it"),
            };
            // It may have waited long.
            self.durable().await.map_err(stops)?;
            let (has_ended, end) = oneshot::channel();
            let runtime = Handle::current();
            let begun = thread::Builder::new().name("outlive-function".to_owned()).spawn(move || {
                let _runtime = runtime.enter();
                work();
                drop(place);
                // Nobody may be waiting any more.
                let _ = has_ended.send(());
            });
            begun.map_err(|error| Failure::new(FailureKind::Unavailable, format!("no thread can be had: {error}")))?;
            // Without an answer, it has ended too.
            let _ = end.await;
            Ok(())
        })
    }

    fn ask<'a>(&'a self, step: &'a Key, questions: Vec<Question>) -> BoxFuture<'a, Result<Vec<Answered>, Failure>> {
        Box::pin(async move {
            let keys: Vec<Key> = questions.iter().map(|question| question.key.clone()).collect();
            {
                let at = self.services.clock.now();
                let mut state = self.lock();
                let mut open: Vec<_> =
                    questions.into_iter().filter(|question| !state.answers.contains_key(&question.key)).collect();
                if !open.is_empty() && !state.halted {
                    // A function that was executed again because it had slept enough comes back to what it has asked.
                    open.retain(|question| !state.machine.is_asked(&question.key));
                    let new = open;
                    let unknown = new.iter().filter(|question| question.kind == QuestionKind::Outcome).count();
                    self.services.counters.outcomes_unknown.fetch_add(unknown as u64, Ordering::Relaxed);
                    for entry in state.machine.asked_inside(step, new, at) {
                        state.append(entry.at(at));
                    }
                    state.is_urgent = true;
                    // Before the run's task looks, which another thread may let it do at once.
                    self.has_asked.store(true, Ordering::Relaxed);
                    state.rouse();
                }
            }
            let mut is_asked = false;
            poll_fn(|cx| {
                let mut state = self.lock();
                if !std::mem::replace(&mut is_asked, true) {
                    // The run's task asks its machine before it polls this again.
                    cx.waker().wake_by_ref();
                }
                let answers: Option<Vec<Answered>> = keys.iter().map(|key| state.answers.get(key).cloned()).collect();
                // An agent goes on when everything that it asked was answered.
                let goes_on = state.machine.is_function(step) || !state.machine.is_waiting(step);
                match answers.filter(|_| goes_on) {
                    _ if state.halted => Poll::Ready(Err(stopping())),
                    Some(answers) => Poll::Ready(Ok(answers)),
                    None => {
                        state.waiting.push(cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await
        })
    }

    fn run_workflow<'a>(
        &'a self,
        step: &'a Key,
        call: &'a Key,
        workflow: &'a Definition,
        called: Called,
    ) -> BoxFuture<'a, Result<CalledEnd, Failure>> {
        Box::pin(async move {
            let key = {
                let at = self.services.clock.now();
                let mut state = self.lock();
                if state.halted {
                    return Err(stopping());
                }
                let (key, say) = state.machine.call_workflow(step, call, workflow, called, at)?;
                for entry in say {
                    state.append(entry.at(at));
                }
                self.call(&mut state);
                key
            };
            self.until(|machine| machine.called_end(step, &key).cloned()).await
        })
    }

    fn rests(&self, step: &Key) {
        let mut state = self.lock();
        if state.machine.rests(step) {
            self.call(&mut state);
        }
    }

    fn run_steps<'a>(&'a self, call: &'a Key, input: Value) -> BoxFuture<'a, Result<Option<Value>, Failure>> {
        Box::pin(async move {
            {
                let at = self.services.clock.now();
                let mut state = self.lock();
                if state.halted {
                    return Err(stopping());
                }
                for entry in state.machine.call_steps(call, input, at)? {
                    state.append(entry.at(at));
                }
                self.call(&mut state);
            }
            self.until(WorkflowMachine::called_back).await
        })
    }

    fn answered(&self, key: &Key) -> Option<Answered> {
        self.lock().answers.get(key).cloned()
    }

    fn take_in(&self, listener: &Listener<'_>, key: &Key) -> Vec<SteeringMessage> {
        let at = self.services.clock.now();
        let mut state = self.lock();
        if state.halted {
            return Vec::new();
        }
        let workflow_id = state.machine.info().workflow_id.clone();
        let masked = |content| match self.services.definitions.latest(&workflow_id) {
            Some(definition) => definition.masked(content),
            None => content,
        };
        let Some(mates) = &mut state.session_mates else { return Vec::new() };
        let is_for = |message: &mut SteeringMessage| match &message.to {
            Some(id) => **id == *listener.id,
            None => listener.leads,
        };
        let attempt = Attempt::of(key);
        let mut heard = mates.heard_before(&attempt, listener.id);
        let by = Some(Arc::from(listener.id));
        let new = mates.said.extract_if(.., is_for).map(|message| SteeringMessage { heard_by: by.clone(), ..message });
        let mut new: Vec<_> = new.collect();
        for message in &mut new {
            // It passes by whoever would have been asked first.
            message.content = masked(std::mem::take(&mut message.content));
        }
        mates.heard.extend(new.iter().filter_map(|message| RunId::parse(&message.run_id).ok()));
        heard.extend(new);
        if heard.is_empty() {
            return heard;
        }
        mates.kept.extend(heard.iter().map(|message| (attempt.clone(), message.clone())));
        for message in &heard {
            let mut fields = Map::from_iter([("name".to_owned(), Value::from("RunSteered"))]);
            fields.insert("steering_run_id".to_owned(), message.run_id.as_ref().into());
            fields.insert("content".to_owned(), message.content.clone());
            let is_last = std::ptr::eq(message, &heard[heard.len() - 1]);
            let record = is_last.then(|| {
                let value = serde_json::value::to_raw_value(&heard).expect("messages are plain data");
                Record::Result { key: key.clone(), value: Arc::from(value), sleeps: false }
            });
            let event = self.event(EventKind::CustomEvent { fields }, listener.origin, at);
            state.append(Entry { event, at: Some(at), record });
        }
        state.is_urgent = true;
        heard
    }

    fn chance(&self) -> u64 {
        self.services.chance.bits()
    }

    fn history(&self, limit: u32) -> BoxFuture<'_, Result<Vec<HistoryRun>, Failure>> {
        Box::pin(async move {
            self.read_history(limit).await.map_err(|error| {
                let is_lost = error.kind() == DbErrorKind::Unreadable;
                let kind = if is_lost { FailureKind::Definition } else { FailureKind::Unavailable };
                Failure::new(kind, format!("the session's history cannot be read: {error}"))
            })
        })
    }
}

fn stopping() -> Failure {
    Failure::new(FailureKind::Cancelled, "the run is stopping here")
}
