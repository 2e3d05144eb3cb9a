//! Rates in SQLite: a few short rows for each, which go as their time passes.
//!
//! It must never know what a rate is of. The invariant: a share is given out in the transaction that has seen all others.

use super::SqliteDb;
use super::failure::Fail;
use super::rows::{count, int};
use super::tables::Tables;
use crate::shares::{self, Share};
use outlive_core::Timestamp;
use outlive_core::port::{BoxFuture, DbError, RateStore, ShareRequest, ShareReturn, Sharing};
use rusqlite::params;
use std::sync::Arc;

impl RateStore for SqliteDb {
    fn take_share(&self, request: ShareRequest) -> BoxFuture<'_, Result<Sharing, DbError>> {
        Box::pin(self.write(move |tables| tables.take_share(&request)))
    }

    fn return_shares(
        &self,
        key: Arc<str>,
        holder: Arc<str>,
        returned: Vec<ShareReturn>,
    ) -> BoxFuture<'_, Result<(), DbError>> {
        Box::pin(self.write(move |tables| tables.return_shares(&key, &holder, &returned)))
    }
}

/// The statements.
pub(super) struct RateSql {
    forget: String,
    forget_beyond: String,
    all: String,
    put: String,
    leave_line: String,
    give_back: String,
}

impl RateSql {
    /// The statements for this session table, whose name was checked.
    pub(super) fn new(table: &str) -> Self {
        let sql = |text: &str| text.replace("{T}", table);
        Self {
            forget: sql("DELETE FROM {T}_rates INDEXED BY {T}_rates_until WHERE counts_until <= ?1"),
            forget_beyond: sql("DELETE FROM {T}_rates WHERE rate = ?1 AND counts_until > ?2"),
            all: sql("SELECT holder, counts_until, waits_since, requests, tokens FROM {T}_rates WHERE rate = ?1"),
            put: sql("INSERT INTO {T}_rates (rate, holder, counts_until, waits_since, requests, tokens) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (rate, holder, counts_until, waits_since) DO UPDATE SET \
                requests = requests + excluded.requests, tokens = tokens + excluded.tokens"),
            leave_line: sql("DELETE FROM {T}_rates WHERE rate = ?1 AND holder = ?2 AND waits_since <> 0"),
            give_back: sql("UPDATE {T}_rates SET requests = max(0, requests - ?4), tokens = max(0, tokens - ?5) \
                WHERE rate = ?1 AND holder = ?2 AND counts_until = ?3 AND waits_since = 0"),
        }
    }
}

impl Tables<'_> {
    fn take_share(&self, request: &ShareRequest) -> Result<Sharing, Fail> {
        let sql = &self.sql().rates;
        let (key, holder) = (&*request.limit.key, &*request.holder);
        self.return_shares(key, holder, &request.returned)?;
        let (from, to) = shares::times(&request.limit, request.at);
        self.execute(&sql.forget, [from.as_micros()])?;
        self.execute(&sql.forget_beyond, params![key, to.as_micros()])?;
        let shares = self.shares(key)?;
        if shares.iter().any(|share| share.waits_since.is_some() && *share.holder == *holder) {
            self.execute(&sql.leave_line, [key, holder])?;
        }
        let decision = shares::decide(&shares, request);
        let share = decision.share;
        let columns = params![
            key,
            holder,
            share.counts_until.as_micros(),
            share.waits_since.map_or(0, Timestamp::as_micros),
            int(share.requests),
            int(share.tokens),
        ];
        self.execute(&sql.put, columns)?;
        Ok(decision.answer)
    }

    fn shares(&self, key: &str) -> Result<Vec<Share>, Fail> {
        let mut statement = self.connection().prepare_cached(&self.sql().rates.all)?;
        let mut found = statement.query([key])?;
        let mut shares = Vec::new();
        while let Some(row) = found.next()? {
            let waits_since = Some(row.get(2)?).filter(|since| *since != 0).map(Timestamp::from_micros);
            shares.push(Share {
                holder: row.get(0)?,
                counts_until: Timestamp::from_micros(row.get(1)?),
                waits_since,
                requests: count(row.get(3)?)?,
                tokens: count(row.get(4)?)?,
            });
        }
        Ok(shares)
    }

    fn return_shares(&self, key: &str, holder: &str, returned: &[ShareReturn]) -> Result<(), Fail> {
        for back in returned {
            let until = back.counts_until.as_micros();
            self.execute(&self.sql().rates.give_back, params![key, holder, until, back.requests, back.tokens])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::schema;
    use rusqlite::Connection;

    #[test]
    fn shares_are_found_by_an_index() {
        const TABLE: &str = "outlive_sessions";
        let connection = Connection::open_in_memory().expect("memory is there");
        let tables = [schema::create_shared(), schema::create_tables(TABLE, 1)];
        tables.iter().for_each(|sql| connection.execute_batch(sql).expect("the schema is good"));
        let sql = RateSql::new(TABLE);
        for statement in [&sql.forget, &sql.forget_beyond, &sql.all, &sql.leave_line, &sql.give_back] {
            let plan = schema::plan(&connection, "rates", statement);
            assert!(plan.iter().all(|line| line.starts_with("SEARCH")), "{statement}: {plan:?}");
        }
    }
}
