//! `/workflows/ws`: many runs on one socket, started there or followed from where a client left.
//!
//! One task per socket. It reads the client's frames and pulls from every run the socket follows; because following is
//! reading the log, a slow client holds nothing up and nothing is buffered for it. The invariant: every frame about a
//! run is one the run's log would give again.

use crate::audit::Visit;
use crate::auth::{AuthErrorKind, Principal, RouteTable, authorize};
use crate::follow::{Follow, Told, Way};
use crate::metrics::{Subscriber, Transport};
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::continued;
use crate::routes::runs::{self, Start};
use crate::sse::KEEP_ALIVE;
use crate::state::{Kind, State};
use crate::wire::answers::Requirements;
use crate::wire::frame::{self, Frame};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use axum::http::StatusCode;
use futures::future::{AbortHandle, Abortable, Aborted, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use outlive_core::port::AuditKind;
use outlive_core::{EventSettings, RunId, RunStatus};
use outlive_engine::{Error, RunStanding};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::ProtocolError;

/// Where this socket is.
pub(crate) const PATH: &str = "/workflows/ws";
/// Runs one socket may follow.
const FOLLOWED_MAX: usize = 256;
/// Invalid frames in one minute before the socket is closed.
const NONSENSE_MAX: usize = 20;
/// Attempts to authenticate on one socket.
const TRIES_MAX: usize = 5;
/// How many times `recheck_period` a client may leave our pings without an answer.
const UNANSWERED_PERIODS: u32 = 2;
/// How many characters of an id or an action an answer repeats.
const SHOWN_CHARS: usize = 128;
/// Frames a client may send in one second: one that comes back may ask for all its runs at once.
const FRAMES_MAX: usize = 2 * FOLLOWED_MAX;
/// A client that needs this long for one frame …
const SLOW: Duration = Duration::from_secs(1);
/// … and is this many events behind is told so and must reconnect.
const LAG_MAX: u64 = 256;

/// Close codes, from RFC 6455 and, from 4000 on, our own.
mod code {
    pub(super) const AWAY: u16 = 1001;
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const UNSUPPORTED: u16 = 1003;
    pub(super) const NOT_TEXT: u16 = 1007;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_LARGE: u16 = 1009;
    pub(super) const AGAIN: u16 = 1013;
    pub(super) const UNAUTHORIZED: u16 = 4401;
}

/// Why a socket ends.
enum End {
    /// The client is gone or unreachable.
    Gone,
    /// The server closes it.
    Close(u16, &'static str),
}

const EXPIRED: End = End::Close(code::UNAUTHORIZED, "authentication expired");

/// How often a socket is pinged: often enough that it is never silent for long, and that a credential's recheck notices
/// in time that the client is gone.
fn ping_period(recheck_period: Duration) -> Duration {
    recheck_period.min(KEEP_ALIVE)
}

/// The shape of a run's events; Agno's clients expect both.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// As the text of a Server-Sent Event: runs started on this socket.
    Sse,
    /// As JSON: runs this socket came back to.
    Json,
}

/// One run the socket follows, and the step it is about to take.
type Next = BoxFuture<'static, Result<(Followed, Result<Option<Told>, Error>), Aborted>>;

struct Followed {
    follow: Follow,
    shape: Shape,
    /// Which subscription of its run this is: a later one replaces an earlier one.
    number: u64,
    _subscriber: Subscriber,
}

/// A run's latest subscription on a socket.
struct Subscription {
    number: u64,
    /// Ends its waiting, so that what is replaced holds nothing.
    abort: AbortHandle,
}

/// A socket from its first frame to its last.
pub(crate) struct Session {
    state: Arc<State>,
    rules: RouteTable,
    socket: WebSocket,
    peer: IpAddr,
    visit: Visit,
    caller: Option<Caller>,
    tries: usize,
    followed: HashMap<RunId, Subscription>,
    nexts: FuturesUnordered<Next>,
    subscriptions: u64,
    nonsense: VecDeque<Instant>,
    frames: VecDeque<Instant>,
    unanswered_pings: u32,
}

impl Session {
    /// Serves a socket until it ends. The client authenticates on it, unless no credential is required.
    pub(crate) async fn serve(state: Arc<State>, rules: RouteTable, socket: WebSocket, peer: IpAddr, visit: Visit) {
        let anonymous = state.auth.anonymous();
        let caller = anonymous.map(|principal| Caller::new(state.clone(), principal, visit.clone()));
        let mut session = Self {
            state,
            rules,
            socket,
            peer,
            visit,
            caller,
            tries: 0,
            followed: HashMap::new(),
            nexts: FuturesUnordered::new(),
            subscriptions: 0,
            nonsense: VecDeque::new(),
            frames: VecDeque::new(),
            unanswered_pings: 0,
        };
        let end = match session.run().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        if let End::Close(code, reason) = end {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            // The client may be gone already.
            let _ = timeout(SLOW, session.socket.send(Message::Close(Some(frame)))).await;
        }
    }

    async fn run(&mut self) -> Result<std::convert::Infallible, End> {
        self.say(frame::connected(self.caller.is_none())).await?;
        let auth_deadline = Instant::now() + self.state.limits.socket_auth_period;
        let recheck_period = self.state.limits.recheck_period;
        let mut rechecks = interval(recheck_period);
        let mut pings = interval(ping_period(recheck_period));
        rechecks.reset();
        pings.reset();
        let stopped = self.state.engine.clone();
        let stopped = stopped.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                message = self.socket.recv() => match message {
                    Some(Ok(message)) => self.hear(message).await?,
                    Some(Err(error)) => return Err(broken(error)),
                    None => return Err(End::Gone),
                },
                Some(next) = self.nexts.next() => {
                    if let Ok((followed, told)) = next {
                        self.tell(followed, told).await?;
                    }
                }
                _ = rechecks.tick() => self.recheck().await?,
                _ = pings.tick() => self.ping().await?,
                () = sleep_until(auth_deadline), if self.caller.is_none() => {
                    return Err(End::Close(code::UNAUTHORIZED, "authentication timed out"));
                }
                () = &mut stopped => return Err(End::Close(code::AWAY, "the server is stopping: reconnect")),
            }
        }
    }

    /// What was shown when the client authenticated may have ended since.
    async fn recheck(&mut self) -> Result<(), End> {
        match &self.caller {
            Some(caller) if caller.is_expired().await => Err(EXPIRED),
            _ => Ok(()),
        }
    }

    async fn ping(&mut self) -> Result<(), End> {
        let recheck_period = self.state.limits.recheck_period;
        let unanswered = ping_period(recheck_period).saturating_mul(self.unanswered_pings);
        if unanswered >= recheck_period.saturating_mul(UNANSWERED_PERIODS) {
            return Err(End::Gone);
        }
        self.unanswered_pings += 1;
        self.send(Message::Ping(Default::default())).await
    }

    async fn hear(&mut self, message: Message) -> Result<(), End> {
        self.bound_rate()?;
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(End::Close(code::UNSUPPORTED, "text frames only")),
            Message::Close(_) => return Err(self.farewell().await),
            Message::Ping(_) => return Ok(()),
            Message::Pong(_) => {
                self.unanswered_pings = 0;
                return Ok(());
            }
        };
        let parsed = crate::json::parse(text.as_bytes());
        let Ok(Value::Object(frame)) = parsed else {
            return self.nonsense("A frame must be one JSON object").await;
        };
        let action = frame.get("action").and_then(Value::as_str).unwrap_or("None");
        let caller = match &self.caller {
            _ if action == "authenticate" => return self.authenticate(&frame).await,
            None => return self.say(frame::auth_required(self.credential())).await,
            Some(caller) => caller.clone(),
        };
        let Some(rule) = self.rules.message(PATH, action) else {
            return self.nonsense(&format!("Unknown action: {}", begin(action))).await;
        };
        let visit = self.visit.message(rule.method.as_str());
        let caller = Caller::new(caller.state, caller.principal, visit);
        // As for a request: a key may have been revoked since the last action.
        match self.state.auth.recheck(&caller.principal).await {
            Ok(()) => {}
            Err(error) if error.kind() == AuthErrorKind::Expired => {
                self.state.audit.refusal(&caller.visit, Some(&caller.principal), error.code());
                return Err(EXPIRED);
            }
            Err(error) => return self.error(&error.to_string()).await,
        }
        let fields: Vec<(&str, &str)> =
            frame.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
        if let Err(problem) = authorize(&caller.principal, rule, &fields) {
            self.state.audit.refusal(&caller.visit, Some(&caller.principal), problem.code);
            return self.error(&problem.words()).await;
        }
        match action {
            "ping" => self.say(frame::pong()).await,
            "start-workflow" => self.start(&caller, frame).await,
            "reconnect" => self.reconnect(&caller, &frame).await,
            "cancel-workflow" => self.cancel(&caller, &frame).await,
            "continue-workflow" => self.proceed(&caller, frame).await,
            other => self.nonsense(&format!("Unknown action: {}", begin(other))).await,
        }
    }

    /// Sends the answer to the client's close frame: without it the client sees a broken connection.
    async fn farewell(&mut self) -> End {
        let _ = timeout(SLOW, self.socket.recv()).await;
        End::Gone
    }

    fn bound_rate(&mut self) -> Result<(), End> {
        let now = Instant::now();
        self.frames.push_back(now);
        while self.frames.front().is_some_and(|first| now.duration_since(*first) > Duration::from_secs(1)) {
            self.frames.pop_front();
        }
        if self.frames.len() > FRAMES_MAX {
            return Err(End::Close(code::POLICY, "too many frames"));
        }
        Ok(())
    }

    async fn nonsense(&mut self, error: &str) -> Result<(), End> {
        let now = Instant::now();
        self.nonsense.push_back(now);
        while self.nonsense.front().is_some_and(|first| now.duration_since(*first) > Duration::from_secs(60)) {
            self.nonsense.pop_front();
        }
        self.error(error).await?;
        if self.nonsense.len() > NONSENSE_MAX {
            return Err(End::Close(code::POLICY, "too many invalid frames"));
        }
        Ok(())
    }

    /// What a client must send, in Agno's words.
    fn credential(&self) -> &'static str {
        if self.state.auth.mode() == "jwt" { "JWT" } else { "bearer token" }
    }

    async fn authenticate(&mut self, frame: &Map<String, Value>) -> Result<(), End> {
        let refused = match frame.get("token").and_then(Value::as_str).filter(|token| !token.is_empty()) {
            None => frame::auth_error("Token is required", None),
            Some(token) => match self.state.auth.authenticate(token, self.peer).await {
                Ok(principal) => {
                    let answer = frame::authenticated(principal.user_id.as_deref());
                    // A later valid token replaces an earlier one; a wrong one does not log out.
                    if self.caller.as_ref().is_some_and(|before| !is_same(&before.principal, &principal)) {
                        self.unfollow();
                    }
                    self.caller = Some(Caller::new(self.state.clone(), principal, self.visit.clone()));
                    return self.say(answer).await;
                }
                Err(error) => {
                    self.state.audit.refusal(&self.visit.message("authenticate"), None, error.code());
                    frame::auth_error(&error.to_string(), error.error_type())
                }
            },
        };
        self.tries += 1;
        self.say(refused).await?;
        if self.tries >= TRIES_MAX {
            return Err(End::Close(code::UNAUTHORIZED, "too many attempts to authenticate"));
        }
        Ok(())
    }

    /// Ends all subscriptions: they were another caller's.
    fn unfollow(&mut self) {
        self.followed.drain().for_each(|(_, subscription)| subscription.abort.abort());
    }

    async fn start(&mut self, caller: &Caller, frame: Map<String, Value>) -> Result<(), End> {
        let Some(workflow_id) = text(&frame, "workflow_id") else {
            return self.error("workflow_id is required").await;
        };
        let workflow_id = workflow_id.to_owned();
        let started = match Start::from_frame(frame) {
            Ok(start) => runs::start(caller, Kind::Workflow, &workflow_id, start).await,
            Err(problem) => Err(problem),
        };
        match started {
            Ok(started) => {
                let settings = match caller.served.known(Kind::Workflow, &workflow_id) {
                    Ok(component) => component.definition.events.clone(),
                    Err(_) => EventSettings::default(),
                };
                let follow = Follow::from_start(&started.reader, started.run_id).telling(settings);
                self.follow(follow, Shape::Sse).await
            }
            Err(problem) if problem.code == "unknown_component" => {
                self.error(&format!("Workflow {} not found", begin(&workflow_id))).await
            }
            Err(problem) => self.error(&problem.words()).await,
        }
    }

    async fn reconnect(&mut self, caller: &Caller, frame: &Map<String, Value>) -> Result<(), End> {
        let Some(run_id) = text(frame, "run_id") else {
            return self.error("run_id is required for subscription").await;
        };
        let after = match frame.get("last_event_index") {
            None | Some(Value::Null) => None,
            Some(index) => match index.as_u64().filter(|index| *index <= i64::MAX.unsigned_abs()) {
                Some(index) => Some(index),
                None => return self.error("last_event_index must be a whole number from 0 on, or null").await,
            },
        };
        let not_found = format!("Run {} not found in buffer or database", begin(run_id));
        let follow = match find(caller, run_id, "read").await {
            Ok(found) => {
                caller.sees(found.user_id.as_deref(), found.run_id.as_str());
                let reader = caller.reader();
                let settings = reader.event_settings(&found.workflow_id);
                let follow = Follow::resume(&reader, found.run_id, after, Way::Reconnect).await;
                follow.map(|follow| follow.telling(settings))
            }
            Err(error) => Err(error),
        };
        match follow {
            Ok(follow) => self.follow(follow, Shape::Json).await,
            Err(Error::RunNotFound(_) | Error::InvalidId(_)) => self.error(&not_found).await,
            Err(error) => self.error(&Problem::from(error).words()).await,
        }
    }

    async fn cancel(&mut self, caller: &Caller, frame: &Map<String, Value>) -> Result<(), End> {
        let Some(run_id) = text(frame, "run_id") else { return self.error("run_id is required").await };
        let not_found = format!("Run {} not found", begin(run_id));
        let cancelled = match find(caller, run_id, "run").await {
            Ok(found) => caller.engine().cancel(&found.run_id, "cancelled by a client").await,
            Err(error) => Err(error),
        };
        match cancelled {
            Ok(None) => {
                caller.did(AuditKind::RunCancel, "requested", run_id);
                self.say(json!({ "event": "cancel_requested", "run_id": run_id })).await
            }
            Ok(Some(status)) => self.error(&format!("Run is over (status={status})")).await,
            Err(Error::RunNotFound(_) | Error::InvalidId(_)) => self.error(&not_found).await,
            Err(error) => self.error(&Problem::from(error).words()).await,
        }
    }

    async fn proceed(&mut self, caller: &Caller, frame: Map<String, Value>) -> Result<(), End> {
        let Some(run_id) = text(&frame, "run_id") else { return self.error("run_id is required").await };
        let not_found = format!("Run {} not found", begin(run_id));
        let run = match continued::find(caller, run_id).await {
            Ok(run) if caller.may(&run.info.workflow_id, "run") => run,
            Ok(_) => return self.error(&not_found).await,
            Err(problem) if problem.status == StatusCode::NOT_FOUND => return self.error(&not_found).await,
            Err(problem) => return self.error(&problem.words()).await,
        };
        if run.status != RunStatus::Paused {
            return self.error(&format!("Run is not paused (status={})", run.status)).await;
        }
        let objects = |name: &str| match frame.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(given) => serde_json::from_value(given.clone())
                .map_err(|_| format!("{name} must be an array of objects, each a requirement with its answer")),
        };
        let given = match (objects("step_requirements"), objects("error_requirements")) {
            (Ok(steps), Ok(errors)) => Requirements { steps, errors, tools: Vec::new() },
            (Err(problem), _) | (_, Err(problem)) => return self.error(&problem).await,
        };
        if let Err(problem) = continued::answer(caller, &run, &given).await {
            return self.error(&problem.words()).await;
        }
        if !caller.reaches(&run.info) {
            return self.say(frame::queued(run.info.run_id.as_str(), run.info.session_id.as_str())).await;
        }
        let (after, reader) = (run.next_index.checked_sub(1), caller.reader());
        let settings = reader.event_settings(&run.info.workflow_id);
        self.follow(Follow::after(&reader, run.info.run_id, after).telling(settings), Shape::Sse).await
    }

    async fn follow(&mut self, follow: Follow, shape: Shape) -> Result<(), End> {
        let run_id = follow.run_id().clone();
        if !self.followed.contains_key(&run_id) && self.followed.len() >= FOLLOWED_MAX {
            return self.error(&format!("A socket follows {FOLLOWED_MAX} runs at most: open another one")).await;
        }
        self.subscriptions += 1;
        let _subscriber = self.state.metrics.subscriber(Transport::Socket);
        let follow = follow.through_pauses();
        self.draw(run_id, Followed { follow, shape, number: self.subscriptions, _subscriber });
        Ok(())
    }

    /// Takes the next step of a subscription, which ends whatever else was following that run here.
    fn draw(&mut self, run_id: RunId, mut followed: Followed) {
        let (abort, registration) = AbortHandle::new_pair();
        let subscription = Subscription { number: followed.number, abort };
        let next = async move {
            let told = followed.follow.next().await;
            (followed, told)
        };
        self.nexts.push(Abortable::new(next, registration).boxed());
        if let Some(replaced) = self.followed.insert(run_id, subscription) {
            replaced.abort.abort();
        }
    }

    async fn tell(&mut self, followed: Followed, told: Result<Option<Told>, Error>) -> Result<(), End> {
        let run_id = followed.follow.run_id().clone();
        if self.followed.get(&run_id).is_none_or(|latest| latest.number != followed.number) {
            return Ok(());
        }
        let begun = Instant::now();
        match told {
            Ok(Some(Told::Notice(notice))) => self.say(notice).await?,
            Ok(Some(Told::Event(event))) => {
                let frame = Frame::event(*event);
                let text = match followed.shape {
                    Shape::Sse => frame.socket(),
                    Shape::Json => frame.bare(),
                };
                self.send(Message::Text(text.into())).await?;
            }
            Ok(None) => {
                self.followed.remove(&run_id);
                return Ok(());
            }
            Err(error) => {
                self.followed.remove(&run_id);
                return self.error(&Problem::from(error).words()).await;
            }
        }
        if begun.elapsed() > SLOW && followed.follow.lag().await > LAG_MAX {
            self.state.metrics.lagged(Transport::Socket);
            let resume_after = followed.follow.next_index().checked_sub(1);
            let lagged = json!({ "event": "lagged", "run_id": run_id, "last_event_index": resume_after });
            self.say(lagged).await?;
            return Err(End::Close(code::AGAIN, "too slow: reconnect from last_event_index"));
        }
        self.draw(run_id, followed);
        Ok(())
    }

    async fn error(&mut self, error: &str) -> Result<(), End> {
        self.say(frame::error(error)).await
    }

    async fn say(&mut self, notice: Value) -> Result<(), End> {
        self.send(Message::Text(Frame::notice(notice).bare().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        // A client that does not read is disconnected by its connection, which also drops what the system buffers for
        // it.
        self.socket.send(message).await.map_err(|_| End::Gone)
    }
}

/// The run, if it is there for this caller and they may do this with what executes it. A frame names a run alone, so its
/// rule could only ask for the scope for some workflow; whether it is the one for this workflow is seen here.
async fn find(caller: &Caller, run_id: &str, action: &str) -> Result<RunStanding, Error> {
    let run_id = RunId::parse(run_id)?;
    let found = caller.reader().standing(&run_id).await?;
    let found = found.filter(|standing| caller.may(&standing.workflow_id, action));
    found.ok_or(Error::RunNotFound(run_id))
}

/// Whether both may follow the same runs.
fn is_same(before: &Principal, now: &Principal) -> bool {
    before.user_id == now.user_id && before.scopes == now.scopes
}

/// The part of a client's text that an answer repeats.
fn begin(text: &str) -> &str {
    let end = text.char_indices().nth(SHOWN_CHARS).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

/// What a client is told whose frames cannot be read.
fn broken(error: axum::Error) -> End {
    match error.into_inner().downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Utf8(_)) => End::Close(code::NOT_TEXT, "text frames are UTF-8"),
        Some(tungstenite::Error::Capacity(_)) => End::Close(code::TOO_LARGE, "the message is too large"),
        Some(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => End::Gone,
        Some(tungstenite::Error::Protocol(_)) => End::Close(code::PROTOCOL, "that is not the WebSocket protocol"),
        Some(_) | None => End::Gone,
    }
}

fn text<'a>(frame: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    frame.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
