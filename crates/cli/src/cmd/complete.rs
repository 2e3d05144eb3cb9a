//! `outlive complete`: the names that the scripts of `outlive completions` ask for: those of runs, questions, schedules,
//! batches and workflows.
//!
//! What a word stands for is what its value is called in the help text. It only reads, and offers nothing where anything is
//! wrong: a shell is no place to be told.

use crate::cli::{Cli, Global, quoted};
use crate::exit::{Exit, Problem};
use crate::output;
use crate::runs::Runs;
use clap::{Arg, Args, Command, CommandFactory, FromArgMatches};
use outlive::core::port::{BatchFilter, QuestionFilter, RunFilter, ScheduleFilter};
use std::collections::BTreeSet;
use std::time::Duration;

/// Names that are offered at most.
const NAMES_MAX: u32 = 100;
/// A shell does not wait longer for them.
const LONGEST: Duration = Duration::from_secs(2);

/// Print what the last word of a command line may be
#[derive(Debug, Args)]
pub(crate) struct Complete {
    /// The command line up to the cursor
    #[arg(value_name = "LINE", allow_hyphen_values = true)]
    line: String,
}

impl Complete {
    pub(crate) async fn run(&self) -> Result<Exit, Problem> {
        let names = tokio::time::timeout(LONGEST, self.names()).await;
        names.ok().flatten().unwrap_or_default().iter().try_for_each(output::line)?;
        Ok(Exit::Done)
    }

    async fn names(&self) -> Option<Vec<String>> {
        let words: Vec<_> = self.line.split(' ').skip(1).filter(|word| !word.is_empty()).collect();
        let whole = if self.line.ends_with(' ') { words.len() } else { words.len().checked_sub(1)? };
        let mut command = Cli::command();
        command.build();
        let wanted = wanted(&command, &words[..whole])?;
        let line = ["outlive"].iter().chain(&words[..whole]);
        let matches = Cli::command().ignore_errors(true).try_get_matches_from(line).ok()?;
        let global = Global { quiet: true, ..Global::from_arg_matches(&matches).ok()? };
        let begun = words.get(whole).copied().unwrap_or_default();
        let mut names = named(&wanted, &global).await.ok()?;
        // A name that a shell would take apart, or execute, is not put into its line.
        names.retain(|name| name.starts_with(begun) && quoted(name) == *name);
        Some(names)
    }
}

/// What the word after these stands for.
fn wanted(root: &Command, words: &[&str]) -> Option<String> {
    let (mut command, mut place) = (root, 0);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match (flag(command, word), command.find_subcommand(word)) {
            (Some(flag), _) if flag.get_action().takes_values() && !word.contains('=') => {
                if words.next().is_none() {
                    return value_name(flag);
                }
            }
            (Some(_), _) => {}
            (None, Some(verb)) if place == 0 => command = verb,
            (None, _) => place += 1,
        }
    }
    let last = command.get_positionals().last().filter(|last| last.get_num_args().is_some_and(|n| n.max_values() > 1));
    value_name(command.get_positionals().nth(place).or(last)?)
}

fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let word = word.split('=').next()?;
    command.get_arguments().find(|arg| {
        let is_long = word.strip_prefix("--").is_some_and(|name| arg.get_long() == Some(name));
        is_long || word.strip_prefix('-').is_some_and(|name| arg.get_short().is_some_and(|c| name == c.to_string()))
    })
}

fn value_name(arg: &Arg) -> Option<String> {
    arg.get_value_names()?.first().map(ToString::to_string)
}

/// The names of such things, newest first.
async fn named(wanted: &str, global: &Global) -> Result<Vec<String>, Problem> {
    let (limit, runs) = (NAMES_MAX, Runs::open(global).await?);
    Ok(match wanted {
        "RUN" => {
            let page = runs.list(RunFilter { limit, ..RunFilter::default() }).await?;
            let ids = page.runs.iter().map(|run| run.info.run_id.to_string());
            ["@last", "@last-failed"].map(str::to_owned).into_iter().chain(ids).collect()
        }
        "QUESTION" => {
            let (questions, _) = runs.questions(QuestionFilter { limit, ..QuestionFilter::default() }).await?;
            questions.iter().map(|question| question.question_id.to_string()).collect()
        }
        "BATCH" => {
            let page = runs.batches(BatchFilter { limit, ..BatchFilter::default() }).await?;
            let ids = page.batches.iter().map(|batch| batch.id.to_string());
            std::iter::once("@last".to_owned()).chain(ids).collect()
        }
        "SCHEDULE" => {
            let page = runs.schedules(ScheduleFilter { limit, ..ScheduleFilter::default() }).await?;
            page.schedules.iter().map(|schedule| schedule.name.to_string()).collect()
        }
        "WORKFLOW" | "FILE|NAME" => {
            let served = runs.served().await?.into_iter().map(|workflow| workflow.id.to_string());
            let page = runs.list(RunFilter { limit, ..RunFilter::default() }).await?;
            let known = page.runs.iter().map(|run| run.info.workflow_id.to_string());
            served.chain(known).collect::<BTreeSet<_>>().into_iter().collect()
        }
        _ => Vec::new(),
    })
}
