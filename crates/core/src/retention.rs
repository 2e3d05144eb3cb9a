//! How long what has ended is kept.
//!
//! It is a policy in numbers and must never know a store or a clock. The invariant: every limit that is not set keeps
//! everything, and of several limits each deletes on its own.

use std::time::Duration;

/// How long runs that have ended are kept. `Default` keeps everything.
///
/// A run goes as soon as one of the limits does not keep it.
///
/// ```
/// use outlive_core::Retention;
/// use std::time::Duration;
///
/// let month = Duration::from_secs(30 * 86_400);
/// let retention = Retention::new().max_age(month).max_runs(100_000);
/// assert!(!retention.is_unlimited());
/// assert!(Retention::new().is_unlimited());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Runs that ended longer ago go.
    pub max_age: Option<Duration>,
    /// Of the runs that have ended, those accepted last stay, this many.
    pub max_runs: Option<u64>,
    /// While the whole database takes more bytes than this, the runs accepted first go. Only a database can have it.
    pub max_bytes: Option<u64>,
    /// Sessions without runs go, with their state, when they were last changed longer ago. Only a database can have it.
    pub sessions_max_age: Option<Duration>,
}

impl Retention {
    /// Keeps everything.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_age: None, max_runs: None, max_bytes: None, sessions_max_age: None }
    }

    /// Runs that ended longer ago than this go.
    #[must_use]
    pub const fn max_age(self, age: Duration) -> Self {
        Self { max_age: Some(age), ..self }
    }

    /// Of the runs that have ended, those accepted last stay, this many.
    #[must_use]
    pub const fn max_runs(self, runs: u64) -> Self {
        Self { max_runs: Some(runs), ..self }
    }

    /// While the whole database takes more bytes than this, the runs accepted first go.
    #[must_use]
    pub const fn max_bytes(self, bytes: u64) -> Self {
        Self { max_bytes: Some(bytes), ..self }
    }

    /// Sessions without runs go, with their state, when they were last changed longer ago than this.
    #[must_use]
    pub const fn sessions_max_age(self, age: Duration) -> Self {
        Self { sessions_max_age: Some(age), ..self }
    }

    /// Whether it keeps everything.
    pub const fn is_unlimited(&self) -> bool {
        self.max_age.is_none() && self.max_runs.is_none() && self.max_bytes.is_none() && self.sessions_max_age.is_none()
    }

    /// What cannot be said of one workflow, if anything: what it is, and the remedy.
    pub(crate) fn problem_of_workflow(&self) -> Option<&'static str> {
        let is_of_database = self.max_bytes.is_some() || self.sessions_max_age.is_some();
        is_of_database.then_some(
            "its retention limits bytes or sessions, which belong to the database: set them in the engine's options",
        )
    }
}
