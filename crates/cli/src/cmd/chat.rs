//! `outlive chat`: a conversation with a workflow, line by line.
//!
//! Each line is a run of one session, as durable as any; the end of the conversation ends no run. What a run asks is asked
//! here. It must never know what an answer may be, which [`answers`] does.

mod answers;

use super::answer::logged_in;
use super::questions::question_json;
use super::watch::is_pause;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::files::{self, Allowances};
use crate::runs::{Role, Runs};
use crate::settings::Settings;
use crate::{output, style};
use answers::Said;
use clap::Args;
use outlive::client::QuestionSummary;
use outlive::core::port::RunFilter;
use outlive::core::{Definition, RunId, RunStatus, SessionId, content_text};
use outlive::engine::Submit;
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

/// Talk to a workflow of a file: each line is a run of one session
///
/// What earlier lines came to is seen where the workflow or its agents have a history. What a run asks, it asks here. /help
/// says what else there is; exit, quit and Ctrl-D end it; --session takes it up again.
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

/// How much of the session is repeated when it is taken up again.
const RUNS_REPEATED: u32 = 3;
const REPEATED_CHARS: usize = 400;

const HELP: &str = "\
Each line is said to the workflow; //text says /text. Besides, there are
  /help      this
  /new       a new session: nothing that was said is seen
  /session   the id of the session, to take it up again with --session
  /quit      the end, as exit, quit and Ctrl-D; what was said is kept
What a run asks is answered in the next lines, with the words that it names; /later leaves it open and ends.";

impl Chat {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let mut settings = Settings::load(global)?;
        let file = files::read(&self.file, &self.allowed, &settings)?;
        let workflow = files::the_workflow(&file, self.of_file.as_deref())?;
        files::choose_store(std::slice::from_ref(&file), &mut settings)?;
        let global = global.of_files(std::slice::from_ref(&self.file), &self.allowed, &settings);
        let runs = Runs::open_for(vec![workflow.clone()], Role::Executes, settings).await?;
        let session = self.session.clone();
        let talk = Talk { runs: &runs, workflow: &workflow, user: self.user.clone(), session, global: &global };
        let done = talk.hold().await;
        runs.close().await?;
        done
    }
}

/// A conversation.
struct Talk<'a> {
    runs: &'a Runs,
    workflow: &'a Definition,
    user: Option<String>,
    session: Option<String>,
    global: &'a Global,
}

/// What somebody has typed.
enum Line {
    Text(String),
    /// Without its slash.
    Word(String),
}

/// What the questions of a run have come to.
enum Asked {
    /// It goes on by itself, or is over.
    Nothing,
    /// They are left open.
    Later,
}

impl Talk<'_> {
    /// Takes line after line.
    async fn hold(mut self) -> Result<Exit, Problem> {
        if let Some(session) = self.session.clone()
            && let Asked::Later = self.take_up(&session).await?
        {
            return Ok(self.end());
        }
        while let Some(line) = ask(">").await? {
            match line {
                Line::Text(text) => {
                    if let Asked::Later = self.say(text).await? {
                        break;
                    }
                }
                Line::Word(word) => match word.as_str() {
                    "quit" | "exit" | "bye" => break,
                    "help" | "?" => self.tell(HELP),
                    "new" => {
                        self.session = None;
                        self.tell("A new session begins with the next line");
                    }
                    "session" => match &self.session {
                        Some(session) => output::line(session)?,
                        None => self.tell("It begins with the next line"),
                    },
                    "later" => self.tell("Nothing is asked"),
                    _ => self.tell(&format!("There is no /{}; see /help", style::line(&word, 40))),
                },
            }
        }
        Ok(self.end())
    }

    fn end(&self) -> Exit {
        if let Some(session) = &self.session {
            output::note(self.global, format_args!("Take it up again with: --session {session}"));
        }
        Exit::Done
    }

    /// A remark to whoever talks.
    fn tell(&self, text: &str) {
        output::note(self.global, text);
    }

    /// One line, and what comes of it.
    async fn say(&mut self, text: String) -> Result<Asked, Problem> {
        let submit = Submit {
            input: Some(text.into()),
            session_id: self.session.clone(),
            user_id: self.user.clone(),
            ..Submit::default()
        };
        let accepted = match self.runs.submit(&self.workflow.id, submit).await {
            Ok(accepted) => accepted,
            // An input that does not fit, a session that is busy: the next line may do better.
            Err(problem) if matches!(problem.exit, Exit::Usage | Exit::WrongState) => {
                problem.report(self.global.json);
                return Ok(Asked::Nothing);
            }
            Err(problem) => return Err(problem),
        };
        self.session = Some(accepted.session_id.to_string());
        self.attend(&accepted.run_id).await
    }

    /// Repeats the last of what was said, and asks what is still asked.
    async fn take_up(&self, session: &str) -> Result<Asked, Problem> {
        let session_id = Some(SessionId::parse(session).map_err(|e| Problem::new(Exit::Usage, "invalid_id", e))?);
        let filter = RunFilter { session_id, limit: RUNS_REPEATED, ..RunFilter::default() };
        self.runs.take_up().await?;
        let mut last = self.runs.list(filter).await?.runs;
        last.reverse();
        for run in last {
            let output = self.runs.output(&run.info.run_id).await?;
            let shown = |value: Option<&Value>| style::line(&content_text(value), REPEATED_CHARS);
            self.tell(&format!("> {}", shown(output.input.as_ref())));
            match run.status.is_terminal() {
                true => self.tell(&shown(output.content.as_ref())),
                false if run.info.workflow_id != self.workflow.id => {
                    self.tell(&format!("{} of {} is not over", run.info.run_id, run.info.workflow_id));
                }
                false => {
                    if let Asked::Later = self.attend(&run.info.run_id).await? {
                        return Ok(Asked::Later);
                    }
                }
            }
        }
        Ok(Asked::Nothing)
    }

    /// Waits for the end of a run, asks what it asks, and tells what it came to.
    async fn attend(&self, run_id: &RunId) -> Result<Asked, Problem> {
        let mut seen = None;
        loop {
            let open = self.at_rest(run_id, &mut seen).await?;
            if open.is_empty() {
                break;
            }
            for question in open {
                if self.global.json {
                    self.print(run_id, &[&question]).await?;
                }
                let Some(said) = self.ask(&question).await? else {
                    let questions = self.global.command("questions");
                    self.tell(&format!("It waits for an answer: {questions}"));
                    return Ok(Asked::Later);
                };
                match self.runs.answer(&question.question_id, said, logged_in(), "outlive chat").await {
                    Ok(_) => {}
                    // Somebody else was faster, or it does not fit: it is asked again if it is still open.
                    Err(problem) if matches!(problem.exit, Exit::Usage | Exit::WrongState) => {
                        problem.report(self.global.json);
                        break;
                    }
                    Err(problem) => return Err(problem),
                }
            }
        }
        if self.global.json {
            self.print(run_id, &[]).await?;
            return Ok(Asked::Nothing);
        }
        let output = self.runs.output(run_id).await?;
        match output.status {
            RunStatus::Completed => output::line(style::clean(&output.text()))?,
            other => self.tell(&format!("{}: {}", style::status_word(other), output.text())),
        }
        Ok(Asked::Nothing)
    }

    async fn print(&self, run_id: &RunId, questions: &[&QuestionSummary]) -> Result<(), Problem> {
        let output = self.runs.output(run_id).await?;
        let mut shown = json!({
            "run_id": run_id,
            "session_id": output.session_id,
            "status": style::status_word(output.status),
            "content": output.content,
        });
        if !questions.is_empty() {
            shown["questions"] = questions.iter().map(|question| question_json(question)).collect();
        }
        Ok(output::json(&shown)?)
    }

    /// The questions of a run once it goes on only with answers; none once it is over. `seen` is how far its log was
    /// followed.
    async fn at_rest(&self, run_id: &RunId, seen: &mut Option<u64>) -> Result<Vec<QuestionSummary>, Problem> {
        let mut following = self.runs.follow(run_id, *seen).await?;
        loop {
            // Questions that an answer has left open are not asked by another event.
            let run = self.runs.standing(run_id).await?;
            if run.status == RunStatus::Paused {
                let open = self.runs.open_questions(&run).await?;
                if !open.is_empty() {
                    return Ok(open);
                }
            }
            loop {
                let Some(event) = following.next().await? else { return Ok(Vec::new()) };
                *seen = event.event_index.or(*seen);
                if is_pause(&event) {
                    break;
                }
            }
        }
    }

    /// Asks until there is an answer of the kind that is wanted; none when it is left open.
    async fn ask(&self, question: &QuestionSummary) -> Result<Option<outlive::core::Answer>, Problem> {
        self.tell(&answers::told(question));
        let mut filled = answers::Filled::new(question);
        loop {
            if let Some(field) = filled.next() {
                self.tell(&field);
            }
            let typed = match ask("?").await? {
                Some(Line::Text(text)) => text,
                Some(Line::Word(word)) if word == "help" || word == "?" => {
                    self.tell(&answers::told(question));
                    continue;
                }
                Some(Line::Word(word)) if !matches!(word.as_str(), "later" | "quit" | "exit" | "bye") => {
                    self.tell("Answer, or leave it open with /later");
                    continue;
                }
                Some(Line::Word(_)) | None => return Ok(None),
            };
            match filled.take(&typed) {
                Ok(Said::Answer(answer)) => return Ok(Some(answer)),
                Ok(Said::More) => {}
                Err(why) if self.global.json => drop(Problem::new(Exit::Usage, "invalid_answer", why).report(true)),
                Err(why) => self.tell(&why),
            }
        }
    }
}

/// The next line that is more than white space; none when there is no more.
async fn ask(prompt: &str) -> Result<Option<Line>, Problem> {
    loop {
        if io::stdin().is_terminal() {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "{prompt} ").and_then(|()| stderr.flush());
        }
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map(|bytes| (bytes, line))
        });
        let (bytes, line) = read.await.map_err(io::Error::other)??;
        match line.trim() {
            _ if bytes == 0 => return Ok(None),
            "" => {}
            word @ ("exit" | "quit" | "bye") => return Ok(Some(Line::Word(word.to_owned()))),
            line => {
                return Ok(Some(match line.strip_prefix('/') {
                    Some(text) if text.starts_with('/') => Line::Text(text.to_owned()),
                    Some(word) => Line::Word(word.trim().to_owned()),
                    None => Line::Text(line.to_owned()),
                }));
            }
        }
    }
}
