//! `outlive budgets`, on a file and on a server: the same to the letter.

use crate::fixture::Place;
use crate::running::Running;
use outlive::prelude::*;
use serde_json::json;

/// A file in which a run has used one of two calls, and its user one of nine.
fn with_budgets() -> Place {
    let place = Place::new();
    let model = ScriptedModel::from_fn("oracle", |_| Ok(outlive::core::ModelResponse::text("so be it")));
    let workflow = Workflow::builder("Oracle")
        .db(SqliteDb::new(place.path("runs.db")))
        .step(Agent::new("Asked").model(model))
        .budget(Budget::calls(2).per_run())
        .budget(Budget::calls(9).per_user().shared("house"))
        .budget(Budget::calls(70).per_session_per_day().time_zone("Asia/Kathmandu"))
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        workflow.run("so?").run_id("r1").session_id("s1").user_id("ada").await.unwrap();
        workflow.shutdown().await.unwrap();
    });
    place
}

#[test]
fn budgets_are_the_same_here_and_there() {
    let place = with_budgets();
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    let there = |arguments: &[&str]| place.run(&[&["--server", server.url()], arguments].concat());
    let both = |arguments: &[&str]| {
        let (here, there) = (place.on_runs(arguments), there(arguments));
        assert_eq!((there.code, &there.stdout), (here.code, &here.stdout), "{arguments:?}: {}", there.stderr);
        here
    };
    let (run, user) = ("calls/run/-/6:oracle/r1", "calls/user/-/12:shared:house/ada");
    for list in [&["budgets"][..], &["budgets", "ls"]] {
        let list = both(list).exits(0).stdout;
        assert!(list.contains(run) && list.contains(user) && list.contains("8 calls"), "{list}");
    }
    for (arguments, id) in [
        (&["--workflow", "oracle", "--per", "run"][..], run),
        (&["--shared", "house"], user),
        (&["--per", "user"], user),
        (&["--of", "r1"], run),
    ] {
        let found = both(&[&["budgets", "ls", "--json"], arguments].concat()).exits(0).json();
        assert_eq!((found["budgets"].as_array().unwrap().len(), &found["budgets"][0]["id"]), (1, &json!(id)));
    }
    both(&["budgets", "ls", "--of", "nobody"]).exits(0);
    both(&["budgets", "ls", "--per", "week"]).exits(2);
    let shown = both(&["budgets", "show", run, "--json"]).exits(0).json();
    let said = ["limit", "raised", "used", "reserved", "left", "workflow_id", "subject", "user_id"];
    assert_eq!(json!(said.map(|field| shown[field].clone())), json!([2, 0, 1, 0, 1, "oracle", "r1", "ada"]));
    let text = both(&["budgets", "show", run]).exits(0).stdout;
    assert!(text.contains("2 calls") && text.contains("1 call\n"), "{text}");
    // Each is raised on the other side, and seen on this one.
    assert_eq!(there(&["budgets", "raise", run, "3", "--json"]).exits(0).json()["left"], 4);
    assert_eq!(place.on_runs(&["budgets", "raise", user, "1", "--json"]).exits(0).json()["raised"], 1);
    let text = both(&["budgets", "show", run]).exits(0).stdout;
    assert!(text.contains("2 calls and 3 calls more"), "{text}");
    for verb in [&["budgets", "show", "nothing"][..], &["budgets", "raise", "nothing", "1"]] {
        let missing = both(&[verb, &["--json"]].concat()).exits(3).error();
        assert_eq!(missing["code"], "budget_not_found", "{verb:?}");
    }
    // The day of a budget is that of its time zone, and says so.
    let day = both(&["budgets", "ls", "--of", "s1", "--json"]).exits(0).json()["budgets"][0].clone();
    let id = day["id"].as_str().unwrap();
    assert!(id.ends_with("@Asia/Kathmandu/6:oracle/s1") && day["time_zone"] == "Asia/Kathmandu", "{day}");
    assert!(day["ends_at"].as_str().unwrap().contains("T18:15:00"), "{day}");
    let text = both(&["budgets", "show", id]).exits(0).stdout;
    assert!(text.contains(&format!("{} in Asia/Kathmandu, until ", day["day"].as_str().unwrap())), "{text}");
    for (amount, why) in [
        ("0", "more than 0"),
        ("-3", "must not be below 0"),
        ("1.5", "calls are counted in whole numbers"),
        ("much", "a number is expected"),
        ("NaN", "a number is expected"),
        ("1e99", "more than can be counted: at most 9223372036854775807 calls"),
        ("1e999", "more than can be counted"),
    ] {
        let refused = both(&["budgets", "raise", run, amount, "--json"]).exits(2).error();
        assert_eq!(refused["code"], "invalid_amount", "{amount}");
        assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");
    }
    assert_eq!(both(&["budgets", "show", run, "--json"]).exits(0).json()["raised"], 3);
    let audit = place.on_runs(&["audit", "--kind", "budget_raise", "--json"]).exits(0).stdout;
    assert!(audit.contains("by 3 calls") && audit.contains("by 1 call"), "{audit}");
}
