//! The first bytes of a database file, read without SQLite so that a file that is not ours is never touched.
//!
//! SQLite guards a database with POSIX locks, and a process loses *all* its locks on a file as soon as it closes *any*
//! descriptor of it, no matter which code opened it. So a file that was opened here must stay open while the process
//! may also have it open through SQLite; otherwise another process would take the database for unused and remove its
//! log. That is why this is a list for the whole process, one descriptor per file, closed only once the file itself is
//! deleted.

use super::workers::private;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Length of a database file's header.
pub(super) const HEADER_LEN: usize = 100;

/// A database file begins with this; `user_version` is at 60, `application_id` at 68.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

static OPEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Reads up to [`HEADER_LEN`] bytes of the file, which is created, for its owner only, when it is missing.
pub(super) fn create_or_read(path: &Path) -> io::Result<Vec<u8>> {
    read_with(path, create_or_open)
}

/// Reads up to [`HEADER_LEN`] bytes of a file that exists.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_with(path, |path| File::open(path))
}

/// What a database's header says about the file.
pub(super) struct Told {
    /// How many bytes it has.
    pub(super) len: u64,
    /// How often it was changed; never decreases.
    pub(super) changes: u32,
}

/// What the header says, if the file begins like a database.
pub(super) fn told(path: &Path) -> Option<Told> {
    let header = read(path).ok().filter(|header| header.len() == HEADER_LEN && header.starts_with(MAGIC))?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        page_size => u64::from(page_size),
    };
    Some(Told { len: page_size * u64::from(number(28)), changes: number(24) })
}

fn read_with(path: &Path, open_file: impl Fn(&Path) -> io::Result<File>) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its other end, and a device has no end.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|file| !is_deleted(file));
    let known = open.iter().position(|file| is_at(file, path));
    let place = match known {
        Some(place) => place,
        None => {
            open.push(open_file(path)?);
            open.len() - 1
        }
    };
    let file = &mut open[place];
    let mut header = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(HEADER_LEN as u64).read_to_end(&mut header)?;
    Ok(header)
}

fn create_or_open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    // SQLite gives the files beside it this file's permissions.
    private(&mut options);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => File::open(path),
        created => created,
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}

#[cfg(unix)]
fn is_deleted(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

// Elsewhere locks belong to a descriptor, and each may be closed at once.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    false
}

#[cfg(not(unix))]
fn is_deleted(_: &File) -> bool {
    true
}
