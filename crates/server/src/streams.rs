//! How many event streams each caller has open.
//!
//! It knows callers by name only. The invariant: a stream counts from the moment it is taken until it is dropped, wherever
//! it has been moved to, and a caller without streams takes no memory.

use crate::auth::{Principal, PrincipalKind};
use crate::problem::Problem;
use axum::http::StatusCode;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// When to try again: streams end at any time.
const SOON: Duration = Duration::from_secs(1);

/// Who a stream counts against: a user by their id whatever credential they show, else the credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    User(Arc<str>),
    Key(Arc<str>),
    /// Everyone who cannot be told apart.
    Shared,
}

/// The open streams of all callers.
#[derive(Debug)]
pub(crate) struct Streams {
    per_caller_max: usize,
    open: Mutex<HashMap<Owner, usize>>,
}

/// The right to one stream.
#[derive(Debug)]
pub(crate) struct StreamSlot {
    owner: Owner,
    streams: Arc<Streams>,
}

impl Streams {
    /// At most so many for each caller.
    pub(crate) fn new(per_caller_max: usize) -> Arc<Self> {
        Arc::new(Self { per_caller_max, open: Mutex::default() })
    }

    /// One more for this caller.
    ///
    /// # Errors
    /// 429 when they have their share.
    pub(crate) fn take(self: &Arc<Self>, principal: &Principal) -> Result<StreamSlot, Problem> {
        let owner = match (&principal.user_id, &principal.kind) {
            (Some(user_id), _) => Owner::User(user_id.clone()),
            (None, PrincipalKind::Key { id, .. }) => Owner::Key(id.clone()),
            (None, PrincipalKind::Anonymous | PrincipalKind::SecurityKey | PrincipalKind::User) => Owner::Shared,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&owner).copied().unwrap_or(0);
        if count >= self.per_caller_max {
            let detail = format!("{count} streams are open already: end some of them first");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", detail).retry_after(SOON));
        }
        open.insert(owner.clone(), count + 1);
        drop(open);
        Ok(StreamSlot { owner, streams: self.clone() })
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.owner);
            }
        }
    }
}
