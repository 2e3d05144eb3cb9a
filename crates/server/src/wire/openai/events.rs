//! A run's log as the events of its response.
//!
//! ```text
//! accepted              ──► response.created, response.queued
//! the run begins, goes on, or waits for people ──► response.in_progress
//! the last step speaks  ──► output_item.added, content_part.added, output_text.delta …
//! the run ends          ──► output_text.done, content_part.done, output_item.done, its images, response.completed
//! ```
//! It must never read a log by itself. The invariant: what is told of an entry, and its numbers, follow from the entries
//! up to it, so that a client that comes back is told the rest of what it had begun to hear.
//!
//! The text of the response is told while it comes. Where it turns out not to be the result (the process was lost and the
//! answer is asked for again, or it was what an agent said before it called a tool), its message is closed as incomplete and
//! a further one begins; the response that has ended has the result alone.

use super::response::{End, Ended, Face, Standing, message, output_text};
use crate::problem::Problem;
use crate::sequence::Sequence;
use crate::wire::frame::Frame;
use outlive_core::{ContentDelta, EventKind, RunEvent, StepIndex};
use serde_json::{Value, json};

/// Images that are told one by one: an entry has a thousand parts. The response that has ended has all of them.
const IMAGES_TOLD_MAX: usize = 400;

/// What has been told of a response.
#[derive(Clone, Debug)]
pub struct Telling {
    face: Face,
    /// The place of the step whose text is the response's, where that is known before the end: the last step.
    speaker: Option<u32>,
    /// The client has the events up to this one.
    after: Option<Sequence>,
    /// Messages that have begun.
    begun: u64,
    open: Option<Message>,
    /// Of what is told now: the index of its entry, none for the acceptance, and the number of its next part.
    index: Option<u64>,
    part: u64,
    /// The last number that was given.
    last: Option<Sequence>,
    /// The index of the run's last entry.
    end: Option<u64>,
    frames: String,
}

/// A message that is being told.
#[derive(Clone, Debug)]
struct Message {
    place: u64,
    text: String,
    /// What comes next is not its continuation.
    is_over: bool,
}

impl Telling {
    /// From the event after `after` on; from the first when absent.
    pub fn new(face: Face, speaker: Option<u32>, after: Option<Sequence>) -> Self {
        let (begun, part) = (0, 0);
        let (open, index, last, end) = (None, None, None, None);
        Self { face, speaker, after, begun, open, index, part, last, end, frames: String::new() }
    }

    /// What is told before the log's first entry.
    pub fn opening(&mut self) -> String {
        let response = self.face.unfinished(Standing::Queued, None);
        self.tell("response.created", json!({ "response": response }));
        self.tell("response.queued", json!({ "response": response }));
        self.told()
    }

    /// What is told of the log's next event.
    pub fn event(&mut self, event: &RunEvent) -> String {
        self.at(event.event_index.unwrap_or_default());
        if event.is_terminal() {
            self.end = event.event_index;
            return String::new();
        }
        let is_own = event.origin.nested_depth == 0;
        match &event.kind {
            EventKind::WorkflowStarted if is_own => self.stands(Standing::InProgress, None),
            EventKind::WorkflowPaused { paused_step_name, .. } if is_own => {
                self.stands(Standing::Paused, Some(paused_step_name));
            }
            EventKind::RunContent(delta) | EventKind::TeamRunContent(delta) if self.speaks(event) => self.says(delta),
            EventKind::CustomEvent { fields } => match fields.get("name").and_then(Value::as_str) {
                Some("RunResumed") => {
                    self.breaks_off();
                    self.stands(Standing::InProgress, None);
                }
                Some("StepResumed" | "StepRetrying" | "ModelRequestRetrying") if self.speaks(event) => {
                    self.breaks_off();
                }
                _ => {}
            },
            EventKind::StepStarted
            | EventKind::RunStarted(_)
            | EventKind::TeamRunStarted(_)
            | EventKind::ModelRequestStarted(_)
            | EventKind::TeamModelRequestStarted(_)
                if self.speaks(event) =>
            {
                self.breaks_off();
            }
            _ => {}
        }
        self.told()
    }

    /// What is told once the run is over; nothing when it was told before.
    pub fn ended(&mut self, ended: &Ended) -> String {
        let Some(index) = self.end.take() else { return String::new() };
        self.at(index);
        let end = End::of(ended);
        let has_result = matches!(end, End::Completed | End::Incomplete(_));
        let text = ended.run.text();
        if has_result && self.open.as_ref().is_none_or(|open| open.text != text) {
            self.close("incomplete");
            self.begin();
            self.say(&text);
        }
        self.close(end.item());
        if has_result {
            let images: Vec<Value> = self.face.images(&ended.run).take(IMAGES_TOLD_MAX).collect();
            images.into_iter().for_each(|image| self.image(image));
        }
        self.tell(end.event(), json!({ "response": self.face.ended(ended) }));
        self.told()
    }

    /// Whether the run's last entry was seen.
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// That the stream ends before the run does. The number is that of the event before, from which a client goes on.
    pub fn broken(&self, why: &Problem) -> String {
        let body = json!({ "type": "error", "sequence_number": self.last.map(Sequence::get), "error": why.openai() });
        Frame::named("error", body).sse()
    }

    fn at(&mut self, index: u64) {
        (self.index, self.part) = (Some(index), 0);
    }

    /// Whether an event is of the step whose text is the response's: not of a member of its team, nor of a workflow in it.
    fn speaks(&self, event: &RunEvent) -> bool {
        let origin = &event.origin;
        let is_own = origin.nested_depth == 0 && origin.parent_step_id.is_none() && origin.parent_run_id.is_none();
        is_own && self.speaker.is_some_and(|place| origin.step_index == Some(StepIndex::At(place)))
    }

    fn stands(&mut self, standing: Standing, paused_step_name: Option<&str>) {
        let response = self.face.unfinished(standing, paused_step_name);
        self.tell("response.in_progress", json!({ "response": response }));
    }

    fn says(&mut self, delta: &ContentDelta) {
        let Some(text) = delta.content.as_deref().filter(|text| !text.is_empty()) else { return };
        if self.open.as_ref().is_none_or(|open| open.is_over) {
            self.close("incomplete");
            self.begin();
        }
        self.say(text);
    }

    fn breaks_off(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_over = true;
        }
    }

    fn begin(&mut self) {
        let place = self.begun;
        self.begun += 1;
        self.open = Some(Message { place, text: String::new(), is_over: false });
        let item = message(&self.face.item_id(place), "in_progress", None);
        self.tell("response.output_item.added", json!({ "output_index": place, "item": item }));
        self.tell_of_part(place, "response.content_part.added", json!({ "part": output_text("") }));
    }

    fn say(&mut self, text: &str) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let place = open.place;
        if !text.is_empty() {
            self.tell_of_part(place, "response.output_text.delta", json!({ "delta": text, "logprobs": [] }));
        }
    }

    fn close(&mut self, status: &str) {
        let Some(Message { place, text, .. }) = self.open.take() else { return };
        self.tell_of_part(place, "response.output_text.done", json!({ "text": text, "logprobs": [] }));
        self.tell_of_part(place, "response.content_part.done", json!({ "part": output_text(&text) }));
        let item = message(&self.face.item_id(place), status, Some(&text));
        self.tell("response.output_item.done", json!({ "output_index": place, "item": item }));
    }

    /// An image, which comes at once.
    fn image(&mut self, item: Value) {
        let place = self.begun;
        self.begun += 1;
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        begun["result"] = Value::Null;
        self.tell("response.output_item.added", json!({ "output_index": place, "item": begun }));
        self.tell("response.output_item.done", json!({ "output_index": place, "item": item }));
    }

    fn tell_of_part(&mut self, place: u64, kind: &'static str, mut body: Value) {
        body["item_id"] = json!(self.face.item_id(place));
        body["output_index"] = json!(place);
        body["content_index"] = json!(0);
        self.tell(kind, body);
    }

    /// Gives the next part its number, and tells it to a client that does not have it.
    fn tell(&mut self, kind: &'static str, mut body: Value) {
        let number = match self.index {
            None => Sequence::of_acceptance(self.part),
            Some(index) => Sequence::of_entry(index, self.part),
        };
        let number = number.expect("an entry has a few parts, and a log far fewer entries than can be numbered");
        self.part += 1;
        if self.after.is_some_and(|after| number <= after) {
            return;
        }
        self.last = Some(number);
        body["type"] = json!(kind);
        body["sequence_number"] = json!(number.get());
        self.frames.push_str(&Frame::named(kind, body).sse());
    }

    fn told(&mut self) -> String {
        std::mem::take(&mut self.frames)
    }
}
