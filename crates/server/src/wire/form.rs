//! Forms: what clients post, parsed once into typed requests.
//!
//! It must never know what is done with a request. The invariant: a request that was parsed has only values in their
//! bounds, and one that was refused was told which field is wrong, never what stood in it. Text of a form is data: a file
//! name is never a path, a media type is believed only as far as the content agrees.

use crate::config::Limits;
use crate::json;
use crate::problem::{FieldProblem, Problem};
use crate::urlencoded::{self, NoText};
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outlive_core::{Attachments, Media};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most parts of a multipart body.
pub const PARTS_MAX: usize = 32;
/// The longest header of a part, in bytes.
pub const PART_HEADER_BYTES_MAX: usize = 8 << 10;
/// The longest file name that is kept, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;
/// The most fields of an urlencoded body.
const FIELDS_MAX: usize = 256;

/// A file of a multipart body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The field it came in.
    pub field: String,
    /// The last segment of the name the client gave, without control characters.
    pub file_name: Option<String>,
    /// What the client says it is.
    pub claimed_type: Option<String>,
    /// The bytes.
    pub content: Bytes,
}

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
            if part.file_name().is_none() && !is_upload_field(&field) {
                let text = urlencoded::plain(part.bytes().await.map_err(refused)?.into()).map_err(no_text)?;
                fields.texts.entry(field).or_default().push(text);
                continue;
            }
            let file_name = part.file_name().map(base_name).filter(|name| !name.is_empty());
            let claimed_type = part.content_type().map(|kind| kind.trim().to_ascii_lowercase());
            let content = part.bytes().await.map_err(refused)?;
            fields.uploads.push(Upload { field, file_name, claimed_type, content });
        }
        Ok(fields)
    }
}

fn is_upload_field(field: &str) -> bool {
    field == "files"
}

fn media_type(request: &Request) -> String {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn header_bytes(part: &Field<'_>) -> usize {
    part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// The last segment of what a client calls a file, by either system's separator, without control characters.
fn base_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut kept: String = last.chars().filter(|c| !c.is_control()).collect();
    let mut end = kept.len().min(FILE_NAME_BYTES_MAX);
    while !kept.is_char_boundary(end) {
        end -= 1;
    }
    kept.truncate(end);
    if kept.chars().all(|c| c == '.') { String::new() } else { kept }
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
    /// The workflow's version.
    pub version: Option<i64>,
    /// What a factory is given.
    pub factory_input: Option<Value>,
    /// Is merged over the session's state.
    pub session_state: Option<Map<String, Value>>,
    /// What the workflow may refer to.
    pub dependencies: Option<Map<String, Value>>,
    /// The caller's own data.
    pub metadata: Option<Map<String, Value>>,
    /// False asks for a stream of milestones alone. True unless said otherwise.
    pub stream_events: bool,
    /// Where the run's events are to be posted.
    pub webhook_url: Option<String>,
    /// Which of them: `end` or `all`.
    pub webhook_events: Option<String>,
    /// Files, in the order in which they came.
    pub uploads: Vec<Upload>,
    /// Fields that nobody here knows, for the workflow.
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
            version: reader.integer("version"),
            factory_input: reader.json("factory_input"),
            session_state: reader.object("session_state"),
            dependencies: reader.object("dependencies"),
            metadata: reader.object("metadata"),
            stream_events: reader.boolean("stream_events").unwrap_or(true),
            webhook_url: reader.text("webhook_url"),
            webhook_events: reader.text("webhook_events"),
            uploads: std::mem::take(&mut reader.fields.uploads),
            extra: reader.rest(),
        };
        reader.finish(form)
    }

    /// What the run's steps see beside the input: the uploads by kind, and whatever nobody here knows.
    ///
    /// # Errors
    /// 422 when a file is not of the kind it claims to be.
    pub fn attachments(&self) -> Result<Attachments, Problem> {
        let mut kinds: BTreeMap<Class, Vec<Media>> = BTreeMap::new();
        for upload in &self.uploads {
            let (class, media) = upload.media()?;
            kinds.entry(class).or_default().push(media);
        }
        let mut data = self.extra.clone();
        for (key, value) in [("dependencies", &self.dependencies), ("metadata", &self.metadata)] {
            if let Some(object) = value {
                data.insert(key.to_owned(), Value::Object(object.clone()));
            }
        }
        Ok(Attachments {
            additional_data: (!data.is_empty()).then_some(Value::Object(data)),
            images: kinds.remove(&Class::Image),
            videos: kinds.remove(&Class::Video),
            audio: kinds.remove(&Class::Audio),
            files: kinds.remove(&Class::File),
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
        let tools = answers(&mut reader, "tools")?;
        let requirements = answers(&mut reader, "requirements")?;
        let form = Self {
            step_requirements,
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

/// Where a step finds a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Image,
    Audio,
    Video,
    File,
}

impl Class {
    fn of_type(media_type: &str) -> Self {
        match media_type.split('/').next().unwrap_or_default() {
            "image" => Self::Image,
            "audio" => Self::Audio,
            "video" => Self::Video,
            _ => Self::File,
        }
    }
}

impl Upload {
    /// The file for a step: its kind by its first bytes, not by what the client says.
    fn media(&self) -> Result<(Class, Media), Problem> {
        let claimed = self.claimed_type.as_deref().unwrap_or("application/octet-stream");
        let found = sniff(&self.content);
        let class = found.map_or(Class::File, Class::of_type);
        let claimed_class = Class::of_type(claimed);
        // A container that holds sound or pictures may honestly be called either.
        let is_close = class == Class::Video && claimed_class == Class::Audio;
        if claimed_class != Class::File && claimed_class != class && !is_close {
            let msg = format!("File content is not of the claimed type {claimed:.64}");
            return Err(Problem::field("media_type_mismatch", "body", &self.field, msg));
        }
        let mime_type = found.unwrap_or(match claimed_class {
            Class::File if is_plain_type(claimed) && std::str::from_utf8(&self.content).is_ok() => claimed,
            _ => "application/octet-stream",
        });
        let media = Media {
            content: Some(STANDARD.encode(&self.content)),
            mime_type: Some(mime_type.to_owned()),
            filename: self.file_name.clone(),
            ..Media::default()
        };
        Ok((if is_close { claimed_class } else { class }, media))
    }
}

/// Types that cannot be told by first bytes and can do no harm wherever they are shown.
fn is_plain_type(media_type: &str) -> bool {
    matches!(media_type, "text/plain" | "text/csv" | "text/markdown" | "application/json")
}

/// The media type by a file's first bytes.
fn sniff(content: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| content.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let riff = |kind: &[u8]| at(0, b"RIFF") && at(8, kind);
    Some(match content {
        _ if at(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        _ if at(0, b"\xff\xd8\xff") => "image/jpeg",
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => "image/gif",
        _ if riff(b"WEBP") => "image/webp",
        _ if riff(b"WAVE") => "audio/wav",
        _ if at(0, b"ID3") || at(0, b"\xff\xfb") || at(0, b"\xff\xf3") => "audio/mpeg",
        _ if at(0, b"fLaC") => "audio/flac",
        _ if at(0, b"OggS") => "audio/ogg",
        _ if at(4, b"ftyp") => "video/mp4",
        _ if at(0, b"\x1a\x45\xdf\xa3") => "video/webm",
        _ if at(0, b"%PDF-") => "application/pdf",
        _ if at(0, b"PK\x03\x04") => "application/zip",
        _ => return None,
    })
}
