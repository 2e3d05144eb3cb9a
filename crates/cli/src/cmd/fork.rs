//! `outlive fork` and `outlive retry`: a new run that keeps what an earlier one has done, up to a place.

use super::answer::logged_in;
use super::run::{Detach, given_text};
use super::these::Where;
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::files::Known;
use crate::fold::RunView;
use crate::runs::{Role, Runs};
use crate::{output, style};
use clap::Args;
use outlive::Answer;
use outlive::client::ForkPreview;
use outlive::core::RunId;
use outlive::core::fork::{CallKind, ForkCall, ForkEdit, ForkPoint};
use outlive::engine::{self, BulkVerb};
use serde_json::{Value, json};

/// Start a run that keeps what an earlier one has done up to a place, and goes on from there
///
/// Recorded calls before that place are not made again. The earlier run stays as it is; the new one has a session of
/// its own, with the state as it was there. With --preview, nothing is started: it says which calls would be made again.
#[derive(Debug, Args)]
pub(crate) struct Fork {
    #[arg(value_name = "RUN", help = RUN_HELP)]
    run: String,
    /// The index of an event, the key of a step or a call, or the name of a step; event:, key: or step: before it says
    /// which, where it could be several
    #[arg(value_name = "PLACE")]
    at: String,
    /// Another input for what comes after: text, @FILE for a file's contents, - for standard input
    #[arg(long, value_name = "INPUT")]
    input: Option<String>,
    /// Another output of the step or the call that ended there; an object or a list is read as JSON
    #[arg(long, value_name = "TEXT|JSON")]
    output: Option<String>,
    /// Another answer to the question that was answered there: approve, reject, retry or skip, or as JSON, such as
    /// '{"do": "input", "values": {"colour": "red"}}'
    #[arg(long, value_name = "WORD|JSON", conflicts_with = "output")]
    answer: Option<String>,
    /// The session of the new run [default: a new one]
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Start a run that goes on where an earlier one failed or was cancelled, in its session
///
/// A step that failed in a call it was making goes on with that call; any other step that failed is executed from its
/// beginning. With --preview, nothing is started: it says which calls would be made again. With --where, all that match
/// and failed or were cancelled are tried again, each only once however often this is repeated, and the ids of the new ones printed.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[arg(value_name = "RUN", required_unless_present = "filters", conflicts_with = "filters", help = RUN_HELP)]
    run: Option<String>,
    #[command(flatten)]
    all: Where,
    #[command(flatten)]
    how: How,
}

/// Whether to do it.
#[derive(Debug, Args)]
struct How {
    /// Say which calls would be made again, or of many which runs these are, and start nothing
    #[arg(long, visible_alias = "dry-run", conflicts_with = "detach")]
    preview: bool,
    #[command(flatten)]
    detach: Detach,
    #[command(flatten)]
    known: Known,
}

impl Fork {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let too_long = "no run takes";
        let text = |given: &Option<String>| given.as_deref().map(|given| given_text(given, too_long)).transpose();
        let edit = match (text(&self.output)?, &self.answer) {
            (Some(text), _) => ForkEdit::Output(value(text)),
            (None, Some(given)) => ForkEdit::Answer(answer(given)?),
            (None, None) => ForkEdit::Nothing,
        };
        let input = text(&self.input)?.map(Value::String);
        let fork = engine::Fork { edit, input, session_id: self.session.clone(), ..engine::Fork::at(self.place()?) };
        self.how.go(&self.run, fork, Some(self), "outlive fork", global).await
    }

    fn place(&self) -> Result<ForkPoint, Problem> {
        let Some(index) = self.at.strip_prefix("event:") else {
            // A step whose key is a number has a name too.
            return Ok(self.at.parse().map_or_else(|_| ForkPoint::from(self.at.as_str()), ForkPoint::Entry));
        };
        index.parse().map(ForkPoint::Entry).map_err(|_| {
            let message = format!("{:?} is not a place: an event's index is a number, such as event:5", self.at);
            Problem::new(Exit::Usage, "invalid_place", message)
        })
    }

    /// Refuses a number that is the name of a step as well.
    async fn check_place(&self, runs: &Runs, run_id: &RunId) -> Result<(), Problem> {
        let Ok(index) = self.at.parse::<u64>() else { return Ok(()) };
        let events = runs.events(run_id, None).await?;
        if RunView::of(&events).steps.iter().all(|step| step.name != self.at) {
            return Ok(());
        }
        let message = format!("{index} is the index of an event, and the name of a step of this run");
        let hint = format!("write event:{index} for the event, or step:{} for the step", self.at);
        Err(Problem::new(Exit::Usage, "ambiguous_place", message).hint(hint))
    }
}

impl Retry {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let verb = "outlive retry";
        let Some(run) = &self.run else { return self.all(global).await };
        self.how.go(run, engine::Fork::retry(), None, verb, global).await
    }

    /// Tries all again that match, or says which these are.
    async fn all(&self, global: &Global) -> Result<Exit, Problem> {
        let wanted = self.all.wanted()?;
        let runs = Runs::open_knowing(Role::Accepts, &self.how.known, global).await?;
        let done = Where::start(&runs, wanted, BulkVerb::Retry, self.how.preview, global).await;
        runs.close().await?;
        done
    }
}

impl How {
    async fn go(
        &self,
        run: &str,
        fork: engine::Fork,
        asked: Option<&Fork>,
        verb: &str,
        global: &Global,
    ) -> Result<Exit, Problem> {
        let role = if self.preview { Role::Accepts } else { self.detach.role() };
        let runs = Runs::open_knowing(role, &self.known, global).await?;
        let done = async {
            let run_id = runs.find(run).await?.info.run_id;
            if let Some(asked) = asked {
                asked.check_place(&runs, &run_id).await?;
            }
            // A server takes whom the credential names.
            let fork = engine::Fork { by: logged_in().filter(|_| runs.is_here()), ..fork };
            if self.preview {
                return tell(&runs.preview_fork(&run_id, &fork).await?, global);
            }
            let accepted = runs.fork(&run_id, &fork, verb).await?;
            self.detach.go_on(&runs, &accepted, &self.known.global(global)?).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}

/// An object or a list, as JSON; anything else as the text it is.
fn value(text: String) -> Value {
    let is_json = text.starts_with(['{', '[']);
    if is_json && let Ok(value) = outlive::serving::json::parse(text.as_bytes()) { value } else { Value::String(text) }
}

/// An answer, by its word or as JSON.
fn answer(given: &str) -> Result<Answer, Problem> {
    let json = if given.starts_with('{') { given.to_owned() } else { json!({ "do": given }).to_string() };
    let read = outlive::serving::json::parse(json.as_bytes()).map_err(|problem| problem.words());
    let read = read.and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()));
    read.map_err(|problem| {
        let problem = Problem::new(Exit::Usage, "invalid_answer", format!("--answer cannot be used: {problem}"));
        problem.hint("give approve, reject, retry or skip, or JSON such as '{\"do\": \"edit\", \"output\": \"text\"}'")
    })
}

/// Shows what would be made again.
pub(super) fn tell(preview: &ForkPreview, global: &Global) -> Result<Exit, Problem> {
    if global.json {
        output::json(&json!({
            "forked_from": preview.forked_from,
            "kept_calls": preview.kept_calls,
            "kept_tokens": preview.kept_tokens,
            "again": preview.again,
        }))?;
        return Ok(Exit::Done);
    }
    let kept = style::counted(usize::try_from(preview.kept_calls).unwrap_or(usize::MAX), "call");
    output::line(format_args!("Keeps {} events: {kept}, {} tokens", preview.forked_from.at, preview.kept_tokens))?;
    if preview.again.is_empty() {
        output::line("Makes no call of that run again")?;
    } else {
        output::line(format_args!(
            "Makes again, as far as it comes to them: {}",
            style::counted(preview.again.len(), "call")
        ))?;
    }
    for call in &preview.again {
        output::line(line(call))?;
    }
    let once = preview.again.iter().filter(|call| call.is_once).count();
    if once > 0 {
        let those = if once == 1 { "one of them must".to_owned() } else { format!("{once} of them must") };
        output::note(global, format_args!("{those} not be made twice: check with the service behind it first"));
    }
    Ok(Exit::Done)
}

fn line(call: &ForkCall) -> String {
    let what = match call.kind {
        CallKind::Function => "function",
        CallKind::Named => "call",
        CallKind::Model => "model",
        CallKind::Tool => "tool",
    };
    let once = if call.is_once { "  once" } else { "" };
    let step = call.step_name.as_deref().filter(|_| call.kind != CallKind::Function);
    let step = step.map_or_else(String::new, |step| format!("  in {}", style::line(step, 60)));
    let tokens = if call.tokens > 0 { format!("  {} tokens", call.tokens) } else { String::new() };
    format!("  {:<24} {what} {}{step}{tokens}{once}", call.key.as_str(), style::line(&call.name, 60))
}
