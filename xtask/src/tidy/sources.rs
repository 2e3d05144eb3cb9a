//! Rules for source files and manifests: module headers, no unsafe code, one table of lints.
//!
//! Must never parse Rust: these are rules about lines. The invariant: what it cannot check is left to the compiler's
//! own lints, which [`lints_inherited`] ensures are on.

use super::File;
use crate::Problem;

/// The one crate that may hold unsafe code, once it exists: its macros write some.
const UNSAFE_ALLOWED: &str = "crates/py/";

/// Modules that do not begin by saying what they own.
pub(super) fn headers(files: &[File]) -> Vec<Problem> {
    let modules = files.iter().filter(|file| is_module(&file.path));
    let bare = modules.filter(|file| !file.text.starts_with("//!"));
    bare.map(|file| format!("{}: begin with `//!`: what it owns, what it must never know, its invariant", file.path))
        .collect()
}

fn is_module(path: &str) -> bool {
    let mut parts = path.split('/');
    let in_source = match parts.next() {
        Some("crates") => parts.nth(1) == Some("src"),
        Some("xtask") => parts.next() == Some("src"),
        _ => false,
    };
    in_source && path.ends_with(".rs")
}

/// Unsafe code, and exceptions from the rule against it.
pub(super) fn no_unsafe(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let sources = files.iter().filter(|file| file.path.ends_with(".rs") && !file.path.starts_with(UNSAFE_ALLOWED));
    for file in sources {
        for (number, line) in (1..).zip(file.text.lines()).filter(|(_, line)| has_unsafe(line)) {
            problems.push(format!("{}:{number}: unsafe code: `{}`", file.path, line.trim()));
        }
    }
    problems
}

/// Whether the word is in the line's code, before any comment and outside quotes.
fn has_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let outside_quotes: String = code.split('"').step_by(2).collect();
    let words = outside_quotes.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.into_iter().any(|word| word == "unsafe")
}

/// Members whose manifest does not take the workspace's lints, and a workspace that does not forbid unsafe code.
pub(super) fn lints_inherited(files: &[File]) -> Vec<Problem> {
    let is_member = |path: &str| path == "xtask/Cargo.toml" || path.starts_with("crates/");
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        if is_member(&file.path) && !table(&file.text, "[lints]").contains(&"workspace = true") {
            problems.push(format!("{}: add `[lints]` with `workspace = true`", file.path));
        }
        if file.path == "Cargo.toml"
            && !table(&file.text, "[workspace.lints.rust]").contains(&"unsafe_code = \"forbid\"")
        {
            problems.push("Cargo.toml: `[workspace.lints.rust]` must have `unsafe_code = \"forbid\"`".to_owned());
        }
    }
    problems
}

/// The lines below a table's header, up to the next one.
fn table<'a>(manifest: &'a str, header: &str) -> Vec<&'a str> {
    let below = manifest.lines().map(str::trim).skip_while(|line| *line != header).skip(1);
    below.take_while(|line| !line.starts_with('[')).collect()
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    #[test]
    fn a_module_without_a_header_is_found() {
        let files = made_up(&[
            ("crates/core/src/run.rs", "use std::fmt;\n"),
            ("xtask/src/tidy/links.rs", "// no header\n"),
            ("crates/core/src/id.rs", "//! Ids.\n"),
            ("crates/core/tests/it/main.rs", "mod runs;\n"),
        ]);
        let problems = headers(&files);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("crates/core/src/run.rs:"));
    }

    #[test]
    fn unsafe_code_is_found_with_its_line() {
        let files = made_up(&[("crates/db/src/lib.rs", "//! Db.\nlet x = unsafe { y() };\n")]);
        assert_eq!(no_unsafe(&files), ["crates/db/src/lib.rs:2: unsafe code: `let x = unsafe { y() };`"]);
    }

    #[test]
    fn an_attribute_that_would_let_unsafe_in_is_found() {
        assert_eq!(no_unsafe(&made_up(&[("crates/db/src/a.rs", "#[unsafe(no_mangle)]")])).len(), 1);
    }

    #[test]
    fn the_word_in_a_comment_a_text_or_a_longer_name_is_fine() {
        let text = "// unsafe to drop\nlet s = \"unsafe\";\n#![forbid(unsafe_code)]\n";
        assert!(no_unsafe(&made_up(&[("crates/db/src/lib.rs", text)])).is_empty());
        assert!(no_unsafe(&made_up(&[("crates/py/src/lib.rs", "unsafe { }")])).is_empty());
    }

    #[test]
    fn a_member_without_the_lints_is_found() {
        let without = "[package]\nname = \"a\"\n[dependencies]\nworkspace = true\n";
        let with = "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n";
        let files = made_up(&[("crates/a/Cargo.toml", without), ("crates/b/Cargo.toml", with)]);
        assert_eq!(lints_inherited(&files), ["crates/a/Cargo.toml: add `[lints]` with `workspace = true`"]);
    }

    #[test]
    fn a_workspace_that_no_longer_forbids_unsafe_code_is_found() {
        let weak = made_up(&[("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = \"warn\"\n")]);
        assert_eq!(lints_inherited(&weak).len(), 1);
    }
}
