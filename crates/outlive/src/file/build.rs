//! From what a file says to the builders: names become what they refer to, and whatever is wrong has its place.
//!
//! It must never execute or open anything. The invariant: what is built is what a program would build with the same
//! builders, so a file has no meaning of its own.

mod order;
pub(super) mod out_of_place;
pub(super) mod thinkers;

use super::Settings;
use super::call::CallStep;
use super::fit::{meant, name_problem};
use super::syntax::{self, Common, Document, Node, Span, SpanOrNone};
use super::yaml::{self, At, Misread, What};
use crate::invalid::FileProblemKind;
use outlive_agent::model::SharedModel;
use outlive_agent::tool::Tool;
use outlive_agent::{Agent, Team, WorkflowAgent};
use outlive_core::cel::Scope;
use outlive_core::{
    Block, Budget, BudgetScope, BudgetUnit, Cel, CelError, Condition, Definition, DefinitionBuilder, DefinitionId,
    DefinitionSource, ExecutorKind, Failure, FailureKind, ForEach, Function, HumanReview, InputSchema, Loop, Parallel,
    Prices, Retention, Retry, Router, SchemaMistake, SessionId, Step, Steps, UserInputField, schema_mistakes, slug,
};
use outlive_engine::{CatchUp, CreateSchedule, Overlap, ScheduleSpec};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What steps and containers have in common.
macro_rules! settings {
    ($block:expr, $common:expr) => {{
        let (mut block, common) = ($block, $common);
        if let Some(text) = common.description {
            block = block.description(text);
        }
        if let Some(said) = common.retry {
            block = block.retry(retry(said));
        }
        if let Some(Span(longest)) = common.timeout {
            block = block.timeout(longest);
        }
        if let Some(on_error) = common.on_error {
            block = block.on_error(on_error);
        }
        if let Some(said) = common.review {
            block = block.human_review(review(said));
        }
        block
    }};
}

/// Workflows and teams inside each other, at most.
const INSIDE_MAX: usize = 32;
/// All definitions of a file as JSON, in bytes: each has the whole text, and repeats what it has executed.
const DEFINITIONS_MAX: usize = 64 << 20;

/// What a path in the document consists of.
type Path<'p> = [&'p str];

/// Makes the source of a workflow's definition, from what it is called in the file.
type SourceOf<'a> = dyn Fn(&str) -> DefinitionSource + 'a;

/// Builds the workflows of a document, or only one, and says what is wrong.
pub(super) fn build(
    document: &Document,
    node: &yaml::Node,
    settings: &Settings,
    source: &SourceOf<'_>,
    only: Option<&str>,
) -> (Vec<Arc<Definition>>, Vec<(Misread, FileProblemKind)>) {
    let mut build = Build {
        document,
        node,
        settings,
        source,
        problems: Vec::new(),
        said: Vec::new(),
        models: BTreeMap::new(),
        built_tools: BTreeMap::new(),
        agents: BTreeMap::new(),
        teams: BTreeMap::new(),
        workflows: BTreeMap::new(),
        open: Vec::new(),
        places: Vec::new(),
        referred: Vec::new(),
        bytes: 0,
    };
    if only.is_none() {
        build.check_all();
    }
    let keys = document.workflows.keys().filter(|key| only.is_none_or(|only| only == key.as_str()));
    let built: Vec<_> = keys.filter_map(|key| build.workflow(key)).collect();
    build.check_ids();
    (built, build.problems)
}

/// What is wrong with a document in which something is left out, as far as that can be said without the program.
pub(super) fn problems_apart(document: &Document, node: &yaml::Node) -> Vec<Misread> {
    let settings = Settings { inspects: true, apart: true, ..Settings::default() };
    let source = |_: &str| DefinitionSource::new(String::new(), |_| Err("it is only looked at".to_owned()));
    build(document, node, &settings, &source, None).1.into_iter().map(|(misread, _)| misread).collect()
}

/// The id of a workflow, whether or not it can be built.
pub(super) fn workflow_id(key: &str, workflow: &syntax::Workflow) -> String {
    workflow.id.clone().unwrap_or_else(|| slug(workflow.name.as_deref().unwrap_or(key)))
}

/// A declared schedule as the engine takes it.
pub(super) fn schedule(name: &str, declared: &syntax::Schedule) -> CreateSchedule {
    let unset = ScheduleSpec::new(declared.cron.trim());
    let catch_up = CatchUp::ALL.into_iter().find(|one| declared.catch_up.as_deref() == Some(one.as_str()));
    let overlap = Overlap::ALL.into_iter().find(|one| declared.overlap.as_deref() == Some(one.as_str()));
    let spec = ScheduleSpec {
        time_zone: declared.time_zone.clone().unwrap_or_else(|| unset.time_zone.clone()),
        input: Some(declared.input.clone()).filter(|input| !input.is_null()),
        session_id: declared.session.clone(),
        catch_up: catch_up.unwrap_or(unset.catch_up),
        overlap: overlap.unwrap_or(unset.overlap),
        priority: declared.priority.unwrap_or_default(),
        concurrency_key: declared.concurrency_key.clone(),
        ..unset
    };
    CreateSchedule { name: Some(name.to_owned()), replaces: true, ..CreateSchedule::new(spec) }
}

/// Something named that is built once, and that nobody can build while it is being built.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Opened {
    Team(String),
    Workflow(String),
}

struct Build<'a> {
    document: &'a Document,
    node: &'a yaml::Node,
    settings: &'a Settings,
    source: &'a SourceOf<'a>,
    problems: Vec<(Misread, FileProblemKind)>,
    /// What has been said with its place, so that it is not said again without.
    said: Vec<String>,
    models: BTreeMap<String, Option<SharedModel>>,
    built_tools: BTreeMap<String, Option<Tool>>,
    agents: BTreeMap<String, Option<Agent>>,
    teams: BTreeMap<String, Option<Team>>,
    workflows: BTreeMap<String, Option<Arc<Definition>>>,
    open: Vec<Opened>,
    /// Where the nodes of the workflow in hand are, by the names on the way to them.
    places: Vec<(Vec<String>, At)>,
    /// Steps of the workflow in hand that others of it name, and where they do.
    referred: Vec<(String, At)>,
    /// The definitions that are built, as JSON.
    bytes: usize,
}

impl<'a> Build<'a> {
    fn problem(&mut self, at: At, message: impl Into<String>) {
        self.problems.push((Misread::new(at, message), FileProblemKind::Invalid));
    }

    /// The same, unless it has been said.
    fn problem_once(&mut self, at: At, message: &str) {
        if !self.is_said(message) {
            self.problem(at, message);
            self.said.push(message.to_owned());
        }
    }

    /// Something outside of the file is missing; it does not matter to somebody who only looks.
    fn missing(&mut self, at: At, message: impl Into<String>) {
        if !self.settings.inspects {
            self.problems.push((Misread::new(at, message), FileProblemKind::Missing));
        }
    }

    fn key(&self, path: &Path<'_>) -> At {
        self.node.find(path)
    }

    fn value(&self, path: &Path<'_>) -> At {
        self.node.find_value(path)
    }

    /// Says of everything that is named in the file what is wrong with it, used or not.
    fn check_all(&mut self) {
        let document = self.document;
        for name in document.models.keys() {
            self.model_at(name, &["models", name, "model"]);
        }
        for name in document.tools.keys() {
            self.tool(name);
        }
        for name in document.agents.keys().filter(|name| document.teams.contains_key(*name)) {
            self.problem(self.key(&["teams", name]), format!("an agent is named {name:?} too: give one another name"));
        }
        for name in document.agents.keys() {
            self.agent(name);
        }
        for name in document.teams.keys() {
            self.team(name);
        }
    }

    /// The JSON Schema at this path must mean something.
    fn check_schema(&mut self, schema: Option<&Map<String, Value>>, path: &Path<'_>) {
        let Some(schema) = schema else { return };
        for SchemaMistake { path: inside, problem } in schema_mistakes(&Value::Object(schema.clone())) {
            let whole: Vec<_> = path.iter().copied().chain(inside.iter().map(String::as_str)).collect();
            self.problem(self.value(&whole), format!("in this JSON Schema: {problem}"));
        }
    }

    /// No wait is longer than the longest.
    fn check_retry(&mut self, said: Option<&syntax::Retry>, path: &Path<'_>) {
        let Some(said) = said.filter(|said| said.backoff.is_some()) else { return };
        let Retry { backoff_ms, backoff_ms_max, .. } = retry(said);
        if backoff_ms > backoff_ms_max {
            let longest = if said.backoff_max.is_some() { "" } else { ", which is 5m unless said" };
            let message = format!("it is longer than `backoff_max`{longest}: no wait would be, so make that longer");
            self.problem(self.value(&[path, &["retry", "backoff"]].concat()), message);
        }
    }

    /// An id that is written must be one.
    fn check_id(&mut self, id: &str, path: &Path<'_>) {
        if let Err(invalid) = DefinitionId::chosen(id) {
            self.problem(self.value(&[path, &["id"]].concat()), invalid.to_string());
            self.said.push(invalid.to_string());
        }
    }

    /// Two workflows with one id would be one.
    fn check_ids(&mut self) {
        let mut seen = BTreeMap::new();
        for (key, workflow) in &self.document.workflows {
            let id = workflow_id(key, workflow);
            if let Some(other) = seen.insert(id.clone(), key) {
                let message = format!("it has the id {id:?}, as {other:?} has: give one another name or id");
                self.problem(self.key(&["workflows", key]), message);
            }
        }
    }

    fn workflow(&mut self, key: &str) -> Option<Arc<Definition>> {
        if let Some(built) = self.workflows.get(key) {
            return built.clone();
        }
        let said = self.document.workflows.get(key)?;
        if self.bytes > DEFINITIONS_MAX {
            let message = format!(
                "definition_too_large: from here on its workflows come to more than {} MiB, the text and inner workflows of \
                 each counted: take it apart",
                DEFINITIONS_MAX >> 20
            );
            let at = self.key(&["workflows", key]);
            if self.problems.iter().all(|(known, _)| known.message != message) {
                self.problem(at, message);
            }
            return None;
        }
        self.open.push(Opened::Workflow(key.to_owned()));
        let outer = (std::mem::take(&mut self.places), std::mem::take(&mut self.referred));
        let before = self.problems.len();
        let builder = self.workflow_builder(key, said);
        let is_whole = self.problems[before..].iter().all(|(_, kind)| *kind == FileProblemKind::Missing);
        // What cannot be executed is not stored either.
        let builder = if is_whole { builder.source((self.source)(key)) } else { builder };
        let builder = if self.settings.inspects { builder.inspect() } else { builder };
        let built = match builder.build() {
            Ok(definition) => {
                self.bytes += definition.structure.len();
                let is_whole = is_whole && self.check_schedules(key, said, &definition);
                is_whole.then(|| Arc::new(definition))
            }
            Err(invalid) => {
                for problem in invalid.problems {
                    self.build_problem(&problem, key);
                }
                None
            }
        };
        (self.places, self.referred) = outer;
        self.open.pop();
        self.workflows.insert(key.to_owned(), built.clone());
        built
    }

    /// Whether the schedules of a workflow can have it make runs.
    fn check_schedules(&mut self, key: &str, said: &syntax::Workflow, definition: &Definition) -> bool {
        let before = self.problems.len();
        for (name, declared) in &said.schedules {
            let spec = schedule(name, declared).spec;
            let at = |field| ["workflows", key, "schedules", name, field];
            if let Err(unfit) = definition.accept_input(spec.input.clone()) {
                self.problem(self.value(&at("input")), unfit.to_string());
            }
            if let Some(Err(invalid)) = spec.session_id.as_deref().map(SessionId::chosen) {
                self.problem(self.value(&at("session")), invalid.to_string());
            }
        }
        self.problems.len() == before
    }

    /// A problem that the builder has found, at the node that it names.
    fn build_problem(&mut self, problem: &str, key: &str) {
        // The schema wants all lists filled: whoever lacks something was left without it for a reason that was told.
        let consequences = [
            "has no model",
            "it has no steps:",
            "it has no branches:",
            "it has no choices:",
            "it has no body:",
            "it has no members:",
        ];
        if self.is_said(problem) || consequences.iter().any(|words| problem.contains(words)) {
            return;
        }
        let mut names = Vec::new();
        let mut rest = problem;
        while let Some((name, after)) = named(rest) {
            names.push(name);
            rest = after;
        }
        let found = (0..=names.len()).rev().find_map(|count| {
            let place = self.places.iter().find(|(path, _)| !names[..count].is_empty() && *path == names[..count]);
            place.map(|(_, at)| *at)
        });
        let at = found.unwrap_or_else(|| self.key(&["workflows", key]));
        self.problem(at, problem);
        self.said.push(problem.to_owned());
    }

    fn workflow_builder(&mut self, key: &str, said: &'a syntax::Workflow) -> DefinitionBuilder {
        let path = ["workflows", key];
        let mut builder =
            Definition::builder(said.name.as_deref().unwrap_or(key)).session_state(said.session_state.clone());
        if let Some(id) = &said.id {
            self.check_id(id, &path);
            builder = builder.id(id);
        }
        if let Some(text) = &said.description {
            builder = builder.description(text);
        }
        self.check_schema(said.input.as_ref(), &[&path[..], &["input"]].concat());
        if let Some(schema) = &said.input {
            builder = builder.input_schema(InputSchema::json(Value::Object(schema.clone())));
        }
        if let Some(Span(longest)) = said.timeout {
            builder = builder.timeout(longest);
        }
        if let Some(most) = said.concurrency {
            builder = builder.concurrency(most);
        }
        if let Some(policy) = said.session_policy {
            builder = builder.session_policy(policy);
        }
        if let Some(name) = &said.steer_to
            && let Some(id) = self.id_of(name, self.value(&[&path[..], &["steer_to"]].concat()))
        {
            builder = builder.steer_to(id.as_str());
        }
        if let Some(said) = &said.retention {
            builder = builder.retention(Retention {
                max_age: said.max_age.map(|SpanOrNone(age)| age),
                max_runs: said.max_runs,
                ..Retention::new()
            });
        }
        if let Some(history) = &said.history {
            builder = builder.add_workflow_history_to_steps(true);
            if let Some(runs) = history.runs {
                builder = builder.num_history_runs(runs);
            }
            if let Some(tokens) = history.max_tokens {
                builder = builder.history_max_tokens(tokens);
            }
            if let Some(name) = &history.summarize
                && let Some(model) = self.model_at(name, &[&path[..], &["history", "summarize"]].concat())
            {
                builder = builder.summarize_history(Agent::summarizer(model));
            }
        }
        if let Some(leader) = &said.leader {
            let own = [&path[..], &["leader"]].concat();
            if let Some(model) = self.model_of(leader.model.as_deref(), &own) {
                let mut agent = WorkflowAgent::new(model).instructions(leader.instructions.all());
                if let Some(name) = &leader.name {
                    agent = agent.name(name);
                }
                if let Some(id) = &leader.id {
                    self.check_id(id, &own);
                    agent = agent.id(id);
                }
                if let Some(turns) = leader.turns_max {
                    agent = agent.turns_max(turns);
                }
                if let Some(wanted) = leader.stream {
                    agent = agent.stream(wanted);
                }
                self.check_retry(leader.retry.as_ref(), &own);
                if let Some(said) = &leader.retry {
                    agent = agent.retry(retry(said));
                }
                if let Some(Span(longest)) = leader.timeout {
                    agent = agent.timeout(longest);
                }
                if let Some(runs) = leader.history.as_ref().and_then(|history| history.runs) {
                    agent = agent.num_history_runs(runs);
                }
                builder = builder.agent(agent);
            }
        }
        for (place, budget) in said.budgets.iter().enumerate() {
            match budget_of(budget) {
                Ok(budget) => builder = builder.budget(budget),
                Err((field, problem)) => {
                    let at = self.value(&[&path[..], &["budgets", &place.to_string(), field]].concat());
                    self.problem(at, problem);
                }
            }
        }
        if let Some(prices) = self.prices() {
            builder = builder.prices(prices);
        }
        for (name, declared) in &said.schedules {
            if let Err(error) = schedule(name, declared).spec.times() {
                let field = match &error {
                    outlive_engine::Error::InvalidSchedule { field, .. } => field,
                    _ => "cron",
                };
                self.problem(self.value(&["workflows", key, "schedules", name, field]), error.to_string());
            }
        }
        let fields = said.input.iter().filter_map(|schema| schema.get("properties")?.as_object()).flat_map(Map::keys);
        let fields: Vec<_> = fields.map(String::as_str).collect();
        let steps = self.nodes(&said.steps, &[&path[..], &["steps"]].concat(), &mut Vec::new(), &fields);
        self.check_referred(&said.steps, &path);
        steps.into_iter().fold(builder, DefinitionBuilder::step)
    }

    /// Steps that are named must be there, and have ended.
    fn check_referred(&mut self, steps: &[Node], path: &Path<'_>) {
        let known: BTreeSet<_> = self.places.iter().filter_map(|(path, _)| path.last().cloned()).collect();
        for (name, at) in std::mem::take(&mut self.referred) {
            if !known.contains(&name) {
                let meant = meant(&name, known.iter().map(String::as_str));
                self.problem(at, format!("unknown step {name:?}{meant}"));
            }
        }
        for (place, name) in order::too_early(steps).into_iter().filter(|(_, name)| known.contains(*name)) {
            let place: Vec<_> = place.iter().map(String::as_str).collect();
            let at = self.value(&[path, &["steps"], &place, &["items_of"]].concat());
            self.problem(at, format!("{name:?} has not ended when this begins: name a step before it"));
        }
    }

    /// What models cost, if the file says so.
    fn prices(&mut self) -> Option<Prices> {
        let said = self.document.prices.as_ref()?;
        let text = serde_json::to_string(said).expect("prices have text for keys");
        let prices = Prices::parse(&text);
        prices.map_err(|problem| self.problem_once(self.key(&["prices"]), &problem)).ok()
    }

    /// Siblings.
    fn nodes(&mut self, nodes: &'a [Node], path: &Path<'_>, inside: &mut Vec<String>, fields: &[&str]) -> Vec<Block> {
        let mut names = BTreeSet::new();
        let mut blocks = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            let place = place.to_string();
            let path = [path, &[&place]].concat();
            let Common { name, review, retry, .. } = common(node);
            self.check_retry(retry, &path);
            if let Some(problem) = name_problem(name) {
                self.problem(self.key(&path), format!("its name {problem}"));
                self.said.push("has an empty name".to_owned());
            }
            if let Some(review) = review {
                self.check_review(review, node, &[&path[..], &["review"]].concat());
            }
            if !names.insert(name) {
                let message = format!("two steps are named {name:?}: names identify steps, give each its own");
                self.problem(self.key(&path), &message);
                self.said.push(message);
            }
            inside.push(name.to_owned());
            self.places.push((inside.clone(), self.key(&path)));
            blocks.extend(self.node(node, &path, inside, fields));
            inside.pop();
        }
        blocks
    }

    /// A review must ask something, and what it says must be about that.
    fn check_review(&mut self, review: &syntax::Review, node: &Node, path: &Path<'_>) {
        if !review.asks() {
            self.problem(self.key(path), "it asks nothing: write confirm, ask, output or iterations, or leave it out");
            return;
        }
        let is_step = matches!(node, Node::Step(_));
        let (asks, has_fields) = (review.ask.is_some(), !review.fields.is_empty());
        let mistakes = [
            (
                asks && !has_fields && is_step,
                "ask",
                "it says no `fields` to fill in: write some, or `confirm` for a yes or no",
            ),
            (has_fields && !asks, "fields", "nothing asks for them: write `ask: TEXT`, or leave them out"),
            (
                review.several.is_some() && !(asks && matches!(node, Node::Router(_))),
                "several",
                "only a router that has a person choose, with `ask`, lets several be chosen: leave it out",
            ),
            (
                review.on_timeout.is_some() && review.expires_in.is_none(),
                "on_timeout",
                "an answer is waited for for ever: write `expires_in` too, or leave this out",
            ),
        ];
        for (_, key, message) in mistakes.into_iter().filter(|(is_so, ..)| *is_so) {
            self.problem(self.key(&[path, &[key]].concat()), message);
        }
    }

    fn node(&mut self, node: &'a Node, path: &Path<'_>, inside: &mut Vec<String>, fields: &[&str]) -> Option<Block> {
        let at = |key| [path, &[key]].concat();
        Some(match node {
            Node::Step(said) => self.step(said, path, fields)?.into(),
            Node::Sequence(said) => {
                let steps = self.nodes(&said.steps, &at("steps"), inside, fields);
                settings!(steps.into_iter().fold(Steps::new(&said.name), Steps::step), said.common()).into()
            }
            Node::Parallel(said) => {
                let steps = self.nodes(&said.steps, &at("steps"), inside, fields);
                settings!(steps.into_iter().fold(Parallel::new(&said.name), Parallel::step), said.common()).into()
            }
            Node::Loop(said) => {
                let steps = self.nodes(&said.steps, &at("steps"), inside, fields);
                let mut repeated = Loop::new(&said.name).max_iterations(said.max_iterations);
                if let Some(until) = self.cel(said.until.as_deref(), Scope::EndCondition, &at("until")) {
                    repeated = repeated.until_cel(until);
                }
                if let Some(forwards) = said.forward_output {
                    repeated = repeated.forward_iteration_output(forwards);
                }
                settings!(steps.into_iter().fold(repeated, Loop::step), said.common()).into()
            }
            Node::Condition(said) => {
                let then = self.nodes(&said.then, &at("then"), inside, fields);
                let otherwise = self.nodes(&said.otherwise, &at("else"), inside, fields);
                let mut condition = Condition::new(&said.name);
                if let Some(when) = self.cel(said.when.as_deref(), Scope::Condition, &at("when")) {
                    condition = condition.when_cel(when);
                }
                let condition = then.into_iter().fold(condition, Condition::step);
                settings!(otherwise.into_iter().fold(condition, Condition::otherwise), said.common()).into()
            }
            Node::Router(said) => {
                let choices = self.nodes(&said.choices, &at("choices"), inside, fields);
                let mut router = Router::new(&said.name);
                if let Some(select) = self.cel(said.select.as_deref(), Scope::Router, &at("select")) {
                    self.check_choices(select, &said.choices, &at("select"));
                    router = router.select_cel(select);
                }
                settings!(choices.into_iter().fold(router, Router::choice), said.common()).into()
            }
            Node::ForEach(said) => {
                let mut steps = self.nodes(&said.steps, &at("steps"), inside, fields);
                let mut each = ForEach::new(&said.name);
                match (&said.items, &said.items_of) {
                    (Some(_), Some(_)) => self.problem(self.key(&at("items_of")), "it has `items` too: leave one out"),
                    (None, None) => {
                        self.problem(self.key(path), "it says no list: write `items` or `items_of`");
                        self.said.push("nothing decides for it: say how with .items(..)".to_owned());
                    }
                    _ => {}
                }
                if let Some(items) = self.cel(said.items.as_deref(), Scope::Items, &at("items")) {
                    each = each.items_cel(items);
                } else if let Some(step) = &said.items_of {
                    self.referred.push((step.clone(), self.value(&at("items_of"))));
                    each = each.items_of(step);
                }
                if let Some(most) = said.concurrency {
                    each = each.concurrency(most);
                }
                let each = match steps.len() {
                    1 => each.step(steps.remove(0)),
                    // One body is several steps.
                    _ => each.step(steps.into_iter().fold(Steps::new(&said.name), Steps::step)),
                };
                settings!(each, said.common()).into()
            }
        })
    }

    /// An expression, if there is one. One that is wrong is handed on, so that the builder knows that there is one.
    fn cel<'t>(&mut self, text: Option<&'t str>, scope: Scope, path: &Path<'_>) -> Option<&'t str> {
        let text = text?;
        if let Err(error) = Cel::compile(text, scope) {
            let node = self.node.get(path);
            let at = self.value(path);
            match &error {
                CelError::Invalid { mistakes, .. } => {
                    for mistake in mistakes {
                        let at = node.map_or(at, |node| node.place_in(mistake.line, mistake.column));
                        self.problem(at, format!("not valid in {scope}: {}", mistake.message));
                    }
                }
                CelError::Failed { .. } => self.problem(at, error.to_string()),
            }
            self.said.push(error.to_string());
        }
        Some(text)
    }

    /// Whatever a selector has written out must be a choice.
    fn check_choices(&mut self, select: &str, choices: &[Node], path: &Path<'_>) {
        let Ok(cel) = Cel::compile(select, Scope::Router) else { return };
        let known: Vec<_> = choices.iter().map(|choice| common(choice).name).collect();
        for name in cel.texts().into_iter().filter(|name| !known.contains(name) && !known.is_empty()) {
            let meant = meant(name, known.iter().copied());
            self.problem(self.value(path), format!("{name:?} is not among its choices{meant}"));
            self.said.push(format!("{name:?}, which is not among its choices"));
        }
    }

    fn step(&mut self, said: &'a syntax::Step, path: &Path<'_>, fields: &[&str]) -> Option<Step> {
        let at = |key| [path, &[key]].concat();
        let given = [
            ("agent", said.agent.is_some()),
            ("team", said.team.is_some()),
            ("function", said.function.is_some()),
            ("workflow", said.workflow.is_some()),
            ("http", said.http.is_some()),
            ("command", said.command.is_some()),
        ];
        let given: Vec<_> = given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect();
        if given.len() != 1 {
            let message = match given.is_empty() {
                true => "it does nothing: give it one of agent, team, function, workflow, http, command".to_owned(),
                false => format!("it has {}: leave one of them", given.join(" and ")),
            };
            self.problem(self.key(path), message);
            return None;
        }
        let mut step = Step::new(&said.name);
        if let Some(text) = &said.description {
            step = step.description(text);
        }
        if said.effect.is_some() && said.http.is_none() && said.command.is_none() {
            self.problem(self.key(&at("effect")), "only a request or a command has an effect to declare: leave it out");
        }
        if !said.env.is_empty() && said.command.is_none() {
            self.problem(self.key(&at("env")), "only a command is given variables: leave it out");
        }
        let step = self.worker(step, said, path, fields)?;
        let step = match &said.history {
            None => step,
            Some(syntax::StepHistory::Whether(is_shown)) => step.add_workflow_history(*is_shown),
            Some(syntax::StepHistory::Shown(shown)) => {
                let mut step = step.add_workflow_history(true);
                if let Some(runs) = shown.runs {
                    step = step.num_history_runs(runs);
                }
                if let Some(tokens) = shown.max_tokens {
                    step = step.history_max_tokens(tokens);
                }
                step
            }
        };
        Some(settings!(step, said.common()))
    }

    /// Who works in a step.
    fn worker(&mut self, step: Step, said: &'a syntax::Step, path: &Path<'_>, fields: &[&str]) -> Option<Step> {
        let at = |key| [path, &[key]].concat();
        let teams = &self.document.teams;
        if let Some(name) = said.agent.as_ref().filter(|name| teams.contains_key(*name)) {
            self.problem(self.value(&at("agent")), format!("{name:?} is a team: write `team: {name}`"));
            return None;
        }
        if let Some(name) = said.team.as_ref().filter(|name| self.document.agents.contains_key(*name)) {
            self.problem(self.value(&at("team")), format!("{name:?} is an agent: write `agent: {name}`"));
            return None;
        }
        if let Some(name) = &said.agent {
            if let Some(agent) = self.agent(name) {
                return Some(step.agent(agent));
            }
            let known = self.document.agents.keys().map(String::as_str);
            return self.registered(step, ExecutorKind::Agent, name, known.collect(), &at("agent"));
        }
        if let Some(name) = &said.team {
            if let Some(team) = self.team(name) {
                return Some(step.team(team));
            }
            let known = self.document.teams.keys().map(String::as_str);
            return self.registered(step, ExecutorKind::Team, name, known.collect(), &at("team"));
        }
        if let Some(name) = &said.function {
            return self.registered(step, ExecutorKind::Function, name, Vec::new(), &at("function"));
        }
        if let Some(name) = &said.workflow {
            return self.nested(step, name, &at("workflow"));
        }
        let (call, path) = match (&said.http, &said.command) {
            (Some(http), _) => (self.http(http, &at("http")), at("http")),
            (None, command) => (self.command(command.as_deref()?, &said.env, &at("command")), at("command")),
        };
        let known: Vec<_> = ["input", "previous_step_content"].into_iter().chain(fields.iter().copied()).collect();
        self.check_names(&call, &known, &path, "places");
        let Some(effect) = said.effect.or_else(|| call.usual_effect()) else {
            self.problem(self.key(&path), EFFECT_MISSING);
            return None;
        };
        Some(step.executor(CallStep { name: Arc::from(said.name.as_str()), call, effect }))
    }

    /// What the program has registered under this name.
    fn registered(
        &mut self,
        step: Step,
        kind: ExecutorKind,
        name: &str,
        mut known: Vec<&'a str>,
        path: &Path<'_>,
    ) -> Option<Step> {
        let registry = &self.settings.registry;
        if let Some(executor) = registry.get(kind, name) {
            return Some(step.shared_executor(executor));
        }
        known.extend(registry.names(kind));
        let word = kind.as_str();
        let meant = meant(name, known.iter().copied());
        let at = self.value(path);
        if kind != ExecutorKind::Function {
            self.problem(at, format!("unknown {word} {name:?}{meant}"));
            return None;
        }
        // Whether there is one is for the program to say that executes it.
        let remedy = "a program registers it when it reads the file; on the command line, write a command instead";
        self.missing(at, format!("no function {name:?} is registered here{meant} ({remedy})"));
        let message = format!("no function {name:?} is registered");
        let absent =
            move |_, _| std::future::ready(Err::<String, _>(Failure::new(FailureKind::Definition, message.clone())));
        Some(step.executor(Function::new(name, absent)))
    }

    /// Another workflow of the file as a step.
    fn nested(&mut self, step: Step, name: &str, path: &Path<'_>) -> Option<Step> {
        let at = self.value(path);
        let opened = Opened::Workflow(name.to_owned());
        if self.open.contains(&opened) {
            let circle = self.circle(&opened);
            self.problem(at, format!("workflows execute each other: {circle}"));
            return None;
        }
        if self.open.len() >= INSIDE_MAX {
            self.problem(
                at,
                format!("workflows are more than {INSIDE_MAX} deep inside each other here: take them apart"),
            );
            return None;
        }
        if !self.document.workflows.contains_key(name) {
            let known = self.document.workflows.keys().map(String::as_str);
            self.problem(at, format!("unknown workflow {name:?}{}", meant(name, known)));
            return None;
        }
        self.workflow(name).map(|workflow| step.workflow(workflow))
    }
}

/// What is wrong with a call of which nothing says what a repetition does.
const EFFECT_MISSING: &str = "nothing says what a repetition of it does: write `effect: read` if it changes nothing, \
                              `idempotent` if repeating it with the same key is harmless, or `once`";

fn common(node: &Node) -> Common<'_> {
    match node {
        Node::Step(said) => said.common(),
        Node::Sequence(said) => said.common(),
        Node::Parallel(said) => said.common(),
        Node::Loop(said) => said.common(),
        Node::Condition(said) => said.common(),
        Node::Router(said) => said.common(),
        Node::ForEach(said) => said.common(),
    }
}

fn retry(said: &syntax::Retry) -> Retry {
    let retry = Retry::times(said.times);
    let retry = said.backoff.map_or(retry, |SpanOrNone(first)| retry.backoff(first));
    said.backoff_max.map_or(retry, |Span(longest)| retry.backoff_max(longest))
}

fn review(said: &syntax::Review) -> HumanReview {
    let text = |text: &Option<String>| text.as_deref().map(Arc::from);
    let unset = HumanReview::default();
    HumanReview {
        requires_confirmation: said.confirm.is_some(),
        confirmation_message: text(&said.confirm),
        requires_user_input: said.ask.is_some(),
        user_input_message: text(&said.ask),
        user_input_schema: said.fields.iter().map(field).collect(),
        allow_multiple_selections: said.several.unwrap_or_default(),
        requires_output_review: said.output.is_some(),
        output_review_message: text(&said.output),
        requires_iteration_review: said.iterations.is_some(),
        iteration_review_message: text(&said.iterations),
        on_reject: said.on_reject,
        max_retries: said.max_retries,
        timeout_ms: said.expires_in.map(|Span(longest)| u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)),
        on_timeout: said.on_timeout.unwrap_or(unset.on_timeout),
        four_eyes: said.four_eyes.unwrap_or_default(),
    }
}

fn field(said: &syntax::Field) -> UserInputField {
    let field = UserInputField::new(&said.name).allowed(said.allowed.iter().cloned());
    let field = said.field_type.map_or(field.clone(), |kind| field.of(kind));
    let field = said.description.as_ref().map_or(field.clone(), |text| field.description(text));
    if said.required == Some(false) { field.optional() } else { field }
}

/// `5 USD`, `200000 tokens`, `100 calls`.
///
/// # Errors
/// The field that is wrong, and why.
fn budget_of(said: &syntax::Budget) -> Result<Budget, (&'static str, String)> {
    let example = "write 5 USD, 200000 tokens or 100 calls";
    let parts = said.limit.split_once(' ').filter(|(_, unit)| !unit.trim().is_empty());
    let (amount, unit) = parts.ok_or_else(|| ("limit", format!("it is not an amount: {example}")))?;
    let unit = BudgetUnit::from(unit.to_owned());
    let limit = unit.amount_of(amount).map_err(|problem| ("limit", format!("{problem}; {example}")))?;
    let per = BudgetScope::ALL.into_iter().find(|per| per.as_str() == said.per);
    let per = per.ok_or_else(|| ("per", "write run, session, user or all".to_owned()))?;
    let (shared, time_zone) = (said.shared.as_deref().map(Arc::from), said.time_zone.as_deref().map(Arc::from));
    if limit == 0 {
        return Err(("limit", format!("nothing could be used: it must be more than 0; {example}")));
    }
    let budget = Budget { unit, limit, per, daily: said.daily.unwrap_or_default(), time_zone, shared };
    match outlive_engine::budget_problem(&budget) {
        Some(problem) => Err(("time_zone", problem)),
        None => Ok(budget),
    }
}

/// A name in quotes after words, at the beginning of a problem: `Loop "Polish": it has …` or `an agent step "Draft": only …`.
fn named(text: &str) -> Option<(String, &str)> {
    let (words, _) = text.split_once('"')?;
    let are_words = words.chars().all(|c| c.is_ascii_alphanumeric() || c == ' ');
    let quoted = text[words.len()..].strip_prefix('"').filter(|_| are_words && !words.is_empty())?;
    let mut end = 0;
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            '"' if !is_escaped => {
                end = at + 1;
                break;
            }
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    let name = serde_json::from_str(&format!("\"{}", &quoted[..end])).ok()?;
    let rest = &quoted[end..];
    Some((name, rest.strip_prefix(": ").unwrap_or(rest)))
}
