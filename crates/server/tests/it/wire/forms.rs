//! Forms, good and bad.

use axum::body::Body;
use axum::extract::Request;
use outlive_server::config::Limits;
use outlive_server::problem::{Detail, Problem};
use outlive_server::testing::{Talk, load};
use outlive_server::wire::form::{
    ContinueForm, Fields, PART_HEADER_BYTES_MAX, PARTS_MAX, ResumeForm, RunForm, boolean,
};
use serde_json::json;

const BOUNDARY: &str = "x-boundary";

fn request(content_type: &str, body: impl Into<Body>) -> Request {
    Request::post("/").header("content-type", content_type).body(body.into()).expect("a request")
}

async fn urlencoded(body: &str) -> Result<Fields, Problem> {
    Fields::read(request("application/x-www-form-urlencoded", body.to_owned()), &Limits::default()).await
}

/// A part: its header lines after `content-disposition: form-data; `, and its content.
fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

async fn multipart(parts: &[Vec<u8>]) -> Result<Fields, Problem> {
    let body = [parts.concat().as_slice(), format!("--{BOUNDARY}--\r\n").as_bytes()].concat();
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    Fields::read(request(&content_type, body), &Limits::default()).await
}

fn run(pairs: &[(&str, &str)]) -> Result<RunForm, Problem> {
    RunForm::parse(Fields::from_pairs(pairs.iter().copied()))
}

/// The status and, for a 422, the kind and field of every problem.
fn refusal<T: std::fmt::Debug>(result: Result<T, Problem>) -> (u16, Vec<(String, String)>) {
    let problem = result.expect_err("a refusal");
    let fields = match &problem.detail {
        Detail::Fields(fields) => fields.iter().map(|f| (f.kind.to_owned(), f.loc.join("."))).collect(),
        Detail::Text(_) => Vec::new(),
    };
    (problem.status.as_u16(), fields)
}

fn one(kind: &str, field: &str) -> (u16, Vec<(String, String)>) {
    (422, vec![(kind.to_owned(), format!("body.{field}"))])
}

#[tokio::test]
async fn a_form_is_read_in_either_encoding() {
    let encoded = urlencoded("message=a%20question%26more&stream=false&session_id=s-1&version=3").await.unwrap();
    let parts = [
        part("name=\"message\"", b"a question&more"),
        part("name=\"stream\"", b"false"),
        part("name=\"session_id\"", b"s-1"),
        part("name=\"version\"", b"3"),
    ];
    assert_eq!(multipart(&parts).await.unwrap(), encoded);
    let form = RunForm::parse(encoded).unwrap();
    assert_eq!(form.message, "a question&more");
    assert_eq!((form.stream, form.background, form.version), (false, false, Some(3)));
    assert_eq!(form.session_id.as_deref(), Some("s-1"));
}

#[test]
fn what_is_left_out_has_agnos_defaults() {
    let form = run(&[("message", "x"), ("session_id", ""), ("version", "")]).unwrap();
    assert!(form.stream && !form.background && form.stream_events);
    assert_eq!((form.session_id, form.version, form.session_state), (None, None, None));
}

#[test]
fn booleans_are_known_in_every_spelling_and_case() {
    for yes in ["true", "1", "yes", "on", "TRUE", "On"] {
        assert_eq!(boolean(yes), Some(true), "{yes}");
    }
    for no in ["false", "0", "no", "off", "False", "OFF"] {
        assert_eq!(boolean(no), Some(false), "{no}");
    }
    for neither in ["maybe", "2", "1,0", "tru e"] {
        assert_eq!(boolean(neither), None, "{neither}");
    }
}

#[test]
fn fields_nobody_knows_are_kept_for_the_workflow() {
    let form =
        run(&[("message", "x"), ("colour", "red"), ("tag", "a"), ("tag", "b"), ("metadata", "{\"k\":1}")]).unwrap();
    assert_eq!(json!(form.extra), json!({ "colour": "red", "tag": ["a", "b"] }));
    let data = form.attachments().unwrap().additional_data.unwrap();
    assert_eq!(data, json!({ "colour": "red", "tag": ["a", "b"] }));
    assert_eq!(run(&[("message", "x")]).unwrap().attachments().unwrap().additional_data, None);
}

#[test]
fn each_field_of_a_run_is_what_its_name_says() {
    let form = run(&[
        ("message", "x"),
        ("run_id", "r-1"),
        ("additional_data", r#"{"colour":"blue","n":1}"#),
        ("metadata", r#"{"k":1}"#),
        ("dependencies", r#"{"d":[1]}"#),
        ("session_state", r#"{"s":{}}"#),
        ("colour", "red"),
        ("size", "m"),
    ])
    .unwrap();
    assert_eq!((form.run_id.as_deref(), json!(form.session_state)), (Some("r-1"), json!({ "s": {} })));
    let attached = form.attachments().unwrap();
    // What nobody knows is further data; what was given as data wins.
    assert_eq!(attached.additional_data, Some(json!({ "colour": "blue", "n": 1, "size": "m" })));
    assert_eq!((json!(attached.metadata), json!(attached.dependencies)), (json!({ "k": 1 }), json!({ "d": [1] })));
    for field in ["additional_data", "metadata", "dependencies"] {
        for (text, kind) in [("[1]", "dict_type"), ("7", "dict_type"), ("{", "json_invalid")] {
            assert_eq!(refusal(run(&[("message", "x"), (field, text)])), one(kind, field), "{field} {text}");
        }
        assert!(run(&[("message", "x"), (field, "null")]).unwrap().attachments().unwrap().additional_data.is_none());
    }
}

#[tokio::test]
async fn bad_a01_a_body_that_is_no_form_has_no_message() {
    let json = Fields::read(request("application/json", "{\"message\":\"x\"}"), &Limits::default()).await.unwrap();
    assert_eq!(refusal(RunForm::parse(json)), one("missing", "message"));
    let nothing = Fields::read(Request::post("/").body(Body::empty()).unwrap(), &Limits::default()).await.unwrap();
    assert_eq!(refusal(RunForm::parse(nothing)), one("missing", "message"));
    assert_eq!(refusal(run(&[("message", "")])), one("missing", "message"));
}

#[test]
fn every_refused_form_of_the_recordings_is_refused_with_the_same_shape() {
    let mut compared = 0;
    for recording in ["errors", "agents_teams", "run_background_stream_resume"] {
        for exchange in load(recording).exchanges {
            let Talk::Http { request, response } = exchange.talk else { continue };
            if response.status != 422 || request.method != "POST" {
                continue;
            }
            let fields = Fields::from_pairs(request.form.unwrap_or_default());
            let problem = if request.path.ends_with("/resume") {
                ResumeForm::parse(fields).unwrap_err()
            } else {
                RunForm::parse(fields).unwrap_err()
            };
            // What stood in the field is not said again.
            let allowed = [outlive_server::testing::Allowed::Missing("detail.input")];
            let recorded = response.body.unwrap();
            let found = outlive_server::testing::differences(&recorded, &problem.body(), &allowed);
            assert_eq!(found, Vec::<String>::new(), "{}", request.path);
            compared += 1;
        }
    }
    assert!(compared >= 7, "{compared}");
}

#[test]
fn a_refusal_names_every_wrong_field_and_repeats_no_value() {
    let result = run(&[("stream", "hunter2"), ("version", "abc"), ("session_state", "[1]"), ("metadata", "{")]);
    let problem = result.clone().unwrap_err();
    assert!(!problem.body().to_string().contains("hunter2"));
    let (status, fields) = refusal(result);
    assert_eq!(status, 422);
    let expected = [
        ("missing", "body.message"),
        ("bool_parsing", "body.stream"),
        ("int_parsing", "body.version"),
        ("dict_type", "body.session_state"),
        ("json_invalid", "body.metadata"),
    ];
    assert_eq!(fields, expected.map(|(kind, field)| (kind.to_owned(), field.to_owned())));
}

#[test]
fn bad_a18_a_field_given_twice_is_refused_by_name() {
    assert_eq!(refusal(run(&[("message", "a"), ("message", "b")])), one("multiple_values", "message"));
    let twice = run(&[("message", "a"), ("background", "1"), ("background", "0")]);
    assert_eq!(refusal(twice), one("multiple_values", "background"));
    assert_eq!(refusal(run(&[("message", "a"), ("stream", "maybe")])), one("bool_parsing", "stream"));
    assert_eq!(refusal(run(&[("message", "a"), ("background", "1,0")])), one("bool_parsing", "background"));
}

#[tokio::test]
async fn bad_a15_a_multipart_body_without_boundary_or_end_is_refused() {
    let limits = Limits::default();
    let none = Fields::read(request("multipart/form-data", "--x\r\n"), &limits).await;
    assert_eq!(refusal(none).0, 400);
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let open = Fields::read(request(&content_type, part("name=\"message\"", b"x")), &limits).await;
    assert_eq!(refusal(open).0, 400);
    let nameless = multipart(&[part("filename=\"x\"", b"x")]).await;
    assert_eq!(refusal(nameless).0, 400);
}

#[tokio::test]
async fn bad_a15_a_multipart_body_with_too_many_parts_or_too_long_a_header_is_refused() {
    let most = vec![part("name=\"tag\"", b"x"); PARTS_MAX];
    assert!(multipart(&most).await.is_ok());
    let more = vec![part("name=\"tag\"", b"x"); PARTS_MAX + 1];
    assert_eq!(refusal(multipart(&more).await).0, 413);
    let long = format!("name=\"message\"\r\nx-long: {}", "a".repeat(PART_HEADER_BYTES_MAX));
    assert_eq!(refusal(multipart(&[part(&long, b"x")]).await).0, 413);
}

#[tokio::test]
async fn bad_a15_a_part_that_holds_another_multipart_body_is_plain_text() {
    let inner = b"--inner\r\ncontent-disposition: form-data; name=\"stream\"\r\n\r\nfalse\r\n--inner--";
    let fields = multipart(&[part("name=\"message\"", inner)]).await.unwrap();
    let form = RunForm::parse(fields).unwrap();
    assert!(form.stream);
    assert_eq!(form.message.as_bytes(), inner);
}

#[tokio::test]
async fn bad_a15_a_file_name_is_data_and_never_a_path() {
    let long = "n".repeat(300);
    let names = ["../../x", "/etc/passwd", "C:\\dir\\evil.txt", "..", &long];
    let mut kept = Vec::new();
    for name in names {
        let disposition = format!("name=\"files\"; filename=\"{name}\"");
        let fields = multipart(&[part("name=\"message\"", b"x"), part(&disposition, b"text")]).await.unwrap();
        kept.push(RunForm::parse(fields).unwrap().uploads[0].file_name.clone());
    }
    let expected = [Some("x"), Some("passwd"), Some("evil.txt"), None, Some(&long[..255])];
    assert_eq!(kept.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
    let unnamed = multipart(&[part("name=\"message\"", b"x"), part("name=\"files\"", b"text")]).await.unwrap();
    assert_eq!(RunForm::parse(unnamed).unwrap().uploads[0].file_name, None);
}

#[tokio::test]
async fn bad_c10_a_body_over_its_limit_is_refused_with_413() {
    let limits = Limits { body_bytes_max: 100, multipart_bytes_max: 400, ..Limits::default() };
    let form = |length| request("application/x-www-form-urlencoded", format!("message={}", "a".repeat(length)));
    assert!(Fields::read(form(92), &limits).await.is_ok());
    assert_eq!(refusal(Fields::read(form(93), &limits).await).0, 413);
    let body = [part("name=\"message\"", &[b'a'; 400]).as_slice(), format!("--{BOUNDARY}--\r\n").as_bytes()].concat();
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    assert_eq!(refusal(Fields::read(request(&content_type, body), &limits).await).0, 413);
}

#[tokio::test]
async fn bad_c10_a_thousand_images_are_refused() {
    let parts = vec![part("name=\"files\"; filename=\"a.png\"", b"\x89PNG\r\n\x1a\n"); 1_000];
    assert_eq!(refusal(multipart(&parts).await).0, 413);
    let fields = "a=1&".repeat(1_000);
    assert_eq!(refusal(urlencoded(&fields).await).0, 413);
}

#[test]
fn bad_c08_a_session_state_is_an_object_and_its_keys_are_data() {
    assert_eq!(refusal(run(&[("message", "x"), ("session_state", "7")])), one("dict_type", "session_state"));
    let odd = run(&[("message", "x"), ("session_state", "{\"__proto__\":{\"a\":1}}")]).unwrap();
    assert_eq!(json!(odd.session_state), json!({ "__proto__": { "a": 1 } }));
    let deep = format!("{{\"a\":{}", "[".repeat(10_000));
    assert_eq!(refusal(run(&[("message", "x"), ("session_state", &deep)])), one("json_too_deep", "session_state"));
}

#[tokio::test]
async fn bad_a16_a_file_is_what_its_bytes_are() {
    let upload = async |kind: &str, content: &[u8]| {
        let disposition = format!("name=\"files\"; filename=\"a\"\r\ncontent-type: {kind}");
        let fields = multipart(&[part("name=\"message\"", b"x"), part(&disposition, content)]).await.unwrap();
        RunForm::parse(fields).unwrap().attachments()
    };
    let png = b"\x89PNG\r\n\x1a\nrest";
    for content in [&b"<html><script>"[..], b"<svg xmlns=\"x\">", b"PK\x03\x04zip", b"\x7fELF"] {
        assert_eq!(refusal(upload("image/png", content).await), one("media_type_mismatch", "files"));
    }
    let found = upload("image/jpeg", png).await.unwrap();
    assert_eq!(found.images.unwrap()[0].mime_type.as_deref(), Some("image/png"));
    let text = upload("text/plain", b"words").await.unwrap().files.unwrap();
    assert_eq!(text[0].mime_type.as_deref(), Some("text/plain"));
    assert_eq!((text[0].filename.as_deref(), text[0].content.as_deref()), (Some("a"), Some("d29yZHM=")));
    let page = upload("text/html", b"<html>").await.unwrap().files.unwrap();
    assert_eq!(page[0].mime_type.as_deref(), Some("application/octet-stream"));
}

#[test]
fn bad_c11_a_client_comes_back_with_any_index_from_0_on() {
    let index = |text: &str| {
        let fields = Fields::from_pairs([("last_event_index", text), ("session_id", "s")]);
        ResumeForm::parse(fields).map(|form| form.last_event_index)
    };
    assert_eq!(index("40").unwrap(), Some(40));
    assert_eq!(index("").unwrap(), None);
    assert_eq!(index("1000000000000000000").unwrap(), Some(1_000_000_000_000_000_000));
    assert_eq!(index("99999999999999999999999").unwrap(), Some(u64::MAX));
    assert_eq!(refusal(index("-5")), one("greater_than_equal", "last_event_index"));
    assert_eq!(refusal(index("abc")), one("int_parsing", "last_event_index"));
}

#[test]
fn answers_of_a_person_are_an_array_of_objects_or_nothing() {
    let parse =
        |text: &str| ContinueForm::parse(Fields::from_pairs([("step_requirements", text), ("stream", "false")]));
    assert_eq!(parse("").unwrap().step_requirements, None);
    let form = parse("[{\"confirmed\":true}]").unwrap();
    assert_eq!(json!(form.step_requirements), json!([{ "confirmed": true }]));
    assert!(!form.stream && !form.background);
    let detail = |text: &str| match parse(text).unwrap_err().detail {
        Detail::Text(text) => text,
        Detail::Fields(fields) => format!("{fields:?}"),
    };
    assert_eq!(detail("not json"), "Invalid JSON in step_requirements field");
    for bad in ["{}", "[1]", "7"] {
        assert!(detail(bad).starts_with("Invalid structure or content for step_requirements"), "{bad}");
    }
}
