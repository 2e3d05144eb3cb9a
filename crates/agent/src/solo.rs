//! Effects for an agent that runs on its own: nothing is kept, nothing is recalled, and every event goes to the
//! listener.
//!
//! It must never know an agent. When the process ends, so does such a run; durable runs have a workflow and its store.

use outlive_core::port::{BoxFuture, Effects, Halt, Recall};
use outlive_core::{EventKind, Key, Origin, Record, RunEvent, RunId, Timestamp};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Pass-through effects: the system's clock, the runtime's timer and a listener.
pub(crate) struct Solo<F> {
    listener: Mutex<F>,
}

impl<F: FnMut(RunEvent) + Send> Solo<F> {
    pub(crate) fn new(listener: F) -> Self {
        Self { listener: Mutex::new(listener) }
    }

    /// A fresh id for the run.
    pub(crate) fn run_id(&self) -> RunId {
        RunId::new(self.now(), (u128::from(self.chance()) << 64) | u128::from(self.chance()))
    }

    fn show(&self, kind: EventKind, origin: &Origin) {
        let created_at = self.now().as_seconds();
        let event = RunEvent { created_at, kind, origin: origin.clone(), event_index: None };
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        listener(event);
    }
}

impl<F: FnMut(RunEvent) + Send> Effects for Solo<F> {
    fn now(&self) -> Timestamp {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
    }

    fn recall(&self, _key: &Key) -> Recall {
        Recall::Nothing
    }

    fn tell(&self, kind: EventKind, origin: &Origin, _record: Option<Record>) {
        self.show(kind, origin);
    }

    fn stream(&self, kind: EventKind, origin: &Origin) {
        self.show(kind, origin);
    }

    fn durable(&self) -> BoxFuture<'_, Result<(), Halt>> {
        Box::pin(async { Ok(()) })
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }

    /// The standard library seeds its hashers from the system, which is random enough for jitter and ids.
    fn chance(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
