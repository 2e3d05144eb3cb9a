//! `.env` beside `outlive.toml`: variables for this program that are not already set.
//!
//! Its variables become this process's environment by re-executing the program with them, because all code, libraries
//! included, reads variables in one way. So it accepts only names meant for this program: a directory must not decide
//! what is loaded or executed. The invariants: a variable already set wins, and no value is ever shown.

use super::configuration;
use crate::cli::Global;
use crate::exit::Problem;
use crate::output;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = ".env";
/// Prefixes of names meant for this program.
const MEANT: [&str; 5] = ["OUTLIVE_", "OS_SECURITY_KEY", "JWT_", "OPENAI_", "OTEL_"];

/// Such a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EnvFile {
    path: PathBuf,
    variables: BTreeMap<String, String>,
}

impl EnvFile {
    /// The one beside this `outlive.toml`; an empty one when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or a line meant for this program is malformed.
    pub(super) fn beside(project: Option<&Path>) -> Result<Self, Problem> {
        let Some(path) = project.map(|project| project.with_file_name(NAME)).filter(|path| path.is_file()) else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| configuration(format!("{} cannot be read: {error}", path.display())))?;
        let variables = parse(&text).map_err(|(line, name)| {
            let problem = configuration(format!("{}, line {line}: {name} has no readable value", path.display()));
            problem.hint("write NAME=VALUE on one line; put a value with spaces or a # in quotes")
        })?;
        Ok(Self { path, variables })
    }

    /// The file, if this variable's value is from it.
    pub(super) fn gave(&self, name: &str, value: &OsString) -> Option<&Path> {
        self.variables.get(name).filter(|own| value == own.as_str()).map(|_| self.path.as_path())
    }

    /// Re-executes this program with the variables not already set, in place of this process; returns if there are
    /// none.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn apply(self, global: &Global) -> Result<(), Problem> {
        let missing = |(name, _): &(String, String)| std::env::var_os(name).is_none();
        let missing: Vec<_> = self.variables.into_iter().filter(missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
        output::note(global, format_args!("Using {} of {}", names.join(", "), self.path.display()));
        let mut again = Command::new(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1)).envs(missing);
        Err(configuration(format!("outlive cannot be started with {}: {}", self.path.display(), replace(again))))
    }
}

/// Returns only when it failed.
#[cfg(unix)]
fn replace(mut program: Command) -> std::io::Error {
    use std::os::unix::process::CommandExt;
    program.exec()
}

#[cfg(not(unix))]
fn replace(mut program: Command) -> std::io::Error {
    match program.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(1)),
        Err(error) => error,
    }
}

/// The variables meant for this program. Other lines are skipped.
fn parse(text: &str) -> Result<BTreeMap<String, String>, (usize, String)> {
    let mut variables = BTreeMap::new();
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=') else { continue };
        let name = name.trim();
        if !MEANT.iter().any(|begin| name.starts_with(begin)) {
            continue;
        }
        let value = read(value.trim()).ok_or_else(|| (number, name.to_owned()))?;
        variables.insert(name.to_owned(), value);
    }
    Ok(variables)
}

/// A value: literal in single quotes, with `\n`, `\"` and `\\` in double quotes, else up to a comment.
fn read(value: &str) -> Option<String> {
    let behind = |rest: &str| rest.trim_start().is_empty() || rest.trim_start().starts_with('#');
    if let Some(quoted) = value.strip_prefix('\'') {
        let (inner, rest) = quoted.split_once('\'')?;
        return behind(rest).then(|| inner.to_owned());
    }
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find(" #").unwrap_or(value.len());
        return Some(value[..end].trim_end().to_owned()).filter(|value| !value.starts_with('#'));
    };
    let mut inner = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return behind(&quoted[at + 1..]).then_some(inner),
            '\\' => match letters.next()?.1 {
                'n' => inner.push('\n'),
                other => inner.push(other),
            },
            letter => inner.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_written_in_such_files() {
        for (written, value) in [
            ("a b", Some("a b")),
            ("a#b", Some("a#b")),
            ("a # b", Some("a")),
            ("", Some("")),
            ("'a # \"b'", Some("a # \"b")),
            ("\"a\\nb \\\"c\\\" \\\\\" # d", Some("a\nb \"c\" \\")),
            ("$HOME", Some("$HOME")),
            ("'a", None),
            ("\"a", None),
            ("\"a\" b", None),
        ] {
            assert_eq!(read(written).as_deref(), value, "{written}");
        }
    }

    #[test]
    fn only_what_is_meant_for_this_program_is_taken() {
        let text = "# a comment\nLD_PRELOAD=/tmp/evil.so\nPATH=/tmp\nexport OUTLIVE_ADDR=127.0.0.1:1\n\
            nonsense\nOTHER='unfinished\n OS_SECURITY_KEY = \"k\" \nOUTLIVE_DB=a\nOUTLIVE_DB=b\n";
        let found = parse(text).expect("readable");
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("OS_SECURITY_KEY", "k"), ("OUTLIVE_ADDR", "127.0.0.1:1"), ("OUTLIVE_DB", "b")]);
        assert!(
            parse("\u{feff}OUTLIVE_ADDR=127.0.0.1:1\r\n").is_ok_and(|found| found["OUTLIVE_ADDR"] == "127.0.0.1:1")
        );
        assert_eq!(parse("\nOPENAI_API_KEY='x"), Err((2, "OPENAI_API_KEY".to_owned())));
    }
}
