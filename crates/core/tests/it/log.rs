//! Pages of the log: what is written comes back, and what is damaged is found.

use outlive_core::log::{Damaged, Reader, Unreadable, Writer};
use outlive_core::{
    DefinitionId, Entry, EventKind, Key, Origin, Page, Record, Redactor, RunEvent, RunId, RunInfo, SessionId,
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

#[test]
fn a_writer_that_goes_on_after_another_writes_what_that_one_would() {
    let (info, entries) = recorded();
    let whole = paged(&info, &entries, &[3]);
    for cut in 0..whole.len() {
        let mut writer = Writer::new(Arc::new(info.clone()));
        let mut reader = Reader::new(&info);
        for page in &whole[..cut] {
            let entries = loop {
                match reader.read(page) {
                    Ok(entries) => break entries,
                    Err(Unreadable::Missing(index)) => {
                        reader.learn(whole.iter().find(|page| page.end() > index).unwrap()).unwrap();
                    }
                    Err(Unreadable::Damaged(damaged)) => panic!("{damaged}"),
                }
            };
            for (index, entry) in (page.first_index..).zip(&entries) {
                writer.note(index, entry, reader.text(index).unwrap());
            }
        }
        let from = cut * 3;
        let to = entries.len().min(from + 3);
        let next = writer.page(from as u64, &entries[from..to], &Redactor::default()).0;
        let mut pages = whole[..cut].to_vec();
        pages.push(next);
        assert_eq!(read_from(&info, &pages, cut), entries[from..to], "after {cut} pages");
    }
}

#[test]
fn whoever_follows_a_long_run_is_not_sent_back_again_and_again() {
    let info = info();
    let origin = Origin {
        step_id: Some(Arc::from("an id")),
        step_name: Some("a name".repeat(9).into()),
        ..Origin::workflow(&info)
    };
    let entry = |n: usize| {
        let kind = EventKind::StepProgress { attempt: 1, content: format!("{n:0100}"), data: None };
        Entry::event(RunEvent { created_at: 7, kind, origin: origin.clone(), event_index: None })
    };
    let pages = paged(&info, &(0..3_000).map(entry).collect::<Vec<_>>(), &[1]);
    let (mut reader, mut sent_back) = (Reader::new(&info), 0);
    for page in &pages {
        while let Err(Unreadable::Missing(index)) = reader.read(page) {
            sent_back += 1;
            reader.learn(pages.iter().find(|page| page.end() > index).unwrap()).unwrap();
        }
    }
    assert_eq!(sent_back, 0);
}
