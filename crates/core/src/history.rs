//! The history of a session: what its earlier runs were asked and came to, as later runs read it.
//!
//! Pure values and text. It must never know where runs are kept; the same runs give the same words, so that a resumed
//! step says what it said before.

use crate::id::RunId;
use crate::run::{RunOutput, RunStatus, WorkflowRunOutput, content_text};
use crate::step::StepOutput;
use serde_json::Value;
use std::sync::Arc;

/// How many earlier runs a step sees unless told otherwise. Agno's.
pub const HISTORY_RUNS: u32 = 3;

/// What a text begins with that has the session's history in front.
const OPENING: &str = "<workflow_history_context>\n";
/// And what comes between the two.
const CLOSING: &str = "</workflow_history_context>\n\n";

/// Bytes that count as one token where nobody knows the model's own count.
const TOKEN_BYTES: usize = 4;

/// An earlier run of the same session: it completed, or it was interrupted once it had begun.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryRun {
    /// The run.
    pub run_id: RunId,
    /// What the workflow was asked; absent when nothing was.
    pub input: Option<Value>,
    /// What it came to. Of an interrupted run: what its steps had said by then.
    pub content: Option<Value>,
    /// It was cancelled before it completed.
    pub is_interrupted: bool,
    /// Whose text was cut off then: an agent's, a team's or a function's name.
    pub speaker: Option<Arc<str>>,
    /// The agent and team runs it made that ended, in order. A team's members are in its `member_responses`.
    pub runs: Vec<Arc<RunOutput>>,
}

/// What a step sees of its session's earlier runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The newest, oldest first.
    pub runs: Vec<HistoryRun>,
    /// Those before them, in short, where they are summarized.
    pub summary: Option<Arc<str>>,
}

impl History {
    /// All of it as a text to put in front of a message; none when there is nothing.
    pub fn context(&self) -> Option<String> {
        history_context(&self.runs, self.summary.as_deref())
    }
}

impl HistoryRun {
    /// What a run that has ended means to later runs; none when it means nothing: it failed, or was cancelled before it
    /// began.
    pub fn of(output: WorkflowRunOutput) -> Option<Self> {
        let is_interrupted = output.status == RunStatus::Cancelled;
        let had_begun = output.cancellation_stage.as_deref() != Some("PENDING");
        let counts = output.status == RunStatus::Completed || (is_interrupted && had_begun);
        let last = if is_interrupted { last_said(&output.step_results) } else { None };
        counts.then(|| Self {
            content: if is_interrupted { last.and_then(|last| last.content.clone()) } else { output.content },
            speaker: last.filter(|last| last.error.is_some()).and_then(|last| last.executor_name.clone()),
            run_id: output.run_id,
            input: output.input,
            is_interrupted,
            runs: output.step_executor_runs,
        })
    }

    /// What it was asked, as text.
    pub fn input_text(&self) -> String {
        content_text(self.input.as_ref())
    }

    /// What it came to, as text.
    pub fn text(&self) -> String {
        content_text(self.content.as_ref())
    }

    /// About how many tokens its lines take: a token for every four bytes.
    fn tokens(&self) -> u32 {
        tokens_of(&self.lines(1))
    }

    fn lines(&self, number: usize) -> String {
        let mut lines = format!("[Workflow Run-{number}]\n");
        let (input, output) = (self.input_text(), self.text());
        if !input.is_empty() {
            lines.push_str(&format!("User input: {input}\n"));
        }
        match (output.is_empty(), self.is_interrupted) {
            (true, false) => {}
            (true, true) => lines.push_str("Workflow output: (interrupted)\n"),
            (false, true) => lines.push_str(&format!("Workflow output (interrupted): {output}\n")),
            (false, false) => lines.push_str(&format!("Workflow output: {output}\n")),
        }
        lines.push('\n');
        lines
    }
}

/// The last step that had something to say: it ended, or was interrupted.
fn last_said(results: &[Arc<StepOutput>]) -> Option<&StepOutput> {
    results.iter().rev().find_map(|output| {
        if !output.steps.is_empty() {
            return last_said(&output.steps);
        }
        let is_partial = output.error.as_deref() == Some(INTERRUPTED);
        let has_content = output.content.as_ref().is_some_and(|content| !content.is_null());
        (is_partial || (output.error.is_none() && has_content)).then_some(&**output)
    })
}

/// The error of a step whose run was cancelled while it executed.
pub(crate) const INTERRUPTED: &str = "Cancelled during execution";

/// About how many tokens a text has: one for every four bytes of UTF-8, so more than a model counts in most scripts.
pub fn tokens_of(text: &str) -> u32 {
    u32::try_from(text.len().div_ceil(TOKEN_BYTES)).unwrap_or(u32::MAX)
}

/// The newest of these runs, oldest first, as far as they take about this many tokens together. One run that takes more by
/// itself is left out too.
pub fn within_tokens(runs: &[HistoryRun], tokens_max: u32) -> &[HistoryRun] {
    let mut tokens = 0_u32;
    let fits = |run: &&HistoryRun| {
        tokens = tokens.saturating_add(run.tokens());
        tokens <= tokens_max
    };
    let kept = runs.iter().rev().take_while(fits).count();
    &runs[runs.len() - kept..]
}

/// These runs as a text to put in front of a message, in Agno's words; none when there are no runs and no `summary` of
/// those before them.
///
/// ```
/// use outlive_core::{HistoryRun, RunId, history_context};
///
/// let run = HistoryRun {
///     run_id: RunId::parse("r1").unwrap(),
///     input: Some("Hello".into()),
///     content: Some("Hi!".into()),
///     is_interrupted: false,
///     speaker: None,
///     runs: Vec::new(),
/// };
/// let text = history_context(&[run], None).unwrap();
/// assert!(text.starts_with("<workflow_history_context>\n[Workflow Run-1]\nUser input: Hello\nWorkflow output: Hi!\n"));
/// assert!(history_context(&[], None).is_none());
/// ```
pub fn history_context(runs: &[HistoryRun], summary: Option<&str>) -> Option<String> {
    if runs.is_empty() && summary.is_none() {
        return None;
    }
    let mut text = OPENING.to_owned();
    if let Some(summary) = summary {
        text.push_str(&format!("[Summary of earlier runs]\n{summary}\n\n"));
    }
    (1..).zip(runs).for_each(|(number, run)| text.push_str(&run.lines(number)));
    text.push_str(CLOSING);
    Some(text)
}

/// A message without the history in front of it.
pub fn without_history(text: &str) -> &str {
    let inside = text.strip_prefix(OPENING).and_then(|rest| rest.split_once(CLOSING));
    inside.map_or(text, |(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u32, content: &str, is_interrupted: bool) -> HistoryRun {
        HistoryRun {
            run_id: RunId::parse(&format!("r{number}")).expect("a good id"),
            input: Some(format!("question {number}").into()),
            content: Some(content).filter(|content| !content.is_empty()).map(Value::from),
            is_interrupted,
            speaker: None,
            runs: Vec::new(),
        }
    }

    #[test]
    fn runs_are_told_oldest_first_and_the_interrupted_are_marked() {
        let runs = [run(1, "one", false), run(2, "tw", true), run(3, "", true)];
        let text = history_context(&runs, Some("They spoke of the weather.")).expect("there are runs");
        let expected = "<workflow_history_context>\n[Summary of earlier runs]\nThey spoke of the weather.\n\n\
             [Workflow Run-1]\nUser input: question 1\nWorkflow output: one\n\n\
             [Workflow Run-2]\nUser input: question 2\nWorkflow output (interrupted): tw\n\n\
             [Workflow Run-3]\nUser input: question 3\nWorkflow output: (interrupted)\n\n\
             </workflow_history_context>\n\n";
        assert_eq!(text, expected);
        assert_eq!(without_history(&format!("{text}And now?")), "And now?");
        assert_eq!(without_history("And now?"), "And now?");
    }

    #[test]
    fn a_budget_of_tokens_keeps_the_newest_runs() {
        let runs: Vec<_> = (1..=5).map(|number| run(number, "four words of text", false)).collect();
        let each = runs[0].tokens();
        for (budget, kept) in [(0, 0), (each - 1, 0), (each, 1), (3 * each, 3), (u32::MAX, 5)] {
            let left = within_tokens(&runs, budget);
            assert_eq!(left.len(), kept, "{budget}");
            assert!(left.iter().eq(runs.iter().skip(5 - kept)));
        }
        assert_eq!((tokens_of(""), tokens_of("abcd"), tokens_of("abcde"), tokens_of("ü")), (0, 1, 2, 1));
    }
}
