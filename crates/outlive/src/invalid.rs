//! What is wrong with a workflow file: every problem with its place.
//!
//! It knows no syntax. What it shows is the reader's own file, never a value that may be a secret.

use std::fmt;

/// What a problem is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileProblemKind {
    /// The file itself.
    Invalid,
    /// Something that the file needs and this process does not have: a key, a function, the permission to run commands.
    Missing,
}

/// One problem, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// What it is about.
    pub kind: FileProblemKind,
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong there, and what to do about it.
    pub message: String,
    /// The line as it stands in the file; none of a text that was not read as a workflow file, and none that may hold a secret.
    pub excerpt: Option<String>,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Everything that is wrong with a workflow file, in the order of its lines; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidFile {
    /// The problems.
    pub problems: Vec<FileProblem>,
}

impl InvalidFile {
    /// Whether the file is fine and only something outside of it is missing.
    pub fn is_missing(&self) -> bool {
        self.problems.iter().all(|problem| problem.kind == FileProblemKind::Missing)
    }
}

impl fmt::Display for InvalidFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if place == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidFile {}
