//! One server of MCP as this process knows it: the session with it, shared by all that have its tools.
//!
//! ```text
//! list, call ──► session? ──closed or none──► opened: a program started, or an address asked
//!                   │ idle for long, or nobody has the server any more: closed, its program ended
//!                   └─ a call whose session ends before its answer: its outcome is unknown
//! ```
//! It must never know an agent. The invariants: one session at a time; a request that may have reached the server is not
//! sent again; whoever stops waiting for a call tells the server so.

use super::super::{ToolContext, ToolError};
use super::content::told;
use super::http::{self, Unsent};
use super::stdio::{self, Keeper};
use crate::outbound::Outbound;
use futures::future::join_all;
use outlive_core::{Failure, FailureKind};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, ClientCapabilities,
    ClientConfig, ClientRequest, ErrorData, Implementation, PaginatedRequestParams, ProgressNotificationParam,
    ProgressToken, RequestId, RequestMetaObject, ServerResult, Tool,
};
use rmcp::service::{
    ClientInitializeError, NotificationContext, Peer, PeerRequestOptions, RoleClient, RunningService, ServiceError,
};
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::{ClientHandler, ServiceExt};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

/// How long opening a session may take: a program may have to be installed first.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a listing may take, all its pages together.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);
/// Pages of a listing.
const PAGES_MAX: usize = 64;
/// Tools of all pages.
const LISTED_MAX: usize = 2_000;
/// The longest message of a server, in bytes.
const MESSAGE_MAX: usize = 8 << 20;
/// How much of what a server says is told in a failure, in characters.
const TOLD_CHARS: usize = 1_000;
/// How long closing all sessions may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long telling a server that nobody waits may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Under which name a call's key is in the request's `_meta`.
const KEY: &str = "idempotencyKey";

/// How a server is reached.
#[derive(Clone, Debug)]
pub(super) enum Way {
    Stdio { argv: Vec<String>, env: Vec<String> },
    Http { url: String, headers: Vec<(String, String)>, outbound: Outbound },
}

/// A server.
pub(super) struct Server {
    name: String,
    way: Way,
    idle: Duration,
    /// Held while it is opened: whoever needs it meanwhile waits for the same.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
}

/// A session with it.
struct Session {
    peer: Peer<RoleClient>,
    listener: Listener,
    calls: AtomicUsize,
    used: Mutex<Instant>,
    is_flooding: Arc<AtomicBool>,
    /// Dropped, they close it.
    service: RunningService<RoleClient, Listener>,
    keeper: Option<Keeper>,
}

/// What came of sending.
enum Trouble {
    /// The server has not seen the request.
    Untouched(Failure),
    /// The call is answered so.
    Ended(ToolError),
}

/// The servers of this process, by how they are reached.
static SERVERS: Mutex<BTreeMap<String, Weak<Server>>> = Mutex::new(BTreeMap::new());

impl Server {
    /// Closes all sessions, and waits for the ends of programs.
    pub(super) async fn close_all() {
        let servers: Vec<_> = lock(&SERVERS).values().filter_map(Weak::upgrade).collect();
        let closing = servers.iter().map(|server| async {
            let session = server.session.lock().await.take();
            // One that is in use yet is closed by the last who uses it.
            if let Some(Session { service, keeper, .. }) = session.and_then(Arc::into_inner) {
                drop(service);
                if let Some(keeper) = keeper {
                    keeper.end().await;
                }
            }
        });
        let _ = timeout(CLOSE_TIMEOUT, join_all(closing)).await;
    }

    /// The server that is reached in this way; the same for all that have it.
    pub(super) fn shared(name: &str, way: &Way, idle: Duration) -> Arc<Self> {
        let mut servers = lock(&SERVERS);
        servers.retain(|_, server| server.strong_count() > 0);
        // Of an address, also who may be asked and how: headers by the names of their variables, never their values.
        let key = format!("{name:?} {idle:?} {way:?}");
        if let Some(known) = servers.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let session = tokio::sync::Mutex::new(None);
        let server = Arc::new(Self { name: name.to_owned(), way: way.clone(), idle, session });
        servers.insert(key, Arc::downgrade(&server));
        server
    }

    /// All tools that it has.
    ///
    /// # Errors
    /// When it cannot be asked, or does not come to an end.
    ///
    /// # Cancel safety
    /// Nothing but the session is left of a listing that is dropped.
    pub(super) async fn list(self: &Arc<Self>) -> Result<Vec<Tool>, Failure> {
        let session = self.session().await?;
        let listing = async {
            match self.pages(&session).await {
                // A listing changes nothing.
                Err(Trouble::Untouched(_) | Trouble::Ended(ToolError::OutcomeUnknown(_))) => {
                    self.forget(&session).await;
                    let session = self.session().await?;
                    self.pages(&session).await.map_err(|trouble| self.failure(trouble))
                }
                Err(trouble) => Err(self.failure(trouble)),
                Ok(tools) => Ok(tools),
            }
        };
        let late = |_| {
            let what = format!("has not listed its tools within {LIST_TIMEOUT:?}");
            self.context(Failure::new(FailureKind::Timeout, what))
        };
        timeout(LIST_TIMEOUT, listing).await.map_err(late)?
    }

    async fn pages(&self, session: &Arc<Session>) -> Result<Vec<Tool>, Trouble> {
        let _using = Using::new(session);
        let refused = |problem: String| {
            let failure = Failure { retryable: false, ..Failure::new(FailureKind::BadResponse, problem) };
            Trouble::Ended(ToolError::Failed(failure))
        };
        let (mut tools, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let params = PaginatedRequestParams::default().with_cursor(cursor.clone());
            let page = session.peer.list_tools(Some(params)).await.map_err(|error| session.trouble(&error))?;
            tools.extend(page.tools);
            if tools.len() > LISTED_MAX {
                return Err(refused(format!("lists more than {LISTED_MAX} tools")));
            }
            match page.next_cursor {
                None => return Ok(tools),
                Some(next) if cursor.as_ref() == Some(&next) => {
                    return Err(refused("lists the same page of tools again and again".to_owned()));
                }
                next => cursor = next,
            }
        }
        Err(refused(format!("lists its tools on more than {PAGES_MAX} pages")))
    }

    /// Calls a tool of it.
    ///
    /// # Errors
    /// What came of it instead of an answer.
    ///
    /// # Cancel safety
    /// The server is told that nobody waits; it may have carried the call out.
    pub(super) async fn call(
        self: &Arc<Self>,
        tool: &str,
        arguments: Map<String, Value>,
        context: ToolContext,
    ) -> Result<String, ToolError> {
        let session = self.session().await.map_err(ToolError::Failed)?;
        let ended = match session.call(tool, arguments.clone(), &context).await {
            // It was lost before, and nobody had noticed.
            Err(Trouble::Untouched(_)) => {
                self.forget(&session).await;
                drop(session);
                let session = self.session().await.map_err(ToolError::Failed)?;
                session.call(tool, arguments, &context).await
            }
            ended => ended,
        };
        ended.map_err(|trouble| match trouble {
            Trouble::Untouched(failure) => ToolError::Failed(self.context(failure)),
            Trouble::Ended(error) => error,
        })
    }

    /// The session, opened if there is none.
    async fn session(self: &Arc<Self>) -> Result<Arc<Session>, Failure> {
        let mut held = self.session.lock().await;
        if let Some(session) = held.as_ref().filter(|session| !session.peer.is_transport_closed()) {
            session.touch();
            return Ok(session.clone());
        }
        *held = None;
        let opening = timeout(OPEN_TIMEOUT, self.open()).await;
        let opened = opening.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::Timeout, format!("has not answered within {OPEN_TIMEOUT:?}")))
        });
        let session = Arc::new(opened.map_err(|failure| self.context(failure))?);
        *held = Some(session.clone());
        tokio::spawn(close_when_idle(Arc::downgrade(self), Arc::downgrade(&session), self.idle));
        Ok(session)
    }

    async fn open(&self) -> Result<Session, Failure> {
        let listener = Listener::default();
        let (service, keeper, is_flooding) = match &self.way {
            Way::Http { url, headers, outbound } => {
                let transport = http::transport(url, headers, outbound, MESSAGE_MAX)?;
                let service = listener.clone().serve(transport).await.map_err(|error| not_opened(&error))?;
                (service, None, Arc::default())
            }
            Way::Stdio { argv, env } => {
                let stdio::Started { reads, writes, keeper, is_flooding } = stdio::start(argv, env, MESSAGE_MAX)?;
                let transport = AsyncRwTransport::new_client(reads, writes);
                match listener.clone().serve(transport).await {
                    Ok(service) => (service, Some(keeper), is_flooding),
                    Err(error) => {
                        let failure = not_opened(&error);
                        let end = keeper.end().await;
                        return Err(Failure { message: format!("{}: its program {end}", failure.message), ..failure });
                    }
                }
            }
        };
        Ok(Session {
            peer: service.peer().clone(),
            listener,
            calls: AtomicUsize::new(0),
            used: Mutex::new(Instant::now()),
            is_flooding,
            service,
            keeper,
        })
    }

    /// The session is of no use any more.
    async fn forget(&self, session: &Arc<Session>) {
        let mut held = self.session.lock().await;
        if held.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            *held = None;
        }
    }

    fn context(&self, failure: Failure) -> Failure {
        failure.context(format!("the MCP server {:?}", self.name))
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        self.context(match trouble {
            Trouble::Untouched(failure) | Trouble::Ended(ToolError::Failed(failure)) => failure,
            Trouble::Ended(ToolError::Arguments(_) | ToolError::OutcomeUnknown(_)) => {
                Failure::new(FailureKind::Unavailable, "broke off before it had listed its tools")
            }
        })
    }
}

/// Closes a session that nobody uses.
async fn close_when_idle(server: Weak<Server>, session: Weak<Session>, idle: Duration) {
    let mut wait = idle;
    loop {
        tokio::time::sleep(wait).await;
        let (Some(server), Some(session)) = (server.upgrade(), session.upgrade()) else { return };
        let mut held = server.session.lock().await;
        let is_used = session.calls.load(Ordering::Relaxed) > 0;
        let unused = lock(&session.used).elapsed();
        if is_used || unused < idle {
            wait = idle.saturating_sub(unused).max(Duration::from_millis(10));
            continue;
        }
        if held.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session)) {
            *held = None;
        }
        return;
    }
}

impl Session {
    fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    async fn call(
        self: &Arc<Self>,
        tool: &str,
        arguments: Map<String, Value>,
        context: &ToolContext,
    ) -> Result<String, Trouble> {
        let _using = Using::new(self);
        let mut meta = RequestMetaObject::new();
        meta.0.insert(KEY.to_owned(), Value::from(&*context.idempotency_key));
        let params = CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments);
        let request = ClientRequest::from(CallToolRequest::new(params));
        let options = PeerRequestOptions::no_options().with_meta(meta);
        let sent = self.peer.send_cancellable_request(request, options).await;
        let handle = sent.map_err(|error| match error {
            ServiceError::TransportClosed => {
                Trouble::Untouched(Failure::new(FailureKind::Unavailable, "has closed the session"))
            }
            error => self.trouble(&error),
        })?;
        let mut waiting = Waiting::new(self, handle.id.clone(), handle.progress_token.clone(), context.clone());
        let answer = handle.await_response().await;
        waiting.request = None;
        match answer {
            Ok(ServerResult::CallToolResult(result)) => told(result).map_err(Trouble::Ended),
            // A result without content.
            Ok(ServerResult::EmptyResult(_)) => Ok(String::new()),
            Ok(ServerResult::InputRequiredResult(_)) => Err(ended(
                FailureKind::BadResponse,
                "the tool asks for input while it is called, which is not possible here",
            )),
            Ok(_) => Err(ended(FailureKind::BadResponse, "the server sent an answer that is not the result of a tool")),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// What an error of a request means for it.
    fn trouble(&self, error: &ServiceError) -> Trouble {
        let lost = |what: String| Trouble::Ended(ToolError::OutcomeUnknown(what));
        match error {
            ServiceError::McpError(error) => Trouble::Ended(ToolError::Failed(refusal(error))),
            ServiceError::TransportSend(error) => match http::unsent(&*error.error) {
                Unsent::Untouched(failure) => Trouble::Untouched(failure),
                Unsent::Perhaps(what) => lost(what),
                Unsent::Answered(failure) => Trouble::Ended(ToolError::Failed(failure.context("the tool's server"))),
            },
            ServiceError::TransportClosed if self.is_flooding.load(Ordering::Relaxed) => {
                ended(FailureKind::BadResponse, &format!("the server sent a message of more than {MESSAGE_MAX} bytes"))
            }
            ServiceError::TransportClosed => lost("lost its server before the answer came".to_owned()),
            ServiceError::Cancelled { .. } => ended(FailureKind::Unavailable, "the server has cancelled it"),
            _ => ended(FailureKind::BadResponse, "the server sent an answer that is not of the protocol"),
        }
    }
}

fn ended(kind: FailureKind, what: &str) -> Trouble {
    Trouble::Ended(ToolError::Failed(Failure { retryable: false, ..Failure::new(kind, what) }))
}

/// What a server has against a request.
fn refusal(error: &ErrorData) -> Failure {
    let said: String = error.message.chars().take(TOLD_CHARS).collect();
    let failure = Failure::new(FailureKind::BadRequest, said);
    Failure { retryable: false, ..failure }
}

fn not_opened(error: &ClientInitializeError) -> Failure {
    let unavailable = |what: &str| Failure::new(FailureKind::Unavailable, what);
    match error {
        ClientInitializeError::TransportError { error, .. } => match http::unsent(&*error.error) {
            Unsent::Untouched(failure) | Unsent::Answered(failure) => failure,
            Unsent::Perhaps(what) => unavailable(&what),
        },
        ClientInitializeError::JsonRpcError(error) => refusal(error).context("refuses a session"),
        ClientInitializeError::ConnectionClosed(_) => unavailable("cannot be spoken to"),
        _ => Failure::new(FailureKind::BadResponse, "does not speak MCP as it should"),
    }
}

/// Hears what a server says unasked.
#[derive(Clone, Default)]
struct Listener {
    /// Who waits for which call.
    waiting: Arc<Mutex<HashMap<ProgressToken, ToolContext>>>,
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let about = Implementation::new("outlive", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(ClientCapabilities::default(), about)
    }

    async fn on_progress(&self, said: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        let waiting = lock(&self.waiting).get(&said.progress_token).cloned();
        if let Some(context) = waiting {
            context.report_progress(said.progress, said.total, said.message.as_deref());
        }
    }
}

/// A session in use: it is not idle.
struct Using<'a>(&'a Session);

impl<'a> Using<'a> {
    fn new(session: &'a Session) -> Self {
        session.calls.fetch_add(1, Ordering::Relaxed);
        Self(session)
    }
}

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call whose answer is waited for. Dropped before that, it is cancelled.
struct Waiting<'a> {
    session: &'a Arc<Session>,
    request: Option<RequestId>,
    token: ProgressToken,
}

impl<'a> Waiting<'a> {
    fn new(session: &'a Arc<Session>, request: RequestId, token: ProgressToken, context: ToolContext) -> Self {
        lock(&session.listener.waiting).insert(token.clone(), context);
        Self { session, request: Some(request), token }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.session.listener.waiting).remove(&self.token);
        let (Some(request), Ok(runtime)) = (self.request.take(), Handle::try_current()) else { return };
        let session = self.session.clone();
        runtime.spawn(async move {
            let reason = Some("nobody waits for it any more".to_owned());
            let notice = CancelledNotification::new(CancelledNotificationParam::new(Some(request), reason));
            // Whether it is heard or not, nobody waits.
            let _ = timeout(CANCEL_TIMEOUT, session.peer.send_notification(notice.into())).await;
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
