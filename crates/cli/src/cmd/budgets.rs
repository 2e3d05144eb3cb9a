//! `outlive budgets`: what budgets have left, and more for one of them.

use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::runs::{Role, Runs};
use crate::style::{self, DIM};
use crate::table::{self, Column, KEPT};
use crate::{output, times};
use clap::{Args, Subcommand};
use outlive::BudgetScope;
use outlive::core::port::{BudgetFilter, StoredBudget};
use serde_json::{Value, json};
use std::sync::Arc;

/// How to name an account.
const BUDGET_HELP: &str = "Its id, as outlive budgets ls shows it";

/// Accounts in one page.
const PAGE: u32 = 500;

/// Show what budgets have used and have left, or add to one
///
/// A budget has an account for each run, session or user, and each day, that it counts for, from the first call on.
#[derive(Debug, Args)]
pub(crate) struct Budgets {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Ls(Ls),
    Show(Show),
    Raise(Raise),
}

/// List accounts
#[derive(Debug, Default, Args)]
struct Ls {
    /// Only those of this workflow's own budgets
    #[arg(long, value_name = "WORKFLOW", conflicts_with = "shared")]
    workflow: Option<String>,
    /// Only those that several workflows share under this name
    #[arg(long, value_name = "NAME")]
    shared: Option<String>,
    /// Only those per run, session, user, or all
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    per: Option<BudgetScope>,
    /// Only those of this run, session or user
    #[arg(long, value_name = "ID")]
    of: Option<String>,
}

/// Show an account
#[derive(Debug, Args)]
struct Show {
    #[arg(value_name = "BUDGET", help = BUDGET_HELP)]
    budget: String,
}

/// Add to what an account has; what runs have asked about it stays asked, until somebody answers
#[derive(Debug, Args)]
struct Raise {
    #[arg(value_name = "BUDGET", help = BUDGET_HELP)]
    budget: String,
    /// How much more: money in its currency, tokens or calls
    #[arg(value_name = "AMOUNT", allow_negative_numbers = true)]
    by: String,
}

fn scope(text: &str) -> Result<BudgetScope, String> {
    let found = BudgetScope::ALL.into_iter().find(|one| one.as_str() == text);
    found.ok_or_else(|| format!("write one of {}", BudgetScope::ALL.map(BudgetScope::as_str).join(", ")))
}

impl Budgets {
    pub(crate) async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        match &self.verb {
            None => Ls::default().run(global).await,
            Some(Verb::Ls(ls)) => ls.run(global).await,
            Some(Verb::Show(show)) => show.run(global).await,
            Some(Verb::Raise(raise)) => raise.run(global).await,
        }
    }
}

impl Ls {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let owner = match (&self.workflow, &self.shared) {
            (Some(workflow), _) => Some(Arc::from(super::run::workflow_id(workflow)?.as_str())),
            (None, Some(name)) => Some(Arc::from(format!("shared:{name}"))),
            (None, None) => None,
        };
        let subject = self.of.as_deref().map(Arc::from);
        let mut filter = BudgetFilter { owner, subject, per: self.per, limit: PAGE, ..BudgetFilter::default() };
        let runs = Runs::open(global).await?;
        let mut budgets = Vec::new();
        loop {
            let page = runs.budgets(filter.clone()).await?;
            budgets.extend(page.budgets);
            match page.next {
                Some(next) => filter.after = Some(next),
                None => break,
            }
        }
        if global.json {
            let budgets: Vec<_> = budgets.iter().map(budget_json).collect();
            output::json(&json!({ "budgets": budgets }))?;
            return Ok(Exit::Done);
        }
        if budgets.is_empty() {
            output::note(global, format_args!("no budget in {} has been used", runs.place()));
            return Ok(Exit::Done);
        }
        let rows: Vec<_> = budgets.iter().map(row).collect();
        output::write(table::table(&COLUMNS, &rows, table::width()))?;
        Ok(Exit::Done)
    }
}

const COLUMNS: [Column; 5] = [
    Column { head: "BUDGET", width_min: Some(20), rank: KEPT },
    Column { head: "LIMIT", width_min: None, rank: KEPT },
    Column { head: "USED", width_min: None, rank: KEPT },
    Column { head: "RESERVED", width_min: None, rank: 1 },
    Column { head: "LEFT", width_min: None, rank: KEPT },
];

fn row(stored: &StoredBudget) -> [String; 5] {
    let StoredBudget { account, standing, .. } = stored;
    let show = |amount: u64| account.unit.show(amount);
    [
        style::line(&account.id, 120),
        show(limit(stored)),
        show(standing.settled),
        show(standing.reserved),
        show(left(stored)),
    ]
}

/// With what people have added.
fn limit(stored: &StoredBudget) -> u64 {
    stored.account.limit.saturating_add(stored.standing.raised)
}

fn left(stored: &StoredBudget) -> u64 {
    limit(stored).saturating_sub(stored.standing.used())
}

impl Show {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open(global).await?;
        tell(&runs.budget(&self.budget).await?, global)
    }
}

impl Raise {
    async fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let runs = Runs::open_as(Role::Steers, global).await?;
        let done = self.raise(&runs).await;
        runs.close().await?;
        tell(&done?, global)
    }

    async fn raise(&self, runs: &Runs) -> Result<StoredBudget, Problem> {
        let seen = runs.budget(&self.budget).await?;
        let unit = &seen.account.unit;
        let by = match unit.amount_of(&self.by) {
            Ok(0) => Err("it must be more than 0: a budget can only be raised".to_owned()),
            read => read,
        };
        let by = by.map_err(|problem| {
            let message = format!("{:?} cannot be added to a budget of {}: {problem}", self.by, unit.as_str());
            Problem::new(Exit::Usage, "invalid_amount", message)
        })?;
        runs.raise_budget(&seen, by).await
    }
}

/// Says where an account stands.
fn tell(stored: &StoredBudget, global: &Global) -> Result<Exit, Problem> {
    if global.json {
        output::json(&budget_json(stored))?;
        return Ok(Exit::Done);
    }
    let StoredBudget { account, standing, updated_at } = stored;
    let show = |amount: u64| account.unit.show(amount);
    output::line(style::line(&account.id, 400))?;
    let limit = match standing.raised {
        0 => show(account.limit),
        raised => format!("{} and {} more", show(account.limit), show(raised)),
    };
    output::line(format_args!("  {DIM}limit{DIM:#}     {limit}"))?;
    output::line(format_args!("  {DIM}used{DIM:#}      {}", show(standing.settled)))?;
    output::line(format_args!("  {DIM}reserved{DIM:#}  {}", show(standing.reserved)))?;
    output::line(format_args!("  {DIM}left{DIM:#}      {}", show(left(stored))))?;
    if let (Some(day), Some(ends_at)) = (&account.day, account.ends_at) {
        let zone = style::line(account.time_zone.as_deref().unwrap_or("UTC"), 60);
        output::line(format_args!("  {DIM}day{DIM:#}       {day} in {zone}, until {}", ends_at.to_rfc3339()))?;
    }
    output::line(format_args!("  {DIM}changed{DIM:#}   {}", updated_at.to_rfc3339()))?;
    Ok(Exit::Done)
}

fn budget_json(stored: &StoredBudget) -> Value {
    let StoredBudget { account, standing, updated_at } = stored;
    let number = |amount: u64| account.unit.number(amount);
    let shared = account.owner.strip_prefix("shared:");
    json!({
        "id": account.id,
        "unit": account.unit.as_str(),
        "per": account.per.as_str(),
        "workflow_id": shared.is_none().then_some(&account.owner),
        "shared": shared,
        "subject": Some(&account.subject).filter(|subject| !subject.is_empty()),
        "day": account.day,
        "time_zone": account.day.as_ref().map(|_| account.time_zone.as_deref().unwrap_or("UTC")),
        "ends_at": account.ends_at.map(times::rfc3339),
        "user_id": account.user_id,
        "limit": number(account.limit),
        "raised": number(standing.raised),
        "used": number(standing.settled),
        "reserved": number(standing.reserved),
        "left": number(left(stored)),
        "updated_at": times::rfc3339(*updated_at),
    })
}
