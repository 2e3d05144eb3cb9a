//! Counts wrong credentials. It never judges a right one: the caller asks only after a credential has failed.
//!
//! The invariant: its memory is bounded, however many addresses fail.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures that are answered plainly in one [`WINDOW`].
const FAILURES_MAX: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Sources remembered at the same time.
const SOURCES_MAX: usize = 8192;

/// Where a wrong credential came from, or which key it pretends to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// An address; of IPv6 the network, because its owner has 2⁶⁴ addresses.
    Address(IpAddr),
    /// The public part of an API key.
    KeyPrefix(Box<str>),
}

impl Source {
    pub(super) fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self::Address(IpAddr::from((u128::from(v6) >> 64 << 64).to_be_bytes())),
            v4 => Self::Address(v4),
        }
    }
}

#[derive(Default)]
pub(super) struct Limiter(Mutex<HashMap<Source, Failures>>);

struct Failures {
    count: u32,
    ends_at: Instant,
}

impl Limiter {
    /// Counts a failure. Answers how long to wait when the source failed too often.
    pub(super) fn failed(&self, source: Source) -> Option<Duration> {
        let now = Instant::now();
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        make_room(&mut sources, now);
        let fresh = || Failures { count: 0, ends_at: now + WINDOW };
        let failures = sources.entry(source).or_insert_with(fresh);
        if failures.ends_at <= now {
            *failures = fresh();
        }
        failures.count = failures.count.saturating_add(1);
        (failures.count > FAILURES_MAX).then(|| failures.ends_at - now)
    }
}

/// Forgets what is over; when that is not enough, everything. A flood from thousands of addresses then starts again at
/// zero, which is cheaper than to let it fill the memory or to search for the oldest at each failure.
fn make_room(sources: &mut HashMap<Source, Failures>, now: Instant) {
    if sources.len() < SOURCES_MAX {
        return;
    }
    sources.retain(|_, failures| failures.ends_at > now);
    if sources.len() > SOURCES_MAX / 2 {
        sources.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Source {
        Source::address(text.parse().expect("an address"))
    }

    #[tokio::test(start_paused = true)]
    async fn bad_b02_after_twenty_failures_in_a_minute_a_source_is_told_to_wait() {
        let limiter = Limiter::default();
        for _ in 0..20 {
            assert_eq!(limiter.failed(address("10.0.0.1")), None);
        }
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(limiter.failed(address("10.0.0.1")), Some(Duration::from_secs(45)));
        assert_eq!(limiter.failed(address("10.0.0.2")), None);
        tokio::time::advance(Duration::from_secs(45)).await;
        assert_eq!(limiter.failed(address("10.0.0.1")), None);
    }

    #[test]
    fn an_ipv6_network_and_a_mapped_address_are_one_source() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:10.0.0.1"), address("10.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_fills_no_memory() {
        let limiter = Limiter::default();
        for number in 0..100_000_u32 {
            limiter.failed(Source::address(IpAddr::from(number.to_be_bytes())));
        }
        assert!(limiter.0.lock().expect("not poisoned").len() <= SOURCES_MAX);
    }
}
