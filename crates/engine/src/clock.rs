//! The real clock and real randomness.

use outlive_core::Timestamp;
use outlive_core::port::{Chance, Clock};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The machine's source of randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn bits(&self) -> u64 {
        rand::random()
    }
}

/// Whether the runtime's time is simulated: then only its own tasks may wait by it.
#[cfg(feature = "testing")]
pub(crate) fn is_simulated() -> bool {
    let before = std::time::Instant::now();
    let now = tokio::time::Instant::now().into_std();
    now < before || now > std::time::Instant::now()
}

#[cfg(not(feature = "testing"))]
pub(crate) fn is_simulated() -> bool {
    false
}
