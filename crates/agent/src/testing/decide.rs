//! What the model server says: a function of the request's newest user text, its instructions and its tools.
//!
//! It knows no HTTP, and no wire format beyond reading a request: those of others than OpenAI come as
//! [`super::requests`] reads them. The same request always gets the same answer.

use super::fingerprint;
use serde_json::{Map, Value, json};

/// A request as both endpoints put it.
pub(super) struct Conversation {
    system: String,
    user: String,
    /// Tool results since the newest user text.
    results: usize,
    tools: Vec<OfferedTool>,
    output_schema: Option<Value>,
    /// The tool that has to be called: this one, or if it is empty, any.
    forced_tool: Option<String>,
}

struct OfferedTool {
    name: String,
    parameters: Value,
}

/// An answer.
pub(super) enum Decision {
    Text(String),
    Calls(Vec<(String, Value)>),
}

/// The property that marks the tool a team's leader delegates with.
const MEMBER: &str = "member_id";
const WORDS: [&str; 16] = [
    "anchor", "bridge", "copper", "dune", "estuary", "fjord", "glacier", "heath", "island", "juniper", "kelp",
    "lagoon", "meadow", "northern", "orchard", "prairie",
];

impl Conversation {
    pub(super) fn read(body: &Value) -> Self {
        let mut conversation = Self {
            system: text(&body["instructions"]),
            user: String::new(),
            results: 0,
            tools: body["tools"].as_array().into_iter().flatten().filter_map(OfferedTool::read).collect(),
            output_schema: [&body["text"]["format"]["schema"], &body["response_format"]["json_schema"]["schema"]]
                .into_iter()
                .find(|schema| schema.is_object())
                .cloned(),
            forced_tool: match &body["tool_choice"] {
                Value::String(choice) if choice == "required" => Some(String::new()),
                choice => choice["function"]["name"].as_str().map(str::to_owned),
            },
        };
        match body.get("input").or_else(|| body.get("messages")) {
            Some(Value::String(user)) => conversation.user = user.clone(),
            Some(Value::Array(items)) => items.iter().for_each(|item| conversation.item(item)),
            _ => {}
        }
        conversation.output_schema = conversation.output_schema.or_else(|| schema_in_words(&conversation.system));
        conversation
    }

    fn item(&mut self, item: &Value) {
        match (item["role"].as_str(), item["type"].as_str()) {
            (Some("system" | "developer"), _) => {
                self.system.push('\n');
                self.system.push_str(&text(&item["content"]));
            }
            (Some("user"), _) => {
                self.user = text(&item["content"]);
                self.results = 0;
            }
            (Some("tool"), _) | (_, Some("function_call_output")) => self.results += 1,
            _ => {}
        }
    }

    /// The value of a directive `NAME=value`, up to the next blank; the user's text is read before the instructions.
    pub(super) fn directive(&self, name: &str) -> Option<&str> {
        let rest = self.after(name)?;
        let value = rest.split(char::is_whitespace).next().unwrap_or_default();
        Some(value.trim_end_matches(['"', '\'', ')', ',']))
    }

    /// Whether the newest user text has led to tool results.
    pub(super) fn has_results(&self) -> bool {
        self.results > 0
    }

    pub(super) fn says(&self, name: &str) -> bool {
        self.directive(name).is_some()
    }

    /// What follows `NAME=`.
    fn after(&self, name: &str) -> Option<&str> {
        [&self.user, &self.system].into_iter().find_map(|text| {
            let starts = text.match_indices(name).filter(|(at, _)| {
                text[..*at].chars().next_back().is_none_or(|c| c.is_whitespace() || "\"'(".contains(c))
            });
            starts.map(|(at, _)| &text[at + name.len()..]).find_map(|rest| rest.strip_prefix('='))
        })
    }

    /// The JSON value that follows `NAME=`, blanks and all.
    fn json_after(rest: &str) -> Option<Value> {
        serde_json::Deserializer::from_str(rest).into_iter().next()?.ok()
    }

    pub(super) fn decide(&self) -> Decision {
        let forever = self.says("TOOLFOREVER");
        if self.results == 0 || forever {
            let calls = self.forced_call().or_else(|| (!self.says("NOTOOL")).then(|| self.calls()).flatten());
            if let Some(calls) = calls {
                return Decision::Calls(calls);
            }
        }
        // The last tool is the one that ends a conversation in which every turn has to call one.
        let forced = self.forced_tool.as_ref().and_then(|name| match name.as_str() {
            "" => self.tools.last(),
            name => self.tools.iter().find(|tool| tool.name == name),
        });
        match forced {
            Some(tool) => Decision::Calls(vec![(tool.name.clone(), Value::Object(tool.arguments()))]),
            None => Decision::Text(self.reply()),
        }
    }

    fn forced_call(&self) -> Option<Vec<(String, Value)>> {
        let call = |directive: &str| {
            let (name, rest) = self.after(directive)?.split_once(':')?;
            self.tools.iter().any(|tool| tool.name == name).then_some(())?;
            Some((name.to_owned(), Self::json_after(rest)?))
        };
        let first = call("TOOL")?;
        Some(std::iter::once(first).chain(call("ALSO")).collect())
    }

    /// A leader asks every member; any other agent calls its first tool.
    fn calls(&self) -> Option<Vec<(String, Value)>> {
        let delegate = self.tools.iter().find(|tool| tool.parameters["properties"].get(MEMBER).is_some());
        if let Some(tool) = delegate {
            let task: String = format!("Find out about: {}", self.user).chars().take(400).collect();
            let call = |member: String| {
                let mut arguments = tool.arguments();
                arguments.insert(MEMBER.to_owned(), json!(member));
                arguments.insert("task".to_owned(), json!(task));
                (tool.name.clone(), Value::Object(arguments))
            };
            let calls: Vec<_> = self.members(tool).into_iter().map(call).collect();
            if !calls.is_empty() {
                return Some(calls);
            }
        }
        let tool = self.tools.first()?;
        Some(vec![(tool.name.clone(), Value::Object(tool.arguments()))])
    }

    /// The ids the tool's schema lists, else those the instructions give as `id="…"`.
    fn members(&self, tool: &OfferedTool) -> Vec<String> {
        let listed = tool.parameters["properties"][MEMBER]["enum"].as_array();
        let mut members: Vec<String> = match listed {
            Some(ids) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => self
                .system
                .split("id=\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
                .map(str::to_owned)
                .collect(),
        };
        let mut seen = std::collections::HashSet::new();
        members.retain(|id| seen.insert(id.clone()));
        members
    }

    fn reply(&self) -> String {
        if let Some(value) = self.after("JSON").and_then(Self::json_after) {
            return value.to_string();
        }
        if let Some(word) = self.directive("REPLY") {
            return word.to_owned();
        }
        if let Some(schema) = &self.output_schema {
            return fill(schema, schema).to_string();
        }
        // Not those of the instructions: rewording a prompt must not change what a test expects.
        let mut names: Vec<_> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        names.sort_unstable();
        let print = fingerprint(&format!("{}\n{}", self.user, names.join("\n")));
        let words: Vec<_> = (0..16).map(|nibble| WORDS[(print >> (nibble * 4)) as usize % WORDS.len()]).collect();
        let (print, words) = (print >> 32, words.join(" "));
        format!("Answer {print:08x} from {} tool results: {words}.", self.results)
    }
}

/// The schema that instructions ask for, where the format of an answer cannot say it.
fn schema_in_words(system: &str) -> Option<Value> {
    let (_, rest) = system.rsplit_once("JSON Schema:\n")?;
    Conversation::json_after(rest).filter(Value::is_object)
}

impl OfferedTool {
    /// Flat in one endpoint, nested in the other.
    fn read(tool: &Value) -> Option<Self> {
        let function = tool.get("function").unwrap_or(tool);
        let name = function["name"].as_str()?.to_owned();
        Some(Self { name, parameters: function["parameters"].clone() })
    }

    /// Something for every required argument.
    fn arguments(&self) -> Map<String, Value> {
        required(&self.parameters, &self.parameters)
    }
}

fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn required(schema: &Value, root: &Value) -> Map<String, Value> {
    let names = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.map(|name| (name.to_owned(), fill(&schema["properties"][name], root))).collect()
}

/// A value that fits the schema.
fn fill(schema: &Value, root: &Value) -> Value {
    if let Some(pointer) = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#')) {
        return root.pointer(pointer).map_or(Value::Null, |schema| fill(schema, root));
    }
    if let Some(value) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return value.clone();
    }
    let choices = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    if let Some(choice) = choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")) {
        return fill(choice, root);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null"),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => Value::Object(required(schema, root)),
        Some("array") => {
            let count = schema["minItems"].as_u64().unwrap_or(0);
            (0..count).map(|_| fill(&schema["items"], root)).collect()
        }
        Some("integer") => json!(schema["minimum"].as_i64().unwrap_or(0).max(2)),
        Some("number") => json!(schema["minimum"].as_f64().unwrap_or(0.0).max(1.5)),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        _ => json!("AI"),
    }
}
