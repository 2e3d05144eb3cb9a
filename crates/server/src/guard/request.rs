//! Which request is being answered. The invariant: everything a request's handler says while it is being answered can
//! name the same id that its client reads in `x-request-id`.

use axum::http::{HeaderName, HeaderValue};
use std::future::Future;

/// The header with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: Identity;
}

/// A request's name, and how its errors are written.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id: random, in the form of a UUID. Made here, never taken from the client, so that logs can trust it.
    pub id: String,
    /// In whose shape its errors are written.
    pub errors: Errors,
}

/// A shape of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// Agno's.
    Agno,
    /// That of our own routes below `/api`: Agno's, with code and id in the body too.
    Api,
    /// That of OpenAI's SDKs, below `/v1`.
    OpenAi,
}

impl Errors {
    fn of(path: &str) -> Self {
        let is_below =
            |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match () {
            () if is_below("/api") => Self::Api,
            () if is_below("/v1") => Self::OpenAi,
            () => Self::Agno,
        }
    }
}

impl Identity {
    /// A new id for a request of this path.
    pub(super) fn new(path: &str) -> Self {
        Self { id: random_id(), errors: Errors::of(path) }
    }

    /// The id as a header's value.
    pub(super) fn header(id: &str) -> HeaderValue {
        HeaderValue::from_str(id).expect("an id is hexadecimal digits and dashes")
    }
}

/// The request this task answers, if it does.
pub fn current() -> Option<Identity> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Lets `answering` know which request it answers.
pub(super) fn scope<F: Future>(identity: Identity, answering: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(identity, answering)
}

/// A random UUID (version 4).
fn random_id() -> String {
    const VERSION: u128 = (0xf << 76) | (0b11 << 62);
    let bits = (rand::random::<u128>() & !VERSION) | (0x4 << 76) | (0b10 << 62);
    let digits = format!("{bits:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_looks_like_a_uuid_and_comes_once() {
        let (one, two) = (random_id(), random_id());
        assert_ne!(one, two);
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(&one[14..15], "4");
        assert!(matches!(&one[19..20], "8" | "9" | "a" | "b"), "{one}");
    }

    #[test]
    fn errors_have_the_shape_that_callers_of_a_path_read() {
        for (path, errors) in [
            ("/api", Errors::Api),
            ("/api/runs", Errors::Api),
            ("/apis", Errors::Agno),
            ("/v1/responses", Errors::OpenAi),
            ("/v1", Errors::OpenAi),
            ("/v10", Errors::Agno),
            ("/", Errors::Agno),
        ] {
            assert_eq!(Identity::new(path).errors, errors, "{path}");
        }
    }
}
