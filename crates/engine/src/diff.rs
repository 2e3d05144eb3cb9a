//! What becomes of unfinished runs under another definition, told before it is deployed.
//!
//! It executes and changes nothing, and knows no engine. The invariant: whatever it says of a run, an engine with that
//! definition then does, because both fold the run's log in the same way.

use crate::fold::{self, Unreadable};
use outlive_core::machine::{Mismatch, WorkflowMachine};
use outlive_core::port::{Access, Db, DbError, DbErrorKind, Order, Run, RunFilter};
use outlive_core::{RunStatus, Structure};
use std::sync::Arc;

/// An unfinished run, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// The run, as it stands now.
    pub run: Run,
    /// What becomes of it.
    pub outlook: Outlook,
}

/// What becomes of an unfinished run under another definition: of one that is PAUSED, once somebody has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It goes on, or begins.
    GoesOn,
    /// It pauses, because of this difference.
    Pauses(Mismatch),
    /// Somebody wants it cancelled, and it will be.
    IsCancelled,
    /// It cannot be read, and ends ERROR.
    Fails(String),
}

/// Runs listed at a time.
const PAGE: u32 = 200;
const UNFINISHED: [RunStatus; 3] = [RunStatus::Pending, RunStatus::Running, RunStatus::Paused];

/// Says what becomes of each unfinished run of the workflow, oldest first, if this definition is all there is. A run
/// that goes on meanwhile is judged as it stood. Returns those whose rows cannot be read: each error names its run.
///
/// # Cancel safety
/// Safe: nothing is changed.
///
/// # Errors
/// The store's.
pub async fn diff(db: &dyn Db, structure: &Structure, mut tell: impl FnMut(Prospect)) -> Result<Vec<DbError>, DbError> {
    let mut unreadable = Vec::new();
    let mut filter = RunFilter {
        statuses: UNFINISHED.to_vec(),
        workflow_id: Some(structure.id.clone()),
        order: Order::OldestFirst,
        limit: PAGE,
        ..RunFilter::default()
    };
    loop {
        let page = db.runs(Access::All, filter.clone()).await?;
        unreadable.extend(page.unreadable);
        for run in page.runs {
            // With its payload, and as it stands now.
            let run = match db.run(Access::All, run.info.run_id).await {
                Err(error) if error.kind() == DbErrorKind::Unreadable => {
                    unreadable.push(error);
                    continue;
                }
                run => run?,
            };
            if let Some(run) = run.filter(|run| !run.status.is_terminal()) {
                let outlook = outlook(db, &run, structure).await?;
                tell(Prospect { run: Run { input: None, options: None, output: None, ..run }, outlook });
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(unreadable),
        }
    }
}

/// What becomes of a run under this definition.
///
/// # Errors
/// The store's.
async fn outlook(db: &dyn Db, run: &Run, structure: &Structure) -> Result<Outlook, DbError> {
    if run.cancel.is_some() {
        return Ok(Outlook::IsCancelled);
    }
    // Where both were read from a text, a run goes on with its own.
    let accepted = match structure.source {
        Some(_) => db.definition(run.definition.clone()).await?.and_then(|text| Structure::parse(&text).ok()),
        None => None,
    };
    let structure = accepted.as_ref().filter(|accepted| accepted.source.is_some()).unwrap_or(structure);
    let info = Arc::new(run.info.clone());
    let options = run.request_options().map(|options| options.attachments);
    let (input, attachments) = match (run.read_input(), options) {
        (Ok(input), Ok(attachments)) => (input, attachments),
        (Err(error), _) | (_, Err(error)) => return Ok(Outlook::Fails(error.to_string())),
    };
    let nodes = Some(structure.nodes.clone());
    let machine = WorkflowMachine::new(info, nodes, input, attachments, run.created_at);
    let mut machine = machine.with_leader(structure.leader.clone());
    let mut fit = fold::fit(db, run, Some(&structure.hash)).await?;
    let read = fold::read(db, run, |_, entries, _| {
        entries.iter().try_for_each(|entry| fit.apply(&mut machine, entry).map(drop))
    });
    Ok(match read.await?.and_then(|()| fit.end(&machine).map_err(Unreadable::Changed)) {
        Ok(()) => Outlook::GoesOn,
        Err(Unreadable::Changed(mismatch)) => Outlook::Pauses(mismatch),
        Err(Unreadable::Damaged(damaged)) => Outlook::Fails(damaged.to_string()),
    })
}
