//! JSON as deep as a model can write it: into the log, out of it again, and through a process that goes on with it. What is
//! deeper is refused where it comes in.

use crate::world::{KEY, World};
use outlive::agent::testing::PlannedAnswer;
use outlive::client::{Client, ClientError, Submission};
use outlive::core::EventKind;
use outlive::engine::Error as EngineError;
use outlive::prelude::*;
use outlive::{Error, Options, Server};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
/// Depths that must pass; where serde_json gives up by itself lies among them.
const HELD: [usize; 8] = [1, 100, 126, 127, 128, 200, 511, 512];
const TOO_DEEP: [usize; 3] = [513, 600, 3000];

/// An object that is so deep, with arrays in it.
fn nested(depth: usize) -> Value {
    (0..depth).rev().fold(json!("core"), |inner, level| match level % 2 {
        0 => Value::Object(Map::from_iter([("a".to_owned(), inner)])),
        _ => Value::Array(vec![inner]),
    })
}

/// The same as text, which needs no recursion.
fn nested_text(depth: usize) -> String {
    let open: String = (0..depth).map(|level| if level % 2 == 0 { r#"{"a":"# } else { "[" }).collect();
    let close: String = (0..depth).rev().map(|level| if level % 2 == 0 { "}" } else { "]" }).collect();
    format!("{open}\"core\"{close}")
}

/// Without a recursion on the way out.
fn take_apart(mut value: Value) {
    outlive::core::json::admit(&mut value).unwrap_err();
}

fn is_too_deep(error: &impl std::fmt::Display) -> bool {
    error.to_string().contains("more than 512 levels")
}

/// Keeps its input in the session's state, tells it, gives it back; the second step does so with what the first gave.
fn keeper(db: SqliteDb, gate: &Arc<Semaphore>) -> Workflow {
    let gate = gate.clone();
    let keep = |context: StepContext, input: Arc<StepInput>| async move {
        let value = input.input.as_deref().cloned().unwrap_or_default();
        context.state.set("kept", value.clone());
        context.progress("kept", Some(value.clone()));
        context.event(Map::from_iter([("value".to_owned(), value.clone())]));
        Ok::<_, Failure>(StepOutput::new(value))
    };
    let go_on = move |context: StepContext, input: Arc<StepInput>| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.map_err(Failure::fatal)?.forget();
            assert_eq!(context.state.get("kept"), input.input.as_deref().cloned(), "the state is what it was");
            Ok::<_, Failure>(StepOutput::new(input.previous_step_content.clone().unwrap_or_default()))
        }
    };
    let options = Options { shutdown_grace: Duration::ZERO, ..Options::default() };
    let builder = Workflow::builder("Keeper").db(db).options(options);
    builder.step(Step::function("keep", keep)).step(Step::function("go on", go_on)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_workflow_is_given_and_makes_is_stored_and_read_by_the_next_process() {
    for depth in HELD {
        let folder = tempfile::tempdir().unwrap();
        let db = || SqliteDb::new(folder.path().join("runs.db"));
        let gate = Arc::new(Semaphore::new(0));
        let first = keeper(db(), &gate);
        let request = first.run(nested(depth)).run_id("r").session_id("s").additional_data(nested(depth));
        let state = Map::from_iter([("initial".to_owned(), nested(depth))]);
        let run = request.session_state(state).background().await.unwrap();
        let mut events = run.events(None);
        while events.next().await.unwrap().unwrap().origin.step_name.as_deref() != Some("go on") {}
        first.shutdown().await.unwrap();

        gate.add_permits(1);
        let second = keeper(db(), &gate);
        let output = timeout(PATIENCE, second.attach("r").await.unwrap().wait()).await.unwrap().unwrap();
        assert_eq!((output.status, output.content.as_ref()), (RunStatus::Completed, Some(&nested(depth))), "{depth}");
        assert_eq!(output.input, Some(nested(depth)));
        assert_eq!(second.get_run("r").await.unwrap().unwrap(), output);
        let engine = second.engine().await.unwrap();
        let session = engine.session(&output.session_id).await.unwrap().unwrap();
        assert_eq!((&session.state["initial"], &session.state["kept"]), (&nested(depth), &nested(depth)));
        let log = engine.events(&output.run_id, None).stored().await.unwrap();
        let told = |event: &outlive::RunEvent| match &event.kind {
            EventKind::StepProgress { data, .. } => data.clone(),
            EventKind::CustomEvent { fields } => fields.get("value").cloned(),
            _ => None,
        };
        assert_eq!(log.iter().filter_map(told).collect::<Vec<_>>(), [nested(depth), nested(depth)]);
        second.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_deep_to_be_stored_is_refused_before_a_run_exists() {
    let workflow =
        keeper(SqliteDb::new(tempfile::tempdir().unwrap().path().join("runs.db")), &Arc::new(Semaphore::new(0)));
    for depth in TOO_DEEP {
        let state = Map::from_iter([("initial".to_owned(), nested(depth))]);
        let of = |what: &str| workflow.run("x").run_id(format!("{what}-{depth}"));
        for (what, request) in [
            ("the input", workflow.run(nested(depth))),
            ("additional_data", of("data").additional_data(nested(depth))),
            ("session_state", of("state").session_state(state)),
        ] {
            let error = request.background().await.unwrap_err();
            assert!(matches!(&error, Error::Engine(EngineError::TooDeep { what: named, .. }) if *named == what));
            assert!(is_too_deep(&error), "{error}");
        }
        assert!(workflow.get_run(format!("data-{depth}")).await.unwrap().is_none());
        take_apart(nested(depth));
    }
    workflow.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_output_or_state_is_too_deep_fails_and_says_so() {
    for depth in TOO_DEEP {
        let output = move |_, _| async move { Ok::<_, Failure>(StepOutput::new(nested(depth))) };
        let state = move |context: StepContext, _| async move {
            context.state.set("deep", nested(depth));
            Ok::<_, Failure>("done")
        };
        // What is only told beside the work is told as too deep.
        let beside = move |context: StepContext, _| async move {
            context.progress("deep", Some(nested(depth)));
            context.event(Map::from_iter([("deep".to_owned(), nested(depth))]));
            Ok::<_, Failure>("done")
        };
        for (step, what) in [
            (Step::function("output", output), Some("the step's output")),
            (Step::function("state", state), Some("session's state")),
            (Step::function("beside", beside), None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let db = SqliteDb::new(folder.path().join("runs.db"));
            let workflow = Workflow::builder("Deep").db(db).step(step).build().unwrap();
            let run = workflow.run("x").background().await.unwrap();
            let output = timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
            let log = run.events(None);
            let engine = workflow.engine().await.unwrap();
            let stored = engine.events(run.run_id(), None).stored().await.unwrap();
            drop(log);
            match what {
                Some(what) => {
                    assert_eq!(output.status, RunStatus::Error);
                    assert!(output.text().contains(what) && is_too_deep(&output.text()), "{}", output.text());
                }
                None => {
                    assert_eq!(output.text(), "done");
                    let told = stored.iter().filter(|event| is_too_deep(&serde_json::to_string(event).unwrap()));
                    assert_eq!(told.count(), 2);
                }
            }
            workflow.shutdown().await.unwrap();
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct Kept {
    a: Value,
}

/// An answer of Chat Completions.
fn answer(message: &Value, finish_reason: &str) -> PlannedAnswer {
    PlannedAnswer::json(
        200,
        &json!({
            "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-5.2",
            "choices": [{ "index": 0, "message": message, "finish_reason": finish_reason }],
            "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 },
        }),
    )
}

fn says(text: &str) -> PlannedAnswer {
    answer(&json!({ "role": "assistant", "content": text }), "stop")
}

fn calls(arguments: &str) -> PlannedAnswer {
    let function = json!({ "name": "keep", "arguments": arguments });
    let call = json!({ "id": "call_1", "type": "function", "function": function });
    answer(&json!({ "role": "assistant", "content": null, "tool_calls": [call] }), "tool_calls")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_arguments_reach_the_tool_and_the_log_or_the_model_is_told() {
    let world = World::new().await;
    for depth in HELD.into_iter().chain(TOO_DEEP) {
        world.models.reset();
        world.models.answer_next(calls(&nested_text(depth)));
        world.models.answer_next(says("done"));
        let given = Arc::new(Mutex::new(Vec::new()));
        let heard = given.clone();
        let keep = Tool::new("keep", "Keeps it.", move |kept: Kept, _: ToolContext| {
            heard.lock().unwrap().push(json!({ "a": kept.a }));
            async { Ok::<_, Failure>("kept") }
        });
        let agent = Agent::new("Keeper").model(world.chat()).tool(keep);
        let workflow = world.one_agent(agent);
        let run = workflow.run("keep it").background().await.unwrap();
        let output = timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
        assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "done"), "{depth}");
        let engine = workflow.engine().await.unwrap();
        let log = engine.events(run.run_id(), None).stored().await.unwrap();
        let arguments = log.iter().find_map(|event| match &event.kind {
            EventKind::ToolCallStarted(call) => Some(call.tool.tool_args.clone()),
            _ => None,
        });
        let given = std::mem::take(&mut *given.lock().unwrap());
        let tools = &output.step_executor_runs[0].tools;
        if HELD.contains(&depth) {
            assert_eq!(given, [nested(depth)], "{depth}");
            assert_eq!((arguments, &tools[0].tool_args), (Some(nested(depth)), &nested(depth)));
        } else {
            assert!(given.is_empty(), "{depth}");
            let told = &world.models.log()[1].request.to_string();
            assert!(is_too_deep(told) && told.contains("again with valid JSON"), "{told}");
        }
        workflow.shutdown().await.unwrap();
    }
    assert!(!KEY.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_models_structured_answer_becomes_the_content_or_the_model_is_told() {
    let world = World::new().await;
    for depth in HELD.into_iter().chain(TOO_DEEP) {
        world.models.reset();
        world.models.answer_next(says(&nested_text(depth)));
        world.models.answer_next(says(r#"{"a":"flat"}"#));
        let agent = Agent::new("Keeper").model(world.chat()).output_schema::<Kept>();
        let workflow = world.one_agent(agent);
        let output = timeout(PATIENCE, workflow.run("go").into_future()).await.unwrap().unwrap();
        let expected = if HELD.contains(&depth) { nested(depth) } else { json!({ "a": "flat" }) };
        assert_eq!((output.status, output.content), (RunStatus::Completed, Some(expected)), "{depth}");
        if !HELD.contains(&depth) {
            assert!(is_too_deep(&world.models.log()[1].request.to_string()));
        }
        workflow.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sends_and_reads_it_over_http() {
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("runs.db"));
    let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let server = Server::builder(db.clone()).workflow(&keeper(db, &gate)).open_to_all().start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = server.clone();
    let serving = tokio::spawn(async move { serving.serve_on(vec![listener], std::future::pending()).await });
    let client = Client::new(&url).unwrap();
    for depth in HELD {
        let id = format!("r-{depth}");
        let submission = Submission::new("keeper").input(nested(depth)).run_id(&id).additional_data(nested(depth));
        let accepted = client.submit(&submission).await.unwrap();
        let output = timeout(PATIENCE, client.wait(&accepted.run_id)).await.unwrap().unwrap();
        assert_eq!((output.status, output.content), (RunStatus::Completed, Some(nested(depth))), "{depth}");
        let mut followed = client.follow(&accepted.run_id, None);
        let mut last = None;
        while let Some(event) = futures::StreamExt::next(&mut followed).await {
            last = Some(event.unwrap());
        }
        assert!(last.unwrap().is_terminal());
        assert_eq!(client.run(&accepted.run_id).await.unwrap().input, Some(nested(depth)));
        assert!(!client.events(&accepted.run_id, None, 100).await.unwrap().events.is_empty());
        for path in [format!("/workflows/keeper/runs/{id}"), format!("/sessions/{}/runs", output.session_id)] {
            assert_eq!(reqwest::get(format!("{url}{path}")).await.unwrap().status(), 200, "{path}");
        }
        let body = format!(r#"{{"session_id":"s-{depth}","session_state":{}}}"#, json!({ "deep": nested(depth) }));
        let made = reqwest::Client::new().post(format!("{url}/sessions?type=workflow"));
        let made = made.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(made.status(), 201, "{depth}");
    }
    for depth in TOO_DEEP.into_iter().chain([100_000]) {
        for (path, body) in [
            ("/api/runs", format!(r#"{{"workflow_id":"keeper","input":{}}}"#, nested_text(depth))),
            ("/sessions?type=workflow", format!(r#"{{"session_state":{{"deep":{}}}}}"#, nested_text(depth))),
        ] {
            let refused = reqwest::Client::new().post(format!("{url}{path}"));
            let refused = refused.header("content-type", "application/json").body(body).send().await.unwrap();
            let status = refused.status();
            let body = refused.text().await.unwrap();
            assert!(status == 400 && is_too_deep(&body), "{depth} {path}: {status} {body}");
        }
    }
    let refused = client.submit(&Submission::new("keeper").input(nested(513))).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Invalid(_)) && is_too_deep(&refused), "{refused}");
    serving.abort();
}
