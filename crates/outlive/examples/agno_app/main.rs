//! The workflows, agents and teams that Agno's clients are tried against, in one program.
//!
//! ```text
//! export OPENAI_API_KEY=…                              OPENAI_BASE_URL for another server
//! cargo run --release --example agno_app               serves them on PORT (7777), with AGNO_DB as the file (tmp.db)
//! cargo run --example agno_app -- list                 the ids
//! cargo run --example agno_app -- run fn-pipeline hi   runs one and prints its events, one JSON object a line
//! cargo run --example agno_app -- describe             agents and teams as JSON, one a line
//! ```
//! An agent or a team runs by itself under `agent:ID` or `team:ID`.

mod text;
mod workflows;

use outlive::Server;
use outlive::agent::model;
use outlive::core::port::Db;
use outlive::engine::SystemClock;
use outlive::prelude::*;
use outlive::serving::auth::jwt::{JwtKey, JwtVerifier};
use outlive::serving::auth::{Auth, Secret};
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use workflows::Models;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match obey(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn obey(words: &[&str]) -> Result<(), String> {
    let app = App::from_environment()?;
    match words {
        [] => serve(app).await,
        ["list"] => app.workflows.iter().try_for_each(|workflow| say(&workflow.definition().id)),
        ["describe"] => app.describe(),
        ["run", id] => app.run(id, None).await,
        ["run", id, input @ ..] => app.run(id, Some(input.join(" "))).await,
        _ => Err("usage: agno_app [list | describe | run ID [INPUT]]".to_owned()),
    }
}

/// Everything there is to serve.
struct App {
    db: Arc<dyn Db>,
    models: Models,
    workflows: Vec<Workflow>,
}

impl App {
    fn from_environment() -> Result<Self, String> {
        let file = std::env::var("AGNO_DB").unwrap_or_else(|_| "tmp.db".to_owned());
        let db: Arc<dyn Db> = Arc::new(SqliteDb::new(file).session_table("workflow_session"));
        let models = Models { responses: model::parse("openai:gpt-5.2")?, chat: model::parse("openai-chat:gpt-5.2")? };
        let workflows = [workflows::workflows(&models, &db), workflows::alone(&models, &db)];
        let workflows = workflows.into_iter().collect::<Result<Vec<_>, _>>().map_err(told)?.concat();
        Ok(Self { db, models, workflows })
    }

    fn describe(&self) -> Result<(), String> {
        let agents = workflows::agents(&self.models);
        let teams = workflows::teams(&self.models);
        let mut all = agents.iter().map(Agent::describe).chain(teams.iter().map(Team::describe));
        all.try_for_each(say)
    }

    async fn run(&self, id: &str, input: Option<String>) -> Result<(), String> {
        let known = self.workflows.iter().find(|workflow| workflow.definition().id.as_str() == id);
        let workflow = known.ok_or_else(|| format!("there is no workflow {id}: see agno_app list"))?;
        let run = workflow.run(input).background().await.map_err(told)?;
        let mut events = run.events(None);
        while let Some(event) = events.next().await.map_err(told)? {
            say(serde_json::to_string(&event).map_err(told)?)?;
        }
        let done = run.await.map(drop).map_err(told);
        workflow.shutdown().await.map_err(told)?;
        done
    }
}

/// Serves everything on `PORT` until it is interrupted.
async fn serve(app: App) -> Result<(), String> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "7777".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is a number from 1 to 65535, not {port:?}"))?;
    let mut server = Server::on(app.db.clone())
        .name("contract-os", "Contract OS")
        .description("what Agno's clients are tried against")
        .db_id("contract-db")
        .session_table("workflow_session")
        .auth(auth()?);
    for secret in ["OS_SECURITY_KEY", "JWT"].into_iter().filter_map(set) {
        server = server.secret(secret);
    }
    for workflow in app.workflows.iter().filter(|workflow| !workflow.definition().id.as_str().contains(':')) {
        server = server.workflow(workflow);
    }
    for agent in workflows::agents(&app.models) {
        server = server.agent(&agent);
    }
    for team in workflows::teams(&app.models) {
        server = server.team(&team);
    }
    let server = server.start().await.map_err(told)?;
    say(format_args!("serving http://127.0.0.1:{port} on {}", app.db.location()))?;
    server.serve(&format!("127.0.0.1:{port}")).await.map_err(told)
}

/// What callers must show: the key in `OS_SECURITY_KEY`, or a token signed with `JWT` by HS256; nothing without them.
fn auth() -> Result<Auth, String> {
    let auth = Auth::new(Arc::new(SystemClock));
    if let Some(secret) = set("JWT") {
        let key = JwtKey::new("HS256", &secret).map_err(told)?;
        return Ok(auth.jwt(JwtVerifier::new(vec![key])));
    }
    Ok(match set("OS_SECURITY_KEY") {
        Some(key) => auth.security_key(&key),
        None => auth,
    })
}

fn set(name: &str) -> Option<Secret> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(Secret::new)
}

fn say(line: impl Display) -> Result<(), String> {
    writeln!(std::io::stdout(), "{line}").map_err(told)
}

fn told(error: impl Display) -> String {
    error.to_string()
}
