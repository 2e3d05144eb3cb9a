//! Media as Agno's clients write them into fields: JSON arrays of objects.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use outlive_core::{Attachments, Media};
use outlive_server::problem::{Detail, Problem};
use outlive_server::wire::form::{Fields, RunForm};
use outlive_server::wire::media::MEDIA_MAX;
use serde_json::{Value, json};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR";
const WAV: &[u8] = b"RIFF\x24\x00\x00\x00WAVEfmt ";
const MP3: &[u8] = b"ID3\x04\x00\x00";
const MP4: &[u8] = b"\x00\x00\x00\x18ftypisom\x00\x00";
const PDF: &[u8] = b"%PDF-1.7\n";
const ZIP: &[u8] = b"PK\x03\x04rest";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";

fn attached(field: &str, items: &Value) -> Result<Attachments, Problem> {
    let items = items.to_string();
    RunForm::parse(Fields::from_pairs([("message", "x"), (field, &items)]))?.attachments()
}

/// The one that was attached, with the name under which steps see it.
fn one(field: &str, item: Value) -> (&'static str, Media) {
    let Attachments { images, audio, videos, files, additional_data, .. } =
        attached(field, &json!([item])).unwrap_or_else(|problem| panic!("{item}: {problem:?}"));
    assert_eq!(additional_data, None, "it is not data as well");
    let kinds = [("images", images), ("audio", audio), ("videos", videos), ("files", files)];
    let mut found: Vec<_> = kinds
        .into_iter()
        .flat_map(|(kind, media)| media.into_iter().flatten().map(move |media| (kind, media)))
        .collect();
    assert_eq!(found.len(), 1, "{item}");
    found.remove(0)
}

/// Status, kind and place of a refusal.
fn refused(field: &str, items: &Value) -> (u16, String, String) {
    let problem = attached(field, items).map(|media| panic!("{items} was taken: {media:?}")).unwrap_err();
    match &problem.detail {
        Detail::Fields(fields) => (problem.status.as_u16(), fields[0].kind.to_owned(), fields[0].loc.join(".")),
        Detail::Text(text) => (problem.status.as_u16(), problem.code.to_owned(), text.clone()),
    }
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[test]
fn what_agnos_clients_send_is_attached_as_what_it_is() {
    for (field, bytes, said, kind, mime_type) in [
        ("images", PNG, json!({ "mime_type": "image/png" }), "images", "image/png"),
        ("images", PNG, json!({ "format": "png" }), "images", "image/png"),
        ("images", PNG, json!({}), "images", "image/png"),
        ("images", PNG, json!({ "mime_type": "image/jpeg" }), "images", "image/png"),
        ("images", b"\x00\x00\x00\x18ftypheic\x00\x00", json!({ "format": "heic" }), "images", "image/heic"),
        ("images", b"\x00\x00\x00\x18ftypavif\x00\x00", json!({}), "images", "image/avif"),
        ("images", b"II*\x00\x08\x00", json!({ "mime_type": "image/tiff" }), "images", "image/tiff"),
        ("audio", WAV, json!({ "format": "wav" }), "audio", "audio/wav"),
        ("audio", MP3, json!({ "mime_type": "audio/mp3" }), "audio", "audio/mpeg"),
        ("audio", b"\xff\xfb\x90\x00", json!({}), "audio", "audio/mpeg"),
        ("audio", MP4, json!({ "mime_type": "audio/mp4" }), "audio", "audio/mp4"),
        ("audio", b"\x00\x01\x02\x03", json!({ "mime_type": "audio/pcm16" }), "audio", "audio/pcm16"),
        ("videos", MP4, json!({ "mime_type": "video/mp4" }), "videos", "video/mp4"),
        ("videos", b"\x1a\x45\xdf\xa3x", json!({ "format": "webm" }), "videos", "video/webm"),
        ("input_files", PDF, json!({ "mime_type": "application/pdf" }), "files", "application/pdf"),
        ("files", PDF, json!({ "mime_type": "application/pdf" }), "files", "application/pdf"),
        ("input_files", PDF, json!({ "mime_type": "application/json" }), "files", "application/pdf"),
        ("input_files", ZIP, json!({ "mime_type": DOCX }), "files", DOCX),
        ("input_files", ZIP, json!({}), "files", "application/zip"),
        // A picture that was given as a file stays one.
        ("input_files", PNG, json!({}), "files", "image/png"),
        ("input_files", b"\x7fELF", json!({}), "files", "application/octet-stream"),
    ] {
        let mut item = said.clone();
        item["content"] = json!(base64(bytes));
        let (found, media) = one(field, item.clone());
        assert_eq!((found, media.mime_type.as_deref()), (kind, Some(mime_type)), "{field} {said}");
        assert_eq!(media.content, Some(base64(bytes)), "{field} {said}");
    }
}

#[test]
fn all_that_was_said_of_it_is_kept() {
    let (_, media) = one(
        "images",
        json!({
            "id": "i-1", "content": base64(PNG), "mime_type": "image/png", "detail": "low", "format": "png",
            "alt_text": "a cat", "metadata": { "from": "camera" }, "original_prompt": null, "url": null, "filepath": null,
        }),
    );
    assert_eq!((media.id.as_deref(), media.detail.as_deref()), (Some("i-1"), Some("low")));
    assert_eq!(json!(media.other), json!({ "format": "png", "alt_text": "a cat", "metadata": { "from": "camera" } }));
    // In the log and back.
    let again: Media = serde_json::from_str(&serde_json::to_string(&media).unwrap()).unwrap();
    assert_eq!(again, media);
    let (_, file) = one("input_files", json!({ "content": base64(PDF), "filename": "../a/b.pdf", "size": 9 }));
    assert_eq!((file.filename.as_deref(), json!(file.other)), (Some("b.pdf"), json!({ "size": 9 })));
    let (_, file) = one("input_files", json!({ "content": base64(PDF), "name": "report" }));
    assert_eq!(file.filename.as_deref(), Some("report"));
    let (_, speech) = one("audio", json!({ "content": base64(WAV), "transcript": "hello", "duration": 1.5 }));
    assert_eq!(json!(speech.other), json!({ "transcript": "hello", "duration": 1.5 }));
}

#[test]
fn content_is_base64_in_any_spelling_and_of_files_text_as_their_clients_write_it() {
    let spellings = [
        base64(PNG),
        base64(PNG).trim_end_matches('=').to_owned(),
        URL_SAFE_NO_PAD.encode(PNG),
        base64(PNG).as_bytes().chunks(8).map(|line| String::from_utf8_lossy(line) + "\r\n").collect(),
    ];
    for content in spellings {
        let (_, media) = one("images", json!({ "content": content }));
        assert_eq!(media.content, Some(base64(PNG)), "{content:?}");
    }
    let url = format!("data:image/png;base64,{}", base64(PNG));
    let (_, media) = one("images", json!({ "url": url }));
    assert_eq!((media.content, media.url, media.mime_type.as_deref()), (Some(base64(PNG)), None, Some("image/png")));
    for (mime_type, content, bytes) in [
        (json!("text/plain"), "TestData", &b"TestData"[..]),
        (json!("text/csv"), "a,b\n1,2\n", b"a,b\n1,2\n"),
        (json!("application/json"), "{\"a\":1}", b"{\"a\":1}"),
        (json!("application/json"), "eyJhIjoxfQ==", b"{\"a\":1}"),
        (Value::Null, "plain words", b"plain words"),
    ] {
        let (_, file) = one("input_files", json!({ "content": content, "mime_type": mime_type }));
        assert_eq!(file.content, Some(base64(bytes)), "{mime_type} {content}");
    }
}

#[test]
fn addresses_are_kept_as_addresses() {
    let item = json!({ "url": "https://example.org/a.png?x=1", "mime_type": "image/png" });
    let (kind, media) = one("images", item);
    assert_eq!((kind, media.url.as_deref()), ("images", Some("https://example.org/a.png?x=1")));
    assert_eq!((media.content, media.mime_type.as_deref()), (None, Some("image/png")));
    for field in ["audio", "videos", "input_files"] {
        assert!(one(field, json!({ "url": "https://example.org/a" })).1.url.is_some(), "{field}");
    }
}

#[test]
fn bad_a16_what_cannot_be_carried_is_refused_by_field_and_item() {
    let png = base64(PNG);
    for (field, item, kind, place) in [
        ("images", json!({ "filepath": "/etc/passwd" }), "filepath_refused", "0.filepath"),
        ("images", json!({ "filepath": "a.png", "content": png }), "filepath_refused", "0.filepath"),
        ("input_files", json!({ "filepath": "a.pdf" }), "filepath_refused", "0.filepath"),
        ("images", json!({}), "missing", "0"),
        ("images", json!({ "content": "" }), "missing", "0"),
        ("input_files", json!({ "id": "file-1" }), "missing", "0"),
        ("input_files", json!({ "external": { "uri": "x" } }), "missing", "0"),
        ("images", json!({ "media_reference": { "storage_key": "k" } }), "missing", "0"),
        ("images", json!({ "content": png, "url": "https://example.org/" }), "value_error", "0"),
        ("images", json!({ "content": "not base64!" }), "base64", "0.content"),
        ("images", json!({ "content": 7 }), "string_type", "0.content"),
        ("images", json!({ "content": png, "mime_type": ["image/png"] }), "string_type", "0.mime_type"),
        ("images", json!({ "content": png, "mime_type": "image/png\r\nx: y" }), "value_error", "0.mime_type"),
        (
            "images",
            json!({ "content": base64(b"<svg>"), "mime_type": "image/png" }),
            "media_type_mismatch",
            "0.content",
        ),
        ("images", json!({ "content": base64(PDF) }), "media_type_mismatch", "0.content"),
        ("images", json!({ "content": base64(WAV), "mime_type": "audio/wav" }), "media_type_mismatch", "0.content"),
        ("audio", json!({ "content": png }), "media_type_mismatch", "0.content"),
        ("videos", json!({ "content": base64(b"words") }), "media_type_mismatch", "0.content"),
        (
            "input_files",
            json!({ "content": base64(ZIP), "mime_type": "image/png" }),
            "media_type_mismatch",
            "0.content",
        ),
        ("input_files", json!({ "content": "no base64!", "mime_type": "application/pdf" }), "base64", "0.content"),
        ("images", json!({ "url": "file:///etc/passwd" }), "url_scheme", "0.url"),
        ("images", json!({ "url": "s3://bucket/key" }), "url_scheme", "0.url"),
        ("images", json!({ "url": "a.png" }), "url_scheme", "0.url"),
        ("images", json!({ "url": "data:image/png,abc" }), "base64", "0.url"),
        ("images", json!({ "url": format!("https://{}", "a".repeat(10_000)) }), "url_scheme", "0.url"),
        ("images", json!("text"), "dict_type", "0"),
    ] {
        let expected = (422, kind.to_owned(), format!("body.{field}.{place}"));
        assert_eq!(refused(field, &json!([item])), expected, "{item}");
    }
    // It is the item that is wrong that is named, and nothing of it is said again.
    let items = json!([{ "content": png }, { "filepath": "/home/hunter2" }]);
    assert_eq!(refused("images", &items).2, "body.images.1.filepath");
    assert!(!attached("images", &items).unwrap_err().body().to_string().contains("hunter2"));
    for items in [json!({ "content": png }), json!("x"), json!(7)] {
        assert_eq!(refused("images", &items).1, "list_type", "{items}");
    }
    let not_json = RunForm::parse(Fields::from_pairs([("message", "x"), ("images", "[{")])).unwrap_err();
    assert_eq!(not_json.status.as_u16(), 422);
    let twice = RunForm::parse(Fields::from_pairs([("message", "x"), ("images", "[]"), ("images", "[]")])).unwrap_err();
    assert_eq!(twice.status.as_u16(), 422);
    for nothing in ["", "[]", "null"] {
        let form = RunForm::parse(Fields::from_pairs([("message", "x"), ("images", nothing)])).unwrap();
        assert_eq!(form.attachments().unwrap(), Attachments::default(), "{nothing:?}");
    }
}

#[test]
fn bad_c10_more_media_than_a_request_may_have_are_refused_however_they_are_spread() {
    let items = |count: usize| json!(vec![json!({ "content": base64(PNG) }); count]).to_string();
    let form = |images: usize, files: usize| {
        let (images, files) = (items(images), items(files));
        RunForm::parse(Fields::from_pairs([("message", "x"), ("images", &*images), ("input_files", &*files)]))
    };
    assert!(form(MEDIA_MAX / 2, MEDIA_MAX / 2).unwrap().attachments().is_ok());
    assert_eq!(form(MEDIA_MAX / 2, MEDIA_MAX / 2 + 1).unwrap().attachments().unwrap_err().status.as_u16(), 413);
    assert_eq!(form(MEDIA_MAX + 1, 0).unwrap().attachments().unwrap_err().status.as_u16(), 413);
}
