//! How long others have been silent, as one handle on a store has seen it.
//!
//! It knows no worker and no wall clock. The invariant: nobody is considered silent for longer than this handle has
//! watched without a gap. A handle that was stopped together with the others, by a machine that slept, learns nothing
//! from having heard nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// What one handle has seen of the beats of others.
#[derive(Debug)]
pub(crate) struct Silence<K> {
    beats: HashMap<K, Beat>,
    looked_at: Option<Instant>,
    /// Moves the clock forward, for tests.
    skipped: Duration,
}

#[derive(Debug)]
struct Beat {
    /// Differs from the one before.
    mark: i64,
    /// When it was first seen.
    seen_at: Instant,
}

impl<K> Default for Silence<K> {
    fn default() -> Self {
        Self { beats: HashMap::new(), looked_at: None, skipped: Duration::ZERO }
    }
}

impl<K: Eq + Hash> Silence<K> {
    /// Notes everyone's newest beat. Observations further apart than half a `period` do not count as continuous.
    pub(crate) fn look(&mut self, period: Duration, living: impl IntoIterator<Item = (K, i64)>) {
        let now = self.now();
        let has_gap = self.looked_at.is_none_or(|looked_at| now.duration_since(looked_at) > period / 2);
        self.looked_at = Some(now);
        let mut before = std::mem::take(&mut self.beats);
        for (who, mark) in living {
            let known = before.remove(&who).filter(|beat| beat.mark == mark && !has_gap);
            self.beats.insert(who, known.unwrap_or(Beat { mark, seen_at: now }));
        }
    }

    /// For how long no further beat of this one has been seen.
    pub(crate) fn of(&self, who: &K) -> Duration {
        let seen = self.beats.get(who);
        seen.map_or(Duration::ZERO, |beat| self.now().duration_since(beat.seen_at))
    }

    /// Lets this much time pass.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn skip(&mut self, time: Duration) {
        self.skipped += time;
    }

    fn now(&self) -> Instant {
        Instant::now() + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_look_that_saw_the_last_beat() {
        let mut silence = Silence::default();
        for beat in [1, 1, 2, 2, 2, 2] {
            silence.look(PERIOD, [("w", beat)]);
            silence.skip(Duration::from_secs(10));
        }
        assert_eq!(silence.of(&"w"), Duration::from_secs(40));
        assert_eq!(silence.of(&"nobody"), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_did_not_look_has_seen_nothing() {
        let mut silence = Silence::default();
        silence.look(PERIOD, [("w", 1)]);
        silence.skip(Duration::from_secs(3600));
        silence.look(PERIOD, [("w", 1)]);
        assert_eq!(silence.of(&"w"), Duration::ZERO, "the hour before is not seen silence");
        silence.skip(PERIOD / 2);
        silence.look(PERIOD, [("w", 1)]);
        assert_eq!(silence.of(&"w"), PERIOD / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_gone_is_forgotten() {
        let mut silence = Silence::default();
        silence.look(PERIOD, [("w", 1)]);
        silence.look(PERIOD, []);
        assert!(silence.beats.is_empty());
    }
}
