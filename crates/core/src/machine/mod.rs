//! The machines: pure state that folds what happened and says what is next.
//!
//! ```text
//! log ──apply──► machine ──next──► what to say, and what to do then
//!                   ▲                          │
//!                   └───────── entries ◄───────┘ (the engine does it and appends how it ended)
//! ```
//! No clock, no I/O, no chance, no `.await`. A machine can be written down and read back at any moment.

mod agent;
mod branch;
mod called;
mod drift;
mod frame;
mod lead;
mod people;
mod rest;
mod tasks;
mod team;
mod workflow;

pub use agent::{AgentCommand, AgentLimits, AgentMachine};
pub use called::CalledEnd;
pub use drift::{Fit, Mismatch};
pub use rest::PartialText;
pub use tasks::{Job, TASK_TOOLS};
pub use team::{DELEGATE_ALL_TOOL, DELEGATE_TOOL, TeamCall, TeamCommand, TeamMachine, TeamMode};
pub use workflow::{Applied, Ask, Decision, Execute, Task, WorkflowMachine, with_branches};

pub(crate) use branch::Branch;
pub(crate) use frame::Frame;
