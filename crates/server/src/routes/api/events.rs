//! A page of a run's log, by index, in either direction.

use super::shape::EventPage;
use super::show;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use crate::wire::frame::Frame;
use axum::Json;
use axum::extract::Path;
use outlive_core::RunEvent;
use outlive_core::port::Run;
use outlive_engine::Reader;
use serde::Deserialize;
use std::collections::BTreeSet;

const LIMIT: u64 = 200;
const LIMIT_MAX: u64 = 1000;
/// Events looked at before a page is given back as it is, so that a filter that nothing fits has an end.
const LOOKED_AT_MAX: u64 = 50_000;

/// The query of a page.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PageQuery {
    after: Option<String>,
    before: Option<String>,
    kind: Option<String>,
    limit: Option<String>,
}

/// `GET /api/runs/{run_id}/events`. Beyond the end of the log there is nothing yet: an empty page.
pub(super) async fn list(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<EventPage>, Problem> {
    let after = query::index("after", query.after.as_deref())?;
    let before = query::index("before", query.before.as_deref())?;
    if after.is_some() && before.is_some() {
        return Err(Problem::field("value_error", "query", "before", "Input should be absent beside 'after'"));
    }
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let kinds = query::words(query.kind.as_deref()).map(str::to_owned).collect();
    let reader = caller.reader();
    let run = show(&caller, &reader, &run_id).await?;
    let look = Look { reader: &reader, run: &run, kinds, limit: usize::try_from(limit).unwrap_or(usize::MAX) };
    let found = match before {
        Some(before) => look.backwards(before.min(run.next_index)).await?,
        None => look.forwards(after.map_or(0, |after| after + 1)).await?,
    };
    let total = run.next_index;
    Ok(Json(EventPage {
        next_after: (found.end < total).then(|| found.end.checked_sub(1)).flatten(),
        previous_before: (found.begin > 0).then(|| found.begin.min(total)),
        events: found.events.into_iter().map(|event| Frame::event(event).value()).collect(),
        total,
    }))
}

struct Look<'a> {
    reader: &'a Reader,
    run: &'a Run,
    kinds: BTreeSet<String>,
    limit: usize,
}

/// Events, and the part of the log that was looked at for them.
struct Found {
    events: Vec<RunEvent>,
    begin: u64,
    end: u64,
}

impl Look<'_> {
    fn fits(&self, event: &RunEvent) -> bool {
        self.kinds.is_empty() || self.kinds.contains(event.name())
    }

    /// Stored events of this part of the log, as far as it was written when the run was read.
    async fn read(&self, begin: u64, end: u64) -> Result<Vec<RunEvent>, Problem> {
        let count = usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX);
        Ok(self.reader.stored_events(&self.run.info.run_id, begin, count).await?)
    }

    async fn forwards(&self, begin: u64) -> Result<Found, Problem> {
        let mut found = Found { events: Vec::new(), begin, end: begin };
        while found.end < self.run.next_index && found.end - begin < LOOKED_AT_MAX {
            let end = self.run.next_index.min(found.end + LIMIT_MAX);
            let window = self.read(found.end, end).await?;
            if window.is_empty() {
                break;
            }
            let is_long = (window.len() as u64) < end - found.end;
            for event in window {
                found.end += 1;
                if self.fits(&event) {
                    found.events.push(event);
                }
                if found.events.len() == self.limit {
                    return Ok(found);
                }
            }
            // What is long is shown in several pages.
            if is_long && !found.events.is_empty() {
                return Ok(found);
            }
        }
        Ok(found)
    }

    async fn backwards(&self, end: u64) -> Result<Found, Problem> {
        let mut found = Found { events: Vec::new(), begin: end, end };
        let mut size = LIMIT_MAX;
        'log: while found.begin > 0 && end - found.begin < LOOKED_AT_MAX {
            let begin = found.begin.saturating_sub(size);
            let window = self.read(begin, found.begin).await?;
            if (window.len() as u64) < found.begin - begin {
                // It is so long that it was cut at its end, which is where to begin.
                if size == 1 {
                    break;
                }
                size = (size / 2).max(1);
                continue;
            }
            for event in window.into_iter().rev() {
                found.begin -= 1;
                if self.fits(&event) {
                    found.events.push(event);
                }
                if found.events.len() == self.limit {
                    break 'log;
                }
            }
            if size < LIMIT_MAX && !found.events.is_empty() {
                break;
            }
        }
        found.events.reverse();
        Ok(found)
    }
}
