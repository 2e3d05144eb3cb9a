//! How an engine behaves: every limit it keeps.

use outlive_core::{Retention, Secret};
use std::time::Duration;

/// Options of an engine. The defaults suit a laptop and a small server.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs executed at the same time by this process; further ones wait in the store.
    pub runs_max: usize,
    /// Runs that may wait in the store, whoever accepted them; further ones are refused. Several processes together may
    /// exceed it, each by what it accepts between two checks.
    pub queued_max: usize,
    /// Requests to run a workflow that are on their way to the store at once; further ones wait. With many more, runs
    /// are accepted faster than they are executed, and each of their commits finds its run cold in memory.
    pub submits_max: usize,
    /// Encoded commits on their way to the store at once; further ones wait.
    pub commits_max: usize,
    /// Longest input of a run as JSON, in bytes.
    pub input_bytes_max: usize,
    /// When the store's disk has less space than this, in bytes, no further run is accepted.
    pub disk_free_min: u64,
    /// On a small disk, the most that is kept free, in percent.
    pub disk_free_percent_max: u32,
    /// How long a lease lasts without a heartbeat.
    pub lease_period: Duration,
    /// Time between heartbeats.
    pub heartbeat_period: Duration,
    /// Time between checks for runs that nobody executes.
    pub scan_period: Duration,
    /// Streamed text is committed at the latest after this time.
    pub stream_period: Duration,
    /// A back-off longer than this returns the run to the store instead of holding memory.
    pub park_after: Duration,
    /// Function steps that may block and are executed at the same time, each on a thread of its own. Further ones wait,
    /// which counts towards their time limit.
    pub blocking_max: usize,
    /// Claims without progress after which a run ends ERROR (`poisoned`).
    pub claims_max: u32,
    /// How long a shutdown waits for calls in flight. What they leave of it is for a store that is too busy to take the
    /// leases back.
    pub shutdown_grace: Duration,
    /// How long runs that have ended are kept, whatever their workflow. An engine that executes runs deletes the others.
    pub retention: Retention,
    /// Time between searches for runs to delete. A run stays at least this long after its end, so that whoever waits for
    /// it can read what came of it.
    pub retention_period: Duration,
    /// What must not reach the log, an output or a session, in addition to the keys of the models in use and anything
    /// that looks like a key. What a caller submits is kept as it is.
    pub secrets: Vec<Secret>,
    /// Whether this engine executes runs. Otherwise it only submits, reads and cancels.
    pub execute: bool,
}

impl Options {
    /// Claims without progress that make a run a suspect.
    pub(crate) fn suspect_claims(&self) -> u32 {
        self.claims_max.saturating_sub(1).max(1)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            runs_max: 16_384,
            queued_max: 100_000,
            submits_max: 64,
            commits_max: 512,
            input_bytes_max: 1 << 20,
            disk_free_min: 512 << 20,
            disk_free_percent_max: 5,
            lease_period: Duration::from_secs(15),
            heartbeat_period: Duration::from_secs(5),
            scan_period: Duration::from_secs(1),
            stream_period: Duration::from_millis(30),
            park_after: Duration::from_secs(5),
            blocking_max: 64,
            claims_max: 3,
            shutdown_grace: Duration::from_secs(25),
            retention: Retention::new(),
            retention_period: Duration::from_secs(60),
            secrets: Vec::new(),
            execute: true,
        }
    }
}
