//! The engine: accepts runs, executes them under a lease, writes their log, and lets anyone read it.
//!
//! ```text
//! submit ──► Db::create_run ──► drive (one task a run) ──► Db::commit ──► hub: "run X has news"
//!                 ▲                 ▲                                        │
//!            worker: claims what nobody executes                  readers read the log
//! ```
//! It knows no HTTP, no SQL, no model and no agent: what runs inside a step is an [`outlive_core::port::Executor`].

mod asked;
mod audit;
mod batches;
mod budgets;
mod builder;
mod bulk;
mod cancel;
mod clock;
mod control;
pub mod cron;
mod definitions;
pub mod diff;
mod drive;
mod ending;
mod engine;
mod error;
mod events;
mod finish;
mod flights;
mod fold;
mod fork;
mod handle;
mod heart;
mod history;
mod hooks;
mod hub;
mod inner;
mod journal;
mod keeper;
mod lease;
mod ledger;
mod options;
mod pump;
mod questions;
mod queue;
mod rates;
mod reader;
mod reading;
mod retention;
mod room;
#[cfg(feature = "sabotage")]
mod sabotage;
mod schedules;
mod services;
mod sessions;
mod shares;
pub mod stats;
mod streams;
mod submit;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
mod ticks;
pub mod waits;
mod worker;
mod zone;

pub use asked::AskedQuestion;
pub use batches::{
    Batch, BatchCounts, BatchHandle, BatchResult, BatchResults, BatchSpec, BatchesPage, CreateBatch, ITEMS_SIDE_BY_SIDE,
};
pub use builder::EngineBuilder;
pub use bulk::{Bulk, BulkMatches, BulkOutcome, BulkPage, BulkRun, BulkVerb};
pub use clock::{SystemChance, SystemClock};
pub use engine::Engine;
pub use error::Error;
pub use events::EventStream;
pub use finish::Finish;
pub use fork::{Fork, ForkPreview, ForkRequest};
pub use handle::RunHandle;
pub use hub::{Change, Changes};
pub use options::Options;
pub use questions::{AskedPage, OpenQuestion};
pub use reader::{Reader, RunStanding};
pub use retention::{Prune, PruneReport};
pub use schedules::{CatchUp, CreateSchedule, Overlap, Schedule, ScheduleHandle, ScheduleSpec, SchedulesPage};
pub use stats::Stats;
pub use submit::Submit;
pub use zone::{budget_problem, budget_problems};
