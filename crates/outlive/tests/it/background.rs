//! Answers that go on at the provider while no process listens: after a crash they are taken up, and not paid for twice.

use crate::example::{Example, event_lines};
use crate::sweep::FileStage;
use crate::world::World;
use outlive::agent::testing::OpenAiServer;
use outlive::core::log::Part;
use outlive::core::port::Db;
use outlive::core::{Entry, EventKind, Key, Record};
use outlive::engine::testing::{Subject, broken_invariants, crash_after_each_entry, read_log};
use outlive::engine::{Options, Submit, SystemClock};
use outlive::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Answers that were asked for.
fn asked(server: &OpenAiServer) -> usize {
    server.log().iter().filter(|exchange| exchange.path == "/v1/responses").count()
}

fn workflow(server: &OpenAiServer, db: Arc<dyn Db>, is_streamed: bool) -> Workflow {
    let model = OpenAIResponses::new("gpt-5.2").base_url(server.url()).api_key("key").background();
    let agent = |name: &str| Step::new(name).agent(Agent::new(name).model(model.clone()).stream(is_streamed));
    let options = Options { shutdown_grace: Duration::ZERO, ..Options::default() };
    let builder = Workflow::builder("Far away").shared_db(db).options(options);
    builder.step(agent("First")).step(agent("Second")).build().unwrap()
}

/// Model calls that had left the process, of which nobody could know that their answer had begun.
fn unknown(log: &[Entry]) -> usize {
    let mut open = BTreeSet::new();
    for record in log.iter().filter_map(|entry| entry.record.as_ref()) {
        match record {
            Record::Intent { key, .. } if matches!(key.parts().last(), Some(Part::Turn(_))) => {
                open.insert(key.clone());
            }
            Record::Result { key, .. } => {
                open.remove(key);
                open.remove(&key.outer().unwrap_or_else(Key::run));
            }
            _ => {}
        }
    }
    open.len()
}

#[tokio::test]
async fn at_whatever_token_a_process_dies_the_answer_is_paid_for_once() {
    let server = OpenAiServer::start().await;
    let words = "CHUNKS=30 CHUNKDELAY=0.02";
    let plain = workflow(&server, Arc::new(InMemoryDb::new()), true);
    let expected = plain.run(words).await.unwrap().text();
    for token in 1..=8 {
        server.reset();
        let db = InMemoryDb::new();
        let first = workflow(&server, Arc::new(db.clone()), true);
        let run = first.run(words).run_id("r1").background().await.unwrap();
        let mut events = run.events(None);
        let mut seen = 0;
        while seen < token {
            let event = events.next().await.unwrap().expect("it goes on");
            seen += usize::from(matches!(event.kind, EventKind::RunContent(_)));
        }
        let engine = first.engine().await.unwrap();
        engine.kill();
        db.crash(&engine.worker());
        let shared: Arc<dyn Db> = Arc::new(db.another_process());
        let second = workflow(&server, shared.clone(), true);
        let output = second.attach("r1").await.unwrap().await.unwrap();
        assert_eq!(output.text(), expected, "token {token}");
        assert_eq!(asked(&server), 2, "token {token}: one for each step");
        let log = read_log(&*shared, &output.run_id).await;
        assert_eq!(broken_invariants(&log, &output), Vec::<String>::new(), "token {token}");
        // What readers see of the first answer once they were told to drop the beginning is all of it.
        let pieces = log.iter().skip_while(|entry| entry.event.name() != "RunResumed" && !is_resumed(entry));
        let text: String = pieces
            .take_while(|entry| entry.event.name() != "ModelRequestCompleted")
            .filter_map(|entry| match &entry.event.kind {
                EventKind::RunContent(delta) => delta.content.clone(),
                _ => None,
            })
            .collect();
        assert!(text.starts_with("Answer") && text.len() > 60, "token {token}: {text:?}");
        second.shutdown().await.unwrap();
    }
}

fn is_resumed(entry: &Entry) -> bool {
    match &entry.event.kind {
        EventKind::CustomEvent { fields } => fields.get("name").is_some_and(|name| name == "RunResumed"),
        _ => false,
    }
}

#[tokio::test]
async fn a_crash_at_every_entry_asks_for_no_answer_that_was_recorded() {
    let server = OpenAiServer::start().await;
    let build = || workflow(&server, Arc::new(InMemoryDb::new()), false).definition().clone();
    let calls = || asked(&server);
    let request = Submit { input: Some("hi".into()), ..Submit::default() };
    let subject = Subject { build: &build, request, clock: Arc::new(SystemClock), calls: &calls };
    let sweep = crash_after_each_entry(FileStage::new, subject).await;
    assert_eq!(sweep.crashes as u64, sweep.entries * 2, "{sweep:?}");
    // Only where a process dies between the call and the record of its answer's beginning.
    assert!(sweep.repeated_calls <= 8, "{sweep:?}");
}

#[tokio::test]
async fn a_run_that_is_cancelled_ends_its_answer_and_one_that_moves_on_does_not() {
    let server = OpenAiServer::start().await;
    let begins = async |workflow: &Workflow, id: &str, pace: &str| {
        let run = workflow.run(format!("{id} {pace}")).run_id(id).background().await.unwrap();
        let mut events = run.events(None);
        while let Some(event) = events.next().await.unwrap() {
            if let EventKind::CustomEvent { fields } = event.kind
                && fields["name"] == "ModelResponseBegun"
            {
                return fields["model_provider_data"]["response_id"].as_str().unwrap().to_owned();
            }
        }
        panic!("no answer has begun");
    };
    let db = InMemoryDb::new();
    let first = workflow(&server, Arc::new(db.clone()), true);
    // One answer is under way for as long as the test needs, the other comes to an end.
    let cancelled = begins(&first, "r1", "CHUNKS=3 CHUNKDELAY=60").await;
    let moved = begins(&first, "r2", "CHUNKS=30 CHUNKDELAY=0.02").await;
    first.attach("r1").await.unwrap().cancel("not needed").await.unwrap();
    server.wait_until(|log| log.iter().any(|exchange| exchange.path.ends_with("/cancel"))).await;
    assert!(server.is_cancelled(&cancelled));
    first.shutdown().await.unwrap();
    let second = workflow(&server, Arc::new(db.another_process()), true);
    let output = second.attach("r2").await.unwrap().await.unwrap();
    assert_eq!(output.status, RunStatus::Completed);
    assert!(!server.is_cancelled(&moved));
    assert_eq!(asked(&server), 3, "two for the run that moved on, one for the one that was cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_leaves_its_answers_to_the_next() {
    let (words, api) = ("AI trends CHUNKS=12 CHUNKDELAY=0.01", [("OUTLIVE_API", "background")]);
    let world = World::new().await;
    let mut example = Example::start_with(&world, &[words, "--poll", "0.05"], &api);
    let run_id = example.run_id();
    assert_eq!(example.finish().0, Some(0));
    let (entries, needed) = (read_log(&world.db(), &run_id).await.len() as u64, asked(&world.models));
    let mut taken_up = 0;
    for trial in 1..=8 {
        let world = World::new().await;
        let mut example = Example::start_with(&world, &[words, "--poll", "0.05"], &api);
        let run_id = example.run_id();
        crate::kill9::until_length(&world.db(), &run_id, entries * trial / 9).await;
        example.kill();
        let log_at_crash = read_log(&world.db(), &run_id).await;
        let before = event_lines(&log_at_crash);
        let id = run_id.to_string();
        let mut follower = Example::start_with(&world, &["--run-id", &id, "--poll", "0.05"], &api);
        let (code, output) = follower.finish();
        assert_eq!(code, Some(0), "trial {trial}: {output}");
        let log = read_log(&world.db(), &run_id).await;
        assert_eq!(event_lines(&log)[..before.len()], before, "trial {trial}");
        let made = asked(&world.models);
        let allowed = needed + unknown(&log_at_crash);
        assert!(
            (needed..=allowed).contains(&made),
            "trial {trial}: {made} asked for, {needed} needed, {allowed} allowed"
        );
        taken_up += world.models.log().iter().filter(|exchange| exchange.path.contains("/v1/responses/")).count();
    }
    assert!(taken_up > 0, "no process died while an answer was under way");
}
