//! Which workers of this machine are alive: each holds an OS lock on its own file, which the kernel releases when its
//! process is gone, however it ended. There are no process ids, so none can be reused, and containers make no
//! difference.
//!
//! Files are made, locked and swept only inside a write transaction, so no two processes do it at the same time. The
//! file of a dead worker is removed after the transaction that declared it dead: nobody makes it again. A file holds its
//! worker's lease period, in microseconds. It must never know what a worker holds.

use super::presence::{Lost, Seen};
use outlive_core::WorkerId;
use outlive_core::port::Life;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The locks this handle holds, and where to look for others'.
pub(super) struct Locks {
    directory: PathBuf,
    held: HashMap<WorkerId, File>,
}

impl Locks {
    /// The locks for the database at `path`.
    pub(super) fn new(path: &Path) -> Self {
        let mut directory = path.as_os_str().to_owned();
        directory.push("-workers");
        Self { directory: PathBuf::from(directory), held: HashMap::new() }
    }

    /// Whether this handle holds the worker's lock.
    pub(super) fn holds(&self, worker: &WorkerId) -> bool {
        self.held.contains_key(worker)
    }

    /// Takes the lock of a worker with this lease period; false when another handle has it.
    pub(super) fn take(&mut self, worker: &WorkerId, period: Duration) -> io::Result<bool> {
        if self.holds(worker) {
            return Ok(true);
        }
        create_private_directory(&self.directory)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        private(&mut options);
        let mut file = options.open(self.file(worker))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                write!(file, "{}", period.as_micros())?;
                self.held.insert(worker.clone(), file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// How long the worker's leases last without a beat, if its file says so.
    pub(super) fn period(&self, worker: &WorkerId) -> Option<Duration> {
        let text = fs::read_to_string(self.file(worker)).ok()?;
        Some(Duration::from_micros(text.parse().ok()?))
    }

    /// Whether the worker's process is alive: whether it holds the lock. Unknown when there is no file, or it cannot be
    /// read. Asking does not disturb it.
    pub(super) fn life(&self, worker: &WorkerId) -> Life {
        if self.holds(worker) {
            return Life::Lives;
        }
        let Ok(file) = File::open(self.file(worker)) else {
            return Life::Unknown;
        };
        match file.try_lock_shared() {
            Ok(()) => Life::Gone,
            Err(TryLockError::WouldBlock) => Life::Lives,
            Err(TryLockError::Error(_)) => Life::Unknown,
        }
    }

    /// Whether the files this handle holds are where others look for them.
    pub(super) fn look(&self) -> Result<(), Lost> {
        self.held.iter().try_for_each(|(worker, file)| Seen::of(self.file(worker), file).look().map(drop))
    }

    /// Whether there is a file for each of these workers.
    pub(super) fn know(&self, worker: &WorkerId) -> bool {
        self.file(worker).exists()
    }

    /// Removes what is left of a worker that is dead or retired.
    pub(super) fn remove(&mut self, worker: &WorkerId) {
        let ours = self.held.remove(worker).is_some();
        if ours || self.life(worker) == Life::Gone {
            // A file that stays is litter, not a fault: `sweep` finds it.
            drop(fs::remove_file(self.file(worker)));
        }
    }

    /// Removes the files of workers that are not among the living and whose process is gone.
    pub(super) fn sweep(&mut self, living: &HashSet<WorkerId>) {
        let keep: HashSet<String> = living.iter().chain(self.held.keys()).map(file_name).collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let is_kept = entry.file_name().to_str().is_some_and(|name| keep.contains(name));
            let is_free = || File::open(entry.path()).is_ok_and(|file| file.try_lock_shared().is_ok());
            if !is_kept && is_free() {
                drop(fs::remove_file(entry.path()));
            }
        }
    }

    /// The worker's file, whether or not it exists.
    pub(super) fn file(&self, worker: &WorkerId) -> PathBuf {
        self.directory.join(file_name(worker))
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        // The files stay: a worker that was not retired is found dead by its free lock.
        self.held.clear();
    }
}

/// The worker's id as a file name: everything but letters, digits, `-` and `_` as `%` and two hexadecimal digits.
fn file_name(worker: &WorkerId) -> String {
    let mut name = String::new();
    for byte in worker.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02x}").expect("writing to a string succeeds");
        }
    }
    name
}

/// Creates a directory and the missing ones above it, for the owner alone. What exists stays as it is.
pub(super) fn create_private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes a file that is created readable for its owner alone.
pub(super) fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(15);

    fn worker(id: &str) -> WorkerId {
        WorkerId::parse(id).expect("a good id")
    }

    #[test]
    fn a_worker_lives_while_its_lock_is_held() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.db");
        let mut owner = Locks::new(&path);
        let mut other = Locks::new(&path);
        let id = worker("../w 1/é".replace(' ', "_").as_str());
        assert_eq!(other.life(&id), Life::Unknown);
        assert!(owner.take(&id, PERIOD).expect("a lock"));
        assert!(owner.take(&id, PERIOD).expect("a lock"), "taking again is harmless");
        assert!(!other.take(&id, PERIOD * 2).expect("a lock"));
        assert_eq!(other.period(&id), Some(PERIOD));
        assert_eq!((owner.life(&id), other.life(&id)), (Life::Lives, Life::Lives));
        drop(owner);
        assert_eq!(other.life(&id), Life::Gone);
        other.remove(&id);
        assert_eq!(other.life(&id), Life::Unknown);
    }

    #[test]
    fn a_sweep_takes_only_what_nobody_needs() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.db");
        let mut owner = Locks::new(&path);
        owner.take(&worker("held"), PERIOD).expect("a lock");
        let mut gone = Locks::new(&path);
        for id in ["living", "litter"] {
            gone.take(&worker(id), PERIOD).expect("a lock");
        }
        drop(gone);
        let mut sweeper = Locks::new(&path);
        sweeper.sweep(&HashSet::from([worker("living")]));
        let lives = ["held", "living", "litter"].map(|id| sweeper.life(&worker(id)));
        assert_eq!(lives, [Life::Lives, Life::Gone, Life::Unknown]);
    }
}
