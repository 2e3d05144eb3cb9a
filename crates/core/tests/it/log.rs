//! Pages of the log: what is written comes back, and what is damaged is found.

use outlive_core::log::RunEnded;
use outlive_core::log::{Damaged, Reader, Unreadable, Writer};
use outlive_core::{
    ContentDelta, DefinitionId, Entry, EventKind, Key, Message, Metrics, ModelInfo, ModelRequestDone, ModelResponse,
    Origin, Page, Record, Redactor, Role, RunDone, RunEvent, RunId, RunInfo, RunOutput, SessionId, StepOutput,
    Timestamp, ToolCall, ToolEvent, ToolExecution, ToolResult,
};
use serde_json::Value;
use std::sync::Arc;

fn info() -> RunInfo {
    RunInfo {
        run_id: RunId::parse("run").unwrap(),
        workflow_id: DefinitionId::parse("workflow").unwrap(),
        workflow_name: Arc::from("Workflow"),
        session_id: SessionId::parse("session").unwrap(),
        user_id: None,
    }
}

fn damage(read: Result<Vec<Entry>, Unreadable>) -> Damaged {
    match read {
        Err(Unreadable::Damaged(damaged)) => damaged,
        other => panic!("not damaged: {other:?}"),
    }
}

fn entries(count: usize) -> Vec<Entry> {
    let event = RunEvent { created_at: 7, kind: EventKind::StepStarted, origin: Origin::default(), event_index: None };
    let record = |n: usize| Record::Intent { key: Key::parse(n.to_string()), name: None };
    (0..count).map(|n| Entry::recorded(event.clone(), record(n))).collect()
}

#[test]
fn a_page_gives_back_its_entries_with_their_indexes() {
    let run = info();
    let page = Page::encode(&info(), 5, &entries(3));
    assert_eq!((page.first_index, page.count, page.end()), (5, 3, 8));
    let read = page.decode(&run).unwrap();
    assert_eq!(read.iter().map(|e| e.event.event_index).collect::<Vec<_>>(), [Some(5), Some(6), Some(7)]);
    assert_eq!(read[2].record, entries(3)[2].record);
}

#[test]
fn every_flipped_bit_is_found_and_its_entry_named() {
    let run = info();
    let page = Page::encode(&info(), 0, &entries(2));
    let second = page.body.find('\n').unwrap() + 1;
    for place in 0..page.body.len() {
        let mut bytes = page.body.as_bytes().to_vec();
        bytes[place] ^= 1;
        let Ok(body) = String::from_utf8(bytes) else { continue };
        let damaged = Page { body: body.into(), ..page.clone() }.decode(&run);
        let Err(Unreadable::Damaged(damaged)) = damaged else { panic!("a flipped bit at {place} was not found") };
        if place + 1 != second {
            assert_eq!(damaged.event_index, u64::from(place >= second), "bit at {place}: {damaged}");
        }
    }
}

#[test]
fn a_page_at_the_wrong_place_is_found() {
    let run = info();
    let moved = Page { first_index: 9, ..Page::encode(&info(), 0, &entries(1)) };
    assert!(moved.decode(&run).is_err());
}

#[test]
fn a_page_that_lost_its_tail_is_found() {
    let run = info();
    let page = Page::encode(&info(), 0, &entries(2));
    let body = page.body[..=page.body.find('\n').unwrap()].into();
    assert_eq!(damage(Page { body, ..page }.decode(&run)).event_index, 1);
}

#[test]
fn a_page_gives_back_values_of_every_depth_and_names_one_that_is_none() {
    let run = info();
    let nested = |depth| (0..depth).fold(Value::from("core"), |inner, _| Value::Array(vec![inner]));
    for depth in [1, 100, 126, 127, 128, 200, 511, 512] {
        let kind = EventKind::StepProgress { attempt: 1, content: "deep".into(), data: Some(nested(depth)) };
        let event = RunEvent { created_at: 7, kind, origin: Origin::default(), event_index: None };
        let state = Some(Value::from_iter([("deep", nested(depth))]));
        let entry =
            Entry::recorded(event, Record::Step { key: Key::parse("k"), output: Default::default(), run: None, state });
        let mut read = Page::encode(&info(), 3, std::slice::from_ref(&entry)).decode(&run).unwrap();
        assert_eq!(read[0].event.event_index.take(), Some(3));
        assert_eq!(read, [entry], "{depth}");
    }
}

#[test]
fn what_is_no_entry_is_named_and_not_repeated() {
    let run = info();
    let json = r#"{"event":"hunter2"}"#;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&0_u64.to_le_bytes());
    sum.update(json.as_bytes());
    let body = format!("{:08x} {json}\n", sum.finalize()).into();
    let damaged = damage(Page { first_index: 0, count: 1, body }.decode(&run)).to_string();
    assert!(damaged.starts_with("entry 0 of run run is damaged: it is JSON of an unexpected shape"), "{damaged}");
    assert!(!damaged.contains("hunter2"), "{damaged}");
}

/// What a run of three steps and a team says: the recorded log, in the format before this one.
fn recorded() -> (RunInfo, Vec<Entry>) {
    let body = include_str!("../golden/content_creation.log");
    let count = u32::try_from(body.lines().count()).unwrap();
    let info = RunInfo {
        run_id: RunId::parse("0193e5a0-7c1d-7000-8000-0000000000aa").unwrap(),
        workflow_id: DefinitionId::parse("content-creation-workflow").unwrap(),
        workflow_name: Arc::from("Content Creation Workflow"),
        session_id: SessionId::parse("session-1").unwrap(),
        user_id: None,
    };
    let entries = Page { first_index: 0, count, body: Arc::from(body) }.decode(&info).unwrap();
    (info, entries)
}

/// Writes entries in pages of these lengths, again and again.
fn paged(info: &RunInfo, entries: &[Entry], lengths: &[usize]) -> Vec<Page> {
    let mut writer = Writer::new(Arc::new(info.clone()));
    let (mut pages, mut from) = (Vec::new(), 0);
    for length in lengths.iter().cycle() {
        let to = entries.len().min(from + length);
        if from == to {
            break;
        }
        pages.push(writer.page(from as u64, &entries[from..to], &Redactor::default()).0);
        from = to;
    }
    pages
}

/// Reads from a page on, fetching what is asked for as a store would give it.
fn read_from(info: &RunInfo, pages: &[Page], start: usize) -> Vec<Entry> {
    let mut reader = Reader::new(info);
    let mut read = Vec::new();
    for page in &pages[start..] {
        read.extend(loop {
            match reader.read(page) {
                Ok(entries) => break entries,
                Err(Unreadable::Missing(index)) => {
                    let holder = pages.iter().find(|page| page.end() > index).unwrap();
                    reader.learn(holder).unwrap();
                }
                Err(Unreadable::Damaged(damaged)) => panic!("{damaged}"),
            }
        });
    }
    read
}

#[test]
fn what_was_written_is_read_from_every_start() {
    let (info, entries) = recorded();
    for lengths in [&[1][..], &[2, 3], &[7], &[1000]] {
        let pages = paged(&info, &entries, lengths);
        for start in 0..pages.len() {
            let first = usize::try_from(pages[start].first_index).unwrap();
            let read = read_from(&info, &pages, start);
            assert_eq!(read, entries[first..], "pages of {lengths:?} from {start}");
            let text = |entry: &Entry| serde_json::to_string(entry).unwrap();
            assert!(read.iter().map(text).eq(entries[first..].iter().map(text)), "byte for byte, from {start}");
        }
    }
}

#[test]
fn a_value_stands_once() {
    let (info, entries) = recorded();
    let old = include_str!("../golden/content_creation.log").len();
    let new: usize = paged(&info, &entries, &[2]).iter().map(|page| page.body.len()).sum();
    assert!(new * 5 < old * 2, "{new} bytes of {old}");
}

/// The pages up to `cut`, and one more of `entries` by a writer that was told of them.
fn gone_on(info: &RunInfo, pages: &[Page], cut: usize, entries: &[Entry]) -> Vec<Page> {
    let mut writer = Writer::new(Arc::new(info.clone()));
    let mut reader = Reader::new(info);
    for page in &pages[..cut] {
        let entries = loop {
            match reader.read(page) {
                Ok(entries) => break entries,
                Err(Unreadable::Missing(index)) => {
                    reader.learn(pages.iter().find(|page| page.end() > index).unwrap()).unwrap();
                }
                Err(Unreadable::Damaged(damaged)) => panic!("{damaged}"),
            }
        };
        for (index, entry) in (page.first_index..).zip(&entries) {
            writer.note(index, entry, reader.text(index).unwrap());
        }
    }
    let next = writer.page(pages[cut].first_index, entries, &Redactor::default()).0;
    pages[..cut].iter().cloned().chain([next]).collect()
}

#[test]
fn a_writer_that_goes_on_after_another_writes_what_that_one_would() {
    let (info, entries) = recorded();
    let whole = paged(&info, &entries, &[3]);
    for cut in 0..whole.len() {
        let from = cut * 3;
        let to = entries.len().min(from + 3);
        let pages = gone_on(&info, &whole, cut, &entries[from..to]);
        assert_eq!(read_from(&info, &pages, cut), entries[from..to], "after {cut} pages");
        assert_eq!(pages[cut].body, whole[cut].body, "after {cut} pages");
    }
}

/// How often whoever reads these pages one by one is sent back to an earlier one.
fn sent_back(info: &RunInfo, pages: &[Page]) -> usize {
    let (mut reader, mut sent_back) = (Reader::new(info), 0);
    for page in pages {
        while let Err(Unreadable::Missing(index)) = reader.read(page) {
            sent_back += 1;
            reader.learn(pages.iter().find(|page| page.end() > index).unwrap()).unwrap();
        }
    }
    sent_back
}

#[test]
fn whoever_follows_a_long_run_is_not_sent_back_again_and_again() {
    let info = info();
    let origin = Origin {
        step_id: Some(Arc::from("an id")),
        step_name: Some("a name".repeat(9).into()),
        ..Origin::workflow(&info)
    };
    let entry = |content: String, data: Option<Value>| {
        let kind = EventKind::StepProgress { attempt: 1, content, data };
        Entry::event(RunEvent { created_at: 7, kind, origin: origin.clone(), event_index: None })
    };
    let short: Vec<_> = (0..3_000).map(|n| entry(format!("{n:0100}"), None)).collect();
    assert_eq!(sent_back(&info, &paged(&info, &short, &[1])), 0);

    // A list like that of a ForEach, longer than what a reader keeps otherwise. Now and then an item is from elsewhere.
    let item = |n: usize| format!("{n:<100}.");
    let list = entry("the list".to_owned(), Some((0..2_000).map(item).collect()));
    let items = (0..3_000).map(|n| entry(item(n), None));
    let pages = paged(&info, &std::iter::once(list).chain(items).collect::<Vec<_>>(), &[1]);
    assert!(pages[0].body.len() > 200_000, "{}", pages[0].body.len());
    assert!(!pages[9].body.contains(&item(8)), "items stand once: {}", pages[9].body);
    assert_eq!(sent_back(&info, &pages), 1, "when the first item asks for the list");
}

/// What the views for checking a history look for in a line must stand in it, whatever stood before.
#[test]
fn a_line_says_its_event_its_key_and_its_worker_itself() {
    let (info, mut entries) = recorded();
    // Again, so that everything stood before.
    entries.extend_from_within(..);
    for page in paged(&info, &entries, &[5]) {
        for (index, line) in (page.first_index..).zip(page.body.lines()) {
            let line: Value = serde_json::from_str(&line[9..]).unwrap();
            let entry = &entries[usize::try_from(index).unwrap()];
            assert_eq!(line["event"]["event"], entry.event.name(), "entry {index}");
            let record = entry.record.as_ref();
            let record_of = |kind: &str| line["record"][kind]["key"].as_str();
            match record {
                Some(Record::Intent { key, .. }) => assert_eq!(record_of("intent"), Some(key.as_str())),
                Some(Record::Result { key, .. }) => assert_eq!(record_of("result"), Some(key.as_str())),
                Some(Record::Step { key, .. }) => assert_eq!(record_of("step"), Some(key.as_str())),
                Some(Record::Claimed { worker, .. }) => {
                    assert_eq!(line["record"]["claimed"]["worker"], worker.as_str())
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_long_page_is_several_rows_each_a_page() {
    let (info, entries) = recorded();
    let pages = paged(&info, &entries, &[1000]);
    let rows: Vec<Page> = pages.iter().flat_map(|page| page.rows()).map(row).collect();
    fn row((first_index, count, body): (u64, u32, &str)) -> Page {
        Page { first_index, count, body: Arc::from(body) }
    }
    assert!(rows.len() > 5 && rows.iter().all(|row| row.count == 1 || row.body.len() <= 1000));
    assert!(rows.iter().map(|row| &*row.body).collect::<String>() == *pages[0].body);
    assert_eq!(read_from(&info, &rows, 0), entries);
    let short = Page { first_index: 3, count: 9, body: Arc::from("x\n".repeat(600)) };
    assert_eq!(short.rows(), [(3, 9, &*short.body)], "what is damaged stays as it is");
}

/// A run whose id says when it was accepted, of a workflow with a team.
fn team_info() -> RunInfo {
    RunInfo { run_id: RunId::new(Timestamp::from_seconds(1_700_000_000), 7), ..info() }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn of<'t, T>(&mut self, things: &'t [T]) -> &'t T {
        &things[usize::try_from(self.below(things.len() as u64)).unwrap()]
    }

    fn text(&mut self) -> String {
        const WORDS: [&str; 9] = ["and", "\"quoted\"", "ü", "漢字", "\n", "{\"a\":[1,", ",\"refs\":\"0\"}", "0", " "];
        let words = *self.of(&[0, 1, 3, 12, 40]);
        (0..words).map(|_| *self.of(&WORDS)).collect()
    }

    fn value(&mut self, texts: &[String]) -> Value {
        match self.below(5) {
            0 => Value::Null,
            1 => Value::from(1.5),
            2 => Value::from_iter([
                (self.of(texts).clone(), Value::from(self.of(texts).clone())),
                ("b".into(), 7.into()),
            ]),
            3 => Value::from_iter([self.of(texts).clone(), self.of(texts).clone()]),
            _ => Value::from(self.of(texts).clone()),
        }
    }
}

/// Entries as agents, teams and functions write them, and such as nobody writes, of few texts again and again.
fn any_entries(info: &RunInfo, chance: &mut Chance, count: usize) -> Vec<Entry> {
    let texts: Vec<String> = (0..6).map(|_| chance.text()).collect();
    let workflow = Origin::workflow(info);
    let step = Origin { step_id: Some(info.run_id.derive("0")), step_name: Some("Step".into()), ..workflow.clone() };
    let speaker = |path: &str, name: &str| Origin {
        workflow_name: None,
        workflow_run_id: Some(info.run_id.clone()),
        run_id: Some(info.run_id.derive_run(path)),
        agent_id: DefinitionId::parse(name).ok(),
        agent_name: Some(name.into()),
        ..step.clone()
    };
    let member = Origin { parent_run_id: Some(info.run_id.derive_run("0/team")), ..speaker("0/team/t0/0/m", "member") };
    let origins = [workflow, step.clone(), speaker("0/agent", "agent"), member, Origin::default()];
    let (mut entries, mut messages, mut pieces) = (Vec::new(), Vec::new(), String::new());
    for number in 0..count {
        let second = 1_700_000_000 + i64::try_from(chance.below(3)).unwrap() - 1;
        let at =
            *chance.of(&[None, Some(Timestamp::from_micros(second * 1_000_000 + 17)), Some(Timestamp::from_micros(9))]);
        let key = Key::step(0).speaker("agent").turn(u32::try_from(number).unwrap());
        let duration = *chance.of(&[None, Some(0.25)]);
        let (kind, record) = match chance.below(7) {
            0 | 1 => {
                let content = Some(chance.of(&texts).clone()).filter(|_| chance.below(9) > 0);
                pieces.extend(content.as_deref());
                let delta = ContentDelta {
                    content,
                    workflow_agent: *chance.of(&[None, Some(false), Some(true)]),
                    content_type: (*chance.of(&["str", "Plan", ""])).into(),
                    reasoning_content: (*chance.of(&["", "hm"])).into(),
                    model_provider_data: Some(chance.value(&texts)).filter(|value| !value.is_null() && number % 9 == 0),
                };
                (
                    if chance.below(2) == 0 { EventKind::RunContent(delta) } else { EventKind::TeamRunContent(delta) },
                    None,
                )
            }
            2 => {
                let text = if chance.below(3) > 0 { std::mem::take(&mut pieces) } else { chance.of(&texts).clone() };
                let call = ToolCall::new("c1", "search", chance.of(&texts).clone());
                let mut response = ModelResponse { duration, ..ModelResponse::text(text) };
                response.usage.input_tokens = chance.below(3);
                response.tool_calls.extend(Some(call).filter(|_| number % 2 == 0));
                let info = ModelInfo { model: "m".into(), model_provider: "p".into() };
                let done = ModelRequestDone::new(&info, response.usage, duration);
                let mut message =
                    Message::new(Role::Assistant, "", Message::id_at(&info_run(&origins), messages.len()), second);
                message.content = response.content.clone().filter(|text| !text.is_empty());
                message.tool_calls.clone_from(&response.tool_calls);
                message.metrics = Some(Metrics { usage: response.usage, duration, ..Metrics::default() });
                messages.push(message);
                let value = Arc::from(serde_json::value::to_raw_value(&response).unwrap());
                (EventKind::ModelRequestCompleted(done), Some(Record::Result { key, value, sleeps: false }))
            }
            3 => {
                let call = ToolCall::new("c1", "search", r#"{"topic":"everything that is known about it, and more"}"#);
                let result =
                    ToolResult { duration, is_error: number % 3 == 0, ..ToolResult::ok(chance.of(&texts).clone()) };
                let tool = Box::new(ToolExecution::started(&call, second).completed(&result));
                let mut value = serde_json::to_value(&result).unwrap();
                if number % 4 == 0 {
                    value["state"] = chance.value(&texts);
                }
                // In the order in which a driver writes it, or in another.
                let value = match number % 2 {
                    0 => serde_json::value::to_raw_value(&result),
                    _ => serde_json::value::to_raw_value(&value),
                };
                let mut message = Message::new(Role::Tool, result.content.clone(), Arc::from("another id"), second);
                message.tool_call_id = Some("c1".into());
                message.tool_name = Some("search".into());
                message.tool_args = Some(tool.tool_args.clone());
                message.tool_call_error = Some(result.is_error);
                messages.push(message);
                let event = ToolEvent { content: Some("done".into()), tool };
                (
                    EventKind::ToolCallCompleted(event),
                    Some(Record::Result { key, value: Arc::from(value.unwrap()), sleeps: false }),
                )
            }
            4 => {
                let fields = (0..chance.below(14)).map(|n| (format!("field {n}"), chance.value(&texts)));
                let fields = [("name".to_owned(), Value::from("Own"))].into_iter().chain(fields).collect();
                (EventKind::CustomEvent { fields }, None)
            }
            5 => {
                let output = StepOutput { success: number % 2 == 0, ..StepOutput::new(chance.value(&texts)) };
                let output =
                    Arc::new(StepOutput { content: output.content.clone().filter(|of| !of.is_null()), ..output });
                let kind = EventKind::StepOutput { step_output: output.clone() };
                (
                    kind,
                    Some(Record::Step {
                        key,
                        output,
                        run: None,
                        state: Some(chance.value(&texts)).filter(|of| !of.is_null()),
                    }),
                )
            }
            _ => {
                let mut run = RunOutput::clone(&ended_run(&origins[2]));
                run.content = Some(Value::from(chance.of(&texts).clone()));
                run.created_at = second;
                run.messages = messages.clone();
                run.session_state =
                    chance.of(&[None, Some(Value::Object(Default::default())), Some(Value::from(1))]).clone();
                let kind = EventKind::RunCompleted(Box::new(RunDone::of(&run)));
                let ended = RunEnded { run: Arc::new(run), failure: None, state: None };
                (kind, Some(Record::Run { key, ended: Arc::new(ended) }))
            }
        };
        let event = RunEvent { created_at: second, kind, origin: chance.of(&origins).clone(), event_index: None };
        entries.push(Entry { event, at, record });
    }
    entries
}

fn info_run(origins: &[Origin]) -> RunId {
    origins[2].run_id.clone().unwrap()
}

/// A run that says nothing of itself yet.
fn ended_run(origin: &Origin) -> Arc<RunOutput> {
    let text = serde_json::json!({
        "run_id": origin.run_id, "agent_id": origin.agent_id, "content_type": "str", "created_at": 0, "status": "COMPLETED",
    });
    Arc::new(serde_json::from_value(text).unwrap())
}

/// Whatever entries say, and however they repeat each other, is read again from every start, byte for byte.
#[test]
fn what_any_entries_say_is_read_again() {
    for seed in 1_u64..60 {
        let mut chance = Chance(0x9E37_79B9_7F4A_7C15 ^ seed);
        let info = if seed % 3 == 0 { info() } else { team_info() };
        let entries = any_entries(&info, &mut chance, 24);
        let pages = paged(&info, &entries, &[1, 4, 2]);
        let text = |entry: &Entry| {
            serde_json::to_string(&Entry {
                event: RunEvent { event_index: None, ..entry.event.clone() },
                ..entry.clone()
            })
            .unwrap()
        };
        for start in 0..pages.len() {
            let first = usize::try_from(pages[start].first_index).unwrap();
            let rest = gone_on(&info, &pages, start, &entries[first..]);
            let gone_on = read_from(&info, &rest, start);
            let read = read_from(&info, &pages, start);
            assert!(gone_on.iter().map(text).eq(read.iter().map(text)), "seed {seed}, gone on from {start}");
            for (place, (read, written)) in read.iter().zip(&entries[first..]).enumerate() {
                assert_eq!(text(read), text(written), "seed {seed}, entry {}, from {start}", first + place);
            }
        }
    }
}

/// A function may have recorded nothing, which is something else than nothing recorded.
#[test]
fn a_result_that_is_null_is_read_again() {
    let info = info();
    for value in ["null", "0", "\"\"", "[]", "{}", "false"] {
        let value = serde_json::value::RawValue::from_string(value.to_owned()).unwrap();
        let record = Record::Result { key: Key::step(0).named("call"), value: Arc::from(value), sleeps: false };
        let origin = Origin::workflow(&info);
        let kind = EventKind::CustomEvent { fields: Default::default() };
        let event = RunEvent { created_at: 1_700_000_000, kind, origin, event_index: None };
        let entries = [Entry { event, at: None, record: Some(record) }];
        let read = read_from(&info, &paged(&info, &entries, &[1]), 0);
        assert_eq!(read[0].record, entries[0].record);
    }
}

/// Text that was streamed stands in its pieces; the answer and whatever repeats it name them.
#[test]
fn an_answer_that_was_streamed_stands_once() {
    let info = team_info();
    let pieces: Vec<String> =
        (0..5).map(|n| format!("piece {n} of an answer at length: {} \"ü\" ", "漢字".repeat(20))).collect();
    let origin =
        Origin { agent_name: Some("agent".into()), workflow_run_id: Some(info.run_id.clone()), ..Origin::default() };
    let entry = |kind, record| {
        let event = RunEvent { created_at: 1_700_000_000, kind, origin: origin.clone(), event_index: None };
        Entry { event, at: None, record }
    };
    let piece = |text: &String| {
        let delta = ContentDelta { content: Some(text.clone()), content_type: "str".into(), ..ContentDelta::default() };
        entry(EventKind::RunContent(delta), None)
    };
    let answer = ModelResponse::text(pieces.concat());
    let value = Arc::from(serde_json::value::to_raw_value(&answer).unwrap());
    let done = EventKind::ModelRequestCompleted(ModelRequestDone::default());
    let mut entries: Vec<Entry> = pieces.iter().map(piece).collect();
    entries.push(entry(done, Some(Record::Result { key: Key::parse("0/agent/t0"), value, sleeps: false })));
    let pages = paged(&info, &entries, &[1]);
    let body = &pages.last().unwrap().body;
    assert!(!body.contains("piece") && body.len() < 400, "{body}");
    for start in 0..pages.len() {
        let read = read_from(&info, &pages, start);
        assert_eq!(read.last().unwrap().record, entries.last().unwrap().record, "from {start}");
    }
}
