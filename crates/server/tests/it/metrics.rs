//! Numbers for operators: each has its row in the documentation and something that moves it.

use crate::served::{Ask, PATIENCE, Served, Setup, in_time};
use outlive_core::port::{Health, Room};
use outlive_db::InMemoryDb;
use outlive_server::config::Limits;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const DOCUMENTATION: &str = include_str!("../../../../docs/server.md");

async fn with(limits: Limits) -> Served {
    Served::with(Setup { limits, with_keys: false, ..Setup::default() }).await
}

/// Waits until a number is as wanted.
async fn until(served: &Served, name: &str, is_wanted: impl Fn(f64) -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_wanted(served.number(name).await) {
        assert!(tokio::time::Instant::now() < deadline, "{name} does not become what it should be");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_number_is_in_the_documentation_and_the_other_way_round() {
    let db = InMemoryDb::new();
    // A store in memory has neither log nor disk.
    db.set_health(Health {
        room: Some(Room { free_bytes: 1 << 40, total_bytes: 1 << 40 }),
        log_bytes: Some(0),
        ..Health::default()
    });
    let served = Served::on(db, Setup { with_keys: false, ..Setup::default() }).await;
    let text = served.get("/metrics", "").await.body;
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE outlive_")?.split(' ').next());
    let table = DOCUMENTATION.split("| name (`outlive_…`) |").nth(1).expect("a table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)).collect();
    let named = named.iter().map(|name| name.split('{').next().unwrap_or_default());
    assert_eq!(named.collect::<BTreeSet<_>>(), told.collect::<BTreeSet<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_follows_a_run_is_counted_until_they_leave() {
    let served = with(Limits::default()).await;
    let (sse, socket) = ("outlive_subscribers{transport=\"sse\"}", "outlive_subscribers{transport=\"websocket\"}");
    let run_id = served.submit("held", "1").await;
    let path = format!("/workflows/held/runs/{run_id}/resume");
    let mut streams = Vec::new();
    for ask in [Ask { method: "POST", path: &path, ..Ask::default() }, Ask { path: "/api/stream", ..Ask::default() }] {
        let mut stream = served.send(ask).await;
        let mut first = [0; 1];
        in_time(stream.read_exact(&mut first)).await.expect("an answer");
        streams.push(stream);
    }
    let mut follower = served.socket().await;
    follower.say(json!({ "action": "reconnect", "run_id": run_id })).await;
    follower.until("StepStarted").await;
    assert_eq!((served.number(sse).await, served.number(socket).await), (2.0, 1.0));
    drop(streams);
    until(&served, sse, |count| count == 0.0).await;
    // The run's end ends its subscription, not the socket.
    served.release();
    follower.until("WorkflowCompleted").await;
    until(&served, socket, |count| count == 0.0).await;
    let waited = "outlive_event_lag_seconds_count";
    assert!(served.number(waited).await > 0.0, "the end was waited for");
    assert!(served.number("outlive_tasks").await > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_counted_by_its_reason() {
    let db = InMemoryDb::new();
    let limits =
        Limits { streams_per_caller_max: 0, body_bytes_max: 1000, connections_per_address_max: 2, ..Limits::default() };
    let served = Served::on(db.clone(), Setup { limits, with_keys: false, ..Setup::default() }).await;
    let shed = |reason: &str| format!("outlive_shed_total{{reason=\"{reason}\"}}");

    let refused = served.post("/workflows/echo/runs", "", "message=x&stream=true").await;
    assert_eq!(refused.status, 429);
    assert_eq!(served.number(&shed("too_many_streams")).await, 1.0);

    let long = format!("message={}", "x".repeat(2000));
    assert_eq!(served.post("/workflows/echo/runs", "", &long).await.status, 413);
    assert_eq!(served.number(&shed("body_too_large")).await, 1.0);

    let full = Room { free_bytes: 0, total_bytes: 1 << 40 };
    db.set_health(Health { room: Some(full), ..Health::default() });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while served.get("/ready", "").await.status == 200 {
        assert!(tokio::time::Instant::now() < deadline, "the disk is not looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = served.post("/workflows/echo/runs", "", "message=x&stream=false").await;
    let head = refused.head.to_ascii_lowercase();
    assert!(refused.status == 503 && head.contains("retry-after: 30"), "{refused:?}");
    assert!(refused.body.contains("disk is nearly full"), "{refused:?}");
    assert_eq!(served.get("/health", "").await.status, 200, "the process lives");
    assert!(served.number(&shed("disk_low")).await >= 2.0);
    assert_eq!(served.number("outlive_runs_accepted_total").await, 0.0);
    assert_eq!(served.number("outlive_disk_free_bytes").await, 0.0);

    // Two hold their share; what is above it is told 503 and closed.
    let mut held = Vec::new();
    let first = loop {
        let mut stream = TcpStream::connect(served.address).await.expect("the server listens");
        let mut told = [0; 12];
        let answer = tokio::time::timeout(Duration::from_millis(200), stream.read_exact(&mut told)).await;
        if answer.is_ok() {
            break told;
        }
        held.push(stream);
        assert!(held.len() < 3, "the share of an address is kept");
    };
    assert_eq!(&first, b"HTTP/1.1 503");
    drop(held);
    until(&served, &shed("too_many_connections"), |count| count >= 1.0).await;
}
