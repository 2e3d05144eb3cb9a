//! `outlive rerun`: starts a new run with the input of an earlier one, in its session.

use super::run::Detach;
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::runs::{Role, Runs};
use clap::Args;
use outlive::engine::Fork;

/// Start a new run with the input of an earlier one, in its session
///
/// The earlier run stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Rerun {
    #[arg(value_name = "RUN", help = RUN_HELP)]
    run: String,
    /// Say which calls would be made again, and start nothing
    #[arg(long, visible_alias = "dry-run", conflicts_with = "detach")]
    preview: bool,
    #[command(flatten)]
    detach: Detach,
}

impl Rerun {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let role = if self.preview { Role::Accepts } else { self.detach.role() };
        let runs = Runs::open_as(role, global).await?;
        let done = async {
            let run_id = runs.find(&self.run).await?.info.run_id;
            if self.preview {
                return super::fork::tell(&runs.preview_fork(&run_id, &Fork::at(0)).await?, global);
            }
            let accepted = runs.rerun(&run_id).await?;
            self.detach.go_on(&runs, &accepted, global).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}
