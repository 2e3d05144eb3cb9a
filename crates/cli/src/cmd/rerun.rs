//! `outlive rerun`: starts a new run with the input of an earlier one, in its session.

use super::run::Detach;
use crate::cli::{Global, RUN_HELP};
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use clap::Args;

/// Start a new run with the input of an earlier one, in its session
///
/// The earlier run stays as it is.
#[derive(Debug, Args)]
pub(crate) struct Rerun {
    #[arg(value_name = "RUN", help = RUN_HELP)]
    run: String,
    #[command(flatten)]
    detach: Detach,
}

impl Rerun {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open_as(self.detach.role(), global).await?;
        let done = async {
            let run_id = runs.find(&self.run).await?.info.run_id;
            let accepted = runs.rerun(&run_id).await?;
            self.detach.go_on(&runs, &accepted, global).await
        };
        let done = done.await;
        runs.close().await?;
        done
    }
}
