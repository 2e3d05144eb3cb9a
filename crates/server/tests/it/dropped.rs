//! Clients that go away at any await of any request: what was accepted ends, what was changed is changed wholly and
//! recorded, no session and no key leads nowhere.

use crate::budgets::spends;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use outlive_core::port::{
    Access, AuditFilter, AuditKind, AuditStore, BudgetFilter, HookEvents, NewHook, QuestionFilter, RunFilter, RunStore,
    SessionStore,
};
use outlive_core::{Answer, Budget, Definition, Failure, HumanReview, RunId, RunStatus, SessionId, Step};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, TroubledDb, poll_and_drop};
use outlive_engine::{CreateBatch, CreateSchedule, Engine, ScheduleSpec, Submit};
use outlive_server::Server;
use outlive_server::auth::Verb;
use outlive_server::state::{Component, Kind};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceExt;

/// Of simulated time: longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const KEY: &str = "key-of-the-client";

/// Method, path, kind of body, body.
const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("POST", "/workflows/slow/runs", FORM, "message=hi&background=true&stream=false&session_id=asked"),
    ("POST", "/workflows/slow/runs", FORM, "message=hi&background=true&stream=true&session_id=asked"),
    ("POST", "/workflows/slow/runs", FORM, "message=hi&background=false&stream=false&session_id=asked"),
    ("POST", "/workflows/slow/runs", FORM, "message=hi&background=false&stream=true&session_id=asked"),
    ("POST", "/api/runs", JSON, r#"{"workflow_id":"slow","input":"hi","session_id":"asked"}"#),
    ("POST", "/api/runs/first/rerun", JSON, "{}"),
    ("POST", "/api/runs/first/fork", JSON, r#"{"at":0}"#),
    ("POST", "/api/runs/first/cancel", JSON, r#"{"reason":"enough"}"#),
    ("POST", "/workflows/slow/runs/first/cancel", FORM, ""),
    ("POST", "/workflows/slow/runs/first/resume", FORM, ""),
    ("GET", "/api/runs/first/output?wait=9s", JSON, ""),
    ("GET", "/api/runs/first/stream", JSON, ""),
    ("GET", "/workflows/slow/runs/first?wait=9s", JSON, ""),
    ("DELETE", "/sessions/of-first", JSON, ""),
    ("GET", "/sessions?type=workflow", JSON, ""),
    ("GET", "/ready", JSON, ""),
];

/// The same, of what [`Stage::prepare`] has made. Names in braces are known only then.
const CHANGES: &[(&str, &str, &str, &str)] = &[
    ("POST", "/agents/helper/runs", FORM, "message=hi&background=true&stream=false&session_id=asked"),
    ("POST", "/agents/helper/runs/helped/cancel", FORM, ""),
    ("POST", "/agents/helper/runs/helped/resume", FORM, ""),
    ("POST", "/teams/crew/runs", FORM, "message=hi&background=false&stream=true&session_id=asked"),
    ("POST", "/teams/crew/runs/crewed/cancel", FORM, ""),
    ("POST", "/teams/crew/runs/crewed/resume", FORM, ""),
    ("POST", "/workflows/asks/runs/paused/continue", FORM, "stream=false&step_requirements={requirements}"),
    ("POST", "/workflows/asks/runs/paused/continue", FORM, "stream=true&step_requirements={requirements}"),
    ("POST", "/api/questions/{question}/answer", JSON, r#"{"do":"approve"}"#),
    ("POST", "/sessions", JSON, r#"{"session_id":"made","workflow_id":"slow"}"#),
    ("PATCH", "/sessions/of-first", JSON, r#"{"session_name":"named","session_state":{"k":1}}"#),
    ("POST", "/sessions/of-first/rename", JSON, r#"{"session_name":"named"}"#),
    ("DELETE", "/sessions", JSON, r#"{"session_ids":["of-ended"]}"#),
    ("POST", "/api/runs/cancel", JSON, r#"{"filter":{"q":"first"}}"#),
    ("POST", "/api/runs/rerun", JSON, r#"{"filter":{"q":"ended"}}"#),
    ("POST", "/api/runs/retry", JSON, r#"{"filter":{"q":"failed"}}"#),
    ("POST", "/api/runs/failed/retry", JSON, "{}"),
    ("POST", "/api/runs/failed/retry/preview", JSON, "{}"),
    ("POST", "/api/runs/ended/fork/preview", JSON, r#"{"at":0}"#),
    ("POST", "/api/runs/ended/webhook/redeliver?from=0", JSON, ""),
    ("POST", "/api/prune", JSON, r#"{"session_id":"of-ended"}"#),
    ("POST", "/api/budgets/raise", JSON, r#"{"budget_id":"{budget}","raise_by":1,"raised":0}"#),
    ("POST", "/api/schedules", JSON, r#"{"workflow_id":"slow","cron":"@yearly","name":"other","input":"hi"}"#),
    ("POST", "/api/schedules/{schedule}/pause", JSON, ""),
    ("POST", "/api/schedules/{schedule}/resume", JSON, ""),
    ("POST", "/api/schedules/{schedule}/trigger", JSON, ""),
    ("DELETE", "/api/schedules/{schedule}", JSON, ""),
    ("POST", "/api/workflows/slow/batches", JSON, r#"{"inputs":["hi","fail"]}"#),
    ("POST", "/api/batches/batch/items", JSON, r#"{"from":1,"inputs":["hi"],"complete":true}"#),
    ("POST", "/api/batches/batch/cancel", JSON, ""),
    ("POST", "/api/batches/batch/retry", JSON, ""),
    ("POST", "/v1/responses", JSON, r#"{"model":"slow","input":"hi","background":true}"#),
    ("POST", "/v1/responses", JSON, r#"{"model":"slow","input":"hi","stream":true}"#),
    ("POST", "/v1/responses/resp_first/cancel", JSON, ""),
    ("DELETE", "/v1/responses/resp_ended", JSON, ""),
    ("POST", "/workflows/slow/agui", JSON, AGUI),
    ("POST", "/agents/helper/agui", JSON, AGUI),
    ("POST", "/teams/crew/agui", JSON, AGUI),
];

const AGUI: &str = r#"{"threadId":"asked","runId":"told","messages":[{"id":"1","role":"user","content":"hi"}]}"#;

/// Routes that change something and are not among the requests, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("/agents/{agent_id}/runs/{run_id}/continue", "as that of a workflow"),
    ("/teams/{team_id}/runs/{run_id}/continue", "as that of a workflow"),
    ("/agui", "it is always refused: several are served"),
];

fn slow(id: &str) -> Arc<Definition> {
    let step = Step::function("slow", async |_, input| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if input.text() == "fail" { Err(Failure::fatal("not today")) } else { Ok(input.text()) }
    });
    Arc::new(Definition::builder("slow").id(id).step(step).build().expect("a definition"))
}

fn asks() -> Arc<Definition> {
    let step = Step::function("asks", async |_, input| Ok::<_, Failure>(input.text()));
    let step = step.human_review(HumanReview::confirmation("Really?"));
    Arc::new(Definition::builder("asks").id("asks").step(step).build().expect("a definition"))
}

struct Stage {
    db: InMemoryDb,
    engine: Engine,
    server: Server,
}

/// A run with this id, in a session of its own.
fn named(id: &str, input: &str) -> Submit {
    let (run_id, session_id) = (Some(id.to_owned()), Some(format!("of-{id}")));
    Submit { input: Some(json!(input)), run_id, session_id, ..Submit::default() }
}

impl Stage {
    /// A run that executes, in a session of its own, behind a store at which everyone has to wait.
    async fn new() -> Self {
        let db = InMemoryDb::new();
        let components = [
            (Kind::Workflow, "slow", slow("slow")),
            (Kind::Workflow, "asks", asks()),
            (Kind::Agent, "helper", slow("agent:helper")),
            (Kind::Team, "crew", slow("team:crew")),
        ];
        let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone())));
        let builder = components.iter().fold(builder, |builder, (.., definition)| builder.workflow(definition.clone()));
        let engine = builder.clock(Arc::new(SimulatedClock::start())).start().await.expect("an engine");
        let server = components.into_iter().fold(Server::builder(engine.clone()), |server, (kind, id, definition)| {
            let (id, name) = (id.to_owned(), id.to_owned());
            server.component(Component { kind, id, name, description: None, definition, details: Value::Null })
        });
        engine.submit(&slow("slow").id, named("first", "hi")).await.expect("accepted");
        Self { db, engine, server: server.build() }
    }

    /// Makes what [`CHANGES`] are about, and fills in its names.
    async fn prepare(&self, (method, path, kind, body): (&str, &str, &str, &str)) -> [String; 4] {
        let engine = &self.engine;
        spends(&self.db, "spender", "ada", &[Budget::calls(9).per_user()]).await;
        let spender = SessionId::parse("spender").expect("an id");
        self.db.delete_sessions(Access::All, vec![spender], true).await.expect("deleted");
        let budget = engine.budgets(BudgetFilter::default()).await.expect("a list").budgets.remove(0).account.id;
        let create = CreateBatch { batch_id: Some("batch".to_owned()), ..CreateBatch::default() };
        let batch = engine.create_batch(&slow("slow").id, create).await.expect("a batch");
        batch.add(0, vec![json!("fail")]).await.expect("added");
        let create = CreateSchedule::new(ScheduleSpec { input: Some(json!("hi")), ..ScheduleSpec::new("@yearly") });
        let schedule = engine.create_schedule(&slow("slow").id, create).await.expect("a schedule");
        let hook = Some(NewHook { url: Arc::from("https://receiver.example/"), events: HookEvents::All });
        let ended = Submit { hook, ..named("ended", "hi") };
        engine.submit(&slow("slow").id, ended).await.expect("accepted");
        engine.submit(&slow("slow").id, named("failed", "fail")).await.expect("accepted");
        engine.submit(&asks().id, named("paused", "hi")).await.expect("accepted");
        self.ends("before").await;
        // These execute, and `first` anew.
        let first = RunId::parse("first").expect("an id");
        assert!(engine.delete_run(&first).await.expect("deleted"));
        for (workflow, id) in [("slow", "first"), ("agent:helper", "helped"), ("team:crew", "crewed")] {
            engine.submit(&slow(workflow).id, named(id, "hi")).await.expect("accepted");
        }
        let paused = engine.attach(RunId::parse("paused").expect("an id"));
        let question = paused.questions().await.expect("a list").remove(0).id().to_string();
        let output = json!(paused.get().await.expect("readable").expect("there"));
        let mut requirements = output["step_requirements"].clone();
        requirements[0]["confirmed"] = json!(true);
        let requirements: String = requirements.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let fill = |text: &str| {
            let text = text.replace("{question}", &question).replace("{schedule}", &schedule.id);
            text.replace("{budget}", &budget).replace("{requirements}", &requirements)
        };
        [method.to_owned(), fill(path), kind.to_owned(), fill(body)]
    }

    async fn request(&self, (method, path, kind, body): (&str, &str, &str, &str)) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", kind).header("idempotency-key", KEY);
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let response = self.server.router().oneshot(request).await.expect("an answer");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    /// Everything ends; the key and the sessions are of use; what was done stands in the audit log.
    async fn settles(&self, asked: (&str, &str, &str, &str), place: &str) {
        self.ends(place).await;
        let cancelled = self.db.run(Access::All, RunId::parse("first").expect("an id")).await.expect("readable");
        if cancelled.is_some_and(|run| run.status == RunStatus::Cancelled) {
            timeout(PATIENCE, self.recorded(AuditKind::RunCancel))
                .await
                .unwrap_or_else(|_| panic!("{place}: no record"));
        }
        if asked.1.ends_with("/runs") {
            let (status, body) = self.request(asked).await;
            assert!(matches!(status, 200 | 202), "{place}: the key: {status} {body}");
            let again = (asked.0, asked.1, asked.2, asked.3);
            assert_eq!(self.request(again).await.0, status, "{place}: the session");
        }
        self.ends(place).await;
        let held: u64 = self.engine.workers().await.expect("a list").iter().map(|worker| worker.runs).sum();
        assert_eq!(held, 0, "{place}: a lease is stuck");
    }

    /// It can be asked for again, and everything ends.
    async fn goes_on(&self, asked: (&str, &str, &str, &str), place: &str) {
        let (status, body) = timeout(PATIENCE, self.request(asked)).await.unwrap_or_else(|_| panic!("{place}: again"));
        assert!(status < 500, "{place}: again: {status} {body}");
        for question in self.engine.questions(QuestionFilter::default()).await.expect("a list").questions {
            let answers = [(question.id().clone(), Answer::Approve)];
            self.engine.answer(answers, None).await.unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        self.ends(place).await;
        for run in self.db.runs(Access::All, RunFilter::default()).await.expect("a list").runs {
            assert!(run.status.is_terminal(), "{place}: {} is {}", run.info.run_id, run.status);
        }
        let held: u64 = self.engine.workers().await.expect("a list").iter().map(|worker| worker.runs).sum();
        assert_eq!(held, 0, "{place}: a lease is stuck");
    }

    async fn ends(&self, place: &str) {
        for run in self.db.runs(Access::All, RunFilter::default()).await.expect("a list").runs {
            let ended = timeout(PATIENCE, self.engine.attach(run.info.run_id.clone()).wait()).await;
            ended.unwrap_or_else(|_| panic!("{place}: {} does not end", run.info.run_id)).expect("readable");
        }
    }

    async fn recorded(&self, kind: AuditKind) {
        let filter = AuditFilter { kind: Some(kind), ..AuditFilter::default() };
        while self.db.audit(Access::All, filter.clone()).await.expect("a log").records.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_go_away_at_any_await_of_its_request() {
    for asked in REQUESTS {
        for times in 1.. {
            let stage = Stage::new().await;
            let finished = poll_and_drop(stage.request(*asked), times).await;
            let place = format!("{} {} {}, dropped after {times} polls", asked.0, asked.1, asked.3);
            if let Some((status, body)) = &finished {
                assert!(*status < 300 || *status == 409, "{place}: {status} {body}");
            }
            stage.settles(*asked, &place).await;
            // A stream has more awaits than it has kinds of them.
            if finished.is_some() || times == 40 {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_changes_something_may_go_away_at_any_await_of_its_request() {
    for asked in CHANGES {
        for times in 1.. {
            let stage = Stage::new().await;
            let filled = stage.prepare(*asked).await;
            let filled = (&*filled[0], &*filled[1], &*filled[2], &*filled[3]);
            let finished = poll_and_drop(stage.request(filled), times).await;
            let place = format!("{} {} {}, dropped after {times} polls", asked.0, asked.1, asked.3);
            if let Some((status, body)) = &finished {
                assert!(*status < 300, "{place}: {status} {body}");
            }
            stage.goes_on(filled, &place).await;
            // A stream has more awaits than it has kinds of them.
            if finished.is_some() || times == 40 {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_route_that_changes_something_is_missing_here() {
    let fits = |rule: &str, path: &str| {
        let path = path.split('?').next().expect("a path");
        let (rule, path): (Vec<&str>, Vec<&str>) = (rule.split('/').collect(), path.split('/').collect());
        rule.len() == path.len() && rule.iter().zip(&path).all(|(rule, part)| rule.starts_with('{') || rule == part)
    };
    let missing: Vec<String> = (Stage::new().await.server.rules().iter())
        .filter(|rule| matches!(rule.method, Verb::Post | Verb::Put | Verb::Patch | Verb::Delete))
        .filter(|rule| {
            let mut made = REQUESTS.iter().chain(CHANGES);
            !made.any(|(method, path, ..)| *method == rule.method.as_str() && fits(rule.path, path))
                && LEFT_OUT.iter().all(|(path, _)| *path != rule.path)
        })
        .map(|rule| format!("{} {}", rule.method.as_str(), rule.path))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}
