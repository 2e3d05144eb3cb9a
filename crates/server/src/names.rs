//! What a client may call things: ids of runs and sessions, names of sessions, users, idempotency keys.
//!
//! It knows nothing of what the names refer to. The invariant: an id or a key that passes can appear unchanged in a
//! path, a header and a log line; a credential's user obeys the same rule as a request's.

use crate::problem::{FieldProblem, Problem};
use outlive_core::ID_LEN_MAX;
use outlive_core::port::SessionPolicy;

/// Longest id of a user, in bytes.
const USER_BYTES_MAX: usize = 256;
/// Prefixes of user ids that are reserved for the server and its service accounts.
const RESERVED_USERS: [&str; 2] = ["sa:", "__"];
/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Longest name of a session, in bytes.
const SESSION_NAME_BYTES_MAX: usize = 1024;

/// 422 that names every field with an invalid id.
pub(crate) fn ids(fields: &[(&'static str, Option<&str>)]) -> Result<(), Problem> {
    let wrong = fields.iter().filter(|(_, id)| id.is_some_and(|id| !is_id(id))).map(|(name, _)| FieldProblem {
        kind: "string_pattern_mismatch",
        loc: vec!["body".to_owned(), (*name).to_owned()],
        msg: format!("Input should be 1 to {ID_LEN_MAX} letters, digits or . _ : -, and not dots alone"),
    });
    let wrong: Vec<FieldProblem> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(Problem { code: "invalid_id", ..Problem::fields(wrong) }) }
}

fn is_id(id: &str) -> bool {
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(is_sign) && !id.bytes().all(|byte| byte == b'.')
}

/// 422 for an invalid user id.
pub(crate) fn user(id: &str) -> Result<&str, Problem> {
    let bad = || {
        let msg = format!("Input should be a user's id: at most {USER_BYTES_MAX} bytes, no control characters");
        Problem::field("value_error", "body", "user_id", msg)
    };
    if is_user(id) { Ok(id) } else { Err(bad()) }
}

/// Whether this may be a user's id: 1 to 256 bytes without control characters or white space around them, and not a
/// reserved name.
pub fn is_user(id: &str) -> bool {
    let is_plain = id.len() <= USER_BYTES_MAX && !id.chars().any(char::is_control);
    let is_reserved = RESERVED_USERS.iter().any(|begin| id.starts_with(begin));
    !id.is_empty() && id.trim() == id && is_plain && !is_reserved
}

/// 422 for an invalid idempotency key, saying where it came from.
pub(crate) fn idempotency_key(key: &str, place: &str, field: &str) -> Result<String, Problem> {
    let is_key = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let bad = || {
        let msg = format!("Input should be 1 to {KEY_BYTES_MAX} printable ASCII characters, given once");
        Problem::field("string_type", place, field, msg)
    };
    if is_key { Ok(key.to_owned()) } else { Err(bad()) }
}

/// 422 for a policy that there is not.
pub(crate) fn session_policy(word: Option<&str>) -> Result<Option<SessionPolicy>, Problem> {
    let bad = || {
        let words: Vec<String> = SessionPolicy::ALL.iter().map(|policy| format!("'{}'", policy.as_str())).collect();
        Problem::field("enum", "body", "session_policy", format!("Input should be one of {}", words.join(", ")))
    };
    word.map(|word| SessionPolicy::parse(word).ok_or_else(bad)).transpose()
}

/// 422 for a name too long to be shown in a list.
pub(crate) fn session_name(name: &str) -> Result<&str, Problem> {
    if name.len() <= SESSION_NAME_BYTES_MAX {
        return Ok(name);
    }
    let msg = format!("Input should have at most {SESSION_NAME_BYTES_MAX} bytes");
    Err(Problem::field("string_too_long", "body", "session_name", msg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stands_in_a_path_as_it_is() {
        for id in ["a", "A-1", "session:7", "a.b_c", &"x".repeat(128)] {
            assert!(ids(&[("run_id", Some(id))]).is_ok(), "{id}");
        }
        for id in
            ["", "a b", "a/b", ".", "..", "...", "..%2f", "\"", "é", "😀", "a\0", "a\n", "\u{202e}a", &"x".repeat(129)]
        {
            assert!(ids(&[("run_id", Some(id))]).is_err(), "{id:?}");
        }
        assert!(ids(&[("run_id", None)]).is_ok());
    }

    #[test]
    fn a_user_is_a_short_line_of_text_and_none_of_the_servers_own() {
        for id in ["ada", "auth0|42", "ada@example.org", "José Núñez"] {
            assert!(is_user(id), "{id}");
        }
        for id in ["", " ada", "ada\n", "a\0", "__scheduler__", "sa:x", &"x".repeat(257)] {
            assert!(!is_user(id), "{id:?}");
        }
    }
}
