//! What this process may use of the rates that it shares with others: takes shares from the store, has calls use them, and
//! gives back what they did not use.
//!
//! A share serves as many calls as it has room for, so most calls cost one look at a number. It must never know a call or
//! a server. The invariant: what calls use here was given by the store before; what is forgotten here, because somebody
//! went away or the process died, comes back by itself when its time has passed.

use crate::finish::Finish;
use crate::inner::Inner;
use crate::services::Services;
use outlive_core::Timestamp;
use outlive_core::port::{Admitted, Chance, DbError, RateLimit, RateShare, ShareRequest, ShareReturn, Sharing};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// After a store that failed is asked again.
const STORE_WAIT: Duration = Duration::from_secs(1);
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
    fn holder(&self, chance: &dyn Chance) -> Arc<str> {
        let new = || Arc::from(format!("{:016x}{:016x}", chance.bits(), chance.bits()));
        self.holder.get_or_init(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Rate>> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call use what is here.
    fn admit(&self, limit: &RateLimit, tokens: u64, now: Timestamp) -> Option<Admitted> {
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
    fn take_back(&self, key: &Arc<str>, with_share: bool) -> Vec<ShareReturn> {
        let mut rates = self.lock();
        let Some(rate) = rates.get_mut(key) else { return Vec::new() };
        if let Some(left) = rate.share.take_if(|_| with_share) {
            rate.give_back(left_of(left));
        }
        std::mem::take(&mut rate.back)
    }

    fn keep(&self, key: &Arc<str>, share: RateShare) {
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

/// Lets a call count against a rate, with what this process has of it or takes for it.
///
/// # Errors
/// After which time to ask again.
///
/// # Cancel safety
/// Once begun, taking a share finishes; the next call finds it.
pub(crate) async fn admit(
    services: &Arc<Services>,
    limit: &Arc<RateLimit>,
    tokens: u64,
) -> Result<Option<Admitted>, Duration> {
    let here = || services.shares.admit(limit, tokens, services.clock.now());
    if let Some(admitted) = here() {
        return Ok(Some(admitted));
    }
    Finish::new(&Handle::current(), take(services.clone(), limit.clone(), tokens)).await?;
    // Another call may have been faster.
    here().map(Some).ok_or(limit.part())
}

/// Takes a share.
async fn take(services: Arc<Services>, limit: Arc<RateLimit>, tokens: u64) -> Result<(), Duration> {
    let shares = &services.shares;
    let request = ShareRequest {
        holder: shares.holder(&*services.chance),
        tokens,
        // Not given back when the answer is lost: it may have been, and twice would be too much.
        returned: shares.take_back(&limit.key, true),
        at: services.clock.now(),
        limit: limit.clone(),
    };
    match services.db.take_share(request).await {
        Ok(Sharing::Share(share)) => {
            shares.keep(&limit.key, share);
            Ok(())
        }
        Ok(Sharing::Wait(wait)) => Err(wait),
        Err(error) => {
            tracing::warn!(%error, "a share of a rate could not be taken: calls wait");
            Err(STORE_WAIT)
        }
    }
}

/// Gives back what calls did not use, without waiting for the next.
pub(crate) async fn give_back(inner: &Inner) -> Result<(), DbError> {
    let shares = &inner.services.shares;
    let keys: Vec<Arc<str>> = shares.lock().keys().cloned().collect();
    for key in keys {
        let back = shares.take_back(&key, false);
        if !back.is_empty() {
            let holder = shares.holder(&*inner.services.chance);
            inner.services.db.return_shares(key, holder, back).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
