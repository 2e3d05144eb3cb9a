//! The forms a secret takes on its way: escaped for JSON, percent-encoded, in base64. Each is a plain text to search for.
//!
//! It knows nothing about what is searched.

use std::fmt::Write;
use std::ops::Range;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// JSON inside a JSON string inside a page: escaped three times.
const ESCAPES_MAX: usize = 3;

/// What matters about a pattern when it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The value is readable: exactly the match is removed.
    Readable,
    /// The match is part of an encoded text, perhaps with a user name before it: all of that text is removed.
    Base64,
}

/// Every form of a secret, each once.
pub(super) fn encodings(secret: &str) -> Vec<(String, Encoding)> {
    let mut patterns = Vec::new();
    for readable in escaped(secret).into_iter().chain(percent_encoded(secret)) {
        patterns.push((readable, Encoding::Readable));
    }
    for alphabet in [STANDARD, URL_SAFE] {
        for place in 0..3 {
            patterns.push((base64_within(secret.as_bytes(), place, alphabet), Encoding::Base64));
        }
    }
    patterns.sort_by(|one, other| one.0.cmp(&other.0));
    patterns.dedup_by(|one, other| one.0 == other.0);
    patterns
}

/// The text as it is and escaped for JSON, by writers that escape what they must and by those that write ASCII only.
fn escaped(text: &str) -> Vec<String> {
    let mut escaped = vec![text.to_owned()];
    let mut forms = [text.to_owned(), json_escaped(text, true)];
    escaped.push(forms[1].clone());
    for _ in 0..ESCAPES_MAX {
        for form in &mut forms {
            *form = json_escaped(form, false);
            escaped.push(form.clone());
        }
    }
    escaped
}

/// The text as it stands between the quotes of a JSON string.
fn json_escaped(text: &str, ascii_only: bool) -> String {
    let quoted = serde_json::to_string(text).expect("a text is valid JSON");
    let inner = &quoted[1..quoted.len() - 1];
    if !ascii_only {
        return inner.to_owned();
    }
    inner.chars().fold(String::new(), |mut escaped, c| {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        }
        escaped
    })
}

/// The text in a URL: encoders differ in what they leave alone, in the case of the digits, and in the space.
fn percent_encoded(text: &str) -> Vec<String> {
    let kept = [b"-._~".as_slice(), b"-._~/", b"-_.!~*'()", b"*-._", b"-_.", b""];
    let mut encoded = Vec::new();
    for kept in kept {
        for upper_case in [true, false] {
            let text = percent(text, kept, upper_case);
            encoded.push(text.replace("%20", "+"));
            encoded.push(text);
        }
    }
    encoded
}

fn percent(text: &str, kept: &[u8], upper_case: bool) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => encoded.push(char::from(byte)),
            _ if upper_case => drop(write!(encoded, "%{byte:02X}")),
            _ => drop(write!(encoded, "%{byte:02x}")),
        }
        encoded
    })
}

/// The characters that these bytes alone determine when they begin `place` bytes after a multiple of three.
fn base64_within(bytes: &[u8], place: usize, alphabet: &[u8; 64]) -> String {
    let mut padded = vec![0; place];
    padded.extend_from_slice(bytes);
    let first = (place * 8).div_ceil(6);
    let end = padded.len() * 8 / 6;
    (first..end).map(|index| char::from(alphabet[sextet(&padded, index)])).collect()
}

/// The six bits from bit `6 * index` on.
fn sextet(bytes: &[u8], index: usize) -> usize {
    let bit = index * 6;
    let pair = [bytes[bit / 8], bytes.get(bit / 8 + 1).copied().unwrap_or(0)];
    usize::from(u16::from_be_bytes(pair) >> (10 - bit % 8)) & 0x3f
}

/// The whole encoded text around the match.
pub(super) fn base64_run(text: &str, found: Range<usize>) -> Range<usize> {
    let before = text.as_bytes()[..found.start].iter().rev().take_while(|byte| is_base64(byte)).count();
    found.start - before..base64_end(text, found.end)
}

/// The end of the encoded text that continues at `from`.
pub(super) fn base64_end(text: &str, from: usize) -> usize {
    from + text.as_bytes()[from..].iter().take_while(|byte| is_base64(byte)).count()
}

fn is_base64(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte)
}
