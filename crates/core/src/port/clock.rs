//! Time and chance, injected so that a whole engine can run in simulated time from a printed seed.

use crate::time::Timestamp;

/// The wall clock. Waiting is not part of it: an engine waits on its runtime's timer, which tests pause.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// A source of random bits.
pub trait Chance: Send + Sync + 'static {
    /// Fresh random bits.
    fn bits(&self) -> u64;

    /// Fresh random bits, enough for an id.
    fn wide_bits(&self) -> u128 {
        (u128::from(self.bits()) << 64) | u128::from(self.bits())
    }
}
