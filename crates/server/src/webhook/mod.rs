//! Webhooks: a run's events posted to an address that its caller named, signed, in order, at least once.
//!
//! ```text
//! submit ─ check the address ─► store: hook beside the run ◄─ cursor, log ─┐
//!                                        │ due                             │
//!                                     Sender ─ sign ─► Deliver::post ─► receiver
//! ```
//! It must never know an HTTP client: the server's builder supplies one ([`Deliver`]). The invariant: nothing is posted
//! that is not on stable storage, and the cursor moves only after the receiver has accepted.

mod deliver;
mod sign;

pub(crate) use deliver::Sender;
pub use sign::{InvalidSecret, SigningKey};

use crate::problem::Problem;
use axum::http::StatusCode;
use outlive_core::port::{BoxFuture, HookEvents, NewHook};
use std::sync::Arc;
use tokio::sync::Notify;

/// The longest address, in bytes.
const URL_BYTES_MAX: usize = 2048;

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverError {
    /// The address is not allowed, or its name resolves to one that is not.
    NotAllowed,
    /// No answer within the time.
    Timeout,
    /// No connection, or it broke.
    Unreachable,
}

impl DeliverError {
    /// For programs, in the log of deliveries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "url_not_allowed",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Posts messages. It follows no redirects, sends no credentials, and posts to no address that it would refuse.
pub trait Deliver: Send + Sync + 'static {
    /// Whether this address may be posted to, as far as that can be told without a name lookup.
    ///
    /// # Errors
    /// What is wrong with it, in words for the person who gave the address.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Posts `body`, JSON, with these headers in addition to every request's, and returns the answer's status.
    ///
    /// # Cancel safety
    /// After a drop the message may or may not have arrived.
    ///
    /// # Errors
    /// Why there was no answer.
    fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: String,
    ) -> BoxFuture<'_, Result<u16, DeliverError>>;
}

/// What sending needs.
pub(crate) struct Webhooks {
    key: SigningKey,
    deliver: Arc<dyn Deliver>,
    /// There is something new to send.
    nudge: Notify,
}

/// What a caller asks for, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) url: Option<String>,
    pub(crate) events: Option<String>,
}

impl Webhooks {
    pub(crate) fn new(key: SigningKey, deliver: Arc<dyn Deliver>) -> Self {
        Self { key, deliver, nudge: Notify::new() }
    }

    /// Has the sender look at once.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

impl Ask {
    /// The hook for a run; `None` when none is requested. `webhooks` is absent on a server that sends none.
    ///
    /// # Errors
    /// 422 that names the field and the remedy.
    pub(crate) fn accept(self, webhooks: Option<&Webhooks>) -> Result<Option<NewHook>, Problem> {
        let Some(url) = self.url else {
            let msg = "Input should be absent without 'webhook_url'";
            return self.events.map_or(Ok(None), |_| Err(wrong("webhook_events", msg)));
        };
        let events = match self.events.as_deref() {
            None | Some("end") => HookEvents::End,
            Some("all") => HookEvents::All,
            Some(_) => return Err(wrong("webhook_events", "Input should be 'end' or 'all'")),
        };
        let Some(webhooks) = webhooks else {
            let detail = "This server sends no webhooks: set its webhook secret (OUTLIVE_WEBHOOK_SECRET), or leave \
                          webhook_url out";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "webhooks_off", detail));
        };
        if url.len() > URL_BYTES_MAX {
            return Err(wrong("webhook_url", &format!("Input should have at most {URL_BYTES_MAX} bytes")));
        }
        webhooks
            .deliver
            .check(&url)
            .map_err(|problem| Problem { code: "url_not_allowed", ..wrong("webhook_url", &problem) })?;
        Ok(Some(NewHook { url: Arc::from(url), events }))
    }
}

fn wrong(field: &str, msg: &str) -> Problem {
    Problem::field("value_error", "body", field, msg)
}
