//! Space for further runs: below a low-water mark of the store's disk, no new run is accepted.
//!
//! Accepted runs go on, in the space kept free for them. It is asked for each run that is submitted, so it checks the
//! disk at most once a second. The invariant: a store that reports nothing about its disk has space.

use crate::error::Error;
use crate::options::Options;
use outlive_core::port::{Db, Room};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Time between two checks.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// What the last check found.
#[derive(Debug, Default)]
pub(crate) struct LowWater(Mutex<Option<(Instant, Option<Room>)>>);

impl LowWater {
    /// Whether there is space for further runs.
    ///
    /// # Errors
    /// [`Error::DiskLow`].
    pub(crate) fn check(&self, db: &dyn Db, options: &Options) -> Result<(), Error> {
        let Some(room) = self.look(db) else { return Ok(()) };
        let needed_bytes = needed_bytes(&room, options);
        if room.free_bytes >= needed_bytes {
            return Ok(());
        }
        Err(Error::DiskLow { free_bytes: room.free_bytes, needed_bytes })
    }

    fn look(&self, db: &dyn Db) -> Option<Room> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((at, room)) if at.elapsed() < LOOK_PERIOD => room,
            _ => {
                let room = db.health().room;
                *last = Some((Instant::now(), room));
                room
            }
        }
    }
}

/// An absolute floor: five percent of a large disk is more than all runs will ever need.
fn needed_bytes(room: &Room, options: &Options) -> u64 {
    let part = room.total_bytes / 100 * u64::from(options.disk_free_percent_max);
    part.min(options.disk_free_min)
}
