//! An AG-UI stream: a followed run in AG-UI's words, from wherever its client wants to hear it.
//!
//! Every stream tells the run from the beginning of its log, and sends from some place on. It must never know how a
//! request came. The invariant: what is sent after a place is the same, whichever stream it is sent on.

use crate::follow::Told;
use crate::problem::Problem;
use crate::sequence::Sequence;
use crate::sse::{self, Heard, Listening};
use crate::wire::agui::input::RunAgentInput;
use crate::wire::agui::messages::Messages;
use crate::wire::agui::teller::Teller;
use crate::wire::agui::{self, Event, Place};
use crate::wire::frame;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use outlive_core::port::{Order, Run, RunFilter};
use outlive_core::{EventKind, EventSettings, RunEvent, WorkflowRunOutput, content_text};
use outlive_engine::{Error, Reader};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;

/// The most earlier runs of a thread whose messages are told to a client that has none.
const EARLIER_MAX: u32 = 100;

/// From where on a client hears a run.
#[derive(Debug)]
pub(crate) enum Since {
    /// From its beginning.
    Start,
    /// After an event that it has.
    After(Place),
    /// From the pause at this entry on, whose questions were answered.
    Pause(u64),
    /// From this length of the log on: what was before, it is told as messages.
    Snapshot(u64),
}

/// A run as a client hears it.
pub(crate) struct Ask {
    pub(crate) run: Run,
    pub(crate) input: RunAgentInput,
    pub(crate) settings: EventSettings,
    pub(crate) since: Since,
}

/// Follows a run until it is at rest, or until the caller's credential ends.
pub(crate) fn response(listening: Listening, ask: Ask) -> Response {
    let stream = Stream::new(listening, ask);
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        let frame = stream.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), stream))
    });
    sse::answer(Body::from_stream(frames))
}

/// A stream of one event: why there is nothing to hear. A client that comes back with the place of an event takes it
/// for the end, which it would not take a refused request for.
pub(crate) fn refusal(problem: &Problem, cursor: Option<Place>, input: &RunAgentInput) -> Response {
    let place = cursor.map_or(Place::START, |place| Place { index: place.index.saturating_add(1), part: 0 });
    let event = Event { place, body: agui::error(&problem.words(), problem.code) };
    sse::answer(Body::from(line(&event, input.wants_places())))
}

/// An event as it is sent. Its `id` is the number of its place.
fn line(event: &Event, with_place: bool) -> String {
    let mut body = event.body.clone();
    if with_place {
        let cursor = event.place.cursor();
        match (body["metadata"].as_object_mut(), cursor) {
            (Some(metadata), Value::Object(cursor)) => metadata.extend(cursor),
            (_, cursor) => body["metadata"] = cursor,
        }
    }
    frame::data(&body, number(event.place).map(Sequence::get))
}

fn number(place: Place) -> Option<Sequence> {
    match u64::try_from(place.index) {
        Ok(index) => Sequence::of_entry(index, place.part).ok(),
        Err(_) => Sequence::of_acceptance(place.part).ok(),
    }
}

/// The place that a number stands for.
pub(crate) fn place_of(number: Sequence) -> Place {
    let index = number.index().and_then(|index| i64::try_from(index).ok()).unwrap_or(-1);
    Place { index, part: number.part() }
}

struct Stream {
    listening: Listening,
    teller: Teller,
    ask: Ask,
    /// Whether what is told is sent. Before: what was told, where a client is told of it as messages.
    is_sending: bool,
    heard: Option<Messages>,
    /// The place of what was told last.
    last: Place,
    ready: VecDeque<String>,
    is_over: bool,
}

impl Stream {
    fn new(listening: Listening, ask: Ask) -> Self {
        let heard = matches!(ask.since, Since::Snapshot(_)).then(Messages::default);
        let is_sending = matches!(ask.since, Since::Start | Since::After(_));
        let teller = teller(&ask);
        Self { listening, teller, ask, is_sending, heard, last: Place::START, ready: VecDeque::new(), is_over: false }
    }

    /// The next frame as text; nothing at the stream's end.
    async fn next(&mut self) -> Option<String> {
        let frame = self.frame().await;
        self.listening.spoke();
        frame
    }

    async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            if self.is_over {
                return None;
            }
            if let Err(error) = self.step().await {
                self.fail(&Problem::from(error));
            }
        }
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.teller.place() == Place::START {
            let told = self.teller.begin();
            return self.take(told).await;
        }
        match self.listening.next().await {
            Heard::Silence => self.ready.push_back(frame::KEEP_ALIVE.to_owned()),
            Heard::Told(Told::Event(event)) => return self.hear(&event).await,
            Heard::Told(Told::Notice(_)) => {}
            Heard::Rest | Heard::Stopping => self.is_over = true,
            Heard::Expired => {
                let detail = "the credential has expired";
                self.fail(&Problem::new(axum::http::StatusCode::UNAUTHORIZED, "auth_expired", detail));
            }
            Heard::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Says why nothing more is told.
    fn fail(&mut self, problem: &Problem) {
        self.is_over = true;
        let event = Event { place: self.last, body: agui::error(&problem.words(), problem.code) };
        self.ready.push_back(line(&event, self.ask.input.wants_places()));
    }

    async fn hear(&mut self, event: &RunEvent) -> Result<(), Error> {
        let index = event.event_index.unwrap_or_default();
        let told = tell(&self.reader(), &mut self.teller, &self.ask, event).await?;
        self.take(told).await?;
        match self.ask.since {
            Since::Pause(pause) if !self.is_sending && index >= pause => {
                self.is_sending = true;
                let told = self.teller.begin();
                self.take(told).await
            }
            Since::Snapshot(length) if !self.is_sending && index + 1 >= length => self.introduce().await,
            _ => Ok(()),
        }
    }

    /// Sends what was told, or remembers it.
    async fn take(&mut self, told: Vec<Event>) -> Result<(), Error> {
        for event in told {
            let was_sent = matches!(self.ask.since, Since::After(place) if event.place <= place);
            match &mut self.heard {
                Some(heard) => heard.hear(&event),
                None if self.is_sending && !was_sent => self.send(event.clone()).await?,
                None => {}
            }
            // An introduction ends before the end, which is told once more.
            if !(self.heard.is_some() && event.is_end()) {
                self.last = event.place;
            }
        }
        Ok(())
    }

    /// The client is told what was told before it came, in one.
    async fn introduce(&mut self) -> Result<(), Error> {
        self.is_sending = true;
        let heard = self.heard.take().unwrap_or_default();
        let messages = self.with_earlier(heard).await?;
        let place = self.last;
        for body in self.teller.introduce(messages) {
            self.send(Event { place, body }).await?;
        }
        match self.teller.end().cloned() {
            Some(end) => self.send(end).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, mut event: Event) -> Result<(), Error> {
        match event.kind() {
            "STATE_SNAPSHOT" | "STATE_DELTA" if self.ask.input.state.as_ref().is_none_or(Value::is_null) => {
                return Ok(());
            }
            "STATE_SNAPSHOT" if event.body.get("snapshot").is_none() => {
                let session = self.reader().session(&self.ask.run.info.session_id).await?;
                let mut state = session.map(|session| session.state).unwrap_or_default();
                // What the run lays over the session's state when it begins, its client knows already.
                if let (-1, Some(Value::Object(own))) = (event.place.index, &self.ask.input.state) {
                    let laid = outlive_core::port::laid_over(&state, own);
                    outlive_core::port::merge(&mut state, &laid);
                }
                event.body["snapshot"] = Value::Object(state);
            }
            "MESSAGES_SNAPSHOT" if event.body.get("messages").is_none() => {
                let heard = self.heard_before(event.place).await?;
                event.body["messages"] = Value::Array(self.with_earlier(heard).await?);
            }
            _ => {}
        }
        self.ready.push_back(line(&event, self.ask.input.wants_places()));
        Ok(())
    }

    fn reader(&self) -> Reader {
        self.listening.caller.reader()
    }

    /// What the run's client has heard of it before a place. Read again: that is rarely needed.
    async fn heard_before(&self, place: Place) -> Result<Messages, Error> {
        let reader = self.reader();
        let (mut teller, mut heard) = (teller(&self.ask), Messages::default());
        let mut events = reader.events(&self.ask.run.info.run_id, None);
        let mut index = -1;
        // All of them are stored, so this waits for none.
        while index < place.index {
            let Some(event) = events.next().await? else { break };
            index = event.event_index.and_then(|index| i64::try_from(index).ok()).unwrap_or(place.index);
            let told = tell(&reader, &mut teller, &self.ask, &event).await?;
            told.iter().filter(|event| event.place < place).for_each(|event| heard.hear(event));
        }
        Ok(heard)
    }

    /// The thread's messages up to the run's own: as the client has them, or else as the session's runs have them.
    async fn with_earlier(&self, own: Messages) -> Result<Vec<Value>, Error> {
        let prefix = self.teller.prefix();
        let known = self.ask.input.messages.iter().filter(|message| !message.id.starts_with(prefix));
        let mut messages: Vec<Value> =
            known.map(|message| serde_json::to_value(message).expect("a message has string keys only")).collect();
        if self.ask.input.messages.is_empty() {
            messages = earlier(&self.reader(), &self.ask.run).await?;
        }
        messages.extend(own.into_vec());
        Ok(messages)
    }
}

fn teller(ask: &Ask) -> Teller {
    let RunAgentInput { thread_id, run_id, protocol_version, .. } = &ask.input;
    let teller = Teller::new(thread_id, run_id, ask.run.info.run_id.as_str());
    teller.speaking(protocol_version.as_deref()).client_tools(ask.input.client_tools())
}

/// What is told of an event, if the workflow has its streams tell of it.
async fn tell(reader: &Reader, teller: &mut Teller, ask: &Ask, event: &RunEvent) -> Result<Vec<Event>, Error> {
    if !ask.settings.streams(event) {
        return Ok(Vec::new());
    }
    let open = match (&event.kind, event.event_index) {
        (EventKind::WorkflowPaused { .. }, Some(index)) => reader.open_before(&ask.run.info.run_id, index).await?,
        _ => Vec::new(),
    };
    Ok(teller.tell(event, &open))
}

/// What was said in the thread before this run, and what it was asked.
async fn earlier(reader: &Reader, run: &Run) -> Result<Vec<Value>, Error> {
    let filter = RunFilter {
        session_id: Some(run.info.session_id.clone()),
        workflow_id: Some(run.info.workflow_id.clone()),
        before: Some(run.info.run_id.clone()),
        order: Order::NewestFirst,
        limit: EARLIER_MAX,
        with_payload: true,
        ..RunFilter::default()
    };
    let mut messages = Vec::new();
    for earlier in reader.runs(filter).await?.runs.iter().rev() {
        let output = match reader.output(earlier).await {
            Ok(output) => output,
            // The thread is shown without it.
            Err(error @ (Error::Unreadable(_) | Error::Damaged(_))) => {
                tracing::error!(%error, "a run of a thread cannot be read");
                continue;
            }
            Err(error) => return Err(error),
        };
        messages.push(asked(&output));
        let text = content_text(output.content.as_ref());
        if !text.is_empty() {
            messages.push(json!({ "id": format!("{}:output", output.run_id), "role": "assistant", "content": text }));
        }
    }
    messages.push(asked(&reader.output(run).await?));
    Ok(messages)
}

/// What a run was asked, as its client's message.
fn asked(run: &WorkflowRunOutput) -> Value {
    let text = content_text(run.input.as_ref());
    json!({ "id": format!("{}:input", run.run_id), "role": "user", "content": text })
}
