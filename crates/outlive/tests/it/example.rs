//! The `content_creation` example as a process of its own.

use crate::world::{KEY, World};
use outlive::RunId;
use outlive::core::Entry;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running example. Killed when dropped.
pub(crate) struct Example {
    child: Child,
    output: BufReader<ChildStdout>,
    said: String,
}

/// Where `cargo test` puts the examples it builds beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let program = folder.join(format!("content_creation{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{program:?} is missing: build it with `cargo build -p outlive --examples`");
    program
}

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(arguments)
        .arg("--db")
        .arg(world.path())
        .env("OPENAI_BASE_URL", world.models.url())
        .env("HACKERNEWS_BASE_URL", world.sites.url())
        .env("YFINANCE_BASE_URL", world.sites.url())
        .env_remove("OUTLIVE_MODEL")
        .env_remove("OUTLIVE_API");
    command
}

impl Example {
    pub(crate) fn start(world: &World, arguments: &[&str]) -> Self {
        let mut command = command(world, arguments);
        command.env("OPENAI_API_KEY", KEY).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// What it says of a missing key: exit code and standard error.
    pub(crate) fn without_key(world: &World) -> (Option<i32>, String) {
        let output = command(world, &["AI trends"]).env_remove("OPENAI_API_KEY").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// The run's id, as soon as the example has printed it.
    pub(crate) fn run_id(&mut self) -> RunId {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended without a run id: {}", self.said);
            self.said.push_str(&line);
            if let Some(id) = line.trim().strip_prefix("Run ID: ") {
                return RunId::parse(id).unwrap();
            }
        }
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end: exit code, and everything it printed.
    pub(crate) fn finish(&mut self) -> (Option<i32>, String) {
        self.output.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.said))
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A log as subscribers see it.
pub(crate) fn event_lines(log: &[Entry]) -> Vec<String> {
    log.iter().map(|entry| serde_json::to_string(&entry.event).unwrap()).collect()
}
