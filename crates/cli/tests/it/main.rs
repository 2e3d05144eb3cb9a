//! The command as people and scripts meet it: the built program, its output, its exit codes.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails its test the same way")]

mod batches;
mod budgets;
mod config;
#[cfg(unix)]
mod crash;
mod definitions;
mod demo;
mod exits;
#[cfg(unix)]
mod file;
#[cfg(unix)]
mod files;
mod first;
mod fixture;
mod help;
mod json;
mod look;
#[cfg(unix)]
mod mcp;
mod once;
#[cfg(unix)]
mod prune;
#[cfg(unix)]
mod questions;
#[cfg(unix)]
mod reloads;
#[cfg(unix)]
mod running;
mod schedules;
mod secrets;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod there;
#[cfg(unix)]
mod traces;
#[cfg(unix)]
mod waits;
