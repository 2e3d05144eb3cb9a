//! `outlive worker`: executes runs without serving anyone, until it is told to stop.

use super::keep::Keep;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::log::Log;
use crate::settings::{Given, LogFormat, Origin, Settings};
use crate::{demo, output, stop, store};
use clap::Args;
use outlive::core::port::Db;
use outlive::engine::EngineBuilder;
use outlive::{Engine, Otlp};
use serde_json::json;
use std::sync::Arc;

/// Execute runs, whichever process accepted them, including an `outlive serve --no-execute` on the same database
///
/// The workflows are those of the files, or of the files in a folder; without one, the demonstration's. A program of yours
/// executes its own. Several
/// workers may share one database. Ctrl-C or SIGTERM lets calls in flight finish; unfinished runs then resume in any
/// other process.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Workflow files, or folders with some
    #[arg(value_name = "FILE|DIR")]
    files: Vec<String>,
    #[command(flatten)]
    allowed: Allowances,
    #[command(flatten)]
    keep: Keep,
    /// How log lines look: text or json
    #[arg(long, value_name = "FORMAT", hide_possible_values = true)]
    log_format: Option<LogFormat>,
}

impl Worker {
    /// Every setting, with this command's flags on top.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub(crate) fn settings(&self, global: &Global) -> Result<Settings, Problem> {
        let mut settings = Settings::load(global)?;
        settings.set("execute", Given::Switch(true), Origin::Default)?;
        self.keep.apply(&mut settings)?;
        settings.log_format = self.log_format.unwrap_or(settings.log_format);
        Ok(settings)
    }

    pub(crate) async fn run(&self, global: &Global, log: &Log) -> Result<Exit, Problem> {
        let mut settings = self.settings(global)?;
        let files = files::read_all(&self.files, &self.allowed, &settings)?;
        let mut definitions = files::definitions(&files)?;
        files::choose_store(&files, &mut settings)?;
        let db: Arc<dyn Db> = Arc::new(store::handle(&settings)?);
        if files.is_empty() {
            definitions.push(demo::workflow(db.clone())?.definition().clone());
        }
        let stop = stop::stop_signal()?;
        let engine = Engine::builder(db).options(settings.engine.clone());
        let engine = definitions.into_iter().fold(engine, EngineBuilder::workflow);
        let engine = engine.observer(Arc::new(Otlp::from_env()?)).start().await?;
        files::schedule(&engine, &files, global).await?;
        log.know(&engine);
        if global.json {
            output::json(&json!({ "working": true, "db": settings.db, "pid": std::process::id() }))?;
        }
        output::note(global, format_args!("Working on {}", settings.db.display()));
        tokio::select! {
            () = stop => output::note(global, "Stopping; waiting for calls in flight"),
            () = engine.stopped() => {}
        }
        let has_failed = engine.failure().is_some();
        let ended = engine.shutdown().await;
        if has_failed {
            return Err(super::serve::stopped(&engine, global));
        }
        ended?;
        Ok(Exit::Done)
    }
}
