//! Words no file may hold: paths of one machine, addresses of package registries, unfinished code.
//!
//! The words are built from pieces, so that this file does not hold them itself. The invariant: a word is found wherever
//! it stands, comments and texts included.

use super::File;
use crate::Problem;

struct Word {
    text: &'static str,
    why: &'static str,
    /// Whether the word must be at the start of a path: inside a longer path the same letters mean something else.
    is_path: bool,
}

const MACHINE: &str = "a path of one machine";
const REGISTRY: &str = "the address of a package registry";
const UNFINISHED: &str = "unfinished code";

const WORDS: &[Word] = &[
    Word { text: concat!("/", "work/"), why: MACHINE, is_path: true },
    Word { text: concat!("/", "root/"), why: MACHINE, is_path: true },
    Word { text: concat!("/tmp", "/bash"), why: MACHINE, is_path: true },
    Word { text: concat!("crates", ".io"), why: REGISTRY, is_path: false },
    Word { text: concat!("npmjs", ".org"), why: REGISTRY, is_path: false },
    Word { text: concat!("pypi", ".org"), why: REGISTRY, is_path: false },
    Word { text: concat!("python", "hosted.org"), why: REGISTRY, is_path: false },
    Word { text: concat!("proxy.golang", ".org"), why: REGISTRY, is_path: false },
    Word { text: concat!("todo", "!("), why: UNFINISHED, is_path: false },
    Word { text: concat!("unimplemented", "!("), why: UNFINISHED, is_path: false },
];

/// Cargo writes the registry's address into its lock file itself.
const EXEMPT: &str = "Cargo.lock";

/// Forbidden words, with their place.
pub(super) fn check(files: &[File]) -> Vec<Problem> {
    files.iter().filter(|file| file.path != EXEMPT).flat_map(in_file).collect()
}

fn in_file(file: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        for Word { text, why, .. } in WORDS.iter().filter(|word| word.stands_in(line)) {
            problems.push(format!("{}:{number}: `{text}` is {why}", file.path));
        }
    }
    problems
}

impl Word {
    fn stands_in(&self, line: &str) -> bool {
        let belongs_to_a_path = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '~' | '*');
        line.match_indices(self.text).any(|(at, _)| !self.is_path || !line[..at].ends_with(belongs_to_a_path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up;
    use super::*;

    #[test]
    fn every_word_is_found_in_every_kind_of_file() {
        for word in WORDS {
            let line = format!("// see {}x", word.text);
            for path in ["crates/a/src/lib.rs", "docs/a.md", ".ci/run", "Cargo.toml"] {
                assert_eq!(check(&made_up(&[(path, &line)])).len(), 1, "{} in {path}", word.text);
            }
        }
    }

    #[test]
    fn the_place_is_told() {
        let text = format!("fine\nlet path = \"{}x\";\n", WORDS[0].text);
        let problems = check(&made_up(&[("crates/a/src/lib.rs", &text)]));
        assert!(problems[0].starts_with("crates/a/src/lib.rs:2:"), "{problems:?}");
    }

    #[test]
    fn a_longer_path_and_the_lock_file_are_fine() {
        let inside = format!("see docs{}notes", WORDS[0].text);
        assert!(check(&made_up(&[("docs/a.md", &inside)])).is_empty());
        assert!(check(&made_up(&[("Cargo.lock", WORDS[3].text)])).is_empty());
    }
}
