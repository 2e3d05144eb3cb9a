//! How a command ends: an exit code, and for a problem what failed and what to do about it.

use crate::style;
use outlive::core::port::{DbError, DbErrorKind, LogError, Unreadable};
use outlive::{ClientError, Error, InvalidFile, RunStatus, engine};
use serde_json::json;
use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// The exit codes. Scripts depend on them: none ever changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; for a run: completed.
    Done = 0,
    /// Any other error.
    Other = 1,
    /// Wrong usage.
    Usage = 2,
    /// No such run, database or thing.
    NotFound = 3,
    /// The server requires a credential, or a different one.
    NotAllowed = 4,
    /// The run is not in a state for this.
    WrongState = 5,
    /// The server cannot be reached.
    Unreachable = 6,
    /// Configuration or credential missing or unreadable.
    Configuration = 7,
    /// The run failed.
    RunFailed = 10,
    /// The run was cancelled.
    RunCancelled = 11,
    /// The run is waiting for a person.
    RunPaused = 12,
    /// `--timeout` expired; the run continues.
    TimedOut = 13,
    /// Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// The code that says how a run ended.
    pub(crate) fn of(status: RunStatus) -> Exit {
        match status {
            RunStatus::Error => Exit::RunFailed,
            RunStatus::Cancelled => Exit::RunCancelled,
            RunStatus::Paused => Exit::RunPaused,
            RunStatus::Pending | RunStatus::Running | RunStatus::Completed => Exit::Done,
        }
    }
}

/// Why a command failed: a message and a hint for people, a code for programs.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) exit: Exit,
    code: Cow<'static, str>,
    message: String,
    hint: Option<String>,
    is_retryable: bool,
    /// The reader has gone away: there is nobody left to tell.
    is_silent: bool,
    /// The problems of workflow files, one by one.
    invalid_file: Option<Box<InvalidFile>>,
}

impl Problem {
    /// What failed.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// A problem with this exit code, this name for programs and this message (lower case, no full stop).
    pub(crate) fn new(exit: Exit, code: impl Into<Cow<'static, str>>, message: impl Display) -> Self {
        let code = code.into();
        let (hint, is_retryable, is_silent, invalid_file) = (None, false, false, None);
        Self { exit, code, message: message.to_string(), hint, is_retryable, is_silent, invalid_file }
    }

    /// Keeps the problems of workflow files apart.
    pub(crate) fn of_files(mut self, invalid: InvalidFile) -> Self {
        self.invalid_file = Some(Box::new(invalid));
        self
    }

    /// The problems of workflow files, if it is about them.
    pub(crate) fn invalid_file(&self) -> Option<&InvalidFile> {
        self.invalid_file.as_deref()
    }

    /// Adds what to do about it. Empty text adds nothing.
    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string()).filter(|hint| !hint.is_empty());
        self
    }

    /// Adds more of what to do about it.
    pub(crate) fn also(self, more: impl Display) -> Self {
        let hint = self.hint.as_deref().map_or_else(|| more.to_string(), |hint| format!("{hint}\n{more}"));
        self.hint(hint)
    }

    /// Whether the problem is that the reader has gone away.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// What failed, and what to do about it, for a list of several.
    pub(crate) fn text(&self) -> String {
        let hint = self.hint.as_deref().map(|hint| format!("\n{hint}"));
        format!("{}{}", self.message, hint.unwrap_or_default())
    }

    /// Whether too many runs wait already, and some will have begun soon.
    pub(crate) fn is_queue_full(&self) -> bool {
        self.code == "queue_full"
    }

    /// Reports it on standard error, and returns the code to exit with.
    pub(crate) fn report(self, as_json: bool) -> Exit {
        if self.is_silent {
            return Exit::Done;
        }
        let mut stderr = anstream::stderr().lock();
        let _ = if as_json {
            writeln!(stderr, "{}", self.to_json())
        } else {
            let (red, message) = (style::RED.bold(), style::clean(&self.message));
            let hint = self.hint.as_deref().map(|hint| format!("\n  {}", style::clean(hint).replace('\n', "\n  ")));
            writeln!(stderr, "{red}error:{red:#} {message}{}", hint.unwrap_or_default())
        };
        self.exit
    }

    fn to_json(&self) -> serde_json::Value {
        json!({
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "retryable": self.is_retryable,
            }
        })
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        let is_silent = error.kind() == io::ErrorKind::BrokenPipe;
        // Files that commands use have their own problems; what is left is the output.
        let what = if error.kind() == io::ErrorKind::StorageFull { "the output cannot be written: " } else { "" };
        Self { is_silent, ..Self::new(Exit::Other, "io", format!("{what}{error}")) }
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        let (exit, code, hint) = match error.kind() {
            DbErrorKind::NotFound => (Exit::NotFound, "not_found", ""),
            DbErrorKind::Conflict => (Exit::WrongState, "conflict", ""),
            DbErrorKind::SessionBusy => (Exit::WrongState, "session_busy", ""),
            DbErrorKind::IllegalStatus | DbErrorKind::CancelRequested | DbErrorKind::OverBudget => {
                (Exit::WrongState, "wrong_state", "")
            }
            DbErrorKind::Fenced => (Exit::Other, "fenced", "another process executes the run now; try again"),
            DbErrorKind::Full => (Exit::Other, "disk_full", "make room on the disk and try again"),
            DbErrorKind::Busy => (Exit::Other, "database_busy", "try again in a moment"),
            DbErrorKind::OutcomeUnknown => (Exit::Other, "outcome_unknown", "look at the run before trying again"),
            DbErrorKind::Corrupt => (Exit::Other, "database_corrupt", "restore the file from a backup"),
            DbErrorKind::Unreadable => (Exit::Other, "unreadable", ""),
            DbErrorKind::ReadOnly => (Exit::Other, "database_read_only", ""),
            DbErrorKind::Refused => (Exit::Other, "database_refused", ""),
            DbErrorKind::Storage => (Exit::Other, "storage", ""),
        };
        let is_retryable = error.is_transient();
        Self { is_retryable, ..Self::new(exit, code, error).hint(hint) }
    }
}

impl From<engine::Error> for Problem {
    fn from(error: engine::Error) -> Self {
        use engine::Error as E;
        match error {
            E::Db(error) | E::Conflict(error) | E::SessionBusy(error) => error.into(),
            E::InvalidId(error) => Self::new(Exit::Usage, "invalid_id", error),
            E::RunNotFound(_) => Self::new(Exit::NotFound, "run_not_found", error),
            E::SessionNotFound(_) => Self::new(Exit::NotFound, "session_not_found", error),
            E::UnknownWorkflow(id) => {
                Self::new(Exit::NotFound, "workflow_not_found", format!("this command has no workflow {id:?}")).hint(
                    "by name it has only the demonstration's, content-creation-demo; name the file with yours: \
                     outlive run FILE, or --file FILE; or the server that has it, with --server or OUTLIVE_SERVER",
                )
            }
            E::Input(_) => Self::new(Exit::Usage, "invalid_input", error),
            E::InputTooLong { .. } => Self::new(Exit::Usage, "input_too_long", error),
            E::DiskLow { .. } => {
                let hint = "make room on the disk, or lower engine.disk_free_min";
                Self { is_retryable: true, ..Self::new(Exit::Other, "disk_low", error).hint(hint) }
            }
            E::Nul { .. } => Self::new(Exit::Usage, "invalid_input", error),
            E::TooDeep { .. } => Self::new(Exit::Usage, "json_too_deep", error),
            E::Unreadable(unreadable) => unreadable.into(),
            E::Damaged(_) => Self::new(Exit::Other, "log_damaged", error),
            E::QueueFull { .. } => Self { is_retryable: true, ..Self::new(Exit::Other, "queue_full", error) },
            E::Stopped(_) => Self::new(Exit::Other, "engine_stopped", error),
            E::QuestionNotFound(_) => Self::new(Exit::NotFound, "question_not_found", error),
            E::AlreadyAnswered(_) => Self::new(Exit::WrongState, "already_answered", error),
            E::InvalidAnswer { .. } => Self::new(Exit::Usage, "invalid_answer", error),
            E::NotYoursToAnswer { .. } => Self::new(Exit::NotAllowed, "four_eyes", error),
            E::BudgetNotFound(_) => Self::new(Exit::NotFound, "budget_not_found", error),
            E::BudgetChanged(_) => Self::new(Exit::WrongState, "budget_changed", error),
            E::ScheduleNotFound(_) => Self::new(Exit::NotFound, "schedule_not_found", error),
            E::InvalidSchedule { .. } => Self::new(Exit::Usage, "invalid_schedule", error),
            E::BatchNotFound(_) => Self::new(Exit::NotFound, "batch_not_found", error),
            E::ItemDeleted { .. } => Self::new(Exit::NotFound, "item_deleted", error),
            E::InvalidBatch { .. } => Self::new(Exit::Usage, "invalid_batch", error),
            E::Item { index, problem } => {
                let problem = Self::from(*problem);
                let message = format!("item {index}: {}", problem.message());
                Self { message, ..problem }
            }
            E::DamagedQuestion { .. } | E::DamagedSchedule { .. } | E::DamagedBatch { .. } => {
                Self::new(Exit::Other, "unreadable", error)
            }
            E::CannotBegin(_) => Self::new(Exit::Usage, "invalid_request", error),
            E::CannotFork(_) => Self::new(Exit::WrongState, "cannot_fork", error),
            E::CannotPrune(_) => Self::new(Exit::Usage, "cannot_prune", error),
            E::DefinitionChanged(_) => Self::new(Exit::WrongState, "definition_changed", error),
            E::NotCompleted(run) => Self::new(Exit::of(run.status()), "run_not_completed", run),
        }
    }
}

impl From<Unreadable> for Problem {
    fn from(unreadable: Unreadable) -> Self {
        DbError::from(unreadable).into()
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        use ClientError as E;
        let (exit, code, hint) = match &error {
            E::Unusable { .. } => (Exit::Configuration, "configuration", "see outlive config show --origin"),
            E::Unreachable { .. } => {
                let hint = "start it with: outlive serve; or name another with --server, or a file with --db";
                (Exit::Unreachable, "server_unreachable", hint)
            }
            E::NotAllowed(refusal) => {
                let hint = match refusal.code.as_str() {
                    "insufficient_scope" => {
                        "set OUTLIVE_TOKEN to a key with that scope; outlive keys mint --help lists them with the verbs \
                         that need them, and beside the server makes one, such as: outlive keys mint --scope \
                         runs:read,runs:write,workflows:run"
                    }
                    _ => {
                        "set OUTLIVE_TOKEN to a key that may; make one beside the server: outlive keys mint --scope \
                         runs:read,runs:write,workflows:run,questions:read,questions:answer"
                    }
                };
                (Exit::NotAllowed, "not_allowed", hint)
            }
            E::NotFound(refusal) if refusal.code == "unknown_component" => {
                (Exit::NotFound, "not_found", "see what the server has: GET /workflows, /agents and /teams")
            }
            E::NotFound(_) => (Exit::NotFound, "not_found", ""),
            E::Conflict(_) => (Exit::WrongState, "conflict", ""),
            E::Invalid(_) => (Exit::Usage, "invalid_request", ""),
            E::RateLimited(_) => (Exit::Other, "rate_limited", "try again in a moment"),
            E::Garbled { .. } => (Exit::Other, "answer_garbled", "is there another program at this address?"),
            E::Failed(_) => (Exit::Other, "server_failed", "look for the request in the server's log"),
            _ => (Exit::Other, "client", ""),
        };
        let said = error.refusal().map(|refusal| refusal.code.clone()).filter(|code| !code.is_empty());
        let code = said.map_or(Cow::Borrowed(code), Cow::Owned);
        Self { is_retryable: error.is_transient(), ..Self::new(exit, code, error).hint(hint) }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        engine::Error::from(error).into()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Engine(error) => error.into(),
            Error::File(invalid) => invalid.into(),
            Error::NotCompleted(run) => engine::Error::from(run).into(),
            Error::Traces(_) => Self::new(Exit::Configuration, "configuration", error),
            error => Self::new(Exit::Configuration, "definition", error),
        }
    }
}
