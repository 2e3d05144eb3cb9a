//! The server's description of itself, and the page made from it.

use super::api::stage::Stage;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

#[tokio::test]
async fn the_description_is_the_recorded_one() {
    let stage = Stage::idle().await;
    let mut document = stage.open_client().get_json("/openapi.json").await;
    document["info"]["version"] = Value::from("0.0.0");
    let now = format!("{}\n", serde_json::to_string_pretty(&document).expect("JSON"));
    let recorded = include_str!("openapi.json");
    if now != recorded {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi.json");
        std::fs::write(&place, &now).expect("a writable directory");
        panic!("the API changed: look at the difference, then copy {} over tests/it/openapi.json", place.display());
    }
}

#[tokio::test]
async fn the_description_is_complete_in_itself() {
    let stage = Stage::idle().await;
    let document = stage.open_client().get_json("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    assert!(references.len() >= 8, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference into the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (verb, call) in item.as_object().expect("an item").iter().filter(|(verb, _)| !verb.starts_with("x-")) {
            let id = call["operationId"].as_str().unwrap_or_default();
            assert!(ids.insert(id.to_owned()), "{id} names two calls");
            assert!(call["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{verb} {path} says nothing");
            let named = call["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path").count();
            assert_eq!(named, path.matches('{').count(), "{verb} {path}");
        }
    }
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| match value {
            Value::String(text) if key == "$ref" => {
                references.insert(text.clone());
            }
            value => collect(value, references),
        }),
        Value::Array(array) => array.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere_and_no_inline_script() {
    let stage = Stage::idle().await;
    let client = stage.open_client();
    let page = client.get("/docs").await;
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
    for (path, kind) in [("/docs", "text/html"), ("/docs/docs.js", "text/javascript"), ("/docs/docs.css", "text/css")] {
        let file = client.get(path).await;
        assert!(file.header("content-type").is_some_and(|found| found.starts_with(kind)), "{path}");
        assert!(!file.text().contains("http://") && !file.text().contains("https://"), "{path} refers to elsewhere");
        assert!(!file.text().contains("innerHTML"), "{path} could show text as markup");
    }
    let text = page.text();
    assert_eq!(text.matches("<script").count(), text.matches("<script src=\"/docs/").count());
    let has_handler = text.split_whitespace().any(|word| word.starts_with("on") && word.contains('='));
    assert!(!text.contains("style=") && !has_handler, "inline style or handler");
}
