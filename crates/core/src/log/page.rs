//! Pages: what one commit appended, one row.
//!
//! A page is lines, one for each entry: `<crc32 in 8 hex digits> {…}`. The checksum covers the entry's index and its
//! JSON, so a flipped bit or a misplaced row is found at the entry that is wrong.
//!
//! This module must never know what a line says.

use crate::id::RunId;
use std::io::Write;
use std::sync::Arc;

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

/// How many bytes of entries a row has, unless one entry is longer.
const ROW_LEN_MAX: usize = 1000;

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

/// An entry that is wrong, and how.
pub(super) type Wrong = (u64, &'static str);

impl Page {
    /// Index after the last entry.
    pub fn end(&self) -> u64 {
        self.first_index + u64::from(self.count)
    }

    /// The page as rows of a table, each a page too: index of its first entry, count, and entries. A database puts rows into
    /// blocks of a few KB, and leaves empty what a long row does not fill.
    pub fn rows(&self) -> Vec<(u64, u32, &str)> {
        if self.body.len() <= ROW_LEN_MAX {
            return vec![(self.first_index, self.count, &self.body)];
        }
        let mut rows: Vec<(u64, u32, &str)> = Vec::with_capacity(1 + self.body.len() / ROW_LEN_MAX);
        let (mut index, mut start) = (self.first_index, 0);
        for line in self.body.split_inclusive('\n') {
            let end = start + line.len();
            match rows.last_mut() {
                Some((_, count, row)) if row.len() + line.len() <= ROW_LEN_MAX => {
                    *count += 1;
                    *row = &self.body[start - row.len()..end];
                }
                _ => rows.push((index, 1, line)),
            }
            (index, start) = (index + 1, end);
        }
        if index == self.end() { rows } else { vec![(self.first_index, self.count, &self.body)] }
    }

    /// Checks that every entry is there and is what was written.
    ///
    /// # Errors
    /// [`Damaged`] names the first entry that is not.
    pub fn check(&self, run_id: &RunId) -> Result<(), Damaged> {
        self.lines().try_for_each(|line| line.map(drop)).map_err(|(event_index, problem)| Damaged {
            run_id: run_id.clone(),
            event_index,
            problem: problem.to_owned(),
        })
    }

    /// The entries' indices and their JSON. Ends after the first that is wrong.
    pub(super) fn lines(&self) -> impl Iterator<Item = Result<(u64, &str), Wrong>> {
        let mut lines = self.body.lines();
        let mut is_over = false;
        (self.first_index..=self.end()).map_while(move |index| {
            if is_over {
                return None;
            }
            let line = match (lines.next(), index < self.end()) {
                (None, false) => return None,
                (None, true) | (Some(_), false) => Err("it is missing"),
                (Some(line), true) => checked(index, line),
            };
            is_over = line.is_err();
            Some(line.map(|text| (index, text)).map_err(|problem| (index, problem)))
        })
    }
}

fn checked(index: u64, line: &str) -> Result<&str, &'static str> {
    let (sum, text) = line.split_at_checked(9).ok_or("it is cut short")?;
    match u32::from_str_radix(sum.trim_end(), 16) == Ok(checksum(index, text.as_bytes())) {
        true => Ok(text),
        false => Err("its checksum is wrong"),
    }
}

/// Writes the line of entry `index`; `json` writes what it says.
pub(super) fn write_line(body: &mut Vec<u8>, index: u64, json: impl FnOnce(&mut Vec<u8>)) {
    let begin = body.len();
    body.extend(b"00000000 ");
    let text = body.len();
    json(body);
    let sum = checksum(index, &body[text..]);
    write!(&mut body[begin..], "{sum:08x}").expect("it stands over the zeros");
    body.push(b'\n');
}

fn checksum(index: u64, json: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&index.to_le_bytes());
    hasher.update(json);
    hasher.finalize()
}
