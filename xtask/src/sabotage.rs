//! Breaks one promise at a time and demands that the tests notice.
//!
//! The tests' build has them all, behind a feature; a variable takes one safeguard out at a time. Must never count anything
//! but a failed test as noticed: code that does not compile, a hang or a crash of the test program is an error. The
//! invariant: no sabotage can reach a program anyone would install.

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
    /// The crate whose tests must notice, and which has the defect.
    package: &'static str,
    /// Its name, which the variable has when it is on.
    defect: &'static str,
    /// Which tests of the crate's `it` binary must notice; empty for all of them.
    filter: &'static str,
    /// The promise it breaks.
    breaks: &'static str,
}

/// Every sabotage. A row is added together with its defect.
const SABOTAGES: &[Sabotage] = &[
    Sabotage {
        package: "outlive-engine",
        defect: "ack-before-commit",
        filter: "runs::",
        breaks: "a run id is returned only once the run is on stable storage",
    },
    Sabotage {
        package: "outlive-db",
        defect: "skip-epoch-check",
        filter: "it_conforms",
        breaks: "a worker that lost its lease changes nothing",
    },
    Sabotage {
        package: "outlive-engine",
        defect: "publish-before-append",
        filter: "sweep::a_chain",
        breaks: "nobody sees an event that is not in the log",
    },
    Sabotage {
        package: "outlive-engine",
        defect: "skip-lease-check",
        filter: "hearts::",
        breaks: "a worker whose lease has run out begins no call",
    },
];

/// The feature that has the defects compiled in.
const FEATURE: &str = "sabotage";
/// Names the one that is on.
const VARIABLE: &str = "OUTLIVE_SABOTAGE";
/// Features that no shipped code may turn on in another crate of ours.
const NEVER_SHIPPED: [&str; 2] = [FEATURE, "testing"];
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
    let programs = build(cargo)?;
    for sabotage in SABOTAGES {
        let Sabotage { package, defect, filter, .. } = sabotage;
        let program = programs.iter().find(|program| program.package == *package);
        let program = program.ok_or_else(|| format!("cargo built no test program named `it` for {package}"))?;
        if wait(program.tests(filter, None), DEADLINE)? != End::Passed {
            return Err(format!("the tests `{filter}` of {package} must pass before a sabotage"));
        }
        let end = wait(program.tests(filter, Some(defect)), DEADLINE)?;
        println!("{defect}: {}", verdict(sabotage, end)?);
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
    let Sabotage { package, defect, filter, breaks } = sabotage;
    let again = format!("{VARIABLE}={defect} cargo test -p {package} --test it {filter}");
    match end {
        End::TestsFailed => Ok("noticed"),
        End::Passed => Err(format!("{defect} was not noticed; a test must fail when this is broken: {breaks}")),
        End::Broken => Err(format!("{defect} broke the test program instead of failing a test, see `{again}`")),
        End::Hung => Err(format!("{defect} made the tests hang; give them a deadline, see `{again}`")),
    }
}

/// The test programs as `cargo xtask test` builds them: our own tests turn the feature on, so nothing is built again.
fn build(cargo: &Cargo) -> Result<Vec<Program>, Problem> {
    const TESTS: [&str; 7] =
        ["test", "--workspace", "--no-run", "--locked", "--message-format=json-render-diagnostics", "--test", "it"];
    eprintln!("$ cargo {}", TESTS.join(" "));
    Ok(programs(&cargo.read(&TESTS)?))
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

/// A crate's `it` test program.
#[derive(Debug, PartialEq)]
struct Program {
    package: String,
    path: PathBuf,
    /// The crate's directory, where cargo would start the program.
    directory: PathBuf,
}

impl Program {
    /// Runs these tests by themselves, with this defect.
    fn tests(&self, filter: &str, defect: Option<&str>) -> Command {
        let mut command = Command::new(&self.path);
        command.args((!filter.is_empty()).then_some(filter));
        command.current_dir(&self.directory).env("CARGO_MANIFEST_DIR", &self.directory);
        command.env_remove(VARIABLE).envs(defect.map(|defect| (VARIABLE, defect)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// Finds the `it` test programs in cargo's messages.
fn programs(messages: &str) -> Vec<Program> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == "it")
        .filter_map(|message| {
            let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
            let package = format!("outlive-{}", directory.file_name()?.to_str()?);
            Some(Program { package, path: PathBuf::from(message["executable"].as_str()?), directory })
        })
        .collect()
}

/// What could carry a sabotage, or a test helper, into shipped code.
pub(crate) fn check(members: &[Member]) -> Vec<Problem> {
    let by_features = members.iter().flat_map(on_by_another_feature);
    by_features.chain(members.iter().flat_map(on_by_dependency)).collect()
}

fn on_by_another_feature(member: &Member) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, turned_on) in member.features.iter().filter(|(name, _)| !name.starts_with(FEATURE)) {
        for other in turned_on.iter().filter(|other| other.contains(FEATURE)) {
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
    let lines = tree.lines().filter(|line| line.contains(FEATURE));
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
        let leaking = member(&[("default", &["sabotage"])], Kind::Normal, "sqlite");
        assert_eq!(check(&[leaking]).len(), 1);
    }

    #[test]
    fn a_sabotage_behind_another_feature_is_found() {
        let leaking = member(&[("fast", &["outlive-engine/sabotage"])], Kind::Normal, "sqlite");
        assert_eq!(check(&[leaking]).len(), 1);
    }

    #[test]
    fn a_dependency_that_asks_for_sabotage_or_test_helpers_is_found() {
        assert_eq!(check(&[member(&[], Kind::Normal, "sabotage")]).len(), 1);
        assert_eq!(check(&[member(&[], Kind::Build, "testing")]).len(), 1);
    }

    #[test]
    fn tests_may_ask_for_test_helpers_and_a_sabotage_may_reach_down() {
        assert!(check(&[member(&[], Kind::Dev, "testing")]).is_empty());
        let down = member(&[("sabotage", &["outlive-engine/sabotage"])], Kind::Normal, "sqlite");
        assert!(check(&[down]).is_empty());
    }

    #[test]
    fn a_sabotage_in_the_tree_of_the_program_is_found() {
        let tree = "outlive-cli v0.1.0\n└── outlive feature \"sabotage\"\n";
        assert_eq!(reaches(tree), ["outlive-cli is built with outlive feature \"sabotage\""]);
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
    fn the_test_programs_are_found_among_the_messages() {
        let messages = r#"{"target": {"name": "outlive"}, "executable": "/x/lib", "manifest_path": "/x/Cargo.toml"}
            not JSON
            {"target": {"name": "it"}, "executable": "/t/it", "manifest_path": "/x/db/Cargo.toml"}"#;
        let (package, path, directory) = ("outlive-db".to_owned(), PathBuf::from("/t/it"), PathBuf::from("/x/db"));
        assert_eq!(programs(messages), [Program { package, path, directory }]);
        assert_eq!(programs(""), []);
    }
}
