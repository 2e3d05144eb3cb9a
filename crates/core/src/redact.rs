//! Redaction: what must not be written down, and its removal from texts, JSON and entries before they are stored.
//!
//! Two things are removed: *values*, the secrets this process knows, in every encoding they may take on the way; and
//! *shapes*, texts that look like a credential, whoever they belong to. This module never knows where a secret came
//! from or where a text goes.
//!
//! ```text
//! entries ──log::Writer──► lines ──is_clean──yes──► stored as they are        (nearly always)
//!                                      └──no──► JSON ─ redacted ─ encoded again ──► stored
//! ```
//! Streamed text goes through a [`Passage`] first, because neither half of a secret cut in two looks like one.
//!
//! Invariant: no known value of at least [`SECRET_LEN_MIN`] bytes survives in a string or an object key of what leaves
//! here, neither as it is nor in base64, percent-encoded or escaped for JSON (up to three times). Numbers are left alone.

mod encodings;
mod passage;
mod shapes;
#[cfg(test)]
mod tests;
mod values;

use crate::json;
use crate::log::{Entry, Record};
use crate::secret::Secret;
use encodings::{Encoding, encodings};
pub use passage::Passage;
use serde_json::{Map, Value};
use shapes::Shapes;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use values::Values;

/// What replaces a secret.
pub const REDACTED: &str = "[redacted]";

/// The shortest value that is searched for, in bytes. A shorter one occurs inside ordinary words, which would be lost.
pub const SECRET_LEN_MIN: usize = 8;

/// Finds and removes secrets. Built once for a process and shared; looking through a text that holds none costs two
/// passes over it and no allocation.
///
/// ```
/// use outlive_core::{Redactor, Secret};
///
/// let redactor = Redactor::new([Secret::from("correct-horse")]);
/// assert_eq!(redactor.text("the word is correct-horse"), "the word is [redacted]");
/// assert_eq!(redactor.text("Y29ycmVjdC1ob3JzZQ=="), "[redacted]");
/// assert_eq!(redactor.text("authorization by Bearer abcdefghijklmnop"), "authorization by Bearer [redacted]");
/// ```
pub struct Redactor {
    values: Option<Values>,
    shapes: Shapes,
}

impl Default for Redactor {
    /// Knows no value, only shapes.
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns = self.values.as_ref().map_or(0, |values| values.encodings.len());
        f.debug_struct("Redactor").field("patterns", &patterns).finish_non_exhaustive()
    }
}

impl Redactor {
    /// Looks for these values, and for everything that has the shape of a credential. A value shorter than
    /// [`SECRET_LEN_MIN`] bytes is ignored.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| secret.expose().len() >= SECRET_LEN_MIN);
        let values = Values::new(secrets.flat_map(|secret| encodings(secret.expose())).collect());
        Self { values, shapes: Shapes::new() }
    }

    /// Whether a text, plain or JSON, has nothing to redact. A text that is not clean need not hold a secret: only
    /// redaction itself looks closely.
    pub fn is_clean(&self, text: &str) -> bool {
        let holds_value = self.values.as_ref().is_some_and(|values| values.automaton.is_match(text));
        !holds_value && self.shapes.find(text, 0).is_none()
    }

    /// The text without secrets.
    pub fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let without_values = self.without_values(text);
        match self.shapes.remove(&without_values) {
            Some(clean) => Cow::Owned(clean),
            None => without_values,
        }
    }

    /// JSON text without secrets. What is not JSON is treated as plain text.
    pub fn json<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.is_clean(text) {
            return Cow::Borrowed(text);
        }
        let Ok(mut value) = json::read_stored(text) else {
            return self.text(text);
        };
        self.value(&mut value);
        Cow::Owned(value.to_string())
    }

    /// Removes secrets from every string of a value and every key of its objects; the value under the name of a header
    /// that carries credentials is removed as a whole, unless it is null.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => {
                if let Cow::Owned(clean) = self.text(text) {
                    *text = clean;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => self.map(fields),
        }
    }

    /// Does the same for an object, for example a session's state.
    pub fn map(&self, fields: &mut Map<String, Value>) {
        for (name, value) in fields.iter_mut() {
            match value {
                Value::Null => {}
                value if shapes::is_secret_header(name) => *value = Value::from(REDACTED),
                value => self.value(value),
            }
        }
        if fields.keys().any(|name| matches!(self.text(name), Cow::Owned(_))) {
            let named = std::mem::take(fields);
            *fields = named.into_iter().map(|(name, value)| (self.text(&name).into_owned(), value)).collect();
        }
    }

    /// An entry without secrets. Its origin and its record's key stay as they are: they are the names by which the log is
    /// read and folded.
    pub fn entry(&self, entry: &Entry) -> Entry {
        let Some(mut clean) = self.redacted(entry) else { return entry.clone() };
        clean.event.origin = entry.event.origin.clone();
        let key = entry.record.as_ref().and_then(Record::key);
        if let (Some(redacted), Some(key)) = (clean.record.as_mut().and_then(Record::key_mut), key) {
            key.clone_into(redacted);
        }
        clean
    }

    /// JSON text that is kept shared, without secrets.
    pub fn shared_json(&self, text: Arc<str>) -> Arc<str> {
        match self.json(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(clean) => Arc::from(clean),
        }
    }

    /// The entry with all of its strings redacted; nothing when it is clean already.
    fn redacted(&self, entry: &Entry) -> Option<Entry> {
        let text = serde_json::to_string(entry).expect("an entry has string keys only");
        match self.json(&text) {
            Cow::Borrowed(_) => None,
            // Fails only when a value is one of the log's own words, such as an event's name, which is not a secret.
            Cow::Owned(clean) => json::read_stored(&clean).ok(),
        }
    }

    fn without_values<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(values) = &self.values else { return Cow::Borrowed(text) };
        let mut kept_to = 0;
        let mut clean = String::new();
        for found in values.automaton.find_iter(text) {
            let range = match values.encodings[found.pattern().as_usize()] {
                Encoding::Readable => found.range(),
                Encoding::Base64 => encodings::base64_run(text, found.range()),
            };
            // The text removed around an earlier value may reach past this one.
            let start = range.start.max(kept_to);
            if found.end() <= kept_to {
                continue;
            }
            clean.push_str(&text[kept_to..start]);
            clean.push_str(REDACTED);
            kept_to = range.end;
        }
        if kept_to == 0 {
            return Cow::Borrowed(text);
        }
        clean.push_str(&text[kept_to..]);
        Cow::Owned(clean)
    }
}
