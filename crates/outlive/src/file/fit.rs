//! A tree against the schema: every problem at its place, and JSON of the types that the schema wants.
//!
//! It must never know what a file means, only its shape. The invariant: without a problem, the JSON fits the schema.

use super::schema::{KIND, checked, resolved};
use super::syntax::{Span, SpanOrNone};
use super::yaml::{At, Key, Misread, Node, Plain, What, plain};
use outlive_core::check;
use serde_json::{Map, Number, Value};
use std::sync::Arc;

type Rules = Map<String, Value>;

/// The document's JSON, and what is wrong with it.
pub(super) fn fit(node: &Node) -> (Value, Vec<Misread>) {
    let mut fitting = Fitting { problems: Vec::new() };
    let value = fitting.fit(node, checked());
    (value, fitting.problems)
}

/// `: did you mean "agent"?`, if one is near.
pub(super) fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(word, name);
    let nearest = known.map(|name| (distance(name), name)).min();
    let allowed = (word.chars().count() / 3 + 1).min(3);
    match nearest {
        Some((far, name)) if far <= allowed => format!(": did you mean {name:?}?"),
        _ => String::new(),
    }
}

struct Fitting {
    problems: Vec<Misread>,
}

impl Fitting {
    fn problem(&mut self, at: At, message: impl Into<String>) {
        self.problems.push(Misread::new(at, message));
    }

    fn fit(&mut self, node: &Node, schema: &'static Value) -> Value {
        // Anything.
        let Some(rules) = resolved(schema) else { return self.json(node) };
        let choices = rules.get("anyOf").or_else(|| rules.get("oneOf")).and_then(Value::as_array);
        if let Some(choices) = choices {
            return match self.choose(node, choices) {
                Some(choice) => self.fit(node, choice),
                None => Value::Null,
            };
        }
        match (rules.get("type").and_then(Value::as_str), &node.what) {
            (None, _) => self.json(node),
            (Some("object"), What::Map(fields)) => self.object(node, fields, rules),
            (Some("array"), What::List(items)) => self.list(node, items, rules),
            (Some(kind @ ("string" | "integer" | "number" | "boolean")), What::Scalar { text, is_plain, .. }) => {
                self.scalar(node, text, *is_plain, kind, rules)
            }
            (Some(kind), _) => {
                self.wrong_kind(node, words(kind));
                Value::Null
            }
        }
    }

    fn wrong_kind(&mut self, node: &Node, wanted: &str) {
        let message = match node.is_nothing() {
            true => format!("nothing is written here: write {wanted}, or leave the key out"),
            false => format!("it must be {wanted}, and is {}", node.kind()),
        };
        self.problem(node.at, message);
    }

    fn json(&mut self, node: &Node) -> Value {
        node.json().unwrap_or_else(|misread| {
            self.problems.push(misread);
            Value::Null
        })
    }

    /// Which of several schemas a node is meant for: by its first key, or else by what it is.
    fn choose(&mut self, node: &Node, choices: &'static [Value]) -> Option<&'static Value> {
        let kinds: Vec<(&str, &Value)> =
            choices.iter().filter_map(|choice| Some((resolved(choice)?.get(KIND)?.as_str()?, choice))).collect();
        if !kinds.is_empty() {
            return self.choose_kind(node, &kinds);
        }
        let is_meant = |choice: &&'static Value| {
            let kind = resolved(choice).and_then(|rules| rules.get("type")).and_then(Value::as_str);
            match &node.what {
                What::Map(_) => kind == Some("object"),
                What::List(_) => kind == Some("array"),
                What::Scalar { text, is_plain, .. } => match plain(text) {
                    _ if node.is_nothing() => false,
                    Plain::Bool(_) if *is_plain && kind == Some("boolean") => true,
                    _ => kind == Some("string"),
                },
            }
        };
        let found = choices.iter().find(is_meant);
        if found.is_none() {
            let kinds = choices.iter().filter_map(|choice| resolved(choice)?.get("type")?.as_str());
            let wanted: Vec<_> = kinds.map(words).collect();
            self.wrong_kind(node, &wanted.join(" or "));
        }
        found
    }

    fn choose_kind(&mut self, node: &Node, kinds: &[(&str, &'static Value)]) -> Option<&'static Value> {
        let names = || kinds.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let What::Map(fields) = &node.what else {
            self.problem(node.at, format!("it must be a mapping that begins with one of {}", names()));
            return None;
        };
        let of = |key: &str| kinds.iter().find(|(name, _)| *name == key).map(|(_, choice)| *choice);
        let Some((first, _)) = fields.first() else {
            self.problem(node.at, format!("it is empty: begin with one of {}", names()));
            return None;
        };
        if let Some(choice) = of(&first.text) {
            return Some(choice);
        }
        if let Some((key, _)) = fields.iter().find(|(key, _)| of(&key.text).is_some()) {
            self.problem(key.at, format!("the first key says what this is: put {:?} first", key.text));
            return of(&key.text);
        }
        let meant = meant(&first.text, kinds.iter().map(|(name, _)| *name));
        let message = format!("unknown key {:?}{meant} The first key must be one of {}", first.text, names());
        let message = if meant.is_empty() { message.replacen(" The", ": the", 1) } else { message };
        self.problem(first.at, message);
        None
    }

    fn object(&mut self, node: &Node, fields: &[(Key, Arc<Node>)], rules: &'static Rules) -> Value {
        let known = rules.get("properties").and_then(Value::as_object);
        let others = rules.get("additionalProperties");
        let is_closed = others == Some(&Value::Bool(false));
        let mut object = Map::new();
        // That it merges nothing was told.
        for (key, value) in fields.iter().filter(|(key, _)| key.text != "<<") {
            match (known.and_then(|known| known.get(&key.text)), others) {
                (Some(schema), _) => drop(object.insert(key.text.clone(), self.fit(value, schema))),
                (None, Some(schema)) if !is_closed => {
                    if let Some(problem) = name_problem(&key.text) {
                        self.problem(key.at, format!("a name {problem}"));
                    }
                    drop(object.insert(key.text.clone(), self.fit(value, schema)));
                }
                (None, None) => drop(object.insert(key.text.clone(), self.json(value))),
                (None, Some(_)) => {
                    let names: Vec<_> = known.into_iter().flat_map(|known| known.keys().map(String::as_str)).collect();
                    let meant = meant(&key.text, names.iter().copied());
                    let message = match meant.is_empty() {
                        true => format!("unknown key {:?}: there are {}", key.text, names.join(", ")),
                        false => format!("unknown key {:?}{meant}", key.text),
                    };
                    self.problem(key.at, message);
                }
            }
        }
        let required = rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        for name in required.filter(|name| !fields.iter().any(|(key, _)| key.text == **name)) {
            let about = known.and_then(|known| known.get(name)).and_then(|schema| schema.get("description")?.as_str());
            let about = about.map(|text| format!(" ({})", text.split(['.', ':']).next().unwrap_or(text)));
            self.problem(node.at, format!("{name:?} is missing{}", about.unwrap_or_default()));
        }
        if rules.contains_key("minProperties") && fields.is_empty() {
            self.problem(node.at, "it is empty: write at least one");
        }
        Value::Object(object)
    }

    fn list(&mut self, node: &Node, items: &[Arc<Node>], rules: &'static Rules) -> Value {
        if rules.contains_key("minItems") && items.is_empty() {
            self.problem(node.at, "the list is empty: write at least one");
        }
        let schema = rules.get("items");
        let item = |item: &Arc<Node>| match schema {
            Some(schema) => self.fit(item, schema),
            None => self.json(item),
        };
        Value::Array(items.iter().map(item).collect())
    }

    fn scalar(&mut self, node: &Node, text: &str, is_plain: bool, kind: &str, rules: &'static Rules) -> Value {
        let value = match (kind, plain(text)) {
            ("string", Plain::Null) if is_plain => None,
            ("string", _) => Some(Value::String(text.to_owned())),
            ("boolean", Plain::Bool(is_so)) if is_plain => Some(Value::Bool(is_so)),
            ("integer", Plain::Number(number)) if is_plain => whole(&number).map(Value::Number),
            ("number", Plain::Number(number)) if is_plain => Some(Value::Number(number)),
            _ => None,
        };
        let Some(value) = value else {
            self.wrong_kind(node, words(kind));
            return Value::Null;
        };
        if let Some(choices) = rules.get("enum").and_then(Value::as_array) {
            let names: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
            if !names.contains(&text) {
                let meant = meant(text, names.iter().copied());
                let among = format!("it must be one of {}", names.join(", "));
                self.problem(node.at, if meant.is_empty() { among } else { format!("{text:?} is not known{meant}") });
            }
            return value;
        }
        let has_pattern = |wanted: &str| rules.get("pattern").is_some_and(|pattern| pattern == wanted);
        let schema = Value::Object(rules.clone());
        if let Err(unfit) = check(&value, &schema) {
            let example = rules.get("examples").and_then(|all| all.get(0)).and_then(Value::as_str);
            let message = match example {
                Some(_) if has_pattern(Span::PATTERN) && SpanOrNone::parse(text).is_some() => {
                    "no time at all cannot be meant: write how long, or leave the key out".to_owned()
                }
                Some(example) => format!("it must look like {example}"),
                None => unfit.problem,
            };
            self.problem(node.at, message);
        } else if [Span::PATTERN, SpanOrNone::PATTERN].into_iter().any(has_pattern) && SpanOrNone::parse(text).is_none()
        {
            self.problem(node.at, "it is longer than anybody waits: write at most 36500d");
        }
        value
    }
}

/// What is wrong with a text as a name.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    match name {
        _ if name.trim().is_empty() => Some("must not be empty"),
        _ if name.chars().any(char::is_control) => Some("is one line of text without control characters"),
        _ => None,
    }
}

/// A whole number, however it is written: `1e3` and `2.0` are some.
fn whole(number: &Number) -> Option<Number> {
    /// All whole numbers up to here are floats.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        _ if !number.is_f64() => Some(number.clone()),
        Some(float) if float.fract() == 0.0 && float.abs() <= EXACT => format!("{float:.0}").parse().ok(),
        _ => None,
    }
}

/// A kind of JSON, for people who write YAML.
fn words(kind: &str) -> &'static str {
    match kind {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "something else",
    }
}
