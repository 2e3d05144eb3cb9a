//! What docs/server.md shows, tried: its program, its requests, its exchange on a socket.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use tokio_tungstenite::tungstenite::Message;

const PAGE: &str = include_str!("../../../../docs/server.md");
const PROGRAM: &str = include_str!("../../examples/serve.rs");
const KEY: &str = "a-key-for-the-page-that-nobody-else-has";

/// The example as a process. Killed when dropped.
struct Serving {
    child: Child,
    url: String,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(folder: &tempfile::TempDir) -> Serving {
    let tests = std::env::current_exe().unwrap();
    let examples = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let mut command = Command::new(examples.join(format!("serve{}", std::env::consts::EXE_SUFFIX)));
    command.current_dir(folder.path()).env("ADDRESS", "127.0.0.1:0").env("OS_SECURITY_KEY", KEY);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let said = line.trim().strip_prefix("Listening on ").and_then(|rest| rest.strip_suffix(", greetings.db"));
    let url = said.unwrap_or_else(|| panic!("it says {line:?}")).to_owned();
    Serving { child, url }
}

#[test]
fn the_program_of_the_page_is_the_example() {
    let (_, program) = PROGRAM.split_once("\n\n").unwrap();
    assert!(PAGE.contains(&format!("```rust\n{program}```")), "docs/server.md shows another program");
}

#[tokio::test]
async fn the_requests_of_the_page_are_answered_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::new();
    let ask = async |request: reqwest::RequestBuilder| {
        let answer = request.bearer_auth(KEY).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let body = json!({ "workflow_id": "greeting", "input": "Ada" });
    assert!(PAGE.contains(r#"-d '{"workflow_id": "greeting", "input": "Ada"}'"#));
    let (status, accepted) = ask(client.post(format!("{}/api/runs", server.url)).json(&body)).await;
    let accepted: Value = serde_json::from_str(&accepted).unwrap();
    assert_eq!((status, &accepted["status"]), (202, &json!("PENDING")));
    let run = format!("{}/api/runs/{}", server.url, accepted["run_id"].as_str().unwrap());
    let (status, output) = ask(client.get(format!("{run}/output?wait=30s"))).await;
    assert!(status == 200 && output.contains("Hello, Ada"), "{output}");
    let (_, events) = ask(client.get(format!("{run}/stream"))).await;
    assert!(events.contains("event: WorkflowCompleted"), "{events}");
    let form = client.post(format!("{}/workflows/greeting/runs", server.url));
    let form = form.header("content-type", "application/x-www-form-urlencoded");
    let (status, _) = ask(form.body("message=Ada&stream=false&background=true")).await;
    assert_eq!(status, 202);
    assert_eq!(ask(client.get(format!("{}/openapi.json", server.url))).await.0, 200);
}

#[tokio::test]
async fn the_exchange_of_the_page_is_what_a_socket_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(&folder);
    let url = format!("{}/workflows/ws", server.url.replacen("http", "ws", 1));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let (_, exchange) = PAGE.split_once("```text\n< ").unwrap();
    let (exchange, _) = exchange.split_once("```").unwrap();
    for line in format!("< {exchange}").lines() {
        let (who, text) = line.split_once(' ').unwrap();
        if who == ">" {
            socket.send(Message::text(text.replace("KEY", KEY))).await.unwrap();
            continue;
        }
        let read = |said: &str| serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {text}: {said}"));
        let said = socket.next().await.unwrap().unwrap();
        let (shown, said): (Value, Value) = match (text.strip_prefix("data: "), said.to_text().unwrap()) {
            (None, said) => (read(&text.replace(", …}", "}")), read(said)),
            (Some(text), said) => (read(&text.replace(", …}", "}")), read(said.split_once("\ndata: ").unwrap().1)),
        };
        for (name, value) in shown.as_object().unwrap() {
            let is_id = value.as_str().is_some_and(|text| text.ends_with('…'));
            assert!(is_id && said[name].is_string() || said[name] == *value, "{text}: {said}");
        }
    }
}
