//! The server from outside.

mod api;
mod audit;
mod auth;
mod bad_http;
mod bad_served;
mod budgets;
mod cancel;
mod door;
mod dropped;
mod given;
mod gone;
mod isolation;
mod metrics;
mod openapi;
mod problem;
mod proxies;
mod questions;
mod recordings;
mod rest;
mod schedules;
mod served;
mod silence;
mod socket;
mod streams;
mod webhooks;
mod wire;
