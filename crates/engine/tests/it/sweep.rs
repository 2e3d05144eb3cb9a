//! A crash after each entry, and before.

use crate::stage::{Calls, append, swept, workflow};
use outlive_core::port::StepContext;
use outlive_core::{
    Condition, Definition, Failure, ForEach, HumanReview, Loop, OnError, Parallel, Retry, Router, Step, StepInput,
    StepOutput, Steps,
};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_chain_of_functions_survives_a_crash_at_every_entry() {
    let calls = Calls::default();
    let build = || workflow([append("a", &calls), append("b", &calls), append("c", &calls)]);
    let sweep = swept(&calls, build).await;
    assert_eq!((sweep.entries, sweep.crashes), (11, 22));
    assert!(sweep.repeated_calls > 0, "a crash between intent and result repeats the call");
}

#[tokio::test(start_paused = true)]
async fn retries_state_and_an_early_stop_survive_a_crash_at_every_entry() {
    let calls = Calls::default();
    let build = || {
        let counted = calls.clone();
        let flaky = Step::function("flaky", move |context, _: Arc<StepInput>| {
            counted.note();
            async move {
                match context.step.attempt {
                    1 | 2 => Err(Failure::function("not yet")),
                    attempt => {
                        context.state.set("attempts", attempt);
                        Ok("there")
                    }
                }
            }
        });
        let counted = calls.clone();
        let stop = Step::function("stop", move |context, input: Arc<StepInput>| {
            counted.note();
            async move {
                Ok::<_, Failure>(StepOutput::stop(format!(
                    "{} {}",
                    input.text(),
                    context.state.get("attempts").unwrap()
                )))
            }
        });
        workflow([flaky.retry(Retry::times(2).backoff(Duration::from_secs(60))), stop, append("never", &calls)])
    };
    let sweep = swept(&calls, build).await;
    assert!(sweep.entries >= 7, "{sweep:?}");
}

/// Every kind of container, and most of them inside each other.
fn every_kind(calls: &Calls) -> Arc<Definition> {
    let append = |name| append(name, calls);
    let failing = |name, error: fn() -> Failure, fails: u32| {
        let counted = calls.clone();
        Step::function(name, move |context, input: Arc<StepInput>| {
            counted.note();
            async move {
                context.state.set(name, context.step.attempt);
                if context.step.attempt <= fails { Err(error()) } else { Ok(format!("{} {name}", input.text())) }
            }
        })
    };
    let inner = Definition::builder("Inner").step(append("inner")).build().unwrap();
    let flaky = failing("flaky", || Failure::function("not yet"), 1).retry(Retry::times(1));
    let lost = Steps::new("lost").step(append("l1")).step(failing("l2", || Failure::fatal("never"), 9));
    let condition = Condition::new("cond").when(|question| question.text().len() > 1).step(append("c1"));
    let parallel = Parallel::new("par")
        .step(Steps::new("group").step(flaky).step(append("g2")))
        .step(lost.on_error(OnError::Skip))
        .step(condition.otherwise(append("c2")))
        .step(Step::new("nested").workflow(Arc::new(inner)));
    let repeated = Loop::new("loop").step(parallel).step(append("after")).max_iterations(3);
    let router = Router::new("router").select(|_| ["r2", "r1"]).choice(append("r1")).choice(append("r2"));
    let each = ForEach::new("each").items(|_| ["one", "two", "three"]).concurrency(2).step(append("item"));
    let builder = Definition::builder("Example").step(repeated.until(|question| question.iteration == 2));
    Arc::new(builder.step(router).step(each).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_container_survives_a_crash_at_every_entry() {
    let calls = Calls::default();
    let sweep = swept(&calls, || every_kind(&calls)).await;
    assert!(sweep.entries > 70, "{sweep:?}");
    assert!(sweep.repeated_calls > 0, "{sweep:?}");
}

/// A step that asks before it begins, one whose output is judged, and a function that asks: in branches, and in items.
fn asking(calls: &Calls) -> Arc<Definition> {
    let asks = |name: &'static str| {
        let calls = calls.clone();
        Step::function(name, move |context: StepContext, input: Arc<StepInput>| {
            calls.note();
            async move {
                let answer = context.ask("go", HumanReview::confirmation("Go?")).await?;
                context.state.set(input.text(), name);
                Ok::<_, Failure>(format!("{} {answer:?}", input.text()))
            }
        })
    };
    let confirmed = |name| append(name, calls).human_review(HumanReview::confirmation("Begin?"));
    let judged = |name| append(name, calls).human_review(HumanReview::output("Fine?"));
    let people = Parallel::new("people").step(confirmed("p1")).step(judged("p2")).step(asks("p3"));
    let body = Steps::new("body").step(confirmed("i1")).step(asks("i2")).step(judged("i3"));
    let asked = ForEach::new("asked").items(|_| ["one", "two"]).concurrency(2).step(body);
    Arc::new(Definition::builder("Example").step(people).step(asked).build().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_people_are_asked_in_branches_and_items_survives_a_crash_at_every_entry() {
    let calls = Calls::default();
    let sweep = swept(&calls, || asking(&calls)).await;
    assert!(sweep.entries > 50, "{sweep:?}");
}

/// A function whose calls and sleep are recorded, in a branch beside another and alone.
fn calling(name: &'static str, calls: &Calls, fails: u32) -> Step {
    let calls = calls.clone();
    let step = Step::function(name, move |context: StepContext, input: Arc<StepInput>| {
        let calls = calls.clone();
        async move {
            let call = |name| {
                let (context, calls) = (&context, &calls);
                let made = move || async move {
                    calls.note();
                    Ok(format!("made {name}"))
                };
                async move { context.once::<String, _, _>(name, made).await }
            };
            let first = call("first").await?;
            context.sleep("short", Duration::from_secs(1)).await?;
            context.sleep("long", Duration::from_secs(60)).await?;
            let second = call("second").await?;
            if context.step.attempt <= fails {
                return Err(Failure::function("not yet"));
            }
            Ok(format!("{} {first} {second}", input.text()))
        }
    });
    step.retry(Retry::times(1).backoff(Duration::from_secs(60)))
}

#[tokio::test(start_paused = true)]
async fn named_calls_and_sleeps_survive_a_crash_at_every_entry() {
    let calls = Calls::default();
    let build = || {
        let says = Step::function("says", |context: StepContext, input: Arc<StepInput>| async move {
            context.say(input.text());
            context.sleep("long", Duration::from_secs(60)).await?;
            context.say(" and more");
            Ok::<_, Failure>(())
        });
        let beside = Parallel::new("beside").step(calling("one", &calls, 0)).step(calling("two", &calls, 1)).step(says);
        Arc::new(Definition::builder("Example").step(calling("alone", &calls, 1)).step(beside).build().unwrap())
    };
    let sweep = swept(&calls, build).await;
    assert!(sweep.entries > 30, "{sweep:?}");
    assert!(sweep.repeated_calls > 0, "some calls were in flight: {sweep:?}");
}
