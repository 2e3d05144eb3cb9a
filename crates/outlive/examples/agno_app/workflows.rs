//! The workflows, agents and teams of the example: every one that needs agents, teams and functions in sequence.
//!
//! Names and ids are those of the Agno server whose answers the tests of this repository were recorded from, so that its
//! clients find here what they found there. It must never know how it is served.

use super::text::{PythonJson, argument};
use outlive::agent::model::SharedModel;
use outlive::core::port::{Db, Executor};
use outlive::core::{FieldType, UserInputField};
use outlive::prelude::*;
use outlive::{Function, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// The two endpoints of one model server.
pub(crate) struct Models {
    /// Speaks the Responses API.
    pub(crate) responses: SharedModel,
    /// Speaks Chat Completions.
    pub(crate) chat: SharedModel,
}

/// The agents that can be run by themselves.
pub(crate) fn agents(models: &Models) -> Vec<Agent> {
    vec![
        Agent::new("Solo Agent")
            .id("solo-agent")
            .model(models.responses.clone())
            .tool(top_stories())
            .instructions("Be brief."),
        Agent::new("Plain Agent").id("plain-agent").model(models.chat.clone()).instructions("Be brief."),
        Agent::new("Careful Agent").id("careful-agent").model(models.responses.clone()).tool(delete_file()),
    ]
}

/// The teams that can be run by themselves.
pub(crate) fn teams(models: &Models) -> Vec<Team> {
    vec![research_team(&models.responses, "")]
}

/// Agents and teams as workflows of one step each.
pub(crate) fn alone(models: &Models, db: &Arc<dyn Db>) -> Result<Vec<Workflow>> {
    let agents = agents(models).into_iter().map(Workflow::of);
    let teams = teams(models).into_iter().map(Workflow::of);
    agents.chain(teams).map(|workflow| workflow.shared_db(db.clone()).build()).collect()
}

/// The workflows, all of them on `db` but the one that is to have none of its own.
pub(crate) fn workflows(models: &Models, db: &Arc<dyn Db>) -> Result<Vec<Workflow>> {
    let on_db = |name: &str| Workflow::builder(name).shared_db(db.clone());
    let count = Map::from_iter([("count".to_owned(), json!(0))]);
    let mut workflows = vec![
        content_creation(on_db("Content Creation Workflow"), &models.responses, ""),
        content_creation(on_db("Content Creation Chat"), &models.chat, " C"),
        content_creation(on_db("Content Creation Stored").store_events(true), &models.responses, " S"),
        on_db("Fn Pipeline").step(step("upper", upper())).step(step("exclaim", exclaim())),
        on_db("Plain Fn").step(step("plain", plain())),
        on_db("Echo").step(step("one", upper())).step(step("echo", echo_input())),
        on_db("Stateful").session_state(count.clone()).step(step("counter", counter())),
        on_db("Stateful Slow").session_state(count).step(step("counter", slow_counter())),
        on_db("Slow").steps(slow_steps()),
        on_db("Slow Stored").store_events(true).steps(slow_steps()),
        on_db("Generator").step(step("gen", generator())).step(step("gen_text", text_generator())),
        on_db("Progress").step(step("progress", progress())),
        on_db("Failing").step(step("upper", upper())).step(step("boom", boom())),
        on_db("Failing Default")
            .step(step("upper", upper()))
            .step(tried_three_more_times_then_skipped(step("boom", boom())))
            .step(step("after", exclaim())),
        on_db("Failing Skip Flag").step(step("boom", boom()).on_error(OnError::Skip)).step(step("after", exclaim())),
        on_db("Failing Agent").step(step("agent", writer(models)).on_error(OnError::Skip)),
        on_db("Flaky").step(tried_three_more_times_then_skipped(step("flaky", flaky()))),
        on_db("Early Stop").step(step("stopper", stopper())).step(step("never", upper())),
        on_db("Parallel Wf")
            .step(
                Parallel::new("par")
                    .step(step("p1", upper()))
                    .step(step("p2", exclaim()))
                    .step(step("p3", named_writer("P3", models))),
            )
            .step(step("after", exclaim())),
        on_db("Condition Wf").step(
            Condition::new("cond")
                .when(|question| question.input_text().contains("yes"))
                .step(step("c1", upper()))
                .step(step("c2", exclaim()))
                .otherwise(step("e1", plain())),
        ),
        on_db("Loop Wf").step(
            Loop::new("loop").step(step("l1", upper())).step(step("l2", exclaim())).until(|_| false).max_iterations(2),
        ),
        on_db("Router Wf").step(
            Router::new("router")
                .select(|question| if question.input_text().contains('b') { "route b" } else { "route a" })
                .choice(step("route a", upper()))
                .choice(step("route b", exclaim())),
        ),
        on_db("Steps Wf")
            .step(Steps::new("group").step(step("s1", upper())).step(step("s2", exclaim())))
            .step(step("after", exclaim())),
        on_db("Nested Wf").step(Step::new("nested").workflow(inner()?)).step(step("after", exclaim())),
        on_db("Deep Wf").step(
            Loop::new("outer loop").max_iterations(2).step(
                Parallel::new("dpar")
                    .step(step("d1", upper()))
                    .step(Condition::new("dc").when_always(true).step(step("d2", exclaim()))),
            ),
        ),
        on_db("Custom Fn")
            .function(async |_, input: Arc<StepInput>| done(format!("custom function got {}", input.input_text()))),
        on_db("Schema Wf").input_schema::<Topic>().step(step("echo", echo_input())),
        // Agno serves it without a database. Here the server has one, and it is everybody's.
        on_db("No Db").step(step("upper", upper())),
    ];
    workflows.push(
        on_db("Agentic Wf")
            .agent(WorkflowAgent::new(models.chat.clone()))
            .step(step("upper", upper()))
            .step(step("exclaim", exclaim())),
    );
    workflows.extend(asking_people(models, on_db));
    workflows.into_iter().map(|workflow| workflow.build()).collect()
}

/// Those that stop and ask a person.
pub(crate) fn asking_people(
    models: &Models,
    on_db: impl Fn(&str) -> outlive::WorkflowBuilder,
) -> impl IntoIterator<Item = outlive::WorkflowBuilder> {
    let without_message = HumanReview { requires_confirmation: true, ..HumanReview::default() };
    let colour = UserInputField::new("colour").description("a colour");
    let size = UserInputField::new("size").of(FieldType::Int).optional();
    let careful = Agent::new("Careful Agent W").model(models.responses.clone()).tool(delete_file());
    let iterations = HumanReview { requires_iteration_review: true, ..HumanReview::default() };
    let looping =
        |review: HumanReview| Loop::new("loop").step(step("l1", upper())).max_iterations(3).human_review(review);
    [
        on_db("Hitl Confirm")
            .step(step("before", upper()))
            .step(step("guarded", exclaim()).human_review(HumanReview::confirmation("Really?")))
            .step(step("after", plain())),
        on_db("Hitl Confirm Cancel")
            .step(step("guarded", exclaim()).human_review(without_message.on_reject(OnReject::Cancel)))
            .step(step("after", plain())),
        on_db("Hitl Input")
            .step(step("ask", echo_input()).human_review(HumanReview::user_input("Which colour?", [colour, size])))
            .step(step("after", echo_input())),
        on_db("Hitl Review")
            .step(
                step("draft", upper())
                    .human_review(HumanReview::output("OK?").on_reject(OnReject::Retry).max_retries(2)),
            )
            .step(step("after", exclaim())),
        on_db("Hitl Router")
            .step(
                Router::new("pick")
                    .choice(step("route a", upper()))
                    .choice(step("route b", exclaim()))
                    .human_review(HumanReview::selection("Pick one")),
            )
            .step(step("after", plain())),
        on_db("Hitl Error").step(step("flaky", flaky()).on_error(OnError::Pause)).step(step("after", exclaim())),
        on_db("Hitl Condition").step(
            Condition::new("cond")
                .when_always(true)
                .step(step("c1", upper()))
                .otherwise(step("e1", plain()))
                .human_review(HumanReview::confirmation("Take it?").on_reject(OnReject::Else)),
        ),
        on_db("Hitl Loop").step(looping(HumanReview::iterations("again?"))),
        on_db("Hitl Loop Retry").step(looping(iterations.on_reject(OnReject::Retry))),
        on_db("Hitl Tool").step(Step::new("tool step").agent(careful)).step(step("after", exclaim())),
    ]
}

fn step(name: &str, executor: impl Executor) -> Step {
    Step::new(name).executor(executor)
}

/// What Agno does with a failing step unless told otherwise. Here it has to be said.
fn tried_three_more_times_then_skipped(step: Step) -> Step {
    step.retry(Retry::times(3).backoff(Duration::ZERO)).on_error(OnError::Skip)
}

// Agents and teams

fn content_creation(workflow: outlive::WorkflowBuilder, model: &SharedModel, suffix: &str) -> outlive::WorkflowBuilder {
    let planner = Agent::new(format!("Content Planner{suffix}")).model(model.clone()).instructions([
        "Plan a content schedule over 4 weeks for the provided topic and research content",
        "Ensure that I have posts for 3 posts per week",
    ]);
    workflow
        .description("Automated content creation from blog posts to social media")
        .step(Step::new("Research Step").team(research_team(model, suffix)))
        .step(Step::new("Content Planning Step").agent(planner))
}

fn research_team(model: &SharedModel, suffix: &str) -> Team {
    let hackernews = Agent::new(format!("Hackernews Agent{suffix}"))
        .model(model.clone())
        .tool(top_stories())
        .role("Extract key insights and content from Hackernews posts");
    let finance = Agent::new(format!("Finance Agent{suffix}"))
        .model(model.clone())
        .tool(stock_price())
        .role("Get stock prices and financial data");
    Team::new(format!("Research Team{suffix}"))
        .model(model.clone())
        .members([hackernews, finance])
        .instructions("Research tech topics and related stocks")
}

/// What runs inside a step of another workflow.
fn inner() -> Result<Workflow> {
    let inner = Workflow::builder("Inner Workflow").db(InMemoryDb::new());
    inner.step(step("inner upper", upper())).step(step("inner exclaim", exclaim())).build()
}

fn writer(models: &Models) -> Agent {
    named_writer("Writer", models)
}

fn named_writer(name: &str, models: &Models) -> Agent {
    // Agno does not wait for a server that refuses calls.
    let writer = Agent::new(name).rate_limit_budget(Duration::ZERO);
    writer.model(models.responses.clone()).instructions("Answer in one line.")
}

#[derive(Deserialize, JsonSchema)]
struct Stories {
    /// How many, at most.
    #[serde(default = "ten")]
    num_stories: u32,
}

fn ten() -> u32 {
    10
}

fn top_stories() -> Tool {
    Tool::new(
        "get_top_hackernews_stories",
        "Lists the top stories of Hacker News.",
        |stories: Stories, _: ToolContext| {
            let listed = format!(r#"[{{"title": "AI trends", "score": {}}}]"#, stories.num_stories);
            async move { Ok::<_, Infallible>(listed) }
        },
    )
}

#[derive(Deserialize, JsonSchema)]
struct Stock {
    /// For example NVDA.
    symbol: String,
}

fn stock_price() -> Tool {
    Tool::new("get_current_stock_price", "Gives the price of a stock.", |stock: Stock, _: ToolContext| async move {
        Ok::<_, Infallible>(format!("{}: 101.5 USD", stock.symbol))
    })
}

#[derive(Deserialize, JsonSchema)]
struct File {
    /// The file.
    path: String,
}

/// Asks a person before each call.
fn delete_file() -> Tool {
    let tool = Tool::new("delete_file", "Delete a file.", |file: File, _: ToolContext| async move {
        Ok::<_, Infallible>(format!("deleted {}", file.path))
    });
    tool.requires_confirmation()
}

// Function steps

type Done = std::result::Result<StepOutput, Failure>;

fn done(content: impl Into<StepOutput>) -> Done {
    Ok(content.into())
}

fn upper() -> impl Executor {
    Function::new("upper", async |_, input: Arc<StepInput>| done(input.text().to_uppercase()))
}

fn exclaim() -> impl Executor {
    Function::new("exclaim", async |_, input: Arc<StepInput>| done(format!("{}!", input.text())))
}

fn plain() -> impl Executor {
    Function::new("plain", async |_, input: Arc<StepInput>| done(format!("plain:{}", input.input_text())))
}

/// What the step was given, as JSON.
fn echo_input() -> impl Executor {
    Function::new("echo_input", async |_, input: Arc<StepInput>| {
        let seen = json!({
            "input": input.input,
            "previous_step_content": input.previous_step_content,
            "additional_data": input.additional_data,
        });
        done(PythonJson(&seen).to_string())
    })
}

fn count_of(context: &StepContext) -> i64 {
    context.state.get("count").and_then(|count| count.as_i64()).unwrap_or(0)
}

fn count(context: &StepContext, next: i64) -> Done {
    context.state.set("count", next);
    done(format!("count={next}"))
}

fn counter() -> impl Executor {
    Function::new("counter", async |context: StepContext, _| count(&context, count_of(&context) + 1))
}

/// Reads, waits and writes: what is lost if two runs of a session do it at the same time.
fn slow_counter() -> impl Executor {
    Function::new("slow_counter", async |context: StepContext, _| {
        let seen = count_of(&context);
        context.effects.sleep(Duration::from_millis(200)).await;
        count(&context, seen + 1)
    })
}

/// Two steps that wait as long as the input says (`sleep=0.5`), a second each unless it does.
fn slow_steps() -> [Step; 2] {
    let slow = Function::new("slow", async |context: StepContext, input: Arc<StepInput>| {
        let seconds = wait(&context, &input).await?;
        done(format!("slept {seconds:?}"))
    });
    let slow2 = Function::new("slow2", async |context: StepContext, input: Arc<StepInput>| {
        wait(&context, &input).await?;
        done("second sleep done")
    });
    [step("slow", slow), step("slow2", slow2)]
}

async fn wait(context: &StepContext, input: &StepInput) -> std::result::Result<f64, Failure> {
    let seconds = argument(&input.input_text(), "sleep").unwrap_or(1.0);
    context.effects.sleep(Duration::try_from_secs_f64(seconds)?).await;
    Ok(seconds)
}

/// Makes pieces of text, and in the end something else: the end is its content.
fn generator() -> impl Executor {
    Function::new("gen", async |context: StepContext, _| {
        let mut pieces = Vec::new();
        for piece in 0..3 {
            pieces.push(format!("piece{piece} "));
            context.effects.sleep(Duration::from_millis(10)).await;
        }
        done("final of gen")
    })
}

/// Makes pieces of text and nothing else: together they are its content.
fn text_generator() -> impl Executor {
    Function::new("gen_text", async |_, _| done((0..3).map(|piece| format!("t{piece} ")).collect::<String>()))
}

/// Says how far it is, and something of its own.
fn progress() -> impl Executor {
    Function::new("progress", async |context: StepContext, _| {
        context.progress("half way", Some(json!({ "done": 1, "of": 2 })));
        context.event(Map::from_iter([
            ("note".to_owned(), Value::from("custom payload")),
            ("n".to_owned(), Value::from(3)),
        ]));
        done("progress done")
    })
}

fn boom() -> impl Executor {
    Function::new("boom", async |_, _| -> Done { Err(Failure::function("scripted step failure")) })
}

/// Fails twice, then succeeds.
fn flaky() -> impl Executor {
    Function::new("flaky", async |context: StepContext, _| match context.step.attempt {
        attempt @ (1 | 2) => Err(Failure::function(format!("flaky attempt {attempt}"))),
        attempt => done(format!("ok after {attempt}")),
    })
}

fn stopper() -> impl Executor {
    Function::new("stopper", async |_, _| Ok::<_, Failure>(StepOutput::stop("stopped early")))
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Topic {
    topic: String,
    #[serde(default = "one")]
    depth: i64,
}

fn one() -> i64 {
    1
}
