//! Verdicts: what code decides for a container, and what it is asked. A verdict is recorded before anything follows
//! from it, so a replay never asks again.

use super::Selection;
use crate::cel::{Cel, CelError, Scope};
use crate::failure::{Failure, FailureKind};
use crate::json;
use crate::port::{BoxFuture, SessionState};
use crate::run::content_text;
use crate::step::{StepInput, StepOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// What was decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Verdict {
    /// A Condition: whether it holds. A Loop: whether it is done.
    Is(bool),
    /// A Router: the names of its choices, in the order in which they are to be executed.
    Names(Vec<Arc<str>>),
    /// A ForEach: its list.
    Items {
        /// The items, in order.
        items: Vec<Value>,
    },
}

/// What a verdict is asked about. As it dereferences to the [`StepInput`] that a step in the container's place would be
/// given, `given.text()` is what there is to decide on.
///
/// Code that decides must not change anything outside: it is asked again when the process dies before its answer is
/// recorded.
#[derive(Clone, Debug, Default)]
pub struct VerdictInput {
    /// What the container was given.
    pub input: StepInput,
    /// The session's state. Changes to it are not kept.
    pub state: SessionState,
    /// A Router: the names of its choices.
    pub choices: Vec<Arc<str>>,
    /// A Loop: the outputs of the iteration that has just ended, in order.
    pub outputs: Vec<Arc<StepOutput>>,
    /// A Loop: which iteration that was, from 1.
    pub iteration: u32,
    /// A Loop: how many there are at most.
    pub max_iterations: u32,
}

impl VerdictInput {
    /// A Loop: the content of the iteration's last output, as text.
    pub fn last_text(&self) -> String {
        self.outputs.last().map(|output| output.text()).unwrap_or_default()
    }
}

impl Deref for VerdictInput {
    type Target = StepInput;

    fn deref(&self) -> &StepInput {
        &self.input
    }
}

/// What a function that decides gives back: the answer itself, or a `Result` of it, so that `?` works on any error. An
/// error is the container's failure.
///
/// ```
/// use outlive_core::{Condition, Failure, Step};
///
/// let praise = Step::function("Praise", |_, _| async { Ok::<_, Failure>("well done") });
/// let high = Condition::new("High?").when(|score| Ok(score.text().parse::<u32>()? > 9)).step(praise);
/// ```
pub trait IntoVerdict<T> {
    /// The answer, or why there is none.
    ///
    /// # Errors
    /// What went wrong on the way to it.
    fn into_verdict(self) -> Result<T, Failure>;
}

impl<T, A: IntoVerdict<T>> IntoVerdict<T> for Result<A, Failure> {
    fn into_verdict(self) -> Result<T, Failure> {
        self?.into_verdict()
    }
}

impl IntoVerdict<bool> for bool {
    fn into_verdict(self) -> Result<bool, Failure> {
        Ok(self)
    }
}

impl<T: Into<Value>> IntoVerdict<Vec<Value>> for Vec<T> {
    fn into_verdict(self) -> Result<Vec<Value>, Failure> {
        Ok(self.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>, const N: usize> IntoVerdict<Vec<Value>> for [T; N] {
    fn into_verdict(self) -> Result<Vec<Value>, Failure> {
        Vec::from(self).into_verdict()
    }
}

/// What a definition says about where a verdict comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// From code, which only the process has, under this name.
    Function(Arc<str>),
    /// It is always this.
    Always(bool),
    /// From a [CEL](crate::cel) expression.
    Cel(Arc<str>),
    /// From the output of the earlier step of this name.
    Output(Arc<str>),
}

/// Code that decides.
pub(crate) type Judge = dyn Fn(VerdictInput) -> BoxFuture<'static, Result<Verdict, Failure>> + Send + Sync;

/// What decides for a container, as its builder was given it.
#[derive(Clone)]
pub(crate) enum Decider {
    /// Code, and its name unless that is the container's.
    Function(Arc<Judge>, Option<Arc<str>>),
    Always(bool),
    Cel(Arc<str>),
    Output(Arc<str>),
}

impl Decider {
    fn new<F, R>(decide: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Verdict, Failure>> + Send + 'static,
    {
        Self::Function(Arc::new(move |given| Box::pin(decide(given))), None)
    }

    /// Says whether something holds.
    pub(crate) fn holds<A: IntoVerdict<bool>>(holds: impl Fn(&VerdictInput) -> A + Send + Sync + 'static) -> Self {
        Self::plain(holds, Verdict::Is)
    }

    pub(crate) fn holds_async<F, R>(holds: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<bool, Failure>> + Send + 'static,
    {
        Self::new(move |given| {
            let verdict = holds(given);
            async move { Ok(Verdict::Is(verdict.await?)) }
        })
    }

    /// Chooses.
    pub(crate) fn selects<A: IntoVerdict<Selection>>(
        select: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::plain(select, |names: Selection| Verdict::Names(names.0))
    }

    pub(crate) fn selects_async<F, R, A>(select: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Failure>> + Send + 'static,
        A: IntoVerdict<Selection>,
    {
        Self::new(move |given| {
            let names = select(given);
            async move { Ok(Verdict::Names(names.await?.into_verdict()?.0)) }
        })
    }

    /// Gives a list.
    pub(crate) fn lists<A: IntoVerdict<Vec<Value>>>(
        items: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::plain(items, |items| Verdict::Items { items })
    }

    pub(crate) fn lists_async<F, R, A>(items: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, Failure>> + Send + 'static,
        A: IntoVerdict<Vec<Value>>,
    {
        Self::new(move |given| {
            let items = items(given);
            async move { Ok(Verdict::Items { items: items.await?.into_verdict()? }) }
        })
    }

    /// Decides by a function that is not async; `verdict` is what its answer means.
    fn plain<T, A: IntoVerdict<T>>(
        decide: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
        verdict: impl Fn(T) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        Self::Function(Arc::new(move |given| at_once(decide(&given).into_verdict().map(&verdict))), None)
    }

    pub(crate) fn cel(expression: impl AsRef<str>) -> Self {
        Self::Cel(Arc::from(expression.as_ref()))
    }

    /// The rule and its code, for a container of this name where an expression has these variables.
    pub(crate) fn build(self, scope: Scope, container: &Arc<str>) -> Result<(Rule, Arc<Judge>), CelError> {
        Ok(match self {
            Self::Function(judge, name) => (Rule::Function(name.unwrap_or_else(|| container.clone())), judge),
            Self::Always(verdict) => {
                let judge = move |_| at_once(Ok(Verdict::Is(verdict)));
                (Rule::Always(verdict), Arc::new(judge))
            }
            Self::Cel(text) => {
                let cel = Cel::compile(&text, scope)?;
                let judge = move |given: VerdictInput| at_once(evaluate(&cel, scope, &given));
                (Rule::Cel(text), Arc::new(judge))
            }
            Self::Output(step) => {
                let name = step.clone();
                let judge = move |given: VerdictInput| at_once(listed(&name, &given.input));
                (Rule::Output(step), Arc::new(judge))
            }
        })
    }
}

fn at_once(verdict: Result<Verdict, Failure>) -> BoxFuture<'static, Result<Verdict, Failure>> {
    Box::pin(std::future::ready(verdict))
}

/// The list that an earlier step gave back.
fn listed(step: &str, input: &StepInput) -> Result<Verdict, Failure> {
    let failed = |problem: &str| Failure::new(FailureKind::Definition, format!("step {step:?} {problem}"));
    let output = input.output(step).ok_or_else(|| failed("has no output before it"))?;
    let items = match &output.content {
        Some(Value::Array(items)) => Some(items.clone()),
        Some(Value::String(text)) => json::read(text).ok().and_then(|value| match value {
            Value::Array(items) => Some(items),
            _ => None,
        }),
        _ => None,
    };
    items.map(|items| Verdict::Items { items }).ok_or_else(|| failed("gave back no list"))
}

fn evaluate(cel: &Cel, scope: Scope, given: &VerdictInput) -> Result<Verdict, Failure> {
    let variables = scope.variables().iter().filter(|name| cel.text().contains(**name));
    let variables = variables.map(|name| ((*name).to_owned(), given.variable(name))).collect();
    let verdict = match scope {
        Scope::Router => {
            cel.evaluate_names(&variables).map(|names| Verdict::Names(names.into_iter().map(Arc::from).collect()))
        }
        Scope::Items => cel.evaluate_list(&variables).map(|items| Verdict::Items { items }),
        Scope::Condition | Scope::EndCondition => cel.evaluate_bool(&variables).map(Verdict::Is),
    };
    verdict.map_err(|error| Failure::new(FailureKind::Definition, error.to_string()))
}

impl VerdictInput {
    /// The value of a variable of an expression. [`crate::cel`] lists them.
    fn variable(&self, name: &str) -> Value {
        let object = |value: Option<&Value>| match value {
            Some(Value::Object(fields)) => Value::Object(fields.clone()),
            _ => Value::Object(Map::new()),
        };
        match name {
            "input" => self.input.input_text().into(),
            "input_data" => as_data(self.input.input.as_deref()),
            "previous_step_content" => content_text(self.input.previous_step_content.as_ref()).into(),
            "previous_step_outputs" => self
                .input
                .previous_step_outputs
                .iter()
                .map(|(name, output)| (name.to_string(), output.text()))
                .collect(),
            "additional_data" => object(self.input.additional_data.as_ref()),
            "session_state" => Value::Object(self.state.all()),
            "step_choices" => self.choices.iter().map(|name| &**name).collect(),
            "current_iteration" => self.iteration.into(),
            "max_iterations" => self.max_iterations.into(),
            "all_success" => self.outputs.iter().all(|output| output.success).into(),
            "last_step_content" => self.last_text().into(),
            "step_outputs" => {
                let outputs = self
                    .outputs
                    .iter()
                    .map(|output| (output.step_name.as_deref().unwrap_or_default().to_owned(), output.text()));
                outputs.collect()
            }
            _ => Value::Null,
        }
    }
}

/// An input as JSON: a text that is some is read.
fn as_data(input: Option<&Value>) -> Value {
    let whole = input.cloned().unwrap_or_default();
    let text = whole.as_str().filter(|text| text.trim_start().starts_with(['{', '[']));
    text.and_then(|text| json::read(text).ok()).unwrap_or(whole)
}

impl fmt::Debug for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(..) => f.write_str("Function"),
            Self::Always(verdict) => f.debug_tuple("Always").field(verdict).finish(),
            Self::Cel(text) => f.debug_tuple("Cel").field(text).finish(),
            Self::Output(step) => f.debug_tuple("Output").field(step).finish(),
        }
    }
}
