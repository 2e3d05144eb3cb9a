//! What a model says, separated from what it thinks, and repaired where a server cut a character in two.
//!
//! ```text
//! content: "…" or [parts] ──Saying──► text │ thinking        `<think>` at the beginning, parts of type `thinking`
//! JSON with \ud83d alone ──parse_json──► stand-ins ──Halves──► the character, or U+FFFD
//! ```
//! It must never know an endpoint. Both halves work on a stream: a tag or a character may be cut anywhere.

use outlive_core::json::read;
use serde_json::Value;
use std::borrow::Cow;

/// The tags models put around their thoughts, without the brackets.
const TAGS: [&str; 4] = ["think", "thinking", "thought", "reasoning"];
/// How deep parts of content are read; real ones are nested twice.
const PARTS_DEPTH_MAX: usize = 8;

/// Text and thinking.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) thinking: String,
}

impl Said {
    /// Reads content in any of the shapes servers give it: text, or parts, which may themselves be text.
    pub(crate) fn read(content: &Value) -> Self {
        let mut said = Self::default();
        said.add(content, false, PARTS_DEPTH_MAX);
        said
    }

    fn add(&mut self, content: &Value, is_thinking: bool, depth: usize) {
        match content {
            Value::String(text) if is_thinking => self.thinking.push_str(text),
            Value::String(text) => self.text.push_str(text),
            Value::Array(parts) if depth > 0 => parts.iter().for_each(|part| self.add(part, is_thinking, depth - 1)),
            Value::Object(part) if depth > 0 => {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                let is_thinking = is_thinking || kind.contains("think") || kind.contains("reason");
                // A refusal is the model's own words too.
                let fields = ["text", "content", "thinking", "reasoning", "summary", "refusal", "value"];
                if let Some(inner) = fields.iter().find_map(|field| part.get(*field).filter(|inner| !inner.is_null())) {
                    self.add(inner, is_thinking, depth - 1);
                }
            }
            _ => {}
        }
    }
}

/// Separates the thoughts between tags at the beginning of a text from the text itself, as it streams.
#[derive(Debug, Default)]
pub(crate) struct Saying {
    state: State,
    /// What may become a tag.
    held: String,
    /// Blanks between a thought and the text belong to neither.
    has_thought: bool,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing but blanks and thoughts so far: a tag may open.
    #[default]
    Begin,
    /// Inside this tag.
    Thinking(&'static str),
    /// The answer has begun; a tag inside it is part of it.
    Text,
}

impl Saying {
    /// More of the text.
    pub(crate) fn push(&mut self, piece: &str) -> Said {
        let mut said = Said::default();
        if matches!(self.state, State::Text) {
            said.text.push_str(piece);
            return said;
        }
        self.held.push_str(piece);
        while self.step(&mut said) {}
        said
    }

    /// The text is over: what was held back is what it looks like.
    pub(crate) fn finish(&mut self) -> Said {
        let held = match self.state {
            State::Begin => self.begun(),
            State::Thinking(_) | State::Text => std::mem::take(&mut self.held),
        };
        match self.state {
            State::Thinking(_) => Said { thinking: held, ..Said::default() },
            State::Begin | State::Text => Said { text: held, ..Said::default() },
        }
    }

    fn begun(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        if self.has_thought { held.trim_start().to_owned() } else { held }
    }

    /// Takes out of what is held what is certain; returns whether there may be more of it.
    fn step(&mut self, said: &mut Said) -> bool {
        match self.state {
            State::Begin => {
                let inside = self.held.trim_start();
                if let Some(tag) = TAGS.into_iter().find(|tag| inside.starts_with(&format!("<{tag}>"))) {
                    self.held = inside[tag.len() + 2..].to_owned();
                    self.state = State::Thinking(tag);
                    return true;
                }
                if TAGS.iter().any(|tag| format!("<{tag}>").starts_with(inside)) {
                    return false;
                }
                said.text.push_str(&self.begun());
                self.state = State::Text;
                false
            }
            State::Thinking(tag) => {
                let close = format!("</{tag}>");
                if let Some(at) = self.held.find(&close) {
                    said.thinking.push_str(&self.held[..at]);
                    self.held.drain(..at + close.len());
                    self.has_thought = true;
                    self.state = State::Begin;
                    return true;
                }
                // The longest end that may be the beginning of the closing tag.
                let keep = (1..close.len()).rev().find(|len| self.held.ends_with(&close[..*len])).unwrap_or(0);
                let certain = self.held.len() - keep;
                said.thinking.push_str(&self.held[..certain]);
                self.held.drain(..certain);
                false
            }
            State::Text => {
                said.text.push_str(&std::mem::take(&mut self.held));
                false
            }
        }
    }
}

/// Separates a whole text.
pub(crate) fn told_apart(text: &str) -> Said {
    let mut saying = Saying::default();
    let mut said = saying.push(text);
    let rest = saying.finish();
    said.text.push_str(&rest.text);
    said.thinking.push_str(&rest.thinking);
    without_lone_close(said)
}

/// Some templates open the tag in the prompt, so that the text has only the closing one, on its own line.
pub(crate) fn without_lone_close(said: Said) -> Said {
    if !said.thinking.is_empty() {
        return said;
    }
    let found = TAGS.into_iter().find_map(|tag| {
        let close = format!("</{tag}>");
        let (before, after) = said.text.split_once(&close)?;
        let opened = before.contains(&format!("<{tag}>"));
        let ends_line = before.ends_with('\n') || after.starts_with('\n');
        (ends_line && !opened && !after.contains(&close)).then(|| (before.to_owned(), after.trim_start().to_owned()))
    });
    match found {
        Some((thinking, text)) => Said { text, thinking },
        None => said,
    }
}

/// JSON in which one half of a surrogate pair may stand alone; [`Halves`] decides what becomes of it.
pub(crate) fn parse_json(text: &str) -> serde_json::Result<Value> {
    read(text).or_else(|error| match with_stand_ins(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(mended) => read(&mended),
    })
}

/// Private characters stand for the 2048 halves, which are not characters themselves. Before each stands this one, which
/// no text may hold: the same private characters in a model's text are its own.
const MARK: char = '\u{10FFFF}';
const STAND_INS: u32 = 0x10_F000;
const HALVES: std::ops::Range<u32> = 0xD800..0xE000;

fn with_stand_ins(text: &str) -> Cow<'_, str> {
    let mut mended = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('\\') {
        let escape = at + found;
        at = escape + 2;
        let Some(first) = half_at(text, escape) else {
            // The escaped character may be longer than a byte where this is not JSON at all.
            at = text.len().min(at);
            while !text.is_char_boundary(at) {
                at += 1;
            }
            continue;
        };
        at = escape + 6;
        if first < 0xDC00 && half_at(text, at).is_some_and(|second| second >= 0xDC00) {
            at += 6;
            continue;
        }
        mended.push_str(&text[copied..escape]);
        mended.push(MARK);
        mended.extend(char::from_u32(STAND_INS + first - HALVES.start));
        copied = at;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(&text[copied..]);
    Cow::Owned(mended)
}

/// The half that is escaped at this place in a JSON text.
fn half_at(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    u32::from_str_radix(digits, 16).ok().filter(|code| HALVES.contains(code))
}

/// Joins halves that come one after the other, across the pieces of a stream. What stays alone becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Halves {
    first: Option<u32>,
}

impl Halves {
    /// The next piece, with whole characters only.
    pub(crate) fn push(&mut self, piece: String) -> String {
        if self.first.is_none() && !piece.contains(MARK) {
            return piece;
        }
        let mut joined = String::with_capacity(piece.len());
        let mut chars = piece.chars();
        while let Some(c) = chars.next() {
            let marked = Some(c).filter(|c| *c == MARK).and_then(|_| half(chars.clone().next()?));
            if marked.is_some() {
                chars.next();
            }
            match (marked, self.first.take()) {
                (Some(second), Some(first)) if second >= 0xDC00 => {
                    let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    joined.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
                (own, waiting) => {
                    joined.extend(waiting.map(|_| char::REPLACEMENT_CHARACTER));
                    match own {
                        Some(first) if first < 0xDC00 => self.first = Some(first),
                        Some(_) => joined.push(char::REPLACEMENT_CHARACTER),
                        None => joined.push(c),
                    }
                }
            }
        }
        joined
    }

    /// What is left when nothing follows.
    pub(crate) fn finish(&mut self) -> &'static str {
        if self.first.take().is_some() { "\u{fffd}" } else { "" }
    }

    /// A whole text with whole characters only.
    pub(crate) fn joined(text: String) -> String {
        let mut halves = Self::default();
        let mut text = halves.push(text);
        text.push_str(halves.finish());
        text
    }

    /// All texts of a value, whole.
    pub(crate) fn join_all(value: &mut Value) {
        match value {
            Value::String(text) => *text = Self::joined(std::mem::take(text)),
            Value::Array(parts) => parts.iter_mut().for_each(Self::join_all),
            Value::Object(fields) => fields.values_mut().for_each(Self::join_all),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn half(c: char) -> Option<u32> {
    let code = u32::from(c).checked_sub(STAND_INS)? + HALVES.start;
    HALVES.contains(&code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(text: &str, thinking: &str) -> Said {
        Said { text: text.to_owned(), thinking: thinking.to_owned() }
    }

    #[test]
    fn content_is_read_in_every_shape() {
        let cases = [
            (json!("a"), said("a", "")),
            (json!(["a", {"type": "text", "text": "b"}, "c"]), said("abc", "")),
            (
                json!([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]),
                said("a", "hm"),
            ),
            (json!({"type": "text", "text": {"value": "a", "annotations": []}}), said("a", "")),
            (json!([{"type": "reference", "reference_ids": [1]}, {"type": "output_text", "text": "a"}]), said("a", "")),
            (json!([{"type": "refusal", "refusal": "no"}]), said("no", "")),
            (json!(null), said("", "")),
            (json!(7), said("", "")),
        ];
        for (content, expected) in cases {
            assert_eq!(Said::read(&content), expected, "{content}");
        }
    }

    #[test]
    fn thoughts_between_tags_are_told_apart_wherever_the_stream_is_cut() {
        let cases = [
            ("<think>a < b</think>{\"a\":1}", said("{\"a\":1}", "a < b")),
            ("\n<thinking>a</thinking>\n\nb", said("b", "a")),
            ("<think>a</think>\n<think>b</think>c", said("c", "ab")),
            ("<think></think>c", said("c", "")),
            ("<think>never closed", said("", "never closed")),
            ("<thin", said("<thin", "")),
            ("  plain <think>x</think>", said("  plain <think>x</think>", "")),
            ("<thinker>", said("<thinker>", "")),
            ("thoughts\n</think>\n\nanswer", said("answer", "thoughts\n")),
            ("the `</think>` tag", said("the `</think>` tag", "")),
        ];
        for (text, expected) in cases {
            assert_eq!(told_apart(text), expected, "{text}");
            for cut in (0..=text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                let mut saying = Saying::default();
                let pieces = [saying.push(&text[..cut]), saying.push(&text[cut..]), saying.finish()];
                let join = |part: fn(&Said) -> &str| pieces.iter().map(part).collect::<String>();
                let whole = Said { text: join(|said| &said.text), thinking: join(|said| &said.thinking) };
                assert_eq!(without_lone_close(whole), expected, "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn halves_of_a_character_are_joined_and_what_stays_alone_is_replaced() {
        let parsed = |text: &str| parse_json(text).ok().and_then(|value| value.as_str().map(str::to_owned));
        let pieces = [r#""a\ud83d""#, r#""\ude00b""#].map(|text| parsed(text).expect("a text"));
        let mut halves = Halves::default();
        let joined: Vec<_> = pieces.into_iter().map(|piece| halves.push(piece)).collect();
        assert_eq!(joined, ["a", "😀b"]);
        for (text, expected) in [
            (r#""\ud83d\ude00""#, "😀"),
            ("\"\u{10f000}\\ud83d\u{10f7ff}\u{10ffff}x\"", "\u{10f000}\u{fffd}\u{10f7ff}\u{10ffff}x"),
            (r#""\ude00 \ud83d""#, "\u{fffd} \u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\\ud83d \ud83d""#, "\\ud83d \u{fffd}"),
        ] {
            assert_eq!(Halves::joined(parsed(text).expect("a text")), expected, "{text}");
        }
        assert!(parse_json("{\"a\": \\\u{e9}").is_err());
        assert!(parse_json(r#"{"a": "\ud83d"#).is_err());
    }
}
