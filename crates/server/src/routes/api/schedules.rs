//! Schedules: create, list, show, pause, resume, delete, and a run now.
//!
//! Whoever creates one makes runs with it, so the same is asked as for starting them. A schedule belongs to its creator's
//! user, and so do its runs: it never has more rights than that user.

use super::runs::{component, may_run, told};
use super::shape::{CreateSchedule, Schedule, ScheduleList, TickList};
use crate::json::Json as Body;
use crate::names;
use crate::problem::Problem;
use crate::routes::caller::Caller;
use crate::routes::query::{self, Query};
use crate::routes::runs::check_session;
use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use outlive_core::port::{AuditKind, ScheduleFilter, TICKS_MAX};
use outlive_core::{DefinitionId, InvalidId};
use outlive_engine::{CatchUp, Error, Overlap, ScheduleHandle, ScheduleSpec};
use serde::Deserialize;

const LIMIT: u64 = 100;
const LIMIT_MAX: u64 = 1000;

/// The query of a list. Texts, so that what is wrong with one can be said by its name.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ListQuery {
    workflow_id: Option<String>,
    name: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/schedules`.
pub(super) async fn list(caller: Caller, Query(query): Query<ListQuery>) -> Result<Json<ScheduleList>, Problem> {
    let invalid = |error: InvalidId| Problem::field("value_error", "query", "workflow_id", error.to_string());
    let workflow_id = query.workflow_id.as_deref().map(DefinitionId::parse).transpose().map_err(invalid)?;
    let limit = query::number("limit", query.limit.as_deref(), 1, LIMIT_MAX)?.unwrap_or(LIMIT);
    let cursor = query.cursor;
    let filter = ScheduleFilter {
        workflow_id,
        name: query.name.map(Into::into),
        after: cursor.clone(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let page = query::page("query", cursor.as_deref(), caller.reader().schedules(filter).await)?;
    for schedule in &page.schedules {
        caller.sees(schedule.user_id.as_deref(), &schedule.id);
    }
    Ok(Json(ScheduleList { schedules: page.schedules.iter().map(Schedule::new).collect(), next_cursor: page.next }))
}

/// `POST /api/schedules`.
pub(super) async fn create(caller: Caller, Body(body): Body<CreateSchedule>) -> Result<Response, Problem> {
    let component = component(&caller.served, &body.workflow_id)?;
    may_run(&caller, &component.definition.id)?;
    names::ids(&[("session_id", body.session_id.as_deref())])?;
    let engine = caller.engine();
    let user_id = caller.principal.acts_for(body.user_id.as_deref())?.map(str::to_owned);
    if let Some(session_id) = &body.session_id {
        check_session(engine.reader(), component, session_id, user_id.as_deref()).await?;
    }
    let spec = ScheduleSpec {
        time_zone: body.time_zone.unwrap_or_else(|| "UTC".to_owned()),
        input: body.input,
        session_id: body.session_id,
        catch_up: word("catch_up", body.catch_up.as_deref(), &CatchUp::ALL.map(|one| (one.as_str(), one)))?,
        overlap: word("overlap", body.overlap.as_deref(), &Overlap::ALL.map(|one| (one.as_str(), one)))?,
        priority: body.priority,
        concurrency_key: body.concurrency_key,
        ..ScheduleSpec::new(body.cron)
    };
    let create = outlive_engine::CreateSchedule {
        name: body.name,
        user_id,
        replaces: body.replace,
        ..outlive_engine::CreateSchedule::new(spec)
    };
    let schedule = match engine.create_schedule(&component.definition.id, create).await {
        // No idempotency key is in play.
        Err(Error::Conflict(error)) => return Err(error.into()),
        created => created?,
    };
    caller.did(AuditKind::ScheduleChange, "created", &schedule.id);
    let mut response = (StatusCode::CREATED, Json(Schedule::new(&schedule))).into_response();
    if let Ok(place) = HeaderValue::from_str(&format!("/api/schedules/{}", schedule.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// One of these words; without it, the default.
fn word<T: Copy + Default>(name: &str, text: Option<&str>, words: &[(&str, T)]) -> Result<T, Problem> {
    let Some(text) = text else { return Ok(T::default()) };
    let found = words.iter().find(|(word, _)| *word == text);
    let known = || words.iter().map(|(word, _)| format!("'{word}'")).collect::<Vec<_>>().join(", ");
    found
        .map(|(_, one)| *one)
        .ok_or_else(|| Problem::field("enum", "body", name, format!("Input should be one of {}", known())))
}

/// `GET /api/schedules/{schedule_id}`.
pub(super) async fn get(caller: Caller, Path(id): Path<String>) -> Result<Json<Schedule>, Problem> {
    Ok(Json(Schedule::new(&*find(&caller, &id).await?)))
}

/// `POST /api/schedules/{schedule_id}/pause`.
pub(super) async fn pause(caller: Caller, Path(id): Path<String>) -> Result<Json<Schedule>, Problem> {
    let paused = find(&caller, &id).await?.pause().await?;
    caller.did(AuditKind::ScheduleChange, "paused", &paused.id);
    Ok(Json(Schedule::new(&paused)))
}

/// `POST /api/schedules/{schedule_id}/resume`.
pub(super) async fn resume(caller: Caller, Path(id): Path<String>) -> Result<Json<Schedule>, Problem> {
    let found = find(&caller, &id).await?;
    may_run(&caller, &found.workflow_id)?;
    let resumed = found.resume().await?;
    caller.did(AuditKind::ScheduleChange, "resumed", &resumed.id);
    Ok(Json(Schedule::new(&resumed)))
}

/// `POST /api/schedules/{schedule_id}/trigger`.
pub(super) async fn trigger(caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let found = find(&caller, &id).await?;
    may_run(&caller, &found.workflow_id)?;
    let handle = found.trigger().await?;
    caller.did(AuditKind::ScheduleChange, "triggered", &found.id);
    told(&caller.engine(), &handle, None).await
}

/// `DELETE /api/schedules/{schedule_id}`.
pub(super) async fn delete(caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let found = find(&caller, &id).await?;
    found.delete().await?;
    caller.did(AuditKind::ScheduleChange, "deleted", &found.id);
    Ok(StatusCode::NO_CONTENT)
}

/// The query of a schedule's times.
#[derive(Debug, Default, Deserialize)]
pub(super) struct TicksQuery {
    before: Option<String>,
    limit: Option<String>,
}

/// `GET /api/schedules/{schedule_id}/ticks`.
pub(super) async fn ticks(
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<TicksQuery>,
) -> Result<Json<TickList>, Problem> {
    let found = find(&caller, &id).await?;
    let limit = query::number("limit", query.limit.as_deref(), 1, u64::from(TICKS_MAX))?.unwrap_or(LIMIT);
    let before = query::time("before", query.before.as_deref())?;
    let limit = u32::try_from(limit).unwrap_or(TICKS_MAX);
    let ticks = caller.reader().schedule_ticks(&found.id, before, limit).await?;
    Ok(Json(TickList::new(&ticks)))
}

/// The schedule with this id or name, for this caller.
async fn find(caller: &Caller, id: &str) -> Result<ScheduleHandle, Problem> {
    let found = caller.engine().schedule(id).await?;
    caller.sees(found.user_id.as_deref(), &found.id);
    Ok(found)
}
