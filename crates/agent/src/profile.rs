//! What an agent and a team have in common: who they are, what they were told, whom they lead and how far they may go.
//!
//! It must never know what is running: a profile is a value, shared by every run made with it.

use crate::hooks::Hook;
use crate::model::{IntoModel, SharedModel};
use crate::tool::{Tool, ToolSource};
use outlive_core::machine::{AgentLimits, DELEGATE_TOOL, TeamMode};
use outlive_core::{
    Definition, DefinitionId, ExecutorKind, FinishReason, OutputSchema, Retry, Secret, ToolEffect, check, coerce, json,
};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Members of a team, with those of the teams in it: a few teams that share their members would be more than any machine
/// holds.
const MEMBERS_MAX: usize = 1_000;
/// Calls of one answer that are made at once, unless set.
const CALLS_AT_ONCE: usize = 32;
/// Teams inside each other, at most.
const DEPTH_MAX: usize = 32;

/// Instructions: one text, or a list of them.
pub trait IntoInstructions {
    /// The texts, in order.
    fn into_instructions(self) -> Vec<String>;
}

impl IntoInstructions for &str {
    fn into_instructions(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl IntoInstructions for String {
    fn into_instructions(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>> IntoInstructions for Vec<T> {
    fn into_instructions(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<String>, const N: usize> IntoInstructions for [T; N] {
    fn into_instructions(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl IntoInstructions for &[String] {
    fn into_instructions(self) -> Vec<String> {
        self.to_vec()
    }
}

/// Whether a value reads as a type, or what is wrong with it.
type Reads = fn(&Value) -> Result<(), String>;

/// The shape of an answer or an input, and how to check for it.
#[derive(Clone)]
pub(crate) struct Shape {
    pub(crate) schema: OutputSchema,
    /// Reads it as the type that the schema was made of, if there is one.
    reads: Option<Reads>,
}

impl Shape {
    pub(crate) fn of<T: JsonSchema + DeserializeOwned>() -> Self {
        let schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
        Self { schema: OutputSchema { name: schema_name(&T::schema_name()), schema }, reads: Some(fits::<T>) }
    }

    pub(crate) fn json(name: &str, schema: Value) -> Self {
        Self { schema: OutputSchema { name: schema_name(name), schema }, reads: None }
    }

    /// The text as the requested value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        self.fit(json::read(unfenced(text)).map_err(|error| format!("it is not JSON: {error}"))?)
    }

    /// The answer as the requested value: models like to put words around it.
    ///
    /// # Errors
    /// What is wrong with it, in words for the model.
    pub(crate) fn parse_answer(&self, answer: &str) -> Result<Value, String> {
        self.parse(answer).or_else(|problem| self.fit(json_within(answer).ok_or(problem)?))
    }

    /// The value, fitted where nothing is lost.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn fit(&self, value: Value) -> Result<Value, String> {
        let value = coerce(value, &self.schema.schema).map_err(|misfit| misfit.to_string())?;
        self.check(&value).map(|()| value)
    }

    /// Whether this is the requested value.
    ///
    /// # Errors
    /// What is wrong with it, in words for the model.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        check(value, &self.schema.schema).map_err(|unfit| unfit.to_string())?;
        self.reads.map_or(Ok(()), |fits| fits(value))
    }

    /// What would make every answer unfit.
    fn problem(&self) -> Option<String> {
        let is_schema = self.schema.schema.is_object() || self.schema.schema == Value::Bool(true);
        let name = &self.schema.name;
        (!is_schema).then(|| format!("its schema {name:?} is not a JSON Schema: give an object"))
    }
}

fn fits<T: DeserializeOwned>(value: &Value) -> Result<(), String> {
    let read = || {
        let read = serde_path_to_error::deserialize::<_, T>(value);
        read.map(drop).map_err(|error| match error.path().to_string().as_str() {
            "." => error.inner().to_string(),
            path => format!("at {path}: {}", error.inner()),
        })
    };
    json::with_room_for(value, read).unwrap_or_else(|error| Err(error.to_string()))
}

/// The text inside a Markdown code fence, which models like to put around JSON; any other text unchanged.
fn unfenced(answer: &str) -> &str {
    let text = answer.trim();
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    match inside {
        Some(inside) => inside.split_once('\n').map_or(inside, |(_language, body)| body).trim(),
        None => text,
    }
}

/// The JSON in words around it: in the only code fence, or else from the first bracket to the last of its kind.
fn json_within(answer: &str) -> Option<Value> {
    let fenced = answer.match_indices("```").map(|(place, _)| place).collect::<Vec<_>>();
    if let [from, to] = fenced[..] {
        return json::read(unfenced(&answer[from..to + 3])).ok();
    }
    let from = answer.find(['{', '['])?;
    let to = answer.rfind(if answer[from..].starts_with('{') { '}' } else { ']' }).filter(|to| *to > from)?;
    json::read(&answer[from..=to]).ok()
}

fn schema_name(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// Who an agent is, or a team's leader with its members.
#[derive(Clone)]
pub(crate) struct Profile {
    pub(crate) name: Arc<str>,
    id: Option<Result<DefinitionId, String>>,
    pub(crate) model: Option<Result<SharedModel, String>>,
    /// Models that are asked when those before have failed.
    pub(crate) fallbacks: Vec<Result<SharedModel, String>>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) role: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) instructions: Vec<String>,
    pub(crate) expected_output: Option<String>,
    /// What its input must look like.
    pub(crate) input: Option<Shape>,
    pub(crate) output: Option<Shape>,
    /// How often an answer of another shape is sent back to be corrected.
    pub(crate) output_retries: u32,
    pub(crate) pre_hooks: Vec<Hook>,
    pub(crate) post_hooks: Vec<Hook>,
    pub(crate) markdown: bool,
    pub(crate) limits: AgentLimits,
    /// Calls of one answer that are made at once, at most.
    pub(crate) calls_at_once: usize,
    pub(crate) stream: bool,
    /// Whether `{name}` in its system message stands for what the session's state has.
    pub(crate) resolves: bool,
    pub(crate) shows_state: bool,
    pub(crate) history: bool,
    pub(crate) history_runs: u32,
    /// It leads a workflow, and is shown this many earlier runs of the session.
    pub(crate) leads: Option<u32>,
    pub(crate) retry: Retry,
    pub(crate) timeout: Option<Duration>,
    /// Ways for an answer to end that fail the run.
    pub(crate) fail_on: Vec<FinishReason>,
    pub(crate) rate_limit_budget: Duration,
    /// A team's members; an agent has none, and is not a team without members either.
    pub(crate) members: Option<Vec<Arc<Profile>>>,
    /// How many they are, with their own members, and how deep they go.
    reach: Reach,
    /// How it works with them.
    pub(crate) mode: TeamMode,
    /// How often it may answer with tasks left, in that mode.
    pub(crate) iterations_max: u32,
}

/// How far a team reaches.
#[derive(Clone, Copy, Default)]
struct Reach {
    members: usize,
    depth: usize,
    /// Members were left out, because there were too many.
    is_exceeded: bool,
}

fn shown_name(name: &str) -> Arc<str> {
    Arc::from(name.trim())
}

/// A member as its leader sees it.
pub(crate) struct RosterLine {
    pub(crate) id: DefinitionId,
    pub(crate) name: String,
    pub(crate) role: String,
}

impl Profile {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: shown_name(name),
            id: None,
            model: None,
            fallbacks: Vec::new(),
            tools: Vec::new(),
            role: None,
            description: None,
            instructions: Vec::new(),
            expected_output: None,
            input: None,
            output: None,
            output_retries: 2,
            pre_hooks: Vec::new(),
            post_hooks: Vec::new(),
            markdown: false,
            limits: AgentLimits::default(),
            calls_at_once: CALLS_AT_ONCE,
            stream: true,
            resolves: true,
            shows_state: false,
            history: false,
            history_runs: 3,
            leads: None,
            retry: Retry::times(3),
            timeout: None,
            fail_on: Vec::new(),
            rate_limit_budget: Duration::from_secs(600),
            members: None,
            reach: Reach::default(),
            mode: TeamMode::default(),
            iterations_max: 10,
        }
    }

    /// A team's leader, without members yet.
    pub(crate) fn leader(name: &str) -> Self {
        Self { members: Some(Vec::new()), ..Self::new(name) }
    }

    /// One more in the team, if there is room.
    pub(crate) fn add_member(&mut self, member: Arc<Profile>) {
        let members = self.reach.members + 1 + member.reach.members;
        let depth = self.reach.depth.max(1 + member.reach.depth);
        if members > MEMBERS_MAX || depth > DEPTH_MAX {
            self.reach.is_exceeded = true;
            return;
        }
        (self.reach.members, self.reach.depth) = (members, depth);
        self.members.get_or_insert_default().push(member);
    }

    /// A copy that shares neither this profile nor those of members.
    pub(crate) fn deep_copy(&self) -> Self {
        let members = self.members.as_ref();
        let members = members.map(|members| members.iter().map(|member| Arc::new(member.deep_copy())).collect());
        Self { members, ..self.clone() }
    }

    pub(crate) fn set_name(&mut self, name: &str) {
        self.name = shown_name(name);
    }

    pub(crate) fn set_id(&mut self, id: &str) {
        self.id = Some(DefinitionId::chosen(id).map_err(|invalid| invalid.to_string()));
    }

    pub(crate) fn set_model(&mut self, model: impl IntoModel) {
        self.model = Some(model.into_model());
    }

    /// The id that was set, or else the one made from the name.
    ///
    /// # Errors
    /// When it is not a valid id, in words.
    pub(crate) fn id(&self) -> Result<DefinitionId, String> {
        match &self.id {
            Some(id) => id.clone(),
            None => DefinitionId::from_name(&self.name).map_err(|_| {
                "its name has no letter or digit to make an id from: give it another name, or an id".to_owned()
            }),
        }
    }

    /// `agent "Finance Agent"`, for errors.
    pub(crate) fn title(&self) -> String {
        format!("{} {:?}", self.kind().as_str(), &*self.name)
    }

    /// An agent or a team.
    pub(crate) fn kind(&self) -> ExecutorKind {
        match self.members {
            None => ExecutorKind::Agent,
            Some(_) => ExecutorKind::Team,
        }
    }

    /// Its model. A team that was given none has its members', if they agree.
    ///
    /// # Errors
    /// When there is none, in words.
    pub(crate) fn model(&self) -> Result<SharedModel, String> {
        match (&self.model, &self.members) {
            (Some(model), _) => model.clone(),
            (None, Some(members)) => common_model(members),
            (None, None) => Err("it has no model: give it one with .model(..)".to_owned()),
        }
    }

    /// Its model and those that stand in for it, in the order in which they are asked.
    ///
    /// # Errors
    /// As [`Self::model`].
    pub(crate) fn all_models(&self) -> Result<Vec<SharedModel>, String> {
        std::iter::once(self.model()).chain(self.fallbacks.iter().cloned()).collect()
    }

    /// The members as their leader sees them.
    ///
    /// # Errors
    /// When one of them has no id, in words.
    pub(crate) fn roster(&self) -> Result<Vec<RosterLine>, String> {
        let line = |member: &Arc<Profile>| {
            let id = member.id().map_err(|problem| format!("its member {:?}: {problem}", member.name))?;
            Ok(RosterLine { id, name: member.name.to_string(), role: member.role_in_team() })
        };
        self.members().iter().map(line).collect()
    }

    /// The keys of its model and its tools, and of its members'.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let own = self.model.iter().chain(&self.fallbacks).flatten().flat_map(|model| model.secrets());
        own.chain(self.tools.iter().flat_map(Tool::secrets))
            .chain(self.members().iter().flat_map(|member| member.secrets()))
            .collect()
    }

    /// An input with everything masked that its guardrails would mask.
    pub(crate) fn masked(&self, input: Value) -> Value {
        self.pre_hooks.iter().fold(input, |input, hook| hook.masked(input))
    }

    /// The workflows that its tools have executed, and its members', each once.
    pub(crate) fn workflows(&self) -> Vec<Arc<Definition>> {
        let own = self.tools.iter().filter_map(Tool::workflow);
        let all = own.chain(self.members().iter().flat_map(|member| member.workflows()));
        let mut each: Vec<Arc<Definition>> = Vec::new();
        for workflow in all {
            if !each.iter().any(|known| known.id == workflow.id && known.hash == workflow.hash) {
                each.push(workflow);
            }
        }
        each
    }

    /// The ids of its model and of its members' models.
    pub(crate) fn models(&self) -> Vec<String> {
        let own = self.all_models().into_iter().flatten().map(|model| model.info().model);
        own.chain(self.members().iter().flat_map(|member| member.models())).collect()
    }

    /// What would make every run fail, of itself and of its members.
    pub(crate) fn problems(&self) -> Vec<String> {
        let own = [self.own_problems(), self.member_problems(), self.model_problems()].concat();
        let titled = own.into_iter().map(|problem| format!("{}: {problem}", self.title()));
        titled.chain(self.members().iter().flat_map(|member| member.problems())).collect()
    }

    fn own_problems(&self) -> Vec<String> {
        let mut problems: Vec<_> = self.id().err().into_iter().collect();
        if self.limits.turns_max == 0 {
            problems.push("its turns_max is 0: allow at least one model call".to_owned());
        }
        if self.calls_at_once == 0 {
            problems.push("its tool_calls_at_once is 0: allow at least one".to_owned());
        }
        problems.extend(crate::tool::problems(&self.tools));
        problems.extend(self.input.iter().chain(&self.output).filter_map(Shape::problem));
        problems.extend(self.pre_hooks.iter().chain(&self.post_hooks).filter_map(Hook::problem));
        if self.mode == TeamMode::Tasks && self.iterations_max == 0 {
            problems.push("its max_iterations is 0: allow at least one".to_owned());
        }
        let team = self.members.as_ref().map_or(&[][..], |_| self.mode.tools()).iter();
        let reserved: BTreeSet<_> = team.copied().chain([DELEGATE_TOOL]).collect();
        let taken = reserved.into_iter().filter(|name| self.tool(name).is_some());
        problems
            .extend(taken.map(|name| format!("its tool {name:?} has the name of one that teams work with: rename it")));
        problems
    }

    fn member_problems(&self) -> Vec<String> {
        if self.reach.is_exceeded {
            return vec![format!(
                "it has more than {MEMBERS_MAX} members with those of its teams, or teams more than {DEPTH_MAX} deep: take \
                 it apart"
            )];
        }
        if self.members.as_ref().is_some_and(Vec::is_empty) {
            return vec!["it has no members: add some with .members([..])".to_owned()];
        }
        let mut seen: BTreeSet<DefinitionId> = BTreeSet::new();
        let ids = self.members().iter().filter_map(|member| member.id().ok());
        let twice = ids.filter(|id| !seen.insert(id.clone()));
        let twice = twice.map(|id| format!("two of its members have the id {id}: give one another id or name"));
        twice.collect()
    }

    fn model_problems(&self) -> Vec<String> {
        let own = match (&self.model, &self.members) {
            (Some(Ok(model)), _) => model.problems(),
            // Members are what it lacks.
            (None, Some(members)) if members.is_empty() => Vec::new(),
            _ => self.model().err().into_iter().collect(),
        };
        let others = self.fallbacks.iter().flat_map(|fallback| match fallback {
            Ok(model) => model.problems(),
            Err(problem) => vec![problem.clone()],
        });
        own.into_iter().chain(others).collect()
    }

    fn members(&self) -> &[Arc<Profile>] {
        self.members.as_deref().unwrap_or_default()
    }

    /// What its leader is told about what it is good for.
    fn role_in_team(&self) -> String {
        match (self.role.as_ref().or(self.description.as_ref()), &self.members) {
            (Some(words), _) => words.clone(),
            (None, Some(members)) => {
                let names: Vec<_> = members.iter().map(|member| &*member.name).collect();
                format!("leads a team of {}", names.join(", "))
            }
            (None, None) => self.name.to_string(),
        }
    }

    /// Its tools, but for those that are listed when it begins.
    pub(crate) fn own_tools(&self) -> impl Iterator<Item = &Tool> {
        self.tools.iter().filter(|tool| tool.source.is_none())
    }

    /// Whoever lists tools when it begins.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Arc<dyn ToolSource>> {
        self.tools.iter().filter_map(|tool| tool.source.as_ref())
    }

    /// The tool of this name, unless it is one that is listed.
    pub(crate) fn tool(&self, name: &str) -> Option<&Tool> {
        self.own_tools().find(|tool| tool.spec().name == name)
    }

    /// The effect of the tool of this name, its own or a member's: the strictest, where several have one.
    pub(crate) fn tool_effect(&self, name: &str) -> Option<ToolEffect> {
        let listed = || self.sources().filter_map(|source| source.effect(name)).max_by_key(|effect| *effect as u8);
        // Of a tool that was listed in another process, the worst is to be feared.
        let unknown = || self.sources().next().map(|_| ToolEffect::Once);
        let own = self.tool(name).map(|tool| tool.effect).or_else(listed).or_else(unknown);
        let members = self.members.iter().flatten().filter_map(|member| member.tool_effect(name));
        own.into_iter().chain(members).max_by_key(|effect| *effect as u8)
    }
}

/// The model of a team that was given none: its members', if they agree.
///
/// # Errors
/// When they disagree, or have none, in words.
fn common_model(members: &[Arc<Profile>]) -> Result<SharedModel, String> {
    const REMEDY: &str = "give it one with .model(..)";
    let model = |member: &Arc<Profile>| match (&member.model, &member.members) {
        (None, None) => Err(format!("its member {:?} has no model either", member.name)),
        _ => member.model(),
    };
    let models: Vec<_> = members.iter().map(model).collect::<Result<_, _>>()?;
    let Some(first) = models.first() else {
        return Err(format!("it has no model and no members: {REMEDY}"));
    };
    let named = |model: &SharedModel| (model.info(), model.endpoint());
    if models.iter().all(|model| named(model) == named(first)) {
        return Ok(first.clone());
    }
    let names: BTreeSet<_> = models.iter().map(|model| model.info().model).collect();
    let names: Vec<_> = names.into_iter().collect();
    Err(format!("it has no model and its members do not agree on one ({}): {REMEDY}", names.join(", ")))
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct(if self.members.is_some() { "Team" } else { "Agent" });
        shown.field("name", &self.name);
        if let Some(members) = &self.members {
            shown.field("members", members);
        }
        shown.finish_non_exhaustive()
    }
}
