//! `outlive questions`: what runs ask people, and how to answer. Whatever else tells of a question tells it from here.

use crate::cli::{Global, RUN_HELP, quoted};
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::style::{self, BOLD, DIM, Mark};
use crate::table::{self, Column, KEPT};
use crate::{output, times};
use clap::{Args, Subcommand};
use outlive::client::QuestionSummary;
use outlive::core::port::QuestionFilter;
use outlive::core::{Answer, QuestionKind, Timestamp, content_text};
use serde_json::{Map, Value, json};

/// How to name a question.
pub(crate) const QUESTION_HELP: &str = "Full id, its first characters (4 or more), or the run, if it asks only one";

/// List what runs ask people, or show one question
///
/// A question waits for as long as it takes, whether or not a process executes its run, unless it has a deadline.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Questions {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
}

#[derive(Debug, Args)]
struct List {
    /// Answered questions too, and those that need no answer any more
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "RUN", help = format!("Only questions of this run. {RUN_HELP}"))]
    run: Option<String>,
    /// How many questions at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    limit: u32,
}

/// Show a question: what is asked, what may be answered, and the commands that answer it
#[derive(Debug, Args)]
struct Show {
    #[arg(value_name = "QUESTION", help = QUESTION_HELP)]
    question: String,
}

/// Questions in one page.
const PAGE: u32 = 500;

impl Questions {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        match &self.verb {
            None => self.list.run(&runs, global).await,
            Some(Verb::Show(show)) => {
                let question = runs.find_question(&show.question).await?;
                if global.json {
                    output::json(&question_json(&question))?;
                } else {
                    output::write(page(&question, global))?;
                }
                Ok(Exit::Done)
            }
        }
    }
}

impl List {
    async fn run(&self, runs: &Runs, global: &Global) -> Result<Exit, Problem> {
        let run_id = match &self.run {
            Some(run) => Some(runs.find(run).await?.info.run_id),
            None => None,
        };
        let asker = run_id.clone();
        let filter = QuestionFilter { run_id, with_settled: self.all, ..QuestionFilter::default() };
        let (questions, has_more) = self.read(runs, filter).await?;
        if global.json {
            let questions: Vec<_> = questions.iter().map(question_json).collect();
            output::json(&json!({ "questions": questions, "more": has_more }))?;
            return Ok(Exit::Done);
        }
        if questions.is_empty() {
            let place = runs.place();
            let remark = match (&asker, self.all) {
                (None, false) => format!("no question is open in {place}"),
                (None, true) => format!("no question was asked in {place}"),
                (Some(run), true) => format!("run {run} has asked nothing"),
                (Some(run), false) => {
                    let all = global.command(format_args!("questions --all --run {run}"));
                    format!("run {run} asks nothing now; see what it has asked with: {all}")
                }
            };
            output::note(global, remark);
            return Ok(Exit::Done);
        }
        let now = times::now();
        let rows: Vec<_> = questions.iter().map(|question| row(question, self.all, global, now)).collect();
        output::write(table::table(&COLUMNS, &rows, table::width()))?;
        if has_more {
            let flags = if self.all { " --all" } else { "" };
            let run = asker.map(|run| format!(" --run {run}")).unwrap_or_default();
            let more = format!("questions{flags}{run} -n {}", self.limit.saturating_mul(5));
            output::note(global, format_args!("more with: {}", global.command(more)));
        }
        Ok(Exit::Done)
    }

    async fn read(&self, runs: &Runs, mut filter: QuestionFilter) -> Result<(Vec<QuestionSummary>, bool), Problem> {
        let limit = self.limit as usize;
        let mut questions = Vec::new();
        loop {
            // Ask for one more than needed to see whether there are more.
            let missing = u32::try_from(limit + 1 - questions.len()).unwrap_or(u32::MAX);
            filter.limit = missing.min(PAGE);
            let (page, next) = runs.questions(filter.clone()).await?;
            questions.extend(page);
            if next.is_none() || questions.len() > limit {
                let has_more = questions.len() > limit;
                questions.truncate(limit);
                return Ok((questions, has_more));
            }
            filter.after = next;
        }
    }
}

const COLUMNS: [Column; 8] = [
    Column { head: "QUESTION", width_min: Some(13), rank: KEPT },
    Column { head: "RUN", width_min: Some(13), rank: 3 },
    Column { head: "STEP", width_min: Some(8), rank: 4 },
    Column { head: "KIND", width_min: None, rank: 2 },
    Column { head: "STATE", width_min: Some(8), rank: 6 },
    Column { head: "MESSAGE", width_min: Some(12), rank: 5 },
    Column { head: "ASKED", width_min: None, rank: 1 },
    Column { head: "DUE", width_min: None, rank: 1 },
];

fn row(question: &QuestionSummary, with_state: bool, global: &Global, now: Timestamp) -> [String; 8] {
    [
        style::line(style::short_id(&question.question_id), 128),
        style::short_id(question.run_id.as_str()).to_owned(),
        style::line(about(question), 40),
        spaced(&question.kind),
        if with_state { state(question) } else { String::new() },
        style::line(question.message.as_deref().unwrap_or_default(), 60),
        times::shown(question.asked_at, global.time_format, now),
        question.due_at.filter(|_| question.is_open()).map(|due| due_in(due, global, now)).unwrap_or_default(),
    ]
}

/// What it is about: the tool whose call it holds up, else the step.
fn about(question: &QuestionSummary) -> &str {
    question.tool.as_ref().map_or(&question.step_name, |tool| &tool.name)
}

fn spaced(word: &str) -> String {
    style::line(word, 40).replace('_', " ")
}

fn due_in(due: Timestamp, global: &Global, now: Timestamp) -> String {
    match global.time_format {
        times::TimeFormat::Relative if due <= now => "now".to_owned(),
        times::TimeFormat::Relative => times::ahead(due, now),
        format => times::shown(due, format, now),
    }
}

/// `open`, `void`, or what was answered and by whom.
fn state(question: &QuestionSummary) -> String {
    match &question.answer {
        Some(answer) => answer_words(answer, question.answered_by.as_deref()),
        None => style::line(&question.state, 20),
    }
}

/// `reject by ada: too long`.
pub(crate) fn answer_words(answer: &Answer, by: Option<&str>) -> String {
    let by = by.map(|by| format!(" by {}", style::line(by, 40))).unwrap_or_default();
    let said = match answer {
        Answer::TimedOut => return "nobody answered in time".to_owned(),
        Answer::Approve | Answer::Retry | Answer::Skip => None,
        Answer::Reject { feedback } => feedback.clone(),
        Answer::Input { values } => Some(Value::Object(values.clone()).to_string()),
        Answer::Edit { output } => Some(content_text(Some(output))),
        Answer::Choose { choices } => Some(choices.join(", ")),
        Answer::Result { result } => Some(content_text(Some(result))),
    };
    let said = said.filter(|said| !said.is_empty()).map(|said| format!(": {}", style::line(&said, 200)));
    format!("{}{by}{}", answer.as_str(), said.unwrap_or_default())
}

/// A question, as JSON.
pub(crate) fn question_json(question: &QuestionSummary) -> Value {
    let tool = question.tool.as_ref();
    json!({
        "id": question.question_id,
        "run_id": question.run_id,
        "workflow_id": question.workflow_id,
        "session_id": question.session_id,
        "user_id": question.user_id,
        "state": question.state,
        "kind": question.kind,
        "answers": question.answers,
        "message": question.message,
        "step": question.step_name,
        "key": question.key,
        "schema": question.schema,
        "choices": question.choices,
        "allows_several": question.allows_several,
        "output": question.output,
        "tool": tool.map(|tool| json!({ "name": tool.name, "arguments": tool.arguments, "agent": tool.agent })),
        "asked_at": times::rfc3339(question.asked_at),
        "due_at": question.due_at.map(times::rfc3339),
        "on_timeout": question.on_timeout,
        "answer": question.answer,
        "answered_by": question.answered_by,
        "answered_at": question.answered_at.map(times::rfc3339),
    })
}

/// The commands that answer it, ready to paste but for words in capitals.
pub(crate) fn ways(question: &QuestionSummary, global: &Global) -> Vec<String> {
    let id = quoted(&question.question_id);
    let answer = |with: &str| Some(format!("answer {id} {with}"));
    let way = |word: &String| match word.as_str() {
        "approve" | "reject" => Some(format!("{word} {id}")),
        "input" => answer(&format!("--input {}", fields(question).join(" "))),
        "edit" => answer("--edit TEXT"),
        "choose" => answer(&format!("--choose {}", choices(question))),
        "retry" | "skip" => answer(&format!("--{word}")),
        "result" => answer("--result TEXT"),
        // A newer server's.
        _ => None,
    };
    question.answers.iter().filter_map(way).map(|command| style::clean(&global.command(command))).collect()
}

/// `colour=TEXT`, for each field that must be filled in, or for all when none must.
fn fields(question: &QuestionSummary) -> Vec<String> {
    let schema = question.schema.as_ref();
    let properties = schema.and_then(|schema| schema["properties"].as_object());
    let required = schema.and_then(|schema| schema["required"].as_array());
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
    let all = || properties.into_iter().flatten();
    let needs_any = all().any(|(name, _)| is_required(name));
    let wanted = all().filter(|(name, _)| !needs_any || is_required(name));
    let fields: Vec<_> = wanted.map(|(name, field)| quoted(&format!("{name}={}", example(field)))).collect();
    if fields.is_empty() { vec!["NAME=VALUE".to_owned()] } else { fields }
}

fn example(field: &Value) -> String {
    match (field["enum"].as_array().and_then(|allowed| allowed.first()), field["type"].as_str()) {
        (Some(allowed), _) => content_text(Some(allowed)),
        (None, Some("integer" | "number")) => "NUMBER".to_owned(),
        (None, Some("boolean")) => "true".to_owned(),
        (None, Some("array")) => "[]".to_owned(),
        (None, Some("object")) => "{}".to_owned(),
        (None, _) => "TEXT".to_owned(),
    }
}

fn choices(question: &QuestionSummary) -> String {
    let shown = if question.allows_several { question.choices.len() } else { 1 };
    question.choices.iter().take(shown).map(|choice| quoted(choice)).collect::<Vec<_>>().join(" ")
}

/// Questions and how to answer them, a line each; `count_max` of them at most.
pub(crate) fn lines(questions: &[QuestionSummary], count_max: usize, global: &Global) -> Vec<String> {
    let mut lines = Vec::new();
    for question in questions.iter().take(count_max) {
        lines.push(headline(question));
        if question.kind == QuestionKind::Outcome.as_str() {
            lines.push("  check with the service behind it whether it ran; then one of".to_owned());
        }
        lines.extend(ways(question, global).into_iter().map(|way| format!("  {way}")));
    }
    if let Some(beyond) = questions.get(count_max) {
        let all = global.command(format_args!("questions --run {}", beyond.run_id));
        lines.push(format!("and more: {all}"));
    }
    lines
}

/// Who asks, and what.
pub(crate) fn headline(question: &QuestionSummary) -> String {
    format!("{} asks: {}", style::line(about(question), 60), asked(question))
}

/// What is asked, on one line.
fn asked(question: &QuestionSummary) -> String {
    let kind = spaced(&question.kind);
    let text = match question.message.as_deref().filter(|message| !message.is_empty()) {
        Some(message) => format!("{} ({kind})", style::line(message, 400)),
        None => kind,
    };
    match question.choices.is_empty() {
        true => text,
        false => format!("{text}: {}", style::line(&question.choices.join(", "), 400)),
    }
}

fn page(question: &QuestionSummary, global: &Global) -> String {
    let now = times::now();
    let mark = match question.state.as_str() {
        "open" => Mark::Paused,
        "answered" => Mark::Done,
        _ => Mark::Cancelled,
    };
    let kind = spaced(&question.kind);
    let head = format!("{} {}   {BOLD}{kind}{BOLD:#}", mark.shown(), style::line(&question.state, 20));
    let mut lines = vec![format!("{DIM}{:<8}{DIM:#} {}   {head}", "Question", style::line(&question.question_id, 128))];
    let mut fact = |name: &str, text: String| lines.push(format!("{DIM}{name:<8}{DIM:#} {text}"));
    fact("Run", format!("{} of {}", question.run_id, style::line(question.workflow_id.as_str(), 128)));
    if let Some(user) = &question.user_id {
        fact("User", style::line(user, 128));
    }
    if !question.step_name.is_empty() {
        fact("Step", style::line(&question.step_name, 128));
    }
    if let Some(message) = &question.message {
        fact("Asks", style::line(message, 2000));
    }
    if let Some(tool) = &question.tool {
        let arguments = style::line(&tool.arguments.to_string(), 2000);
        fact("Tool", format!("{} {arguments}, of {}", style::line(&tool.name, 128), style::line(&tool.agent, 128)));
    }
    for line in question.schema.iter().flat_map(field_lines) {
        fact("Field", line);
    }
    for choice in &question.choices {
        fact("Choice", style::line(choice, 200));
    }
    if let Some(judged) = &question.output {
        fact("Output", style::line(&content_text(Some(judged)), 2000));
    }
    fact("Asked", times::shown(question.asked_at, global.time_format, now));
    if let Some(due) = question.due_at.filter(|_| question.is_open()) {
        fact("Due", format!("{}; then: {}", due_in(due, global, now), style::line(&question.on_timeout, 20)));
    }
    if let Some(at) = question.answered_at {
        fact("Answer", format!("{}, {}", state(question), times::shown(at, global.time_format, now)));
    }
    if question.is_open() {
        lines.push(String::new());
        if question.kind == QuestionKind::Outcome.as_str() {
            lines.push("  check with the service behind it whether it ran; then one of".to_owned());
        }
        lines.extend(ways(question, global));
    }
    lines.join("\n") + "\n"
}

/// The fields of an object with this schema, a line each.
pub(crate) fn field_lines(schema: &Value) -> Vec<String> {
    field_names(schema).into_iter().map(|name| field_line(name, schema)).collect()
}

/// The names of its fields: first those that are required, in the order in which the schema has them.
pub(crate) fn field_names(schema: &Value) -> Vec<&str> {
    let properties = schema["properties"].as_object();
    let is_known = |name: &&str| properties.is_some_and(|properties| properties.contains_key(*name));
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut names: Vec<_> = required.filter(is_known).collect();
    for name in properties.into_iter().flat_map(Map::keys) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

/// `size: integer, optional, one of [38,40] (in cm)`.
pub(crate) fn field_line(name: &str, schema: &Value) -> String {
    let field = &schema["properties"][name];
    let required = schema["required"].as_array();
    let is_required = required.is_some_and(|names| names.iter().any(|required| required == name));
    let mut text = format!("{name}: {}", field["type"].as_str().unwrap_or("anything"));
    if !is_required {
        text.push_str(", optional");
    }
    if field["enum"].is_array() {
        text.push_str(&format!(", one of {}", field["enum"]));
    }
    if let Some(about) = field["description"].as_str() {
        text.push_str(&format!(" ({about})"));
    }
    style::line(&text, 400)
}
