//! Between JSON and the values of CEL.
//!
//! It knows no expression. The invariant: whole numbers stay whole, text of the variables is borrowed and never copied,
//! and what JSON cannot hold is an error instead of something similar.

use ::cel::Value as CelValue;
use ::cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt};
use ::cel::common::value::Val;
use ::cel::objects::Key;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// A value for an expression to read.
pub(super) fn from_json(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Box::new(CelInt::from(int)),
            (None, Some(uint)) => Box::new(CelUInt::from(uint)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(from_json).collect::<Vec<_>>())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (CelMapKey::from(key.as_str()), from_json(value)));
            Box::new(CelMap::from(fields.collect::<HashMap<_, _>>()))
        }
    }
}

/// What an expression gave.
///
/// # Errors
/// What about it JSON cannot hold.
pub(super) fn to_json(value: CelValue) -> Result<Value, String> {
    Ok(match value {
        CelValue::Null => Value::Null,
        CelValue::Bool(value) => Value::Bool(value),
        CelValue::Int(int) => Value::from(int),
        CelValue::UInt(uint) => Value::from(uint),
        CelValue::Float(float) => Value::Number(
            Number::from_f64(float).ok_or_else(|| format!("it gives {float}, a number that JSON does not have"))?,
        ),
        CelValue::String(text) => Value::String(Arc::unwrap_or_clone(text)),
        CelValue::List(items) => {
            Value::Array(Arc::unwrap_or_clone(items).into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        CelValue::Map(map) => {
            let mut fields = Map::new();
            for (key, value) in Arc::unwrap_or_clone(map.map) {
                fields.insert(text(key)?, to_json(value)?);
            }
            fields.sort_keys();
            Value::Object(fields)
        }
        CelValue::Bytes(_) => {
            return Err("it gives bytes, which JSON does not have: make text of them with `string()`".to_owned());
        }
        _ => return Err("it gives something that is not a JSON value".to_owned()),
    })
}

fn text(key: Key) -> Result<String, String> {
    match key {
        Key::String(text) => Ok(Arc::unwrap_or_clone(text)),
        Key::Int(_) | Key::Uint(_) | Key::Bool(_) => {
            Err("it gives a map with a key that is not text, which JSON does not have: use `string()` on it".to_owned())
        }
    }
}
