//! The statements of the thread that writes: each is compiled once and kept.
//!
//! It must never know what a statement says. The invariant: what is executed is the text that was given.

use super::failure::Fail;
use rusqlite::{Connection, Params, PrepFlags, Row, Statement};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Most texts that are kept: more than there are, unless somebody makes them up.
const KEPT_MAX: usize = 256;

/// Statements of one connection. A cache that is asked by text hashes all of it twice each time, which takes a seventh of
/// the instructions of a short statement.
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    /// By the address of the text.
    kept: RefCell<HashMap<usize, Kept<'c>, BuildHasherDefault<Address>>>,
}

/// Spreads an address. Nobody else chooses them, so that nothing stronger is needed.
#[derive(Default)]
struct Address(u64);

impl Hasher for Address {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        // The golden ratio in 64 bits: nearby addresses differ in the upper bits, which tables look at first.
        let mixed = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Kept<'c> {
    text: Box<str>,
    statement: Statement<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection, kept: RefCell::default() }
    }

    /// Does `work` with the statement.
    pub(super) fn with<T>(
        &self,
        sql: &str,
        work: impl FnOnce(&mut Statement<'c>) -> Result<T, Fail>,
    ) -> Result<T, Fail> {
        let address = sql.as_ptr().addr();
        // Taken out, because `work` may use others. There may be another text at the address by now.
        let known = self.kept.borrow_mut().remove(&address).filter(|kept| *kept.text == *sql);
        let mut kept = match known {
            Some(kept) => kept,
            None => self.compile(sql)?,
        };
        let done = work(&mut kept.statement);
        self.kept.borrow_mut().insert(address, kept);
        done
    }

    fn compile(&self, sql: &str) -> Result<Kept<'c>, Fail> {
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let statement = self.connection.prepare_with_flags(sql, PrepFlags::SQLITE_PREPARE_PERSISTENT)?;
        Ok(Kept { text: sql.into(), statement })
    }

    /// The first row's values, if there is a row.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T, Fail>,
    ) -> Result<Option<T>, Fail> {
        self.with(sql, |statement| statement.query(params)?.next()?.map(read).transpose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(statements: &Statements<'_>, sql: &str) -> i64 {
        let found = statements.first(sql, [], |row| Ok(row.get(0)?)).ok().flatten();
        found.expect("there is a row")
    }

    #[test]
    fn a_text_at_the_address_of_another_is_not_taken_for_it() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let statements = Statements::new(&connection);
        let mut text = String::with_capacity(64);
        for number in [1, 2, 2, 1] {
            text.clear();
            text.push_str(&format!("SELECT {number}"));
            assert_eq!(one(&statements, &text), number);
        }
        // Part of a text begins at its address, too.
        assert_eq!(one(&statements, "SELECT 12"), 12);
        assert_eq!(one(&statements, &"SELECT 12"[..8]), 1);
    }

    #[test]
    fn a_statement_may_use_others_and_itself() {
        let connection = Connection::open_in_memory().expect("memory is there");
        let statements = Statements::new(&connection);
        let sql = "SELECT 1";
        let sum = statements.first(sql, [], |row| Ok(row.get::<_, i64>(0)? + one(&statements, sql))).ok().flatten();
        assert_eq!(sum, Some(2));
        assert!(statements.with("SELECT", |_| Ok(())).is_err());
    }
}
