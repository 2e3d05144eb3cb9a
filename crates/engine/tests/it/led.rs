//! Runs that an agent leads, as an engine executes them: whatever its steps do, the leader waits beside them and costs
//! nothing else.

use crate::stage::{Calls, append, engine, input, slow};
use outlive_core::port::{Access, BoxFuture, Executed, Executor, ExecutorInfo, RunStore, StepContext};
use outlive_core::{
    Answer, Definition, ExecutorKind, Failure, HumanReview, Retry, RunStatus, Step, StepInput, StepOutput, content_text,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::read_log;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Has the steps executed, and says what they came to.
struct Leader(Calls);

impl Executor for Leader {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: Arc::from("Leader"), id: Some("leader".parse().unwrap()) }
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        self.0.note();
        Box::pin(async move {
            let call = context.step.key.speaker("agent").turn(0).call(0);
            let content = context.effects.run_steps(&call, json!(format!("{}?", input.text()))).await?;
            Ok(StepOutput::new(format!("it is {}", content_text(content.as_ref()))).into())
        })
    }
}

fn led(leads: &Calls, steps: impl IntoIterator<Item = Step>) -> Arc<Definition> {
    let builder = Definition::builder("Led").agent(Leader(leads.clone()));
    Arc::new(steps.into_iter().fold(builder, |builder, step| builder.step(step)).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_question_in_a_step_of_a_led_run_is_answered_days_later_in_another_process() {
    let (leads, calls, db) = (Calls::default(), Calls::default(), InMemoryDb::new());
    let asks = append("b", &calls).human_review(HumanReview::confirmation("Really?"));
    let definition = led(&leads, [append("a", &calls), asks]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    let paused = run.wait().await.unwrap();
    assert_eq!((paused.status, paused.paused_step_name.as_deref()), (RunStatus::Paused, Some("b")));
    assert_eq!((paused.step_results[0].text().as_str(), first.stats().runs_executing), ("hi? a", 0));
    first.shutdown().await.unwrap();

    let second = engine(&db, &definition).await;
    let run = second.attach(run.run_id().clone());
    run.questions().await.unwrap()[0].answer(Answer::Approve).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi? a b"));
    assert_eq!((calls.count(), leads.count()), (2, 2), "no step is executed twice; the leader finds what it asked for");
}

#[tokio::test(start_paused = true)]
async fn a_led_run_leaves_memory_while_a_step_backs_off_and_goes_on_when_it_is_due() {
    let (leads, db) = (Calls::default(), InMemoryDb::new());
    let flaky = Step::function("flaky", |context, _: Arc<StepInput>| async move {
        if context.step.attempt == 1 { Err(Failure::function("not yet")) } else { Ok("there") }
    });
    let flaky = flaky.retry(Retry::times(1).backoff(120 * MINUTE).backoff_max(120 * MINUTE));
    let definition = led(&leads, [flaky]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(engine.stats().runs_executing, 0);
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().due_at.is_some());
    let output = run.wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str(), leads.count()), (RunStatus::Completed, "there", 2));
}

#[tokio::test(start_paused = true)]
async fn a_led_run_is_cancelled_while_its_steps_are_executed() {
    let (leads, db) = (Calls::default(), InMemoryDb::new());
    let definition = led(&leads, [slow("one", MINUTE), slow("two", MINUTE)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(MINUTE + MINUTE / 2).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let output = run.wait().await.unwrap();
    let steps: Vec<_> = output.step_results.iter().map(|step| (step.step_name.as_deref(), step.success)).collect();
    assert_eq!((output.status, steps), (RunStatus::Cancelled, vec![(Some("one"), true), (Some("two"), false)]));
    assert_eq!(read_log(&db, run.run_id()).await.last().unwrap().event.name(), "WorkflowCompleted");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_step_and_another_process_leads_the_run_to_its_end() {
    let (leads, db) = (Calls::default(), InMemoryDb::new());
    let definition = led(&leads, [slow("one", Duration::from_secs(2)), slow("two", Duration::from_secs(2))]);
    let first = engine(&db, &definition).await;
    let run = first.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.shutdown().await.unwrap();
    let log = read_log(&db, run.run_id()).await;
    assert_eq!(log.iter().filter(|entry| entry.event.name() == "StepCompleted").count(), 1);
    let second = engine(&db, &definition).await;
    let output = second.attach(run.run_id().clone()).wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi?"));
    let started = read_log(&db, run.run_id()).await.iter().filter(|entry| entry.event.name() == "StepStarted").count();
    assert_eq!((started, leads.count()), (2, 2), "nothing was begun twice");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_fails_the_run_and_its_leader_is_not_asked() {
    let (leads, db) = (Calls::default(), InMemoryDb::new());
    let fails = Step::function("fails", |_, _: Arc<StepInput>| async { Err::<String, _>(Failure::fatal("no")) });
    let definition = led(&leads, [fails]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Error, r#"step "fails": no"#));
    assert_eq!(output.step_results.len(), 1);
}
