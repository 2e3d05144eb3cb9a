//! Shapes: texts that look like a credential whoever they belong to, and headers that carry one.
//!
//! One pass finds where a shape may begin; each place is then looked at closely. Knows no value. What is found is found
//! in plain text and within JSON written in JSON alike, where quotes and line breaks are escaped.

use super::REDACTED;
use aho_corasick::{AhoCorasick, Input, MatchKind};
use std::ops::Range;

/// Headers that carry credentials, in lower case.
const SECRET_HEADERS: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
/// The length of the longest of them and the quote before it.
const NAME_LEN_MAX: usize = "\"proxy-authorization".len();
/// The shortest token after `sk-`, `olv_` and `Bearer `: shorter ones are words.
const TOKEN_LEN_MIN: usize = 16;
/// The shortest first and second part of a JWT.
const JWT_PART_LEN_MIN: usize = 10;

/// What begins a shape.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `sk-…` and `olv_…`.
    Key,
    /// `Bearer` and a token.
    Bearer,
    /// A JSON web token.
    Jwt,
    /// A private key in PEM.
    Pem,
    /// A header's name, or the end of it, as a key in JSON.
    Header,
}

/// Names are found by their ends, so that one beginning stands for `Cookie`, `cookie` and `set-cookie`. They are searched
/// for in the spellings that are in use: a search in any case of letters is three times slower.
const BEGINNINGS: [(&str, Kind); 14] = [
    ("sk-", Kind::Key),
    ("olv_", Kind::Key),
    ("eyJ", Kind::Jwt),
    ("earer ", Kind::Bearer),
    ("EARER ", Kind::Bearer),
    ("-----BEGIN ", Kind::Pem),
    ("uthorization", Kind::Header),
    ("UTHORIZATION", Kind::Header),
    ("ookie", Kind::Header),
    ("OOKIE", Kind::Header),
    ("-api-key", Kind::Header),
    ("-Api-Key", Kind::Header),
    ("-API-Key", Kind::Header),
    ("-API-KEY", Kind::Header),
];

/// Something to remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) range: Range<usize>,
    /// What to put there, so that JSON within the text remains JSON.
    replacement: String,
}

impl Found {
    fn new(range: Range<usize>) -> Self {
        Self { range, replacement: REDACTED.to_owned() }
    }
}

/// Whether what stands under this name is a credential.
pub(super) fn is_secret_header(name: &str) -> bool {
    SECRET_HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name))
}

/// Finds shapes.
pub(super) struct Shapes {
    beginnings: AhoCorasick,
}

impl Shapes {
    pub(super) fn new() -> Self {
        let beginnings = AhoCorasick::builder()
            // Only searches of this kind use the processor's vector instructions.
            .match_kind(MatchKind::LeftmostFirst)
            .build(BEGINNINGS.map(|(text, _)| text))
            .expect("a few short patterns fit an automaton");
        Self { beginnings }
    }

    /// The first shape that begins at `from` or later.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Found> {
        let mut from = from;
        loop {
            let hit = self.beginnings.find(Input::new(text).span(from..text.len()))?;
            let (_, kind) = BEGINNINGS[hit.pattern().as_usize()];
            if let Some(found) = kind.look(text, hit.range()) {
                return Some(found);
            }
            from = hit.start() + 1;
        }
    }

    /// The text without shapes, unless there is none.
    pub(super) fn remove(&self, text: &str) -> Option<String> {
        let mut kept_to = 0;
        let mut clean = String::new();
        while let Some(found) = self.find(text, kept_to) {
            clean.push_str(&text[kept_to..found.range.start]);
            clean.push_str(&found.replacement);
            kept_to = found.range.end;
        }
        (kept_to > 0).then(|| clean + &text[kept_to..])
    }
}

impl Kind {
    fn look(self, text: &str, hit: Range<usize>) -> Option<Found> {
        let bytes = text.as_bytes();
        match self {
            Kind::Key => {
                let end = end_of(bytes, hit.end, is_token);
                let is_key = begins_token(bytes, hit.start) && end - hit.end >= TOKEN_LEN_MIN;
                is_key.then(|| Found::new(hit.start..end))
            }
            Kind::Bearer => {
                let start = end_of(bytes, hit.end, |byte| byte == b' ');
                let end = end_of(bytes, start, is_bearer);
                (end - start >= TOKEN_LEN_MIN).then(|| Found::new(start..end))
            }
            Kind::Jwt => jwt(text, hit),
            Kind::Pem => pem(text, hit.start),
            Kind::Header => header(bytes, hit),
        }
    }
}

fn jwt(text: &str, hit: Range<usize>) -> Option<Found> {
    let bytes = text.as_bytes();
    if !begins_token(bytes, hit.start) {
        return None;
    }
    let mut start = hit.start;
    for _ in 0..2 {
        let end = end_of(bytes, start, is_token);
        if end - start < JWT_PART_LEN_MIN || bytes.get(end) != Some(&b'.') {
            return None;
        }
        start = end + 1;
    }
    Some(Found::new(hit.start..end_of(bytes, start, is_token)))
}

fn pem(text: &str, start: usize) -> Option<Found> {
    let label = text[start..].strip_prefix("-----BEGIN ")?;
    let label = &label[..label.find("-----")?];
    if !label.ends_with("PRIVATE KEY") && !label.ends_with("PRIVATE KEY BLOCK") {
        return None;
    }
    let body = start + "-----BEGIN ".len() + label.len() + "-----".len();
    let ending = format!("-----END {label}-----");
    if let Some(length) = text[body..].find("-----").filter(|length| text[body + length..].starts_with(&ending)) {
        return Some(Found::new(start..body + length + ending.len()));
    }
    // Cut off: what can belong to it goes.
    let end = end_of(text.as_bytes(), body, |byte| byte.is_ascii_alphanumeric() || b"+/=\n\r\\".contains(&byte));
    (end - body >= TOKEN_LEN_MIN).then(|| Found::new(start..end))
}

/// `"cookie": "a=b"` with any number of backslashes before the quotes, and the same with a value that is no text.
fn header(bytes: &[u8], name: Range<usize>) -> Option<Found> {
    let opening = end_of(bytes, name.end, |byte| byte == b'\\');
    let depth = opening - name.end;
    let quote = *bytes.get(opening).filter(|byte| b"\"'".contains(byte))?;
    if !is_name(&bytes[name.end.saturating_sub(NAME_LEN_MAX)..name.end], quote) {
        return None;
    }
    let colon = skip_space(bytes, opening + 1);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let value = skip_space(bytes, colon + 1);
    let start = end_of(bytes, value, |byte| byte == b'\\') + 1;
    if start == value + depth + 1 && bytes.get(start - 1) == Some(&quote) {
        return Some(Found::new(start..end_of_string(bytes, start, quote, depth)));
    }
    let end = end_of_value(bytes, value);
    let quoted = format!("{}{}", "\\".repeat(depth), char::from(quote));
    let replacement = format!("{quoted}{REDACTED}{quoted}");
    let is_something = end > value && bytes[value..end] != *b"null";
    is_something.then_some(Found { range: value..end, replacement })
}

/// Whether what ends here is the name of a header that carries credentials, all of what stands after this quote.
fn is_name(before: &[u8], quote: u8) -> bool {
    let start = before.iter().rposition(|byte| *byte == quote).map_or(before.len(), |place| place + 1);
    std::str::from_utf8(&before[start..]).is_ok_and(is_secret_header)
}

/// The end of a JSON value that is no text.
fn end_of_value(bytes: &[u8], start: usize) -> usize {
    let mut open = 0_u32;
    for (index, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' if open == 1 => return index + 1,
            b']' | b'}' if open > 1 => open -= 1,
            b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t' | b'"' | b'\'' | b'\\' if open == 0 => return index,
            _ => {}
        }
    }
    bytes.len()
}

/// Passes over white space, written as it is or escaped.
fn skip_space(bytes: &[u8], start: usize) -> usize {
    let mut end = start;
    loop {
        end = end_of(bytes, end, |byte| byte.is_ascii_whitespace());
        let letter = end_of(bytes, end, |byte| byte == b'\\');
        if letter == end || !bytes.get(letter).is_some_and(|byte| b"nrt".contains(byte)) {
            return end;
        }
        end = letter + 1;
    }
}

/// Where a string ends that is written within `depth` backslashes: a quote with more of them is part of it.
fn end_of_string(bytes: &[u8], start: usize, quote: u8, depth: usize) -> usize {
    let mut backslashes = 0;
    for (index, byte) in bytes.iter().enumerate().skip(start) {
        match *byte {
            b'\\' => backslashes += 1,
            byte if byte == quote && backslashes <= depth => return index - backslashes,
            _ => backslashes = 0,
        }
    }
    bytes.len()
}

/// Whether a token can begin here: after anything that is no part of one. The letter of an escaped line break is none.
fn begins_token(bytes: &[u8], start: usize) -> bool {
    match bytes[..start] {
        [.., b'\\', letter] if b"nrtbf".contains(&letter) => true,
        [.., b'\\', b'u', _, _, _, _] => true,
        [.., before] => !is_token(before),
        [] => true,
    }
}

/// The end of the run of such bytes that begins at `start`.
fn end_of(bytes: &[u8], start: usize, belongs: impl Fn(u8) -> bool) -> usize {
    start + bytes[start..].iter().take_while(|byte| belongs(**byte)).count()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn is_bearer(byte: u8) -> bool {
    is_token(byte) || b".~+/=".contains(&byte)
}
