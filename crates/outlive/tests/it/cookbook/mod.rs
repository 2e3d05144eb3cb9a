//! Every program of Agno's workflow cookbook, expressed with the prelude: one file for each folder, and two for the one
//! whose programs ask people ([`talk`]). So do workflows of the `agno_app` example ([`app`]).
//!
//! A folder is a table of recipes: a workflow as its user builds it, and what is asked of it, in one session. Three tests
//! walk each table, so a new line has them all:
//!
//! - each gives what it should, and tells it in Agno's order ([`order`]);
//! - each survives crashes at places all over its log;
//! - each ends as it would have when whoever asked goes away.
//!
//! Databases are SQLite files, models are asked over HTTP.

mod advanced;
mod app;
mod basic;
mod branching;
mod cel;
mod conditional;
mod control;
mod executors;
mod history;
mod leading;
mod loops;
mod order;
mod parallel;
mod people;
mod talk;
mod teams;

use crate::sweep::FileStage;
use order::outline;
use outlive::agent::model::{IntoModel, SharedModel};
use outlive::agent::testing::OpenAiServer;
use outlive::core::port::Db;
use outlive::engine::testing::{
    Moment, Stage, Subject, TroubledDb, broken_invariants, crash_at_entries, normal, read_log,
};
use outlive::engine::{Submit, SystemClock};
use outlive::prelude::*;
use outlive::{RunEvent, RunRequest, WorkflowBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
/// Crashes of one recipe, at most: with both moments at every entry the tests would take ten minutes. They are spread
/// evenly over the log, before and after in turn, and each recipe begins elsewhere. With `COOKBOOK_SWEEP=all` each log
/// is swept whole.
const CRASHES_MAX: u64 = 4;

/// A program of the cookbook.
pub(crate) struct Recipe {
    /// Where the program is, below its folder, without `.py`.
    name: &'static str,
    build: fn(&Kitchen) -> WorkflowBuilder,
    asks: &'static [Ask],
}

/// One run, after those before it in the same session.
pub(crate) struct Ask {
    run: fn(&Workflow) -> RunRequest,
    /// The steps, as [`outline`] writes them.
    told: &'static str,
    check: fn(&Ran),
}

/// What came of it.
pub(crate) struct Ran {
    run: WorkflowRunOutput,
    events: Vec<RunEvent>,
    /// The session's state afterwards.
    state: Map<String, Value>,
    /// The tokens that the session's runs have used.
    tokens: u64,
    /// What the models were asked for this run.
    asked: Vec<Value>,
}

impl Ran {
    /// The output of the step of this name, however deep.
    fn step(&self, name: &str) -> &StepOutput {
        fn find<'a>(steps: &'a [Arc<StepOutput>], name: &str) -> Option<&'a StepOutput> {
            let here = steps.iter().find(|step| step.step_name.as_deref() == Some(name));
            here.map(|step| &**step).or_else(|| steps.iter().find_map(|step| find(&step.steps, name)))
        }
        find(&self.run.step_results, name).unwrap_or_else(|| panic!("no step {name:?}"))
    }

    /// What the step of this name gave back, as text.
    fn said(&self, name: &str) -> String {
        self.step(name).text()
    }
}

/// What recipes are made with: a model server, and tools that are counted.
pub(crate) struct Kitchen {
    models: Arc<OpenAiServer>,
    /// Another server, whose calls are not counted.
    others: Arc<OpenAiServer>,
    responses: SharedModel,
    tool_calls: Arc<AtomicUsize>,
    streams: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Query {
    query: String,
}

impl Kitchen {
    async fn new() -> Self {
        let (models, others) = (OpenAiServer::start().await, OpenAiServer::start().await);
        let responses = model(&models);
        let (models, others) = (Arc::new(models), Arc::new(others));
        Self { models, others, responses, tool_calls: Arc::default(), streams: true }
    }

    /// Answers come whole: fewer entries, so a sweep reaches more of the others.
    async fn without_streams() -> Self {
        Self { streams: false, ..Self::new().await }
    }

    /// For what functions ask agents: in the log that is one call, however many the agent makes, so those are not
    /// counted one by one.
    fn aside(&self) -> Self {
        let (models, others) = (self.others.clone(), self.models.clone());
        Self { responses: model(&models), models, others, tool_calls: Arc::default(), streams: self.streams }
    }

    fn agent(&self, name: &str, instructions: &str) -> Agent {
        Agent::new(name).model(self.responses.clone()).instructions(instructions).stream(self.streams)
    }

    fn team(&self, name: &str, members: impl IntoIterator<Item = Agent>, instructions: &str) -> Team {
        Team::new(name).members(members).instructions(instructions).stream(self.streams)
    }

    /// A step of this name with an agent of the same, which answers with one word.
    fn says(&self, name: &str, word: &str) -> Step {
        Step::new(name).agent(self.agent(name, &format!("REPLY={word}")))
    }

    /// A tool that finds something about anything.
    fn search(&self, name: &'static str) -> Tool {
        let calls = self.tool_calls.clone();
        Tool::new(name, "Finds what there is about a topic.", move |query: Query, _: ToolContext| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, Infallible>(format!("{name} has three results about {}", query.query)) }
        })
    }

    fn calls(&self) -> usize {
        self.models.log().len() + self.tool_calls.load(Ordering::Relaxed)
    }
}

fn model(server: &OpenAiServer) -> SharedModel {
    let model = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("sk-cookbook");
    model.into_model().unwrap()
}

/// A function step of one line.
fn function<T: Into<StepOutput> + Send + 'static>(
    name: &str,
    work: impl Fn(&StepInput) -> T + Send + Sync + 'static,
) -> Step {
    Step::function(name, move |_, input| {
        let output = work(&input);
        async move { Ok::<_, Failure>(output) }
    })
}

/// Whether a text has one of these words in it, whatever their case.
fn mentions(text: &str, words: &[&str]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(word))
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Each workflow gives what it should, and tells it in order.
async fn give_what_they_should(recipes: &[Recipe]) {
    for recipe in recipes {
        let kitchen = Kitchen::new().await;
        let folder = tempfile::tempdir().unwrap();
        let db = SqliteDb::new(folder.path().join("cookbook.db"));
        let workflow = (recipe.build)(&kitchen).db(db).build().unwrap();
        for ask in recipe.asks {
            let ran = ran(&kitchen, &workflow, (ask.run)(&workflow).session_id("cookbook")).await;
            let place = || format!("{}: {:?}", recipe.name, ran.run.input);
            assert_eq!(ran.run.status, RunStatus::Completed, "{}: {}", place(), ran.run.text());
            assert_eq!(outline(&ran.events), ask.told, "{}", place());
            (ask.check)(&ran);
        }
        workflow.shutdown().await.unwrap();
    }
}

async fn ran(kitchen: &Kitchen, workflow: &Workflow, request: RunRequest) -> Ran {
    let servers = [&kitchen.models, &kitchen.others];
    let before = servers.map(|server| server.log().len());
    let run = request.background().await.unwrap();
    let mut stream = run.events(None);
    let mut events = Vec::new();
    while let Some(event) = timeout(PATIENCE, stream.next()).await.expect("it goes on").unwrap() {
        events.push(event);
    }
    let run = workflow.get_run(run.run_id()).await.unwrap().unwrap();
    let state = workflow.get_session_state(&run.session_id).await.unwrap();
    let tokens = workflow.get_session_metrics(&run.session_id).await.unwrap().usage.total_tokens;
    let asked = servers.into_iter().zip(before).flat_map(|(server, before)| server.log().split_off(before));
    let asked = asked.map(|exchange| exchange.request).collect();
    Ran { run, events, state, tokens, asked }
}

/// What an engine is asked when a workflow is asked this.
async fn submit(recipe: &Recipe, ask: &Ask) -> Submit {
    let kitchen = Kitchen::without_streams().await;
    let workflow = (recipe.build)(&kitchen).db(InMemoryDb::new()).build().unwrap();
    let run = (ask.run)(&workflow).background().await.unwrap();
    let engine = workflow.engine().await.unwrap();
    let stored = engine.reader().record(run.run_id()).await.unwrap().unwrap();
    engine.kill();
    Submit { rerun_of: None, ..Submit::again(&stored).unwrap() }
}

/// Each workflow comes to the same end when its process crashes.
async fn survive_crashes(recipes: &[Recipe]) {
    let is_whole = std::env::var("COOKBOOK_SWEEP").is_ok_and(|what| what == "all");
    for (number, recipe) in (0..).zip(recipes) {
        let most = CRASHES_MAX / recipe.asks.len() as u64;
        for ask in recipe.asks {
            let kitchen = Kitchen::without_streams().await;
            let build = || (recipe.build)(&kitchen).db(InMemoryDb::new()).build().unwrap().definition().clone();
            let request = submit(recipe, ask).await;
            let calls = || kitchen.calls();
            let subject = Subject { build: &build, request, clock: Arc::new(SystemClock), calls: &calls };
            let places = |entries: u64| {
                let every = if is_whole { 1 } else { entries.div_ceil(most.max(1)) };
                let at = (number % every..entries).step_by(usize::try_from(every).unwrap()).enumerate();
                let moment = |turn: usize| if turn.is_multiple_of(2) { Moment::After } else { Moment::Before };
                at.flat_map(|(turn, index)| {
                    let other = is_whole.then(|| (index, moment(turn + 1)));
                    std::iter::once((index, moment(turn))).chain(other)
                })
                .collect()
            };
            let sweep = crash_at_entries(FileStage::new, subject, places).await;
            assert!(sweep.crashes > 0, "{}: {sweep:?}", recipe.name);
        }
    }
}

type Call = fn(RunRequest) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// What somebody may be in the middle of when they go away.
const CALLS: [Call; 3] = [
    |request| Box::pin(async move { drop(request.into_future().await) }),
    |request| {
        Box::pin(async move {
            let Ok(mut events) = request.stream().await else { return };
            while let Ok(Some(_)) = events.next().await {}
        })
    },
    |request| {
        Box::pin(async move {
            let Ok(run) = request.background().await else { return };
            drop(run.wait().await);
        })
    },
];

/// Drops a call when it waits for so many times. Whether it ended before.
async fn leave_at(mut call: Pin<Box<dyn Future<Output = ()> + Send>>, awaits: usize) -> bool {
    let mut waits = 0;
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => {
            waits += 1;
            if waits == awaits { Poll::Ready(false) } else { Poll::Pending }
        }
    })
    .await
}

/// Each workflow comes to the same end when whoever asked goes away, at awaits all over.
async fn end_without_their_callers(recipes: &[Recipe]) {
    for recipe in recipes {
        let kitchen = Kitchen::without_streams().await;
        let ask = &recipe.asks[0];
        let mut expected = None;
        for turn in 0.. {
            let (awaits, stage) = (3_usize.pow(turn), FileStage::new());
            let db = TroubledDb::yielding(stage.open());
            let workflow = (recipe.build)(&kitchen).shared_db(db.clone()).build().unwrap();
            let asked = || (ask.run)(&workflow).run_id("asked").session_id("asked").idempotency_key("asked");
            let has_ended = leave_at(CALLS[turn as usize % 3](asked()), awaits).await;
            let place = format!("{}: left at await {awaits}", recipe.name);
            let run = asked().background().await.unwrap();
            let ended = timeout(PATIENCE, run.wait()).await.unwrap_or_else(|_| panic!("{place}: no end")).unwrap();
            let log = read_log(&*db as &dyn Db, run.run_id()).await;
            assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{place}");
            let ended = normal(&ended);
            assert_eq!(expected.get_or_insert_with(|| ended.clone()), &ended, "{place}");
            workflow.shutdown().await.unwrap();
            if has_ended {
                break;
            }
        }
    }
}

/// The tests of a folder's table.
macro_rules! walked {
    ($recipes:expr) => {
        #[tokio::test]
        async fn each_gives_what_it_should_and_tells_it_in_order() {
            crate::cookbook::give_what_they_should($recipes).await;
        }

        #[tokio::test]
        async fn each_survives_crashes_all_over_its_log() {
            crate::cookbook::survive_crashes($recipes).await;
        }

        #[tokio::test]
        async fn each_ends_when_whoever_asked_goes_away() {
            crate::cookbook::end_without_their_callers($recipes).await;
        }
    };
}
use walked;
