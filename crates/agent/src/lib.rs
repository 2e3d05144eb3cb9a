//! Agents and teams: a model, tools, a role and instructions, and the loop that makes them work.
//!
//! This crate knows no database, no lease and no workflow. Everything that must be done only once goes through
//! [`outlive_core::port::Effects`]; alone, an agent runs with effects that keep nothing.

pub mod model;
pub mod tool;
