//! The hub: wakes readers with "this run has news". It carries no events, so it can lose nothing: readers read the log.

use outlive_core::RunId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What a reader is told. A hint, never the truth: that is in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Length of the log after the newest commit seen by this process.
    pub(crate) next_index: u64,
    /// The run has reached its end.
    pub(crate) ended: bool,
    /// Raised when readers should look for themselves: another process changed something, or the run left this one.
    pub(crate) looks: u64,
}

/// Readers by run. Runs without readers cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    topics: Mutex<HashMap<RunId, Arc<watch::Sender<Mark>>>>,
}

/// One reader's ear. Dropping it unsubscribes.
#[derive(Debug)]
pub(crate) struct Ear {
    hub: Arc<Hub>,
    run_id: RunId,
    pub(crate) mark: watch::Receiver<Mark>,
}

impl Hub {
    /// Listens for news of a run. Subscribe first, read then: news in between is not lost.
    pub(crate) fn subscribe(self: &Arc<Self>, run_id: &RunId) -> Ear {
        let mut topics = self.lock();
        let topic = topics.entry(run_id.clone()).or_insert_with(|| Arc::new(watch::Sender::new(Mark::default())));
        Ear { hub: self.clone(), run_id: run_id.clone(), mark: topic.subscribe() }
    }

    /// A commit of this process is durable.
    pub(crate) fn publish(&self, run_id: &RunId, next_index: u64, ended: bool) {
        let topic = self.lock().get(run_id).cloned();
        if let Some(topic) = topic {
            topic.send_modify(|mark| {
                mark.next_index = mark.next_index.max(next_index);
                mark.ended |= ended;
            });
        }
    }

    /// A run does not execute here any more: whoever counted on being told looks for himself.
    pub(crate) fn publish_gone(&self, run_id: &RunId) {
        let topic = self.lock().get(run_id).cloned();
        if let Some(topic) = topic {
            topic.send_modify(|mark| mark.looks += 1);
        }
    }

    /// Another process may have changed any run.
    pub(crate) fn publish_foreign(&self) {
        let topics: Vec<_> = self.lock().values().cloned().collect();
        for topic in topics {
            topic.send_modify(|mark| mark.looks += 1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<RunId, Arc<watch::Sender<Mark>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        // This ear is still counted: one receiver means nobody else listens.
        if topics.get(&self.run_id).is_some_and(|topic| topic.receiver_count() <= 1) {
            topics.remove(&self.run_id);
        }
    }
}
