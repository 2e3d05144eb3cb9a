//! Text that stands once: what an entry repeats from an earlier one is not written again.
//!
//! ```text
//! entry 4   {"as":2,"event":{"event":"RunContent","content":"a long answer …"}}
//! entry 6   {"as":2,…,"record":{"run":{…,"content":""}},"refs":"2h25dd"}
//! ```
//! A repeated text, or what stands inside a repeated object or array, is left out from between its quotes or brackets; so
//! are fields that an event shares with the event of its name before it, each with its comma. What is left is JSON.
//! `refs`, the last field of the line, says for each such place: its distance from the place before, how many entries
//! back the text stands, and its offset and length in that entry's *full* text, the one without references. An entry
//! may refer to its own earlier text, and to the [`SAMPLES`], which stand before the first. Numbers have base 32; all
//! digits but a number's last are of a second kind.
//!
//! An event's name and what the checking views read stay in the line: keys, and who claimed the run.
//!
//! This module sees only text. The invariant: expanding a line gives the full text, byte for byte.

use crate::json;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::ops::Range;
use std::sync::OnceLock;

/// The shortest text that is looked for, in bytes: a reference takes about 8, the first of a line 10 more.
const LEN_MIN: usize = 32;

/// How much of a longer text finds it as the beginning of another: an answer begins with the pieces that were streamed.
const BEGIN_LEN: usize = 30;

/// The shortest text that is found in this way. For shorter ones a reader would fetch much to put back little.
const PIECE_LEN_MIN: usize = 64;

/// The fewest bytes of fields, taken together, for which an event refers to the one before it.
const ROW_LEN_MIN: usize = 20;

/// The longest event whose fields later ones may share, in bytes.
const EVENT_LEN_MAX: usize = 1024;

/// What the line's last field begins with.
const REFS: &str = ",\"refs\":\"";

/// Events as if they stood before the first of every log, the last one nearest. They belong to the format.
const SAMPLES: [&str; 3] = [
    r#"{"event":"ModelRequestCompleted","model":"","model_provider":"","input_tokens":0,"output_tokens":0,"total_tokens":0,"reasoning_tokens":0,"cache_read_tokens":0,"cache_write_tokens":0}"#,
    r#"{"event":"ToolCallStarted","tool":{"tool_call_id":"","tool_name":"","tool_args":{},"tool_call_error":null,"result":null,"metrics":null,"child_run_id":null,"stop_after_tool_call":false,"created_at":0,"requires_confirmation":null,"confirmed":null,"confirmation_note":null,"requires_user_input":null,"user_input_schema":null,"user_feedback_schema":null,"answered":null,"external_execution_required":null,"external_execution_silent":null,"approval_type":null,"approval_id":null,"parent_tool_call_id":null}}"#,
    r#"{"event":"ToolCallCompleted","content":"","tool":{"tool_call_id":"","tool_name":"","tool_args":{},"tool_call_error":false,"result":"","metrics":{},"child_run_id":null,"stop_after_tool_call":false,"created_at":0,"requires_confirmation":null,"confirmed":null,"confirmation_note":null,"requires_user_input":null,"user_input_schema":null,"user_feedback_schema":null,"answered":null,"external_execution_required":null,"external_execution_silent":null,"approval_type":null,"approval_id":null,"parent_tool_call_id":null}}"#,
];

/// Where texts of earlier entries stand, by what they say.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By 128 bits of a hash with a key of this process, so nobody can make two texts collide.
    places: HashMap<u128, Place, BuildHasherDefault<Hashed>>,
    /// The last event of each name.
    events: Vec<Told>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    entry: u64,
    from: u32,
    len: u32,
}

/// Takes a hash for what it is.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, hash: u128) {
        // Its lower half is as good as all of it.
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// An event, and where it stands.
#[derive(Clone, Debug)]
struct Told {
    entry: u64,
    from: u32,
    name_len: u32,
    text: Box<str>,
}

impl Told {
    fn is_named(&self, name: &str) -> bool {
        self.text.get(EVENT.len()..EVENT.len() + self.name_len as usize) == Some(name)
    }
}

/// Something that a line may leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    range: Range<usize>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What stands between the quotes of a text.
    Text,
    /// What stands between brackets.
    Inside,
    /// Fields, each with its comma: where the event before has them.
    Row { back: u64, from: usize },
}

impl Seen {
    /// Writes the full text of entry `index`, without what stood before.
    pub(super) fn write(&mut self, to: &mut Vec<u8>, index: u64, full: &str) {
        SCRATCH.with_borrow_mut(|scratch| self.write_with(scratch, to, index, full));
    }

    fn write_with(&mut self, scratch: &mut Scratch, to: &mut Vec<u8>, index: u64, full: &str) {
        scratch.find(full);
        let is_alone = self.compare(scratch, index, full);
        let mut line = Line { to, full, index, kept_to: 0, gap: 0, refs: &mut scratch.refs };
        line.refs.clear();
        for span in &scratch.found {
            if span.range.start < line.kept_to {
                continue;
            }
            match span.kind {
                Kind::Row { back, from } => line.leave_out(span.range.clone(), back, from),
                Kind::Text | Kind::Inside => match self.place(index, full, span) {
                    Some(place) => line.leave_out(span.range.clone(), index - place.entry, place.from as usize),
                    None if span.kind == Kind::Text => self.leave_out_pieces(&mut line, span.range.clone()),
                    None => {}
                },
            }
        }
        line.end();
        if is_alone {
            self.keep_event(index, &full[scratch.event..], scratch.event);
        }
    }

    /// Takes in the full text of an entry that was written before.
    pub(super) fn note(&mut self, index: u64, full: &str) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.find(full);
            for span in &scratch.found {
                if self.place(index, full, span).is_none() && span.kind == Kind::Text {
                    self.begin(index, full, span.range.clone());
                }
            }
            if self.compare(scratch, index, full) {
                self.keep_event(index, &full[scratch.event..], scratch.event);
            }
        });
    }

    /// Where this stood before. If it did not, it does now.
    fn place(&mut self, index: u64, full: &str, span: &Span) -> Option<Place> {
        let here = Place { entry: index, from: small(span.range.start), len: small(span.range.len()) };
        let place = *self.places.entry(fingerprint(span.kind, &full[span.range.clone()])).or_insert(here);
        (place != here).then_some(place)
    }

    /// Leaves out the beginning of a text that is one earlier text after another.
    fn leave_out_pieces(&mut self, line: &mut Line<'_>, text: Range<usize>) {
        let Some(first) = beginning(&line.full[text.clone()]) else { return };
        let (mut start, mut begin) = (text.start, Some(first));
        while let Some(place) = begin.and_then(|begin| self.places.get(&begin)) {
            let end = start + place.len as usize;
            let Some(piece) = line.full.get(start..end).filter(|_| end <= text.end) else { break };
            if self.places.get(&fingerprint(Kind::Text, piece)) != Some(place) {
                break;
            }
            line.leave_out(start..end, line.index - place.entry, place.from as usize);
            start = end;
            begin = beginning(&line.full[start..text.end]);
        }
        let place = Place { entry: line.index, from: small(text.start), len: small(text.len()) };
        self.places.insert(first, place);
    }

    /// Lets a text be found as the beginning of another.
    fn begin(&mut self, index: u64, full: &str, text: Range<usize>) {
        let place = Place { entry: index, from: small(text.start), len: small(text.len()) };
        if let Some(begin) = beginning(&full[text]) {
            self.places.insert(begin, place);
        }
    }

    /// Finds the fields that the line's event shares with one of its name before. False when it shares some: then later
    /// events refer to that one too, so that none takes others than one to be read.
    fn compare(&self, scratch: &mut Scratch, index: u64, full: &str) -> bool {
        let start = scratch.event;
        let Some(name) = event_with_fields(&full[start..]) else { return false };
        let told = self.events.iter().find(|told| told.is_named(name));
        let (back, from, before) = match (told, sample(name)) {
            (Some(told), _) => (index - told.entry, told.from as usize, &*told.text),
            (None, Some((nearest, text))) => (index + 1 + nearest, 0, text),
            (None, None) => return true,
        };
        let alone = scratch.found.len();
        share(&full[start..], before, OBJECTS_MAX, &mut |range: Range<usize>, place| {
            let range = start + range.start..start + range.end;
            scratch.found.push(Span { range, kind: Kind::Row { back, from: from + place } });
        });
        let is_alone = scratch.found.len() == alone;
        if !is_alone {
            scratch.found.sort_by_key(|span| (span.range.start, Reverse(span.range.end)));
        }
        is_alone || told.is_none()
    }

    /// Lets later events refer to the one that `rest` begins with.
    fn keep_event(&mut self, index: u64, rest: &str, start: usize) {
        let Some(name) = event_with_fields(rest) else { return };
        let Some(event) = end_of_value(rest, 0).and_then(|end| rest.get(..end)) else { return };
        let fields = event.len().saturating_sub(EVENT.len() + name.len());
        if !(ROW_LEN_MIN..=EVENT_LEN_MAX).contains(&fields) {
            return;
        }
        let told = Told { entry: index, from: small(start), name_len: small(name.len()), text: Box::from(event) };
        match self.events.iter_mut().find(|before| before.is_named(name)) {
            Some(before) => *before = told,
            None => self.events.push(told),
        }
    }
}

/// A line as it is written.
struct Line<'a> {
    to: &'a mut Vec<u8>,
    full: &'a str,
    index: u64,
    /// Everything before this is written, or left out.
    kept_to: usize,
    /// What was written since the last reference.
    gap: usize,
    refs: &'a mut String,
}

impl Line<'_> {
    fn keep_to(&mut self, end: usize) {
        self.to.extend_from_slice(&self.full.as_bytes()[self.kept_to..end]);
        self.gap += end - self.kept_to;
        self.kept_to = end;
    }

    fn leave_out(&mut self, range: Range<usize>, back: u64, from: usize) {
        self.keep_to(range.start);
        for number in [self.gap as u64, back, from as u64, range.len() as u64] {
            write_number(self.refs, number);
        }
        self.gap = 0;
        self.kept_to = range.end;
    }

    fn end(&mut self) {
        self.keep_to(self.full.len());
        if !self.refs.is_empty() {
            let brace = self.to.pop();
            assert_eq!(brace, Some(b'}'), "a line is an object");
            self.to.extend_from_slice(REFS.as_bytes());
            self.to.extend_from_slice(self.refs.as_bytes());
            self.to.extend_from_slice(b"\"}");
        }
    }
}

fn small(n: usize) -> u32 {
    u32::try_from(n).expect("an entry is shorter than 4 GiB")
}

fn hashed(kind: u8, text: &str) -> u128 {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    let [one, two] = keys.each_ref().map(|key| {
        let mut hasher = key.build_hasher();
        hasher.write_u8(kind);
        hasher.write(text.as_bytes());
        hasher.finish()
    });
    u128::from(one) << 64 | u128::from(two)
}

/// 128 bits by which a text is known in this process, and in no other.
pub(super) fn hash(text: &str) -> u128 {
    hashed(3, text)
}

fn fingerprint(kind: Kind, text: &str) -> u128 {
    hashed(u8::from(kind == Kind::Text), text)
}

/// By what a text is found as the beginning of another one.
fn beginning(text: &str) -> Option<u128> {
    let begin = text.get(..text.floor_char_boundary(BEGIN_LEN));
    begin.filter(|_| text.len() >= PIECE_LEN_MIN).map(|begin| hashed(2, begin))
}

const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvABCDEFGHIJKLMNOPQRSTUVWXYZwxyz-_";

fn write_number(to: &mut String, number: u64) {
    if number >= 32 {
        write_leading(to, number / 32);
    }
    to.push(char::from(DIGITS[(number % 32) as usize]));
}

fn write_leading(to: &mut String, number: u64) {
    if number >= 32 {
        write_leading(to, number / 32);
    }
    to.push(char::from(DIGITS[32 + (number % 32) as usize]));
}

fn read_number(from: &mut std::slice::Iter<'_, u8>) -> Option<u64> {
    let mut number = 0_u64;
    loop {
        let (digit, is_last) = match from.next()? {
            byte @ b'0'..=b'9' => (byte - b'0', true),
            byte @ b'a'..=b'v' => (byte - b'a' + 10, true),
            byte @ b'A'..=b'Z' => (byte - b'A', false),
            byte @ b'w'..=b'z' => (byte - b'w' + 26, false),
            b'-' => (30, false),
            b'_' => (31, false),
            _ => return None,
        };
        number = number.checked_mul(32)? + u64::from(digit);
        if is_last {
            return Some(number);
        }
    }
}

/// A reference of a stored line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Where something is left out.
    at: usize,
    /// How many entries back it stands.
    back: u64,
    from: usize,
    len: usize,
}

impl Reference {
    /// The entry that the line of entry `index` refers to; none for a sample.
    pub(super) fn entry(&self, index: u64) -> Option<u64> {
        index.checked_sub(self.back)
    }
}

/// The line without its references, which are given beside it. None when they are not what was written.
pub(super) fn references(line: &str) -> Option<(&str, Vec<Reference>)> {
    let numbers = line.strip_suffix("\"}").and_then(|line| line.rsplit_once(REFS));
    // A text of the line's own, at its end, would have a quote.
    let Some((kept, numbers)) = numbers.filter(|(_, numbers)| !numbers.contains('"')) else {
        return Some((line, Vec::new()));
    };
    let mut numbers = numbers.as_bytes().iter();
    let (mut refs, mut at) = (Vec::new(), 0_usize);
    while !numbers.as_slice().is_empty() {
        let mut next = || read_number(&mut numbers);
        let (gap, back, from, len) = (next()?, next()?, next()?, next()?);
        at = at.checked_add(usize::try_from(gap).ok()?)?;
        refs.push(Reference { at, back, from: usize::try_from(from).ok()?, len: usize::try_from(len).ok()? });
    }
    Some((kept, refs))
}

/// The full text of entry `index`. `text` gives that of an earlier entry. None when a reference leads nowhere.
pub(super) fn expand<'t>(
    index: u64,
    line: &str,
    refs: &[Reference],
    text: impl Fn(u64) -> Option<&'t str>,
) -> Option<String> {
    let mut full = String::with_capacity(line.len() + 1 + refs.iter().map(|reference| reference.len).sum::<usize>());
    let mut kept_to = 0;
    for reference in refs {
        full.push_str(line.get(kept_to..reference.at)?);
        kept_to = reference.at;
        let range = reference.from..reference.from.checked_add(reference.len)?;
        match reference.entry(index) {
            Some(entry) if entry == index => {
                full.get(range.clone())?;
                full.extend_from_within(range);
            }
            Some(entry) => full.push_str(text(entry)?.get(range)?),
            None => full.push_str(nearest_sample(reference.back - index - 1)?.get(range)?),
        }
    }
    full.push_str(line.get(kept_to..)?);
    full.push('}');
    Some(full)
}

const EVENT: &str = "{\"event\":\"";

/// The name of the event that a text begins with, if it says more than that.
fn event_with_fields(text: &str) -> Option<&str> {
    let begin = text.strip_prefix(EVENT)?;
    // A name is a word: no quote in it is escaped.
    let (name, rest) = begin.split_at_checked(begin.bytes().position(|byte| byte == b'"')?)?;
    Some(name).filter(|_| rest.starts_with("\","))
}

/// The sample for an event of this name, and how near it is. Teams say what agents say, under other names.
fn sample(name: &str) -> Option<(u64, &'static str)> {
    let name = name.strip_prefix("Team").unwrap_or(name);
    (0..)
        .zip(SAMPLES.iter().rev())
        .find(|(_, text)| event_with_fields(text) == Some(name))
        .map(|(nearest, text)| (nearest, *text))
}

fn nearest_sample(nearest: u64) -> Option<&'static str> {
    SAMPLES.iter().rev().nth(usize::try_from(nearest).ok()?).copied()
}

/// A field of an object, with what separates it from the one before.
struct Field {
    /// Its comma; for the first one, its name.
    start: usize,
    name: Range<usize>,
    value: Range<usize>,
}

/// The field that begins at `at`; none at the object's end.
fn field(text: &str, at: usize) -> Option<Field> {
    let bytes = text.as_bytes();
    let name = at + usize::from(bytes.get(at) == Some(&b','));
    if bytes.get(name) != Some(&b'"') {
        return None;
    }
    let end = json::end_of_string(bytes, name) + 1;
    let value = end + 1;
    Some(Field { start: at, name: name..end.min(text.len()), value: value..end_of_value(text, value)? })
}

/// Where the value ends that begins at `at`.
fn end_of_value(text: &str, at: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = at;
    loop {
        match bytes.get(at)? {
            b'"' => at = json::end_of_string(bytes, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' | b',' if depth == 0 => return Some(at),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 && matches!(bytes[at - 1], b'"' | b'}' | b']') {
            return Some(at);
        }
    }
}

/// How many objects deep an event is compared.
const OBJECTS_MAX: usize = 3;

/// How many fields of the object before may be missing.
const MISSING_MAX: usize = 8;

/// Gives `row` the fields that an object has in common with the one `before`, row by row, each with its comma, and where
/// they stand there; goes `depth` objects deep.
fn share(text: &str, before: &str, depth: usize, row: &mut dyn FnMut(Range<usize>, usize)) {
    let (mut at, mut before_at) = (1, 1);
    let mut open: Option<Row> = None;
    while let Some(new) = field(text, at) {
        at = new.value.end;
        let mut ahead = before_at;
        let old = (0..=MISSING_MAX).find_map(|_| {
            let old = field(before, ahead)?;
            ahead = old.value.end;
            (text[new.name.clone()] == before[old.name.clone()]).then_some(old)
        });
        let same = old.as_ref().filter(|old| {
            text[new.start..].starts_with(',') && text[new.start..new.value.end] == before[old.start..old.value.end]
        });
        match (&mut open, same) {
            (Some((range, place)), Some(old)) if range.end == new.start && place.end == old.start => {
                range.end = new.value.end;
                place.end = old.value.end;
            }
            (_, same) => {
                close(open.take(), row);
                open = same.map(|old| (new.start..new.value.end, old.start..old.value.end));
            }
        }
        let Some(old) = old else { continue };
        before_at = old.value.end;
        let (value, old_value) = (&text[new.value.clone()], &before[old.value.clone()]);
        if open.is_none() && depth > 1 && value.starts_with('{') && old_value.starts_with('{') {
            let (by, before_by) = (new.value.start, old.value.start);
            share(value, old_value, depth - 1, &mut |range, place| {
                row(range.start + by..range.end + by, place + before_by);
            });
        }
    }
    close(open, row);
}

type Row = (Range<usize>, Range<usize>);

fn close(open: Option<Row>, row: &mut dyn FnMut(Range<usize>, usize)) {
    if let Some((range, place)) = open
        && range.len() >= ROW_LEN_MIN
    {
        row(range, place.start);
    }
}

/// How many spans a thread keeps room for.
const SPANS_KEPT: usize = 1024;

/// Memory that a thread uses for one line after another.
#[derive(Default)]
struct Scratch {
    found: Vec<Span>,
    /// Where the line's event stands.
    event: usize,
    /// Where the insides of open arrays and objects begin, each with its place in `found`.
    open: Vec<(usize, usize)>,
    refs: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Finds the texts, objects and arrays of a line that are long enough, outer ones first.
    fn find(&mut self, line: &str) {
        let Self { found, open, event, .. } = self;
        *event = 0;
        found.clear();
        found.shrink_to(SPANS_KEPT);
        open.clear();
        let text = line.as_bytes();
        let mut at = 0;
        // What the checking views read.
        let (mut in_record, mut is_kept) = (false, false);
        while at < text.len() {
            match text[at] {
                b'"' => {
                    let end = json::end_of_string(text, at).min(text.len() - 1);
                    if text.get(end + 1) == Some(&b':') {
                        let name = &text[at + 1..end];
                        if open.len() == 1 {
                            in_record = name == b"record";
                            if name == b"event" {
                                *event = end + 2;
                            }
                        }
                        is_kept = in_record && open.len() == 3 && (name == b"key" || name == b"worker");
                    } else if !is_kept && open.len() > 1 && end - at > LEN_MIN {
                        found.push(Span { range: at + 1..end, kind: Kind::Text });
                    }
                    at = end;
                }
                b'{' | b'[' => {
                    open.push((at + 1, found.len()));
                    found.push(Span { range: at..at, kind: Kind::Inside });
                }
                b'}' | b']' => {
                    let Some((start, place)) = open.pop() else { return found.clear() };
                    let least = if in_record { 3 } else { 2 };
                    if at - start >= LEN_MIN && open.len() >= least {
                        found[place].range = start..at;
                    }
                }
                b',' => is_kept = false,
                _ => {}
            }
            at += 1;
        }
        found.retain(|span| !span.range.is_empty());
    }
}
