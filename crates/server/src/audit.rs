//! The audit log: what is worth recording, and how records reach the store without anyone waiting for them.
//!
//! ```text
//! answer with a refusal ─┐                   ┌─► one line of JSON to tracing
//! deed of a caller ──────┼─► limits ─► note ─┤
//! look at another's run ─┘                   └─► queue ─► one task, in batches ─► store
//! ```
//! It must never see a credential, nor a run's input or output. The invariants: a request never waits for a record;
//! memory is bounded, and what had to be left out is counted; refusals, which strangers can cause, never take the space
//! reserved for callers' actions.

use crate::auth::limiter::{Limiter, Source};
use crate::auth::{Principal, PrincipalKind};
use crate::guard::request::{self, REQUEST_ID};
use crate::metrics::Metrics;
use crate::problem::ERROR_CODE;
use crate::wire::iso_micros;
use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use outlive_core::port::{AuditKind, AuditRecord, Clock};
use outlive_engine::{Engine, SystemClock};
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Records that may wait to be written.
const QUEUE_MAX: usize = 1024;
/// How many of them may be refusals; the rest is for callers' actions.
const REFUSALS_WAITING_MAX: usize = QUEUE_MAX / 2;
/// Records written at once.
const BATCH_MAX: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);
/// Refusals of one kind recorded per address and minute.
const REFUSALS_OF_ADDRESS_MAX: u32 = 20;
/// The same for all addresses together, so that a distributed flood does not fill the disk.
const REFUSALS_MAX: u32 = 240;
/// A caller who looks at the same run or session again within this time is not recorded again.
const LOOK_PERIOD: Duration = Duration::from_secs(600);
/// Time before a busy or full store is retried.
const RETRY_PERIOD: Duration = Duration::from_millis(500);
/// How long the last records may take when a server stops.
const SETTLE_PERIOD: Duration = Duration::from_secs(5);

/// A record as clients and log lines show it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct AuditLine {
    /// When, in RFC 3339.
    pub at: String,
    /// What it is about.
    #[schemars(extend("enum" = AuditKind::ALL.map(AuditKind::as_str)))]
    pub kind: &'static str,
    /// How it ended, as a word: `done`, `requested`, `insufficient_scope`.
    pub outcome: String,
    /// The caller: `key:ID`, `user:ID`, `security_key`, `anonymous` or `cli`.
    pub actor: Option<String>,
    /// The user the caller is, where it is one.
    pub user_id: Option<String>,
    /// The other end of the connection.
    pub address: Option<String>,
    /// What the client was told in `x-request-id`.
    pub request_id: Option<String>,
    /// What was requested: a route or a command.
    pub action: String,
    /// The run, session or key it was done to.
    pub target: Option<String>,
}

impl AuditLine {
    /// Shows a record.
    pub fn new(record: &AuditRecord) -> Self {
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            at: iso_micros(record.at),
            kind: record.kind.as_str(),
            outcome: record.outcome.to_string(),
            actor: text(&record.actor),
            user_id: text(&record.user_id),
            address: record.address.map(|address| address.to_string()),
            request_id: text(&record.request_id),
            action: record.action.to_string(),
            target: text(&record.target),
        }
    }

    /// As one line of JSON. Anything a terminal could interpret is escaped, so that no name can forge or hide a line.
    pub fn json(&self) -> String {
        let json = serde_json::to_string(self).expect("texts are valid JSON");
        let mut line = String::with_capacity(json.len());
        for c in json.chars() {
            let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || steers {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            } else {
                line.push(c);
            }
        }
        line
    }
}

/// Where a request comes from and what it requests.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    address: Option<IpAddr>,
    action: Action,
    request_id: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
enum Action {
    Request(Method, Option<MatchedPath>),
    Message(&'static str),
    Serve,
}

impl Visit {
    fn of(request: &Request) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let route = request.extensions().get::<MatchedPath>().cloned();
        Self {
            address: peer.map(|peer| peer.0.ip().to_canonical()),
            action: Action::Request(request.method().clone(), route),
            request_id: None,
        }
    }

    /// A message of the socket that this visit opened.
    pub(crate) fn message(&self, action: &'static str) -> Self {
        Self { action: Action::Message(action), ..self.clone() }
    }

    /// The same visit, for work that outlives the answer to its request.
    pub(crate) fn lasting(mut self) -> Self {
        self.request_id = request::current().map(|identity| identity.id.into());
        self
    }

    fn action(&self) -> Arc<str> {
        match &self.action {
            Action::Request(method, Some(route)) => format!("{method} {}", route.as_str()).into(),
            Action::Request(method, None) => method.as_str().into(),
            Action::Message(action) => format!("{action} {}", crate::events_ws::PATH).into(),
            Action::Serve => "serve".into(),
        }
    }

    fn record(&self, kind: AuditKind, outcome: &str) -> AuditRecord {
        AuditRecord {
            at: SystemClock.now(),
            kind,
            outcome: outcome.into(),
            actor: None,
            user_id: None,
            address: self.address,
            request_id: self.request_id.clone().or_else(|| request::current().map(|identity| identity.id.into())),
            action: self.action(),
            target: None,
        }
    }
}

/// For a request that did not pass through a server's layers: nothing is known.
impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        let unknown = || Self { address: None, action: Action::Request(parts.method.clone(), None), request_id: None };
        Ok(parts.extensions.get::<Visit>().cloned().unwrap_or_else(unknown))
    }
}

/// The way to the audit log.
pub(crate) struct Audit {
    engine: Engine,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    settled: Notify,
    refusals_of_address: Limiter<(AuditKind, Source)>,
    refusals: Limiter<()>,
    looks: Limiter<(Arc<str>, String)>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<AuditRecord>,
    is_writing: bool,
}

impl Audit {
    pub(crate) fn new(engine: Engine, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            metrics,
            queue: Mutex::default(),
            settled: Notify::new(),
            refusals_of_address: Limiter::new(REFUSALS_OF_ADDRESS_MAX, MINUTE),
            refusals: Limiter::new(REFUSALS_MAX, MINUTE),
            looks: Limiter::new(1, LOOK_PERIOD),
        })
    }

    /// A caller did something to `target`.
    pub(crate) fn deed(
        self: &Arc<Self>,
        visit: &Visit,
        caller: &Principal,
        kind: AuditKind,
        outcome: &str,
        target: &str,
    ) {
        self.note(by(AuditRecord { target: Some(target.into()), ..visit.record(kind, outcome) }, caller));
    }

    /// A caller is shown the run or session `target` of `owner`.
    pub(crate) fn look(self: &Arc<Self>, visit: &Visit, caller: &Principal, owner: Option<&str>, target: &str) {
        let is_own = owner.is_none() || owner == caller.user_id.as_deref();
        if is_own || caller.kind == PrincipalKind::Anonymous {
            return;
        }
        if self.looks.count((caller.actor(), target.to_owned())).is_none() {
            self.deed(visit, caller, AuditKind::AdminRead, "done", target);
        }
    }

    /// Something was not allowed.
    pub(crate) fn refusal(self: &Arc<Self>, visit: &Visit, caller: Option<&Principal>, code: &str) {
        let Some(kind) = refusal_kind(code) else { return };
        let is_flood = visit
            .address
            .is_some_and(|address| self.refusals_of_address.count((kind, Source::address(address))).is_some());
        if is_flood || self.refusals.count(()).is_some() {
            self.metrics.audit_withheld.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let record = visit.record(kind, code);
        self.note(match caller {
            Some(caller) => by(record, caller),
            None => record,
        });
    }

    /// The server starts serving without requiring a credential.
    pub(crate) fn open(self: &Arc<Self>, outcome: &str, addresses: &str) {
        let visit = Visit { address: None, action: Action::Serve, request_id: None };
        self.note(AuditRecord { target: Some(addresses.into()), ..visit.record(AuditKind::ServerOpen, outcome) });
    }

    /// Has a record written. Needs a runtime to be running.
    fn note(self: &Arc<Self>, record: AuditRecord) {
        tracing::info!(target: "outlive::audit", "{}", AuditLine::new(&record).json());
        let mut queue = self.lock();
        let room = if record.kind.is_refusal() { REFUSALS_WAITING_MAX } else { QUEUE_MAX };
        if queue.waiting.len() >= room {
            self.metrics.audit_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.waiting.push_back(record);
        if !std::mem::replace(&mut queue.is_writing, true) {
            tokio::spawn(self.clone().write());
        }
    }

    /// Writes until the queue is empty. There is at most one such task.
    async fn write(self: Arc<Self>) {
        while let Some(batch) = self.next_batch() {
            let count = batch.len();
            if let Err(error) = self.append(batch).await {
                tracing::error!(%error, count, "audit records were not stored");
                self.metrics.audit_dropped.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }

    fn next_batch(&self) -> Option<Vec<AuditRecord>> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.is_writing = false;
            self.settled.notify_waiters();
            return None;
        }
        let count = queue.waiting.len().min(BATCH_MAX);
        Some(queue.waiting.drain(..count).collect())
    }

    /// Waits for a store that is full or busy, while the queue fills.
    async fn append(&self, batch: Vec<AuditRecord>) -> Result<(), outlive_core::port::DbError> {
        loop {
            match self.engine.append_audit(batch.clone()).await {
                Err(error) if error.is_transient() => sleep(RETRY_PERIOD).await,
                done => return done,
            }
        }
    }

    /// Ready when everything noted so far is stored, or that takes too long.
    pub(crate) async fn settle(&self) {
        let settled = async {
            loop {
                // Before the look, so that an end between the two is not missed.
                let settled = self.settled.notified();
                if !self.lock().is_writing {
                    return;
                }
                settled.await;
            }
        };
        if timeout(SETTLE_PERIOD, settled).await.is_err() {
            tracing::error!("the last audit records were not stored in time");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a refusal's code means to the audit log; `None` for mere mistakes.
fn refusal_kind(code: &str) -> Option<AuditKind> {
    match code {
        "unauthenticated" | "invalid_credential" | "auth_expired" | "too_many_failures" => Some(AuditKind::AuthFailed),
        "insufficient_scope" | "host_not_allowed" | "origin_not_allowed" => Some(AuditKind::AccessDenied),
        _ => None,
    }
}

/// The record, with who it was.
fn by(record: AuditRecord, caller: &Principal) -> AuditRecord {
    AuditRecord { actor: Some(caller.actor()), user_id: caller.user_id.clone(), ..record }
}

/// Records every refusal of `router`, whichever part of it refused, and gives its handlers the visit. A request's
/// changes are made completely, and recorded, even when the client goes away in the meantime.
pub(crate) fn watched(router: Router, audit: Arc<Audit>) -> Router {
    router.layer(from_fn_with_state(audit, watch))
}

async fn watch(State(audit): State<Arc<Audit>>, mut request: Request, next: Next) -> Response {
    let visit = Visit::of(&request);
    request.extensions_mut().insert(visit.clone());
    let only_looks = request.method().is_safe();
    let answering = next.run(request);
    let response = if only_looks { answering.await } else { audit.engine.finish(answering).await };
    let status = response.status();
    if let Some(code) = header(response.headers(), &ERROR_CODE).filter(|_| status.is_client_error()) {
        let request_id = header(response.headers(), &REQUEST_ID).map(Into::into);
        audit.refusal(&Visit { request_id, ..visit }, response.extensions().get::<Principal>(), code);
    }
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::Timestamp;

    #[test]
    fn a_line_holds_no_character_that_steers_a_terminal() {
        let record = AuditRecord {
            at: Timestamp::from_micros(0),
            kind: AuditKind::RunCancel,
            outcome: "done".into(),
            actor: Some("user:a\u{1b}[2J\n{\"kind\":\"key_mint\"}\u{9b}\u{7f}\u{202e}".into()),
            user_id: None,
            address: None,
            request_id: None,
            action: "POST /x".into(),
            target: None,
        };
        let line = AuditLine::new(&record).json();
        assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["actor"], record.actor.as_deref().expect("an actor"));
        assert_eq!(read["kind"], "run_cancel");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts_and_keeps_room_for_deeds() {
        let engine = Engine::builder(Arc::new(outlive_db::InMemoryDb::new())).start().await.expect("an engine");
        let metrics = Arc::<Metrics>::default();
        let audit = Audit::new(engine.clone(), metrics.clone());
        let visit = |address: u32| Visit {
            address: Some(IpAddr::from(address.to_be_bytes())),
            action: Action::Serve,
            request_id: None,
        };
        // Nothing here awaits, so nothing is written meanwhile.
        for address in 0..1000 {
            audit.refusal(&visit(address), None, "unauthenticated");
        }
        let caller = Principal::anonymous();
        for number in 0..QUEUE_MAX {
            audit.deed(&visit(1), &caller, AuditKind::RunCancel, "requested", &number.to_string());
        }
        let refusals = REFUSALS_MAX as usize;
        assert_eq!(metrics.audit_withheld.load(Ordering::Relaxed), 1000 - refusals as u64);
        assert_eq!(metrics.audit_dropped.load(Ordering::Relaxed), refusals as u64);
        audit.refusal(&visit(1), None, "no_such_code");
        audit.settle().await;
        let filter = outlive_core::port::AuditFilter { limit: 1000, ..Default::default() };
        let newest = engine.audit(filter).await.expect("readable");
        assert_eq!(newest.records.len(), 1000);
        assert_eq!(newest.records[0].target.as_deref(), Some(&*(QUEUE_MAX - refusals - 1).to_string()));
    }
}
