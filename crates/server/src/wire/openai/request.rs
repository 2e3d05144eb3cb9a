//! `POST /v1/responses`: the body, parsed into what is to run.
//!
//! It must never know what is done with a request. The invariant: a parameter is used, or has no part in what a run comes
//! to, or is refused by its name; nothing that would change the answer is passed over in silence.

use crate::problem::{Detail, FieldProblem, Problem};
use crate::wire::media::Gathered;
use outlive_core::{Attachments, RunId};
use serde_json::{Map, Value, json};

/// Under which the caller's data has what only a response shows.
pub const DATA: &str = "openai";

/// Parameters that change how a model's provider does its work, and not what is asked of it here: the workflow's agents
/// have settings of their own.
const IGNORED: [&str; 12] = [
    "include",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "temperature",
    "top_p",
    "truncation",
];
/// Parameters that cannot be kept here, and what to do instead.
const REFUSED: [(&str, &str); 8] = [
    ("context_management", "the agent's own settings say how much of a conversation it is told"),
    ("max_output_tokens", "the agent's own settings and budgets limit what it uses"),
    ("max_tool_calls", "the agent's own settings and budgets limit what it uses"),
    ("moderation", "use the agent's guardrails"),
    ("prompt", "send the text as 'instructions' or 'input'"),
    ("tool_choice", "the agent chooses among its own tools"),
    ("tools", "the agent has its own tools"),
    ("top_logprobs", "there are no probabilities of tokens"),
];
/// As many pairs of metadata as OpenAI takes, and as long ones, in characters.
const METADATA_MAX: usize = 16;
const METADATA_KEY_MAX: usize = 64;
const METADATA_VALUE_MAX: usize = 512;

/// What a client asks for.
#[derive(Debug, Default)]
pub struct Create {
    /// What is to run.
    pub model: String,
    /// What it is asked: instructions first, then the text of the input.
    pub message: String,
    /// Whether the answer comes before the run's end, or the stream may be left.
    pub background: bool,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// The response whose conversation goes on.
    pub previous: Option<RunId>,
    /// The conversation.
    pub conversation: Option<String>,
    /// Whose run it is, as the client says.
    pub user: Option<String>,
    /// What comes with the input.
    pub attachments: Attachments,
    /// Where images and files stood in the request.
    places: Places,
}

/// Of each image and each file, the parameter that it came in.
#[derive(Debug, Default)]
struct Places {
    images: Vec<Vec<String>>,
    files: Vec<Vec<String>>,
}

impl Create {
    /// Reads a body.
    ///
    /// # Errors
    /// 422 about the first parameter that is wrong, is not known, or cannot be kept.
    pub fn parse(mut body: Map<String, Value>) -> Result<Self, Problem> {
        // As OpenAI has it, a parameter that is null is as good as absent.
        body.retain(|_, value| !value.is_null());
        let model = text(&mut body, "model")?.ok_or_else(|| missing("model"))?;
        let input = body.remove("input").ok_or_else(|| missing("input"))?;
        let instructions = text(&mut body, "instructions")?;
        let background = boolean(&mut body, "background")?;
        let stream = boolean(&mut body, "stream")?.unwrap_or(false);
        let previous_response_id = text(&mut body, "previous_response_id")?;
        let conversation = conversation(&mut body)?;
        let metadata = metadata(&mut body)?;
        let user = text(&mut body, "user")?;
        if body.remove("store").is_some_and(|store| store != json!(true)) {
            let msg = "every run is stored, and a response is a view of its run: leave 'store' out or set it to true";
            return Err(wrong("value_error", &["store"], msg));
        }
        if conversation.is_some() && previous_response_id.is_some() {
            let msg = "a request goes on from 'previous_response_id' or in a 'conversation', not from both";
            return Err(wrong("value_error", &["conversation"], msg));
        }
        rest(body)?;
        let previous = match &previous_response_id {
            // No run has such an id, so it is as unknown as one that never was.
            Some(id) => Some(super::run_id(id).ok_or_else(|| unknown_response(id))?),
            None => None,
        };
        let mut said = Said::default();
        said.input(input)?;
        let Said { leading, texts, gathered, places } = said;
        if texts.iter().all(String::is_empty) && places.images.is_empty() && places.files.is_empty() {
            return Err(wrong("missing", &["input"], "Input should not be empty"));
        }
        let message = instructions.iter().cloned().chain(leading).chain(texts).collect::<Vec<_>>().join("\n\n");
        let background = background.unwrap_or(false);
        let data = json!({
            "background": background,
            "instructions": instructions,
            "previous_response_id": previous_response_id,
        });
        let attachments = Attachments {
            additional_data: Some(json!({ DATA: crate::wire::run::without_nulls(data) })),
            metadata: metadata.map(Box::new),
            ..gathered.into_attachments()
        };
        Ok(Self { model, message, background, stream, previous, conversation, user, attachments, places })
    }

    /// A problem with the run in the words of this request, whose parameters have other names.
    pub fn rename(&self, mut problem: Problem) -> Problem {
        if let Detail::Fields(fields) = &mut problem.detail {
            fields.iter_mut().for_each(|field| self.places.rename(&mut field.loc));
        }
        problem
    }
}

impl Places {
    fn rename(&self, loc: &mut Vec<String>) {
        let [_, field, rest @ ..] = &loc[..] else { return };
        let place = |places: &[Vec<String>]| places.get(rest.first()?.parse::<usize>().ok()?).cloned();
        let named = match field.as_str() {
            "user_id" => Some(vec!["user".to_owned()]),
            "session_id" => Some(vec!["conversation".to_owned()]),
            "images" => place(&self.images),
            "input_files" => place(&self.files),
            _ => None,
        };
        if let Some(named) = named {
            *loc = std::iter::once("body".to_owned()).chain(named).collect();
        }
    }
}

/// 404 for a response that there is not, or not for this caller.
pub fn unknown_response(id: &str) -> Problem {
    let mut problem = Problem::not_found(format!("Previous response with id '{id:.200}' not found."));
    problem.code = "previous_response_not_found";
    problem
}

/// What the items of an input say.
#[derive(Default)]
struct Said {
    /// Of the system and the developer.
    leading: Vec<String>,
    /// Of the user.
    texts: Vec<String>,
    gathered: Gathered,
    places: Places,
}

impl Said {
    fn input(&mut self, input: Value) -> Result<(), Problem> {
        match input {
            Value::String(text) => self.texts.push(text),
            Value::Array(items) => {
                for (place, item) in items.into_iter().enumerate() {
                    self.item(&["input".to_owned(), place.to_string()], item)?;
                }
            }
            _ => return Err(wrong("string_type", &["input"], "Input should be a text or an array of messages")),
        }
        Ok(())
    }

    fn item(&mut self, at: &[String], item: Value) -> Result<(), Problem> {
        let Value::Object(mut item) = item else {
            return Err(at_place(at, "dict_type", "Input should be an object"));
        };
        let kind = item.get("type").map_or(Some("message"), Value::as_str).unwrap_or_default();
        if kind != "message" {
            let msg = format!(
                "items of type '{kind:.64}' are not taken: send messages, and go on from an earlier response with \
                'previous_response_id'"
            );
            return Err(at_place(at, "unsupported_value", msg));
        }
        let is_leading = match item.get("role").and_then(Value::as_str) {
            Some("user") => false,
            Some("system" | "developer") => true,
            Some("assistant") => {
                let msg = "messages of the assistant are not taken, because the server keeps the conversation: send \
                    what is new, with 'previous_response_id'";
                return Err(at_place(at, "unsupported_value", msg));
            }
            _ => return Err(at_place(at, "enum", "'role' should be 'user', 'system' or 'developer'")),
        };
        match item.remove("content") {
            Some(Value::String(text)) => self.say(is_leading, text),
            Some(Value::Array(parts)) => {
                for (place, part) in parts.into_iter().enumerate() {
                    let at = [at, &["content".to_owned(), place.to_string()]].concat();
                    self.part(is_leading, &at, part)?;
                }
            }
            _ => return Err(at_place(at, "missing", "'content' should be a text or an array of parts")),
        }
        Ok(())
    }

    fn say(&mut self, is_leading: bool, text: String) {
        if is_leading { self.leading.push(text) } else { self.texts.push(text) }
    }

    fn part(&mut self, is_leading: bool, at: &[String], part: Value) -> Result<(), Problem> {
        let Value::Object(mut part) = part else {
            return Err(at_place(at, "dict_type", "Input should be an object"));
        };
        part.retain(|_, value| !value.is_null());
        if part.contains_key("file_id") {
            let msg = "files are not kept here, so there is none with an id: send its content or its address";
            return Err(at_place(at, "unsupported_value", msg));
        }
        match part.remove("type").as_ref().and_then(Value::as_str) {
            Some("input_text") => match part.remove("text") {
                Some(Value::String(text)) => self.say(is_leading, text),
                _ => return Err(at_place(at, "missing", "'text' should be a text")),
            },
            Some("input_image") => {
                let image = json!({ "url": take_key(&mut part, "image_url"), "detail": take_key(&mut part, "detail") });
                self.gather("images", at, image)?;
            }
            Some("input_file") => {
                // What begins like an address with the content in it is one.
                let content = take_key(&mut part, "file_data");
                let is_address = content.as_str().is_some_and(|text| text.starts_with("data:"));
                let url = take_key(&mut part, "file_url");
                let (content, url) = if is_address { (Value::Null, content) } else { (content, url) };
                let file = json!({ "content": content, "url": url, "filename": take_key(&mut part, "filename") });
                self.gather("input_files", at, file)?;
            }
            _ => {
                let msg = "'type' should be 'input_text', 'input_image' or 'input_file'";
                return Err(at_place(at, "unsupported_value", msg));
            }
        }
        Ok(())
    }

    fn gather(&mut self, field: &str, at: &[String], item: Value) -> Result<(), Problem> {
        self.gathered.items(field, json!([item])).map_err(|mut problem| {
            if let Detail::Fields(fields) = &mut problem.detail {
                fields.iter_mut().for_each(|field| field.loc = located(at));
            }
            problem
        })?;
        let places = if field == "images" { &mut self.places.images } else { &mut self.places.files };
        places.push(at.to_vec());
        Ok(())
    }
}

fn take_key(part: &mut Map<String, Value>, key: &str) -> Value {
    part.remove(key).unwrap_or_default()
}

/// What is left of a body once everything that is used was taken out of it.
fn rest(mut body: Map<String, Value>) -> Result<(), Problem> {
    IGNORED.iter().for_each(|name| drop(body.remove(*name)));
    body.retain(|name, value| match name.as_str() {
        "tools" | "context_management" => *value != json!([]),
        "tool_choice" => *value != json!("auto") && *value != json!("none"),
        "top_logprobs" => *value != json!(0),
        "text" => value["format"]["type"].as_str().unwrap_or("text") != "text",
        _ => true,
    });
    let Some(name) = body.keys().next() else { return Ok(()) };
    if name == "text" {
        let msg = "what the model answers with is in its own shape: give the agent an output schema, and leave out \
            'text.format'";
        return Err(wrong("unsupported_parameter", &["text", "format"], msg));
    }
    Err(match REFUSED.iter().find(|(refused, _)| refused == name) {
        Some((_, why)) => wrong("unsupported_parameter", &[name], format!("'{name}' is not taken: {why}")),
        None => wrong("unknown_parameter", &[name], format!("Unknown parameter: '{name:.64}'.")),
    })
}

fn text(body: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Problem> {
    match body.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(wrong("string_type", &[name], "Input should be a valid string")),
    }
}

fn boolean(body: &mut Map<String, Value>, name: &str) -> Result<Option<bool>, Problem> {
    match body.remove(name) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(_) => Err(wrong("bool_type", &[name], "Input should be a valid boolean")),
    }
}

/// A conversation's id, alone or in an object.
fn conversation(body: &mut Map<String, Value>) -> Result<Option<String>, Problem> {
    match body.remove("conversation") {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(Value::Object(mut object)) => match object.remove("id") {
            Some(Value::String(id)) => Ok(Some(id)),
            _ => Err(wrong("string_type", &["conversation", "id"], "Input should be a valid string")),
        },
        Some(_) => Err(wrong("string_type", &["conversation"], "Input should be an id, or an object with one")),
    }
}

fn metadata(body: &mut Map<String, Value>) -> Result<Option<Map<String, Value>>, Problem> {
    let bad = || {
        let msg = format!(
            "Input should be an object of at most {METADATA_MAX} texts of at most {METADATA_VALUE_MAX} characters, \
            with keys of at most {METADATA_KEY_MAX}"
        );
        wrong("value_error", &["metadata"], msg)
    };
    let metadata = match body.remove("metadata") {
        None => return Ok(None),
        Some(Value::Object(metadata)) => metadata,
        Some(_) => return Err(bad()),
    };
    let is_short = |text: &str, max: usize| text.chars().take(max + 1).count() <= max;
    let fits = metadata.len() <= METADATA_MAX
        && metadata.iter().all(|(key, value)| {
            is_short(key, METADATA_KEY_MAX) && value.as_str().is_some_and(|text| is_short(text, METADATA_VALUE_MAX))
        });
    if fits { Ok(Some(metadata).filter(|metadata| !metadata.is_empty())) } else { Err(bad()) }
}

fn missing(name: &str) -> Problem {
    wrong("missing", &[name], format!("Missing required parameter: '{name}'."))
}

fn wrong(kind: &'static str, at: &[&str], msg: impl Into<String>) -> Problem {
    at_place(&at.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>(), kind, msg)
}

fn at_place(at: &[String], kind: &'static str, msg: impl Into<String>) -> Problem {
    Problem::fields(vec![FieldProblem { kind, loc: located(at), msg: msg.into() }])
}

fn located(at: &[String]) -> Vec<String> {
    std::iter::once("body".to_owned()).chain(at.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<Create, Problem> {
        let Value::Object(body) = body else { panic!("an object") };
        Create::parse(body)
    }

    fn parsed(mut more: Value) -> Create {
        more["model"] = json!("m");
        parse(more).expect("a request")
    }

    /// The parameter that is refused, its kind and the words.
    fn refused(more: Value) -> (String, &'static str, String) {
        let mut body = json!({ "model": "m", "input": "x" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let problem = parse(body).expect_err("refused");
        let Detail::Fields(mut fields) = problem.detail else { panic!("{:?}", problem.detail) };
        let field = fields.remove(0);
        (field.loc[1..].join("."), field.kind, field.msg)
    }

    #[test]
    fn instructions_and_the_texts_of_an_input_are_one_message() {
        assert_eq!(parsed(json!({ "input": "hello" })).message, "hello");
        let several = json!({
            "instructions": "Be brief.",
            "input": [
                { "role": "developer", "content": "In French." },
                { "role": "user", "content": "One" },
                { "type": "message", "role": "user", "content": [
                    { "type": "input_text", "text": "Two" },
                    { "type": "input_text", "text": "Three" },
                ] },
            ],
        });
        assert_eq!(parsed(several).message, "Be brief.\n\nIn French.\n\nOne\n\nTwo\n\nThree");
    }

    #[test]
    fn images_and_files_come_along() {
        let image = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
        let create = parsed(json!({ "input": [{ "role": "user", "content": [
            { "type": "input_text", "text": "what is it" },
            { "type": "input_image", "image_url": image, "detail": "low" },
            { "type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto", "file_id": null },
            { "type": "input_file", "file_data": "aGVsbG8=", "filename": "a.txt" },
            { "type": "input_file", "file_data": "data:text/plain;base64,aGVsbG8=", "filename": "b.txt" },
            { "type": "input_file", "file_url": "https://example.org/c.pdf" },
        ] }] }));
        let images = create.attachments.images.as_ref().expect("images");
        assert_eq!(images[0].mime_type.as_deref(), Some("image/png"));
        assert_eq!(images[0].detail.as_deref(), Some("low"));
        assert_eq!(images[1].url.as_deref(), Some("https://example.org/a.png"));
        let files = create.attachments.files.as_ref().expect("files");
        assert_eq!((files[0].content.as_deref(), files[0].filename.as_deref()), (Some("aGVsbG8="), Some("a.txt")));
        assert_eq!((files[1].content.as_deref(), files[1].filename.as_deref()), (Some("aGVsbG8="), Some("b.txt")));
        assert_eq!(files[2].url.as_deref(), Some("https://example.org/c.pdf"));
        // What is found to be wrong later has the name it had in the request.
        let problem = Problem::fields(vec![FieldProblem {
            kind: "value_error",
            loc: ["body", "images", "1", "url"].map(str::to_owned).to_vec(),
            msg: "no".to_owned(),
        }]);
        assert_eq!(create.rename(problem).words(), "body.input.0.content.2: no");
    }

    #[test]
    fn what_changes_the_answer_is_used_or_refused_by_its_name() {
        for (more, param, kind) in [
            (json!({ "tools": [{ "type": "web_search" }] }), "tools", "unsupported_parameter"),
            (json!({ "tool_choice": "required" }), "tool_choice", "unsupported_parameter"),
            (json!({ "max_output_tokens": 5 }), "max_output_tokens", "unsupported_parameter"),
            (json!({ "max_tool_calls": 5 }), "max_tool_calls", "unsupported_parameter"),
            (json!({ "prompt": { "id": "p" } }), "prompt", "unsupported_parameter"),
            (json!({ "text": { "format": { "type": "json_object" } } }), "text.format", "unsupported_parameter"),
            (json!({ "top_logprobs": 3 }), "top_logprobs", "unsupported_parameter"),
            (json!({ "store": false }), "store", "value_error"),
            (json!({ "store": false, "background": true }), "store", "value_error"),
            (json!({ "messages": [] }), "messages", "unknown_parameter"),
            (json!({ "model": 5 }), "model", "string_type"),
            (json!({ "model": null }), "model", "missing"),
            (json!({ "input": null }), "input", "missing"),
            (json!({ "input": 5 }), "input", "string_type"),
            (json!({ "input": "" }), "input", "missing"),
            (json!({ "input": [] }), "input", "missing"),
            (json!({ "input": ["x"] }), "input.0", "dict_type"),
            (json!({ "input": [{ "role": "assistant", "content": "x" }] }), "input.0", "unsupported_value"),
            (json!({ "input": [{ "role": "tool", "content": "x" }] }), "input.0", "enum"),
            (json!({ "input": [{ "role": "user" }] }), "input.0", "missing"),
            (json!({ "input": [{ "type": "item_reference", "id": "msg_1" }] }), "input.0", "unsupported_value"),
            (json!({ "input": [{ "type": 5 }] }), "input.0", "unsupported_value"),
            (
                json!({ "input": [{ "role": "user", "content": [{ "type": "input_audio" }] }] }),
                "input.0.content.0",
                "unsupported_value",
            ),
            (
                json!({ "input": [{ "role": "user", "content": [{ "type": "input_file", "file_id": "file-1" }] }] }),
                "input.0.content.0",
                "unsupported_value",
            ),
            (
                json!({ "input": [{ "role": "user", "content": [{ "type": "input_image", "image_url": "ftp://a" }] }] }),
                "input.0.content.0",
                "url_scheme",
            ),
            (json!({ "background": "yes" }), "background", "bool_type"),
            (json!({ "stream": 1 }), "stream", "bool_type"),
            (json!({ "metadata": { "a": 1 } }), "metadata", "value_error"),
            (json!({ "metadata": { "a": "x".repeat(513) } }), "metadata", "value_error"),
            (json!({ "metadata": [] }), "metadata", "value_error"),
            (json!({ "conversation": 5 }), "conversation", "string_type"),
            (json!({ "conversation": "c", "previous_response_id": "resp_1" }), "conversation", "value_error"),
        ] {
            let (name, found, words) = refused(more.clone());
            assert_eq!((name.as_str(), found), (param, kind), "{more}: {words}");
            assert!(!words.is_empty());
        }
        let harmless = json!({
            "input": "x", "temperature": 0.2, "top_p": 1, "tools": [], "tool_choice": "auto", "text": { "verbosity": "low" },
            "reasoning": { "effort": "low" }, "store": true, "truncation": "auto", "include": [], "top_logprobs": 0,
            "parallel_tool_calls": true, "stream_options": { "include_obfuscation": false }, "user": null,
        });
        assert_eq!(parsed(harmless).message, "x");
    }

    #[test]
    fn what_only_a_response_shows_goes_with_the_callers_data() {
        let create = parsed(json!({ "input": "x", "background": true, "instructions": "Be brief." }));
        let data = create.attachments.additional_data.expect("data");
        assert_eq!(data, json!({ "openai": { "background": true, "instructions": "Be brief." } }));
        let metadata = parsed(json!({ "input": "x", "metadata": { "order": "7" } })).attachments.metadata;
        assert_eq!(metadata.expect("metadata")["order"], "7");
        let previous = parsed(json!({ "input": "x", "previous_response_id": "resp_run-1" })).previous;
        assert_eq!(previous.expect("a run").as_str(), "run-1");
        let unknown = parse(json!({ "model": "m", "input": "x", "previous_response_id": "run-1" }));
        assert_eq!(unknown.expect_err("unknown").status.as_u16(), 404);
    }
}
