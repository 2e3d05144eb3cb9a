//! Every exchange that was recorded with AgentOS, made again with a live server of ours over real HTTP and WebSocket.
//!
//! What may differ is listed in [`differences`], and nowhere else: an unlisted difference fails its recording's test, and
//! so does a listed one that does not occur any more.

pub(crate) mod app;
mod differences;
mod endings;
mod given;
pub(crate) mod replay;
mod socket;
mod tokens;

use outlive_server::testing::names;
use replay::replay;

/// The recordings that have a test below.
const REPLAYED: [&str; 19] = [
    "agents_teams",
    "auth_jwt",
    "auth_security_key",
    "cancel",
    "errors",
    "hitl",
    "hitl_loop_retry",
    "meta",
    "model_unreachable",
    "resume_from_database",
    "run_background_poll",
    "run_background_stream_resume",
    "run_foreground",
    "session_state",
    "sessions",
    "step_kinds",
    "store_events",
    "websocket",
    "workflow_agent",
];

#[test]
fn every_recording_is_replayed() {
    assert_eq!(names().collect::<Vec<_>>(), REPLAYED);
    for listed in differences::LISTED {
        for (recording, _) in listed.at {
            assert!(REPLAYED.contains(recording), "{recording} is no recording");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_teams_answer_as_recorded() {
    replay("agents_teams").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_what_they_opened_in_the_recording() {
    replay("auth_jwt").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_security_key_opens_what_it_opened_in_the_recording() {
    replay("auth_security_key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_are_cancelled_as_recorded() {
    replay("cancel").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_and_failures_are_answered_as_recorded() {
    replay("errors").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_asked_and_answer_as_recorded() {
    replay("hitl").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn iterations_are_judged_as_recorded() {
    replay("hitl_loop_retry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_is_described_as_recorded() {
    replay("meta").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_cannot_be_reached_is_told_of_as_recorded() {
    replay("model_unreachable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_from_before_a_restart_are_followed_as_recorded() {
    replay("resume_from_database").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_runs_are_polled_as_recorded() {
    replay("run_background_poll").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_streams_are_left_and_resumed_as_recorded() {
    replay("run_background_stream_resume").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_runs_answer_as_recorded() {
    replay("run_foreground").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_state_is_shown_as_recorded() {
    replay("session_state").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_shown_as_recorded() {
    replay("sessions").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn step_kinds_are_told_of_as_recorded() {
    replay("step_kinds").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_events_are_shown_as_recorded() {
    replay("store_events").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_answered_as_recorded() {
    replay("websocket").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_leads_a_workflow_as_recorded() {
    replay("workflow_agent").await;
}
