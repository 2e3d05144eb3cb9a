//! What the `agno_app` example serves, in this process, on a port of its own.

use super::tokens;
use crate::agno_workflows::workflows::{self, Models};
use crate::world::World;
use outlive::Server;
use outlive::agent::model::IntoModel;
use outlive::core::RunId;
use outlive::core::port::Db;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server on the world's database and model server.
pub(crate) struct App {
    pub(crate) address: std::net::SocketAddr,
    server: Server,
    stop: oneshot::Sender<()>,
    running: JoinHandle<outlive::Result<()>>,
}

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9/v1";

impl App {
    /// Serves for the replay of this recording.
    pub(crate) async fn start(world: &World, recording: &str) -> Self {
        let (mut responses, mut chat) = (world.responses(), world.chat());
        if recording == "model_unreachable" {
            (responses, chat) = (responses.base_url(NOBODY), chat.base_url(NOBODY));
        }
        let models = Models { responses: responses.into_model().unwrap(), chat: chat.into_model().unwrap() };
        let db: Arc<dyn Db> = Arc::new(world.db());
        let mut builder = Server::on(db.clone())
            .name("contract-os", "Contract OS")
            .description("what Agno's clients are tried against")
            .db_id("contract-db")
            .session_table("workflow_session")
            .auth(tokens::auth(recording));
        for workflow in workflows::workflows(&models, &db).unwrap() {
            builder = builder.workflow(&workflow);
        }
        for agent in workflows::agents(&models) {
            builder = builder.agent(&agent);
        }
        for team in workflows::teams(&models) {
            builder = builder.team(&team);
        }
        let server = builder.start().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = server.clone();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serving.serve_on(vec![listener], stopped).await
        });
        Self { address, server, stop, running }
    }

    /// Ends the server as a signal would.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap().unwrap();
    }

    /// Waits until this run is at its first step, waits for people, or is over; returns at once when there is none.
    pub(crate) async fn run_began(&self, run_id: &str) {
        if let Ok(run_id) = RunId::parse(run_id) {
            let mut events = self.server.engine().events(&run_id, None);
            while let Ok(Some(event)) = events.next().await
                && !matches!(event.name(), "StepStarted" | "WorkflowPaused")
            {}
        }
    }

    /// Waits for the end of this run; returns at once when there is none.
    pub(crate) async fn run_ended(&self, run_id: &str) {
        if let Ok(run_id) = RunId::parse(run_id) {
            // A run that is not there has nothing to wait for.
            let _ = self.server.engine().attach(run_id).wait().await;
        }
    }
}
