//! `outlive dev`: serves workflow files, and takes them anew whenever they are saved.
//!
//! It must never stop a run: those in flight go on with the text that they were accepted with.

use super::serve::Serve;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::log::Log;
use crate::output;
use crate::settings::Settings;
use crate::style;
use clap::Args;
use outlive::core::{Definition, Structure};
use outlive::engine::diff::diff;
use outlive::{Engine, File};
use std::sync::Arc;
use std::time::Duration;

/// Serve workflow files while you work on them: each is taken anew when it is saved
///
/// As outlive serve, on this machine. A file with a mistake is told of, and the one before goes on being served. Runs in
/// flight go on with the text that they were accepted with; new runs take the new one.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
    /// Where to listen; port 0 picks a free one [default: 127.0.0.1:7878]
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
}

/// How often files are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(250);

impl Dev {
    fn serve(&self) -> Serve {
        Serve::reloading(self.files.clone(), self.allowed.clone(), self.addr.clone())
    }

    /// Every setting, with this command's flags on top.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn settings(&self, global: &Global) -> Result<Settings, Problem> {
        self.serve().settings(global)
    }

    pub(crate) async fn run(&self, global: &Global, log: &Log) -> Result<Exit, Problem> {
        self.serve().run(global, log).await
    }
}

/// Takes files anew when they are saved, for ever.
pub(super) async fn reload(
    engine: &Engine,
    files: &[File],
    allowed: &Allowances,
    settings: &Settings,
    global: &Global,
) {
    let mut seen: Vec<_> = files.iter().map(|file| file.text().clone()).collect();
    loop {
        tokio::time::sleep(LOOK_PERIOD).await;
        for (file, seen) in files.iter().zip(&mut seen) {
            // One that is being written is looked at again.
            let Some(text) = files::text_of(file.name()) else { continue };
            if *text == **seen {
                continue;
            }
            *seen = Arc::from(text);
            if let Err(problem) = take(engine, file.name(), allowed, settings, global).await {
                // Told like any problem, and the file before goes on.
                problem.report(global.json);
                output::note(global, format_args!("{} stays as it was before", file.name()));
            }
        }
    }
}

async fn take(
    engine: &Engine,
    path: &str,
    allowed: &Allowances,
    settings: &Settings,
    global: &Global,
) -> Result<(), Problem> {
    let file = files::read(path, allowed, settings)?;
    let definitions = file.definitions()?;
    output::note(global, format_args!("Took {path} anew"));
    for definition in &definitions {
        let others = in_flight(engine, definition).await?;
        engine.register(definition.clone());
        if others > 0 {
            let runs = style::counted(others, "unfinished run");
            let id = definition.id.as_str();
            output::note(global, format_args!("{runs} of {id} finish with the text that they began with"));
        }
    }
    files::schedule(engine, std::slice::from_ref(&file), global).await
}

/// How many unfinished runs there are.
async fn in_flight(engine: &Engine, definition: &Definition) -> Result<usize, Problem> {
    let Ok(structure) = Structure::from_json(&definition.to_json()) else { return Ok(0) };
    let mut count = 0;
    diff(&**engine.db(), &structure, |_| count += 1).await?;
    Ok(count)
}
