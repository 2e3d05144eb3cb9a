//! The seed's workflow, from submit to result, over both endpoints, streamed and not.

use crate::example::Example;
use crate::world::{KEY, World};
use outlive::Media;
use outlive::agent::model::IntoModel;
use outlive::core::content_text;
use outlive::core::port::Access;
use outlive::engine::testing::{broken_invariants, read_log, row_equals_fold};
use outlive::prelude::*;

async fn runs_to_its_end(world: &World, model: impl IntoModel + Clone, stream: bool) {
    let workflow = world.workflow(model, stream);
    let run = workflow.run("AI trends in 2024").user_id("u1").background().await.unwrap();
    let found = workflow.get_run(run.run_id()).await.unwrap().unwrap();
    assert!(matches!(found.status, RunStatus::Pending | RunStatus::Running));
    let ended = run.clone().await.unwrap();
    assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    assert_eq!(ended.step_results.len(), 2);
    let team = &ended.step_executor_runs[0];
    let members: Vec<_> = team.member_responses.iter().filter_map(|run| run.agent_name.as_deref()).collect();
    assert_eq!(members, ["Hackernews Agent", "Finance Agent"], "both members were used");
    for member in &team.member_responses {
        assert_eq!(member.tools.len(), 1, "each called a tool");
        assert_eq!(member.tools[0].tool_call_error, Some(false), "{:?}", member.tools[0]);
        assert_eq!(member.parent_run_id.as_ref(), Some(&team.run_id));
    }
    assert_eq!(ended.text(), content_text(ended.step_executor_runs[1].content.as_ref()));
    let metrics = ended.metrics.as_ref().unwrap();
    assert_eq!(metrics.steps.len(), 2);
    assert!(metrics.steps["Research Step"].metrics.as_ref().unwrap().usage.total_tokens > 0);
    let db = workflow.engine().await.unwrap().db().clone();
    let log = read_log(&*db, run.run_id()).await;
    assert_eq!(broken_invariants(&log, &ended), Vec::<String>::new());
    let row = db.run(Access::All, run.run_id().clone()).await.unwrap().unwrap();
    assert!(row_equals_fold(&*db, &row, workflow.definition(), &log).await);
    let deltas = log.iter().filter(|entry| entry.event.name().ends_with("RunContent")).count();
    assert_eq!(deltas > 0, stream);
    workflow.shutdown().await.unwrap();
    assert_the_key_is_nowhere(world);
}

fn assert_the_key_is_nowhere(world: &World) {
    for file in std::fs::read_dir(world.path().parent().unwrap()).unwrap().map(Result::unwrap) {
        let Ok(bytes) = std::fs::read(file.path()) else { continue };
        let found = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
        assert!(!found, "the key is in {:?}", file.path());
    }
}

#[tokio::test]
async fn over_responses_streamed() {
    let world = World::new().await;
    runs_to_its_end(&world, world.responses(), true).await;
}

#[tokio::test]
async fn over_responses_plain() {
    let world = World::new().await;
    runs_to_its_end(&world, world.responses(), false).await;
}

#[tokio::test]
async fn over_chat_streamed() {
    let world = World::new().await;
    runs_to_its_end(&world, world.chat(), true).await;
}

#[tokio::test]
async fn over_chat_plain() {
    let world = World::new().await;
    runs_to_its_end(&world, world.chat(), false).await;
}

#[tokio::test]
async fn events_come_in_agnos_order() {
    let world = World::new().await;
    let workflow = world.workflow(world.responses(), false);
    let mut events = workflow.run("AI trends").stream().await.unwrap();
    let mut names = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        names.push(event.name());
    }
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("no {name} in {names:?}"));
    let last = |name: &str| names.iter().rposition(|n| *n == name).unwrap();
    assert_eq!(names[..4], ["WorkflowStarted", "StepStarted", "TeamRunStarted", "TeamModelRequestStarted"]);
    assert!(at("TeamModelRequestCompleted") < at("TeamToolCallStarted"));
    assert!(at("TeamToolCallStarted") < at("RunStarted"));
    assert!(at("ToolCallCompleted") < last("TeamToolCallCompleted"));
    assert!(last("TeamToolCallCompleted") < last("TeamModelRequestStarted"));
    assert!(at("TeamRunContentCompleted") < at("TeamRunCompleted"));
    assert!(at("TeamRunCompleted") < at("StepCompleted"));
    assert_eq!(names.last(), Some(&"WorkflowCompleted"));
}

#[tokio::test]
async fn an_agent_that_asks_for_history_sees_the_sessions_earlier_runs() {
    let world = World::new().await;
    let agent = Agent::new("Solo").model(world.responses()).add_history_to_context(true);
    let workflow = world.one_agent(agent);
    workflow.run("the first question").session_id("s").await.unwrap();
    workflow.run("the second question").session_id("s").await.unwrap();
    workflow.run("elsewhere").session_id("other").await.unwrap();
    let log = world.models.log();
    let asked = |n: usize| log[n].request.to_string();
    assert!(asked(1).contains("the first question") && asked(1).contains("the second question"));
    assert!(!asked(0).contains("second") && !asked(2).contains("first"));
}

#[tokio::test]
async fn a_missing_key_is_found_before_a_run_exists() {
    let world = World::new().await;
    let (code, complaint) = Example::without_key(&world);
    assert_eq!(code, Some(7), "{complaint}");
    assert!(complaint.contains("OPENAI_API_KEY"), "{complaint}");
    assert!(!world.path().exists());
}

#[tokio::test]
async fn a_structured_answer_is_stored_as_an_object() {
    let world = World::new().await;
    let schema = serde_json::json!({
        "type": "object", "properties": { "headline": { "type": "string" }, "score": { "type": "integer" } },
        "required": ["headline", "score"], "additionalProperties": false
    });
    for stream in [true, false] {
        let agent = Agent::new("Solo").model(world.chat()).output_schema_json("News", schema.clone()).stream(stream);
        let workflow = world.one_agent(agent);
        let ended = workflow.run("a headline please").await.unwrap();
        assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
        assert!(ended.content.unwrap()["headline"].is_string());
        workflow.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_image_and_a_file_of_the_run_reach_the_model() {
    let world = World::new().await;
    let workflow = world.one_agent(Agent::new("Solo").model(world.responses()));
    let image = Media { url: Some("https://example.com/cat.png".to_owned()), ..Media::default() };
    let file = Media {
        content: Some("aGVsbG8=".to_owned()),
        mime_type: Some("application/pdf".to_owned()),
        filename: Some("hello.pdf".to_owned()),
        ..Media::default()
    };
    let ended = workflow.run("what is this?").images([image]).files([file]).await.unwrap();
    assert_eq!(ended.status, RunStatus::Completed, "{}", ended.text());
    let asked = world.models.log()[0].request.to_string();
    assert!(asked.contains("https://example.com/cat.png") && asked.contains("hello.pdf"), "{asked}");
}
