//! The OpenTelemetry variables that are handled here; the exporter reads the rest.
//!
//! It must never repeat an address, which may contain a credential.

use reqwest::Url;
use std::time::Duration;

/// How long a request may take by default, according to the specification.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether spans are to be sent.
///
/// # Errors
/// When the environment asks for something unsupported.
pub(super) fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> Result<bool, String> {
    let set = |name: &str| set(&variable, name);
    let either = |name: &str| either(&variable, name);
    let is_off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
    match either("ENDPOINT") {
        Some(address) if !is_off => {
            check(&address).map_err(|problem| format!("OTEL_EXPORTER_OTLP_ENDPOINT {problem}"))?
        }
        Some(_) | None => return Ok(false),
    }
    match either("PROTOCOL").as_deref() {
        None | Some("http/protobuf") => Ok(true),
        Some(other) => Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}: set it to http/protobuf, and the endpoint to the collector's port \
             for that, usually 4318"
        )),
    }
}

/// How long a request to the collector may take.
pub(super) fn timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    let millis = either(&variable, "TIMEOUT").and_then(|value| value.parse().ok());
    millis.map_or(TIMEOUT, Duration::from_millis)
}

/// The value of a non-empty variable.
fn set(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The setting for traces alone, else the one for all signals.
fn either(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let for_traces = set(&variable, &format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
    for_traces.or_else(|| set(&variable, &format!("OTEL_EXPORTER_OTLP_{name}")))
}

/// Whether spans can be sent to this address.
///
/// # Errors
/// What is wrong with it, phrased to follow its name.
pub(super) fn check(address: &str) -> Result<(), &'static str> {
    let is_http = Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if is_http { Ok(()) } else { Err("is not an address: write it like http://127.0.0.1:4318") }
}

#[cfg(test)]
mod tests {
    use super::{is_wanted, timeout};

    fn variables(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn asked(set: &[(&str, &str)]) -> Result<bool, String> {
        is_wanted(variables(set))
    }

    #[test]
    fn the_limit_for_traces_wins_over_the_general_one() {
        let (all, traces) = (("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"), ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500"));
        let limit = |set: &[(&str, &str)]| timeout(variables(set)).as_millis();
        assert_eq!((limit(&[]), limit(&[all]), limit(&[all, traces])), (10_000, 2000, 500));
        assert_eq!(limit(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")]), 10_000);
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn an_endpoint_is_what_turns_traces_on() {
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(false));
        assert_eq!(asked(&[ENDPOINT]), Ok(true));
        assert_eq!(asked(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]), Ok(true));
    }

    #[test]
    fn an_address_that_cannot_be_read_is_said_without_repeating_it() {
        let refused = asked(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "user:hunter2@collector:4318")]).unwrap_err();
        assert_eq!(refused, "OTEL_EXPORTER_OTLP_ENDPOINT is not an address: write it like http://127.0.0.1:4318");
    }

    #[test]
    fn the_sdks_switches_turn_them_off() {
        assert_eq!(asked(&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")]), Ok(false));
        assert_eq!(asked(&[ENDPOINT, ("OTEL_SDK_DISABLED", "false")]), Ok(true));
        assert_eq!(asked(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(false));
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_said_at_once() {
        assert_eq!(asked(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]), Ok(true));
        assert!(asked(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).is_err_and(|text| text.contains("4318")));
        let for_traces = [
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ];
        assert_eq!(asked(&for_traces), Ok(true));
    }
}
