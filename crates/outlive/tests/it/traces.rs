//! Traces as a collector receives them: a server that speaks OTLP decodes what arrives. Whatever people or models say here
//! contains the word `canary`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use outlive::core::port::{Db, Observer};
use outlive::core::{
    DefinitionId, Entry, EventKind, ModelRequest, ModelResponse, Origin, Role, RunEvent, RunInfo, SessionId, ToolCall,
    Usage,
};
use outlive::engine::Submit;
use outlive::engine::testing::{Moment, TroubledDb, read_log};
use outlive::prelude::*;
use outlive::{Options, Otlp, RunId};
use prost::Message;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const RUN: &str = "0193e5a0-7c1d-7000-8000-0000000000aa";

/// How the collector answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    Refuses,
    /// Never answers.
    Hangs,
}

#[derive(Clone)]
struct Collector {
    url: String,
    manner: Manner,
    bodies: Arc<Mutex<Vec<Bytes>>>,
}

impl Collector {
    async fn start(manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let collector = Self { url, manner, bodies: Arc::default() };
        let router = Router::new().route("/v1/traces", post(Self::take)).with_state(collector.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        collector
    }

    async fn take(State(collector): State<Self>, headers: HeaderMap, body: Bytes) -> StatusCode {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        match collector.manner {
            Manner::Takes => {
                collector.bodies.lock().unwrap().push(body);
                StatusCode::OK
            }
            Manner::Refuses => StatusCode::BAD_REQUEST,
            Manner::Hangs => std::future::pending().await,
        }
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    fn holds(&self, text: &str) -> bool {
        let bodies = self.bodies.lock().unwrap();
        bodies.iter().any(|body| body.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    fn otlp(&self) -> Otlp {
        Otlp::to(&self.url).unwrap()
    }
}

#[derive(schemars::JsonSchema, serde::Deserialize)]
struct Look {
    topic: String,
}

/// Decides from the conversation alone, as a real model would: delegate to both, look once, then answer.
fn script(request: &ModelRequest) -> ModelResponse {
    let has_tool = |name: &str| request.tools.iter().any(|tool| tool.name == name);
    let has_results = request.messages.iter().any(|message| message.role == Role::Tool);
    let call = |id: &str, name: &str, arguments: serde_json::Value| ToolCall::new(id, name, arguments.to_string());
    let delegate = |member: &str| {
        let arguments = json!({ "member_id": member, "task": "the canary's task" });
        call(&format!("call-{member}"), "delegate_task_to_member", arguments)
    };
    let response = if has_results {
        ModelResponse::text("the canary's answer")
    } else if has_tool("delegate_task_to_member") {
        ModelResponse::calls(vec![delegate("hackernews-agent"), delegate("finance-agent")])
    } else if has_tool("look") {
        ModelResponse::calls(vec![call("call-look", "look", json!({ "topic": "the canary's topic" }))])
    } else {
        ModelResponse::text("the canary's plan")
    };
    ModelResponse {
        usage: Usage { input_tokens: 11, output_tokens: 7, total_tokens: 18, ..Usage::default() },
        ..response
    }
}

fn content_creation() -> Workflow {
    let model = ScriptedModel::from_fn("scripted-1", |request| Ok(script(request))).chunks(3);
    let look = Tool::new("look", "Looks into a topic", |look: Look, _| async move {
        Ok::<_, Failure>(format!("the canary's result about {}", look.topic))
    });
    let member = |name: &str| Agent::new(name).model(model.clone()).tool(look.clone());
    let team = Team::new("Research Team").members([member("Hackernews Agent"), member("Finance Agent")]);
    let planner = Agent::new("Content Planner").model(model.clone()).instructions("the canary's instructions");
    Workflow::builder("Content Creation Workflow")
        .db(InMemoryDb::new())
        .step(Step::new("Research Step").team(team))
        .step(Step::new("Content Planning Step").agent(planner))
        .build()
        .unwrap()
}

/// One process on the store.
async fn process(db: Arc<dyn Db>, otlp: &Otlp) -> Engine {
    let options = Options { scan_period: Duration::from_millis(20), ..Options::default() };
    let builder = Engine::builder(db).workflow(content_creation().definition().clone()).options(options);
    builder.observer(Arc::new(otlp.clone())).start().await.unwrap()
}

async fn submit(engine: &Engine) -> RunHandle {
    let workflow_id = DefinitionId::parse("content-creation-workflow").unwrap();
    let submit = Submit {
        input: Some(json!("the canary's input")),
        run_id: Some(RUN.to_owned()),
        session_id: Some("session-1".to_owned()),
        ..Submit::default()
    };
    engine.submit(&workflow_id, submit).await.unwrap()
}

fn attribute<'s>(span: &'s Span, name: &str) -> Option<&'s Any> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name)?;
    attribute.value.as_ref()?.value.as_ref()
}

fn text<'s>(span: &'s Span, name: &str) -> Option<&'s str> {
    match attribute(span, name)? {
        Any::StringValue(text) => Some(text),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One trace of this run: one root, every parent there, and no span in two shapes.
fn assert_one_trace(spans: &[Span], what: &str) -> BTreeMap<Vec<u8>, Span> {
    let mut tree = BTreeMap::new();
    for span in spans {
        assert_eq!(hex(&span.trace_id), RUN.replace('-', ""), "{what}");
        let known = tree.insert(span.span_id.clone(), span.clone());
        assert!(known.is_none_or(|known| known == *span), "{what}: {span:?} has two shapes");
    }
    let roots: Vec<_> = tree.values().filter(|span| span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{what}: {roots:?}");
    for span in tree.values().filter(|span| !span.parent_span_id.is_empty()) {
        assert!(tree.contains_key(&span.parent_span_id), "{what}: {span:?} has no parent");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{what}: {span:?}");
    }
    tree
}

/// The names on the way from the root to each span that was not aborted.
fn places(tree: &BTreeMap<Vec<u8>, Span>) -> Vec<String> {
    fn place(tree: &BTreeMap<Vec<u8>, Span>, span: &Span) -> String {
        match tree.get(&span.parent_span_id) {
            None => span.name.clone(),
            Some(parent) => format!("{} > {}", place(tree, parent), span.name),
        }
    }
    let is_whole = |span: &&Span| text(span, "error.type") != Some("attempt_aborted");
    let mut places: Vec<_> = tree.values().filter(is_whole).map(|span| place(tree, span)).collect();
    places.sort();
    places
}

#[tokio::test]
async fn a_run_is_one_trace_by_the_conventions_and_without_a_word_that_was_said() {
    let collector = Collector::start(Manner::Takes).await;
    let db = InMemoryDb::new();
    let engine = process(Arc::new(db.clone()), &collector.otlp()).await;
    let run = submit(&engine).await;
    assert_eq!(run.wait().await.unwrap().status, RunStatus::Completed);
    engine.shutdown().await.unwrap();
    let tree = assert_one_trace(&collector.spans(), "undisturbed");

    let named = |name: &str| tree.values().filter(|span| span.name == name).collect::<Vec<_>>();
    let models = named("chat scripted-1");
    assert_eq!(models.len(), 7);
    for span in &models {
        assert_eq!(span.kind(), SpanKind::Client);
        assert_eq!(text(span, "gen_ai.operation.name"), Some("chat"));
        assert_eq!(text(span, "gen_ai.request.model"), Some("scripted-1"));
        assert_eq!(attribute(span, "gen_ai.usage.input_tokens"), Some(&Any::IntValue(11)));
        assert_eq!(attribute(span, "gen_ai.usage.output_tokens"), Some(&Any::IntValue(7)));
    }
    let root = named("invoke_workflow Content Creation Workflow")[0];
    assert_eq!(text(root, "outlive.run_id"), Some(RUN));
    assert_eq!(text(root, "gen_ai.conversation.id"), Some("session-1"));
    assert_eq!(text(named("invoke_agent Finance Agent")[0], "gen_ai.agent.name"), Some("Finance Agent"));
    assert_eq!(text(named("execute_tool look")[0], "gen_ai.tool.call.id"), Some("call-look"));
    let around = |span: &Span| tree[&span.parent_span_id].name.clone();
    assert_eq!(around(named("invoke_agent Finance Agent")[0]), "execute_tool delegate_task_to_member");
    assert_eq!(around(named("execute_tool look")[0]).split(' ').next(), Some("invoke_agent"));

    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
    assert_eq!(service.value.as_ref().unwrap().value, Some(Any::StringValue("outlive".to_owned())));
    let log = read_log(&db, run.run_id()).await;
    assert!(serde_json::to_string(&log).unwrap().matches("canary").count() > 20, "the log has much to hide");
    assert!(!collector.holds("canary"));
    assert!(collector.holds("Finance Agent"), "names are found in the same bytes");
}

#[tokio::test]
async fn a_trace_goes_on_in_the_process_that_takes_the_run_over() {
    let entries = {
        let (db, otlp) = (InMemoryDb::new(), Otlp::to("http://127.0.0.1:9/v1/traces").unwrap());
        let engine = process(Arc::new(db.clone()), &otlp).await;
        let run = submit(&engine).await;
        run.wait().await.unwrap();
        engine.kill();
        read_log(&db, run.run_id()).await.len() as u64
    };
    let mut expected = None;
    let mut aborted = BTreeSet::new();
    for index in 1..entries {
        let collector = Collector::start(Manner::Takes).await;
        let db = InMemoryDb::new();
        let crashing = TroubledDb::crashing(Arc::new(db.clone()), index, Moment::After);
        let first = collector.otlp();
        let engine = process(crashing.clone(), &first).await;
        let run = submit(&engine).await;
        crashing.crashed().await;
        // Every other process has sent what it knew before it died; the others take it with them.
        if index % 2 == 0 {
            first.flush().await;
        }
        let worker = engine.worker();
        engine.kill();
        db.crash(&worker);
        let log = read_log(&db, run.run_id()).await;
        if log.last().is_some_and(|entry| entry.event.is_terminal()) {
            // Nobody takes up a run that ended, so what its last commit would have sent is lost with its process.
            assert!(index > entries - 10, "the last commit holds few entries");
            break;
        }

        let engine = process(Arc::new(db.clone()), &collector.otlp()).await;
        let ended = engine.attach(run.run_id().clone()).wait().await.unwrap();
        assert_eq!(ended.status, RunStatus::Completed);
        engine.shutdown().await.unwrap();
        let what = format!("crash after entry {index} of {entries}");
        let tree = assert_one_trace(&collector.spans(), &what);
        assert_eq!(*expected.get_or_insert_with(|| places(&tree)), places(&tree), "{what}");
        for span in tree.values().filter(|span| text(span, "error.type") == Some("attempt_aborted")) {
            assert_eq!(span.status.as_ref().unwrap().code(), SpanStatus::Error);
            aborted.insert(span.name.clone());
        }
        assert!(!collector.holds("canary"), "{what}");
    }
    let both = ["chat scripted-1", "execute_tool look"].map(str::to_owned);
    assert_eq!(aborted, BTreeSet::from(both), "calls of both kinds were cut off by some crash");
}

fn shout(otlp: &Otlp) -> Workflow {
    Workflow::builder("Shout")
        .db(InMemoryDb::new())
        .observer(otlp.clone())
        .function(|_, input| async move { Ok::<_, Failure>(input.text().to_uppercase()) })
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_collector_that_refuses_costs_spans_and_nothing_else() {
    let collector = Collector::start(Manner::Refuses).await;
    let otlp = collector.otlp();
    let workflow = shout(&otlp);
    assert_eq!(workflow.run("hello").await.unwrap().text(), "HELLO");
    workflow.shutdown().await.unwrap();
    assert_eq!(otlp.dropped(), 2, "the step's and the run's");
}

#[tokio::test]
async fn a_collector_that_never_answers_slows_no_run() {
    let collector = Collector::start(Manner::Hangs).await;
    let otlp = collector.otlp();
    let workflow = shout(&otlp);
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(workflow.run("hello").await.unwrap().text(), "HELLO");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "half of the time that one request to the collector may take");
}

fn ended_run(number: usize) -> (Arc<RunInfo>, [Entry; 2]) {
    let run = Arc::new(RunInfo {
        run_id: RunId::parse(&format!("run-{number}")).unwrap(),
        workflow_id: DefinitionId::parse("shout").unwrap(),
        workflow_name: Arc::from("Shout"),
        session_id: SessionId::parse("session-1").unwrap(),
        user_id: None,
    });
    let entry =
        |kind| Entry::event(RunEvent { created_at: 1, kind, origin: Origin::workflow(&run), event_index: None });
    let log = [entry(EventKind::WorkflowStarted), entry(EventKind::WorkflowCompleted(Box::default()))];
    (run, log)
}

#[tokio::test]
async fn spans_that_nobody_takes_are_dropped_and_counted_rather_than_kept() {
    const SPANS: usize = 20_000;
    // What waits, and what is on its way.
    const KEPT_MAX: usize = 8192 + 512;
    let collector = Collector::start(Manner::Hangs).await;
    let otlp = collector.otlp();
    for number in 0..SPANS {
        let (run, log) = ended_run(number);
        otlp.witness(&run).unwrap().committed(&log);
    }
    assert!(otlp.dropped() >= (SPANS - KEPT_MAX) as u64, "{}", otlp.dropped());
    assert!(otlp.dropped() < SPANS as u64);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_collector_that_never_answers_but_not_for_ever() {
    let collector = Collector::start(Manner::Hangs).await;
    let otlp = collector.otlp();
    let (run, log) = ended_run(1);
    otlp.witness(&run).unwrap().committed(&log);
    let began = tokio::time::Instant::now();
    otlp.flush().await;
    assert_eq!((began.elapsed().as_secs(), otlp.dropped()), (5, 0), "the request is still under way");
    // The exporter counts its own time by a clock that does not stand still, and so repeats the request for a while.
    for _ in 0..60 {
        otlp.flush().await;
    }
    assert_eq!(otlp.dropped(), 1, "a request has a limit too");
}

#[tokio::test]
async fn without_an_endpoint_nobody_listens() {
    // The environment of tests names no collector.
    let otlp = Otlp::from_env().unwrap();
    assert!(!otlp.is_on());
    assert!(otlp.witness(&ended_run(1).0).is_none());
    otlp.flush().await;
    assert_eq!(otlp.dropped(), 0);
}

#[test]
fn an_address_that_cannot_be_read_is_refused_and_not_repeated() {
    let refused = Otlp::to("collector:4318/hunter2").unwrap_err().to_string();
    assert_eq!(
        refused,
        "cannot send traces: the collector's address is not an address: write it like http://127.0.0.1:4318"
    );
}
