//! Tests of the stores from outside.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test, like the tests themselves")]

mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;
