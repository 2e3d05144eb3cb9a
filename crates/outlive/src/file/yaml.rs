//! YAML as a tree whose every node has its place, and the bounds of what is read.
//!
//! It must never know what a file means. A plain scalar stays the text it is until somebody asks for a number: `no`, `on`
//! and `1e3` are text where text is wanted. The invariant: a tree has at most [`NODES_MAX`] nodes and [`DEPTH_MAX`]
//! levels, aliases written out, whatever the text is.

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The longest file, in bytes.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// Nodes of a file, with those that aliases repeat.
const NODES_MAX: usize = 50_000;
/// Lists and mappings inside each other.
const DEPTH_MAX: usize = 100;

/// A place in the text: line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Default for At {
    fn default() -> Self {
        Self::START
    }
}

impl At {
    pub(super) const START: At = At { line: 1, column: 1 };
}

impl From<Span> for At {
    fn from(span: Span) -> Self {
        At { line: span.start.line().max(1), column: span.start.col() + 1 }
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Misread {
    pub(super) at: At,
    pub(super) message: String,
    /// The last line of what must not be shown, which begins there.
    pub(super) hides_to: Option<usize>,
}

impl Misread {
    pub(super) fn new(at: At, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hides_to: None }
    }

    /// Of something that may be a secret, and ends on this line.
    pub(super) fn hiding(at: At, last_line: usize, message: impl Into<String>) -> Self {
        Self { hides_to: Some(last_line), ..Self::new(at, message) }
    }
}

/// A node and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: At,
    /// The last line of a scalar.
    pub(super) last_line: usize,
    pub(super) what: What,
    /// Nodes that it is made of, itself included.
    size: usize,
    /// Levels that it has.
    depth: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum What {
    Scalar { text: String, is_plain: bool, lines: Lines },
    List(Vec<Arc<Node>>),
    Map(Vec<(Key, Arc<Node>)>),
}

/// How the lines of a scalar stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    /// In one, this many columns after its place.
    One(usize),
    /// Each in one of its own.
    Kept,
    /// Several make one.
    Folded,
}

/// A key of a mapping and its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: At,
}

/// What the core schema of YAML 1.2 makes of a plain scalar.
pub(super) enum Plain {
    Null,
    Bool(bool),
    Number(Number),
    /// Not a number that JSON has, but not meant as text either.
    NoNumber,
    Text,
}

impl Node {
    /// For messages: what it is.
    pub(super) fn kind(&self) -> &'static str {
        match &self.what {
            What::Scalar { is_plain: false, .. } => "text",
            What::Scalar { text, .. } => match plain(text) {
                Plain::Null => "nothing",
                Plain::Bool(_) => "true or false",
                Plain::Number(_) => "a number",
                Plain::NoNumber => "no number that JSON has",
                Plain::Text => "text",
            },
            What::List(_) => "a list",
            What::Map(_) => "a mapping",
        }
    }

    /// Whether nothing is written there.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.what, What::Scalar { text, is_plain: true, .. } if matches!(plain(text), Plain::Null))
    }

    /// As JSON, by the core schema.
    ///
    /// # Errors
    /// When there is a number that JSON does not have.
    pub(super) fn json(&self) -> Result<Value, Misread> {
        Ok(match &self.what {
            What::Scalar { text, is_plain: false, .. } => Value::String(text.clone()),
            What::Scalar { text, .. } => match plain(text) {
                Plain::Null => Value::Null,
                Plain::Bool(is_so) => Value::Bool(is_so),
                Plain::Number(number) => Value::Number(number),
                Plain::NoNumber => {
                    return Err(Misread::new(self.at, "it is not a number that JSON has: put text into quotes"));
                }
                Plain::Text => Value::String(text.clone()),
            },
            What::List(items) => Value::Array(items.iter().map(|item| item.json()).collect::<Result<_, _>>()?),
            What::Map(fields) => {
                let field = |(key, value): &(Key, Arc<Node>)| Ok((key.text.clone(), value.json()?));
                Value::Object(fields.iter().map(field).collect::<Result<Map<_, _>, Misread>>()?)
            }
        })
    }

    /// The place of a line and column of its text, counted from 1, as far as it can be told.
    pub(super) fn place_in(&self, line: usize, column: usize) -> At {
        let At { line: first, column: begin } = self.at;
        match self.what {
            What::Scalar { lines: Lines::One(indent), .. } if line == 1 => {
                At { line: first, column: begin + indent + column - 1 }
            }
            What::Scalar { lines: Lines::Kept, .. } => At { line: first + line - 1, column: begin + column - 1 },
            _ => self.at,
        }
    }

    /// The place of what this path leads to, or of the last of it that is there: of a key, the key's.
    pub(super) fn find(&self, path: &[&str]) -> At {
        let (mut node, mut at) = (self, self.at);
        for part in path {
            match &node.what {
                What::Map(fields) => match fields.iter().find(|(key, _)| key.text == *part) {
                    Some((key, value)) => (node, at) = (value, key.at),
                    None => break,
                },
                What::List(items) => match part.parse::<usize>().ok().and_then(|place| items.get(place)) {
                    Some(item) => (node, at) = (item, item.at),
                    None => break,
                },
                What::Scalar { .. } => break,
            }
        }
        at
    }

    /// As [`Node::find`], of the value where there is a key.
    pub(super) fn find_value(&self, path: &[&str]) -> At {
        self.get(path).map_or_else(|| self.find(path), |node| node.at)
    }

    /// The texts under keys of these names, wherever they are.
    pub(super) fn texts_under(&self, keys: &[&str]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        self.collect(keys, false, &mut found);
        found
    }

    fn collect<'n>(&'n self, keys: &[&str], is_under: bool, found: &mut BTreeSet<&'n str>) {
        match &self.what {
            What::Scalar { text, .. } if is_under => drop(found.insert(text.as_str())),
            What::Scalar { .. } => {}
            What::List(items) => items.iter().for_each(|item| item.collect(keys, is_under, found)),
            What::Map(fields) => {
                fields.iter().for_each(|(key, value)| value.collect(keys, keys.contains(&key.text.as_str()), found));
            }
        }
    }

    /// What this path leads to.
    pub(super) fn get(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, part| match &node.what {
            What::Map(fields) => fields.iter().find(|(key, _)| key.text == *part).map(|(_, value)| &**value),
            What::List(items) => part.parse::<usize>().ok().and_then(|place| items.get(place)).map(|item| &**item),
            What::Scalar { .. } => None,
        })
    }
}

/// What a plain scalar means.
pub(super) fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Plain::NoNumber;
    }
    let radix =
        |digits: &str, radix| i64::from_str_radix(digits, radix).map_or(Plain::NoNumber, |n| Plain::Number(n.into()));
    if let Some(digits) = text.strip_prefix("0x").filter(|rest| is_all(rest, |c| c.is_ascii_hexdigit())) {
        return radix(digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o").filter(|rest| is_all(rest, |c| matches!(c, '0'..='7'))) {
        return radix(digits, 8);
    }
    if is_all(unsigned, |c| c.is_ascii_digit()) {
        // Octal to some, and to others a number that is written with zeros.
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            return Plain::NoNumber;
        }
        let number = text.strip_prefix('+').unwrap_or(text);
        let whole = number.parse::<i64>().map(Number::from).or_else(|_| number.parse::<u64>().map(Number::from));
        return whole.map_or(Plain::NoNumber, Plain::Number);
    }
    if is_float(unsigned) {
        let number = text.parse::<f64>().ok().and_then(Number::from_f64);
        return number.map_or(Plain::NoNumber, Plain::Number);
    }
    Plain::Text
}

fn is_all(text: &str, is_one: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(is_one)
}

/// `1.5`, `.5`, `1e3`.
fn is_float(text: &str) -> bool {
    let (base, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(base, exponent)| (base, Some(exponent)));
    let exponent =
        exponent.is_none_or(|text| is_all(text.strip_prefix(['-', '+']).unwrap_or(text), |c| c.is_ascii_digit()));
    let (whole, part) = base.split_once('.').unwrap_or((base, ""));
    let is_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    exponent && !(whole.is_empty() && part.is_empty()) && is_digits(whole) && is_digits(part)
}

/// Reads one document, and what in it is ambiguous or means nothing.
///
/// # Errors
/// The first thing that is no YAML, or too much.
pub(super) fn read(text: &str) -> Result<(Node, Vec<Misread>), Misread> {
    if text.len() > BYTES_MAX {
        let message =
            format!("definition_too_large: it has {} bytes, and may have {BYTES_MAX}: take it apart", text.len());
        return Err(Misread::new(At::START, message));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if let Some(misread) = unseen(text) {
        return Err(misread);
    }
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            // What is missing at the end is missing on the last line.
            let line = error.marker().line().clamp(1, text.lines().count().max(1));
            let at = At { line, column: error.marker().col() + 1 };
            match (error.info(), tab(text, line)) {
                ("recursion limit exceeded", _) => too_deep(at),
                (info, Some(tab)) => Misread::new(tab, format!("it is not YAML: {info}{TABS}")),
                (info, None) => Misread::new(at, format!("it is not YAML: {info}{}", hint(text, at))),
            }
        })?;
        builder.at = span.into();
        builder.event(event, span)?;
    }
    let misread = builder.misread;
    match builder.done {
        Some(node) => Ok((node, misread)),
        None => Err(Misread::new(At::START, "the file is empty: begin with `version: 1`")),
    }
}

/// The first character that nobody sees and that changes what is read: YAML has no control characters, a null character
/// would end the text, and some turn around what stands beside them.
fn unseen(text: &str) -> Option<Misread> {
    let is_turning = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_unseen = |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || is_turning(c);
    let (place, c) = text.char_indices().find(|(_, c)| is_unseen(*c))?;
    let before = text[..place].replace("\r\n", "\n").replace('\r', "\n");
    let line = before.rsplit('\n').next().unwrap_or_default();
    let at = At { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 };
    let code = u32::from(c);
    let message = format!(
        "the character U+{code:04X}, which nobody sees, stands here: take it out, or write \"\\u{code:04X}\" in quotes"
    );
    Some(Misread::new(at, message))
}

fn too_deep(at: At) -> Misread {
    let message = format!("definition_too_deep: more than {DEPTH_MAX} levels are inside each other: take it apart");
    Misread::new(at, message)
}

const TABS: &str = " (indent with spaces: YAML allows no tabs there)";

/// The tab by which this line is indented, or one beside it: a scalar goes on below the line that it is told of.
fn tab(text: &str, line: usize) -> Option<At> {
    let lines: Vec<_> = text.lines().collect();
    let indented = |number: usize| {
        let line = lines.get(number.checked_sub(1)?)?;
        let column = line.chars().take_while(|c| c.is_whitespace()).position(|c| c == '\t')? + 1;
        Some(At { line: number, column })
    };
    let below = (line + 1..=lines.len()).find(|number| !lines[number - 1].trim().is_empty());
    let below = below.and_then(indented).filter(|at| at.column == 1);
    indented(line).or_else(|| indented(line - 1)).or(below)
}

/// What often is behind a mistake on this line.
fn hint(text: &str, at: At) -> &'static str {
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let begins_badly = line.chars().nth(at.column - 1).is_some_and(|c| matches!(c, '@' | '`' | '%' | '*' | '&' | '!'));
    match line {
        _ if begins_badly => " (put text that begins with such a character into quotes)",
        _ if line.contains(['{', '[']) && line.contains('?') => " (put text with a `?` into quotes)",
        _ if line.contains(": ") && line.matches(": ").count() > 1 => " (put text with a `: ` into quotes)",
        _ => "",
    }
}

/// A list or a mapping that has begun.
struct Open {
    at: At,
    anchor: usize,
    what: OpenWhat,
    size: usize,
    depth: usize,
}

enum OpenWhat {
    List(Vec<Arc<Node>>),
    Map { fields: Vec<(Key, Arc<Node>)>, names: BTreeMap<String, usize>, key: Option<Key> },
}

#[derive(Default)]
struct Builder {
    anchors: HashMap<usize, Arc<Node>>,
    open: Vec<Open>,
    done: Option<Node>,
    nodes: usize,
    at: At,
    misread: Vec<Misread>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Misread> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some());
                let is_plain = style == ScalarStyle::Plain;
                let lines = match style {
                    ScalarStyle::Literal => Lines::Kept,
                    ScalarStyle::Folded => Lines::Folded,
                    _ if span.end.line() > span.start.line() => Lines::Folded,
                    _ => Lines::One(usize::from(!is_plain)),
                };
                let what = What::Scalar { text: text.into_owned(), is_plain, lines };
                self.push(Node { at: self.at, last_line: span.end.line(), what, size: 1, depth: 1 }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some());
                self.begin(anchor, OpenWhat::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some());
                self.begin(anchor, OpenWhat::Map { fields: Vec::new(), names: BTreeMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { at, anchor, what, size, depth }) = self.open.pop() else { return Ok(()) };
                let what = match what {
                    OpenWhat::List(items) => What::List(items),
                    OpenWhat::Map { fields, .. } => What::Map(fields),
                };
                self.push(Node { at, last_line: at.line, what, size: size + 1, depth: depth + 1 }, anchor)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let node = known.ok_or_else(|| self.wrong("this alias stands inside what it repeats: write it out"))?;
                self.put(node)
            }
            Event::DocumentStart(_) if self.done.is_some() => {
                Err(self.wrong("a second document begins here: a file has one, take the other out"))
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn wrong(&self, message: impl Into<String>) -> Misread {
        Misread::new(self.at, message)
    }

    fn refuse_tag(&mut self, is_there: bool) {
        if is_there {
            let problem = self.wrong("tags such as `!!str` mean nothing here: leave it out, and put text into quotes");
            self.misread.push(problem);
        }
    }

    fn begin(&mut self, anchor: usize, what: OpenWhat) -> Result<(), Misread> {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(self.at));
        }
        if let Some(Open { what: OpenWhat::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(self.wrong("a key must be text"));
        }
        self.open.push(Open { at: self.at, anchor, what, size: 0, depth: 0 });
        Ok(())
    }

    fn push(&mut self, node: Node, anchor: usize) -> Result<(), Misread> {
        let node = Arc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.put(node)
    }

    /// Puts a whole node where it belongs.
    fn put(&mut self, node: Arc<Node>) -> Result<(), Misread> {
        let at = self.at;
        let depth = self.open.len() + node.depth;
        let Some(open) = self.open.last_mut() else {
            self.done = Some(Arc::unwrap_or_clone(node));
            return Ok(());
        };
        open.size += node.size;
        open.depth = open.depth.max(node.depth);
        self.nodes = self.nodes.saturating_add(1);
        if depth > DEPTH_MAX + 1 {
            return Err(too_deep(at));
        }
        if open.size > NODES_MAX || self.nodes > NODES_MAX {
            let message = format!("definition_too_large: it has more than {NODES_MAX} values, aliases written out");
            return Err(Misread::new(at, message));
        }
        match &mut open.what {
            OpenWhat::List(items) => items.push(node),
            OpenWhat::Map { fields, names, key } => match key.take() {
                Some(key) => fields.push((key, node)),
                None => {
                    let What::Scalar { text, .. } = &node.what else {
                        return Err(Misread::new(at, "a key must be text"));
                    };
                    if text == "<<" {
                        let message =
                            "`<<` merges nothing in YAML 1.2: write the keys out, or repeat a whole value with *name";
                        self.misread.push(Misread::new(at, message));
                    }
                    if let Some(line) = names.insert(text.clone(), at.line) {
                        let message = format!("the key {text:?} is there twice: it is also on line {line}");
                        self.misread.push(Misread::new(at, message));
                    }
                    *key = Some(Key { text: text.clone(), at });
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        read(text).and_then(|(node, _)| node.json()).unwrap_or_else(|misread| panic!("{misread:?}"))
    }

    /// The first problem.
    fn misread(text: &str) -> Option<Misread> {
        match read(text) {
            Ok((_, misread)) => misread.into_iter().next(),
            Err(misread) => Some(misread),
        }
    }

    #[test]
    fn plain_scalars_mean_what_yaml_1_2_says() {
        let text = "{a: no, b: on, c: 1e3, d: 0x1F, e: 12, f: -1.5, g: ~, h: true, i: '5', j: 1.2.3, k: yes, l: 0o17}";
        let wanted = serde_json::json!({
            "a": "no", "b": "on", "c": 1000.0, "d": 31, "e": 12, "f": -1.5, "g": null, "h": true, "i": "5",
            "j": "1.2.3", "k": "yes", "l": 15,
        });
        assert_eq!(json(text), wanted);
    }

    #[test]
    fn a_number_that_json_lacks_is_told_with_its_place() {
        let misread = read("a:\n  - .inf").expect("it is YAML").0.json().expect_err("it is no JSON");
        assert_eq!(misread.at, At { line: 2, column: 5 });
    }

    #[test]
    fn aliases_are_written_out_and_bounded() {
        assert_eq!(json("a: &x [1, 2]\nb: *x"), serde_json::json!({ "a": [1, 2], "b": [1, 2] }));
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for level in 1..10 {
            let before = level - 1;
            laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 9].join(", ")));
        }
        let found = misread(&laughs).expect("it is too large");
        assert!(found.message.starts_with("definition_too_large"), "{found:?}");
        assert!(found.at.line > 3, "{found:?}");
        assert_eq!(misread("a: &a [*a]").map(|found| found.at.line), Some(1));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = misread(&"[".repeat(1000)).expect("it is too deep");
        assert!(deep.message.starts_with("definition_too_deep"), "{deep:?}");
        let long = misread(&"# long\n".repeat(1 << 18)).expect("it is too long");
        assert!(long.message.starts_with("definition_too_large"), "{long:?}");
        let mut nested = "a0: &a0 [x]\n".to_owned();
        for level in 1..200 {
            nested.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(misread(&nested).is_some_and(|found| found.message.starts_with("definition_too_deep")));
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_its_place() {
        for (text, line, said) in [
            ("a: 1\nb: 2\na: 3", 3, "there twice: it is also on line 1"),
            ("a: !!python/object:os.system x", 1, "tags"),
            ("a: !custom x", 1, "tags"),
            ("a: &a { b: 1 }\nc:\n  <<: *a", 3, "merges nothing"),
            ("a: 1\n---\nb: 2", 2, "second document"),
            ("? [a]\n: 1", 1, "key must be text"),
            ("a:\n\tb: 1", 2, "no tabs"),
            ("a: 1\n\tb: demo\nc: {}\n", 2, "no tabs"),
            ("a: 1\n\n\tb: demo\n", 3, "no tabs"),
            ("", 1, "empty"),
            ("a: [1, 2", 1, "not YAML"),
        ] {
            let found = misread(text).unwrap_or_else(|| panic!("{text:?} is fine"));
            assert!(found.message.contains(said), "{text:?}: {found:?}");
            assert_eq!(found.at.line, line, "{text:?}: {found:?}");
        }
    }

    #[test]
    fn places_are_found_by_path() {
        let (node, _) = read("a:\n  b: [x, y]\n").expect("it is YAML");
        assert_eq!(node.find(&["a", "b", "1"]), At { line: 2, column: 10 });
        assert_eq!(node.find(&["a", "b"]), At { line: 2, column: 3 });
        assert_eq!(node.find_value(&["a", "b"]), At { line: 2, column: 6 });
        assert_eq!(node.find(&["a", "nothing"]), At { line: 1, column: 1 });
    }
}
