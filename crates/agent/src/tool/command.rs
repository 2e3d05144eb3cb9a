//! A call of a program of this machine: without a shell, with JSON on standard input, and with bounds.
//!
//! ```text
//! argv, filled in ──► process in a group of its own ◄── JSON on stdin
//!                          │ stdout, stderr: read at the same time, up to a limit
//!                          ▼
//!            it ends, fails or is dropped: the whole group is killed
//! ```
//! It must never know who calls. The invariants: an argument of a call is one argument of the program, whatever is in it;
//! of this process's environment the program sees only what is named; what it started
//! ends with the call, unless it leaves the group.

use super::template::Template;
use outlive_core::{Failure, FailureKind, Secret};
use serde_json::{Map, Value};
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// The longest output, in bytes.
const OUTPUT_MAX: usize = 1 << 20;
/// How much of what it complains about is kept, in bytes.
const COMPLAINT_MAX: usize = 64 << 10;
/// How long its output is read after it has ended, if something it has started keeps it open.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// How much of that is told, in characters.
const TOLD_CHARS: usize = 1_000;
/// What a program exits with when trying again later may help: `EX_TEMPFAIL` of `sysexits.h`.
const TRY_AGAIN: i32 = 75;
/// Variables that every program sees.
const COMMON: [&str; 10] =
    ["PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SystemRoot", "SystemDrive"];

/// A program and its arguments, with places for a call's.
///
/// ```
/// use outlive_agent::tool::CommandCall;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let greet = CommandCall::new(["echo", "Hello, {name}"]);
/// let arguments = serde_json::json!({ "name": "Ada; rm -rf /" });
/// let said = greet.call(arguments.as_object().unwrap(), &arguments, "key", "run").await.unwrap();
/// assert_eq!(said, "Hello, Ada; rm -rf /");
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct CommandCall {
    argv: Vec<Template>,
    env: Vec<String>,
}

impl CommandCall {
    /// The program and its arguments; `{name}` stands for an argument of the call, and so does not divide it.
    pub fn new<T: AsRef<str>>(argv: impl IntoIterator<Item = T>) -> Self {
        Self { argv: argv.into_iter().map(|text| Template::parse(text.as_ref())).collect(), env: Vec::new() }
    }

    /// Environment variables that it sees besides `PATH`, `HOME` and the like. Their values are kept as secret as keys.
    #[must_use]
    pub fn env<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.env.extend(names.into_iter().map(Into::into));
        self
    }

    /// The arguments that it has places for.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.argv.iter().flat_map(Template::names)
    }

    /// What would make every call fail.
    pub fn problems(&self) -> Vec<String> {
        let is_missing = |name: &&String| std::env::var_os(name).is_none();
        let missing = self.env.iter().filter(is_missing);
        let mut problems: Vec<_> = missing.map(|name| format!("it needs {name}, which is not set")).collect();
        match self.argv.first() {
            None => problems.push("its command is empty: name a program".to_owned()),
            Some(program) if program.beginning().trim().is_empty() && program.names().next().is_none() => {
                problems.push("its command is empty: name a program".to_owned());
            }
            Some(program) if program.names().next().is_some() => {
                problems.push("an argument may not choose its program: name it".to_owned());
            }
            Some(_) => {}
        }
        problems
    }

    /// The values of the variables that it is given.
    pub fn secrets(&self) -> Vec<Secret> {
        self.env.iter().filter_map(|name| std::env::var(name).ok()).map(Secret::new).collect()
    }

    /// Runs the program and returns what it writes. It is given `input` as JSON, and the call's key and run as
    /// `OUTLIVE_IDEMPOTENCY_KEY` and `OUTLIVE_RUN_ID`.
    ///
    /// # Errors
    /// When it cannot be started, fails, or writes more than a MiB. One that exits with 75 may be tried again.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program and all it has started.
    pub async fn call(
        &self,
        arguments: &Map<String, Value>,
        input: &Value,
        key: &str,
        run_id: &str,
    ) -> Result<String, Failure> {
        let argv = self.argv(arguments)?;
        let (program, rest) = argv.split_first().ok_or_else(|| refused("its command is empty".to_owned()))?;
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        environment(&mut command, &self.env);
        command.env("OUTLIVE_IDEMPOTENCY_KEY", key).env("OUTLIVE_RUN_ID", run_id).kill_on_drop(true);
        let child = command.spawn().map_err(|error| refused(format!("{program} cannot be started: {error}")))?;
        let (status, output, complaint) = attend(child, input.to_string(), program).await?;
        match status.success() {
            true => Ok(output.strip_suffix('\n').unwrap_or(&output).to_owned()),
            false => Err(failed(program, status, &complaint)),
        }
    }

    /// The words of a call.
    fn argv(&self, arguments: &Map<String, Value>) -> Result<Vec<String>, Failure> {
        let mut argv: Vec<String> = Vec::with_capacity(self.argv.len());
        for template in &self.argv {
            let place = template.only_place();
            // An argument that was left out leaves out its word.
            if place.is_some_and(|name| arguments.get(name).is_none_or(Value::is_null)) {
                continue;
            }
            let word = template.fill(arguments, |name, value| match value.contains('\0') {
                true => Err(refused(format!("argument {name:?} holds a null character"))),
                false => Ok(value),
            })?;
            let ends_options = argv.iter().any(|word| word == "--");
            if word.starts_with('-') && !template.beginning().starts_with('-') && !ends_options {
                let names: Vec<_> = template.names().collect();
                let what = "may not begin with `-`, or the program would take it for an option";
                return Err(refused(format!("argument {:?} {what}", names.join(", "))));
            }
            argv.push(word);
        }
        Ok(argv)
    }
}

/// Gives a program these variables and those that every program sees, and no others; and a process group of its own.
pub(super) fn environment(command: &mut Command, names: &[String]) {
    command.env_clear();
    for name in COMMON.iter().copied().chain(names.iter().map(String::as_str)) {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    #[cfg(unix)]
    command.process_group(0);
}

fn refused(problem: String) -> Failure {
    Failure::new(FailureKind::BadRequest, problem)
}

/// Feeds and reads a program until it has ended.
async fn attend(mut child: Child, input: String, program: &str) -> Result<(ExitStatus, String, String), Failure> {
    let group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut output, mut complaint) = (Vec::new(), Vec::new());
    let feeding = async {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is given.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        Ok(())
    };
    let reading = read(stdout, &mut output, program);
    let complaining = async {
        read_some(stderr, &mut complaint).await;
        Ok(())
    };
    let cannot_wait = |error| Failure::function(format!("{program} cannot be waited for: {error}"));
    let status = {
        let mut talking = pin!(async { tokio::try_join!(feeding, reading, complaining) });
        tokio::select! {
            status = child.wait() => {
                // What it has started must not hold its output open; what has left its group might.
                drop(group);
                if let Ok(talked) = tokio::time::timeout(LINGER, talking).await {
                    talked?;
                }
                status.map_err(cannot_wait)?
            }
            talked = &mut talking => {
                talked?;
                child.wait().await.map_err(cannot_wait)?
            }
        }
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status, text(output), text(complaint)))
}

/// All of it, up to a limit.
async fn read(source: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, program: &str) -> Result<(), Failure> {
    if let Some(source) = source {
        let read = source.take(OUTPUT_MAX as u64 + 1).read_to_end(kept).await;
        read.map_err(|error| Failure::function(format!("its output cannot be read: {error}")))?;
    }
    match kept.len() > OUTPUT_MAX {
        true => {
            let message = format!("{program} wrote more than {OUTPUT_MAX} bytes, and was stopped");
            Err(Failure::new(FailureKind::Limit, message))
        }
        false => Ok(()),
    }
}

/// The end of it: the rest is read and thrown away.
pub(super) async fn read_some(source: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    if let Some(mut source) = source {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count @ 1..) = source.read(&mut buffer).await {
            kept.extend_from_slice(&buffer[..count]);
            if kept.len() > 2 * COMPLAINT_MAX {
                kept.drain(..kept.len() - COMPLAINT_MAX);
            }
        }
    }
}

fn failed(program: &str, status: ExitStatus, complaint: &str) -> Failure {
    let kind = if status.code() == Some(TRY_AGAIN) { FailureKind::Unavailable } else { FailureKind::Function };
    Failure::new(kind, format!("{program} {}", last_words(status, complaint)))
}

/// How a program ended, and the end of its complaint.
pub(super) fn last_words(status: ExitStatus, complaint: &str) -> String {
    let told: Vec<char> = complaint.trim().chars().collect();
    let told: String = told[told.len().saturating_sub(TOLD_CHARS)..].iter().collect();
    let how = match status.code() {
        Some(code) => format!("exited with {code}"),
        None => match signal(status) {
            Some(signal) => format!("was killed by signal {signal}"),
            None => "was killed".to_owned(),
        },
    };
    let colon = if told.is_empty() { "" } else { ": " };
    format!("{how}{colon}{told}")
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

/// A program and all it has started; killed when this is dropped.
pub(super) struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    pub(super) fn of(child: &Child) -> Self {
        #[cfg(unix)]
        let leader = child.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
        #[cfg(not(unix))]
        let _ = child;
        Self {
            #[cfg(unix)]
            leader,
        }
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // It may have ended by itself, all of it.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}
