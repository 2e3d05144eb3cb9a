//! `outlive rerun`: starts a new run with the input of an earlier one, in its session.

use super::run::Detach;
use super::these::Where;
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::files::Known;
use crate::runs::{Role, Runs};
use clap::Args;
use outlive::engine::{BulkVerb, Fork};

/// Start a new run with the input of an earlier one, in its session
///
/// The earlier run stays as it is. With --where, all that match are started again, and their ids printed.
#[derive(Debug, Args)]
pub(crate) struct Rerun {
    #[arg(value_name = "RUN", required_unless_present = "filters", conflicts_with = "filters", help = RUN_HELP)]
    run: Option<String>,
    #[command(flatten)]
    all: Where,
    /// Say which calls would be made again, or with --where which runs these are, and start nothing
    #[arg(long, visible_alias = "dry-run", conflicts_with = "detach")]
    preview: bool,
    #[command(flatten)]
    detach: Detach,
    #[command(flatten)]
    known: Known,
}

impl Rerun {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let wanted = self.all.wanted()?;
        let role = if self.preview || self.all.is_given() { Role::Accepts } else { self.detach.role() };
        let runs = Runs::open_knowing(role, &self.known, global).await?;
        let done = async {
            let Some(run) = &self.run else {
                return Where::start(&runs, wanted, BulkVerb::Rerun, self.preview, global).await;
            };
            let run_id = runs.find(run).await?.info.run_id;
            if self.preview {
                return super::fork::tell(&runs.preview_fork(&run_id, &Fork::at(0)).await?, global);
            }
            let accepted = runs.rerun(&run_id).await?;
            self.detach.go_on(&runs, &accepted, &self.known.global(global)?).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}
