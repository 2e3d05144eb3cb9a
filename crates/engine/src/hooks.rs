//! Hooks, as the sender of a run's events sees them: what is due, who holds it, how far it has got.
//!
//! The engine never sends anything itself. It adds the time, and lets users see and rewind only the hooks of their own
//! runs; the sender's calls belong to the process itself and know no user.

use crate::engine::Engine;
use crate::error::Error;
use outlive_core::port::{DueHooks, Hook, HookMove};
use outlive_core::{RunId, Timestamp};
use std::time::Duration;

impl Engine {
    /// Now, by this engine's clock, which the times of hooks are measured by.
    pub fn now(&self) -> Timestamp {
        self.inner().services.clock.now()
    }

    /// The hooks that have something to send now, at most `limit`. Not for answering a user.
    ///
    /// # Errors
    /// The store's.
    pub async fn due_hooks(&self, limit: u32) -> Result<DueHooks, Error> {
        Ok(self.inner().services.db.due_hooks(self.now(), limit).await?)
    }

    /// Takes a hook for `period`, if nobody holds it. Not for answering a user.
    ///
    /// # Cancel safety
    /// After a drop the hook may be held until `period` is over.
    ///
    /// # Errors
    /// The store's.
    pub async fn claim_hook(&self, run_id: &RunId, period: Duration) -> Result<Option<Hook>, Error> {
        Ok(self.inner().services.db.claim_hook(run_id.clone(), self.now(), period).await?)
    }

    /// Moves the cursor of a hook that is held. Not for answering a user.
    ///
    /// # Cancel safety
    /// After a drop it may or may not have moved; what was sent is then sent again.
    ///
    /// # Errors
    /// The store's; `Fenced` when somebody else holds it now.
    pub async fn move_hook(&self, step: HookMove) -> Result<(), Error> {
        Ok(self.inner().services.db.move_hook(step).await?)
    }

    /// Sends a run's events again from index `from` on; none when there is no such run or it has no hook.
    ///
    /// # Cancel safety
    /// Safe: doing it twice is harmless.
    ///
    /// # Errors
    /// The store's.
    pub async fn rewind_hook(&self, run_id: &RunId, from: u64) -> Result<Option<Hook>, Error> {
        Ok(self.inner().services.db.rewind_hook(self.access().clone(), run_id.clone(), from).await?)
    }
}
