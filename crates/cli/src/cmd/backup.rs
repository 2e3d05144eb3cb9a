//! `outlive backup`: a verified copy of the database, made while others use it.

use super::size;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::{output, store, style, times};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Copy the database to a file, even while servers and workers use it
///
/// The whole copy is checked, including every entry's checksum, before it gets its name; nothing is overwritten. It can
/// be read with ls, show, events and output. Its unfinished runs resume only after `outlive db adopt`, so that nothing
/// is done twice. It contains API keys, so only its owner can read it.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to create
    #[arg(value_name = "FILE")]
    to: PathBuf,
}

impl Backup {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let path = Settings::load(global)?.db;
        let db = store::existing(&path, global)?;
        let backup = db.backup(&self.to, times::now()).await?;
        if global.json {
            output::json(&json!({
                "file": self.to,
                "of": path,
                "bytes": backup.bytes,
                "runs": backup.runs,
                "entries": backup.entries,
            }))?;
            return Ok(Exit::Done);
        }
        let runs = style::counted(usize::try_from(backup.runs).unwrap_or(usize::MAX), "run");
        let (to, size) = (self.to.display(), size(backup.bytes));
        output::line(format_args!("{to}: {runs}, {} log entries, {size}, all of it checked", backup.entries))?;
        output::note(global, format_args!("To use it in place of the original: outlive db adopt --db {to}"));
        Ok(Exit::Done)
    }
}
