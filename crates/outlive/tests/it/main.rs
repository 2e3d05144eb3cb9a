//! End to end: the facade on real SQLite files, real HTTP model servers, real processes and real SIGKILLs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod agno;
mod agno_workflows;
mod agui;
mod answers;
mod background;
mod budgets;
mod chat;
mod client;
mod cookbook;
mod deep;
mod definitions;
mod dropped;
mod example;
mod faults;
mod file_calls;
mod file_safety;
mod files;
mod fleet;
mod fork_hooks;
mod forks;
mod formats;
mod kill9;
mod limits;
mod many;
#[cfg(unix)]
mod mcp;
mod odd_files;
mod page;
mod responses;
mod results;
mod rolling;
mod secrets;
mod seed;
mod serve_crash;
mod several;
mod sweep;
mod traces;
mod unreadable;
mod usage;
mod waits;
mod world;
