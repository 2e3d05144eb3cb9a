//! Agents and teams: a model, tools, a role and instructions, and the loop that makes them work.
//!
//! This crate knows no database, no lease and no workflow. Everything that must be done only once goes through
//! [`outlive_core::port::Effects`]; on its own, an agent runs with effects that keep nothing.

mod agent;
mod describe;
mod desk;
mod driver;
mod guardrails;
mod hooks;
#[cfg(feature = "http")]
pub mod http;
mod methods;
pub mod model;
#[cfg(feature = "http")]
pub mod outbound;
mod profile;
mod prompt;
mod solo;
mod team;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tool;
mod workflow_agent;

pub use agent::Agent;
pub use guardrails::{PiiGuardrail, PromptInjectionGuardrail};
pub use hooks::{CheckError, CheckTrigger, Hook, HookContext, Passed};
pub use outlive_core::machine::TeamMode;
pub use profile::IntoInstructions;
pub use team::{IntoMember, Member, Team};
pub use workflow_agent::WorkflowAgent;
