//! The sender: claims due hooks and posts their runs' new events.
//!
//! Like recovery it is a standing condition: any due hook that nobody holds is claimed, whichever process accepted it
//! and however long ago. It reads the log as any reader does and can slow no run. While no hook is open it costs one
//! small read a second; on a server without a webhook secret there is no sender.

use super::{DeliverError, Webhooks};
use crate::wire::frame::Frame;
use outlive_core::port::{DbErrorKind, Delivery, DeliveryOutcome, Failing, Hook, HookEvents, HookMove, HookState};
use outlive_core::{RunEvent, Timestamp};
use outlive_engine::{Changes, Engine, Error, RunStanding};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Hooks that are sent at the same time.
const SENDING_MAX: usize = 64;
/// Events of one hook in memory.
const EVENTS_MAX: usize = 16;
/// How long a hook is held after each message. Longer than one message may take.
const LEASE_PERIOD: Duration = Duration::from_secs(30);
/// Longest time for one message.
const POST_PERIOD: Duration = Duration::from_secs(10);
/// Time between looks for hooks of other processes.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Commits that come close together are one reason to look.
const GATHER: Duration = Duration::from_millis(50);
/// Time for messages in flight when the server stops.
const DRAIN_PERIOD: Duration = Duration::from_secs(5);
/// First and longest back-off.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// After failing for this long, a hook is given up.
const PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);
/// The status with which a receiver says that it wants no more.
const GONE: u16 = 410;

/// Sends what is due.
#[derive(Clone)]
pub(crate) struct Sender {
    engine: Engine,
    webhooks: Arc<Webhooks>,
}

impl Sender {
    pub(crate) fn new(engine: Engine, webhooks: Arc<Webhooks>) -> Self {
        Self { engine, webhooks }
    }

    /// Sends until `stop` is ready or the engine stops, then lets messages in flight end.
    ///
    /// # Cancel safety
    /// Dropping the future drops messages in flight; they are sent again once their leases have ended.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let mut sending = JoinSet::new();
        let mut changes = None;
        let mut stop = pin!(stop);
        let mut stopped = pin!(self.engine.stopped());
        loop {
            let look = self.look(&mut sending).await;
            if look.has_open && changes.is_none() {
                // Looked again, because what changed before this was not heard.
                changes = Some(self.engine.reader().changes());
                continue;
            }
            changes = changes.filter(|_| look.has_open);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = &mut stopped => break,
                Some(_) = sending.join_next(), if !sending.is_empty() => {}
                () = self.webhooks.nudge.notified() => {}
                () = changed(&mut changes) => {}
                () = sleep(look.wait) => {}
            }
        }
        let drained = async { while sending.join_next().await.is_some() {} };
        // What is left is dropped with the set.
        let _ = timeout(DRAIN_PERIOD, drained).await;
    }

    /// Starts due hooks, up to the limit.
    async fn look(&self, sending: &mut JoinSet<()>) -> Look {
        let room = SENDING_MAX.saturating_sub(sending.len());
        let due = match self.engine.due_hooks(u32::try_from(room).unwrap_or(0)).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "webhooks that are due could not be read");
                return Look { has_open: false, wait: LOOK_PERIOD };
            }
        };
        for run_id in due.run_ids {
            match self.engine.claim_hook(&run_id, LEASE_PERIOD).await {
                Ok(Some(hook)) => {
                    sending.spawn(self.clone().send(hook));
                }
                // Another process was faster.
                Ok(None) => {}
                Err(error) => tracing::warn!(%run_id, %error, "a webhook could not be claimed"),
            }
        }
        let until = due.next_due.map(|due| due.since(self.engine.now()));
        Look { has_open: due.has_open, wait: until.unwrap_or(LOOK_PERIOD).min(LOOK_PERIOD) }
    }

    async fn send(self, hook: Hook) {
        let run_id = hook.run_id.clone();
        match self.send_all(hook).await {
            Ok(()) => {}
            Err(Error::Db(error)) if matches!(error.kind(), DbErrorKind::Fenced | DbErrorKind::NotFound) => {}
            // The lease ends by itself, and then somebody tries again.
            Err(error) => tracing::warn!(%run_id, %error, "a webhook could not be sent"),
        }
    }

    /// Posts event after event until there are no more or one fails.
    async fn send_all(&self, mut hook: Hook) -> Result<(), Error> {
        loop {
            // Asked before the log is read: the log of a run that was over then is whole.
            let Some(run) = self.engine.reader().standing(&hook.run_id).await? else { return Ok(()) };
            let is_over = run.status.is_terminal();
            let due = due(&hook, &run);
            let count = usize::try_from(due.end - due.start).map_or(EVENTS_MAX, |count| count.min(EVENTS_MAX));
            let events = self.engine.reader().stored_events(&hook.run_id, due.start, count).await?;
            if events.is_empty() {
                let state = if is_over { HookState::Done } else { HookState::Open };
                let step = HookMove { state, not_before: None, ..unmoved(&hook) };
                return self.engine.move_hook(step).await;
            }
            for event in events {
                let step = self.send_one(&hook, event).await;
                (hook.next_index, hook.failing) = (step.next_index, step.failing);
                let goes_on = step.failing.is_none() && step.state == HookState::Open;
                self.engine.move_hook(step).await?;
                if !goes_on {
                    return Ok(());
                }
            }
        }
    }

    /// Posts one event, and says what becomes of the hook.
    async fn send_one(&self, hook: &Hook, event: RunEvent) -> HookMove {
        let event_index = event.event_index.unwrap_or(hook.next_index);
        let body = Frame::event(event).bare();
        let (at, began) = (self.engine.now(), Instant::now());
        let headers = self.headers(hook, event_index, at, &body);
        let posted = timeout(POST_PERIOD, self.webhooks.deliver.post(&hook.url, headers, body)).await;
        let outcome = match posted.unwrap_or(Err(DeliverError::Timeout)) {
            Ok(status) => DeliveryOutcome::Answered(status),
            Err(error) => DeliveryOutcome::Failed(Arc::from(error.as_str())),
        };
        let attempt = hook.failing.map_or(1, |failing| failing.attempts.saturating_add(1));
        let delivery = Delivery { event_index, attempt, at, took: began.elapsed(), outcome };
        after(hook, delivery, self.engine.now(), rand::random())
    }

    fn headers(&self, hook: &Hook, event_index: u64, at: Timestamp, body: &str) -> Vec<(&'static str, String)> {
        let id = format!("{}_{event_index}", hook.run_id);
        let signature = self.webhooks.key.sign(&id, at.as_seconds(), body);
        vec![
            ("content-type", "application/json".to_owned()),
            ("webhook-id", id),
            ("webhook-timestamp", at.as_seconds().to_string()),
            ("webhook-signature", signature),
        ]
    }
}

/// What to post of a run that stands like this: everything from where the hook is, or only the event with which it came to
/// rest. What the run does after that is left for the next look.
fn due(hook: &Hook, run: &RunStanding) -> Range<u64> {
    match hook.events {
        HookEvents::All => hook.next_index..u64::MAX,
        HookEvents::End => {
            let end = if run.is_at_rest { run.next_index } else { 0 };
            hook.next_index.max(end.saturating_sub(1)).min(end)..end
        }
    }
}

/// What a look found.
struct Look {
    has_open: bool,
    wait: Duration,
}

async fn changed(changes: &mut Option<Changes>) {
    let change = match changes {
        Some(changes) => changes.next().await,
        None => None,
    };
    match change {
        Some(_) => sleep(GATHER).await,
        None => std::future::pending().await,
    }
}

fn unmoved(hook: &Hook) -> HookMove {
    HookMove {
        run_id: hook.run_id.clone(),
        epoch: hook.epoch,
        next_index: hook.next_index,
        failing: hook.failing,
        state: hook.state,
        not_before: hook.not_before,
        delivery: None,
    }
}

/// What becomes of a hook after a delivery that ended at `now`.
fn after(hook: &Hook, delivery: Delivery, now: Timestamp, chance: u32) -> HookMove {
    let (event_index, attempts) = (delivery.event_index, delivery.attempt);
    let outcome = delivery.outcome.clone();
    let step = HookMove { next_index: event_index, delivery: Some(delivery), ..unmoved(hook) };
    if matches!(outcome, DeliveryOutcome::Answered(200..=299)) {
        let not_before = Some(now + LEASE_PERIOD);
        return HookMove { next_index: event_index + 1, failing: None, not_before, ..step };
    }
    let since = hook.failing.map_or(now, |failing| failing.since);
    let failing = Some(Failing { attempts, since });
    if outcome == DeliveryOutcome::Answered(GONE) || now.since(since) >= PATIENCE {
        return HookMove { state: HookState::GivenUp, failing, not_before: None, ..step };
    }
    HookMove { failing, not_before: Some(now + backoff(attempts, chance)), ..step }
}

/// How long to wait after so many attempts: doubled each time, less up to a quarter so that receivers that were down are
/// not asked by everyone at once.
fn backoff(attempts: u32, chance: u32) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    let whole = doubled.min(BACKOFF_MAX);
    whole - whole / 4 * (chance % 1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use outlive_core::{DefinitionId, RunId, RunStatus, SessionId};

    fn hook(failing: Option<Failing>) -> Hook {
        Hook {
            run_id: RunId::parse("r1").expect("an id"),
            url: Arc::from("https://example.org/"),
            events: HookEvents::All,
            state: HookState::Open,
            next_index: 3,
            failing,
            not_before: None,
            epoch: 2,
        }
    }

    fn step(failing: Option<Failing>, outcome: DeliveryOutcome, now: Timestamp) -> HookMove {
        let attempt = failing.map_or(1, |failing| failing.attempts + 1);
        let delivery = Delivery { event_index: 3, attempt, at: now, took: Duration::ZERO, outcome };
        after(&hook(failing), delivery, now, 0)
    }

    #[test]
    fn of_a_webhook_for_the_end_only_the_event_of_a_rest_is_due() {
        let at = |next_index, is_at_rest| RunStanding {
            run_id: RunId::parse("r1").expect("an id"),
            workflow_id: DefinitionId::parse("w").expect("an id"),
            session_id: SessionId::parse("s").expect("an id"),
            user_id: None,
            status: RunStatus::Paused,
            next_index,
            progress: None,
            attempt: 1,
            worker: None,
            is_at_rest,
            created_at: SINCE,
            updated_at: SINCE,
        };
        let ends = |next_index| Hook { events: HookEvents::End, next_index, ..hook(None) };
        assert_eq!(due(&ends(0), &at(8, true)), 7..8);
        assert_eq!(due(&ends(7), &at(8, true)), 7..8);
        for told in [due(&ends(8), &at(8, true)), due(&ends(0), &at(8, false)), due(&ends(3), &at(0, true))] {
            assert!(told.is_empty(), "{told:?}");
        }
        assert_eq!(due(&hook(None), &at(8, false)), 3..u64::MAX);
    }

    const SINCE: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    #[test]
    fn waits_double_to_five_minutes_and_are_never_longer() {
        let waits: Vec<u64> = (1..=12).map(|attempts| backoff(attempts, 0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(backoff(u32::MAX, 0), BACKOFF_MAX);
        for attempts in 1..20 {
            let (longest, shortest) = (backoff(attempts, 0), backoff(attempts, 1023));
            assert!(shortest >= longest * 3 / 4 && shortest < longest, "{attempts}: {shortest:?} {longest:?}");
        }
    }

    #[test]
    fn only_a_yes_moves_the_cursor() {
        for status in [200, 204, 299] {
            let moved = step(None, DeliveryOutcome::Answered(status), SINCE);
            assert_eq!((moved.next_index, moved.failing, moved.state), (4, None, HookState::Open));
        }
        for status in [100, 301, 302, 404, 429, 500, 503] {
            let kept = step(None, DeliveryOutcome::Answered(status), SINCE);
            assert_eq!((kept.next_index, kept.state), (3, HookState::Open), "{status}");
            assert_eq!(kept.failing, Some(Failing { attempts: 1, since: SINCE }));
            assert_eq!(kept.not_before, Some(SINCE + BACKOFF_MIN));
        }
    }

    #[test]
    fn a_receiver_that_is_gone_or_silent_for_a_day_is_given_up() {
        let gone = step(None, DeliveryOutcome::Answered(GONE), SINCE);
        assert_eq!((gone.state, gone.next_index), (HookState::GivenUp, 3));
        let failing = Some(Failing { attempts: 300, since: SINCE });
        let refused = DeliveryOutcome::Failed(Arc::from("unreachable"));
        let day = SINCE + PATIENCE;
        assert_eq!(step(failing, refused.clone(), day).state, HookState::GivenUp);
        let just_before = Timestamp::from_micros(day.as_micros() - 1);
        let still = step(failing, refused, just_before);
        assert_eq!((still.state, still.failing), (HookState::Open, Some(Failing { attempts: 301, since: SINCE })));
    }
}
