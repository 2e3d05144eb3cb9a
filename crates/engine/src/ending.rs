//! How a run ended that this process executed itself, for whoever submitted it here and holds its handle: what has just
//! been committed need not be read back.
//!
//! It must never say anything the store does not say: it is set after the commit that ends the run, and only when nothing
//! of the run had to be redacted. Whoever finds it empty reads the store.

use outlive_core::WorkflowRunOutput;
use std::sync::{Arc, OnceLock};

/// Empty until the run has ended here.
#[derive(Debug, Default)]
pub(crate) struct Ending(OnceLock<Box<WorkflowRunOutput>>);

impl Ending {
    pub(crate) fn get(&self) -> Option<&WorkflowRunOutput> {
        self.0.get().map(|output| &**output)
    }

    pub(crate) fn set(&self, output: Box<WorkflowRunOutput>) {
        // A run ends once.
        drop(self.0.set(output));
    }

    /// Whether anybody but its run holds it.
    pub(crate) fn is_wanted(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}
