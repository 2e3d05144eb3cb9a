//! The project's chores, one word each; `cargo xtask help` is their documentation.
//!
//! Owns how the project is checked, and must never depend on the project itself: it has to build in seconds and to run
//! when nothing else compiles. The invariant it keeps: a chore that could not be carried out has failed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to a terminal")]

mod cargo;
mod ci;
mod clients;
mod metadata;
mod picture;
mod readme;
mod sabotage;
mod tidy;

use cargo::Cargo;
use std::process::ExitCode;

/// What went wrong, for people.
type Problem = String;

struct Task {
    name: &'static str,
    help: &'static str,
    run: fn(&Cargo, &[String]) -> Result<(), Problem>,
}

/// Every chore, in the order in which `help` shows them.
const TASKS: &[Task] = &[
    Task {
        name: "ci",
        help: "everything below that can fail: tidy, lint, test, agno-clients, openai-clients, sabotage, readme",
        run: ci::run,
    },
    Task { name: "test", help: "all tests of the workspace, as in the README", run: |cargo, _| test(cargo) },
    Task {
        name: "lint",
        help: "formatting, clippy and documentation, each without a warning",
        run: |cargo, _| lint(cargo),
    },
    Task {
        name: "tidy",
        help: "the house rules: who may depend on whom, module headers, words, links",
        run: |cargo, _| tidy::run(cargo),
    },
    Task {
        name: "sabotage",
        help: "breaks the engine on purpose, one promise at a time, and demands that a test notices",
        run: |cargo, _| sabotage::run(cargo),
    },
    Task {
        name: "readme",
        help: "a newcomer's session: every command and the example of the README, without any key",
        run: |cargo, _| readme::run(cargo),
    },
    Task {
        name: "picture",
        help: "records the README's picture again; what it prints is the README's sample",
        run: picture::run,
    },
    Task {
        name: "agno-clients",
        help: "Agno's own clients against the agno_app example; installs Agno in target/ the first time",
        run: |cargo, _| clients::AGNO.run(cargo),
    },
    Task {
        name: "openai-clients",
        help: "OpenAI's own SDK against the agno_app example; installs it in target/ the first time",
        run: |cargo, _| clients::OPENAI.run(cargo),
    },
    Task { name: "bench", help: "the benchmark, as published binaries are built; arguments are passed on", run: bench },
    Task { name: "demo", help: "the demonstration; arguments are passed on", run: demo },
    Task { name: "help", help: "this text", run: |_, _| help() },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = arguments.split_first().map_or(("help", &[][..]), |(name, rest)| (name.as_str(), rest));
    match dispatch(name, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask {name} failed: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(name: &str, rest: &[String]) -> Result<(), Problem> {
    let name = if matches!(name, "-h" | "--help") { "help" } else { name };
    let task = TASKS.iter().find(|task| task.name == name).ok_or_else(|| unknown(name))?;
    (task.run)(&Cargo::from_environment()?, rest)
}

fn unknown(name: &str) -> Problem {
    let names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
    format!("there is no task `{name}`, choose one of {}", names.join(", "))
}

fn help() -> Result<(), Problem> {
    println!("usage: cargo xtask TASK [ARGUMENTS]\n");
    for Task { name, help, .. } in TASKS {
        println!("  {name:<14}{help}");
    }
    println!(
        "\nNothing is installed and, once the dependencies are there, no task but those with clients needs the network."
    );
    Ok(())
}

/// Many tests wait for a disk, a child or a timer: with as many threads as cores, those would wait too.
fn test(cargo: &Cargo) -> Result<(), Problem> {
    let threads = 3 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cargo.run_with(&[("RUST_TEST_THREADS", &threads.to_string())], &readme::arguments(readme::TEST))
}

fn lint(cargo: &Cargo) -> Result<(), Problem> {
    cargo.run(&["fmt", "--all", "--check"])?;
    cargo.run(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    cargo.run_with(&[("RUSTDOCFLAGS", "-D warnings")], &["doc", "--workspace", "--no-deps", "--locked"])
}

fn bench(cargo: &Cargo, rest: &[String]) -> Result<(), Problem> {
    // Two of its rows are about the program itself.
    if matches!(rest.first().map(String::as_str), None | Some("table" | "F1")) {
        cargo.run(&["build", "--release", "--locked", "-p", "outlive-cli"])?;
    }
    passing_on(cargo, &["run", "--release", "--locked", "-p", "outlive", "--example", "bench", "--"], rest)
}

fn demo(cargo: &Cargo, rest: &[String]) -> Result<(), Problem> {
    passing_on(cargo, &readme::arguments(readme::DEMO), rest)
}

fn passing_on(cargo: &Cargo, fixed: &[&str], rest: &[String]) -> Result<(), Problem> {
    let all: Vec<&str> = fixed.iter().copied().chain(rest.iter().map(String::as_str)).collect();
    cargo.run(&all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_task_is_refused_and_the_known_ones_are_named() {
        let problem = dispatch("tset", &[]).unwrap_err();
        assert!(problem.contains("`tset`") && problem.contains("test, lint"), "{problem}");
    }

    #[test]
    fn every_task_is_listed_once() {
        let mut names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TASKS.len());
    }
}
