//! Clients that go away in the middle of what they ask for: whatever was accepted ends, and nothing is left waiting.

use crate::served::{Ask, Served, Setup, in_time};
use outlive_core::RunStatus;
use outlive_core::port::RunFilter;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Clients in all.
const CLIENTS: u64 = 200;
/// Conversations they share.
const SESSIONS: u64 = 20;

/// The next of a fixed sequence of numbers (xorshift).
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn body(client: u64) -> String {
    format!("message=question+{client}&stream=false&background=true&session_id=s-{}", client % SESSIONS)
}

fn key(client: u64) -> String {
    format!("Idempotency-Key: client-{client}\r\n")
}

/// Sends a request up to some byte of it, or whole, and closes: at once, by a reset, or a moment later.
async fn visit(address: std::net::SocketAddr, client: u64, mut seed: u64) {
    let (body, key) = (body(client), key(client));
    let request = format!(
        "POST /workflows/echo/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n{key}\r\n{body}",
        body.len()
    );
    let is_whole = !next(&mut seed).is_multiple_of(4);
    let end = if is_whole { request.len() as u64 } else { next(&mut seed) % request.len() as u64 };
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    // A server that has had enough may close first.
    let _ = stream.write_all(&request.as_bytes()[..end as usize]).await;
    for _ in 0..next(&mut seed) % 200 {
        tokio::task::yield_now().await;
    }
    if next(&mut seed).is_multiple_of(2) {
        let _ = stream.set_zero_linger();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_close_at_any_byte_leave_nothing_undone() {
    let served = Served::with(Setup { with_keys: false, ..Setup::default() }).await;
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let visits = (0..CLIENTS).map(|client| tokio::spawn(visit(served.address, client, next(&mut seed))));
    for visit in visits.collect::<Vec<_>>() {
        in_time(visit).await.expect("no client panics");
    }
    // Each asks again, by its key, and gets a run that is alive or over, the same one if there was one.
    let mut repeated = BTreeSet::new();
    for client in 0..CLIENTS {
        let (body, key) = (body(client), key(client));
        let ask = Ask { method: "POST", path: "/workflows/echo/runs", headers: &key, body: &body, ..Ask::default() };
        let answer = served.ask(ask).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let run_id = answer.text("run_id");
        let run_id = outlive_core::RunId::parse(&run_id).expect("an id");
        assert_eq!(served.end_of(&run_id).await.status, RunStatus::Completed, "client {client}");
        repeated.insert(run_id);
    }
    assert_eq!(repeated.len() as u64, CLIENTS, "each has its own");
    // Nothing else was accepted, nothing is unfinished, and no session is held up.
    let filter = RunFilter { limit: 1000, ..RunFilter::default() };
    let runs = served.engine.runs(filter).await.expect("readable").runs;
    let stored: BTreeSet<_> = runs.iter().map(|run| run.info.run_id.clone()).collect();
    assert_eq!(stored, repeated);
    assert!(runs.iter().all(|run| run.status == RunStatus::Completed));
    for session in 0..SESSIONS {
        let form = format!("message=x&stream=false&session_id=s-{session}");
        let answer =
            tokio::time::timeout(Duration::from_secs(20), served.post("/workflows/echo/runs", "", &form)).await;
        assert_eq!(answer.expect("the session is free").status, 200, "session {session}");
    }
    assert!(served.is_well().await);
}
