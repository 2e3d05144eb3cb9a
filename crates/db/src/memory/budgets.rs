//! Budgets in memory. Runs without one are never looked at.

use super::{InMemoryDb, Operation, Tables};
use crate::rules;
use outlive_core::port::{
    Access, BUDGET_KEPT, BoxFuture, BudgetAccount, BudgetChange, BudgetFilter, BudgetPage, BudgetRaise, BudgetStep,
    BudgetStore, DbError, StoredBudget,
};
use outlive_core::{BudgetScope, RunId, SessionId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The accounts by their ids, with the session of those that belong to one.
#[derive(Default)]
pub(super) struct Budgets(BTreeMap<Arc<str>, (StoredBudget, Option<SessionId>)>);

impl BudgetStore for InMemoryDb {
    fn budgets(&self, access: Access, filter: BudgetFilter) -> BoxFuture<'_, Result<BudgetPage, DbError>> {
        Box::pin(async move { self.operate(Operation::Budgets, |tables| Ok(tables.list_budgets(&access, &filter))) })
    }

    fn raise_budget(
        &self,
        access: Access,
        raise: BudgetRaise,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBudget>, DbError>> {
        Box::pin(async move { self.operate(Operation::RaiseBudget, |tables| tables.raise_budget(&access, &raise, at)) })
    }
}

impl Tables {
    /// Changes what a commit changes in accounts, or nothing.
    pub(super) fn change_budgets(
        &mut self,
        session_id: &SessionId,
        changes: &[BudgetChange],
        at: Timestamp,
    ) -> Result<(), DbError> {
        let accounts = &mut self.budgets.0;
        let standing = |account: &BudgetAccount| {
            Ok::<_, DbError>(accounts.get(&account.id).map(|(stored, _)| stored.standing).unwrap_or_default())
        };
        let changed = rules::after_changes(changes, standing)?;
        for (account, standing) in changed {
            let is_of_session = matches!(account.per, BudgetScope::Run | BudgetScope::Session);
            let session_id = is_of_session.then(|| session_id.clone());
            let id = account.id.clone();
            let stored = StoredBudget { account: Arc::unwrap_or_clone(account), standing, updated_at: at };
            let is_new_day = stored.account.ends_at.is_some() && !accounts.contains_key(&id);
            accounts.insert(id, (stored, session_id));
            if is_new_day {
                let is_kept = |stored: &StoredBudget| stored.account.ends_at.is_none_or(|end| end + BUDGET_KEPT >= at);
                accounts.retain(|_, (stored, _)| is_kept(stored));
            }
        }
        Ok(())
    }

    fn raise_budget(
        &mut self,
        access: &Access,
        raise: &BudgetRaise,
        at: Timestamp,
    ) -> Result<Option<StoredBudget>, DbError> {
        let found = self.budgets.0.get_mut(&raise.id).map(|(stored, _)| stored);
        let Some(stored) = found.filter(|stored| is_seen(access, &stored.account)) else { return Ok(None) };
        rules::check_raise(raise, stored.standing)?;
        stored.standing.step(BudgetStep::Raise { amount: raise.amount }, stored.account.limit);
        stored.updated_at = at;
        Ok(Some(stored.clone()))
    }

    /// Those of sessions that are gone.
    pub(super) fn delete_budgets(&mut self) {
        let sessions = &self.sessions;
        self.budgets.0.retain(|_, (_, session_id)| session_id.as_ref().is_none_or(|id| sessions.contains_key(id)));
    }

    /// Deletes the accounts of a run that is deleted by itself.
    pub(super) fn delete_budgets_of_run(&mut self, run_id: &RunId) {
        let is_its = |account: &BudgetAccount| account.per == BudgetScope::Run && *account.subject == *run_id.as_str();
        self.budgets.0.retain(|_, (stored, _)| !is_its(&stored.account));
    }

    fn list_budgets(&self, access: &Access, filter: &BudgetFilter) -> BudgetPage {
        let limit = filter.limit();
        let fits = |stored: &&StoredBudget| {
            let account = &stored.account;
            let is = |wanted: &Option<Arc<str>>, text: &Arc<str>| wanted.as_ref().is_none_or(|wanted| wanted == text);
            is_seen(access, account)
                && filter.after.as_ref().is_none_or(|after| account.id > *after)
                && is(&filter.subject, &account.subject)
                && is(&filter.owner, &account.owner)
                && is(&filter.id, &account.id)
                && filter.per.is_none_or(|per| per == account.per)
        };
        let mut budgets: Vec<_> =
            self.budgets.0.values().map(|(stored, _)| stored).filter(fits).take(limit + 1).cloned().collect();
        let has_more = budgets.len() > limit;
        budgets.truncate(limit);
        let next = budgets.last().filter(|_| has_more).map(|last| last.account.id.clone());
        BudgetPage { budgets, next }
    }
}

fn is_seen(access: &Access, account: &BudgetAccount) -> bool {
    access.user().is_none_or(|user_id| account.user_id.as_ref() == Some(user_id))
}
