//! The runs that a command is about: one that is named, or all that match a filter. Doing something to many is told here.

use super::ls::Wanted;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::runs::Runs;
use crate::{output, style, times};
use clap::Args;
use outlive::client::BulkLine;
use outlive::engine::{Bulk, BulkVerb};
use serde_json::{Value, json};

/// All that match, instead of one that is named.
#[derive(Debug, Args)]
pub(super) struct Where {
    /// All runs that match, instead of RUN: status:…, workflow:…, session:…, batch:…, user:…, since:…, as for outlive ls
    #[arg(id = "filters", long = "where", value_name = "FILTER", num_args = 1..)]
    filters: Vec<String>,
}

/// Runs in one page.
const PAGE: u32 = 100;

impl Where {
    pub(super) fn is_given(&self) -> bool {
        !self.filters.is_empty()
    }

    /// Checks the filters before anything is opened.
    pub(super) fn wanted(&self) -> Result<Wanted, Problem> {
        Wanted::parse(&self.filters)
    }

    /// Does it to all that match, or only looks which these are, and tells of each page as `tell` does.
    pub(super) async fn act(
        runs: &Runs,
        wanted: Wanted,
        verb: BulkVerb,
        reason: Option<&str>,
        is_dry_run: bool,
        global: &Global,
        mut tell: impl FnMut(Vec<BulkLine>, &[String]) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let mut bulk: Bulk = wanted.bulk(verb, times::now());
        bulk.filter.limit = PAGE;
        if let Some(reason) = reason {
            bulk.reason = reason.into();
        }
        let mut has_any = false;
        loop {
            let page = runs.bulk(&bulk, is_dry_run).await?;
            has_any |= !page.runs.is_empty();
            tell(page.runs, &page.unreadable)?;
            match page.next {
                Some(next) => bulk.filter.after = Some(next),
                None => break,
            }
        }
        if !has_any {
            output::note(global, format_args!("no such runs in {}", runs.place()));
        }
        Ok(())
    }

    /// Starts a new run for each that matches, or only looks which these are. One that is refused stops no other.
    pub(super) async fn start(
        runs: &Runs,
        wanted: Wanted,
        verb: BulkVerb,
        is_dry_run: bool,
        global: &Global,
    ) -> Result<Exit, Problem> {
        let mut started = Started::default();
        let tell = |lines, unreadable: &[String]| started.tell(lines, unreadable, global);
        Self::act(runs, wanted, verb, None, is_dry_run, global, tell).await?;
        started.end(global)
    }
}

/// New runs, told as they are started.
#[derive(Default)]
pub(super) struct Started {
    shown: Vec<Value>,
    refused: Option<Problem>,
    is_followed: bool,
}

impl Started {
    /// New runs that are followed: what is told is what they come to, not their ids.
    pub(super) fn followed() -> Self {
        Self { is_followed: true, ..Self::default() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.shown.len()
    }

    /// The first that was refused.
    pub(super) fn refused(self) -> Option<Problem> {
        self.refused
    }

    /// Tells the ids of new runs, or of those that match where nothing was started.
    pub(super) fn tell(&mut self, lines: Vec<BulkLine>, unreadable: &[String], global: &Global) -> Result<(), Problem> {
        unreadable.iter().for_each(|problem| output::note(global, problem));
        for line in lines {
            let BulkLine { run_id, outcome, status, new_run_id, error_code, detail } = line;
            match (new_run_id, status) {
                (Some(new), _) => {
                    let is_repeated = outcome == "repeated";
                    if !global.json && !is_repeated && !self.is_followed {
                        output::line(&new)?;
                    }
                    self.shown.push(json!({ "id": new, "of": run_id, "repeated": is_repeated }));
                }
                (None, Some(status)) => {
                    if !global.json {
                        output::line(format_args!("{run_id}  {}", style::status_word(status)))?;
                    }
                    self.shown.push(json!({ "of": run_id, "status": style::status_word(status) }));
                }
                (None, None) => {
                    let message = format!("{run_id}: {}", detail.unwrap_or_else(|| "it was refused".to_owned()));
                    output::note(global, &message);
                    let exit = match error_code.as_deref() {
                        Some("not_found") => Exit::NotFound,
                        Some("insufficient_scope") => Exit::NotAllowed,
                        _ => Exit::WrongState,
                    };
                    let hint = match exit {
                        Exit::NotFound => "where its workflow is in a file, name that: --file FILE",
                        _ => "",
                    };
                    self.refused.get_or_insert(Problem::new(exit, "refused", message).hint(hint));
                }
            }
        }
        Ok(())
    }

    /// The end of it: whether any was refused.
    pub(super) fn end(self, global: &Global) -> Result<Exit, Problem> {
        if global.json {
            output::json(&json!({ "runs": self.shown }))?;
        }
        self.refused.map_or(Ok(Exit::Done), Err)
    }
}
