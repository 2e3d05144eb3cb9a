//! That the modules of a crate form no circle: of any two, at most one needs the other, also through a third.
//!
//! Must never parse Rust: a module needs another when a line of its code, outside comments and tests, says
//! `crate::other`. The invariant: a crate that is listed has modules, so a moved folder cannot pass by mistake.

use super::File;
use crate::Problem;
use std::collections::{BTreeMap, BTreeSet};

/// The crates without circles; one that is rid of its own joins them.
const FREE: &[&str] = &["agent", "db", "engine", "outlive"];

/// Circles in crates that are to have none.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    FREE.iter().filter_map(|name| circle(name, files)).collect()
}

fn circle(name: &str, files: &[File]) -> Option<Problem> {
    let source = format!("crates/{name}/src/");
    let mut needs: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        let Some(path) = file.path.strip_prefix(&source).filter(|path| path.ends_with(".rs")) else { continue };
        let module = path.split(['/', '.']).next().unwrap_or_default();
        if !matches!(module, "lib" | "main") && !path.ends_with("tests.rs") {
            needs.entry(module).or_default().extend(needed(&file.text).filter(|other| *other != module));
        }
    }
    if needs.is_empty() {
        return Some(format!("{source} has no modules: mend the list in xtask/src/tidy/circles.rs"));
    }
    // Whoever needs nobody that is left, or is needed by nobody, is in no circle.
    let is_loose = |module: &str, needs: &BTreeMap<&str, BTreeSet<&str>>| {
        needs[module].iter().all(|other| !needs.contains_key(other)) || needs.values().all(|all| !all.contains(module))
    };
    while let Some(module) = needs.keys().copied().find(|module| is_loose(module, &needs)) {
        needs.remove(module);
    }
    if needs.is_empty() {
        return None;
    }
    let edge = |(module, others): (&&str, &BTreeSet<&str>)| {
        let others: Vec<_> = others.iter().copied().filter(|other| needs.contains_key(other)).collect();
        format!("{module} needs {}", others.join(", "))
    };
    let edges: Vec<_> = needs.iter().map(edge).collect();
    Some(format!("{source}: modules in a circle: {}", edges.join("; ")))
}

/// The modules that the code names as `crate::…`.
fn needed(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter_map(|line| line.split("//").next());
    let paths = lines.flat_map(|line| line.split("crate::").skip(1));
    paths.filter_map(|path| path.split(|c: char| !c.is_alphanumeric() && c != '_').next())
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    fn house(engine: &[(&str, &str)]) -> Vec<Problem> {
        let files: Vec<_> = engine.iter().map(|(name, text)| (format!("crates/engine/src/{name}"), *text)).collect();
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let mut files = made_up(&files);
        files.extend(made_up(&[
            ("crates/agent/src/a.rs", ""),
            ("crates/db/src/a.rs", ""),
            ("crates/outlive/src/a.rs", ""),
        ]));
        check(&files)
    }

    #[test]
    fn a_circle_is_found_and_whoever_only_needs_it_is_not_named() {
        let problems = house(&[
            ("a.rs", "use crate::b::B;\n"),
            ("b/mod.rs", "use crate::d;\n"),
            ("b/c.rs", "fn f() -> crate::c::C {}\n"),
            ("c.rs", "use crate::b;\n"),
            ("d.rs", "use crate::c;\n"),
            ("e.rs", ""),
        ]);
        let circle = "crates/engine/src/: modules in a circle: b needs c, d; c needs b; d needs c";
        assert_eq!(problems, [circle]);
    }

    #[test]
    fn lib_comments_tests_and_a_modules_own_files_are_no_circle() {
        let files = [
            ("lib.rs", "use crate::a;\n"),
            ("a.rs", "//! See [`crate::b`].\nuse crate::a::c;\n#[cfg(test)]\nmod tests { use crate::b; }\n"),
            ("a/tests.rs", "use crate::b;\n"),
            ("b.rs", "use crate::a;\n"),
        ];
        assert!(house(&files).is_empty());
    }

    #[test]
    fn a_crate_that_is_gone_is_a_problem() {
        assert_eq!(check(&[]).len(), FREE.len());
    }
}
