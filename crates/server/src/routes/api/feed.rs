//! Changes to runs, for all who follow the lists: one task that polls, however many followers there are, and none
//! without followers.
//!
//! It looks as the process itself; what one caller may see of it is decided where it is told. The invariant: between two
//! looks of the task a run is told at most once, with a status and an index that were stored together.

use outlive_core::port::{RunFilter, RunPage};
use outlive_core::{RunId, RunStatus};
use outlive_engine::{Change, Changes, Error, Reader};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, broadcast};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// Changes of this time are told together.
const GATHER: Duration = Duration::from_millis(250);
/// Time between looks for what other processes did, and for workers.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Runs read between two tellings; further ones wait for the next.
const READS_MAX: usize = 256;
/// Runs that may wait to be read. With more, followers read their lists again.
const WAITING_MAX: usize = 4096;
/// Finished runs among which those of other processes are looked for.
const NEWEST: u32 = 100;
/// Unfinished runs that are watched.
const UNFINISHED_MAX: u32 = 1000;
/// Tellings a follower may be behind.
const BEHIND_MAX: usize = 64;

/// A run that changed.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    pub(super) run_id: RunId,
    pub(super) status: RunStatus,
    pub(super) next_index: u64,
    pub(super) owner: Option<Arc<str>>,
}

/// What followers are told.
#[derive(Clone, Debug)]
pub(super) enum News {
    /// These runs changed.
    Runs(Arc<[Changed]>),
    /// So many workers live now.
    Workers(usize),
    /// Something may have been missed: read the lists again.
    Reset,
}

/// The followers. The task ends with the last one.
pub(super) struct Follower {
    _feed: Arc<Feed>,
    pub(super) news: broadcast::Receiver<News>,
}

/// Where followers find the task.
#[derive(Default)]
pub(super) struct Feeds(Mutex<Weak<Feed>>);

struct Feed {
    sender: broadcast::Sender<News>,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feeds {
    /// Follows. A list that is read afterwards, together with what is told from now on, misses nothing.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn follow(&self, reader: &Reader) -> Result<Follower, Error> {
        let mut current = self.0.lock().await;
        if let Some(feed) = current.upgrade().filter(|feed| !feed.task.is_finished()) {
            return Ok(Follower { news: feed.sender.subscribe(), _feed: feed });
        }
        let (sender, news) = broadcast::channel(BEHIND_MAX);
        let mut watch = Watch {
            changes: reader.changes(),
            reader: reader.clone(),
            sender: sender.clone(),
            known: HashMap::new(),
            waiting: BTreeSet::new(),
            workers: reader.workers().await?.len(),
            is_to_look: false,
            looked_at: Instant::now(),
        };
        watch.look().await?;
        let task = tokio::spawn(watch.keep_telling()).abort_handle();
        let feed = Arc::new(Feed { sender, task });
        *current = Arc::downgrade(&feed);
        Ok(Follower { _feed: feed, news })
    }
}

struct Watch {
    reader: Reader,
    changes: Changes,
    sender: broadcast::Sender<News>,
    /// What was last seen of unfinished runs, and of the newest.
    known: HashMap<RunId, (RunStatus, u64)>,
    /// Runs to be read.
    waiting: BTreeSet<RunId>,
    workers: usize,
    /// Another process may have changed anything.
    is_to_look: bool,
    looked_at: Instant,
}

impl Watch {
    async fn keep_telling(mut self) {
        loop {
            let stopped = self.reader.stopped();
            tokio::select! {
                () = self.gather() => {}
                () = stopped => return,
            }
            if let Err(error) = self.tell().await {
                tracing::warn!(%error, "changed runs could not be read");
                self.send(News::Reset);
                sleep(LOOK_PERIOD).await;
            }
        }
    }

    /// Waits for something to do, and then a little longer.
    async fn gather(&mut self) {
        let idle = if self.waiting.is_empty() { LOOK_PERIOD } else { GATHER };
        let until = Instant::now() + idle;
        let Ok(first) = timeout_at(until, self.changes.next()).await else { return };
        self.note(first);
        let until = Instant::now() + GATHER;
        while let Ok(change) = timeout_at(until, self.changes.next()).await {
            self.note(change);
        }
    }

    fn note(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Run(run_id)) => {
                self.waiting.insert(run_id);
            }
            Some(Change::Anything) | None => self.is_to_look = true,
        }
    }

    async fn tell(&mut self) -> Result<(), Error> {
        let mut changed = Vec::new();
        if self.looked_at.elapsed() >= LOOK_PERIOD {
            self.tell_workers().await?;
            if std::mem::take(&mut self.is_to_look) {
                changed.extend(self.look().await?);
            }
            self.looked_at = Instant::now();
        }
        if self.waiting.len() > WAITING_MAX {
            self.waiting.clear();
            self.send(News::Reset);
        }
        for _ in 0..READS_MAX {
            let Some(run_id) = self.waiting.pop_first() else { break };
            let Some(run) = self.reader.standing(&run_id).await? else {
                self.known.remove(&run_id);
                continue;
            };
            let seen = Changed { run_id, status: run.status, next_index: run.next_index, owner: run.user_id };
            changed.extend(self.learn(seen));
        }
        if !changed.is_empty() {
            self.send(News::Runs(changed.into()));
        }
        Ok(())
    }

    async fn tell_workers(&mut self) -> Result<(), Error> {
        let count = self.reader.workers().await?.len();
        if std::mem::replace(&mut self.workers, count) != count {
            self.send(News::Workers(count));
        }
        Ok(())
    }

    /// Looks at the lists themselves. Gives back what is new in them.
    async fn look(&mut self) -> Result<Vec<Changed>, Error> {
        let unfinished = RunStatus::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
        let unfinished = RunFilter { statuses: unfinished, limit: UNFINISHED_MAX, ..RunFilter::default() };
        let unfinished = self.reader.runs(unfinished).await?;
        let newest = self.reader.runs(RunFilter { limit: NEWEST, ..RunFilter::default() }).await?;
        let mut gone = std::mem::take(&mut self.known);
        let mut changed = Vec::new();
        for run in [unfinished, newest].into_iter().flat_map(|page: RunPage| page.runs) {
            let run_id = run.info.run_id;
            if let Some(before) = gone.remove(&run_id) {
                self.known.insert(run_id.clone(), before);
            }
            let seen = Changed { run_id, status: run.status, next_index: run.next_index, owner: run.info.user_id };
            changed.extend(self.learn(seen));
        }
        // What was unfinished and is in no list any more has ended, and is read by itself.
        for (run_id, (status, _)) in gone {
            if !status.is_terminal() {
                self.waiting.insert(run_id);
            }
        }
        Ok(changed)
    }

    /// Remembers what was seen of a run; gives it back when it is new.
    fn learn(&mut self, seen: Changed) -> Option<Changed> {
        let now = (seen.status, seen.next_index);
        let before = self.known.insert(seen.run_id.clone(), now);
        (before != Some(now)).then_some(seen)
    }

    fn send(&self, news: News) {
        // An error means that nobody follows any more.
        let _ = self.sender.send(news);
    }
}
