//! Budgets in SQLite: workflows without one have no row in the table.
//!
//! It must never know what is counted. The invariant: an account changes in the transaction of the commit that changes
//! it, or neither happens.

use super::SqliteDb;
use super::failure::Fail;
use super::reader::Reader;
use super::rows::{self, count, first, int, shown};
use super::tables::Tables;
use crate::rules;
use outlive_core::port::{
    Access, BUDGET_KEPT, BoxFuture, BudgetAccount, BudgetChange, BudgetFilter, BudgetPage, BudgetRaise, BudgetStanding,
    BudgetStep, BudgetStore, DbError, StoredBudget,
};
use outlive_core::{BudgetScope, BudgetUnit, Timestamp};
use rusqlite::{Row, params};

impl BudgetStore for SqliteDb {
    fn budgets(&self, access: Access, filter: BudgetFilter) -> BoxFuture<'_, Result<BudgetPage, DbError>> {
        Box::pin(self.read_with(move |reader| reader.budgets(&access, &filter)))
    }

    fn raise_budget(
        &self,
        access: Access,
        raise: BudgetRaise,
        at: Timestamp,
    ) -> BoxFuture<'_, Result<Option<StoredBudget>, DbError>> {
        Box::pin(self.write(move |tables| tables.raise_budget(&access, &raise, at)))
    }
}

/// The most accounts of days long gone that one commit deletes: it makes no more.
const DELETED_MAX: u32 = 16;

/// The statements.
pub(super) struct BudgetSql {
    standing: String,
    change: String,
    forget: String,
    one: String,
    raise: String,
    list: [String; 6],
}

/// Columns of an account, in the order [`read`] reads them.
const BUDGET: &str = "SELECT account, owner, unit, per, subject, day, ends_at, user_id, amount_max, raised, reserved, \
    settled, updated_at, time_zone FROM {T}_budgets";

impl BudgetSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        let list = |index: &str, range: &str| {
            sql(&format!(
                "{BUDGET} {index} WHERE account > ?1 AND (?2 IS NULL OR user_id = ?2) \
                 AND (?3 IS NULL OR subject = ?3) AND (?4 IS NULL OR owner = ?4) AND (?5 IS NULL OR per = ?5) \
                 AND (?7 IS NULL OR account = ?7) {range} ORDER BY account LIMIT ?6"
            ))
        };
        Self {
            standing: sql("SELECT raised, reserved, settled FROM {T}_budgets WHERE account = ?1"),
            change: sql(
                "INSERT INTO {T}_budgets (account, owner, unit, per, subject, day, ends_at, user_id, session_seq, \
                amount_max, raised, reserved, settled, updated_at, time_zone) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT (account) DO UPDATE SET \
                amount_max = excluded.amount_max, raised = excluded.raised, reserved = excluded.reserved, \
                settled = excluded.settled, updated_at = excluded.updated_at",
            ),
            forget: sql("DELETE FROM {T}_budgets WHERE account IN (SELECT account FROM {T}_budgets \
                INDEXED BY {T}_budgets_ended WHERE ends_at IS NOT NULL AND ends_at < ?1 LIMIT ?2)"),
            one: sql(&format!("{BUDGET} WHERE account = ?1 AND (?2 IS NULL OR user_id = ?2)")),
            raise: sql("UPDATE {T}_budgets SET raised = ?2, updated_at = ?3 WHERE account = ?1"),
            list: [
                list("NOT INDEXED", ""),
                list("INDEXED BY {T}_budgets_by_owner", "AND owner = ?4"),
                list("INDEXED BY {T}_budgets_by_scope", "AND per = ?5 AND per <> 'run'"),
                list("INDEXED BY {T}_budgets_by_user", "AND user_id = ?2"),
                list("INDEXED BY {T}_budgets_by_subject", "AND subject = ?3"),
                list("NOT INDEXED", "AND account = ?7"),
            ],
        }
    }

    fn list(&self, access: &Access, filter: &BudgetFilter) -> &str {
        let [all, of_owner, of_scope, of_user, of_subject, one] = &self.list;
        match filter {
            BudgetFilter { id: Some(_), .. } => one,
            BudgetFilter { subject: Some(_), .. } => of_subject,
            _ if access.user().is_some() => of_user,
            BudgetFilter { per: Some(per), .. } if *per != BudgetScope::Run => of_scope,
            BudgetFilter { owner: Some(_), .. } => of_owner,
            _ => all,
        }
    }
}

fn read(row: &Row<'_>) -> Result<StoredBudget, Fail> {
    let needed = |column: usize| {
        let text = shown(row, column)?;
        text.ok_or_else(|| rows::damaged(format!("column {column} is null")))
    };
    let time = |column: usize| Ok::<_, Fail>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros));
    let amount = |column: usize| count(row.get(column)?);
    let per = match &*needed(3)? {
        "run" => BudgetScope::Run,
        "session" => BudgetScope::Session,
        "user" => BudgetScope::User,
        "all" => BudgetScope::All,
        other => return Err(rows::damaged(format!("it is per {other:?}"))),
    };
    let account = BudgetAccount {
        id: needed(0)?,
        owner: needed(1)?,
        unit: BudgetUnit::from(needed(2)?.to_string()),
        per,
        subject: needed(4)?,
        day: shown(row, 5)?,
        time_zone: shown(row, 13)?,
        ends_at: time(6)?,
        user_id: shown(row, 7)?,
        limit: amount(8)?,
    };
    let standing = BudgetStanding { raised: amount(9)?, reserved: amount(10)?, settled: amount(11)? };
    Ok(StoredBudget { account, standing, updated_at: time(12)?.unwrap_or_default() })
}

impl Tables<'_> {
    /// Changes what a commit changes in accounts, or nothing.
    pub(super) fn change_budgets(&self, session: i64, changes: &[BudgetChange], at: Timestamp) -> Result<(), Fail> {
        let sql = &self.sql().budgets;
        let mut has_new = false;
        let standing = |account: &BudgetAccount| {
            let read = |row: &Row<'_>| {
                let amount = |column: usize| count(row.get(column)?);
                Ok(BudgetStanding { raised: amount(0)?, reserved: amount(1)?, settled: amount(2)? })
            };
            let found = first(self.connection(), &sql.standing, [&*account.id], read);
            let found = found.map_err(|fail| rows::unreadable(&format!("budget {}", account.id), fail))?;
            has_new |= found.is_none() && account.ends_at.is_some();
            Ok::<_, Fail>(found.unwrap_or_default())
        };
        for (account, standing) in rules::after_changes(changes, standing)? {
            let is_of_session = matches!(account.per, BudgetScope::Run | BudgetScope::Session);
            let columns = params![
                &*account.id,
                &*account.owner,
                account.unit.as_str(),
                account.per.as_str(),
                &*account.subject,
                account.day.as_deref(),
                account.ends_at.map(Timestamp::as_micros),
                account.user_id.as_deref(),
                is_of_session.then_some(session),
                int(account.limit),
                int(standing.raised),
                int(standing.reserved),
                int(standing.settled),
                at.as_micros(),
                account.time_zone.as_deref(),
            ];
            self.execute(&sql.change, columns)?;
        }
        // As many go as may come.
        if has_new {
            let kept = i64::try_from(BUDGET_KEPT.as_micros()).unwrap_or(i64::MAX);
            let before = at.as_micros().saturating_sub(kept);
            self.execute(&sql.forget, params![before, DELETED_MAX])?;
        }
        Ok(())
    }
}

impl Tables<'_> {
    fn raise_budget(&self, access: &Access, raise: &BudgetRaise, at: Timestamp) -> Result<Option<StoredBudget>, Fail> {
        let sql = &self.sql().budgets;
        let columns = params![&*raise.id, access.user().map(|user_id| &**user_id)];
        let found = first(self.connection(), &sql.one, columns, read);
        let found = found.map_err(|fail| rows::unreadable(&format!("budget {}", raise.id), fail))?;
        let Some(mut stored) = found else { return Ok(None) };
        rules::check_raise(raise, stored.standing)?;
        stored.standing.step(BudgetStep::Raise { amount: raise.amount }, stored.account.limit);
        stored.updated_at = at;
        self.execute(&sql.raise, params![&*raise.id, int(stored.standing.raised), at.as_micros()])?;
        Ok(Some(stored))
    }
}

impl Reader {
    fn budgets(&self, access: &Access, filter: &BudgetFilter) -> Result<BudgetPage, Fail> {
        let limit = filter.limit();
        let columns = params![
            filter.after.as_deref().unwrap_or_default(),
            access.user().map(|user_id| &**user_id),
            filter.subject.as_deref(),
            filter.owner.as_deref(),
            filter.per.map(BudgetScope::as_str),
            int(limit as u64 + 1),
            filter.id.as_deref(),
        ];
        let mut statement = self.connection.prepare_cached(self.sql.budgets.list(access, filter))?;
        let mut found = statement.query(columns)?;
        let mut page = BudgetPage::default();
        let (mut last, mut taken) = (None, 0);
        while let Some(row) = found.next()? {
            if taken == limit {
                page.next = last;
                break;
            }
            last = shown(row, 0)?;
            taken += 1;
            match read(row).map_err(|fail| rows::unreadable(&format!("budget {last:?}"), fail)) {
                Ok(budget) => page.budgets.push(budget),
                // Others must not wait for it.
                Err(Fail::Said(error)) => tracing::error!(%error, "a budget is left out of a list"),
                Err(fail) => return Err(fail),
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use rusqlite::Connection;

    #[test]
    fn accounts_are_found_by_an_index_and_never_sorted() {
        const TABLE: &str = "outlive_sessions";
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = BudgetSql::new(TABLE);
        let all = [&sql.standing, &sql.forget].into_iter().chain(&sql.list);
        for statement in all {
            let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).expect("good SQL");
            let mut rows = plan.raw_query();
            let mut lines = Vec::new();
            while let Some(row) = rows.next().expect("a plan") {
                lines.push(row.get::<_, String>(3).expect("text"));
            }
            assert!(lines.iter().all(|line| !line.contains("TEMP B-TREE")), "{statement}: {lines:?}");
            let is_found = |line: &String| line.starts_with("SEARCH") || line.starts_with("LIST");
            assert!(lines.iter().all(is_found), "{statement}: {lines:?}");
        }
    }
}
