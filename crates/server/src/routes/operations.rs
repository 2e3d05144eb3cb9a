//! What operators ask for. It shows numbers and must never show a run, a user or an input.

use super::Table;
use super::caller::Caller;
use crate::auth::{Doc, Needs, Routes};
use crate::metrics::{Seen, Unfinished};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use outlive_core::port::{Clock, DbError};
use outlive_engine::{Engine, SystemClock};

/// The format, as Prometheus names it.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A question about the store must stay cheap however much is in it: no status is counted further.
const COUNTED_MAX: u64 = 1_000;

pub(super) fn routes() -> Table {
    Routes::new().get("/metrics", Needs::scope("metrics:read"), metrics).doc(Doc {
        summary: "Metrics of this process and of the store, for Prometheus",
        tag: "server",
        ..Doc::default()
    })
}

async fn metrics(caller: Caller) -> Response {
    let state = &caller.state;
    // A store that does not answer must not hide the metrics that show why.
    let unfinished =
        unfinished(&state.engine).await.inspect_err(|error| tracing::warn!(%error, "the runs could not be counted"));
    let seen = Seen {
        stats: state.engine.reader().stats(),
        health: state.engine.db().health(),
        unfinished: unfinished.ok(),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
    };
    let text = state.metrics.text(&seen);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

async fn unfinished(engine: &Engine) -> Result<Unfinished, DbError> {
    let found = engine.db().unfinished(COUNTED_MAX).await?;
    let waited = |since| SystemClock.now().since(since).as_secs_f64();
    Ok(Unfinished {
        queued: found.queued,
        running: found.running,
        paused: found.paused,
        oldest_seconds: found.queued_since.map_or(0.0, waited),
    })
}
