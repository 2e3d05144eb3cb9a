//! Sessions: the line in a list, the page around it, and the detail of one.
//!
//! It must never know who may see a session. The invariant: a session without a name shows the input of its first run as
//! its name, and nothing when it has no run.

use super::iso;
use super::run::without_nulls;
use outlive_core::port::{Session, SessionKind};
use outlive_core::{Definition, Message, Metrics, Role};
use serde_json::{Value, json};

/// A session and what its runs say about it.
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts<'a> {
    /// As it is stored.
    pub session: &'a Session,
    /// The input of its first run, as text.
    pub first_input: Option<&'a str>,
    /// What its runs used together; none when nobody has added it up.
    pub usage: Option<&'a Metrics>,
}

impl<'a> SessionFacts<'a> {
    /// The session alone.
    pub fn new(session: &'a Session) -> Self {
        Self { session, first_input: None, usage: None }
    }

    fn name(&self) -> &'a str {
        self.session.name.as_deref().or(self.first_input).unwrap_or_default()
    }

    fn metrics(&self) -> Value {
        // Agno's sums have no times.
        self.usage.map_or_else(
            || json!({}),
            |usage| json!(Metrics { duration: None, time_to_first_token: None, ..usage.clone() }),
        )
    }

    fn total_tokens(&self) -> Option<u64> {
        self.usage.map(|usage| usage.usage.total_tokens).filter(|tokens| *tokens > 0)
    }

    fn component_id(&self) -> Option<&'a str> {
        let id = self.session.workflow_id.as_ref()?.as_str();
        let prefix = match self.session.kind {
            SessionKind::Workflow => "",
            SessionKind::Agent => "agent:",
            SessionKind::Team => "team:",
        };
        Some(id.strip_prefix(prefix).unwrap_or(id))
    }

    fn has_metadata(&self) -> bool {
        self.session.kind == SessionKind::Workflow || !self.session.metadata.is_empty()
    }
}

/// Agno's word for a kind of session.
pub fn kind_name(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Workflow => "workflow",
        SessionKind::Agent => "agent",
        SessionKind::Team => "team",
    }
}

/// A kind of session by Agno's word, as the query `type` has it.
pub fn kind_named(name: &str) -> Option<SessionKind> {
    SessionKind::ALL.into_iter().find(|kind| kind_name(*kind) == name)
}

fn component_key(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Workflow => "workflow_id",
        SessionKind::Agent => "agent_id",
        SessionKind::Team => "team_id",
    }
}

/// A line of `GET /sessions`.
pub fn summary(facts: SessionFacts<'_>) -> Value {
    let session = facts.session;
    let mut body = json!({
        "session_id": session.session_id,
        "session_name": facts.name(),
        "session_state": session.state,
        "created_at": iso(session.created_at),
        "updated_at": iso(session.updated_at),
        "session_type": kind_name(session.kind),
        "user_id": session.user_id,
        "metrics": facts.metrics(),
        "total_tokens": facts.total_tokens(),
        "metadata": Some(&session.metadata).filter(|_| facts.has_metadata()),
    });
    body[component_key(session.kind)] = json!(facts.component_id());
    without_nulls(body)
}

/// A page of `GET /sessions`. `page` counts from 1; `limit` is at least 1.
pub fn page(lines: Vec<Value>, page: u64, limit: u64, total: u64, search_time_ms: f64) -> Value {
    json!({
        "data": lines,
        "meta": {
            "page": page,
            "limit": limit,
            "total_pages": total.div_ceil(limit.max(1)),
            "total_count": total,
            "search_time_ms": search_time_ms,
        },
    })
}

/// A workflow's session. `definition` is absent when nothing ran in it yet, or when the workflow is not served.
pub fn workflow_detail(facts: SessionFacts<'_>, definition: Option<&Definition>) -> Value {
    let session = facts.session;
    let workflow_data = definition.map_or_else(
        || json!({}),
        |definition| {
            let step = |node: &outlive_core::Node| {
                json!({ "name": node.name(), "description": node.description(), "type": node.kind() })
            };
            let steps: Vec<_> = definition.nodes.iter().filter(|_| !definition.is_function).map(step).collect();
            json!({ "workflow_id": definition.id, "name": definition.name, "steps": steps })
        },
    );
    let session_data = json!({
        "session_state": session.state,
        // As absent as the definition: nothing ran yet, so there is nothing to add up.
        "session_metrics": definition.map(|_| facts.metrics()),
        "session_name": session.name,
    });
    without_nulls(json!({
        "user_id": session.user_id,
        "workflow_id": session.workflow_id,
        "session_id": session.session_id,
        "session_name": facts.name(),
        "session_data": without_nulls(session_data),
        "session_state": session.state,
        "workflow_data": workflow_data,
        "metadata": session.metadata,
        "created_at": iso(session.created_at),
        "updated_at": iso(session.updated_at),
    }))
}

/// An agent's or team's session. `description` is the agent's or team's, in Agno's shape; `messages` are those of its
/// runs, oldest first.
pub fn agent_detail(facts: SessionFacts<'_>, description: Option<&Value>, messages: &[Message]) -> Value {
    let session = facts.session;
    let component = facts.component_id();
    let key = component_key(session.kind);
    let (session_key, data_key) = match session.kind {
        SessionKind::Workflow | SessionKind::Agent => ("agent_session_id", "agent_data"),
        SessionKind::Team => ("team_session_id", "team_data"),
    };
    let history: Vec<_> =
        messages.iter().filter(|message| message.role != Role::System && !message.from_history).collect();
    let mut body = json!({
        "user_id": session.user_id,
        "session_id": session.session_id,
        "session_name": facts.name(),
        "session_state": session.state,
        "total_tokens": facts.total_tokens(),
        "metrics": facts.metrics(),
        "metadata": Some(&session.metadata).filter(|_| facts.has_metadata()),
        "chat_history": history,
        "created_at": iso(session.created_at),
        "updated_at": iso(session.updated_at),
    });
    body[session_key] = json!(session.session_id);
    body[key] = json!(component);
    if let Some(description) = description {
        let mut data = json!({ "name": description["name"], "model": super::component::stored_model(description) });
        data[key] = json!(component);
        body[data_key] = without_nulls(data);
    }
    without_nulls(body)
}
