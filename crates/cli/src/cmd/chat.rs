//! `outlive chat`: a conversation with a workflow, line by line.
//!
//! Each line is a run of one session, as durable as any; the end of the conversation ends no run.

use super::watch::is_pause;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::runs::{Role, Runs};
use crate::settings::Settings;
use crate::{output, style};
use clap::Args;
use outlive::core::{RunId, RunStatus};
use outlive::engine::Submit;
use serde_json::json;
use std::io::{self, IsTerminal, Write};

/// Talk to a workflow of a file: each line is a run of one session
///
/// What earlier lines came to is seen where the workflow or its agents have a history. exit, quit and Ctrl-D end it; --session
/// takes it up again.
#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The workflow file
    #[arg(value_name = "FILE")]
    file: String,
    /// Which workflow of the file, if it has several
    #[arg(long = "workflow", value_name = "NAME")]
    of_file: Option<String>,
    #[command(flatten)]
    allowed: Allowances,
    /// The session [default: a new one]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Whose runs they are
    #[arg(long, value_name = "ID", value_parser = super::user)]
    user: Option<String>,
}

impl Chat {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let mut settings = Settings::load(global)?;
        let file = files::read(&self.file, &self.allowed, &settings)?;
        let workflow = files::the_workflow(&file, self.of_file.as_deref())?;
        files::choose_store(std::slice::from_ref(&file), &mut settings)?;
        let runs = Runs::open_for(vec![workflow.clone()], Role::Executes, settings).await?;
        let done = self.talk(&runs, &workflow, global).await;
        runs.close().await?;
        done
    }

    async fn talk(&self, runs: &Runs, workflow: &outlive::core::Definition, global: &Global) -> Result<Exit, Problem> {
        let mut session = self.session.clone();
        while let Some(line) = ask().await? {
            let input = Some(line.into());
            let submit = Submit { input, session_id: session.clone(), user_id: self.user.clone(), ..Submit::default() };
            let accepted = runs.submit(&workflow.id, submit).await?;
            session = Some(accepted.session_id.to_string());
            let status = at_rest(runs, &accepted.run_id).await?;
            let output = runs.output(&accepted.run_id).await?;
            match status {
                _ if global.json => output::json(&json!({
                    "run_id": accepted.run_id,
                    "session_id": accepted.session_id,
                    "status": style::status_word(status),
                    "content": output.content,
                }))?,
                RunStatus::Completed => output::line(style::clean(&output.text()))?,
                RunStatus::Paused => {
                    let questions = global.command("questions");
                    output::note(global, format_args!("it waits for a person: {questions}"));
                }
                other => output::note(global, format_args!("{}: {}", style::status_word(other), output.text())),
            }
        }
        if let Some(session) = session {
            output::note(global, format_args!("Take it up again with: --session {session}"));
        }
        Ok(Exit::Done)
    }
}

/// The run's status once nothing of it goes on by itself.
pub(super) async fn at_rest(runs: &Runs, run_id: &RunId) -> Result<RunStatus, Problem> {
    let mut following = runs.follow(run_id, None).await?;
    while let Some(event) = following.next().await? {
        // A pause that has since ended is just another event.
        if is_pause(&event) && runs.status(run_id).await? == RunStatus::Paused {
            return Ok(RunStatus::Paused);
        }
    }
    runs.status(run_id).await
}

/// The next line that is more than white space; none when there is no more.
async fn ask() -> Result<Option<String>, Problem> {
    loop {
        if io::stdin().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "> ").and_then(|()| stderr.flush());
        }
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
        });
        let (bytes, line) = read.await.map_err(io::Error::other)??;
        match line.trim() {
            _ if bytes == 0 => return Ok(None),
            "exit" | "quit" | "bye" => return Ok(None),
            "" => {}
            line => return Ok(Some(line.to_owned())),
        }
    }
}
