//! Links between the project's own pages.
//!
//! Must never open a connection: only relative links are looked at. The invariant: whether a target exists is asked of
//! the caller, so this can be tested without files.

use super::File;
use crate::Problem;

/// Links in Markdown pages to files that are not there. `exists` takes a path from the root.
pub(super) fn check(files: &[File], exists: &dyn Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, target) in targets(&file.text).into_iter().filter(|(_, target)| is_relative(target)) {
            if !resolve(&file.path, target).is_some_and(|path| exists(&path)) {
                problems.push(format!("{}:{number}: the link to `{target}` is broken", file.path));
            }
        }
    }
    problems
}

/// The target of every link, with its line; code is not looked at.
fn targets(page: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(page.lines()) {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            found.extend(inline(line).chain(definition(line)).map(|target| (number, target)));
        }
    }
    found
}

/// `[text](target)`
fn inline(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](")
        .filter(|(at, _)| line[..*at].matches('`').count().is_multiple_of(2))
        .filter_map(|(at, _)| line[at + 2..].split([')', ' ']).next())
}

/// `[name]: target`
fn definition(line: &str) -> Option<&str> {
    let (name, target) = line.split_once("]: ")?;
    (name.starts_with('[') && !name.starts_with("[^")).then(|| target.trim())
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:") && !target.starts_with('#')
}

/// The target as a path from the root; nothing when it leaves the project.
fn resolve(page: &str, target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<Problem> {
        let there = ["README.md", "docs/a.md", "docs/decisions/001.md"];
        check(&made_up(&[(path, text)]), &|path| there.contains(&path))
    }

    #[test]
    fn a_link_to_a_missing_file_is_found_with_its_line() {
        let found = problems("README.md", "fine\nsee [there](docs/b.md) and [here](docs/a.md)\n");
        assert_eq!(found, ["README.md:2: the link to `docs/b.md` is broken"]);
    }

    #[test]
    fn links_are_resolved_from_the_page_they_stand_in() {
        assert!(problems("docs/decisions/001.md", "[up](../a.md#part) [top](../../README.md)").is_empty());
        assert_eq!(problems("docs/decisions/001.md", "[wrong](docs/a.md)").len(), 1);
        assert_eq!(problems("docs/a.md", "[outside](../../README.md)").len(), 1);
    }

    #[test]
    fn a_named_link_to_a_missing_file_is_found() {
        assert_eq!(problems("README.md", "[a]\n\n[a]: docs/b.md\n").len(), 1);
    }

    #[test]
    fn addresses_anchors_and_code_are_left_alone() {
        let text = "[a](https://example.org/x) [b](#part) `[c](none.md)`\n```rust\nx[i](none.md)\n```\n";
        assert!(problems("README.md", text).is_empty());
    }
}
