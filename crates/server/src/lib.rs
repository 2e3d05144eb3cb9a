//! Serves workflows over HTTP, Server-Sent Events and WebSocket, in the wire format of Agno's clients.
//!
//! ```text
//! socket ──► listen ──► guard ──► auth ──► routes ──► engine
//!            limits     host,     who,     one call   submits,
//!            times      origin    scope    each       reads the log
//!                                             │
//!                                   wire ◄────┘  what Agno's clients expect
//! ```
//! The one place with HTTP. It never runs a step and never reads a table: it asks the engine, as the caller whose
//! credential it saw. The invariant: whatever a client is told about a run is on stable storage.

mod agui;
pub mod audit;
pub mod auth;
pub mod config;
mod events_ws;
mod follow;
pub mod guard;
pub mod json;
pub mod listen;
mod metrics;
mod names;
mod openapi;
pub mod problem;
mod routes;
pub mod sequence;
mod server;
mod sse;
pub mod state;
mod streams;
#[cfg(feature = "testing")]
pub mod testing;
mod urlencoded;
pub mod webhook;
pub mod wire;

pub use server::{Server, ServerBuilder};
