//! A model server that takes only so many calls: runs wait for it together, and every wait can be left at once.

use crate::world::World;
use futures::future::join_all;
use outlive::Options;
use outlive::agent::testing::Exchange;
use outlive::core::EventKind;
use outlive::prelude::*;
use std::time::Duration;

/// Whether an exchange was refused.
fn is_refused(exchange: &Exchange) -> bool {
    exchange.status == Some(429)
}

/// A run that was told to wait, and has heard it.
async fn refused(workflow: &Workflow) -> RunHandle {
    let run = workflow.run("hi").background().await.unwrap();
    let mut events = run.events(None);
    while !matches!(events.next().await.unwrap().expect("the run goes on").kind, EventKind::CustomEvent { .. }) {}
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_at_a_server_with_a_limit_completes_and_is_hardly_refused() {
    let world = World::new().await;
    world.models.limit(20, Duration::from_secs(1), &[("retry-after", "1")]);
    // Neither an attempt nor a run is lost, in two workflows with an engine and a file each.
    let agent = |name: &str| Agent::new(name).model(world.responses()).retry(Retry::times(0));
    let other = Workflow::builder("Other").db(SqliteDb::new(world.folder.path().join("other.db")));
    let other = other.step(Step::new("Only").agent(agent("B"))).build().unwrap();
    let workflows = [world.one_agent(agent("A")), other];
    let runs = (0..60).map(|number| workflows[number % 2].run(format!("run {number}")).into_future());
    for ended in join_all(runs).await {
        let ended = ended.unwrap();
        assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    }
    let log = world.models.log();
    let first_refusal = log.iter().filter(|exchange| is_refused(exchange)).filter_map(|exchange| exchange.ended).min();
    let wave_end = first_refusal.expect("sixty at once are too many") + Duration::from_secs(1);
    let (first, later): (Vec<_>, Vec<_>) = log.into_iter().partition(|exchange| exchange.started < wave_end);
    let later_refused = later.iter().filter(|exchange| is_refused(exchange)).count();
    assert!(
        later_refused * 10 <= later.len(),
        "{later_refused} of {} after a first wave of {}",
        later.len(),
        first.len()
    );
    let answered = first.iter().chain(&later).filter(|exchange| !is_refused(exchange)).count();
    assert_eq!(answered, 60, "each was answered once");
}

#[tokio::test]
async fn a_second_engine_waits_with_the_first_for_the_key_they_share() {
    let world = World::new().await;
    world.models.fail_next(429, &[("retry-after", "1")], 1);
    let first = world.one_agent(Agent::new("A").model(world.responses()));
    let waiting = refused(&first).await;
    let other = |model| {
        let db = SqliteDb::new(world.folder.path().join("other.db"));
        Workflow::builder("Other").db(db).step(Step::new("Only").agent(Agent::new("B").model(model))).build().unwrap()
    };
    let same_key = other(world.responses());
    let free = same_key.run("hi").background().await.unwrap();
    // Another key at the same address is another limit.
    let another_key = Workflow::builder("Another").db(InMemoryDb::new());
    let another_key = another_key.step(Step::new("Only").agent(Agent::new("C").model(world.chat().api_key("another"))));
    another_key.build().unwrap().run("hi").await.unwrap();
    for run in [waiting, free] {
        assert_eq!(run.await.unwrap().status, RunStatus::Completed);
    }
    let log = world.models.log();
    let paths: Vec<_> = log.iter().map(|exchange| exchange.path.as_str()).collect();
    assert_eq!(paths, ["/v1/responses", "/v1/chat/completions", "/v1/responses", "/v1/responses"]);
    let refused_at = log[0].ended.unwrap();
    assert!(log[2..].iter().all(|exchange| exchange.started >= refused_at + Duration::from_secs(1)), "{log:?}");
}

#[tokio::test]
async fn a_run_that_waits_for_its_server_can_be_cancelled_and_handed_on_at_once() {
    let world = World::new().await;
    world.models.fail_next(429, &[("retry-after", "300")], 1);
    let make = || {
        let step = Step::new("Only").agent(Agent::new("Solo").model(world.responses()));
        // A drain that waited for these runs would last an hour.
        let options = Options { shutdown_grace: Duration::from_secs(3600), ..Options::default() };
        Workflow::builder("One Agent").db(world.db()).options(options).step(step).build().unwrap()
    };
    let workflow = make();
    let told = refused(&workflow).await;
    let (cancelled, waiting) =
        (workflow.run("a").background().await.unwrap(), workflow.run("b").background().await.unwrap());
    for run in [&cancelled, &waiting] {
        let mut events = run.events(None);
        while events.next().await.unwrap().expect("the run goes on").name() != "RunStarted" {}
    }
    cancelled.cancel("enough").await.unwrap();
    assert_eq!(cancelled.wait().await.unwrap().status, RunStatus::Cancelled);
    let left = tokio::time::timeout(Duration::from_secs(60), workflow.shutdown()).await;
    left.expect("nobody waits for what has not begun").unwrap();
    let log = make();
    for run in [told, waiting] {
        let found = log.get_run(run.run_id()).await.unwrap().unwrap();
        assert!(!found.status.is_terminal(), "{}", found.status);
    }
    assert_eq!(world.models.log().len(), 1, "nothing was asked meanwhile");
}
