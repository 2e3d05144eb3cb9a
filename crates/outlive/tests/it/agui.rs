//! AG-UI over every kind of step, agent and team, with a real model server: a page takes every stream, from every place
//! on, through questions and through `kill -9`.

use crate::agno::app::App;
use crate::agno::replay::client;
use crate::serve_crash::Process;
use crate::world::World;
use outlive::prelude::*;
use outlive_server::testing::{Page, parse_sse};
use serde_json::{Map, Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// What is run, and what it is asked.
const ALL: [(&str, &str); 37] = [
    ("workflows/content-creation-workflow", "AI trends CHUNKS=3"),
    ("workflows/content-creation-chat", "AI trends CHUNKS=3"),
    ("workflows/fn-pipeline", "hi"),
    ("workflows/plain-fn", "hi"),
    ("workflows/echo", "hi"),
    ("workflows/stateful", "hi"),
    ("workflows/generator", "hi"),
    ("workflows/progress", "hi"),
    ("workflows/failing", "hi"),
    ("workflows/failing-default", "hi"),
    ("workflows/failing-skip-flag", "hi"),
    ("workflows/failing-agent", "hi ERROR=400"),
    ("workflows/flaky", "hi"),
    ("workflows/early-stop", "hi"),
    ("workflows/parallel-wf", "hi CHUNKS=3"),
    ("workflows/condition-wf", "yes"),
    ("workflows/condition-wf", "no"),
    ("workflows/loop-wf", "hi"),
    ("workflows/router-wf", "b"),
    ("workflows/steps-wf", "hi"),
    ("workflows/nested-wf", "hi"),
    ("workflows/deep-wf", "hi"),
    ("workflows/agentic-wf", "hi"),
    ("workflows/hitl-confirm", "hi"),
    ("workflows/hitl-confirm-cancel", "hi"),
    ("workflows/hitl-input", "hi"),
    ("workflows/hitl-review", "hi"),
    ("workflows/hitl-router", "hi"),
    ("workflows/hitl-error", "hi"),
    ("workflows/hitl-condition", "hi"),
    ("workflows/hitl-loop", "hi"),
    ("workflows/hitl-loop-retry", "hi"),
    ("workflows/hitl-tool", "delete the file CHUNKS=2"),
    ("agents/solo-agent", "AI trends CHUNKS=3"),
    ("agents/plain-agent", "hi THINK=because CHUNKS=3"),
    ("agents/careful-agent", "delete the file"),
    ("teams/research-team", "AI trends CHUNKS=3"),
];

fn user(text: &str) -> Value {
    json!({ "id": "u1", "role": "user", "content": text })
}

/// A request to begin a run, or to resume one, by a client that wants places and state.
fn request(thread: &str, run: &str, messages: &[Value], resume: &[Value]) -> Value {
    let mut request = json!({
        "threadId": thread,
        "runId": run,
        "protocolVersion": "1.0",
        "state": {},
        "messages": messages,
        "tools": [],
        "context": [],
        "forwardedProps": { "agnoBackground": { "enabled": true } },
    });
    if !resume.is_empty() {
        request["resume"] = json!(resume);
    }
    request
}

fn after(mut request: Value, event: &Value) -> Value {
    let place = &event["metadata"]["agnoBackground"];
    request["forwardedProps"]["agnoBackground"] =
        json!({ "enabled": true, "lastEventIndex": place["eventIndex"], "lastSubIndex": place["subIndex"] });
    request
}

async fn ask(client: &reqwest::Client, url: &str, request: &Value) -> Vec<Value> {
    let answer = client.post(url).json(request).send();
    let answer = tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
    assert_eq!(answer.status(), 200, "{url} {request}");
    let body = tokio::time::timeout(PATIENCE, answer.text()).await.expect("in time").expect("a body");
    parse_sse(&body).into_iter().map(|event| serde_json::from_str(&event.data).expect("JSON")).collect()
}

/// Events without the state that they show, which is the newest whenever they are sent.
fn stateless(told: &[Value]) -> Vec<Value> {
    let mut told = told.to_vec();
    told.iter_mut().filter(|event| event["type"] == "STATE_SNAPSHOT").for_each(|event| event["snapshot"] = Value::Null);
    told
}

/// What somebody answers who is content with everything.
fn answer(interrupt: &Value) -> Value {
    let kind = interrupt["metadata"]["outlive"]["kind"].as_str().expect("a kind");
    let payload = match kind {
        "user_input" => json!({ "colour": "red" }),
        "route_selection" => json!({ "choices": ["route b"] }),
        "error" => json!({ "decision": "skip" }),
        "outcome" => json!({ "result": "done" }),
        _ => json!({ "approved": true }),
    };
    json!({ "interruptId": interrupt["id"], "status": "resolved", "payload": payload })
}

/// Every part of a run for the client: what it asked for, and what it was told.
async fn whole(client: &reqwest::Client, url: &str, thread: &str, text: &str) -> (Page, Vec<(Value, Vec<Value>)>) {
    let mut page = Page::with(vec![user(text)]);
    let mut parts = Vec::new();
    let mut asked = request(thread, &format!("{thread}.0"), &[user(text)], &[]);
    loop {
        let told = ask(client, url, &asked).await;
        page.hear_all(&told).unwrap_or_else(|problem| panic!("{thread}: {problem}"));
        parts.push((asked.clone(), told));
        if page.end.as_deref() != Some("interrupt") {
            return (page, parts);
        }
        assert!(parts.len() < 10, "{thread} asks without end");
        let answers: Vec<Value> = page.interrupts.iter().map(answer).collect();
        asked = request(thread, &format!("{thread}.{}", parts.len()), &page.messages, &answers);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_run_is_told_so_that_a_page_takes_it_and_from_every_place_on() {
    let world = World::new().await;
    let app = App::start(&world, "agui").await;
    let client = client();
    let mut interrupted = 0;
    let mut kinds = std::collections::BTreeSet::new();
    for (number, (path, text)) in ALL.iter().enumerate() {
        let url = format!("http://{}/{path}/agui", app.address);
        let thread = format!("thread-{number}");
        let (page, parts) = whole(&client, &url, &thread, text).await;
        interrupted += parts.len() - 1;
        kinds.extend(parts.iter().flat_map(|(_, told)| told).map(|event| event["type"].as_str().unwrap().to_owned()));
        for (asked, told) in &parts {
            for (at, event) in told.iter().enumerate() {
                let rest = stateless(&ask(&client, &url, &after(asked.clone(), event)).await);
                // The first part goes on with the others, by now.
                let expected = stateless(&told[at + 1..]);
                assert!(rest.starts_with(&expected), "{path} after {at}: {rest:?} instead of {expected:?}");
                if parts.len() == 1 {
                    assert_eq!(rest.len(), expected.len(), "{path} after {at}");
                }
            }
        }
        // Whoever comes now is told the same, in one.
        let late = ask(&client, &url, &request(&thread, &format!("{thread}.0"), &[user(text)], &[])).await;
        let mut visitor = Page::with(vec![user(text)]);
        visitor.hear_all(&late).unwrap_or_else(|problem| panic!("{path}: {problem}"));
        let shown = |page: &Page| {
            page.messages.iter().filter(|message| message["role"] != "reasoning").cloned().collect::<Vec<_>>()
        };
        assert_eq!((shown(&visitor), &visitor.end, &visitor.state), (shown(&page), &page.end, &page.state), "{path}");
        if *path != "workflows/failing" && !path.starts_with("workflows/failing-agent") {
            assert_eq!(page.end.as_deref(), Some("success"), "{path}: {:?}", parts.last());
            let content = outlive::core::content_text(Some(&page.result));
            assert!(content.is_empty() || page.texts().contains(&content.as_str()), "{path}: {content} {page:?}");
        }
    }
    assert!(interrupted >= 11, "{interrupted} questions were asked");
    for kind in [
        "RUN_STARTED",
        "RUN_FINISHED",
        "RUN_ERROR",
        "STEP_STARTED",
        "STEP_FINISHED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "TOOL_CALL_RESULT",
        "REASONING_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_END",
        "STATE_SNAPSHOT",
        "SUBAGENT_STARTED",
        "SUBAGENT_FINISHED",
        "CUSTOM",
    ] {
        assert!(kinds.contains(kind), "no run had a {kind}: {kinds:?}");
    }
    app.stop().await;
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Paint {
    #[expect(dead_code, reason = "the tool runs elsewhere")]
    colour: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_the_pages_own_is_called_there_and_its_result_goes_on_with_the_run() {
    let world = World::new().await;
    let painter = Agent::new("Painter").id("painter").model(world.responses());
    let painter = painter.tool(Tool::external::<Paint>("paint", "Paints the page."));
    let server = outlive::Server::builder(world.db()).agent(&painter).start().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/agui", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.clone();
    let running = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serving.serve_on(vec![listener], stopped).await
    });
    let client = client();
    let text = r#"TOOL=paint:{"colour":"red"}"#;
    for (thread, version) in [("old", None), ("new", Some("1.0"))] {
        let tools = json!([{ "name": "paint", "description": "Paints.", "parameters": {} }]);
        let with_tools = |mut request: Value| {
            request["tools"] = tools.clone();
            request["protocolVersion"] = json!(version);
            request
        };
        let first = with_tools(request(thread, &format!("{thread}-1"), &[user(text)], &[]));
        let told = ask(&client, &url, &first).await;
        let mut page = Page::with(vec![user(text)]);
        page.hear_all(&told).unwrap();
        let call = page.messages.last().unwrap()["toolCalls"][0].clone();
        assert_eq!(
            (&call["function"]["name"], &call["function"]["arguments"]),
            (&json!("paint"), &json!(r#"{"colour":"red"}"#))
        );
        let outcome = told.last().unwrap().get("outcome").cloned();
        let expected = version.map(|_| json!({ "type": "success", "pendingToolCallIds": [call["id"]] }));
        assert_eq!(outcome, expected, "nobody is asked");
        let mut messages = page.messages.clone();
        messages.push(json!({ "id": "r1", "role": "tool", "toolCallId": call["id"], "content": "it is red" }));
        page.messages = messages.clone();
        let second = with_tools(request(thread, &format!("{thread}-2"), &messages, &[]));
        let rest = ask(&client, &url, &second).await;
        page.hear_all(&rest).unwrap();
        assert_eq!(page.end.as_deref(), Some("success"), "{rest:?}");
        let last = world.models.log().last().map(|exchange| exchange.request.to_string()).unwrap_or_default();
        assert!(last.contains("it is red"), "the model was told: {last}");
        assert_eq!(ask(&client, &url, &second).await, rest, "and once more is the same");
        let nobodys = json!([{ "id": "r9", "role": "tool", "toolCallId": "nobodys", "content": "x" }]);
        let lost = with_tools(request(thread, "lost", nobodys.as_array().unwrap(), &[]));
        let answer = client.post(&url).json(&lost).send().await.unwrap();
        assert_eq!(answer.status(), 404);
    }
    // A page that has no such tool is asked like anybody.
    let told = ask(&client, &url, &request("plain", "plain-1", &[user(text)], &[])).await;
    let mut page = Page::with(vec![user(text)]);
    page.hear_all(&told).unwrap();
    assert_eq!((page.end.as_deref(), &page.interrupts[0]["reason"]), (Some("interrupt"), &json!("tool_call")));
    assert_eq!(page.interrupts[0]["toolCallId"], page.messages.last().unwrap()["toolCalls"][0]["id"]);
    let answer = json!({ "interruptId": page.interrupts[0]["id"], "status": "resolved", "payload": "it is blue" });
    page.hear_all(&ask(&client, &url, &request("plain", "plain-2", &page.messages.clone(), &[answer])).await).unwrap();
    assert_eq!(page.end.as_deref(), Some("success"));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

/// Follows over one connection after the other, each time from the last event that it has, as Agno's client for AG-UI
/// does.
async fn follow(client: &reqwest::Client, url: &str, request: &Value, told: &mut Vec<Value>, at_most: usize) {
    let asked = told.last().map_or_else(|| request.clone(), |last| after(request.clone(), last));
    let Ok(mut answer) = client.post(url).json(&asked).send().await else { return };
    let (mut text, mut new) = (String::new(), 0);
    while let Ok(Some(bytes)) = answer.chunk().await {
        text.push_str(std::str::from_utf8(&bytes).expect("whole characters"));
        while let Some(end) = text.find("\n\n") {
            let frame: String = text.drain(..end + 2).collect();
            if let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) {
                told.push(serde_json::from_str(data).expect("JSON"));
                new += 1;
            }
            if new == at_most {
                return;
            }
        }
    }
}

fn is_over(told: &[Value]) -> bool {
    told.last().is_some_and(|last| last["type"] == "RUN_FINISHED" || last["type"] == "RUN_ERROR")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_follows_a_run_through_kill_minus_nine_and_keeps_no_text_that_did_not_count() {
    let mut dropped = 0;
    for cut in [4, 9, 14, 19] {
        let world = World::new().await;
        let text = "AI trends CHUNKS=12 CHUNKDELAY=0.02";
        let asked = request("thread", "run", &[user(text)], &[]);
        let client = client();
        let mut told = Vec::new();
        let path = "workflows/content-creation-workflow/agui";
        let mut process = Process::start(&world).await;
        for _ in 0..2 {
            let url = format!("http://{}/{path}", process.address);
            tokio::time::timeout(PATIENCE, follow(&client, &url, &asked, &mut told, cut)).await.expect("it goes on");
            process.kill();
            process = Process::start(&world).await;
        }
        let url = format!("http://{}/{path}", process.address);
        let last = async {
            while !is_over(&told) {
                follow(&client, &url, &asked, &mut told, usize::MAX).await;
            }
        };
        tokio::time::timeout(PATIENCE, last).await.expect("it ends");
        // One stream, as if nothing had happened to it.
        let mut page = Page::with(vec![user(text)]);
        page.hear_all(&told).unwrap_or_else(|problem| panic!("cut at {cut}: {problem}"));
        assert_eq!(page.end.as_deref(), Some("success"));
        let whole = ask(&client, &url, &after(asked.clone(), &told[0])).await;
        assert_eq!(told[1..], whole, "cut at {cut}");
        let late = ask(&client, &url, &asked).await;
        let mut visitor = Page::with(vec![user(text)]);
        visitor.hear_all(&late).expect("accepted");
        assert_eq!(visitor.messages, page.messages, "cut at {cut}");
        // What a model had begun to say and said again is there once: the plan is what the last agent said, and nothing
        // of it stands elsewhere.
        let texts = page.texts();
        assert_eq!(texts.last().map(|text| json!(text)), Some(page.result.clone()), "cut at {cut}: {texts:?}");
        dropped += told.iter().filter(|event| event["metadata"]["outlive"]["dropped"] == true).count();
    }
    assert!(dropped > 0, "no process died in the middle of a text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_team_are_subagents_that_are_suspended_while_people_are_asked() {
    let send = Tool::new("send", "Sends a letter.", async |_: Map<String, Value>, _| Ok::<_, Failure>("sent"));
    let call = |name: &str, arguments: &str| {
        // Each numbers its calls from one.
        ModelResponse::calls(vec![ToolCall::new("call-1", name, arguments)])
    };
    let clerk = ScriptedModel::replies([call("send", "{}"), ModelResponse::text("It is on its way.")]);
    let clerk = Agent::new("Clerk").id("clerk").model(clerk).tools(send.requires_confirmation());
    let order = r#"{"member_id": "clerk", "task": "send it"}"#;
    let leader =
        ScriptedModel::replies([call("delegate_task_to_member", order), ModelResponse::text("The clerk has done it.")]);
    let team = Team::new("Office").id("office").model(leader).members([clerk]);
    let server = outlive::Server::builder(InMemoryDb::new()).team(&team).start().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/agui", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.clone();
    let running = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        serving.serve_on(vec![listener], stopped).await
    });
    let client = client();
    let (page, parts) = whole(&client, &url, "letters", "Send the letter").await;
    let [(_, first), (asked, second)] = &parts[..] else { panic!("it asks once: {parts:?}") };
    let of = |told: &[Value], kind: &str| {
        let found: Vec<Value> = told.iter().filter(|event| event["type"] == kind).cloned().collect();
        assert_eq!(found.len(), 1, "{kind}: {told:?}");
        found.into_iter().next().unwrap()
    };
    let began = of(first, "SUBAGENT_STARTED");
    let id = &began["subagentRunId"];
    let delegated = first.iter().find(|event| event["toolCallName"] == "delegate_task_to_member").unwrap();
    assert_eq!((&began["name"], &began["parentToolCallId"]), (&json!("Clerk"), &delegated["toolCallId"]));
    assert!(delegated.get("subagentRunId").is_none() && began.get("parentSubagentRunId").is_none(), "{delegated}");
    let sends = first.iter().find(|event| event["toolCallName"] == "send").unwrap();
    assert_eq!(&sends["subagentRunId"], id);
    let interrupt = &first.last().unwrap()["outcome"]["interrupts"][0];
    assert_eq!((&interrupt["subagentRunId"], &interrupt["toolCallId"]), (id, &sends["toolCallId"]));
    assert_ne!(sends["toolCallId"], delegated["toolCallId"]);
    let suspended = of(first, "SUBAGENT_FINISHED");
    assert_eq!(suspended["outcome"], json!({ "type": "suspended", "interruptIds": [interrupt["id"]] }));
    // It goes on as the same, and says what it has to say.
    assert_eq!(of(second, "SUBAGENT_STARTED"), {
        let mut again = began.clone();
        again["metadata"] = of(second, "SUBAGENT_STARTED")["metadata"].clone();
        again
    });
    let done = of(second, "SUBAGENT_FINISHED");
    assert_eq!((&done["subagentRunId"], &done["result"]), (id, &json!("It is on its way.")));
    let said = page.messages.iter().find(|message| message["content"] == "It is on its way.").unwrap();
    assert_eq!(&said["subagentRunId"], id);
    assert_eq!(page.result, "The clerk has done it.");
    // A client of before has never heard of subagents; its events have the same places.
    let mut of_before = asked.clone();
    of_before["protocolVersion"] = Value::Null;
    let told = ask(&client, &url, &of_before).await;
    let known: Vec<&Value> =
        second.iter().filter(|event| !event["type"].as_str().unwrap().starts_with("SUBAGENT_")).collect();
    assert_eq!(told.len(), known.len(), "{told:?}");
    for (old, new) in told.iter().zip(known) {
        assert_eq!((&old["type"], &old["metadata"]), (&new["type"], &new["metadata"]));
        assert!(!old.to_string().contains("subagent"), "{old}");
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
