//! The README's commands: what they are, that the page names them, and that the first one works.
//!
//! Must never run a command that is not written in the README. The invariant: what `cargo xtask test` and
//! `cargo xtask demo` run is what the README tells a reader to type.

use crate::Problem;
use crate::cargo::Cargo;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::thread;

/// Runs the main job on the embedded store.
pub(crate) const DEMO: &str = "cargo run --release --locked -p outlive-cli -- demo";
/// Runs every test.
pub(crate) const TEST: &str = "cargo test --workspace --locked";

/// What the demonstration must have printed by its end.
const EXPECTED: &str = "Completed";

/// Runs the README's first command without any key and wants it to end well.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Problem> {
    let path = cargo.root().join("README.md");
    let page = fs::read_to_string(path).map_err(|e| format!("README.md cannot be read: {e}"))?;
    let first = *commands(&page).first().ok_or("README.md has no command in a ```sh block")?;
    eprintln!("$ {first}");
    judge(first, &output(cargo, first)?)
}

/// The words after `cargo` in one of the README's commands.
pub(crate) fn arguments(command: &str) -> Vec<&str> {
    command.split_whitespace().skip(1).collect()
}

/// The commands in the page's ```sh blocks, in order.
pub(crate) fn commands(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines().map(str::trim) {
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            found.push(line);
        }
    }
    found
}

/// The two commands must stand in the page, the demonstration first.
pub(crate) fn check(page: &str) -> Vec<Problem> {
    let commands = commands(page);
    let mut problems = Vec::new();
    if commands.first() != Some(&DEMO) {
        problems.push(format!("README.md: its first command must be `{DEMO}`"));
    }
    if !commands.contains(&TEST) {
        problems.push(format!("README.md: no ```sh block names `{TEST}`"));
    }
    problems
}

/// Runs a command of the README, passes on what it prints as it comes, and returns it.
fn output(cargo: &Cargo, command: &str) -> Result<String, Problem> {
    if !command.starts_with("cargo ") {
        return Err(format!("`{command}` is not a cargo command, and nothing else is run"));
    }
    let mut child = cargo.command(&arguments(command));
    child.env_remove("OPENAI_API_KEY").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().map_err(|e| format!("`{command}` could not be started: {e}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let printed = thread::scope(|scope| {
        let beside = scope.spawn(|| pass_on(stderr, |line| eprintln!("{line}")));
        let printed = pass_on(stdout, |line| println!("{line}"));
        printed + &beside.join().expect("reading lines does not panic")
    });
    let status = child.wait().map_err(|e| format!("`{command}` was lost: {e}"))?;
    if status.success() { Ok(printed) } else { Err(format!("`{command}` ended with {status}")) }
}

/// Shows each line as it comes, and returns them all. What is not UTF-8 ends it.
fn pass_on(from: Option<impl Read>, show: impl Fn(&str)) -> String {
    let mut all = String::new();
    for line in from.into_iter().flat_map(|from| BufReader::new(from).lines()).map_while(Result::ok) {
        show(&line);
        all.push_str(&line);
        all.push('\n');
    }
    all
}

fn judge(command: &str, printed: &str) -> Result<(), Problem> {
    if printed.contains(EXPECTED) {
        return Ok(());
    }
    Err(format!("`{command}` ended well but its output does not contain `{EXPECTED}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_sh_blocks_are_commands() {
        let page = "text\n```sh\n# a comment\nfirst one\n```\n```text\nnot this\n```\n```sh\nsecond\n```\n";
        assert_eq!(commands(page), ["first one", "second"]);
    }

    #[test]
    fn a_page_with_both_commands_is_fine() {
        assert_eq!(check(&format!("```sh\n{DEMO}\n{TEST}\n```")), Vec::<Problem>::new());
    }

    #[test]
    fn a_page_that_lost_a_command_is_found() {
        assert_eq!(check(&format!("```sh\n{TEST}\n```")).len(), 1);
        assert_eq!(check(&format!("```sh\n{DEMO}\n```")).len(), 1);
        assert_eq!(check(&format!("```text\n{DEMO}\n{TEST}\n```")).len(), 2);
        assert_eq!(check(&format!("```sh\n{TEST}\n{DEMO}\n```")).len(), 1, "the demonstration comes first");
    }

    #[test]
    fn what_is_printed_is_shown_and_kept() {
        let shown = std::cell::RefCell::new(Vec::new());
        let kept = pass_on(Some(&b"one\ntwo"[..]), |line| shown.borrow_mut().push(line.to_owned()));
        assert_eq!(kept, "one\ntwo\n");
        assert_eq!(shown.into_inner(), ["one", "two"]);
    }

    #[test]
    fn output_without_a_completed_run_fails() {
        assert!(judge("demo", "Run ID: 1\nCompleted\n").is_ok());
        assert!(judge("demo", "Run ID: 1\n").is_err());
    }
}
