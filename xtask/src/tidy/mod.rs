//! The house rules as checks: `ARCHITECTURE.md` says them, this makes them hold.
//!
//! Owns the list of checks. A check is a function from text to problems, so each has tests that break its rule and see
//! it found; none may read a file or start a program by itself. The invariant: all checks run, and all problems show.

mod circles;
mod floors;
mod links;
mod purity;
mod routes;
mod rows;
mod sources;
mod sweeps;
mod weight;
mod words;

use crate::cargo::Cargo;
use crate::{Problem, metadata, readme, sabotage};
use std::fs;

/// A text file of the project.
#[derive(Clone, Debug)]
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

/// Runs every check and shows every problem.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Problem> {
    let files = files(cargo)?;
    let members = metadata::members(cargo)?;
    let tree = cargo.read(&["tree", "--locked", "-p", "outlive-core", "-e", "normal", "--prefix", "none"])?;
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let problems = [
        floors::check(&members),
        circles::check(&files),
        purity::check(&tree),
        sources::headers(&files),
        sources::no_unsafe(&files),
        sources::lints_inherited(&files),
        routes::check(&files),
        rows::check(&files),
        sweeps::check(&files),
        words::check(&files),
        links::check(&files, &|path| cargo.root().join(path).exists()),
        readme::check(text("README.md")),
        sabotage::check(&members),
        weight::pinned(text("Cargo.lock")),
    ]
    .concat();
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => {
            println!("{} files and {} crates keep the house rules", files.len(), members.len());
            Ok(())
        }
        count => Err(format!("{count} house rules are broken; see above")),
    }
}

/// Every text file git knows of or would know of. Files of other kinds have no rules.
fn files(cargo: &Cargo) -> Result<Vec<File>, Problem> {
    let listed = cargo.read_program("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"])?;
    let paths = listed.split_terminator('\0');
    // A file that was deleted but not yet committed is listed and has no text; neither has a picture.
    let read =
        |path: &str| Some(File { path: path.to_owned(), text: fs::read_to_string(cargo.root().join(path)).ok()? });
    let files: Vec<File> = paths.filter_map(read).collect();
    if files.is_empty() { Err("git lists no files; run it in a checkout".to_owned()) } else { Ok(files) }
}

#[cfg(test)]
fn made_up(files: &[(&str, &str)]) -> Vec<File> {
    files.iter().map(|(path, text)| File { path: (*path).to_owned(), text: (*text).to_owned() }).collect()
}
