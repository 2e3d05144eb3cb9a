//! A run that a client of OpenAI's follows as a response, while the server loses its life.

use crate::serve_crash::{Dice, Process};
use crate::world::World;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends a request by HTTP/1.0, whose answers end with the connection.
async fn send(address: &str, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    BufReader::new(stream)
}

/// The events of an answer, at most so many; fewer when the connection ends before.
async fn events(answer: BufReader<TcpStream>, at_most: usize) -> Vec<Value> {
    let (mut lines, mut events) = (answer.lines(), Vec::new());
    while events.len() < at_most {
        let Ok(Some(line)) = lines.next_line().await else { break };
        events.extend(line.strip_prefix("data: ").map(|data| serde_json::from_str::<Value>(data).unwrap()));
    }
    events
}

async fn followed(process: &Process, id: &str, after: Option<u64>) -> Vec<Value> {
    let after = after.map_or_else(String::new, |after| format!("&starting_after={after}"));
    let path = format!("/v1/responses/{id}?stream=true{after}");
    events(send(&process.address, "GET", &path, "").await, usize::MAX).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_goes_on_after_kill_minus_nine_where_its_client_left_off() {
    let mut dice = Dice::new();
    let mut superseded = 0;
    for (model, moment) in [
        ("agent:plain-agent", 5 + dice.below(3)),
        ("agent:plain-agent", 6),
        ("content-creation-workflow", 2 + dice.below(2)),
    ] {
        let world = World::new().await;
        let process = Process::start(&world).await;
        let body = json!({
            "model": model, "input": "AI trends CHUNKS=8 CHUNKDELAY=0.3", "background": true, "stream": true,
        });
        let answer = send(&process.address, "POST", "/v1/responses", &body.to_string()).await;
        let mut seen = events(answer, moment).await;
        process.kill();
        assert_eq!(seen.len(), moment, "{model}: the run was over before event {moment}");
        let id = seen[0]["response"]["id"].as_str().unwrap().to_owned();
        let process = Process::start(&world).await;
        let last = seen[moment - 1]["sequence_number"].as_u64().unwrap();
        seen.extend(followed(&process, &id, Some(last)).await);
        let whole = followed(&process, &id, None).await;
        assert_eq!(seen, whole, "{model}, killed after event {moment}");
        let end = whole.last().unwrap();
        assert_eq!(end["type"], "response.completed", "{model}: {end}");
        let mut polled = String::new();
        let path = format!("/v1/responses/{id}");
        send(&process.address, "GET", &path, "").await.read_to_string(&mut polled).await.unwrap();
        let polled: Value = serde_json::from_str(polled.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(polled, end["response"], "{model}");
        let done: Vec<_> = whole.iter().filter(|event| event["type"] == "response.output_item.done").collect();
        assert_eq!(done.last().unwrap()["item"]["content"], polled["output"][0]["content"], "{model}");
        superseded += done.len() - 1;
        let closed = done[..done.len() - 1].iter().all(|event| event["item"]["status"] == "incomplete");
        assert!(closed, "{model}: {done:?}");
    }
    assert!(superseded >= 1, "what was said before the kill is closed: {superseded}");
}
