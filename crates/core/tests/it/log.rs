//! Pages of the log: what is written comes back, and what is damaged is found.

use outlive_core::{Entry, EventKind, Key, Origin, Page, Record, RunEvent, RunId};
use serde_json::Value;

fn entries(count: usize) -> Vec<Entry> {
    let event = RunEvent { created_at: 7, kind: EventKind::StepStarted, origin: Origin::default(), event_index: None };
    let record = |n: usize| Record::Intent { key: Key::new(n.to_string()) };
    (0..count).map(|n| Entry::recorded(event.clone(), record(n))).collect()
}

#[test]
fn a_page_gives_back_its_entries_with_their_indexes() {
    let run = RunId::parse("run").unwrap();
    let page = Page::encode(5, &entries(3));
    assert_eq!((page.first_index, page.count, page.end()), (5, 3, 8));
    let read = page.decode(&run).unwrap();
    assert_eq!(read.iter().map(|e| e.event.event_index).collect::<Vec<_>>(), [Some(5), Some(6), Some(7)]);
    assert_eq!(read[2].record, entries(3)[2].record);
}

#[test]
fn every_flipped_bit_is_found_and_its_entry_named() {
    let run = RunId::parse("run").unwrap();
    let page = Page::encode(0, &entries(2));
    let second = page.body.find('\n').unwrap() + 1;
    for place in 0..page.body.len() {
        let mut bytes = page.body.as_bytes().to_vec();
        bytes[place] ^= 1;
        let Ok(body) = String::from_utf8(bytes) else { continue };
        let damaged = Page { body: body.into(), ..page.clone() }.decode(&run);
        let Err(damaged) = damaged else { panic!("a flipped bit at {place} was not found") };
        if place + 1 != second {
            assert_eq!(damaged.event_index, u64::from(place >= second), "bit at {place}: {damaged}");
        }
    }
}

#[test]
fn a_page_at_the_wrong_place_is_found() {
    let run = RunId::parse("run").unwrap();
    let moved = Page { first_index: 9, ..Page::encode(0, &entries(1)) };
    assert!(moved.decode(&run).is_err());
}

#[test]
fn a_page_that_lost_its_tail_is_found() {
    let run = RunId::parse("run").unwrap();
    let page = Page::encode(0, &entries(2));
    let body = page.body[..=page.body.find('\n').unwrap()].into();
    let damaged = Page { body, ..page }.decode(&run).unwrap_err();
    assert_eq!(damaged.event_index, 1);
}

#[test]
fn a_page_gives_back_values_of_every_depth_and_names_one_that_is_none() {
    let run = RunId::parse("run").unwrap();
    let nested = |depth| (0..depth).fold(Value::from("core"), |inner, _| Value::Array(vec![inner]));
    for depth in [1, 100, 126, 127, 128, 200, 511, 512] {
        let kind = EventKind::StepProgress { attempt: 1, content: "deep".into(), data: Some(nested(depth)) };
        let event = RunEvent { created_at: 7, kind, origin: Origin::default(), event_index: None };
        let state = Some(Value::from_iter([("deep", nested(depth))]));
        let entry = Entry::recorded(event, Record::Step { key: Key::new("k"), run: None, state });
        let mut read = Page::encode(3, std::slice::from_ref(&entry)).decode(&run).unwrap();
        assert_eq!(read[0].event.event_index.take(), Some(3));
        assert_eq!(read, [entry], "{depth}");
    }
}

#[test]
fn what_is_no_entry_is_named_and_not_repeated() {
    let run = RunId::parse("run").unwrap();
    let json = r#"{"event":"hunter2"}"#;
    let mut sum = crc32fast::Hasher::new();
    sum.update(&0_u64.to_le_bytes());
    sum.update(json.as_bytes());
    let body = format!("{:08x} {json}\n", sum.finalize()).into();
    let damaged = Page { first_index: 0, count: 1, body }.decode(&run).unwrap_err().to_string();
    assert!(damaged.starts_with("entry 0 of run run is damaged: it is JSON of an unexpected shape"), "{damaged}");
    assert!(!damaged.contains("hunter2"), "{damaged}");
}
