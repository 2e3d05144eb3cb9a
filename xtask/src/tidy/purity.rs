//! That `outlive-core` is pure: nothing it is built with brings a runtime, a file, a socket or chance.
//!
//! Must never look at dev-dependencies. The invariant: an empty tree is a problem, so the check cannot pass by mistake.

use crate::Problem;

/// Crates that must not be built into `outlive-core`, not even through another.
const FORBIDDEN: &[&str] = &[
    "async-std",
    "chrono",
    "fastrand",
    "hyper",
    "jiff",
    "mio",
    "getrandom",
    "rand",
    "reqwest",
    "rusqlite",
    "smol",
    "socket2",
    "sqlx",
    "tempfile",
    "time",
    "tokio",
];

/// Forbidden crates in the output of `cargo tree -p outlive-core -e normal --prefix none`.
pub(super) fn check(tree: &str) -> Vec<Problem> {
    if !tree.lines().any(|line| crate_name(line) == "outlive-core") {
        return vec!["the dependency tree of outlive-core is missing".to_owned()];
    }
    let forbidden = FORBIDDEN.iter().filter(|name| tree.lines().any(|line| crate_name(line) == **name));
    forbidden
        .map(|name| format!("outlive-core is built with {name}: see `cargo tree -p outlive-core -i {name}`"))
        .collect()
}

fn crate_name(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_in_the_tree_is_found() {
        let problems = check("outlive-core v0.1.0\nserde v1.0.0\ntokio v1.54.0\nmio v1.0.0\n");
        assert_eq!(problems.len(), 2);
        assert!(problems[0].contains("mio") && problems[1].contains("tokio"), "{problems:?}");
    }

    #[test]
    fn a_name_that_only_resembles_a_forbidden_one_is_fine() {
        assert!(check("outlive-core v0.1.0\ntokio-free v1.0.0\n").is_empty());
    }

    #[test]
    fn a_tree_of_something_else_is_a_problem() {
        assert_eq!(check("").len(), 1);
    }
}
