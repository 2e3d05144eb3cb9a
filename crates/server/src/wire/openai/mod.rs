//! What OpenAI's SDKs expect of `/v1`: requests, responses and their events, converted by hand from our own types.
//!
//! ```text
//! request ──► a run to start        response ──► bodies        events ──► streams
//! ```
//! It must never ask the engine: everything it shows was handed to it. The invariant: a response is a view of its run,
//! so that whatever asks for it, and whenever, is shown the same one.

pub mod events;
pub mod request;
pub mod response;

use outlive_core::RunId;

/// What the id of a response has before that of its run.
const RESPONSE: &str = "resp_";

/// The id of a run's response.
pub fn response_id(run_id: &RunId) -> String {
    format!("{RESPONSE}{run_id}")
}

/// The run of a response; nothing when it is no response's id.
pub fn run_id(response_id: &str) -> Option<RunId> {
    RunId::parse(response_id.strip_prefix(RESPONSE)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_by_its_id() {
        for id in ["0193a5c7-4b1e-7c31-9d55-0f6f2f1a9b21", "my.run:7", "resp_"] {
            let id = RunId::parse(id).expect("an id");
            assert_eq!(run_id(&response_id(&id)), Some(id));
        }
        for no_id in ["", "resp", "resp_", "run_1", "0193a5c7-4b1e-7c31-9d55-0f6f2f1a9b21", "resp_a b"] {
            assert_eq!(run_id(no_id), None, "{no_id}");
        }
    }
}
