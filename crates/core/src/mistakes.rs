//! Mistakes in a JSON Schema itself: what would let every value pass, or none, although something else was meant.
//!
//! It must never know a value. Keywords that [`check`](crate::check) does not know are left alone, as are patterns, of
//! which there are more dialects than one.

use serde_json::{Map, Value};

/// A mistake in a schema, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaMistake {
    /// The keys and places on the way to it.
    pub path: Vec<String>,
    /// What is wrong there, for a person.
    pub problem: String,
}

/// What is wrong with a schema; nothing with most.
///
/// ```
/// use outlive_core::schema_mistakes;
/// use serde_json::json;
///
/// let schema = json!({ "type": "object", "properties": { "age": { "type": "int" } } });
/// let mistakes = schema_mistakes(&schema);
/// assert_eq!(mistakes[0].path, ["properties", "age", "type"]);
/// assert!(mistakes[0].problem.starts_with("\"int\" is not a type"));
/// ```
pub fn schema_mistakes(schema: &Value) -> Vec<SchemaMistake> {
    let mut looking = Looking { root: schema, path: Vec::new(), found: Vec::new() };
    looking.schema(schema);
    looking.found
}

/// What `type` may say.
const TYPES: [&str; 7] = ["array", "boolean", "integer", "null", "number", "object", "string"];

struct Looking<'a> {
    root: &'a Value,
    path: Vec<String>,
    found: Vec<SchemaMistake>,
}

impl<'a> Looking<'a> {
    fn at(&mut self, part: impl Into<String>, look: impl FnOnce(&mut Self)) {
        self.path.push(part.into());
        look(self);
        self.path.pop();
    }

    fn mistake(&mut self, problem: impl Into<String>) {
        self.found.push(SchemaMistake { path: self.path.clone(), problem: problem.into() });
    }

    fn schema(&mut self, schema: &'a Value) {
        match schema {
            Value::Bool(_) => {}
            Value::Object(rules) => {
                rules.iter().for_each(|(name, rule)| self.at(name, |inside| inside.rule(name, rule, rules)))
            }
            _ => self.mistake("a schema is an object, or true or false"),
        }
    }

    fn rule(&mut self, name: &str, rule: &'a Value, rules: &'a Map<String, Value>) {
        match (name, rule) {
            ("type", Value::Array(kinds)) if !kinds.is_empty() => {
                kinds.iter().enumerate().for_each(|(at, kind)| self.at(at.to_string(), |inside| inside.kind(kind)));
            }
            ("type", kind) => self.kind(kind),
            ("$ref", Value::String(place)) => self.reference(place),
            ("$ref", _) => self.mistake("it must be text such as \"#/$defs/name\""),
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(named),
            ) => {
                named.iter().for_each(|(name, schema)| self.at(name, |inside| inside.schema(schema)));
            }
            ("properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas", _) => {
                self.mistake("it must be an object of schemas by name");
            }
            ("required", Value::Array(names)) if names.iter().all(Value::is_string) => {}
            // Some write it at a field, where it once was allowed.
            ("required", Value::Bool(_)) if !rules.contains_key("properties") => {}
            ("required", _) => self.mistake("it must be a list of names"),
            ("enum", Value::Array(values)) if !values.is_empty() => {}
            ("enum", _) => self.mistake("it must be a list of values, at least one"),
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) if !schemas.is_empty() => {
                self.each(schemas)
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", _) => {
                self.mistake("it must be a list of schemas, at least one")
            }
            ("items", Value::Array(schemas)) => self.each(schemas),
            (
                "items" | "additionalProperties" | "propertyNames" | "contains" | "not" | "if" | "then" | "else",
                schema,
            ) => self.schema(schema),
            (
                "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties",
                Value::Number(count),
            ) if count.as_f64().is_some_and(|count| count >= 0.0 && count.fract() == 0.0) => {}
            ("minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties", _) => {
                self.mistake("it must be a whole number, at least 0");
            }
            ("minimum" | "maximum" | "multipleOf", rule) if !rule.is_number() => self.mistake("it must be a number"),
            ("pattern", rule) if !rule.is_string() => self.mistake("it must be text"),
            _ => {}
        }
    }

    fn each(&mut self, schemas: &'a [Value]) {
        for (at, schema) in schemas.iter().enumerate() {
            self.at(at.to_string(), |inside| inside.schema(schema));
        }
    }

    fn kind(&mut self, kind: &Value) {
        match kind.as_str() {
            Some(name) if TYPES.contains(&name) => {}
            Some(name) => {
                let shown: String = name.chars().take(40).collect();
                self.mistake(format!("{shown:?} is not a type: there are {}", TYPES.join(", ")));
            }
            None => self.mistake(format!("it must be one of {}", TYPES.join(", "))),
        }
    }

    fn reference(&mut self, place: &str) {
        match place.strip_prefix('#') {
            Some(pointer) if self.root.pointer(pointer).is_some() => {}
            Some(_) => self.mistake("it leads nowhere in this schema"),
            None => self.mistake("it leads out of the schema, and nothing is fetched: write what it means under $defs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mistakes_are_told_with_their_places() {
        let schema = json!({
            "type": "object",
            "properties": {
                "a": { "type": "strng" },
                "b": { "type": ["string", "nul"], "minLength": -1 },
                "c": { "$ref": "http://169.254.169.254/x" },
                "d": { "$ref": "#/$defs/e" },
                "f": [],
                "type": { "type": "string" },
            },
            "required": "a",
            "anyOf": [],
            "items": { "enum": [] },
            "x-own": { "type": "anything" },
        });
        let found: Vec<_> = schema_mistakes(&schema).into_iter().map(|mistake| mistake.path.join("/")).collect();
        let mut wanted = [
            "properties/a/type",
            "properties/b/type/1",
            "properties/b/minLength",
            "properties/c/$ref",
            "properties/d/$ref",
            "properties/f",
            "required",
            "anyOf",
            "items/enum",
        ];
        wanted.sort_unstable();
        let mut found: Vec<_> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_good_schema_has_none() {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": ["object", "null"],
            "properties": { "a": { "$ref": "#/$defs/a" }, "b": true, "c": { "pattern": "^(?=x)", "format": "date" } },
            "required": ["a"], "additionalProperties": false, "minProperties": 1,
            "$defs": { "a": { "anyOf": [{ "const": 1 }, { "items": { "$ref": "#" }, "minItems": 2.0 }] } },
            "examples": [{ "type": "anything" }], "default": { "type": 7 },
        });
        assert_eq!(schema_mistakes(&schema), []);
    }
}
