//! Callers of the facade that go away at any await: the workflow they leave can be used by the next one, and what was
//! accepted ends.

use outlive::core::ModelResponse;
use outlive::core::port::{Access, BudgetFilter, BudgetRaise, QuestionFilter, RunFilter, RunStore, StepContext};
use outlive::engine::testing::{TroubledDb, poll_and_drop};
use outlive::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Of simulated time: longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

type Call = fn(Workflow) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const CALLS: &[(&str, Call)] = &[
    ("run", |workflow| Box::pin(async move { drop(asked(&workflow).await) })),
    ("background", |workflow| Box::pin(async move { drop(asked(&workflow).background().await) })),
    ("stream", |workflow| {
        Box::pin(async move {
            let Ok(mut events) = asked(&workflow).stream().await else { return };
            while let Ok(Some(_)) = events.next().await {}
        })
    }),
    ("engine", |workflow| Box::pin(async move { drop(workflow.engine().await.map(|_| ())) })),
    ("get_run", |workflow| Box::pin(async move { drop(workflow.get_run("asked").await) })),
    ("attach", |workflow| Box::pin(async move { drop(workflow.attach("asked").await) })),
    ("cancel_run", |workflow| {
        Box::pin(async move {
            drop(asked(&workflow).background().await);
            drop(workflow.cancel_run("asked", "enough").await);
        })
    }),
    ("shutdown", |workflow| {
        Box::pin(async move {
            drop(asked(&workflow).background().await);
            drop(workflow.shutdown().await);
        })
    }),
];

/// The same, of what [`prepare`] has made: a run that asks, a batch, a schedule, a session and a budget.
const CHANGES: &[(&str, Call)] = &[
    ("continue_run", |workflow| {
        Box::pin(async move {
            let Ok(run) = workflow.attach("asks").await else { return };
            let Ok(open) = run.questions().await else { return };
            let answers = open.iter().map(|question| (question.id().clone(), Answer::Approve));
            drop(workflow.continue_run("asks", answers, Some("ada")).await);
        })
    }),
    ("batch", |workflow| {
        Box::pin(async move { drop(workflow.batch(["a", "b", "c"]).batch_id("other").background().await) })
    }),
    ("batches", |workflow| Box::pin(async move { drop(workflow.batches().await) })),
    ("get_batch", |workflow| Box::pin(async move { drop(workflow.get_batch("batch").await) })),
    ("schedule", |workflow| Box::pin(async move { drop(workflow.schedule("@yearly").name("other").create().await) })),
    ("replace", |workflow| {
        Box::pin(async move { drop(workflow.schedule("@yearly").name("yearly").input("ho").replace().await) })
    }),
    ("schedules", |workflow| Box::pin(async move { drop(workflow.schedules().await) })),
    ("get_schedule", |workflow| {
        Box::pin(async move {
            let Ok(schedule) = workflow.get_schedule("yearly").await else { return };
            drop(schedule.pause().await);
        })
    }),
    ("set_session_name", |workflow| Box::pin(async move { drop(workflow.set_session_name("of-asks", "named").await) })),
    ("session", |workflow| {
        Box::pin(async move {
            drop(workflow.get_session_state("of-asks").await);
            drop(workflow.get_session_name("of-asks").await);
            drop(workflow.get_session_metrics("of-asks").await);
        })
    }),
    ("raise_budget", |workflow| {
        Box::pin(async move {
            let Ok(engine) = workflow.engine().await else { return };
            let Ok(page) = engine.budgets(BudgetFilter::default()).await else { return };
            let account = &page.budgets[0];
            // What somebody has seen is raised once, however often he asks.
            let raise = BudgetRaise { id: account.account.id.clone(), amount: 7, seen: Some(0) };
            drop(engine.raise_budget(raise).await);
        })
    }),
];

/// Asks when it is told to, and speaks to a model within a budget.
fn asking(db: &InMemoryDb) -> Workflow {
    let asks = Step::function("asks", |context: StepContext, input| async move {
        if input.text() == "ask" {
            context.ask("really", HumanReview::confirmation("Really?")).await?;
        }
        Ok::<_, Failure>(input.text())
    });
    let model = ScriptedModel::from_fn("scripted", |_| Ok(ModelResponse::text("said")));
    let builder = Workflow::builder("Asking").shared_db(TroubledDb::yielding(Arc::new(db.clone())));
    let builder = builder.step(asks).step(Step::new("speaks").agent(Agent::new("Ada").model(model)));
    builder.budget(Budget::calls(1000).per_day()).build().unwrap()
}

async fn prepare(workflow: &Workflow) {
    workflow.batch(["hi"]).batch_id("batch").background().await.unwrap().wait().await.unwrap();
    workflow.schedule("@yearly").name("yearly").input("hi").create().await.unwrap();
    let asks = workflow.run("ask").run_id("asks").session_id("of-asks").background().await.unwrap();
    assert_eq!(asks.wait().await.unwrap().status, RunStatus::Paused);
}

fn asked(workflow: &Workflow) -> outlive::RunRequest {
    workflow.run("hi").run_id("asked").session_id("asked").idempotency_key("asked")
}

fn workflow(db: &InMemoryDb) -> Workflow {
    let slow = Step::function("slow", |_, input| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, Failure>(input.text())
    });
    let builder = Workflow::builder("Slow").shared_db(TroubledDb::yielding(Arc::new(db.clone())));
    builder.step(slow).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_may_go_away_at_any_await() {
    for (name, call) in CALLS {
        for times in 1.. {
            let db = InMemoryDb::new();
            let left = workflow(&db);
            let finished = poll_and_drop(call(left.clone()), times).await;
            let place = format!("{name}, dropped after {times} polls");
            // One that was told to stop is not used again: the next process goes on.
            let next = if *name == "shutdown" { workflow(&db) } else { left.clone() };
            for run in db.runs(Access::All, RunFilter::default()).await.unwrap().runs {
                let run = next.attach(run.info.run_id).await.unwrap();
                timeout(PATIENCE, run.wait()).await.unwrap_or_else(|_| panic!("{place}: a run does not end")).unwrap();
            }
            let again = asked(&next).background().await.unwrap();
            timeout(PATIENCE, again.wait()).await.unwrap_or_else(|_| panic!("{place}: the key")).unwrap();
            let behind = next.run("hi").session_id("asked").background().await.unwrap();
            let ended = timeout(PATIENCE, behind.wait()).await.unwrap_or_else(|_| panic!("{place}: the session"));
            assert_eq!(ended.unwrap().status, RunStatus::Completed, "{place}");
            next.shutdown().await.unwrap();
            left.shutdown().await.unwrap();
            assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
            // What waits for a step to end has come by all its other awaits long before.
            if finished.is_some() || times == 40 {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_changes_something_may_go_away_at_any_await() {
    for (name, change) in CHANGES {
        for times in 1.. {
            let db = InMemoryDb::new();
            let workflow = asking(&db);
            prepare(&workflow).await;
            let finished = poll_and_drop(change(workflow.clone()), times).await;
            let place = format!("{name}, dropped after {times} polls");
            let again = timeout(PATIENCE, change(workflow.clone())).await;
            again.unwrap_or_else(|_| panic!("{place}: it cannot be done again"));
            let engine = workflow.engine().await.unwrap();
            for question in engine.questions(QuestionFilter::default()).await.unwrap().questions {
                engine.answer([(question.id().clone(), Answer::Approve)], None).await.unwrap();
            }
            for run in db.runs(Access::All, RunFilter::default()).await.unwrap().runs {
                let ended = timeout(PATIENCE, engine.attach(run.info.run_id).wait()).await;
                let ended = ended.unwrap_or_else(|_| panic!("{place}: a run does not end")).unwrap();
                assert_eq!(ended.status, RunStatus::Completed, "{place}");
            }
            for batch in workflow.batches().await.unwrap() {
                assert_eq!(batch.status(), "completed", "{place}");
            }
            let names: Vec<_> = workflow.schedules().await.unwrap().iter().map(|one| one.name.clone()).collect();
            assert!(names.len() == if *name == "schedule" { 2 } else { 1 }, "{place}: {names:?}");
            let raised = engine.budgets(BudgetFilter::default()).await.unwrap().budgets[0].standing.raised;
            assert_eq!(raised, if *name == "raise_budget" { 7 } else { 0 }, "{place}");
            workflow.shutdown().await.unwrap();
            assert_eq!(db.workers(Some(Access::All)).await.unwrap(), [], "{place}: a worker is left");
            if finished.is_some() || times == 60 {
                break;
            }
        }
    }
}
