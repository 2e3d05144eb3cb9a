//! A real SIGKILL while a tool that must not run twice is at work, and what every way of looking says of the runs that are
//! left: of the one that was at it, and of the next one of its session.

use crate::fixture::Place;
use crate::running::Running;
use outlive::core::{ModelResponse, ToolCall, ToolEffect};
use outlive::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Set in the child process: the database, and whether it begins runs.
const CHILD: &str = "OUTLIVE_CLI_TEST_CHILD";

#[derive(Deserialize, JsonSchema)]
struct Tickets {
    /// How many.
    num: u32,
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "shop: {text}").unwrap();
}

fn shop(path: &str) -> Workflow {
    let buy = |wanted: Tickets, _: ToolContext| async move {
        say(&format!("buying {}", wanted.num));
        std::future::pending::<()>().await;
        Ok::<_, Failure>(Value::Null)
    };
    let model = ScriptedModel::from_fn("clerk", |request| {
        let is_buyer = request.messages.iter().any(|message| message.content.as_deref() == Some("buy"));
        let call = || ToolCall::new("call-1", "buy", json!({ "num": 2 }).to_string());
        Ok(if is_buyer { ModelResponse::calls(vec![call()]) } else { ModelResponse::text("nothing to do") })
    });
    let tool = Tool::new("buy", "Buys tickets.", buy).effect(ToolEffect::Once);
    let clerk = Agent::new("Clerk").model(model).tools(vec![tool]);
    Workflow::builder("Ticket Shop").db(SqliteDb::new(path)).step(Step::new("Serve").agent(clerk)).build().unwrap()
}

/// Not a test by itself: the program that executes runs until it is killed.
#[tokio::test]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (begins, path) = told.split_once(' ').unwrap();
    let shop = shop(path);
    if begins == "begin" {
        for (id, input) in [("first", "buy"), ("second", "look around")] {
            shop.run(input).run_id(id).session_id("till").background().await.unwrap();
        }
    }
    let first = shop.attach("first").await.unwrap();
    let mut events = first.events(None);
    while let Some(event) = events.next().await.unwrap() {
        if event.name() == "WorkflowPaused" {
            say("paused");
            break;
        }
    }
    shop.attach("second").await.unwrap().wait().await.unwrap();
    say("the second run has ended");
    std::future::pending::<()>().await;
}

struct Shop {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Shop {
    fn open(place: &Place, begins: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "waits::child", "--nocapture"]);
        command.env(CHILD, format!("{begins} {}", place.path("shop.db").display()));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Waits until it has said this.
    fn until(&mut self, text: &str) {
        let wanted = format!("shop: {text}");
        assert!(self.lines.any(|line| line.unwrap().ends_with(&wanted)), "the shop ended without saying {text:?}");
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn whoever_is_left_by_a_kill_in_a_tool_that_runs_once_says_what_it_waits_for_and_what_to_do() {
    let place = Place::new();
    let on = |arguments: &[&str]| place.run(&[arguments, &["--db", "shop.db"]].concat());
    let shown = |id: &str| on(&["show", id, "--json"]).exits(0).json();
    let mut shop = Shop::open(&place, "begin");
    shop.until("buying 2");
    let first = shown("first");
    assert_eq!((&first["status"], &first["waiting"]["for"]), (&json!("running"), &json!("tool")), "{first}");
    assert_eq!(first["waiting"]["on"], "buy");

    // Nobody is left: the first is not running, whatever its row says, and the second waits for the first.
    shop.kill();
    let first = shown("first");
    assert_eq!((&first["status"], &first["waiting"]["for"]), (&json!("interrupted"), &json!("worker")), "{first}");
    assert_eq!(first["waiting"]["remedy"], json!({ "do": "start_worker" }));
    let second = shown("second");
    assert_eq!((&second["status"], &second["waiting"]["for"]), (&json!("pending"), &json!("session")), "{second}");
    assert!(second["waiting"]["reason"].as_str().unwrap().contains("that one is interrupted"), "{second}");
    let page = on(&["show", "first"]).exits(0).stdout;
    assert!(page.contains("! interrupted") && !page.contains("running"), "{page}");
    assert!(page.contains("start a program that has the workflow ticket-shop"), "{page}");
    let ids = |filter: &str| {
        let list = on(&["ls", filter, "--json"]).exits(0).json();
        list["runs"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids("status:interrupted"), ["first"]);
    assert_eq!(ids("status:running"), Vec::<Value>::new());
    assert_eq!(ids("status:interrupted,pending"), ["second", "first"]);

    // The next process pauses the run, because nobody knows whether the tool ran.
    let mut shop = Shop::open(&place, "resume");
    shop.until("paused");
    let first = shown("first");
    let waiting = &first["waiting"];
    assert_eq!((&first["status"], &waiting["for"]), (&json!("paused"), &json!("person")));
    let reason = waiting["reason"].as_str().unwrap();
    assert!(reason.contains("whether the tool buy ran with {\"num\":2}"), "{reason}");
    assert_eq!(waiting["remedy"]["do"], "answer");
    let question = waiting["remedy"]["question_id"].as_str().unwrap();
    let second = shown("second");
    let waiting = &second["waiting"];
    assert_eq!((&second["status"], &waiting["for"]), (&json!("pending"), &json!("session")), "{second}");
    assert_eq!((&waiting["on"], &waiting["remedy"]["question_id"]), (&json!("first"), &json!(question)));
    assert_eq!(waiting["hint"], first["waiting"]["hint"]);

    // The same in words, where people look.
    let page = on(&["show", "second"]).exits(0).stdout;
    assert!(page.contains("Waits    for an earlier run: run first of its session has to end first"), "{page}");
    assert!(page.contains("that one is paused: agent \"Clerk\": nobody knows whether the tool buy ran"), "{page}");
    assert!(page.contains(&format!("outlive answer {question} --result TEXT --db shop.db")), "{page}");
    assert!(!page.contains("waits for a process"), "{page}");
    let page = on(&["show", "first"]).exits(0).stdout;
    assert!(page.contains("Waits    for a person") && page.contains("the tool buy ran with {\"num\":2}"), "{page}");
    assert!(page.contains("check with the service behind it whether it ran"), "{page}");
    let list = on(&["ls"]).exits(0).stdout;
    assert!(list.contains("a person: ") && list.contains("run first"), "{list}");
    let watched = on(&["watch", "first"]).exits(12);
    assert!(watched.stderr.contains("paused and waits for a person: ") && watched.stderr.contains("the tool buy"));
    let refused = on(&["output", "second"]).exits(5).stderr;
    assert!(refused.contains("run second is pending: run first of its session") && refused.contains(question));
    let mut watching = place.command(&["watch", "second", "--db", "shop.db"]);
    let mut watching = watching.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watching.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("pending: run first of its session has to end first; that one is paused")));
    watching.kill().unwrap();
    watching.wait().unwrap();

    // And for programs, from a process that executes nothing.
    let server = Running::serve(&place, &["--no-execute", "--db", "shop.db"]);
    let told = server.get("/api/runs/second").json();
    assert_eq!((&told["status"], &told["waiting"]), (&json!("PENDING"), &second["waiting"]), "{told}");
    let told = server.get("/api/runs/first").json();
    assert_eq!((&told["status"], &told["waiting"]), (&json!("PAUSED"), &first["waiting"]), "{told}");
    assert!(
        server.get("/api/workers").json()["workers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|worker| { worker["workflows"] == json!(["ticket-shop"]) && worker["life"] == "lives" })
    );
    server.stop().exits(0);

    // What it said was true.
    on(&["cancel", "first"]).exits(0);
    shop.until("the second run has ended");
    assert_eq!(shown("second")["waiting"], Value::Null);
    assert_eq!(on(&["output", "second"]).exits(0).stdout, "nothing to do\n");
}

#[test]
fn a_busy_session_is_waited_for_or_refuses_or_is_interrupted() {
    let place = Place::new();
    let run = |policy: &str| {
        let asked = ["run", "-d", "content-creation-demo", "AI", "--session", "s", "--db", "a.db", "--json"];
        place.run(&[&asked[..], &["--session-policy", policy]].concat())
    };
    // Nobody executes these.
    let first = run("steer").exits(0).json();
    assert_eq!(first.get("steering_run_id"), None, "{first}");
    assert_eq!(run("reject").exits(5).error()["code"], "session_busy");
    let steered = run("steer").exits(0).json();
    assert_eq!(steered["id"], first["id"]);
    let waits = steered["steering_run_id"].as_str().unwrap().to_owned();
    let last = run("interrupt").exits(0).json();
    let shown = |id: &str| place.run(&["show", id, "--db", "a.db", "--json"]).exits(0).json();
    for id in [first["id"].as_str().unwrap(), &waits] {
        let reason = format!("interrupted by run {}", last["id"].as_str().unwrap());
        assert_eq!(shown(id)["cancel_reason"], reason, "{}", shown(id));
    }
    let done = run("push").exits(2);
    assert!(done.stderr.contains("use one of queue, reject, parallel, interrupt, steer"), "{}", done.stderr);
}
