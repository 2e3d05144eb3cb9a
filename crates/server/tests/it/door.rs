//! The door from outside: how connections begin, are bounded and end. Other modules borrow its [`Server`].

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Path};
use axum::http::StatusCode;
use axum::routing::{get, post};
use outlive_server::config::Limits;
use outlive_server::guard::{GuardConfig, Hosts, Origins, guarded};
use outlive_server::json::Json;
use outlive_server::listen::{Proxies, serve};
use outlive_server::problem::Problem;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(5);

/// A guarded server with a few routes, on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// `GET /held` says here that it was reached.
    pub(crate) reached: Arc<Notify>,
    /// `GET /held` answers after this.
    pub(crate) release: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<std::io::Result<()>>,
}

/// Limits so short that a test can wait for them.
pub(crate) fn short() -> Limits {
    Limits {
        header_period: Duration::from_millis(200),
        body_idle_period: Duration::from_millis(200),
        body_grace: Duration::from_millis(200),
        write_idle_period: Duration::from_millis(200),
        keep_alive_period: Duration::from_millis(400),
        drain_period: Duration::from_millis(300),
        body_bytes_max: 2 << 10,
        ..Limits::default()
    }
}

impl Server {
    pub(crate) async fn start(limits: Limits) -> Self {
        let hosts = Hosts::listed(["runs.example"]).expect("a name");
        let origins = Origins::new(["https://page.example"]).expect("an origin");
        Self::start_with(limits, GuardConfig { hosts, origins, ..GuardConfig::default() }).await
    }

    pub(crate) async fn start_with(limits: Limits, config: GuardConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let router = guarded(routes(&reached, &release), GuardConfig { limits: limits.clone(), ..config.clone() });
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(serve(vec![listener], router, limits, config.proxies, Arc::new(|| {}), async {
            let _ = stopped.await;
        }));
        Self { address, reached, release, stop: Some(stop), running }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.expect("the server listens"), rest: Vec::new() }
    }

    /// The answer to raw bytes on a connection of their own.
    pub(crate) async fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.answer().await
    }

    /// Whether an ordinary request is still served.
    pub(crate) async fn is_well(&self) -> bool {
        self.ask(get_request("/health")).await.status == 200
    }

    pub(crate) fn stop(&mut self) {
        self.stop.take().expect("a server is stopped once").send(()).expect("the server runs");
    }

    pub(crate) async fn ended(self) {
        in_time(self.running).await.expect("the server does not panic").expect("the server ends well");
    }
}

fn routes(reached: &Arc<Notify>, release: &Arc<Notify>) -> Router {
    let (reached, release) = (Arc::clone(reached), Arc::clone(release));
    let held = async move || {
        reached.notify_one();
        release.notified().await;
        "released"
    };
    let flood = async || {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(piece.clone())))
    };
    let socket = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                    break;
                }
            }
        })
    };
    Router::new()
        .route("/health", get(async || axum::Json(json!({ "status": "ok" }))))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()))
        .route("/echo", post(async |body: Bytes| body.len().to_string()))
        .route("/ignore", post(async || "not read"))
        .route("/json", post(async |Json(value): Json<Value>| axum::Json(value)))
        .route("/typed", post(async |Json(typed): Json<Typed>| typed.count.to_string()))
        .route("/things/{id}", get(async |Path(id): Path<String>| id))
        .route("/query", get(async |axum::extract::Query(typed): axum::extract::Query<Typed>| typed.count.to_string()))
        .route("/page", get(async || axum::response::Html("<p>")))
        .route("/panic", get(async || -> String { panic!("hunter2") }))
        .route("/held", get(held))
        .route("/flood", get(flood))
        .route("/ws", get(socket))
        .route("/api/none", get(async || Problem::not_found("Nothing here")))
        .route("/text", get(async || (StatusCode::IM_A_TEAPOT, "hunter2")))
}

#[derive(serde::Deserialize)]
struct Typed {
    count: u32,
}

/// One raw connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    rest: Vec<u8>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

impl Client {
    /// Whatever can be sent; a peer that closes early is seen in what it answers.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = in_time(self.stream.write_all(bytes.as_ref())).await;
    }

    /// Reads one answer with a length, or until the end.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head_end = loop {
            if let Some(at) = self.rest.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            assert!(self.read().await > 0, "no answer, only {:?}", String::from_utf8_lossy(&self.rest));
        };
        let head = String::from_utf8(self.rest.drain(..head_end + 4).collect()).expect("a head is ASCII");
        let mut answer = Answer { status: head[9..12].parse().expect("a status"), head, body: String::new() };
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
        while self.rest.len() < length && self.read().await > 0 {}
        answer.body = String::from_utf8(self.rest.drain(..length).collect()).expect("a body of text");
        answer
    }

    /// What comes until the server closes.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        while self.read().await > 0 {}
        std::mem::take(&mut self.rest)
    }

    async fn read(&mut self) -> usize {
        // A reset is an end too.
        in_time(self.stream.read_buf(&mut self.rest)).await.unwrap_or(0)
    }
}

pub(crate) async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub(crate) fn get_request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

pub(crate) fn post_request(target: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

pub(crate) const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// "hi" as a client's text frame, with a mask of zeroes.
const HI: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];

#[tokio::test]
async fn a_connection_serves_several_requests_and_tells_the_peer() {
    let server = Server::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(get_request("/peer")).await;
    assert_eq!(client.answer().await.body, "127.0.0.1");
    // Two at once, in one packet.
    client.send(post_request("/echo", "", "four") + &get_request("/health")).await;
    assert_eq!(client.answer().await.body, "4");
    assert_eq!(client.answer().await.json(), json!({ "status": "ok" }));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_keep_alive_period() {
    let limits = Limits { header_period: Duration::from_millis(50), ..short() };
    let idle = limits.keep_alive_period;
    let server = Server::start(limits).await;
    for request in [get_request("/health"), post_request("/echo", "", "x"), get_request("/nothing")] {
        let mut client = server.connect().await;
        client.send(request).await;
        client.answer().await;
        let since = Instant::now();
        assert!(client.closed().await.is_empty());
        assert!(since.elapsed() > idle - Duration::from_millis(50), "not the time for a head: {:?}", since.elapsed());
    }
}

#[tokio::test]
async fn a_slow_answer_has_no_limit_while_it_is_being_made() {
    let server = Server::start(short()).await;
    let mut client = server.connect().await;
    client.send(get_request("/held")).await;
    in_time(server.reached.notified()).await;
    // Another connection's whole idle time passes meanwhile.
    let mut other = server.connect().await;
    other.send(get_request("/health")).await;
    other.answer().await;
    other.closed().await;
    server.release.notify_one();
    assert_eq!(client.answer().await.body, "released");
}

#[tokio::test]
async fn a_client_that_ends_its_side_after_its_request_gets_the_answer() {
    let server = Server::start(short()).await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    for (request, expected) in [
        (get_request("/peer"), vec!["127.0.0.1"]),
        (post_request("/echo", "", "four"), vec!["4"]),
        (get_request("/peer") + &post_request("/echo", "", "four"), vec!["127.0.0.1", "4"]),
        (chunked.to_owned(), vec!["4"]),
    ] {
        let mut client = server.connect().await;
        client.send(&request).await;
        client.stream.shutdown().await.expect("connected");
        for expected in expected {
            assert_eq!(client.answer().await.body, expected, "{request:?}");
        }
        assert!(client.closed().await.is_empty(), "nothing follows");
    }
    // Also one that takes longer than any other wait of the server.
    let mut client = server.connect().await;
    client.send(get_request("/held")).await;
    client.stream.shutdown().await.expect("connected");
    in_time(server.reached.notified()).await;
    let mut other = server.connect().await;
    other.closed().await;
    server.release.notify_one();
    assert_eq!(client.answer().await.body, "released");
    // What is not a whole request is not waited for.
    for half in
        ["GET /health HTTP/1.1\r\nHost: lo", "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nfour"]
    {
        let mut client = server.connect().await;
        client.send(half).await;
        client.stream.shutdown().await.expect("connected");
        let heard = String::from_utf8(client.closed().await).expect("text");
        assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 4"), "{half:?}: {heard}");
    }
}

#[tokio::test]
async fn a_connection_is_idle_again_after_a_slow_answer() {
    let server = Server::start(Limits { header_period: Duration::from_secs(60), ..short() }).await;
    let mut client = server.connect().await;
    client.send(get_request("/held")).await;
    in_time(server.reached.notified()).await;
    server.release.notify_one();
    assert_eq!(client.answer().await.body, "released");
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn requests_in_flight_are_answered_before_the_server_ends() {
    let mut server = Server::start(Limits::default()).await;
    let mut idle = server.connect().await;
    idle.send(get_request("/health")).await;
    idle.answer().await;
    let mut client = server.connect().await;
    client.send(get_request("/held")).await;
    in_time(server.reached.notified()).await;
    server.stop();
    assert!(idle.closed().await.is_empty(), "an idle connection is closed at once");
    assert!(TcpStream::connect(server.address).await.is_err(), "nothing new is accepted");
    server.release.notify_one();
    assert_eq!(client.answer().await.body, "released");
    server.ended().await;
}

#[tokio::test]
async fn what_does_not_end_in_the_drain_period_is_cut() {
    let mut server = Server::start(short()).await;
    let mut client = server.connect().await;
    client.send(get_request("/held")).await;
    in_time(server.reached.notified()).await;
    let mut socket = server.connect().await;
    socket.send(format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n")).await;
    assert_eq!(socket.answer().await.status, 101);
    server.stop();
    server.ended().await;
    assert!(client.closed().await.is_empty());
    socket.closed().await;
}

#[tokio::test]
async fn a_websocket_outlives_every_time_of_a_request() {
    let server = Server::start(short()).await;
    let mut socket = server.connect().await;
    socket.send(format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n")).await;
    let answer = socket.answer().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    let mut other = server.connect().await;
    other.send(get_request("/health")).await;
    other.answer().await;
    other.closed().await;
    socket.send(HI).await;
    while socket.rest.len() < 4 {
        assert!(socket.read().await > 0, "the socket is open");
    }
    assert_eq!(socket.rest, [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn a_websocket_holds_its_slot_until_it_is_closed() {
    let server = Server::start(Limits { connections_max: 1, ..Limits::default() }).await;
    let mut socket = server.connect().await;
    socket.send(format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n")).await;
    assert_eq!(socket.answer().await.status, 101);
    let mut next = server.connect().await;
    next.send(get_request("/health")).await;
    let early = tokio::time::timeout(Duration::from_millis(100), next.read()).await;
    assert!(early.is_err(), "the second connection waits");
    drop(socket);
    assert_eq!(next.answer().await.status, 200);
}

#[tokio::test]
async fn several_listeners_are_one_server() {
    let (one, two) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
    let listeners = vec![one.expect("a port"), two.expect("another")];
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
    let (stop, stopped) = oneshot::channel::<()>();
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = guarded(routes(&reached, &release), GuardConfig::default());
    let running =
        tokio::spawn(serve(listeners, router, Limits::default(), Proxies::default(), Arc::new(|| {}), async {
            let _ = stopped.await;
        }));
    for address in addresses {
        let mut client = Client { stream: TcpStream::connect(address).await.expect("it listens"), rest: Vec::new() };
        client.send(get_request("/health")).await;
        assert_eq!(client.answer().await.status, 200);
    }
    stop.send(()).expect("the server runs");
    in_time(running).await.expect("no panic").expect("a good end");
    let none = serve(Vec::new(), Router::new(), Limits::default(), Proxies::default(), Arc::new(|| {}), async {}).await;
    assert!(none.is_err(), "a server without an address serves nobody");
}

#[tokio::test]
async fn every_answer_has_an_id_and_tells_browsers_what_not_to_do() {
    let server = Server::start(Limits::default()).await;
    let mut ids = Vec::new();
    for target in ["/health", "/nothing", "/panic", "/text", "/page", "/things/a%2fb", "/api/none"] {
        let answer = server.ask(get_request(target)).await;
        ids.push(answer.header("x-request-id").expect("an id").to_owned());
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{target}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{target}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{target}");
        assert_eq!(answer.header("vary"), Some("Origin"), "{target}");
        assert_eq!(answer.header("content-security-policy").is_some(), target == "/page", "{target}");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7, "each has its own");
}

#[tokio::test]
async fn errors_are_agnos_bodies_and_show_nothing_inside() {
    let server = Server::start(Limits::default()).await;
    for (request, status, code, detail) in [
        (get_request("/nothing"), 404, "not_found", "Not Found"),
        (post_request("/health", "", ""), 405, "method_not_allowed", "Method Not Allowed"),
        (get_request("/panic"), 500, "internal", "Internal server error"),
        (get_request("/text"), 418, "request_refused", "I'm a teapot"),
        (get_request("/query?count=hunter2"), 400, "bad_request", "Bad Request"),
    ] {
        let answer = server.ask(&request).await;
        assert_eq!((answer.status, answer.header("x-error-code")), (status, Some(code)), "{request}");
        assert_eq!(answer.json(), json!({ "detail": detail }), "{request}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{request}");
        assert!(!answer.head.contains("hunter2"));
    }
    assert!(server.is_well().await);
}

#[tokio::test]
async fn errors_of_our_own_routes_carry_code_and_id_in_the_body_too() {
    let server = Server::start(Limits::default()).await;
    let answer = server.ask(get_request("/api/none")).await;
    let id = answer.header("x-request-id").expect("an id");
    assert_eq!(answer.json(), json!({ "detail": "Nothing here", "error_code": "not_found", "request_id": id }));
    assert_eq!(server.ask(get_request("/api/nothing")).await.json()["error_code"], "not_found");
}

#[tokio::test]
async fn a_page_from_elsewhere_changes_nothing_and_opens_nothing() {
    let server = Server::start(Limits::default()).await;
    let port = server.address.port();
    for (origin, expected) in [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://localhost:1", 403),
        ("https://page.example.evil.example", 403),
        ("https://page.example", 200),
        ("http://localhost", 200),
    ] {
        let line = format!("Origin: {origin}\r\n");
        assert_eq!(server.ask(post_request("/echo", &line, "x")).await.status, expected, "{origin}");
        let upgrade = format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}{line}\r\n");
        let expected = if expected == 200 { 101 } else { expected };
        assert_eq!(server.ask(upgrade).await.status, expected, "{origin}");
        assert_eq!(server.ask(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{line}\r\n")).await.status, 200);
    }
    let own = format!(
        "POST /echo HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(server.ask(own).await.status, 200);
    let two = "Origin: http://localhost\r\nOrigin: https://evil.example\r\n";
    assert_eq!(server.ask(post_request("/echo", two, "x")).await.status, 403);
}

#[tokio::test]
async fn only_a_listed_page_may_read_answers() {
    let server = Server::start(Limits::default()).await;
    let ask =
        |target: &str, origin: &str| format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n\r\n");
    for target in ["/health", "/nothing", "/panic"] {
        let listed = server.ask(ask(target, "https://page.example")).await;
        assert_eq!(listed.header("access-control-allow-origin"), Some("https://page.example"), "{target}");
        assert_eq!(listed.header("access-control-allow-credentials"), Some("true"), "{target}");
        let other = server.ask(ask(target, "https://evil.example")).await;
        assert!(!other.head.contains("access-control"), "{target}: {}", other.head);
        assert_eq!(other.header("vary"), Some("Origin"), "{target}");
    }
    let preflight = |origin: &str| {
        format!(
            "OPTIONS /echo HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization\r\n\r\n"
        )
    };
    let listed = server.ask(preflight("https://page.example")).await;
    assert_eq!((listed.status, listed.header("access-control-allow-headers")), (204, Some("authorization")));
    assert!(listed.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST")));
    let other = server.ask(preflight("https://evil.example")).await;
    assert_eq!(other.status, 403);
    assert!(!other.head.contains("access-control"), "{}", other.head);
}
