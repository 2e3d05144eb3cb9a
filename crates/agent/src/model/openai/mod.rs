//! OpenAI's two endpoints, Responses and Chat Completions, and the many servers that speak like one of them.
//!
//! This module owns the settings. What the bytes mean is the business of [`responses`] and [`chat`]; how they are sent
//! and read, and what failures mean, is that of [`super::wire`]. It never relies on a conversation stored at the
//! provider. Addresses of images and files come from users: the provider is asked to fetch only what [`Outbound`]
//! allows.

mod chat;
mod responses;

use super::wire::{self, Collector, Connection, Credential, Dialect, Refusal};
use super::{Limit, Model, ModelStream, Rates};
use crate::outbound::Outbound;
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, ModelInfo, ModelRequest, ModelResponse, Secret};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

const OPENAI_URL: &str = "https://api.openai.com/v1";
/// Servers under this domain know the role `developer`; many others refuse it.
const OPENAI_DOMAIN: &str = "openai.com";
const OLLAMA_URL: &str = "http://127.0.0.1:11434";

/// A model behind OpenAI's Responses endpoint: `OpenAIResponses::new("gpt-5.2")`.
pub type OpenAIResponses = OpenAI<responses::Responses>;

/// A model behind OpenAI's Chat Completions endpoint, which most other servers speak too.
pub type OpenAIChat = OpenAI<chat::Chat>;

/// A model behind one of OpenAI's endpoints; use it as [`OpenAIResponses`] or [`OpenAIChat`].
///
/// The key comes from `OPENAI_API_KEY` and the address from `OPENAI_BASE_URL` (else OpenAI's own) unless set here; both
/// are looked up on every call. A key is needed whatever the address is; use `.api_key("")` for a server that needs
/// none, and none is sent. Instructions have the role `developer` where the server is OpenAI's and `system` elsewhere.
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
    connection: Connection,
    system_role: Option<&'static str>,
    reasoning_as_answer: bool,
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_output_tokens: Option<u64>,
    rates: Rates,
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

/// What distinguishes the endpoints.
pub trait Endpoint: Send + Sync + 'static {
    /// `Responses` or `Chat`.
    const NAME: &'static str;
    /// The prefix before the model's id in a model's name.
    const PREFIX: &'static str;
    /// The path below the base address.
    const PATH: &'static [&'static str];
    /// Assembles a streamed answer.
    type Collector: Collector;

    /// The request on the wire.
    fn body(settings: &Settings, request: &ModelRequest) -> Value;

    /// Reads a whole answer.
    fn answer(settings: &Settings, body: Value) -> Result<ModelResponse, Refusal>;

    /// A new collector for a streamed answer.
    fn collector(settings: &Settings) -> Self::Collector;
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
        let mut model = Self::new(id).api_key("").system_role();
        model.settings.provider = Provider::Ollama;
        model.settings.connection.base_variable = "OLLAMA_HOST";
        model.settings.connection.base_default = |host| ollama_url(host.unwrap_or(OLLAMA_URL));
        model
    }
}

impl<E: Endpoint> OpenAI<E> {
    /// The model with this id, for example `gpt-5.2`.
    pub fn new(id: impl Into<String>) -> Self {
        let connection = Connection {
            base_url: None,
            base_variable: "OPENAI_BASE_URL",
            base_default: |url| url.unwrap_or(OPENAI_URL).to_owned(),
            api_key: None,
            key_variable: Cow::Borrowed("OPENAI_API_KEY"),
            credential: Credential::Bearer,
            headers: Vec::new(),
            outbound: Outbound::default(),
            limits: wire::Limits::default(),
        };
        let settings = Settings {
            id: id.into().into(),
            provider: Provider::OpenAI,
            connection,
            system_role: None,
            reasoning_as_answer: false,
            temperature: None,
            top_p: None,
            max_output_tokens: None,
            rates: Rates::default(),
            reasoning_effort: None,
            parallel_tool_calls: None,
            parameters: Map::new(),
        };
        Self { settings, endpoint: PhantomData }
    }

    /// The address up to and including `/v1`.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.settings.connection.base_url = Some(url.into());
        self
    }

    /// The key; an empty one means that none is sent.
    pub fn api_key(mut self, key: impl Into<Secret>) -> Self {
        self.settings.connection.api_key = Some(key.into());
        self
    }

    /// The environment variable that holds the key, `OPENAI_API_KEY` unless set: for other providers' servers.
    pub fn api_key_variable(mut self, name: impl Into<String>) -> Self {
        self.settings.connection.key_variable = Cow::Owned(name.into());
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
    /// longer; see [`OpenAI::total_timeout`].
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

    /// Sends instructions with the role `system`, whatever the server is.
    pub fn system_role(mut self) -> Self {
        self.settings.system_role = Some("system");
        self
    }

    /// Sends instructions with the role `developer`, whatever the server is.
    pub fn developer_role(mut self) -> Self {
        self.settings.system_role = Some("developer");
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

    /// Any other field of the request body; replaces one of the same name.
    pub fn parameter(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.settings.parameters.insert(name.into(), value.into());
        self
    }
}

impl Settings {
    fn system_role(&self) -> &'static str {
        let usual = || if self.connection.is_at(OPENAI_DOMAIN) { "developer" } else { "system" };
        self.system_role.unwrap_or_else(usual)
    }
}

impl<E: Endpoint> Dialect for OpenAI<E> {
    type Collector = E::Collector;

    fn connection(&self) -> &Connection {
        &self.settings.connection
    }

    fn endpoint(&self) -> String {
        format!("{} {}", self.settings.provider.name(), E::NAME)
    }

    fn title(&self) -> String {
        format!("{}:{}", E::PREFIX, self.settings.id)
    }

    fn path(&self) -> &'static [&'static str] {
        E::PATH
    }

    fn body(&self, request: &ModelRequest) -> Value {
        E::body(&self.settings, request)
    }

    fn answer(&self, body: Value) -> Result<ModelResponse, Refusal> {
        E::answer(&self.settings, body)
    }

    fn collector(&self) -> E::Collector {
        E::collector(&self.settings)
    }

    fn settle(&self, mut answer: ModelResponse) -> ModelResponse {
        let is_silent = answer.content.as_ref().is_none_or(|text| text.trim().is_empty());
        if self.settings.reasoning_as_answer && is_silent && answer.tool_calls.is_empty() {
            answer.content = answer.reasoning_content.take().or(answer.content);
        }
        answer
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
        Dialect::endpoint(self)
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.settings.id.trim().is_empty() {
            problems.push(format!("the model id after {}: is empty", E::PREFIX));
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
        self.settings.max_output_tokens
    }

    fn limit(&self) -> Option<Limit> {
        let connection = &self.settings.connection;
        let key = connection.key();
        Some(Limit::new(&connection.base(), key.as_ref().map_or("", Secret::expose)))
    }

    fn respond(&self, request: ModelRequest) -> BoxFuture<'_, Result<ModelResponse, Failure>> {
        Box::pin(wire::respond(self, request))
    }

    fn stream(&self, request: ModelRequest) -> ModelStream<'_> {
        wire::stream(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{Message, Role};

    #[test]
    fn instructions_have_the_role_developer_where_the_server_is_openais() {
        let instructions = Message::new(Role::System, "Be brief.", "message".into(), 0);
        let request = ModelRequest { messages: vec![instructions].into(), ..ModelRequest::default() };
        let roles = |base: &str| {
            let chat = OpenAIChat::new("x").base_url(base).body(&request)["messages"][0]["role"].clone();
            let responses = OpenAIResponses::new("x").base_url(base).body(&request)["input"][0]["role"].clone();
            assert_eq!(chat, responses);
            chat
        };
        for base in [OPENAI_URL, "https://eu.api.openai.com/v1"] {
            assert_eq!(roles(base), "developer", "{base}");
        }
        for base in
            ["https://api.notopenai.com/v1", "https://openai.com.example/v1", "http://127.0.0.1:1/v1", "nonsense"]
        {
            assert_eq!(roles(base), "system", "{base}");
        }
        let forced = OpenAIChat::new("x").base_url(OPENAI_URL).system_role().body(&request);
        assert_eq!(forced["messages"][0]["role"], "system");
    }
}
