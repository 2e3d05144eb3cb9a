//! Reads JSON nested as deeply as a model may write it, however small the caller's stack.
//!
//! It knows no type of ours. The invariant: whatever was accepted can be stored, wrapped and read again. So input from
//! outside may be [`DEPTH_MAX`] levels deep, and what we have stored twice that, because records and runs wrap such
//! values; and nothing is read, dropped or refused by a recursion that could overflow the stack.

use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::error::Category;
use serde_json::{Deserializer, Error, Value};
use std::{io, mem, thread};

/// How deeply arrays and objects may be nested in what comes from outside: inputs, a model's answers and arguments, a
/// step's output, a session's state. `[]` is one level deep.
pub const DEPTH_MAX: usize = 512;

/// The same for what is stored.
const STORED_DEPTH_MAX: usize = 2 * DEPTH_MAX;

/// A depth that fits any stack: serde_json's own limit.
const EASY_DEPTH: usize = 127;

/// The size of [`with_room`]'s stack: several times what the deepest text takes in a debug build.
const ROOM_BYTES: usize = 16 << 20;

/// Parses a text from outside.
///
/// # Errors
/// The parser's error, or one of the same type that names the limit when the text is deeper than [`DEPTH_MAX`].
pub fn read<T: DeserializeOwned + Send>(text: &str) -> Result<T, Error> {
    read_to(text, DEPTH_MAX)
}

/// Parses a text that this program has written.
///
/// # Errors
/// As [`read`], with a deeper limit.
pub fn read_stored<T: DeserializeOwned + Send>(text: &str) -> Result<T, Error> {
    read_to(text, STORED_DEPTH_MAX)
}

fn read_to<T: DeserializeOwned + Send>(text: &str, depth_max: usize) -> Result<T, Error> {
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    match depth(text.as_bytes()) {
        0..=EASY_DEPTH => Err(error),
        depth if depth > depth_max => Err(Error::custom(TooDeep { limit: depth_max })),
        _ => with_room(|| {
            let mut reader = Deserializer::from_str(text);
            reader.disable_recursion_limit();
            let value = T::deserialize(&mut reader)?;
            reader.end().map(|()| value)
        })
        .unwrap_or_else(|error| Err(Error::io(error))),
    }
}

/// How deeply arrays and objects are nested in a text, whether or not it is valid JSON.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut at) = (0_usize, 0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = end_of_string(text, at),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// The index of the quote that closes the string starting at `start`; not before the text's end when there is none.
pub(crate) fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(next) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += next;
        if text[at] == b'"' {
            return at;
        }
        at += 2;
    }
    at.max(text.len())
}

/// The length of a value as JSON text, in bytes.
///
/// # Panics
/// When an object in it has keys that are not strings.
pub fn len(value: &impl Serialize) -> usize {
    struct Counted(usize);
    impl io::Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).expect("keys are strings, and counting succeeds");
    counted.0
}

/// JSON nested more deeply than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("JSON is nested more than {limit} levels deep: flatten it, or pass the deep part as text")]
pub struct TooDeep {
    /// The deepest it may be.
    pub limit: usize,
}

/// Checks a value that its caller keeps.
///
/// # Errors
/// [`TooDeep`] when it is deeper than [`DEPTH_MAX`].
pub fn check(value: &Value) -> Result<(), TooDeep> {
    if is_within(value, DEPTH_MAX) { Ok(()) } else { Err(TooDeep { limit: DEPTH_MAX }) }
}

/// Checks a value from outside. One that is too deep is taken apart and replaced by null, because dropping it would
/// take a stack frame for each level.
///
/// # Errors
/// [`TooDeep`] when it is deeper than [`DEPTH_MAX`].
pub fn admit(value: &mut Value) -> Result<(), TooDeep> {
    if is_within(value, DEPTH_MAX) {
        return Ok(());
    }
    let mut rest = vec![value.take()];
    while let Some(value) = rest.pop() {
        match value {
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.into_iter().map(|(_, value)| value)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Err(TooDeep { limit: DEPTH_MAX })
}

/// Whether a text or a key in it has a NUL, which not every client and store can keep.
pub fn has_nul(value: &Value) -> bool {
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value {
            Value::String(text) if text.contains('\0') => return true,
            Value::Object(fields) if fields.keys().any(|key| key.contains('\0')) => return true,
            Value::Array(items) => rest.extend(items),
            Value::Object(fields) => rest.extend(fields.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    false
}

/// Whether a recursion over `value` fits any stack.
pub(crate) fn is_easy(value: &Value) -> bool {
    is_within(value, EASY_DEPTH)
}

fn is_within(value: &Value, depth_max: usize) -> bool {
    let mut level = vec![value];
    let mut depth = 0;
    while !level.is_empty() {
        let mut inner = Vec::new();
        let mut has_containers = false;
        for value in mem::take(&mut level) {
            match value {
                Value::Array(items) => inner.extend(items),
                Value::Object(fields) => inner.extend(fields.values()),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
            }
            has_containers = true;
        }
        depth += usize::from(has_containers);
        if depth > depth_max {
            return false;
        }
        level = inner;
    }
    true
}

/// Runs `work` on `value` where a recursion over it fits: right here when the value is shallow.
///
/// # Errors
/// When the system cannot start a thread.
pub fn with_room_for<T: Send>(value: &Value, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if is_easy(value) { Ok(work()) } else { with_room(work) }
}

/// Runs `work` on a stack large enough to recurse over the deepest JSON allowed, even in a debug build. The caller's
/// may be 2 MiB, partly used.
///
/// # Errors
/// When the system cannot start a thread.
pub fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(ROOM_BYTES).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// What is wrong with a stored text, without quoting any of it: it may hold private data.
pub(crate) fn problem(text: &str, error: &Error) -> String {
    let place = || format!("line {} column {}", error.line(), error.column());
    match error.classify() {
        _ if depth(text.as_bytes()) > STORED_DEPTH_MAX => TooDeep { limit: STORED_DEPTH_MAX }.to_string(),
        Category::Data if error.line() > 0 => format!("it is JSON of an unexpected shape, at {}", place()),
        Category::Data => "it is JSON of an unexpected shape".to_owned(),
        Category::Eof => "it is cut short".to_owned(),
        Category::Syntax => format!("it is not JSON, at {}", place()),
        Category::Io => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Objects and arrays in turn.
    fn nested(depth: usize) -> String {
        let open: String = (0..depth).map(|level| if level % 2 == 0 { "[" } else { r#"{"a":"# }).collect();
        let close: String = (0..depth).rev().map(|level| if level % 2 == 0 { "]" } else { "}" }).collect();
        format!("{open}{}{close}", if depth.is_multiple_of(2) { "1" } else { "" })
    }

    /// On the stack of a runtime's worker.
    fn on_a_small_stack(work: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let thread = thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, work);
            thread.expect("a thread").join().expect("no panic");
        });
    }

    #[test]
    fn what_is_not_too_deep_is_read_and_written_again_on_a_small_stack() {
        for levels in [0, 1, 100, 126, 127, 128, 200, 511, 512] {
            on_a_small_stack(|| {
                let text = nested(levels);
                assert_eq!(depth(text.as_bytes()), levels);
                let mut value: Value = read(&text).unwrap();
                admit(&mut value).unwrap();
                assert_eq!(value.clone(), value);
                assert_eq!(value.to_string(), text);
                let wrapped = Value::from_iter([("a", value)]);
                assert_eq!(read_stored::<Value>(&wrapped.to_string()).unwrap(), wrapped);
            });
        }
    }

    #[test]
    fn what_is_too_deep_is_refused_with_the_limit_and_overflows_no_stack() {
        for levels in [513, 600, 1024, 100_000] {
            on_a_small_stack(|| {
                let error = read::<Value>(&nested(levels)).unwrap_err().to_string();
                assert!(error.contains("more than 512 levels"), "{error}");
                let mut value = (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
                assert_eq!(admit(&mut value), Err(TooDeep { limit: 512 }));
                assert_eq!(value, Value::Null);
            });
        }
        assert!(read_stored::<Value>(&nested(1024)).is_ok());
        assert!(read_stored::<Value>(&nested(1025)).is_err());
    }

    #[test]
    fn brackets_in_strings_and_broken_texts_do_not_count() {
        assert_eq!(depth(br#"["[[[", "\"[[", {"[": 1}]"#), 2);
        assert_eq!(depth(b"]]]["), 1);
        assert_eq!(depth(b"[\"\\"), 1);
        let deep = format!("{} x", nested(200));
        assert_eq!(read::<Value>(&deep).unwrap_err().classify(), Category::Syntax);
    }

    #[test]
    fn a_problem_repeats_nothing_of_the_text() {
        for (text, wanted) in [
            ("", "it is cut short"),
            (r#""hunter2"#, "it is cut short"),
            ("hunter2", "it is not JSON, at line 1 column 1"),
            (r#""hunter2""#, "it is JSON of an unexpected shape, at line 1 column 9"),
            (&nested(2000), "JSON is nested more than 1024 levels deep: flatten it, or pass the deep part as text"),
        ] {
            let error = read_stored::<u32>(text).unwrap_err();
            assert_eq!(problem(text, &error), wanted, "{text}");
        }
    }
}
