//! Forks: where a run's log may be cut, what another run takes of it, and what that one does again.
//!
//! ```text
//! the run's log:    0 1 2 … at-1 │ at …       what stands before `at` is kept, and what was edited
//! the fork's log:   0 1 2 … at-1 │ RunForked, RunResumed, then its own
//! ```
//! Trying again is a fork where the run failed. It must never know a store, and executes nothing. The invariant: what is
//! kept folds like the log of a run whose worker was lost at that entry, so a fork goes on as a recovered run does.

mod calls;
mod copy;
mod judged;

pub use calls::{CallKind, ForkCall};

use crate::event::EventKind;
use crate::id::RunId;
use crate::log::{Entry, Key, Part, Record};
use crate::nearest::nearest;
use crate::question::{Answer, Question};
use crate::run::RunStatus;
use crate::step::StepType;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The run that another was forked from, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkedFrom {
    /// The run.
    pub run_id: RunId,
    /// What stood before this entry was kept.
    pub at: u64,
}

/// Where a run is forked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForkPoint {
    /// What stands before this entry is kept.
    Entry(u64),
    /// Where this step, container or call began. It is given by its key, or a step by its name; of several with that
    /// name, the first counts. `key:1` and `step:1` say which is meant where one has the key that is another's name. With
    /// an edited output, where it ended, or where its agent or team had answered if hooks have looked at that; with an
    /// edited answer, where it was answered.
    At(Arc<str>),
    /// Where the run failed or was cancelled. A step that failed in a call it was making goes on with that call; any
    /// other step that failed is executed from its beginning. Of a run that COMPLETED, where failures were skipped first:
    /// the branches or items with one are executed from their beginning, and what came after their container.
    Failure,
}

impl From<u64> for ForkPoint {
    fn from(index: u64) -> Self {
        Self::Entry(index)
    }
}

impl From<&str> for ForkPoint {
    fn from(place: &str) -> Self {
        Self::At(Arc::from(place))
    }
}

impl From<&Key> for ForkPoint {
    fn from(key: &Key) -> Self {
        Self::At(Arc::from(key.as_str()))
    }
}

/// What is changed where a run is forked.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ForkEdit {
    /// Nothing.
    #[default]
    Nothing,
    /// What a step, a tool, a model or a call named by a function gave back.
    Output(Value),
    /// What was answered to a question.
    Answer(Answer),
}

/// Why a run cannot be forked as asked, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CannotFork(pub String);

/// Where a log is cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    /// What stands before this entry is kept.
    at: usize,
    /// The steps before it that are executed from their beginning, in all their attempts.
    again: BTreeSet<Key>,
    /// An answer before it that is not kept: it ended the run.
    unanswered: Option<Key>,
    /// The entry whose output is replaced: the last that is kept.
    edited: Option<usize>,
    /// The question that is answered otherwise.
    answered: Option<Key>,
    /// Hooks that have looked at the run's input look again: it is another.
    has_other_input: bool,
}

impl Cut {
    /// Finds where to cut the log of a run with this status.
    ///
    /// # Errors
    /// When there is no such place, or nothing to edit there.
    pub fn new(log: &[Entry], status: RunStatus, point: &ForkPoint, edit: &ForkEdit) -> Result<Self, CannotFork> {
        let most = most(log, status);
        let at = |at| Self { at: seam(log, at), ..Self::default() };
        match (point, edit) {
            (ForkPoint::Entry(index), ForkEdit::Nothing) => {
                Ok(at(within(*index, (log.len(), most))?).before_four_eyes(log))
            }
            (ForkPoint::At(place), ForkEdit::Nothing) => match begun(&log[..most], place)? {
                Some(index) if matches!(log[index].record, Some(Record::Retry { .. })) => {
                    Ok(at(index + 1).before_four_eyes(log))
                }
                Some(index) => Ok(at(index).before_four_eyes(log)),
                None => {
                    let (named, meant) = (named(point), meant(&log[..most], place));
                    let hint = "name a step, or the key of a step or a call";
                    refuse(format!("nothing called {named} has begun{meant}: {hint}"))
                }
            },
            (_, ForkEdit::Output(_)) => {
                let index = match point {
                    ForkPoint::Entry(index) => usize::try_from(*index).ok().filter(|index| *index < most),
                    ForkPoint::At(place) => {
                        find(place, |place| log[..most].iter().position(|entry| ends(entry, place)))?
                    }
                    ForkPoint::Failure => None,
                };
                let Some(index) = index.filter(|index| log[..most].get(*index).is_some_and(has_output)) else {
                    let meant = unknown(&log[..most], point);
                    return refuse(format!(
                        "{} gave nothing back that could be edited{meant}: {EDITABLE}",
                        named(point)
                    ));
                };
                let index = judged::answer_of(log, index).unwrap_or(index);
                Ok(Self { edited: Some(index), ..at(index + 1) })
            }
            (_, ForkEdit::Answer(_)) => {
                let index = match point {
                    ForkPoint::Entry(index) => usize::try_from(*index).ok().filter(|index| *index < most),
                    ForkPoint::At(place) => find(place, |place| answers(&log[..most], place))?,
                    ForkPoint::Failure => None,
                };
                let answered = index.and_then(|index| match &log.get(index)?.record {
                    Some(Record::Answered { key, .. }) => Some((index, key.clone())),
                    _ => None,
                });
                let Some((index, key)) = answered else {
                    let hint = "name a question that was answered, by its key or its step; one that is open can be \
                                answered in a fork without an edit";
                    let meant = unknown(&log[..most], point);
                    return refuse(format!("no question was answered at {}{meant}: {hint}", named(point)));
                };
                Ok(Self { answered: Some(key), ..at(index) })
            }
            (ForkPoint::Failure, ForkEdit::Nothing) => Self::failure(log, status, most),
        }
    }

    fn failure(log: &[Entry], status: RunStatus, most: usize) -> Result<Self, CannotFork> {
        if status == RunStatus::Completed
            && let Some(cut) = Self::skipped(&log[..most])
        {
            return Ok(cut.before_four_eyes(log));
        }
        if !matches!(status, RunStatus::Error | RunStatus::Cancelled) {
            let hint = "only one that ended ERROR or CANCELLED, or in which a failure was skipped, can be tried again; run \
                        it again, or fork it";
            return refuse(format!("the run is {status}: {hint}"));
        }
        let mut cut = Self { at: most, ..Self::default() };
        let failed = log[most..].iter().find_map(|entry| match &entry.record {
            Some(Record::Failed { key, .. }) => Some(key.clone()),
            _ => None,
        });
        let goes_on = failed.as_ref().is_some_and(|key| was_calling(&log[..most], key));
        match failed {
            Some(key) if goes_on => {
                let is_end = |entry: &Entry| match &entry.record {
                    Some(Record::Run { key: done, ended }) => {
                        ended.failure.is_some()
                            && [key.speaker("agent"), key.speaker("team")]
                                .iter()
                                .any(|speaker| *done == speaker.word("done"))
                    }
                    _ => false,
                };
                cut.at = log[..most].iter().rposition(is_end).unwrap_or(most);
            }
            Some(key) => cut.again = attempts(&key).collect(),
            None => {}
        }
        cut.unanswered = ending_answer(&log[..cut.at]);
        // Whoever goes on with a call repeats nothing that had ended.
        Ok(if goes_on { cut } else { cut.before_four_eyes(log) })
    }

    /// Where failures were skipped first, if any were: at a step that failed, or where branches of a container were
    /// joined of which some failed, or something inside them did.
    fn skipped(log: &[Entry]) -> Option<Self> {
        let mut failed = (0..).zip(log).filter_map(|(index, entry)| Some((index, skipped_failure(entry)?)));
        failed.find_map(|(index, key)| {
            let Some(branch) = outermost_branch(key) else {
                return Some(Self { at: seam(log, index), again: attempts(key).collect(), ..Self::default() });
            };
            let container = branch.outer()?;
            // One that was tried again has forgotten what failed inside it.
            let is_join = |entry: &Entry| matches!(&entry.record, Some(Record::Step { key, .. }) if *key == container);
            let join = log.iter().position(is_join)?;
            let inside = log[..join].iter().filter_map(skipped_failure).filter(|key| key.is_inside(&container));
            let again = inside.filter_map(outermost_branch).flat_map(|branch| attempts(&branch).collect::<Vec<_>>());
            Some(Self { at: seam(log, join), again: again.collect(), ..Self::default() })
        })
    }

    /// The same for a fork with another input: hooks of agents and teams that go on with it look at it again.
    #[must_use]
    pub fn with_other_input(self) -> Self {
        Self { has_other_input: true, ..self }
    }

    /// What stands before this entry is kept.
    pub fn at(&self) -> u64 {
        self.at as u64
    }

    /// The question that is answered otherwise.
    pub fn answered(&self) -> Option<&Key> {
        self.answered.as_ref()
    }

    /// Goes back to where something was asked under four eyes whose answer would be kept without the end of what it
    /// allowed: it allowed one execution, and a fork would be another.
    fn before_four_eyes(mut self, log: &[Entry]) -> Self {
        // What stood beside it may lose its end by that.
        while let Some(at) = self.first_unspent(log) {
            self.at = seam(log, at);
        }
        self
    }

    /// Where the first answer under four eyes is kept without the end of what it allowed.
    fn first_unspent(&self, log: &[Entry]) -> Option<usize> {
        let kept = &log[..self.at];
        let is_spent = |question: &&Question| {
            let guarded = question.key.outer().unwrap_or_else(Key::run);
            kept.iter().any(|entry| is_end_of(entry, &guarded))
        };
        let unspent = self.under_four_eyes(log).filter(|question| !is_spent(question));
        let unspent: BTreeSet<&Key> = unspent.map(|question| &question.key).collect();
        let is_answer =
            |entry: &Entry| matches!(&entry.record, Some(Record::Answered { key, .. }) if unspent.contains(key));
        kept.iter().position(is_answer)
    }

    /// The questions whose answers are kept, and which whoever submitted the run must not answer.
    pub fn under_four_eyes<'a>(&'a self, log: &'a [Entry]) -> impl Iterator<Item = &'a Question> {
        let kept: Vec<&Record> = self.kept(log).filter_map(|index| log[index].record.as_ref()).collect();
        let answered = kept.iter().filter_map(|record| match record {
            Record::Answered { key, .. } => Some(key),
            _ => None,
        });
        let answered: BTreeSet<&Key> = answered.collect();
        let asked = kept.into_iter().flat_map(|record| match record {
            Record::Waiting { questions, .. } => questions.as_slice(),
            _ => &[],
        });
        asked.map(|question| &**question).filter(move |question| question.four_eyes && answered.contains(&question.key))
    }

    /// Whether an entry's record belongs to what is executed from its beginning.
    fn is_again(&self, entry: &Entry) -> bool {
        let key = entry.record.as_ref().and_then(Record::key).filter(|_| !self.again.is_empty());
        std::iter::successors(key.cloned(), Key::outer).any(|key| self.again.contains(&key))
    }

    /// Which entries are kept, in order.
    fn kept<'a>(&'a self, log: &'a [Entry]) -> impl Iterator<Item = usize> + 'a {
        // A step has one id in all iterations: what it said before counts only from where it began last.
        let mut said: BTreeMap<Arc<str>, usize> = BTreeMap::new();
        for (index, entry) in log.iter().enumerate().filter(|(_, entry)| self.is_again(entry)) {
            if let Some(id) = &entry.event.origin.step_id {
                said.entry(id.clone()).or_insert(index);
            }
        }
        let pieces = self.edited.and_then(|edited| told_before(log, edited));
        let asked_again = if self.has_other_input { judged::in_flight(&log[..self.at]) } else { BTreeSet::new() };
        (0..self.at).filter(move |index| {
            let entry = &log[*index];
            let is_again = match &entry.record {
                Some(_) => self.is_again(entry),
                None => {
                    entry.event.origin.step_id.as_ref().and_then(|id| said.get(id)).is_some_and(|from| index > from)
                }
            };
            let is_unanswered = match (&self.unanswered, &entry.record) {
                (Some(question), Some(Record::Answered { key, .. })) => key == question,
                _ => false,
            };
            let is_untold = pieces.as_ref().is_some_and(|(from, run_id)| {
                index > from && entry.event.origin.run_id == *run_id && is_text(&entry.event.kind)
            });
            let is_asked_again = judged::hooked(entry).is_some_and(|speaker| asked_again.contains(&speaker));
            !is_again && !is_unanswered && !is_untold && !is_asked_again
        })
    }
}

/// The step or container whose failure was skipped here. What failed in a call of an agent's, its agent was told.
fn skipped_failure(entry: &Entry) -> Option<&Key> {
    match &entry.record {
        Some(Record::Step { key, output, .. }) if !output.success => {
            let is_called = key.parts().any(|part| matches!(part, Part::Speaker(_)));
            Some(key).filter(|key| !is_called && **key != Key::leader())
        }
        _ => None,
    }
}

/// The outermost branch or item that something is inside of, or is.
fn outermost_branch(key: &Key) -> Option<Key> {
    std::iter::successors(Some(key.clone()), Key::outer).filter(Key::is_branch).last()
}

/// A step in this attempt and all before.
fn attempts(key: &Key) -> impl Iterator<Item = Key> {
    (1..=key.attempt_number()).map(|attempt| key.attempt(attempt))
}

/// What can be edited, in words.
const EDITABLE: &str = "name a step that ended, a call of a tool or a model, or one that a function named, by its key or \
                        the entry where it ended; of a container, edit a step inside";

/// How much of a place's name an error quotes.
const NAMED_CHARS: usize = 200;

fn refuse<T>(problem: String) -> Result<T, CannotFork> {
    Err(CannotFork(problem))
}

fn named(point: &ForkPoint) -> String {
    match point {
        ForkPoint::Entry(index) => format!("entry {index}"),
        ForkPoint::At(place) => match place.char_indices().nth(NAMED_CHARS) {
            Some((end, _)) => format!("{:?}…", &place[..end]),
            None => format!("{place:?}"),
        },
        ForkPoint::Failure => "a failure".to_owned(),
    }
}

/// `; did you mean "Draft"?`, where nothing is called as this place is and something nearly.
fn unknown(log: &[Entry], point: &ForkPoint) -> String {
    match point {
        ForkPoint::At(place) if matches!(begun(log, place), Ok(None)) => meant(log, place),
        _ => String::new(),
    }
}

/// `; did you mean "Draft"?`, if something with nearly that name or key has begun.
fn meant(log: &[Entry], place: &str) -> String {
    let known = log.iter().filter_map(|entry| entry.record.as_ref()).flat_map(|record| match record {
        Record::Intent { key, name } => vec![Some(key.as_str()), name.as_deref()],
        Record::Begin { key, name, .. } => vec![Some(key.as_str()), Some(&**name)],
        Record::Reserved { key, .. } => vec![Some(key.as_str())],
        Record::Waiting { questions, .. } => questions.iter().map(|question| Some(&*question.step_name)).collect(),
        _ => Vec::new(),
    });
    let nearest = nearest(place, known.flatten());
    nearest.map(|name| format!("; did you mean {name:?}?")).unwrap_or_default()
}

/// The place before this entry; before the end of the run, for the entries that end it.
fn within(index: u64, (len, most): (usize, usize)) -> Result<usize, CannotFork> {
    match usize::try_from(index) {
        Ok(index) if index <= most => Ok(index),
        Ok(index) if index < len => Ok(most),
        _ => refuse(format!(
            "the run has no entry there: it can be forked at entries 0 to {}",
            most.max(len.saturating_sub(1))
        )),
    }
}

/// How many entries can be kept: all but the end of the run.
fn most(log: &[Entry], status: RunStatus) -> usize {
    match log.len() {
        0 => 0,
        len if status.is_terminal() && log[len - 1].event.is_terminal() => seam(log, len - 1),
        len => len,
    }
}

/// The place near `at` where the log can be cut: entries that were written together, of which only one has a record,
/// stay together.
fn seam(log: &[Entry], at: usize) -> usize {
    let told = |at: usize| -> bool {
        let pair = at.checked_sub(1).and_then(|before| Some((log.get(before)?, log.get(at)?)));
        pair.is_some_and(|(before, next)| {
            let is_output = matches!(before.event.kind, EventKind::StepOutput { .. }) && before.record.is_some();
            is_output && matches!(next.event.kind, EventKind::StepCompleted { .. }) && next.record.is_none()
        })
    };
    if told(at) {
        return at + 1;
    }
    let mut at = at;
    while at > 0 && leads(&log[at - 1], log.get(at)) && !told(at - 1) {
        at -= 1;
    }
    at
}

/// Whether an entry was written only because of the `next`.
fn leads(entry: &Entry, next: Option<&Entry>) -> bool {
    let asks = |next: &Entry| matches!(next.record, Some(Record::Waiting { .. }));
    match (&entry.event.kind, &entry.record) {
        (EventKind::WorkflowCancelled { .. }, _) => true,
        (EventKind::StepError { .. }, Some(Record::Waiting { .. })) => false,
        (EventKind::StepError { .. }, _) => true,
        // Of a nested workflow.
        (EventKind::WorkflowCompleted(_) | EventKind::StepStarted, None) => true,
        (EventKind::StepOutput { .. }, None) => true,
        (EventKind::StepCompleted { .. }, None) => next.is_none_or(asks),
        _ => false,
    }
}

/// What a place is given by.
#[derive(Clone, Copy)]
enum Place<'a> {
    Key(&'a str),
    Step(&'a str),
}

impl Place<'_> {
    /// Whether it is what has this key, and this name if it has one.
    fn is(self, key: &Key, name: Option<&str>) -> bool {
        match self {
            Self::Key(place) => key.as_str() == place,
            Self::Step(place) => name == Some(place),
        }
    }
}

/// The entry for which a text stands, which is a key or a name, or says which of both.
fn find(text: &str, by: impl Fn(Place<'_>) -> Option<usize>) -> Result<Option<usize>, CannotFork> {
    match (by(Place::Key(text)), by(Place::Step(text))) {
        (Some(key), Some(step)) if key != step => {
            let named = named(&ForkPoint::from(text));
            refuse(format!(
                "{named} is the key of one step and the name of another: write \"key:{text}\" or \"step:{text}\""
            ))
        }
        (Some(found), _) | (None, Some(found)) => Ok(Some(found)),
        (None, None) => Ok(match text.split_once(':') {
            Some(("key", key)) => by(Place::Key(key)),
            Some(("step", name)) => by(Place::Step(name)),
            _ => None,
        }),
    }
}

/// Where the step, the container or the call for which a text stands has begun.
fn begun(log: &[Entry], text: &str) -> Result<Option<usize>, CannotFork> {
    find(text, |place| log.iter().position(|entry| begins(entry, place)))
}

/// Whether a step, a container or a call begins here that the place names.
fn begins(entry: &Entry, place: Place<'_>) -> bool {
    match (&entry.record, place) {
        (Some(Record::Intent { key, name }), _) => place.is(key, name.as_deref()),
        (Some(Record::Reserved { key, .. }), _) => place.is(key, None),
        (Some(Record::Begin { key, name, .. }), _) => place.is(key, Some(name)),
        (Some(Record::Waiting { key, .. }), Place::Key(_)) => place.is(key, None),
        (Some(Record::Waiting { questions, .. }), Place::Step(name)) => {
            questions.iter().any(|question| *question.step_name == *name)
        }
        (Some(Record::Retry { key, attempt, .. }), _) => place.is(&key.attempt(attempt + 1), None),
        _ => false,
    }
}

/// Whether it ends here, whichever attempt succeeded.
fn ends(entry: &Entry, place: Place<'_>) -> bool {
    match &entry.record {
        Some(Record::Step { key, output, .. }) => {
            place.is(key, output.step_name.as_deref()) || place.is(&key.attempt(1), None)
        }
        Some(Record::Result { key, .. }) => place.is(key, None),
        _ => false,
    }
}

/// Whether a step in any of its attempts, an iteration or a call ended here.
fn is_end_of(entry: &Entry, what: &Key) -> bool {
    match &entry.record {
        Some(Record::Step { key, .. } | Record::Failed { key, .. }) => key.attempt(1) == what.attempt(1),
        Some(Record::Iteration { key, goes_on: Some(_) } | Record::Result { key, sleeps: false, .. }) => key == what,
        _ => false,
    }
}

/// Whether what an entry gave back can be edited.
fn has_output(entry: &Entry) -> bool {
    match &entry.record {
        Some(Record::Step { output, .. }) => output.step_type == StepType::Step,
        Some(Record::Result { key, .. }) => {
            key.is_answer() || matches!(key.parts().last(), Some(Part::Call(_) | Part::Named(_)))
        }
        _ => false,
    }
}

/// Where a question with this key or id, or of this step, was answered.
fn answers(log: &[Entry], place: Place<'_>) -> Option<usize> {
    let mut asked: BTreeSet<&Key> = BTreeSet::new();
    log.iter().position(|entry| match &entry.record {
        Some(Record::Waiting { key, questions, .. }) => {
            let is_there = |question: &&Arc<Question>| match place {
                Place::Key(place) => [question.key.as_str(), key.as_str(), &*question.id].contains(&place),
                Place::Step(name) => *question.step_name == *name,
            };
            asked.extend(questions.iter().filter(is_there).map(|question| &question.key));
            false
        }
        Some(Record::Answered { key, .. }) => asked.contains(key),
        _ => false,
    })
}

/// The question whose answer ended the run, if one did.
fn ending_answer(log: &[Entry]) -> Option<Key> {
    use crate::question::Effect::{Cancels, Fails};
    let mut asked: Vec<&Arc<Question>> = Vec::new();
    let mut ending = None;
    for record in log.iter().filter_map(|entry| entry.record.as_ref()) {
        match record {
            Record::Waiting { questions, .. } => asked.extend(questions),
            Record::Answered { key, answered } => {
                let question = asked.iter().rev().find(|question| question.key == *key);
                let effect = question.map(|question| question.effect(&answered.answer));
                if matches!(effect, Some(Cancels(_) | Fails(_))) {
                    ending = Some(key.clone());
                }
            }
            _ => {}
        }
    }
    ending
}

/// Whether a step that failed was making a call: one of this attempt, or one its function named.
fn was_calling(log: &[Entry], key: &Key) -> bool {
    let first = key.attempt(1);
    let is_own = |call: &Key| call.is_inside(key) || (call.is_named() && call.is_inside(&first));
    let mut open: BTreeSet<&Key> = BTreeSet::new();
    for record in log.iter().filter_map(|entry| entry.record.as_ref()) {
        match record {
            Record::Intent { key, name: None } | Record::Reserved { key, .. } if is_own(key) => drop(open.insert(key)),
            Record::Result { key, .. } => drop(open.remove(key)),
            _ => {}
        }
    }
    !open.is_empty()
}

/// Where the model's call began whose answer is edited, and whose it is: what it streamed is not kept.
fn told_before(log: &[Entry], edited: usize) -> Option<(usize, Option<RunId>)> {
    let Some(Record::Result { key, .. }) = &log[edited].record else { return None };
    if !key.is_answer() {
        return None;
    }
    let is_intent = |entry: &Entry| match &entry.record {
        Some(Record::Intent { key: intent, .. } | Record::Reserved { key: intent, .. }) => intent == key,
        _ => false,
    };
    Some((log[..edited].iter().rposition(is_intent)?, log[edited].event.origin.run_id.clone()))
}

fn is_text(kind: &EventKind) -> bool {
    matches!(kind, EventKind::RunContent(_) | EventKind::TeamRunContent(_))
}
