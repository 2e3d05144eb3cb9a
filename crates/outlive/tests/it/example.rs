//! The examples as processes of their own.

use crate::world::{KEY, World};
use outlive::RunId;
use outlive::core::Entry;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A running example. Killed when dropped.
pub(crate) struct Example {
    child: Child,
    output: BufReader<ChildStdout>,
    said: String,
}

/// Where `cargo test` puts the examples it builds beside the tests.
fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let folder = tests.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    let program = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{program:?} is missing: build it with `cargo build -p outlive --examples`");
    program
}

fn command(world: &World, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("content_creation"));
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
        Self::start_with(world, arguments, &[])
    }

    /// The same with these variables.
    pub(crate) fn start_with(world: &World, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command(world, arguments);
        command.envs(variables.iter().copied());
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

    /// A command of the `approval_desk` example.
    pub(crate) fn desk(db: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(program("approval_desk"));
        command.args(words).env("APPROVAL_DB", db).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// The `nightly` example, with a report for each second.
    fn nightly(db: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(program("nightly"));
        command.args(words).env("NIGHTLY_DB", db).env("NIGHTLY_CRON", "* * * * * *");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// A process of the `fleet` example, with these settings.
    pub(crate) fn fleet(world: &World, words: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program("fleet"));
        command.args(words).env("FLEET_DB", world.path()).env("OPENAI_BASE_URL", world.models.url());
        command.env("OPENAI_API_KEY", KEY).envs(settings.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended: {}", self.said);
        self.said.push_str(&line);
        line.trim().to_owned()
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

/// One command of the `approval_desk` example: exit code and everything it printed.
pub(crate) fn desk(db: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program("approval_desk"));
    let output = command.args(words).env("APPROVAL_DB", db).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), said)
}

#[test]
fn a_payment_waits_for_two_people_while_no_process_runs() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("approvals.db");
    let (code, said) = desk(&db, &["request", "Laptops, 9,000 EUR"]);
    assert!(code == Some(0) && said.starts_with("run "), "{said}");
    let open = || -> Vec<String> {
        let (_, said) = desk(&db, &["desk"]);
        said.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let asked = open();
    assert_eq!(asked.len(), 2);
    let (_, said) = desk(&db, &["approve", &asked[0], "ada"]);
    assert_eq!(said, "noted\nothers are still to be asked\n");
    let (code, said) = desk(&db, &["reject", &asked[0], "bob", "no"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("was answered before: approve, by ada"), "{said}");
    assert_eq!(open(), asked[1..]);
    let (_, said) = desk(&db, &["approve", &asked[1], "bob"]);
    assert!(said.starts_with("noted\nCOMPLETED: paid: Laptops, 9,000 EUR (reference "), "{said}");
    assert!(open().is_empty());
    desk(&db, &["request", "A yacht"]);
    let (_, said) = desk(&db, &["reject", &open()[0], "ada", "too much"]);
    assert_eq!(said, "noted\nCANCELLED: Workflow cancelled: Step 'Finance' was rejected\n");
    assert!(open().is_empty(), "nobody needs to say more");
}

#[test]
fn research_asks_for_more_when_its_budget_is_used_up() {
    let folder = tempfile::tempdir().unwrap();
    let research = |words: &[&str]| {
        let mut command = Command::new(program("research_budget"));
        let output = command.args(words).env("RESEARCH_DB", folder.path().join("research.db")).output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
    };
    let asked = |said: &str| {
        let asks = said.lines().filter(|line| line.starts_with("asks: ")).count();
        (asks, said.contains("6 calls per run"))
    };
    let said = research(&["start", "tidal power"]);
    assert_eq!(asked(&said), (1, true), "{said}");
    let run = said.lines().next().unwrap().strip_prefix("run ").unwrap();
    let said = research(&["raise", run, "1", "ada"]);
    assert_eq!(asked(&said).0, 1, "{said}");
    assert_eq!(research(&["raise", run, "5", "ada"]), "COMPLETED: what 8 sources say\n");
    let said = research(&["start", "wave power"]);
    let run = said.lines().next().unwrap().strip_prefix("run ").unwrap();
    let said = research(&["stop", run, "bob"]);
    assert!(said.starts_with("ERROR: ") && said.contains("enough"), "{said}");
}

#[test]
fn a_nightly_report_is_made_by_whichever_process_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("nightly.db");
    for _ in 0..2 {
        let mut night = Example::nightly(&db, &[]);
        // It may be due before the program has said when it is.
        while night.line() != "the shop: all is well" {}
        night.kill();
    }
    let (code, said) = Example::nightly(&db, &["now"]).finish();
    assert!(code == Some(0) && said.contains("the shop: all is well"), "{said}");
    let (code, said) = Example::nightly(&db, &["log"]).finish();
    assert!(code == Some(0) && said.lines().filter(|line| line.contains("  ")).count() >= 2, "{said}");
}
