//! The run log: entries numbered 0, 1, 2 …, each an event for the world and, where recovery needs more, a record.
//!
//! Entries are stored in *pages*: what one commit appended, one row. A page is JSON lines, one line an entry:
//! `<crc32 in 8 hex digits> {"event":{…},"record":{…}}`. The checksum covers the entry's index and its JSON, so a flipped
//! bit or a misplaced row is found at the entry that is wrong. This module is the only one that knows the format; stores
//! keep the text and never look inside.

use crate::event::RunEvent;
use crate::id::{RunId, WorkerId};
use crate::json;
use crate::run::RunOutput;
use crate::text;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// The stable name of a call inside a run: its path in the definition, then turn and call. Prefixed with the run's id,
/// it is the key handed to tools: the same across attempts, crashes and processes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// A key with this text.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The key of something inside this one.
    pub fn join(&self, part: impl fmt::Display) -> Self {
        Self(Arc::from(format!("{}/{part}", self.0)))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// What only recovery needs of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A worker took the run.
    Claimed {
        /// The worker.
        worker: WorkerId,
        /// The lease's epoch.
        epoch: u64,
        /// How often the run has been taken, this time included.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// A call is about to leave the process.
    Intent {
        /// Whose.
        key: Key,
    },
    /// A call ended; its recorded answer replaces it for good.
    Result {
        /// Whose.
        key: Key,
        /// The answer.
        value: Arc<RawValue>,
    },
    /// Something that must be said only once was said.
    Said {
        /// What.
        key: Key,
    },
    /// A step ended.
    Step {
        /// Its path.
        key: Key,
        /// The agent's or team's run inside it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<Arc<RunOutput>>,
        /// What it changed in the session's state, key by key; null removes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<Value>,
    },
    /// The run ended.
    Ended {
        /// When.
        at: Timestamp,
    },
    /// A step failed and will be tried again. This is also the intent of the next attempt.
    Retry {
        /// Its path.
        key: Key,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// When the next may start.
        due_at: Timestamp,
    },
}

impl Record {
    /// The key this record is about.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Record::Claimed { .. } | Record::Ended { .. } => None,
            Record::Intent { key }
            | Record::Result { key, .. }
            | Record::Said { key }
            | Record::Step { key, .. }
            | Record::Retry { key, .. } => Some(key),
        }
    }

    /// Whether this shows that the run made progress (which resets the poison count).
    pub fn is_progress(&self) -> bool {
        match self {
            Record::Result { .. } | Record::Step { .. } | Record::Retry { .. } | Record::Ended { .. } => true,
            Record::Claimed { .. } | Record::Intent { .. } | Record::Said { .. } => false,
        }
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        let text = |record: &Record| serde_json::to_string(record).ok();
        text(self) == text(other)
    }
}

/// One entry: what happened, and what recovery needs to know of it. Its index is its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the world sees.
    pub event: RunEvent,
    /// When, where whole seconds (the event's `created_at`) are too coarse. Pieces of streamed text have none, nor do
    /// entries older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// What only recovery needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

impl Entry {
    /// An entry with an event only.
    pub fn event(event: RunEvent) -> Self {
        Self { event, at: None, record: None }
    }

    /// An entry with a record.
    pub fn recorded(event: RunEvent, record: Record) -> Self {
        Self { event, at: None, record: Some(record) }
    }

    /// The same, written down at this time.
    pub fn at(self, at: Timestamp) -> Self {
        Self { at: Some(at), ..self }
    }

    /// When it was written down, as precisely as is known.
    pub fn time(&self) -> Timestamp {
        self.at.unwrap_or_else(|| Timestamp::from_seconds(self.event.created_at))
    }
}

/// Entries of one run, as one commit appended them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Index of the first entry.
    pub first_index: u64,
    /// How many entries, at least 1.
    pub count: u32,
    /// The entries, in this module's format. A store keeps it as it is.
    pub body: Arc<str>,
}

/// A page that differs from what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {event_index} of run {run_id} is damaged: {problem}; restore the database from a backup")]
pub struct Damaged {
    /// The run.
    pub run_id: RunId,
    /// The entry.
    pub event_index: u64,
    /// What is wrong with it.
    pub problem: String,
}

impl Page {
    /// Encodes entries; the first has index `first_index`.
    pub fn encode(first_index: u64, entries: &[Entry]) -> Page {
        let body = text::written(|body| {
            for (index, entry) in (first_index..).zip(entries) {
                let begin = body.len();
                body.extend(b"00000000 ");
                let json = body.len();
                text::write_json(body, entry);
                let sum = checksum(index, &body[json..]);
                write!(&mut body[begin..], "{sum:08x}").expect("it stands over the zeros");
                body.push(b'\n');
            }
        });
        let count = u32::try_from(entries.len()).expect("a commit has fewer than 2^32 entries");
        Page { first_index, count, body }
    }

    /// Index after the last entry.
    pub fn end(&self) -> u64 {
        self.first_index + u64::from(self.count)
    }

    /// Decodes the entries, with `event_index` filled in.
    ///
    /// # Errors
    /// [`Damaged`] names the first entry whose checksum or JSON is wrong.
    pub fn decode(&self, run_id: &RunId) -> Result<Vec<Entry>, Damaged> {
        let damaged =
            |event_index, problem: &str| Damaged { run_id: run_id.clone(), event_index, problem: problem.to_owned() };
        let mut entries = Vec::with_capacity(self.count as usize);
        for (index, line) in (self.first_index..).zip(self.body.lines()) {
            let (sum, text) = line.split_at_checked(9).ok_or_else(|| damaged(index, "it is cut short"))?;
            if u32::from_str_radix(sum.trim_end(), 16) != Ok(checksum(index, text.as_bytes())) {
                return Err(damaged(index, "its checksum is wrong"));
            }
            let entry = json::read_stored(text);
            let mut entry: Entry = entry.map_err(|error| damaged(index, &json::problem(text, &error)))?;
            entry.event.event_index = Some(index);
            entries.push(entry);
        }
        if entries.len() != self.count as usize {
            return Err(damaged(self.first_index + entries.len() as u64, "it is missing"));
        }
        Ok(entries)
    }
}

fn checksum(index: u64, json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_le_bytes());
    hasher.update(json);
    hasher.finalize()
}
