//! Text as the recorded server wrote and read it.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};
use std::fmt;
use std::io::{self, Write};

/// The value after `name=` among the words of `text`, if there is one that reads as a number.
pub(crate) fn argument(text: &str, name: &str) -> Option<f64> {
    let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    text.split_whitespace().find_map(value)
}

/// A value as Python's `json.dumps` writes it: a blank after every comma and colon.
pub(crate) struct PythonJson<'a>(pub(crate) &'a Value);

impl fmt::Display for PythonJson<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.0.serialize(&mut Serializer::with_formatter(&mut text, Blanks)).map_err(|_| fmt::Error)?;
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

struct Blanks;

impl Formatter for Blanks {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
