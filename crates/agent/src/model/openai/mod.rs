//! OpenAI's two endpoints, Responses and Chat Completions, and the many servers that speak like one of them.
//!
//! This module owns the connection: key, address, time limits, one request, one answer. What the bytes mean is the
//! business of [`responses`] and [`chat`]; what an error means that of [`failure`]. It never retries, it never relies
//! on a conversation stored at the provider, and the key appears in no error, log or debug text. Addresses of images and
//! files are the users': the provider is asked to fetch only what [`Outbound`] allows.
//!
//! ```text
//! ModelRequest --Endpoint::body--> JSON --HTTP--> JSON ------------Endpoint::answer--> ModelResponse
//!                                           \--> events --Collector::event, finish--/
//! ```

mod chat;
mod failure;
mod responses;

use super::{Model, ModelEvent, ModelStream};
use crate::http;
use crate::outbound::{NotAllowed, Outbound};
use eventsource_stream::{Event, EventStreamError, Eventsource};
use failure::{HttpAnswer, Wording};
use futures::stream::{self, BoxStream, StreamExt};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, Media, ModelDelta, ModelInfo, ModelRequest, ModelResponse, Secret};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Response, Url};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const OPENAI_URL: &str = "https://api.openai.com/v1";
const OLLAMA_URL: &str = "http://127.0.0.1:11434";
/// The longest answer that is kept, in bytes on the wire.
const ANSWER_LEN_MAX: usize = 64 << 20;
/// The longest error body that is read.
const ERROR_LEN_MAX: usize = 64 << 10;

/// A model behind OpenAI's Responses endpoint: `OpenAIResponses::new("gpt-5.2")`.
pub type OpenAIResponses = OpenAI<responses::Responses>;

/// A model behind OpenAI's Chat Completions endpoint, which most other servers speak too.
pub type OpenAIChat = OpenAI<chat::Chat>;

/// A model behind one of OpenAI's endpoints; use it as [`OpenAIResponses`] or [`OpenAIChat`].
///
/// The key comes from `OPENAI_API_KEY` and the address from `OPENAI_BASE_URL` (else OpenAI's own) unless set here; both
/// are looked up with every call. A key is needed whatever the address is; say `.api_key("")` for a server that wants
/// none, and none is sent.
///
/// ```
/// use outlive_agent::model::{Model, OpenAIChat, OpenAIResponses};
///
/// let model = OpenAIResponses::new("gpt-5.2").reasoning_effort("low");
/// assert_eq!(model.endpoint(), "OpenAI Responses");
/// let local = OpenAIChat::new("qwen3").base_url("http://127.0.0.1:8080/v1").api_key("");
/// assert!(local.problems().is_empty());
/// ```
pub struct OpenAI<E> {
    settings: Settings,
    endpoint: PhantomData<fn() -> E>,
}

/// What both endpoints share.
#[derive(Clone)]
pub struct Settings {
    id: Arc<str>,
    provider: Provider,
    base_url: Option<String>,
    api_key: Option<Secret>,
    outbound: Outbound,
    timeout: Duration,
    idle_timeout: Duration,
    system_role: &'static str,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u64>,
    reasoning_effort: Option<String>,
    parallel_tool_calls: Option<bool>,
    parameters: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Provider {
    OpenAI,
    Ollama,
}

impl Provider {
    fn name(self) -> &'static str {
        match self {
            Provider::OpenAI => "OpenAI",
            Provider::Ollama => "Ollama",
        }
    }
}

/// What tells the endpoints apart.
pub trait Endpoint: Send + Sync + 'static {
    /// `Responses` or `Chat`.
    const NAME: &'static str;
    /// What stands before the model's id where a model is named by a string.
    const PREFIX: &'static str;
    /// Below the base address.
    const PATH: &'static [&'static str];
    /// Puts a streamed answer together.
    type Collector: Collector;

    /// The request on the wire.
    fn body(settings: &Settings, request: &ModelRequest) -> Value;

    /// The meaning of a whole answer.
    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal>;
}

/// Puts a streamed answer together.
pub trait Collector: Default + Send {
    /// Takes one event in and says what is new. `[DONE]` does not come here.
    fn event(&mut self, event: Value) -> Result<Vec<ModelDelta>, Refusal>;

    /// Whether nothing more is needed. The rest of the stream is not read.
    fn is_complete(&self) -> bool;

    /// The whole answer once the stream has ended; `None` when it ended too early. `done` tells whether the server said
    /// that it has no more to say.
    fn finish(self, settings: &Settings, done: bool) -> Option<Result<ModelResponse, Refusal>>;
}

/// Why an answer with a good HTTP status is none.
#[derive(Debug)]
pub enum Refusal {
    /// The server says so: an error object.
    Error(Value),
    /// It cannot be understood.
    Garbage(String),
}

impl<E> Clone for OpenAI<E> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), endpoint: PhantomData }
    }
}

impl<E: Endpoint> fmt::Debug for OpenAI<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(E::NAME)
            .field("id", &self.settings.id)
            .field("provider", &self.settings.provider.name())
            .finish_non_exhaustive()
    }
}

impl OpenAIChat {
    /// A model that Ollama serves, at `OLLAMA_HOST` or else on this machine. Needs no key.
    pub fn ollama(id: impl Into<String>) -> Self {
        let mut model = Self::new(id).api_key("");
        model.settings.provider = Provider::Ollama;
        // Ollama hands roles to the model's own template, and few of those know `developer`.
        model.settings.system_role = "system";
        model
    }
}

impl<E: Endpoint> OpenAI<E> {
    /// The model with this id, for example `gpt-5.2`.
    pub fn new(id: impl Into<String>) -> Self {
        let settings = Settings {
            id: id.into().into(),
            provider: Provider::OpenAI,
            base_url: None,
            api_key: None,
            outbound: Outbound::default(),
            timeout: Duration::from_secs(600),
            idle_timeout: Duration::from_secs(300),
            system_role: "developer",
            temperature: None,
            top_p: None,
            max_output_tokens: None,
            reasoning_effort: None,
            parallel_tool_calls: None,
            parameters: Map::new(),
        };
        Self { settings, endpoint: PhantomData }
    }

    /// The address up to and including `/v1`.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.base_url = Some(url.into());
        self
    }

    /// The key; an empty one means that none is sent.
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.settings.api_key = Some(key.into());
        self
    }

    /// Which addresses of images and files the provider may be asked to fetch; those that [`Outbound::default`] allows
    /// unless set.
    pub fn outbound(mut self, outbound: Outbound) -> Self {
        self.settings.outbound = outbound;
        self
    }

    /// The longest a whole answer may take, 10 minutes unless set.
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.settings.timeout = longest;
        self
    }

    /// The longest silence within a streamed answer, 5 minutes unless set.
    pub fn idle_timeout(mut self, longest: Duration) -> Self {
        self.settings.idle_timeout = longest;
        self
    }

    /// Sends instructions with the role `system` instead of `developer`, for servers that know only that.
    pub fn system_role(mut self) -> Self {
        self.settings.system_role = "system";
        self
    }

    /// How freely the model chooses its words, 0 to 2.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.settings.temperature = Some(temperature);
        self
    }

    /// The share of likely words the model chooses among, 0 to 1.
    pub fn top_p(mut self, share: f64) -> Self {
        self.settings.top_p = Some(share);
        self
    }

    /// The longest answer, in tokens, reasoning included.
    pub fn max_output_tokens(mut self, tokens: u64) -> Self {
        self.settings.max_output_tokens = Some(tokens);
        self
    }

    /// How long a reasoning model thinks: `minimal`, `low`, `medium`, `high`, or what else the model knows.
    pub fn reasoning_effort(mut self, effort: impl Into<String>) -> Self {
        self.settings.reasoning_effort = Some(effort.into());
        self
    }

    /// Whether the model may ask for several tools in one turn; the server decides unless set.
    pub fn parallel_tool_calls(mut self, allowed: bool) -> Self {
        self.settings.parallel_tool_calls = Some(allowed);
        self
    }

    /// Any other field of the request body; replaces one of the same name.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.settings.parameters.insert(name.into(), value.into());
        self
    }

    fn wording(&self) -> Wording {
        Wording { endpoint: self.endpoint(), key: self.settings.key() }
    }

    fn endpoint_url(&self) -> Result<Url, String> {
        let base = self.settings.base();
        http::join(&base, E::PATH).map_err(|problem| format!("the base URL of {} {problem}", self.endpoint()))
    }

    fn headers(&self, streamed: bool) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accepted = if streamed { "text/event-stream" } else { "application/json" };
        headers.insert(ACCEPT, HeaderValue::from_static(accepted));
        let key = self.settings.key().ok_or_else(|| Failure::new(FailureKind::Auth, self.missing_key()))?;
        if !key.is_empty() {
            let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
                .map_err(|_| Failure::new(FailureKind::Auth, self.unusable_key()))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        Ok(headers)
    }

    fn missing_key(&self) -> String {
        format!("model {}:{} needs OPENAI_API_KEY, which is not set", E::PREFIX, self.settings.id)
    }

    fn unusable_key(&self) -> String {
        format!("the API key of model {}:{} contains characters that no key has", E::PREFIX, self.settings.id)
    }

    /// Sends the request and waits for the head of a good answer.
    async fn send(&self, request: &ModelRequest) -> Result<Response, Failure> {
        let url = self.endpoint_url().map_err(|problem| Failure::new(FailureKind::BadRequest, problem))?;
        let headers = self.headers(request.stream)?;
        self.settings.check_media(request)?;
        let body = E::body(&self.settings, request).to_string();
        let client = http::client().map_err(|problem| Failure::new(FailureKind::Unavailable, problem))?;
        let wording = self.wording();
        let response = client
            .post(url.clone())
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(|error| wording.unreachable(&url, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // What matters of an error body is at its start; a broken or endless one still has its status.
        let body = http::read_body(response, ERROR_LEN_MAX).await.unwrap_or_default();
        Err(wording.refused(HttpAnswer { status, headers: &headers, body: &body }))
    }

    async fn whole_answer(&self, response: Response) -> Result<ModelResponse, Failure> {
        let wording = self.wording();
        let body = http::read_body(response, ANSWER_LEN_MAX).await.map_err(|error| wording.body(error))?;
        let body: Value = serde_json::from_slice(&body).map_err(|_| wording.garbage("an answer that is not JSON"))?;
        E::answer(&self.settings, body).map_err(|refusal| wording.refusal(refusal))
    }

    async fn ask(&self, mut request: ModelRequest) -> Result<ModelResponse, Failure> {
        request.stream = false;
        let started = Instant::now();
        let answer = async { self.whole_answer(self.send(&request).await?).await };
        let mut answer = timeout_at(started + self.settings.timeout, answer)
            .await
            .map_err(|_| self.wording().too_slow("has not answered within", self.settings.timeout))??;
        answer.duration = Some(started.elapsed().as_secs_f64());
        Ok(answer)
    }

    async fn open(&self, request: ModelRequest) -> Result<Reading<E>, Failure> {
        let started = Instant::now();
        let deadline = started + self.settings.timeout;
        let response = timeout_at(deadline, self.send(&request))
            .await
            .map_err(|_| self.wording().too_slow("has not answered within", self.settings.timeout))??;
        let mut reading = Reading {
            events: stream::empty().boxed(),
            collector: E::Collector::default(),
            ready: VecDeque::new(),
            over: false,
            started,
            deadline,
            first_token: None,
        };
        if is_event_stream(&response) {
            reading.events = events(response);
        } else {
            // A server that does not stream answers at once; the listener sees one big piece.
            let whole = timeout_at(deadline, self.whole_answer(response))
                .await
                .map_err(|_| self.wording().too_slow("has not answered within", self.settings.timeout))??;
            if let Some(text) = &whole.content {
                reading.told(ModelDelta::Content(text.clone()));
            }
            reading.complete(whole);
        }
        Ok(reading)
    }

    /// Reads on until there is something to tell or the answer is over.
    async fn advance(&self, reading: &mut Reading<E>) -> Result<(), Failure> {
        let quiet_until = Instant::now() + self.settings.idle_timeout;
        let event = timeout_at(quiet_until.min(reading.deadline), reading.events.next()).await.map_err(|_| {
            if quiet_until < reading.deadline {
                self.wording().too_slow("has been silent for", self.settings.idle_timeout)
            } else {
                self.wording().too_slow("has not ended its answer within", self.settings.timeout)
            }
        })?;
        let event = match event {
            Some(Ok(event)) if event.data.trim() != "[DONE]" => event,
            // After the final words a broken connection is no loss.
            end => return self.finish(reading, matches!(end, Some(Ok(_)))),
        };
        if event.data.trim().is_empty() {
            return Ok(());
        }
        let is_error = event.event == "error";
        let event =
            serde_json::from_str(&event.data).map_err(|_| self.wording().garbage("a stream event that is not JSON"))?;
        if is_error {
            return Err(self.wording().refusal(Refusal::Error(event)));
        }
        for delta in reading.collector.event(event).map_err(|refusal| self.wording().refusal(refusal))? {
            reading.told(delta);
        }
        if reading.collector.is_complete() { self.finish(reading, true) } else { Ok(()) }
    }

    fn finish(&self, reading: &mut Reading<E>, done: bool) -> Result<(), Failure> {
        let wording = self.wording();
        let whole = std::mem::take(&mut reading.collector)
            .finish(&self.settings, done)
            .ok_or_else(|| wording.cut_off())?
            .map_err(|refusal| wording.refusal(refusal))?;
        reading.complete(whole);
        Ok(())
    }
}

impl Settings {
    fn base(&self) -> String {
        let given = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
        match (&self.base_url, self.provider) {
            (Some(url), _) => url.clone(),
            (None, Provider::OpenAI) => given("OPENAI_BASE_URL").unwrap_or_else(|| OPENAI_URL.to_owned()),
            (None, Provider::Ollama) => ollama_url(given("OLLAMA_HOST").as_deref().unwrap_or(OLLAMA_URL)),
        }
    }

    fn key(&self) -> Option<Secret> {
        let environment = || std::env::var("OPENAI_API_KEY").ok().map(Secret::from).filter(|key| !key.is_empty());
        self.api_key.clone().or_else(environment)
    }

    /// Whether the provider may be asked to fetch what the conversation refers to.
    fn check_media(&self, request: &ModelRequest) -> Result<(), Failure> {
        let mut media = request.messages.iter().flat_map(|message| message.images.iter().chain(&message.files));
        media.try_for_each(|one| self.check_address(one)).map_err(|problem| {
            Failure::new(FailureKind::BadRequest, format!("an image or a file cannot be sent to the model: {problem}"))
        })
    }

    fn check_address(&self, media: &Media) -> Result<(), NotAllowed> {
        let Some(address) = &media.url else { return Ok(()) };
        let url = Url::parse(address).map_err(|_| NotAllowed::Unreadable)?;
        // The content itself, written as an address: nothing is fetched.
        if url.scheme() == "data" { Ok(()) } else { self.outbound.check(&url) }
    }
}

/// `OLLAMA_HOST` is an address, or a host with or without a port.
fn ollama_url(host: &str) -> String {
    let host = host.trim().trim_end_matches('/');
    let address = if host.contains("://") { host.to_owned() } else { format!("http://{host}") };
    let authority = address.split("://").nth(1).unwrap_or_default();
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
    let port = if has_port { "" } else { ":11434" };
    format!("{address}{port}/v1")
}

impl<E: Endpoint> Model for OpenAI<E> {
    fn info(&self) -> ModelInfo {
        ModelInfo { model: self.settings.id.to_string(), model_provider: self.settings.provider.name().to_owned() }
    }

    fn endpoint(&self) -> String {
        format!("{} {}", self.settings.provider.name(), E::NAME)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.settings.id.trim().is_empty() {
            problems.push(format!("the model id after {}: is empty", E::PREFIX));
        }
        match self.settings.key() {
            None => problems.push(self.missing_key()),
            Some(key) if HeaderValue::from_str(key.expose()).is_err() => problems.push(self.unusable_key()),
            Some(_) => {}
        }
        problems.extend(self.endpoint_url().err());
        problems
    }

    fn secrets(&self) -> Vec<Secret> {
        self.settings.key().into_iter().collect()
    }

    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>> {
        Box::pin(self.ask(request))
    }

    fn stream(&self, mut request: ModelRequest) -> ModelStream<'_> {
        request.stream = true;
        Box::pin(stream::try_unfold(Progress::Asking(Box::new(request)), move |progress| async move {
            let mut reading = match progress {
                Progress::Asking(request) => Box::new(self.open(*request).await?),
                Progress::Reading(reading) => reading,
            };
            while reading.ready.is_empty() && !reading.over {
                self.advance(&mut reading).await?;
            }
            Ok(reading.ready.pop_front().map(|event| (event, Progress::Reading(reading))))
        }))
    }
}

enum Progress<E: Endpoint> {
    Asking(Box<ModelRequest>),
    Reading(Box<Reading<E>>),
}

/// A streamed answer on its way.
struct Reading<E: Endpoint> {
    events: BoxStream<'static, Result<Event, ()>>,
    collector: E::Collector,
    /// Read but not yet passed on.
    ready: VecDeque<ModelEvent>,
    over: bool,
    started: Instant,
    deadline: Instant,
    first_token: Option<Duration>,
}

impl<E: Endpoint> Reading<E> {
    fn told(&mut self, delta: ModelDelta) {
        self.first_token.get_or_insert_with(|| self.started.elapsed());
        self.ready.push_back(ModelEvent::Delta(delta));
    }

    fn complete(&mut self, mut whole: ModelResponse) {
        whole.duration = Some(self.started.elapsed().as_secs_f64());
        whole.time_to_first_token = self.first_token.map(|wait| wait.as_secs_f64()).or(whole.duration);
        self.ready.push_back(ModelEvent::Done(Box::new(whole)));
        self.over = true;
    }
}

fn is_event_stream(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A server that names no type was asked for events and is taken at its word.
    !content_type.to_ascii_lowercase().contains("json")
}

/// The events of a body. An error is a broken connection, bytes that are no text, or far too many of them: all of them
/// mean that the answer was cut off.
fn events(response: Response) -> BoxStream<'static, Result<Event, ()>> {
    let mut left = ANSWER_LEN_MAX;
    let body = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(|_| ())?;
        left = left.checked_sub(chunk.len()).ok_or(())?;
        Ok(chunk)
    });
    body.eventsource().map(|event| event.map_err(|_: EventStreamError<()>| ())).boxed()
}
