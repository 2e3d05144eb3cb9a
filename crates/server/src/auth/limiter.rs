//! Counts what comes too often from one source: wrong credentials, refusals. It never judges what is right: it is asked
//! only after something went wrong.
//!
//! The invariant: its memory is bounded, however many sources there are.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Sources remembered at the same time.
const SOURCES_MAX: usize = 8192;

/// Where a wrong credential came from, or which key it pretends to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An address; of IPv6 the network, because its owner has 2⁶⁴ addresses.
    Address(IpAddr),
    /// The public part of an API key.
    KeyPrefix(Box<str>),
}

impl Source {
    pub(crate) fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self::Address(IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes())),
            v4 => Self::Address(v4),
        }
    }
}

/// Allows each source so much in each window of time.
pub(crate) struct Limiter<S> {
    sources: Mutex<HashMap<S, Window>>,
    allowed: u32,
    period: Duration,
}

struct Window {
    count: u32,
    ends_at: Instant,
}

impl<S: Hash + Eq> Limiter<S> {
    pub(crate) fn new(allowed: u32, period: Duration) -> Self {
        Self { sources: Mutex::default(), allowed, period }
    }

    /// Counts one more. Answers how long to wait when there were too many from this source.
    pub(crate) fn count(&self, source: S) -> Option<Duration> {
        let now = Instant::now();
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut sources, now);
        let fresh = || Window { count: 0, ends_at: now + self.period };
        let window = sources.entry(source).or_insert_with(fresh);
        if window.ends_at <= now {
            *window = fresh();
        }
        window.count = window.count.saturating_add(1);
        (window.count > self.allowed).then(|| window.ends_at - now)
    }
}

/// Forgets what is over; when that is not enough, everything. A flood from thousands of sources then starts again at
/// zero, which is cheaper than to let it fill the memory or to search for the oldest at each failure.
fn make_room<S: Hash + Eq>(sources: &mut HashMap<S, Window>, now: Instant) {
    if sources.len() < SOURCES_MAX {
        return;
    }
    sources.retain(|_, window| window.ends_at > now);
    if sources.len() > SOURCES_MAX / 2 {
        sources.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> Limiter<Source> {
        Limiter::new(20, Duration::from_secs(60))
    }

    fn address(text: &str) -> Source {
        Source::address(text.parse().expect("an address"))
    }

    #[tokio::test(start_paused = true)]
    async fn bad_b02_after_twenty_failures_in_a_minute_a_source_is_told_to_wait() {
        let limiter = limiter();
        for _ in 0..20 {
            assert_eq!(limiter.count(address("10.0.0.1")), None);
        }
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(limiter.count(address("10.0.0.1")), Some(Duration::from_secs(45)));
        assert_eq!(limiter.count(address("10.0.0.2")), None);
        tokio::time::advance(Duration::from_secs(45)).await;
        assert_eq!(limiter.count(address("10.0.0.1")), None);
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one_source() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_fills_no_memory() {
        let limiter = limiter();
        for number in 0..100_000_u32 {
            limiter.count(Source::address(IpAddr::from(number.to_be_bytes())));
        }
        assert!(limiter.sources.lock().expect("not poisoned").len() <= SOURCES_MAX);
    }
}
