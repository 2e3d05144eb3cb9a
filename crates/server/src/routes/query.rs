//! Reads query parameters. Each refusal is a 422 that names the parameter and what it should be.

use crate::problem::Problem;
use crate::urlencoded;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use outlive_core::Timestamp;
use outlive_core::port::DbErrorKind;
use outlive_engine::Error;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The parameters as a `T`, whose fields are texts that may be absent: what each of them means is read with the
/// functions below, so that a refusal can name it. Parameters `T` does not know are left alone, and so are lists
/// (`include[]`), whose name may come several times.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::new(StatusCode::BAD_REQUEST, "query_invalid", "Invalid query");
        let pairs = urlencoded::pairs(parts.uri.query().unwrap_or_default().as_bytes()).map_err(|_| malformed())?;
        let mut texts = Map::new();
        for (name, value) in pairs.into_iter().filter(|(name, _)| !name.ends_with("[]")) {
            if texts.contains_key(&name) {
                return Err(Problem::field("multiple_values", "query", &name, "Parameter was given more than once"));
            }
            texts.insert(name, Value::String(value));
        }
        serde_json::from_value(Value::Object(texts)).map(Self).map_err(|_| malformed())
    }
}

/// A whole number between these bounds, both included.
pub(super) fn number(name: &str, text: Option<&str>, min: u64, max: u64) -> Result<Option<u64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let bad =
        || Problem::field("int_range", "query", name, format!("Input should be a whole number from {min} to {max}"));
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = is_plain.then(|| text.parse().ok()).flatten();
    number.filter(|number| (min..=max).contains(number)).map(Some).ok_or_else(bad)
}

/// An index of a run's log. The largest a store can keep bounds it.
pub(super) fn index(name: &str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    number(name, text, 0, i64::MAX.unsigned_abs() - 1)
}

/// A whole number of either sign.
pub(super) fn integer(name: &str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    let bad = |_| Problem::field("int_parsing", "query", name, "Input should be a valid integer");
    text.map(str::parse).transpose().map_err(bad)
}

/// `true` or `false`.
pub(super) fn boolean(name: &str, text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Problem::field("bool_parsing", "query", name, "Input should be 'true' or 'false'")),
    }
}

/// A time: RFC 3339, or seconds since 1970.
pub(super) fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    text.map(|text| instant("query", name, text)).transpose()
}

/// A time in this part of a request.
pub(super) fn instant(part: &'static str, name: &str, text: &str) -> Result<Timestamp, Problem> {
    let seconds = text.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1_000_000));
    let micros = seconds.or_else(|| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond));
    let bad = || Problem::field("datetime_parsing", part, name, "Input should be a time such as 2026-11-23T03:27:47Z");
    micros.map(Timestamp::from_micros).ok_or_else(bad)
}

/// A page of a list that was asked for with this cursor, if with any, in the query or the body.
pub(super) fn page<T>(part: &'static str, cursor: Option<&str>, read: Result<T, Error>) -> Result<T, Problem> {
    match read {
        // What the port says of a cursor that no list gave out.
        Err(Error::Db(error)) if cursor.is_some() && error.kind() == DbErrorKind::Storage => {
            Err(Problem::field("value_error", part, "cursor", "Input should be the next_cursor of such a list"))
        }
        read => Ok(read?),
    }
}

/// The words of a list separated by commas.
pub(super) fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_plain_and_within_its_bounds() {
        assert_eq!(number("limit", Some("7"), 1, 10).expect("fits"), Some(7));
        assert_eq!(number("limit", None, 1, 10).expect("absent"), None);
        for bad in ["", "0", "11", "-1", "+5", "1.0", "1e1", " 7", "99999999999999999999", ";drop"] {
            assert_eq!(number("limit", Some(bad), 1, 10).expect_err(bad).status.as_u16(), 422);
        }
    }

    #[test]
    fn a_time_is_read_in_both_ways() {
        let expected = Some(Timestamp::from_micros(1_795_404_467_000_000));
        assert_eq!(time("created_from", Some("2026-11-23T03:27:47Z")).expect("RFC 3339"), expected);
        assert_eq!(time("created_from", Some("1795404467")).expect("seconds"), expected);
        for bad in ["", "yesterday", "9223372036854775807", "2026-13-01T00:00:00Z"] {
            assert!(time("created_from", Some(bad)).is_err(), "{bad}");
        }
    }
}
