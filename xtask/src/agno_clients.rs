//! Agno's own clients against the `agno_app` example: an environment with Agno in `target/agno-clients`, a model server,
//! the example, and the script that drives the clients.
//!
//! Must never know what a client expects: the script does. The invariant: whatever was started here has ended when this
//! returns.

use crate::Problem;
use crate::cargo::Cargo;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the script needs, from the Python package index.
const PACKAGES: &[&str] =
    &["agno==3.1.10", "fastapi", "greenlet", "httpx", "pydantic", "python-multipart", "sqlalchemy", "websockets"];
const SCRIPT: &str = "crates/outlive/tests/agno_clients/check.py";

/// Runs the script against its own server.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Problem> {
    drive(cargo, environment(&cargo.root().join("target").join("agno-clients"))?)
}

/// The same as a stage of the gate, which must also pass on a machine without Python or a network: there it says so and
/// does without.
pub(crate) fn run_where_possible(cargo: &Cargo) -> Result<(), Problem> {
    match environment(&cargo.root().join("target").join("agno-clients")) {
        Ok(python) => drive(cargo, python),
        Err(why) => {
            println!("skipped, Agno's clients are not available here: {why}");
            Ok(())
        }
    }
}

fn drive(cargo: &Cargo, python: PathBuf) -> Result<(), Problem> {
    let folder = cargo.root().join("target").join("agno-clients");
    let [model_server, app] = build(cargo, ["model_server", "agno_app"])?;
    let (_models, model_url) = Started::new(Command::new(model_server), "OPENAI_BASE_URL=")?;
    let data = folder.join("data");
    // A database of an earlier time would hold its sessions.
    if data.exists() {
        fs::remove_dir_all(&data).map_err(|e| format!("{} cannot be emptied: {e}", data.display()))?;
    }
    let (_app, address) = Started::new(serving(app, &data, &model_url)?, "serving ")?;
    let address = address.split(' ').next().unwrap_or_default();
    let mut script = Command::new(python);
    script.arg(cargo.root().join(SCRIPT)).arg(address).env("AGNO_TELEMETRY", "false");
    succeed(&mut script, "the script with Agno's clients")
}

/// The example, not yet started, on a port that is free now.
fn serving(app: PathBuf, data: &Path, model_url: &str) -> Result<Command, Problem> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.map_err(|e| format!("there is no free port: {e}"))?.port();
    let mut command = Command::new(app);
    command.env("PORT", port.to_string()).env("AGNO_DB", data.join("clients.db"));
    command.env("OPENAI_BASE_URL", model_url).env("OPENAI_API_KEY", "not-a-key");
    command.env_remove("OS_SECURITY_KEY").env_remove("JWT");
    Ok(command)
}

/// A Python with [`PACKAGES`]; created the first time, then kept.
fn environment(folder: &Path) -> Result<PathBuf, Problem> {
    let venv = folder.join("venv");
    let python = venv.join("bin").join("python");
    let (installed, wanted) = (folder.join("installed"), PACKAGES.join("\n"));
    if python.exists() && fs::read_to_string(&installed).is_ok_and(|before| before == wanted) {
        return Ok(python);
    }
    fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), "python3 -m venv")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--timeout", "10", "--retries", "1"])
        .args(PACKAGES);
    succeed(&mut pip, "pip install")?;
    fs::write(&installed, wanted).map_err(|e| format!("{} cannot be written: {e}", installed.display()))?;
    Ok(python)
}

fn succeed(command: &mut Command, what: &str) -> Result<(), Problem> {
    let status = command.status().map_err(|e| format!("{what} could not be started: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{what} ended with {status}")) }
}

/// Builds examples as the tests of the workspace do, and says where they are.
fn build<const N: usize>(cargo: &Cargo, names: [&str; N]) -> Result<[PathBuf; N], Problem> {
    let options = ["build", "--workspace", "--locked", "--message-format=json-render-diagnostics"];
    let examples = names.iter().flat_map(|name| ["--example", name]);
    let messages = cargo.read(&options.into_iter().chain(examples).collect::<Vec<_>>())?;
    let mut paths = Vec::with_capacity(N);
    for name in names {
        paths.push(executable(&messages, name).ok_or_else(|| format!("cargo built no example named {name}"))?);
    }
    Ok(paths.try_into().expect("one for each"))
}

/// The program of this name in cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let mut messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.find_map(|message| {
        let path = message["executable"].as_str()?;
        (message["target"]["name"] == name).then(|| PathBuf::from(path))
    })
}

/// A program of ours; ends with this.
struct Started {
    child: Child,
}

impl Started {
    /// Starts a program and waits for the line with this beginning; gives the rest of it.
    fn new(mut command: Command, beginning: &str) -> Result<(Self, String), Problem> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut started = Self { child: child.map_err(|e| format!("{command:?} could not be started: {e}"))? };
        let output = started.child.stdout.take().ok_or("its output is piped")?;
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        let rest = lines.find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
        // Keep reading its output, or it would block.
        std::thread::spawn(move || lines.for_each(drop));
        let ended = || format!("{:?} ended before it said `{beginning}`", command.get_program());
        Ok((started, rest.ok_or_else(ended)?))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_name_is_found() {
        let messages = r#"{"target": {"name": "b"}, "executable": null}
            not JSON
            {"target": {"name": "a"}, "executable": "/a"}
            {"target": {"name": "b"}, "executable": "/b"}
            {"success": true}"#;
        assert_eq!(executable(messages, "b"), Some(PathBuf::from("/b")));
        assert_eq!(executable(messages, "c"), None);
    }

    #[test]
    fn the_script_is_where_it_is_looked_for() {
        let cargo = Cargo::from_environment().unwrap();
        assert!(cargo.root().join(SCRIPT).is_file());
    }

    #[test]
    fn a_program_that_ends_too_early_is_a_problem() {
        let problem = Started::new(Command::new("true"), "serving ").err().unwrap();
        assert!(problem.contains("ended before it said `serving `"), "{problem}");
    }
}
