//! The tables of bad inputs and of differences from Agno against the tests that prove their rows.
//!
//! Must never know what a row means. The invariant: a row has tests or, of bad inputs, says why not; a named test exists,
//! and a test named after a row is listed in it.

use super::File;
use crate::Problem;
use std::collections::BTreeSet;

const PAGE: &str = "docs/bad-inputs.md";
const DIFFERENCES: &str = "docs/differences-from-agno.md";
/// What the name of such a test begins with; the row's id follows.
const PREFIX: &str = "bad_";
/// How a row without tests starts its reason.
const REASON: &str = "does not apply: ";

/// Rows without tests, names without tests, tests without rows.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let sources = files.iter().filter(|file| file.path.starts_with("crates/") && file.path.ends_with(".rs"));
    let functions: BTreeSet<&str> = sources.flat_map(|file| functions(&file.text)).collect();
    let page = |path| files.iter().find(|file| file.path == path);
    let mut problems = page(PAGE).map_or_else(Vec::new, |page| bad_inputs(page, &functions));
    problems.extend(page(DIFFERENCES).into_iter().flat_map(|page| differences(page, &functions)));
    problems
}

fn bad_inputs(page: &File, functions: &BTreeSet<&str>) -> Vec<Problem> {
    let tests: BTreeSet<&str> = functions.iter().copied().filter(|name| is_of_a_row(name)).collect();
    let mut named = BTreeSet::new();
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(page.text.lines()) {
        let Some((id, held)) = row(line) else { continue };
        let names: Vec<&str> = quoted(held).collect();
        let prefix = format!("{PREFIX}{}_", id.to_ascii_lowercase());
        for name in &names {
            if !name.starts_with(&prefix) {
                problems.push(format!("{PAGE}:{number}: `{name}` does not begin with `{prefix}`"));
            } else if !tests.contains(name) {
                problems.push(format!("{PAGE}:{number}: there is no test `{name}`"));
            }
        }
        if names.is_empty() && !held.starts_with(REASON) {
            problems.push(format!("{PAGE}:{number}: {id} has no test: name one, or say `{REASON}…`"));
        }
        named.extend(names);
    }
    let missing = tests.difference(&named).map(|name| format!("{PAGE}: no row names the test `{name}`"));
    problems.extend(missing);
    problems
}

/// The last column of every table there names tests.
fn differences(page: &File, functions: &BTreeSet<&str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(page.text.lines()) {
        let held = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')?.rsplit('|').next()).map(str::trim);
        let Some(held) = held.filter(|held| *held != "test" && !held.starts_with("---")) else { continue };
        if quoted(held).next().is_none() {
            problems.push(format!("{DIFFERENCES}:{number}: the row names no test"));
        }
        let missing = quoted(held).filter(|name| !functions.contains(name));
        problems.extend(missing.map(|name| format!("{DIFFERENCES}:{number}: there is no test `{name}`")));
    }
    problems
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The id of a row and what holds it.
fn row(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let [id, .., held] = cells[..] else { return None };
    is_id(id).then_some((id, held))
}

/// A letter and two digits.
fn is_id(id: &str) -> bool {
    matches!(id.as_bytes(), [letter, tens, ones]
        if letter.is_ascii_alphabetic() && tens.is_ascii_digit() && ones.is_ascii_digit())
}

/// The names of a source's functions that have no other visibility, as tests have.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split(['(', '<']).next()
    })
}

/// Whether this is the name of a test of a row of bad inputs.
fn is_of_a_row(name: &str) -> bool {
    name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()).is_some_and(is_id)
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::check;

    const TEST: &str = "#[test]\nfn bad_a01_x() {}\n#[tokio::test]\nasync fn bad_b02_y() {}\nfn bad_shape() {}\n";

    fn found(page: &str) -> Vec<String> {
        check(&made_up(&[("docs/bad-inputs.md", page), ("crates/server/tests/it/bad.rs", TEST)]))
    }

    #[test]
    fn a_table_that_names_its_tests_is_fine() {
        let page = "| id | what | tests |\n|---|---|---|\n| A01 | x | `bad_a01_x` |\n| B02 | y | `bad_b02_y` |\n\
            | C03 | z | does not apply: there is none |\n";
        assert_eq!(found(page), Vec::<String>::new());
    }

    #[test]
    fn a_difference_names_tests_that_exist() {
        let page = "| what | Agno | test |\n|---|---|---|\n| a \\| b | x | `bad_b02_y` (cases of `bad_shape`) |\n\
            | c | x | `gone` |\n| d | x | later |\n";
        let files = made_up(&[(super::DIFFERENCES, page), ("crates/server/tests/it/bad.rs", TEST)]);
        assert_eq!(
            check(&files),
            [
                "docs/differences-from-agno.md:4: there is no test `gone`",
                "docs/differences-from-agno.md:5: the row names no test",
            ]
        );
    }

    #[test]
    fn whatever_does_not_fit_is_found() {
        let page = "| A01 | x | `bad_a01_gone` |\n| B02 | y | `bad_a01_x` |\n| C03 | z | later |\n";
        assert_eq!(
            found(page),
            [
                "docs/bad-inputs.md:1: there is no test `bad_a01_gone`",
                "docs/bad-inputs.md:2: `bad_a01_x` does not begin with `bad_b02_`",
                "docs/bad-inputs.md:3: C03 has no test: name one, or say `does not apply: …`",
                "docs/bad-inputs.md: no row names the test `bad_b02_y`",
            ]
        );
    }
}
