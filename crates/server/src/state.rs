//! What every request needs: the engine, what is served, and the settings.

use crate::audit::Audit;
use crate::auth::Auth;
use crate::config::Limits;
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::streams::Streams;
use crate::webhook::Webhooks;
use crate::wire::agent::{Face, Voice};
use outlive_core::port::SessionKind;
use outlive_core::{Definition, DefinitionId, Timestamp};
use outlive_engine::Engine;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// What kind of thing is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A workflow.
    Workflow,
    /// An agent served alone.
    Agent,
    /// A team served alone.
    Team,
}

impl Kind {
    /// What sessions with it are.
    pub(crate) fn session(self) -> SessionKind {
        match self {
            Self::Workflow => SessionKind::Workflow,
            Self::Agent => SessionKind::Agent,
            Self::Team => SessionKind::Team,
        }
    }

    /// The collection's name in paths and scopes.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Workflow => "workflows",
            Self::Agent => "agents",
            Self::Team => "teams",
        }
    }
}

/// The kind as it begins a sentence.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workflow => "Workflow",
            Self::Agent => "Agent",
            Self::Team => "Team",
        })
    }
}

/// A workflow, agent or team that is served. An agent or a team runs as a workflow of one step, so that its runs are as
/// durable as any; clients see the agent's run alone.
#[derive(Clone, Debug)]
pub struct Component {
    /// What it is.
    pub kind: Kind,
    /// The id in paths.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What executes.
    pub definition: Arc<Definition>,
    /// Agents and teams: the description a client gets, in Agno's shape. Workflows are described by their definition.
    pub details: Value,
}

/// Whether an address may be fetched, and if not, why, in words that name the remedy.
pub type AddressCheck = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// How the server presents itself.
#[derive(Clone, Debug)]
pub struct Presentation {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The database's id, as discovery shows it.
    pub db_id: String,
    /// The table of its sessions, as discovery shows it.
    pub session_table: String,
}

impl Default for Presentation {
    fn default() -> Self {
        Self {
            id: "outlive".to_owned(),
            name: "outlive".to_owned(),
            description: None,
            db_id: "outlive-db".to_owned(),
            session_table: "outlive_sessions".to_owned(),
        }
    }
}

/// Shared by all requests.
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) auth: Arc<Auth>,
    pub(crate) served: RwLock<Arc<Served>>,
    /// The JSON Schema of workflow files, where this program reads such files.
    pub(crate) file_schema: Option<Value>,
    pub(crate) presentation: Presentation,
    pub(crate) limits: Limits,
    pub(crate) streams: Arc<Streams>,
    /// Other machines are served and no credential is required.
    pub(crate) is_open_to_all: bool,
    /// Absent: no run may name an address.
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// Whether an image or a file may be fetched from an address, and why not.
    pub(crate) media_addresses: AddressCheck,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) started_at: Timestamp,
}

/// All that is served at one moment. It never changes: another takes its place, and a request looks at one of them.
#[derive(Default)]
pub(crate) struct Served {
    now: BTreeMap<(Kind, String), Component>,
    /// Those that take no new runs any more. Their runs are shown as before.
    before: BTreeMap<(Kind, String), Component>,
}

impl State {
    /// What is served now.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves these workflows in place of those before, to requests that come from now on. Returns those that are gone.
    pub(crate) fn replace_workflows(&self, workflows: Vec<Component>) -> Vec<DefinitionId> {
        let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
        let others = served.now.values().filter(|component| component.kind != Kind::Workflow).cloned();
        let mut next = Served::new(others.chain(workflows));
        let known = served.before.iter().chain(&served.now);
        let gone = known.filter(|(key, _)| !next.now.contains_key(key));
        next.before = gone.map(|(key, component)| (key.clone(), component.clone())).collect();
        let gone = next.before.values().map(|component| component.definition.id.clone()).collect();
        *served = Arc::new(next);
        gone
    }
}

impl Served {
    /// These.
    pub(crate) fn new(components: impl IntoIterator<Item = Component>) -> Self {
        let components = components.into_iter().map(|component| ((component.kind, component.id.clone()), component));
        Self { now: components.collect(), before: BTreeMap::new() }
    }

    /// The component with this id, to start a run of it.
    ///
    /// # Errors
    /// 404 in Agno's words.
    pub(crate) fn component(&self, kind: Kind, id: &str) -> Result<&Component, Problem> {
        self.now.get(&(kind, id.to_owned())).ok_or_else(|| unknown(kind))
    }

    /// The component with this id, to show runs of it: it may take no new ones any more.
    ///
    /// # Errors
    /// As [`Served::component`].
    pub(crate) fn known(&self, kind: Kind, id: &str) -> Result<&Component, Problem> {
        self.component(kind, id).or_else(|unknown| self.before.get(&(kind, id.to_owned())).ok_or(unknown))
    }

    /// The component whose runs have this workflow, to start one.
    pub(crate) fn starting(&self, workflow_id: &DefinitionId) -> Option<&Component> {
        self.now.values().find(|component| component.definition.id == *workflow_id)
    }

    /// The component whose runs have this workflow.
    pub(crate) fn component_of(&self, workflow_id: &DefinitionId) -> Option<&Component> {
        let before = || self.before.values().find(|component| component.definition.id == *workflow_id);
        self.starting(workflow_id).or_else(before)
    }

    /// The components of a kind, by id.
    pub(crate) fn components(&self, kind: Kind) -> impl Iterator<Item = &Component> {
        self.now.values().filter(move |component| component.kind == kind)
    }
}

fn unknown(kind: Kind) -> Problem {
    Problem { code: "unknown_component", ..Problem::not_found(format!("{kind} not found")) }
}

impl Component {
    /// How clients of `/agents` and `/teams` know it; nothing for a workflow.
    pub(crate) fn face(&self) -> Option<Face> {
        let voice = match self.kind {
            Kind::Workflow => return None,
            Kind::Agent => Voice::Agent,
            Kind::Team => Voice::Team,
        };
        let of_model = |key: &str| self.details["model"][key].as_str().map(str::to_owned);
        Some(Face {
            voice,
            id: self.id.clone(),
            name: self.name.clone(),
            model: of_model("model"),
            model_provider: of_model("provider"),
        })
    }
}
