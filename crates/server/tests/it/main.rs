//! The server from outside.

mod problem;
