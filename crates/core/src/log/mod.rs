//! The run log: entries numbered 0, 1, 2 …, each an event for the world and, where recovery needs more, a record.
//!
//! ```text
//! entries ──stored──► lines that say nothing twice ──once──► lines without what stood before ──page──► a row
//!                     (what the run's row or the record says)   (long values)                     (checksums)
//! ```
//! A [`Writer`] knows what an entry may leave out, because it has seen all entries before it; a [`Reader`] puts it back,
//! and says which earlier entries it needs for that. Stores keep pages as text and never look inside; nobody else knows
//! the format.
//!
//! Invariant: what is read is what was written, from whatever index one begins to read.

mod entry;
mod key;
mod old;
mod once;
mod page;
mod reader;
mod record;
mod stored;
mod writer;

pub use entry::Entry;
pub use key::{Key, Part, Place};
pub use page::{Damaged, Page};
pub use reader::{Reader, Unreadable};
pub use record::{Called, Pause, Record, Rest, RunEnded};
pub use writer::Writer;
