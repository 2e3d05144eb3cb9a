//! A bounded queue from async callers to one thread: senders wait without blocking, the thread waits without spinning,
//! and is woken when there is enough to do, not by each letter: waking a thread costs more than most letters are worth.
//!
//! The bound is a semaphore that senders await. The invariant: whatever was sent is taken by the thread, or dropped
//! when the thread ends.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Letters that may wait.
const ROOM: usize = 1024;

/// The sending end.
pub(super) struct Mailbox<T>(Arc<Shared<T>>);

/// The thread's end of it.
pub(super) struct Inbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    room: Semaphore,
    state: Mutex<State<T>>,
    bell: Condvar,
}

struct State<T> {
    letters: VecDeque<T>,
    /// The thread sleeps until there are this many letters.
    sleeps_for: Option<usize>,
    is_nudged: bool,
    has_senders: bool,
    has_thread: bool,
}

/// What the thread found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mail {
    /// Something to do.
    Work,
    /// Nothing: the time is up, or someone nudged.
    Idle,
    /// Every sender is gone and everything has been taken.
    Closed,
}

pub(super) fn mailbox<T>() -> (Mailbox<T>, Inbox<T>) {
    let state =
        State { letters: VecDeque::new(), sleeps_for: None, is_nudged: false, has_senders: true, has_thread: true };
    let shared = Arc::new(Shared { room: Semaphore::new(ROOM), state: Mutex::new(state), bell: Condvar::new() });
    (Mailbox(shared.clone()), Inbox(shared))
}

impl<T> Mailbox<T> {
    /// Queues `letter`; false when the thread is gone.
    ///
    /// # Cancel safety
    /// If dropped before it is ready, nothing was queued.
    pub(super) async fn send(&self, letter: T) -> bool {
        match self.0.room.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return false,
        }
        let mut state = self.0.lock();
        if !state.has_thread {
            return false;
        }
        state.letters.push_back(letter);
        let is_enough = state.sleeps_for.is_some_and(|count| state.letters.len() >= count);
        self.0.wake(state, is_enough);
        true
    }

    /// Wakes the thread.
    pub(super) fn nudge(&self) {
        let mut state = self.0.lock();
        state.is_nudged = true;
        self.0.wake(state, true);
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.has_senders = false;
        self.0.wake(state, true);
    }
}

impl<T> Inbox<T> {
    /// Waits for work, at most this long if there is a limit.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Mail {
        let mut state = self.0.lock();
        let mut has_slept = false;
        loop {
            if !state.letters.is_empty() {
                return Mail::Work;
            }
            if std::mem::take(&mut state.is_nudged) || (has_slept && limit.is_some()) {
                return Mail::Idle;
            }
            if !state.has_senders {
                return Mail::Closed;
            }
            state = self.0.sleep(state, 1, limit);
            has_slept = true;
        }
    }

    /// Waits until there are `count` letters, or none has come for `pause`.
    pub(super) fn wait_for(&self, count: usize, pause: Duration) {
        let mut state = self.0.lock();
        let mut before = None;
        while state.letters.len() < count && state.has_senders && before != Some(state.letters.len()) {
            before = Some(state.letters.len());
            state = self.0.sleep(state, count, Some(pause));
        }
    }

    /// How many letters wait.
    pub(super) fn len(&self) -> usize {
        self.0.lock().letters.len()
    }

    /// Takes the oldest letters, at most `limit`.
    pub(super) fn take(&self, limit: usize) -> Vec<T> {
        let mut state = self.0.lock();
        let count = limit.min(state.letters.len());
        let taken = state.letters.drain(..count).collect();
        drop(state);
        self.0.room.add_permits(count);
        taken
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        self.0.room.close();
        let mut state = self.0.lock();
        state.has_thread = false;
        let letters = std::mem::take(&mut state.letters);
        drop(state);
        drop(letters);
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread, if it sleeps and should not.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>, is_due: bool) {
        let wakes = is_due && state.sleeps_for.take().is_some();
        // The lock first, because the waker needs it.
        drop(state);
        if wakes {
            self.bell.notify_one();
        }
    }

    /// Sleeps until there are `count` letters, someone nudges, the senders are gone or the time is up. May wake early.
    fn sleep<'a>(
        &self,
        mut state: MutexGuard<'a, State<T>>,
        count: usize,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State<T>> {
        state.sleeps_for = Some(count);
        let mut state = match limit {
            Some(limit) => {
                let woken = self.bell.wait_timeout(state, limit);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.sleeps_for = None;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use tokio::runtime::Builder;

    fn send(mailbox: &Mailbox<u32>, letters: impl IntoIterator<Item = u32>) {
        let runtime = Builder::new_current_thread().build().expect("a runtime starts");
        letters.into_iter().for_each(|letter| assert!(runtime.block_on(mailbox.send(letter))));
    }

    #[test]
    fn letters_come_in_order_in_groups_and_to_the_last() {
        let (mailbox, inbox) = mailbox();
        let reader = thread::spawn(move || {
            let mut taken = Vec::new();
            while inbox.wait(None) != Mail::Closed {
                inbox.wait_for(7, Duration::from_micros(50));
                let group = inbox.take(5);
                assert!(group.len() <= 5);
                taken.extend(group);
            }
            taken
        });
        // More than there is room for: the sender waits.
        send(&mailbox, 0..5000);
        drop(mailbox);
        assert_eq!(reader.join().expect("the reader ends"), (0..5000).collect::<Vec<_>>());
    }

    #[test]
    fn a_group_that_is_whole_is_not_waited_for_and_one_that_is_not_only_a_pause() {
        let (mailbox, inbox) = mailbox();
        send(&mailbox, [1, 2]);
        inbox.wait_for(2, Duration::MAX);
        inbox.wait_for(3, Duration::from_millis(1));
        assert_eq!(inbox.len(), 2);
        assert_eq!(inbox.wait(None), Mail::Work);
        assert_eq!(inbox.take(9), [1, 2]);
        assert_eq!(inbox.wait(Some(Duration::from_millis(1))), Mail::Idle);
        mailbox.nudge();
        assert_eq!(inbox.wait(None), Mail::Idle);
    }

    #[test]
    fn a_nudge_and_the_senders_end_wake_the_thread() {
        let (mailbox, inbox) = mailbox::<u32>();
        let found = thread::spawn(move || [inbox.wait(None), inbox.wait(None)]);
        mailbox.nudge();
        drop(mailbox);
        assert_eq!(found.join().expect("it ends"), [Mail::Idle, Mail::Closed]);
    }

    #[test]
    fn with_the_thread_gone_nothing_is_taken_and_what_waited_is_dropped() {
        let (mailbox, inbox) = mailbox();
        let letter = Arc::new(());
        let runtime = Builder::new_current_thread().build().expect("a runtime starts");
        assert!(runtime.block_on(mailbox.send(letter.clone())));
        drop(inbox);
        assert_eq!(Arc::strong_count(&letter), 1);
        assert!(!runtime.block_on(mailbox.send(letter)));
    }
}
