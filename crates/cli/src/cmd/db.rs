//! `outlive db`: operations on the whole file, with no other program using it.

use super::size;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::{output, store, style};
use clap::{Args, Subcommand};
use outlive::db::SqliteDb;
use serde_json::json;
use std::path::Path;

/// Take a copy of the database into use, or make its file smaller
#[derive(Debug, Args)]
pub(crate) struct Database {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Adopt(Adopt),
    Vacuum(Vacuum),
}

/// Take a copy into use: from now on, any server or worker on it resumes its unfinished runs
///
/// For a file made by `outlive backup`, or copied without its log. First make sure that nothing executes the original
/// any more: what its runs have done since the copy was made is not in the copy, and would be done again.
#[derive(Debug, Args)]
struct Adopt {}

/// Rewrite the file without deleted data, and let it shrink by itself from now on
///
/// New files return free space while in use; this is for older files, or when it cannot wait. It needs as much space
/// again, and no other program may have the file open.
#[derive(Debug, Args)]
struct Vacuum {}

impl Database {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let path = Settings::load(global)?.db;
        let db = store::existing(&path, global)?;
        match &self.verb {
            Verb::Adopt(Adopt {}) => adopt(&db, &path, global).await,
            Verb::Vacuum(Vacuum {}) => vacuum(&db, &path, global).await,
        }
    }
}

async fn adopt(db: &SqliteDb, path: &Path, global: &Global) -> Result<Exit, Problem> {
    let adopted = db.adopt().await?;
    if global.json {
        let unfinished = adopted.unfinished;
        output::json(&json!({ "file": path, "was_copy": adopted.was_copy, "unfinished_runs": unfinished }))?;
    } else if adopted.was_copy {
        let unfinished = style::counted(usize::try_from(adopted.unfinished).unwrap_or(usize::MAX), "unfinished run");
        output::line(format_args!("{} is in use now; it has {unfinished}", path.display()))?;
    } else {
        output::line(format_args!("{} is not a copy; nothing was changed", path.display()))?;
    }
    Ok(Exit::Done)
}

async fn vacuum(db: &SqliteDb, path: &Path, global: &Global) -> Result<Exit, Problem> {
    let vacuumed = db.vacuum().await?;
    if global.json {
        output::json(&json!({ "file": path, "bytes_before": vacuumed.before, "bytes": vacuumed.after }))?;
    } else {
        output::line(format_args!(
            "{}: {} now, {} before",
            path.display(),
            size(vacuumed.after),
            size(vacuumed.before)
        ))?;
    }
    Ok(Exit::Done)
}
