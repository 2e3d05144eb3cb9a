//! Hooks in memory. Runs without one are never looked at.

use super::{InMemoryDb, Operation, Tables};
use crate::rules;
use outlive_core::port::{
    Access, BoxFuture, DELIVERIES_MAX, DbError, Delivery, DueHooks, Hook, HookEvents, HookHistory, HookMove, HookState,
    HookStore, NewHook,
};
use outlive_core::{RunId, Timestamp};
use std::collections::VecDeque;
use std::time::Duration;

/// A hook and its deliveries, the newest first.
pub(super) struct HookRow {
    hook: Hook,
    deliveries: VecDeque<Delivery>,
}

impl HookStore for InMemoryDb {
    fn due_hooks(&self, at: Timestamp, limit: u32) -> BoxFuture<'_, Result<DueHooks, DbError>> {
        Box::pin(async move { self.operate(Operation::DueHooks, |tables| Ok(tables.due_hooks(at, limit))) })
    }

    fn claim_hook(
        &self,
        run_id: RunId,
        at: Timestamp,
        period: Duration,
    ) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        Box::pin(async move { self.operate(Operation::ClaimHook, |tables| Ok(tables.claim_hook(&run_id, at, period))) })
    }

    fn move_hook(&self, step: HookMove) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move { self.operate(Operation::MoveHook, |tables| tables.move_hook(step)) })
    }

    fn hook(&self, access: Access, run_id: RunId) -> BoxFuture<'_, Result<Option<HookHistory>, DbError>> {
        Box::pin(async move { self.operate(Operation::Hook, |tables| Ok(tables.hook(&access, &run_id))) })
    }

    fn rewind_hook(&self, access: Access, run_id: RunId, from: u64) -> BoxFuture<'_, Result<Option<Hook>, DbError>> {
        Box::pin(
            async move { self.operate(Operation::RewindHook, |tables| Ok(tables.rewind_hook(&access, &run_id, from))) },
        )
    }
}

impl Tables {
    pub(super) fn insert_hook(&mut self, seq: u64, run_id: RunId, new: NewHook) {
        let hook = Hook {
            run_id,
            url: new.url,
            events: new.events,
            state: HookState::Open,
            next_index: 0,
            failing: None,
            not_before: None,
            epoch: 0,
        };
        self.hooks.insert(seq, HookRow { hook, deliveries: VecDeque::new() });
        self.open_hooks.insert(seq);
    }

    pub(super) fn delete_hooks(&mut self) {
        let runs = &self.runs;
        self.hooks.retain(|seq, _| runs.contains_key(seq));
        self.open_hooks.retain(|seq| runs.contains_key(seq));
    }

    fn due_hooks(&self, at: Timestamp, limit: u32) -> DueHooks {
        let open = || self.open_hooks.iter().map(|seq| (&self.runs[seq].run, &self.hooks[seq].hook));
        let mut due: Vec<&Hook> = open()
            .filter(|(run, hook)| {
                let is_told = hook.events == HookEvents::All || run.is_at_rest();
                let has_news = is_told && run.next_index > hook.next_index;
                hook.not_before.is_none_or(|until| until <= at) && (run.status.is_terminal() || has_news)
            })
            .map(|(_, hook)| hook)
            .collect();
        due.sort_by_key(|hook| hook.not_before);
        DueHooks {
            run_ids: due.iter().take(limit as usize).map(|hook| hook.run_id.clone()).collect(),
            next_due: open().filter_map(|(_, hook)| hook.not_before.filter(|until| *until > at)).min(),
            has_open: !self.open_hooks.is_empty(),
        }
    }

    fn claim_hook(&mut self, run_id: &RunId, at: Timestamp, period: Duration) -> Option<Hook> {
        let seq = self.run_by_id.get(run_id)?;
        let hook = &mut self.hooks.get_mut(seq)?.hook;
        if hook.state != HookState::Open || hook.not_before.is_some_and(|until| until > at) {
            return None;
        }
        hook.epoch += 1;
        hook.not_before = Some(at + period);
        self.changes += 1;
        Some(hook.clone())
    }

    fn move_hook(&mut self, step: HookMove) -> Result<(), DbError> {
        let missing = || rules::no_run(&step.run_id);
        let seq = *self.run_by_id.get(&step.run_id).ok_or_else(missing)?;
        let row = self.hooks.get_mut(&seq).ok_or_else(missing)?;
        if row.hook.epoch != step.epoch {
            return Err(rules::hook_fenced(&step));
        }
        let hook = &mut row.hook;
        (hook.next_index, hook.failing, hook.state, hook.not_before) =
            (step.next_index, step.failing, step.state, step.not_before);
        if let Some(delivery) = step.delivery {
            row.deliveries.push_front(delivery);
            row.deliveries.truncate(DELIVERIES_MAX);
        }
        if hook.state != HookState::Open {
            self.open_hooks.remove(&seq);
        }
        self.changes += 1;
        Ok(())
    }

    fn hook(&self, access: &Access, run_id: &RunId) -> Option<HookHistory> {
        self.find(access, run_id)?;
        let row = self.hooks.get(self.run_by_id.get(run_id)?)?;
        Some((row.hook.clone(), row.deliveries.iter().cloned().collect()))
    }

    fn rewind_hook(&mut self, access: &Access, run_id: &RunId, from: u64) -> Option<Hook> {
        self.find(access, run_id)?;
        let seq = *self.run_by_id.get(run_id)?;
        let hook = &mut self.hooks.get_mut(&seq)?.hook;
        hook.next_index = hook.next_index.min(from);
        hook.epoch += 1;
        (hook.failing, hook.state, hook.not_before) = (None, HookState::Open, None);
        self.open_hooks.insert(seq);
        self.changes += 1;
        Some(hook.clone())
    }
}
