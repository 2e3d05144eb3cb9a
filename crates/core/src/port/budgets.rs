//! Budgets as a store keeps them: an account for each, with what is reserved and what was spent.
//!
//! A store adds and compares; what is counted, and how much a call may use, it is told. The invariant: what is reserved
//! and spent never passes the limit, whoever reserves at the same time, unless a person has said so for a call.

use super::{Access, BoxFuture, DbError};
use crate::budget::{BudgetScope, BudgetUnit};
use crate::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How long the account of a day is kept after it.
pub const BUDGET_KEPT: Duration = Duration::from_secs(31 * 86_400);

/// What a budget is counted in, for one run, session or user, and one day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetAccount {
    /// Its id: the same for everybody who counts together.
    pub id: Arc<str>,
    /// The workflow whose budget it is, or the name that several share.
    pub owner: Arc<str>,
    /// What is counted.
    pub unit: BudgetUnit,
    /// Whose use.
    pub per: BudgetScope,
    /// Which run, session or user; empty for runs without a user, and for all runs.
    pub subject: Arc<str>,
    /// Which day, as `2026-11-27`.
    pub day: Option<Arc<str>>,
    /// By whose clocks; none is UTC.
    pub time_zone: Option<Arc<str>>,
    /// When that is over.
    pub ends_at: Option<Timestamp>,
    /// Whose it is.
    pub user_id: Option<Arc<str>>,
    /// How much there is. Whoever reserves says it, so that a new limit counts at once.
    pub limit: u64,
}

/// Where an account stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetStanding {
    /// What people have added to the limit.
    pub raised: u64,
    /// What calls may still use that have not ended, or were lost in a crash.
    pub reserved: u64,
    /// What calls that ended have used.
    pub settled: u64,
}

impl BudgetStanding {
    /// Used or reserved.
    pub fn used(self) -> u64 {
        self.reserved.saturating_add(self.settled)
    }

    /// Takes a step, if there is room for it.
    pub fn step(&mut self, step: BudgetStep, limit: u64) -> bool {
        match step {
            BudgetStep::Reserve { amount, is_forced } => {
                let fits = self.used().saturating_add(amount) <= limit.saturating_add(self.raised);
                if fits || is_forced {
                    self.reserved = self.reserved.saturating_add(amount);
                }
                fits || is_forced
            }
            BudgetStep::Settle { reserved, spent } => {
                self.reserved = self.reserved.saturating_sub(reserved);
                self.settled = self.settled.saturating_add(spent);
                true
            }
            BudgetStep::Raise { amount } => {
                self.raised = self.raised.saturating_add(amount);
                true
            }
        }
    }
}

/// What happens to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetStep {
    /// A call is about to leave that may use this much.
    Reserve {
        /// How much.
        amount: u64,
        /// A person has said that it may, whatever is left.
        is_forced: bool,
    },
    /// It has ended.
    Settle {
        /// What was reserved for it.
        reserved: u64,
        /// What it used.
        spent: u64,
    },
    /// A person has added to the limit.
    Raise {
        /// How much.
        amount: u64,
    },
}

/// A step of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetChange {
    /// Which.
    pub account: Arc<BudgetAccount>,
    /// What happens to it.
    pub step: BudgetStep,
}

/// A reservation for which there is no room: why a commit did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Which of the commit's changes, from 0.
    pub change: usize,
    /// Where its account stands.
    pub standing: BudgetStanding,
}

/// An account with what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBudget {
    /// The account; its limit is the one last told.
    pub account: BudgetAccount,
    /// Where it stands.
    pub standing: BudgetStanding,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Which accounts to list. `Default` is the first 50.
#[derive(Clone, Debug, Default)]
pub struct BudgetFilter {
    /// Only those of this run, session or user.
    pub subject: Option<Arc<str>>,
    /// Only those of this workflow, or of the name that several share ([`BudgetAccount::owner`]).
    pub owner: Option<Arc<str>>,
    /// Only those that count the use of a run, a session, a user or of all.
    pub per: Option<BudgetScope>,
    /// Only the one with this id.
    pub id: Option<Arc<str>>,
    /// Continue after the account with this id.
    pub after: Option<Arc<str>>,
    /// At most this many; 0 means 50, the most is 1000.
    pub limit: u32,
}

impl BudgetFilter {
    /// How many.
    pub fn limit(&self) -> usize {
        let limit = if self.limit == 0 { 50 } else { self.limit.min(1000) };
        limit as usize
    }
}

/// What is added to the limit of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRaise {
    /// Which.
    pub id: Arc<str>,
    /// How much, in the unit's whole numbers.
    pub amount: u64,
    /// What people had added before, where the caller has seen that: so the same raise never counts twice.
    pub seen: Option<u64>,
}

/// A page of accounts, by their ids.
#[derive(Clone, Debug, Default)]
pub struct BudgetPage {
    /// The accounts.
    pub budgets: Vec<StoredBudget>,
    /// Where to continue, when there is more.
    pub next: Option<Arc<str>>,
}

/// What budgets have used. They change with [`super::LogStore::commit`].
pub trait BudgetStore: Send + Sync {
    /// Lists accounts: a caller sees those of its user.
    fn budgets(&self, access: Access, filter: BudgetFilter) -> BoxFuture<'_, Result<BudgetPage, DbError>>;

    /// Adds to the limit of an account, and gives what is stored now; none when there is no such account.
    ///
    /// # Errors
    /// `Conflict` when more or less had been added to it than the caller has seen.
    fn raise_budget(
        &self,
        access: Access,
        raise: BudgetRaise,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBudget>, DbError>>;
}
