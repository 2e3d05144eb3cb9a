//! Clients that go away at any await of any request: what was accepted ends, what was changed is changed wholly and
//! recorded, no session and no key leads nowhere.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use outlive_core::port::{Access, AuditFilter, AuditKind, AuditStore, RunFilter, RunStore};
use outlive_core::{Definition, Failure, RunId, RunStatus, Step};
use outlive_db::InMemoryDb;
use outlive_engine::testing::{SimulatedClock, TroubledDb, poll_and_drop};
use outlive_engine::{Engine, Submit};
use outlive_server::Server;
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

fn definition() -> Arc<Definition> {
    let step = Step::function("slow", async |_, input| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok::<_, Failure>(input.text())
    });
    Arc::new(Definition::builder("slow").id("slow").step(step).build().expect("a definition"))
}

struct Stage {
    db: InMemoryDb,
    engine: Engine,
    router: Router,
}

impl Stage {
    /// A run that executes, in a session of its own, behind a store at which everyone has to wait.
    async fn new() -> Self {
        let db = InMemoryDb::new();
        let builder = Engine::builder(TroubledDb::yielding(Arc::new(db.clone()))).workflow(definition());
        let engine = builder.clock(Arc::new(SimulatedClock::start())).start().await.expect("an engine");
        let component = Component {
            kind: Kind::Workflow,
            id: "slow".to_owned(),
            name: "slow".to_owned(),
            description: None,
            definition: definition(),
            details: Value::Null,
        };
        let router = Server::builder(engine.clone()).component(component).build().router();
        let first = Submit {
            input: Some(json!("hi")),
            run_id: Some("first".to_owned()),
            session_id: Some("of-first".to_owned()),
            ..Submit::default()
        };
        engine.submit(&definition().id, first).await.expect("accepted");
        Self { db, engine, router }
    }

    async fn request(&self, (method, path, kind, body): (&str, &str, &str, &str)) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.header("content-type", kind).header("idempotency-key", KEY);
        let request = request.body(Body::from(body.to_owned())).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("an answer");
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
