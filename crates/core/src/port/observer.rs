//! Observers that hear what became durable, apart from the readers of the log: traces, for example.
//!
//! Invariant: what a witness has heard is in the log. It hears each entry once for each time this process claimed the
//! run, in log order.

use super::BoxFuture;
use crate::log::Entry;
use crate::run::RunInfo;
use std::sync::Arc;

/// Hears of every commit of the runs that one engine executes. It must neither block nor panic: it is called by the tasks
/// that execute the runs.
pub trait Observer: Send + Sync + 'static {
    /// A run begins to execute here, for the first time or again. None, when nothing needs to hear of this run.
    fn witness(&self, run: &Arc<RunInfo>) -> Option<Box<dyn Witness>>;

    /// Passes on what was heard, as the engine shuts down. Takes a few seconds at most.
    ///
    /// # Cancel safety
    /// Safe: what was not passed on yet is passed on later, or never.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Hears of one run for as long as it executes here; dropped when it ends, waits in the store, or is lost.
pub trait Witness: Send + 'static {
    /// Entries of earlier claims, which another process may have written. All of them come before the first
    /// [`Witness::committed`].
    fn replayed(&mut self, entries: &[Entry]);

    /// Entries that have just become durable, as they were written: without secrets.
    fn committed(&mut self, entries: &[Entry]);
}
