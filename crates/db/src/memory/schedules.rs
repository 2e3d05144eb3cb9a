//! Schedules in memory, and the times of them that were taken.

use super::{InMemoryDb, Operation, Tables};
use crate::rules;
use outlive_core::port::{
    Access, BoxFuture, DbError, NewSchedule, NewTick, SCHEDULES_MAX, ScheduleChange, ScheduleFilter, SchedulePage,
    ScheduleStore, StoredSchedule, StoredTick, TICKS_MAX,
};
use outlive_core::{DefinitionId, RunId, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The schedules, numbered in the order in which they were created.
#[derive(Default)]
pub(super) struct Schedules {
    rows: BTreeMap<u64, Row>,
    created: u64,
}

struct Row {
    schedule: StoredSchedule,
    /// By their times.
    ticks: BTreeMap<Timestamp, StoredTick>,
}

impl ScheduleStore for InMemoryDb {
    fn create_schedule(&self, access: Access, schedule: NewSchedule) -> BoxFuture<'_, Result<StoredSchedule, DbError>> {
        Box::pin(
            async move { self.operate(Operation::CreateSchedule, |tables| tables.create_schedule(&access, schedule)) },
        )
    }

    fn schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        let read = move |tables: &mut Tables| Ok(tables.find_schedule(&access, &id).map(|row| row.schedule.clone()));
        Box::pin(async move { self.operate(Operation::Schedule, read) })
    }

    fn schedules(&self, access: Access, filter: ScheduleFilter) -> BoxFuture<'_, Result<SchedulePage, DbError>> {
        Box::pin(async move { self.operate(Operation::Schedules, |tables| tables.list_schedules(&access, &filter)) })
    }

    fn change_schedule(
        &self,
        access: Access,
        id: Arc<str>,
        change: ScheduleChange,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredSchedule>, DbError>> {
        Box::pin(async move {
            let work = |tables: &mut Tables| Ok(tables.change_schedule(&access, &id, change, at));
            self.operate(Operation::ChangeSchedule, work)
        })
    }

    fn delete_schedule(&self, access: Access, id: Arc<str>) -> BoxFuture<'_, Result<bool, DbError>> {
        Box::pin(async move {
            self.operate(Operation::DeleteSchedule, |tables| {
                let found = tables.find_schedule(&access, &id).is_some();
                tables.schedules.rows.retain(|_, row| !found || row.schedule.id != id);
                tables.changes += u64::from(found);
                Ok(found)
            })
        })
    }

    fn tick(&self, tick: NewTick, at: Timestamp) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(async move {
            self.operate(Operation::Tick, |tables| {
                tables.check_due(&tick)?;
                tables.take_tick(&tick, None, at);
                Ok(())
            })
        })
    }

    fn ticks(
        &self,
        access: Access,
        id: Arc<str>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<StoredTick>, DbError>> {
        let read = move |tables: &mut Tables| {
            let Some(row) = tables.find_schedule(&access, &id) else { return Ok(Vec::new()) };
            let ticks = row.ticks.values().rev().filter(|tick| before.is_none_or(|before| tick.due_at < before));
            Ok(ticks.take(limit.min(TICKS_MAX) as usize).cloned().collect())
        };
        Box::pin(async move { self.operate(Operation::Ticks, read) })
    }
}

impl Tables {
    fn find_schedule(&self, access: &Access, id: &str) -> Option<&Row> {
        let row = self.schedules.rows.values().find(|row| *row.schedule.id == *id);
        row.filter(|row| access.sees(row.schedule.user_id.as_deref()))
    }

    fn schedule_row(&mut self, id: &str) -> Option<&mut Row> {
        self.schedules.rows.values_mut().find(|row| *row.schedule.id == *id)
    }

    fn create_schedule(&mut self, access: &Access, new: NewSchedule) -> Result<StoredSchedule, DbError> {
        if !access.sees(new.user_id.as_deref()) {
            return Err(rules::no_schedule(&new.id));
        }
        let own = self.schedules.rows.values_mut().filter(|row| row.schedule.user_id == new.user_id);
        let (mut count, mut named) = (0, None);
        let namespace = rules::schedule_namespace(new.source.as_deref(), &new.workflow_id);
        let is_named = |schedule: &StoredSchedule| {
            let own = rules::schedule_namespace(schedule.source.as_deref(), &schedule.workflow_id);
            schedule.name == new.name && own == namespace
        };
        for row in own {
            count += 1;
            named = Some(row).filter(|row| is_named(&row.schedule)).or(named);
        }
        match named {
            Some(row) if rules::is_same_schedule(&row.schedule, &new) => return Ok(row.schedule.clone()),
            Some(row) if !new.replaces => return Err(rules::schedule_name_taken(&row.schedule)),
            Some(row) => {
                let schedule = &mut row.schedule;
                schedule.next_due = schedule.next_due.map(|_| new.next_due);
                (schedule.workflow_id, schedule.text, schedule.updated_at) = (new.workflow_id, new.text, new.at);
                schedule.source = new.source;
                let schedule = schedule.clone();
                self.changes += 1;
                self.freed(None);
                return Ok(schedule);
            }
            None if count >= SCHEDULES_MAX => return Err(rules::too_many_schedules()),
            None => {}
        }
        let schedule = StoredSchedule {
            id: new.id,
            name: new.name,
            workflow_id: new.workflow_id,
            user_id: new.user_id,
            text: new.text,
            source: new.source,
            next_due: Some(new.next_due),
            last_due: None,
            last_run: None,
            runs: 0,
            created_at: new.at,
            updated_at: new.at,
        };
        self.schedules.created += 1;
        let row = Row { schedule: schedule.clone(), ticks: BTreeMap::new() };
        self.schedules.rows.insert(self.schedules.created, row);
        self.changes += 1;
        self.freed(None);
        Ok(schedule)
    }

    fn list_schedules(&self, access: &Access, filter: &ScheduleFilter) -> Result<SchedulePage, DbError> {
        let from = rules::parse_schedule_cursor(filter)?.map_or(0, |cursor| cursor + 1);
        let fits = |schedule: &StoredSchedule| {
            access.sees(schedule.user_id.as_deref())
                && filter.workflow_id.as_ref().is_none_or(|id| *id == schedule.workflow_id)
                && filter.name.as_ref().is_none_or(|name| *name == schedule.name)
        };
        let all = self.schedules.rows.range(from..).map(|(seq, row)| (*seq, &row.schedule));
        let (mut page, mut last, mut bytes) = (SchedulePage::default(), 0, 0);
        for (seq, schedule) in all.filter(|(_, schedule)| fits(schedule)) {
            if page.schedules.len() == rules::schedule_limit(filter) || bytes > rules::LIST_BYTES_MAX {
                page.next = Some(u64::to_string(&last));
                break;
            }
            last = seq;
            bytes += schedule.text.len();
            page.schedules.push(schedule.clone());
        }
        Ok(page)
    }

    fn change_schedule(
        &mut self,
        access: &Access,
        id: &str,
        change: ScheduleChange,
        at: Timestamp,
    ) -> Option<StoredSchedule> {
        self.find_schedule(access, id)?;
        let schedule = &mut self.schedule_row(id)?.schedule;
        let next_due = match change {
            ScheduleChange::Pause => None,
            ScheduleChange::Resume(next) => schedule.next_due.or(Some(next)),
        };
        if schedule.next_due == next_due {
            return Some(schedule.clone());
        }
        (schedule.next_due, schedule.updated_at) = (next_due, at);
        let schedule = schedule.clone();
        self.changes += 1;
        self.freed(None);
        Some(schedule)
    }

    /// Whether the schedule is due when this says.
    pub(super) fn check_due(&mut self, tick: &NewTick) -> Result<(), DbError> {
        let found = self.schedule_row(&tick.schedule_id);
        let is_due = |row: &&mut Row| tick.expected.is_none() || row.schedule.next_due == tick.expected;
        found.filter(is_due).map(drop).ok_or_else(|| rules::tick_taken(tick))
    }

    /// Takes a time that [`Tables::check_due`] has found to be due.
    pub(super) fn take_tick(&mut self, tick: &NewTick, run_id: Option<&RunId>, at: Timestamp) {
        self.changes += 1;
        let Some(row) = self.schedule_row(&tick.schedule_id) else { return };
        if tick.expected.is_some() {
            (row.schedule.next_due, row.schedule.last_due) = (Some(tick.next_due), Some(tick.due_at));
        }
        let NewTick { due_at, outcome, note, .. } = tick.clone();
        let stored = StoredTick { due_at, at, outcome, run_id: run_id.cloned(), note };
        if row.ticks.contains_key(&due_at) {
            return;
        }
        row.ticks.insert(due_at, stored);
        if row.ticks.len() > TICKS_MAX as usize {
            row.ticks.pop_first();
        }
        if let Some(run_id) = run_id {
            row.schedule.last_run = Some(run_id.clone());
            row.schedule.runs += 1;
        }
    }

    /// Schedules of these workflows that are due, the longest due first, as many as one claim tells and one more; and when
    /// the next one is.
    pub(super) fn due_schedules(
        &self,
        workflows: &[DefinitionId],
        at: Timestamp,
    ) -> (Vec<StoredSchedule>, Option<Timestamp>) {
        let known = self.schedules.rows.values().map(|row| &row.schedule);
        let known = known.filter(|schedule| workflows.contains(&schedule.workflow_id));
        let timed = known.filter_map(|schedule| Some((schedule.next_due?, schedule)));
        let (mut due, later): (Vec<_>, Vec<_>) = timed.partition(|(next_due, _)| *next_due <= at);
        due.sort_by_key(|(next_due, _)| *next_due);
        let due = due.into_iter().take(rules::SCHEDULES_TOLD_MAX + 1).map(|(_, schedule)| schedule.clone());
        (due.collect(), later.into_iter().map(|(next_due, _)| next_due).min())
    }
}
