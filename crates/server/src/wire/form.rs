//! Forms: what clients post, parsed once into typed requests.
//!
//! It must never know what is done with a request. The invariant: a parsed request has only values within their bounds,
//! and a refusal says which field is wrong, never what was in it. A form's text is data: a file name is never a path.

use super::answers::Requirements;
use super::media::{self, Gathered, Upload, base_name};
use crate::config::Limits;
use crate::json;
use crate::problem::{FieldProblem, Problem};
use crate::urlencoded::{self, NoText};
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use outlive_core::Attachments;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most parts of a multipart body.
pub const PARTS_MAX: usize = 32;
/// The longest header of a part, in bytes.
pub const PART_HEADER_BYTES_MAX: usize = 8 << 10;
/// The most fields of an urlencoded body.
const FIELDS_MAX: usize = 256;

/// The fields of a body, before anyone has looked at their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    texts: BTreeMap<String, Vec<String>>,
    uploads: Vec<Upload>,
}

impl Fields {
    /// Fields with these texts, for requests that come another way than by a form.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        let mut fields = Self::default();
        for (name, text) in pairs {
            fields.texts.entry(name.into()).or_default().push(text.into());
        }
        fields
    }

    /// Reads a request's body: `application/x-www-form-urlencoded` or `multipart/form-data`. Any other body has no
    /// fields, as in Agno.
    ///
    /// # Errors
    /// 400 for a body that is not what it says, 413 for one that is too large.
    pub async fn read(mut request: Request, limits: &Limits) -> Result<Self, Problem> {
        let media_type = media_type(&request);
        match &*media_type {
            "application/x-www-form-urlencoded" => {
                DefaultBodyLimit::max(limits.body_bytes_max).apply(&mut request);
                let body = Bytes::from_request(request, &())
                    .await
                    .map_err(|rejection| malformed(rejection.status(), "form", limits.body_bytes_max))?;
                let pairs = urlencoded::pairs(&body).map_err(no_text)?;
                if pairs.len() > FIELDS_MAX {
                    return Err(too_large(format!("The form has more than {FIELDS_MAX} fields")));
                }
                Ok(Self::from_pairs(pairs))
            }
            "multipart/form-data" => {
                DefaultBodyLimit::max(limits.multipart_bytes_max).apply(&mut request);
                let parts = Multipart::from_request(request, &())
                    .await
                    .map_err(|rejection| malformed(rejection.status(), "multipart body", limits.multipart_bytes_max))?;
                Self::read_parts(parts, limits).await
            }
            _ => Ok(Self::default()),
        }
    }

    async fn read_parts(mut parts: Multipart, limits: &Limits) -> Result<Self, Problem> {
        let refused = |error: MultipartError| malformed(error.status(), "multipart body", limits.multipart_bytes_max);
        let mut fields = Self::default();
        let mut count = 0;
        while let Some(part) = parts.next_field().await.map_err(refused)? {
            count += 1;
            if count > PARTS_MAX {
                return Err(too_large(format!("The form has more than {PARTS_MAX} parts")));
            }
            if header_bytes(&part) > PART_HEADER_BYTES_MAX {
                return Err(too_large(format!("A part's header is longer than {PART_HEADER_BYTES_MAX} bytes")));
            }
            let Some(field) = part.name().map(str::to_owned) else {
                let detail = "A part of the multipart body has no name";
                return Err(Problem::new(StatusCode::BAD_REQUEST, "malformed_body", detail));
            };
            let file_name = part.file_name().map(base_name).filter(|name| !name.is_empty());
            let claimed_type = part.content_type().map(|kind| kind.trim().to_ascii_lowercase());
            let is_text = part.file_name().is_none();
            let content = part.bytes().await.map_err(refused)?;
            if is_text && (!is_upload_field(&field) || (claimed_type.is_none() && is_array(&content))) {
                let text = urlencoded::plain(content.into()).map_err(no_text)?;
                fields.texts.entry(field).or_default().push(text);
                continue;
            }
            fields.uploads.push(Upload { field, file_name, claimed_type, content });
        }
        Ok(fields)
    }
}

fn is_upload_field(field: &str) -> bool {
    field == "files"
}

/// Whether this is media in JSON rather than a file whose name is missing.
fn is_array(content: &[u8]) -> bool {
    let items = json::parse::<Value>(content).ok();
    items.and_then(|items| Some(items.as_array()?.iter().all(Value::is_object))).unwrap_or(false)
}

fn media_type(request: &Request) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn header_bytes(part: &Field<'_>) -> usize {
    part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

fn malformed(status: StatusCode, what: &str, limit: usize) -> Problem {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large(format!("The body is longer than {limit} bytes"));
    }
    Problem::new(StatusCode::BAD_REQUEST, "malformed_body", format!("The body is not a well-formed {what}"))
}

fn no_text(_: NoText) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed_body", "The form has text that is not UTF-8 or has a NUL")
}

fn too_large(detail: String) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

/// `POST …/runs`.
#[derive(Clone, Debug, PartialEq)]
pub struct RunForm {
    /// What is asked; never empty.
    pub message: String,
    /// Whether the answer is a stream. True unless said otherwise.
    pub stream: bool,
    /// Whether the answer comes before the run's end, or the stream may be left. False unless said otherwise.
    pub background: bool,
    /// The conversation.
    pub session_id: Option<String>,
    /// Whose run it is, as the client says.
    pub user_id: Option<String>,
    /// The id the run is to have.
    pub run_id: Option<String>,
    /// The workflow's version.
    pub version: Option<i64>,
    /// What a factory is given.
    pub factory_input: Option<Value>,
    /// Is merged over the session's state.
    pub session_state: Option<Map<String, Value>>,
    /// What steps may need beside their input.
    pub dependencies: Option<Map<String, Value>>,
    /// What the caller notes about the run.
    pub metadata: Option<Map<String, Value>>,
    /// The caller's own data.
    pub additional_data: Option<Map<String, Value>>,
    /// False asks for a stream of milestones alone. True unless said otherwise.
    pub stream_events: bool,
    /// Where the run's events are to be posted.
    pub webhook_url: Option<String>,
    /// Which of them: `end` or `all`.
    pub webhook_events: Option<String>,
    /// What to do when the session is busy: `queue`, `reject`, `parallel`, `interrupt` or `steer`.
    pub session_policy: Option<String>,
    /// With `steer`: the id of the agent or team that is to hear the message.
    pub steer_to: Option<String>,
    /// Files, in the order in which they came.
    pub uploads: Vec<Upload>,
    /// Media in fields: the field's name and its JSON.
    pub media: Vec<(&'static str, Value)>,
    /// Fields that nobody here knows, for the workflow: further data of the caller's.
    pub extra: Map<String, Value>,
}

impl RunForm {
    /// Parses the fields.
    ///
    /// # Errors
    /// 422 with every field that is wrong.
    pub fn parse(fields: Fields) -> Result<Self, Problem> {
        let mut reader = Reader::new(fields);
        let message = reader.required_text("message");
        let form = Self {
            message,
            stream: reader.boolean("stream").unwrap_or(true),
            background: reader.boolean("background").unwrap_or(false),
            session_id: reader.text("session_id"),
            user_id: reader.text("user_id"),
            run_id: reader.text("run_id"),
            version: reader.integer("version"),
            factory_input: reader.json("factory_input"),
            session_state: reader.object("session_state"),
            dependencies: reader.object("dependencies"),
            metadata: reader.object("metadata"),
            additional_data: reader.object("additional_data"),
            stream_events: reader.boolean("stream_events").unwrap_or(true),
            webhook_url: reader.text("webhook_url"),
            webhook_events: reader.text("webhook_events"),
            session_policy: reader.text("session_policy"),
            steer_to: reader.text("steer_to"),
            uploads: std::mem::take(&mut reader.fields.uploads),
            media: media::FIELDS.into_iter().filter_map(|field| Some((field, reader.json(field)?))).collect(),
            extra: reader.rest(),
        };
        reader.finish(form)
    }

    /// What the run's steps see beside the input.
    ///
    /// # Errors
    /// 422 when something attached cannot be carried, is not of the kind it claims to be, or is too much.
    pub fn attachments(self) -> Result<Attachments, Problem> {
        let mut gathered = Gathered::default();
        self.uploads.iter().try_for_each(|upload| gathered.upload(upload))?;
        self.media.into_iter().try_for_each(|(field, items)| gathered.items(field, items))?;
        let mut data = self.extra;
        // What was named as such wins over a field of the same name.
        data.extend(self.additional_data.unwrap_or_default());
        Ok(Attachments {
            additional_data: (!data.is_empty()).then_some(Value::Object(data)),
            metadata: self.metadata.map(Box::new),
            dependencies: self.dependencies.map(Box::new),
            ..gathered.into_attachments()
        })
    }
}

/// `POST …/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumeForm {
    /// The last event the client has; none when it has nothing.
    pub last_event_index: Option<u64>,
    /// The conversation.
    pub session_id: Option<String>,
    /// Whose run it is, as the client says.
    pub user_id: Option<String>,
}

impl ResumeForm {
    /// Parses the fields.
    ///
    /// # Errors
    /// 422 with every field that is wrong.
    pub fn parse(fields: Fields) -> Result<Self, Problem> {
        let mut reader = Reader::new(fields);
        let form = Self {
            last_event_index: reader.index("last_event_index"),
            session_id: reader.text("session_id"),
            user_id: reader.text("user_id"),
        };
        reader.finish(form)
    }
}

/// `POST …/continue`.
#[derive(Clone, Debug, PartialEq)]
pub struct ContinueForm {
    /// A person's answers, one object for each requirement; none when the stored ones are to be used.
    pub step_requirements: Option<Vec<Map<String, Value>>>,
    /// The same about failures.
    pub error_requirements: Option<Vec<Map<String, Value>>>,
    /// Agents: tool calls with a person's answers.
    pub tools: Option<Vec<Map<String, Value>>>,
    /// Teams: requirements with a person's answers.
    pub requirements: Option<Vec<Map<String, Value>>>,
    /// The conversation.
    pub session_id: Option<String>,
    /// Whose run it is, as the client says.
    pub user_id: Option<String>,
    /// Whether the answer is a stream. True unless said otherwise.
    pub stream: bool,
    /// Whether the answer comes before the run's end. False unless said otherwise.
    pub background: bool,
}

impl ContinueForm {
    /// Parses the fields.
    ///
    /// # Errors
    /// 400 for answers that are not a JSON array of objects, as Agno has it; 422 for every other field that is wrong.
    pub fn parse(fields: Fields) -> Result<Self, Problem> {
        let mut reader = Reader::new(fields);
        let step_requirements = answers(&mut reader, "step_requirements")?;
        let error_requirements = answers(&mut reader, "error_requirements")?;
        let tools = answers(&mut reader, "tools")?;
        let requirements = answers(&mut reader, "requirements")?;
        let form = Self {
            step_requirements,
            error_requirements,
            tools,
            requirements,
            session_id: reader.text("session_id"),
            user_id: reader.text("user_id"),
            stream: reader.boolean("stream").unwrap_or(true),
            background: reader.boolean("background").unwrap_or(false),
        };
        reader.finish(form)
    }
}

impl ContinueForm {
    /// What was answered.
    pub(crate) fn into_requirements(self) -> Requirements {
        let tools = [self.tools, self.requirements].into_iter().flatten().flatten().collect();
        Requirements {
            steps: self.step_requirements.unwrap_or_default(),
            errors: self.error_requirements.unwrap_or_default(),
            tools,
        }
    }
}

fn answers(reader: &mut Reader, field: &'static str) -> Result<Option<Vec<Map<String, Value>>>, Problem> {
    let Some(text) = reader.text(field) else { return Ok(None) };
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "invalid_answers", detail);
    let value: Value = json::parse(text.as_bytes()).map_err(|_| bad(format!("Invalid JSON in {field} field")))?;
    serde_json::from_value(value)
        .map(Some)
        .map_err(|_| bad(format!("Invalid structure or content for {field}: an array of objects is expected")))
}

/// Takes fields one by one and remembers what is wrong with them.
struct Reader {
    fields: Fields,
    problems: Vec<FieldProblem>,
}

impl Reader {
    fn new(fields: Fields) -> Self {
        Self { fields, problems: Vec::new() }
    }

    fn finish<T>(self, parsed: T) -> Result<T, Problem> {
        if self.problems.is_empty() { Ok(parsed) } else { Err(Problem::fields(self.problems)) }
    }

    fn wrong(&mut self, kind: &'static str, field: &str, msg: impl Into<String>) {
        let loc = vec!["body".to_owned(), field.to_owned()];
        self.problems.push(FieldProblem { kind, loc, msg: msg.into() });
    }

    /// The field's text. An empty one counts as missing, as in Agno; one that was given twice is ambiguous.
    fn text(&mut self, field: &'static str) -> Option<String> {
        let mut texts = self.fields.texts.remove(field)?;
        if texts.len() > 1 {
            self.wrong("multiple_values", field, "Field was given more than once");
            return None;
        }
        texts.pop().filter(|text| !text.is_empty())
    }

    fn required_text(&mut self, field: &'static str) -> String {
        let before = self.problems.len();
        let text = self.text(field);
        if text.is_none() && self.problems.len() == before {
            self.wrong("missing", field, "Field required");
        }
        text.unwrap_or_default()
    }

    fn boolean(&mut self, field: &'static str) -> Option<bool> {
        let text = self.text(field)?;
        let parsed = boolean(&text);
        if parsed.is_none() {
            self.wrong("bool_parsing", field, "Input should be a valid boolean, unable to interpret input");
        }
        parsed
    }

    fn integer(&mut self, field: &'static str) -> Option<i64> {
        let text = self.text(field)?;
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(INT_PARSING, field, NO_INTEGER);
        }
        parsed
    }

    /// An integer from 0 on. One that is too large for any log is the largest there is.
    fn index(&mut self, field: &'static str) -> Option<u64> {
        let text = self.text(field)?;
        let digits = text.trim().trim_start_matches('+');
        let (is_negative, digits) = digits.strip_prefix('-').map_or((false, digits), |digits| (true, digits));
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            self.wrong(INT_PARSING, field, NO_INTEGER);
            return None;
        }
        let index = digits.parse().unwrap_or(u64::MAX);
        if is_negative && index > 0 {
            self.wrong("greater_than_equal", field, "Input should be greater than or equal to 0");
            return None;
        }
        Some(index)
    }

    fn json(&mut self, field: &'static str) -> Option<Value> {
        let text = self.text(field)?;
        match json::parse(text.as_bytes()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.wrong(problem.code, field, problem.words());
                None
            }
        }
    }

    fn object(&mut self, field: &'static str) -> Option<Map<String, Value>> {
        match self.json(field)? {
            Value::Object(object) => Some(object),
            Value::Null => None,
            _ => {
                self.wrong("dict_type", field, "Input should be a JSON object");
                None
            }
        }
    }

    /// Everything nobody has taken: text, or an array of texts for a field given more than once.
    fn rest(&mut self) -> Map<String, Value> {
        let single = |mut texts: Vec<String>| match texts.len() {
            1 => Value::String(texts.remove(0)),
            _ => Value::from(texts),
        };
        std::mem::take(&mut self.fields.texts).into_iter().map(|(name, texts)| (name, single(texts))).collect()
    }
}

const INT_PARSING: &str = "int_parsing";
const NO_INTEGER: &str = "Input should be a valid integer, unable to parse string as an integer";

/// A boolean in the words Agno's clients may use, in any case.
pub fn boolean(text: &str) -> Option<bool> {
    match &*text.trim().to_ascii_lowercase() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Some(false),
        _ => None,
    }
}
