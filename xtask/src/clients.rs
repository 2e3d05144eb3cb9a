//! Others' own clients against the `agno_app` example: an environment with them in `target`, a model server, the example,
//! and the script that drives them.
//!
//! Must never know what a client expects: the scripts do. The invariant: whatever was started here has ended when this
//! returns.

use crate::Problem;
use crate::cargo::Cargo;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Clients in Python.
pub(crate) struct Clients {
    /// Whose they are.
    whose: &'static str,
    /// The folder in `target`.
    folder: &'static str,
    script: &'static str,
    /// Runs the script, given its command, the example, and the address of a model server.
    drive: fn(Command, PathBuf, &Path, &str) -> Result<(), Problem>,
}

/// What the scripts need, from the Python package index.
const PACKAGES: &[&str] = &[
    "agno==3.1.10",
    "fastapi",
    "greenlet",
    "httpx",
    "openai==3.57.0",
    "pydantic",
    "python-multipart",
    "sqlalchemy",
    "websockets",
];

pub(crate) const AGNO: Clients = Clients {
    whose: "Agno's clients",
    folder: "agno-clients",
    script: "crates/outlive/tests/agno_clients/check.py",
    drive: drive_agno,
};

pub(crate) const OPENAI: Clients = Clients {
    whose: "OpenAI's SDK",
    folder: "openai-clients",
    script: "crates/outlive/tests/openai_clients/check.py",
    drive: drive_openai,
};

impl Clients {
    /// Runs the script.
    pub(crate) fn run(&self, cargo: &Cargo) -> Result<(), Problem> {
        self.drive(cargo, environment(cargo)?)
    }

    /// The same as a stage of the gate, which must also pass on a machine without Python or a network: there it says so
    /// and does without.
    pub(crate) fn run_where_possible(&self, cargo: &Cargo) -> Result<(), Problem> {
        match environment(cargo) {
            Ok(python) => self.drive(cargo, python),
            Err(why) => {
                println!("skipped, {} are not available here: {why}", self.whose);
                Ok(())
            }
        }
    }

    fn drive(&self, cargo: &Cargo, python: PathBuf) -> Result<(), Problem> {
        let [model_server, app] = build(cargo, ["model_server", "agno_app"])?;
        let (_models, model_url) = Started::new(Command::new(model_server), "OPENAI_BASE_URL=")?;
        let data = cargo.root().join("target").join(self.folder);
        // A database of an earlier time would hold its sessions.
        if data.exists() {
            fs::remove_dir_all(&data).map_err(|e| format!("{} cannot be emptied: {e}", data.display()))?;
        }
        let mut script = Command::new(python);
        script.arg(cargo.root().join(self.script));
        (self.drive)(script, app, &data.join("clients.db"), &model_url)
    }
}

/// Agno's are given the address of the example.
fn drive_agno(mut script: Command, app: PathBuf, db: &Path, model_url: &str) -> Result<(), Problem> {
    let (_app, address) = Started::new(serving(app, db, model_url)?, "serving ")?;
    let address = address.split(' ').next().unwrap_or_default();
    succeed(script.arg(address).env("AGNO_TELEMETRY", "false"), "the script with Agno's clients")
}

/// OpenAI's kill it and start it again, so they are given the program.
fn drive_openai(mut script: Command, app: PathBuf, db: &Path, model_url: &str) -> Result<(), Problem> {
    fs::create_dir_all(db.parent().unwrap_or(db)).map_err(|e| format!("{} cannot be made: {e}", db.display()))?;
    script.arg(app).arg(db).env("OPENAI_BASE_URL", model_url);
    script.env_remove("OS_SECURITY_KEY").env_remove("JWT");
    succeed(&mut script, "the script with OpenAI's SDK")
}

/// The example, not yet started, on a port that is free now.
fn serving(app: PathBuf, db: &Path, model_url: &str) -> Result<Command, Problem> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.map_err(|e| format!("there is no free port: {e}"))?.port();
    let mut command = Command::new(app);
    command.env("PORT", port.to_string()).env("AGNO_DB", db);
    command.env("OPENAI_BASE_URL", model_url).env("OPENAI_API_KEY", "not-a-key");
    command.env_remove("OS_SECURITY_KEY").env_remove("JWT");
    Ok(command)
}

/// A Python with what the scripts need; created the first time, then kept. Whoever asks while it is created waits.
pub(crate) fn environment(cargo: &Cargo) -> Result<PathBuf, Problem> {
    static CREATION: Mutex<()> = Mutex::new(());
    let _one = CREATION.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cargo.root().join("target").join("python-clients");
    let venv = folder.join("venv");
    let python = venv.join("bin").join("python");
    let (installed, wanted) = (folder.join("installed"), PACKAGES.join("\n"));
    if python.exists() && fs::read_to_string(&installed).is_ok_and(|before| before == wanted) {
        return Ok(python);
    }
    fs::create_dir_all(&folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), "python3 -m venv")?;
    let mut pip = Command::new(&python);
    // Most of it is never imported: what is gets compiled then.
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"])
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
    let options = ["build", "--workspace", "--profile", "test", "--locked", "--message-format=json-render-diagnostics"];
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
    fn the_scripts_are_where_they_are_looked_for() {
        let cargo = Cargo::from_environment().unwrap();
        assert!([AGNO, OPENAI].iter().all(|clients| cargo.root().join(clients.script).is_file()));
    }

    #[test]
    fn a_program_that_ends_too_early_is_a_problem() {
        let problem = Started::new(Command::new("true"), "serving ").err().unwrap();
        assert!(problem.contains("ended before it said `serving `"), "{problem}");
    }
}
