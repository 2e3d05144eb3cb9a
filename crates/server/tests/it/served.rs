//! A whole server in this process: an engine in memory, a workflow, an agent and a team that tests steer, real TCP.

use crate::door::UPGRADE;
use futures::{SinkExt, StreamExt};
use outlive_core::port::{BoxFuture, Clock, Db};
use outlive_core::{
    Answer as Said, Block, BudgetUnit, Definition, Failure, FailureKind, FieldType, HumanReview, Loop, Media, OnReject,
    OnTimeout, Over, Parallel, Question, Retry, RunId, Step, StepOutput, Steps, Timestamp, UserInputField,
};
use outlive_db::InMemoryDb;
use outlive_engine::{Engine, Options, Submit};
use outlive_server::Server;
use outlive_server::auth::key::{KeyRecord, KeyStore, MemoryKeyStore, NewKey};
use outlive_server::auth::{Auth, Needs, RouteTable, Scopes};
use outlive_server::config::Limits;
use outlive_server::guard::GuardConfig;
use outlive_server::listen::Proxies;
use outlive_server::state::{Component, Kind};
use outlive_server::webhook::{Deliver, DeliverError, SigningKey};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// A clock that tests set; it begins at the machine's time.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(i64::try_from(by.as_micros()).expect("short"), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What a server is started with.
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) with_keys: bool,
    pub(crate) options: Options,
    pub(crate) proxies: Proxies,
    /// The workflow `poet` is that of a later version of the program: with a step more.
    pub(crate) is_updated: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let options = Options { stream_period: Duration::from_millis(1), ..Options::default() };
        Self { limits: Limits::default(), with_keys: true, options, proxies: Proxies::default(), is_updated: false }
    }
}

/// The running server.
pub(crate) struct Served {
    pub(crate) engine: Engine,
    pub(crate) address: SocketAddr,
    pub(crate) rules: RouteTable,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) keys: Arc<MemoryKeyStore>,
    release: watch::Sender<bool>,
    _stop: oneshot::Sender<()>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        Self::on(InMemoryDb::new(), setup).await
    }

    pub(crate) async fn on(db: impl Db, setup: Setup) -> Self {
        let (release, released) = watch::channel(false);
        let definitions = definitions(&released, setup.is_updated);
        let builder = Engine::builder(Arc::new(db)).options(setup.options);
        let builder = definitions.iter().fold(builder, |builder, (_, definition)| builder.workflow(definition.clone()));
        let engine = builder.start().await.expect("the engine starts");
        let clock = Arc::new(TestClock(AtomicI64::new(outlive_engine::SystemClock.now().as_micros())));
        let keys = Arc::new(MemoryKeyStore::default());
        let auth = Auth::new(clock.clone());
        let auth = if setup.with_keys { auth.keys(keys.clone()) } else { auth };
        let webhooks = SigningKey::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("a secret");
        let guard = GuardConfig { proxies: setup.proxies, ..GuardConfig::default() };
        let builder = Server::builder(engine.clone()).limits(setup.limits).guard(guard).auth(auth);
        let builder = builder.webhooks(webhooks, Arc::new(Takes));
        let components = definitions.into_iter().map(|(kind, definition)| component(kind, definition));
        let server = components.fold(builder, |builder, component| builder.component(component)).build();
        let rules = server.rules().clone();
        let listener = listener();
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.serve(vec![listener], stopped).await
        });
        Self { engine, address, rules, clock, keys, release, _stop: stop }
    }

    /// Lets every run that is held go on, now and later.
    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }

    /// A key of this user, with these scopes.
    pub(crate) async fn key(&self, user: Option<&str>, scopes: Scopes) -> (String, KeyRecord) {
        let key = NewKey { name: "test".to_owned(), scopes, user_id: user.map(Arc::from), expires_at: None };
        self.mint(key).await
    }

    pub(crate) async fn mint(&self, key: NewKey) -> (String, KeyRecord) {
        let (secret, record) = KeyRecord::mint(key, self.clock.now());
        self.keys.add(record.clone()).await.expect("kept");
        (secret.expose().to_owned(), record)
    }

    /// A key of this user that may use every route but those for admins.
    pub(crate) async fn user(&self, user: &str) -> String {
        self.key(Some(user), self.scopes_but(None)).await.0
    }

    /// Every scope of the table, without the admin's and without `left_out`.
    pub(crate) fn scopes_but(&self, left_out: Option<&str>) -> Scopes {
        let wanted: Vec<String> = self.rules.iter().filter_map(|rule| whole_scope(rule.needs)).collect();
        let wanted = wanted.iter().map(String::as_str);
        Scopes::parse(wanted.filter(|scope| *scope != "agent_os:admin" && Some(*scope) != left_out))
    }

    /// One request over a connection of its own.
    pub(crate) async fn ask(&self, request: Ask<'_>) -> Answer {
        let mut stream = self.send(request).await;
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = in_time(stream.read_to_end(&mut bytes)).await;
        Answer::read(&bytes)
    }

    /// Sends the request by HTTP/1.0, whose answers end with the connection.
    pub(crate) async fn send(&self, request: Ask<'_>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        let Ask { method, path, token, headers, content_type, body } = request;
        let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\n{token}{headers}\r\n{body}"
        );
        stream.write_all(head.as_bytes()).await.expect("the server reads");
        stream
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask(Ask { path, token: Some(token), ..Ask::default() }).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, form: &str) -> Answer {
        self.ask(Ask { method: "POST", path, token: Some(token), body: form, ..Ask::default() }).await
    }

    /// Submits without HTTP.
    pub(crate) async fn submit(&self, workflow: &str, input: &str) -> RunId {
        let workflow = outlive_core::DefinitionId::parse(workflow).expect("an id");
        let submit = Submit { input: Some(json!(input)), ..Submit::default() };
        self.engine.submit(&workflow, submit).await.expect("accepted").run_id().clone()
    }

    /// Waits until a run's log has this many entries.
    pub(crate) async fn until_length(&self, run_id: &RunId, length: u64) {
        let mut events = self.engine.events(run_id, None);
        for _ in 0..length {
            in_time(events.next()).await.expect("readable").expect("so many events");
        }
    }

    pub(crate) async fn end_of(&self, run_id: &RunId) -> outlive_core::WorkflowRunOutput {
        in_time(self.engine.attach(run_id.clone()).wait()).await.expect("it ends")
    }

    pub(crate) async fn socket(&self) -> Socket {
        self.open("").await.expect("upgraded")
    }

    /// A socket, with this `Origin` unless it is empty.
    pub(crate) async fn open(&self, origin: &str) -> Result<Socket, tokio_tungstenite::tungstenite::Error> {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{}/workflows/ws", self.address).into_client_request()?;
        if !origin.is_empty() {
            request.headers_mut().insert("origin", origin.parse().expect("a header"));
        }
        let (stream, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Socket { stream })
    }

    /// A socket on which this token was accepted.
    pub(crate) async fn socket_of(&self, token: &str) -> Socket {
        let mut socket = self.socket().await;
        socket.say(json!({ "action": "authenticate", "token": token })).await;
        assert_eq!(socket.event().await["event"], "connected");
        assert_eq!(socket.event().await["event"], "authenticated");
        socket
    }

    /// A socket of bytes: upgraded, its greeting read.
    pub(crate) async fn raw(&self) -> Raw {
        Self::upgrade(TcpStream::connect(self.address).await.expect("the server listens")).await
    }

    /// The same, where the client's system keeps little of what it does not read.
    pub(crate) async fn narrow(&self) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(KEPT_BYTES).expect("a smaller buffer");
        Self::upgrade(socket.connect(self.address).await.expect("the server listens")).await
    }

    async fn upgrade(mut stream: TcpStream) -> Raw {
        let head = format!("GET /workflows/ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n");
        stream.write_all(head.as_bytes()).await.expect("the server reads");
        let mut raw = Raw { stream, bytes: Vec::new(), head: String::new() };
        let end = loop {
            if let Some(at) = raw.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(raw.read().await > 0, "no answer");
        };
        raw.head = String::from_utf8(raw.bytes.drain(..end).collect()).expect("text");
        assert!(raw.head.starts_with("HTTP/1.1 101"), "{}", raw.head);
        let (opcode, _) = raw.frame().await.expect("a greeting");
        assert_eq!(opcode, 1);
        raw
    }

    /// A number of `/metrics`, by its name and labels. Asked again while this address has its share of connections.
    pub(crate) async fn number(&self, name: &str) -> f64 {
        let text = loop {
            let answer = self.get("/metrics", "").await;
            if answer.status != 503 {
                break answer.body;
            }
        };
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number {name}: {text}"))
    }

    pub(crate) async fn is_well(&self) -> bool {
        self.ask(Ask { path: "/health", ..Ask::default() }).await.status == 200
    }
}

/// A receiver that takes every webhook and forgets it.
struct Takes;

impl Deliver for Takes {
    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn post(&self, _: &str, _: Vec<(&'static str, String)>, _: String) -> BoxFuture<'_, Result<u16, DeliverError>> {
        Box::pin(std::future::ready(Ok(200)))
    }
}

/// A rule's scope for all ids.
pub(crate) fn whole_scope(needs: Needs) -> Option<String> {
    let Needs::Scope(scope) = needs else { return None };
    let parts: Vec<&str> = scope.split(':').collect();
    Some(format!("{}:{}", parts[0], parts[parts.len() - 1]))
}

/// What a system keeps of a stream that is not read, about, at either end: little, so that little fills it. Less than two
/// segments of the loopback device would make reading slow as well.
const KEPT_BYTES: u32 = 128 << 10;

/// Listens at a free port. Accepted connections inherit its buffer.
fn listener() -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(KEPT_BYTES).expect("a smaller buffer");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    socket.listen(1024).expect("listening")
}

/// The size of a large event of the workflow `flood`.
const FLOOD_BYTES: usize = 64 << 10;

/// `held` tells as many events as its input says and ends when it is released; `ticks` tells them one after the other
/// and ends; `flood` tells large ones, and then as many small ones as the second number says; `doubts` pauses, because
/// nobody knows what it did, `asks` for input, `guarded` for another person's yes, `redraft` whether what it wrote is good, and `late` for a yes at once; `waiter` tells one each two seconds and never ends; `mirror`, also as an agent and a team,
/// answers what it was given; `poet`, `doubter`, `flaky`, `sleeper` and `breaks` say text before they end, each in its own
/// way; what has `talk` in its name says its text piece by piece, `held-talk` the end of it once it is released; `branches`
/// says two texts side by side; `asks-inside` and `asks-twice` ask within a container, `again` before each of two
/// iterations; `asker`, an agent, asks in the middle of its work; `overspends` asks about the budget that its input names;
/// `fails` fails; the others answer at once.
fn definitions(released: &watch::Receiver<bool>, is_updated: bool) -> Vec<(Kind, Arc<Definition>)> {
    let shout = || Step::function("shout", async |_, input| Ok::<_, Failure>(input.text().to_uppercase()));
    let of = |id: &str, step: Step| {
        let definition = Definition::builder(id).id(id).step(step).build();
        Arc::new(definition.expect("a definition without problems"))
    };
    let (for_talk, released) = (released.clone(), released.clone());
    let held = Step::function("held", move |context, input| {
        let mut released = released.clone();
        async move {
            for n in 0..count(&input.text()) {
                context.progress(n.to_string(), None);
            }
            let _ = released.wait_for(|released| *released).await;
            Ok::<_, Failure>("released")
        }
    });
    let ticks = Step::function("ticks", async |context, input| {
        for n in 0..count(&input.text()) {
            context.progress(n.to_string(), None);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, Failure>("ticked")
    });
    let wait = Step::function("wait", async |context, _| {
        loop {
            context.progress("still here", None);
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        #[expect(unreachable_code, reason = "says what it would give back")]
        Ok::<_, Failure>("")
    });
    let flood = Step::function("flood", async |context, input| {
        let input = input.text();
        let small = input.split_once(' ').map_or(0, |(_, small)| count(small));
        for bytes in
            [(count(&input), FLOOD_BYTES), (small, 1)].iter().flat_map(|(count, bytes)| (0..*count).map(|_| *bytes))
        {
            context.progress("x".repeat(bytes), None);
            tokio::task::yield_now().await;
        }
        Ok::<_, Failure>("flooded")
    });
    // An input has no NUL, what a step says may have one.
    let say = Step::function("say", async |context, input| {
        let text = input.text().replace("{nul}", "\0");
        context.progress(text.clone(), Some(json!({ "data": text })));
        Ok::<_, Failure>(text)
    });
    let doubts = Step::function("doubts", async |_, _| {
        Err::<String, _>(Failure::new(FailureKind::OutcomeUnknown, "it may have been paid"))
    });
    let mirror = || Step::function("mirror", async |_, input| Ok::<_, Failure>(json!(*input)));
    let fields = [UserInputField::new("colour"), UserInputField::new("size").of(FieldType::Int).optional()];
    let ask = Step::function("ask", async |_, input| {
        let given = input.additional_data.clone().unwrap_or_default();
        Ok::<_, Failure>(format!("{} {given}", input.text()))
    });
    let ask = ask.human_review(HumanReview::user_input("Which colour?", fields));
    let guarded = Step::function("guarded", async |_, input| Ok::<_, Failure>(input.text()));
    let guarded = guarded.human_review(HumanReview::confirmation("Really?").four_eyes());
    let late = Step::function("late", async |_, input| Ok::<_, Failure>(input.text()));
    let limited = HumanReview::confirmation("Soon?").timeout(Duration::from_millis(20)).on_timeout(OnTimeout::Skip);
    let says = |name: &str, pieces: &'static [&'static str]| {
        Step::function(name, async move |context, _| {
            pieces.iter().for_each(|piece| context.say(*piece));
            Ok::<_, Failure>(())
        })
    };
    let poet = Definition::builder("poet").id("poet").step(says("draft", &["not ", "this"]));
    let poet = poet.step(says("poem", &["roses ", "are ", "red"]));
    let poet = if is_updated { poet.step(says("title", &["Roses"])) } else { poet };
    let poet = poet.build().expect("a definition without problems");
    let doubter = Step::function("doubter", async |context, _| {
        context.say("perhaps");
        Ok::<_, Failure>("certainly")
    });
    let flaky = Step::function("flaky", async |context, _| {
        let attempt = context.step.attempt;
        context.say(format!("attempt {attempt} "));
        context.effects.durable().await.map_err(|_| Failure::new(FailureKind::Cancelled, "stopped"))?;
        context.say("ends");
        if attempt == 1 { Err(Failure::new(FailureKind::Unavailable, "not yet")) } else { Ok(()) }
    });
    let flaky = flaky.retry(Retry::times(1).backoff(Duration::from_millis(1)));
    let sleeper = Step::function("sleeper", async |context, _| {
        context.say("good ");
        context.sleep("nap", Duration::from_millis(20)).await?;
        context.say("morning");
        Ok::<_, Failure>(())
    });
    let breaks = Step::function("breaks", async |context, _| {
        context.say("it was ");
        Err::<String, _>(Failure::new(FailureKind::Function, "it broke"))
    });
    let paints = Step::function("paints", async |_, input| {
        let image = |content: &str, kind: &str| Media {
            content: Some(content.to_owned()),
            mime_type: Some(kind.to_owned()),
            ..Media::default()
        };
        let far = Media { url: Some("https://x.example/far.png".to_owned()), ..Media::default() };
        let file = Media { filename: Some("a.txt".to_owned()), ..image("YQ==", "text/plain") };
        let near = [image("aW1hZ2U=", "image/png"), image("PHN2Zy8+", "image/svg+xml")];
        let times = if input.text() == "many" { 1000 } else { 1 };
        let images = (0..times).flat_map(|_| near.clone()).chain([far]);
        Ok::<_, Failure>(StepOutput::new("painted").images(images).files([file]))
    });
    let talk = |name: &'static str| {
        Step::function(name, move |context, input| async move {
            context.say(format!("{name}: "));
            context.say(input.text());
            Ok::<_, Failure>(())
        })
    };
    let talks = Step::function("talks", async |context, input| {
        for word in input.text().split(' ') {
            context.say(format!("{word} "));
            context.progress(word, None);
        }
        Ok::<_, Failure>(())
    });
    let ticking_talk = Step::function("ticking-talk", async |context, input| {
        for n in 0..count(&input.text()) {
            context.say(format!("{n} "));
            context.progress(n.to_string(), None);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok::<_, Failure>(())
    });
    let held_talk = Step::function("held-talk", move |context, input| {
        let mut released = for_talk.clone();
        async move {
            context.say(input.text());
            context.progress("said", None);
            let _ = released.wait_for(|released| *released).await;
            context.say(" and out");
            Ok::<_, Failure>(())
        }
    });
    let fails = Step::function("fails", async |_, _| Err::<String, _>(Failure::new(FailureKind::Function, "it broke")));
    let asking = |name: &str| {
        let step = Step::function(name, async |_, input| Ok::<_, Failure>(input.text().to_uppercase()));
        step.human_review(HumanReview::confirmation("Really?"))
    };
    let redraft = Step::function("redraft", async |_, input| Ok::<_, Failure>(input.text()));
    let redraft = redraft.human_review(HumanReview::output("Is it good?").on_reject(OnReject::Retry));
    let asker = Step::function("asker", async |context, _| {
        let sure = context.ask("sure", HumanReview::confirmation("Sure?")).await?;
        if matches!(sure, Said::Reject { .. }) {
            return Ok("then not".to_owned());
        }
        let colour = HumanReview::user_input("Which colour?", [UserInputField::new("colour")]);
        match context.ask("colour", colour).await? {
            Said::Input { values } => Ok(format!("it is {}", values["colour"].as_str().unwrap_or_default())),
            other => Err(Failure::fatal(other.as_str())),
        }
    });
    let overspends = Step::function("spend", async |context, input| {
        let over = Over {
            name: input.text().into(),
            budget: "5 calls".into(),
            unit: BudgetUnit::Calls,
            limit: 5,
            used: 5,
            wanted: 1,
        };
        let question = Question::of_budget(context.step.key.named("over"), "it", over);
        let answered = context.effects.ask(&context.step.key, vec![question]).await?;
        Ok::<_, Failure>(answered[0].answer.as_str())
    });
    let nodes = |id: &str, block: Block| {
        let definition = Definition::builder(id).id(id).step(block).build();
        Arc::new(definition.expect("a definition without problems"))
    };
    vec![
        (Kind::Workflow, Arc::new(poet)),
        (Kind::Workflow, of("doubter", doubter)),
        (Kind::Workflow, of("flaky", flaky)),
        (Kind::Workflow, of("sleeper", sleeper)),
        (Kind::Workflow, of("breaks", breaks)),
        (Kind::Workflow, of("paints", paints)),
        (Kind::Workflow, of("talks", talks)),
        (Kind::Workflow, of("ticking-talk", ticking_talk)),
        (Kind::Workflow, of("held-talk", held_talk)),
        (Kind::Workflow, of("fails", fails)),
        (Kind::Workflow, nodes("branches", Parallel::new("both").step(talk("left")).step(talk("right")).into())),
        (Kind::Workflow, nodes("asks-inside", Steps::new("outer").step(asking("guarded")).into())),
        (Kind::Workflow, nodes("asks-twice", Parallel::new("both").step(asking("one")).step(asking("two")).into())),
        (Kind::Workflow, nodes("again", Loop::new("again").step(asking("each")).max_iterations(2).into())),
        (Kind::Workflow, of("overspends", overspends)),
        (Kind::Agent, of("agent:asker", asker)),
        (Kind::Workflow, of("guarded", guarded)),
        (Kind::Workflow, of("redraft", redraft)),
        (Kind::Workflow, of("late", late.human_review(limited))),
        (Kind::Workflow, of("asks", ask)),
        (Kind::Workflow, of("doubts", doubts)),
        (Kind::Workflow, of("mirror", mirror())),
        (Kind::Agent, of("agent:mirror-agent", mirror())),
        (Kind::Team, of("team:mirror-team", mirror())),
        (Kind::Workflow, of("echo", shout())),
        (Kind::Workflow, of("held", held)),
        (Kind::Workflow, of("ticks", ticks)),
        (Kind::Workflow, of("say", say)),
        (Kind::Workflow, of("flood", flood)),
        (Kind::Agent, of("agent:helper", shout())),
        (Kind::Agent, of("agent:waiter", wait)),
        (Kind::Team, of("team:crew", shout())),
    ]
}

fn count(text: &str) -> u32 {
    text.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn component(kind: Kind, definition: Arc<Definition>) -> Component {
    let id = definition.id.as_str().rsplit(':').next().expect("an id").to_owned();
    let details = json!({ "id": id, "name": id, "model": { "model": "m", "provider": "p" } });
    Component { kind, name: id.clone(), id, description: None, definition, details }
}

/// A request.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
    /// Whole lines.
    pub(crate) headers: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a str,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        let content_type = "application/x-www-form-urlencoded";
        Self { method: "GET", path: "/", token: None, headers: "", content_type, body: "" }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let status = head[9..12].parse().expect("a status");
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// A text of the body.
    pub(crate) fn text(&self, key: &str) -> String {
        self.json()[key].as_str().unwrap_or_else(|| panic!("no {key}: {self:?}")).to_owned()
    }
}

/// A client's end of a WebSocket.
pub(crate) struct Socket {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Whatever can be sent; a server that closes early is seen in what it answers.
    pub(crate) async fn send(&mut self, message: Message) {
        let _ = in_time(self.stream.send(message)).await;
    }

    pub(crate) async fn say(&mut self, frame: Value) {
        self.send(Message::text(frame.to_string())).await;
    }

    /// The next text as JSON, also when it is in the form of a Server-Sent Event.
    pub(crate) async fn event(&mut self) -> Value {
        match self.next().await {
            Heard::Event(event) => event,
            Heard::Closed(frame) => panic!("closed: {frame:?}"),
        }
    }

    /// The next event with this name; others are passed over.
    pub(crate) async fn until(&mut self, name: &str) -> Value {
        loop {
            let event = self.event().await;
            if event["event"] == name {
                return event;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            match in_time(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let is_sse = text.starts_with("event: ");
                    let data = text.split_once("\ndata: ").filter(|_| is_sse).map(|(_, data)| data.trim_end());
                    let json = data.unwrap_or(&text);
                    return Heard::Event(serde_json::from_str(json).unwrap_or_else(|_| panic!("not JSON: {text}")));
                }
                Some(Ok(Message::Close(frame))) => return Heard::Closed(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Heard::Closed(None),
            }
        }
    }

    /// The close code, which is the next thing that is heard.
    pub(crate) async fn closed_at_once(&mut self) -> Option<u16> {
        match self.next().await {
            Heard::Event(event) => panic!("it is still told {event}"),
            Heard::Closed(frame) => frame.map(|frame| frame.code.into()),
        }
    }

    /// The close code, after whatever comes before it.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Heard::Closed(frame) = self.next().await {
                return frame.map(|frame| frame.code.into());
            }
        }
    }
}

/// A client's end of a WebSocket that keeps no rule of its own.
pub(crate) struct Raw {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// The answer to the upgrade.
    pub(crate) head: String,
}

impl Raw {
    /// Whatever can be sent; a server that closes early is seen in what it answers.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        in_time(self.stream.write_all(bytes)).await.is_ok()
    }

    /// One frame with a mask of zeroes. `first` is its first byte: flags and opcode.
    pub(crate) async fn say(&mut self, first: u8, payload: &[u8]) -> bool {
        let mut frame = vec![first];
        match u16::try_from(payload.len()).expect("a short payload") {
            length @ 0..126 => frame.push(0x80 | u8::try_from(length).expect("less than 126")),
            length => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.send(&frame).await
    }

    /// The next frame of the server: opcode and payload; none after its end.
    pub(crate) async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((opcode, start, length)) = self.peek()
                && self.bytes.len() >= start + length
            {
                let payload = self.bytes[start..start + length].to_vec();
                self.bytes.drain(..start + length);
                return Some((opcode, payload));
            }
            if self.read().await == 0 {
                return None;
            }
        }
    }

    /// The next frame's opcode, where its payload starts, and how long it is.
    fn peek(&self) -> Option<(u8, usize, usize)> {
        let (&first, &second) = (self.bytes.first()?, self.bytes.get(1)?);
        let (start, length) = match second {
            126 => (4, u64::from(u16::from_be_bytes(self.bytes.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.bytes.get(2..10)?.try_into().ok()?)),
            length => (2, u64::from(length)),
        };
        Some((first & 0x0f, start, usize::try_from(length).ok()?))
    }

    /// The close code, after whatever comes before it; none when the connection ends without.
    pub(crate) async fn closed(&mut self) -> Option<u16> {
        loop {
            let (opcode, payload) = self.frame().await?;
            if opcode == 8 {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
    }

    /// Waits, without reading, until the system keeps so much that the server is about to wait for this client.
    pub(crate) async fn filled(&mut self) {
        let mut bytes = vec![0; KEPT_BYTES as usize / 2];
        let is_full = async {
            while self.stream.peek(&mut bytes).await.expect("open") < bytes.len() {
                tokio::task::yield_now().await;
            }
        };
        in_time(is_full).await;
    }

    /// Whether the server ends the connection in good order.
    pub(crate) async fn ended(&mut self) -> bool {
        in_time(self.stream.read_to_end(&mut self.bytes)).await.is_ok()
    }

    async fn read(&mut self) -> usize {
        // A reset is an end too.
        in_time(self.stream.read_buf(&mut self.bytes)).await.unwrap_or(0)
    }
}

#[derive(Debug)]
pub(crate) enum Heard {
    Event(Value),
    Closed(Option<CloseFrame>),
}

impl Served {
    pub(crate) fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A key that may do what [`Served::user`]'s may, until this time.
    pub(crate) async fn mint_until(&self, user: Option<&str>, end: Timestamp) -> String {
        let scopes = self.scopes_but(None);
        let key = NewKey { scopes, user_id: user.map(Arc::from), expires_at: Some(end), ..NewKey::default() };
        self.mint(key).await.0
    }

    pub(crate) async fn revoke(&self, record: &KeyRecord) {
        assert!(self.keys.revoke(&record.id, self.clock.now()).await.expect("kept"), "there is such a key");
    }
}
