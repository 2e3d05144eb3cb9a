//! What a fork takes of a run's log, written as its own: under its own id, and the ids derived from it.
//!
//! Time limits begin anew: what is limited has as much time as when it began. It must never know how entries are stored.
//! The invariant: no entry of a copy names the run it was made from, but for the one that says where it came from.

use super::{Cut, ForkEdit, ForkedFrom};
use crate::event::{EventKind, Origin, RunEvent, ToolEvent};
use crate::id::RunId;
use crate::json;
use crate::log::{Entry, Key, Part, Record};
use crate::message::{FinishReason, Message, ModelResponse};
use crate::question::{Question, QuestionKind};
use crate::run::{RunInfo, RunOutput, content_text};
use crate::step::StepOutput;
use crate::time::Timestamp;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The fields that name a run or a session by ids that are not derived.
const NAMING: [&str; 4] = ["run_id", "workflow_run_id", "parent_run_id", "session_id"];

impl Cut {
    /// What is kept of the log of run `from`, as the first entries of `to`, which is accepted `at` this time; nothing
    /// when nothing is kept.
    ///
    /// # Errors
    /// When an entry cannot be written anew.
    pub fn copy(
        &self,
        log: &[Entry],
        (from, to): (&RunInfo, &RunInfo),
        edit: &ForkEdit,
        at: Timestamp,
    ) -> Result<Vec<Entry>, serde_json::Error> {
        let kept: Vec<usize> = self.kept(log).collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let uncertain = uncertain(log, &kept);
        let mut copies = Vec::with_capacity(kept.len() + 1);
        // An event may stand before the record from whose key its ids are derived.
        let mut ids = Ids { from, to, derived: HashMap::new() };
        kept.iter().for_each(|index| ids.note(&log[*index]));
        let mut last: Option<Arc<StepOutput>> = None;
        for index in kept {
            let mut entry = log[index].clone();
            if self.edited == Some(index)
                && let ForkEdit::Output(output) = edit
            {
                replace_output(&mut entry, output)?;
            }
            renew(&mut entry, at);
            if is_moot(&entry) || entry.record.as_ref().and_then(Record::key).is_some_and(|key| uncertain.contains(key))
            {
                entry.record = None;
            }
            entry.event.event_index = None;
            let mut entry: Entry = json::read_stored(&ids.rewrite(&serde_json::to_string(&entry)?))?;
            share(&mut entry, &mut last);
            copies.push(entry);
        }
        copies.push(forked(from, to, self.at(), at));
        Ok(copies)
    }
}

/// The entry that says where the entries before it come from.
fn forked(from: &RunInfo, to: &RunInfo, cut: u64, at: Timestamp) -> Entry {
    let mut fields = Map::new();
    fields.insert("name".into(), json!("RunForked"));
    fields.insert("forked_from".into(), json!(ForkedFrom { run_id: from.run_id.clone(), at: cut }));
    let kind = EventKind::CustomEvent { fields };
    let event = RunEvent { created_at: at.as_seconds(), kind, origin: Origin::workflow(to), event_index: None };
    Entry::event(event).at(at)
}

/// Calls of tools that had begun and of which nothing is kept: the fork has not made them, and makes them under keys of
/// its own. So they begin anew, and nobody is asked what came of them.
fn uncertain(log: &[Entry], kept: &[usize]) -> BTreeSet<Key> {
    let mut open: BTreeSet<Key> = BTreeSet::new();
    for record in kept.iter().filter_map(|index| log[*index].record.as_ref()) {
        match record {
            Record::Intent { key, name: None } if matches!(key.parts().last(), Some(Part::Call(_))) => {
                open.insert(key.clone());
            }
            record => {
                let keys = record.key().into_iter().chain(match record {
                    Record::Waiting { questions, .. } => questions.iter().map(|question| &question.key).collect(),
                    _ => Vec::new(),
                });
                for key in keys {
                    // Its end, or something inside it.
                    for outer in std::iter::successors(Some(key.clone()), Key::outer) {
                        open.remove(&outer);
                    }
                }
            }
        }
    }
    open
}

/// Whether it asks about a definition that has changed: the fork's is checked before there is a fork.
fn is_moot(entry: &Entry) -> bool {
    match &entry.record {
        Some(Record::Waiting { questions, .. }) => {
            questions.iter().any(|question| question.kind == QuestionKind::Definition)
        }
        _ => false,
    }
}

/// Time limits begin anew, and whoever claimed the run had no claim to this one.
fn renew(entry: &mut Entry, now: Timestamp) {
    let written = entry.time();
    let later = |due_at: Timestamp, since: Timestamp| now + due_at.since(since);
    match &mut entry.record {
        Some(Record::Claimed { epoch, attempt, at, .. }) => (*epoch, *attempt, *at) = (0, 0, now),
        Some(Record::Begin { deadline: Some(deadline), .. }) => *deadline = later(*deadline, written),
        Some(Record::Waiting { questions, at, .. }) => {
            for question in questions.iter_mut().filter(|question| question.due_at.is_some()) {
                let due_at = question.due_at.map(|due_at| later(due_at, *at));
                *question = Arc::new(Question { due_at, ..(**question).clone() });
            }
            *at = now;
        }
        _ => {}
    }
}

fn replace_output(entry: &mut Entry, new: &Value) -> Result<(), serde_json::Error> {
    match &mut entry.record {
        Some(Record::Step { output, .. }) => {
            let replaced = StepOutput { content: Some(new.clone()), success: true, error: None, ..(**output).clone() };
            *output = Arc::new(replaced);
            entry.event.kind = match &entry.event.kind {
                EventKind::StepCompleted { .. } => EventKind::step_completed(output.clone()),
                _ => EventKind::StepOutput { step_output: output.clone() },
            };
        }
        Some(Record::Result { key, value, .. }) => {
            let text = content_text(Some(new));
            let replaced = match key.parts().last() {
                _ if key.is_answer() => {
                    let response: ModelResponse = json::read_stored(value.get())?;
                    let (content, tool_calls) = (Some(text), Vec::new());
                    let finish_reason = FinishReason::Stop;
                    json!(ModelResponse { content, tool_calls, finish_reason, provider_data: None, ..response })
                }
                Some(Part::Call(_)) => {
                    if let EventKind::ToolCallCompleted(done) | EventKind::TeamToolCallCompleted(done) =
                        &mut entry.event.kind
                    {
                        let ToolEvent { tool, .. } = done;
                        (tool.result, tool.tool_call_error) = (Some(text.clone()), Some(false));
                    }
                    let mut result: Map<String, Value> = json::read_stored(value.get())?;
                    result.insert("content".into(), Value::String(text));
                    result.insert("is_error".into(), Value::Bool(false));
                    Value::Object(result)
                }
                _ => new.clone(),
            };
            *value = Arc::from(to_raw_value(&replaced)?);
        }
        _ => {}
    }
    Ok(())
}

/// What an event repeats of the step's output before it is that output, not another like it: so it is stored once. The
/// event that tells an edited output tells what it was changed to.
fn share(entry: &mut Entry, last: &mut Option<Arc<StepOutput>>) {
    if let Some(Record::Step { output, .. }) = &entry.record {
        *last = Some(output.clone());
        match &mut entry.event.kind {
            EventKind::StepCompleted { step_response: told, .. } | EventKind::StepOutput { step_output: told } => {
                *told = output.clone();
            }
            _ => {}
        }
        return;
    }
    if let (EventKind::StepCompleted { step_response, .. }, Some(output)) = (&entry.event.kind, last)
        && entry.record.is_none()
        && step_response.step_id == output.step_id
    {
        entry.event.kind = EventKind::step_completed(output.clone());
    }
}

/// The ids of a run and what they are in its fork.
struct Ids<'a> {
    from: &'a RunInfo,
    to: &'a RunInfo,
    derived: HashMap<Arc<str>, Arc<str>>,
}

impl Ids<'_> {
    /// Learns the ids that an entry may name, and later ones.
    fn note(&mut self, entry: &Entry) {
        let Some(record) = &entry.record else { return };
        record.key().into_iter().for_each(|key| self.note_key(key));
        match record {
            Record::Run { ended, .. } => self.note_run(&ended.run),
            Record::Waiting { questions, .. } => {
                for question in questions {
                    self.note_key(&question.key);
                    question.run.iter().for_each(|run| self.note_run(run));
                }
            }
            Record::Rest(rest) => rest.runs.iter().for_each(|run| self.note_run(run)),
            // What an agent remembers begins with a message of its own.
            Record::Result { key, .. } => {
                let speaker = key.outer().filter(|_| matches!(key.parts().last(), Some(Part::Word("history"))));
                if let Some(speaker) = speaker {
                    let [old, new] = [self.from, self.to].map(|info| info.run_id.derive_run(speaker.as_str()));
                    self.note_message(&old, &new, 0);
                }
            }
            _ => {}
        }
    }

    fn note_key(&mut self, key: &Key) {
        if self.derived.contains_key(&self.from.run_id.derive(key.as_str())) {
            return;
        }
        let old = derived(&self.from.run_id, key);
        self.derived.extend(old.into_iter().zip(derived(&self.to.run_id, key)));
    }

    fn note_run(&mut self, run: &RunOutput) {
        if let Some(new) = self.derived.get(run.run_id.as_str()).and_then(|new| RunId::parse(new).ok()) {
            (0..run.messages.len()).for_each(|place| self.note_message(&run.run_id, &new, place));
        }
        run.member_responses.iter().for_each(|member| self.note_run(member));
    }

    fn note_message(&mut self, old: &RunId, new: &RunId, place: usize) {
        self.derived.insert(Message::id_at(old, place), Message::id_at(new, place));
    }

    /// The same JSON with the fork's ids.
    fn rewrite(&self, text: &str) -> String {
        let own: BTreeMap<&str, &str> = BTreeMap::from([
            (self.from.run_id.as_str(), self.to.run_id.as_str()),
            (self.from.session_id.as_str(), self.to.session_id.as_str()),
        ]);
        let bytes = text.as_bytes();
        let mut written = String::with_capacity(text.len());
        let (mut kept_to, mut at, mut field) = (0, 0, "");
        while at < bytes.len() {
            if bytes[at] != b'"' {
                at += 1;
                continue;
            }
            let end = json::end_of_string(bytes, at).min(bytes.len() - 1);
            let said = &text[at + 1..end];
            if bytes.get(end + 1) == Some(&b':') {
                field = said;
            } else {
                let own = || own.get(said).copied().filter(|_| NAMING.contains(&field));
                if let Some(new) = self.derived.get(said).map(|new| &**new).or_else(own) {
                    written.push_str(&text[kept_to..=at]);
                    written.push_str(new);
                    kept_to = end;
                }
            }
            at = end + 1;
        }
        written.push_str(&text[kept_to..]);
        written
    }
}

/// The ids that are derived from a key and from what it is inside of, always in the same order.
fn derived(root: &RunId, key: &Key) -> Vec<Arc<str>> {
    let mut outer: Vec<Key> =
        std::iter::successors(Some(key.clone()), Key::outer).take_while(|key| *key != Key::run()).collect();
    outer.reverse();
    let mut ids = Vec::new();
    let mut run = root.clone();
    for key in outer {
        ids.push(root.derive(key.as_str()));
        match key.parts().last() {
            Some(Part::Node { .. }) => {
                ids.push(run.derive(&key.id_path(false)));
                ids.push(run.derive(&key.id_path(true)));
                ids.push(run.derive(&format!("{}/output", key.id_path(true))));
                // As if it were a nested workflow, which its own entries do not show.
                ids.push(run.derive(key.sequence("w").as_str()));
            }
            // The member's run of a delegation.
            Some(Part::Call(_)) => ids.push(root.derive(key.member().as_str())),
            Some(Part::Sequence("w")) => run = run.derive_run(key.as_str()),
            _ => {}
        }
    }
    ids
}
