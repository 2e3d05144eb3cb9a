//! How much a model server takes in a minute, where its user knows: requests and tokens, counted over the minute before
//! each call.
//!
//! It must never know a clock, a run or a key: time is an argument. Invariant: in no minute do more calls, or more tokens,
//! leave than there may; a call that has more tokens than a minute leaves alone.

use outlive_core::port::RateLimit;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// A call counts for longer than the window by this part of it, and this time: calls that left one window apart may arrive
/// closer.
const MARGIN_PART: u32 = 128;
const LATENESS: Duration = Duration::from_millis(100);

/// What a model may be asked in a minute. `Default` limits nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Requests.
    pub requests: Option<u64>,
    /// Tokens, of prompts and answers together.
    pub tokens: Option<u64>,
    /// The time over which they are counted, a minute unless set.
    pub window: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self { requests: None, tokens: None, window: MINUTE }
    }
}

impl Rates {
    /// Whether it limits anything.
    pub(crate) fn limits(self) -> bool {
        self.requests.is_some() || self.tokens.is_some()
    }

    /// The same, for processes that share it under this key.
    pub(crate) fn shared(self, key: &str) -> Arc<RateLimit> {
        let Self { requests, tokens, window } = self;
        // Times of different lengths are counted each by itself.
        let key = if window == MINUTE { Arc::from(key) } else { format!("{key}/{} ms", window.as_millis()).into() };
        Arc::new(RateLimit { key, requests, tokens, window })
    }

    /// For how long a call counts.
    fn counts_for(self) -> Duration {
        self.window + self.window / MARGIN_PART + LATENESS
    }
}

/// The calls of the last minute, or of another time that they are counted over.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// When each left, and its tokens: those it may have, and once it was answered, those it had.
    calls: VecDeque<(Duration, u64)>,
    tokens: u64,
    /// The number of the first of them.
    first: u64,
}

impl Window {
    /// How long a call with so many tokens has to wait; nothing when it may leave.
    pub(crate) fn wait(&mut self, rates: Rates, tokens: u64, now: Duration) -> Option<Duration> {
        let counts_for = rates.counts_for();
        self.forget(counts_for, now);
        let over = |limit: Option<u64>, used: u64| limit.map_or(0, |limit| used.saturating_sub(limit));
        let mut requests = over(rates.requests.map(|most| most.max(1)), self.calls.len() as u64 + 1);
        let mut excess = over(rates.tokens, self.tokens.saturating_add(tokens));
        let mut until = None;
        for (left_at, used) in &self.calls {
            if requests == 0 && excess == 0 {
                break;
            }
            requests = requests.saturating_sub(1);
            excess = excess.saturating_sub(*used);
            until = Some(*left_at + counts_for);
        }
        until.map(|until| until.saturating_sub(now))
    }

    /// A call leaves. Returns its number.
    pub(crate) fn leave(&mut self, tokens: u64, now: Duration) -> u64 {
        self.calls.push_back((now, tokens));
        self.tokens = self.tokens.saturating_add(tokens);
        self.first + self.calls.len() as u64 - 1
    }

    /// That call had this many tokens.
    pub(crate) fn had(&mut self, number: u64, tokens: u64) {
        let place = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        if let Some((_, known)) = place.and_then(|place| self.calls.get_mut(place)) {
            self.tokens = self.tokens.saturating_sub(*known).saturating_add(tokens);
            *known = tokens;
        }
    }

    fn forget(&mut self, counts_for: Duration, now: Duration) {
        while self.calls.front().is_some_and(|(left_at, _)| *left_at + counts_for <= now) {
            let gone = self.calls.pop_front().map_or(0, |(_, tokens)| tokens);
            self.tokens = self.tokens.saturating_sub(gone);
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn in_no_minute_leave_more_than_there_may() {
        let rates = Rates { requests: Some(7), tokens: Some(1000), ..Rates::default() };
        let (mut window, mut now, mut left) = (Window::default(), Duration::ZERO, Vec::new());
        for number in 0..200u64 {
            let tokens = 90 + number * 37 % 160;
            while let Some(wait) = window.wait(rates, tokens, now) {
                assert!(!wait.is_zero(), "a wait that is over is none");
                now += wait;
            }
            window.leave(tokens, now);
            left.push((now, tokens));
            now += Duration::from_millis(number * 13 % 700);
        }
        for (at, _) in &left {
            let minute = left.iter().filter(|(other, _)| other <= at && *other + MINUTE > *at);
            let (calls, tokens) = minute.fold((0, 0), |(calls, sum), (_, tokens)| (calls + 1, sum + tokens));
            assert!(calls <= 7 && tokens <= 1000, "{calls} calls with {tokens} tokens in the minute before {at:?}");
        }
        // Most of what there may be is used.
        let (sum, minutes) = (left.iter().map(|(_, tokens)| *tokens).sum::<u64>(), now.as_secs_f64() / 60.0);
        assert!(sum as f64 / minutes > 850.0, "{sum} tokens in {minutes} minutes");
    }

    #[test]
    fn what_a_call_did_not_use_is_there_for_others_and_a_large_call_leaves_alone() {
        let rates = Rates { tokens: Some(100), ..Rates::default() };
        let mut window = Window::default();
        assert_eq!(window.wait(rates, 500, second(0)), None, "no minute would have room for it");
        let large = window.leave(500, second(0));
        let left = rates.counts_for() - second(10);
        assert_eq!(window.wait(rates, 1, second(10)), Some(left));
        window.had(large, 30);
        assert_eq!(window.wait(rates, 70, second(10)), None);
        assert_eq!(window.wait(rates, 71, second(10)), Some(left));
        window.forget(rates.counts_for(), second(61));
        // Of a minute that is over.
        window.had(large, 9000);
        assert_eq!((window.tokens, window.wait(rates, 100, second(61))), (0, None));
    }
}
