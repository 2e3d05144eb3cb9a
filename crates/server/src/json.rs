//! Reads JSON bodies strictly, and says what is wrong with one without repeating it.
//!
//! It knows no route. The invariant: accepted text means the same to every reader, and every store can keep it: no
//! duplicate keys, no NUL, no lone surrogates, no number that would be rounded.

use crate::problem::{Detail, FieldProblem, Problem};
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use outlive_core::json;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_path_to_error::{Path, Segment};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

/// How deep arrays and objects may be nested: as deep as a value may be, plus a few levels of the body itself.
pub const DEPTH_MAX: usize = json::DEPTH_MAX + 8;

/// Levels that are read on the caller's stack.
const EASY_DEPTH: usize = 64;

/// A body of JSON, an object, as a `T`. Refused are: another content type (415), nothing (422), text that is not JSON, is
/// too deep or ambiguous (400, with line and column), and JSON that is no object or no `T` (422, with the field).
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(
    /// The value.
    pub T,
);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse_object(&read(request, state).await?).map(Self)
    }
}

/// A body that may be missing.
impl<T: DeserializeOwned + Send, S: Send + Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let body = read(request, state).await?;
        if body.is_empty() { Ok(None) } else { parse_object(&body).map(Self).map(Some) }
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    let is_json = has_json_type(request.headers());
    let body = Bytes::from_request(request, state)
        .await
        .map_err(|rejection| Problem::new(rejection.status(), "body_unreadable", "Request body could not be read"))?;
    // A body that is missing needs no type; that it is missing is the more useful answer.
    if !is_json && !body.is_empty() {
        let detail = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", detail));
    }
    Ok(body)
}

fn parse_object<T: DeserializeOwned + Send>(text: &[u8]) -> Result<T, Problem> {
    parse::<InObject<T>>(text).map(|InObject(value)| value)
}

/// What is written as an object: serde would take an array's elements for a type's fields, in their order.
struct InObject<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InObject<T> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        object(reader).map(Self)
    }
}

/// Reads a field whose type is written as an object, and as nothing else.
///
/// # Errors
/// The reader's.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    reader.deserialize_map(OnlyObject(PhantomData))
}

/// [`object`] where the field may be missing or null.
///
/// # Errors
/// The reader's.
pub fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Option<T>, D::Error> {
    let given = Option::<InObject<T>>::deserialize(reader)?;
    Ok(given.map(|InObject(value)| value))
}

struct OnlyObject<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OnlyObject<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields))
    }
}

/// Reads one JSON text strictly. `["body", …]` is where problems with fields are said to be.
///
/// # Errors
/// The [`Problem`]s of [`Json`], except the one with the content type.
pub fn parse<T: DeserializeOwned + Send>(text: &[u8]) -> Result<T, Problem> {
    if text.is_empty() {
        let missing = FieldProblem { kind: "missing", loc: vec!["body".to_owned()], msg: "Field required".to_owned() };
        return Err(Problem { code: "body_missing", ..Problem::fields(vec![missing]) });
    }
    if json::depth(text) <= EASY_DEPTH {
        return parse_here(text);
    }
    json::with_room(|| parse_here(text)).unwrap_or_else(|error| {
        tracing::error!(%error, "no thread for a deep body");
        Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "The server is out of resources to read this: try again",
        ))
    })
}

fn parse_here<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    check(text)?;
    let mut reader = deserializer(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| misfit(error.path(), error.inner()))
}

/// The limit on depth is [`Strict`]'s.
fn deserializer(text: &[u8]) -> serde_json::Deserializer<serde_json::de::SliceRead<'_>> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    reader.disable_recursion_limit();
    reader
}

fn has_json_type(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let Some(Ok(kind)) = kind else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.strip_prefix("application/").is_some_and(|rest| rest.ends_with("+json"))
}

/// Reasons to refuse text beyond JSON's grammar.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    Deep,
    DuplicateKey,
    Nul,
}

impl Flaw {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Deep => ("json_too_deep", "JSON is nested more than 512 levels deep"),
            Self::DuplicateKey => ("duplicate_key", "JSON object has a duplicate key"),
            Self::Nul => ("json_invalid", "JSON string has a NUL"),
        }
    }
}

/// Refuses what is not JSON, and what is but has flaws.
fn check(text: &[u8]) -> Result<(), Problem> {
    let flaw = Cell::new(None);
    let mut reader = deserializer(text);
    let checked = Strict { flaw: &flaw, depth: 0 }.deserialize(&mut reader).and_then(|()| reader.end());
    if let Err(error) = checked {
        let (code, words) = match flaw.get() {
            Some(flaw) => flaw.words(),
            None => ("json_invalid", "JSON is not valid"),
        };
        return Err(invalid(code, words, error.line(), error.column()));
    }
    match rounded_number(text) {
        Some(at) => {
            let (line, column) = place(text, at);
            Err(invalid("json_invalid", "JSON number is out of range", line, column))
        }
        None => Ok(()),
    }
}

fn invalid(code: &'static str, words: &str, line: usize, column: usize) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, format!("{words}: line {line} column {column}"))
}

/// Walks through a value without keeping any of it.
#[derive(Clone, Copy)]
struct Strict<'a> {
    flaw: &'a Cell<Option<Flaw>>,
    depth: usize,
}

impl Strict<'_> {
    fn fail<E: serde::de::Error>(self, flaw: Flaw) -> E {
        self.flaw.set(Some(flaw));
        E::custom(flaw.words().1)
    }

    /// One level further in.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX { Err(self.fail(Flaw::Deep)) } else { Ok(Self { depth: self.depth + 1, ..self }) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') { Err(self.fail(Flaw::Nul)) } else { Ok(()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        while array.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let inner = self.inner()?;
        let mut keys = HashSet::new();
        while let Some(key) = object.next_key::<String>()? {
            self.visit_str::<A::Error>(&key)?;
            if !keys.insert(key) {
                return Err(self.fail(Flaw::DuplicateKey));
            }
            object.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Where a whole number stands that 64 bits do not hold: the parser would keep a rounded one. `text` is valid JSON.
fn rounded_number(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => at = end_of_string(text, at),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let end = text[at..].iter().position(|byte| !is_part(byte)).map_or(text.len(), |length| at + length);
                if is_rounded(&text[at..end]) {
                    return Some(at);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

/// The index after the string that begins at `start`.
fn end_of_string(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn is_rounded(number: &[u8]) -> bool {
    let Ok(number) = std::str::from_utf8(number) else { return true };
    let is_whole = !number.contains(['.', 'e', 'E']);
    is_whole && number.parse::<u64>().is_err() && number.parse::<i64>().is_err()
}

/// Line and column of a byte, from 1.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    (before.iter().filter(|byte| **byte == b'\n').count() + 1, at - line_start + 1)
}

/// JSON that does not fit the expected type. Its content is not repeated.
fn misfit(path: &Path, error: &serde_json::Error) -> Problem {
    if error.classify() != Category::Data {
        return invalid("json_invalid", "JSON is not valid", error.line(), error.column());
    }
    let message = error.to_string();
    let mut loc = vec!["body".to_owned()];
    loc.extend(path.iter().filter_map(step));
    let (kind, msg) = match quoted(&message, "missing field `") {
        Some(field) => {
            loc.push(field.to_owned());
            ("missing", "Field required".to_owned())
        }
        None if message.starts_with("unknown field `") => {
            ("extra_forbidden", "Extra inputs are not permitted".to_owned())
        }
        None => ("value_error", wanted(&message)),
    };
    Problem { detail: Detail::Fields(vec![FieldProblem { kind, loc, msg }]), ..Problem::fields(Vec::new()) }
}

fn step(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn quoted<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.split('`').next()
}

/// What a type expected. The last such words of a message are the type's own, whatever the input said before.
fn wanted(message: &str) -> String {
    let is_ours = ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant "]
        .iter()
        .any(|start| message.starts_with(start));
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    match expected.map(|expected| expected.rsplit_once(" at line ").map_or(expected, |(words, _)| words)) {
        Some(expected) if is_ours => format!("Input should be {}", in_words(expected)),
        _ => "Input is not valid".to_owned(),
    }
}

/// Without the names of our types.
fn in_words(expected: &str) -> &str {
    let is_integer = expected.starts_with(['u', 'i']) && expected[1..].parse::<u8>().is_ok();
    match expected.split(' ').next() {
        Some("struct" | "map") => "an object",
        Some("tuple") => "an array",
        Some("enum") => "one of the allowed values",
        _ if is_integer => "a valid integer",
        _ if expected.starts_with("a map") => "an object",
        _ if expected.starts_with("a sequence") => "an array",
        _ => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    fn refusal(text: &str) -> (u16, &'static str, String) {
        let problem = parse::<Value>(text.as_bytes()).expect_err(text);
        let Detail::Text(detail) = problem.detail else { panic!("{text}: {:?}", problem.detail) };
        (problem.status.as_u16(), problem.code, detail)
    }

    #[test]
    fn json_is_read() {
        let text = r#"{"a":[1,-0.5,18446744073709551615,-9223372036854775808,1e300,true,null,"é\u00e9\ud83d\ude00"],"b":{"a":1}}"#;
        let value: Value = parse(text.as_bytes()).expect("valid JSON");
        assert_eq!(value["a"][2], json!(u64::MAX));
        assert_eq!(value["a"][7], json!("éé😀"));
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place() {
        for text in [
            "{",
            "{\"a\":1,}",
            "[1,]",
            "NaN",
            "\u{feff}{}",
            "{} {}",
            "1 2",
            "'a'",
            "{a:1}",
            "[1e400]",
            "\"\\ud800\"",
            "\"\u{1}\"",
        ] {
            assert_eq!(refusal(text).1, "json_invalid", "{text:?}");
        }
        assert_eq!(refusal("{\n \"a\": x}"), (400, "json_invalid", "JSON is not valid: line 2 column 7".to_owned()));
        assert_eq!(parse::<Value>(b"\"\xff\"").expect_err("not UTF-8").code, "json_invalid");
    }

    #[test]
    fn numbers_are_kept_or_refused() {
        for text in ["18446744073709551616", "-9223372036854775809", "[1, 12345678901234567890123]"] {
            assert!(refusal(text).2.starts_with("JSON number is out of range"), "{text}");
        }
        assert_eq!(
            refusal("{\"a\":\"\\\"1\",\n \"b\":99999999999999999999}").2,
            "JSON number is out of range: line 2 column 6"
        );
        assert_eq!(parse::<Value>(b"\"99999999999999999999\"").expect("a string"), "99999999999999999999");
    }

    #[test]
    fn depth_ends_at_the_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(refusal(&nested(DEPTH_MAX + 1)).1, "json_too_deep");
        assert_eq!(refusal(&"[".repeat(10_000)).1, "json_too_deep");
        assert_eq!(refusal(&"{\"a\":".repeat(10_000)).1, "json_too_deep");
    }

    #[test]
    fn a_key_comes_once_in_each_object() {
        assert_eq!(refusal("{\"a\":1,\"a\":2}").1, "duplicate_key");
        assert_eq!(refusal("[{\"b\":{\"a\":1,\"\\u0061\":2}}]").1, "duplicate_key");
        assert!(parse::<Value>(b"[{\"a\":1},{\"a\":1}]").is_ok());
    }

    #[test]
    fn nul_is_refused_in_values_and_keys() {
        assert_eq!(refusal("\"a\\u0000\"").1, "json_invalid");
        assert_eq!(refusal("{\"\\u0000\":1}").1, "json_invalid");
    }

    #[test]
    fn a_misfit_names_the_field_and_never_the_value() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Form {
            #[expect(dead_code, reason = "only read by the parser")]
            items: Vec<Item>,
        }
        #[derive(Debug, Deserialize)]
        struct Item {
            #[expect(dead_code, reason = "only read by the parser")]
            count: u32,
        }
        for (text, kind, loc, msg) in [
            (r#"{}"#, "missing", "body.items", "Field required"),
            (r#"{"items":[{"count":1},{}]}"#, "missing", "body.items.1.count", "Field required"),
            (
                r#"{"items":[{"count":"hunter2, expected hunter2"}]}"#,
                "value_error",
                "body.items.0.count",
                "Input should be a valid integer",
            ),
            (r#"{"items":[],"hunter2":1}"#, "extra_forbidden", "body.hunter2", "Extra inputs are not permitted"),
            (r#""hunter2""#, "value_error", "body", "Input should be an object"),
        ] {
            let problem = parse::<Form>(text.as_bytes()).expect_err(text);
            assert_eq!(problem.status.as_u16(), 422);
            let Detail::Fields(fields) = &problem.detail else { panic!("{text}") };
            assert_eq!(
                (fields[0].kind, fields[0].loc.join(".").as_str(), fields[0].msg.as_str()),
                (kind, loc, msg),
                "{text}"
            );
        }
    }
}
