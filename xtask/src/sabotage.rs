//! Breaks one promise at a time and demands that the tests notice.
//!
//! Each sabotage is a feature that takes one safeguard out of the engine. Must never count anything but a failed test as
//! noticed: code that does not compile, a hang or a crash of the test program is an error. The invariant: no sabotage can
//! reach a program anyone would install.

use crate::Problem;
use crate::cargo::Cargo;
use crate::metadata::{self, Dependency, Kind, Member};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// One safeguard taken away.
struct Sabotage {
    /// The crate whose tests must notice, and which has the feature.
    package: &'static str,
    /// The feature.
    feature: &'static str,
    /// Which tests of the crate's `it` binary must notice; empty for all of them.
    filter: &'static str,
    /// The promise it breaks.
    breaks: &'static str,
}

/// Every sabotage. A row is added together with its feature.
const SABOTAGES: &[Sabotage] = &[
    Sabotage {
        package: "outlive-engine",
        feature: "sabotage-ack-before-commit",
        filter: "runs::",
        breaks: "a run id is returned only once the run is on stable storage",
    },
    Sabotage {
        package: "outlive-db",
        feature: "sabotage-skip-epoch-check",
        filter: "it_conforms",
        breaks: "a worker that lost its lease changes nothing",
    },
    Sabotage {
        package: "outlive-engine",
        feature: "sabotage-publish-before-append",
        filter: "sweep::",
        breaks: "nobody sees an event that is not in the log",
    },
];

/// How every sabotage feature's name begins.
const PREFIX: &str = "sabotage-";
/// Features that no shipped code may turn on in another crate of ours.
const NEVER_SHIPPED: [&str; 2] = [PREFIX, "testing"];
/// Longest time for the tests of one sabotage.
const DEADLINE: Duration = Duration::from_secs(300);
/// What the standard test runner ends with when a test failed.
const TESTS_FAILED: i32 = 101;

/// Runs the tests once per sabotage.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Problem> {
    let leaks = check(&metadata::members(cargo)?);
    let leaks = [leaks, reaches(&cargo.read(&["tree", "--locked", "-e", "features", "-p", "outlive-cli"])?)].concat();
    if !leaks.is_empty() {
        return Err(leaks.join("\n"));
    }
    for sabotage in SABOTAGES {
        let healthy = end_of_tests(cargo, sabotage, &[])?;
        if healthy != End::Passed {
            return Err(format!("the tests `{}` of {} must pass before a sabotage", sabotage.filter, sabotage.package));
        }
        let end = end_of_tests(cargo, sabotage, &["--features", sabotage.feature])?;
        println!("{}: {}", sabotage.feature, verdict(sabotage, end)?);
    }
    Ok(())
}

/// How a test program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    TestsFailed,
    /// Neither: killed by a signal, or an exit status the test runner does not use.
    Broken,
    Hung,
}

fn verdict(sabotage: &Sabotage, end: End) -> Result<&'static str, Problem> {
    let Sabotage { package, feature, filter, breaks } = sabotage;
    let again = format!("cargo test -p {package} --test it --features {feature} {filter}");
    match end {
        End::TestsFailed => Ok("noticed"),
        End::Passed => Err(format!("{feature} was not noticed; a test must fail when this is broken: {breaks}")),
        End::Broken => Err(format!("{feature} broke the test program instead of failing a test, see `{again}`")),
        End::Hung => Err(format!("{feature} made the tests hang; give them a deadline, see `{again}`")),
    }
}

/// Builds the tests, which must succeed, then runs them by themselves.
fn end_of_tests(cargo: &Cargo, sabotage: &Sabotage, features: &[&str]) -> Result<End, Problem> {
    let build = ["test", "--no-run", "--locked", "--message-format", "json-render-diagnostics", "-p", sabotage.package];
    let arguments = [&build, &["--test", "it"][..], features].concat();
    eprintln!("$ cargo {}", arguments.join(" "));
    let Built { program, directory } = built(&cargo.read(&arguments)?)?;
    let mut command = Command::new(program);
    command.args((!sabotage.filter.is_empty()).then_some(sabotage.filter));
    command.current_dir(&directory).env("CARGO_MANIFEST_DIR", &directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    wait(command, DEADLINE)
}

fn wait(mut command: Command, deadline: Duration) -> Result<End, Problem> {
    let start = Instant::now();
    let mut child = command.spawn().map_err(|e| format!("the test program could not be started: {e}"))?;
    loop {
        if let Some(status) = child.try_wait().map_err(|e| format!("the test program was lost: {e}"))? {
            return Ok(end(status));
        }
        if start.elapsed() > deadline {
            child
                .kill()
                .and_then(|()| child.wait())
                .map_err(|e| format!("a hung test program cannot be ended: {e}"))?;
            return Ok(End::Hung);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn end(status: ExitStatus) -> End {
    match status.code() {
        Some(0) => End::Passed,
        Some(TESTS_FAILED) => End::TestsFailed,
        _ => End::Broken,
    }
}

#[derive(Debug, PartialEq)]
struct Built {
    program: PathBuf,
    /// The crate's directory, where cargo would start the program.
    directory: PathBuf,
}

/// Finds the `it` test program in cargo's messages.
fn built(messages: &str) -> Result<Built, Problem> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == "it")
        .find_map(|message| {
            let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
            Some(Built { program: PathBuf::from(message["executable"].as_str()?), directory })
        })
        .ok_or_else(|| "cargo built no test program named `it`".to_owned())
}

/// What could carry a sabotage, or a test helper, into shipped code.
pub(crate) fn check(members: &[Member]) -> Vec<Problem> {
    let by_features = members.iter().flat_map(on_by_another_feature);
    by_features.chain(members.iter().flat_map(on_by_dependency)).collect()
}

fn on_by_another_feature(member: &Member) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, turned_on) in member.features.iter().filter(|(name, _)| !name.starts_with(PREFIX)) {
        for other in turned_on.iter().filter(|other| other.contains(PREFIX)) {
            problems.push(format!("{}: feature `{name}` turns on `{other}`, which breaks a promise", member.name));
        }
    }
    problems
}

fn on_by_dependency(member: &Member) -> Vec<Problem> {
    let shipped = |dependency: &&Dependency| dependency.kind != Kind::Dev && dependency.name.starts_with("outlive");
    let mut problems = Vec::new();
    for dependency in member.dependencies.iter().filter(shipped) {
        for feature in dependency.features.iter().filter(|f| NEVER_SHIPPED.iter().any(|never| f.starts_with(never))) {
            let (from, to) = (&member.name, &dependency.name);
            problems.push(format!("{from} depends on {to} with `{feature}`: only dev-dependencies may"));
        }
    }
    problems
}

/// Sabotage features in the output of `cargo tree -e features`.
fn reaches(tree: &str) -> Vec<Problem> {
    let lines = tree.lines().filter(|line| line.contains(PREFIX));
    lines
        .map(|line| format!("outlive-cli is built with {}", line.trim_start_matches([' ', '│', '├', '└', '─'])))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn member(features: &[(&str, &[&str])], kind: Kind, with: &str) -> Member {
        let owned = |on: &[&str]| on.iter().map(|f| (*f).to_owned()).collect();
        let dependency = Dependency { name: "outlive-engine".to_owned(), kind, features: vec![with.to_owned()] };
        let features: BTreeMap<_, _> = features.iter().map(|(name, on)| ((*name).to_owned(), owned(on))).collect();
        Member { name: "outlive".to_owned(), dependencies: vec![dependency], features }
    }

    #[test]
    fn a_sabotage_in_the_default_features_is_found() {
        let leaking = member(&[("default", &["sabotage-x"])], Kind::Normal, "sqlite");
        assert_eq!(check(&[leaking]).len(), 1);
    }

    #[test]
    fn a_sabotage_behind_another_feature_is_found() {
        let leaking = member(&[("fast", &["outlive-engine/sabotage-x"])], Kind::Normal, "sqlite");
        assert_eq!(check(&[leaking]).len(), 1);
    }

    #[test]
    fn a_dependency_that_asks_for_sabotage_or_test_helpers_is_found() {
        assert_eq!(check(&[member(&[], Kind::Normal, "sabotage-x")]).len(), 1);
        assert_eq!(check(&[member(&[], Kind::Build, "testing")]).len(), 1);
    }

    #[test]
    fn tests_may_ask_for_test_helpers_and_a_sabotage_may_reach_down() {
        assert!(check(&[member(&[], Kind::Dev, "testing")]).is_empty());
        let down = member(&[("sabotage-x", &["outlive-engine/sabotage-x"])], Kind::Normal, "sqlite");
        assert!(check(&[down]).is_empty());
    }

    #[test]
    fn a_sabotage_in_the_tree_of_the_program_is_found() {
        let tree = "outlive-cli v0.1.0\n└── outlive feature \"sabotage-x\"\n";
        assert_eq!(reaches(tree), ["outlive-cli is built with outlive feature \"sabotage-x\""]);
        assert!(reaches("outlive-cli v0.1.0\n└── outlive feature \"sqlite\"\n").is_empty());
    }

    #[test]
    fn only_a_failed_test_counts_as_noticed() {
        let sabotage = &SABOTAGES[0];
        assert!(verdict(sabotage, End::TestsFailed).is_ok());
        for end in [End::Passed, End::Broken, End::Hung] {
            assert!(verdict(sabotage, end).is_err(), "{end:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn ends_of_a_test_program_are_told_apart() {
        let ended = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            wait(command, Duration::from_secs(20)).unwrap()
        };
        assert_eq!(ended("exit 0"), End::Passed);
        assert_eq!(ended("exit 101"), End::TestsFailed);
        assert_eq!(ended("exit 1"), End::Broken);
        assert_eq!(ended("kill -KILL $$"), End::Broken);
    }

    #[cfg(unix)]
    #[test]
    fn a_test_program_past_its_deadline_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "exec cat"]).stdin(Stdio::piped());
        assert_eq!(wait(command, Duration::ZERO).unwrap(), End::Hung);
    }

    #[test]
    fn the_test_program_is_found_among_the_messages() {
        let messages = r#"{"target": {"name": "outlive"}, "executable": "/x/lib", "manifest_path": "/x/Cargo.toml"}
            not JSON
            {"target": {"name": "it"}, "executable": "/x/it", "manifest_path": "/x/Cargo.toml"}"#;
        let expected = Built { program: PathBuf::from("/x/it"), directory: PathBuf::from("/x") };
        assert_eq!(built(messages), Ok(expected));
        assert!(built("").is_err());
    }
}
