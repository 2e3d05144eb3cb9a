//! The table of routes: what exists, what it needs, and how it is documented.

mod agui;
pub(crate) mod api;
pub(crate) mod caller;
pub(crate) mod continued;
mod discovery;
mod failure;
pub(crate) mod hooks;
mod operations;
mod query;
mod responses;
pub(crate) mod runs;
mod sessions;
mod socket;

use crate::auth::{Doc, Field, Needs, Routes};
use crate::events_ws;
use crate::openapi;
use crate::state::{Kind, State};
use std::sync::Arc;

type Table = Routes<Arc<State>>;

/// Every route.
pub(crate) fn all() -> Table {
    discovery::routes()
        .merge(runs_of(Kind::Workflow))
        .merge(runs_of(Kind::Agent))
        .merge(runs_of(Kind::Team))
        .merge(socket())
        .merge(agui::routes())
        .merge(sessions::routes())
        .merge(api::routes())
        .merge(hooks::routes())
        .merge(responses::routes())
        .merge(openapi::routes())
        .merge(operations::routes())
}

/// A field of a form or query.
const fn field(name: &'static str, kind: &'static str, required: bool, summary: &'static str) -> Field {
    Field { name, kind, required, summary }
}

const RUN_FORM: &[Field] = &[
    field("message", "string", true, "The input; its JSON where the workflow has an input schema"),
    field("stream", "boolean", false, "Answer with Server-Sent Events (default true)"),
    field("background", "boolean", false, "Answer at once; the run continues without the client (default false)"),
    field("session_id", "string", false, "The session; created when absent"),
    field("user_id", "string", false, "The user; a credential that names one takes precedence"),
    field("run_id", "string", false, "The run's id; generated when absent, 409 when it is taken"),
    field(
        "session_state",
        "string",
        false,
        "JSON object laid over the session's state when the run begins: objects are merged, null removes a key",
    ),
    field("additional_data", "string", false, "JSON object that steps see; unknown fields are added to it"),
    field("metadata", "string", false, "JSON object that is shown with the run"),
    field("dependencies", "string", false, "JSON object that function steps see"),
    field("images", "string", false, "JSON array of objects with content (base64) or url"),
    field("audio", "string", false, "The same, for function steps"),
    field("videos", "string", false, "The same, for function steps"),
    field("input_files", "string", false, "The same; of text, content is the text"),
    field("stream_events", "boolean", false, "Stream all events (default true), or only the most important"),
    field("webhook_url", "string", false, "Where the run's events are posted"),
    field("webhook_events", "string", false, "Which of them: end (the last one, default) or all"),
    field(
        "session_policy",
        "string",
        false,
        "For a busy session: queue, reject, parallel, interrupt or steer; as its workflow says when absent",
    ),
    field("steer_to", "string", false, "With steer: the id of the agent or team that is to hear the message"),
];
const RESUME_FORM: &[Field] = &[
    field("last_event_index", "integer", false, "The last event the client has; absent: from the first"),
    field("session_id", "string", false, "Not needed"),
];
const CONTINUE_FORM: &[Field] = &[
    field("step_requirements", "string", false, "A workflow's requirements, answered: a JSON array of objects"),
    field("error_requirements", "string", false, "The same about failures, each with a decision: retry or skip"),
    field("tools", "string", false, "An agent's tool calls, answered: a JSON array of objects"),
    field("requirements", "string", false, "A team's requirements, answered: a JSON array of objects"),
    field("stream", "boolean", false, "Answer with Server-Sent Events (default true)"),
    field("background", "boolean", false, "Refused: /api/questions does not wait"),
    field("session_id", "string", false, "Not needed"),
    field("user_id", "string", false, "Not needed"),
];
const GET_QUERY: &[Field] = &[
    field("session_id", "string", false, "Not needed; another session's is not found"),
    field("wait", "string", false, "Wait for the run's end, at most this long: 30s, 500ms"),
];
const LIST_QUERY: &[Field] = &[
    field("session_id", "string", true, "The session"),
    field("status", "string", false, "Only runs with this status"),
];

/// The words of one kind: paths and scopes are written out, so that they can be found and compared.
struct Words {
    runs: &'static str,
    run: &'static str,
    cancel: &'static str,
    resume: &'static str,
    proceed: &'static str,
    read: &'static str,
    start: &'static str,
    tag: &'static str,
}

fn words(kind: Kind) -> Words {
    match kind {
        Kind::Workflow => Words {
            runs: "/workflows/{workflow_id}/runs",
            run: "/workflows/{workflow_id}/runs/{run_id}",
            cancel: "/workflows/{workflow_id}/runs/{run_id}/cancel",
            resume: "/workflows/{workflow_id}/runs/{run_id}/resume",
            proceed: "/workflows/{workflow_id}/runs/{run_id}/continue",
            read: "workflows:{workflow_id}:read",
            start: "workflows:{workflow_id}:run",
            tag: "workflows",
        },
        Kind::Agent => Words {
            runs: "/agents/{agent_id}/runs",
            run: "/agents/{agent_id}/runs/{run_id}",
            cancel: "/agents/{agent_id}/runs/{run_id}/cancel",
            resume: "/agents/{agent_id}/runs/{run_id}/resume",
            proceed: "/agents/{agent_id}/runs/{run_id}/continue",
            read: "agents:{agent_id}:read",
            start: "agents:{agent_id}:run",
            tag: "agents",
        },
        Kind::Team => Words {
            runs: "/teams/{team_id}/runs",
            run: "/teams/{team_id}/runs/{run_id}",
            cancel: "/teams/{team_id}/runs/{run_id}/cancel",
            resume: "/teams/{team_id}/runs/{run_id}/resume",
            proceed: "/teams/{team_id}/runs/{run_id}/continue",
            read: "teams:{team_id}:read",
            start: "teams:{team_id}:run",
            tag: "teams",
        },
    }
}

/// Runs of one kind.
fn runs_of(kind: Kind) -> Table {
    let words = words(kind);
    let doc = |summary| Doc { summary, tag: words.tag, ..Doc::default() };
    Routes::new()
        .post(words.runs, Needs::scope(words.start), move |caller, id, headers, request| {
            runs::post(kind, caller, id, headers, request)
        })
        .doc(Doc { form: RUN_FORM, answer: Some("Run"), ..doc("Start a run") })
        .get(words.runs, Needs::scope(words.read), move |caller, id, query| runs::list(kind, caller, id, query))
        .doc(Doc { query: LIST_QUERY, ..doc("The runs of a session, oldest first") })
        .get(words.run, Needs::scope(words.read), move |caller, ids, query| runs::get(kind, caller, ids, query))
        .doc(Doc { query: GET_QUERY, answer: Some("Run"), ..doc("A run as it is now") })
        .post(words.cancel, Needs::scope(words.start), move |caller, ids| runs::cancel(kind, caller, ids))
        .doc(doc("Cancel a run"))
        .post(words.resume, Needs::scope(words.read), move |caller, ids, headers, request| {
            runs::resume(kind, caller, ids, headers, request)
        })
        .doc(Doc { form: RESUME_FORM, ..doc("Follow a run from where the client left, as Server-Sent Events") })
        .post(words.proceed, Needs::scope(words.start), move |caller, ids, request| {
            continued::post(kind, caller, ids, request)
        })
        .doc(Doc {
            form: CONTINUE_FORM,
            answer: Some("Run"),
            ..doc("Answer all that a paused run asks, and follow it")
        })
}

/// The socket and its actions.
fn socket() -> Table {
    let doc = |summary| Doc { summary, tag: "workflows", ..Doc::default() };
    Routes::new()
        .get(events_ws::PATH, Needs::Open, socket::upgrade)
        .doc(doc("Runs over a WebSocket"))
        .message(events_ws::PATH, "ping", Needs::Identity)
        .doc(doc("Answered with pong"))
        .message(events_ws::PATH, "start-workflow", Needs::scope("workflows:{workflow_id}:run"))
        .doc(doc("Start a run and follow it"))
        .message(events_ws::PATH, "reconnect", Needs::scope("workflows:{}:read"))
        .doc(doc("Follow a run from where the client left"))
        .message(events_ws::PATH, "cancel-workflow", Needs::scope("workflows:{}:run"))
        .doc(doc("Cancel a run"))
        .message(events_ws::PATH, "continue-workflow", Needs::scope("workflows:{}:run"))
        .doc(doc("Answer all that a paused run asks, and follow it"))
}

#[cfg(test)]
mod tests {
    use outlive_core::{DefinitionId, RunId};
    use std::collections::BTreeSet;

    #[test]
    fn no_word_of_an_address_can_be_an_id_in_its_place() {
        let table = super::all().table();
        let paths: BTreeSet<&str> = table.iter().map(|rule| rule.path).collect();
        let is_parameter = |segment: &str| segment.starts_with('{');
        let mut words = BTreeSet::new();
        for (with_id, with_word) in paths.iter().flat_map(|one| paths.iter().map(move |other| (one, other))) {
            let mut before = true;
            for (id, word) in with_id.split('/').zip(with_word.split('/')) {
                if before && is_parameter(id) && !is_parameter(word) {
                    words.insert((id, word));
                }
                before &= id == word || (is_parameter(id) && is_parameter(word));
            }
        }
        let of_runs = RunId::WORDS.map(|word| ("{run_id}", word));
        let of_workflows = DefinitionId::WORDS.map(|word| ("{workflow_id}", word));
        let expected: BTreeSet<_> = of_runs.into_iter().chain(of_workflows).collect();
        assert_eq!(words, expected, "ids that cannot be asked for: add them to the WORDS of their kind");
    }
}
