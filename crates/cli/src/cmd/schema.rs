//! `outlive schema`: JSON Schemas for editors and other programs.

use crate::exit::{Exit, Problem};
use crate::output;
use clap::{Args, ValueEnum};
use outlive::File;

/// Print the JSON Schema of workflow files
///
/// Editors with a language server for YAML check and complete a file that names it in its first line:
/// # yaml-language-server: $schema=.outlive/workflow.schema.json
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Of what: workflow
    #[arg(value_name = "WHAT", hide_possible_values = true)]
    what: What,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Workflow,
}

impl Schema {
    pub(crate) fn run(&self) -> Result<Exit, Problem> {
        match self.what {
            What::Workflow => output::line(text())?,
        }
        Ok(Exit::Done)
    }
}

/// The schema, for people too.
pub(super) fn text() -> String {
    format!("{:#}", File::schema())
}
