//! What is served: the server itself, and the workflows, agents and teams that the caller may see.

use super::Table;
use super::caller::Caller;
use crate::auth::{Doc, Needs, Routes};
use crate::problem::Problem;
use crate::state::{Component, Kind, State};
use crate::wire::component::{self as shapes, Os};
use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn routes() -> Table {
    let doc = |summary, tag| Doc { summary, tag, ..Doc::default() };
    Routes::new()
        .get("/", Needs::Open, home)
        .doc(doc("Where to look", "server"))
        .get("/health", Needs::Open, health)
        .doc(doc("The process is alive", "server"))
        .get("/ready", Needs::Open, ready)
        .doc(doc("The process accepts runs", "server"))
        .get("/info", Needs::Open, info)
        .doc(doc("What this server is", "server"))
        .get("/config", Needs::scope("config:read"), config)
        .doc(doc("Everything that is served", "server"))
        .get("/workflows", Needs::scope("workflows:{}:read"), async |caller: Caller| list(Kind::Workflow, &caller))
        .doc(doc("The workflows", "workflows"))
        .get("/workflows/{workflow_id}", Needs::scope("workflows:{workflow_id}:read"), async |caller: Caller, id| {
            get(Kind::Workflow, &caller, id)
        })
        .doc(doc("A workflow with its steps", "workflows"))
        .get("/agents", Needs::scope("agents:{}:read"), async |caller: Caller| list(Kind::Agent, &caller))
        .doc(doc("The agents", "agents"))
        .get("/agents/{agent_id}", Needs::scope("agents:{agent_id}:read"), async |caller: Caller, id| {
            get(Kind::Agent, &caller, id)
        })
        .doc(doc("An agent", "agents"))
        .get("/teams", Needs::scope("teams:{}:read"), async |caller: Caller| list(Kind::Team, &caller))
        .doc(doc("The teams", "teams"))
        .get("/teams/{team_id}", Needs::scope("teams:{team_id}:read"), async |caller: Caller, id| {
            get(Kind::Team, &caller, id)
        })
        .doc(doc("A team with its members", "teams"))
        .get("/api/schema/workflow", Needs::scope("docs:read"), file_schema)
        .doc(doc("The JSON Schema of workflow files, for editors", "api"))
}

impl State {
    fn os(&self) -> Os<'_> {
        let presentation = &self.presentation;
        Os {
            id: &presentation.id,
            name: &presentation.name,
            description: presentation.description.as_deref(),
            db_id: &presentation.db_id,
            session_table: &presentation.session_table,
        }
    }
}

async fn home(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    Json(shapes::home(state.os()))
}

async fn health(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    let mut health = shapes::health(state.started_at);
    if state.is_open_to_all {
        health["warning"] = json!("no credential is required: anyone who reaches this address may do everything");
    }
    Json(health)
}

/// Unlike `/health`, false while the server drains, its store has failed or its disk is nearly full.
async fn ready(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, Problem> {
    state.engine.ready()?;
    Ok(Json(json!({ "status": "ready" })))
}

async fn info(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    let served = state.served();
    let count = |kind| served.components(kind).count();
    let counts =
        shapes::Counts { agents: count(Kind::Agent), teams: count(Kind::Team), workflows: count(Kind::Workflow) };
    let auth = shapes::Auth { mode: state.auth.mode(), user_isolation: state.auth.is_on() };
    Json(shapes::info(state.os(), env!("CARGO_PKG_VERSION"), counts, auth))
}

async fn file_schema(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, Problem> {
    state.file_schema.clone().map(Json).ok_or_else(|| Problem::not_found("This program reads no workflow files"))
}

async fn config(caller: Caller) -> Json<Value> {
    let state = &caller.state;
    let details = |kind| -> Vec<Value> { visible(&caller, kind).map(|component| component.details.clone()).collect() };
    let workflows = visible(&caller, Kind::Workflow).map(|component| summary(state, component)).collect();
    Json(shapes::config(state.os(), &details(Kind::Agent), &details(Kind::Team), workflows))
}

/// The components of a kind that the caller may read.
fn visible(caller: &Caller, kind: Kind) -> impl Iterator<Item = &Component> {
    let may = move |component: &&Component| caller.principal.may(kind.plural(), &component.id, "read");
    caller.served.components(kind).filter(may)
}

fn summary(state: &State, component: &Component) -> Value {
    match component.kind {
        Kind::Workflow => shapes::workflow_summary(&component.definition, &state.presentation.db_id),
        Kind::Agent | Kind::Team => shapes::executor_detail(&component.details, state.os()),
    }
}

fn list(kind: Kind, caller: &Caller) -> Response {
    let lines: Vec<Value> = visible(caller, kind).map(|component| summary(&caller.state, component)).collect();
    Json(lines).into_response()
}

fn get(kind: Kind, caller: &Caller, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let state = &caller.state;
    let component = caller.served.component(kind, &id)?;
    Ok(Json(match kind {
        Kind::Workflow => shapes::workflow_detail(&component.definition, &state.presentation.db_id),
        Kind::Agent | Kind::Team => shapes::executor_detail(&component.details, state.os()),
    }))
}
