//! Our span as the OpenTelemetry SDK's type.

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use outlive_core::Timestamp;
use outlive_core::trace::{self, AttributeValue, Span};
use std::time::{Duration, SystemTime};

/// The same span, to be sent.
pub(super) fn of(span: Span) -> SpanData {
    let trace_id = TraceId::from_bytes(span.trace_id.0);
    let span_id = SpanId::from_bytes(span.span_id.0);
    SpanData {
        span_context: SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.0)),
        parent_span_is_remote: false,
        span_kind: match span.kind {
            trace::SpanKind::Internal => SpanKind::Internal,
            trace::SpanKind::Client => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: time(span.start),
        end_time: time(span.end),
        attributes: span.attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        // An error's text may quote a prompt: only its kind is sent.
        status: span.error.map_or(Status::Unset, |error| Status::error(error.to_string())),
        instrumentation_scope: InstrumentationScope::builder("outlive").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

fn attribute(name: &'static str, value: AttributeValue) -> KeyValue {
    match value {
        AttributeValue::Text(text) => KeyValue::new(name, text),
        AttributeValue::Number(number) => KeyValue::new(name, i64::try_from(number).unwrap_or(i64::MAX)),
    }
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.as_micros()).unwrap_or(0))
}
