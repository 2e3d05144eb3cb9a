//! The arguments, in the words of the help text.

use crate::cmd;
use crate::exit::Problem;
use crate::files::Allowances;
use crate::settings::Settings;
use crate::times::TimeFormat;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs AI-agent workflows in the background so that a run outlives the process that started it
#[derive(Debug, Parser)]
#[command(name = "outlive", version, disable_help_subcommand = true, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  outlive demo                    a sample workflow: no key, no network
  outlive demo --crash            the same, killed in the middle; then: outlive demo --resume
  outlive init                    a file to begin with; then: outlive run workflow.yaml TOPIC
  outlive ls status:error since:1d
  outlive events @last -f
  outlive output @last > plan.md
  outlive questions               what runs ask people; then: outlive approve ID
  outlive batch content-creation-demo topics.txt
  outlive serve                   over HTTP and WebSocket, on this machine
  outlive run -d content-creation-demo @topic.txt --server http://127.0.0.1:7878

Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 not allowed, 5 wrong state,
6 server unreachable, 7 configuration, 10 run failed, 11 run was cancelled,
12 run waits for a person, 13 --timeout passed, 130 interrupted";

/// How to name a run.
pub(crate) const RUN_HELP: &str = "Full id, its first characters (4 or more), @last or @last-failed";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(cmd::demo::Demo),
    Init(cmd::init::Init),
    Run(cmd::run::Run),
    Chat(cmd::chat::Chat),
    Watch(cmd::watch::Watch),
    Ls(cmd::ls::Ls),
    Show(cmd::show::Show),
    Events(cmd::events::Events),
    Output(cmd::output::Output),
    Batch(Box<cmd::batch::BatchVerbs>),
    Cancel(cmd::cancel::Cancel),
    Prune(cmd::prune::Prune),
    Rerun(cmd::rerun::Rerun),
    Retry(cmd::fork::Retry),
    Fork(cmd::fork::Fork),
    Questions(cmd::questions::Questions),
    Approve(cmd::answer::Approve),
    Reject(cmd::answer::Reject),
    Answer(cmd::answer::Answer),
    Schedule(cmd::schedule::ScheduleVerbs),
    Budgets(cmd::budgets::Budgets),
    Dev(cmd::dev::Dev),
    Serve(cmd::serve::Serve),
    Worker(cmd::worker::Worker),
    Mcp(cmd::mcp::Mcp),
    Workflow(cmd::workflow::Workflow),
    Keys(cmd::keys::Keys),
    Audit(cmd::audit::Audit),
    Backup(cmd::backup::Backup),
    Db(cmd::db::Database),
    Config(cmd::config::Config),
    Schema(cmd::schema::Schema),
    Completions(cmd::completions::Completions),
    #[command(hide = true)]
    Complete(cmd::complete::Complete),
    Man(cmd::completions::Man),
    Doctor(cmd::doctor::Doctor),
    Version(cmd::version::Version),
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options for every command")]
pub(crate) struct Global {
    /// Database file [default: $OUTLIVE_DB, else outlive.toml, else .outlive/data.db, else the demo.db of a demo; for demo:
    /// demo.db]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) db: Option<PathBuf>,
    /// Sessions table, if the program that created the database chose one [default: $OUTLIVE_SESSION_TABLE]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) session_table: Option<String>,
    /// Server to ask instead of opening a database [default: $OUTLIVE_SERVER, else outlive.toml]; its key is in $OUTLIVE_TOKEN
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = ["db", "session_table"])]
    pub(crate) server: Option<String>,
    /// One JSON document on standard output, errors as JSON on standard error; for events, run and watch one object per
    /// line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but the result
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log what the library does; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colours; NO_COLOR and CLICOLOR_FORCE decide for auto
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    #[arg(help = "When to use colours: auto, always or never")]
    pub(crate) color: Color,
    /// How times are shown: relative, local or utc
    #[arg(long, global = true, value_name = "HOW", default_value = "relative", hide_possible_values = true)]
    pub(crate) time_format: TimeFormat,
    /// Longest time to wait, for example 30s or 5m; the run continues anyway
    #[arg(long, global = true, value_name = "DURATION", value_parser = crate::times::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// The arguments of the command that executes the runs at hand, where that is not just `worker`.
    #[arg(skip)]
    pub(crate) worker: Option<String>,
}

impl Global {
    /// The same, for commands about runs of these files, which these settings say where to keep.
    pub(crate) fn of_files(&self, files: &[String], allowed: &Allowances, settings: &Settings) -> Self {
        let is_usual = Settings::load(self).is_ok_and(|usual| usual.db == settings.db);
        let db = if is_usual { self.db.clone() } else { Some(settings.db.clone()) };
        let files: Vec<_> = files.iter().map(|file| quoted(file)).collect();
        let worker = (!files.is_empty()).then(|| format!("worker {}{}", files.join(" "), allowed.flags()));
        Self { db, worker, ..self.clone() }
    }

    /// The command that executes the runs at hand.
    pub(crate) fn worker(&self) -> String {
        self.command(self.worker.as_deref().unwrap_or("worker"))
    }

    /// A command of this program, ready to paste: invoked as this one was, and looking where this one looks.
    pub(crate) fn command(&self, arguments: impl Display) -> String {
        let mut command = format!("{} {arguments}", program());
        let server = self.server.as_deref();
        let db = self.db.as_ref().map(|path| path.display().to_string());
        let flags = [("--db", db.as_deref()), ("--session-table", self.session_table.as_deref()), ("--server", server)];
        for (flag, value) in flags.into_iter().filter_map(|(flag, value)| Some((flag, value?))) {
            command.push_str(&format!(" {flag} {}", quoted(value)));
        }
        command
    }

    /// The sessions table, if one is named: by the flag, the environment or `outlive.toml`.
    ///
    /// # Errors
    /// When a setting is invalid.
    pub(crate) fn session_table(&self) -> Result<Option<String>, Problem> {
        Ok(Some(Settings::load(self)?.session_table).filter(|name| !name.is_empty()))
    }
}

/// How this program is invoked: by name if a shell finds it that way, else by its path.
fn program() -> String {
    const NAME: &str = "outlive";
    let (Some(path), Ok(program)) = (std::env::var_os("PATH"), std::env::current_exe()) else { return NAME.to_owned() };
    let is_this = |found: PathBuf| found.canonicalize().is_ok_and(|found| found == program);
    let file_name = program.file_name().unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(file_name)).find(|found| found.is_file());
    if found.is_some_and(is_this) {
        return NAME.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    quoted(&seen_from(&here, &program).display().to_string())
}

fn seen_from<'a>(here: &Path, program: &'a Path) -> &'a Path {
    match program.strip_prefix(here) {
        // A bare name would be looked up elsewhere.
        Ok(below) if below.components().count() > 1 => below,
        Ok(_) | Err(_) => program,
    }
}

/// A word as a shell reads it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:@%+=,".contains(c);
    match word.is_empty() || !word.chars().all(is_plain) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word.to_owned(),
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// Applies the choice to every stream of this process. `auto` leaves it to the environment.
    pub(crate) fn apply(self) {
        match self {
            Color::Auto => {}
            Color::Always => anstream::ColorChoice::Always.write_global(),
            Color::Never => anstream::ColorChoice::Never.write_global(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_no_shell_finds_is_called_by_its_path_from_here() {
        let seen = |program| seen_from(Path::new("/home/ada/outlive"), Path::new(program)).display().to_string();
        assert_eq!(seen("/home/ada/outlive/target/release/outlive"), "target/release/outlive");
        assert_eq!(seen("/home/ada/outlive/outlive"), "/home/ada/outlive/outlive");
        assert_eq!(seen("/opt/outlive"), "/opt/outlive");
    }

    #[test]
    fn a_word_that_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("runs.db"), "runs.db");
        assert_eq!(quoted("my runs.db"), "'my runs.db'");
        assert_eq!(quoted("ada's;$(x).db"), r"'ada'\''s;$(x).db'");
        assert_eq!(quoted(""), "''");
    }
}
