//! The processes that execute runs.

use super::shape::{Worker, WorkerList};
use crate::problem::Problem;
use crate::routes::caller::Caller;
use axum::Json;

/// `GET /api/workers`.
pub(super) async fn list(caller: Caller) -> Result<Json<WorkerList>, Problem> {
    let workers = caller.reader().workers().await?;
    Ok(Json(WorkerList { workers: workers.iter().map(Worker::new).collect() }))
}
