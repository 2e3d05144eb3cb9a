//! What runs take on disk, beside what they contain; and what a step costs in a run of many.

use crate::measure::{Arguments, folder, report, rounded};
use outlive::core::{Definition, DefinitionId, Message, ModelResponse, RunOutput, ToolCall};
use outlive::engine::Submit;
use outlive::prelude::*;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const ANSWER_BYTES: usize = 1_500;

pub(crate) async fn measure(arguments: &Arguments) {
    let n = arguments.number("n", 2_000);
    let no_ops = taken(Arc::new(lines(3)), n).await;
    let team = taken(Arc::new(team()), n.div_ceil(4)).await;
    report(&json!({ "workload": "D1", "n": n, "no_op": no_ops, "team": team }));
}

pub(crate) async fn long_lines(arguments: &Arguments) {
    let mut figures = json!({ "workload": "D2" });
    for steps in arguments.numbers("steps", "1000,10000") {
        let definition = Arc::new(lines(steps));
        let engine = engine(&folder().join(format!("line-{steps}.db")), &definition).await;
        let begun = Instant::now();
        run(&engine, &definition.id, "x".repeat(20)).await;
        let step_ms = begun.elapsed().as_secs_f64() * 1e3 / steps as f64;
        figures[steps.to_string()] = json!({ "ms_per_step": rounded(step_ms) });
        engine.shutdown().await.expect("the store works");
    }
    report(&figures);
}

/// Bytes on disk for each of `n` runs more, and the bytes of what one contains.
async fn taken(definition: Arc<Definition>, n: usize) -> Value {
    let path = folder().join(format!("{}.db", definition.id));
    let mut sizes = Vec::new();
    let mut contents = 0;
    for runs in [n.div_ceil(10), n] {
        let engine = engine(&path, &definition).await;
        for number in 0..runs {
            let ended = run(&engine, &definition.id, format!("input {number} {}", "x".repeat(100))).await;
            contents = content_bytes(&ended);
        }
        engine.shutdown().await.expect("the store works");
        drop(engine);
        sizes.push(size_of(&path));
    }
    json!({ "bytes_per_run": ((sizes[1] - sizes[0]) as f64 / n as f64).round(), "content_bytes": contents })
}

/// The file's size once its log has been written back.
fn size_of(path: &Path) -> u64 {
    let sql = rusqlite::Connection::open(path).expect("the store is there");
    sql.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("nobody else uses it");
    drop(sql);
    std::fs::metadata(path).expect("the store is there").len()
}

async fn engine(path: &Path, definition: &Arc<Definition>) -> Engine {
    let builder = Engine::builder(Arc::new(SqliteDb::new(path))).workflow(definition.clone());
    builder.start().await.expect("the store opens")
}

async fn run(engine: &Engine, id: &DefinitionId, input: String) -> WorkflowRunOutput {
    let submit = Submit { input: Some(Value::String(input)), ..Submit::default() };
    engine.submit(id, submit).await.expect("it is accepted").wait().await.expect("it ends")
}

fn lines(steps: usize) -> Definition {
    let step = |number: usize| {
        Step::function(format!("s{number}"), |_, input: Arc<StepInput>| async move { Ok::<_, Failure>(input.text()) })
    };
    let builder = (0..steps).fold(Definition::builder(format!("line of {steps}")), |builder, n| builder.step(step(n)));
    builder.build().expect("the workloads are sound")
}

/// A leader that delegates to both of its members and sums up; one of them uses a tool.
fn team() -> Definition {
    let answer = |who: &str| ModelResponse::text(format!("{who} {}", "answers at length ".repeat(ANSWER_BYTES / 18)));
    let asks = |calls: Vec<(&str, &str, Value)>| {
        let calls = calls.into_iter().map(|(id, name, arguments)| ToolCall::new(id, name, arguments.to_string()));
        ModelResponse::calls(calls.collect())
    };
    let delegate = |member: &str| json!({ "member_id": member, "task": format!("look into it, {member}") });
    let (first, last) = (answer("writer"), answer("leader"));
    let second = answer("critic");
    let has_results = |messages: &[Message]| messages.iter().any(|message| message.tool_call_id.is_some());
    let writer = Agent::new("Writer").model(ScriptedModel::from_fn("m", move |_| Ok(first.clone())));
    let found = || "found ".repeat(ANSWER_BYTES / 6);
    let search =
        Tool::new("search", "Looks something up.", move |topic: HashMap<String, String>, _: ToolContext| async move {
            Ok::<_, std::convert::Infallible>(format!("{topic:?}: {}", found()))
        });
    let critic = Agent::new("Critic").tool(search).model(ScriptedModel::from_fn("m", move |request| {
        let is_done = has_results(&request.messages);
        Ok(if is_done { second.clone() } else { asks(vec![("c1", "search", json!({ "topic": "everything" }))]) })
    }));
    let leader = ScriptedModel::from_fn("m", move |request| {
        let calls = || {
            asks(vec![
                ("d1", "delegate_task_to_member", delegate("writer")),
                ("d2", "delegate_task_to_member", delegate("critic")),
            ])
        };
        Ok(if has_results(&request.messages) { last.clone() } else { calls() })
    });
    let team = Team::new("Pair").member(writer).member(critic).model(leader).instructions("Write, then criticise.");
    Definition::builder("pair").step(Step::new("Work").team(team)).build().expect("the workloads are sound")
}

/// Input, messages, arguments and results, each once.
fn content_bytes(run: &WorkflowRunOutput) -> usize {
    fn collect(run: &RunOutput, texts: &mut HashSet<String>) {
        for message in &run.messages {
            texts.extend(message.content.clone());
            texts.extend(message.tool_calls.iter().map(|call| call.function.arguments.clone()));
        }
        texts.extend(run.tools.iter().filter_map(|tool| tool.result.clone()));
        run.member_responses.iter().for_each(|member| collect(member, texts));
    }
    let mut texts: HashSet<String> = run.input.iter().map(|input| outlive::core::content_text(Some(input))).collect();
    run.step_executor_runs.iter().for_each(|run| collect(run, &mut texts));
    texts.iter().map(String::len).sum()
}
