//! Answers that stream: how much of each piece can be passed on by now, and what they have said so far.
//!
//! A piece that may be the beginning of a secret is held back until the next one, or the end, shows what it is. It
//! knows no store. The invariant: what a stream passes on, put together, holds no secret that its pieces held together.

use outlive_core::{ContentDelta, EventKind, Origin, Passage, Redactor, RunEvent};
use std::collections::HashMap;
use std::sync::Arc;

/// Answers that have not ended, by who speaks.
#[derive(Default)]
pub(crate) struct Streams(Vec<Stream>);

struct Stream {
    speaker: Origin,
    /// What it has said, in case the run is stopped.
    text: String,
    content: Passage,
    reasoning: Passage,
    /// One of its events without text, for what is still held at the end.
    silent: EventKind,
}

impl Streams {
    /// Removes from a piece what cannot be passed on yet. False when nothing is left of it.
    pub(crate) fn pass(&mut self, event: &mut RunEvent, redactor: &Redactor) -> bool {
        let stream = self.of(event);
        delta(&mut event.kind).is_none_or(|delta| stream.pass(delta, redactor))
    }

    /// Ends the stream of a speaker that now says something else: its answer is complete, or broke off and is being asked
    /// for again. Returns what was held back.
    pub(crate) fn end(&mut self, speaker: &Origin, redactor: impl FnOnce() -> Arc<Redactor>) -> Option<EventKind> {
        let place = self.0.iter().position(|stream| is_one_speaker(&stream.speaker, speaker))?;
        let mut stream = self.0.remove(place);
        let redactor = redactor();
        let delta = delta(&mut stream.silent)?;
        delta.content = Some(redactor.end(stream.content)).filter(|content| !content.is_empty());
        delta.reasoning_content = redactor.end(stream.reasoning);
        has_text(delta).then_some(stream.silent)
    }

    /// Forgets what a step was saying.
    pub(crate) fn forget(&mut self, step_id: &str) {
        self.0.retain(|stream| stream.step_id() != step_id);
    }

    /// What they have said so far, by step, in the order it came.
    pub(crate) fn texts(&self) -> HashMap<Arc<str>, String> {
        let mut texts: HashMap<Arc<str>, String> = HashMap::new();
        for stream in self.0.iter().filter(|stream| !stream.text.is_empty()) {
            let text = texts.entry(Arc::from(stream.step_id())).or_default();
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&stream.text);
        }
        texts
    }

    fn of(&mut self, event: &RunEvent) -> &mut Stream {
        let known = self.0.iter().position(|stream| is_one_speaker(&stream.speaker, &event.origin));
        let place = known.unwrap_or_else(|| {
            self.0.push(Stream {
                speaker: event.origin.clone(),
                text: String::new(),
                content: Passage::default(),
                reasoning: Passage::default(),
                silent: silent(&event.kind),
            });
            self.0.len() - 1
        });
        &mut self.0[place]
    }
}

/// Whether two events come from one speaker: an agent's run, or a step's function, which speaks for the workflow's run.
pub(crate) fn is_one_speaker(one: &Origin, other: &Origin) -> bool {
    one.run_id == other.run_id && one.step_id == other.step_id
}

impl Stream {
    fn step_id(&self) -> &str {
        self.speaker.step_id.as_deref().unwrap_or_default()
    }

    fn pass(&mut self, delta: &mut ContentDelta, redactor: &Redactor) -> bool {
        if !has_text(delta) {
            return true;
        }
        if let Some(content) = delta.content.take() {
            self.text.push_str(&content);
            let told = redactor.piece(&mut self.content, &content);
            delta.content = Some(told).filter(|told| !told.is_empty());
        }
        if !delta.reasoning_content.is_empty() {
            delta.reasoning_content = redactor.piece(&mut self.reasoning, &delta.reasoning_content);
        }
        has_text(delta)
    }
}

/// The text of an event, if it streams any.
fn delta(kind: &mut EventKind) -> Option<&mut ContentDelta> {
    match kind {
        EventKind::RunContent(delta) | EventKind::TeamRunContent(delta) => Some(delta),
        _ => None,
    }
}

fn has_text(delta: &ContentDelta) -> bool {
    !delta.reasoning_content.is_empty() || delta.content.as_ref().is_some_and(|content| !content.is_empty())
}

/// The same event without its text.
fn silent(kind: &EventKind) -> EventKind {
    let mut kind = kind.clone();
    if let Some(delta) = delta(&mut kind) {
        (delta.content, delta.reasoning_content, delta.model_provider_data) = (None, String::new(), None);
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{Origin, Secret};

    fn piece(run_id: &str, content: Option<&str>, reasoning: &str) -> RunEvent {
        let delta = ContentDelta {
            content: content.map(str::to_owned),
            content_type: "str".to_owned(),
            reasoning_content: reasoning.to_owned(),
            ..ContentDelta::default()
        };
        let origin = Origin { run_id: Some(run_id.parse().expect("an id")), ..Origin::default() };
        RunEvent { created_at: 0, kind: EventKind::RunContent(delta), origin, event_index: None }
    }

    fn texts(kind: &mut EventKind) -> (String, String) {
        let delta = delta(kind).expect("it streams");
        (delta.content.clone().unwrap_or_default(), delta.reasoning_content.clone())
    }

    #[test]
    fn a_secret_in_pieces_is_never_told_and_texts_do_not_mix() {
        let redactor = Arc::new(Redactor::new([Secret::from("correct-horse")]));
        let mut streams = Streams::default();
        let mut told = Vec::new();
        for (run_id, content, reasoning) in [
            ("one", Some("it is corr"), ""),
            ("two", Some("corr"), ""),
            ("one", None, "I think correct"),
            ("one", Some("ect-ho"), ""),
            ("one", None, "-horse"),
            ("two", Some("idor"), ""),
            ("one", Some("rse! And corre"), ""),
            ("one", None, ""),
        ] {
            let mut event = piece(run_id, content, reasoning);
            let is_told = streams.pass(&mut event, &redactor);
            told.push((run_id, is_told, texts(&mut event.kind)));
        }
        let text = |content: &str, reasoning: &str| (content.to_owned(), reasoning.to_owned());
        let expected = [
            ("one", true, text("it is ", "")),
            ("two", false, text("", "")),
            ("one", true, text("", "I think ")),
            ("one", false, text("", "")),
            ("one", true, text("", "[redacted]")),
            ("two", true, text("corridor", "")),
            ("one", true, text("[redacted]! And ", "")),
            // An event that never had text is passed on as it is.
            ("one", true, text("", "")),
        ];
        assert_eq!(told, expected);
        let text_of_all = |streams: &Streams| streams.texts().remove("");
        assert_eq!(text_of_all(&streams).as_deref(), Some("it is correct-horse! And corre\ncorridor"));
        let origin = |run_id: &str| piece(run_id, None, "").origin;
        let one = origin("one");
        let mut rest = streams.end(&one, || redactor.clone()).expect("something was held");
        assert_eq!(texts(&mut rest), text("corre", ""));
        assert!(streams.end(&one, || redactor.clone()).is_none());
        assert!(streams.end(&origin("two"), || redactor.clone()).is_none(), "nothing was held");
        assert_eq!(text_of_all(&streams), None);
    }
}
