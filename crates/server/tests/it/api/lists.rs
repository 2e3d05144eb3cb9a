//! Lists of runs: filters, counts, cursors.

use super::stage::{Client, Stage};
use serde_json::{Value, json};

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let list = client.get_json(&format!("/api/runs?{query}")).await;
    list["runs"].as_array().expect("runs").iter().map(|run| run["run_id"].as_str().expect("an id").to_owned()).collect()
}

async fn start(client: &Client, body: Value) {
    let answer = client.post("/api/runs", body).await;
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.text());
}

#[tokio::test]
async fn a_list_is_filtered_and_counted() {
    let stage = Stage::new().await;
    for (run_id, workflow_id, session_id) in [("a-1", "echo", "s-1"), ("a-2", "broken", "s-2"), ("b-1", "echo", "s-1")]
    {
        start(&stage.ada, json!({ "workflow_id": workflow_id, "run_id": run_id, "session_id": session_id })).await;
        stage.ended(run_id).await;
    }
    let all = stage.ada.get_json("/api/runs").await;
    assert_eq!(all["counts"], json!({ "COMPLETED": 2, "ERROR": 1 }));
    assert_eq!(ids(&stage.ada, "").await, ["b-1", "a-2", "a-1"]);
    assert_eq!(ids(&stage.ada, "order=oldest").await, ["a-1", "a-2", "b-1"]);
    assert_eq!(ids(&stage.ada, "order=newest&limit=1").await, ["b-1"]);
    assert_eq!(stage.ada.get("/api/runs?order=best").await.problem().0, 422);
    assert_eq!(ids(&stage.ada, "status=error").await, ["a-2"]);
    assert_eq!(ids(&stage.ada, "status=ERROR,COMPLETED").await.len(), 3);
    assert_eq!(ids(&stage.ada, "workflow_id=echo").await, ["b-1", "a-1"]);
    assert_eq!(ids(&stage.ada, "session_id=s-1").await, ["b-1", "a-1"]);
    assert_eq!(ids(&stage.ada, "q=a-").await, ["a-2", "a-1"]);
    assert_eq!(ids(&stage.ada, "q=%25").await, Vec::<String>::new());
    assert_eq!(ids(&stage.ada, "user_id=ada&workflow_id=broken").await, ["a-2"]);
    assert_eq!(ids(&stage.admin, "user_id=ada").await.len(), 3);
    assert_eq!(ids(&stage.admin, "user_id=bob").await.len(), 0);
    let created = all["runs"][1]["created_at"].as_str().expect("a time");
    assert_eq!(ids(&stage.ada, &format!("created_from={created}")).await, ["b-1", "a-2"]);
    assert_eq!(ids(&stage.ada, &format!("created_to={created}")).await, ["a-1"]);
    let counted = stage.ada.get_json("/api/runs?status=ERROR&workflow_id=broken").await;
    assert_eq!(counted["counts"], json!({ "ERROR": 1 }));
}

#[tokio::test]
async fn a_count_that_ended_early_says_so() {
    let stage = Stage::idle().await;
    for number in 0..=10_000 {
        let submit = outlive_engine::Submit {
            run_id: Some(format!("r-{number:05}")),
            session_id: Some("long".to_owned()),
            user_id: Some("ada".to_owned()),
            ..Default::default()
        };
        stage.engine.submit(&"echo".parse().expect("an id"), submit).await.expect("a run");
    }
    let counts = async |query: &str| {
        let list = stage.ada.get_json(&format!("/api/runs?limit=1{query}")).await;
        (list["counts"].clone(), list["counts_exact"].clone())
    };
    assert_eq!(counts("").await, (json!({ "PENDING": 10_001 }), json!(true)));
    assert_eq!(counts("&session_id=long").await, (json!({ "PENDING": 10_000 }), json!(false)));
    assert_eq!(counts("&q=r-0").await, (json!({ "PENDING": 10_000 }), json!(true)));
    assert_eq!(counts("&session_id=long&q=r-1").await, (json!({ "PENDING": 1 }), json!(true)));
}

#[tokio::test]
async fn bad_c15_a_long_session_is_read_by_pages() {
    const COUNT: usize = 3000;
    let stage = Stage::idle().await;
    for number in 0..COUNT {
        let submit = outlive_engine::Submit {
            run_id: Some(format!("r-{number:05}")),
            session_id: Some("long".to_owned()),
            user_id: Some("ada".to_owned()),
            ..Default::default()
        };
        stage.engine.submit(&"echo".parse().expect("an id"), submit).await.expect("a run");
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let list = stage.ada.get_json(&format!("/api/runs?session_id=long&limit=700{cursor}")).await;
        assert_eq!(list["counts"], json!({ "PENDING": COUNT }));
        pages += 1;
        seen.extend(list["runs"].as_array().expect("runs").iter().map(|run| run["run_id"].clone()));
        let Some(next) = list["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let expected: Vec<_> = (0..COUNT).rev().map(|number| json!(format!("r-{number:05}"))).collect();
    assert_eq!((pages, seen == expected), (5, true));
    // What is accepted meanwhile shifts no page.
    let first = stage.ada.get_json("/api/runs?session_id=long&limit=10").await;
    start(&stage.ada, json!({ "workflow_id": "echo", "session_id": "long" })).await;
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    assert_eq!(ids(&stage.ada, &format!("session_id=long&limit=1&cursor={cursor}")).await, ["r-02989"]);
}
