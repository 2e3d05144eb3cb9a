//! Schemas as the endpoint's format for answers takes them: a part of JSON Schema, in which every object is closed.
//!
//! It must never know a request. Invariant: what the format cannot say is not said differently: constraints are left to
//! whoever checks the answer, and told to the model as words; a schema that would mean something else without them is
//! none.

use super::ANSWER_FIELD;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

/// Formats of text that the endpoint knows.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];

/// The schema as a format; none for one with objects of any names, one that holds itself, or one that is no object.
pub(super) fn as_format(schema: &Value) -> Option<Value> {
    let is_finite = !holds_itself(schema, schema, &mut Vec::new(), &mut HashSet::new());
    is_finite.then(|| narrowed(schema)).flatten()
}

/// An object whose only field has the schema.
pub(super) fn within_object(schema: &Value) -> Value {
    let mut inner = schema.clone();
    // References are read from the root.
    let shared: Map<String, Value> = ["$defs", "definitions"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), inner.as_object_mut()?.remove(name)?)))
        .collect();
    let mut outer = json!({"type": "object", "properties": {ANSWER_FIELD: inner}, "required": [ANSWER_FIELD]});
    if let Value::Object(fields) = &mut outer {
        fields.extend(shared);
    }
    outer
}

fn narrowed(schema: &Value) -> Option<Value> {
    let fields = schema.as_object()?;
    let (mut kept, mut told) = (Map::new(), Vec::new());
    for (name, value) in fields {
        let value = match name.as_str() {
            "type" | "enum" | "const" | "title" | "description" | "required" | "$ref" | "default" => value.clone(),
            "properties" | "$defs" | "definitions" => {
                let named = value.as_object()?.iter().map(|(name, schema)| Some((name.clone(), narrowed(schema)?)));
                Value::Object(named.collect::<Option<_>>()?)
            }
            "items" => narrowed(value)?,
            "anyOf" | "oneOf" | "allOf" => value.as_array()?.iter().map(narrowed).collect::<Option<_>>()?,
            "format" if value.as_str().is_some_and(|format| FORMATS.contains(&format)) => value.clone(),
            "minItems" if value.as_u64().is_some_and(|least| least <= 1) => value.clone(),
            "additionalProperties" if *value == Value::Bool(false) => continue,
            "additionalProperties" | "patternProperties" | "propertyNames" | "not" | "if" | "prefixItems" => {
                return None;
            }
            "$schema" | "$id" | "$comment" | "format" | "examples" | "readOnly" | "writeOnly" | "deprecated" => {
                continue;
            }
            _ => {
                told.push(format!("{name}: {value}"));
                continue;
            }
        };
        kept.insert(if name == "oneOf" { "anyOf".to_owned() } else { name.clone() }, value);
    }
    let is_object = kept.contains_key("properties") || is_of_type(&kept, "object");
    if is_object {
        let is_closed = fields.get("additionalProperties") == Some(&Value::Bool(false));
        // One without names may have any.
        kept.get("properties").and_then(Value::as_object).filter(|named| is_closed || !named.is_empty())?;
        kept.insert("additionalProperties".to_owned(), json!(false));
    }
    let says_something =
        ["type", "enum", "const", "$ref", "anyOf", "allOf"].iter().any(|name| kept.contains_key(*name));
    if !told.is_empty() {
        let words = format!("({})", told.join(", "));
        let before = kept.get("description").and_then(Value::as_str).map(|text| format!("{text} "));
        kept.insert("description".to_owned(), json!(before.unwrap_or_default() + &words));
    }
    says_something.then_some(Value::Object(kept))
}

fn is_of_type(fields: &Map<String, Value>, name: &str) -> bool {
    match fields.get("type") {
        Some(Value::String(kind)) => kind == name,
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == name),
        _ => false,
    }
}

/// Whether following references leads back to one of those that are being followed.
fn holds_itself<'a>(
    schema: &'a Value,
    root: &'a Value,
    followed: &mut Vec<&'a str>,
    finite: &mut HashSet<&'a str>,
) -> bool {
    match schema {
        Value::Array(parts) => parts.iter().any(|part| holds_itself(part, root, followed, finite)),
        Value::Object(fields) => {
            if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                if followed.contains(&to) || to == "#" {
                    return true;
                }
                let target = to.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
                if let Some(target) = target.filter(|_| finite.insert(to)) {
                    followed.push(to);
                    if holds_itself(target, root, followed, finite) {
                        return true;
                    }
                    followed.pop();
                }
            }
            fields.iter().any(|(name, inner)| name != "$defs" && holds_itself(inner, root, followed, finite))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_closed_and_its_constraints_are_told() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Plan", "type": "object",
            "properties": {
                "weeks": {"type": "integer", "format": "uint32", "minimum": 0, "description": "How many."},
                "posts": {"type": "array", "items": {"$ref": "#/$defs/Post"}, "minItems": 3},
                "day": {"type": ["string", "null"], "format": "date"},
            },
            "required": ["weeks", "posts"],
            "$defs": {"Post": {"oneOf": [{"type": "object", "properties": {"text": {"type": "string", "maxLength": 9}}}]}},
        });
        assert_eq!(
            as_format(&schema),
            Some(json!({
                "title": "Plan", "type": "object", "additionalProperties": false, "required": ["weeks", "posts"],
                "properties": {
                    "weeks": {"type": "integer", "description": "How many. (minimum: 0)"},
                    "posts": {"type": "array", "items": {"$ref": "#/$defs/Post"}, "description": "(minItems: 3)"},
                    "day": {"type": ["string", "null"], "format": "date"},
                },
                "$defs": {"Post": {"anyOf": [{
                    "type": "object", "additionalProperties": false,
                    "properties": {"text": {"type": "string", "description": "(maxLength: 9)"}},
                }]}},
            }))
        );
    }

    #[test]
    fn what_a_format_cannot_say_is_no_format() {
        let of = |inner: Value| json!({"type": "object", "properties": {"a": inner}});
        for inner in [
            json!(true),
            json!({}),
            json!({"type": "object"}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"$ref": "#"}),
            json!({"not": {"type": "string"}}),
        ] {
            assert_eq!(as_format(&of(inner.clone())), None, "{inner}");
        }
        let tree = json!({
            "$ref": "#/$defs/Node",
            "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
        });
        assert_eq!(as_format(&tree), None);
        let twice = json!({
            "type": "object", "properties": {"a": {"$ref": "#/$defs/X"}, "b": {"$ref": "#/$defs/X"}},
            "$defs": {"X": {"type": "string"}},
        });
        assert!(as_format(&twice).is_some(), "the same twice is not within itself");
    }

    #[test]
    fn what_is_no_object_becomes_the_field_of_one() {
        let list = json!({"type": "array", "items": {"$ref": "#/$defs/X"}, "$defs": {"X": {"type": "string"}}});
        let outer = within_object(&list);
        assert_eq!(outer["properties"][ANSWER_FIELD], json!({"type": "array", "items": {"$ref": "#/$defs/X"}}));
        assert_eq!(outer["$defs"]["X"], json!({"type": "string"}));
    }
}
