//! Answers over HTTP to agents whose model server uses the ids of calls again: each reaches the call that it names, and no
//! other.

use crate::agno::replay::{client, form};
use outlive::Server;
use outlive::core::log::{Entry, Part, Record};
use outlive::core::{Block, ModelRequest, Role};
use outlive::engine::Submit;
use outlive::engine::testing::read_log;
use outlive::prelude::*;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// What was deleted.
type Deleted = Arc<Mutex<Vec<String>>>;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Of {
    of: String,
}

/// Deletes something in each of so many turns, always under the same id.
fn janitor(name: &'static str, turns: usize, tool: Tool) -> Step {
    let script = move |request: &ModelRequest| {
        let before = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
        Ok(match before < turns {
            true => {
                let arguments = json!({ "of": format!("{name} {before}") }).to_string();
                ModelResponse::calls(vec![ToolCall::new("call_1", "delete", arguments)])
            }
            false => ModelResponse::text("clean"),
        })
    };
    Step::new(name).agent(Agent::new(name).model(ScriptedModel::from_fn("janitor", script)).tool(tool))
}

fn delete(deleted: &Deleted) -> Tool {
    let deleted = deleted.clone();
    let delete = move |of: Of, _: ToolContext| {
        let deleted = deleted.clone();
        async move {
            deleted.lock().unwrap().push(of.of);
            Ok::<_, Failure>("deleted")
        }
    };
    Tool::new("delete", "Deletes it", delete).requires_confirmation()
}

struct Served {
    url: String,
    serving: JoinHandle<outlive::Result<()>>,
}

impl Served {
    async fn start(step: impl Into<Block>) -> Self {
        let db = InMemoryDb::new();
        let workflow = Workflow::builder("Clean").id("clean").db(db.clone()).step(step).build().unwrap();
        let server = Server::builder(db).workflow(&workflow).open_to_all().start().await.unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/workflows/clean", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { server.serve_on(vec![listener], std::future::pending()).await });
        Self { url, serving }
    }

    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let request = form(client().post(format!("{}{path}", self.url)), fields);
        let answer = timeout(PATIENCE, request.send()).await.expect("in time").unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// A run that has paused.
    async fn begin(&self) -> Value {
        let (status, run) = self.post("/runs", &[("message", "hi"), ("stream", "false")]).await;
        assert_eq!((status, &run["status"]), (200, &json!("PAUSED")), "{run}");
        run
    }

    async fn go_on(&self, run: &Value, requirements: &Value) -> (u16, Value) {
        let path = format!("/runs/{}/continue", run["run_id"].as_str().unwrap());
        self.post(&path, &[("stream", "false"), ("step_requirements", &requirements.to_string())]).await
    }
}

fn says(requirement: &mut Value, yes: bool) {
    requirement["confirmation"] = json!(yes);
    requirement["tool_execution"]["confirmed"] = json!(yes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_calls_of_one_id_side_by_side_the_one_that_was_allowed_is_made() {
    for allowed in [0, 1] {
        let deleted = Deleted::default();
        let [one, two] = ["one", "two"].map(|name| janitor(name, 1, delete(&deleted)));
        let served = Served::start(Parallel::new("both").step(one).step(two)).await;
        let run = served.begin().await;
        let mut answered = run["step_requirements"].clone();
        for at in 0..2 {
            says(&mut answered[at]["executor_requirements"][0], at == allowed);
        }
        // Without the ids nobody knows which is which.
        let mut unnamed = answered.clone();
        for at in 0..2 {
            unnamed[at]["executor_requirements"][0].as_object_mut().unwrap().remove("id");
        }
        let (status, told) = served.go_on(&run, &unnamed).await;
        assert!(status == 400 && told["detail"].as_str().unwrap().contains("2 questions are open"), "{told}");
        for at in 0..2 {
            let id = answered[at]["executor_requirements"][0]["id"].as_str().unwrap();
            assert!(told["detail"].as_str().unwrap().contains(id), "{told}");
        }
        assert_eq!(*deleted.lock().unwrap(), Vec::<String>::new());
        let (status, done) = served.go_on(&run, &answered).await;
        assert_eq!((status, &done["status"]), (200, &json!("COMPLETED")), "{done}");
        let step = answered[allowed]["step_name"].as_str().unwrap();
        assert_eq!(*deleted.lock().unwrap(), [format!("{step} 0")]);
        served.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_calls_of_one_id_one_after_the_other_each_has_its_own_answer() {
    for (first, second) in [(true, false), (false, true)] {
        let deleted = Deleted::default();
        let served = Served::start(janitor("one", 2, delete(&deleted))).await;
        let run = served.begin().await;
        let mut answered = run["step_requirements"].clone();
        says(&mut answered[0]["executor_requirements"][0], first);
        let (status, now) = served.go_on(&run, &answered).await;
        assert_eq!((status, &now["status"]), (200, &json!("PAUSED")), "{now}");
        // Once more, from a client that has not heard of the second.
        let (status, told) = served.go_on(&run, &answered).await;
        assert!(status == 400 && told["detail"].as_str().unwrap().contains("unresolved"), "{told}");
        let mut last = now["step_requirements"].clone();
        let step = last.as_array_mut().unwrap().last_mut().unwrap();
        let calls = step["executor_requirements"].as_array_mut().unwrap();
        says(calls.last_mut().unwrap(), second);
        // The second alone: it contradicts nothing.
        calls.drain(..calls.len() - 1);
        let alone = json!([step]);
        let (status, done) = served.go_on(&run, &alone).await;
        assert_eq!((status, &done["status"]), (200, &json!("COMPLETED")), "{done}");
        let expected = [(first, "one 0"), (second, "one 1")];
        let expected: Vec<_> = expected.iter().filter(|(allowed, _)| *allowed).map(|(_, what)| *what).collect();
        assert_eq!(*deleted.lock().unwrap(), expected);
        served.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pages_result_for_an_id_that_two_calls_have_is_refused_and_the_interrupts_named() {
    let tool = || Tool::external::<Of>("delete", "Deletes it on the page");
    let [one, two] = ["one", "two"].map(|name| janitor(name, 1, tool()));
    let served = Served::start(Parallel::new("both").step(one).step(two)).await;
    let ask = async |run: &str, messages: Value, resume: Value| {
        let mut request = json!({
            "threadId": "t", "runId": run, "protocolVersion": "1.0", "state": {}, "messages": messages, "tools": [],
            "context": [], "forwardedProps": {},
        });
        if resume != json!([]) {
            request["resume"] = resume;
        }
        let asked = client().post(format!("{}/agui", served.url)).json(&request).send();
        let answer = timeout(PATIENCE, asked).await.expect("in time").unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let user = json!({ "id": "u1", "role": "user", "content": "hi" });
    let (status, told) = ask("r1", json!([user]), json!([])).await;
    assert_eq!(status, 200, "{told}");
    let last = told.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    let interrupts = last["outcome"]["interrupts"].as_array().unwrap();
    assert_eq!(interrupts.len(), 2, "{last}");
    let result = json!({ "id": "r", "role": "tool", "toolCallId": "call_1", "content": "gone" });
    let (status, told) = ask("r2", json!([user, result]), json!([])).await;
    assert_eq!(status, 400, "{told}");
    assert!(interrupts.iter().all(|interrupt| told.contains(interrupt["id"].as_str().unwrap())), "{told}");
    let resume = interrupts
        .iter()
        .map(|interrupt| json!({ "interruptId": interrupt["id"], "status": "resolved", "payload": "gone" }));
    let (status, told) = ask("r3", json!([user]), resume.collect()).await;
    assert!(status == 200 && told.contains("RUN_FINISHED") && !told.contains("interrupts"), "{told}");
    served.serving.abort();
}

#[tokio::test]
async fn a_call_that_was_approved_under_four_eyes_is_made_once_wherever_its_run_is_forked() {
    let (db, deleted) = (InMemoryDb::new(), Deleted::default());
    let step = janitor("one", 3, delete(&deleted).four_eyes());
    let workflow = Workflow::builder("Clean").id("clean").db(db.clone()).step(step).build().unwrap();
    let engine = workflow.engine().await.unwrap();
    let request = Submit { input: Some(json!("hi")), user_id: Some("ada".to_owned()), ..Submit::default() };
    let run = engine.submit(&"clean".parse().unwrap(), request).await.unwrap();
    let rests = async |run: &RunHandle| timeout(PATIENCE, run.wait()).await.expect("it rests").unwrap().status;
    for answer in [Answer::Approve, Answer::reject("keep it"), Answer::Approve] {
        assert_eq!(rests(&run).await, RunStatus::Paused);
        run.questions().await.unwrap().remove(0).by("bob").answer(answer).await.unwrap();
    }
    assert_eq!(rests(&run).await, RunStatus::Completed);
    let once = ["one 0", "one 2"];
    assert_eq!(*deleted.lock().unwrap(), once);
    let log = read_log(&db, run.run_id()).await;
    let is_end_of_call = |entry: &Entry| match &entry.record {
        Some(Record::Result { key, .. }) => matches!(key.parts().last(), Some(Part::Call(_))),
        _ => false,
    };
    let all_have_ended = log.iter().rposition(is_end_of_call).unwrap() + 1;
    for at in 0..log.len() {
        let fork = run.fork(at as u64).by("ada").background().await.unwrap();
        let status = rests(&fork).await;
        assert_eq!(*deleted.lock().unwrap(), once, "at {at}: nobody has approved it again");
        // What was decided about calls that have ended is kept.
        let expected = if at < all_have_ended { RunStatus::Paused } else { RunStatus::Completed };
        assert_eq!(status, expected, "at {at}");
    }
}
