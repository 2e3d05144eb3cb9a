//! What is followed is never silent for long, in a time that runs by itself: proxies cut what is.

use crate::served::{Ask, Served, Setup};
use outlive_server::config::Limits;
use serde_json::json;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

/// The longest silence anybody has to bear.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long is listened.
const LISTENED: Duration = Duration::from_secs(300);

/// Keys are asked for and looked at again in periods that fit each other and the silence well or badly.
async fn served(recheck_s: u64) -> Served {
    let limits = Limits { recheck_period: Duration::from_secs(recheck_s), ..Limits::default() };
    Served::with(Setup { limits, ..Setup::default() }).await
}

#[tokio::test(start_paused = true)]
async fn no_stream_is_silent_for_longer_than_fifteen_seconds() {
    for recheck_s in [5, 10, 14, 15, 16, 30, 3600] {
        let served = served(recheck_s).await;
        let key = served.user("alice").await;
        let form = "message=1&stream=false&background=true";
        let run_id = served.post("/workflows/held/runs", &key, form).await.text("run_id");
        let agent = served.post("/agents/waiter/runs", &key, form).await.text("run_id");
        for (method, path, body) in [
            ("POST", "/workflows/held/runs".to_owned(), "message=1"),
            ("POST", "/workflows/held/runs".to_owned(), "message=1&stream_events=false"),
            ("POST", "/workflows/held/runs".to_owned(), "message=1&background=true"),
            ("POST", format!("/workflows/held/runs/{run_id}/resume"), ""),
            // A run whose events its client is not shown, as long as the step around it goes on.
            ("POST", format!("/agents/waiter/runs/{agent}/resume"), ""),
            ("GET", format!("/api/runs/{run_id}/stream"), ""),
            ("GET", format!("/v1/responses/resp_{run_id}?stream=true"), ""),
            ("GET", "/api/stream".to_owned(), ""),
        ] {
            let mut stream = served.send(Ask { method, path: &path, token: Some(&key), body, ..Ask::default() }).await;
            let begun = Instant::now();
            let mut bytes = [0; 4096];
            while begun.elapsed() < LISTENED {
                let read = timeout(SILENCE_MAX, stream.read(&mut bytes)).await;
                let read = read.unwrap_or_else(|_| panic!("{method} {path} {body}, rechecked each {recheck_s} s"));
                assert!(read.expect("open") > 0, "{method} {path}: it ended");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_socket_is_silent_for_longer_than_fifteen_seconds() {
    for recheck_s in [5, 14, 30, 3600] {
        let served = served(recheck_s).await;
        let key = served.user("alice").await;
        let mut socket = served.raw().await;
        let token = json!({ "action": "authenticate", "token": key }).to_string();
        socket.say(0x81, token.as_bytes()).await;
        let begun = Instant::now();
        while begun.elapsed() < LISTENED {
            let frame = timeout(SILENCE_MAX, socket.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("rechecked each {recheck_s} s"));
            let (opcode, payload) = frame.expect("it stays open");
            if opcode == 9 {
                socket.say(0x8a, &payload).await;
            }
        }
    }
}
