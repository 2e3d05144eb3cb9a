//! `outlive watch`: a run as it happens, to its end. Verbs that start a run use this too.

use super::events::{self, passed};
use super::{remedy_lines, state, waiting_line};
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::progress::Progress;
use crate::runs::Runs;
use crate::{output, times};
use clap::Args;
use outlive::client::RunSummary;
use outlive::core::{EventKind, RunEvent, RunId, RunStatus, WaitsFor};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Show a run as it happens: what it has done so far, then live, until it ends
///
/// The exit code tells how it ended. Ctrl-C leaves the run alone.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    #[arg(value_name = "RUN", default_value = "@last", help = RUN_HELP)]
    run: String,
}

impl Watch {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        let run_id = runs.find(&self.run).await?.info.run_id;
        let done = watch(&runs, &run_id, global).await;
        runs.close().await?;
        done
    }
}

/// Shows a run to its end; the exit code says how it ended.
///
/// # Errors
/// When it cannot be read, or `--timeout` passes.
pub(super) async fn watch(runs: &Runs, run_id: &RunId, global: &Global) -> Result<Exit, Problem> {
    let again = global.command(format_args!("watch {run_id}"));
    tokio::select! {
        exit = show(runs, run_id, global) => exit,
        () = crate::stop::stopped() => {
            let how = if runs.is_executing() {
                let worker = global.worker();
                format!("Stopped; the run resumes in the next process that executes: {worker}; then")
            } else {
                format!("Detached; {}", events::left_behind(runs, run_id).await)
            };
            output::note(global, format_args!("\n{how}: {again}"));
            Ok(Exit::Interrupted)
        }
        () = passed(global.timeout) => Err(events::unfinished(runs, run_id).await),
    }
}

async fn show(runs: &Runs, run_id: &RunId, global: &Global) -> Result<Exit, Problem> {
    let started = Instant::now();
    // If this process executes the run, it goes on even when the reader goes away.
    let seen = |shown| if runs.is_executing() { output::unless_gone::<Problem>(shown) } else { shown };
    let mut progress = Progress::new(0, global.quiet || global.json);
    let mut following = runs.follow(run_id, None).await?;
    let mut silence = Silence::default();
    loop {
        // Kept across the other branches: a half-read event must not be dropped.
        let mut next = pin!(following.next());
        let event = loop {
            tokio::select! {
                event = &mut next => break event?,
                () = tokio::time::sleep(LOOK_PERIOD) => silence.look(runs, run_id, &mut progress, global).await?,
            }
        };
        let Some(event) = event else { break };
        silence.is_over();
        if global.json {
            seen(events::print(&event, global))?;
        }
        seen(progress.apply(&event).map_err(Problem::from))?;
        // A pause that has since ended is just another event.
        if is_pause(&event) && runs.status(run_id).await? == RunStatus::Paused {
            break;
        }
    }
    let output = runs.output(run_id).await?;
    if output.status == RunStatus::Paused {
        say_why_paused(runs, run_id, global).await?;
        return Ok(Exit::RunPaused);
    }
    let seconds = progress.seconds().unwrap_or_else(|| started.elapsed().as_secs_f64());
    if !global.json {
        seen(super::tell_end(&output, seconds, global))?;
    }
    Ok(Exit::of(output.status))
}

/// Time without an event after which to ask the store what the run is waiting for.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Checks without an event after which a call in flight is worth a line.
const LOOKS_OF_WORK: u32 = 5;

/// How long nothing has happened, and what was said about it.
#[derive(Default)]
struct Silence {
    looks: u32,
    said: Option<(WaitsFor, Option<Arc<str>>)>,
}

impl Silence {
    fn is_over(&mut self) {
        *self = Self::default();
    }

    /// Says what the run is waiting for, once for each thing.
    async fn look(
        &mut self,
        runs: &Runs,
        run_id: &RunId,
        progress: &mut Progress,
        global: &Global,
    ) -> Result<(), Problem> {
        self.looks += 1;
        let run = runs.standing(run_id).await?;
        let Some(waiting) = &run.waiting else { return Ok(()) };
        let what = Some((waiting.waits_for, waiting.on.clone()));
        if self.said == what || (waiting.waits_for.is_work() && self.looks < LOOKS_OF_WORK) {
            return Ok(());
        }
        self.said = what;
        progress.end_text()?;
        let (mark, word) = state(&run);
        output::note(global, format_args!("{} {word}: {}", mark.shown(), waiting_line(waiting, times::now())));
        tell_remedies(runs, &run, global).await?;
        Ok(())
    }
}

async fn say_why_paused(runs: &Runs, run_id: &RunId, global: &Global) -> Result<(), Problem> {
    let run = runs.standing(run_id).await?;
    let why = run.waiting.as_ref().map(|waiting| format!(": {}", waiting_line(waiting, times::now())));
    output::note(global, format_args!("run {run_id} is paused and waits for a person{}", why.unwrap_or_default()));
    tell_remedies(runs, &run, global).await
}

async fn tell_remedies(runs: &Runs, run: &RunSummary, global: &Global) -> Result<(), Problem> {
    let open = runs.open_questions(run).await?;
    for line in remedy_lines(run, &open, global) {
        output::note(global, format_args!("  {line}"));
    }
    Ok(())
}

pub(super) fn is_pause(event: &RunEvent) -> bool {
    matches!(event.kind, EventKind::WorkflowPaused { .. })
}
