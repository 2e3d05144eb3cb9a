//! Writes a run's entries down, each without what stands before it.

use super::once::{Seen, hash};
use super::page::write_line;
use super::stored::{self, Bases, LeanRest, Places};
use super::{Entry, Page, Record, Rest};
use crate::event::Origin;
use crate::id::RunId;
use crate::message::{Message, Role};
use crate::redact::Redactor;
use crate::run::RunInfo;
use crate::step::StepOutput;
use crate::text;
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What stands in the log of one run so far. It must be told of every entry, in order: by [`Writer::page`] for those it
/// writes, by [`Writer::note`] for those that were there before.
#[derive(Clone, Debug)]
pub struct Writer {
    info: Arc<RunInfo>,
    seen: Seen,
    filed: Filed,
}

/// Where outputs and runs stand.
#[derive(Clone, Debug, Default)]
struct Filed {
    /// By address.
    outputs: BTreeMap<usize, FiledOutput>,
    runs: BTreeMap<RunId, u64>,
    /// By the hash of what they say.
    messages: BTreeMap<u128, u64>,
    /// The newest last.
    origins: VecDeque<(u64, Box<Origin>)>,
}

/// Where an output stands.
#[derive(Clone, Debug)]
struct FiledOutput {
    index: u64,
    /// The length of that entry's text.
    len: usize,
    /// Kept, so that no other value can take its place.
    _output: Arc<StepOutput>,
}

/// How many origins a writer remembers: as many steps and agents may take turns.
const ORIGINS_MAX: usize = 32;

impl Filed {
    /// Takes in an entry whose text has `len` bytes.
    fn note(&mut self, index: u64, entry: &Entry, len: usize) {
        let origin = &entry.event.origin;
        // The run's own is in its row.
        if (origin.step_id.is_some() || origin.workflow_run_id.is_some()) && self.origin(origin).is_none() {
            if self.origins.len() == ORIGINS_MAX {
                self.origins.pop_front();
            }
            self.origins.push_back((index, Box::new(origin.clone())));
        }
        if let Some(message) = stored::message_of(entry) {
            self.messages.entry(hash(&stored::message_text(&message))).or_insert(index);
        }
        match &entry.record {
            // Others stand only inside the outputs of what they are in.
            Some(Record::Step { key, output, .. } | Record::Failed { key, output }) if key.is_direct() => {
                let filed = FiledOutput { index, len, _output: output.clone() };
                self.outputs.insert(Arc::as_ptr(output).addr(), filed);
            }
            Some(Record::Run { ended, .. }) => drop(self.runs.insert(ended.run.run_id.clone(), index)),
            _ => {}
        }
    }

    fn filed_output(&self, output: &Arc<StepOutput>) -> Option<&FiledOutput> {
        self.outputs.get(&Arc::as_ptr(output).addr())
    }
}

impl Places for Filed {
    fn origin(&self, origin: &Origin) -> Option<u64> {
        // What differs most often is compared first.
        let is_it = |known: &Origin| known.step_id == origin.step_id && known == origin;
        self.origins.iter().rev().find(|(_, known)| is_it(known)).map(|(index, _)| *index)
    }

    fn message(&self, message: &Message) -> Option<u64> {
        let is_said = matches!(message.role, Role::Assistant | Role::Tool) && !self.messages.is_empty();
        is_said.then(|| self.messages.get(&hash(&stored::message_text(message))).copied())?
    }

    fn step(&self, speaker: &Origin) -> Option<(u64, &Origin)> {
        let step = speaker.step_id.as_ref()?;
        let is_step = |known: &Origin| known.workflow_run_id.is_none() && known.step_id.as_ref() == Some(step);
        self.origins.iter().rev().find(|(_, known)| is_step(known)).map(|(index, known)| (*index, &**known))
    }

    fn output(&self, output: &Arc<StepOutput>) -> Option<u64> {
        self.filed_output(output).map(|filed| filed.index)
    }

    fn run(&self, run_id: &RunId) -> Option<u64> {
        self.runs.get(run_id).copied()
    }
}

/// How much of its steps' outputs a run's own output repeats, in bytes of their entries.
const BRIEF_BYTES: usize = 2048;

/// The longest entry whose output it repeats.
const SHORT_BYTES: usize = 512;

/// The same, as if short outputs stood nowhere.
struct Brief<'a> {
    filed: &'a Filed,
    room: Cell<usize>,
}

impl Places for Brief<'_> {
    fn origin(&self, origin: &Origin) -> Option<u64> {
        self.filed.origin(origin)
    }

    fn message(&self, message: &Message) -> Option<u64> {
        self.filed.message(message)
    }

    fn step(&self, speaker: &Origin) -> Option<(u64, &Origin)> {
        self.filed.step(speaker)
    }

    fn output(&self, output: &Arc<StepOutput>) -> Option<u64> {
        let FiledOutput { index, len, .. } = *self.filed.filed_output(output)?;
        let left = self.room.get().checked_sub(len).filter(|_| len <= SHORT_BYTES);
        // The first that does not fit is the last that is tried.
        self.room.set(left.unwrap_or(0));
        left.is_none().then_some(index)
    }

    fn run(&self, run_id: &RunId) -> Option<u64> {
        self.filed.run(run_id)
    }
}

impl Writer {
    /// For a log that is empty so far.
    pub fn new(info: Arc<RunInfo>) -> Self {
        Self { info, seen: Seen::default(), filed: Filed::default() }
    }

    /// Takes in an entry that was written before; `text` is its [full text](super::Reader::text).
    pub fn note(&mut self, index: u64, entry: &Entry, text: &str) {
        self.seen.note(index, text);
        self.filed.note(index, entry, text.len());
    }

    /// Writes entries down without secrets; the first has index `first_index`. Also says whether there were any.
    pub fn page(&mut self, first_index: u64, entries: &[Entry], redactor: &Redactor) -> (Page, bool) {
        let mut draft = Vec::with_capacity(256 * entries.len());
        let mut ends = Vec::with_capacity(entries.len());
        // Made for each page: runs that wait need not hold it.
        let bases = Bases::of(&self.info);
        for (index, entry) in (first_index..).zip(entries) {
            let begin = draft.len();
            stored::write(&mut draft, index, entry, &bases, &self.filed);
            self.filed.note(index, entry, draft.len() - begin);
            ends.push(draft.len());
        }
        let draft = str::from_utf8(&draft).expect("JSON is text");
        let is_clean = redactor.is_clean(draft);
        let body = text::written(|body| {
            let mut start = 0;
            for (index, end) in (first_index..).zip(ends) {
                let line = &draft[start..end];
                let line = if is_clean { Cow::Borrowed(line) } else { stored::redacted(line, redactor) };
                write_line(body, index, |to| self.seen.write(to, index, &line));
                start = end;
            }
        });
        let count = u32::try_from(entries.len()).expect("a commit has fewer than 2^32 entries");
        (Page { first_index, count, body }, !is_clean)
    }

    /// What a store keeps as the run's output, as JSON: [`Rest`] with the entries in which its values stand, without what
    /// the run's request says. Short outputs stand in it, so that a poll of a small run reads no log.
    pub fn output(&self, rest: &Rest) -> Arc<str> {
        let places = Brief { filed: &self.filed, room: Cell::new(BRIEF_BYTES) };
        text::json(&LeanRest::new(rest, &places).without_metadata())
    }
}

impl Page {
    /// Writes entries down that stand alone, as [`Writer::page`] does.
    pub fn encode(info: &RunInfo, first_index: u64, entries: &[Entry]) -> Page {
        Writer::new(Arc::new(info.clone())).page(first_index, entries, &Redactor::default()).0
    }
}
