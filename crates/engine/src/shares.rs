//! What this process has of the rates that it shares with others: shares that calls use, and what they did not use.
//!
//! A share serves as many calls as it has room for, so most calls cost one look at a number. It must never know a store, a
//! call or a server. The invariant: what calls use here was given by the store before.

use outlive_core::Timestamp;
use outlive_core::port::{Admitted, Chance, RateLimit, RateShare, ShareReturn};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// From this part of a limit on, what is to be given back is not kept until the next call.
const BACK_PART: u64 = 32;

/// What a process has of shared rates.
#[derive(Default)]
pub(crate) struct Shares {
    /// The process, once it has asked for a share.
    holder: OnceLock<Arc<str>>,
    /// By the key of their limit.
    rates: Mutex<HashMap<Arc<str>, Rate>>,
    /// There is much to give back.
    pub(crate) has_much: Notify,
}

/// What a process has of one rate.
#[derive(Default)]
struct Rate {
    share: Option<RateShare>,
    /// What is to be given back.
    back: Vec<ShareReturn>,
}

impl Shares {
    pub(crate) fn holder(&self, chance: &dyn Chance) -> Arc<str> {
        let new = || Arc::from(format!("{:016x}{:016x}", chance.bits(), chance.bits()));
        self.holder.get_or_init(new).clone()
    }

    /// The keys of the rates that it has used.
    pub(crate) fn keys(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Rate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call use what is here.
    pub(crate) fn admit(&self, limit: &RateLimit, tokens: u64, now: Timestamp) -> Option<Admitted> {
        let mut rates = self.lock();
        let share = rates.get_mut(&limit.key)?.share.as_mut()?;
        if share.requests == 0 || share.tokens < tokens || share.good_until < now {
            return None;
        }
        share.requests -= 1;
        share.tokens -= tokens;
        Some(Admitted { tokens, counts_until: share.counts_until })
    }

    /// A call that was admitted has used so many tokens; none when it was not made.
    pub(crate) fn settle(&self, limit: &RateLimit, call: Admitted, used: Option<u64>) {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let tokens = signed(call.tokens).saturating_sub(signed(used.unwrap_or(0)));
        let back = ShareReturn { counts_until: call.counts_until, requests: i64::from(used.is_none()), tokens };
        let mut rates = self.lock();
        let rate = rates.entry(limit.key.clone()).or_default();
        rate.give_back(back);
        let sum = |of: fn(&ShareReturn) -> i64| rate.back.iter().map(of).fold(0, i64::saturating_add);
        let is_much = |most: Option<u64>, sum: i64| most.is_some_and(|most| sum > signed(most / BACK_PART));
        if is_much(limit.tokens, sum(|back| back.tokens)) || is_much(limit.requests, sum(|back| back.requests)) {
            self.has_much.notify_one();
        }
    }

    /// What is to be given back of a rate, with what is left of its share.
    pub(crate) fn take_back(&self, key: &Arc<str>, with_share: bool) -> Vec<ShareReturn> {
        let mut rates = self.lock();
        let Some(rate) = rates.get_mut(key) else { return Vec::new() };
        if let Some(left) = rate.share.take_if(|_| with_share) {
            rate.give_back(left_of(left));
        }
        std::mem::take(&mut rate.back)
    }

    pub(crate) fn keep(&self, key: &Arc<str>, share: RateShare) {
        let mut rates = self.lock();
        let rate = rates.entry(key.clone()).or_default();
        if let Some(left) = rate.share.replace(share) {
            rate.give_back(left_of(left));
        }
    }
}

impl Rate {
    fn give_back(&mut self, more: ShareReturn) {
        match self.back.iter_mut().find(|back| back.counts_until == more.counts_until) {
            Some(back) => {
                back.requests = back.requests.saturating_add(more.requests);
                back.tokens = back.tokens.saturating_add(more.tokens);
            }
            None => self.back.push(more),
        }
    }
}

/// What nobody has used of a share.
fn left_of(share: RateShare) -> ShareReturn {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    ShareReturn { counts_until: share.counts_until, requests: signed(share.requests), tokens: signed(share.tokens) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limit() -> RateLimit {
        RateLimit { key: Arc::from("k"), requests: None, tokens: Some(3200), window: Duration::from_secs(60) }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn a_share_serves_calls_as_long_as_it_is_good_and_has_room() {
        let shares = Shares::default();
        assert_eq!(shares.admit(&limit(), 10, at(0)), None);
        let share = RateShare { requests: 3, tokens: 100, good_until: at(900), counts_until: at(62_000) };
        shares.keep(&limit().key, share);
        let call = shares.admit(&limit(), 60, at(10)).expect("there is room");
        assert_eq!(call, Admitted { tokens: 60, counts_until: at(62_000) });
        assert_eq!(shares.admit(&limit(), 41, at(20)), None);
        assert!(shares.admit(&limit(), 40, at(900)).is_some());
        assert_eq!(shares.admit(&limit(), 0, at(901)), None);
        shares.settle(&limit(), call, Some(20));
        // One request of the share is left, and 40 tokens of the call.
        let back = shares.take_back(&limit().key, true);
        assert_eq!(back, [ShareReturn { counts_until: at(62_000), requests: 1, tokens: 40 }]);
        assert_eq!(shares.take_back(&limit().key, true), []);
    }

    #[test]
    fn what_calls_used_more_is_told_and_what_was_not_made_is_given_back_whole() {
        let shares = Shares::default();
        let call = Admitted { tokens: 60, counts_until: at(62_000) };
        shares.settle(&limit(), call, Some(90));
        shares.settle(&limit(), call, None);
        let back = shares.take_back(&limit().key, false);
        assert_eq!(back, [ShareReturn { counts_until: at(62_000), requests: 1, tokens: 30 }]);
    }
}
