//! What the end-to-end tests stand on: model and site servers, a folder, and the seed's workflow against them.

use outlive::agent::model::IntoModel;
use outlive::agent::testing::{HackerNewsAndYahooServer, OpenAiServer};
use outlive::prelude::*;
use std::path::PathBuf;

/// A folder with a database, a model server and the sites of the tools.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) models: OpenAiServer,
    pub(crate) sites: HackerNewsAndYahooServer,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            models: OpenAiServer::start().await,
            sites: HackerNewsAndYahooServer::start().await,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tmp").join("workflow.db")
    }

    pub(crate) fn db(&self) -> SqliteDb {
        SqliteDb::new(self.path()).session_table("workflow_session")
    }

    pub(crate) fn responses(&self) -> OpenAIResponses {
        OpenAIResponses::new("gpt-5.2").base_url(self.models.url()).api_key(KEY)
    }

    pub(crate) fn chat(&self) -> OpenAIChat {
        OpenAIChat::new("gpt-5.2").base_url(self.models.url()).api_key(KEY)
    }

    /// The seed's workflow.
    pub(crate) fn workflow(&self, model: impl IntoModel + Clone, stream: bool) -> Workflow {
        let url = self.sites.url();
        let hackernews = Agent::new("Hackernews Agent")
            .model(model.clone())
            .tools(HackerNewsTools::default().base_url(&url))
            .role("Extract key insights and content from Hackernews posts")
            .stream(stream);
        let finance = Agent::new("Finance Agent")
            .model(model.clone())
            .tools(YFinanceTools::default().base_url(&url))
            .role("Get stock prices and financial data")
            .stream(stream);
        let team = Team::new("Research Team")
            .members([hackernews, finance])
            .instructions("Research tech topics and related stocks")
            .stream(stream);
        let planner = Agent::new("Content Planner").model(model).stream(stream).instructions([
            "Plan a content schedule over 4 weeks for the provided topic and research content",
            "Ensure that I have posts for 3 posts per week",
        ]);
        Workflow::builder("Content Creation Workflow")
            .db(self.db())
            .step(Step::new("Research Step").team(team))
            .step(Step::new("Content Planning Step").agent(planner))
            .build()
            .unwrap()
    }

    /// A workflow of one agent without tools.
    pub(crate) fn one_agent(&self, agent: Agent) -> Workflow {
        Workflow::builder("One Agent").db(self.db()).step(Step::new("Only").agent(agent)).build().unwrap()
    }
}

/// The key that must never be seen anywhere.
pub(crate) const KEY: &str = "sk-planted-4f1d9c";
