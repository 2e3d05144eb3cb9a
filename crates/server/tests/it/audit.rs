//! What the audit log says afterwards, and what it keeps to itself.

use crate::served::{Ask, Served, Setup, in_time};
use outlive_core::port::{AuditFilter, AuditKind, AuditRecord, DbErrorKind};
use outlive_db::{Fault, InMemoryDb, Operation};
use outlive_server::auth::Scopes;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;

/// A server whose audit log can be waited for.
struct Audited {
    served: Served,
    appends: watch::Receiver<u64>,
}

impl Audited {
    async fn start() -> Self {
        Self::with(Setup::default(), None).await
    }

    async fn with(setup: Setup, fault: Option<Fault>) -> Self {
        let db = InMemoryDb::new();
        let (sender, appends) = watch::channel(0);
        db.faults(Arc::new(move |operation| {
            let is_append = operation == Operation::AppendAudit;
            sender.send_if_modified(|count| {
                *count += u64::from(is_append);
                is_append
            });
            fault.filter(|_| is_append)
        }));
        Self { served: Served::on(db, setup).await, appends }
    }

    /// All records, the oldest first, once there are so many.
    async fn records(&mut self, count: usize) -> Vec<AuditRecord> {
        in_time(async {
            loop {
                let filter = AuditFilter { limit: 1000, ..AuditFilter::default() };
                let mut records = self.served.engine.audit(filter).await.expect("readable").records;
                if records.len() >= count {
                    records.reverse();
                    return records;
                }
                self.appends.changed().await.expect("the store lives");
            }
        })
        .await
    }

    async fn only(&mut self) -> AuditRecord {
        let mut records = self.records(1).await;
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    }

    async fn number(&self, name: &str) -> u64 {
        let key = self.served.key(None, Scopes::parse(["metrics:read"])).await.0;
        let text = self.served.get("/metrics", &key).await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("outlive_{name} "))).expect("the number");
        line.parse().expect("a number")
    }
}

fn request_id(head: &str) -> &str {
    head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id")
}

#[tokio::test]
async fn a_refused_credential_is_recorded_without_a_piece_of_it() {
    let mut log = Audited::start().await;
    let wrong = "olv_thisIsNoKeyOfThisServerAtAll0123456789abcdefgh";
    let answer = log.served.get("/api/runs?q=x", wrong).await;
    assert_eq!(answer.status, 401);
    let record = log.only().await;
    assert_eq!((record.kind, &*record.outcome), (AuditKind::AuthFailed, "invalid_credential"));
    assert_eq!((record.actor.as_deref(), record.user_id.as_deref(), record.target.as_deref()), (None, None, None));
    assert_eq!(&*record.action, "GET /api/runs");
    assert_eq!(record.address, Some("127.0.0.1".parse().expect("an address")));
    assert_eq!(record.request_id.as_deref(), Some(request_id(&answer.head)));
    assert!(!format!("{record:?}").contains(&wrong[..8]));
}

#[tokio::test]
async fn a_missing_scope_is_recorded_with_who_lacked_it() {
    let mut log = Audited::start().await;
    let (key, minted) = log.served.key(Some("ada"), Scopes::parse(["runs:read"])).await;
    assert_eq!(log.served.get("/sessions/s-1", &key).await.status, 403);
    let record = log.only().await;
    assert_eq!((record.kind, &*record.outcome), (AuditKind::AccessDenied, "insufficient_scope"));
    assert_eq!(record.actor.as_deref(), Some(&*format!("key:{}", minted.id)));
    assert_eq!(record.user_id.as_deref(), Some("ada"));
    assert_eq!(&*record.action, "GET /sessions/{session_id}");
}

#[tokio::test]
async fn a_refused_host_and_a_refused_page_are_recorded() {
    let mut log = Audited::with(Setup { with_keys: false, ..Setup::default() }, None).await;
    let open = log.only().await;
    assert_eq!((open.kind, &*open.outcome), (AuditKind::ServerOpen, "this_machine"));
    assert_eq!(open.target.as_deref(), Some(&*log.served.address.to_string()));
    let page = Ask {
        method: "POST",
        path: "/workflows/echo/runs",
        headers: "Origin: https://evil.example\r\n",
        ..Ask::default()
    };
    assert_eq!(log.served.ask(page).await.status, 403);
    let mut stream = tokio::net::TcpStream::connect(log.served.address).await.expect("it listens");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /api/runs HTTP/1.0\r\nHost: evil.example\r\n\r\n").await.expect("it reads");
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.contains(" 421 "), "{answer}");
    let records = log.records(3).await;
    let told: Vec<_> = records.iter().skip(1).map(|record| (record.kind, &*record.outcome, &*record.action)).collect();
    let expected = [
        (AuditKind::AccessDenied, "origin_not_allowed", "POST /workflows/{workflow_id}/runs"),
        (AuditKind::AccessDenied, "host_not_allowed", "GET /api/runs"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_flood_of_guesses_does_not_wash_out_the_rest() {
    let mut log = Audited::start().await;
    let ada = log.served.user("ada").await;
    let run_id =
        log.served.post("/workflows/held/runs", &ada, "message=1&stream=false&background=true").await.text("run_id");
    for guess in 0..100 {
        let answer = log.served.get("/api/runs", &format!("olv_guess{guess}")).await;
        assert!(matches!(answer.status, 401 | 429), "{answer:?}");
    }
    assert_eq!(log.served.post(&format!("/api/runs/{run_id}/cancel"), &ada, "").await.status, 200);
    let records = log.records(21).await;
    assert_eq!(records.len(), 21);
    assert!(records[..20].iter().all(|record| record.kind == AuditKind::AuthFailed));
    assert_eq!((records[20].kind, records[20].target.as_deref()), (AuditKind::RunCancel, Some(&*run_id)));
    assert_eq!(log.number("audit_withheld_total").await, 80);
    assert_eq!(log.number("audit_dropped_total").await, 0);
}

#[tokio::test]
async fn who_cancelled_ran_again_and_deleted_is_recorded() {
    let mut log = Audited::start().await;
    let served = &log.served;
    let (key, minted) = served.key(Some("ada"), served.scopes_but(None)).await;
    let mut runs = Vec::new();
    for session in ["s-1", "s-2", "s-3"] {
        let form = format!("message=1&stream=false&background=true&session_id={session}");
        runs.push(served.post("/workflows/held/runs", &key, &form).await.text("run_id"));
    }
    assert_eq!(served.post(&format!("/workflows/held/runs/{}/cancel", runs[0]), &key, "").await.status, 200);
    assert_eq!(served.post(&format!("/api/runs/{}/cancel", runs[1]), &key, "").await.status, 200);
    let mut socket = served.socket_of(&key).await;
    socket.say(json!({ "action": "cancel-workflow", "run_id": runs[2] })).await;
    assert_eq!(socket.event().await["event"], "cancel_requested");
    for run_id in &runs {
        served.end_of(&run_id.parse().expect("an id")).await;
    }
    // What is over is not cancelled, and what is not there not deleted.
    assert_eq!(served.post(&format!("/workflows/held/runs/{}/cancel", runs[0]), &key, "").await.status, 200);
    let rerun = served.post(&format!("/api/runs/{}/rerun", runs[0]), &key, "").await;
    assert_eq!(rerun.status, 202, "{rerun:?}");
    served.release();
    served.end_of(&rerun.text("run_id").parse().expect("an id")).await;
    let delete = |path| Ask { method: "DELETE", path, token: Some(&key), ..Ask::default() };
    assert_eq!(served.ask(delete("/sessions/s-none")).await.status, 204);
    assert_eq!(served.ask(delete("/sessions/s-1")).await.status, 204);
    let many =
        Ask { content_type: "application/json", body: r#"{"session_ids":["s-2","s-none"]}"#, ..delete("/sessions") };
    assert_eq!(served.ask(many).await.status, 204);
    let records = log.records(6).await;
    let by = format!("key:{}", minted.id);
    for record in &records {
        assert_eq!((record.actor.as_deref(), record.user_id.as_deref()), (Some(&*by), Some("ada")), "{record:?}");
        assert!(record.request_id.is_some() && record.address.is_some(), "{record:?}");
    }
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            (record.kind.as_str(), &*record.outcome, &*record.action, record.target.as_deref().unwrap_or("-"))
        })
        .collect();
    let expected = [
        ("run_cancel", "requested", "POST /workflows/{workflow_id}/runs/{run_id}/cancel", &*runs[0]),
        ("run_cancel", "requested", "POST /api/runs/{run_id}/cancel", &*runs[1]),
        ("run_cancel", "requested", "cancel-workflow /workflows/ws", &*runs[2]),
        ("run_rerun", "accepted", "POST /api/runs/{run_id}/rerun", &*runs[0]),
        ("session_delete", "deleted", "DELETE /sessions/{session_id}", "s-1"),
        ("session_delete", "deleted_some", "DELETE /sessions", "s-2 s-none"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn an_administrator_who_looks_at_a_users_things_is_recorded_once_for_each() {
    let mut log = Audited::start().await;
    let served = &log.served;
    let ada = served.user("ada").await;
    let (admin, minted) = served.key(None, Scopes::admin()).await;
    let form = "message=x&stream=false&background=true&session_id=s-ada";
    let run_id = served.post("/workflows/echo/runs", &ada, form).await.text("run_id");
    served.end_of(&run_id.parse().expect("an id")).await;
    let nobodys = served.post("/workflows/echo/runs", &admin, "message=x&stream=false").await.text("run_id");
    // The user's own looks, and an administrator's at what is nobody's, are no news.
    for (path, key) in [
        (format!("/workflows/echo/runs/{run_id}"), &ada),
        (format!("/api/runs/{run_id}"), &ada),
        ("/sessions/s-ada".to_owned(), &ada),
        (format!("/api/runs/{nobodys}"), &admin),
    ] {
        assert_eq!(served.get(&path, key).await.status, 200, "{path}");
    }
    let paths = [
        format!("/workflows/echo/runs/{run_id}"),
        format!("/api/runs/{run_id}/events"),
        "/sessions/s-ada/runs".to_owned(),
    ];
    for path in paths.iter().chain(&paths) {
        assert_eq!(served.get(path, &admin).await.status, 200, "{path}");
    }
    // A last record, so that there is something to wait for.
    assert_eq!(served.get("/api/runs", "olv_wrong").await.status, 401);
    let records = log.records(3).await;
    let told: Vec<_> = records.iter().map(|record| (record.kind, record.target.as_deref())).collect();
    let expected =
        [(AuditKind::AdminRead, Some(&*run_id)), (AuditKind::AdminRead, Some("s-ada")), (AuditKind::AuthFailed, None)];
    assert_eq!(told, expected);
    assert_eq!(records[0].actor.as_deref(), Some(&*format!("key:{}", minted.id)));
}

#[tokio::test]
async fn whoever_answers_for_all_users_is_recorded_as_an_administrator_is() {
    let mut log = Audited::start().await;
    let ada = log.served.user("ada").await;
    let bob = log.served.key(Some("bob"), Scopes::parse(["all_questions:answer"])).await.0;
    let run_id = log.served.post("/workflows/asks/runs", &ada, "message=hi&stream=false").await.text("run_id");
    assert_eq!(log.served.get("/api/questions", &ada).await.status, 200);
    let open = log.served.get("/api/questions", &bob).await.json();
    let id = open["questions"][0]["question_id"].as_str().expect("an id");
    assert_eq!(log.served.get(&format!("/api/questions/{id}"), &bob).await.status, 200);
    let path = format!("/api/questions/{id}/answer");
    let (content_type, body) = ("application/json", r#"{"do":"reject"}"#);
    let ask = Ask { method: "POST", path: &path, token: Some(&bob), content_type, body, ..Ask::default() };
    assert_eq!(log.served.ask(ask).await.status, 200);
    let records = log.records(2).await;
    let told: Vec<_> = records.iter().map(|record| (record.kind, record.user_id.as_deref())).collect();
    assert_eq!(told, [(AuditKind::AdminRead, Some("bob")), (AuditKind::QuestionAnswer, Some("bob"))]);
    assert!(records.iter().all(|record| record.target.as_deref() == Some(&*run_id)), "{records:?}");
}

#[tokio::test]
async fn a_socket_that_is_refused_is_recorded() {
    let mut log = Audited::start().await;
    let (key, _) = log.served.key(Some("ada"), Scopes::parse(["workflows:read"])).await;
    let mut socket = log.served.socket().await;
    assert_eq!(socket.event().await["event"], "connected");
    socket.say(json!({ "action": "authenticate", "token": "olv_wrong" })).await;
    assert_eq!(socket.event().await["event"], "auth_error");
    socket.say(json!({ "action": "authenticate", "token": key })).await;
    assert_eq!(socket.event().await["event"], "authenticated");
    socket.say(json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x" })).await;
    assert_eq!(socket.event().await["event"], "error");
    let records = log.records(2).await;
    let told: Vec<_> =
        records.iter().map(|record| (&*record.outcome, &*record.action, record.user_id.as_deref())).collect();
    let expected = [
        ("invalid_credential", "authenticate /workflows/ws", None),
        ("insufficient_scope", "start-workflow /workflows/ws", Some("ada")),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_log_is_read_in_pages_by_whoever_may_and_a_user_finds_their_own_part() {
    let mut log = Audited::start().await;
    let ada = log.served.user("ada").await;
    let auditor = log.served.key(None, Scopes::parse(["audit:read"])).await.0;
    let blind = log.served.key(None, log.served.scopes_but(Some("audit:read"))).await.0;
    assert_eq!(log.served.get("/api/audit", &blind).await.status, 403);
    assert_eq!(log.served.get("/api/runs", "olv_wrong").await.status, 401);
    let run_id =
        log.served.post("/workflows/held/runs", &ada, "message=1&stream=false&background=true").await.text("run_id");
    assert_eq!(log.served.post(&format!("/api/runs/{run_id}/cancel"), &ada, "").await.status, 200);
    log.records(3).await;
    let served = &log.served;
    let ask = async |path: &str, key: &str| -> Value {
        let answer = served.get(path, key).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    };
    let kinds = |page: &Value| -> Vec<String> {
        let records = page["records"].as_array().expect("records");
        records.iter().map(|record| record["kind"].as_str().expect("a kind").to_owned()).collect()
    };
    let first = ask("/api/audit?limit=2", &auditor).await;
    assert_eq!(kinds(&first), ["run_cancel", "auth_failed"]);
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second = ask(&format!("/api/audit?limit=2&cursor={cursor}"), &auditor).await;
    assert_eq!((kinds(&second), &second["next_cursor"]), (vec!["access_denied".to_owned()], &Value::Null));
    assert_eq!(kinds(&ask("/api/audit?kind=auth_failed", &auditor).await), ["auth_failed"]);
    assert_eq!(kinds(&ask("/api/audit?actor=ada", &auditor).await), ["run_cancel"]);
    assert!(kinds(&ask("/api/audit?since=2100-01-01T00:00:00Z", &auditor).await).is_empty());
    assert_eq!(kinds(&ask("/api/audit", &ada).await), ["run_cancel"], "a user's key shows what that user did");
    for bad in ["kind=x", "limit=0", "limit=1001", "cursor=x", "since=yesterday"] {
        assert_eq!(served.get(&format!("/api/audit?{bad}"), &auditor).await.status, 422, "{bad}");
    }
}

#[tokio::test]
async fn a_store_that_takes_no_records_hinders_no_request_and_the_loss_is_counted() {
    let log = Audited::with(Setup::default(), Some(Fault::Refuse(DbErrorKind::Storage))).await;
    let mut appends = log.appends.clone();
    assert_eq!(log.served.get("/api/runs", "olv_wrong").await.status, 401);
    in_time(appends.wait_for(|count| *count == 1)).await.expect("the store lives");
    assert!(log.served.is_well().await);
    assert_eq!(log.number("audit_dropped_total").await, 1);
}
