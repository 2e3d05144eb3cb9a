//! A tree against the schema: every problem at its place, and JSON of the types that the schema wants.
//!
//! It must never know what a file means, only its shape. The invariant: the JSON fits the schema but for the lengths of lists
//! and mappings; what does not is left out of it, or has a stand-in, and its place is remembered.

use super::schema::{KIND, checked, resolved};
use super::secrets;
use super::syntax::{Span, SpanOrNone};
use super::yaml::{At, Key, Misread, Node, Plain, What, plain};
use outlive_agent::model::is_secret_name;
use outlive_core::check;
use serde_json::{Map, Number, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

type Rules = Map<String, Value>;

/// How a tree fits the schema.
pub(super) struct Fitted {
    pub(super) value: Value,
    pub(super) problems: Vec<Misread>,
    /// Where something was left out or has a stand-in: whatever else is said of these places may follow from that.
    pub(super) doubtful: BTreeSet<At>,
    /// Whether a key of the file itself was left out: what other parts name may be declared under it.
    pub(super) lacks_names: bool,
}

/// The document's JSON, and what is wrong with it.
pub(super) fn fit(node: &Node) -> Fitted {
    let mut fitting = Fitting { problems: Vec::new(), doubtful: BTreeSet::new(), refers: None };
    let value = fitting.fit(node, checked());
    let is_known = |(key, _): &(Key, Arc<Node>)| value.as_ref().is_some_and(|value| value.get(&key.text).is_some());
    let lacks_names = !matches!(&node.what, What::Map(fields) if fields.iter().all(is_known));
    let value = value.unwrap_or_default();
    Fitted { value, problems: fitting.problems, doubtful: fitting.doubtful, lacks_names }
}

/// The least that fits a schema.
fn stand_in(schema: &'static Value) -> Value {
    let Some(rules) = resolved(schema) else { return Value::Null };
    if let Some(choices) = rules.get("anyOf").or_else(|| rules.get("oneOf")).and_then(Value::as_array) {
        return choices.first().map(stand_in).unwrap_or_default();
    }
    if let Some(one) = ["enum", "examples"].iter().find_map(|key| rules.get(*key)?.get(0)) {
        return one.clone();
    }
    match rules.get("type").and_then(Value::as_str) {
        Some("object") => {
            let of = |name: &'static str| Some((name.to_owned(), stand_in(rules.get("properties")?.get(name)?)));
            Value::Object(required(rules).filter_map(of).collect())
        }
        Some("array") => json!([]),
        Some("string") => json!(""),
        Some("boolean") => json!(false),
        Some("integer" | "number") => rules.get("minimum").cloned().unwrap_or(json!(1)),
        _ => Value::Null,
    }
}

/// The keys that an object must have.
fn required(rules: &'static Rules) -> impl Iterator<Item = &'static str> {
    rules.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// `: did you mean "agent"?`, if one is near.
pub(super) fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let distance = |name: &str| strsim::damerau_levenshtein(word, name);
    let nearest = known.filter(|name| *name != word).map(|name| (distance(name), name)).min();
    let allowed = (word.chars().count() / 3 + 1).min(3);
    match nearest {
        Some((far, name)) if far <= allowed => format!(": did you mean {name:?}?"),
        _ => String::new(),
    }
}

/// Keys whose text names something that is declared elsewhere, and what.
const REFERENCES: [(&str, &str); 9] = [
    ("agent", "an agent under `agents`"),
    ("team", "a team under `teams`"),
    ("workflow", "a workflow under `workflows`"),
    ("model", "a model, such as openai:gpt-5.2, or of one under `models`"),
    ("summarize", "a model, such as openai:gpt-5.2, or of one under `models`"),
    ("fallbacks", "a model, such as openai:gpt-5.2, or of one under `models`"),
    ("tools", "a tool under `tools`"),
    ("members", "an agent under `agents` or a team under `teams`"),
    ("steer_to", "an agent under `agents` or a team under `teams`"),
];

/// Words of Agno's that have other names in files; of several, the one that there is.
pub(super) const AGNOS: [(&str, &str); 43] = [
    ("output_schema", "output"),
    ("response_model", "output"),
    ("input_schema", "input"),
    ("add_history_to_context", "history"),
    ("add_workflow_history", "history"),
    ("add_workflow_history_to_steps", "history"),
    ("num_history_runs", "history"),
    ("add_session_state_to_context", "session_state"),
    ("fallback_models", "fallbacks"),
    ("pre_hooks", "guardrails"),
    ("retries", "retry"),
    ("max_retries", "retry"),
    ("delay_between_retries", "retry"),
    ("exponential_backoff", "retry"),
    ("skip_on_failure", "on_error"),
    ("executor", "function"),
    ("human_review", "review"),
    ("requires_confirmation", "review"),
    ("requires_confirmation", "confirm"),
    ("requires_user_input", "review"),
    ("requires_user_input", "user_input"),
    ("requires_user_input", "ask"),
    ("requires_output_review", "review"),
    ("requires_output_review", "output"),
    ("requires_iteration_review", "iterations"),
    ("confirmation_message", "confirm"),
    ("user_input_message", "ask"),
    ("user_input_schema", "fields"),
    ("user_input_fields", "user_input"),
    ("output_review_message", "output"),
    ("iteration_review_message", "iterations"),
    ("allow_multiple_selections", "several"),
    ("end_condition", "until"),
    ("evaluator", "when"),
    ("else_steps", "else"),
    ("selector", "select"),
    ("forward_iteration_output", "forward_output"),
    ("parameters", "arguments"),
    ("include_tools", "include"),
    ("exclude_tools", "exclude"),
    ("tool_name_prefix", "prefix"),
    ("timezone", "time_zone"),
    ("api_key", "api_key_variable"),
];

/// What somebody meant by a key that there is not: a word of Agno's, or one with a typing error.
fn meant_key<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let agnos = AGNOS.iter().find(|(agnos, ours)| *agnos == word && known.clone().any(|name| name == *ours));
    agnos.map_or_else(|| meant(word, known), |(_, ours)| format!(": did you mean {ours:?}?"))
}

struct Fitting {
    problems: Vec<Misread>,
    doubtful: BTreeSet<At>,
    /// What the text in hand names.
    refers: Option<&'static str>,
}

impl Fitting {
    fn problem(&mut self, at: At, message: impl Into<String>) {
        self.problems.push(Misread::new(at, message));
    }

    /// Its JSON, unless it is nothing of the kind that the schema wants.
    fn fit(&mut self, node: &Node, schema: &'static Value) -> Option<Value> {
        // Anything.
        let Some(rules) = resolved(schema) else { return Some(self.json(node)) };
        let choices = rules.get("anyOf").or_else(|| rules.get("oneOf")).and_then(Value::as_array);
        if let Some(choices) = choices {
            return self.choose(node, choices).and_then(|choice| self.fit(node, choice));
        }
        match (rules.get("type").and_then(Value::as_str), &node.what) {
            (None, _) => Some(self.json(node)),
            (Some("object"), What::Map(fields)) => Some(self.object(node, fields, rules)),
            (Some("array"), What::List(items)) => Some(self.list(node, items, rules)),
            (Some(kind @ ("string" | "integer" | "number" | "boolean")), What::Scalar { text, is_plain, .. }) => {
                self.scalar(node, text, *is_plain, kind, rules)
            }
            (Some(kind), _) => {
                self.wrong_kind(node, words(kind));
                None
            }
        }
    }

    /// Its JSON, or what stands for it.
    fn fit_or_stand_in(&mut self, node: &Node, schema: &'static Value) -> Value {
        self.fit(node, schema).unwrap_or_else(|| {
            self.doubtful.insert(node.at);
            stand_in(schema)
        })
    }

    fn wrong_kind(&mut self, node: &Node, wanted: &str) {
        let message = match self.refers.filter(|_| wanted == "text" && !matches!(node.what, What::Scalar { .. })) {
            Some(what) => {
                format!(
                    "it must be the name of {what}, and is {}: declare it there, and write its name here",
                    node.kind()
                )
            }
            None if node.is_nothing() => format!("nothing is written here: write {wanted}, or leave the key out"),
            None => format!("it must be {wanted}, and is {}", node.kind()),
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
        let mut mistyped = Vec::new();
        // That it merges nothing was told.
        for (key, value) in fields.iter().filter(|(key, _)| key.text != "<<") {
            match (known.and_then(|known| known.get(&key.text)), others) {
                (Some(schema), _) => {
                    let refers = REFERENCES.iter().find(|(name, _)| *name == key.text).map(|(_, what)| *what);
                    let outer = std::mem::replace(&mut self.refers, refers);
                    match self.fit(value, schema) {
                        Some(value) => drop(object.insert(key.text.clone(), value)),
                        None => self.doubtful.extend([node.at, value.at]),
                    }
                    self.doubt_key(key, value);
                    self.refers = outer;
                }
                (None, Some(schema)) if !is_closed => {
                    if let Some(problem) = name_problem(&key.text) {
                        self.problem(key.at, format!("a name {problem}"));
                    }
                    object.insert(key.text.clone(), self.fit_or_stand_in(value, schema));
                    self.doubt_key(key, value);
                }
                (None, None) => drop(object.insert(key.text.clone(), self.json(value))),
                (None, Some(_)) if is_secret(key, value, known) => {
                    self.problems.push(Misread::hiding(key.at, value.last_line, secrets::MESSAGE));
                    self.doubtful.insert(node.at);
                }
                (None, Some(_)) => {
                    let names: Vec<_> = known.into_iter().flat_map(|known| known.keys().map(String::as_str)).collect();
                    let meant = meant_key(&key.text, names.iter().copied());
                    let message = match meant.is_empty() {
                        true => format!("unknown key {:?}: there are {}", key.text, names.join(", ")),
                        false => format!("unknown key {:?}{meant}", key.text),
                    };
                    self.problem(key.at, message);
                    self.doubtful.insert(node.at);
                    mistyped.push(meant);
                }
            }
        }
        for name in required(rules) {
            if let (false, Some(schema)) = (object.contains_key(name), known.and_then(|known| known.get(name))) {
                object.insert(name.to_owned(), stand_in(schema));
                self.doubtful.insert(node.at);
            }
        }
        let is_there = |name: &str| {
            let is_meant = format!("did you mean {name:?}?");
            fields.iter().any(|(key, _)| key.text == name) || mistyped.iter().any(|meant| meant.contains(&is_meant))
        };
        for name in required(rules).filter(|name| !is_there(name)) {
            let about = known.and_then(|known| known.get(name)).and_then(|schema| schema.get("description")?.as_str());
            let about = about.map(|text| format!(" ({})", text.split(['.', ':']).next().unwrap_or(text)));
            self.problem(node.at, format!("{name:?} is missing{}", about.unwrap_or_default()));
        }
        if rules.contains_key("minProperties") && fields.is_empty() {
            self.problem(node.at, "it is empty: write at least one");
        }
        Value::Object(object)
    }

    /// What is said of a thing may stand at its key.
    fn doubt_key(&mut self, key: &Key, value: &Node) {
        if self.doubtful.contains(&value.at) {
            self.doubtful.insert(key.at);
        }
    }

    fn list(&mut self, node: &Node, items: &[Arc<Node>], rules: &'static Rules) -> Value {
        if rules.contains_key("minItems") && items.is_empty() {
            self.problem(node.at, "the list is empty: write at least one");
        }
        let schema = rules.get("items");
        let item = |item: &Arc<Node>| match schema {
            Some(schema) => self.fit_or_stand_in(item, schema),
            None => self.json(item),
        };
        Value::Array(items.iter().map(item).collect())
    }

    fn scalar(&mut self, node: &Node, text: &str, is_plain: bool, kind: &str, rules: &'static Rules) -> Option<Value> {
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
            return None;
        };
        if let Some(choices) = rules.get("enum").and_then(Value::as_array) {
            let names: Vec<_> = choices.iter().filter_map(Value::as_str).collect();
            if !names.contains(&text) {
                let meant = meant(text, names.iter().copied());
                let among = format!("it must be one of {}", names.join(", "));
                self.problem(node.at, if meant.is_empty() { among } else { format!("{text:?} is not known{meant}") });
                return None;
            }
            return Some(value);
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
            return None;
        }
        if [Span::PATTERN, SpanOrNone::PATTERN].into_iter().any(has_pattern) && SpanOrNone::parse(text).is_none() {
            self.problem(node.at, "it is longer than anybody waits: write at most 36500d");
            return None;
        }
        Some(value)
    }
}

/// Whether a key that there is not is called like a secret, and has one; `api_key: HOUSE_KEY` only names a variable.
fn is_secret(key: &Key, value: &Node, known: Option<&Rules>) -> bool {
    const NAMES: &str = "api_key_variable";
    let What::Scalar { text, .. } = &value.what else { return false };
    let is_meant = known.is_some_and(|known| known.contains_key(NAMES))
        && meant_key(&key.text, std::iter::once(NAMES)).contains(NAMES)
        && secrets::is_variable_of_key(text);
    is_secret_name(&key.text) && !text.trim().is_empty() && !value.is_nothing() && !is_meant
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_word_that_is_proposed_is_one_of_the_schema() {
        let (mut known, mut rest) = (BTreeSet::new(), vec![checked()]);
        while let Some(value) = rest.pop() {
            if let Some(properties) = value.get("properties").and_then(Value::as_object) {
                known.extend(properties.keys().map(String::as_str));
            }
            match value {
                Value::Object(fields) => rest.extend(fields.values()),
                Value::Array(items) => rest.extend(items),
                _ => {}
            }
        }
        let proposed = AGNOS.iter().map(|(_, ours)| *ours).chain(REFERENCES.iter().map(|(key, _)| *key));
        let unknown: Vec<_> = proposed.filter(|word| !known.contains(word)).collect();
        assert_eq!(unknown, Vec::<&str>::new());
    }
}
