//! Values that stand once: a text, an object or an array that an entry repeats from an earlier one is not written again.
//!
//! ```text
//! entry 4   {…,"record":{"result":{"key":"0/agent/t0","value":{"content":"a long answer …"}}}}
//! entry 6   {…,"record":{"run":{…,"content":0}},"refs":[[81,4,73,412]]}
//! ```
//! A repeated value is replaced by `0`, and `refs`, the last field of the line, says for each such place: its offset in
//! the line as stored, the entry where the value stands, and the value's offset and length in that entry's *full* text,
//! the one without references. An entry may refer to its own earlier text. A repeated row of fields that are null, which
//! begins with a comma, is left out without a `0`.
//!
//! This module sees only text. The invariant: expanding a line gives the full text, byte for byte.

use crate::json;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// The shortest value that is looked for, in bytes: a reference takes about 20.
const LEN_MIN: usize = 64;

/// What the line's last field begins with.
const REFS: &str = ",\"refs\":[";

/// Where the values of earlier entries stand, by what they say.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// By 128 bits of a hash with a key of this process, so nobody can make two texts collide.
    places: HashMap<u128, (u64, u32)>,
}

impl Seen {
    /// Writes the full text of entry `index`, without what stood before.
    pub(super) fn write(&mut self, to: &mut Vec<u8>, index: u64, full: &str) {
        SCRATCH.with_borrow_mut(|scratch| self.write_with(scratch, to, index, full));
    }

    fn write_with(&mut self, scratch: &mut Scratch, to: &mut Vec<u8>, index: u64, full: &str) {
        let start = to.len();
        let mut kept_to = 0;
        scratch.find(full);
        let Scratch { found, refs, .. } = scratch;
        refs.clear();
        for value in &*found {
            if value.start < kept_to {
                continue;
            }
            let text = &full[value.start..value.end];
            let place = self.places.entry(fingerprint(text)).or_insert((index, offset(value.start)));
            let (entry, from) = *place;
            if (entry, from) == (index, offset(value.start)) {
                continue;
            }
            to.extend_from_slice(&full.as_bytes()[kept_to..value.start]);
            refs.push_str(if refs.is_empty() { REFS } else { "," });
            write!(refs, "[{},{entry},{from},{}]", to.len() - start, text.len()).expect("memory takes it");
            if !text.starts_with(',') {
                to.push(b'0');
            }
            kept_to = value.end;
        }
        to.extend_from_slice(&full.as_bytes()[kept_to..]);
        if !refs.is_empty() {
            let brace = to.pop();
            debug_assert_eq!(brace, Some(b'}'), "a line is an object");
            to.extend_from_slice(refs.as_bytes());
            to.extend_from_slice(b"]}");
        }
    }

    /// Takes in the full text of an entry that was written before.
    pub(super) fn note(&mut self, index: u64, full: &str) {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.find(full);
            for value in &scratch.found {
                let text = &full[value.start..value.end];
                self.places.entry(fingerprint(text)).or_insert((index, offset(value.start)));
            }
        });
    }
}

fn offset(n: usize) -> u32 {
    u32::try_from(n).expect("an entry is shorter than 4 GiB")
}

fn fingerprint(text: &str) -> u128 {
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let [one, two] = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    u128::from(one.hash_one(text)) << 64 | u128::from(two.hash_one(text))
}

/// A reference of a stored line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Where the `0` stands.
    at: usize,
    /// The entry where the value stands.
    pub(super) entry: u64,
    from: usize,
    len: usize,
}

/// The line without its references, which are given beside it. None when they are not what was written.
pub(super) fn references(line: &str) -> Option<(&str, Vec<Reference>)> {
    let Some(inner) = line.strip_suffix("]]}") else { return Some((line, Vec::new())) };
    // Only digits, commas and brackets can stand between the field's name and the end.
    let begin = inner.rfind(|c: char| !(c.is_ascii_digit() || c == ',' || c == '[' || c == ']'));
    let Some(begin) = begin else { return Some((line, Vec::new())) };
    let Some(begin) = (begin + 1).checked_sub(REFS.len() - 1).filter(|at| inner[*at..].starts_with(REFS)) else {
        return Some((line, Vec::new()));
    };
    let list = &inner[begin + REFS.len()..];
    let mut refs = Vec::new();
    for reference in list.split("],") {
        let mut numbers = reference.strip_prefix('[')?.split(',').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (at, entry, from, len) = (next()?, next()?, next()?, next()?);
        let small = |n: u64| usize::try_from(n).ok();
        refs.push(Reference { at: small(at)?, entry, from: small(from)?, len: small(len)? });
    }
    Some((&line[..begin], refs))
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
        let range = reference.from..reference.from.checked_add(reference.len)?;
        let is_row = match reference.entry == index {
            true => {
                let is_row = full.get(range.clone())?.starts_with(',');
                full.extend_from_within(range);
                is_row
            }
            false => {
                let value = text(reference.entry)?.get(range)?;
                full.push_str(value);
                value.starts_with(',')
            }
        };
        kept_to = reference.at + usize::from(!is_row);
    }
    full.push_str(line.get(kept_to..)?);
    full.push('}');
    Some(full)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
}

/// How many spans a thread keeps room for.
const SPANS_KEPT: usize = 1024;

/// Memory that a thread uses for one line after another.
#[derive(Default)]
struct Scratch {
    found: Vec<Span>,
    /// Where the open arrays and objects begin, each with its place in `found`.
    open: Vec<(usize, usize)>,
    refs: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Scratch {
    /// Finds the values of a line that are long enough, outer ones first: everything inside its fields, and its origin.
    fn find(&mut self, line: &str) {
        let Self { found, open, .. } = self;
        found.clear();
        found.shrink_to(SPANS_KEPT);
        open.clear();
        let text = line.as_bytes();
        let has_origin = line.starts_with(ORIGIN) || line.starts_with(SPEAKER);
        let mut at = 0;
        while at < text.len() {
            match text[at] {
                b'"' => {
                    let end = (json::end_of_string(text, at) + 1).min(text.len());
                    let is_key = text.get(end) == Some(&b':');
                    if !is_key && open.len() > 1 && end - at >= LEN_MIN {
                        found.push(Span { start: at, end });
                    }
                    at = end;
                    continue;
                }
                b',' => {
                    let end = end_of_nulls(line, at);
                    if end - at >= LEN_MIN {
                        found.push(Span { start: at, end });
                    }
                    at = end.max(at + 1);
                    continue;
                }
                b'{' | b'[' => {
                    open.push((at, found.len()));
                    found.push(Span { start: at, end: at });
                }
                b'}' | b']' => {
                    let Some((start, place)) = open.pop() else { return found.clear() };
                    let is_origin = has_origin && open.len() == 1 && place == 1;
                    if at + 1 - start >= LEN_MIN && (open.len() > 1 || is_origin) {
                        found[place].end = at + 1;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        found.retain(|span| span.end > span.start);
    }
}

const ORIGIN: &str = "{\"origin\":";
const SPEAKER: &str = "{\"speaker\":";

/// Where the row of null fields ends that begins with the comma at `start`; `start` itself when there is none.
fn end_of_nulls(line: &str, start: usize) -> usize {
    const NULL: &str = "\":null";
    let mut end = start;
    while line[end..].starts_with(",\"") {
        let quote = json::end_of_string(line.as_bytes(), end + 1);
        match line.get(quote..quote + NULL.len()) {
            Some(NULL) => end = quote + NULL.len(),
            _ => break,
        }
    }
    end
}
