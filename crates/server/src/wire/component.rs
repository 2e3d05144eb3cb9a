//! Discovery: what is served, and by whom.
//!
//! It must never know a secret: it shows names, ids, descriptions and what executors say of themselves. The invariant: an
//! id shown here is one that a request may use.

use super::iso_micros;
use super::run::without_nulls;
use outlive_core::{Definition, ExecutorKind, Key, Node, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The release of AgentOS whose calls are answered; clients may ask before they use one.
pub const AGNO_VERSION: &str = "3.1.10";

/// The server as it presents itself.
#[derive(Clone, Copy, Debug)]
pub struct Os<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it is for.
    pub description: Option<&'a str>,
    /// The database's id.
    pub db_id: &'a str,
    /// The table of its sessions.
    pub session_table: &'a str,
}

/// How requests prove who sends them.
#[derive(Clone, Copy, Debug)]
pub struct Auth<'a> {
    /// `none`, `security_key` or `jwt`.
    pub mode: &'a str,
    /// Whether users see only what is theirs.
    pub user_isolation: bool,
}

/// How much is served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Agents.
    pub agents: usize,
    /// Teams.
    pub teams: usize,
    /// Workflows.
    pub workflows: usize,
}

/// `GET /`.
pub fn home(os: Os<'_>) -> Value {
    json!({ "name": os.name, "health": "/health", "info": "/info", "docs": "/docs" })
}

/// `GET /health`.
pub fn health(started_at: Timestamp) -> Value {
    json!({ "status": "ok", "instantiated_at": iso_micros(started_at) })
}

/// `GET /info`.
pub fn info(os: Os<'_>, version: &str, counts: Counts, auth: Auth<'_>) -> Value {
    json!({
        "os_id": os.id,
        "name": os.name,
        "os_version": version,
        "agno_version": AGNO_VERSION,
        "agent_count": counts.agents,
        "team_count": counts.teams,
        "workflow_count": counts.workflows,
        "mcp": { "enabled": false, "path": null, "oauth": null, "tool_run_endpoint": false },
        "auth_mode": auth.mode,
        "user_isolation": auth.user_isolation,
    })
}

/// `GET /config`. `agents` and `teams` are descriptions in Agno's shape, `workflows` lines of [`workflow_summary`]: only
/// those the caller may see.
pub fn config(os: Os<'_>, agents: &[Value], teams: &[Value], workflows: Vec<Value>) -> Value {
    let domain = |table: Option<&str>| {
        let mut db = json!({ "db_id": os.db_id, "domain_config": { "display_name": os.db_id } });
        if let Some(table) = table {
            db["tables"] = json!([table]);
        }
        json!({ "dbs": [db] })
    };
    let none = json!({ "dbs": [] });
    json!({
        "os_id": os.id,
        "name": os.name,
        "description": os.description,
        "available_models": models(agents.iter().chain(teams)),
        "os_database": os.db_id,
        "databases": [os.db_id],
        "session": domain(Some(os.session_table)),
        "metrics": none,
        "memory": none,
        "learning": none,
        "filesystem": { "namespaces": [] },
        "knowledge": { "dbs": [], "knowledge_instances": [] },
        "evals": none,
        "traces": domain(None),
        "queue": { "durable": true, "queue_per_session": true },
        "agents": agents.iter().map(|agent| executor_summary(agent, os.db_id)).collect::<Vec<_>>(),
        "teams": teams.iter().map(|team| executor_summary(team, os.db_id)).collect::<Vec<_>>(),
        "workflows": workflows,
        "interfaces": [],
        // Written although it is null: that is how a client knows to hide the page.
        "company": null,
    })
}

/// Every model of these descriptions and of their members, once.
fn models<'a>(descriptions: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut found = BTreeSet::new();
    let mut rest: Vec<_> = descriptions.collect();
    while let Some(description) = rest.pop() {
        rest.extend(description["members"].as_array().into_iter().flatten());
        if let (Some(id), Some(provider)) =
            (description["model"]["model"].as_str(), description["model"]["provider"].as_str())
        {
            found.insert((id, provider));
        }
    }
    found.into_iter().map(|(id, provider)| json!({ "id": id, "provider": provider })).collect()
}

/// A line of `GET /workflows`, and of `GET /config`.
pub fn workflow_summary(definition: &Definition, db_id: &str) -> Value {
    without_nulls(json!({
        "id": definition.id,
        "name": definition.name,
        "description": definition.description,
        "db_id": db_id,
        "is_factory": false,
        "is_component": false,
        "sandboxed": false,
    }))
}

/// `GET /workflows/{id}`.
pub fn workflow_detail(definition: &Definition, db_id: &str) -> Value {
    let steps: Vec<_> = if definition.is_function {
        Vec::new()
    } else {
        (0..).zip(&*definition.nodes).map(|(place, node)| step(definition, node, &Key::step(place))).collect()
    };
    without_nulls(json!({
        "id": definition.id,
        "name": definition.name,
        "db_id": db_id,
        "description": definition.description,
        "input_schema": definition.input_schema.as_ref().map(|input| &input.schema),
        "steps": steps,
        "workflow_agent": definition.leader.is_some(),
        "is_factory": false,
        "is_component": false,
        "sandboxed": false,
    }))
}

fn step(definition: &Definition, node: &Node, key: &Key) -> Value {
    let all = |other| -> Option<Vec<Value>> {
        let child = |(place, child)| step(definition, child, &node.child_key(key, other, place));
        let children: Vec<Value> = (0..).zip(node.children(other)).map(child).collect();
        Some(children).filter(|children| !children.is_empty())
    };
    let mut body = json!({
        "name": node.name(),
        "type": node.kind(),
        "description": node.description(),
        "steps": all(false),
        "else_steps": all(true),
    });
    if let (Node::Step(step), Some(executor)) =
        (node, definition.executor(key).and_then(|executor| executor.describe()))
    {
        match step.executor_type {
            ExecutorKind::Agent => body["agent"] = executor,
            ExecutorKind::Team => body["team"] = executor,
            ExecutorKind::Function | ExecutorKind::Workflow | ExecutorKind::Parallel => {}
        }
    }
    without_nulls(body)
}

/// `GET /agents/{id}`, `GET /teams/{id}` and a line of `GET /agents`, `GET /teams`: the description with its database.
pub fn executor_detail(description: &Value, os: Os<'_>) -> Value {
    let mut body = description.clone();
    body["db_id"] = json!(os.db_id);
    body["sessions"] = json!({ "session_table": os.session_table });
    body
}

/// A line of `GET /config`.
fn executor_summary(description: &Value, db_id: &str) -> Value {
    without_nulls(json!({
        "id": description["id"],
        "name": description["name"],
        "description": description["description"],
        "db_id": db_id,
        "mode": description["mode"],
        "model": model_line(description),
        "sandboxed": false,
    }))
}

/// The model as `/config` names it: `{"id", "provider"}`.
fn model_line(description: &Value) -> Option<Value> {
    let model = description.get("model")?;
    Some(json!({ "id": model["model"], "provider": model["provider"] }))
}

/// The model as a session keeps it: `{"name", "id", "provider"}`.
pub(super) fn stored_model(description: &Value) -> Option<Value> {
    let model = description.get("model")?;
    Some(json!({ "name": model["name"], "id": model["model"], "provider": model["provider"] }))
}
