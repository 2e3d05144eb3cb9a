//! Workflows that the calls of a step have executed inside its run: each once, whatever happens to processes.

use crate::stage::{Calls, append, engine, input, slow, swept, workflow};
use futures::FutureExt;
use futures::future::join_all;
use outlive_core::log::Called;
use outlive_core::port::{Access, BoxFuture, Executed, Executor, ExecutorInfo, RunStore, StepContext};
use outlive_core::{
    Answer, Definition, ExecutorKind, Failure, HumanReview, OnError, Parallel, Retry, RunStatus, Step, StepInput,
    StepOutput, content_text,
};
use outlive_db::InMemoryDb;
use outlive_engine::testing::read_log;
use serde_json::{Value, json};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// Has each of its workflows executed, side by side, and puts together what they came to.
struct Caller {
    name: &'static str,
    workflows: Vec<Arc<Definition>>,
    begun: Calls,
}

impl Executor for Caller {
    fn info(&self) -> ExecutorInfo {
        ExecutorInfo { kind: ExecutorKind::Agent, name: Arc::from(self.name), id: Some(self.name.parse().unwrap()) }
    }

    fn workflows(&self) -> Vec<Arc<Definition>> {
        self.workflows.clone()
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        self.begun.note();
        Box::pin(async move {
            let turn = context.step.key.speaker("agent").turn(0);
            let calls: Vec<_> = (0..).map(|place| turn.call(place)).take(self.workflows.len()).collect();
            let work = calls.iter().zip(&self.workflows).map(|(call, workflow)| {
                let called = Called {
                    additional_data: Some(json!({ "by": self.name })),
                    state: [("seen".to_owned(), json!(self.name))].into_iter().collect(),
                    ..Called::new(json!(input.text()))
                };
                context.effects.run_workflow(&context.step.key, call, workflow, called)
            });
            let mut work = pin!(join_all(work));
            let ended = match work.as_mut().now_or_never() {
                Some(ended) => ended,
                None => {
                    context.effects.rests(&context.step.key);
                    work.await
                }
            };
            let mut texts = Vec::new();
            for end in ended {
                let end = end?;
                context.state.apply(&Value::Object(end.state));
                texts.push(match &end.output.error {
                    Some(error) => format!("[{error}]"),
                    None => content_text(end.content.as_ref()),
                });
            }
            Ok(StepOutput::new(texts.join(" + ")).into())
        })
    }
}

fn caller(name: &'static str, begun: &Calls, workflows: impl IntoIterator<Item = Arc<Definition>>) -> Step {
    Step::new(name).agent(Caller { name, workflows: workflows.into_iter().collect(), begun: begun.clone() })
}

fn inner(name: &str, steps: impl IntoIterator<Item = Step>) -> Arc<Definition> {
    let builder = steps.into_iter().fold(Definition::builder(name), |builder, step| builder.step(step));
    Arc::new(builder.build().unwrap())
}

/// Counts in the session's state, and says what it sees there.
fn counts(name: &'static str, calls: &Calls) -> Step {
    let calls = calls.clone();
    Step::function(name, move |context: StepContext, input: Arc<StepInput>| {
        calls.note();
        async move {
            let count = context.state.get("count").and_then(|count| count.as_u64()).unwrap_or(0) + 1;
            context.state.set("count", count);
            let by = input.additional_data.as_ref().map_or(Value::Null, |data| data["by"].clone());
            let seen = context.state.get("seen");
            Ok::<_, Failure>(format!(
                "{} {name}{count} {} {}",
                input.text(),
                content_text(Some(&by)),
                content_text(seen.as_ref())
            ))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn workflows_in_calls_survive_a_crash_at_every_entry() {
    let calls = Calls::default();
    let build = || {
        let two = [inner("First", [counts("a", &calls), append("b", &calls)]), inner("Second", [counts("c", &calls)])];
        let parallel = Parallel::new("par")
            .step(caller("one", &Calls::default(), two))
            .step(caller("other", &Calls::default(), [inner("Third", [counts("d", &calls)])]))
            .step(append("e", &calls));
        Arc::new(Definition::builder("Example").step(parallel).step(counts("f", &calls)).build().unwrap())
    };
    let sweep = swept(&calls, build).await;
    assert!(sweep.entries > 20 && sweep.repeated_calls > 0, "{sweep:?}");
}

#[tokio::test(start_paused = true)]
async fn what_workflows_in_calls_come_to_stands_in_the_steps_output_and_their_changes_are_the_steps() {
    let (calls, begun, db) = (Calls::default(), Calls::default(), InMemoryDb::new());
    let two = [inner("First", [counts("a", &calls)]), inner("Second", [counts("b", &calls)])];
    let branch = Parallel::new("par").step(caller("one", &begun, two)).step(counts("c", &calls));
    let definition = Arc::new(Definition::builder("Example").step(branch).step(counts("d", &calls)).build().unwrap());
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!(output.status, RunStatus::Completed, "{}", output.text());
    let step = &output.step_results[0].steps[0];
    assert_eq!(step.text(), "hi a1 one one + hi b1 one one", "each sees its branch's state and what its call says");
    let inside: Vec<_> = step.steps.iter().map(|called| (called.step_name.as_deref(), called.text())).collect();
    assert_eq!(inside, [(Some("First"), "hi a1 one one".to_owned()), (Some("Second"), "hi b1 one one".to_owned())]);
    assert!(output.text().contains("d2  "), "branches are merged, not added up: {}", output.text());
    let workflows = output.step_executor_runs.iter().filter(|run| run.workflow.is_some());
    assert!(workflows.clone().all(|run| run.parent_run_id.as_ref() == Some(&output.run_id)));
    assert_eq!((workflows.count(), begun.count()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_question_in_a_workflow_of_a_call_is_answered_days_later_in_another_process() {
    let (calls, begun, db) = (Calls::default(), Calls::default(), InMemoryDb::new());
    let asking = || {
        let asks = append("b", &calls).human_review(HumanReview::confirmation("Really?"));
        workflow([caller("one", &begun, [inner("First", [append("a", &calls), asks])])])
    };
    let first = engine(&db, &asking()).await;
    let run = first.submit(&asking().id, input("hi")).await.unwrap();
    let paused = run.wait().await.unwrap();
    assert_eq!((paused.status, first.stats().runs_executing), (RunStatus::Paused, 0));
    first.shutdown().await.unwrap();
    let second = engine(&db, &asking()).await;
    let run = second.attach(run.run_id().clone());
    run.questions().await.unwrap()[0].answer(Answer::Approve).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "hi a b"));
    assert_eq!((calls.count(), begun.count()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn what_fails_in_a_workflow_of_a_call_is_told_to_the_call_and_fails_nothing_else() {
    let (calls, begun, db) = (Calls::default(), Calls::default(), InMemoryDb::new());
    let fails = || Step::function("fails", |_, _: Arc<StepInput>| async { Err::<String, _>(Failure::fatal("no")) });
    let two = [inner("First", [append("a", &calls), fails()]), inner("Second", [append("b", &calls)])];
    let definition = workflow([caller("one", &begun, two)]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, r#"[step "fails": no] + hi b"#));
    let names: Vec<_> = read_log(&db, run.run_id()).await.iter().map(|entry| entry.event.name()).collect();
    assert!(names.contains(&"WorkflowError") && names.last() == Some(&"WorkflowCompleted"), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_leaves_memory_while_a_step_in_a_call_backs_off() {
    let (begun, db) = (Calls::default(), InMemoryDb::new());
    let flaky = Step::function("flaky", |context: StepContext, _: Arc<StepInput>| async move {
        if context.step.attempt == 1 { Err(Failure::function("not yet")) } else { Ok("there") }
    });
    let flaky = flaky.retry(Retry::times(1).backoff(120 * MINUTE).backoff_max(120 * MINUTE));
    let definition = workflow([caller("one", &begun, [inner("First", [flaky])])]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(engine.stats().runs_executing, 0);
    assert!(db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap().due_at.is_some());
    assert_eq!((run.wait().await.unwrap().text().as_str(), begun.count()), ("there", 2));
}

#[tokio::test(start_paused = true)]
async fn what_a_call_has_executed_ends_with_its_step_and_with_its_run() {
    let (begun, db) = (Calls::default(), InMemoryDb::new());
    let late = || inner("First", [slow("late", 60 * MINUTE)]);
    let limited = caller("one", &begun, [late()]).timeout(MINUTE).on_error(OnError::Skip);
    let definition = workflow([limited, caller("other", &begun, [late()])]);
    let engine = engine(&db, &definition).await;
    let run = engine.submit(&definition.id, input("hi")).await.unwrap();
    tokio::time::sleep(5 * MINUTE).await;
    engine.cancel(run.run_id(), "enough").await.unwrap();
    let output = run.wait().await.unwrap();
    let steps: Vec<_> = output.step_results.iter().map(|step| (step.step_name.as_deref(), step.success)).collect();
    assert_eq!((output.status, steps), (RunStatus::Cancelled, vec![(Some("one"), false), (Some("other"), false)]));
    tokio::time::timeout(Duration::from_secs(5), engine.shutdown()).await.expect("nothing is in progress").unwrap();
}
