//! Starting cargo and other programs, always from the workspace's root.
//!
//! Must never decide what a result means beyond *it worked* or *it did not*. The invariant: a child sees the environment
//! this program was started with, without what `cargo run` added to it, so that nothing is rebuilt on its account.

use crate::Problem;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The cargo that started this program, and the workspace it is for.
pub(crate) struct Cargo {
    program: OsString,
    root: PathBuf,
}

impl Cargo {
    /// From the variables `cargo run` sets.
    pub(crate) fn from_environment() -> Result<Self, Problem> {
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("start it as `cargo xtask`")?;
        let root = Path::new(&manifest_dir).parent().ok_or("the workspace has no root directory")?;
        let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Ok(Self { program, root: root.to_owned() })
    }

    /// The workspace's root directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs cargo with the terminal as it is, and wants success.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<(), Problem> {
        self.run_with(&[], arguments)
    }

    /// [`Cargo::run`] with these variables set.
    pub(crate) fn run_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> Result<(), Problem> {
        let line = line(variables, arguments);
        eprintln!("$ {line}");
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        let status = command.status().map_err(|e| format!("`{line}` could not be started: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("`{line}` ended with {status}")) }
    }

    /// What cargo prints to standard output. Standard error goes to the terminal.
    pub(crate) fn read(&self, arguments: &[&str]) -> Result<String, Problem> {
        output_of(self.command(arguments), &line(&[], arguments))
    }

    /// What `program` prints to standard output.
    pub(crate) fn read_program(&self, program: &str, arguments: &[&str]) -> Result<String, Problem> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root);
        output_of(command, &format!("{program} {}", arguments.join(" ")))
    }

    /// Cargo with these arguments, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_set_by_cargo_run) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Some build scripts run again when one of these changes, and they differ between a child of ours and a plain `cargo`.
fn is_set_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
}

fn line(variables: &[(&str, &str)], arguments: &[&str]) -> String {
    let variables: String = variables.iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
    format!("{variables}cargo {}", arguments.join(" "))
}

fn output_of(mut command: Command, line: &str) -> Result<String, Problem> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let Output { status, stdout, .. } = command.output().map_err(|e| format!("`{line}` could not be started: {e}"))?;
    if !status.success() {
        return Err(format!("`{line}` ended with {status}"));
    }
    String::from_utf8(stdout).map_err(|_| format!("`{line}` printed something that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_sets_is_kept_from_children_and_settings_of_the_user_are_not() {
        assert!(is_set_by_cargo_run("CARGO_PKG_NAME") && is_set_by_cargo_run("CARGO_MANIFEST_DIR"));
        assert!(!is_set_by_cargo_run("CARGO_TARGET_DIR") && !is_set_by_cargo_run("CARGO_INCREMENTAL"));
    }
}
