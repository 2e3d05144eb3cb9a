//! Deletes, now and then, what nobody is to keep: by the limits of the engine's options, and by those of each workflow
//! that it knows.
//!
//! ```text
//! a period has passed ──► take the turn ──► walk, delete, pause, keep the turn ──► … ──► the next period
//! ```
//! The turn is a row of the store, so that of all processes one at a time works on a scope; whoever dies with it is
//! succeeded when it is over. It must never hold up a run: every look and every deletion is bounded, with a pause behind
//! it. The invariant: without limits it asks the store nothing.

use crate::error::Error;
use crate::inner::{Inner, Stopping};
use crate::retention::{BATCH, Place, Walk, before, delete, delete_batches, is_unused};
use futures::FutureExt;
use outlive_core::port::{Access, BatchFilter, RunFilter, TURN_MAX, Turn};
use outlive_core::{DefinitionId, Retention, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Batches that are looked at in one turn. The next turn goes on from there.
const BATCHES_MAX: usize = 64;
/// Sessions are looked at in as many steps in one turn, and batches.
const SESSION_STEPS_MAX: usize = 64;
/// Between two looks at sessions or batches.
const PAUSE: Duration = Duration::from_millis(20);
/// A clock that is ahead of the time that has passed by more than this was set, or the machine slept.
const JUMP: Duration = Duration::from_secs(300);
/// How long nothing is deleted because of its age then: time to set a clock right that is wrong.
const CAUTION: Duration = Duration::from_secs(3_600);

/// Deletes what nobody is to keep, until the engine stops.
pub(crate) async fn keep(inner: Arc<Inner>) {
    let mut keeper = Keeper { inner: &inner, clock: Steady::new(inner.services.clock.now()), places: HashMap::new() };
    let mut stop = inner.stop.subscribe();
    // What was registered by now is seen by the first look.
    let _ = inner.keeps.notified().now_or_never();
    loop {
        let keeping = async {
            keeper.look().await;
            let asked = inner.keeps.notified();
            drop(tokio::time::timeout(inner.options.retention_period, asked).await);
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop != Stopping::No) => return,
            () = keeping => {}
        }
    }
}

/// Where to go on: with runs, sessions and batches.
#[derive(Default)]
struct Places {
    run: Place,
    session: u64,
    batch: Option<String>,
}

/// What is limited: one workflow's runs, or all.
type Scope = Option<DefinitionId>;

struct Keeper<'a> {
    inner: &'a Arc<Inner>,
    clock: Steady,
    /// Where to go on in a scope of which the last turn has not seen all.
    places: HashMap<Scope, Places>,
}

impl Keeper<'_> {
    async fn look(&mut self) {
        // All of a look is as of one time, which was compared.
        let now = self.inner.services.clock.now();
        let is_steady = self.clock.look(now);
        for (number, (scope, mut retention)) in self.limits().into_iter().enumerate() {
            if !is_steady {
                (retention.max_age, retention.sessions_max_age) = (None, None);
            }
            if retention.is_unlimited() {
                continue;
            }
            if let Err(error) = self.sweep(&scope, retention, number == 0, now).await {
                tracing::warn!(%error, "runs that nobody is to keep could not be deleted yet");
            }
        }
    }

    /// Goes on with logs of which somebody has deleted only a part.
    async fn finish_logs(&self, scope: &Arc<str>) -> Result<(), Error> {
        while self.inner.services.db.delete_runs(Access::All, Vec::new(), Some(scope.clone())).await?.more {
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What is limited here.
    fn limits(&self) -> Vec<(Scope, Retention)> {
        let newest = self.inner.services.definitions.all_newest();
        let newest = newest.into_iter().map(|definition| (Some(definition.id.clone()), definition.retention));
        let mut limits: Vec<_> = [(None, self.inner.options.retention)].into_iter().chain(newest).collect();
        limits.retain(|(_, retention)| !retention.is_unlimited());
        limits
    }

    /// `is_first`: of the scopes that are looked at.
    async fn sweep(
        &mut self,
        scope: &Scope,
        retention: Retention,
        is_first: bool,
        now: Timestamp,
    ) -> Result<(), Error> {
        let name: Arc<str> = scope.as_ref().map_or_else(|| Arc::from(""), DefinitionId::to_shared);
        let services = &self.inner.services;
        let Places { run, mut session, mut batch } = self.places.remove(scope).unwrap_or_default();
        let filter = RunFilter { workflow_id: scope.clone(), ..RunFilter::default() };
        let mut walk = Walk::new(retention, filter, run);
        walk.grace = self.inner.options.retention_period;
        let (mut runs, mut bytes) = (0, 0);
        let mut has_seen_all = false;
        for _ in 0..BATCHES_MAX {
            if !self.has_turn(&name).await? {
                return Ok(());
            }
            let some = walk.next(&*services.db, &Access::All, now).await?;
            let deleted = delete(self.inner, &Access::All, &some.run_ids, Some(&name)).await?;
            walk.deleted(some.run_ids.len(), deleted);
            (runs, bytes) = (runs + deleted.runs, bytes + deleted.bytes);
            if some.is_last {
                has_seen_all = true;
                break;
            }
        }
        if is_first {
            self.finish_logs(&name).await?;
        }
        if let Some(age) = retention.sessions_max_age {
            session = self.sweep_sessions(before(now, age), session).await?;
        }
        if let Some(age) = retention.max_age {
            batch = self.sweep_batches(scope, before(now, age), batch).await?;
        }
        let run = if has_seen_all { Place::default() } else { walk.place };
        self.places.insert(scope.clone(), Places { run, session, batch });
        if runs > 0 {
            tracing::info!(scope = &*name, runs, bytes, "runs were deleted that nobody is to keep");
        }
        Ok(())
    }

    /// Takes the turn, or keeps it.
    async fn has_turn(&self, scope: &Arc<str>) -> Result<bool, Error> {
        let (inner, services) = (self.inner, &self.inner.services);
        let length = inner.options.retention_period.min(TURN_MAX / 2);
        let turn = Turn { scope: scope.clone(), worker: inner.worker(), length, at: services.clock.now() };
        Ok(services.db.take_turn(turn).await?)
    }

    /// Deletes batches from there on that have no runs and have not changed since; returns where to go on.
    async fn sweep_batches(
        &self,
        scope: &Scope,
        before: Timestamp,
        from: Option<String>,
    ) -> Result<Option<String>, Error> {
        let db = &self.inner.services.db;
        let mut filter = BatchFilter { workflow_id: scope.clone(), after: from, limit: BATCH };
        for _ in 0..SESSION_STEPS_MAX {
            let page = db.batches(Access::All, filter.clone()).await?;
            let unused = page.batches.into_iter().filter(|batch| is_unused(batch, before));
            let unused: Vec<Arc<str>> = unused.map(|batch| batch.id).collect();
            delete_batches(self.inner, &Access::All, &unused, before).await?;
            filter.after = page.next;
            if filter.after.is_none() {
                return Ok(None);
            }
            sleep(PAUSE).await;
        }
        Ok(filter.after)
    }

    /// Deletes sessions from this one on that have no runs and have not changed since; returns where to go on.
    async fn sweep_sessions(&self, before: Timestamp, from: u64) -> Result<u64, Error> {
        let services = &self.inner.services;
        let mut from = from;
        for _ in 0..SESSION_STEPS_MAX {
            let found = services.db.delete_idle_sessions(before, from).await?;
            services.counters.pruned_sessions(found.deleted);
            let Some(next) = found.next else { return Ok(0) };
            from = next;
            sleep(PAUSE).await;
        }
        Ok(from)
    }
}

/// Compares the clock with the time that has passed. What is deleted does not come back, and a clock that is wrong makes
/// everything look old.
struct Steady {
    time: Timestamp,
    at: Instant,
    /// Until when nothing is old.
    cautious_until: Option<Instant>,
}

impl Steady {
    fn new(time: Timestamp) -> Self {
        Self { time, at: Instant::now(), cautious_until: None }
    }

    /// Whether ages can be relied on, now that the clock says this.
    fn look(&mut self, time: Timestamp) -> bool {
        let at = Instant::now();
        let expected = self.time + at.saturating_duration_since(self.at);
        if time.since(expected) > JUMP {
            tracing::warn!(
                clock = time.to_rfc3339(),
                expected = expected.to_rfc3339(),
                "the clock was set forward: for an hour nothing is deleted because of its age"
            );
            self.cautious_until = Some(at + CAUTION);
        } else if expected.since(time) > JUMP {
            // It was set back, perhaps to what it should be.
            self.cautious_until = None;
        }
        (self.time, self.at) = (time, at);
        self.cautious_until.is_none_or(|until| until <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_leaps_is_not_trusted_for_an_hour() {
        let day = Duration::from_secs(86_400);
        let mut time = Timestamp::from_seconds(1_700_000_000);
        let mut clock = Steady::new(time);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(60)).await;
            time = time + Duration::from_secs(61);
            assert!(clock.look(time), "it goes a little too fast, as clocks do");
        }
        time = time + day;
        assert!(!clock.look(time));
        tokio::time::advance(CAUTION / 2).await;
        assert!(!clock.look(time + CAUTION / 2));
        tokio::time::advance(CAUTION / 2).await;
        assert!(clock.look(time + CAUTION), "nobody has set it back");

        assert!(!clock.look(time + CAUTION + day));
        assert!(clock.look(time + CAUTION), "it was set right");
        assert!(clock.look(before(time, day)), "a clock that is behind deletes less");
    }
}
