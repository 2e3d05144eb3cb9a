//! The client against a real server on a loopback port, and against servers that do not behave.

use futures::StreamExt;
use outlive::client::{Client, ClientError, QuestionSummary, Submission};
use outlive::core::port::{Life, Order, QuestionFilter, RunFilter};
use outlive::core::{EventKind, Remedy, RunEvent, Secret};
use outlive::prelude::*;
use outlive::{FieldType, Options, RunId, Server, UserInputField};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(30);
const KEY: &str = "canary-key-that-nobody-may-ever-see";

/// A server process in small: on a file, on a port of its own, until it is stopped.
struct Running {
    server: Server,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<outlive::Result<()>>,
}

impl Running {
    async fn start(directory: &TempDir, address: &str, gate: &Arc<Semaphore>) -> Self {
        let db = SqliteDb::new(directory.path().join("runs.db"));
        let options = Options { shutdown_grace: Duration::from_millis(50), ..Options::default() };
        let gated = gate.clone();
        let work = move |_, input: Arc<StepInput>| {
            let gate = gated.clone();
            async move {
                gate.acquire().await.map_err(Failure::fatal)?.forget();
                Ok::<_, Failure>(format!("{} worked", input.text()))
            }
        };
        let gated = Workflow::builder("Gated").db(db.clone()).step(Step::function("work", work)).build().unwrap();
        let echo = |_, input: Arc<StepInput>| async move {
            match input.text().as_str() {
                "explode" => Err(Failure::fatal("no such city")),
                text => Ok(format!("# {text}")),
            }
        };
        let echo = Workflow::builder("Echo").db(db.clone()).step(Step::function("say", echo)).build().unwrap();
        let size = UserInputField::new("size").of(FieldType::Int);
        let pour = |_, input: Arc<StepInput>| async move {
            Ok::<_, Failure>(format!("{} ml", input.additional_data.as_ref().unwrap()["user_input"]["size"]))
        };
        let pour = Step::function("pour", pour).human_review(HumanReview::user_input("How much?", [size]));
        let asks = Workflow::builder("Asks").db(db.clone()).step(pour).build().unwrap();
        let server = Server::builder(db).workflow(&gated).workflow(&echo).workflow(&asks).security_key(KEY);
        let server = server.options(options);
        let server = server.start().await.unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = server.clone();
        let serving =
            tokio::spawn(async move { serving.serve_on(vec![listener], async { drop(stopped.await) }).await });
        Self { server, address, stop, serving }
    }

    async fn any(directory: &TempDir) -> Self {
        Self::start(directory, "127.0.0.1:0", &Arc::new(Semaphore::new(0))).await
    }

    fn client(&self) -> Client {
        Client::builder(format!("http://{}", self.address)).token(KEY).build().unwrap()
    }

    async fn stop(self) -> SocketAddr {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap().unwrap();
        self.address
    }
}

fn indexes(events: &[RunEvent]) -> Vec<u64> {
    events.iter().map(|event| event.event_index.unwrap()).collect()
}

#[tokio::test]
async fn a_run_is_started_followed_and_read_from_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::any(&directory).await;
    let client = running.client();
    let workflows = client.workflows().await.unwrap();
    let mut named: Vec<_> = workflows.iter().map(|workflow| (workflow.id.as_str(), workflow.name.as_str())).collect();
    named.sort_unstable();
    assert_eq!(named, [("asks", "Asks"), ("echo", "Echo"), ("gated", "Gated")]);
    let submission = Submission::new("echo")
        .input("hello")
        .run_id("r-1")
        .session_id("s-1")
        .user_id("ada")
        .additional_data(json!({ "a": 1 }))
        .idempotency_key("k-1");
    let accepted = client.submit(&submission).await.unwrap();
    assert_eq!((accepted.run_id.as_str(), accepted.session_id.as_str(), accepted.is_repeated), ("r-1", "s-1", false));
    assert!(client.submit(&submission).await.unwrap().is_repeated);

    let output = timeout(PATIENCE, client.wait(&accepted.run_id)).await.unwrap().unwrap();
    assert_eq!((output.status, output.text().as_str()), (RunStatus::Completed, "# hello"));
    assert_eq!(client.output(&accepted.run_id).await.unwrap(), output);
    let stored = running.server.engine().get_run(&accepted.run_id).await.unwrap().unwrap();
    assert_eq!(output, stored, "nothing is lost on the way");

    let followed: Vec<_> = client.follow(&accepted.run_id, None).map(Result::unwrap).collect().await;
    let there = running.server.engine().events(&accepted.run_id, None).stored().await.unwrap();
    assert_eq!(followed, there);
    let rest: Vec<_> = client.follow(&accepted.run_id, Some(1)).map(Result::unwrap).collect().await;
    assert_eq!(rest, followed[2..]);
    let last = followed.len() as u64 - 1;
    assert_eq!(client.follow(&accepted.run_id, Some(last)).next().await.unwrap(), None, "there is nothing to wait for");

    let page = client.events(&accepted.run_id, None, 2).await.unwrap();
    assert_eq!((&page.events[..], page.total, page.next_after), (&followed[..2], last + 1, Some(1)));
    let page = client.events(&accepted.run_id, page.next_after, 1000).await.unwrap();
    assert_eq!((&page.events[..], page.next_after), (&followed[2..], None));

    let detail = client.run(&accepted.run_id).await.unwrap();
    assert_eq!(detail.run.info, client.runs(&RunFilter::default()).await.unwrap().runs[0].info);
    assert_eq!((detail.run.next_index, detail.input), (last + 1, Some(json!("hello"))));
    assert_eq!((&*detail.steps[0].name, detail.steps[0].status.as_str()), ("say", "completed"));
    assert!(detail.run.created_at <= detail.run.updated_at);
    assert_eq!(detail.run.waiting, None);
    let workers = client.workers().await.unwrap();
    assert_eq!((workers.len(), workers[0].life), (1, Life::Lives));
    assert!(workers[0].executes(&detail.run.info.workflow_id));
    running.stop().await;
}

#[tokio::test]
async fn runs_are_listed_filtered_counted_and_paged() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::any(&directory).await;
    let client = running.client();
    for (id, input, session) in [("a-1", "one", "s-1"), ("a-2", "explode", "s-2"), ("b-1", "three", "s-1")] {
        let submission = Submission::new("echo").input(input).run_id(id).session_id(session);
        let accepted = client.submit(&submission).await.unwrap();
        client.wait(&accepted.run_id).await.unwrap();
    }
    let ids = async |filter: RunFilter| {
        let list = client.runs(&filter).await.unwrap();
        list.runs.iter().map(|run| run.info.run_id.to_string()).collect::<Vec<_>>()
    };
    let all = client.runs(&RunFilter::default()).await.unwrap();
    assert_eq!(
        all.counts.iter().map(|(status, count)| (*status, *count)).collect::<Vec<_>>(),
        [(RunStatus::Completed, 2), (RunStatus::Error, 1)]
    );
    assert_eq!(ids(RunFilter::default()).await, ["b-1", "a-2", "a-1"]);
    assert_eq!(ids(RunFilter { order: Order::OldestFirst, ..RunFilter::default() }).await, ["a-1", "a-2", "b-1"]);
    assert_eq!(ids(RunFilter { statuses: vec![RunStatus::Error], ..RunFilter::default() }).await, ["a-2"]);
    assert_eq!(ids(RunFilter { id_prefix: Some("a-".to_owned()), ..RunFilter::default() }).await, ["a-2", "a-1"]);
    let session_id = Some("s-1".parse().unwrap());
    assert_eq!(ids(RunFilter { session_id, ..RunFilter::default() }).await, ["b-1", "a-1"]);
    let created_from = Some(all.runs[1].created_at);
    assert_eq!(ids(RunFilter { created_from, ..RunFilter::default() }).await, ["b-1", "a-2"]);
    let mut filter = RunFilter { limit: 2, ..RunFilter::default() };
    filter.after = client.runs(&filter).await.unwrap().next;
    assert_eq!(ids(filter).await, ["a-1"]);
    let previews = client.runs(&RunFilter { with_payload: true, limit: 1000, ..RunFilter::default() }).await.unwrap();
    assert_eq!(previews.runs[1].input_preview.as_deref(), Some("explode"));
    assert!(previews.runs[1].error_preview.as_deref().unwrap().contains("no such city"));

    let again = client.rerun(&"a-1".parse().unwrap(), Some("k-9")).await.unwrap();
    assert_eq!((again.rerun_of, again.session_id.as_str()), (Some("a-1".parse().unwrap()), "s-1"));
    assert_eq!(client.wait(&again.run_id).await.unwrap().text(), "# one");
    assert!(client.rerun(&"a-1".parse().unwrap(), Some("k-9")).await.unwrap().is_repeated);
    running.stop().await;
}

#[tokio::test]
async fn a_run_is_cancelled_from_elsewhere_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::any(&directory).await;
    let client = running.client();
    let run_id = client.submit(&Submission::new("gated")).await.unwrap().run_id;
    assert_eq!(client.cancel(&run_id, "closing time").await.unwrap(), None);
    assert_eq!(timeout(PATIENCE, client.wait(&run_id)).await.unwrap().unwrap().status, RunStatus::Cancelled);
    let events: Vec<_> = client.follow(&run_id, None).map(Result::unwrap).collect().await;
    let is_it = |event: &RunEvent| matches!(&event.kind, EventKind::WorkflowCancelled { reason, .. } if reason == "closing time");
    assert!(events.iter().any(is_it), "{events:?}");
    assert_eq!(client.cancel(&run_id, "twice").await.unwrap(), Some(RunStatus::Cancelled));
    let over = client.submit(&Submission::new("echo")).await.unwrap().run_id;
    client.wait(&over).await.unwrap();
    assert_eq!(client.cancel(&over, "too late").await.unwrap(), Some(RunStatus::Completed));
    running.stop().await;
}

#[tokio::test]
async fn a_question_is_found_and_answered_from_elsewhere_once() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::any(&directory).await;
    let client = running.client();
    for id in ["r-1", "r-2"] {
        let run_id = client.submit(&Submission::new("asks").run_id(id)).await.unwrap().run_id;
        assert_eq!(timeout(PATIENCE, client.wait(&run_id)).await.unwrap().unwrap().status, RunStatus::Paused);
    }
    let mut filter = QuestionFilter { limit: 1, ..QuestionFilter::default() };
    let first = client.questions(&filter).await.unwrap();
    filter.after = first.next;
    let second = client.questions(&filter).await.unwrap();
    assert_eq!((first.questions[0].run_id.as_str(), second.questions[0].run_id.as_str()), ("r-1", "r-2"));
    assert_eq!(second.next, None);
    let of_run = QuestionFilter { run_id: Some("r-2".parse().unwrap()), ..QuestionFilter::default() };
    assert_eq!(client.questions(&of_run).await.unwrap().questions, second.questions);

    let question = client.question(&first.questions[0].question_id).await.unwrap();
    assert_eq!(question, first.questions[0]);
    assert!(question.is_open());
    assert_eq!(
        (question.kind.as_str(), &question.answers[..]),
        ("user_input", &["input".to_owned(), "reject".to_owned()][..])
    );
    assert_eq!((question.message.as_deref(), question.step_name.as_str()), (Some("How much?"), "pour"));
    assert_eq!(question.schema.as_ref().unwrap()["properties"]["size"]["type"], "integer");
    let asked = running.server.engine().question(&question.question_id).await.unwrap().unwrap();
    assert_eq!(QuestionSummary::from(asked), question, "a local store gives the same");
    let waiting = client.run(&question.run_id).await.unwrap().run.waiting.unwrap();
    assert_eq!(waiting.remedy, Some(Remedy::Answer { question_id: question.question_id.clone() }));

    let id = &*question.question_id;
    match client.answer(id, &Answer::input([("size", "much".into())])).await {
        Err(ClientError::Invalid(refusal)) => {
            assert_eq!(refusal.code, "invalid_answer");
            assert!(refusal.detail.contains("Field 'size' expected int, got str"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(client.answer(id, &Answer::TimedOut).await, Err(ClientError::Invalid(_))));
    assert!(client.question(id).await.unwrap().is_open());

    let answer = Answer::input([("size", 300.into())]);
    let answered = client.answer(id, &answer).await.unwrap();
    assert_eq!((answered.state.as_str(), answered.answer.as_ref()), ("answered", Some(&answer)));
    assert!(answered.answered_at >= Some(answered.asked_at) && answered.answered_by.is_none());
    client.answer(id, &answer).await.unwrap();
    match client.answer(id, &Answer::reject("too much")).await {
        Err(ClientError::Conflict(refusal)) => {
            assert_eq!(refusal.code, "already_answered");
            assert!(refusal.detail.contains("was answered before: input"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(timeout(PATIENCE, settled(&client, &question.run_id)).await.unwrap(), "300 ml");

    client.cancel(&"r-2".parse().unwrap(), "closing time").await.unwrap();
    timeout(PATIENCE, settled(&client, &"r-2".parse().unwrap())).await.unwrap();
    assert_eq!(client.questions(&QuestionFilter::default()).await.unwrap().questions, []);
    let all = client.questions(&QuestionFilter { with_settled: true, ..QuestionFilter::default() }).await.unwrap();
    let states: Vec<_> = all.questions.iter().map(|question| question.state.as_str()).collect();
    assert_eq!(states, ["answered", "void"]);
    match client.answer(&second.questions[0].question_id, &answer).await {
        Err(ClientError::Conflict(refusal)) => {
            assert!(refusal.detail.contains("needs no answer any more"), "{refusal}")
        }
        other => panic!("{other:?}"),
    }
    for none in ["", ".", ".."] {
        assert!(matches!(client.question(none).await, Err(ClientError::Unusable { .. })), "{none:?}");
    }
    for missing in [client.question("nothing").await, client.answer("nothing", &answer).await] {
        assert!(matches!(missing, Err(ClientError::NotFound(_))), "{missing:?}");
    }
    running.stop().await;
}

/// The text of a run that is over.
async fn settled(client: &Client, run_id: &RunId) -> String {
    loop {
        let output = client.wait(run_id).await.unwrap();
        if output.status.is_terminal() {
            return output.text();
        }
    }
}

#[tokio::test]
async fn who_follows_and_who_waits_do_not_notice_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let first = Running::start(&directory, "127.0.0.1:0", &gate).await;
    let client = first.client();
    let run_id = client.submit(&Submission::new("gated").input("it")).await.unwrap().run_id;
    let mut following = client.follow(&run_id, None);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|event: &RunEvent| event.name() != "StepStarted") {
        seen.push(timeout(PATIENCE, following.next()).await.unwrap().unwrap().unwrap());
    }
    let waiting = tokio::spawn({
        let (client, run_id) = (client.clone(), run_id.clone());
        async move { client.wait(&run_id).await }
    });
    let address = first.stop().await;
    assert!(matches!(client.run(&run_id).await, Err(ClientError::Unreachable { .. })), "nobody is there");

    let second = Running::start(&directory, &address.to_string(), &gate).await;
    gate.add_permits(1);
    while let Some(event) = timeout(PATIENCE, following.next()).await.unwrap().unwrap() {
        seen.push(event);
    }
    let there = second.server.engine().events(&run_id, None).stored().await.unwrap();
    assert_eq!(indexes(&seen), (0..there.len() as u64).collect::<Vec<_>>());
    assert_eq!(seen, there);
    assert!(seen.iter().any(|event| event.name() == "CustomEvent"), "the run was resumed");
    let output = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(output.text(), "it worked");
    second.stop().await;
}

#[tokio::test]
async fn each_refusal_is_of_its_kind_and_names_its_request() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::any(&directory).await;
    let client = running.client();
    let missing: RunId = "nothing".parse().unwrap();
    let errors = [
        client.run(&missing).await.unwrap_err(),
        client.output(&missing).await.unwrap_err(),
        client.wait(&missing).await.unwrap_err(),
        client.cancel(&missing, "x").await.unwrap_err(),
        client.rerun(&missing, None).await.unwrap_err(),
        client.events(&missing, None, 10).await.unwrap_err(),
        client.follow(&missing, None).next().await.unwrap_err(),
        client.submit(&Submission::new("nothing")).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, ClientError::NotFound(_)), "{error:?}");
        let id = error.request_id().unwrap();
        assert!(error.to_string().contains(id) && !error.is_transient(), "{error}");
    }
    client.submit(&Submission::new("echo").idempotency_key("k").input("x")).await.unwrap();
    let conflict = client.submit(&Submission::new("echo").idempotency_key("k").input("y")).await.unwrap_err();
    assert!(
        matches!(&conflict, ClientError::Conflict(refusal) if refusal.code == "idempotency_mismatch"),
        "{conflict:?}"
    );
    let invalid = client.submit(&Submission::new("echo").run_id("a b")).await.unwrap_err();
    assert!(
        matches!(&invalid, ClientError::Invalid(refusal) if refusal.detail.contains("body.run_id: ")),
        "{invalid:?}"
    );
    let filter = RunFilter { after: Some("no cursor".to_owned()), ..RunFilter::default() };
    assert!(matches!(client.runs(&filter).await.unwrap_err(), ClientError::Invalid(_)));

    let address = format!("http://{}", running.address);
    for stranger in [Client::new(&address).unwrap(), Client::builder(&address).token("canary-wrong").build().unwrap()] {
        let error = stranger.runs(&RunFilter::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::NotAllowed(_)) && error.request_id().is_some(), "{error:?}");
        let error = stranger.follow(&missing, None).next().await.unwrap_err();
        assert!(matches!(error, ClientError::NotAllowed(_)), "{error:?}");
        assert!(!format!("{stranger:?} {error} {error:?}").contains("canary"), "{error:?}");
    }
    running.stop().await;
}

#[test]
fn what_cannot_be_sent_is_refused_before_and_not_repeated() {
    for address in ["", "here", "ftp://a", "http://", "http://canary@a", "http://a:canary@b", "http://a/?token=canary"]
    {
        let error = Client::new(address).unwrap_err();
        assert!(matches!(error, ClientError::Unusable { .. }), "{address}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
    let builder = Client::builder("http://127.0.0.1:1/below/").token("canary\nX-Evil: 1");
    assert!(!format!("{builder:?}").contains("canary"));
    let error = builder.build().unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    let client = Client::builder("http://127.0.0.1:1/below/").token(Secret::from("canary")).build().unwrap();
    assert_eq!(client.server(), "http://127.0.0.1:1/below");
    assert!(!format!("{client:?} {client:#?}").contains("canary"));
}

/// A server that gives each connection the next of its answers, and the last one to all that come later.
struct Fake {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

/// What a connection gets, and then either its end or silence.
#[derive(Clone)]
struct Reply {
    bytes: String,
    is_endless: bool,
}

impl Reply {
    fn new(status: &str, headers: &str, body: &str) -> Self {
        Self { bytes: format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n\r\n{body}"), is_endless: false }
    }

    fn json(body: &serde_json::Value) -> Self {
        Self::new("200 OK", "content-type: application/json", &body.to_string())
    }

    fn stream(body: &str) -> Self {
        Self::new("200 OK", "content-type: text/event-stream", body)
    }

    fn and_silence(self) -> Self {
        Self { is_endless: true, ..self }
    }
}

impl Fake {
    async fn giving(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let serving = tokio::spawn(async move {
            let mut silent = Vec::new();
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let place = count.fetch_add(1, Ordering::Relaxed).min(replies.len() - 1);
                let reply = replies[place].clone();
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(reply.bytes.as_bytes()).await;
                if reply.is_endless {
                    silent.push(socket);
                } else {
                    let _ = socket.shutdown().await;
                }
            }
        });
        Self { address, connections, serving }
    }

    fn client(&self) -> Client {
        let builder = Client::builder(format!("http://{}", self.address)).token("canary-token");
        let patient = builder.timeout(Duration::from_millis(300)).idle_timeout(Duration::from_millis(300));
        patient.answer_bytes_max(10_000).give_up_after(Duration::from_millis(500)).build().unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn event(index: u64, name: &str) -> String {
    let event =
        json!({ "event": name, "created_at": 1, "event_index": index, "nested_depth": 0, "content_type": "str" });
    format!("event: {name}\ndata: {event}\nid: {index}\n\n")
}

#[tokio::test]
async fn answers_without_sense_are_told_apart_and_bounded() {
    let run_id: RunId = "r-1".parse().unwrap();
    let ours = "x-error-code: stopping\r\nretry-after: 1\r\nx-request-id: req-1";
    for (reply, expected) in [
        (Reply::new("200 OK", "content-type: text/html", "<html>canary-token"), "Garbled"),
        (Reply::json(&json!({ "runs": 7, "canary-token": "canary-token" })), "Garbled"),
        (Reply::json(&json!("x".repeat(20_000))), "Garbled"),
        (Reply::new("404 Not Found", "content-type: text/html", "<html>no such page"), "Garbled"),
        (Reply::new("302 Found", "location: http://127.0.0.1:1/canary-token", ""), "Garbled"),
        (Reply::new("401 Unauthorized", "x: y", r#"{"detail":"canary-token is wrong"}"#), "NotAllowed"),
        (Reply::new("429 Too Many Requests", "retry-after: 7", "slower"), "RateLimited"),
        (Reply::new("503 Service Unavailable", ours, r#"{"detail":"stopping"}"#), "Failed"),
        (Reply::new("500 Internal Server Error", "x: y", &"x".repeat(100_000)), "Failed"),
        (Reply::new("200 OK", "content-length: 100", "{").and_silence(), "Unreachable"),
        (Reply { bytes: String::new(), is_endless: true }, "Unreachable"),
        (Reply { bytes: "\u{0}\u{1}nonsense\r\n\r\n".to_owned(), is_endless: false }, "Unreachable"),
    ] {
        let fake = Fake::giving(vec![reply.clone()]).await;
        let client = fake.client();
        let error = timeout(PATIENCE, client.runs(&RunFilter::default())).await.unwrap().unwrap_err();
        let shown = format!("{error:?}");
        assert!(shown.starts_with(expected), "{} gave {shown}", reply.bytes.get(..40).unwrap_or_default());
        assert!(!format!("{shown} {error}").contains("canary"), "{error}");
        assert!(error.to_string().len() < 3000);
        if let Some(refusal) = error.refusal().filter(|refusal| refusal.status == 503) {
            assert_eq!((refusal.code.as_str(), refusal.retry_after), ("stopping", Some(Duration::from_secs(1))));
            assert_eq!(error.request_id(), Some("req-1"));
            assert!(error.is_transient());
        }
        assert_eq!(fake.connections.load(Ordering::Relaxed), 1, "nothing is repeated by itself");
        let followed = timeout(PATIENCE, client.follow(&run_id, None).next()).await.unwrap();
        assert!(followed.is_err_and(|error| !format!("{error} {error:?}").contains("canary")));
    }
}

#[tokio::test]
async fn a_stream_that_stutters_skips_and_breaks_gives_each_event_once() {
    let cut = "event: StepStarted\ndata: {\"event\":\"StepSta";
    let fake = Fake::giving(vec![
        Reply::stream(&[event(0, "WorkflowStarted"), ": keep-alive\n\n".to_owned(), cut.to_owned()].concat()),
        Reply::new("503 Service Unavailable", "x: y", ""),
        Reply::stream(&[event(0, "WorkflowStarted"), event(1, "StepStarted"), event(1, "StepStarted")].concat()),
        Reply::new("404 Not Found", "x: y", "a proxy"),
        Reply::stream(&[event(3, "WorkflowCompleted")].concat()),
        Reply::stream("event: catch_up\ndata: {\"event\":\"catch_up\"}\n\n").and_silence(),
        Reply::stream(&[event(2, "RunContentCompleted"), event(3, "WorkflowCompleted")].concat()),
    ])
    .await;
    let client = Client::builder(format!("http://{}", fake.address)).idle_timeout(Duration::from_millis(200)).build();
    let mut following = client.unwrap().follow(&"r-1".parse().unwrap(), None);
    let mut seen = Vec::new();
    while let Some(event) = timeout(PATIENCE, following.next()).await.unwrap().unwrap() {
        seen.push(event);
    }
    assert_eq!(indexes(&seen), [0, 1, 2, 3]);
    assert_eq!(following.next().await.unwrap(), None, "it stays over");
}

#[tokio::test]
async fn a_stream_without_end_or_sense_is_given_up() {
    let run_id: RunId = "r-1".parse().unwrap();
    let endless = format!("data: {}", "x".repeat(20_000));
    let failing = "event: error\ndata: {\"event\":\"error\",\"error\":\"entry 7 is damaged\"}\n\n";
    for (body, expected) in [
        (endless.as_str(), "more than 10000 bytes"),
        ("data: {\"event\":\"SomethingNew\",\"created_at\":1}\n\n", "this version cannot read"),
        ("data: [1]\n\n", "not an event"),
        (failing, "entry 7 is damaged"),
    ] {
        let fake = Fake::giving(vec![Reply::stream(body).and_silence()]).await;
        let builder = Client::builder(format!("http://{}", fake.address)).answer_bytes_max(10_000);
        let mut following = builder.build().unwrap().follow(&run_id, None);
        let error = timeout(PATIENCE, following.next()).await.unwrap().unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fake.connections.load(Ordering::Relaxed), 5);
        assert_eq!(following.next().await.unwrap(), None, "an error is the end");
    }
}
