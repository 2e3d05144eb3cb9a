//! Subscriptions: a run's events from any index, stored ones and live ones the same way, because watching is reading the
//! log.

use crate::engine::Engine;
use crate::error::Error;
use crate::hub::Ear;
use outlive_core::{RunEvent, RunId};
use std::collections::VecDeque;
use std::time::Duration;

/// Bytes of log read at once: what one subscriber may hold in memory.
const READ_BYTES: usize = 256 << 10;

/// How long a subscriber trusts in being told: then it looks for itself.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// A run's events in order, without gap or repetition. A slow reader slows nobody: it only reads later.
pub struct EventStream {
    engine: Engine,
    run_id: RunId,
    ear: Ear,
    next_index: u64,
    buffer: VecDeque<RunEvent>,
    is_over: bool,
}

impl EventStream {
    pub(crate) fn new(engine: Engine, run_id: RunId, after: Option<u64>) -> Self {
        let ear = engine.inner.services.hub.subscribe(&run_id);
        let next_index = after.map_or(0, |after| after + 1);
        Self { engine, run_id, ear, next_index, buffer: VecDeque::new(), is_over: false }
    }

    /// The next event; nothing after the run's last. While the run is unfinished this waits.
    ///
    /// # Cancel safety
    /// Safe: an event is lost to nobody by dropping the future.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::Damaged`], or the store's.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Error> {
        loop {
            if let Some(event) = self.buffer.pop_front() {
                return Ok(Some(event));
            }
            if self.is_over {
                return Ok(None);
            }
            let mark = *self.ear.mark.borrow_and_update();
            if self.read().await? {
                continue;
            }
            if !self.is_unfinished().await? {
                self.is_over = true;
                // The run may have ended between the two reads: what it said last must not be missed.
                self.read().await?;
                continue;
            }
            let next_index = self.next_index;
            let news = self.ear.mark.wait_for(|now| now.next_index > next_index || now.looks != mark.looks);
            let _ = tokio::time::timeout(LOOK_PERIOD, news).await;
        }
    }

    /// The events that are stored now, without waiting for more.
    ///
    /// # Errors
    /// As [`EventStream::next`].
    pub async fn stored(mut self) -> Result<Vec<RunEvent>, Error> {
        while self.read().await? {}
        if self.buffer.is_empty() && self.next_index == 0 {
            self.is_unfinished().await?;
        }
        Ok(self.buffer.into())
    }

    async fn read(&mut self) -> Result<bool, Error> {
        let db = &self.engine.inner.services.db;
        let pages = db.read(self.run_id.clone(), self.next_index, READ_BYTES).await?;
        let before = self.next_index;
        for page in pages {
            for entry in page.decode(&self.run_id)? {
                let index = entry.event.event_index.unwrap_or_default();
                if index >= self.next_index {
                    self.next_index = index + 1;
                    self.is_over |= entry.event.is_terminal();
                    self.buffer.push_back(entry.event);
                }
            }
        }
        Ok(self.next_index > before)
    }

    async fn is_unfinished(&self) -> Result<bool, Error> {
        let run = self.engine.inner.services.db.run(self.run_id.clone()).await?;
        let run = run.ok_or_else(|| Error::RunNotFound(self.run_id.clone()))?;
        Ok(!run.status.is_terminal())
    }
}
