//! Images, audio, videos and files of a request: as uploads, or as Agno's clients write them into fields, JSON arrays
//! of objects with base64 or an address.
//!
//! It must never open a path or an address. The invariant: media are attached, with everything stated about them, or
//! the request is refused, naming the wrong field and item; and a media type is trusted only as far as the content
//! agrees.

use crate::problem::{FieldProblem, Problem};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::Bytes;
use outlive_core::{Attachments, Media};
use serde_json::{Map, Value};

/// The most images, audio clips, videos and files of one request together.
pub const MEDIA_MAX: usize = 32;
/// The longest address, in bytes.
const URL_BYTES_MAX: usize = 8 << 10;
/// The longest media type that is kept, in bytes.
const TYPE_BYTES_MAX: usize = 127;
/// The fields that hold media, and what they hold. Agno's clients use `input_files`, because `files` are its uploads.
pub const FIELDS: [&str; 5] = ["images", "audio", "videos", "input_files", "files"];

/// Base64 as it is written here and there, with or without its padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const ALPHABETS: [GeneralPurpose; 2] = [
    GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT),
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT),
];

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

/// What a request brings along, by kind.
#[derive(Debug, Default)]
pub struct Gathered {
    kinds: [Vec<Media>; 4],
}

/// Where a step finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    fn of_field(field: &str) -> Self {
        match field {
            "images" => Self::Image,
            "audio" => Self::Audio,
            "videos" => Self::Video,
            _ => Self::File,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Image => "an image",
            Self::Audio => "audio",
            Self::Video => "a video",
            Self::File => "a file",
        }
    }

    /// Whether content of this kind may be called the other. A container of sound or pictures may honestly be called
    /// either, and anything is a file.
    fn may_be(self, other: Self) -> bool {
        let is_container = |class| matches!(class, Self::Audio | Self::Video);
        self == other || other == Self::File || (is_container(self) && is_container(other))
    }
}

impl Gathered {
    /// An upload: its kind by its first bytes, not by what the client says.
    ///
    /// # Errors
    /// 422 when it is not of the kind it claims to be, 413 when there are too many.
    pub fn upload(&mut self, upload: &Upload) -> Result<(), Problem> {
        let wrong = |problem: &'static str, msg: String| Problem::field(problem, "body", &upload.field, msg);
        let claimed = upload.claimed_type.as_deref().unwrap_or(UNKNOWN_TYPE);
        let found = sniff(&upload.content);
        let (class, claimed_class) = (found.map_or(Class::File, Class::of_type), Class::of_type(claimed));
        if !class.may_be(claimed_class) {
            return Err(wrong(MISMATCH, format!("File content is not of the claimed type {claimed:.64}")));
        }
        let media = Media {
            content: Some(STANDARD.encode(&upload.content)),
            mime_type: Some(media_type(found, claimed, &upload.content).to_owned()),
            filename: upload.file_name.clone(),
            ..Media::default()
        };
        self.push(if claimed_class == Class::File { class } else { claimed_class }, media)
    }

    /// The items of a field, as JSON: an array of objects with `content` (base64) or `url`.
    ///
    /// # Errors
    /// 422 that names the field, the item and what is wrong with it; 413 when there are too many.
    pub fn items(&mut self, field: &str, items: Value) -> Result<(), Problem> {
        let items = match items {
            Value::Null => return Ok(()),
            Value::Array(items) => items,
            _ => return Err(wrong(field, None, "list_type", "Input should be a JSON array of objects")),
        };
        for (place, item) in items.into_iter().enumerate() {
            let wrong = |key: &str, problem, msg: String| wrong(field, Some((place, key)), problem, msg);
            let Value::Object(item) = item else {
                return Err(wrong("", "dict_type", "Input should be a JSON object".to_owned()));
            };
            let class = Class::of_field(field);
            let media = media(class, item).map_err(|Wrong { key, kind, msg }| wrong(key, kind, msg))?;
            self.push(class, media)?;
        }
        Ok(())
    }

    fn push(&mut self, class: Class, media: Media) -> Result<(), Problem> {
        if self.kinds.iter().map(Vec::len).sum::<usize>() >= MEDIA_MAX {
            let detail =
                format!("The request has more than {MEDIA_MAX} images, audio clips, videos and files together");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
        }
        self.kinds[class as usize].push(media);
        Ok(())
    }

    /// As steps see them.
    pub fn into_attachments(self) -> Attachments {
        let [images, audio, videos, files] = self.kinds.map(|media| (!media.is_empty()).then_some(media));
        Attachments { images, audio, videos, files, ..Attachments::default() }
    }
}

fn wrong(field: &str, item: Option<(usize, &str)>, kind: &'static str, msg: impl Into<String>) -> Problem {
    let mut loc = vec!["body".to_owned(), field.to_owned()];
    if let Some((place, key)) = item {
        loc.push(place.to_string());
        loc.extend(Some(key).filter(|key| !key.is_empty()).map(str::to_owned));
    }
    Problem::fields(vec![FieldProblem { kind, loc, msg: msg.into() }])
}

/// What is wrong with one item.
struct Wrong {
    key: &'static str,
    kind: &'static str,
    msg: String,
}

impl Wrong {
    fn new(key: &'static str, kind: &'static str, msg: impl Into<String>) -> Self {
        Self { key, kind, msg: msg.into() }
    }
}

const MISMATCH: &str = "media_type_mismatch";
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// One item in the shape in which Agno's clients write theirs. What nobody here uses is kept as it was said.
fn media(class: Class, mut item: Map<String, Value>) -> Result<Media, Wrong> {
    if item.get("filepath").is_some_and(|path| !path.is_null()) {
        let msg = "A path on the client's machine cannot be opened here: send 'content' or 'url'";
        return Err(Wrong::new("filepath", "filepath_refused", msg));
    }
    let content = take_text(&mut item, "content")?;
    let url = take_text(&mut item, "url")?;
    let claimed = claimed_type(class, &mut item)?;
    let id = take_text(&mut item, "id")?;
    let detail = take_text(&mut item, "detail")?;
    let filename = match take_text(&mut item, "filename")? {
        Some(name) => Some(name),
        // What a file without a file name is called.
        None => item.get("name").and_then(Value::as_str).map(str::to_owned),
    };
    item.retain(|_, value| !value.is_null());
    let described = Media {
        id,
        detail,
        filename: filename.map(|name| base_name(&name)).filter(|name| !name.is_empty()),
        other: item,
        ..Media::default()
    };
    let (content, claimed) = match (content, url) {
        (Some(content), None) => (decode(class, claimed.as_deref(), content)?, claimed),
        (None, Some(url)) => match url.strip_prefix("data:") {
            Some(data) => inline(data, claimed)?,
            None => return Ok(Media { url: Some(address(url)?), mime_type: claimed, ..described }),
        },
        (Some(_), Some(_)) => {
            return Err(Wrong::new("", "value_error", "Only one of 'content' and 'url' should be given"));
        }
        (None, None) => {
            let msg = "One of 'content' (base64) and 'url' should be given; what another system keeps for the client \
                ('media_reference', 'external', 'id') cannot be fetched here";
            return Err(Wrong::new("", "missing", msg));
        }
    };
    let claimed = claimed.as_deref().unwrap_or(UNKNOWN_TYPE);
    let found = sniff(&content);
    let found_class = found.map_or(Class::File, Class::of_type);
    // A type without recognisable first bytes is taken as stated.
    let is_bare = class == Class::Audio && found.is_none() && is_raw_sound(claimed);
    let is_as_said = found_class.may_be(class) && found_class.may_be(Class::of_type(claimed));
    if !is_bare && !is_as_said {
        let named = if claimed == UNKNOWN_TYPE { class.name().to_owned() } else { format!("{claimed:.64}") };
        return Err(Wrong::new("content", MISMATCH, format!("Content is not {named} of a supported type")));
    }
    let mime_type = if is_bare { claimed } else { media_type(found, claimed, &content) };
    Ok(Media { content: Some(STANDARD.encode(&content)), mime_type: Some(mime_type.to_owned()), ..described })
}

fn take_text(item: &mut Map<String, Value>, key: &'static str) -> Result<Option<String>, Wrong> {
    match item.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(_) => Err(Wrong::new(key, "string_type", "Input should be a valid string")),
    }
}

/// What it is said to be: `mime_type`, or else made of `format`.
fn claimed_type(class: Class, item: &mut Map<String, Value>) -> Result<Option<String>, Wrong> {
    let format = item.get("format").and_then(Value::as_str).filter(|format| !format.is_empty());
    let of_format = format.and_then(|format| match class {
        Class::Image => Some(format!("image/{format}")),
        Class::Audio => Some(format!("audio/{format}")),
        Class::Video => Some(format!("video/{format}")),
        Class::File => None,
    });
    let claimed = take_text(item, "mime_type")?.or(of_format).map(|claimed| claimed.trim().to_ascii_lowercase());
    let is_type = |claimed: &String| {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"/!#$&^_.+-".contains(&byte);
        claimed.len() <= TYPE_BYTES_MAX && claimed.split('/').count() == 2 && claimed.bytes().all(is_token)
    };
    match claimed {
        Some(claimed) if !is_type(&claimed) => {
            Err(Wrong::new("mime_type", "value_error", "Input should be a media type such as image/png"))
        }
        claimed => Ok(claimed),
    }
}

/// The bytes of an item's `content`: base64. Only files may be text, and of these Agno's clients write what is called text
/// as it is.
fn decode(class: Class, claimed: Option<&str>, content: String) -> Result<Vec<u8>, Wrong> {
    let is_file = class == Class::File;
    if is_file && claimed.is_some_and(|claimed| claimed.starts_with("text/")) {
        return Ok(content.into_bytes());
    }
    if is_file && claimed.is_none_or(is_written_as_text) {
        // Exactly base64, or text.
        return Ok(STANDARD.decode(&content).unwrap_or_else(|_| content.into_bytes()));
    }
    match bytes_of(&content) {
        Some(bytes) => Ok(bytes),
        None => Err(Wrong::new("content", "base64", "Input should be base64")),
    }
}

fn bytes_of(base64: &str) -> Option<Vec<u8>> {
    let compact: String = base64.split_ascii_whitespace().collect();
    ALPHABETS.iter().find_map(|alphabet| alphabet.decode(&compact).ok())
}

/// Types of files that a program may hold as text, so that its client writes them as they are.
fn is_written_as_text(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/x-javascript" | "application/x-python" | "message/rfc822")
}

/// Content written as an address, behind `data:`.
fn inline(data: &str, claimed: Option<String>) -> Result<(Vec<u8>, Option<String>), Wrong> {
    let bad = || Wrong::new("url", "base64", "A data: address should be base64, like data:image/png;base64,iVBORw0K");
    let (head, content) = data.split_once(',').ok_or_else(bad)?;
    let said = head.strip_suffix(";base64").ok_or_else(bad)?.split(';').next().unwrap_or_default();
    let said = Some(said.trim().to_ascii_lowercase()).filter(|said| !said.is_empty());
    Ok((bytes_of(content).ok_or_else(bad)?, claimed.or(said)))
}

/// An address that somebody may fetch; whether it may be this one, others say who know networks.
fn address(url: String) -> Result<String, Wrong> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let is_web = scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http");
    let is_plain = !url.chars().any(|c| c.is_control() || c.is_whitespace());
    if is_web && is_plain && url.len() <= URL_BYTES_MAX {
        return Ok(url);
    }
    let msg = format!("Input should be an address that begins with https://, of at most {URL_BYTES_MAX} bytes");
    Err(Wrong::new("url", "url_scheme", msg))
}

/// The media type to use: the one that the first bytes show; a more specific one that fits them; a plain one for text.
fn media_type<'a>(found: Option<&'static str>, claimed: &'a str, content: &[u8]) -> &'a str {
    match found {
        Some("application/zip") if claimed.starts_with("application/vnd.openxmlformats-officedocument.") => claimed,
        Some(OLE) if is_office(claimed) => claimed,
        Some(OLE) => UNKNOWN_TYPE,
        Some("audio/ogg") if claimed == "video/ogg" => claimed,
        Some("video/mp4") if claimed == "audio/mp4" => claimed,
        Some("video/webm") if claimed == "audio/webm" => claimed,
        Some(found) => found,
        None if is_plain_type(claimed) && std::str::from_utf8(content).is_ok() => claimed,
        None => UNKNOWN_TYPE,
    }
}

/// Types that cannot be told by first bytes and can do no harm wherever they are shown.
fn is_plain_type(media_type: &str) -> bool {
    matches!(media_type, "text/plain" | "text/csv" | "text/markdown" | "application/json")
}

/// The container of older office documents, which has no specific type.
const OLE: &str = "application/x-ole-storage";

fn is_office(media_type: &str) -> bool {
    let known = ["msword", "vnd.ms-excel", "vnd.ms-powerpoint", "vnd.ms-outlook"];
    media_type.strip_prefix("application/").is_some_and(|name| known.contains(&name))
}

/// Sound without a header: any bytes are some.
fn is_raw_sound(media_type: &str) -> bool {
    matches!(media_type, "audio/pcm" | "audio/pcm16" | "audio/l16" | "audio/raw" | "audio/basic")
}

/// The media type by first bytes.
fn sniff(content: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, magic: &[u8]| content.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let riff = |kind: &[u8]| at(0, b"RIFF") && at(8, kind);
    let frame = |mask: u8, bits: u8| content.first() == Some(&0xff) && content.get(1).is_some_and(|b| b & mask == bits);
    Some(match content {
        _ if at(0, b"\x89PNG\r\n\x1a\n") => "image/png",
        _ if at(0, b"\xff\xd8\xff") => "image/jpeg",
        _ if at(0, b"GIF87a") || at(0, b"GIF89a") => "image/gif",
        _ if riff(b"WEBP") => "image/webp",
        _ if at(0, b"II*\0") || at(0, b"MM\0*") => "image/tiff",
        _ if at(0, b"BM") && at(6, b"\0\0\0\0") => "image/bmp",
        _ if riff(b"WAVE") => "audio/wav",
        // MPEG's layer III, and AAC, which is layer "none".
        _ if at(0, b"ID3") || frame(0xe6, 0xe2) => "audio/mpeg",
        _ if frame(0xf6, 0xf0) => "audio/aac",
        _ if at(0, b"fLaC") => "audio/flac",
        _ if at(0, b"OggS") => "audio/ogg",
        _ if at(4, b"ftyp") => match content.get(8..12).unwrap_or_default() {
            b"avif" | b"avis" => "image/avif",
            b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1" => "image/heic",
            b"M4A " | b"M4B " => "audio/mp4",
            b"qt  " => "video/quicktime",
            _ => "video/mp4",
        },
        _ if at(0, b"\x1a\x45\xdf\xa3") => "video/webm",
        _ if riff(b"AVI ") => "video/x-msvideo",
        _ if at(0, b"FLV\x01") => "video/x-flv",
        _ if at(0, b"\0\0\x01\xba") || at(0, b"\0\0\x01\xb3") => "video/mpeg",
        _ if at(0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11") => "video/x-ms-wmv",
        _ if at(0, b"%PDF-") => "application/pdf",
        _ if at(0, b"PK\x03\x04") => "application/zip",
        _ if at(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") => OLE,
        _ => return None,
    })
}

/// Longest file name that is kept, in bytes.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The last segment of what a client calls a file, by either system's separator, without control characters.
pub(super) fn base_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut kept: String = last.chars().filter(|c| !c.is_control()).collect();
    kept.truncate(kept.floor_char_boundary(FILE_NAME_BYTES_MAX));
    if kept.chars().all(|c| c == '.') { String::new() } else { kept }
}
