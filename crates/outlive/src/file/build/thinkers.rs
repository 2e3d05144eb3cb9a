//! Models, tools, agents and teams: what a file names once and uses in many places.
//!
//! It must never know a workflow. The invariant: each is built once, and what is wrong with it is said once.

use super::super::fit::meant;
use super::super::mcp::McpProfile;
use super::super::syntax::{self, Document, Span};
use super::{At, Build, EFFECT_MISSING, INSIDE_MAX, Opened, Path, Settings, retry};
use crate::invalid::FileProblemKind;
use outlive_agent::model::{self, IntoModel, ModelProfile, ScriptedModel, SharedModel};
use outlive_agent::tool::{Call, CommandCall, HackerNewsTools, HttpCall, IntoTools, Tool, YFinanceTools, is_lacking};
use outlive_agent::{Agent, PiiGuardrail, PromptInjectionGuardrail, Team};
use outlive_core::port::Executor;
use outlive_core::{DefinitionId, Failure, FailureKind, ModelRequest, ToolEffect};
use serde_json::{Map, Value};

/// What agents and teams have in common.
macro_rules! thinker {
    ($build:ident, $thinker:expr, $said:ident, $path:expr) => {{
        let mut thinker = $thinker.instructions($said.instructions.all());
        if let Some(id) = &$said.id {
            $build.check_id(id, &$path[..]);
            thinker = thinker.id(id);
        }
        for model in $build.stand_ins($said.model.as_deref(), &$said.fallbacks, &$path[..]) {
            thinker = thinker.fallback(model);
        }
        if let Some(text) = &$said.role {
            thinker = thinker.role(text);
        }
        if let Some(text) = &$said.description {
            thinker = thinker.description(text);
        }
        if let Some(text) = &$said.expected_output {
            thinker = thinker.expected_output(text);
        }
        thinker = thinker.tools($build.tools(&$said.tools, &$path[..]));
        $build.check_schema($said.input.as_ref(), &[&$path[..], &["input"]].concat());
        $build.check_schema($said.output.as_ref(), &[&$path[..], &["output"]].concat());
        if let Some(schema) = &$said.input {
            thinker = thinker.input_schema_json("input", Value::Object(schema.clone()));
        }
        if let Some(schema) = &$said.output {
            thinker = thinker.output_schema_json("output", Value::Object(schema.clone()));
        }
        if let Some(times) = $said.output_retries {
            thinker = thinker.output_retries(times);
        }
        for guardrail in &$said.guardrails {
            thinker = match guardrail {
                syntax::Guardrail::PromptInjection => thinker.pre_hook(PromptInjectionGuardrail::new()),
                syntax::Guardrail::Pii => thinker.pre_hook(PiiGuardrail::new()),
            };
        }
        if let Some(wanted) = $said.markdown {
            thinker = thinker.markdown(wanted);
        }
        if let Some(calls) = $said.tool_call_limit {
            thinker = thinker.tool_call_limit(calls);
        }
        if let Some(calls) = $said.tool_calls_at_once {
            thinker = thinker.tool_calls_at_once(calls);
        }
        if let Some(turns) = $said.turns_max {
            thinker = thinker.turns_max(turns);
        }
        if let Some(wanted) = $said.stream {
            thinker = thinker.stream(wanted);
        }
        if let Some(history) = &$said.history {
            thinker = thinker.add_history_to_context(true);
            if let Some(runs) = history.runs {
                thinker = thinker.num_history_runs(runs);
            }
        }
        if let Some(wanted) = $said.session_state {
            thinker = thinker.add_session_state_to_context(wanted);
        }
        if let Some(wanted) = $said.resolve_in_context {
            thinker = thinker.resolve_in_context(wanted);
        }
        $build.check_retry($said.retry.as_ref(), &$path[..]);
        if let Some(said) = &$said.retry {
            thinker = thinker.retry(retry(said));
        }
        if let Some(Span(longest)) = $said.timeout {
            thinker = thinker.timeout(longest);
        }
        thinker
    }};
}

/// The model of this name: one that the program gave, or that of a profile, or what the name says.
fn open(document: &Document, settings: &Settings, name: &str) -> Result<SharedModel, String> {
    match (settings.models.get(name), profile(document, settings, name)) {
        (Some(model), _) => Ok(model.clone()),
        (None, Some(profile)) => match settings.models.get(&profile.model) {
            Some(model) => Ok(model.clone()),
            None => profile.open(),
        },
        (None, None) => model::parse(name),
    }
}

fn profile<'a>(document: &'a Document, settings: &'a Settings, name: &str) -> Option<&'a ModelProfile> {
    document.models.get(name).or_else(|| settings.profiles.get(name))
}

/// A problem with the model of this name, and, unless something is called that, what was probably meant.
fn problem_of(document: &Document, settings: &Settings, problem: String, name: &str) -> String {
    if settings.models.contains_key(name) || profile(document, settings, name).is_some() {
        return problem;
    }
    let names = document.models.keys().chain(settings.profiles.keys()).chain(settings.models.keys());
    format!("{problem}{}", meant(name, names.map(String::as_str)))
}

/// What is wrong with the model that takes the place of all, or with one that stands in for it, or missing for them.
pub(in crate::file) fn replacement_problem(
    document: &Document,
    settings: &Settings,
) -> Option<(String, FileProblemKind)> {
    let name = settings.model.as_deref()?;
    let others = profile(document, settings, name).map(|profile| &profile.fallbacks[..]).unwrap_or_default();
    std::iter::once(name).chain(others.iter().map(String::as_str)).find_map(|name| {
        match open(document, settings, name) {
            Ok(model) => Some((model.problems().into_iter().next()?, FileProblemKind::Missing)),
            Err(problem) => Some((problem_of(document, settings, problem, name), FileProblemKind::Invalid)),
        }
    })
}

impl<'a> Build<'a> {
    // Models.

    /// The model that a name stands for, or the one that takes the place of all. What is wrong with it is said at its first
    /// use.
    pub(super) fn model_at(&mut self, name: &str, path: &Path<'_>) -> Option<SharedModel> {
        if self.settings.inspects {
            let known = self.document.models.get(name).map_or(name, |profile| &profile.model);
            let is_own = self.settings.models.contains_key(known) || self.settings.profiles.contains_key(known);
            let may_be_given = self.settings.apart && !known.contains(':');
            if !is_own
                && !may_be_given
                && let Err(problem) = model::parse(known)
            {
                self.model_problem(problem, known, path);
            }
            let id = known.split_once(':').map_or(known, |(_, id)| id.trim());
            let absent = |_: &ModelRequest| Err(Failure::new(FailureKind::Definition, "it is only looked at"));
            return ScriptedModel::from_fn(id, absent).into_model().ok();
        }
        let settings = self.settings;
        self.open(settings.model.as_deref().unwrap_or(name), path)
    }

    /// The model of this name, whatever takes its place.
    fn open(&mut self, name: &str, path: &Path<'_>) -> Option<SharedModel> {
        if let Some(model) = self.models.get(name) {
            return model.clone();
        }
        let found = open(self.document, self.settings, name);
        let found = found.map_err(|problem| self.model_problem(problem, name, path)).ok();
        for problem in found.iter().flat_map(|model| model.problems()) {
            self.missing(self.value(path), problem.clone());
            self.said.push(problem);
        }
        self.models.insert(name.to_owned(), found.clone());
        found
    }

    /// What is wrong with a model, where it is named; with a profile of the file, at the key that it is about.
    fn model_problem(&mut self, problem: String, name: &str, path: &Path<'_>) {
        let key = problem.split(' ').next().unwrap_or_default();
        let own = ["models", name, key];
        let is_own = self.document.models.contains_key(name) && self.node.get(&own).is_some();
        let at = self.value(if is_own { &own } else { path });
        self.problem(at, problem_of(self.document, self.settings, problem, name));
    }

    /// The models that stand in for that of an agent or a team: those it names itself, or else those of its model's profile.
    /// What is wrong with one is said where it is named: in the profile, or, of a profile of the settings, where that is.
    pub(super) fn stand_ins(&mut self, own: Option<&str>, fallbacks: &[String], path: &Path<'_>) -> Vec<SharedModel> {
        let settings = self.settings;
        let place = |at: usize| at.to_string();
        if settings.model.is_none() && !fallbacks.is_empty() {
            let named = fallbacks.iter().enumerate();
            return named
                .filter_map(|(at, name)| self.model_at(name, &[path, &["fallbacks", &place(at)]].concat()))
                .collect();
        }
        let document = self.document;
        let said = own.or(document.model.as_deref()).unwrap_or_default();
        let name = settings.model.as_deref().unwrap_or(said);
        let names = profile(document, settings, name).map(|profile| &profile.fallbacks[..]).unwrap_or_default();
        let outside = if own.is_some() { [path, &["model"]].concat() } else { vec!["model"] };
        let mut models = Vec::new();
        for (at, other) in names.iter().enumerate() {
            let at = place(at);
            let inside = ["models", name, "fallbacks", &at];
            let path = if document.models.contains_key(name) { &inside[..] } else { &outside };
            models.extend(if settings.model.is_some() { self.open(other, path) } else { self.model_at(other, path) });
        }
        models
    }

    /// The model of an agent or a team: its own, or that of the file.
    pub(super) fn model_of(&mut self, own: Option<&str>, path: &Path<'_>) -> Option<SharedModel> {
        match (own, self.document.model.as_deref()) {
            (Some(name), _) => self.model_at(name, &[path, &["model"]].concat()),
            (None, Some(name)) => self.model_at(name, &["model"]),
            (None, None) => {
                let message = "it has no model: write one here, or `model:` at the beginning of the file";
                self.problem(self.key(path), message);
                None
            }
        }
    }

    // Tools.

    /// A tool of the file. What is wrong with it, or missing for it, is said at its first use.
    pub(super) fn tool(&mut self, name: &str) -> Option<Tool> {
        if let Some(tool) = self.built_tools.get(name) {
            return tool.clone();
        }
        let declared = self.document.tools.get(name)?;
        let tool = self.declared_tool(name, declared);
        self.built_tools.insert(name.to_owned(), tool.clone());
        tool
    }

    fn declared_tool(&mut self, name: &str, declared: &syntax::Tool) -> Option<Tool> {
        let path = ["tools", name];
        let (call, kind) = match declared {
            syntax::Tool::Mcp(said) => return self.mcp(name, said),
            syntax::Tool::Http(tool) => (self.http(&tool.http, &[&path[..], &["http"]].concat()), "http"),
            syntax::Tool::Command(tool) => {
                (self.command(&tool.command, &tool.env, &[&path[..], &["command"]].concat()), "command")
            }
        };
        let (description, arguments, effect, timeout, confirm, user_input) = match declared {
            syntax::Tool::Http(t) => (&t.description, &t.arguments, t.effect, t.timeout, t.confirm, &t.user_input),
            syntax::Tool::Command(t) => (&t.description, &t.arguments, t.effect, t.timeout, t.confirm, &t.user_input),
            syntax::Tool::Mcp(_) => return None,
        };
        if let Some(problem) = outlive_agent::tool::name_problem(name) {
            self.problem(self.key(&path), problem.clone());
            self.said.push(problem);
        }
        self.check_schema(arguments.as_ref(), &["tools", name, "arguments"]);
        let known: Vec<_> = arguments
            .iter()
            .filter_map(|schema| schema.get("properties")?.as_object())
            .flat_map(Map::keys)
            .map(String::as_str)
            .collect();
        if arguments.as_ref().is_some_and(|schema| schema.get("type").is_some_and(|kind| kind != "object")) {
            self.problem(
                self.value(&["tools", name, "arguments"]),
                "the arguments of a tool are an object: write `type: object`",
            );
        }
        self.check_names(&call, &known, &[&path[..], &[kind]].concat(), "arguments");
        for (place, field) in user_input.iter().enumerate().filter(|(_, field)| !known.contains(&field.as_str())) {
            let at = self.value(&["tools", name, "user_input", &place.to_string()]);
            self.problem(at, format!("{field:?} is not one of its arguments{}", meant(field, known.iter().copied())));
            self.said.push(format!("tool {name:?} has no argument {field:?}"));
        }
        let Some(effect) = effect.or_else(|| call.usual_effect()) else {
            self.problem(self.key(&path), EFFECT_MISSING);
            return None;
        };
        let schema = Value::Object(arguments.clone().unwrap_or_default());
        let mut tool = Tool::calling(name, description, schema, call).effect(effect);
        let four_eyes = match declared {
            syntax::Tool::Http(tool) => tool.four_eyes,
            syntax::Tool::Command(tool) => tool.four_eyes,
            syntax::Tool::Mcp(_) => None,
        };
        if let Some(Span(longest)) = timeout {
            tool = tool.timeout(longest);
        }
        if confirm == Some(true) {
            tool = tool.requires_confirmation();
        }
        if !user_input.is_empty() {
            tool = tool.user_input_fields(user_input);
        }
        if four_eyes == Some(true) {
            if confirm != Some(true) && user_input.is_empty() && effect != ToolEffect::Once {
                let problem = "nobody is asked about its calls: write `confirm: true` too, or leave this out";
                self.problem(self.key(&["tools", name, "four_eyes"]), problem);
            }
            tool = tool.four_eyes();
        }
        Some(tool)
    }

    pub(super) fn http(&mut self, http: &syntax::Http, path: &Path<'_>) -> Call {
        let call =
            HttpCall::new(http.method.as_deref().unwrap_or("GET"), &http.url).outbound(self.settings.outbound.clone());
        let call = Call::Http(http.headers.iter().fold(call, |call, (name, value)| call.header(name, value)));
        self.call_problems(&call, path);
        call
    }

    /// What stands for the tools of an MCP server.
    fn mcp(&mut self, name: &str, said: &syntax::McpTools) -> Option<Tool> {
        let path = ["tools", name, "mcp"];
        let server = match &said.mcp {
            syntax::Mcp::Described(server) => server.clone(),
            syntax::Mcp::Named(server) => self.server(server, &path)?,
        };
        let tools = match server.tools(&self.settings.outbound) {
            Ok(tools) => tools,
            Err(problem) => {
                self.problem(self.key(&path), problem);
                return None;
            }
        };
        if server.url.is_none() {
            self.needs_commands(&path);
        }
        let mut tools = tools.name(name).include_tools(&said.include).exclude_tools(&said.exclude);
        tools = said.effects.iter().fold(tools, |tools, (tool, effect)| tools.tool_effect(tool, *effect));
        tools = tools.requires_confirmation_tools(&said.confirm).four_eyes_tools(&said.four_eyes);
        if let Some(prefix) = &said.prefix {
            tools = tools.tool_name_prefix(prefix);
        }
        if let Some(effect) = said.effect {
            tools = tools.effect(effect);
        }
        if let Some(Span(longest)) = said.timeout {
            tools = tools.timeout(longest);
        }
        self.problems_of(tools.problems(), &path);
        tools.into_tools().pop()
    }

    /// An MCP server of the settings.
    fn server(&mut self, name: &str, path: &Path<'_>) -> Option<McpProfile> {
        let servers = &self.settings.servers;
        let found = servers.get(name).cloned();
        if found.is_none() {
            let meant = meant(name, servers.keys().map(String::as_str));
            let remedy = format!("the table [mcp.{name}] of outlive.toml says how it is reached");
            self.missing(self.value(path), format!("no MCP server is called {name:?} here{meant} ({remedy})"));
        }
        found
    }

    fn needs_commands(&mut self, path: &Path<'_>) {
        if !self.settings.allows_commands {
            let message = "it runs a command, and commands are not allowed here: start with --allow-commands, if you trust \
                           the file";
            self.missing(self.key(path), message);
        }
    }

    pub(super) fn command(&mut self, argv: &[String], env: &[String], path: &Path<'_>) -> Call {
        self.needs_commands(path);
        let call = Call::Command(CommandCall::new(argv).env(env));
        self.call_problems(&call, path);
        call
    }

    fn call_problems(&mut self, call: &Call, path: &Path<'_>) {
        self.problems_of(call.problems(), path);
    }

    fn problems_of(&mut self, problems: Vec<String>, path: &Path<'_>) {
        for problem in problems {
            let at = self.key(path);
            match is_lacking(&problem) {
                true => self.missing(at, problem.clone()),
                false => self.problem(at, problem.clone()),
            }
            self.said.push(problem);
        }
    }

    /// The places of a call must be arguments that there are.
    pub(super) fn check_names(&mut self, call: &Call, known: &[&str], path: &Path<'_>, what: &str) {
        for name in call.names().into_iter().filter(|name| !known.contains(name)) {
            let meant = meant(name, known.iter().copied());
            let message = format!(
                "`{{{name}}}` is none of its {what}{meant} (`{{{{{name}}}}}` stands for the braces themselves)"
            );
            self.problem(self.key(path), message);
        }
    }

    /// The tools that an agent or a team names.
    fn tools(&mut self, names: &[String], path: &Path<'_>) -> Vec<Tool> {
        let mut tools = Vec::new();
        for (place, name) in names.iter().enumerate() {
            match (self.document.tools.get(name), name.as_str()) {
                (None, name) if self.settings.tools.contains_key(name) => {
                    tools.extend(self.settings.tools[name].clone())
                }
                (Some(_), _) => tools.extend(self.tool(name)),
                (None, "hackernews") => tools.extend(HackerNewsTools::default().into_tools()),
                (None, "yfinance") => tools.extend(YFinanceTools::default().into_tools()),
                (None, _) if self.settings.apart => {}
                (None, _) => {
                    let known = self.document.tools.keys().chain(self.settings.tools.keys()).map(String::as_str);
                    let known = known.chain(["hackernews", "yfinance"]);
                    let at = self.value(&[path, &["tools", &place.to_string()]].concat());
                    self.problem(at, format!("unknown tool {name:?}{}", meant(name, known)));
                }
            }
        }
        tools
    }

    // Agents and teams.

    /// The id of an agent or a team of the file, by its name there.
    pub(super) fn id_of(&mut self, name: &str, at: At) -> Option<DefinitionId> {
        let info = self.agent(name).map(|agent| agent.info()).or_else(|| Some(self.team(name)?.info()));
        let named = self.document.agents.keys().chain(self.document.teams.keys()).map(String::as_str);
        if !named.clone().any(|named| named == name) {
            self.problem(at, format!("unknown agent or team {name:?}{}", meant(name, named)));
        }
        info?.id
    }

    pub(super) fn agent(&mut self, key: &str) -> Option<Agent> {
        if let Some(agent) = self.agents.get(key) {
            return agent.clone();
        }
        let said = self.document.agents.get(key)?;
        let path = ["agents", key];
        let model = self.model_of(said.model.as_deref(), &path);
        let agent = match model {
            Some(model) => Agent::new(said.name.as_deref().unwrap_or(key)).model(model),
            None => Agent::new(said.name.as_deref().unwrap_or(key)),
        };
        let agent = thinker!(self, agent, said, &path);
        self.executor_problems(&agent, &path);
        self.agents.insert(key.to_owned(), Some(agent.clone()));
        Some(agent)
    }

    pub(super) fn team(&mut self, key: &str) -> Option<Team> {
        if let Some(team) = self.teams.get(key) {
            return team.clone();
        }
        let said = self.document.teams.get(key)?;
        let path = ["teams", key];
        self.open.push(Opened::Team(key.to_owned()));
        let mut team = Team::new(said.name.as_deref().unwrap_or(key));
        for (place, name) in said.members.iter().enumerate() {
            let at = self.value(&["teams", key, "members", &place.to_string()]);
            let opened = Opened::Team(name.clone());
            if self.open.contains(&opened) {
                let circle = self.circle(&opened);
                self.problem(at, format!("teams are members of each other: {circle}"));
                continue;
            }
            if self.open.len() >= INSIDE_MAX && self.document.teams.contains_key(name) {
                self.problem(
                    at,
                    format!("teams are more than {INSIDE_MAX} deep inside each other here: take them apart"),
                );
                continue;
            }
            if let Some(agent) = self.agent(name) {
                team = team.member(agent);
            } else if let Some(member) = self.team(name) {
                team = team.member(member);
            } else if !self.document.agents.contains_key(name) && !self.document.teams.contains_key(name) {
                let known = self.document.agents.keys().chain(self.document.teams.keys()).map(String::as_str);
                self.problem(at, format!("unknown member {name:?}{}", meant(name, known)));
            }
        }
        self.open.pop();
        let model = match (&said.model, &self.document.model) {
            // Its members' model is its own.
            (None, None) => None,
            _ => self.model_of(said.model.as_deref(), &path),
        };
        if let Some(model) = model {
            team = team.model(model);
        }
        if let Some(mode) = said.mode {
            team = team.mode(mode);
        }
        if let Some(times) = said.max_iterations {
            team = team.max_iterations(times);
        }
        let team = thinker!(self, team, said, &path);
        self.executor_problems(&team, &path);
        self.teams.insert(key.to_owned(), Some(team.clone()));
        Some(team)
    }

    /// From what is open to itself: `a → b → a`.
    pub(super) fn circle(&self, opened: &Opened) -> String {
        let name = |one: &Opened| match one {
            Opened::Team(name) | Opened::Workflow(name) => name.clone(),
        };
        let from = self.open.iter().position(|one| one == opened).unwrap_or_default();
        let names: Vec<_> = self.open[from..].iter().chain([opened]).map(name).collect();
        names.join(" → ")
    }

    /// What an agent or a team says is wrong with itself.
    pub(super) fn executor_problems(&mut self, executor: &impl Executor, path: &Path<'_>) {
        for problem in executor.problems() {
            // A team without members lost them for reasons that were told.
            let is_consequence = ["has no model", "it has no members"].iter().any(|words| problem.contains(words));
            if self.is_said(&problem) || is_consequence {
                continue;
            }
            self.problem(self.key(path), problem.clone());
            self.said.push(problem);
        }
    }

    pub(super) fn is_said(&self, problem: &str) -> bool {
        self.said.iter().any(|said| problem.contains(said.as_str()))
    }
}
