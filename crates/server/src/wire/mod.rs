//! What clients expect on the wire: bodies, frames and forms, converted by hand from our own types. Agno's are here, those
//! of OpenAI's SDKs in `openai`.
//!
//! ```text
//! form ──► typed request        run, list, session, component ──► bodies        frame, agent ──► streams
//! ```
//! It must never ask the engine, nor decide who may see what: everything it shows was handed to it. The invariant: a
//! rename inside the project changes no key that a client reads.

pub mod agent;
pub mod agui;
pub mod answers;
pub mod component;
pub mod form;
pub mod frame;
pub mod list;
pub mod media;
pub mod openai;
pub mod run;
pub mod session;

use outlive_core::Timestamp;

/// An instant as lists and sessions show it, to the second: `2026-11-23T03:27:47Z`.
///
/// ```
/// use outlive_core::Timestamp;
/// assert_eq!(outlive_server::wire::iso(Timestamp::from_micros(1_795_404_467_000_000)), "2026-11-23T03:27:47Z");
/// ```
pub fn iso(at: Timestamp) -> String {
    shown(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// The same to the microsecond, as the health route shows the start of the process.
pub fn iso_micros(at: Timestamp) -> String {
    shown(at, "%Y-%m-%dT%H:%M:%S.%6fZ")
}

fn shown(at: Timestamp, format: &str) -> String {
    let at = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(jiff::Timestamp::MAX);
    at.strftime(format).to_string()
}
