//! The recordings can be read, and the comparer finds what differs.

use outlive_server::testing::{
    Allowed, Line, Shape, Talk, Told, differences, fill, load, names, parse_sse, stream_differences,
    told_value_differences, value_differences,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

fn shape(shape: Value) -> Shape {
    serde_json::from_value(shape).expect("a shape")
}

fn found(recorded: Value, actual: Value, allowed: &[Allowed<'_>]) -> Vec<String> {
    differences(&shape(recorded), &actual, allowed)
}

#[test]
fn every_recording_can_be_read_and_has_answers_of_every_kind() {
    let mut http = 0;
    let mut streams = 0;
    let mut sockets = 0;
    for name in names() {
        let recording = load(name);
        assert_eq!(recording.name, name);
        assert!(!recording.exchanges.is_empty(), "{name}");
        for exchange in &recording.exchanges {
            match &exchange.talk {
                Talk::Http { response, .. } if response.frames.is_some() => streams += 1,
                Talk::Http { response, .. } => {
                    http += 1;
                    assert!((200..600).contains(&response.status), "{name}");
                }
                Talk::Socket { script, .. } => {
                    sockets += 1;
                    let is_heard = script.iter().any(|line| matches!(line, Line::Receive { .. }));
                    assert!(is_heard || script.iter().any(|line| matches!(line, Line::Closed { .. })), "{name}");
                }
            }
        }
    }
    assert!(http > 200 && streams > 30 && sockets > 15, "{http} answers, {streams} streams, {sockets} sockets");
}

#[test]
fn every_placeholder_of_a_request_is_given_by_an_answer() {
    for name in names() {
        let recording = load(name);
        let mut given: BTreeSet<String> = ["jwt", "key"].map(str::to_owned).into();
        for exchange in &recording.exchanges {
            given.extend(exchange.gives.keys().cloned());
        }
        for exchange in &recording.exchanges {
            if let Talk::Http { request, .. } = &exchange.talk {
                let open = request.path.split(['{', '}']).skip(1).step_by(2);
                for placeholder in open.filter(|placeholder| !placeholder.starts_with("before_")) {
                    assert!(given.contains(placeholder), "{name}: {placeholder} in {}", request.path);
                }
            }
        }
    }
}

#[test]
fn no_recording_holds_an_id_or_a_token() {
    for name in names() {
        let recording = format!("{:?}", load(name));
        let is_uuid = |word: &str| {
            let lengths: Vec<_> = word.split('-').map(str::len).collect();
            lengths == [8, 4, 4, 4, 12] && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
        };
        let words = recording.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        for word in words {
            assert!(!is_uuid(word) && !word.starts_with("eyJ"), "{name}: {word}");
        }
    }
}

#[test]
fn equal_shapes_have_no_differences() {
    let recorded = json!({ "a": "string", "b": [{ "c": "int" }], "d": "null", "e": "float", "f": [] });
    let actual = json!({ "a": "x", "b": [{ "c": 1 }, { "c": 2 }], "d": null, "e": 1, "f": [1] });
    assert_eq!(found(recorded, actual, &[]), Vec::<String>::new());
}

#[test]
fn a_missing_key_is_found() {
    assert_eq!(found(json!({ "a": { "b": "int" } }), json!({ "a": {} }), &[]), ["a.b: is missing"]);
}

#[test]
fn a_new_key_is_found_unless_it_is_ours() {
    let (recorded, actual) = (json!({ "a": "int" }), json!({ "a": 1, "progress": "1/2" }));
    assert_eq!(found(recorded.clone(), actual.clone(), &[]), ["progress: is new"]);
    assert_eq!(found(recorded.clone(), actual.clone(), &[Allowed::Extra("progress")]), Vec::<String>::new());
    assert_eq!(found(recorded.clone(), actual.clone(), &[Allowed::Missing("progress")]), ["progress: is new"]);
    assert_eq!(found(recorded, actual, &[Allowed::Extra("gress")]), ["progress: is new"]);
}

#[test]
fn another_type_is_found_also_where_null_was() {
    let recorded = json!({ "a": "int", "b": "null", "c": "string", "d": ["int"], "e": { "f": "bool" } });
    let actual = json!({ "a": 1.5, "b": "x", "c": null, "d": {}, "e": [] });
    let expected = [
        "a: was int, is float",
        "b: was null, is string",
        "c: was string, is null",
        "d: was array, is object",
        "e: was object, is array",
    ];
    assert_eq!(found(recorded, actual, &[]), expected);
}

#[test]
fn elements_are_compared_with_the_shape_that_fits_best() {
    let recorded = json!([{ "id": "string", "agent": "string" }, { "id": "string", "team": "string" }]);
    assert_eq!(found(recorded.clone(), json!([{ "id": "1", "team": "t" }]), &[]), Vec::<String>::new());
    assert_eq!(found(recorded.clone(), json!([{ "id": 1, "team": "t" }]), &[]), ["[].id: was string, is int"]);
    assert_eq!(found(recorded, json!([]), &[]), ["[]: is empty"]);
}

#[test]
fn elements_of_different_kinds_are_told_apart_by_their_own_keys() {
    let recorded = json!([{ "agent": { "id": "string" } }, { "team": { "a": "int", "b": "int", "c": "int" } }]);
    let actual = json!([{ "team": { "id": 1 } }]);
    let expected = ["[].team.a: is missing", "[].team.b: is missing", "[].team.c: is missing", "[].team.id: is new"];
    assert_eq!(found(recorded, actual, &[]), expected);
}

#[test]
fn what_is_under_a_key_can_be_left_alone() {
    let recorded = json!({ "state": { "a": "int" }, "steps": [{ "state": "null" }] });
    let actual = json!({ "state": "x", "steps": [{ "state": {} }] });
    assert_eq!(found(recorded.clone(), actual.clone(), &[]).len(), 2);
    assert_eq!(found(recorded.clone(), actual.clone(), &[Allowed::Under("state")]), Vec::<String>::new());
    assert_eq!(found(recorded, actual, &[Allowed::Under("steps.state")]), ["state: was object, is string"]);
}

#[test]
fn values_are_compared_where_there_are_any() {
    let recorded = json!({ "status": "PAUSED", "steps": [{ "success": true }, {}], "asked": [{ "confirmed": true }] });
    let same = json!({ "status": "PAUSED", "steps": [{ "success": true }, { "success": false }], "asked": [
        { "confirmed": true, "at": 7 }
    ], "at": 7 });
    assert_eq!(value_differences(&recorded, &same), Vec::<String>::new());
    let other = json!({ "status": "RUNNING", "steps": [{ "success": false }] });
    let expected = [
        "asked: was there, is null",
        "status: was \"PAUSED\", is \"RUNNING\"",
        "steps: were 2, are 1",
        "steps[].success: was true, is false",
    ];
    assert_eq!(value_differences(&recorded, &other), expected);
}

#[test]
fn recorded_values_of_events_are_looked_for_among_those_of_their_name() {
    let told = |name: &str, step: &str| Told { name: name.to_owned(), body: json!({ "step_name": step }) };
    let recorded: BTreeMap<_, _> =
        [("StepStarted".to_owned(), vec![json!({ "step_name": "a" }), json!({ "step_name": "b" })])].into();
    let both = [told("StepStarted", "b"), told("StepStarted", "a")];
    assert_eq!(told_value_differences(&recorded, &both), Vec::<String>::new());
    let one = [told("StepStarted", "a"), told("StepCompleted", "b")];
    assert_eq!(told_value_differences(&recorded, &one), ["StepStarted.step_name: was \"b\", is \"a\""]);
}

fn told(names: &[&str]) -> Vec<Told> {
    names.iter().map(|name| Told { name: (*name).to_owned(), body: json!({ "event": name }) }).collect()
}

fn stream(recorded: &[&str], actual: &[&str]) -> Vec<String> {
    let frames: Vec<_> = recorded.iter().map(|name| (*name).to_owned()).collect();
    let keys = frames.iter().map(|name| (name.clone(), vec![vec!["event".to_owned()]])).collect();
    stream_differences(&frames, &keys, &told(actual), &[])
}

#[test]
fn streams_may_differ_in_interleaving_and_in_pieces_alone() {
    let recorded = ["StepStarted", "RunStarted", "RunStarted", "RunContent", "RunContent", "StepCompleted"];
    let actual = ["StepStarted", "RunStarted", "RunContent", "RunStarted", "StepCompleted"];
    assert_eq!(stream(&recorded, &actual), Vec::<String>::new());
    assert_eq!(stream(&recorded, &["RunStarted", "StepStarted", "RunContent", "StepCompleted"]).len(), 1);
    assert_eq!(stream(&recorded, &["StepCompleted", "RunStarted", "RunStarted", "RunContent", "StepStarted"]).len(), 1);
    let silent = stream(&recorded, &["StepStarted", "RunStarted", "RunStarted", "StepCompleted"]);
    assert_eq!(silent, ["RunContent: was told 1 times, is told 0 times"]);
}

#[test]
fn a_streams_events_are_compared_key_by_key() {
    let frames = ["StepStarted".to_owned()];
    let keys: BTreeMap<_, _> =
        [("StepStarted".to_owned(), vec![vec!["event".to_owned(), "step_id".to_owned()]])].into();
    let actual = [Told { name: "StepStarted".to_owned(), body: json!({ "event": "StepStarted", "id": 1 }) }];
    let found = stream_differences(&frames, &keys, &actual, &[]);
    assert_eq!(found, ["StepStarted.step_id: is missing", "StepStarted.id: is new"]);
}

#[test]
fn placeholders_are_filled_and_unknown_ones_stay() {
    let known = [("run_0".to_owned(), "abc".to_owned())].into();
    assert_eq!(fill("/runs/{run_0}/resume?x={run_1}", &known), "/runs/abc/resume?x={run_1}");
}

#[test]
fn the_reader_of_events_follows_the_rules() {
    let text = ": comment\r\nevent: a\r\ndata: 1\ndata:2\nid: 7\n\ndata: open";
    let events = parse_sse(text);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!((&*events[0].event, &*events[0].data, events[0].id.as_deref()), ("a", "1\n2", Some("7")));
}
