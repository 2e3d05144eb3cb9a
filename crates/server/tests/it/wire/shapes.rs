//! Bodies against recorded shapes.

use outlive_core::port::{Session, SessionKind};
use outlive_core::{Definition, Failure, Media, Metrics, RunStatus, Step, Timestamp, Usage, WorkflowRunOutput};
use outlive_server::testing::{Allowed, Shape, Talk, differences, load};
use outlive_server::wire::agent::{self, Face, Voice};
use outlive_server::wire::component::{self, Auth, Counts, Os};
use outlive_server::wire::list::{self, Nulls};
use outlive_server::wire::run::{self, Standing};
use outlive_server::wire::session::{self, SessionFacts};
use outlive_server::wire::{iso, iso_micros};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const COMPLETED: &str = include_str!("../../../../core/tests/golden/workflow_run_completed.json");
const RUNNING: &str = include_str!("../../../../core/tests/golden/workflow_run_running.json");
const CANCELLED: &str = include_str!("../../../../core/tests/golden/workflow_run_cancelled.json");

fn golden(text: &str) -> WorkflowRunOutput {
    serde_json::from_str(text).expect("a golden run")
}

fn recorded(name: &str, place: usize) -> Shape {
    let Talk::Http { response, .. } = &load(name).exchanges[place].talk else { panic!("an answer") };
    response.body.clone().expect("a body")
}

#[track_caller]
fn assert_as_recorded(name: &str, place: usize, actual: &Value, allowed: &[Allowed<'_>]) {
    assert_eq!(
        differences(&recorded(name, place), actual, allowed),
        Vec::<String>::new(),
        "{name} {place}: {actual:#}"
    );
}

fn polled(run: &WorkflowRunOutput, standing: Standing<'_>) -> Value {
    serde_json::to_value(run::workflow_run(run, run::Shape::Polled, standing)).expect("a body")
}

#[test]
fn a_polled_run_has_the_recorded_shape() {
    assert_as_recorded("run_background_poll", 3, &polled(&golden(COMPLETED), Standing::default()), &[]);
    assert_as_recorded("run_background_poll", 1, &polled(&golden(RUNNING), Standing::default()), &[]);
    // One of the recorded member runs was cancelled a moment later than ours and knows the model's answer.
    let cancelled = polled(&golden(CANCELLED), Standing::default());
    assert_as_recorded("cancel", 15, &cancelled, &[Allowed::Under("member_responses.model_provider_data")]);
}

#[test]
fn a_result_has_media_and_no_events_as_recorded() {
    let mut run = golden(COMPLETED);
    run.images = Some(vec![Media { url: Some("https://example.com/a.png".to_owned()), ..Media::default() }]);
    let body = serde_json::to_value(run::workflow_run(&run, run::Shape::Result, Standing::default())).unwrap();
    assert_as_recorded("run_foreground", 0, &body, &[]);
    assert_eq!(body["images"][0]["url"], "https://example.com/a.png");
    assert_eq!(body["videos"], json!([]));
    assert_eq!(body["step_executor_runs"][1]["tools"], json!([]));
}

#[test]
fn keys_of_a_run_come_in_agnos_order() {
    let run = golden(COMPLETED);
    let text = serde_json::to_string(&run::workflow_run(&run, run::Shape::Polled, Standing::default())).unwrap();
    assert_eq!(text, serde_json::to_string(&run).unwrap());
}

#[test]
fn progress_is_shown_while_a_run_is_running_and_not_before_or_after() {
    let standing = Standing { progress: Some("1/2 Research Step") };
    let running = polled(&golden(RUNNING), standing);
    assert_eq!(running["progress"], "1/2 Research Step");
    let found = differences(&recorded("run_background_poll", 1), &running, &[]);
    assert_eq!(found, ["progress: is new"]);
    let pending = WorkflowRunOutput { status: RunStatus::Pending, ..golden(RUNNING) };
    for run in [golden(COMPLETED), pending] {
        assert_eq!(polled(&run, standing).get("progress"), None);
    }
}

#[test]
fn a_run_that_goes_on_shows_no_content() {
    let run = WorkflowRunOutput { content: Some(json!("half")), ..golden(RUNNING) };
    assert_eq!(polled(&run, Standing::default()).get("content"), None);
    assert_eq!(list::workflow_run(&run, Nulls::Written)["content"], "");
}

#[test]
fn an_accepted_run_is_answered_as_recorded() {
    let body = run::accepted("r", "s", RunStatus::Pending);
    assert_as_recorded("run_background_poll", 0, &body, &[]);
    assert_eq!(body["status"], "PENDING");
}

#[test]
fn lists_have_the_recorded_shapes_with_and_without_nulls() {
    let run = golden(COMPLETED);
    assert_as_recorded("run_background_poll", 9, &json!([list::workflow_run(&run, Nulls::Written)]), &[]);
    // The recorded runs ended in the foreground, which leaves `events` out of what they executed.
    let left_out = json!([list::workflow_run(&run, Nulls::LeftOut)]);
    let allowed = [
        Allowed::Extra("step_executor_runs.events"),
        Allowed::Extra("member_responses.events"),
        Allowed::Missing("step_executor_runs.tools"),
    ];
    assert_as_recorded("sessions", 22, &left_out, &allowed);
    assert_as_recorded("sessions", 24, &json!([list::preview(&run, None)]), &[]);
}

#[test]
fn a_preview_is_short_whatever_the_text_is() {
    let run = WorkflowRunOutput { content: Some(json!("é".repeat(1_000))), ..golden(COMPLETED) };
    let preview = list::preview(&run, None);
    assert_eq!(preview["content_preview"].as_str().unwrap().chars().count(), list::PREVIEW_CHARS_MAX);
}

fn face(voice: Voice) -> Face {
    let id = match voice {
        Voice::Agent => "content-planner",
        Voice::Team => "research-team",
    };
    Face {
        voice,
        id: id.to_owned(),
        name: "A Name".to_owned(),
        model: Some("gpt-5.2".to_owned()),
        model_provider: Some("OpenAI".to_owned()),
    }
}

/// The run of one agent or team of the golden run, as a workflow of its own, without a user.
fn alone(place: usize) -> WorkflowRunOutput {
    let mut run = golden(COMPLETED);
    let mut own = outlive_core::RunOutput::clone(&run.step_executor_runs[place]);
    own.user_id = None;
    for member in own.member_responses.iter_mut().map(Arc::make_mut) {
        (member.user_id, member.metadata) = (None, None);
    }
    run.step_executor_runs = vec![own.into()];
    run.user_id = None;
    run
}

#[test]
fn a_run_of_an_agent_has_the_recorded_shape_and_the_id_it_was_submitted_under() {
    let run = alone(1);
    let agents = face(Voice::Agent);
    // Chat completions, which were recorded, give another id than the golden run's responses.
    let allowed = [Allowed::Under("provider_data"), Allowed::Under("model_provider_data")];
    let polled = agent::run(&run, &agents, run::Shape::Polled, Standing::default());
    assert_as_recorded("agents_teams", 4, &polled, &allowed);
    assert_eq!(polled["run_id"], json!(run.run_id));
    assert_eq!((polled.get("parent_run_id"), polled.get("workflow_step_id")), (None, None));
    let result = agent::run(&run, &agents, run::Shape::Result, Standing::default());
    assert_as_recorded("agents_teams", 0, &result, &allowed);
    let listed = json!([list::agent_run(&run, &agents, Nulls::Written)]);
    assert_as_recorded("agents_teams", 7, &listed, &allowed);
}

#[test]
fn a_run_of_a_team_has_the_recorded_shape() {
    let run = alone(0);
    let team = face(Voice::Team);
    // A team's session state is shown as an agent's is; the golden run had a user when it was recorded.
    let allowed = [Allowed::Extra("session_state"), Allowed::Extra("session_state.current_user_id")];
    let polled = agent::run(&run, &team, run::Shape::Polled, Standing::default());
    assert_as_recorded("agents_teams", 22, &polled, &allowed);
    assert_eq!(polled["member_responses"][0]["parent_run_id"], json!(run.run_id));
    let result = agent::run(&run, &team, run::Shape::Result, Standing::default());
    assert_as_recorded("agents_teams", 18, &result, &allowed);
    let listed = json!([list::agent_run(&run, &team, Nulls::Written)]);
    assert_as_recorded("agents_teams", 25, &listed, &[]);
}

#[test]
fn a_run_whose_agent_has_not_ended_shows_what_is_known() {
    let run = WorkflowRunOutput { user_id: None, ..golden(RUNNING) };
    for (voice, place) in [(Voice::Agent, 3), (Voice::Team, 21)] {
        let body = agent::run(&run, &face(voice), run::Shape::Polled, Standing { progress: Some("1/1 x") });
        assert_as_recorded("agents_teams", place, &body, &[Allowed::Extra("progress")]);
        assert_eq!(body["progress"], "1/1 x");
    }
}

#[test]
fn a_failed_run_of_an_agent_says_why() {
    let mut run = alone(1);
    (run.status, run.content) = (RunStatus::Error, Some(json!("it failed")));
    let body = agent::run(&run, &face(Voice::Agent), run::Shape::Polled, Standing::default());
    assert_eq!((&body["status"], &body["content"]), (&json!("ERROR"), &json!("it failed")));
    run.step_executor_runs.clear();
    let body = agent::run(&run, &face(Voice::Agent), run::Shape::Polled, Standing::default());
    assert_eq!((&body["status"], &body["content"]), (&json!("ERROR"), &json!("it failed")));
}

fn pipeline() -> Definition {
    let step = |name| Step::function(name, |_, input| async move { Ok::<_, Failure>(input.text()) });
    Definition::builder("Fn Pipeline").step(step("upper")).step(step("exclaim")).build().expect("a workflow")
}

fn stored(kind: SessionKind, id: &str) -> Session {
    let at = Timestamp::from_micros(1_795_404_500_123_456);
    Session {
        session_id: "se-1".parse().expect("an id"),
        kind,
        name: None,
        metadata: Map::new(),
        state: Map::new(),
        version: 3,
        user_id: Some("alice".into()),
        workflow_id: id.parse().ok(),
        created_at: at,
        updated_at: at,
    }
}

fn usage() -> Metrics {
    let mut metrics = Metrics { duration: Some(1.0), ..Metrics::default() };
    let tokens = Usage { input_tokens: 3, output_tokens: 4, total_tokens: 7, ..Usage::default() };
    metrics.count(tokens, None, "gpt-5.2", "OpenAI Responses");
    metrics
}

#[test]
fn sessions_are_listed_as_recorded() {
    let session = stored(SessionKind::Workflow, "fn-pipeline");
    let facts = SessionFacts { first_input: Some("m0"), ..SessionFacts::new(&session) };
    let line = session::summary(facts);
    assert_eq!((&line["session_name"], &line["created_at"]), (&json!("m0"), &json!("2026-11-23T03:28:20Z")));
    assert_as_recorded("sessions", 5, &session::page(vec![line], 1, 20, 1, 0.0), &[]);
    let empty = session::page(Vec::new(), 1, 20, 0, 0.5);
    assert_as_recorded("sessions", 14, &empty, &[]);
    assert_eq!(empty["meta"]["total_pages"], 0);
    assert_eq!(session::page(Vec::new(), 1, 20, 41, 0.0)["meta"]["total_pages"], 3);
    let used = usage();
    let agents = Session { user_id: None, ..stored(SessionKind::Agent, "agent:plain-agent") };
    let line = session::summary(SessionFacts { usage: Some(&used), ..SessionFacts::new(&agents) });
    assert_eq!((&line["agent_id"], &line["total_tokens"]), (&json!("plain-agent"), &json!(7)));
    assert_as_recorded("sessions", 9, &session::page(vec![line], 1, 1, 1, 0.0), &[]);
}

#[test]
fn a_session_of_a_workflow_is_shown_as_recorded() {
    let session = stored(SessionKind::Workflow, "fn-pipeline");
    let definition = pipeline();
    let detail = session::workflow_detail(SessionFacts::new(&session), Some(&definition));
    assert_as_recorded("sessions", 15, &detail, &[]);
    let named = Session { name: Some("a name".into()), ..session };
    let facts = SessionFacts { first_input: Some("m0"), ..SessionFacts::new(&named) };
    let detail = session::workflow_detail(facts, Some(&definition));
    assert_eq!(
        (&detail["session_name"], &detail["session_data"]["session_name"]),
        (&json!("a name"), &json!("a name"))
    );
    assert_as_recorded("sessions", 29, &detail, &[Allowed::Missing("workflow_name")]);
}

#[test]
fn a_session_of_an_agent_is_shown_as_recorded() {
    let session = Session { user_id: None, ..stored(SessionKind::Agent, "agent:plain-agent") };
    let used = usage();
    let facts = SessionFacts { usage: Some(&used), ..SessionFacts::new(&session) };
    let description =
        json!({ "name": "Plain Agent", "model": { "name": "M", "model": "gpt-5.2", "provider": "OpenAI" } });
    let run = alone(1);
    let detail = session::agent_detail(facts, Some(&description), &run.step_executor_runs[0].messages);
    assert_as_recorded("sessions", 25, &detail, &[Allowed::Under("provider_data")]);
    assert_eq!(detail["chat_history"].as_array().unwrap().len(), 2);
}

#[test]
fn kinds_of_sessions_are_known_by_agnos_words() {
    assert_eq!(session::kind_named("team"), Some(SessionKind::Team));
    assert_eq!(session::kind_named("Team"), None);
    assert_eq!(session::kind_name(SessionKind::Workflow), "workflow");
}

const OS: Os<'_> = Os {
    id: "contract-os",
    name: "Contract OS",
    description: Some("a server"),
    db_id: "contract-db",
    session_table: "workflow_session",
};

fn planner() -> Value {
    json!({
        "id": "planner",
        "name": "Planner",
        "model": { "name": "M", "model": "gpt-5.2", "provider": "OpenAI" },
    })
}

#[test]
fn the_server_presents_itself_as_recorded() {
    assert_as_recorded("meta", 0, &component::home(OS), &[]);
    let health = component::health(Timestamp::from_micros(1_795_404_444_252_097));
    assert_eq!(health["instantiated_at"], "2026-11-23T03:27:24.252097Z");
    assert_as_recorded("meta", 1, &health, &[]);
    let counts = Counts { agents: 3, teams: 1, workflows: 20 };
    let auth = Auth { mode: "none", user_isolation: false };
    assert_as_recorded("meta", 2, &component::info(OS, "0.1.0", counts, auth), &[]);
}

#[test]
fn the_configuration_has_every_key_that_clients_read() {
    let team =
        json!({ "id": "t", "name": "T", "mode": "coordinate", "members": [planner()], "model": planner()["model"] });
    let workflows = vec![component::workflow_summary(&pipeline(), OS.db_id)];
    let body = component::config(OS, &[planner()], &[team], workflows);
    // Our stores keep no such domains; the name is ours.
    let mut allowed = vec![Allowed::Extra("name")];
    for domain in ["metrics.dbs", "memory.dbs", "learning.dbs", "evals.dbs"] {
        allowed.push(Allowed::Type(domain));
    }
    assert_as_recorded("meta", 3, &body, &allowed);
    assert_eq!(body["available_models"], json!([{ "id": "gpt-5.2", "provider": "OpenAI" }]));
    assert_eq!(body["agents"][0]["model"], json!({ "id": "gpt-5.2", "provider": "OpenAI" }));
}

#[test]
fn workflows_are_described_as_recorded() {
    let definition = pipeline();
    let line = component::workflow_summary(&definition, OS.db_id);
    assert_as_recorded("meta", 4, &json!([line]), &[]);
    let detail = component::workflow_detail(&definition, OS.db_id);
    let steps = json!([{ "name": "upper", "type": "Step" }, { "name": "exclaim", "type": "Step" }]);
    assert_eq!(detail["steps"], steps);
    assert_as_recorded("meta", 5, &detail, &[Allowed::Missing("description"), Allowed::Under("steps")]);
}

#[test]
fn an_agent_is_described_with_its_database() {
    let body = component::executor_detail(&planner(), OS);
    assert_eq!(body["db_id"], "contract-db");
    assert_eq!(body["sessions"], json!({ "session_table": "workflow_session" }));
    assert_eq!(body["id"], "planner");
}

#[test]
fn instants_are_written_in_the_calendar_of_people() {
    let second = 1_000_000;
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (-1, "1969-12-31T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (4_107_542_399, "2100-02-28T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
        (1_709_164_800, "2024-02-29T00:00:00Z"),
    ] {
        assert_eq!(iso(Timestamp::from_micros(seconds * second)), text);
    }
    assert_eq!(iso_micros(Timestamp::from_micros(7)), "1970-01-01T00:00:00.000007Z");
}
