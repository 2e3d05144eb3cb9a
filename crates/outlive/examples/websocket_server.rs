//! A workflow behind a WebSocket of one's own: when a program wants its own protocol, the engine needs no server crate.
//!
//! ```text
//! export OPENAI_API_KEY=…
//! cargo run --example websocket_server        ws://localhost:8000/ws
//! ```
//! The protocol is the one of the WebSocket client in Agno's cookbook (`background_execution/websocket_client.py`), which
//! can be used with it as it is. Its runs are durable: a client that was cut off finds them with `outlive events`.

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use outlive::prelude::*;
use outlive::serving::wire::frame::{self, Frame};
use serde_json::{Value, json};
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

/// What every connection shares.
struct App {
    workflow: Workflow,
    connections: AtomicUsize,
    authenticated: AtomicUsize,
    /// What clients must show; any token will do without.
    token: Option<String>,
}

fn tech_research_pipeline() -> outlive::Result<Workflow> {
    let name = std::env::var("OUTLIVE_MODEL").unwrap_or_else(|_| "openai:gpt-5.2".to_owned());
    let researcher = Agent::new("HackerNews Researcher")
        .model(name.as_str())
        .tools(HackerNewsTools::default())
        .instructions("Find what is said about the topic, with titles and scores.");
    let writer = Agent::new("Writer").model(name.as_str()).instructions("Sum the findings up in one paragraph.");
    Workflow::builder("Tech Research Pipeline")
        .db(SqliteDb::new("tmp/websocket_server.db"))
        .step(Step::new("hackernews_research").agent(researcher))
        .step(Step::new("summary").agent(writer))
        .build()
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8000".to_owned());
    let app = App {
        workflow: tech_research_pipeline().map_err(told)?,
        connections: AtomicUsize::new(0),
        authenticated: AtomicUsize::new(0),
        token: std::env::var("OS_SECURITY_KEY").ok().filter(|token| !token.is_empty()),
    };
    let router = Router::new().route("/", get(status)).route("/ws", get(upgrade)).with_state(Arc::new(app));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.map_err(told)?;
    writeln!(std::io::stdout(), "ws://127.0.0.1:{port}/ws").map_err(told)?;
    axum::serve(listener, router).await.map_err(told)
}

async fn status(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "status": "running",
        "message": "Background Workflow WebSocket Server",
        "endpoints": { "websocket": "/ws", "start-workflow": "start-workflow" },
        "connections": app.connections.load(Ordering::Relaxed),
        "authenticated": app.authenticated.load(Ordering::Relaxed),
    }))
}

async fn upgrade(State(app): State<Arc<App>>, socket: WebSocketUpgrade) -> impl IntoResponse {
    socket.on_upgrade(move |socket| async move {
        let number = app.connections.fetch_add(1, Ordering::Relaxed);
        let mut talk = Talk { app: app.clone(), socket, is_authenticated: false };
        // An error means that the client has gone; its runs go on.
        let _ = talk.hold(number).await;
        app.connections.fetch_sub(1, Ordering::Relaxed);
        app.authenticated.fetch_sub(usize::from(talk.is_authenticated), Ordering::Relaxed);
    })
}

/// One client.
struct Talk {
    app: Arc<App>,
    socket: WebSocket,
    is_authenticated: bool,
}

impl Talk {
    async fn hold(&mut self, number: usize) -> Result<(), axum::Error> {
        self.say(json!({
            "event": "connected",
            "connection_id": format!("conn_{number}"),
            "message": "Connected to workflow events. Please authenticate to continue.",
            "requires_auth": true,
        }))
        .await?;
        while let Some(message) = self.socket.recv().await {
            let Message::Text(text) = message? else { continue };
            match serde_json::from_str::<Value>(&text) {
                Ok(asked) => self.answer(asked).await?,
                Err(error) => {
                    let message = format!("Error processing message: {error}");
                    self.say(json!({ "event": "error", "message": message })).await?;
                }
            }
        }
        Ok(())
    }

    async fn answer(&mut self, asked: Value) -> Result<(), axum::Error> {
        let command = asked["action"].as_str().or(asked["type"].as_str()).unwrap_or_default();
        if command == "authenticate" {
            return self.authenticate(asked["token"].as_str().unwrap_or_default()).await;
        }
        if !self.is_authenticated {
            return self.say(frame::auth_required("token")).await;
        }
        match command {
            "ping" => self.say(frame::pong()).await,
            "start-workflow" => self.start(&asked).await,
            _ => self.say(json!({ "event": "echo", "original_message": asked })).await,
        }
    }

    async fn authenticate(&mut self, token: &str) -> Result<(), axum::Error> {
        let is_right = match &self.app.token {
            _ if token.is_empty() => return self.say(frame::auth_error("Token is required", None)).await,
            Some(expected) => token == expected,
            None => true,
        };
        if !is_right {
            return self.say(frame::auth_error("Invalid token", None)).await;
        }
        if !self.is_authenticated {
            self.is_authenticated = true;
            self.app.authenticated.fetch_add(1, Ordering::Relaxed);
        }
        self.say(frame::authenticated(None)).await
    }

    /// Starts a run and tells its events to the end.
    async fn start(&mut self, asked: &Value) -> Result<(), axum::Error> {
        let input = asked["message"].as_str().unwrap_or_default();
        let session_id = asked["session_id"].as_str().unwrap_or("websocket");
        let starting = format!("Starting workflow with message: {input}");
        self.say(json!({ "event": "workflow_starting", "message": starting, "session_id": session_id })).await?;
        let run = match self.app.workflow.run(input).session_id(session_id).background().await {
            Ok(run) => run,
            Err(error) => return self.say(json!({ "event": "error", "message": error.to_string() })).await,
        };
        self.say(json!({
            "event": "workflow_initiated",
            "run_id": run.run_id(),
            "session_id": session_id,
            "message": "Background streaming workflow initiated successfully",
        }))
        .await?;
        let mut events = run.events(None);
        loop {
            match events.next().await {
                Ok(Some(event)) => self.socket.send(Message::Text(Frame::event(event).socket().into())).await?,
                Ok(None) => return Ok(()),
                Err(error) => return self.say(json!({ "event": "error", "message": error.to_string() })).await,
            }
        }
    }

    async fn say(&mut self, body: Value) -> Result<(), axum::Error> {
        self.socket.send(Message::Text(body.to_string().into())).await
    }
}

fn told(error: impl Display) -> String {
    error.to_string()
}
