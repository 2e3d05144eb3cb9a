//! The known values in all their forms, to be searched for at once.

use super::encodings::Encoding;
use aho_corasick::{AhoCorasick, MatchKind};

/// Known values. It has no `Debug`: the automaton's would spell them out.
pub(super) struct Values {
    pub(super) automaton: AhoCorasick,
    /// How the value was encoded, by the number of its pattern in `automaton`.
    pub(super) encodings: Vec<Encoding>,
    /// The patterns in order, to find those that start with a text.
    sorted: Vec<Box<str>>,
    len_max: usize,
}

impl Values {
    /// None when there is no pattern.
    pub(super) fn new(patterns: Vec<(String, Encoding)>) -> Option<Self> {
        let len_max = patterns.iter().map(|(text, _)| text.len()).max()?;
        // The longest match at one place: the value with its escapes, not a part of it.
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest);
        let automaton = builder.build(patterns.iter().map(|(text, _)| text));
        let automaton = automaton.expect("secrets are far shorter than an automaton can hold");
        let encodings = patterns.iter().map(|(_, encoding)| *encoding).collect();
        let mut sorted: Vec<Box<str>> = patterns.into_iter().map(|(text, _)| text.into()).collect();
        sorted.sort();
        sorted.dedup();
        Some(Self { automaton, encodings, sorted, len_max })
    }

    /// The first place at `from` or later where a pattern may have begun that goes on after the text; its end when
    /// there is none.
    pub(super) fn open_from(&self, text: &str, from: usize) -> usize {
        let first = from.max((text.len() + 1).saturating_sub(self.len_max));
        let mut places = (first..text.len()).filter(|place| text.is_char_boundary(*place));
        places.find(|place| self.begins(&text[*place..])).unwrap_or(text.len())
    }

    /// Whether a pattern starts with this text and goes on.
    fn begins(&self, text: &str) -> bool {
        let place = self.sorted.partition_point(|pattern| &**pattern <= text);
        self.sorted.get(place).is_some_and(|pattern| pattern.starts_with(text))
    }
}
