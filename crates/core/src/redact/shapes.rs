//! Shapes: texts that look like a credential, whoever they belong to, and headers that carry one.
//!
//! One pass finds where a shape may begin; each place is then looked at closely. It knows no value. Shapes are found
//! alike in plain text and in JSON nested in JSON, where quotes and line breaks are escaped.

use super::REDACTED;
use aho_corasick::{AhoCorasick, Input, MatchKind};
use std::ops::Range;
use std::sync::LazyLock;

/// Headers that carry credentials, in lower case.
const SECRET_HEADERS: [&str; 5] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
/// The length of the longest of them, plus the quote before it.
const NAME_LEN_MAX: usize = "\"proxy-authorization".len();
/// The shortest token after `sk-`, `olv_` and `Bearer `: shorter ones are words.
const TOKEN_LEN_MIN: usize = 16;
/// The shortest first and second part of a JWT.
const JWT_PART_LEN_MIN: usize = 10;

const PEM_BEGIN: &str = "-----BEGIN ";
/// The longest label of a private key, with room.
const PEM_LABEL_LEN_MAX: usize = 64;
/// The longest of [`BEGINNINGS`].
const BEGINNING_LEN_MAX: usize = "uthorization".len();

/// What begins a shape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
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

/// Names are found by their ends, so that one pattern covers `Cookie`, `cookie` and `set-cookie`. They are searched for
/// in the spellings in use: a search that ignores case is three times slower.
const BEGINNINGS: [(&str, Kind); 14] = [
    ("sk-", Kind::Key),
    ("olv_", Kind::Key),
    ("eyJ", Kind::Jwt),
    ("earer ", Kind::Bearer),
    ("EARER ", Kind::Bearer),
    (PEM_BEGIN, Kind::Pem),
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
    pub(super) replacement: String,
}

impl Found {
    fn new(range: Range<usize>) -> Self {
        Self { range, replacement: REDACTED.to_owned() }
    }
}

/// Whether the value under this name is a credential.
pub(super) fn is_secret_header(name: &str) -> bool {
    SECRET_HEADERS.iter().any(|header| header.eq_ignore_ascii_case(name))
}

/// What was found of a shape at one place.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) found: Option<Found>,
    /// Present when the text ends before this is decided: from where on something may have to be removed.
    pub(super) open: Option<usize>,
}

impl Look {
    const NOTHING: Look = Look { found: None, open: None };

    /// Nothing yet, but perhaps something from here on.
    fn open(from: usize) -> Look {
        Look { found: None, open: Some(from) }
    }
}

/// Finds shapes.
pub(super) struct Shapes {
    beginnings: AhoCorasick,
}

impl Shapes {
    pub(super) fn new() -> Self {
        /// It is the same in every redactor.
        static AUTOMATON: LazyLock<AhoCorasick> = LazyLock::new(|| {
            AhoCorasick::builder()
                // Only searches of this kind use the processor's vector instructions.
                .match_kind(MatchKind::LeftmostFirst)
                .build(BEGINNINGS.map(|(text, _)| text))
                .expect("a few short patterns fit an automaton")
        });
        Self { beginnings: AUTOMATON.clone() }
    }

    /// The first place at `from` or later where a shape may begin.
    pub(super) fn begin(&self, text: &str, from: usize) -> Option<(Range<usize>, Kind)> {
        let hit = self.beginnings.find(Input::new(text).span(from..text.len()))?;
        let (_, kind) = BEGINNINGS[hit.pattern().as_usize()];
        Some((hit.range(), kind))
    }

    /// Where, at `from` or later, the end of the text may be the start of a beginning: first of one that is itself
    /// removed, then of any. The text's end where it is not.
    pub(super) fn open_from(&self, text: &str, from: usize) -> (usize, usize) {
        let bytes = text.as_bytes();
        let first = from.max(bytes.len().saturating_sub(BEGINNING_LEN_MAX));
        let (mut secret, mut any) = (bytes.len(), bytes.len());
        for place in first..bytes.len() {
            for (beginning, kind) in BEGINNINGS {
                if beginning.as_bytes().starts_with(&bytes[place..]) {
                    any = any.min(place);
                    if kind.may_begin(bytes, place) {
                        secret = secret.min(place);
                    }
                }
            }
        }
        (secret, any)
    }

    /// The first shape that begins at `from` or later.
    pub(super) fn find(&self, text: &str, from: usize) -> Option<Found> {
        let mut from = from;
        loop {
            let (hit, kind) = self.begin(text, from)?;
            from = hit.start + 1;
            if let Some(found) = kind.look(text, hit).found {
                return Some(found);
            }
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
    /// Looks closely at what begins here.
    pub(super) fn look(self, text: &str, hit: Range<usize>) -> Look {
        let bytes = text.as_bytes();
        match self {
            Kind::Key if begins_token(bytes, hit.start) => run(bytes, hit.start, hit.end, is_token),
            Kind::Key => Look::NOTHING,
            Kind::Bearer => {
                let start = end_of(bytes, hit.end, |byte| byte == b' ');
                run(bytes, start, start, is_bearer)
            }
            Kind::Jwt => jwt(text, hit),
            Kind::Pem => pem(text, hit.start),
            Kind::Header => header(bytes, hit),
        }
    }

    /// Whether a shape whose very beginning is removed may begin here.
    fn may_begin(self, bytes: &[u8], place: usize) -> bool {
        match self {
            Kind::Key | Kind::Jwt => begins_token(bytes, place),
            Kind::Pem => true,
            Kind::Bearer | Kind::Header => false,
        }
    }
}

/// The span from `start` to the end of the token at `token`, if that is long enough.
fn run(bytes: &[u8], start: usize, token: usize, belongs: impl Fn(u8) -> bool) -> Look {
    let end = end_of(bytes, token, belongs);
    let found = (end - token >= TOKEN_LEN_MIN).then(|| Found::new(start..end));
    Look { found, open: (end == bytes.len()).then_some(start) }
}

fn jwt(text: &str, hit: Range<usize>) -> Look {
    let bytes = text.as_bytes();
    if !begins_token(bytes, hit.start) {
        return Look::NOTHING;
    }
    let mut start = hit.start;
    for _ in 0..2 {
        let end = end_of(bytes, start, is_token);
        if end == bytes.len() {
            return Look::open(hit.start);
        }
        if end - start < JWT_PART_LEN_MIN || bytes[end] != b'.' {
            return Look::NOTHING;
        }
        start = end + 1;
    }
    let end = end_of(bytes, start, is_token);
    Look { found: Some(Found::new(hit.start..end)), open: (end == bytes.len()).then_some(hit.start) }
}

fn pem(text: &str, start: usize) -> Look {
    const DASHES: &str = "-----";
    let bytes = text.as_bytes();
    let from = start + PEM_BEGIN.len();
    let label_end = end_of(bytes, from, |byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' ');
    let label = &text[from..label_end];
    if label.len() > PEM_LABEL_LEN_MAX {
        return Look::NOTHING;
    }
    if !text[label_end..].starts_with(DASHES) {
        return if DASHES.starts_with(&text[label_end..]) { Look::open(start) } else { Look::NOTHING };
    }
    if !label.ends_with("PRIVATE KEY") && !label.ends_with("PRIVATE KEY BLOCK") {
        return Look::NOTHING;
    }
    let body = label_end + DASHES.len();
    let ending = format!("-----END {label}-----");
    let dashes = text[body..].find(DASHES).map(|length| body + length);
    let is_open = dashes.is_none_or(|dashes| ending.starts_with(&text[dashes..]) && text.len() - dashes < ending.len());
    if let Some(dashes) = dashes.filter(|dashes| text[*dashes..].starts_with(&ending)) {
        return Look { found: Some(Found::new(start..dashes + ending.len())), open: None };
    }
    // Cut off: whatever can belong to it is removed.
    let end = end_of(bytes, body, |byte| byte.is_ascii_alphanumeric() || b"+/=\n\r\\".contains(&byte));
    Look { found: (end - body >= TOKEN_LEN_MIN).then(|| Found::new(start..end)), open: is_open.then_some(start) }
}

/// `"cookie": "a=b"` with any number of backslashes before the quotes, and the same with a value that is not a string.
fn header(bytes: &[u8], name: Range<usize>) -> Look {
    let opening = end_of(bytes, name.end, |byte| byte == b'\\');
    let depth = opening - name.end;
    // Nothing is removed before the value begins.
    let undecided = Look::open(bytes.len());
    let Some(&quote) = bytes.get(opening) else { return undecided };
    let before = &bytes[name.end.saturating_sub(NAME_LEN_MAX)..name.end];
    if !b"\"'".contains(&quote) || !is_name(before, quote) {
        return Look::NOTHING;
    }
    let Some(colon) = skip_space(bytes, opening + 1) else { return undecided };
    if bytes[colon] != b':' {
        return Look::NOTHING;
    }
    let Some(value) = skip_space(bytes, colon + 1) else { return undecided };
    let opening = end_of(bytes, value, |byte| byte == b'\\');
    let Some(&first) = bytes.get(opening) else { return undecided };
    if opening == value + depth && first == quote {
        let start = opening + 1;
        let end = end_of_string(bytes, start, quote, depth);
        let open = end.is_none().then_some(start);
        return Look { found: Some(Found::new(start..end.unwrap_or(bytes.len()))), open };
    }
    let end = end_of_value(bytes, value);
    let open = end.is_none().then_some(value);
    let end = end.unwrap_or(bytes.len());
    let quoted = format!("{}{}", "\\".repeat(depth), char::from(quote));
    let replacement = format!("{quoted}{REDACTED}{quoted}");
    let is_something = end > value && bytes[value..end] != *b"null";
    Look { found: is_something.then_some(Found { range: value..end, replacement }), open }
}

/// Whether the text between this quote and here is exactly the name of a header that carries credentials.
fn is_name(before: &[u8], quote: u8) -> bool {
    let start = before.iter().rposition(|byte| *byte == quote).map_or(before.len(), |place| place + 1);
    std::str::from_utf8(&before[start..]).is_ok_and(is_secret_header)
}

/// The end of a JSON value that is not a string; none while it has no end.
fn end_of_value(bytes: &[u8], start: usize) -> Option<usize> {
    let mut open = 0_u32;
    for (index, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' if open == 1 => return Some(index + 1),
            b']' | b'}' if open > 1 => open -= 1,
            b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t' | b'"' | b'\'' | b'\\' if open == 0 => {
                return Some(index);
            }
            _ => {}
        }
    }
    None
}

/// Skips white space, plain or escaped, up to the first other byte; none while there is none.
fn skip_space(bytes: &[u8], start: usize) -> Option<usize> {
    let mut end = start;
    loop {
        end = end_of(bytes, end, |byte| byte.is_ascii_whitespace());
        let letter = end_of(bytes, end, |byte| byte == b'\\');
        let letter_byte = bytes.get(letter)?;
        if letter == end || !b"nrt".contains(letter_byte) {
            return Some(end);
        }
        end = letter + 1;
    }
}

/// The end of a string whose quotes follow `depth` backslashes: a quote with more of them is part of it. None while it
/// has no end.
fn end_of_string(bytes: &[u8], start: usize, quote: u8, depth: usize) -> Option<usize> {
    let mut backslashes = 0;
    for (index, byte) in bytes.iter().enumerate().skip(start) {
        match *byte {
            b'\\' => backslashes += 1,
            byte if byte == quote && backslashes <= depth => return Some(index - backslashes),
            _ => backslashes = 0,
        }
    }
    None
}

/// Whether a token can begin here: after anything that cannot be part of one. The letter of an escaped line break
/// cannot, nor can that of a colour.
fn begins_token(bytes: &[u8], start: usize) -> bool {
    match bytes[..start] {
        [ref before @ .., b'm'] if ends_with_colour(before) => true,
        [.., b'\\', letter] if b"nrtbf".contains(&letter) => true,
        [.., b'\\', b'u', _, _, _, _] => true,
        [.., before] => !is_token(before),
        [] => true,
    }
}

/// Whether a terminal's colour code, without its last letter, ends here.
fn ends_with_colour(before: &[u8]) -> bool {
    let numbers = before.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
    before[..before.len() - numbers].ends_with(b"\x1b[")
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
