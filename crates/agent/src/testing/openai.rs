//! `OpenAiServer`: HTTP around [`super::decide`] and [`super::wire`], with delays, failures and a log.

use super::decide::{Conversation, Decision};
use super::quirk::Quirk;
use super::wire::{Draft, Format, error_body, error_frame};
use super::{Hosted, fingerprint, requests};
use crate::testing::background::Kept;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use axum::routing::{get, post};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A model server for tests, whole and streamed: it speaks OpenAI's Responses and Chat Completions, also at Azure's
/// paths, Anthropic's Messages and Google's `generateContent`.
///
/// It answers by what it reads. A *directive* `NAME=value` may stand anywhere in the newest user text or in the
/// instructions:
///
/// | directive | effect |
/// |---|---|
/// | `DELAY=seconds` | waits before the first byte |
/// | `CHUNKDELAY=seconds` | waits before each streamed piece |
/// | `CHUNKS=n` | streams a text in n pieces (6 unless set) |
/// | `THINK=word` | thinks that word first, and signs it where the format has signatures |
/// | `REFUSE=word` | refuses in that word |
/// | `REPLY=word` | answers with that word |
/// | `JSON=value` | answers with that JSON value |
/// | `ERROR=status` or `ERROR=status:code` | answers with that status and an error body |
/// | `ERRORN=status:n:key` | does so for the first n calls that carry this key |
/// | `STREAMERR=1` | starts to stream, then sends an error event |
/// | `CUT=1` | starts to answer, then drops the connection; after so many events where the answer goes on in the background |
/// | `GARBAGE=1` | answers with what is not JSON |
/// | `TOOL=name:value` | calls that tool with that JSON value, once after each user text |
/// | `QUIRK=name` or `QUIRK=name:n` | streams as a server with that [`Quirk`] does, in the first n answers or in all, to a turn without tool results |
/// | `ALSO=name:value` | beside `TOOL`: calls this tool too, in the same turn |
/// | `TOOLFOREVER=1` | calls tools in every turn |
/// | `NOTOOL=1` | calls no tool |
///
/// Without one, a team's leader (who has a tool with the argument `member_id`) delegates to every member in one turn; an
/// agent with tools calls the first of them once, its arguments made from the schema; then comes an answer that depends
/// on the user text and the names of the tools alone, or that fits the output schema asked for.
#[derive(Debug)]
pub struct OpenAiServer {
    hosted: Hosted,
    shared: Arc<Shared>,
}

/// One request and its outcome.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// For example `/v1/responses`.
    pub path: String,
    /// The request's body; null if it was not JSON.
    pub request: Value,
    /// Whether a key came along.
    pub has_key: bool,
    /// The headers, their names in lower case.
    pub headers: HashMap<String, String>,
    /// The status answered; absent while the server waits.
    pub status: Option<u16>,
    /// When it came, counted from the start of the server.
    pub started: Duration,
    /// When it was over, in the same count; absent until then.
    pub ended: Option<Duration>,
    /// Whether the client went away before its answer was whole.
    pub client_gone: bool,
    /// What it was answered with, or would have been: tokens of the prompt and of the answer; none for what was planned.
    pub tokens: Option<(u64, u64)>,
}

/// An answer that is given to any request; see [`OpenAiServer::answer_next`].
#[derive(Clone, Debug)]
pub struct PlannedAnswer {
    /// The status.
    pub status: u16,
    /// Headers, `content-type` among them.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// Whether the connection is dropped after the body, so that it looks cut off.
    pub cut: bool,
}

impl PlannedAnswer {
    /// A stream of events, given as the body's text.
    pub fn events(body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
        Self { status: 200, headers, body: body.into(), cut: false }
    }

    /// A whole answer.
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { status, headers, body: body.to_string().into(), cut: false }
    }

    /// The same with another header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, the connection dropped after the body.
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Record>,
    changed: watch::Sender<()>,
    begun: Instant,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Record {
    log: Vec<Exchange>,
    planned: VecDeque<Planned>,
    /// Calls seen for each key of `ERRORN`.
    keyed: HashMap<String, usize>,
    in_flight: usize,
    in_flight_max: usize,
    limit: Option<RateLimit>,
    token_limit: Option<TokenLimit>,
}

/// What is answered to any request.
#[derive(Clone, Debug)]
enum Planned {
    Answer(PlannedAnswer),
    /// An error of this status, with these headers and this message.
    Refusal(u16, Vec<(String, String)>, String),
}

impl Planned {
    fn refusal(status: u16, headers: &[(&str, &str)], message: &str) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::Refusal(status, headers, message.to_owned())
    }

    fn written(self, format: Format) -> PlannedAnswer {
        match self {
            Self::Answer(answer) => answer,
            Self::Refusal(status, headers, message) => {
                let answer = PlannedAnswer::json(status, &error_body(format, status, None, &message));
                headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
            }
        }
    }
}

/// So many requests in any time of this length; further ones are refused like this.
#[derive(Debug)]
struct RateLimit {
    most: usize,
    within: Duration,
    refusal: Planned,
    taken: VecDeque<Instant>,
}

impl RateLimit {
    fn refuses(&mut self, now: Instant) -> Option<Planned> {
        self.taken.retain(|taken| now.duration_since(*taken) < self.within);
        if self.taken.len() >= self.most {
            return Some(self.refusal.clone());
        }
        self.taken.push_back(now);
        None
    }
}

/// So many tokens in any time of this length; a request that would pass it is refused, with the time until it would not.
#[derive(Debug)]
struct TokenLimit {
    most: u64,
    within: Duration,
    taken: VecDeque<(Instant, u64)>,
}

impl TokenLimit {
    fn refuses(&mut self, tokens: u64, now: Instant) -> Option<Planned> {
        self.taken.retain(|(taken, _)| now.duration_since(*taken) < self.within);
        let mut excess = (self.taken.iter().map(|(_, tokens)| tokens).sum::<u64>() + tokens).saturating_sub(self.most);
        if excess == 0 {
            self.taken.push_back((now, tokens));
            return None;
        }
        let mut until = now;
        for (taken, tokens) in &self.taken {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(*tokens);
            until = *taken + self.within;
        }
        let wait = until.duration_since(now).as_millis().to_string();
        Some(Planned::refusal(429, &[("retry-after-ms", &wait)], "scripted limit of tokens"))
    }
}

impl OpenAiServer {
    /// A server at a free port of the loopback interface.
    pub async fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into()).expect("the loopback interface has a free port")
    }

    /// A server at this address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start_at(address: SocketAddr) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
            begun: Instant::now(),
            kept: Arc::default(),
        });
        let router = Router::new()
            .route("/v1/responses", post(responses))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/responses/{id}", get(kept))
            .route("/v1/responses/{id}/cancel", post(cancel))
            .route("/v1/messages", post(messages))
            .route("/v1beta/models/{call}", post(generate))
            .route("/openai/v1/chat/completions", post(chat))
            .route("/openai/deployments/{deployment}/chat/completions", post(chat))
            .route("/v1/models", get(models))
            .fallback(unknown)
            .layer(DefaultBodyLimit::disable())
            .with_state(shared.clone());
        Ok(Self { hosted: Hosted::start(address, router)?, shared })
    }

    /// The address to give to a client: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("{}/v1", self.root_url())
    }

    /// The address without a version, for clients that name it themselves.
    pub fn root_url(&self) -> String {
        format!("http://{}", self.hosted.address)
    }

    /// Whether the answer with this id, which went on in the background, was cancelled.
    pub fn is_cancelled(&self, response_id: &str) -> bool {
        self.shared.kept.is_cancelled(response_id)
    }

    /// Forgets the answers that go on in the background.
    pub fn forget_answers(&self) {
        self.shared.kept.forget();
    }

    /// Every request so far, in the order they came.
    pub fn log(&self) -> Vec<Exchange> {
        self.shared.lock().log.clone()
    }

    /// The most requests that were in progress at the same time.
    pub fn in_flight_max(&self) -> usize {
        self.shared.lock().in_flight_max
    }

    /// Forgets the log and what was planned.
    pub fn reset(&self) {
        let mut state = self.shared.lock();
        let in_flight = state.in_flight;
        *state = Record { in_flight, in_flight_max: in_flight, ..Record::default() };
    }

    /// Answers the next `times` requests with an error of this status.
    pub fn fail_next(&self, status: u16, headers: &[(&str, &str)], times: usize) {
        let answer = Planned::refusal(status, headers, &format!("scripted failure {status}"));
        self.shared.lock().planned.extend(std::iter::repeat_n(answer, times));
    }

    /// Takes at most this many requests in any time of this length. Others are answered 429 with these headers.
    pub fn limit(&self, most: usize, within: Duration, headers: &[(&str, &str)]) {
        let refusal = Planned::refusal(429, headers, "scripted limit");
        self.shared.lock().limit = Some(RateLimit { most, within, refusal, taken: VecDeque::new() });
    }

    /// Takes at most this many tokens, of prompts and answers, in any time of this length. Others are answered 429.
    pub fn limit_tokens(&self, most: u64, within: Duration) {
        self.shared.lock().token_limit = Some(TokenLimit { most, within, taken: VecDeque::new() });
    }

    /// Answers the next request like this.
    pub fn answer_next(&self, answer: PlannedAnswer) {
        self.shared.lock().planned.push_back(Planned::Answer(answer));
    }

    /// Waits until the log looks like this. Waits for ever if it never does: give it a deadline.
    pub async fn wait_until(&self, mut looks: impl FnMut(&[Exchange]) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !looks(&self.shared.lock().log) {
            changed.changed().await.expect("the server outlives the wait");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A request in work. Dropped before [`InWork::finished`], the client has gone.
struct InWork {
    shared: Arc<Shared>,
    at: usize,
    finished: bool,
}

impl InWork {
    fn begin(shared: Arc<Shared>, path: &str, headers: &HeaderMap, request: Value) -> Self {
        let mut state = shared.lock();
        state.log.push(Exchange {
            path: path.to_owned(),
            request,
            has_key: headers.contains_key(AUTHORIZATION),
            headers: headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            status: None,
            started: shared.begun.elapsed(),
            ended: None,
            client_gone: false,
            tokens: None,
        });
        state.in_flight += 1;
        state.in_flight_max = state.in_flight_max.max(state.in_flight);
        let at = state.log.len() - 1;
        drop(state);
        shared.changed.send_replace(());
        Self { shared, at, finished: false }
    }

    /// It takes so many tokens of prompt and answer: how it is refused, if that is too many.
    fn counts(&self, (prompt, answer): (usize, usize)) -> Option<Planned> {
        let tokens = (prompt as u64, answer as u64);
        let mut state = self.shared.lock();
        if let Some(exchange) = state.log.get_mut(self.at) {
            exchange.tokens = Some(tokens);
        }
        state.token_limit.as_mut()?.refuses(tokens.0 + tokens.1, Instant::now())
    }

    fn answered(&self, status: u16) {
        if let Some(exchange) = self.shared.lock().log.get_mut(self.at) {
            exchange.status = Some(status);
        }
        self.shared.changed.send_replace(());
    }

    fn finished(mut self) {
        self.finished = true;
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
        let ended = self.shared.begun.elapsed();
        if let Some(exchange) = state.log.get_mut(self.at) {
            exchange.ended = Some(ended);
            exchange.client_gone = !self.finished;
        }
        drop(state);
        self.shared.changed.send_replace(());
    }
}

async fn responses(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    answer(shared, Format::Responses, "/v1/responses", headers, body).await
}

/// An answer that goes on in the background: as it stands, or the rest of its stream.
async fn kept(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let work = InWork::begin(shared.clone(), &uri.to_string(), &headers, Value::Null);
    let planned = shared.lock().planned.pop_front();
    if let Some(planned) = planned {
        return give(work, planned.written(Format::Responses));
    }
    let Some(shown) = shared.kept.shown(&id) else {
        return refuse(work, Format::Responses, 404, None, &format!("Response with id '{id}' not found."));
    };
    let query: HashMap<_, _> =
        uri.query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.split_once('=')).collect();
    if query.get("stream") != Some(&"true") {
        return give(work, PlannedAnswer::json(200, &shown));
    }
    let after = query.get("starting_after").and_then(|number| number.parse::<usize>().ok());
    listen(work, &shared, &id, after.map_or(0, |number| number + 1), None)
}

async fn cancel(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response<Body> {
    let work = InWork::begin(shared.clone(), &uri.to_string(), &headers, Value::Null);
    match shared.kept.cancel(&id) {
        Some(shown) => give(work, PlannedAnswer::json(200, &shown)),
        None => refuse(work, Format::Responses, 404, None, &format!("Response with id '{id}' not found.")),
    }
}

/// The frames of an answer that is kept, as they come; at most so many before the connection is cut.
fn listen(work: InWork, shared: &Shared, id: &str, first: usize, cut: Option<usize>) -> Response<Body> {
    work.answered(200);
    let frames = shared.kept.clone().frames(id, first).take(cut.unwrap_or(usize::MAX)).map(Ok::<_, std::io::Error>);
    let end = stream::once(async move {
        // The connection writes what it has when it must wait, and throws it away when it fails.
        tokio::task::yield_now().await;
        work.finished();
        Err(std::io::Error::other("scripted end of the connection"))
    });
    // Without a cut, the end is one.
    let end = end.filter(move |_| futures::future::ready(cut.is_some()));
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream; charset=utf-8");
    response.body(Body::from_stream(frames.chain(end))).expect("the headers are legal")
}

async fn chat(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    answer(shared, Format::Chat, &uri.to_string(), headers, body).await
}

async fn messages(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    answer(shared, Format::Anthropic, "/v1/messages", headers, body).await
}

async fn generate(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    answer(shared, Format::Gemini, &uri.to_string(), headers, body).await
}

async fn models() -> Response<Body> {
    let model = json!({"id": "gpt-5.2", "object": "model", "created": 0, "owned_by": "test"});
    plain(200, &json!({"object": "list", "data": [model]}))
}

async fn unknown() -> Response<Body> {
    plain(404, &error_body(Format::Chat, 404, None, "no such route"))
}

async fn answer(shared: Arc<Shared>, format: Format, path: &str, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    let work = InWork::begin(shared.clone(), path, &headers, request.clone());
    let planned = {
        let mut state = shared.lock();
        let planned = state.planned.pop_front();
        planned.or_else(|| state.limit.as_mut()?.refuses(Instant::now()))
    };
    if let Some(planned) = planned {
        return give(work, planned.written(format));
    }
    let request = match understood(format, path, &headers, request) {
        Ok(request) => request,
        Err(problem) => return refuse(work, format, 400, None, &problem),
    };
    let conversation = Conversation::read(&request);
    let chunks = conversation.directive("CHUNKS").and_then(|count| count.parse().ok()).unwrap_or(6);
    let refusal = conversation.directive("REFUSE");
    let decision = refusal.map_or_else(|| conversation.decide(), |word| Decision::Text(word.to_owned()));
    let number = fingerprint(&request.to_string()) % 100_000_000;
    let thought = conversation.directive("THINK").filter(|_| !conversation.has_results());
    let is_refusal = refusal.is_some();
    let draft = Draft { request: &request, decision: &decision, number, chunks, thought, is_refusal };
    if let Some(refusal) = work.counts(draft.tokens()) {
        return give(work, refusal.written(format));
    }
    pause(seconds(&conversation, "DELAY")).await;
    if let Some((status, code)) = scripted_error(&shared, &conversation) {
        return refuse(work, format, status, code.as_deref(), &format!("scripted failure {status}"));
    }
    if let Some(answer) = quirk(&shared, &conversation).and_then(|quirk| quirk.speak(&draft, format)) {
        return give(work, answer);
    }
    let written = draft.write(format);
    if format == Format::Responses && request["background"] == true {
        let (id, delay) = (text(&written.whole["id"]), seconds(&conversation, "CHUNKDELAY"));
        shared.kept.keep(&id, written.frames, written.whole, delay);
        let cut = conversation.directive("CUT").and_then(|count| count.parse().ok());
        return listen(work, &shared, &id, 0, cut);
    }
    let (cut, garbage) = (conversation.says("CUT"), conversation.says("GARBAGE"));
    if request["stream"] == true {
        let mut frames = written.frames;
        let early = frames.len().saturating_sub(2).min(5);
        if conversation.says("STREAMERR") {
            frames.truncate(early);
            frames.push(error_frame(format));
        } else if garbage {
            frames.truncate(early);
            frames.push("data: {\"type\": \"respon".to_owned());
        } else if cut {
            frames.truncate(early);
        }
        return events(work, frames, seconds(&conversation, "CHUNKDELAY"), cut);
    }
    let mut planned = PlannedAnswer::json(200, &written.whole);
    if garbage {
        planned.body = b"<html>scripted garbage</html>".to_vec();
    } else if cut {
        planned.body.truncate(planned.body.len() / 2);
        planned.cut = true;
    }
    give(work, planned)
}

fn scripted_error(shared: &Shared, conversation: &Conversation) -> Option<(u16, Option<String>)> {
    if let Some(error) = conversation.directive("ERROR") {
        let (status, code) = error.split_once(':').map_or((error, None), |(status, code)| (status, Some(code)));
        return Some((status.parse().ok()?, code.map(str::to_owned)));
    }
    let mut parts = conversation.directive("ERRORN")?.splitn(3, ':');
    let (status, times, key) = (parts.next()?.parse().ok()?, parts.next()?.parse::<usize>().ok()?, parts.next()?);
    let mut state = shared.lock();
    let seen = state.keyed.entry(key.to_owned()).or_default();
    *seen += 1;
    (*seen <= times).then_some((status, None))
}

/// A request that a server of this format accepts, as Chat Completions or Responses would write it.
fn understood(format: Format, path: &str, headers: &HeaderMap, request: Value) -> Result<Value, String> {
    match format {
        Format::Responses | Format::Chat => {
            let field = if format == Format::Responses { "input" } else { "messages" };
            let is_whole = request["model"].is_string() && request.get(field).is_some();
            if !is_whole || !request["previous_response_id"].is_null() {
                return Err(format!("the body needs model and {field}, and must not build on a stored response"));
            }
            Ok(request)
        }
        Format::Anthropic if !headers.contains_key("anthropic-version") => {
            Err("anthropic-version: header is required".to_owned())
        }
        Format::Anthropic => requests::of_anthropic(&request),
        Format::Gemini => {
            let call = path.rsplit('/').next().unwrap_or_default();
            let (model, method) = call.split_once(':').unwrap_or_default();
            requests::of_gemini(&request, model, method == "streamGenerateContent?alt=sse")
        }
    }
}

/// The quirk asked for, in a turn of its own.
fn quirk(shared: &Shared, conversation: &Conversation) -> Option<Quirk> {
    let named = conversation.directive("QUIRK").filter(|_| !conversation.has_results())?;
    let (name, times) = named.split_once(':').map_or((named, None), |(name, times)| (name, times.parse().ok()));
    let mut state = shared.lock();
    let seen = state.keyed.entry(format!("quirk {name}")).or_default();
    *seen += 1;
    Quirk::parse(name).filter(|_| times.is_none_or(|times: usize| *seen <= times))
}

fn refuse(work: InWork, format: Format, status: u16, code: Option<&str>, message: &str) -> Response<Body> {
    let mut answer = PlannedAnswer::json(status, &error_body(format, status, code, message));
    if status == 429 || status >= 500 {
        answer = answer.header("retry-after-ms", "10");
    }
    give(work, answer)
}

fn plain(status: u16, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a header value"));
    response
}

fn give(work: InWork, planned: PlannedAnswer) -> Response<Body> {
    work.answered(planned.status);
    let end = if planned.cut { End::Cut } else { End::Whole };
    let mut response = Response::builder().status(planned.status);
    for (name, value) in &planned.headers {
        response = response.header(name, value);
    }
    let pieces = vec![Bytes::from(planned.body)];
    response.body(body(work, pieces, Duration::ZERO, end)).expect("the planned headers are legal")
}

fn events(work: InWork, frames: Vec<String>, chunk_delay: Duration, cut: bool) -> Response<Body> {
    work.answered(200);
    let pieces = frames.into_iter().map(|frame| Bytes::from(frame + "\n\n")).collect();
    let end = if cut { End::Cut } else { End::Whole };
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream; charset=utf-8");
    response.body(body(work, pieces, chunk_delay, end)).expect("the headers are legal")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

/// A body in pieces, with a wait before each that holds text.
fn body(work: InWork, pieces: Vec<Bytes>, chunk_delay: Duration, end: End) -> Body {
    let pieces = stream::unfold((pieces.into_iter(), work), move |(mut pieces, work)| async move {
        let Some(piece) = pieces.next() else {
            work.finished();
            return None;
        };
        let is_news = |part: &[u8]| part.starts_with(b"\"delta\"") || part.starts_with(b"\"candidates\"");
        if (0..piece.len()).any(|at| is_news(&piece[at..])) {
            pause(chunk_delay).await;
        }
        Some((Ok(piece), (pieces, work)))
    });
    let cut = stream::iter((end == End::Cut).then_some(())).then(|()| async {
        // The connection writes what it has when it must wait, and throws it away when it fails.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("scripted end of the connection"))
    });
    Body::from_stream(pieces.chain(cut))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn seconds(conversation: &Conversation, name: &str) -> Duration {
    let seconds = conversation.directive(name).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

async fn pause(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}
