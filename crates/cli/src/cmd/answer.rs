//! `outlive approve`, `reject` and `answer`: make an answer durable. Whether anybody executes the run does not matter.

use super::questions::{self, QUESTION_HELP, question_json};
use super::{remedy_lines, state, waiting_line};
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::runs::{Role, Runs};
use crate::style::{self, Mark};
use crate::{output, times};
use clap::{ArgGroup, Args};
use outlive::client::QuestionSummary;
use outlive::core;
use outlive::serving::auth::is_user;
use outlive::serving::json;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Say yes to a question: confirm a step or a tool call, or accept an output
///
/// The answer is on disk when this returns, and is the answer for good. The run goes on in the process that executes
/// its workflow, now or when one is started.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    #[command(flatten)]
    to: To,
}

/// Say no to a question
///
/// What follows is up to the workflow: the step is left out, made again with the reason, or the run is cancelled.
#[derive(Debug, Args)]
pub(crate) struct Reject {
    #[command(flatten)]
    to: To,
    /// Why; an output that is made again is made with it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Answer a question with more than yes or no
///
/// Each question says what it takes: outlive questions show QUESTION. Outputs and results can be @FILE for a file's
/// contents, - for standard input.
#[derive(Debug, Args)]
#[command(override_usage = ANSWER_USAGE)]
#[command(group = ArgGroup::new("given").required(true).args(["input", "edit", "choose", "retry", "skip", "result"]))]
pub(crate) struct Answer {
    #[command(flatten)]
    to: To,
    /// Fill in fields: text as it is, numbers, true, false, lists and objects as JSON
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., value_parser = pair)]
    input: Vec<(String, String)>,
    /// Accept an output with these words instead; JSON if the output is not text
    #[arg(long, value_name = "TEXT|JSON")]
    edit: Option<String>,
    /// Choose, in this order
    #[arg(long, value_name = "NAME", num_args = 1..)]
    choose: Vec<String>,
    /// Try it again
    #[arg(long)]
    retry: bool,
    /// Go on without it
    #[arg(long)]
    skip: bool,
    /// It happened, and this came of it; an object or a list is read as JSON
    #[arg(long, value_name = "TEXT|JSON")]
    result: Option<String>,
}

/// Which question, and who answers it.
#[derive(Debug, Args)]
struct To {
    #[arg(value_name = "QUESTION", help = QUESTION_HELP)]
    question: String,
    /// Who answers [default: the name you are logged in by]; a server takes whom your credential names
    #[arg(long, value_name = "NAME", value_parser = super::user)]
    by: Option<String>,
}

/// Names and values are open lists: the question stands before them.
const ANSWER_USAGE: &str = "outlive answer <QUESTION> [OPTIONS] \
    <--input NAME=VALUE... | --edit TEXT | --choose NAME... | --retry | --skip | --result TEXT>";

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

impl Approve {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        self.to.give(global, "outlive approve", |_| Ok(core::Answer::Approve)).await
    }
}

impl Reject {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let feedback = self.reason.clone().filter(|reason| !reason.is_empty());
        self.to.give(global, "outlive reject", |_| Ok(core::Answer::Reject { feedback })).await
    }
}

impl Answer {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        self.to.give(global, "outlive answer", |question| self.to_be_given(question)).await
    }

    fn to_be_given(&self, question: &QuestionSummary) -> Result<core::Answer, Problem> {
        if self.retry {
            return Ok(core::Answer::Retry);
        }
        if self.skip {
            return Ok(core::Answer::Skip);
        }
        if let Some(text) = &self.edit {
            return Ok(core::Answer::Edit { output: output(question, &read(text)?)? });
        }
        if let Some(text) = &self.result {
            return Ok(core::Answer::Result { result: result(read(text)?)? });
        }
        if !self.choose.is_empty() {
            return Ok(core::Answer::choose(&self.choose));
        }
        let mut values = Map::new();
        for (name, text) in &self.input {
            if values.insert(name.clone(), field(question, name, text)?).is_some() {
                return Err(invalid(format!("field {name} is given twice")));
            }
        }
        Ok(core::Answer::Input { values })
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Exit::Usage, "invalid_answer", message)
}

fn read(given: &str) -> Result<String, Problem> {
    super::run::given_text(given, "no answer takes")
}

/// As a server reads it: what would be rounded, or is ambiguous, is refused.
fn parsed(text: &str, what: &str) -> Result<Value, Problem> {
    json::parse(text.as_bytes()).map_err(|problem| invalid(format!("{what}, but {}", problem.words())))
}

/// A field's value, of the type that the question's schema gives it. Without a schema, what is JSON is read as that.
pub(super) fn field(question: &QuestionSummary, name: &str, text: &str) -> Result<Value, Problem> {
    let Some(schema) = &question.schema else {
        return Ok(json::parse(text.as_bytes()).unwrap_or_else(|_| Value::from(text)));
    };
    match schema["properties"][name]["type"].as_str() {
        // A name that was not asked for is refused with the others.
        None | Some("string") => Ok(Value::from(text)),
        Some(kind) => parsed(text, &format!("field {name} takes JSON of the type {kind}")),
    }
}

/// An output of the kind that is judged: text stays text.
pub(super) fn output(question: &QuestionSummary, text: &str) -> Result<Value, Problem> {
    match &question.output {
        None | Some(Value::String(_)) => Ok(Value::from(text)),
        Some(_) => parsed(text, "the output that is judged is JSON"),
    }
}

pub(super) fn result(text: String) -> Result<Value, Problem> {
    match text.trim_start().starts_with(['{', '[']) {
        true => parsed(&text, "a result that begins like this is read as JSON"),
        false => Ok(Value::from(text)),
    }
}

impl To {
    async fn give(
        &self,
        global: &Global,
        action: &str,
        answer: impl FnOnce(&QuestionSummary) -> Result<core::Answer, Problem>,
    ) -> Result<Exit, Problem> {
        let runs = Runs::open_as(Role::Steers, global).await?;
        let done = async {
            let question = runs.find_question(&self.question).await?;
            let answer = answer(&question).map_err(|problem| with_ways(problem, &question, global))?;
            let given = runs.answer(&question.question_id, answer, self.by(&runs)?, action).await;
            let question = given.map_err(|problem| with_ways(problem, &question, global))?;
            tell(&runs, &question, global).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }

    /// Who answers, as far as that is for this command to say.
    fn by(&self, runs: &Runs) -> Result<Option<Arc<str>>, Problem> {
        match (&self.by, runs.is_here()) {
            (Some(_), false) => {
                let problem = Problem::new(Exit::Usage, "usage", "a server is not told who answers");
                Err(problem.hint("leave out --by: it takes the user that your credential names"))
            }
            (None, false) => Ok(None),
            (Some(by), true) => Ok(Some(Arc::from(by.as_str()))),
            (None, true) => Ok(logged_in()),
        }
    }
}

/// The name that whoever uses this command is logged in by.
pub(super) fn logged_in() -> Option<Arc<str>> {
    let set = |name| std::env::var(name).ok().filter(|name| is_user(name));
    ["USER", "LOGNAME", "USERNAME"].into_iter().find_map(set).map(Arc::from)
}

/// The same problem, with what would be an answer, or with where to see the one there is.
fn with_ways(problem: Problem, question: &QuestionSummary, global: &Global) -> Problem {
    let show = || global.command(format_args!("questions show {}", question.question_id));
    match problem.exit {
        Exit::Usage if question.is_open() => problem.hint(questions::ways(question, global).join("\n")),
        Exit::Usage | Exit::WrongState => problem.hint(format!("see it with: {}", show())),
        _ => problem,
    }
}

async fn tell(runs: &Runs, question: &QuestionSummary, global: &Global) -> Result<Exit, Problem> {
    if global.json {
        output::json(&question_json(question))?;
        return Ok(Exit::Done);
    }
    let word = question.answer.as_ref().map_or("answered", core::Answer::as_str);
    let id = style::line(&question.question_id, 128);
    output::line(format_args!("{} {id} {word}", Mark::Done.shown()))?;
    // The answer is kept, also where its giver may not look at runs.
    let Ok(run) = runs.standing(&question.run_id).await else { return Ok(Exit::Done) };
    let open = runs.open_questions(&run).await?;
    let (id, (_, word)) = (&question.run_id, state(&run));
    if let Some(next) = open.first() {
        let more = global.command(format_args!("questions --run {}", next.run_id));
        output::note(global, format_args!("Run {id} asks more: {more}"));
        return Ok(Exit::Done);
    }
    if let Some(waiting) = run.waiting.as_ref().filter(|waiting| !waiting.waits_for.is_work()) {
        let word =
            if waiting.is_answered { "goes on once a process takes it".to_owned() } else { format!("is {word}") };
        output::note(global, format_args!("Run {id} {word}: {}", waiting_line(waiting, times::now())));
        for line in remedy_lines(&run, &open, global) {
            output::note(global, format_args!("  {line}"));
        }
    }
    let watch = global.command(format_args!("watch {id}"));
    output::note(global, format_args!("Follow it with: {watch}"));
    Ok(Exit::Done)
}
