//! Every help text beside its snapshot, so that a change of wording is seen in review.
//!
//! `OUTLIVE_UPDATE_SNAPSHOTS=1 cargo test -p outlive-cli` writes them anew.

use crate::fixture::Place;
use std::path::Path;

const VERBS: [&str; 66] = [
    "",
    "demo",
    "init",
    "run",
    "chat",
    "watch",
    "ls",
    "show",
    "events",
    "output",
    "cancel",
    "prune",
    "rerun",
    "retry",
    "fork",
    "batch",
    "batch ls",
    "batch show",
    "batch results",
    "batch wait",
    "batch retry",
    "batch cancel",
    "questions",
    "questions show",
    "approve",
    "reject",
    "answer",
    "schedule",
    "schedule add",
    "schedule ls",
    "schedule show",
    "schedule pause",
    "schedule resume",
    "schedule run",
    "schedule rm",
    "budgets",
    "budgets ls",
    "budgets show",
    "budgets raise",
    "dev",
    "serve",
    "worker",
    "mcp",
    "workflow",
    "workflow ls",
    "workflow show",
    "workflow validate",
    "workflow graph",
    "workflow diff",
    "keys",
    "keys mint",
    "keys ls",
    "keys revoke",
    "audit",
    "backup",
    "db",
    "db adopt",
    "db migrate",
    "db vacuum",
    "config",
    "config show",
    "schema",
    "completions",
    "man",
    "doctor",
    "version",
];

#[test]
fn every_help_text_is_the_one_in_its_snapshot() {
    let place = Place::new();
    let is_update = std::env::var_os("OUTLIVE_UPDATE_SNAPSHOTS").is_some();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots");
    for verb in VERBS {
        let arguments: Vec<_> = verb.split_whitespace().chain(["--help"]).collect();
        let help = place.run(&arguments).exits(0);
        assert_eq!(help.stderr, "");
        let name = if verb.is_empty() { "outlive".to_owned() } else { verb.replace(' ', "-") };
        let path = directory.join(format!("{name}.txt"));
        if is_update {
            std::fs::write(&path, &help.stdout).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(help.stdout, expected, "the help of {name:?} has changed; see {}", path.display());
    }
}

#[test]
fn the_version_is_told_in_three_ways() {
    let place = Place::new();
    let version = env!("CARGO_PKG_VERSION");
    for arguments in [["--version"], ["version"]] {
        assert_eq!(place.run(&arguments).exits(0).stdout, format!("outlive {version}\n"));
    }
    assert_eq!(place.run(&["version", "--json"]).exits(0).json()["version"], version);
}
