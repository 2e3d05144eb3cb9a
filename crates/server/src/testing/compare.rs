//! The comparer: where an answer differs from a recorded one in keys, types or order, and in the values that a client
//! relies on.
//!
//! It must never know which values these are: it compares those the recording has. The invariant: whatever is not listed
//! as allowed is reported.

use super::KeySets;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The shape of a JSON value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Shape {
    /// Anything without parts.
    Leaf(Leaf),
    /// Every different shape among the elements; none for an empty array.
    Array(Vec<Shape>),
    /// Keys and what stands under them.
    Object(BTreeMap<String, Shape>),
}

/// The type of a value without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaf {
    /// null.
    Null,
    /// true or false.
    Bool,
    /// A number without a fraction.
    Int,
    /// A number with one, or any number where one may have a fraction.
    Float,
    /// A string.
    String,
    /// A body that is not JSON.
    Text,
}

/// A difference that is meant. The text is the end of a path: `progress`, `metrics.duration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// A key of our own.
    Extra(&'a str),
    /// A key of Agno's that we leave out.
    Missing(&'a str),
    /// A value of another type.
    Type(&'a str),
    /// Whatever is under this key is not compared.
    Under(&'a str),
}

/// Where `actual` differs from what was recorded, one line each.
///
/// The elements of an array are each compared with the recorded shape that fits best. Where the recorded array is empty
/// nothing is known of its elements.
pub fn differences(recorded: &Shape, actual: &Value, allowed: &[Allowed<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    Comparer { allowed }.compare("", recorded, actual, &mut found);
    found
}

struct Comparer<'a> {
    allowed: &'a [Allowed<'a>],
}

impl Comparer<'_> {
    fn compare(&self, path: &str, recorded: &Shape, actual: &Value, found: &mut Vec<String>) {
        if self.allows(path, |allowed| matches!(allowed, Allowed::Under(_))) {
            return;
        }
        match (recorded, actual) {
            (Shape::Object(keys), Value::Object(object)) => {
                self.keys(path, keys.keys(), object.keys().collect(), found);
                for (key, shape) in keys {
                    if let Some(value) = object.get(key) {
                        self.compare(&join(path, key), shape, value, found);
                    }
                }
            }
            (Shape::Array(shapes), Value::Array(values)) => self.elements(path, shapes, values, found),
            (Shape::Leaf(leaf), value) if leaf.fits(value) => {}
            (recorded, value) => {
                if !self.allows(path, |allowed| matches!(allowed, Allowed::Type(_))) {
                    found.push(format!("{}: was {recorded}, is {}", at(path), kind(value)));
                }
            }
        }
    }

    fn keys<'k>(
        &self,
        path: &str,
        recorded: impl Iterator<Item = &'k String>,
        actual: BTreeSet<&String>,
        found: &mut Vec<String>,
    ) {
        let recorded: BTreeSet<_> = recorded.collect();
        for key in recorded.difference(&actual) {
            if !self.allows(&join(path, key), |allowed| matches!(allowed, Allowed::Missing(_) | Allowed::Under(_))) {
                found.push(format!("{}: is missing", join(path, key)));
            }
        }
        for key in actual.difference(&recorded) {
            if !self.allows(&join(path, key), |allowed| matches!(allowed, Allowed::Extra(_) | Allowed::Under(_))) {
                found.push(format!("{}: is new", join(path, key)));
            }
        }
    }

    fn elements(&self, path: &str, shapes: &[Shape], values: &[Value], found: &mut Vec<String>) {
        let path = format!("{path}[]");
        if values.is_empty() && !shapes.is_empty() {
            if !self.allows(&path, |allowed| matches!(allowed, Allowed::Type(_))) {
                found.push(format!("{path}: is empty"));
            }
            return;
        }
        for value in values {
            let candidates = shapes.iter().map(|shape| {
                let mut found = Vec::new();
                self.compare(&path, shape, value, &mut found);
                found
            });
            // Elements of different kinds differ in their own keys first. Equal ones differ equally: one line says it.
            let distance = |found: &Vec<String>| (found.iter().filter(|line| is_own(&path, line)).count(), found.len());
            for line in candidates.min_by_key(distance).unwrap_or_default() {
                if !found.contains(&line) {
                    found.push(line);
                }
            }
        }
    }

    fn allows(&self, path: &str, is_kind: impl Fn(&Allowed<'_>) -> bool) -> bool {
        let plain = path.replace("[]", "");
        self.allowed.iter().filter(|allowed| is_kind(allowed)).any(|allowed| {
            let (Allowed::Extra(end) | Allowed::Missing(end) | Allowed::Type(end) | Allowed::Under(end)) = allowed;
            plain.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }
}

impl Leaf {
    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null)
            | (Self::Bool, Value::Bool(_))
            | (Self::String | Self::Text, Value::String(_)) => true,
            (Self::Int, Value::Number(number)) => !number.is_f64(),
            (Self::Float, Value::Number(_)) => true,
            (Self::Null | Self::Bool | Self::Int | Self::Float | Self::String | Self::Text, _) => false,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leaf(Leaf::Null) => "null",
            Self::Leaf(Leaf::Bool) => "bool",
            Self::Leaf(Leaf::Int) => "int",
            Self::Leaf(Leaf::Float) => "float",
            Self::Leaf(Leaf::String) => "string",
            Self::Leaf(Leaf::Text) => "text",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        })
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Whether a line speaks of the value at `path` itself or of one of its keys, not of anything deeper.
fn is_own(path: &str, line: &str) -> bool {
    let place = line.split(": ").next().unwrap_or_default();
    place.strip_prefix(path).is_some_and(|rest| !rest.trim_start_matches('.').contains(['.', '[']))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn at(path: &str) -> &str {
    if path.is_empty() { "the body" } else { path }
}

/// Where the values of `actual` differ from recorded ones, one line each. Where nothing is recorded, nothing is compared.
pub fn value_differences(recorded: &Value, actual: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare_values("", recorded, actual, &mut found);
    found
}

/// As [`value_differences`], with the recorded values of a stream's events by name, each compared with the event of that
/// name that fits best: the order of events is not its concern.
pub fn told_value_differences(recorded: &BTreeMap<String, Vec<Value>>, actual: &[Told]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, values) in recorded {
        let told: Vec<_> = actual.iter().filter(|told| told.name == *name).collect();
        for value in values {
            let candidates = told.iter().map(|told| {
                let mut found = Vec::new();
                compare_values(name, value, &told.body, &mut found);
                found
            });
            for line in candidates.min_by_key(Vec::len).unwrap_or_default() {
                if !found.contains(&line) {
                    found.push(line);
                }
            }
        }
    }
    found
}

fn compare_values(path: &str, recorded: &Value, actual: &Value, found: &mut Vec<String>) {
    match (recorded, actual) {
        (Value::Object(keys), Value::Object(object)) => {
            for (key, value) in keys {
                compare_values(&join(path, key), value, object.get(key).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(recorded), Value::Array(values)) => {
            if recorded.len() != values.len() {
                found.push(format!("{path}: were {}, are {}", recorded.len(), values.len()));
            }
            for (recorded, value) in recorded.iter().zip(values) {
                compare_values(&format!("{path}[]"), recorded, value, found);
            }
        }
        (recorded, actual) if recorded == actual => {}
        (Value::Object(_) | Value::Array(_), actual) => found.push(format!("{path}: was there, is {}", kind(actual))),
        (recorded, actual) => {
            let line = format!("{path}: was {recorded}, is {actual}");
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
}

/// One event of a stream as a client got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// Its JSON.
    pub body: Value,
}

/// Where a stream differs from a recorded one, one line each.
///
/// Events of agents may interleave and answers may come in any number of pieces. So the order is compared without the
/// events of agents (those of teams included), and of these the number of each name, pieces of an answer only as there or
/// not. Of each event the keys are compared with the recorded set of its name that fits best.
pub fn stream_differences(frames: &[String], keys: &KeySets, actual: &[Told], allowed: &[Allowed<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    let recorded: Vec<&str> = frames.iter().map(String::as_str).collect();
    let told: Vec<&str> = actual.iter().map(|told| told.name.as_str()).collect();
    let order = |names: &[&str]| -> Vec<String> {
        interleaved(names.iter().filter(|name| !is_agents(name)).map(|name| (*name).to_owned()))
    };
    if order(&recorded) != order(&told) {
        found.push(format!("order: was {:?}, is {:?}", order(&recorded), order(&told)));
    }
    let (before, now) = (counts(&recorded), counts(&told));
    for name in before.keys().chain(now.keys()).collect::<BTreeSet<_>>() {
        let (before, now) = (before.get(name).copied().unwrap_or(0), now.get(name).copied().unwrap_or(0));
        if before != now {
            found.push(format!("{name}: was told {before} times, is told {now} times"));
        }
    }
    let comparer = Comparer { allowed };
    for told in actual {
        let Some(sets) = keys.get(&told.name) else { continue };
        let actual: BTreeSet<&String> = told.body.as_object().map(|body| body.keys().collect()).unwrap_or_default();
        // What is inside something is compared with what was, if there was any.
        let is_alike = |set: &&Vec<String>| set.iter().any(|key| key == PARENT) == told.body.get(PARENT).is_some();
        let alike: Vec<_> = sets.iter().filter(is_alike).collect();
        let alike = if alike.is_empty() { sets.iter().collect() } else { alike };
        let candidates = alike.into_iter().map(|set| {
            let mut found = Vec::new();
            comparer.keys(&told.name, set.iter(), actual.clone(), &mut found);
            found
        });
        for line in candidates.min_by_key(Vec::len).unwrap_or_default() {
            if !found.contains(&line) {
                found.push(line);
            }
        }
    }
    found
}

/// The field of an event that is inside a container or a nested workflow.
const PARENT: &str = "parent_step_id";

/// The names, those inside a Parallel in an order that does not depend on which branch was faster.
fn interleaved(names: impl Iterator<Item = String>) -> Vec<String> {
    let (mut ordered, mut inside, mut depth) = (Vec::new(), Vec::new(), 0_u32);
    for name in names {
        depth += u32::from(name == "ParallelExecutionStarted");
        let is_end = name == "ParallelExecutionCompleted";
        if depth > 0 {
            inside.push(name)
        } else {
            ordered.push(name)
        }
        depth -= u32::from(is_end && depth > 0);
        if depth == 0 {
            inside.sort();
            ordered.append(&mut inside);
        }
    }
    ordered.append(&mut inside);
    ordered
}

/// Whether this is an event of an agent or a team.
fn is_agents(name: &str) -> bool {
    let name = name.strip_prefix("Team").unwrap_or(name);
    ["Run", "ModelRequest", "ToolCall"].iter().any(|prefix| name.starts_with(prefix))
}

fn counts<'a>(names: &[&'a str]) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for name in names.iter().filter(|name| is_agents(name)) {
        let count = counts.entry(*name).or_insert(0);
        if matches!(*name, "RunContent" | "TeamRunContent") { *count = 1 } else { *count += 1 }
    }
    counts
}
