//! Which targets are passed on. Several parties compare a path, each decoding it in its own way; what could look
//! different to two of them is refused here. The invariant: a path that passes is unambiguous.

use crate::problem::Problem;
use crate::urlencoded;
use axum::http::StatusCode;

/// 400 for an ambiguous path, or for a query that is not text.
pub(super) fn admit(path: &str, query: &str) -> Result<(), Problem> {
    if is_plain(path) && urlencoded::pairs(query.as_bytes()).is_ok() {
        return Ok(());
    }
    Err(Problem::new(StatusCode::BAD_REQUEST, "path_invalid", "Invalid path"))
}

fn is_plain(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let mut segments = path.split('/').peekable();
    // Only the last may be empty: "/", or a slash at the end.
    std::iter::from_fn(|| segments.next().map(|segment| (segment, segments.peek().is_none())))
        .all(|(segment, is_last)| (is_last || !segment.is_empty()) && is_plain_segment(segment))
}

fn is_plain_segment(segment: &str) -> bool {
    if !segment.is_ascii() {
        return false;
    }
    let Some(text) = decoded(segment).and_then(|bytes| String::from_utf8(bytes).ok()) else { return false };
    // A parameter after a semicolon is dropped by some servers, which would make two paths one.
    !matches!(text.as_str(), "." | "..") && !text.contains(|one: char| one.is_control() || "/\\;".contains(one))
}

/// The decoded bytes, or `None` for an invalid escape.
fn decoded(segment: &str) -> Option<Vec<u8>> {
    let mut rest = segment.as_bytes();
    let mut bytes = Vec::with_capacity(segment.len());
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = if *byte == b'%' { (urlencoded::escaped(after)?, &after[2..]) } else { (*byte, after) };
        bytes.push(byte);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in
            ["/", "/workflows", "/workflows/x/", "/sessions/a%20b", "/s/%C3%A9", "/s/a.b:c_d-e", "/s/...", "/s/%2541"]
        {
            assert!(is_plain(path), "{path}");
        }
    }

    #[test]
    fn paths_with_two_readings_do_not() {
        for path in [
            "",
            "*",
            "x",
            "//",
            "//x",
            "/x//y",
            "/x//",
            "/.",
            "/..",
            "/x/../y",
            "/x/%2e%2e/y",
            "/x/%2E.",
            "/x/..%2f..%2fy",
            "/x%2fy",
            "/x%5cy",
            "/x\\y",
            "/x%00",
            "/x%0a",
            "/x%7f",
            "/x;y",
            "/x%3by",
            "/x%ff",
            "/x%c3",
            "/x%",
            "/x%4",
            "/x%zz",
            "/x/é",
        ] {
            assert!(!is_plain(path), "{path}");
        }
        assert!(admit("/x", "name=%00").is_err() && admit("/x", "name=%ff").is_err());
        assert!(admit("/x", "name=%C3%A9&rest=100%").is_ok());
    }
}
