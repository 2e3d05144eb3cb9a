//! What a server lists, made into tools that a model can be offered, within bounds.
//!
//! It must never know a session. The invariant: the same list gives the same tools and the same hash.

use super::super::{ListedTool, Listing};
use super::{MCPTools, names};
use outlive_core::{Failure, FailureKind, ToolEffect};
use rmcp::model as wire;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Tools that an agent may have of one server.
const TOOLS_MAX: usize = 128;
/// Their names, descriptions and schemas together, in bytes.
const BYTES_MAX: usize = 1 << 20;
/// How deep a schema may be.
const DEPTH_MAX: usize = 32;

/// The tools that the agent wants of what a server has.
///
/// # Errors
/// When there are too many, or one cannot be offered.
pub(super) fn listing(server: &str, listed: Vec<wire::Tool>, given: &MCPTools) -> Result<Listing, Failure> {
    let wrong = |problem: String| {
        let failure = Failure::new(FailureKind::BadResponse, format!("the tools of {server:?}: {problem}"));
        Failure { retryable: false, ..failure }
    };
    let is_listed = |name: &&String| listed.iter().any(|tool| tool.name == name.as_str());
    if let Some(missing) = given.include.iter().find(|name| !is_listed(name)) {
        let known = names(listed.iter().map(|tool| &*tool.name));
        return Err(wrong(format!("there is no {missing:?}, which is to be included; there are: {known}")));
    }
    let is_wanted = |tool: &wire::Tool| {
        let is_named = |names: &[String]| names.iter().any(|name| *name == tool.name);
        (given.include.is_empty() || is_named(&given.include)) && !is_named(&given.exclude)
    };
    let wanted: Vec<_> = listed.into_iter().filter(is_wanted).collect();
    if wanted.len() > TOOLS_MAX {
        let count = wanted.len();
        return Err(wrong(format!("there are {count}, and an agent may have {TOOLS_MAX}: choose with include_tools")));
    }
    let tools = wanted.into_iter().map(|tool| listed_tool(tool, given.prefix.as_deref()).map_err(&wrong));
    let tools = tools.collect::<Result<Vec<_>, _>>()?;
    let text = serde_json::to_string(&tools).expect("tools have text for keys");
    if text.len() > BYTES_MAX {
        let bytes = text.len();
        return Err(wrong(format!("they take {bytes} bytes, and may take {BYTES_MAX}: choose with include_tools")));
    }
    Ok(Listing { source: server.to_owned(), hash: hash(&text), tools })
}

fn listed_tool(tool: wire::Tool, prefix: Option<&str>) -> Result<ListedTool, String> {
    let name = tool.name.into_owned();
    let parameters = schema(&tool.input_schema).map_err(|problem| {
        format!("{:?} {problem}: leave it out with exclude_tools", name.chars().take(80).collect::<String>())
    })?;
    let said = tool.description.map(std::borrow::Cow::into_owned).filter(|text| !text.trim().is_empty());
    let hints = tool.annotations.unwrap_or_default();
    let effect = match (hints.read_only_hint, hints.idempotent_hint) {
        (Some(true), _) => ToolEffect::Read,
        (_, Some(true)) => ToolEffect::Idempotent,
        _ => ToolEffect::Once,
    };
    Ok(ListedTool {
        description: said.or(tool.title).or(hints.title).unwrap_or_default(),
        offered_as: prefix.map(|prefix| format!("{prefix}_{name}")),
        name,
        parameters,
        effect,
    })
}

/// The schema of a tool's arguments as models take it: an object's.
fn schema(said: &Map<String, Value>) -> Result<Value, String> {
    let mut schema = said.clone();
    schema.remove("$schema");
    match schema.get("type") {
        None => drop(schema.insert("type".to_owned(), json!("object"))),
        Some(kind) if kind == "object" => {}
        Some(_) => return Err("takes arguments that are not an object".to_owned()),
    }
    schema.entry("properties").or_insert_with(|| json!({}));
    let schema = Value::Object(schema);
    match is_deeper(&schema, DEPTH_MAX) {
        true => Err(format!("has a schema that is deeper than {DEPTH_MAX} levels")),
        false => Ok(schema),
    }
}

fn is_deeper(value: &Value, most: usize) -> bool {
    match value {
        Value::Array(items) => most == 0 || items.iter().any(|item| is_deeper(item, most - 1)),
        Value::Object(fields) => most == 0 || fields.values().any(|field| is_deeper(field, most - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// SHA-256, in hexadecimal digits.
fn hash(text: &str) -> String {
    Sha256::digest(text).iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(value: Value) -> Vec<wire::Tool> {
        serde_json::from_value(value).unwrap()
    }

    fn given() -> MCPTools {
        MCPTools::stdio(["server"])
    }

    fn refused(value: Value, given: &MCPTools) -> String {
        let failure = listing("s", tools(value), given).unwrap_err();
        assert_eq!((failure.kind, failure.retryable), (FailureKind::BadResponse, false));
        failure.message
    }

    #[test]
    fn hints_become_effects() {
        let hinted = |name: &str, hints: Value| json!({ "name": name, "inputSchema": {}, "annotations": hints });
        let all = json!([
            hinted("reads", json!({ "readOnlyHint": true })),
            hinted("repeats", json!({ "idempotentHint": true, "destructiveHint": true })),
            hinted("both", json!({ "readOnlyHint": true, "idempotentHint": false })),
            hinted("neither", json!({ "readOnlyHint": false })),
            json!({ "name": "silent", "inputSchema": { "type": "object" } }),
        ]);
        let effects: Vec<_> =
            listing("s", tools(all), &given()).unwrap().tools.iter().map(|tool| tool.effect).collect();
        use ToolEffect::{Idempotent, Once, Read};
        assert_eq!(effects, [Read, Idempotent, Read, Once, Once]);
    }

    #[test]
    fn what_is_included_excluded_and_prefixed_goes_by_the_servers_names() {
        let all = || tools(json!(["a", "b", "c"].map(|name| json!({ "name": name, "inputSchema": {} }))));
        let names = |given: &MCPTools| -> Vec<_> {
            listing("s", all(), given).unwrap().tools.into_iter().map(|tool| tool.spec().name).collect()
        };
        assert_eq!(names(&given().include_tools(["c", "a"])), ["a", "c"]);
        assert_eq!(names(&given().exclude_tools(["a", "zzz"])), ["b", "c"]);
        assert_eq!(names(&given().include_tools(["b"]).tool_name_prefix("my")), ["my_b"]);
        let missing = listing("s", all(), &given().include_tools(["d"])).unwrap_err().message;
        assert_eq!(missing, r#"the tools of "s": there is no "d", which is to be included; there are: a, b, c"#);
    }

    #[test]
    fn a_listing_is_bounded_and_says_what_to_do() {
        let many: Vec<_> = (0..=TOOLS_MAX).map(|n| json!({ "name": n.to_string(), "inputSchema": {} })).collect();
        let message = refused(json!(many), &given());
        assert!(message.contains("there are 129, and an agent may have 128: choose with include_tools"), "{message}");
        let long = json!([{ "name": "a", "description": "x".repeat(BYTES_MAX), "inputSchema": {} }]);
        assert!(refused(long, &given()).contains("they take 1048"), "they are too long");
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "properties": { "x": inner } }));
        let message = refused(json!([{ "name": "deep", "inputSchema": deep }]), &given());
        assert!(message.contains("\"deep\" has a schema that is deeper than 32 levels"), "{message}");
        let list = json!([{ "name": "list", "inputSchema": { "type": "array" } }]);
        assert!(refused(list.clone(), &given()).contains("not an object: leave it out with exclude_tools"));
        assert!(listing("s", tools(list), &given().exclude_tools(["list"])).unwrap().tools.is_empty());
    }

    #[test]
    fn the_same_list_has_the_same_hash_and_another_has_another() {
        let of = |description: &str| {
            let all = json!([{ "name": "a", "description": description, "inputSchema": { "b": 1, "a": 2 } }]);
            listing("s", tools(all), &given()).unwrap().hash
        };
        assert_eq!(of("one"), of("one"));
        assert_ne!(of("one"), of("two"));
        assert_eq!(of("one").len(), 64);
    }

    #[test]
    fn a_schema_becomes_an_objects_and_a_tool_without_description_has_its_title() {
        let all = json!([{ "name": "a", "title": "Does it", "inputSchema": { "$schema": "x", "additionalProperties": false } }]);
        let tool = listing("s", tools(all), &given()).unwrap().tools.remove(0);
        assert_eq!(tool.parameters, json!({ "type": "object", "properties": {}, "additionalProperties": false }));
        assert_eq!(tool.description, "Does it");
    }
}
