//! A run's webhook: how far it has got, what the receiver answered, and sending again.

use super::caller::Caller;
use super::query::{self, Query};
use super::{Table, field};
use crate::auth::{Doc, Field, Needs, Routes};
use crate::problem::Problem;
use crate::wire::iso_micros;
use axum::Json;
use axum::extract::Path;
use outlive_core::RunId;
use outlive_core::port::{Delivery, DeliveryOutcome, Hook, HookEvents, HookState};
use outlive_engine::Reader;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const REDELIVER_QUERY: &[Field] = &[field(
    "from",
    "integer",
    false,
    "The first event to send again (default 0); an event not yet sent changes nothing",
)];

pub(super) fn routes() -> Table {
    let doc = |summary| Doc { summary, tag: "api", answer: Some("Webhook"), ..Doc::default() };
    Routes::new()
        .get("/api/runs/{run_id}/webhook", Needs::scope("runs:read"), get)
        .doc(doc("A run's webhook with its last deliveries, newest first"))
        .post("/api/runs/{run_id}/webhook/redeliver", Needs::scope("runs:write"), redeliver)
        .doc(Doc { query: REDELIVER_QUERY, ..doc("Send a run's events again") })
}

/// A run's webhook.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Webhook {
    /// The run.
    run_id: String,
    /// Where its events are posted.
    url: String,
    /// `end`: its last event; `all`: every one.
    #[schemars(extend("enum" = ["end", "all"]))]
    events: &'static str,
    /// `open`: there is something left to send, or will be. `done`: everything was taken. `given_up`: the receiver took
    /// nothing for a day, or said that it is gone.
    #[schemars(extend("enum" = ["open", "done", "given_up"]))]
    state: &'static str,
    /// Nothing before this event will be sent any more.
    next_index: u64,
    /// How often the event at `next_index` has failed.
    failed_attempts: u32,
    /// Since when it has been failing, in RFC 3339.
    failing_since: Option<String>,
    /// While failing: not retried before this.
    next_attempt_at: Option<String>,
    /// The last attempts, newest first.
    deliveries: Vec<WebhookDelivery>,
}

/// One attempt to deliver one event.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct WebhookDelivery {
    /// The event.
    event_index: u64,
    /// From 1.
    attempt: u32,
    /// When it began, in RFC 3339.
    at: String,
    /// How long it took.
    duration_ms: u64,
    /// The HTTP status of the answer.
    status_code: Option<u16>,
    /// If there was no answer: `timeout`, `unreachable` or `url_not_allowed`.
    error: Option<String>,
}

impl Webhook {
    fn new(hook: Hook, deliveries: &[Delivery]) -> Self {
        Self {
            run_id: hook.run_id.to_string(),
            url: hook.url.to_string(),
            events: match hook.events {
                HookEvents::End => "end",
                HookEvents::All => "all",
            },
            state: match hook.state {
                HookState::Open => "open",
                HookState::Done => "done",
                HookState::GivenUp => "given_up",
            },
            next_index: hook.next_index,
            failed_attempts: hook.failing.map_or(0, |failing| failing.attempts),
            failing_since: hook.failing.map(|failing| iso_micros(failing.since)),
            next_attempt_at: hook.not_before.filter(|_| hook.failing.is_some()).map(iso_micros),
            deliveries: deliveries.iter().map(WebhookDelivery::new).collect(),
        }
    }
}

impl WebhookDelivery {
    fn new(delivery: &Delivery) -> Self {
        let (status_code, error) = match &delivery.outcome {
            DeliveryOutcome::Answered(status) => (Some(*status), None),
            DeliveryOutcome::Failed(error) => (None, Some(error.to_string())),
        };
        Self {
            event_index: delivery.event_index,
            attempt: delivery.attempt,
            at: iso_micros(delivery.at),
            duration_ms: u64::try_from(delivery.took.as_millis()).unwrap_or(u64::MAX),
            status_code,
            error,
        }
    }
}

/// The query of `redeliver`.
#[derive(Debug, Default, Deserialize)]
struct RedeliverQuery {
    from: Option<String>,
}

/// `GET /api/runs/{run_id}/webhook`.
async fn get(caller: Caller, Path(run_id): Path<String>) -> Result<Json<Webhook>, Problem> {
    let reader = caller.reader();
    show(&reader, &parse(&run_id)?).await
}

/// `POST /api/runs/{run_id}/webhook/redeliver`.
async fn redeliver(
    caller: Caller,
    Path(run_id): Path<String>,
    Query(query): Query<RedeliverQuery>,
) -> Result<Json<Webhook>, Problem> {
    let from = query::index("from", query.from.as_deref())?.unwrap_or(0);
    let run_id = parse(&run_id)?;
    let engine = caller.engine();
    engine.rewind_hook(&run_id, from).await?.ok_or_else(missing)?;
    if let Some(webhooks) = &caller.state.webhooks {
        webhooks.nudge();
    }
    show(engine.reader(), &run_id).await
}

async fn show(reader: &Reader, run_id: &RunId) -> Result<Json<Webhook>, Problem> {
    let (hook, deliveries) = reader.hook(run_id).await?.ok_or_else(missing)?;
    Ok(Json(Webhook::new(hook, &deliveries)))
}

fn parse(run_id: &str) -> Result<RunId, Problem> {
    RunId::parse(run_id).map_err(|_| missing())
}

/// The same for a run that is not there as for one without a webhook.
fn missing() -> Problem {
    Problem::not_found("Webhook not found")
}
