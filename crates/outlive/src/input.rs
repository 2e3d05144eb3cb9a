//! Input schemas made from Rust types.
//!
//! Knows no workflow. An accepted input deserializes as its type, and steps see it as that type serializes it.

use outlive_core::{InputSchema, check, json};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The schema of inputs that deserialize as a `T`.
pub(crate) fn schema_of<T: JsonSchema + DeserializeOwned + Serialize + 'static>() -> InputSchema {
    let mut schema = SchemaGenerator::default().into_root_schema_for::<T>().to_value();
    if let Some(fields) = schema.as_object_mut() {
        // Says which JSON Schema this is written in; clients draw a form of the rest.
        fields.remove("$schema");
    }
    let known = schema.clone();
    InputSchema::new(schema, move |value| {
        // What the type says about a mistake comes first: it knows more than its schema.
        let read = read::<T>(value.clone())?;
        check(&value, &known).map(|()| read).map_err(|unfit| unfit.to_string())
    })
}

/// Through the type and back, so that defaults are filled in and unknown fields are dropped.
fn read<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, String> {
    let through = || {
        let input: T =
            serde_path_to_error::deserialize(&value).map_err(|error| match error.path().to_string().as_str() {
                "." => error.inner().to_string(),
                path => format!("at {path}: {}", error.inner()),
            })?;
        serde_json::to_value(input).map_err(|error| error.to_string())
    };
    json::with_room_for(&value, through).unwrap_or_else(|error| Err(error.to_string()))
}
