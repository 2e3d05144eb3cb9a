//! Cancelling over Agno's route, whose body never says what became of it.

use crate::served::Served;

#[tokio::test]
async fn what_became_of_a_wish_to_cancel_stands_in_a_header() {
    let served = Served::start().await;
    let token = served.user("ada").await;
    let outcome = async |run_id: &str| {
        let answer = served.post(&format!("/workflows/held/runs/{run_id}/cancel"), &token, "").await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({})));
        let line = answer.head.lines().find_map(|line| line.strip_prefix("x-cancel-outcome: "));
        line.map(str::to_owned)
    };
    let form = "message=3&stream=false&background=true";
    let run_id = served.post("/workflows/held/runs", &token, form).await.text("run_id");
    assert_eq!(outcome(&run_id).await.as_deref(), Some("requested"));
    served.end_of(&outlive_core::RunId::parse(&run_id).expect("an id")).await;
    assert_eq!(outcome(&run_id).await.as_deref(), Some("already_over"));
    assert_eq!(outcome("no-such-run").await.as_deref(), Some("not_found"));
}
