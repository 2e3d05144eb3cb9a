//! `outlive version`.

use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::output;
use clap::Args;
use serde_json::json;

/// Print the version
#[derive(Debug, Args)]
pub(crate) struct Version {}

impl Version {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let version = env!("CARGO_PKG_VERSION");
        if global.json {
            output::json(&json!({ "version": version }))?;
        } else {
            output::line(format_args!("outlive {version}"))?;
        }
        Ok(Exit::Done)
    }
}
