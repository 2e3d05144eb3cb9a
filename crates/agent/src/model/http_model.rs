//! A model behind HTTP: what is set about it, the same for every provider.
//!
//! This module owns the settings and the one implementation of [`Model`] over HTTP. What the bytes mean is the business
//! of an [`Endpoint`], who the providers are that of [`super::providers`]; how bytes are sent and read, and what failures
//! mean, is that of [`super::wire`]. Addresses of images and files come from users: the provider is asked to fetch only
//! what [`Outbound`] allows.

use super::profiles::ModelProfile;
use super::providers::Provider;
use super::wire::{self, Collector, Connection, Credential, Dialect, Refusal};
use super::{Limit, Model, ModelStream, Rates};
use crate::outbound::Outbound;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, ModelInfo, ModelRequest, ModelResponse, Secret};
use reqwest::Url;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// The name of the variable that stands for no key.
const NO_KEY: &str = "none";

/// A model behind HTTP; use it by the name of its endpoint: [`OpenAIResponses`](super::OpenAIResponses),
/// [`OpenAIChat`](super::OpenAIChat), [`Claude`](super::Claude) or [`Gemini`](super::Gemini).
///
/// Key and address come from the provider's own variables (`OPENAI_API_KEY` and `OPENAI_BASE_URL`, `ANTHROPIC_API_KEY`,
/// …) unless set here; both are looked up on every call. Where a provider needs a key, one is needed whatever the address
/// is; use `.api_key("")` for a server that needs none, and none is sent.
///
/// ```
/// use outlive_agent::model::{Model, OpenAIChat, OpenAIResponses};
///
/// let model = OpenAIResponses::new("gpt-5.2").reasoning_effort("low");
/// assert_eq!(model.endpoint(), "OpenAI Responses");
/// let local = OpenAIChat::new("qwen3").base_url("http://127.0.0.1:8080/v1").api_key("");
/// assert!(local.problems().is_empty());
/// ```
pub struct HttpModel<E> {
    pub(super) settings: Settings,
    endpoint: PhantomData<fn() -> E>,
}

/// What is set about a model.
#[derive(Clone)]
pub struct Settings {
    pub(super) id: Arc<str>,
    pub(super) provider: &'static Provider,
    pub(super) connection: Connection,
    pub(super) system_role: Option<&'static str>,
    pub(super) reasoning_as_answer: bool,
    pub(super) temperature: Option<f64>,
    pub(super) top_p: Option<f64>,
    pub(super) max_output_tokens: Option<u64>,
    pub(super) rates: Rates,
    pub(super) reasoning_effort: Option<String>,
    pub(super) thinking_budget: Option<u64>,
    pub(super) parallel_tool_calls: Option<bool>,
    pub(super) prompt_cache: bool,
    pub(super) schema_by_tool: bool,
    /// Answers go on at the provider while nobody listens.
    pub(super) background: bool,
    pub(super) parameters: Map<String, Value>,
}

/// What distinguishes the endpoints.
pub trait Endpoint: Send + Sync + 'static {
    /// What follows the provider's name in metrics: `Responses`, `Chat`.
    const NAME: &'static str;
    /// Assembles a streamed answer.
    type Collector: Collector;

    /// Whose it is unless another provider is named.
    fn provider() -> &'static Provider;

    /// Where a request goes, below this base address.
    ///
    /// # Errors
    /// When the base is not an address, in words that follow it.
    fn url(settings: &Settings, base: &str, is_streamed: bool) -> Result<Url, String>;

    /// The request on the wire.
    ///
    /// # Errors
    /// When it holds what this endpoint cannot take, in words.
    fn body(settings: &Settings, request: &ModelRequest) -> Result<Value, String>;

    /// Reads a whole answer.
    ///
    /// # Errors
    /// When it is not one.
    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal>;

    /// A new collector for a streamed answer.
    fn collector(settings: &Settings) -> Self::Collector;

    /// Where an answer that has begun is found again, below this base address; none where answers are not kept.
    ///
    /// # Errors
    /// When the base is not an address, in words that follow it.
    fn kept_at(settings: &Settings, base: &str, begun: &Value) -> Option<Result<Url, String>> {
        let _ = (settings, base, begun);
        None
    }

    /// Whether its provider pauses answers.
    const PAUSES: bool = false;

    /// Whether this answer is paused.
    fn is_paused(part: &ModelResponse) -> bool {
        let _ = part;
        false
    }

    /// Two parts of an answer as one.
    fn joined(before: ModelResponse, part: ModelResponse) -> ModelResponse {
        let _ = before;
        part
    }

    /// The most tokens of an answer, where they are not set but the endpoint wants a number.
    fn max_output_tokens(settings: &Settings) -> Option<u64> {
        settings.max_output_tokens
    }
}

impl<E> Clone for HttpModel<E> {
    fn clone(&self) -> Self {
        Self { settings: self.settings.clone(), endpoint: PhantomData }
    }
}

impl<E: Endpoint> fmt::Debug for HttpModel<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(E::NAME)
            .field("id", &self.settings.id)
            .field("provider", &self.settings.provider.title)
            .finish_non_exhaustive()
    }
}

impl<E: Endpoint> HttpModel<E> {
    /// The model with this id, for example `gpt-5.2`.
    pub fn new(id: impl Into<String>) -> Self {
        Self::of(E::provider(), id)
    }

    /// The model that this provider has under this id.
    pub(super) fn of(provider: &'static Provider, id: impl Into<String>) -> Self {
        let connection = Connection {
            home: provider.home,
            base_url: None,
            api_key: None,
            key_variable: None,
            credential: provider.key_header.map_or(Credential::Bearer, |name| Credential::Header(Cow::Borrowed(name))),
            headers: Vec::new(),
            outbound: Outbound::default(),
            limits: wire::Limits::default(),
        };
        let settings = Settings {
            id: id.into().into(),
            provider,
            connection,
            system_role: None,
            reasoning_as_answer: false,
            temperature: None,
            top_p: None,
            max_output_tokens: None,
            rates: Rates::default(),
            reasoning_effort: None,
            thinking_budget: None,
            parallel_tool_calls: None,
            prompt_cache: true,
            schema_by_tool: false,
            background: false,
            parameters: Map::new(),
        };
        Self { settings, endpoint: PhantomData }
    }

    /// The same, with what a profile says about it besides its name.
    pub(super) fn with(mut self, profile: &ModelProfile) -> Self {
        let settings = &mut self.settings;
        let connection = &mut settings.connection;
        connection.base_url = profile.base_url.clone().or(connection.base_url.take());
        match profile.api_key_variable.as_deref() {
            Some(NO_KEY) => connection.api_key = Some("".into()),
            Some(name) => connection.key_variable = Some(name.to_owned()),
            None => {}
        }
        // A time that is none was refused when the profile was read.
        connection.limits.wait = profile.timeout().ok().flatten().unwrap_or(connection.limits.wait);
        settings.temperature = profile.temperature;
        settings.top_p = profile.top_p;
        settings.max_output_tokens = profile.max_output_tokens;
        settings.reasoning_effort.clone_from(&profile.reasoning_effort);
        settings.thinking_budget = profile.thinking_budget;
        (settings.rates.requests, settings.rates.tokens) = (profile.requests_per_minute, profile.tokens_per_minute);
        settings.parameters.extend(profile.parameters.clone());
        settings.background = profile.background;
        self
    }

    /// The address of the server; up to and including `/v1` for those that speak OpenAI's format.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.connection.base_url = Some(url.into());
        self
    }

    /// The key; an empty one means that none is sent.
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.settings.connection.api_key = Some(key.into());
        self
    }

    /// The environment variable that holds the key, the provider's own unless set.
    pub fn api_key_variable(mut self, name: impl Into<String>) -> Self {
        self.settings.connection.key_variable = Some(name.into());
        self
    }

    /// Sends the key alone in this header instead of as `Authorization: Bearer`. Azure wants `api-key`.
    pub fn api_key_header(mut self, name: impl Into<String>) -> Self {
        self.settings.connection.credential = Credential::Header(Cow::Owned(name.into()));
        self
    }

    /// Adds a header to every request; replaces one of the same name. Its value is kept as secret as the key.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Secret>) -> Self {
        let name = name.into();
        self.settings.connection.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.settings.connection.headers.push((name, value.into()));
        self
    }

    /// Which addresses of images and files the provider may be asked to fetch; unless set, those that
    /// [`Outbound::default`] allows.
    pub fn outbound(mut self, outbound: Outbound) -> Self {
        self.settings.connection.outbound = outbound;
        self
    }

    /// How long to wait for the model, 10 minutes unless set: for the whole answer, or for the first token of a
    /// streamed one, and for the next while the server sends only keep-alives. An answer that keeps coming may take
    /// longer; see [`HttpModel::total_timeout`].
    pub fn timeout(mut self, longest: Duration) -> Self {
        self.settings.connection.limits.wait = longest;
        self
    }

    /// The longest silence within a streamed answer, 5 minutes unless set.
    pub fn idle_timeout(mut self, longest: Duration) -> Self {
        self.settings.connection.limits.idle = longest;
        self
    }

    /// The longest an answer may take from beginning to end, even while it keeps coming; no limit unless set.
    pub fn total_timeout(mut self, longest: Duration) -> Self {
        self.settings.connection.limits.total = Some(longest);
        self
    }

    /// Takes the reasoning as the answer when a model writes nothing else; unless set, such an answer is an error that
    /// shows the reasoning.
    pub fn reasoning_as_answer(mut self) -> Self {
        self.settings.reasoning_as_answer = true;
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

    /// Requests in a minute, at most: further ones wait. Counted over the minute before each call, for all calls with the
    /// same address, key and model together: those of the process, and of all processes whose runs are in one database.
    pub fn requests_per_minute(mut self, most: u64) -> Self {
        self.settings.rates.requests = Some(most);
        self
    }

    /// Tokens in a minute, at most, counted likewise: a call counts with the tokens that it may use, and once it is
    /// answered with those it did use.
    pub fn tokens_per_minute(mut self, most: u64) -> Self {
        self.settings.rates.tokens = Some(most);
        self
    }

    /// The time over which requests and tokens are counted, where a server does not count by the minute.
    pub fn rate_window(mut self, window: Duration) -> Self {
        self.settings.rates.window = window.max(Duration::from_millis(100));
        self
    }

    /// How long a reasoning model thinks: `minimal`, `low`, `medium`, `high`, or whatever else the model knows.
    pub fn reasoning_effort(mut self, effort: impl Into<String>) -> Self {
        self.settings.reasoning_effort = Some(effort.into());
        self
    }

    /// Whether the model may ask for several tools in one turn; the server decides unless set.
    pub fn parallel_tool_calls(mut self, allowed: bool) -> Self {
        self.settings.parallel_tool_calls = Some(allowed);
        self
    }

    /// Any other field of the request body. It replaces one of the same name; the fields of an object are added to it.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.settings.parameters.insert(name.into(), value.into());
        self
    }
}

fn merge(known: &mut Value, new: &Value) {
    match (known, new) {
        (Value::Object(known), Value::Object(new)) => {
            new.iter().for_each(|(name, value)| merge(known.entry(name).or_insert(Value::Null), value));
        }
        (known, new) => known.clone_from(new),
    }
}

impl<E: Endpoint> Dialect for HttpModel<E> {
    type Collector = E::Collector;

    fn connection(&self) -> &Connection {
        &self.settings.connection
    }

    fn endpoint(&self) -> String {
        format!("{} {}", self.settings.provider.title, E::NAME)
    }

    fn title(&self) -> String {
        format!("{}:{}", self.settings.provider.name(), self.settings.id)
    }

    fn url(&self, base: &str, is_streamed: bool) -> Result<Url, String> {
        E::url(&self.settings, base, is_streamed)
    }

    fn body(&self, request: &ModelRequest) -> Result<Value, String> {
        let mut body = E::body(&self.settings, request)?;
        self.settings.parameters.iter().for_each(|(name, value)| merge(&mut body[name], value));
        Ok(body)
    }

    fn kept_at(&self, base: &str, begun: &Value) -> Option<Result<Url, String>> {
        E::kept_at(&self.settings, base, begun)
    }

    fn answer(&self, body: Value) -> Result<ModelResponse, Refusal> {
        E::answer(&self.settings, body)
    }

    fn collector(&self) -> E::Collector {
        E::collector(&self.settings)
    }

    fn is_paused(&self, part: &ModelResponse) -> bool {
        E::is_paused(part)
    }

    fn joined(&self, before: ModelResponse, part: ModelResponse) -> ModelResponse {
        E::joined(before, part)
    }

    fn settle(&self, mut answer: ModelResponse) -> ModelResponse {
        let is_silent = answer.content.as_ref().is_none_or(|text| text.trim().is_empty());
        if self.settings.reasoning_as_answer && is_silent && answer.tool_calls.is_empty() {
            answer.content = answer.reasoning_content.take().or(answer.content);
        }
        answer
    }
}

impl<E: Endpoint> Model for HttpModel<E> {
    fn info(&self) -> ModelInfo {
        let Settings { id, provider, .. } = &self.settings;
        ModelInfo { model: id.to_string(), model_provider: provider.title.to_owned() }
    }

    fn endpoint(&self) -> String {
        Dialect::endpoint(self)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.settings.id.trim().is_empty() {
            problems.push(format!("the model id after {}: is empty", self.settings.provider.name()));
        }
        problems.extend(wire::problems(self));
        problems
    }

    fn secrets(&self) -> Vec<Secret> {
        self.settings.connection.secrets()
    }

    fn rates(&self) -> Rates {
        self.settings.rates
    }

    fn max_output_tokens(&self) -> Option<u64> {
        E::max_output_tokens(&self.settings)
    }

    fn limit(&self) -> Option<Limit> {
        let connection = &self.settings.connection;
        let key = connection.key();
        Some(Limit::new(&connection.base(), key.as_ref().map_or("", Secret::expose)))
    }

    fn is_resumable(&self) -> bool {
        self.settings.background
    }

    fn resume(&self, request: ModelRequest, begun: Value) -> ModelStream<'_> {
        wire::resume(self, request, begun)
    }

    fn abandon(&self, begun: Value) -> BoxFuture<'static, ()> {
        let model = self.clone();
        Box::pin(async move { wire::abandon(&model, &begun).await })
    }

    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>> {
        if self.settings.background {
            // What goes on without a listener answers at once that it has begun.
            return Box::pin(wire::collected(wire::stream(self, request)));
        }
        if E::PAUSES {
            return Box::pin(wire::respond_whole(self, request));
        }
        Box::pin(wire::respond(self, request))
    }

    fn stream(&self, request: ModelRequest) -> ModelStream<'_> {
        if E::PAUSES { wire::stream_whole(self, request) } else { wire::stream(self, request) }
    }
}
