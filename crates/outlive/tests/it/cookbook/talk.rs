//! Programs that ask people: a workflow, its questions in turn, and what is answered. Each test walks a table, so a new
//! line has them all:
//!
//! - each asks what it should, comes to what it should, and tells it in Agno's order ([`outline`]);
//! - those that stream in Agno tell the same, in that order, to whoever follows them from question to question;
//! - each leaves the same log when it is stopped at every question, its engine is gone, somebody answers while nobody
//!   executes anything, and a fresh engine goes on with the file;
//! - each survives crashes at places all over its log;
//! - each ends as it would have when whoever asked or answered goes away.

use super::{Kitchen, PATIENCE, Ran, leave_at};
use crate::sweep::FileStage;
use outlive::core::log::{Entry, Key, Record};
use outlive::core::port::Db;
use outlive::core::{EventKind, Question};
use outlive::engine::testing::{Moment, Stage, TroubledDb, broken_invariants, in_flight, normal, read_log};
use outlive::engine::{Error, Options};
use outlive::prelude::*;
use outlive::{OpenQuestion, RunEvent, WorkflowBuilder};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Crashes of one program: see [`CRASHES_MAX`](super::CRASHES_MAX).
const CRASHES_MAX: u64 = 3;

/// What is asked, `kind step` or `kind tool`, and what is answered. [`Answer::TimedOut`] is silence.
type Turn = (&'static str, fn() -> Answer);

/// A program that asks people.
pub(crate) struct Talk {
    /// Where the program is, below its folder, without `.py`.
    pub(crate) name: &'static str,
    pub(crate) build: fn(&Kitchen) -> WorkflowBuilder,
    pub(crate) input: &'static str,
    pub(crate) turns: &'static [Turn],
    pub(crate) status: RunStatus,
    /// What was told of the steps, as [`outline`] writes it.
    pub(crate) told: &'static str,
    pub(crate) check: fn(&Ran),
}

pub(crate) fn yes() -> Answer {
    Answer::Approve
}

pub(crate) fn no() -> Answer {
    Answer::Reject { feedback: None }
}

pub(crate) fn retry() -> Answer {
    Answer::Retry
}

pub(crate) fn skip() -> Answer {
    Answer::Skip
}

pub(crate) fn silence() -> Answer {
    Answer::TimedOut
}

/// What was told of the steps, in order: `name(` and `)` where one begins and ends, `name[` and `]` for a container,
/// `#2` for an iteration, `name?` where it asks before it begins or inside a function, `name??` about an output,
/// `name:?` for an agent or a team in it, whose own pause is `agent?`; `name>`, `name:>` and `agent>` where they go on;
/// `name!` for a failure, `|` where the run rests, and how it ended.
fn outline<'a>(events: impl IntoIterator<Item = &'a RunEvent>) -> String {
    let mut told = String::new();
    for event in events {
        let origin = &event.origin;
        let step = origin.step_name.as_deref().unwrap_or_default();
        let speaker = origin.agent_name.as_deref().or(origin.team_name.as_deref()).unwrap_or_default();
        let text = match event.name() {
            "StepStarted" => format!("{step}("),
            "StepCompleted" => ")".to_owned(),
            "StepPaused" | "RouterPaused" => format!("{step}?"),
            "StepOutputReview" => format!("{step}??"),
            "StepExecutorPaused" => format!("{step}:?"),
            "StepContinued" => format!("{step}>"),
            "StepExecutorContinued" => format!("{step}:>"),
            "StepError" => format!("{step}!"),
            "RunPaused" | "TeamRunPaused" => format!("{speaker}?"),
            "RunContinued" | "TeamRunContinued" => format!("{speaker}>"),
            "LoopIterationStarted" => match &event.kind {
                EventKind::LoopIterationStarted { iteration, .. } => format!("#{iteration}"),
                _ => continue,
            },
            "WorkflowPaused" => "|".to_owned(),
            "WorkflowCompleted" | "WorkflowCancelled" | "WorkflowError" => {
                event.name().trim_start_matches("Workflow").to_uppercase()
            }
            name if name.ends_with("ExecutionStarted") => format!("{step}["),
            name if name.ends_with("ExecutionCompleted") => "]".to_owned(),
            _ => continue,
        };
        let is_inside = told.is_empty() || told.ends_with(['(', '[']) || text == ")" || text == "]";
        told.push_str(if is_inside { "" } else { " " });
        told.push_str(&text);
    }
    told
}

/// `confirmation Process Data`, or `tool_confirmation delete`.
fn asked(question: &Question) -> String {
    let about = question.tool.as_ref().map_or(&*question.step_name, |tool| &tool.execution.tool_name);
    format!("{} {about}", question.kind)
}

/// Takes out what differs from execution to execution: times, and who claimed the run.
fn strip(value: &mut Value) {
    const VARIES: [&str; 12] = [
        "at",
        "created_at",
        "duration",
        "time_to_first_token",
        "start_time",
        "end_time",
        "worker",
        "epoch",
        "due_at",
        "asked_at",
        "timeout_at",
        "began",
    ];
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !VARIES.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        // How long a tool took, in words.
        Value::String(text) => {
            let end = [" completed in ", " failed after "].iter().find_map(|words| text.find(words));
            text.truncate(end.unwrap_or(text.len()));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn lasting(of: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(of).unwrap();
    strip(&mut value);
    value
}

/// One process on the file.
struct Desk {
    workflow: Workflow,
    db: Arc<dyn Db>,
}

impl Desk {
    fn open(talk: &Talk, kitchen: &Kitchen, stage: &FileStage, execute: bool) -> Self {
        Self::on(talk, kitchen, stage.open(), execute)
    }

    fn on(talk: &Talk, kitchen: &Kitchen, db: Arc<dyn Db>, execute: bool) -> Self {
        let options = Options { execute, scan_period: Duration::from_millis(20), ..Options::default() };
        let workflow = (talk.build)(kitchen).shared_db(db.clone()).options(options).build();
        Self { workflow: workflow.unwrap_or_else(|error| panic!("{}: {error}", talk.name)), db }
    }

    /// The run, which is begun if there is none.
    async fn run(&self, talk: &Talk) -> outlive::Result<RunHandle> {
        let request = self.workflow.run(talk.input).run_id("talk").session_id("talk").idempotency_key("talk");
        request.background().await
    }

    async fn log(&self, run: &RunHandle) -> Vec<Entry> {
        read_log(&*self.db, run.run_id()).await
    }

    /// Its process dies.
    async fn kill(self) {
        self.workflow.engine().await.unwrap().kill();
        drop(self);
        // Aborted tasks release the store when the runtime next gets to them.
        tokio::task::yield_now().await;
    }
}

/// Waits until a question has an answer that nobody here gives.
async fn until_answered(run: &RunHandle, question: &OpenQuestion) {
    let mut events = run.events(None).through_pauses();
    loop {
        let event = timeout(PATIENCE, events.next()).await.expect("its time is up").unwrap().expect("it is not over");
        let EventKind::CustomEvent { fields } = &event.kind else { continue };
        if fields.get("question_id").and_then(Value::as_str) == Some(&**question.id()) {
            return;
        }
    }
}

/// The whole talk on one file, stopped at each question or not. Gives the last process, which is open still.
async fn played(talk: &Talk, kitchen: &Kitchen, stage: &FileStage, is_stopped: bool) -> (Desk, WorkflowRunOutput) {
    let place = |what: &str| format!("{}: {what}", talk.name);
    let mut desk = Desk::open(talk, kitchen, stage, true);
    let mut turns = talk.turns.iter();
    loop {
        let run = desk.run(talk).await.unwrap();
        let output = timeout(PATIENCE, run.wait()).await.unwrap_or_else(|_| panic!("{}", place("it rests"))).unwrap();
        if output.status != RunStatus::Paused {
            assert_eq!(turns.count(), 0, "{}", place(&format!("it asks less: {}", output.text())));
            return (desk, output);
        }
        let question = run.questions().await.unwrap().into_iter().next().expect("it asks");
        let (expected, answer) = turns.next().unwrap_or_else(|| panic!("{}", place(&asked(&question.question))));
        assert_eq!(asked(&question.question), *expected, "{}", talk.name);
        let answer = answer();
        match (is_stopped, answer == Answer::TimedOut) {
            (false, false) => question.by("ada").answer(answer).await.unwrap(),
            (false, true) => until_answered(&run, &question).await,
            (true, is_silent) => {
                let id = question.id().clone();
                drop((run, question));
                desk.kill().await;
                if !is_silent {
                    // Nobody executes the run when it is answered.
                    let idle = Desk::open(talk, kitchen, stage, false);
                    let answers = [(id.clone(), answer)];
                    idle.workflow.engine().await.unwrap().answer(answers, Some("ada".into())).await.unwrap();
                    idle.kill().await;
                }
                desk = Desk::open(talk, kitchen, stage, true);
                if is_silent {
                    let run = desk.run(talk).await.unwrap();
                    let open = run.questions().await.unwrap();
                    if let Some(question) = open.iter().find(|question| *question.id() == id) {
                        until_answered(&run, question).await;
                    }
                }
            }
        }
    }
}

/// Each comes to what it should and tells it in order, and stopped at each question it leaves the same log.
pub(crate) async fn come_to_the_same_when_stopped_at_each_question(talks: &'static [Talk]) {
    let mut told = Vec::new();
    for talk in talks {
        let (straight, stopped) = (FileStage::new(), FileStage::new());
        let kitchen = Kitchen::without_streams().await;
        let (desk, run) = played(talk, &kitchen, &straight, false).await;
        assert_eq!(run.status, talk.status, "{}: {}", talk.name, run.text());
        let handle = desk.run(talk).await.unwrap();
        let log = desk.log(&handle).await;
        let events: Vec<RunEvent> = log.iter().map(|entry| entry.event.clone()).collect();
        told.extend((outline(&events) != talk.told).then(|| format!("{}: {}", talk.name, outline(&events))));
        let asked = [&kitchen.models, &kitchen.others].into_iter().flat_map(|server| server.log());
        let ran = Ran {
            state: desk.workflow.get_session_state("talk").await.unwrap(),
            tokens: desk.workflow.get_session_metrics("talk").await.unwrap().usage.total_tokens,
            asked: asked.map(|exchange| exchange.request).collect(),
            run: run.clone(),
            events,
        };
        (talk.check)(&ran);
        assert_eq!(broken_invariants(&log, &run), Vec::<String>::new(), "{}", talk.name);
        desk.workflow.shutdown().await.unwrap();

        let other = Kitchen::without_streams().await;
        let (desk, again) = played(talk, &other, &stopped, true).await;
        let log_again = desk.log(&desk.run(talk).await.unwrap()).await;
        assert_eq!(lasting(&log_again), lasting(&log), "{}", talk.name);
        assert_eq!(lasting(&normal(&again)), lasting(&normal(&run)), "{}", talk.name);
        assert_eq!(other.calls(), kitchen.calls(), "{}: no call was made twice", talk.name);
        desk.workflow.shutdown().await.unwrap();
    }
    assert!(told.is_empty(), "told in another order: {told:#?}");
}

/// Those whose programs stream tell everything, in order, to whoever follows them: to each question, and on after its
/// answer.
pub(crate) async fn tell_who_follows_them(talks: &'static [Talk]) {
    let mut told = Vec::new();
    for talk in talks.iter().filter(|talk| talk.name.contains("stream")) {
        let (kitchen, stage) = (Kitchen::new().await, FileStage::new());
        let desk = Desk::open(talk, &kitchen, &stage, true);
        let events = followed(talk, &desk.workflow).await;
        let run = desk.workflow.attach("talk").await.unwrap();
        let log = desk.log(&run).await;
        assert!(events.iter().eq(log.iter().map(|entry| &entry.event)), "{}: nothing twice, nothing lost", talk.name);
        assert_eq!(run.wait().await.unwrap().status, talk.status, "{}", talk.name);
        told.push((talk.name, outline(&events), talk.told));
        desk.workflow.shutdown().await.unwrap();
    }
    assert!(!told.is_empty(), "none of them streams");
    told.retain(|(_, is, should)| is != should);
    assert!(told.is_empty(), "told in another order: {told:#?}");
}

/// What its client is told, stream by stream.
async fn followed(talk: &Talk, workflow: &Workflow) -> Vec<RunEvent> {
    let mut told: Vec<RunEvent> = Vec::new();
    let mut events = workflow.run(talk.input).run_id("talk").session_id("talk").stream().await.unwrap();
    let mut turns = talk.turns.iter();
    loop {
        while let Some(event) = timeout(PATIENCE, events.next()).await.expect("it goes on").unwrap() {
            told.push(event);
        }
        let last = told.last().expect("it has begun");
        if last.name() != "WorkflowPaused" {
            assert_eq!(turns.count(), 0, "{}: it asks less", talk.name);
            return told;
        }
        let run = workflow.attach("talk").await.unwrap();
        let question = run.questions().await.unwrap().into_iter().next().expect("it asks");
        let (expected, answer) = turns.next().unwrap_or_else(|| panic!("{}: {}", talk.name, asked(&question.question)));
        assert_eq!(asked(&question.question), *expected, "{}", talk.name);
        let answers = [(question.id().clone(), answer())];
        let run = workflow.continue_run("talk", answers, Some("ada")).await.unwrap();
        events = run.events(last.event_index);
    }
}

/// What was answered, by question.
type Script = BTreeMap<Key, Answer>;

fn script(log: &[Entry]) -> Script {
    let answers = log.iter().filter_map(|entry| match &entry.record {
        Some(Record::Answered { key, answered }) => Some((key.clone(), answered.answer.clone())),
        _ => None,
    });
    answers.filter(|(_, answer)| *answer != Answer::TimedOut).collect()
}

/// Runs, or goes on, and answers whatever is asked.
async fn talked(talk: &Talk, desk: &Desk, script: &Script) -> outlive::Result<WorkflowRunOutput> {
    let run = desk.run(talk).await?;
    loop {
        let output = run.wait().await?;
        if output.status != RunStatus::Paused {
            return Ok(output);
        }
        for question in run.questions().await? {
            let Some(answer) = script.get(&question.question.key) else {
                until_answered(&run, &question).await;
                continue;
            };
            match question.by("ada").answer(answer.clone()).await {
                // An earlier process may have been told, and dead before it said so.
                Ok(()) | Err(Error::AlreadyAnswered(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How a talk goes undisturbed: its end, how long its log is, what is answered, and how many calls it takes.
async fn undisturbed(talk: &Talk, kitchen: &Kitchen) -> (Value, u64, Script, usize) {
    let (stage, before) = (FileStage::new(), kitchen.calls());
    let (desk, output) = played(talk, kitchen, &stage, false).await;
    let log = desk.log(&desk.run(talk).await.unwrap()).await;
    desk.workflow.shutdown().await.unwrap();
    (lasting(&normal(&output)), log.len() as u64, script(&log), kitchen.calls() - before)
}

/// Each comes to the same end when its process crashes.
pub(crate) async fn survive_crashes(talks: &'static [Talk]) {
    let is_whole = std::env::var("COOKBOOK_SWEEP").is_ok_and(|what| what == "all");
    for (number, talk) in (0..).zip(talks) {
        let kitchen = Kitchen::without_streams().await;
        let (expected, entries, script, needed) = undisturbed(talk, &kitchen).await;
        let every = if is_whole { 1 } else { entries.div_ceil(CRASHES_MAX) };
        let places = (number % every..entries).step_by(usize::try_from(every).unwrap()).enumerate();
        for (turn, index) in places {
            let moment = if turn.is_multiple_of(2) { Moment::After } else { Moment::Before };
            let (place, stage) = (format!("{}: {moment:?} {index} of {entries}", talk.name), FileStage::new());
            let before = kitchen.calls();
            let db = stage.open();
            let crashing = TroubledDb::crashing(db.clone(), index, moment);
            let desk = Desk::on(talk, &kitchen, crashing.clone(), true);
            let run = desk.run(talk).await.unwrap();
            tokio::select! {
                () = crashing.crashed() => {}
                _ = talked(talk, &desk, &script) => {}
            }
            let repeatable = in_flight(&read_log(&*db, run.run_id()).await);
            drop((run, db, crashing));
            desk.kill().await;
            let heir = Desk::open(talk, &kitchen, &stage, true);
            let ended = timeout(PATIENCE, talked(talk, &heir, &script)).await;
            let output = ended.unwrap_or_else(|_| panic!("{place}: it does not end")).unwrap();
            assert_eq!(lasting(&normal(&output)), expected, "{place}");
            let log = heir.log(&heir.run(talk).await.unwrap()).await;
            assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "{place}");
            let made = kitchen.calls() - before;
            assert!((needed..=needed + repeatable).contains(&made), "{place}: {made} calls, {needed} needed");
            heir.workflow.shutdown().await.unwrap();
        }
    }
}

/// Each comes to the same end when whoever asks and answers goes away, at awaits all over.
pub(crate) async fn end_without_their_callers(talks: &'static [Talk]) {
    for talk in talks {
        let kitchen = Kitchen::without_streams().await;
        let (expected, _, script, _) = undisturbed(talk, &kitchen).await;
        for turn in 0.. {
            let (awaits, stage) = (4_usize.pow(turn), FileStage::new());
            let desk = Desk::on(talk, &kitchen, TroubledDb::yielding(stage.open()), true);
            let (desk, script) = (Arc::new(desk), Arc::new(script.clone()));
            let (by, said) = (desk.clone(), script.clone());
            let call = Box::pin(async move { drop(talked(talk, &by, &said).await) });
            let has_ended = leave_at(call, awaits).await;
            let place = format!("{}: left at await {awaits}", talk.name);
            let ended = timeout(PATIENCE, talked(talk, &desk, &script)).await;
            let output = ended.unwrap_or_else(|_| panic!("{place}: no end")).unwrap();
            assert_eq!(lasting(&normal(&output)), expected, "{place}");
            desk.workflow.shutdown().await.unwrap();
            if has_ended {
                break;
            }
        }
    }
}

/// The tests of a table of talks.
macro_rules! talked_through {
    ($talks:expr) => {
        #[tokio::test]
        async fn each_comes_to_the_same_when_it_is_stopped_at_each_question() {
            crate::cookbook::talk::come_to_the_same_when_stopped_at_each_question($talks).await;
        }

        #[tokio::test]
        async fn those_that_stream_tell_everything_in_order_to_who_follows_them() {
            crate::cookbook::talk::tell_who_follows_them($talks).await;
        }

        #[tokio::test]
        async fn each_survives_crashes_all_over_its_log() {
            crate::cookbook::talk::survive_crashes($talks).await;
        }

        #[tokio::test]
        async fn each_ends_when_whoever_asked_goes_away() {
            crate::cookbook::talk::end_without_their_callers($talks).await;
        }
    };
}
pub(super) use talked_through;
