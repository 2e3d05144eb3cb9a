//! `/api` from outside: lists, reads, starts, streams, and whose things each caller sees.

mod bad;
mod batches;
mod lists;
mod runs;
pub(crate) mod stage;
mod streams;
mod users;
