//! What a store cannot give back as it was written: each stored text and number, damaged by another program, and each
//! reader of it. Nothing unreadable is shown as nothing, nothing executes on nothing, and nobody else is held up.

use outlive::client::Client;
use outlive::core::ModelResponse;
use outlive::core::port::{Access, Db, RunFilter, RunStore, SessionStore};
use outlive::engine::{Engine, Error as EngineError};
use outlive::prelude::*;
use outlive::{Options, RunId, Server};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a database, and a workflow that counts how often it is asked.
struct Place {
    folder: tempfile::TempDir,
    calls: Arc<AtomicUsize>,
    /// The second step waits for one permit.
    gate: Arc<Semaphore>,
}

impl Place {
    fn new() -> Self {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { folder: tempfile::tempdir().unwrap(), calls: Arc::default(), gate }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("runs.db")
    }

    fn db(&self) -> SqliteDb {
        SqliteDb::new(self.path())
    }

    fn workflow(&self, execute: bool) -> Workflow {
        let (calls, gate) = (self.calls.clone(), self.gate.clone());
        let first = move |context: StepContext, input: Arc<StepInput>| {
            calls.fetch_add(1, Ordering::Relaxed);
            context.state.set("first", input.text());
            async move { Ok::<_, Failure>(json!({ "said": input.text() })) }
        };
        let second = move |context: StepContext, input: Arc<StepInput>| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.map_err(Failure::fatal)?.forget();
                context.state.set("second", input.text());
                Ok::<_, Failure>(input.text())
            }
        };
        let options = Options { execute, ..Options::default() };
        let builder = Workflow::builder("Echo").db(self.db()).options(options);
        builder.step(Step::function("first", first)).step(Step::function("second", second)).build().unwrap()
    }

    /// Runs `r-1`, `r-2` in a session each, `r-3` in that of `r-1`, all over.
    async fn with_runs() -> Self {
        let place = Self::new();
        let workflow = place.workflow(true);
        for (run_id, session_id) in [("r-1", "s-1"), ("r-2", "s-2"), ("r-3", "s-1")] {
            let run = workflow.run(format!("of {run_id}")).run_id(run_id).session_id(session_id);
            let output = run.additional_data(json!({ "a": 1 })).await.unwrap();
            assert_eq!(output.status, RunStatus::Completed);
        }
        workflow.shutdown().await.unwrap();
        place
    }

    /// The same, waiting for a process that executes them.
    async fn with_waiting_runs() -> Self {
        let place = Self::new();
        let workflow = place.workflow(false);
        for (run_id, session_id) in [("r-1", "s-1"), ("r-2", "s-2")] {
            let run = workflow.run(format!("of {run_id}")).run_id(run_id).session_id(session_id);
            run.additional_data(json!({ "a": 1 })).background().await.unwrap();
        }
        workflow.shutdown().await.unwrap();
        place
    }

    /// Changes the file as another program would. `{run}` is the number of `r-1`.
    fn damage(&self, sql: &str) {
        let sql = sql.replace("{run}", "(SELECT seq FROM outlive_sessions_runs WHERE run_id = 'r-1')");
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        assert_eq!(connection.execute(&sql, []).unwrap(), 1, "{sql}");
    }
}

/// Texts that are no JSON, or not what was written; as SQL.
const DAMAGES: [&str; 5] =
    ["'{\"run_id\":'", "''", "'hunter2'", "CAST(x'7b22ff227d' AS TEXT)", "replace(hex(zeroblob(5000)), '0', '[')"];

fn id(text: &str) -> RunId {
    RunId::parse(text).unwrap()
}

/// A server on a port of its own, until it is dropped.
struct Running {
    server: Server,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<outlive::Result<()>>,
}

impl Running {
    async fn start(place: &Place) -> Self {
        let server = Server::builder(place.db()).workflow(&place.workflow(true)).open_to_all();
        let server = server.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = server.clone();
        let serving =
            tokio::spawn(async move { serving.serve_on(vec![listener], async { drop(stopped.await) }).await });
        Self { server, address, stop, serving }
    }

    fn client(&self) -> Client {
        Client::new(format!("http://{}", self.address)).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn send(&self, method: reqwest::Method, path: &str, body: &Value) -> (u16, Value) {
        let request = reqwest::Client::new().request(method, format!("http://{}{path}", self.address));
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Asks for something of `r-1` that cannot be read.
    async fn refuses(&self, path: &str, part: &str) {
        let (status, body) = self.get(path).await;
        let detail = body["detail"].as_str().unwrap_or_default();
        assert_eq!(status, 500, "{path}: {body}");
        assert!(names(detail, part), "{path}: {body}");
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap().unwrap();
    }
}

/// Whether a message names the part and what it belongs to, says what to do, and repeats nothing of what is stored.
fn names(message: &str, part: &str) -> bool {
    message.contains(part) && message.contains("backup") && !message.contains("hunter2")
}

#[tokio::test]
async fn an_unreadable_output_is_an_error_for_every_reader_and_others_are_read() {
    let place = Place::with_runs().await;
    let running = Running::start(&place).await;
    let engine = running.server.engine();
    let part = "the output of run r-1";
    for damage in DAMAGES {
        place.damage(&format!("UPDATE outlive_sessions_run_outputs SET output = {damage} WHERE seq = {{run}}"));

        for error in [engine.get_run(&id("r-1")).await.unwrap_err(), engine.attach(id("r-1")).wait().await.unwrap_err()]
        {
            assert!(matches!(&error, EngineError::Unreadable(_)) && names(&error.to_string(), part), "{error}");
        }
        for path in ["/api/runs/r-1/output", "/workflows/echo/runs/r-1", "/sessions/s-1/runs/r-1"] {
            running.refuses(path, part).await;
        }
        let refused = running.client().output(&id("r-1")).await.unwrap_err().to_string();
        assert!(names(&refused, part), "{refused}");

        let (status, detail) = running.get("/api/runs/r-1").await;
        assert_eq!((status, &detail["status"], &detail["input"]), (200, &json!("COMPLETED"), &json!("of r-1")));
        assert!(names(detail["unreadable"].as_str().unwrap(), part), "{detail}");
        let step = detail["steps"][0]["step_id"].as_str().unwrap();
        let (status, output) = running.get(&format!("/api/runs/r-1/steps/{step}/output")).await;
        assert_eq!((status, &output["content"]["said"]), (200, &json!("of r-1")), "the log has it as well");

        let listed = running.client().runs(&RunFilter { with_payload: true, ..RunFilter::default() }).await.unwrap();
        for run in listed.runs {
            let is_named = run.unreadable.is_some_and(|unreadable| names(&unreadable, part));
            assert_eq!(is_named, run.info.run_id.as_str() == "r-1");
        }
        for path in ["/workflows/echo/runs?session_id=s-1", "/sessions/s-1/runs"] {
            let (status, runs) = running.get(path).await;
            assert_eq!((status, &runs[0]["status"], &runs[1]["status"]), (200, &json!("ERROR"), &json!("COMPLETED")));
            assert!(names(runs[0]["content"].as_str().unwrap(), part), "{path}: {runs}");
            assert_eq!(runs[1]["run_id"], "r-3");
        }
    }
    let sql = "UPDATE outlive_sessions_run_outputs SET output = \
        (SELECT replace(output, 'COMPLETED', 'PAUSED') FROM outlive_sessions_run_outputs WHERE seq = 2) WHERE seq = {run}";
    for sql in [sql, "DELETE FROM outlive_sessions_run_outputs WHERE seq = {run}"] {
        place.damage(sql);
        running.refuses("/api/runs/r-1/output", part).await;
        assert!(engine.get_run(&id("r-2")).await.unwrap().is_some());
    }
    running.stop().await;
}

#[tokio::test]
async fn unreadable_inputs_and_options_are_said_and_never_used() {
    let place = Place::with_runs().await;
    let running = Running::start(&place).await;
    for column in ["input", "options"] {
        let part = format!("the {column} of run r-1");
        for damage in DAMAGES {
            place.damage(&format!("UPDATE outlive_sessions_run_requests SET {column} = {damage} WHERE seq = {{run}}"));
            let (status, detail) = running.get("/api/runs/r-1").await;
            assert_eq!((status, &detail["status"]), (200, &json!("COMPLETED")));
            assert!(names(detail["unreadable"].as_str().unwrap(), &part), "{detail}");
            let listed =
                running.client().runs(&RunFilter { with_payload: true, ..RunFilter::default() }).await.unwrap();
            let unreadable: Vec<_> = listed.runs.iter().filter_map(|run| run.unreadable.as_deref()).collect();
            assert!(listed.runs.len() == 3 && unreadable.len() == 1 && names(unreadable[0], &part), "{unreadable:?}");
            let (status, refused) = running.send(reqwest::Method::POST, "/api/runs/r-1/rerun", &json!({})).await;
            assert!(status == 500 && names(refused["detail"].as_str().unwrap(), &part), "{refused}");
            if column == "input" {
                let (_, sessions) = running.get("/sessions?type=workflow").await;
                let named: Vec<_> = sessions["data"].as_array().unwrap().iter().collect();
                let names_of = |place: usize| named[place]["session_name"].as_str().unwrap().to_owned();
                let all = [names_of(0), names_of(1)];
                assert!(all.iter().any(|name| names(name, &part)) && all.contains(&"of r-2".to_owned()), "{sessions}");
            }
        }
        place.damage(&format!("UPDATE outlive_sessions_run_requests SET {column} = '{{}}' WHERE seq = {{run}}"));
    }
    running.stop().await;
}

async fn ended(place: &Place, run_id: &str) -> (RunStatus, String) {
    let workflow = place.workflow(true);
    let output = timeout(PATIENCE, workflow.attach(run_id).await.unwrap().wait()).await.unwrap().unwrap();
    let other = timeout(PATIENCE, workflow.attach("r-2").await.unwrap().wait()).await.unwrap().unwrap();
    assert_eq!((other.status, other.text().as_str()), (RunStatus::Completed, r#"{"said":"of r-2"}"#));
    let log = workflow.engine().await.unwrap().events(&id(run_id), None).stored().await.unwrap();
    assert!(log.last().unwrap().is_terminal(), "{log:?}");
    workflow.shutdown().await.unwrap();
    (output.status, output.text())
}

#[tokio::test]
async fn a_run_whose_request_or_session_cannot_be_read_ends_with_an_error_and_executes_nothing() {
    for (table, column, part) in [
        ("outlive_sessions_run_requests", "input", "the input of run r-1"),
        ("outlive_sessions_run_requests", "options", "the options of run r-1"),
        ("outlive_sessions", "state", "the state of session s-1"),
        ("outlive_sessions", "metadata", "the metadata of session s-1"),
    ] {
        for damage in DAMAGES {
            let place = Place::with_waiting_runs().await;
            place.damage(&format!("UPDATE {table} SET {column} = {damage} WHERE seq = {{run}}"));
            let (status, why) = ended(&place, "r-1").await;
            assert_eq!(status, RunStatus::Error, "{part}: {why}");
            assert!(names(&why, part), "{part}: {why}");
            assert_eq!(place.calls.load(Ordering::Relaxed), 1, "the other run's first step, and no other");
        }
    }
}

#[tokio::test]
async fn a_run_with_an_unreadable_input_can_still_be_cancelled() {
    let place = Place::with_waiting_runs().await;
    place.damage("UPDATE outlive_sessions_run_requests SET input = '{' WHERE seq = {run}");
    let workflow = place.workflow(false);
    workflow.cancel_run("r-1", "enough").await.unwrap();
    let output = timeout(PATIENCE, workflow.attach("r-1").await.unwrap().wait()).await.unwrap().unwrap();
    assert_eq!(output.status, RunStatus::Cancelled);
    assert_eq!(place.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_state_that_is_damaged_under_a_run_ends_it_with_an_error() {
    let place = Place { gate: Arc::new(Semaphore::new(0)), ..Place::new() };
    let workflow = place.workflow(true);
    let run = workflow.run("x").run_id("r-1").session_id("s-1").background().await.unwrap();
    let mut events = run.events(None);
    while events.next().await.unwrap().unwrap().origin.step_name.as_deref() != Some("second") {}
    place.damage("UPDATE outlive_sessions SET state = '{\"first\":' WHERE seq = {run}");
    place.gate.add_permits(1);
    let output = timeout(PATIENCE, run.wait()).await.unwrap().unwrap();
    assert_eq!(output.status, RunStatus::Error);
    assert!(names(&output.text(), "the state of session s-1"), "{}", output.text());
}

#[tokio::test]
async fn a_page_that_is_not_text_is_a_damaged_entry_of_its_run() {
    let place = Place::with_runs().await;
    let running = Running::start(&place).await;
    place.damage(
        "UPDATE outlive_sessions_run_events SET body = CAST(replace(CAST(body AS BLOB), 'Started', x'5374ff') AS TEXT) \
        WHERE run_seq = {run} AND first_index = 0",
    );
    let engine = running.server.engine();
    let error = engine.events(&id("r-1"), None).stored().await.unwrap_err();
    let is_named = |text: &str| text.contains("entry 0 of run r-1 is damaged") && text.contains("backup");
    assert!(matches!(&error, EngineError::Damaged(_)) && is_named(&error.to_string()), "{error}");
    let (status, body) = running.get("/api/runs/r-1/events").await;
    assert!(status == 500 && is_named(body["detail"].as_str().unwrap()), "{body}");
    assert!(!engine.events(&id("r-2"), None).stored().await.unwrap().is_empty());
    running.stop().await;
}

/// Numbers and ids that are none.
const ROWS: [&str; 6] = [
    "UPDATE outlive_sessions_runs SET epoch = -5 WHERE seq = {run}",
    "UPDATE outlive_sessions_runs SET claims = -1 WHERE seq = {run}",
    "UPDATE outlive_sessions_runs SET next_index = -1 WHERE seq = {run}",
    "UPDATE outlive_sessions_runs SET status = -7 WHERE seq = {run}",
    "UPDATE outlive_sessions SET session_id = '' WHERE seq = {run}",
    "DELETE FROM outlive_sessions_run_requests WHERE seq = {run}",
];

#[tokio::test]
async fn a_damaged_row_is_named_and_holds_up_no_other_run() {
    for sql in ROWS {
        let place = Place::with_waiting_runs().await;
        place.damage(sql);
        let workflow = place.workflow(true);
        let other = timeout(PATIENCE, workflow.attach("r-2").await.unwrap().wait()).await;
        let other = other.unwrap_or_else(|_| panic!("{sql}")).unwrap();
        assert_eq!(other.status, RunStatus::Completed, "{sql}");
        assert_eq!(place.calls.load(Ordering::Relaxed), 1, "{sql}");
        workflow.shutdown().await.unwrap();
        if sql.starts_with("DELETE") {
            continue;
        }
        let running = Running::start(&place).await;
        let listed = running.client().runs(&RunFilter::default()).await.unwrap();
        assert_eq!(listed.runs.len(), 1, "{sql}");
        assert!(
            listed.unreadable.len() == 1 && names(&listed.unreadable[0], "run r-1"),
            "{sql}: {:?}",
            listed.unreadable
        );
        running.refuses("/api/runs/r-1", "run r-1").await;
        running.stop().await;
    }
}

/// Pages whose numbers are none, or that are missing.
const PAGES: [&str; 3] = [
    "UPDATE outlive_sessions_run_events SET count = -1 WHERE run_seq = {run} AND first_index = 0",
    "UPDATE outlive_sessions_run_events SET first_index = -1 WHERE run_seq = {run} AND first_index = 0",
    "DELETE FROM outlive_sessions_run_events WHERE run_seq = {run} AND first_index > 0 AND commit_seq < \
     (SELECT max(commit_seq) FROM outlive_sessions_run_events WHERE run_seq = {run})",
];

#[tokio::test]
async fn a_log_with_damaged_numbers_ends_its_run_and_hides_no_other() {
    for sql in PAGES {
        for status in [RunStatus::Running, RunStatus::Paused] {
            let place = Place::with_runs().await;
            place.damage(sql);
            let number = if status == RunStatus::Running { 1 } else { 2 };
            place.damage(&format!("UPDATE outlive_sessions_runs SET status = {number} WHERE seq = {{run}}"));
            let running = Running::start(&place).await;
            if status == RunStatus::Running {
                let handle = running.server.engine().attach(id("r-1"));
                let run = timeout(PATIENCE, handle.wait()).await.unwrap_or_else(|_| panic!("{sql}")).unwrap();
                assert_eq!(run.status, RunStatus::Error, "{sql}");
                assert!(run.text().contains("r-1") && run.text().contains("backup"), "{sql}: {}", run.text());
            }
            let listed =
                running.client().runs(&RunFilter::default()).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            assert_eq!((listed.runs.len(), listed.unreadable.len()), (3, 0), "{sql}");
            let (_, body) = running.get("/api/runs/r-1/events").await;
            assert!(body["detail"].as_str().is_none_or(|detail| detail.contains("r-1")), "{sql}: {body}");
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn words_for_people_that_are_not_utf8_show_where() {
    let place = Place::with_runs().await;
    place.damage("UPDATE outlive_sessions_run_requests SET workflow_name = CAST(x'45ff' AS TEXT) WHERE seq = {run}");
    let runs = place.db().runs(Access::All, RunFilter::default()).await.unwrap();
    assert_eq!((runs.runs.len(), runs.unreadable.len()), (3, 0));
    assert!(runs.runs.iter().any(|run| &*run.info.workflow_name == "E\u{fffd}"));
}

#[tokio::test]
async fn an_unreadable_session_is_named_the_others_are_listed_and_replacing_it_mends_it() {
    let place = Place::with_runs().await;
    let running = Running::start(&place).await;
    for column in ["state", "metadata"] {
        let part = format!("the {column} of session s-1");
        place.damage(&format!("UPDATE outlive_sessions SET {column} = 'hunter2' WHERE seq = {{run}}"));
        let (status, sessions) = running.get("/sessions?type=workflow").await;
        assert_eq!((status, sessions["data"].as_array().unwrap().len()), (200, 1), "{sessions}");
        assert_eq!(sessions["data"][0]["session_id"], "s-2");
        assert!(names(sessions["meta"]["unreadable"][0].as_str().unwrap(), &part), "{sessions}");
        running.refuses("/sessions/s-1?type=workflow", &part).await;
        // Nothing is changed in part when the rest cannot be read.
        let name = json!({ "session_name": "renamed" });
        let (status, refused) = running.send(reqwest::Method::PATCH, "/sessions/s-1?type=workflow", &name).await;
        assert!(status == 500 && names(refused["detail"].as_str().unwrap(), &part), "{refused}");
        let field = if column == "state" { "session_state" } else { "metadata" };
        let mended = json!({ field: { "mended": true } });
        let (status, body) = running.send(reqwest::Method::PATCH, "/sessions/s-1?type=workflow", &mended).await;
        assert_eq!((status, &body[field]["mended"]), (200, &json!(true)), "{body}");
        let session = place.db().session(Access::All, outlive::core::SessionId::parse("s-1").unwrap()).await.unwrap();
        assert_eq!(session.unwrap().name, None);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_conversation_does_not_go_on_without_what_was_said_before() {
    let place = Place::new();
    let replies = ["first", "second"].map(ModelResponse::text);
    let agent = Agent::new("Talker").model(ScriptedModel::replies(replies)).add_history_to_context(true);
    let workflow = Workflow::builder("Talk").db(place.db()).step(Step::new("talk").agent(agent)).build().unwrap();
    workflow.run("hello").run_id("r-1").session_id("s-1").await.unwrap();
    place.damage("UPDATE outlive_sessions_run_outputs SET output = 'hunter2' WHERE seq = {run}");
    let run = workflow.run("and now?").run_id("r-2").session_id("s-1").background().await.unwrap();
    let output = run.wait().await.unwrap();
    assert_eq!(output.status, RunStatus::Error);
    assert!(names(&output.text(), "the output of run r-1"), "{}", output.text());
}

#[tokio::test]
async fn a_full_queue_is_counted_without_reading_what_waits() {
    let place = Place::with_waiting_runs().await;
    let db: Arc<dyn Db> = Arc::new(place.db());
    // What cannot be read can be counted all the same.
    place.damage("UPDATE outlive_sessions_runs SET epoch = -5 WHERE seq = {run}");
    let options = Options { execute: false, queued_max: 2, ..Options::default() };
    let engine = Engine::builder(db).workflow(place.workflow(false).definition().clone()).options(options);
    let engine = engine.start().await.unwrap();
    let submit = || outlive::engine::Submit { input: Some(json!("x")), ..Default::default() };
    let workflow_id = place.workflow(false).definition().id.clone();
    // The first two are taken without a look; then a look finds four.
    for _ in 0..2 {
        engine.submit(&workflow_id, submit()).await.unwrap();
    }
    let refused = engine.submit(&workflow_id, submit()).await.unwrap_err();
    assert!(matches!(refused, EngineError::QueueFull { limit: 2 }), "{refused}");
    engine.shutdown().await.unwrap();
}
