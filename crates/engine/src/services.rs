//! What the parts of an engine share: its store, its clock, the hub, what it counts.
//!
//! It must never know a run.

use crate::definitions::Definitions;
use crate::hub::Hub;
use crate::lease::LeaseClock;
use crate::options::Options;
use crate::shares::Shares;
use crate::stats::{self, Counters};
use outlive_core::Redactor;
use outlive_core::port::{Chance, Clock, Commit, Db, DbError, DbErrorKind, Observer};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// What the parts of an engine share.
pub(crate) struct Services {
    pub(crate) db: Arc<dyn Db>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) lease_clock: Arc<LeaseClock>,
    pub(crate) stream_period: Duration,
    pub(crate) commit_places: Semaphore,
    /// Threads for functions that may block.
    pub(crate) threads: Arc<Semaphore>,
    pub(crate) counters: Counters,
    pub(crate) redactor: RwLock<Arc<Redactor>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) shares: Shares,
    pub(crate) definitions: Definitions,
}

impl Services {
    pub(crate) fn new(
        db: Arc<dyn Db>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
        observer: Option<Arc<dyn Observer>>,
        options: &Options,
    ) -> Self {
        Self {
            shares: Shares::default(),
            db,
            clock,
            chance,
            hub: Arc::new(Hub::default()),
            lease_clock: Arc::new(LeaseClock::new(Instant::now() + options.lease_period)),
            stream_period: options.stream_period,
            commit_places: Semaphore::new(options.commits_max),
            threads: Arc::new(Semaphore::new(options.blocking_max)),
            counters: Counters::default(),
            redactor: RwLock::default(),
            observer,
            definitions: Definitions::default(),
        }
    }

    pub(crate) fn redactor(&self) -> Arc<Redactor> {
        self.redactor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Commits; waits until a full disk has room and a busy store answers.
    pub(crate) async fn commit(&self, commit: &Commit) -> Result<(), DbError> {
        let mut pause = Duration::from_millis(100);
        let began = Instant::now();
        loop {
            match self.db.commit(commit.clone()).await {
                Ok(()) => {
                    self.counters.committed(began, commit.patch.status);
                    return Ok(());
                }
                Err(error) if error.is_transient() => {
                    stats::add(&self.counters.commits_delayed);
                    tracing::warn!(run_id = %commit.lease.run_id, %error, "commit delayed");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(3200));
                }
                Err(error) => {
                    if error.kind() == DbErrorKind::Fenced {
                        stats::add(&self.counters.writes_fenced);
                    }
                    return Err(error);
                }
            }
        }
    }
}
