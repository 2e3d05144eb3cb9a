//! Recorded sockets: what the client said is said again, in its turn.

use super::replay::{Replay, gaps, streams};
use super::tokens;
use futures::{SinkExt, StreamExt};
use outlive_server::testing::{Form, KeySets, Line, Told, filled_json, parse_sse};
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Talks as the script says. Gives what differed, one line each.
pub(crate) async fn talk(
    replay: &mut Replay<'_>,
    index: usize,
    path: &str,
    headers: &BTreeMap<String, String>,
    script: &[Line],
    keys: &KeySets,
) -> Vec<String> {
    let mut talk = Talk { socket: connect(replay, path, headers).await, told: Vec::new(), found: Vec::new() };
    let mut tokens_shown = 0;
    let mut recorded: Vec<String> = script.iter().flat_map(received).cloned().collect();
    let has_one_line = recorded.len() == 1;
    let has_several = recorded.iter().filter(|name| *name == "WorkflowStarted").count() > 1;
    // A client that left while it caught up: when it was told that it had depends on how fast it was.
    let has_left_early =
        recorded.iter().any(|name| name == "catch_up") && !recorded.iter().any(|name| name == "subscribed");
    for line in &told_once(script) {
        match line {
            Line::Send { send } => {
                if send["token"] == "{jwt}" {
                    let kind = if tokens_shown == 0 { "first on the socket" } else { "later on the socket" };
                    replay.known.insert("jwt".to_owned(), tokens::token(kind));
                    tokens_shown += 1;
                }
                let mut frame = filled_json(send, &replay.known);
                if frame["action"] == "continue-workflow" {
                    for (field, answered) in replay.answers(index) {
                        frame[field] = answered;
                    }
                }
                if let Some(run_id) = frame["run_id"].as_str() {
                    replay.app.run_began(run_id).await;
                }
                talk.socket.send(Message::text(frame.to_string())).await.unwrap();
            }
            Line::SendText { send_text } => talk.socket.send(Message::text(send_text.clone())).await.unwrap(),
            Line::Receive { receive, form } => {
                talk.hear(replay, index, receive, *form).await;
            }
            // Sent by the server where it refuses to go on; else by the client, as below.
            Line::Closed { .. } if has_one_line => talk.is_closed().await,
            Line::Closed { .. } => {}
        }
    }
    let is_part = script.iter().any(
        |line| matches!(line, Line::Send { send } if send["last_event_index"].as_u64().is_some_and(|index| index > 0)),
    );
    if has_left_early {
        talk.told.retain(|told| told.name != "subscribed");
    }
    let mut found = talk.found;
    if has_several {
        // Runs that are told of side by side interleave as they like.
        recorded.sort();
        talk.told.sort_by(|one, other| one.name.cmp(&other.name));
    } else {
        found.extend(gaps(&talk.told));
    }
    found.extend(streams(&recorded, keys, &talk.told, is_part));
    found
}

/// The script without the second `authenticated` that AgentOS sends for a token, which shifts the answers behind it.
///
/// What differs is still found: the whole order is compared with what was recorded.
fn told_once(script: &[Line]) -> Vec<Line> {
    let names: Vec<&String> = script.iter().flat_map(received).collect();
    let is_twice = |names: &[&String]| names[0] == "authenticated" && names[1] == "authenticated";
    if !names.windows(2).any(is_twice) {
        return script.to_vec();
    }
    let mut names = names;
    names.dedup_by(|one, other| one == other && *one == "authenticated");
    let mut names = names.into_iter().peekable();
    let mut lines = Vec::new();
    let mut hear = |lines: &mut Vec<Line>| {
        let bare = |name: &String| !name.starts_with("Workflow") && !name.starts_with("Step");
        if let Some(name) = names.next_if(|name| bare(name)) {
            lines.push(Line::Receive { receive: vec![name.clone()], form: Form::Bare });
        } else {
            let events: Vec<String> = names.by_ref().cloned().collect();
            lines.push(Line::Receive { receive: events, form: Form::Sse });
        }
    };
    hear(&mut lines);
    for line in script.iter().filter(|line| matches!(line, Line::Send { .. })) {
        lines.push(line.clone());
        hear(&mut lines);
    }
    lines
}

fn received(line: &Line) -> &[String] {
    match line {
        Line::Receive { receive, .. } => receive,
        Line::Send { .. } | Line::SendText { .. } | Line::Closed { .. } => &[],
    }
}

struct Talk {
    socket: WebSocketStream<TcpStream>,
    told: Vec<Told>,
    found: Vec<String>,
}

async fn connect(replay: &Replay<'_>, path: &str, headers: &BTreeMap<String, String>) -> WebSocketStream<TcpStream> {
    let address = replay.app.address;
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    client_async(request, stream).await.unwrap().0
}

impl Talk {
    /// Reads until what was recorded last has come as often as it was recorded.
    async fn hear(&mut self, replay: &mut Replay<'_>, index: usize, recorded: &[String], form: Form) {
        let Some(last) = recorded.last() else { return };
        let mut missing = recorded.iter().filter(|name| *name == last).count();
        let is_one_answer = recorded.len() == 1;
        while missing > 0 {
            let Some(told) = self.next(form).await else {
                self.found.push(format!("the socket is closed before {last}"));
                return;
            };
            replay.learn(index, &told.body);
            if told.name == *last || is_one_answer {
                missing -= 1;
            }
            let is_at_work = told.name == "StepStarted";
            self.told.push(told);
            if is_at_work {
                replay.during(index).await;
            }
        }
    }

    async fn next(&mut self, form: Form) -> Option<Told> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(_) | Err(_)) | None => return None,
            };
            let (actual, body) = match serde_json::from_str::<Value>(&text) {
                Ok(body) => (Form::Bare, body),
                Err(_) => {
                    let event = parse_sse(&text).pop().unwrap();
                    (Form::Sse, serde_json::from_str(&event.data).unwrap())
                }
            };
            let name = body["event"].as_str().unwrap().to_owned();
            if actual != form {
                self.found.push(format!("form of {name}: was {form:?}, is {actual:?}"));
            }
            return Some(Told { name, body });
        }
    }

    async fn is_closed(&mut self) {
        if let Some(told) = self.next(Form::Bare).await {
            self.found.push(format!("the socket: was closed, says {}", told.name));
        }
    }
}
