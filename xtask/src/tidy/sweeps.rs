//! Whatever callers may await they may leave: it stands in the sweep of its crate.
//!
//! Names are compared, nothing is understood: a name that is there twice counts once. The invariant: a new `pub async fn` of
//! these crates is swept, or stands here with a reason.

use super::File;
use crate::Problem;
use std::collections::BTreeSet;

/// The crates, and what of their sources is not theirs to sweep.
const CRATES: [(&str, &str); 2] = [
    // What tests use.
    ("engine", "testing/"),
    // A client waits for a server, whose requests are swept there.
    ("outlive", "client/"),
];
/// Names that are in no sweep, and why.
const LEFT_OUT: [(&str, &str); 6] = [
    ("over", "reads"),
    ("diff", "reads"),
    ("declare_schedules", "creates schedules one by one, as the engine does"),
    ("start", "of a server: starts its engine, as the engine does"),
    ("serve", "is what everything else happens in"),
    ("serve_on", "is what everything else happens in"),
];

/// Functions that are in no sweep.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    CRATES.iter().flat_map(|(name, others)| missing(files, name, others)).collect()
}

fn missing(files: &[File], name: &str, others: &str) -> Vec<Problem> {
    let (sources, path) = (format!("crates/{name}/src/"), format!("crates/{name}/tests/it/dropped.rs"));
    let Some(sweep) = files.iter().find(|file| file.path == path) else { return Vec::new() };
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let called: BTreeSet<&str> =
        sweep.text.split('(').filter_map(|before| before.rsplit(|c| !is_word(c)).next()).collect();
    let own = |file: &&File| file.path.strip_prefix(&*sources).is_some_and(|path| !path.starts_with(others));
    let mut problems = Vec::new();
    for file in files.iter().filter(own) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let declared = line.trim_start().strip_prefix("pub async fn ");
            let Some(name) = declared.and_then(|rest| rest.split(['(', '<']).next()) else { continue };
            if !called.contains(name) && LEFT_OUT.iter().all(|(left_out, _)| *left_out != name) {
                problems.push(format!("{}:{number}: `{name}` is not in the sweep {path}", file.path));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::check;

    #[test]
    fn a_function_that_is_in_no_sweep_is_found() {
        let source = "impl Engine {\n    pub async fn ask(&self) {}\n    pub async fn tell<T>(&self) {}\n}\n";
        let sweep = |text| made_up(&[("crates/engine/src/x.rs", source), ("crates/engine/tests/it/dropped.rs", text)]);
        assert_eq!(check(&sweep("engine.ask().await; tell(1)")), Vec::<String>::new());
        assert_eq!(
            check(&sweep("engine.task().await; tell(1)")),
            ["crates/engine/src/x.rs:2: `ask` is not in the sweep crates/engine/tests/it/dropped.rs"]
        );
        let tests = [("crates/engine/src/testing/mod.rs", source), ("crates/engine/tests/it/dropped.rs", "")];
        assert_eq!(check(&made_up(&tests)), Vec::<String>::new());
    }
}
