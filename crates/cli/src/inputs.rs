//! The inputs of a batch, read from a file one after the other: lines of JSON, lines of text, or a table as CSV.
//!
//! It must never hold the file. The invariant: each input is told with the line it began on, or that line is named with what
//! is wrong with it.

use crate::exit::{Exit, Problem};
use clap::ValueEnum;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};

/// The longest line, or row, that is read.
const ROW_BYTES_MAX: u64 = 16 << 20;

/// How inputs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Each line is a text or an object, as JSON.
    Jsonl,
    /// The first row names the columns; each other row is an object of texts.
    Csv,
    /// Each line is a text.
    Txt,
}

impl Format {
    /// By the end of a file's name; lines of JSON where that says nothing.
    fn of(path: &str) -> Self {
        let extension = std::path::Path::new(path).extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Self::Csv,
            Some("txt") => Self::Txt,
            _ => Self::Jsonl,
        }
    }
}

/// Inputs that are read as they are taken.
pub(crate) struct Inputs {
    source: Box<dyn BufRead + Send>,
    path: String,
    format: Format,
    /// Lines that were read.
    line: u64,
    columns: Option<Vec<String>>,
}

impl Inputs {
    /// Those of a file, `-` for standard input.
    ///
    /// # Errors
    /// When there is no such file.
    pub(crate) fn open(path: &str, format: Option<Format>) -> Result<Self, Problem> {
        let unreadable =
            |error| Problem::new(Exit::Usage, "unreadable_file", format!("{path} cannot be read: {error}"));
        let source: Box<dyn BufRead + Send> = match path {
            "-" => Box::new(BufReader::new(stdin())),
            path => Box::new(BufReader::new(File::open(path).map_err(unreadable)?)),
        };
        let format = format.unwrap_or_else(|| Format::of(path));
        Ok(Self { source, path: path.to_owned(), format, line: 0, columns: None })
    }

    /// The next input; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or what stands there is no input.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Problem> {
        loop {
            let Some(mut row) = self.read_line()? else { return Ok(None) };
            let began = self.line;
            if row.trim().is_empty() && self.format != Format::Txt {
                continue;
            }
            match self.format {
                Format::Txt => return Ok(Some(Value::String(row))),
                Format::Jsonl => {
                    let read = outlive::serving::json::parse(row.as_bytes());
                    return read.map(Some).map_err(|problem| self.wrong(began, &problem.words()));
                }
                Format::Csv => {}
            }
            // A field in quotes may go on in the next line.
            while row.matches('"').count() % 2 == 1 {
                let more = self.read_line()?.ok_or_else(|| self.wrong(began, "a quoted field has no end"))?;
                row.push('\n');
                row.push_str(&more);
                if row.len() as u64 > ROW_BYTES_MAX {
                    return Err(self.wrong(began, "a row is too long"));
                }
            }
            let fields = fields(&row).map_err(|problem| self.wrong(began, problem))?;
            let Some(columns) = &self.columns else {
                self.columns = Some(self.named(fields, began)?);
                continue;
            };
            if fields.len() != columns.len() {
                let problem = format!("{} columns were named, and there are {}", columns.len(), fields.len());
                return Err(self.wrong(began, &problem));
            }
            let object: Map<String, Value> =
                columns.iter().cloned().zip(fields.into_iter().map(Value::String)).collect();
            return Ok(Some(Value::Object(object)));
        }
    }

    /// Checks the names of columns.
    fn named(&self, columns: Vec<String>, line: u64) -> Result<Vec<String>, Problem> {
        for (place, column) in columns.iter().enumerate() {
            if column.trim().is_empty() {
                return Err(self.wrong(line, "a column has no name: the first row names the columns"));
            }
            if columns[..place].contains(column) {
                return Err(self.wrong(line, &format!("two columns are named {column:?}")));
            }
        }
        Ok(columns)
    }

    fn read_line(&mut self) -> Result<Option<String>, Problem> {
        let mut bytes = Vec::new();
        self.line += 1;
        let read = (&mut self.source).take(ROW_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
        read.map_err(|error| self.wrong(self.line, &error.to_string()))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() as u64 > ROW_BYTES_MAX {
            return Err(self.wrong(self.line, &format!("it has more than {ROW_BYTES_MAX} bytes")));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| self.wrong(self.line, "it is not UTF-8 text"))?;
        if text.ends_with('\n') {
            text.pop();
        }
        if text.ends_with('\r') {
            text.pop();
        }
        // Some programs begin a text with this mark.
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}').to_owned() } else { text };
        Ok(Some(text))
    }

    fn wrong(&self, line: u64, problem: &str) -> Problem {
        let message = format!("{} line {line}: {problem}", self.path);
        Problem::new(Exit::Usage, "invalid_input", message)
    }
}

/// The fields of a row: separated by commas; in quotes they may have anything, with quotes doubled.
fn fields(row: &str) -> Result<Vec<String>, &'static str> {
    let (mut fields, mut field, mut is_quoted, mut was_quoted) = (Vec::new(), String::new(), false, false);
    let mut letters = row.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if is_quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() && !was_quoted => (is_quoted, was_quoted) = (true, true),
            '"' => return Err("a quote stands inside a field that does not begin with one"),
            ',' if !is_quoted => {
                fields.push(std::mem::take(&mut field));
                was_quoted = false;
            }
            letter if was_quoted && !is_quoted => {
                if !letter.is_whitespace() {
                    return Err("something follows the end of a quoted field");
                }
            }
            letter => field.push(letter),
        }
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn all(text: &'static str, format: Format) -> Result<Vec<Value>, String> {
        let source = Box::new(BufReader::new(text.as_bytes()));
        let mut inputs = Inputs { source, path: "f".to_owned(), format, line: 0, columns: None };
        let mut found = Vec::new();
        loop {
            match inputs.next() {
                Ok(Some(input)) => found.push(input),
                Ok(None) => return Ok(found),
                Err(problem) => return Err(problem.message().to_owned()),
            }
        }
    }

    #[test]
    fn each_line_is_an_input() {
        let text = "\u{feff}\"bees\"\r\n\n{\"topic\": \"wasps\"}\nnull";
        assert_eq!(all(text, Format::Jsonl), Ok(vec![json!("bees"), json!({ "topic": "wasps" }), Value::Null]));
        assert_eq!(all("bees\n\nwasps\n", Format::Txt), Ok(vec![json!("bees"), json!(""), json!("wasps")]));
        assert_eq!(all("", Format::Jsonl), Ok(Vec::new()));
        let wrong = all("1\n{\"a\": 1,}\n", Format::Jsonl).expect_err("that is no JSON");
        assert!(wrong.starts_with("f line 2: "), "{wrong}");
    }

    #[test]
    fn each_row_of_a_table_is_an_object() {
        let text = "topic,days\nbees,3\r\n\"wasps, and \"\"hornets\"\"\",\n\"two\nlines\",\"4\" \n";
        let expected = vec![
            json!({ "topic": "bees", "days": "3" }),
            json!({ "topic": "wasps, and \"hornets\"", "days": "" }),
            json!({ "topic": "two\nlines", "days": "4" }),
        ];
        assert_eq!(all(text, Format::Csv), Ok(expected));
        for (text, line, problem) in [
            ("a,b\n1\n", 2, "2 columns were named, and there are 1"),
            ("a,a\n", 1, "two columns are named \"a\""),
            ("a,\n", 1, "a column has no name"),
            ("a\n1\n\"b\n", 3, "has no end"),
            ("a\nb\"c\"\n", 2, "a quote stands inside"),
            ("a\n\"b\"c\n", 2, "something follows"),
        ] {
            let wrong = all(text, Format::Csv).expect_err(text);
            assert!(wrong.starts_with(&format!("f line {line}: ")) && wrong.contains(problem), "{wrong}");
        }
    }

    #[test]
    fn a_format_is_known_by_the_end_of_a_name() {
        for (path, format) in [
            ("a.csv", Format::Csv),
            ("a.CSV", Format::Csv),
            ("a.txt", Format::Txt),
            ("-", Format::Jsonl),
            ("a", Format::Jsonl),
        ] {
            assert_eq!(Format::of(path), format, "{path}");
        }
    }
}
