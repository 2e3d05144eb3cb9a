//! Which of the runs that have ended go: those that are asked for, and those that nobody is to keep.
//!
//! ```text
//! runs that have ended, accepted first first ──► a batch of those that go ──► deleted, a few in each transaction
//! ```
//! It chooses by what a list shows of a run and must never read one. The invariant: a run that has not ended is never
//! chosen, and what is chosen twice, by whomever, is deleted once.

use crate::engine::Engine;
use crate::error::Error;
use crate::inner::Inner;
use crate::reader::Reader;
use outlive_core::port::{
    Access, BatchFilter, COUNT_MAX, DELETED_RUNS_MAX, Db, DbError, DbErrorKind, Deleted, Order, Run, RunFilter,
    StoredBatch,
};
use outlive_core::{Retention, RunId, RunStatus, Timestamp};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Runs that are looked at together.
pub(crate) const BATCH: u32 = 256;
/// Batches that one call of [`Engine::prune`] looks at.
const BATCHES_MAX: usize = 16;
/// Runs after which such a call returns.
const ASKED_MAX: u64 = 1_024;
/// The pause between two deletions: the store is others' meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// Which of the runs that have ended to delete.
///
/// Without any limit in `retention`: all that match the filter. With limits: of those that match, what the limits do not
/// keep.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// What to keep of those that match. [`Retention::max_bytes`] is about the whole database.
    pub retention: Retention,
    /// Which runs; unfinished ones never match. Its order, cursor, limit and what it asks for beside are ignored.
    pub filter: RunFilter,
    /// Deletes nothing, and says what would be deleted.
    pub is_preview: bool,
    /// Continue after the report that gave this.
    pub after: Option<String>,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Runs.
    pub runs: u64,
    /// Bytes of their logs, inputs and outputs.
    pub bytes: u64,
    /// Runs that stay although they match: a webhook is still to be told of their end, an unfinished run of their session
    /// may read them, or others of their batch have not ended.
    pub in_use: u64,
    /// Batches that had no runs. One whose last run is deleted goes with it, and is not among these.
    pub batches: u64,
    /// Where to go on, when not all runs have been looked at.
    pub next: Option<String>,
}

impl fmt::Display for PruneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs, {} bytes", self.runs, self.bytes)?;
        if self.batches > 0 { write!(f, ", {} batches without runs", self.batches) } else { Ok(()) }
    }
}

impl Engine {
    /// Deletes runs that have ended, with their logs, outputs, questions and webhook deliveries; their sessions stay. Looks
    /// at some thousand runs at a time, and says where to go on.
    ///
    /// A follower of a run that is deleted gets [`Error::RunNotFound`]; its idempotency key is free for a new run.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out, also when its caller goes away.
    ///
    /// # Errors
    /// [`Error::CannotPrune`] when it says neither which runs nor what to keep, or something that cannot be; or the
    /// store's.
    pub async fn prune(&self, prune: Prune) -> Result<PruneReport, Error> {
        let reader = self.reader().clone();
        self.finish(async move { prune_some(&reader, prune).await }).await
    }

    /// Deletes one run that has ended, as [`Engine::prune`] does. False when it stays, because something still needs it.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out, also when its caller goes away.
    ///
    /// # Errors
    /// [`Error::RunNotFound`], [`Error::CannotPrune`] when it has not ended, or the store's.
    pub async fn delete_run(&self, run_id: &RunId) -> Result<bool, Error> {
        let (reader, run_id) = (self.reader().clone(), run_id.clone());
        let deleting = async move {
            let run = reader.record(&run_id).await?.ok_or_else(|| Error::RunNotFound(run_id.clone()))?;
            if !run.status.is_terminal() {
                return Err(Error::CannotPrune(format!("run {run_id} has not ended: cancel it first")));
            }
            Ok(delete(&reader.inner, &reader.access, &[run_id], None).await?.runs > 0)
        };
        self.finish(deleting).await
    }
}

impl Reader {
    /// What [`Engine::prune`] would delete; deletes nothing.
    ///
    /// # Errors
    /// As [`Engine::prune`].
    pub async fn preview_prune(&self, prune: Prune) -> Result<PruneReport, Error> {
        prune_some(self, Prune { is_preview: true, ..prune }).await
    }
}

async fn prune_some(reader: &Reader, prune: Prune) -> Result<PruneReport, Error> {
    let Reader { inner, access, .. } = reader;
    check(&prune, access)?;
    let place = prune.after.as_deref().map(Place::parse).transpose()?.unwrap_or_default();
    let mut walk = Walk::new(prune.retention, prune.filter.clone(), place);
    walk.is_preview = prune.is_preview;
    walk.is_asked = true;
    let mut report = PruneReport::default();
    for _ in 0..BATCHES_MAX {
        let batch = walk.next(&*inner.services.db, access, inner.services.clock.now()).await?;
        report.in_use += batch.in_use;
        if prune.is_preview {
            report.runs += batch.run_ids.len() as u64;
            report.bytes += batch.bytes;
        } else {
            let deleted = delete(inner, access, &batch.run_ids, None).await?;
            walk.deleted(batch.run_ids.len(), deleted);
            report.runs += deleted.runs;
            report.bytes += deleted.bytes;
        }
        if batch.is_last {
            report.batches = prune_batches(reader, &prune).await?;
            return Ok(report);
        }
        if !prune.is_preview && report.runs >= ASKED_MAX {
            break;
        }
    }
    report.next = Some(walk.place.text());
    Ok(report)
}

/// Deletes batches without runs, or counts them: all that are older than what is to be kept, or the one that is asked for.
async fn prune_batches(reader: &Reader, prune: &Prune) -> Result<u64, Error> {
    let Reader { inner, access, .. } = reader;
    let (db, now) = (&*inner.services.db, inner.services.clock.now());
    let RunFilter { statuses, workflow_id, session_id, batch_id, user_id, id_prefix, created_from, created_to, .. } =
        &prune.filter;
    let is_of_runs = !statuses.is_empty()
        || session_id.is_some()
        || id_prefix.is_some()
        || created_from.is_some()
        || created_to.is_some();
    let before = match prune.retention.max_age {
        Some(age) => before(now, age),
        None if prune.retention.is_unlimited() && batch_id.is_some() => now + Duration::from_micros(1),
        None => return Ok(0),
    };
    if is_of_runs {
        return Ok(0);
    }
    let fits = |batch: &StoredBatch| {
        let is_of_user = user_id.is_none() || batch.user_id == *user_id;
        is_of_user && workflow_id.as_ref().is_none_or(|id| *id == batch.workflow_id) && is_unused(batch, before)
    };
    let mut ids: Vec<Arc<str>> = Vec::new();
    if let Some(id) = batch_id {
        ids.extend(db.batch(access.clone(), id.clone()).await?.filter(fits).map(|batch| batch.id));
    } else {
        let mut filter = BatchFilter { workflow_id: workflow_id.clone(), limit: BATCH, ..BatchFilter::default() };
        loop {
            let page = db.batches(access.clone(), filter.clone()).await?;
            ids.extend(page.batches.into_iter().filter(fits).map(|batch| batch.id));
            filter.after = page.next;
            if filter.after.is_none() {
                break;
            }
        }
    }
    if prune.is_preview {
        return Ok(ids.len() as u64);
    }
    Ok(delete_batches(inner, access, &ids, before).await?)
}

/// Deletes those of these batches that have no runs and have not changed since, a few in each transaction.
pub(crate) async fn delete_batches(
    inner: &Inner,
    access: &Access,
    ids: &[Arc<str>],
    before: Timestamp,
) -> Result<u64, DbError> {
    let mut sum = 0;
    for some in ids.chunks(DELETED_RUNS_MAX) {
        let deleted = inner.services.db.delete_batches(access.clone(), some.to_vec(), before).await?;
        inner.services.counters.pruned_batches(deleted);
        sum += deleted;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(sum)
}

/// Whether a batch has no runs and was not changed since.
pub(crate) fn is_unused(batch: &StoredBatch, before: Timestamp) -> bool {
    batch.accepted() == 0 && batch.updated_at < before
}

pub(crate) fn before(now: Timestamp, age: Duration) -> Timestamp {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(age))
}

/// Whether it can be done as asked.
fn check(prune: &Prune, access: &Access) -> Result<(), Error> {
    let Prune { retention, filter, .. } = prune;
    let says_which = !filter.statuses.is_empty()
        || filter.workflow_id.is_some()
        || filter.session_id.is_some()
        || filter.user_id.is_some()
        || filter.batch_id.is_some()
        || filter.id_prefix.is_some()
        || filter.created_from.is_some()
        || filter.created_to.is_some();
    let is_of_kept_counts = filter.session_id.is_none()
        && filter.batch_id.is_none()
        && filter.created_from.is_none()
        && filter.created_to.is_none();
    let problem = if retention.is_unlimited() && !says_which {
        "it would delete every run that has ended: say which, or what to keep (an age, a number of runs, a size)"
    } else if filter.statuses.iter().any(|status| !status.is_terminal()) {
        "only runs that have ended can be deleted: cancel the others first"
    } else if retention.sessions_max_age.is_some() {
        "sessions are not deleted with runs: delete a session by its id, or let the engine's retention do it"
    } else if retention.max_bytes.is_some() && (says_which || access.user().is_some()) {
        "a size is that of the whole database: leave the filter out, with a credential that sees all users' runs"
    } else if retention.max_runs.is_some_and(|max| max >= COUNT_MAX) && !is_of_kept_counts {
        "runs of a session, a batch or a time are counted as far as 10000: keep fewer, or leave that filter out"
    } else {
        return Ok(());
    };
    Err(Error::CannotPrune(problem.to_owned()))
}

/// Deletes these runs, a few in each transaction.
pub(crate) async fn delete(
    inner: &Inner,
    access: &Access,
    run_ids: &[RunId],
    scope: Option<&Arc<str>>,
) -> Result<Deleted, DbError> {
    let mut sum = Deleted::default();
    for some in run_ids.chunks(DELETED_RUNS_MAX) {
        loop {
            let deleted = inner.services.db.delete_runs(access.clone(), some.to_vec(), scope.cloned()).await?;
            inner.services.hub.deleted();
            inner.services.counters.pruned(deleted);
            sum.runs += deleted.runs;
            sum.bytes += deleted.bytes;
            tokio::time::sleep(PAUSE).await;
            if !deleted.more {
                break;
            }
        }
    }
    Ok(sum)
}

/// How far a walk has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The list's cursor.
    after: Option<String>,
    /// Runs that were passed and are still there.
    passed: u64,
    /// Bytes that would be free by now, if runs had been deleted.
    freed: u64,
}

impl Place {
    fn text(&self) -> String {
        format!("{}:{}:{}", self.after.as_deref().unwrap_or("0"), self.passed, self.freed)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut numbers = text.split(':').map(str::parse::<u64>);
        // There are never so many that adding to them could go wrong.
        let mut next = || numbers.next().and_then(Result::ok).filter(|number| i64::try_from(*number).is_ok());
        let place = (next(), next(), next(), next());
        match place {
            (Some(after), Some(passed), Some(freed), None) => {
                Ok(Self { after: Some(after.to_string()), passed, freed })
            }
            _ => Err(Error::CannotPrune(format!("{text:?} did not come from a report: begin without it"))),
        }
    }
}

/// Runs that go.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) run_ids: Vec<RunId>,
    bytes: u64,
    in_use: u64,
    /// No run after these goes.
    pub(crate) is_last: bool,
}

/// Goes over the runs that have ended, those accepted first first.
pub(crate) struct Walk {
    retention: Retention,
    filter: RunFilter,
    pub(crate) place: Place,
    is_preview: bool,
    /// Somebody asks: no run is too young, and without limits all of them go.
    is_asked: bool,
    /// A run stays at least this long after its end.
    pub(crate) grace: Duration,
}

impl Walk {
    pub(crate) fn new(retention: Retention, filter: RunFilter, place: Place) -> Self {
        let ended = || RunStatus::ALL.into_iter().filter(|status| status.is_terminal()).collect();
        let statuses = if filter.statuses.is_empty() { ended() } else { filter.statuses };
        let filter = RunFilter {
            statuses,
            order: Order::OldestFirst,
            limit: BATCH,
            with_payload: false,
            with_counts: retention.max_runs.is_some(),
            ..filter
        };
        Self { retention, filter, place, is_preview: false, is_asked: false, grace: Duration::ZERO }
    }

    /// Of the next runs, those that go.
    pub(crate) async fn next(&mut self, db: &dyn Db, access: &Access, now: Timestamp) -> Result<Batch, Error> {
        let filter = RunFilter { after: self.place.after.clone(), ..self.filter.clone() };
        let page = db.runs(access.clone(), filter).await.map_err(|error| match error.kind() {
            // What the port says of a cursor that no list gave out.
            DbErrorKind::Storage if self.is_asked => Error::CannotPrune(error.to_string()),
            _ => error.into(),
        })?;
        let counted = page.counts.iter().flat_map(|counts| &counts.by_status);
        let counted = counted.filter(|(status, _)| self.filter.statuses.contains(status)).map(|(_, count)| count);
        let surplus = self.retention.max_runs.map_or(0, |max| counted.sum::<u64>().saturating_sub(max));
        let mut excess = match self.retention.max_bytes {
            Some(max) => db.used_bytes().await?.saturating_sub(max).saturating_sub(self.place.freed),
            None => 0,
        };
        let all = self.is_asked && self.retention.is_unlimited();
        let is_over = |age: Option<Duration>, since: Timestamp| age.is_some_and(|age| now.since(since) > age);
        // Sizes are asked for in one go; most runs of a page go, or none does.
        let might = |run: &&Run| excess > 0 || all || surplus > 0 || is_over(self.retention.max_age, run.updated_at);
        let ids: Vec<RunId> = page.runs.iter().filter(might).map(|run| run.info.run_id.clone()).collect();
        let sizes = if ids.is_empty() { Vec::new() } else { db.run_sizes(access.clone(), ids.clone()).await? };
        let mut sizes = ids.into_iter().zip(sizes).peekable();

        let mut batch = Batch::default();
        for run in &page.runs {
            let size = sizes.next_if(|(run_id, _)| *run_id == run.info.run_id).and_then(|(_, size)| size);
            // What is deleted of this page is still counted in `surplus`.
            let before = self.place.passed + if self.is_preview { 0 } else { batch.run_ids.len() as u64 };
            let goes = all || before < surplus || excess > 0 || is_over(self.retention.max_age, run.updated_at);
            // One that ended in the future did so by a clock that was wrong.
            let since_end = now.since(run.updated_at).max(run.updated_at.since(now));
            let is_young = !self.is_asked && since_end < self.grace;
            match size {
                Some(size) if goes && !is_young => {
                    batch.run_ids.push(run.info.run_id.clone());
                    batch.bytes += size;
                    excess = excess.saturating_sub(size);
                    // A run that is deleted is not counted any more either.
                    self.place.passed += u64::from(self.is_preview);
                }
                _ => {
                    batch.in_use += u64::from(goes && !is_young);
                    self.place.passed += 1;
                }
            }
        }
        self.place.passed += page.unreadable.len() as u64;
        self.place.freed += if self.is_preview { batch.bytes } else { 0 };
        let is_young = |run: &Run| !is_over(self.retention.max_age, run.created_at);
        let none_older = self.retention.max_age.is_none() || page.runs.last().is_none_or(is_young);
        let left = if self.is_preview { surplus } else { surplus.saturating_sub(batch.run_ids.len() as u64) };
        batch.is_last = page.next.is_none() || (!all && none_older && self.place.passed >= left && excess == 0);
        self.place.after = page.next;
        Ok(batch)
    }

    /// Of this many that were to be deleted, these were.
    pub(crate) fn deleted(&mut self, chosen: usize, deleted: Deleted) {
        self.place.passed += (chosen as u64).saturating_sub(deleted.runs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_was_written() {
        let place = Place { after: Some("17".to_owned()), passed: 3, freed: 1_000 };
        assert_eq!(Place::parse(&place.text()).expect("it was written"), place);
        for wrong in
            ["", "1", "1:2", "a:b:c", "1:2:3:4", "-1:0:0", "1:18446744073709551615:0", "1:0:9223372036854775808"]
        {
            assert!(matches!(Place::parse(wrong), Err(Error::CannotPrune(_))), "{wrong:?}");
        }
    }
}
