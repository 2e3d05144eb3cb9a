//! `outlive mcp`, spoken to as an assistant does: a line of JSON for each message.

use crate::fixture::Place;
use crate::running::{PATIENCE, Running};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// An assistant's end of it.
struct Assistant {
    child: Child,
    writes: Option<ChildStdin>,
    reads: BufReader<ChildStdout>,
    asked: u64,
}

impl Assistant {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (writes, reads) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut assistant = Self { child, writes, reads, asked: 0 };
        let about = json!({ "name": "for tests", "version": "1" });
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": about });
        let hello = assistant.ask("initialize", params);
        assert_eq!(hello["serverInfo"]["name"], "outlive", "{hello}");
        assistant.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        assistant
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.writes.as_mut().unwrap(), "{message}").unwrap();
    }

    /// The result of a request. All that is written to standard output is the protocol's.
    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let mut line = String::new();
            assert!(self.reads.read_line(&mut line).unwrap() > 0, "it has ended: {:?}", self.child.try_wait());
            let message: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if message["id"] == id {
                assert!(message.get("error").is_none(), "{message}");
                return message["result"].clone();
            }
        }
    }

    /// What a tool gives.
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.ask("tools/call", json!({ "name": tool, "arguments": arguments }));
        assert_ne!(result["isError"], true, "{result}");
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, result["structuredContent"]);
        text
    }

    /// What a tool has against it.
    fn refused(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.ask("tools/call", json!({ "name": tool, "arguments": arguments }));
        assert_eq!(result["isError"], true, "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Closes its standard input, and waits for its end.
    fn leave(mut self) {
        drop(self.writes.take());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Assistant {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FILE: &str = "\
version: 1
store: sqlite:runs.db
workflows:
  tea:
    description: Makes tea
    input: { type: object, required: [cup], properties: { cup: { type: string } } }
    steps:
      - step: Brew
        command: [sh, -c, \"echo brewed >> brewed.log; while [ ! -e go ]; do sleep 0.02; done; echo a cup of tea\"]
        effect: idempotent
      - step: Serve
        command: [echo, served]
        effect: read
        review: { confirm: \"Serve it?\" }
";

fn place() -> Place {
    let place = Place::new();
    std::fs::write(place.path("tea.yaml"), FILE).unwrap();
    place
}

fn assistant(place: &Place, more: &[&str]) -> Assistant {
    let mut command = place.command(&[&["mcp", "tea.yaml", "--allow-commands"], more].concat());
    Assistant::start(command.env("PATH", "/usr/bin:/bin"))
}

#[test]
fn an_assistant_starts_a_run_comes_back_for_it_after_a_kill_and_answers_what_it_asks() {
    let place = place();
    let mut first = assistant(&place, &[]);
    let tools = first.ask("tools/list", json!({}))["tools"].clone();
    let names: Vec<_> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["list_workflows", "start_run", "wait_for_run", "get_run", "list_runs", "answer_question", "cancel_run"]
    );
    for tool in tools.as_array().unwrap() {
        assert_eq!(
            (&tool["inputSchema"]["type"], &tool["outputSchema"]["type"]),
            (&json!("object"), &json!("object")),
            "{tool}"
        );
        assert!(tool["description"].as_str().unwrap().len() > 20 && tool["annotations"].is_object(), "{tool}");
    }
    assert!(tools[1]["description"].as_str().unwrap().contains("- tea: Makes tea (its input: {"), "{}", tools[1]);
    let workflows = first.call("list_workflows", json!({}));
    assert_eq!(workflows["workflows"][0]["input_schema"]["required"], json!(["cup"]));

    let start = json!({ "workflow": "tea", "input": { "cup": "the blue one" }, "idempotency_key": "k" });
    let started = first.call("start_run", start.clone());
    let run_id = started["run_id"].as_str().unwrap().to_owned();
    assert_eq!(first.call("start_run", start)["run_id"], run_id.as_str(), "the same call again is the same run");
    let waited = first.call("wait_for_run", json!({ "run_id": run_id, "timeout_seconds": 0 }));
    assert!(["PENDING", "RUNNING"].contains(&waited["status"].as_str().unwrap()), "{waited}");
    let began = Instant::now();
    while !place.path("brewed.log").exists() {
        assert!(began.elapsed() < PATIENCE, "it never begins");
        std::thread::yield_now();
    }
    first.child.kill().unwrap();
    drop(first);

    std::fs::write(place.path("go"), "").unwrap();
    let mut second = assistant(&place, &[]);
    let asks = second.call("wait_for_run", json!({ "run_id": run_id, "timeout_seconds": 60 }));
    assert_eq!((&asks["status"], &asks["questions"][0]["message"]), (&json!("PAUSED"), &json!("Serve it?")), "{asks}");
    let question = &asks["questions"][0];
    assert_eq!(question["answers"], json!(["approve", "reject"]));
    let wrong =
        second.refused("answer_question", json!({ "question_id": question["id"], "answer": { "do": "perhaps" } }));
    assert!(wrong.starts_with("the arguments do not fit: ") && wrong.contains(r#"{"do": "approve"}"#), "{wrong}");
    let wrong = second.refused("answer_question", json!({ "question_id": question["id"], "answer": "perhaps" }));
    assert!(wrong.contains("perhaps") && wrong.contains(r#"{"do": "approve"}"#), "{wrong}");
    // As the question lists it.
    second.call("answer_question", json!({ "question_id": question["id"], "answer": question["answers"][0] }));
    let done = second.call("wait_for_run", json!({ "run_id": run_id, "timeout_seconds": 60 }));
    assert_eq!((&done["status"], &done["content"]), (&json!("COMPLETED"), &json!("served")), "{done}");
    assert_eq!(second.call("get_run", json!({ "run_id": &run_id[..8] }))["content"], "served");
    let brewed = std::fs::read_to_string(place.path("brewed.log")).unwrap();
    assert_eq!(brewed.lines().count(), 2, "the call in flight was repeated");
    let listed = second.call("list_runs", json!({ "workflow": "tea", "status": "COMPLETED" }));
    assert_eq!((listed["runs"].as_array().unwrap().len(), &listed["more"]), (1, &json!(false)));
    second.leave();
}

#[test]
fn what_an_assistant_says_wrong_is_told_in_words_and_nothing_is_lost() {
    let place = place();
    let mut assistant = assistant(&place, &["--no-execute", "--user", "ada"]);
    let unknown = assistant.refused("start_run", json!({ "workflow": "coffee" }));
    assert!(unknown.contains("there is no workflow coffee") && unknown.contains("there are: tea"), "{unknown}");
    let unfit = assistant.refused("start_run", json!({ "workflow": "tea", "input": { "cups": 1 } }));
    assert!(unfit.contains("cup"), "{unfit}");
    let never = assistant.refused("wait_for_run", json!({ "run_id": "x", "timeout_seconds": -1 }));
    assert!(never.contains("timeout_seconds is -1: write a whole number from 0 to 600"), "{never}");
    let never = assistant.refused("list_runs", json!({ "limit": "many" }));
    assert!(never.contains("limit is \"many\": write a whole number from 1 to 100"), "{never}");
    let extra = assistant.refused("get_run", json!({ "run": "x" }));
    assert!(extra.contains("unknown field `run`"), "{extra}");
    assert!(assistant.refused("get_run", json!({ "run_id": "no-such-run" })).contains("there is no run no-such-run"));
    assert!(assistant.refused("make_tea", json!({})).contains("there is no tool make_tea"));

    // Nobody executes it, and it can be cancelled all the same; it is its user's.
    let started = assistant.call("start_run", json!({ "workflow": "tea", "input": { "cup": "x" } }));
    let run_id = started["run_id"].clone();
    let stands = assistant.call("get_run", json!({ "run_id": run_id }));
    assert_eq!((&stands["status"], &stands["user_id"]), (&json!("PENDING"), &json!("ada")), "{stands}");
    let cancelled = assistant.call("cancel_run", json!({ "run_id": run_id, "reason": "no milk" }));
    assert_eq!(cancelled["cancel_requested"], true, "{cancelled}");
    assistant.leave();
    let mut other = self::assistant(&place, &["--no-execute", "--user", "bob"]);
    assert!(other.refused("get_run", json!({ "run_id": run_id })).contains("there is no run"), "another user's");
    assert_eq!(other.call("list_runs", json!({}))["runs"], json!([]));
    other.leave();
}

#[test]
fn an_assistant_may_use_a_servers_runs() {
    let place = place();
    std::fs::write(place.path("go"), "").unwrap();
    let mut serve = place.command(&["serve", "tea.yaml", "--allow-commands", "--addr", "127.0.0.1:0"]);
    let server = Running::start(serve.env("PATH", "/usr/bin:/bin"));
    let mut assistant = Assistant::start(&mut place.command(&["mcp", "--server", server.url()]));
    assert_eq!(assistant.call("list_workflows", json!({}))["workflows"][0]["id"], "tea");
    let started = assistant.call("start_run", json!({ "workflow": "tea", "input": { "cup": "x" } }));
    let wait = json!({ "run_id": started["run_id"], "timeout_seconds": 60 });
    let asks = assistant.call("wait_for_run", wait.clone());
    let id = &asks["questions"][0]["id"];
    assistant.call("answer_question", json!({ "question_id": id, "answer": { "do": "reject", "feedback": "cold" } }));
    let over = assistant.call("wait_for_run", wait);
    assert_ne!(over["status"], "PAUSED", "{over}");
    assistant.leave();
    server.stop();
    let refused = place.run(&["mcp", "tea.yaml", "--server", "http://127.0.0.1:9"]).exits(2);
    assert!(refused.stderr.contains("cannot be used with"), "{}", refused.stderr);
}
