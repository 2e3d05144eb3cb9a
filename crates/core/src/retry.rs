//! When to try again: exponential back-off with jitter, computed, never slept.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often and how patiently a failed step is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Tries after the first; 0 means none.
    pub times: u32,
    /// Wait before the second try, in milliseconds; doubles with each further one.
    pub backoff_ms: u64,
    /// Longest wait, in milliseconds.
    pub backoff_ms_max: u64,
}

impl Default for Retry {
    /// No retries; 1 s doubling to 5 min once some are asked for.
    fn default() -> Self {
        Self { times: 0, backoff_ms: 1000, backoff_ms_max: 300_000 }
    }
}

impl Retry {
    /// This many tries after the first.
    pub fn times(times: u32) -> Self {
        Self { times, ..Self::default() }
    }

    /// Wait this long before the second try.
    pub fn backoff(mut self, first: Duration) -> Self {
        self.backoff_ms = u64::try_from(first.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Never wait longer than this.
    pub fn backoff_max(mut self, longest: Duration) -> Self {
        self.backoff_ms_max = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The wait after the failed attempt `attempt` (from 1): the doubled back-off, between half and all of it as
    /// `chance` (any random bits) decides, and never less than the other side's `Retry-After`; above that it adds up to
    /// a tenth, one second at most, so that callers told the same time do not all come back at once.
    pub fn wait(&self, attempt: u32, retry_after_ms: Option<u64>, chance: u64) -> Duration {
        let full = self.backoff_ms.saturating_mul(1u64 << attempt.saturating_sub(1).min(32)).min(self.backoff_ms_max);
        let half = full / 2;
        let jittered = half + chance % (full - half + 1);
        let stated = retry_after_ms.unwrap_or(0);
        Duration::from_millis(jittered.max(stated.saturating_add(chance % (stated.min(10_000) / 10 + 1))))
    }
}
