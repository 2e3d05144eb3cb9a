//! What the server offers, said to programs (`/openapi.json`, OpenAPI 3.1) and to people (`/docs`).
//!
//! It is written from the table of routes and from the types of the bodies, so it cannot name a call that is not there. It
//! must never know a run. The page needs nothing from elsewhere and no inline script. Both are open where no credential is
//! asked for, else behind the scope `docs:read`.

use crate::auth::scope::for_all_users;
use crate::auth::{Doc, Field, Needs, RouteTable, Routes, Rule, Verb};
use crate::routes::api::shape;
use crate::state::State;
use axum::Json;
use axum::extract::{Extension, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("docs.js");
const STYLE: &str = include_str!("docs.css");

const NEEDS: Needs = Needs::scope("docs:read");

pub(crate) fn routes() -> Routes<Arc<State>> {
    let doc = |summary| Doc { summary, tag: "server", ..Doc::default() };
    Routes::new()
        .get("/openapi.json", NEEDS, description)
        .doc(doc("This description"))
        .get("/docs", NEEDS, async || Html(PAGE))
        .doc(doc("This description as a page that can try the calls"))
        .get("/docs/docs.js", NEEDS, async || file("text/javascript; charset=utf-8", SCRIPT))
        .doc(doc("The page's script"))
        .get("/docs/docs.css", NEEDS, async || file("text/css; charset=utf-8", STYLE))
        .doc(doc("The page's style"))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind)], text)
}

async fn description(Shared(state): Shared<Arc<State>>, Extension(table): Extension<RouteTable>) -> Json<Value> {
    Json(document(&state.presentation.name, &table))
}

/// The description of everything in the table.
fn document(title: &str, table: &RouteTable) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for rule in table.iter() {
        let item = paths.entry(rule.path).or_insert_with(|| json!({}));
        match rule.method {
            Verb::Message(action) => {
                let messages = item.as_object_mut().expect("an item is an object").entry("x-messages");
                let messages = messages.or_insert_with(|| json!([]));
                let message = json!({ "action": action, "summary": rule.doc.summary, "x-scope": scope(rule) });
                messages.as_array_mut().expect("messages are an array").push(message);
            }
            method => item[method.as_str().to_ascii_lowercase()] = operation(rule),
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": title, "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "A key or a token" },
            },
        },
    })
}

fn operation(rule: &Rule) -> Value {
    let doc = rule.doc;
    let mut operation = json!({
        "operationId": operation_id(rule),
        "summary": doc.summary,
        "tags": [if doc.tag.is_empty() { "server" } else { doc.tag }],
        "responses": responses(rule),
    });
    let query = doc.query.iter().map(|field| parameter("query", field));
    let headers = doc.headers.iter().map(|field| parameter("header", field));
    let parameters: Vec<Value> = rule.parameters().map(path_parameter).chain(query).chain(headers).collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    if let Some(content) = body(&doc) {
        operation["requestBody"] = json!({ "required": !doc.is_body_optional, "content": content });
    }
    match rule.needs {
        Needs::Open => operation["security"] = json!([]),
        Needs::Identity => operation["security"] = json!([{ "bearer": [] }]),
        Needs::Scope(_) => {
            let (scope, for_all_users) = (scope(rule), scope_for_all_users(rule));
            let either = [scope.as_str(), for_all_users].into_iter().flatten();
            operation["security"] = either.map(|scope| json!({ "bearer": [scope] })).collect();
            operation["x-scope"] = scope;
            if let Some(for_all_users) = for_all_users {
                operation["x-scope-for-all-users"] = Value::from(for_all_users);
            }
        }
    }
    operation
}

/// The scope a caller needs; null where none is needed.
fn scope(rule: &Rule) -> Value {
    match rule.needs {
        Needs::Scope(scope) => Value::from(scope.replace(":{}:", ":")),
        Needs::Open | Needs::Identity => Value::Null,
    }
}

/// The scope that allows the same on every user's data, where there is one besides the administrator's.
fn scope_for_all_users(rule: &Rule) -> Option<&'static str> {
    let Needs::Scope(scope) = rule.needs else { return None };
    scope.split(':').next().and_then(for_all_users)
}

/// `get_api_runs_run_id`.
fn operation_id(rule: &Rule) -> String {
    let words = rule.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let verb = rule.method.as_str().to_ascii_lowercase();
    std::iter::once(verb.as_str()).chain(words).collect::<Vec<_>>().join("_")
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
}

fn parameter(place: &str, field: &Field) -> Value {
    json!({
        "name": field.name,
        "in": place,
        "required": field.required,
        "description": field.summary,
        "schema": { "type": field.kind },
    })
}

fn body(doc: &Doc) -> Option<Value> {
    if let Some(name) = doc.body {
        return Some(json!({ "application/json": { "schema": reference(name) } }));
    }
    if doc.form.is_empty() {
        return None;
    }
    let property = |field: &Field| (field.name.to_owned(), json!({ "type": field.kind, "description": field.summary }));
    let properties: Map<String, Value> = doc.form.iter().map(property).collect();
    let required: Vec<&str> = doc.form.iter().filter(|field| field.required).map(|field| field.name).collect();
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    Some(json!({
        "multipart/form-data": { "schema": schema },
        "application/x-www-form-urlencoded": { "schema": schema },
    }))
}

fn responses(rule: &Rule) -> Value {
    let answer = match rule.doc.answer {
        Some(name) => json!({
            "description": "Done",
            "content": { "application/json": { "schema": reference(name) } },
        }),
        None => json!({ "description": "Done" }),
    };
    let problem = match rule.path {
        path if path.starts_with("/api/") => "ApiProblem",
        path if path.starts_with("/v1/") => "OpenAIProblem",
        _ => "Problem",
    };
    json!({
        "2XX": answer,
        "default": {
            "description": "Refused or failed",
            "content": { "application/json": { "schema": reference(problem) } },
        },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schemas that documentation names.
fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    add::<shape::CreateRun>(&mut generator);
    add::<shape::ForkRun>(&mut generator);
    add::<shape::ForkPreview>(&mut generator);
    add::<shape::AcceptedRun>(&mut generator);
    add::<shape::CancelRun>(&mut generator);
    add::<shape::CancelledRun>(&mut generator);
    add::<shape::PruneRuns>(&mut generator);
    add::<shape::PrunedRuns>(&mut generator);
    add::<shape::Question>(&mut generator);
    add::<shape::QuestionList>(&mut generator);
    add::<shape::AnswerQuestion>(&mut generator);
    add::<shape::Budget>(&mut generator);
    add::<shape::BudgetList>(&mut generator);
    add::<shape::RaiseBudget>(&mut generator);
    add::<shape::CreateSchedule>(&mut generator);
    add::<shape::Schedule>(&mut generator);
    add::<shape::ScheduleList>(&mut generator);
    add::<shape::TickList>(&mut generator);
    add::<shape::CreateBatch>(&mut generator);
    add::<shape::AddItems>(&mut generator);
    add::<shape::Batch>(&mut generator);
    add::<shape::BatchList>(&mut generator);
    add::<shape::ItemList>(&mut generator);
    add::<shape::RetryItems>(&mut generator);
    add::<shape::BulkRuns>(&mut generator);
    add::<shape::BulkResult>(&mut generator);
    add::<shape::RunList>(&mut generator);
    add::<shape::RunDetail>(&mut generator);
    add::<shape::StepPage>(&mut generator);
    add::<shape::EventPage>(&mut generator);
    add::<shape::WorkerList>(&mut generator);
    add::<shape::AuditList>(&mut generator);
    add::<crate::routes::hooks::Webhook>(&mut generator);
    add::<crate::wire::agui::input::RunAgentInput>(&mut generator);
    let mut schemas = generator.take_definitions(true);
    schemas.extend(written_by_hand());
    schemas
}

fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
    // The reference is not needed: what it refers to stays with the generator.
    let _ = generator.subschema_for::<T>();
}

/// Schemas of bodies in Agno's and in OpenAI's shape, as far as clients may rely on them, and of errors.
fn written_by_hand() -> [(String, Value); 7] {
    let text = || json!({ "type": "string" });
    let detail = json!({
        "description": "One sentence, or what is wrong with which fields",
        "anyOf": [text(), { "type": "array", "items": {
            "type": "object",
            "properties": { "type": text(), "loc": { "type": "array", "items": text() }, "msg": text() },
            "required": ["type", "loc", "msg"],
        } }],
    });
    [
        (
            "Run".to_owned(),
            json!({
                "type": "object",
                "description": "A run in Agno's shape",
                "properties": { "run_id": text(), "session_id": text(), "status": text(), "content": {}, "created_at": {} },
                "required": ["run_id", "session_id", "status"],
            }),
        ),
        (
            "StepOutput".to_owned(),
            json!({
                "type": "object",
                "description": "A step's output, in Agno's shape",
                "properties": {
                    "content": {},
                    "step_name": { "type": ["string", "null"] },
                    "step_id": { "type": ["string", "null"] },
                    "success": { "type": "boolean" },
                    "error": { "type": ["string", "null"] },
                },
                "required": ["content", "success"],
            }),
        ),
        (
            "Problem".to_owned(),
            json!({
                "type": "object",
                "description": "The code and the request's id are in the headers x-error-code and x-request-id",
                "properties": { "detail": detail },
                "required": ["detail"],
            }),
        ),
        (
            "ApiProblem".to_owned(),
            json!({
                "type": "object",
                "properties": {
                    "detail": detail,
                    "error_code": text(),
                    "request_id": text(),
                    "status": { "type": "string", "description": "409: the run's status that does not allow it" },
                },
                "required": ["detail", "error_code", "request_id"],
            }),
        ),
        (
            "CreateResponse".to_owned(),
            json!({
                "type": "object",
                "description": "What OpenAI's SDKs send; a parameter that is not listed is ignored or refused by its name",
                "properties": {
                    "model": { "type": "string", "description": "A workflow's id, agent:ID or team:ID" },
                    "input": {
                        "description": "A text, or messages with texts, images and files",
                        "anyOf": [text(), { "type": "array", "items": { "type": "object" } }],
                    },
                    "instructions": { "type": "string", "description": "Stands before the input" },
                    "background": { "type": "boolean", "description": "Answer at once (default false)" },
                    "stream": { "type": "boolean", "description": "Answer with Server-Sent Events (default false)" },
                    "previous_response_id": { "type": "string", "description": "Go on in the session of that run" },
                    "conversation": { "type": "string", "description": "The session's id; it begins when there is none" },
                    "metadata": { "type": "object", "additionalProperties": text() },
                    "user": { "type": "string", "description": "The user; a credential that names one takes precedence" },
                },
                "required": ["model", "input"],
            }),
        ),
        (
            "Response".to_owned(),
            json!({
                "type": "object",
                "description": "A run as a response of OpenAI's",
                "properties": {
                    "id": text(),
                    "status": {
                        "type": "string",
                        "enum": ["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"],
                    },
                    "model": text(),
                    "output": { "type": "array", "description": "One message, once the response is over", "items": {} },
                    "error": { "type": ["object", "null"] },
                    "outlive": {
                        "type": "object",
                        "description": "The run: its id, its status, and where it waits for people",
                        "properties": { "run_id": text(), "status": text(), "paused_step_name": text() },
                        "required": ["run_id", "status"],
                    },
                },
                "required": ["id", "status", "model", "output", "outlive"],
            }),
        ),
        (
            "OpenAIProblem".to_owned(),
            json!({
                "type": "object",
                "properties": { "error": {
                    "type": "object",
                    "properties": {
                        "message": text(),
                        "type": text(),
                        "param": { "type": ["string", "null"], "description": "The parameter: input[0].content" },
                        "code": text(),
                    },
                    "required": ["message", "type", "param", "code"],
                } },
                "required": ["error"],
            }),
        ),
    ]
}
