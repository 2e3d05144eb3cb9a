//! Events as text, and an agent's events taken out of a workflow's.

use outlive_core::{ContentDelta, EventKind, ModelInfo, Origin, RunDone, RunEvent, RunFailed};
use outlive_server::testing::{Talk, Told, load, parse_sse, stream_differences};
use outlive_server::wire::agent::{Face, View, Voice, log_index, shown_index};
use outlive_server::wire::frame::{self, Frame, is_milestone};
use serde_json::{Value, json};

const EVENTS: &str = include_str!("../../../../core/tests/golden/events.jsonl");

fn event(kind: EventKind, index: u64) -> RunEvent {
    let origin = Origin {
        workflow_id: "agent:plain-agent".parse().ok(),
        workflow_name: Some("Plain Agent".into()),
        session_id: "s-1".parse().ok(),
        run_id: "w-1".parse().ok(),
        ..Origin::default()
    };
    RunEvent { created_at: 1, kind, origin, event_index: Some(index) }
}

fn agents(kind: EventKind, index: u64, run_id: &str, parent: Option<&str>) -> RunEvent {
    let origin = Origin {
        workflow_id: "agent:plain-agent".parse().ok(),
        session_id: "s-1".parse().ok(),
        run_id: run_id.parse().ok(),
        agent_id: "plain-agent".parse().ok(),
        agent_name: Some("Plain Agent".into()),
        parent_run_id: parent.and_then(|parent| parent.parse().ok()),
        workflow_run_id: "w-1".parse().ok(),
        step_id: Some("st-1".into()),
        step_name: Some("Plain Agent".into()),
        ..Origin::default()
    };
    RunEvent { created_at: 1, kind, origin, event_index: Some(index) }
}

fn face() -> Face {
    let (id, name) = ("plain-agent".to_owned(), "Plain Agent".to_owned());
    Face { voice: Voice::Agent, id, name, model: Some("gpt-5.2".to_owned()), model_provider: Some("OpenAI".to_owned()) }
}

fn progress(content: &str) -> RunEvent {
    event(EventKind::StepProgress { attempt: 1, content: content.to_owned(), data: None }, 3)
}

/// A generator of numbers, the same at every start.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % limit
    }
}

/// Every place where some line reader ends a line.
fn lines(text: &str) -> Vec<&str> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    text.split(ends).collect()
}

#[test]
fn bad_d14_whatever_text_an_event_holds_it_is_one_event_and_comes_back_equal() {
    let pieces = [
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\0",
        "\u{2028}",
        "\u{2029}",
        "\u{85}",
        "\u{b}",
        "\u{c}",
        "\u{1e}",
        "data:",
        "id: 9\n",
        "event: WorkflowCompleted\n",
        ": ",
        "\\u2028",
        "\"",
        "\\",
        "é",
        "🦀",
        "\u{feff}",
        "\u{7f}",
        " ",
        "a",
        "\u{2028}x",
    ];
    let mut chance = Chance(7);
    for _ in 0..2_000 {
        let content: String = (0..chance.below(12)).map(|_| pieces[chance.below(pieces.len())]).collect();
        let sent = progress(&content);
        let frame = Frame::event(sent.clone());
        for (text, line_count) in [(frame.sse(), 5), (frame.socket(), 4)] {
            assert_eq!(lines(&text).len(), line_count, "{text:?}");
            let read = parse_sse(&text);
            assert_eq!(read.len(), 1, "{text:?}");
            assert_eq!(read[0].event, "StepProgress");
            assert_eq!(serde_json::from_str::<RunEvent>(&read[0].data).unwrap(), sent);
        }
        assert_eq!(serde_json::from_str::<RunEvent>(&frame.bare()).unwrap(), sent);
        assert_eq!(lines(&frame.bare()).len(), 1);
    }
}

#[test]
fn an_event_with_an_index_has_it_as_its_id_and_one_without_has_none() {
    let with = parse_sse(&Frame::event(progress("x")).sse());
    assert_eq!(with[0].id.as_deref(), Some("3"));
    let without = parse_sse(&Frame::foreground(progress("x")).sse());
    assert_eq!(without[0].id, None);
    assert!(!without[0].data.contains("event_index"), "{}", without[0].data);
    assert!(with[0].data.contains("\"event_index\":3"), "{}", with[0].data);
}

#[test]
fn every_golden_event_survives_every_form() {
    for line in EVENTS.lines() {
        let event: RunEvent = serde_json::from_str(line).unwrap();
        let frame = Frame::event(event.clone());
        let sse = parse_sse(&frame.sse());
        assert_eq!(sse[0].event, event.name());
        assert_eq!(sse[0].id, event.event_index.map(|index| index.to_string()));
        for data in [&sse[0].data, &parse_sse(&frame.socket())[0].data, &frame.bare()] {
            assert_eq!(serde_json::from_str::<Value>(data).unwrap(), frame.value());
        }
    }
}

#[test]
fn a_socket_gets_wide_json_in_an_event_and_narrow_json_alone() {
    let frame = Frame::notice(json!({ "event": "pong", "list": [1, 2], "text": "a,b:c" }));
    assert_eq!(frame.socket(), "event: pong\ndata: {\"event\": \"pong\", \"list\": [1, 2], \"text\": \"a,b:c\"}\n\n");
    assert_eq!(frame.bare(), "{\"event\":\"pong\",\"list\":[1,2],\"text\":\"a,b:c\"}");
}

#[test]
fn notices_have_the_recorded_keys() {
    let mut compared = 0;
    let notices = [
        frame::connected(true),
        frame::authenticated(None),
        frame::authenticated(Some("u-1")),
        frame::auth_error("x", None),
        frame::auth_error("x", Some("invalid_token")),
        frame::auth_required("JWT"),
        frame::pong(),
        frame::error("x"),
    ];
    for recording in ["websocket", "auth_jwt", "auth_security_key"] {
        for exchange in load(recording).exchanges {
            let Talk::Socket { keys, .. } = exchange.talk else { continue };
            for (name, sets) in keys {
                let ours: Vec<_> = notices.iter().filter(|notice| notice["event"] == *name).collect();
                for set in sets.iter().filter(|_| !ours.is_empty()) {
                    let has = |notice: &&Value| notice.as_object().unwrap().keys().eq(set.iter());
                    assert!(ours.iter().any(has), "{name}: {set:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn milestones_are_the_runs_ends_and_the_outputs_of_its_function_steps() {
    let names: Vec<_> = EVENTS
        .lines()
        .map(|line| serde_json::from_str::<RunEvent>(line).unwrap())
        .filter(|event| is_milestone(&event.kind))
        .map(|event| event.name())
        .collect();
    assert!(names.contains(&"StepOutput") && names.contains(&"WorkflowStarted"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("Run") || *name == "StepStarted"), "{names:?}");
}

fn answered() -> Vec<RunEvent> {
    let model = ModelInfo { model: "gpt-5.2".to_owned(), model_provider: "OpenAI".to_owned() };
    let delta = |content: &str| ContentDelta {
        content: Some(content.to_owned()),
        workflow_agent: Some(false),
        content_type: "str".to_owned(),
        model_provider_data: Some(json!({ "id": "x" })),
        ..ContentDelta::default()
    };
    let done = RunDone {
        content: Some(json!("an answer")),
        content_type: "str".to_owned(),
        model_provider_data: Some(json!({ "id": "x" })),
        member_responses: Vec::new(),
        session_state: Some(json!({})),
        metrics: Some(outlive_core::Metrics::default()),
        metadata: None,
        finish_reason: None,
    };
    let request = outlive_core::ModelRequestDone { time_to_first_token: Some(0.5), ..Default::default() };
    let own = |kind, index| agents(kind, index, "a-1", None);
    vec![
        event(EventKind::WorkflowStarted, 0),
        event(EventKind::StepStarted, 1),
        own(EventKind::RunStarted(model.clone()), 2),
        own(EventKind::ModelRequestStarted(model), 3),
        own(EventKind::RunContent(delta("an ")), 4),
        own(EventKind::RunContent(delta("answer")), 5),
        own(EventKind::ModelRequestCompleted(request), 6),
        own(EventKind::RunContentCompleted, 7),
        own(EventKind::RunCompleted(Box::new(done)), 8),
        event(EventKind::WorkflowCompleted(Box::default()), 9),
    ]
}

#[test]
fn an_agents_stream_looks_as_recorded_and_speaks_of_no_workflow() {
    for (place, is_foreground) in [(1, true), (6, false)] {
        let recording = load("agents_teams");
        let Talk::Http { response, .. } = &recording.exchanges[place].talk else { panic!("a stream") };
        let mut view = View::new(face());
        let show = |event| if is_foreground { view.show_foreground(event) } else { view.show(event) };
        let frames: Vec<_> = answered().into_iter().filter_map(show).collect();
        let told: Vec<_> = frames
            .iter()
            .map(|frame| Told { name: frame.name().to_owned(), body: frame.value() })
            // The recorded stream that was resumed begins behind its first event, with two notices.
            .filter(|told| is_foreground || told.name != "RunStarted")
            .collect();
        let recorded: Vec<String> = response.frames.clone().unwrap();
        let recorded: Vec<_> = recorded.into_iter().filter(|name| name != "catch_up" && name != "subscribed").collect();
        assert_eq!(stream_differences(&recorded, &response.keys, &told, &[]), Vec::<String>::new());
        assert!(told.iter().all(|told| told.body["run_id"] == "w-1"), "{told:?}");
    }
}

#[test]
fn an_agents_events_are_numbered_from_0_and_the_numbers_lead_back_to_the_log() {
    let mut view = View::new(face());
    let events = answered();
    let indices: Vec<_> =
        events.iter().filter_map(|event| view.show(event.clone())).filter_map(|f| f.index()).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
    for index in indices {
        assert_eq!(shown_index(log_index(index)), index);
    }
    assert_eq!(shown_index(0), 0);
}

#[test]
fn a_members_run_hangs_below_the_run_that_the_client_knows() {
    let started = || EventKind::RunStarted(ModelInfo::default());
    let mut view = View::new(Face { voice: Voice::Team, ..face() });
    let _ = view.show(agents(EventKind::TeamRunStarted(ModelInfo::default()), 2, "t-1", None));
    let member = view.show(agents(started(), 3, "m-1", Some("t-1"))).unwrap().value();
    assert_eq!((&member["run_id"], &member["parent_run_id"]), (&json!("m-1"), &json!("w-1")));
    let below = view.show(agents(started(), 4, "m-2", Some("m-1"))).unwrap().value();
    assert_eq!((&below["run_id"], &below["parent_run_id"]), (&json!("m-2"), &json!("m-1")));
}

fn failed(index: u64) -> RunEvent {
    let kind = EventKind::WorkflowError {
        error: "it failed".to_owned(),
        error_type: Some("timeout_error".to_owned()),
        refusal: None,
    };
    event(kind, index)
}

#[test]
fn a_run_that_failed_without_its_agent_saying_so_ends_with_an_error_of_the_agent() {
    let mut view = View::new(face());
    let shown = view.show(failed(2)).unwrap();
    assert_eq!(shown.name(), "RunError");
    let body = shown.value();
    assert_eq!((&body["content"], &body["error_type"]), (&json!("it failed"), &json!("timeout_error")));
    assert_eq!((&body["run_id"], &body["agent_id"]), (&json!("w-1"), &json!("plain-agent")));
}

#[test]
fn an_error_the_agent_told_itself_is_not_told_twice_unless_it_was_tried_again() {
    let error = RunFailed { content: "it failed".to_owned(), error_type: "x".to_owned(), refusal: None };
    let mut view = View::new(face());
    assert!(view.show(agents(EventKind::RunError(error), 3, "a-1", None)).is_some());
    assert_eq!(view.clone().show(failed(4)), None);
    let _ = view.show(agents(EventKind::RunStarted(ModelInfo::default()), 4, "a-2", None));
    assert_eq!(view.show(failed(5)).unwrap().name(), "RunError");
}

#[test]
fn a_cancelled_run_of_a_team_says_so_in_the_teams_words() {
    let mut view = View::new(Face { voice: Voice::Team, id: "t".to_owned(), ..face() });
    let kind = EventKind::WorkflowCancelled { reason: "asked".to_owned(), content: "over".to_owned() };
    let shown = view.show(event(kind, 5)).unwrap();
    assert_eq!(shown.name(), "TeamRunCancelled");
    assert_eq!(shown.index(), Some(3));
    assert_eq!(shown.value()["team_id"], "t");
    assert_eq!(view.show(event(EventKind::WorkflowCompleted(Box::default()), 6)), None);
}
