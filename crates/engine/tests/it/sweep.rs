//! A crash after each entry, and before.

use crate::stage::{Calls, MemoryStage, append, workflow};
use outlive_core::{Failure, Retry, Step, StepInput, StepOutput};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, Subject, crash_after_each_entry};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_chain_of_functions_survives_a_crash_at_every_entry() {
    let calls = Calls::default();
    let build = || workflow([append("a", &calls), append("b", &calls), append("c", &calls)]);
    let subject = Subject {
        build: &build,
        input: json!("hi"),
        clock: Arc::new(SimulatedClock::start()),
        calls: &|| calls.count(),
    };
    let sweep = crash_after_each_entry(|| MemoryStage(InMemoryDb::new()), subject).await;
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
    let subject = Subject {
        build: &build,
        input: json!("hi"),
        clock: Arc::new(SimulatedClock::start()),
        calls: &|| calls.count(),
    };
    let sweep = crash_after_each_entry(|| MemoryStage(InMemoryDb::new()), subject).await;
    assert!(sweep.entries >= 7, "{sweep:?}");
}
