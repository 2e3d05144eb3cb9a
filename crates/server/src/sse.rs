//! Server-Sent Events: a followed run as the body of an answer.
//!
//! The client's socket pulls the stream, so a client that does not read costs only its connection, which `listen`
//! closes after a time. In which words events are told is a [`Tongue`]'s: Agno's are here, others beside the routes of
//! their protocol. The invariant: no stream is silent for longer than [`KEEP_ALIVE`], whatever else is due.

use crate::follow::{Follow, Told};
use crate::metrics::{Subscriber, Transport};
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::state::{Component, Kind};
use crate::streams::StreamSlot;
use crate::wire::agent::{self, Face, View};
use crate::wire::frame::{self, Frame};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use outlive_core::port::BoxFuture;
use outlive_core::{EventKind, RunEvent, RunId};
use outlive_engine::{Error, Reader};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Silence after which a comment is sent, or a socket is pinged: proxies cut after 20 seconds, some after 15.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// Whether events carry their index. Agno leaves it out of streams that nobody can come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbering {
    /// With `event_index` and an `id:` line.
    Shown,
    /// Without.
    Hidden,
}

/// Which of a workflow's events a stream tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of them.
    Everything,
    /// `stream_events=false`: of a workflow its beginning, outputs and end, of an agent or team what they say.
    Milestones,
}

/// The index in the run's log of what a client of this kind calls `index`: an agent's run is shown without the events of
/// the workflow around it.
pub(crate) fn inner_index(kind: Kind, index: Option<u64>) -> Option<u64> {
    match (kind, index) {
        (Kind::Workflow, index) => index,
        (Kind::Agent | Kind::Team, index) => index.map(agent::log_index),
    }
}

/// In which words a followed run is told. What is given back is text of whole Server-Sent Events, any number of them.
pub(crate) trait Tongue: Send {
    /// What comes before anything of the log.
    fn opening(&mut self) -> String {
        String::new()
    }

    /// What is told of an event.
    fn event(&mut self, event: RunEvent) -> String;

    /// A notice about the following itself.
    fn notice(&mut self, _: Value) -> String {
        String::new()
    }

    /// What comes after the last event; empty once it was told.
    fn rest(&mut self) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }

    /// That the stream ends before the run does.
    fn broken(&mut self, why: &Problem) -> String;
}

/// Follows a run until it is at rest, or until the caller's credential ends.
///
/// # Errors
/// The engine's, when what a returning client has seen cannot be read.
pub(crate) async fn response(
    caller: &Caller,
    slot: StreamSlot,
    component: &Component,
    follow: Follow,
    numbering: Numbering,
    selection: Selection,
) -> Result<Response, Error> {
    let follow = follow.telling(component.definition.events.clone());
    let view = match component.face() {
        Some(face) => Some(view(face, &follow).await?),
        None => None,
    };
    let tongue = Agno::new(caller.reader(), follow.run_id().clone(), view, numbering, selection);
    Ok(told(caller, slot, follow, Box::new(tongue)))
}

/// The view of a client that may have come back: it has seen what the client has seen, or it would tell an end twice.
async fn view(face: Face, follow: &Follow) -> Result<View, Error> {
    let mut view = View::new(face);
    follow
        .look_back(|event| {
            view.show(event);
        })
        .await?;
    Ok(view)
}

/// Follows a run's log until it is at rest, every event as it is stored, whatever kind of component runs.
pub(crate) fn log(caller: &Caller, slot: StreamSlot, follow: Follow) -> Response {
    let (run_id, all) = (follow.run_id().clone(), Selection::Everything);
    let tongue = Agno::new(caller.reader(), run_id, None, Numbering::Shown, all);
    told(caller, slot, follow, Box::new(tongue))
}

/// Follows a run in these words, until what is followed ends or the caller's credential does.
pub(crate) fn told(caller: &Caller, slot: StreamSlot, follow: Follow, tongue: Box<dyn Tongue>) -> Response {
    let frames = futures::stream::unfold(Telling::new(caller, slot, follow, tongue), |mut telling| async move {
        let frame = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), telling))
    });
    answer(Body::from_stream(frames))
}

/// A stream of one frame that says what is wrong; Agno answers so where a run is not found.
pub(crate) fn error(message: &str) -> Response {
    answer(Body::from(Frame::notice(frame::error(message)).sse()))
}

/// Such a stream as an answer.
pub(crate) fn answer(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that gather answers before they pass them on are asked not to.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (StatusCode::OK, headers, body).into_response()
}

/// A run that a stream tells of, and what else decides how the stream goes on: its caller's credential, its silence, the
/// server's end.
pub(crate) struct Listening {
    pub(crate) follow: Follow,
    pub(crate) caller: Caller,
    /// When the credential is looked at again, however much there is to tell.
    recheck_at: Instant,
    /// When the stream will have been silent for long enough.
    silent_until: Instant,
    _slot: StreamSlot,
    _subscriber: Subscriber,
}

/// What a stream goes on with.
pub(crate) enum Heard {
    /// An event of the run, or a notice.
    Told(Told),
    /// The stream was silent for [`KEEP_ALIVE`].
    Silence,
    /// The credential has ended.
    Expired,
    /// The run is at rest.
    Rest,
    /// The server stops.
    Stopping,
    /// The log cannot be read.
    Failed(Error),
}

impl Listening {
    pub(crate) fn new(caller: &Caller, slot: StreamSlot, follow: Follow) -> Self {
        let now = Instant::now();
        Self {
            follow,
            caller: caller.clone(),
            recheck_at: now + caller.state.limits.recheck_period,
            silent_until: now + KEEP_ALIVE,
            _slot: slot,
            _subscriber: caller.state.metrics.subscriber(Transport::Sse),
        }
    }

    /// Something was sent.
    pub(crate) fn spoke(&mut self) {
        self.silent_until = Instant::now() + KEEP_ALIVE;
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.recheck_at) => {
                    if self.caller.is_expired().await {
                        return Heard::Expired;
                    }
                    self.recheck_at = Instant::now() + self.caller.state.limits.recheck_period;
                }
                // Before events too: there may be any number that this client is not shown.
                () = sleep_until(self.silent_until) => return Heard::Silence,
                told = self.follow.next() => return match told {
                    Ok(Some(told)) => Heard::Told(told),
                    Ok(None) => Heard::Rest,
                    Err(error) => Heard::Failed(error),
                },
                () = self.caller.state.engine.stopped() => return Heard::Stopping,
            }
        }
    }
}

struct Telling {
    listening: Listening,
    tongue: Box<dyn Tongue>,
    has_begun: bool,
    is_over: bool,
}

impl Telling {
    fn new(caller: &Caller, slot: StreamSlot, follow: Follow, tongue: Box<dyn Tongue>) -> Self {
        Self { listening: Listening::new(caller, slot, follow), tongue, has_begun: false, is_over: false }
    }

    /// The next frames as text; nothing at the stream's end.
    async fn next(&mut self) -> Option<String> {
        let frames = self.frames().await;
        self.listening.spoke();
        frames
    }

    async fn frames(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.has_begun, true) {
            let opening = self.tongue.opening();
            if !opening.is_empty() {
                return Some(opening);
            }
        }
        loop {
            if self.is_over {
                return None;
            }
            let frames = match self.listening.next().await {
                Heard::Silence => frame::KEEP_ALIVE.to_owned(),
                Heard::Stopping => return None,
                Heard::Expired => self.breaks(&expired()),
                Heard::Told(Told::Notice(notice)) => self.tongue.notice(notice),
                Heard::Told(Told::Event(event)) => self.tongue.event(*event),
                Heard::Rest => match self.tongue.rest().await {
                    Ok(rest) if rest.is_empty() => return None,
                    Ok(rest) => rest,
                    Err(error) => self.breaks(&error.into()),
                },
                Heard::Failed(error) => self.breaks(&error.into()),
            };
            if !frames.is_empty() {
                return Some(frames);
            }
        }
    }

    fn breaks(&mut self, why: &Problem) -> String {
        self.is_over = true;
        self.tongue.broken(why)
    }
}

/// Why a stream ends whose caller may no longer follow it.
fn expired() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, EXPIRED, "the credential has expired")
}

const EXPIRED: &str = "auth_expired";

/// Agno's words.
struct Agno {
    reader: Reader,
    run_id: RunId,
    /// How an agent's or team's clients see its run.
    view: Option<View>,
    numbering: Numbering,
    selection: Selection,
    /// Nothing was told yet, on a stream that nobody can come back to: who continued a run knows the answers, and that
    /// it goes on.
    is_fresh: bool,
    /// A workflow has paused on a stream that nobody can come back to: the run is told, as to a client that waits.
    has_paused: bool,
}

impl Agno {
    fn new(reader: Reader, run_id: RunId, view: Option<View>, numbering: Numbering, selection: Selection) -> Self {
        let is_fresh = numbering == Numbering::Hidden;
        Self { reader, run_id, view, numbering, selection, is_fresh, has_paused: false }
    }
}

impl Tongue for Agno {
    fn event(&mut self, event: RunEvent) -> String {
        let is_pause = matches!(event.kind, EventKind::WorkflowPaused { .. });
        self.has_paused = is_pause && self.view.is_none() && self.numbering == Numbering::Hidden;
        self.is_fresh &= frame::is_of_answers(&event.kind);
        let is_shown = !self.is_fresh
            && match (self.selection, &self.view) {
                (Selection::Everything, _) => true,
                (Selection::Milestones, None) => frame::is_milestone(&event.kind),
                (Selection::Milestones, Some(_)) => frame::is_speech(&event.kind),
            };
        let frame = match (&mut self.view, self.numbering) {
            (None, Numbering::Shown) => Some(Frame::event(event)),
            (None, Numbering::Hidden) => Some(Frame::foreground(event)),
            (Some(view), Numbering::Shown) => view.show(event),
            (Some(view), Numbering::Hidden) => view.show_foreground(event),
        };
        // Also what is not shown has been seen by the view.
        frame.filter(|_| is_shown).map_or_else(String::new, |frame| frame.sse())
    }

    fn notice(&mut self, notice: Value) -> String {
        Frame::notice(notice).sse()
    }

    fn rest(&mut self) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async {
            if !std::mem::take(&mut self.has_paused) {
                return Ok(String::new());
            }
            let run = self.reader.wait(&self.run_id).await?;
            Ok(frame::run(run).sse())
        })
    }

    fn broken(&mut self, why: &Problem) -> String {
        let notice = match why.code {
            EXPIRED => json!({ "event": EXPIRED, "error": why.words() }),
            _ => frame::error(&why.words()),
        };
        Frame::notice(notice).sse()
    }
}
