//! The demonstration's workflow: a research team of two members with tools, then a planner. The model is a script and the
//! tools return canned data, so it needs no key and no network, and says so.

mod script;

use outlive::agent::model::ScriptedModel;
use outlive::core::port::Db;
use outlive::core::{DefinitionId, ToolEffect};
use outlive::engine::Options;
use outlive::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The demonstration's input.
pub(crate) const INPUT: &str = "AI trends in 2024";

/// The workflow's name.
const NAME: &str = "Content Creation Demo";

/// Its first step.
pub(crate) const RESEARCH: &str = "Research Step";

/// Its second step, the one `--crash` dies in.
pub(crate) const PLANNING: &str = "Content Planning Step";

/// Whether this is the demonstration's workflow, the only one this program has.
pub(crate) fn is_ours(workflow_id: &DefinitionId) -> bool {
    DefinitionId::from_name(NAME).is_ok_and(|ours| ours == *workflow_id)
}

/// The workflow. `db` may hold other runs too; only its own are touched.
pub(crate) fn workflow(db: Arc<dyn Db>) -> outlive::Result<Workflow> {
    let model = ScriptedModel::from_fn("demo", script::reply).delay(ms(120)).chunk_delay(ms(35)).chunks(24);
    let hackernews = Agent::new("Hackernews Agent")
        .model(model.clone())
        .tools(hackernews_tools())
        .role("Extract key insights and content from Hackernews posts");
    let finance = Agent::new("Finance Agent")
        .model(model.clone())
        .tools(vec![stock_price_tool()])
        .role("Get stock prices and financial data");
    let research_team = Team::new("Research Team")
        .members([hackernews, finance])
        .instructions("Research tech topics and related stocks");
    let content_planner = Agent::new("Content Planner").model(model.chunks(36)).instructions([
        "Plan a content schedule over 4 weeks for the provided topic and research content",
        "Ensure that I have posts for 3 posts per week",
    ]);
    // Ctrl-C during a demo should not take half a minute.
    let options = Options { shutdown_grace: Duration::from_secs(2), ..Options::default() };
    Workflow::builder(NAME)
        .description("The content creation workflow on a scripted model, with canned data")
        .shared_db(db)
        .options(options)
        .step(Step::new(RESEARCH).team(research_team))
        .step(Step::new(PLANNING).agent(content_planner))
        .build()
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Which stories to list.
#[derive(Deserialize, JsonSchema)]
struct Stories {
    /// How many.
    num_stories: usize,
}

/// Which story to read.
#[derive(Deserialize, JsonSchema)]
struct Story {
    /// Its id.
    id: u64,
}

/// Which share to look up.
#[derive(Deserialize, JsonSchema)]
struct Share {
    /// Ticker symbol, for example NVDA.
    symbol: String,
}

/// As long as a quick web service takes.
const TOOL_DELAY: Duration = ms(300);

fn hackernews_tools() -> Vec<Tool> {
    let top = |wanted: Stories, _: ToolContext| async move {
        tokio::time::sleep(TOOL_DELAY).await;
        let stories: Vec<_> = stories().into_iter().take(wanted.num_stories).collect();
        Ok::<_, Failure>(Value::Array(stories))
    };
    let read = |wanted: Story, _: ToolContext| async move {
        tokio::time::sleep(TOOL_DELAY).await;
        let story = stories().into_iter().find(|story| story["id"] == wanted.id);
        story.ok_or_else(|| Failure::fatal(format!("there is no story {}", wanted.id)))
    };
    vec![
        Tool::new("get_top_hackernews_stories", "The top stories (canned data).", top).effect(ToolEffect::Read),
        Tool::new("get_hackernews_story", "One story (canned data).", read).effect(ToolEffect::Read),
    ]
}

fn stories() -> Vec<Value> {
    vec![
        json!({"id": 1, "title": "Small models that run on a laptop are good enough for most work", "score": 812}),
        json!({"id": 2, "title": "What agents cost when they start again from the beginning", "score": 655}),
        json!({"id": 3, "title": "Show HN: a database of everything my assistant did", "score": 431}),
    ]
}

fn stock_price_tool() -> Tool {
    let price = |share: Share, _: ToolContext| async move {
        tokio::time::sleep(TOOL_DELAY).await;
        match share.symbol.as_str() {
            "NVDA" => Ok(json!({"symbol": "NVDA", "price": 131.2, "currency": "USD"})),
            "MSFT" => Ok(json!({"symbol": "MSFT", "price": 417.1, "currency": "USD"})),
            other => Err(Failure::fatal(format!("there is no price of {other}"))),
        }
    };
    Tool::new("get_current_stock_price", "The price of a share (canned data).", price).effect(ToolEffect::Read)
}
