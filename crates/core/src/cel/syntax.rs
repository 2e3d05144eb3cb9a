//! The parser's and the evaluator's messages in our words.
//!
//! It knows texts, never a tree. The invariant: nothing that only the library's authors understand reaches a user, and
//! no message grows with the expression.

use super::{Cel, Mistake};
use ::cel::ParseErrors;

/// The longest piece of an expression that a message about a place shows, in characters.
const PIECE: usize = 40;

/// The beginning of a text, and an ellipsis if that is not all.
pub(super) fn excerpt(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The parser's errors. What follows from characters it could not read is left out.
pub(super) fn mistakes(text: &str, errors: &ParseErrors) -> Vec<Mistake> {
    let is_unreadable = |message: &str| message.contains("token recognition error");
    let unreadable = errors.errors.iter().any(|error| is_unreadable(&error.msg));
    let mut mistakes: Vec<Mistake> = Vec::new();
    for error in &errors.errors {
        if unreadable && !is_unreadable(&error.msg) {
            continue;
        }
        let Some(message) = message(&error.msg) else { continue };
        let (line, column) = place(text, error.pos, &error.msg);
        if mistakes.last().is_none_or(|last| (last.line, last.column) != (line, column)) {
            mistakes.push(Mistake { line, column, message });
        }
    }
    if mistakes.is_empty() {
        mistakes.push(Mistake { line: 1, column: 1, message: "this is no CEL expression".to_owned() });
    }
    mistakes
}

/// Where an error is. The parser counts characters, and its macros bytes.
fn place(text: &str, (line, column): (isize, isize), message: &str) -> (usize, usize) {
    let (line, column) = (line.max(1).unsigned_abs(), column.max(1).unsigned_abs());
    if !message.contains("has() macro") && !message.contains("simple name") {
        return (line, column);
    }
    let before = text.split('\n').nth(line - 1).and_then(|text| text.get(..column - 1));
    (line, before.map_or(column, |before| before.chars().count() + 1))
}

/// A parser's message in our words, or nothing if it only repeats another.
fn message(theirs: &str) -> Option<String> {
    let text = theirs.strip_prefix("Syntax error: ").unwrap_or(theirs);
    let quoted = |of: &str| of.rsplit_once('\'').map_or(of, |(quoted, _)| quoted).trim_end().to_owned();
    if let Some(token) = text.strip_prefix("token recognition error at: '") {
        return Some(unreadable(&quoted(token)));
    }
    for begin in ["mismatched input '", "extraneous input '", "no viable alternative at input '"] {
        if let Some(rest) = text.strip_prefix(begin) {
            let token = rest.split_once("' expecting").map_or_else(|| quoted(rest), |(token, _)| token.to_owned());
            return Some(match token.as_str() {
                "<EOF>" => "the expression ends too early".to_owned(),
                token => format!("`{}` is not expected here", excerpt(token, PIECE)),
            });
        }
    }
    if let Some(missing) = text.strip_prefix("missing ").and_then(|rest| rest.split_once(" at ")) {
        return Some(format!("{} is missing", missing.0.replace('\'', "`")));
    }
    Some(match text {
        _ if text.contains("Recursion limit") => format!("nested more than {} levels deep", Cel::NESTING_MAX),
        _ if text.contains("Incomplete") => return None,
        _ if text.starts_with("invalid int") || text.starts_with("invalid uint") => {
            "this whole number does not fit in 64 bits".to_owned()
        }
        _ if text.starts_with("invalid double") => "this number is too large".to_owned(),
        _ if text.starts_with("invalid string") || text.starts_with("invalid bytes") => {
            "an escape in this text stands for no character".to_owned()
        }
        _ if text.starts_with("invalid argument to has()") => {
            "`has()` needs a field, as in `has(session_state.user)`".to_owned()
        }
        _ if text.contains("simple name") => "this must be a name for the item, as in `list.all(item, …)`".to_owned(),
        _ if text.starts_with("reserved identifier: ") => {
            format!("`{}` is reserved", excerpt(&text["reserved identifier: ".len()..], PIECE))
        }
        _ if text.contains("unsupported syntax") => "CEL's optional values cannot be used: use `has()`".to_owned(),
        _ => "this is no CEL expression".to_owned(),
    })
}

/// What is wrong with characters that begin nothing.
fn unreadable(token: &str) -> String {
    match token.chars().next() {
        Some('=') => "`=` compares nothing: write `==`".to_owned(),
        Some('&') => "`&` is not an operator: write `&&`".to_owned(),
        Some('|') => "`|` is not an operator: write `||`".to_owned(),
        Some('\'' | '"') if token.contains('\\') => "this text has an unknown escape, or no closing quote".to_owned(),
        Some('\'' | '"') => "this text has no closing quote".to_owned(),
        _ => format!("`{}` has no meaning in CEL", excerpt(token, PIECE)),
    }
}

/// That a function or an operator cannot take values of these kinds.
pub(super) fn not_for(function: &str, kinds: &[String]) -> String {
    let of = kinds.first().map_or("value", String::as_str);
    let kinds = kinds.join(" and ");
    match function.trim_start_matches('@') {
        "_[_]" => format!("`[]` cannot take {kinds}"),
        "." | "_._" => format!("{} has no fields", a(of)),
        name if name.contains('_') && !name.starts_with(char::is_alphabetic) => {
            format!("`{}` cannot take {kinds}", name.replace('_', ""))
        }
        name => format!("`{name}` cannot take {kinds}"),
    }
}

/// The name of a kind with its article.
pub(super) fn a(kind: &str) -> String {
    match kind {
        "null" | "bytes" => kind.to_owned(),
        "int" => "an int".to_owned(),
        _ => format!("a {kind}"),
    }
}
