//! Fits JSON to a JSON Schema where the intention is clear and nothing is lost: models and clients write `"5"` for 5.
//!
//! It knows no Rust type and no caller. It never fills in missing fields and never refuses a value that merely does not
//! fit: the code that reads the value does both, with a better message. The one exception is a list in place of an
//! object, which serde would read field by field.
//!
//! Invariant: every change is reversible. A number that text, a 64-bit integer or a 64-bit float cannot represent
//! exactly stays as it was.

use serde_json::{Number, Value};
use std::borrow::Cow;

/// The most subschemas examined for one value: a schema that refers to itself may offer endless choices.
const STEPS_MAX: u32 = 100_000;
/// How many levels of a value, or of the schemas nested around one value, are examined.
const DEPTH_MAX: u32 = 200;
/// Above this, one float may stand for several integers.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A list where the schema wants an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}expected an object with named fields, not a list", .path.as_deref().map(|path| format!("at {path}: ")).unwrap_or_default())]
pub struct Misfit {
    /// `gift.to[2]`; none for the whole value.
    path: Option<String>,
}

/// The value as the schema wants it, at every depth:
///
/// | wanted | given | becomes |
/// |---|---|---|
/// | integer, number, boolean, null, list, object | text that is such JSON | what it says |
/// | integer | a whole float | the integer |
/// | text | a number | its digits |
/// | an optional property that cannot be null | null | absent |
///
/// What already fits stays as it is, and so does everything else: `"5.5"` is not an integer. Of several choices
/// (`anyOf`, `oneOf`) the first that fits is taken; one that fits unchanged comes before one that needs a change.
///
/// ```
/// use outlive_core::coerce;
/// use serde_json::json;
///
/// let schema = json!({"type": "object", "properties": {"count": {"type": "integer"}, "name": {"type": "string"}}});
/// assert_eq!(coerce(json!({"count": "5", "name": 7}), &schema), Ok(json!({"count": 5, "name": "7"})));
/// assert_eq!(coerce(json!({"count": "5.5"}), &schema), Ok(json!({"count": "5.5"})));
/// assert!(coerce(json!([5]), &schema).is_err());
/// ```
///
/// # Errors
/// [`Misfit`] when there is a list where the schema wants an object.
pub fn coerce(value: Value, schema: &Value) -> Result<Value, Misfit> {
    Fitting { root: schema, steps: 0, depth: 0 }.fit(value, schema)
}

/// One value being fitted to one schema.
struct Fitting<'a> {
    root: &'a Value,
    steps: u32,
    depth: u32,
}

impl<'a> Fitting<'a> {
    fn fit(&mut self, value: Value, schema: &'a Value) -> Result<Value, Misfit> {
        let Some(schema) = self.enter(schema) else { return Ok(value) };
        let fitted = self.fit_inside(value, schema);
        self.depth -= 1;
        fitted
    }

    fn fit_inside(&mut self, value: Value, schema: &'a Value) -> Result<Value, Misfit> {
        let mut value = if admits(schema, &value) {
            value
        } else if value.is_array() && is_of_objects(schema) {
            return Err(Misfit { path: None });
        } else {
            readings(&value).find(|reading| admits(schema, reading)).unwrap_or(value)
        };
        match &mut value {
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    if let Some(schema) = property(schema, name) {
                        self.fit_in_place(field, schema).map_err(|misfit| misfit.within(name))?;
                    }
                }
                // Only where the schema names the property: in a map, an entry would be lost.
                fields.retain(|name, field| {
                    let named = schema.get("properties").and_then(|properties| properties.get(name));
                    let is_allowed = |schema| self.fits(&Value::Null, schema);
                    !field.is_null() || is_required(schema, name) || named.is_none_or(is_allowed)
                });
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let Some(schema) = item_schema(schema, index) {
                        self.fit_in_place(item, schema).map_err(|misfit| misfit.within(&format!("[{index}]")))?;
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        for part in list(schema, "allOf") {
            value = self.fit(value, part)?;
        }
        for choices in ["anyOf", "oneOf"].map(|name| list(schema, name)) {
            value = self.fit_one(value, choices)?;
        }
        Ok(value)
    }

    fn fit_in_place(&mut self, place: &mut Value, schema: &'a Value) -> Result<(), Misfit> {
        *place = self.fit(place.take(), schema)?;
        Ok(())
    }

    fn fit_one(&mut self, value: Value, choices: &'a [Value]) -> Result<Value, Misfit> {
        if choices.iter().any(|schema| self.fits(&value, schema)) {
            return Ok(value);
        }
        let mut misfit = None;
        for schema in choices {
            match self.fit(value.clone(), schema) {
                Ok(fitted) if self.fits(&fitted, schema) => return Ok(fitted),
                Ok(_) => {}
                Err(wrong) => misfit = misfit.or(Some(wrong).filter(|wrong| wrong.path.is_none())),
            }
        }
        misfit.map_or(Ok(value), Err)
    }

    /// Whether the value fits unchanged, as far as this module understands schemas.
    fn fits(&mut self, value: &Value, schema: &'a Value) -> bool {
        let Some(schema) = self.enter(schema) else { return true };
        let fits = self.fits_inside(value, schema);
        self.depth -= 1;
        fits
    }

    fn fits_inside(&mut self, value: &Value, schema: &'a Value) -> bool {
        let fits_inside = match value {
            Value::Object(fields) => {
                list(schema, "required").iter().filter_map(Value::as_str).all(|name| fields.contains_key(name))
                    && fields.iter().all(|(name, field)| match property(schema, name) {
                        Some(schema) => self.fits(field, schema),
                        None => true,
                    })
            }
            Value::Array(items) => items.iter().enumerate().all(|(index, item)| match item_schema(schema, index) {
                Some(schema) => self.fits(item, schema),
                None => true,
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        };
        fits_inside
            && admits(schema, value)
            && list(schema, "allOf").iter().all(|part| self.fits(value, part))
            && ["anyOf", "oneOf"]
                .map(|name| list(schema, name))
                .into_iter()
                .all(|choices| choices.is_empty() || choices.iter().any(|schema| self.fits(value, schema)))
    }

    /// One level down, to the schema behind local references; none when a reference leads nowhere or a limit is
    /// reached.
    fn enter(&mut self, mut schema: &'a Value) -> Option<&'a Value> {
        loop {
            self.steps += 1;
            if self.steps > STEPS_MAX || self.depth >= DEPTH_MAX {
                return None;
            }
            match schema.get("$ref").and_then(Value::as_str) {
                Some(reference) => schema = self.root.pointer(reference.strip_prefix('#')?)?,
                None => break,
            }
        }
        self.depth += 1;
        Some(schema)
    }
}

impl Misfit {
    fn within(self, part: &str) -> Self {
        let path = match self.path {
            None => part.to_owned(),
            Some(inner) if inner.starts_with('[') => format!("{part}{inner}"),
            Some(inner) => format!("{part}.{inner}"),
        };
        Self { path: Some(path) }
    }
}

/// Whether the value itself, ignoring what it contains, is what this schema accepts.
fn admits(schema: &Value, value: &Value) -> bool {
    if schema == &Value::Bool(false) {
        return false;
    }
    let is = |kind: &str| match value {
        Value::Null => kind == "null",
        Value::Bool(_) => kind == "boolean",
        Value::Number(number) => kind == "number" || kind == "integer" && !number.is_f64(),
        Value::String(_) => kind == "string",
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    };
    let mut kinds = kinds(schema).peekable();
    let is_nullable = value.is_null() && schema.get("nullable") == Some(&Value::Bool(true));
    (is_nullable || kinds.peek().is_none() || kinds.any(is))
        && schema.get("const").is_none_or(|only| only == value)
        && schema.get("enum").and_then(Value::as_array).is_none_or(|values| values.contains(value))
}

/// The types a schema names: one, several, or none.
fn kinds(schema: &Value) -> impl Iterator<Item = &str> {
    let (one, several) = match schema.get("type") {
        Some(Value::Array(kinds)) => (None, kinds.as_slice()),
        kind => (kind, &[][..]),
    };
    one.into_iter().chain(several).filter_map(Value::as_str)
}

fn is_of_objects(schema: &Value) -> bool {
    kinds(schema).any(|kind| kind == "object")
}

fn list<'a>(schema: &'a Value, name: &str) -> &'a [Value] {
    schema.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The schema of a field.
fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let named = schema.get("properties").and_then(|properties| properties.get(name));
    // A pattern may apply to this name; what it demands is not known here.
    let others = || schema.get("additionalProperties").filter(|_| schema.get("patternProperties").is_none());
    named.or_else(others)
}

fn is_required(schema: &Value, name: &str) -> bool {
    list(schema, "required").iter().any(|required| required == name)
}

fn item_schema(schema: &Value, index: usize) -> Option<&Value> {
    list(schema, "prefixItems").get(index).or_else(|| schema.get("items"))
}

/// Other readings of the value, the likeliest first.
fn readings(value: &Value) -> impl Iterator<Item = Value> + use<> {
    let (first, second) = match value {
        Value::String(text) => {
            let read = crate::json::read(text).ok().filter(|read| is_exact(text, read));
            let whole = read.as_ref().and_then(whole);
            (read, whole)
        }
        Value::Number(number) => (whole(value), digits(number)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => (None, None),
    };
    first.into_iter().chain(second)
}

/// A float without a fraction as an integer.
fn whole(value: &Value) -> Option<Value> {
    let float = value.as_number().filter(|number| number.is_f64())?.as_f64()?;
    // The range was checked: the cast is exact.
    (float.fract() == 0.0 && float.abs() <= EXACT_MAX).then(|| Value::from(float as i64))
}

/// A number as text. A float so large may have been written with other digits.
fn digits(number: &Number) -> Option<Value> {
    let is_exact = !number.is_f64() || number.as_f64().is_some_and(|float| float.abs() < EXACT_MAX);
    is_exact.then(|| Value::String(number.to_string()))
}

/// Whether a number parsed from a text equals that text to the last digit.
fn is_exact(text: &str, read: &Value) -> bool {
    match read.as_number().filter(|number| number.is_f64()) {
        None => true,
        Some(number) => decimal(text.trim()) == decimal(&number.to_string()),
    }
}

/// The sign, the significant digits and the power of ten after them: `-1.50e3` is minus `15` times ten to the 2.
fn decimal(number: &str) -> Option<(bool, Cow<'_, str>, i64)> {
    let (is_negative, number) = number.strip_prefix('-').map_or((false, number), |number| (true, number));
    let (mantissa, power) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let counting = digits.trim_end_matches('0');
    let dropped = digits.len() - counting.len();
    let power = power.parse::<i64>().ok()?.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let power = power.checked_add(i64::try_from(dropped).ok()?)?;
    let counting = counting.trim_start_matches('0');
    if counting.is_empty() {
        Some((is_negative, Cow::Borrowed(""), 0))
    } else {
        Some((is_negative, counting.to_owned().into(), power))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `value` becomes under the schema of one property.
    fn coerced(schema: Value, value: Value) -> Value {
        let schema = json!({"type": "object", "properties": {"x": schema}});
        coerce(json!({ "x": value }), &schema)
            .expect("no list stands for an object")
            .get("x")
            .cloned()
            .unwrap_or(json!("absent"))
    }

    fn kind(kind: &str) -> Value {
        json!({ "type": kind })
    }

    #[test]
    fn what_is_meant_is_clear_and_nothing_is_lost() {
        let cases = [
            (kind("integer"), json!("5"), json!(5)),
            (kind("integer"), json!(" -12 "), json!(-12)),
            (kind("integer"), json!("5.0"), json!(5)),
            (kind("integer"), json!("1e3"), json!(1000)),
            (kind("integer"), json!(2.0), json!(2)),
            (kind("integer"), json!(-9_007_199_254_740_992.0), json!(-9_007_199_254_740_992_i64)),
            (kind("integer"), json!("18446744073709551615"), json!(u64::MAX)),
            (kind("number"), json!("0.1"), json!(0.1)),
            (kind("number"), json!("1.50E+2"), json!(150.0)),
            (kind("number"), json!("7"), json!(7)),
            (kind("boolean"), json!("true"), json!(true)),
            (kind("boolean"), json!("false"), json!(false)),
            (kind("string"), json!(5), json!("5")),
            (kind("string"), json!(-1.5), json!("-1.5")),
            (kind("string"), json!(u64::MAX), json!("18446744073709551615")),
            (kind("array"), json!("[1, 2]"), json!([1, 2])),
            (kind("object"), json!(r#"{"a": 1}"#), json!({"a": 1})),
            (json!({"enum": [1, 2]}), json!("2"), json!(2)),
            (json!({"type": "string", "enum": ["1", "2"]}), json!(2), json!("2")),
            (json!({"const": 3}), json!(3.0), json!(3)),
            (json!({"type": ["integer", "null"]}), json!("4"), json!(4)),
            (json!({"type": ["integer", "null"]}), json!("null"), json!(null)),
            (json!({"type": ["integer", "string"]}), json!(4.0), json!(4)),
            (json!({"type": "integer", "nullable": true}), json!("4"), json!(4)),
            (json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}), json!("4"), json!(4)),
            (json!({"oneOf": [{"type": "null"}, {"type": "boolean"}]}), json!("true"), json!(true)),
            (json!({"allOf": [{"type": "integer"}, {"minimum": 1}]}), json!("4"), json!(4)),
        ];
        for (schema, given, expected) in cases {
            assert_eq!(coerced(schema.clone(), given.clone()), expected, "{given} as {schema}");
        }
    }

    #[test]
    fn what_fits_or_would_lose_something_stays() {
        let cases = [
            (kind("integer"), json!("5.5")),
            (kind("integer"), json!(5.5)),
            (kind("integer"), json!("five")),
            (kind("integer"), json!("")),
            (kind("integer"), json!("007")),
            (kind("integer"), json!("1,000")),
            (kind("integer"), json!("0x10")),
            (kind("integer"), json!("NaN")),
            (kind("integer"), json!(true)),
            (kind("integer"), json!("true")),
            (kind("integer"), json!(1e300)),
            (kind("integer"), json!("18446744073709551616")),
            (kind("integer"), json!("9007199254740993.0")),
            (kind("number"), json!("0.1000000000000000055511151231257827")),
            (kind("number"), json!("1e999")),
            (kind("boolean"), json!(1)),
            (kind("boolean"), json!("1")),
            (kind("boolean"), json!("yes")),
            (kind("string"), json!(true)),
            (kind("string"), json!(1e22)),
            (kind("string"), json!("5")),
            (kind("string"), json!("[1]")),
            (kind("array"), json!("1, 2")),
            (kind("array"), json!({"0": 1})),
            (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("5")),
            (json!({"type": ["integer", "null"]}), json!(null)),
            (json!({"type": "integer", "nullable": true}), json!(null)),
            (json!(true), json!("5")),
            (json!({}), json!(null)),
        ];
        for (schema, given) in cases {
            assert_eq!(coerced(schema.clone(), given.clone()), given, "{given} as {schema}");
        }
    }

    #[test]
    fn null_for_an_optional_property_is_its_absence_and_for_a_required_one_a_mistake() {
        assert_eq!(coerced(kind("integer"), Value::Null), "absent");
        assert_eq!(coerced(json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), Value::Null), "absent");
        let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]});
        assert_eq!(coerce(json!({"x": null, "y": null}), &schema), Ok(json!({"x": null, "y": null})));
        let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
        assert_eq!(coerce(json!({"x": null}), &map), Ok(json!({"x": null})));
    }

    #[test]
    fn every_depth_is_reached_and_references_are_followed() {
        let schema = json!({
            "type": "object",
            "properties": {
                "tree": {"$ref": "#/$defs/tree"},
                "pairs": {"type": "array", "items": {"prefixItems": [{"type": "string"}, {"type": "integer"}]}},
                "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
                "shape": {"oneOf": [
                    {"type": "object", "properties": {"kind": {"const": "dot"}, "at": {"type": "integer"}},
                     "required": ["kind", "at"]},
                    {"type": "object", "properties": {"kind": {"const": "name"}, "at": {"type": "string"}},
                     "required": ["kind", "at"]},
                ]},
            },
            "$defs": {"tree": {"type": "object", "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            }}},
        });
        let given = json!({
            "tree": {"value": "1", "children": [{"value": 2.0, "children": [r#"{"value": "3"}"#]}]},
            "pairs": [[1, "2"], ["a", 3]],
            "counts": {"a": "1", "b": 2.0},
            "shape": {"kind": "name", "at": 7},
        });
        let expected = json!({
            "tree": {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]},
            "pairs": [["1", 2], ["a", 3]],
            "counts": {"a": 1, "b": 2},
            "shape": {"kind": "name", "at": "7"},
        });
        assert_eq!(coerce(given, &schema), Ok(expected));
    }

    #[test]
    fn a_list_is_no_object() {
        let object = json!({"type": ["object", "null"], "properties": {"to": {"type": "string"}}});
        let schema = json!({"type": "object", "properties": {
            "gift": object.clone(), "gifts": {"type": "array", "items": {"anyOf": [object, {"type": "null"}]}},
        }});
        let misfit = |value| coerce(value, &schema).expect_err("a list stands for an object").to_string();
        assert_eq!(misfit(json!([1])), "expected an object with named fields, not a list");
        assert_eq!(misfit(json!({"gift": ["Ann"]})), "at gift: expected an object with named fields, not a list");
        assert_eq!(
            misfit(json!({"gifts": [null, ["Ann"]]})),
            "at gifts[1]: expected an object with named fields, not a list"
        );
        let deep = json!({"type": "object", "properties": {"outer": schema.clone()}});
        let misfit = coerce(json!({"outer": {"gifts": [[]]}}), &deep).expect_err("a list stands for an object");
        assert_eq!(misfit.to_string(), "at outer.gifts[0]: expected an object with named fields, not a list");
    }

    #[test]
    fn a_schema_without_end_ends() {
        let itself = json!({"$ref": "#"});
        assert_eq!(coerce(json!("5"), &itself), Ok(json!("5")));
        let endless = json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
        assert_eq!(coerce(json!("5"), &endless), Ok(json!("5")));
    }
}
