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
    /// Whether it is one of our own routes below `/api`, whose errors carry code and id in the body too.
    pub is_api: bool,
}

impl Identity {
    /// A new id for a request of this path.
    pub(super) fn new(path: &str) -> Self {
        let is_api = path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        Self { id: random_id(), is_api }
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
    fn only_paths_below_api_are_of_the_api() {
        assert!(Identity::new("/api/runs").is_api);
        assert!(!Identity::new("/apis").is_api);
    }
}
