//! Streams: a run's log as it grows, and which runs change.

use super::feed::{Changed, Feeds, Follower, News};
use super::{shape, show};
use crate::auth::Access;
use crate::follow::Follow;
use crate::metrics::{Subscriber, Transport};
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use crate::routes::runs::last_event_id;
use crate::sse::{self, KEEP_ALIVE};
use crate::streams::StreamSlot;
use crate::wire::frame::{self, Frame};
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, interval};

/// The query of a run's stream.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AfterQuery {
    after: Option<String>,
}

/// `GET /api/runs/{run_id}/stream`.
pub(super) async fn run(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<AfterQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A browser that comes back asks with the same query as before, and says in the header how far it got.
    let after = match last_event_id(&headers)? {
        Some(index) => Some(index),
        None => query::index("after", query.after.as_deref())?,
    };
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let slot = caller.state.streams.take(&caller.principal)?;
    Ok(sse::log(&caller, slot, Follow::after(&reader, run.info.run_id, after)))
}

/// The query of the lists' stream.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TopicsQuery {
    topics: Option<String>,
}

/// What a caller wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Topics {
    runs: bool,
    workers: bool,
}

impl Topics {
    fn parse(text: Option<&str>) -> Result<Self, Problem> {
        let mut topics = Self::default();
        for word in query::words(text.or(Some("runs"))) {
            match word {
                "runs" => topics.runs = true,
                "workers" => topics.workers = true,
                _ => return Err(unknown_topic()),
            }
        }
        if topics == Self::default() { Err(unknown_topic()) } else { Ok(topics) }
    }
}

fn unknown_topic() -> Problem {
    Problem::field("enum", "query", "topics", "Input should be 'runs', 'workers' or both")
}

/// `GET /api/stream`. The first event is `ready`: lists read after it miss nothing.
pub(super) async fn lists(
    feeds: Arc<Feeds>,
    caller: Caller,
    Query(query): Query<TopicsQuery>,
) -> Result<Response, Problem> {
    let topics = Topics::parse(query.topics.as_deref())?;
    if topics.workers && !caller.principal.scopes.permits("workers", None, "read") {
        let detail = "Insufficient permissions. Required scope(s): workers:read";
        return Err(Problem::new(StatusCode::FORBIDDEN, "insufficient_scope", detail));
    }
    let slot = caller.state.streams.take(&caller.principal)?;
    let follower = feeds.follow(caller.state.engine.reader()).await?;
    // A comment comes with each look at the credential.
    let mut look = interval(KEEP_ALIVE.min(caller.state.limits.recheck_period));
    look.reset();
    let access = caller.principal.access();
    let _subscriber = caller.state.metrics.subscriber(Transport::Sse);
    let telling =
        Telling { follower, topics, access, caller, look, has_begun: false, is_over: false, _slot: slot, _subscriber };
    let frames = futures::stream::unfold(telling, |mut telling| async move {
        let frame = telling.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(frame)), telling))
    });
    Ok(sse::answer(Body::from_stream(frames)))
}

struct Telling {
    follower: Follower,
    topics: Topics,
    access: Access,
    caller: Caller,
    look: Interval,
    has_begun: bool,
    is_over: bool,
    _slot: StreamSlot,
    _subscriber: Subscriber,
}

impl Telling {
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            return Some(notice("ready", &json!({})));
        }
        loop {
            let news = tokio::select! {
                news = self.follower.news.recv() => news,
                _ = self.look.tick() => return Some(self.still_there().await),
                () = self.caller.state.engine.stopped() => return None,
            };
            let told = match news {
                Ok(News::Runs(changed)) if self.topics.runs => self.tell(&changed),
                Ok(News::Workers(count)) if self.topics.workers => notice("workers", &json!({ "count": count })),
                Ok(News::Reset) => notice("reset", &json!({})),
                Err(RecvError::Lagged(_)) => {
                    self.caller.state.metrics.lagged(Transport::Sse);
                    notice("reset", &json!({}))
                }
                Ok(News::Runs(_) | News::Workers(_)) => continue,
                Err(RecvError::Closed) => return None,
            };
            if !told.is_empty() {
                return Some(told);
            }
        }
    }

    /// Only what the caller may see.
    fn tell(&self, changed: &[Changed]) -> String {
        let seen = changed.iter().filter(|run| self.access.sees(run.owner.as_deref()));
        let lines = seen.map(|run| {
            let seq = shape::seq(run.next_index);
            notice("run", &json!({ "run_id": run.run_id, "status": run.status, "seq": seq }))
        });
        lines.collect()
    }

    async fn still_there(&mut self) -> String {
        if !self.caller.is_expired().await {
            return frame::KEEP_ALIVE.to_owned();
        }
        self.is_over = true;
        Frame::notice(json!({ "event": "auth_expired", "error": "the credential has expired" })).sse()
    }
}

fn notice(name: &str, data: &serde_json::Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}
