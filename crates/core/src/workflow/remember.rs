//! Steps that see what earlier runs of their session were asked and came to.
//!
//! Whether one does is data, and part of the definition's hash; what it sees is read as it begins, and handed to it with
//! its input. It must never know who works in the step. The invariant: the same step of the same run sees the same runs,
//! whichever process executes it.

use super::{Code, Definition, Node};
use crate::failure::Failure;
use crate::history::{HISTORY_RUNS, History, HistoryRun, history_context, tokens_of, within_tokens};
use crate::message::ToolEffect;
use crate::port::{BoxFuture, Executed, Executor, ExecutorInfo, StepContext, StepInfo};
use crate::secret::Secret;
use crate::step::StepInput;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// Where a session's state has the summary of runs that are too old to be shown.
const SUMMARY: &str = "session_summary";

/// Earlier runs that are read at first beside those that may be shown, and at most, where they are to be summarized.
const RUNS_MORE: u32 = 8;
const RUNS_MAX: u32 = 1_000;

/// Whether a step sees the session's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepHistory {
    /// It does not, whatever the workflow says.
    Hidden,
    /// It does.
    Shown {
        /// The newest runs, at most.
        num_runs: u32,
        /// About how many tokens they may take.
        max_tokens: Option<u32>,
        /// Whether those that are older or do not fit are summarized.
        is_summarized: bool,
    },
}

/// What was said about a step's history, or a workflow's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HistoryWish {
    pub(super) add: Option<bool>,
    pub(super) num_runs: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) is_summarized: bool,
}

impl HistoryWish {
    /// What was said about a step that ended up like this.
    pub(super) fn of(history: Option<StepHistory>) -> Self {
        match history {
            None => Self::default(),
            Some(StepHistory::Hidden) => Self { add: Some(false), ..Self::default() },
            Some(StepHistory::Shown { num_runs, max_tokens, is_summarized }) => {
                Self { add: Some(true), num_runs: Some(num_runs), max_tokens, is_summarized }
            }
        }
    }

    /// What a step of which this was said sees in a workflow of which `outer` was said; none when nobody said anything.
    pub(super) fn within(self, outer: Self) -> Option<StepHistory> {
        let add = self.add.or(outer.add.filter(|is_wanted| *is_wanted))?;
        Some(match add {
            false => StepHistory::Hidden,
            true => StepHistory::Shown {
                num_runs: self.num_runs.or(outer.num_runs).unwrap_or(HISTORY_RUNS),
                max_tokens: self.max_tokens.or(outer.max_tokens),
                is_summarized: self.is_summarized || outer.is_summarized,
            },
        })
    }
}

/// What a workflow says about its steps' history, and who summarizes it.
#[derive(Clone, Default)]
pub(super) struct Remembering {
    pub(super) wish: HistoryWish,
    pub(super) summarizer: Option<Arc<dyn Executor>>,
}

impl fmt::Debug for Remembering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wish.fmt(f)
    }
}

impl Remembering {
    /// For a workflow inside, whose steps have decided.
    pub(super) fn inside(&self) -> Self {
        Self { wish: HistoryWish::default(), summarizer: self.summarizer.clone() }
    }

    /// The step's executor, with what it is to see.
    ///
    /// # Errors
    /// What is missing, in words.
    pub(super) fn show(
        &self,
        history: Option<StepHistory>,
        executor: &Arc<dyn Executor>,
    ) -> Result<Arc<dyn Executor>, &'static str> {
        let Some(StepHistory::Shown { num_runs, max_tokens, is_summarized }) = history else {
            return Ok(executor.clone());
        };
        let summarizer = self.summarizer.clone().filter(|_| is_summarized);
        if is_summarized && summarizer.is_none() {
            return Err("its history is to be summarized and nobody does it: say who with .summarize_history(..)");
        }
        Ok(Arc::new(Remembers { executor: executor.clone(), num_runs, max_tokens, summarizer }))
    }

    /// Shows the history to the steps of a nested workflow that has not decided for them.
    pub(super) fn show_inside(&self, nodes: &mut [Node], codes: &Arc<[Code]>) -> Arc<[Code]> {
        if self.wish.add != Some(true) {
            return codes.clone();
        }
        let pairs = nodes.iter_mut().zip(codes.iter());
        pairs.map(|(node, code)| self.show_in(node, code)).collect()
    }

    fn show_in(&self, node: &mut Node, code: &Code) -> Code {
        match (node, code) {
            (Node::Step(step), Code::Step { executor, workflows }) if step.history.is_none() => {
                step.history = HistoryWish::default().within(self.wish);
                let shown = self.show(step.history, executor).unwrap_or_else(|_| executor.clone());
                Code::Step { executor: shown, workflows: workflows.clone() }
            }
            (Node::Step(_), code) | (_, code @ Code::Step { .. }) => code.clone(),
            (node, Code::Container { judge, children, others }) => Code::Container {
                judge: judge.clone(),
                children: self.show_inside(node.children_mut(false), children),
                others: self.show_inside(node.children_mut(true), others),
            },
        }
    }
}

/// An executor that is shown the session's history.
struct Remembers {
    executor: Arc<dyn Executor>,
    num_runs: u32,
    max_tokens: Option<u32>,
    summarizer: Option<Arc<dyn Executor>>,
}

impl Remembers {
    async fn history(&self, context: &StepContext) -> Result<History, Failure> {
        let Some(summarizer) = &self.summarizer else {
            let runs = context.effects.history(self.num_runs).await?;
            return Ok(History { runs: self.shown(&runs, 0).to_vec(), summary: None });
        };
        let (runs, known) = self.runs_and_summary(context).await?;
        let reserved = known.as_ref().map_or(0, |known| tokens_of(&known.text));
        let shown = self.shown(&runs, reserved);
        let older = &runs[..runs.len() - shown.len()];
        let unknown = &older[known.as_ref().map_or(0, |known| known.runs).min(older.len())..];
        let summary = match (known, unknown.last()) {
            (known, None) => known.map(|known| known.text),
            (known, Some(last)) => {
                let text = history_context(unknown, known.as_ref().map(|known| &*known.text)).unwrap_or_default();
                // Made for whoever works in the step, so from nothing that they would not see.
                let text = self.executor.masked(Value::from(text));
                let text = summarize(context, &**summarizer, text).await?;
                context.state.set(SUMMARY, json!({ "summary": text, "until": last.run_id }));
                Some(text)
            }
        };
        Ok(History { runs: shown.to_vec(), summary: summary.map(Arc::from) })
    }

    /// The runs since the session's summary, if it has one, and at least those that may be shown.
    async fn runs_and_summary(&self, context: &StepContext) -> Result<(Vec<HistoryRun>, Option<Summary>), Failure> {
        let mut limit = self.num_runs.saturating_add(RUNS_MORE).min(RUNS_MAX);
        loop {
            let runs = context.effects.history(limit).await?;
            let known = Summary::of(context, &runs);
            let are_all = runs.len() < limit as usize || limit == RUNS_MAX;
            if are_all || known.as_ref().is_some_and(|known| known.runs > 0) {
                return Ok((runs, known));
            }
            limit = limit.saturating_mul(4).min(RUNS_MAX);
        }
    }

    /// The newest runs, as many as are asked for and fit beside this many tokens.
    fn shown<'a>(&self, runs: &'a [HistoryRun], reserved: u32) -> &'a [HistoryRun] {
        let newest = &runs[runs.len().saturating_sub(self.num_runs as usize)..];
        self.max_tokens.map_or(newest, |most| within_tokens(newest, most.saturating_sub(reserved)))
    }
}

/// A summary that the session has.
struct Summary {
    text: String,
    /// How many of the session's runs it is about, from the oldest on.
    runs: usize,
}

impl Summary {
    /// One whose last run was deleted is about none of those that are left.
    fn of(context: &StepContext, runs: &[HistoryRun]) -> Option<Self> {
        let kept = context.state.get(SUMMARY)?;
        let text = kept.get("summary")?.as_str()?.to_owned();
        let until = kept.get("until")?.as_str()?;
        let place = runs.iter().position(|run| run.run_id.as_str() == until);
        Some(Self { text, runs: place.map_or(0, |place| place + 1) })
    }
}

/// Has these runs summed up: recorded calls of the step's, like its agent's own.
async fn summarize(context: &StepContext, summarizer: &dyn Executor, text: Value) -> Result<String, Failure> {
    let step = StepInfo { key: context.step.key.word("summary"), ..(*context.step).clone() };
    let context = StepContext { step: Arc::new(step), state: context.state.fork(), ..context.clone() };
    let input = StepInput { input: Some(Arc::new(text)), ..StepInput::default() };
    let summary = summarizer.execute(context, Arc::new(input)).await;
    Ok(summary.map_err(|failure| failure.context("summarizing the session's history"))?.output.text())
}

impl Executor for Remembers {
    fn info(&self) -> ExecutorInfo {
        self.executor.info()
    }

    fn word(&self) -> &'static str {
        self.executor.word()
    }

    fn describe(&self) -> Option<Value> {
        self.executor.describe()
    }

    fn problems(&self) -> Vec<String> {
        self.executor.problems()
    }

    fn secrets(&self) -> Vec<Secret> {
        let summarizer = self.summarizer.iter().flat_map(|summarizer| summarizer.secrets());
        self.executor.secrets().into_iter().chain(summarizer).collect()
    }

    fn masked(&self, input: Value) -> Value {
        self.executor.masked(input)
    }

    fn models(&self) -> Vec<String> {
        self.executor.models()
    }

    fn workflows(&self) -> Vec<Arc<Definition>> {
        self.executor.workflows()
    }

    fn tool_effect(&self, tool: &str) -> Option<ToolEffect> {
        self.executor.tool_effect(tool)
    }

    fn starts_once(&self) -> bool {
        self.executor.starts_once()
    }

    /// A copy of who works in the step: whoever builds a workflow of it says anew what that sees.
    fn deep_copy(&self) -> Option<Arc<dyn Executor>> {
        Some(self.executor.deep_copy().unwrap_or_else(|| self.executor.clone()))
    }

    fn execute<'a>(&'a self, context: StepContext, input: Arc<StepInput>) -> BoxFuture<'a, Result<Executed, Failure>> {
        Box::pin(async move {
            let history = self.history(&context).await?;
            let input = StepInput { history: Some(Arc::new(history)), ..(*input).clone() };
            self.executor.execute(context, Arc::new(input)).await
        })
    }
}
