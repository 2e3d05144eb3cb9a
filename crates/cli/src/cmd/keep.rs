//! What a process that executes runs is to keep of them, as flags.

use crate::exit::Problem;
use crate::settings::{Given, Origin, Settings};
use clap::Args;

/// How long runs that have ended are kept; by default, for ever.
#[derive(Debug, Default, Args)]
pub(super) struct Keep {
    /// Delete runs this long after their end, such as 30d [default: retention.max_age of outlive.toml, else never]
    #[arg(long, value_name = "DURATION")]
    retention_max_age: Option<String>,
    /// Of the runs that have ended, keep the last N [default: retention.max_runs of outlive.toml, else all]
    #[arg(long, value_name = "N")]
    retention_max_runs: Option<String>,
    /// Delete the first of them while the database takes more, such as 2GB [default: retention.max_bytes]
    #[arg(long, value_name = "SIZE")]
    retention_max_size: Option<String>,
}

impl Keep {
    /// Puts the flags on top of the settings.
    ///
    /// # Errors
    /// When a value is invalid.
    pub(super) fn apply(&self, settings: &mut Settings) -> Result<(), Problem> {
        for (name, flag, text) in [
            ("retention.max_age", "--retention-max-age", &self.retention_max_age),
            ("retention.max_runs", "--retention-max-runs", &self.retention_max_runs),
            ("retention.max_bytes", "--retention-max-size", &self.retention_max_size),
        ] {
            if let Some(text) = text {
                settings.set(name, Given::Text(text.clone()), Origin::Flag(flag))?;
            }
        }
        Ok(())
    }
}
