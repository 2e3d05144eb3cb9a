//! Many runs of one session at once, while processes die: no change to its state is lost, and what queues is executed in
//! the order of acceptance. A failure prints its seed.

use crate::stage::workflow;
use outlive_core::port::{Access, Order, RunFilter, RunStore, SessionPolicy, SessionStore, StepContext};
use outlive_core::testing::Dice;
use outlive_core::{Definition, Failure, RunStatus, SessionId, Step, StepInput};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, broken_invariants, read_log, row_equals_fold};
use outlive_engine::{Engine, Error, Options, Submit};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(3_600);

/// Two steps that change the session's state: a list, which needs what was there before, and values of the run's own.
fn definition() -> Arc<Definition> {
    let step = |name: &'static str, list: &'static str| {
        Step::function(name, move |context: StepContext, input: Arc<StepInput>| async move {
            let run = context.run.run_id.to_string();
            let mut listed = context.state.get(list).and_then(|list| list.as_array().cloned()).unwrap_or_default();
            sleep(Duration::from_millis(run.bytes().map(u64::from).sum::<u64>() % 40)).await;
            listed.push(json!(run));
            context.state.set(list, Value::Array(listed));
            context.state.set(format!("{name} {run}"), true);
            Ok::<_, Failure>(format!("{} {name}", input.input_text()))
        })
    };
    workflow([step("one", "began"), step("two", "ended")])
}

async fn start(db: &InMemoryDb, definition: &Arc<Definition>, clock: &Arc<SimulatedClock>) -> Engine {
    let options = Options { claims_max: 100, scan_period: Duration::from_millis(20), ..Options::default() };
    let builder = Engine::builder(Arc::new(db.clone())).workflow(definition.clone()).options(options);
    builder.clock(clock.clone()).start().await.unwrap()
}

/// Runs of one session under one policy, from two processes of which some die.
async fn trial(seed: u64) {
    let mut dice = Dice(seed);
    let policy =
        [SessionPolicy::Queue, SessionPolicy::Reject, SessionPolicy::Parallel][usize::try_from(seed % 3).unwrap()];
    // Few are many: most faults need two or three.
    let count = if dice.below(30) == 0 { 2 + dice.below(31) } else { 2 + dice.below(4) };
    let (db, definition, clock) = (InMemoryDb::new(), definition(), Arc::new(SimulatedClock::start()));
    let mut engines = [start(&db, &definition, &clock).await, start(&db, &definition, &clock).await];
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let engine = engines[usize::try_from(dice.below(2)).unwrap()].clone();
        let (wait, id) = (Duration::from_millis(dice.below(60)), definition.id.clone());
        tasks.spawn(async move {
            sleep(wait).await;
            let submit = Submit {
                input: Some(json!(number)),
                run_id: Some(format!("r{number}")),
                session_id: Some("s".to_owned()),
                idempotency_key: Some(format!("r{number}")),
                policy: Some(policy),
                ..Submit::default()
            };
            match engine.submit(&id, submit).await {
                Ok(run) => Some(run.run_id().clone()),
                Err(Error::SessionBusy(_)) if policy == SessionPolicy::Reject => None,
                // Its process died before it was accepted, or before it could say so.
                Err(Error::Stopped(_)) => None,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        });
    }
    for _ in 0..dice.below(3) {
        sleep(Duration::from_millis(dice.below(80))).await;
        let place = usize::try_from(dice.below(2)).unwrap();
        let heir = start(&db, &definition, &clock).await;
        let lost = std::mem::replace(&mut engines[place], heir);
        lost.kill();
        db.crash(&lost.worker());
    }
    let mut acknowledged = BTreeSet::new();
    while let Some(accepted) = tasks.join_next().await {
        acknowledged.extend(accepted.unwrap());
    }

    let session_id = SessionId::parse("s").unwrap();
    let filter = RunFilter {
        session_id: Some(session_id.clone()),
        order: Order::OldestFirst,
        limit: 100,
        ..RunFilter::default()
    };
    let accepted: Vec<_> =
        db.runs(Access::All, filter).await.unwrap().runs.into_iter().map(|run| run.info.run_id).collect();
    assert!(acknowledged.iter().all(|run| accepted.contains(run)), "seed {seed}: an accepted run is lost");
    for run_id in &accepted {
        let ended = timeout(PATIENCE, engines[0].attach(run_id.clone()).wait()).await;
        let output = ended.unwrap_or_else(|_| panic!("seed {seed}: {run_id} does not end")).unwrap();
        assert_eq!(output.status, RunStatus::Completed, "seed {seed}: {run_id}");
        let log = read_log(&db, run_id).await;
        assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "seed {seed}: {run_id}");
        let stored = db.run(Access::All, run_id.clone()).await.unwrap().unwrap();
        assert!(row_equals_fold(&db, &stored, &definition, &log).await, "seed {seed}: {run_id}");
    }
    if accepted.is_empty() {
        return;
    }
    let state = db.session(Access::All, session_id).await.unwrap().unwrap().state;
    for run_id in &accepted {
        assert!(["one", "two"].iter().all(|name| state[&format!("{name} {run_id}")] == true), "seed {seed}: {state:?}");
    }
    // One after the other, each has seen what those accepted before it had changed.
    if policy != SessionPolicy::Parallel {
        assert_eq!((&state["began"], &state["ended"]), (&json!(accepted), &json!(accepted)), "seed {seed}");
    }
    for engine in engines {
        engine.kill();
    }
}

#[test]
fn runs_of_one_session_lose_no_change_and_keep_their_order_whoever_dies() {
    // Another range of seeds: RACE_SEED=1000 cargo test -p outlive-engine races
    let first = std::env::var("RACE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0u64);
    for seed in first..first + 1_000 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(trial(seed));
    }
}
