//! How many connections there are, in all and from each address. It knows no socket.
//!
//! Behind a proxy, whose connections carry many clients, each request counts as its client's for as long as it is
//! answered. The invariant: a [`Slot`] or [`Share`] counts from the moment it is taken until it is dropped, wherever it
//! has been moved to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The connections a server may have.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    count: u32,
    per_address_max: usize,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Slot {
    /// A proxy's connection counts for nobody.
    _share: Option<Share>,
    _free: OwnedSemaphorePermit,
}

/// One of an address.
#[derive(Debug)]
pub(super) struct Share {
    address: IpAddr,
    slots: Arc<Slots>,
}

impl Slots {
    /// `count` in all, at least one.
    pub(super) fn new(count: usize, per_address_max: usize) -> Arc<Self> {
        let count = u32::try_from(count.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let free = Arc::new(Semaphore::new(count as usize));
        Arc::new(Self { free, count, per_address_max, held: Mutex::default() })
    }

    /// Waits for one.
    pub(super) async fn free(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Waits until no connection is left.
    pub(super) async fn all_free(&self) {
        let _all = self.free.acquire_many(self.count).await.expect("the semaphore is never closed");
    }

    /// Gives the free one to an address, unless it has its share.
    pub(super) fn take(self: &Arc<Self>, free: OwnedSemaphorePermit, address: IpAddr) -> Option<Slot> {
        Some(Slot { _share: Some(self.share(address)?), _free: free })
    }

    /// Gives the free one to a proxy.
    pub(super) fn take_for_proxy(free: OwnedSemaphorePermit) -> Slot {
        Slot { _share: None, _free: free }
    }

    /// One more of an address, unless it has its share.
    pub(super) fn share(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        // One client must not count twice because it may come by either protocol.
        let address = address.to_canonical();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= self.per_address_max {
            return None;
        }
        *count += 1;
        Some(Share { address, slots: Arc::clone(self) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_gets_its_share_and_no_more() {
        let slots = Slots::new(10, 1);
        let address = IpAddr::from([192, 0, 2, 1]);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().expect("an address");
        let first = slots.take(slots.free().await, address).expect("the first is within the share");
        assert!(slots.take(slots.free().await, mapped).is_none(), "the same host by another name");
        assert!(slots.take(slots.free().await, IpAddr::from([192, 0, 2, 2])).is_some());
        drop(first);
        assert!(slots.take(slots.free().await, address).is_some());
        slots.all_free().await;
        assert!(slots.held.lock().expect("not poisoned").is_empty(), "addresses that left are forgotten");
    }
}
