//! What a run's calls reserve and use, between the journal's commits.
//!
//! Accounts are in the store; this holds what the next commit does to them, and which reservations wait for it. It must
//! never know what a call is. The invariant: a call is reserved for in all budgets or in none, in the commit of its
//! intent.

use crate::zone;
use outlive_core::log::{Entry, Key, Record};
use outlive_core::port::{BudgetAccount, BudgetChange, BudgetStep, OverBudget, Reservation};
use outlive_core::{EventKind, Over, RunInfo, Spend, Spending, Timestamp};
use serde_json::value::to_raw_value;
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run's calls reserve and use.
pub(crate) struct Ledger {
    spending: Arc<Spending>,
    info: Arc<RunInfo>,
    /// What the next commit does, and for which of its reservations.
    steps: Vec<(Option<u64>, BudgetChange)>,
    holds: Vec<Hold>,
    /// What is reserved here for calls that have not ended.
    open: BTreeMap<Key, Vec<(Arc<BudgetAccount>, u64)>>,
    /// What came of reservations, until their callers know.
    decided: BTreeMap<u64, Result<(), Box<Over>>>,
    next: u64,
}

/// A reservation that waits for its commit.
pub(crate) struct Hold {
    number: u64,
    /// The place of its entry among the commit's.
    pub(crate) place: usize,
    key: Key,
    over: Key,
}

/// What one commit does to accounts.
pub(crate) struct Posting {
    steps: Vec<(Option<u64>, BudgetChange)>,
    pub(crate) holds: Vec<Hold>,
    refused: Vec<(u64, Box<Over>)>,
}

impl Ledger {
    pub(crate) fn new(spending: Arc<Spending>, info: Arc<RunInfo>) -> Self {
        Self {
            spending,
            info,
            steps: Vec::new(),
            holds: Vec::new(),
            open: BTreeMap::new(),
            decided: BTreeMap::new(),
            next: 0,
        }
    }

    /// Reserves with the next commit, whose entry at `place` says so. Returns the number under which to ask what came of
    /// it.
    pub(crate) fn reserve(&mut self, call: &Reservation, place: usize, now: Timestamp) -> u64 {
        self.next += 1;
        let number = self.next;
        let mut open = Vec::new();
        for budget in &self.spending.budgets {
            let account = Arc::new(zone::account(budget, &self.info, now));
            let amount = call.spend.of(&budget.unit);
            let step = BudgetStep::Reserve { amount, is_forced: call.forced.contains(&*budget.name()) };
            self.steps.push((Some(number), BudgetChange { account: account.clone(), step }));
            open.push((account, amount));
        }
        // What was reserved for an earlier attempt at it stays spent.
        self.open.insert(call.key.clone(), open);
        self.holds.push(Hold { number, place, key: call.key.clone(), over: call.over.clone() });
        number
    }

    /// A call for which something is reserved here has ended.
    pub(crate) fn settle(&mut self, key: &Key, spent: Spend) {
        for (account, reserved) in self.open.remove(key).into_iter().flatten() {
            let step = BudgetStep::Settle { reserved, spent: spent.of(&account.unit) };
            self.steps.push((None, BudgetChange { account, step }));
        }
    }

    /// People have added to the budget of this name.
    pub(crate) fn raise(&mut self, name: &str, amount: u64, now: Timestamp) {
        let budget = self.spending.budgets.iter().find(|budget| budget.name() == name);
        self.steps.extend(budget.map(|budget| {
            let account = Arc::new(zone::account(budget, &self.info, now));
            (None, BudgetChange { account, step: BudgetStep::Raise { amount } })
        }));
    }

    /// Whether the next commit does something to accounts.
    pub(crate) fn has_steps(&self) -> bool {
        !self.steps.is_empty() || !self.holds.is_empty()
    }

    /// What the commit that begins now does.
    pub(crate) fn post(&mut self) -> Posting {
        let (steps, holds) = (std::mem::take(&mut self.steps), std::mem::take(&mut self.holds));
        Posting { steps, holds, refused: Vec::new() }
    }

    /// The commit is durable.
    pub(crate) fn posted(&mut self, posting: Posting) {
        self.decided.extend(posting.holds.into_iter().map(|hold| (hold.number, Ok(()))));
        self.decided.extend(posting.refused.into_iter().map(|(number, over)| (number, Err(over))));
    }

    /// What came of a reservation, once.
    pub(crate) fn decided(&mut self, number: u64) -> Option<Result<(), Box<Over>>> {
        self.decided.remove(&number)
    }

    /// A reservation has no room: takes it out, and says what is to stand in the place of its entry.
    pub(crate) fn refuse(&mut self, posting: &mut Posting, over: OverBudget, entry: &Entry) -> Option<Entry> {
        let (number, change) = posting.steps.get(over.change)?.clone();
        let at = posting.holds.iter().position(|hold| Some(hold.number) == number)?;
        let hold = posting.holds.remove(at);
        posting.steps.retain(|(of, _)| *of != number);
        // A later reservation of the same call is of a later commit.
        self.open.remove(&hold.key);
        let BudgetStep::Reserve { amount: wanted, .. } = change.step else { return None };
        let account = change.account;
        let budget = self
            .spending
            .budgets
            .iter()
            .find(|budget| zone::account(budget, &self.info, entry_at(entry)).id == account.id);
        let over = Over {
            name: budget.map_or_else(|| account.id.clone(), |budget| Arc::from(budget.name())),
            budget: budget.map_or_else(|| account.id.clone(), |budget| Arc::from(budget.to_string())),
            unit: account.unit.clone(),
            limit: account.limit.saturating_add(over.standing.raised),
            used: over.standing.used(),
            wanted,
        };
        let entry = refusal(&over, hold.over, entry);
        posting.refused.push((hold.number, Box::new(over)));
        Some(entry)
    }
}

impl Posting {
    /// As a store is told.
    pub(crate) fn changes(&self) -> Vec<BudgetChange> {
        self.steps.iter().map(|(_, change)| change.clone()).collect()
    }

    /// Where the entry of the reservation stands that has no room.
    pub(crate) fn place(&self, over: OverBudget) -> Option<usize> {
        let (number, _) = self.steps.get(over.change)?;
        self.holds.iter().find(|hold| Some(hold.number) == *number).map(|hold| hold.place)
    }
}

fn entry_at(entry: &Entry) -> Timestamp {
    entry.at.unwrap_or_default()
}

/// What stands in the log where a call would have begun.
fn refusal(over: &Over, key: Key, instead_of: &Entry) -> Entry {
    let mut fields = Map::new();
    fields.insert("name".into(), json!("BudgetExceeded"));
    fields.insert("budget".into(), json!(over.budget));
    fields.insert("unit".into(), json!(over.unit));
    fields.insert("limit".into(), over.unit.number(over.limit));
    fields.insert("used".into(), over.unit.number(over.used));
    fields.insert("wanted".into(), over.unit.number(over.wanted));
    let value = Arc::from(to_raw_value(over).expect("it is plain data with string keys"));
    let mut entry = instead_of.clone();
    entry.event.kind = EventKind::CustomEvent { fields };
    entry.record = Some(Record::Result { key, value, sleeps: false });
    entry
}
