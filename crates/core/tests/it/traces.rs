//! Logs in, spans out: a recorded run of a team, an agent and a function, in which a model call, a tool call and a step
//! fail once each. Whatever people or models said in it contains the word `canary`.

use outlive_core::log::{Entry, Page, Record};
use outlive_core::trace::{ATTEMPT_ABORTED, AttributeValue, Span, SpanId, SpanKind, TraceFold, TraceId};
use outlive_core::{
    DefinitionId, EventKind, ExecutorKind, Failure, FailureKind, Key, Origin, RunEvent, RunId, RunInfo, SessionId,
    Timestamp, WorkerId,
};
use serde_json::{Map, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

const RUN: &str = "0193e5a0-7c1d-7000-8000-0000000000aa";

fn run(id: &str) -> Arc<RunInfo> {
    Arc::new(RunInfo {
        run_id: RunId::parse(id).unwrap(),
        workflow_id: DefinitionId::parse("content-creation-workflow").unwrap(),
        workflow_name: Arc::from("Content Creation Workflow"),
        session_id: SessionId::parse("session-1").unwrap(),
        user_id: None,
    })
}

fn recorded() -> Vec<Entry> {
    let body = include_str!("../golden/content_creation.log");
    let count = u32::try_from(body.lines().count()).unwrap();
    Page { first_index: 0, count, body: Arc::from(body) }.decode(&run(RUN)).unwrap()
}

/// The same log with this much time between one entry and the next; half of it is waited before another attempt.
fn stretched(log: Vec<Entry>, pace: Duration) -> Vec<Entry> {
    let start = Timestamp::from_seconds(1_795_404_467);
    let moved = |(index, entry): (u32, Entry)| {
        let mut entry = entry.at(start + pace * index);
        let due = entry.time() + pace / 2;
        if let Some(Record::Retry { due_at, .. }) = &mut entry.record {
            *due_at = due;
        }
        if let EventKind::CustomEvent { fields } = &mut entry.event.kind {
            fields.insert("due_at".into(), json!(due.as_seconds()));
        }
        entry
    };
    (0..).zip(log).map(moved).collect()
}

fn spans(log: &[Entry]) -> Vec<Span> {
    TraceFold::new(run(RUN)).committed(log)
}

fn text<'s>(span: &'s Span, name: &str) -> Option<&'s str> {
    span.attributes.iter().find(|(known, _)| *known == name).and_then(|(_, value)| match value {
        AttributeValue::Text(text) => Some(&**text),
        AttributeValue::Number(_) => None,
    })
}

fn number(span: &Span, name: &str) -> Option<u64> {
    span.attributes.iter().find(|(known, _)| *known == name).and_then(|(_, value)| match value {
        AttributeValue::Number(number) => Some(*number),
        AttributeValue::Text(_) => None,
    })
}

/// Spans as a tree with their ids, in the order of their beginnings, with milliseconds from the first.
fn drawn(spans: &[Span]) -> String {
    fn draw(spans: &[Span], parent: Option<SpanId>, depth: usize, begin: Timestamp, out: &mut String) {
        let mut inside: Vec<_> = spans.iter().filter(|span| span.parent == parent).collect();
        inside.sort_by_key(|span| (span.start, span.span_id));
        for span in inside {
            let millis = |at: Timestamp| at.since(begin).as_millis();
            let indent = "  ".repeat(depth);
            write!(out, "{indent}{} {} {}..{}", span.span_id, span.name, millis(span.start), millis(span.end)).unwrap();
            for (name, value) in &span.attributes {
                let value = match value {
                    AttributeValue::Text(text) => text.to_string(),
                    AttributeValue::Number(number) => number.to_string(),
                };
                if !matches!(*name, "outlive.run_id" | "gen_ai.conversation.id") {
                    write!(out, "\n{indent}    {name} = {value}").unwrap();
                }
            }
            out.push('\n');
            draw(spans, Some(span.span_id), depth + 1, begin, out);
        }
    }
    let begin = spans.iter().map(|span| span.start).min().unwrap();
    let mut out = String::new();
    draw(spans, None, 0, begin, &mut out);
    out
}

#[test]
fn a_recorded_run_has_the_spans_it_always_had() {
    let drawn = drawn(&spans(&stretched(recorded(), Duration::from_millis(10))));
    let golden = include_str!("../golden/content_creation.trace");
    assert_eq!(drawn, golden, "what it is now:\n{drawn}");
}

#[test]
fn a_trace_shows_nothing_that_people_or_models_said() {
    let log = recorded();
    let said = Page::encode(&run(RUN), 0, &log).body.matches("canary").count();
    assert!(said > 20, "the log has much to hide: {said}");
    assert!(!format!("{:?}", spans(&log)).contains("canary"));
}

#[test]
fn every_span_says_which_run_and_conversation_it_belongs_to() {
    for span in spans(&recorded()) {
        assert_eq!(text(&span, "outlive.run_id"), Some(RUN), "{span:?}");
        assert_eq!(text(&span, "gen_ai.conversation.id"), Some("session-1"), "{span:?}");
        assert_eq!(span.trace_id.to_string(), RUN.replace('-', ""));
        let names: BTreeSet<_> = span.attributes.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), span.attributes.len(), "each name once: {span:?}");
    }
}

#[test]
fn model_calls_carry_what_they_cost() {
    let spans = spans(&recorded());
    let calls: Vec<_> = spans.iter().filter(|span| span.kind == SpanKind::Client).collect();
    let answered: Vec<_> = calls.iter().filter(|span| span.error.is_none()).collect();
    assert_eq!((calls.len(), answered.len()), (8, 7));
    for span in answered {
        assert!(number(span, "gen_ai.usage.input_tokens").is_some_and(|tokens| tokens >= 10), "{span:?}");
        assert_eq!(number(span, "gen_ai.usage.output_tokens"), Some(5));
    }
}

/// The entry with which the next process goes on.
fn resumed(attempt: u32, at: Timestamp) -> Entry {
    let claim = Record::Claimed {
        worker: WorkerId::new(at, u128::from(attempt)),
        epoch: attempt.into(),
        attempt,
        at,
        state: None,
    };
    let mut fields = Map::new();
    fields.insert("name".into(), json!("RunResumed"));
    let kind = EventKind::CustomEvent { fields };
    let origin = Origin::workflow(&run(RUN));
    Entry::recorded(RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None }, claim).at(at)
}

/// One trace: one root, every parent there and around its children, and no span in two shapes.
fn assert_one_tree(spans: &[Span], what: &str) -> BTreeMap<SpanId, Span> {
    let mut tree: BTreeMap<SpanId, Span> = BTreeMap::new();
    for span in spans {
        let known = tree.insert(span.span_id, span.clone());
        assert!(known.is_none_or(|known| known == *span), "{what}: {span:?} has two shapes");
    }
    assert_eq!(tree.values().filter(|span| span.parent.is_none()).count(), 1, "{what}: one root");
    for span in tree.values() {
        let Some(parent) = span.parent else { continue };
        let parent = tree.get(&parent).unwrap_or_else(|| panic!("{what}: {span:?} has no parent"));
        assert!(parent.start <= span.start && span.end <= parent.end, "{what}: {span:?} is not inside {parent:?}");
    }
    tree
}

/// What stays the same of a span when calls have to be made again: its name, and those of everything around it.
fn place(tree: &BTreeMap<SpanId, Span>, span: &Span) -> String {
    let around = span.parent.map(|parent| place(tree, &tree[&parent])).unwrap_or_default();
    let call = text(span, "gen_ai.tool.call.id").unwrap_or_default();
    format!("{around} > {} {call} {:?}", span.name, span.error)
}

fn places(tree: &BTreeMap<SpanId, Span>) -> Vec<String> {
    let is_whole = |span: &&Span| span.error.as_deref() != Some(ATTEMPT_ABORTED);
    let mut places: Vec<_> = tree.values().filter(is_whole).map(|span| place(tree, span)).collect();
    places.sort();
    places
}

#[test]
fn a_crash_after_any_entry_leaves_one_trace_with_the_same_spans_and_the_aborted_ones() {
    let log = stretched(recorded(), Duration::from_secs(7));
    let whole = assert_one_tree(&spans(&log), "uncut");
    let mut aborted = 0;
    for cut in 1..log.len() {
        let (before, after) = log.split_at(cut);
        let mut first = TraceFold::new(run(RUN));
        let died_at = before.last().unwrap().time();
        // The first process has sent what ended long before its death, and nothing of the rest.
        let sent = first.committed(before).into_iter().filter(|span| died_at.since(span.end) > Duration::from_secs(60));
        let mut second = TraceFold::new(run(RUN));
        // Page by page, as a log is read.
        before.chunks(5).for_each(|page| second.replayed(page));
        let resumed = resumed(2, died_at + Duration::from_secs(3));
        let mut all: Vec<_> = sent.collect();
        all.extend(second.committed(std::slice::from_ref(&resumed)));
        all.extend(after.iter().flat_map(|entry| second.committed(std::slice::from_ref(entry))));
        let tree = assert_one_tree(&all, &format!("cut after {cut}"));
        assert_eq!(places(&tree), places(&whole), "cut after {cut}");
        for span in tree.values().filter(|span| span.error.as_deref() == Some(ATTEMPT_ABORTED)) {
            aborted += 1;
            assert_eq!(span.end, resumed.time(), "it ends when the run goes on");
            assert!(whole.contains_key(&span.span_id), "it bears the id that it would have had");
        }
    }
    assert!(aborted > 10, "calls were in flight at some of the crashes: {aborted}");
}

#[test]
fn crash_after_crash_every_attempt_at_a_call_is_a_span_of_its_own() {
    let log = stretched(recorded(), Duration::from_secs(7));
    let (before, after) = log.split_at(4);
    assert_eq!(before.last().unwrap().event.name(), "TeamModelRequestStarted");
    let later = |seconds| before.last().unwrap().time() + Duration::from_secs(seconds);
    let mut whole = before.to_vec();
    whole.extend([resumed(2, later(1)), resumed(3, later(2))]);
    whole.extend_from_slice(after);
    let tree = assert_one_tree(&spans(&whole), "two crashes");
    let call = |attempt: u64| {
        let is_meant =
            |span: &&Span| span.name == "chat scripted-1" && number(span, "outlive.attempt") == Some(attempt);
        tree.values().filter(is_meant).min_by_key(|span| span.start).unwrap()
    };
    assert_eq!(call(1).error.as_deref(), Some(ATTEMPT_ABORTED));
    assert_eq!(call(2).error.as_deref(), Some(ATTEMPT_ABORTED));
    assert_eq!((call(2).start, call(2).end), (later(1), later(2)));
    assert_eq!((call(3).start, &call(3).error), (later(2), &None));
    let root = tree.values().find(|span| span.parent.is_none()).unwrap();
    assert_eq!(number(root, "outlive.attempt"), Some(3), "claims of the run");
}

/// The recorded run until its third entry from the end, and another end.
fn ended_by(kind: EventKind, cut: usize) -> Vec<Span> {
    let log = stretched(recorded(), Duration::from_secs(7));
    let at = log[cut - 1].time() + Duration::from_secs(1);
    let entry = |kind| {
        let origin = Origin::workflow(&run(RUN));
        Entry::event(RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None }).at(at)
    };
    let mut log = log[..cut].to_vec();
    let is_cancel = matches!(kind, EventKind::WorkflowCancelled { .. });
    log.push(entry(kind));
    if is_cancel {
        log.push(entry(EventKind::WorkflowCompleted(Box::default())));
    }
    spans(&log)
}

#[test]
fn a_run_that_fails_takes_everything_that_is_open_with_it() {
    let failure = Failure::new(FailureKind::Timeout, "canary");
    let error_type = Some(failure.kind.code().to_owned());
    let spans = ended_by(EventKind::WorkflowError { error: failure.message, error_type, refusal: None }, 4);
    assert_one_tree(&spans, "failed");
    let names: Vec<_> = spans.iter().map(|span| (span.name.as_str(), span.error.as_deref())).collect();
    let timeout = Some("timeout_error");
    let expected = [
        ("chat scripted-1", timeout),
        ("invoke_agent Research Team", timeout),
        ("step Research Step", timeout),
        ("invoke_workflow Content Creation Workflow", timeout),
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_cancel_is_the_error_of_what_it_cut_off_and_none_of_the_run() {
    let spans = ended_by(EventKind::WorkflowCancelled { reason: "canary".into(), content: "canary".into() }, 4);
    let tree = assert_one_tree(&spans, "cancelled");
    for span in tree.values() {
        let expected = span.parent.is_some().then_some("cancelled");
        assert_eq!(span.error.as_deref(), expected, "{span:?}");
    }
    let root = tree.values().find(|span| span.parent.is_none()).unwrap();
    assert_eq!(text(root, "outlive.status"), Some("CANCELLED"));
}

#[test]
fn an_attempt_that_was_cancelled_before_its_time_has_no_span() {
    let log = stretched(recorded(), Duration::from_millis(1));
    let retry = log.iter().position(|entry| matches!(entry.record, Some(Record::Retry { .. }))).unwrap();
    let mut log = log[..=retry].to_vec();
    let Some(Record::Retry { due_at, .. }) = &mut log[retry].record else { panic!("not a retry") };
    *due_at = Timestamp::from_seconds(4_000_000_000);
    let entry = |kind| {
        let origin = Origin::workflow(&run(RUN));
        Entry::event(RunEvent { created_at: 1_795_404_500, kind, origin, event_index: None })
    };
    log.push(entry(EventKind::WorkflowCancelled { reason: String::new(), content: String::new() }));
    log.push(entry(EventKind::WorkflowCompleted(Box::default())));
    let spans = spans(&log);
    assert_one_tree(&spans, "cancelled in a back-off");
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "step Publish").collect();
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert_eq!(attempts[0].error.as_deref(), Some("function_error"));
}

#[test]
fn a_call_whose_outcome_is_unknown_ends_when_its_step_waits_and_is_not_made_again() {
    let log = stretched(recorded(), Duration::from_secs(7));
    let is_call = |entry: &Entry| match &entry.event.kind {
        EventKind::ToolCallStarted(event) | EventKind::TeamToolCallStarted(event) => event.tool.child_run_id.is_none(),
        _ => false,
    };
    let call = log.iter().position(is_call).unwrap();
    let key = log[call].record.as_ref().unwrap().key().unwrap().clone();
    let step = Key::parse(key.as_str().split('/').next().unwrap());
    let later = |seconds| log[call].time() + Duration::from_secs(seconds);
    let entry = |kind, record, at: Timestamp| {
        let origin = Origin::workflow(&run(RUN));
        Entry { event: RunEvent { created_at: at.as_seconds(), kind, origin, event_index: None }, at: Some(at), record }
    };
    let asks = EventKind::StepExecutorPaused {
        executor_id: None,
        executor_run_id: None,
        executor_name: Arc::from("Research Team"),
        executor_type: ExecutorKind::Team,
        executor_requirements: Vec::new(),
    };
    let mut whole = log[..=call].to_vec();
    whole.push(resumed(2, later(1)));
    whole.push(entry(asks, Some(Record::Waiting { key: step, questions: Vec::new(), at: later(2) }), later(2)));
    // What stands beside it is still at work when another process ends, and fails then.
    whole.push(resumed(3, later(3)));
    whole.push(entry(
        EventKind::WorkflowError { error: "canary".into(), error_type: None, refusal: None },
        None,
        later(4),
    ));
    let tree = assert_one_tree(&spans(&whole), "a call with an unknown outcome");
    let is_tool = |span: &&Span| span.name.starts_with("execute_tool") && span.start >= log[call].time();
    let calls: Vec<_> = tree.values().filter(is_tool).collect();
    assert_eq!(calls.len(), 1, "it was made once: {calls:?}");
    assert_eq!((calls[0].end, calls[0].error.as_deref()), (later(1), Some(ATTEMPT_ABORTED)));
}

#[test]
fn a_name_that_a_model_made_up_is_passed_on_only_if_it_is_a_name() {
    let mut log = recorded();
    for entry in &mut log {
        if let EventKind::ToolCallStarted(event) | EventKind::TeamToolCallStarted(event) = &mut entry.event.kind {
            event.tool.tool_name = "tell me: a canary".to_owned();
            event.tool.tool_call_id = "canary".repeat(100);
        }
    }
    let spans = spans(&log);
    assert!(!format!("{spans:?}").contains("canary"));
    assert!(spans.iter().any(|span| span.name == "execute_tool unnamed"));
}

#[test]
fn the_trace_of_a_run_whose_id_is_no_uuid_is_derived_from_it() {
    let trace = |id: &str| TraceId::of(&RunId::parse(id).unwrap());
    assert_eq!(trace("order-17"), trace("order-17"));
    assert_ne!(trace("order-17"), trace("order-18"));
    // Other spellings of a UUID are other runs.
    assert_ne!(trace(&RUN.replace('-', "")), trace(RUN));
    assert_ne!(trace(&RUN.to_uppercase()), trace(RUN));
    assert_ne!(trace("00000000-0000-0000-0000-000000000000").0, [0; 16], "a trace's id is never zero");
}
