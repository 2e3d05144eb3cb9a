//! The stores behind the `Db` port: [`InMemoryDb`] for tests and simulations, `SqliteDb` (feature `sqlite`) for one file
//! with full durability.
//!
//! A store keeps text: it never opens a payload, and knows no model, no HTTP and no workflow. What a store must do is
//! written in the port, [`outlive_core::port`], and checked sentence by sentence by the `conformance` module (feature
//! `testing`), which every store passes.

#[cfg(feature = "testing")]
pub mod conformance;
mod memory;
mod rules;
#[cfg(feature = "sabotage")]
mod sabotage;
mod shares;
mod silence;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use memory::{Fault, Faults, InMemoryDb, Operation};
#[cfg(feature = "sqlite")]
pub use sqlite::{Adopted, Backup, Inspection, LogInspection, Migrated, SqliteDb, StoredKey, Vacuumed};
#[cfg(all(feature = "sqlite", feature = "testing"))]
pub use sqlite::{Injected, Stage};
