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
mod budgets;
mod builder;
mod cancel;
mod clock;
mod control;
pub mod cron;
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
mod lease;
mod ledger;
mod options;
mod pump;
mod questions;
mod queue;
mod rates;
mod reader;
mod reading;
mod room;
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

pub use asked::AskedQuestion;
pub use builder::EngineBuilder;
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
pub use schedules::{CatchUp, CreateSchedule, Overlap, Schedule, ScheduleHandle, ScheduleSpec, SchedulesPage};
pub use stats::Stats;
pub use submit::Submit;
