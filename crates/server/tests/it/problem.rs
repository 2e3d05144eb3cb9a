//! What refused requests are told.

use axum::response::IntoResponse;
use outlive_server::problem::{ERROR_CODE, Problem};

#[test]
fn a_problem_has_agnos_body_and_our_code() {
    let problem = Problem::not_found("Workflow not found");
    assert_eq!(problem.body(), serde_json::json!({ "detail": "Workflow not found" }));
    let response = problem.into_response();
    assert_eq!(response.headers()[ERROR_CODE], "not_found");
}
