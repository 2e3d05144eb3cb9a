//! Budgets from outside: where their accounts stand, and raising one without a question.
//!
//! What calls reserve and use goes with the commits of their runs ([`crate::ledger`]). It must never know what is counted.

use crate::engine::Engine;
use crate::error::Error;
use crate::reader::Reader;
use outlive_core::port::{BudgetFilter, BudgetPage, BudgetRaise, DbErrorKind, StoredBudget};
use std::sync::Arc;

impl Reader {
    /// Lists accounts of budgets, by their ids: a restricted reader sees those of its user. An account is there from the
    /// first call on that counts against it.
    ///
    /// # Errors
    /// The store's.
    pub async fn budgets(&self, filter: BudgetFilter) -> Result<BudgetPage, Error> {
        Ok(self.inner.services.db.budgets(self.access.clone(), filter).await?)
    }

    /// The account with this id.
    ///
    /// # Errors
    /// [`Error::BudgetNotFound`], or the store's.
    pub async fn budget(&self, id: &str) -> Result<StoredBudget, Error> {
        let id: Arc<str> = Arc::from(id);
        let filter = BudgetFilter { id: Some(id.clone()), ..BudgetFilter::default() };
        let found = self.budgets(filter).await?.budgets.into_iter().next();
        found.ok_or(Error::BudgetNotFound(id))
    }
}

impl Engine {
    /// Adds to what an account has, and gives it as it stands then. What runs have asked about it stays asked.
    ///
    /// # Cancel safety
    /// Once polled, it is carried out, also when its caller goes away.
    ///
    /// # Errors
    /// [`Error::BudgetNotFound`]; [`Error::BudgetChanged`] when somebody else has added to it since the caller has seen it;
    /// or the store's. Then nothing was added.
    pub async fn raise_budget(&self, raise: BudgetRaise) -> Result<StoredBudget, Error> {
        let (inner, access, id) = (self.inner().clone(), self.access().clone(), raise.id.clone());
        let work = async move { inner.services.db.raise_budget(access, raise, inner.services.clock.now()).await };
        match self.finish(work).await {
            Ok(raised) => raised.ok_or(Error::BudgetNotFound(id)),
            Err(error) if error.kind() == DbErrorKind::Conflict => Err(Error::BudgetChanged(error)),
            Err(error) => Err(error.into()),
        }
    }
}
