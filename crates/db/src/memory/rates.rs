//! Rates in memory: what processes share, where the processes are those of one program.

use super::{InMemoryDb, Operation, Tables};
use crate::shares::{self, Share};
use outlive_core::Timestamp;
use outlive_core::port::{BoxFuture, DbError, RateStore, ShareRequest, ShareReturn, Sharing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The shares of each rate.
#[derive(Default)]
pub(super) struct Rates(BTreeMap<Arc<str>, Vec<Share>>);

impl RateStore for InMemoryDb {
    fn take_share(&self, request: ShareRequest) -> BoxFuture<'_, Result<Sharing, DbError>> {
        Box::pin(async move { self.operate(Operation::TakeShare, |tables| Ok(tables.take_share(&request))) })
    }

    fn return_shares(
        &self,
        key: Arc<str>,
        holder: Arc<str>,
        returned: Vec<ShareReturn>,
    ) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            self.operate(Operation::ReturnShares, |tables| {
                tables.return_shares(&key, &holder, &returned);
                Ok(())
            })
        })
    }
}

impl Tables {
    fn take_share(&mut self, request: &ShareRequest) -> Sharing {
        let (key, holder) = (&request.limit.key, &request.holder);
        self.return_shares(key, holder, &request.returned);
        let (from, to) = shares::times(&request.limit, request.at);
        self.rates.0.values_mut().for_each(|of| of.retain(|share| share.counts_until > from));
        self.rates.0.retain(|_, of| !of.is_empty());
        let of = self.rates.0.entry(key.clone()).or_default();
        of.retain(|share| share.counts_until <= to);
        let decision = shares::decide(of, request);
        of.retain(|share| share.waits_since.is_none() || share.holder != *holder);
        let new = decision.share;
        let is_same = |share: &&mut Share| share.counts_until == new.counts_until && share.holder == new.holder;
        match of.iter_mut().filter(|share| share.waits_since == new.waits_since).find(is_same) {
            Some(known) => {
                known.requests = known.requests.saturating_add(new.requests);
                known.tokens = known.tokens.saturating_add(new.tokens);
            }
            None => of.push(new),
        }
        decision.answer
    }

    fn return_shares(&mut self, key: &Arc<str>, holder: &Arc<str>, returned: &[ShareReturn]) {
        let Some(of) = self.rates.0.get_mut(key) else { return };
        for back in returned {
            let is_it = |share: &Share, until: Timestamp| {
                share.waits_since.is_none() && share.holder == *holder && share.counts_until == until
            };
            if let Some(share) = of.iter_mut().find(|share| is_it(share, back.counts_until)) {
                share.requests = share.requests.saturating_add_signed(back.requests.saturating_neg());
                share.tokens = share.tokens.saturating_add_signed(back.tokens.saturating_neg());
            }
        }
    }
}
