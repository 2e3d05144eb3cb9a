//! Callers of the facade that go away at any await: the workflow they leave can be used by the next one, and what was
//! accepted ends.

use outlive::core::port::{Access, RunFilter, RunStore};
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
