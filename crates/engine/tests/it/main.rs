//! The engine with function steps, on the in-memory store, in paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod batches;
mod called;
mod drift;
mod dropped;
mod forks;
mod functions;
mod hearts;
mod led;
mod named;
mod observers;
mod owners;
mod questions;
mod races;
mod rates;
mod readers;
mod retention;
mod runs;
mod schedules;
mod sessions;
mod simulation;
mod stage;
mod starts;
mod stats;
mod steering;
mod stops;
mod sweep;
mod trees;
mod twins;
mod waits;
