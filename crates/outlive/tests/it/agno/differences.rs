//! Where our answers differ from the recorded ones on purpose: the one list of it.
//!
//! A difference is a line of the comparer's, or the end of one after a dot, so that one entry holds wherever a shape is
//! used. The same list in words is `docs/differences-from-agno.md`.

use std::collections::BTreeSet;

/// A difference that is meant.
pub(crate) struct Listed {
    /// The comparer's lines, or their ends.
    pub(crate) lines: &'static [&'static str],
    /// The recordings where it occurs, and in which exchanges; none for any.
    pub(crate) at: &'static [(&'static str, &'static [usize])],
    /// Why.
    pub(crate) why: &'static str,
}

/// All of them.
pub(crate) const LISTED: &[Listed] = &[];

/// Sorts what differs into listed and not.
pub(crate) struct Judge {
    recording: &'static str,
    unlisted: Vec<String>,
    /// Places in [`LISTED`], and in the entry's lines.
    seen: BTreeSet<(usize, usize)>,
}

impl Judge {
    /// For this recording.
    pub(crate) fn of(recording: &str) -> Self {
        let recording = super::REPLAYED.into_iter().find(|known| *known == recording).unwrap();
        Self { recording, unlisted: Vec::new(), seen: BTreeSet::new() }
    }

    /// Takes note of what differs in one exchange.
    pub(crate) fn see(&mut self, exchange: usize, place: &str, lines: Vec<String>) {
        for line in lines {
            let plain = line.replace("[]", "");
            let entries = LISTED.iter().enumerate().filter(|(_, listed)| self.is_at(listed, Some(exchange)));
            let places = entries.flat_map(|(at, listed)| listed.lines.iter().enumerate().map(move |(n, end)| (at, n, end)));
            let matching: Vec<_> = places.filter(|(_, _, end)| is_end(&plain, end)).map(|(at, n, _)| (at, n)).collect();
            if matching.is_empty() {
                self.unlisted.push(format!("  #{exchange} {place}: {line}"));
            }
            self.seen.extend(matching);
        }
    }

    fn is_at(&self, listed: &Listed, exchange: Option<usize>) -> bool {
        listed.at.iter().any(|(recording, exchanges)| {
            let is_in = |exchange| exchanges.is_empty() || exchanges.contains(&exchange);
            *recording == self.recording && exchange.is_none_or(is_in)
        })
    }

    /// What is not as it was and not as it is listed.
    pub(crate) fn report(self) -> Vec<String> {
        let mut report = self.unlisted.clone();
        for (at, listed) in LISTED.iter().enumerate().filter(|(_, listed)| self.is_at(listed, None)) {
            for (n, line) in listed.lines.iter().enumerate().filter(|(n, _)| !self.seen.contains(&(at, *n))) {
                let _ = n;
                report.push(format!("  listed, but does not occur any more: {line} ({})", listed.why));
            }
        }
        report
    }
}

/// Whether `end` is the line, or all of it after one of its dots.
fn is_end(line: &str, end: &str) -> bool {
    line.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
