//! A file of an older format, as its last program left it, in this program's hands: what was unfinished goes on and
//! ends, what had ended is still told.

use outlive::core::port::{Accepted, Access, Commit, NewRun, NewStart, Release, RunFilter, RunPatch, SessionKind};
use outlive::core::{Definition, DefinitionId, Page, RunInfo, SessionId, Timestamp, WorkerId};
use outlive::engine::Submit;
use outlive::engine::testing::{broken_invariants, read_log};
use outlive::prelude::*;
use outlive::{Engine, Options, RunId};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const FORMAT_1: &str = include_str!("../../../db/tests/fixtures/format_1.sql");

/// The workflow of the file's runs: its functions returned their input, failed or never ended, as they were told; now
/// they only return it.
fn orders() -> Arc<Definition> {
    let step = |name: &str| {
        let step = Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
        step.retry(Retry::times(2).backoff(Duration::from_secs(20)))
    };
    Arc::new(Definition::builder("Orders").step(step("first")).step(step("second")).build().unwrap())
}

async fn engine(path: &Path, table: &str) -> Engine {
    let db = Arc::new(SqliteDb::new(path).session_table(table));
    Engine::builder(db).options(Options::default()).workflow(orders()).start().await.unwrap()
}

async fn counts(engine: &Engine) -> BTreeMap<RunStatus, u64> {
    let filter = RunFilter { with_counts: true, ..RunFilter::default() };
    let counts = engine.db().runs(Access::All, filter).await.unwrap().counts.unwrap();
    assert!(counts.is_exact);
    counts.by_status.into_iter().collect()
}

#[tokio::test]
async fn what_an_older_program_left_goes_on_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(FORMAT_1).unwrap();
    use RunStatus::{Cancelled, Completed, Error, Paused};

    let first = engine(&path, "outlive_sessions").await;
    for (run_id, content) in [("stopped", "hang"), ("behind", "four"), ("backing-off", "retry")] {
        let run_id = RunId::parse(run_id).unwrap();
        let ended = first.attach(run_id.clone()).wait().await.unwrap();
        assert_eq!((ended.status, ended.text()), (Completed, content.to_owned()), "{run_id}");
        let log = read_log(&**first.db(), &run_id).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "{run_id}");
        let begun = log.iter().filter(|entry| entry.event.name() == "StepStarted").count();
        assert_eq!(begun, 2, "{run_id}: no step begins again");
    }
    for (run_id, status, content) in [
        ("done", Completed, "one"),
        ("done-ada", Completed, "two"),
        ("failed", Error, "no such order"),
        ("cancelled", Cancelled, ""),
        ("paused", Paused, ""),
    ] {
        let run_id = RunId::parse(run_id).unwrap();
        let run = first.get_run(&run_id).await.unwrap().unwrap();
        assert_eq!(run.status, status, "{run_id}");
        assert!(run.text().contains(content), "{run_id}: {}", run.text());
        assert!(!read_log(&**first.db(), &run_id).await.is_empty());
    }
    assert_eq!(counts(&first).await, [(Paused, 1), (Completed, 5), (Cancelled, 1), (Error, 1)].into());
    // Sessions go on too.
    let again = Submit { session_id: Some("s-4".to_owned()), user_id: Some("ada".to_owned()), ..Submit::default() };
    let again = first.submit(&DefinitionId::parse("orders").unwrap(), again).await.unwrap();
    assert_eq!(again.wait().await.unwrap().status, Completed);
    assert_eq!(counts(&first).await[&Completed], 6);

    // The other table set of the file.
    let second = engine(&path, "second").await;
    let ended = second.attach(RunId::parse("stopped").unwrap()).wait().await.unwrap();
    assert_eq!(ended.status, Completed);
    assert_eq!(counts(&second).await, [(Completed, 2)].into());
}

/// The log of a run of a team, an agent and a function, as a program of format 1 wrote it.
const LOG_1: &str = include_str!("../../../core/tests/golden/content_creation.log");

fn content_creation() -> Workflow {
    let model = || ScriptedModel::from_fn("scripted-1", |_| Ok(ModelResponse::text("canary answer")));
    let agent = |name: &str| Agent::new(name).model(model());
    let team =
        Team::new("Research Team").member(agent("Hackernews Agent")).member(agent("Finance Agent")).model(model());
    let publish = Step::function("Publish", |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) });
    Workflow::builder("Content Creation Workflow")
        .step(Step::new("Research Step").team(team))
        .step(Step::new("Content Planning Step").agent(agent("Content Planner")))
        .step(publish.retry(Retry::times(2).backoff(Duration::from_millis(1))))
        .db(InMemoryDb::new())
        .build()
        .unwrap()
}

/// The events of lines of format 1, as their clients saw them.
fn events_of(lines: &[&str]) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        event: &'a serde_json::value::RawValue,
    }
    let event = |(index, line): (usize, &&str)| {
        let Line { event } = serde_json::from_str(&line[9..]).unwrap();
        format!("{},\"event_index\":{index}}}", event.get().strip_suffix('}').unwrap())
    };
    lines.iter().enumerate().map(event).collect()
}

#[tokio::test]
async fn a_log_of_an_older_program_goes_on_after_each_of_its_entries() {
    let lines: Vec<&str> = LOG_1.lines().collect();
    for kept in 1..lines.len() {
        let workflow = content_creation();
        let engine = workflow.engine().await.unwrap();
        let db = engine.db().clone();
        let (worker, at) = (WorkerId::parse("older").unwrap(), Timestamp::from_seconds(1_795_434_319));
        db.heartbeat(worker.clone(), at, Duration::from_secs(15)).await.unwrap();
        let info = RunInfo {
            run_id: RunId::parse("0193e5a0-7c1d-7000-8000-0000000000aa").unwrap(),
            workflow_id: workflow.definition().id.clone(),
            workflow_name: workflow.definition().name.clone(),
            session_id: SessionId::parse("session-1").unwrap(),
            user_id: None,
        };
        let new = NewRun {
            info: info.clone(),
            input: Some(Arc::from("\"secret-prompt\"")),
            options: None,
            definition: Arc::from("older"),
            structure: None,
            idempotency_key: None,
            fingerprint: Arc::from(""),
            policy: SessionPolicy::Queue,
            session_state: None,
            session_kind: SessionKind::Workflow,
            hook: None,
            start: NewStart::default(),
            at,
        };
        let Accepted::New { lease: Some(lease), .. } = db.create_run(Access::All, new, Some(worker)).await.unwrap()
        else {
            panic!("the run is new");
        };
        let body = lines[..kept].iter().flat_map(|line| [line, "\n"]).collect::<String>();
        let page = Page { first_index: 0, count: u32::try_from(kept).unwrap(), body: Arc::from(body) };
        let patch =
            RunPatch { status: Some(RunStatus::Running), release: Some(Release::default()), ..RunPatch::default() };
        db.commit(Commit { lease, page: Some(page), patch, session: None, at }).await.unwrap();

        let ended = engine.attach(info.run_id.clone()).wait().await.unwrap();
        assert_eq!((ended.status, ended.text()), (RunStatus::Completed, "canary answer".to_owned()), "after {kept}");
        let log = read_log(&*db, &info.run_id).await;
        assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new(), "after {kept}");
        let told: Vec<String> = log.iter().map(|entry| serde_json::to_string(&entry.event).unwrap()).collect();
        assert_eq!(told[..kept], events_of(&lines[..kept]), "after {kept}");
        // From every start: readers that begin in the middle see the same.
        for after in 0..log.len() as u64 - 1 {
            let rest = engine.events(&info.run_id, Some(after)).stored().await.unwrap();
            let rest: Vec<String> = rest.iter().map(|event| serde_json::to_string(event).unwrap()).collect();
            assert_eq!(rest, told[after as usize + 1..], "after {kept}, from {after}");
        }
        workflow.shutdown().await.unwrap();
    }
}
