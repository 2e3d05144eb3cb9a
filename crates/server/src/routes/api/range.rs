//! A payload as the answer to a conditional or partial request: strong ETag, `If-None-Match`, one `Range`.

use crate::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::ops::Range;

/// Bytes with their type.
pub(super) struct Payload {
    bytes: Bytes,
    content_type: &'static str,
    /// Set for what a model or a tool may have written freely: browsers keep it as this file, and show it as nothing.
    file_name: Option<&'static str>,
}

impl Payload {
    pub(super) fn json(output: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(output).expect("an output has string keys only and memory takes every write");
        Self { bytes: bytes.into(), content_type: "application/json", file_name: None }
    }

    pub(super) fn file(text: String, content_type: &'static str, name: &'static str) -> Self {
        Self { bytes: text.into(), content_type, file_name: Some(name) }
    }

    /// Of the bytes as they are sent.
    fn etag(&self) -> String {
        let digest = Sha256::digest(&self.bytes);
        let mut tag = String::from("\"");
        for byte in &digest[..16] {
            write!(tag, "{byte:02x}").expect("a text takes every write");
        }
        tag.push('"');
        tag
    }
}

/// Which part of the payload is requested.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Bytes(Range<usize>),
    Nothing,
}

/// The payload, the requested part of it, or the answer that it has not changed.
///
/// # Errors
/// 416 when the range lies beyond its end.
pub(super) fn answer(payload: Payload, asked: &HeaderMap) -> Result<Response, Problem> {
    let etag = payload.etag();
    let length = payload.bytes.len();
    let mut response = if names(asked, header::IF_NONE_MATCH, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match part(asked, &etag, length) {
            Part::Whole => Body::from(payload.bytes).into_response(),
            Part::Bytes(range) => {
                let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                let body = Body::from(payload.bytes.slice(range));
                (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, place)], body).into_response()
            }
            Part::Nothing => {
                let detail = format!("The output has {length} bytes");
                let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", detail);
                return Err(problem.header(header::CONTENT_RANGE, value(&format!("bytes */{length}"))));
            }
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, value(&etag));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(payload.content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(name) = payload.file_name {
        headers.insert(header::CONTENT_DISPOSITION, value(&format!("attachment; filename=\"{name}\"")));
    }
    Ok(response)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("the text consists of visible ASCII characters")
}

/// Whether a list of tags has this one. For a client that wants to keep what it has, weak or strong is the same.
fn names(asked: &HeaderMap, name: HeaderName, etag: &str) -> bool {
    let lists = asked.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

fn part(asked: &HeaderMap, etag: &str, length: usize) -> Part {
    let is_other = asked.get(header::IF_RANGE).is_some_and(|tag| tag != etag);
    let mut ranges = asked.get_all(header::RANGE).iter();
    match (ranges.next().map(HeaderValue::to_str), ranges.next()) {
        (Some(Ok(range)), None) if !is_other => parse(range, length),
        _ => Part::Whole,
    }
}

/// One range. Several, and what is none, are answered with the whole, as a server may.
fn parse(text: &str, length: usize) -> Part {
    let ends = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'));
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().unwrap_or(usize::MAX));
    let range = match ends {
        Some(("", last)) if !last.is_empty() => number(last).map(|last| length.saturating_sub(last)..length),
        Some((first, "")) if !first.is_empty() => number(first).map(|first| first..length),
        Some((first, last)) if !first.is_empty() => {
            let ends = number(first).zip(number(last)).filter(|(first, last)| first <= last);
            ends.map(|(first, last)| first..last.saturating_add(1).min(length))
        }
        _ => None,
    };
    match range {
        None => Part::Whole,
        Some(range) if range.start < range.end => Part::Bytes(range),
        Some(_) => Part::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_what_is_none_is_the_whole() {
        for (text, part) in [
            ("bytes=0-3", Part::Bytes(0..4)),
            ("bytes=4-", Part::Bytes(4..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=8-99999999999999999999999", Part::Bytes(8..10)),
            ("bytes=10-", Part::Nothing),
            ("bytes=-0", Part::Nothing),
            ("bytes=3-1", Part::Whole),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=0-1", Part::Whole),
        ] {
            assert_eq!(parse(text, 10), part, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Part::Nothing);
    }
}
