//! Batches: create, add to, list, show, cancel, try the failed ones again, and what came of each item.
//!
//! Whoever creates one starts runs with it, so the same is asked as for starting them.

use super::bulk::{self, do_to_all};
use super::runs::{component, may_run, statuses};
use super::shape::{AddItems, Batch, BatchList, BulkResult, CancelRun, CreateBatch, Item, ItemList, RetryItems};
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use crate::routes::runs::parse_wait;
use axum::Json;
use axum::body::{Body as Stream, Bytes};
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use outlive_core::port::{AuditKind, BatchFilter, ItemFilter, ItemPage};
use outlive_core::{DefinitionId, InvalidId, RunStatus};
use outlive_engine::{BatchHandle, BatchSpec, Bulk, BulkVerb, Error};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;
/// Where outputs have to be read, of which each may be long.
const CONTENT_MAX: u64 = 50;
/// Items that are tried again at once: each is in a session of its own.
const SIDE_BY_SIDE: usize = 16;
/// The most inputs of one request.
const INPUTS_MAX: usize = 1000;

/// The query of a list. Texts, so that what is wrong with one can be said by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    workflow_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/batches`.
pub(super) async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<BatchList>, Problem> {
    let invalid = |error: InvalidId| Problem::field("value_error", "query", "workflow_id", error.to_string());
    let workflow_id = query.workflow_id.as_deref().map(DefinitionId::parse).transpose().map_err(invalid)?;
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let cursor = query.cursor;
    let filter = BatchFilter { workflow_id, after: cursor.clone(), limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let page = query::page("query", cursor.as_deref(), caller.reader().batches(filter).await)?;
    for batch in &page.batches {
        caller.sees(batch.user_id.as_deref(), &batch.id);
    }
    Ok(Json(BatchList { batches: page.batches.iter().map(Batch::new).collect(), next_cursor: page.next }))
}

/// `POST /api/workflows/{workflow_id}/batches`. The inputs are checked before anything is stored. What is refused later, as
/// when too many runs wait, leaves a batch that takes the rest: its address is in the refusal.
pub(super) async fn create(
    caller: Caller,
    Path(workflow_id): Path<String>,
    Body(body): Body<CreateBatch>,
) -> Result<Response, Problem> {
    let component = component(&caller.served, &workflow_id)?;
    let workflow_id = &component.definition.id;
    may_run(&caller, workflow_id)?;
    names::ids(&[("batch_id", body.batch_id.as_deref())])?;
    check_count(&body.inputs)?;
    let engine = caller.engine();
    let user_id = caller.principal.acts_for(body.user_id.as_deref())?.map(str::to_owned);
    engine.check_inputs(workflow_id, 0, &body.inputs)?;
    let spec =
        BatchSpec { concurrency: body.concurrency, concurrency_key: body.concurrency_key, priority: body.priority };
    let create = outlive_engine::CreateBatch { batch_id: body.batch_id, spec, user_id };
    let batch = match engine.create_batch(workflow_id, create).await {
        // No idempotency key is in play.
        Err(Error::Conflict(error)) => return Err(error.into()),
        created => created?,
    };
    caller.did(AuditKind::BatchChange, "created", &batch.id);
    let place = HeaderValue::from_str(&format!("/api/batches/{}", batch.id)).ok();
    let located = |problem: Problem| match &place {
        Some(place) => problem.header(header::LOCATION, place.clone()),
        None => problem,
    };
    let told = add(&batch, 0, body.inputs, body.complete.unwrap_or(true)).await.map_err(located)?;
    let mut response = (StatusCode::ACCEPTED, Json(told)).into_response();
    if let Some(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

fn check_count(inputs: &[Value]) -> Result<(), Problem> {
    let should = format!("Input should have at most {INPUTS_MAX} items: add the others with further requests");
    let too_many = || Problem::field("too_long", "body", "inputs", should);
    if inputs.len() > INPUTS_MAX { Err(too_many()) } else { Ok(()) }
}

async fn add(batch: &BatchHandle, from: u64, inputs: Vec<Value>, is_complete: bool) -> Result<Batch, Problem> {
    let end = batch.add(from, inputs).await?;
    let standing = if is_complete { batch.complete(end).await } else { batch.progress().await };
    match standing {
        // No idempotency key is in play.
        Err(Error::Conflict(error)) => Err(error.into()),
        standing => Ok(Batch::new(&standing?)),
    }
}

/// `POST /api/batches/{batch_id}/items`.
pub(super) async fn add_items(
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<AddItems>,
) -> Result<(StatusCode, Json<Batch>), Problem> {
    let batch = find(&caller, &id).await?;
    may_run(&caller, &batch.workflow_id)?;
    check_count(&body.inputs)?;
    Ok((StatusCode::ACCEPTED, Json(add(&batch, body.from, body.inputs, body.complete).await?)))
}

/// The query of a batch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct BatchQuery {
    wait: Option<String>,
}

/// `GET /api/batches/{batch_id}`.
pub(super) async fn get(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<BatchQuery>,
) -> Result<Json<Batch>, Problem> {
    let longest = query.wait.as_deref().map(parse_wait).transpose()?;
    let batch = find(&caller, &id).await?;
    let Some(longest) = longest.filter(|_| !batch.is_at_rest()) else { return Ok(Json(Batch::new(&batch))) };
    // At rest or not, what is stored then is the answer.
    let _ = timeout(longest, batch.wait()).await;
    Ok(Json(Batch::new(&batch.progress().await?)))
}

/// `POST /api/batches/{batch_id}/cancel`.
pub(super) async fn cancel(
    caller: Caller,
    Path(id): Path<String>,
    body: Option<Body<CancelRun>>,
) -> Result<Json<Batch>, Problem> {
    let reason = bulk::reason(body.and_then(|Body(body)| body.reason).as_deref())?;
    let batch = find(&caller, &id).await?;
    let cancelled = batch.cancel(&reason).await?;
    caller.did(AuditKind::BatchChange, "cancelled", &batch.id);
    Ok(Json(Batch::new(&cancelled)))
}

/// `POST /api/batches/{batch_id}/retry`.
pub(super) async fn retry(
    caller: Caller,
    Path(id): Path<String>,
    body: Option<Body<RetryItems>>,
) -> Result<Json<BulkResult>, Problem> {
    let RetryItems { cancelled, limit, cursor } = body.map(|Body(body)| body).unwrap_or_default();
    let batch = find(&caller, &id).await?;
    may_run(&caller, &batch.workflow_id)?;
    let statuses = if cancelled { vec![RunStatus::Error, RunStatus::Cancelled] } else { vec![RunStatus::Error] };
    let filter = ItemFilter {
        statuses,
        from: item("body", cursor.as_deref())?,
        limit: bulk::limit(limit)?,
        with_payload: false,
    };
    let ItemPage { items, next, unreadable } = batch.items(filter).await?;
    let runs = items.into_iter().map(|(_, run)| run).collect();
    let runs = do_to_all(&caller, &Bulk::new(BulkVerb::Retry), runs, SIDE_BY_SIDE).await;
    let next_cursor = next.map(|next| next.to_string());
    let unreadable = unreadable.iter().map(|(_, error)| error.to_string()).collect();
    Ok(Json(BulkResult { runs, next_cursor, unreadable }))
}

/// The query of a batch's items.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ItemsQuery {
    status: Option<String>,
    content: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/batches/{batch_id}/items`.
pub(super) async fn items(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ItemsQuery>,
) -> Result<Json<ItemList>, Problem> {
    let has_content = query::boolean("content", query.content.as_deref())?;
    let most = if has_content { CONTENT_MAX } else { LIMIT_MAX };
    let limit = query::number("limit", query.limit.as_deref(), 1, most)?.unwrap_or(LIMIT.min(most));
    let filter = ItemFilter {
        statuses: statuses(query.status.as_deref())?,
        from: item("query", query.cursor.as_deref())?,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        with_payload: has_content,
    };
    let page = find(&caller, &id).await?.items(filter).await?;
    let mut items = Vec::with_capacity(page.items.len());
    for (index, run) in page.items {
        items.push(match has_content {
            true => Item::result(caller.reader().batch_result(index, run).await?),
            false => Item::new(index, &run),
        });
    }
    Ok(Json(ItemList {
        items,
        next_cursor: page.next.map(|next| next.to_string()),
        unreadable: page.unreadable.iter().map(|(_, error)| error.to_string()).collect(),
    }))
}

/// `GET /api/batches/{batch_id}/results`: a line of JSON for each item, in order. They are read as the client takes them;
/// an
/// item whose run was deleted or cannot be read has a line that says so.
pub(super) async fn results(caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let batch = find(&caller, &id).await?;
    let lines = futures::stream::try_unfold(batch.results(), |mut results| async {
        let Some(result) = results.next().await? else { return Ok::<_, Error>(None) };
        let mut line = serde_json::to_vec(&Item::result(result)).expect("an item has string keys only");
        line.push(b'\n');
        Ok(Some((Bytes::from(line), results)))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Stream::from_stream(lines)).into_response())
}

/// The item that a list's cursor stands for.
fn item(part: &'static str, cursor: Option<&str>) -> Result<u64, Problem> {
    let should = "Input should be the next_cursor of a list";
    let bad = || Problem::field("value_error", part, "cursor", should);
    cursor.map_or(Ok(0), |cursor| cursor.parse().map_err(|_| bad()))
}

/// The batch with this id, for this caller.
async fn find(caller: &Caller, id: &str) -> Result<BatchHandle, Problem> {
    let found = caller.engine().batch(id).await?;
    caller.sees(found.user_id.as_deref(), &found.id);
    Ok(found)
}
