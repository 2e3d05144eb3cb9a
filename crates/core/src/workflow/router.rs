//! `Router`: the choices that a verdict names, one after the other.

use super::container::{Container, Ending, Next, count, output_of};
use super::judge::{Decider, IntoVerdict};
use super::{Block, Node, Rule, Settings, Verdict, VerdictInput, container_settings};
use crate::event::EventKind;
use crate::failure::Failure;
use crate::log::{Key, Place};
use crate::machine::Frame;
use std::sync::Arc;

/// Choices, as data.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are Agno's and say it")]
pub struct RouterNode {
    pub settings: Settings,
    pub select: Option<Rule>,
    pub choices: Vec<Node>,
}

/// Choices under construction. A choice is a step, or a container of steps.
///
/// ```
/// use outlive_core::{Failure, Router, Step};
///
/// let write = |name: &str| Step::function(name, |_, input| async move { Ok::<_, Failure>(input.text()) });
/// let channel = Router::new("Channel")
///     .select(|question| if question.text().len() < 280 { "Post" } else { "Article" })
///     .choice(write("Post"))
///     .choice(write("Article"));
/// ```
#[must_use]
#[derive(Debug)]
pub struct Router {
    pub(super) settings: Settings,
    pub(super) select: Option<Decider>,
    pub(super) choices: Vec<Block>,
}

/// Names of choices: one, several, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection(pub(super) Vec<Arc<str>>);

impl IntoVerdict<Selection> for &str {
    fn into_verdict(self) -> Result<Selection, Failure> {
        [self].into_verdict()
    }
}

impl IntoVerdict<Selection> for String {
    fn into_verdict(self) -> Result<Selection, Failure> {
        [self].into_verdict()
    }
}

impl<T: AsRef<str>, const N: usize> IntoVerdict<Selection> for [T; N] {
    fn into_verdict(self) -> Result<Selection, Failure> {
        Ok(self.into_iter().collect())
    }
}

impl<T: AsRef<str>> IntoVerdict<Selection> for Vec<T> {
    fn into_verdict(self) -> Result<Selection, Failure> {
        Ok(self.into_iter().collect())
    }
}

impl IntoVerdict<Selection> for Selection {
    fn into_verdict(self) -> Result<Selection, Failure> {
        Ok(self)
    }
}

impl<T: AsRef<str>> FromIterator<T> for Selection {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        Self(names.into_iter().map(|name| Arc::from(name.as_ref())).collect())
    }
}

impl Router {
    /// A Router of this name. It needs something that decides: [`Router::select`] or its sister.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self { settings: Settings::new(name), select: None, choices: Vec::new() }
    }

    /// Adds a choice.
    pub fn choice(mut self, choice: impl Into<Block>) -> Self {
        self.choices.push(choice.into());
        self
    }

    /// Chooses by a function that returns the names of choices: one, several, or none.
    pub fn select<A: IntoVerdict<Selection>>(
        self,
        select: impl Fn(&VerdictInput) -> A + Send + Sync + 'static,
    ) -> Self {
        self.decided_by(Decider::selects(select))
    }

    /// As [`Router::select`], by an async function, which may fail; its failure is the Router's.
    pub fn select_async<F, R, S>(self, select: F) -> Self
    where
        F: Fn(VerdictInput) -> R + Send + Sync + 'static,
        R: Future<Output = Result<S, Failure>> + Send + 'static,
        S: IntoVerdict<Selection>,
    {
        self.decided_by(Decider::selects_async(select))
    }

    /// Chooses by a [CEL](crate::cel) expression that gives a name or a list of names, such as
    /// `size(input) < 280 ? "Post" : "Article"`. A mistake in it is a problem that `build()` reports.
    pub fn select_cel(self, expression: impl AsRef<str>) -> Self {
        self.decided_by(Decider::cel(expression))
    }

    fn decided_by(mut self, decider: Decider) -> Self {
        self.select = Some(decider);
        self
    }

    container_settings!();
}

impl RouterNode {
    /// In Agno's words, when a person has chosen nothing.
    fn none_of(&self, frame: &Frame) -> &'static str {
        let asks = self.settings.review.as_ref().is_some_and(|review| review.requires_user_input);
        let is_none = names(frame.own().verdict.as_ref()).is_empty();
        if asks && is_none { " (no valid steps selected)" } else { "" }
    }

    fn place(&self, name: &str) -> Option<u32> {
        self.choices.iter().position(|choice| &**choice.name() == name).map(count)
    }
}

impl Container for RouterNode {
    fn needs_verdict(&self) -> bool {
        true
    }

    fn complete(&self, given: &mut VerdictInput, _: Option<&Frame>) {
        given.choices = self.choices.iter().map(|choice| choice.name().clone()).collect();
    }

    fn refuse(&self, verdict: &Verdict) -> Option<String> {
        let names = names(Some(verdict));
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
        if let Some((_, name)) = twice {
            return Some(format!("it chose {name:?} twice: a choice can be executed once"));
        }
        let unknown = names.iter().find(|name| self.place(name).is_none())?;
        let known: Vec<&str> = self.choices.iter().map(|choice| &**choice.name()).collect();
        Some(format!("it chose {unknown:?}, which is not among its choices: {}", known.join(", ")))
    }

    fn begun(&self, verdict: Option<&Verdict>) -> EventKind {
        EventKind::RouterExecutionStarted { selected_steps: names(verdict).to_vec() }
    }

    fn next(&self, key: &Key, frame: &Frame) -> Next {
        let chosen = names(frame.own().verdict.as_ref());
        let next = usize::try_from(frame.at).ok().and_then(|at| chosen.get(at)).filter(|_| !frame.is_stopped);
        let place = next.and_then(|name| self.place(name));
        place.map_or(Next::End, |place| Next::Begin(vec![key.node(Place::Choice(place))]))
    }

    fn ended(&self, frame: &Frame) -> Ending {
        let executed = frame.results.len();
        Ending {
            event: EventKind::RouterExecutionCompleted {
                selected_steps: names(frame.own().verdict.as_ref()).to_vec(),
                executed_steps: count(executed),
                step_results: frame.results.clone(),
            },
            output: output_of(
                format!("Router {} completed with {executed} results{}", self.settings.name, self.none_of(frame)),
                &frame.results,
            ),
        }
    }
}

fn names(verdict: Option<&Verdict>) -> &[Arc<str>] {
    match verdict {
        Some(Verdict::Names(names)) => names,
        _ => &[],
    }
}
