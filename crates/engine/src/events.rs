//! Subscriptions: a run's events from any index. Stored and live events take the same path, because watching is reading
//! the log.

use crate::error::Error;
use crate::hub::{Ear, Mark};
use crate::reader::{LOOK_PERIOD, Reader};
use outlive_core::port::{LogReader, Run};
use outlive_core::{EventSettings, RunEvent, RunId};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of log read at a time: the most one subscriber holds in memory.
const READ_BYTES: usize = 256 << 10;

/// Events a subscriber takes at a time from what others have read.
const GIVEN_MAX: usize = 64;

/// A run's events in order, without gap or repetition. A slow reader slows nobody else down.
pub struct EventStream {
    reader: Reader,
    run_id: RunId,
    ear: Ear,
    next_index: u64,
    buffer: VecDeque<Arc<RunEvent>>,
    /// `looks` when the log was last read.
    looked: Option<u64>,
    /// Reads the log; there once the run was found, with this stream's access.
    log: Option<Box<LogReader>>,
    is_over: bool,
    /// A pause is an end.
    ends_at_rest: bool,
    /// What of the log it gives.
    settings: Option<Box<EventSettings>>,
    /// It was notified of a commit that it waited for, and has not read it yet.
    waits: bool,
}

impl Reader {
    /// The run's events after index `after` (from the first when absent), first those stored, then live ones, until the
    /// run is at rest.
    pub fn events(&self, run_id: &RunId, after: Option<u64>) -> EventStream {
        EventStream::new(self.clone(), run_id.clone(), after)
    }
}

impl EventStream {
    fn new(reader: Reader, run_id: RunId, after: Option<u64>) -> Self {
        let ear = reader.inner.services.hub.subscribe(&run_id);
        let next_index = after.map_or(0, |after| after.saturating_add(1));
        Self {
            reader,
            run_id,
            ear,
            next_index,
            buffer: VecDeque::new(),
            looked: None,
            log: None,
            is_over: false,
            ends_at_rest: true,
            settings: None,
            waits: false,
        }
    }

    /// Goes on waiting while the run is paused, until it has ended.
    #[must_use]
    pub fn through_pauses(self) -> Self {
        Self { ends_at_rest: false, ..self }
    }

    /// Gives what these settings have a stream tell. The indexes of what is left out are missing then.
    #[must_use]
    pub fn telling(self, settings: EventSettings) -> Self {
        Self { settings: Some(Box::new(settings)), ..self }
    }

    /// The next event; none when the run has ended, or is paused and none of it executes. Until then this waits. After
    /// a pause it may be called again.
    ///
    /// # Cancel safety
    /// Safe: dropping the future loses no event.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Damaged`], or the store's.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Error> {
        loop {
            while let Some(event) = self.buffer.pop_front() {
                if self.settings.as_ref().is_none_or(|settings| settings.streams(&event)) {
                    return Ok(Some(Arc::unwrap_or_clone(event)));
                }
            }
            if self.is_over {
                return Ok(None);
            }
            let mark = *self.ear.mark.borrow_and_update();
            let is_waited_for = std::mem::take(&mut self.waits) && mark.next_index > self.next_index;
            if !self.is_at_the_end(&mark) {
                if self.read().await? {
                    self.looked = Some(mark.looks);
                    if let Some(told_at) = mark.told_at.filter(|_| is_waited_for) {
                        self.reader.inner.services.counters.event_lags.add(told_at.elapsed());
                    }
                    continue;
                }
                let run = self.stored_run().await?;
                if run.status.is_terminal() || (self.ends_at_rest && run.is_at_rest()) {
                    // It may have come to rest between the two reads: its last entries must not be missed.
                    if self.read().await? {
                        continue;
                    }
                    return Ok(None);
                }
                // Only after the reads: this future may be dropped at any of them.
                self.looked = Some(mark.looks);
            }
            let next_index = self.next_index;
            let news = self.ear.mark.wait_for(|now| now.next_index > next_index || now.looks != mark.looks);
            match tokio::time::timeout(LOOK_PERIOD, news).await {
                Ok(_) => self.waits = true,
                Err(_) => self.looked = None,
            }
        }
    }

    /// Whether nothing can have been written since the last read: this process executes the run, and has told how long
    /// the log is.
    fn is_at_the_end(&self, mark: &Mark) -> bool {
        self.looked == Some(mark.looks) && mark.next_index == self.next_index && self.next_index > 0 && !mark.rests
    }

    /// The events that are stored now, without waiting for more.
    ///
    /// # Errors
    /// As [`EventStream::next`].
    pub async fn stored(mut self) -> Result<Vec<RunEvent>, Error> {
        while self.read().await? {}
        Ok(self.buffer.into_iter().map(Arc::unwrap_or_clone).collect())
    }

    async fn read(&mut self) -> Result<bool, Error> {
        // What others have read may only be given to those allowed to read it.
        if self.log.is_none() {
            let run = self.stored_run().await?;
            self.log = Some(Box::new(LogReader::new(&run.info, self.reader.access.clone())));
        }
        let Self { reader, run_id, ear, next_index, log: Some(log), .. } = self else { return Ok(false) };
        let from = *next_index;
        if !ear.has_company() {
            let (events, _) = stored_events(reader, run_id, from, log).await?;
            return Ok(self.take(events));
        }
        let mut recent = ear.recent().await;
        let mut events = recent.from(from, GIVEN_MAX);
        if events.is_empty() {
            let bytes;
            (events, bytes) = stored_events(reader, run_id, from, log).await?;
            recent.keep(&events, bytes / events.len().max(1));
        }
        drop(recent);
        Ok(self.take(events))
    }

    /// Takes in what was read; false when there was nothing.
    fn take(&mut self, events: Vec<Arc<RunEvent>>) -> bool {
        let Some(last) = events.last() else { return false };
        self.next_index = last.event_index.map_or(self.next_index, |index| index + 1);
        self.is_over |= last.is_terminal();
        self.buffer.extend(events);
        true
    }

    async fn stored_run(&self) -> Result<Run, Error> {
        let run = self.reader.record(&self.run_id).await?;
        run.ok_or_else(|| Error::RunNotFound(self.run_id.clone()))
    }
}

/// What the store has from index `from` on, and its size there in bytes.
async fn stored_events(
    reader: &Reader,
    run_id: &RunId,
    from: u64,
    log: &mut LogReader,
) -> Result<(Vec<Arc<RunEvent>>, usize), Error> {
    let db = &reader.inner.services.db;
    let pages = db.read(reader.access.clone(), run_id.clone(), from, READ_BYTES).await?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    for page in pages {
        bytes += page.body.len();
        let entries = log.entries(&**db, &page).await?.into_iter().map(|entry| entry.event);
        events.extend(entries.filter(|event| event.event_index >= Some(from)).map(Arc::new));
    }
    Ok((events, bytes))
}
