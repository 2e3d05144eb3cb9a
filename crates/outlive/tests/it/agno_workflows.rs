//! The workflows of the `agno_app` example give the events and results that an Agno server gave, except where
//! `docs/differences-from-agno.md` says otherwise.

use crate::world::World;
use outlive::RunEvent;
use outlive::agent::model::{IntoModel, SharedModel};
use outlive::core::port::Db;
use outlive::core::{EventKind, Key, StepOutput};
use outlive::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[path = "../../examples/agno_app/text.rs"]
mod text;
#[path = "../../examples/agno_app/workflows.rs"]
pub(crate) mod workflows;

use workflows::Models;

/// The app over the model server and a file of the world.
struct App {
    models: Models,
    db: Arc<dyn Db>,
    workflows: Vec<Workflow>,
}

/// One run: its events, and what a poll says afterwards.
struct Ran {
    events: Vec<RunEvent>,
    run: WorkflowRunOutput,
}

fn shared(model: impl IntoModel) -> SharedModel {
    model.into_model().unwrap()
}

impl App {
    fn new(world: &World) -> Self {
        let models = Models { responses: shared(world.responses()), chat: shared(world.chat()) };
        let db: Arc<dyn Db> = Arc::new(world.db());
        let workflows = [workflows::workflows(&models, &db), workflows::alone(&models, &db)];
        let workflows = workflows.into_iter().flat_map(Result::unwrap).collect();
        Self { models, db, workflows }
    }

    fn workflow(&self, id: &str) -> &Workflow {
        self.workflows.iter().find(|workflow| workflow.definition().id.as_str() == id).unwrap()
    }

    async fn run(&self, id: &str, input: impl Into<Value>) -> Ran {
        self.run_in(id, input, |request| request).await
    }

    async fn run_in(
        &self,
        id: &str,
        input: impl Into<Value>,
        change: impl FnOnce(outlive::RunRequest) -> outlive::RunRequest,
    ) -> Ran {
        let workflow = self.workflow(id);
        let handle = change(workflow.run(input)).background().await.unwrap();
        let mut stream = handle.events(None);
        let mut events = Vec::new();
        while let Some(event) = stream.next().await.unwrap() {
            events.push(event);
        }
        let run = workflow.get_run(handle.run_id()).await.unwrap().unwrap();
        Ran { events, run }
    }
}

/// Events as the wire names them, without what depends on the chunks of a stream and without what Agno has no word for:
/// our own custom events, which have a name.
fn names<'a>(events: impl IntoIterator<Item = &'a RunEvent>) -> String {
    let is_ours =
        |event: &RunEvent| matches!(&event.kind, EventKind::CustomEvent { fields } if fields.get("name").is_some());
    let names = events.into_iter().filter(|event| !is_ours(event)).map(RunEvent::name);
    names.filter(|name| !name.ends_with("RunContent")).collect::<Vec<_>>().join(" ")
}

impl Ran {
    /// Asserts what Agno's server did: its events, status and content.
    fn gave(self, events: &str, status: RunStatus, content: impl Into<Value>) -> Self {
        assert_eq!(names(&self.events), events.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!((self.run.status, self.run.content.clone()), (status, Some(content.into())));
        self
    }

    fn step(&self, index: usize) -> &StepOutput {
        &self.run.step_results[index]
    }
}

const ONE_STEP: &str = "WorkflowStarted StepStarted StepOutput StepCompleted WorkflowCompleted";
const TWO_STEPS: &str = "WorkflowStarted StepStarted StepOutput StepCompleted \
                         StepStarted StepOutput StepCompleted WorkflowCompleted";

#[tokio::test]
async fn function_steps_in_sequence_pass_their_content_on() {
    let world = World::new().await;
    let app = App::new(&world);
    let ran = app.run("fn-pipeline", "hello").await.gave(TWO_STEPS, RunStatus::Completed, "HELLO!");
    let upper = ran.step(0);
    assert_eq!((upper.text(), upper.executor_name.as_deref()), ("HELLO".to_owned(), Some("upper")));
    app.run("plain-fn", "hello").await.gave(ONE_STEP, RunStatus::Completed, "plain:hello");
    app.run("no-db", "hello").await.gave(ONE_STEP, RunStatus::Completed, "HELLO");
    let slept = app.run("slow", "sleep=0.01").await.gave(TWO_STEPS, RunStatus::Completed, "second sleep done");
    assert_eq!(slept.step(0).text(), "slept 0.01");
    app.run("slow-stored", "sleep=0").await.gave(TWO_STEPS, RunStatus::Completed, "second sleep done");
}

#[tokio::test]
async fn a_step_sees_its_input_and_what_the_caller_added() {
    let world = World::new().await;
    let app = App::new(&world);
    let seen = r#"{"additional_data": null, "input": "hi", "previous_step_content": "HI"}"#;
    let ran = app.run("echo", "hi").await.gave(TWO_STEPS, RunStatus::Completed, seen);
    assert_eq!(ran.step(0).executor_name.as_deref(), Some("upper"));
    assert_eq!(ran.step(1).executor_name.as_deref(), Some("echo_input"));
    let seen = r#"{"additional_data": {"k": [1, 2]}, "input": "hi", "previous_step_content": "HI"}"#;
    let added = app.run_in("echo", "hi", |run| run.additional_data(json!({ "k": [1, 2] }))).await;
    added.gave(TWO_STEPS, RunStatus::Completed, seen);
}

#[tokio::test]
async fn a_workflows_state_is_where_new_sessions_start_and_a_runs_own_is_laid_over_it() {
    let world = World::new().await;
    let app = App::new(&world);
    for count in 1..=3 {
        let ran = app.run_in("stateful", "x", |run| run.session_id("s")).await;
        ran.gave(ONE_STEP, RunStatus::Completed, format!("count={count}"));
    }
    let own = Map::from_iter([("count".to_owned(), json!(40)), ("other".to_owned(), json!(true))]);
    let ran = app.run_in("stateful", "x", |run| run.session_id("t").session_state(own)).await;
    ran.gave(ONE_STEP, RunStatus::Completed, "count=41");
    let other = Map::from_iter([("other".to_owned(), json!(true))]);
    let ran = app.run_in("stateful-slow", "x", |run| run.session_id("u").session_state(other)).await;
    ran.gave(ONE_STEP, RunStatus::Completed, "count=1");
}

#[tokio::test]
async fn a_state_that_is_read_and_written_slowly_loses_no_run_of_its_session() {
    let world = World::new().await;
    let app = App::new(&world);
    let workflow = app.workflow("stateful-slow");
    let ask = || workflow.run("x").session_id("s").background();
    let (first, second) = tokio::join!(ask(), ask());
    let (first, second) = (first.unwrap(), second.unwrap());
    let (first, second) = tokio::join!(first.wait(), second.wait());
    let mut counts = [first.unwrap().text(), second.unwrap().text()];
    counts.sort();
    assert_eq!(counts, ["count=1", "count=2"]);
}

#[tokio::test]
async fn pieces_of_text_are_not_events_and_the_end_of_a_step_is_its_content() {
    let world = World::new().await;
    let app = App::new(&world);
    let ran = app.run("generator", "hi").await.gave(TWO_STEPS, RunStatus::Completed, "t0 t1 t2 ");
    assert_eq!(ran.step(0).text(), "final of gen");
}

#[tokio::test]
async fn a_function_step_says_how_far_it_is_and_things_of_its_own() {
    let world = World::new().await;
    let app = App::new(&world);
    let expected = "WorkflowStarted StepStarted StepProgress CustomEvent StepOutput StepCompleted WorkflowCompleted";
    let ran = app.run("progress", "hi").await.gave(expected, RunStatus::Completed, "progress done");
    let progress = serde_json::to_value(&ran.events[2]).unwrap();
    assert_eq!(progress["content"], "half way");
    assert_eq!(progress["data"], json!({ "done": 1, "of": 2 }));
    assert_eq!(progress["attempt"], 1);
    let custom = serde_json::to_value(&ran.events[3]).unwrap();
    let run_id = ran.run.run_id.as_str();
    let step_id = progress["step_id"].as_str();
    assert!(step_id.is_some());
    assert_eq!(
        custom,
        json!({
            "created_at": custom["created_at"], "event": "CustomEvent", "event_index": 3, "workflow_id": "progress",
            "workflow_name": "Progress", "session_id": ran.run.session_id, "run_id": run_id, "step_id": step_id,
            "nested_depth": 0, "note": "custom payload", "n": 3,
        })
    );
}

#[tokio::test]
async fn a_custom_event_cannot_change_what_every_event_says() {
    let liar = Step::function("liar", async |context: StepContext, _| {
        let mut lies = Map::new();
        let event = serde_json::to_value(RunEvent {
            created_at: 1,
            kind: EventKind::StepStarted,
            origin: context.origin(),
            event_index: Some(9),
        });
        lies.extend(event?.as_object().unwrap().clone());
        let ids = ["agent_id", "agent_name", "team_id", "team_name", "parent_run_id", "workflow_run_id"];
        for name in ids.into_iter().chain(["parent_step_id", "nested_depth", "run_id", "honest"]) {
            lies.insert(name.to_owned(), json!("a lie"));
        }
        context.event(lies);
        Ok::<_, Failure>(())
    });
    let workflow = Workflow::builder("Liar").db(InMemoryDb::new()).step(liar).build().unwrap();
    let run = workflow.run("hi").background().await.unwrap();
    let mut stream = run.events(None);
    let mut custom = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        if event.name() == "CustomEvent" {
            custom.push(serde_json::to_string(&event).unwrap());
        }
    }
    let told: Value = serde_json::from_str(&custom[0]).unwrap();
    assert_eq!(told["honest"], "a lie");
    assert_eq!(told["run_id"], run.run_id().as_str());
    assert_eq!(custom[0].matches("a lie").count(), 1, "{}", custom[0]);
    assert_eq!(custom[0].matches(r#""run_id""#).count(), 1, "{}", custom[0]);
}

#[tokio::test]
async fn a_step_that_stops_ends_the_workflow_with_its_content() {
    let world = World::new().await;
    let app = App::new(&world);
    let expected = "WorkflowStarted StepStarted StepOutput WorkflowCompleted";
    let ran = app.run("early-stop", "hi").await.gave(expected, RunStatus::Completed, "stopped early");
    assert!(ran.step(0).stop);
    assert_eq!(ran.run.step_results.len(), 1);
}

#[tokio::test]
async fn a_failing_step_ends_the_run() {
    let world = World::new().await;
    let app = App::new(&world);
    let expected = "WorkflowStarted StepStarted StepOutput StepCompleted StepStarted StepError WorkflowError";
    app.run("failing", "x").await.gave(expected, RunStatus::Error, "step \"boom\": scripted step failure");
}

/// Agno marks a step that its default policy skips by no event, and hands the error's text on as content.
#[tokio::test]
async fn agnos_default_of_three_retries_and_a_skip_can_be_asked_for() {
    let world = World::new().await;
    let app = App::new(&world);
    let expected = "WorkflowStarted StepStarted StepOutput StepCompleted StepStarted StepOutput \
                    StepStarted StepOutput StepCompleted WorkflowCompleted";
    let ran = app.run("failing-default", "x").await.gave(expected, RunStatus::Completed, "X!");
    let boom = ran.step(1);
    assert_eq!((boom.success, boom.error.as_deref()), (false, Some("scripted step failure")));
    assert_eq!(boom.text(), "Step skipped due to error: scripted step failure");
    assert_eq!(boom.executor_type, None);
    let retries = ran.events.iter().filter(|event| event.name() == "CustomEvent").count();
    assert_eq!(retries, 3);
    app.run("flaky", "f1").await.gave(ONE_STEP, RunStatus::Completed, "ok after 3");
}

#[tokio::test]
async fn a_step_that_may_fail_says_so_and_the_next_is_given_what_was_there_before() {
    let world = World::new().await;
    let app = App::new(&world);
    let expected = "WorkflowStarted StepStarted StepOutput StepStarted StepOutput StepCompleted WorkflowCompleted";
    let ran = app.run("failing-skip-flag", "x").await.gave(expected, RunStatus::Completed, "x!");
    assert_eq!(ran.step(0).error.as_deref(), Some("scripted step failure"));
}

/// Agno sends no `StepOutput` here and makes the error the content of the run.
#[tokio::test]
async fn an_agent_whose_model_fails_is_skipped_and_its_error_is_not_the_result() {
    let world = World::new().await;
    let app = App::new(&world);
    let ran = app.run("failing-agent", "go ERROR=400").await;
    let expected = "WorkflowStarted StepStarted RunStarted ModelRequestStarted RunError StepOutput WorkflowCompleted";
    assert_eq!(names(&ran.events), expected);
    assert_eq!((ran.run.status, &ran.run.content), (RunStatus::Completed, &None));
    assert!(!ran.step(0).success && ran.step(0).error.is_some());
}

/// Agno has no step here; ours is what makes the function's end durable.
#[tokio::test]
async fn a_workflow_can_be_one_function() {
    let world = World::new().await;
    let app = App::new(&world);
    app.run("custom-fn", "hello").await.gave(ONE_STEP, RunStatus::Completed, "custom function got hello");
    let definition = app.workflow("custom-fn").definition();
    assert!(definition.is_function);
    let both = Workflow::builder("Both").db(InMemoryDb::new()).function(async |_, _| Ok::<_, Failure>(()));
    let refused = both.step(Step::function("more", async |_, _| Ok::<_, Failure>(()))).build().unwrap_err();
    assert!(refused.to_string().contains("one function and has steps too"), "{refused}");
}

#[tokio::test]
async fn an_input_schema_reads_text_as_json_fills_in_defaults_and_refuses_the_rest() {
    let world = World::new().await;
    let app = App::new(&world);
    let seen = r#"{"additional_data": null, "input": {"depth": 1, "topic": "x"}, "previous_step_content": null}"#;
    for input in [json!(r#"{"topic": "x"}"#), json!({ "topic": "x" })] {
        let ran = app.run("schema-wf", input).await.gave(ONE_STEP, RunStatus::Completed, seen);
        assert_eq!(ran.run.input, Some(json!({ "topic": "x", "depth": 1 })));
    }
    // What is clearly meant loses nothing.
    for (input, depth) in [
        (json!({ "topic": "x", "depth": 2.0 }), 2),
        (json!({ "topic": "x", "depth": "3" }), 3),
        (json!(r#"{"topic": "x", "depth": "3"}"#), 3),
        (json!({ "topic": "x", "depth": null }), 1),
    ] {
        let ran = app.run("schema-wf", input).await;
        assert_eq!(ran.run.input, Some(json!({ "topic": "x", "depth": depth })));
    }
    let workflow = app.workflow("schema-wf");
    let refusal = async |input: Value| workflow.run(input).background().await.unwrap_err().to_string();
    for (input, problem) in [
        (json!(r#"{"depth": 3}"#), "missing field `topic`"),
        (json!({ "topic": "x", "depth": "deep" }), "at depth: invalid type: string \"deep\", expected i64"),
        (json!({ "topic": "x", "depth": 2.5 }), "at depth: invalid type: floating point `2.5`, expected i64"),
        (json!(["a", 7]), "expected an object with named fields, not a list"),
        (json!(r#"["a", 7]"#), "expected an object with named fields, not a list"),
        (json!("not json"), "it is not JSON: expected ident at line 1 column 2"),
        (Value::Null, "invalid type: null, expected struct Topic"),
    ] {
        assert_eq!(refusal(input).await, format!("Input failed schema validation: {problem}"));
    }
    let schema = &workflow.definition().input_schema.as_ref().unwrap().schema;
    assert_eq!((&schema["title"], &schema["required"]), (&json!("Topic"), &json!(["topic"])));
    let echoed = app.run("plain-fn", r#"{"topic": "x"}"#).await;
    assert_eq!(echoed.run.input, Some(json!(r#"{"topic": "x"}"#)), "without a schema text stays text");
}

#[tokio::test]
async fn the_content_workflows_tell_what_agnos_told() {
    let world = World::new().await;
    let app = App::new(&world);
    for (id, suffix) in
        [("content-creation-workflow", ""), ("content-creation-chat", " C"), ("content-creation-stored", " S")]
    {
        let ran = app.run(id, "AI trends in 2024").await;
        assert_eq!(ran.run.status, RunStatus::Completed, "{}", ran.run.text());
        let of = |name: &str| {
            let name = format!("{name}{suffix}");
            let is_its = |event: &&RunEvent| {
                let origin = &event.origin;
                origin.agent_name.as_deref().or(origin.team_name.as_deref()) == Some(name.as_str())
            };
            let found = ran.events.iter().filter(is_its).collect::<Vec<_>>();
            assert!(found.iter().any(|event| event.name().ends_with("RunContent")), "{name} streamed nothing");
            names(found)
        };
        let is_workflows = |event: &&RunEvent| event.origin.agent_id.is_none() && event.origin.team_id.is_none();
        let expected = "WorkflowStarted StepStarted StepCompleted StepStarted StepCompleted WorkflowCompleted";
        assert_eq!(names(ran.events.iter().filter(is_workflows)), expected);
        let leader = "TeamRunStarted TeamModelRequestStarted TeamModelRequestCompleted TeamToolCallStarted \
                      TeamToolCallStarted TeamToolCallCompleted TeamToolCallCompleted TeamModelRequestStarted \
                      TeamModelRequestCompleted TeamRunContentCompleted TeamRunCompleted";
        assert_eq!(of("Research Team"), leader);
        let member = "RunStarted ModelRequestStarted ModelRequestCompleted ToolCallStarted ToolCallCompleted \
                      ModelRequestStarted ModelRequestCompleted RunContentCompleted RunCompleted";
        assert_eq!(of("Hackernews Agent"), member);
        assert_eq!(of("Finance Agent"), member);
        let planner = "RunStarted ModelRequestStarted ModelRequestCompleted RunContentCompleted RunCompleted";
        assert_eq!(of("Content Planner"), planner);
        assert_eq!(ran.run.step_results.len(), 2);
        assert_eq!(ran.run.text(), ran.step(1).text());
        let tools = ran.run.step_executor_runs[0].member_responses.iter().flat_map(|run| &run.tools);
        let results: Vec<_> = tools.filter_map(|tool| tool.result.as_deref()).collect();
        assert_eq!(results, [r#"[{"title": "AI trends", "score": 10}]"#, "AI: 101.5 USD"]);
    }
}

#[tokio::test]
async fn agents_and_teams_run_by_themselves_as_workflows_of_one_step() {
    let world = World::new().await;
    let app = App::new(&world);
    for id in ["agent:solo-agent", "agent:plain-agent"] {
        let ran = app.run(id, "hello").await;
        assert_eq!(ran.run.status, RunStatus::Completed, "{}", ran.run.text());
        assert_eq!(ran.events[2].name(), "RunStarted");
        assert_eq!(ran.run.step_executor_runs.len(), 1);
        assert_eq!(ran.run.content, ran.run.step_executor_runs[0].content);
    }
    let ran = app.run("agent:careful-agent", "hello").await;
    assert_eq!(ran.run.status, RunStatus::Paused, "its tool needs a person");
    let ran = app.run("team:research-team", "hello").await;
    assert_eq!(ran.run.status, RunStatus::Completed, "{}", ran.run.text());
    assert_eq!(ran.events[2].name(), "TeamRunStarted");
    assert_eq!(ran.run.step_executor_runs[0].member_responses.len(), 2);
}

#[tokio::test]
async fn agents_and_teams_are_described_as_agno_describes_them() {
    let world = World::new().await;
    let app = App::new(&world);
    let agents: Vec<Value> = workflows::agents(&app.models).iter().map(Agent::describe).collect();
    let ids: Vec<_> = agents.iter().map(|agent| agent["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["solo-agent", "plain-agent", "careful-agent"]);
    assert_eq!(agents[0]["model"], json!({ "name": "OpenAIResponses", "model": "gpt-5.2", "provider": "OpenAI" }));
    assert_eq!(agents[1]["model"]["name"], "OpenAIChat");
    assert_eq!(agents[0]["tools"]["tools"][0]["name"], "get_top_hackernews_stories");
    assert_eq!(agents[2]["tools"]["tools"][0]["name"], "delete_file");
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    // What Agno sends, but for `db_id` and `sessions`, which are the server's to add.
    let plain = ["filesystem", "id", "is_component", "is_factory", "model", "name", "reasoning", "sandboxed"];
    assert_eq!(keys(&agents[1]), [&plain[..], &["system_message"]].concat());
    let teams: Vec<Value> = workflows::teams(&app.models).iter().map(Team::describe).collect();
    let team = ["id", "is_component", "is_factory", "members", "mode", "model", "name", "reasoning", "sandboxed"];
    assert_eq!(keys(&teams[0]), [&team[..], &["streaming", "system_message", "tools"]].concat());
    assert_eq!(teams[0]["members"][0]["id"], "hackernews-agent");
    let text = json!([agents, teams]).to_string();
    assert!(!text.contains(crate::world::KEY) && !text.contains(&world.models.url()), "{text}");
    // A workflow's steps describe what runs in them.
    let definition = app.workflow("content-creation-workflow").definition();
    assert_eq!(definition.executor(&Key::step(0)).unwrap().describe().unwrap()["name"], "Research Team");
    assert_eq!(app.workflow("fn-pipeline").definition().executor(&Key::step(0)).unwrap().describe(), None);
    assert!(app.db.location().ends_with("workflow.db"));
}
