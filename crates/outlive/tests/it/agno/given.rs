//! What Agno's client classes send with a run, to agents and teams that ask a model, and what of the answer they read.

use super::app::App;
use super::replay::{client, form};
use crate::world::World;
use outlive_server::testing::{SseEvent, parse_sse};
use serde_json::{Value, json};

const PNG: &str = "iVBORw0KGgoAAAANSUhEUg==";
const PDF: &str = "JVBERi0xLjcK";
const WAV: &str = "UklGRiQAAABXQVZFZm10IA==";

async fn run(app: &App, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
    let fields = [fields, &[("stream", "false")]].concat();
    let answer = form(client().post(format!("http://{}{path}", app.address)), &fields).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_is_shown_the_images_and_files_of_a_clients_fields() {
    let world = World::new().await;
    let app = App::start(&world, "agents_teams").await;
    let images = json!([{ "content": PNG, "mime_type": "image/png" }]).to_string();
    let files = json!([{ "content": PDF, "mime_type": "application/pdf", "filename": "a.pdf" }]).to_string();
    for path in ["/agents/plain-agent/runs", "/teams/research-team/runs", "/workflows/content-creation-workflow/runs"] {
        let before = world.models.log().len();
        let fields = [("message", "what is it?"), ("images", &*images), ("input_files", &*files)];
        let (status, body) = run(&app, path, &fields).await;
        assert_eq!((status, &body["status"]), (200, &json!("COMPLETED")), "{path}: {body}");
        let asked = world.models.log().split_off(before);
        let first = serde_json::to_string(&asked[0].request).unwrap();
        assert!(first.contains(&format!("data:image/png;base64,{PNG}")), "{path}: {first}");
        assert!(first.contains(&format!("data:application/pdf;base64,{PDF}")), "{path}: {first}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_step_would_look_at_is_refused_and_named() {
    let world = World::new().await;
    let app = App::start(&world, "agents_teams").await;
    let sound = json!([{ "content": WAV, "mime_type": "audio/wav" }]).to_string();
    for path in ["/agents/plain-agent/runs", "/teams/research-team/runs", "/workflows/content-creation-workflow/runs"] {
        let (status, body) = run(&app, path, &[("message", "x"), ("audio", &sound)]).await;
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(["body", "audio"])), "{path}: {body}");
        assert!(body["detail"][0]["msg"].as_str().unwrap().contains("takes no audio"), "{body}");
    }
    // A function may have its own use for it.
    assert_eq!(run(&app, "/workflows/plain-fn/runs", &[("message", "x"), ("audio", &sound)]).await.0, 200);
    for url in
        ["https://127.0.0.1/a.png", "https://169.254.169.254/a", "http://example.org/a.png", "https://localhost/"]
    {
        let images = json!([{ "content": PNG }, { "url": url }]).to_string();
        let (status, body) = run(&app, "/agents/plain-agent/runs", &[("message", "x"), ("images", &images)]).await;
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(["body", "images", "1", "url"])), "{url}: {body}");
    }
    assert!(world.models.log().is_empty(), "no model was asked");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_events_a_stream_of_an_agent_or_team_is_what_they_say() {
    let world = World::new().await;
    let app = App::start(&world, "agents_teams").await;
    let stream = async |path: &str, fields: &[(&str, &str)]| {
        let fields = [&[("stream", "true"), ("stream_events", "false")][..], fields].concat();
        let answer = form(client().post(format!("http://{}{path}", app.address)), &fields).send().await.unwrap();
        parse_sse(&answer.text().await.unwrap())
    };
    let names = |events: &[SseEvent]| {
        let mut names: Vec<String> = events.iter().map(|event| event.event.clone()).collect();
        names.dedup();
        names
    };
    for background in ["false", "true"] {
        let told = stream("/agents/solo-agent/runs", &[("message", "hello"), ("background", background)]).await;
        assert_eq!(names(&told), ["RunContent"], "{told:?}");
        let said: String = told.iter().map(|event| text(event, "content")).collect();
        assert!(!said.is_empty());
        let told = stream("/teams/research-team/runs", &[("message", "hello"), ("background", background)]).await;
        let only_speech = |name: &String| name == "RunContent" || name == "TeamRunContent";
        assert!(
            names(&told).iter().all(only_speech) && names(&told).contains(&"TeamRunContent".to_owned()),
            "{told:?}"
        );
        // A failure is no answer and is told.
        let fields = [("message", "a question ERROR=400"), ("background", background)];
        let told = stream("/agents/plain-agent/runs", &fields).await;
        assert_eq!(names(&told), ["RunError"], "{told:?}");
    }
    app.stop().await;
}

fn text(event: &SseEvent, key: &str) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap();
    data[key].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_results_of_a_failed_run_hold_the_step_that_failed() {
    let world = World::new().await;
    let app = App::start(&world, "errors").await;
    let fields = [("message", "x"), ("session_id", "s"), ("run_id", "failed"), ("background", "true")];
    assert_eq!(run(&app, "/workflows/failing/runs", &fields).await.0, 202);
    app.run_ended("failed").await;
    let poll = format!("http://{}/workflows/failing/runs/failed?session_id=s", app.address);
    let body: Value = client().get(poll).send().await.unwrap().json().await.unwrap();
    assert_eq!(body["status"], "ERROR");
    let results = body["step_results"].as_array().unwrap();
    let of = |key: &str| results.iter().map(|result| result[key].clone()).collect::<Vec<_>>();
    assert_eq!(
        (of("step_name"), of("success")),
        (vec![json!("upper"), json!("boom")], vec![json!(true), json!(false)])
    );
    assert_eq!(results[1]["error"], results[1]["content"]);
    let named = format!("step \"boom\": {}", results[1]["error"].as_str().unwrap());
    assert_eq!(body["content"], named, "{body}");
    assert!(results[1]["executor_type"].is_null() && results[1]["step_id"].is_string(), "{body}");
    app.stop().await;
}
