//! What awaiting a run gives: a result, or an error that cannot be overlooked.

use outlive::prelude::*;
use outlive::{Error, FailureKind, NotCompleted};
use std::sync::Arc;
use tokio::sync::Notify;

fn failing() -> Workflow {
    let fails = |_, _| async { Err::<String, _>(Failure::fatal("the kitchen is on fire")) };
    Workflow::builder("Kitchen").db(InMemoryDb::new()).function(fails).build().unwrap()
}

#[track_caller]
fn not_completed<T: std::fmt::Debug>(result: outlive::Result<T>) -> NotCompleted {
    match result.unwrap_err() {
        Error::NotCompleted(run) => run,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failed_run_is_an_error_that_holds_the_run_and_says_why() {
    let workflow = failing();
    let failed = not_completed(workflow.run("soup").await);
    assert_eq!((failed.status(), failed.is_paused()), (RunStatus::Error, false));
    assert_eq!(Some(&*failed.run), workflow.get_run(&failed.run.run_id).await.unwrap().as_ref());
    let said = failed.to_string();
    assert!(said.starts_with(&format!("run {} failed: ", failed.run.run_id)), "{said}");
    assert!(said.contains("the kitchen is on fire"), "{said}");
    // What `main` prints of it is its message, not the whole run.
    assert_eq!(format!("{:?}", Error::from(failed)), said);
}

#[test]
fn what_main_prints_of_an_error_is_a_sentence() {
    let error = Workflow::builder("Empty").build().unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("workflow \"Empty\" cannot be built: "), "{said}");
    assert_eq!(format!("{error:?}"), said);
}

#[tokio::test]
async fn awaiting_a_handle_is_the_same_and_wait_gives_the_run_however_it_ended() {
    let workflow = failing();
    let run = workflow.run("soup").background().await.unwrap();
    let failed = run.clone().await.unwrap_err();
    assert_eq!(failed.to_string(), not_completed(Err::<(), _>(failed.clone().into())).to_string());
    let ended = run.wait().await.unwrap();
    assert_eq!(ended.status, RunStatus::Error);
    assert!(ended.clone().into_result().is_err());
    assert!(workflow.attach(ended.run_id).await.unwrap().await.is_err(), "whoever awaits it, from wherever");
}

#[tokio::test]
async fn a_cancelled_run_and_one_that_is_not_over_are_no_results() {
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let endless = move |_, _| {
        let begins = begins.clone();
        async move {
            begins.notify_one();
            std::future::pending::<Result<String, Failure>>().await
        }
    };
    let workflow = Workflow::builder("Endless").db(InMemoryDb::new()).function(endless).build().unwrap();
    let run = workflow.run("go").background().await.unwrap();
    begun.notified().await;
    let unfinished = run.get().await.unwrap().unwrap().into_result().unwrap_err();
    assert_eq!(unfinished.to_string(), format!("run {} has no result yet (RUNNING)", run.run_id()));
    run.cancel("enough").await.unwrap();
    let cancelled = not_completed(run.clone().await.map_err(Error::from));
    assert_eq!(cancelled.status(), RunStatus::Cancelled);
    assert_eq!(cancelled.to_string(), format!("run {} was cancelled", run.run_id()));
}

#[tokio::test]
async fn a_paused_run_is_no_result_and_waiting_for_it_is_no_failure() {
    let unsure = |_, _| async { Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "was it paid?")) };
    let workflow = Workflow::builder("Till").db(InMemoryDb::new()).function(unsure).build().unwrap();
    let paused = not_completed(workflow.run("pay").await);
    assert!(paused.is_paused());
    assert!(paused.to_string().starts_with(&format!("run {} is paused", paused.run.run_id)), "{paused}");
    let waited = workflow.attach(&paused.run.run_id).await.unwrap().wait().await.unwrap();
    assert_eq!((waited.status, waited.has_completed()), (RunStatus::Paused, false));
}
