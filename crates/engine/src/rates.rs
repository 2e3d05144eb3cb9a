//! Rates that processes share: takes shares from the store for calls, and gives back what they did not use.
//!
//! It must never know a call or a server. The invariant: what is forgotten here, because somebody went away or the process
//! died, comes back by itself when its time has passed.

use crate::finish::Finish;
use crate::services::Services;
use outlive_core::port::{Admitted, DbError, RateLimit, ShareRequest, Sharing};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// After a store that failed is asked again.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// Lets a call count against a rate, with what this process has of it or takes for it.
///
/// # Errors
/// After which time to ask again.
///
/// # Cancel safety
/// Once begun, taking a share finishes; the next call finds it.
pub(crate) async fn admit(
    services: &Arc<Services>,
    limit: &Arc<RateLimit>,
    tokens: u64,
) -> Result<Option<Admitted>, Duration> {
    let here = || services.shares.admit(limit, tokens, services.clock.now());
    if let Some(admitted) = here() {
        return Ok(Some(admitted));
    }
    Finish::new(&Handle::current(), take(services.clone(), limit.clone(), tokens)).await?;
    // Another call may have been faster.
    here().map(Some).ok_or(limit.part())
}

/// Takes a share.
async fn take(services: Arc<Services>, limit: Arc<RateLimit>, tokens: u64) -> Result<(), Duration> {
    let shares = &services.shares;
    let request = ShareRequest {
        holder: shares.holder(&*services.chance),
        tokens,
        // Not given back when the answer is lost: it may have been, and twice would be too much.
        returned: shares.take_back(&limit.key, true),
        at: services.clock.now(),
        limit: limit.clone(),
    };
    match services.db.take_share(request).await {
        Ok(Sharing::Share(share)) => {
            shares.keep(&limit.key, share);
            Ok(())
        }
        Ok(Sharing::Wait(wait)) => Err(wait),
        Err(error) => {
            tracing::warn!(%error, "a share of a rate could not be taken: calls wait");
            Err(STORE_WAIT)
        }
    }
}

/// Gives back what calls did not use, without waiting for the next.
pub(crate) async fn give_back(services: &Services) -> Result<(), DbError> {
    let shares = &services.shares;
    for key in shares.keys() {
        let back = shares.take_back(&key, false);
        if !back.is_empty() {
            let holder = shares.holder(&*services.chance);
            services.db.return_shares(key, holder, back).await?;
        }
    }
    Ok(())
}
