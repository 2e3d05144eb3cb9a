//! How a run ended that this process executed itself, for whoever submitted it here and holds its handle: what has just
//! been committed need not be read back.
//!
//! It must never say anything the store does not say: it is set after the commit that ends the run, and only when nothing
//! of the run had to be redacted. Whoever finds it empty, or finds that runs may have been deleted since, reads the store.

use outlive_core::WorkflowRunOutput;
use std::sync::{Arc, OnceLock};

/// Empty until the run has ended here.
#[derive(Debug, Default)]
pub(crate) struct Ending(OnceLock<Ended>);

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) output: Box<WorkflowRunOutput>,
    /// What [`Hub::deletions`](crate::hub::Hub::deletions) was before the commit.
    pub(crate) deletions: u64,
}

impl Ending {
    pub(crate) fn get(&self) -> Option<&WorkflowRunOutput> {
        self.0.get().map(|ended| &*ended.output)
    }

    /// The same, if no run may have been deleted since.
    pub(crate) fn still(&self, deletions: u64) -> Option<&WorkflowRunOutput> {
        self.0.get().filter(|ended| ended.deletions == deletions).map(|ended| &*ended.output)
    }

    pub(crate) fn set(&self, ended: Ended) {
        // A run ends once.
        drop(self.0.set(ended));
    }

    /// Whether anybody but its run holds it.
    pub(crate) fn is_wanted(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}
