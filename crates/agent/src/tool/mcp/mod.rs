//! `MCPTools`: the tools of an MCP server, over stdio or streamable HTTP, as tools of an agent.
//!
//! ```text
//! an agent begins ──► list ──► bounded, hashed, recorded ──► offered, also after a crash
//! a call ──► the session of this process with the server ──► opened again, once, where it was lost
//!              │ one for all agents; closed when idle, and when nobody has its tools any more
//!              └─ dropped or past its limit: notifications/cancelled
//! ```
//! It must never know an agent or a log. The invariants: what a server says is bounded before it is believed; a call that
//! may have reached a server is not sent twice from here; nothing of the environment reaches a server unless it is named.

mod content;
mod http;
mod listing;
mod server;
mod stdio;

use super::request::{allowed, header_map, variables};
use super::{IntoTools, ListedTool, Listing, Tool, ToolContext, ToolError, ToolFunction, ToolSource};
use crate::outbound::{Outbound, Url};
use outlive_core::port::BoxFuture;
use outlive_core::{Failure, FailureKind, Secret, ToolEffect, ToolSpec};
use serde_json::{Value, json};
use server::{Server, Way};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a call may take, unless it is said.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How long a session that nobody uses stays open, unless it is said.
const IDLE: Duration = Duration::from_secs(300);

/// The tools of an MCP server. When an agent that has them begins, the server is asked for its list, which is recorded:
/// whichever process continues, the model is offered the same tools. One that is gone by then fails when it is called, and
/// the model is told.
///
/// What a repetition of a call does, a server says with its hints: a read-only tool is [`ToolEffect::Read`], an idempotent
/// one [`ToolEffect::Idempotent`], and any other [`ToolEffect::Once`]: if its process dies during a call, a person is
/// asked. Where you know better, say so with [`MCPTools::effect`] or [`MCPTools::tool_effect`]: hints are what the server
/// claims.
///
/// All agents of a process share one session with a server. It is opened for the first listing, opened again when it is
/// lost, and closed when nobody has used it for five minutes.
///
/// ```
/// use outlive_agent::tool::MCPTools;
/// use outlive_core::ToolEffect;
///
/// // A program of this machine.
/// let time = MCPTools::stdio(["mcp-server-time", "--local-timezone", "Europe/Amsterdam"]).include_tools(["convert_time"]);
/// // A server; its key is read from the environment when it is asked.
/// let tracker = MCPTools::http("https://tracker.example/mcp")
///     .header("Authorization", "Bearer ${env:TRACKER_TOKEN}")
///     .tool_name_prefix("tracker")
///     .tool_effect("search", ToolEffect::Read);
/// # let _ = (time, tracker);
/// ```
#[derive(Clone, Debug)]
pub struct MCPTools {
    name: Option<String>,
    way: Way,
    include: Vec<String>,
    exclude: Vec<String>,
    prefix: Option<String>,
    timeout: Option<Duration>,
    idle: Duration,
    effect: Option<ToolEffect>,
    effects: BTreeMap<String, ToolEffect>,
    confirm: Vec<String>,
    four_eyes: Vec<String>,
}

impl MCPTools {
    /// Of a server that is a program of this machine, which is started with these words, without a shell, in a process
    /// group of its own, and speaks MCP on its standard input and output. Agno's `command`.
    pub fn stdio<T: Into<String>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self::new(Way::Stdio { argv: argv.into_iter().map(Into::into).collect(), env: Vec::new() })
    }

    /// Of a server at this address, over streamable HTTP. Agno's `url`.
    pub fn http(url: impl Into<String>) -> Self {
        Self::new(Way::Http { url: url.into(), headers: Vec::new(), outbound: Outbound::default() })
    }

    fn new(way: Way) -> Self {
        Self {
            name: None,
            way,
            include: Vec::new(),
            exclude: Vec::new(),
            prefix: None,
            timeout: Some(TIMEOUT),
            idle: IDLE,
            effect: None,
            effects: BTreeMap::new(),
            confirm: Vec::new(),
            four_eyes: Vec::new(),
        }
    }

    /// What people call the server, in errors and in the log; unless set, its command or its host. No two servers of an
    /// agent may have one name, and a run that has begun knows them by it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Environment variables that a program is given besides `PATH`, `HOME` and the like. Their values are kept as secret
    /// as keys.
    #[must_use]
    pub fn env<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        if let Way::Stdio { env, .. } = &mut self.way {
            env.extend(names.into_iter().map(Into::into));
        }
        self
    }

    /// Adds a header to all requests; `${env:NAME}` in it stands for an environment variable, read when the session is
    /// opened. Its value is kept as secret as a key.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        if let Way::Http { headers, .. } = &mut self.way {
            headers.push((name.into(), value.into()));
        }
        self
    }

    /// Which addresses may be asked; unless set, those that [`Outbound::default`] allows.
    #[must_use]
    pub fn outbound(mut self, allowed: Outbound) -> Self {
        if let Way::Http { outbound, .. } = &mut self.way {
            *outbound = allowed;
        }
        self
    }

    /// Takes only these tools of it, by the names that the server has for them.
    #[must_use]
    pub fn include_tools<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.include.extend(names.into_iter().map(Into::into));
        self
    }

    /// Leaves these tools out.
    #[must_use]
    pub fn exclude_tools<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.exclude.extend(names.into_iter().map(Into::into));
        self
    }

    /// Puts this and `_` before the names that the model sees.
    #[must_use]
    pub fn tool_name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How long one call may take: 60 seconds unless set, no limit with `None`. Agno's `timeout_seconds`.
    #[must_use]
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.timeout = limit.into();
        self
    }

    /// How long the session stays open while nobody uses it; five minutes unless set.
    #[must_use]
    pub fn idle_timeout(mut self, longest: Duration) -> Self {
        self.idle = longest;
        self
    }

    /// What a repetition of a call does, for all tools, whatever the server says.
    #[must_use]
    pub fn effect(mut self, effect: ToolEffect) -> Self {
        self.effect = Some(effect);
        self
    }

    /// The same for one tool, by the name that the server has for it; it comes before [`MCPTools::effect`].
    #[must_use]
    pub fn tool_effect(mut self, tool: impl Into<String>, effect: ToolEffect) -> Self {
        self.effects.insert(tool.into(), effect);
        self
    }

    /// A person must allow each call of these tools; see [`Tool::requires_confirmation`]. Agno's
    /// `requires_confirmation_tools`.
    #[must_use]
    pub fn requires_confirmation_tools<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.confirm.extend(names.into_iter().map(Into::into));
        self
    }

    /// Whoever submitted the run must not answer what is asked about calls of these tools; see [`Tool::four_eyes`].
    #[must_use]
    pub fn four_eyes_tools<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.four_eyes.extend(names.into_iter().map(Into::into));
        self
    }

    /// Closes all sessions of this process, and waits until the programs that it has started have ended, two or three
    /// seconds at most. For the end of a process: whoever needs a server after that opens a session again.
    pub async fn close_sessions() {
        Server::close_all().await;
    }

    /// What would make every run of an agent with these tools fail.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match &self.way {
            Way::Stdio { argv, env } => {
                if argv.first().is_none_or(String::is_empty) {
                    problems.push("its command is empty: name a program".to_owned());
                }
                let missing = env.iter().filter(|name| std::env::var_os(name).is_none());
                problems.extend(missing.map(|name| format!("it needs {name}, which is not set")));
            }
            Way::Http { url, headers, outbound } => {
                problems.extend(header_map(headers).err().unwrap_or_default());
                problems.extend(address(url, outbound).err());
            }
        }
        let both = self.include.iter().filter(|name| self.exclude.contains(name));
        problems.extend(both.map(|name| format!("its tool {name:?} is both included and excluded: leave one out")));
        problems
    }

    /// What people call it, where it was given no name.
    fn usual_name(&self) -> String {
        match &self.way {
            Way::Stdio { argv, .. } => argv.join(" ").chars().take(80).collect(),
            Way::Http { url, .. } => {
                let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
                host.unwrap_or_else(|| "no address".to_owned())
            }
        }
    }
}

/// The address of a server, if it may be asked.
fn address(url: &str, outbound: &Outbound) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("its address is not valid: {error}"))?;
    allowed(outbound, url)
}

impl IntoTools for MCPTools {
    /// One that stands for all tools of the server: which those are is asked when an agent begins.
    fn into_tools(self) -> Vec<Tool> {
        let name = self.name.clone().unwrap_or_else(|| self.usual_name());
        let spec = ToolSpec {
            description: format!("The tools of the MCP server {name:?}, which it lists when a run begins."),
            name: name.clone(),
            parameters: json!({ "type": "object", "properties": {} }),
        };
        let server = Server::shared(&name, &self.way, self.idle);
        vec![Tool::of_source(Arc::new(Source { name, spec, server, given: Arc::new(self), effects: Mutex::default() }))]
    }
}

/// A server as an agent has it.
struct Source {
    name: String,
    spec: ToolSpec,
    server: Arc<Server>,
    given: Arc<MCPTools>,
    /// Of the tools that were offered so far, by the names that models see.
    effects: Mutex<BTreeMap<String, ToolEffect>>,
}

impl ToolFunction for Source {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn problems(&self) -> Vec<String> {
        self.given.problems()
    }

    fn secrets(&self) -> Vec<Secret> {
        let value = |name: &str| std::env::var(name).ok().map(Secret::new);
        match &self.given.way {
            Way::Stdio { env, .. } => env.iter().filter_map(|name| value(name)).collect(),
            Way::Http { headers, .. } => {
                headers.iter().flat_map(|(_, text)| variables(text)).filter_map(value).collect()
            }
        }
    }

    fn call(&self, _arguments: Value, _context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        let message = format!("{:?} is a server of tools: call one of those that it lists", self.name);
        Box::pin(async move { Err(ToolError::Failed(Failure::new(FailureKind::Definition, message))) })
    }
}

impl ToolSource for Source {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, Failure>> {
        Box::pin(async move {
            let listed = self.server.list().await?;
            listing::listing(&self.name, listed, &self.given)
        })
    }

    fn tool(&self, listed: &ListedTool) -> Tool {
        let MCPTools { effect, effects, timeout, confirm, four_eyes, .. } = &*self.given;
        let function = McpTool { spec: listed.spec(), calls: listed.name.clone(), server: self.server.clone() };
        let effect = effects.get(&listed.name).or(effect.as_ref()).copied().unwrap_or(listed.effect);
        self.effects().insert(function.spec.name.clone(), effect);
        let tool = Tool::from_function(function).effect(effect).timeout(*timeout);
        let tool = if four_eyes.contains(&listed.name) { tool.four_eyes() } else { tool };
        if confirm.contains(&listed.name) { tool.requires_confirmation() } else { tool }
    }

    fn effect(&self, tool: &str) -> Option<ToolEffect> {
        self.effects().get(tool).copied()
    }
}

impl Source {
    fn effects(&self) -> MutexGuard<'_, BTreeMap<String, ToolEffect>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One tool of a server.
struct McpTool {
    spec: ToolSpec,
    /// What the server calls it.
    calls: String,
    server: Arc<Server>,
}

impl ToolFunction for McpTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, arguments: Value, context: ToolContext) -> BoxFuture<'_, Result<String, ToolError>> {
        Box::pin(async move {
            let arguments = match arguments {
                Value::Object(fields) => fields,
                Value::Null => serde_json::Map::new(),
                _ => return Err(ToolError::Arguments("give an object".to_owned())),
            };
            self.server.call(&self.calls, arguments, context).await
        })
    }
}

/// The names of tools, for a message.
fn names<'a>(tools: impl Iterator<Item = &'a str>) -> String {
    let names: BTreeSet<_> = tools.collect();
    if names.is_empty() { "none".to_owned() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}
