//! A bounded queue from async callers to one thread: senders wait without blocking, the thread waits without spinning.
//!
//! tokio's own queue has no blocking receive with a timeout, and a blocking queue's send would block an executor; so the
//! bound is a semaphore that senders await, in front of an unbounded queue that can then never hold more than that.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Letters that may wait.
const ROOM: usize = 1024;

enum Letter<T> {
    Work(T),
    Nudge,
}

/// The senders' end.
pub(super) struct Mailbox<T> {
    sender: mpsc::Sender<Letter<T>>,
    room: Arc<Semaphore>,
}

/// The thread's end.
pub(super) struct Inbox<T> {
    receiver: mpsc::Receiver<Letter<T>>,
    room: Arc<Semaphore>,
}

/// What the thread found.
pub(super) enum Mail<T> {
    /// Something to do.
    Work(T),
    /// Nothing: the time is over, or someone nudged.
    Idle,
    /// Every sender is gone and everything was taken.
    Closed,
}

pub(super) fn mailbox<T>() -> (Mailbox<T>, Inbox<T>) {
    let (sender, receiver) = mpsc::channel();
    let room = Arc::new(Semaphore::new(ROOM));
    let inbox = Inbox { receiver, room: room.clone() };
    (Mailbox { sender, room }, inbox)
}

impl<T> Mailbox<T> {
    /// Queues `work`; false when the thread is gone.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was queued.
    pub(super) async fn send(&self, work: T) -> bool {
        match self.room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        self.sender.send(Letter::Work(work)).is_ok()
    }

    /// Makes the thread look up.
    pub(super) fn nudge(&self) {
        // A thread that is gone needs no nudge.
        drop(self.sender.send(Letter::Nudge));
    }
}

impl<T> Inbox<T> {
    /// Waits for work, at most this long if there is a limit.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Mail<T> {
        let letter = match limit {
            Some(limit) => self.receiver.recv_timeout(limit),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match letter {
            Ok(Letter::Work(work)) => {
                self.room.add_permits(1);
                Mail::Work(work)
            }
            Ok(Letter::Nudge) | Err(RecvTimeoutError::Timeout) => Mail::Idle,
            Err(RecvTimeoutError::Disconnected) => Mail::Closed,
        }
    }

    /// How much waits, at least.
    pub(super) fn len(&self) -> usize {
        ROOM.saturating_sub(self.room.available_permits())
    }

    /// Adds what else is there, until `group` has `limit` members.
    pub(super) fn gather(&self, group: &mut Vec<T>, limit: usize) {
        let before = group.len();
        while group.len() < limit {
            match self.receiver.try_recv() {
                Ok(Letter::Work(work)) => group.push(work),
                Ok(Letter::Nudge) => {}
                Err(_) => break,
            }
        }
        self.room.add_permits(group.len() - before);
    }

    /// Adds what arrives, until `group` has `limit` members or nothing has come for `pause`.
    pub(super) fn gather_patiently(&self, group: &mut Vec<T>, limit: usize, pause: Duration) {
        self.gather(group, limit);
        while group.len() < limit
            && let Mail::Work(work) = self.wait(Some(pause))
        {
            group.push(work);
            self.gather(group, limit);
        }
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.room.close();
    }
}
