//! One answer, whole or streamed: what came, how long it took, and how it ended.
//!
//! It must never know a format. A body is judged by its content, not by its declared type: servers stream what was not
//! to be streamed, send whole what was to be streamed, and show a web page where an API was meant.

use super::sse::{BYTE_ORDER_MARK, Event, Reader};
use super::text::{Halves, parse_json};
use super::words::{Refusal, Wording};
use super::{ANSWER_LEN_MAX, Dialect, answer, parsed, send, wording};
use crate::http::{BodyError, root_cause};
use crate::model::answer::check;
use crate::model::{ModelEvent, ModelStream};
use futures::stream::{self, BoxStream, StreamExt};
use outlive_core::{Failure, FailureKind, ModelDelta, ModelRequest, ModelResponse, ToolSpec};
use reqwest::{Response, Url};
use serde_json::Value;
use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How much of a body's beginning, and of what is not an event in it, is kept for an error.
const HEAD_LEN_MAX: usize = 2048;

/// Assembles a streamed answer.
pub trait Collector: Send {
    /// Takes in one event, with the name it had on the stream, and returns what is new.
    fn event(&mut self, name: &str, event: Value) -> Result<Vec<ModelDelta>, Refusal>;

    /// Whether nothing more is needed. The rest of the stream is not read.
    fn is_complete(&self) -> bool;

    /// The whole answer once the stream has ended, perhaps too early. `done` tells whether the server said that nothing
    /// more will come.
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
    drained(async move { Reading::open(dialect, request).await })
}

/// The whole answer at the end of a stream.
pub(crate) async fn collected(mut events: ModelStream<'_>) -> Result<ModelResponse, Failure> {
    while let Some(event) = events.next().await {
        if let ModelEvent::Done(whole) = event? {
            return Ok(ModelResponse { time_to_first_token: None, ..*whole });
        }
    }
    Err(Failure::new(FailureKind::Truncated, "the streamed answer broke off"))
}

/// What an answer in progress gives, once it is there.
pub(super) fn drained<'a, D: Dialect + 'a, F>(open: F) -> ModelStream<'a>
where
    F: Future<Output = Result<Reading<'a, D>, Failure>> + Send + 'a,
{
    Box::pin(stream::try_unfold(Progress::Asking(Box::pin(open)), move |progress| async move {
        let mut reading = match progress {
            Progress::Asking(open) => Box::new(open.await?),
            Progress::Reading(reading) => reading,
        };
        while reading.ready.is_empty() && !reading.over && reading.failed.is_none() {
            // What came before the failure, even in the same chunk, is passed on first.
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

enum Progress<'a, D: Dialect, F> {
    Asking(Pin<Box<F>>),
    Reading(Box<Reading<'a, D>>),
}

pub(super) type Chunks = BoxStream<'static, reqwest::Result<Vec<u8>>>;

/// An answer in progress.
pub(super) struct Reading<'a, D: Dialect> {
    dialect: &'a D,
    tools: Vec<ToolSpec>,
    url: Url,
    chunks: Chunks,
    body: Body,
    /// The beginning of the body.
    head: Vec<u8>,
    bytes_left: usize,
    collector: Option<D::Collector>,
    /// Something the server said that is not an event, in case it explains what goes wrong.
    remark: String,
    /// Read but not yet passed on.
    ready: VecDeque<ModelEvent>,
    failed: Option<Failure>,
    over: bool,
    content: Halves,
    reasoning: Halves,
    is_streamed: bool,
    started: Instant,
    /// When the last event with content came.
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
        let response = timeout_at(after(started, limit), send(dialect, &request)).await;
        let response = response.map_err(|_| wording(dialect).too_slow("has not answered within", limit))??;
        let (url, tools) = (response.url().clone(), std::mem::take(&mut request.tools));
        let mut reading = Self::new(dialect, tools, url, chunks(response), request.stream);
        (reading.started, reading.news) = (started, started);
        Ok(reading)
    }

    /// Reads what comes in these chunks.
    pub(super) fn new(dialect: &'a D, tools: Vec<ToolSpec>, url: Url, chunks: Chunks, is_streamed: bool) -> Self {
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

    /// Reads one more chunk.
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
            // After the final event a broken connection loses nothing.
            Some(Err(_)) | None => self.end(),
        }
    }

    /// The deadline for the next byte, and what to say when it does not come.
    fn patience(&self) -> (Instant, &'static str, Duration) {
        let limits = self.dialect.connection().limits;
        if !self.is_streamed {
            return (after(self.started, limits.whole()), "has not answered within", limits.whole());
        }
        let mut patience = (after(self.news, limits.wait), "has sent nothing of its answer for", limits.wait);
        let quiet = after(Instant::now(), limits.idle);
        if quiet < patience.0 {
            patience = (quiet, "has been silent for", limits.idle);
        }
        match limits.total.map(|total| (after(self.started, total), "has not ended its answer within", total)) {
            Some(whole) if whole.0 < patience.0 => whole,
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
            Body::Whole(body) => match parsed(&body) {
                Some(value) => {
                    let whole = answer(self.dialect, value)?;
                    // The listener gets one big piece.
                    if let Some(text) = &whole.content {
                        self.tell(ModelDelta::Content(text.clone()));
                    }
                    self.complete(whole)
                }
                // A page, or a stream that begins with an error as bare JSON.
                None => {
                    self.body = Body::Events(Reader::default());
                    self.feed(&body)?;
                    self.end()
                }
            },
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
                Err(text) if text.starts_with('{') || text.starts_with('[') && !text.ends_with(']') => {
                    if !is_last {
                        return Err(self.wording().garbage("a stream event that is not JSON"));
                    }
                }
                Err(text) if is_complaint(text) => {
                    return Err(self.wording().refusal(Refusal::Error(Value::String(text.to_owned()))));
                }
                // `keepalive`, `ping`, or text from something on the way.
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
        let is_news = !is_sign_of_life(name, &value);
        let told = collector.event(name, value);
        let is_complete = collector.is_complete();
        if is_news {
            self.news = Instant::now();
        }
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

/// The limit added to a time; a limit that no clock reaches is no limit.
pub(super) fn after(begun: Instant, limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
    begun + limit.min(FAR)
}

/// Whether an event only shows that the connection is alive.
fn is_sign_of_life(name: &str, event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap_or(name);
    let is_empty = event.as_object().is_some_and(serde_json::Map::is_empty);
    is_empty
        || ["ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"].iter().any(|word| kind.contains(word))
        || ["response.queued", "response.in_progress"].contains(&kind)
        || event["choices"]
            .as_array()
            .is_some_and(|choices| choices.iter().all(is_silent) && !event["usage"].is_object())
}

/// Whether a choice says nothing: its delta is empty, or says only who speaks.
fn is_silent(choice: &Value) -> bool {
    let is_blank = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(parts) => parts.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    let says =
        |fields: &serde_json::Map<String, Value>| fields.iter().any(|(name, value)| name != "role" && !is_blank(value));
    choice.as_object().is_none_or(|fields| {
        fields.iter().all(|(name, value)| match (name.as_str(), value) {
            ("index", _) => true,
            (_, Value::Object(fields)) => !says(fields),
            (_, value) => is_blank(value),
        })
    })
}

/// Whether text in place of an event says that something went wrong.
fn is_complaint(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["error", "exception", "failed", "out of memory", "unavailable", "overloaded", "too many requests", "timed out"]
        .iter()
        .any(|word| text.contains(word))
}

/// Whether the beginning of a body is, so far, a stream of events; an empty one may yet become one.
fn is_stream(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let fields = [&b":"[..], b"data", b"event", b"id:", b"retry:"];
    head.trim_ascii().is_empty()
        || lines.any(|line| {
            fields.iter().any(|field| line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).starts_with(field))
        })
}

pub(super) fn chunks(response: Response) -> Chunks {
    let next = async |mut response: Response| Ok(response.chunk().await?.map(|chunk| (Vec::from(chunk), response)));
    stream::try_unfold(response, next).boxed()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::OpenAIChat;
    use serde_json::json;
    use tokio::time::sleep;

    fn reading<'a, D: Dialect>(dialect: &'a D, tools: &[ToolSpec], chunks: Chunks) -> Reading<'a, D> {
        let url = Url::parse("http://127.0.0.1/v1").expect("an address");
        Reading::new(dialect, tools.to_vec(), url, chunks, true)
    }

    /// The answer in a streamed body, cut into these chunks.
    pub(crate) async fn read_body<D: Dialect>(
        dialect: &D,
        tools: &[ToolSpec],
        body: Vec<Vec<u8>>,
    ) -> Result<ModelResponse, Failure> {
        let mut reading = reading(dialect, tools, stream::iter(body.into_iter().map(Ok)).boxed());
        while !reading.over {
            reading.advance().await?;
        }
        match reading.ready.pop_back() {
            Some(ModelEvent::Done(whole)) => Ok(*whole),
            other => panic!("the last event is the whole: {other:?}"),
        }
    }

    fn chunk(text: &str, reason: Option<&str>) -> String {
        let choice = json!({"delta": {"content": text}, "finish_reason": reason});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    }

    /// What was passed on, and how it ended, when each of these comes this many seconds after the one before.
    async fn paced(model: &OpenAIChat, pieces: Vec<(u64, String)>) -> (String, Result<(), Failure>) {
        let chunks = stream::iter(pieces).then(|(wait, piece)| async move {
            sleep(Duration::from_secs(wait)).await;
            Ok(piece.into_bytes())
        });
        let mut reading = reading(model, &[], chunks.boxed());
        let mut ended = Ok(());
        while !reading.over && ended.is_ok() {
            ended = reading.advance().await;
        }
        let told = reading.ready.into_iter().filter_map(|event| match event {
            ModelEvent::Delta(ModelDelta::Content(text)) => Some(text),
            _ => None,
        });
        (told.collect(), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_alive_has_all_the_time_it_needs_unless_a_total_was_chosen() {
        let model = OpenAIChat::new("x").api_key("").timeout(Duration::from_secs(2));
        let mut pieces: Vec<_> = (0..1000).map(|_| (1, chunk("a", None))).collect();
        pieces.push((1, chunk("b", Some("stop"))));
        let (told, ended) = paced(&model, pieces.clone()).await;
        assert_eq!((told.len(), ended), (1001, Ok(())));
        let (told, ended) = paced(&model.total_timeout(Duration::from_millis(10_500)), pieces).await;
        let failure = ended.expect_err("the total is over");
        assert_eq!((told.as_str(), failure.kind), ("aaaaaaaaaa", FailureKind::Timeout));
        assert!(failure.message.contains("has not ended its answer within 10.5s"), "{failure:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_mere_signs_of_life_have_an_end() {
        let model =
            OpenAIChat::new("x").api_key("").timeout(Duration::from_secs(60)).idle_timeout(Duration::from_secs(20));
        let alive =
            || (0..100).map(|_| (10, ": still here\n\ndata: keepalive\n\ndata: {\"type\":\"ping\"}\n\n".to_owned()));
        let (_, ended) = paced(&model, alive().collect()).await;
        assert!(ended.expect_err("no token").message.contains("has sent nothing of its answer for 60s"));
        let pieces = std::iter::once((50, chunk("a", None)));
        let (_, ended) = paced(&model, pieces.chain(alive()).collect()).await;
        assert!(ended.expect_err("no first token").message.contains("has been silent for 20s"));
        for nothing in
            ["{\"choices\":[]}", "{\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}"]
        {
            let pieces = (0..100).map(|_| (10, format!("data: {nothing}\n\n")));
            let (_, ended) = paced(&model, pieces.collect()).await;
            let failure = ended.expect_err("it says nothing");
            assert!(failure.message.contains("has sent nothing of its answer for 60s"), "{nothing}: {failure:?}");
        }
        let pieces = std::iter::once((10, chunk("a", None))).chain(alive());
        let (told, ended) = paced(&model, pieces.collect()).await;
        assert!(ended.expect_err("no second token").message.contains("has sent nothing of its answer for 60s"));
        assert_eq!(told, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_of_eight_megabytes_in_small_chunks_is_read() {
        let model = OpenAIChat::new("x").api_key("");
        let body = chunk(&"x".repeat(8 << 20), Some("stop")).into_bytes();
        let chunks = body.chunks(1024).map(<[u8]>::to_vec).collect();
        let answer = read_body(&model, &[], chunks).await.unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!(answer.content.map(|text| text.len()), Some(8 << 20));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_stream_is_named() {
        let model = OpenAIChat::new("x").api_key("");
        let said = async |body: &str| match read_body(&model, &[], vec![body.as_bytes().to_vec()]).await {
            Ok(answer) => panic!("{answer:?}"),
            Err(failure) => (failure.kind, failure.retryable, failure.message),
        };
        let (kind, retryable, message) = said("\n <html><title>Log in</title>").await;
        assert_eq!((kind, retryable), (FailureKind::BadResponse, false));
        assert!(message.contains("a web page") && message.ends_with("Log in"), "{message}");
        let (kind, retryable, message) = said("upstream connect error\n").await;
        assert_eq!((kind, retryable), (FailureKind::BadResponse, true));
        assert!(message.contains("upstream connect error"), "{message}");
        let (_, _, message) = said("data: {\"choices\": []").await;
        assert!(message.ends_with("broke off its answer before the end"), "a cut event is no remark: {message}");
        for cut in
            ["", "\n\n", ": processing\n\n", "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choi"]
        {
            assert_eq!(said(cut).await.0, FailureKind::Truncated, "{cut}");
        }
        let (_, _, message) = said("data: Internal Server Error\n\ndata: [DONE]\n\n").await;
        assert!(message.contains("ended its answer with an error: Internal Server Error"), "{message}");
        let (kind, _, message) = said("{\"error\":{\"message\":\"no\",\"code\":400}}\n\ndata: [DONE]\n\n").await;
        assert_eq!(kind, FailureKind::BadRequest, "{message}");
        assert_eq!(said("[1, 2").await.0, FailureKind::BadResponse);
    }
}
