//! Schedules over HTTP: created, listed, paused, followed and deleted, as the caller may.

use crate::served::{Answer, Ask, Served, Setup};
use serde_json::{Value, json};

async fn send(served: &Served, method: &'static str, path: &str, token: Option<&str>, body: Value) -> Answer {
    let body = body.to_string();
    let ask = Ask { method, path, token, content_type: "application/json", body: &body, ..Ask::default() };
    served.ask(ask).await
}

async fn create(served: &Served, body: Value) -> Answer {
    send(served, "POST", "/api/schedules", None, body).await
}

async fn open_to_everyone() -> Served {
    Served::with(Setup { with_keys: false, ..Setup::default() }).await
}

#[tokio::test]
async fn a_schedule_is_created_shown_paused_triggered_and_deleted() {
    let served = open_to_everyone().await;
    let body = json!({
        "workflow_id": "echo", "cron": "0 9 29 2 *", "time_zone": "Europe/Berlin", "name": "morning",
        "input": "hi", "catch_up": "one", "overlap": "queue", "priority": 3,
    });
    let created = create(&served, body.clone()).await;
    let schedule = created.json();
    assert_eq!(created.status, 201, "{schedule}");
    let id = schedule["schedule_id"].as_str().expect("an id");
    assert!(created.head.contains(&format!("/api/schedules/{id}")), "{}", created.head);
    let said =
        ["name", "workflow_id", "cron", "time_zone", "input", "catch_up", "overlap", "priority", "is_paused", "runs"];
    assert_eq!(
        json!(said.map(|field| schedule[field].clone())),
        json!(["morning", "echo", "0 9 29 2 *", "Europe/Berlin", "hi", "one", "queue", 3, false, 0])
    );
    assert!(schedule["next_due"].as_str().expect("a time").ends_with("-02-29T08:00:00.000000Z"), "{schedule}");
    // The same again is the same one; another must be meant.
    assert_eq!(create(&served, body.clone()).await.json(), schedule);
    let mut other = body.clone();
    other["cron"] = json!("@yearly");
    assert_eq!(create(&served, other.clone()).await.status, 409);
    other["replace"] = json!(true);
    let replaced = create(&served, other).await.json();
    assert_eq!((&replaced["schedule_id"], &replaced["cron"]), (&json!(id), &json!("@yearly")));
    // By its id or its name.
    for named in [id, "morning"] {
        assert_eq!(served.get(&format!("/api/schedules/{named}"), "").await.json(), replaced);
    }
    for query in ["", "?workflow_id=echo", "?name=morning&limit=1"] {
        let list = served.get(&format!("/api/schedules{query}"), "").await.json();
        assert_eq!(list, json!({ "schedules": [replaced], "next_cursor": null }), "{query}");
    }
    let none = served.get("/api/schedules?workflow_id=other", "").await.json();
    assert_eq!(none["schedules"], json!([]));
    let paused = send(&served, "POST", "/api/schedules/morning/pause", None, json!({})).await.json();
    assert_eq!((&paused["is_paused"], &paused["next_due"]), (&json!(true), &Value::Null));
    let run = send(&served, "POST", "/api/schedules/morning/trigger", None, json!({})).await;
    assert_eq!(run.status, 202, "{run:?}");
    let run_id = outlive_core::RunId::parse(run.json()["run_id"].as_str().expect("an id")).expect("an id");
    assert!(served.end_of(&run_id).await.text().to_lowercase().contains("hi"));
    let ticks = served.get("/api/schedules/morning/ticks", "").await.json();
    assert_eq!((&ticks["ticks"][0]["outcome"], &ticks["ticks"][0]["run_id"]), (&json!("triggered"), &json!(run_id)));
    let before = ticks["ticks"][0]["due_at"].as_str().expect("a time");
    let earlier = served.get(&format!("/api/schedules/morning/ticks?before={before}"), "").await.json();
    assert_eq!(earlier, json!({ "ticks": [] }));
    let resumed = send(&served, "POST", "/api/schedules/morning/resume", None, json!({})).await.json();
    assert_eq!((&resumed["is_paused"], &resumed["runs"]), (&json!(false), &json!(1)));
    assert_eq!(send(&served, "DELETE", "/api/schedules/morning", None, json!({})).await.status, 204);
    for path in ["/api/schedules/morning", "/api/schedules/morning/ticks"] {
        assert_eq!(served.get(path, "").await.status, 404);
    }
    for verb in ["pause", "resume", "trigger"] {
        let gone = send(&served, "POST", &format!("/api/schedules/{id}/{verb}"), None, json!({})).await;
        assert_eq!(gone.status, 404, "{verb}");
    }
}

#[tokio::test]
async fn bad_c14_a_schedule_that_cannot_be_is_refused_with_its_field() {
    let served = open_to_everyone().await;
    for (field, value, part) in [
        ("cron", json!("60 * * * *"), "at character 1"),
        ("cron", json!("0 0 30 2 *"), "never comes"),
        ("cron", json!("* *"), "has 2 fields"),
        ("cron", json!("@reboot"), "is none of @yearly"),
        ("time_zone", json!("Mars/X"), "is not a time zone"),
        ("time_zone", json!("../../etc/passwd"), "is not a time zone"),
        ("name", json!(""), "empty"),
        ("catch_up", json!("some"), "'skip', 'one', 'all'"),
        ("overlap", json!("never"), "'skip', 'queue', 'allow'"),
        ("session_id", json!("a b"), "session"),
        ("priority", json!(1_000), "priority"),
        ("every", json!("day"), "every"),
    ] {
        let mut body = json!({ "workflow_id": "echo", "cron": "@daily" });
        body[field] = value.clone();
        let answer = create(&served, body).await;
        let told = answer.json();
        assert_eq!(answer.status, 422, "{field} {value}: {told}");
        assert!(told.to_string().contains(part) && told.to_string().contains(field), "{field} {value}: {told}");
    }
    for endpoint in ["//evil", "/../", "@host", "nothing"] {
        let answer = create(&served, json!({ "workflow_id": endpoint, "cron": "@daily" })).await;
        assert_eq!(answer.status, 404, "{endpoint}: {answer:?}");
    }
    assert_eq!(served.get("/api/schedules?cursor=x", "").await.status, 422);
    assert_eq!(served.get("/api/schedules?limit=0", "").await.status, 422);
    assert_eq!(served.get("/api/schedules", "").await.json()["schedules"], json!([]));
}

#[tokio::test]
async fn a_schedule_takes_the_scope_of_what_it_starts_and_belongs_to_its_creator() {
    let served = Served::start().await;
    let ada = served.key(Some("ada"), served.scopes_but(None)).await.0;
    let reader = served.key(Some("ada"), served.scopes_but(Some("workflows:run"))).await.0;
    let body = json!({ "workflow_id": "echo", "cron": "@daily", "name": "hers", "user_id": "bob" });
    let refused = send(&served, "POST", "/api/schedules", Some(&reader), body.clone()).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    let created = send(&served, "POST", "/api/schedules", Some(&ada), body).await.json();
    assert_eq!(created["user_id"], json!("ada"), "a credential takes precedence");
    for verb in ["trigger", "resume"] {
        let path = format!("/api/schedules/hers/{verb}");
        assert_eq!(send(&served, "POST", &path, Some(&reader), json!({})).await.status, 403, "{verb}");
    }
    let run = send(&served, "POST", "/api/schedules/hers/trigger", Some(&ada), json!({})).await.json();
    let run_id = outlive_core::RunId::parse(run["run_id"].as_str().expect("an id")).expect("an id");
    let stored = served.engine.record(&run_id).await.expect("readable").expect("there");
    assert_eq!(stored.info.user_id.as_deref(), Some("ada"));
    assert_eq!(send(&served, "POST", "/api/schedules/hers/pause", Some(&reader), json!({})).await.status, 200);
}
