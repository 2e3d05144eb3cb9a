//! Where routes are made: in one place, which asks for a rule.
//!
//! A rule about lines, like those of `sources`. The invariant: code that is shipped adds no route beside the table, so
//! that what walks the table has seen every route.

use super::File;
use crate::Problem;

/// The one module that hands routes to the router, each behind its rule.
const TABLE: &str = "crates/server/src/auth/rules.rs";
/// By which a route could be made elsewhere.
const CALLS: [&str; 6] = [".route(", ".route_service(", ".nest(", ".nest_service(", ".fallback_service(", "routing::"];

/// Routes without a rule.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| is_shipped(&file.path) && file.path != TABLE) {
        let lines = (1..).zip(file.text.lines()).take_while(|(_, line)| line.trim() != "#[cfg(test)]");
        for (number, line) in lines.filter(|(_, line)| CALLS.iter().any(|call| line.contains(call))) {
            problems.push(format!(
                "{}:{number}: a route outside the table, where it has no rule: `{}`",
                file.path,
                line.trim()
            ));
        }
    }
    problems
}

/// Code of the crates that speak HTTP to callers, without what is built for tests alone.
fn is_shipped(path: &str) -> bool {
    let speaks = ["crates/server/src/", "crates/outlive/src/", "crates/cli/src/"];
    speaks.iter().any(|begin| path.starts_with(begin)) && path.ends_with(".rs") && !path.contains("/testing")
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::check;

    #[test]
    fn a_route_beside_the_table_is_found() {
        let text = "//! x\nfn f(r: Router) -> Router { r.route(\"/open\", get(x)) }\n";
        let found = check(&made_up(&[("crates/server/src/server.rs", text)]));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("crates/server/src/server.rs:2: a route outside the table"), "{found:?}");
        let elsewhere = ["crates/server/src/auth/rules.rs", "crates/server/tests/it/door.rs", "crates/agent/src/x.rs"];
        for path in elsewhere {
            assert_eq!(check(&made_up(&[(path, text)])), Vec::<String>::new(), "{path}");
        }
        let in_tests = format!("//! x\n#[cfg(test)]\nmod tests {{\n{text}}}\n");
        assert_eq!(check(&made_up(&[("crates/server/src/server.rs", &in_tests)])), Vec::<String>::new());
    }
}
