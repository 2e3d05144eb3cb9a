//! When to retry a failed request, and when to stop.
//!
//! ```text
//! passes by itself (unreachable, 429, 503)    try again, less and less often, until told otherwise
//! makes no sense (garbled, 500)               try again a few times: a proxy, a restart
//! refused (4xx)                               stop
//! ```
//! It must never know what is being retried.

use super::error::ClientError;
use std::time::Duration;
use tokio::time::Instant;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// After this many invalid answers in a row, no valid one is expected.
const STRANGE_MAX: u32 = 5;

/// The failures since the last success.
#[derive(Debug)]
pub(super) struct Retry {
    give_up_after: Option<Duration>,
    failures: u32,
    strange: u32,
    /// Since when the server has been silent.
    since: Option<Instant>,
}

impl Retry {
    /// Gives up when the server has been silent for this long; without it, never.
    pub(super) fn new(give_up_after: Option<Duration>) -> Self {
        Self { give_up_after, failures: 0, strange: 0, since: None }
    }

    /// The attempt succeeded.
    pub(super) fn succeeded(&mut self) {
        *self = Self::new(self.give_up_after);
    }

    /// The server answers, but the attempt has not succeeded yet.
    pub(super) fn answered(&mut self) {
        self.since = None;
    }

    /// Waits until it is time to retry.
    ///
    /// # Errors
    /// The failure itself, when retrying is pointless.
    pub(super) async fn pause(&mut self, error: ClientError) -> Result<(), ClientError> {
        let is_strange = match &error {
            ClientError::Garbled { .. } => true,
            ClientError::Failed(_) => !error.is_transient(),
            _ => false,
        };
        self.failures += 1;
        self.strange += u32::from(is_strange);
        let is_hopeless = if is_strange { self.strange >= STRANGE_MAX } else { !error.is_transient() };
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_late = self.give_up_after.is_some_and(|longest| since.elapsed() >= longest);
        if is_hopeless || is_late {
            return Err(error);
        }
        let asked = error.refusal().and_then(|refusal| refusal.retry_after);
        let pause = asked.unwrap_or_else(|| pause(self.failures));
        // Warn once: a wait of an hour should not log a line every five seconds.
        if self.failures == 1 {
            tracing::warn!(%error, "the server does not answer as it should; trying again");
        } else {
            tracing::debug!(%error, ?pause, "trying again");
        }
        let rest = self.give_up_after.map(|longest| longest.saturating_sub(since.elapsed()));
        tokio::time::sleep(rest.map_or(pause, |rest| pause.min(rest))).await;
        Ok(())
    }
}

fn pause(failures: u32) -> Duration {
    PAUSE_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::error::Refusal;
    use super::*;

    fn unreachable() -> ClientError {
        ClientError::Unreachable { server: "http://a".to_owned(), why: "refused".to_owned() }
    }

    fn failed(status: u16) -> ClientError {
        let refusal = Refusal {
            status,
            code: String::new(),
            detail: String::new(),
            request_id: None,
            retry_after: Some(Duration::from_secs(7)),
            run_status: None,
        };
        ClientError::Failed(Box::new(refusal))
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_by_itself_is_tried_for_ever_and_less_and_less_often() {
        let mut retry = Retry::new(None);
        let mut pauses = Vec::new();
        for _ in 0..1000 {
            let before = Instant::now();
            retry.pause(unreachable()).await.expect("it goes on");
            pauses.push(before.elapsed());
        }
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_millis(200), "{:?}", &pauses[..10]);
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX + Duration::from_millis(1)));
        let before = Instant::now();
        retry.pause(failed(503)).await.expect("it goes on");
        assert_eq!(before.elapsed().as_secs(), 7, "the server said when");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_gives_up_in_time() {
        let mut retry = Retry::new(Some(Duration::from_secs(3)));
        let before = Instant::now();
        while retry.pause(unreachable()).await.is_ok() {}
        assert!((3..4).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_makes_no_sense_is_tried_a_few_times_in_a_row() {
        let mut retry = Retry::new(None);
        for _ in 1..STRANGE_MAX {
            retry.pause(failed(500)).await.expect("it goes on");
        }
        assert!(retry.pause(failed(500)).await.is_err());
        retry.succeeded();
        assert!(retry.pause(failed(500)).await.is_ok());
    }
}
