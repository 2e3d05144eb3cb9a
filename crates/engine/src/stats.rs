//! What an engine has done since it started, in numbers for operators.
//!
//! It counts and must never decide anything. The invariant: counting takes no lock and never waits, so numbers read at
//! the same instant need not agree with each other.

use crate::tally::Tally;
use outlive_core::port::Deleted;
use outlive_core::{RunStatus, Usage};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The longest duration each part of a [`Histogram`] counts, in seconds; the last part counts what is longer.
pub const BOUNDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
const PARTS: usize = BOUNDS.len() + 1;

/// Durations, counted by length.
#[derive(Debug, Default)]
pub struct Histogram {
    parts: [AtomicU64; PARTS],
    micros: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let part = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        add(&self.parts[part]);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Durations {
        Durations {
            parts: std::array::from_fn(|part| read(&self.parts[part])),
            sum: Duration::from_micros(read(&self.micros)),
        }
    }
}

/// What a [`Histogram`] has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many there were of each length, in the order of [`BOUNDS`]; the last counts the longer ones.
    pub parts: [u64; PARTS],
    /// The sum of all durations.
    pub sum: Duration,
}

impl Durations {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// What an engine has done since it started, and is doing now. Other processes on the same store count for themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Runs accepted; a repeated request counts once.
    pub runs_accepted: u64,
    /// Runs that ended here COMPLETED.
    pub runs_completed: u64,
    /// Runs that ended here ERROR.
    pub runs_failed: u64,
    /// Of those, runs given up because they lost one worker after another.
    pub runs_poisoned: u64,
    /// Runs that ended here CANCELLED.
    pub runs_cancelled: u64,
    /// Runs that execute here now.
    pub runs_executing: u64,
    /// Runs taken over from the store.
    pub runs_claimed: u64,
    /// Checks for unfinished runs that found none.
    pub claims_empty: u64,
    /// Heartbeats that the store did not accept.
    pub heartbeats_failed: u64,
    /// How often this worker was declared dead and lost what it held.
    pub leases_lost: u64,
    /// Writes refused because another worker has the run.
    pub writes_fenced: u64,
    /// Commits tried again because the disk was full or the store busy.
    pub commits_delayed: u64,
    /// From the request to accept a run until the run is on stable storage.
    pub submits: Durations,
    /// From handing a commit to the store until it is on stable storage.
    pub commits: Durations,
    /// Checks for unfinished runs.
    pub claims: Durations,
    /// From taking over a run with a log until it continues.
    pub recoveries: Durations,
    /// How much later than asked the engine's own timers woke it.
    pub lateness: Durations,
    /// The delay from the notification of a commit to the first event of a reader that waited for it.
    pub event_lags: Durations,
    /// Model calls that were begun.
    pub model_calls: u64,
    /// Model calls that failed and were made once more.
    pub model_retries: u64,
    /// Model calls left without an answer: cancelled, timed out, or for another process to make again.
    pub model_aborted: u64,
    /// From a model call's intent to its answer, further attempts included.
    pub models: Durations,
    /// The tokens that models reported.
    pub usage: Usage,
    /// Runs that paused because nobody knows whether a call that must not run twice has run.
    pub outcomes_unknown: u64,
    /// Runs deleted by what is to be kept, or because somebody asked.
    pub runs_pruned: u64,
    /// Bytes of their logs, inputs and outputs.
    pub bytes_pruned: u64,
    /// Sessions without runs deleted by what is to be kept.
    pub sessions_pruned: u64,
    /// Batches that were deleted: with their last runs, or without any.
    pub batches_pruned: u64,
}

/// Where the parts of an engine count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) runs_accepted: AtomicU64,
    runs_completed: AtomicU64,
    runs_failed: AtomicU64,
    runs_poisoned: AtomicU64,
    runs_cancelled: AtomicU64,
    runs_claimed: AtomicU64,
    claims_empty: AtomicU64,
    pub(crate) heartbeats_failed: AtomicU64,
    pub(crate) leases_lost: AtomicU64,
    pub(crate) writes_fenced: AtomicU64,
    pub(crate) commits_delayed: AtomicU64,
    submits: Histogram,
    commits: Histogram,
    claims: Histogram,
    pub(crate) recoveries: Histogram,
    pub(crate) lateness: Histogram,
    pub(crate) event_lags: Histogram,
    model_calls: AtomicU64,
    model_retries: AtomicU64,
    pub(crate) models_aborted: AtomicU64,
    models: Histogram,
    tokens: Tokens,
    pub(crate) outcomes_unknown: AtomicU64,
    runs_pruned: AtomicU64,
    bytes_pruned: AtomicU64,
    sessions_pruned: AtomicU64,
    batches_pruned: AtomicU64,
}

/// [`Usage`], counted.
#[derive(Debug, Default)]
struct Tokens {
    input: AtomicU64,
    output: AtomicU64,
    total: AtomicU64,
    reasoning: AtomicU64,
    cache_read: AtomicU64,
    cache_write: AtomicU64,
}

impl Tokens {
    fn add(&self, usage: Usage) {
        for (counter, count) in [
            (&self.input, usage.input_tokens),
            (&self.output, usage.output_tokens),
            (&self.total, usage.total_tokens),
            (&self.reasoning, usage.reasoning_tokens),
            (&self.cache_read, usage.cache_read_tokens),
            (&self.cache_write, usage.cache_write_tokens),
        ] {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn read(&self) -> Usage {
        Usage {
            input_tokens: read(&self.input),
            output_tokens: read(&self.output),
            total_tokens: read(&self.total),
            reasoning_tokens: read(&self.reasoning),
            cache_read_tokens: read(&self.cache_read),
            cache_write_tokens: read(&self.cache_write),
            ..Usage::default()
        }
    }
}

impl Counters {
    /// A request was answered.
    pub(crate) fn submitted(&self, since: Instant) {
        self.submits.add(since.elapsed());
    }

    /// A commit is durable; `status` is the run's new status, if it changed.
    pub(crate) fn committed(&self, since: Instant, status: Option<RunStatus>) {
        self.commits.add(since.elapsed());
        match status {
            Some(RunStatus::Completed) => add(&self.runs_completed),
            Some(RunStatus::Error) => add(&self.runs_failed),
            Some(RunStatus::Cancelled) => add(&self.runs_cancelled),
            Some(RunStatus::Pending | RunStatus::Running | RunStatus::Paused) | None => {}
        }
    }

    /// What a durable commit's entries add up to.
    pub(crate) fn tallied(&self, tally: &Tally) {
        self.model_calls.fetch_add(tally.model_calls, Ordering::Relaxed);
        self.model_retries.fetch_add(tally.model_retries, Ordering::Relaxed);
        tally.model_times.iter().for_each(|took| self.models.add(*took));
        self.tokens.add(tally.usage);
        if tally.is_poisoned {
            add(&self.runs_poisoned);
        }
    }

    /// A check for unfinished runs found this many.
    pub(crate) fn claimed(&self, since: Instant, runs: usize) {
        self.claims.add(since.elapsed());
        self.runs_claimed.fetch_add(runs as u64, Ordering::Relaxed);
        if runs == 0 {
            add(&self.claims_empty);
        }
    }

    /// Runs were deleted.
    pub(crate) fn pruned(&self, deleted: Deleted) {
        self.runs_pruned.fetch_add(deleted.runs, Ordering::Relaxed);
        self.bytes_pruned.fetch_add(deleted.bytes, Ordering::Relaxed);
        self.pruned_batches(deleted.batches);
    }

    /// This many batches were deleted.
    pub(crate) fn pruned_batches(&self, batches: u64) {
        self.batches_pruned.fetch_add(batches, Ordering::Relaxed);
    }

    /// This many sessions were deleted.
    pub(crate) fn pruned_sessions(&self, sessions: u64) {
        self.sessions_pruned.fetch_add(sessions, Ordering::Relaxed);
    }

    /// What they say, of an engine that executes this many runs.
    pub(crate) fn read(&self, runs_executing: usize) -> Stats {
        Stats {
            runs_accepted: read(&self.runs_accepted),
            runs_completed: read(&self.runs_completed),
            runs_failed: read(&self.runs_failed),
            runs_poisoned: read(&self.runs_poisoned),
            runs_cancelled: read(&self.runs_cancelled),
            runs_executing: runs_executing as u64,
            runs_claimed: read(&self.runs_claimed),
            claims_empty: read(&self.claims_empty),
            heartbeats_failed: read(&self.heartbeats_failed),
            leases_lost: read(&self.leases_lost),
            writes_fenced: read(&self.writes_fenced),
            commits_delayed: read(&self.commits_delayed),
            submits: self.submits.read(),
            commits: self.commits.read(),
            claims: self.claims.read(),
            recoveries: self.recoveries.read(),
            lateness: self.lateness.read(),
            event_lags: self.event_lags.read(),
            model_calls: read(&self.model_calls),
            model_retries: read(&self.model_retries),
            model_aborted: read(&self.models_aborted),
            models: self.models.read(),
            usage: self.tokens.read(),
            outcomes_unknown: read(&self.outcomes_unknown),
            runs_pruned: read(&self.runs_pruned),
            bytes_pruned: read(&self.bytes_pruned),
            sessions_pruned: read(&self.sessions_pruned),
            batches_pruned: read(&self.batches_pruned),
        }
    }
}

/// Counts one.
pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_where_it_belongs() {
        let histogram = Histogram::default();
        for millis in [0, 1, 2, 300, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        let read = histogram.read();
        assert_eq!((read.parts[0], read.parts[1], read.parts[8], read.parts[13]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum), (5, Duration::from_millis(60_303)));
    }
}
