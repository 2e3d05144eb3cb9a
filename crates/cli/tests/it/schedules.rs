//! `outlive schedule`, on a file and on a server: the same to the letter.

use crate::fixture::{Done, Place};
use crate::running::Running;
use serde_json::{Value, json};

const ADD: [&str; 7] = ["schedule", "add", "content-creation-demo", "0 9 29 2 *", "leap days", "--tz", "Europe/Berlin"];

fn added(place: &Place) {
    place.on_runs(&[&ADD[..], &["--name", "leap", "--catch-up", "one", "--overlap", "queue"]].concat()).exits(0);
    place.on_runs(&["schedule", "add", "content-creation-demo", "@yearly", "--name", "every year"]).exits(0);
}

/// Without what differs from time to time.
fn plain(mut value: Value) -> Value {
    for field in ["id", "created_at", "updated_at", "last_run"] {
        value[field].take();
    }
    value
}

#[test]
fn schedules_are_the_same_here_and_there() {
    let place = Place::new();
    added(&place);
    let server = Running::serve(&place, &["--no-execute", "--db", "runs.db"]);
    let there = |arguments: &[&str]| place.run(&[&["--server", server.url()], arguments].concat());
    let both = |arguments: &[&str]| {
        let (here, there) = (place.on_runs(arguments), there(arguments));
        assert_eq!((there.code, &there.stdout), (here.code, &here.stdout), "{arguments:?}: {}", there.stderr);
        here
    };
    let list = place.on_runs(&["schedule", "ls"]).exits(0).stdout;
    assert!(list.contains("in ") && !list.contains("ago"), "what is to come: {list}");
    let list = both(&["schedule", "ls", "--time-format", "utc"]).exits(0).stdout;
    assert!(
        list.contains("leap") && list.contains("0 9 29 2 * Europe/Berlin") && list.contains("every year"),
        "{list}"
    );
    let shown = both(&["schedule", "show", "leap", "--json"]).exits(0).json();
    assert_eq!(
        json!([shown["cron"], shown["time_zone"], shown["catch_up"], shown["overlap"], shown["input"], shown["ticks"]]),
        json!(["0 9 29 2 *", "Europe/Berlin", "one", "queue", "leap days", []])
    );
    let id = shown["id"].as_str().unwrap().to_owned();
    both(&["schedule", "show", &id]).exits(0);
    both(&["schedule", "ls", "--workflow", "content-creation-demo", "--json"]).exits(0);
    both(&["schedule", "ls", "--workflow", "tea-shop", "--json"]).exits(0);
    for verb in ["show", "pause", "resume", "rm"] {
        let missing = both(&["schedule", verb, "nothing", "--json"]).exits(3).error();
        assert_eq!(missing["code"], "schedule_not_found", "{verb}");
    }
    // What a name is made of does not matter, not even in an address.
    place.on_runs(&["schedule", "add", "content-creation-demo", "*/5 * * * *"]).exits(0);
    let named = "content-creation-demo */5 * * * *";
    for verb in ["show", "pause", "resume"] {
        both(&["schedule", verb, named, "--json"]).exits(0);
    }
    for missing in ["a/b", "..", "a;b", "a%2Fb"] {
        assert_eq!(both(&["schedule", "show", missing, "--json"]).exits(3).error()["code"], "schedule_not_found");
    }
    there(&["schedule", "rm", named]).exits(0);
    // Each is done on the other side, and seen on this one.
    assert_eq!(there(&["schedule", "pause", "leap", "--json"]).exits(0).json()["is_paused"], true);
    assert_eq!(place.on_runs(&["schedule", "resume", "leap", "--json"]).exits(0).json()["is_paused"], false);
    let run = there(&["schedule", "run", "leap", "-d"]).exits(0).stdout;
    let shown = both(&["schedule", "show", "leap", "--json"]).exits(0).json();
    assert_eq!(
        (&shown["ticks"][0]["outcome"], shown["ticks"][0]["run"].as_str()),
        (&json!("triggered"), Some(run.trim()))
    );
    place.on_runs(&["schedule", "run", "every year", "-d"]).exits(0);
    assert_eq!(both(&["schedule", "show", "every year", "--json"]).exits(0).json()["runs"], 1);
    // The same again is the one that is there; another must be meant.
    let again = [&ADD[..], &["--name", "leap", "--catch-up", "one", "--overlap", "queue", "--json"]].concat();
    assert_eq!(there(&again).exits(0).json()["id"], json!(id));
    let other = ["schedule", "add", "content-creation-demo", "@daily", "--name", "leap", "--json"];
    for refused in [place.on_runs(&other), there(&other)] {
        let error = refused.exits(5).error();
        assert!(error["message"].as_str().unwrap().contains("replace it"), "{error}");
        assert_eq!(error["code"], "conflict");
    }
    let replaced = there(&[&other[..], &["--replace"]].concat()).exits(0).json();
    let here = place.on_runs(&[&other[..], &["--replace"]].concat()).exits(0).json();
    assert_eq!((&replaced["id"], &replaced["cron"]), (&json!(id), &json!("@daily")));
    assert_eq!(plain(replaced), plain(here));
    there(&["schedule", "rm", "leap"]).exits(0);
    place.on_runs(&["schedule", "rm", "every year"]).exits(0);
    assert_eq!(both(&["schedule", "ls", "--json"]).exits(0).json(), json!({ "schedules": [] }));
    let audit = place.on_runs(&["audit", "--kind", "schedule_change", "--json"]).exits(0).stdout;
    for outcome in ["created", "paused", "resumed", "triggered", "deleted"] {
        assert!(audit.contains(outcome), "{outcome}: {audit}");
    }
    server.stop().exits(0);
}

#[test]
fn a_schedule_that_cannot_be_is_refused_and_nothing_is_made() {
    let place = Place::new();
    added(&place);
    let add = |more: &[&str]| place.on_runs(&[&["schedule", "add"], more, &["--json"]].concat());
    let told = |done: Done| done.exits(2).error()["message"].as_str().unwrap().to_owned();
    assert!(told(add(&["content-creation-demo", "60 * * * *"])).contains("at character 1: \"60\" is no minute"));
    assert!(told(add(&["content-creation-demo", "@daily", "--tz", "Mars/X"])).contains("is not a time zone"));
    assert!(told(add(&["content-creation-demo", "0 0 30 2 *"])).contains("never comes"));
    add(&["content-creation-demo", "@daily", "--overlap", "never"]).exits(2);
    add(&["tea-shop", "@daily"]).exits(3);
    let list = place.on_runs(&["schedule", "ls", "--json"]).exits(0).json();
    assert_eq!(list["schedules"].as_array().unwrap().len(), 2);
}
