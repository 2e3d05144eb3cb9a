//! The JSON Schema of a workflow file, made from the types that read it.
//!
//! It must never know a file. The invariant: what is published says what [`super::fit`] checks, for both are one schema.

use super::syntax::Document;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// What marks a mapping whose first key says what it is; not published.
pub(super) const KIND: &str = "x-kind";

/// The schema that files are checked by.
pub(super) fn checked() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let mut schema = generator.into_root_schema_for::<Document>().to_value();
        tidy(&mut schema);
        schema
    })
}

/// The schema for editors and other programs.
pub(super) fn published() -> Value {
    let mut schema = checked().clone();
    unmark(&mut schema);
    schema
}

/// Rids it of what a file cannot say: nothing in place of a value. The widths of Rust's numbers become the most that a
/// number may be.
fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(tidy);
        }
        return;
    };
    let is_null = |kind: &Value| kind == "null";
    if let Some(Value::Array(kinds)) = fields.get_mut("type") {
        kinds.retain(|kind| !is_null(kind));
        if let [kind] = &kinds[..] {
            let kind = kind.clone();
            fields.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(choices)) = fields.get_mut("anyOf") {
        choices.retain(|choice| !choice.get("type").is_some_and(is_null));
        if let [Value::Object(only)] = &mut choices[..] {
            let only = std::mem::take(only);
            fields.remove("anyOf");
            for (key, value) in only {
                fields.entry(key).or_insert(value);
            }
        }
    }
    let has_width = |format: &Value| format.as_str().is_some_and(|text| text.contains("int") || text == "double");
    if fields.get("format").is_some_and(has_width) && fields.remove("format").is_some_and(|format| format == "uint32") {
        fields.entry("maximum").or_insert(Value::from(u32::MAX));
    }
    // What is left out is left out.
    fields.remove("default");
    for (key, value) in fields.iter_mut() {
        match (key.as_str(), value) {
            ("properties" | "$defs", Value::Object(named)) => named.values_mut().for_each(tidy),
            ("enum" | "examples" | "required", _) => {}
            (_, value) => tidy(value),
        }
    }
}

fn unmark(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove(KIND);
            fields.values_mut().for_each(unmark);
        }
        Value::Array(items) => items.iter_mut().for_each(unmark),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The fields of a schema, where it leads if it refers to another.
pub(super) fn resolved(schema: &'static Value) -> Option<&'static Map<String, Value>> {
    let fields = schema.as_object()?;
    match fields.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#')) {
        Some(pointer) => checked().pointer(pointer)?.as_object(),
        None => Some(fields),
    }
}
