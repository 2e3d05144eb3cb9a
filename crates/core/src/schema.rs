//! Checks JSON against a JSON Schema, and says where it does not fit.
//!
//! It knows the keywords by which people describe answers and inputs; any other lets every value pass, as does a
//! reference that leads nowhere. It must never change a value ([`coerce`](crate::coerce) does), and what it says never
//! repeats one: a value may be private.

use crate::nearest::nearest;
use regex_lite::Regex;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// The most subschemas examined: a schema that refers to itself may offer endless choices.
const STEPS_MAX: usize = 100_000;
/// And for each part of the value, as many more.
const STEPS_PER_PART: usize = 64;
/// How many levels of a value, or of the schemas nested around one value, are examined.
const DEPTH_MAX: u32 = 200;
/// How many names a message lists.
const NAMES_MAX: usize = 20;

/// What is wrong with a value, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", .path.as_deref().map(|path| format!("at {path}: ")).unwrap_or_default())]
pub struct Unfit {
    /// `gift.to[2]`; none for the whole value.
    pub path: Option<String>,
    /// What is wrong there.
    pub problem: String,
    /// It is another kind of value altogether.
    is_of_other_kind: bool,
}

/// Checks that the value is what the schema describes.
///
/// Known are `type`, `nullable`, `const`, `enum`, `$ref` within the schema, `allOf`, `anyOf`, `oneOf`, `not`, `if` with
/// `then` and `else`; of objects `properties`, `required`, `dependentRequired`, `additionalProperties`,
/// `patternProperties`, `propertyNames`, `minProperties`, `maxProperties`; of lists `items`, `prefixItems`, `contains`,
/// `minItems`, `maxItems`, `uniqueItems`; of text `minLength`, `maxLength` (in characters), `pattern`; of numbers
/// `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`.
///
/// ```
/// use outlive_core::check;
/// use serde_json::json;
///
/// let schema = json!({
///     "type": "object",
///     "properties": { "to": { "type": "array", "items": { "type": "string" } } },
///     "required": ["to"],
/// });
/// assert!(check(&json!({ "to": ["Ada"] }), &schema).is_ok());
/// let unfit = check(&json!({ "to": ["Ada", 7] }), &schema).unwrap_err();
/// assert_eq!(unfit.to_string(), "at to[1]: it must be text, and is a number");
/// ```
///
/// # Errors
/// The first thing that is wrong.
pub fn check(value: &Value, schema: &Value) -> Result<(), Unfit> {
    Checking { root: schema, steps_left: STEPS_MAX + parts(value) * STEPS_PER_PART, depth: 0 }.check(value, schema)
}

/// Of how many values it consists.
fn parts(value: &Value) -> usize {
    let (mut count, mut open) = (0, vec![value]);
    while let Some(value) = open.pop() {
        count += 1;
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => open.extend(fields.values()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    count
}

/// One value being checked.
struct Checking<'a> {
    root: &'a Value,
    steps_left: usize,
    depth: u32,
}

impl<'a> Checking<'a> {
    fn check(&mut self, value: &Value, schema: &'a Value) -> Result<(), Unfit> {
        if self.steps_left == 0 || self.depth >= DEPTH_MAX {
            return Ok(());
        }
        self.steps_left -= 1;
        self.depth += 1;
        let checked = self.check_here(value, schema);
        self.depth -= 1;
        checked
    }

    fn check_here(&mut self, value: &Value, schema: &'a Value) -> Result<(), Unfit> {
        let Some(rules) = schema.as_object() else {
            return if schema == &Value::Bool(false) { unfit("nothing may stand here") } else { Ok(()) };
        };
        let reference = rules.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
        if let Some(target) = reference.and_then(|pointer| self.root.pointer(pointer)) {
            self.check(value, target)?;
        }
        check_kind(value, rules)?;
        match value {
            Value::Object(fields) => self.check_object(fields, rules)?,
            Value::Array(items) => self.check_list(items, rules)?,
            Value::String(text) => check_text(text, rules)?,
            Value::Number(number) => check_number(number.as_f64().unwrap_or_default(), rules)?,
            Value::Null | Value::Bool(_) => {}
        }
        for part in list(rules, "allOf") {
            self.check(value, part)?;
        }
        self.check_choices(value, rules)
    }

    fn check_object(&mut self, fields: &Map<String, Value>, rules: &'a Map<String, Value>) -> Result<(), Unfit> {
        let required = list(rules, "required").iter().filter_map(Value::as_str);
        let missing: Vec<_> = required.filter(|name| !fields.contains_key(*name)).collect();
        if !missing.is_empty() {
            let known = |name: &&String| rules.get("properties").is_some_and(|known| known.get(*name).is_some());
            let mistyped = fields.keys().filter(|name| !known(name));
            let mistyped = mistyped.filter_map(|name| Some((name, nearest(name, missing.iter().copied())?))).next();
            let meant = mistyped.map(|(name, meant)| format!(", and has {name:?}: did you mean {meant:?}?"));
            return unfit(format!("it lacks {}{}", names(&missing), meant.unwrap_or_default()));
        }
        for (name, others) in rules.get("dependentRequired").and_then(Value::as_object).into_iter().flatten() {
            let others = others.as_array().into_iter().flatten().filter_map(Value::as_str);
            let missing: Vec<_> = others.filter(|other| !fields.contains_key(*other)).collect();
            if fields.contains_key(name) && !missing.is_empty() {
                return unfit(format!("it lacks {}, needed beside {name}", names(&missing)));
            }
        }
        if let Some(schema) = rules.get("propertyNames") {
            let is_unfit = |name: &&String| self.check(&Value::String((*name).clone()), schema).is_err();
            if let Some(name) = fields.keys().find(is_unfit) {
                return unfit(format!("it may not have the field {name:?}"));
            }
        }
        check_size(fields.len(), rules, "minProperties", "maxProperties", "fields")?;
        let patterns = rules.get("patternProperties").and_then(Value::as_object);
        let patterns: Vec<_> = patterns.into_iter().flatten().map(|(text, schema)| (pattern(text), schema)).collect();
        for (name, field) in fields {
            let mut is_known = false;
            if let Some(schema) = rules.get("properties").and_then(|properties| properties.get(name)) {
                is_known = true;
                self.check(field, schema).map_err(|unfit| unfit.within(name))?;
            }
            for (pattern, schema) in &patterns {
                // A pattern that cannot be read may mean any name.
                let Some(pattern) = pattern else {
                    is_known = true;
                    continue;
                };
                if pattern.is_match(name) {
                    is_known = true;
                    self.check(field, schema).map_err(|unfit| unfit.within(name))?;
                }
            }
            match rules.get("additionalProperties").filter(|_| !is_known) {
                None => {}
                Some(Value::Bool(false)) => return unfit(format!("it may not have the field {name:?}")),
                Some(schema) => self.check(field, schema).map_err(|unfit| unfit.within(name))?,
            }
        }
        Ok(())
    }

    fn check_list(&mut self, items: &[Value], rules: &'a Map<String, Value>) -> Result<(), Unfit> {
        check_size(items.len(), rules, "minItems", "maxItems", "items")?;
        let first = list(rules, "prefixItems");
        for (index, item) in items.iter().enumerate() {
            if let Some(schema) = first.get(index).or_else(|| rules.get("items")) {
                self.check(item, schema).map_err(|unfit| unfit.within(&format!("[{index}]")))?;
            }
        }
        if let Some(schema) = rules.get("contains")
            && !items.iter().any(|item| self.check(item, schema).is_ok())
        {
            return unfit("none of its items is one that must be among them");
        }
        if rules.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = HashSet::new();
            if let Some(twice) = items.iter().position(|item| !seen.insert(written(item))) {
                return Err(Unfit::new("it stands in the list twice").within(&format!("[{twice}]")));
            }
        }
        Ok(())
    }

    fn check_choices(&mut self, value: &Value, rules: &'a Map<String, Value>) -> Result<(), Unfit> {
        for (name, is_one) in [("anyOf", false), ("oneOf", true)] {
            let choices = list(rules, name);
            if choices.is_empty() {
                continue;
            }
            let checked: Vec<_> = choices.iter().map(|schema| self.check(value, schema)).collect();
            match checked.iter().filter(|checked| checked.is_ok()).count() {
                0 => return Err(closest(checked)),
                2.. if is_one => return unfit("it fits several of the choices, and must fit one"),
                _ => {}
            }
        }
        if let Some(schema) = rules.get("not")
            && self.check(value, schema).is_ok()
        {
            return unfit("it is what must not stand here");
        }
        let Some(condition) = rules.get("if") else { return Ok(()) };
        let follows = if self.check(value, condition).is_ok() { "then" } else { "else" };
        rules.get(follows).map_or(Ok(()), |schema| self.check(value, schema))
    }
}

/// Of the ways in which no choice fits, the one that went deepest, or at least found the right kind of value: that choice
/// was probably meant.
fn closest(checked: Vec<Result<(), Unfit>>) -> Unfit {
    let several = checked.len() > 1;
    let failed = checked.into_iter().filter_map(Result::err);
    let deepest = failed.max_by_key(|unfit| (unfit.path.as_deref().map_or(0, str::len), !unfit.is_of_other_kind));
    match deepest {
        Some(unfit) if unfit.path.is_some() || !unfit.is_of_other_kind || !several => unfit,
        _ => Unfit::new("it fits none of the choices"),
    }
}

impl Unfit {
    fn new(problem: impl Into<String>) -> Self {
        Self { path: None, problem: problem.into(), is_of_other_kind: false }
    }

    fn within(self, part: &str) -> Self {
        let path = match self.path {
            None => part.to_owned(),
            Some(inner) if inner.starts_with('[') => format!("{part}{inner}"),
            Some(inner) => format!("{part}.{inner}"),
        };
        Self { path: Some(path), ..self }
    }
}

fn unfit(problem: impl Into<String>) -> Result<(), Unfit> {
    Err(Unfit::new(problem))
}

/// What the value itself is, whatever stands inside it.
fn check_kind(value: &Value, rules: &Map<String, Value>) -> Result<(), Unfit> {
    let is = |kind: &str| match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(number) => {
            let is_whole = || !number.is_f64() || number.as_f64().is_some_and(|float| float.fract() == 0.0);
            kind == "number" || kind == "integer" && is_whole()
        }
        Value::String(_) => kind == "string",
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    };
    let kinds: Vec<&str> = match rules.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.and_then(Value::as_str).into_iter().collect(),
    };
    let is_nullable = value.is_null() && rules.get("nullable") == Some(&Value::Bool(true));
    if !kinds.is_empty() && !is_nullable && !kinds.iter().any(|kind| is(kind)) {
        let wanted: Vec<_> = kinds.into_iter().map(in_words).collect();
        let problem = format!("it must be {}, and is {}", wanted.join(" or "), in_words(kind_of(value)));
        return Err(Unfit { is_of_other_kind: true, ..Unfit::new(problem) });
    }
    if rules.get("const").is_some_and(|only| !is_same(only, value)) {
        return unfit("it is not the one value that may stand here");
    }
    if rules.get("enum").and_then(Value::as_array).is_some_and(|values| !values.iter().any(|one| is_same(one, value))) {
        let values: Vec<_> = list(rules, "enum").iter().map(Value::to_string).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        return unfit(format!("it must be one of {}", names(&values)));
    }
    Ok(())
}

fn check_text(text: &str, rules: &Map<String, Value>) -> Result<(), Unfit> {
    if ["minLength", "maxLength"].iter().any(|rule| rules.contains_key(*rule)) {
        check_size(text.chars().count(), rules, "minLength", "maxLength", "characters")?;
    }
    match rules.get("pattern").and_then(Value::as_str) {
        Some(wanted) if pattern(wanted).is_some_and(|pattern| !pattern.is_match(text)) => {
            unfit(format!("it does not match the pattern {wanted}"))
        }
        _ => Ok(()),
    }
}

fn check_number(number: f64, rules: &Map<String, Value>) -> Result<(), Unfit> {
    let limit = |name: &str| rules.get(name).and_then(Value::as_f64);
    let rule = |name: &str, breaks: fn(f64, f64) -> bool, words: &str| match limit(name) {
        Some(limit) if breaks(number, limit) => unfit(format!("it must be {words} {limit}")),
        _ => Ok(()),
    };
    rule("minimum", |number, limit| number < limit, "at least")?;
    rule("maximum", |number, limit| number > limit, "at most")?;
    rule("exclusiveMinimum", |number, limit| number <= limit, "more than")?;
    rule("exclusiveMaximum", |number, limit| number >= limit, "less than")?;
    // As far as the number can be told apart from its neighbours.
    let is_multiple = |number: f64, of: f64| {
        let times = number / of;
        of <= 0.0 || (times - times.round()).abs() <= times.abs() * f64::EPSILON
    };
    match limit("multipleOf") {
        Some(of) if !is_multiple(number, of) => unfit(format!("it must be a multiple of {of}")),
        _ => Ok(()),
    }
}

/// Whether these are one value: 1 and 1.0 are, and the order of fields does not matter.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || written(one) == written(other)
}

/// The same text for the same value.
fn written(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(",")),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            let fields = fields.into_iter().map(|(name, field)| format!("{name:?}:{}", written(field)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

fn check_size(size: usize, rules: &Map<String, Value>, least: &str, most: &str, what: &str) -> Result<(), Unfit> {
    let limit = |name: &str| rules.get(name).and_then(Value::as_u64);
    let what = if size == 1 { &what[..what.len() - 1] } else { what };
    let size = size as u64;
    match (limit(least), limit(most)) {
        (Some(least), _) if size < least => unfit(format!("it has {size} {what}, and needs at least {least}")),
        (_, Some(most)) if size > most => unfit(format!("it has {size} {what}, and may have at most {most}")),
        _ => Ok(()),
    }
}

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

fn list<'a>(rules: &'a Map<String, Value>, name: &str) -> &'a [Value] {
    rules.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn names(names: &[&str]) -> String {
    let more = if names.len() > NAMES_MAX { ", …" } else { "" };
    format!("{}{more}", names[..names.len().min(NAMES_MAX)].join(", "))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn in_words(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "number" => "a number",
        "integer" => "a whole number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "an object",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_said_with_its_path_and_never_repeated() {
        let person = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[A-Z]" },
                "age": { "type": "integer", "minimum": 0, "exclusiveMaximum": 150 },
                "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 2, "uniqueItems": true },
                "pair": { "prefixItems": [{ "type": "number" }, { "type": ["string", "null"] }], "items": false },
                "boss": { "anyOf": [{ "$ref": "#" }, { "type": "null" }] },
                "pet": { "oneOf": [{ "const": "cat" }, { "type": "string", "maxLength": 3 }] },
                "note": { "type": "string", "nullable": true },
                "odd": { "not": { "type": "string" } },
            },
            "required": ["name"],
            "additionalProperties": false,
        });
        let with = |field: &str, value: Value| {
            let mut all = json!({ "name": "Ada" });
            all[field] = value;
            all
        };
        let table = [
            (json!({ "name": "Ada" }), ""),
            (with("age", json!(36.0)), ""),
            (with("note", json!(null)), ""),
            (with("boss", json!({ "name": "Eve" })), ""),
            (json!([]), "it must be an object, and is a list"),
            (json!({}), "it lacks name"),
            (json!({ "naem": "Ada" }), "it lacks name, and has \"naem\": did you mean \"name\"?"),
            (with("name", json!("A")), "at name: it has 1 character, and needs at least 2"),
            (with("name", json!("Ääääa")), "at name: it has 5 characters, and may have at most 4"),
            (with("name", json!("ada")), "at name: it does not match the pattern ^[A-Z]"),
            (with("age", json!("36")), "at age: it must be a whole number, and is text"),
            (with("age", json!(1.5)), "at age: it must be a whole number, and is a number"),
            (with("age", json!(-1)), "at age: it must be at least 0"),
            (with("age", json!(150)), "at age: it must be less than 150"),
            (with("tags", json!(["a", "c"])), r#"at tags[1]: it must be one of "a", "b""#),
            (with("tags", json!(["a", "a"])), "at tags[1]: it stands in the list twice"),
            (with("tags", json!(["a", "b", "a"])), "at tags: it has 3 items, and may have at most 2"),
            (with("pair", json!([1, 2])), "at pair[1]: it must be text or null, and is a number"),
            (with("pair", json!([1, "x", 3])), "at pair[2]: nothing may stand here"),
            (with("boss", json!({ "name": "Ada", "boss": { "age": 3 } })), "at boss.boss: it lacks name"),
            (with("boss", json!(7)), "at boss: it fits none of the choices"),
            (with("pet", json!("cat")), "at pet: it fits several of the choices, and must fit one"),
            (with("pet", json!("dog")), ""),
            (with("odd", json!("x")), "at odd: it is what must not stand here"),
            (with("secret", json!("hunter2")), r#"it may not have the field "secret""#),
        ];
        for (value, expected) in table {
            let said = check(&value, &person).err().map(|unfit| unfit.to_string()).unwrap_or_default();
            assert_eq!(said, expected, "{value}");
        }
    }

    #[test]
    fn rules_that_depend_on_other_parts_and_values_written_in_two_ways_are_understood() {
        let schema = json!({
            "properties": {
                "kind": { "enum": ["card", 1] },
                "even": { "multipleOf": 2 },
                "cents": { "multipleOf": 0.01 },
                "one": { "const": { "a": 1, "b": [2] } },
                "has": { "contains": { "type": "string" } },
                "sets": { "uniqueItems": true },
            },
            "propertyNames": { "maxLength": 6 },
            "dependentRequired": { "card": ["holder", "until"] },
            "if": { "properties": { "kind": { "const": "card" } }, "required": ["kind"] },
            "then": { "required": ["card"] },
            "else": { "not": { "required": ["card"] } },
        });
        for (value, expected) in [
            (json!({ "kind": 1.0, "even": 4, "cents": 19.99, "one": { "b": [2.0], "a": 1.0 }, "has": [1, "x"] }), ""),
            (json!({ "kind": "card", "card": 1, "holder": 2, "until": 3 }), ""),
            (json!({ "kind": "card" }), "it lacks card"),
            (json!({ "kind": "card", "card": 1, "until": 3 }), "it lacks holder, needed beside card"),
            (json!({ "card": 1, "holder": 2, "until": 3 }), "it is what must not stand here"),
            (json!({ "kind": 1.5 }), r#"at kind: it must be one of "card", 1"#),
            (json!({ "even": 3 }), "at even: it must be a multiple of 2"),
            (json!({ "even": 4.5 }), "at even: it must be a multiple of 2"),
            (json!({ "cents": 0.015 }), "at cents: it must be a multiple of 0.01"),
            (json!({ "one": { "a": 1 } }), "at one: it is not the one value that may stand here"),
            (json!({ "has": [1, 2] }), "at has: none of its items is one that must be among them"),
            (json!({ "sets": [{ "a": 1, "b": 2 }, { "b": 2, "a": 1.0 }] }), "at sets[1]: it stands in the list twice"),
            (json!({ "sets": ["1", 1, "1.0", null, "null"] }), ""),
            (json!({ "too long": 1 }), r#"it may not have the field "too long""#),
        ] {
            let said = check(&value, &schema).err().map(|unfit| unfit.to_string()).unwrap_or_default();
            assert_eq!(said, expected, "{value}");
        }
    }

    #[test]
    fn what_is_not_understood_lets_everything_pass_and_endless_schemas_end() {
        for schema in [json!(true), json!({}), json!("text"), json!({ "$ref": "#/nowhere" }), json!({ "pattern": "(" })]
        {
            assert_eq!(check(&json!("x"), &schema), Ok(()), "{schema}");
        }
        let endless = json!({ "anyOf": [{ "$ref": "#" }, { "$ref": "#" }, { "$ref": "#" }] });
        assert_eq!(check(&json!(1), &endless), Ok(()));
        // The end of a long value is checked as its beginning is.
        let mut long: Vec<_> = (0..60_000).map(|n| json!({ "a": n, "b": n })).collect();
        long.push(json!({ "a": "x" }));
        let numbers = json!({ "items": { "additionalProperties": { "type": "number" } } });
        let said = check(&Value::Array(long), &numbers).unwrap_err().to_string();
        assert_eq!(said, "at [60000].a: it must be a number, and is text");
        let mapped = json!({ "patternProperties": { "^n_": { "type": "number" } }, "additionalProperties": false });
        assert_eq!(check(&json!({ "n_a": 1 }), &mapped), Ok(()));
        let said = check(&json!({ "n_a": "x" }), &mapped).unwrap_err().to_string();
        assert_eq!(said, "at n_a: it must be a number, and is text");
    }
}
