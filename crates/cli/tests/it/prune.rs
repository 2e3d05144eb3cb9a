//! `outlive prune`, and what workers delete by themselves: said before it is done, the same here and there, and whole
//! whatever is killed.

use crate::fixture::{Done, Place};
use crate::running::{PATIENCE, Running};
use outlive::prelude::*;
use std::process::Command;
use std::time::Instant;

#[test]
fn what_would_go_is_said_and_goes_only_with_a_yes() {
    let place = Place::with_runs();
    let runs = |place: &Place| place.on_runs(&["ls", "--json"]).exits(0).json()["runs"].as_array().unwrap().len();
    let usage = place.on_runs(&["prune"]).exits(2);
    assert!(usage.stderr.contains("--older-than 30d"), "{}", usage.stderr);
    let preview = place.on_runs(&["prune", "--keep", "1", "--dry-run"]).exits(0);
    assert!(preview.stdout.starts_with("2 runs would be deleted, "), "{}", preview.stdout);
    let json = place.on_runs(&["prune", "--keep", "1", "--dry-run", "--json"]).exits(0).json();
    assert_eq!((&json["runs"], &json["in_use"], &json["dry_run"]), (&2.into(), &0.into(), &true.into()));
    let refused = place.on_runs(&["prune", "--keep", "1"]).exits(2);
    assert!(
        refused.stderr.contains("nobody is there to ask") && refused.stderr.contains("--yes"),
        "{}",
        refused.stderr
    );
    assert_eq!(runs(&place), 4);
    let none = place.on_runs(&["prune", "--older-than", "30d"]).exits(0);
    assert_eq!(none.stdout, "0 runs deleted, 0 bytes\n");

    let done = place.on_runs(&["prune", "--where", "status:error", "--yes", "-q"]).exits(0);
    assert!(done.stdout.starts_with("1 run deleted, ") && done.stderr.is_empty(), "{done:?}");
    place.on_runs(&["show", "order-2"]).exits(3);
    let done = place.on_runs(&["prune", "--older-than", "0s", "--yes"]).exits(0);
    assert!(done.stdout.starts_with("2 runs deleted, "), "{}", done.stdout);
    assert!(done.stderr.contains("outlive db vacuum"), "{}", done.stderr);
    // What has not ended stays, and its filter is refused.
    place.on_runs(&["show", "order-4"]).exits(0);
    place.on_runs(&["prune", "--where", "status:pending", "--yes"]).exits(2);
    for wrong in [&["--max-size", "2 elephants"][..], &["--keep", "-1"], &["--max-size", "1GB", "--where", "user:ada"]]
    {
        place.on_runs(&[&["prune"], wrong].concat()).exits(2);
    }
    let audit = place.on_runs(&["audit", "--json"]).exits(0).stdout;
    assert_eq!(audit.matches("run_prune").count(), 2, "{audit}");
    let doctor = place.on_runs(&["doctor"]).exits(0).stdout;
    assert!(doctor.contains("every run is kept") && doctor.contains("of the file are in use"), "{doctor}");
}

#[test]
fn it_says_the_same_here_and_there() {
    for line in [
        "prune",
        "prune --keep 1 --dry-run",
        "prune --keep 1",
        "prune --keep 10000 --where session:till-1 --yes",
        "prune --where status:error user:ada --dry-run",
        "prune --where status:running --yes",
        "prune --max-size 1KB --dry-run",
        "prune --older-than 1h --yes",
        "prune --keep 2 --yes",
        "prune --where session:till-1 --yes",
        "prune --older-than 0s --yes",
    ] {
        let (here, there) = (Place::with_runs(), Place::with_runs());
        let server = Running::serve(&there, &["--no-execute", "--db", "runs.db"]);
        let arguments: Vec<&str> = line.split(' ').chain(["--json"]).collect();
        let mut asking: Command = there.command(&arguments);
        asking.env("OUTLIVE_SERVER", server.url());
        let (told, said) = (Done::of(asking), here.on_runs(&arguments));
        // Runs of two places differ by the digits of their times.
        let counts = |done: &Done| {
            let mut told: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_default();
            let bytes = told["bytes"].take();
            (done.code, told, bytes == serde_json::json!(0))
        };
        assert_eq!(counts(&told), counts(&said), "{line}: {} {}", told.stderr, said.stderr);
        server.stop().exits(0);
    }
}

/// A file with this many runs that have ended.
fn with_many_runs(place: &Place, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let db = SqliteDb::new(place.path("many.db"));
        let step = Step::function("Say", |_, _| async { Ok::<_, Failure>("word ".repeat(400)) });
        let workflow = Workflow::builder("Many").db(db).step(step).build().unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..count {
            let run = workflow.run(format!("{number}")).run_id(format!("run-{number}"));
            tasks.spawn(async move { drop(run.await.unwrap()) });
        }
        tasks.join_all().await;
        workflow.shutdown().await.unwrap();
    });
}

fn worker(place: &Place) -> Running {
    let arguments = ["worker", "--db", "many.db", "--retention-max-runs", "10"];
    let mut command = place.command(&arguments);
    command.env("OUTLIVE_ENGINE_RETENTION_PERIOD", "50ms");
    Running::start(&mut command)
}

#[test]
fn workers_that_are_killed_leave_whole_runs_and_the_rest_to_others() {
    const RUNS: usize = 600;
    let place = Place::new();
    with_many_runs(&place, RUNS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let db = SqliteDb::new(place.path("many.db"));
    let ended = || {
        let filter = outlive::core::port::RunFilter { with_counts: true, limit: 1, ..Default::default() };
        let runs = outlive::core::port::RunStore::runs(&db, outlive::core::port::Access::All, filter);
        let counts = runtime.block_on(runs).unwrap().counts.unwrap();
        counts.by_status.iter().map(|(_, count)| usize::try_from(*count).unwrap()).sum::<usize>()
    };
    let until = |most: usize| {
        let begun = Instant::now();
        while ended() > most {
            assert!(begun.elapsed() < PATIENCE, "{} runs are left, not {most}", ended());
            std::thread::yield_now();
        }
    };
    assert_eq!(ended(), RUNS);
    for part in 1..=3 {
        // Two at once: the second goes on as soon as it notices that the first is gone, and is killed in turn.
        let mut workers = [worker(&place), worker(&place)];
        until(RUNS - part * 150);
        workers.iter_mut().for_each(|worker| worker.child.kill().unwrap());
    }
    let last = worker(&place);
    until(10);
    let doctor = place.run(&["doctor", "--db", "many.db"]).exits(0).stdout;
    assert!(doctor.contains("590 runs were deleted so far"), "{doctor}");
    last.stop().exits(0);
    assert_eq!(ended(), 10);
    drop(db);
    let shown = place.run(&["ls", "--db", "many.db", "--json"]).exits(0).json();
    assert_eq!(shown["runs"].as_array().unwrap().len(), 10);
    for run in shown["runs"].as_array().unwrap() {
        let id = run["id"].as_str().unwrap();
        place.run(&["output", id, "--db", "many.db"]).exits(0);
    }
}
