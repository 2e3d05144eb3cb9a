//! Readers that keep the write-ahead log from starting again: what each copy of the log shows about them, and who they
//! are.
//!
//! A reader sees the database as it was when it began, so what was written since stays in the log until it ends.
//! Nothing waits for it. The invariant: one warning each time the log is held, however long that lasts.

use super::presence::beside;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pages of the log, from its beginning.
pub(super) type Pages = i32;

/// How long a reader may hold the log before it is worth a warning.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What a copy of the log found: how long the log was, and how much of it is now in the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) log: Pages,
    pub(super) copied: Pages,
}

/// Whether the log is held.
#[derive(Debug, Default)]
pub(super) struct Pin(Option<Held>);

#[derive(Debug)]
struct Held {
    /// The page after which nothing can be copied.
    at: Pages,
    since: Instant,
    passes: u32,
    is_told: bool,
}

impl Pin {
    /// Notes what a pass found. Returns how long the log has been held when it is time to report that.
    pub(super) fn note(&mut self, pass: Pass, now: Instant, patience: Duration) -> Option<Duration> {
        if pass.copied >= pass.log {
            self.0 = None;
            return None;
        }
        let held = match self.0.take() {
            Some(held) if held.at == pass.copied => Held { passes: held.passes + 1, ..held },
            _ => Held { at: pass.copied, since: now, passes: 1, is_told: false },
        };
        let lasted = now.saturating_duration_since(held.since);
        let is_due = !held.is_told && held.passes > 1 && lasted >= patience;
        self.0 = Some(Held { is_told: held.is_told || is_due, ..held });
        is_due.then_some(lasted)
    }

    /// Since when it has been held, once that was seen twice: every reader holds it for a moment.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.as_ref().filter(|held| held.passes > 1).map(|held| held.since)
    }

    /// Whether it was reported, so that its end must be reported too.
    pub(super) fn is_told(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.is_told)
    }
}

/// Who is reading the database at `path` in a transaction just now, for people; empty where the system does not say.
///
/// Readers hold a shared lock on one of five bytes of the `-shm` file.
#[cfg(target_os = "linux")]
pub(super) fn readers(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (Ok(index), Ok(locks)) = (std::fs::metadata(beside(&path, "-shm")), std::fs::read_to_string("/proc/locks"))
    else {
        return String::new();
    };
    named(locks.lines().filter_map(|line| reader(line, index.ino())).collect())
}

/// Who holds a lock on this file as a whole, as workers do on theirs, for people; empty where the system does not say.
#[cfg(target_os = "linux")]
pub(super) fn holders(path: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let (Ok(file), Ok(locks)) = (std::fs::metadata(path), std::fs::read_to_string("/proc/locks")) else {
        return String::new();
    };
    named(locks.lines().filter_map(|line| holder(line, file.ino())).collect())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn holders(_: &Path) -> String {
    String::new()
}

#[cfg(target_os = "linux")]
fn named(mut processes: Vec<u32>) -> String {
    processes.sort_unstable();
    processes.dedup();
    let named = processes.iter().map(|process| {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        match name.trim() {
            "" => format!("process {process}"),
            name => format!("{name} (process {process})"),
        }
    });
    named.collect::<Vec<_>>().join(", ")
}

#[cfg(not(target_os = "linux"))]
pub(super) fn readers(_: &Path) -> String {
    String::new()
}

/// The process of a line of `/proc/locks` that is a reader's lock on the file with this number:
/// `7: POSIX  ADVISORY  READ 4711 fe:00:1234 124 124`.
#[cfg(target_os = "linux")]
fn reader(line: &str, inode: u64) -> Option<u32> {
    const READ_LOCKS: std::ops::RangeInclusive<u64> = 123..=127;
    let (process, first) = lock(line, "READ", inode)?;
    READ_LOCKS.contains(&first).then_some(process)
}

/// The same for an exclusive lock on a whole file: `7: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`.
#[cfg(target_os = "linux")]
fn holder(line: &str, inode: u64) -> Option<u32> {
    lock(line, "WRITE", inode).map(|(process, _)| process)
}

/// The process that holds a lock of this kind on the file with this number, and the first byte it covers.
#[cfg(target_os = "linux")]
fn lock(line: &str, kind: &str, inode: u64) -> Option<(u32, u64)> {
    let mut words = line.split_whitespace().skip_while(|word| *word != kind);
    let process = words.nth(1)?.parse().ok().filter(|process| *process > 0)?;
    let is_file = words.next()?.rsplit(':').next()?.parse() == Ok(inode);
    let first: u64 = words.next()?.parse().ok()?;
    is_file.then_some((process, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_for_each_time_it_is_held() {
        let begun = Instant::now();
        let mut pin = Pin::default();
        let mut told = Vec::new();
        // Two pages a second; from the 5th second to the 65th a reader holds what there was then.
        for second in 0..100 {
            let log = 100 + 2 * second;
            let copied = if (5..65).contains(&second) { 110 } else { log };
            let at = begun + Duration::from_secs(u64::try_from(second).expect("small"));
            told.extend(pin.note(Pass { log, copied }, at, PATIENCE).map(|lasted| (second, lasted.as_secs())));
        }
        assert_eq!(told, [(16, 10)], "noticed in the 6th second");
        assert!(pin.since().is_none() && !pin.is_told());
    }

    #[test]
    fn readers_that_come_and_go_are_no_pin() {
        let mut pin = Pin::default();
        for second in 0..100 {
            let at = Instant::now() + Duration::from_secs(u64::try_from(second).expect("small"));
            let told = pin.note(Pass { log: 100 + second, copied: 90 + second }, at, PATIENCE);
            assert!(told.is_none() && pin.since().is_none(), "{second}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_readers_lock_is_told_from_others() {
        let inode = 1_234;
        assert_eq!(reader("7: POSIX  ADVISORY  READ 4711 fe:00:1234 124 124", inode), Some(4711));
        for other in [
            "7: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120",
            "7: POSIX  ADVISORY  READ 4711 fe:00:1234 128 128",
            "7: POSIX  ADVISORY  READ 4711 fe:00:1235 124 124",
            "7: OFDLCK ADVISORY  READ -1 fe:00:1234 124 124",
            "7: POSIX  ADVISORY  READ",
            "",
        ] {
            assert_eq!(reader(other, inode), None, "{other}");
        }
        assert_eq!(holder("7: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF", inode), Some(4711));
        assert_eq!(holder("7: FLOCK  ADVISORY  WRITE 4711 fe:00:1235 0 EOF", inode), None);
    }
}
