//! Reads a run's log, from any index on: puts back what its entries leave out.

use super::once::{expand, references};
use super::stored::{self, Bases, KeptRest, Unread, Values};
use super::{Damaged, Entry, Page, Record, Rest, old};
use crate::event::Origin;
use crate::json;
use crate::run::RunInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// Text of earlier entries that a reader keeps in case later ones refer to it, in bytes.
const KEPT_BYTES: usize = 64 << 10;

/// Besides these it keeps what one of so many pages before referred to, such as the list of a ForEach, whatever its size...
const USED_PAGES: u64 = 32;

/// ... up to this many bytes in all.
const USED_BYTES: usize = 4 << 20;

/// Records that it keeps, and origins.
const KEPT_RECORDS: usize = 64;

/// Why a page cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not what was written.
    Damaged(Damaged),
    /// It refers to this entry: hand its page to [`Reader::learn`], and try again.
    Missing(u64),
}

/// Reads one run's log.
#[derive(Debug)]
pub struct Reader {
    info: RunInfo,
    known: Known,
    /// The page that is being read: what it refers to stays known until it has been.
    reading: Option<u64>,
}

#[derive(Debug, Default)]
struct Known {
    lines: HashMap<u64, Line>,
    bytes: usize,
    /// How many pages were read.
    pages: u64,
    /// Entries to which pages referred, each with the number of the last such page: the next ones often do too.
    used: HashMap<u64, u64>,
    records: HashMap<u64, Arc<Record>>,
    origins: HashMap<u64, Origin>,
}

#[derive(Clone, Debug)]
enum Line {
    /// As stored.
    Stored(Arc<str>),
    /// With what it refers to.
    Full(Arc<str>),
    /// In the format before this one.
    Old(Arc<str>),
}

impl Line {
    fn len(&self) -> usize {
        let (Line::Stored(text) | Line::Full(text) | Line::Old(text)) = self;
        text.len()
    }
}

impl Reader {
    /// A reader of this run's log.
    pub fn new(info: &RunInfo) -> Self {
        Self { info: info.clone(), known: Known::default(), reading: None }
    }

    /// Takes in a page that others refer to.
    ///
    /// # Errors
    /// [`Damaged`] names the first entry that is not what was written.
    pub fn learn(&mut self, page: &Page) -> Result<(), Damaged> {
        for line in page.lines() {
            let (index, text) = line.map_err(|(index, problem)| self.damaged(index, problem))?;
            self.known.add(index, text);
        }
        Ok(())
    }

    /// Reads a page's entries, with `event_index` filled in.
    ///
    /// # Errors
    /// [`Unreadable`], which may also ask for an earlier page.
    pub fn read(&mut self, page: &Page) -> Result<Vec<Entry>, Unreadable> {
        if self.reading != Some(page.first_index) {
            self.known.forget();
            self.reading = Some(page.first_index);
        }
        self.learn(page).map_err(Unreadable::Damaged)?;
        let bases = Bases::of(&self.info);
        let mut entries = Vec::with_capacity(page.count as usize);
        for index in page.first_index..page.end() {
            let entry = self.known.entry(index, &bases);
            let entry = entry.map_err(|unread| match unread {
                Unread::Missing(index) => Unreadable::Missing(index),
                Unread::Damaged(problem) => Unreadable::Damaged(self.damaged(index, &problem)),
            })?;
            entries.push(entry);
        }
        self.reading = None;
        Ok(entries)
    }

    /// The full text of an entry that was read with the last page.
    pub fn text(&self, index: u64) -> Option<&str> {
        match self.known.lines.get(&index)? {
            Line::Full(text) | Line::Old(text) => Some(text),
            Line::Stored(_) => None,
        }
    }

    /// Reads what [`super::Writer::output`] wrote.
    ///
    /// # Errors
    /// [`Unreadable`], which may also ask for a page.
    pub fn output(&mut self, text: &str) -> Result<Rest, Unreadable> {
        let kept: Result<KeptRest, _> = json::read_stored(text);
        let rest = kept.map_err(|error| Unread::Damaged(json::problem(text, &error).to_string()));
        let bases = Bases::of(&self.info);
        let rest =
            rest.and_then(|kept| kept.rest(&mut Looking { known: &mut self.known, bases: &bases, end: u64::MAX }));
        rest.map_err(|unread| match unread {
            Unread::Missing(index) => Unreadable::Missing(index),
            Unread::Damaged(problem) => Unreadable::Damaged(self.damaged(0, &problem)),
        })
    }

    fn damaged(&self, event_index: u64, problem: &str) -> Damaged {
        Damaged { run_id: self.info.run_id.clone(), event_index, problem: problem.to_owned() }
    }
}

impl Known {
    fn add(&mut self, index: u64, text: &str) {
        self.lines.entry(index).or_insert_with(|| {
            self.bytes += text.len();
            let text = Arc::from(text);
            if old::is_old(&text) { Line::Old(text) } else { Line::Stored(text) }
        });
    }

    /// Drops what is more than a reader keeps: what no page of late referred to, or all of it.
    fn forget(&mut self) {
        self.pages += 1;
        self.used.retain(|_, page| *page + USED_PAGES >= self.pages);
        let used_bytes: usize = self.used.keys().filter_map(|index| self.lines.get(index)).map(Line::len).sum();
        if self.bytes - used_bytes > KEPT_BYTES {
            self.lines.retain(|index, _| self.used.contains_key(index));
            self.bytes = used_bytes;
        }
        if used_bytes > USED_BYTES {
            self.lines.clear();
            self.bytes = 0;
        }
        if self.records.len() > KEPT_RECORDS {
            self.records.clear();
        }
        if self.origins.len() > KEPT_RECORDS {
            self.origins.retain(|index, _| self.used.contains_key(index));
        }
    }

    fn note_use(&mut self, index: u64) {
        self.used.insert(index, self.pages);
    }

    /// The full text of an entry.
    fn full(&mut self, index: u64) -> Result<Arc<str>, Unread> {
        let broken = || Unread::Damaged("it refers to something that is not there".to_owned());
        // An entry refers to earlier ones, and so on, to one that says all of it.
        let mut wanted = vec![index];
        loop {
            let next = *wanted.last().ok_or_else(broken)?;
            let stored = match self.lines.get(&next) {
                None => return Err(Unread::Missing(next)),
                Some(Line::Full(text) | Line::Old(text)) if next == index => return Ok(text.clone()),
                Some(Line::Full(_) | Line::Old(_)) => {
                    wanted.pop();
                    continue;
                }
                Some(Line::Stored(text)) => text.clone(),
            };
            let (line, refs) = references(&stored).ok_or_else(broken)?;
            let mut texts = HashMap::new();
            let before = wanted.len();
            for entry in refs.iter().filter_map(|reference| reference.entry(next)).filter(|entry| *entry != next) {
                self.note_use(entry);
                match self.lines.get(&entry) {
                    None => return Err(Unread::Missing(entry)),
                    Some(Line::Stored(_)) => wanted.push(entry),
                    Some(Line::Full(text) | Line::Old(text)) => drop(texts.insert(entry, text.clone())),
                }
            }
            if wanted.len() > before {
                continue;
            }
            let full: Arc<str> = match refs.is_empty() {
                true => stored.clone(),
                false => {
                    let text = |entry| texts.get(&entry).map(|text| &**text);
                    Arc::from(expand(next, line, &refs, text).ok_or_else(broken)?)
                }
            };
            self.bytes = (self.bytes + full.len()).saturating_sub(stored.len());
            self.lines.insert(next, Line::Full(full));
        }
    }

    fn entry(&mut self, index: u64, bases: &Bases) -> Result<Entry, Unread> {
        let entry = match self.lines.get(&index) {
            Some(Line::Old(text)) => {
                let before = index.checked_sub(1).and_then(|before| match self.lines.get(&before)? {
                    Line::Old(text) => Some(&**text),
                    Line::Stored(_) | Line::Full(_) => None,
                });
                old::read(text, index, before)?
            }
            _ => {
                let text = self.full(index)?;
                stored::read(&text, index, bases, &mut Looking { known: self, bases, end: index })?
            }
        };
        if let Some(record @ (Record::Step { .. } | Record::Failed { .. } | Record::Run { .. })) = &entry.record {
            self.records.entry(index).or_insert_with(|| Arc::new(record.clone()));
        }
        Ok(entry)
    }
}

struct Looking<'a> {
    known: &'a mut Known,
    bases: &'a Bases,
    /// Only entries before this one may be asked for.
    end: u64,
}

impl Looking<'_> {
    fn entry_before(&mut self, index: u64) -> Result<Entry, Unread> {
        if index >= self.end {
            return Err(Unread::Damaged(format!("it refers to entry {index}, which does not precede it")));
        }
        self.known.entry(index, self.bases)
    }
}

impl Values for Looking<'_> {
    fn origin(&mut self, index: u64) -> Result<Origin, Unread> {
        self.known.note_use(index);
        if let Some(origin) = self.known.origins.get(&index) {
            return Ok(origin.clone());
        }
        let origin = self.entry_before(index)?.event.origin;
        self.known.origins.insert(index, origin.clone());
        Ok(origin)
    }

    fn entry(&mut self, index: u64) -> Result<Entry, Unread> {
        self.entry_before(index)
    }

    fn record(&mut self, index: u64) -> Result<Arc<Record>, Unread> {
        if let Some(record) = self.known.records.get(&index) {
            return Ok(record.clone());
        }
        let record = self.entry_before(index)?.record.map(Arc::new);
        record.ok_or_else(|| Unread::Damaged(format!("entry {index}, to which it refers, has no record")))
    }
}

impl Page {
    /// Reads the entries of a page that refers to no other.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn decode(&self, info: &RunInfo) -> Result<Vec<Entry>, Unreadable> {
        Reader::new(info).read(self)
    }
}
