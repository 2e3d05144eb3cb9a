//! A research team and a content planner, run in the background and polled until they are done.
//!
//! ```text
//! export OPENAI_API_KEY=…
//! cargo run --example content_creation -- "AI trends in 2024"
//! ```
//! Kill it in the middle, with any signal, and follow the same run from a new process; what the first one recorded is not
//! done again:
//!
//! ```text
//! cargo run --example content_creation -- --run-id 019…
//! ```

use outlive::agent::model::{self, SharedModel};
use outlive::prelude::*;
use std::fmt::Display;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The workflow is a value: agents, a team of them, two steps and the database that keeps its runs.
fn content_creation_workflow(db: SqliteDb, model: SharedModel) -> outlive::Result<Workflow> {
    // Define agents
    let hackernews_agent = Agent::new("Hackernews Agent")
        .model(model.clone())
        .tools(HackerNewsTools::default())
        .role("Extract key insights and content from Hackernews posts");
    let finance_agent = Agent::new("Finance Agent")
        .model(model.clone())
        .tools(YFinanceTools::default())
        .role("Get stock prices and financial data");

    // Define the research team for complex analysis; it thinks with its members' model
    let research_team = Team::new("Research Team")
        .members([hackernews_agent, finance_agent])
        .instructions("Research tech topics and related stocks");

    let content_planner = Agent::new("Content Planner").model(model).instructions([
        "Plan a content schedule over 4 weeks for the provided topic and research content",
        "Ensure that I have posts for 3 posts per week",
    ]);

    // build() reports everything that is missing, before any run exists
    Workflow::builder("Content Creation Workflow")
        .description("Automated content creation from blog posts to social media")
        .db(db.session_table("workflow_session"))
        .step(Step::new("Research Step").team(research_team))
        .step(Step::new("Content Planning Step").agent(content_planner))
        .build()
}

/// Starts a run in the background, or takes up the one that was named, and polls it until it ends or waits for a person.
async fn run(arguments: Arguments) -> Result<u8, Problem> {
    say("Starting Async Background Workflow Test");
    let workflow = content_creation_workflow(SqliteDb::new(&arguments.db), model_from_environment()?)?;

    let run = match &arguments.run_id {
        None => workflow.run(arguments.input).background().await?, // on disk when this returns
        Some(run_id) => workflow.attach(run_id).await?,            // any process may follow, by id alone
    };
    let first = workflow.get_run(run.run_id()).await?.ok_or_else(|| not_found(run.run_id()))?;
    say(format_args!("Initial Response: {} - {}", first.status, content(&first)));
    say(format_args!("Run ID: {}", run.run_id()));

    let mut poll_count = 0;
    let final_result = loop {
        poll_count += 1;
        say(format_args!("\nPoll #{poll_count} (every {}s)", arguments.poll.as_secs_f64()));
        let result = workflow.get_run(run.run_id()).await?.ok_or_else(|| not_found(run.run_id()))?;
        if result.has_completed() || result.status == RunStatus::Paused {
            break result;
        }
        match pause(arguments.poll, workflow.engine().await?).await {
            Pause::Over => {}
            Pause::Failed(reason) => return Err(Problem::new(1, reason)),
            Pause::Interrupted => {
                workflow.shutdown().await?; // calls in flight may end; the rest waits on disk
                say(format_args!("\nStopped; follow the run with: --run-id {}", run.run_id()));
                return Ok(130);
            }
        }
    };

    say("\nFinal Result:");
    say("=".repeat(50));
    pprint_run_response(&final_result, Markdown::Render);
    workflow.shutdown().await?;
    Ok(match final_result.status {
        RunStatus::Error => 10,
        RunStatus::Cancelled => 11,
        RunStatus::Paused => 12,
        RunStatus::Pending | RunStatus::Running | RunStatus::Completed => 0,
    })
}

fn content(run: &WorkflowRunOutput) -> String {
    if run.content.is_some() { run.text() } else { "None".to_owned() }
}

/// What ended the wait between two polls.
enum Pause {
    Over,
    Interrupted,
    /// The database takes no more writes: nothing will change here any more.
    Failed(Arc<str>),
}

async fn pause(poll: Duration, engine: &Engine) -> Pause {
    let failed = async {
        loop {
            match engine.failure() {
                Some(reason) => return reason,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep(poll) => Pause::Over,
        Ok(()) = tokio::signal::ctrl_c() => Pause::Interrupted,
        reason = failed => Pause::Failed(reason),
    }
}

/// `OUTLIVE_MODEL` is an id such as `gpt-5.2`, or names its provider too (`ollama:qwen3`); `OUTLIVE_API` is the endpoint
/// of an id: `responses`, `chat`, or `background` for answers that go on at OpenAI while no process listens. The model reads `OPENAI_API_KEY` and `OPENAI_BASE_URL` by itself.
fn model_from_environment() -> Result<SharedModel, Problem> {
    let set = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let id = set("OUTLIVE_MODEL").unwrap_or_else(|| "gpt-5.2".to_owned());
    let name = match set("OUTLIVE_API").as_deref() {
        _ if id.contains(':') => id,
        None | Some("responses") => format!("openai:{id}"),
        Some("chat") => format!("openai-chat:{id}"),
        Some("background") => return Ok(Arc::new(OpenAIResponses::new(id).background())),
        Some(other) => {
            return Err(Problem::new(7, format!("OUTLIVE_API is {other:?}: set it to responses, chat or background")));
        }
    };
    model::parse(&name).map_err(|problem| Problem::new(7, problem))
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => run(arguments).await,
        Err(problem) => Err(problem),
    };
    done.map_or_else(Problem::report, ExitCode::from)
}

/// A line on standard output, at once. A reader that has gone away does not stop the run.
fn say(line: impl Display) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// What went wrong, and the exit code that says so: 1 storage, 2 usage, 3 no such run, 7 configuration.
struct Problem {
    exit: u8,
    message: String,
}

impl Problem {
    fn new(exit: u8, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    fn report(self) -> ExitCode {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "error: {}", self.message);
        ExitCode::from(self.exit)
    }
}

impl From<outlive::Error> for Problem {
    fn from(error: outlive::Error) -> Self {
        use outlive::engine::Error as Engine;
        let exit = match &error {
            outlive::Error::Definition(_) => 7,
            outlive::Error::Engine(Engine::InvalidId(_)) => 2,
            outlive::Error::Engine(Engine::RunNotFound(_)) => 3,
            _ => 1,
        };
        Self::new(exit, error)
    }
}

fn not_found(run_id: &outlive::RunId) -> Problem {
    Problem::new(3, format!("there is no run {run_id} in this database: check the id and --db"))
}

struct Arguments {
    input: String,
    db: String,
    poll: Duration,
    run_id: Option<String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Problem> {
        let (mut input, mut run_id) = (None, None);
        let (mut db, mut poll) = ("tmp/workflow.db".to_owned(), Duration::from_secs(5));
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| usage(format!("{word} needs a value")));
            match word.as_str() {
                "--db" => db = value()?,
                "--run-id" => run_id = Some(value()?),
                "--poll" => poll = seconds(&value()?)?,
                option if option.starts_with("--") => return Err(usage(format!("unknown option {option}"))),
                _ if input.is_some() => return Err(usage("more than one input".to_owned())),
                _ => input = Some(word),
            }
        }
        if run_id.is_some() && input.is_some() {
            return Err(usage("a run that exists has its input already: leave INPUT out with --run-id".to_owned()));
        }
        let input = input.unwrap_or_else(|| "AI trends in 2024".to_owned());
        Ok(Self { input, db, poll, run_id })
    }
}

fn seconds(text: &str) -> Result<Duration, Problem> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| usage(format!("--poll takes seconds, for example 0.5, not {text:?}")))
}

fn usage(problem: String) -> Problem {
    const USAGE: &str = "usage: content_creation [INPUT] [--db PATH] [--poll SECONDS] [--run-id ID]";
    Problem::new(2, format!("{problem}\n{USAGE}"))
}
