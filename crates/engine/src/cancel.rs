//! Ends a run on request: the request becomes durable first, then whoever executes the run drops it.
//!
//! It must never know who asks. The invariant: a request that is on stable storage is carried out, also when its caller
//! has gone away.

use crate::control::Stop;
use crate::drive;
use crate::error::Error;
use crate::finish::Finish;
use crate::reader::Reader;
use outlive_core::port::{CancelIntent, Cancelled, DbErrorKind};
use outlive_core::{RunId, RunStatus};
use std::sync::Arc;

/// Ends this run, if the reader may see it.
pub(crate) async fn cancel(reader: &Reader, run_id: &RunId, reason: &str) -> Result<Option<RunStatus>, Error> {
    let (reader, run_id, reason) = (reader.clone(), run_id.clone(), Arc::<str>::from(reason));
    let runtime = reader.inner.runtime.clone();
    Finish::new(&runtime, async move { see_to_its_end(&reader, &run_id, reason).await }).await
}

async fn see_to_its_end(reader: &Reader, run_id: &RunId, reason: Arc<str>) -> Result<Option<RunStatus>, Error> {
    let at = reader.inner.services.clock.now();
    let intent = CancelIntent { at, reason };
    let db = &reader.inner.services.db;
    let cancelled = db.request_cancel(reader.access.clone(), run_id.clone(), intent.clone()).await;
    let cancelled = cancelled.map_err(|error| {
        let is_missing = error.kind() == DbErrorKind::NotFound;
        if is_missing { Error::RunNotFound(run_id.clone()) } else { error.into() }
    })?;
    match cancelled {
        Cancelled::Already(status) => return Ok(Some(status)),
        Cancelled::Requested => reader.inner.stop_run(run_id, Stop::Cancel(intent.reason)),
        Cancelled::Unowned => {
            if let Some((run, lease)) = db.claim_run(run_id.clone(), reader.inner.worker(), at).await? {
                drive::start(&reader.inner, run, lease, None, None, false);
            }
        }
    }
    Ok(None)
}
