//! The hub: wakes readers with "this run has news". It carries no events, so it cannot lose any: readers read the log.
//!
//! What one reader has read of a run stays here for a while, so that a thousand readers of one run do not read the same
//! page a thousand times ([`Recent`]). All of it comes from the log, and a reader that does not find what it needs here
//! reads the log.

use outlive_core::{RunEvent, RunId};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// How many changes a reader of all runs may lag behind before it gets [`Change::Anything`] instead.
const CHANGES_MAX: usize = 1024;

/// What has news. A hint, never the truth: that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This run, by a commit of this process.
    Run(RunId),
    /// Any run: another process changed something, or this reader fell behind.
    Anything,
}

/// Hears of every change. Holding it slows nobody down.
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<Change>);

impl Changes {
    /// The next change; none once the engine is gone.
    ///
    /// # Cancel safety
    /// Safe: what was not returned comes with the next call.
    pub async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::Anything),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What a reader is told. A hint, never the truth: that is in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Length of the log after the newest commit seen by this process.
    pub(crate) next_index: u64,
    /// When this process heard of it.
    pub(crate) told_at: Option<Instant>,
    /// The newest commit said that the run has ended, or is paused.
    pub(crate) rests: bool,
    /// Raised when readers must read again: another process changed something, or the run left this one.
    pub(crate) looks: u64,
}

/// Readers by run, and readers of all runs. Runs without readers cost nothing.
#[derive(Debug)]
pub(crate) struct Hub {
    topics: Mutex<HashMap<RunId, Followed>>,
    changes: broadcast::Sender<Change>,
    deletions: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        Self { topics: Mutex::default(), changes: broadcast::Sender::new(CHANGES_MAX), deletions: AtomicU64::new(0) }
    }
}

/// A run with readers. They are counted only here, so that the topic is removed with the last of them.
#[derive(Debug)]
struct Followed {
    topic: Arc<Topic>,
    ears: usize,
}

/// What the readers of one run share.
#[derive(Debug)]
struct Topic {
    mark: watch::Sender<Mark>,
    recent: tokio::sync::Mutex<Recent>,
}

/// Events kept for the readers of one run, and their bytes on disk.
const RECENT_MAX: usize = 512;
const RECENT_BYTES_MAX: usize = 512 << 10;

/// The newest events read of a run, without a gap.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    events: VecDeque<(Arc<RunEvent>, usize)>,
    bytes: usize,
}

impl Recent {
    /// At most `max` events from this index on; none when they are not kept here.
    pub(crate) fn from(&self, index: u64, max: usize) -> Vec<Arc<RunEvent>> {
        let first = self.events.front().and_then(|(event, _)| event.event_index);
        let skip = first.and_then(|first| usize::try_from(index.checked_sub(first)?).ok());
        let skip = skip.unwrap_or(self.events.len());
        self.events.iter().skip(skip).take(max).map(|(event, _)| event.clone()).collect()
    }

    /// Keeps these events, each of about this many bytes, if they continue what is here or are newer.
    pub(crate) fn keep(&mut self, events: &[Arc<RunEvent>], bytes_each: usize) {
        let index = |event: &Arc<RunEvent>| event.event_index.unwrap_or_default();
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let end = self.events.back().map(|(event, _)| index(event) + 1);
        match end {
            Some(end) if index(last) < end => return,
            Some(end) if index(first) != end => (self.events, self.bytes) = (VecDeque::new(), 0),
            Some(_) | None => {}
        }
        for event in events {
            self.events.push_back((event.clone(), bytes_each));
            self.bytes += bytes_each;
        }
        while self.events.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some((_, bytes)) = self.events.pop_front() else { break };
            self.bytes -= bytes;
        }
    }
}

/// One reader's ear. Dropping it unsubscribes.
#[derive(Debug)]
pub(crate) struct Ear {
    topic: Arc<Topic>,
    hub: Arc<Hub>,
    run_id: RunId,
    pub(crate) mark: watch::Receiver<Mark>,
}

impl Hub {
    /// Listens for news of a run. Subscribe first, then read: no news in between is lost.
    pub(crate) fn subscribe(self: &Arc<Self>, run_id: &RunId) -> Ear {
        let mut topics = self.lock();
        let new = || Topic { mark: watch::Sender::new(Mark::default()), recent: tokio::sync::Mutex::default() };
        let new = || Followed { topic: Arc::new(new()), ears: 0 };
        let followed = topics.entry(run_id.clone()).or_insert_with(new);
        followed.ears += 1;
        let topic = followed.topic.clone();
        Ear { hub: self.clone(), run_id: run_id.clone(), mark: topic.mark.subscribe(), topic }
    }

    /// Listens for news of all runs.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.changes.subscribe())
    }

    /// Notifies the readers of all runs.
    pub(crate) fn changed(&self, run_id: &RunId) {
        if self.changes.receiver_count() > 0 {
            // An error means that the last listener has just gone.
            let _ = self.changes.send(Change::Run(run_id.clone()));
        }
    }

    /// A commit of this process is durable.
    pub(crate) fn publish(&self, run_id: &RunId, next_index: u64, rests: bool) {
        self.changed(run_id);
        if let Some(topic) = self.topic(run_id) {
            topic.mark.send_modify(|mark| {
                mark.next_index = mark.next_index.max(next_index);
                mark.told_at = Some(Instant::now());
                mark.rests = rests;
            });
        }
    }

    /// Something else in this process changed a run.
    pub(crate) fn publish_look(&self, run_id: &RunId) {
        self.changed(run_id);
        self.publish_gone(run_id);
    }

    /// A run does not execute here any more: its readers must read again.
    pub(crate) fn publish_gone(&self, run_id: &RunId) {
        if let Some(topic) = self.topic(run_id) {
            topic.mark.send_modify(|mark| mark.looks += 1);
        }
    }

    /// How often runs may have been deleted, as far as this process has heard.
    pub(crate) fn deletions(&self) -> u64 {
        self.deletions.load(Ordering::Acquire)
    }

    /// Runs may have been deleted.
    pub(crate) fn deleted(&self) {
        self.deletions.fetch_add(1, Ordering::Release);
    }

    /// Another process may have changed any run.
    pub(crate) fn publish_foreign(&self) {
        self.deleted();
        let _ = self.changes.send(Change::Anything);
        let topics: Vec<_> = self.lock().values().map(|followed| followed.topic.clone()).collect();
        for topic in topics {
            topic.mark.send_modify(|mark| mark.looks += 1);
        }
    }

    fn topic(&self, run_id: &RunId) -> Option<Arc<Topic>> {
        self.lock().get(run_id).map(|followed| followed.topic.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Followed>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ear {
    /// Whether others here read the same run.
    pub(crate) fn has_company(&self) -> bool {
        self.topic.mark.receiver_count() > 1
    }

    /// What was recently read of the run, for one reader at a time: a reader of the log meanwhile reads for all.
    pub(crate) async fn recent(&self) -> tokio::sync::MutexGuard<'_, Recent> {
        self.topic.recent.lock().await
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        if let Entry::Occupied(mut followed) = topics.entry(self.run_id.clone()) {
            followed.get_mut().ears -= 1;
            if followed.get().ears == 0 {
                followed.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_id() -> RunId {
        RunId::parse("followed").expect("a good id")
    }

    #[test]
    fn a_topic_goes_with_its_last_reader() {
        let hub = Arc::new(Hub::default());
        let (one, other) = (hub.subscribe(&run_id()), hub.subscribe(&run_id()));
        // A receiver is dropped only after its ear has checked, so others that check meanwhile still see it.
        let receivers = [one.mark.clone(), other.mark.clone()];
        drop(one);
        assert_eq!(hub.lock().len(), 1);
        drop(other);
        assert!(hub.lock().is_empty());
        drop(receivers);
        drop(hub.subscribe(&run_id()));
        assert!(hub.lock().is_empty());
    }

    #[test]
    fn readers_that_go_at_the_same_time_leave_nothing() {
        let hub = Arc::new(Hub::default());
        for _ in 0..500 {
            let start = std::sync::Barrier::new(4);
            let ears: Vec<Ear> = (0..4).map(|_| hub.subscribe(&run_id())).collect();
            std::thread::scope(|scope| {
                for ear in ears {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        drop(ear);
                    });
                }
            });
            assert!(hub.lock().is_empty());
        }
    }
}
