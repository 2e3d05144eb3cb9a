//! `outlive db`: operations on the whole file, with no other program using it.

use super::size;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::settings::Settings;
use crate::{output, store, style};
use clap::{Args, Subcommand};
use outlive::db::{Migrated, SqliteDb};
use serde_json::json;
use std::path::Path;

/// Take a copy of the database into use, bring it up to date, or make its file smaller
#[derive(Debug, Args)]
pub(crate) struct Database {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Adopt(Adopt),
    Migrate(Migrate),
    Vacuum(Vacuum),
}

/// Take a copy into use: from now on, any server or worker on it resumes its unfinished runs
///
/// For a file made by `outlive backup`, or copied without its log. First make sure that nothing executes the original
/// any more: what its runs have done since the copy was made is not in the copy, and would be done again.
#[derive(Debug, Args)]
struct Adopt {}

/// Bring a file made by an older version to the format of this one
///
/// Opening it to write, as serve and worker do, brings it up to date as well; commands that only read do not. Older
/// versions cannot open it any more, so make a backup with them first. Their unfinished runs go on. No worker of an
/// older version may be using it.
#[derive(Debug, Args)]
struct Migrate {}

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
            Verb::Migrate(Migrate {}) => migrate(&db, &path, global).await,
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

async fn migrate(db: &SqliteDb, path: &Path, global: &Global) -> Result<Exit, Problem> {
    let Migrated { from, to } = db.migrate().await?;
    if global.json {
        output::json(&json!({ "file": path, "format_before": from, "format": to }))?;
    } else if from == to {
        output::line(format_args!("{} has format {to} already; nothing was changed", path.display()))?;
    } else {
        output::line(format_args!("{} has format {to} now, {from} before", path.display()))?;
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
