//! Who may use how much of what a model server takes: the decision, for every store.
//!
//! Plain data: it must never know a clock or a table. The invariant: what counts, and what those before in the line want,
//! leaves room for what is given out, unless nothing else counts at all.

use outlive_core::Timestamp;
use outlive_core::port::{RateLimit, RateShare, ShareRequest, Sharing};
use std::sync::Arc;
use std::time::Duration;

/// A process that waits, and has not asked again for this many parts of a window, waits no more.
const PATIENCE_PARTS: u32 = 4;
/// And for this long.
const PATIENCE_MIN: Duration = Duration::from_millis(250);
/// A share is at most this part of the limit, and this part of what is left of it, unless a call needs more.
const SHARE_PART: u64 = 32;
const REST_PART: u64 = 4;
/// Of tokens that have no limit, a share has as much as this many times its calls may use.
const UNLIMITED_TOKENS: u64 = 64;
/// From this part of the limit on, calls leave evenly.
const FREE_PART: u64 = 2;
/// In so many parts of a window as many calls leave as have room in it, times so many of its parts, or so many at least. That
/// is an eighth of a window faster than they fill it: what large calls had to leave free is caught up with.
const EVEN_PARTS: u32 = RateLimit::PARTS - RateLimit::PARTS / 8;
const EVEN: [(u32, u64); 2] = [(4, 4), (16, 5)];

/// What a process has of a rate, or waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) holder: Arc<str>,
    /// It counts until then.
    pub(crate) counts_until: Timestamp,
    /// Since when it waits for it; none when it has it.
    pub(crate) waits_since: Option<Timestamp>,
    pub(crate) requests: u64,
    pub(crate) tokens: u64,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) answer: Sharing,
    /// What is added to what the process has at the same time, or stands in the place of its earlier wait.
    pub(crate) share: Share,
}

/// The times within which shares count now: one that seems to count for longer was written by a clock that was wrong.
pub(crate) fn times(limit: &RateLimit, now: Timestamp) -> (Timestamp, Timestamp) {
    (now, limit.counts_until(now) + limit.part())
}

/// A sum of requests and tokens.
#[derive(Clone, Copy, Default)]
struct Sum {
    requests: u64,
    tokens: u64,
}

impl Sum {
    fn of<'a>(shares: impl Iterator<Item = &'a Share>) -> Self {
        shares.fold(Self::default(), |sum, share| sum.plus(Self { requests: share.requests, tokens: share.tokens }))
    }

    fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
        }
    }

    fn minus(self, share: &Share) -> Self {
        Self {
            requests: self.requests.saturating_sub(share.requests),
            tokens: self.tokens.saturating_sub(share.tokens),
        }
    }

    /// Whether one of so many equal parts of the limit has room for it.
    fn is_within(self, limit: &RateLimit, parts: u64) -> bool {
        let has_room = |most: Option<u64>, sum: u64| most.is_none_or(|most| sum <= most.max(1) / parts);
        has_room(limit.requests, self.requests) && has_room(limit.tokens, self.tokens)
    }

    fn is_none(self) -> bool {
        self.requests == 0 && self.tokens == 0
    }

    /// How many calls like these a window has room for, if it is known.
    fn calls_in(self, limit: &RateLimit) -> Option<u64> {
        let fit = |most: u64, used: u64| u128::from(self.requests) * u128::from(most) / u128::from(used.max(1));
        let by_tokens = limit.tokens.map(|most| u64::try_from(fit(most, self.tokens)).unwrap_or(u64::MAX));
        limit.requests.into_iter().chain(by_tokens).min()
    }
}

/// How many calls may leave now, so that what the window has room for does not leave at its edges: a server counts when calls
/// arrive, and a crowd that was held up on its way would still be there when the next is sent.
fn even<'a>(has: impl Iterator<Item = &'a Share> + Clone, calls: u64, request: &ShareRequest) -> u64 {
    let limit = &request.limit;
    let newest = limit.counts_until(request.at);
    let left = EVEN.map(|(parts, least)| {
        let allowed = (u128::from(calls) * u128::from(parts)).div_ceil(u128::from(EVEN_PARTS));
        let allowed = u64::try_from(allowed).unwrap_or(u64::MAX).max(least);
        let recent = has.clone().filter(|share| share.counts_until + limit.part() * parts > newest);
        allowed.saturating_sub(Sum::of(recent).requests)
    });
    left.into_iter().min().unwrap_or(0)
}

/// Decides about a request; `shares` are those of its rate that count now.
pub(crate) fn decide(shares: &[Share], request: &ShareRequest) -> Decision {
    let (limit, holder, at) = (&request.limit, &request.holder, request.at);
    let mine = shares.iter().find(|share| share.waits_since.is_some() && share.holder == *holder);
    let since = mine.and_then(|share| share.waits_since).unwrap_or(at);
    let has = |share: &&Share| share.waits_since.is_none();
    let others = || shares.iter().filter(|share| share.waits_since.is_some() && share.holder != *holder);
    let before = |share: &&Share| share.waits_since.is_some_and(|other| (other, &share.holder) < (since, holder));
    let (counts, ahead) = (Sum::of(shares.iter().filter(has)), Sum::of(others().filter(before)));
    let wanted = Sum { requests: 1, tokens: request.tokens };

    // Where others wait, each has its equal part, and whoever asks more often has no more.
    let waiting = others().count() as u64;
    let own = Sum::of(shares.iter().filter(has).filter(|share| share.holder == *holder));
    let is_fair = waiting == 0 || own.is_none() || own.plus(wanted).is_within(limit, waiting + 1);

    let is_alone = counts.is_none() && ahead.is_none();
    let used = counts.plus(ahead);
    let calls = match counts.calls_in(limit).filter(|_| !used.is_within(limit, FREE_PART)) {
        Some(calls) => even(shares.iter().filter(has), calls, request).saturating_sub(ahead.requests),
        None => u64::MAX,
    };
    if is_alone || (is_fair && calls > 0 && used.plus(wanted).is_within(limit, 1)) {
        // Others wait for the rest.
        let calls = if waiting > 0 { 1 } else { calls.max(1) };
        let size = |most: u64, used: u64, wanted: u64| {
            let most = (most / SHARE_PART).min(most.saturating_sub(used) / REST_PART);
            wanted.max(most.min(wanted.saturating_mul(calls)))
        };
        let tokens = limit.tokens.map(|most| size(most, used.tokens, wanted.tokens));
        let requests = match limit.requests {
            Some(most) => size(most, used.requests, wanted.requests),
            None => tokens.map_or(1, |tokens| tokens / wanted.tokens.max(1)).max(1),
        };
        let tokens = tokens.unwrap_or_else(|| wanted.tokens.saturating_mul(requests).saturating_mul(UNLIMITED_TOKENS));
        let (good_until, counts_until) = (at + limit.part(), limit.counts_until(at));
        let share = Share { holder: holder.clone(), counts_until, waits_since: None, requests, tokens };
        return Decision { answer: Sharing::Share(RateShare { requests, tokens, good_until, counts_until }), share };
    }

    let patience = (limit.part() * PATIENCE_PARTS).max(PATIENCE_MIN);
    let share = Share {
        holder: holder.clone(),
        counts_until: at + patience,
        waits_since: Some(since),
        requests: wanted.requests,
        tokens: wanted.tokens,
    };
    // What was used of shares is known only later, and makes room earlier.
    let wait = room_in(shares.iter().filter(has), counts, ahead.plus(wanted), request).min(limit.part());
    Decision { answer: Sharing::Wait(wait.max(Duration::from_millis(1))), share }
}

/// When there is room for so much, if nothing is given back.
fn room_in<'a>(
    shares: impl Iterator<Item = &'a Share>,
    mut counts: Sum,
    wanted: Sum,
    request: &ShareRequest,
) -> Duration {
    let mut shares: Vec<_> = shares.collect();
    shares.sort_by_key(|share| share.counts_until);
    for share in shares {
        counts = counts.minus(share);
        if counts.plus(wanted).is_within(&request.limit, 1) {
            return share.counts_until.since(request.at);
        }
    }
    request.limit.part()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_seconds(1_700_000_000) + Duration::from_millis(ms)
    }

    fn request(holder: &str, tokens: u64, ms: u64) -> ShareRequest {
        let limit = RateLimit { key: Arc::from("k"), requests: Some(50), tokens: Some(3200), window: MINUTE };
        ShareRequest { limit: Arc::new(limit), holder: Arc::from(holder), tokens, returned: Vec::new(), at: at(ms) }
    }

    fn taken(decision: &Decision) -> u64 {
        match decision.answer {
            Sharing::Share(share) => share.tokens,
            Sharing::Wait(wait) => panic!("it waits {wait:?}"),
        }
    }

    #[test]
    fn a_share_is_a_part_of_what_is_left_and_enough_for_the_call() {
        assert_eq!(taken(&decide(&[], &request("a", 10, 0))), 100);
        assert_eq!(taken(&decide(&[], &request("a", 700, 0))), 700);
        // Nothing else counts.
        assert_eq!(taken(&decide(&[], &request("a", 9000, 0))), 9000);
        let full =
            Share { holder: Arc::from("b"), counts_until: at(30_000), waits_since: None, requests: 1, tokens: 3120 };
        assert_eq!(taken(&decide(std::slice::from_ref(&full), &request("a", 10, 0))), 20);
        let Sharing::Wait(wait) = decide(std::slice::from_ref(&full), &request("a", 81, 29_500)).answer else {
            panic!("there is no room")
        };
        assert_eq!(wait, Duration::from_millis(500));
    }

    #[test]
    fn from_half_of_it_on_calls_leave_evenly() {
        let asked = request("a", 40, 30_000);
        let has = |counts_until: Timestamp, requests: u64| Share {
            holder: Arc::from("b"),
            counts_until,
            waits_since: None,
            requests,
            tokens: requests * 40,
        };
        let is_let_in = |long_ago: u64, parts: u64, recent: u64| {
            let taken = asked.limit.counts_until(at(30_000 - parts * 938));
            let shares = [has(at(31_000), long_ago), has(taken, recent)];
            matches!(decide(&shares, &asked).answer, Sharing::Share(_))
        };
        // Of 50 in a window, four in a sixteenth, and fifteen in a quarter.
        assert!(is_let_in(36, 0, 3) && !is_let_in(36, 0, 4));
        assert!(is_let_in(30, 4, 14) && !is_let_in(30, 4, 15) && is_let_in(30, 16, 15));
        // Half of it is there at once.
        assert!(is_let_in(4, 0, 20));
        // As many as there is room for, which may be few.
        let large = Share { tokens: 2400, ..has(at(31_000), 2) };
        let so_many = |recent: u64| [large.clone(), has(asked.limit.counts_until(asked.at), recent)];
        assert!(matches!(decide(&so_many(3), &asked).answer, Sharing::Share(_)));
        assert!(matches!(decide(&so_many(4), &asked).answer, Sharing::Wait(_)));
    }

    #[test]
    fn who_has_waited_longest_goes_first_and_a_large_call_is_not_passed_for_ever() {
        let waits = |holder: &str, since: u64, tokens: u64| Share {
            holder: Arc::from(holder),
            counts_until: at(90_000),
            waits_since: Some(at(since)),
            requests: 1,
            tokens,
        };
        let half = Share { tokens: 1600, waits_since: None, ..waits("c", 0, 0) };
        let shares = [half.clone(), waits("a", 1000, 2000), waits("b", 2000, 100)];
        let is_let_in = |holder: &str, tokens: u64, shares: &[Share]| {
            matches!(decide(shares, &request(holder, tokens, 3000)).answer, Sharing::Share(_))
        };
        assert!(!is_let_in("a", 2000, &shares), "there is no room for it yet");
        assert!(!is_let_in("b", 100, &shares) && !is_let_in("d", 1, &shares), "and it is the first in the line");
        assert!(is_let_in("a", 2000, &shares[1..]));
        assert!(is_let_in("b", 100, &shares[2..]));
        // It keeps its place.
        let again = decide(&shares, &request("a", 2000, 3000));
        assert_eq!(again.share.waits_since, Some(at(1000)));
    }
}
