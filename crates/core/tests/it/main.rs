//! What core promises, tested as data.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod cel;
mod definitions;
mod golden;
mod ids;
mod led;
mod log;
mod machines;
mod traces;
mod trees;
