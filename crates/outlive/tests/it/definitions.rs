//! Definitions as data, from end to end: written, read and bound to code again, stored with the runs that have them.

use outlive::Options;
use outlive::core::port::{Access, RunStore, SessionStore};
use outlive::core::{SessionId, Structure};
use outlive::engine::testing::read_log;
use outlive::prelude::*;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn said(text: &str) -> ScriptedModel {
    let text = text.to_owned();
    ScriptedModel::from_fn("scripted", move |_| Ok(ModelResponse::text(text.clone())))
}

fn echo(name: &str) -> Step {
    Step::function(name, |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(format!("{}.", input.text())) })
}

/// An agent, a team and functions, in containers.
fn workflow() -> Workflow {
    let agent = Agent::new("HN Agent").model(said("news"));
    let crew = Team::new("Crew").model(said("crew news")).member(Agent::new("Deep").model(said("deep")));
    let research = Parallel::new("Research").step(Step::new("HN").agent(agent)).step(Step::new("Team").team(crew));
    Workflow::builder("Digest")
        .db(InMemoryDb::new())
        .step(research)
        .step(
            Condition::new("Long?")
                .when(|question| question.text().len() > 3)
                .step(echo("Cut"))
                .otherwise(echo("Keep")),
        )
        .step(Loop::new("Polish").step(echo("Draft")).until_cel("current_iteration == 2"))
        .step(echo("Send"))
        .build()
        .unwrap()
}

fn registry() -> Registry {
    let again = |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(format!("{}.", input.text())) };
    let registry =
        ["Cut", "Keep", "Draft", "Send"].into_iter().fold(Registry::new(), |all, name| all.function(name, again));
    registry
        .agent(Agent::new("HN Agent").model(said("news")))
        .team(Team::new("Crew").model(said("crew news")).member(Agent::new("Deep").model(said("deep"))))
        .condition("Long?", |question| question.text().len() > 3)
}

#[tokio::test]
async fn a_workflow_that_was_read_does_what_the_one_that_was_written_does() {
    let written = workflow();
    // Through text, as a file would have it.
    let json: Value = serde_json::from_str(&written.to_json().to_string()).unwrap();
    let read = Workflow::from_json(&json, &registry()).db(InMemoryDb::new()).build().unwrap();
    assert_eq!((read.to_json(), &read.definition().hash), (json, &written.definition().hash));
    let (one, other) = (written.run("hi").await.unwrap(), read.run("hi").await.unwrap());
    assert_eq!(one.content, other.content);
    assert!(one.text().ends_with("crew news..."), "{}", one.text());
}

#[tokio::test]
async fn everything_that_is_missing_is_said_with_the_database() {
    let json =
        json!({ "name": "Digest", "steps": [{ "name": "a", "agent_id": "x" }, { "name": "b", "executor_ref": "y" }] });
    let Err(error) = Workflow::from_json(&json, &Registry::new()).build() else { panic!("it has no code") };
    let error = error.to_string();
    for part in
        ["steps[0]: no agent \"x\" is registered", "steps[1]: no function \"y\" is registered", "it has no database"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_copy_has_runs_of_its_own() {
    let original = workflow();
    let json = original.to_json();
    let copy = original.deep_copy().name("Other Digest").step(echo("Archive")).build().unwrap();
    let (one, other) = (original.run("hi").await.unwrap(), copy.run("hi").await.unwrap());
    assert_eq!(format!("{}.", one.text()), other.text());
    assert_eq!((one.workflow_id.as_str(), other.workflow_id.as_str()), ("digest", "other-digest"));
    assert_eq!(original.to_json(), json);
    // They share the database.
    assert!(original.get_run(other.run_id).await.unwrap().is_some());
    copy.shutdown().await.unwrap();
    original.run("again").await.unwrap();
}

/// A workflow of these steps in this file; the step `Wait` never ends.
fn in_file(path: &Path, steps: &[&str]) -> Workflow {
    let step = |name: &&str| {
        let waits = *name == "Wait";
        Step::function(name, move |_, input: Arc<StepInput>| async move {
            if waits {
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>(input.text())
        })
    };
    let options = Options { shutdown_grace: Duration::ZERO, ..Options::default() };
    let builder = Workflow::builder("Example").db(SqliteDb::new(path)).options(options);
    builder.steps(steps.iter().map(step)).build().unwrap()
}

fn number(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

const DEFINITIONS: &str = "SELECT count(*) FROM outlive_sessions_definitions";

#[tokio::test]
async fn a_definition_is_stored_with_its_first_run_and_goes_with_its_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let one = in_file(&path, &["a"]);
    one.run("hi").session_id("s1").await.unwrap();
    one.run("hi").session_id("s2").await.unwrap();
    assert_eq!(number(&path, DEFINITIONS), 1);
    // Another version in another process.
    let two = in_file(&path, &["a", "b"]);
    two.run("hi").session_id("s3").await.unwrap();
    one.run("hi").session_id("s4").await.unwrap();
    assert_eq!(number(&path, DEFINITIONS), 2);
    let db = SqliteDb::new(&path);
    for (definition, is_kept) in [(one.definition(), true), (two.definition(), true)] {
        let text = db.definition(definition.hash.clone()).await.unwrap();
        assert_eq!(text.is_some(), is_kept);
        assert_eq!(Structure::parse(&text.unwrap()).unwrap().nodes, definition.nodes);
    }
    let delete = async |id: &str| {
        assert_eq!(db.delete_sessions(Access::All, vec![SessionId::parse(id).unwrap()], false).await.unwrap(), 1);
    };
    delete("s3").await;
    delete("s1").await;
    delete("s4").await;
    assert_eq!(number(&path, DEFINITIONS), 1);
    delete("s2").await;
    assert_eq!(number(&path, DEFINITIONS), 0);
    // Whoever had stored it does not rely on that.
    one.run("hi").await.unwrap();
    assert_eq!(number(&path, DEFINITIONS), 1);
    Connection::open(&path).unwrap().execute_batch("DELETE FROM outlive_sessions_definitions").unwrap();
    one.run("hi").await.unwrap();
    assert_eq!(number(&path, DEFINITIONS), 1);
}

/// A run accepted and begun by one version, then the file without its definition, then another version.
#[tokio::test]
async fn a_run_resumes_by_its_log_and_in_the_words_of_its_own_definition_where_that_is_known() {
    for (is_lost, was) in [(false, "a function step \"Wait\""), (true, "a step \"Wait\"")] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let before = in_file(&path, &["Plan", "Wait", "Send"]);
        let run = before.run("hi").run_id("r").background().await.unwrap();
        let mut events = run.events(None);
        let mut begun = 0;
        while begun < 2 {
            begun += usize::from(events.next().await.unwrap().unwrap().name() == "StepStarted");
        }
        before.shutdown().await.unwrap();
        if is_lost {
            Connection::open(&path).unwrap().execute_batch("DELETE FROM outlive_sessions_definitions").unwrap();
        }
        // What it has not reached may be anything; a second process does the same.
        let fine = in_file(&path, &["Plan", "Wait", "Other", "More"]);
        let mut events = fine.attach("r").await.unwrap().events(None);
        while events.next().await.unwrap().unwrap().name() != "CustomEvent" {}
        fine.shutdown().await.unwrap();
        let changed = in_file(&path, &["Plan", "Brew", "Send"]);
        let ended = changed.attach("r").await.unwrap().wait().await.unwrap();
        assert_eq!(ended.status, RunStatus::Paused);
        let log = read_log(&SqliteDb::new(&path), &ended.run_id).await;
        let shown = serde_json::to_string(&log.last().unwrap().event).unwrap().replace('\\', "");
        assert!(shown.contains(&format!("steps[1]: was {was}, is a function step \"Brew\"")), "{shown}");
        changed.shutdown().await.unwrap();
    }
}
