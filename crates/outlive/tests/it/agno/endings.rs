//! What a client is told that comes back to an agent's run after the agent has said how it ended.

use super::app::App;
use super::replay::{client, form};
use crate::world::World;
use outlive_server::testing::{SseEvent, parse_sse};

/// A form's answer, as events.
async fn events(app: &App, path: &str, fields: &[(&str, &str)]) -> (String, Vec<SseEvent>) {
    let request = form(client().post(format!("http://{}{path}", app.address)), fields);
    let answer = request.send().await.unwrap();
    let run_id = answer.headers().get("x-run-id").map(|id| id.to_str().unwrap().to_owned());
    (run_id.unwrap_or_default(), parse_sse(&answer.text().await.unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resume_from_any_event_tells_exactly_what_followed_it() {
    let world = World::new().await;
    let app = App::start(&world, "agents_teams").await;
    for (path, message) in [
        ("/agents/plain-agent/runs", "a question ERROR=400"),
        ("/agents/solo-agent/runs", "a question"),
        ("/teams/research-team/runs", "a question"),
    ] {
        let fields = [("message", message), ("stream", "true"), ("background", "true")];
        let (run_id, whole) = events(&app, path, &fields).await;
        assert!(whole.len() > 2, "{whole:?}");
        for (index, event) in whole.iter().enumerate() {
            let id = event.id.as_deref().unwrap();
            let resume = format!("{path}/{run_id}/resume");
            let (_, rest) = events(&app, &resume, &[("last_event_index", id)]).await;
            assert_eq!(rest[0].event, "replay");
            assert_eq!(rest[1..], whole[index + 1..], "{message} after {index}");
        }
    }
    app.stop().await;
}
