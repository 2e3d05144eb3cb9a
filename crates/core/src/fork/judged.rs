//! What hooks have looked at in a run, so that they look again at what takes its place in a fork.
//!
//! It must never know what a hook said. The invariant: nothing that is edited passes by a hook that had looked at what it
//! replaces.

use crate::log::{Entry, Key, Part, Record};
use std::collections::BTreeSet;

/// The agent's or team's run one of whose hooks was asked here, or answered.
pub(super) fn hooked(entry: &Entry) -> Option<Key> {
    match &entry.record {
        Some(Record::Intent { key, .. } | Record::Result { key, .. }) => key.hooked(),
        _ => None,
    }
}

/// The runs of agents and teams that had hooks, have not ended and were asked what the workflow was: members and
/// workflows that are tools are asked by models.
pub(super) fn in_flight(kept: &[Entry]) -> BTreeSet<Key> {
    let is_asked_by_model = |speaker: &Key| speaker.parts().any(|part| matches!(part, Part::Call(_)));
    let mut speakers: BTreeSet<Key> =
        kept.iter().filter_map(hooked).filter(|speaker| !is_asked_by_model(speaker)).collect();
    for entry in kept {
        if let Some(Record::Run { key, .. }) = &entry.record
            && let Some(speaker) = key.outer()
        {
            speakers.remove(&speaker);
        }
    }
    speakers
}

/// Where the output that was recorded in this entry was a model's answer that hooks have looked at.
pub(super) fn answer_of(log: &[Entry], index: usize) -> Option<usize> {
    let speakers = match &log[index].record {
        Some(Record::Step { key, .. }) => [key.speaker("agent"), key.speaker("team")],
        // A member's, whose answer the call gave back.
        Some(Record::Result { key, .. }) => [key.member(), key.member()],
        _ => return None,
    };
    let before = &log[..index];
    let looked = before.iter().filter_map(hooked).find(|speaker| speakers.contains(speaker))?;
    let is_answer = |entry: &Entry| match &entry.record {
        Some(Record::Result { key, .. }) => key.is_answer() && key.is_inside(&looked),
        _ => false,
    };
    let is_output = |entry: &Entry| match &entry.record {
        Some(Record::Intent { key, .. }) => key.is_post_hook() && key.outer().as_ref() == Some(&looked),
        _ => false,
    };
    let answer = before.iter().rposition(is_answer)?;
    before[answer..].iter().any(is_output).then_some(answer)
}
