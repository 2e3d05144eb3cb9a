//! Drives one run: asks the machine, executes, appends, and commits whenever the run comes to rest.
//!
//! One task per run polls everything the run does. So dropping the work drops every call in flight, which is how a
//! cancel reaches a model's HTTP request, and a run at rest costs one small task.

use crate::control::{Control, Stop};
use crate::definitions::Age;
use crate::ending::Ending;
use crate::flights::{Flights, Landing};
use crate::fold::{self, Unreadable};
use crate::inner::{Inner, Place};
use crate::journal::{InFlight, Journal};
use crate::pump::Pump;
use crate::stats;
use futures::FutureExt;
use outlive_core::log::{Key, Record};
use outlive_core::machine::{Ask, Decision, Execute, Task, WorkflowMachine};
use outlive_core::port::{
    Access, BoxFuture, Commit, DbError, DbErrorKind, Effects, Executed, Execution, FirstPage, Lease, Release,
    RequestOptions, Run, RunPatch, SessionState, SteeringMessage, StepContext,
};
use outlive_core::{
    Answered, Definition, ExecutorKind, Failure, FailureKind, Question, Structure, Timestamp, Verdict, json,
};
use serde_json::{Map, Value};
use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How often time limits are looked at while a run waits for people.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How the work of a run came to rest.
enum Rest {
    /// The machine says the run has ended or is paused.
    Ended,
    /// Nothing to do before this time.
    Park(Timestamp),
    /// Nothing new may start.
    Halted,
    /// Stopped from outside.
    Stopped(Stop),
    /// The run's time limit has passed.
    TimedOut(u64),
}

/// Executes a run this process holds the lease of. `session` is its session's state when the caller knows it; `ending`
/// is told how the run ends.
pub(crate) fn start(
    inner: &Arc<Inner>,
    run: Run,
    lease: Lease,
    session: Option<Arc<Map<String, Value>>>,
    ending: Option<Arc<Ending>>,
    is_suspect: bool,
) {
    inner
        .start(run, lease, is_suspect, |place, run, lease, control| drive(place, run, lease, control, session, ending));
}

/// A run that has begun, and is stored with what it says first.
pub(crate) struct Begun {
    journal: Arc<Journal>,
    claim: Record,
    definition: Arc<Definition>,
    session: Arc<Map<String, Value>>,
    /// What it does first.
    start: Vec<Task>,
    in_flight: InFlight,
}

/// Begins a run that has not been stored yet, if it begins with functions: their start has to be on disk before they are
/// called, and is stored with the run. `session` is the state of its session, which is new.
pub(crate) fn begin(
    inner: &Inner,
    run: &Run,
    lease: Lease,
    session: Arc<Map<String, Value>>,
    ending: Arc<Ending>,
    definition: &Arc<Definition>,
) -> Option<(FirstPage, Box<Begun>)> {
    // An observer may start a task of its own.
    let _runtime = inner.runtime.enter();
    let (journal, obstacle) = open(inner, run, lease, Some(ending), Some(definition));
    if obstacle.is_some() {
        return None;
    }
    let now = inner.services.clock.now();
    let claim = claim_record(run, &journal, now);
    journal.set_session(session.clone());
    let Decision { start, wake, end, .. } = journal.decide(&claim, now);
    let is_function = |task: &Task| matches!(task, Task::Execute(step) if step.executor_type == ExecutorKind::Function);
    if start.is_empty() || !start.iter().all(is_function) || wake.is_some() || end.is_some() {
        return None;
    }
    journal.set_progress(journal.machine(WorkflowMachine::progress));
    let (first, in_flight) = journal.begin_first()?;
    let definition = definition.clone();
    Some((first, Box::new(Begun { journal, claim, definition, session, start, in_flight })))
}

/// Executes a run that has begun and is stored.
pub(crate) fn go_on(inner: &Arc<Inner>, run: Run, begun: Box<Begun>) {
    let lease = begun.journal.lease().clone();
    inner.start(run, lease, false, |place, _, lease, control| async move {
        let inner = place.inner();
        let Begun { journal, claim, definition, session, start, in_flight } = *begun;
        journal.end_commit(in_flight);
        let mut pump = Pump::new(journal);
        let attended = attend(inner, &mut pump, &control, &claim, definition, Work { session, start }).await;
        if let Err(error) = attended {
            Box::pin(inner.give_up(lease, &error)).await;
        }
    });
}

/// Drives a claimed run until it ends, parks or is lost.
///
/// Not an `async fn`: that would hold each argument twice, for as long as the run takes.
fn drive(
    place: Place,
    run: Run,
    lease: Lease,
    control: Arc<Control>,
    session: Option<Arc<Map<String, Value>>>,
    ending: Option<Arc<Ending>>,
) -> impl Future<Output = ()> + Send {
    let run = Box::new(run);
    async move {
        let inner = place.inner();
        let newest = inner.definition(&run.info.workflow_id, &run.definition);
        let (definition, missing) = match newest {
            Some(newest) if newest.source.is_some() && newest.hash != run.definition => {
                match Box::pin(accepted_with(inner, &run, newest)).await {
                    Ok(found) => found,
                    Err(error) => return Box::pin(inner.give_up(lease, &error)).await,
                }
            }
            newest => (newest, None),
        };
        let (journal, obstacle) = open(inner, &run, lease, ending, definition.as_deref());
        let obstacle = missing.or(obstacle);
        if let Err(error) = drive_once(inner, run, definition, &journal, obstacle, &control, session).await {
            // Boxed, because only a run in this case needs the room.
            Box::pin(inner.give_up(journal.lease().clone(), &error)).await;
        }
    }
}

/// Why a run must not execute.
enum Obstacle {
    /// Its input or its options cannot be read: a step would work on nothing.
    Unreadable(Failure),
    /// The text of its definition needs what this process does not have, in words.
    Missing(String),
}

/// The definition that a run was accepted with, read from its text, or what is missing for that; the newest where no such
/// text was stored: replay then decides whether that fits.
///
/// # Errors
/// The store's.
async fn accepted_with(
    inner: &Inner,
    run: &Run,
    newest: Arc<Definition>,
) -> Result<(Option<Arc<Definition>>, Option<Box<Obstacle>>), DbError> {
    let stored = inner.services.db.definition(run.definition.clone()).await?;
    let text = stored.and_then(|text| Structure::parse(&text).ok()).and_then(|structure| structure.source);
    let (Some(text), Some(source)) = (text, &newest.source) else { return Ok((Some(newest), None)) };
    let restored = source.restore(&text).and_then(|definition| match definition.hash == run.definition {
        true => Ok(definition),
        // Another version of the program reads it differently, or a function has another name.
        false => Err("this program reads the text differently".to_owned()),
    });
    Ok(match restored {
        Ok(definition) => {
            inner.keep(definition.clone(), Age::Older);
            (Some(definition), None)
        }
        Err(problem) => {
            let reason = format!(
                "the run goes on with the file that it was accepted with, and that is not possible here: {problem}"
            );
            (Some(newest), Some(Box::new(Obstacle::Missing(reason))))
        }
    })
}

/// Drives the run from where its log ends until it rests.
async fn drive_once(
    inner: &Arc<Inner>,
    run: Box<Run>,
    definition: Option<Arc<Definition>>,
    journal: &Arc<Journal>,
    obstacle: Option<Box<Obstacle>>,
    control: &Control,
    session: Option<Arc<Map<String, Value>>>,
) -> Result<(), DbError> {
    let mut pump = Pump::new(journal.clone());
    let claim = claim_record(&run, journal, inner.services.clock.now());
    // Boxed and dropped, so that a run that waits for hours does not hold what only its start needs.
    let begun = Instant::now();
    let prepared = Box::pin(prepare(inner, &run, journal, obstacle, &claim, definition.as_deref(), session)).await?;
    // A fork begins with a log, and with its first claim.
    if run.next_index > 0 && run.epoch > 1 {
        inner.services.counters.recoveries.add(begun.elapsed());
    }
    drop(run);
    match prepared {
        None => pump.flush().await,
        Some(session) => {
            let definition = definition.expect("prepare() ends runs without a definition");
            attend(inner, &mut pump, control, &claim, definition, Work { session, start: Vec::new() }).await
        }
    }
}

/// The journal of a run, and the reason why it must not execute, if any: without its input, a step would work on
/// nothing.
fn open(
    inner: &Inner,
    run: &Run,
    lease: Lease,
    ending: Option<Arc<Ending>>,
    definition: Option<&Definition>,
) -> (Arc<Journal>, Option<Box<Obstacle>>) {
    let (input, options) = (run.read_input(), run.request_options());
    let unreadable = [input.as_ref().err(), options.as_ref().err()].into_iter().flatten().next();
    let unreadable = unreadable.map(|error| Failure::new(FailureKind::BadResponse, error.to_string()));
    let obstacle = unreadable.map(|failure| Box::new(Obstacle::Unreadable(failure)));
    let input = input.unwrap_or_default();
    let options = options.unwrap_or_default();
    let nodes = definition.map(|definition| definition.nodes.clone());
    let info = Arc::new(run.info.clone());
    let machine = WorkflowMachine::new(info, nodes, input, options.attachments, run.created_at);
    let leader = definition.and_then(|definition| definition.leader.clone());
    let machine = machine.with_session_state(options.session_state).with_leader(leader);
    let spending = definition.and_then(|definition| definition.spending.clone());
    let journal = Journal::new(inner.services.clone(), lease, machine, run.status, ending, spending);
    (Arc::new(journal), obstacle)
}

/// Folds the log and settles what can be settled without executing. `Some` means: execute, with this session state.
async fn prepare(
    inner: &Inner,
    run: &Run,
    journal: &Journal,
    obstacle: Option<Box<Obstacle>>,
    claim: &Record,
    definition: Option<&Definition>,
    session: Option<Arc<Map<String, Value>>>,
) -> Result<Option<Arc<Map<String, Value>>>, DbError> {
    let now = inner.services.clock.now();
    let mut is_taken_over = false;
    if let (Some(Obstacle::Missing(reason)), None) = (obstacle.as_deref(), &run.cancel) {
        return wait_for_definition(inner, run, journal, reason).await;
    }
    if run.next_index > 0 {
        match replay(inner, run, journal, definition).await? {
            Ok(()) => {
                is_taken_over = journal.machine(|m| m.is_taken_over(claim));
                journal.append([journal.machine(|m| m.resumed(claim, run.attempt, now))]);
            }
            // A run that cannot be read can still be cancelled.
            Err(_) if run.cancel.is_some() => journal.skip_to(run.next_index),
            Err(Unreadable::Damaged(damaged)) => {
                journal.skip_to(run.next_index);
                let failure = Failure::new(FailureKind::BadResponse, damaged.to_string());
                journal.append(journal.machine(|m| m.fail(&failure, now)));
                return Ok(None);
            }
            Err(Unreadable::Changed(mismatch)) => {
                return wait_for_definition(inner, run, journal, &mismatch.to_string()).await;
            }
        }
    }
    if let Some(cancel) = &run.cancel {
        journal.append(journal.machine(|m| m.cancel(&cancel.reason, &|_| None, claim, now)));
        return Ok(None);
    }
    if is_taken_over {
        // The worker before was told of what others have said, and may have heard nothing of it.
        read_mail(inner, journal).await?;
    } else if journal.machine(WorkflowMachine::has_questions) {
        read_inbox(inner, journal, Journal::answer).await?;
    }
    if let Some(Obstacle::Unreadable(failure)) = obstacle.as_deref() {
        journal.append(journal.machine(|m| m.fail(failure, now)));
        return Ok(None);
    }
    if run.claims > inner.options.claims_max {
        let count = run.claims - 1;
        let message = format!("poisoned: {count} workers were lost while executing this run and it made no progress");
        journal.append(journal.machine(|m| m.fail(&Failure::new(FailureKind::Poisoned, message), now)));
        return Ok(None);
    }
    if definition.is_none() {
        journal.release(None);
        return Ok(None);
    }
    let state = match session {
        Some(state) => state,
        None => {
            let session = inner.services.db.session(Access::All, run.info.session_id.clone()).await;
            match session {
                Err(error) if error.kind() == DbErrorKind::Unreadable => {
                    let failure = Failure::new(FailureKind::BadResponse, error.to_string());
                    journal.append(journal.machine(|m| m.fail(&failure, now)));
                    return Ok(None);
                }
                session => Arc::new(session?.map(|session| session.state).unwrap_or_default()),
            }
        }
    };
    Ok(Some(state))
}

/// Pauses a run until a person says that its definition is there.
///
/// # Errors
/// The store's.
async fn wait_for_definition(
    inner: &Inner,
    run: &Run,
    journal: &Journal,
    reason: &str,
) -> Result<Option<Arc<Map<String, Value>>>, DbError> {
    journal.skip_to(run.next_index);
    // Nothing follows from an answer before the log can be read with a definition that fits.
    read_inbox(inner, journal, Journal::keep_answer).await?;
    let now = inner.services.clock.now();
    journal.append(journal.machine(|m| m.pause(reason, run.next_index, now)));
    journal.release(None);
    Ok(None)
}

/// Writes down the answers that the log does not have yet.
async fn read_inbox(
    inner: &Inner,
    journal: &Journal,
    write: impl Fn(&Journal, &Question, &Answered),
) -> Result<(), DbError> {
    for stored in inner.services.db.inbox(journal.lease().run_id.clone()).await? {
        match (stored.question(), stored.answered()) {
            (Ok(question), Ok(Some(answered))) => write(journal, &question, &answered),
            // What cannot be read was damaged on disk. Its question stays open.
            (_, Err(error)) | (Err(error), _) => {
                tracing::error!(run_id = %stored.run_id, question = %stored.id, %error, "an answer cannot be read");
                journal.settle(stored.id);
            }
            (Ok(_), Ok(None)) => {}
        }
    }
    Ok(())
}

/// Reads what was sent to the run: answers, and messages to those who work in it.
async fn read_mail(inner: &Inner, journal: &Journal) -> Result<(), DbError> {
    read_inbox(inner, journal, Journal::answer).await?;
    let steering = inner.services.db.steering(journal.lease().run_id.clone()).await?;
    let mut said = Vec::with_capacity(steering.len());
    for run in steering {
        match message_of(&run) {
            Ok(message) => said.push(message),
            // Its turn comes after this run, and it fails then.
            Err(error) => tracing::error!(run_id = %run.info.run_id, %error, "a message to a run cannot be read"),
        }
    }
    journal.set_said(said);
    Ok(())
}

/// What a run says that steers another.
fn message_of(run: &Run) -> Result<SteeringMessage, outlive_core::port::Unreadable> {
    let RequestOptions { attachments, steer_to, .. } = run.request_options()?;
    Ok(SteeringMessage {
        run_id: run.info.run_id.to_shared(),
        content: run.read_input()?.unwrap_or_default(),
        to: steer_to,
        heard_by: None,
        images: attachments.images.unwrap_or_default(),
        files: attachments.files.unwrap_or_default(),
    })
}

async fn replay(
    inner: &Inner,
    run: &Run,
    journal: &Journal,
    definition: Option<&Definition>,
) -> Result<Result<(), Unreadable>, DbError> {
    let db = &*inner.services.db;
    let mut fit = fold::fit(db, run, definition.map(|definition| &*definition.hash)).await?;
    let read = fold::read(db, run, |first_index, entries, reader| {
        journal.recount(&entries);
        (first_index..).zip(entries).try_for_each(|(index, entry)| {
            let text = reader.text(index).expect("it has just been read");
            journal.replay(&mut fit, entry, text)
        })
    });
    let read = read.await?;
    Ok(read.and_then(|()| journal.machine(|machine| fit.end(machine)).map_err(Unreadable::Changed)))
}

fn claim_record(run: &Run, journal: &Journal, at: Timestamp) -> Record {
    let lease = journal.lease();
    Record::Claimed { worker: lease.worker.clone(), epoch: lease.epoch, attempt: run.attempt, at, state: None }
}

/// What a run begins its work with.
struct Work {
    /// The state of its session.
    session: Arc<Map<String, Value>>,
    /// What it was told to start already.
    start: Vec<Task>,
}

/// Executes the run until it rests.
async fn attend(
    inner: &Arc<Inner>,
    pump: &mut Pump,
    control: &Control,
    claim: &Record,
    definition: Arc<Definition>,
    work: Work,
) -> Result<(), DbError> {
    let journal = pump.journal().clone();
    let rest = {
        let journal = &journal;
        let deadline = deadline(inner, journal, &definition);
        // The futures are made inside: one that is moved in would be held twice, for as long as the run takes.
        let working = Box::pin(async move {
            tokio::select! {
                biased;
                stop = control.stopped(journal) => Rest::Stopped(stop),
                rest = execute(inner, journal, definition, claim, work) => rest,
                limit = deadline => Rest::TimedOut(limit),
            }
        });
        pump.run(working).await?
    };
    let now = inner.services.clock.now();
    match rest {
        Rest::Ended => {
            if journal.machine(WorkflowMachine::ended).is_some_and(|status| !status.is_terminal()) {
                journal.release(None);
            }
        }
        Rest::Park(due_at) => journal.release(Some(due_at)),
        Rest::Halted | Rest::Stopped(Stop::Release | Stop::Drain) => journal.release(None),
        Rest::Stopped(Stop::Lost) => {
            tracing::debug!(run_id = %journal.lease().run_id, "run dropped");
            return Ok(());
        }
        Rest::Stopped(Stop::Cancel(reason)) => {
            let partial = journal.partial_texts();
            let partial = |step_id: &str| partial.get(step_id).cloned();
            journal.append(journal.machine(|m| m.cancel(&reason, &partial, claim, now)));
        }
        Rest::TimedOut(limit_ms) => {
            let message = format!("the run took longer than its limit of {limit_ms} ms");
            journal.append(journal.machine(|m| m.fail(&Failure::new(FailureKind::Timeout, message), now)));
        }
    }
    pump.flush().await
}

/// Waits until the run's time limit has passed; for ever when it has none.
fn deadline(inner: &Inner, journal: &Arc<Journal>, definition: &Definition) -> BoxFuture<'static, u64> {
    let Some(limit_ms) = definition.timeout_ms else {
        return Box::pin(std::future::pending());
    };
    let (limit, clock, journal) = (Duration::from_millis(limit_ms), inner.services.clock.clone(), journal.clone());
    Box::pin(async move {
        loop {
            let now = clock.now();
            let left = limit.saturating_sub(journal.machine(|machine| machine.time_spent(now)));
            if left.is_zero() {
                journal.abandon();
                return limit_ms;
            }
            // While it waits for people, no time is spent.
            let shortest = if journal.machine(WorkflowMachine::has_questions) { LOOK_PERIOD } else { Duration::ZERO };
            sleep(left.max(shortest)).await;
        }
    })
}

/// Asks the machine and does what it says, until it says that the run rests.
async fn execute(
    inner: &Arc<Inner>,
    journal: &Arc<Journal>,
    definition: Arc<Definition>,
    claim: &Record,
    work: Work,
) -> Rest {
    let mut flights = Flights::default();
    // What has begun knows its session.
    if work.start.is_empty() {
        journal.set_session(work.session);
    }
    for task in work.start {
        take_off(inner, journal, &definition, &mut flights, task);
    }
    loop {
        let mut wake = None;
        if journal.answers_call()
            && let Err(error) = Box::pin(read_mail(inner, journal)).await
        {
            // Those who hold the run are told again at the next heartbeat.
            tracing::warn!(run_id = %journal.lease().run_id, %error, "what was sent to the run could not be read");
        }
        drop_dropped(journal, &mut flights);
        if journal.is_halted() {
            // What is still in progress in a run that is over has nothing to say any more.
            if journal.machine(WorkflowMachine::ended).is_some() {
                return Rest::Ended;
            }
            if flights.is_empty() {
                return Rest::Halted;
            }
        } else {
            let now = inner.services.clock.now();
            let decision = journal.decide(claim, now);
            drop_dropped(journal, &mut flights);
            if decision.end.is_some() {
                return Rest::Ended;
            }
            if !decision.start.is_empty() {
                journal.set_progress(journal.machine(WorkflowMachine::progress));
            }
            for task in decision.start {
                take_off(inner, journal, &definition, &mut flights, task);
            }
            wake = decision.wake;
            let only_waits = || flights.is_empty() || journal.machine(|machine| flights.len() == machine.parked());
            if let Some(due_at) = wake.filter(|due_at| due_at.since(now) > inner.options.park_after && only_waits()) {
                return Rest::Park(due_at);
            }
        }
        let due = wake.map(|due_at| due_at.since(inner.services.clock.now()));
        let landed = match due {
            None => flights.next(|| journal.is_called()).await,
            // Boxed, because most runs never wait for a time.
            Some(due) => Box::pin(timeout(due, flights.next(|| journal.is_called()))).await.unwrap_or(None),
        };
        if let Some((key, landing)) = landed {
            land(inner, journal, &key, landing);
        }
    }
}

/// Begins one thing the machine asked for.
fn take_off<'a>(
    inner: &'a Inner,
    journal: &'a Arc<Journal>,
    definition: &'a Definition,
    flights: &mut Flights<'a>,
    task: Task,
) {
    let step_id = match &task {
        Task::Execute(step) => {
            if step.resumes {
                journal.wake_step(&step.info);
            }
            Some(step.info.step_id.clone())
        }
        Task::Ask(_) => None,
    };
    flights.start(task.key().clone(), step_id, Box::pin(fly(inner, journal, definition, task)));
}

/// Drops what is in progress for containers that have failed meanwhile, and forgets what their steps were saying.
fn drop_dropped(journal: &Journal, flights: &mut Flights<'_>) {
    for key in journal.take_dropped() {
        for step_id in flights.drop_of(&key) {
            journal.forget_texts(&step_id);
        }
    }
}

/// Writes down how a step or a verdict ended.
fn land(inner: &Inner, journal: &Journal, key: &Key, landing: Landing) {
    let (now, chance) = (inner.services.clock.now(), inner.services.chance.bits());
    match landing {
        Landing::Halted => {}
        Landing::Asleep(due_at) => journal.falls_asleep(key, due_at),
        Landing::Executed(result, state) => {
            let waits = matches!(&*result, Err(failure) if failure.kind == FailureKind::OutcomeUnknown);
            journal.conclude(|machine| machine.settle(key, *result, state, chance, now));
            if waits {
                stats::add(&inner.services.counters.outcomes_unknown);
                // What waits is at work no more, and nothing may start instead of it.
                journal.set_progress(journal.machine(WorkflowMachine::progress));
            }
        }
        Landing::Decided(verdict) => journal.conclude(|machine| machine.decided(key, verdict, chance, now)),
    }
}

/// Does one thing the machine asked for.
async fn fly(inner: &Inner, journal: &Arc<Journal>, definition: &Definition, task: Task) -> Landing {
    match task {
        Task::Execute(step) => {
            let leaves_at_once = step.executor_type == ExecutorKind::Function;
            if leaves_at_once && journal.durable().await.is_err() {
                return Landing::Halted;
            }
            let state = SessionState::new(journal.session_with(&step.state));
            let execution = Execution::default();
            // Asked after each poll of the function.
            let asleep = poll_fn(|_| {
                if leaves_at_once {
                    journal.note_doing(&step.info.key, &execution);
                }
                match execution.asleep_until() {
                    Some(due_at) if due_at.since(journal.now()) > inner.options.park_after => Poll::Ready(due_at),
                    _ => Poll::Pending,
                }
            });
            let result = tokio::select! {
                biased;
                result = execute_step(journal, definition, &step, state.clone(), execution.clone()) => result,
                due_at = asleep => return Landing::Asleep(due_at),
            };
            let is_stopping = matches!(&result, Err(failure) if failure.kind == FailureKind::Cancelled);
            // A thread that nobody waits for any more is told to stop too, while the run goes on.
            if journal.is_halted() && (execution.is_halted() || is_stopping) {
                return Landing::Halted;
            }
            let result = storable(result, &state, &execution);
            match result {
                Ok(_) => journal.end_text(&step.info),
                Err(_) => journal.forget_texts(&step.info.step_id),
            }
            let patch = result.is_ok().then(|| state.patch()).flatten();
            Landing::Executed(Box::new(result), patch)
        }
        Task::Ask(ask) => Landing::Decided(Box::pin(ask_for(journal, definition, *ask)).await),
    }
}

/// A verdict. A panic in the user's code is a failure like any other.
async fn ask_for(journal: &Journal, definition: &Definition, ask: Ask) -> Result<Verdict, Failure> {
    let Ask { key, timeout_ms, mut given, state } = ask;
    given.state = SessionState::new(journal.session_with(&state));
    let asked = AssertUnwindSafe(async {
        match definition.judge(&key, given) {
            Some(verdict) => verdict.await,
            None => Err(Failure::new(FailureKind::Definition, "nothing decides for it")),
        }
    });
    let Some(ended) = within(timeout_ms, asked.catch_unwind()).await else {
        let message = format!("it took longer than its limit of {} ms", timeout_ms.unwrap_or_default());
        return Err(Failure::new(FailureKind::Timeout, message));
    };
    ended.unwrap_or_else(|panic| {
        Err(Failure::new(FailureKind::Panic, format!("the code that decides panicked: {}", said(&*panic))))
    })
}

/// One attempt at one step. A panic in the user's code and a timeout are failures like any other.
async fn execute_step(
    journal: &Arc<Journal>,
    definition: &Definition,
    step: &Execute,
    state: SessionState,
    execution: Execution,
) -> Result<Executed, Failure> {
    let Some(executor) = definition.executor(&step.info.key) else {
        return Err(Failure::new(FailureKind::Definition, "the step has no executor"));
    };
    let context = StepContext {
        run: journal.machine(|m| m.info().clone()),
        step: step.info.clone(),
        state,
        effects: journal.clone(),
        execution: execution.clone(),
    };
    let broken_off = |kind, why: String| match executor.starts_once() {
        true => Failure::outcome_unknown(why),
        false => Failure::new(kind, why),
    };
    // Called at once: a future that called it would hold its arguments for as long as the step takes.
    let begun = catch_unwind(AssertUnwindSafe(|| executor.execute(context, step.input.clone())));
    let ended = match begun {
        Err(panic) => Err(panic),
        Ok(work) => match of_its_own(step.timeout_ms, journal, &execution, AssertUnwindSafe(work).catch_unwind()).await
        {
            Some(ended) => ended,
            None => {
                let limit_ms = step.timeout_ms.unwrap_or_default();
                let message = format!("step {:?} took longer than its limit of {limit_ms} ms", step.info.step_name);
                return Err(broken_off(FailureKind::Timeout, message));
            }
        },
    };
    ended.unwrap_or_else(|panic| {
        let message = format!("step {:?} panicked: {}", step.info.step_name, said(&*panic));
        Err(broken_off(FailureKind::Panic, message))
    })
}

/// What comes of something that may take this long; none when it takes longer.
async fn within<T>(limit_ms: Option<u64>, work: impl Future<Output = T>) -> Option<T> {
    match limit_ms {
        None => Some(work.await),
        // Boxed, because most have no limit.
        Some(limit_ms) => Box::pin(timeout(Duration::from_millis(limit_ms), work)).await.ok(),
    }
}

/// As [`within`]: of a step, which may wait for people, and that counts towards no time limit.
async fn of_its_own<T>(
    limit_ms: Option<u64>,
    journal: &Journal,
    execution: &Execution,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(limit) = limit_ms.map(Duration::from_millis) else { return Some(work.await) };
    let begun = Instant::now();
    Box::pin(async move {
        let mut work = std::pin::pin!(work);
        loop {
            let (waited, waits) = execution.waited(journal.now());
            let left = limit.saturating_sub(begun.elapsed().saturating_sub(waited));
            if left.is_zero() && !waits {
                return None;
            }
            let shortest = if waits { LOOK_PERIOD } else { Duration::ZERO };
            if let Ok(ended) = timeout(left.max(shortest), &mut work).await {
                return Some(ended);
            }
        }
    })
    .await
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// What a step returned, or why it could not be stored and read back.
fn storable(
    result: Result<Executed, Failure>,
    state: &SessionState,
    execution: &Execution,
) -> Result<Executed, Failure> {
    let mut executed = result?;
    if executed.output.content.is_none() {
        executed.output.content = execution.take_said().map(Value::String);
    }
    let refuse = |what: &'static str| {
        move |too_deep| Failure::new(FailureKind::Limit, format!("{what} cannot be kept: {too_deep}"))
    };
    executed.output.content.iter_mut().try_for_each(json::admit).map_err(refuse("the step's output"))?;
    let media = executed.output.media_mut().flat_map(|media| media.other.values_mut());
    media.into_iter().try_for_each(json::admit).map_err(refuse("what the step says about its media"))?;
    state.check().map_err(refuse("what the step put into the session's state"))?;
    Ok(executed)
}

impl Inner {
    /// Decides what an error of the store means for a run, and for the engine.
    async fn give_up(&self, lease: Lease, error: &DbError) {
        let run_id = lease.run_id.clone();
        match error.kind() {
            DbErrorKind::Fenced => tracing::info!(%run_id, "another worker now executes this run"),
            DbErrorKind::OutcomeUnknown => self.fail(error),
            // The cancel request became durable while the run's end was on its way. The run is claimed again at once
            // and ended by its log.
            // The same when a session's state is damaged under the run.
            DbErrorKind::CancelRequested | DbErrorKind::Unreadable => self.hand_over(lease, None).await,
            DbErrorKind::NotFound => tracing::info!(%run_id, "the run was deleted with its session"),
            DbErrorKind::Conflict
            | DbErrorKind::SessionBusy
            | DbErrorKind::IllegalStatus
            | DbErrorKind::OverBudget
            | DbErrorKind::Full
            | DbErrorKind::Busy
            | DbErrorKind::Corrupt
            | DbErrorKind::Refused
            | DbErrorKind::ReadOnly
            | DbErrorKind::Storage => {
                tracing::error!(%run_id, %error, "run stalls");
                let due_at = self.services.clock.now() + self.options.park_after;
                self.hand_over(lease, Some(due_at)).await;
            }
        }
    }

    /// Releases a run without writing to its log.
    async fn hand_over(&self, lease: Lease, due_at: Option<Timestamp>) {
        let run_id = lease.run_id.clone();
        let patch = RunPatch { release: Some(Release { due_at }), ..RunPatch::default() };
        let commit = Commit { lease, page: None, patch, session: None, at: self.services.clock.now() };
        match self.services.commit(&commit).await {
            Ok(()) if due_at.is_none() => self.wake.notify_one(),
            Ok(()) => {}
            // Held and executed by nobody: this worker takes it up again.
            Err(error) => {
                tracing::error!(%run_id, %error, "the run's lease could not be released: the run goes on here in a moment")
            }
        }
    }
}
