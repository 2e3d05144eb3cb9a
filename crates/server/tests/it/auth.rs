//! Who may do what: credentials, scopes and the table of routes, through a router.

#[cfg(feature = "jwt")]
mod jwt;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Path};
use axum::http::{HeaderMap, Request, StatusCode, header};
use outlive_core::Timestamp;
use outlive_core::port::{BoxFuture, Clock, DbError, DbErrorKind};
use outlive_server::auth::key::{KeyDigest, KeyRecord, KeyStore, MemoryKeyStore, NewKey};
use outlive_server::auth::{
    Access, Auth, AuthErrorKind, Needs, Principal, PrincipalKind, Routes, Scopes, Secret, Verb, authorize,
};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::ServiceExt;

const PEER: &str = "192.0.2.1";
const ELSEWHERE: &str = "198.51.100.7";
/// Seconds since 1970 at which tests begin.
const NOW_S: i64 = 1_800_000_000;

/// A clock that tests set.
struct TestClock(AtomicI64);

impl TestClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(NOW_S)))
    }

    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs().cast_signed(), Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed) * 1_000_000)
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Says who was admitted, so that a test can tell an admitted caller from another.
async fn whoami(principal: Principal) -> String {
    let kind = match principal.kind {
        PrincipalKind::Anonymous => "anonymous",
        PrincipalKind::SecurityKey => "security key",
        PrincipalKind::Key { .. } => "key",
        PrincipalKind::User => "user",
    };
    match principal.access() {
        Access::All => format!("{kind}, all"),
        Access::User(user) => format!("{kind}, {user}"),
    }
}

async fn workflow(Path(id): Path<String>, _principal: Principal) -> String {
    format!("workflow {id}")
}

/// The workflows that exist, as far as the caller may see them.
async fn workflows(principal: Principal) -> String {
    let seen = ["echo", "fn-pipeline"].into_iter().filter(|id| principal.may("workflows", id, "read"));
    seen.collect::<Vec<_>>().join(",")
}

fn routes() -> Routes {
    Routes::new()
        .get("/", Needs::Open, async || "home")
        .get("/health", Needs::Open, async || "well")
        .get("/info", Needs::Open, async || "info")
        .get("/whoami", Needs::Identity, whoami)
        .get("/config", Needs::scope("config:read"), async || "config")
        .get("/sessions", Needs::scope("sessions:read"), async || "sessions")
        .get("/workflows", Needs::scope("workflows:{}:read"), workflows)
        .get("/workflows/{workflow_id}", Needs::scope("workflows:{workflow_id}:read"), workflow)
        .post("/workflows/{workflow_id}/runs", Needs::scope("workflows:{workflow_id}:run"), workflow)
        .get("/admin", Needs::scope("agent_os:admin"), async || "admin")
        .get("/workflows/ws", Needs::Open, async || "socket")
        .message("/workflows/ws", "start-workflow", Needs::scope("workflows:{workflow_id}:run"))
        .message("/workflows/ws", "ping", Needs::Identity)
}

/// What a client sees.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn detail(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("a JSON body");
        body["detail"].as_str().expect("a text").to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }
}

/// A server that accepts what `auth` accepts.
struct Server(Router);

impl Server {
    fn new(auth: Auth) -> Self {
        Self(routes().into_router((), Arc::new(auth)))
    }

    async fn send(&self, method: &str, path: &str, credentials: &[&str], peer: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for credential in credentials {
            request = request.header(header::AUTHORIZATION, *credential);
        }
        let peer = ConnectInfo(SocketAddr::new(address(peer), 4711));
        let request = request.extension(peer).body(Body::empty()).expect("a request");
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("an answer");
        let body = String::from_utf8(body.to_vec()).expect("a body");
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str, credential: &str) -> Answer {
        self.send("GET", path, &[credential], PEER).await
    }
}

fn security_key() -> Auth {
    Auth::new(TestClock::new()).security_key(&Secret::new("sekret"))
}

/// A server with one API key, and the key's header.
async fn key_server(key: NewKey) -> (Server, String) {
    let keys = Arc::new(MemoryKeyStore::default());
    let (secret, record) = KeyRecord::mint(key, TestClock::new().now());
    keys.add(record).await.expect("kept");
    (Server::new(Auth::new(TestClock::new()).keys(keys)), format!("Bearer {}", secret.expose()))
}

fn key_with(scopes: &[&str]) -> NewKey {
    NewKey { scopes: Scopes::parse(scopes.iter().copied()), ..NewKey::default() }
}

#[tokio::test]
async fn without_credentials_configured_everyone_may_do_everything() {
    let auth = Auth::new(TestClock::new());
    assert!(!auth.is_on() && auth.mode() == "none");
    let server = Server::new(auth);
    let answer = server.send("GET", "/whoami", &[], PEER).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "anonymous, all"));
    assert_eq!(server.get("/admin", "Bearer whatever").await.status, StatusCode::OK);
    // An empty key would otherwise be a key that everybody knows.
    assert!(!Auth::new(TestClock::new()).security_key(&Secret::new("")).is_on());
}

#[tokio::test]
async fn bad_b01_what_is_not_the_security_key_is_refused_with_agnos_words() {
    let server = Server::new(security_key());
    let (required, invalid) = ("Authorization header required", "Invalid authentication token");
    let cases: [(&[&str], &str); 8] = [
        (&[], required),
        (&["Bearer wrong"], invalid),
        (&["Bearer "], invalid),
        (&[""], invalid),
        (&["Bearer"], invalid),
        (&["Bearer Bearer sekret"], invalid),
        (&["Basic sekret"], invalid),
        (&["Bearer sekret", "Bearer sekret"], required),
    ];
    for (number, (credentials, detail)) in cases.into_iter().enumerate() {
        let answer = server.send("GET", "/config", credentials, PEER).await;
        assert_eq!((answer.status, answer.detail().as_str()), (StatusCode::UNAUTHORIZED, detail), "case {number}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "case {number}");
        assert!(answer.header("x-error-code").is_some(), "case {number}");
    }
}

#[tokio::test]
async fn the_security_key_opens_everything_with_and_without_the_word_bearer() {
    let server = Server::new(security_key());
    for credential in ["Bearer sekret", "sekret"] {
        for path in ["/config", "/workflows", "/workflows/fn-pipeline", "/sessions?limit=1", "/admin"] {
            assert_eq!(server.get(path, credential).await.status, StatusCode::OK, "{path}");
        }
    }
    assert_eq!(server.get("/whoami", "Bearer sekret").await.body, "security key, all");
}

#[tokio::test]
async fn the_scheme_has_no_case_and_any_number_of_blanks_behind_it() {
    let (key_server, header) = key_server(NewKey { user_id: Some("alice".into()), ..key_with(&["config:read"]) }).await;
    let key = header.trim_start_matches("Bearer ");
    let phrase = Server::new(Auth::new(TestClock::new()).security_key(&Secret::new("two words")));
    for scheme in ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer  ", "bearer \t  ", "Bearer\t"] {
        let answer = Server::new(security_key()).get("/whoami", &format!("{scheme}sekret")).await;
        assert_eq!(answer.body, "security key, all", "{scheme:?}");
        assert_eq!(key_server.get("/whoami", &format!("{scheme}{key}")).await.body, "key, alice", "{scheme:?}");
        assert_eq!(phrase.get("/whoami", &format!("{scheme}two words")).await.body, "security key, all", "{scheme:?}");
    }
    assert_eq!(phrase.get("/whoami", "two words").await.body, "security key, all");
}

#[tokio::test]
async fn open_paths_are_open_whatever_the_header_says() {
    let server = Server::new(security_key());
    for path in ["/", "/health", "/info"] {
        assert_eq!(server.send("GET", path, &[], PEER).await.status, StatusCode::OK);
        assert_eq!(server.get(path, "Bearer wrong").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_open_route_does_not_know_its_caller() {
    let table = Routes::new().get("/open", Needs::Open, whoami);
    let server = Server(table.into_router((), Arc::new(security_key())));
    assert_eq!(server.get("/open", "Bearer sekret").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn bad_b01_a_key_in_the_query_string_is_refused_and_not_logged() {
    let (server, key) = key_server(key_with(&["config:read"])).await;
    let bare = key.trim_start_matches("Bearer ");
    let logged = Logged::default();
    let _guard = tracing::subscriber::set_default(logged.clone());
    for name in ["token", "access_token", "api_key", "ApiKey", "key", "x"] {
        // A place from which another test logs for the first time right now may have missed this subscriber.
        tracing::callsite::rebuild_interest_cache();
        let path = format!("/config?limit=1&{name}={bare}");
        for credentials in [vec![], vec![key.as_str()]] {
            let answer = server.send("GET", &path, &credentials, PEER).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{name}");
            assert!(!answer.body.contains(bare));
        }
    }
    for wrong in ["Bearer olv_canary00canary", "Bearer canary"] {
        assert!(!server.get("/config", wrong).await.body.contains("canary"));
    }
    assert_eq!(server.get("/config?limit=1", &key).await.status, StatusCode::OK);
    let text = logged.0.lock().unwrap().clone();
    assert!(text.contains("192.0.2.1") && !text.contains("canary") && !text.contains(bare), "{text}");
}

#[tokio::test(start_paused = true)]
async fn bad_b02_wrong_keys_are_slowed_down_per_address_and_a_right_one_never() {
    let server = Server::new(security_key());
    for _ in 0..20 {
        assert_eq!(server.get("/config", "Bearer wrong").await.status, StatusCode::UNAUTHORIZED);
    }
    let answer = server.get("/config", "Bearer wrong").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(server.get("/config", "Bearer sekret").await.status, StatusCode::OK);
    assert_eq!(server.send("GET", "/config", &[], PEER).await.status, StatusCode::UNAUTHORIZED);
    let elsewhere = server.send("GET", "/config", &["Bearer wrong"], ELSEWHERE).await;
    assert_eq!(elsewhere.status, StatusCode::UNAUTHORIZED);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(server.get("/config", "Bearer wrong").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(start_paused = true)]
async fn bad_b02_guesses_at_one_api_key_are_slowed_down_from_whatever_address() {
    let (server, key) = key_server(key_with(&["config:read"])).await;
    let guess = format!("{}guess", &key[.."Bearer olv_".len() + 8]);
    for number in 0..20 {
        let peer = format!("10.0.0.{number}");
        assert_eq!(server.send("GET", "/config", &[&guess], &peer).await.status, StatusCode::UNAUTHORIZED);
    }
    let answer = server.send("GET", "/config", &[&guess], ELSEWHERE).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(server.send("GET", "/config", &[&key], ELSEWHERE).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_api_key_is_its_user_or_else_everyone_within_its_scopes() {
    let (server, key) = key_server(key_with(&["config:read"])).await;
    assert_eq!(server.get("/whoami", &key).await.body, "key, all");
    assert_eq!(server.get("/config", &key).await.status, StatusCode::OK);
    assert_eq!(server.get("/sessions", &key).await.status, StatusCode::FORBIDDEN);

    let bound = NewKey { user_id: Some("u-1".into()), ..key_with(&["config:read"]) };
    let (server, key) = key_server(bound).await;
    assert_eq!(server.get("/whoami", &key).await.body, "key, u-1");
}

#[tokio::test]
async fn bad_b11_a_key_that_ended_or_was_revoked_is_refused_and_found_on_open_connections() {
    let clock = TestClock::new();
    let keys = Arc::new(MemoryKeyStore::default());
    let auth = Auth::new(clock.clone()).keys(keys.clone());
    let ends = NewKey { expires_at: Some(clock.now() + Duration::from_secs(60)), ..NewKey::default() };
    let (ending, record) = KeyRecord::mint(ends, clock.now());
    keys.add(record).await.unwrap();
    let (revoked, record) = KeyRecord::mint(NewKey::default(), clock.now());
    let id = record.id.clone();
    keys.add(record).await.unwrap();

    let peer = address(PEER);
    let first = auth.authenticate(ending.expose(), peer).await.unwrap();
    let second = auth.authenticate(revoked.expose(), peer).await.unwrap();
    assert!(auth.recheck(&first).await.is_ok() && auth.recheck(&second).await.is_ok());

    clock.advance(Duration::from_secs(60));
    assert!(keys.revoke(&id, clock.now()).await.unwrap());
    for (principal, secret) in [(first, ending), (second, revoked)] {
        assert_eq!(auth.recheck(&principal).await.unwrap_err().kind(), AuthErrorKind::Expired);
        assert_eq!(auth.authenticate(secret.expose(), peer).await.unwrap_err().kind(), AuthErrorKind::Expired);
    }
    assert!(!keys.revoke("unknown", clock.now()).await.unwrap());
}

#[tokio::test]
async fn the_last_use_of_a_key_is_noted_once_a_minute() {
    let clock = TestClock::new();
    let keys = Arc::new(MemoryKeyStore::default());
    let auth = Auth::new(clock.clone()).keys(keys.clone());
    let (secret, record) = KeyRecord::mint(NewKey::default(), clock.now());
    keys.add(record).await.unwrap();
    let mut noted = Vec::new();
    for _ in 0..3 {
        auth.authenticate(secret.expose(), address(PEER)).await.unwrap();
        noted.push(keys.list().await.unwrap()[0].last_used_at.unwrap().as_seconds() - NOW_S);
        clock.advance(Duration::from_secs(40));
    }
    assert_eq!(noted, [0, 0, 80]);
}

/// A store that is not there.
struct BrokenStore;

fn broken<'a, T>() -> BoxFuture<'a, Result<T, DbError>> {
    Box::pin(async { Err(DbError::new(DbErrorKind::Busy, "locked")) })
}

impl KeyStore for BrokenStore {
    fn add(&self, _record: KeyRecord) -> BoxFuture<'_, Result<(), DbError>> {
        broken()
    }
    fn find(&self, _digest: KeyDigest) -> BoxFuture<'_, Result<Option<KeyRecord>, DbError>> {
        broken()
    }
    fn list(&self) -> BoxFuture<'_, Result<Vec<KeyRecord>, DbError>> {
        broken()
    }
    fn revoke<'a>(&'a self, _id: &'a str, _at: Timestamp) -> BoxFuture<'a, Result<bool, DbError>> {
        broken()
    }
    fn used<'a>(&'a self, _id: &'a str, _at: Timestamp) -> BoxFuture<'a, Result<(), DbError>> {
        broken()
    }
}

#[tokio::test]
async fn when_keys_cannot_be_looked_up_nobody_is_admitted() {
    let server = Server::new(Auth::new(TestClock::new()).keys(Arc::new(BrokenStore)));
    for _ in 0..30 {
        let answer = server.get("/config", "Bearer olv_something").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.header("retry-after").is_some() && !answer.body.contains("locked"));
    }
}

#[tokio::test]
async fn bad_b09_a_scope_for_something_else_is_refused_and_named() {
    let (server, key) = key_server(key_with(&["agents:read", "workflows:fn-pipeline:run"])).await;
    for id in ["echo", "*", "%2A", "a:b", "fn-pipeline%3Arun", "%252A", "fn-pipeline%2F"] {
        let answer = server.send("POST", &format!("/workflows/{id}/runs"), &[&key], PEER).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{id}");
        assert_eq!(answer.detail(), "Insufficient permissions. Required scope(s): workflows:run");
    }
    let own = server.send("POST", "/workflows/fn-pipeline/runs", &[&key], PEER).await;
    assert_eq!((own.status, own.body.as_str()), (StatusCode::OK, "workflow fn-pipeline"));
    assert_eq!(server.get("/workflows/fn-pipeline", &key).await.status, StatusCode::FORBIDDEN);

    let (server, key) = key_server(key_with(&["workflows:*:run"])).await;
    for id in ["*", "%2A", "a:b"] {
        let answer = server.send("POST", &format!("/workflows/{id}/runs"), &[&key], PEER).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{id}");
    }
}

#[tokio::test]
async fn a_list_shows_what_the_scopes_allow() {
    for (scope, seen) in [("workflows:read", "echo,fn-pipeline"), ("workflows:echo:read", "echo")] {
        let (server, key) = key_server(key_with(&[scope])).await;
        assert_eq!(server.get("/workflows", &key).await.body, seen);
    }
    let (server, key) = key_server(key_with(&["workflows:run"])).await;
    let answer = server.get("/workflows", &key).await;
    assert_eq!(answer.detail(), "Insufficient permissions. Required scope(s): workflows:read");
}

#[tokio::test]
async fn bad_b10_every_route_has_a_rule_and_is_closed_unless_it_says_open() {
    let table = routes().table();
    let server = Server::new(security_key());
    for rule in table.iter().filter(|rule| !matches!(rule.method, Verb::Message(_))) {
        let answer = server.send(rule.method.as_str(), rule.path, &[], PEER).await;
        let expected = if rule.needs == Needs::Open { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status, expected, "{} {}", rule.method.as_str(), rule.path);
        if rule.method == Verb::Get {
            assert_eq!(server.send("HEAD", rule.path, &[], PEER).await.status, expected, "HEAD {}", rule.path);
        }
    }
}

#[tokio::test]
async fn bad_b10_an_action_without_a_rule_does_not_exist() {
    let table = routes().table();
    assert!(table.message("/workflows/ws", "dance").is_none());
    assert!(table.message("/ws", "ping").is_none());
    let rule = table.message("/workflows/ws", "start-workflow").expect("a rule");
    let keys = Arc::new(MemoryKeyStore::default());
    let (secret, record) = KeyRecord::mint(key_with(&["workflows:echo:run"]), TestClock::new().now());
    keys.add(record).await.unwrap();
    let auth = Auth::new(TestClock::new()).keys(keys);
    let principal = auth.authenticate(secret.expose(), address(PEER)).await.unwrap();
    assert!(authorize(&principal, rule, &[("workflow_id", "echo")]).is_ok());
    for parameters in [&[("workflow_id", "other")][..], &[("session_id", "echo")], &[]] {
        assert_eq!(authorize(&principal, rule, parameters).unwrap_err().status, StatusCode::FORBIDDEN);
    }
}

#[test]
#[should_panic(expected = "Overlapping method route")]
fn bad_b10_a_route_cannot_be_added_twice() {
    let twice = Routes::new().get("/config", Needs::scope("config:read"), async || "one");
    let twice = twice.get("/config", Needs::Open, async || "two");
    drop(twice.into_router((), Arc::new(security_key())));
}

#[test]
#[should_panic(expected = "names a parameter that the path does not have")]
fn bad_b10_a_scope_cannot_name_a_parameter_that_is_not_there() {
    let routes = Routes::new().get("/workflows/{id}", Needs::scope("workflows:{workflow_id}:read"), async || "");
    drop(routes.into_router((), Arc::new(security_key())));
}

#[tokio::test]
async fn two_methods_of_one_path_keep_their_own_rules() {
    let routes = Routes::new().get("/both", Needs::Open, async || "get");
    let routes = routes.merge(Routes::new().delete("/both", Needs::Identity, async || "delete"));
    let server = Server(routes.into_router((), Arc::new(security_key())));
    assert_eq!(server.send("GET", "/both", &[], PEER).await.status, StatusCode::OK);
    assert_eq!(server.send("DELETE", "/both", &[], PEER).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(server.send("DELETE", "/both", &["sekret"], PEER).await.body, "delete");
    let answer = server.send("PUT", "/both", &["sekret"], PEER).await;
    assert_eq!((answer.status, answer.detail().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"));
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("DELETE")));
}

#[tokio::test]
async fn bad_b12_the_check_and_the_router_see_the_same_path() {
    let (server, key) = key_server(key_with(&["workflows:x:read"])).await;
    assert_eq!(server.get("/workflows/x", &key).await.body, "workflow x");
    let cases = [
        ("/workflows/x/..%2f..%2fadmin", StatusCode::NOT_FOUND),
        ("/workflows/x%2f..%2f..%2fadmin", StatusCode::FORBIDDEN),
        ("/workflows/x/../../admin", StatusCode::NOT_FOUND),
        ("/WORKFLOWS/x", StatusCode::NOT_FOUND),
        ("/workflows/X", StatusCode::FORBIDDEN),
        ("/workflows/x/", StatusCode::NOT_FOUND),
        ("/workflows//x", StatusCode::NOT_FOUND),
        ("//admin", StatusCode::NOT_FOUND),
        ("/%61dmin", StatusCode::NOT_FOUND),
        ("/admin/", StatusCode::NOT_FOUND),
        ("/workflows/%ff", StatusCode::NOT_FOUND),
        ("/workflows/x%00", StatusCode::FORBIDDEN),
        ("/admin", StatusCode::FORBIDDEN),
    ];
    for (path, status) in cases {
        assert_eq!(server.get(path, &key).await.status, status, "{path}");
    }
    assert_eq!(server.get("/nowhere", &key).await.detail(), "Not Found");
}

#[tokio::test]
async fn a_credential_longer_than_any_of_ours_is_refused_unread() {
    let auth = security_key();
    let error = auth.authenticate(&"x".repeat(1 << 20), address(PEER)).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Invalid);
    assert_eq!(error.to_string(), "Invalid token");
    assert_eq!(error.detail(), "Invalid authentication token");
}

#[test]
fn a_rule_names_its_parameters() {
    let routes: Routes = Routes::new().get("/a/{workflow_id}/b/{run_id}", Needs::Identity, async || "");
    let table = routes.table();
    let names: Vec<&str> = table.iter().flat_map(|rule| rule.parameters()).collect();
    assert_eq!(names, ["workflow_id", "run_id"]);
}

/// Everything that is logged, as text.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<String>>);

impl tracing::field::Visit for Logged {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        write!(self.0.lock().expect("not poisoned"), " {field}={value:?}").expect("written");
    }
}

impl tracing::Subscriber for Logged {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}
