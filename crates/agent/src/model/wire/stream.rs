//! One answer, whole or as it streams: what came, in which time, and how it ended.
//!
//! It must never know a format. A body is taken for what it looks like, not for what its type says: servers stream what
//! was asked for whole, send whole what was asked for as a stream, and show a page where an API was meant.

use super::sse::{BYTE_ORDER_MARK, Event, Reader};
use super::text::{Halves, parse_json};
use super::words::{Refusal, Wording};
use super::{ANSWER_LEN_MAX, Dialect, answer, send, wording};
use crate::http::{BodyError, root_cause};
use crate::model::answer::check;
use crate::model::{ModelEvent, ModelStream};
use futures::stream::{self, BoxStream, StreamExt};
use outlive_core::{Failure, ModelDelta, ModelRequest, ModelResponse, ToolSpec};
use reqwest::{Response, Url};
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// As much of a body's beginning, and of what is no event in it, as an error may need.
const HEAD_LEN_MAX: usize = 2048;

/// Puts a streamed answer together.
pub trait Collector: Send {
    /// Takes one event in, with the name it had on the stream, and says what is new.
    fn event(&mut self, name: &str, event: Value) -> Result<Vec<ModelDelta>, Refusal>;

    /// Whether nothing more is needed. The rest of the stream is not read.
    fn is_complete(&self) -> bool;

    /// The whole answer once the stream has ended, perhaps too early. `done` tells whether the server said that it has no
    /// more to say.
    fn finish(self, done: bool) -> Result<ModelResponse, Refusal>;
}

/// Asks, and waits for the whole answer.
pub(crate) async fn respond<D: Dialect>(dialect: &D, mut request: ModelRequest) -> Result<ModelResponse, Failure> {
    request.stream = false;
    let mut reading = Reading::open(dialect, request).await?;
    while !reading.over {
        reading.advance().await?;
    }
    let whole = reading.ready.into_iter().find_map(|event| match event {
        ModelEvent::Done(whole) => Some(*whole),
        ModelEvent::Delta(_) => None,
    });
    let whole = whole.ok_or_else(|| wording(dialect).cut_off(""))?;
    Ok(ModelResponse { time_to_first_token: None, ..whole })
}

/// Asks, and passes the answer on as it comes.
pub(crate) fn stream<D: Dialect>(dialect: &D, mut request: ModelRequest) -> ModelStream<'_> {
    request.stream = true;
    Box::pin(stream::try_unfold(Progress::Asking(Box::new(request)), move |progress| async move {
        let mut reading = match progress {
            Progress::Asking(request) => Box::new(Reading::open(dialect, *request).await?),
            Progress::Reading(reading) => reading,
        };
        while reading.ready.is_empty() && !reading.over && reading.failed.is_none() {
            // What came before the failure, be it in the same chunk, is passed on first.
            reading.failed = reading.advance().await.err();
        }
        match (reading.ready.pop_front(), reading.failed.take()) {
            (Some(event), failed) => {
                reading.failed = failed;
                Ok(Some((event, Progress::Reading(reading))))
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(None),
        }
    }))
}

/// The answer as the rest of the program may see it.
fn settled<D: Dialect>(dialect: &D, whole: ModelResponse, tools: &[ToolSpec]) -> Result<ModelResponse, Failure> {
    let mut whole = dialect.settle(whole);
    check(&mut whole, tools).map_err(|problem| wording(dialect).garbage(&problem))?;
    Ok(whole)
}

enum Progress<'a, D: Dialect> {
    Asking(Box<ModelRequest>),
    Reading(Box<Reading<'a, D>>),
}

type Chunks = BoxStream<'static, reqwest::Result<Vec<u8>>>;

/// An answer on its way.
struct Reading<'a, D: Dialect> {
    dialect: &'a D,
    tools: Vec<ToolSpec>,
    url: Url,
    chunks: Chunks,
    body: Body,
    /// The beginning of the body.
    head: Vec<u8>,
    bytes_left: usize,
    collector: Option<D::Collector>,
    /// Something the server said that is no event, as far as it may explain what goes wrong.
    remark: String,
    /// Read but not yet passed on.
    ready: VecDeque<ModelEvent>,
    failed: Option<Failure>,
    over: bool,
    content: Halves,
    reasoning: Halves,
    is_streamed: bool,
    started: Instant,
    /// When the last event came that said something.
    news: Instant,
    first_token: Option<Duration>,
}

/// What the body turns out to be.
enum Body {
    /// Nothing but these blanks so far.
    Unknown(Vec<u8>),
    Events(Reader),
    /// One JSON value, or a page.
    Whole(Vec<u8>),
}

impl<'a, D: Dialect> Reading<'a, D> {
    async fn open(dialect: &'a D, mut request: ModelRequest) -> Result<Self, Failure> {
        let started = Instant::now();
        let limits = dialect.connection().limits;
        let limit = limits.whole();
        let response = timeout_at(started + limit, send(dialect, &request)).await;
        let response = response.map_err(|_| wording(dialect).too_slow("has not answered within", limit))??;
        let (url, tools) = (response.url().clone(), std::mem::take(&mut request.tools));
        let mut reading = Self::new(dialect, tools, url, chunks(response), request.stream);
        (reading.started, reading.news) = (started, started);
        Ok(reading)
    }

    /// What comes in these chunks.
    fn new(dialect: &'a D, tools: Vec<ToolSpec>, url: Url, chunks: Chunks, is_streamed: bool) -> Self {
        let started = Instant::now();
        Self {
            dialect,
            tools,
            url,
            chunks,
            body: Body::Unknown(Vec::new()),
            head: Vec::new(),
            bytes_left: ANSWER_LEN_MAX,
            collector: Some(dialect.collector()),
            remark: String::new(),
            ready: VecDeque::new(),
            failed: None,
            over: false,
            content: Halves::default(),
            reasoning: Halves::default(),
            is_streamed,
            started,
            news: started,
            first_token: None,
        }
    }

    fn wording(&self) -> Wording {
        wording(self.dialect)
    }

    /// Reads on for one chunk.
    async fn advance(&mut self) -> Result<(), Failure> {
        let (deadline, what, limit) = self.patience();
        let chunk = timeout_at(deadline, self.chunks.next()).await;
        match chunk.map_err(|_| self.wording().too_slow(what, limit))? {
            Some(Ok(chunk)) => {
                let too_long = || self.wording().body(BodyError::TooLong { limit: ANSWER_LEN_MAX });
                self.bytes_left = self.bytes_left.checked_sub(chunk.len()).ok_or_else(too_long)?;
                let room = HEAD_LEN_MAX.saturating_sub(self.head.len());
                self.head.extend(chunk.iter().take(room));
                self.take(&chunk)
            }
            Some(Err(error)) if matches!(self.body, Body::Whole(_)) => {
                Err(self.wording().body(BodyError::Broken(root_cause(&error))))
            }
            // After the final words a broken connection is no loss.
            Some(Err(_)) | None => self.end(),
        }
    }

    /// Until when the next byte may take, and what to say when it does not come.
    fn patience(&self) -> (Instant, &'static str, Duration) {
        let limits = self.dialect.connection().limits;
        if !self.is_streamed {
            return (self.started + limits.whole(), "has not answered within", limits.whole());
        }
        let mut patience = (self.news + limits.wait, "has sent nothing of its answer for", limits.wait);
        let quiet = Instant::now() + limits.idle;
        if quiet < patience.0 {
            patience = (quiet, "has been silent for", limits.idle);
        }
        match limits.total {
            Some(total) if self.started + total < patience.0 => {
                (self.started + total, "has not ended its answer within", total)
            }
            _ => patience,
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Failure> {
        let Body::Unknown(before) = &mut self.body else { return self.feed(chunk) };
        before.extend_from_slice(chunk);
        let text = before.strip_prefix(BYTE_ORDER_MARK).unwrap_or(before);
        let is_undecided = text.trim_ascii().is_empty() || BYTE_ORDER_MARK.starts_with(text);
        if is_undecided && before.len() < HEAD_LEN_MAX {
            return Ok(());
        }
        let is_whole = text.trim_ascii_start().starts_with(b"{")
            || text.trim_ascii_start().starts_with(b"[")
            || text.trim_ascii_start().starts_with(b"<");
        let before = std::mem::take(before);
        self.body = if is_whole { Body::Whole(Vec::new()) } else { Body::Events(Reader::default()) };
        self.feed(&before)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.body {
            Body::Unknown(_) => Ok(()),
            Body::Whole(body) => {
                body.extend_from_slice(bytes);
                Ok(())
            }
            Body::Events(reader) => {
                let events = reader.push(bytes);
                events.into_iter().try_for_each(|event| self.event(event, false))
            }
        }
    }

    /// The body is over.
    fn end(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.body, Body::Unknown(Vec::new())) {
            Body::Unknown(_) => self.finish(false),
            Body::Whole(body) => {
                // The listener sees one big piece.
                let whole = answer(self.dialect, &self.url, &body)?;
                if let Some(text) = &whole.content {
                    self.tell(ModelDelta::Content(text.clone()));
                }
                self.complete(whole)
            }
            Body::Events(reader) => {
                reader.finish().into_iter().try_for_each(|event| self.event(event, true))?;
                if self.over { Ok(()) } else { self.finish(false) }
            }
        }
    }

    /// One event of the stream; the last one may be cut.
    fn event(&mut self, event: Event, is_last: bool) -> Result<(), Failure> {
        let Event { name, data } = event;
        let data = data.trim();
        if self.over || data.is_empty() {
            return Ok(());
        }
        if name == "error" {
            let error = parse_json(data).unwrap_or_else(|_| Value::String(data.to_owned()));
            return Err(self.wording().refusal(Refusal::Error(error)));
        }
        // Some servers leave out the blank lines between their events.
        let parts = match parse_json(data) {
            Ok(value) => vec![Ok(value)],
            Err(_) if data.contains('\n') => data.lines().map(|line| parse_json(line).map_err(|_| line)).collect(),
            Err(_) => vec![Err(data)],
        };
        for part in parts {
            match part {
                _ if self.over => {}
                Ok(Value::Array(values)) => values.into_iter().try_for_each(|value| self.value(&name, value))?,
                Ok(value) => self.value(&name, value)?,
                Err("[DONE]") => self.finish(true)?,
                Err(text) if text.starts_with(['{', '[']) && !text.ends_with(']') => {
                    if !is_last {
                        return Err(self.wording().garbage("a stream event that is not JSON"));
                    }
                }
                // `keepalive`, `ping`, or the words of somebody on the way.
                Err(text) => self.remark_on(text),
            }
        }
        Ok(())
    }

    fn remark_on(&mut self, text: &str) {
        if text.contains(char::is_whitespace) {
            self.remark = text.chars().take(HEAD_LEN_MAX).collect();
        }
    }

    fn value(&mut self, name: &str, value: Value) -> Result<(), Failure> {
        let Some(collector) = self.collector.as_mut().filter(|_| value.is_object() && !self.over) else {
            return Ok(());
        };
        let told = collector.event(name, value);
        let is_complete = collector.is_complete();
        self.news = Instant::now();
        for delta in told.map_err(|refusal| self.wording().refusal(refusal))? {
            self.tell(delta);
        }
        if is_complete { self.finish(true) } else { Ok(()) }
    }

    fn tell(&mut self, delta: ModelDelta) {
        let delta = match delta {
            ModelDelta::Content(text) => ModelDelta::Content(self.content.push(text)),
            ModelDelta::Reasoning(text) => ModelDelta::Reasoning(self.reasoning.push(text)),
            begun @ ModelDelta::Begun(_) => begun,
        };
        if matches!(&delta, ModelDelta::Content(text) | ModelDelta::Reasoning(text) if text.is_empty()) {
            return;
        }
        if !matches!(delta, ModelDelta::Begun(_)) {
            self.first_token.get_or_insert_with(|| self.started.elapsed());
        }
        self.ready.push_back(ModelEvent::Delta(delta));
    }

    fn finish(&mut self, done: bool) -> Result<(), Failure> {
        let Some(collector) = self.collector.take() else { return Ok(()) };
        let whole = collector.finish(done).map_err(|refusal| match refusal {
            Refusal::Endless(reason) if reason.is_empty() && !is_stream(&self.head) => {
                self.wording().no_answer(&self.url, &self.head)
            }
            Refusal::Endless(reason) if reason.is_empty() => self.wording().cut_off(&self.remark),
            refusal => self.wording().refusal(refusal),
        })?;
        self.complete(whole)
    }

    fn complete(&mut self, whole: ModelResponse) -> Result<(), Failure> {
        let mut whole = settled(self.dialect, whole, &self.tools)?;
        let join = |text: &mut String| *text = Halves::joined(std::mem::take(text));
        whole.content.iter_mut().chain(&mut whole.reasoning_content).for_each(join);
        whole.tool_calls.iter_mut().for_each(|call| join(&mut call.function.arguments));
        whole.provider_data.iter_mut().for_each(Halves::join_all);
        whole.duration = Some(self.started.elapsed().as_secs_f64());
        whole.time_to_first_token = self.first_token.map(|wait| wait.as_secs_f64()).or(whole.duration);
        self.ready.push_back(ModelEvent::Done(Box::new(whole)));
        self.over = true;
        Ok(())
    }
}

/// Whether a body's beginning is, as far as it goes, a stream of events; an empty one may have become one.
fn is_stream(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let fields = [&b":"[..], b"data", b"event", b"id:", b"retry:"];
    head.trim_ascii().is_empty()
        || lines.any(|line| {
            fields.iter().any(|field| line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).starts_with(field))
        })
}

fn chunks(response: Response) -> Chunks {
    response.bytes_stream().map(|chunk| chunk.map(Vec::from)).boxed()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The answer in a streamed body, cut into these chunks.
    pub(crate) async fn read_body<D: Dialect>(
        dialect: &D,
        tools: &[ToolSpec],
        body: Vec<Vec<u8>>,
    ) -> Result<ModelResponse, Failure> {
        let url = Url::parse("http://127.0.0.1/v1").expect("an address");
        let chunks = stream::iter(body.into_iter().map(Ok)).boxed();
        let mut reading = Reading::new(dialect, tools.to_vec(), url, chunks, true);
        while !reading.over {
            reading.advance().await?;
        }
        match reading.ready.pop_back() {
            Some(ModelEvent::Done(whole)) => Ok(*whole),
            other => panic!("the last event is the whole: {other:?}"),
        }
    }
}
