//! A server at an address: how it is asked, and what its failures mean.
//!
//! It must never know what is said. The invariants: no connection is made that the outbound policy refuses; no address and
//! no header stands in a failure.

use super::super::request::header_map;
use super::address;
use crate::http;
use crate::outbound::Outbound;
use outlive_core::{Failure, FailureKind};
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError};
use std::error::Error;
use std::time::SystemTime;

/// The way to a server.
///
/// # Errors
/// When its address or its headers cannot be used here.
pub(super) fn transport(
    url: &str,
    headers: &[(String, String)],
    outbound: &Outbound,
    message_max: usize,
) -> Result<StreamableHttpClientTransport<reqwest::Client>, Failure> {
    let refused = |problem| Failure::new(FailureKind::BadRequest, problem);
    let url = address(url, outbound).map_err(refused)?;
    let headers = header_map(headers).map_err(|problems| refused(problems.join("; ")))?;
    let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
    config.custom_headers = headers.into_iter().filter_map(|(name, value)| Some((name?, value))).collect();
    config.max_sse_event_size = message_max;
    config.max_json_response_size = message_max;
    // Ours for a session that was lost.
    config.reinit_on_expired_session = true;
    Ok(StreamableHttpClientTransport::with_client(outbound.client()?, config))
}

/// What a failure to send means.
pub(super) enum Unsent {
    /// The request has not reached the server, or was not looked at there.
    Untouched(Failure),
    /// It may have been carried out.
    Perhaps(String),
    /// The server has answered, and this is what came of it.
    Answered(Failure),
}

/// Reads a failure of the transport.
pub(super) fn unsent(error: &(dyn Error + 'static)) -> Unsent {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        // A program that does not read any more has read no whole message.
        return Unsent::Untouched(Failure::new(FailureKind::Unavailable, format!("it does not listen any more: {io}")));
    }
    let Some(error) = error.downcast_ref::<StreamableHttpError<reqwest::Error>>() else {
        return Unsent::Perhaps(format!("lost its connection: {}", http::root_cause(error)));
    };
    let answered = |kind, message: String| Unsent::Answered(Failure::new(kind, message));
    match error {
        StreamableHttpError::Client(error) => {
            let cause = http::root_cause(error);
            match error.status().map(|status| status.as_u16()) {
                Some(status) => answered(kind_of(status), format!("answered {status}")),
                None if error.is_connect() || error.is_builder() => {
                    let message = format!("cannot be reached: {cause}");
                    Unsent::Untouched(Failure::new(FailureKind::Unavailable, message))
                }
                None => Unsent::Perhaps(format!("lost its connection: {cause}")),
            }
        }
        StreamableHttpError::HttpStatus(status) => {
            let failure = Failure::new(kind_of(status.status), format!("answered {}", status.status));
            let header = status.retry_after.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            let headers: HeaderMap = header.into_iter().map(|value| (RETRY_AFTER, value)).collect();
            Unsent::Answered(match http::retry_after(&headers, SystemTime::now()) {
                Some(wait) if failure.retryable => failure.retry_after(wait),
                _ => failure,
            })
        }
        StreamableHttpError::AuthRequired(_) => answered(FailureKind::Auth, "asks for credentials (401)".to_owned()),
        StreamableHttpError::InsufficientScope(_) => {
            answered(FailureKind::Auth, "does not accept these credentials for it (403)".to_owned())
        }
        StreamableHttpError::SessionExpired
        | StreamableHttpError::ReinitializationFailed(_)
        | StreamableHttpError::TransportChannelClosed => {
            Unsent::Untouched(Failure::new(FailureKind::Unavailable, "has closed the session"))
        }
        StreamableHttpError::ReservedHeaderConflict(name) => {
            let message = format!("the header {name:?} is the protocol's own: leave it out");
            Unsent::Untouched(Failure::new(FailureKind::BadRequest, message))
        }
        StreamableHttpError::ResponseBodyTooLarge { max_size } => {
            answered(FailureKind::BadResponse, format!("sent an answer of more than {max_size} bytes"))
        }
        StreamableHttpError::UnexpectedContentType(_)
        | StreamableHttpError::Deserialize(_)
        | StreamableHttpError::UnexpectedServerResponse(_)
        | StreamableHttpError::MissingSessionIdInResponse => {
            answered(FailureKind::BadResponse, "sent an answer that is not of the protocol".to_owned())
        }
        _ => Unsent::Perhaps("lost its connection".to_owned()),
    }
}

fn kind_of(status: u16) -> FailureKind {
    match status {
        401 | 403 => FailureKind::Auth,
        408 => FailureKind::Timeout,
        429 => FailureKind::RateLimit,
        425 | 500.. => FailureKind::Unavailable,
        _ => FailureKind::BadRequest,
    }
}
