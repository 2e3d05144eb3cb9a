//! Rates as a store keeps them: of what a model server takes in a window, which process may use how much.
//!
//! A process takes a share, uses it within a short time, and gives back what it did not use; what it took counts until no
//! window can hold a call of it any more. So a process that dies gives its share back by doing nothing, and a call does not
//! cost a transaction. It must never know a run, a call, or the key of a server. The invariant: in no window are there
//! shares of more than the limit, unless one call alone needs more than that.

use super::{BoxFuture, DbError};
use crate::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// By how much one call may take longer than another from its process to the server: this part of the window; where that is
/// less than this time, this time, but no more than that part.
const LATENESS_PART: u32 = 50;
const LATENESS: Duration = Duration::from_millis(200);
const LATENESS_PART_MAX: u32 = 20;

/// What a server takes in any time of this length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Whose: the same for everybody who shares it. Says nothing about the server's key.
    pub key: Arc<str>,
    /// Requests.
    pub requests: Option<u64>,
    /// Tokens, of prompts and answers together.
    pub tokens: Option<u64>,
    /// The length of time, a minute as a rule.
    pub window: Duration,
}

impl RateLimit {
    /// A window has so many parts: a share is good for one of them.
    pub const PARTS: u32 = 64;

    /// For how long a share is good.
    pub fn part(&self) -> Duration {
        (self.window / Self::PARTS).max(Duration::from_millis(1))
    }

    /// By how much calls may be held up on their way to the server.
    pub fn lateness(&self) -> Duration {
        (self.window / LATENESS_PART).max(LATENESS.min(self.window / LATENESS_PART_MAX))
    }

    /// Until when a share counts that is taken now: a whole number of parts, so that the shares of a process that it took in
    /// one of them are one.
    pub fn counts_until(&self, now: Timestamp) -> Timestamp {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let part = micros(self.part());
        let latest = now + self.window + self.part() + self.lateness();
        Timestamp::from_micros(latest.as_micros().div_euclid(part).saturating_add(1).saturating_mul(part))
    }
}

/// What a process asks of a rate: a share for its next call.
#[derive(Clone, Debug)]
pub struct ShareRequest {
    /// What the server takes.
    pub limit: Arc<RateLimit>,
    /// The process.
    pub holder: Arc<str>,
    /// How many tokens the call may use.
    pub tokens: u64,
    /// What is given back of earlier shares, first.
    pub returned: Vec<ShareReturn>,
    /// When.
    pub at: Timestamp,
}

/// What is given back of a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareReturn {
    /// Which: that counts until then.
    pub counts_until: Timestamp,
    /// Requests that were not made.
    pub requests: i64,
    /// Tokens that were not used; below zero when there were more than the share had.
    pub tokens: i64,
}

/// What a process may use of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateShare {
    /// Requests, at least one.
    pub requests: u64,
    /// Tokens, at least those that were asked for.
    pub tokens: u64,
    /// Calls may leave until then.
    pub good_until: Timestamp,
    /// It counts until then.
    pub counts_until: Timestamp,
}

/// What a store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// There is room.
    Share(RateShare),
    /// There is none: ask again after this time. Until then, nobody goes before who asks later.
    Wait(Duration),
}

/// Rates that processes share. Whoever limits nothing is never asked about.
pub trait RateStore: Send + Sync {
    /// Takes a share for a call, or a place in the line. Who has waited longest goes first.
    fn take_share(&self, request: ShareRequest) -> BoxFuture<'_, Result<Sharing, DbError>>;

    /// Gives back what was not used of shares. Shares that count no more are none.
    fn return_shares(
        &self,
        key: Arc<str>,
        holder: Arc<str>,
        returned: Vec<ShareReturn>,
    ) -> BoxFuture<'_, Result<(), DbError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_until_no_window_can_hold_a_call_of_it() {
        let limit = RateLimit { key: Arc::from("k"), requests: None, tokens: Some(1), window: Duration::from_secs(60) };
        for micros in [0, 1, 999_999, 1_795_404_467_123_456] {
            let now = Timestamp::from_micros(micros);
            let until = limit.counts_until(now);
            // The last call of it leaves at the end of its part.
            let least = now + limit.part() + limit.window + limit.lateness();
            assert!(until >= least && until.since(least) <= limit.part(), "{micros}");
        }
    }
}
