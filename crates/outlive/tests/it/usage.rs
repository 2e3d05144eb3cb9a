//! What runs and sessions used: every call that was paid for counts once, whatever became of it.

use outlive::core::Usage;
use outlive::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a model call uses here.
const CALL: u64 = 12;

/// Steps by name, and the calls made for each.
type Calls = &'static [(&'static str, u64)];

fn reply(text: &str) -> ModelResponse {
    let usage = Usage { input_tokens: 10, output_tokens: 2, total_tokens: CALL, ..Usage::default() };
    ModelResponse { usage, ..ModelResponse::text(text) }
}

fn agent(name: &str) -> Agent {
    Agent::new(name).model(ScriptedModel::replies([reply("done")]))
}

fn asking(name: &str) -> Step {
    Step::new(name).agent(agent(name))
}

/// Fails this often, each time after the model has answered.
fn failing(name: &str, times: u32) -> Step {
    let asked = AtomicU32::new(0);
    let failing = Hook::new("failing", move |_, _| {
        let is_enough = asked.fetch_add(1, Ordering::SeqCst) >= times;
        async move { if is_enough { Ok(()) } else { Err(Failure::function("not yet")) } }
    });
    Step::new(name).agent(agent(name).post_hook(failing))
}

/// A function that fails once.
fn fails_once() -> Step {
    let asked = Arc::new(AtomicU32::new(0));
    Step::function("Check", move |_, _| {
        let is_first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if is_first { Err(Failure::function("once")) } else { Ok("checked") } }
    })
}

fn lines(run: &WorkflowRunOutput) -> Vec<(&str, u64)> {
    let steps = run.metrics.iter().flat_map(|metrics| &metrics.steps);
    steps.map(|(name, step)| (&**name, step.metrics.as_ref().unwrap().usage.total_tokens)).collect()
}

#[tokio::test]
async fn what_was_repeated_skipped_or_came_to_nothing_is_counted_once_each() {
    let retried = || failing("Retried", 1).retry(Retry::times(1));
    let nested = Workflow::builder("Inner").step(asking("Deep")).step(asking("Deep too")).definition().unwrap();
    let around = Step::new("Around").workflow(Workflow::builder("In").step(asking("Same")).definition().unwrap());
    let refused = agent("Refused").pre_hook(Hook::new("no", |_, _| async { Err::<(), _>(CheckError::new("no")) }));
    let member = agent("Member");
    let call = ToolCall::new("call_1", "delegate_task_to_member", r#"{"member_id":"member","task":"x"}"#);
    let leader = [ModelResponse { tool_calls: vec![call], ..reply("") }, reply("joined")];
    let team = Team::new("Team").model(ScriptedModel::replies(leader)).member(member);
    let team = team.post_hook(Hook::new("no", |_, _| async { Err::<(), _>(CheckError::new("no")) }));

    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("usage.db"));
    let mut spent = 0;
    let cases: [(&str, Workflow, Calls); 10] = [
        ("repeated", build(&db, Loop::new("Loop").step(asking("Again")).max_iterations(3)), &[("Again", 3)]),
        ("of one name", build(&db, Steps::new("S").step(asking("Same")).step(around)), &[("Same", 2)]),
        ("tried again", build(&db, retried()), &[("Retried", 2)]),
        ("skipped", build(&db, failing("Skipped", 9).on_error(OnError::Skip)), &[("Skipped", 1)]),
        ("failed", build(&db, failing("Failed", 9)), &[("Failed", 1)]),
        ("beside a failure", build(&db, Steps::new("S").step(asking("Good")).step(fails_once())), &[("Good", 1)]),
        (
            "in what was tried again",
            build(&db, Steps::new("S").step(asking("Good")).step(fails_once()).retry(Retry::times(1))),
            &[("Good", 2)],
        ),
        ("nested", build(&db, Step::new("Outer").workflow(nested)), &[("Deep", 1), ("Deep too", 1)]),
        ("refused", build(&db, Step::new("Refused").agent(refused)), &[("Refused", 0)]),
        ("a team that failed", build(&db, Step::new("Team").team(team)), &[("Team", 3)]),
    ];
    for (what, workflow, expected) in cases {
        let run = workflow.run("go").session_id("all").background().await.unwrap();
        let ended = run.wait().await.unwrap();
        let expected: Vec<_> = expected.iter().map(|(name, calls)| (*name, calls * CALL)).collect();
        assert_eq!(lines(&ended), expected, "{what}");
        let line = ended.metrics.as_ref().unwrap().steps.values().next().unwrap();
        assert!(line.metrics.as_ref().unwrap().duration.is_some(), "{what}");
        spent += expected.iter().map(|(_, tokens)| tokens).sum::<u64>();
        let total = ended.metrics.as_ref().unwrap().total().unwrap();
        let by_model: u64 = total.details.values().flatten().map(|model| model.usage.total_tokens).sum();
        assert_eq!(total.usage.total_tokens, by_model, "{what}");
        assert_eq!(workflow.get_session_metrics("all").await.unwrap().usage.total_tokens, spent, "{what}");
        workflow.shutdown().await.unwrap();
    }
}

fn build(db: &SqliteDb, node: impl Into<outlive::core::Block>) -> Workflow {
    Workflow::builder("Counted").db(db.clone()).step(node).build().unwrap()
}

#[tokio::test]
async fn what_a_person_judges_is_counted_while_it_is_judged_and_when_it_is_made_again() {
    let review = HumanReview::output("Is it good?").on_reject(OnReject::Retry);
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("judged.db"));
    let make = || {
        let drafts = Parallel::new("Drafts").step(asking("Draft").human_review(review.clone())).step(asking("Beside"));
        Workflow::builder("Judged").db(db.clone()).step(drafts).build().unwrap()
    };
    let workflow = make();
    let run = workflow.run("go").session_id("judged").background().await.unwrap();
    let paused = run.wait().await.unwrap();
    assert_eq!(paused.status, RunStatus::Paused);
    assert_eq!(lines(&paused), [("Beside", CALL), ("Draft", CALL)]);
    workflow.shutdown().await.unwrap();
    // Counted once, whoever goes on.
    let workflow = make();
    let run = workflow.attach(paused.run_id).await.unwrap();
    for (says_yes, calls) in [(false, 2), (true, 2)] {
        let question = run.questions().await.unwrap().remove(0);
        let judged = question.by("ada");
        if says_yes { judged.approve().await } else { judged.reject("too dull").await }.unwrap();
        let stands = run.wait().await.unwrap();
        assert_eq!(lines(&stands), [("Beside", CALL), ("Draft", calls * CALL)]);
    }
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
    assert_eq!(workflow.get_session_metrics("judged").await.unwrap().usage.total_tokens, 3 * CALL);
    workflow.shutdown().await.unwrap();
}
