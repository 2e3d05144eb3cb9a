//! `outlive demo`: a workflow to watch, kill and resume, without a key or a network.

use crate::cli::Global;
use crate::demo;
use crate::exit::{Exit, Problem};
use crate::output;
use crate::progress::Progress;
use crate::settings::{DEMO_DB, Settings};
use crate::store::{ModelCalls, Store, database, model_calls};
use crate::style::{self, DIM};
use clap::Args;
use outlive::core::port::{Access, Run, RunFilter};
use outlive::core::{EventKind, RunEvent, RunStatus};
use outlive::{RunHandle, Workflow, WorkflowRunOutput};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Try it out: a sample workflow on scripted replies (not an AI), without a key or a network
///
/// Two agents research as a team, a third plans. The run is kept in demo.db in this directory (or where --db says). The
/// other commands find it there as long as there is no other database. The run continues even if the reader of its
/// output goes away.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Kill this process (SIGKILL) in the middle of the second step
    #[arg(long, conflicts_with = "resume")]
    crash: bool,
    /// Resume the run that an earlier process left unfinished
    #[arg(long)]
    resume: bool,
    /// Poll the run's status at this interval instead of following its events
    #[arg(long, value_name = "SECONDS", value_parser = crate::times::parse_duration, conflicts_with = "crash")]
    poll: Option<Duration>,
}

/// How many pieces of the planner's answer are on disk when `--crash` strikes.
const PIECES_BEFORE_CRASH: usize = 8;

/// How following a run ended.
enum Followed {
    Ended(Box<WorkflowRunOutput>),
    Interrupted,
    TimedOut,
}

impl Demo {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let path = global.db.clone().unwrap_or_else(|| PathBuf::from(DEMO_DB));
        if self.resume && !path.exists() {
            return Err(nothing_to_resume(&path, global));
        }
        let db = database(&path, global)?;
        db.open().await?;
        let store = Store { db, path };
        let workflow = demo::workflow(store.db.clone())?;
        let unfinished = unfinished(&store, &workflow).await?;
        if self.resume && unfinished.is_empty() {
            return Err(nothing_to_resume(&store.path, global));
        }
        output::note(global, format_args!("Using in-process engine, {}", store.path.display()));
        let found = format!("Found {}", style::counted(unfinished.len(), "unfinished run"));
        let done = async {
            if self.resume {
                let ids: Vec<_> = unfinished.iter().map(|run| style::short_id(run.info.run_id.as_str())).collect();
                self.say(global, format_args!("{found}: {}\n", ids.join(", ")))?;
                return self.go_on(&workflow, &store, &unfinished, global).await;
            }
            if !unfinished.is_empty() {
                output::note(global, format_args!("{found} from before; this process resumes it as well"));
            }
            self.follow(&workflow, &store, None, global).await
        };
        let done = done.await;
        // Even after a failure, so that the next process need not wait for what this one holds.
        workflow.shutdown().await?;
        done
    }

    /// Resumes runs of an earlier process, shown one after another.
    async fn go_on(
        &self,
        workflow: &Workflow,
        store: &Store,
        unfinished: &[Run],
        global: &Global,
    ) -> Result<Exit, Problem> {
        let mut exit = Exit::Done;
        for run in unfinished {
            exit = self.follow(workflow, store, Some(run), global).await?;
            if matches!(exit, Exit::Interrupted | Exit::TimedOut) {
                break;
            }
        }
        Ok(exit)
    }

    /// Starts or resumes a run, and shows it to its end.
    async fn follow(
        &self,
        workflow: &Workflow,
        store: &Store,
        earlier: Option<&Run>,
        global: &Global,
    ) -> Result<Exit, Problem> {
        let started = Instant::now();
        let run = match earlier {
            Some(run) => workflow.attach(&run.info.run_id).await?,
            None => workflow.run(demo::INPUT).background().await?,
        };
        if earlier.is_none() {
            self.say(global, format_args!("Model   demo (scripted replies, not an AI)\nRun     {}\n", run.run_id()))?;
        }
        let ended = tokio::select! {
            ended = self.watch(&run, earlier, global) => Followed::Ended(Box::new(ended?)),
            () = crate::stop::stopped() => Followed::Interrupted,
            () = super::events::passed(global.timeout) => Followed::TimedOut,
        };
        let resume = global.command("demo --resume");
        match ended {
            Followed::Ended(output) => {
                let calls = match earlier {
                    Some(_) => Some(model_calls(&store.entries(run.run_id(), 0).await?)),
                    None => None,
                };
                self.conclude(&output, calls, started.elapsed(), store, global)?;
                Ok(Exit::of(output.status))
            }
            Followed::Interrupted => {
                output::note(global, format_args!("\nStopped; continue with: {resume}"));
                Ok(Exit::Interrupted)
            }
            Followed::TimedOut => {
                output::note(global, format_args!("\nTime is up; the run is kept. Continue with: {resume}"));
                Ok(Exit::TimedOut)
            }
        }
    }

    /// Shows the run until it ends.
    async fn watch(
        &self,
        run: &RunHandle,
        earlier: Option<&Run>,
        global: &Global,
    ) -> Result<WorkflowRunOutput, Problem> {
        if let Some(poll) = self.poll {
            return self.poll(run, poll, global).await;
        }
        let mut progress = Progress::new(earlier.map_or(0, |run| run.next_index), global.quiet || global.json);
        let mut events = run.events(None);
        let mut pieces = 0;
        while let Some(event) = events.next().await? {
            output::unless_gone(progress.apply(&event))?;
            pieces += usize::from(is_planners_text(&event));
            if self.crash && pieces >= PIECES_BEFORE_CRASH {
                output::unless_gone(progress.end_text().and_then(|()| say_last_words(global)))?;
                kill_this_process();
            }
        }
        Ok(run.wait().await?)
    }

    /// The other way to wait: polling.
    async fn poll(&self, run: &RunHandle, period: Duration, global: &Global) -> Result<WorkflowRunOutput, Problem> {
        let mut count = 0;
        loop {
            count += 1;
            let now = run.get().await?.ok_or_else(|| outlive::engine::Error::RunNotFound(run.run_id().clone()))?;
            let status = style::status_word(now.status);
            self.say(global, format_args!("Poll #{count} (every {} s): {status}", period.as_secs_f64()))?;
            if now.has_completed() || now.status == RunStatus::Paused {
                return Ok(now);
            }
            tokio::time::sleep(period).await;
        }
    }

    /// The last lines.
    fn conclude(
        &self,
        output: &WorkflowRunOutput,
        calls: Option<ModelCalls>,
        took: Duration,
        store: &Store,
        global: &Global,
    ) -> Result<(), Problem> {
        if global.json {
            return output::unless_gone(output::json(&document(output, calls, took)));
        }
        output::unless_gone(super::tell_end(output, took.as_secs_f64(), global))?;
        if let Some(ModelCalls { before, repeated }) = calls {
            let which = match repeated {
                0 => String::new(),
                1 => " (the one in flight)".to_owned(),
                several => format!(" (the {several} in flight)"),
            };
            let line = format!("Model calls before the crash: {before}, repeated: {repeated}{which}");
            output::unless_gone(output::line(line))?;
        } else {
            let hint = |command: String, what: &str| format!("{command:<36} {DIM}{what}{DIM:#}");
            let crash = hint(global.command("demo --crash"), "see a run survive kill -9");
            let look = hint(look_at(&store.path, "events @last", global)?, "what is on disk of it");
            self.say(global, format_args!("Try: {crash}\n     {look}"))?;
        }
        Ok(())
    }

    /// A line of the demonstration; nothing with `--quiet` and `--json`.
    fn say(&self, global: &Global, text: impl std::fmt::Display) -> Result<(), Problem> {
        if !(global.quiet || global.json) {
            output::unless_gone(output::line(text))?;
        }
        Ok(())
    }
}

/// The demonstration's unfinished runs, newest first.
async fn unfinished(store: &Store, workflow: &Workflow) -> Result<Vec<Run>, Problem> {
    let filter = RunFilter {
        statuses: vec![RunStatus::Pending, RunStatus::Running],
        workflow_id: Some(workflow.definition().id.clone()),
        ..RunFilter::default()
    };
    Ok(store.db.runs(Access::All, filter).await?.runs)
}

fn document(output: &WorkflowRunOutput, calls: Option<ModelCalls>, took: Duration) -> Value {
    json!({
        "id": output.run_id,
        "status": style::status_word(output.status),
        "model": "demo",
        "is_ai": false,
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "model_calls": calls.map(|calls| json!({
            "before_crash": calls.before,
            "repeated": calls.repeated,
        })),
        "content": output.content,
    })
}

fn nothing_to_resume(path: &Path, global: &Global) -> Problem {
    let message = format!("there is no unfinished run in {}", path.display());
    Problem::new(Exit::NotFound, "run_not_found", message)
        .hint(format!("make something with: {}", global.command("demo --crash")))
}

/// A command that reads the demonstration's runs. It names their file if the command would read another by default.
fn look_at(path: &Path, arguments: &str, global: &Global) -> Result<String, Problem> {
    let settings = Settings::load(global)?;
    let finds_it = settings.db == path && settings.server.is_empty();
    let named = Global { db: Some(path.to_owned()), ..global.clone() };
    Ok(if finds_it { global.command(arguments) } else { named.command(arguments) })
}

fn is_planners_text(event: &RunEvent) -> bool {
    let is_planning = event.origin.step_name.as_deref() == Some(demo::PLANNING);
    is_planning && matches!(event.kind, EventKind::RunContent(_))
}

/// What must be said before the process is gone.
fn say_last_words(global: &Global) -> std::io::Result<()> {
    output::line("\nKilling this process now (SIGKILL), in the middle of a model call.")?;
    output::line(format_args!("Go on with: {}", global.command("demo --resume")))
}

/// Dies as with `kill -9`: no handler runs, nothing is flushed, no lease is released.
#[cfg(unix)]
fn kill_this_process() {
    let itself = rustix::process::getpid();
    let _ = rustix::process::kill_process(itself, rustix::process::Signal::KILL);
    std::process::abort();
}

/// Dies without running any handler.
#[cfg(not(unix))]
fn kill_this_process() {
    std::process::abort();
}
