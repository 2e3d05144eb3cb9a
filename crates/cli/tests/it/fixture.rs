//! A directory of its own for each test, a database with runs in it, and the command without this machine's settings.

use outlive::Options;
use outlive::core::{ModelResponse, ToolCall, ToolEffect};
use outlive::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// The UTF-8 locale tests run in unless they say otherwise.
pub(crate) const LOCALE: &str = "C.UTF-8";

/// A directory with, once asked for, a database.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The command in this directory, with nothing of this machine's environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outlive"));
        command.args(arguments).current_dir(self.directory.path());
        command.env_clear().env("LANG", LOCALE).env("TZ", "UTC");
        command
    }

    /// A shell in this directory whose line is one that somebody copies: the program is found by its name, or it is not.
    pub(crate) fn shell(&self, line: &str, is_installed: bool) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(self.directory.path());
        command.env_clear().env("LANG", LOCALE).env("PATH", self.search_path(is_installed));
        command
    }

    /// `PATH` with the built program in it, or without.
    pub(crate) fn search_path(&self, is_installed: bool) -> OsString {
        let program = Path::new(env!("CARGO_BIN_EXE_outlive"));
        let folder = if is_installed { program.parent().unwrap() } else { self.directory.path() };
        std::env::join_paths([folder, Path::new("/usr/bin"), Path::new("/bin")]).unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments))
    }

    /// [`Place::run`] on the database of [`Place::with_runs`].
    pub(crate) fn on_runs(&self, arguments: &[&str]) -> Done {
        self.run(&[&["--db", "runs.db"], arguments].concat())
    }

    /// A place whose `runs.db` has, oldest first: `order-1` (completed), `order-2` (failed), `order-3` (cancelled) and
    /// `order-4` (pending).
    pub(crate) fn with_runs() -> Self {
        let place = Self::new();
        let path = place.path("runs.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let executing = shop(&path, Options::default());
            executing.run("order-1 please").run_id("order-1").session_id("till-1").user_id("ada").await.unwrap();
            executing.run("explode").run_id("order-2").session_id("till-1").await.expect_err("it explodes");
            executing.shutdown().await.unwrap();
            let accepting = shop(&path, Options { execute: false, ..Options::default() });
            for id in ["order-3", "order-4"] {
                accepting.run("later").run_id(id).background().await.unwrap();
            }
            accepting.cancel_run("order-3", "not needed").await.unwrap();
            accepting.attach("order-3").await.unwrap().wait().await.unwrap();
            accepting.shutdown().await.unwrap();
        });
        place
    }
}

/// Puts a run `run-1` into `tools.db` in which an agent calls one tool that answers, one that fails, and then says something
/// in many pieces, over several lines, in Markdown.
pub(crate) fn with_tools() -> Place {
    let place = Place::new();
    let price = |wanted: Share, _: ToolContext| async move {
        match wanted.symbol.as_str() {
            "NVDA" => Ok(json!({ "price": 131.2 })),
            other => Err(Failure::fatal(format!("there is no price of {other}"))),
        }
    };
    let price = Tool::new("get_price", "The price of a share.", price).effect(ToolEffect::Read);
    let call = |id: &str, symbol: &str| ToolCall::new(id, "get_price", json!({ "symbol": symbol }).to_string());
    let calls = ModelResponse::calls(vec![call("c1", "NVDA"), call("c2", "XXXX")]);
    let answer = ModelResponse::text("**Week 1**\n\n- buy a share\n- sell it again\n".repeat(4));
    let model = ScriptedModel::replies([calls, answer]).chunks(40);
    let agent = Agent::new("Broker").model(model).tools(vec![price]).stream(true);
    let workflow = Workflow::builder("Trading").db(SqliteDb::new(place.path("tools.db")));
    let workflow = workflow.step(Step::new("Trade").agent(agent)).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        workflow.run("go").run_id("run-1").await.unwrap();
        workflow.shutdown().await.unwrap();
    });
    place
}

/// Which share.
#[derive(Deserialize, JsonSchema)]
struct Share {
    /// Ticker symbol.
    symbol: String,
}

/// A workflow that names its session table, as the reading verbs then find out by themselves.
fn shop(path: &std::path::Path, options: Options) -> Workflow {
    let work = |_: StepContext, input: Arc<StepInput>| async move {
        match input.text().as_str() {
            "explode" => Err(Failure::fatal("the kitchen\u{1b}[2J is on fire")),
            asked => Ok(format!("# Done\n\n**{asked}**")),
        }
    };
    Workflow::builder("Coffee Shop")
        .db(SqliteDb::new(path).session_table("coffee_shop"))
        .options(options)
        .step(Step::function("Brew", work))
        .build()
        .unwrap()
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// Fails the test with everything that was printed, unless the code is this one.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The error as `--json` writes it.
    #[track_caller]
    pub(crate) fn error(&self) -> serde_json::Value {
        assert_eq!(self.stdout, "");
        let error: serde_json::Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {}", self.stderr));
        error["error"].clone()
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
