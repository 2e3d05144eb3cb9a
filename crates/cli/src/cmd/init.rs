//! `outlive init`: a workflow file to begin with.
//!
//! It never writes over anything.

use super::schema;
use crate::cli::{Global, quoted};
use crate::exit::{Exit, Problem};
use crate::output;
use clap::Args;
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Write a workflow file to begin with, and its schema for editors
///
/// The file runs as it is: its model is a script that needs no key. Nothing that is there is written over.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

const FILE: &str = "workflow.yaml";
const WORKFLOW: &str = include_str!("init/workflow.yaml");
const SCHEMA: &str = ".outlive/workflow.schema.json";
/// What is made while running is nothing to keep.
const IGNORE: &str = "# Made by outlive.\n*.db\n*.db-*\n*.lock\n";

impl Init {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Problem> {
        // `.` is where one is.
        let folder = if self.folder == Path::new(".") { Path::new("") } else { &self.folder };
        let file = folder.join(FILE);
        write_new(&file, WORKFLOW)?;
        let schema = folder.join(SCHEMA);
        // One of an older version says what that version read.
        write(&schema, &format!("{}\n", schema::text()), false)?;
        let ignore = folder.join(".outlive/.gitignore");
        if !ignore.exists() {
            write_new(&ignore, IGNORE)?;
        }
        if global.json {
            output::json(&json!({ "file": file, "schema": schema }))?;
        }
        let shown = file.display().to_string();
        output::note(global, format_args!("Wrote {shown}"));
        let there = match folder.as_os_str().is_empty() {
            true => String::new(),
            false => format!("cd {} && ", quoted(&folder.display().to_string())),
        };
        output::note(global, format_args!("Run it with: {there}outlive run {FILE} \"a topic\""));
        Ok(Exit::Done)
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Problem> {
    write(path, text, true)
}

fn write(path: &Path, text: &str, is_new: bool) -> Result<(), Problem> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| {
            let message = format!("the folder {} cannot be made: {error}", folder.display());
            Problem::new(Exit::Other, "not_written", message).hint("name another one: outlive init DIR")
        })?;
    }
    let written = || {
        let mut options = File::options();
        options.write(true);
        if is_new {
            options.create_new(true)
        } else {
            options.create(true).truncate(true)
        };
        options.open(path)?.write_all(text.as_bytes())
    };
    written().map_err(|error: io::Error| {
        let shown = path.display();
        match error.kind() {
            io::ErrorKind::AlreadyExists if path.exists() => {
                let problem = Problem::new(Exit::WrongState, "file_exists", format!("{shown} is there already"));
                problem.hint("name another folder: outlive init DIR")
            }
            _ => Problem::new(Exit::Other, "not_written", format!("{shown} cannot be written: {error}")),
        }
    })
}
