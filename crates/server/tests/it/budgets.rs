//! Budgets over HTTP: their accounts, listed and raised as the caller may.

use crate::served::{Answer, Ask, Served, Setup};
use outlive_core::port::{
    Accepted, Access, BudgetChange, BudgetStep, Commit, LogStore, NewRun, NewStart, RunPatch, RunStore, SessionKind,
    SessionPolicy,
};
use outlive_core::{Budget, DefinitionId, RunId, RunInfo, SessionId, Timestamp, WorkerId};
use outlive_db::InMemoryDb;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// A run of this user whose calls have used a sixth of each budget, and reserve another.
pub(crate) async fn spends(db: &InMemoryDb, id: &str, user: &str, budgets: &[Budget]) {
    let at = Timestamp::from_seconds(1_795_404_467);
    let worker = WorkerId::parse("w1").expect("an id");
    db.heartbeat(worker.clone(), at, Duration::from_secs(3600)).await.expect("registered");
    let info = RunInfo {
        run_id: RunId::parse(id).expect("an id"),
        session_id: SessionId::parse(id).expect("an id"),
        workflow_id: DefinitionId::parse("flow").expect("an id"),
        workflow_name: Arc::from("Flow"),
        user_id: Some(Arc::from(user)),
    };
    let run = NewRun {
        info: info.clone(),
        input: None,
        options: None,
        definition: Arc::from("hash"),
        structure: None,
        idempotency_key: None,
        fingerprint: Arc::from(id),
        policy: SessionPolicy::Queue,
        session_state: None,
        session_kind: SessionKind::Workflow,
        hook: None,
        start: NewStart::default(),
        at,
    };
    let Ok(Accepted::New { lease: Some(lease), .. }) = db.create_run(Access::All, run, Some(worker)).await else {
        panic!("it is new")
    };
    let steps = |budget: &Budget| {
        let (account, part) = (Arc::new(budget.account(&info, at)), budget.limit / 6);
        let reserve = BudgetStep::Reserve { amount: part, is_forced: false };
        [reserve, BudgetStep::Settle { reserved: part, spent: part }, reserve]
            .map(|step| BudgetChange { account: account.clone(), step })
    };
    let patch = RunPatch { budgets: budgets.iter().flat_map(steps).collect(), ..RunPatch::default() };
    db.commit(Commit { lease, page: None, patch, session: None, at }).await.expect("there is room");
}

fn budgets() -> [Budget; 4] {
    [
        Budget::usd(0.3).per_run(),
        Budget::calls(9).per_user(),
        Budget::tokens(3000).per_user_per_day().shared("house"),
        Budget::calls(30).per_day(),
    ]
}

async fn raise(served: &Served, token: Option<&str>, body: Value) -> Answer {
    let (body, content_type) = (body.to_string(), "application/json");
    let ask = Ask { method: "POST", path: "/api/budgets/raise", token, content_type, body: &body, ..Ask::default() };
    served.ask(ask).await
}

#[tokio::test]
async fn accounts_are_listed_in_pages_found_and_raised_once() {
    let db = InMemoryDb::new();
    spends(&db, "r1", "ada", &budgets()).await;
    spends(&db, "r2", "bob", &budgets()).await;
    let served = Served::on(db, Setup { with_keys: false, ..Setup::default() }).await;
    let list = async |query: &str| served.get(&format!("/api/budgets{query}"), "").await.json();
    let all = list("").await;
    assert_eq!((all["budgets"].as_array().map(Vec::len), &all["next_cursor"]), (Some(7), &Value::Null));
    let of_run = &list("?per=run&subject=r1").await["budgets"];
    assert_eq!(
        of_run,
        &json!([{
            "budget_id": "USD/run/-/4:flow/r1", "unit": "USD", "per": "run", "workflow_id": "flow", "shared": null,
            "subject": "r1", "day": null, "time_zone": null, "ends_at": null, "user_id": "ada", "limit": 0.3, "raised": 0.0, "used": 0.05,
            "reserved": 0.05, "left": 0.2, "updated_at": "2026-11-23T03:27:47.000000Z",
        }])
    );
    let house = &list("?shared=house").await["budgets"];
    assert_eq!((house.as_array().map(Vec::len), &house[0]["shared"]), (Some(2), &json!("house")));
    assert_eq!((&house[0]["day"], &house[0]["ends_at"]), (&json!("2026-11-23"), &json!("2026-11-24T00:00:00.000000Z")));
    assert_eq!(house[0]["time_zone"], "UTC");
    assert_eq!(list("?workflow_id=flow").await["budgets"].as_array().map(Vec::len), Some(5));
    assert_eq!(list("?workflow_id=other").await["budgets"], json!([]));
    // In pages, each once.
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = list(&query).await;
        seen.extend(page["budgets"].as_array().expect("a list").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=3&cursor={}", next.replace('/', "%2F"));
    }
    assert_eq!(json!(seen), all["budgets"]);

    let id = "USD/run/-/4:flow/r1";
    let raised = raise(&served, None, json!({ "budget_id": id, "raise_by": 2.5, "raised": 0 })).await;
    assert_eq!(raised.status, 200, "{raised:?}");
    let raised = raised.json();
    assert_eq!(json!([raised["limit"], raised["raised"], raised["left"]]), json!([0.3, 2.5, 2.7]));
    // The same once more counts for nothing.
    let again = raise(&served, None, json!({ "budget_id": id, "raise_by": 2.5, "raised": 0 })).await;
    assert_eq!((again.status, again.json()["error_code"].clone()), (409, json!("budget_changed")));
    assert_eq!(raise(&served, None, json!({ "budget_id": id, "raise_by": 1 })).await.json()["raised"], json!(3.5));
    let shown = list(&format!("?budget_id={}", id.replace('/', "%2F"))).await;
    assert_eq!(shown["budgets"][0]["raised"], json!(3.5));
    let audit = served.get("/api/audit?kind=budget_raise", "").await.json();
    let lines: Vec<_> = audit["records"].as_array().expect("records").iter().collect();
    assert_eq!(lines.len(), 2, "{audit}");
    assert_eq!((&lines[0]["target"], &lines[0]["outcome"]), (&json!(id), &json!("by 1.00 USD")));
}

/// A run that asks about this budget, the id of its question, and its requirements.
async fn asks_about(served: &Served, token: &str, budget: &str) -> (String, String, Value) {
    let form = format!("message={budget}&stream=false");
    let run = served.post("/workflows/overspends/runs", token, &form).await.json();
    let run_id = run["run_id"].as_str().expect("an id").to_owned();
    let open = served.get(&format!("/api/questions?run_id={run_id}"), token).await.json();
    let id = open["questions"][0]["question_id"].as_str().expect("an id").to_owned();
    (run_id, id, run["step_requirements"].clone())
}

#[tokio::test]
async fn only_who_may_raise_budgets_lifts_one_that_runs_share_with_an_answer() {
    let served = Served::start().await;
    let limited = served.key(Some("ada"), served.scopes_but(Some("budgets:raise"))).await.0;
    let free = served.user("ada").await;
    let post = async |token: &str, path: &str, body: Value| {
        let (body, content_type) = (body.to_string(), "application/json");
        served.ask(Ask { method: "POST", path, token: Some(token), content_type, body: &body, ..Ask::default() }).await
    };
    let answer =
        async |token: &str, id: &str, body: Value| post(token, &format!("/api/questions/{id}/answer"), body).await;
    let lifts = [json!({ "do": "approve" }), json!({ "do": "input", "values": { "raise_by": 3 } })];
    for budget in ["calls/user", "calls/user/day", "calls/session", "calls/day", "calls/all/house"] {
        let (run_id, id, mut requirements) = asks_about(&served, &limited, budget).await;
        for lift in &lifts {
            let refused = answer(&limited, &id, lift.clone()).await;
            assert_eq!(refused.status, 403, "{budget}: {refused:?}");
            assert!(refused.text("detail").ends_with("budgets:raise"), "{refused:?}");
        }
        requirements[0]["confirmed"] = json!(true);
        let text: String = requirements.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/workflows/overspends/runs/{run_id}/continue");
        let refused = served.post(&path, &limited, &format!("stream=false&step_requirements={text}")).await;
        assert_eq!(refused.status, 403, "{budget}: {refused:?}");
        assert_eq!(answer(&limited, &id, json!({ "do": "reject" })).await.status, 200, "a no lifts nothing");
        served.end_of(&RunId::parse(&run_id).expect("an id")).await;
        // Nor does a fork lead around it.
        let (path, fork) = (format!("/api/runs/{run_id}/fork"), json!({ "at": "spend", "answer": lifts[0] }));
        let refused = post(&limited, &path, fork.clone()).await;
        assert_eq!(refused.status, 403, "{budget}: {refused:?}");
        assert_eq!(post(&free, &path, fork).await.status, 202);
    }
    let (_, id, _) = asks_about(&served, &free, "calls/user").await;
    assert_eq!(answer(&free, &id, lifts[1].clone()).await.status, 200);
    // Whoever may begin another run may go on with this one.
    let (_, id, _) = asks_about(&served, &limited, "calls/run").await;
    assert_eq!(answer(&limited, &id, lifts[0].clone()).await.status, 200);
}

#[tokio::test]
async fn what_is_no_amount_or_no_account_is_refused() {
    let db = InMemoryDb::new();
    spends(&db, "r1", "ada", &budgets()).await;
    let served = Served::on(db, Setup { with_keys: false, ..Setup::default() }).await;
    let (calls, money) = ("calls/user/-/4:flow/ada", "USD/run/-/4:flow/r1");
    for (id, by, why) in [
        (calls, json!(0), "more than 0"),
        (calls, json!(-1), "must not be below 0"),
        (calls, json!("5"), "a number is expected"),
        (calls, json!(null), "a number is expected"),
        (calls, json!(1.5), "calls are counted in whole numbers"),
        (calls, json!(1e300), "more than can be counted: at most 9223372036854775807 calls"),
        (money, json!(1e300), "more than can be counted: at most 9223372036.00 USD"),
        (money, json!(-1e300), "must not be below 0"),
        (money, json!(1e-300), "less than can be counted: at least 0.000000001 USD"),
        (money, json!(0.0), "more than 0"),
    ] {
        let answer = raise(&served, None, json!({ "budget_id": id, "raise_by": by })).await;
        let is_said = answer.body.contains("raise_by") && answer.body.contains(why);
        assert!(answer.status == 422 && is_said, "{by}: {answer:?}");
    }
    for id in ["", "nothing", "../r1", "calls/user/-/4:flow/ADA"] {
        let answer = raise(&served, None, json!({ "budget_id": id, "raise_by": 1 })).await;
        assert_eq!(answer.status, 404, "{id}: {answer:?}");
    }
    for query in ["limit=0", "per=day", "workflow_id=a%20b", "workflow_id=flow&shared=house"] {
        assert_eq!(served.get(&format!("/api/budgets?{query}"), "").await.status, 422, "{query}");
    }
}

#[tokio::test]
async fn a_user_sees_their_own_accounts_and_raises_them_only_with_the_scope() {
    let db = InMemoryDb::new();
    spends(&db, "r1", "ada", &budgets()).await;
    spends(&db, "r2", "bob", &budgets()).await;
    let served = Served::on(db, Setup::default()).await;
    let ada = served.user("ada").await;
    let own = served.get("/api/budgets", &ada).await;
    assert_eq!(own.json()["budgets"].as_array().map(Vec::len), Some(3), "that of the day is everybody's");
    assert!(!own.body.contains("bob"), "{own:?}");
    for id in ["USD/run/-/4:flow/r2", "calls/user/-/4:flow/bob", "calls/all/2026-11-23/4:flow/"] {
        let unknown = raise(&served, Some(&ada), json!({ "budget_id": "nothing", "raise_by": 1 })).await;
        let hidden = raise(&served, Some(&ada), json!({ "budget_id": id, "raise_by": 1 })).await;
        assert_eq!((hidden.status, hidden.json()["detail"].clone()), (404, unknown.json()["detail"].clone()), "{id}");
        let query = format!("/api/budgets?budget_id={}", id.replace('/', "%2F"));
        assert_eq!(served.get(&query, &ada).await.json()["budgets"], json!([]), "{id}");
    }
    let body = json!({ "budget_id": "calls/user/-/4:flow/ada", "raise_by": 1 });
    let reader = served.key(Some("ada"), served.scopes_but(Some("budgets:raise"))).await.0;
    assert_eq!(raise(&served, Some(&reader), body.clone()).await.status, 403);
    assert_eq!(raise(&served, Some(&ada), body).await.json()["raised"], json!(1));
    let blind = served.key(Some("ada"), served.scopes_but(Some("runs:read"))).await.0;
    assert_eq!(served.get("/api/budgets", &blind).await.status, 403);
}
