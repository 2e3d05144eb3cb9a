//! Webhooks from outside: what a receiver gets, whatever becomes of it and of the server.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use outlive_core::port::{BoxFuture, Clock};
use outlive_core::{Definition, Failure, FailureKind, RunId, Step, StepInput, Timestamp};
use outlive_db::InMemoryDb;
use outlive_engine::Engine;
use outlive_engine::testing::TroubledDb;
use outlive_server::Server;
use outlive_server::state::{Component, Kind};
use outlive_server::webhook::{Deliver, DeliverError, SigningKey};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tower::ServiceExt;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const URL: &str = "https://receiver.example/hook";
/// Of simulated time, where time is simulated: longer than anybody tries.
const PATIENCE: Duration = Duration::from_secs(48 * 60 * 60);

fn key() -> SigningKey {
    SigningKey::parse(SECRET).expect("a secret")
}

/// The runtime's time, which a test pauses, and what a test skips.
struct TestClock {
    began: Instant,
    skipped: Mutex<Duration>,
}

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), skipped: Mutex::default() })
    }

    fn skip(&self, time: Duration) {
        *self.skipped.lock().expect("nobody panics while holding it") += time;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let skipped = *self.skipped.lock().expect("nobody panics while holding it");
        Timestamp::from_micros(1_700_000_000_000_000) + self.began.elapsed() + skipped
    }
}

/// One message as it was posted.
#[derive(Clone, Debug)]
struct Posted {
    headers: Vec<(&'static str, String)>,
    body: String,
    at: Instant,
}

impl Posted {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value).expect("it has the header")
    }

    fn event(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn index(&self) -> u64 {
        self.event()["event_index"].as_u64().expect("an index")
    }
}

/// What the receiver does with its message number so and so, from 0.
type Behaviour = fn(usize) -> Reaction;

#[derive(Clone, Copy)]
enum Reaction {
    Answer(u16),
    Fail(DeliverError),
    Hang,
}

/// Takes messages instead of a receiver elsewhere.
struct Receiver {
    posted: Mutex<Vec<(Posted, bool)>>,
    count: watch::Sender<usize>,
    behaviour: Behaviour,
}

impl Receiver {
    fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self { posted: Mutex::default(), count: watch::Sender::new(0), behaviour })
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().expect("nobody panics while holding it").iter().map(|(posted, _)| posted.clone()).collect()
    }

    /// Those that were answered with yes.
    fn accepted(&self) -> Vec<Posted> {
        let posted = self.posted.lock().expect("nobody panics while holding it");
        posted.iter().filter(|(_, is_accepted)| *is_accepted).map(|(posted, _)| posted.clone()).collect()
    }

    /// Waits until this many messages have come.
    async fn until(&self, count: usize) {
        let mut counts = self.count.subscribe();
        timeout(PATIENCE, counts.wait_for(|now| *now >= count)).await.expect("messages in time").expect("open");
    }
}

impl Deliver for Receiver {
    fn check(&self, url: &str) -> Result<(), String> {
        if url.starts_with("https://receiver.") { Ok(()) } else { Err("that address is not allowed".to_owned()) }
    }

    fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: String,
    ) -> BoxFuture<'_, Result<u16, DeliverError>> {
        assert_eq!(url, URL);
        let mut posted = self.posted.lock().expect("nobody panics while holding it");
        let reaction = (self.behaviour)(posted.len());
        let is_accepted = matches!(reaction, Reaction::Answer(200..=299));
        posted.push((Posted { headers, body, at: Instant::now() }, is_accepted));
        self.count.send_replace(posted.len());
        Box::pin(async move {
            match reaction {
                Reaction::Answer(status) => Ok(status),
                Reaction::Fail(error) => Err(error),
                Reaction::Hang => std::future::pending().await,
            }
        })
    }
}

/// A process that serves and sends.
struct Process {
    clock: Arc<TestClock>,
    engine: Engine,
    server: Server,
    sending: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

/// The second step pauses the run when it is asked to, as a call does whose outcome nobody knows.
fn definition() -> Arc<Definition> {
    let step = |name: &'static str| {
        let doubts = name == "second";
        Step::function(name, move |_, input: Arc<StepInput>| {
            let unknown = Failure::new(FailureKind::OutcomeUnknown, "who knows");
            let said = if doubts && input.text() == "pause" { Err(unknown) } else { Ok(input.text()) };
            std::future::ready(said)
        })
    };
    Arc::new(Definition::builder("Echo").step(step("first")).step(step("second")).build().expect("a definition"))
}

async fn engine(db: InMemoryDb, clock: Arc<TestClock>) -> Engine {
    let builder = Engine::builder(Arc::new(db)).clock(clock);
    builder.workflow(definition()).start().await.expect("an engine")
}

fn server(engine: &Engine, receiver: Option<Arc<dyn Deliver>>) -> Server {
    let builder = Server::builder(engine.clone()).component(Component {
        kind: Kind::Workflow,
        id: "echo".to_owned(),
        name: "Echo".to_owned(),
        description: None,
        definition: definition(),
        details: Value::Null,
    });
    match receiver {
        Some(receiver) => builder.webhooks(key(), receiver).build(),
        None => builder.build(),
    }
}

async fn process(db: InMemoryDb, receiver: &Arc<Receiver>) -> Process {
    let clock = TestClock::new();
    let engine = engine(db, clock.clone()).await;
    sends(clock, engine, receiver.clone())
}

fn sends(clock: Arc<TestClock>, engine: Engine, receiver: Arc<dyn Deliver>) -> Process {
    let server = server(&engine, Some(receiver));
    let sender = server.clone();
    let sending = tokio::spawn(async move { sender.send_webhooks(std::future::pending()).await });
    Process { clock, engine, server, sending }
}

async fn ask(router: Router, request: Request<Body>) -> (u16, Value) {
    let response = router.oneshot(request).await.expect("the router answers");
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

fn request(method: &str, path: &str, kind: &str, body: String) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost").header("content-type", kind);
    request.body(Body::from(body)).expect("a request")
}

impl Process {
    async fn get(&self, path: &str) -> (u16, Value) {
        ask(self.server.router(), request("GET", path, "text/plain", String::new())).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        ask(self.server.router(), request("POST", path, "application/json", body.to_string())).await
    }

    async fn start(&self, events: &str) -> String {
        self.start_with("hello", events).await
    }

    async fn start_with(&self, input: &str, events: &str) -> String {
        let body = json!({ "workflow_id": "echo", "input": input, "webhook_url": URL, "webhook_events": events });
        let (status, answer) = self.post("/api/runs", body).await;
        assert_eq!(status, 202, "{answer}");
        answer["run_id"].as_str().expect("a run id").to_owned()
    }

    /// The webhook once nothing is left to send.
    async fn settled(&self, run_id: &str) -> Value {
        let path = format!("/api/runs/{run_id}/webhook");
        let settling = async {
            let mut pause = Duration::from_millis(100);
            loop {
                let (status, hook) = self.get(&path).await;
                assert_eq!(status, 200, "{hook}");
                if hook["state"] != "open" {
                    return hook;
                }
                // Time is simulated: the sender's own timers decide how far it goes. Each look costs real time.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(60));
            }
        };
        timeout(PATIENCE, settling).await.expect("it settles")
    }

    async fn length(&self, run_id: &str) -> u64 {
        let run_id = RunId::parse(run_id).expect("an id");
        self.engine.standing(&run_id).await.expect("readable").expect("there").next_index
    }
}

fn yes(_: usize) -> Reaction {
    Reaction::Answer(204)
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_run_is_posted_once_and_signed() {
    let receiver = Receiver::new(yes);
    let process = process(InMemoryDb::new(), &receiver).await;
    let form = format!("message=hello&stream=false&background=true&webhook_url={URL}");
    let form = request("POST", "/workflows/echo/runs", "application/x-www-form-urlencoded", form);
    let (status, accepted) = ask(process.server.router(), form).await;
    assert_eq!(status, 202, "{accepted}");
    let run_id = accepted["run_id"].as_str().expect("an id");
    let hook = process.settled(run_id).await;

    let posted = receiver.posted();
    assert_eq!(posted.len(), 1, "{posted:?}");
    let (message, last) = (&posted[0], process.length(run_id).await - 1);
    assert_eq!((message.event()["event"].as_str(), message.index()), (Some("WorkflowCompleted"), last));
    assert_eq!(message.event()["run_id"], run_id);
    let id = message.header("webhook-id");
    assert_eq!(id, format!("{run_id}_{last}"));
    let timestamp = message.header("webhook-timestamp").parse().expect("seconds");
    assert!((1_700_000_000..1_700_000_100).contains(&timestamp), "{timestamp}");
    assert_eq!(message.header("webhook-signature"), key().sign(id, timestamp, &message.body));
    assert_eq!(message.header("content-type"), "application/json");

    assert_eq!(hook["state"], "done");
    assert_eq!((&hook["url"], &hook["events"]), (&json!(URL), &json!("end")));
    assert_eq!(hook["deliveries"].as_array().map(Vec::len), Some(1));
    assert_eq!(hook["deliveries"][0]["status_code"], 204);
    assert!(!hook.to_string().contains(&SECRET[6..]), "{hook}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_posted_as_a_pause_and_the_end_later() {
    let receiver = Receiver::new(yes);
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start_with("pause", "end").await;
    receiver.until(1).await;
    let hook = process.get(&format!("/api/runs/{run_id}/webhook")).await.1;
    assert_eq!(hook["state"], "open", "there is more to come");
    let id = RunId::parse(&run_id).expect("an id");
    process.engine.cancel(&id, "enough").await.expect("it is cancelled");
    assert_eq!(process.settled(&run_id).await["state"], "done");
    let posted: Vec<Value> = receiver.posted().iter().map(|posted| posted.event()["event"].clone()).collect();
    assert_eq!(posted, ["WorkflowPaused", "WorkflowCompleted"]);
}

/// A receiver that answers the run's question before it says that it has the message, and dawdles.
struct Answers {
    engine: Engine,
    dawdles: usize,
    names: Mutex<Vec<String>>,
}

impl Deliver for Answers {
    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn post(&self, _: &str, _: Vec<(&'static str, String)>, body: String) -> BoxFuture<'_, Result<u16, DeliverError>> {
        let event: Value = serde_json::from_str(&body).expect("JSON");
        let run_id = RunId::parse(event["run_id"].as_str().expect("an id")).expect("an id");
        self.names.lock().expect("nobody panics while holding it").push(event["event"].to_string());
        Box::pin(async move {
            for question in self.engine.attach(run_id).questions().await.expect("readable") {
                question.result("known").await.expect("it is answered");
            }
            for _ in 0..self.dawdles {
                tokio::task::yield_now().await;
            }
            Ok(204)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn only_rests_are_posted_whenever_the_run_goes_on_during_a_delivery() {
    for dawdles in 0..60 {
        let clock = TestClock::new();
        let builder = Engine::builder(TroubledDb::yielding(Arc::new(InMemoryDb::new()))).clock(clock.clone());
        let engine = builder.workflow(definition()).start().await.expect("an engine");
        let receiver = Arc::new(Answers { engine: engine.clone(), dawdles, names: Mutex::default() });
        let process = sends(clock, engine, receiver.clone());
        let run_id = process.start_with("pause", "end").await;
        assert_eq!(process.settled(&run_id).await["state"], "done");
        let names = receiver.names.lock().expect("nobody panics while holding it");
        assert_eq!(*names, [r#""WorkflowPaused""#, r#""WorkflowCompleted""#], "the receiver yields {dawdles} times");
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_arrives_in_order_at_a_receiver_that_fails_nine_times_in_ten() {
    let receiver = Receiver::new(|number| match number % 10 {
        9 => Reaction::Answer(200),
        even if even % 2 == 0 => Reaction::Answer(503),
        _ => Reaction::Fail(DeliverError::Unreachable),
    });
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start("all").await;
    let hook = process.settled(&run_id).await;
    assert_eq!(hook["state"], "done", "{hook}");

    let length = process.length(&run_id).await;
    assert!(length >= 6, "{length}");
    let accepted: Vec<u64> = receiver.accepted().iter().map(Posted::index).collect();
    assert_eq!(accepted, (0..length).collect::<Vec<_>>());
    let posted = receiver.posted();
    assert_eq!(posted.len() as u64, 10 * length);
    for tries in posted.chunks(10) {
        assert!(tries.iter().all(|one| one.header("webhook-id") == tries[0].header("webhook-id")));
        let waits = tries.windows(2).map(|two| two[1].at - two[0].at);
        for (number, wait) in waits.enumerate() {
            let longest = Duration::from_secs(1 << number);
            assert!(wait >= longest * 3 / 4, "try {number} after {wait:?}");
        }
    }
    let deliveries = hook["deliveries"].as_array().expect("a list");
    assert_eq!(deliveries.len(), 50);
    let told = |delivery: &Value| (delivery["status_code"].clone(), delivery["error"].clone());
    assert_eq!((deliveries[0]["attempt"].as_u64(), told(&deliveries[0])), (Some(10), (json!(200), Value::Null)));
    assert_eq!(told(&deliveries[2]), (Value::Null, json!("unreachable")));
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_while_it_sends_is_followed_by_one_that_goes_on() {
    let receiver = Receiver::new(|number| if number == 2 { Reaction::Hang } else { Reaction::Answer(200) });
    let db = InMemoryDb::new();
    let first = process(db.another_process(), &receiver).await;
    let run_id = first.start("all").await;
    receiver.until(3).await;
    let died_at = Instant::now();
    drop(first);

    let second = process(db.another_process(), &receiver).await;
    assert_eq!(second.settled(&run_id).await["state"], "done");
    let posted = receiver.posted();
    let indexes: Vec<u64> = posted.iter().map(Posted::index).collect();
    let length = second.length(&run_id).await;
    assert_eq!(indexes, [0, 1, 2].into_iter().chain(2..length).collect::<Vec<_>>());
    assert_eq!(posted[2].header("webhook-id"), posted[3].header("webhook-id"));
    let waited = posted[3].at - died_at;
    assert!(waited <= Duration::from_secs(35), "the dead process's lease ends: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn several_processes_send_each_event_once() {
    let receiver = Receiver::new(yes);
    let db = InMemoryDb::new();
    let one = process(db.another_process(), &receiver).await;
    let other = process(db.another_process(), &receiver).await;
    let mut expected = BTreeSet::new();
    for number in 0..20 {
        let by = if number % 2 == 0 { &one } else { &other };
        let run_id = by.start("all").await;
        by.settled(&run_id).await;
        expected.extend((0..by.length(&run_id).await).map(|index| format!("{run_id}_{index}")));
    }
    let ids: Vec<String> = receiver.posted().iter().map(|posted| posted.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), expected.len(), "some were sent twice");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_answer_is_asked_again() {
    let receiver = Receiver::new(|number| if number == 0 { Reaction::Hang } else { Reaction::Answer(200) });
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start("end").await;
    let hook = process.settled(&run_id).await;
    assert_eq!(hook["state"], "done");
    let deliveries = &hook["deliveries"];
    assert_eq!((&deliveries[1]["error"], &deliveries[1]["duration_ms"]), (&json!("timeout"), &json!(10_000)));
    assert_eq!((&deliveries[0]["attempt"], &deliveries[0]["status_code"]), (&json!(2), &json!(200)));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_gone_is_left_alone() {
    let receiver = Receiver::new(|_| Reaction::Answer(410));
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start("all").await;
    assert_eq!(process.settled(&run_id).await["state"], "given_up");
    assert_eq!(receiver.posted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_fails_for_a_day_is_given_up_and_can_be_sent_to_again() {
    static IS_MENDED: AtomicBool = AtomicBool::new(false);
    let receiver = Receiver::new(|_| match IS_MENDED.load(Ordering::SeqCst) {
        true => Reaction::Answer(200),
        false => Reaction::Answer(503),
    });
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start("all").await;
    // 23 hours, then the last one: the waits between them are shown elsewhere.
    for (tries, hours) in [(3, 23), (5, 1)] {
        receiver.until(tries).await;
        let (_, hook) = process.get(&format!("/api/runs/{run_id}/webhook")).await;
        assert_eq!((&hook["state"], &hook["next_index"]), (&json!("open"), &json!(0)), "{hook}");
        process.clock.skip(Duration::from_secs(hours * 60 * 60));
    }
    let hook = process.settled(&run_id).await;
    assert_eq!((&hook["state"], &hook["next_index"]), (&json!("given_up"), &json!(0)), "{hook}");
    let posted = receiver.posted();
    assert_eq!((&hook["failed_attempts"], posted.len()), (&json!(6), 6));
    assert!(posted.iter().all(|one| one.index() == 0), "no event is skipped");

    IS_MENDED.store(true, Ordering::SeqCst);
    let (status, hook) = process.post(&format!("/api/runs/{run_id}/webhook/redeliver"), Value::Null).await;
    assert_eq!((status, &hook["state"], &hook["failed_attempts"]), (200, &json!("open"), &json!(0)), "{hook}");
    assert_eq!(process.settled(&run_id).await["state"], "done");
    let accepted: Vec<u64> = receiver.accepted().iter().map(Posted::index).collect();
    assert_eq!(accepted, (0..process.length(&run_id).await).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn events_are_sent_again_from_where_one_asks() {
    let receiver = Receiver::new(yes);
    let process = process(InMemoryDb::new(), &receiver).await;
    let run_id = process.start("all").await;
    process.settled(&run_id).await;
    let (before, length) = (receiver.posted().len(), process.length(&run_id).await);
    let path = format!("/api/runs/{run_id}/webhook/redeliver");

    let (status, hook) = process.post(&format!("{path}?from=2"), Value::Null).await;
    assert_eq!((status, &hook["next_index"]), (200, &json!(2)));
    process.settled(&run_id).await;
    let again: Vec<u64> = receiver.posted()[before..].iter().map(Posted::index).collect();
    assert_eq!(again, (2..length).collect::<Vec<_>>());

    for from in ["-1", "one", "", "99999999999999999999"] {
        let (status, problem) = process.post(&format!("{path}?from={from}"), Value::Null).await;
        assert_eq!((status, &problem["error_code"]), (422, &json!("invalid_request")), "{from}: {problem}");
    }
    let plain = process.post("/api/runs", json!({ "workflow_id": "echo", "input": "x" })).await.1;
    for run_id in [plain["run_id"].as_str().expect("an id"), "nobodys"] {
        assert_eq!(process.get(&format!("/api/runs/{run_id}/webhook")).await.0, 404);
        assert_eq!(process.post(&format!("/api/runs/{run_id}/webhook/redeliver"), Value::Null).await.0, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn bad_c10_what_cannot_be_sent_is_refused_before_there_is_a_run() {
    let receiver = Receiver::new(yes);
    let engine = engine(InMemoryDb::new(), TestClock::new()).await;
    let (on, off) = (server(&engine, Some(receiver.clone())), server(&engine, None));
    let long = format!("https://receiver.example/{}", "x".repeat(2048));
    for (server, url, events, code, field) in [
        (&off, Some(URL), None, "webhooks_off", None),
        (&on, Some("http://169.254.169.254/"), None, "url_not_allowed", Some("webhook_url")),
        (&on, Some(&*long), None, "invalid_request", Some("webhook_url")),
        (&on, Some(URL), Some("some"), "invalid_request", Some("webhook_events")),
        (&on, None, Some("all"), "invalid_request", Some("webhook_events")),
    ] {
        let api = json!({ "workflow_id": "echo", "input": "x", "webhook_url": url, "webhook_events": events });
        let api = request("POST", "/api/runs", "application/json", api.to_string());
        let pairs = [("webhook_url", url), ("webhook_events", events)];
        let fields: String = pairs.iter().filter_map(|(name, text)| Some(format!("&{name}={}", (*text)?))).collect();
        let form = format!("message=x&stream=false{fields}");
        let form = request("POST", "/workflows/echo/runs", "application/x-www-form-urlencoded", form);
        for request in [api, form] {
            let response = server.router().oneshot(request).await.expect("an answer");
            assert_eq!(
                (response.status().as_u16(), &response.headers()["x-error-code"]),
                (422, &code.parse().unwrap())
            );
            let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
            let problem: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert_eq!(problem["detail"][0]["loc"][1].as_str(), field, "{problem}");
            assert!(!problem.to_string().contains("169.254"), "{problem}");
        }
    }
    assert!(engine.runs(Default::default()).await.expect("a list").runs.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_same_key_with_another_address_is_another_request() {
    let receiver = Receiver::new(yes);
    let process = process(InMemoryDb::new(), &receiver).await;
    let mut answers = Vec::new();
    for url in [Some(URL), Some(URL), Some("https://receiver.elsewhere/"), None] {
        let body = json!({ "workflow_id": "echo", "input": "x", "webhook_url": url });
        let mut request = request("POST", "/api/runs", "application/json", body.to_string());
        request.headers_mut().insert("idempotency-key", "k1".parse().expect("a header"));
        answers.push(ask(process.server.router(), request).await.0);
    }
    assert_eq!(answers, [202, 200, 409, 409]);
}

#[tokio::test]
async fn a_run_started_on_a_socket_has_its_webhook_sent_by_the_server_that_serves() {
    let receiver = Receiver::new(yes);
    let engine = engine(InMemoryDb::new(), TestClock::new()).await;
    let server = server(&engine, Some(receiver.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        server.serve(vec![listener], stopped).await
    });
    let (mut socket, _) =
        tokio_tungstenite::connect_async(format!("ws://{address}/workflows/ws")).await.expect("a socket");
    let refused =
        json!({ "action": "start-workflow", "workflow_id": "echo", "message": "x", "webhook_url": "ftp://x" });
    let start = json!({
        "action": "start-workflow", "workflow_id": "echo", "message": "x", "webhook_url": URL, "webhook_events": "all",
    });
    for frame in [json!({ "action": "authenticate", "token": "" }), refused, start] {
        socket.send(Message::text(frame.to_string())).await.expect("sent");
    }
    let until_error = async {
        while let Some(Ok(message)) = socket.next().await {
            if message.to_text().is_ok_and(|text| text.contains("that address is not allowed")) {
                return true;
            }
        }
        false
    };
    assert!(timeout(Duration::from_secs(20), until_error).await.expect("in time"));
    timeout(Duration::from_secs(20), receiver.until(6)).await.expect("in time");
    assert_eq!(receiver.posted()[0].index(), 0);
    drop((stop, socket));
    timeout(Duration::from_secs(20), serving).await.expect("it ends").expect("no panic").expect("no error");
}
