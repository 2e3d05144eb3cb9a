//! A text that comes in pieces, and leaves in pieces without secrets: what may still turn out to be one is held back.
//!
//! ```text
//! piece ──► values ──────────► shapes ──────────► told
//!           holds the start    holds what began
//!           of a known value   like a credential
//! ```
//! Both halves keep the same rule: what they release can no longer become part of anything that redacting the whole
//! text would remove, whatever follows. So the released pieces, put together, are the whole text redacted, with one
//! exception: when base64 encodes more than a known value, the part before the value has already left.
//!
//! Invariant: what is held is bounded, and what grows beyond the bound is treated as a secret, unless no part of it is
//! as long as one.

use super::encodings::{Encoding, base64_end, base64_run};
use super::shapes::{Look, Shapes};
use super::{REDACTED, Redactor, Values};
use aho_corasick::Input;

/// Text that began like a credential but is not one yet is held up to this length: more than any header may hold.
const CANDIDATE_LEN_MAX: usize = 8 << 10;
/// A credential that has not ended is held up to this length. What follows is dropped.
const HELD_LEN_MAX: usize = 64 << 10;
/// How far back shapes look: the longest name of a header in its quotes, or an escaped character.
const LOOK_BEHIND: usize = 32;

/// A text on its way: one kind of text from one speaker. Each needs its own.
#[derive(Debug, Default)]
pub struct Passage {
    values: ValuePassage,
    shapes: ShapePassage,
}

impl Passage {
    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.values.text.len() == self.values.told && self.shapes.text.len() == self.shapes.told
    }
}

#[cfg(test)]
impl Passage {
    pub(super) fn shapes_len(&self) -> usize {
        self.shapes.text.len()
    }
}

impl Redactor {
    /// Takes the next piece of a text and returns what can be released by now, without secrets; possibly nothing.
    ///
    /// ```
    /// use outlive_core::{Passage, Redactor, Secret};
    ///
    /// let redactor = Redactor::new([Secret::from("correct-horse")]);
    /// let mut passage = Passage::default();
    /// assert_eq!(redactor.piece(&mut passage, "the word is cor"), "the word is ");
    /// assert_eq!(redactor.piece(&mut passage, "rect-ho"), "");
    /// assert_eq!(redactor.piece(&mut passage, "rse, and"), "[redacted], and");
    /// assert_eq!(redactor.end(passage), "");
    /// ```
    pub fn piece(&self, passage: &mut Passage, piece: &str) -> String {
        let piece = passage.values.step(self.values.as_ref(), piece, false);
        passage.shapes.step(&self.shapes, &piece, false)
    }

    /// Returns what was held back: nothing follows.
    pub fn end(&self, mut passage: Passage) -> String {
        let rest = passage.values.step(self.values.as_ref(), "", true);
        passage.shapes.step(&self.shapes, &rest, true)
    }
}

/// Known values.
#[derive(Default)]
struct ValuePassage {
    /// What is held, from where the search continues.
    text: String,
    /// How much of it has already been released or removed.
    told: usize,
    /// A value in base64 was removed, and the encoded text around it has not ended.
    in_base64: bool,
}

impl std::fmt::Debug for ValuePassage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValuePassage").field("held", &self.text.len()).finish_non_exhaustive()
    }
}

impl ValuePassage {
    fn step(&mut self, values: Option<&Values>, piece: &str, is_end: bool) -> String {
        let mut text = std::mem::take(&mut self.text);
        text.push_str(piece);
        let mut told = std::mem::take(&mut self.told);
        let mut out = String::new();
        let Some(values) = values else {
            out.push_str(&text[told..]);
            return out;
        };
        if std::mem::take(&mut self.in_base64) {
            told = base64_end(&text, told);
            self.in_base64 = told == text.len();
        }
        let mut search = 0;
        let open = loop {
            let open = if is_end { text.len() } else { values.open_from(&text, search) };
            let found = values.automaton.find(Input::new(&text).span(search..text.len()));
            // A match that begins where a longer one may begin is not decided yet.
            let Some(found) = found.filter(|found| found.start() < open) else { break open };
            search = found.end();
            if found.end() <= told {
                continue;
            }
            let encoding = values.encodings[found.pattern().as_usize()];
            let range = match encoding {
                Encoding::Readable => found.range(),
                Encoding::Base64 => base64_run(&text, found.range()),
            };
            out.push_str(&text[told..range.start.max(told)]);
            out.push_str(REDACTED);
            told = range.end;
            self.in_base64 = encoding == Encoding::Base64 && told == text.len();
        };
        if told < open {
            out.push_str(&text[told..open]);
            told = open;
        }
        self.told = told - open;
        self.text = text.split_off(open);
        out
    }
}

/// Shapes.
#[derive(Default)]
struct ShapePassage {
    /// What is held, and before it the text that shapes look back at.
    text: String,
    /// How much of it has already been released or removed.
    told: usize,
    /// Where the search continues.
    search: usize,
    /// What was held grew too long: the rest of this text is dropped.
    is_lost: bool,
}

impl std::fmt::Debug for ShapePassage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.text.len() - self.told;
        f.debug_struct("ShapePassage").field("held", &held).field("is_lost", &self.is_lost).finish_non_exhaustive()
    }
}

impl ShapePassage {
    fn step(&mut self, shapes: &Shapes, piece: &str, is_end: bool) -> String {
        let mut out = String::new();
        if self.is_lost {
            return out;
        }
        self.text.push_str(piece);
        let text = &self.text;
        let (mut told, mut search) = (self.told, self.search);
        // Everything up to `open` is decided; the search continues at `search`.
        let open = loop {
            let Some((hit, kind)) = shapes.begin(text, search) else {
                if is_end {
                    break text.len();
                }
                let (secret, any) = shapes.open_from(text, search);
                search = any;
                break secret;
            };
            let Look { found, open } = kind.look(text, hit.clone());
            let is_established = found.as_ref().is_some_and(|found| found.range.end == text.len());
            let held_max = if is_established { HELD_LEN_MAX } else { CANDIDATE_LEN_MAX };
            let open = open.filter(|_| !is_end);
            if let Some(open) = open.filter(|_| text.len() - hit.start <= held_max) {
                search = hit.start;
                break open;
            }
            let Some(found) = found else {
                search = hit.start + 1;
                continue;
            };
            out.push_str(&text[told..found.range.start]);
            out.push_str(&found.replacement);
            (told, search) = (found.range.end, found.range.end);
            if open.is_some() && is_established {
                self.is_lost = true;
                break text.len();
            }
        };
        if told < open {
            out.push_str(&text[told..open]);
            told = open;
        }
        let kept_from = text.floor_char_boundary(search.min(told).saturating_sub(LOOK_BEHIND));
        (self.told, self.search) = (told - kept_from, search - kept_from);
        self.text.drain(..kept_from);
        out
    }
}
